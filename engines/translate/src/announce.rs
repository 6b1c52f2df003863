//! Services with addresses, pools and advertisements -> what may be announced from where.
//!
//! [`Announcer`] is told which objects changed, and derives anew what depends on them: an endpoint costs its Service, a
//! pool, an advertisement or a Node costs everything. Advertisements with a fault count as absent.
//!
//! Source: MetalLB, `speaker/layer2_controller.go`, `speaker/bgp_controller.go`, `internal/config`.

mod advertisement;
mod overview;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use headwater_model::announce::{Announcements, L2Candidate, NodeNames, Silence, Vip};
use headwater_model::cluster::Cluster;
use headwater_model::object::{EXCLUDE_BALANCERS_LABEL, EndpointConditions, SERVICE_NAME_LABEL, Service, ServiceType};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use ipnet::IpNet;

pub use overview::{AnnouncedBy, VipOverview, overview};

use advertisement::Advertisements;

/// What decides besides objects.
#[derive(Debug, Clone, Default)]
pub struct AnnounceOptions {
    /// `spec.loadBalancerClass` of the Services that are announced; `None`: those without.
    pub class: Option<String>,
    /// Nodes with the label that keeps external load balancers away announce all the same.
    pub ignore_exclude_label: bool,
    /// The only node there is where no Node is known.
    pub node: Arc<str>,
}

/// Keeps what may be announced.
#[derive(Debug)]
pub struct Announcer {
    options: AnnounceOptions,
    advertisements: Advertisements,
    silent_nodes: BTreeMap<Arc<str>, Silence>,
    pod_networks: Vec<IpNet>,
    vips: BTreeMap<(NamespacedName, IpAddr), Arc<Vip>>,
    /// Addresses of each Service, whether a pool has them or not.
    addresses: AHashMap<NamespacedName, AHashSet<IpAddr>>,
    /// Services that have an address.
    holders: AHashMap<IpAddr, BTreeSet<NamespacedName>>,
    slices: AHashMap<NamespacedName, BTreeSet<NamespacedName>>,
    service_of: AHashMap<NamespacedName, NamespacedName>,
}

impl Announcer {
    /// Without objects.
    pub fn new(options: AnnounceOptions) -> Self {
        Self {
            options,
            advertisements: Advertisements::default(),
            silent_nodes: BTreeMap::new(),
            pod_networks: Vec::new(),
            vips: BTreeMap::new(),
            addresses: AHashMap::new(),
            holders: AHashMap::new(),
            slices: AHashMap::new(),
            service_of: AHashMap::new(),
        }
    }

    /// Takes changes: `cluster` is as it is now, `changed` names every object that may be another. Returns whether
    /// anything that may be announced is another.
    pub fn apply(&mut self, cluster: &Cluster, changed: &[ObjectKey]) -> bool {
        let mut all = false;
        let mut services: BTreeSet<NamespacedName> = BTreeSet::new();
        for key in changed {
            match key.kind {
                Kind::Service => drop(services.insert(key.id.clone())),
                Kind::EndpointSlice => services.extend(self.index_slice(cluster, &key.id)),
                Kind::Node | Kind::IpAddressPool | Kind::L2Advertisement | Kind::BgpAdvertisement => all = true,
                _ => {}
            }
        }
        let mut differs = false;
        if all {
            let pod_networks = self.pod_networks_of(cluster);
            differs |= pod_networks != self.pod_networks;
            self.pod_networks = pod_networks;
            let silent_nodes = self.silent_nodes_of(cluster);
            let advertisements = Advertisements::read(cluster, &self.options.node, &silent_nodes);
            if advertisements != self.advertisements || silent_nodes != self.silent_nodes {
                differs |= silent_nodes != self.silent_nodes;
                self.advertisements = advertisements;
                self.silent_nodes = silent_nodes;
                services.extend(cluster.services.keys().cloned());
            }
        }
        // Who shares an address with one of these sees another number of holders.
        let mut left: Vec<NamespacedName> = services.iter().cloned().collect();
        for id in &services {
            left.extend(self.index_service(cluster, id));
        }
        left.sort_unstable();
        left.dedup();
        for id in left {
            differs |= self.derive(cluster, &id);
        }
        differs
    }

    /// What may be announced, as of the last changes.
    pub fn announcements(&self) -> Announcements {
        Announcements {
            vips: self.vips.values().cloned().collect(),
            silent_nodes: self.silent_nodes.clone(),
            pod_networks: self.pod_networks.clone(),
        }
    }

    fn pod_networks_of(&self, cluster: &Cluster) -> Vec<IpNet> {
        let this = cluster.nodes.values().filter(|node| node.metadata.name == self.options.node);
        let texts = this.flat_map(|node| node.spec.pod_cidrs.iter().chain(&node.spec.pod_cidr));
        let mut networks: Vec<IpNet> = texts.filter_map(|text| text.parse().ok()).collect();
        networks.sort_unstable();
        networks.dedup();
        networks
    }

    fn silent_nodes_of(&self, cluster: &Cluster) -> BTreeMap<Arc<str>, Silence> {
        let silence = |node: &headwater_model::object::Node| {
            if node.is_network_unavailable() {
                return Some(Silence::NodeNetworkUnavailable);
            }
            let is_labelled = node.metadata.labels.contains_key(EXCLUDE_BALANCERS_LABEL);
            (is_labelled && !self.options.ignore_exclude_label).then_some(Silence::NodeLabeledExcludeBalancers)
        };
        let nodes = cluster.nodes.values();
        nodes.filter_map(|node| silence(node).map(|silence| (node.metadata.name.clone(), silence))).collect()
    }

    /// The Services that a slice is and was of.
    fn index_slice(&mut self, cluster: &Cluster, id: &NamespacedName) -> Vec<NamespacedName> {
        let service = cluster.endpoint_slices.get(id).and_then(|slice| {
            let name = slice.metadata.labels.get(SERVICE_NAME_LABEL)?;
            Some(NamespacedName::new(id.namespace.clone(), name.as_str()))
        });
        let before = match &service {
            Some(service) => self.service_of.insert(id.clone(), service.clone()),
            None => self.service_of.remove(id),
        };
        if let Some(before) = before.as_ref().filter(|before| Some(*before) != service.as_ref())
            && let Some(slices) = self.slices.get_mut(before)
        {
            slices.remove(id);
            if slices.is_empty() {
                self.slices.remove(before);
            }
        }
        if let Some(service) = &service {
            self.slices.entry(service.clone()).or_default().insert(id.clone());
        }
        service.into_iter().chain(before).collect()
    }

    /// Notes which addresses a Service has, and returns who else has one that it has or had.
    fn index_service(&mut self, cluster: &Cluster, id: &NamespacedName) -> Vec<NamespacedName> {
        let now: AHashSet<IpAddr> = cluster
            .services
            .get(id)
            .map(|service| self.addresses_of(service).into_iter().collect())
            .unwrap_or_default();
        let before = match now.is_empty() {
            true => self.addresses.remove(id),
            false => self.addresses.insert(id.clone(), now.clone()),
        };
        let before = before.unwrap_or_default();
        let mut others = Vec::new();
        for address in before.symmetric_difference(&now) {
            let holders = self.holders.entry(*address).or_default();
            if now.contains(address) {
                holders.insert(id.clone());
            } else {
                holders.remove(id);
            }
            others.extend(holders.iter().filter(|other| *other != id).cloned());
            if holders.is_empty() {
                self.holders.remove(address);
            }
        }
        if before != now {
            // By what it begins with, those who share another address with it may be elected.
            let kept = before.intersection(&now).filter_map(|address| self.holders.get(address)).flatten();
            others.extend(kept.filter(|other| *other != id).cloned());
        }
        others
    }

    /// The addresses of a Service that is announced here, in the order of its status.
    fn addresses_of(&self, service: &Service) -> Vec<IpAddr> {
        let spec = &service.spec;
        if spec.service_type != ServiceType::LoadBalancer || spec.load_balancer_class != self.options.class {
            return Vec::new();
        }
        let ingress = service.status.load_balancer.ingress.iter();
        ingress.filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect()
    }

    /// Derives a Service's addresses anew; whether one is another.
    fn derive(&mut self, cluster: &Cluster, id: &NamespacedName) -> bool {
        let vips = cluster.services.get(id).map(|service| self.vips_of(cluster, service)).unwrap_or_default();
        let first = (id.clone(), IpAddr::from([0, 0, 0, 0]));
        let before: Vec<IpAddr> =
            self.vips.range(first..).take_while(|((other, _), _)| other == id).map(|((_, ip), _)| *ip).collect();
        let mut differs = false;
        for address in before {
            if !vips.iter().any(|vip| vip.address == address) {
                self.vips.remove(&(id.clone(), address));
                differs = true;
            }
        }
        for vip in vips {
            let key = (id.clone(), vip.address);
            if self.vips.get(&key).is_none_or(|known| **known != vip) {
                self.vips.insert(key, Arc::new(vip));
                differs = true;
            }
        }
        differs
    }

    fn vips_of(&self, cluster: &Cluster, service: &Service) -> Vec<Vip> {
        let addresses = self.addresses_of(service);
        let Some(first) = addresses.first() else { return Vec::new() };
        let first: Arc<str> = first.to_string().into();
        // Services that share an address have one announcer for it, whichever is the first of each.
        let first_of = |address: IpAddr| {
            let holders = self.holders.get(&address).filter(|holders| holders.len() > 1);
            let leader = holders.and_then(BTreeSet::first).and_then(|id| cluster.services.get(id));
            let theirs = leader.and_then(|leader| self.addresses_of(leader).first().copied());
            theirs.map_or_else(|| first.clone(), |theirs| theirs.to_string().into())
        };
        let is_local = service.spec.external_traffic_policy.as_deref() == Some("Local");
        let (is_served, serving) = self.serving(cluster, service);
        let serving = Arc::new(serving);
        let vip = |address: IpAddr| {
            let pool = self.advertisements.pool_of(address)?;
            let is_shared = self.holders.get(&address).is_some_and(|holders| holders.len() > 1);
            let l2 = self.advertisements.l2(pool, service, is_shared);
            let mut vip = Vip {
                address,
                origin: service.origin(),
                first: first_of(address),
                pool: pool.name(),
                is_local,
                is_served,
                serving: serving.clone(),
                l2,
                bgp: self.advertisements.bgp(pool, service, address, is_shared),
            };
            if !is_served {
                vip.l2 = Err(Silence::NoEndpoints);
            } else if is_local && let Ok(candidates) = &vip.l2 {
                let left: Arc<[L2Candidate]> =
                    candidates.iter().filter(|candidate| serving.contains(&candidate.node)).cloned().collect();
                vip.l2 = if left.is_empty() { Err(Silence::NoLocalEndpoints) } else { Ok(left) };
            }
            Some(vip)
        };
        addresses.iter().filter_map(|address| vip(*address)).collect()
    }

    /// Whether any endpoint of a Service serves, and on which nodes.
    fn serving(&self, cluster: &Cluster, service: &Service) -> (bool, NodeNames) {
        let id = NamespacedName::new(service.metadata.namespace.clone(), service.metadata.name.clone());
        let (mut anywhere, mut nodes) = (false, NodeNames::new());
        let slices = self.slices.get(&id).into_iter().flatten();
        for slice in slices.filter_map(|slice| cluster.endpoint_slices.get(slice)) {
            for endpoint in slice.endpoints.iter().filter(|endpoint| serves(endpoint.conditions)) {
                anywhere = true;
                nodes.extend(endpoint.node_name.clone());
            }
        }
        (anywhere, nodes)
    }
}

/// Ready, or serving until it ends.
fn serves(conditions: EndpointConditions) -> bool {
    conditions.ready.unwrap_or(true) || conditions.serving == Some(true)
}
