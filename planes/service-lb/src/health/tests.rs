//! In network namespaces, as root.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use headwater_model::finding::Finding;
use headwater_model::nat::{HealthCheck, NodeRules, ServiceRules, ServiceSnapshot};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey, Origin};
use headwater_process::publish::{Publisher, publish};
use headwater_testkit::lab;
use headwater_testkit::wait::{DEADLINE, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const V4: &str = "192.0.2.1";
const V6: &str = "2001:db8::1";

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn applied(at: SystemTime) -> State {
    State { applied_at: Some(at), ..State::new("node".into()) }
}

/// A plane without a kernel.
struct World {
    publisher: Publisher<ServiceSnapshot>,
    state: watch::Sender<Arc<State>>,
    problems: watch::Receiver<Vec<Finding>>,
    checks: tokio::task::JoinHandle<()>,
}

impl World {
    /// Answers at these addresses of NodePorts.
    fn start(addresses: &[&str]) -> Self {
        let mut snapshot = ServiceSnapshot::default();
        snapshot.node = node(addresses);
        let (publisher, snapshots) = publish(snapshot);
        let (state, seen) = watch::channel(Arc::new(applied(SystemTime::now())));
        let (tell, problems) = watch::channel(Vec::new());
        let checks = tokio::spawn(serve_checks(snapshots, seen, tell));
        Self { publisher, state, problems, checks }
    }

    fn change(&self, change: impl FnOnce(&mut ServiceSnapshot)) {
        let mut snapshot = (*self.publisher.load()).clone();
        snapshot.generation += 1;
        change(&mut snapshot);
        self.publisher.publish(snapshot);
    }

    /// `health`: port, ready endpoints of IPv4 and of IPv6.
    fn set(&self, name: &str, health: Option<(u16, u32, u32)>) {
        self.change(|snapshot| set(snapshot, name, health));
    }
}

fn node(addresses: &[&str]) -> Arc<NodeRules> {
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Arc::new(NodeRules { node_port_addresses: addresses, ..NodeRules::default() })
}

fn set(snapshot: &mut ServiceSnapshot, name: &str, health: Option<(u16, u32, u32)>) {
    let rules = ServiceRules {
        origin: Origin { key: ObjectKey::new(Kind::Service, "shop", name), generation: 1 },
        cluster_ips: [].into(),
        ports: [].into(),
        health: health.map(|(port, local_v4, local_v6)| HealthCheck { port, local_v4, local_v6 }),
    };
    snapshot.set(&NamespacedName::new("shop", name), Some(Arc::new(rules)));
}

/// What is answered; `None` while nobody listens.
async fn ask(address: SocketAddr, path: &str) -> Result<Option<String>> {
    let Ok(mut stream) = TcpStream::connect(address).await else { return Ok(None) };
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    Ok(stream.read_to_string(&mut answer).await.is_ok().then_some(answer))
}

/// Waits until who asks at the address is told all these words; `None`: until nobody listens.
async fn told(address: SocketAddr, words: Option<&[&str]>) -> Result<()> {
    let last = std::cell::RefCell::new(None);
    let found = eventually(DEADLINE, || async {
        let answer = ask(address, "/").await?;
        let right = match (&answer, words) {
            (Some(answer), Some(words)) => words.iter().all(|word| answer.contains(word)),
            (answer, words) => answer.is_none() && words.is_none(),
        };
        last.replace(answer);
        Ok(right.then_some(()))
    });
    found.await.with_context(|| format!("{address}: wanted {words:?}, last {:?}", last.borrow()))
}

/// In a host with both addresses, and a runtime of its own.
fn inside<F: Future<Output = Result<()>>>(body: impl FnOnce() -> F + Send) -> Result<()> {
    lab::test(|lab| {
        let host = lab.host("node")?;
        host.address("lo", &format!("{V4}/32"))?;
        host.address("lo", &format!("{V6}/128"))?;
        host.run(|| tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(body()))
    })
}

const READY: &[&str] = &["200 OK", "\"localEndpoints\": 1,", "\"serviceProxyHealthy\": true"];

#[test]
fn each_family_is_told_of_its_own_endpoints_as_they_are_now() -> Result<()> {
    inside(|| async {
        let world = World::start(&[V4, V6]);
        world.set("web", Some((30001, 2, 0)));
        let two = [
            "HTTP/1.1 200 OK\r\n",
            "content-type: application/json\r\n",
            "x-content-type-options: nosniff\r\n",
            "x-load-balancing-endpoint-weight: 2\r\n",
            "\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n",
            "\"localEndpoints\": 2,",
        ];
        told(at(V4, 30001), Some(&two)).await?;
        told(at(V6, 30001), Some(&["503 ", "x-load-balancing-endpoint-weight: 0\r\n", "\"localEndpoints\": 0,"]))
            .await?;

        // The same connection: the listener stays when only the numbers change, and they count when they are asked for.
        let mut kept = TcpStream::connect(at(V4, 30001)).await?;
        world.set("web", Some((30001, 0, 5)));
        kept.write_all(b"GET /any/path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        kept.read_to_string(&mut answer).await?;
        assert!(answer.contains("503 ") && answer.contains("\"localEndpoints\": 0,"), "{answer}");
        told(at(V6, 30001), Some(&["200 OK", "\"localEndpoints\": 5,"])).await?;

        world.state.send_modify(|state| {
            let state = Arc::make_mut(state);
            state.waiting_since = Some(SystemTime::now() - LATE);
        });
        told(at(V6, 30001), Some(&["503 ", "\"localEndpoints\": 5,", "\"serviceProxyHealthy\": false"])).await
    })
}

#[test]
fn listeners_follow_the_services_and_the_addresses_of_the_node() -> Result<()> {
    inside(|| async {
        let world = World::start(&[V4]);
        world.change(|snapshot| {
            set(snapshot, "web", Some((30001, 1, 1)));
            set(snapshot, "api", Some((30002, 1, 1)));
            set(snapshot, "plain", None);
        });
        told(at(V4, 30001), Some(&["\"name\": \"web\""])).await?;
        told(at(V4, 30002), Some(&["\"name\": \"api\""])).await?;
        assert!(ask(at(V6, 30001), "/").await?.is_none(), "not an address of NodePorts");

        // A port goes from one Service to another at once.
        world.change(|snapshot| {
            set(snapshot, "web", Some((30002, 1, 1)));
            set(snapshot, "api", Some((30003, 1, 1)));
        });
        told(at(V4, 30002), Some(&["\"name\": \"web\""])).await?;
        told(at(V4, 30003), Some(&["\"name\": \"api\""])).await?;
        told(at(V4, 30001), None).await?;

        world.change(|snapshot| snapshot.node = node(&[V6]));
        told(at(V6, 30002), Some(READY)).await?;
        told(at(V6, 30003), Some(READY)).await?;
        told(at(V4, 30002), None).await?;

        // Both at once.
        world.change(|snapshot| {
            snapshot.node = node(&[V4, V6]);
            set(snapshot, "web", Some((30004, 1, 1)));
        });
        told(at(V4, 30004), Some(READY)).await?;
        told(at(V6, 30004), Some(READY)).await?;
        told(at(V4, 30003), Some(READY)).await?;
        told(at(V6, 30002), None).await?;
        assert!(ask(at(V4, 30002), "/").await?.is_none());

        world.change(|snapshot| snapshot.set(&NamespacedName::new("shop", "web"), None));
        told(at(V4, 30004), None).await?;
        world.set("api", None);
        told(at(V6, 30003), None).await?;
        assert!(world.problems.borrow().is_empty());

        world.set("web", Some((30001, 1, 1)));
        told(at(V4, 30001), Some(READY)).await?;
        world.checks.abort();
        told(at(V4, 30001), None).await
    })
}

#[test]
fn a_port_that_is_taken_is_told_of_and_tried_again_while_others_are_served() -> Result<()> {
    inside(|| async {
        let taken = std::net::TcpListener::bind(at(V4, 30001))?;
        let mut world = World::start(&[V4, V6]);
        world.change(|snapshot| {
            set(snapshot, "web", Some((30001, 1, 1)));
            set(snapshot, "api", Some((30002, 1, 1)));
        });
        told(at(V6, 30001), Some(READY)).await?;
        told(at(V4, 30002), Some(READY)).await?;
        {
            let problems = world.problems.wait_for(|problems| !problems.is_empty()).await?;
            assert_eq!(problems.len(), 1);
            assert_eq!(problems[0].reason, "FailedToStartServiceHealthcheck");
            let text = problems[0].to_string();
            let start = "Service shop/web: spec.healthCheckNodePort: health checks are not answered: \
                         address 192.0.2.1:30001 is in use by another process";
            assert!(text.starts_with(start), "{text}");
        }
        drop(taken);
        told(at(V4, 30001), Some(READY)).await?;
        tokio::time::timeout(DEADLINE, world.problems.wait_for(Vec::is_empty)).await??;

        // A Service that goes takes its problem along.
        let _taken = std::net::TcpListener::bind(at(V4, 30003))?;
        world.set("web", Some((30003, 1, 1)));
        tokio::time::timeout(DEADLINE, world.problems.wait_for(|problems| problems.len() == 1)).await??;
        world.set("web", None);
        tokio::time::timeout(DEADLINE, world.problems.wait_for(Vec::is_empty)).await??;
        Ok(())
    })
}

#[test]
fn connections_for_which_there_is_no_room_are_closed() -> Result<()> {
    inside(|| async {
        let answer = |_: &Request| Response::text(200, "here");
        let _server = tokio::spawn(answer_at(open(at(V4, 30001))?, Arc::new(Semaphore::new(1)), answer));
        let mut first = TcpStream::connect(at(V4, 30001)).await?;
        first.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        assert_ne!(first.read(&mut [0; 512]).await?, 0);
        let mut second = TcpStream::connect(at(V4, 30001)).await?;
        assert_eq!(second.read(&mut [0; 1]).await?, 0);
        drop(first);
        told(at(V4, 30001), Some(&["200 OK", "here"])).await
    })
}

#[test]
fn healthz_is_served_once_its_address_is_free() -> Result<()> {
    inside(|| async {
        let address = at(V4, 10256);
        let taken = std::net::TcpListener::bind(address)?;
        let (_state, seen) = watch::channel(Arc::new(applied(SystemTime::now())));
        let (tell, eligible) = watch::channel(true);
        let _server = tokio::spawn(serve_healthz(address, seen, eligible));
        tokio::task::yield_now().await;
        drop(taken);
        let found = eventually(DEADLINE, || ask(address, "/healthz")).await?;
        assert!(found.starts_with("HTTP/1.1 200 OK\r\n") && found.contains("\"nodeEligible\":true,"), "{found}");
        let live = ask(address, "/livez?verbose").await?.context("livez")?;
        assert!(live.starts_with("HTTP/1.1 200 OK\r\n"), "{live}");
        tell.send_replace(false);
        let going = ask(address, "/healthz").await?.context("healthz")?;
        assert!(going.starts_with("HTTP/1.1 503 ") && going.contains("\"nodeEligible\":false,"), "{going}");
        let live = ask(address, "/livez").await?.context("livez")?;
        assert!(live.starts_with("HTTP/1.1 200 OK\r\n") && !live.contains("nodeEligible"), "{live}");
        let other = ask(address, "/other").await?.context("other")?;
        assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
        Ok(())
    })
}

#[test]
fn the_proxy_is_healthy_while_it_does_not_wait_for_long() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let past = |seconds| Some(now - Duration::from_secs(seconds));
    const NOW: &str = "2001-09-09T01:46:40Z";
    const BEFORE: &str = "2001-09-09T01:45:00Z";
    for (applied_at, waiting_since, healthy, updated) in [
        (None, None, false, NEVER),
        (None, past(1), false, NEVER),
        (past(100), None, true, NOW),
        (past(100), past(29), true, NOW),
        (past(100), past(30), false, BEFORE),
        // The clock was set back.
        (past(100), Some(now + Duration::from_secs(100)), true, NOW),
    ] {
        let state = State { applied_at, waiting_since, ..State::new("node".into()) };
        let (writer, state) = watch::channel(Arc::new(state));
        let status = match applied_at {
            None => String::new(),
            Some(_) => {
                let family = format!(r#"{{"lastUpdated":"{BEFORE}","healthy":{healthy}}}"#);
                format!(r#","status":{{"IPv4":{family},"IPv6":{family}}}"#)
            }
        };
        for (eligible, said) in [(None, ""), (Some(true), r#""nodeEligible":true,"#)] {
            let answer = healthz(&state, eligible, now);
            let body =
                format!(r#"{{"lastUpdated":"{updated}","currentTime":"{NOW}",{said}"healthy":{healthy}{status}}}"#);
            assert_eq!(String::from_utf8(answer.body).unwrap(), body);
            assert_eq!(answer.status, if healthy { 200 } else { 503 }, "{applied_at:?} {waiting_since:?}");
        }
        let gone = healthz(&state, Some(false), now);
        let body = String::from_utf8(gone.body).unwrap();
        let updated = if applied_at.is_some() { BEFORE } else { NEVER };
        assert_eq!(gone.status, 503);
        assert!(body.starts_with(&format!(r#"{{"lastUpdated":"{updated}","#)), "{body}");
        assert!(body.contains(&format!(r#""nodeEligible":false,"healthy":{healthy}"#)), "{body}");
        drop(writer);
        assert_eq!(healthz(&state, Some(true), now).status, 503, "nobody is there to apply");
    }
}
