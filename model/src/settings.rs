//! `GatewaySettings` (`headwater.dev/v1alpha1`): the settings of a gateway, as an object.
//!
//! Every field of the spec is optional. Where it is silent, an ingress-nginx ConfigMap counts, then the default that
//! stands in the field's documentation.

#[cfg(test)]
mod crd;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::quantity::{DurationText, SizeText};

/// `spec` of a GatewaySettings object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct GatewaySettingsSpec {
    /// Default: `http` on port 80 and `https` on port 443, every address.
    pub listeners: Option<Vec<ListenerSpec>>,
    #[serde(default)]
    pub client_address: ClientAddressSpec,
    #[serde(default)]
    pub limits: LimitsSpec,
    #[serde(default)]
    pub timeouts: TimeoutsSpec,
    #[serde(default)]
    pub balancing: BalancingSpec,
    #[serde(default)]
    pub retries: RetriesSpec,
    #[serde(default)]
    pub passive_health: PassiveHealthSpec,
    #[serde(default)]
    pub upstream: UpstreamSpec,
    #[serde(default)]
    pub tls: TlsSpec,
    #[serde(default)]
    pub access_log: AccessLogSpec,
    #[serde(default)]
    pub faults: FaultsSpec,
    #[serde(default)]
    pub compression: CompressionSpec,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ListenerSpec {
    /// Unique within the object.
    pub name: String,
    /// Default `::` (all addresses, IPv4 too).
    pub address: Option<IpAddr>,
    /// 1 to 65535; 0 takes a free port (for tests and demos).
    pub port: u16,
    pub protocol: ListenerProtocol,
    /// Overrides `spec.clientAddress` as a whole.
    pub client_address: Option<ClientAddressSpec>,
    /// Where TCP connections and UDP flows go; for `TCP` and `UDP` alone, and needed there.
    pub backends: Option<Vec<ListenerBackendSpec>>,
    /// Longest silence of a TCP connection or UDP flow, both ways. Default 1h for TCP, 60s for UDP.
    pub idle_timeout: Option<DurationText>,
}

/// A Service that a TCP or UDP listener sends to.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ListenerBackendSpec {
    /// `namespace/name` of a Service.
    pub service: String,
    /// Number of one of its ports, of the listener's protocol.
    pub port: u16,
    /// Share among the backends, 0 to 1000000. Default 1.
    pub weight: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum ListenerProtocol {
    HTTP,
    HTTPS,
    TCP,
    UDP,
}

/// Who may speak for the client; see docs/client-address.md.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ClientAddressSpec {
    /// Default: nobody. A bare address stands for itself.
    pub trusted_proxies: Option<Vec<CidrText>>,
    /// Default unset; excludes `trustedProxies`.
    pub trusted_hops: Option<u32>,
    /// `Off` (default), `Optional`, `Required`.
    pub proxy_protocol: Option<ProxyProtocolSpec>,
    /// Default 5s.
    pub proxy_protocol_timeout: Option<DurationText>,
    /// `None` (default), `X-Forwarded-For`, `Forwarded`, `X-Real-IP` or another header's name.
    pub forwarded_header: Option<String>,
    /// Default false. Not available yet: `true` is refused.
    pub toa: Option<bool>,
    /// Default false.
    pub keep_unverified: Option<bool>,
    /// Default false.
    pub emit_forwarded: Option<bool>,
    /// Towards backends: `Off` (default), `V1`, `V2`.
    pub emit_proxy_protocol: Option<EmitProxyProtocolSpec>,
    /// Default false. Not available yet: `true` is refused.
    pub emit_toa: Option<bool>,
    /// Connect to backends from the client's own address: TCP, UDP, and TLS that passes through. Default false.
    pub transparent: Option<bool>,
}

/// A network, or a bare address that stands for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CidrText(pub IpNet);

impl<'de> Deserialize<'de> for CidrText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_cidr(&text).map(Self).ok_or_else(|| {
            serde::de::Error::custom(format_args!(
                "\"{text}\" is not a network (try \"10.0.0.0/8\" or \"2001:db8::1\")"
            ))
        })
    }
}

/// Reads `10.0.0.0/8`, `2001:db8::/32` or a bare address.
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum ProxyProtocolSpec {
    Off,
    Optional,
    Required,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum EmitProxyProtocolSpec {
    Off,
    V1,
    V2,
}

/// Limits as written; [`Limits`] has the defaults.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LimitsSpec {
    /// Bytes of a request's head. Default 64Ki.
    pub header_bytes: Option<SizeText>,
    /// Header lines of a request. Default 256.
    pub header_count: Option<u32>,
    /// Bytes of a request line. Default 16Ki.
    pub request_line_bytes: Option<SizeText>,
    /// Bytes of a request body. Default 0: no limit.
    pub body_bytes: Option<SizeText>,
    /// Downstream connections in all, over all listeners. Default 50000; 0: no limit.
    pub connections: Option<u32>,
    /// Downstream connections (behind trusted proxies: requests in flight) of one client. Default 0: no limit.
    pub connections_per_client: Option<u32>,
    /// Requests on one keep-alive connection. Default 0: no limit.
    pub requests_per_connection: Option<u32>,
    /// Concurrent streams of one HTTP/2 connection. Default 128.
    pub http2_streams: Option<u32>,
    /// UDP flows in all, over all listeners. Default 50000.
    pub udp_flows: Option<u32>,
}

/// Limits of a listener, defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    pub header_bytes: u32,
    pub header_count: u32,
    pub request_line_bytes: u32,
    /// 0: no limit.
    pub body_bytes: u64,
    /// 0: no limit.
    pub connections: u32,
    /// 0: no limit.
    pub connections_per_client: u32,
    /// 0: no limit.
    pub requests_per_connection: u32,
    pub http2_streams: u32,
    /// Each flow has a socket of its own.
    pub udp_flows: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 64 << 10,
            header_count: 256,
            request_line_bytes: 16 << 10,
            body_bytes: 0,
            connections: 50_000,
            connections_per_client: 0,
            requests_per_connection: 0,
            http2_streams: 128,
            udp_flows: 50_000,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TimeoutsSpec {
    /// From the first byte of a request to the end of its head; also the TLS handshake. Default 15s.
    pub header: Option<DurationText>,
    /// Keep-alive connection without a request. Default 60s.
    pub keep_alive: Option<DurationText>,
    /// Longest pause of a downstream body, either way. Default 60s.
    pub body: Option<DurationText>,
    /// Connecting to an endpoint, TLS included. Default 5s.
    pub connect: Option<DurationText>,
    /// Longest pause of an upstream response. Default 60s.
    pub idle: Option<DurationText>,
    /// Whole request with its retries. Default 0: off.
    pub request: Option<DurationText>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct BalancingSpec {
    /// Default `LeastRequest`.
    pub algorithm: Option<BalancingAlgorithm>,
    /// What `Hash` hashes. Default `Client`.
    pub hash_on: Option<HashOn>,
    /// Name of the header or cookie that `Hash` hashes.
    pub hash_name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum BalancingAlgorithm {
    RoundRobin,
    LeastRequest,
    PeakEWMA,
    Hash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum HashOn {
    Client,
    Header,
    Cookie,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RetriesSpec {
    /// Tries in all, the first included. Default 3; 1 turns retries off.
    pub attempts: Option<u32>,
    /// Retries as a share of requests. Default 20.
    pub budget_percent: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PassiveHealthSpec {
    /// Failures in a row that eject an endpoint. Default 5; 0 turns ejection off.
    pub consecutive_failures: Option<u32>,
    /// First ejection; doubles with each that follows. Default 10s.
    pub base_ejection: Option<DurationText>,
    /// Default 5m.
    pub max_ejection: Option<DurationText>,
    /// Share of a pool that may be ejected at once. Default 50.
    pub max_ejected_percent: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct UpstreamSpec {
    /// Idle connections kept for each endpoint by each worker. Default 64.
    pub max_idle_connections: Option<u32>,
    /// Default 60s.
    pub idle_timeout: Option<DurationText>,
    #[serde(default)]
    pub tls: UpstreamTlsSpec,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct UpstreamTlsSpec {
    /// `Off` (default, as ingress-nginx), `SystemRoots`, `CertificateAuthority`.
    pub verify: Option<UpstreamVerifySpec>,
    /// `namespace/name` of a Secret or ConfigMap with `ca.crt`, for `CertificateAuthority`.
    pub ca: Option<String>,
    /// SNI and verified name. Default: the request's host.
    pub server_name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum UpstreamVerifySpec {
    Off,
    SystemRoots,
    CertificateAuthority,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// `1.2` (default) or `1.3`.
    pub min_version: Option<TlsVersion>,
    /// Offer HTTP/2 by ALPN, and accept it with prior knowledge. Default true.
    pub http2: Option<bool>,
    /// Session resumption. Default true.
    pub session_tickets: Option<bool>,
    /// `namespace/name` of a `kubernetes.io/tls` Secret for names without certificate. Default: self-signed.
    pub default_certificate: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct AccessLogSpec {
    /// `JSON` (default), `Text`, `Off`.
    pub format: Option<AccessLogFormat>,
}

/// Responses that are compressed with gzip on their way to clients that take it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CompressionSpec {
    /// Default false; for the ports of an ALB2 what its `enableGzip` says.
    pub enabled: Option<bool>,
    /// 1 (fast) to 9 (small). Default 5.
    pub level: Option<u32>,
    /// Shorter bodies are left alone. Default 256.
    pub min_length: Option<SizeText>,
    /// Media types without parameters. Default: those of text, JavaScript, JSON, XML, SVG and some fonts.
    pub types: Option<Vec<String>>,
}

/// How requests that go wrong are answered, and who hears where a request went.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FaultsSpec {
    /// `Headwater` (default), or `ALB`: with the status, header and body of Alauda's ALB.
    pub style: Option<FaultStyle>,
    /// Clients that may ask with the header `cpaas-trace: true` which rule and endpoint served them; addresses of
    /// endpoints are told. Default: nobody.
    pub trace_clients: Option<Vec<CidrText>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum FaultStyle {
    Headwater,
    ALB,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum AccessLogFormat {
    #[default]
    #[serde(rename = "JSON")]
    Json,
    Text,
    Off,
}
