//! Metrics: counted by each worker alone, summed when they are scraped.
//!
//! A worker takes a shard for each set of labels and writes it with plain loads and stores; nobody else writes it, so no
//! cache line travels between cores and no instruction locks the bus. A scrape adds up the shards.

mod families;
mod shards;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::registry::Metric;

pub use families::{NoLabels, Shard, ShardLabels, ShardedCounter, ShardedFamily, ShardedGauge, ShardedHistogram};
pub use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
pub use shards::{CounterShard, GaugeShard, HISTOGRAM_BUCKETS, HistogramShard};

/// `Content-Type` of [`Registry::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Shared = Arc<Mutex<prometheus_client::registry::Registry>>;

/// All metrics of the process, under the prefix `headwater_`, and those whose names others have chosen; cheap to clone.
#[derive(Clone)]
pub struct Registry {
    own: Shared,
    foreign: Shared,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    pub fn new() -> Self {
        Self {
            own: Arc::new(Mutex::new(prometheus_client::registry::Registry::with_prefix("headwater"))),
            ..Self::bare()
        }
    }

    /// Metrics whose names others have chosen: without any prefix.
    pub fn bare() -> Self {
        Self { own: Arc::default(), foreign: Arc::default() }
    }

    /// For metrics whose names others have chosen: they are scraped with these, without the prefix.
    pub fn foreign(&self) -> Self {
        Self { own: self.foreign.clone(), foreign: Arc::default() }
    }

    /// Counters by labels. `name` without prefix and without `_total`, which the text adds.
    pub fn counters<L: ShardLabels>(&self, name: &'static str, help: &'static str) -> ShardedCounter<L> {
        let family = ShardedFamily::new(name, help);
        self.lock().register_collector(Box::new(family.clone()));
        family
    }

    /// Gauges by labels; the sum over all workers is shown.
    pub fn gauges<L: ShardLabels>(&self, name: &'static str, help: &'static str) -> ShardedGauge<L> {
        let family = ShardedFamily::new(name, help);
        self.lock().register_collector(Box::new(family.clone()));
        family
    }

    /// Histograms of durations by labels, with [`HISTOGRAM_BUCKETS`]. `name` ends in `_seconds`.
    pub fn histograms<L: ShardLabels>(&self, name: &'static str, help: &'static str) -> ShardedHistogram<L> {
        let family = ShardedFamily::new(name, help);
        self.lock().register_collector(Box::new(family.clone()));
        family
    }

    /// A metric of the control path, shared by its clones.
    pub fn register(&self, name: &'static str, help: &'static str, metric: impl Metric) {
        // The library adds a full stop of its own.
        self.lock().register(name, help.trim_end_matches('.'), metric);
    }

    /// A counter without labels whose value is asked for at each scrape.
    pub fn counter_fn(&self, name: &'static str, help: &'static str, value: impl Fn() -> u64 + Send + Sync + 'static) {
        self.lock().register_collector(Box::new(families::Asked { name, help, value }));
    }

    /// A gauge without labels that somebody else keeps.
    pub fn gauge_fn(&self, name: &'static str, help: &'static str, value: impl Fn() -> i64 + Send + Sync + 'static) {
        self.lock().register_collector(Box::new(families::AskedGauge { name, help, value }));
    }

    /// Gauges by labels that somebody else keeps: what is asked for at each scrape.
    pub fn gauges_fn(
        &self,
        name: &'static str,
        help: &'static str,
        values: impl Fn() -> Vec<(Vec<(String, String)>, i64)> + Send + Sync + 'static,
    ) {
        self.lock().register_collector(Box::new(families::AskedGauges { name, help, values }));
    }

    /// Everything as OpenMetrics text, which Prometheus reads.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        for part in [&self.own, &self.foreign] {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            prometheus_client::encoding::text::encode_registry(&mut text, &part).expect("a String takes any text");
        }
        prometheus_client::encoding::text::encode_eof(&mut text).expect("a String takes any text");
        text
    }

    /// Everything in the older text format (0.0.4), where counters have their bare names: for names that others have
    /// chosen, and that do not end in `_total`.
    pub fn encode_classic(&self) -> String {
        let text = self.encode();
        let mut out = String::with_capacity(text.len());
        let mut counter = None;
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(about) = line.strip_prefix("# TYPE ") {
                counter = about.strip_suffix(" counter");
            }
            let sample = counter.and_then(|name| Some((name, line.strip_prefix(name)?.strip_prefix("_total")?)));
            match sample {
                Some((name, rest)) => out.extend([name, rest, "\n"]),
                None => out.extend([line, "\n"]),
            }
        }
        out
    }

    fn lock(&self) -> MutexGuard<'_, prometheus_client::registry::Registry> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
