//! From the name in a target to an address.

use std::net::{IpAddr, SocketAddr};

use headwater_model::nat::Family;
use headwater_model::object::{Service, ServiceType};
use headwater_model::origin::NamespacedName;

use crate::question::{Host, Question};
use crate::world::World;

/// Where a request goes first.
pub(crate) enum Destination {
    At(SocketAddr),
    /// To the gateway of this machine, at whatever address the machine has.
    Here,
    Unknown,
}

/// The destination, in the family if there is one, and how it was found.
pub(crate) fn resolve(world: &World, question: &Question, family: Option<Family>) -> (Destination, Vec<String>) {
    let target = &question.target;
    let fits = |ip: &IpAddr| family.is_none_or(|family| Family::of(*ip) == family);
    let at = |ip: IpAddr, note: String| (Destination::At(SocketAddr::new(ip, target.port)), vec![note]);
    let name = match &target.host {
        Host::Address(ip) if world.options.gateway_here && ip.is_loopback() => return (Destination::Here, Vec::new()),
        Host::Address(ip) => return (Destination::At(SocketAddr::new(*ip, target.port)), Vec::new()),
        Host::Name(name) => name,
    };
    if let Some(ip) = question.address {
        return at(ip, format!("{name} is taken to be {ip}, as the question says"));
    }
    if let Some(id) = service_name(name) {
        let Some(service) = world.cluster.services.get(&id) else {
            return (Destination::Unknown, vec![format!("{name} is no name: there is no Service {id}")]);
        };
        return match cluster_ips(service).find(fits) {
            Some(ip) => at(ip, format!("{name} is {ip}: spec.clusterIPs of Service {id}")),
            None if service.spec.service_type == ServiceType::ExternalName => {
                let alias = service.spec.external_name.as_deref().unwrap_or_default();
                (Destination::Unknown, vec![format!("{name} is an alias of {alias} (Service {id} is an ExternalName)")])
            }
            None => {
                let about = world.endpoints_of(&id).find(fits);
                match about {
                    Some(ip) => at(ip, format!("{name} is an address of each endpoint of the headless Service {id}")),
                    None => (Destination::Unknown, vec![format!("Service {id} has no address of the client's family")]),
                }
            }
        };
    }
    for id in &world.gateways {
        let Some(service) = world.cluster.services.get(id) else { continue };
        let takes = service.spec.ports.iter().any(|port| port.port == target.port);
        let ingress = service.status.load_balancer.ingress.iter().filter_map(|ingress| ingress.ip.as_deref());
        let external = ingress.chain(service.spec.external_ips.iter().map(String::as_str));
        if let Some(ip) = external.filter_map(|ip| ip.parse().ok()).find(fits).filter(|_| takes) {
            return at(ip, format!("{name} is taken to be {ip}, of the gateways' Service {id}"));
        }
        if service.spec.ports.iter().any(|port| port.node_port == Some(target.port)) {
            let families = [Family::V4, Family::V6].into_iter().filter(|own| family.is_none_or(|asked| asked == *own));
            let nodes = question.node.iter().chain(world.nodes.keys());
            let found = nodes.flat_map(|node| families.clone().filter_map(|family| world.primary(node, family))).next();
            if let Some(ip) = found {
                return at(
                    ip,
                    format!("{name} is taken to be {ip}, of a node: the port is a NodePort of Service {id}"),
                );
            }
        }
    }
    if world.options.gateway_here {
        return (Destination::Here, vec![format!("{name} is taken to be this machine")]);
    }
    (Destination::Unknown, vec![format!("which address {name} has is not known")])
}

/// `NAME.NAMESPACE.svc`, with the cluster's domain behind it or not.
fn service_name(name: &str) -> Option<NamespacedName> {
    let mut labels = name.splitn(4, '.');
    match (labels.next(), labels.next(), labels.next()) {
        (Some(service), Some(namespace), Some("svc")) => Some(NamespacedName::new(namespace, service)),
        _ => None,
    }
}

fn cluster_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    let written = service.spec.cluster_ips.iter().chain(&service.spec.cluster_ip);
    written.filter_map(|ip| ip.parse().ok())
}
