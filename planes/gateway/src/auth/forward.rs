//! Asking an auth server about a request.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use headwater_auth::{Facts, RenderError, render};
use headwater_client_address::{Verdict as Passes, verdict};
use headwater_http1::{Method, encode};
use headwater_model::gateway::{Balance, ForwardAuth, HeaderEdits, RouteTimeouts, Template, Variable};

use super::{Denial, Granted, Verdict, is_spelled_like};
use crate::accept::Accepted;
use crate::buffer::Buffer;
use crate::exchange::Attempt;
use crate::fault::{Fault, Reason, RetryAdvice};
use crate::h1;
use crate::headers::Variables as _;
use crate::mark::Marks;
use crate::message::{
    BodySize, HeaderLines, Piece, Request, RequestBody, ResponseHead, ResponseSink, Trailers, is_idempotent,
};
use crate::outbound;
use crate::plan::Plan;
use crate::timer::Timer;
use crate::upstream::{Lease, PoolRuntime, Tried};
use crate::variable::Asked;

/// Time for the answer, connecting and all tries included.
const PATIENCE: Duration = Duration::from_secs(5);
const TIMEOUTS: RouteTimeouts =
    RouteTimeouts { connect: PATIENCE, send: PATIENCE, idle: PATIENCE, request: Some(PATIENCE) };
/// A kept connection may have ended in the meantime, and so may an address.
const ATTEMPTS: u32 = 3;
/// The answer's body is read so that the connection can be used again, but not further than this, in bytes.
const MAX_BODY: u64 = 64 << 10;
/// Longest path and query of the question, and longest place to sign in, in bytes.
const MAX_LINE: usize = 16 << 10;

const X_AUTH_REQUEST_REDIRECT: &str = "x-auth-request-redirect";
/// Lines that we write besides those about the client; the request's own are left out.
const OURS: [&str; 5] =
    ["x-original-uri", "x-original-url", "x-original-method", "x-sent-from", X_AUTH_REQUEST_REDIRECT];

static NO_EDITS: HeaderEdits = HeaderEdits { remove: Vec::new(), set: Vec::new(), add: Vec::new() };

/// Asks, and reads yes or no out of the answer.
pub(super) async fn ask<R: Request>(
    accepted: &Rc<Accepted>,
    timer: &Timer,
    request: &R,
    plan: &Plan<'_>,
    auth: &ForwardAuth,
) -> Result<Verdict, Fault> {
    let asked = Asking { request, plan };
    let head = head(&asked, auth)?;
    let question = Question { accepted, timer, plan, auth, head: &head };
    let answer = match tokio::time::timeout(PATIENCE, question.answer()).await {
        Ok(answer) => answer?,
        Err(_) => return Err(unreachable(format_args!("no answer within {PATIENCE:?}"))),
    };
    judge(&asked, auth, answer)
}

fn unreachable(detail: impl std::fmt::Display) -> Fault {
    Fault::new(Reason::AuthUnreachable).detail(detail)
}

fn unasked(what: &str, error: &RenderError) -> Fault {
    Fault::new(Reason::AuthRequest).detail(format_args!("{what}: {error}"))
}

/// A request that an auth server is asked about.
struct Asking<'a, R> {
    request: &'a R,
    plan: &'a Plan<'a>,
}

impl<R: Request> Facts for Asking<'_, R> {
    fn variable(&self, variable: &Variable, out: &mut Vec<u8>) -> bool {
        let asked = Asked { request: self.request, plan: self.plan };
        match asked.value(variable) {
            Some(value) => out.extend_from_slice(&value),
            None => return false,
        }
        true
    }

    fn target(&self) -> &str {
        self.request.target()
    }

    fn now(&self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }
}

/// The head of the question.
fn head<R: Request>(asking: &Asking<'_, R>, auth: &ForwardAuth) -> Result<Vec<u8>, Fault> {
    let (request, plan) = (asking.request, asking.plan);
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(auth.method.as_bytes());
    out.push(b' ');
    let start = out.len();
    render(&auth.target, asking, &mut out).map_err(|error| unasked("auth-url", &error))?;
    let target = &out[start..];
    // A space would end the target, and what follows would be the client's to choose.
    if !target.iter().all(u8::is_ascii_graphic) || target.contains(&b'#') || target.len() > MAX_LINE {
        return Err(Fault::new(Reason::AuthRequest).detail("auth-url: what it becomes is not a path and query"));
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    encode::write_field(b"host", auth.authority.as_bytes(), &mut out);
    let policy = &plan.listener.snapshot.client_address;
    let trusted = plan.client.trusted_sender;
    request.each(|name, value| {
        let replaced = OURS.iter().any(|ours| is_spelled_like(name, ours))
            || auth.headers.iter().any(|(set, _)| is_spelled_like(name, set));
        if !replaced && !is_about_the_body(name) && verdict(policy, name, trusted) == Passes::Keep {
            encode::write_field(name, value, &mut out);
        }
    });
    outbound::outbound(request, plan).write_http1(&mut out);
    let is_set = |name: &str| auth.headers.iter().any(|(set, _)| &**set == name);
    let scheme = plan.client.scheme.as_str().as_bytes();
    let url = [scheme, b"://", request.authority(), request.target().as_bytes()].concat();
    let lines: [(&str, &[u8]); 4] = [
        ("x-original-uri", request.target().as_bytes()),
        ("x-original-url", &url),
        ("x-original-method", request.method().as_bytes()),
        ("x-sent-from", b"headwater"),
    ];
    for (name, value) in lines.into_iter().filter(|(name, _)| !is_set(name)) {
        encode::write_field(name.as_bytes(), value, &mut out);
    }
    let mut value = Vec::new();
    for (name, template) in
        auth.headers.iter().filter(|(name, _)| auth.redirect.is_none() || &**name != X_AUTH_REQUEST_REDIRECT)
    {
        value.clear();
        match render(template, asking, &mut value) {
            Ok(()) => encode::write_field(name.as_bytes(), &value, &mut out),
            // As nginx does with a line whose value is empty.
            Err(RenderError::Absent(_)) => {}
            Err(error) => return Err(unasked(name, &error)),
        }
    }
    if let Some(template) = &auth.redirect {
        value.clear();
        render(template, asking, &mut value).map_err(|error| unasked("auth-request-redirect", &error))?;
        encode::write_field(X_AUTH_REQUEST_REDIRECT.as_bytes(), &value, &mut out);
    } else if !is_set(X_AUTH_REQUEST_REDIRECT) {
        encode::write_field(X_AUTH_REQUEST_REDIRECT.as_bytes(), request.target().as_bytes(), &mut out);
    }
    if matches!(&*auth.method, "POST" | "PUT" | "PATCH") {
        encode::write_content_length(0, &mut out);
    }
    out.extend_from_slice(b"\r\n");
    Ok(out)
}

/// Lines that ask for a part of what the request is for, or speak of its body: the question has neither.
fn is_about_the_body(name: &[u8]) -> bool {
    const NAMES: [&str; 4] = ["expect", "range", "content-encoding", "content-range"];
    let conditional = name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(b"if-"));
    conditional || NAMES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// One question to one server.
struct Question<'a> {
    accepted: &'a Rc<Accepted>,
    timer: &'a Timer,
    plan: &'a Plan<'a>,
    auth: &'a ForwardAuth,
    head: &'a [u8],
}

impl Question<'_> {
    async fn answer(&self) -> Result<Answer<'_>, Fault> {
        let worker = &self.accepted.worker;
        let authority = &self.auth.authority;
        let unknown = || unreachable(format_args!("{authority} has no address that is known"));
        let pool = worker.upstreams.find(self.auth.pool).ok_or_else(unknown)?;
        let mut tried = Tried::default();
        let mut attempts = 1;
        loop {
            let began = Instant::now();
            let now = worker.nanoseconds(began);
            let lease = pool.pick(&Balance::RoundRobin, None, None, worker, now, &mut tried).ok_or_else(unknown)?;
            let result = self.once(&pool, &lease, began).await;
            let ended = Instant::now();
            let took = ended.duration_since(began);
            let fault = match result {
                Ok(answer) => {
                    lease.succeeded(took, ended);
                    return Ok(answer);
                }
                Err(_) if self.timer.is_given_up() => return Err(Reason::DownstreamClosed.into()),
                Err(fault) => fault,
            };
            lease.failed(&fault, took, ended);
            let again = match fault.retry {
                RetryAdvice::Never => false,
                RetryAdvice::Safe => true,
                RetryAdvice::IfIdempotent => is_idempotent(&self.auth.method),
            };
            if !again || attempts == ATTEMPTS {
                return Err(unreachable(format_args!("{authority}: {fault}")));
            }
            attempts += 1;
        }
    }

    async fn once(&self, pool: &PoolRuntime, lease: &Lease, started: Instant) -> Result<Answer<'_>, Fault> {
        let attempt = Attempt {
            accepted: self.accepted,
            timer: self.timer,
            timeouts: TIMEOUTS,
            response_edits: [&NO_EDITS; 2],
            cors: None,
            granted: None,
            begun: None,
            marks: Marks::default(),
            started,
            uploaded: Cell::new(true),
            status: Cell::new(0),
        };
        let (conn, reused) = match lease.checkout(!is_idempotent(&self.auth.method)) {
            Some(conn) => (conn, true),
            None => (pool.connect(lease, &attempt, self.plan, self.auth.authority.as_bytes()).await?, false),
        };
        let mut head = Buffer::small();
        head.extend_from_slice(self.head);
        let method = Method::of(self.auth.method.as_bytes());
        let out = h1::up::Outgoing { head, method, size: BodySize::None, wants_upgrade: false, reused };
        let mut answer = Answer { wanted: &self.auth.response_headers, ..Answer::default() };
        match h1::up::attempt(&attempt, conn, out, &mut NoBody, &mut answer).await {
            Ok((_, Some(conn))) => pool.checkin(lease, conn, self.accepted.worker.timers.now_ms()),
            Ok((_, None)) => {}
            // All that counts had been read; the connection is not used again.
            Err(_) if answer.body > MAX_BODY => {}
            Err(fault) => return Err(fault),
        }
        Ok(answer)
    }
}

struct NoBody;

impl RequestBody for NoBody {
    async fn next(&mut self) -> Result<Option<Piece<'_>>, Fault> {
        Ok(None)
    }

    fn take_trailers(&mut self) -> Trailers {
        Trailers::new()
    }

    fn is_touched(&self) -> bool {
        false
    }

    fn is_done(&self) -> bool {
        true
    }
}

/// What an auth server answered.
#[derive(Default)]
struct Answer<'a> {
    /// Names of the lines that are for the endpoint.
    wanted: &'a [Box<str>],
    /// 0 before the head came.
    status: u16,
    /// By place in `wanted`.
    headers: Vec<(usize, Vec<u8>)>,
    challenges: Vec<Vec<u8>>,
    cookies: Vec<Vec<u8>>,
    /// Bytes of the body.
    body: u64,
}

impl ResponseSink for Answer<'_> {
    async fn informational<L: HeaderLines>(&mut self, _status: u16, _lines: &L) -> Result<(), Fault> {
        Ok(())
    }

    async fn head<L: HeaderLines>(&mut self, head: ResponseHead<'_, L>) -> Result<(), Fault> {
        self.status = head.status;
        head.lines.each(|name, value| {
            if let Some(place) = self.wanted.iter().position(|wanted| name.eq_ignore_ascii_case(wanted.as_bytes())) {
                self.headers.push((place, value.to_vec()));
            }
            if name.eq_ignore_ascii_case(b"set-cookie") {
                self.cookies.push(value.to_vec());
            } else if name.eq_ignore_ascii_case(b"www-authenticate") {
                self.challenges.push(value.to_vec());
            }
        });
        Ok(())
    }

    async fn piece(&mut self, piece: Piece<'_>) -> Result<(), Fault> {
        self.body += piece.as_slice().len() as u64;
        if self.body > MAX_BODY {
            return Err(Fault::new(Reason::UpstreamInvalid).detail("the answer's body is too long"));
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    async fn finish(&mut self, _trailers: Trailers) -> Result<(), Fault> {
        Ok(())
    }

    fn is_started(&self) -> bool {
        self.status != 0
    }
}

fn judge<R: Request>(asking: &Asking<'_, R>, auth: &ForwardAuth, answer: Answer<'_>) -> Result<Verdict, Fault> {
    let cookies = |answer: Answer<'_>| if auth.always_set_cookie { answer.cookies } else { Vec::new() };
    match answer.status {
        200..300 => {
            let mut headers: Vec<(Box<str>, Vec<Vec<u8>>)> =
                auth.response_headers.iter().map(|name| (name.clone(), Vec::new())).collect();
            for (place, value) in answer.headers {
                headers[place].1.push(value);
            }
            let always_set_cookie = auth.always_set_cookie;
            Ok(Verdict::Granted(Granted { headers, cookies: answer.cookies, always_set_cookie }))
        }
        401 => {
            let location = auth.signin.as_ref().map(|signin| location(asking, signin)).transpose()?;
            let challenges = answer.challenges.clone();
            let detail = format!("{} answered 401", auth.authority);
            Ok(Verdict::Denied(Denial {
                reason: Reason::AuthRequired,
                detail,
                challenges,
                cookies: cookies(answer),
                location,
            }))
        }
        403 => Ok(Verdict::Denied(Denial {
            reason: Reason::AuthForbidden,
            detail: format!("{} answered 403", auth.authority),
            challenges: Vec::new(),
            cookies: cookies(answer),
            location: None,
        })),
        status => Ok(Verdict::Denied(Denial {
            reason: Reason::AuthAnswer,
            detail: format!("{} answered {status}", auth.authority),
            challenges: Vec::new(),
            cookies: cookies(answer),
            location: None,
        })),
    }
}

/// Where to sign in.
fn location<R: Request>(asking: &Asking<'_, R>, signin: &Template) -> Result<String, Fault> {
    let mut out = Vec::new();
    render(signin, asking, &mut out).map_err(|error| unasked("auth-signin", &error))?;
    match String::from_utf8(out) {
        Ok(location) if location.len() <= MAX_LINE && location.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(location)
        }
        _ => Err(Fault::new(Reason::AuthRequest).detail("auth-signin: what it becomes is not a URL")),
    }
}
