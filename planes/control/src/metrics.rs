//! How the watches of an API server do, as metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use headwater_kube_io::{Counters, Health, WatchState};
use headwater_process::metrics::Registry;
use tokio::sync::watch;

/// Registers what docs/metrics.md lists under `headwater_source_`.
pub(crate) fn register(registry: &Registry, health: watch::Receiver<Health>) {
    let gauge = |name, help, value: fn(&Health) -> usize| {
        let health = health.clone();
        registry.gauge_fn(name, help, move || i64::try_from(value(&health.borrow())).unwrap_or(i64::MAX));
    };
    gauge("source_started", "1 once everything that is watched was read", |health| usize::from(health.started));
    gauge("source_stale", "1 while something that was read may be out of date", |health| {
        usize::from(health.is_stale())
    });
    gauge("source_watches", "Watches on the API server", |health| health.watches.len());
    gauge("source_watches_stale", "Watches that the API server does not answer as it should", |health| {
        health.watches.iter().filter(|watch| matches!(watch.state, WatchState::Stale { .. })).count()
    });
    let counter = |name, help, value: fn(&Counters) -> &AtomicU64| {
        let totals = health.borrow().totals.clone();
        registry.counter_fn(name, help, move || value(&totals).load(Ordering::Relaxed));
    };
    counter("source_requests", "Lists and watches that were asked for", |totals| &totals.requests);
    counter("source_relists", "Lists after the first of a watch", |totals| &totals.relists);
    counter("source_errors", "Lists and watches that failed", |totals| &totals.errors);
    counter("source_events", "Changes that the API server told", |totals| &totals.events);
}
