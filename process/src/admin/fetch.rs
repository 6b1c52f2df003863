//! The client of the admin server, for command lines.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Connecting, and each pause of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A dump of 50,000 routes has some tens of MiB.
const MAX_ANSWER: u64 = 512 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    #[error("no headwater answers at {address} (is it running, and is this its admin address)")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("the answer of {address} ended early")]
    Read { address: SocketAddr, source: io::Error },
    #[error("what answers at {address} is not a headwater admin server")]
    NotHttp { address: SocketAddr },
    #[error("{path} answered {status}: {body}")]
    Status { path: String, status: u16, body: String },
}

/// The body of `GET path`, blocking.
///
/// # Errors
/// [`FetchError`]; any status but 200 is one, with the reason that the server gave.
pub fn fetch(address: SocketAddr, path: &str) -> Result<String, FetchError> {
    let mut answer = Vec::new();
    let mut stream =
        TcpStream::connect_timeout(&address, PATIENCE).map_err(|source| FetchError::Connect { address, source })?;
    let exchange = |stream: &mut TcpStream, answer: &mut Vec<u8>| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // HTTP/1.0: one answer, never chunked, then the end.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
        stream.take(MAX_ANSWER).read_to_end(answer)
    };
    exchange(&mut stream, &mut answer).map_err(|source| FetchError::Read { address, source })?;

    let not_http = || FetchError::NotHttp { address };
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(not_http)?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| not_http())?;
    let mut lines = head.split("\r\n");
    let status: u16 = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok())
        .ok_or_else(not_http)?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    let body = answer.split_off(end + 4);
    if length.is_some_and(|length| length != body.len()) {
        return Err(FetchError::Read { address, source: io::ErrorKind::UnexpectedEof.into() });
    }
    let body = String::from_utf8(body).map_err(|_| not_http())?;
    match status {
        200 => Ok(body),
        _ => Err(FetchError::Status { path: path.to_owned(), status, body: body.trim_end().to_owned() }),
    }
}
