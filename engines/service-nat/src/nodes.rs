//! Nodes -> what is known of the own one, and which others a packet can be sent to with its client.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::cluster::Cluster;
use headwater_model::finding::{Finding, Severity};
use headwater_model::nat::Family;
use headwater_model::object::{INTERNAL_IP, Node, TO_BE_DELETED_TAINT, ZONE_LABEL};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use headwater_model::tunnel::{MacAddress, Peer, Peers, TUNNEL_ANNOTATION, TunnelEnd};
use ipnet::IpNet;

use crate::options::NodeFacts;

/// Other nodes that are read; of more the youngest are left out.
pub const MAX_PEERS: usize = 8000;

/// Findings about Nodes; more are counted.
const MAX_FINDINGS: usize = 50;

/// What its Node says of the node of that name. `addresses`: of its interfaces, which the Node does not know.
///
/// `None`: there is no such Node. What is no address or range counts as absent.
pub fn facts(cluster: &Cluster, node: &str, addresses: Vec<IpAddr>) -> Option<NodeFacts> {
    let node = cluster.nodes.get(&NamespacedName::new("", node))?;
    let ranges = match &node.spec.pod_cidrs[..] {
        [] => node.spec.pod_cidr.as_slice(),
        ranges => ranges,
    };
    Some(NodeFacts {
        name: node.metadata.name.clone(),
        zone: node.metadata.labels.get(ZONE_LABEL).filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into()),
        primary: internal_addresses(node),
        addresses,
        pod_cidrs: ranges.iter().filter_map(|range| range.parse::<IpNet>().ok()).collect(),
    })
}

/// Whether load balancers may send new connections to a node: it is known, is not being deleted, and the cluster
/// autoscaler is not about to delete it. Source: KEP-3836, `NodeEligible` in Kubernetes `pkg/proxy/healthcheck`.
pub fn is_eligible(cluster: &Cluster, node: &str) -> bool {
    let Some(node) = cluster.nodes.get(&NamespacedName::new("", node)) else { return false };
    !node.metadata.deletion_timestamp.0 && node.spec.taints.iter().all(|taint| taint.key != TO_BE_DELETED_TAINT)
}

/// The nodes of the cluster as `own` sees them, and what is wrong with them.
///
/// Two Nodes that name one address or one hardware address: the older keeps it. A peer whose end has another port or
/// family than the own end has no tunnel. Whatever is wrong with one Node leaves the others alone.
pub fn peers(cluster: &Cluster, own: &str) -> (Peers, Vec<Finding>) {
    let mut nodes: Vec<&Arc<Node>> = cluster.nodes.values().collect();
    nodes.sort_by_cached_key(|node| {
        let created = node.metadata.creation_timestamp.map_or(i64::MAX, |at| at.as_microsecond());
        (created, node.metadata.name.clone())
    });
    let mut found = Found::default();
    let mut others = 0;
    for node in nodes {
        let is_own = *node.metadata.name == *own;
        others += usize::from(!is_own);
        if is_own || others <= MAX_PEERS {
            found.read(node, is_own);
        }
    }
    if let Some(end) = found.peers.own {
        found.compare(end);
    }
    let mut findings = found.findings;
    let unread = others.saturating_sub(MAX_PEERS);
    if unread > 0 {
        let message = format!("{unread} more Nodes are not read (at most {MAX_PEERS} are); they have no tunnel");
        findings.insert(0, about_nodes("TooManyNodes", message));
    }
    let more = findings.len().saturating_sub(MAX_FINDINGS);
    if more > 0 {
        findings.truncate(MAX_FINDINGS);
        findings.push(about_nodes("MoreFindings", format!("{more} more things are wrong with Nodes")));
    }
    (found.peers, findings)
}

/// A finding about no single object.
fn about_nodes(reason: &'static str, message: String) -> Finding {
    let (field, mend) = (String::new(), String::new());
    Finding { severity: Severity::Warning, reason, object: None, location: None, field, message, mend }
}

#[derive(Default)]
struct Found {
    peers: Peers,
    addresses: BTreeMap<IpAddr, Arc<str>>,
    macs: BTreeMap<MacAddress, Arc<str>>,
    findings: Vec<Finding>,
}

impl Found {
    /// Older Nodes come first.
    fn read(&mut self, node: &Node, is_own: bool) {
        let name = node.metadata.name.clone();
        let mut peer = Peer { name: name.clone(), addresses: internal_addresses(node), ..Peer::default() };
        if let Some(text) = node.metadata.annotations.get(TUNNEL_ANNOTATION) {
            match TunnelEnd::parse(text, &name).map_err(|error| ("InvalidTunnel", error.to_string())) {
                Ok(end) => match self.holder(&end) {
                    None => {
                        self.addresses.insert(end.address, name.clone());
                        self.macs.insert(end.mac, name.clone());
                        peer.tunnel = Some(end);
                    }
                    Some(problem) => self.refuse(node, &mut peer, "Conflict", problem),
                },
                Err((reason, problem)) => self.refuse(node, &mut peer, reason, problem),
            }
        }
        if is_own {
            self.peers.own = peer.tunnel;
        } else {
            self.peers.by_name.insert(name, peer);
        }
    }

    /// What an older Node has of the end, in words.
    fn holder(&self, end: &TunnelEnd) -> Option<String> {
        let says =
            |what: &dyn std::fmt::Display, holder: &str| format!("{what} belongs to Node {holder}, which is older");
        let address = self.addresses.get(&end.address).map(|holder| says(&end.address, holder));
        address.or_else(|| self.macs.get(&end.mac).map(|holder| says(&end.mac, holder)))
    }

    fn refuse(&mut self, node: &Node, peer: &mut Peer, reason: &'static str, problem: String) {
        let message = format!("{problem}; the node has no tunnel");
        let mend = match reason {
            "Conflict" => "give each node an address and a hardware address of its own",
            _ => "remove the annotation: the headwater of that node writes its own",
        };
        self.findings.push(Finding::warning(reason, node.key(), message).at(annotation_field()).mend(mend));
        peer.problem = Some(problem);
    }

    /// Takes away the tunnels that cannot be used from the own end.
    fn compare(&mut self, own: TunnelEnd) {
        for peer in self.peers.by_name.values_mut() {
            let Some(end) = peer.tunnel else { continue };
            let (problem, mend) = if Family::of(end.address) != Family::of(own.address) {
                let text = format!("{} is of another family than this node's end {}", end.address, own.address);
                (text, "give both nodes an InternalIP of one family, and list it first")
            } else if end.port != own.port {
                let text = format!("port {} is not this node's port {}", end.port, own.port);
                (text, "start headwater with the same --tunnel-port on all nodes")
            } else {
                continue;
            };
            let key = ObjectKey::new(Kind::Node, "", peer.name.clone());
            let message = format!("{problem}; packets to it cannot keep their client");
            self.findings.push(Finding::warning("TunnelMismatch", key, message).at(annotation_field()).mend(mend));
            peer.tunnel = None;
            peer.problem = Some(problem);
        }
    }
}

fn annotation_field() -> String {
    format!("metadata.annotations[{TUNNEL_ANNOTATION}]")
}

fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let internal = node.status.addresses.iter().filter(|address| address.address_type == INTERNAL_IP);
    internal.filter_map(|address| address.address.parse().ok()).collect()
}
