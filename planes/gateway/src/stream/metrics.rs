//! Metrics of what is carried; docs/metrics.md lists them.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use headwater_model::origin::Origin;
use headwater_process::metrics::{CounterShard, HistogramShard, NoLabels, Registry, ShardedCounter, ShardedHistogram};

use super::record::Kind;
use super::relay::End;
use crate::metrics::{FewShards, Labels};

/// The families that all workers count into; cheap to clone.
#[derive(Clone)]
pub(crate) struct StreamFamilies {
    began: ShardedCounter<Labels<4>>,
    ended: ShardedCounter<Labels<5>>,
    bytes: ShardedCounter<Labels<5>>,
    durations: ShardedHistogram<Labels<4>>,
    datagrams: ShardedCounter<Labels<1>>,
    dropped: ShardedCounter<Labels<1>>,
    moved: ShardedCounter<NoLabels>,
    flows: Arc<AtomicU32>,
}

impl StreamFamilies {
    pub(crate) fn register(registry: &Registry) -> Self {
        let flows: Arc<AtomicU32> = Arc::default();
        let shown = flows.clone();
        registry.gauge_fn("gateway_udp_flows", "UDP flows that are remembered", move || {
            i64::from(shown.load(Ordering::Relaxed))
        });
        Self {
            began: registry.counters("gateway_streams", "Connections and UDP flows carried, by route"),
            ended: registry.counters("gateway_streams_ended", "Connections and UDP flows that ended, by how"),
            bytes: registry.counters("gateway_stream_bytes", "Bytes carried, by route and direction"),
            durations: registry.histograms(
                "gateway_stream_duration_seconds",
                "From the first to the last of a connection or UDP flow",
            ),
            datagrams: registry.counters("gateway_udp_datagrams", "Datagrams carried, by direction"),
            dropped: registry.counters("gateway_udp_datagrams_dropped", "Datagrams not carried, by reason"),
            moved: registry.counters("gateway_udp_flows_moved", "UDP flows that went on with another endpoint"),
            flows,
        }
    }
}

/// One worker's shards.
pub(crate) struct StreamMetrics {
    families: StreamFamilies,
    pub(crate) datagrams_received: CounterShard,
    pub(crate) datagrams_sent: CounterShard,
    pub(crate) moved: CounterShard,
    dropped: FewShards<&'static str>,
    routes: RefCell<ahash::HashMap<(Origin, Kind), Rc<RouteMetrics>>>,
}

/// One worker's shards for one object's routes.
pub(crate) struct RouteMetrics {
    pub(crate) began: CounterShard,
    pub(crate) received: CounterShard,
    pub(crate) sent: CounterShard,
    ended: [CounterShard; 4],
    duration: HistogramShard,
}

const ENDS: [End; 4] = [End::Closed, End::Idle, End::Reset, End::Refused];

impl StreamMetrics {
    pub(crate) fn new(families: &StreamFamilies) -> Self {
        let direction = |word: &str| families.datagrams.shard(&[("direction", word.to_owned())]);
        Self {
            datagrams_received: direction("received"),
            datagrams_sent: direction("sent"),
            moved: families.moved.shard(&NoLabels),
            dropped: FewShards::new(),
            routes: RefCell::default(),
            families: families.clone(),
        }
    }

    /// Flows of all workers.
    pub(crate) fn flows(&self) -> &Arc<AtomicU32> {
        &self.families.flows
    }

    pub(crate) fn route(&self, origin: &Origin, kind: Kind) -> Rc<RouteMetrics> {
        // Generations of one object count together.
        let name = Origin { generation: 0, ..origin.clone() };
        let mut routes = self.routes.borrow_mut();
        let new = || {
            let labels = || {
                [
                    ("kind", origin.key.kind.as_str().to_owned()),
                    ("namespace", origin.key.id.namespace.to_string()),
                    ("name", origin.key.id.name.to_string()),
                    ("protocol", kind.word().to_owned()),
                ]
            };
            let with = |name: &'static str, value: &str| {
                let [a, b, c, d] = labels();
                [a, b, c, d, (name, value.to_owned())]
            };
            Rc::new(RouteMetrics {
                began: self.families.began.shard(&labels()),
                received: self.families.bytes.shard(&with("direction", "received")),
                sent: self.families.bytes.shard(&with("direction", "sent")),
                ended: ENDS.map(|end| self.families.ended.shard(&with("end", end.word()))),
                duration: self.families.durations.shard(&labels()),
            })
        };
        routes.entry((name, kind)).or_insert_with(new).clone()
    }

    pub(crate) fn dropped(&self, reason: &'static str) {
        self.dropped.count(&self.families.dropped, "reason", &reason);
    }
}

impl RouteMetrics {
    pub(crate) fn ended(&self, end: End, took: Duration) {
        if let Some(at) = ENDS.iter().position(|known| *known == end) {
            self.ended[at].add(1);
        }
        self.duration.observe(took.as_secs_f64());
    }
}
