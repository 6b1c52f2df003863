//! Metrics under the names of MetalLB.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headwater_process::metrics::Registry;

use crate::desk::Desk;

/// How full one pool is.
#[derive(Debug, Clone, Default)]
struct Fill {
    pool: String,
    v4: [i64; 2],
    v6: [i64; 2],
    services: i64,
}

/// Name, help, and what is shown of a pool.
type Metric = (&'static str, &'static str, fn(&Fill) -> i64);

#[derive(Debug, Default)]
struct Shown {
    pools: Mutex<Vec<Fill>>,
    updates: AtomicU64,
    update_errors: AtomicU64,
    is_loaded: AtomicBool,
    is_stale: AtomicBool,
}

/// How full pools are, and whether what is configured makes sense.
#[derive(Debug, Clone, Default)]
pub struct AddressMetrics(Arc<Shown>);

impl AddressMetrics {
    /// Registers them where a scrape finds them, without a prefix.
    pub fn register(registry: &Registry) -> Self {
        let (new, registry) = (Self::default(), registry.foreign());
        let of: [Metric; 7] = [
            ("metallb_allocator_addresses_total", "Addresses of the pool that can be given", |fill| {
                fill.v4[0].saturating_add(fill.v6[0])
            }),
            ("metallb_allocator_addresses_in_use_total", "Addresses of the pool that Services have", |fill| {
                fill.v4[1] + fill.v6[1]
            }),
            ("metallb_allocator_ipv4_addresses_total", "IPv4 addresses of the pool that can be given", |fill| {
                fill.v4[0]
            }),
            ("metallb_allocator_ipv4_addresses_in_use_total", "IPv4 addresses of the pool in use", |fill| fill.v4[1]),
            ("metallb_allocator_ipv6_addresses_total", "IPv6 addresses of the pool that can be given", |fill| {
                fill.v6[0]
            }),
            ("metallb_allocator_ipv6_addresses_in_use_total", "IPv6 addresses of the pool in use", |fill| fill.v6[1]),
            ("metallb_allocator_services_allocated_total", "Services with addresses of the pool", |fill| fill.services),
        ];
        for (name, help, value) in of {
            let shown = new.clone();
            registry.gauges_fn(name, help, move || {
                let label = |fill: &Fill| vec![("pool".to_owned(), fill.pool.clone())];
                shown.pools().iter().map(|fill| (label(fill), value(fill))).collect()
            });
        }
        let shown = || new.0.clone();
        let (updates, errors, loaded, stale) = (shown(), shown(), shown(), shown());
        registry.counter_fn("metallb_k8s_client_updates", "Changes of objects that were taken in", move || {
            updates.updates.load(Ordering::Relaxed)
        });
        registry.counter_fn("metallb_k8s_client_update_errors", "Writes that did not succeed at once", move || {
            errors.update_errors.load(Ordering::Relaxed)
        });
        registry.gauge_fn("metallb_k8s_client_config_loaded_bool", "1 once pools were read", move || {
            loaded.is_loaded.load(Ordering::Relaxed).into()
        });
        registry.gauge_fn(
            "metallb_k8s_client_config_stale_bool",
            "1 while what is configured makes no sense",
            move || stale.is_stale.load(Ordering::Relaxed).into(),
        );
        new
    }

    fn pools(&self) -> MutexGuard<'_, Vec<Fill>> {
        self.0.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn updated(&self, changes: usize) {
        self.0.updates.fetch_add(changes as u64, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.0.update_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Shows what is.
    pub(crate) fn show(&self, desk: &Desk, is_valid: bool) {
        let fill = desk.ipam().fill().map(|(pool, status, services)| Fill {
            pool: pool.name.to_string(),
            v4: [status.available_ipv4.saturating_add(status.assigned_ipv4), status.assigned_ipv4],
            v6: [status.available_ipv6.saturating_add(status.assigned_ipv6), status.assigned_ipv6],
            services,
        });
        let fill = fill.collect();
        *self.pools() = fill;
        self.0.is_loaded.store(true, Ordering::Relaxed);
        self.0.is_stale.store(!is_valid, Ordering::Relaxed);
    }

    /// Shows nothing of pools: somebody else leads.
    pub(crate) fn hide(&self) {
        self.pools().clear();
    }
}
