//! One attempt of an exchange with an HTTP/1.1 endpoint.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use headwater_http1::{Limits, Method, ResponseFraming, ResponseHead as ParsedHead, Status, encode, parse_response};

use headwater_net_io::splice::{SpliceSide, splice};

use super::ResponseLines;
use super::body::{BodyError, BodyReader, Framing};
use crate::auth::{Granted, WithCookies};
use crate::buffer::Buffer;
use crate::cors::Answered;
use crate::exchange::{Attempt, Served};
use crate::fault::{Fault, Reason, RetryAdvice};
use crate::headers::{Edited, NoVariables};
use crate::io::Conn;
use crate::mark::Marked;
use crate::message::{BodySize, HeaderLines, Piece, RequestBody, ResponseHead, ResponseSink};
use crate::tunnel;

/// A body this long, between two plain sockets, is moved by the kernel.
const SPLICE_FROM: u64 = 256 << 10;

/// The request as it goes out.
pub(crate) struct Outgoing {
    /// The whole head, written out; given back as soon as it is sent.
    pub(crate) head: Buffer,
    pub(crate) method: Method,
    pub(crate) size: BodySize,
    pub(crate) wants_upgrade: bool,
    /// Whether the connection carried a request before: then its peer may have closed it in the meantime.
    pub(crate) reused: bool,
}

/// Sends the request, passes the response on. The connection comes back when it can carry another request.
pub(crate) async fn attempt<B: RequestBody, S: ResponseSink>(
    attempt: &Attempt<'_>,
    conn: Conn,
    mut out: Outgoing,
    body: &mut B,
    sink: &mut S,
) -> Result<(Served, Option<Conn>), Fault> {
    // Lent when the first byte is there: most of its time an exchange only waits, and buffers that few share stay in
    // the processor's cache.
    let mut buf = Buffer::none();
    let request = std::mem::replace(&mut out.head, Buffer::none());
    let out = &out;
    let heads = &attempt.accepted.worker.response_heads;
    let mut head = heads.take();
    let result = match out.size {
        BodySize::None | BodySize::Length(0) => {
            write(attempt, &conn, &request).await?;
            drop(request);
            let mut receive = Receive { attempt, conn: &conn, out, buf: &mut buf, head: &mut head };
            receive.run(sink).await.map(|done| (done, true))
        }
        _ => {
            let mut receive = Receive { attempt, conn: &conn, out, buf: &mut buf, head: &mut head };
            let mut send = pin!(send(attempt, &conn, request, out.size, body));
            let mut receive = pin!(receive.run(sink));
            let (mut sending, mut sent) = (true, false);
            poll_fn(|cx| {
                if sending {
                    match send.as_mut().poll(cx) {
                        Poll::Ready(Ok(())) => (sending, sent) = (false, true),
                        Poll::Ready(Err(SendFault::Downstream(fault))) => return Poll::Ready(Err(fault)),
                        // The endpoint stopped listening; it may have answered before that.
                        Poll::Ready(Err(SendFault::Upstream)) => sending = false,
                        Poll::Pending => {}
                    }
                }
                receive.as_mut().poll(cx).map_ok(|done| (done, sent))
            })
            .await
        }
    };
    heads.give(head);
    let (done, sent) = result?;
    let reusable = done.reusable && sent;
    Ok((done.served, reusable.then_some(conn)))
}

async fn write(attempt: &Attempt<'_>, conn: &Conn, bytes: &[u8]) -> Result<(), Fault> {
    attempt.timer.set(attempt.timeouts.send);
    match attempt.timer.run(conn.write_all(bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Fault::new(Reason::UpstreamClosed).detail(error).retry(RetryAdvice::IfIdempotent)),
        Err(_) => Err(Reason::UpstreamTimeout.into()),
    }
}

enum SendFault {
    Downstream(Fault),
    Upstream,
}

/// Sends head and body.
async fn send<B: RequestBody>(
    attempt: &Attempt<'_>,
    conn: &Conn,
    head: Buffer,
    size: BodySize,
    body: &mut B,
) -> Result<(), SendFault> {
    let upstream = |_: Fault| SendFault::Upstream;
    let chunked = size == BodySize::Unknown;
    let mut pending = head;
    // The head need not wait for the body: the endpoint may want to answer `100 Continue` first.
    write(attempt, conn, &pending).await.map_err(upstream)?;
    while let Some(piece) = body.next().await.map_err(SendFault::Downstream)? {
        let bytes = piece.as_slice();
        if !chunked {
            write(attempt, conn, bytes).await.map_err(upstream)?;
            continue;
        }
        pending.clear();
        encode::write_chunk(bytes, &mut pending);
        write(attempt, conn, &pending).await.map_err(upstream)?;
    }
    if chunked {
        pending.clear();
        let trailers = Granted::cleaned(attempt.granted, body.take_trailers());
        if trailers.is_empty() {
            pending.extend_from_slice(encode::LAST_CHUNK);
        } else {
            encode::write_trailers(trailers.iter().map(|(name, value)| (&**name, &**value)), &mut pending);
        }
        write(attempt, conn, &pending).await.map_err(upstream)?;
    }
    attempt.uploaded.set(true);
    attempt.timer.set(attempt.timeouts.idle);
    Ok(())
}

struct Done {
    served: Served,
    reusable: bool,
}

/// The receiving half of an attempt.
struct Receive<'a, 'b> {
    attempt: &'a Attempt<'b>,
    conn: &'a Conn,
    out: &'a Outgoing,
    buf: &'a mut Buffer,
    head: &'a mut ParsedHead,
}

impl Receive<'_, '_> {
    async fn run<S: ResponseSink>(&mut self, sink: &mut S) -> Result<Done, Fault> {
        let consumed = loop {
            let consumed = self.read_head().await?;
            match self.head.status() {
                101 => return self.switch(consumed, sink).await,
                status @ 100..200 => {
                    sink.informational(status, &ResponseLines { buf: self.buf, head: self.head }).await?;
                    self.buf.drain(..consumed);
                }
                _ => break consumed,
            }
        };
        let first_byte = self.attempt.started.elapsed();
        let status = self.head.status();
        let (framing, size) = match self.head.framing() {
            ResponseFraming::None => (Framing::Length(0), BodySize::None),
            ResponseFraming::Length(length) => (Framing::Length(length), BodySize::Length(length)),
            ResponseFraming::Chunked => (BodyReader::chunked(), BodySize::Unknown),
            ResponseFraming::UntilClose => (Framing::UntilClose, BodySize::Unknown),
        };
        let reusable = self.head.keep_alive() && !matches!(framing, Framing::UntilClose);
        let lines = ResponseLines { buf: self.buf, head: self.head };
        let lines = Answered { lines: &lines, answer: self.attempt.cors };
        let lines = Edited { lines: &lines, edits: self.attempt.response_edits, variables: NoVariables };
        let lines = WithCookies { lines: &lines, granted: self.attempt.granted, status };
        if let Some(begun) = self.attempt.begun {
            begun.answered(&lines);
        }
        let lines = Marked { lines: &lines, marks: &self.attempt.marks, status, received: self.buf.len() };
        let declared_length = self.head.content_length();
        self.attempt.status.set(status);
        if !self.attempt.uploaded.get() {
            // What is still to come of the request may never be read.
            sink.close_after();
        }
        sink.head(ResponseHead { status, size, lines: &lines, ends_with_body: true, declared_length }).await?;
        let mut reader = BodyReader::new(framing, consumed);
        let bytes = self.relay(&mut reader, sink).await?;
        sink.finish(reader.take_trailers()).await?;
        // Bytes behind the response were not asked for: the two ends do not agree on where it ends.
        let in_step = reader.end() == self.buf.len();
        Ok(Done { served: Served { status, first_byte, bytes }, reusable: reusable && in_step })
    }

    async fn read_head(&mut self) -> Result<usize, Fault> {
        // While the request is being sent, the deadline is that of the client, who may be the one to wait for.
        if self.attempt.uploaded.get() {
            self.attempt.timer.set(self.attempt.timeouts.idle);
        }
        loop {
            match parse_response(self.buf, &Limits::DEFAULT, self.out.method, self.head) {
                Ok(Status::Complete(consumed)) => return Ok(consumed),
                Ok(Status::Partial) => {}
                Err(error) => return Err(Fault::new(Reason::UpstreamInvalid).detail(error.reason())),
            }
            if self.buf.len() == self.buf.capacity() {
                // Nothing is reserved for a buffer that is still to be lent.
                let more = self.buf.capacity();
                self.buf.reserve(more);
            }
            let closed = |detail: &dyn std::fmt::Display, nothing_yet: bool| {
                let retry = if nothing_yet { RetryAdvice::IfIdempotent } else { RetryAdvice::Never };
                Fault::new(Reason::UpstreamClosed).detail(detail).retry(retry)
            };
            match self.attempt.timer.run(self.read()).await {
                Ok(Ok(0)) => {
                    let detail = if self.out.reused { "closed while idle" } else { "closed without an answer" };
                    return Err(closed(&detail, self.buf.is_empty()));
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(closed(&error, self.buf.is_empty())),
                Err(_) => return Err(Reason::UpstreamTimeout.into()),
            }
        }
    }

    async fn read(&mut self) -> std::io::Result<usize> {
        if self.buf.capacity() > 0 {
            return self.conn.read_buf(self.buf).await;
        }
        let (n, lent) = self.conn.read_when_ready().await?;
        *self.buf = lent;
        Ok(n)
    }

    /// Passes the body on; returns its size in bytes.
    async fn relay<S: ResponseSink>(&mut self, reader: &mut BodyReader, sink: &mut S) -> Result<u64, Fault> {
        let mut bytes = 0;
        loop {
            while let Some(part) = reader.buffered(self.buf).map_err(body_fault)? {
                bytes += part.len() as u64;
                sink.piece(Piece::Slice(&self.buf[part])).await?;
            }
            if reader.is_done() {
                return Ok(bytes);
            }
            sink.flush().await?;
            if let Some(moved) = self.splice(reader, sink).await? {
                bytes += moved;
                continue;
            }
            self.attempt.timer.set(self.attempt.timeouts.idle);
            match self.attempt.timer.run(reader.fill(self.conn, self.buf)).await {
                Ok(filled) => filled.map_err(body_fault)?,
                Err(_) => return Err(Reason::UpstreamTimeout.into()),
            }
        }
    }

    /// Lets the kernel move what is left of a long body between two plain sockets.
    async fn splice<S: ResponseSink>(&self, reader: &mut BodyReader, sink: &mut S) -> Result<Option<u64>, Fault> {
        let Some(left) = reader.remaining().filter(|left| *left >= SPLICE_FROM) else { return Ok(None) };
        let (Some(from), Some(to)) = (self.conn.plain(), sink.splice_target()) else { return Ok(None) };
        let timer = self.attempt.timer;
        let (patience, idle) = (self.attempt.accepted.settings().body_timeout, self.attempt.timeouts.idle);
        let step = patience.min(idle);
        let waited = Cell::new(Duration::ZERO);
        timer.set(step);
        let moved = {
            let mut work = pin!(splice(from, to, left, |_| {
                waited.set(Duration::ZERO);
                timer.set(step);
            }));
            loop {
                match timer.run(work.as_mut()).await {
                    Ok(Ok(moved)) => break moved,
                    Ok(Err(error)) => match error.by {
                        SpliceSide::Pipe => return Ok(None),
                        SpliceSide::From => return Err(Fault::new(Reason::UpstreamTruncated).detail(error.cause)),
                        SpliceSide::To => return Err(Fault::new(Reason::DownstreamClosed).detail(error.cause)),
                    },
                    Err(_) => {
                        waited.set(waited.get() + step);
                        // A client that does not read is not the endpoint's fault.
                        let blocked = poll_fn(|cx| Poll::Ready(to.poll_write_ready(cx).is_pending())).await;
                        if blocked && waited.get() >= patience {
                            return Err(Fault::new(Reason::DownstreamClosed).detail("the client stopped reading"));
                        }
                        if !blocked && waited.get() >= idle {
                            return Err(Reason::UpstreamTimeout.into());
                        }
                        timer.set(step);
                    }
                }
            }
        };
        if moved < left {
            return Err(Reason::UpstreamTruncated.into());
        }
        reader.skip(moved);
        sink.spliced(moved);
        Ok(Some(moved))
    }

    /// Both ends leave HTTP (RFC 9110 section 7.8).
    async fn switch<S: ResponseSink>(&mut self, consumed: usize, sink: &mut S) -> Result<Done, Fault> {
        let first_byte = self.attempt.started.elapsed();
        let Some(protocol) = self.head.upgrade(self.buf).filter(|_| self.out.wants_upgrade) else {
            return Err(Fault::new(Reason::UpstreamInvalid).detail("101 without a request to switch protocols"));
        };
        let mut answer = Buffer::small();
        encode::write_status_line(101, &mut answer);
        ResponseLines { buf: self.buf, head: self.head }
            .each(|name, value| encode::write_field(name, value, &mut answer));
        encode::write_field(b"connection", b"upgrade", &mut answer);
        encode::write_field(b"upgrade", protocol, &mut answer);
        answer.extend_from_slice(b"\r\n");
        answer.extend_from_slice(&self.buf[consumed..]);
        let Some(tunnel) = sink.tunnel() else { return Err(Reason::NotImplemented.into()) };
        let bytes = tunnel::run(&tunnel, self.conn, self.attempt.timer, &answer).await;
        Ok(Done { served: Served { status: 101, first_byte, bytes }, reusable: false })
    }
}

fn body_fault(error: BodyError) -> Fault {
    match error {
        BodyError::Io(error) => Fault::new(Reason::UpstreamTruncated).detail(error),
        BodyError::Truncated => Reason::UpstreamTruncated.into(),
        BodyError::Chunk(error) => Fault::new(Reason::UpstreamInvalid).detail(error.reason()),
    }
}
