//! HTTP from one end to the other: versions, framing, streaming, upgrades, gRPC, endpoints that misbehave.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use headwater_conformance_tests::Stand;
use headwater_testkit::certs::Authority;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::{Dial, Tls};
use headwater_testkit::grpc;
use headwater_testkit::http2::{self, Request};
use headwater_testkit::origin::{Origin, RawOrigin};
use headwater_testkit::response::{Response, values};
use headwater_testkit::wait::DEADLINE;
use headwater_testkit::websocket::WebSocket;

const HOST: &str = "app.test";

/// A stand with one app at one endpoint; `spec` is more of the gateway's settings.
fn stand(spec: &str, app_protocol: &str, endpoint: SocketAddr) -> Result<Stand> {
    Stand::start(&[
        ("gateway.yaml", Stand::gateway(spec)),
        (
            "app.yaml",
            format!(
                "{}---\n{}",
                Stand::ingress("app", HOST, "/", "app"),
                Stand::service("app", app_protocol, &[endpoint])
            ),
        ),
    ])
}

fn plain(stand: &Stand) -> Dial {
    Dial::to(stand.address("http"))
}

fn tls(stand: &Stand, alpn: &str) -> Dial {
    Dial::to(stand.address("https")).tls(Tls::new(HOST).alpn(&[alpn]))
}

fn fault(response: &Response) -> (u16, Option<String>) {
    (response.status, response.header("x-headwater-fault"))
}

/// Bytes without a period that buffers could share.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!((found.len(), differs), (expected.len(), None), "{what}: length, and where the bytes differ");
}

#[test]
fn a_connection_persists_as_its_version_and_its_headers_say() -> Result<()> {
    let origin = Origin::http("app")?;
    let stand = stand("", "", origin.address())?;
    for (version, connection, persists, said) in [
        ("1.1", "", true, None),
        ("1.1", "keep-alive", true, None),
        ("1.1", "close", false, Some("close")),
        ("1.1", "x, Close", false, Some("close")),
        ("1.0", "", false, Some("close")),
        ("1.0", "keep-alive", true, Some("keep-alive")),
        ("1.0", "Keep-Alive", true, Some("keep-alive")),
    ] {
        for dial in [plain(&stand), tls(&stand, "http/1.1")] {
            let connection =
                if connection.is_empty() { String::new() } else { format!("Connection: {connection}\r\n") };
            let request = format!("GET / HTTP/{version}\r\nHost: {HOST}\r\n{connection}\r\n");
            let mut client = RawClient::open(&dial)?;
            let response = client.request(&request)?;
            let what = format!("HTTP/{version} {connection:?}");
            assert_eq!(response.seen()?.name(), "app", "{what}");
            assert_eq!(response.header("connection").as_deref(), said, "{what}");
            if persists {
                assert_eq!(client.request(&request)?.status, 200, "{what}");
            } else {
                assert_eq!(client.read_to_end()?, b"", "{what}");
            }
        }
    }
    Ok(())
}

#[test]
fn responses_without_a_body_leave_the_connection_in_step() -> Result<()> {
    let origin = Origin::http("app")?;
    let stand = stand("", "", origin.address())?;
    let mut client = RawClient::open(&plain(&stand))?;
    for (method, target, status, length) in [
        ("HEAD", "/?bytes=1000", 200, Some("1000")),
        ("HEAD", "/?chunked=1000&pieces=4", 200, None),
        ("GET", "/status/204", 204, None),
        ("GET", "/status/304", 304, None),
        ("HEAD", "/status/404?bytes=7", 404, Some("7")),
        ("GET", "/?bytes=0", 200, Some("0")),
        ("POST", "/?bytes=3", 200, Some("3")),
    ] {
        let length_line = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n{length_line}\r\n"))?;
        let response = client.read_response_to(method)?;
        let what = format!("{method} {target}");
        assert_eq!(response.status, status, "{what}");
        if status != 304 {
            assert_eq!(response.header("content-length").as_deref(), length, "{what}");
        }
        assert!(status != 204 || response.header("transfer-encoding").is_none(), "{what}");
        let two = http2::request(&plain(&stand), Request::new(method, HOST, target))?;
        assert_eq!((two.status, two.body.len()), (status, response.body.len()), "{what} over HTTP/2");
        if method == "HEAD" && length.is_some() {
            assert_eq!(two.header("content-length").as_deref(), length, "{what} over HTTP/2");
        }
    }
    assert_eq!(client.request(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))?.seen()?.name(), "app");
    Ok(())
}

#[test]
fn a_304_may_say_the_length_of_what_it_does_not_send() -> Result<()> {
    let origin = RawOrigin::answering("HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\nETag: \"x\"\r\n\r\n")?;
    let stand = stand("", "", origin.address())?;
    let mut client = RawClient::open(&plain(&stand))?;
    for _ in 0..2 {
        let response = client.request(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))?;
        assert_eq!((response.status, response.header("content-length").as_deref()), (304, Some("100")));
        let response = http2::request(&plain(&stand), Request::get(HOST, "/"))?;
        assert_eq!((response.status, response.header("etag").as_deref()), (304, Some("\"x\"")));
    }
    Ok(())
}

/// How a client asks, how an endpoint is asked.
const UPSTREAMS: [&str; 4] = ["", "kubernetes.io/h2c", "https", "h2"];

/// Sends the same request over HTTP/1.1 and HTTP/2, plain and TLS; bodies without a length.
fn ask_all(stand: &Stand, request: &Request) -> Result<Vec<(&'static str, Response)>> {
    let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", request.method, request.path, request.authority);
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut one = head.into_bytes();
    if request.body.is_empty() && request.trailers.is_empty() {
        one.extend(b"\r\n");
    } else {
        one.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        for piece in request.body.chunks(request.body.len() / 4 + 1) {
            one.extend(format!("{:x};ext=1\r\n", piece.len()).bytes());
            one.extend(piece);
            one.extend(b"\r\n");
        }
        one.extend(b"0\r\n");
        for (name, value) in &request.trailers {
            one.extend(format!("{name}: {value}\r\n").bytes());
        }
        one.extend(b"\r\n");
    }
    let secure = Request { scheme: "https".to_owned(), ..request.clone() };
    Ok(vec![
        ("HTTP/1.1", RawClient::open(&plain(stand))?.request(&one)?),
        ("HTTP/1.1 over TLS", RawClient::open(&tls(stand, "http/1.1"))?.request(&one)?),
        ("HTTP/2", http2::request(&plain(stand), request.clone())?),
        ("HTTP/2 over TLS", http2::request(&tls(stand, "h2"), secure)?),
    ])
}

#[test]
fn every_version_reaches_every_kind_of_endpoint_with_body_headers_and_trailers() -> Result<()> {
    let leaf = Authority::new("test")?.leaf(&["app.test"])?;
    for app_protocol in UPSTREAMS {
        let origin = Origin::https("app", &leaf)?;
        let stand = stand("", app_protocol, origin.address())?;
        let mut request = Request::post(HOST, "/a%20b?c=d&trailers", b"a body in several pieces")
            .header("x-one", "1")
            .header("x-one", "2")
            .header("cookie", "a=b; c=d")
            .header("te", "trailers");
        request.trailers.push(("x-checksum".to_owned(), "abc".to_owned()));
        for (version, response) in ask_all(&stand, &request)? {
            let what = format!("{version} to {app_protocol:?}");
            let seen = response.seen().with_context(|| what.clone())?;
            let proto = if ["", "https"].contains(&app_protocol) { "HTTP/1.1" } else { "HTTP/2" };
            assert_eq!((seen.text("proto"), seen.text("host")), (proto, HOST), "{what}");
            assert_eq!((seen.text("method"), seen.text("target")), ("POST", "/a%20b?c=d&trailers"), "{what}");
            assert_eq!(seen.0["tls"].is_object(), ["https", "h2"].contains(&app_protocol), "{what}");
            assert_eq!(seen.0["body_bytes"], 24, "{what}");
            assert_eq!(seen.header("x-one").as_deref(), Some("1, 2"), "{what}");
            assert_eq!(seen.header("cookie").as_deref(), Some("a=b; c=d"), "{what}");
            assert_eq!(values(&seen.trailers(), "x-checksum"), ["abc"], "{what}");
            assert_eq!(response.trailer("x-whoami-body-bytes").as_deref(), Some("24"), "{what}");
            assert!(response.header("connection").is_none(), "{what}: {:?}", response.headers);
        }
        // Bodies of both framings come back as they went.
        let request = Request::post(HOST, "/echo", &noise(100_000));
        for (version, response) in ask_all(&stand, &request)? {
            assert_same(&response.body, &request.body, &format!("{version} to {app_protocol:?}"));
        }
        for target in ["/?bytes=100000", "/?chunked=100000&pieces=13"] {
            for (version, response) in ask_all(&stand, &Request::get(HOST, target))? {
                let digits: Vec<u8> = (0..100_000).map(|i| b'0' + (i % 10) as u8).collect();
                assert_same(&response.body, &digits, &format!("{target} {version} to {app_protocol:?}"));
            }
        }
    }
    Ok(())
}

#[test]
fn a_body_that_ends_with_the_connection_is_framed_for_each_client() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        conn.read_request()?;
        conn.write_all(b"HTTP/1.1 200 OK\r\nX-Kept: yes\r\n\r\nuntil the end")
    })?;
    let stand = stand("", "", origin.address())?;
    let mut client = RawClient::open(&plain(&stand))?;
    for _ in 0..2 {
        let response = client.request(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))?;
        assert_eq!(response.header("transfer-encoding").as_deref(), Some("chunked"));
        assert_eq!((response.text().as_str(), response.header("x-kept").as_deref()), ("until the end", Some("yes")));
    }
    let mut client = RawClient::open(&plain(&stand))?;
    let response = client.request(format!("GET / HTTP/1.0\r\nHost: {HOST}\r\nConnection: keep-alive\r\n\r\n"))?;
    assert_eq!((response.header("transfer-encoding"), response.header("connection").as_deref()), (None, Some("close")));
    assert_eq!(response.text(), "until the end");
    assert_eq!(http2::request(&plain(&stand), Request::get(HOST, "/"))?.text(), "until the end");
    Ok(())
}

#[test]
fn a_chunked_body_reaches_a_client_of_http_1_0_without_chunks() -> Result<()> {
    let origin = Origin::http("app")?;
    let stand = stand("", "", origin.address())?;
    let mut client = RawClient::open(&plain(&stand))?;
    let response = client.request(format!("GET /?chunked=50&pieces=5 HTTP/1.0\r\nHost: {HOST}\r\n\r\n"))?;
    assert_eq!(response.header("transfer-encoding"), None);
    assert_eq!(response.text(), "01234567890123456789012345678901234567890123456789");
    Ok(())
}

#[test]
fn an_expectation_is_answered_by_the_endpoint_before_the_body_is_sent() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        loop {
            conn.read_until(b"\r\n\r\n")?;
            conn.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            let body = conn.take(4)?;
            conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")?;
            conn.write_all(&body)?;
        }
    })?;
    let stand = stand("", "", origin.address())?;
    for dial in [plain(&stand), tls(&stand, "http/1.1")] {
        let mut client = RawClient::open(&dial)?;
        client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"))?;
        assert_eq!(client.read_until(b"\r\n\r\n")?, b"HTTP/1.1 100 Continue\r\n\r\n");
        client.send("body")?;
        let response = client.read_response()?;
        assert_eq!((response.status, response.text().as_str()), (200, "body"));
    }
    // An answer that needs no body ends the exchange; the connection ends with it, since the body may still come.
    let origin = RawOrigin::start(|conn| {
        conn.read_until(b"\r\n\r\n")?;
        conn.write_all(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")?;
        conn.read_to_end().map(drop)
    })?;
    let stand = self::stand("", "", origin.address())?;
    let mut client = RawClient::open(&plain(&stand))?;
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"))?;
    let response = client.read_response()?;
    assert_eq!(
        (response.status, response.interim, response.headers.iter().any(|(_, value)| value == "close")),
        (417, vec![], true)
    );
    Ok(())
}

#[test]
fn early_hints_reach_the_client_ahead_of_the_response() -> Result<()> {
    let origin = RawOrigin::answering(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )?;
    let stand = stand("", "", origin.address())?;
    let response = RawClient::open(&plain(&stand))?.request(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))?;
    assert_eq!((response.status, response.interim), (200, vec![103]));
    let response = RawClient::open(&plain(&stand))?.request(format!("GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n"))?;
    assert_eq!((response.status, response.interim), (200, vec![]));
    assert_eq!(http2::request(&plain(&stand), Request::get(HOST, "/"))?.text(), "ok");
    Ok(())
}

const LARGE: usize = 10 << 20;

#[test]
fn ten_mebibytes_arrive_unchanged_in_either_direction() -> Result<()> {
    let body = Arc::new(noise(LARGE));
    let sent = body.clone();
    let received: Arc<Mutex<Vec<u8>>> = Arc::default();
    let keep = received.clone();
    // Both framings down, and whatever comes up is kept.
    let origin = RawOrigin::start(move |conn| {
        while let Some(request) = conn.read_request()? {
            let head = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_default() + 4;
            *keep.lock().unwrap() = request[head..].to_vec();
            match request.starts_with(b"GET /chunked") {
                true => {
                    conn.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                    for piece in sent.chunks(70_001) {
                        conn.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
                        conn.write_all(piece)?;
                        conn.write_all(b"\r\n")?;
                    }
                    conn.write_all(b"0\r\n\r\n")?;
                }
                false => {
                    let length = if request.starts_with(b"GET") { sent.len() } else { 0 };
                    conn.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes())?;
                    conn.write_all(&sent[..length])?;
                }
            }
        }
        Ok(())
    })?;
    let stand = stand("", "", origin.address())?;
    for (what, dial) in [("plain", plain(&stand)), ("TLS", tls(&stand, "http/1.1"))] {
        let mut client = RawClient::open(&dial)?;
        for target in ["/length", "/chunked"] {
            let response = client.request(format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))?;
            assert_same(&response.body, &body, &format!("{what} {target}"));
        }
        client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LARGE}\r\n\r\n"))?;
        assert_eq!(client.request(&body[..])?.status, 200);
        assert_same(&received.lock().unwrap(), &body, &format!("{what} upload"));
        // The connection is in step after all of it.
        assert_eq!(client.request(format!("GET /length HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))?.body.len(), LARGE);
    }
    for (what, dial) in [("HTTP/2", plain(&stand)), ("HTTP/2 over TLS", tls(&stand, "h2"))] {
        for target in ["/length", "/chunked"] {
            assert_same(&http2::request(&dial, Request::get(HOST, target))?.body, &body, &format!("{what} {target}"));
        }
        let request = Request::post(HOST, "/", &body).header("content-length", &LARGE.to_string());
        assert_eq!(http2::request(&dial, request)?.status, 200, "{what}");
        assert_same(&received.lock().unwrap(), &body, &format!("{what} upload"));
    }
    let line = stand.log_line(|line| line["target"] == "/chunked")?;
    assert_eq!(line["sent_bytes"], LARGE);
    Ok(())
}

#[test]
fn a_body_flows_back_while_it_is_still_being_sent() -> Result<()> {
    for app_protocol in ["", "kubernetes.io/h2c"] {
        let origin = Origin::http("app")?;
        let stand = stand("", app_protocol, origin.address())?;
        for dial in [plain(&stand), tls(&stand, "http/1.1")] {
            let mut client = RawClient::open(&dial)?;
            client.send(format!(
                "POST /echo HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none \r\n"
            ))?;
            client.read_until(b"\r\n\r\n")?;
            assert_eq!(client.read_until(b"one \r\n")?, b"4\r\none \r\n");
            client.send("4\r\ntwo \r\n")?;
            assert_eq!(client.read_until(b"two \r\n")?, b"4\r\ntwo \r\n");
            client.send("0\r\n\r\n")?;
            assert_eq!(client.read_until(b"0\r\n\r\n")?, b"0\r\n\r\n");
        }
        two_way(&plain(&stand), "/echo", "text/plain", &[b"one ", b"two ", b"three"])?;
    }
    Ok(())
}

/// Sends one piece after the other over HTTP/2, each after the one before has come back; returns the trailers.
fn two_way(dial: &Dial, path: &str, content_type: &str, pieces: &[&'static [u8]]) -> Result<http::HeaderMap> {
    let tcp = dial.tcp()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async {
        tcp.set_nonblocking(true)?;
        let (send, connection) = h2::client::handshake(tokio::net::TcpStream::from_std(tcp)?).await?;
        tokio::spawn(connection);
        let request = http::Request::post(format!("http://{HOST}{path}")).header("content-type", content_type);
        let request = request.header("te", "trailers").body(())?;
        let (response, mut out) = send.ready().await?.send_request(request, false)?;
        let (first, rest) = pieces.split_first().context("a piece")?;
        out.send_data(Bytes::from_static(first), false)?;
        let response = response.await?;
        ensure!(response.status() == 200, "status {}", response.status());
        let mut body = response.into_body();
        back(&mut body, first).await?;
        for piece in rest {
            out.send_data(Bytes::from_static(piece), false)?;
            back(&mut body, piece).await?;
        }
        out.send_data(Bytes::new(), true)?;
        while let Some(more) = body.data().await {
            ensure!(more?.is_empty(), "more came back than was sent");
        }
        Ok(body.trailers().await?.unwrap_or_default())
    };
    runtime.block_on(async { tokio::time::timeout(DEADLINE, work).await.context("the exchange takes too long")? })
}

/// Reads exactly what was sent.
async fn back(body: &mut h2::RecvStream, sent: &[u8]) -> Result<()> {
    let mut found = Vec::new();
    while found.len() < sent.len() {
        let data = body.data().await.context("the body ended early")??;
        body.flow_control().release_capacity(data.len())?;
        found.extend_from_slice(&data);
    }
    ensure!(found == sent, "{found:?} came back for {sent:?}");
    Ok(())
}

#[test]
fn the_first_bytes_arrive_before_the_last_are_sent() -> Result<()> {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let origin = RawOrigin::start(move |conn| {
        while conn.read_request()?.is_some() {
            conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")?;
            let told = wait.lock().unwrap().recv_timeout(DEADLINE);
            told.map_err(std::io::Error::other)?;
            conn.write_all(b" last")?;
        }
        Ok(())
    })?;
    let stand = stand("", "", origin.address())?;
    for dial in [plain(&stand), tls(&stand, "http/1.1")] {
        let mut client = RawClient::open(&dial)?;
        client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))?;
        client.read_until(b"\r\n\r\n")?;
        assert_eq!(client.read_exact(5)?, b"first");
        go.send(())?;
        assert_eq!(client.read_exact(5)?, b" last");
    }
    Ok(())
}

#[test]
fn a_websocket_carries_messages_both_ways_until_it_is_closed() -> Result<()> {
    let leaf = Authority::new("test")?.leaf(&["app.test"])?;
    for app_protocol in ["", "https"] {
        let origin = Origin::https("app", &leaf)?;
        let stand = stand("", app_protocol, origin.address())?;
        for dial in [plain(&stand), tls(&stand, "http/1.1")] {
            let mut socket = WebSocket::open(&dial, HOST, "/chat?room=1", &[("x-one", "1")])?;
            let seen = socket.seen()?;
            assert_eq!((seen.text("target"), seen.header("x-one").as_deref()), ("/chat?room=1", Some("1")));
            let large = noise(1 << 20);
            for _ in 0..3 {
                socket.send_text("hello")?;
                assert_eq!(socket.receive()?, b"hello");
                socket.send_binary(&large)?;
                assert_same(&socket.receive()?, &large, "large message");
            }
            socket.close()?;
        }
        let line = stand.log_line(|line| line["status"] == 101)?;
        assert_eq!(line["target"], "/chat?room=1");
    }
    Ok(())
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn an_upgrade_that_the_endpoint_refuses_is_an_ordinary_answer() -> Result<()> {
    let origin = RawOrigin::answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")?;
    let stand = stand("", "", origin.address())?;
    let mut client = RawClient::open(&plain(&stand))?;
    for _ in 0..2 {
        let response = client.request(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{UPGRADE}\r\n"))?;
        assert_eq!((response.status, response.text().as_str()), (403, "no"));
    }
    Ok(())
}

#[test]
fn bytes_right_behind_the_switch_of_protocols_are_not_lost() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        conn.read_until(b"\r\n\r\n")?;
        conn.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test/1\r\n\r\nhello")?;
        let early = conn.take(5)?;
        conn.write_all(&early)?;
        conn.read_to_end().map(drop)
    })?;
    let stand = stand("", "", origin.address())?;
    let mut client = RawClient::open(&plain(&stand))?;
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: test/1\r\n\r\nearly"))?;
    let head = String::from_utf8(client.read_until(b"\r\n\r\n")?)?.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: test/1\r\n"), "{head}");
    assert_eq!(client.read_exact(10)?, b"helloearly");
    client.finish()?;
    assert_eq!(client.read_to_end()?, b"");
    Ok(())
}

#[test]
fn a_switch_of_protocols_that_nobody_asked_for_is_a_fault_and_one_to_http_2_is_not_asked_for() -> Result<()> {
    let origin = RawOrigin::answering("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")?;
    let bad = stand("", "", origin.address())?;
    let response = RawClient::open(&plain(&bad))?.request(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))?;
    assert_eq!(fault(&response), (502, Some("upstream_invalid".to_owned())));
    let origin = Origin::http("app")?;
    let stand = stand("", "", origin.address())?;
    let seen = RawClient::open(&plain(&stand))?
        .request(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"))?
        .seen()?;
    assert_eq!((seen.header("upgrade"), seen.header("connection"), seen.header("http2-settings")), (None, None, None));
    Ok(())
}

#[test]
fn grpc_calls_pass_with_messages_status_and_metadata() -> Result<()> {
    let leaf = Authority::new("test")?.leaf(&["app.test"])?;
    for app_protocol in ["kubernetes.io/h2c", "h2"] {
        let origin = Origin::https("app", &leaf)?;
        let stand = stand("", app_protocol, origin.address())?;
        for dial in [plain(&stand), tls(&stand, "h2")] {
            let call = grpc::unary(&dial, HOST, grpc::ASK, b"hello", &[("x-token", "t"), ("x-bin-bin", "AAEC")])?;
            let seen = call.seen()?;
            assert_eq!(seen.header("x-token").as_deref(), Some("t"));
            assert_eq!(seen.header("x-bin-bin").as_deref(), Some("AAEC"));
            assert_eq!(seen.header("te").as_deref(), Some("trailers"));
            let large = noise(1 << 20);
            let call = grpc::call(&dial, HOST, grpc::CHAT, &[b"one", b"", &large[..50_000]], &[])?;
            assert_eq!(call.status, 0);
            assert_eq!(call.messages, [b"one".to_vec(), Vec::new(), large[..50_000].to_vec()]);
            assert_eq!(call.response.trailer("grpc-status").as_deref(), Some("0"));
            assert_eq!(grpc::unary(&dial, HOST, grpc::HEALTH, b"", &[])?.messages, [vec![8, 1]]);
            let call = grpc::unary(&dial, HOST, "/no.such.Service/Method", b"", &[])?;
            assert_eq!((call.status, call.messages.len()), (12, 0), "unimplemented: {}", call.message);
        }
        let messages: &[&[u8]] = &[b"\0\0\0\0\x01a", b"\0\0\0\0\x02bc", b"\0\0\0\0\0"];
        let messages: Vec<&'static [u8]> =
            messages.iter().map(|message| &**Box::leak(Box::new(message.to_vec()))).collect();
        let trailers = two_way(&plain(&stand), grpc::CHAT, "application/grpc", &messages)?;
        assert_eq!(trailers.get("grpc-status").map(|value| value.as_bytes()), Some(&b"0"[..]));
    }
    Ok(())
}

#[test]
fn tls_to_endpoints_is_verified_as_the_settings_say() -> Result<()> {
    let ours = Authority::new("ours")?;
    let theirs = Authority::new("theirs")?;
    let verify = |more: &str| format!("upstream: {{tls: {{verify: CertificateAuthority, ca: test/ca{more}}}}}");
    for (what, spec, authority, names, served) in [
        ("off takes anything", String::new(), &theirs, ["other.test"], true),
        ("a certificate of the authority for the host", verify(""), &ours, ["app.test"], true),
        ("of another authority", verify(""), &theirs, ["app.test"], false),
        ("for another name", verify(""), &ours, ["other.test"], false),
        ("for the name in the settings", verify(", serverName: other.test"), &ours, ["other.test"], true),
    ] {
        for app_protocol in ["https", "h2"] {
            let origin = Origin::https("app", &authority.leaf(&names)?)?;
            let ca: String = ours.pem().lines().map(|line| format!("    {line}\n")).collect();
            let stand = Stand::start(&[
                ("gateway.yaml", Stand::gateway(&spec)),
                (
                    "ca.yaml",
                    format!(
                        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: test}}\ndata:\n  ca.crt: |\n{ca}"
                    ),
                ),
                (
                    "app.yaml",
                    format!(
                        "{}---\n{}",
                        Stand::ingress("app", HOST, "/", "app"),
                        Stand::service("app", app_protocol, &[origin.address()])
                    ),
                ),
            ])?;
            let response =
                RawClient::open(&plain(&stand))?.request(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))?;
            if served {
                assert!(response.seen()?.0["tls"].is_object(), "{what}, {app_protocol}");
            } else {
                assert_eq!(fault(&response), (502, Some("upstream_tls".to_owned())), "{what}, {app_protocol}");
                assert!(!response.text().contains("other.test"), "clients are not told about certificates");
                let line = stand.log_line(|line| line["fault"] == "upstream_tls")?;
                assert!(line["fault_detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{line}");
            }
        }
    }
    Ok(())
}
