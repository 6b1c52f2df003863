use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// The server on a runtime of its own, ended with the value.
struct Running {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

fn run(admin: Admin) -> Running {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(admin.bind((Ipv4Addr::LOCALHOST, 0).into())).unwrap();
    let address = server.local_address();
    runtime.spawn(server.serve());
    Running { address, _runtime: runtime }
}

/// Status and body.
fn ask(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn every_path_answers_what_was_registered() {
    let ready = Arc::new(AtomicBool::new(false));
    let check = ready.clone();
    let registry = Registry::new();
    registry.counter_fn("things", "Things.", || 7);
    let running = run(Admin::new(registry)
        .ready(move || match check.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("listener shop/web is not programmed".into()),
        })
        .snapshot(|| serde_json::json!({ "generation": 3 }))
        .status(|| vec!["a"]));

    assert_eq!(fetch(running.address, "/healthz").unwrap(), "ok\n");
    assert!(fetch(running.address, "/metrics").unwrap().contains("headwater_things_total 7\n"));
    let snapshot: serde_json::Value = serde_json::from_str(&fetch(running.address, "/snapshot").unwrap()).unwrap();
    assert_eq!(snapshot["generation"], 3);
    assert_eq!(fetch(running.address, "/status?x=1").unwrap(), "[\n  \"a\"\n]\n");

    let error = fetch(running.address, "/readyz").unwrap_err();
    assert_eq!(error.to_string(), "/readyz answered 503: listener shop/web is not programmed");
    ready.store(true, Ordering::Relaxed);
    assert_eq!(fetch(running.address, "/readyz").unwrap(), "ready\n");

    let error = fetch(running.address, "/").unwrap_err();
    assert_eq!(error.to_string(), "/ answered 404: there is /healthz, /metrics, /readyz, /snapshot, /status");
    assert_eq!(ask(running.address, "POST /status HTTP/1.0\r\n\r\n").0, 405);
    assert_eq!(ask(running.address, "HEAD /healthz HTTP/1.0\r\n\r\n"), (200, String::new()));
}

#[test]
fn the_log_level_is_read_and_changed() {
    let (_layer, level) = LogLevel::new("info").unwrap();
    let running = run(Admin::new(Registry::new()).log_level(level.clone()));
    assert_eq!(fetch(running.address, "/loglevel").unwrap(), "info\n");
    let long =
        format!("PUT /loglevel HTTP/1.0\r\nContent-Length: {}\r\n\r\n{}", MAX_BODY + 1, "x".repeat(MAX_BODY + 1));
    for (request, expected) in [
        ("PUT /loglevel HTTP/1.0\r\nContent-Length: 5\r\n\r\ndebug", (200, "debug\n")),
        ("PUT /loglevel HTTP/1.0\r\nContent-Length: 3\r\n\r\na=b", (400, "log level \"a=b\" is not understood")),
        ("PUT /loglevel HTTP/1.0\r\nContent-Length: 1\r\n\r\n\u{7f}", (400, "log level")),
        (&long, (413, "a log level has at most 4096 bytes")),
        ("DELETE /loglevel HTTP/1.0\r\n\r\n", (405, "use GET, HEAD, PUT")),
    ] {
        let (status, body) = ask(running.address, request);
        assert_eq!(status, expected.0, "{body}");
        assert!(body.starts_with(expected.1), "{body}");
    }
    assert_eq!(level.current(), "debug");
    assert!(fetch(running.address, "/other").unwrap_err().to_string().contains("/loglevel"));
}

#[test]
fn a_browser_led_here_by_a_foreign_name_is_refused() {
    let running = run(Admin::new(Registry::new()));
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST:9180", 200),
        ("127.0.0.1:9180", 200),
        ("[::1]:9180", 200),
        ("evil.test", 403),
        ("127.0.0.1.evil.test:9180", 403),
        ("", 403),
    ] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(ask(running.address, &request).0, status, "{host}");
    }
}

#[test]
fn an_endless_head_is_refused() {
    let running = run(Admin::new(Registry::new()));
    let request = format!("GET /healthz HTTP/1.1\r\nX: {}", "x".repeat(2 * MAX_HEAD));
    let mut stream = TcpStream::connect(running.address).unwrap();
    // The server may close before it has all of it.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn who_cannot_answer_is_named() {
    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let error = fetch(free, "/status").unwrap_err();
    assert!(matches!(error, FetchError::Connect { .. }), "{error:?}");
    assert!(error.to_string().starts_with(&format!("no headwater answers at {free}")), "{error}");

    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let stranger = std::thread::spawn(move || {
        for answer in ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    assert!(matches!(fetch(address, "/"), Err(FetchError::NotHttp { .. })));
    assert!(matches!(fetch(address, "/"), Err(FetchError::Read { .. })));
    stranger.join().unwrap();

    let running = run(Admin::new(Registry::new()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(Admin::new(Registry::new()).bind(running.address)).err().unwrap();
    assert!(error.to_string().starts_with(&format!("admin address {} ", running.address)), "{error}");
}
