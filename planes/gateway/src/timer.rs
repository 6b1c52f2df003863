//! Deadlines of one worker, kept by a coarse wheel of one: a sweep every [`TICK`] over all running exchanges.
//!
//! Setting a deadline on the request path is two stores. A runtime timer would have to be registered and removed for
//! every request. The price is precision: a deadline fires up to two ticks late.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use slab::Slab;

/// Time between two sweeps.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// Why a wait ended before what it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// The deadline passed.
    Expired,
    /// The connection was idle and is asked to close.
    Drain,
    /// The peer that waits for the answer has left.
    Gone,
}

/// All deadlines of a worker.
pub(crate) struct Timers {
    start: Instant,
    now_ms: Cell<u64>,
    entries: RefCell<Slab<Rc<Entry>>>,
}

struct Entry {
    /// Milliseconds since the start of the worker; `u64::MAX` is off.
    deadline_ms: Cell<u64>,
    expired: Cell<bool>,
    draining: Cell<bool>,
    gone: Cell<bool>,
    /// Which listener's connection this is, so that one listener can be drained.
    group: u64,
    waker: RefCell<Option<Waker>>,
}

impl Timers {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self { start: Instant::now(), now_ms: Cell::new(0), entries: RefCell::default() })
    }

    /// A timer for one task; `group` names what [`Timers::drain`] drains together.
    pub(crate) fn timer(self: &Rc<Self>, group: u64) -> Timer {
        let entry = Rc::new(Entry {
            deadline_ms: Cell::new(u64::MAX),
            expired: Cell::new(false),
            draining: Cell::new(false),
            gone: Cell::new(false),
            group,
            waker: RefCell::new(None),
        });
        let slot = self.entries.borrow_mut().insert(entry.clone());
        Timer { timers: self.clone(), entry, slot }
    }

    /// Wakes whoever is past its deadline; called every [`TICK`].
    pub(crate) fn sweep(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.now_ms.set(now);
        for (_, entry) in self.entries.borrow().iter() {
            if entry.deadline_ms.get() <= now && !entry.expired.get() {
                entry.expired.set(true);
                entry.wake();
            }
        }
    }

    /// Asks connections to close once they are idle: those of one group, or all.
    pub(crate) fn drain(&self, group: Option<u64>) {
        for (_, entry) in self.entries.borrow().iter() {
            if group.is_none_or(|group| group == entry.group) {
                entry.draining.set(true);
                entry.wake();
            }
        }
    }

    /// Whether no task has a timer: no connection is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }

    /// Milliseconds since the worker began, as of the last sweep.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }
}

impl Entry {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn park(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match waker.as_mut() {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
    }
}

/// The one deadline of a task.
pub(crate) struct Timer {
    timers: Rc<Timers>,
    entry: Rc<Entry>,
    slot: usize,
}

impl Timer {
    /// Moves the deadline to `after` from now.
    pub(crate) fn set(&self, after: Duration) {
        let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        // The sweep's clock may be one tick behind: late is harmless, early is not.
        let slack = u64::try_from(TICK.as_millis()).unwrap_or(0) + 1;
        self.entry.deadline_ms.set(self.timers.now_ms.get().saturating_add(after).saturating_add(slack));
        self.entry.expired.set(false);
    }

    /// Asks its own connection to close once it is idle.
    pub(crate) fn drain(&self) {
        self.entry.draining.set(true);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.entry.draining.get()
    }

    /// From now on every wait ends with [`Interrupt::Gone`].
    pub(crate) fn give_up(&self) {
        self.entry.gone.set(true);
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.entry.gone.get()
    }

    /// Awaits `future`, but not past the deadline.
    pub(crate) fn run<F: Future>(&self, future: F) -> Run<'_, F> {
        Run { future, entry: &self.entry, idle: false }
    }

    /// Awaits `future` as an idle connection: a drain ends the wait, too.
    pub(crate) fn run_idle<F: Future>(&self, future: F) -> Run<'_, F> {
        Run { future, entry: &self.entry, idle: true }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.timers.entries.borrow_mut().remove(self.slot);
    }
}

pin_project! {
    /// Future of [`Timer::run`].
    pub(crate) struct Run<'t, F> {
        #[pin]
        future: F,
        entry: &'t Entry,
        idle: bool,
    }
}

impl<F: Future> Future for Run<'_, F> {
    type Output = Result<F::Output, Interrupt>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Ok(output));
        }
        if this.entry.gone.get() {
            return Poll::Ready(Err(Interrupt::Gone));
        }
        if this.entry.expired.get() {
            return Poll::Ready(Err(Interrupt::Expired));
        }
        if *this.idle && this.entry.draining.get() {
            return Poll::Ready(Err(Interrupt::Drain));
        }
        this.entry.park(context);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_wait_past_its_deadline_expires() {
        let timers = Timers::new();
        let timer = timers.timer(1);
        timer.set(Duration::ZERO);
        let wait = timer.run(pending::<()>());
        tokio::pin!(wait);
        assert!(futures_util::poll!(&mut wait).is_pending());
        while !timer.entry.expired.get() {
            timers.sweep();
        }
        assert_eq!(wait.await, Err(Interrupt::Expired));
    }

    #[tokio::test]
    async fn a_drain_ends_idle_waits_of_its_group_only() {
        let timers = Timers::new();
        let (one, two) = (timers.timer(1), timers.timer(2));
        timers.drain(Some(1));
        assert_eq!(one.run_idle(pending::<()>()).await, Err(Interrupt::Drain));
        assert!(futures_util::poll!(Box::pin(two.run_idle(pending::<()>()))).is_pending());
        assert!(futures_util::poll!(Box::pin(one.run(pending::<()>()))).is_pending(), "a busy wait goes on");
    }
}
