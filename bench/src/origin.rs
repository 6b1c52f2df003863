//! The origin server: canned responses from one epoll loop, so that it costs the load's core as little as can be.
//!
//! The last element of the path picks the body: `1k`, `1m`, anything else 100 B. HTTP/1.1 keep-alive and pipelining;
//! `Connection: close` and HTTP/1.0 close after the response; a request body with a Content-Length is read and dropped.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;

/// Longest request head; a longer one closes the connection.
const HEAD_LIMIT: usize = 64 << 10;

/// `EventData` of the listener; connections have their slot.
const LISTENER: u64 = u64::MAX;

/// Head and body of each response, ready to send.
struct Canned {
    small: Vec<u8>,
    kilobyte: Vec<u8>,
    megabyte: Vec<u8>,
}

impl Canned {
    fn new(name: &str) -> Self {
        let response = |length: usize| {
            let mut bytes = format!(
                "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
                 Cache-Control: no-store\r\nX-Origin: {name}\r\n\r\n"
            )
            .into_bytes();
            bytes.resize(bytes.len() + length, b'x');
            bytes
        };
        Self { small: response(100), kilobyte: response(1 << 10), megabyte: response(1 << 20) }
    }

    fn pick(&self, target: &[u8]) -> &[u8] {
        let path = target.split(|&byte| byte == b'?').next().unwrap_or(target);
        match path {
            _ if path.ends_with(b"/1k") => &self.kilobyte,
            _ if path.ends_with(b"/1m") => &self.megabyte,
            _ => &self.small,
        }
    }
}

struct Connection<'a> {
    stream: TcpStream,
    input: Vec<u8>,
    /// Bytes of a request body that are still to come and to be dropped.
    skip: usize,
    output: &'a [u8],
    close: bool,
    wants_write: bool,
}

/// Serves for ever.
///
/// # Errors
/// When `listen` cannot be bound, or epoll fails.
pub(crate) fn serve(listen: SocketAddr, name: &str) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("origin {listen}"))?;
    serve_on(&listener, &Canned::new(name))
}

fn serve_on(listener: &TcpListener, canned: &Canned) -> Result<()> {
    listener.set_nonblocking(true)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut connections: Vec<Option<Connection<'_>>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut events = Vec::with_capacity(256);
    let mut scratch = vec![0; 16 << 10];
    loop {
        match epoll::wait(&poll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            if event.data.u64() == LISTENER {
                accept(listener, &poll, &mut connections, &mut free)?;
                continue;
            }
            let slot = usize::try_from(event.data.u64())?;
            let Some(connection) = connections[slot].as_mut() else { continue };
            if connection.advance(canned, &mut scratch).is_err() {
                connections[slot] = None;
                free.push(slot);
                continue;
            }
            let wants_write = !connection.output.is_empty();
            if wants_write != connection.wants_write {
                connection.wants_write = wants_write;
                let flags = if wants_write { EventFlags::OUT } else { EventFlags::IN };
                epoll::modify(&poll, &connection.stream, event.data, flags)?;
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    poll: &OwnedFd,
    connections: &mut Vec<Option<Connection<'_>>>,
    free: &mut Vec<usize>,
) -> Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error).context("origin accepts"),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let slot = free.pop().unwrap_or_else(|| {
            connections.push(None);
            connections.len() - 1
        });
        epoll::add(poll, &stream, EventData::new_u64(slot as u64), EventFlags::IN)?;
        connections[slot] = Some(Connection {
            stream,
            input: Vec::with_capacity(1 << 10),
            skip: 0,
            output: &[],
            close: false,
            wants_write: false,
        });
    }
}

/// The connection is over: closed by either side, or not HTTP.
struct Over;

impl<'a> Connection<'a> {
    /// One read, then an answer to each request that is complete, until a write would block.
    ///
    /// epoll is level-triggered: what a single read left behind brings another event, and the usual request costs no
    /// read that finds nothing.
    fn advance(&mut self, canned: &'a Canned, scratch: &mut [u8]) -> Result<(), Over> {
        if !self.wants_write {
            self.fill(scratch)?;
        }
        loop {
            self.flush()?;
            if !self.output.is_empty() {
                return Ok(());
            }
            if self.close {
                return Err(Over);
            }
            if !self.answer(canned)? {
                return Ok(());
            }
        }
    }

    fn flush(&mut self) -> Result<(), Over> {
        while !self.output.is_empty() {
            match self.stream.write(self.output) {
                Ok(0) => return Err(Over),
                Ok(written) => self.output = &self.output[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Over),
            }
        }
        Ok(())
    }

    fn fill(&mut self, scratch: &mut [u8]) -> Result<(), Over> {
        match self.stream.read(scratch) {
            Ok(0) => Err(Over),
            Ok(read) => {
                self.input.extend_from_slice(&scratch[..read]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(Over),
        }
    }

    /// Takes one request off the input; false when it is not complete.
    fn answer(&mut self, canned: &'a Canned) -> Result<bool, Over> {
        let skipped = self.skip.min(self.input.len());
        self.input.drain(..skipped);
        self.skip -= skipped;
        let Some(end) = memchr::memmem::find(&self.input, b"\r\n\r\n") else {
            return if self.input.len() > HEAD_LIMIT { Err(Over) } else { Ok(false) };
        };
        let head = Head::parse(&self.input[..end]).ok_or(Over)?;
        self.output = canned.pick(head.target);
        self.close = head.close;
        self.skip = head.content_length;
        self.input.drain(..end + 4);
        Ok(true)
    }
}

struct Head<'a> {
    target: &'a [u8],
    close: bool,
    content_length: usize,
}

impl<'a> Head<'a> {
    /// `None` for what this origin does not serve: no request line, or a chunked body.
    fn parse(head: &'a [u8]) -> Option<Self> {
        let mut lines = head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut request_line = lines.next()?.split(|&byte| byte == b' ');
        let (_method, target, version) = (request_line.next()?, request_line.next()?, request_line.next()?);
        let mut parsed = Self { target, close: version == b"HTTP/1.0", content_length: 0 };
        for line in lines {
            let colon = memchr::memchr(b':', line)?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"connection") && value.eq_ignore_ascii_case(b"close") {
                parsed.close = true;
            } else if name.eq_ignore_ascii_case(b"content-length") {
                parsed.content_length = std::str::from_utf8(value).ok()?.parse().ok()?;
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                return None;
            }
        }
        Some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &[u8], responses: &[usize]) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || serve_on(&listener, &Canned::new("a")).unwrap());
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request).unwrap();
        let canned = Canned::new("a");
        let heads = canned.small.len() - 100;
        let expected: usize = responses.iter().map(|body| body + heads + body.to_string().len() - 3).sum();
        let mut received = vec![0; expected];
        stream.read_exact(&mut received).unwrap();
        if request.windows(5).any(|window| window == b"close") {
            assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "the connection is closed after the response");
        }
        received
    }

    #[test]
    fn the_last_path_element_picks_the_body() {
        for (path, length) in [("/x", 100), ("/1k?x", 1 << 10), ("/a/1m", 1 << 20), ("/1k/x", 100)] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let received = ask(request.as_bytes(), &[length]);
            assert!(received.ends_with(b"xxx"), "{path}");
        }
    }

    #[test]
    fn pipelined_requests_and_request_bodies_are_served_in_order() {
        let request = b"POST /1k HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        ask(request, &[1 << 10, 100]);
    }

    #[test]
    fn close_is_asked_for_by_header_or_by_http_1_0() {
        for (head, close) in [
            (&b"GET / HTTP/1.1\r\nHost: a"[..], false),
            (b"GET / HTTP/1.1\r\nconnection:  Close ", true),
            (b"GET / HTTP/1.0\r\nHost: a", true),
        ] {
            assert_eq!(Head::parse(head).unwrap().close, close);
        }
        assert!(Head::parse(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked").is_none());
    }
}
