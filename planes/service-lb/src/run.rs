//! The service plane of a node.
//!
//! ```text
//!  source ── Batch ──> Cluster ──> ServiceNat ──> snapshot ──┬─> agent thread ──> kernel
//!     ^                     └────> peers, own end ───────────┘        └─> State ─> readiness, own Node's annotation
//!     └ API server or directory                    snapshot ────> health checks
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use headwater_kube_io::{ApiServerSource, Batch, DirectorySource, NodeAnnotation};
use headwater_model::cluster::{Change, Cluster};
use headwater_model::finding::{Finding, Severity};
use headwater_model::nat::{KeepClient, ServiceSnapshot};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use headwater_model::tunnel::{Peers, TUNNEL_ANNOTATION, TunnelEnd};
use headwater_process::metrics::Registry;
use headwater_process::publish::{Publisher, Subscriber, publish};
use headwater_service_nat::{NodePortAddresses, Options, ServiceNat, facts, is_eligible, peers};
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::agent::{Agent, KernelError, Order, Work};
use crate::metrics;
use crate::state::{State, TunnelState};

/// Where objects come from.
pub enum Source {
    /// With what was read first.
    Directory(Batch, Box<DirectorySource>),
    /// `annotation`: where this node tells the others where its end of the tunnel is.
    ApiServer { source: Box<ApiServerSource>, annotation: NodeAnnotation },
}

impl Source {
    async fn next(&mut self) -> Batch {
        match self {
            Self::Directory(_, source) => source.next().await,
            Self::ApiServer { source, .. } => source.next().await,
        }
    }
}

/// What the plane is told besides objects.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `metadata.name` of this node's Node.
    pub node: Arc<str>,
    pub node_port_addresses: NodePortAddresses,
    pub cluster_cidrs: Vec<IpNet>,
    pub service_cidrs: Vec<IpNet>,
    pub masquerade_all: bool,
    /// For Services without an annotation of their own.
    pub keep: KeepClient,
    /// UDP port of the tunnel.
    pub tunnel_port: u16,
    /// Of packets in the tunnel, in bytes; `None`: what the link below leaves.
    pub tunnel_mtu: Option<u32>,
    /// Where `/healthz` is served.
    pub healthz: Option<SocketAddr>,
    /// Keep what endpoints answer to clients' addresses for the sockets of gateways here.
    pub transparent: bool,
}

/// Why the plane does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// A running plane. When it is dropped the kernel stays as it is, and traffic flows on.
pub struct ServiceLb {
    snapshots: Subscriber<ServiceSnapshot>,
    state: watch::Receiver<Arc<State>>,
    findings: watch::Receiver<Arc<[Finding]>>,
    tasks: Vec<JoinHandle<()>>,
}

impl ServiceLb {
    /// Opens the kernel and begins to follow the source.
    ///
    /// # Errors
    /// When the kernel cannot be opened: which capability or feature is missing.
    pub fn start(source: Source, settings: Settings, registry: &Registry) -> Result<Self, StartError> {
        Self::start_telling(source, settings, registry, Vec::new())
    }

    /// As [`Self::start`]; what the source tells is passed on to these, too, so that it is read once.
    ///
    /// # Errors
    /// As there.
    pub fn start_telling(
        source: Source,
        settings: Settings,
        registry: &Registry,
        listeners: Vec<mpsc::Sender<Batch>>,
    ) -> Result<Self, StartError> {
        let (tell_addresses, addresses) = watch::channel(Vec::new());
        let agent = Agent::start(settings.node.clone(), settings.tunnel_mtu, settings.transparent, tell_addresses)?;
        let (publisher, snapshots) = publish(ServiceSnapshot::default());
        let (tell_findings, findings) = watch::channel(Arc::default());
        let state = agent.state.clone();
        metrics::register(registry, state.clone(), snapshots.clone());
        let options = Options {
            node_port_addresses: settings.node_port_addresses.clone(),
            cluster_cidrs: settings.cluster_cidrs.clone(),
            service_cidrs: settings.service_cidrs.clone(),
            masquerade_all: settings.masquerade_all,
            keep: settings.keep,
            ..Options::default()
        };
        let (tell_problems, problems) = watch::channel(Vec::new());
        let (tell_eligible, eligible) = watch::channel(false);
        let plane = Plane {
            source,
            listeners,
            cluster: Cluster::default(),
            nat: ServiceNat::new(options.clone()),
            options,
            addresses,
            agent,
            publisher,
            peers: Arc::default(),
            findings: tell_findings,
            read: Vec::new(),
            derived: Vec::new(),
            about_nodes: Vec::new(),
            problems,
            eligible: tell_eligible,
            tunnel_port: settings.tunnel_port,
            node: settings.node.clone(),
        };
        let mut tasks = vec![tokio::spawn(plane.run())];
        tasks.push(tokio::spawn(crate::health::serve_checks(snapshots.clone(), state.clone(), tell_problems)));
        if let Some(address) = settings.healthz {
            tasks.push(tokio::spawn(crate::health::serve_healthz(address, state.clone(), eligible)));
        }
        Ok(Self { snapshots, state, findings, tasks })
    }

    /// What is derived from the objects.
    pub fn snapshots(&self) -> Subscriber<ServiceSnapshot> {
        self.snapshots.clone()
    }

    /// What the kernel has of it.
    pub fn state(&self) -> watch::Receiver<Arc<State>> {
        self.state.clone()
    }

    /// What is wrong with the objects.
    pub fn findings(&self) -> watch::Receiver<Arc<[Finding]>> {
        self.findings.clone()
    }
}

impl Drop for ServiceLb {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Owner of the objects and of what is derived.
struct Plane {
    source: Source,
    /// Other planes, which read the same objects.
    listeners: Vec<mpsc::Sender<Batch>>,
    cluster: Cluster,
    nat: ServiceNat,
    options: Options,
    addresses: watch::Receiver<Vec<IpAddr>>,
    agent: Agent,
    publisher: Publisher<ServiceSnapshot>,
    peers: Arc<Peers>,
    findings: watch::Sender<Arc<[Finding]>>,
    /// What is wrong with objects as such.
    read: Vec<Finding>,
    /// What is wrong with what they say together.
    derived: Vec<Finding>,
    /// Of these, what is wrong with Nodes; read anew when one changes.
    about_nodes: Vec<Finding>,
    /// Health checks that cannot be answered.
    problems: watch::Receiver<Vec<Finding>>,
    /// Whether load balancers may send new connections here.
    eligible: watch::Sender<bool>,
    tunnel_port: u16,
    node: Arc<str>,
}

impl Plane {
    async fn run(mut self) {
        let mut batch = match &mut self.source {
            Source::Directory(first, _) => std::mem::take(first),
            source @ Source::ApiServer { .. } => source.next().await,
        };
        let mut states = self.agent.state.clone();
        loop {
            self.pass_on(&batch).await;
            self.take(batch);
            batch = loop {
                tokio::select! {
                    batch = self.source.next() => break batch,
                    Ok(()) = self.addresses.changed() => {
                        break Batch { findings: self.read.clone(), ..Batch::default() };
                    }
                    Ok(()) = self.problems.changed() => self.report(),
                    changed = states.changed() => match changed {
                        Ok(()) => {
                            let state = states.borrow_and_update().clone();
                            self.announce(&state);
                        }
                        Err(_) => {
                            tracing::error!("the thread that programs the kernel has ended; restart this node's agent");
                            return;
                        }
                    },
                }
            };
        }
    }

    async fn pass_on(&self, batch: &Batch) {
        for listener in self.listeners.iter().filter(|_| !batch.changes.is_empty()) {
            // One that ended says so itself.
            let _ = listener.send(batch.clone()).await;
        }
    }

    fn take(&mut self, batch: Batch) {
        let keys: Vec<ObjectKey> = batch.changes.iter().map(Change::key).collect();
        for change in &batch.changes {
            self.cluster.apply(change);
        }
        self.read = batch.findings;
        self.eligible.send_replace(is_eligible(&self.cluster, &self.node));
        let addresses = self.addresses.borrow_and_update().clone();
        let known = facts(&self.cluster, &self.node, addresses.clone());
        let node = known.unwrap_or_else(|| headwater_service_nat::NodeFacts {
            name: self.node.clone(),
            addresses,
            ..headwater_service_nat::NodeFacts::default()
        });
        let own = match node.primary.first() {
            Some(address) => Ok(TunnelEnd::of_node(&self.node, *address, self.tunnel_port)),
            None if self.cluster.nodes.contains_key(&NamespacedName::new("", &*self.node)) => {
                Err(format!("Node {} has no InternalIP in its status", self.node))
            }
            None => Err(format!("there is no Node {}", self.node)),
        };
        let own_node = ObjectKey::new(Kind::Node, "", self.node.clone());
        if keys.contains(&own_node)
            && let Source::ApiServer { annotation, .. } = &self.source
        {
            let seen = self.cluster.nodes.get(&own_node.id).and_then(|node| node.metadata.annotations.get(ANNOTATION));
            annotation.seen(seen.map(String::as_str));
        }
        if self.peers_may_have_changed(&keys) {
            let (mut peers, findings) = peers(&self.cluster, &self.node);
            self.about_nodes = findings;
            // Peers are judged by the end that stands here, whatever the annotation says.
            peers.own = own.as_ref().ok().copied();
            if *self.peers != peers {
                self.peers = Arc::new(peers);
            }
        }
        self.options.node = node;
        self.nat.set_options(self.options.clone());
        let update = self.nat.apply(&self.cluster, &keys);
        self.derived = update.findings.iter().chain(&self.about_nodes).cloned().collect();
        self.report();
        self.publisher.publish(update.snapshot.clone());
        let work = Work { snapshot: update.snapshot, changed: update.changed, peers: self.peers.clone(), own };
        // Without the agent's thread nothing is applied, which its state says.
        let _ = self.agent.orders.send(Order::Work(work));
        let state = self.agent.state.borrow().clone();
        self.announce(&state);
    }

    fn peers_may_have_changed(&self, keys: &[ObjectKey]) -> bool {
        keys.iter().any(|key| key.kind == Kind::Node) || self.peers.by_name.is_empty()
    }

    /// Tells the other nodes where to send, once packets can be taken.
    fn announce(&self, state: &State) {
        let Source::ApiServer { annotation, .. } = &self.source else { return };
        match &state.tunnel {
            TunnelState::Unknown => {}
            TunnelState::Up { end, .. } if state.generation.is_some() => {
                annotation.want(Some(&end.annotation()));
            }
            TunnelState::Up { .. } => {}
            TunnelState::Down { .. } => annotation.want(None),
        }
    }

    fn report(&mut self) {
        let problems = self.problems.borrow_and_update().clone();
        let findings: Vec<Finding> = self.read.iter().chain(&self.derived).chain(&problems).cloned().collect();
        let before = self.findings.borrow().clone();
        if *before == *findings {
            return;
        }
        for finding in findings.iter().filter(|finding| !before.contains(finding)) {
            match finding.severity {
                Severity::Error => tracing::error!(reason = finding.reason, "{finding}"),
                Severity::Warning => tracing::warn!(reason = finding.reason, "{finding}"),
                Severity::Info => tracing::info!(reason = finding.reason, "{finding}"),
            }
        }
        self.findings.send_replace(findings.into());
    }
}

/// Name of the annotation by which nodes tell each other of their ends.
pub const ANNOTATION: &str = TUNNEL_ANNOTATION;
