//! What an exchange needs of a request and a response, whatever version of HTTP carries them.

use bytes::Bytes;
use headwater_client_address::HeaderSource;

use crate::fault::{Fault, Reason};

/// Part of a body.
pub(crate) enum Piece<'a> {
    /// Lent from a read buffer.
    Slice(&'a [u8]),
    /// Owned by whoever takes it (HTTP/2 frames).
    Bytes(Bytes),
}

impl Piece<'_> {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Slice(slice) => slice,
            Self::Bytes(bytes) => bytes,
        }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Self::Slice(slice) => Bytes::copy_from_slice(slice),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Trailer lines: name in lower case, value.
pub(crate) type Trailers = Vec<(Box<[u8]>, Box<[u8]>)>;

/// How much body a message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodySize {
    None,
    Length(u64),
    /// Chunked, until the end of the stream, or HTTP/2 without `content-length`.
    Unknown,
}

/// Header lines that concern the other end: hop-by-hop fields and framing are left out.
pub(crate) trait HeaderLines {
    fn each(&self, visit: impl FnMut(&[u8], &[u8]));
}

/// The head of a request.
pub(crate) trait Request: HeaderLines + HeaderSource {
    fn method(&self) -> &str;
    /// Path and query as received, in origin form; `*` for OPTIONS of the server itself.
    fn target(&self) -> &str;
    /// `Host` or `:authority`; empty when HTTP/1.0 sent none.
    fn authority(&self) -> &[u8];
    /// Hands over the value of each line of a header, given in lower case.
    fn each_value<'a>(&'a self, name: &str, visit: impl FnMut(&'a [u8]));
    fn body_size(&self) -> BodySize;
    /// Value of `Upgrade` where the request asks to leave HTTP/1.1.
    fn upgrade(&self) -> Option<&[u8]> {
        None
    }
    /// Whether trailers are welcome (`te: trailers`).
    fn accepts_trailers(&self) -> bool;
    /// `HTTP/1.1` and so on.
    fn version(&self) -> &'static str;
    /// Why the head cannot be served although its protocol allows it.
    fn conflict(&self) -> Option<Reason> {
        None
    }
}

/// Methods that may be tried again although the first try may have had its effect (RFC 9110 section 9.2.2).
pub(crate) fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// The body of a request, as it arrives.
pub(crate) trait RequestBody {
    /// The next part; `None` at the end.
    async fn next(&mut self) -> Result<Option<Piece<'_>>, Fault>;
    /// Once the end was reached.
    fn take_trailers(&mut self) -> Trailers;
    /// Whether anything was taken: after that the request cannot be sent twice.
    fn is_touched(&self) -> bool;
    /// Whether the end was reached.
    fn is_done(&self) -> bool;
}

/// The head of a response, with the lines in `lines`.
pub(crate) struct ResponseHead<'a, L> {
    pub(crate) status: u16,
    pub(crate) size: BodySize,
    pub(crate) lines: &'a L,
    /// Whether nothing follows a body of known length: no trailers.
    pub(crate) ends_with_body: bool,
    /// Content-Length to pass on although there is no body (HEAD, 304).
    pub(crate) declared_length: Option<u64>,
}

/// Where a response goes.
pub(crate) trait ResponseSink {
    /// A 1xx response other than 101.
    async fn informational<L: HeaderLines>(&mut self, status: u16, lines: &L) -> Result<(), Fault>;
    /// The final head; written with the first part of the body, or by [`ResponseSink::flush`].
    async fn head<L: HeaderLines>(&mut self, head: ResponseHead<'_, L>) -> Result<(), Fault>;
    async fn piece(&mut self, piece: Piece<'_>) -> Result<(), Fault>;
    /// Sends what is held back; called before waiting for more.
    async fn flush(&mut self) -> Result<(), Fault>;
    async fn finish(&mut self, trailers: Trailers) -> Result<(), Fault>;
    /// Whether a final head was given: after that a fault can only cut the response off.
    fn is_started(&self) -> bool;
    /// The socket, when body bytes of a known length may be moved into it as they are.
    fn splice_target(&self) -> Option<&tokio::net::TcpStream> {
        None
    }
    /// The connection cannot go on after this response; said in its head if that is not written yet.
    fn close_after(&mut self) {}
    /// Counts bytes of the body moved by splice.
    fn spliced(&mut self, _bytes: u64) {}
    /// The connection itself, for a protocol that both ends switch to; nothing of HTTP follows on it.
    fn tunnel(&mut self) -> Option<Tunnel<'_>> {
        None
    }
}

/// A downstream connection that leaves HTTP.
pub(crate) struct Tunnel<'a> {
    pub(crate) conn: &'a crate::io::Conn,
    /// What the peer sent behind the head of its request.
    pub(crate) early: &'a [u8],
}
