//! When to try again, and random numbers for it.

use std::time::Duration;

/// Longest time between attempts.
const LONGEST: Duration = Duration::from_secs(120);

/// Numbers that look random: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// 75 to 100 % of `time`. RFC 4271 section 10.
    pub(crate) fn jitter(&mut self, time: Duration) -> Duration {
        let eighth_of_a_permille = u32::try_from(self.next() % 2001).expect("below 2001");
        time * (6000 + eighth_of_a_permille) / 8000
    }
}

/// Before the attempt that follows `failures` in a row: 0, 1, 2, 4, ... 120 s.
pub(crate) fn after(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        more => Duration::from_secs(1 << (more - 1).min(7)).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_after_0_1_2_4_and_at_last_120_seconds() {
        let seconds: Vec<u64> = (0..10).map(|failures| after(failures).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 32, 64, 120, 120]);
        assert_eq!(after(u32::MAX), LONGEST);
    }

    #[test]
    fn jitter_takes_up_to_a_quarter() {
        let mut random = Random::new(1);
        let times: Vec<Duration> = (0..1000).map(|_| random.jitter(Duration::from_secs(8))).collect();
        assert!(times.iter().all(|time| (6000..=8000).contains(&time.as_millis())));
        assert!(times.iter().any(|time| time.as_millis() < 6200) && times.iter().any(|time| time.as_millis() > 7800));
    }
}
