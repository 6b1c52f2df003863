//! What is known: objects, what the nodes run with, and what both make.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use headwater_model::cluster::Cluster;
use headwater_model::gateway::GatewaySnapshot;
use headwater_model::nat::{Family, ServiceSnapshot, Transport};
use headwater_model::object::{SERVICE_NAME_LABEL, Service};
use headwater_model::origin::NamespacedName;
use headwater_model::tunnel::Peers;
use headwater_service_nat::{NodeFacts, ServiceNat, facts, peers};
use headwater_translate::Translator;
use ipnet::IpNet;

/// Labels that the chart gives the Service of its gateways.
const GATEWAY_LABELS: [(&str, &str); 2] =
    [("app.kubernetes.io/name", "headwater"), ("app.kubernetes.io/component", "gateway")];

/// What no object says.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What `headwater node` runs with. `node` is passed over: it is that of each node in turn.
    pub services: headwater_service_nat::Options,
    /// What gateways run with.
    pub translate: headwater_translate::Options,
    /// Services whose endpoints are Headwater gateways, besides those with the chart's labels.
    pub gateways: BTreeSet<NamespacedName>,
    /// A gateway runs on this machine, and takes what no Service does: `headwater up`.
    pub gateway_here: bool,
    /// What is known of nodes besides their Node objects.
    pub interfaces: BTreeMap<Arc<str>, Interfaces>,
    /// Seconds since the epoch; only certificates care.
    pub now: i64,
}

/// Addresses of a node that its Node does not name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    pub addresses: Vec<IpAddr>,
    /// Source addresses that the node uses towards these ranges, the longest counts: what masquerading makes of a
    /// source. Elsewhere it is the first InternalIP of the family.
    pub towards: Vec<(IpNet, IpAddr)>,
}

/// A cluster at one moment.
#[derive(Debug)]
pub struct World {
    pub(crate) cluster: Cluster,
    pub(crate) options: Options,
    /// Nodes that have a Node, and those that slices name.
    pub(crate) nodes: BTreeMap<Arc<str>, NodeFacts>,
    pub(crate) gateways: BTreeSet<NamespacedName>,
    slices_of: BTreeMap<NamespacedName, Vec<NamespacedName>>,
    /// Where endpoints are.
    node_of: BTreeMap<IpAddr, Arc<str>>,
    /// Who has an address.
    owner_of: BTreeMap<IpAddr, Arc<str>>,
    gateway: OnceCell<Arc<GatewaySnapshot>>,
}

impl World {
    pub fn new(cluster: Cluster, options: Options) -> Self {
        let mut slices_of: BTreeMap<NamespacedName, Vec<NamespacedName>> = BTreeMap::new();
        let mut node_of: BTreeMap<IpAddr, Arc<str>> = BTreeMap::new();
        let mut nodes: BTreeMap<Arc<str>, NodeFacts> = BTreeMap::new();
        for (id, node) in &cluster.nodes {
            let known = options.interfaces.get(&id.name).map(|known| known.addresses.clone()).unwrap_or_default();
            let written = node.status.addresses.iter().filter_map(|address| address.address.parse().ok());
            let addresses: BTreeSet<IpAddr> = written.chain(known).collect();
            if let Some(facts) = facts(&cluster, &id.name, addresses.into_iter().collect()) {
                nodes.insert(id.name.clone(), facts);
            }
        }
        for (id, slice) in &cluster.endpoint_slices {
            if let Some(name) = slice.metadata.labels.get(SERVICE_NAME_LABEL) {
                let service = NamespacedName::new(id.namespace.clone(), name.as_str());
                slices_of.entry(service).or_default().push(id.clone());
            }
            for endpoint in &slice.endpoints {
                let Some(name) = endpoint.node_name.as_deref().filter(|name| !name.is_empty()) else { continue };
                let name = match nodes.get_key_value(name) {
                    Some((known, _)) => known.clone(),
                    None => {
                        let name: Arc<str> = name.into();
                        let addresses =
                            options.interfaces.get(&name).map(|known| known.addresses.clone()).unwrap_or_default();
                        let facts = NodeFacts { name: name.clone(), addresses, ..NodeFacts::default() };
                        nodes.insert(name.clone(), facts);
                        name
                    }
                };
                if let Some(ip) = endpoint.addresses.first().and_then(|address| address.parse().ok()) {
                    node_of.entry(ip).or_insert(name);
                }
            }
        }
        let mut owner_of = BTreeMap::new();
        for (name, facts) in &nodes {
            for address in facts.primary.iter().chain(&facts.addresses).filter(|address| !address.is_loopback()) {
                owner_of.entry(*address).or_insert_with(|| name.clone());
            }
        }
        let labelled = cluster.services.iter().filter(|(_, service)| {
            GATEWAY_LABELS
                .iter()
                .all(|(label, value)| service.metadata.labels.get(*label).is_some_and(|text| text == value))
        });
        let gateways = labelled.map(|(id, _)| id).chain(&options.gateways).cloned().collect();
        Self { cluster, options, nodes, gateways, slices_of, node_of, owner_of, gateway: OnceCell::new() }
    }

    /// Names of all nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.nodes.keys()
    }

    /// The node that has the address.
    pub fn owner(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.owner_of.get(&address)
    }

    /// The node of the pod with that address: by its endpoints, or by the ranges of pods.
    pub fn node_of_pod(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.node_of.get(&address).or_else(|| {
            let facts = self.nodes.values().find(|facts| facts.pod_cidrs.iter().any(|range| range.contains(&address)));
            facts.and_then(|facts| self.nodes.get_key_value(&facts.name)).map(|(name, _)| name)
        })
    }

    /// Whether some slice has the address.
    pub(crate) fn is_endpoint(&self, address: IpAddr) -> bool {
        self.node_of.contains_key(&address)
    }

    /// The node's own address of a family, where it is known.
    pub(crate) fn primary(&self, node: &str, family: Family) -> Option<IpAddr> {
        let facts = self.nodes.get(node)?;
        facts.primary.iter().chain(&facts.addresses).find(|address| Family::of(**address) == family).copied()
    }

    /// What masquerading makes of a source on the way to an address.
    pub(crate) fn masquerade(&self, node: &str, to: IpAddr) -> Option<IpAddr> {
        if self.owner(to).is_some_and(|owner| **owner == *node) {
            return Some(to);
        }
        let towards = self.options.interfaces.get(node).map(|known| &known.towards[..]).unwrap_or_default();
        let best = towards.iter().filter(|(range, _)| range.contains(&to)).max_by_key(|(range, _)| range.prefix_len());
        best.map(|(_, address)| *address).or_else(|| self.primary(node, Family::of(to)))
    }

    pub(crate) fn peers(&self, node: &str) -> Peers {
        peers(&self.cluster, node).0
    }

    /// What the node does, as far as `cluster` goes: see [`Self::about`].
    pub(crate) fn snapshot(&self, node: &str, cluster: &Cluster) -> Arc<ServiceSnapshot> {
        let mut options = self.options.services.clone();
        options.node = match self.nodes.get(node) {
            Some(facts) => facts.clone(),
            None => NodeFacts { name: node.into(), ..NodeFacts::default() },
        };
        ServiceNat::new(options).apply(cluster, &[]).snapshot
    }

    /// The objects that decide about packets to this address and port: every Service that has the address, or the
    /// NodePort, and its slices. Others have no say: claims are made on whole addresses with their port, and NodePorts.
    pub(crate) fn about(&self, address: IpAddr, port: u16) -> Cluster {
        let mut part = Cluster::default();
        for (id, service) in &self.cluster.services {
            let has_port = service.spec.ports.iter().any(|wanted| wanted.node_port == Some(port));
            if !(has_port || service.spec.health_check_node_port == Some(port) || has_address(service, address)) {
                continue;
            }
            part.services.insert(id.clone(), service.clone());
            for slice in self.slices_of.get(id).into_iter().flatten() {
                if let Some(object) = self.cluster.endpoint_slices.get(slice) {
                    part.endpoint_slices.insert(slice.clone(), object.clone());
                }
            }
        }
        part
    }

    /// Addresses of a Service's endpoints, in any state.
    pub(crate) fn endpoints_of(&self, service: &NamespacedName) -> impl Iterator<Item = IpAddr> {
        let slices = self.slices_of.get(service).into_iter().flatten();
        let slices = slices.filter_map(|id| self.cluster.endpoint_slices.get(id));
        let endpoints = slices.flat_map(|slice| &slice.endpoints);
        endpoints.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok())
    }

    /// The Service with an endpoint of that address, if it is a gateways' Service.
    pub(crate) fn is_gateway(&self, address: IpAddr) -> Option<&NamespacedName> {
        self.gateways.iter().find(|id| self.endpoints_of(id).any(|ip| ip == address))
    }

    /// The Service and NodePort to which a load balancer sends that ends connections at this address itself (KEP-1860).
    pub(crate) fn behind_proxy(&self, at: SocketAddr, protocol: Transport) -> Option<(NamespacedName, u16)> {
        self.cluster.services.iter().find_map(|(id, service)| {
            let own = service.status.load_balancer.ingress.iter().any(|ingress| {
                let ip = ingress.ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
                ip == Some(at.ip()) && ingress.ip_mode.as_deref() == Some("Proxy")
            });
            let port =
                service.spec.ports.iter().find(|port| {
                    port.port == at.port() && Transport::parse(port.protocol.as_deref()) == Some(protocol)
                });
            Some((id.clone(), port.filter(|_| own)?.node_port.filter(|port| *port != 0)?))
        })
    }

    /// What gateways serve.
    pub(crate) fn gateway(&self) -> &Arc<GatewaySnapshot> {
        self.gateway.get_or_init(|| {
            Translator::new(self.options.translate.clone()).apply(&self.cluster, &[], self.options.now).snapshot
        })
    }
}

fn has_address(service: &Service, address: IpAddr) -> bool {
    let ingress = service.status.load_balancer.ingress.iter().filter_map(|ingress| ingress.ip.as_deref());
    let spec = &service.spec;
    let written = spec.cluster_ips.iter().chain(&spec.cluster_ip).chain(&spec.external_ips).map(String::as_str);
    written.chain(ingress).any(|text| text.parse::<IpAddr>() == Ok(address))
}
