//! The task that gives addresses on one machine, to the Services of a directory.
//!
//! ```text
//!  control task ──Batch──> Desk ──ServiceWrite──> GivenAddresses ──AddressFile──> .headwater/addresses.json
//!       ^                                                                                  │
//!       └───────────────────── DirectorySource: in the status of Services <────────────────┘
//! ```
//!
//! As with an API server, what was written is read again before it counts for others: so every process that reads the
//! directory sees the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use headwater_ipam::Class;
use headwater_kube_io::{AddressFile, Batch, Given, GivenAddresses};
use headwater_model::cluster::Change;
use headwater_model::finding::{Finding, Severity};
use headwater_model::metallb::judge::is_judged;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Duration, MissedTickBehavior, interval};

use crate::desk::{Desk, ServiceAddresses, ServiceWrite};

/// Batches that may wait. When there are more, the one who reads the directory waits.
pub const WAITING_BATCHES: usize = 16;

/// Before what could not be done is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Who has which address, as the one who gives them knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AddressState {
    /// Why none are given, or what was given is not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Empty while another process gives them.
    pub services: Vec<ServiceAddresses>,
}

/// Gives addresses to the Services of a directory; it ends when dropped.
pub struct DirectoryAddresses {
    state: watch::Receiver<Arc<AddressState>>,
    task: JoinHandle<()>,
}

impl DirectoryAddresses {
    /// `namespace`: where pools have to be. `batches`: everything that is read from the directory, from the first on.
    pub fn start(directory: impl Into<PathBuf>, class: Class, namespace: &str, batches: mpsc::Receiver<Batch>) -> Self {
        let (tell, state) = watch::channel(Arc::default());
        let reader =
            Reader { directory: directory.into(), batches, changes: BTreeMap::new(), findings: Vec::new(), tell };
        Self { state, task: tokio::spawn(reader.run(Desk::of_directory(class, namespace))) }
    }

    pub fn state(&self) -> watch::Receiver<Arc<AddressState>> {
        self.state.clone()
    }
}

impl Drop for DirectoryAddresses {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was read and is not looked at yet.
struct Reader {
    directory: PathBuf,
    batches: mpsc::Receiver<Batch>,
    changes: BTreeMap<ObjectKey, Change>,
    findings: Vec<Finding>,
    tell: watch::Sender<Arc<AddressState>>,
}

impl Reader {
    async fn run(mut self, desk: Desk) {
        let Some((file, given)) = self.turn().await else { return };
        let mut changes = std::mem::take(&mut self.changes);
        for change in changes.values_mut() {
            // What was read first may be older than what the process before wrote last.
            if let Change::Set(object) = change {
                *object = given.onto(object.clone());
            }
        }
        let ledger = Ledger { file: Arc::new(file), given, is_unsaved: false };
        let batch =
            Batch { changes: changes.into_values().collect(), findings: self.findings.clone(), ..Batch::default() };
        self.give(desk, ledger, batch).await;
    }

    /// Takes in the next batch; `None`: there is none any more.
    async fn next(&mut self) -> Option<()> {
        let batch = self.batches.recv().await?;
        self.findings = batch.findings;
        for change in batch.changes {
            let key = change.key();
            if [Kind::Service, Kind::Namespace].contains(&key.kind) || is_judged(key.kind) {
                self.changes.insert(key, change);
            }
        }
        Some(())
    }

    /// Waits until there is something to give, and until nobody else gives it.
    async fn turn(&mut self) -> Option<(AddressFile, GivenAddresses)> {
        let mut again = interval(TRY_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.next().await?;
        loop {
            let has_pools = self
                .changes
                .iter()
                .any(|(key, change)| key.kind == Kind::IpAddressPool && matches!(change, Change::Set(_)));
            if !has_pools && !AddressFile::exists(&self.directory) {
                self.next().await?;
                continue;
            }
            let directory = self.directory.clone();
            let taken = spawn_blocking(move || match AddressFile::take(&directory) {
                Ok(Some(file)) => file.read().map(|given| (file, given)).map_err(|finding| finding.to_string()),
                Ok(None) => Err("another process gives the addresses of this directory".to_owned()),
                Err(error) => Err(format!("{}: {error}; no Service gets an address", directory.display())),
            });
            match taken.await.ok()? {
                Ok(taken) => return Some(taken),
                Err(problem) => self.report(Some(problem), Vec::new()),
            }
            tokio::select! {
                next = self.next() => next?,
                _ = again.tick() => {}
            }
        }
    }

    fn report(&self, problem: Option<String>, services: Vec<ServiceAddresses>) {
        let state = AddressState { problem, services };
        self.tell.send_if_modified(|known| {
            if **known == state {
                return false;
            }
            if let Some(problem) = state.problem.as_ref().filter(|_| known.problem != state.problem) {
                tracing::error!(directory = %self.directory.display(), "addresses of Services: {problem}");
            }
            *known = Arc::new(state);
            true
        });
    }

    async fn give(&mut self, mut desk: Desk, mut ledger: Ledger, first: Batch) {
        let mut again = interval(TRY_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Some(first);
        loop {
            if let Some(batch) = batch.take() {
                let present: BTreeSet<NamespacedName> = batch.changes.iter().filter_map(set_service).collect();
                let gone: Vec<ObjectKey> = batch.changes.iter().filter_map(removed_service).collect();
                let may_come_again = ledger.not_among(&present, &desk);
                let hides = batch.findings.iter().any(hides_services);
                let reserved = if hides { may_come_again } else { BTreeMap::new() };
                let mut writes = desk.reserve(reserved.clone());
                writes.extend(desk.take(batch));
                ledger.forget(gone, &reserved, &desk);
                ledger.take(&desk, writes);
            }
            let problem = ledger.save().await.err();
            self.report(problem, desk.services().collect());
            batch = tokio::select! {
                next = self.next() => match next {
                    Some(()) => {
                        let changes = std::mem::take(&mut self.changes).into_values().collect();
                        Some(Batch { changes, findings: self.findings.clone(), ..Batch::default() })
                    }
                    None => return,
                },
                _ = again.tick(), if ledger.is_unsaved => None,
            };
        }
    }
}

fn set_service(change: &Change) -> Option<NamespacedName> {
    let key = change.key();
    (key.kind == Kind::Service && matches!(change, Change::Set(_))).then_some(key.id)
}

fn removed_service(change: &Change) -> Option<ObjectKey> {
    let key = change.key();
    (key.kind == Kind::Service && matches!(change, Change::Removed(_))).then_some(key)
}

/// Whether there may be Services that nobody has read.
fn hides_services(finding: &Finding) -> bool {
    finding.severity == Severity::Error && finding.object.as_ref().is_none_or(|key| key.kind == Kind::Service)
}

/// What is in the file, or shall be.
struct Ledger {
    file: Arc<AddressFile>,
    given: GivenAddresses,
    is_unsaved: bool,
}

impl Ledger {
    /// Addresses of Services that are not there.
    fn not_among(&self, coming: &BTreeSet<NamespacedName>, desk: &Desk) -> BTreeMap<NamespacedName, Vec<IpAddr>> {
        let gone = self.given.iter().filter(|(id, _)| !coming.contains(*id) && !desk.knows(id));
        gone.map(|(id, given)| (id.clone(), given.addresses.clone())).collect()
    }

    /// Services that went give back what they had, and those that were never read since this process began.
    fn forget(&mut self, gone: Vec<ObjectKey>, reserved: &BTreeMap<NamespacedName, Vec<IpAddr>>, desk: &Desk) {
        let lost = self.given.iter().map(|(id, _)| id).filter(|id| !desk.knows(id) && !reserved.contains_key(*id));
        let lost: Vec<NamespacedName> = lost.cloned().chain(gone.into_iter().map(|key| key.id)).collect();
        for id in lost {
            self.is_unsaved |= !desk.knows(&id) && self.given.remove(&id).is_some();
        }
    }

    fn take(&mut self, desk: &Desk, writes: Vec<ServiceWrite>) {
        for write in writes {
            for event in &write.events {
                let (service, reason) = (&write.id, &event.reason);
                match event.warning {
                    true => tracing::warn!(%service, reason, "{}", event.note),
                    false => tracing::info!(%service, reason, "{}", event.note),
                }
            }
            if write.addresses.is_none() && write.pool.is_none() {
                continue;
            }
            // What differs may be what somebody else wrote, so that the file is written in any case.
            self.is_unsaved = true;
            let before = self.given.get(&write.id).cloned();
            match desk.ipam().assignment(&write.id) {
                Some(now) => {
                    let pool = now.pool.clone().or_else(|| before.and_then(|before| before.pool));
                    self.given.set(write.id, Given { addresses: now.addresses.clone(), pool });
                }
                None if before.is_some_and(|before| !before.addresses.is_empty()) => {
                    self.given.remove(&write.id);
                }
                // What its manifest says it has, it has not.
                None => self.given.set(write.id, Given::default()),
            }
        }
    }

    /// Writes what is not written.
    async fn save(&mut self) -> Result<(), String> {
        if !self.is_unsaved {
            return Ok(());
        }
        let (file, given) = (self.file.clone(), self.given.clone());
        match spawn_blocking(move || file.write(&given)).await {
            Ok(Ok(())) => {
                self.is_unsaved = false;
                Ok(())
            }
            Ok(Err(error)) => Err(format!("they cannot be kept, so that nobody gets them: {error}")),
            Err(_) => Err("they cannot be kept: the runtime ends".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
