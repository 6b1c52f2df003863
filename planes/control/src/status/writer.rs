//! The task that writes.

use std::future::Future;
use std::sync::Arc;

use headwater_kube_io::{
    ApiError, ApiServer, EventNote, EventWritten, FleetChange, FleetWatch, Leadership, WriteGuard,
};
use headwater_model::observed::{Observed, PublishedAddress};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

use super::bucket::Bucket;
use super::counters::StatusCounters;
use super::desk::{Desk, Write};
use super::ingress::ServedAs;
use super::notice::Notice;
use crate::Findings;

/// Writes under way at once.
const WRITES: usize = 8;

/// Events under way at once.
const EVENTS: usize = 2;

/// Writes of a leader that finds many to do, and writes a second from then on. A server on the same machine takes
/// several times as many; flow control (429) is heeded beyond that.
const WRITE_BURST: u32 = 400;
const WRITES_PER_SECOND: f64 = 200.0;

/// Changes that wait to be taken in. When it is full, whoever tells waits: nothing is lost.
const CHANGES: usize = 1_024;

/// Changes taken in at once before writes are looked at again.
const AT_ONCE: usize = 1_024;

/// Pause of all Events after one could not be written.
const EVENT_PAUSE: Duration = Duration::from_secs(5);

/// Until it is known whether this process leads, after the Lease was found to be unsure.
const NOT_LEADING_PAUSE: Duration = Duration::from_secs(1);

/// How long writes under way may take when the task is told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What the writer has to know. It keeps all of it: each is told once, and again when it changes.
#[derive(Debug, Clone)]
pub enum StatusEvent {
    /// An Ingress as it is now. `served` is `None` when no gateway serves it, `observed` when it is gone.
    Ingress { id: NamespacedName, served: Option<ServedAs>, observed: Option<Observed> },
    /// A GatewaySettings object as it is now.
    Settings { id: NamespacedName, observed: Option<Observed> },
    /// Where the gateways are reached.
    Published(Vec<PublishedAddress>),
    /// Everything that is wrong now.
    Findings(Arc<Findings>),
    /// What became of the gateways' Leases.
    Gateways(FleetChange),
    /// All of the above was told once: before it, nothing is written.
    Synced,
}

/// Where statuses and Events are written to.
pub trait StatusServer: Clone + Send + Sync + 'static {
    fn apply_status(
        &self,
        key: ObjectKey,
        status: Value,
        force: bool,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;

    fn record_event(
        &self,
        note: EventNote,
        instance: Arc<str>,
        again: bool,
    ) -> impl Future<Output = Result<EventWritten, ApiError>> + Send;

    fn uid(&self, key: ObjectKey) -> impl Future<Output = Result<Option<String>, ApiError>> + Send;
}

impl StatusServer for ApiServer {
    async fn apply_status(&self, key: ObjectKey, status: Value, force: bool) -> Result<(), ApiError> {
        ApiServer::apply_status(self, &key, status, force).await
    }

    async fn record_event(&self, note: EventNote, instance: Arc<str>, again: bool) -> Result<EventWritten, ApiError> {
        ApiServer::record_event(self, &note, &instance, again).await
    }

    async fn uid(&self, key: ObjectKey) -> Result<Option<String>, ApiError> {
        ApiServer::uid(self, &key).await
    }
}

/// A running writer; writes nothing more once dropped.
pub struct StatusWriter {
    events: mpsc::Sender<StatusEvent>,
    counters: Arc<StatusCounters>,
    task: JoinHandle<()>,
    fleet: Option<JoinHandle<()>>,
}

impl StatusWriter {
    /// Starts it. `instance` names this process in Events; `fleet` follows the gateways' Leases.
    pub fn start(server: ApiServer, leadership: &Leadership, instance: &str, fleet: Option<FleetWatch>) -> Self {
        let (sender, events) = mpsc::channel(CHANGES);
        let counters = Arc::<StatusCounters>::default();
        let writer = Writer::new(server, leadership.guard(), instance, counters.clone());
        let task = tokio::spawn(writer.run(leadership.leading(), events));
        let forward = |mut fleet: FleetWatch| {
            let sender = sender.clone();
            tokio::spawn(async move { while sender.send(StatusEvent::Gateways(fleet.next().await)).await.is_ok() {} })
        };
        let fleet = fleet.map(forward);
        Self { events: sender, counters, task, fleet }
    }

    /// Tells the writer something. Waits while it has too much to take in.
    pub async fn tell(&self, event: StatusEvent) {
        // The task ends before its handle only when it panicked, which the runtime has reported.
        let _ = self.events.send(event).await;
    }

    pub fn counters(&self) -> Arc<StatusCounters> {
        self.counters.clone()
    }

    /// Begins nothing new, and waits for what is under way. Release the leadership after it.
    pub async fn stop(mut self) {
        if let Some(fleet) = self.fleet.take() {
            fleet.abort();
            // Its sender goes with it.
            let _ = fleet.await;
        }
        let (closed, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.events, closed));
        let _ = (&mut self.task).await;
    }
}

impl Drop for StatusWriter {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(fleet) = &self.fleet {
            fleet.abort();
        }
    }
}

/// What ended.
enum Done {
    Write(Write, Sent<()>),
    Event(Notice, Sent<EventWritten>),
}

/// `None`: not sent, for want of leadership.
type Sent<T> = Option<Result<T, ApiError>>;

/// ```text
///  control task ──StatusEvent──> Desk (what is, what shall be) ──Write──> up to 8 at once ──> API server
///  gateways' Leases ─────┘        ^──────────────what became of it────────────┘
/// ```
pub(super) struct Writer<S> {
    server: S,
    guard: WriteGuard,
    instance: Arc<str>,
    counters: Arc<StatusCounters>,
    pub(super) desk: Desk,
    rate: Bucket,
    under_way: JoinSet<Done>,
    writes: usize,
    events: usize,
    /// No Events before that.
    events_from: Instant,
    leads: bool,
}

impl<S: StatusServer> Writer<S> {
    pub(super) fn new(server: S, guard: WriteGuard, instance: &str, counters: Arc<StatusCounters>) -> Self {
        let now = Instant::now();
        Self {
            server,
            guard,
            instance: instance.into(),
            counters,
            desk: Desk::new(now),
            rate: Bucket::new(WRITE_BURST, WRITES_PER_SECOND, now),
            under_way: JoinSet::new(),
            writes: 0,
            events: 0,
            events_from: now,
            leads: false,
        }
    }

    /// Until the senders of `events` are gone.
    pub(super) async fn run(mut self, mut leading: watch::Receiver<bool>, mut events: mpsc::Receiver<StatusEvent>) {
        let mut taken = Vec::with_capacity(AT_ONCE);
        loop {
            let now = Instant::now();
            self.follow(*leading.borrow_and_update(), now);
            self.desk.expire(now);
            let wake = self.begin(now);
            tokio::select! {
                count = events.recv_many(&mut taken, AT_ONCE) => {
                    if count == 0 {
                        break;
                    }
                    let now = Instant::now();
                    taken.drain(..).for_each(|event| self.desk.take(event, now));
                }
                Some(done) = self.under_way.join_next() => self.end(done),
                Ok(()) = leading.changed() => {}
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        }
        let until = Instant::now() + STOP_LIMIT;
        while let Ok(Some(done)) = timeout_at(until, self.under_way.join_next()).await {
            self.end(done);
        }
    }

    fn follow(&mut self, leads: bool, now: Instant) {
        if leads != self.leads {
            self.leads = leads;
            self.desk.lead(leads, now);
        }
    }

    /// Begins what may be begun. Returns when to look again if nothing happens before.
    fn begin(&mut self, now: Instant) -> Option<Instant> {
        if !self.leads {
            return self.desk.silence();
        }
        let mut rate = now;
        while self.writes < WRITES {
            if let Err(until) = self.rate.ready(now) {
                rate = until;
                break;
            }
            let Some(write) = self.desk.next_write(now, Timestamp::now()) else { break };
            let _ = self.rate.take(now);
            self.writes += 1;
            self.under_way.spawn(send(self.server.clone(), self.guard.clone(), write));
        }
        while self.events < EVENTS && now >= self.events_from {
            let Some((notice, again)) = self.desk.next_event(now) else { break };
            let uid = self.desk.uid(&notice.about);
            self.events += 1;
            let told = tell(self.server.clone(), self.guard.clone(), self.instance.clone(), notice, uid, again);
            self.under_way.spawn(told);
        }
        // What has no seat now is looked at when something under way ends.
        let write = self.desk.due(now).filter(|_| self.writes < WRITES).map(|due| due.max(rate));
        let event = self.desk.event_due(now).filter(|_| self.events < EVENTS).map(|due| due.max(self.events_from));
        [self.desk.silence(), write, event].into_iter().flatten().min()
    }

    fn end(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let now = Instant::now();
        match done {
            Ok(Done::Write(write, sent)) => {
                self.writes -= 1;
                let Some(result) = sent else { return self.desk.not_sent(write, now + NOT_LEADING_PAUSE) };
                self.counters.wrote(&result);
                self.desk.done(write, result, now, fraction());
            }
            Ok(Done::Event(notice, sent)) => {
                self.events -= 1;
                match sent {
                    None => {
                        self.events_from = now + NOT_LEADING_PAUSE;
                        self.desk.put_back(notice, now);
                    }
                    Some(Ok(written)) => self.counters.told(written),
                    Some(Err(error)) => self.event_failed(notice, &error, now),
                }
            }
            // Neither panics nor is aborted but with the whole task.
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "a write of status ended early"),
        }
    }

    fn event_failed(&mut self, notice: Notice, error: &ApiError, now: Instant) {
        self.counters.event_failed();
        match error {
            ApiError::Unavailable { .. } => {
                self.events_from = now + EVENT_PAUSE.mul_f64(1.0 + fraction());
                self.desk.put_back(notice, now);
            }
            // Also where the namespace is being deleted.
            error => tracing::debug!(object = %notice.about, reason = notice.reason, "{error}"),
        }
    }
}

async fn send<S: StatusServer>(server: S, guard: WriteGuard, write: Write) -> Done {
    let Some(until) = guard.deadline() else { return Done::Write(write, None) };
    let request = server.apply_status(write.key.clone(), write.status.clone(), write.force);
    let result = timeout_at(until, request).await.unwrap_or_else(|_| Err(too_late(&write.key)));
    Done::Write(write, Some(result))
}

async fn tell<S: StatusServer>(
    server: S,
    guard: WriteGuard,
    instance: Arc<str>,
    notice: Notice,
    uid: Option<Arc<str>>,
    again: bool,
) -> Done {
    let Some(until) = guard.deadline() else { return Done::Event(notice, None) };
    let request = async {
        let uid = match uid {
            Some(uid) => Some(uid),
            // The controller has no right to look at Secrets.
            None if notice.about.kind == Kind::Secret => None,
            None => server.uid(notice.about.clone()).await?.map(Arc::from),
        };
        let note = EventNote {
            about: notice.about.clone(),
            uid,
            warning: true,
            reason: notice.reason.clone(),
            action: "Translate",
            note: notice.note.clone(),
        };
        server.record_event(note, instance, again).await
    };
    let result = timeout_at(until, request).await.unwrap_or_else(|_| Err(too_late(&notice.about)));
    Done::Event(notice, Some(result))
}

fn too_late(key: &ObjectKey) -> ApiError {
    ApiError::Unavailable {
        what: format!("status of {key}"),
        why: "no answer while the lease was surely held".to_owned(),
        retry_after: None,
    }
}

/// From 0 to 1, from the keys that the standard library draws for its hash maps.
fn fraction() -> f64 {
    use std::hash::BuildHasher;
    let random = std::hash::RandomState::new().hash_one(0) >> 32;
    f64::from(u32::try_from(random).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
