//! A small blocking HTTP/1.1 client: readiness, route edits, and the connections of the memory case.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Longest silence of a server.
const SILENCE: Duration = Duration::from_secs(10);

/// A keep-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What of a response matters here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// X-Origin: which origin answered.
    pub(crate) origin: Option<String>,
    pub(crate) length: usize,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, SILENCE).with_context(|| address.to_string())?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends a GET and reads the whole response; the body is dropped.
    ///
    /// # Errors
    /// When the connection ends early, or a response has neither Content-Length nor chunks.
    pub(crate) fn get(&mut self, host: &str, path: &str) -> Result<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: headwater-bench\r\n\r\n");
        self.stream.write_all(request.as_bytes())?;
        self.buffer.clear();
        let mut chunk = [0; 16 << 10];
        let end = loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                bail!("connection closed before a response");
            }
            self.buffer.extend_from_slice(&chunk[..read]);
        };
        let head = std::str::from_utf8(&self.buffer[..end])?;
        let answer = parse_head(head).with_context(|| format!("response: {head}"))?;
        let mut missing = answer.length.saturating_sub(self.buffer.len() - end - 4);
        while missing > 0 {
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                bail!("connection closed {missing} bytes before the end of a body");
            }
            missing = missing.saturating_sub(read);
        }
        Ok(answer)
    }
}

fn parse_head(head: &str) -> Option<Answer> {
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let value = |name: &str| {
        let mut fields = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let length = value("content-length")?.parse().ok()?;
    Some(Answer { status, origin: value("x-origin").map(str::to_owned), length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_head_yields_status_origin_and_length() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\nX-Origin: b";
        assert_eq!(parse_head(head), Some(Answer { status: 200, origin: Some("b".to_owned()), length: 100 }));
        assert_eq!(parse_head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"), None);
    }
}
