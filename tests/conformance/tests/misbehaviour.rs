//! Endpoints and clients that close, stall, or lie.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::{Dial, Tls};
use headwater_testkit::http2::{self, Request};
use headwater_testkit::origin::{Origin, RawOrigin};
use headwater_testkit::port::Refusing;
use headwater_testkit::response::Response;
use headwater_testkit::wait::{self, DEADLINE};

const HOST: &str = "app.test";

/// A stand with one app at one endpoint; `spec` is more of the gateway's settings.
fn stand(spec: &str, app_protocol: &str, endpoint: SocketAddr) -> Result<Stand> {
    let service = Stand::service("app", app_protocol, &[endpoint]);
    let app = format!("{}---\n{service}", Stand::ingress("app", HOST, "/", "app"));
    Stand::start(&[("gateway.yaml", Stand::gateway(spec)), ("app.yaml", app)])
}

fn plain(stand: &Stand) -> Dial {
    Dial::to(stand.address("http"))
}

fn tls(stand: &Stand) -> Dial {
    Dial::to(stand.address("https")).tls(Tls::new(HOST).alpn(&["http/1.1"]))
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

fn fault(response: &Response) -> (u16, Option<String>) {
    (response.status, response.header("x-headwater-fault"))
}

#[test]
fn a_pooled_connection_that_the_endpoint_closed_costs_no_request_and_repeats_none() -> Result<()> {
    // The first connection is closed as soon as its second request has come.
    let origin = RawOrigin::start(|conn| {
        let mut left = if conn.index() == 0 { 1 } else { usize::MAX };
        while conn.read_request()?.is_some() {
            if left == 0 {
                return Ok(());
            }
            left -= 1;
            conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        }
        Ok(())
    })?;
    let get = get("/again");
    let one = stand("", "", origin.address())?;
    let mut client = RawClient::open(&plain(&one))?;
    assert_eq!(client.request(&get)?.text(), "ok");
    assert_eq!(client.request(&get)?.text(), "ok", "an idempotent request is sent again");
    assert_eq!(origin.connections().len(), 2);

    let origin = RawOrigin::start(|conn| {
        conn.read_request()?;
        conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        conn.read_request().map(drop)
    })?;
    let two = stand("", "", origin.address())?;
    let mut client = RawClient::open(&plain(&two))?;
    assert_eq!(client.request(&get)?.text(), "ok");
    let response = client.request(format!("POST /once HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nbody"))?;
    assert_eq!(fault(&response), (502, Some("upstream_closed".to_owned())));
    let bytes: Vec<u8> = origin.connections().into_iter().flat_map(|connection| connection.bytes).collect();
    let posts = bytes.windows(10).filter(|window| *window == b"POST /once").count();
    assert_eq!(posts, 1, "what may have been carried out is not sent again");
    Ok(())
}

#[test]
fn a_post_does_not_go_to_a_connection_that_has_been_closed_meanwhile() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        conn.read_request()?;
        conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    })?;
    let stand = stand("", "", origin.address())?;
    let mut client = RawClient::open(&plain(&stand))?;
    for round in 0..5 {
        let request = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nbody");
        assert_eq!(client.request(request)?.text(), "ok", "round {round}");
        origin.wait_for(round, |connection| connection.ended.is_some())?;
    }
    Ok(())
}

/// What an endpoint does to a request, and what the client hears.
struct Misdeed {
    what: &'static str,
    answer: &'static [u8],
    then: Then,
    expected: (u16, &'static str),
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    Close,
    Reset,
    Wait,
}

#[rustfmt::skip]
const MISDEEDS: &[Misdeed] = &[
    Misdeed { what: "closes", answer: b"", then: Then::Close, expected: (502, "upstream_closed") },
    Misdeed { what: "resets", answer: b"", then: Then::Reset, expected: (502, "upstream_closed") },
    Misdeed { what: "closes inside the head", answer: b"HTTP/1.1 200 OK\r\nX-", then: Then::Close, expected: (502, "upstream_closed") },
    Misdeed { what: "does not speak HTTP", answer: b"SSH-2.0-OpenSSH_9\r\n\r\n", then: Then::Close, expected: (502, "upstream_invalid") },
    Misdeed { what: "gives two lengths", answer: b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", then: Then::Wait,
        expected: (502, "upstream_invalid") },
    Misdeed { what: "gives length and chunks", answer: b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        then: Then::Wait, expected: (502, "upstream_invalid") },
    Misdeed { what: "folds a line", answer: b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 0\r\n\r\n", then: Then::Wait, expected: (502, "upstream_invalid") },
    Misdeed { what: "says nothing", answer: b"", then: Then::Wait, expected: (504, "upstream_timeout") },
    Misdeed { what: "stops inside the head", answer: b"HTTP/1.1 200 OK\r\nX-", then: Then::Wait, expected: (504, "upstream_timeout") },
    Misdeed { what: "only continues", answer: b"HTTP/1.1 100 Continue\r\n\r\n", then: Then::Wait, expected: (504, "upstream_timeout") },
    // The head has gone out: all that is left is to cut the response off, so that nobody takes it for whole.
    Misdeed { what: "ends a body early", answer: b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", then: Then::Close, expected: (200, "upstream_truncated") },
    Misdeed { what: "ends chunks early", answer: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", then: Then::Close, expected: (200, "upstream_truncated") },
    Misdeed { what: "breaks a chunk", answer: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n", then: Then::Wait, expected: (200, "upstream_invalid") },
    Misdeed { what: "stops inside a body", answer: b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", then: Then::Wait, expected: (200, "upstream_timeout") },
];

#[test]
fn an_endpoint_that_misbehaves_becomes_a_fault_with_its_reason() -> Result<()> {
    for misdeed in MISDEEDS {
        let then = misdeed.then;
        let answer = misdeed.answer;
        let origin = RawOrigin::start(move |conn| {
            conn.read_request()?;
            conn.write_all(answer)?;
            match then {
                Then::Close => Ok(()),
                Then::Reset => conn.reset_on_close(),
                Then::Wait => conn.read_to_end().map(drop),
            }
        })?;
        let spec = "timeouts: {idle: 300ms}\nretries: {attempts: 1}\npassiveHealth: {consecutiveFailures: 0}";
        let stand = stand(spec, "", origin.address())?;
        let (status, reason) = misdeed.expected;
        let what = misdeed.what;
        for dial in [plain(&stand), tls(&stand)] {
            let mut client = RawClient::open(&dial)?;
            let response = client.request(format!("GET /one HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
            if status == 200 {
                assert!(response.is_err(), "{what}: the response is whole");
            } else {
                let response = response.with_context(|| what)?;
                assert_eq!(fault(&response), (status, Some(reason.to_owned())), "{what}");
                assert!(response.text().starts_with(&format!("{reason}: ")), "{what}: {}", response.text());
            }
        }
        let two = http2::request(&plain(&stand), Request::get(HOST, "/two"));
        if status == 200 {
            assert!(two.is_err(), "{what}: the response is whole over HTTP/2");
        } else {
            assert_eq!(fault(&two.with_context(|| what)?), (status, Some(reason.to_owned())), "{what}");
        }
        for target in ["/one", "/two"] {
            let line = stand.log_line(|line| line["target"] == target).with_context(|| what)?;
            assert_eq!(
                (&line["fault"], &line["fault_by"], &line["status"]),
                (&reason.into(), &"upstream".into(), &status.into()),
                "{what}"
            );
        }
        assert!(
            stand.metric(&format!("headwater_gateway_faults_total{{reason=\"{reason}\",by=\"upstream\"}}")) >= 3.0,
            "{what}"
        );
    }
    Ok(())
}

#[test]
fn an_endpoint_where_nobody_listens_is_a_fault_and_so_is_a_request_that_takes_too_long() -> Result<()> {
    let dead = Refusing::at(Ipv4Addr::LOCALHOST)?;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for app_protocol in ["", "kubernetes.io/h2c", "https"] {
        let stand = stand("retries: {attempts: 1}", app_protocol, dead.address())?;
        let response = RawClient::open(&plain(&stand))?.request(&request)?;
        assert_eq!(fault(&response), (502, Some("connect_failed".to_owned())), "{app_protocol:?}");
    }
    let origin = Origin::http("app")?;
    for app_protocol in ["", "kubernetes.io/h2c"] {
        let stand = stand("timeouts: {request: 200ms}", app_protocol, origin.address())?;
        let slow = format!("GET /?delay=30000 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        let response = RawClient::open(&plain(&stand))?.request(&slow)?;
        assert_eq!(fault(&response), (504, Some("request_timeout".to_owned())), "{app_protocol:?}");
        let response = http2::request(&plain(&stand), Request::get(HOST, "/?delay=30000"))?;
        assert_eq!(fault(&response), (504, Some("request_timeout".to_owned())), "{app_protocol:?}");
        assert_eq!(RawClient::open(&plain(&stand))?.request(&request)?.status, 200, "{app_protocol:?}");
    }
    // Plain HTTP where TLS is spoken, and the other way round.
    let stand =
        stand("retries: {attempts: 1}", "https", RawOrigin::answering("HTTP/1.1 400 Bad Request\r\n\r\n")?.address())?;
    let response = RawClient::open(&plain(&stand))?.request(&request)?;
    assert_eq!(response.status, 502);
    Ok(())
}

#[test]
fn an_endpoint_that_goes_away_during_an_upload_ends_the_exchange_in_good_order() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        conn.read_until(b"\r\n\r\n")?;
        conn.socket().set_write_timeout(Some(Duration::from_millis(300)))?;
        conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")?;
        // As much as fits between here and a client that does not read.
        while conn.write(&[b'x'; 65_536]).is_ok() {}
        conn.reset_on_close()
    })?;
    let stand = stand("", "", origin.address())?;
    let mut client = RawClient::open(&plain(&stand))?;
    client.send(format!("POST /up HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000000\r\n\r\nbeginning"))?;
    origin.wait_for(0, |connection| connection.ended.is_some())?;
    client.send([b'x'; 1000])?;
    client.read_until(b"\r\n\r\n")?;
    client.closed()?;
    let line = stand.log_line(|line| line["target"] == "/up")?;
    assert_eq!((&line["status"], &line["fault_by"]), (&200.into(), &"upstream".into()), "{line}");
    Ok(())
}

#[test]
fn bytes_behind_a_response_never_become_another_response() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        while conn.read_request()?.is_some() {
            conn.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
            )?;
        }
        Ok(())
    })?;
    let stand = stand("", "", origin.address())?;
    let mut client = RawClient::open(&plain(&stand))?;
    for _ in 0..5 {
        assert_eq!(client.request(get("/"))?.text(), "ok");
    }
    assert_eq!(origin.connections().len(), 5, "a connection that is out of step carries nothing more");
    Ok(())
}

#[test]
fn a_connection_that_the_endpoint_will_close_is_not_used_again() -> Result<()> {
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let origin = RawOrigin::answering(answer)?;
        let stand = stand("", "", origin.address())?;
        let mut client = RawClient::open(&plain(&stand))?;
        for _ in 0..3 {
            let response = client.request(get("/"))?;
            assert_eq!((response.text().as_str(), response.header("connection")), ("ok", None));
        }
        assert_eq!(origin.connections().len(), 3, "{answer:?}");
    }
    let origin = RawOrigin::answering("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")?;
    let stand = stand("", "", origin.address())?;
    let mut client = RawClient::open(&plain(&stand))?;
    for _ in 0..3 {
        assert_eq!(client.request(get("/"))?.text(), "ok");
    }
    assert_eq!(origin.connections().len(), 1);
    Ok(())
}

#[test]
fn an_answer_ahead_of_the_body_reaches_the_client() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        conn.read_until(b"\r\n\r\n")?;
        conn.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")?;
        conn.read_to_end().map(drop)
    })?;
    let stand = stand("", "", origin.address())?;
    for dial in [plain(&stand), tls(&stand)] {
        let mut client = RawClient::open(&dial)?;
        client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000000\r\n\r\nbeginning"))?;
        let response = client.read_response()?;
        assert_eq!((response.status, response.text().as_str()), (413, "big"));
        assert_eq!(response.header("connection").as_deref(), Some("close"));
    }
    let response = http2::request(&plain(&stand), Request::post(HOST, "/", &[b'x'; 1 << 20]))?;
    assert_eq!((response.status, response.text().as_str()), (413, "big"));
    Ok(())
}

#[test]
fn a_client_that_goes_away_takes_its_request_along() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        let request = conn.read_request()?.unwrap_or_default();
        if request.starts_with(b"GET /begun") {
            conn.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")?;
        }
        conn.read_to_end().map(drop)
    })?;
    let stand = stand("", "", origin.address())?;
    let post = |target: &str| format!("POST {target} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nbody");
    let mut index = 0;
    for (dial, secure) in [(plain(&stand), ""), (tls(&stand), "-secure")] {
        for name in ["/waiting", "/begun", "/sent"] {
            let target = format!("{name}{secure}");
            let mut client = RawClient::open(&dial)?;
            client.send(if name == "/sent" { post(&target) } else { get(&target) })?;
            let end: &[u8] = if name == "/sent" { b"body" } else { b"\r\n\r\n" };
            origin.wait_for(index, |record| record.bytes.ends_with(end))?;
            if name == "/begun" {
                client.read_until(b"x\r\n")?;
            }
            drop(client);
            origin.wait_for(index, |record| record.ended.is_some()).with_context(|| target.clone())?;
            let line = stand.log_line(|line| line["target"] == target)?;
            assert_eq!(line["fault"], "downstream_closed", "{line}");
            index += 1;
        }
    }
    Ok(())
}

#[test]
fn requests_that_come_while_one_is_served_are_served_after_it() -> Result<()> {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let origin = RawOrigin::start(move |conn| {
        while let Some(request) = conn.read_request()? {
            if request.starts_with(b"GET /first") || request.starts_with(b"POST /first") {
                wait.lock().unwrap().recv_timeout(DEADLINE).map_err(std::io::Error::other)?;
            }
            let line = String::from_utf8_lossy(request.split(|byte| *byte == b'\r').next().unwrap_or_default());
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len());
            conn.write_all(answer.as_bytes())?;
        }
        Ok(())
    })?;
    let stand = stand("", "", origin.address())?;
    let first = format!("POST /first HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nbody");
    for dial in [plain(&stand), tls(&stand)] {
        for first in [get("/first"), first.clone()] {
            let known: usize = origin.connections().iter().map(|record| record.bytes.len()).sum();
            let mut client = RawClient::open(&dial)?;
            client.send(&first)?;
            wait::until(DEADLINE, || {
                origin.connections().iter().map(|record| record.bytes.len()).sum::<usize>() > known
            })?;
            // More than is read ahead, in pieces that end inside of requests.
            let more: String = (0..500).map(|index| get(&format!("/{index}"))).collect();
            let (one, two) = more.split_at(777);
            client.send(one)?;
            client.send(two)?;
            go.send(())?;
            assert!(client.read_response()?.text().contains(" /first "));
            for index in 0..500 {
                assert_eq!(client.read_response()?.text(), format!("GET /{index} HTTP/1.1"));
            }
        }
    }
    Ok(())
}

#[test]
fn clients_that_go_away_say_nothing_about_the_endpoint() -> Result<()> {
    let hang = || RawOrigin::start(|conn| conn.read_to_end().map(drop));
    let (one, two) = (hang()?, hang()?);
    let spec = "passiveHealth: {consecutiveFailures: 1}";
    let service = Stand::service("app", "", &[one.address(), two.address()]);
    let app = format!("{}---\n{service}", Stand::ingress("app", HOST, "/", "app"));
    let stand = Stand::start(&[("gateway.yaml", Stand::gateway(spec)), ("app.yaml", app)])?;
    let begun = || one.connections().len() + two.connections().len();
    for round in 0..4 {
        let known = begun();
        let mut client = RawClient::open(&plain(&stand))?;
        client.send(get(&format!("/one/{round}")))?;
        wait::until(DEADLINE, || begun() > known)?;
        drop(client);
        stand.log_line(|line| line["target"] == format!("/one/{round}") && line["fault"] == "downstream_closed")?;

        let known = begun();
        let tcp = plain(&stand).tcp()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut stream = runtime.block_on(async {
            tcp.set_nonblocking(true)?;
            let (send, connection) = h2::client::handshake(tokio::net::TcpStream::from_std(tcp)?).await?;
            tokio::spawn(connection);
            let request = http::Request::get(format!("http://{HOST}/two/{round}")).body(())?;
            anyhow::Ok(send.ready().await?.send_request(request, true)?)
        })?;
        wait::until(DEADLINE, || begun() > known)?;
        stream.1.send_reset(h2::Reason::CANCEL);
        stand.log_line(|line| line["target"] == format!("/two/{round}") && line["fault"] == "downstream_closed")?;
        runtime.shutdown_background();
    }
    let series = "headwater_gateway_endpoint_ejections_total{namespace=\"test\",service=\"app\",port=\"80\"}";
    assert!(stand.metrics().contains(series));
    assert_eq!(stand.metric(series), 0.0);
    Ok(())
}
