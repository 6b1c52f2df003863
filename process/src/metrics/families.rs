//! The shards of a metric, by labels.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::hash::Hash;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::shards::{
    CounterCells, CounterShard, GaugeCells, GaugeShard, HISTOGRAM_BUCKETS, HistogramCells, HistogramShard,
};

/// What labels must be able to do. Their values come from configuration, never from requests. [`NoLabels`] when there are none.
pub trait ShardLabels: EncodeLabelSet + Clone + Eq + Hash + Debug + Send + Sync + 'static {}

impl<L: EncodeLabelSet + Clone + Eq + Hash + Debug + Send + Sync + 'static> ShardLabels for L {}

/// The labels of a metric that has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct NoLabels;

impl EncodeLabelSet for NoLabels {
    fn encode(&self, _: &mut LabelSetEncoder<'_>) -> fmt::Result {
        Ok(())
    }
}

/// Counters by labels.
pub type ShardedCounter<L> = ShardedFamily<L, CounterShard>;
/// Gauges by labels.
pub type ShardedGauge<L> = ShardedFamily<L, GaugeShard>;
/// Histograms of durations by labels.
pub type ShardedHistogram<L> = ShardedFamily<L, HistogramShard>;

/// A metric by labels, with a shard for each worker; cheap to clone.
pub struct ShardedFamily<L, S: Shard> {
    name: &'static str,
    help: &'static str,
    series: Arc<Mutex<HashMap<L, Series<S>>>>,
}

/// The shards of one set of labels.
struct Series<S: Shard> {
    shards: Vec<Arc<S::Cells>>,
    /// What shards counted that their workers dropped.
    retired: S::Sum,
}

impl<L, S: Shard> Clone for ShardedFamily<L, S> {
    fn clone(&self) -> Self {
        Self { name: self.name, help: self.help, series: self.series.clone() }
    }
}

impl<L, S: Shard> Debug for ShardedFamily<L, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardedFamily").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<L: ShardLabels, S: Shard> ShardedFamily<L, S> {
    pub(super) fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, series: Arc::default() }
    }

    /// A new shard for these labels: for one worker, which keeps it. Takes a lock, so not for each request.
    pub fn shard(&self, labels: &L) -> S {
        let cells = Arc::<S::Cells>::default();
        let mut series = self.lock();
        match series.get_mut(labels) {
            Some(series) => series.shards.push(cells.clone()),
            None => {
                let new = Series { shards: vec![cells.clone()], retired: S::Sum::default() };
                series.insert(labels.clone(), new);
            }
        }
        S::new(cells)
    }

    /// Forgets the series whose labels are not wanted any more: what they name left the configuration. Shards that
    /// workers still hold count unseen.
    pub fn retain(&self, mut wanted: impl FnMut(&L) -> bool) {
        self.lock().retain(|labels, _| wanted(labels));
    }

    /// Sum over all shards of these labels.
    #[cfg(test)]
    pub(super) fn sum(&self, labels: &L) -> Option<S::Sum> {
        self.lock().get_mut(labels).map(Series::collect)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<L, Series<S>>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Shard> Series<S> {
    /// The sum; folds shards whose workers are gone.
    fn collect(&mut self) -> S::Sum {
        let retired = &mut self.retired;
        self.shards.retain(|cells| {
            // Nobody can clone it again: the only other owner was the worker's shard.
            let live = Arc::strong_count(cells) > 1;
            if !live {
                // Orders the reads after the worker's last write.
                std::sync::atomic::fence(Ordering::Acquire);
                if S::OUTLIVES_ITS_WORKER {
                    S::add(retired, cells);
                }
            }
            live
        });
        let mut sum = self.retired.clone();
        for cells in &self.shards {
            S::add(&mut sum, cells);
        }
        sum
    }
}

impl<L: ShardLabels, S: Shard> Collector for ShardedFamily<L, S> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // Workers wait for this lock only while they take new shards: text is made after it is released.
        let sums: Vec<(L, S::Sum)> =
            self.lock().iter_mut().map(|(labels, series)| (labels.clone(), series.collect())).collect();
        if sums.is_empty() {
            return Ok(());
        }
        let mut encoder = encoder.encode_descriptor(self.name, self.help, None, S::TYPE)?;
        for (labels, sum) in &sums {
            // An empty label set would be written as `{}`.
            if size_of::<L>() == 0 {
                return S::encode(sum, encoder);
            }
            S::encode(sum, encoder.encode_family(labels)?)?;
        }
        Ok(())
    }
}

/// A kind of shard.
pub trait Shard: Sized + Send + 'static {
    type Cells: Default + Debug + Send + Sync + 'static;
    type Sum: Default + Clone + Debug + Send + 'static;
    const TYPE: MetricType;
    /// Whether what was counted stays counted when the worker is gone.
    const OUTLIVES_ITS_WORKER: bool;

    fn new(cells: Arc<Self::Cells>) -> Self;
    fn add(sum: &mut Self::Sum, cells: &Self::Cells);
    fn encode(sum: &Self::Sum, encoder: MetricEncoder<'_>) -> fmt::Result;
}

impl Shard for CounterShard {
    type Cells = CounterCells;
    type Sum = u64;
    const TYPE: MetricType = MetricType::Counter;
    const OUTLIVES_ITS_WORKER: bool = true;

    fn new(cells: Arc<CounterCells>) -> Self {
        Self::new(cells)
    }

    fn add(sum: &mut u64, cells: &CounterCells) {
        *sum = sum.wrapping_add(cells.0.load(Ordering::Relaxed));
    }

    fn encode(sum: &u64, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<NoLabelSet, u64, u64>(sum, None)
    }
}

impl Shard for GaugeShard {
    type Cells = GaugeCells;
    type Sum = i64;
    const TYPE: MetricType = MetricType::Gauge;
    const OUTLIVES_ITS_WORKER: bool = false;

    fn new(cells: Arc<GaugeCells>) -> Self {
        Self::new(cells)
    }

    fn add(sum: &mut i64, cells: &GaugeCells) {
        *sum = sum.wrapping_add(cells.0.load(Ordering::Relaxed));
    }

    fn encode(sum: &i64, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(sum)
    }
}

/// Sum of histograms.
#[derive(Debug, Clone, Default)]
pub struct HistogramSum {
    pub(super) buckets: [u64; HISTOGRAM_BUCKETS.len() + 1],
    pub(super) seconds: f64,
}

impl Shard for HistogramShard {
    type Cells = HistogramCells;
    type Sum = HistogramSum;
    const TYPE: MetricType = MetricType::Histogram;
    const OUTLIVES_ITS_WORKER: bool = true;

    fn new(cells: Arc<HistogramCells>) -> Self {
        Self::new(cells)
    }

    fn add(sum: &mut HistogramSum, cells: &HistogramCells) {
        for (total, cell) in sum.buckets.iter_mut().zip(&cells.buckets) {
            *total += cell.load(Ordering::Relaxed);
        }
        sum.seconds += f64::from_bits(cells.sum.load(Ordering::Relaxed));
    }

    fn encode(sum: &HistogramSum, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = HISTOGRAM_BUCKETS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(sum.buckets).collect();
        encoder.encode_histogram::<NoLabelSet>(sum.seconds, sum.buckets.iter().sum(), &buckets, None)
    }
}

/// A counter without labels that somebody else keeps.
pub(super) struct Asked<F> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) value: F,
}

impl<F> Debug for Asked<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F: Fn() -> u64 + Send + Sync + 'static> Collector for Asked<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut encoder = encoder.encode_descriptor(self.name, self.help, None, MetricType::Counter)?;
        encoder.encode_counter::<NoLabelSet, u64, u64>(&(self.value)(), None)
    }
}

/// A gauge without labels that somebody else keeps.
pub(super) struct AskedGauge<F> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) value: F,
}

impl<F> Debug for AskedGauge<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AskedGauge").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F: Fn() -> i64 + Send + Sync + 'static> Collector for AskedGauge<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut encoder = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        encoder.encode_gauge(&(self.value)())
    }
}

/// Gauges by labels that somebody else keeps.
pub(super) struct AskedGauges<F> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) values: F,
}

impl<F> Debug for AskedGauges<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AskedGauges").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F: Fn() -> Vec<(Vec<(String, String)>, i64)> + Send + Sync + 'static> Collector for AskedGauges<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut encoder = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        for (labels, value) in (self.values)() {
            encoder.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}
