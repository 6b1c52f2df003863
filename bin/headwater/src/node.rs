//! `headwater node`: Services in the kernel of a node, by what an API server or a directory says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use clap::ValueEnum;
use headwater_announcer::bgp::BgpState;
use headwater_kube_io::{Access, ApiError, ApiServer, ApiServerSource, DirectorySource, NodeAnnotation, Selection};
use headwater_model::nat::KeepClient;
use headwater_model::tunnel::{DEFAULT_TUNNEL_PORT, TUNNEL_ANNOTATION};
use headwater_process::admin::Admin;
use headwater_process::metrics::Registry;
use headwater_process::telemetry::LogLevel;
use headwater_service_lb::{ServiceLb, Settings, Source};
use headwater_service_nat::NodePortAddresses;
use ipnet::IpNet;
use rustix::thread::CapabilitySet;
use serde_json::json;

use crate::announce::{AnnounceArgs, Announcing};
use crate::cluster::node_name;
use crate::running::stop_signal;

/// Not the gateway's: both may use the network of one host.
const ADMIN: &str = "127.0.0.1:9181";

/// As kube-proxy's, so that load balancers need not be told.
const HEALTHZ: &str = "[::]:10256";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of manifests, in place of an API server; edits are live
    directory: Option<PathBuf>,
    /// File with the credentials [default: the pod's service account, else $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE", conflicts_with = "directory")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", conflicts_with = "directory")]
    context: Option<String>,
    /// Name of this node's Node [default: $NODE_NAME, else the host's name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    #[command(flatten)]
    services: ServiceArgs,
    #[command(flatten)]
    announce: AnnounceArgs,
    /// Where load balancers ask for the node's health: `/healthz`, `/livez`
    #[arg(long, default_value = HEALTHZ, value_name = "ADDRESS")]
    healthz_address: SocketAddr,
    /// Address of the admin port: metrics, health, status, snapshot
    #[arg(long, alias = "admin-address", default_value = ADMIN, value_name = "ADDRESS")]
    admin: SocketAddr,
    /// UDP port of the tunnel between nodes, the same on all of them
    #[arg(long, default_value_t = DEFAULT_TUNNEL_PORT, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    tunnel_port: u16,
    /// Bytes of a packet inside the tunnel [default: what fits the device of the node's address]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1280..=65_535))]
    tunnel_mtu: Option<u32>,
    /// Bring answers of endpoints back to gateways of this node that connect from clients' own addresses (`transparent`)
    #[arg(long)]
    transparent: bool,
    /// Remove everything that this command ever puts into the kernel, and the annotation of the Node, and end
    #[arg(long)]
    cleanup: bool,
}

/// What nodes do with Services; `explain` is told the same.
#[derive(clap::Args)]
pub(crate) struct ServiceArgs {
    /// Addresses of pods, separated by commas: who comes from elsewhere to a cluster IP is masqueraded [default: nobody is]
    #[arg(long, value_delimiter = ',', value_name = "CIDRS", value_parser = cidr)]
    pub(crate) cluster_cidr: Vec<IpNet>,
    /// Addresses that Services are given, separated by commas: those that no Service has are dropped [default: none are]
    #[arg(long, value_delimiter = ',', value_name = "CIDRS", value_parser = cidr)]
    pub(crate) service_cidr: Vec<IpNet>,
    /// Addresses of this node at which NodePorts are reached: `primary` (the first InternalIP of each family), or networks, separated by commas
    #[arg(long, default_value = "primary", value_name = "CIDRS", value_parser = node_port_addresses)]
    pub(crate) node_port_addresses: NodePortAddresses,
    /// What endpoints see of clients that come to another node under externalTrafficPolicy Cluster, where a Service has no annotation headwater.dev/source-ip
    #[arg(long, value_enum, default_value_t = SourceIp::Preserve, value_name = "WAY")]
    pub(crate) source_ip: SourceIp,
    /// Masquerade everything that goes to a cluster IP
    #[arg(long)]
    pub(crate) masquerade_all: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum SourceIp {
    /// The client; replies go back through the node that it came to
    Preserve,
    /// The client; replies go to it directly
    PreserveDirect,
    /// The node that the client came to, as with kube-proxy
    Masquerade,
}

impl From<SourceIp> for KeepClient {
    fn from(way: SourceIp) -> Self {
        match way {
            SourceIp::Preserve => Self::ViaIngress,
            SourceIp::PreserveDirect => Self::Direct,
            SourceIp::Masquerade => Self::Masquerade,
        }
    }
}

fn cidr(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| "it takes the form ADDRESS/BITS".to_owned())?;
    Ok(net.trunc())
}

fn node_port_addresses(text: &str) -> Result<NodePortAddresses, String> {
    if text == "primary" {
        return Ok(NodePortAddresses::Primary);
    }
    let nets: Result<_, String> = text.split(',').map(cidr).collect();
    nets.map(NodePortAddresses::Within).map_err(|error| format!("{error}, or `primary`"))
}

impl Args {
    fn settings(&self, node: Arc<str>) -> Settings {
        Settings {
            node,
            node_port_addresses: self.services.node_port_addresses.clone(),
            cluster_cidrs: self.services.cluster_cidr.clone(),
            service_cidrs: self.services.service_cidr.clone(),
            masquerade_all: self.services.masquerade_all,
            keep: self.services.source_ip.into(),
            tunnel_port: self.tunnel_port,
            tunnel_mtu: self.tunnel_mtu,
            healthz: Some(self.healthz_address),
            transparent: self.transparent,
        }
    }

    async fn connect(&self) -> Result<ApiServer, ApiError> {
        ApiServer::connect(&Access { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() }).await
    }

    async fn source(&self, node: &str) -> anyhow::Result<(Source, Option<ApiServer>)> {
        if let Some(directory) = &self.directory {
            let (first, source) = DirectorySource::start(directory).await?;
            return Ok((Source::Directory(first, Box::new(source)), None));
        }
        let server = self.connect().await.context("API server")?;
        let selection = if self.announce.is_wanted() { self.announce.selection() } else { Selection::of_node() };
        let source = Box::new(ApiServerSource::start(&server, selection));
        let annotation = NodeAnnotation::start(&server, node, TUNNEL_ANNOTATION);
        Ok((Source::ApiServer { source, annotation }, Some(server)))
    }
}

pub(crate) async fn run(args: Args, level: LogLevel) -> anyhow::Result<ExitCode> {
    let node: Arc<str> = args.node_name.clone().unwrap_or_else(node_name).into();
    let capabilities = rustix::thread::capabilities(None)?.effective;
    anyhow::ensure!(
        capabilities.contains(CapabilitySet::NET_ADMIN),
        "the capability CAP_NET_ADMIN is missing: run as root, or in a container that has it"
    );
    if args.cleanup {
        return cleanup(&args, &node).await;
    }
    // Each healthCheckNodePort is a listener.
    if let Err(error) = headwater_net_io::limits::raise_open_file_limit() {
        tracing::warn!(%error, "limit of open files stays as it is");
    }
    let registry = Registry::new();
    let (source, server) = args.source(&node).await?;
    let bare = Registry::bare();
    let announcing = Announcing::start(&args.announce, &node, server.as_ref(), &bare)?;
    if let Some(layer2) = announcing.layer2() {
        headwater_announcer::l2::register_metrics(&registry, layer2);
    }
    let listeners = announcing.listeners();
    let plane = ServiceLb::start_telling(source, args.settings(node.clone()), &registry, listeners)?;
    let routers = announcing.bgp();
    let of_peers = move || routers.as_ref().map(|state| peer_metrics(&state.borrow())).unwrap_or_default();
    let server = admin(&plane, &announcing, registry, level).metallb(bare, of_peers).bind(args.admin).await?;
    tracing::info!(admin = %server.local_address(), node = &*node, "node is up");
    let admin = tokio::spawn(server.serve());
    stop_signal().await?;
    announcing.stop().await;
    tracing::info!("the kernel keeps what it has; `headwater node --cleanup` removes it");
    admin.abort();
    drop(plane);
    Ok(ExitCode::SUCCESS)
}

/// Under MetalLB's names, which call peers by their addresses.
fn peer_metrics(state: &BgpState) -> String {
    headwater_announcer::bgp::metrics(&state.peers, |name| {
        state.addresses.get(name).cloned().unwrap_or_else(|| name.into())
    })
}

fn admin(plane: &ServiceLb, announcing: &Announcing, registry: Registry, level: LogLevel) -> Admin {
    let (layer2, bgp) = (announcing.layer2(), announcing.bgp());
    let (state, snapshots, findings) = (plane.state(), plane.snapshots(), plane.findings());
    let ready = {
        let state = state.clone();
        move || {
            let state = state.borrow();
            match (&state.error, state.generation) {
                (Some(error), _) => Err(error.clone()),
                (None, None) => Err("the first snapshot is not in the kernel yet".to_owned()),
                (None, Some(_)) => Ok(()),
            }
        }
    };
    Admin::new(registry).log_level(level).ready(ready).snapshot(move || snapshots.load()).status(move || {
        let (state, findings) = (state.borrow().clone(), findings.borrow().clone());
        let mut status = json!({ "version": env!("CARGO_PKG_VERSION"), "kernel": *state, "findings": *findings });
        if let Some(layer2) = &layer2 {
            status["layer2"] = json!(**layer2.borrow());
        }
        if let Some(bgp) = &bgp {
            status["bgp"] = json!(bgp.borrow().report(Instant::now()));
        }
        status
    })
}

/// The annotation goes first, so that other nodes send nothing more by the tunnel.
async fn cleanup(args: &Args, node: &str) -> anyhow::Result<ExitCode> {
    if args.directory.is_none() {
        let removed = match args.connect().await {
            Ok(server) => server.annotate_node(node, TUNNEL_ANNOTATION, None).await,
            Err(error) => Err(error),
        };
        match removed {
            Ok(_) | Err(ApiError::NotFound { .. }) => {}
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::warn!("the annotation {TUNNEL_ANNOTATION} of Node {node} stays: {error:#}");
            }
        }
    }
    tokio::task::spawn_blocking(headwater_service_lb::cleanup).await??;
    tracing::info!(node, "everything of headwater node is removed from the kernel");
    Ok(ExitCode::SUCCESS)
}
