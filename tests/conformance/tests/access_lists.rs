//! Who is let in by address: the client of the client-address policy, and nobody's word.

use anyhow::Result;
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::origin::Origin;
use headwater_testkit::response::Response;

const TRUSTED: &str = "clientAddress: {trustedProxies: [127.0.0.0/8], forwardedHeader: X-Forwarded-For}";

fn ingress(annotations: &[(&str, &str)]) -> String {
    let annotations: serde_json::Map<String, serde_json::Value> = annotations
        .iter()
        .map(|(name, value)| (format!("nginx.ingress.kubernetes.io/{name}"), (*value).into()))
        .collect();
    let backend = serde_json::json!({"service": {"name": "app", "port": {"number": 80}}});
    let path = serde_json::json!({"path": "/", "pathType": "Prefix", "backend": backend});
    serde_json::json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "app", "namespace": "test", "annotations": annotations},
        "spec": {"rules": [{"host": "app.test", "http": {"paths": [path]}}]},
    })
    .to_string()
}

fn stand(settings: &str, origin: &Origin, annotations: &[(&str, &str)]) -> Result<Stand> {
    Stand::start(&[
        ("gateway.yaml", Stand::gateway(settings)),
        ("ingress.yaml", ingress(annotations)),
        ("service.yaml", Stand::service("app", "", &[origin.address()])),
    ])
}

/// From an address of its own.
fn ask_from(stand: &Stand, source: &str, lines: &str) -> Result<Response> {
    let mut client = RawClient::connect_from(source.parse()?, stand.address("http"))?;
    client.request(format!("GET / HTTP/1.1\r\nHost: app.test\r\n{lines}\r\n"))
}

fn verdict(response: &Response) -> String {
    match response.header("x-headwater-fault") {
        Some(fault) => format!("{} {fault}", response.status),
        None => response.status.to_string(),
    }
}

const OUT: &str = "403 client_forbidden";

#[test]
fn only_clients_of_the_list_are_let_in_and_no_header_makes_one() -> Result<()> {
    let origin = Origin::http("app")?;
    for (settings, annotations, cases) in [
        (
            "",
            &[("whitelist-source-range", "127.0.1.0/24, 198.51.100.7")][..],
            &[
                ("127.0.1.5", "", "200"),
                ("127.0.2.5", "", OUT),
                ("127.0.2.5", "X-Forwarded-For: 198.51.100.7\r\nX-Real-IP: 198.51.100.7\r\n", OUT),
            ][..],
        ),
        (
            TRUSTED,
            &[("allowlist-source-range", "198.51.100.0/24")],
            &[
                ("127.0.2.5", "X-Forwarded-For: 198.51.100.7\r\n", "200"),
                ("127.0.2.5", "X-Forwarded-For: 198.51.100.7, 203.0.113.9\r\n", OUT),
                ("127.0.2.5", "X-Forwarded-For: ::ffff:198.51.100.7\r\n", "200"),
                ("127.0.2.5", "", OUT),
            ],
        ),
        (
            "",
            &[("denylist-source-range", "127.0.1.9"), ("allowlist-source-range", "127.0.1.0/24")],
            &[("127.0.1.9", "", OUT), ("127.0.1.8", "", "200"), ("127.0.2.8", "", OUT)],
        ),
        ("", &[("denylist-source-range", "127.0.1.9")], &[("127.0.1.9", "", OUT), ("127.0.2.8", "", "200")]),
        ("", &[("denylist-source-range", "office")], &[("127.0.1.9", "", "503 invalid_rule")]),
    ] {
        let stand = stand(settings, &origin, annotations)?;
        for (source, lines, expected) in cases {
            assert_eq!(verdict(&ask_from(&stand, source, lines)?), *expected, "{annotations:?} {source} {lines}");
        }
    }
    Ok(())
}

#[test]
fn who_is_kept_out_is_counted_and_logged_and_the_endpoint_never_asked() -> Result<()> {
    let origin = Origin::http("app")?;
    let stand = stand("", &origin, &[("denylist-source-range", "127.0.1.9")])?;
    assert_eq!(verdict(&ask_from(&stand, "127.0.1.9", "")?), OUT);
    let line = stand.log_line(|line| line["client"] == "127.0.1.9")?;
    assert_eq!((line["fault"].as_str(), line["status"].as_u64()), (Some("client_forbidden"), Some(403)));
    assert!(line["endpoint"].is_null(), "{line}");
    let series = "headwater_gateway_faults_total{reason=\"client_forbidden\",by=\"downstream\"}";
    assert!(stand.metric(series) >= 1.0, "{}", stand.metrics());
    Ok(())
}
