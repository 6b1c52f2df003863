//! Answers in the way of Alauda's ALB: reasons of faults, and who served a request.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::http2;
use headwater_testkit::origin::{Origin, RawOrigin};
use headwater_testkit::port::Refusing;
use headwater_testkit::response::{Response, values};

const STYLE: &str = "faults: {style: ALB}\ntimeouts: {idle: 200ms}\nretries: {attempts: 1}\n";

fn stand(settings: &str, endpoints: &[SocketAddr]) -> Result<Stand> {
    Stand::start(&[
        ("gateway.yaml", Stand::gateway(settings)),
        ("app.yaml", Stand::app("app", "app.test", endpoints)),
        ("gone.yaml", Stand::ingress("gone", "gone.test", "/", "gone")),
    ])
}

fn ask(stand: &Stand, host: &str, lines: &str) -> Result<Response> {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n");
    RawClient::connect(stand.address("http"))?.request(request)
}

fn reason(response: &Response) -> (u16, String, String) {
    let reason = response.header("x-alb-err-reason").unwrap_or_default();
    (response.status, reason, response.text())
}

fn expected(status: u16, reason: &str, body: &str) -> (u16, String, String) {
    (status, reason.to_owned(), body.to_owned())
}

#[test]
fn each_fault_is_told_in_the_words_of_the_manual_and_counted() -> Result<()> {
    let refusing = Refusing::at([127, 0, 77, 1])?;
    let silent = RawOrigin::start(|conn| {
        conn.read_request()?;
        conn.read_to_end().map(drop)
    })?;
    let broken = RawOrigin::answering(
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nX-ALB-ERR-REASON: forged\r\n\r\n",
    )?;
    let bytes = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nX-ALB-ERR-REASON: forged\r\n\r\n".len();
    let told = format!("BackendError : read {bytes} byte data from backend");
    for (endpoints, host, answer, word) in [
        (vec![], "nobody.test", expected(404, "InvalidUpstream : no rule match", ""), Some("no_route")),
        (
            vec![],
            "app.test",
            expected(500, "InvalidBalancer : no balancer found for app", "X-Error: 500\n"),
            Some("no_endpoints"),
        ),
        (
            vec![],
            "gone.test",
            expected(500, "InvalidBalancer : no balancer found for gone", "X-Error: 500\n"),
            Some("no_service"),
        ),
        (
            vec![refusing.address()],
            "app.test",
            expected(502, "BackendError : no connection to an endpoint", "X-Error: 502\n"),
            Some("connect_failed"),
        ),
        (
            vec![silent.address()],
            "app.test",
            expected(504, "TimeoutViaBackend : the endpoint took too long to answer", "X-Error: 504\n"),
            Some("upstream_timeout"),
        ),
        (vec![broken.address()], "app.test", expected(500, &told, ""), None),
    ] {
        let stand = stand(STYLE, &endpoints)?;
        let response = ask(&stand, host, "")?;
        assert_eq!(reason(&response), answer);
        assert_eq!(response.header("x-headwater-fault"), None);
        assert_eq!(values(&response.headers, "x-alb-err-reason").len(), 1);
        let line = stand.log_line(|line| line["host"] == host)?;
        assert_eq!((line["fault"].as_str(), line["status"].as_u64()), (word, Some(answer.0.into())), "{line}");
        if let Some(word) = word {
            assert!(stand.metrics().contains(&format!("reason=\"{word}\"")), "{}", stand.metrics());
        }
        let over_h2 = http2::request(&Dial::to(stand.address("http")), http2::Request::new("GET", host, "/"))?;
        assert_eq!(reason(&over_h2), answer);
    }
    Ok(())
}

#[test]
fn other_listeners_keep_their_own_words_and_leave_those_of_endpoints_alone() -> Result<()> {
    let broken = RawOrigin::answering(
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nX-ALB-ERR-REASON: inner\r\n\r\n",
    )?;
    let stand = stand("", &[broken.address()])?;
    assert_eq!(reason(&ask(&stand, "app.test", "")?), expected(500, "inner", ""));
    let response = ask(&stand, "nobody.test", "")?;
    assert_eq!(
        (response.header("x-headwater-fault").as_deref(), response.header("x-alb-err-reason")),
        (Some("no_route"), None)
    );
    Ok(())
}

const ASKS: &str = "cpaas-trace: true\r\n";

#[test]
fn who_may_ask_hears_which_rule_and_endpoint_served() -> Result<()> {
    let origin = Origin::http("app")?;
    let allowed = stand("faults: {traceClients: [127.0.0.1]}", &[origin.address()])?;
    let response = ask(&allowed, "app.test", ASKS)?;
    let told: serde_json::Value = serde_json::from_str(&response.header("x-cpaas-trace").context("nothing was told")?)?;
    for (key, value) in [
        ("rule", "test/app".to_owned()),
        ("index", "spec.rules[0].http.paths[0]".to_owned()),
        ("upstream", "test/app:80".to_owned()),
        ("upstream_ip", origin.address().to_string()),
    ] {
        assert_eq!(told[key], value.as_str(), "{told}");
    }
    assert!(told["alb_pod"].is_string(), "{told}");
    assert_eq!(ask(&allowed, "app.test", "")?.header("x-cpaas-trace"), None);
    assert_eq!(ask(&allowed, "app.test", "cpaas-trace: no\r\n")?.header("x-cpaas-trace"), None);
    // A gateway behind this one says its own first.
    let inner = allowed.address("http");
    let outer = stand("faults: {traceClients: [127.0.0.1]}", &[inner])?;
    let response = ask(&outer, "app.test", ASKS)?;
    let lines = values(&response.headers, "x-cpaas-trace");
    let addresses: Vec<serde_json::Value> = lines
        .iter()
        .map(|line| Ok(serde_json::from_str::<serde_json::Value>(line)?["upstream_ip"].clone()))
        .collect::<Result<_>>()?;
    assert_eq!(addresses, [origin.address().to_string(), inner.to_string()]);
    Ok(())
}

#[test]
fn nobody_else_hears_an_address_not_even_from_an_endpoint() -> Result<()> {
    let telling = RawOrigin::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Cpaas-Trace: {\"upstream_ip\":\"10.0.0.1\"}\r\n\r\n",
    )?;
    for settings in ["faults: {traceClients: [192.0.2.0/24]}", "faults: {traceClients: [192.0.2.0/24], style: ALB}"] {
        let stand = stand(settings, &[telling.address()])?;
        for lines in ["", ASKS, &format!("{ASKS}X-Forwarded-For: 192.0.2.1\r\n")] {
            assert_eq!(ask(&stand, "app.test", lines)?.header("x-cpaas-trace"), None, "{settings} {lines}");
        }
    }
    let origin = Origin::http("app")?;
    let stand = stand("faults: {style: ALB}", &[origin.address()])?;
    assert_eq!(ask(&stand, "app.test", ASKS)?.header("x-cpaas-trace"), None);
    Ok(())
}
