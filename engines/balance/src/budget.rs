//! How many retries there may be.

/// Seconds that requests and retries are remembered for.
const SECONDS: usize = 10;

/// Retries that are allowed within [`SECONDS`] whatever the number of requests, so that low traffic may retry.
const MIN_RETRIES: u64 = 10;

const SECOND: u64 = 1_000_000_000;

/// Bounds retries to a share of requests, and 10, within the last 10 seconds.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    percent: u32,
    /// Requests and retries by second, a ring.
    seconds: [(u32, u32); SECONDS],
    /// Number of the current second.
    second: u64,
    requests: u64,
    retries: u64,
}

impl RetryBudget {
    /// `percent` is the share of retries per request; with 0 there are none.
    pub fn new(percent: u32) -> Self {
        Self { percent, seconds: [(0, 0); SECONDS], second: 0, requests: 0, retries: 0 }
    }

    /// Counts a request (not a retry).
    pub fn deposit(&mut self, now: u64) {
        let (requests, _) = self.current(now);
        *requests = requests.saturating_add(1);
        self.requests += 1;
    }

    /// Takes a retry out of the budget; `false` when there is none left.
    pub fn withdraw(&mut self, now: u64) -> bool {
        self.current(now);
        let allowed = MIN_RETRIES + self.requests * u64::from(self.percent) / 100;
        if self.percent == 0 || self.retries >= allowed {
            return false;
        }
        let (_, retries) = self.current(now);
        *retries = retries.saturating_add(1);
        self.retries += 1;
        true
    }

    /// Counters of the second, after those that are too old were dropped. Time does not run backwards.
    fn current(&mut self, now: u64) -> &mut (u32, u32) {
        let second = (now / SECOND).max(self.second);
        let passed = (second - self.second).min(SECONDS as u64);
        for step in 1..=passed {
            let index = ((self.second + step) % SECONDS as u64) as usize;
            let (requests, retries) = std::mem::take(&mut self.seconds[index]);
            self.requests -= u64::from(requests);
            self.retries -= u64::from(retries);
        }
        self.second = second;
        &mut self.seconds[(second % SECONDS as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn withdrawn(budget: &mut RetryBudget, now: u64) -> usize {
        (0..1000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn retries_are_a_share_of_requests_and_ten() {
        for (percent, requests, retries) in
            [(20, 0, 10), (20, 100, 30), (20, 4, 10), (20, 5, 11), (100, 50, 60), (0, 1000, 0)]
        {
            let mut budget = RetryBudget::new(percent);
            (0..requests).for_each(|_| budget.deposit(5 * SECOND));
            assert_eq!(withdrawn(&mut budget, 5 * SECOND), retries, "{percent}% of {requests}");
        }
    }

    #[test]
    fn both_are_forgotten_after_ten_seconds() {
        let mut budget = RetryBudget::new(20);
        (0..100).for_each(|_| budget.deposit(0));
        assert_eq!(withdrawn(&mut budget, 5 * SECOND), 30);
        assert_eq!(withdrawn(&mut budget, 9 * SECOND), 0);
        assert_eq!(withdrawn(&mut budget, 10 * SECOND), 0, "the requests are gone, the retries still count");
        assert_eq!(withdrawn(&mut budget, 15 * SECOND), 10);
        assert_eq!(withdrawn(&mut budget, 1_000_000 * SECOND), 10);
        assert_eq!(withdrawn(&mut budget, 0), 0, "time ran backwards");
    }
}
