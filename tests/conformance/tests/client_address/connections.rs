//! What one connection says of its client, and what it says of another.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::ask::{Protocol, ask};
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::http2;
use headwater_testkit::origin::Origin;
use headwater_testkit::proxy::{self, V2};
use headwater_testkit::response::Seen;
use headwater_testkit::wait;

use crate::{ANY, BEHIND_LB, Bench, First, HOST, OPTIONAL, REQUIRED, XFF, address, addresses, ask_once};

/// Inbound headers of a request, and the X-Forwarded-For and scheme they come to.
type Step = (&'static [(&'static str, &'static str)], &'static str, &'static str);

/// Requests that follow each other.
const SEQUENCE: &[Step] = &[
    (&[(XFF, "C")], "C, L", "http"),
    (&[(XFF, "E"), ("X-Forwarded-Proto", "https")], "E, L", "https"),
    (&[], "L", "http"),
    (&[(XFF, "E, C6"), ("X-Forwarded-Host", "other.test")], "C6, L", "http"),
    (&[(XFF, "C, unknown")], "L", "http"),
    (&[(XFF, "C")], "C, L", "http"),
];

fn sequence() -> Vec<String> {
    let request = |(headers, _, _): &Step| {
        let lines = headers.iter().map(|(name, value)| format!("{name}: {}\r\n", addresses(value)));
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", lines.collect::<String>())
    };
    SEQUENCE.iter().map(request).collect()
}

fn is_step(step: usize, seen: &Seen) {
    let (_, xff, scheme) = SEQUENCE[step];
    assert_eq!(seen.header(XFF), Some(addresses(xff)), "request {step}");
    assert_eq!(seen.header("x-forwarded-proto").as_deref(), Some(scheme), "request {step}");
    let host = if step == 3 { "other.test" } else { HOST };
    assert_eq!(seen.header("x-forwarded-host").as_deref(), Some(host), "request {step}");
}

#[test]
fn requests_of_one_connection_do_not_share_a_client() -> Result<()> {
    let bench = Bench::start(&[(ANY, BEHIND_LB)])?;
    for tls in [false, true] {
        let dial = bench.dial(ANY, BEHIND_LB, tls, address("L"));
        let scheme = |step: usize, seen: &Seen| {
            if tls {
                assert_eq!(seen.header(XFF), Some(addresses(SEQUENCE[step].1)), "request {step}");
            } else {
                is_step(step, seen);
            }
        };
        let mut client = RawClient::open(&dial)?;
        for (step, request) in sequence().iter().enumerate() {
            scheme(step, &client.request(request)?.seen()?);
        }
        // All at once, the answers in order.
        let mut client = RawClient::open(&dial)?;
        client.send(sequence().concat())?;
        for step in 0..SEQUENCE.len() {
            scheme(step, &client.read_response()?.seen()?);
        }
        let authority = |headers: &[(&str, &str)]| {
            let mut request = http2::Request::get(HOST, "/");
            for (name, value) in headers {
                request = request.header(name, &addresses(value));
            }
            request
        };
        let requests = SEQUENCE.iter().map(|(headers, _, _)| authority(headers)).collect();
        let mut dial = dial;
        if let Some(tls) = dial.tls.take() {
            dial = dial.tls(tls.alpn(&["h2"]));
        }
        for (step, response) in http2::exchange(&dial, requests)?.into_iter().enumerate() {
            scheme(step, &response?.seen()?);
        }
    }
    Ok(())
}

#[test]
fn clients_that_share_a_connection_to_the_backend_stay_apart() -> Result<()> {
    let bench = Bench::start(&[(ANY, BEHIND_LB)])?;
    let mut connections = BTreeSet::new();
    for client in 1..=24 {
        let own = format!("127.0.1.{client}");
        for protocol in [Protocol::Http1, Protocol::Grpc] {
            let seen = ask(protocol, &bench.dial(ANY, BEHIND_LB, false, own.parse()?), HOST, &[(XFF, "127.0.0.66")])?;
            assert_eq!(seen.header(XFF), Some(own.clone()), "{protocol:?}");
            assert_eq!(seen.header("x-real-ip"), Some(own.clone()), "{protocol:?}");
            connections.insert(seen.0["connection"].as_u64());
        }
    }
    // Two workers with one connection for each of two protocols.
    assert!(connections.len() <= 4, "{connections:?}");
    Ok(())
}

#[test]
fn a_proxy_header_may_come_byte_by_byte_or_together_with_the_request() -> Result<()> {
    let bench = Bench::start(&[(ANY, REQUIRED), (ANY, OPTIONAL)])?;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for policy in [REQUIRED, OPTIONAL] {
        let dial = bench.dial(ANY, policy, false, address("L"));
        for (first, client) in [(First::V1("C"), "C"), (First::V2("C6"), "C6"), (First::V2Local, "L")] {
            let mut client_of_pieces = RawClient::open(&dial)?;
            for byte in first.bytes() {
                client_of_pieces.send([byte])?;
            }
            let seen = client_of_pieces.request(&request)?.seen()?;
            assert_eq!(seen.header("x-real-ip"), Some(addresses(client)));
            // The header speaks for the connection: a second request has the same client.
            let seen = client_of_pieces.request(&request)?.seen()?;
            assert_eq!(seen.header("x-real-ip"), Some(addresses(client)));
            let together = [&first.bytes()[..], request.as_bytes()].concat();
            let seen = RawClient::open(&dial)?.request(together)?.seen()?;
            assert_eq!(seen.header("x-real-ip"), Some(addresses(client)));
        }
    }
    Ok(())
}

#[test]
fn a_proxy_header_that_is_late_broken_or_too_long_closes_the_connection() -> Result<()> {
    let policy = "trustedProxies: [L], proxyProtocol: Required, proxyProtocolTimeout: 100ms";
    let bench = Bench::start(&[(ANY, policy)])?;
    let (source, destination) = ("127.0.0.7:1".parse()?, "127.0.0.8:2".parse()?);
    let long = V2::tcp(source, destination);
    for (bytes, reason) in [
        (Vec::new(), "late"),
        (b"PROXY TCP4 127.0.0.7".to_vec(), "late"),
        (proxy::v1_too_long(), "malformed"),
        (long.clone().oversized().build(), "malformed"),
        (V2::raw(0x2f, 0x11, &[0; 12]).build(), "malformed"),
        (b"PROXY TCP4 127.0.0.7 127.0.0.8 1 99999\r\n".to_vec(), "malformed"),
    ] {
        let series = format!("headwater_gateway_proxy_protocol_refused_total{{reason=\"{reason}\"}}");
        let before = bench.stand.metric(&series);
        let mut client = RawClient::open(&bench.dial(ANY, policy, false, address("L")).preamble(&bytes))?;
        assert_eq!(client.closed()?, b"", "{:?}", bytes.escape_ascii().to_string());
        wait::until(wait::DEADLINE, || bench.stand.metric(&series) > before)?;
    }
    let largest = long.crc().pad_to(4096).build();
    let seen = ask_once(&bench.dial(ANY, policy, false, address("L")).preamble(&largest), &[])?;
    assert_eq!(seen.header("x-real-ip"), Some(addresses("C")));
    Ok(())
}

#[test]
fn backends_that_want_a_proxy_header_get_one_for_each_client() -> Result<()> {
    for version in ["V1", "V2"] {
        let origin = Origin::http_behind_proxy("backend")?;
        let spec = format!(
            "clientAddress: {{trustedProxies: [127.0.0.5], forwardedHeader: X-Forwarded-For, emitProxyProtocol: {version}}}"
        );
        let stand = Stand::start(&[
            ("gateway.yaml", Stand::gateway(&spec)),
            ("app.yaml", Stand::app("app", HOST, &[origin.address()])),
        ])?;
        for (from, inbound, client) in [("C", "E", "C"), ("L", "C", "C"), ("L", "E", "E"), ("C", "", "C")] {
            let dial = Dial::to(stand.address("http")).source(address(from));
            let headers = [(XFF, &*addresses(inbound))];
            let seen = ask_once(&dial, if inbound.is_empty() { &[] } else { &headers })?;
            let source = seen.proxy_source().with_context(|| format!("{version}: no source in {}", seen.0))?;
            assert_eq!(source.ip(), address(client), "{version} from {from}");
            assert_eq!(seen.header("x-real-ip"), Some(addresses(client)));
        }
    }
    Ok(())
}

#[test]
fn a_changed_policy_counts_from_the_next_request_of_a_connection_on() -> Result<()> {
    let origin = Origin::http("backend")?;
    let gateway = |policy: &str| Stand::gateway(&format!("clientAddress: {{{}}}", addresses(policy)));
    let app = Stand::app("app", HOST, &[origin.address()]);
    let stand = Stand::start(&[("gateway.yaml", gateway(BEHIND_LB)), ("app.yaml", app)])?;
    let mut client = RawClient::open(&Dial::to(stand.address("http")).source(address("L")))?;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{XFF}: {}\r\n\r\n", addresses("C"));
    for (policy, expected) in [("", "L"), (BEHIND_LB, "C"), ("trustedProxies: [CDN]", "L")] {
        stand.change(|dir| dir.write("gateway.yaml", &gateway(policy)))?;
        let seen = client.request(&request)?.seen()?;
        assert_eq!(seen.header("x-real-ip"), Some(addresses(expected)), "{policy:?}");
    }
    Ok(())
}

#[test]
fn refused_requests_are_logged_with_their_client_too() -> Result<()> {
    let bench = Bench::start(&[(ANY, BEHIND_LB), (ANY, REQUIRED)])?;
    let log = |target: &str| bench.stand.log_line(|line| line["target"] == target);
    // The path says nothing clear; the client is known all the same.
    let unsafe_path =
        |tag: &str| format!("GET /{tag}/%2e%2e%2f HTTP/1.1\r\nHost: {HOST}\r\n{XFF}: {}\r\n\r\n", addresses("E, C"));
    for (policy, tag, first, provenance) in
        [(BEHIND_LB, "forwarded", First::Payload, "x-forwarded-for"), (REQUIRED, "proxied", First::V2("C"), "proxy-v2")]
    {
        let dial = bench.dial(ANY, policy, false, address("L")).preamble(&first.bytes());
        let response = RawClient::open(&dial)?.request(unsafe_path(tag))?;
        assert_eq!(response.header("x-headwater-fault").as_deref(), Some("unsafe_path"), "{tag}");
        let line = log(&format!("/{tag}/%2e%2e%2f"))?;
        assert_eq!((&line["client"], &line["provenance"]), (&addresses("C").into(), &provenance.into()), "{line}");
        // Where not even the head can be read, the sender is all there is.
        let response = RawClient::open(&dial)?.request("GET / HTTP/1.1\r\nHost : x\r\n\r\n")?;
        assert_eq!(response.status, 400, "{tag}");
        let sender = if policy == REQUIRED { "C" } else { "L" };
        let is = |line: &serde_json::Value| line["fault"] == "bad_request" && line["client"] == addresses(sender);
        bench.stand.log_line(is)?;
    }
    Ok(())
}
