//! The walk: from node to node, as the packet goes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use headwater_model::cluster::Cluster;
use headwater_model::nat::{Family, FrontendAddress, ServiceSnapshot, Transport};
use headwater_model::object::Service;
use headwater_model::origin::NamespacedName;
use headwater_service_nat::{Decision, Packet, Place as From, decide};

use crate::answer::{Action, Answer, Explanation, Flow, Hop, Leg, Mend, Path, Place, Sees, Verdict, VerdictKind};
use crate::end::End;
use crate::endpoints::{Forward, Handling, Way};
use crate::name::{Destination, resolve};
use crate::question::{Question, Source};
use crate::world::World;
use crate::{gateway, group, mend, refusal};

/// Looks at other Nodes, for all receiving nodes together. Beyond it only some nodes are asked.
const BUDGET: usize = 250_000;

/// Says what becomes of a request. Total: what cannot be known is an answer as well.
pub fn explain(world: &World, question: &Question) -> Explanation {
    let asked = match &question.from {
        Source::Address(ip) => Some(*ip),
        Source::Node(name) => [Family::V4, Family::V6].into_iter().find_map(|family| world.primary(name, family)),
    };
    let (destination, mut notes) = resolve(world, question, asked.map(Family::of));
    let family = match &destination {
        Destination::At(at) => Some(Family::of(at.ip())),
        _ => None,
    };
    let client = match (&question.from, family) {
        (Source::Node(name), Some(family)) => world.primary(name, family).or(asked),
        _ => asked,
    };
    let mut explanation = Explanation {
        question: question.clone(),
        destination: match destination {
            Destination::At(at) => Some(at),
            _ => None,
        },
        notes: Vec::new(),
        answers: Vec::new(),
    };
    let answers = match (client, destination) {
        (None, _) => nobody(format!("{} has no address that is known", question.from), mend::node_objects()),
        (Some(client), Destination::Here) => {
            let mut walk = Walk::new(world, question, client);
            let at = SocketAddr::new(unspecified(client), question.target.port);
            let trail = walk.begin(End::Machine);
            let source = question.sender.unwrap_or(client);
            vec![Answer { nodes: Vec::new(), paths: vec![gateway::here(&mut walk, trail, source, at, End::Machine)] }]
        }
        (_, Destination::Unknown) => {
            nobody(notes.pop().unwrap_or_default(), mend::name_address(&question.target.to_string()))
        }
        (Some(client), Destination::At(at)) => match mismatch(question, client, at) {
            Some(why) => nobody(why, Vec::new()),
            None => Walk::new(world, question, client).answers(at, &mut notes),
        },
    };
    explanation.answers = answers;
    explanation.notes = notes;
    explanation
}

/// An answer without a node.
fn nobody(why: String, mends: Vec<Mend>) -> Vec<Answer> {
    let verdict = Verdict { kind: VerdictKind::Unknown, hop: None, why };
    let path = Path { mends, ..Trail::default().path(verdict, None) };
    vec![Answer { nodes: Vec::new(), paths: vec![path] }]
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// One packet has addresses of one family.
fn mismatch(question: &Question, client: IpAddr, at: SocketAddr) -> Option<String> {
    let sender = question.sender.unwrap_or(client);
    (Family::of(sender) != Family::of(at.ip()))
        .then(|| format!("{sender} and {} are of different families: no packet goes from one to the other", at.ip()))
}

/// What happened so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trail {
    pub(crate) hops: Vec<Hop>,
    /// Last leg first.
    pub(crate) reply: Vec<Leg>,
    pub(crate) notes: Vec<String>,
    pub(crate) mends: Vec<Mend>,
    pub(crate) weight: u32,
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) endpoint_node: Option<Arc<str>>,
    pub(crate) backends: Vec<String>,
}

impl Trail {
    pub(crate) fn path(self, verdict: Verdict, sees: Option<Sees>) -> Path {
        let mut reply = self.reply;
        reply.reverse();
        Path {
            weight: self.weight.max(1),
            endpoints: self.endpoints,
            endpoint_node: self.endpoint_node,
            backends: self.backends,
            hops: self.hops,
            reply: if sees.is_some() { reply } else { Vec::new() },
            sees,
            verdict,
            mends: self.mends,
            notes: self.notes,
        }
    }

    /// The path ends at the last hop.
    pub(crate) fn end(self, kind: VerdictKind) -> Path {
        let why = self.hops.last().map(|hop| hop.why.clone()).unwrap_or_default();
        let hop = u32::try_from(self.hops.len()).ok();
        self.path(Verdict { kind, hop, why }, None)
    }

    /// Number of the hop that changed the source first.
    pub(crate) fn changed(&self) -> Option<u32> {
        let changes = |hop: &Hop| hop.after.as_ref().is_some_and(|after| after.source != hop.before.source);
        self.hops.iter().position(changes).and_then(|at| u32::try_from(at + 1).ok())
    }
}

pub(crate) struct Walk<'a> {
    pub(crate) world: &'a World,
    pub(crate) question: &'a Question,
    pub(crate) client: IpAddr,
    parts: BTreeMap<SocketAddr, Cluster>,
    snapshots: BTreeMap<(Arc<str>, SocketAddr), Arc<ServiceSnapshot>>,
}

impl<'a> Walk<'a> {
    fn new(world: &'a World, question: &'a Question, client: IpAddr) -> Self {
        Self { world, question, client, parts: BTreeMap::new(), snapshots: BTreeMap::new() }
    }

    pub(crate) fn protocol(&self) -> Transport {
        self.question.target.scheme.transport()
    }

    /// With the load balancer that stands before us, if one does.
    fn begin(&self, destination: End) -> Trail {
        let mut trail = Trail { weight: 1, ..Trail::default() };
        let Some(sender) = self.question.sender else { return trail };
        let client = End::Address(self.client);
        let before = Flow { source: client.clone(), destination: destination.clone() };
        trail.reply.push(Leg {
            at: Place::LoadBalancer,
            flow: Flow { source: destination.clone(), destination: client },
            outer: None,
        });
        trail.hops.push(Hop {
            at: Place::LoadBalancer,
            action: Action::Proxy,
            before,
            after: Some(Flow { source: End::Address(sender), destination }),
            outer: None,
            causes: Vec::new(),
            why: "it ends the client's connection, and opens its own".to_owned(),
        });
        trail
    }

    fn answers(&mut self, at: SocketAddr, notes: &mut Vec<String>) -> Vec<Answer> {
        let source = self.question.sender.unwrap_or(self.client);
        let proxied = self.world.behind_proxy(at, self.protocol());
        if let Some((service, node_port)) = &proxied {
            let note = format!(
                "{} is a load balancer's own address (ipMode Proxy in Service {service}): it connects to NodePort {node_port}",
                at.ip()
            );
            notes.push(note);
            if self.question.sender.is_none() {
                let why = format!("{} belongs to a load balancer, and from where it connects is not known", at.ip());
                return nobody(why, mend::sender());
            }
        }
        let nodes = self.receivers(source, at, proxied.is_some(), notes);
        if let Some(name) = self.question.node.as_ref().filter(|name| !self.world.nodes.contains_key(*name)) {
            let known: Vec<&str> = self.world.nodes.keys().take(10).map(|name| &**name).collect();
            let why = match &known[..] {
                [] => format!("there is no node {name}, nor any other"),
                _ => format!("there is no node {name}; there are: {}", known.join(", ")),
            };
            return nobody(why, mend::node_objects());
        }
        if nodes.is_empty() {
            if self.world.options.gateway_here {
                let trail = self.begin(End::Socket(at));
                let path = gateway::here(self, trail, source, at, End::Socket(at));
                return vec![Answer { nodes, paths: vec![path] }];
            }
            return nobody("no node is known".to_owned(), mend::node_objects());
        }
        let mut answers = Vec::new();
        for node in nodes {
            let at = match proxied {
                None => at,
                Some((_, port)) => match self.world.primary(&node, Family::of(at.ip())) {
                    Some(ip) => SocketAddr::new(ip, port),
                    None => continue,
                },
            };
            let trail = self.begin(End::Socket(at));
            let paths = self.arrive(&node, source, at, trail);
            answers.push(Answer { nodes: vec![node], paths });
        }
        group::together(self.world, answers)
    }

    /// Nodes that may receive the packet.
    fn receivers(&self, source: IpAddr, at: SocketAddr, proxied: bool, notes: &mut Vec<String>) -> Vec<Arc<str>> {
        let world = self.world;
        if let Some(name) = &self.question.node {
            return vec![name.clone()];
        }
        if let Some(name) = world.owner(source).or_else(|| world.node_of_pod(source)) {
            return vec![name.clone()];
        }
        if let Some(name) = world.owner(at.ip()).filter(|_| !proxied) {
            return vec![name.clone()];
        }
        let most = (BUDGET / world.nodes.len().max(1)).max(1);
        if world.nodes.len() > most {
            let more = world.nodes.len() - most;
            notes.push(format!("{more} more nodes were not asked; name one with --node"));
        }
        world.nodes.keys().take(most).cloned().collect()
    }

    fn snapshot(&mut self, node: &Arc<str>, at: SocketAddr) -> Arc<ServiceSnapshot> {
        let world = self.world;
        let part = self.parts.entry(at).or_insert_with(|| world.about(at.ip(), at.port()));
        let made = self.snapshots.entry((node.clone(), at)).or_insert_with(|| world.snapshot(node, part));
        made.clone()
    }

    /// The packet comes to a node, or begins there.
    pub(crate) fn arrive(&mut self, node: &Arc<str>, source: IpAddr, at: SocketAddr, trail: Trail) -> Vec<Path> {
        let snapshot = self.snapshot(node, at);
        // In the order of the kernel's rules: a bridge's address may be in the range of the node's pods.
        let place = match self.world.owner(source) {
            _ if snapshot.node.is_local_pod(source) => From::Pod,
            Some(owner) if owner == node => From::Node,
            _ => From::Remote,
        };
        let packet = Packet { place, source, destination: at, protocol: self.protocol() };
        match decide(&snapshot, &packet) {
            Decision::Pass => self.pass(node, &packet, &snapshot, trail),
            Decision::Forward { rules, frontend, slots, masquerade } => {
                let Some((id, _, _)) = refusal::frontend(&snapshot, &packet) else {
                    return vec![trail.end(VerdictKind::Unknown)];
                };
                let forward = Forward {
                    node,
                    world: self.world,
                    place,
                    source,
                    rules,
                    address: frontend.address,
                    slots,
                    masquerade,
                    masquerade_all: self.world.options.services.masquerade_all,
                };
                self.forward(&forward, id, at, trail)
            }
            Decision::Reject(refused) => vec![refusal::rejected(self.world, node, &packet, &snapshot, refused, trail)],
            Decision::Drop(dropped) => vec![refusal::dropped(self.world, node, &packet, &snapshot, dropped, trail)],
        }
    }

    /// Not for a Service.
    fn pass(&mut self, node: &Arc<str>, packet: &Packet, snapshot: &ServiceSnapshot, mut trail: Trail) -> Vec<Path> {
        let (source, at) = (packet.source, packet.destination);
        let before = Flow { source: End::Address(source), destination: End::Socket(at) };
        let hop = |action, why: String| Hop {
            at: Place::Node(node.clone()),
            action,
            before: before.clone(),
            after: Some(before.clone()),
            outer: None,
            causes: Vec::new(),
            why,
        };
        // Whoever answers does it by the same node.
        let leg = Leg { at: Place::Node(node.clone()), flow: crate::hops::back(&before), outer: None };
        let owner = self.world.owner(at.ip()).cloned();
        let visited = trail.hops.iter().filter(|hop| matches!(hop.at, Place::Node(_))).count();
        if let Some(owner) = owner.clone().filter(|owner| owner != node && visited == 0) {
            let why = format!("not for a Service here; {} is an address of node {owner}", at.ip());
            trail.hops.push(hop(Action::Route, why));
            trail.reply.push(leg);
            return self.arrive(&owner, source, at, trail);
        }
        if owner.as_ref() == Some(node)
            && packet.protocol == Transport::Tcp
            && let Some(path) = refusal::health(node, packet, snapshot, &trail)
        {
            return vec![path];
        }
        let pod = self.world.is_endpoint(at.ip());
        if owner.is_none() && !pod && self.world.options.gateway_here {
            return vec![gateway::here(self, trail, source, at, End::Socket(at))];
        }
        trail.endpoint_node = owner.or_else(|| self.world.node_of_pod(at.ip()).cloned());
        trail.hops.push(hop(Action::Route, "not for a Service".to_owned()));
        trail.reply.push(leg);
        if let Some(service) = self.world.is_gateway(at.ip()).cloned() {
            trail.endpoints = vec![at];
            return vec![gateway::through(self, trail, End::Address(source), at, &service)];
        }
        if pod {
            trail.endpoints = vec![at];
            return vec![self.delivered(trail, End::Address(source))];
        }
        let why = match trail.endpoint_node.as_deref() {
            Some(node) => format!("no Service has it: whatever listens on node {node} itself sees {source}"),
            None => format!(
                "no Service has it: whoever has the address {} sees {source}, as far as we have to do with it",
                at.ip()
            ),
        };
        let hop = u32::try_from(trail.hops.len()).ok();
        vec![trail.path(Verdict { kind: VerdictKind::NotAService, hop, why }, None)]
    }

    fn forward(&mut self, forward: &Forward<'_>, id: &NamespacedName, at: SocketAddr, trail: Trail) -> Vec<Path> {
        let peers = self.world.peers(forward.node);
        let (port, protocol, family) = (forward.rules.port, forward.rules.protocol, forward.rules.family);
        let ways = forward.ways(&peers, |node| {
            let there = self.snapshot(node, at);
            let ports = there.get(id).map(|service| &service.ports[..]).unwrap_or_default();
            let same = ports.iter().find(|p| (p.port, p.protocol, p.family) == (port, protocol, family));
            let local = same.into_iter().flat_map(|rules| rules.local.iter().filter_map(|slot| rules.endpoint(*slot)));
            local.map(|endpoint| endpoint.address).collect()
        });
        let Some(service) = self.world.cluster.services.get(id).cloned() else {
            return vec![trail.end(VerdictKind::Unknown)];
        };
        ways.into_iter().map(|way| self.way(forward, &service, at, way, trail.clone())).collect()
    }

    /// One way to endpoints of a Service.
    fn way(
        &mut self,
        forward: &Forward<'_>,
        service: &Arc<Service>,
        at: SocketAddr,
        way: Way,
        mut trail: Trail,
    ) -> Path {
        let told = crate::hops::Told { world: self.world, forward, service, at };
        let peer = told.hops(&way, &mut trail);
        trail.weight = way.weight;
        trail.mends.extend(mend::of_way(self.world, forward, service, &way));
        if let Some(seconds) = forward.rules.affinity {
            let note = format!(
                "sessionAffinity ClientIP: a client goes where it was, if it was there within the last {seconds} s"
            );
            trail.notes.push(note);
        }
        if let (FrontendAddress::ClusterIp(_), From::Remote, Handling::Translate) =
            (forward.address, forward.place, &way.handling)
            && way.node.as_ref() != Some(forward.node)
        {
            trail.notes.push(
                "the endpoint's answer has to pass the node that translated: where routes do not bring it there, the connection fails"
                    .to_owned(),
            );
        }
        trail.endpoint_node = way.node;
        trail.endpoints = way.endpoints;
        if self.world.gateways.contains(&service.id()) {
            let first = trail.endpoints.first().copied().unwrap_or(at);
            return gateway::through(self, trail, peer, first, &service.id());
        }
        self.delivered(trail, peer)
    }

    /// An endpoint has it.
    fn delivered(&self, mut trail: Trail, peer: End) -> Path {
        let sees = Sees { peer: peer.clone(), client: None, provenance: None, headers: Vec::new(), proxy_header: None };
        let sender = self.world.owner(self.client);
        let verdict = if peer.ip() == Some(self.client) {
            trail.mends.clear();
            Verdict { kind: VerdictKind::Kept, hop: None, why: format!("the endpoint sees {peer}") }
        } else if let Some(node) = sender.filter(|_| peer.ip().and_then(|peer| self.world.owner(peer)) == sender) {
            // Whichever of its addresses a node takes, it is the node.
            trail.mends.clear();
            let why = format!("the endpoint sees {peer}, an address of node {node} as {} is", self.client);
            Verdict { kind: VerdictKind::Kept, hop: None, why }
        } else {
            let hop = trail.changed();
            if self.question.sender.is_some() && hop == Some(1) {
                trail.mends.insert(0, mend::behind_terminating());
            }
            Verdict {
                kind: VerdictKind::Lost,
                hop,
                why: format!("the endpoint sees {peer} in place of {}", self.client),
            }
        };
        trail.path(verdict, Some(sees))
    }
}
