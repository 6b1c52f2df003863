//! Changes of a running gateway: nothing that was accepted is lost.
//!
//! The load runs for 5 s; the full proof is a minute:
//!
//! ```sh
//! HEADWATER_NO_LOSS_SECONDS=60 cargo test -p headwater-conformance-tests --test live_changes no_request -- --nocapture
//! ```

mod load;

use std::io::Write;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_conformance_tests::Stand;
use headwater_model::finding::Severity;
use headwater_testkit::certs::Authority;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::{Dial, Tls};
use headwater_testkit::http2;
use headwater_testkit::origin::{Origin, RawOrigin};
use headwater_testkit::wait;

use load::{Load, Style, Target};

/// Seconds of load of the no-loss run; 60 is the full proof.
const NO_LOSS_SECONDS: &str = "HEADWATER_NO_LOSS_SECONDS";
const CHANGE_EVERY: Duration = Duration::from_millis(100);

const GET: &str = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

/// Everything that can change, in its version number `tick`.
fn manifests(tick: usize, origins: &[Origin], leaves: &[(String, String)]) -> [(&'static str, String); 4] {
    // Another listener comes and goes; the policy and the limits of those that stay change.
    let mut spec = String::from("listeners:\n  - {name: http, port: 0, protocol: HTTP");
    spec.push_str(if tick % 2 == 1 {
        ", clientAddress: {forwardedHeader: X-Forwarded-For, trustedProxies: [127.0.0.0/8]}}\n"
    } else {
        "}\n"
    });
    spec.push_str("  - {name: https, port: 0, protocol: HTTPS}\n");
    if tick % 2 == 1 {
        spec.push_str("  - {name: extra, port: 0, protocol: HTTP}\n");
    }
    spec.push_str(&format!("timeouts: {{header: {}s}}\nlimits: {{headerCount: {}}}\n", 10 + tick % 5, 100 + tick % 7));
    // Ingresses take turns in owning the same host; paths come and go.
    let ingress = |host: &str, kind: &str| {
        let name = format!("{kind}-{}", tick % 3);
        let mut text = Stand::ingress(&name, host, "/", "app");
        text.push_str(&format!(
            "          - path: /path-{tick}\n            pathType: Exact\n            backend:\n              service:\n                \
             name: app\n                port:\n                  number: 80\n"
        ));
        text
    };
    let secure = format!("{}  tls:\n    - hosts: [tls.test]\n      secretName: cert\n", ingress("tls.test", "tls"));
    // One endpoint leaves and another joins.
    let endpoints = [0, 1].map(|offset| origins[(tick + offset) % origins.len()].address());
    let (cert, key) = &leaves[tick % leaves.len()];
    [
        ("gateway.yaml", Stand::gateway_with(&spec)),
        ("routes.yaml", format!("{}---\n{secure}", ingress("app.test", "app"))),
        ("endpoints.yaml", Stand::service("app", "", &endpoints)),
        ("cert.yaml", Stand::tls_secret("cert", cert, key)),
    ]
}

fn targets(stand: &Stand, authority: &Authority) -> Vec<Target> {
    let mut targets = Vec::new();
    for (style, count) in [(Style::KeepAlive, 12), (Style::Fresh, 12), (Style::Http2, 8)] {
        for _ in 0..count {
            let plain = Target { address: stand.address("http"), host: "app.test", authority: None, style };
            let secure = Target {
                address: stand.address("https"),
                host: "tls.test",
                authority: Some(authority.der().clone()),
                style,
            };
            targets.extend([plain, secure]);
        }
    }
    targets
}

#[test]
fn no_request_is_lost_while_everything_changes() -> Result<()> {
    let seconds = match std::env::var(NO_LOSS_SECONDS) {
        Ok(text) => text.parse().with_context(|| format!("{NO_LOSS_SECONDS}={text} is not a number of seconds"))?,
        Err(_) => 5,
    };
    let authority = Authority::new("no loss")?;
    let leaf = || authority.leaf(&["tls.test"]).map(|leaf| (leaf.cert_pem, leaf.key_pem));
    let leaves = [leaf()?, leaf()?, leaf()?];
    let origins: Vec<Origin> = (0..4).map(|index| Origin::http(&format!("load-{index}"))).collect::<Result<_>>()?;
    let first = manifests(0, &origins, &leaves);
    let stand = Stand::start(&first)?;
    let load = Load::start(targets(&stand, &authority))?;
    let started = Instant::now();
    let mut tick = 0;
    let mut slow = None;
    while started.elapsed() < Duration::from_secs(seconds) {
        tick += 1;
        let next = CHANGE_EVERY * u32::try_from(tick)?;
        wait::until(wait::DEADLINE + CHANGE_EVERY, || started.elapsed() >= next)?;
        let files = manifests(tick, &origins, &leaves);
        stand.change(|dir| files.iter().try_for_each(|(name, text)| dir.write(name, text)))?;
        if tick % 2 == 1 {
            // A request on the listener that is about to go.
            wait::until(wait::DEADLINE, || stand.applied().listeners.len() == 3)?;
            let mut client = RawClient::connect(stand.address("extra"))?;
            client.send("GET /?delay=150 HTTP/1.1\r\nHost: app.test\r\n\r\n")?;
            slow = Some(client);
        } else if let Some(mut client) = slow.take() {
            wait::until(wait::DEADLINE, || stand.applied().listeners.len() == 2)?;
            assert_eq!(client.read_response()?.status, 200, "a request on a removed listener");
            client.closed()?;
        }
    }
    let answered = load.requests();
    let outcome = load.finish()?;
    println!(
        "{} requests on {} connections in {:.1} s, {tick} changes, {} failed",
        outcome.requests,
        outcome.connections,
        started.elapsed().as_secs_f64(),
        outcome.failed
    );
    assert_eq!(outcome.failed, 0, "{:#?}", outcome.failures);
    assert!(answered > 100 * seconds, "{answered} requests are no load");
    assert!(outcome.connections > 20 * seconds, "{outcome:?}");
    assert_eq!(outcome.certificates, leaves.len(), "every certificate was shown: {outcome:?}");
    assert_eq!(stand.findings().count(Severity::Error), 0, "{:?}", stand.findings());
    Ok(())
}

/// Serves `app.test` from one origin.
fn stand(origin: std::net::SocketAddr) -> Result<Stand> {
    Stand::start(&[("gateway.yaml", Stand::gateway("")), ("app.yaml", Stand::app("app", "app.test", &[origin]))])
}

#[test]
fn a_changed_policy_counts_on_open_connections_and_keeps_the_socket() -> Result<()> {
    let origin = Origin::http("one")?;
    let stand = stand(origin.address())?;
    let address = stand.address("http");
    let mut client = RawClient::connect(address)?;
    let forwarded = "GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n";
    let real_ip = |client: &mut RawClient| anyhow::Ok(client.request(forwarded)?.seen()?.header("x-real-ip"));
    assert_eq!(real_ip(&mut client)?.as_deref(), Some("127.0.0.1"));
    let policy = "clientAddress: {trustedProxies: [127.0.0.0/8], forwardedHeader: X-Forwarded-For}";
    stand.change(|dir| dir.write("gateway.yaml", &Stand::gateway(policy)))?;
    assert_eq!(real_ip(&mut client)?.as_deref(), Some("192.0.2.9"), "the same connection");
    assert_eq!(stand.address("http"), address);
    assert_eq!(real_ip(&mut RawClient::connect(address)?)?.as_deref(), Some("192.0.2.9"), "a fresh one");
    Ok(())
}

/// An origin whose answers wait for the returned sender; one message lets one request pass.
fn gated() -> Result<(RawOrigin, mpsc::Sender<()>)> {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let origin = RawOrigin::start(move |conn| {
        while conn.read_request()?.is_some() {
            let wait = gate.lock().map_err(|_| std::io::ErrorKind::Other)?.recv_timeout(wait::DEADLINE);
            wait.map_err(std::io::Error::other)?;
            conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")?;
        }
        Ok(())
    })?;
    Ok((origin, open))
}

fn has_request(record: &headwater_testkit::origin::Recorded) -> bool {
    record.bytes.ends_with(b"\r\n\r\n")
}

#[test]
fn a_removed_listener_finishes_running_requests_and_then_closes() -> Result<()> {
    let (origin, open) = gated()?;
    let quick = Origin::http("quick")?;
    let listeners =
        |extra: &str| Stand::gateway_with(&format!("listeners:\n  - {{name: http, port: 0, protocol: HTTP}}\n{extra}"));
    let stand = Stand::start(&[
        ("gateway.yaml", listeners("  - {name: extra, port: 0, protocol: HTTP}\n")),
        ("app.yaml", Stand::app("app", "app.test", &[origin.address()])),
        ("quick.yaml", Stand::app("quick", "quick.test", &[quick.address()])),
    ])?;
    let address = stand.address("extra");
    let mut idle = RawClient::connect(address)?;
    assert_eq!(idle.request("GET / HTTP/1.1\r\nHost: quick.test\r\n\r\n")?.status, 200);
    let mut silent = RawClient::connect(address)?;
    let mut busy = RawClient::connect(address)?;
    busy.send(GET)?;
    origin.wait_for(0, has_request)?;
    let stream = std::thread::spawn(move || http2::request(&Dial::to(address), http2::Request::get("app.test", "/")));
    origin.wait_for(1, has_request)?;
    let mut elsewhere = RawClient::connect(stand.address("http"))?;

    stand.change(|dir| dir.write("gateway.yaml", &listeners("")))?;
    idle.closed().context("a connection between requests")?;
    assert!(RawClient::connect(address).is_err(), "a removed listener accepts nothing");
    assert_eq!(silent.request("GET / HTTP/1.1\r\nHost: quick.test\r\n\r\n")?.status, 200, "let in before the end");
    silent.closed()?;
    open.send(())?;
    open.send(())?;
    let answer = busy.read_response()?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    busy.closed()?;
    let answer = stream.join().expect("the client does not panic")?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
    assert_eq!(
        elsewhere.request("GET / HTTP/1.1\r\nHost: quick.test\r\n\r\n")?.status,
        200,
        "others are not concerned"
    );
    Ok(())
}

/// A free port of every address, below those that the kernel gives to whoever wants any: no connection takes it.
fn free_port() -> Result<u16> {
    let first = u16::try_from(std::process::id() % 10_000)? + 20_000;
    let is_free = |port: &u16| std::net::TcpListener::bind(("::", *port)).is_ok();
    (first..32_000).find(is_free).context("no port is free")
}

#[test]
fn a_listener_moves_to_another_address_of_its_port() -> Result<()> {
    let origin = Origin::http("one")?;
    let port = free_port()?;
    let listener = |address: &str| {
        Stand::gateway_with(&format!(
            "listeners:\n  - {{name: http, address: \"{address}\", port: {port}, protocol: HTTP}}\n"
        ))
    };
    let stand = Stand::start(&[
        ("gateway.yaml", listener("127.0.0.1")),
        ("app.yaml", Stand::app("app", "app.test", &[origin.address()])),
    ])?;
    let ask = |ip: [u8; 4]| RawClient::connect((ip, port).into())?.request(GET);
    assert_eq!(ask([127, 0, 0, 1])?.status, 200);
    for (address, there, elsewhere) in [
        ("0.0.0.0", [127, 0, 0, 2], None),
        ("127.0.0.2", [127, 0, 0, 2], Some([127, 0, 0, 1])),
        ("::", [127, 0, 0, 1], None),
    ] {
        let applied = stand.change(|dir| dir.write("gateway.yaml", &listener(address)))?;
        assert_eq!(applied.listeners[0].error, None, "{address}");
        assert_eq!(ask(there)?.status, 200, "{address}");
        if let Some(elsewhere) = elsewhere {
            wait::until(wait::DEADLINE, || ask(elsewhere).is_err())
                .with_context(|| format!("only {address} is left"))?;
        }
    }
    Ok(())
}

#[test]
fn a_port_that_becomes_free_is_listened_on_without_another_change() -> Result<()> {
    let origin = Origin::http("one")?;
    let stand = stand(origin.address())?;
    let holder = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = holder.local_addr()?;
    let taken = format!(
        "listeners:\n  - {{name: taken, address: \"{}\", port: {}, protocol: HTTP}}\n",
        address.ip(),
        address.port()
    );
    let applied = stand.change(|dir| dir.write("gateway.yaml", &Stand::gateway_with(&taken)))?;
    let error = applied.listeners[0].error.clone().context("the port is taken")?;
    assert!(error.contains("in use") && error.contains(&address.to_string()), "{error}");
    drop(holder);
    wait::until(wait::DEADLINE, || {
        RawClient::connect(address).is_ok_and(|mut client| client.request(GET).is_ok_and(|a| a.status == 200))
    })?;
    wait::until(wait::DEADLINE, || stand.applied().listeners[0].error.is_none())
}

#[test]
fn a_half_written_file_changes_nothing() -> Result<()> {
    let (one, two) = (Origin::http("one")?, Origin::http("two")?);
    let stand = stand(one.address())?;
    let before = stand.applied();
    let ask = || RawClient::connect(stand.address("http"))?.request(GET);
    let whole = Stand::app("app", "app.test", &[two.address()]);
    // Ends inside a quoted scalar, so that the file is not YAML.
    let cut = whole.find("app.test").context("the host stands in the manifest")? + 3;
    std::fs::write(stand.dir.path().join("app.yaml"), &whole[..cut])?;
    wait::until(wait::DEADLINE, || stand.findings().count(Severity::Error) > 0)?;
    assert_eq!(ask()?.seen()?.name(), "one");
    assert_eq!(stand.applied(), before);
    stand.change(|dir| Ok(std::fs::write(dir.path().join("app.yaml"), &whole)?))?;
    assert_eq!(ask()?.seen()?.name(), "two");
    wait::until(wait::DEADLINE, || stand.findings().count(Severity::Error) == 0)
}

#[test]
fn new_handshakes_see_a_replaced_certificate_and_open_connections_go_on() -> Result<()> {
    let authority = Authority::new("replaced")?;
    let (first, second) = (authority.leaf(&["app.test"])?, authority.leaf(&["app.test"])?);
    let origin = Origin::http("one")?;
    let app = format!(
        "{}  tls:\n    - hosts: [app.test]\n      secretName: cert\n---\n{}",
        Stand::ingress("app", "app.test", "/", "app"),
        Stand::service("app", "", &[origin.address()])
    );
    let stand = Stand::start(&[
        ("gateway.yaml", Stand::gateway("")),
        ("app.yaml", app),
        ("cert.yaml", Stand::tls_secret("cert", &first.cert_pem, &first.key_pem)),
    ])?;
    let open = || RawClient::open(&Dial::to(stand.address("https")).tls(Tls::new("app.test")));
    let mut before = open()?;
    assert_eq!(before.stream().leaf().as_ref(), Some(&first.cert_der));
    assert_eq!(before.request(GET)?.status, 200);
    stand.change(|dir| dir.write("cert.yaml", &Stand::tls_secret("cert", &second.cert_pem, &second.key_pem)))?;
    assert_eq!(open()?.stream().leaf().as_ref(), Some(&second.cert_der));
    assert_eq!(before.request(GET)?.status, 200, "a connection of the old certificate");
    Ok(())
}

#[test]
fn an_endpoint_that_leaves_finishes_what_it_has_begun() -> Result<()> {
    let (leaving, open) = gated()?;
    let joining = Origin::http("joining")?;
    let stand = Arc::new(stand(leaving.address())?);
    let mut busy = RawClient::connect(stand.address("http"))?;
    busy.send(GET)?;
    leaving.wait_for(0, has_request)?;
    stand.change(|dir| dir.write("app.yaml", &Stand::app("app", "app.test", &[joining.address()])))?;
    assert_eq!(RawClient::connect(stand.address("http"))?.request(GET)?.seen()?.name(), "joining");
    open.send(())?;
    assert_eq!(busy.read_response()?.text(), "done");
    assert_eq!(busy.request(GET)?.seen()?.name(), "joining", "the next request of the connection");
    let left = leaving.wait_for(0, |record| record.ended.is_some())?;
    ensure!(left.ended == Some(Ok(())), "its connection was closed in order: {left:?}");
    Ok(())
}
