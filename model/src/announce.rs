//! Addresses of load balancers, and which nodes may announce them how: what ARP, NDP and BGP have in common.
//!
//! Shape: one [`Vip`] for each address of each Service of type LoadBalancer that some pool has, in the order of Services
//! and addresses. What many have in common is shared. Who is alive stands nowhere here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::metallb::community::CommunityRef;
use crate::origin::{NamespacedName, Origin};

/// Names of nodes.
pub type NodeNames = BTreeSet<Arc<str>>;

/// Everything that may be announced.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Announcements {
    pub vips: Vec<Arc<Vip>>,
    /// Nodes that may announce nothing, and why.
    pub silent_nodes: BTreeMap<Arc<str>, Silence>,
    /// Networks of the pods of this node. Nothing is announced on an interface that has an address of them.
    pub pod_networks: Vec<IpNet>,
}

/// An address that a Service is reached at from outside.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Vip {
    pub address: IpAddr,
    /// The Service.
    pub origin: Origin,
    /// Text of the first address of the Service, by which its announcer is elected on layer 2; of a shared address that of
    /// the first Service by name.
    pub first: Arc<str>,
    /// Name of the IPAddressPool that has it.
    pub pool: Arc<str>,
    /// `externalTrafficPolicy: Local`: only nodes with an endpoint announce it.
    pub is_local: bool,
    /// Whether any endpoint is there that serves.
    pub is_served: bool,
    /// Where such endpoints are.
    pub serving: Arc<NodeNames>,
    /// Nodes that may announce it on layer 2, by name, or why nobody may.
    pub l2: Result<Arc<[L2Candidate]>, Silence>,
    /// Ways to announce it by BGP, by name.
    pub bgp: Vec<Arc<BgpOffer>>,
}

/// A node that may announce an address on layer 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct L2Candidate {
    pub node: Arc<str>,
    /// Sum of the weights of the preferences that it fulfils.
    pub weight: i64,
    /// Interfaces that it announces on; `None`: all that can be used.
    pub interfaces: Option<Arc<BTreeSet<Arc<str>>>>,
}

/// One BGPAdvertisement, as it is for one address.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpOffer {
    /// The BGPAdvertisement.
    pub advertisement: NamespacedName,
    /// What is announced: the address, or the network around it that aggregation makes of it.
    pub prefix: IpNet,
    pub local_preference: Option<u32>,
    /// As written: names are still to be looked up.
    #[serde(serialize_with = "texts")]
    pub communities: Vec<CommunityRef>,
    /// Names of BGPPeers; empty: all.
    pub peers: Vec<String>,
    /// Nodes that its selectors choose, whatever their condition.
    pub nodes: Arc<NodeNames>,
}

fn texts<S: Serializer>(communities: &[CommunityRef], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(communities.iter().map(ToString::to_string))
}

/// Why an address is not announced, or not by a node. The words are MetalLB's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Silence {
    /// No endpoint serves anywhere.
    NoEndpoints,
    /// Under externalTrafficPolicy Local no endpoint serves on this node.
    NoLocalEndpoints,
    /// No advertisement is for its pool, its Service and this node.
    NoMatchingAdvertisement,
    /// The Node says NetworkUnavailable.
    NodeNetworkUnavailable,
    /// The Node has the label `node.kubernetes.io/exclude-from-external-load-balancers`.
    NodeLabeledExcludeBalancers,
    /// Another node announces it.
    NotOwner,
    /// Several Services have the address, and all advertisements choose by labels of Services.
    #[serde(rename = "sharedIPWithServiceSelector")]
    SharedIpWithServiceSelector,
}

impl Silence {
    /// As MetalLB writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoEndpoints => "noEndpoints",
            Self::NoLocalEndpoints => "noLocalEndpoints",
            Self::NoMatchingAdvertisement => "noMatchingAdvertisement",
            Self::NodeNetworkUnavailable => "nodeNetworkUnavailable",
            Self::NodeLabeledExcludeBalancers => "nodeLabeledExcludeBalancers",
            Self::NotOwner => "notOwner",
            Self::SharedIpWithServiceSelector => "sharedIPWithServiceSelector",
        }
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Vip {
    /// Whether a node has what the Service's policy asks for, whatever its own condition is.
    ///
    /// # Errors
    /// Which endpoints are missing.
    pub fn can_be_served_by(&self, node: &str) -> Result<(), Silence> {
        match (self.is_served, self.is_local) {
            (false, _) => Err(Silence::NoEndpoints),
            (true, true) if !self.serving.contains(node) => Err(Silence::NoLocalEndpoints),
            (true, _) => Ok(()),
        }
    }
}

impl Announcements {
    /// Which ways of BGP an address goes from a node, or why it goes none.
    ///
    /// # Errors
    /// The first thing that is in the way.
    pub fn bgp_of<'a>(&self, vip: &'a Vip, node: &str) -> Result<Vec<&'a Arc<BgpOffer>>, Silence> {
        if let Some(silence) = self.silent_nodes.get(node) {
            return Err(*silence);
        }
        vip.can_be_served_by(node)?;
        let offers: Vec<_> = vip.bgp.iter().filter(|offer| offer.nodes.contains(node)).collect();
        if offers.is_empty() { Err(Silence::NoMatchingAdvertisement) } else { Ok(offers) }
    }
}
