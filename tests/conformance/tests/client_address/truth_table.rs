//! Every row of the truth table in every protocol, and the rows that are known gaps.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use headwater_conformance_tests::Stand;
use headwater_testkit::ask::{Protocol, ask};
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::response::Seen;
use headwater_testkit::wait;

use crate::{ANY, BEHIND_LB, Bench, First, HOST, OPTIONAL, REQUIRED, XFF, address, addresses};

#[derive(Clone, Copy)]
enum Expected {
    /// `R`, provenance, X-Forwarded-For.
    Client(&'static str, &'static str, &'static str),
    /// Closed without a byte, for this reason in the metrics.
    Closed(&'static str),
    /// Answered with this fault, then closed; under TLS no handshake comes about.
    Fault(&'static str),
}

struct Row {
    number: u32,
    /// `clientAddress` of the listener.
    policy: &'static str,
    /// The listener's address.
    listen: &'static str,
    from: &'static str,
    first: First,
    inbound: &'static [(&'static str, &'static str)],
    expected: Expected,
    /// Headers that the backend sees, where they are not what the connection says.
    also: &'static [(&'static str, &'static str)],
}

use Expected::{Client, Closed, Fault};

const ROW: Row = Row {
    number: 0,
    policy: "",
    listen: ANY,
    from: "C",
    first: First::Payload,
    inbound: &[],
    expected: Client("C", "socket", "C"),
    also: &[],
};
const LB: Row = Row { policy: BEHIND_LB, from: "L", ..ROW };
const KEEP: Row = Row { policy: "trustedProxies: [L], forwardedHeader: X-Forwarded-For, keepUnverified: true", ..LB };
const ALL_V4: Row = Row { policy: "trustedProxies: [0.0.0.0/0], forwardedHeader: X-Forwarded-For", listen: "::", ..LB };
const FORWARDED: Row = Row { policy: "trustedProxies: [L], forwardedHeader: Forwarded", ..LB };
const REAL_IP: Row = Row { policy: "trustedProxies: [L], forwardedHeader: X-Real-IP", ..LB };
const OWN: Row = Row { policy: "trustedProxies: [L], forwardedHeader: True-Client-IP", ..LB };
const PROXY_REQUIRED: Row = Row { policy: REQUIRED, from: "L", ..ROW };
const PROXY_OPTIONAL: Row = Row { policy: OPTIONAL, ..PROXY_REQUIRED };
const BOTH: Row = Row {
    policy: "trustedProxies: [L, CDN], proxyProtocol: Required, forwardedHeader: X-Forwarded-For",
    first: First::V2("CDN"),
    ..PROXY_REQUIRED
};
const HOPS: Row = Row { policy: "trustedHops: 2, forwardedHeader: X-Forwarded-For", ..LB };

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { number: 1, ..ROW },
    Row { number: 2, inbound: &[(XFF, "E")], ..ROW },
    Row { number: 3, inbound: &[(XFF, "E"), (XFF, "L"), (XFF, "E"), ("X-Real-IP", "E"), ("Forwarded", "for=E;proto=https;host=evil"),
        ("CF-Connecting-IP", "E")], ..ROW },
    Row { number: 4, first: First::V1("E"), expected: Fault("proxy_header"), ..ROW },
    Row { number: 4, first: First::V2("E"), expected: Fault("proxy_header"), ..ROW },
    Row { number: 5, inbound: &[(XFF, "C")], expected: Client("C", "x-forwarded-for", "C, L"), ..LB },
    Row { number: 6, expected: Client("L", "socket", "L"), ..LB },
    Row { number: 7, from: "C", inbound: &[(XFF, "E")], ..LB },
    Row { number: 8, inbound: &[(XFF, "E, C")], expected: Client("C", "x-forwarded-for", "C, L"), ..LB },
    Row { number: 8, inbound: &[(XFF, "E"), (XFF, "C")], expected: Client("C", "x-forwarded-for", "C, L"), ..LB },
    // The spelling that the load balancer does not append to.
    Row { number: 8, inbound: &[(XFF, "C"), ("X_Forwarded_For", "E")], expected: Client("C", "x-forwarded-for", "C, L"), ..LB },
    Row { number: 8, inbound: &[(XFF, "E , ,C:4711 ,")], expected: Client("C", "x-forwarded-for", "C, L"), ..LB },
    Row { number: 9, inbound: &[(XFF, "E, C")], expected: Client("C", "x-forwarded-for", "E, C, L"), ..KEEP },
    Row { number: 9, from: "C", inbound: &[(XFF, "E")], ..KEEP },
    Row { number: 10, policy: "trustedProxies: [L1, L2], forwardedHeader: X-Forwarded-For", inbound: &[(XFF, "E, C, L2")],
        expected: Client("C", "x-forwarded-for", "C, L2, L1"), ..LB },
    Row { number: 11, inbound: &[(XFF, "C, unknown")], expected: Client("L", "socket", "L"), ..LB },
    Row { number: 12, inbound: &[(XFF, "E")], expected: Client("E", "x-forwarded-for", "E, L"), ..ALL_V4 },
    Row { number: 13, from: "P6", inbound: &[(XFF, "E")], expected: Client("P6", "socket", "P6"), ..ALL_V4 },
    // A dual-stack socket sees `::ffff:L`.
    Row { number: 14, listen: "::", inbound: &[(XFF, "C")], expected: Client("C", "x-forwarded-for", "C, L"), ..LB },
    Row { number: 15, inbound: &[(XFF, "[C6]:443")], expected: Client("C6", "x-forwarded-for", "C6, L"), ..LB },
    Row { number: 15, inbound: &[(XFF, "::ffff:C")], expected: Client("C", "x-forwarded-for", "C, L"), ..LB },
    Row { number: 16, inbound: &[("Forwarded", r#"for="[C6]";proto=https"#)], expected: Client("C6", "forwarded", "C6, L"),
        also: &[("X-Forwarded-Proto", "https"), ("X-Forwarded-Scheme", "https"), ("X-Scheme", "https")], ..FORWARDED },
    Row { number: 17, inbound: &[(XFF, "E")], expected: Client("L", "socket", "L"), ..FORWARDED },
    Row { number: 18, inbound: &[("X-Real-IP", "C")], expected: Client("C", "x-real-ip", "C, L"), ..REAL_IP },
    Row { number: 18, inbound: &[("True-Client-IP", "C")], expected: Client("C", "header:true-client-ip", "C, L"),
        also: &[("True-Client-IP", "C")], ..OWN },
    Row { number: 19, inbound: &[("X-Real-IP", "E"), ("X-Real-IP", "E")], expected: Client("L", "socket", "L"), ..REAL_IP },
    Row { number: 20, first: First::V1("C"), expected: Client("C", "proxy-v1", "C"), ..PROXY_REQUIRED },
    Row { number: 21, first: First::V2("C6"), expected: Client("C6", "proxy-v2", "C6"), ..PROXY_REQUIRED },
    Row { number: 21, first: First::V2("::ffff:C"), expected: Client("C", "proxy-v2", "C"), ..PROXY_REQUIRED },
    Row { number: 22, expected: Closed("missing"), ..PROXY_REQUIRED },
    Row { number: 23, from: "E", first: First::V1("C"), expected: Closed("peer-not-trusted"), ..PROXY_REQUIRED },
    Row { number: 24, expected: Client("L", "socket", "L"), ..PROXY_OPTIONAL },
    Row { number: 25, from: "C", ..PROXY_OPTIONAL },
    Row { number: 26, from: "E", first: First::V2("C"), expected: Closed("header-from-untrusted-peer"), ..PROXY_OPTIONAL },
    Row { number: 26, from: "E", first: First::V1("C"), expected: Closed("header-from-untrusted-peer"), ..PROXY_OPTIONAL },
    Row { number: 27, first: First::V2Local, expected: Client("L", "socket", "L"), ..PROXY_OPTIONAL },
    Row { number: 27, first: First::V2Local, expected: Client("L", "socket", "L"), ..PROXY_REQUIRED },
    Row { number: 27, first: First::V2Unspec, expected: Client("L", "socket", "L"), ..PROXY_REQUIRED },
    Row { number: 27, first: First::V2Unix, expected: Client("L", "socket", "L"), ..PROXY_OPTIONAL },
    Row { number: 27, first: First::V1Unknown, expected: Client("L", "socket", "L"), ..PROXY_REQUIRED },
    Row { number: 28, inbound: &[(XFF, "C")], expected: Client("C", "x-forwarded-for", "C, CDN"), ..BOTH },
    Row { number: 28, inbound: &[(XFF, "E, C")], expected: Client("C", "x-forwarded-for", "C, CDN"), ..BOTH },
    Row { number: 29, policy: "trustedProxies: [L], proxyProtocol: Required, forwardedHeader: X-Forwarded-For",
        first: First::V2("C"), inbound: &[(XFF, "E")], expected: Client("C", "proxy-v2", "C"), ..BOTH },
    Row { number: 30, expected: Client("CDN", "proxy-v2", "CDN"), ..BOTH },
    Row { number: 31, first: First::V2BadSum("C"), expected: Closed("malformed"), ..PROXY_REQUIRED },
    Row { number: 31, first: First::V2BadSum("C"), expected: Closed("malformed"), ..PROXY_OPTIONAL },
    Row { number: 34, inbound: &[(XFF, "E, C, L2")], expected: Client("C", "x-forwarded-for", "C, L2, L1"), ..HOPS },
    // A PROXY header uses up a hop.
    Row { number: 34, policy: "trustedHops: 2, proxyProtocol: Required, forwardedHeader: X-Forwarded-For", first: First::V2("CDN"),
        inbound: &[(XFF, "E, C")], expected: Client("C", "x-forwarded-for", "C, CDN"), ..LB },
    Row { number: 34, policy: "trustedHops: 1, proxyProtocol: Required, forwardedHeader: X-Forwarded-For", first: First::V2("C"),
        inbound: &[(XFF, "E")], expected: Client("C", "proxy-v2", "C"), ..LB },
    Row { number: 35, from: "C", ..HOPS },
    Row { number: 40, from: "C", inbound: &[("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil"), ("X-Forwarded-Port", "1"),
        ("X-Forwarded-Scheme", "https"), ("X-Scheme", "https")], ..LB },
    // The same from a trusted sender is believed.
    Row { number: 40, inbound: &[(XFF, "C"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "shop.test"), ("X-Forwarded-Port", "8443")],
        expected: Client("C", "x-forwarded-for", "C, L"),
        also: &[("X-Forwarded-Proto", "https"), ("X-Forwarded-Scheme", "https"), ("X-Scheme", "https"), ("X-Forwarded-Host", "shop.test"),
            ("X-Forwarded-Port", "8443")], ..LB },
];

impl Row {
    fn dial(&self, bench: &Bench, tls: bool) -> Dial {
        bench.dial(self.listen, self.policy, tls, address(self.from)).preamble(&self.first.bytes())
    }

    fn inbound(&self) -> Vec<(&str, String)> {
        self.inbound.iter().map(|(name, value)| (*name, addresses(value))).collect()
    }

    /// Asks in one protocol and judges what the backend saw.
    fn ask(&self, bench: &Bench, protocol: Protocol, tls: bool, tag: &str) -> Result<()> {
        let dial = self.dial(bench, tls);
        let (client, xff) = match self.expected {
            Client(client, _, xff) => (addresses(client), addresses(xff)),
            Closed(_) => return self.is_closed(bench, protocol, &dial),
            Fault(word) => return self.is_fault(word, protocol, &dial),
        };
        let inbound = self.inbound();
        let mut headers: Vec<(&str, &str)> = inbound.iter().map(|(name, value)| (*name, &**value)).collect();
        headers.push(("user-agent", tag));
        let seen = ask(protocol, &dial, HOST, &headers)?;
        let scheme = if tls { "https" } else { "http" };
        let port = if self.first.names_a_destination() { First::PORT } else { dial.address.port() }.to_string();
        let mut expected = vec![
            ("X-Real-IP", client.clone()),
            (XFF, xff.clone()),
            ("X-Forwarded-Host", HOST.to_owned()),
            ("X-Forwarded-Port", port),
        ];
        expected.extend(["X-Forwarded-Proto", "X-Forwarded-Scheme", "X-Scheme"].map(|name| (name, scheme.to_owned())));
        for (name, value) in self.also {
            expected.retain(|(known, _)| known != name);
            expected.push((name, addresses(value)));
        }
        let original: Vec<&str> = inbound.iter().filter(|(name, _)| *name == XFF).map(|(_, value)| &**value).collect();
        if !original.is_empty() {
            expected.push(("X-Original-Forwarded-For", original.join(", ")));
        }
        let heard = heard(&seen);
        for (name, value) in &expected {
            let values: Vec<_> = heard.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).collect();
            ensure!(values.len() == 1 && values[0].1 == *value, "{name} is {values:?}, not {value:?}");
        }
        let id = heard.iter().filter(|(name, _)| name == "x-request-id").count();
        ensure!(heard.len() == expected.len() + id && id == 1, "more than {expected:?} is heard: {heard:?}");
        let evil = addresses("E");
        for (name, value) in seen.headers() {
            let may = name.eq_ignore_ascii_case(XFF) || name.eq_ignore_ascii_case("X-Original-Forwarded-For");
            ensure!(client == evil || may || !value.contains(&evil), "{name}: {value} came through");
        }
        Ok(())
    }

    /// Not one byte is answered, and the refusal is counted.
    fn is_closed(&self, bench: &Bench, protocol: Protocol, dial: &Dial) -> Result<()> {
        let Closed(reason) = self.expected else { unreachable!("asked for rows that close") };
        let series = format!("headwater_gateway_proxy_protocol_refused_total{{reason=\"{reason}\"}}");
        let before = bench.stand.metric(&series);
        match &dial.tls {
            Some(_) => ensure!(dial.open().is_err(), "there is a TLS handshake"),
            None => {
                let mut client = RawClient::open(dial)?;
                // The gateway may have closed already; what counts is what it said.
                let _ = client.send(match protocol.alpn() {
                    "h2" => "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
                    _ => "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
                });
                let answer = client.closed()?;
                ensure!(answer.is_empty(), "answered {:?}", String::from_utf8_lossy(&answer));
            }
        }
        wait::until(dial.deadline, || bench.stand.metric(&series) > before)
            .with_context(|| format!("{series} is not counted"))
    }

    fn is_fault(&self, word: &str, protocol: Protocol, dial: &Dial) -> Result<()> {
        if dial.tls.is_some() {
            ensure!(dial.open().is_err(), "there is a TLS handshake");
            return Ok(());
        }
        let mut client = RawClient::open(dial)?;
        let _ = client.send(match protocol.alpn() {
            "h2" => "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            _ => "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
        });
        let response = client.read_response()?;
        let fault = response.header("x-headwater-fault");
        ensure!(response.status == 400 && fault.as_deref() == Some(word), "answered {response:?}");
        client.closed()?;
        Ok(())
    }
}

/// The headers by which a backend could learn of the client, with `-` for `_`.
fn heard(seen: &Seen) -> Vec<(String, String)> {
    const NAMES: &[&str] = &[
        "forwarded",
        "true-client-ip",
        "cf-connecting-ip",
        "cf-connecting-ipv6",
        "client-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "fastly-client-ip",
        "x-azure-clientip",
        "x-envoy-external-address",
        "forwarded-for",
        "proxy",
        "x-real-ip",
        "x-original-forwarded-for",
        "x-request-id",
        "x-scheme",
    ];
    let fold = |(name, value): (String, String)| (name.to_ascii_lowercase().replace('_', "-"), value);
    let told = |(name, _): &(String, String)| NAMES.contains(&&**name) || name.starts_with("x-forwarded");
    seen.headers().into_iter().map(fold).filter(told).collect()
}

#[test]
fn every_row_of_the_truth_table_holds_in_every_protocol() -> Result<()> {
    let policies: Vec<_> = ROWS.iter().map(|row| (row.listen, row.policy)).collect();
    let bench = Bench::start(&policies)?;
    // Row 12 is obeyed, and told.
    let told = bench.stand.findings().iter().filter(|finding| finding.reason == "TrustsEverybody").count();
    assert_eq!(told, 2, "{:?}", bench.stand.findings());
    let mut wrong = Vec::new();
    let mut asked = Vec::new();
    for (index, row) in ROWS.iter().enumerate() {
        for protocol in Protocol::ALL {
            for tls in [false, true] {
                let tag = format!("row {} ({index}) {protocol:?}{}", row.number, if tls { " TLS" } else { "" });
                match row.ask(&bench, protocol, tls, &tag) {
                    Ok(()) => asked.push((row, tag)),
                    Err(error) => wrong.push(format!("{tag}: {error:#}")),
                }
            }
        }
    }
    for (row, tag) in asked {
        let Client(client, provenance, _) = row.expected else { continue };
        let line = bench.stand.log_line(|line| line["user_agent"] == tag).with_context(|| tag.clone())?;
        let peer: SocketAddr = line["peer"].as_str().context("peer")?.parse()?;
        let said = (line["client"].as_str(), line["provenance"].as_str(), peer.ip());
        let expected = (Some(&*addresses(client)), Some(provenance), address(row.from));
        if said != expected {
            wrong.push(format!("{tag}: the log says {said:?}, not {expected:?}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    Ok(())
}

/// What asks for a row that is not served yet: settings, annotations of the Ingress, and the finding that refuses it.
struct Gap {
    number: u32,
    spec: &'static str,
    annotation: &'static str,
    field: &'static str,
}

const GAPS: &[Gap] = &[
    Gap {
        number: 32,
        spec: "clientAddress: {trustedProxies: [L], toa: true}",
        annotation: "",
        field: "spec.clientAddress.toa",
    },
    Gap {
        number: 33,
        spec: "listeners:\n  - {name: http, port: 0, protocol: HTTP, clientAddress: {trustedProxies: [L], toa: true}}",
        annotation: "",
        field: "spec.listeners[0].clientAddress.toa",
    },
];

fn known_gaps() -> BTreeSet<u32> {
    let lines = include_str!("../../known_gaps.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(' ').next().and_then(|number| number.parse().ok()).expect("a row's number")).collect()
}

#[test]
fn a_row_is_refused_with_a_finding_exactly_while_it_is_a_known_gap() -> Result<()> {
    let known = known_gaps();
    for gap in GAPS {
        let mut app = Stand::app("app", HOST, &["127.0.0.1:9".parse()?]);
        if !gap.annotation.is_empty() {
            app = app.replacen("metadata:\n", &format!("metadata:\n  annotations:\n    {}\n", gap.annotation), 1);
        }
        let spec = addresses(gap.spec);
        let gateway = if spec.contains("listeners") { Stand::gateway_with(&spec) } else { Stand::gateway(&spec) };
        let stand = Stand::start(&[("gateway.yaml", gateway), ("app.yaml", app)])?;
        let findings = stand.findings();
        let refused = findings.iter().any(|finding| {
            finding.field == gap.field && finding.severity >= headwater_model::finding::Severity::Warning
        });
        let number = gap.number;
        if known.contains(&number) {
            assert!(
                refused,
                "row {number} is no longer refused: take it from known_gaps.txt and add it to the table; {findings:?}"
            );
        } else {
            assert!(!refused, "row {number} is refused and not in known_gaps.txt");
        }
    }
    Ok(())
}

#[test]
fn every_row_of_the_contract_is_tested_or_a_known_gap() {
    let tested: BTreeSet<u32> = ROWS.iter().map(|row| row.number).collect();
    let gaps: BTreeSet<u32> = GAPS.iter().map(|gap| gap.number).collect();
    let known = known_gaps();
    assert_eq!(tested.intersection(&known).count(), 0, "a row in the table is no gap");
    assert!(known.is_subset(&gaps), "each known gap is tried: {known:?}");
    // Rows 36 to 38 are in carried.rs, row 39 is every other row in every protocol.
    let all: BTreeSet<u32> = tested.union(&known).copied().chain(36..=39).collect();
    assert_eq!(all, (1..=40).collect::<BTreeSet<u32>>());
}
