//! Kubernetes objects as users wrote them: the fields that Headwater uses, and [`Ignored`] for those it knows of.
//!
//! A field that stands in neither form is unknown to the API and is reported by the reader.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::settings::GatewaySettingsSpec;

/// A field of the API that Headwater knows and does not need.
///
/// Unlike [`IgnoredAny`] it does not count as ignored for a reader that reports unknown fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Swallow;
        impl<'de> Visitor<'de> for Swallow {
            type Value = Ignored;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("anything")
            }
            fn visit_bool<E>(self, _: bool) -> Result<Ignored, E> {
                Ok(Ignored)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Ignored, E> {
                Ok(Ignored)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Ignored, E> {
                Ok(Ignored)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Ignored, E> {
                Ok(Ignored)
            }
            fn visit_str<E>(self, _: &str) -> Result<Ignored, E> {
                Ok(Ignored)
            }
            fn visit_unit<E>(self) -> Result<Ignored, E> {
                Ok(Ignored)
            }
            fn visit_none<E>(self) -> Result<Ignored, E> {
                Ok(Ignored)
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Ignored, D::Error> {
                Ignored::deserialize(deserializer)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Ignored, A::Error> {
                while seq.next_element::<Ignored>()?.is_some() {}
                Ok(Ignored)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ignored, A::Error> {
                while map.next_entry::<IgnoredAny, Ignored>()?.is_some() {}
                Ok(Ignored)
            }
        }
        deserializer.deserialize_any(Swallow)
    }
}

/// Whether a field is given, whatever it says; `null` is as good as none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given(pub bool);

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Option::<Ignored>::deserialize(deserializer)?.is_some()))
    }
}

/// `metadata` of every object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub name: Arc<str>,
    /// Empty for cluster-scoped kinds; readers fill in `default` where a manifest is silent.
    #[serde(default)]
    pub namespace: Arc<str>,
    #[serde(default)]
    pub generation: i64,
    /// RFC 3339; orders conflicts. Manifests in a directory may set it; without it an object counts as youngest.
    #[serde(default)]
    pub creation_timestamp: Option<jiff::Timestamp>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub uid: Ignored,
    #[serde(default)]
    pub resource_version: Ignored,
    #[serde(default)]
    pub managed_fields: Ignored,
    #[serde(default)]
    pub owner_references: Ignored,
    #[serde(default)]
    pub finalizers: Ignored,
    #[serde(default)]
    pub generate_name: Ignored,
    #[serde(default)]
    pub self_link: Ignored,
    #[serde(default)]
    pub deletion_timestamp: Given,
    #[serde(default)]
    pub deletion_grace_period_seconds: Ignored,
}

/// How objects of these types are named: the type has `metadata`, and its kind the same name.
macro_rules! keyed {
    ($($name:ident)*) => {$(
        impl $name {
            pub fn key(&self) -> $crate::origin::ObjectKey {
                $crate::origin::ObjectKey { kind: $crate::origin::Kind::$name, id: self.id() }
            }

            pub fn id(&self) -> $crate::origin::NamespacedName {
                $crate::origin::NamespacedName { namespace: self.metadata.namespace.clone(), name: self.metadata.name.clone() }
            }

            pub fn origin(&self) -> $crate::origin::Origin {
                $crate::origin::Origin { key: self.key(), generation: self.metadata.generation }
            }
        }
    )*};
}
pub(crate) use keyed;

macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($body:tt)* }) => {
        object! { $(#[$doc])* $name, status Ignored { $($body)* } }
    };
    ($(#[$doc:meta])* $name:ident, status $status:ty { $($(#[$attr:meta])* $field:ident : $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            #[serde(default)]
            pub api_version: Ignored,
            #[serde(default)]
            pub kind: Ignored,
            pub metadata: Metadata,
            #[serde(default)]
            pub status: $status,
            $($(#[$attr])* pub $field: $type,)*
        }

        keyed! { $name }
    };
}

object! {
    /// `v1` Namespace.
    Namespace {
        #[serde(default)]
        spec: Ignored,
    }
}

object! {
    /// `v1` Service.
    Service, status ServiceStatus {
        #[serde(default)]
        spec: ServiceSpec,
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Default ClusterIP.
    #[serde(default, rename = "type")]
    pub service_type: ServiceType,
    /// `None` (the word) for a headless Service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(default, rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    pub external_name: Option<String>,
    #[serde(default)]
    pub publish_not_ready_addresses: bool,
    pub external_traffic_policy: Option<String>,
    pub internal_traffic_policy: Option<String>,
    #[serde(default, rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// Labels of its pods; empty: its slices are made by somebody else. Few readers keep it: see `slim` there.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// `None` (the word, default) or `ClientIP`.
    pub session_affinity: Option<String>,
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// The address that is wanted; deprecated, as it has no room for two.
    #[serde(rename = "loadBalancerIP")]
    pub load_balancer_ip: Option<String>,
    /// CIDRs that may speak to the addresses in `status.loadBalancer.ingress`; empty: all.
    #[serde(default)]
    pub load_balancer_source_ranges: Vec<String>,
    /// Whose controller gives it an address; silence: the default one's.
    pub load_balancer_class: Option<String>,
    #[serde(default)]
    pub allocate_load_balancer_node_ports: Ignored,
    pub health_check_node_port: Option<u16>,
    /// API servers fill it in: the families of `clusterIPs`, in their order.
    #[serde(default)]
    pub ip_families: Vec<IpFamily>,
    pub ip_family_policy: Option<IpFamilyPolicy>,
    #[serde(default)]
    pub traffic_distribution: Ignored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub enum IpFamily {
    IPv4,
    IPv6,
}

/// How many families a Service wants; default: one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum IpFamilyPolicy {
    SingleStack,
    PreferDualStack,
    RequireDualStack,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientIpConfig {
    /// Seconds, 1 to 86400; default 10800.
    pub timeout_seconds: Option<i32>,
}

/// What a load balancer's controller says of a Service. Readers of an API server leave it out: see `slim` there.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    #[serde(default)]
    pub load_balancer: LoadBalancerStatus,
    #[serde(default)]
    pub conditions: Ignored,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct LoadBalancerStatus {
    #[serde(default)]
    pub ingress: Vec<LoadBalancerIngress>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerIngress {
    pub ip: Option<String>,
    pub hostname: Option<String>,
    /// `VIP` (default): packets arrive with this address, and nodes take them. `Proxy`: they do not (KEP-1860).
    pub ip_mode: Option<String>,
    #[serde(default)]
    pub ports: Ignored,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    pub name: Option<String>,
    pub port: u16,
    /// `TCP` (default), `UDP`, `SCTP`.
    pub protocol: Option<String>,
    /// Number or name; default: `port`.
    pub target_port: Option<IntOrString>,
    /// `kubernetes.io/h2c`, `https`, ... (KEP-3726).
    pub app_protocol: Option<String>,
    /// 0 and silence: none.
    pub node_port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    Int(u16),
    String(String),
}

object! {
    /// `discovery.k8s.io/v1` EndpointSlice. The Service is named by label `kubernetes.io/service-name`.
    EndpointSlice {
        address_type: AddressType,
        #[serde(default)]
        endpoints: Vec<SliceEndpoint>,
        #[serde(default)]
        ports: Vec<EndpointPort>,
    }
}

/// The label that names a slice's Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The label of slices of a Service without an address.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// The label that leaves a Service to another proxy.
pub const SERVICE_PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum AddressType {
    #[default]
    IPv4,
    IPv6,
    FQDN,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    /// At least one; the first is the endpoint (the others are the same one by other names).
    pub addresses: Vec<String>,
    #[serde(default)]
    pub conditions: EndpointConditions,
    pub node_name: Option<Arc<str>>,
    #[serde(default)]
    pub zone: Ignored,
    #[serde(default)]
    pub hostname: Ignored,
    #[serde(default)]
    pub target_ref: Ignored,
    /// Shared: many endpoints have the same.
    pub hints: Option<Arc<EndpointHints>>,
    #[serde(default)]
    pub deprecated_topology: Ignored,
}

/// Where an endpoint should be used from (KEP-2433, KEP-3015). Both silent: from everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointHints {
    #[serde(default)]
    pub for_zones: Vec<HintFor>,
    #[serde(default)]
    pub for_nodes: Vec<HintFor>,
}

/// Name of a zone or a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
pub struct HintFor {
    pub name: String,
}

/// Silent means: ready true, serving as ready, terminating false.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct EndpointConditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPort {
    pub name: Option<String>,
    pub port: Option<u16>,
    pub protocol: Option<String>,
    pub app_protocol: Option<String>,
}

object! {
    /// `v1` Secret; `data` is decoded and `stringData` merged over it by the reader.
    Secret {
        #[serde(default, rename = "type")]
        secret_type: String,
        #[serde(default)]
        data: BTreeMap<String, Base64Bytes>,
        #[serde(default)]
        string_data: BTreeMap<String, SecretText>,
        #[serde(default)]
        immutable: Ignored,
    }
}

impl Secret {
    /// The bytes under a key; `stringData` wins over `data`, as in the API server.
    pub fn bytes(&self, key: &str) -> Option<&[u8]> {
        self.string_data.get(key).map(|text| text.0.as_bytes()).or_else(|| self.data.get(key).map(|b| &b.0[..]))
    }

    /// Every key with its bytes, sorted by key.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let data = self.data.iter().map(|(key, bytes)| (key.as_str(), &bytes.0[..]));
        let text = self.string_data.iter().map(|(key, text)| (key.as_str(), text.0.as_bytes()));
        data.chain(text).collect::<BTreeMap<_, _>>().into_iter()
    }
}

/// Bytes written in base64 (RFC 4648, with padding); never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Base64Bytes(pub Vec<u8>);

impl<'de> Deserialize<'de> for Base64Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        let text = String::deserialize(deserializer)?;
        let packed: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        // The value is a secret: the error does not quote it.
        base64::engine::general_purpose::STANDARD
            .decode(packed)
            .map(Self)
            .map_err(|_| serde::de::Error::custom("not base64 (plain text belongs under stringData)"))
    }
}

impl std::fmt::Debug for Base64Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("redacted")
    }
}

/// Text of a Secret; never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("redacted")
    }
}

object! {
    /// `v1` ConfigMap.
    ConfigMap {
        #[serde(default)]
        data: BTreeMap<String, String>,
        #[serde(default)]
        binary_data: Ignored,
        #[serde(default)]
        immutable: Ignored,
    }
}

object! {
    /// `networking.k8s.io/v1` IngressClass.
    IngressClass {
        #[serde(default)]
        spec: IngressClassSpec,
    }
}

/// The annotation of the default class.
pub const DEFAULT_CLASS_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct IngressClassSpec {
    pub controller: Option<String>,
    pub parameters: Option<IngressClassParameters>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressClassParameters {
    pub api_group: Option<String>,
    pub kind: String,
    pub name: String,
    pub namespace: Option<String>,
    /// `Cluster` (default) or `Namespace`.
    pub scope: Option<String>,
}

object! {
    /// `networking.k8s.io/v1` Ingress.
    Ingress {
        #[serde(default)]
        spec: IngressSpec,
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressSpec {
    pub ingress_class_name: Option<String>,
    pub default_backend: Option<IngressBackend>,
    #[serde(default)]
    pub tls: Vec<IngressTls>,
    #[serde(default)]
    pub rules: Vec<IngressRule>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressTls {
    #[serde(default)]
    pub hosts: Vec<String>,
    pub secret_name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct IngressRule {
    pub host: Option<String>,
    pub http: Option<HttpIngressRuleValue>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct HttpIngressRuleValue {
    pub paths: Vec<HttpIngressPath>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpIngressPath {
    pub path: Option<String>,
    pub path_type: Option<PathType>,
    pub backend: IngressBackend,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum PathType {
    Exact,
    Prefix,
    ImplementationSpecific,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct IngressBackend {
    pub service: Option<IngressServiceBackend>,
    pub resource: Option<TypedLocalReference>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct IngressServiceBackend {
    pub name: String,
    pub port: Option<ServiceBackendPort>,
}

/// Exactly one of the two.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ServiceBackendPort {
    pub name: Option<String>,
    pub number: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TypedLocalReference {
    pub api_group: Option<String>,
    pub kind: String,
    pub name: String,
}

object! {
    /// `headwater.dev/v1alpha1` GatewaySettings.
    GatewaySettings {
        #[serde(default)]
        spec: GatewaySettingsSpec,
    }
}

object! {
    /// `v1` Node.
    Node, status NodeStatus {
        #[serde(default)]
        spec: NodeSpec,
    }
}

/// The label that names a Node's zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// The first of [`Self::pod_cidrs`]; alone where nobody gives out more.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    /// Ranges of the node's pods, at most one of each family. Empty where the network gives out addresses by itself.
    #[serde(default, rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    #[serde(default, rename = "providerID")]
    pub provider_id: Ignored,
    #[serde(default)]
    pub unschedulable: Ignored,
    #[serde(default)]
    pub taints: Vec<Taint>,
    #[serde(default)]
    pub config_source: Ignored,
    #[serde(default, rename = "externalID")]
    pub external_id: Ignored,
}

/// Key of the [`Taint`] by which the cluster autoscaler says that it is about to delete a Node.
pub const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    pub key: String,
    #[serde(default)]
    pub value: Ignored,
    #[serde(default)]
    pub effect: Ignored,
    #[serde(default)]
    pub time_added: Ignored,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    #[serde(default)]
    pub addresses: Vec<NodeAddress>,
    #[serde(default)]
    pub capacity: Ignored,
    #[serde(default)]
    pub allocatable: Ignored,
    #[serde(default)]
    pub phase: Ignored,
    /// Of a server's Nodes, [`NETWORK_UNAVAILABLE`] alone is kept, and that for few readers: see `slim` there.
    #[serde(default)]
    pub conditions: Vec<NodeCondition>,
    #[serde(default)]
    pub daemon_endpoints: Ignored,
    #[serde(default)]
    pub node_info: Ignored,
    #[serde(default)]
    pub images: Ignored,
    #[serde(default)]
    pub volumes_in_use: Ignored,
    #[serde(default)]
    pub volumes_attached: Ignored,
    #[serde(default)]
    pub config: Ignored,
    #[serde(default)]
    pub runtime_handlers: Ignored,
    #[serde(default)]
    pub features: Ignored,
    #[serde(default)]
    pub declared_features: Ignored,
}

/// The condition of a Node whose network is not set up.
pub const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";

/// The label of Nodes that external load balancers leave out, whatever its value.
pub const EXCLUDE_BALANCERS_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A condition of a Node: its type and whether it holds (`True`, `False`, `Unknown`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCondition {
    #[serde(rename = "type")]
    pub condition_type: String,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub last_heartbeat_time: Ignored,
    #[serde(default)]
    pub last_transition_time: Ignored,
    #[serde(default)]
    pub observed_generation: Ignored,
    #[serde(default)]
    pub reason: Ignored,
    #[serde(default)]
    pub message: Ignored,
}

impl Node {
    /// Whether it says that its network is not set up.
    pub fn is_network_unavailable(&self) -> bool {
        let conditions = &self.status.conditions;
        conditions.iter().any(|found| found.condition_type == NETWORK_UNAVAILABLE && found.status == "True")
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, `InternalDNS`, `ExternalDNS`.
    #[serde(rename = "type")]
    pub address_type: String,
    pub address: String,
}

/// [`NodeAddress::address_type`] of addresses that nodes reach each other by.
pub const INTERNAL_IP: &str = "InternalIP";
