use std::net::SocketAddr;

use headwater_model::client::Trust;

use super::*;
use crate::{Sender, resolve};

const ALWAYS: &[&str] = &[
    "X-Real-IP",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Scheme",
    "X-Scheme",
    "X-Original-Forwarded-For",
    "X-Request-ID",
    "Forwarded",
];
const FROM_UNTRUSTED: &[&str] = &[
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
const NEVER: &[&str] = &[
    "Host",
    "Cookie",
    "Accept",
    "X-Forwarded-Foo",
    "X-Forwarded-Fox",
    "X",
    "F",
    "",
    "Pr0xy",
    "Proxy-Connection",
    "X-Api-Key",
    "Content-Type",
    "X.Real.IP",
    "Xreal-ip",
    "Traceparent",
    "From",
    "X-Real-IP2",
];

fn trusting(net: &str, header: &str) -> ClientAddressPolicy {
    ClientAddressPolicy {
        trust: Trust::Proxies([net.parse().unwrap()].into_iter().collect()),
        forwarded_header: header.parse().unwrap(),
        ..Default::default()
    }
}

#[test]
fn headers_that_name_a_client_are_dropped_in_every_spelling() {
    let policy = ClientAddressPolicy::default();
    for (names, trusted, untrusted) in [
        (ALWAYS, Verdict::Drop, Verdict::Drop),
        (FROM_UNTRUSTED, Verdict::Keep, Verdict::Drop),
        (NEVER, Verdict::Keep, Verdict::Keep),
    ] {
        for name in names {
            let mixed: String =
                name.chars().enumerate().map(|(i, c)| if c == '-' && i % 2 == 0 { '_' } else { c }).collect();
            for name in [name.to_string(), name.to_uppercase(), name.to_lowercase(), name.replace('-', "_"), mixed] {
                assert_eq!(verdict(&policy, name.as_bytes(), true), trusted, "{name}, trusted");
                assert_eq!(verdict(&policy, name.as_bytes(), false), untrusted, "{name}, untrusted");
            }
        }
    }
}

#[test]
fn the_header_the_policy_believes_is_dropped_from_untrusted_senders() {
    let policy = trusting("10.0.0.0/8", "My-Client");
    for (name, trusted_sender, expected) in [
        ("my-client", false, Verdict::Drop),
        ("MY_CLIENT", false, Verdict::Drop),
        ("my-client", true, Verdict::Keep),
        ("my-clients", false, Verdict::Keep),
    ] {
        assert_eq!(verdict(&policy, name.as_bytes(), trusted_sender), expected, "{name}");
    }
}

#[test]
fn every_header_that_is_written_is_one_that_is_dropped() {
    let policy = ClientAddressPolicy { emit_forwarded: true, ..trusting("10.0.0.0/8", "X-Forwarded-For") };
    let mut seen = 0;
    written(&policy, "10.0.0.1", b"a.example", &[("x-forwarded-for", "192.0.2.1")], |name, _| {
        assert_eq!(verdict(&policy, name.as_bytes(), true), Verdict::Drop, "{name}");
        seen += 1;
    });
    assert_eq!(seen, ALWAYS.len());
}

/// Writes the headers of one request both ways, compares, and hands them over.
fn written(
    policy: &ClientAddressPolicy,
    peer: &str,
    authority: &[u8],
    headers: &[(&str, &str)],
    mut each: impl FnMut(&str, &str),
) {
    let local = "192.0.2.80:443".parse().unwrap();
    let mut sender = Sender::of_socket(SocketAddr::new(peer.parse().unwrap(), 1000), local);
    sender.tls = true;
    let client = resolve(policy, &sender, headers);
    let outbound = Outbound { policy, client: &client, headers, authority, fresh_request_id: "fresh" };
    let mut wire = Vec::new();
    outbound.write_http1(&mut wire);
    let wire = String::from_utf8(wire).unwrap();
    let mut lines = wire.split_terminator("\r\n");
    outbound.write_pairs(&mut Vec::new(), |name, value| {
        let value = std::str::from_utf8(value).unwrap();
        let (wire_name, wire_value) = lines.next().unwrap().split_once(": ").unwrap();
        assert_eq!((wire_name.to_lowercase().as_str(), wire_value), (name, value));
        each(name, value);
    });
    assert_eq!(lines.next(), None);
}

fn value_of(policy: &ClientAddressPolicy, peer: &str, headers: &[(&str, &str)], wanted: &str) -> Option<String> {
    let mut found = None;
    written(policy, peer, b"a.example:8443", headers, |name, value| {
        if name == wanted {
            assert_eq!(found.replace(value.to_owned()), None, "{name} twice");
        }
    });
    found
}

#[test]
fn the_connection_is_described() {
    let policy = ClientAddressPolicy::default();
    for (name, expected) in [
        ("x-real-ip", Some("2001:db8::1")),
        ("x-forwarded-for", Some("2001:db8::1")),
        ("x-forwarded-host", Some("a.example:8443")),
        ("x-forwarded-port", Some("443")),
        ("x-forwarded-proto", Some("https")),
        ("x-forwarded-scheme", Some("https")),
        ("x-scheme", Some("https")),
        ("x-request-id", Some("fresh")),
        ("x-original-forwarded-for", None),
        ("forwarded", None),
    ] {
        assert_eq!(value_of(&policy, "2001:db8::1", &[], name).as_deref(), expected, "{name}");
    }
}

#[test]
fn a_request_without_authority_gets_no_host() {
    written(&ClientAddressPolicy::default(), "10.0.0.1", b"", &[], |name, _| assert_ne!(name, "x-forwarded-host"));
    written(&ClientAddressPolicy::default(), "10.0.0.1", b"a\r\nEvil: 1", &[], |name, _| {
        assert_ne!(name, "x-forwarded-host")
    });
}

#[test]
fn the_inbound_header_is_passed_on_unchanged_under_another_name() {
    let policy = ClientAddressPolicy::default();
    for (headers, expected) in [
        (&[("X-Forwarded-For", "evil ,, 1.2.3.4"), ("x-forwarded-for", "b")][..], Some("evil ,, 1.2.3.4, b")),
        (&[("X-Original-Forwarded-For", "evil")], None),
        (&[("X-Forwarded-For", "a\r\nEvil: 1")], None),
        (&[("Forwarded", "for=1.2.3.4")], None),
    ] {
        assert_eq!(value_of(&policy, "10.0.0.1", headers, "x-original-forwarded-for").as_deref(), expected);
    }
}

#[test]
fn only_a_trusted_sender_chooses_the_request_id() {
    let policy = trusting("10.0.0.0/8", "None");
    let long = "i".repeat(129);
    for (peer, headers, expected) in [
        ("10.0.0.1", &[("X-Request-Id", "abc-123")][..], "abc-123"),
        ("10.0.0.1", &[("X-Request-Id", &long[1..])], &long[1..]),
        ("10.0.0.1", &[("X-Request-Id", &long)], "fresh"),
        ("10.0.0.1", &[("X-Request-Id", "a b")], "fresh"),
        ("10.0.0.1", &[("X-Request-Id", "a\r\nEvil: 1")], "fresh"),
        ("10.0.0.1", &[("X-Request-Id", "")], "fresh"),
        ("10.0.0.1", &[("X-Request-Id", "a"), ("x-request-id", "b")], "fresh"),
        ("192.0.2.1", &[("X-Request-Id", "abc-123")], "fresh"),
    ] {
        assert_eq!(value_of(&policy, peer, headers, "x-request-id").as_deref(), Some(expected), "{peer} {headers:?}");
    }
}

#[test]
fn forwarded_has_one_element_per_verified_hop() {
    let policy = ClientAddressPolicy { emit_forwarded: true, ..trusting("10.0.0.0/8", "X-Forwarded-For") };
    let headers = [("x-forwarded-for", "evil, 2001:db8::1, 10.0.0.2"), ("x-forwarded-host", "a.example")];
    assert_eq!(
        value_of(&policy, "10.0.0.1", &headers, "forwarded").unwrap(),
        "for=\"[2001:db8::1]\";by=_proxy;host=a.example;proto=https, \
         for=10.0.0.2;by=_proxy;host=a.example;proto=https, \
         for=10.0.0.1;by=_headwater;host=a.example;proto=https"
    );
    assert_eq!(
        value_of(&policy, "192.0.2.1", &headers, "forwarded").unwrap(),
        "for=192.0.2.1;by=_headwater;host=\"a.example:8443\";proto=https"
    );
}

#[test]
fn what_is_emitted_as_forwarded_is_read_back() {
    let emitting = ClientAddressPolicy { emit_forwarded: true, ..trusting("10.0.0.0/8", "X-Forwarded-For") };
    let headers = [("x-forwarded-for", "2001:db8::1, 10.0.0.2")];
    let value = value_of(&emitting, "10.0.0.1", &headers, "forwarded").unwrap();
    let reading = trusting("10.0.0.0/8", "Forwarded");
    let sender = Sender::of_socket("10.0.0.9:1".parse().unwrap(), "192.0.2.80:80".parse().unwrap());
    let client = resolve(&reading, &sender, &[("Forwarded", value)][..]);
    let chain: Vec<String> = client.chain.iter().map(ToString::to_string).collect();
    assert_eq!(chain, ["2001:db8::1", "10.0.0.2", "10.0.0.1", "10.0.0.9"]);
    assert_eq!(client.host(b""), b"a.example:8443");
    assert_eq!(client.scheme.as_str(), "https");
}
