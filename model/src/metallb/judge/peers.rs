//! Routers together: what those of one node have to have in common, and what not.
//!
//! Source: MetalLB with FRR, whose configuration of a node has one router for each VRF.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{INVALID, age, selects};
use crate::cluster::Cluster;
use crate::finding::Finding;
use crate::metallb::{BgpPeer, IpAddressPool};
use crate::nat::Family;
use crate::origin::{Kind, ObjectKey};

/// What BGPPeers of one node say against each other; told of the younger of the two.
pub(super) fn peers(cluster: &Cluster, findings: &mut Vec<Finding>) {
    let mut peers: Vec<&Arc<BgpPeer>> = cluster.bgp_peers.values().collect();
    peers.sort_by(|left, right| age(&left.metadata).cmp(&age(&right.metadata)));
    for (index, peer) in peers.iter().enumerate() {
        let mut before = peers[..index].iter().filter(|other| are_of_one_node(cluster, peer, other));
        let fault = before.find_map(|other| Some((other, clash(peer, other)?)));
        if let Some((other, (field, message))) = fault {
            let message = format!("{message}: {} is of the same node", other.key());
            let finding = Finding::error(INVALID, peer.key(), message).at(format!("spec.{field}"));
            findings.push(finding.mend("choose other nodes by nodeSelectors, or make the two agree"));
        }
    }
}

/// Whether a node speaks to both. Where Nodes are not known, those that choose by the same labels do.
fn are_of_one_node(cluster: &Cluster, one: &BgpPeer, other: &BgpPeer) -> bool {
    let (ours, theirs) = (&one.spec.node_selectors, &other.spec.node_selectors);
    if cluster.nodes.is_empty() {
        return ours.is_empty() || theirs.is_empty() || ours.iter().any(|selector| theirs.contains(selector));
    }
    cluster.nodes.values().any(|node| {
        let labels = &node.metadata.labels;
        [ours, theirs].iter().all(|of| of.is_empty() || of.iter().any(|selector| selector.matches(labels)))
    })
}

fn clash(peer: &BgpPeer, other: &BgpPeer) -> Option<(&'static str, String)> {
    let (ours, theirs) = (&peer.spec, &other.spec);
    let said = |id: Option<std::net::Ipv4Addr>| id.map_or("none".to_owned(), |id| id.to_string());
    if ours.router_id != theirs.router_id {
        let (own, others) = (said(ours.router_id), said(theirs.router_id));
        return Some(("routerID", format!("routerID {own} is different from {others}; all of a node must be equal")));
    }
    if ours.vrf != theirs.vrf {
        return None;
    }
    if ours.my_asn != theirs.my_asn {
        let (own, others) = (ours.my_asn, theirs.my_asn);
        let message = format!("myASN {own} is different from {others}; all of a node must be equal for the same VRF");
        return Some(("myASN", message));
    }
    let address = ours.peer_address.filter(|address| theirs.peer_address == Some(*address));
    let interface = ours.interface.as_ref().filter(|interface| theirs.interface.as_ref() == Some(*interface));
    match (address, interface) {
        (Some(address), _) => Some(("peerAddress", format!("peer {address} already exists"))),
        (None, Some(interface)) => Some(("interface", format!("a peer behind interface {interface} already exists"))),
        (None, None) => None,
    }
}

/// Echo packets of BFD know no IPv6: an address of it must not hang on a session that they watch.
pub(super) fn echoes(cluster: &Cluster, pools: &[&Arc<IpAddressPool>], findings: &mut Vec<Finding>) {
    let echoes = |peer: &&Arc<BgpPeer>| {
        let Some(name) = &peer.spec.bfd_profile else { return false };
        let key = ObjectKey::new(Kind::BfdProfile, peer.metadata.namespace.clone(), name.as_str());
        cluster.bfd_profiles.get(&key.id).is_some_and(|profile| profile.spec.echo_mode)
    };
    let echoing: BTreeMap<&str, &Arc<BgpPeer>> =
        cluster.bgp_peers.values().filter(echoes).map(|peer| (&*peer.metadata.name, peer)).collect();
    if echoing.is_empty() {
        return;
    }
    for object in cluster.bgp_advertisements.values() {
        let spec = &object.spec;
        let about = |pool: &&&Arc<IpAddressPool>| {
            selects(&spec.ip_address_pools, &spec.ip_address_pool_selectors, pool)
                && pool.spec.addresses.iter().any(|range| range.family() == Family::V6)
        };
        let Some(pool) = pools.iter().find(about) else { continue };
        let told = echoing.keys().find(|name| spec.peers.is_empty() || spec.peers.iter().any(|peer| peer == *name));
        if let Some(peer) = told {
            let message = format!(
                "pool \"{}\" has addresses of IPv6, and BGPPeer \"{peer}\" has BFD echo enabled, which is not possible",
                pool.metadata.name
            );
            let finding = Finding::error(INVALID, object.key(), message).at("spec.peers");
            findings.push(finding.mend("name peers without echoMode, or pools without IPv6"));
        }
    }
}

/// Why an object must not be deleted: others name it, and would not be as they say without it.
pub fn in_use(cluster: &Cluster, key: &ObjectKey) -> Option<Finding> {
    if key.kind != Kind::BfdProfile {
        return None;
    }
    let names = |peer: &&Arc<BgpPeer>| {
        peer.metadata.namespace == key.id.namespace && peer.spec.bfd_profile.as_deref() == Some(&*key.id.name)
    };
    let peer = cluster.bgp_peers.values().find(names)?;
    let (profile, user) = (&key.id.name, &peer.metadata.name);
    let message = format!("failed to delete BFDProfile {profile}, used by BGPPeer {user}");
    Some(Finding::error("InUse", key.clone(), message).mend("take spec.bfdProfile out of it first"))
}
