//! HTTP/2, downstream and upstream, on the `h2` crate.

pub(crate) mod down;
pub(crate) mod up;

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};

use crate::message::{HeaderLines, Trailers};

/// Largest frame payload and how much a stream may have on the way to a slow reader.
pub(crate) const SEND_BUFFER: usize = 64 << 10;
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;
pub(crate) const CONNECTION_WINDOW: u32 = 1 << 20;

/// The end-to-end lines of an HTTP/2 message.
pub(crate) struct Lines<'a>(pub(crate) &'a HeaderMap);

impl HeaderLines for Lines<'_> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        for (name, value) in self.0 {
            // HTTP/2 has no hop-by-hop fields; `te`, `host` and the length are said by whoever writes the next head.
            if !matches!(*name, TE | HOST | CONTENT_LENGTH) {
                visit(name.as_str().as_bytes(), value.as_bytes());
            }
        }
    }
}

/// Adds lines to a map; a line that HTTP/2 cannot carry is left out.
pub(crate) fn collect_lines(lines: &impl HeaderLines, map: &mut HeaderMap) {
    lines.each(|name, value| append(map, name, value));
}

/// Adds one line, unless HTTP/2 forbids it (RFC 9113 section 8.2.2).
pub(crate) fn append(map: &mut HeaderMap, name: &[u8], value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        && !matches!(name, CONNECTION | TRANSFER_ENCODING | UPGRADE | HOST)
        && !matches!(name.as_str(), "keep-alive" | "proxy-connection")
    {
        // A map that is full drops the line rather than panic.
        let _ = map.try_append(name, value);
    }
}

pub(crate) fn trailers_of(map: Option<HeaderMap>) -> Trailers {
    map.map(|map| {
        map.iter()
            .filter(|(name, _)| !headwater_http1::is_forbidden_trailer(name.as_str().as_bytes()))
            .map(|(name, value)| (name.as_str().as_bytes().into(), value.as_bytes().into()))
            .collect()
    })
    .unwrap_or_default()
}

pub(crate) fn map_of(trailers: &Trailers) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(trailers.len());
    for (name, value) in trailers {
        append(&mut map, name, value);
    }
    map
}

/// Sends as much of `bytes` as the peer's window allows; ready when all is sent. `end`: nothing follows them.
pub(crate) fn poll_send(
    stream: &mut SendStream<Bytes>,
    bytes: &mut Bytes,
    end: bool,
    cx: &mut Context<'_>,
) -> Poll<Result<(), h2::Error>> {
    while !bytes.is_empty() {
        if stream.capacity() == 0 {
            stream.reserve_capacity(bytes.len());
            match ready!(stream.poll_capacity(cx)) {
                Some(granted) => granted?,
                None => return Poll::Ready(Err(h2::Reason::CANCEL.into())),
            };
        }
        let part = bytes.split_to(stream.capacity().min(bytes.len()));
        if !part.is_empty() {
            stream.send_data(part, end && bytes.is_empty())?;
        }
    }
    Poll::Ready(Ok(()))
}

/// The next DATA of a stream; its bytes count as read, so that the peer may send as many again.
pub(crate) async fn next_data(stream: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let bytes = match stream.data().await? {
        Ok(bytes) => bytes,
        Err(error) => return Some(Err(error)),
    };
    // Refused only on a stream that is closed; then the next read says so.
    let _ = stream.flow_control().release_capacity(bytes.len());
    Some(Ok(bytes))
}
