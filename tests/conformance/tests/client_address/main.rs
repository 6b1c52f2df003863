//! Who the client is, over sockets: the truth table, what backends hear of it, and what a connection says of it.

mod carried;
mod connections;
mod headers;
mod migration;
mod truth_table;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use headwater_conformance_tests::Stand;
use headwater_testkit::ask::{Protocol, ask};
use headwater_testkit::dial::{Dial, Tls};
use headwater_testkit::origin::Origin;
use headwater_testkit::proxy::{self, V2};
use headwater_testkit::response::Seen;

const XFF: &str = "X-Forwarded-For";
/// `clientAddress` of listeners behind one load balancer, in the words of [`addresses`].
const BEHIND_LB: &str = "trustedProxies: [L], forwardedHeader: X-Forwarded-For";
const REQUIRED: &str = "trustedProxies: [L], proxyProtocol: Required";
const OPTIONAL: &str = "trustedProxies: [L], proxyProtocol: Optional";
/// Every IPv4 address.
const ANY: &str = "0.0.0.0";
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
    V2Unspec,
    V2Unix,
    V1Unknown,
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
            Self::V2Unspec => V2::unspec().build(),
            Self::V2Unix => V2::unix().build(),
            Self::V1Unknown => proxy::v1_unknown(),
        }
    }

    fn names_a_destination(self) -> bool {
        matches!(self, Self::V1(_) | Self::V2(_))
    }
}

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

/// Asks over HTTP/1.1 on a fresh connection.
fn ask_once(dial: &Dial, headers: &[(&str, &str)]) -> Result<Seen> {
    ask(Protocol::Http1, dial, HOST, headers)
}
