//! Ending in order: no new work, time for the work at hand, then the end.
//!
//! ```text
//! serving ──begin──> draining ──graceful over──> forced ──forced over──> finished
//!                       └────────── all guards dropped ──────────────────^
//! ```
//!
//! Works across threads and runtimes: each waiter uses its own runtime's timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// The side that ends things.
#[derive(Debug, Clone)]
pub struct Drain {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    deadlines: watch::Sender<Option<Deadlines>>,
    /// For a look without waiting.
    begun: AtomicBool,
    guards: AtomicUsize,
    /// Told when the last guard is dropped.
    empty: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Deadlines {
    graceful: Instant,
    forced: Instant,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainOutcome {
    /// Every guard was dropped.
    Complete,
    /// The forced deadline passed while this many guards were held.
    Abandoned { guards: usize },
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                deadlines: watch::Sender::new(None),
                begun: AtomicBool::new(false),
                guards: AtomicUsize::new(0),
                empty: Notify::new(),
            }),
        }
    }

    /// A guard for a piece of work: [`Self::finished`] waits until it and all its clones are dropped.
    pub fn handle(&self) -> DrainGuard {
        DrainGuard::new(self.shared.clone())
    }

    /// Begins: work at hand may take `graceful`, and is told to stop at once after that; who still works after `forced`
    /// is abandoned. Both from now; `forced` counts as at least `graceful`.
    ///
    /// When called again, the earlier deadlines win: a second signal with zero ends everything.
    pub fn begin(&self, graceful: Duration, forced: Duration) {
        let now = Instant::now();
        let later = |wait: Duration| now.checked_add(wait).unwrap_or(now + Duration::from_secs(86_400 * 365));
        let new = Deadlines { graceful: later(graceful), forced: later(forced.max(graceful)) };
        self.shared.begun.store(true, Ordering::Relaxed);
        self.shared.deadlines.send_modify(|deadlines| {
            *deadlines = Some(match deadlines {
                Some(old) => Deadlines { graceful: old.graceful.min(new.graceful), forced: old.forced.min(new.forced) },
                None => new,
            });
        });
    }

    pub fn is_draining(&self) -> bool {
        self.shared.begun.load(Ordering::Relaxed)
    }

    /// Waits until a drain has begun.
    pub async fn draining(&self) {
        self.shared.draining().await;
    }

    /// Guards held now.
    pub fn guards(&self) -> usize {
        self.shared.guards.load(Ordering::Acquire)
    }

    /// Waits until a drain has begun and all guards are dropped, or the forced deadline has passed.
    pub async fn finished(&self) -> DrainOutcome {
        self.shared.draining().await;
        tokio::select! {
            biased;
            () = self.shared.all_dropped() => DrainOutcome::Complete,
            () = self.shared.passed(|deadlines| deadlines.forced) => {
                // The last one may have gone in the same moment.
                match self.guards() {
                    0 => DrainOutcome::Complete,
                    guards => DrainOutcome::Abandoned { guards },
                }
            }
        }
    }
}

impl Shared {
    async fn draining(&self) {
        let mut deadlines = self.deadlines.subscribe();
        // The sender lives as long as `self`.
        let _ = deadlines.wait_for(Option::is_some).await;
    }

    /// Waits until a deadline has passed, also when it is moved meanwhile.
    async fn passed(&self, which: fn(&Deadlines) -> Instant) {
        let mut deadlines = self.deadlines.subscribe();
        loop {
            let at = deadlines.borrow_and_update().as_ref().map(which);
            let over = async {
                match at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return,
                _ = deadlines.changed() => {}
            }
        }
    }

    async fn all_dropped(&self) {
        loop {
            let notified = self.empty.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.guards.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// Held by a piece of work: a worker, a listener, a connection.
#[derive(Debug)]
pub struct DrainGuard {
    shared: Arc<Shared>,
}

impl DrainGuard {
    fn new(shared: Arc<Shared>) -> Self {
        shared.guards.fetch_add(1, Ordering::Relaxed);
        Self { shared }
    }

    /// Whether to take no new work; costs one load.
    pub fn is_draining(&self) -> bool {
        self.shared.begun.load(Ordering::Relaxed)
    }

    /// Waits until no new work is to be taken. Safe to cancel.
    pub async fn draining(&self) {
        self.shared.draining().await;
    }

    /// Waits until work at hand is to be stopped as it is. Needs a runtime with time. Safe to cancel.
    pub async fn forced(&self) {
        self.shared.passed(|deadlines| deadlines.graceful).await;
    }
}

impl Clone for DrainGuard {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone())
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        if self.shared.guards.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn is_pending(future: impl Future) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(future).poll(&mut context).is_pending()
    }

    #[tokio::test(start_paused = true)]
    async fn it_finishes_when_the_last_guard_is_dropped() {
        let drain = Drain::new();
        let first = drain.handle();
        let second = first.clone();
        assert!(!first.is_draining() && is_pending(first.draining()));
        assert!(is_pending(drain.finished()), "not begun");
        drain.begin(LONG, LONG);
        assert!(first.is_draining());
        first.draining().await;
        assert!(is_pending(first.forced()));
        drop(first);
        assert_eq!(drain.guards(), 1);
        assert!(is_pending(drain.finished()));
        drop(second);
        assert_eq!(drain.finished().await, DrainOutcome::Complete);
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_pass_in_their_order() {
        let drain = Drain::new();
        let guard = drain.handle();
        let start = Instant::now();
        drain.begin(Duration::from_secs(10), Duration::from_secs(15));
        guard.forced().await;
        assert_eq!(start.elapsed().as_secs(), 10);
        assert_eq!(drain.finished().await, DrainOutcome::Abandoned { guards: 1 });
        assert_eq!(start.elapsed().as_secs(), 15);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_shortens_and_never_lengthens() {
        let drain = Drain::new();
        let guard = drain.handle();
        let start = Instant::now();
        drain.begin(LONG, LONG);
        drain.begin(Duration::MAX, Duration::MAX);
        let forced = tokio::spawn(async move { guard.forced().await });
        tokio::task::yield_now().await;
        drain.begin(Duration::from_secs(1), Duration::ZERO);
        forced.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 1);
        assert_eq!(drain.finished().await, DrainOutcome::Complete);
    }

    #[test]
    fn guards_of_other_runtimes_are_waited_for() {
        let drain = Drain::new();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let guard = drain.handle();
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    runtime.block_on(async move {
                        let connections: Vec<_> = (0..100)
                            .map(|_| {
                                let guard = guard.clone();
                                async move { guard.draining().await }
                            })
                            .collect();
                        for connection in connections {
                            connection.await;
                        }
                    });
                })
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        drain.begin(LONG, LONG);
        assert_eq!(runtime.block_on(drain.finished()), DrainOutcome::Complete);
        for worker in workers {
            worker.join().unwrap();
        }
    }
}
