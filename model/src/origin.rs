//! Names of Kubernetes objects, and where an entry of a snapshot came from.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The kinds of object that Headwater reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Kind {
    Namespace,
    Service,
    EndpointSlice,
    Secret,
    ConfigMap,
    IngressClass,
    Ingress,
    GatewaySettings,
    Node,
    /// Of Alauda's ALB, as are the three below.
    Alb2,
    Frontend,
    Rule,
    TimeoutPolicy,
    /// Of MetalLB, as are the ones below.
    IpAddressPool,
    L2Advertisement,
    Community,
    BfdProfile,
    BgpPeer,
    BgpAdvertisement,
    ServiceL2Status,
    ServiceBgpStatus,
    ConfigurationState,
}

impl Kind {
    /// Every kind, in the order in which references point: later kinds refer to earlier ones.
    pub const ALL: [Self; 22] = [
        Self::Namespace,
        Self::Node,
        Self::Secret,
        Self::ConfigMap,
        Self::Service,
        Self::EndpointSlice,
        Self::GatewaySettings,
        Self::IngressClass,
        Self::Ingress,
        Self::Alb2,
        Self::Frontend,
        Self::Rule,
        Self::TimeoutPolicy,
        Self::IpAddressPool,
        Self::L2Advertisement,
        Self::Community,
        Self::BfdProfile,
        Self::BgpPeer,
        Self::BgpAdvertisement,
        Self::ServiceL2Status,
        Self::ServiceBgpStatus,
        Self::ConfigurationState,
    ];

    /// The `kind` as written in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::IngressClass => "IngressClass",
            Self::Ingress => "Ingress",
            Self::GatewaySettings => "GatewaySettings",
            Self::Node => "Node",
            Self::Alb2 => "ALB2",
            Self::Frontend => "Frontend",
            Self::Rule => "Rule",
            Self::TimeoutPolicy => "TimeoutPolicy",
            Self::IpAddressPool => "IPAddressPool",
            Self::L2Advertisement => "L2Advertisement",
            Self::Community => "Community",
            Self::BfdProfile => "BFDProfile",
            Self::BgpPeer => "BGPPeer",
            Self::BgpAdvertisement => "BGPAdvertisement",
            Self::ServiceL2Status => "ServiceL2Status",
            Self::ServiceBgpStatus => "ServiceBGPStatus",
            Self::ConfigurationState => "ConfigurationState",
        }
    }

    /// The `apiVersion` under which Headwater reads the kind.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Service | Self::Secret | Self::ConfigMap | Self::Node => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::Ingress | Self::IngressClass => "networking.k8s.io/v1",
            Self::GatewaySettings => "headwater.dev/v1alpha1",
            Self::Alb2 => "crd.alauda.io/v2beta1",
            Self::Frontend | Self::Rule => "crd.alauda.io/v1",
            Self::TimeoutPolicy => "gateway.crd.alauda.io/v1alpha1",
            Self::BgpPeer => "metallb.io/v1beta2",
            Self::IpAddressPool
            | Self::L2Advertisement
            | Self::Community
            | Self::BfdProfile
            | Self::BgpAdvertisement
            | Self::ServiceL2Status
            | Self::ServiceBgpStatus
            | Self::ConfigurationState => "metallb.io/v1beta1",
        }
    }

    /// Other versions of its API that manifests may be written in.
    pub fn other_api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Alb2 => &["crd.alauda.io/v2", "crd.alauda.io/v1"],
            Self::BgpPeer => &["metallb.io/v1beta1"],
            _ => &[],
        }
    }

    /// Whether objects of the kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::IngressClass | Self::Node)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Namespace and name of an object whose kind is known from the context.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamespacedName {
    /// Empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl NamespacedName {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Reads `namespace/name`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        (!namespace.is_empty() && !name.is_empty() && !name.contains('/')).then(|| Self::new(namespace, name))
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// One object among all: kind, namespace, name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    pub kind: Kind,
    #[serde(flatten)]
    pub id: NamespacedName,
}

impl ObjectKey {
    pub fn new(kind: Kind, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { kind, id: NamespacedName::new(namespace, name) }
    }
}

impl fmt::Display for ObjectKey {
    /// `Ingress shop/web`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)
    }
}

/// The object, and the generation of its spec, that an entry of a snapshot was derived from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    #[serde(flatten)]
    pub key: ObjectKey,
    /// `metadata.generation`; 0 for manifests in a directory.
    pub generation: i64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)
    }
}
