//! HTTP/2 as an attacker writes it: any frame, any header block.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io;

use anyhow::{Context, Result, bail};
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Also ACK, of SETTINGS and PING.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const PRIORITISED: u8 = 0x20;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What became of a stream, or of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A response with this status; 0 when the header block refers to an earlier one.
    Status(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with a code other than 0.
    Goaway(u32),
    /// The connection ended without a word.
    Closed,
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a payload is shorter than 16 MiB").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A string as HPACK writes it without Huffman code: RFC 7541 section 5.2.
fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, 0, 7, text.len());
    out.extend(text);
}

/// An integer behind `first`, whose low `bits` it begins in: RFC 7541 section 5.1.
pub(crate) fn integer(out: &mut Vec<u8>, first: u8, bits: u8, value: usize) {
    let most = (1_usize << bits) - 1;
    if value < most {
        out.push(first | value as u8);
        return;
    }
    out.push(first | most as u8);
    let mut rest = value - most;
    while rest >= 128 {
        out.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    out.push(rest as u8);
}

/// Adds a line as literal without indexing: RFC 7541 section 6.2.2.
pub(crate) fn literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    string(out, name);
    string(out, value);
}

/// Adds a line as literal with incremental indexing: RFC 7541 section 6.2.1. It is entry 62 from then on.
pub(crate) fn indexed_literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0x40);
    string(out, name);
    string(out, value);
}

/// A header block of literals.
pub(crate) fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(lines: &[(N, V)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in lines {
        literal(&mut out, name.as_ref(), value.as_ref());
    }
    out
}

/// The block of `GET path` at a host, with more lines.
pub(crate) fn get(host: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    request("GET", host, path, more)
}

/// The block of a request with more lines.
pub(crate) fn request(method: &str, host: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut lines = vec![(":method", method), (":scheme", "http"), (":authority", host), (":path", path)];
    lines.extend(more);
    block(&lines)
}

/// `:status` at the start of a response's block.
fn status(block: &[u8]) -> u16 {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [indexed @ 0x88..=0x8e, ..] => STATIC[usize::from(indexed - 0x88)],
        [0x48 | 0x08, length, text @ ..] => {
            let Some(text) = text.get(..usize::from(length & 0x7f)) else { return 0 };
            if length & 0x80 == 0 {
                return std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            }
            // Huffman codes of digits: five bits for 0 to 2, six for the others (RFC 7541 appendix B).
            let bits: u64 = text.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte));
            let (mut left, mut value) = (text.len().min(8) * 8, 0);
            for _ in 0..3 {
                let five = (bits >> (left - 5) & 31) as u16;
                let digit = if five < 3 { five } else { (bits >> (left - 6) & 63) as u16 - 0x19 + 3 };
                left -= if five < 3 { 5 } else { 6 };
                value = value * 10 + digit;
            }
            value
        }
        _ => 0,
    }
}

/// A frame as received.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// One connection.
pub(crate) struct Attacker {
    client: RawClient,
}

impl Attacker {
    /// Connects, sends the preface and empty SETTINGS, and opens the window of the connection for all that may come.
    pub(crate) fn connect(dial: &Dial) -> Result<Self> {
        let mut this = Self { client: RawClient::open(dial)? };
        let mut start = PREFACE.to_vec();
        start.extend(frame(SETTINGS, 0, 0, &[]));
        start.extend(frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
        this.send(&start)?;
        Ok(this)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.client.send(bytes)
    }

    /// Sends as much as the server takes before it closes the connection.
    pub(crate) fn flood(&mut self, bytes: &[u8]) {
        // A server that has heard enough resets the connection: that is an outcome, which reading will show.
        let _ = self.client.send(bytes);
    }

    /// Sends HEADERS in one frame.
    pub(crate) fn headers(&mut self, stream: u32, flags: u8, block: &[u8]) -> Result<()> {
        self.send(&frame(HEADERS, flags | END_HEADERS, stream, block))
    }

    /// The next frame, `None` at the end of the connection. SETTINGS and PING are acknowledged.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>> {
        let head = match self.client.read_exact(9) {
            Ok(head) => head,
            Err(error) => return ended(error),
        };
        let length = number(&[0, head[0], head[1], head[2]]) as usize;
        let payload = match self.client.read_exact(length) {
            Ok(payload) => payload,
            Err(error) => return ended(error),
        };
        let frame = Frame { kind: head[3], flags: head[4], stream: number(&head[5..]) & 0x7fff_ffff, payload };
        if frame.kind == SETTINGS && frame.flags & ACK == 0 {
            self.flood(&self::frame(SETTINGS, ACK, 0, &[]));
        }
        if frame.kind == PING && frame.flags & ACK == 0 {
            self.flood(&self::frame(PING, ACK, 0, &frame.payload));
        }
        Ok(Some(frame))
    }

    /// Waits until something is decided about a stream.
    pub(crate) fn outcome(&mut self, stream: u32) -> Result<Outcome> {
        loop {
            let Some(frame) = self.next().with_context(|| format!("nothing became of stream {stream}"))? else {
                return Ok(Outcome::Closed);
            };
            match frame.kind {
                HEADERS if frame.stream == stream => return Ok(Outcome::Status(status(&frame.payload))),
                RST_STREAM if frame.stream == stream => return Ok(Outcome::Reset(number(&frame.payload))),
                GOAWAY if number(&frame.payload[4..]) != 0 => {
                    return Ok(Outcome::Goaway(number(&frame.payload[4..])));
                }
                _ => {}
            }
        }
    }

    /// Whether the connection answers a PING: it works, and all frames before were read.
    pub(crate) fn is_alive(&mut self) -> Result<bool> {
        self.flood(&frame(PING, 0, 0, b"alive?!!"));
        while let Some(frame) = self.next()? {
            match frame.kind {
                PING if frame.flags & ACK != 0 && frame.payload == b"alive?!!" => return Ok(true),
                GOAWAY if number(&frame.payload[4..]) != 0 => return Ok(false),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Waits until the server has closed the connection; returns the code of its last GOAWAY.
    pub(crate) fn closed(&mut self) -> Result<Option<u32>> {
        let mut code = None;
        while let Some(frame) = self.next().context("connection is still open")? {
            if frame.kind == GOAWAY {
                code = Some(number(&frame.payload[4..]));
            }
        }
        Ok(code)
    }
}

/// A connection that ended is `None`; a deadline that passed is an error.
fn ended<T>(error: anyhow::Error) -> Result<Option<T>> {
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
        bail!(error);
    }
    Ok(None)
}
