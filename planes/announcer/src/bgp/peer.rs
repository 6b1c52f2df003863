//! The task of one peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use headwater_bgp::{ConnectionId, Effect, Ends, Event, Route, Session, Stop, Transport};
use headwater_net_io::peering::{self, Peering};
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::connection::{Connection, Io};
use super::ends;
use super::speaker::{Peer, PeerStatus, Routes};
use super::watcher::{Watcher, Watchers};

/// What connections tell; a full queue makes them wait.
const QUEUE: usize = 64;
/// The engine gives up before: this is for what it does not know of.
const CONNECT_PATIENCE: Duration = Duration::from_secs(15);

/// What the peer shall be.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) peer: Peer,
    pub(super) routes: Arc<Routes>,
    pub(super) stop: Option<Stop>,
}

/// What comes to the task besides orders.
enum Arrival {
    Io(Io),
    Connected(ConnectionId, TcpStream, Ends),
    Unreached(ConnectionId, String),
}

pub(super) struct Task {
    name: Arc<str>,
    /// Time zero of the session.
    origin: Instant,
    session: Session,
    order: Order,
    connections: AHashMap<ConnectionId, Connection>,
    /// Attempts to connect; those that are left end with the task.
    attempts: JoinSet<Arrival>,
    closing: JoinSet<()>,
    io: mpsc::Sender<Io>,
    watchers: Watchers,
    watcher: Option<Watcher>,
    status: watch::Sender<PeerStatus>,
    accepted: u64,
}

impl Task {
    pub(super) fn start(
        name: Arc<str>,
        orders: watch::Receiver<Order>,
        accepted: mpsc::Receiver<TcpStream>,
        watchers: Watchers,
        status: watch::Sender<PeerStatus>,
        seed: u64,
    ) -> impl Future<Output = ()> {
        let order = orders.borrow().clone();
        let origin = Instant::now();
        let session = Session::new(Duration::ZERO, order.peer.session.clone(), seed);
        let (io, arrivals) = mpsc::channel(QUEUE);
        let task = Self {
            name,
            origin,
            session,
            // Nothing was told yet.
            order: Order { routes: Arc::default(), ..order },
            connections: AHashMap::new(),
            attempts: JoinSet::new(),
            closing: JoinSet::new(),
            io,
            watchers,
            watcher: None,
            status,
            accepted: 0,
        };
        task.run(orders, accepted, arrivals)
    }

    async fn run(
        mut self,
        mut orders: watch::Receiver<Order>,
        mut accepted: mpsc::Receiver<TcpStream>,
        mut arrivals: mpsc::Receiver<Io>,
    ) {
        self.watch_peer();
        let first = orders.borrow_and_update().clone();
        self.obey(first);
        while self.order.stop.is_none() {
            let deadline = self.session.deadline().map(|deadline| self.origin + deadline);
            let timer = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What is wanted comes first, and the clock last: a peer that talks without end is still told.
                biased;
                changed = orders.changed() => match changed {
                    Ok(()) => {
                        let order = orders.borrow_and_update().clone();
                        self.obey(order);
                    }
                    // The speaker was dropped: as if the process had ended.
                    Err(_) => return,
                },
                why = async { match &mut self.watcher { Some(watcher) => watcher.down().await, None => std::future::pending().await } } => {
                    tracing::warn!(peer = &*self.name, why = %why, "BFD says that the peer is down");
                    self.step(Event::BfdDown);
                }
                Some(done) = self.attempts.join_next() => {
                    // One that panicked is given up by the session after its time.
                    if let Ok(arrival) = done {
                        self.arrived(arrival);
                    }
                }
                Some(stream) = accepted.recv() => self.accept(stream),
                Some(io) = arrivals.recv() => self.arrived(Arrival::Io(io)),
                () = timer => self.step(Event::Timer),
                Some(_) = self.closing.join_next() => {}
            }
            self.tell();
        }
        self.tell();
        if let Some(watcher) = self.watcher.take() {
            watcher.stop().await;
        }
        // Last words; each connection has 2 s.
        while self.closing.join_next().await.is_some() {}
    }

    fn step(&mut self, event: Event<'_>) {
        let effects = self.session.step(self.origin.elapsed(), event);
        for effect in effects {
            self.take(effect);
        }
    }

    fn take(&mut self, effect: Effect) {
        match effect {
            Effect::Connect { connection, transport } => {
                self.attempts.spawn(connect(connection, transport));
            }
            Effect::Send { connection, bytes } => {
                let sent = self.connections.get(&connection).is_none_or(|known| known.send(bytes));
                if !sent && let Some(known) = self.connections.remove(&connection) {
                    known.close(&mut self.closing);
                    self.step(Event::Closed { connection, cause: "it takes no more bytes".to_owned() });
                }
            }
            Effect::Close { connection } => {
                if let Some(known) = self.connections.remove(&connection) {
                    known.close(&mut self.closing);
                }
            }
            Effect::Up(negotiated) => {
                tracing::info!(
                    peer = &*self.name,
                    asn = negotiated.peer_asn.0,
                    id = %negotiated.peer_id,
                    hold = negotiated.hold,
                    "BGP session is up"
                );
                let missing =
                    self.order.peer.session.families.iter().filter(|family| !negotiated.families.has(*family));
                for family in missing {
                    tracing::warn!(
                        peer = &*self.name,
                        family = ?family,
                        "routes of this family are not told: the peer does not take them, or no address of the interface \
                         can be their next hop"
                    );
                }
            }
            Effect::Down(why) => tracing::warn!(peer = &*self.name, %why, "BGP session is down"),
            Effect::Failed(why) => tracing::info!(peer = &*self.name, %why, "no BGP session"),
            _ => {}
        }
    }

    fn arrived(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Connected(connection, stream, ends) => {
                self.connections.insert(connection, Connection::start(connection, stream, self.io.clone()));
                self.step(Event::Connected { connection, ends });
            }
            Arrival::Unreached(connection, cause) => self.step(Event::Unreached { connection, cause }),
            Arrival::Io(Io::Received(connection, bytes)) => self.step(Event::Received { connection, bytes: &bytes }),
            Arrival::Io(Io::Sent(connection, bytes)) => self.step(Event::Sent { connection, bytes }),
            Arrival::Io(Io::Closed(connection, cause)) => {
                if self.connections.remove(&connection).is_some() {
                    self.step(Event::Closed { connection, cause });
                }
            }
        }
    }

    fn accept(&mut self, stream: TcpStream) {
        self.accepted += 1;
        let connection = ConnectionId { incoming: true, serial: self.accepted };
        let ttl = self.order.peer.session.transport.ttl;
        let Ok(local) = stream.local_addr() else { return };
        let Ok(remote) = stream.peer_addr() else { return };
        if let Err(error) = peering::adopt(&stream, ttl) {
            tracing::warn!(peer = &*self.name, %error, "a connection of the peer cannot be used");
            return;
        }
        let ends = ends::of(local, remote).unwrap_or(Ends { local, remote, ipv4: None, ipv6: None, link_local: None });
        self.connections.insert(connection, Connection::start(connection, stream, self.io.clone()));
        self.step(Event::Accepted { connection, ends });
    }

    fn obey(&mut self, order: Order) {
        let changes = difference(&self.order.routes, &order.routes);
        let before = std::mem::replace(&mut self.order, order);
        self.follow_watch(&before.peer);
        if let Some(stop) = self.order.stop {
            self.step(Event::Stop(stop));
            return;
        }
        if before.peer.session != self.order.peer.session {
            self.step(Event::Configure(Box::new(self.order.peer.session.clone())));
        }
        if !changes.is_empty() {
            self.step(Event::Routes(changes));
        }
    }

    /// Other times keep a BFD session; another address, or hops in place of one, do not.
    fn follow_watch(&mut self, before: &Peer) {
        let now = &self.order.peer;
        if before.watch == now.watch && before.session.transport == now.session.transport {
            return;
        }
        let goes_on = match (&self.watcher, &before.watch, &now.watch) {
            (Some(watcher), Some(old), Some(new)) => {
                before.session.transport == now.session.transport
                    && old.multihop == new.multihop
                    && watcher.configure(new.profile.clone())
            }
            _ => false,
        };
        if !goes_on {
            self.watch_peer();
        }
    }

    fn watch_peer(&mut self) {
        let transport = &self.order.peer.session.transport;
        self.watcher =
            self.order.peer.watch.clone().map(|watch| self.watchers.start(self.name.clone(), transport, watch));
    }

    fn tell(&mut self) {
        let status = PeerStatus {
            session: self.session.status(),
            since: self.session.status().since.map(|since| self.origin + since),
            bfd: self.watcher.as_ref().map(Watcher::status),
        };
        self.status.send_if_modified(|known| {
            let differs = *known != status;
            *known = status;
            differs
        });
    }
}

async fn connect(connection: ConnectionId, transport: Transport) -> Arrival {
    let remote = remote(&transport);
    let peering = Peering {
        remote,
        source: transport.source,
        key: transport.password.map(|password| password.0),
        ttl: transport.ttl,
    };
    let result = async {
        let stream = peering::connect(&peering, CONNECT_PATIENCE).await?;
        let ends = ends::of_stream(&stream).await?;
        Ok::<_, std::io::Error>((stream, ends))
    };
    match result.await {
        Ok((stream, ends)) => Arrival::Connected(connection, stream, ends),
        Err(error) => Arrival::Unreached(connection, error.to_string()),
    }
}

/// With the interface of a link-local address.
fn remote(transport: &Transport) -> SocketAddr {
    let mut remote = SocketAddr::new(transport.address, transport.port);
    if let SocketAddr::V6(address) = &mut remote {
        address.set_scope_id(transport.scope);
    }
    remote
}

/// What must be told to get from one to the other.
fn difference(old: &Arc<Routes>, new: &Arc<Routes>) -> Vec<(IpNet, Option<Arc<Route>>)> {
    if Arc::ptr_eq(old, new) {
        return Vec::new();
    }
    let gone = old.keys().filter(|prefix| !new.contains_key(*prefix)).map(|prefix| (*prefix, None));
    let here = new.iter().filter(|(prefix, route)| old.get(*prefix) != Some(*route));
    gone.chain(here.map(|(prefix, route)| (*prefix, Some(route.clone())))).collect()
}
