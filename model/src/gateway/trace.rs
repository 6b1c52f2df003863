//! Tracing of requests: which are traced, what is told of them, where their spans go.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::Template;
use crate::origin::NamespacedName;

/// How the requests of a rule are traced by OpenTelemetry. Shared by rules that are traced alike.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    pub exporter: Arc<SpanExporter>,
    pub sampler: Sampler,
    /// Whether a `traceparent` of the request is gone on with; otherwise every request begins a trace.
    pub trust_incoming: bool,
    /// Whether spans say nothing of Service and endpoint.
    pub hide_upstream: bool,
    /// Whether each request header becomes an attribute.
    pub request_headers: bool,
    /// Whether each response header becomes an attribute.
    pub response_headers: bool,
    /// Name of spans; `None`: method and target.
    pub span_name: Option<Template>,
}

/// Where spans go, and how they wait. Equal exporters share one queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpanExporter {
    pub collector: Collector,
    /// For one request to the collector, connecting included: 1 s to [`SpanExporter::MAX_TIMEOUT`].
    pub timeout: Duration,
    /// Spans that may wait, 1 to [`SpanExporter::MAX_QUEUE`]; more are dropped.
    pub queue: u32,
    /// Most spans of one request to the collector, 1 to [`SpanExporter::MAX_BATCH`].
    pub batch: u32,
    /// Longest time that a span waits for others, 1 ms to [`SpanExporter::MAX_INTERVAL`].
    pub interval: Duration,
    /// Attributes of the resource, besides those that only the running gateway knows; these win over them.
    pub resource: BTreeMap<Box<str>, Box<str>>,
}

impl SpanExporter {
    pub const MAX_TIMEOUT: Duration = crate::alb::config::Collector::MAX_TIMEOUT;
    pub const MAX_QUEUE: u32 = 65_536;
    /// Spans of one request unless something else is said.
    pub const DEFAULT_BATCH: u32 = 256;
    pub const MAX_BATCH: u32 = 4096;
    pub const MAX_INTERVAL: Duration = Duration::from_secs(60);
}

/// A collector of OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Collector {
    /// Whether it speaks TLS; its certificate is verified by the authorities of the system.
    pub tls: bool,
    /// A name in lower case, or an address without brackets.
    pub host: Box<str>,
    pub port: u16,
    /// Path, and perhaps query, that spans are posted to: ends in `/v1/traces` unless there is a query.
    pub path: Box<str>,
}

impl Collector {
    /// `Host` of requests.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl Serialize for Collector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which requests are traced.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sampler {
    /// Whether a request that belongs to a trace is traced exactly if the trace is.
    pub parent_based: bool,
    /// For all others.
    pub root: RootSampler,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RootSampler {
    AlwaysOn,
    AlwaysOff,
    /// Share of traces, 0 to 1, by the id of the trace: every sampler of the share chooses the same ones.
    TraceIdRatio(f64),
}

/// The object that a rule was made for, where that is not its [`origin`](super::Rule::origin).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct RuleSource {
    /// `ingress` and so on.
    pub kind: Box<str>,
    pub id: NamespacedName,
}
