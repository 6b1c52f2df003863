//! How long to wait before the next try.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

const SHORTEST: Duration = Duration::from_millis(200);

/// A try that went well for this long ends the row of failures.
const WELL: Duration = Duration::from_secs(5);

/// Grows with each failure in a row; the clock is the monotonic one.
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
    /// When the last try began.
    tried: Instant,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { failures: 0, tried: Instant::now() }
    }

    /// Whether the last try went well long enough.
    pub(crate) fn went_well(&self) -> bool {
        self.tried.elapsed() >= WELL
    }

    /// Waits after a failure: twice as long each time up to `longest`, with as much as half of it taken off at random,
    /// and not less than the server asks for.
    pub(crate) async fn wait(&mut self, longest: Duration, at_least: Option<Duration>) {
        if self.went_well() {
            self.failures = 0;
        }
        let pause = pause(self.failures, longest, random());
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(pause.max(at_least.unwrap_or_default())).await;
        self.tried = Instant::now();
    }
}

/// A number from the keys that the standard library draws for its hash maps; not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// From 0 to 1.
pub(crate) fn fraction() -> f64 {
    f64::from(u32::try_from(random() >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

fn pause(failures: u32, longest: Duration, random: u64) -> Duration {
    let full = SHORTEST.saturating_mul(1 << failures.min(16)).min(longest);
    let off = u32::try_from(random % 500).unwrap_or_default();
    full * (1000 - off) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_the_longest_and_is_never_shorter_than_half() {
        let longest = Duration::from_secs(3);
        for (failures, full) in [(0, 200), (1, 400), (2, 800), (3, 1600), (4, 3000), (5, 3000), (u32::MAX, 3000)] {
            let full = Duration::from_millis(full);
            assert_eq!(pause(failures, longest, 0), full);
            let shortest = pause(failures, longest, 499);
            assert!(shortest > full / 2 && shortest < full, "{shortest:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_went_well_ends_the_row_and_a_server_may_ask_for_more() {
        let mut backoff = Backoff::new();
        let mut waited = async |at_least| {
            let before = Instant::now();
            backoff.wait(Duration::from_secs(3), at_least).await;
            let waited = before.elapsed();
            if at_least.is_some() {
                tokio::time::advance(WELL).await;
            }
            waited
        };
        for _ in 0..8 {
            waited(None).await;
        }
        assert!(waited(None).await > Duration::from_secs(1));
        assert_eq!(waited(Some(Duration::from_secs(7))).await, Duration::from_secs(7));
        assert!(waited(None).await <= SHORTEST + Duration::from_millis(1));
    }
}
