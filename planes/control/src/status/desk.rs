//! All that is known about statuses, and the writes that follow from it. No I/O.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use headwater_kube_io::{ApiError, FleetChange};
use headwater_model::finding::Severity;
use headwater_model::observed::{Condition, Observed, PublishedAddress};
use headwater_model::origin::{Kind, ObjectKey};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::address::in_order;
use super::bucket::Bucket;
use super::fleet::Fleet;
use super::ingress::{IngressWrite, ServedAs, plan_ingress};
use super::notice::{Notice, Notices, words};
use super::queue::{Queue, pause};
use super::settings::plan_settings;
use super::writer::StatusEvent;
use crate::Findings;

/// Writes of one object at once, and every how many seconds one from then on: more than that is a quarrel with
/// another writer.
const OBJECT_BURST: u32 = 6;
const OBJECT_PER_SECOND: f64 = 1.0 / 30.0;

/// Pause after the server said that we may not: somebody has to grant it first.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(30);

/// How often that is said.
const FORBIDDEN_SAID: Duration = Duration::from_secs(300);

/// One write, ready to be sent.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) key: ObjectKey,
    pub(super) status: Value,
    pub(super) force: bool,
    after: After,
}

/// What will be observed once it is done.
#[derive(Debug)]
enum After {
    Ingress(IngressWrite),
    Settings(Vec<Condition>),
}

#[derive(Debug, Default)]
struct Entry {
    served: Option<ServedAs>,
    observed: Observed,
    /// The addresses that another controller defended.
    yielded: Option<Vec<PublishedAddress>>,
    writes: Option<Bucket>,
    failures: u32,
}

pub(super) struct Desk {
    entries: HashMap<ObjectKey, Entry>,
    published: Option<Vec<PublishedAddress>>,
    findings: Arc<Findings>,
    fleet: Fleet,
    notices: Notices,
    queue: Queue,
    /// Everything was read once: nothing is cleared for want of a class that is still to come.
    synced: bool,
    /// When it was last said that we may not.
    forbidden: Option<Instant>,
}

impl Desk {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            entries: HashMap::new(),
            published: None,
            findings: Arc::default(),
            fleet: Fleet::default(),
            notices: Notices::new(now),
            queue: Queue::default(),
            synced: false,
            forbidden: None,
        }
    }

    pub(super) fn take(&mut self, event: StatusEvent, now: Instant) {
        match event {
            StatusEvent::Ingress { id, served, observed } => {
                self.set(ObjectKey { kind: Kind::Ingress, id }, served, observed);
            }
            StatusEvent::Settings { id, observed } => {
                self.set(ObjectKey { kind: Kind::GatewaySettings, id }, None, observed);
            }
            StatusEvent::Published(addresses) => {
                let addresses = in_order(addresses);
                if self.published.as_ref() != Some(&addresses) {
                    self.published = Some(addresses);
                    self.push_all(Kind::Ingress);
                }
            }
            StatusEvent::Findings(findings) => {
                self.findings = findings;
                self.look_at_findings(now);
            }
            StatusEvent::Gateways(change) => self.hear_of_gateways(change, now),
            StatusEvent::Synced => self.synced = true,
        }
    }

    fn set(&mut self, key: ObjectKey, served: Option<ServedAs>, observed: Option<Observed>) {
        let Some(observed) = observed else {
            self.entries.remove(&key);
            return;
        };
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.yielded.as_ref().is_some_and(|yielded| *yielded != observed.addresses) {
            entry.yielded = None;
        }
        // Another object of the same name.
        if entry.observed.uid != observed.uid {
            *entry = Entry::default();
        }
        (entry.served, entry.observed) = (served, observed);
        self.queue.push(key);
    }

    fn hear_of_gateways(&mut self, change: FleetChange, now: Instant) {
        if self.fleet.apply(change, now) {
            self.look_at_findings(now);
        }
    }

    /// Our own findings, and those that only gateways can have.
    fn look_at_findings(&mut self, now: Instant) {
        let mut notices: HashSet<Notice> = self.findings.iter().filter_map(Notice::of).collect();
        for (_, report) in self.fleet.live().into_iter().flatten() {
            notices.extend(report.findings.iter().filter_map(Notice::reported));
        }
        self.notices.replace(notices, now);
        self.push_all(Kind::GatewaySettings);
    }

    /// Gateways that fell silent.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.fleet.expire(now) {
            self.look_at_findings(now);
        }
    }

    /// This process writes from now on, or does not.
    pub(super) fn lead(&mut self, leads: bool, now: Instant) {
        self.notices.tell(leads, now);
        if leads {
            self.queue.hurry();
            self.push_all(Kind::Ingress);
            self.push_all(Kind::GatewaySettings);
        }
    }

    fn push_all(&mut self, kind: Kind) {
        for key in self.entries.keys().filter(|key| key.kind == kind) {
            self.queue.push(key.clone());
        }
    }

    /// When a gateway counts as silent, unless it is heard of.
    pub(super) fn silence(&self) -> Option<Instant> {
        self.fleet.deadline()
    }

    /// When the next write is due.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.queue.next(now).filter(|_| self.synced)
    }

    /// The next write that is missing. It is over with [`done`](Self::done).
    pub(super) fn next_write(&mut self, now: Instant, clock: Timestamp) -> Option<Write> {
        if !self.synced {
            return None;
        }
        while let Some(key) = self.queue.pop(now) {
            let Some(write) = self.plan(&key, clock) else {
                self.queue.done(key);
                continue;
            };
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let writes = entry.writes.get_or_insert_with(|| Bucket::new(OBJECT_BURST, OBJECT_PER_SECOND, now));
            match writes.take(now) {
                Ok(()) => return Some(write),
                Err(until) => {
                    tracing::warn!(object = %key, "its status is written again and again by somebody else, too");
                    self.queue.pause(key, until);
                }
            }
        }
        None
    }

    /// When the next Event is due.
    pub(super) fn event_due(&mut self, now: Instant) -> Option<Instant> {
        self.notices.next(now).filter(|_| self.synced)
    }

    /// The next Event, and whether it happened again.
    pub(super) fn next_event(&mut self, now: Instant) -> Option<(Notice, bool)> {
        // What refers to something that is still to be read only seems wrong.
        if self.synced { self.notices.pop(now) } else { None }
    }

    /// An Event that is not written yet.
    pub(super) fn put_back(&mut self, notice: Notice, now: Instant) {
        self.notices.put_back(notice, now);
    }

    fn plan(&self, key: &ObjectKey, clock: Timestamp) -> Option<Write> {
        let entry = self.entries.get(key)?;
        let key = key.clone();
        match key.kind {
            Kind::Ingress => {
                let write = plan_ingress(entry.served.as_ref(), self.published.as_deref(), &entry.observed)?;
                let defended = entry.yielded.is_some() && !write.force();
                (!defended).then(|| Write {
                    status: write.body(),
                    force: write.force(),
                    after: After::Ingress(write),
                    key,
                })
            }
            Kind::GatewaySettings => {
                let faults = self.faults(&key);
                let conditions = plan_settings(&key, &faults, &self.fleet, &entry.observed, clock)?;
                let status = json!({ "conditions": conditions });
                let others = entry.observed.conditions.iter();
                let others =
                    others.filter(|other| !conditions.iter().any(|it| it.condition_type == other.condition_type));
                let conditions = others.cloned().chain(conditions.clone()).collect();
                Some(Write { key, status, force: true, after: After::Settings(conditions) })
            }
            _ => None,
        }
    }

    /// Errors that name an object: ours, and those of gateways.
    fn faults(&self, key: &ObjectKey) -> Vec<String> {
        let ours = self.findings.iter().filter(|finding| finding.object.as_ref() == Some(key));
        let ours = ours.filter(|finding| finding.severity == Severity::Error);
        let mut faults: Vec<String> =
            ours.map(|finding| words(&finding.field, &finding.message, &finding.mend)).collect();
        for (_, report) in self.fleet.live().into_iter().flatten() {
            let theirs = report.findings.iter().filter(|it| it.object == *key && it.severity == Severity::Error);
            faults.extend(theirs.map(|finding| words(&finding.field, &finding.message, &finding.mend)));
        }
        faults.sort();
        faults.dedup();
        faults
    }

    /// The uid of an object whose status we write.
    pub(super) fn uid(&self, key: &ObjectKey) -> Option<Arc<str>> {
        self.entries.get(key).map(|entry| entry.observed.uid.clone()).filter(|uid| !uid.is_empty())
    }

    /// What became of a write. `jitter`: 0 to 1.
    pub(super) fn done(&mut self, write: Write, result: Result<(), ApiError>, now: Instant, jitter: f64) {
        let Write { key, force, after, .. } = write;
        let Some(entry) = self.entries.get_mut(&key) else { return self.queue.done(key) };
        let error = match result {
            Ok(()) => {
                match after {
                    After::Ingress(write) => write.expect(&mut entry.observed),
                    After::Settings(conditions) => {
                        (entry.observed.conditions, entry.observed.status_is_ours) = (conditions, true);
                    }
                }
                entry.failures = 0;
                return self.queue.done(key);
            }
            Err(error) => error,
        };
        entry.failures = entry.failures.saturating_add(1);
        let failures = entry.failures;
        match error {
            // Deleted: the watch will tell, if it has not.
            ApiError::NotFound { .. } => self.queue.done(key),
            ApiError::Conflict { held_by, .. } if !force => {
                entry.yielded = Some(entry.observed.addresses.clone());
                let note = format!(
                    "status.loadBalancer is kept by {held_by}; left alone until that controller gives it up (mend: stop \
                     it, or remove its entries)"
                );
                tracing::warn!(object = %key, held_by, "status is kept by another controller; left alone");
                self.notices.push(Notice::new(key.clone(), "StatusConflict", note), now);
                self.queue.done(key);
            }
            ApiError::Forbidden { .. } => {
                if self.forbidden.is_none_or(|said| now >= said + FORBIDDEN_SAID) {
                    self.forbidden = Some(now);
                    tracing::error!(object = %key, "{error}");
                }
                self.queue.pause(key, now + FORBIDDEN_PAUSE.mul_f64(1.0 + jitter));
            }
            ApiError::Refused { .. } | ApiError::Request { .. } => {
                tracing::error!(object = %key, error = &error as &dyn std::error::Error, "status not written");
                self.queue.done(key);
            }
            error => {
                let retry_after = match &error {
                    ApiError::Unavailable { retry_after, .. } => *retry_after,
                    _ => None,
                };
                let until = now + pause(failures, retry_after, jitter);
                tracing::debug!(object = %key, failures, "{error}");
                self.queue.pause(key, until);
            }
        }
    }

    /// A write was not sent: this process does not lead any more.
    pub(super) fn not_sent(&mut self, write: Write, until: Instant) {
        self.queue.pause(write.key, until);
    }
}
