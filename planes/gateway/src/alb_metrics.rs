//! Metrics under the names of Alauda's ALB, for dashboards and alerts that are written for it.
//!
//! Counted only where somebody wants them. Each worker keeps its shards by rule, so that a request costs a lookup and a
//! few stores. Rules and endpoints give the labels; of a request only the method is there, one of nine words or `OTHER`,
//! and the port it came to. What left the snapshot is forgotten with the next scrape.

mod serve;

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use headwater_model::gateway::{Action, EndpointAddress, GatewaySnapshot, Rule};
use headwater_process::metrics::{CounterShard, GaugeShard, HistogramShard, Registry};
use headwater_process::metrics::{ShardedCounter, ShardedGauge, ShardedHistogram};

use crate::fault::By;
use crate::message::{BodySize, Request};
use crate::metrics::Labels;
use crate::record::Record;
use crate::upstream::EndpointRuntime;

pub use serve::{AlbMetricsServer, Token};

/// The families; cheap to clone.
#[derive(Clone)]
pub struct AlbMetrics {
    registry: Registry,
    connections: ShardedGauge<Labels<1>>,
    mismatches: ShardedCounter<Labels<2>>,
    errors: ShardedCounter<Labels<1>>,
    answers: ShardedCounter<Labels<7>>,
    request_bytes: ShardedCounter<Labels<7>>,
    response_bytes: ShardedCounter<Labels<7>>,
    durations: ShardedHistogram<Labels<5>>,
    upstream_answers: ShardedCounter<Labels<8>>,
    upstream_durations: ShardedHistogram<Labels<6>>,
}

impl Default for AlbMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl AlbMetrics {
    pub fn new() -> Self {
        let registry = Registry::bare();
        Self {
            connections: registry.gauges("nginx_http_connections", "Downstream connections by what they do"),
            mismatches: registry.counters("nginx_http_mismatch_rule_requests", "Requests that no rule matched"),
            errors: registry.counters("alb_error", "Requests that the gateway could not serve"),
            answers: registry.counters("nginx_http_status", "Requests by rule and status"),
            request_bytes: registry.counters("nginx_http_request_size_bytes", "Bytes of requests"),
            response_bytes: registry.counters("nginx_http_response_size_bytes", "Bytes of bodies of responses"),
            durations: registry.histograms("nginx_http_request_duration_seconds", "Time that requests took"),
            upstream_answers: registry
                .counters("nginx_http_upstream_requests_status", "Requests by endpoint and status"),
            upstream_durations: registry
                .histograms("nginx_http_upstream_request_duration_seconds", "Time that endpoints took"),
            registry,
        }
    }

    /// Everything about rules and endpoints of the snapshot, as Prometheus reads it; what is about others is forgotten.
    pub fn text(&self, snapshot: &GatewaySnapshot, connections: u32) -> String {
        let live = Live::of(snapshot);
        let of = |labels: &[(&'static str, String)], name: &str| {
            labels.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value).to_owned()
        };
        let is_live = |labels: &[(&'static str, String)]| live.rules.contains(&of(labels, "rule"));
        let reached = |labels: &[(&'static str, String)]| {
            live.endpoints.contains(&(of(labels, "rule"), of(labels, "upstream_ip")))
        };
        self.answers.retain(|labels| is_live(labels));
        self.request_bytes.retain(|labels| is_live(labels));
        self.response_bytes.retain(|labels| is_live(labels));
        self.durations.retain(|labels| is_live(labels));
        self.upstream_answers.retain(|labels| reached(labels));
        self.upstream_durations.retain(|labels| reached(labels));
        let mut text = self.registry.encode_classic();
        let under_way = sample(&text, "nginx_http_connections{state=\"writing\"} ");
        let waiting = u64::from(connections).saturating_sub(under_way);
        text.push_str(&format!(
            "nginx_http_connections{{state=\"active\"}} {connections}\nnginx_http_connections{{state=\"waiting\"}} {waiting}\n\
             nginx_http_connections{{state=\"reading\"}} 0\n"
        ));
        // Lines of one family stand together.
        let (mut about, rest): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.contains("nginx_http_connections"));
        let samples = rest.iter().filter(|line| !line.starts_with('#')).count() + about.len();
        about.extend(rest);
        let mut sorted = about.join("\n");
        sorted.push_str(&format!(
            "\n# HELP metrics_cache_size Series that are kept.\n# TYPE metrics_cache_size gauge\nmetrics_cache_size {samples}\n"
        ));
        sorted
    }
}

fn sample(text: &str, series: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(series)?.parse().ok()).unwrap_or(0)
}

/// What there is to count about.
struct Live {
    rules: HashSet<String>,
    /// Rule and address.
    endpoints: HashSet<(String, String)>,
}

impl Live {
    fn of(snapshot: &GatewaySnapshot) -> Self {
        let mut live = Self { rules: HashSet::new(), endpoints: HashSet::new() };
        let mut seen = HashSet::new();
        for listener in &snapshot.listeners {
            if !seen.insert(Arc::as_ptr(&listener.routes)) {
                continue;
            }
            let rules = listener.routes.hosts.values().flat_map(|host| &host.rules);
            for rule in rules.chain(&listener.routes.default) {
                let name = rule.names().rule;
                if let Action::Forward(forward) = &rule.action {
                    let pools = forward.backends.iter().filter_map(|backend| snapshot.pools.find(backend.pool));
                    for endpoint in pools.flat_map(|pool| &pool.endpoints) {
                        match &endpoint.address {
                            EndpointAddress::Ip(address) => {
                                live.endpoints.insert((name.clone(), address.ip().to_string()));
                            }
                            EndpointAddress::Dns(host, _) => {
                                live.endpoints.insert((name.clone(), host.to_string()));
                            }
                        }
                    }
                }
                live.rules.insert(name);
            }
        }
        live
    }
}

/// Methods that are told apart; all others are the last.
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "OTHER"];

fn method_index(method: &str) -> usize {
    METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1)
}

/// Statuses that HTTP has; others are 0.
fn status_text(status: u16) -> String {
    if (100..600).contains(&status) { status.to_string() } else { "0".to_owned() }
}

/// One worker's shards.
pub(crate) struct WorkerAlbMetrics {
    families: AlbMetrics,
    writing: GaugeShard,
    /// By the address of the rule, which cannot be another's while the entry is there, and port.
    rules: RefCell<ahash::HashMap<(usize, u16), RuleCounters>>,
    unmatched: RefCell<ahash::HashMap<(u16, usize), CounterShard>>,
    errors: RefCell<ahash::HashMap<u16, CounterShard>>,
}

struct RuleCounters {
    rule: Weak<Rule>,
    labels: Labels<5>,
    duration: HistogramShard,
    /// By status and method.
    answers: Vec<((u16, usize), Answers)>,
    upstreams: Vec<UpstreamCounters>,
}

struct Answers {
    count: CounterShard,
    request_bytes: CounterShard,
    response_bytes: CounterShard,
}

struct UpstreamCounters {
    endpoint: Rc<EndpointRuntime>,
    duration: HistogramShard,
    answers: Vec<((u16, usize), CounterShard)>,
}

/// A request under way.
pub(crate) struct UnderWay<'a>(&'a GaugeShard);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl WorkerAlbMetrics {
    pub(crate) fn new(families: &AlbMetrics) -> Self {
        Self {
            writing: families.connections.shard(&[("state", "writing".to_owned())]),
            families: families.clone(),
            rules: RefCell::default(),
            unmatched: RefCell::default(),
            errors: RefCell::default(),
        }
    }

    pub(crate) fn begin(&self) -> UnderWay<'_> {
        self.writing.inc();
        UnderWay(&self.writing)
    }

    /// Counts a request that came to its end.
    pub(crate) fn finished<R: Request>(&self, request: &R, record: &Record<'_>, took: Duration) {
        let port = record.port;
        let method = method_index(request.method());
        if record.fault.as_ref().is_some_and(|fault| fault.reason.by() != By::Downstream) {
            let mut errors = self.errors.borrow_mut();
            let new = || self.families.errors.shard(&[("port", port.to_string())]);
            errors.entry(port).or_insert_with(new).add(1);
        }
        let Some(rule) = record.rule else {
            let labels = || [("port", port.to_string()), ("method", METHODS[method].to_owned())];
            let mut unmatched = self.unmatched.borrow_mut();
            unmatched.entry((port, method)).or_insert_with(|| self.families.mismatches.shard(&labels())).add(1);
            return;
        };
        let mut rules = self.rules.borrow_mut();
        let counters = rules
            .entry((Arc::as_ptr(rule) as usize, port))
            .or_insert_with(|| RuleCounters::new(&self.families, rule, port));
        counters.duration.observe(took.as_secs_f64());
        let answers = counters.answers(&self.families, record.status, method);
        answers.count.add(1);
        answers.request_bytes.add(request_bytes(request));
        answers.response_bytes.add(record.sent_bytes);
        if let Some(endpoint) = &record.endpoint {
            let place = counters.upstream(&self.families, endpoint);
            let RuleCounters { labels, upstreams, .. } = &mut *counters;
            let upstream = &mut upstreams[place];
            upstream.answered(&self.families, labels, record.status, method);
            if let (Some(began), Some(ended)) = (record.began, record.ended) {
                upstream.duration.observe(ended.saturating_duration_since(began).as_secs_f64());
            }
        }
    }

    /// Lets go of rules and endpoints that were replaced.
    pub(crate) fn forget_replaced(&self) {
        self.rules.borrow_mut().retain(|_, counters| {
            counters.upstreams.retain(|upstream| !upstream.endpoint.is_gone());
            counters.rule.strong_count() > 0
        });
    }
}

/// Of the head, as HTTP/1.1 has it, and of the body where its length was said.
fn request_bytes<R: Request>(request: &R) -> u64 {
    let mut bytes = request.method().len() + request.target().len() + request.authority().len() + 22;
    request.each(|name, value| bytes += name.len() + value.len() + 4);
    let body = match request.body_size() {
        BodySize::Length(length) => {
            bytes += "content-length: \r\n".len() + itoa::Buffer::new().format(length).len();
            length
        }
        BodySize::None | BodySize::Unknown => 0,
    };
    bytes as u64 + body
}

impl RuleCounters {
    fn new(families: &AlbMetrics, rule: &Arc<Rule>, port: u16) -> Self {
        let names = rule.names();
        let labels = [
            ("port", port.to_string()),
            ("rule", names.rule),
            ("source_type", names.source_type),
            ("source_namespace", names.source_namespace),
            ("source_name", names.source_name),
        ];
        let duration = families.durations.shard(&labels);
        let (answers, upstreams) = (Vec::new(), Vec::new());
        Self { rule: Arc::downgrade(rule), labels, duration, answers, upstreams }
    }

    fn answers(&mut self, families: &AlbMetrics, status: u16, method: usize) -> &Answers {
        let key = (status, method);
        let place = self.answers.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            let [port, rule, source_type, namespace, name] = self.labels.clone();
            let [status, method] = [("status", status_text(status)), ("method", METHODS[method].to_owned())];
            let labels = [port, rule, status, method, source_type, namespace, name];
            let answers = Answers {
                count: families.answers.shard(&labels),
                request_bytes: families.request_bytes.shard(&labels),
                response_bytes: families.response_bytes.shard(&labels),
            };
            self.answers.push((key, answers));
            self.answers.len() - 1
        });
        &self.answers[place].1
    }

    /// Its place among them.
    fn upstream(&mut self, families: &AlbMetrics, endpoint: &Rc<EndpointRuntime>) -> usize {
        self.upstreams.iter().position(|known| Rc::ptr_eq(&known.endpoint, endpoint)).unwrap_or_else(|| {
            let [port, rule, source_type, namespace, name] = self.labels.clone();
            let labels = [port, rule, ("upstream_ip", ip_text(endpoint.address.ip())), source_type, namespace, name];
            let duration = families.upstream_durations.shard(&labels);
            self.upstreams.push(UpstreamCounters { endpoint: endpoint.clone(), duration, answers: Vec::new() });
            self.upstreams.len() - 1
        })
    }
}

fn ip_text(address: IpAddr) -> String {
    address.to_string()
}

impl UpstreamCounters {
    fn answered(&mut self, families: &AlbMetrics, labels: &Labels<5>, status: u16, method: usize) {
        let key = (status, method);
        if let Some((_, shard)) = self.answers.iter().find(|(known, _)| *known == key) {
            return shard.add(1);
        }
        let [port, rule, source_type, namespace, name] = labels.clone();
        let upstream_ip = ("upstream_ip", ip_text(self.endpoint.address.ip()));
        let [status, method] = [("status", status_text(status)), ("method", METHODS[method].to_owned())];
        let shard =
            families.upstream_answers.shard(&[port, rule, upstream_ip, status, method, source_type, namespace, name]);
        shard.add(1);
        self.answers.push((key, shard));
    }
}
