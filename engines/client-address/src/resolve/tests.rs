use headwater_model::client::Trust;
use proptest::prelude::*;

use super::*;

fn policy(trusted: &[&str], header: &str) -> ClientAddressPolicy {
    ClientAddressPolicy {
        trust: Trust::Proxies(trusted.iter().map(|net| net.parse().unwrap()).collect()),
        forwarded_header: header.parse().unwrap(),
        ..Default::default()
    }
}

fn sender(peer: &str) -> Sender {
    Sender::of_socket(SocketAddr::new(peer.parse().unwrap(), 1000), "192.0.2.80:8080".parse().unwrap())
}

const ALL_TEN: &[&str] = &["10.0.0.0/8"];

#[test]
fn at_most_64_entries_are_looked_at() {
    let entries: Vec<String> = (0..100).map(|n| format!("10.1.0.{n}")).collect();
    let value = format!("203.0.113.7, {}", entries.join(",,"));
    let client = resolve(&policy(ALL_TEN, "X-Forwarded-For"), &sender("10.0.0.1"), &[("x-forwarded-for", value)][..]);
    assert_eq!(client.addr.to_string(), "10.1.0.36");
    assert_eq!(client.chain.len(), 65);
}

#[test]
fn the_leftmost_entry_wins_when_all_are_trusted() {
    let headers = [("x-forwarded-for", "10.0.0.3, 10.0.0.2")];
    let client = resolve(&policy(ALL_TEN, "X-Forwarded-For"), &sender("10.0.0.1"), &headers[..]);
    assert_eq!(client.addr.to_string(), "10.0.0.3");
    assert!(!client.chain.spilled());
}

#[test]
fn the_port_of_the_client_is_its_own_or_unknown() {
    for (value, expected) in
        [("203.0.113.7:4711", Some(4711)), ("203.0.113.7", None), ("", Some(1000)), ("x", Some(1000))]
    {
        let headers = [("x-forwarded-for", value)];
        let client = resolve(&policy(ALL_TEN, "X-Forwarded-For"), &sender("10.0.0.1"), &headers[..]);
        assert_eq!(client.port, expected, "{value:?}");
    }
}

#[test]
fn scheme_host_and_port_stand_as_far_from_the_right_as_the_client() {
    // forwarding header, proto, host, port; expected scheme, host, port
    for (header, headers, expected) in [
        (
            "X-Forwarded-For",
            &[("x-forwarded-proto", "https"), ("x-forwarded-host", "a.example:8443"), ("x-forwarded-port", "8443")][..],
            ("https", "a.example:8443", 8443),
        ),
        (
            "X-Forwarded-For",
            &[
                ("x-forwarded-for", "203.0.113.7"),
                ("x-forwarded-proto", "https, http"),
                ("x-forwarded-host", "evil"),
                ("x-forwarded-host", "b.example"),
            ],
            ("http", "b.example", 8080),
        ),
        (
            "X-Forwarded-For",
            &[
                ("x-forwarded-for", "203.0.113.7, 10.0.0.2"),
                ("x-forwarded-proto", "http, https, http"),
                ("x-forwarded-port", "443"),
            ],
            ("https", "own.example", 443),
        ),
        (
            "X-Real-IP",
            &[("x-forwarded-proto", "WSS"), ("x-forwarded-host", "a b"), ("x-forwarded-port", "0")],
            ("https", "own.example", 8080),
        ),
        (
            "X-Forwarded-For",
            &[("x-forwarded-proto", "gopher"), ("x-forwarded-host", "\"x\""), ("x-forwarded-port", "99999")],
            ("http", "own.example", 8080),
        ),
        ("X-Forwarded-For", &[("forwarded", "proto=https;host=evil")], ("http", "own.example", 8080)),
        ("Forwarded", &[("x-forwarded-proto", "https"), ("x-forwarded-host", "evil")], ("http", "own.example", 8080)),
        (
            "Forwarded",
            &[("forwarded", "for=203.0.113.7;proto=https;host=c.example, for=10.0.0.2;proto=http;host=d.example")],
            ("https", "c.example", 8080),
        ),
        (
            "Forwarded",
            &[("forwarded", "for=1.1.1.1;proto=https;host=evil, for=203.0.113.7;proto=http")],
            ("http", "own.example", 8080),
        ),
        ("Forwarded", &[("forwarded", "for=_hidden;proto=https")], ("https", "own.example", 8080)),
        ("None", &[("x-forwarded-proto", "https")], ("http", "own.example", 8080)),
    ] {
        let client = resolve(&policy(ALL_TEN, header), &sender("10.0.0.1"), headers);
        let host = String::from_utf8_lossy(client.host(b"own.example")).into_owned();
        assert_eq!((client.scheme.as_str(), host.as_str(), client.server_port), expected, "{header} {headers:?}");
        let connection_only = ClientAddressPolicy { trust_scheme: false, ..policy(ALL_TEN, header) };
        let client = resolve(&connection_only, &sender("10.0.0.1"), headers);
        assert_eq!((client.scheme, client.forwarded_host, client.server_port), (Scheme::Http, None, 8080));
    }
}

#[test]
fn unverified_nodes_of_forwarded_are_passed_on_without_the_rest() {
    let policy = ClientAddressPolicy { keep_unverified: true, ..policy(ALL_TEN, "Forwarded") };
    let headers =
        [("forwarded", r#"for="[2001:db8::5]";by=x, for="[2001:db8::6]:1", garbage, for=unknown, for="203.0.113.7""#)];
    let client = resolve(&policy, &sender("10.0.0.1"), &headers[..]);
    assert_eq!(client.unverified.as_deref(), Some(&b"2001:db8::5, [2001:db8::6]:1, unknown"[..]));
}

#[test]
fn a_proxy_header_brings_the_port_the_client_connected_to() {
    let mut line = Vec::new();
    crate::proxy::write_v1("203.0.113.7:9".parse().ok(), "192.0.2.1:443".parse().ok(), &mut line);
    let Ok(crate::proxy::Parsed::Header(header)) = crate::proxy::parse(&line) else { panic!("a header was written") };
    let client = Client::of_sender(&ClientAddressPolicy::default(), &sender("10.0.0.1").with_proxy(&header));
    assert_eq!((client.socket_addr(), client.server_port), ("203.0.113.7:9".parse().unwrap(), 443));
}

/// Header lines that could matter, with values from good to garbage.
fn any_headers() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = prop::sample::select(vec![
        "X-Forwarded-For",
        "x-forwarded-for",
        "X_Forwarded_For",
        "Forwarded",
        "X-Real-IP",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "True-Client-IP",
        "x-request-id",
    ]);
    let part = "((10\\.0\\.0\\.[0-9])|(203\\.0\\.113\\.[0-9])|(\\[?2001:db8::[0-9]\\]?(:[0-9]{1,3})?)|unknown|https|[ -~]{0,9})";
    let value = (
        part,
        part,
        part,
        prop::sample::select(vec!["{a}", "{a}, {b}", "{a},{b}, {c}", "for={a}, for=\"{b}\";proto={c}"]),
    )
        .prop_map(|(a, b, c, form)| form.replace("{a}", &a).replace("{b}", &b).replace("{c}", &c));
    prop::collection::vec((name.prop_map(str::to_owned), value), 0..6)
}

fn any_header_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["None", "X-Forwarded-For", "Forwarded", "X-Real-IP", "True-Client-IP"])
}

proptest! {
    #[test]
    fn an_untrusted_sender_is_the_client_whatever_it_says(
        headers in any_headers(), header in any_header_name(), keep_unverified: bool, emit_forwarded: bool, by_hops: bool,
    ) {
        let mut policy = ClientAddressPolicy { keep_unverified, emit_forwarded, ..policy(ALL_TEN, header) };
        if by_hops {
            policy.trust = Trust::Hops(0);
        }
        let client = resolve(&policy, &sender("198.51.100.66"), headers.as_slice());
        let mut out = Vec::new();
        client.write_forwarded_for(&mut out);
        prop_assert_eq!(out, b"198.51.100.66");
        prop_assert_eq!(client, Client::of_sender(&policy, &sender("198.51.100.66")));
    }

    #[test]
    fn no_address_left_of_an_untrusted_one_is_ever_the_client(headers in any_headers(), header in any_header_name()) {
        let policy = policy(ALL_TEN, header);
        let client = resolve(&policy, &sender("10.0.0.1"), headers.as_slice());
        for hop in &client.chain[1..] {
            prop_assert!(policy.trust.contains(*hop, 0), "{} speaks through {hop}", client.addr);
        }
        prop_assert_eq!(client.chain[0], client.addr);
        prop_assert_eq!(client.chain.last().unwrap().to_string(), "10.0.0.1");
    }

    #[test]
    fn what_an_untrusted_client_wrote_never_changes_the_answer_of_its_proxy(
        forged in "[ -~]{0,40}", own_line: bool, form in prop::sample::select(vec!["X-Forwarded-For", "Forwarded"]),
    ) {
        let honest = if form == "Forwarded" { "for=203.0.113.7;proto=https" } else { "203.0.113.7" };
        let headers = if own_line {
            vec![(form, forged), (form, honest.to_owned())]
        } else {
            vec![(form, format!("{forged}, {honest}"))]
        };
        let client = resolve(&policy(ALL_TEN, form), &sender("10.0.0.1"), headers.as_slice());
        prop_assert_eq!(client.addr.to_string(), "203.0.113.7");
        prop_assert_eq!(client.scheme == Scheme::Https, form == "Forwarded");
        prop_assert_eq!(client.chain.len(), 2);
    }

    #[test]
    fn requests_of_any_bytes_keep_every_promise(bytes: Vec<u8>, text in "((x-|f|\r|\n|:|,|\"|\\\\|for=|10.0.0.1|[ -~]){0,40}\n){0,4}") {
        crate::fuzz::request(&bytes);
        crate::fuzz::request(text.as_bytes());
    }
}
