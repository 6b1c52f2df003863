//! What the proxy is told besides Services.

use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::nat::{Family, KeepClient, NodeRules};
use ipnet::IpNet;

/// Annotation of a Service that beats [`Options::keep`]: `preserve`, `preserve-direct` or `masquerade`.
pub const SOURCE_IP_ANNOTATION: &str = "headwater.dev/source-ip";

/// What is known of the node that the rules are for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// `metadata.name` of the Node, as slices name it.
    pub name: Arc<str>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// `status.addresses` of type InternalIP, at most one of each family counts.
    pub primary: Vec<IpAddr>,
    /// Every address of the node's interfaces.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

/// At which addresses of the node NodePorts are reached; never at loopback.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The first of each family in [`NodeFacts::primary`].
    #[default]
    Primary,
    /// Those of [`NodeFacts::addresses`] that one of these ranges contains.
    Within(Vec<IpNet>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub node: NodeFacts,
    pub node_port_addresses: NodePortAddresses,
    /// Addresses of pods. Empty: nobody is masqueraded for coming from outside the cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// Addresses that Services are given.
    pub service_cidrs: Vec<IpNet>,
    /// Masquerade everything that goes to a cluster IP.
    pub masquerade_all: bool,
    pub keep: KeepClient,
}

impl Options {
    pub(crate) fn node_rules(&self) -> NodeRules {
        let usable = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
        let mut node_port_addresses: Vec<IpAddr> = match &self.node_port_addresses {
            NodePortAddresses::Primary => [Family::V4, Family::V6]
                .into_iter()
                .filter_map(|family| self.node.primary.iter().find(|address| Family::of(**address) == family))
                .filter(|address| usable(address))
                .copied()
                .collect(),
            NodePortAddresses::Within(ranges) => {
                let within = |address: &IpAddr| ranges.iter().any(|range| range.contains(address));
                self.node.addresses.iter().filter(|address| usable(address) && within(address)).copied().collect()
            }
        };
        node_port_addresses.sort();
        node_port_addresses.dedup();
        NodeRules {
            node_port_addresses,
            service_cidrs: self.service_cidrs.clone(),
            cluster_cidrs: self.cluster_cidrs.clone(),
            pod_cidrs: self.node.pod_cidrs.clone(),
        }
    }
}
