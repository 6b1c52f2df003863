//! Which endpoints a forwarded packet may reach from a node, and how it is handled on the way to each.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use headwater_model::nat::{FrontendAddress, KeepClient, Masquerade, PortRules, Slot};
use headwater_model::tunnel::{Peers, TunnelEnd};
use headwater_service_nat::Place;

use crate::world::World;

/// Endpoints that are handled alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) endpoints: Vec<SocketAddr>,
    /// Where they are.
    pub(crate) node: Option<Arc<str>>,
    pub(crate) weight: u32,
    pub(crate) handling: Handling,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Handling {
    /// Destination translated, source kept.
    Translate,
    /// The endpoint is the source itself.
    Hairpin,
    Masquerade(Reason),
    /// Sent unchanged to the endpoints' node, which translates. `hairpin`: and masquerades.
    Tunnel {
        here: TunnelEnd,
        there: TunnelEnd,
        hairpin: bool,
    },
}

/// Why the source is the node's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// `headwater.dev/source-ip: masquerade`, or the setting.
    Wanted,
    /// The receiving node has no tunnel: to all endpoints, its own as well.
    NoTunnelHere,
    /// The endpoints' node has none, with what is wrong there if something is.
    NoTunnelThere(Option<String>),
    /// Nobody says on which node the endpoints are.
    NoNode,
    /// From outside of the cluster to a cluster IP.
    OffCluster,
    /// `--masquerade-all`.
    All,
    /// Sent by the node itself to an external address.
    FromNode,
}

/// How a packet is forwarded, as `decide` says.
pub(crate) struct Forward<'a> {
    pub(crate) node: &'a Arc<str>,
    pub(crate) world: &'a World,
    pub(crate) place: Place,
    pub(crate) source: IpAddr,
    pub(crate) rules: &'a PortRules,
    pub(crate) address: FrontendAddress,
    pub(crate) slots: &'a [Slot],
    pub(crate) masquerade: Masquerade,
    pub(crate) masquerade_all: bool,
}

impl Forward<'_> {
    /// In order of nodes. `local_of`: what a node translates to that gets the packet by tunnel.
    pub(crate) fn ways(&self, peers: &Peers, local_of: impl FnMut(&Arc<str>) -> Vec<SocketAddr>) -> Vec<Way> {
        match (self.masquerade, &self.rules.nodes, peers.own) {
            (Masquerade::UnlessKept, Some(table), Some(own)) => {
                let shares: Vec<_> = table.nodes.iter().map(|share| (share.node.clone(), share.weight)).collect();
                self.kept(&shares, own, peers, local_of)
            }
            _ => self.direct(),
        }
    }

    /// The node is chosen first, then one of its endpoints.
    fn kept(
        &self,
        shares: &[(Option<Arc<str>>, u32)],
        here: TunnelEnd,
        peers: &Peers,
        mut local_of: impl FnMut(&Arc<str>) -> Vec<SocketAddr>,
    ) -> Vec<Way> {
        let mut ways = Vec::new();
        for (name, weight) in shares {
            let of_node = || self.addresses(self.slots, |on| on == name.as_ref());
            let end = |name: &Arc<str>| peers.by_name.get(name).and_then(|peer| peer.tunnel);
            let problem = |name: &Arc<str>| peers.by_name.get(name).and_then(|peer| peer.problem.clone());
            let (endpoints, handling) = match name {
                Some(name) if name == self.node => (self.addresses(&self.rules.local, |_| true), Handling::Translate),
                Some(name) => match end(name) {
                    Some(there) => (local_of(name), Handling::Tunnel { here, there, hairpin: false }),
                    None => (of_node(), Handling::Masquerade(Reason::NoTunnelThere(problem(name)))),
                },
                None => (of_node(), Handling::Masquerade(Reason::NoNode)),
            };
            self.push(&mut ways, name.clone(), endpoints, handling, *weight);
        }
        ways
    }

    /// One of all endpoints is chosen here.
    fn direct(&self) -> Vec<Way> {
        let mut by_node: BTreeMap<Option<&Arc<str>>, Vec<SocketAddr>> = BTreeMap::new();
        for endpoint in self.slots.iter().filter_map(|slot| self.rules.endpoint(*slot)) {
            by_node.entry(endpoint.node.as_ref()).or_default().push(endpoint.address);
        }
        let handling = match self.masquerade {
            // As long as there is no tunnel, endpoints of the node itself are no exception.
            Masquerade::UnlessKept => Handling::Masquerade(Reason::NoTunnelHere),
            Masquerade::Always => Handling::Masquerade(match (self.address, self.place) {
                (FrontendAddress::ClusterIp(_), _) if self.masquerade_all => Reason::All,
                (FrontendAddress::ClusterIp(_), _) => Reason::OffCluster,
                (_, Place::Node) => Reason::FromNode,
                _ => Reason::Wanted,
            }),
            _ => Handling::Translate,
        };
        let mut ways = Vec::new();
        for (name, endpoints) in by_node {
            let weight = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
            self.push(&mut ways, name.cloned(), endpoints, handling.clone(), weight);
        }
        ways
    }

    /// Adds the endpoints, and apart from them those that are the source, or the node.
    fn push(
        &self,
        ways: &mut Vec<Way>,
        node: Option<Arc<str>>,
        mut endpoints: Vec<SocketAddr>,
        handling: Handling,
        weight: u32,
    ) {
        endpoints.sort();
        let apart = |end: &SocketAddr| match &handling {
            // What the node takes itself does not pass the hook (postrouting) in which sources are changed.
            Handling::Masquerade(_) if self.place != Place::Node && self.world.owner(end.ip()) == Some(self.node) => {
                Handling::Translate
            }
            Handling::Translate if end.ip() == self.source => Handling::Hairpin,
            Handling::Tunnel { here, there, .. } if end.ip() == self.source => {
                Handling::Tunnel { here: *here, there: *there, hairpin: true }
            }
            other => other.clone(),
        };
        let all = u32::try_from(endpoints.len()).unwrap_or(u32::MAX).max(1);
        // Of those that are masqueraded, each towards which another address is taken.
        let mut parts: BTreeMap<(Handling, Option<IpAddr>), Vec<SocketAddr>> = BTreeMap::new();
        for end in endpoints {
            let handling = apart(&end);
            let masked = matches!(handling, Handling::Masquerade(_));
            let taken = masked.then(|| self.world.masquerade(self.node, end.ip())).flatten();
            parts.entry((handling, taken)).or_default().push(end);
        }
        for ((handling, _), endpoints) in parts {
            let share = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
            let weight = u64::from(weight) * u64::from(share) / u64::from(all);
            let weight = u32::try_from(weight).unwrap_or(u32::MAX).max(1);
            ways.push(Way { endpoints, node: node.clone(), weight, handling });
        }
    }

    fn addresses(&self, slots: &[Slot], wanted: impl Fn(Option<&Arc<str>>) -> bool) -> Vec<SocketAddr> {
        let endpoints = slots.iter().filter_map(|slot| self.rules.endpoint(*slot));
        endpoints.filter(|endpoint| wanted(endpoint.node.as_ref())).map(|endpoint| endpoint.address).collect()
    }
}

/// The word of the annotation and of the flag.
pub(crate) fn word(keep: KeepClient) -> &'static str {
    match keep {
        KeepClient::ViaIngress => "preserve",
        KeepClient::Direct => "preserve-direct",
        KeepClient::Masquerade => "masquerade",
    }
}
