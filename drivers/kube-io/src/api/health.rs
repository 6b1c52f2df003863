//! How the watches do, for readiness, metrics and the log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use headwater_model::origin::Kind;
use tokio::sync::watch;

use super::failure::{Cause, Failure};
use super::resource::Scope;

/// Identifies a watch for as long as the source lives.
pub(crate) type WatchId = u64;

/// How the watches of a source do.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Everything that was selected was listed once.
    pub started: bool,
    /// Those of whole kinds first, then those of single objects.
    pub watches: Vec<WatchHealth>,
    /// Over all watches there ever were.
    pub totals: Arc<Counters>,
}

impl Health {
    /// Whether some of what was read may be out of date.
    pub fn is_stale(&self) -> bool {
        self.watches.iter().any(|watch| watch.listed && matches!(watch.state, WatchState::Stale { .. }))
    }
}

/// One watch.
#[derive(Debug, Clone)]
pub struct WatchHealth {
    id: WatchId,
    pub kind: Kind,
    /// Empty: all of them, or a cluster-scoped kind.
    pub namespace: Arc<str>,
    /// `None`: all objects of the kind.
    pub name: Option<Arc<str>>,
    pub state: WatchState,
    /// Whether it was ever listed: then its objects are known, even if stale.
    pub listed: bool,
    pub counters: Arc<Counters>,
}

/// What a watch is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchState {
    /// The whole list is being read, for the first time or anew.
    Listing,
    /// Changes arrive as they happen.
    Watching,
    /// The server does not know the kind; it counts as an empty list.
    NotInstalled,
    /// The server does not answer as it should. What was read before counts.
    Stale { since: Instant, error: String },
}

/// Counts that only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests to the server.
    pub requests: AtomicU64,
    /// Whole lists that were read, the first included.
    pub lists: AtomicU64,
    /// Lists after the first.
    pub relists: AtomicU64,
    /// Requests and streams that failed.
    pub errors: AtomicU64,
    /// Changes that were told.
    pub events: AtomicU64,
}

/// Where the watches report. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Board(Arc<Inner>);

struct Inner {
    health: watch::Sender<Health>,
    totals: Arc<Counters>,
    /// Watches that the server fails as a whole, and since when.
    outage: Mutex<Outage>,
}

#[derive(Default)]
struct Outage {
    failing: BTreeMap<WatchId, Instant>,
    since: Option<Instant>,
}

impl Board {
    pub(crate) fn new() -> Self {
        let totals = Arc::new(Counters::default());
        let health = watch::Sender::new(Health { totals: totals.clone(), ..Health::default() });
        Self(Arc::new(Inner { health, totals, outage: Mutex::default() }))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
    }

    pub(crate) fn started(&self) {
        self.0.health.send_modify(|health| health.started = true);
    }

    /// Adds a watch; identities grow.
    pub(crate) fn add(&self, id: WatchId, scope: &Scope) -> Reporter {
        let counters = Arc::new(Counters::default());
        let watch = WatchHealth {
            id,
            kind: scope.kind,
            namespace: scope.namespace.clone(),
            name: scope.name.clone(),
            state: WatchState::Listing,
            listed: false,
            counters: counters.clone(),
        };
        self.0.health.send_modify(|health| health.watches.push(watch));
        Reporter {
            board: self.clone(),
            id,
            scope: scope.clone(),
            counters,
            failing: None,
            listed: false,
            absent: false,
        }
    }

    fn set(&self, id: WatchId, change: impl FnOnce(&mut WatchHealth)) {
        self.0.health.send_if_modified(|health| {
            let Ok(at) = health.watches.binary_search_by_key(&id, |watch| watch.id) else { return false };
            let watch = &mut health.watches[at];
            let before = (watch.state.clone(), watch.listed);
            change(watch);
            before != (watch.state.clone(), watch.listed)
        });
    }

    fn remove(&self, id: WatchId) {
        self.recovered(id);
        self.0.health.send_modify(|health| health.watches.retain(|watch| watch.id != id));
    }

    /// Says an outage of the server once, however many watches it ends.
    fn failing(&self, id: WatchId, scope: &Scope, failure: &Failure) {
        let begins = {
            let mut outage = self.0.outage.lock().unwrap_or_else(PoisonError::into_inner);
            outage.failing.insert(id, Instant::now());
            let begins = outage.since.is_none();
            outage.since.get_or_insert_with(Instant::now);
            begins
        };
        if begins {
            tracing::warn!(
                resource = scope.describe(),
                error = %failure,
                mend = failure.mend(scope),
                "the API server does not answer as it should; what was read before counts"
            );
        }
    }

    fn recovered(&self, id: WatchId) {
        let ended = {
            let mut outage = self.0.outage.lock().unwrap_or_else(PoisonError::into_inner);
            let was_failing = outage.failing.remove(&id).is_some();
            if was_failing && outage.failing.is_empty() { outage.since.take() } else { None }
        };
        if let Some(since) = ended {
            tracing::info!(seconds = since.elapsed().as_secs_f32(), "the API server answers again");
        }
    }
}

/// A watch's own place on the board; dropping it takes the watch off.
pub(crate) struct Reporter {
    board: Board,
    id: WatchId,
    scope: Scope,
    counters: Arc<Counters>,
    /// What the watch fails with, if it does.
    failing: Option<Cause>,
    listed: bool,
    /// The kind is not installed.
    absent: bool,
}

impl Reporter {
    pub(crate) fn request(&self) {
        self.count(1, |counters| &counters.requests);
    }

    pub(crate) fn events(&self, events: usize) {
        self.count(u64::try_from(events).unwrap_or(u64::MAX), |counters| &counters.events);
    }

    fn count(&self, by: u64, counter: fn(&Counters) -> &AtomicU64) {
        counter(&self.counters).fetch_add(by, Ordering::Relaxed);
        counter(&self.board.0.totals).fetch_add(by, Ordering::Relaxed);
    }

    /// The list is being read again; the server did nothing wrong.
    pub(crate) fn listing(&mut self) {
        if self.failing.is_none() {
            self.board.set(self.id, |watch| watch.state = WatchState::Listing);
        }
    }

    pub(crate) fn listed(&mut self) {
        self.absent = false;
        self.count(1, |counters| &counters.lists);
        if std::mem::replace(&mut self.listed, true) {
            self.count(1, |counters| &counters.relists);
        }
        self.board.set(self.id, |watch| watch.listed = true);
        self.good(WatchState::Watching);
    }

    pub(crate) fn watching(&mut self) {
        self.good(WatchState::Watching);
    }

    pub(crate) fn not_installed(&mut self) {
        self.absent = true;
        self.board.set(self.id, |watch| watch.listed = true);
        self.good(WatchState::NotInstalled);
    }

    pub(crate) fn was_listed(&self) -> bool {
        self.listed && !self.absent
    }

    pub(crate) fn is_not_installed(&self) -> bool {
        self.absent
    }

    fn good(&mut self, state: WatchState) {
        match self.failing.take() {
            Some(cause) if cause.is_of_server() => self.board.recovered(self.id),
            Some(_) => tracing::info!(resource = self.scope.describe(), "the API server answers again"),
            None => {}
        }
        self.board.set(self.id, |watch| watch.state = state);
    }

    pub(crate) fn failed(&mut self, failure: &Failure) {
        self.count(1, |counters| &counters.errors);
        let error = failure.to_string();
        self.board.set(self.id, |watch| match &mut watch.state {
            WatchState::Stale { error: told, .. } => *told = error,
            state => *state = WatchState::Stale { since: Instant::now(), error },
        });
        let before = self.failing.replace(failure.cause);
        match (before, failure.cause.is_of_server()) {
            (Some(before), true) if before.is_of_server() => {}
            (_, true) => self.board.failing(self.id, &self.scope, failure),
            (Some(before), false) if before == failure.cause => {}
            (before, false) => {
                if before.is_some_and(Cause::is_of_server) {
                    self.board.recovered(self.id);
                }
                // What is wrong with one object is a finding.
                if self.scope.name.is_none() {
                    tracing::warn!(
                        resource = self.scope.describe(),
                        error = %failure,
                        mend = failure.mend(&self.scope),
                        "a list cannot be read; what was read before counts"
                    );
                }
            }
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.board.remove(self.id);
    }
}
