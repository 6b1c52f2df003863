//! Every row of docs/limits.md that is not about HTTP/2 frames: the limit holds, and neighbours do not notice.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::{Dial, Tls};
use headwater_testkit::http2;
use headwater_testkit::origin::{Origin, RawOrigin};
use headwater_testkit::proxy;
use headwater_testkit::response::Response;
use headwater_testkit::wait;

#[path = "siege/frames.rs"]
mod frames;
mod siege;

use frames::{Attacker, END_STREAM, Outcome};
use siege::{APP, Siege};

/// How long a client that is too slow may stay in these tests: the timeout is 1 s, the rest is for a busy machine.
const SLOW: Duration = Duration::from_secs(8);

fn fault(answer: &Response) -> (u16, String) {
    (answer.status, answer.header("x-headwater-fault").unwrap_or_default())
}

/// `GET path` with a host and `lines` more.
fn get(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {APP}\r\n{lines}\r\n")
}

fn many(count: usize) -> String {
    (0..count).map(|index| format!("x-{index}: 1\r\n")).collect()
}

fn long(bytes: usize) -> String {
    (0..bytes / 1024).map(|index| format!("x-{index}: {}\r\n", "v".repeat(1010))).collect()
}

#[test]
fn heads_within_the_limits_are_served_and_others_refused_by_the_reason() -> Result<()> {
    let small = "limits: {headerBytes: 2Ki, headerCount: 16, requestLineBytes: 512}";
    let refused = |status, reason: &str| (status, reason.to_owned());
    let served = || (200, String::new());
    let path = |length: usize| format!("/{}", "p".repeat(length));
    let table = [
        ("", get("/", &long(60 << 10)), served()),
        ("", get("/", &long(66 << 10)), refused(431, "header_too_large")),
        ("", get("/", &many(255)), served()),
        ("", get("/", &many(256)), refused(431, "header_too_large")),
        ("", get(&path(16_000), ""), served()),
        ("", get(&path(16_384), ""), refused(414, "uri_too_long")),
        // Refused as soon as it is certain, not when it is over.
        ("", get("/", &long(66 << 10)).trim_end().to_owned(), refused(431, "header_too_large")),
        ("", format!("GET {}", path(20_000)), refused(414, "uri_too_long")),
        (small, get("/", &long(1 << 10)), served()),
        (small, get("/", &long(3 << 10)), refused(431, "header_too_large")),
        (small, get("/", &many(15)), served()),
        (small, get("/", &many(16)), refused(431, "header_too_large")),
        (small, get(&path(490), ""), served()),
        (small, get(&path(512), ""), refused(414, "uri_too_long")),
    ];
    let origin = Origin::http("app")?;
    for spec in ["", small] {
        let siege = Siege::start(spec, origin.address())?;
        for (index, (_, request, expected)) in table.iter().enumerate().filter(|(_, row)| row.0 == spec) {
            for dial in [
                Dial::to(siege.stand.address("http")),
                Dial::to(siege.stand.address("https")).tls(Tls::new(APP).alpn(&["http/1.1"])),
            ] {
                let mut client = RawClient::open(&dial)?;
                let answer = client.request(request).with_context(|| format!("row {index}"))?;
                assert_eq!(fault(&answer), *expected, "row {index}");
                if answer.status != 200 {
                    assert_eq!(client.closed()?, b"", "row {index}: refused heads end the connection");
                }
            }
        }
        siege.end()?;
    }
    Ok(())
}

#[test]
fn http2_heads_have_the_same_limits() -> Result<()> {
    let origin = Origin::http("app")?;
    let siege = Siege::start("", origin.address())?;
    let dial = Dial::to(siege.stand.address("http"));
    let ask = |path: &str, lines: usize, value: usize| -> Result<(u16, String)> {
        let mut request = http2::Request::get(APP, path);
        for index in 0..lines {
            request = request.header(&format!("x-{index}"), &"v".repeat(value));
        }
        Ok(fault(&http2::request(&dial, request)?))
    };
    assert_eq!(ask("/", 250, 1)?, (200, String::new()));
    assert_eq!(ask("/", 257, 1)?, (431, "header_too_large".to_owned()));
    assert_eq!(ask("/", 50, 1000)?, (200, String::new()));
    // The protocol layer counts 32 bytes more for each line, and answers by itself (RFC 9113 section 6.5.2).
    assert_eq!(ask("/", 70, 1000)?.0, 431);
    assert_eq!(ask(&format!("/{}", "p".repeat(16_000)), 0, 0)?, (200, String::new()));
    assert_eq!(ask(&format!("/{}", "p".repeat(16_384)), 0, 0)?, (414, "uri_too_long".to_owned()));
    siege.end()
}

#[test]
fn bodies_past_the_limit_are_refused_before_or_while_they_come() -> Result<()> {
    let origin = Origin::http("app")?;
    let siege = Siege::start("limits: {bodyBytes: 1Ki}", origin.address())?;
    let dial = Dial::to(siege.stand.address("http"));
    let length = |announced: usize, sent: usize| {
        format!("POST / HTTP/1.1\r\nHost: {APP}\r\nContent-Length: {announced}\r\n\r\n{}", "b".repeat(sent))
    };
    let chunked = |sent: usize| {
        let chunk = format!("80\r\n{}\r\n", "b".repeat(128));
        let chunks = chunk.repeat(sent / 128);
        format!("POST / HTTP/1.1\r\nHost: {APP}\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
    };
    for (request, status) in
        [(length(1024, 1024), 200), (length(1025, 0), 413), (chunked(1024), 200), (chunked(1152), 413)]
    {
        let mut client = RawClient::open(&dial)?;
        let answer = client.request(&request)?;
        assert_eq!(answer.status, status, "{}: {}", &request[..80], answer.text());
        if status == 413 {
            assert_eq!(fault(&answer).1, "body_too_large");
            assert_eq!(client.closed()?, b"");
        }
    }
    for (size, declared, status) in [(1024, true, 200), (1025, true, 413), (1024, false, 200), (1025, false, 413)] {
        let mut attacker = Attacker::connect(&dial)?;
        let length = size.to_string();
        let more = [("content-length", &*length)];
        let block = frames::request("POST", APP, "/", if declared { &more } else { &[] });
        attacker.headers(1, 0, &block)?;
        attacker.send(&frames::frame(frames::DATA, END_STREAM, 1, &vec![b'b'; size]))?;
        assert_eq!(attacker.outcome(1)?, Outcome::Status(status), "{size} bytes, declared: {declared}");
    }
    siege.end()
}

const TIMEOUTS: &str = "timeouts: {header: 1s, body: 1s, keepAlive: 1s}";

/// Sends a byte more again and again; the answer, once the connection is over.
fn trickle(mut client: RawClient, byte: &str) -> Result<(Duration, Vec<u8>)> {
    let start = Instant::now();
    while start.elapsed() < SLOW {
        // When the gateway has closed already, reading says so.
        let _ = client.send(byte);
        if let Ok(answer) = client.closed() {
            return Ok((start.elapsed(), answer));
        }
    }
    anyhow::bail!("connection is still open")
}

#[test]
fn slow_heads_are_cut_off_however_they_trickle() -> Result<()> {
    let origin = Origin::http("app")?;
    let siege = Siege::start(TIMEOUTS, origin.address())?;
    let http = siege.stand.address("http");
    let https = siege.stand.address("https");
    let hasty = |address| Dial { deadline: Duration::from_millis(100), ..Dial::to(address) };
    let half = format!("GET / HTTP/1.1\r\nHost: {APP}\r\nX-A: ");
    // Slowloris in numbers, silent after half a head.
    let mut silent = (0..200).map(|_| RawClient::connect(http)).collect::<Result<Vec<_>>>()?;
    for client in &mut silent {
        client.send(&half)?;
    }
    // The bytes that come in time do not buy more of it.
    for (start, byte, status) in [(&*half, "a", 408), ("G", "E", 408), ("\r", "\n", 400)] {
        let mut client = RawClient::open(&hasty(http))?;
        client.send(start)?;
        let (_, answer) = trickle(client, byte)?;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{start:?}: {text}");
    }
    // A preface of HTTP/2 that never ends, a TLS record that never ends.
    for (address, start, byte) in
        [(http, b"PRI * HTTP/2.0".as_slice(), ""), (https, b"\x16\x03\x01\x02\x00\x01".as_slice(), "\0")]
    {
        let mut client = RawClient::open(&hasty(address))?;
        client.send(start)?;
        trickle(client, byte)?;
    }
    for client in &mut silent {
        let answer = client.read_response()?;
        assert_eq!(fault(&answer), (408, "header_timeout".to_owned()));
    }
    drop(silent);
    siege.until_alone()?;
    siege.end()
}

#[test]
fn slow_bodies_and_slow_readers_are_cut_off() -> Result<()> {
    let large = 64 << 20;
    let origin = RawOrigin::start(move |conn| {
        let head = conn.read_until(b"\r\n\r\n")?;
        if head.starts_with(b"POST") {
            // Waits for the rest, which never comes.
            conn.read_to_end()?;
            return Ok(());
        }
        let chunked = head.starts_with(b"GET /chunked");
        let framing = if chunked { "transfer-encoding: chunked".into() } else { format!("content-length: {large}") };
        conn.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").as_bytes())?;
        let piece = vec![b'x'; 64 << 10];
        for _ in 0..large / piece.len() {
            if chunked {
                conn.write_all(b"10000\r\n")?;
            }
            conn.write_all(&piece)?;
            if chunked {
                conn.write_all(b"\r\n")?;
            }
        }
        Ok(())
    })?;
    let siege = Siege::start(TIMEOUTS, origin.address())?;
    let dial = Dial::to(siege.stand.address("http"));
    for framing in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let mut client = RawClient::open(&dial)?;
        let answer = client.request(format!("POST / HTTP/1.1\r\nHost: {APP}\r\n{framing}"))?;
        assert_eq!(fault(&answer), (408, "body_timeout".to_owned()), "{framing:?}");
        assert_eq!(client.closed()?, b"");
    }
    let mut attacker = Attacker::connect(&dial)?;
    attacker.headers(1, 0, &frames::request("POST", APP, "/", &[]))?;
    assert_eq!(attacker.outcome(1)?, Outcome::Status(408));
    drop(attacker);
    // Readers who stop: the response does not fit into any buffer on the way.
    let mut readers = Vec::new();
    for path in ["/chunked", "/long"] {
        let mut client = RawClient::open(&dial)?;
        client.send(get(path, ""))?;
        client.read_until(b"\r\n\r\n")?;
        readers.push(client);
    }
    let mut attacker = Attacker::connect(&dial)?;
    attacker.headers(1, END_STREAM, &frames::get(APP, "/long", &[]))?;
    assert_eq!(attacker.outcome(1)?, Outcome::Status(200));
    siege.until_alone()?;
    // All of it is the clients' doing: otherwise they could have endpoints taken out.
    let faults =
        |reason, by| siege.stand.metric(&format!("headwater_gateway_faults_total{{reason=\"{reason}\",by=\"{by}\"}}"));
    wait::until(wait::DEADLINE, || faults("downstream_closed", "downstream") >= 3.0)
        .with_context(|| siege.stand.metrics())?;
    assert!(faults("upstream_timeout", "upstream") < 1.0, "{}", siege.stand.metrics());
    siege.end()
}

#[test]
fn idle_connections_are_closed() -> Result<()> {
    let origin = Origin::http("app")?;
    let siege = Siege::start(TIMEOUTS, origin.address())?;
    let (http, https) = (Dial::to(siege.stand.address("http")), Dial::to(siege.stand.address("https")));
    let tls = |alpn: &str| https.clone().tls(Tls::new(APP).alpn(&[alpn]));
    let start = Instant::now();
    let mut never = RawClient::open(&http)?;
    let mut after_one = RawClient::open(&http)?;
    assert_eq!(after_one.request(get("/", ""))?.status, 200);
    let mut handshaken = RawClient::open(&tls("http/1.1"))?;
    let mut unspoken = RawClient::open(&https)?;
    let mut http2 = Attacker::connect(&http)?;
    let mut http2_tls = Attacker::connect(&tls("h2"))?;
    http2_tls.headers(1, END_STREAM, &frames::get(APP, "/", &[]))?;
    assert_eq!(http2_tls.outcome(1)?, Outcome::Status(200));
    for client in [&mut never, &mut after_one, &mut handshaken, &mut unspoken] {
        assert_eq!(client.closed()?, b"", "closed without a word");
    }
    for attacker in [&mut http2, &mut http2_tls] {
        assert_eq!(attacker.closed()?, Some(0), "GOAWAY without error");
    }
    // Deadlines are kept to a twentieth of a second.
    assert!(start.elapsed() >= Duration::from_millis(900), "closed before the timeout");
    siege.end()
}

#[test]
fn connections_past_the_limit_are_refused_and_those_before_it_served() -> Result<()> {
    let origin = Origin::http("app")?;
    // Four are the neighbours'.
    let siege = Siege::start("limits: {connections: 8}", origin.address())?;
    let http = siege.stand.address("http");
    let mut inside = (0..4).map(|_| RawClient::connect(http)).collect::<Result<Vec<_>>>()?;
    for client in &mut inside {
        assert_eq!(client.request(get("/", ""))?.status, 200);
    }
    for _ in 0..20 {
        assert_eq!(fault(&RawClient::connect(http)?.read_response()?), (503, "overload".to_owned()));
    }
    // Over all listeners; before TLS there is no way to say why.
    assert_eq!(RawClient::connect(siege.stand.address("https"))?.closed()?, b"");
    for client in &mut inside {
        assert_eq!(client.request(get("/", ""))?.status, 200);
    }
    drop(inside.pop());
    wait::until(wait::DEADLINE, || siege.connections() < 4)?;
    assert_eq!(RawClient::connect(http)?.request(get("/", ""))?.status, 200);
    siege.end()
}

#[test]
fn a_client_is_limited_by_its_own_connections() -> Result<()> {
    let origin = Origin::http("app")?;
    let siege = Siege::start("limits: {connectionsPerClient: 4}", origin.address())?;
    let http = siege.stand.address("http");
    let open = |source: [u8; 4]| RawClient::connect_from(IpAddr::from(source), http);
    let mut own = (0..4).map(|_| open([127, 0, 0, 5])).collect::<Result<Vec<_>>>()?;
    for client in &mut own {
        assert_eq!(client.request(get("/", ""))?.status, 200);
    }
    assert_eq!(fault(&open([127, 0, 0, 5])?.read_response()?), (429, "client_limit".to_owned()));
    // What it claims does not make it another client: nobody is trusted here.
    let mut liar = open([127, 0, 0, 5])?;
    assert_eq!(fault(&liar.read_response()?), (429, "client_limit".to_owned()));
    assert_eq!(open([127, 0, 0, 6])?.request(get("/", ""))?.status, 200);
    drop(own.pop());
    wait::until(wait::DEADLINE, || {
        let again = open([127, 0, 0, 5]).and_then(|mut client| client.request(get("/", "")));
        again.is_ok_and(|answer| answer.status == 200)
    })?;
    siege.end()
}

#[test]
fn behind_a_proxy_the_limit_counts_the_client_it_names() -> Result<()> {
    let origin = Origin::http("app")?;
    let spec = "listeners:\n  - {name: http, port: 0, protocol: HTTP}\nlimits: {connectionsPerClient: 4}\n\
                clientAddress: {trustedProxies: [127.0.0.0/8], proxyProtocol: Required}";
    let header = |client: &str| -> Result<Vec<u8>> {
        Ok(proxy::v1(SocketAddr::new(client.parse()?, 1234), "198.51.100.1:80".parse()?))
    };
    let neighbour = header("203.0.113.100")?;
    let siege = Siege::with(&Stand::gateway_with(spec), origin.address(), |dial| dial.preamble(&neighbour))?;
    let http = siege.stand.address("http");
    let open = |client: &str| RawClient::open(&Dial::to(http).preamble(&header(client)?));
    let mut own = (0..4).map(|_| open("203.0.113.5")).collect::<Result<Vec<_>>>()?;
    for client in &mut own {
        assert_eq!(client.request(get("/", ""))?.status, 200);
    }
    assert_eq!(fault(&open("203.0.113.5")?.read_response()?), (429, "client_limit".to_owned()));
    assert_eq!(open("203.0.113.6")?.request(get("/", ""))?.status, 200);
    siege.end()
}

/// Holds requests until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().expect("nobody panics with the gate in hand") = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let closed = self.0.0.lock().expect("nobody panics with the gate in hand");
        let opened = self.0.1.wait_timeout_while(closed, wait::DEADLINE, |open| !*open);
        drop(opened.expect("nobody panics with the gate in hand"));
    }
}

/// An origin that answers once the gate is open.
fn held(gate: &Gate) -> Result<RawOrigin> {
    let gate = gate.clone();
    RawOrigin::start(move |conn| {
        while conn.read_request()?.is_some() {
            gate.pass();
            conn.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
        }
        Ok(())
    })
}

#[test]
fn behind_trusted_headers_the_limit_counts_requests_in_flight() -> Result<()> {
    let gate = Gate::default();
    let origin = held(&gate)?;
    let spec = "limits: {connectionsPerClient: 4}\n\
                clientAddress: {trustedProxies: [127.0.0.1], forwardedHeader: X-Forwarded-For}";
    let siege = Siege::start(spec, origin.address())?;
    let http = siege.stand.address("http");
    let ask = |client: &str| get("/", &format!("X-Forwarded-For: {client}\r\n"));
    let mut waiting = Vec::new();
    // One connection may carry many clients; here each request has its own.
    for client in ["203.0.113.5", "203.0.113.5", "203.0.113.5", "203.0.113.5", "203.0.113.6"] {
        let mut connection = RawClient::connect(http)?;
        connection.send(ask(client))?;
        waiting.push(connection);
    }
    wait::until(wait::DEADLINE, || origin.connections().iter().filter(|record| !record.bytes.is_empty()).count() == 5)?;
    let mut connection = RawClient::connect(http)?;
    assert_eq!(fault(&connection.request(ask("203.0.113.5"))?), (429, "client_limit".to_owned()));
    // The connection goes on: its next request is another client's.
    connection.send(ask("203.0.113.7"))?;
    gate.open();
    assert_eq!(connection.read_response()?.status, 200);
    for client in &mut waiting {
        assert_eq!(client.read_response()?.status, 200);
    }
    assert_eq!(RawClient::connect(http)?.request(ask("203.0.113.5"))?.status, 200, "places are given back");
    siege.end()
}

#[test]
fn a_connection_ends_with_its_last_allowed_request() -> Result<()> {
    let origin = Origin::http("app")?;
    let siege = Siege::start("limits: {requestsPerConnection: 3}", origin.address())?;
    let dial = Dial::to(siege.stand.address("http"));
    let mut client = RawClient::open(&dial)?;
    for last in [false, false, true] {
        let answer = client.request(get("/", ""))?;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("connection").as_deref() == Some("close"), last);
    }
    assert_eq!(client.closed()?, b"");
    let mut attacker = Attacker::connect(&dial)?;
    for stream in [1, 3, 5] {
        attacker.headers(stream, END_STREAM, &frames::get(APP, "/", &[]))?;
        let outcome = attacker.outcome(stream)?;
        assert!(matches!(outcome, Outcome::Status(0 | 200)), "stream {stream}: {outcome:?}");
    }
    // The GOAWAY may have come before the last response.
    assert!(matches!(attacker.closed()?, None | Some(0)), "GOAWAY without error");
    siege.end()
}

#[test]
fn http2_streams_past_the_limit_are_refused_alone() -> Result<()> {
    let gate = Gate::default();
    let origin = held(&gate)?;
    let siege = Siege::start("", origin.address())?;
    let mut attacker = Attacker::connect(&Dial::to(siege.stand.address("http")))?;
    let block = frames::get(APP, "/", &[]);
    for index in 0..=128 {
        attacker.headers(2 * index + 1, END_STREAM, &block)?;
    }
    const REFUSED_STREAM: u32 = 7;
    assert_eq!(attacker.outcome(257)?, Outcome::Reset(REFUSED_STREAM));
    gate.open();
    for index in 0..128 {
        // Responses may overtake each other; the first of them is as good as any.
        let frame = loop {
            let frame = attacker.next()?.with_context(|| format!("closed after {index} responses"))?;
            if frame.kind == frames::HEADERS {
                break frame;
            }
        };
        ensure!(frame.stream < 257, "the refused stream was answered");
    }
    siege.end()
}

#[test]
fn oversized_and_slow_proxy_headers_are_refused() -> Result<()> {
    let origin = Origin::http("app")?;
    let (peer, local): (SocketAddr, SocketAddr) = ("203.0.113.5:1234".parse()?, "198.51.100.1:80".parse()?);
    for mode in ["Required", "Optional"] {
        let spec = format!(
            "listeners:\n  - {{name: http, port: 0, protocol: HTTP}}\nclientAddress: {{trustedProxies: [127.0.0.0/8], \
             proxyProtocol: {mode}, proxyProtocolTimeout: 1s}}"
        );
        let good = proxy::V2::tcp(peer, local).build();
        let siege = Siege::with(&Stand::gateway_with(&spec), origin.address(), |dial| dial.preamble(&good))?;
        let http = siege.stand.address("http");
        let largest = proxy::V2::tcp(peer, local).pad_to(4096).build();
        let answer = RawClient::open(&Dial::to(http).preamble(&largest))?.request(get("/", ""))?;
        assert_eq!(answer.status, 200, "{mode}: the largest header allowed");
        let refusals = [
            proxy::v1_too_long(),
            format!("PROXY UNKNOWN {}", "x".repeat(70_000)).into_bytes(),
            proxy::V2::tcp(peer, local).oversized().build(),
            proxy::V2::tcp(peer, local).pad_to(65_000).build(),
            proxy::V2::raw(0x31, 0x11, &[0; 12]).build(),
        ];
        for header in &refusals {
            let mut client = RawClient::connect(http)?;
            // The gateway may close while this is being sent.
            let _ = client.send(header);
            assert_eq!(client.closed()?, b"", "{mode}: {:?}", String::from_utf8_lossy(&header[..20]));
        }
        for start in [&good[..14], b"PROXY TCP4 203."] {
            let mut client = RawClient::open(&Dial { deadline: Duration::from_millis(100), ..Dial::to(http) })?;
            client.send(start)?;
            let (after, answer) = trickle(client, "")?;
            assert_eq!(answer, b"", "{mode}");
            assert!(after >= Duration::from_millis(900), "{mode}: closed after {after:?}");
        }
        siege.end()?;
    }
    Ok(())
}

#[test]
fn garbage_on_either_port_ends_its_own_connection_only() -> Result<()> {
    let origin = Origin::http("app")?;
    let siege = Siege::start(TIMEOUTS, origin.address())?;
    let (http, https) = (siege.stand.address("http"), siege.stand.address("https"));
    let mut random = Vec::new();
    let mut state = 1_u32;
    for _ in 0..4096 {
        // xorshift32 with a fixed seed
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        random.push(state as u8);
    }
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let plain = get("/", "");
    let table: [(&str, SocketAddr, &[u8]); 7] = [
        ("plain HTTP on the TLS port", https, plain.as_bytes()),
        ("random bytes on the TLS port", https, &random),
        ("half a ClientHello, then random bytes", https, &[hello.as_slice(), &random].concat()),
        ("a record of 64 KiB", https, b"\x16\x03\x01\xff\xff\x01\x00\xff\xfb"),
        ("an alert first", https, b"\x15\x03\x01\x00\x02\x02\x28"),
        ("a PROXY header where none is allowed, on the TLS port", https, b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n"),
        ("HTTP/2 without TLS on the TLS port", https, frames::PREFACE),
    ];
    for (name, address, bytes) in table {
        let mut client = RawClient::connect(address)?;
        client.send(bytes)?;
        let answer = client.closed().with_context(|| name.to_owned())?;
        // At most an alert: nothing that was not encrypted is answered in HTTP.
        assert!(answer.is_empty() || answer[0] == 0x15, "{name}: {:?}", String::from_utf8_lossy(&answer));
    }
    let table: [(&str, &[u8], u16, &str); 4] = [
        ("TLS on the plain port", &[hello.as_slice(), &random, b"\r\n\r\n"].concat(), 400, "bad_request"),
        ("random bytes", &[&random[..], b"\r\n\r\n"].concat(), 400, "bad_request"),
        (
            "PROXY where none is allowed",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\nGET / HTTP/1.1\r\n\r\n",
            400,
            "proxy_header",
        ),
        ("PROXY v2 where none is allowed", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c0123456789ab", 400, "proxy_header"),
    ];
    for (name, bytes, status, reason) in table {
        let mut client = RawClient::connect(http)?;
        client.send(bytes)?;
        let answer = client.read_response().with_context(|| name.to_owned())?;
        assert_eq!(fault(&answer), (status, reason.to_owned()), "{name}");
        client.closed().with_context(|| name.to_owned())?;
    }
    let failed = siege.stand.metric("headwater_gateway_tls_handshakes_failed_total");
    assert!(failed >= 6.0, "{failed} handshakes failed\n{}", siege.stand.metrics());
    siege.until_alone()?;
    siege.end()
}

#[test]
fn a_head_that_comes_byte_by_byte_is_served() -> Result<()> {
    let origin = Origin::http("app")?;
    let siege = Siege::start("", origin.address())?;
    let mut client = RawClient::connect(siege.stand.address("http"))?;
    let request = get("/", "X-A: b\r\n");
    for byte in request.bytes() {
        client.send([byte])?;
    }
    assert_eq!(client.read_response()?.status, 200);
    siege.end()
}

/// Resident memory of this process in bytes.
fn resident() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? << 10)
}

#[test]
fn idle_connections_cost_little_memory() -> Result<()> {
    const COUNT: usize = 2000;
    /// 1 GiB for 10,000 would be 107 KB each; plain ones need less than a tenth, tests in other threads disturb.
    const BOUND: usize = 32 << 10;
    let files = headwater_net_io::limits::raise_open_file_limit()?;
    ensure!(files > 3 * COUNT as u64, "{files} open files are too few for this test (raise `ulimit -Hn`)");
    let origin = Origin::http("app")?;
    let siege = Siege::start("", origin.address())?;
    let http = siege.stand.address("http");
    let open = |count: usize| -> Result<Vec<std::net::TcpStream>> {
        let request = get("/", "");
        (0..count)
            .map(|_| {
                let mut tcp = std::net::TcpStream::connect(http)?;
                tcp.set_read_timeout(Some(wait::DEADLINE))?;
                tcp.write_all(request.as_bytes())?;
                let mut first = [0; 12];
                std::io::Read::read_exact(&mut tcp, &mut first)?;
                ensure!(&first == b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&first));
                Ok(tcp)
            })
            .collect()
    };
    let warm = open(100)?;
    let before = resident()?;
    let idle = open(COUNT)?;
    let each = resident()?.saturating_sub(before) / COUNT;
    assert!(siege.connections() >= COUNT, "{} connections are open", siege.connections());
    assert!(each < BOUND, "{each} bytes for each idle connection");
    drop((warm, idle));
    siege.until_alone()?;
    siege.end()
}

#[test]
fn every_test_that_the_page_about_limits_names_exists() {
    let page = include_str!("../../../docs/limits.md");
    let sources = [
        include_str!("limits.rs"),
        include_str!("smuggling.rs"),
        include_str!("http2_abuse.rs"),
        include_str!("carried.rs"),
    ]
    .concat();
    let names = page.split('`').filter(|word| word.matches('_').count() > 2 && !word.contains(['-', ' ', '.']));
    let mut count = 0;
    for name in names {
        assert!(sources.contains(&format!("fn {name}()")), "docs/limits.md names {name}, which is no test");
        count += 1;
    }
    assert!(count > 30, "only {count} tests are named");
}
