//! Which endpoint a request goes to, what happens when one fails, and which connections are kept.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use anyhow::{Result, ensure};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::http2::{self, Request};
use headwater_testkit::origin::{Origin, RawConn, RawOrigin};
use headwater_testkit::port::Refusing;
use headwater_testkit::response::Response;
use headwater_testkit::wait;

const GET: &str = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello";
const EJECTIONS: &str = "headwater_gateway_endpoint_ejections_total{namespace=\"test\",service=\"app\",port=\"80\"}";
const RETRIES: &str = "headwater_gateway_retries_total";

/// Serves `app.test` from these endpoints, with more of a GatewaySettings' spec.
fn stand(spec: &str, endpoints: &[SocketAddr]) -> Result<Stand> {
    Stand::start(&[("gateway.yaml", Stand::gateway(spec)), ("app.yaml", Stand::app("app", "app.test", endpoints))])
}

/// A connection stays with one worker, whose balancing the rest of the gateway does not disturb.
fn client(stand: &Stand) -> Result<RawClient> {
    RawClient::connect(stand.address("http"))
}

fn origins(count: usize) -> Result<(Vec<Origin>, Vec<SocketAddr>)> {
    let origins: Vec<Origin> = (0..count).map(|index| Origin::http(&format!("o{index}"))).collect::<Result<_>>()?;
    let addresses = origins.iter().map(Origin::address).collect();
    Ok((origins, addresses))
}

/// Addresses where nobody listens, each of an IP of its own.
fn refusing<const N: usize>(first: u8) -> Result<([Refusing; N], [SocketAddr; N])> {
    let held: Vec<Refusing> = (first..).take(N).map(|host| Refusing::at([127, 0, 77, host])).collect::<Result<_>>()?;
    let held: [Refusing; N] = held.try_into().map_err(|_| anyhow::anyhow!("too few"))?;
    let addresses = held.each_ref().map(Refusing::address);
    Ok((held, addresses))
}

fn answer(conn: &mut RawConn, name: &str) -> std::io::Result<()> {
    write!(conn, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len())
}

/// Reads each request, and then resets the connection.
fn resetting() -> Result<RawOrigin> {
    RawOrigin::start(|conn| {
        conn.read_request()?;
        conn.reset_on_close()
    })
}

fn counts<'a>(names: impl IntoIterator<Item = &'a String>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    names.into_iter().for_each(|name| *counts.entry(&**name).or_default() += 1);
    counts
}

#[test]
fn requests_are_spread_evenly_over_equal_endpoints() -> Result<()> {
    // Fewest and most of 400 that one of 4 may get; two choices at random are not exact (6 standard deviations).
    for (algorithm, fewest, most) in [("RoundRobin", 100, 100), ("LeastRequest", 48, 152)] {
        let (_origins, addresses) = origins(4)?;
        let stand = stand(&format!("balancing: {{algorithm: {algorithm}}}"), &addresses)?;
        let mut client = client(&stand)?;
        let names: Vec<String> =
            (0..400).map(|_| Ok(client.request(GET)?.seen()?.name().to_owned())).collect::<Result<_>>()?;
        let counts = counts(&names);
        assert_eq!(counts.len(), 4, "{algorithm}: {counts:?}");
        assert!(counts.values().all(|count| (fewest..=most).contains(count)), "{algorithm}: {counts:?}");
    }
    Ok(())
}

#[test]
fn an_endpoint_that_is_busy_or_slow_gets_less() -> Result<()> {
    for algorithm in ["LeastRequest", "PeakEWMA"] {
        let (_origins, mut addresses) = origins(2)?;
        let slow = RawOrigin::start(|conn| {
            while conn.read_request()?.is_some() {
                // Not a wait for anything: this origin is slow.
                std::thread::park_timeout(Duration::from_millis(40));
                answer(conn, "{\"name\":\"slow\"}")?;
            }
            Ok(())
        })?;
        addresses.push(slow.address());
        let stand = stand(&format!("balancing: {{algorithm: {algorithm}}}"), &addresses)?;
        // Each client asks again when it was answered.
        let names = std::thread::scope(|scope| {
            let ask = || {
                let mut client = client(&stand)?;
                (0..30).map(|_| Ok(client.request(GET)?.seen()?.name().to_owned())).collect::<Result<Vec<_>>>()
            };
            let clients: Vec<_> = (0..10).map(|_| scope.spawn(ask)).collect();
            let names = clients.into_iter().map(|client| client.join().expect("no client panics"));
            names.collect::<Result<Vec<_>>>().map(|names| names.concat())
        })?;
        let counts = counts(&names);
        let share = counts.get("slow").copied().unwrap_or(0);
        assert!(share < names.len() / 4, "{algorithm}: {counts:?}");
        assert!(counts["o0"] > 50 && counts["o1"] > 50, "{algorithm}: {counts:?}");
    }
    Ok(())
}

/// Who answers a request that carries key number `key`, on a connection of its own and so on any worker.
type Ask = fn(&Stand, u8) -> Result<String>;

fn named(client: Result<RawClient>, header: &str) -> Result<String> {
    let request = format!("GET / HTTP/1.1\r\nHost: app.test\r\n{header}\r\n");
    Ok(client?.request(request)?.seen()?.name().to_owned())
}

#[test]
fn a_hashed_key_always_meets_the_same_endpoint_and_moves_only_when_it_leaves() -> Result<()> {
    let by_client: Ask = |stand, key| {
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 5, key + 1));
        named(RawClient::connect_from(source, stand.address("http")), "")
    };
    let by_header: Ask = |stand, key| named(client(stand), &format!("X-Tenant: tenant-{key}\r\n"));
    let by_cookie: Ask = |stand, key| named(client(stand), &format!("Cookie: a=b; cart=c{key}; d=e\r\n"));
    for (spec, ask) in [
        ("hashOn: Client", by_client),
        ("hashOn: Header, hashName: X-Tenant", by_header),
        ("hashOn: Cookie, hashName: cart", by_cookie),
    ] {
        let (_origins, addresses) = origins(4)?;
        let stand = stand(&format!("balancing: {{algorithm: Hash, {spec}}}"), &addresses)?;
        let keys = 0..32;
        let before: Vec<String> = keys.clone().map(|key| ask(&stand, key)).collect::<Result<_>>()?;
        let spread = counts(&before);
        assert_eq!(spread.len(), 4, "{spec}: 32 keys meet every endpoint: {spread:?}");
        for _ in 0..3 {
            for (key, name) in keys.clone().zip(&before) {
                assert_eq!(ask(&stand, key)?, *name, "{spec}: key {key}");
            }
        }
        stand.change(|dir| dir.write("app.yaml", &Stand::app("app", "app.test", &addresses[..3])))?;
        let after: Vec<String> = keys.map(|key| ask(&stand, key)).collect::<Result<_>>()?;
        assert!(after.iter().all(|name| name != "o3"), "{spec}: {after:?}");
        let stayed = before.iter().zip(&after).filter(|(before, after)| before == after).count();
        let could = before.iter().filter(|name| *name != "o3").count();
        assert!(stayed * 10 >= could * 8, "{spec}: {stayed} of {could} stayed");
    }
    Ok(())
}

#[test]
fn an_endpoint_that_fails_is_ejected_and_comes_back() -> Result<()> {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = well.clone();
    let sick = RawOrigin::start(move |conn| {
        while conn.read_request()?.is_some() {
            if !is_well.load(Ordering::Relaxed) {
                return conn.reset_on_close();
            }
            answer(conn, "{\"name\":\"sick\"}")?;
        }
        Ok(())
    })?;
    let good = Origin::http("good")?;
    let stand = stand(
        "balancing: {algorithm: RoundRobin}\npassiveHealth: {consecutiveFailures: 2, baseEjection: 600ms}",
        &[sick.address(), good.address()],
    )?;
    let mut client = client(&stand)?;
    let mut ask = || anyhow::Ok(client.request(GET)?.seen()?.name().to_owned());
    assert_eq!(stand.metric(EJECTIONS), 0.0);
    // Each failure is a GET, and tried again elsewhere: no client notices.
    wait::until(wait::DEADLINE, || ask().is_ok_and(|name| name == "good") && stand.metric(EJECTIONS) == 1.0)?;
    let failures = sick.connections().len();
    assert_eq!(failures, 2, "two failures in a row eject");
    well.store(true, Ordering::Relaxed);
    wait::until(wait::DEADLINE, || ask().is_ok_and(|name| name == "sick"))?;
    let names: Vec<String> = (0..20).map(|_| ask()).collect::<Result<_>>()?;
    assert_eq!(counts(&names)["sick"], 10, "restored to its whole share");
    assert_eq!(stand.metric(EJECTIONS), 1.0);
    Ok(())
}

#[test]
fn never_more_than_half_of_a_pool_is_ejected() -> Result<()> {
    let good = Origin::http("good")?;
    let (_held, [one, two, three]) = refusing(1)?;
    let endpoints = [one, two, three, good.address()];
    let stand = stand(
        "balancing: {algorithm: RoundRobin}\npassiveHealth: {consecutiveFailures: 1, baseEjection: 5m}\n\
         retries: {attempts: 4, budgetPercent: 100}",
        &endpoints,
    )?;
    let mut client = client(&stand)?;
    for _ in 0..40 {
        assert_eq!(client.request(GET)?.seen()?.name(), "good");
    }
    assert_eq!(stand.metric(EJECTIONS), 2.0);
    assert!(stand.metric(RETRIES) >= 20.0, "the third is still tried: {} retries", stand.metric(RETRIES));
    Ok(())
}

fn fault(response: &Response) -> String {
    response.header("x-headwater-fault").unwrap_or_default()
}

#[test]
fn a_connection_that_fails_is_retried_elsewhere_whatever_the_method() -> Result<()> {
    let good = Origin::http("good")?;
    let (_held, [dead]) = refusing(4)?;
    let stand =
        stand("balancing: {algorithm: RoundRobin}\npassiveHealth: {consecutiveFailures: 0}", &[dead, good.address()])?;
    let mut client = client(&stand)?;
    for request in [GET, POST, GET, POST] {
        let seen = client.request(request)?.seen()?;
        assert_eq!(seen.name(), "good");
        assert_eq!(seen.0["body_bytes"], if request == POST { 5 } else { 0 });
    }
    assert!(stand.metric(RETRIES) >= 1.0);
    let line = stand.log_line(|line| line["attempts"] == 2)?;
    assert_eq!(line["endpoint"], good.address().to_string());
    assert_eq!(line["status"], 200);
    Ok(())
}

#[test]
fn what_was_sent_is_sent_again_only_when_the_method_is_idempotent() -> Result<()> {
    let lossy = resetting()?;
    let good = Origin::http("good")?;
    let stand = stand(
        "balancing: {algorithm: RoundRobin}\npassiveHealth: {consecutiveFailures: 0}",
        &[lossy.address(), good.address()],
    )?;
    let mut client = client(&stand)?;
    let without_content = "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n";
    for request in [POST, without_content] {
        let mut lost = 0;
        let before = lossy.connections().len();
        for _ in 0..6 {
            let response = client.request(request)?;
            if response.status == 502 {
                assert_eq!(fault(&response), "upstream_closed");
                lost += 1;
            } else {
                assert_eq!(response.seen()?.name(), "good");
            }
        }
        assert_eq!(lost, 3, "turns are taken, and nothing is retried");
        assert_eq!(lossy.connections().len() - before, 3);
    }
    assert_eq!(stand.metric(RETRIES), 0.0);
    let before = lossy.connections().len();
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        for _ in 0..2 {
            let response = client.request(format!("{method} / HTTP/1.1\r\nHost: app.test\r\n\r\n"))?;
            assert_eq!(response.status, 200, "{method}");
        }
    }
    let lost = lossy.connections().len() - before;
    assert!(lost >= 4, "{lost} requests met the lossy endpoint first");
    assert_eq!(stand.metric(RETRIES), lost as f64);
    Ok(())
}

#[test]
fn retries_end_with_the_attempts_and_with_the_budget() -> Result<()> {
    // Settings, requests, attempts of the first request, retries in all.
    for (retries, requests, attempts, total) in [
        ("{attempts: 1}", 5, 1, 0.0),
        ("{attempts: 2}", 5, 2, 5.0),
        ("{}", 4, 3, 8.0),
        // 10 whatever comes, and a fifth of 30.
        ("{}", 30, 3, 16.0),
        ("{budgetPercent: 50}", 30, 3, 25.0),
        ("{budgetPercent: 0}", 5, 1, 0.0),
        // More than there are endpoints: they are tried again.
        ("{attempts: 9, budgetPercent: 100}", 1, 9, 8.0),
    ] {
        let (_held, endpoints) = refusing::<4>(5)?;
        let stand = stand(&format!("retries: {retries}\npassiveHealth: {{consecutiveFailures: 0}}"), &endpoints)?;
        let mut client = client(&stand)?;
        for _ in 0..requests {
            let response = client.request(GET)?;
            assert!(
                matches!((response.status, &*fault(&response)), (502, "connect_failed") | (503, "no_endpoints")),
                "{response:?}"
            );
        }
        let first = stand.log_line(|line| line["attempts"].is_number())?;
        assert_eq!(first["attempts"], attempts, "{retries}: {first}");
        assert_eq!(stand.metric(RETRIES), total, "{retries} after {requests} requests");
    }
    Ok(())
}

/// An origin whose answers wait for a message each.
fn gated() -> Result<(RawOrigin, mpsc::Sender<()>)> {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let origin = RawOrigin::start(move |conn| {
        while conn.read_request()?.is_some() {
            let passed = gate.lock().map_err(|_| std::io::ErrorKind::Other)?.recv_timeout(wait::DEADLINE);
            passed.map_err(std::io::Error::other)?;
            answer(conn, "done")?;
        }
        Ok(())
    })?;
    Ok((origin, open))
}

#[test]
fn idle_connections_are_kept_up_to_the_limit_and_for_the_time() -> Result<()> {
    const AT_ONCE: usize = 6;
    let (origin, open) = gated()?;
    let stand = stand("upstream: {maxIdleConnections: 2}", &[origin.address()])?;
    let address = stand.address("http");
    let clients = std::thread::spawn(move || {
        http2::exchange(&Dial::to(address), (0..AT_ONCE).map(|_| Request::get("app.test", "/")).collect())
    });
    origin.wait_for(AT_ONCE - 1, |record| record.bytes.ends_with(b"\r\n\r\n"))?;
    (0..AT_ONCE).try_for_each(|_| open.send(()))?;
    for response in clients.join().expect("the clients do not panic")? {
        assert_eq!(response?.text(), "done");
    }
    let ended = || origin.connections().iter().filter(|record| record.ended.is_some()).count();
    wait::until(wait::DEADLINE, || ended() == AT_ONCE - 2)?;
    let spec = "upstream: {maxIdleConnections: 2, idleTimeout: 100ms}";
    stand.change(|dir| dir.write("gateway.yaml", &Stand::gateway(spec)))?;
    wait::until(wait::DEADLINE, || ended() == AT_ONCE)?;
    ensure!(origin.connections().iter().all(|record| record.ended == Some(Ok(()))), "closed in order");
    Ok(())
}

#[test]
fn requests_one_after_the_other_share_an_upstream_connection() -> Result<()> {
    let origin = RawOrigin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
    let stand = stand("", &[origin.address()])?;
    let mut client = client(&stand)?;
    for request in [GET, POST, GET, POST, GET] {
        assert_eq!(client.request(request)?.text(), "ok");
    }
    assert_eq!(origin.connections().len(), 1);
    Ok(())
}

#[test]
fn a_kept_connection_that_its_origin_closed_costs_no_request() -> Result<()> {
    // Answers one request on each connection, and closes without having said so.
    let origin = RawOrigin::start(|conn| {
        conn.read_request()?;
        answer(conn, "once")
    })?;
    let stand = stand("", &[origin.address()])?;
    let mut client = client(&stand)?;
    for (index, request) in [POST, POST, GET, POST].into_iter().enumerate() {
        assert_eq!(client.request(request)?.text(), "once");
        origin.wait_for(index, |record| record.ended.is_some())?;
    }
    assert_eq!(origin.connections().len(), 4);
    Ok(())
}
