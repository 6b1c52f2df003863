//! Leadership by a Lease (`coordination.k8s.io/v1`), among the replicas of one role.
//!
//! Ours because none of the crates for it fits: kubert's wants an older kube, and it and the others compare the times
//! that a Lease holds with the local clock, so that a clock that jumps makes two leaders.

mod election;

use std::future::Future;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep_until, timeout};

pub use election::Timing;
use election::{Answer, Ask, Election, Record};

use super::backoff::{fraction, random};
use super::connect::{ApiError, ApiServer};
use super::write::{FIELD_MANAGER, within};

/// How long a release may take before the Lease is left to run out.
const RELEASE_LIMIT: Duration = Duration::from_secs(3);

/// Requests of a release: looks and writes in turn.
const RELEASE_REQUESTS: u32 = 4;

/// Where candidates meet.
#[derive(Debug, Clone)]
pub struct LeaseName {
    pub namespace: String,
    pub name: String,
}

/// Candidacy for a Lease; ends when dropped, without handing over: then others wait until it runs out.
///
/// ```text
///  election task ──bool──────> who starts and stops writing
///        └────────deadline───> WriteGuard, asked right before each write
/// ```
pub struct Leadership {
    leading: watch::Receiver<bool>,
    deadline: watch::Receiver<Option<Instant>>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Leadership {
    /// Stands for election. `identity` must be this process's alone: see [`unique_identity`].
    pub fn start(server: &ApiServer, lease: LeaseName, identity: String, timing: Timing) -> Self {
        let (deadline_sender, deadline) = watch::channel(None);
        let (leading_sender, leading) = watch::channel(false);
        let (stop, stopped) = oneshot::channel();
        let candidate = Candidate {
            api: Api::namespaced(server.client.clone(), &lease.namespace),
            lease,
            patience: timing.renew / 2,
            election: Election::new(identity, timing, Instant::now()),
            leading: leading_sender,
            deadline: deadline_sender,
            complained: false,
            stopping: false,
        };
        let task = tokio::spawn(candidate.run(stopped));
        Self { leading, deadline, stop: Some(stop), task }
    }

    /// Whether this process leads; changes with it.
    pub fn leading(&self) -> watch::Receiver<bool> {
        self.leading.clone()
    }

    /// What writers ask right before each write.
    pub fn guard(&self) -> WriteGuard {
        WriteGuard::new(self.deadline.clone())
    }

    /// Leads no more, and hands over. Call it when nothing is being written any more.
    pub async fn release(mut self) {
        if let Some(stop) = self.stop.take() {
            // The task may have ended with the runtime; there is nothing to hand over then.
            let _ = stop.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tells whether the Lease is surely still held.
#[derive(Debug, Clone)]
pub struct WriteGuard(watch::Receiver<Option<Instant>>);

impl WriteGuard {
    /// A guard over any deadline: `None` while not leading.
    pub fn new(deadline: watch::Receiver<Option<Instant>>) -> Self {
        Self(deadline)
    }

    /// Until when writes may be under way; `None`: write nothing.
    ///
    /// Nobody else leads before it, with a margin of [`Timing::duration`] less [`Timing::renew`] for what the server
    /// still does with a request whose answer is not waited for.
    pub fn deadline(&self) -> Option<Instant> {
        (*self.0.borrow()).filter(|deadline| Instant::now() < *deadline)
    }
}

/// `name` (of the pod, or the host) and a number that no other process has.
pub fn unique_identity(name: &str) -> String {
    format!("{name}_{:016x}", random())
}

/// The owner of one candidacy.
struct Candidate {
    api: Api<Lease>,
    lease: LeaseName,
    /// How long one request may take.
    patience: Duration,
    election: Election,
    leading: watch::Sender<bool>,
    deadline: watch::Sender<Option<Instant>>,
    /// The last request failed, and that was said.
    complained: bool,
    stopping: bool,
}

impl Candidate {
    async fn run(mut self, stopped: oneshot::Receiver<()>) {
        tokio::select! {
            biased;
            // Dropped handles abort the task: an error here means the same as a message.
            _ = stopped => {}
            () = self.stand() => {}
        }
        self.election.stop();
        self.stopping = true;
        self.tell();
        if timeout(RELEASE_LIMIT, self.release()).await.is_err() {
            tracing::warn!(lease = self.lease.name, "lease not released in time; it runs out by itself");
        }
    }

    async fn stand(&mut self) {
        loop {
            let wake = sleep_until(self.election.next());
            self.watching_the_clock(wake).await;
            let ask = self.election.ask(Instant::now(), Timestamp::now());
            self.perform(ask).await;
        }
    }

    async fn release(&mut self) {
        let mut released = false;
        for _ in 0..RELEASE_REQUESTS {
            let Some(ask) = self.election.release(Timestamp::now()) else { break };
            let hands_over = matches!(ask, Ask::Replace(..));
            self.perform(ask).await;
            released = hands_over && self.election.holder().is_none();
        }
        if released {
            tracing::info!(lease = self.lease.name, "lease released");
        }
    }

    async fn perform(&mut self, ask: Ask) {
        let sent = Instant::now();
        let request = request(self.api.clone(), self.lease.clone(), self.patience, ask.clone());
        let answer = self.watching_the_clock(request).await;
        let answer = self.judge(answer);
        self.election.hear(&ask, answer, sent, Instant::now(), fraction());
        self.tell();
    }

    fn judge(&mut self, answer: Result<Lease, ApiError>) -> Answer {
        let answer = match answer {
            Ok(lease) => {
                let version = lease.metadata.resource_version.clone().unwrap_or_default();
                Answer::Lease(record(lease.spec.unwrap_or_default()), version)
            }
            Err(ApiError::NotFound { .. }) => Answer::NotFound,
            Err(ApiError::Conflict { .. }) => Answer::Conflict,
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(lease = self.lease.name, "election: {error}");
                }
                return Answer::Lost;
            }
        };
        if std::mem::take(&mut self.complained) {
            tracing::info!(lease = self.lease.name, "election: the API server answers again");
        }
        answer
    }

    /// Waits for something, and says so when leadership ends meanwhile.
    async fn watching_the_clock<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            let deadline = self.election.deadline().filter(|_| *self.leading.borrow());
            let Some(deadline) = deadline else { return work.await };
            tokio::select! {
                done = &mut work => return done,
                () = sleep_until(deadline) => self.tell(),
            }
        }
    }

    /// Publishes who leads.
    fn tell(&mut self) {
        let leads = self.election.leads(Instant::now());
        // First the deadline: who is told to write finds the guard open, who is told to stop finds it closed.
        self.deadline.send_replace(self.election.deadline().filter(|_| leads));
        let changed = self.leading.send_if_modified(|leading| std::mem::replace(leading, leads) != leads);
        match (changed, leads) {
            (true, true) => tracing::info!(lease = self.lease.name, "leading"),
            (true, false) if self.stopping => {}
            (true, false) => {
                let holder = self.election.holder().unwrap_or("nobody");
                tracing::warn!(lease = self.lease.name, holder, "not leading any more");
            }
            (false, _) => {}
        }
    }
}

async fn request(api: Api<Lease>, lease: LeaseName, patience: Duration, ask: Ask) -> Result<Lease, ApiError> {
    let what = || format!("Lease {}/{}", lease.namespace, lease.name);
    match ask {
        Ask::Read => within(what, patience, api.get(&lease.name)).await,
        Ask::Create(record) => {
            let metadata = ObjectMeta { name: Some(lease.name.clone()), ..ObjectMeta::default() };
            let object = Lease { metadata, spec: Some(spec(record)) };
            let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
            within(what, patience, api.create(&parameters, &object)).await
        }
        Ask::Replace(record, version) => {
            // A patch keeps the labels of whoever put them there; the version in it makes it conditional.
            let patch = json!({ "metadata": { "resourceVersion": version }, "spec": spec(record) });
            let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            within(what, patience, api.patch(&lease.name, &parameters, &Patch::Merge(patch))).await
        }
    }
}

fn record(spec: LeaseSpec) -> Record {
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        duration_seconds: spec.lease_duration_seconds.unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or_default(),
        acquired: spec.acquire_time.map(|time| time.0),
        renewed: spec.renew_time.map(|time| time.0),
    }
}

fn spec(record: Record) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(record.holder),
        lease_duration_seconds: Some(record.duration_seconds),
        lease_transitions: Some(record.transitions),
        acquire_time: record.acquired.map(MicroTime),
        renew_time: record.renewed.map(MicroTime),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_guard_closes_by_itself_when_nothing_renews_it() {
        let (sender, deadline) = watch::channel(None);
        let guard = WriteGuard::new(deadline);
        assert_eq!(guard.deadline(), None);
        let until = Instant::now() + Duration::from_secs(10);
        sender.send_replace(Some(until));
        assert_eq!(guard.deadline(), Some(until));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(guard.deadline(), None);
    }

    #[test]
    fn two_processes_of_one_pod_have_two_identities() {
        assert_ne!(unique_identity("pod"), unique_identity("pod"));
        assert!((0..1_000).map(|_| fraction()).all(|share| (0.0..=1.0).contains(&share)));
    }

    #[test]
    fn a_record_survives_the_way_to_the_server_and_back() {
        let there = Record {
            holder: "a".to_owned(),
            duration_seconds: 15,
            transitions: 2,
            acquired: Some(Timestamp::UNIX_EPOCH),
            renewed: Some(Timestamp::UNIX_EPOCH),
        };
        assert_eq!(record(spec(there.clone())), there);
    }
}
