//! Latency that remembers peaks: a rise counts at once, a fall slowly. After Finagle's `p2c.PeakEwma`.

/// Nanoseconds in which a peak falls to 1/e.
const DECAY: f64 = 10e9;

/// Assumed of an endpoint that has answered nothing yet while requests wait for it, in nanoseconds.
const UNKNOWN: f64 = 1e9;

/// A failure counts for no less than this, in nanoseconds: an endpoint that refuses quickly is not a fast one.
const MIN_FAILURE: f64 = 10e6;

/// Failures in a row raise the estimate up to here, in nanoseconds.
const MAX_FAILURE: f64 = 60e9;

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PeakEwma {
    /// Nanoseconds, as of `updated`; 0: nothing known.
    estimate: f64,
    updated: u64,
}

impl PeakEwma {
    pub(crate) fn success(&mut self, latency: u64, now: u64) {
        let latency = (latency as f64).max(1.0);
        let weight = self.remains(now);
        self.estimate =
            if latency > self.estimate { latency } else { self.estimate * weight + latency * (1.0 - weight) };
        self.updated = self.updated.max(now);
    }

    /// Never lowers the estimate: at least doubles what is left of it.
    pub(crate) fn failure(&mut self, latency: u64, now: u64) {
        let doubled = (self.estimate(now) * 2.0).min(MAX_FAILURE);
        self.estimate = (latency as f64).max(doubled).max(MIN_FAILURE);
        self.updated = self.updated.max(now);
    }

    /// Nanoseconds; sinks with time, so that a slow endpoint is tried again.
    pub(crate) fn estimate(&self, now: u64) -> f64 {
        self.estimate * self.remains(now)
    }

    /// Cost of one more request. `share` is how many times its fair part of requests the endpoint has in flight.
    pub(crate) fn cost(&self, share: f64, now: u64) -> f64 {
        match self.estimate(now) {
            estimate if estimate > 0.0 => estimate * (share + 1.0),
            _ => UNKNOWN * share,
        }
    }

    fn remains(&self, now: u64) -> f64 {
        (-(now.saturating_sub(self.updated) as f64) / DECAY).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn peaks_count_at_once_and_fade_slowly() {
        let mut ewma = PeakEwma::default();
        ewma.success(5 * MS, 0);
        ewma.success(100 * MS, MS);
        assert_eq!(ewma.estimate(MS), 100e6);
        ewma.success(5 * MS, 2 * MS);
        assert!(ewma.estimate(2 * MS) > 99e6);
        assert!((ewma.estimate(10_002 * MS) / 100e6 - (-1.0f64).exp()).abs() < 0.01);
    }

    #[test]
    fn quick_failures_do_not_attract() {
        let (mut good, mut bad) = (PeakEwma::default(), PeakEwma::default());
        good.success(5 * MS, 0);
        bad.failure(MS / 10, 0);
        assert!(bad.cost(0.0, 0) > good.cost(0.0, 0));
        let before = bad.estimate(0);
        bad.failure(MS / 10, 0);
        assert_eq!(bad.estimate(0), before * 2.0);
    }

    #[test]
    fn unknown_endpoints_are_tried_once() {
        let (unknown, mut known) = (PeakEwma::default(), PeakEwma::default());
        known.success(5 * MS, 0);
        assert!(unknown.cost(0.0, 0) < known.cost(0.0, 0));
        assert!(unknown.cost(1.0, 0) > known.cost(1.0, 0));
    }
}
