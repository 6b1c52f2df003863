//! What the writer did, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use headwater_kube_io::{ApiError, EventWritten};

/// Totals since the start.
#[derive(Debug, Default)]
pub struct StatusCounters {
    /// Statuses written.
    pub written: AtomicU64,
    /// Statuses left alone because another controller keeps them.
    pub conflicts: AtomicU64,
    /// Writes that did not succeed, and were tried again or given up.
    pub failed: AtomicU64,
    /// Events written or counted again.
    pub events: AtomicU64,
    /// Events that could not be written.
    pub events_failed: AtomicU64,
}

impl StatusCounters {
    pub(super) fn wrote(&self, result: &Result<(), ApiError>) {
        let counter = match result {
            Ok(()) => &self.written,
            Err(ApiError::Conflict { .. }) => &self.conflicts,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn told(&self, written: EventWritten) {
        if written != EventWritten::Known {
            self.events.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn event_failed(&self) {
        self.events_failed.fetch_add(1, Ordering::Relaxed);
    }
}
