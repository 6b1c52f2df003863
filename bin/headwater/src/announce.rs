//! Addresses of load balancers, announced by `headwater node`.

use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;
use headwater_announcer::bgp::{BgpAnnouncer, BgpState, Stop};
use headwater_announcer::l2::{DEFAULT_EXCLUDED, L2Announcer, L2State, Membership, Settings, excluded};
use headwater_announcer::metrics::SpeakerAnnounced;
use headwater_announcer::objects::{Objects, WAITING_BATCHES};
use headwater_kube_io::{ApiServer, Batch, Selection};
use headwater_process::metrics::Registry;
use headwater_translate::announce::AnnounceOptions;
use rustix::thread::CapabilitySet;
use tokio::sync::{mpsc, watch};

use crate::cluster::{pod_name, pod_uid, variable};

/// Which addresses are announced, and how.
#[derive(clap::Args)]
pub(crate) struct AnnounceArgs {
    /// How addresses of load balancers are announced to the network, by MetalLB's resources, separated by commas [default: not at all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WAYS")]
    announce: Vec<Way>,
    /// Namespace of MetalLB's resources
    #[arg(long, default_value = "metallb-system", value_name = "NAMESPACE")]
    metallb_namespace: String,
    /// Namespace of the Leases by which nodes that announce know of each other [default: the pod's, else that of the kubeconfig]
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "directory")]
    lease_namespace: Option<String>,
    /// Announce only Services with this loadBalancerClass [default: those without]
    #[arg(long = "lb-class", value_name = "CLASS")]
    class: Option<String>,
    /// Announce from nodes with the label node.kubernetes.io/exclude-from-external-load-balancers, too
    #[arg(long)]
    ignore_exclude_lb: bool,
    /// Regular expression of names of interfaces that ARP and NDP are never spoken on, in the place of those of pods and tunnels; may be given several times
    #[arg(long, value_name = "REGEX")]
    exclude_interface: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// ARP and NDP: one node answers for each address
    L2,
    /// BGP: every node tells the routers of its BGPPeers
    Bgp,
}

impl AnnounceArgs {
    pub(crate) fn is_wanted(&self) -> bool {
        !self.announce.is_empty()
    }

    pub(crate) fn selection(&self) -> Selection {
        let selection = Selection::of_announcing_node(&self.metallb_namespace);
        match self.announce.contains(&Way::Bgp) {
            true => selection.and_routers(&self.metallb_namespace),
            false => selection,
        }
    }

    fn options(&self, node: &Arc<str>) -> AnnounceOptions {
        AnnounceOptions { class: self.class.clone(), ignore_exclude_label: self.ignore_exclude_lb, node: node.clone() }
    }
}

/// What runs of it.
pub(crate) struct Announcing {
    batches: Option<mpsc::Sender<Batch>>,
    layer2: Option<L2Announcer>,
    bgp: Option<BgpAnnouncer>,
    /// Keeps what the others read.
    _objects: Option<Objects>,
}

impl Announcing {
    /// Starts what is wanted, in the network of this thread.
    pub(crate) fn start(
        args: &AnnounceArgs,
        node: &Arc<str>,
        server: Option<&ApiServer>,
        bare: &Registry,
    ) -> anyhow::Result<Self> {
        if !args.is_wanted() {
            return Ok(Self { batches: None, layer2: None, bgp: None, _objects: None });
        }
        let (batches, told) = mpsc::channel(WAITING_BATCHES);
        let objects = Objects::follow(told, args.options(node), args.metallb_namespace.clone());
        let announced = SpeakerAnnounced::new(bare, node.clone());
        let layer2 = match args.announce.contains(&Way::L2) {
            true => Some(args.layer2(node, &objects, server, bare, &announced)?),
            false => None,
        };
        let bgp = match args.announce.contains(&Way::Bgp) {
            true => Some(args.bgp(node, &objects, server, &announced)?),
            false => None,
        };
        Ok(Self { batches: Some(batches), layer2, bgp, _objects: Some(objects) })
    }

    /// Who wants to hear of objects.
    pub(crate) fn listeners(&self) -> Vec<mpsc::Sender<Batch>> {
        self.batches.iter().cloned().collect()
    }

    pub(crate) fn layer2(&self) -> Option<watch::Receiver<Arc<L2State>>> {
        self.layer2.as_ref().map(L2Announcer::state)
    }

    pub(crate) fn bgp(&self) -> Option<watch::Receiver<Arc<BgpState>>> {
        self.bgp.as_ref().map(BgpAnnouncer::state)
    }

    /// Is silent from now on; other nodes take over at once, and routers forget this one.
    pub(crate) async fn stop(self) {
        let layer2 = async {
            if let Some(layer2) = self.layer2 {
                layer2.stop().await;
            }
        };
        let bgp = async {
            if let Some(bgp) = self.bgp {
                bgp.stop(Stop::Shutdown).await;
            }
        };
        tokio::join!(layer2, bgp);
    }
}

impl AnnounceArgs {
    fn layer2(
        &self,
        node: &Arc<str>,
        objects: &Objects,
        server: Option<&ApiServer>,
        bare: &Registry,
        announced: &SpeakerAnnounced,
    ) -> anyhow::Result<L2Announcer> {
        let capabilities = rustix::thread::capabilities(None)?.effective;
        anyhow::ensure!(
            capabilities.contains(CapabilitySet::NET_RAW),
            "the capability CAP_NET_RAW is missing, which announcing by ARP and NDP needs: run as root, or in a container that has it"
        );
        let patterns: Vec<&str> = match &self.exclude_interface[..] {
            [] => DEFAULT_EXCLUDED.to_vec(),
            given => given.iter().map(String::as_str).collect(),
        };
        let excluded = excluded(&patterns).map_err(anyhow::Error::msg).context("--exclude-interface")?;
        let membership = server.map(|server| Membership {
            server: server.clone(),
            namespace: self
                .lease_namespace
                .clone()
                .or_else(|| variable("POD_NAMESPACE"))
                .unwrap_or_else(|| server.namespace().to_owned()),
            pod: pod_uid().map(|uid| (pod_name(), uid)),
        });
        let statuses = server.map(|_| self.metallb_namespace.clone());
        let settings = Settings { node: node.clone(), excluded };
        Ok(L2Announcer::start(objects.announcements(), membership, statuses, settings, bare, announced)?)
    }

    /// Routers are connected to, and never connect: as with MetalLB.
    fn bgp(
        &self,
        node: &Arc<str>,
        objects: &Objects,
        server: Option<&ApiServer>,
        announced: &SpeakerAnnounced,
    ) -> anyhow::Result<BgpAnnouncer> {
        // Discriminators of BFD and the jitter of timers differ between processes; nothing secret comes of it.
        let seed = ahash::RandomState::new().hash_one(node);
        let told = server.map(|server| (server.clone(), self.metallb_namespace.clone()));
        let (vips, routers) = (objects.announcements(), objects.routers());
        Ok(BgpAnnouncer::start(vips, routers, node.clone(), None, seed, told, announced)?)
    }
}
