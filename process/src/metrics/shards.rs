//! One worker's part of a metric.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Upper bounds in seconds; a last bucket takes the rest.
pub const HISTOGRAM_BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// May go to another thread, but is never used by two at once: its writes are no read-modify-write instructions.
type OneWriter = PhantomData<Cell<()>>;

/// A cache line of its own (two, for processors that fetch them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CounterCells(pub(super) AtomicU64);

/// A counter that one worker writes.
#[derive(Debug)]
pub struct CounterShard {
    cells: Arc<CounterCells>,
    one_writer: OneWriter,
}

impl CounterShard {
    pub(super) fn new(cells: Arc<CounterCells>) -> Self {
        Self { cells, one_writer: PhantomData }
    }

    #[inline]
    pub fn add(&self, n: u64) {
        let cell = &self.cells.0;
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// What this worker counted.
    pub fn value(&self) -> u64 {
        self.cells.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
#[repr(align(128))]
pub struct GaugeCells(pub(super) AtomicI64);

/// A gauge that one worker writes. When it is dropped, its part of the sum goes with it.
#[derive(Debug)]
pub struct GaugeShard {
    cells: Arc<GaugeCells>,
    one_writer: OneWriter,
}

impl GaugeShard {
    pub(super) fn new(cells: Arc<GaugeCells>) -> Self {
        Self { cells, one_writer: PhantomData }
    }

    #[inline]
    pub fn add(&self, n: i64) {
        self.set(self.value().wrapping_add(n));
    }

    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    #[inline]
    pub fn dec(&self) {
        self.add(-1);
    }

    #[inline]
    pub fn set(&self, value: i64) {
        self.cells.0.store(value, Ordering::Relaxed);
    }

    /// This worker's part.
    #[inline]
    pub fn value(&self) -> i64 {
        self.cells.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct HistogramCells {
    /// Bits of an `f64`, in seconds. In the cache line of the buckets that most requests fall into.
    pub(super) sum: AtomicU64,
    /// Not cumulative; the last one is for what exceeds every bound.
    pub(super) buckets: [AtomicU64; HISTOGRAM_BUCKETS.len() + 1],
}

/// A histogram of durations that one worker writes.
#[derive(Debug)]
pub struct HistogramShard {
    cells: Arc<HistogramCells>,
    one_writer: OneWriter,
}

impl HistogramShard {
    pub(super) fn new(cells: Arc<HistogramCells>) -> Self {
        Self { cells, one_writer: PhantomData }
    }

    /// Counts one duration. Negative ones and what is no number count as 0.
    #[inline]
    pub fn observe(&self, seconds: f64) {
        let seconds = seconds.max(0.0);
        let bucket = HISTOGRAM_BUCKETS.partition_point(|bound| *bound < seconds);
        let cell = &self.cells.buckets[bucket];
        cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let sum = f64::from_bits(self.cells.sum.load(Ordering::Relaxed)) + seconds;
        self.cells.sum.store(sum.to_bits(), Ordering::Relaxed);
    }
}
