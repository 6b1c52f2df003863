//! Downstream HTTP/1: one connection, one request after the other.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use headwater_client_address::HeaderSource;
use headwater_http1::{
    BodyFraming, Limits, Method, RequestError, RequestHead, Status, Target, Version, encode, parse_request,
};

use super::RequestLines;
use super::body::{BodyError, BodyReader, Framing};
use crate::accept::{Accepted, first_bytes};
use crate::buffer::{Buffer, SMALL};
use crate::exchange;
use crate::fault::{Fault, Reason};
use crate::io::Conn;
use crate::message::{
    BodySize, HeaderLines, Piece, Request, RequestBody, ResponseHead, ResponseSink, Trailers, Tunnel,
};
use crate::respond;
use crate::timer::Timer;

/// How long, and for how many bytes, we listen to a peer that we have answered for the last time: closing at once would
/// reset the connection and could destroy the answer on its way (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 << 10;

/// Serves a connection to its end; `buf` holds what was read already.
pub(crate) async fn serve(accepted: Rc<Accepted>, conn: Conn, mut buf: Buffer, timer: Timer) {
    let settings = accepted.settings();
    let limits = Limits {
        max_head_bytes: settings.limits.header_bytes as usize,
        max_start_line_bytes: settings.limits.request_line_bytes as usize,
        max_headers: settings.limits.header_count as usize,
        ..Limits::DEFAULT
    };
    let mut served: u32 = 0;
    loop {
        if buf.is_empty() {
            // Between requests a connection holds no buffer.
            drop(buf);
            let lent = match served {
                0 => first_bytes(&conn, &timer, settings.idle_timeout).await,
                _ => {
                    timer.set(settings.idle_timeout);
                    let read = timer.run_idle(conn.read_when_ready()).await;
                    read.ok().and_then(Result::ok).and_then(|(n, lent)| (n > 0).then_some(lent))
                }
            };
            buf = match lent {
                Some(lent) => lent,
                None => {
                    let _ = conn.shutdown().await;
                    return;
                }
            };
        }
        served = served.saturating_add(1);
        let last = settings.limits.requests_per_connection != 0 && served >= settings.limits.requests_per_connection;
        let turn = Turn {
            accepted: &accepted,
            conn: &conn,
            timer: &timer,
            limits: &limits,
            last,
            is_heard: Cell::new(false),
            ahead: RefCell::new(Buffer::none()),
        };
        match turn.serve(buf).await {
            After::Next(rest) => buf = rest,
            After::Close => {
                linger(&conn, &timer).await;
                return;
            }
            After::Gone => return,
        }
    }
}

/// What becomes of the connection after a request.
enum After {
    /// Another request may come; the buffer holds what was read of it.
    Next(Buffer),
    /// The peer was told that it ends here.
    Close,
    /// Nothing more can be said.
    Gone,
}

async fn linger(conn: &Conn, timer: &Timer) {
    timer.set(LINGER);
    if !matches!(timer.run(conn.shutdown()).await, Ok(Ok(()))) {
        return;
    }
    let mut buf = Buffer::small();
    let mut seen = 0;
    while seen < LINGER_BYTES {
        buf.clear();
        match timer.run(conn.read_buf(&mut buf)).await {
            Ok(Ok(n)) if n > 0 => seen += n,
            _ => return,
        }
    }
}

/// One request and its response.
struct Turn<'a> {
    accepted: &'a Rc<Accepted>,
    conn: &'a Conn,
    timer: &'a Timer,
    limits: &'a Limits,
    /// Whether the connection ends with it.
    last: bool,
    /// Whether the request has been read whole: what comes next is the next request, or the end.
    is_heard: Cell<bool>,
    /// What was read of the next request while this one was served.
    ahead: RefCell<Buffer>,
}

impl Turn<'_> {
    async fn serve(&self, mut buf: Buffer) -> After {
        let started = Instant::now();
        let mut head = self.accepted.worker.request_heads.take();
        let consumed = match self.read_head(&mut buf, &mut head).await {
            Ok(Some(consumed)) => consumed,
            Ok(None) => return After::Gone,
            Err(fault) => return self.refuse_head(started, fault).await,
        };
        let after = self.answer(started, &mut buf, &head, consumed).await;
        self.accepted.worker.request_heads.give(head);
        after
    }

    /// Reads until the head is complete; `None` when the peer left without having begun one.
    async fn read_head(&self, buf: &mut Buffer, head: &mut RequestHead) -> Result<Option<usize>, Fault> {
        // Only a head that does not arrive at once needs a deadline.
        let mut waiting = false;
        let mut parsed = 0;
        loop {
            // Only the end of a line, or the length of one, is news worth parsing again for: a head that trickles in is
            // parsed once for each line. An empty line may come first.
            let past = |limit: usize| parsed <= limit && buf.len() > limit;
            let news = past(0) || past(self.limits.max_start_line_bytes + 4) || past(self.limits.max_head_bytes);
            if news || memchr::memchr(b'\n', &buf[parsed..]).is_some() {
                parsed = buf.len();
                match parse_request(buf, self.limits, head) {
                    Ok(Status::Complete(consumed)) => return Ok(Some(consumed)),
                    Ok(Status::Partial) => {}
                    Err(error) => return Err(refusal(&error, buf)),
                }
            }
            if !waiting {
                waiting = true;
                self.timer.set(self.accepted.settings().header_timeout);
            }
            if buf.len() == buf.capacity() {
                let more = buf.capacity().min(self.limits.max_head_bytes).max(SMALL);
                buf.reserve(more);
            }
            match self.timer.run(self.conn.read_buf(buf)).await {
                Ok(Ok(0)) if buf.is_empty() => return Ok(None),
                Ok(Ok(0)) => return Err(Reason::DownstreamClosed.into()),
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Ok(None),
                Err(_) => return Err(Reason::HeaderTimeout.into()),
            }
        }
    }

    /// A head that could not be read is answered, if there is anybody to answer, and ends the connection.
    async fn refuse_head(&self, started: Instant, fault: Fault) -> After {
        let answer = respond::render(&fault, self.accepted.settings().error_style);
        exchange::log_unparsed(self.accepted, started, &fault, answer.len());
        if fault.reason == Reason::DownstreamClosed {
            return After::Gone;
        }
        self.timer.set(self.accepted.settings().body_timeout);
        match self.timer.run(self.conn.write_all(&answer)).await {
            Ok(Ok(())) => After::Close,
            _ => After::Gone,
        }
    }

    async fn answer(&self, started: Instant, buf: &mut Buffer, head: &RequestHead, consumed: usize) -> After {
        let view = View { lines: RequestLines { buf, head } };
        let mut body = Body::new(self, head.framing(), &buf[consumed..]);
        let keep_alive = head.keep_alive() && !self.last;
        let mut sink = Sink {
            turn: self,
            keep_alive,
            chunked_allowed: head.version() == Version::Http11,
            was_keep_alive_10: head.version() == Version::Http10 && head.keep_alive(),
            is_head: head.method() == Method::Head,
            early: &buf[consumed..],
            out: Buffer::none(),
            framing: OutFraming::None,
            started: false,
            ended: false,
            tunnelled: false,
        };
        // Behind a request to switch protocols may come bytes of the other protocol.
        let watches = view.upgrade().is_none();
        {
            let mut run = pin!(exchange::run(self.accepted, self.timer, started, &view, &mut body, &mut sink));
            poll_fn(|cx| {
                let polled = run.as_mut().poll(cx);
                if polled.is_pending() && watches && self.peer_has_left(cx) {
                    self.timer.give_up();
                    return run.as_mut().poll(cx);
                }
                polled
            })
            .await;
        }
        if sink.tunnelled || !sink.ended || self.timer.is_given_up() {
            return After::Gone;
        }
        if !sink.keep_alive || self.timer.is_draining() || !body.is_done() {
            return After::Close;
        }
        let mut rest = match body.rest() {
            Some(rest) => rest,
            None => {
                buf.drain(..consumed);
                std::mem::replace(buf, Buffer::none())
            }
        };
        let ahead = self.ahead.replace(Buffer::none());
        if rest.is_empty() {
            rest = ahead;
        } else {
            rest.extend_from_slice(&ahead);
        }
        After::Next(rest)
    }

    /// Whether nobody waits for the answer any more: what the request set in motion must stop, too. A peer that ended
    /// its half only is taken for one that left, as it cannot be told apart.
    fn peer_has_left(&self, cx: &mut Context<'_>) -> bool {
        if !self.is_heard.get() || self.timer.is_given_up() {
            return false;
        }
        match self.conn.poll_read_ahead(cx, &mut self.ahead.borrow_mut()) {
            Poll::Pending => false,
            Poll::Ready(Ok(n)) if n > 0 => {
                // One read of the next request is enough to hold.
                self.is_heard.set(false);
                false
            }
            Poll::Ready(_) => true,
        }
    }
}

fn refusal(error: &RequestError, buf: &[u8]) -> Fault {
    const V1: &[u8] = b"PROXY ";
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let reason = if buf.starts_with(V1) || buf.starts_with(V2) {
        Reason::ProxyHeader
    } else {
        match error.status() {
            _ if *error == RequestError::HostMismatch => Reason::HostMismatch,
            414 => Reason::UriTooLong,
            431 => Reason::HeaderTooLarge,
            501 => Reason::NotImplemented,
            505 => Reason::HttpVersion,
            _ => Reason::BadRequest,
        }
    };
    Fault::new(reason).detail(error.reason())
}

/// A request's head.
struct View<'a> {
    lines: RequestLines<'a>,
}

impl HeaderLines for View<'_> {
    fn each(&self, visit: impl FnMut(&[u8], &[u8])) {
        self.lines.each(visit);
    }
}

impl HeaderSource for View<'_> {
    fn values<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a [u8]> + 'a {
        let buf = self.lines.buf;
        self.lines
            .head
            .headers()
            .iter()
            .filter(move |header| header.name.of(buf).eq_ignore_ascii_case(name.as_bytes()))
            .map(move |header| header.value.of(buf))
    }
}

impl Request for View<'_> {
    fn method(&self) -> &str {
        std::str::from_utf8(self.lines.head.method_text(self.lines.buf)).unwrap_or("")
    }

    fn target(&self) -> &str {
        let (buf, head) = (self.lines.buf, self.lines.head);
        let bytes = match head.target() {
            // From the path on: towards the backend every target is in origin form (RFC 9112 section 3.2.1).
            Target::Absolute { path, query, .. } if !path.is_empty() => {
                let end = query.map_or(path.range().end, |query| query.range().end);
                &buf[path.range().start..end]
            }
            Target::Absolute { query: None, .. } => return "/",
            // `http://host?query`: refused, see `conflict`.
            Target::Absolute { .. } => return "",
            _ => head.target_text(buf),
        };
        // The parser lets only visible ASCII into targets.
        std::str::from_utf8(bytes).unwrap_or("")
    }

    fn authority(&self) -> &[u8] {
        self.lines.head.host(self.lines.buf).unwrap_or(b"")
    }

    fn each_value<'a>(&'a self, name: &str, mut visit: impl FnMut(&'a [u8])) {
        let buf = self.lines.buf;
        for header in self.lines.head.headers() {
            if header.name.of(buf).eq_ignore_ascii_case(name.as_bytes()) {
                visit(header.value.of(buf));
            }
        }
    }

    fn body_size(&self) -> BodySize {
        match self.lines.head.framing() {
            BodyFraming::None => BodySize::None,
            BodyFraming::Length(length) => BodySize::Length(length),
            BodyFraming::Chunked => BodySize::Unknown,
        }
    }

    fn upgrade(&self) -> Option<&[u8]> {
        // HTTP/2 begins with prior knowledge or ALPN; its upgrade is obsolete (RFC 9113 section 3.1) and smuggles.
        self.lines.head.upgrade(self.lines.buf).filter(|protocol| !protocol.eq_ignore_ascii_case(b"h2c"))
    }

    fn accepts_trailers(&self) -> bool {
        self.lines.head.accepts_trailers()
    }

    fn version(&self) -> &'static str {
        match self.lines.head.version() {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        }
    }

    fn conflict(&self) -> Option<Reason> {
        match self.lines.head.target() {
            Target::Authority { .. } => Some(Reason::NotImplemented),
            Target::Absolute { path, query: Some(_), .. } if path.is_empty() => Some(Reason::BadRequest),
            _ => None,
        }
    }
}

/// A request's body.
struct Body<'a> {
    turn: &'a Turn<'a>,
    /// `None`: there is no body, and what follows the head in the caller's buffer is the next request.
    reader: Option<BodyReader>,
    buf: Buffer,
    taken: u64,
    touched: bool,
}

impl<'a> Body<'a> {
    fn new(turn: &'a Turn<'a>, framing: BodyFraming, read_already: &[u8]) -> Self {
        let framing = match framing {
            BodyFraming::None | BodyFraming::Length(0) => None,
            BodyFraming::Length(length) => Some(Framing::Length(length)),
            BodyFraming::Chunked => Some(BodyReader::chunked()),
        };
        let reader = framing.map(|framing| BodyReader::new(framing, 0));
        turn.is_heard.set(reader.is_none());
        let mut buf = Buffer::none();
        if reader.is_some() {
            buf = Buffer::small();
            buf.extend_from_slice(read_already);
        }
        Self { turn, reader, buf, taken: 0, touched: false }
    }

    /// What was read behind the body; `None` when the body never had a buffer of its own.
    fn rest(self) -> Option<Buffer> {
        let mut buf = self.buf;
        let end = self.reader?.end();
        buf.drain(..end);
        Some(buf)
    }
}

impl RequestBody for Body<'_> {
    async fn next(&mut self) -> Result<Option<Piece<'_>>, Fault> {
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let settings = self.turn.accepted.settings();
        self.turn.timer.set(settings.body_timeout);
        let part = match self.turn.timer.run(reader.next(self.turn.conn, &mut self.buf)).await {
            Err(_) => return Err(Reason::BodyTimeout.into()),
            Ok(Err(BodyError::Chunk(error))) => return Err(Fault::new(Reason::BadRequest).detail(error.reason())),
            Ok(Err(BodyError::Io(error))) => return Err(Fault::new(Reason::DownstreamClosed).detail(error)),
            Ok(Err(BodyError::Truncated)) => return Err(Reason::DownstreamClosed.into()),
            Ok(Ok(part)) => part,
        };
        self.touched = true;
        let Some(part) = part else {
            self.turn.is_heard.set(true);
            return Ok(None);
        };
        self.taken += part.len() as u64;
        if settings.limits.body_bytes != 0 && self.taken > settings.limits.body_bytes {
            return Err(Reason::BodyTooLarge.into());
        }
        Ok(Some(Piece::Slice(&self.buf[part])))
    }

    fn take_trailers(&mut self) -> Trailers {
        self.reader.as_mut().map(BodyReader::take_trailers).unwrap_or_default()
    }

    fn is_touched(&self) -> bool {
        self.touched
    }

    fn is_done(&self) -> bool {
        self.reader.as_ref().is_none_or(BodyReader::is_done)
    }
}

/// How the end of the response is shown.
enum OutFraming {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// Where the response goes.
pub(crate) struct Sink<'a> {
    turn: &'a Turn<'a>,
    keep_alive: bool,
    chunked_allowed: bool,
    was_keep_alive_10: bool,
    is_head: bool,
    /// What the peer sent behind its head: belongs to the tunnel, if this becomes one.
    early: &'a [u8],
    /// Head and small parts that wait to be written together.
    out: Buffer,
    framing: OutFraming,
    started: bool,
    ended: bool,
    tunnelled: bool,
}

impl Sink<'_> {
    async fn write(&self, bytes: &[u8]) -> Result<(), Fault> {
        self.turn.timer.set(self.turn.accepted.settings().body_timeout);
        match self.turn.timer.run(self.turn.conn.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Fault::new(Reason::DownstreamClosed).detail(error)),
            Err(_) => Err(Fault::new(Reason::DownstreamClosed).detail("the client stopped reading")),
        }
    }

    async fn write_out(&mut self) -> Result<(), Fault> {
        if !self.out.is_empty() {
            let mut out = std::mem::replace(&mut self.out, Buffer::none());
            self.write(&out).await?;
            out.clear();
            self.out = out;
        }
        Ok(())
    }
}

impl ResponseSink for Sink<'_> {
    async fn informational<L: HeaderLines>(&mut self, status: u16, lines: &L) -> Result<(), Fault> {
        // HTTP/1.0 knows no interim responses (RFC 9110 section 15.2).
        if self.started || !self.chunked_allowed {
            return Ok(());
        }
        let mut out = Buffer::small();
        encode::write_status_line(status, &mut out);
        lines.each(|name, value| encode::write_field(name, value, &mut out));
        out.extend_from_slice(b"\r\n");
        self.write(&out).await
    }

    async fn head<L: HeaderLines>(&mut self, head: ResponseHead<'_, L>) -> Result<(), Fault> {
        if self.out.capacity() == 0 {
            self.out = Buffer::small();
        }
        let out = &mut self.out;
        encode::write_status_line(head.status, out);
        head.lines.each(|name, value| encode::write_field(name, value, out));
        let bodiless = self.is_head || matches!(head.status, 204 | 304);
        self.framing = match head.size {
            _ if bodiless => {
                let declared = match head.size {
                    BodySize::Length(length) => Some(length),
                    _ => head.declared_length,
                };
                if let Some(length) = declared.filter(|_| head.status != 204) {
                    encode::write_content_length(length, out);
                }
                OutFraming::None
            }
            BodySize::None => {
                encode::write_content_length(0, out);
                OutFraming::None
            }
            BodySize::Length(length) => {
                encode::write_content_length(length, out);
                OutFraming::Length(length)
            }
            BodySize::Unknown if self.chunked_allowed => {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                OutFraming::Chunked
            }
            BodySize::Unknown => {
                self.keep_alive = false;
                OutFraming::UntilClose
            }
        };
        self.keep_alive &= !self.turn.timer.is_draining();
        if !self.keep_alive {
            out.extend_from_slice(b"connection: close\r\n");
        } else if self.was_keep_alive_10 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        self.started = true;
        Ok(())
    }

    async fn piece(&mut self, piece: Piece<'_>) -> Result<(), Fault> {
        let bytes = piece.as_slice();
        if bytes.is_empty() {
            // An empty DATA frame, for one: a chunk of that size would end the body, and its end alone would break it.
            return Ok(());
        }
        match &mut self.framing {
            OutFraming::None => return Ok(()),
            OutFraming::Chunked => encode::write_chunk_header(bytes.len() as u64, &mut self.out),
            OutFraming::Length(left) => *left = left.saturating_sub(bytes.len() as u64),
            OutFraming::UntilClose => {}
        }
        let together = self.out.len() + bytes.len() + encode::CHUNK_END.len() <= self.out.capacity();
        if together {
            self.out.extend_from_slice(bytes);
        } else {
            self.write_out().await?;
            self.write(bytes).await?;
        }
        if matches!(self.framing, OutFraming::Chunked) {
            self.out.extend_from_slice(encode::CHUNK_END);
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        self.write_out().await
    }

    async fn finish(&mut self, trailers: Trailers) -> Result<(), Fault> {
        match self.framing {
            OutFraming::Chunked if trailers.is_empty() => self.out.extend_from_slice(encode::LAST_CHUNK),
            OutFraming::Chunked => {
                let lines = trailers.iter().map(|(name, value)| (&**name, &**value));
                encode::write_trailers(lines, &mut self.out);
            }
            OutFraming::Length(left) if left > 0 => return Err(Reason::UpstreamTruncated.into()),
            _ => {}
        }
        self.write_out().await?;
        self.ended = true;
        Ok(())
    }

    fn is_started(&self) -> bool {
        self.started
    }

    fn splice_target(&self) -> Option<&tokio::net::TcpStream> {
        matches!(self.framing, OutFraming::Length(_)).then(|| self.turn.conn.plain()).flatten()
    }

    fn close_after(&mut self) {
        self.keep_alive = false;
    }

    fn spliced(&mut self, bytes: u64) {
        if let OutFraming::Length(left) = &mut self.framing {
            *left = left.saturating_sub(bytes);
        }
    }

    fn tunnel(&mut self) -> Option<Tunnel<'_>> {
        self.tunnelled = true;
        Some(Tunnel { conn: self.turn.conn, early: self.early })
    }
}
