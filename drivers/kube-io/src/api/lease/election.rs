//! Who leads, decided from what the server answers and a local monotonic clock.
//!
//! As client-go's `leaderelection`: a candidate takes a Lease over that it has seen unchanged for its whole duration,
//! by its own clock; times written in the Lease are for people and never compared, so that neither clocks that differ
//! nor clocks that jump matter. Every write names the version that was read, so that of two candidates one wins.
//!
//! The leader may write until [`Timing::renew`] after it *sent* its last successful renewal. The server cannot have
//! stored it earlier, so nobody takes over before [`Timing::duration`] after it. The difference of the two is what
//! remains for writes already under way, and for clocks that run at different speeds.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// Spans of an election. Defaults: those of client-go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long candidates wait for a sign of life. Whole seconds; default 15 s.
    pub duration: Duration,
    /// How long the leader may write without having renewed; below `duration`. Default 10 s.
    pub renew: Duration,
    /// Pause between two renewals or two looks; below `renew`. Default 2 s.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { duration: Duration::from_secs(15), renew: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

/// `spec` of the Lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Empty: released.
    pub(crate) holder: String,
    pub(crate) duration_seconds: i32,
    pub(crate) transitions: i32,
    pub(crate) acquired: Option<Timestamp>,
    pub(crate) renewed: Option<Timestamp>,
}

/// What to ask the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    Read,
    Create(Record),
    /// Only if the Lease is still of this version.
    Replace(Record, String),
}

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// As it stands now, and its version.
    Lease(Record, String),
    NotFound,
    /// Somebody wrote in between; nothing was changed.
    Conflict,
    /// It is not known what became of the request.
    Lost,
}

/// The Lease as last heard of.
#[derive(Debug)]
struct Seen {
    record: Record,
    version: String,
    /// When this version was first heard of.
    at: Instant,
}

#[derive(Debug)]
pub(crate) struct Election {
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
    /// What `seen` says may be out of date: read before anything else.
    look: bool,
    /// The server said that there is no Lease: from when on one may be created.
    free_at: Option<Instant>,
    /// When the last successful renewal was sent.
    renewed: Option<Instant>,
    /// When to ask next.
    next: Instant,
}

impl Election {
    pub(crate) fn new(identity: String, timing: Timing, now: Instant) -> Self {
        Self { identity, timing, seen: None, look: true, free_at: None, renewed: None, next: now }
    }

    /// Until when no other can lead: while this is in the future, we do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.renewed.map(|sent| sent + self.timing.renew)
    }

    pub(crate) fn leads(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| now < deadline)
    }

    /// When [`ask`](Self::ask) wants to be called again.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Who holds the Lease, as far as we know.
    pub(crate) fn holder(&self) -> Option<&str> {
        self.seen.as_ref().map(|seen| &*seen.record.holder).filter(|holder| !holder.is_empty())
    }

    /// What to ask now. `clock` is what people will read in the Lease.
    pub(crate) fn ask(&self, now: Instant, clock: Timestamp) -> Ask {
        if self.look {
            return Ask::Read;
        }
        match &self.seen {
            None if self.free_at.is_some_and(|at| at <= now) => Ask::Create(self.claim(None, clock)),
            Some(seen) if self.may_claim(seen, now) => {
                Ask::Replace(self.claim(Some(&seen.record), clock), seen.version.clone())
            }
            _ => Ask::Read,
        }
    }

    /// Takes an answer in. `sent` and `now`: when the question left and when the answer came; `jitter`: 0 to 1.
    pub(crate) fn hear(&mut self, ask: &Ask, answer: Answer, sent: Instant, now: Instant, jitter: f64) {
        let led = self.leads(now);
        let was_write = !matches!(ask, Ask::Read);
        let mut at_once = false;
        match answer {
            Answer::Lease(record, version) => {
                let ours = record.holder == self.identity;
                let at = match &self.seen {
                    Some(seen) if seen.version == version => seen.at,
                    _ => now,
                };
                let seen = Seen { record, version, at };
                self.look = false;
                self.free_at = None;
                if was_write && ours {
                    self.renewed = Some(sent);
                } else {
                    if !ours {
                        self.renewed = None;
                    }
                    // We looked because we did not know, or to see whether it is free: act on it now.
                    at_once = self.may_claim(&seen, now);
                }
                self.seen = Some(seen);
            }
            Answer::NotFound => {
                // A Lease that somebody deletes does not tell its holder at once: wait as if it stood there still.
                let held = self.seen.take().is_some_and(|seen| seen.record.holder != self.identity);
                let at = *self.free_at.get_or_insert(if held { now + self.timing.duration } else { now });
                (self.renewed, self.look) = (None, false);
                at_once = at <= now && !was_write;
            }
            Answer::Conflict => {
                self.look = true;
                self.free_at = None;
            }
            Answer::Lost => self.look = true,
        }
        self.next = match () {
            () if at_once => now,
            () if led || self.leads(now) => now + if self.look { self.timing.retry / 4 } else { self.timing.retry },
            // As client-go: candidates that start together drift apart.
            () => now + self.timing.retry.mul_f64(1.0 + 1.2 * jitter),
        };
    }

    /// Leads no more, and knows nothing of what is still under way.
    pub(crate) fn stop(&mut self) {
        (self.renewed, self.look) = (None, true);
    }

    /// What to ask in order to hand over, once nothing is written any more.
    pub(crate) fn release(&mut self, clock: Timestamp) -> Option<Ask> {
        self.renewed = None;
        let seen = self.seen.as_ref().filter(|seen| seen.record.holder == self.identity)?;
        if self.look {
            return Some(Ask::Read);
        }
        let record = Record {
            holder: String::new(),
            duration_seconds: 1,
            transitions: seen.record.transitions,
            acquired: Some(clock),
            renewed: Some(clock),
        };
        Some(Ask::Replace(record, seen.version.clone()))
    }

    /// Whether the Lease is ours, released, or has shown no sign of life for its duration.
    fn may_claim(&self, seen: &Seen, now: Instant) -> bool {
        let written = Duration::from_secs(u64::try_from(seen.record.duration_seconds).unwrap_or(0));
        seen.record.holder.is_empty()
            || seen.record.holder == self.identity
            || now.saturating_duration_since(seen.at) >= self.timing.duration.max(written)
    }

    fn claim(&self, before: Option<&Record>, clock: Timestamp) -> Record {
        let kept = before.filter(|record| record.holder == self.identity);
        let transitions = before.map_or(0, |record| record.transitions);
        Record {
            holder: self.identity.clone(),
            duration_seconds: i32::try_from(self.timing.duration.as_secs()).unwrap_or(i32::MAX),
            transitions: if kept.is_some() || before.is_none() { transitions } else { transitions.saturating_add(1) },
            acquired: kept.and_then(|record| record.acquired).or(Some(clock)),
            renewed: Some(clock),
        }
    }
}

#[cfg(test)]
mod tests;
