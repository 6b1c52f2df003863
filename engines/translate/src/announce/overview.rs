//! Every Service of type LoadBalancer: which addresses it has, who announces them, and why nobody does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::announce::{Announcements, Silence, Vip};
use headwater_model::cluster::Cluster;
use headwater_model::metallb::ALLOCATED_ANNOTATION;
use headwater_model::object::{Service, ServiceType};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use serde::Serialize;

use super::{AnnounceOptions, Announcer};

/// One address of one Service, or a Service that has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VipOverview {
    pub address: Option<IpAddr>,
    /// `namespace/name`.
    pub service: String,
    pub pool: Option<String>,
    pub announcers: Vec<AnnouncedBy>,
    /// Why it has no address, or why nobody announces it; one word of MetalLB's or a sentence.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
}

/// A node that announces an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AnnouncedBy {
    pub node: String,
    /// `layer2` or `bgp`.
    pub protocol: String,
    /// On layer 2; empty: all that can be used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
    /// BGPPeers that have it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// As RFC 3339 says, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// `unallocated`: why Services have no address, from who would give it.
pub fn overview(
    cluster: &Cluster,
    class: Option<&str>,
    unallocated: &BTreeMap<NamespacedName, Vec<String>>,
) -> Vec<VipOverview> {
    let mut announcer =
        Announcer::new(AnnounceOptions { class: class.map(str::to_owned), ..AnnounceOptions::default() });
    let of = |kind: Kind| move |id: &NamespacedName| ObjectKey { kind, id: id.clone() };
    let mut keys: Vec<ObjectKey> = cluster.services.keys().map(of(Kind::Service)).collect();
    keys.extend(cluster.endpoint_slices.keys().map(of(Kind::EndpointSlice)));
    keys.extend(cluster.ip_address_pools.keys().map(of(Kind::IpAddressPool)));
    announcer.apply(cluster, &keys);
    let announcements = announcer.announcements();
    let mut vips: BTreeMap<(NamespacedName, IpAddr), &Arc<Vip>> = BTreeMap::new();
    for vip in &announcements.vips {
        let origin = &vip.origin;
        vips.insert((origin.key.id.clone(), vip.address), vip);
    }
    let announcers = announcers(cluster);
    let mut rows = Vec::new();
    for (id, service) in &cluster.services {
        let spec = &service.spec;
        if spec.service_type != ServiceType::LoadBalancer || spec.load_balancer_class.as_deref() != class {
            continue;
        }
        let announcers = announcers.get(id).cloned().unwrap_or_default();
        let addresses = addresses(service);
        if addresses.is_empty() {
            let unknown = || vec!["nobody gave it an address: is headwater controller --addresses running?".to_owned()];
            let why = unallocated.get(id).cloned().unwrap_or_else(unknown);
            rows.push(VipOverview { service: id.to_string(), why, ..VipOverview::default() });
            continue;
        }
        for address in addresses {
            let vip = vips.get(&(id.clone(), address)).copied();
            let known = service.metadata.annotations.get(ALLOCATED_ANNOTATION).cloned();
            let why = match (announcers.is_empty(), vip) {
                (false, _) => Vec::new(),
                (true, Some(vip)) => silence(&announcements, vip),
                (true, None) => vec!["no IPAddressPool has this address".to_owned()],
            };
            rows.push(VipOverview {
                address: Some(address),
                service: id.to_string(),
                pool: vip.map(|vip| vip.pool.to_string()).or(known),
                announcers: announcers.clone(),
                why,
            });
        }
    }
    rows
}

fn addresses(service: &Service) -> Vec<IpAddr> {
    service.status.load_balancer.ingress.iter().filter_map(|entry| entry.ip.as_deref()?.parse().ok()).collect()
}

/// What nodes say of each Service, by node.
fn announcers(cluster: &Cluster) -> BTreeMap<NamespacedName, Vec<AnnouncedBy>> {
    let mut announcers: BTreeMap<NamespacedName, Vec<AnnouncedBy>> = BTreeMap::new();
    for object in cluster.service_l2_statuses.values() {
        let status = &object.status;
        let service = NamespacedName::new(status.service_namespace.as_str(), status.service_name.as_str());
        announcers.entry(service).or_default().push(AnnouncedBy {
            node: status.node.clone(),
            protocol: "layer2".to_owned(),
            interfaces: status.interfaces.iter().map(|interface| interface.name.clone()).collect(),
            peers: Vec::new(),
            since: object.metadata.creation_timestamp.map(|since| since.to_string()),
        });
    }
    for object in cluster.service_bgp_statuses.values().filter(|object| !object.status.peers.is_empty()) {
        let status = &object.status;
        let service = NamespacedName::new(status.service_namespace.as_str(), status.service_name.as_str());
        announcers.entry(service).or_default().push(AnnouncedBy {
            node: status.node.clone(),
            protocol: "bgp".to_owned(),
            interfaces: Vec::new(),
            peers: status.peers.clone(),
            since: object.metadata.creation_timestamp.map(|since| since.to_string()),
        });
    }
    for of in announcers.values_mut() {
        of.sort_by(|left, right| (&right.protocol, &left.node).cmp(&(&left.protocol, &right.node)));
    }
    announcers
}

/// Why nobody announces an address, in each of the ways it could be.
fn silence(announcements: &Announcements, vip: &Vip) -> Vec<String> {
    let mut why = Vec::new();
    let unsaid = |nodes: &[&str], protocol: &str| {
        let nodes = nodes.join(", ");
        format!(
            "{protocol}: no node says that it announces it, and {nodes} may: is headwater node --announce running there?"
        )
    };
    match &vip.l2 {
        Err(silence) => why.push(format!("layer2: {silence}")),
        Ok(candidates) => {
            why.push(unsaid(&candidates.iter().map(|candidate| &*candidate.node).collect::<Vec<_>>(), "layer2"));
        }
    }
    let chosen: BTreeSet<&str> = vip.bgp.iter().flat_map(|offer| offer.nodes.iter().map(|node| &**node)).collect();
    let mut of: BTreeMap<Option<Silence>, Vec<&str>> = BTreeMap::new();
    for node in chosen {
        of.entry(announcements.bgp_of(vip, node).err()).or_default().push(node);
    }
    for (silence, nodes) in of {
        why.push(match silence {
            Some(silence) => format!("bgp: {silence} ({})", nodes.join(", ")),
            None => unsaid(&nodes, "bgp"),
        });
    }
    let silent = announcements.silent_nodes.iter().map(|(node, silence)| format!("{silence}: {node}"));
    why.extend(silent.filter(|_| matches!(vip.l2, Err(Silence::NoMatchingAdvertisement))));
    why
}
