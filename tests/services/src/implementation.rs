//! Who programs the nodes.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use headwater_testkit::cluster::{Cluster, headwater};
use headwater_testkit::lab::Process;
use headwater_testkit::services::{CLUSTER_CIDR, Node, SERVICE_CIDR, kube_proxy_configuration};

/// A service proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Implementation {
    /// kube-proxy with `mode: nftables`.
    Nftables,
    /// kube-proxy with `mode: iptables`.
    Iptables,
    /// `headwater node`.
    Headwater,
}

impl Implementation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nftables, Self::Iptables, Self::Headwater];

    /// A word for names of objects.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Headwater => "headwater",
        }
    }

    /// Starts it on a node. Files go to `dir`.
    ///
    /// # Errors
    /// When the program is absent.
    pub fn start(self, cluster: &Cluster, node: &Node, dir: &Path) -> Result<Process> {
        let mut command = match self {
            Self::Nftables | Self::Iptables => Command::new(cluster.program("kube-proxy")?),
            Self::Headwater => Command::new(headwater()?),
        };
        match self {
            Self::Nftables | Self::Iptables => {
                let file = dir.join(format!("{}-{}.json", self.word(), node.name()));
                let configuration = kube_proxy_configuration(self.word(), cluster.kubeconfig(), node.name(), "1ms");
                fs::write(&file, configuration.to_string())?;
                command.arg("--config").arg(file).arg("--v=2");
            }
            Self::Headwater => {
                command.arg("node").arg("--kubeconfig").arg(cluster.kubeconfig());
                command.args(["--node-name", node.name()]);
                command.args(["--cluster-cidr", CLUSTER_CIDR, "--service-cidr", SERVICE_CIDR]);
            }
        }
        node.host().spawn_process(&command)
    }
}
