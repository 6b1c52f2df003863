//! A token bucket: so many at once, and so many a second from then on.

use tokio::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    burst: f64,
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Full. `per_second` is above 0.
    pub(crate) fn new(burst: u32, per_second: f64, now: Instant) -> Self {
        Self { burst: f64::from(burst), per_second, tokens: f64::from(burst), at: now }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// When there will be one, if there is none.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        self.ready(now)?;
        self.tokens -= 1.0;
        Ok(())
    }

    /// Whether there is a token.
    ///
    /// # Errors
    /// When there will be one, if there is none.
    pub(crate) fn ready(&mut self, now: Instant) -> Result<(), Instant> {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.at = self.at.max(now);
        if self.tokens >= 1.0 {
            return Ok(());
        }
        // Rounded up, so that who comes then finds it.
        Err(now + Duration::from_secs_f64((1.0 - self.tokens) / self.per_second) + Duration::from_millis(1))
    }

    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        // Tokens are below the burst until its last one is there.
        self.ready(now).is_ok() && self.tokens >= self.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(3, 2.0, start);
        for _ in 0..3 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        let next = bucket.take(start).unwrap_err();
        assert_eq!(next, start + Duration::from_millis(501));
        assert_eq!(bucket.take(next), Ok(()));
        assert!(bucket.take(next).is_err());
        let taken = (0..100).filter(|n| bucket.take(start + Duration::from_millis(1_000 + n * 100)).is_ok()).count();
        assert_eq!(taken, 20, "two a second for ten seconds, half of one already there");
        assert!(!bucket.is_full(start + Duration::from_secs(11)));
        assert!(bucket.is_full(start + Duration::from_secs(20)));
    }
}
