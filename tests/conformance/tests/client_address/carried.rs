//! Rows 36 to 38: what is carried without being read.

use std::net::UdpSocket;

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::ask::{Protocol, ask};
use headwater_testkit::certs::Authority;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::{Dial, Tls};
use headwater_testkit::origin::Origin;
use headwater_testkit::response::Seen;
use headwater_testkit::wait;

use crate::{HOST, address};

const PASSED: &str = "passed.test";
const V2: &str = "clientAddress: {emitProxyProtocol: V2}";

/// The manifest with `ssl-passthrough` on its Ingress.
fn passing(app: &str) -> String {
    app.replacen(
        "metadata:\n",
        "metadata:\n  annotations:\n    nginx.ingress.kubernetes.io/ssl-passthrough: \"true\"\n",
        1,
    )
}

#[test]
fn row_36_a_passthrough_backend_is_told_the_client_and_keeps_its_tls() -> Result<()> {
    let leaf = Authority::new("backends")?.leaf(&[PASSED])?;
    let origin = Origin::https("passed", &leaf)?;
    let app = passing(&Stand::app("passed", PASSED, &[origin.address()]));
    let stand = Stand::start(&[("gateway.yaml", Stand::gateway(V2)), ("app.yaml", app)])?;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let dial = Dial::to(stand.address("https")).source(address("C")).tls(Tls::new(PASSED));
        let seen = ask(protocol, &dial, PASSED, &[("X-Forwarded-For", "127.0.0.66")])?;
        assert_eq!(seen.proxy_source().map(|source| source.ip()), Some(address("C")), "{seen:?}");
        assert_eq!(seen.header("X-Forwarded-For").as_deref(), Some("127.0.0.66"), "nobody reads what passes through");
    }
    let dial = Dial::to(stand.address("https")).source(address("C")).tls(Tls::new("Passed.Test"));
    let client = RawClient::open(&dial)?;
    assert_eq!(client.stream().leaf(), Some(leaf.cert_der), "the certificate is the backend's");
    drop(client);
    let line = stand.log_line(|line| line["protocol"] == "TLS")?;
    assert_eq!(line["client"], address("C").to_string(), "{line}");
    assert_eq!((line["sni"].as_str(), line["provenance"].as_str()), (Some(PASSED), Some("socket")), "{line}");
    Ok(())
}

#[test]
fn row_37_hosts_that_are_terminated_beside_a_passthrough_host_see_the_client() -> Result<()> {
    let leaf = Authority::new("backends")?.leaf(&[PASSED])?;
    let (passed, ended) = (Origin::https("passed", &leaf)?, Origin::http_behind_proxy("ended")?);
    let apps = format!(
        "{}---\n{}",
        passing(&Stand::app("passed", PASSED, &[passed.address()])),
        Stand::app("ended", HOST, &[ended.address()])
    );
    let stand = Stand::start(&[("gateway.yaml", Stand::gateway(V2)), ("app.yaml", apps)])?;
    for (name, host) in [("passed", PASSED), ("ended", HOST)] {
        let dial = Dial::to(stand.address("https")).source(address("C")).tls(Tls::new(host));
        let seen = ask(Protocol::Http1, &dial, host, &[])?;
        assert_eq!(seen.name(), name);
        assert_eq!(seen.proxy_source().map(|source| source.ip()), Some(address("C")), "{seen:?}");
    }
    // A client that names nobody is not passed through.
    let dial = Dial::to(stand.address("https")).source(address("C")).tls(Tls::without_sni());
    assert_eq!(ask(Protocol::Http1, &dial, HOST, &[])?.header("X-Real-IP"), Some(address("C").to_string()));
    Ok(())
}

#[test]
fn row_38_the_first_datagram_of_a_flow_names_the_client() -> Result<()> {
    let origin = Origin::udp("datagrams")?;
    let spec = format!(
        "listeners:\n  - {{name: udp, port: 0, protocol: UDP, backends: [{{service: test/app, port: 80}}]}}\n{V2}"
    );
    let service = Stand::datagrams(&Stand::service("app", "", &[origin.address()]));
    let stand = Stand::start(&[("gateway.yaml", Stand::gateway_with(&spec)), ("app.yaml", service)])?;
    let socket = UdpSocket::bind((address("C"), 0))?;
    socket.set_read_timeout(Some(wait::DEADLINE))?;
    socket.connect(stand.address("udp"))?;
    let ask = |text: &[u8]| -> Result<Seen> {
        socket.send(text)?;
        let mut answer = vec![0; 65_536];
        let n = socket.recv(&mut answer).context("no answer")?;
        Seen::parse(&answer[..n])
    };
    let first = ask(b"one")?;
    assert_eq!(first.proxy_source(), Some(socket.local_addr()?), "{first:?}");
    let second = ask(b"two")?;
    assert_eq!(second.proxy_source(), None, "the second datagram is the client's alone: {second:?}");
    assert_eq!(first.peer()?, second.peer()?, "one flow is one socket towards the backend");
    Ok(())
}
