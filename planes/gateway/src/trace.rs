//! Spans of requests: begun and ended by workers, sent to collectors by the control runtime.
//!
//! A worker writes a span as it will stand on the wire, into a buffer of its own for each exporter, and hands the buffer
//! over when it has a few or with the next tick. Where an exporter's queue has no room for them they are dropped and
//! counted: no request ever waits for a collector.

mod describe;
mod export;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headwater_model::gateway::{Rule, RuleNames, SpanExporter, Trace};
use headwater_trace::{Parent, Span, SpanWriter, Spans, state};

use crate::accept::Accepted;
use crate::message::{HeaderLines, Request};
use crate::plan::Plan;
use crate::record::Record;

pub(crate) use export::{Exporters, Queue, SpanCounts};

/// Spans that a worker hands over at once; fewer where the queue is small, or with the tick.
const CHUNK: u32 = 64;
/// Ticks without a span after which a worker lets an exporter go: some 30 s.
const IDLE_TICKS: u32 = 600;
/// Ticks between two looks for rules that are gone.
const FORGET_TICKS: u32 = 100;
/// Time that the clock is trusted between two looks at the system's.
const CLOCK_REFRESH: Duration = Duration::from_secs(1);

/// Name and value of a header line.
type Line = (Box<[u8]>, Box<[u8]>);
/// A rule and what it is called.
type Named = (Weak<Rule>, Rc<RuleNames>);

/// A span under way.
pub(crate) struct Begun {
    pub(crate) span: Span,
    /// Whether it is told of the response's headers.
    pub(crate) wants_response: bool,
    /// Those that were passed on: name and value.
    pub(crate) response: RefCell<Vec<Line>>,
}

impl Begun {
    /// Keeps the lines of the response that is passed on.
    pub(crate) fn answered(&self, lines: &impl HeaderLines) {
        let mut response = self.response.borrow_mut();
        response.clear();
        lines.each(|name, value| {
            if response.len() < describe::MAX_HEADERS {
                response.push((name.into(), value.into()));
            }
        });
    }

    /// Whether the line is ours to write.
    pub(crate) fn replaces(name: &[u8]) -> bool {
        name.eq_ignore_ascii_case(b"traceparent") || name.eq_ignore_ascii_case(b"tracestate")
    }

    /// Lines towards the endpoint, in place of the request's own.
    pub(crate) fn each(&self, mut visit: impl FnMut(&'static str, &[u8])) {
        visit("traceparent", &self.span.traceparent());
        if let Some(state) = &self.span.state {
            visit("tracestate", state.as_bytes());
        }
    }
}

/// The spans of one worker.
pub(crate) struct Tracer {
    exporters: Arc<Exporters>,
    outlets: RefCell<ahash::HashMap<usize, Outlet>>,
    /// By the address of the rule, which cannot be another's while the entry is there.
    names: RefCell<ahash::HashMap<usize, Named>>,
    ticks: Cell<u32>,
    scratch: RefCell<Vec<u8>>,
    /// Makes the ids of this worker differ from everybody else's.
    key: [u64; 2],
    clock: Clock,
}

/// One worker's way to one exporter.
struct Outlet {
    /// Keeps the address that it is found by.
    _spec: Arc<SpanExporter>,
    queue: Arc<Queue>,
    spans: Spans,
    chunk: u32,
    idle: u32,
}

impl Outlet {
    fn hand_over(&mut self) {
        if !self.spans.is_empty() {
            self.queue.offer(std::mem::take(&mut self.spans));
        }
    }
}

impl Tracer {
    pub(crate) fn new(exporters: Arc<Exporters>, key: [u64; 2]) -> Self {
        Self {
            exporters,
            outlets: RefCell::default(),
            names: RefCell::default(),
            ticks: Cell::new(0),
            scratch: RefCell::default(),
            key,
            clock: Clock::new(),
        }
    }

    /// The span of a request, from what the request says where that is trusted.
    pub(crate) fn begin<R: Request>(&self, trace: &Trace, request: &R, random: [u64; 3]) -> Begun {
        let mut lines = request.values("traceparent").take(2);
        let parent = match (trace.trust_incoming, lines.next(), lines.next()) {
            (true, Some(line), None) => Parent::parse(line),
            _ => None,
        };
        let [high, low, id] = random;
        let random = [high ^ self.key[0], low ^ self.key[1], id];
        let span = Span::begin(&trace.sampler, parent, || state(request.values("tracestate")), random);
        let wants_response = trace.response_headers && span.is_sampled;
        Begun { span, wants_response, response: RefCell::default() }
    }

    /// Ends the span of a request that was served, or not.
    pub(crate) fn end<R: Request>(
        &self,
        accepted: &Accepted,
        request: &R,
        plan: &Plan<'_>,
        record: &Record<'_>,
        ended: Instant,
    ) {
        let (Some(trace), Some(begun)) = (&plan.rule.trace, plan.begun.get()) else { return };
        if !begun.span.is_sampled {
            return;
        }
        let mut scratch = self.scratch.borrow_mut();
        let (start, end) = (self.clock.nanoseconds(record.started), self.clock.nanoseconds(ended));
        let name = describe::name(trace, request, plan);
        let mut writer = SpanWriter::begin(&mut scratch, &begun.span, &[&name], start, end);
        let names = self.names(plan.rule);
        describe::write(&mut writer, trace, &names, begun, accepted, request, plan, record);
        let mut outlets = self.outlets.borrow_mut();
        let spec = &trace.exporter;
        let outlet = outlets.entry(Arc::as_ptr(spec) as usize).or_insert_with(|| Outlet {
            queue: self.exporters.queue(spec),
            spans: Spans::default(),
            chunk: CHUNK.min(spec.batch).min(spec.queue),
            idle: 0,
            _spec: spec.clone(),
        });
        writer.end(&mut outlet.spans);
        outlet.idle = 0;
        if outlet.spans.count() >= outlet.chunk {
            outlet.hand_over();
        }
    }

    fn names(&self, rule: &Arc<Rule>) -> Rc<RuleNames> {
        let mut names = self.names.borrow_mut();
        let new = || (Arc::downgrade(rule), Rc::new(rule.names()));
        names.entry(Arc::as_ptr(rule) as usize).or_insert_with(new).1.clone()
    }

    /// Hands over what waits; lets go of exporters that nobody used for a while.
    pub(crate) fn flush(&self) {
        let mut outlets = self.outlets.borrow_mut();
        if outlets.is_empty() {
            return;
        }
        self.ticks.set(self.ticks.get().wrapping_add(1));
        if self.ticks.get().is_multiple_of(FORGET_TICKS) {
            self.names.borrow_mut().retain(|_, (rule, _)| rule.strong_count() > 0);
        }
        outlets.retain(|_, outlet| {
            outlet.hand_over();
            outlet.idle += 1;
            outlet.idle < IDLE_TICKS
        });
    }

    /// The last spans; exporters whose last worker says so end when they have sent what they have.
    pub(crate) fn close(&self) {
        self.flush();
        self.outlets.borrow_mut().clear();
    }
}

/// The time of day, by a clock that does not jump while a request is served.
struct Clock(Cell<(Instant, Duration)>);

impl Clock {
    fn new() -> Self {
        Self(Cell::new(Self::look()))
    }

    fn look() -> (Instant, Duration) {
        (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// Nanoseconds since the epoch.
    fn nanoseconds(&self, moment: Instant) -> u64 {
        let (mut anchor, mut time) = self.0.get();
        if moment.saturating_duration_since(anchor) > CLOCK_REFRESH {
            (anchor, time) = Self::look();
            self.0.set((anchor, time));
        }
        let time = match moment.checked_duration_since(anchor) {
            Some(later) => time + later,
            None => time.saturating_sub(anchor.duration_since(moment)),
        };
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
    }
}
