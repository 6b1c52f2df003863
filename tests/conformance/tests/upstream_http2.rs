//! HTTP/2 connections to endpoints: shared, left in time, and given back.

use std::io::{self, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::origin::{RawConn, RawOrigin};
use headwater_testkit::wait;

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END: u8 = 0x4 | 0x1;
/// `:status: 200` of the static table (RFC 7541 appendix A).
const STATUS_200: &[u8] = &[0x88];

const GET: &str = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";

fn send(conn: &mut RawConn, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?.to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    conn.write_all(&frame)
}

/// Greets, and calls `request` with each stream that a request opens, until the gateway leaves.
fn serve(conn: &mut RawConn, mut request: impl FnMut(&mut RawConn, u32) -> io::Result<()>) -> io::Result<()> {
    conn.take(24)?;
    send(conn, SETTINGS, 0, 0, &[])?;
    loop {
        let head = match conn.take(9) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            head => head?,
        };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = conn.take(length)?;
        match head[3] {
            SETTINGS if head[4] & ACK == 0 => send(conn, SETTINGS, ACK, 0, &[])?,
            PING if head[4] & ACK == 0 => send(conn, PING, ACK, 0, &payload)?,
            GOAWAY => return Ok(()),
            HEADERS => request(conn, stream)?,
            _ => {}
        }
    }
}

fn goodbye(conn: &mut RawConn, last: u32) -> io::Result<()> {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend([0; 4]);
    send(conn, GOAWAY, 0, 0, &payload)
}

fn stand(spec: &str, endpoint: SocketAddr) -> Result<Stand> {
    let app = format!(
        "{}---\n{}",
        Stand::ingress("app", "app.test", "/", "app"),
        Stand::service("app", "kubernetes.io/h2c", &[endpoint])
    );
    // All streams of a worker share its connections: one client has one worker.
    Stand::start(&[("gateway.yaml", Stand::gateway(spec)), ("app.yaml", app)])
}

/// gRPC servers leave a connection after a time, while a long call goes on.
#[test]
fn an_endpoint_that_says_goodbye_gets_no_more_requests_on_that_connection() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        let index = conn.index();
        let mut streams = 0;
        serve(conn, |conn, stream| {
            streams += 1;
            match (index, streams) {
                // The first stream of the first connection stays open; the second one is the last.
                (0, 1) => Ok(()),
                (0, _) => {
                    goodbye(conn, stream)?;
                    send(conn, HEADERS, END, stream, STATUS_200)
                }
                _ => send(conn, HEADERS, END, stream, STATUS_200),
            }
        })
    })?;
    // Without retries nothing hides a request on the wrong connection.
    let stand = stand("retries: {attempts: 1}", origin.address())?;
    let address = stand.address("http");
    // Streams of one downstream connection run on one worker, each in its turn.
    let mut client = frames::Client::connect(address)?;
    client.get()?;
    origin.wait_for(0, |record| record.bytes.len() > 24 + 9)?;
    for turn in 0..5 {
        let stream = client.get()?;
        assert_eq!(client.status(stream)?, 200, "request {turn} beside the long one");
    }
    assert_eq!(origin.connections().len(), 2);
    Ok(())
}

#[test]
fn an_idle_connection_is_closed_after_its_time() -> Result<()> {
    let origin = RawOrigin::start(|conn| serve(conn, |conn, stream| send(conn, HEADERS, END, stream, STATUS_200)))?;
    let stand = stand("upstream: {idleTimeout: 100ms}", origin.address())?;
    let mut client = RawClient::connect(stand.address("http"))?;
    assert_eq!(client.request(GET)?.status, 200);
    let record = origin.wait_for(0, |record| record.ended.is_some()).context("idle for longer than 100 ms")?;
    assert_eq!(record.ended, Some(Ok(())));
    assert_eq!(client.request(GET)?.status, 200, "the next request connects anew");
    wait::until(wait::DEADLINE, || origin.connections().len() == 2)
}

/// A client of HTTP/2, frame by frame, so that streams can be left open.
mod frames {
    use super::*;

    pub(super) struct Client {
        raw: RawClient,
        next: u32,
    }

    impl Client {
        pub(super) fn connect(address: SocketAddr) -> Result<Self> {
            let mut client = Self { raw: RawClient::connect(address)?, next: 1 };
            client.raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
            client.send(SETTINGS, 0, 0, &[])?;
            Ok(client)
        }

        fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
            let length = u32::try_from(payload.len())?.to_be_bytes();
            let mut frame = vec![length[1], length[2], length[3], kind, flags];
            frame.extend(stream.to_be_bytes());
            frame.extend(payload);
            self.raw.send(frame)
        }

        /// Opens a stream with a GET, and returns its number.
        pub(super) fn get(&mut self) -> Result<u32> {
            let stream = self.next;
            self.next += 2;
            let mut block = vec![0x82, 0x86, 0x84, 0x01, 8];
            block.extend(b"app.test");
            self.send(HEADERS, END, stream, &block)?;
            Ok(stream)
        }

        /// Status of the answer on a stream, which must come before that of any other.
        pub(super) fn status(&mut self, wanted: u32) -> Result<u16> {
            loop {
                let head = self.raw.read_exact(9)?;
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                let payload = self.raw.read_exact(length)?;
                match head[3] {
                    SETTINGS if head[4] & ACK == 0 => self.send(SETTINGS, ACK, 0, &[])?,
                    HEADERS => {
                        assert_eq!(stream, wanted, "an answer on another stream");
                        // A size update of the table may come first (RFC 7541 section 6.3).
                        let status = payload.iter().find(|byte| **byte & 0xe0 != 0x20);
                        // The static table has 200, 204, 206, 304, 400, 404 and 500.
                        let known = [200, 204, 206, 304, 400, 404, 500];
                        let index = status.and_then(|byte| byte.checked_sub(0x88)).map(usize::from);
                        return Ok(index.and_then(|index| known.get(index).copied()).unwrap_or(0));
                    }
                    3 => anyhow::bail!("stream {stream} was reset"),
                    _ => {}
                }
            }
        }
    }
}
