//! A manifest directory as a living source of objects.
//!
//! ```text
//!  kernel --events--> Mailbox --Look--> Scanner (blocking thread: list, read, parse) --Sight--> Store --> Batch
//!  clock, every 30 s -----^
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headwater_model::finding::{Finding, Location};
use headwater_model::origin::ObjectKey;
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, timeout_at};

use crate::Batch;

use super::scan::{Look, Scanner, Sight, unwatched};
use super::store::Store;
use super::watch::{DirectoryWatch, Mailbox};

/// A burst of events is over when none came for this long and somebody is writing: an editor writes a file in a few
/// milliseconds.
const QUIET: Duration = Duration::from_millis(20);

/// The same when every file that was written to was closed or renamed into place: then it is whole, and only other
/// files of the same change may follow.
const QUIET_WHEN_WHOLE: Duration = Duration::from_millis(2);

/// A burst that does not end is looked at after this long.
const LONGEST_BURST: Duration = Duration::from_millis(200);

/// Everything is looked at this often, for file systems that tell nothing (NFS, some container mounts).
const RESCAN: Duration = Duration::from_secs(30);

/// Why a directory cannot be a source.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DirectoryError {
    #[error("manifest directory {}: cannot be read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
}

/// A manifest directory that is watched. Dropping it ends the watch.
pub struct DirectorySource {
    mailbox: Arc<Mailbox>,
    /// `None` while it is at work.
    scanner: Option<Scanner>,
    /// Kept here, so that a dropped `next` loses nothing.
    scan: Option<JoinHandle<(Scanner, Sight)>>,
    store: Store,
    findings: Vec<Finding>,
    /// What is wrong with the watch as a whole.
    unwatched: Option<Finding>,
    rescan: Interval,
    /// When the burst that is being waited out is looked at anyway. It outlives a dropped `next`, so that a caller
    /// who drops often still gets there.
    burst_end: Option<Instant>,
}

impl DirectorySource {
    /// Reads the directory (or the one file) and begins to watch it. Needs tokio's clock.
    ///
    /// # Errors
    /// [`DirectoryError::Unreadable`] if nothing can be read there now. Later it is a finding, and what was read stays.
    pub async fn start(path: impl Into<PathBuf>) -> Result<(Batch, Self), DirectoryError> {
        let path = path.into();
        let mailbox = Arc::new(Mailbox::default());
        let (watch, unwatched) = match DirectoryWatch::new(mailbox.clone()) {
            Ok(watch) => (Some(watch), None),
            Err(error) => (None, Some(unwatched(&path, &error.to_string()))),
        };
        let mut rescan = interval_at(Instant::now() + RESCAN, RESCAN);
        rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let first = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || {
                let metadata = std::fs::metadata(&path)?;
                if metadata.is_dir() {
                    std::fs::read_dir(&path).map(drop)
                } else {
                    std::fs::File::open(&path).map(drop)
                }
            })
        };
        joined(first.await).map_err(|source| DirectoryError::Unreadable { path: path.clone(), source })?;
        let mut source = Self {
            mailbox,
            scanner: Some(Scanner::new(path, watch)),
            scan: None,
            store: Store::default(),
            findings: Vec::new(),
            unwatched,
            rescan,
            burst_end: None,
        };
        source.begin(Look { all: true, ..Look::default() });
        let sight = source.sight().await;
        let changes = source.store.apply(sight.updates, sight.notes);
        source.findings = source.all_findings();
        let batch = Batch { changes, findings: source.findings.clone(), ..Batch::default() };
        Ok((batch, source))
    }

    /// Waits for the next difference in objects or findings.
    ///
    /// Cancel-safe: a dropped future loses no change.
    pub async fn next(&mut self) -> Batch {
        loop {
            if self.scan.is_none() {
                self.wait().await;
                self.burst_end = None;
                let look = self.mailbox.take();
                self.begin(look);
            }
            let sight = self.sight().await;
            let changes = self.store.apply(sight.updates, sight.notes);
            let findings = self.all_findings();
            if !changes.is_empty() || findings != self.findings {
                self.findings.clone_from(&findings);
                return Batch { changes, findings, ..Batch::default() };
            }
        }
    }

    /// File and line of a field (or of its nearest ancestor that stands in the manifest), for findings made later.
    ///
    /// `field` as in `spec.rules[0].http.paths[1].backend` or `metadata.annotations[nginx.ingress.kubernetes.io/foo]`;
    /// empty for the object itself. `None` for an object that is not here.
    pub fn locate(&self, key: &ObjectKey, field: &str) -> Option<Location> {
        self.store.locate(key, field)
    }

    fn all_findings(&self) -> Vec<Finding> {
        self.unwatched.iter().cloned().chain(self.store.findings()).collect()
    }

    /// Returns when there is something to look at and the burst of events is over.
    async fn wait(&mut self) {
        if self.mailbox.is_empty() {
            tokio::select! {
                () = self.mailbox.news() => {}
                _ = self.rescan.tick() => return self.mailbox.look_at_all(),
            }
        }
        let end = *self.burst_end.get_or_insert_with(|| Instant::now() + LONGEST_BURST);
        while Instant::now() < end {
            let quiet = if self.mailbox.is_being_written() { QUIET } else { QUIET_WHEN_WHOLE };
            tokio::select! {
                more = timeout_at(end, self.mailbox.news()) => if more.is_err() { return },
                () = sleep(quiet) => return,
            }
        }
    }

    fn begin(&mut self, look: Look) {
        if let Some(mut scanner) = self.scanner.take() {
            self.scan = Some(tokio::task::spawn_blocking(move || {
                let sight = scanner.look(&look);
                (scanner, sight)
            }));
        }
    }

    async fn sight(&mut self) -> Sight {
        let scan = self.scan.as_mut().expect("a scan was begun");
        let (scanner, sight) = joined(scan.await);
        self.scan = None;
        self.scanner = Some(scanner);
        sight
    }
}

/// The result of a blocking task; a panic in it goes on here.
fn joined<T>(result: Result<T, tokio::task::JoinError>) -> T {
    result.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => panic!("the runtime ended during a scan: {error}"),
    })
}
