//! What operators see: metrics and the access log.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::{Dial, Tls};
use headwater_testkit::origin::Origin;
use headwater_testkit::port::Refusing;
use headwater_testkit::proxy::V2;
use headwater_testkit::wait;
use serde_json::{Value, json};

const LISTENERS: &str = "listeners:
  - {name: http, port: 0, protocol: HTTP}
  - {name: https, port: 0, protocol: HTTPS}
  - {name: proxied, port: 0, protocol: HTTP, clientAddress: {trustedProxies: [127.0.0.1], proxyProtocol: Required}}
  - {name: cdn, port: 0, protocol: HTTP, clientAddress: {trustedProxies: [127.0.0.1], forwardedHeader: X-Forwarded-For}}
";

/// `app.test` works, `empty.test` has no endpoints, and nobody listens at the endpoint of `dead.test`.
fn stand(spec: &str) -> Result<(Stand, (Origin, Refusing))> {
    let origin = Origin::http("one")?;
    let dead = Refusing::at([127, 0, 78, 1])?;
    let stand = Stand::start(&[
        ("gateway.yaml", Stand::gateway_with(&format!("{LISTENERS}{spec}"))),
        ("app.yaml", Stand::app("app", "app.test", &[origin.address()])),
        ("empty.yaml", Stand::app("empty", "empty.test", &[])),
        ("dead.yaml", Stand::app("dead", "dead.test", &[dead.address()])),
    ])?;
    Ok((stand, (origin, dead)))
}

fn get(host: &str, path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n")
}

/// Status of a request on a connection of its own.
fn status(address: SocketAddr, host: &str, path: &str, headers: &str) -> Result<u16> {
    Ok(RawClient::connect(address)?.request(get(host, path, headers))?.status)
}

#[test]
fn metrics_count_what_happened() -> Result<()> {
    let (stand, _origin) = stand("retries: {attempts: 2}\npassiveHealth: {consecutiveFailures: 3}\n")?;
    let (http, cdn, proxied) = (stand.address("http"), stand.address("cdn"), stand.address("proxied"));
    for (address, host, path, headers, expected, times) in [
        (http, "app.test", "/", "", 200, 3),
        (http, "app.test", "/status/404", "", 404, 2),
        (http, "app.test", "/status/503", "", 503, 1),
        (http, "unknown.test", "/", "", 404, 2),
        (http, "empty.test", "/", "", 503, 1),
        (http, "dead.test", "/", "", 502, 1),
        (cdn, "app.test", "/", "X-Forwarded-For: 192.0.2.1\r\n", 200, 2),
    ] {
        for _ in 0..times {
            assert_eq!(status(address, host, path, headers)?, expected, "{host}{path}");
        }
    }
    assert_eq!(RawClient::connect(http)?.request("nonsense\r\n\r\n")?.status, 400);
    let victim: SocketAddr = "192.0.2.7:5000".parse()?;
    let header = V2::tcp(victim, proxied).build();
    let mut named = RawClient::open(&Dial::to(proxied).preamble(&header))?;
    assert_eq!(named.request(get("app.test", "/", ""))?.seen()?.header("x-real-ip").as_deref(), Some("192.0.2.7"));
    for dial in [Dial::to(proxied).preamble(&header).source("127.0.0.9".parse()?), Dial::to(proxied).preamble(b"GET /")]
    {
        RawClient::open(&dial)?.closed()?;
    }
    let mut garbage = RawClient::connect(stand.address("https"))?;
    garbage.send("this is no TLS\r\n\r\n")?;
    garbage.closed()?;
    let mut secure = RawClient::open(&Dial::to(stand.address("https")).tls(Tls::new("app.test")))?;
    assert_eq!(secure.request(get("app.test", "/", ""))?.status, 200);

    let app = "kind=\"Ingress\",namespace=\"test\",name=\"app\"";
    let dead = "kind=\"Ingress\",namespace=\"test\",name=\"dead\"";
    let nobody = "kind=\"\",namespace=\"\",name=\"\"";
    let (app_pool, dead_pool) =
        ("namespace=\"test\",service=\"app\",port=\"80\"", "namespace=\"test\",service=\"dead\",port=\"80\"");
    let expected = [
        (format!("requests_total{{{app},code=\"2xx\"}}"), 7.0),
        (format!("requests_total{{{app},code=\"4xx\"}}"), 2.0),
        (format!("requests_total{{{app},code=\"5xx\"}}"), 1.0),
        (format!("requests_total{{{dead},code=\"5xx\"}}"), 1.0),
        (format!("requests_total{{{nobody},code=\"4xx\"}}"), 3.0),
        (format!("request_duration_seconds_count{{{app}}}"), 10.0),
        (format!("request_duration_seconds_bucket{{le=\"+Inf\",{app}}}"), 10.0),
        ("faults_total{reason=\"no_route\",by=\"local\"}".into(), 2.0),
        ("faults_total{reason=\"no_endpoints\",by=\"local\"}".into(), 1.0),
        ("faults_total{reason=\"connect_failed\",by=\"upstream\"}".into(), 1.0),
        ("faults_total{reason=\"bad_request\",by=\"downstream\"}".into(), 1.0),
        ("clients_total{provenance=\"x-forwarded-for\"}".into(), 2.0),
        ("clients_total{provenance=\"proxy-v2\"}".into(), 1.0),
        ("clients_total{provenance=\"socket\"}".into(), 11.0),
        ("tls_handshakes_failed_total".into(), 1.0),
        ("connections_accepted_total".into(), 18.0),
        ("retries_total".into(), 1.0),
        (format!("endpoint_ejections_total{{{app_pool}}}"), 0.0),
        (format!("upstream_response_seconds_count{{{app_pool}}}"), 10.0),
        (format!("upstream_connect_seconds_count{{{dead_pool}}}"), 0.0),
        (format!("upstream_response_seconds_count{{{dead_pool}}}"), 0.0),
        // `named` and `secure` are still open.
        ("connections".into(), 2.0),
        ("snapshot_generation".into(), stand.applied().generation as f64),
    ];
    for (series, value) in &expected {
        let series = format!("headwater_gateway_{series}");
        wait::until(wait::DEADLINE, || {
            stand.metrics().contains(&format!("{series} ")) && stand.metric(&series) == *value
        })
        .with_context(|| format!("{series} is {} rather than {value}\n{}", stand.metric(&series), stand.metrics()))?;
    }
    let refused: Vec<f64> = stand
        .metrics()
        .lines()
        .filter(|line| line.starts_with("headwater_gateway_proxy_protocol_refused_total{reason="))
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    assert_eq!(refused, [1.0, 1.0], "one from a stranger, one that is no header: {}", stand.metrics());
    let connects = stand.metric(&format!("headwater_gateway_upstream_connect_seconds_count{{{app_pool}}}"));
    assert!((1.0..=10.0).contains(&connects), "{connects}");
    stand.change(|dir| dir.write("more.yaml", &Stand::app("more", "more.test", &[])))?;
    assert_eq!(stand.metric("headwater_gateway_snapshot_generation"), stand.applied().generation as f64);
    Ok(())
}

#[test]
fn a_duration_falls_into_its_bucket() -> Result<()> {
    let (stand, _origin) = stand("")?;
    assert_eq!(status(stand.address("http"), "app.test", "/?delay=300", "")?, 200);
    let app = "kind=\"Ingress\",namespace=\"test\",name=\"app\"";
    let pool = "namespace=\"test\",service=\"app\",port=\"80\"";
    for (family, labels) in [("request_duration_seconds", app), ("upstream_response_seconds", pool)] {
        let count = format!("headwater_gateway_{family}_count{{{labels}}}");
        wait::until(wait::DEADLINE, || stand.metric(&count) == 1.0).with_context(|| stand.metrics())?;
        let sum = stand.metric(&format!("headwater_gateway_{family}_sum{{{labels}}}"));
        assert!((0.3..5.0).contains(&sum), "{family}: {sum}");
        for line in
            stand.metrics().lines().filter(|line| line.starts_with(&format!("headwater_gateway_{family}_bucket")))
        {
            let bound = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()).context("le")?;
            let bound: f64 = if bound == "+Inf" { f64::INFINITY } else { bound.parse()? };
            let inside: f64 = line.rsplit(' ').next().context("value")?.parse()?;
            if line.contains(labels) && (bound < 0.3 || bound > sum) {
                assert_eq!(inside, if bound < 0.3 { 0.0 } else { 1.0 }, "{line}, sum {sum}");
            }
        }
    }
    Ok(())
}

#[test]
fn labels_come_from_the_configuration_and_never_from_requests() -> Result<()> {
    let (stand, _origin) = stand("")?;
    for (host, path) in [("evil-host.test", "/evil-path"), ("app.test", "/evil-path"), ("app.test", "/status/299")] {
        status(stand.address("http"), host, path, "User-Agent: evil-agent\r\nX-Request-ID: evil-id\r\n")?;
    }
    let mut client = RawClient::connect(stand.address("http"))?;
    client.request("EVIL / HTTP/1.1\r\nHost: app.test\r\n\r\n")?;
    stand.log_line(|line| line["method"] == "EVIL")?;
    let metrics = stand.metrics().to_ascii_lowercase();
    assert!(!metrics.contains("evil") && !metrics.contains("299"), "{metrics}");
    Ok(())
}

fn keys(line: &Value) -> BTreeSet<&str> {
    line.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[test]
fn a_json_line_says_who_asked_what_and_what_became_of_it() -> Result<()> {
    let (stand, (origin, _dead)) = stand("retries: {attempts: 1}\n")?;
    let mut client = RawClient::connect(stand.address("cdn"))?;
    let local = client.local_addr()?;
    let headers = "X-Forwarded-For: 192.0.2.1\r\nUser-Agent: tester/1\r\n";
    let body = client.request(get("app.test", "/a?b=c", headers))?.body;
    let line = stand.log_line(|line| line["target"] == "/a?b=c")?;
    for (key, value) in [
        ("client", json!("192.0.2.1")),
        ("peer", json!(local.to_string())),
        ("provenance", json!("x-forwarded-for")),
        ("method", json!("GET")),
        ("host", json!("app.test")),
        ("protocol", json!("HTTP/1.1")),
        ("status", json!(200)),
        ("sent_bytes", json!(body.len())),
        ("endpoint", json!(origin.address().to_string())),
        ("attempts", json!(1)),
        ("listener", json!("cdn")),
        ("route", json!("Ingress test/app")),
        ("user_agent", json!("tester/1")),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    for key in ["duration_seconds", "connect_seconds", "first_byte_seconds"] {
        assert!(line[key].as_f64().is_some_and(|seconds| seconds > 0.0 && seconds < 10.0), "{key} in {line}");
    }
    assert!(line["time"].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{line}");
    assert!(line["rule"].as_str().is_some_and(|rule| rule.starts_with("spec.rules[0]")), "{line}");
    ensure!(!keys(&line).contains("fault"), "{line}");
    // On the same connection nothing is connected any more.
    client.request(get("app.test", "/again", headers))?;
    ensure!(!keys(&stand.log_line(|line| line["target"] == "/again")?).contains("connect_seconds"));

    let mut secure = RawClient::open(&Dial::to(stand.address("https")).tls(Tls::new("app.test")))?;
    secure.request(get("app.test", "/secure", ""))?;
    let line = stand.log_line(|line| line["target"] == "/secure")?;
    assert_eq!((&line["sni"], &line["listener"]), (&json!("app.test"), &json!("https")));

    for (host, fault, by, status) in [
        ("unknown.test", "no_route", "local", 404),
        ("empty.test", "no_endpoints", "local", 503),
        ("dead.test", "connect_failed", "upstream", 502),
    ] {
        let response = RawClient::connect(stand.address("http"))?.request(get(host, "/", ""))?;
        let line = stand.log_line(|line| line["host"] == host)?;
        assert_eq!(response.header("x-headwater-fault").as_deref(), Some(fault));
        assert_eq!((&line["fault"], &line["fault_by"], &line["status"]), (&json!(fault), &json!(by), &json!(status)));
        assert_eq!(line["sent_bytes"], response.body.len());
        assert_eq!(line["route"].is_string(), host != "unknown.test", "{line}");
    }
    let line = stand.log_line(|line| line["fault"] == "connect_failed")?;
    assert!(line["fault_detail"].as_str().is_some_and(|detail| detail.contains("127.0.78.1")), "{line}");
    RawClient::connect(stand.address("http"))?.request("nonsense\r\n\r\n")?;
    let line = stand.log_line(|line| line["fault"] == "bad_request")?;
    assert_eq!((&line["status"], &line["client"]), (&json!(400), &json!("127.0.0.1")));
    Ok(())
}

/// What a client may put into a line: bytes that end strings, lines or fields elsewhere.
const TRICKS: [(&str, &[u8]); 8] = [
    ("quote", b"x\",\"status\":\"999"),
    ("backslash", b"x\\"),
    ("two backslashes and a quote", b"x\\\\\""),
    ("tab", b"x\ty"),
    ("latin", b"caf\xe9"),
    ("utf8 line separator", "x\u{2028}y\u{85}z".as_bytes()),
    ("escape", b"x%0d%0a{\"forged\":true}"),
    ("long", &[b'\"'; 4000]),
];

/// The log once every worker has written what it had, which must be this many lines.
fn settled_log(stand: &Stand, lines: usize) -> Result<String> {
    let count = || stand.log().matches('\n').count();
    wait::until(wait::DEADLINE, || count() >= lines).with_context(|| stand.log())?;
    // One more on each worker, whose lines come in order: nothing follows that should not be there.
    for marker in 0..8 {
        status(stand.address("http"), &format!("marker-{marker}.test"), "/", "")?;
    }
    wait::until(wait::DEADLINE, || count() >= lines + 8).with_context(|| stand.log())?;
    let log = stand.log();
    assert_eq!(log.matches('\n').count(), lines + 8, "one line for each request: {log}");
    Ok(log)
}

#[test]
fn no_client_can_break_a_json_line() -> Result<()> {
    let (stand, _origin) = stand("")?;
    for (index, (trick, bytes)) in TRICKS.iter().enumerate() {
        let mut request = format!("GET /n{index} HTTP/1.1\r\nHost: app.test\r\nUser-Agent: ").into_bytes();
        request.extend(*bytes);
        request.extend(b"\r\n\r\n");
        assert_eq!(RawClient::connect(stand.address("http"))?.request(request)?.status, 200, "{trick}");
        let line = stand.log_line(|line| line["target"] == format!("/n{index}"))?;
        let sent = String::from_utf8_lossy(&bytes[..bytes.len().min(2048)]).into_owned();
        assert_eq!(line["user_agent"], sent, "{trick}");
        assert_eq!(line["status"], 200, "{trick}");
    }
    // Refused or not, what stands in the target and the host stays inside its string.
    for (_, bytes) in TRICKS {
        let safe: Vec<u8> = bytes.iter().copied().filter(|byte| !b" \t".contains(byte)).collect();
        for (before, after) in
            [("GET /", " HTTP/1.1\r\nHost: app.test\r\n\r\n"), ("GET / HTTP/1.1\r\nHost: ", "\r\n\r\n")]
        {
            let request = [before.as_bytes(), &safe, after.as_bytes()].concat();
            RawClient::connect(stand.address("http"))?.request(request)?;
        }
    }
    let log = settled_log(&stand, TRICKS.len() * 3)?;
    let lines: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>().context(log.clone())?;
    assert!(lines.iter().all(|line| line["forged"].is_null()));
    Ok(())
}

#[test]
fn text_lines_hold_the_same_and_cannot_be_broken_either() -> Result<()> {
    let (stand, (origin, _dead)) = stand("accessLog: {format: Text}\n")?;
    let mut client = RawClient::connect(stand.address("http"))?;
    let local = client.local_addr()?;
    client.request(get("app.test", "/a?b=c", ""))?;
    wait::until(wait::DEADLINE, || stand.log().contains('\n'))?;
    let log = stand.log();
    let middle = format!(" 127.0.0.1 ({local} socket) \"GET app.test /a?b=c HTTP/1.1\" 200 ");
    assert!(log.contains(&middle), "{log}");
    assert!(log.ends_with(&format!(" {} \"Ingress test/app\" -\n", origin.address())), "{log}");
    for (_, bytes) in TRICKS {
        let safe: Vec<u8> = bytes.iter().copied().filter(|byte| !b" \t".contains(byte)).collect();
        for (before, after) in
            [("GET /", " HTTP/1.1\r\nHost: app.test\r\n\r\n"), ("GET / HTTP/1.1\r\nHost: ", "\r\n\r\n")]
        {
            RawClient::connect(stand.address("http"))?
                .request([before.as_bytes(), &safe, after.as_bytes()].concat())?;
        }
    }
    let log = settled_log(&stand, TRICKS.len() * 2 + 1)?;
    for line in log.lines() {
        // Outside of its two strings a line has a fixed number of words.
        let unescaped = line.replace("\\\\", "").replace("\\\"", "");
        let parts: Vec<&str> = unescaped.split('"').collect();
        assert!(matches!(parts.len(), 3 | 5), "{line}");
        let words = parts.iter().step_by(2).flat_map(|part| part.split_whitespace()).count();
        assert_eq!(words + parts.len() / 2, 11, "{line}");
        assert!(line.bytes().all(|byte| byte >= 0x20), "{line}");
    }
    Ok(())
}

#[test]
fn a_log_that_is_off_is_silent() -> Result<()> {
    let (stand, _origin) = stand("accessLog: {format: \"Off\"}\n")?;
    let http = stand.address("http");
    assert_eq!(status(http, "app.test", "/silent", "")?, 200);
    assert_eq!(status(http, "unknown.test", "/silent", "")?, 404);
    stand.change(|dir| dir.write("gateway.yaml", &Stand::gateway_with(LISTENERS)))?;
    assert_eq!(status(http, "app.test", "/loud", "")?, 200);
    let line = stand.log_line(|_| true)?;
    assert_eq!(line["target"], "/loud", "what came before was not logged");
    Ok(())
}

#[test]
fn ipv6_clients_are_logged_without_brackets_and_peers_with() -> Result<()> {
    let (stand, _origin) = stand("")?;
    let address = SocketAddr::new(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), stand.port("http"));
    assert_eq!(status(address, "app.test", "/v6", "")?, 200);
    let line = stand.log_line(|line| line["target"] == "/v6")?;
    assert_eq!(line["client"], "::1");
    assert!(line["peer"].as_str().is_some_and(|peer| peer.starts_with("[::1]:")), "{line}");
    Ok(())
}
