//! Metrics of the gateway; docs/metrics.md lists them.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use headwater_model::client::Provenance;
use headwater_model::origin::{NamespacedName, Origin};
use headwater_process::metrics::{CounterShard, HistogramShard, NoLabels, Registry, ShardedCounter, ShardedHistogram};

use crate::alb_metrics::{AlbMetrics, UnderWay, WorkerAlbMetrics};
use crate::fault::Reason;
use crate::record::Record;
use crate::stream::metrics::{StreamFamilies, StreamMetrics};
use crate::trace::SpanCounts;

pub(crate) type Labels<const N: usize> = [(&'static str, String); N];

/// One worker's shards of a family with one label, made when a value first comes; there are few values.
pub(crate) struct FewShards<K>(RefCell<Vec<(K, CounterShard)>>);

impl<K: Clone + PartialEq + ToString> FewShards<K> {
    pub(crate) fn new() -> Self {
        Self(RefCell::default())
    }

    pub(crate) fn count(&self, family: &ShardedCounter<Labels<1>>, label: &'static str, value: &K) {
        let mut known = self.0.borrow_mut();
        if let Some((_, shard)) = known.iter().find(|(other, _)| other == value) {
            return shard.add(1);
        }
        let shard = family.shard(&[(label, value.to_string())]);
        shard.add(1);
        known.push((value.clone(), shard));
    }
}

/// The families that all workers count into; cheap to clone.
#[derive(Clone)]
pub struct GatewayMetrics {
    requests: ShardedCounter<Labels<4>>,
    durations: ShardedHistogram<Labels<3>>,
    faults: ShardedCounter<Labels<2>>,
    provenance: ShardedCounter<Labels<1>>,
    proxy_refused: ShardedCounter<Labels<1>>,
    connections: ShardedCounter<NoLabels>,
    tls_failed: ShardedCounter<NoLabels>,
    accept_errors: ShardedCounter<NoLabels>,
    retries: ShardedCounter<NoLabels>,
    ejections: ShardedCounter<Labels<3>>,
    connect_seconds: ShardedHistogram<Labels<3>>,
    response_seconds: ShardedHistogram<Labels<3>>,
    streams: StreamFamilies,
    generation: Arc<AtomicU64>,
    open: Arc<std::sync::OnceLock<Arc<AtomicU32>>>,
    spans: Arc<SpanCounts>,
    alb: Option<AlbMetrics>,
}

impl GatewayMetrics {
    pub fn register(registry: &Registry) -> Self {
        let generation = Arc::new(AtomicU64::new(0));
        let open: Arc<std::sync::OnceLock<Arc<AtomicU32>>> = Arc::default();
        let (shown_generation, shown_open) = (generation.clone(), open.clone());
        registry.gauge_fn("gateway_snapshot_generation", "Generation of the snapshot that is served", move || {
            i64::try_from(shown_generation.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
        });
        registry.gauge_fn("gateway_connections", "Downstream connections that are open", move || {
            shown_open.get().map_or(0, |open| i64::from(open.load(Ordering::Relaxed)))
        });
        let spans = SpanCounts::register(registry);
        Self {
            requests: registry.counters("gateway_requests", "Requests by route and status class"),
            durations: registry.histograms(
                "gateway_request_duration_seconds",
                "From the first byte of a request to the last of its response",
            ),
            faults: registry.counters("gateway_faults", "Requests and connections refused or cut off, by reason"),
            provenance: registry.counters("gateway_clients", "Requests by where the client's address was learned from"),
            proxy_refused: registry
                .counters("gateway_proxy_protocol_refused", "Connections refused at their PROXY header"),
            connections: registry.counters("gateway_connections_accepted", "Downstream connections"),
            tls_failed: registry.counters("gateway_tls_handshakes_failed", "Downstream TLS handshakes that failed"),
            accept_errors: registry.counters("gateway_accept_errors", "Times that accepting had to pause"),
            retries: registry.counters("gateway_retries", "Attempts after the first"),
            ejections: registry.counters("gateway_endpoint_ejections", "Endpoints taken out after failures"),
            connect_seconds: registry
                .histograms("gateway_upstream_connect_seconds", "Making a connection to an endpoint, TLS included"),
            response_seconds: registry.histograms(
                "gateway_upstream_response_seconds",
                "From the start of an attempt to the head of its response",
            ),
            streams: StreamFamilies::register(registry),
            generation,
            open,
            spans,
            alb: None,
        }
    }

    /// Counts under the names of Alauda's ALB as well.
    #[must_use]
    pub fn with_alb(self, alb: AlbMetrics) -> Self {
        Self { alb: Some(alb), ..self }
    }

    /// Downstream connections that are open.
    pub fn connections(&self) -> impl Fn() -> u32 + Send + Sync + use<> {
        let open = self.open.clone();
        move || open.get().map_or(0, |open| open.load(Ordering::Relaxed))
    }

    /// What exporters count into.
    pub(crate) fn spans(&self) -> Arc<SpanCounts> {
        self.spans.clone()
    }

    pub(crate) fn generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
    }

    pub(crate) fn watch_connections(&self, open: Arc<AtomicU32>) {
        // Set once: a process runs one gateway.
        let _ = self.open.set(open);
    }
}

/// One worker's shards.
pub(crate) struct WorkerMetrics {
    families: GatewayMetrics,
    pub(crate) connections: CounterShard,
    pub(crate) tls_failed: CounterShard,
    pub(crate) accept_errors: CounterShard,
    pub(crate) retries: CounterShard,
    pub(crate) alb: Option<WorkerAlbMetrics>,
    pub(crate) streams: StreamMetrics,
    faults: Vec<OnceCell<CounterShard>>,
    provenance: FewShards<Provenance>,
    proxy_refused: FewShards<&'static str>,
    unrouted: Route,
    /// By the address of the origin, which the entry keeps alive, so that no two are ever mistaken.
    routes: RefCell<ByOrigin>,
    named: RefCell<ahash::HashMap<Origin, Rc<Route>>>,
    pools: RefCell<ahash::HashMap<(NamespacedName, u16), PoolMetrics>>,
}

type ByOrigin = ahash::HashMap<usize, (Arc<Origin>, Rc<Route>)>;

struct Route {
    labels: Labels<3>,
    /// `1xx` to `5xx`.
    classes: [OnceCell<CounterShard>; 5],
    duration: HistogramShard,
}

/// One worker's shards for one pool.
#[derive(Clone)]
pub(crate) struct PoolMetrics {
    pub(crate) connect_seconds: Rc<HistogramShard>,
    pub(crate) response_seconds: Rc<HistogramShard>,
    pub(crate) ejections: Rc<CounterShard>,
}

fn route_labels(kind: &str, id: &NamespacedName) -> Labels<3> {
    [("kind", kind.to_owned()), ("namespace", id.namespace.to_string()), ("name", id.name.to_string())]
}

impl WorkerMetrics {
    pub(crate) fn new(families: &GatewayMetrics) -> Self {
        let unrouted = route_labels("", &NamespacedName::new("", ""));
        Self {
            connections: families.connections.shard(&NoLabels),
            tls_failed: families.tls_failed.shard(&NoLabels),
            accept_errors: families.accept_errors.shard(&NoLabels),
            retries: families.retries.shard(&NoLabels),
            alb: families.alb.as_ref().map(WorkerAlbMetrics::new),
            streams: StreamMetrics::new(&families.streams),
            faults: Reason::ALL.iter().map(|_| OnceCell::new()).collect(),
            provenance: FewShards::new(),
            proxy_refused: FewShards::new(),
            unrouted: Route::new(families, unrouted),
            routes: RefCell::default(),
            named: RefCell::default(),
            pools: RefCell::default(),
            families: families.clone(),
        }
    }

    /// A request began; it is under way until what is returned is dropped.
    pub(crate) fn begin(&self) -> Option<UnderWay<'_>> {
        self.alb.as_ref().map(WorkerAlbMetrics::begin)
    }

    /// Counts a request that came to its end.
    pub(crate) fn finished(&self, record: &Record<'_>, took: Duration) {
        if let Some(fault) = &record.fault {
            self.fault(fault.reason);
        }
        if let Some((_, provenance)) = &record.client {
            self.client(provenance);
        }
        match record.rule {
            Some(rule) => self.route(&rule.origin).count(&self.families, record.status, took),
            None => self.unrouted.count(&self.families, record.status, took),
        }
    }

    pub(crate) fn fault(&self, reason: Reason) {
        let labels = || [("reason", reason.word().to_owned()), ("by", reason.by().as_str().to_owned())];
        // `faults` is as long as `ALL`, and the reasons are numbered in its order.
        if let Some(cell) = self.faults.get(reason as usize) {
            cell.get_or_init(|| self.families.faults.shard(&labels())).add(1);
        }
    }

    pub(crate) fn proxy_refused(&self, reason: &'static str) {
        self.proxy_refused.count(&self.families.proxy_refused, "reason", &reason);
    }

    /// There are as many provenances as listeners name header fields, and a few.
    pub(crate) fn client(&self, provenance: &Provenance) {
        self.provenance.count(&self.families.provenance, "provenance", provenance);
    }

    fn route(&self, origin: &Arc<Origin>) -> Rc<Route> {
        let key = Arc::as_ptr(origin) as usize;
        if let Some((_, route)) = self.routes.borrow().get(&key) {
            return route.clone();
        }
        let mut named = self.named.borrow_mut();
        // Generations of one object count together.
        let name = Origin { generation: 0, ..Origin::clone(origin) };
        let route = named
            .entry(name)
            .or_insert_with(|| {
                let labels = route_labels(origin.key.kind.as_str(), &origin.key.id);
                Rc::new(Route::new(&self.families, labels))
            })
            .clone();
        self.routes.borrow_mut().insert(key, (origin.clone(), route.clone()));
        route
    }

    /// Forgets origins that only this worker still knows: their rules were replaced.
    pub(crate) fn forget_replaced(&self) {
        self.routes.borrow_mut().retain(|_, (origin, _)| Arc::strong_count(origin) > 1);
        if let Some(alb) = &self.alb {
            alb.forget_replaced();
        }
    }

    pub(crate) fn pool(&self, service: &NamespacedName, port: u16) -> PoolMetrics {
        let mut pools = self.pools.borrow_mut();
        let new = || {
            let labels = [
                ("namespace", service.namespace.to_string()),
                ("service", service.name.to_string()),
                ("port", port.to_string()),
            ];
            PoolMetrics {
                connect_seconds: Rc::new(self.families.connect_seconds.shard(&labels)),
                response_seconds: Rc::new(self.families.response_seconds.shard(&labels)),
                ejections: Rc::new(self.families.ejections.shard(&labels)),
            }
        };
        pools.entry((service.clone(), port)).or_insert_with(new).clone()
    }
}

impl Route {
    fn new(families: &GatewayMetrics, labels: Labels<3>) -> Self {
        let duration = families.durations.shard(&labels);
        Self { labels, classes: Default::default(), duration }
    }

    fn count(&self, families: &GatewayMetrics, status: u16, took: Duration) {
        let class = usize::from((status / 100).clamp(1, 5) - 1);
        self.classes[class]
            .get_or_init(|| {
                let [kind, namespace, name] = self.labels.clone();
                families.requests.shard(&[kind, namespace, name, ("code", format!("{}xx", class + 1))])
            })
            .add(1);
        self.duration.observe(took.as_secs_f64());
    }
}
