//! ALB2 (`crd.alauda.io`, versions `v1`, `v2beta1`, `v2`): one gateway, with the ports of its Ingresses and its pods.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{Auth, Modsecurity, Otel, Timeout};
use super::names::Domain;
use super::text::{BoolText, JsonText, PortRange, Quantity, certificate, filled, optional_quantity, write_certificate};
use super::{FieldError, parse};
use crate::object::{Ignored, Metadata};
use crate::origin::NamespacedName;

/// An ALB2 as written. Its schema requires nothing; defaults are filled in by [`Alb2::effective`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alb2 {
    #[serde(default)]
    pub api_version: Ignored,
    #[serde(default)]
    pub kind: Ignored,
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: Alb2Spec,
    #[serde(default)]
    pub status: Alb2Status,
}

/// The annotation that makes the operator pass over an ALB2, whatever the label domain.
pub const IGNORE_ANNOTATION: &str = "alb.cpaas.io/ignoreme";

/// The annotation with environment variables for the proxy, as JSON, whatever the label domain.
pub const NGINX_ENV_ANNOTATION: &str = "alb.cpaas.io/nginx-env";

impl Alb2 {
    /// Reads an ALB2 of any version: what only `v2beta1` and `v2` have is not read from one of `v1`.
    ///
    /// # Errors
    /// The first field that does not fit.
    pub fn parse(value: &Value) -> Result<Self, FieldError> {
        if value.get("apiVersion").and_then(Value::as_str) != Some("crd.alauda.io/v1") {
            return parse(value);
        }
        parse::<Alb2V1>(value).map(Self::from)
    }

    /// Whether the operator answers for it: it has a `config`, or a backup of one, and no annotation forbids it.
    ///
    /// One without is left over from version `v1`.
    pub fn is_operated(&self, domain: &Domain) -> bool {
        let annotation = |name: &str| self.metadata.annotations.get(name);
        annotation(IGNORE_ANNOTATION).is_none_or(|value| value != "true")
            && (self.spec.config.is_some() || annotation(&domain.migrate_backup_annotation()).is_some())
    }

    /// Where clients find it: what `spec.address` lists, then what its load balancer was given, in this order.
    pub fn addresses(&self) -> Vec<Address> {
        let given = &self.status.detail.address;
        let written = self.spec.address.as_deref().unwrap_or_default().split(',');
        written
            .chain([&given.ipv4, &given.ipv6, &given.host].into_iter().flatten().map(String::as_str))
            .filter_map(Address::parse)
            .collect()
    }
}

/// Where clients find a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Address {
    Ip(IpAddr),
    Hostname(String),
}

impl Address {
    /// Reads an address or a host's name; `None` for a blank text.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| text.parse().map_or_else(|_| Self::Hostname(text.to_owned()), Self::Ip))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Hostname(name) => name.fmt(f),
        }
    }
}

/// An ALB2 of the deprecated `v1` as written: no operator answers for one.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alb2V1 {
    #[serde(default)]
    pub api_version: Ignored,
    #[serde(default)]
    pub kind: Ignored,
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: Alb2V1Spec,
    #[serde(default)]
    pub status: Alb2Status,
}

impl From<Alb2V1> for Alb2 {
    fn from(Alb2V1 { metadata, spec, status, .. }: Alb2V1) -> Self {
        Self { metadata, spec: spec.into(), status, ..Self::default() }
    }
}

/// `spec` of an ALB2 of `v2beta1` and `v2`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Alb2Spec {
    /// Where clients find it: addresses and hosts' names, with commas between.
    #[serde(default, deserialize_with = "filled")]
    pub address: Option<String>,
    #[serde(rename = "type")]
    pub proxy_type: Option<ProxyType>,
    pub config: Option<Alb2Config>,
}

/// `spec` of an ALB2 of the deprecated `v1`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Alb2V1Spec {
    #[serde(default, deserialize_with = "filled")]
    pub address: Option<String>,
    /// Without effect.
    pub bind_address: Option<String>,
    /// Without effect.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Without effect.
    pub iaas_id: Option<String>,
    #[serde(rename = "type")]
    pub proxy_type: Option<ProxyType>,
}

impl From<Alb2V1Spec> for Alb2Spec {
    fn from(Alb2V1Spec { address, proxy_type, .. }: Alb2V1Spec) -> Self {
        Self { address, proxy_type, config: None }
    }
}

/// The only proxy that the API knows of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyType {
    #[default]
    Nginx,
}

/// `spec.config` of an ALB2. Fields that it does not have are kept by API servers and passed over here.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Alb2Config {
    /// Without effect: an ALB goes by the name of its object.
    pub loadbalancer_name: Option<String>,
    /// `host` (default): the node's network; `container`: one of its own, behind a Service of type LoadBalancer.
    pub network_mode: Option<NetworkMode>,
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// Default 3.
    pub replicas: Option<u32>,
    /// Pods with the same key keep off each other's nodes. Default `local`.
    #[serde(default, deserialize_with = "filled")]
    pub anti_affinity_key: Option<String>,
    /// Whether Frontends and Rules are served; `false` for one that only serves the Gateway API. Default true.
    #[serde(rename = "enableALb", alias = "enableAlb", alias = "enableALB")]
    pub enable_alb: Option<bool>,
    /// Default "true".
    pub enable_prometheus: Option<BoolText>,
    /// Whether ports that another process holds are found out. Default "true".
    pub enable_portprobe: Option<BoolText>,
    /// Default "true".
    #[serde(rename = "enableIPV6", alias = "enableIPv6", alias = "enableIpv6")]
    pub enable_ipv6: Option<BoolText>,
    /// Default "true".
    #[serde(rename = "enableHTTP2", alias = "enableHttp2")]
    pub enable_http2: Option<BoolText>,
    /// Default "true".
    pub enable_gzip: Option<BoolText>,
    /// Whether Ingresses are served. Default "true".
    pub enable_ingress: Option<BoolText>,
    /// Whether endpoints of other clusters (submariner) count. Default "false".
    pub enable_cross_clusters: Option<BoolText>,
    /// Default 1936.
    pub metrics_port: Option<u16>,
    /// Port of Ingresses without TLS. Default 80; 0: none.
    #[serde(rename = "ingressHTTPPort")]
    pub ingress_http_port: Option<u16>,
    /// Port of Ingresses with TLS. Default 443; 0: none.
    #[serde(rename = "ingressHTTPSPort")]
    pub ingress_https_port: Option<u16>,
    /// Send every request at the port of Ingresses without TLS to HTTPS. Default false.
    #[serde(rename = "ingressSSLRedirect")]
    pub ingress_ssl_redirect: Option<bool>,
    /// `namespace/name` of the TLS Secret for hosts that have none.
    #[serde(
        default,
        rename = "defaultSSLCert",
        deserialize_with = "certificate",
        serialize_with = "write_certificate"
    )]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub default_ssl_cert: Option<NamespacedName>,
    /// Which hosts without a certificate get HTTPS: `Never` (default), `Always`, `Request`, `Both`.
    #[serde(rename = "defaultSSLStrategy")]
    pub default_ssl_strategy: Option<SslStrategy>,
    /// Whether the IngressClass is the default one. Default false.
    pub default_ingress_class: Option<bool>,
    /// Without effect.
    pub loadbalancer_type: Option<String>,
    /// Without effect.
    pub ingress_controller: Option<String>,
    /// Default false.
    pub enable_go_monitor: Option<bool>,
    /// Default 1937.
    pub go_monitor_port: Option<u16>,
    /// Default false.
    pub enable_profile: Option<bool>,
    /// Most threads that serve; fewer where the limit of CPU is lower. Default 8.
    pub worker_limit: Option<u32>,
    /// Connections that may wait to be accepted. Default 2048.
    pub backlog: Option<u32>,
    /// Seconds from the order to stop until it does. Default 30.
    pub max_term_seconds: Option<u32>,
    /// Seconds between two looks at the objects. Default 5.
    pub interval: Option<u32>,
    /// Seconds that a reload may take. Default 600.
    #[serde(rename = "reloadtimeout")]
    pub reload_timeout: Option<u32>,
    /// Seconds between two full rounds. Default 300.
    pub resync_period: Option<u32>,
    /// Without effect.
    pub sync_policy_interval: Option<u32>,
    /// Without effect.
    pub clean_metrics_interval: Option<u32>,
    /// Without effect: rules are not kept in a file. Default false.
    pub policy_zip: Option<bool>,
    pub gateway: Option<GatewayConfig>,
    pub resources: Option<Resources>,
    /// Projects whose Ingresses are served; `ALL_ALL`: every one. Default: none.
    #[serde(default)]
    pub projects: Vec<String>,
    /// Whether ports are given to projects, rather than the whole. Default false.
    pub enable_port_project: Option<bool>,
    /// JSON: `[{"port": "113-333", "projects": ["p"]}]`.
    pub port_projects: Option<JsonText<Vec<PortProject>>>,
    /// JSON: `{"nic": ["eth0"]}`. Default: every address.
    #[serde(rename = "bindNIC")]
    pub bind_nic: Option<JsonText<BindNic>>,
    pub overwrite: Option<Overwrite>,
    /// Whether containers cannot write to their own files. Default true.
    #[serde(rename = "readonlyFS")]
    pub readonly_fs: Option<bool>,
    pub vip: Option<Vip>,
    pub otel: Option<Otel>,
    pub modsecurity: Option<Modsecurity>,
    pub auth: Option<Auth>,
    pub timeout: Option<Timeout>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    #[default]
    Host,
    Container,
}

/// Which hosts without a certificate of their own are served by HTTPS, with the default one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum SslStrategy {
    /// None of them.
    #[default]
    #[serde(alias = "")]
    Never,
    /// All but those that refuse, by HTTPS only.
    Always,
    /// Those that ask for it, by HTTPS only.
    Request,
    /// All but those that refuse, by HTTPS and HTTP.
    Both,
}

/// The part that an ALB has in the Gateway API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GatewayConfig {
    /// Default: whether there is a mode.
    pub enable: Option<bool>,
    /// `shared` (default): every Gateway of its class; `standalone`: the one Gateway that it was made for.
    pub mode: Option<GatewayMode>,
    /// Of the class, or `name` or `name/namespace` of the one Gateway. Default: the ALB's.
    #[serde(default, deserialize_with = "filled")]
    pub name: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayMode {
    #[default]
    Shared,
    Standalone,
}

/// What the containers of a pod get: those at the top for the proxy, `alb` for the controller beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Resources {
    pub limits: Option<Amounts>,
    pub requests: Option<Amounts>,
    pub alb: Option<ContainerResources>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ContainerResources {
    pub limits: Option<Amounts>,
    pub requests: Option<Amounts>,
}

/// Amounts of a container, as text or number. "0" counts as silence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Amounts {
    #[serde(default, deserialize_with = "optional_quantity")]
    pub cpu: Option<Quantity>,
    #[serde(default, deserialize_with = "optional_quantity")]
    pub memory: Option<Quantity>,
}

/// Ports that belong to projects.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct PortProject {
    pub port: PortRange,
    #[serde(default)]
    pub projects: Vec<String>,
}

/// Network interfaces whose addresses are listened on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct BindNic {
    /// Empty: every address.
    #[serde(default)]
    pub nic: Vec<String>,
}

/// What stands in place of what the operator brings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Overwrite {
    #[serde(default)]
    pub image: Vec<ImageOverwrite>,
    #[serde(default)]
    pub configmap: Vec<ConfigMapOverwrite>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ImageOverwrite {
    /// Version of the operator; silence: any.
    #[serde(default, deserialize_with = "filled")]
    pub target: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    pub alb: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    pub nginx: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConfigMapOverwrite {
    /// Version of the operator; silence: any.
    #[serde(default, deserialize_with = "filled")]
    pub target: Option<String>,
    /// `namespace/name`.
    #[serde(default)]
    pub name: String,
}

/// The Service of type LoadBalancer in front.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Vip {
    /// Default: whether the network mode is `container`.
    pub enable_lb_svc: Option<bool>,
    /// Default `PreferDualStack`.
    #[serde(default, deserialize_with = "filled")]
    pub lb_svc_ip_family_policy: Option<String>,
    /// Default true.
    pub allocate_load_balancer_node_ports: Option<bool>,
    #[serde(default)]
    pub lb_svc_annotations: BTreeMap<String, String>,
}

/// `status` of an ALB2.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Alb2Status {
    /// Running, Progressing, Pending or Warning.
    pub state: Option<String>,
    /// Why it is in this state.
    pub reason: Option<String>,
    /// Seconds since 1970.
    pub probe_time: Option<i64>,
    /// RFC 3339.
    pub probe_time_str: Option<String>,
    pub detail: StatusDetail,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct StatusDetail {
    pub deploy: DeployStatus,
    pub alb: PortsStatus,
    pub address: AddressStatus,
    pub version: VersionStatus,
}

/// What became of its pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct DeployStatus {
    pub state: Option<String>,
    pub reason: Option<String>,
    /// RFC 3339.
    pub probe_time_str: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct PortsStatus {
    /// By protocol and port, as `tcp-80`.
    pub portstatus: BTreeMap<String, PortStatus>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct PortStatus {
    /// Whether another process holds the port.
    pub conflict: bool,
    pub msg: String,
    /// RFC 3339.
    pub probe_time_str: Option<String>,
}

/// Addresses that its load balancer was given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct AddressStatus {
    pub ok: bool,
    pub msg: String,
    pub ipv4: Vec<String>,
    pub ipv6: Vec<String>,
    pub host: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct VersionStatus {
    pub version: String,
    /// `not patch`, or `patched,alb: X,nginx: Y`.
    pub image_patch: String,
}

#[cfg(test)]
mod tests;
