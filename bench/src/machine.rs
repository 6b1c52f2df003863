//! What else the machine is doing: foreign CPU time on a core, steal, and waiting for a quiet moment.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process;

/// Share of a core that may be busy in a quiet moment.
const QUIET: f64 = 0.15;

/// How long a moment is.
const MOMENT: Duration = Duration::from_millis(250);

/// Times of one core since boot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CoreTimes {
    pub(crate) busy: Duration,
    pub(crate) steal: Duration,
}

impl CoreTimes {
    /// # Errors
    /// When the machine has no such core.
    pub(crate) fn of(core: usize) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        parse_core(&stat, &core.to_string(), rustix::param::clock_ticks_per_second())
            .with_context(|| format!("core {core} is not online: /proc/stat has no line for it"))
    }

    /// The sum over all cores.
    ///
    /// # Errors
    /// When `/proc/stat` cannot be read.
    pub(crate) fn of_all() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        parse_core(&stat, "", rustix::param::clock_ticks_per_second()).context("/proc/stat has no line for all cores")
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { busy: self.busy.saturating_sub(earlier.busy), steal: self.steal.saturating_sub(earlier.steal) }
    }
}

/// user, nice, system, irq and softirq of `cpuN`; idle and iowait are not work, steal is kept apart.
fn parse_core(stat: &str, core: &str, ticks_per_second: u64) -> Option<CoreTimes> {
    let name = format!("cpu{core} ");
    let fields: Vec<u64> = stat
        .lines()
        .find_map(|line| line.strip_prefix(&name))?
        .split_ascii_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields[..] else { return None };
    let time = |ticks: u64| Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64);
    Some(CoreTimes { busy: time(user + nice + system + irq + softirq), steal: time(steal) })
}

/// What all cores did for others than this process and its descendants, from a moment on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Foreign {
    from: Instant,
    busy: Duration,
    own: Duration,
}

impl Foreign {
    /// # Errors
    /// When `/proc/stat` cannot be read.
    pub(crate) fn from_now() -> Result<Self> {
        Ok(Self { from: Instant::now(), busy: CoreTimes::of_all()?.busy, own: process::cpu_with_descendants() })
    }

    /// Share of all cores, in percent. What descendants did that have ended since counts as foreign.
    ///
    /// # Errors
    /// As [`Foreign::from_now`].
    pub(crate) fn percent(self) -> Result<f64> {
        let now = Self::from_now()?;
        let foreign = now.busy.saturating_sub(self.busy).saturating_sub(now.own.saturating_sub(self.own));
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        Ok(100.0 * foreign.as_secs_f64() / now.from.duration_since(self.from).as_secs_f64() / cores)
    }
}

/// What waiting came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waited {
    pub(crate) time: Duration,
    pub(crate) quiet: bool,
}

/// Sleeps until none of `cores` is busy for a moment, at most for `patience`.
pub(crate) fn wait_for_quiet(cores: &[usize], patience: Duration) -> Result<Waited> {
    let started = Instant::now();
    loop {
        let before = cores.iter().map(|&core| CoreTimes::of(core)).collect::<Result<Vec<_>>>()?;
        let moment = Instant::now();
        std::thread::sleep(MOMENT);
        let length = moment.elapsed().as_secs_f64();
        let mut quiet = true;
        for (&core, &before) in cores.iter().zip(&before) {
            quiet &= CoreTimes::of(core)?.since(before).busy.as_secs_f64() / length < QUIET;
        }
        if quiet || started.elapsed() > patience {
            return Ok(Waited { time: started.elapsed(), quiet });
        }
    }
}

/// Kernel and processor, for the head of a report.
pub(crate) fn describe() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|pair| pair.1));
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    format!("{cores} x {}, Linux {}", model.unwrap_or("unknown processor"), kernel.trim())
}

/// Small generator for shuffling; not for secrets.
#[derive(Debug)]
pub(crate) struct Shuffler(u64);

impl Shuffler {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Below `limit`, which is not 0. xorshift64*, Vigna 2016.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        (high % limit as u64) as usize
    }

    pub(crate) fn order(&mut self, length: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..length).collect();
        for last in (1..length).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_iowait_are_not_busy_and_steal_is_apart() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 20 30 1000 500 5 35 7 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n";
        let times = parse_core(stat, "0", 100).unwrap();
        assert_eq!((times.busy, times.steal), (Duration::from_secs(1), Duration::from_millis(70)));
        assert!(parse_core(stat, "2", 100).is_none());
    }

    #[test]
    fn an_order_holds_every_index_once_and_changes() {
        let mut shuffler = Shuffler::new(7);
        let orders: Vec<_> = (0..20).map(|_| shuffler.order(4)).collect();
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3]);
        }
        assert!(orders.iter().any(|order| *order != orders[0]));
    }
}
