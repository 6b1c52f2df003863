//! Which headers reach a backend.

use std::io::Write;

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::ask::{Protocol, ask};
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::http2;
use headwater_testkit::origin::{Origin, RawOrigin};
use headwater_testkit::response::values;

use crate::{ANY, BEHIND_LB, Bench, HOST, XFF, address, addresses, ask_once};

#[test]
fn what_backends_believe_is_removed_from_untrusted_senders_however_it_is_spelled() -> Result<()> {
    const OF_UNTRUSTED: &[&str] = &[
        "True-Client-IP",
        "CF-Connecting-IP",
        "CF-Connecting-IPv6",
        "Client-IP",
        "X-Client-IP",
        "X-Cluster-Client-IP",
        "Fastly-Client-IP",
        "X-Azure-ClientIP",
        "X-Envoy-External-Address",
        "X-Forwarded",
        "Forwarded-For",
        "Proxy",
    ];
    const OF_ALL: &[&str] = &[
        XFF,
        "X-Real-IP",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Forwarded-Scheme",
        "X-Scheme",
        "X-Original-Forwarded-For",
        "X-Request-ID",
        "Forwarded",
    ];
    let bench = Bench::start(&[(ANY, ""), (ANY, BEHIND_LB)])?;
    for (policy, from, trusted) in [("", "E", false), (BEHIND_LB, "E", false), (BEHIND_LB, "L", true)] {
        for protocol in Protocol::ALL {
            for (index, name) in OF_UNTRUSTED.iter().chain(OF_ALL).enumerate() {
                let spellings =
                    [(*name).to_owned(), name.replace('-', "_"), name.to_ascii_uppercase(), name.replacen('-', "_", 1)];
                let headers = spellings.each_ref().map(|name| (name.as_str(), "forged.test"));
                let headers = if trusted { &headers[..1] } else { &headers[..] };
                let seen = ask(protocol, &bench.dial(ANY, policy, false, address(from)), HOST, headers)?;
                let through = seen.headers().iter().filter(|(_, value)| value.contains("forged")).count();
                // A trusted sender's claims pass, but for those that are ours to write: these are believed, or copied.
                let original = usize::from(*name == XFF);
                let kept = match (trusted, index < OF_UNTRUSTED.len()) {
                    (true, true) => 1,
                    (true, false) => original + usize::from(["X-Forwarded-Host", "X-Request-ID"].contains(name)),
                    (false, _) => original,
                };
                assert_eq!(
                    through,
                    kept,
                    "{name} over {protocol:?} from {from} under {policy:?}: {:?}",
                    seen.headers()
                );
            }
        }
    }
    Ok(())
}

#[test]
fn the_header_that_a_policy_believes_is_removed_from_untrusted_senders() -> Result<()> {
    let policy = "trustedProxies: [L], forwardedHeader: X-Edge-Client";
    let bench = Bench::start(&[(ANY, policy)])?;
    for protocol in Protocol::ALL {
        let headers = [("X-Edge-Client", "127.0.0.66"), ("X_Edge_Client", "127.0.0.66")];
        let seen = ask(protocol, &bench.dial(ANY, policy, false, address("C")), HOST, &headers)?;
        let names: Vec<String> = seen.headers().into_iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        assert!(!names.iter().any(|name| name.contains("edge")), "{protocol:?}: {names:?}");
        assert_eq!(seen.header("x-real-ip"), Some(addresses("C")));
    }
    Ok(())
}

#[test]
fn a_request_id_is_kept_from_a_trusted_sender_only_and_only_when_it_is_one() -> Result<()> {
    let bench = Bench::start(&[(ANY, BEHIND_LB)])?;
    let id = |from: &str, ids: &[&str]| -> Result<String> {
        let headers: Vec<_> = ids.iter().map(|id| ("X-Request-ID", *id)).collect();
        ask_once(&bench.dial(ANY, BEHIND_LB, false, address(from)), &headers)?.header("x-request-id").context("an id")
    };
    let is_fresh = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert_eq!(id("L", &["from-the-edge"])?, "from-the-edge");
    let long = "x".repeat(129);
    for (from, ids) in
        [("E", &["forged"][..]), ("L", &[]), ("L", &["one", "two"]), ("L", &["with space"]), ("L", &[&long])]
    {
        let given = id(from, ids)?;
        assert!(is_fresh(&given), "{from} {ids:?}: {given}");
    }
    assert_ne!(id("C", &[])?, id("C", &[])?);
    Ok(())
}

#[test]
fn the_inbound_header_is_passed_on_unchanged_as_the_original() -> Result<()> {
    let bench = Bench::start(&[(ANY, BEHIND_LB)])?;
    for (from, inbound, expected) in [
        ("E", &["garbage , ;x, 1.2.3.4:5"][..], Some("garbage , ;x, 1.2.3.4:5")),
        ("L", &["one", "two, 127.0.0.7"], Some("one, two, 127.0.0.7")),
        ("L", &[], None),
    ] {
        let headers: Vec<_> = inbound.iter().map(|value| (XFF, *value)).collect();
        let seen = ask_once(&bench.dial(ANY, BEHIND_LB, false, address(from)), &headers)?;
        assert_eq!(seen.header("x-original-forwarded-for").as_deref(), expected, "{from} {inbound:?}");
    }
    Ok(())
}

#[test]
fn forwarded_is_written_with_one_element_for_each_verified_hop() -> Result<()> {
    let policy = "trustedProxies: [L], forwardedHeader: X-Forwarded-For, emitForwarded: true";
    let bench = Bench::start(&[(ANY, policy)])?;
    for (from, inbound, expected) in [
        ("C", "E", "for=C;by=_headwater;host=app.test;proto=http"),
        ("L", "E, C", "for=C;by=_proxy;host=app.test;proto=http, for=L;by=_headwater;host=app.test;proto=http"),
        ("L", "C6", "for=\"[C6]\";by=_proxy;host=app.test;proto=http, for=L;by=_headwater;host=app.test;proto=http"),
    ] {
        for protocol in Protocol::ALL {
            let headers = [(XFF, &*addresses(inbound)), ("Forwarded", "for=127.0.0.66")];
            let seen = ask(protocol, &bench.dial(ANY, policy, false, address(from)), HOST, &headers)?;
            assert_eq!(seen.header("forwarded"), Some(addresses(expected)), "{protocol:?} from {from}");
        }
    }
    Ok(())
}

#[test]
fn trailers_say_nothing_about_the_client() -> Result<()> {
    const NAMES: &[&str] = &[
        "x-forwarded-for",
        "x_forwarded_for",
        "x-real-ip",
        "X_Real_IP",
        "forwarded",
        "true-client-ip",
        "cf-connecting-ip",
        "x-forwarded-proto",
        "x-request-id",
        "x-original-forwarded-for",
        "x-client-ip",
        "client_ip",
        "proxy",
    ];
    let origin = Origin::http("backend")?;
    for app_protocol in ["", "kubernetes.io/h2c"] {
        let app = format!(
            "{}---\n{}",
            Stand::ingress("app", HOST, "/", "app"),
            Stand::service("app", app_protocol, &[origin.address()])
        );
        let stand = Stand::start(&[("gateway.yaml", Stand::gateway("")), ("app.yaml", app)])?;
        let dial = Dial::to(stand.address("http")).source(address("E"));
        let mut request =
            format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n");
        let mut two = http2::Request::post(HOST, "/", b"x");
        for name in NAMES {
            request.push_str(&format!("{name}: forged\r\n"));
            two.trailers.push((name.to_ascii_lowercase(), "forged".to_owned()));
        }
        request.push_str("X-Checksum: kept\r\n\r\n");
        two.trailers.push(("x-checksum".to_owned(), "kept".to_owned()));
        for (version, response) in
            [("HTTP/1.1", RawClient::open(&dial)?.request(request)?), ("HTTP/2", http2::request(&dial, two)?)]
        {
            let seen = response.seen()?;
            let trailers = seen.trailers();
            assert_eq!(values(&trailers, "x-checksum"), ["kept"], "{version} to {app_protocol:?}");
            assert_eq!(trailers.len(), 1, "{version} to {app_protocol:?}: {trailers:?}");
            assert!(!seen.headers().iter().any(|(_, value)| value == "forged"), "{version} to {app_protocol:?}");
        }
    }
    Ok(())
}

#[test]
fn a_connection_header_neither_hides_the_client_nor_removes_what_backends_hear() -> Result<()> {
    let bench = Bench::start(&[(ANY, BEHIND_LB)])?;
    let names = "X-Forwarded-For, X-Real-IP, X-Forwarded-Proto, X-Forwarded-Host, X-Request-ID, Forwarded, Host";
    for (from, expected) in [("E", "E"), ("L", "C, L")] {
        let headers = [("Connection", names), (XFF, &*addresses("C"))];
        let dial = bench.dial(ANY, BEHIND_LB, false, address(from));
        let mut client = RawClient::open(&dial)?;
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let response = client.request(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n"))?;
        if response.status == 400 {
            // Refusing to drop what is needed is an answer, too.
            continue;
        }
        let seen = response.seen()?;
        assert_eq!(seen.header(XFF), Some(addresses(expected)), "{from}");
        assert_eq!(seen.header("x-real-ip"), Some(addresses(expected.split(',').next().unwrap_or_default())), "{from}");
        for name in ["x-forwarded-proto", "x-forwarded-host", "x-request-id"] {
            assert!(seen.header(name).is_some(), "{name} from {from}");
        }
        assert_eq!((seen.header("connection"), seen.text("host")), (None, HOST), "{from}");
    }
    Ok(())
}

#[test]
fn a_request_that_is_sent_again_names_the_same_client() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        while conn.read_request()?.is_some() {
            if conn.index() == 0 {
                return Ok(());
            }
            conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        }
        Ok(())
    })?;
    let stand = Stand::start(&[
        ("gateway.yaml", Stand::gateway("")),
        ("app.yaml", Stand::app("app", HOST, &[origin.address()])),
    ])?;
    let dial = Dial::to(stand.address("http")).source(address("C"));
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: {}\r\n\r\n", addresses("E"));
    assert_eq!(RawClient::open(&dial)?.request(request)?.status, 200);
    let heads: Vec<String> = origin
        .connections()
        .into_iter()
        .map(|record| String::from_utf8_lossy(&record.bytes).to_ascii_lowercase())
        .collect();
    assert_eq!(heads.len(), 2);
    for head in &heads {
        assert!(head.contains(&addresses("x-real-ip: C\r\n")), "{head}");
    }
    let id = |head: &str| head.lines().find(|line| line.starts_with("x-request-id")).map(str::to_owned);
    assert_eq!(id(&heads[0]), id(&heads[1]), "one request has one id");
    Ok(())
}
