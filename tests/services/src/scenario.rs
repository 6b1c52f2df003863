//! The cells of the table: who asks which address of which Service, and what the endpoint sees.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use headwater_explain::Source;
use headwater_testkit::lab::Host;
use headwater_testkit::services::{
    Capture, Entry, Family, Hop, Node, Outcome, PATIENCE, Pod, Topology, Trace, Transport, ask_with, next_port,
};
use serde_json::json;

use crate::object::{Endpoint, Frontend, Service};
use crate::parallel;
use crate::stand::{Pods, Stand};
use crate::translated::translated;

/// How a Service, or a cluster, wants the client to be kept: annotation `headwater.dev/source-ip`. kube-proxy knows
/// only one way, and is asked about the first alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Replies go back through the node that received the request.
    Preserve,
    /// Replies go from the endpoint's node to the client.
    PreserveDirect,
    /// As kube-proxy.
    Masquerade,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Preserve, Self::PreserveDirect, Self::Masquerade];

    /// As in the annotation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preserve => "preserve",
            Self::PreserveDirect => "preserve-direct",
            Self::Masquerade => "masquerade",
        }
    }
}

/// What a Service is like. Each has one endpoint, on node 1, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// `externalTrafficPolicy: Cluster`.
    Cluster,
    /// `externalTrafficPolicy: Local`.
    Local,
    /// `internalTrafficPolicy: Local`.
    InternalLocal,
    /// `externalTrafficPolicy: Cluster`, the endpoint is in the node's network.
    HostCluster,
    /// `externalTrafficPolicy: Local`, the endpoint is in the node's network.
    HostLocal,
    /// `externalTrafficPolicy: Cluster`, no endpoints.
    Empty,
    /// As [`Policy::Cluster`], at a port that it does not have.
    OtherPort,
    /// No Service.
    OtherAddress,
}

impl Policy {
    /// All of them, in the order of the page.
    pub const ALL: [Self; 8] = [
        Self::Cluster,
        Self::Local,
        Self::InternalLocal,
        Self::HostCluster,
        Self::HostLocal,
        Self::Empty,
        Self::OtherPort,
        Self::OtherAddress,
    ];

    /// Heading of its part of the page.
    pub fn title(self) -> &'static str {
        match self {
            Self::Cluster => "externalTrafficPolicy: Cluster",
            Self::Local => "externalTrafficPolicy: Local",
            Self::InternalLocal => "internalTrafficPolicy: Local",
            Self::HostCluster => "externalTrafficPolicy: Cluster, endpoint with hostNetwork",
            Self::HostLocal => "externalTrafficPolicy: Local, endpoint with hostNetwork",
            Self::Empty => "No endpoints",
            Self::OtherPort => "A port that the Service does not have",
            Self::OtherAddress => "An address that no Service has",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Local => "local",
            Self::InternalLocal => "internal-local",
            Self::HostCluster => "host-cluster",
            Self::HostLocal => "host-local",
            Self::Empty => "empty",
            Self::OtherPort => "other-port",
            Self::OtherAddress => "other-address",
        }
    }
}

/// Who asks, and on which node the packets meet the Service first. Node 1 has the endpoint, node 2 has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// The client outside, to node N.
    Outside(usize),
    /// The client outside, by the load balancer that passes packets, to node N.
    Balancer(usize),
    /// A pod of the first node, at an address of the second (which only matters for node ports).
    Pod(usize, usize),
    /// The endpoint itself, at its own node.
    Hairpin,
    /// A program in the network of the first node, at an address of the second.
    Node(usize, usize),
    /// A program in the network of a node, at 127.0.0.1 or ::1.
    Loopback(usize),
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let having = |node: &usize| if *node == 1 { "the endpoint's node" } else { "another node" };
        match self {
            Self::Outside(node) => write!(formatter, "outside → {}", having(node)),
            Self::Balancer(node) => write!(formatter, "outside → load balancer → {}", having(node)),
            Self::Hairpin => write!(formatter, "the endpoint itself"),
            Self::Pod(from, to) if from == to => write!(formatter, "pod on {}", having(from)),
            Self::Pod(from, to) => write!(formatter, "pod on {} → {}", having(from), having(to)),
            Self::Node(from, to) if from == to => write!(formatter, "{} itself", having(from)),
            Self::Node(from, to) => write!(formatter, "{} itself → {}", having(from), having(to)),
            Self::Loopback(node) => write!(formatter, "{} itself → localhost", having(node)),
        }
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIp => "externalIP",
        })
    }
}

/// A row of the table. Its cells are asked in both families, by TCP and by UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// Which Service.
    pub policy: Policy,
    /// Which of its addresses.
    pub frontend: Frontend,
    /// Who asks.
    pub path: Path,
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, {}, {}", self.policy.title(), self.frontend, self.path)
    }
}

/// All rows, in the order of the page.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for policy in Policy::ALL {
        for frontend in [Frontend::ClusterIp, Frontend::NodePort, Frontend::LoadBalancer, Frontend::ExternalIp] {
            rows.extend(paths(policy, frontend).into_iter().map(|path| Row { policy, frontend, path }));
        }
    }
    rows
}

fn paths(policy: Policy, frontend: Frontend) -> Vec<Path> {
    let mut paths = vec![Path::Outside(1), Path::Outside(2)];
    if frontend == Frontend::LoadBalancer {
        paths.extend([Path::Balancer(1), Path::Balancer(2)]);
    }
    paths.extend([Path::Pod(1, 1), Path::Pod(3, 3)]);
    if frontend == Frontend::NodePort {
        paths.extend([Path::Pod(1, 2), Path::Pod(3, 1)]);
    }
    paths.extend([Path::Hairpin, Path::Node(1, 1), Path::Node(3, 3)]);
    if frontend == Frontend::NodePort {
        paths.extend([Path::Node(1, 2), Path::Node(3, 1), Path::Loopback(1), Path::Loopback(3)]);
    }
    match policy {
        // Its other addresses are those of externalTrafficPolicy.
        Policy::InternalLocal if frontend != Frontend::ClusterIp => Vec::new(),
        // The endpoint is the node.
        Policy::HostCluster | Policy::HostLocal => {
            paths.retain(|path| *path != Path::Hairpin);
            paths
        }
        // No Service has a node port: the page would say what a node says at any closed port.
        Policy::OtherPort if frontend == Frontend::NodePort => Vec::new(),
        Policy::OtherAddress if frontend != Frontend::ClusterIp => Vec::new(),
        Policy::Empty | Policy::OtherPort | Policy::OtherAddress => {
            vec![Path::Outside(1), Path::Pod(1, 1), Path::Node(1, 1)]
        }
        _ => paths,
    }
}

/// The Service of a policy and a mode.
fn service(policy: Policy, mode: Mode) -> Service {
    // In the order of declaration, from 1.
    let number = 1 + 3 * policy as u8 + mode as u8;
    let service = Service::new(&format!("{}-{}", policy.word(), mode.as_str()), number);
    let mut service = match policy {
        Policy::Cluster | Policy::HostCluster | Policy::Empty | Policy::OtherPort | Policy::OtherAddress => service,
        Policy::Local | Policy::HostLocal => service.local(),
        Policy::InternalLocal => service.with(json!({ "internalTrafficPolicy": "Local" })),
    };
    service.annotations = json!({ "headwater.dev/source-ip": mode.as_str() });
    service
}

/// The Services of all scenarios, with their endpoints.
pub fn services(pods: &Pods) -> Vec<(Service, Vec<Endpoint>)> {
    let mut services = Vec::new();
    for (policy, mode) in Policy::ALL.iter().flat_map(|policy| Mode::ALL.map(|mode| (*policy, mode))) {
        let endpoints = match policy {
            Policy::OtherAddress => continue,
            Policy::Cluster | Policy::Local | Policy::InternalLocal | Policy::OtherPort => {
                vec![Endpoint::of(&pods.web)]
            }
            Policy::HostCluster | Policy::HostLocal => vec![Endpoint::of(&pods.host)],
            Policy::Empty => Vec::new(),
        };
        services.push((service(policy, mode), endpoints));
    }
    services.push((last(), vec![Endpoint::of(&pods.web)]));
    services
}

/// A Service that is created after all the others.
pub fn last() -> Service {
    Service::new("last", 50)
}

/// What became of a question, in the words of the page.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// The endpoint sees who asks: the client outside, a pod, a node.
    Kept(&'static str),
    /// It sees the node at which the packet met the Service.
    IngressNode,
    /// It sees something else, or another port than that of who asks.
    Other(String),
    /// Nobody answers, and that is said.
    Refused,
    /// Nothing comes back.
    Dropped,
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(who) => formatter.write_str(who),
            Self::IngressNode => formatter.write_str("ingress node"),
            Self::Other(what) => formatter.write_str(what),
            Self::Refused => formatter.write_str("refused"),
            Self::Dropped => formatter.write_str("dropped"),
        }
    }
}

/// A row in one family and protocol, with all addresses of a topology.
#[derive(Clone, Debug)]
pub struct Question {
    /// Where it is asked.
    pub host: Host,
    /// The source, if there is a choice.
    pub source: Option<IpAddr>,
    /// What is asked.
    pub target: SocketAddr,
    /// By which protocol.
    pub transport: Transport,
    /// Who asks.
    pub from: Source,
    /// The node that receives the packet, where neither the asker nor the address tells.
    pub receiver: Option<String>,
    who: &'static str,
    ingress: [IpAddr; 2],
    own: Vec<IpAddr>,
    endpoint: SocketAddr,
}

impl Row {
    /// The question of this row.
    pub fn question(
        &self,
        topology: &Topology<'_>,
        pods: &Pods,
        mode: Mode,
        family: Family,
        transport: Transport,
    ) -> Question {
        let service = service(self.policy, mode);
        let endpoint = match self.policy {
            Policy::HostCluster | Policy::HostLocal => &pods.host,
            _ => &pods.web,
        };
        let (client, node_port) = (topology.client().clone(), self.frontend == Frontend::NodePort);
        let entered = |entry: Entry| if node_port { topology.client_address(family) } else { entry.client(family) };
        let pod = |node: usize| pods.shells[node - 1].clone();
        let (host, source, who, ingress) = match self.path {
            Path::Outside(node) => (client, Some(entered(Entry::Router(node))), "client", node),
            Path::Balancer(node) => (client, Some(entered(Entry::Balancer(node))), "client", node),
            Path::Pod(from, to) => (pod(from).host().clone(), None, "pod", to),
            Path::Hairpin => (endpoint.host().clone(), None, "pod", endpoint.node()),
            Path::Node(from, to) => (topology.node(from).host().clone(), None, "node", to),
            Path::Loopback(node) => (topology.node(node).host().clone(), None, "node", node),
        };
        let mut target = service.address(topology, self.frontend, ingress, family);
        if let Path::Loopback(_) = self.path {
            target.set_ip(if family == Family::V4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        if self.policy == Policy::OtherPort {
            target.set_port(crate::object::PORT + 1);
        }
        let addresses = |node: usize| {
            let node = topology.node(node);
            [node.address(family), node.gateway(family)]
        };
        // Whichever of its addresses a node takes, it is the node.
        let own = match self.path {
            Path::Node(from, _) | Path::Loopback(from) => addresses(from).to_vec(),
            _ => Vec::new(),
        };
        let from = match self.path {
            Path::Outside(_) | Path::Balancer(_) => Source::Address(source.unwrap_or(target.ip())),
            Path::Pod(from, _) => Source::Address(pod(from).address(family)),
            Path::Hairpin => Source::Address(endpoint.address(family)),
            Path::Node(from, _) | Path::Loopback(from) => Source::Node(topology.node(from).name().into()),
        };
        let outside = matches!(self.path, Path::Outside(_) | Path::Balancer(_));
        let receiver = (outside && !node_port).then(|| topology.node(ingress).name().to_owned());
        Question {
            host,
            source,
            target,
            transport,
            from,
            receiver,
            who,
            ingress: addresses(ingress),
            own,
            endpoint: SocketAddr::new(endpoint.address(family), crate::object::TARGET_PORT),
        }
    }
}

impl Question {
    fn source(&self, port: u16) -> SocketAddr {
        let any: IpAddr =
            if self.target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        SocketAddr::new(self.source.unwrap_or(any), port)
    }

    /// Asks from a port of its own.
    ///
    /// # Errors
    /// When another endpoint answers, or the question cannot be asked.
    pub fn ask(&self, port: u16) -> Result<(Answer, Outcome)> {
        let outcome = ask_with(&self.host, Some(self.source(port)), self.target, self.transport, PATIENCE)?;
        let answer = match &outcome {
            Outcome::Refused => Answer::Refused,
            Outcome::Silent => Answer::Dropped,
            Outcome::Unreachable(errno) => Answer::Other(errno.to_string()),
            Outcome::Seen(seen) => {
                ensure!(seen.target == self.endpoint, "{} is answered by {}", self.target, seen.target);
                let source = seen.source;
                if source == seen.local || self.own.contains(&source.ip()) {
                    Answer::Kept(self.who)
                } else if self.ingress.contains(&source.ip()) {
                    Answer::IngressNode
                } else {
                    Answer::Other(format!("{source} (asked from {})", seen.local))
                }
            }
        };
        Ok((answer, outcome))
    }
}

/// What became of one question, and where its packets were.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Which row it belongs to.
    pub row: Row,
    /// The family of all its addresses.
    pub family: Family,
    /// What was asked.
    pub question: Question,
    /// The source port that it was asked from.
    pub port: u16,
    /// In the words of the page.
    pub answer: Answer,
    /// In detail.
    pub outcome: Outcome,
    /// Where its packets were.
    pub trace: Trace,
}

/// Asks everything in one mode, and watches the packets on every host.
///
/// # Errors
/// Those of [`Question::ask`], and when the packet that reached the pod is not what the pod saw.
pub fn observe_all(stand: &Stand, mode: Mode) -> Result<Vec<Observation>> {
    let (topology, pods) = (&stand.topology, stand.pods());
    let mut questions = Vec::new();
    for (row, family) in rows().into_iter().flat_map(|row| Family::ALL.map(|family| (row, family))) {
        questions.extend(
            Transport::ALL
                .map(|transport| (row, family, row.question(topology, &pods, mode, family, transport), next_port())),
        );
    }
    let outside = [topology.client(), topology.router(), topology.balancer(), pods.web.host()];
    let inside = topology.nodes().iter().map(Node::host).chain(pods.shells.iter().map(Pod::host));
    let capture = Capture::start(outside.into_iter().chain(inside))?;
    let answers = parallel::map(&questions, |(_, _, question, port)| -> Result<_> {
        let answer = question.ask(*port)?;
        let left = match question.from {
            Source::Node(_) => translated(&question.host, question.transport, *port, question.target)?,
            _ => None,
        };
        Ok((answer, left.unwrap_or((question.source(*port), question.target))))
    });
    let flows = capture.finish()?;
    let observations = questions.into_iter().zip(answers).map(|((row, family, question, port), answer)| {
        let what = || format!("{row}, {family:?} {:?}", question.transport);
        let ((answer, outcome), (source, target)) = answer.with_context(what)?;
        let trace = flows.trace(question.transport, question.host.name(), source, target, outcome.seen());
        if let Outcome::Seen(seen) = &outcome {
            // What is for a program of the node itself is captured before the node translates it: the destination of
            // what comes to a Service's address, and a source port that another connection of the program has. Those
            // that masquerading gives are such at times.
            let own = question.endpoint.ip() == pods.host.address(family);
            let reached = |hop: &Hop| match own {
                true => hop.source.ip() == seen.source.ip(),
                false => (hop.source, hop.target) == (seen.source, seen.target),
            };
            ensure!(
                trace.hops.last().is_some_and(reached),
                "{}: the pod saw {seen:?}, and of {source} to {target} packets were {trace:#?}",
                what()
            );
        }
        Ok(Observation { row, family, question, port, answer, outcome, trace })
    });
    observations.collect()
}

/// The answers of one row and column: IPv4 TCP, IPv4 UDP, IPv6 TCP, IPv6 UDP.
pub type Cell = Vec<(Family, Transport, Answer)>;

/// The answers row by row.
pub fn cells(observations: &[Observation]) -> Vec<(Row, Cell)> {
    let mut cells: BTreeMap<Row, Cell> = BTreeMap::new();
    for Observation { row, family, question, answer, .. } in observations {
        cells.entry(*row).or_default().push((*family, question.transport, answer.clone()));
    }
    cells.into_iter().collect()
}
