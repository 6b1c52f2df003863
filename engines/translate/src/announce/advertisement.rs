//! Pools and advertisements, as far as announcing goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::announce::{BgpOffer, L2Candidate, NodeNames, Silence};
use headwater_model::cluster::Cluster;
use headwater_model::metallb::{AddressRange, BgpAdvertisement, IpAddressPool, L2Advertisement};
use headwater_model::object::{Node, Service};
use headwater_model::selector::LabelSelector;
use ipnet::IpNet;

/// All of them, and which nodes they choose.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Advertisements {
    pools: Vec<Pool>,
    l2: Vec<L2>,
    bgp: Vec<Bgp>,
}

/// A pool's addresses, and the numbers of the advertisements that are for it.
#[derive(Debug, PartialEq)]
pub(super) struct Pool {
    name: Arc<str>,
    ranges: Vec<AddressRange>,
    l2: Vec<usize>,
    bgp: Vec<usize>,
}

impl Pool {
    pub(super) fn name(&self) -> Arc<str> {
        self.name.clone()
    }
}

#[derive(Debug, PartialEq)]
struct L2 {
    services: Vec<LabelSelector>,
    /// Nodes that may announce, with what its preferences give each.
    nodes: BTreeMap<Arc<str>, i64>,
    interfaces: Option<BTreeSet<Arc<str>>>,
}

#[derive(Debug, PartialEq)]
struct Bgp {
    object: Arc<BgpAdvertisement>,
    nodes: Arc<NodeNames>,
}

impl Advertisements {
    /// `node`: the only one where none is known; `silent`: nodes that announce nothing.
    pub(super) fn read(cluster: &Cluster, node: &Arc<str>, silent: &BTreeMap<Arc<str>, Silence>) -> Self {
        let alone = Arc::new(Node::default());
        let mut nodes: Vec<(Arc<str>, &Arc<Node>)> =
            cluster.nodes.values().map(|node| (node.metadata.name.clone(), node)).collect();
        if nodes.is_empty() {
            nodes.push((node.clone(), &alone));
        }
        let l2: Vec<&Arc<L2Advertisement>> =
            cluster.l2_advertisements.values().filter(|object| object.spec.faults().is_empty()).collect();
        let bgp: Vec<&Arc<BgpAdvertisement>> =
            cluster.bgp_advertisements.values().filter(|object| object.spec.faults().is_empty()).collect();
        let pools = cluster.ip_address_pools.values().filter(|pool| pool.spec.faults().is_empty());
        let pools = pools.map(|pool| Pool {
            name: pool.metadata.name.clone(),
            ranges: pool.spec.addresses.clone(),
            l2: chosen(
                pool,
                l2.iter().map(|object| (&object.spec.ip_address_pools, &object.spec.ip_address_pool_selectors)),
            ),
            bgp: chosen(
                pool,
                bgp.iter().map(|object| (&object.spec.ip_address_pools, &object.spec.ip_address_pool_selectors)),
            ),
        });
        Self {
            pools: pools.collect(),
            l2: l2.iter().map(|object| read_l2(object, &nodes, silent)).collect(),
            bgp: bgp.iter().map(|object| read_bgp(object, &nodes)).collect(),
        }
    }

    /// The pool that an address is of: the first by name, where they overlap.
    pub(super) fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.ranges.iter().any(|range| range.contains(address)))
    }

    /// Who may announce an address of a pool on layer 2, by name.
    pub(super) fn l2(&self, pool: &Pool, service: &Service, is_shared: bool) -> Result<Arc<[L2Candidate]>, Silence> {
        let mut silence = Silence::NoMatchingAdvertisement;
        let mut candidates: BTreeMap<Arc<str>, L2Candidate> = BTreeMap::new();
        for advertisement in pool.l2.iter().filter_map(|number| self.l2.get(*number)) {
            if !matches_any(&advertisement.services, service) {
                continue;
            }
            if is_shared && !advertisement.services.is_empty() {
                silence = Silence::SharedIpWithServiceSelector;
                continue;
            }
            for (node, weight) in &advertisement.nodes {
                let mut interfaces = advertisement.interfaces.clone();
                let mut sum = *weight;
                if let Some(known) = candidates.get(node) {
                    sum += known.weight;
                    interfaces = match (interfaces, &known.interfaces) {
                        (Some(ours), Some(others)) => Some(ours.union(others).cloned().collect()),
                        _ => None,
                    };
                }
                let candidate = L2Candidate { node: node.clone(), weight: sum, interfaces: interfaces.map(Arc::new) };
                candidates.insert(node.clone(), candidate);
            }
        }
        if candidates.is_empty() { Err(silence) } else { Ok(candidates.into_values().collect()) }
    }

    /// How an address of a pool may be announced by BGP.
    pub(super) fn bgp(&self, pool: &Pool, service: &Service, address: IpAddr, is_shared: bool) -> Vec<Arc<BgpOffer>> {
        let ours = pool.bgp.iter().filter_map(|number| self.bgp.get(*number));
        let ours = ours.filter(|Bgp { object, .. }| {
            let selectors = &object.spec.service_selectors;
            matches_any(selectors, service) && (selectors.is_empty() || !is_shared)
        });
        ours.filter_map(|Bgp { object, nodes }| {
            let length = if address.is_ipv4() { object.spec.length_v4() } else { object.spec.length_v6() };
            Some(Arc::new(BgpOffer {
                advertisement: object.id(),
                prefix: IpNet::new(address, length).ok()?.trunc(),
                local_preference: object.spec.local_preference(),
                communities: object.spec.communities.clone(),
                peers: object.spec.peers.clone(),
                nodes: nodes.clone(),
            }))
        })
        .collect()
    }
}

/// Numbers of the advertisements that are for a pool: named, or chosen by its labels; all those that do neither.
fn chosen<'a>(
    pool: &IpAddressPool,
    advertisements: impl Iterator<Item = (&'a Vec<String>, &'a Vec<LabelSelector>)>,
) -> Vec<usize> {
    let meant = |(names, selectors): (&Vec<String>, &Vec<LabelSelector>)| {
        (names.is_empty() && selectors.is_empty())
            || names.iter().any(|name| **name == *pool.metadata.name)
            || selectors.iter().any(|selector| selector.matches(&pool.metadata.labels))
    };
    advertisements.enumerate().filter(|(_, choice)| meant(*choice)).map(|(number, _)| number).collect()
}

fn matches_any(selectors: &[LabelSelector], service: &Service) -> bool {
    selectors.is_empty() || selectors.iter().any(|selector| selector.matches(&service.metadata.labels))
}

fn names<'a>(
    selectors: &'a [LabelSelector],
    nodes: &'a [(Arc<str>, &'a Arc<Node>)],
) -> impl Iterator<Item = &'a (Arc<str>, &'a Arc<Node>)> {
    nodes.iter().filter(move |(_, node)| {
        selectors.is_empty() || selectors.iter().any(|selector| selector.matches(&node.metadata.labels))
    })
}

fn read_l2(object: &L2Advertisement, nodes: &[(Arc<str>, &Arc<Node>)], silent: &BTreeMap<Arc<str>, Silence>) -> L2 {
    let spec = &object.spec;
    let weight = |node: &Node| {
        let fulfilled = spec.preferred_node_selectors.iter();
        let fulfilled = fulfilled.filter(|preferred| preferred.preference.matches(&node.metadata.labels));
        fulfilled.map(|preferred| i64::from(preferred.weight)).sum()
    };
    L2 {
        services: spec.service_selectors.clone(),
        nodes: names(&spec.node_selectors, nodes)
            .filter(|(name, _)| !silent.contains_key(name))
            .map(|(name, node)| (name.clone(), weight(node)))
            .collect(),
        interfaces: (!spec.interfaces.is_empty())
            .then(|| spec.interfaces.iter().map(|name| name.as_str().into()).collect()),
    }
}

fn read_bgp(object: &Arc<BgpAdvertisement>, nodes: &[(Arc<str>, &Arc<Node>)]) -> Bgp {
    let names: NodeNames = names(&object.spec.node_selectors, nodes).map(|(name, _)| name.clone()).collect();
    Bgp { object: object.clone(), nodes: Arc::new(names) }
}
