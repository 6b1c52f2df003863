//! Responses that are compressed on their way: which, for whom, and what is said of it.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::mpsc;

use anyhow::Result;
use flate2::read::GzDecoder;
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::http2;
use headwater_testkit::origin::RawOrigin;
use headwater_testkit::response::{Response, values};

const SETTINGS: &str = "compression: {enabled: true}\n";
const TAKES: &str = "Accept-Encoding: gzip\r\n";

/// 3 KiB that can be made smaller.
fn text() -> String {
    "What can be said at all can be said clearly. ".repeat(70)
}

/// An origin with one answer, and a gateway before it.
fn serve(settings: &str, head: &str, body: &str) -> Result<(RawOrigin, Stand)> {
    let origin = RawOrigin::answering(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()))?;
    let stand = Stand::start(&[
        ("gateway.yaml", Stand::gateway(settings)),
        ("app.yaml", Stand::app("app", "app.test", &[origin.address()])),
    ])?;
    Ok((origin, stand))
}

fn ask(stand: &Stand, method: &str, lines: &str) -> Result<Response> {
    let mut client = RawClient::connect(stand.address("http"))?;
    client.send(format!("{method} / HTTP/1.1\r\nHost: app.test\r\n{lines}\r\n"))?;
    client.read_response_to(method)
}

fn unpacked(response: &Response) -> Result<String> {
    let mut text = String::new();
    GzDecoder::new(&*response.body).read_to_string(&mut text)?;
    Ok(text)
}

const HTML: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nETag: \"one\"\r\nAccept-Ranges: bytes\r\n";

#[test]
fn a_text_reaches_who_takes_gzip_smaller_and_whole_by_both_versions_of_http() -> Result<()> {
    let (_origin, stand) = serve(SETTINGS, HTML, &text())?;
    let answer = ask(&stand, "GET", TAKES)?;
    let over_h2 = http2::Request::new("GET", "app.test", "/").header("accept-encoding", "br, gzip");
    for answer in [answer, http2::request(&Dial::to(stand.address("http")), over_h2)?] {
        assert_eq!(unpacked(&answer)?, text());
        assert!(answer.body.len() < text().len() / 10, "{}", answer.body.len());
        let header = |name: &str| answer.header(name);
        assert_eq!(header("content-encoding").as_deref(), Some("gzip"));
        assert_eq!(header("vary").as_deref(), Some("accept-encoding"));
        assert_eq!(header("etag").as_deref(), Some("W/\"one\""));
        assert_eq!((header("content-length"), header("accept-ranges")), (None, None));
        let sent = answer.body.len() as u64;
        stand.log_line(|line| line["sent_bytes"].as_u64() == Some(sent))?;
    }
    Ok(())
}

#[test]
fn who_does_not_take_gzip_gets_the_bytes_of_the_endpoint_and_caches_hear_of_the_difference() -> Result<()> {
    let (_origin, stand) = serve(SETTINGS, HTML, &text())?;
    for (method, lines) in [
        ("GET", ""),
        ("GET", "Accept-Encoding: identity, br\r\n"),
        ("GET", "Accept-Encoding: gzip;q=0\r\n"),
        ("GET", "Accept-Encoding: *, gzip; q=0.000\r\n"),
        ("HEAD", TAKES),
    ] {
        let answer = ask(&stand, method, lines)?;
        let body = if method == "HEAD" { String::new() } else { text() };
        assert_eq!((answer.text(), answer.header("content-encoding")), (body, None), "{lines}");
        assert_eq!(answer.header("content-length"), Some(text().len().to_string()), "{lines}");
        assert_eq!(answer.header("vary").as_deref(), Some("accept-encoding"), "{lines}");
        assert_eq!(answer.header("etag").as_deref(), Some("\"one\""), "{lines}");
    }
    for lines in [
        "Accept-Encoding: x-gzip\r\n",
        "Accept-Encoding: *\r\n",
        "Accept-Encoding: br\r\nAccept-Encoding: GZIP;q=0.1\r\n",
    ] {
        assert_eq!(unpacked(&ask(&stand, "GET", lines)?)?, text(), "{lines}");
    }
    let mut old = RawClient::connect(stand.address("http"))?;
    let answer = old.request(format!("GET / HTTP/1.0\r\nHost: app.test\r\n{TAKES}\r\n"))?;
    assert_eq!(answer.text(), text());
    Ok(())
}

#[test]
fn what_is_encoded_a_part_short_or_to_stay_as_it_is_passes_unchanged() -> Result<()> {
    let ok = |lines: &str| format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{lines}");
    let (short, long) = ("x".repeat(255), text());
    for (settings, head, body) in [
        ("", ok(""), &long),
        (SETTINGS, ok("Content-Encoding: br\r\n"), &long),
        (SETTINGS, ok("Content-Encoding: gzip\r\n"), &long),
        (SETTINGS, ok("Cache-Control: max-age=1, No-Transform\r\n"), &long),
        (SETTINGS, ok("Content-Digest: sha-256=:x:\r\n"), &long),
        (SETTINGS, ok(""), &short),
        (SETTINGS, "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n".to_owned(), &long),
        (SETTINGS, "HTTP/1.1 200 OK\r\n".to_owned(), &long),
        (SETTINGS, "HTTP/1.1 500 No\r\nContent-Type: text/plain\r\n".to_owned(), &long),
        (
            SETTINGS,
            "HTTP/1.1 206 Part\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-9/99\r\n".to_owned(),
            &long,
        ),
        ("compression: {enabled: true, types: [text/css]}\n", ok(""), &long),
        ("compression: {enabled: true, minLength: 1Mi}\n", ok(""), &long),
    ] {
        let (_origin, stand) = serve(settings, &head, body)?;
        let answer = ask(&stand, "GET", TAKES)?;
        assert_eq!(&answer.text(), body, "{settings} {head}");
        assert_eq!(answer.header("vary"), None, "{settings} {head}");
        assert!(values(&answer.headers, "content-encoding").iter().all(|coding| head.contains(coding)), "{head}");
    }
    Ok(())
}

#[test]
fn what_an_endpoint_says_of_vary_is_not_said_twice() -> Result<()> {
    for (vary, told) in
        [("*", "*"), ("Origin, Accept-Encoding", "Origin, Accept-Encoding"), ("Origin", "Origin, accept-encoding")]
    {
        let head =
            format!("HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nVary: {vary}\r\nETag: W/\"weak\"\r\n");
        let (_origin, stand) = serve(SETTINGS, &head, &text())?;
        let answer = ask(&stand, "GET", TAKES)?;
        assert_eq!((answer.header("vary").as_deref(), unpacked(&answer)?), (Some(told), text()));
        assert_eq!(answer.header("etag").as_deref(), Some("W/\"weak\""));
    }
    Ok(())
}

#[test]
fn the_beginning_of_a_stream_is_there_before_its_end() -> Result<()> {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Arc::new(std::sync::Mutex::new(wait));
    let origin = RawOrigin::start(move |conn| {
        conn.read_request()?;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
        conn.write_all(format!("{head}5\r\nfirst\r\n").as_bytes())?;
        let _ = wait.lock().unwrap().recv();
        conn.write_all(b"6\r\nsecond\r\n0\r\n\r\n")
    })?;
    let stand = Stand::start(&[
        ("gateway.yaml", Stand::gateway(SETTINGS)),
        ("app.yaml", Stand::app("app", "app.test", &[origin.address()])),
    ])?;
    let mut client = RawClient::connect(stand.address("http"))?;
    client.send(format!("GET / HTTP/1.1\r\nHost: app.test\r\n{TAKES}\r\n"))?;
    let head = client.read_until(b"\r\n\r\n")?;
    assert!(String::from_utf8_lossy(&head).contains("content-encoding: gzip"), "{}", String::from_utf8_lossy(&head));
    // Chunks, as they come, into a decoder that gives out what it can.
    let mut decoder = flate2::write::GzDecoder::new(Vec::new());
    let chunk = |client: &mut RawClient, decoder: &mut flate2::write::GzDecoder<Vec<u8>>| -> Result<usize> {
        let line = client.read_until(b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&line)?.trim(), 16)?;
        let bytes = client.read_exact(length + 2)?;
        decoder.write_all(&bytes[..length])?;
        decoder.flush()?;
        Ok(length)
    };
    while decoder.get_ref() != b"first" {
        anyhow::ensure!(chunk(&mut client, &mut decoder)? > 0, "the body ended");
    }
    go.send(())?;
    while chunk(&mut client, &mut decoder)? > 0 {}
    assert_eq!(decoder.finish()?, b"firstsecond");
    Ok(())
}

#[test]
fn an_alb_compresses_unless_it_says_otherwise() -> Result<()> {
    let body = text();
    let origin = RawOrigin::answering(format!("{HTML}Content-Length: {}\r\n\r\n{body}", body.len()))?;
    for (config, compressed) in [("{}", true), ("{enableGzip: 'true'}", true), ("{enableGzip: 'false'}", false)] {
        let port = std::net::TcpListener::bind("[::]:0")?.local_addr()?.port();
        let alb = format!(
            "apiVersion: crd.alauda.io/v2beta1\nkind: ALB2\nmetadata: {{name: a, namespace: test}}\nspec: {{config: {config}}}\n---\n\
             apiVersion: crd.alauda.io/v1\nkind: Frontend\n\
             metadata: {{name: a-1, namespace: test, labels: {{alb2.cpaas.io/name: a}}}}\n\
             spec: {{port: {port}, protocol: http, serviceGroup: {{services: [{{name: app, namespace: test, port: 80}}]}}}}\n"
        );
        let app = Stand::service("app", "", &[origin.address()]);
        let stand = Stand::start(&[("alb.yaml", alb), ("app.yaml", app)])?;
        let request = format!("GET / HTTP/1.1\r\nHost: app.test\r\n{TAKES}\r\n");
        let answer = RawClient::connect(stand.address("a-1"))?.request(request)?;
        assert_eq!(answer.header("content-encoding").is_some(), compressed, "{config}");
        assert_eq!(if compressed { unpacked(&answer)? } else { answer.text() }, body, "{config}");
    }
    Ok(())
}
