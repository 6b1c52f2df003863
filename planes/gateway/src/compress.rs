//! Responses compressed with gzip (RFC 1952) on their way to clients that take it.
//!
//! Never a body that is encoded already, a part of one, or one that says it must stay as it is. A body is compressed as it
//! passes: what waits for more is sent first, so that nobody waits for the end of a stream to see its beginning.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::write::GzEncoder;
use headwater_model::gateway::Compression;

use crate::fault::{Fault, Reason};
use crate::message::{BodySize, HeaderLines, Piece, Request, ResponseHead, ResponseSink, Trailers, Tunnel};

/// Bodies that are compressed at once by the whole process; each takes some 300 KiB. What comes beyond passes as it is.
const AT_ONCE: usize = 1024;

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Where a response goes, compressed on the way where that is wanted.
pub(crate) struct Compressed<'a, S> {
    sink: &'a mut S,
    wanted: Option<Wanted<'a>>,
    body: Option<Body>,
}

struct Wanted<'a> {
    how: &'a Compression,
    /// Whether the client takes it; if not, caches are still told that others may.
    taken: bool,
}

/// A body under way.
struct Body {
    encoder: GzEncoder<Vec<u8>>,
    /// Whether what was taken in is told before more is awaited: its length was not known, it may be a stream of events.
    prompt: bool,
    /// Whether something was taken in since.
    behind: bool,
    /// Bytes that went on.
    sent: u64,
    _seat: Seat,
}

/// One of [`AT_ONCE`].
struct Seat;

impl Seat {
    fn take() -> Option<Self> {
        let taken = UNDER_WAY
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < AT_ONCE).then_some(taken + 1));
        taken.ok().map(|_| Self)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<'a, S: ResponseSink> Compressed<'a, S> {
    /// For the response to `request`; with `None` nothing is done.
    pub(crate) fn new<R: Request>(sink: &'a mut S, how: Option<&'a Compression>, request: &R) -> Self {
        // Nothing to compress, and HTTP/1.0 has no chunks to send it in.
        let fits = request.method() != "HEAD" && request.version() != "HTTP/1.0";
        let wanted = how.map(|how| Wanted { how, taken: fits && takes_gzip(request) });
        Self { sink, wanted, body: None }
    }

    /// Hands on what the encoder has ready.
    async fn drain(&mut self) -> Result<(), Fault> {
        let Some(body) = &mut self.body else { return Ok(()) };
        let out = body.encoder.get_mut();
        if out.is_empty() {
            return Ok(());
        }
        let sent = self.sink.piece(Piece::Slice(out)).await;
        body.sent += out.len() as u64;
        out.clear();
        sent
    }

    /// Bytes of the body as they went on; `None`: as they came.
    pub(crate) fn sent(&self) -> Option<u64> {
        self.body.as_ref().map(|body| body.sent)
    }
}

fn unwritten(_: std::io::Error) -> Fault {
    // It writes into memory.
    Fault::new(Reason::Internal).detail("the body could not be compressed")
}

impl<S: ResponseSink> ResponseSink for Compressed<'_, S> {
    async fn informational<L: HeaderLines>(&mut self, status: u16, lines: &L) -> Result<(), Fault> {
        self.sink.informational(status, lines).await
    }

    async fn head<L: HeaderLines>(&mut self, head: ResponseHead<'_, L>) -> Result<(), Fault> {
        let Some(Wanted { how, taken }) = &self.wanted else { return self.sink.head(head).await };
        let seen = Seen::of(head.lines, how);
        let long_enough = match head.size {
            BodySize::None => head.declared_length.is_some_and(|length| length >= how.min_length),
            BodySize::Length(length) => length >= how.min_length,
            BodySize::Unknown => true,
        };
        // Those that nginx compresses: others are parts, or have no body worth it.
        if !(matches!(head.status, 200 | 403 | 404) && long_enough && seen.fits) {
            return self.sink.head(head).await;
        }
        let ResponseHead { status, size, lines, ends_with_body, declared_length } = head;
        let seat = (*taken && size != BodySize::None).then(Seat::take).flatten();
        let lines = Lines { lines, compressed: seat.is_some(), varies: seen.varies };
        let Some(seat) = seat else {
            return self.sink.head(ResponseHead { status, size, lines: &lines, ends_with_body, declared_length }).await;
        };
        self.body = Some(Body {
            encoder: GzEncoder::new(Vec::new(), flate2::Compression::new(how.level.into())),
            prompt: size == BodySize::Unknown,
            behind: false,
            sent: 0,
            _seat: seat,
        });
        let (size, declared_length) = (BodySize::Unknown, None);
        self.sink.head(ResponseHead { status, size, lines: &lines, ends_with_body, declared_length }).await
    }

    async fn piece(&mut self, piece: Piece<'_>) -> Result<(), Fault> {
        let Some(body) = &mut self.body else { return self.sink.piece(piece).await };
        body.encoder.write_all(piece.as_slice()).map_err(unwritten)?;
        body.behind = true;
        self.drain().await
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        if let Some(body) = self.body.as_mut().filter(|body| body.prompt && body.behind) {
            body.encoder.flush().map_err(unwritten)?;
            body.behind = false;
            self.drain().await?;
        }
        self.sink.flush().await
    }

    async fn finish(&mut self, trailers: Trailers) -> Result<(), Fault> {
        if let Some(body) = &mut self.body {
            body.encoder.try_finish().map_err(unwritten)?;
            self.drain().await?;
        }
        self.sink.finish(trailers).await
    }

    fn is_started(&self) -> bool {
        self.sink.is_started()
    }

    fn splice_target(&self) -> Option<&tokio::net::TcpStream> {
        if self.body.is_some() { None } else { self.sink.splice_target() }
    }

    fn close_after(&mut self) {
        self.sink.close_after();
    }

    fn spliced(&mut self, bytes: u64) {
        self.sink.spliced(bytes);
    }

    fn tunnel(&mut self) -> Option<Tunnel<'_>> {
        self.sink.tunnel()
    }
}

/// What the lines of a head say about compressing its body.
struct Seen {
    /// Whether it may be, as far as they go.
    fits: bool,
    /// Whether they say already that the answer depends on what the client takes.
    varies: bool,
}

impl Seen {
    fn of<L: HeaderLines>(lines: &L, how: &Compression) -> Self {
        let (mut of_type, mut kept, mut varies) = (false, false, false);
        lines.each(|name, value| {
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            if is("content-type") {
                let kind = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                of_type = how.types.iter().any(|known| kind.eq_ignore_ascii_case(known.as_bytes()));
            } else if is("content-encoding") || is("content-range") {
                kept = true;
            } else if ["content-md5", "digest", "content-digest", "repr-digest"].into_iter().any(is) {
                // They would be those of other bytes.
                kept = true;
            } else if is("cache-control") {
                kept |= members(value).any(|member| member.eq_ignore_ascii_case(b"no-transform"));
            } else if is("vary") {
                varies |=
                    members(value).any(|member| member == b"*" || member.eq_ignore_ascii_case(b"accept-encoding"));
            }
        });
        Self { fits: of_type && !kept, varies }
    }
}

fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether the request takes gzip (RFC 9110 section 12.5.3): by its name, or by `*` where its name does not stand.
fn takes_gzip<R: Request>(request: &R) -> bool {
    let (mut named, mut any) = (None, None);
    request.each_value("accept-encoding", |value| {
        for member in members(value) {
            let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let coding = parts.next().unwrap_or_default();
            // Only nothing at all is a refusal: 0, 0.0, 0.00 and 0.000.
            let refused = parts.any(|part| {
                let weight = part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q="));
                weight.is_some_and(|weight| !weight.is_empty() && weight.iter().all(|byte| b"0.".contains(byte)))
            });
            if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
                named = Some(!refused);
            } else if coding == b"*" {
                any = Some(!refused);
            }
        }
    });
    named.or(any).unwrap_or(false)
}

/// The lines of a response that is compressed, or that would have been for another client.
struct Lines<'a, L> {
    lines: &'a L,
    compressed: bool,
    varies: bool,
}

impl<L: HeaderLines> HeaderLines for Lines<'_, L> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        self.lines.each(|name, value| {
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            if self.compressed && is("accept-ranges") {
                // There are none of what is made on the way.
            } else if self.compressed && is("etag") && !value.starts_with(b"W/") {
                // Other bytes than those that it names, with the same meaning (RFC 9110 section 8.8.3).
                visit(name, &[b"W/", value].concat());
            } else {
                visit(name, value);
            }
        });
        if self.compressed {
            visit(b"content-encoding", b"gzip");
        }
        if !self.varies {
            visit(b"vary", b"accept-encoding");
        }
    }
}
