//! The machines of a cluster, and who programs their Services.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use headwater_testkit::cluster::Cluster;
use headwater_testkit::lab::{Host, Lab as Hosts, Process};
use headwater_testkit::services::{CLUSTER_CIDR, Family, Node, Pod, SERVICE_CIDR, Topology, kube_proxy_configuration};
use serde::Serialize;

use super::super::Lab;
use super::objects::{ENDPOINT_BITS, NODES, endpoint};
use super::traffic::{self, Servers};
use crate::process::{cpu_of, pss_of};

/// Until a question at an address that is not programmed yet is given up. The kernel alone makes a connection, and
/// needs some ten microseconds.
const SHORT: Duration = Duration::from_millis(20);

/// Between two questions.
const LOOK: Duration = Duration::from_millis(1);

/// Who programs a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Agent {
    /// `headwater node`.
    Headwater,
    /// kube-proxy with `mode: nftables`.
    Nftables,
    /// kube-proxy with `mode: iptables`.
    Iptables,
}

impl Agent {
    pub(super) const ALL: [Self; 3] = [Self::Headwater, Self::Nftables, Self::Iptables];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Headwater => "headwater",
            Self::Nftables => "kube-proxy nftables",
            Self::Iptables => "kube-proxy iptables",
        }
    }
}

/// Where an agent reads objects.
#[derive(Debug, Clone, Copy)]
pub(super) enum Objects<'a> {
    Api(&'a Cluster),
    /// Only Headwater does.
    Directory(&'a Path),
}

/// An agent at work on a node.
#[derive(Debug)]
pub(super) struct Running {
    process: Process,
    agent: Agent,
    pub(super) started: Instant,
}

impl Running {
    /// # Errors
    /// When it has ended, with what it has printed.
    pub(super) fn alive(&mut self) -> Result<()> {
        let Some(status) = self.process.ended() else { return Ok(()) };
        let text = self.process.stderr();
        let tail: Vec<&str> = text.lines().rev().take(8).collect();
        bail!("{} ended with {status}: {}", self.agent.name(), tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    /// User and system time, with that of the programs that it has run.
    pub(super) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.process.id())
    }

    pub(super) fn pss_mib(&self) -> f64 {
        pss_of(&self.process.id().to_string()).unwrap_or_default() as f64 / f64::from(1 << 20)
    }
}

/// Client, router, three nodes, and on each node a pod that has the addresses of all its endpoints.
pub(super) struct Stand<'hosts> {
    // In the order in which they end.
    _servers: Vec<Servers>,
    /// A pod on node 1.
    pub(super) shell: Pod,
    /// A pod on each node.
    pub(super) pods: Vec<Pod>,
    pub(super) topology: Topology<'hosts>,
}

impl<'hosts> Stand<'hosts> {
    /// With an API server in reach of the nodes, if one is given.
    pub(super) fn start(hosts: &'hosts Hosts, cluster: Option<&Cluster>) -> Result<Self> {
        let topology = Topology::start(hosts)?;
        if let Some(cluster) = cluster {
            let server = cluster.server();
            topology.admit(server.trim_start_matches("https://").parse().context("address of the API server")?)?;
        }
        let shell = topology.pod(1, "shell")?;
        let (mut pods, mut servers) = (Vec::new(), Vec::new());
        for number in 1..=NODES {
            let pod = topology.pod(number, &format!("pod-{number}"))?;
            let network = format!("{}/{ENDPOINT_BITS}", endpoint(number, 0).address);
            pod.host().ip(&format!("route add local {network} dev lo"))?;
            for node in topology.nodes() {
                let there = topology.node(number).address(Family::V4);
                let via = if node.number() == number { pod.address(Family::V4) } else { there };
                node.host().ip(&format!("route add {network} via {via}"))?;
            }
            let node = topology.node(number);
            topology.router().ip(&format!(
                "route add {} via {}",
                node.pod_cidr(Family::V4),
                node.address(Family::V4)
            ))?;
            servers.push(Servers::start(pod.host())?);
            pods.push(pod);
        }
        // What is not translated is refused at once, instead of going astray in silence.
        topology.node(1).host().ip("route add unreachable 10.96.0.0/16")?;
        Ok(Self { _servers: servers, shell, pods, topology })
    }

    /// From here on nodes reach the pods of others by VXLAN, with static entries, as a pod network such as Flannel does.
    pub(super) fn tunnel_pods(&self) -> Result<()> {
        let nodes = self.topology.nodes();
        let mac = |node: &Node| format!("02:00:00:00:00:{:02x}", node.number());
        // The first address of the node's pods, so that others have a route to it.
        let inside = |node: &Node| node.pod_cidr(Family::V4).split('/').next().unwrap_or_default().to_owned();
        for node in nodes {
            let host = node.host();
            let (own, address) = (mac(node), node.address(Family::V4));
            host.ip(&format!(
                "link add overlay address {own} mtu 1450 type vxlan id 1 local {address} dstport 8472 nolearning"
            ))?;
            host.ip(&format!("address add {}/32 dev overlay", inside(node)))?;
            host.ip("link set dev overlay up")?;
            for peer in nodes.iter().filter(|peer| peer.number() != node.number()) {
                let (mac, inside, address) = (mac(peer), inside(peer), peer.address(Family::V4).to_string());
                host.ip(&format!("neighbor add {inside} lladdr {mac} dev overlay nud permanent"))?;
                host.ip(&format!("route replace {} via {inside} dev overlay onlink", peer.pod_cidr(Family::V4)))?;
                host.exec("bridge", &["fdb", "append", &mac, "dev", "overlay", "dst", &address])?;
            }
        }
        for pod in self.pods.iter().chain([&self.shell]) {
            pod.host().ip("link set dev eth0 mtu 1450")?;
        }
        Ok(())
    }

    pub(super) fn node(&self, number: usize) -> &Node {
        self.topology.node(number)
    }

    /// Starts an agent on a node; kube-proxy's configuration goes to `folder`.
    pub(super) fn run(
        &self,
        lab: &Lab,
        agent: Agent,
        number: usize,
        objects: Objects<'_>,
        folder: &Path,
    ) -> Result<Running> {
        let node = self.node(number);
        let command = match (agent, objects) {
            (Agent::Headwater, objects) => {
                let binary = lab.headwater.first().context("only kube-proxy is measured")?;
                let mut command = Command::new(binary);
                command.arg("node").args(["--node-name", node.name()]).env_remove("HEADWATER_LOG");
                command.args(["--cluster-cidr", CLUSTER_CIDR, "--service-cidr", SERVICE_CIDR]);
                match objects {
                    Objects::Api(cluster) => command.arg("--kubeconfig").arg(cluster.kubeconfig()),
                    Objects::Directory(directory) => command.arg(directory),
                };
                command
            }
            (peer, Objects::Api(cluster)) => {
                let mode = if peer == Agent::Nftables { "nftables" } else { "iptables" };
                let file = folder.join(format!("{mode}-{}.json", lab.next_number()));
                let pace = &lab.args.sizes.min_sync_period;
                fs::write(&file, kube_proxy_configuration(mode, cluster.kubeconfig(), node.name(), pace).to_string())?;
                let mut command = Command::new(cluster.program("kube-proxy")?);
                command.arg("--config").arg(file);
                command
            }
            (peer, Objects::Directory(_)) => bail!("{} reads no directory", peer.name()),
        };
        let started = Instant::now();
        Ok(Running { process: node.host().spawn_process(&command)?, agent, started })
    }
}

/// Waits until all of these addresses answer. Returns how long it took from the start of the agent; `None`: longer than
/// the limit.
pub(super) fn reached(
    from: &Host,
    targets: &[SocketAddr],
    running: &mut Running,
    limit: Duration,
) -> Result<Option<Duration>> {
    ensure!(!targets.is_empty(), "nothing to wait for");
    let mut left = targets.to_vec();
    from.run(|| {
        while let Some(target) = left.last() {
            if traffic::ask(*target, SHORT).is_ok() {
                left.pop();
                continue;
            }
            running.alive()?;
            if running.started.elapsed() > limit {
                return Ok(None);
            }
            std::thread::sleep(LOOK);
        }
        Ok(Some(running.started.elapsed()))
    })
}

/// Waits until the pod at this address answers. Returns when it did.
pub(super) fn answers(from: &Host, target: SocketAddr, pod: Ipv4Addr, limit: Duration) -> Result<Instant> {
    let started = Instant::now();
    from.run(|| {
        loop {
            let seen = traffic::ask(target, SHORT);
            let now = Instant::now();
            if seen.as_ref().is_ok_and(|seen| seen.target == pod) {
                return Ok(now);
            }
            ensure!(now - started < limit, "{target} leads to {seen:?} after {limit:?}, not to {pod}");
        }
    })
}
