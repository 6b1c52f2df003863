//! The API server that all share, and for each implementation a topology that is programmed by it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use headwater_testkit::cluster::Cluster;
use headwater_testkit::lab::{Lab, Process};
use headwater_testkit::services::{Entry, Family, Pod, Topology, Transport, ask_with};
use headwater_testkit::wait;
use tokio::runtime::{Builder, Runtime};

use crate::implementation::Implementation;
use crate::object::{self, Endpoint, Frontend, Service, TARGET_PORT};
use crate::scenario;

/// Until a proxy that was just started has programmed everything, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Until a change is programmed.
pub const CHANGE: Duration = Duration::from_secs(20);
/// Until one question counts as unanswered while a change is waited for.
const SHORT: Duration = Duration::from_millis(500);

/// The namespace of everything here.
pub const NAMESPACE: &str = "services";
/// Numbers of Services from here on are given to stories.
const FIRST_FREE: u8 = 60;

/// A topology with an implementation on its nodes.
#[derive(Debug)]
pub struct Stand {
    /// Who programs it.
    pub implementation: Implementation,
    /// Its machines.
    pub topology: Topology<'static>,
    agents: Vec<Process>,
    lab: &'static Lab,
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime can be made")
});
static PODS: AtomicUsize = AtomicUsize::new(1);
static NUMBERS: AtomicU8 = AtomicU8::new(FIRST_FREE);

/// The API server with the objects of all scenarios.
///
/// # Errors
/// When it does not start.
pub fn cluster() -> Result<&'static Cluster> {
    static CLUSTER: OnceLock<Result<Cluster>> = OnceLock::new();
    let made = CLUSTER.get_or_init(|| {
        block_on(async {
            let cluster = Cluster::start().await?;
            let name = serde_json::json!({ "metadata": { "name": NAMESPACE } });
            cluster.create("/api/v1/namespaces", &name).await?;
            // Every topology has the same addresses; this one is there to be asked for them.
            let lab = Lab::new();
            let topology = Topology::start(&lab)?;
            object::create_nodes(&cluster, &topology).await?;
            let pods = Pods::start(&topology)?;
            for (service, endpoints) in scenario::services(&pods) {
                service.create(&cluster, NAMESPACE, &endpoints).await?;
            }
            Ok(cluster)
        })
    });
    made.as_ref().map_err(|error| anyhow!("{error:#}"))
}

/// Runs something of the API to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

/// The pods that every topology begins with, and that scenarios are about.
#[derive(Clone, Debug)]
pub struct Pods {
    /// The endpoint of most Services, on node 1.
    pub web: Pod,
    /// A pod on each node that serves nothing.
    pub shells: Vec<Pod>,
    /// A program in the network of node 1.
    pub host: Pod,
}

impl Pods {
    fn start(topology: &Topology<'_>) -> Result<Self> {
        let web = topology.pod(1, "web-1")?;
        let host = topology.host_pod(1, "host-1");
        for pod in [&web, &host] {
            topology.serve(pod, TARGET_PORT)?;
        }
        let shells =
            topology.nodes().iter().map(|node| topology.pod(node.number(), &format!("shell-{}", node.number())));
        Ok(Self { web, shells: shells.collect::<Result<_>>()?, host })
    }
}

impl Stand {
    /// That of an implementation, which is started when it is first asked for.
    ///
    /// # Errors
    /// When it does not start.
    pub fn of(implementation: Implementation) -> Result<&'static Self> {
        static STANDS: [OnceLock<Result<Stand>>; 3] = [const { OnceLock::new() }; 3];
        let place = &STANDS[implementation as usize];
        place.get_or_init(|| Self::start(implementation)).as_ref().map_err(|error| anyhow!("{error:#}"))
    }

    fn start(implementation: Implementation) -> Result<Self> {
        let cluster = cluster()?;
        // It lives as long as the process: hosts end with it.
        let lab: &'static Lab = Box::leak(Box::new(Lab::new()));
        let topology = Topology::start(lab)?;
        Pods::start(&topology)?;
        let server = cluster.server();
        topology.admit(server.trim_start_matches("https://").parse().context("address of the API server")?)?;
        let agents = topology.nodes().iter().map(|node| implementation.start(cluster, node, cluster.dir()));
        let stand = Self { implementation, agents: agents.collect::<Result<_>>()?, topology, lab };
        let programmed = stand.programmed(&scenario::last(), START).and_then(|()| match implementation {
            Implementation::Headwater => stand.keeps(&scenario::last()),
            _ => Ok(()),
        });
        programmed.with_context(|| stand.describe()).with_context(|| format!("{implementation:?} is not ready"))?;
        if implementation != Implementation::Headwater {
            block_on(object::announce_zones(cluster, &stand.topology))?;
        }
        Ok(stand)
    }

    /// The pods that scenarios are about.
    ///
    /// # Panics
    /// Never: they are made at the start.
    pub fn pods(&self) -> Pods {
        let pods = self.topology.pods();
        let named = |name: &str| pods.iter().find(|pod| pod.name() == name).expect("made at the start").clone();
        Pods {
            web: named("web-1"),
            shells: (1..=3).map(|node| named(&format!("shell-{node}"))).collect(),
            host: named("host-1"),
        }
    }

    /// Waits until pods of every node reach a Service by [`Service::proof`], in both families.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn programmed(&self, service: &Service, deadline: Duration) -> Result<()> {
        for (shell, family) in self.pods().shells.iter().flat_map(|shell| Family::ALL.map(|family| (shell, family))) {
            let target = service.address(&self.topology, service.proof, shell.node(), family);
            let reached = wait::until(deadline, || {
                ask_with(shell.host(), None, target, Transport::Tcp, SHORT)
                    .is_ok_and(|outcome| outcome.seen().is_some())
            });
            reached
                .with_context(|| format!("service {} from {}: {target} is not reached", service.name, shell.name()))?;
        }
        Ok(())
    }

    /// Waits until the client is seen, whichever node receives it: until nodes know of each other, they masquerade.
    fn keeps(&self, service: &Service) -> Result<()> {
        for (node, family) in self.topology.nodes().iter().flat_map(|node| Family::ALL.map(|family| (node, family))) {
            let source = SocketAddr::new(Entry::Router(node.number()).client(family), 0);
            let target = service.address(&self.topology, Frontend::LoadBalancer, node.number(), family);
            let mut last = None;
            let kept = wait::until(START, || {
                let outcome = ask_with(self.topology.client(), Some(source), target, Transport::Tcp, SHORT);
                let kept =
                    outcome.as_ref().is_ok_and(|outcome| outcome.seen().is_some_and(|seen| seen.source == seen.local));
                last = Some(outcome);
                kept
            });
            kept.with_context(|| format!("{} does not keep {source} to {target}: {last:?}", node.name()))?;
        }
        Ok(())
    }

    /// A Service for a story: nobody else has its name and number.
    ///
    /// # Panics
    /// When there are too many.
    pub fn service(&self, name: &str) -> Service {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        assert!((FIRST_FREE..250).contains(&number), "no number is left for a Service");
        Service::new(&format!("{name}-{}", self.implementation.word()), number)
    }

    /// Replaces the endpoints of a Service. Nodes learn of it in their own time.
    ///
    /// # Errors
    /// When the API refuses.
    pub fn set_endpoints(&self, service: &Service, endpoints: &[Endpoint]) -> Result<()> {
        block_on(service.set_endpoints(cluster()?, NAMESPACE, endpoints))
    }

    /// A pod on a node that answers, with a name that nobody else has.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn pod(&self, node: usize) -> Result<Pod> {
        let pod = self.topology.pod(node, &format!("pod-{}", PODS.fetch_add(1, Ordering::Relaxed)))?;
        self.topology.serve(&pod, TARGET_PORT)?;
        Ok(pod)
    }

    /// State of all hosts and output of the agents.
    pub fn describe(&self) -> String {
        let mut text = self.lab.describe();
        for agent in &self.agents {
            // Writing to a string succeeds.
            let _ = writeln!(text, "agent {}:\n{}", agent.id(), agent.stderr());
        }
        text
    }
}
