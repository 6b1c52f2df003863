//! Everything one port speaks, seen from a client of plain sockets.

#![allow(clippy::unwrap_used, reason = "a failure to set a test up fails the test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use headwater_whoami::{Server, Whoami};
use serde_json::Value;
use tokio::sync::oneshot;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Http,
    Tcp,
    Udp,
}

/// A server on its own thread; dropping it stops the server and waits for its end.
struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

fn start(kind: Kind, adjust: impl FnOnce(&mut Whoami)) -> Running {
    let mut whoami = Whoami::new("one", ["127.0.0.1:0".parse().unwrap()]);
    adjust(&mut whoami);
    let (stop, stopped) = oneshot::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let server: Server = match kind {
                Kind::Http => whoami.serve_http().await,
                Kind::Tcp => whoami.serve_tcp().await,
                Kind::Udp => whoami.serve_udp().await,
            }
            .unwrap();
            tell.send(server.local_addr()).unwrap();
            server
                .run(async {
                    let _ = stopped.await;
                })
                .await;
        });
    });
    Running { address: told.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
}

impl Running {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Everything the server says to `bytes` until it closes.
    fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    fn get(&self, target: &str) -> String {
        self.exchange(format!("GET {target} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").as_bytes())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(!matches!(ended, Some(Err(_))) || std::thread::panicking());
    }
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

fn json(answer: &str) -> Value {
    serde_json::from_str(body(answer)).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[test]
fn the_report_shows_the_request_as_it_arrived() {
    let server = start(Kind::Http, |_| {});
    let mut stream = server.connect();
    stream
        .write_all(
            b"POST /p?q=1 HTTP/1.1\r\nHost: a.test\r\nX-B: 1\r\nx-b:2\r\nConnection: close\r\n\
              Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: t\r\n\r\n",
        )
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let report = json(&answer);
    assert_eq!(report["method"], "POST");
    assert_eq!(report["target"], "/p?q=1");
    assert_eq!(report["proto"], "HTTP/1.1");
    assert_eq!(report["host"], "a.test");
    assert_eq!(report["peer"], stream.local_addr().unwrap().to_string());
    assert_eq!(report["proxy"], Value::Null);
    assert_eq!(report["headers"][1], serde_json::json!(["X-B", "1"]));
    assert_eq!(report["headers"][2], serde_json::json!(["x-b", "2"]));
    assert_eq!(report["body_bytes"], 3);
    assert_eq!(report["trailers"], serde_json::json!([["X-T", "t"]]));
}

#[test]
fn a_proxy_header_is_reported_when_enabled_and_refused_otherwise() {
    let bytes = b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\nGET / HTTP/1.0\r\n\r\n";
    let report = json(&start(Kind::Http, |whoami| whoami.proxy_protocol = true).exchange(bytes));
    assert_eq!(report["proxy"]["version"], 1);
    assert_eq!(report["proxy"]["source"], "192.0.2.7:4000");
    assert_eq!(report["proxy"]["destination"], "198.51.100.1:443");
    assert!(start(Kind::Http, |_| {}).exchange(bytes).starts_with("HTTP/1.1 400 "));
}

#[test]
fn parameters_shape_the_answer() {
    let server = start(Kind::Http, |_| {});
    for (target, head, tail) in [
        ("/status/404", "HTTP/1.1 404 Not Found\r\n", "}"),
        ("/status/204", "HTTP/1.1 204 No Content\r\n", "\r\n\r\n"),
        ("/?bytes=12", "HTTP/1.1 200 OK\r\n", "\r\n\r\n012345678901"),
        ("/?chunked=5&pieces=2", "HTTP/1.1 200 OK\r\n", "\r\n\r\n3\r\n012\r\n2\r\n34\r\n0\r\n\r\n"),
        ("/?bytes=2&close", "HTTP/1.1 200 OK\r\n", "connection: close\r\n\r\n01"),
        ("/?bytes=2&fail=partial", "HTTP/1.1 200 OK\r\n", "content-length: 1002\r\nconnection: close\r\n\r\n01"),
        ("/?chunked=2&fail=partial", "HTTP/1.1 200 OK\r\n", "\r\n\r\n2\r\n01\r\n"),
        (
            "/?bytes=1&trailers",
            "HTTP/1.1 200 OK\r\n",
            "\r\n\r\n1\r\n0\r\n0\r\nx-whoami-name: one\r\nx-whoami-body-bytes: 0\r\n\r\n",
        ),
        ("/?bytes=0&header=X-A:%20b", "HTTP/1.1 200 OK\r\n", "\r\nx-a: b\r\n\r\n"),
        ("/?bytes=x", "HTTP/1.1 400 Bad Request\r\n", "bytes: \"x\" is not a number from 0 to 1073741824\n"),
        ("/?fail=close", "", ""),
    ] {
        let answer = server.get(target);
        assert!(answer.starts_with(head) && answer.ends_with(tail), "{target}: {answer:?}");
    }
    assert!(body(&server.get("/?format=text")).starts_with("name: one\nrequest: GET "));
}

#[test]
fn fail_reset_resets_the_connection() {
    let server = start(Kind::Http, |_| {});
    let mut stream = server.connect();
    stream.write_all(b"GET /?fail=reset HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let server = start(Kind::Http, |_| {});
    let answer = server.exchange(
        b"POST /?bytes=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
          GET /?bytes=2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2);
    assert!(answer.ends_with("\r\n\r\n01"), "{answer:?}");
}

#[test]
fn echo_answers_before_the_request_is_complete() {
    let server = start(Kind::Http, |_| {});
    let mut stream = server.connect();
    stream.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n").unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n2\r\nhi\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1);
        seen.push(byte[0]);
    }
    stream.write_all(b"0\r\nX-T: t\r\n\r\n").unwrap();
    let mut rest = [0; 13];
    stream.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"0\r\nX-T: t\r\n\r\n");
}

#[test]
fn bad_input_is_answered_or_closed_and_the_server_lives_on() {
    let server = start(Kind::Http, |whoami| whoami.proxy_protocol = true);
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000));
    for (bytes, expected) in [
        (&b"\0\0\0\0\r\n\r\n"[..], "HTTP/1.1 400 "),
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "),
        (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "HTTP/1.1 400 "),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "HTTP/1.1 400 "),
        (b"PROXY nonsense\r\nGET / HTTP/1.1\r\n\r\n", ""),
    ] {
        let answer = server.exchange(bytes);
        assert!(answer.starts_with(expected) && answer.is_empty() == expected.is_empty(), "{answer:?}");
    }
    assert!(server.exchange(long.as_bytes()).starts_with("HTTP/1.1 431 "));
    assert!(server.get("/").starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn a_stopping_server_finishes_the_request_under_way_and_takes_no_other() {
    let mut server = start(Kind::Http, |_| {});
    let mut idle = server.connect();
    idle.write_all(b"GET /?bytes=1 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let read_until = |stream: &mut TcpStream, end: &[u8]| {
        let mut seen = Vec::new();
        while !seen.ends_with(end) {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap(), 1);
            seen.push(byte[0]);
        }
    };
    read_until(&mut idle, b"\r\n\r\n0");
    let mut busy = server.connect();
    busy.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nha").unwrap();
    read_until(&mut busy, b"\r\n\r\nha");
    drop(server.stop.take());
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    busy.write_all(b"lf").unwrap();
    let mut rest = String::new();
    busy.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "lf");
    server.thread.take().unwrap().join().unwrap();
    assert!(TcpStream::connect(server.address).is_err());
}

#[test]
fn tls_is_answered_on_the_same_port_as_plain() {
    let key = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let certificate = key.cert.der().clone();
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.signing_key.into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server = start(Kind::Http, |whoami| whoami.tls = Some(Arc::new(config)));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let session = rustls::ClientConnection::new(Arc::new(client), "a.test".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(session, server.connect());
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(json(&answer)["tls"], serde_json::json!({"sni": "a.test", "alpn": "http/1.1", "version": "TLSv1.3"}));
    assert_eq!(json(&server.get("/"))["tls"], Value::Null);
}

#[test]
fn raw_tcp_gets_a_line_and_its_bytes_back() {
    let server = start(Kind::Tcp, |whoami| whoami.proxy_protocol = true);
    let mut stream = server.connect();
    stream.write_all(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\nhello").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (line, echoed) = answer.split_once('\n').unwrap();
    let report: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&report["proto"], &report["proxy"]["source"]), (&"TCP".into(), &"[2001:db8::1]:1".into()));
    assert_eq!(echoed, "hello");
}

#[test]
fn a_datagram_with_a_proxy_prefix_names_its_client() {
    let server = start(Kind::Udp, |whoami| whoami.proxy_protocol = true);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut datagram = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x00\x05\x00\x35".to_vec();
    datagram.extend(b"question");
    for (bytes, source) in [(datagram, Value::from("192.0.2.7:5")), (b"question".to_vec(), Value::Null)] {
        socket.send_to(&bytes, server.address).unwrap();
        let mut buffer = [0; 2048];
        let n = socket.recv(&mut buffer).unwrap();
        let report: Value = serde_json::from_slice(&buffer[..n]).unwrap();
        assert_eq!(report["proxy"]["source"], source);
        assert_eq!((&report["body"], &report["body_bytes"]), (&"question".into(), &8.into()));
        assert_eq!(report["peer"], socket.local_addr().unwrap().to_string());
    }
}
