//! The kernel's word that something changed: one watch for each directory, and a mailbox of the paths it named.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use headwater_model::finding::Finding;
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::scan::{Look, unwatched};

/// Most paths that wait to be looked at; with more of them everything is.
const MAX_PENDING: usize = 1024;

/// What the kernel told and nobody has looked at yet.
#[derive(Default)]
pub(crate) struct Mailbox {
    pending: Mutex<Look>,
    /// Files that were written to and not closed since.
    open: Mutex<HashSet<PathBuf>>,
    news: Notify,
}

impl Mailbox {
    fn with<T>(&self, f: impl FnOnce(&mut Look) -> T) -> T {
        f(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether somebody is in the middle of writing a file, as far as the kernel told.
    pub(crate) fn is_being_written(&self) -> bool {
        !self.open.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn follow_writers(&self, event: &Event) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match event.kind {
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_)) if open.len() < MAX_PENDING => {
                open.extend(event.paths.iter().cloned());
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_) => {
                for path in &event.paths {
                    open.remove(path);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn put(&self, event: notify::Result<Event>) {
        if let Ok(event) = &event {
            self.follow_writers(event);
        }
        self.with(|look| match event {
            Ok(event) if event.need_rescan() => look.all = true,
            Ok(event) if is_change(event.kind) => {
                if look.paths.len() < MAX_PENDING {
                    look.paths.extend(event.paths);
                } else {
                    look.all = true;
                }
            }
            Ok(_) => {}
            Err(_) => look.all = true,
        });
        self.with(|look| {
            if look.all || !look.paths.is_empty() {
                self.news.notify_one();
            }
        });
    }

    pub(crate) fn look_at_all(&self) {
        self.with(|look| look.all = true);
        self.news.notify_one();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.with(|look| *look == Look::default())
    }

    pub(crate) fn take(&self) -> Look {
        // A writer that has been waited for long enough (or whose close was not told) is waited for no more.
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.with(std::mem::take)
    }

    /// Comes back when something was put in since it last did.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }
}

/// Whether the event can mean other content. Reading is none, least of all our own.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// The watched directories.
pub(crate) struct DirectoryWatch {
    watcher: RecommendedWatcher,
    /// With device and inode: a directory that was replaced needs a new watch.
    watched: BTreeMap<PathBuf, (u64, u64)>,
}

impl DirectoryWatch {
    pub(crate) fn new(mailbox: Arc<Mailbox>) -> notify::Result<Self> {
        let watcher = notify::recommended_watcher(move |event| mailbox.put(event))?;
        Ok(Self { watcher, watched: BTreeMap::new() })
    }

    pub(crate) fn is_watched(&self, path: &Path) -> bool {
        self.watched.contains_key(path)
    }

    /// Drops the watches on directories that events named: they may be another directory by now.
    pub(crate) fn forget(&mut self, named: &HashSet<PathBuf>) {
        for path in named {
            if self.watched.remove(path).is_some() {
                // The kernel may have dropped the watch by itself, with the directory.
                let _ = self.watcher.unwatch(path);
            }
        }
    }

    /// Watches these directories and no others. True if one is watched that was not before.
    pub(crate) fn follow(&mut self, directories: &BTreeMap<PathBuf, (u64, u64)>, notes: &mut Vec<Finding>) -> bool {
        notes.clear();
        let stale: Vec<PathBuf> = self
            .watched
            .iter()
            .filter(|(path, id)| directories.get(*path) != Some(id))
            .map(|(path, _)| path.clone())
            .collect();
        self.forget(&stale.into_iter().collect());
        let mut any = false;
        for (path, id) in directories {
            if self.watched.contains_key(path) {
                continue;
            }
            match self.watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path.clone(), *id);
                    any = true;
                }
                Err(error) if Path::new(path).exists() => notes.push(unwatched(path, &why(&error))),
                Err(_) => {}
            }
        }
        any
    }
}

fn why(error: &notify::Error) -> String {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => "fs.inotify.max_user_watches is reached; raise it".to_owned(),
        notify::ErrorKind::Io(error) => super::walk::reason(error),
        other => format!("{other:?}").to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{DataChange, Flag};

    fn event(kind: EventKind, path: &str) -> notify::Result<Event> {
        Ok(Event::new(kind).add_path(path.into()))
    }

    #[test]
    fn our_own_reading_is_no_news() {
        let mailbox = Mailbox::default();
        for access in [AccessKind::Open(AccessMode::Any), AccessKind::Close(AccessMode::Read), AccessKind::Read] {
            mailbox.put(event(EventKind::Access(access), "/a"));
        }
        assert!(mailbox.is_empty());
        mailbox.put(event(EventKind::Access(AccessKind::Close(AccessMode::Write)), "/a"));
        assert_eq!(mailbox.take(), Look { paths: HashSet::from(["/a".into()]), all: false });
        assert!(mailbox.is_empty());
    }

    #[test]
    fn lost_events_faults_and_floods_mean_that_everything_is_looked_at() {
        let lost = || Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan));
        let fault = || Err(notify::Error::generic("gone"));
        for put in [&lost as &dyn Fn() -> notify::Result<Event>, &fault] {
            let mailbox = Mailbox::default();
            mailbox.put(put());
            assert!(mailbox.take().all);
        }
        let mailbox = Mailbox::default();
        for n in 0..10 * MAX_PENDING {
            mailbox.put(event(EventKind::Modify(ModifyKind::Data(DataChange::Any)), &format!("/{n}")));
        }
        let look = mailbox.take();
        assert!(look.all && look.paths.len() <= MAX_PENDING + 1, "{}", look.paths.len());
    }
}
