//! `healthCheckNodePort`: a listener for each such Service at each address of NodePorts.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use headwater_model::finding::Finding;
use headwater_model::nat::ServiceSnapshot;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use headwater_process::http::Response;
use headwater_process::publish::Subscriber;
use headwater_service_nat::health_answer;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{FIRST_RETRY, LAST_RETRY, answer_at, is_healthy, open};
use crate::agent::with_causes;
use crate::state::State;

/// Connections at once, of all Services.
const MAX_CONNECTIONS: usize = 1024;

/// Answers at the `healthCheckNodePort` of every Service, until the publisher of snapshots is gone or this is dropped.
/// `problems` has what cannot be listened on, which is tried again.
pub(crate) async fn serve_checks(
    mut snapshots: Subscriber<ServiceSnapshot>,
    state: watch::Receiver<Arc<State>>,
    problems: watch::Sender<Vec<Finding>>,
) {
    let mut checks = Checks {
        asked: Arc::new(Asked { snapshots: snapshots.clone(), state }),
        room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        seen: Arc::default(),
        ports: BTreeMap::new(),
        listening: BTreeMap::new(),
        waiting: BTreeMap::new(),
    };
    loop {
        checks.follow(snapshots.load()).await;
        checks.listen();
        let found = checks.problems();
        problems.send_if_modified(|known| std::mem::replace(known, found.clone()) != found);
        let due = checks.due();
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            () = sleep_until(due) => {}
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What answers are made of, when they are asked for.
struct Asked {
    snapshots: Subscriber<ServiceSnapshot>,
    state: watch::Receiver<Arc<State>>,
}

impl Asked {
    fn answer(&self, service: &NamespacedName, at: IpAddr) -> Response {
        let health = self.snapshots.load().get(service).and_then(|rules| rules.health);
        let local = health.map_or(0, |health| if at.is_ipv4() { health.local_v4 } else { health.local_v6 });
        let answer = health_answer(service, local, is_healthy(&self.state, SystemTime::now()));
        Response { headers: answer.headers.into(), ..Response::json(answer.status, answer.body.into_bytes()) }
    }
}

/// Owner of the listeners.
struct Checks {
    asked: Arc<Asked>,
    room: Arc<Semaphore>,
    seen: Arc<ServiceSnapshot>,
    /// Those of `seen`.
    ports: BTreeMap<NamespacedName, u16>,
    listening: BTreeMap<SocketAddr, Listening>,
    waiting: BTreeMap<SocketAddr, Waiting>,
}

struct Listening {
    service: NamespacedName,
    server: Server,
}

/// A listener that is to be opened.
struct Waiting {
    service: NamespacedName,
    at: Instant,
    /// After the next failure.
    pause: Duration,
    problem: Option<String>,
}

impl Checks {
    /// Closes what the snapshot no longer has, and notes what it has more. Costs as much as there are changes.
    async fn follow(&mut self, now: Arc<ServiceSnapshot>) {
        let before = std::mem::replace(&mut self.seen, now.clone());
        let (old, new) = (&before.node.node_port_addresses, &now.node.node_port_addresses);
        let mut changed: BTreeSet<NamespacedName> = now.changes(&before).cloned().collect();
        if old != new {
            changed.extend(self.ports.keys().cloned());
        }
        let (mut closed, mut opened) = (Vec::new(), Vec::new());
        for service in changed {
            let port = now.get(&service).and_then(|rules| rules.health).map(|health| health.port);
            let was = match port {
                Some(port) => self.ports.insert(service.clone(), port),
                None => self.ports.remove(&service),
            };
            if was == port && old == new {
                continue;
            }
            let places = |port: Option<u16>, of: &[IpAddr]| -> BTreeSet<SocketAddr> {
                port.into_iter().flat_map(|port| of.iter().map(move |ip| SocketAddr::new(*ip, port))).collect()
            };
            let (was, port) = (places(was, old), places(port, new));
            closed.extend(was.difference(&port).map(|place| (*place, service.clone())));
            opened.extend(port.difference(&was).map(|place| (*place, service.clone())));
        }
        // First, for a port may go from one Service to another.
        for (place, service) in &closed {
            if self.waiting.get(place).is_some_and(|waiting| waiting.service == *service) {
                self.waiting.remove(place);
            }
            if self.listening.get(place).is_some_and(|listening| listening.service == *service)
                && let Some(listening) = self.listening.remove(place)
            {
                listening.server.close().await;
            }
        }
        let at = Instant::now();
        let waiting = |service| Waiting { service, at, pause: FIRST_RETRY, problem: None };
        self.waiting.extend(opened.into_iter().map(|(place, service)| (place, waiting(service))));
    }

    /// Opens what is due.
    fn listen(&mut self) {
        let now = Instant::now();
        let Self { asked, room, listening, waiting, .. } = self;
        waiting.retain(|place, waiting| {
            if waiting.at > now {
                return true;
            }
            let listener = match open(*place) {
                Ok(listener) => listener,
                Err(error) => {
                    waiting.problem = Some(with_causes(&error));
                    waiting.at = now + waiting.pause;
                    waiting.pause = (waiting.pause * 2).min(LAST_RETRY);
                    return true;
                }
            };
            let (asked, service, at) = (asked.clone(), waiting.service.clone(), place.ip());
            let answer = move |_: &_| asked.answer(&service, at);
            let server = Server(tokio::spawn(answer_at(listener, room.clone(), answer)));
            listening.insert(*place, Listening { service: waiting.service.clone(), server });
            false
        });
    }

    fn due(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.at).min()
    }

    /// What was tried in vain.
    fn problems(&self) -> Vec<Finding> {
        let problem = |waiting: &Waiting| {
            let message = format!("health checks are not answered: {}", waiting.problem.as_ref()?);
            let key = ObjectKey { kind: Kind::Service, id: waiting.service.clone() };
            Some(Finding::warning("FailedToStartServiceHealthcheck", key, message).at("spec.healthCheckNodePort"))
        };
        self.waiting.values().filter_map(problem).collect()
    }
}

/// A task that ends when this is dropped.
struct Server(JoinHandle<Infallible>);

impl Server {
    /// Returns when its socket is closed.
    async fn close(mut self) {
        self.0.abort();
        // An error: it was ended, as it should be.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}
