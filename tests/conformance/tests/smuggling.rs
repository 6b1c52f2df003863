//! Requests and responses that two readers could take for different ones: they are refused, and nothing of them reaches
//! the other side.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result};
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::origin::{Origin, RawOrigin};

#[path = "siege/frames.rs"]
mod frames;
mod siege;

use frames::{Attacker, DATA, END_STREAM, Outcome, block, frame};
use siege::Siege;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A request of these lines, and a body that would be another request.
fn with(lines: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: app.test\r\n{lines}\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: app.test\r\n\r\n")
        .into()
}

fn raw(text: &str) -> Vec<u8> {
    text.into()
}

/// Sends each to a gateway whose origin must stay unasked: `(what, bytes, status, reason)`.
fn refuse_all(table: &[(&str, Vec<u8>, u16, &str)]) -> Result<()> {
    let origin = RawOrigin::answering(OK)?;
    let siege = Siege::start("", origin.address())?;
    for (what, bytes, status, reason) in table {
        // At once, and in two pieces: where a line is cut must not matter.
        for cut in [bytes.len(), bytes.len().min(40)] {
            let mut client = RawClient::connect(siege.stand.address("http"))?;
            client.send(&bytes[..cut])?;
            // Refused already, perhaps.
            let _ = client.send(&bytes[cut..]);
            let answer = client.read_response().with_context(|| (*what).to_owned())?;
            let found = answer.header("x-headwater-fault").unwrap_or_default();
            assert_eq!((answer.status, &*found), (*status, *reason), "{what}");
            assert_eq!(answer.header("connection").as_deref(), Some("close"), "{what}");
            assert_eq!(client.closed()?, b"", "{what}: more than one answer");
        }
    }
    assert!(origin.connections().is_empty(), "something reached the origin: {:?}", origin.connections());
    siege.end()
}

#[test]
fn ambiguous_lengths_are_refused() -> Result<()> {
    let bad = |lines: &'static str| (lines, with(lines), 400, "bad_request");
    let unsupported = |lines: &'static str| (lines, with(lines), 501, "not_implemented");
    refuse_all(&[
        bad("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        bad("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        bad("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        unsupported("content-length: 5\r\ntransfer-encoding: identity\r\n"),
        bad("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        bad("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        bad("Transfer-Encoding: chunked, chunked\r\n"),
        bad("Transfer-Encoding: chunked, identity\r\n"),
        bad("Transfer-Encoding: chunked,\r\n"),
        bad("Transfer-Encoding: \r\n"),
        bad("Transfer-Encoding: \"chunked\"\r\n"),
        bad("Transfer-Encoding: chunked;q=1\r\n"),
        bad("Transfer-Encoding: \x0bchunked\r\n"),
        bad("Transfer-Encoding: chunked\0\r\n"),
        bad("Transfer-Encoding : chunked\r\n"),
        bad("Transfer-Encoding\t: chunked\r\n"),
        bad("Transfer-Encoding:\r\n chunked\r\n"),
        bad("X: y\r\n Transfer-Encoding: chunked\r\n"),
        bad("Transfer_Encoding: chunked\r\n"),
        bad("Content_Length: 5\r\n"),
        bad("Transfer-Encoding: xchunked\r\n"),
        unsupported("Transfer-Encoding: identity\r\n"),
        unsupported("Transfer-Encoding: gzip\r\n"),
        bad("Content-Length: 5\r\nContent-Length: 5\r\n"),
        bad("Content-Length: 5\r\nContent-Length: 6\r\n"),
        bad("Content-Length: 5, 5\r\n"),
        bad("Content-Length: +5\r\n"),
        bad("Content-Length: -1\r\n"),
        bad("Content-Length: 05\r\n"),
        bad("Content-Length: 0x5\r\n"),
        bad("Content-Length: 5 5\r\n"),
        bad("Content-Length: 5;\r\n"),
        bad("Content-Length: \r\n"),
        bad("Content-Length: 18446744073709551616\r\n"),
        bad("Content-Length: 9223372036854775808\r\n"),
        bad("Content-Length : 5\r\n"),
        bad("Connection: content-length\r\nContent-Length: 5\r\n"),
        (
            "chunked in HTTP/1.0",
            raw("POST / HTTP/1.0\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            400,
            "bad_request",
        ),
    ])
}

#[test]
fn ambiguous_lines_are_refused() -> Result<()> {
    let bad = |lines: &'static str| (lines, with(lines), 400, "bad_request");
    let whole = |text: &'static str| (text, raw(text), 400, "bad_request");
    refuse_all(&[
        bad("X: a\nY: b\r\n"),
        bad("X: a\rY: b\r\n"),
        bad("X: a\0b\r\n"),
        bad("X: a\x7fb\r\n"),
        bad("X\0: a\r\n"),
        bad("X Y: a\r\n"),
        bad("X : a\r\n"),
        bad(" X: a\r\n"),
        bad("\tX: a\r\n"),
        bad("X: a\r\n\tb\r\n"),
        bad(": a\r\n"),
        bad("no colon\r\n"),
        bad("X(: a\r\n"),
        bad("X\u{e9}: a\r\n"),
        bad("Host: app.test\r\n"),
        bad("Host: neighbour.test\r\n"),
        bad("Connection: host\r\n"),
        bad("Connection: x-forwarded-for\r\n"),
        bad("Connection: a b\r\n"),
        whole("GET / HTTP/1.1\nHost: app.test\n\n"),
        whole("GET / HTTP/1.1\r\nHost: app.test\n\r\n"),
        whole("GET / HTTP/1.1\r\n Host: app.test\r\n\r\n"),
        whole("GET / HTTP/1.1\r\n\r\n"),
        whole("GET / HTTP/1.1\r\nHost: \r\nHost: app.test\r\n\r\n"),
        whole("GET / HTTP/1.1\r\nHost: app.test, neighbour.test\r\n\r\n"),
        whole("GET / HTTP/1.1\r\nHost: user@app.test\r\n\r\n"),
        whole("GET / HTTP/1.1\r\nHost: app.test/x\r\n\r\n"),
        whole("GET / HTTP/1.1\r\nHost: app test\r\n\r\n"),
        whole("GET / HTTP/1.1\r\nHost: app.test:80:80\r\n\r\n"),
        whole("GET  / HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        whole("GET /  HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        whole("GET\t/\tHTTP/1.1\r\nHost: app.test\r\n\r\n"),
        whole("GET / HTTP/1.1 \r\nHost: app.test\r\n\r\n"),
        whole(" GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        whole("\r\n\r\nGET / HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        whole("GET /a b HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        whole("GET /\0 HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        whole("GET /#x HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        whole("GET /\u{e9} HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        whole("GET x HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        whole("GET * HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        whole("G(T / HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        whole("GET / http/1.1\r\nHost: app.test\r\n\r\n"),
        whole("GET / HTTP/1.1x\r\nHost: app.test\r\n\r\n"),
        whole("GET / HTTP/11\r\nHost: app.test\r\n\r\n"),
        whole("GET /\r\n\r\nGET / HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        whole("GET ftp://app.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        whole("GET http://user@app.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        ("version 1.2", raw("GET / HTTP/1.2\r\nHost: app.test\r\n\r\n"), 505, "http_version"),
        ("version 2.0", raw("GET / HTTP/2.0\r\nHost: app.test\r\n\r\n"), 505, "http_version"),
        ("version 0.9", raw("GET / HTTP/0.9\r\nHost: app.test\r\n\r\n"), 505, "http_version"),
        (
            "absolute form and Host differ",
            raw("GET http://app.test/ HTTP/1.1\r\nHost: neighbour.test\r\n\r\n"),
            400,
            "host_mismatch",
        ),
        (
            "absolute form and Host differ in the port",
            raw("GET http://app.test:81/ HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            400,
            "host_mismatch",
        ),
    ])
}

#[test]
fn unusual_but_clear_requests_are_served_in_plain_form() -> Result<()> {
    let origin = RawOrigin::answering(OK)?;
    let siege = Siege::start("", origin.address())?;
    let table = [
        ("Transfer-Encoding:chunked\r\n\r\n5;a=b;c=\"d;e\"\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("transfer-encoding: CHUNKED\r\n\r\n0A\r\n0123456789\r\n000\r\n\r\n", "\r\na\r\n0123456789\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\nX-Trailer: t\r\n\r\n", "\r\n0\r\n"),
        ("Content-Length:5\r\n\r\nhello", "content-length: 5\r\n\r\nhello"),
        ("Connection: x-hop, close\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n", "\r\n\r\n"),
        ("Upgrade: h2c\r\nConnection: upgrade, http2-settings\r\nHTTP2-Settings: AAMAAABkAARAAAAA\r\n\r\n", "\r\n\r\n"),
    ];
    for (index, (request, expected)) in table.iter().enumerate() {
        let mut client = RawClient::connect(siege.stand.address("http"))?;
        let answer = client.request(format!("POST /{index} HTTP/1.1\r\nHost: app.test\r\n{request}"))?;
        assert_eq!(answer.status, 200, "{request}");
        let seen = origin
            .connections()
            .iter()
            .fold(String::new(), |all, record| all + &String::from_utf8_lossy(&record.bytes));
        let seen = &seen[seen.find(&format!("POST /{index} ")).context("request at the origin")?..];
        let lower = seen.to_ascii_lowercase();
        assert!(lower.contains(expected), "{request}\n{seen}");
        for gone in ["a=b", "x-hop", "h2c", "http2-settings", "connection: upgrade"] {
            assert!(!lower.contains(gone), "{gone} reached the origin\n{seen}");
        }
        if request.contains("X-Trailer") {
            assert!(!lower.contains("content-length"), "a trailer that would be a length reached the origin\n{seen}");
        }
    }
    siege.end()
}

#[test]
fn abused_chunks_end_the_request_before_its_end() -> Result<()> {
    let origin = RawOrigin::answering(OK)?;
    let siege = Siege::start("", origin.address())?;
    let long = "x".repeat(300);
    let many = format!("1;{}\r\na\r\n", "y".repeat(200)).repeat(100);
    let trailers = "X: y\r\n".repeat(70);
    let table = [
        "0x5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "5 \r\nhello\r\n0\r\n\r\n".to_owned(),
        " 5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "+5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "-5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "5\nhello\n0\n\n".to_owned(),
        "5\rhello\r\n0\r\n\r\n".to_owned(),
        "5\r\nhello\n0\r\n\r\n".to_owned(),
        "5\r\nhello0\r\n\r\n".to_owned(),
        "3\r\nhello\r\n0\r\n\r\n".to_owned(),
        "g\r\nhello\r\n0\r\n\r\n".to_owned(),
        "FFFFFFFFFFFFFFFF1\r\nhello\r\n0\r\n\r\n".to_owned(),
        "8000000000000000\r\nhello\r\n0\r\n\r\n".to_owned(),
        "5;\n\r\nhello\r\n0\r\n\r\n".to_owned(),
        "5;a\nb\r\nhello\r\n0\r\n\r\n".to_owned(),
        "5;a=\"b\r\nhello\r\n0\r\n\r\n".to_owned(),
        "5;a\0\r\nhello\r\n0\r\n\r\n".to_owned(),
        format!("5;{long}\r\nhello\r\n0\r\n\r\n"),
        format!("{many}0\r\n\r\n"),
        format!("0\r\n{trailers}\r\n"),
        "0\r\nX : y\r\n\r\n".to_owned(),
        "0\r\nX: a\n\r\n".to_owned(),
        "0\r\n X: y\r\n\r\n".to_owned(),
        "0\r\nX: a\0\r\n\r\n".to_owned(),
    ];
    for (index, body) in table.iter().enumerate() {
        let mut client = RawClient::connect(siege.stand.address("http"))?;
        let smuggled = "GET /admin HTTP/1.1\r\nHost: app.test\r\n\r\n";
        // Sending may meet a connection that is closed already.
        let _ = client.send(format!(
            "POST /{index} HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}{smuggled}"
        ));
        let answer = client.read_response().with_context(|| format!("{body:.40}"))?;
        assert_eq!(
            (answer.status, answer.header("x-headwater-fault").as_deref()),
            (400, Some("bad_request")),
            "{body:.40}"
        );
        assert_eq!(client.closed()?, b"", "{body:.40}");
    }
    for record in origin.connections() {
        let text = String::from_utf8_lossy(&record.bytes).into_owned();
        assert!(!text.contains("/admin"), "{text}");
        assert!(!text.contains("\r\n0\r\n"), "a refused body was ended as if it were whole: {text}");
        assert!(text.matches("POST").count() <= 1, "a connection was used again after a refused body: {text}");
    }
    siege.end()
}

#[test]
fn malformed_responses_become_502_and_end_their_connection() -> Result<()> {
    let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\nok");
    let invalid = "upstream_invalid";
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("both lengths", head("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n").into(), invalid),
        ("two lengths", head("Content-Length: 2\r\nContent-Length: 2\r\n").into(), invalid),
        ("other lengths", head("Content-Length: 2\r\nContent-Length: 3\r\n").into(), invalid),
        ("no number", head("Content-Length: two\r\n").into(), invalid),
        ("unknown coding", head("Transfer-Encoding: xchunked\r\n").into(), invalid),
        ("chunked twice", head("Transfer-Encoding: chunked, chunked\r\n").into(), invalid),
        ("folded", head("X: a\r\n b\r\nContent-Length: 2\r\n").into(), invalid),
        ("space before colon", head("Content-Length : 2\r\n").into(), invalid),
        ("bare LF", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok".to_vec(), invalid),
        ("bare CR", head("X: a\rb\r\nContent-Length: 2\r\n").into(), invalid),
        ("NUL", head("X: a\0b\r\nContent-Length: 2\r\n").into(), invalid),
        ("no colon", head("nonsense\r\nContent-Length: 2\r\n").into(), invalid),
        ("too large", head(&format!("X: {}\r\nContent-Length: 2\r\n", "x".repeat(70_000))).into(), invalid),
        ("too many lines", head(&format!("{}Content-Length: 2\r\n", "X: y\r\n".repeat(300))).into(), invalid),
        ("garbage", b"\0\x01\x02 garbage\r\n\r\n".to_vec(), invalid),
        ("no HTTP", b"220 mail.test ESMTP\r\n\r\n".to_vec(), invalid),
        ("other version", b"HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), invalid),
        ("no status", b"HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), invalid),
        ("status out of range", b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), invalid),
        ("switch unasked", b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".to_vec(), invalid),
        ("end in the head", b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(), "upstream_closed"),
        ("nothing", b"".to_vec(), "upstream_closed"),
    ];
    let answers: Arc<Vec<Vec<u8>>> = Arc::new(table.iter().map(|row| row.1.clone()).collect());
    let origin = RawOrigin::start(move |conn| {
        while let Some(request) = conn.read_request()? {
            let text = String::from_utf8_lossy(&request).into_owned();
            let index = text.split(['/', ' ']).nth(2).and_then(|number| number.parse::<usize>().ok());
            let Some(answer) = index.and_then(|index| answers.get(index)) else {
                conn.write_all(OK.as_bytes())?;
                continue;
            };
            conn.write_all(answer)?;
            if !answer.ends_with(b"ok") && !answer.ends_with(b"\r\n\r\n") {
                return Ok(());
            }
        }
        Ok(())
    })?;
    let siege = Siege::start("", origin.address())?;
    let mut client = RawClient::connect(siege.stand.address("http"))?;
    for (index, (what, _, reason)) in table.iter().enumerate() {
        // POST is not tried again.
        let answer =
            client.request(format!("POST /{index} HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n"))?;
        let found = answer.header("x-headwater-fault").unwrap_or_default();
        assert_eq!((answer.status, &*found), (502, *reason), "{what}");
        // The client's connection goes on.
        let answer = client.request("GET /fine HTTP/1.1\r\nHost: app.test\r\n\r\n")?;
        assert_eq!(answer.status, 200, "after {what}");
    }
    for record in origin.connections() {
        let text = String::from_utf8_lossy(&record.bytes).into_owned();
        let after = text.split_once("POST").map_or("", |(_, after)| after);
        assert!(!after.contains("GET"), "a connection was used again after a malformed response: {text}");
    }
    siege.end()
}

#[test]
fn bodies_that_endpoints_cut_or_overrun_never_mix_with_the_next_response() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        while let Some(request) = conn.read_request()? {
            let second = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
            let answer = if request.starts_with(b"GET /overrun") {
                format!("{OK}{second}")
            } else if request.starts_with(b"GET /chunk") {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nz\r\n".to_owned()
            } else if request.starts_with(b"GET /short") {
                "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok".to_owned()
            } else if request.starts_with(b"GET /unended") {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n".to_owned()
            } else if request.starts_with(b"HEAD /body") {
                "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison".to_owned()
            } else if request.starts_with(b"GET /204") {
                "HTTP/1.1 204 No Content\r\n\r\npoison".to_owned()
            } else {
                OK.to_owned()
            };
            conn.write_all(answer.as_bytes())?;
            if request.starts_with(b"GET /short") || request.starts_with(b"GET /unended") {
                return Ok(());
            }
        }
        Ok(())
    })?;
    let siege = Siege::start("", origin.address())?;
    let http = siege.stand.address("http");
    let mut client = RawClient::connect(http)?;
    for (method, path, status, body) in
        [("GET", "/overrun", 200, "ok"), ("HEAD", "/body", 200, ""), ("GET", "/204", 204, "")]
    {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: app.test\r\n\r\n"))?;
        let answer = client.read_response_to(method)?;
        assert_eq!((answer.status, answer.text()), (status, body.to_owned()), "{path}");
        for _ in 0..4 {
            let answer = client.request("GET /fine HTTP/1.1\r\nHost: app.test\r\n\r\n")?;
            assert_eq!(answer.text(), "ok", "after {path}");
        }
    }
    for path in ["/chunk", "/short", "/unended"] {
        let mut client = RawClient::connect(http)?;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n"))?;
        // Cut off before its end, so that the client notices.
        let got = String::from_utf8_lossy(&client.closed()?).into_owned();
        assert!(!got.contains("poison") && !got.ends_with("0\r\n\r\n") && !got.contains("\r\n0\r\n"), "{path}: {got}");
    }
    siege.end()
}

/// A pseudo-header and what replaces it; `None`: it is left out.
type Replaced<'a> = Option<(&'a str, Option<&'a [u8]>)>;
type Lines<'a> = &'a [(&'a [u8], &'a [u8])];

/// A request's lines with one of the pseudo-headers replaced, and more lines behind.
fn lines<'a>(replaced: Replaced<'a>, more: Lines<'a>) -> Vec<u8> {
    let mut all: Vec<(&[u8], &[u8])> = Vec::new();
    for (name, value) in [(":method", "POST"), (":scheme", "http"), (":authority", "app.test"), (":path", "/")] {
        match replaced {
            Some((other, None)) if other == name => {}
            Some((other, Some(value))) if other == name => all.push((name.as_bytes(), value)),
            _ => all.push((name.as_bytes(), value.as_bytes())),
        }
    }
    all.extend(more);
    block(&all)
}

#[test]
fn http2_requests_that_http1_could_not_carry_reach_no_origin() -> Result<()> {
    let pseudo = |name: &'static str, value: &'static [u8]| {
        (format!("{name} {:?}", String::from_utf8_lossy(value)), lines(Some((name, Some(value))), &[]))
    };
    let more = |name: &'static [u8], value: &'static [u8]| {
        let what = format!("{:?}: {:?}", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        (what, lines(None, &[(name, value)]))
    };
    let table = [
        more(b"x", b"a\r\nX-Injected: 1"),
        more(b"x", b"a\r\n\r\nGET /admin HTTP/1.1\r\n\r\n"),
        more(b"x", b"a\nb"),
        more(b"x", b"a\rb"),
        more(b"x", b"a\0b"),
        more(b"x\r\ny", b"a"),
        more(b"x: y\r\nz", b"a"),
        more(b"x y", b"a"),
        more(b"x:", b"a"),
        more(b"x\0", b"a"),
        more(b"X-Upper", b"a"),
        more(b"", b"a"),
        more(b"connection", b"keep-alive"),
        more(b"connection", b"x"),
        more(b"keep-alive", b"timeout=5"),
        more(b"proxy-connection", b"close"),
        more(b"transfer-encoding", b"chunked"),
        more(b"upgrade", b"h2c"),
        more(b"te", b"gzip"),
        more(b"transfer_encoding", b"chunked"),
        more(b"content_length", b"5"),
        more(b"content-length", b"abc"),
        more(b"content-length", b"-1"),
        more(b"content-length", b"+5"),
        more(b"content-length", b"5"),
        more(b"content-length", b"99999999999999999999999"),
        more(b"host", b"neighbour.test"),
        more(b":path", b"/other"),
        more(b":authority", b"neighbour.test"),
        more(b":foo", b"bar"),
        more(b":status", b"200"),
        pseudo(":path", b"/ HTTP/1.1\r\nX-Injected: 1\r\n\r\n"),
        pseudo(":path", b"/a b"),
        pseudo(":path", b"/a\tb"),
        pseudo(":path", b"/\0"),
        pseudo(":path", b""),
        pseudo(":path", b"x"),
        pseudo(":path", b"*"),
        pseudo(":path", b"/?\xc3\xa9"),
        pseudo(":path", b"http://neighbour.test/"),
        pseudo(":method", b"GET / HTTP/1.1\r\nX: y\r\n\r\n"),
        pseudo(":method", b"GE T"),
        pseudo(":method", b""),
        pseudo(":method", b"CONNECT"),
        pseudo(":authority", b"app.test\r\nX-Injected: 1"),
        pseudo(":authority", b"app.test neighbour.test"),
        pseudo(":authority", b"user@app.test"),
        pseudo(":authority", b"app.test/x"),
        pseudo(":authority", b"app.test:80:80"),
        ("no :authority".to_owned(), lines(Some((":authority", None)), &[])),
        ("no :path".to_owned(), lines(Some((":path", None)), &[])),
        ("no :method".to_owned(), lines(Some((":method", None)), &[])),
        ("no :scheme".to_owned(), lines(Some((":scheme", None)), &[])),
        ("two hosts".to_owned(), lines(None, &[(b"host", b"app.test"), (b"host", b"app.test")])),
        ("two lengths".to_owned(), lines(None, &[(b"content-length", b"1"), (b"content-length", b"2")])),
    ];
    let origin = RawOrigin::answering(OK)?;
    let siege = Siege::start("", origin.address())?;
    let dial = Dial::to(siege.stand.address("http"));
    for (what, block) in &table {
        let mut attacker = Attacker::connect(&dial)?;
        attacker.headers(1, END_STREAM, block)?;
        let outcome = attacker.outcome(1).with_context(|| what.clone())?;
        // PROTOCOL_ERROR, COMPRESSION_ERROR
        let refused = matches!(outcome, Outcome::Status(400 | 501) | Outcome::Reset(1) | Outcome::Goaway(1 | 9));
        assert!(refused, "{what}: {outcome:?}; at the origin: {:?}", origin.connections());
    }
    assert!(origin.connections().is_empty(), "something reached the origin: {:?}", origin.connections());
    siege.end()
}

#[test]
fn http2_bodies_are_as_long_as_they_say_or_never_end_at_the_origin() -> Result<()> {
    let origin = RawOrigin::answering(OK)?;
    let siege = Siege::start("", origin.address())?;
    let dial = Dial::to(siege.stand.address("http"));
    let smuggled = b"abcGET /admin HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let table: [(&[u8], &[u8]); 4] = [(b"3", smuggled), (b"0", smuggled), (b"500", smuggled), (b"3", b"ab")];
    for (index, (length, data)) in table.iter().enumerate() {
        let mut attacker = Attacker::connect(&dial)?;
        let path = format!("/{index}");
        attacker.headers(1, 0, &lines(Some((":path", Some(path.as_bytes()))), &[(b"content-length", length)]))?;
        attacker.send(&frame(DATA, END_STREAM, 1, data))?;
        let outcome = attacker.outcome(1)?;
        // The origin may have answered before it saw the end of the body; then the answer is passed on.
        assert!(
            matches!(outcome, Outcome::Reset(1) | Outcome::Goaway(1) | Outcome::Status(200)),
            "{index}: {outcome:?}"
        );
    }
    // Whatever is wrong with a body, the connection that carried it is used no more.
    let mut client = RawClient::connect(siege.stand.address("http"))?;
    for _ in 0..4 {
        assert_eq!(client.request("GET /fine HTTP/1.1\r\nHost: app.test\r\n\r\n")?.status, 200);
    }
    for record in origin.connections() {
        let text = String::from_utf8_lossy(&record.bytes).into_owned();
        let request_lines = text.matches(" HTTP/1.1\r\n").count();
        assert!(!text.starts_with("POST") || request_lines == 1 || text.contains("length: 0\r\n"), "{text}");
        assert!(!text.contains("/admin"), "{text}");
    }
    siege.end()
}

#[test]
fn http2_requests_reach_an_http1_origin_with_one_host_and_one_cookie_line() -> Result<()> {
    let origin = Origin::http("app")?;
    let siege = Siege::start("", origin.address())?;
    let dial = Dial::to(siege.stand.address("http"));
    let table: [(Replaced<'_>, Lines<'_>); 3] = [
        (None, &[(b"host", b"app.test")]),
        (Some((":authority", None)), &[(b"host", b"app.test")]),
        (None, &[(b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"te", b"trailers"), (b"expect", b"100-continue")]),
    ];
    for (replaced, more) in table {
        let mut attacker = Attacker::connect(&dial)?;
        attacker.headers(1, END_STREAM, &lines(replaced, more))?;
        assert_eq!(attacker.outcome(1)?, Outcome::Status(200), "{more:?}");
        let body = loop {
            let frame = attacker.next()?.context("closed before the body")?;
            if frame.kind == DATA {
                break frame.payload;
            }
        };
        let seen = headwater_testkit::response::Seen::parse(&body)?;
        let count = |name: &str| seen.headers().iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).count();
        assert_eq!(seen.header("host").as_deref(), Some("app.test"));
        assert_eq!(count("host"), 1);
        if more.len() > 1 {
            assert_eq!(seen.header("cookie").as_deref(), Some("a=1; b=2"));
            assert_eq!(count("cookie"), 1);
            assert_eq!(count("expect"), 0);
        }
    }
    siege.end()
}

#[test]
fn an_origin_that_hangs_up_in_mid_upload_harms_nobody() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        conn.read_until(b"\r\n\r\n")?;
        conn.take(1000)?;
        conn.reset_on_close()
    })?;
    let siege = Siege::start("", origin.address())?;
    for _ in 0..30 {
        let mut client = RawClient::connect(siege.stand.address("http"))?;
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10000000\r\n\r\n")?;
        for _ in 0..150 {
            if client.send(vec![b'x'; 64 << 10]).is_err() {
                break;
            }
        }
        let answer = client.closed()?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 502 "), "{text}");
    }
    siege.until_alone()?;
    siege.end()
}
