//! What SIGTERM does to connections: `Stand::drain` is what it calls.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::{Dial, Tls};
use headwater_testkit::origin::{Origin, RawOrigin, Recorded};
use headwater_testkit::wait;

const SLOW: &str = "GET / HTTP/1.1\r\nHost: slow.test\r\n\r\n";
const QUICK: &str = "GET / HTTP/1.1\r\nHost: quick.test\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(20);

/// A stand with an origin whose answers wait for a message each (`slow.test`), and one that answers (`quick.test`).
struct Scene {
    stand: Stand,
    slow: RawOrigin,
    open: mpsc::Sender<()>,
    _quick: Origin,
}

impl Scene {
    fn new() -> Result<Self> {
        let (open, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let slow = RawOrigin::start(move |conn| {
            while conn.read_request()?.is_some() {
                let passed = gate.lock().map_err(|_| std::io::ErrorKind::Other)?.recv_timeout(wait::DEADLINE);
                passed.map_err(std::io::Error::other)?;
                conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")?;
            }
            Ok(())
        })?;
        let quick = Origin::http("quick")?;
        let stand = Stand::start(&[
            ("gateway.yaml", Stand::gateway("")),
            ("slow.yaml", Stand::app("slow", "slow.test", &[slow.address()])),
            ("quick.yaml", Stand::app("quick", "quick.test", &[quick.address()])),
        ])?;
        Ok(Self { stand, slow, open, _quick: quick })
    }

    fn address(&self) -> SocketAddr {
        self.stand.address("http")
    }

    /// Waits until the slow origin has this many requests.
    fn busy(&self, requests: usize) -> Result<()> {
        let whole = |record: &Recorded| record.bytes.windows(4).any(|window| window == b"\r\n\r\n");
        (0..requests).try_for_each(|index| self.slow.wait_for(index, whole).map(drop))
    }

    /// Drains while `body` runs; true when everything finished, with how long it took.
    fn drain<T>(
        self,
        patience: Duration,
        body: impl FnOnce(&mpsc::Sender<()>) -> Result<T>,
    ) -> Result<(bool, Duration, T)> {
        let Self { mut stand, open, .. } = self;
        std::thread::scope(|scope| {
            let draining = scope.spawn(move || {
                let started = Instant::now();
                let finished = stand.drain(patience);
                (finished, started.elapsed())
            });
            let result = body(&open);
            // Whatever body left waiting goes on, so that a failure does not take as long as the patience.
            for _ in 0..8 {
                // The origin may have ended.
                let _ = open.send(());
            }
            let (finished, took) = draining.join().expect("draining does not panic");
            Ok((finished, took, result?))
        })
    }
}

fn refused(address: SocketAddr) -> Result<()> {
    wait::until(wait::DEADLINE, || RawClient::connect(address).is_err()).context("new connections are refused")
}

#[test]
fn running_requests_finish_and_idle_connections_close() -> Result<()> {
    let scene = Scene::new()?;
    let address = scene.address();
    let mut idle = RawClient::connect(address)?;
    assert_eq!(idle.request(QUICK)?.status, 200);
    let mut secure = RawClient::open(&Dial::to(scene.stand.address("https")).tls(Tls::new("quick.test")))?;
    assert_eq!(secure.request(QUICK)?.status, 200);
    let mut busy = RawClient::connect(address)?;
    busy.send(SLOW)?;
    scene.busy(1)?;
    let mut uploading = RawClient::connect(address)?;
    uploading.send("POST / HTTP/1.1\r\nHost: quick.test\r\nContent-Length: 10\r\n\r\n12345")?;
    let mut silent = RawClient::connect(address)?;
    let (finished, _, ()) = scene.drain(PATIENCE, |open| {
        refused(address)?;
        assert_eq!(idle.read_to_end().context("idle")?, b"", "closed in order, nothing said");
        assert_eq!(secure.read_to_end().context("idle over TLS")?, b"", "close_notify and FIN");
        let answer = silent.request(QUICK).context("let in before the drain")?;
        assert_eq!((answer.status, answer.header("connection").as_deref()), (200, Some("close")));
        silent.closed()?;
        uploading.send("67890")?;
        assert_eq!(uploading.read_response()?.seen()?.0["body_bytes"], 10);
        uploading.closed()?;
        open.send(())?;
        let answer = busy.read_response()?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
        assert_eq!(answer.header("connection").as_deref(), Some("close"));
        busy.read_to_end()?;
        Ok(())
    })?;
    assert!(finished);
    Ok(())
}

#[test]
fn a_gateway_without_requests_ends_at_once() -> Result<()> {
    let scene = Scene::new()?;
    let mut idle = RawClient::connect(scene.address())?;
    assert_eq!(idle.request(QUICK)?.status, 200);
    let (finished, took, ()) = scene.drain(PATIENCE, |_| idle.closed().map(drop))?;
    assert!(finished);
    assert!(took < PATIENCE / 2, "{took:?}");
    Ok(())
}

#[test]
fn the_deadline_cuts_off_what_still_runs() -> Result<()> {
    let scene = Scene::new()?;
    let mut busy = RawClient::connect(scene.address())?;
    busy.send(SLOW)?;
    scene.busy(1)?;
    let patience = Duration::from_millis(300);
    let (finished, took, rest) = scene.drain(patience, |_| busy.closed())?;
    assert!(!finished);
    assert!(took >= patience, "{took:?}");
    assert_eq!(rest, b"", "no half answer");
    Ok(())
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// An HTTP/2 connection, frame by frame.
struct Frames(RawClient);

impl Frames {
    fn connect(address: SocketAddr) -> Result<Self> {
        let mut frames = Self(RawClient::connect(address)?);
        frames.0.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        frames.send(SETTINGS, 0, 0, &[])?;
        Ok(frames)
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        let length = u32::try_from(payload.len())?.to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.0.send(bytes)
    }

    /// GET / of `slow.test`.
    fn get(&mut self, stream: u32) -> Result<()> {
        let mut block = vec![0x82, 0x86, 0x84, 0x01, 9];
        block.extend(b"slow.test");
        self.send(HEADERS, 0x4 | END_STREAM, stream, &block)
    }

    fn read(&mut self) -> Result<Frame> {
        let head = self.0.read_exact(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok(Frame { kind: head[3], flags: head[4], stream, payload: self.0.read_exact(length)? })
    }

    /// The next frame of that kind; settings and pings before it are acknowledged, others passed over.
    fn next(&mut self, kind: u8) -> Result<Frame> {
        loop {
            let frame = self.read()?;
            if matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK == 0 {
                let payload = if frame.kind == PING { &frame.payload[..] } else { &[] };
                self.send(frame.kind, ACK, 0, payload)?;
            }
            if frame.kind == kind {
                return Ok(frame);
            }
            ensure!(matches!(frame.kind, SETTINGS | PING | 8), "frame of kind {} before {kind}", frame.kind);
        }
    }
}

/// Last stream that will be served, and the error code.
fn goodbye(frame: &Frame) -> Result<(u32, u32)> {
    let [a, b, c, d, e, f, g, h, ..] = frame.payload[..] else { bail!("GOAWAY of {} bytes", frame.payload.len()) };
    Ok((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])))
}

#[test]
fn http2_says_goodbye_and_finishes_its_streams() -> Result<()> {
    let scene = Scene::new()?;
    let address = scene.address();
    let mut frames = Frames::connect(address)?;
    frames.next(SETTINGS)?;
    frames.get(1)?;
    scene.busy(1)?;
    let (finished, _, ()) = scene.drain(PATIENCE, |open| {
        // First a warning, so that streams on their way are not lost; then the truth (RFC 9113 section 6.8).
        assert_eq!(goodbye(&frames.next(GOAWAY)?)?, (u32::MAX >> 1, 0));
        frames.get(3)?;
        let (last, code) = goodbye(&frames.next(GOAWAY)?)?;
        assert_eq!(code, 0);
        assert_eq!(last, 3, "the stream that crossed the warning counts");
        let mut done = Vec::new();
        while done.len() < 2 {
            open.send(())?;
            let head = frames.next(HEADERS)?;
            let mut content: Vec<u8> = Vec::new();
            loop {
                let data = frames.next(DATA)?;
                assert_eq!(data.stream, head.stream, "one answer after the other");
                content.extend(&data.payload);
                if data.flags & END_STREAM != 0 {
                    break;
                }
            }
            assert_eq!(content, b"done");
            done.push(head.stream);
        }
        done.sort_unstable();
        assert_eq!(done, [1, 3]);
        frames.0.closed()?;
        Ok(())
    })?;
    assert!(finished);
    Ok(())
}

#[test]
fn an_idle_http2_connection_ends_with_goodbye() -> Result<()> {
    let scene = Scene::new()?;
    let mut frames = Frames::connect(scene.address())?;
    frames.next(SETTINGS)?;
    let (finished, took, ()) = scene.drain(PATIENCE, |_| {
        assert_eq!(goodbye(&frames.next(GOAWAY)?)?.1, 0);
        assert_eq!(goodbye(&frames.next(GOAWAY)?)?, (0, 0));
        frames.0.closed().map(drop)
    })?;
    assert!(finished);
    assert!(took < PATIENCE / 2, "{took:?}");
    Ok(())
}

#[test]
fn an_http2_client_that_ignores_the_goodbye_is_cut_off_at_the_deadline() -> Result<()> {
    let scene = Scene::new()?;
    let mut frames = Frames::connect(scene.address())?;
    frames.next(SETTINGS)?;
    frames.get(1)?;
    scene.busy(1)?;
    let (finished, _, ()) = scene.drain(Duration::from_millis(300), |_| frames.0.closed().map(drop))?;
    assert!(!finished);
    Ok(())
}
