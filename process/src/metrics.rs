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

/// All metrics of the process, under the prefix `headwater_`; cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<Mutex<prometheus_client::registry::Registry>>);

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").finish_non_exhaustive()
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(prometheus_client::registry::Registry::with_prefix("headwater"))))
    }

    /// Metrics whose names others have chosen: without any prefix.
    pub fn bare() -> Self {
        Self(Arc::new(Mutex::new(prometheus_client::registry::Registry::default())))
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

    /// Everything as OpenMetrics text, which Prometheus reads.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.lock()).expect("a String takes any text");
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
