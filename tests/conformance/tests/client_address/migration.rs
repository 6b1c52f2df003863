//! A ConfigMap of ingress-nginx, end to end.

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::origin::Origin;

use crate::{First, HOST, XFF, address, addresses, ask_once};

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
