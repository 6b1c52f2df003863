//! One worker: one thread, one runtime, its own sockets, pools and counters. Nothing here is shared between threads.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accept::Accepted;
use crate::auth::Passwords;
use crate::clients::Clients;
use crate::fault::{Fault, Reason};
use crate::log::AccessLog;
use crate::message::Request;
use crate::metrics::WorkerMetrics;
use crate::plan::Plan;
use crate::record::Record;
use crate::timer::Timers;
use crate::trace::{Exporters, Tracer};
use crate::upstream::Upstreams;

/// What all workers share; touched once for a connection at most.
pub(crate) struct Shared {
    pub(crate) clients: Clients,
    pub(crate) passwords: Passwords,
    pub(crate) exporters: Arc<Exporters>,
}

/// State of one worker.
pub(crate) struct Worker {
    pub(crate) timers: Rc<Timers>,
    pub(crate) upstreams: Upstreams,
    pub(crate) metrics: WorkerMetrics,
    pub(crate) log: AccessLog,
    pub(crate) tracer: Tracer,
    pub(crate) request_heads: Spare<headwater_http1::RequestHead>,
    pub(crate) response_heads: Spare<headwater_http1::ResponseHead>,
    pub(crate) shared: Arc<Shared>,
    /// For the host of the request that is being planned.
    pub(crate) host_scratch: RefCell<String>,
    /// Passwords that were right a short while ago.
    pub(crate) proofs: RefCell<headwater_auth::Proofs>,
    random: Cell<u64>,
    started: Instant,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, metrics: WorkerMetrics, log: AccessLog) -> Rc<Self> {
        Rc::new(Self {
            timers: Timers::new(),
            upstreams: Upstreams::default(),
            metrics,
            log,
            tracer: Tracer::new(shared.exporters.clone(), [(); 2].map(|()| RandomState::new().build_hasher().finish())),
            request_heads: Spare::default(),
            response_heads: Spare::default(),
            shared,
            host_scratch: RefCell::default(),
            proofs: RefCell::default(),
            started: Instant::now(),
            random: Cell::new(RandomState::new().build_hasher().finish() | 1),
        })
    }

    /// A number nobody relies on being secret (xorshift64*).
    pub(crate) fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Nanoseconds on this worker's own clock.
    pub(crate) fn nanoseconds(&self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Time on this worker's own clock.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Counts a request against its client, where one connection carries many clients.
    pub(crate) fn admit_client(
        &self,
        accepted: &Accepted,
        plan: &Plan<'_>,
    ) -> Result<Option<crate::clients::Slot>, Fault> {
        let limit = accepted.settings().limits.connections_per_client;
        if limit == 0 || accepted.counted {
            return Ok(None);
        }
        let slot = self.shared.clients.enter(plan.client.addr, limit);
        slot.map(Some).ok_or_else(|| Reason::ClientLimit.into())
    }

    /// Counts, traces and logs a request that came to its end.
    pub(crate) fn finished<R: Request>(
        &self,
        accepted: &Accepted,
        request: &R,
        plan: Option<&Plan<'_>>,
        record: &Record<'_>,
    ) {
        let ended = record.ended.unwrap_or_else(Instant::now);
        if let Some(plan) = plan {
            self.tracer.end(accepted, request, plan, record, ended);
        }
        let duration = ended.saturating_duration_since(record.started);
        self.metrics.finished(record, duration);
        if let Some(alb) = &self.metrics.alb {
            alb.finished(request, record, duration);
        }
        self.log.write(accepted, request, record, ended);
    }

    /// Counts and logs a request whose head could not be read.
    pub(crate) fn finished_unparsed(&self, accepted: &Accepted, record: &Record<'_>) {
        let ended = Instant::now();
        self.metrics.finished(record, ended.saturating_duration_since(record.started));
        self.log.write_unparsed(accepted, record, ended);
    }
}

/// Values kept for their memory; boxed, since a pointer moves faster than what it points to.
pub(crate) struct Spare<T>(RefCell<Vec<Box<T>>>);

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self(RefCell::new(Vec::new()))
    }
}

impl<T: Default> Spare<T> {
    const KEPT: usize = 128;

    pub(crate) fn take(&self) -> Box<T> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give(&self, value: Box<T>) {
        let mut spare = self.0.borrow_mut();
        if spare.len() < Self::KEPT {
            spare.push(value);
        }
    }
}
