//! What becomes of one packet, for those who ask: explanations and tests. The kernel has its own way of finding it.

use std::net::{IpAddr, SocketAddr};

use headwater_model::nat::{
    Frontend, FrontendAddress, Masquerade, PortRules, ServiceSnapshot, Slot, Transport, Verdict,
};

/// Where a packet comes from, as seen from the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The node itself, and pods in its network.
    Node,
    /// A pod of this node.
    Pod,
    /// Another host.
    Remote,
}

/// The first packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub place: Place,
    pub source: IpAddr,
    pub destination: SocketAddr,
    pub protocol: Transport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No endpoint is usable, anywhere.
    NoEndpoints,
    /// The address is a Service's, the port is not.
    UnknownPort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// `loadBalancerSourceRanges` do not name the source.
    Source,
    /// The policy is Local, and all endpoints are on other nodes.
    NoLocalEndpoints,
    /// In the range of Services' addresses, and nobody's.
    UnknownAddress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Not for a Service.
    Pass,
    /// To one of `slots`, each as probable as the others.
    Forward {
        rules: &'a PortRules,
        frontend: &'a Frontend,
        slots: &'a [Slot],
        masquerade: Masquerade,
    },
    Reject(Refused),
    Drop(Dropped),
}

/// Decides, in time proportional to the number of frontends.
///
/// [`Masquerade::OffCluster`] is resolved into `Always` or `HairpinOnly`.
pub fn decide<'a>(snapshot: &'a ServiceSnapshot, packet: &Packet) -> Decision<'a> {
    let address = packet.destination.ip();
    let mut at_node = None;
    let mut known_address = false;
    for (_, service) in snapshot.services() {
        known_address |= service.cluster_ips.contains(&address);
        for rules in service.ports.iter().filter(|rules| rules.protocol == packet.protocol) {
            for frontend in rules.frontends.iter() {
                match frontend.address {
                    FrontendAddress::ClusterIp(own)
                    | FrontendAddress::LoadBalancer(own)
                    | FrontendAddress::ExternalIp(own) => {
                        if own == packet.destination {
                            return at(snapshot, packet, rules, frontend);
                        }
                    }
                    FrontendAddress::NodePort(port) => {
                        if port == packet.destination.port()
                            && rules.family == headwater_model::nat::Family::of(address)
                            && snapshot.node.node_port_addresses.contains(&address)
                        {
                            at_node = Some((rules, frontend));
                        }
                    }
                }
            }
        }
    }
    match at_node {
        _ if known_address => Decision::Reject(Refused::UnknownPort),
        Some((rules, frontend)) => at(snapshot, packet, rules, frontend),
        None if snapshot.node.service_cidrs.iter().any(|range| range.contains(&address)) => {
            Decision::Drop(Dropped::UnknownAddress)
        }
        None => Decision::Pass,
    }
}

fn at<'a>(
    snapshot: &'a ServiceSnapshot,
    packet: &Packet,
    rules: &'a PortRules,
    frontend: &'a Frontend,
) -> Decision<'a> {
    if frontend.sources.as_ref().is_some_and(|sources| !sources.admits(packet.source, packet.destination.ip())) {
        return Decision::Drop(Dropped::Source);
    }
    let verdict = match packet.place {
        Place::Node => frontend.node,
        Place::Pod => frontend.pods,
        Place::Remote => frontend.remote,
    };
    match verdict {
        Verdict::Reject => Decision::Reject(Refused::NoEndpoints),
        Verdict::Drop => Decision::Drop(Dropped::NoLocalEndpoints),
        Verdict::Forward { set, masquerade } => {
            let inside = || snapshot.node.cluster_cidrs.iter().any(|range| range.contains(&packet.source));
            let masquerade = match masquerade {
                Masquerade::OffCluster if inside() => Masquerade::HairpinOnly,
                Masquerade::OffCluster => Masquerade::Always,
                other => other,
            };
            Decision::Forward { rules, frontend, slots: rules.set(set), masquerade }
        }
    }
}
