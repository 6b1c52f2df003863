//! Downstream HTTP/2: each stream is an exchange of its own.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason as H2Reason, RecvStream, SendStream};
use headwater_client_address::HeaderSource;
use headwater_model::settings::Limits;
use http::header::{CONTENT_LENGTH, HOST, TE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::{CONNECTION_WINDOW, Lines, SEND_BUFFER, STREAM_WINDOW, append, map_of, next_data, poll_send, trailers_of};
use crate::accept::Accepted;
use crate::cork::{Cork, Corked};
use crate::exchange;
use crate::fault::{Fault, Reason};
use crate::io::Rewound;
use crate::message::{BodySize, HeaderLines, Piece, Request, RequestBody, ResponseHead, ResponseSink, Trailers};
use crate::timer::{Interrupt, Timer};

/// Streams reset by the peer before we looked at them, and by us for its errors, before the connection is closed
/// (rapid reset, CVE-2023-44487, and its sequel of 2025).
const MAX_PENDING_RESETS: usize = 32;
const MAX_ERROR_RESETS: usize = 256;

/// Requests that a peer may reset before their answer began, before they may not be the most of its requests: each of
/// them makes an endpoint work for nothing.
const ABANDONED_FREE: u64 = 500;

/// How long the last words of a connection may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves one connection to its end.
pub(crate) async fn serve(accepted: Rc<Accepted>, io: Rewound, timer: Timer) {
    let (cork, corked) = Cork::new(io);
    converse(accepted, &cork, corked, &timer).await;
    timer.set(FAREWELL);
    let _ = timer.run(cork.drain()).await;
}

async fn converse(accepted: Rc<Accepted>, cork: &Cork<Rewound>, io: Corked<Rewound>, timer: &Timer) {
    let settings = accepted.settings();
    let limits = settings.limits;
    timer.set(settings.header_timeout);
    let handshake = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.http2_streams)
        .max_header_list_size(limits.header_bytes)
        .max_concurrent_reset_streams(MAX_PENDING_RESETS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
        .max_send_buffer_size(SEND_BUFFER)
        .handshake::<_, Bytes>(io);
    let Ok(Ok(mut connection)) = timer.run(cork.with(handshake)).await else { return };
    let streams = Rc::new(Streams::default());
    let mut draining = false;
    timer.set(settings.idle_timeout);
    loop {
        let next = cork.with(connection.accept());
        let next = if draining { timer.run(next).await } else { timer.run_idle(next).await };
        match next {
            Ok(Some(Ok((request, respond)))) => {
                if streams.are_abused() {
                    drop((request, respond));
                    connection.abrupt_shutdown(H2Reason::ENHANCE_YOUR_CALM);
                    timer.set(settings.header_timeout);
                    while let Ok(Some(Ok(_))) = timer.run(cork.with(connection.accept())).await {}
                    return;
                }
                let (accepted, active) = (accepted.clone(), Active::new(&streams));
                timer.set(settings.idle_timeout);
                tokio::task::spawn_local(async move { stream(accepted, request, respond, &active).await });
                let most = u64::from(limits.requests_per_connection);
                if most != 0 && streams.begun.get() >= most && !draining {
                    draining = true;
                    connection.graceful_shutdown();
                }
            }
            Ok(Some(Err(_)) | None) | Err(Interrupt::Gone) => return,
            // Nothing new for a while: only a connection without streams is idle.
            Err(Interrupt::Expired) if streams.active.get() > 0 => timer.set(settings.idle_timeout),
            Err(Interrupt::Expired) if draining => return,
            Err(Interrupt::Expired | Interrupt::Drain) => {
                // Says which streams will still be served; the connection ends with the last of them.
                draining = true;
                connection.graceful_shutdown();
                timer.set(settings.idle_timeout);
            }
        }
    }
}

/// Counts the streams of a connection.
#[derive(Default)]
struct Streams {
    active: Cell<u64>,
    begun: Cell<u64>,
    /// Reset by the peer before an answer began.
    abandoned: Cell<u64>,
}

impl Streams {
    fn are_abused(&self) -> bool {
        let abandoned = self.abandoned.get();
        abandoned > ABANDONED_FREE && 2 * abandoned > self.begun.get()
    }
}

/// A stream that is being served.
struct Active(Rc<Streams>);

impl Active {
    fn new(streams: &Rc<Streams>) -> Self {
        streams.active.set(streams.active.get() + 1);
        streams.begun.set(streams.begun.get() + 1);
        Self(streams.clone())
    }

    fn abandoned(&self) {
        self.0.abandoned.set(self.0.abandoned.get() + 1);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

async fn stream(
    accepted: Rc<Accepted>,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    active: &Active,
) {
    let started = Instant::now();
    let timer = accepted.worker.timers.timer(accepted.group);
    let (parts, receive) = request.into_parts();
    let is_head = parts.method == http::Method::HEAD;
    let view = View { body: size_of(&parts.headers, &receive), parts, limits: accepted.settings().limits };
    let mut body =
        Body { receive, timer: &timer, accepted: &accepted, trailers: None, taken: 0, touched: false, done: false };
    let respond = RefCell::new(Respond::Head(respond));
    let mut sink = Sink {
        respond: &respond,
        timer: &timer,
        accepted: &accepted,
        is_head,
        started: false,
        ended: false,
        left: None,
    };
    {
        let mut run = pin!(exchange::run(&accepted, &timer, started, &view, &mut body, &mut sink));
        poll_fn(|cx| {
            // A stream that was reset makes room for another at once: what it set in motion must stop at once, too
            // (CVE-2023-44487).
            if !timer.is_given_up() && respond.borrow_mut().poll_reset(cx).is_ready() {
                timer.give_up();
            }
            run.as_mut().poll(cx)
        })
        .await;
    }
    let ended = sink.ended;
    let mut respond = respond.borrow_mut();
    if timer.is_given_up() && matches!(*respond, Respond::Head(_)) {
        active.abandoned();
    }
    // An answer that is complete without the rest of the request is followed by a reset without error (RFC 9113 section
    // 8.1). The protocol layer sends it once both halves are dropped; asked to send it, it would drop the answer.
    if !ended {
        respond.send_reset(H2Reason::INTERNAL_ERROR);
    }
}

/// Our half of a stream.
enum Respond {
    Head(SendResponse<Bytes>),
    Body(SendStream<Bytes>),
}

impl Respond {
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Head(respond) => respond.poll_reset(cx).map(drop),
            Self::Body(stream) => stream.poll_reset(cx).map(drop),
        }
    }

    fn send_reset(&mut self, reason: H2Reason) {
        match self {
            Self::Head(respond) => respond.send_reset(reason),
            Self::Body(stream) => stream.send_reset(reason),
        }
    }
}

fn size_of(headers: &HeaderMap, receive: &RecvStream) -> BodySize {
    if receive.is_end_stream() {
        return BodySize::None;
    }
    // More than one, or one that is no number, was refused by the protocol layer.
    match headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()) {
        Some(length) => BodySize::Length(length),
        None => BodySize::Unknown,
    }
}

/// A request's head.
struct View {
    parts: http::request::Parts,
    body: BodySize,
    limits: Limits,
}

impl HeaderLines for View {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        let mut cookies: Vec<u8> = Vec::new();
        Lines(&self.parts.headers).each(|name, value| match name {
            // Crumbs are one line again towards HTTP/1 and the rules (RFC 9113 section 8.2.3).
            b"cookie" => {
                if !cookies.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(value);
            }
            b"expect" => {}
            _ => visit(name, value),
        });
        if !cookies.is_empty() {
            visit(b"cookie", &cookies);
        }
    }
}

impl HeaderSource for View {
    fn values<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a [u8]> + 'a {
        self.parts.headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }
}

impl View {
    /// Why the request would not be let in if it were written in HTTP/1.1: an endpoint gets from neither version what the
    /// other refuses.
    fn unfit(&self) -> Option<Reason> {
        let (method, target) = (self.parts.method.as_str(), self.target());
        let line = method.len() + target.len() + "  HTTP/1.1".len();
        // Some endpoints cannot tell `_` from `-`.
        let disguised = |name: &http::HeaderName| {
            let name = name.as_str();
            name.contains('_') && matches!(&*name.replace('_', "-"), "content-length" | "transfer-encoding")
        };
        if line > self.limits.request_line_bytes as usize {
            Some(Reason::UriTooLong)
        } else if self.parts.headers.len() > self.limits.header_count as usize {
            Some(Reason::HeaderTooLarge)
        } else if !headwater_http1::is_target(target.as_bytes()) || (target == "*" && method != "OPTIONS") {
            Some(Reason::BadRequest)
        } else {
            self.parts.headers.keys().any(disguised).then_some(Reason::BadRequest)
        }
    }
}

impl Request for View {
    fn method(&self) -> &str {
        self.parts.method.as_str()
    }

    fn target(&self) -> &str {
        self.parts.uri.path_and_query().map_or("/", |target| target.as_str())
    }

    fn authority(&self) -> &[u8] {
        match self.parts.uri.authority() {
            Some(authority) => authority.as_str().as_bytes(),
            None => self.parts.headers.get(HOST).map_or(b"", HeaderValue::as_bytes),
        }
    }

    fn each_value<'a>(&'a self, name: &str, mut visit: impl FnMut(&'a [u8])) {
        for value in self.parts.headers.get_all(name) {
            visit(value.as_bytes());
        }
    }

    fn body_size(&self) -> BodySize {
        self.body
    }

    fn accepts_trailers(&self) -> bool {
        // The protocol layer lets no other value through (RFC 9113 section 8.2.2).
        self.parts.headers.contains_key(TE)
    }

    fn version(&self) -> &'static str {
        "HTTP/2.0"
    }

    fn conflict(&self) -> Option<Reason> {
        if let Some(reason) = self.unfit() {
            return Some(reason);
        }
        let authority = self.parts.uri.authority();
        let mut hosts = self.parts.headers.get_all(HOST).iter();
        match (authority, hosts.next(), hosts.next()) {
            (_, _, Some(_)) => Some(Reason::HostMismatch),
            (Some(authority), Some(host), None) => {
                (!host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())).then_some(Reason::HostMismatch)
            }
            (None, None, None) => Some(Reason::BadRequest),
            _ if self.parts.method == http::Method::CONNECT => Some(Reason::NotImplemented),
            _ => None,
        }
    }
}

/// A request's body.
struct Body<'a> {
    receive: RecvStream,
    timer: &'a Timer,
    accepted: &'a Accepted,
    trailers: Option<HeaderMap>,
    taken: u64,
    touched: bool,
    done: bool,
}

impl RequestBody for Body<'_> {
    async fn next(&mut self) -> Result<Option<Piece<'_>>, Fault> {
        if self.done {
            return Ok(None);
        }
        let settings = self.accepted.settings();
        self.timer.set(settings.body_timeout);
        match self.timer.run(next_data(&mut self.receive)).await.map_err(|_| Reason::BodyTimeout)? {
            Some(Ok(bytes)) => {
                self.touched = true;
                self.taken += bytes.len() as u64;
                if settings.limits.body_bytes != 0 && self.taken > settings.limits.body_bytes {
                    return Err(Reason::BodyTooLarge.into());
                }
                Ok(Some(Piece::Bytes(bytes)))
            }
            Some(Err(error)) => Err(closed(&error)),
            None => {
                let trailers = self.timer.run(self.receive.trailers()).await.map_err(|_| Reason::BodyTimeout)?;
                self.trailers = trailers.map_err(|error| closed(&error))?;
                self.done = true;
                Ok(None)
            }
        }
    }

    fn take_trailers(&mut self) -> Trailers {
        trailers_of(self.trailers.take())
    }

    fn is_touched(&self) -> bool {
        self.touched
    }

    fn is_done(&self) -> bool {
        self.done
    }
}

fn closed(error: &h2::Error) -> Fault {
    Fault::new(Reason::DownstreamClosed).detail(error)
}

/// Where the response goes.
struct Sink<'a> {
    /// Borrowed for the time of a poll only: whoever waits for a reset borrows it, too.
    respond: &'a RefCell<Respond>,
    timer: &'a Timer,
    accepted: &'a Accepted,
    is_head: bool,
    started: bool,
    ended: bool,
    /// Bytes still to come of a body that nothing follows: the last of them ends the stream.
    left: Option<u64>,
}

impl ResponseSink for Sink<'_> {
    async fn informational<L: HeaderLines>(&mut self, status: u16, lines: &L) -> Result<(), Fault> {
        // 100 has no use here: the peer's flow control already said how much it may send.
        if status == 100 || self.started {
            return Ok(());
        }
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).map_err(|_| Reason::UpstreamInvalid)?;
        super::collect_lines(lines, response.headers_mut());
        match &mut *self.respond.borrow_mut() {
            Respond::Head(respond) => respond.send_informational(response).map_err(|error| closed(&error)),
            Respond::Body(_) => Ok(()),
        }
    }

    async fn head<L: HeaderLines>(&mut self, head: ResponseHead<'_, L>) -> Result<(), Fault> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(head.status).map_err(|_| Reason::UpstreamInvalid)?;
        let map = response.headers_mut();
        super::collect_lines(head.lines, map);
        let length = match head.size {
            BodySize::Length(length) => Some(length),
            BodySize::None => head.declared_length,
            BodySize::Unknown => None,
        };
        if let Some(length) = length {
            append(map, b"content-length", itoa::Buffer::new().format(length).as_bytes());
        }
        let end = self.is_head || matches!(head.size, BodySize::None | BodySize::Length(0));
        self.started = true;
        if let BodySize::Length(length) = head.size
            && head.ends_with_body
        {
            self.left = Some(length);
        }
        let mut respond = self.respond.borrow_mut();
        let Respond::Head(head) = &mut *respond else { return Err(Reason::Internal.into()) };
        let stream = head.send_response(response, end).map_err(|error| closed(&error))?;
        *respond = Respond::Body(stream);
        self.ended = end;
        Ok(())
    }

    async fn piece(&mut self, piece: Piece<'_>) -> Result<(), Fault> {
        if self.ended {
            return Ok(());
        }
        self.timer.set(self.accepted.settings().body_timeout);
        let mut bytes = piece.into_bytes();
        let length = bytes.len() as u64;
        let is_last = self.left == Some(length);
        let send = poll_fn(|cx| match &mut *self.respond.borrow_mut() {
            Respond::Body(stream) => poll_send(stream, &mut bytes, is_last, cx),
            Respond::Head(_) => Poll::Ready(Ok(())),
        });
        let sent = self.timer.run(send).await;
        self.left = self.left.map(|left| left.saturating_sub(length));
        self.ended = is_last && matches!(sent, Ok(Ok(())));
        match sent {
            Ok(sent) => sent.map_err(|error| closed(&error)),
            Err(_) => Err(Fault::new(Reason::DownstreamClosed).detail("the client stopped reading")),
        }
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    async fn finish(&mut self, trailers: Trailers) -> Result<(), Fault> {
        let mut respond = self.respond.borrow_mut();
        let Respond::Body(stream) = &mut *respond else { return Ok(()) };
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        let ended = if trailers.is_empty() {
            stream.send_data(Bytes::new(), true)
        } else {
            stream.send_trailers(map_of(&trailers))
        };
        ended.map_err(|error| closed(&error))
    }

    fn is_started(&self) -> bool {
        self.started
    }
}
