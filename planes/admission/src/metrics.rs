//! Metrics of the webhook; docs/metrics.md lists them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_process::metrics::{CounterShard, HistogramShard, Registry, ShardedCounter, ShardedHistogram};

type Labels = [(&'static str, String); 1];

/// How a review ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Word {
    Allowed,
    Warned,
    Denied,
    /// Nobody judged it in time; the setting decided.
    Late,
    /// No turn was left.
    Busy,
    /// What was sent is no review.
    Refused,
}

impl Word {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Warned => "warned",
            Self::Denied => "denied",
            Self::Late => "late",
            Self::Busy => "busy",
            Self::Refused => "refused",
        }
    }
}

/// Counts reviews; cheap to clone.
#[derive(Clone)]
pub struct AdmissionMetrics {
    reviews: ShardedCounter<Labels>,
    durations: ShardedHistogram<Labels>,
    // Reviews end on any thread, and a shard has one writer: a lock for an addition, some times a second.
    shards: Arc<Mutex<HashMap<Word, (CounterShard, HistogramShard)>>>,
    certificate_end: Arc<AtomicI64>,
}

impl AdmissionMetrics {
    pub fn register(registry: &Registry) -> Self {
        let certificate_end = Arc::new(AtomicI64::new(0));
        let shown = certificate_end.clone();
        registry.gauge_fn(
            "admission_certificate_end_timestamp_seconds",
            "End of validity of the webhook's certificate, 0 before there is one",
            move || shown.load(Ordering::Relaxed),
        );
        Self {
            reviews: registry.counters("admission_reviews", "Reviews by verdict"),
            durations: registry
                .histograms("admission_review_duration_seconds", "From the head of a review to its verdict"),
            shards: Arc::default(),
            certificate_end,
        }
    }

    pub(crate) fn reviewed(&self, word: Word, took: Duration) {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, duration) = shards.entry(word).or_insert_with(|| {
            let labels = [("verdict", word.as_str().to_owned())];
            (self.reviews.shard(&labels), self.durations.shard(&labels))
        });
        count.add(1);
        duration.observe(took.as_secs_f64());
    }

    pub(crate) fn certificate_ends(&self, seconds: i64) {
        self.certificate_end.store(seconds, Ordering::Relaxed);
    }
}
