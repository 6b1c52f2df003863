//! What a node does with packets to Services: the snapshot of the service proxy.
//!
//! Everything here is about one node; another node derives another snapshot of the same objects.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::fnv::fnv1a_32;
use crate::origin::{NamespacedName, Origin};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Protocol of a Service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    /// As in a manifest; silence is TCP.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// Number of an endpoint within one Service port and family, 1 to 65535. An endpoint keeps it while any slice has it,
/// whether it is ready or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Slot(pub u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum EndpointState {
    Ready,
    /// Serves still while it terminates: used when none is ready (KEP-1669).
    Draining,
    /// Not used.
    Idle,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NatEndpoint {
    pub slot: Slot,
    pub address: SocketAddr,
    pub node: Option<Arc<str>>,
    /// On this node.
    pub local: bool,
    pub state: EndpointState,
    /// Whether established UDP flows to it may stay.
    pub serving: bool,
}

/// Which of a port's endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Set {
    /// [`PortRules::cluster`].
    Cluster,
    /// [`PortRules::local`].
    Local,
}

/// When a forwarded packet gets this node's address as its source. A packet whose source is the chosen endpoint itself
/// (hairpin) does always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Masquerade {
    HairpinOnly,
    /// When the source is outside [`NodeRules::cluster_cidrs`].
    OffCluster,
    /// Unless it goes with its source to the endpoint's node, by [`PortRules::nodes`].
    UnlessKept,
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Verdict {
    /// To one of the set, which is not empty.
    Forward { set: Set, masquerade: Masquerade },
    /// No endpoint anywhere: TCP RST, otherwise ICMP port unreachable.
    Reject,
    /// There are endpoints, but none that the policy allows.
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum FrontendAddress {
    ClusterIp(SocketAddr),
    LoadBalancer(SocketAddr),
    ExternalIp(SocketAddr),
    /// At each of [`NodeRules::node_port_addresses`] of the family.
    NodePort(u16),
}

/// One address and port at which a Service port is reached, and what becomes of packets by where they come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Frontend {
    pub address: FrontendAddress,
    /// From other hosts.
    pub remote: Verdict,
    /// From pods of this node.
    pub pods: Verdict,
    /// From this node itself, and pods in its network.
    pub node: Verdict,
    /// Who may send; others are dropped before all else. `None`: everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<Arc<SourceRanges>>,
}

/// `loadBalancerSourceRanges`, of the frontend's family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceRanges {
    pub allowed: Vec<IpNet>,
    /// Packets whose source is the frontend's own address too: the node's own, where it holds that address.
    pub itself: bool,
}

impl SourceRanges {
    pub fn admits(&self, source: IpAddr, frontend: IpAddr) -> bool {
        (self.itself && source == frontend) || self.allowed.iter().any(|range| range.contains(&source))
    }
}

/// What the endpoint sees of clients that come to another node, under `externalTrafficPolicy: Cluster`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
pub enum KeepClient {
    /// The client; replies go back through the node that it came to.
    #[default]
    ViaIngress,
    /// The client; replies go to it directly.
    Direct,
    /// The node that the client came to, as with kube-proxy.
    Masquerade,
}

/// Which node takes a flow: place `hash * places.len() >> 32` of [`Self::places`] is an index into [`Self::nodes`], with a
/// hash of 32 bits. The number of places is a power of two.
///
/// Nodes that see the same endpoints in the same state make the same table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeTable {
    /// In order of names.
    pub nodes: Arc<[NodeShare]>,
    #[serde(skip)]
    pub places: Box<[u16]>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct NodeShare {
    /// `None`: endpoints of which no node is known; the receiving node forwards to them itself.
    pub node: Option<Arc<str>>,
    /// Number of endpoints there, not 0.
    pub weight: u32,
}

/// One port of a Service in one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortRules {
    /// Empty for the only port of a Service.
    pub name: Arc<str>,
    pub port: u16,
    pub protocol: Transport,
    pub family: Family,
    /// Every endpoint that lives, in order of slots.
    pub endpoints: Arc<[NatEndpoint]>,
    /// Where packets go that any endpoint may take; sorted.
    pub cluster: Arc<[Slot]>,
    /// Where packets go that must stay on this node, or that another node sent here to be translated; sorted.
    pub local: Arc<[Slot]>,
    /// Those that no older Service claims.
    pub frontends: Arc<[Frontend]>,
    /// `ClientIP`: seconds for which a client's endpoint is remembered, from its last connection.
    pub affinity: Option<u32>,
    pub keep: KeepClient,
    /// Where some frontend says [`Masquerade::UnlessKept`].
    pub nodes: Option<Arc<NodeTable>>,
}

impl PortRules {
    pub fn set(&self, set: Set) -> &[Slot] {
        match set {
            Set::Cluster => &self.cluster,
            Set::Local => &self.local,
        }
    }

    pub fn endpoint(&self, slot: Slot) -> Option<&NatEndpoint> {
        let at = self.endpoints.binary_search_by_key(&slot, |endpoint| endpoint.slot).ok()?;
        self.endpoints.get(at)
    }
}

/// `healthCheckNodePort` of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    pub port: u16,
    /// Addresses of ready endpoints on this node, told to who asks at an IPv4 address.
    pub local_v4: u32,
    /// The same for IPv6.
    pub local_v6: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceRules {
    pub origin: Origin,
    /// At these, ports that no frontend has are rejected.
    pub cluster_ips: Arc<[IpAddr]>,
    pub ports: Arc<[Arc<PortRules>]>,
    pub health: Option<HealthCheck>,
}

/// What holds for every Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NodeRules {
    pub node_port_addresses: Vec<IpAddr>,
    /// At these, addresses that no Service has are dropped.
    pub service_cidrs: Vec<IpNet>,
    /// Pods of the cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// Pods of this node. In a family without one, [`Self::cluster_cidrs`] stand for them.
    pub pod_cidrs: Vec<IpNet>,
}

impl NodeRules {
    /// Ranges of the family whose packets count as sent by pods of this node.
    pub fn local_pods(&self, family: Family) -> impl Iterator<Item = &IpNet> {
        let of = move |range: &&IpNet| Family::of(range.addr()) == family;
        let ranges = if self.pod_cidrs.iter().any(|range| of(&range)) { &self.pod_cidrs } else { &self.cluster_cidrs };
        ranges.iter().filter(of)
    }

    /// Whether a packet from there counts as sent by a pod of this node.
    pub fn is_local_pod(&self, source: IpAddr) -> bool {
        self.local_pods(Family::of(source)).any(|range| range.contains(&source))
    }
}

type Shard = BTreeMap<NamespacedName, Arc<ServiceRules>>;

/// All Services, as one node proxies them. Unchanged parts are the same pointers as in the snapshot before.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSnapshot {
    pub generation: u64,
    pub node: Arc<NodeRules>,
    /// By a hash of the name, so that a change copies few entries.
    shards: Box<[Arc<Shard>]>,
}

/// A copy of the snapshot with one Service changed costs this many pointers, and one shard.
const SHARDS: usize = 256;

impl Default for ServiceSnapshot {
    fn default() -> Self {
        let empty = Arc::new(Shard::new());
        Self { generation: 0, node: Arc::default(), shards: vec![empty; SHARDS].into() }
    }
}

impl ServiceSnapshot {
    pub fn get(&self, id: &NamespacedName) -> Option<&Arc<ServiceRules>> {
        self.shards[shard(id)].get(id)
    }

    /// In no useful order, but always the same one.
    pub fn services(&self) -> impl Iterator<Item = (&NamespacedName, &Arc<ServiceRules>)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// Services that came, went, or are other pointers than in the snapshot before. Takes a time in proportion to the
    /// shards that differ.
    pub fn changes<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a NamespacedName> {
        let differ = self.shards.iter().zip(&before.shards).filter(|(now, then)| !Arc::ptr_eq(now, then));
        differ.flat_map(|(now, then)| {
            let same = |(id, rules): (&_, &_)| then.get(id).is_some_and(|old| Arc::ptr_eq(old, rules));
            let there = now.iter().filter(move |(id, rules)| !same((*id, *rules))).map(|(id, _)| id);
            there.chain(then.keys().filter(|id| !now.contains_key(*id)))
        })
    }

    /// Replaces a Service, or takes it out.
    pub fn set(&mut self, id: &NamespacedName, rules: Option<Arc<ServiceRules>>) {
        let shard = Arc::make_mut(&mut self.shards[shard(id)]);
        match rules {
            Some(rules) => drop(shard.insert(id.clone(), rules)),
            None => drop(shard.remove(id)),
        }
    }
}

/// FNV-1a.
fn shard(id: &NamespacedName) -> usize {
    let bytes = id.namespace.bytes().chain([b'/']).chain(id.name.bytes());
    let hash = fnv1a_32(bytes);
    (hash ^ (hash >> 16)) as usize % SHARDS
}

impl Serialize for ServiceSnapshot {
    /// Services in order of their names.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Dump<'a> {
            generation: u64,
            node: &'a NodeRules,
            services: Vec<&'a ServiceRules>,
        }
        let sorted: BTreeMap<_, _> = self.services().collect();
        let services = sorted.into_values().map(|rules| &**rules).collect();
        Dump { generation: self.generation, node: &self.node, services }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::{Kind, ObjectKey};

    #[test]
    fn changes_are_the_services_that_came_went_or_are_others() {
        let rules = |name: &str| {
            let origin = Origin { key: ObjectKey::new(Kind::Service, "shop", name), generation: 1 };
            Arc::new(ServiceRules { origin, cluster_ips: [].into(), ports: [].into(), health: None })
        };
        let id = |name: &str| NamespacedName::new("shop", name);
        let mut before = ServiceSnapshot::default();
        // More than there are shards, so that some share one.
        for number in 0..SHARDS * 4 {
            before.set(&id(&number.to_string()), Some(rules("same")));
        }
        for name in ["other", "gone"] {
            before.set(&id(name), Some(rules(name)));
        }
        let mut now = before.clone();
        assert_eq!(now.changes(&before).count(), 0);
        now.set(&id("other"), Some(rules("other")));
        now.set(&id("gone"), None);
        now.set(&id("new"), Some(rules("new")));
        now.set(&id("7"), before.get(&id("7")).cloned());
        let mut changed: Vec<_> = now.changes(&before).map(|id| id.to_string()).collect();
        changed.sort();
        assert_eq!(changed, ["shop/gone", "shop/new", "shop/other"]);
    }
}
