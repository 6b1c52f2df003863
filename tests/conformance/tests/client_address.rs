//! Who the client is, over sockets: every row of the truth table in every protocol, and what backends hear of it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use headwater_conformance_tests::Stand;
use headwater_testkit::ask::{Protocol, ask};
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::{Dial, Tls};
use headwater_testkit::grpc;
use headwater_testkit::http2;
use headwater_testkit::origin::Origin;
use headwater_testkit::proxy::{self, V2};
use headwater_testkit::response::Seen;

const HOST: &str = "app.test";

/// The names that the tables use for addresses.
const ADDRESSES: &[(&str, &str)] = &[
    ("C", "127.0.0.7"),
    ("C6", "2001:db8::1"),
    ("E", "127.0.0.66"),
    ("L", "127.0.0.5"),
    ("L1", "127.0.0.5"),
    ("L2", "127.0.0.6"),
    ("CDN", "127.0.0.9"),
    ("P6", "::1"),
];

/// `text` with every word that names an address replaced by it.
fn addresses(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for character in text.chars().chain(['\0']) {
        if character.is_ascii_alphanumeric() || character == '-' {
            word.push(character);
            continue;
        }
        let known = ADDRESSES.iter().find(|(name, _)| *name == word);
        out.push_str(known.map_or(&word, |(_, address)| address));
        word.clear();
        out.push(character);
    }
    out.pop();
    out
}

fn address(name: &str) -> IpAddr {
    addresses(name).parse().expect("the table names an address")
}

/// First bytes of a connection.
#[derive(Clone, Copy)]
enum First {
    Payload,
    V1(&'static str),
    V2(&'static str),
    V2BadSum(&'static str),
    V2Local,
}

impl First {
    /// The PROXY header's destination port, which is not the listener's.
    const PORT: u16 = 4443;

    fn bytes(self) -> Vec<u8> {
        let ends = |name| {
            let source = SocketAddr::new(address(name), 4711);
            let other = if source.is_ipv4() { "192.0.2.80" } else { "2001:db8::80" };
            (source, SocketAddr::new(other.parse().expect("an address"), Self::PORT))
        };
        match self {
            Self::Payload => Vec::new(),
            Self::V1(name) => proxy::v1(ends(name).0, ends(name).1),
            Self::V2(name) => V2::tcp(ends(name).0, ends(name).1).crc().build(),
            Self::V2BadSum(name) => V2::tcp(ends(name).0, ends(name).1).bad_crc().build(),
            Self::V2Local => V2::local().build(),
        }
    }

    fn names_a_destination(self) -> bool {
        matches!(self, Self::V1(_) | Self::V2(_))
    }
}

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

const XFF: &str = "X-Forwarded-For";
const ROW: Row = Row {
    number: 0,
    policy: "",
    listen: "0.0.0.0",
    from: "C",
    first: First::Payload,
    inbound: &[],
    expected: Client("C", "socket", "C"),
    also: &[],
};
const LB: Row = Row { policy: "trustedProxies: [L], forwardedHeader: X-Forwarded-For", from: "L", ..ROW };
const KEEP: Row = Row { policy: "trustedProxies: [L], forwardedHeader: X-Forwarded-For, keepUnverified: true", ..LB };
const ALL_V4: Row = Row { policy: "trustedProxies: [0.0.0.0/0], forwardedHeader: X-Forwarded-For", listen: "::", ..LB };
const FORWARDED: Row = Row { policy: "trustedProxies: [L], forwardedHeader: Forwarded", ..LB };
const REAL_IP: Row = Row { policy: "trustedProxies: [L], forwardedHeader: X-Real-IP", ..LB };
const OWN: Row = Row { policy: "trustedProxies: [L], forwardedHeader: True-Client-IP", ..LB };
const REQUIRED: Row = Row { policy: "trustedProxies: [L], proxyProtocol: Required", from: "L", ..ROW };
const OPTIONAL: Row = Row { policy: "trustedProxies: [L], proxyProtocol: Optional", ..REQUIRED };
const BOTH: Row = Row {
    policy: "trustedProxies: [L, CDN], proxyProtocol: Required, forwardedHeader: X-Forwarded-For",
    first: First::V2("CDN"),
    ..REQUIRED
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
    Row { number: 16, inbound: &[("Forwarded", r#"for="[C6]";proto=https"#)], expected: Client("C6", "forwarded", "C6, L"),
        also: &[("X-Forwarded-Proto", "https"), ("X-Forwarded-Scheme", "https"), ("X-Scheme", "https")], ..FORWARDED },
    Row { number: 17, inbound: &[(XFF, "E")], expected: Client("L", "socket", "L"), ..FORWARDED },
    Row { number: 18, inbound: &[("X-Real-IP", "C")], expected: Client("C", "x-real-ip", "C, L"), ..REAL_IP },
    Row { number: 18, inbound: &[("True-Client-IP", "C")], expected: Client("C", "header:true-client-ip", "C, L"),
        also: &[("True-Client-IP", "C")], ..OWN },
    Row { number: 19, inbound: &[("X-Real-IP", "E"), ("X-Real-IP", "E")], expected: Client("L", "socket", "L"), ..REAL_IP },
    Row { number: 20, first: First::V1("C"), expected: Client("C", "proxy-v1", "C"), ..REQUIRED },
    Row { number: 21, first: First::V2("C6"), expected: Client("C6", "proxy-v2", "C6"), ..REQUIRED },
    Row { number: 22, expected: Closed("missing"), ..REQUIRED },
    Row { number: 23, from: "E", first: First::V1("C"), expected: Closed("peer-not-trusted"), ..REQUIRED },
    Row { number: 24, expected: Client("L", "socket", "L"), ..OPTIONAL },
    Row { number: 25, from: "C", ..OPTIONAL },
    Row { number: 26, from: "E", first: First::V2("C"), expected: Closed("header-from-untrusted-peer"), ..OPTIONAL },
    Row { number: 26, from: "E", first: First::V1("C"), expected: Closed("header-from-untrusted-peer"), ..OPTIONAL },
    Row { number: 27, first: First::V2Local, expected: Client("L", "socket", "L"), ..OPTIONAL },
    Row { number: 27, first: First::V2Local, expected: Client("L", "socket", "L"), ..REQUIRED },
    Row { number: 28, inbound: &[(XFF, "C")], expected: Client("C", "x-forwarded-for", "C, CDN"), ..BOTH },
    Row { number: 28, inbound: &[(XFF, "E, C")], expected: Client("C", "x-forwarded-for", "C, CDN"), ..BOTH },
    Row { number: 29, policy: "trustedProxies: [L], proxyProtocol: Required, forwardedHeader: X-Forwarded-For",
        first: First::V2("C"), inbound: &[(XFF, "E")], expected: Client("C", "proxy-v2", "C"), ..BOTH },
    Row { number: 30, expected: Client("CDN", "proxy-v2", "CDN"), ..BOTH },
    Row { number: 31, first: First::V2BadSum("C"), expected: Closed("malformed"), ..REQUIRED },
    Row { number: 31, first: First::V2BadSum("C"), expected: Closed("malformed"), ..OPTIONAL },
    Row { number: 34, inbound: &[(XFF, "E, C, L2")], expected: Client("C", "x-forwarded-for", "C, L2, L1"), ..HOPS },
    Row { number: 35, from: "C", ..HOPS },
    Row { number: 40, from: "C", inbound: &[("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil"), ("X-Forwarded-Port", "1"),
        ("X-Forwarded-Scheme", "https"), ("X-Scheme", "https")], ..LB },
    // The same from a trusted sender is believed.
    Row { number: 40, inbound: &[(XFF, "C"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "shop.test"), ("X-Forwarded-Port", "8443")],
        expected: Client("C", "x-forwarded-for", "C, L"),
        also: &[("X-Forwarded-Proto", "https"), ("X-Forwarded-Scheme", "https"), ("X-Scheme", "https"), ("X-Forwarded-Host", "shop.test"),
            ("X-Forwarded-Port", "8443")], ..LB },
];

/// A stand with two listeners for each distinct policy of a table, `pN` in clear and `pNs` with TLS, and one backend
/// for all hosts, which is asked over HTTP/2 for gRPC.
struct Bench {
    stand: Stand,
    policies: Vec<(&'static str, &'static str)>,
    _origin: Origin,
}

impl Bench {
    fn start(rows: &[(&'static str, &'static str)]) -> Result<Self> {
        let unique: BTreeSet<_> = rows.iter().copied().collect();
        let policies: Vec<_> = unique.into_iter().collect();
        let mut spec = "listeners:\n".to_owned();
        for (index, (listen, policy)) in policies.iter().enumerate() {
            let policy = addresses(policy);
            for (suffix, protocol) in [("", "HTTP"), ("s", "HTTPS")] {
                spec.push_str(&format!(
                    "  - {{name: p{index}{suffix}, address: \"{listen}\", port: 0, protocol: {protocol}, clientAddress: {{{policy}}}}}\n"
                ));
            }
        }
        let origin = Origin::http("backend")?;
        let path = "/headwater.whoami.v1.Whoami";
        let app = format!(
            "{}---\n{}---\n{}---\n{}",
            Stand::ingress("app", "", "/", "app"),
            Stand::service("app", "", &[origin.address()]),
            Stand::ingress("grpc", "", path, "grpc"),
            Stand::service("grpc", "kubernetes.io/h2c", &[origin.address()]),
        );
        let stand = Stand::start(&[("gateway.yaml", Stand::gateway_with(&spec)), ("app.yaml", app)])?;
        Ok(Self { stand, policies, _origin: origin })
    }

    fn dial(&self, listen: &str, policy: &str, tls: bool, from: IpAddr) -> Dial {
        let index = self.policies.iter().position(|known| *known == (listen, policy)).expect("one of the policies");
        let port = self.stand.port(&format!("p{index}{}", if tls { "s" } else { "" }));
        let to: IpAddr = if from.is_ipv4() { [127, 0, 0, 1].into() } else { [0, 0, 0, 0, 0, 0, 0, 1].into() };
        let dial = Dial::to(SocketAddr::new(to, port)).source(from);
        if tls { dial.tls(Tls::new(HOST)) } else { dial }
    }
}

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
        headwater_testkit::wait::until(dial.deadline, || bench.stand.metric(&series) > before)
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
    Gap {
        number: 36,
        spec: "listeners:\n  - {name: tls, port: 0, protocol: TLS}\nclientAddress: {emitProxyProtocol: V2}",
        annotation: "",
        field: "spec.listeners[0].protocol",
    },
    Gap {
        number: 37,
        spec: "",
        annotation: "nginx.ingress.kubernetes.io/ssl-passthrough: \"true\"",
        field: "metadata.annotations[nginx.ingress.kubernetes.io/ssl-passthrough]",
    },
    Gap {
        number: 38,
        spec: "listeners:\n  - {name: udp, port: 0, protocol: UDP}\nclientAddress: {emitProxyProtocol: V2}",
        annotation: "",
        field: "spec.listeners[0].protocol",
    },
];

fn known_gaps() -> BTreeSet<u32> {
    let lines = include_str!("../known_gaps.txt").lines().filter(|line| !line.starts_with('#'));
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
    // Row 39 is every other row in every protocol.
    let all: BTreeSet<u32> = tested.union(&known).copied().chain([39]).collect();
    assert_eq!(all, (1..=40).collect::<BTreeSet<u32>>());
}

const LB_POLICY: (&str, &str) = ("0.0.0.0", LB.policy);

/// Asks over HTTP/1.1 on a fresh connection.
fn ask_once(dial: &Dial, headers: &[(&str, &str)]) -> Result<Seen> {
    ask(Protocol::Http1, dial, HOST, headers)
}

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
    let bench = Bench::start(&[("0.0.0.0", ""), LB_POLICY])?;
    for (policy, from, trusted) in [("", "E", false), (LB.policy, "E", false), (LB.policy, "L", true)] {
        for protocol in Protocol::ALL {
            for (index, name) in OF_UNTRUSTED.iter().chain(OF_ALL).enumerate() {
                let spellings =
                    [(*name).to_owned(), name.replace('-', "_"), name.to_ascii_uppercase(), name.replacen('-', "_", 1)];
                let headers = spellings.each_ref().map(|name| (name.as_str(), "forged.test"));
                let headers = if trusted { &headers[..1] } else { &headers[..] };
                let seen = ask(protocol, &bench.dial("0.0.0.0", policy, false, address(from)), HOST, headers)?;
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
    let bench = Bench::start(&[("0.0.0.0", policy)])?;
    for protocol in Protocol::ALL {
        let headers = [("X-Edge-Client", "127.0.0.66"), ("X_Edge_Client", "127.0.0.66")];
        let seen = ask(protocol, &bench.dial("0.0.0.0", policy, false, address("C")), HOST, &headers)?;
        let names: Vec<String> = seen.headers().into_iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        assert!(!names.iter().any(|name| name.contains("edge")), "{protocol:?}: {names:?}");
        assert_eq!(seen.header("x-real-ip"), Some(addresses("C")));
    }
    Ok(())
}

#[test]
fn a_request_id_is_kept_from_a_trusted_sender_only_and_only_when_it_is_one() -> Result<()> {
    let bench = Bench::start(&[LB_POLICY])?;
    let id = |from: &str, ids: &[&str]| -> Result<String> {
        let headers: Vec<_> = ids.iter().map(|id| ("X-Request-ID", *id)).collect();
        ask_once(&bench.dial(LB_POLICY.0, LB_POLICY.1, false, address(from)), &headers)?
            .header("x-request-id")
            .context("an id")
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
    let bench = Bench::start(&[LB_POLICY])?;
    for (from, inbound, expected) in [
        ("E", &["garbage , ;x, 1.2.3.4:5"][..], Some("garbage , ;x, 1.2.3.4:5")),
        ("L", &["one", "two, 127.0.0.7"], Some("one, two, 127.0.0.7")),
        ("L", &[], None),
    ] {
        let headers: Vec<_> = inbound.iter().map(|value| (XFF, *value)).collect();
        let seen = ask_once(&bench.dial(LB_POLICY.0, LB_POLICY.1, false, address(from)), &headers)?;
        assert_eq!(seen.header("x-original-forwarded-for").as_deref(), expected, "{from} {inbound:?}");
    }
    Ok(())
}

#[test]
fn forwarded_is_written_with_one_element_for_each_verified_hop() -> Result<()> {
    let policy = "trustedProxies: [L], forwardedHeader: X-Forwarded-For, emitForwarded: true";
    let bench = Bench::start(&[("0.0.0.0", policy)])?;
    for (from, inbound, expected) in [
        ("C", "E", "for=C;by=_headwater;host=app.test;proto=http"),
        ("L", "E, C", "for=C;by=_proxy;host=app.test;proto=http, for=L;by=_headwater;host=app.test;proto=http"),
        ("L", "C6", "for=\"[C6]\";by=_proxy;host=app.test;proto=http, for=L;by=_headwater;host=app.test;proto=http"),
    ] {
        for protocol in Protocol::ALL {
            let headers = [(XFF, &*addresses(inbound)), ("Forwarded", "for=127.0.0.66")];
            let seen = ask(protocol, &bench.dial("0.0.0.0", policy, false, address(from)), HOST, &headers)?;
            assert_eq!(seen.header("forwarded"), Some(addresses(expected)), "{protocol:?} from {from}");
        }
    }
    Ok(())
}

/// Inbound headers of requests that follow each other, and the X-Forwarded-For and scheme they come to.
const SEQUENCE: &[(&[(&str, &str)], &str, &str)] = &[
    (&[(XFF, "C")], "C, L", "http"),
    (&[(XFF, "E"), ("X-Forwarded-Proto", "https")], "E, L", "https"),
    (&[], "L", "http"),
    (&[(XFF, "E, C6"), ("X-Forwarded-Host", "other.test")], "C6, L", "http"),
    (&[(XFF, "C, unknown")], "L", "http"),
    (&[(XFF, "C")], "C, L", "http"),
];

fn sequence() -> Vec<String> {
    let request = |(headers, _, _): &(&[(&str, &str)], &str, &str)| {
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
    let bench = Bench::start(&[LB_POLICY])?;
    for tls in [false, true] {
        let dial = bench.dial(LB_POLICY.0, LB_POLICY.1, tls, address("L"));
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
    let bench = Bench::start(&[LB_POLICY])?;
    let mut connections = BTreeSet::new();
    for client in 1..=24 {
        let own = format!("127.0.1.{client}");
        for protocol in [Protocol::Http1, Protocol::Grpc] {
            let seen = ask(
                protocol,
                &bench.dial(LB_POLICY.0, LB_POLICY.1, false, own.parse()?),
                HOST,
                &[(XFF, "127.0.0.66")],
            )?;
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
    let bench = Bench::start(&[("0.0.0.0", REQUIRED.policy), ("0.0.0.0", OPTIONAL.policy)])?;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for policy in [REQUIRED.policy, OPTIONAL.policy] {
        let dial = bench.dial("0.0.0.0", policy, false, address("L"));
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
    let bench = Bench::start(&[("0.0.0.0", policy)])?;
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
        let mut client = RawClient::open(&bench.dial("0.0.0.0", policy, false, address("L")).preamble(&bytes))?;
        assert_eq!(client.closed()?, b"", "{:?}", bytes.escape_ascii().to_string());
        headwater_testkit::wait::until(headwater_testkit::wait::DEADLINE, || bench.stand.metric(&series) > before)?;
    }
    let largest = long.crc().pad_to(4096).build();
    let seen = ask_once(&bench.dial("0.0.0.0", policy, false, address("L")).preamble(&largest), &[])?;
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

/// One ingress-nginx ConfigMap: its data, the connection, the request, what is expected; `None`: closed.
struct Migration {
    data: &'static str,
    from: &'static str,
    first: First,
    inbound: &'static [(&'static str, &'static str)],
    expected: Option<&'static [(&'static str, &'static str)]>,
    /// Reason and field of a finding about the ConfigMap.
    finding: Option<(&'static str, &'static str)>,
}

const MIGRATION: Migration =
    Migration { data: "", from: "L", first: First::Payload, inbound: &[(XFF, "C")], expected: None, finding: None };
const UNTRUSTED: Option<(&str, &str)> = Some(("MissingKey", "data.proxy-real-ip-cidr"));

#[rustfmt::skip]
const MIGRATIONS: &[Migration] = &[
    Migration { data: "proxy-real-ip-cidr: L", expected: Some(&[(XFF, "L")]), ..MIGRATION },
    Migration { data: "use-forwarded-headers: true", expected: Some(&[(XFF, "L")]), finding: UNTRUSTED, ..MIGRATION },
    Migration { data: "enable-real-ip: true", expected: Some(&[(XFF, "L")]), finding: UNTRUSTED, ..MIGRATION },
    Migration { data: "use-forwarded-headers: true; proxy-real-ip-cidr: L", inbound: &[(XFF, "E, C"), ("X-Forwarded-Proto", "https")],
        expected: Some(&[(XFF, "C, L"), ("X-Forwarded-Proto", "https")]), ..MIGRATION },
    Migration { data: "use-forwarded-headers: true; proxy-real-ip-cidr: L", from: "E", inbound: &[(XFF, "C"), ("X-Forwarded-Proto", "https")],
        expected: Some(&[(XFF, "E"), ("X-Forwarded-Proto", "http")]), ..MIGRATION },
    Migration { data: "use-forwarded-headers: true; proxy-real-ip-cidr: L; forwarded-for-header: X-Edge", inbound: &[("X-Edge", "C"), (XFF, "E")],
        expected: Some(&[(XFF, "C, L")]), ..MIGRATION },
    Migration { data: "use-forwarded-headers: true; proxy-real-ip-cidr: L; compute-full-forwarded-for: true", inbound: &[(XFF, "E, C")],
        expected: Some(&[(XFF, "E, C, L")]), ..MIGRATION },
    Migration { data: "enable-real-ip: true; proxy-real-ip-cidr: L", inbound: &[(XFF, "C"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil")],
        expected: Some(&[(XFF, "C, L"), ("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", HOST)]), ..MIGRATION },
    Migration { data: "use-forwarded-headers: true; proxy-real-ip-cidr: 0.0.0.0/0", from: "E", expected: Some(&[(XFF, "C, E")]),
        finding: Some(("TrustsEverybody", "data.proxy-real-ip-cidr")), ..MIGRATION },
    Migration { data: "use-proxy-protocol: true; proxy-real-ip-cidr: L", first: First::V2("C"), inbound: &[(XFF, "E")],
        expected: Some(&[(XFF, "C")]), ..MIGRATION },
    Migration { data: "use-proxy-protocol: true; proxy-real-ip-cidr: L", ..MIGRATION },
    Migration { data: "use-proxy-protocol: true; proxy-real-ip-cidr: L", from: "E", first: First::V1("C"), ..MIGRATION },
    Migration { data: "use-proxy-protocol: true", first: First::V1("C"), finding: UNTRUSTED, ..MIGRATION },
    Migration { data: "use-proxy-protocol: true; proxy-real-ip-cidr: L; proxy-protocol-header-timeout: 100ms", inbound: &[], ..MIGRATION },
];

#[test]
fn an_ingress_nginx_configmap_means_what_the_migration_table_says() -> Result<()> {
    let origin = Origin::http("backend")?;
    for row in MIGRATIONS {
        let data: String = addresses(row.data)
            .split("; ")
            .filter_map(|pair| pair.split_once(": "))
            .map(|(key, value)| format!("  {key}: \"{value}\"\n"))
            .collect();
        let map = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: ingress-nginx-controller\n  namespace: ingress-nginx\ndata:\n{data}"
        );
        let stand = Stand::start(&[
            ("gateway.yaml", Stand::gateway("")),
            ("map.yaml", map),
            ("app.yaml", Stand::app("app", HOST, &[origin.address()])),
        ])?;
        let context = || format!("{} from {}", row.data, row.from);
        let found: Vec<_> = stand
            .findings()
            .iter()
            .filter(|finding| finding.field.starts_with("data."))
            .map(|finding| (finding.reason, finding.field.clone()))
            .collect();
        let wanted: Vec<_> = row.finding.iter().map(|(reason, field)| (*reason, (*field).to_owned())).collect();
        assert_eq!(found, wanted, "{}", context());
        let dial = Dial::to(stand.address("http")).source(address(row.from)).preamble(&row.first.bytes());
        let inbound: Vec<_> = row.inbound.iter().map(|(name, value)| (*name, addresses(value))).collect();
        let inbound: Vec<_> = inbound.iter().map(|(name, value)| (*name, &**value)).collect();
        let Some(expected) = row.expected else {
            let mut client = RawClient::open(&dial)?;
            if !inbound.is_empty() {
                let _ = client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
            }
            assert_eq!(client.closed()?, b"", "{}", context());
            continue;
        };
        let seen = ask_once(&dial, &inbound).with_context(context)?;
        for (name, value) in expected {
            assert_eq!(seen.header(name), Some(addresses(value)), "{name}, {}", context());
        }
    }
    Ok(())
}

#[test]
fn grpc_metadata_cannot_forge_a_client() -> Result<()> {
    let bench = Bench::start(&[LB_POLICY])?;
    let dial = bench.dial(LB_POLICY.0, LB_POLICY.1, false, address("C"));
    let call = grpc::unary(&dial, HOST, grpc::ASK, b"x", &[(XFF, "127.0.0.66"), ("x-real-ip", "127.0.0.66")])?;
    assert_eq!(call.seen()?.header("x-real-ip"), Some(addresses("C")));
    Ok(())
}
