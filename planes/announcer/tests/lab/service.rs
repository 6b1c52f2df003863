//! From a client to a pod, by an address that ARP or NDP leads to, with the service plane on every node.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use headwater_announcer::l2::{DEFAULT_EXCLUDED, L2Announcer, Settings, excluded};
use headwater_announcer::objects::{Objects, WAITING_BATCHES};
use headwater_kube_io::DirectorySource;
use headwater_model::nat::KeepClient;
use headwater_process::metrics::Registry;
use headwater_service_lb::{ServiceLb, Source};
use headwater_service_nat::NodePortAddresses;
use headwater_testkit::lab;
use headwater_testkit::services::{Family, Pod, Topology, Transport, ask};
use headwater_testkit::wait::{self, DEADLINE};
use headwater_translate::announce::AnnounceOptions;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const VIPS: [&str; 2] = ["192.0.2.200", "2001:db8:2::200"];

/// Everything as a user and a cluster would have written it.
fn manifests(topology: &Topology<'_>, policy: &str, pod: &Pod) -> String {
    let mut text = String::new();
    for node in topology.nodes() {
        let [v4, v6] = [Family::V4, Family::V6].map(|family| node.address(family));
        let [p4, p6] = [Family::V4, Family::V6].map(|family| node.pod_cidr(family));
        writeln!(
            text,
            "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {}\n  annotations:\n    headwater.dev/tunnel: \
             '{{\"address\":\"{v4}\"}}'\nspec:\n  podCIDRs: ['{p4}', '{p6}']\nstatus:\n  addresses:\n  \
             - {{type: InternalIP, address: '{v4}'}}\n  - {{type: InternalIP, address: '{v6}'}}",
            node.name()
        )
        .expect("a String takes any text");
    }
    writeln!(
        text,
        "---\napiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: office, namespace: metallb-system}}\n\
         spec: {{addresses: [192.0.2.192/28, '2001:db8:2::200-2001:db8:2::20f']}}\n\
         ---\napiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {{name: office, namespace: metallb-system}}\n\
         spec: {{ipAddressPools: [office]}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec:\n  type: LoadBalancer\n  \
         externalTrafficPolicy: {policy}\n  ipFamilyPolicy: RequireDualStack\n  ipFamilies: [IPv4, IPv6]\n  \
         clusterIP: 10.96.0.10\n  clusterIPs: [10.96.0.10, 'fd00:10:96::10']\n  selector: {{app: web}}\n  ports:\n  \
         - {{name: tcp, port: 80, targetPort: 8080, protocol: TCP}}\n  - {{name: udp, port: 80, targetPort: 8080, protocol: UDP}}\n\
         status:\n  loadBalancer: {{ingress: [{{ip: {}}}, {{ip: '{}'}}]}}",
        VIPS[0], VIPS[1]
    )
    .expect("a String takes any text");
    for (family, kind) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        writeln!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-{}, namespace: shop, \
             labels: {{kubernetes.io/service-name: web}}}}\naddressType: {kind}\nports:\n\
             - {{name: tcp, port: 8080, protocol: TCP}}\n- {{name: udp, port: 8080, protocol: UDP}}\nendpoints:\n\
             - {{addresses: ['{}'], nodeName: node-{}, conditions: {{ready: true}}}}",
            kind.to_lowercase(),
            pod.address(family),
            pod.node()
        )
        .expect("a String takes any text");
    }
    text
}

/// The planes of one node.
struct Node {
    service: ServiceLb,
    announcer: L2Announcer,
    _objects: Objects,
}

fn start(topology: &Topology<'_>, runtime: &Runtime, dir: &std::path::Path) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for node in topology.nodes() {
        nodes.push(node.host().run(|| -> Result<Node> {
            let (batch, source) = runtime.block_on(DirectorySource::start(dir))?;
            let _guard = runtime.enter();
            let (tell, batches) = mpsc::channel(WAITING_BATCHES);
            let options = AnnounceOptions { node: node.name().into(), ..AnnounceOptions::default() };
            let objects = Objects::follow(batches, options, "metallb-system".to_owned());
            let mut patterns = DEFAULT_EXCLUDED.to_vec();
            patterns.push("^pod.*");
            let excluded = excluded(&patterns).map_err(anyhow::Error::msg)?;
            let settings = Settings { node: node.name().into(), excluded };
            let announcer = L2Announcer::start(objects.announcements(), None, None, settings, &Registry::bare())?;
            let settings = headwater_service_lb::Settings {
                node: node.name().into(),
                node_port_addresses: NodePortAddresses::Primary,
                cluster_cidrs: vec!["10.244.0.0/16".parse()?, "fd00:10:244::/48".parse()?],
                service_cidrs: vec!["10.96.0.0/16".parse()?, "fd00:10:96::/112".parse()?],
                masquerade_all: false,
                keep: KeepClient::ViaIngress,
                tunnel_port: 8474,
                tunnel_mtu: None,
                healthz: None,
            };
            let source = Source::Directory(batch, Box::new(source));
            let service = ServiceLb::start_telling(source, settings, &Registry::new(), vec![tell])?;
            Ok(Node { service, announcer, _objects: objects })
        })?);
    }
    for node in &nodes {
        let state = node.service.state();
        wait::until(DEADLINE, || state.borrow().is_applied()).with_context(|| format!("{:?}", state.borrow()))?;
    }
    Ok(nodes)
}

#[test]
fn the_pod_sees_the_client_that_came_by_an_announced_address() -> Result<()> {
    lab::test(|lab| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let topology = Topology::start(lab)?;
        let pods = [topology.pod(1, "web-1")?, topology.pod(2, "web-2")?];
        for pod in &pods {
            topology.serve(pod, 8080)?;
        }
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("all.yaml");
        std::fs::write(&path, manifests(&topology, "Cluster", &pods[0]))?;
        let nodes = start(&topology, &runtime, dir.path())?;
        let announcers = || -> Vec<usize> {
            let announces = |node: &Node| {
                let state = node.announcer.state().borrow().clone();
                state.vips.len() == VIPS.len() && state.vips.iter().all(|vip| vip.is_announced)
            };
            (1..).zip(&nodes).filter(|(_, node)| announces(node)).map(|(number, _)| number).collect()
        };
        let mut elected = None;
        for (policy, pod) in [("Cluster", &pods[0]), ("Cluster", &pods[1]), ("Local", &pods[0]), ("Local", &pods[1])] {
            let new = dir.path().join(".new");
            std::fs::write(&new, manifests(&topology, policy, pod))?;
            std::fs::rename(&new, &path)?;
            let expected = |number: usize| match policy {
                // Wherever the endpoint is.
                "Cluster" => elected.is_none_or(|elected| elected == number),
                _ => number == pod.node(),
            };
            let announcer = wait::value(DEADLINE, || match announcers()[..] {
                [one] if expected(one) => Some(one),
                _ => None,
            })
            .with_context(|| format!("{policy} {}: {:?}", pod.name(), announcers()))?;
            if policy == "Cluster" {
                elected = Some(announcer);
            }
            for vip in VIPS {
                let vip: IpAddr = vip.parse()?;
                let client = topology.client_address(Family::of(vip));
                for transport in [Transport::Tcp, Transport::Udp] {
                    let case = format!("{policy} {} by node {announcer} at {vip} {transport:?}", pod.name());
                    let seen = wait::value(DEADLINE, || {
                        let outcome = ask(topology.client(), Some(client), SocketAddr::new(vip, 80), transport).ok()?;
                        outcome.seen().filter(|seen| seen.pod == pod.name()).map(|seen| seen.source.ip())
                    });
                    let seen = seen.with_context(|| case.clone())?;
                    ensure!(seen == client, "{case}: the pod sees {seen}, not {client}");
                }
            }
        }
        Ok(())
    })
}
