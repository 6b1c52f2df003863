//! Objects whose status may have to be written: each stands once, and is never written twice at a time.

use std::collections::{BTreeSet, HashMap, VecDeque};

use headwater_model::origin::ObjectKey;
use tokio::time::{Duration, Instant};

/// First pause after a write that did not succeed; doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Queue {
    ready: VecDeque<ObjectKey>,
    waiting: BTreeSet<(Instant, ObjectKey)>,
    places: HashMap<ObjectKey, Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Ready,
    Waiting(Instant),
    /// Being written; `again`: something changed meanwhile.
    Busy {
        again: bool,
    },
}

impl Queue {
    /// Something about the object changed. A pause that it is in goes on.
    pub(crate) fn push(&mut self, key: ObjectKey) {
        match self.places.get_mut(&key) {
            Some(Place::Busy { again }) => *again = true,
            Some(Place::Ready | Place::Waiting(_)) => {}
            None => {
                self.places.insert(key.clone(), Place::Ready);
                self.ready.push_back(key);
            }
        }
    }

    /// The next to look at; call [`done`](Self::done) or [`pause`](Self::pause) when that is over.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<ObjectKey> {
        while self.waiting.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, key)) = self.waiting.pop_first() else { break };
            self.places.insert(key.clone(), Place::Ready);
            self.ready.push_back(key);
        }
        let key = self.ready.pop_front()?;
        self.places.insert(key.clone(), Place::Busy { again: false });
        Some(key)
    }

    /// Looked at, and right now.
    pub(crate) fn done(&mut self, key: ObjectKey) {
        if let Some(Place::Busy { again: true }) = self.places.remove(&key) {
            self.push(key);
        }
    }

    /// To be looked at again, then.
    pub(crate) fn pause(&mut self, key: ObjectKey, until: Instant) {
        self.places.insert(key.clone(), Place::Waiting(until));
        self.waiting.insert((until, key));
    }

    /// Everything that waits is looked at soon.
    pub(crate) fn hurry(&mut self) {
        for (_, key) in std::mem::take(&mut self.waiting) {
            self.places.insert(key.clone(), Place::Ready);
            self.ready.push_back(key);
        }
    }

    /// When the next pause ends; now, when something is ready.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        if self.ready.is_empty() { self.waiting.first().map(|(until, _)| *until) } else { Some(now) }
    }
}

/// The pause after a number of failures in a row (from 1). `jitter`: 0 to 1.
pub(crate) fn pause(failures: u32, asked_for: Option<Duration>, jitter: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LAST_PAUSE);
    doubled.max(asked_for.unwrap_or_default().min(LAST_PAUSE)).mul_f64(1.0 + 0.5 * jitter)
}

#[cfg(test)]
mod tests {
    use headwater_model::origin::Kind;

    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(Kind::Ingress, "a", name)
    }

    #[test]
    fn an_object_stands_in_the_queue_once_and_in_the_order_of_its_first_change() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for name in ["x", "y", "x", "z", "y"] {
            queue.push(key(name));
        }
        let popped: Vec<ObjectKey> = std::iter::from_fn(|| queue.pop(now)).collect();
        assert_eq!(popped, [key("x"), key("y"), key("z")]);
    }

    #[test]
    fn an_object_that_changes_while_it_is_written_comes_after_that_write() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.push(key("x"));
        queue.pop(now);
        queue.push(key("x"));
        assert_eq!(queue.pop(now), None, "two writes of one object at a time");
        queue.done(key("x"));
        assert_eq!(queue.pop(now), Some(key("x")));
        queue.done(key("x"));
        assert_eq!((queue.pop(now), queue.next(now)), (None, None));
    }

    #[test]
    fn changes_do_not_shorten_a_pause() {
        let now = Instant::now();
        let until = now + Duration::from_secs(5);
        let mut queue = Queue::default();
        queue.push(key("x"));
        queue.pop(now);
        queue.pause(key("x"), until);
        queue.push(key("x"));
        assert_eq!((queue.pop(now), queue.next(now)), (None, Some(until)));
        assert_eq!(queue.pop(until), Some(key("x")));
        queue.pause(key("x"), until);
        queue.hurry();
        assert_eq!(queue.pop(now), Some(key("x")));
    }

    #[test]
    fn pauses_grow_to_a_minute_and_respect_what_the_server_asks() {
        let seconds = |failures, asked: u64| pause(failures, Some(Duration::from_secs(asked)), 0.0).as_secs_f64();
        assert_eq!([seconds(1, 0), seconds(2, 0), seconds(4, 0)], [0.5, 1.0, 4.0]);
        assert_eq!([seconds(40, 0), seconds(1, 7), seconds(1, 9_999)], [60.0, 7.0, 60.0]);
        assert_eq!(pause(1, None, 1.0), Duration::from_millis(750));
    }
}
