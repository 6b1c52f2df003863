//! Pools of this worker: endpoints, their health, and connections to them.

use std::cell::{Cell, Ref, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use headwater_balance::{EndpointId, HealthEvent, InFlight, Outcome, PoolState, RetryBudget, Token};
use headwater_client_address::proxy;
use headwater_model::client::EmitProxyProtocol;
use headwater_model::gateway::{Balance, EndpointAddress, Pool, PoolId, UpstreamProtocol};
use headwater_model::origin::NamespacedName;
use headwater_net_io::connect::{ConnectError, ConnectErrorKind, connect, connect_tls, peek_closed};
use headwater_route_match::normalise_host;
use tokio::io::AsyncWriteExt;

use crate::apply::{CompiledPool, chain};
use crate::buffer::Buffer;
use crate::exchange::Attempt;
use crate::fault::{By, Fault, Reason, RetryAdvice};
use crate::h2::{CONNECTION_WINDOW, SEND_BUFFER, STREAM_WINDOW};
use crate::io::{Conn, Rewound};
use crate::metrics::PoolMetrics;
use crate::plan::Plan;
use crate::worker::Worker;

/// Endpoints that one request was sent to.
pub(crate) type Tried = smallvec::SmallVec<[EndpointId; 4]>;

/// Connections to one HTTP/2 endpoint; each carries as many streams as the endpoint allows.
const MAX_HTTP2_CONNECTIONS: usize = 16;
/// Time between two looks for connections that were idle too long.
const IDLE_SWEEP_MS: u64 = 1000;

/// The pools of a worker, by [`PoolId`].
#[derive(Default)]
pub(crate) struct Upstreams {
    pools: RefCell<Vec<Option<Rc<PoolRuntime>>>>,
    swept_ms: Cell<u64>,
}

impl Upstreams {
    pub(crate) fn find(&self, id: PoolId) -> Option<Rc<PoolRuntime>> {
        self.pools.borrow().get(id.0 as usize)?.clone()
    }

    /// Takes over what has not changed; endpoints that stay keep their connections and their history.
    pub(crate) fn apply(&self, compiled: &[Option<CompiledPool>], worker: &Worker) {
        let mut pools = self.pools.borrow_mut();
        pools.resize_with(compiled.len(), || None);
        for (runtime, compiled) in pools.iter_mut().zip(compiled) {
            match (&runtime, compiled) {
                (_, None) => *runtime = None,
                (Some(known), Some(compiled)) if known.is_unchanged(compiled) => {}
                (Some(known), Some(compiled)) if known.is_same_service(&compiled.pool) => {
                    known.update(compiled, worker)
                }
                (_, Some(compiled)) => *runtime = Some(PoolRuntime::new(compiled, worker)),
            }
        }
    }

    /// Closes connections that were idle for longer than their pool allows.
    pub(crate) fn sweep(&self, now_ms: u64) {
        if now_ms < self.swept_ms.get() + IDLE_SWEEP_MS {
            return;
        }
        self.swept_ms.set(now_ms);
        for pool in self.pools.borrow().iter().flatten() {
            let limit = u64::try_from(pool.pool().keep_alive.idle_timeout.as_millis()).unwrap_or(u64::MAX);
            for endpoint in pool.endpoints.borrow().iter().flatten() {
                endpoint.idle.borrow_mut().retain(|idle| idle.since_ms.saturating_add(limit) > now_ms);
                endpoint.http2.borrow_mut().retain_mut(|conn| !conn.is_lost() && !conn.is_idle(limit, now_ms));
            }
        }
    }
}

/// One pool.
pub(crate) struct PoolRuntime {
    compiled: RefCell<CompiledPool>,
    state: RefCell<PoolState>,
    /// By [`EndpointId::slot`].
    endpoints: RefCell<Vec<Option<Rc<EndpointRuntime>>>>,
    /// With its share in percent.
    budget: RefCell<Option<(u32, RetryBudget)>>,
    pub(crate) metrics: PoolMetrics,
}

/// One endpoint.
pub(crate) struct EndpointRuntime {
    pub(crate) address: SocketAddr,
    /// The address as text, for the log.
    pub(crate) text: Box<str>,
    /// Whether it has left the pool.
    gone: Cell<bool>,
    idle: RefCell<Vec<Idle>>,
    http2: RefCell<Vec<Http2Conn>>,
    connecting: tokio::sync::Mutex<()>,
}

struct Idle {
    conn: Conn,
    since_ms: u64,
}

struct Http2Conn {
    send: SendRequest<Bytes>,
    streams: Rc<Cell<usize>>,
    closed: Rc<Cell<bool>>,
    /// The first look that found it without streams.
    idle_since_ms: Cell<Option<u64>>,
}

/// A place on a shared connection.
pub(crate) struct Http2Stream {
    pub(crate) send: SendRequest<Bytes>,
    streams: Rc<Cell<usize>>,
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        self.streams.set(self.streams.get() - 1);
    }
}

/// An endpoint that was picked for one attempt; an attempt that is given up counts neither for nor against it.
pub(crate) struct Lease {
    pub(crate) pool: Rc<PoolRuntime>,
    pub(crate) endpoint: Rc<EndpointRuntime>,
    pub(crate) id: EndpointId,
    worker: Rc<Worker>,
    in_flight: Cell<Option<InFlight>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_running() {
            self.end(Outcome::Cancelled, Instant::now());
        }
    }
}

impl EndpointRuntime {
    /// Whether it has left the pool.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.get()
    }
}

impl PoolRuntime {
    fn new(compiled: &CompiledPool, worker: &Worker) -> Rc<Self> {
        let pool = &compiled.pool;
        let state = PoolState::new(&pool.endpoints, pool.health);
        let endpoints = runtimes(&state, &[]);
        Rc::new(Self {
            state: RefCell::new(state),
            endpoints: RefCell::new(endpoints),
            budget: RefCell::default(),
            metrics: worker.metrics.pool(&pool.service, pool.port),
            compiled: RefCell::new(compiled.clone()),
        })
    }

    fn pool(&self) -> Ref<'_, Pool> {
        Ref::map(self.compiled.borrow(), |compiled| &*compiled.pool)
    }

    /// Whether connections made for this pool serve `other` as well.
    fn is_same_service(&self, other: &Pool) -> bool {
        let pool = self.pool();
        pool.service == other.service
            && pool.port == other.port
            && pool.protocol == other.protocol
            && pool.tls == other.tls
            && pool.emit_proxy_protocol == other.emit_proxy_protocol
    }

    fn is_unchanged(&self, compiled: &CompiledPool) -> bool {
        Arc::ptr_eq(&self.compiled.borrow().pool, &compiled.pool)
    }

    fn update(&self, compiled: &CompiledPool, worker: &Worker) {
        let pool = &compiled.pool;
        let mut state = self.state.borrow_mut();
        state.update(&pool.endpoints, pool.health, worker.nanoseconds(Instant::now()), worker.random());
        let mut endpoints = self.endpoints.borrow_mut();
        let fresh = runtimes(&state, &endpoints);
        let kept: ahash::HashSet<SocketAddr> = fresh.iter().flatten().map(|endpoint| endpoint.address).collect();
        for gone in endpoints.iter().flatten().filter(|known| !kept.contains(&known.address)) {
            gone.gone.set(true);
            // What is in use goes on; what is idle ends here.
            gone.idle.borrow_mut().clear();
            gone.http2.borrow_mut().clear();
        }
        *endpoints = fresh;
        *self.compiled.borrow_mut() = compiled.clone();
    }

    pub(crate) fn service(&self) -> Ref<'_, NamespacedName> {
        Ref::map(self.pool(), |pool| &pool.service)
    }

    pub(crate) fn emit_proxy_protocol(&self) -> EmitProxyProtocol {
        self.pool().emit_proxy_protocol
    }

    pub(crate) fn protocol(&self) -> UpstreamProtocol {
        self.pool().protocol
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.compiled.borrow().tls.is_some()
    }

    /// A request came: retries are a share of requests. A share that was changed starts counting anew.
    pub(crate) fn deposit(&self, percent: u32, now: u64) {
        let mut budget = self.budget.borrow_mut();
        let budget = match &mut *budget {
            Some((known, budget)) if *known == percent => budget,
            other => &mut other.insert((percent, RetryBudget::new(percent))).1,
        };
        budget.deposit(now);
    }

    /// Whether another try may be made now.
    pub(crate) fn withdraw(&self, now: u64) -> bool {
        self.budget.borrow_mut().as_mut().is_some_and(|(_, budget)| budget.withdraw(now))
    }

    /// `namespace/service:port`
    pub(crate) fn name(&self) -> String {
        let pool = self.pool();
        format!("{}:{}", pool.service, pool.port)
    }

    /// The endpoint of this name.
    pub(crate) fn named(&self, token: Token) -> Option<EndpointId> {
        let pool = self.pool();
        self.state.borrow_mut().named(&pool.service, pool.port, token)
    }

    /// The name of the endpoint.
    pub(crate) fn token(&self, lease: &Lease) -> Option<Token> {
        let (pool, state) = (self.pool(), self.state.borrow());
        Some(Token::of(&pool.service, pool.port, state.address(lease.id)?))
    }

    /// Chooses an endpoint: `home` where nothing is known against it; `None` when there is none.
    pub(crate) fn pick(
        self: &Rc<Self>,
        balance: &Balance,
        key: Option<u64>,
        home: Option<EndpointId>,
        worker: &Rc<Worker>,
        now: u64,
        tried: &mut Tried,
    ) -> Option<Lease> {
        let mut state = self.state.borrow_mut();
        let id = match home.filter(|home| state.is_open(*home, now, tried)) {
            Some(home) => home,
            None => state.pick(balance, key, now, worker.random(), tried)?.id,
        };
        let endpoint = self.endpoints.borrow().get(id.slot())?.clone()?;
        let in_flight = Cell::new(Some(state.begin(id, now)?));
        tried.push(id);
        Some(Lease { pool: self.clone(), endpoint, id, worker: worker.clone(), in_flight })
    }

    fn report(&self, event: HealthEvent, endpoint: &EndpointRuntime, now_ns: u64) {
        let pool = self.pool();
        match event {
            HealthEvent::Ejected { until, .. } => {
                self.metrics.ejections.add(1);
                let seconds = until.saturating_sub(now_ns) / 1_000_000_000;
                tracing::warn!(service = %pool.service, endpoint = %endpoint.address, seconds, "endpoint ejected");
            }
            HealthEvent::Restored { .. } => {
                tracing::info!(service = %pool.service, endpoint = %endpoint.address, "endpoint restored");
            }
        }
    }

    /// Makes a connection of this endpoint's own.
    ///
    /// `authority` is the host that the request is for.
    pub(crate) async fn connect(
        &self,
        lease: &Lease,
        attempt: &Attempt<'_>,
        plan: &Plan<'_>,
        authority: &[u8],
    ) -> Result<Conn, Fault> {
        let preface = self.preface(attempt, plan);
        let tls = self.compiled.borrow().tls.clone();
        let (address, patience) = (lease.endpoint.address, attempt.timeouts.connect);
        let conn = match tls {
            None => {
                let mut tcp = connect(address, patience).await.map_err(|error| connect_fault(&error))?;
                if !preface.is_empty() {
                    let closed = |error| Fault::new(Reason::UpstreamClosed).detail(error).retry(RetryAdvice::Safe);
                    tcp.write_all(&preface).await.map_err(closed)?;
                }
                Conn::Plain(tcp)
            }
            Some(tls) => {
                let mut scratch = String::new();
                let host = normalise_host(authority, &mut scratch).ok();
                let stream = connect_tls(address, &tls, host, &preface, patience).await;
                Conn::Client(RefCell::new(Box::new(stream.map_err(|error| connect_fault(&error))?)))
            }
        };
        self.metrics.connect_seconds.observe(attempt.started.elapsed().as_secs_f64());
        Ok(conn)
    }

    /// The PROXY header that the endpoint wants ahead of everything.
    fn preface(&self, attempt: &Attempt<'_>, plan: &Plan<'_>) -> Vec<u8> {
        let mut preface = Vec::new();
        let source = Some(plan.client.socket_addr());
        let sender = &attempt.accepted.sender;
        let destination = Some(sender.destination);
        match self.pool().emit_proxy_protocol {
            EmitProxyProtocol::Off => {}
            EmitProxyProtocol::V1 => proxy::write_v1(source, destination, &mut preface),
            EmitProxyProtocol::V2 => {
                let extras = proxy::V2Extras {
                    authority: attempt.accepted.sni.as_deref().map(str::as_bytes),
                    unique_id: Some(plan.request_id.as_str().as_bytes()),
                    ..proxy::V2Extras::default()
                };
                proxy::write_v2(source, destination, proxy::Transport::Stream, &extras, &mut preface);
            }
        }
        preface
    }

    /// Keeps a connection for the next request.
    pub(crate) fn checkin(&self, lease: &Lease, conn: Conn, now_ms: u64) {
        let pool = self.pool();
        let endpoint = &lease.endpoint;
        // A PROXY header speaks for one client: such a connection is never anybody else's.
        if endpoint.gone.get() || pool.emit_proxy_protocol != EmitProxyProtocol::Off {
            return;
        }
        let mut idle = endpoint.idle.borrow_mut();
        if idle.len() < pool.keep_alive.max_idle as usize {
            idle.push(Idle { conn, since_ms: now_ms });
        }
    }

    /// A stream on a connection that others use too.
    pub(crate) async fn http2(
        &self,
        lease: &Lease,
        attempt: &Attempt<'_>,
        plan: &Plan<'_>,
        authority: &[u8],
    ) -> Result<Http2Stream, Fault> {
        let endpoint = &lease.endpoint;
        if self.pool().emit_proxy_protocol != EmitProxyProtocol::Off {
            return self.connect_http2(lease, attempt, plan, authority).await.map(|conn| conn.stream());
        }
        if let Some(stream) = endpoint.free_stream(false) {
            return Ok(stream);
        }
        let turn = endpoint.connecting.lock().await;
        // Somebody else may have connected while we waited.
        if let Some(stream) = endpoint.free_stream(false) {
            return Ok(stream);
        }
        if endpoint.http2.borrow().len() >= MAX_HTTP2_CONNECTIONS
            && let Some(stream) = endpoint.free_stream(true)
        {
            return Ok(stream);
        }
        let conn = self.connect_http2(lease, attempt, plan, authority).await?;
        let stream = conn.stream();
        if !endpoint.gone.get() {
            endpoint.http2.borrow_mut().push(conn);
        }
        drop(turn);
        Ok(stream)
    }

    async fn connect_http2(
        &self,
        lease: &Lease,
        attempt: &Attempt<'_>,
        plan: &Plan<'_>,
        authority: &[u8],
    ) -> Result<Http2Conn, Fault> {
        let conn = self.connect(lease, attempt, plan, authority).await?;
        let handshake = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(64 << 10)
            .enable_push(false)
            .handshake::<_, Bytes>(Rewound::new(Buffer::none(), conn));
        attempt.timer.set(attempt.timeouts.connect);
        let refused = |detail: &dyn std::fmt::Display| {
            Fault::new(Reason::UpstreamInvalid).detail(detail).retry(RetryAdvice::Safe)
        };
        let (send, connection) = match attempt.timer.run(handshake).await {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => return Err(refused(&error)),
            Err(_) => return Err(Fault::new(Reason::ConnectTimeout).retry(RetryAdvice::Safe)),
        };
        let closed = Rc::new(Cell::new(false));
        let end = closed.clone();
        tokio::task::spawn_local(async move {
            // Its streams hear of errors themselves.
            let _ = connection.await;
            end.set(true);
        });
        Ok(Http2Conn { send, streams: Rc::default(), closed, idle_since_ms: Cell::default() })
    }
}

impl Http2Conn {
    /// Whether it ended, or its peer said that it will (GOAWAY): streams that run go on, others must not begin.
    fn is_lost(&mut self) -> bool {
        // A handle that waits for no stream of its own is ready at once, or never again.
        let mut context = Context::from_waker(Waker::noop());
        self.closed.get() || matches!(self.send.poll_ready(&mut context), Poll::Ready(Err(_)))
    }

    /// Whether it had no stream for longer than the limit; looks for that as often as it is asked.
    fn is_idle(&self, limit_ms: u64, now_ms: u64) -> bool {
        if self.streams.get() > 0 {
            return false;
        }
        let since = self.idle_since_ms.get().unwrap_or(now_ms);
        self.idle_since_ms.set(Some(since));
        since.saturating_add(limit_ms) <= now_ms
    }

    fn stream(&self) -> Http2Stream {
        self.streams.set(self.streams.get() + 1);
        self.idle_since_ms.set(None);
        Http2Stream { send: self.send.clone(), streams: self.streams.clone() }
    }
}

impl EndpointRuntime {
    /// A place on the connection with fewest streams; one that is full counts only when `any` will do.
    fn free_stream(&self, any: bool) -> Option<Http2Stream> {
        let mut conns = self.http2.borrow_mut();
        conns.retain_mut(|conn| !conn.is_lost());
        let best = conns.iter().min_by_key(|conn| conn.streams.get())?;
        let has_room = best.streams.get() < best.send.current_max_send_streams();
        (has_room || any).then(|| best.stream())
    }
}

/// One runtime for each endpoint, by slot; those known stay.
fn runtimes(state: &PoolState, known: &[Option<Rc<EndpointRuntime>>]) -> Vec<Option<Rc<EndpointRuntime>>> {
    let by_address: ahash::HashMap<SocketAddr, &Rc<EndpointRuntime>> =
        known.iter().flatten().map(|endpoint| (endpoint.address, endpoint)).collect();
    let mut runtimes = Vec::new();
    for status in state.endpoints(0) {
        // Names are resolved before they come here.
        let EndpointAddress::Ip(address) = *status.address else { continue };
        let new = || {
            Rc::new(EndpointRuntime {
                address,
                text: address.to_string().into(),
                gone: Cell::new(false),
                idle: RefCell::default(),
                http2: RefCell::default(),
                connecting: tokio::sync::Mutex::new(()),
            })
        };
        let slot = status.id.slot();
        if runtimes.len() <= slot {
            runtimes.resize_with(slot + 1, || None);
        }
        runtimes[slot] = Some(by_address.get(&address).map_or_else(new, |known| (*known).clone()));
    }
    runtimes
}

pub(crate) fn connect_fault(error: &ConnectError) -> Fault {
    let reason = match error.kind {
        ConnectErrorKind::TimedOut => Reason::ConnectTimeout,
        ConnectErrorKind::Tls => Reason::UpstreamTls,
        ConnectErrorKind::Source => Reason::ClientSource,
        _ => Reason::ConnectFailed,
    };
    Fault::new(reason).detail(chain(error)).retry(RetryAdvice::Safe)
}

impl Lease {
    /// A connection that waits for a request. `careful`: ask the kernel whether the peer closed it, since this request
    /// could not be sent again.
    pub(crate) fn checkout(&self, careful: bool) -> Option<Conn> {
        let mut idle = self.endpoint.idle.borrow_mut();
        while let Some(Idle { conn, .. }) = idle.pop() {
            if !conn.is_stale(careful, peek_closed) {
                return Some(conn);
            }
        }
        None
    }

    pub(crate) fn succeeded(&self, first_byte: Duration, ended: Instant) {
        self.pool.metrics.response_seconds.observe(first_byte.as_secs_f64());
        self.end(Outcome::Success { latency: nanoseconds(first_byte) }, ended);
    }

    /// The endpoint proved to be well, and goes on being used: the lease counts as load until it is dropped.
    pub(crate) fn proved(&self, took: Duration, now: Instant) {
        self.end(Outcome::Success { latency: nanoseconds(took) }, now);
        self.in_flight.set(self.pool.state.borrow_mut().begin(self.id, self.worker.nanoseconds(now)));
    }

    /// Only what the endpoint did counts against it.
    pub(crate) fn failed(&self, fault: &Fault, took: Duration, ended: Instant) {
        let latency = nanoseconds(took);
        let is_theirs = fault.reason.by() == By::Upstream;
        self.end(if is_theirs { Outcome::Failure { latency } } else { Outcome::Cancelled }, ended);
    }

    fn is_running(&self) -> bool {
        let in_flight = self.in_flight.take();
        let running = in_flight.is_some();
        self.in_flight.set(in_flight);
        running
    }

    fn end(&self, outcome: Outcome, ended: Instant) {
        let Some(in_flight) = self.in_flight.take() else { return };
        let now = self.worker.nanoseconds(ended);
        let event = self.pool.state.borrow_mut().end(in_flight, outcome, now);
        if let Some(event) = event {
            self.pool.report(event, &self.endpoint, now);
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
