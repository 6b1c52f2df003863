//! HTTP/2 against the grain: floods that must end, and frames that RFC 9113 calls errors.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::origin::{Origin, RawOrigin};
use headwater_testkit::wait;

#[path = "siege/frames.rs"]
mod frames;
mod siege;

use frames::{
    ACK, Attacker, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Outcome, PADDED, PING, PREFACE,
    PRIORITISED, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, get, request,
};
use siege::{APP, Siege};

// RFC 9113 section 7.
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const CANCEL: u32 = 8;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// Memory that a flood, with everything else in this process, may cost.
const MEMORY: usize = 96 << 20;

/// Resident memory of this process in bytes.
fn resident() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? << 10)
}

/// An origin that takes requests and never answers.
fn silent() -> Result<RawOrigin> {
    RawOrigin::start(|conn| {
        conn.read_until(b"\r\n\r\n")?;
        conn.read_to_end()?;
        Ok(())
    })
}

/// Waits until nothing works on an abandoned request any more: the gateway has closed every connection to the origin.
fn until_forgotten(origin: &RawOrigin) -> Result<()> {
    wait::until(wait::DEADLINE, || origin.connections().iter().all(|record| record.ended.is_some()))
        .with_context(|| format!("{} connections to the origin", origin.connections().len()))
}

#[test]
fn streams_reset_in_numbers_end_the_connection_and_their_requests() -> Result<()> {
    let origin = silent()?;
    let siege = Siege::start("", origin.address())?;
    let dial = Dial::to(siege.stand.address("http"));
    let block = get(APP, "/", &[]);
    let pair = |stream: u32| {
        let mut bytes = frame(HEADERS, END_STREAM | END_HEADERS, stream, &block);
        bytes.extend(frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
        bytes
    };
    // All at once: most are reset before they are looked at (CVE-2023-44487).
    let mut attacker = Attacker::connect(&dial)?;
    attacker.flood(&(0..5000).flat_map(|index| pair(2 * index + 1)).collect::<Vec<u8>>());
    assert_eq!(attacker.closed()?, Some(ENHANCE_YOUR_CALM));
    // One after the other: each is on its way to the origin when it is reset.
    let mut attacker = Attacker::connect(&dial)?;
    let mut rounds = 0;
    while rounds < 5000 {
        attacker.flood(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * rounds + 1, &block));
        if !attacker.is_alive()? {
            break;
        }
        attacker.flood(&frame(RST_STREAM, 0, 2 * rounds + 1, &CANCEL.to_be_bytes()));
        rounds += 1;
    }
    assert!((500..1000).contains(&rounds), "the connection ended after {rounds} resets");
    until_forgotten(&origin)?;
    siege.until_alone()?;
    siege.end()
}

#[test]
fn clients_may_cancel_some_of_their_requests() -> Result<()> {
    let origin = Origin::http("app")?;
    let siege = Siege::start("", origin.address())?;
    let mut attacker = Attacker::connect(&Dial::to(siege.stand.address("http")))?;
    let block = get(APP, "/", &[]);
    for index in 0..300 {
        let stream = 4 * index + 1;
        attacker.headers(stream, END_STREAM, &block)?;
        attacker.send(&frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()))?;
        attacker.headers(stream + 2, END_STREAM, &block)?;
        let outcome = attacker.outcome(stream + 2)?;
        assert!(matches!(outcome, Outcome::Status(0 | 200)), "request {index}: {outcome:?}");
    }
    siege.end()
}

#[test]
fn requests_that_clients_cancel_are_not_held_against_endpoints() -> Result<()> {
    let (one, two) = (silent()?, silent()?);
    let siege = Siege::start("passiveHealth: {consecutiveFailures: 2}", one.address())?;
    siege.stand.change(|dir| dir.write("app.yaml", &Stand::app("app", APP, &[one.address(), two.address()])))?;
    let mut attacker = Attacker::connect(&Dial::to(siege.stand.address("http")))?;
    let begun = || one.connections().len() + two.connections().len();
    for index in 0..30 {
        let stream = 2 * index + 1;
        attacker.headers(stream, END_STREAM, &get(APP, "/", &[]))?;
        wait::until(wait::DEADLINE, || begun() > index as usize)?;
        attacker.send(&frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()))?;
    }
    until_forgotten(&one)?;
    until_forgotten(&two)?;
    let cancelled = "headwater_gateway_faults_total{reason=\"downstream_closed\",by=\"downstream\"}";
    wait::until(wait::DEADLINE, || siege.stand.metric(cancelled) >= 30.0).with_context(|| siege.stand.metrics())?;
    let metrics = siege.stand.metrics();
    let ejections = metrics.lines().filter(|line| line.starts_with("headwater_gateway_endpoint_ejections_total{"));
    let ejections: Vec<_> = ejections.filter(|line| line.contains("\"app\"") && !line.ends_with(" 0")).collect();
    assert!(ejections.is_empty(), "{ejections:?}");
    siege.end()
}

#[test]
fn resets_provoked_from_the_server_end_the_connection_too() -> Result<()> {
    let origin = silent()?;
    let siege = Siege::start("", origin.address())?;
    let dial = Dial::to(siege.stand.address("http"));
    let block = get(APP, "/", &[]);
    // MadeYouReset (CVE-2025-8671): what a stream must be reset for, after a request that is complete.
    type Provocation = (&'static str, fn(u32) -> Vec<u8>);
    let provocations: [Provocation; 4] = [
        ("window of 0", |stream| frame(WINDOW_UPDATE, 0, stream, &[0; 4])),
        ("window past 2^31", |stream| frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])),
        ("DATA after the end", |stream| frame(DATA, END_STREAM, stream, b"x")),
        ("HEADERS after the end", |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &[])),
    ];
    for (what, provocation) in provocations {
        let mut attacker = Attacker::connect(&dial)?;
        let mut ended = false;
        for index in 0..2000 {
            let mut bytes = frame(HEADERS, END_STREAM | END_HEADERS, 2 * index + 1, &block);
            bytes.extend(provocation(2 * index + 1));
            attacker.flood(&bytes);
            if index % 50 == 0 && !attacker.is_alive()? {
                ended = true;
                break;
            }
        }
        assert!(ended, "{what}: 2000 resets and still alive");
    }
    until_forgotten(&origin)?;
    siege.until_alone()?;
    siege.end()
}

#[test]
fn floods_of_small_frames_cost_bounded_memory_and_no_neighbour() -> Result<()> {
    const COUNT: u32 = 50_000;
    let origin = silent()?;
    let siege = Siege::start("timeouts: {keepAlive: 1s, header: 1s, body: 1s}", origin.address())?;
    let dial = Dial { deadline: Duration::from_secs(5), ..Dial::to(siege.stand.address("http")) };
    let upload = frame(HEADERS, END_HEADERS, 1, &request("POST", APP, "/", &[]));
    let unended = frame(HEADERS, 0, 1, &get(APP, "/", &[]));
    // What comes first, what comes again and again, whether the connection must end for it at once.
    let table: [(&str, &[u8], Vec<u8>, bool); 9] = [
        ("SETTINGS", b"", frame(SETTINGS, 0, 0, &[]), false),
        ("SETTINGS with a value", b"", frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]), false),
        ("PING", b"", frame(PING, 0, 0, &[0; 8]), false),
        ("PRIORITY", b"", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]), false),
        ("unknown frames", b"", frame(0xfa, 0xff, 1, &[0; 8]), false),
        ("WINDOW_UPDATE", b"", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), false),
        ("empty DATA", &upload, frame(DATA, 0, 1, &[]), true),
        // CVE-2024-27316
        ("empty CONTINUATION", &unended, frame(CONTINUATION, 0, 1, &[]), true),
        ("large CONTINUATION", &unended, frame(CONTINUATION, 0, 1, &[0x10; 1000]), true),
    ];
    for (what, start, again, must_end) in table {
        let before = resident()?;
        let mut attacker = Attacker::connect(&dial)?;
        attacker.send(start)?;
        for _ in 0..COUNT / 1000 {
            // Nothing is read meanwhile: answers pile up on the way back.
            attacker.flood(&again.repeat(1000));
        }
        let grown = resident()?.saturating_sub(before);
        assert!(grown < MEMORY, "{what}: {grown} bytes more");
        if must_end {
            let code = attacker.closed().with_context(|| what.to_owned())?;
            // Bytes that nobody reads any more reset the connection, which may take the GOAWAY with it.
            assert!(matches!(code, None | Some(PROTOCOL_ERROR | ENHANCE_YOUR_CALM)), "{what}: {code:?}");
        }
    }
    siege.until_alone()?;
    until_forgotten(&origin)?;
    siege.end()
}

#[test]
fn frames_that_ask_for_nothing_do_not_keep_a_connection() -> Result<()> {
    let origin = Origin::http("app")?;
    let siege = Siege::start("timeouts: {keepAlive: 1s}", origin.address())?;
    for again in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[]), frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])] {
        let dial = Dial { deadline: Duration::from_millis(100), ..Dial::to(siege.stand.address("http")) };
        let mut attacker = Attacker::connect(&dial)?;
        let start = Instant::now();
        loop {
            attacker.flood(&again);
            if attacker.closed().is_ok() {
                break;
            }
            ensure!(start.elapsed() < Duration::from_secs(8), "still open: {again:?}");
        }
    }
    // A header block that never ends is no request either.
    let mut attacker = Attacker::connect(&Dial::to(siege.stand.address("http")))?;
    attacker.send(&frame(HEADERS, 0, 1, &get(APP, "/", &[])))?;
    attacker.closed()?;
    siege.end()
}

#[test]
fn small_frames_that_expand_to_large_headers_are_refused() -> Result<()> {
    let origin = Origin::http("app")?;
    let siege = Siege::start("", origin.address())?;
    let dial = Dial::to(siege.stand.address("http"));
    let bomb = |name: &[u8], value: usize, times: usize| {
        let mut block = get(APP, "/", &[]);
        frames::indexed_literal(&mut block, name, &vec![b'v'; value]);
        // Each of these bytes is that line again.
        block.extend(std::iter::repeat_n(0xbe, times));
        block
    };
    let before = resident()?;
    for _ in 0..20 {
        for (name, value, times) in [(b"x".as_slice(), 4000, 10_000), (b"cookie", 4000, 10_000), (b"x", 0, 15_000)] {
            let mut attacker = Attacker::connect(&dial)?;
            let block = bomb(name, value, times);
            attacker.headers(1, END_STREAM, &block)?;
            let outcome = attacker.outcome(1)?;
            let refused = matches!(
                outcome,
                Outcome::Status(431) | Outcome::Reset(_) | Outcome::Goaway(ENHANCE_YOUR_CALM | COMPRESSION_ERROR)
            );
            assert!(refused, "{times} lines of {value} bytes: {outcome:?}");
        }
    }
    let grown = resident()?.saturating_sub(before);
    assert!(grown < MEMORY, "{grown} bytes more");
    // Below the limit of bytes, past that of lines.
    let mut attacker = Attacker::connect(&dial)?;
    attacker.headers(1, END_STREAM, &bomb(b"x", 10, 300))?;
    assert_eq!(attacker.outcome(1)?, Outcome::Status(431));
    // A table larger than was allowed.
    let mut attacker = Attacker::connect(&dial)?;
    let mut block = Vec::new();
    frames::integer(&mut block, 0x20, 5, 1 << 20);
    block.extend(get(APP, "/", &[]));
    attacker.headers(1, END_STREAM, &block)?;
    assert_eq!(attacker.outcome(1)?, Outcome::Goaway(PROTOCOL_ERROR));
    siege.end()
}

#[test]
fn readers_with_an_empty_window_are_cut_off() -> Result<()> {
    let origin = RawOrigin::answering(
        [b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n".as_slice(), &[b'x'; 1_000_000]].concat(),
    )?;
    let siege = Siege::start("timeouts: {keepAlive: 1s, body: 1s}", origin.address())?;
    let mut attacker = Attacker::connect(&Dial::to(siege.stand.address("http")))?;
    attacker.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]))?;
    for index in 0..50 {
        attacker.headers(2 * index + 1, END_STREAM, &get(APP, "/", &[]))?;
    }
    // Every stream is given up; then nothing keeps the connection.
    siege.until_alone()?;
    siege.end()
}

#[test]
fn more_data_than_the_window_allows_is_refused() -> Result<()> {
    // Reads the head and then nothing: what is sent piles up on the way.
    let origin = RawOrigin::start(|conn| {
        conn.read_until(b"\r\n\r\n")?;
        while conn.socket().peek(&mut [0])? > 0 && conn.socket().take_error()?.is_none() {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    })?;
    let siege = Siege::start("timeouts: {body: 5s, idle: 5s}", origin.address())?;
    let before = resident()?;
    let mut attacker = Attacker::connect(&Dial::to(siege.stand.address("http")))?;
    attacker.headers(1, 0, &request("POST", APP, "/", &[]))?;
    let data = frame(DATA, 0, 1, &[0; 16_384]);
    for _ in 0..64 {
        attacker.flood(&data.repeat(32));
    }
    let outcome = attacker.outcome(1)?;
    assert!(
        matches!(outcome, Outcome::Reset(FLOW_CONTROL_ERROR) | Outcome::Goaway(FLOW_CONTROL_ERROR) | Outcome::Closed),
        "{outcome:?}"
    );
    let grown = resident()?.saturating_sub(before);
    assert!(grown < MEMORY, "{grown} bytes more");
    siege.end()
}

/// What a case must lead to.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// GOAWAY with this code, or with PROTOCOL_ERROR, which always fits (section 5.4.1); or the end of the connection.
    Connection(u32),
    /// RST_STREAM of stream 1 with this code, and the connection goes on; or the same code for the connection, as RFC
    /// 9113 section 5.4.2 allows.
    Stream(u32),
    /// A response on stream 1.
    Served,
    /// Nothing: the connection works.
    Ignored,
}
use Expect::{Connection, Ignored, Served, Stream};

/// Frames sent behind the preface and empty SETTINGS, by section of RFC 9113.
fn cases() -> Vec<(&'static str, Vec<Vec<u8>>, Expect)> {
    let block = get(APP, "/", &[]);
    let post = request("POST", APP, "/", &[]);
    let whole = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
    let open = frame(HEADERS, END_HEADERS, 1, &post);
    let padded = |padding: u8, inner: &[u8], rest: usize| {
        let mut payload = vec![padding];
        payload.extend(inner);
        payload.extend(vec![0; rest]);
        payload
    };
    let setting = |id: u8, value: u32| {
        let mut payload = vec![0, id];
        payload.extend(value.to_be_bytes());
        frame(SETTINGS, 0, 0, &payload)
    };
    let settings = |id, value| vec![setting(id, value)];
    let with_priority = |dependency: [u8; 4], block: &[u8]| [&dependency[..], &[7], block].concat();
    let (first, second) = block.split_at(20);
    let max = 0x7fff_ffff_u32.to_be_bytes();
    let p = PROTOCOL_ERROR;
    vec![
        ("4.1: an unknown type is ignored", vec![frame(0x42, 0, 0, b"abc"), whole.clone()], Served),
        ("4.1: unknown flags are ignored", vec![frame(PING, 0xfe, 0, &[1; 8]), whole.clone()], Served),
        ("4.1: the reserved bit is ignored", vec![frame(PING, 0, 0x8000_0000, &[1; 8]), whole.clone()], Served),
        (
            "4.2: DATA past SETTINGS_MAX_FRAME_SIZE",
            vec![open.clone(), frame(DATA, 0, 1, &[0; 16_385])],
            Stream(FRAME_SIZE_ERROR),
        ),
        (
            "4.2: HEADERS past SETTINGS_MAX_FRAME_SIZE",
            vec![frame(HEADERS, END_HEADERS, 1, &[0; 16_385])],
            Connection(FRAME_SIZE_ERROR),
        ),
        (
            "4.3: an index that does not exist",
            vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0xff, 0x7f])],
            Connection(COMPRESSION_ERROR),
        ),
        ("4.3: index 0", vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0x80])], Connection(COMPRESSION_ERROR)),
        (
            "4.3: a block that ends in a line",
            vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0, 5, b'x'])],
            Connection(COMPRESSION_ERROR),
        ),
        (
            "4.3: PRIORITY inside a block",
            vec![frame(HEADERS, END_STREAM, 1, first), frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])],
            Connection(p),
        ),
        (
            "4.3: another stream inside a block",
            vec![frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 3, second)],
            Connection(p),
        ),
        (
            "5.5: an unknown type inside a block",
            vec![frame(HEADERS, END_STREAM, 1, first), frame(0x42, 0, 0, b"abc")],
            Connection(p),
        ),
        (
            "6.10: a block in pieces",
            vec![frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 1, second)],
            Served,
        ),
        ("5.1: DATA on an idle stream", vec![frame(DATA, END_STREAM, 1, b"x")], Connection(p)),
        ("5.1: RST_STREAM on an idle stream", vec![frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])], Connection(p)),
        ("5.1: WINDOW_UPDATE on an idle stream", vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 8])], Connection(p)),
        ("5.1: CONTINUATION on an idle stream", vec![frame(CONTINUATION, END_HEADERS, 1, &block)], Connection(p)),
        ("5.1: DATA after END_STREAM", vec![whole.clone(), frame(DATA, END_STREAM, 1, b"x")], Stream(STREAM_CLOSED)),
        ("5.1: HEADERS after END_STREAM", vec![whole.clone(), whole.clone()], Stream(STREAM_CLOSED)),
        ("5.1.1: an even stream", vec![frame(HEADERS, END_STREAM | END_HEADERS, 2, &block)], Connection(p)),
        (
            "5.1.1: a stream below the last",
            vec![frame(HEADERS, END_HEADERS, 5, &post), frame(HEADERS, END_STREAM | END_HEADERS, 3, &block)],
            Connection(p),
        ),
        ("6.1: DATA on stream 0", vec![frame(DATA, 0, 0, b"x")], Connection(p)),
        (
            "6.1: padding as long as the payload",
            vec![open.clone(), frame(DATA, END_STREAM | PADDED, 1, &padded(5, b"xxxx", 0))],
            Connection(p),
        ),
        ("6.1: padding", vec![open.clone(), frame(DATA, END_STREAM | PADDED, 1, &padded(5, b"xxxx", 5))], Served),
        ("6.2: HEADERS on stream 0", vec![frame(HEADERS, END_STREAM | END_HEADERS, 0, &block)], Connection(p)),
        (
            "6.2: padding longer than the payload",
            vec![frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, &padded(255, &block[..20], 0))],
            Connection(p),
        ),
        ("6.2: padding", vec![frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, &padded(9, &block, 9))], Served),
        (
            "6.2: priority",
            vec![frame(HEADERS, END_STREAM | END_HEADERS | PRIORITISED, 1, &with_priority([0, 0, 0, 0], &block))],
            Served,
        ),
        ("6.3: PRIORITY on stream 0", vec![frame(PRIORITY, 0, 0, &[0, 0, 0, 3, 1])], Connection(p)),
        (
            "6.3: PRIORITY of 4 bytes",
            vec![open.clone(), frame(PRIORITY, 0, 1, &[0, 0, 0, 3])],
            Stream(FRAME_SIZE_ERROR),
        ),
        ("6.4: RST_STREAM on stream 0", vec![frame(RST_STREAM, 0, 0, &[0, 0, 0, 8])], Connection(p)),
        (
            "6.4: RST_STREAM of 3 bytes",
            vec![open.clone(), frame(RST_STREAM, 0, 1, &[0, 0, 8])],
            Connection(FRAME_SIZE_ERROR),
        ),
        ("6.5: SETTINGS on a stream", vec![frame(SETTINGS, 0, 1, &[])], Connection(p)),
        (
            "6.5: acknowledgement with a payload",
            vec![frame(SETTINGS, ACK, 0, &[0, 4, 0, 0, 0, 1])],
            Connection(FRAME_SIZE_ERROR),
        ),
        ("6.5: SETTINGS of 5 bytes", vec![frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0])], Connection(FRAME_SIZE_ERROR)),
        ("6.5.2: ENABLE_PUSH of 2", settings(2, 2), Connection(p)),
        ("6.5.2: INITIAL_WINDOW_SIZE of 2^31", settings(4, 0x8000_0000), Connection(FLOW_CONTROL_ERROR)),
        ("6.5.2: MAX_FRAME_SIZE below 16384", settings(5, 16_383), Connection(p)),
        ("6.5.2: MAX_FRAME_SIZE of 2^24", settings(5, 1 << 24), Connection(p)),
        ("6.5.2: an unknown setting is ignored", vec![setting(0x77, 1), whole.clone()], Served),
        (
            "6.6: PUSH_PROMISE from a client",
            vec![open.clone(), frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2], &block[..]].concat())],
            Connection(p),
        ),
        ("6.7: PING on a stream", vec![frame(PING, 0, 1, &[0; 8])], Connection(p)),
        ("6.7: PING of 7 bytes", vec![frame(PING, 0, 0, &[0; 7])], Connection(FRAME_SIZE_ERROR)),
        ("6.7: an acknowledgement of nothing", vec![frame(PING, ACK, 0, &[0; 8])], Ignored),
        ("6.8: GOAWAY on a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])], Connection(p)),
        ("6.9: WINDOW_UPDATE of 0 for the connection", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])], Connection(p)),
        ("6.9: WINDOW_UPDATE of 0 for a stream", vec![open.clone(), frame(WINDOW_UPDATE, 0, 1, &[0; 4])], Stream(p)),
        ("6.9: WINDOW_UPDATE of 3 bytes", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])], Connection(FRAME_SIZE_ERROR)),
        (
            "6.9.1: a window of the connection past 2^31",
            vec![frame(WINDOW_UPDATE, 0, 0, &max), frame(WINDOW_UPDATE, 0, 0, &max)],
            Connection(FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.1: a stream's window past 2^31",
            vec![open.clone(), frame(WINDOW_UPDATE, 0, 1, &max)],
            Stream(FLOW_CONTROL_ERROR),
        ),
        (
            "6.10: CONTINUATION after the end of a block",
            vec![open.clone(), frame(CONTINUATION, END_HEADERS, 1, &block)],
            Connection(p),
        ),
        ("6.10: CONTINUATION on stream 0", vec![frame(CONTINUATION, END_HEADERS, 0, &block)], Connection(p)),
        (
            "8.1: trailers that do not end the stream",
            vec![open.clone(), frame(DATA, 0, 1, b"x"), frame(HEADERS, END_HEADERS, 1, &frames::block(&[("x", "y")]))],
            Stream(p),
        ),
        (
            "8.1: a pseudo-header in trailers is dropped (by the protocol layer; the RFC asks for a stream error)",
            vec![
                open.clone(),
                frame(DATA, 0, 1, b"x"),
                frame(HEADERS, END_STREAM | END_HEADERS, 1, &frames::block(&[(":path", "/")])),
            ],
            Served,
        ),
        (
            "8.1: trailers",
            vec![
                open.clone(),
                frame(DATA, 0, 1, b"x"),
                frame(HEADERS, END_STREAM | END_HEADERS, 1, &frames::block(&[("x", "y")])),
            ],
            Served,
        ),
    ]
}

#[test]
fn frames_that_break_the_protocol_end_what_rfc_9113_says() -> Result<()> {
    let origin = Origin::http("app")?;
    let siege = Siege::start("", origin.address())?;
    let dial = Dial::to(siege.stand.address("http"));
    let mut wrong = Vec::new();
    for (name, frames, expected) in cases() {
        let mut attacker = Attacker::connect(&dial)?;
        attacker.flood(&frames.concat());
        let (right, found) = match expected {
            Ignored => (attacker.is_alive()?, String::new()),
            Served => {
                let outcome = attacker.outcome(1)?;
                (outcome == Outcome::Status(200), format!("{outcome:?}"))
            }
            Connection(code) => {
                let found = attacker.closed().with_context(|| name.to_owned())?;
                (found.is_none_or(|found| found == code || found == PROTOCOL_ERROR), format!("{found:?}"))
            }
            Stream(code) => {
                let outcome = attacker.outcome(1).with_context(|| name.to_owned())?;
                let right = match outcome {
                    Outcome::Reset(found) => found == code && attacker.is_alive()?,
                    Outcome::Goaway(found) => found == code || found == PROTOCOL_ERROR,
                    // The answer was on its way already.
                    Outcome::Status(_) => code == STREAM_CLOSED && attacker.is_alive()?,
                    Outcome::Closed => false,
                };
                (right, format!("{outcome:?}"))
            }
        };
        if !right {
            wrong.push(format!("{name}: {found}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    siege.end()
}

#[test]
fn a_broken_preface_ends_the_connection() -> Result<()> {
    let origin = Origin::http("app")?;
    let siege = Siege::start("", origin.address())?;
    let table: [(&str, Vec<u8>); 3] = [
        ("something else than SETTINGS first", [PREFACE, &frame(PING, 0, 0, &[0; 8])].concat()),
        ("HTTP/1.1 behind the preface", [PREFACE, b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"].concat()),
        ("an end in mid preface", PREFACE[..20].to_vec()),
    ];
    for (what, bytes) in table {
        let mut client = RawClient::connect(siege.stand.address("http"))?;
        client.send(&bytes)?;
        client.finish()?;
        let answer = client.closed().with_context(|| what.to_owned())?;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{what}: {:?}", String::from_utf8_lossy(&answer));
    }
    siege.end()
}
