//! Packets that nobody gets, and those that a node answers itself.

use std::sync::Arc;

use headwater_model::nat::{Family, Frontend, FrontendAddress, PortRules, ServiceSnapshot, Transport};
use headwater_model::origin::NamespacedName;
use headwater_service_nat::{Dropped, Packet, Refused};

use crate::answer::{Action, Cause, Flow, Hop, Leg, Path, Place, Sees, Verdict, VerdictKind};
use crate::end::End;
use crate::hops::of_frontend;
use crate::mend;
use crate::walk::Trail;
use crate::world::World;

/// The frontend that takes the packet, as `decide` finds it: addresses before NodePorts.
pub(crate) fn frontend<'a>(
    snapshot: &'a ServiceSnapshot,
    packet: &Packet,
) -> Option<(&'a NamespacedName, &'a PortRules, &'a Frontend)> {
    let (ip, port) = (packet.destination.ip(), packet.destination.port());
    let all = || {
        snapshot.services().flat_map(|(id, service)| {
            let ports = service.ports.iter().filter(|rules| rules.protocol == packet.protocol);
            ports.flat_map(move |rules| rules.frontends.iter().map(move |frontend| (id, &**rules, frontend)))
        })
    };
    let by_address = all().find(|(_, _, frontend)| match frontend.address {
        FrontendAddress::ClusterIp(own) | FrontendAddress::LoadBalancer(own) | FrontendAddress::ExternalIp(own) => {
            own == packet.destination
        }
        FrontendAddress::NodePort(_) => false,
    });
    by_address.or_else(|| {
        let at_node = snapshot.node.node_port_addresses.contains(&ip);
        all().filter(|_| at_node).find(|(_, rules, frontend)| {
            frontend.address == FrontendAddress::NodePort(port) && rules.family == Family::of(ip)
        })
    })
}

fn end(node: &Arc<str>, packet: &Packet, action: Action, causes: Vec<Cause>, why: String, trail: &mut Trail) {
    trail.hops.push(Hop {
        at: Place::Node(node.clone()),
        action,
        before: Flow { source: End::Address(packet.source), destination: End::Socket(packet.destination) },
        after: None,
        outer: None,
        causes,
        why,
    });
}

fn causes(world: &World, found: Option<(&NamespacedName, &PortRules, &Frontend)>) -> Vec<Cause> {
    let service = found.and_then(|(id, ..)| world.cluster.services.get(id));
    match (service, found) {
        (Some(service), Some((_, _, frontend))) => of_frontend(service, frontend.address),
        _ => Vec::new(),
    }
}

/// How a refusal looks.
fn answer(protocol: Transport) -> &'static str {
    match protocol {
        Transport::Tcp => "a TCP reset",
        Transport::Udp | Transport::Sctp => "ICMP port unreachable",
    }
}

pub(crate) fn rejected(
    world: &World,
    node: &Arc<str>,
    packet: &Packet,
    snapshot: &ServiceSnapshot,
    refused: Refused,
    mut trail: Trail,
) -> Path {
    let says = answer(packet.protocol);
    let (causes, why) = match refused {
        Refused::NoEndpoints => {
            let found = frontend(snapshot, packet);
            let id = found.map(|(id, ..)| id.to_string()).unwrap_or_default();
            trail.mends.extend(found.map(|(id, ..)| mend::no_endpoints(id)));
            (causes(world, found), format!("Service {id} has no usable endpoint: answers with {says}"))
        }
        Refused::UnknownPort => {
            let ip = packet.destination.ip();
            let owner = snapshot.services().find(|(_, service)| service.cluster_ips.contains(&ip));
            let service = owner.and_then(|(id, _)| world.cluster.services.get(id));
            trail.mends.extend(service.map(|service| mend::unknown_port(service, packet.protocol)));
            let causes = service.map(|service| of_cluster_ip(service, packet)).unwrap_or_default();
            let id = owner.map(|(id, _)| id.to_string()).unwrap_or_default();
            let (port, protocol) = (packet.destination.port(), packet.protocol.as_str());
            (causes, format!("Service {id} has no port {port}/{protocol}: answers with {says}"))
        }
    };
    end(node, packet, Action::Refuse, causes, why, &mut trail);
    trail.end(VerdictKind::Refused)
}

fn of_cluster_ip(service: &headwater_model::object::Service, packet: &Packet) -> Vec<Cause> {
    let address = packet.destination.ip().to_string();
    vec![Cause { object: Some(service.key()), field: "spec.clusterIPs".to_owned(), value: address }]
}

pub(crate) fn dropped(
    world: &World,
    node: &Arc<str>,
    packet: &Packet,
    snapshot: &ServiceSnapshot,
    dropped: Dropped,
    mut trail: Trail,
) -> Path {
    let found = frontend(snapshot, packet);
    let service = found.and_then(|(id, ..)| world.cluster.services.get(id));
    let mut causes = causes(world, found);
    let why = match dropped {
        Dropped::Source => {
            if let Some(service) = service {
                let value = service.spec.load_balancer_source_ranges.join(",");
                let field = "spec.loadBalancerSourceRanges".to_owned();
                causes.push(Cause { object: Some(service.key()), field, value });
                trail.mends.push(mend::source_ranges(service, packet.source));
            }
            format!("{} is not in the ranges that may send", packet.source)
        }
        Dropped::NoLocalEndpoints => {
            if let (Some(service), Some((_, rules, frontend))) = (service, found) {
                trail.mends.extend(mend::no_local(service, frontend.address, rules));
            }
            "no endpoint is on this node, and the policy is Local".to_owned()
        }
        Dropped::UnknownAddress => {
            let ranges = &world.options.services.service_cidrs;
            let range = ranges.iter().find(|range| range.contains(&packet.destination.ip()));
            let value = range.map(ToString::to_string).unwrap_or_default();
            causes.push(Cause { object: None, field: "--service-cidr".to_owned(), value });
            "the address is in the range of Services, and no Service has it".to_owned()
        }
    };
    end(node, packet, Action::Drop, causes, why, &mut trail);
    trail.end(VerdictKind::Dropped)
}

/// The node's answer at a `healthCheckNodePort`.
pub(crate) fn health(node: &Arc<str>, packet: &Packet, snapshot: &ServiceSnapshot, trail: &Trail) -> Option<Path> {
    let at = packet.destination;
    let asked = snapshot.node.node_port_addresses.contains(&at.ip());
    let (id, service, check) = snapshot.services().filter(|_| asked).find_map(|(id, service)| {
        let check = service.health.filter(|check| check.port == at.port())?;
        Some((id, service, check))
    })?;
    let local = match Family::of(at.ip()) {
        Family::V4 => check.local_v4,
        Family::V6 => check.local_v6,
    };
    let status = headwater_service_nat::health_answer(id, local, true).status;
    let why = format!("health check of Service {id}: answers {status}, with {local} ready endpoints on this node");
    let mut trail = trail.clone();
    let cause = Cause {
        object: Some(service.origin.key.clone()),
        field: "spec.healthCheckNodePort".to_owned(),
        value: check.port.to_string(),
    };
    end(node, packet, Action::Answer, vec![cause], why.clone(), &mut trail);
    let flow = Flow { source: End::Socket(at), destination: End::Address(packet.source) };
    trail.reply.push(Leg { at: Place::Node(node.clone()), flow, outer: None });
    let sees = Sees {
        peer: End::Address(packet.source),
        client: None,
        provenance: None,
        headers: Vec::new(),
        proxy_header: None,
    };
    let hop = u32::try_from(trail.hops.len()).ok();
    Some(trail.path(Verdict { kind: VerdictKind::Answered, hop, why }, Some(sees)))
}
