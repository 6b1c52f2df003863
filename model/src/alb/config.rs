//! What ALB2, Frontend and Rule can each say about requests: authentication, timeouts, tracing, redirects and the like.
//!
//! An empty text counts as a field that is absent, as upstream's code has it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text::{ConfigMapKey, NginxTime, filled, optional_key, optional_time};
use crate::origin::NamespacedName;

/// Traces by OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Otel {
    /// Whether requests are traced; the nearest level that has `otel` decides.
    pub enable: bool,
    pub exporter: Option<Exporter>,
    /// Default: `always_on`.
    pub sampler: Option<Sampler>,
    /// Default: all false.
    pub flags: Option<Flags>,
    /// Attributes of the resource, besides those that are always there.
    #[serde(default)]
    pub resource: BTreeMap<String, String>,
}

/// Where spans go.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Exporter {
    pub collector: Option<Collector>,
    /// Default: a queue of 2048 spans, sent every 2 s.
    pub batch_span_processor: Option<BatchSpanProcessor>,
}

/// A collector of OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Collector {
    /// URL up to `/v1/traces`, which is added; without a scheme: `http://`.
    pub address: String,
    /// Seconds.
    pub request_timeout: u64,
}

impl Collector {
    /// Longest time for a request to a collector: the manual's example asks for 1000 s.
    pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);

    /// Time for one request: at least 1 s, at most [`Self::MAX_TIMEOUT`].
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout).clamp(Duration::from_secs(1), Self::MAX_TIMEOUT)
    }
}

/// How spans wait to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BatchSpanProcessor {
    /// Spans that may wait; more are dropped.
    pub max_queue_size: u32,
    /// Seconds between two sendings.
    pub inactive_timeout: u32,
}

impl Default for BatchSpanProcessor {
    fn default() -> Self {
        Self { max_queue_size: 2048, inactive_timeout: 2 }
    }
}

/// Which requests are traced.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sampler {
    /// `always_on`, `always_off`, `parent_base` or `trace_id_ratio`.
    pub name: SamplerName,
    pub options: Option<SamplerOptions>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SamplerOptions {
    /// What samples where there is no parent, for `parent_base`.
    #[serde(default, deserialize_with = "optional_sampler")]
    pub parent_name: Option<SamplerName>,
    /// Share of traces, "0" to "1", for `trace_id_ratio`. Default 0.5.
    #[serde(default, deserialize_with = "optional_fraction")]
    pub fraction: Option<Fraction>,
}

/// A sampler. Spaces, dashes and underscores are one, since the manual writes "always on" and "traceid-ratio".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplerName {
    #[default]
    AlwaysOn,
    AlwaysOff,
    ParentBase,
    TraceIdRatio,
}

impl SamplerName {
    /// Reads a name; `None` for one that no sampler has.
    pub fn parse(text: &str) -> Option<Self> {
        let letters: String = text.chars().filter(|c| !" -_".contains(*c)).take(32).collect();
        match letters.to_ascii_lowercase().as_str() {
            "alwayson" => Some(Self::AlwaysOn),
            "alwaysoff" => Some(Self::AlwaysOff),
            "parentbase" | "parentbased" => Some(Self::ParentBase),
            "traceidratio" => Some(Self::TraceIdRatio),
            _ => None,
        }
    }

    fn read<E: serde::de::Error>(text: &str) -> Result<Self, E> {
        Self::parse(text).ok_or_else(|| {
            E::custom(format_args!(
                "\"{text}\" is not a sampler (always_on, always_off, parent_base or trace_id_ratio)"
            ))
        })
    }
}

impl<'de> Deserialize<'de> for SamplerName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(&String::deserialize(deserializer)?)
    }
}

fn optional_sampler<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SamplerName>, D::Error> {
    filled(deserializer)?.map(|text| SamplerName::read(&text)).transpose()
}

/// A share from 0 to 1, written as text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fraction(pub f64);

impl Serialize for Fraction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn optional_fraction<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Fraction>, D::Error> {
    let Some(text) = filled(deserializer)? else { return Ok(None) };
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share
        .map(|share| Some(Fraction(share)))
        .ok_or_else(|| D::Error::custom(format_args!("\"{text}\" is not a share from 0 to 1 (try \"0.1\")")))
}

/// Switches of tracing. A level that has any says them all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Flags {
    /// Leave out which Service and endpoint answered.
    pub hide_upstream_attrs: bool,
    /// Begin a trace of one's own whatever the request says.
    pub notrust_incoming_span: bool,
    /// Each request header as an attribute.
    pub report_http_request_header: bool,
    /// Each response header as an attribute.
    pub report_http_response_header: bool,
}

/// A web application firewall of ModSecurity's rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Modsecurity {
    /// Whether requests are filtered; `false` ends the search for a level that says so.
    pub enable: bool,
    /// May hold variables, as `$request_id`.
    #[serde(default, deserialize_with = "filled")]
    pub transaction_id: Option<String>,
    /// The OWASP Core Rule Set. Default false.
    #[serde(default)]
    pub use_core_rules: bool,
    /// The recommended configuration. Default false.
    #[serde(default)]
    pub use_recommend: bool,
    /// Rules in a ConfigMap, `namespace/name#key`.
    #[serde(default, deserialize_with = "optional_key")]
    pub cm_ref: Option<ConfigMapKey>,
}

/// Who may pass: whom a service lets in, or who knows a password. With both, the service is asked first.
///
/// One that asks for neither lets everybody in, whatever the levels above say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Auth {
    /// `false` lets everybody in, whatever stands beside it and above. Default true. Upstream does not have it.
    pub enable: Option<bool>,
    pub forward: Option<ForwardAuth>,
    pub basic: Option<BasicAuth>,
}

impl Auth {
    /// Whether a request has to show anything at all.
    pub fn asks(&self) -> bool {
        self.enable != Some(false) && (self.forward.is_some() || self.basic.is_some() || self.enable == Some(true))
    }
}

/// Another service is asked about each request.
///
/// Texts with `$variables` are kept as written; what they lead to is found out with each request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ForwardAuth {
    /// May hold variables.
    #[serde(default, deserialize_with = "filled")]
    pub url: Option<String>,
    /// Default GET.
    #[serde(default, deserialize_with = "filled")]
    pub method: Option<String>,
    /// `namespace/name` of a ConfigMap with headers for the service. Text, since a request is answered 503 for a wrong one.
    #[serde(default, deserialize_with = "filled")]
    pub auth_headers_cm_ref: Option<String>,
    /// Value of `X-Auth-Request-Redirect`; may hold variables.
    #[serde(default, deserialize_with = "filled")]
    pub auth_request_redirect: Option<String>,
    /// Headers of the service's answer that backends get.
    #[serde(default)]
    pub upstream_headers: Vec<String>,
    /// Where a client goes that has to sign in; may hold variables.
    #[serde(default, deserialize_with = "filled")]
    pub signin: Option<String>,
    /// Hand on the service's cookies with every answer. Default false: with good ones.
    #[serde(default)]
    pub always_set_cookie: bool,
    /// Parameter of `signin` that names the way back. Default `rd`.
    #[serde(default, deserialize_with = "filled")]
    pub signin_redirect_param: Option<String>,
}

impl ForwardAuth {
    /// Method of the question.
    pub fn method(&self) -> &str {
        self.method.as_deref().unwrap_or("GET")
    }

    /// Name of the parameter of `signin`.
    pub fn redirect_param(&self) -> &str {
        self.signin_redirect_param.as_deref().unwrap_or("rd")
    }
}

/// Name and password by the Basic scheme (RFC 7617).
///
/// All of it is text: a request is answered 500 for what does not hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BasicAuth {
    #[serde(default)]
    pub realm: String,
    /// `namespace/name` of the Secret.
    #[serde(default)]
    pub secret: String,
    /// `auth-file`: one `user:hash` under the key `auth`; `auth-map`: each key is a user.
    #[serde(default)]
    pub secret_type: String,
    /// `basic`.
    #[serde(default)]
    pub auth_type: String,
}

impl BasicAuth {
    /// The Secret; `None` where the text does not name one.
    pub fn secret(&self) -> Option<NamespacedName> {
        NamespacedName::parse(&self.secret)
    }
}

/// Times towards backends, in milliseconds. 0 and silence: the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Timeout {
    /// Connecting. Default 5000.
    pub proxy_connect_timeout_ms: Option<u32>,
    /// Longest pause of a request; of either way on TCP. Default 120000.
    pub proxy_send_timeout_ms: Option<u32>,
    /// Longest pause of a response; of either way on TCP. Default 120000.
    pub proxy_read_timeout_ms: Option<u32>,
}

impl Timeout {
    /// Connecting to an endpoint.
    pub fn connect(&self) -> Duration {
        millis_or(self.proxy_connect_timeout_ms, 5_000)
    }

    /// Longest pause of a request.
    pub fn send(&self) -> Duration {
        millis_or(self.proxy_send_timeout_ms, 120_000)
    }

    /// Longest pause of a response.
    pub fn read(&self) -> Duration {
        millis_or(self.proxy_read_timeout_ms, 120_000)
    }
}

fn millis_or(written: Option<u32>, default: u32) -> Duration {
    Duration::from_millis(written.filter(|ms| *ms > 0).unwrap_or(default).into())
}

/// An answer that sends the client elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Redirect {
    /// Status. 0 and silence: 302.
    pub code: Option<u16>,
    /// URL or path. Default: the request's path.
    #[serde(default, deserialize_with = "filled")]
    pub url: Option<String>,
    /// Default: the request's.
    #[serde(default, deserialize_with = "filled")]
    pub scheme: Option<String>,
    /// Default: the request's.
    #[serde(default, deserialize_with = "filled")]
    pub host: Option<String>,
    /// Default: none is written.
    pub port: Option<u16>,
    /// Prefix of the path that `replace_prefix` takes the place of.
    #[serde(default, deserialize_with = "filled")]
    pub prefix_match: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    pub replace_prefix: Option<String>,
}

impl Redirect {
    /// Status of the answer.
    pub fn status(&self) -> u16 {
        self.code.filter(|code| *code > 0).unwrap_or(302)
    }
}

/// How long connections of clients are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Keepalive {
    pub tcp: Option<TcpKeepalive>,
    pub http: Option<HttpKeepalive>,
}

/// Probes of the kernel. All silent: on, as the kernel does it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TcpKeepalive {
    /// Silence before the first probe. Default 30m where another field is set.
    #[serde(default, deserialize_with = "optional_time")]
    pub idle: Option<NginxTime>,
    /// Time between probes. Default: the kernel's.
    #[serde(default, deserialize_with = "optional_time")]
    pub interval: Option<NginxTime>,
    /// Probes without answer that end a connection. Default 10 where another field is set.
    pub count: Option<u32>,
}

/// Keep-alive of HTTP/1 and HTTP/2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HttpKeepalive {
    /// Time without a request that ends a connection. Default 75s.
    #[serde(default, deserialize_with = "optional_time")]
    pub timeout: Option<NginxTime>,
    /// Value of the header `Keep-Alive: timeout=`. Default: no such header.
    #[serde(default, deserialize_with = "optional_time")]
    pub header_timeout: Option<NginxTime>,
    /// Requests on one connection. Default 1000.
    pub requests: Option<u32>,
}

/// Services that share traffic, and what keeps a client with one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ServiceGroup {
    /// `rr` (default), `sip-hash`, `cookie`, `header`, `ewma`.
    #[serde(default)]
    pub session_affinity_policy: String,
    /// Name of the cookie or header.
    #[serde(default)]
    pub session_affinity_attribute: String,
    #[serde(default)]
    pub services: Vec<WeightedService>,
}

impl ServiceGroup {
    /// What keeps a client with one endpoint. A policy that nobody knows is none, as upstream has it.
    pub fn affinity(&self) -> Affinity {
        let attribute = self.session_affinity_attribute.trim();
        match self.session_affinity_policy.as_str() {
            "sip-hash" => Affinity::SourceIp,
            "cookie" if attribute.is_empty() => Affinity::Cookie("JSESSIONID".to_owned()),
            "cookie" => Affinity::Cookie(attribute.to_owned()),
            "header" if !attribute.is_empty() => Affinity::Header(attribute.to_owned()),
            "ewma" => Affinity::Ewma,
            _ => Affinity::RoundRobin,
        }
    }
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub enum Affinity {
    /// Nothing keeps a client; endpoints in turn, by weight.
    #[default]
    RoundRobin,
    /// The client's address.
    SourceIp,
    /// The value of this cookie, which is set where it is missing.
    Cookie(String),
    /// The value of this header.
    Header(String),
    /// Nothing keeps a client; the endpoint that has been answering fastest.
    Ewma,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WeightedService {
    pub name: String,
    /// Default: the namespace of the Frontend or Rule.
    #[serde(default, deserialize_with = "filled")]
    pub namespace: Option<String>,
    /// A port of the Service, not of its pods.
    pub port: u16,
    /// See [`WeightedService::weight`].
    pub weight: Option<i64>,
}

impl WeightedService {
    /// Share of the traffic among the group's weights: 0 (none) to 100, which is also the default.
    pub fn weight(&self) -> u32 {
        self.weight.map_or(100, |weight| u32::try_from(weight.clamp(0, 100)).unwrap_or(0))
    }
}

/// The object that a Frontend or Rule was made for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Source {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub namespace: String,
    /// `ingress` for those made for an Ingress, `bind` for those made for a Service.
    #[serde(default, rename = "type")]
    pub source_type: String,
}

/// What backends speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendProtocol {
    #[default]
    Http,
    Https,
    Grpc,
    Grpcs,
}

/// Reads a backend protocol, in any case; an empty text, and the variable that stands for the default, mean none.
pub(super) fn optional_protocol<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BackendProtocol>, D::Error> {
    let Some(text) = filled(deserializer)? else { return Ok(None) };
    Ok(Some(match text.to_ascii_lowercase().as_str() {
        "$http_backend_protocol" => return Ok(None),
        "http" => BackendProtocol::Http,
        "https" => BackendProtocol::Https,
        "grpc" => BackendProtocol::Grpc,
        "grpcs" => BackendProtocol::Grpcs,
        _ => {
            return Err(D::Error::custom(format_args!(
                "\"{text}\" is not a backend protocol (http, https, grpc or grpcs)"
            )));
        }
    }))
}

#[cfg(test)]
mod tests;
