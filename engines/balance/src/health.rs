//! Passive health: endpoints that fail again and again are left out for a while.

use std::time::Duration;

use headwater_model::gateway::PassiveHealth;

use crate::endpoint::EndpointId;

/// Whether an endpoint takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    Healthy,
    /// Its time is over: one request at a time decides.
    Trial,
    Ejected,
}

/// A change worth a log line and a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthEvent {
    /// No requests before `until` (nanoseconds). `ejections` counts those that followed each other.
    Ejected { id: EndpointId, until: u64, ejections: u32 },
    /// A request succeeded, or too many of the pool were ejected.
    Restored { id: EndpointId },
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Health {
    /// In a row.
    failures: u32,
    ejections: u32,
    /// `Some` from ejection until a request succeeds.
    ejected_until: Option<u64>,
    restored: u64,
    /// Start of the request that decides.
    trial: Option<u64>,
}

/// Most endpoints of a pool that may be ejected at once.
pub(crate) fn max_ejected(policy: &PassiveHealth, endpoints: usize) -> usize {
    if endpoints < 2 || policy.max_ejected_percent == 0 {
        return 0;
    }
    (endpoints * policy.max_ejected_percent.min(100) as usize / 100).max(1)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Health {
    pub(crate) fn is_healthy(&self) -> bool {
        self.ejected_until.is_none()
    }

    pub(crate) fn ejected_until(&self) -> Option<u64> {
        self.ejected_until
    }

    pub(crate) fn availability(&self, policy: &PassiveHealth, now: u64) -> Availability {
        let Some(until) = self.ejected_until else { return Availability::Healthy };
        // a request that decides and never ends does not decide for ever
        let free = |started: u64| now >= started.saturating_add(nanoseconds(policy.base_ejection));
        if now >= until && self.trial.is_none_or(free) { Availability::Trial } else { Availability::Ejected }
    }

    /// Whether the request decides over an ejected endpoint.
    pub(crate) fn begin(&mut self, now: u64) -> bool {
        if self.ejected_until.is_some_and(|until| now >= until) {
            self.trial = Some(now);
        }
        !self.is_healthy()
    }

    /// Whether the endpoint was restored.
    pub(crate) fn success(&mut self, trial: bool, now: u64) -> bool {
        if self.is_healthy() {
            self.failures = 0;
            return false;
        }
        if trial {
            self.restore(now);
        }
        trial
    }

    /// Whether the endpoint was ejected. `room` is whether the pool can spare one more.
    pub(crate) fn failure(&mut self, policy: &PassiveHealth, trial: bool, room: bool, now: u64) -> Option<(u64, u32)> {
        match self.ejected_until {
            None => {
                self.failures = self.failures.saturating_add(1);
                if policy.consecutive_failures == 0 || self.failures < policy.consecutive_failures || !room {
                    return None;
                }
                // one step is forgotten for each base ejection spent in health
                let healthy = now.saturating_sub(self.restored) / nanoseconds(policy.base_ejection).max(1);
                self.ejections = self.ejections.saturating_sub(u32::try_from(healthy).unwrap_or(u32::MAX));
            }
            Some(until) if trial && now >= until => {}
            // began before the ejection, or while everybody was ejected: nothing new
            Some(_) => return None,
        }
        self.ejections = self.ejections.saturating_add(1);
        let base = nanoseconds(policy.base_ejection);
        let factor = 1u64.checked_shl(self.ejections - 1).unwrap_or(u64::MAX);
        let duration = base.saturating_mul(factor).min(nanoseconds(policy.max_ejection).max(base));
        let until = now.saturating_add(duration);
        self.failures = 0;
        self.trial = None;
        self.ejected_until = Some(until);
        Some((until, self.ejections))
    }

    pub(crate) fn cancelled(&mut self, trial: bool) {
        if trial {
            self.trial = None;
        }
    }

    pub(crate) fn restore(&mut self, now: u64) {
        self.failures = 0;
        self.trial = None;
        self.ejected_until = None;
        self.restored = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn policy() -> PassiveHealth {
        PassiveHealth {
            consecutive_failures: 2,
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_secs(60),
            max_ejected_percent: 50,
        }
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_begins_anew() {
        let mut health = Health::default();
        assert_eq!(health.failure(&policy(), false, true, 0), None);
        assert!(!health.success(false, 0));
        assert_eq!(health.failure(&policy(), false, true, 0), None);
        assert_eq!(health.failure(&policy(), false, false, 0), None, "no room");
        assert_eq!(health.failure(&policy(), false, true, S), Some((11 * S, 1)));
    }

    #[test]
    fn ejections_double_up_to_the_longest() {
        let mut health = Health::default();
        health.failure(&policy(), false, true, 0);
        let mut now = 0;
        for (ejections, seconds) in [(1, 10), (2, 20), (3, 40), (4, 60), (5, 60)] {
            let trial = ejections > 1;
            assert_eq!(health.failure(&policy(), trial, true, now), Some((now + seconds * S, ejections)));
            assert_eq!(health.availability(&policy(), now + seconds * S - 1), Availability::Ejected);
            now += seconds * S;
            assert_eq!(health.availability(&policy(), now), Availability::Trial);
            assert!(health.begin(now));
            assert_eq!(health.availability(&policy(), now), Availability::Ejected, "one trial at a time");
            assert_eq!(health.availability(&policy(), now + 10 * S), Availability::Trial, "a lost trial is replaced");
        }
        health.cancelled(true);
        assert_eq!(health.availability(&policy(), now), Availability::Trial);
    }

    #[test]
    fn ejections_are_forgotten_in_health() {
        let ejected_thrice_then_healthy_for = |seconds: u64| {
            let mut health = Health { ejections: 3, ejected_until: Some(0), ..Health::default() };
            assert!(health.success(true, 0));
            health.failure(&policy(), false, true, 0);
            health.failure(&policy(), false, true, seconds * S).map(|(_, ejections)| ejections)
        };
        for (seconds, ejections) in [(0, 4), (9, 4), (10, 3), (25, 2), (1000, 1)] {
            assert_eq!(ejected_thrice_then_healthy_for(seconds), Some(ejections), "{seconds}");
        }
    }

    #[test]
    fn requests_from_before_the_ejection_change_nothing() {
        let mut health = Health { ejected_until: Some(10 * S), ejections: 1, ..Health::default() };
        assert!(!health.success(false, 11 * S));
        assert_eq!(health.failure(&policy(), false, true, 11 * S), None);
        assert_eq!(health.failure(&policy(), true, true, 9 * S), None, "tried while all were ejected");
        assert!(health.success(true, 9 * S), "tried while all were ejected");
    }

    #[test]
    fn a_pool_keeps_its_share() {
        for (percent, endpoints, ejected) in [
            (50, 0, 0),
            (50, 1, 0),
            (50, 2, 1),
            (50, 3, 1),
            (50, 10, 5),
            (10, 3, 1),
            (0, 10, 0),
            (100, 3, 3),
            (900, 3, 3),
        ] {
            let policy = PassiveHealth { max_ejected_percent: percent, ..policy() };
            assert_eq!(max_ejected(&policy, endpoints), ejected, "{percent}% of {endpoints}");
        }
    }
}
