//! The hops of a forwarded packet, in addresses and words.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use headwater_model::nat::{FrontendAddress, KeepClient};
use headwater_model::object::Service;
use headwater_service_nat::{Place as From, SOURCE_IP_ANNOTATION};

use crate::answer::{Action, Cause, Flow, Hop, Leg, Place};
use crate::end::End;
use crate::endpoints::{Forward, Handling, Reason, Way, word};
use crate::walk::Trail;
use crate::world::World;

/// What all ways from one node have in common.
pub(crate) struct Told<'a> {
    pub(crate) world: &'a World,
    pub(crate) forward: &'a Forward<'a>,
    pub(crate) service: &'a Arc<Service>,
    pub(crate) at: SocketAddr,
}

impl Told<'_> {
    /// Adds the hops of the way, and those back. Returns what the endpoints see as their peer.
    pub(crate) fn hops(&self, way: &Way, trail: &mut Trail) -> End {
        let here = Place::Node(self.forward.node.clone());
        let source = End::Address(self.forward.source);
        let asked = Flow { source: source.clone(), destination: End::Socket(self.at) };
        let answer = back(&asked);
        let to_endpoint = |source: End| Flow { source, destination: End::Endpoint };
        let hop = |at: Place, action, after: Flow, outer, causes, why: String| Hop {
            at,
            action,
            before: asked.clone(),
            after: Some(after),
            outer,
            causes,
            why,
        };
        let elsewhere = way.node.as_ref().filter(|node| *node != self.forward.node);
        match &way.handling {
            Handling::Tunnel { here: own, there, hairpin } => {
                let node = way.node.clone().unwrap_or_default();
                let there_at = Place::Node(node.clone());
                let outer = |from: IpAddr, to: SocketAddr| {
                    Some(Flow { source: End::Address(from), destination: End::Socket(to) })
                };
                let socket = |end: &headwater_model::tunnel::TunnelEnd| SocketAddr::new(end.address, end.port);
                let why = format!("chooses node {node}, and sends it there unchanged, by tunnel");
                let out = outer(own.address, socket(there));
                trail.hops.push(hop(here.clone(), Action::Tunnel, asked.clone(), out, self.causes(), why));
                let peer = if *hairpin { self.node_address(&node, way) } else { source };
                let (action, why) = match hairpin {
                    true => (Action::Masquerade, HAIRPIN.to_owned()),
                    false => (Action::Translate, "chooses one of its own endpoints; the source stays".to_owned()),
                };
                trail.hops.push(hop(there_at.clone(), action, to_endpoint(peer.clone()), None, Vec::new(), why));
                // An answer from a NodePort has the address of the node that was asked: no other may send it.
                let node_port = matches!(self.forward.address, FrontendAddress::NodePort(_));
                if self.forward.rules.keep == KeepClient::Direct && !node_port {
                    trail.reply.push(Leg { at: there_at, flow: answer, outer: None });
                } else {
                    trail.reply.push(Leg { at: here, flow: answer.clone(), outer: None });
                    trail.reply.push(Leg { at: there_at, flow: answer, outer: outer(there.address, socket(own)) });
                }
                peer
            }
            handling => {
                let (action, peer, why) = match handling {
                    Handling::Hairpin => (Action::Masquerade, self.own_address(way), HAIRPIN.to_owned()),
                    Handling::Masquerade(reason) => {
                        (Action::Masquerade, self.own_address(way), self.masqueraded(reason, way))
                    }
                    _ => (Action::Translate, source, "chooses an endpoint; the source stays".to_owned()),
                };
                let causes = self.causes();
                trail.hops.push(hop(here.clone(), action, to_endpoint(peer.clone()), None, causes, why));
                trail.reply.push(Leg { at: here, flow: answer, outer: None });
                if let Some(node) = elsewhere {
                    let flow = to_endpoint(peer.clone());
                    let at = Place::Node(node.clone());
                    trail.hops.push(Hop {
                        at: at.clone(),
                        action: Action::Route,
                        before: flow.clone(),
                        after: Some(flow.clone()),
                        outer: None,
                        causes: Vec::new(),
                        why: "hands it to the endpoint".to_owned(),
                    });
                    trail.reply.push(Leg { at, flow: back(&flow), outer: None });
                }
                peer
            }
        }
    }

    fn own_address(&self, way: &Way) -> End {
        self.node_address(self.forward.node, way)
    }

    fn node_address(&self, node: &Arc<str>, way: &Way) -> End {
        let to = way.endpoints.first().map_or(self.at.ip(), |endpoint| endpoint.ip());
        self.world.masquerade(node, to).map_or_else(|| End::Node(node.clone()), End::Address)
    }

    fn masqueraded(&self, reason: &Reason, way: &Way) -> String {
        let node = way.node.as_deref().unwrap_or_default();
        let why = match reason {
            Reason::Wanted => "it is set so".to_owned(),
            Reason::NoTunnelHere => "this node has no tunnel, by which it could do otherwise".to_owned(),
            Reason::NoTunnelThere(None) => format!("node {node} has no tunnel"),
            Reason::NoTunnelThere(Some(problem)) => format!("node {node} has no tunnel: {problem}"),
            Reason::NoNode => "on which node the endpoint is, no slice says".to_owned(),
            Reason::OffCluster => "it comes from outside of the cluster to a cluster IP".to_owned(),
            Reason::All => "everything to cluster IPs is masqueraded".to_owned(),
            Reason::FromNode => "the node itself sends it, and the answer has to come back to it".to_owned(),
        };
        format!("chooses an endpoint, and takes the client's place: {why}")
    }

    /// What of the Service, or of the node's settings, is responsible.
    pub(crate) fn causes(&self) -> Vec<Cause> {
        let mut causes = of_frontend(self.service, self.forward.address);
        let options = &self.world.options.services;
        let flag = |field: &str, value: String| Cause { object: None, field: field.to_owned(), value };
        let policy = policy(self.service, self.forward.address);
        match self.forward.address {
            FrontendAddress::ClusterIp(_) => {
                if options.masquerade_all {
                    causes.push(flag("--masquerade-all", String::new()));
                } else if !options.cluster_cidrs.is_empty() && self.forward.place != From::Pod {
                    let ranges: Vec<String> = options.cluster_cidrs.iter().map(ToString::to_string).collect();
                    causes.push(flag("--cluster-cidr", ranges.join(",")));
                }
            }
            _ if policy.1 == "Local" || self.forward.place != From::Remote => {}
            _ => causes.push(match self.service.metadata.annotations.get(SOURCE_IP_ANNOTATION) {
                Some(value) => Cause {
                    object: Some(self.service.key()),
                    field: annotation(),
                    value: value.chars().take(60).collect(),
                },
                None => flag("--source-ip", word(options.keep).to_owned()),
            }),
        }
        causes
    }
}

const HAIRPIN: &str =
    "the endpoint is the sender itself: it takes the sender's place, so that the answer comes back here";

/// Path of the annotation.
pub(crate) fn annotation() -> String {
    format!("metadata.annotations[{SOURCE_IP_ANNOTATION}]")
}

pub(crate) fn back(flow: &Flow) -> Flow {
    Flow { source: flow.destination.clone(), destination: flow.source.clone() }
}

/// Field and value of the policy that counts for an address.
pub(crate) fn policy(service: &Service, address: FrontendAddress) -> (&'static str, &'static str) {
    let (field, value) = match address {
        FrontendAddress::ClusterIp(_) => ("spec.internalTrafficPolicy", &service.spec.internal_traffic_policy),
        _ => ("spec.externalTrafficPolicy", &service.spec.external_traffic_policy),
    };
    (field, if value.as_deref() == Some("Local") { "Local" } else { "Cluster" })
}

/// Which address of the Service it is, and the policy that goes with it.
pub(crate) fn of_frontend(service: &Service, address: FrontendAddress) -> Vec<Cause> {
    let (field, value) = match address {
        FrontendAddress::ClusterIp(at) => ("spec.clusterIPs".to_owned(), at.ip().to_string()),
        FrontendAddress::LoadBalancer(at) => ("status.loadBalancer.ingress".to_owned(), at.ip().to_string()),
        FrontendAddress::ExternalIp(at) => ("spec.externalIPs".to_owned(), at.ip().to_string()),
        FrontendAddress::NodePort(port) => {
            let index = service.spec.ports.iter().position(|wanted| wanted.node_port == Some(port)).unwrap_or_default();
            (format!("spec.ports[{index}].nodePort"), port.to_string())
        }
    };
    let (policy, says) = policy(service, address);
    let cause = |field: String, value: String| Cause { object: Some(service.key()), field, value };
    vec![cause(field, value), cause(policy.to_owned(), says.to_owned())]
}
