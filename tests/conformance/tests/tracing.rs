//! Spans of requests, as a collector sees them, and what endpoints hear of traces.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::collector::{Collector, Received, Reply};
use headwater_testkit::dial::Dial;
use headwater_testkit::http2;
use headwater_testkit::origin::{LOOPBACK, Origin};
use headwater_testkit::response::{Response, values};
use headwater_testkit::wait;
use serde_json::{Value, json};

const HOST: &str = "a.test";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// An Ingress whose requests are traced as `otel` says, over what every test has.
fn ingress(otel: &Value, annotations: &[(&str, &str)]) -> String {
    let mut all = serde_json::Map::new();
    all.insert("alb.ingress.cpaas.io/otel".to_owned(), otel.to_string().into());
    all.extend(
        annotations.iter().map(|(name, value)| (format!("nginx.ingress.kubernetes.io/{name}"), Value::from(*value))),
    );
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "app", "namespace": "test", "annotations": all},
        "spec": {"rules": [{"host": HOST, "http": {"paths": [{
            "path": "/", "pathType": "Prefix", "backend": {"service": {"name": "app", "port": {"number": 80}}},
        }]}}]},
    })
    .to_string()
}

fn otel(collector: SocketAddr, more: Value) -> Value {
    let mut otel = json!({
        "enable": true,
        "exporter": {
            "collector": {"address": collector.to_string(), "request_timeout": 2},
            "batch_span_processor": {"max_queue_size": 2048, "inactive_timeout": 1},
        },
    });
    if let (Some(otel), Value::Object(more)) = (otel.as_object_mut(), more) {
        otel.extend(more);
    }
    otel
}

fn stand(origin: SocketAddr, otel: &Value, annotations: &[(&str, &str)]) -> Result<Stand> {
    let stand = Stand::start(&[
        ("gateway.yaml", Stand::gateway("")),
        ("service.yaml", Stand::service("app", "", &[origin])),
        ("ingress.yaml", ingress(otel, annotations)),
    ])?;
    let told: Vec<_> = stand.findings().iter().filter(|finding| finding.field.contains("otel")).cloned().collect();
    assert!(told.is_empty(), "{told:?}");
    Ok(stand)
}

fn ask(stand: &Stand, target: &str, headers: &[(&str, &str)]) -> Result<Response> {
    let mut text = format!("GET {target} HTTP/1.1\r\nHost: {HOST}:8080\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    RawClient::connect(stand.address("http"))?.request(format!("{text}\r\n"))
}

fn get(span: &Received, name: &str) -> String {
    span.get(name).unwrap_or_else(|| "-".to_owned())
}

fn one(mut spans: Vec<Received>) -> Received {
    assert_eq!(spans.len(), 1, "{spans:#?}");
    spans.remove(0)
}

#[test]
fn a_span_tells_who_asked_for_what_and_who_answered() -> Result<()> {
    let (origin, collector) = (Origin::http("app")?, Collector::start(&[])?);
    let otel = otel(collector.address(), json!({"resource": {"team": "shop", "service.name": "edge"}}));
    let stand = stand(origin.address(), &otel, &[])?;
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let seen = ask(&stand, "/a%20b?c=d", &[("User-Agent", "probe/1")])?.seen()?;
    let span = one(collector.wait(1)?);
    let after = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let port = "8080";
    for (name, expected) in [
        ("net.host.name", HOST),
        ("http.request.method", "GET"),
        ("http.scheme", "http"),
        ("http.target", "/a%20b?c=d"),
        ("http.user_agent", "probe/1"),
        ("alb.rule.rule_name", "test/app:0-0"),
        ("alb.rule.source_type", "ingress"),
        ("alb.rule.source_name", "app"),
        ("alb.rule.source_ns", "test"),
        ("http.status_code", "200"),
        ("http.request.resend_count", "0"),
        ("alb.upstream.svc_name", "app"),
        ("alb.upstream.svc_ns", "test"),
        ("alb.upstream.peer", &origin.address().to_string()),
        ("url.path", "/a%20b"),
        ("url.query", "c=d"),
        ("url.scheme", "http"),
        ("user_agent.original", "probe/1"),
        ("server.address", HOST),
        ("server.port", port),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("http.response.status_code", "200"),
        ("error.type", "-"),
        ("http.request.header.user-agent", "-"),
    ] {
        assert_eq!(get(&span, name), expected, "{name}");
    }
    assert_eq!((&*span.span.name, span.span.kind, span.parent()), ("GET /a%20b?c=d", 2, String::new()));
    assert!(span.span.status.is_none(), "{:?}", span.span.status);
    let (start, end) = (u128::from(span.span.start_time_unix_nano), u128::from(span.span.end_time_unix_nano));
    assert!(
        before <= start + 50_000_000 && start <= end && end <= after + 50_000_000,
        "{before} {start} {end} {after}"
    );
    let resource = |name: &str| span.resource.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!((resource("service.name"), resource("team")), (Some("edge"), Some("shop")));
    assert_eq!(resource("service.instance.id"), Some("stand"));
    assert!(resource("hostname").is_some() && resource("service.version").is_some());
    let expected = format!("00-{}-{}-01", span.trace(), span.id());
    assert_eq!(seen.header("traceparent"), Some(expected));
    assert!(collector.requests()[0].starts_with("POST /v1/traces HTTP/1.1"), "{:?}", collector.requests());
    wait::until(wait::DEADLINE, || stand.metric("headwater_gateway_spans_exported_total") == 1.0)
}

#[test]
fn samplers_and_trust_decide_what_is_told_and_which_trace_it_belongs_to() -> Result<()> {
    let (origin, collector) = (Origin::http("app")?, Collector::start(&[])?);
    let sampler = |name: &str| json!({"sampler": {"name": name}});
    let ratio = |name: &str, options: Value| json!({"sampler": {"name": name, "options": options}});
    let flags = json!({"hide_upstream_attrs": false, "notrust_incoming_span": true,
        "report_http_request_header": false, "report_http_response_header": false});
    let sampled = format!("00-{TRACE}-{SPAN}-01");
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    let of_alb = format!("00-{TRACE}-{SPAN}-02");
    let high = format!("00-f{}-{SPAN}-01", &TRACE[1..]);
    let broken = format!("00-{TRACE}-{SPAN}-1");
    let stand = stand(origin.address(), &otel(collector.address(), json!({})), &[])?;
    let mut expected_spans = 0;
    // How it is traced, the parent of the request; whether it is told of, whether the trace goes on.
    let cases = [
        (sampler("always_on"), None, true, false),
        (sampler("always_on"), Some(&unsampled), true, true),
        (sampler("always on"), Some(&sampled), true, true),
        (sampler("always_off"), None, false, false),
        (sampler("always_off"), Some(&sampled), false, true),
        (sampler("parent_base"), None, true, false),
        (sampler("parent-base"), Some(&sampled), true, true),
        (sampler("parent_base"), Some(&unsampled), false, true),
        (sampler("parent_base"), Some(&of_alb), false, true),
        (sampler("parent_base"), Some(&broken), true, false),
        (ratio("parent_base", json!({"parent_name": "always_off"})), None, false, false),
        (ratio("trace_id_ratio", json!({"fraction": "0.5"})), Some(&unsampled), true, true),
        (ratio("traceid-ratio", json!({"fraction": "0.5"})), Some(&high), false, true),
        (ratio("trace_id_ratio", json!({"fraction": "0"})), None, false, false),
        (ratio("trace_id_ratio", json!({"fraction": "1"})), None, true, false),
        (json!({"flags": flags, "sampler": {"name": "parent_base"}}), Some(&unsampled), true, false),
    ];
    for (index, (more, parent, told, goes_on)) in cases.into_iter().enumerate() {
        let otel = otel(collector.address(), more.clone());
        // A change every time, so that there is something to wait for.
        let path = format!("/{index}");
        let name = [("rewrite-target", path.as_str())];
        stand.change(|dir| dir.write("ingress.yaml", &ingress(&otel, &name)))?;
        let mut headers = vec![("tracestate", "a=1")];
        headers.extend(parent.map(|parent| ("traceparent", parent.as_str())));
        let seen = ask(&stand, "/", &headers)?.seen()?;
        let passed = seen.header("traceparent").with_context(|| format!("{more}: no traceparent"))?;
        assert_eq!(values(&seen.headers(), "traceparent").len(), 1, "{more}");
        let parts: Vec<&str> = passed.split('-').collect();
        let case = format!("{more} {parent:?} {passed}");
        assert_eq!(parts[3].ends_with('1'), told, "{case}");
        let of_parent = parent.map_or("", |parent| &parent[3..35]);
        assert_eq!(parts[1] == of_parent, goes_on, "{case}");
        assert_ne!(parts[2], SPAN, "{case}: the endpoint is a child of the gateway's span");
        assert_eq!(seen.header("tracestate").is_some(), goes_on, "{case}");
        if told {
            expected_spans += 1;
            let spans = collector.wait(expected_spans)?;
            let span = spans.last().context("a span")?;
            assert_eq!((span.trace(), span.id()), (parts[1].to_owned(), parts[2].to_owned()), "{case}");
            assert_eq!(span.parent(), if goes_on { SPAN } else { "" }, "{case}");
        }
    }
    assert_eq!(collector.spans().len(), expected_spans);
    Ok(())
}

#[test]
fn headers_are_told_where_that_is_wanted_and_secrets_are_not() -> Result<()> {
    let (origin, collector) = (Origin::http("app")?, Collector::start(&[])?);
    let flags = json!({"flags": {"hide_upstream_attrs": true, "notrust_incoming_span": false,
        "report_http_request_header": true, "report_http_response_header": true}});
    let stand = stand(origin.address(), &otel(collector.address(), flags), &[])?;
    let headers = [("X-Probe", "yes"), ("Authorization", "Basic c2VjcmV0"), ("Cookie", "session=secret")];
    let answer = ask(&stand, "/", &headers)?;
    let span = one(collector.wait(1)?);
    for (name, expected) in [
        ("http.request.header.x-probe", "yes"),
        ("http.request.header.authorization", "redacted"),
        ("http.request.header.cookie", "redacted"),
        ("http.response.header.content-type", &*answer.header("content-type").context("a type")?),
        ("alb.upstream.svc_name", "-"),
        ("alb.upstream.svc_ns", "-"),
        ("alb.upstream.peer", "-"),
        ("http.status_code", "200"),
    ] {
        assert_eq!(get(&span, name), expected, "{name}");
    }
    assert!(!format!("{span:?}").contains("secret"), "{span:#?}");
    Ok(())
}

#[test]
fn faults_end_spans_too_and_what_is_not_forwarded_has_none() -> Result<()> {
    let collector = Collector::start(&[])?;
    // Nobody listens there any more.
    let closed = TcpListener::bind(LOOPBACK)?.local_addr()?;
    let stand = stand(closed, &otel(collector.address(), json!({})), &[])?;
    let answer = ask(&stand, "/", &[])?;
    let span = one(collector.wait(1)?);
    let line = stand.log_line(|line| line["status"] == answer.status)?;
    let resent = line["attempts"].as_u64().context("attempts")? - 1;
    assert_eq!(get(&span, "http.request.resend_count"), resent.to_string(), "{line}");
    assert_eq!(get(&span, "http.status_code"), answer.status.to_string());
    assert_eq!(Some(get(&span, "error.type")), answer.header("x-headwater-fault"));
    assert_eq!(span.span.status.context("a status")?.code, 2);

    let otel = otel(collector.address(), json!({}));
    stand.change(|dir| dir.write("ingress.yaml", &ingress(&otel, &[("permanent-redirect", "https://b.test/")])))?;
    assert_eq!(ask(&stand, "/", &[])?.status, 301);
    assert_eq!(collector.spans().len(), 1);
    Ok(())
}

#[test]
fn a_name_of_the_users_own_and_http_2_on_both_sides() -> Result<()> {
    let (origin, collector) = (Origin::http("app")?, Collector::start(&[])?);
    let name = [("opentelemetry-operation-name", "HTTP $request_method $host"), ("backend-protocol", "GRPC")];
    let stand = stand(origin.address(), &otel(collector.address(), json!({})), &name)?;
    let request = http2::Request::new("GET", HOST, "/x").header("traceparent", &format!("00-{TRACE}-{SPAN}-01"));
    let seen = http2::request(&Dial::to(stand.address("http")), request)?.seen()?;
    let span = one(collector.wait(1)?);
    assert_eq!((&*span.span.name, span.parent()), ("HTTP GET a.test", SPAN.to_owned()));
    assert_eq!(seen.header("traceparent"), Some(format!("00-{TRACE}-{}-01", span.id())));
    assert_eq!(get(&span, "network.protocol.version"), "2");
    Ok(())
}

#[test]
fn a_collector_that_never_answers_slows_no_request_and_what_it_cannot_take_is_counted() -> Result<()> {
    let (origin, collector) = (Origin::http("app")?, Collector::start(&[Reply::Silence])?);
    let mut config = otel(collector.address(), json!({}));
    config["exporter"]["batch_span_processor"] = json!({"max_queue_size": 8, "inactive_timeout": 1});
    let stand = stand(origin.address(), &config, &[])?;
    let mut client = RawClient::connect(stand.address("http"))?;
    let began = Instant::now();
    for _ in 0..200 {
        assert_eq!(client.request(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))?.status, 200);
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    let lost = || stand.metric("headwater_gateway_spans_overflowed_total");
    wait::until(wait::DEADLINE, || lost() >= 150.0)?;
    assert!(collector.spans().is_empty());
    Ok(())
}

#[test]
fn a_collector_that_is_busy_is_asked_again_and_one_that_refuses_is_not() -> Result<()> {
    let origin = Origin::http("app")?;
    let counts = |stand: &Stand| {
        ["exported", "rejected", "undelivered"]
            .map(|what| stand.metric(&format!("headwater_gateway_spans_{what}_total")))
    };
    for (replies, expected, requests) in [
        (&[Reply::Status(503), Reply::OK][..], [1.0, 0.0, 0.0], 2),
        (&[Reply::Close, Reply::Status(429), Reply::OK][..], [1.0, 0.0, 0.0], 3),
        (&[Reply::Status(400)][..], [0.0, 0.0, 1.0], 1),
        (&[Reply::Status(502)][..], [0.0, 0.0, 1.0], 4),
        (&[Reply::Taken { refused: 1 }][..], [0.0, 1.0, 0.0], 1),
    ] {
        let collector = Collector::start(replies)?;
        let stand = stand(origin.address(), &otel(collector.address(), json!({})), &[])?;
        assert_eq!(ask(&stand, "/", &[])?.status, 200);
        wait::until(wait::DEADLINE, || counts(&stand) == expected)
            .with_context(|| format!("{replies:?}: {:?}", counts(&stand)))?;
        assert_eq!(collector.requests().len(), requests, "{replies:?}");
    }
    Ok(())
}

#[test]
fn spans_wait_for_a_collector_that_comes_later_and_the_last_ones_are_sent_at_the_end() -> Result<()> {
    let origin = Origin::http("app")?;
    let address = TcpListener::bind(LOOPBACK)?.local_addr()?;
    let mut stand = stand(origin.address(), &otel(address, json!({})), &[])?;
    assert_eq!(ask(&stand, "/first", &[])?.status, 200);
    wait::until(wait::DEADLINE, || stand.metric("headwater_gateway_span_export_retries_total") >= 1.0)?;
    let collector = Collector::listen(address, &[])?;
    assert_eq!(one(collector.wait(1)?).get("url.path").as_deref(), Some("/first"));
    assert_eq!(ask(&stand, "/last", &[])?.status, 200);
    stand.drain(Duration::from_secs(5));
    let spans = collector.spans();
    assert_eq!(spans.last().and_then(|span| span.get("url.path")).as_deref(), Some("/last"));
    Ok(())
}

#[test]
fn the_config_map_of_ingress_nginx_is_obeyed() -> Result<()> {
    let (origin, collector) = (Origin::http("app")?, Collector::start(&[])?);
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "ingress-nginx-controller", "namespace": "ingress-nginx"},
        "data": {
            "enable-opentelemetry": "true", "otlp-collector-host": collector.address().ip().to_string(),
            "otlp-collector-port": collector.address().port().to_string(), "otel-service-name": "edge",
            "otel-schedule-delay-millis": "50",
        },
    });
    let stand = Stand::start(&[
        ("gateway.yaml", Stand::gateway("")),
        ("app.yaml", Stand::app("app", HOST, &[origin.address()])),
        ("map.yaml", map.to_string()),
    ])?;
    assert_eq!(ask(&stand, "/", &[])?.status, 200);
    let span = one(collector.wait(1)?);
    assert!(span.resource.contains(&("service.name".to_owned(), "edge".to_owned())), "{:?}", span.resource);
    Ok(())
}
