//! The life of a request: client, route, filters, endpoint, response, log.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use headwater_http1::Method;
use headwater_model::gateway::{Action, Forward, HeaderEdits, RouteTimeouts, UpstreamProtocol};

use crate::accept::Accepted;
use crate::affinity::{self, Choice};
use crate::buffer::Buffer;
use crate::compress::Compressed;
use crate::fault::{Fault, Reason, RetryAdvice};
use crate::mark::{Marks, Trace};
use crate::message::{BodySize, Request, RequestBody, ResponseSink, is_idempotent};
use crate::plan::{self, Plan};
use crate::record::Record;
use crate::timer::Timer;
use crate::trace::Begun;
use crate::upstream::{Lease, Tried};
use crate::{auth, cors, h1, h2, outbound, redirect, respond};

/// What one attempt needs to know besides request and response.
pub(crate) struct Attempt<'a> {
    pub(crate) accepted: &'a Accepted,
    pub(crate) timer: &'a Timer,
    pub(crate) timeouts: RouteTimeouts,
    /// Of the rule, of the backend.
    pub(crate) response_edits: [&'a HeaderEdits; 2],
    pub(crate) cors: Option<cors::Answer<'a>>,
    /// What the auth server said of the request.
    pub(crate) granted: Option<&'a auth::Granted>,
    /// The span that is told of the response's headers.
    pub(crate) begun: Option<&'a Begun>,
    pub(crate) marks: Marks,
    pub(crate) started: Instant,
    /// Whether the request's body has gone out whole.
    pub(crate) uploaded: Cell<bool>,
    /// Status of the response's head once it was passed on; 0 before.
    pub(crate) status: Cell<u16>,
}

/// A response that was passed on to its end.
pub(crate) struct Served {
    pub(crate) status: u16,
    /// From the start of the attempt to the head of the response.
    pub(crate) first_byte: Duration,
    /// Of the body, as the endpoint sent it.
    pub(crate) bytes: u64,
}

/// Serves one request; whatever happens it is answered, or cut off when too late for an answer, and logged.
pub(crate) async fn run<R: Request, B: RequestBody, S: ResponseSink>(
    accepted: &Rc<Accepted>,
    timer: &Timer,
    started: Instant,
    request: &R,
    body: &mut B,
    sink: &mut S,
) {
    let mut record = Record::new(started);
    let listener = accepted.slot.current();
    record.port = listener.snapshot.port;
    let _under_way = accepted.worker.metrics.begin();
    let mut trace = Trace::default();
    let plan = plan::plan(accepted, &listener, request);
    let result = match &plan {
        Ok(plan) => {
            record.planned(plan);
            let result = act(accepted, timer, request, body, sink, plan, &mut record).await;
            if result.is_err() {
                let address = record.endpoint.as_ref().map_or("", |endpoint| &*endpoint.text);
                trace = Trace::of(accepted.settings(), request, plan, &String::new, address);
            }
            result
        }
        Err(refused) => {
            record.client = refused.client.clone();
            Err(refused.fault.clone())
        }
    };
    if let Err(fault) = result {
        answer_fault(accepted, &fault, body, sink, &trace, &mut record).await;
        record.fault = Some(fault);
    }
    accepted.worker.finished(accepted, request, plan.as_ref().ok(), &record);
}

/// A head that could not be read was refused.
pub(crate) fn log_unparsed(accepted: &Rc<Accepted>, started: Instant, fault: &Fault, bytes: usize) {
    let mut record = Record::new(started);
    record.status = record.manner(accepted.settings().error_style).status(fault.reason);
    record.sent_bytes = bytes as u64;
    record.fault = Some(fault.clone());
    accepted.worker.finished_unparsed(accepted, &record);
}

async fn answer_fault<B: RequestBody, S: ResponseSink>(
    accepted: &Accepted,
    fault: &Fault,
    body: &B,
    sink: &mut S,
    trace: &Trace,
    record: &mut Record<'_>,
) {
    let manner = record.manner(accepted.settings().error_style);
    if sink.is_started() || fault.reason == Reason::DownstreamClosed {
        // Too late for an answer, or nobody to hear it: the caller cuts the connection, or the stream, off.
        if record.status == 0 {
            record.status = fault.reason.status();
        }
        return;
    }
    if !body.is_done() {
        sink.close_after();
    }
    record.status = manner.status(fault.reason);
    if let Ok(bytes) = respond::send_fault(sink, fault, manner, trace).await {
        record.sent_bytes = bytes;
    }
}

async fn act<R: Request, B: RequestBody, S: ResponseSink>(
    accepted: &Rc<Accepted>,
    timer: &Timer,
    request: &R,
    body: &mut B,
    sink: &mut S,
    plan: &Plan<'_>,
    record: &mut Record<'_>,
) -> Result<(), Fault> {
    let _slot = accepted.worker.admit_client(accepted, plan)?;
    if let BodySize::Length(length) = request.body_size() {
        let limit = accepted.settings().limits.body_bytes;
        if limit != 0 && length > limit {
            return Err(Reason::BodyTooLarge.into());
        }
    }
    let redirect = match &plan.rule.action {
        Action::Redirect(redirect) => redirect,
        Action::Forward(Forward { https_redirect: Some(redirect), .. })
            if plan.client.scheme == headwater_client_address::Scheme::Http
                && !redirect.exempt.iter().any(|exempt| plan.path.as_str().starts_with(&**exempt)) =>
        {
            redirect
        }
        Action::Forward(forward) => {
            if let Some(answer) = cors::Answer::to(plan.rule, request).filter(|_| request.method() == "OPTIONS") {
                if !body.is_done() {
                    sink.close_after();
                }
                record.status = 204;
                return respond::send_preflight(sink, &answer).await;
            }
            if let Some(auth) = &plan.rule.auth
                && !auth::admit(accepted, timer, request, body, sink, plan, auth, record).await?
            {
                return Ok(());
            }
            return match forward.timeouts.request {
                None => self::forward(accepted, timer, request, body, sink, plan, forward, record).await,
                Some(limit) => {
                    let work = self::forward(accepted, timer, request, body, sink, plan, forward, record);
                    tokio::time::timeout(limit, work).await.unwrap_or(Err(Reason::RequestTimeout.into()))
                }
            };
        }
        Action::Refuse(refuse) => return Err(Reason::of_word(&refuse.reason).into()),
        _ => return Err(Reason::InvalidRule.into()),
    };
    if !body.is_done() {
        sink.close_after();
    }
    let location = redirect::location(redirect, plan, request)
        .ok_or_else(|| Fault::new(Reason::BadRequest).detail("no host to redirect to"))?;
    record.status = redirect.status;
    respond::send_redirect(sink, redirect.status, &location).await
}

#[expect(clippy::too_many_arguments, reason = "the parts of one exchange, each borrowed differently")]
async fn forward<R: Request, B: RequestBody, S: ResponseSink>(
    accepted: &Rc<Accepted>,
    timer: &Timer,
    request: &R,
    body: &mut B,
    sink: &mut S,
    plan: &Plan<'_>,
    forward: &Forward,
    record: &mut Record<'_>,
) -> Result<(), Fault> {
    let worker = &accepted.worker;
    let sink = &mut Compressed::new(sink, accepted.settings().compression.as_deref(), request);
    if let Some(trace) = &plan.rule.trace {
        let random = [(); 3].map(|()| worker.random());
        plan.begun.get_or_init(|| worker.tracer.begin(trace, request, random));
    }
    let choice = affinity::choose(worker, forward, plan, request)?;
    let call = Call { accepted, timer, request, plan, forward, choice };
    let (choice, pool) = (&call.choice, &call.choice.pool);
    record.pool = Some(pool.clone());
    let idempotent = is_idempotent(request.method());
    let mut tried = Tried::default();
    let mut began = Instant::now();
    pool.deposit(forward.retry.budget_percent, worker.nanoseconds(began));
    for attempt in 1.. {
        let lease = pool
            .pick(&forward.balance, choice.key, choice.home, worker, worker.nanoseconds(began), &mut tried)
            .ok_or(Reason::NoEndpoints)?;
        record.endpoint = Some(lease.endpoint.clone());
        record.attempts = attempt;
        record.began = Some(began);
        let result = call.once(&lease, began, body, sink, record).await;
        let ended = Instant::now();
        record.ended = Some(ended);
        let fault = match result {
            Ok(()) => {
                record.sent_bytes = sink.sent().unwrap_or(record.sent_bytes);
                lease.succeeded(record.first_byte.unwrap_or_default(), ended);
                return Ok(());
            }
            // The attempt was given up, whatever it was waiting for: that is not held against the endpoint.
            Err(_) if timer.is_given_up() => Reason::DownstreamClosed.into(),
            Err(fault) => fault,
        };
        lease.failed(&fault, ended.duration_since(began), ended);
        let may = match fault.retry {
            RetryAdvice::Never => false,
            RetryAdvice::Safe => true,
            RetryAdvice::IfIdempotent => idempotent,
        };
        let again = may && !sink.is_started() && !body.is_touched() && attempt < forward.retry.attempts;
        if !again || !pool.withdraw(worker.nanoseconds(ended)) {
            return Err(fault);
        }
        began = ended;
        worker.metrics.retries.add(1);
        tracing::debug!(endpoint = %lease.endpoint.address, %fault, "trying another endpoint");
    }
    Err(Reason::NoEndpoints.into())
}

/// A request on its way to one pool.
struct Call<'a, R> {
    accepted: &'a Rc<Accepted>,
    timer: &'a Timer,
    request: &'a R,
    plan: &'a Plan<'a>,
    forward: &'a Forward,
    choice: Choice<'a>,
}

impl<R: Request> Call<'_, R> {
    /// One attempt at one endpoint.
    async fn once<B: RequestBody, S: ResponseSink>(
        &self,
        lease: &Lease,
        started: Instant,
        body: &mut B,
        sink: &mut S,
        record: &mut Record<'_>,
    ) -> Result<(), Fault> {
        let settings = self.accepted.settings();
        let attempt = Attempt {
            accepted: self.accepted,
            timer: self.timer,
            timeouts: self.forward.timeouts,
            cors: cors::Answer::to(self.plan.rule, self.request),
            granted: self.plan.granted.get(),
            begun: self.plan.begun.get().filter(|begun| begun.wants_response),
            marks: Marks {
                cookie: self.choice.cookie(lease, self.plan, self.request),
                trace: Trace::of(settings, self.request, self.plan, &|| lease.pool.name(), &lease.endpoint.text),
                error_style: settings.error_style,
            },
            response_edits: [&self.plan.rule.filters.response_headers, &self.choice.backend.filters.response_headers],
            started,
            uploaded: Cell::new(body.is_done()),
            status: Cell::new(0),
        };
        let served = match self.choice.pool.protocol() {
            UpstreamProtocol::Http1 => self.once_h1(&attempt, lease, body, sink, record).await,
            UpstreamProtocol::Http2 => self.once_h2(&attempt, lease, body, sink, record).await,
            UpstreamProtocol::Tcp | UpstreamProtocol::Udp => {
                Err(Fault::new(Reason::UnsupportedBackend).detail("the pool is not for HTTP"))
            }
        };
        record.status = attempt.status.get();
        record.served(&served?);
        Ok(())
    }

    async fn once_h2<B: RequestBody, S: ResponseSink>(
        &self,
        attempt: &Attempt<'_>,
        lease: &Lease,
        body: &mut B,
        sink: &mut S,
        record: &mut Record<'_>,
    ) -> Result<Served, Fault> {
        let stream = self.choice.pool.http2(lease, attempt, self.plan, self.request.authority()).await?;
        record.connect = Some(attempt.started.elapsed());
        let head =
            outbound::http2_head(self.request, self.plan, &self.choice.backend.filters, self.choice.pool.has_tls())?;
        h2::up::attempt(attempt, stream.send.clone(), head, self.request.body_size(), body, sink).await
    }

    async fn once_h1<B: RequestBody, S: ResponseSink>(
        &self,
        attempt: &Attempt<'_>,
        lease: &Lease,
        body: &mut B,
        sink: &mut S,
        record: &mut Record<'_>,
    ) -> Result<Served, Fault> {
        let careful = !is_idempotent(self.request.method());
        let (conn, reused) = match lease.checkout(careful) {
            Some(conn) => (conn, true),
            None => {
                let conn = self.choice.pool.connect(lease, attempt, self.plan, self.request.authority()).await?;
                record.connect = Some(attempt.started.elapsed());
                (conn, false)
            }
        };
        let mut head = Buffer::small();
        outbound::http1_head(self.request, self.plan, &self.choice.backend.filters, &mut head);
        let out = h1::up::Outgoing {
            head,
            method: Method::of(self.request.method().as_bytes()),
            size: self.request.body_size(),
            wants_upgrade: self.request.upgrade().is_some(),
            reused,
        };
        let (served, conn) = h1::up::attempt(attempt, conn, out, body, sink).await?;
        if let Some(conn) = conn {
            self.choice.pool.checkin(lease, conn, self.accepted.worker.timers.now_ms());
        }
        Ok(served)
    }
}
