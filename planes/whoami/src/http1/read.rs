//! Strict HTTP/1.1 request reader (RFC 9112): CR LF line ends, no folding, one way to tell the body's length.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::answer::{Fields, as_text};

/// Longest head, and longest trailer section.
const MAX_HEAD: usize = 64 * 1024;
const MAX_FIELDS: usize = 512;
/// Longest chunk-size line, extensions included.
const MAX_CHUNK_LINE: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The client is told this with a 400.
    #[error("{0}")]
    Malformed(&'static str),
    #[error("head is longer than {MAX_HEAD} bytes or {MAX_FIELDS} fields")]
    TooLarge,
    #[error("connection ended inside a request")]
    Truncated,
    #[error("connection reset, as the request asked")]
    Aborted,
    #[error(transparent)]
    Io(#[from] io::Error),
}

use ReadError::Malformed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Known(u64),
    Chunked,
}

#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) target: String,
    /// 0 or 1.
    pub(crate) minor: u8,
    pub(crate) headers: Fields,
    pub(crate) length: Length,
    /// The connection may carry another request.
    pub(crate) keep_alive: bool,
    pub(crate) expect_continue: bool,
}

impl Head {
    /// The only value of a header, or its first.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether a comma-separated header lists `token`.
    pub(crate) fn lists(&self, name: &str, token: &str) -> bool {
        self.headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .flat_map(|(_, value)| value.split(','))
            .any(|item| item.trim_matches([' ', '\t']).eq_ignore_ascii_case(token))
    }
}

/// Bytes read from a connection and not yet used.
pub(crate) struct Reader<T> {
    pub(crate) io: T,
    pub(crate) buffer: BytesMut,
}

impl<T: AsyncRead + Unpin> Reader<T> {
    async fn fill(&mut self) -> Result<(), ReadError> {
        self.buffer.reserve(8192);
        match self.io.read_buf(&mut self.buffer).await? {
            0 => Err(ReadError::Truncated),
            _ => Ok(()),
        }
    }

    /// Everything up to and without `end`, which is consumed too.
    async fn until(&mut self, end: &[u8], limit: usize, over: ReadError) -> Result<BytesMut, ReadError> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.buffer[seen..].windows(end.len()).position(|window| window == end) {
                let found = self.buffer.split_to(seen + at);
                self.buffer.advance(end.len());
                return if found.len() > limit { Err(over) } else { Ok(found) };
            }
            if self.buffer.len() > limit {
                return Err(over);
            }
            seen = self.buffer.len().saturating_sub(end.len() - 1);
            self.fill().await?;
        }
    }

    /// The next request head; `None` when the client has finished between two requests.
    pub(crate) async fn head(&mut self) -> Result<Option<Head>, ReadError> {
        if self.buffer.is_empty() {
            match self.fill().await {
                Err(ReadError::Truncated) => return Ok(None),
                other => other?,
            }
        }
        let bytes = self.until(b"\r\n\r\n", MAX_HEAD, ReadError::TooLarge).await?;
        parse_head(&bytes).map(Some)
    }

    async fn trailers(&mut self) -> Result<Fields, ReadError> {
        let mut fields = Fields::new();
        let mut total = 0;
        loop {
            let line = self.until(b"\r\n", MAX_HEAD, ReadError::TooLarge).await?;
            if line.is_empty() {
                return Ok(fields);
            }
            total += line.len();
            if total > MAX_HEAD || fields.len() == MAX_FIELDS {
                return Err(ReadError::TooLarge);
            }
            fields.push(parse_field(&line)?);
        }
    }
}

/// The body of one request, read piece by piece.
pub(crate) struct BodyReader {
    /// Bytes still to come of the body or of the current chunk.
    left: u64,
    chunked: bool,
    /// The current chunk's data is used up, its CR LF is not.
    chunk_open: bool,
    done: bool,
    pub(crate) trailers: Fields,
}

impl BodyReader {
    pub(crate) fn new(length: Length) -> Self {
        let (left, chunked) = match length {
            Length::Known(n) => (n, false),
            Length::Chunked => (0, true),
        };
        Self { left, chunked, chunk_open: false, done: !chunked && left == 0, trailers: Fields::new() }
    }

    /// The next bytes as they arrive; `None` at the end.
    pub(crate) async fn next<T: AsyncRead + Unpin>(
        &mut self,
        reader: &mut Reader<T>,
    ) -> Result<Option<Bytes>, ReadError> {
        if !self.done && self.left == 0 && self.chunked {
            if self.chunk_open
                && !reader.until(b"\r\n", 0, Malformed("chunk is longer than its size")).await?.is_empty()
            {
                return Err(Malformed("chunk is longer than its size"));
            }
            self.chunk_open = true;
            let line = reader.until(b"\r\n", MAX_CHUNK_LINE, Malformed("chunk size line is too long")).await?;
            self.left = parse_chunk_size(&line)?;
            if self.left == 0 {
                self.trailers = reader.trailers().await?;
                self.done = true;
            }
        }
        if self.done {
            return Ok(None);
        }
        if reader.buffer.is_empty() {
            reader.fill().await?;
        }
        let n = (reader.buffer.len() as u64).min(self.left);
        self.left -= n;
        self.done = self.left == 0 && !self.chunked;
        Ok(Some(reader.buffer.split_to(n as usize).freeze()))
    }
}

fn parse_chunk_size(line: &[u8]) -> Result<u64, ReadError> {
    let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
    let (digits, extension) = (&line[..end], &line[end..]);
    let plain = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    if !plain || extension.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(Malformed("chunk size is not a hexadecimal number"));
    }
    let digits = std::str::from_utf8(digits).expect("hexadecimal digits are ASCII");
    Ok(u64::from_str_radix(digits, 16).expect("15 hexadecimal digits fit"))
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

fn parse_field(line: &[u8]) -> Result<(String, String), ReadError> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Malformed("header line has no colon"))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return Err(Malformed("header name is not a token"));
    }
    if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(Malformed("header value has a control character"));
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    Ok((as_text(name), as_text(&value[start..end])))
}

/// Lines separated by CR LF; a CR or LF by itself stays in its line and is refused there.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        match bytes.windows(2).position(|pair| pair == b"\r\n") {
            Some(at) => {
                rest = Some(&bytes[at + 2..]);
                Some(&bytes[..at])
            }
            None => {
                rest = None;
                Some(bytes)
            }
        }
    })
}

fn parse_head(bytes: &[u8]) -> Result<Head, ReadError> {
    let mut lines = lines(bytes);
    let request: Vec<&[u8]> = lines.next().unwrap_or_default().split(|byte| *byte == b' ').collect();
    let [method, target, version] = request[..] else {
        return Err(Malformed("request line is not method, target and version"));
    };
    if !is_token(method) {
        return Err(Malformed("method is not a token"));
    }
    if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err(Malformed("target has a character that must be percent-encoded"));
    }
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        _ => return Err(Malformed("version is not HTTP/1.1 or HTTP/1.0")),
    };
    let mut headers = Fields::new();
    for line in lines {
        if headers.len() == MAX_FIELDS {
            return Err(ReadError::TooLarge);
        }
        headers.push(parse_field(line)?);
    }
    let mut head = Head {
        method: as_text(method),
        target: as_text(target),
        minor,
        headers,
        length: Length::Known(0),
        keep_alive: false,
        expect_continue: false,
    };
    let hosts = head.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("host")).count();
    if hosts > 1 || (hosts == 0 && minor == 1) {
        return Err(Malformed("there must be exactly one Host header"));
    }
    head.length = body_length(&head)?;
    head.keep_alive = match minor {
        1 => !head.lists("connection", "close"),
        _ => head.lists("connection", "keep-alive") && !head.lists("connection", "close"),
    };
    head.expect_continue = minor == 1 && head.lists("expect", "100-continue");
    Ok(head)
}

/// RFC 9112, section 6.3, without its lenient readings.
fn body_length(head: &Head) -> Result<Length, ReadError> {
    let values = |wanted: &'static str| {
        head.headers.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
    };
    let encodings: Vec<&String> = values("transfer-encoding").collect();
    let lengths: Vec<&String> = values("content-length").collect();
    match (&encodings[..], &lengths[..]) {
        ([], []) => Ok(Length::Known(0)),
        ([one], []) if head.minor == 1 && one.eq_ignore_ascii_case("chunked") => Ok(Length::Chunked),
        ([], [one]) if (1..=18).contains(&one.len()) && one.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(Length::Known(one.parse().expect("18 digits fit")))
        }
        ([], _) => Err(Malformed("Content-Length is not one number")),
        (_, []) => Err(Malformed("Transfer-Encoding is not chunked")),
        _ => Err(Malformed("both Transfer-Encoding and Content-Length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Head, ReadError> {
        parse_head(text.as_bytes())
    }

    #[test]
    fn header_order_case_and_repeats_are_kept() {
        let head = head("GET /x HTTP/1.1\r\nHost: a\r\nX-B: 1\r\nx-a:\t2 \r\nX-B: 3").unwrap();
        let expected = [("Host", "a"), ("X-B", "1"), ("x-a", "2"), ("X-B", "3")];
        assert_eq!(head.headers, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }

    #[test]
    fn heads_that_two_readers_could_take_differently_are_refused() {
        for bad in [
            "",
            "GET / HTTP/1.1",
            "GET  / HTTP/1.1\r\nHost: a",
            "GET / HTTP/1.1 \r\nHost: a",
            "GET / HTTP/2.0\r\nHost: a",
            "G(T / HTTP/1.1\r\nHost: a",
            "GET /\u{e4} HTTP/1.1\r\nHost: a",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a",
            "GET / HTTP/1.1\r\nHost : a",
            "GET / HTTP/1.1\r\nHost: a\r\n folded",
            "GET / HTTP/1.1\r\nHost: a\nX: b",
            "GET / HTTP/1.1\r\nHost: a\rX: b",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \0",
            "GET / HTTP/1.1\r\nHost: a\r\nnocolon",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked",
        ] {
            assert!(head(bad).is_err(), "{bad:?}");
        }
    }

    async fn chunked(bytes: &[u8]) -> Result<(Vec<u8>, Fields), ReadError> {
        let mut reader = Reader { io: bytes, buffer: BytesMut::new() };
        let mut body = BodyReader::new(Length::Chunked);
        let mut all = Vec::new();
        while let Some(piece) = body.next(&mut reader).await? {
            all.extend(piece);
        }
        Ok((all, body.trailers))
    }

    #[tokio::test]
    async fn chunks_and_trailers_are_joined() {
        let (body, trailers) = chunked(b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n").await.unwrap();
        assert_eq!(body, b"abc0123456789");
        assert_eq!(trailers, [("X-Sum".to_owned(), "1".to_owned())]);
    }

    #[tokio::test]
    async fn malformed_chunks_are_refused() {
        for bad in [
            "\r\n",
            "g\r\n",
            "0x1\r\na\r\n0\r\n\r\n",
            "+1\r\na\r\n0\r\n\r\n",
            " 1\r\na\r\n0\r\n\r\n",
            "1\r\nab\r\n0\r\n\r\n",
            "1\na\n0\n\n",
            "ffffffffffffffff\r\n",
            "1;\n\r\na\r\n0\r\n\r\n",
            "1\r\na\r\n0\r\n",
        ] {
            assert!(chunked(bad.as_bytes()).await.is_err(), "{bad:?}");
        }
    }
}
