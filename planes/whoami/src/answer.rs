//! What a request asks for, and what it is told.
//!
//! | path or parameter | answer |
//! |---|---|
//! | anything | 200 and the report as JSON; `?format=text` for lines of text |
//! | `/status/NNN` | the same with that status, 200 to 599 |
//! | `/echo` | the request body as it arrives, and its trailers |
//! | `?delay=MS` | waits before the head, at most 60,000 |
//! | `?bytes=N` | N bytes of digits with Content-Length, at most 1 GiB |
//! | `?chunked=N&pieces=K` | N bytes in K chunks (HTTP/2: DATA frames) without a length |
//! | `?close` | no length: the end of the connection ends the body (HTTP/1) |
//! | `?trailers` | trailers `x-whoami-name` and `x-whoami-body-bytes` behind the body |
//! | `?header=Name:Value` | one more response header; may be repeated; percent-encoding is decoded |
//! | `?fail=reset` | no answer: TCP reset (HTTP/2: RST_STREAM) |
//! | `?fail=close` | no answer: orderly end of the connection |
//! | `?fail=partial` | announces more body than it sends, then closes (HTTP/2: RST_STREAM) |
//!
//! A value that does not fit is answered with 400 and says which.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde::Serialize;

use crate::proxy::ProxyHeader;

const MAX_DELAY_MS: u64 = 60_000;
const MAX_BODY: u64 = 1 << 30;
const MAX_PIECES: u64 = 100_000;
const MAX_PIECE: u64 = 1 << 20;
/// Bodies of digits are sent in slices of at most this many bytes, a multiple of ten.
const SLICE: u64 = 16_000;

/// Names and values in order, as text: UTF-8 when valid, else one character per byte.
pub(crate) type Fields = Vec<(String, String)>;

/// What is known of a connection before its first request.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) name: String,
    /// Number of the connection within the instance, from 1.
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) proxy: Option<ProxyHeader>,
    pub(crate) tls: Option<Tls>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Tls {
    pub(crate) sni: Option<String>,
    pub(crate) alpn: Option<String>,
    pub(crate) version: &'static str,
}

/// The answer's content. Field names are the JSON keys.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    pub(crate) name: &'a str,
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) proto: &'a str,
    pub(crate) host: Option<&'a str>,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) connection: u64,
    pub(crate) proxy: Option<&'a ProxyHeader>,
    pub(crate) tls: Option<&'a Tls>,
    pub(crate) headers: &'a Fields,
    pub(crate) body_bytes: u64,
    pub(crate) trailers: &'a Fields,
}

/// A request as both HTTP versions see it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) proto: &'static str,
    pub(crate) host: Option<String>,
    pub(crate) headers: Fields,
}

impl Request {
    pub(crate) fn report<'a>(
        &'a self,
        connection: &'a Arc<Connection>,
        body_bytes: u64,
        trailers: &'a Fields,
    ) -> Report<'a> {
        Report {
            name: &connection.name,
            method: &self.method,
            target: &self.target,
            proto: self.proto,
            host: self.host.as_deref(),
            peer: connection.peer,
            local: connection.local,
            connection: connection.id,
            proxy: connection.proxy.as_ref(),
            tls: connection.tls.as_ref(),
            headers: &self.headers,
            body_bytes,
            trailers,
        }
    }
}

impl Report<'_> {
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("a report has only string keys")
    }

    fn text(&self) -> String {
        use std::fmt::Write;
        let mut out = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            writeln!(out, "{name}: {value}").expect("writing to a string succeeds");
        };
        line("name", &self.name);
        line("request", &format_args!("{} {} {}", self.method, self.target, self.proto));
        line("host", &self.host.unwrap_or("-"));
        line("peer", &self.peer);
        line("local", &self.local);
        if let Some(proxy) = self.proxy {
            let source = proxy.source.map_or_else(|| "-".to_owned(), |address| address.to_string());
            line("proxy", &format_args!("v{} {} {} {source}", proxy.version, proxy.command, proxy.family));
        }
        if let Some(tls) = self.tls {
            let (sni, alpn) = (tls.sni.as_deref().unwrap_or("-"), tls.alpn.as_deref().unwrap_or("-"));
            line("tls", &format_args!("{} sni={sni} alpn={alpn}", tls.version));
        }
        for (name, value) in self.headers {
            line("header", &format_args!("{name}: {value}"));
        }
        line("body_bytes", &self.body_bytes);
        for (name, value) in self.trailers {
            line("trailer", &format_args!("{name}: {value}"));
        }
        out
    }
}

/// A header value as text.
pub(crate) fn as_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fail {
    Reset,
    Close,
    Partial,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length,
    Pieces(u64),
    UntilClose,
}

/// What a request asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) echo: bool,
    pub(crate) status: u16,
    pub(crate) delay: Duration,
    /// Bytes of digits in place of the report.
    pub(crate) digits: Option<u64>,
    pub(crate) framing: Framing,
    pub(crate) trailers: bool,
    pub(crate) text: bool,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) fail: Option<Fail>,
}

impl Wanted {
    /// Parses the path and query of a request target, origin form or absolute form.
    ///
    /// # Errors
    /// A sentence for the client, naming the parameter.
    pub(crate) fn parse(target: &str) -> Result<Self, String> {
        let mut wanted = Self {
            echo: false,
            status: 200,
            delay: Duration::ZERO,
            digits: None,
            framing: Framing::Length,
            trailers: false,
            text: false,
            headers: Vec::new(),
            fail: None,
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = match path.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
            None => path,
        };
        if let Some(status) = path.strip_prefix("/status/") {
            wanted.status = number("status", status, 599)? as u16;
            if wanted.status < 200 {
                return Err(format!("status: {status} is not between 200 and 599"));
            }
        }
        wanted.echo = path == "/echo";
        let mut pieces = None;
        let mut chunked = false;
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "delay" => wanted.delay = Duration::from_millis(number(name, value, MAX_DELAY_MS)?),
                "bytes" => wanted.digits = Some(number(name, value, MAX_BODY)?),
                "chunked" => {
                    chunked = true;
                    wanted.digits = Some(number(name, value, MAX_BODY)?);
                }
                "pieces" => pieces = Some(number(name, value, MAX_PIECES)?),
                "close" => wanted.framing = Framing::UntilClose,
                "trailers" => wanted.trailers = true,
                "format" if value == "text" => wanted.text = true,
                "format" if value == "json" => wanted.text = false,
                "fail" => {
                    wanted.fail = Some(match value {
                        "reset" => Fail::Reset,
                        "close" => Fail::Close,
                        "partial" => Fail::Partial,
                        _ => return Err(format!("fail: {value:?} is not reset, close or partial")),
                    });
                }
                "header" => wanted.headers.push(header(value)?),
                "format" => return Err(format!("format: {value:?} is not json or text")),
                _ => {}
            }
        }
        if chunked || pieces.is_some() {
            wanted.framing = Framing::Pieces(pieces.unwrap_or(1).max(1));
        } else if wanted.trailers && wanted.framing == Framing::Length {
            wanted.framing = Framing::Pieces(1);
        }
        Ok(wanted)
    }

    /// Content type and content of the answer.
    pub(crate) fn body(&self, report: &Report<'_>) -> (&'static str, Body) {
        match self.digits {
            Some(bytes) => ("application/octet-stream", Body::Digits(bytes)),
            None if self.text => ("text/plain; charset=utf-8", Body::Text(report.text().into())),
            None => ("application/json", Body::Text(report.json().into())),
        }
    }
}

/// The trailers that `?trailers` asks for.
pub(crate) fn trailers(connection: &Connection, body_bytes: u64) -> [(&'static str, String); 2] {
    let name = connection.name.chars().filter(|c| (' '..='~').contains(c)).collect();
    [("x-whoami-name", name), ("x-whoami-body-bytes", body_bytes.to_string())]
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Text(Bytes),
    /// So many bytes of `0123456789` repeated.
    Digits(u64),
}

impl Body {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Digits(bytes) => *bytes,
        }
    }

    /// The body cut into `pieces` parts of nearly equal length; no part is empty.
    ///
    /// No part is longer than 1 MiB, even if that takes more parts than asked for.
    pub(crate) fn split(self, pieces: u64) -> impl Iterator<Item = Bytes> {
        let len = self.len();
        let piece = len.div_ceil(pieces.max(1)).clamp(1, MAX_PIECE);
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= len {
                return None;
            }
            let n = piece.min(len - at);
            let part = match &self {
                Self::Text(text) => text.slice(at as usize..(at + n) as usize),
                Self::Digits(_) => (at..at + n).map(|i| b'0' + (i % 10) as u8).collect(),
            };
            at += n;
            Some(part)
        })
    }

    /// The body in slices of a handy size.
    pub(crate) fn slices(self) -> impl Iterator<Item = Bytes> {
        let pieces = self.len().div_ceil(SLICE);
        self.split(pieces)
    }
}

fn number(name: &str, value: &str, max: u64) -> Result<u64, String> {
    let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse::<u64>() {
        Ok(number) if plain && number <= max => Ok(number),
        _ => Err(format!("{name}: {value:?} is not a number from 0 to {max}")),
    }
}

fn header(value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let refused = || format!("header: {value:?} is not Name:Value");
    let decoded = percent_decode(value);
    let at = decoded.iter().position(|byte| *byte == b':').ok_or_else(refused)?;
    let name = HeaderName::from_bytes(&decoded[..at]).map_err(|_| refused())?;
    let value = HeaderValue::from_bytes(decoded[at + 1..].trim_ascii()).map_err(|_| refused())?;
    // These would change how the answer is framed.
    if [http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING, http::header::CONNECTION].contains(&name) {
        return Err(format!("header: {name} cannot be set"));
    }
    Ok((name, value))
}

fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_do_not_fit_are_named() {
        for (target, name) in [
            ("/status/99", "status"),
            ("/status/600", "status"),
            ("/?bytes=-1", "bytes"),
            ("/?bytes=+1", "bytes"),
            ("/?bytes=1073741825", "bytes"),
            ("/?delay=60001", "delay"),
            ("/?fail=other", "fail"),
            ("/?format=xml", "format"),
            ("/?header=noseparator", "header"),
            ("/?header=content-length:5", "header"),
            ("/?header=a:b%0d%0ac:d", "header"),
        ] {
            let error = Wanted::parse(target).unwrap_err();
            assert!(error.starts_with(name), "{target}: {error}");
        }
    }

    #[test]
    fn absolute_form_asks_for_the_same_as_origin_form() {
        let wanted = Wanted::parse("http://whoami.test/status/404?bytes=3").unwrap();
        assert_eq!((wanted.status, wanted.digits), (404, Some(3)));
    }

    #[test]
    fn pieces_add_up_to_the_body() {
        for (len, pieces) in [(0, 3), (1, 3), (10, 3), (16_000, 1), (100_001, 7)] {
            let parts: Vec<Bytes> = Body::Digits(len).split(pieces).collect();
            assert!(parts.len() as u64 <= pieces);
            let whole: Vec<u8> = parts.concat();
            assert_eq!(whole.len() as u64, len);
            assert!(whole.iter().enumerate().all(|(i, byte)| *byte == b'0' + (i % 10) as u8));
        }
    }
}
