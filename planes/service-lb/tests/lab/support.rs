//! Three nodes with the plane, and objects in a directory.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use headwater_kube_io::DirectorySource;
use headwater_model::nat::KeepClient;
use headwater_process::metrics::Registry;
use headwater_service_lb::{ServiceLb, Settings, Source};
use headwater_service_nat::NodePortAddresses;
use headwater_testkit::lab::Lab;
use headwater_testkit::services::{Family, Pod, Topology};
use headwater_testkit::wait;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// An endpoint of the Service `web`.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint<'a> {
    pub(crate) pod: &'a Pod,
    /// As `kubelet` would have it.
    pub(crate) terminating: bool,
}

pub(crate) fn ready(pod: &Pod) -> Endpoint<'_> {
    Endpoint { pod, terminating: false }
}

pub(crate) fn terminating(pod: &Pod) -> Endpoint<'_> {
    Endpoint { pod, terminating: true }
}

/// The Service `shop/web` at these addresses, port 80 and NodePort 30080, TCP and UDP.
pub(crate) fn vip(family: Family) -> SocketAddr {
    SocketAddr::new(family.vip(10), 80)
}

pub(crate) struct Stage<'lab> {
    pub(crate) topology: Topology<'lab>,
    pub(crate) planes: Vec<ServiceLb>,
    /// A node whose Node has no annotation.
    pub(crate) without_tunnel: Option<usize>,
    dir: TempDir,
    runtime: Runtime,
}

impl<'lab> Stage<'lab> {
    pub(crate) fn new(lab: &'lab Lab) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self {
            topology: Topology::start(lab)?,
            planes: Vec::new(),
            without_tunnel: None,
            dir: tempfile::tempdir()?,
            runtime,
        })
    }

    fn write(&self, service: &str) -> Result<()> {
        let (new, path) = (self.dir.path().join(".new"), self.dir.path().join("all.yaml"));
        std::fs::write(&new, nodes(&self.topology, self.without_tunnel) + service)?;
        Ok(std::fs::rename(new, path)?)
    }

    /// Starts the planes over these objects, in the place of those that ran.
    pub(crate) fn start(&mut self, service: &str) -> Result<()> {
        self.stop()?;
        self.write(service)?;
        self.planes = start(&self.runtime, &self.topology, self.dir.path())?;
        Ok(())
    }

    /// Stops the planes; the kernels stay as they are.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let states: Vec<_> = self.planes.drain(..).map(|plane| plane.state()).collect();
        states.iter().try_for_each(|state| wait::until(wait::DEADLINE, || state.has_changed().is_err()))
    }

    /// Other objects, live.
    pub(crate) fn change(&self, service: &str) -> Result<()> {
        let before: Vec<_> = self.planes.iter().map(|plane| plane.state().borrow().generation).collect();
        self.write(service)?;
        for (plane, before) in self.planes.iter().zip(before) {
            let state = plane.state();
            wait::until(wait::DEADLINE, || state.borrow().is_applied() && state.borrow().generation > before)
                .with_context(|| format!("{:?}", state.borrow()))?;
        }
        Ok(())
    }
}

fn nodes(topology: &Topology<'_>, without_tunnel: Option<usize>) -> String {
    topology
        .nodes()
        .iter()
        .map(|node| {
            let [v4, v6] = [Family::V4, Family::V6].map(|family| node.address(family));
            let [p4, p6] = [Family::V4, Family::V6].map(|family| node.pod_cidr(family));
            let name = node.name();
            let tunnel =
                if without_tunnel == Some(node.number()) { "example.com/other" } else { "headwater.dev/tunnel" };
            format!(
                "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  annotations:\n    \
                 {tunnel}: '{{\"address\":\"{v4}\"}}'\nspec:\n  podCIDRs: ['{p4}', '{p6}']\nstatus:\n  \
                 addresses:\n  - {{type: InternalIP, address: '{v4}'}}\n  - {{type: InternalIP, address: '{v6}'}}\n"
            )
        })
        .collect()
}

pub(crate) fn service(keep: &str, more: &str, endpoints: &[Endpoint<'_>]) -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop, annotations: {{headwater.dev/source-ip: {keep}}}}}\n\
         spec:\n  type: LoadBalancer\n  ipFamilyPolicy: RequireDualStack\n  ipFamilies: [IPv4, IPv6]\n  \
         clusterIP: 10.96.0.10\n  clusterIPs: [10.96.0.10, 'fd00:10:96::10']\n  selector: {{app: web}}\n{more}  ports:\n  \
         - {{name: tcp, port: 80, targetPort: 8080, nodePort: 30080, protocol: TCP}}\n  \
         - {{name: udp, port: 80, targetPort: 8080, nodePort: 30080, protocol: UDP}}\n\
         status:\n  loadBalancer: {{ingress: [{{ip: 203.0.113.10}}, {{ip: '2001:db8:f::10'}}]}}\n"
    );
    for (family, kind) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let list: String = endpoints
            .iter()
            .map(|Endpoint { pod, terminating }| {
                let (address, node, ready) = (pod.address(family), pod.node(), !terminating);
                format!(
                    "- {{addresses: ['{address}'], nodeName: node-{node}, \
                     conditions: {{ready: {ready}, serving: true, terminating: {terminating}}}}}\n"
                )
            })
            .collect();
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-{}, namespace: shop, \
             labels: {{kubernetes.io/service-name: web}}}}\naddressType: {kind}\nports:\n\
             - {{name: tcp, port: 8080, protocol: TCP}}\n- {{name: udp, port: 8080, protocol: UDP}}\nendpoints:\n{list}",
            kind.to_lowercase()
        );
    }
    text
}

fn settings(node: &str) -> Result<Settings> {
    Ok(Settings {
        node: node.into(),
        node_port_addresses: NodePortAddresses::Primary,
        cluster_cidrs: vec!["10.244.0.0/16".parse()?, "fd00:10:244::/48".parse()?],
        service_cidrs: vec!["10.96.0.0/16".parse()?, "fd00:10:96::/112".parse()?],
        masquerade_all: false,
        keep: KeepClient::ViaIngress,
        tunnel_port: 8474,
        tunnel_mtu: None,
        healthz: None,
        transparent: true,
    })
}

fn start(runtime: &tokio::runtime::Runtime, topology: &Topology<'_>, dir: &Path) -> Result<Vec<ServiceLb>> {
    let mut planes = Vec::new();
    for node in topology.nodes() {
        let plane = node.host().run(|| -> Result<ServiceLb> {
            let (batch, source) = runtime.block_on(DirectorySource::start(dir))?;
            let _guard = runtime.enter();
            let source = Source::Directory(batch, Box::new(source));
            Ok(ServiceLb::start(source, settings(node.name())?, &Registry::new())?)
        })?;
        planes.push(plane);
    }
    for plane in &planes {
        let state = plane.state();
        wait::until(wait::DEADLINE, || state.borrow().is_applied()).with_context(|| format!("{:?}", state.borrow()))?;
        anyhow::ensure!(plane.findings().borrow().is_empty(), "{:?}", plane.findings().borrow());
    }
    Ok(planes)
}
