//! Metrics under the ALB's names, as a Prometheus reads them, and the dashboards that are drawn of them.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::origin::{LOOPBACK, Origin, RawOrigin};
use headwater_testkit::wait;
use serde_json::Value;

/// One path that answers, one whose endpoint answers 500, one whose endpoint is gone.
fn stand() -> Result<(Stand, (Origin, RawOrigin))> {
    let good = Origin::http("good")?;
    let bad = RawOrigin::answering("HTTP/1.1 500 x\r\nContent-Length: 3\r\n\r\nbad")?;
    let address = good.address();
    let stand = Stand::start(&[
        ("gateway.yaml", Stand::gateway("")),
        ("good.yaml", Stand::app("good", "good.test", &[address])),
        ("bad.yaml", Stand::app("bad", "bad.test", &[bad.address()])),
        ("gone.yaml", Stand::app("gone", "gone.test", &[TcpListener::bind(LOOPBACK)?.local_addr()?])),
    ])?;
    Ok((stand, (good, bad)))
}

fn ask(stand: &Stand, method: &str, host: &str) -> Result<u16> {
    let text = format!("{method} / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhello");
    let mut client = RawClient::connect(stand.address("http"))?;
    client.send(text)?;
    Ok(client.read_response_to(method)?.status)
}

/// Status and body of `GET path`, over plain HTTP, with these lines.
fn get(address: SocketAddr, path: &str, lines: &str) -> Result<(u16, String)> {
    let answer =
        RawClient::connect(address)?.request(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{lines}\r\n"))?;
    Ok((answer.status, answer.text()))
}

/// The series of a metric, each with its labels.
fn series(text: &str, name: &str) -> Vec<(BTreeMap<String, String>, f64)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let parsed = lines.filter_map(|rest| {
        let (labels, value) = rest.strip_prefix('{')?.rsplit_once("} ")?;
        let labels = labels.split("\",").filter_map(|pair| pair.split_once("=\""));
        let labels = labels.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()));
        Some((labels.collect(), value.parse().ok()?))
    });
    parsed.collect()
}

fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |found: &BTreeMap<String, String>| {
        labels.iter().all(|(name, value)| found.get(*name).is_some_and(|found| found == value))
    };
    series(text, name).iter().filter(|(found, _)| fits(found)).map(|(_, value)| value).sum()
}

#[test]
fn requests_are_counted_under_the_names_of_the_alb() -> Result<()> {
    let (stand, origins) = stand()?;
    let endpoint = origins.0.address();
    let metrics = stand.serve_alb_metrics(None)?;
    for (method, host, status) in
        [("GET", "good.test", 200), ("POST", "good.test", 200), ("BREW", "good.test", 200), ("GET", "bad.test", 500)]
    {
        assert_eq!(ask(&stand, method, host)?, status, "{method} {host}");
    }
    assert_eq!(ask(&stand, "GET", "nobody.test")?, 404);
    assert!(ask(&stand, "GET", "gone.test")? >= 500);
    let read = || get(metrics, "/metrics", "").map(|(_, text)| text).unwrap_or_default();
    wait::until(wait::DEADLINE, || value(&read(), "nginx_http_status", &[]) >= 5.0)?;
    let text = read();
    let port = stand.port("http").to_string();
    let good =
        [("rule", "test/good:0-0"), ("source_type", "ingress"), ("source_namespace", "test"), ("source_name", "good")];
    let with = |more: &[(&'static str, &str)]| -> Vec<(String, String)> {
        good.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let ip = endpoint.ip().to_string();
    for (name, more, expected) in [
        ("nginx_http_status", &[("status", "200"), ("method", "GET")][..], 1.0),
        ("nginx_http_status", &[("status", "200"), ("method", "POST")][..], 1.0),
        ("nginx_http_status", &[("status", "200"), ("method", "OTHER")][..], 1.0),
        ("nginx_http_status", &[][..], 3.0),
        ("nginx_http_request_duration_seconds_count", &[][..], 3.0),
        ("nginx_http_upstream_requests_status", &[("upstream_ip", &*ip), ("status", "200")][..], 3.0),
        ("nginx_http_upstream_request_duration_seconds_count", &[("upstream_ip", &*ip)][..], 3.0),
    ] {
        let labels = with(more);
        let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(value(&text, name, &labels), expected, "{name} {labels:?}\n{text}");
    }
    assert_eq!(value(&text, "nginx_http_response_size_bytes", &[("rule", "test/bad:0-0")]), 3.0);
    let sent = value(&text, "nginx_http_request_size_bytes", &[("rule", "test/bad:0-0")]);
    assert_eq!(sent, "GET / HTTP/1.1\r\nHost: bad.test\r\nContent-Length: 5\r\n\r\nhello".len() as f64, "{text}");
    assert_eq!(value(&text, "nginx_http_mismatch_rule_requests", &[("method", "GET")]), 1.0, "{text}");
    assert!(value(&text, "alb_error", &[]) >= 1.0, "{text}");
    assert!(
        series(&text, "nginx_http_status").iter().all(|(labels, _)| labels["port"] == "0" || labels["port"] == port)
    );
    for line in ["# TYPE nginx_http_status counter", "# TYPE nginx_http_connections gauge"] {
        assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line}\n{text}");
    }
    assert_eq!(get(metrics, "/healthz", "")?, (200, "ok".to_owned()));
    assert_eq!(get(metrics, "/clear", "")?.0, 404);
    Ok(())
}

#[test]
fn what_is_gone_is_not_shown_and_counts_anew_when_it_comes_back() -> Result<()> {
    let (stand, origins) = stand()?;
    let endpoint = origins.0.address();
    let metrics = stand.serve_alb_metrics(None)?;
    let count = || {
        let text = get(metrics, "/metrics", "").map(|(_, text)| text).unwrap_or_default();
        value(&text, "nginx_http_status", &[("source_name", "good")])
    };
    assert_eq!((ask(&stand, "GET", "good.test")?, ask(&stand, "GET", "good.test")?), (200, 200));
    wait::until(wait::DEADLINE, || count() == 2.0)?;
    stand.change(|dir| dir.write("good.yaml", &Stand::service("good", "", &[endpoint])))?;
    assert_eq!(count(), 0.0);
    stand.change(|dir| dir.write("good.yaml", &Stand::app("good", "good.test", &[endpoint])))?;
    assert_eq!(ask(&stand, "GET", "good.test")?, 200);
    wait::until(wait::DEADLINE, || count() == 1.0)
}

#[test]
fn a_token_is_asked_for_where_there_is_one() -> Result<()> {
    let (stand, _origins) = stand()?;
    let metrics = stand.serve_alb_metrics(Some("secret"))?;
    for (lines, status) in [
        ("", 401),
        ("Authorization: Bearer wrong\r\n", 401),
        ("Authorization: Basic secret\r\n", 401),
        ("Authorization: Bearer secret\r\nAuthorization: Bearer secret\r\n", 401),
        ("Authorization: Bearer secret\r\n", 200),
    ] {
        assert_eq!(get(metrics, "/metrics", lines)?.0, status, "{lines}");
    }
    assert_eq!(get(metrics, "/healthz", "")?.0, 200);
    Ok(())
}

/// A Prometheus that scrapes one gateway every 200 ms; stops when dropped.
struct Prometheus {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    fn start(gateway: SocketAddr) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // As the ALB is scraped: over TLS with a certificate of its own, with a token.
        let config = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nscrape_configs:\n  - job_name: alb\n    scheme: https\n    \
             tls_config: {{insecure_skip_verify: true}}\n    authorization: {{credentials: secret}}\n    static_configs:\n      - targets: [\"{gateway}\"]\n"
        );
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config)?;
        // A port that was free a moment ago: Prometheus cannot be asked which one it got.
        let address = TcpListener::bind(LOOPBACK)?.local_addr()?;
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .spawn()
            .context("prometheus does not start (Debian package prometheus)")?;
        let started = Self { process, address, _folder: folder };
        wait::until(wait::DEADLINE, || get(address, "/-/ready", "").is_ok_and(|(status, _)| status == 200))?;
        Ok(started)
    }

    /// The results of a query: labels and values.
    fn query(&self, query: &str) -> Result<Vec<Value>> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (status, body) = get(self.address, &format!("/api/v1/query?query={escaped}"), "")?;
        anyhow::ensure!(status == 200, "{query}: {status} {body}");
        let answer: Value = serde_json::from_str(&body)?;
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }
}

/// Every query of a dashboard, with the variables as Grafana fills them in when nothing is chosen.
fn queries(dashboard: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let mut query = target["expr"].as_str().unwrap_or_default().replace("$__rate_interval", "30s");
            for variable in dashboard["templating"]["list"].as_array().into_iter().flatten() {
                let name = variable["name"].as_str().unwrap_or_default();
                query = query.replace(&format!("\"${name}\""), "\".*\"");
            }
            found.push(query);
        }
    }
    found
}

#[test]
fn every_query_of_the_dashboard_gives_data_from_a_gateway_with_traffic() -> Result<()> {
    let (stand, _origins) = stand()?;
    let metrics = stand.serve_alb_metrics(Some("secret"))?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/grafana/alb.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let queries = queries(&dashboard);
    assert!(queries.len() >= 20 && queries.iter().all(|query| !query.contains('$')), "{queries:#?}");
    let prometheus = Prometheus::start(metrics)?;
    let has_data = |query: &str| {
        let found = prometheus.query(query).unwrap_or_default();
        let is_number =
            |result: &Value| result["value"][1].as_str().is_some_and(|value| value != "NaN" && value != "+Inf");
        !found.is_empty() && found.iter().any(is_number)
    };
    let mut missing: Vec<String> = queries;
    wait::until(Duration::from_secs(60), || {
        for (method, host) in [("GET", "good.test"), ("POST", "good.test"), ("GET", "bad.test"), ("GET", "no.test")] {
            let _ = ask(&stand, method, host);
        }
        missing.retain(|query| !has_data(query));
        missing.is_empty()
    })
    .with_context(|| format!("queries without data: {missing:#?}"))
}
