//! What to change so that the client is kept, or reached at all; and what the change costs.

use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::nat::{FrontendAddress, PortRules, Transport};
use headwater_model::object::Service;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use headwater_service_nat::SOURCE_IP_ANNOTATION;

use crate::answer::Mend;
use crate::endpoints::{Forward, Handling, Reason, Way};
use crate::hops::{annotation, policy};
use crate::world::World;

fn of(object: Option<ObjectKey>, field: impl Into<String>, change: impl Into<String>, cost: impl Into<String>) -> Mend {
    Mend { object, field: field.into(), change: change.into(), cost: cost.into() }
}

fn general(change: &str, cost: &str) -> Mend {
    of(None, "", change, cost)
}

const TUNNEL_COSTS: &str =
    "one hop more for flows whose endpoint is on another node, and the tunnel's 50 bytes (70 over IPv6) of each packet";
const LOCAL_COSTS: &str = "nodes without an endpoint drop: the load balancer has to ask healthCheckNodePort, and clients \
                           must not be sent to all nodes; endpoints get uneven shares";
const NOTHING: &str = "none";

fn local(service: &Service) -> Mend {
    of(Some(service.key()), "spec.externalTrafficPolicy", "Local", LOCAL_COSTS)
}

fn run_here(node: &Arc<str>) -> Mend {
    let key = ObjectKey::new(Kind::Node, "", node.clone());
    of(Some(key), "", format!("run headwater node on {node}"), "one pod on the node; it takes kube-proxy's place")
}

/// For endpoints that a gateway tells nothing of the client.
pub(crate) fn tell(object: ObjectKey) -> Mend {
    let cost = "every backend of this gateway must expect a PROXY header ahead of what its clients send";
    of(Some(object), "clientAddress.emitProxyProtocol", "V2", cost)
}

/// For packets that arrive under another address than the client's.
pub(crate) fn of_way(world: &World, forward: &Forward<'_>, service: &Service, way: &Way) -> Vec<Mend> {
    let reason = match &way.handling {
        Handling::Translate | Handling::Tunnel { hairpin: false, .. } => return Vec::new(),
        Handling::Hairpin | Handling::Tunnel { hairpin: true, .. } => {
            let change = "let the pod ask itself at its own address, or at 127.0.0.1";
            return vec![general(change, NOTHING)];
        }
        Handling::Masquerade(reason) => reason,
    };
    match reason {
        Reason::Wanted => {
            let key = Some(service.key());
            let keep = match service.metadata.annotations.contains_key(SOURCE_IP_ANNOTATION) {
                true => of(key, annotation(), "preserve", TUNNEL_COSTS),
                false => of(key, annotation(), "preserve (or --source-ip preserve on the nodes)", TUNNEL_COSTS),
            };
            vec![keep, local(service)]
        }
        Reason::NoTunnelHere => vec![run_here(forward.node), local(service)],
        Reason::NoTunnelThere(None) => vec![run_here(way.node.as_ref().unwrap_or(forward.node)), local(service)],
        Reason::NoTunnelThere(Some(problem)) => {
            let key = way.node.clone().map(|node| ObjectKey::new(Kind::Node, "", node));
            let field = format!("metadata.annotations[{}]", headwater_model::tunnel::TUNNEL_ANNOTATION);
            vec![of(key, field, format!("mend what is wrong: {problem}"), NOTHING), local(service)]
        }
        Reason::NoNode => {
            let slice = ObjectKey { kind: Kind::EndpointSlice, id: service.id() };
            let change = format!("name the node in the slices of Service {}", slice.id);
            vec![of(None, "endpoints[].nodeName", change, NOTHING)]
        }
        Reason::OffCluster => {
            let external = service.spec.ports.iter().find_map(|port| port.node_port.filter(|port| *port != 0));
            let door = match external {
                Some(port) => format!("use NodePort {port}, or an address of the load balancer"),
                None => "give the Service type NodePort or LoadBalancer, and use that address".to_owned(),
            };
            let range = format!("add the range of {} to it, if pods are there", forward.source);
            let cost = "answers must find their way through this node by themselves";
            vec![of(Some(service.key()), "spec.type", door, NOTHING), of(None, "--cluster-cidr", range, cost)]
        }
        Reason::All => {
            let change = "leave it out";
            let cost = "clients outside of the cluster need routes by which answers to cluster IPs come back";
            vec![of(None, "--masquerade-all", change, cost)]
        }
        Reason::FromNode => {
            let address = world.masquerade(forward.node, forward.source);
            let own = address.map(|ip| format!(" ({ip})")).unwrap_or_default();
            let change = format!("use the cluster IP, or let the program bind the node's address{own}");
            vec![general(&change, NOTHING)]
        }
    }
}

pub(crate) fn no_endpoints(service: &NamespacedName) -> Mend {
    let key = ObjectKey { kind: Kind::Service, id: service.clone() };
    let change = "make a pod ready that the selector finds, with the port that targetPort names";
    of(Some(key), "spec.selector", change, NOTHING)
}

pub(crate) fn unknown_port(service: &Service, protocol: Transport) -> Mend {
    let ports: Vec<String> = service
        .spec
        .ports
        .iter()
        .map(|port| format!("{}/{}", port.port, port.protocol.as_deref().unwrap_or("TCP")))
        .take(20)
        .collect();
    let change = match ports.is_empty() {
        true => format!("list a {} port", protocol.as_str()),
        false => format!("ask one of its ports ({}), or list this one", ports.join(", ")),
    };
    of(Some(service.key()), "spec.ports", change, NOTHING)
}

pub(crate) fn source_ranges(service: &Service, source: IpAddr) -> Mend {
    let bits = if source.is_ipv4() { 32 } else { 128 };
    let change = format!("add {source}/{bits}");
    of(Some(service.key()), "spec.loadBalancerSourceRanges", change, "that client may connect")
}

/// The policy is Local, and nothing is.
pub(crate) fn no_local(service: &Service, address: FrontendAddress, rules: &PortRules) -> Vec<Mend> {
    let (field, _) = policy(service, address);
    let key = || Some(service.key());
    let on: std::collections::BTreeSet<&str> =
        rules.cluster.iter().filter_map(|slot| rules.endpoint(*slot)?.node.as_deref()).collect();
    let on: Vec<&str> = on.into_iter().take(5).collect();
    let everywhere =
        of(None, "", "run an endpoint on each node (a DaemonSet, or topologySpreadConstraints)", "more pods");
    if matches!(address, FrontendAddress::ClusterIp(_)) {
        return vec![of(key(), field, "Cluster", "traffic between nodes; the client is kept all the same"), everywhere];
    }
    let mut mends = vec![of(
        key(),
        field,
        "Cluster (headwater keeps the client under it, unless headwater.dev/source-ip says masquerade)",
        TUNNEL_COSTS,
    )];
    if let Some(port) = service.spec.health_check_node_port.filter(|port| *port != 0) {
        let change = format!("let the load balancer ask port {port} of each node, and send to those that answer 200");
        mends.push(of(key(), "spec.healthCheckNodePort", change, "the load balancer's checks"));
    }
    if !on.is_empty() {
        mends.push(general(&format!("send to a node that has an endpoint: {}", on.join(", ")), "clients know nodes"));
    }
    mends.push(everywhere);
    mends
}

pub(crate) fn behind_terminating() -> Mend {
    let change = "let the load balancer pass packets on (no proxy), or put a Headwater gateway behind it that reads its \
                  PROXY header or X-Forwarded-For";
    general(change, "see docs/client-address.md: the gateway has to be told whom to trust")
}

pub(crate) fn node_objects() -> Vec<Mend> {
    vec![general("add the Nodes to what is read: kubectl get nodes -o yaml", NOTHING)]
}

pub(crate) fn name_address(target: &str) -> Vec<Mend> {
    let change = format!("name the address by --address, or ask for it in place of the name in {target}");
    vec![general(&change, NOTHING), general("name the gateways' Service by --gateway NAMESPACE/NAME", NOTHING)]
}

pub(crate) fn sender() -> Vec<Mend> {
    vec![general("name the address that the load balancer connects from by --sender", NOTHING)]
}

/// The gateway's sender is somebody who stands before it, and is not believed.
pub(crate) fn trust(settings: ObjectKey, sender: IpAddr, field: &str, value: &str) -> Vec<Mend> {
    let cost = "whoever can connect from there can name any client";
    vec![
        of(Some(settings.clone()), "spec.clientAddress.trustedProxies", format!("add {sender}"), cost),
        of(Some(settings), field, value, "the sender has to send it each time"),
    ]
}

pub(crate) fn no_route(host: &str) -> Vec<Mend> {
    vec![general(
        &format!("write an Ingress of the gateway's class with a rule for host {host} and this path"),
        NOTHING,
    )]
}
