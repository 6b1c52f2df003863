//! What endpoints see of their clients, with the plane on three nodes.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use headwater_kube_io::DirectorySource;
use headwater_model::nat::KeepClient;
use headwater_process::metrics::Registry;
use headwater_service_lb::{ServiceLb, Settings, Source};
use headwater_service_nat::NodePortAddresses;
use headwater_testkit::lab;
use headwater_testkit::services::{Entry, Family, Topology, Transport, ask};
use headwater_testkit::wait;

fn nodes(topology: &Topology<'_>) -> String {
    topology
        .nodes()
        .iter()
        .map(|node| {
            let [v4, v6] = [Family::V4, Family::V6].map(|family| node.address(family));
            let [p4, p6] = [Family::V4, Family::V6].map(|family| node.pod_cidr(family));
            let name = node.name();
            format!(
                "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  annotations:\n    \
                 headwater.dev/tunnel: '{{\"address\":\"{v4}\"}}'\nspec:\n  podCIDRs: ['{p4}', '{p6}']\nstatus:\n  \
                 addresses:\n  - {{type: InternalIP, address: '{v4}'}}\n  - {{type: InternalIP, address: '{v6}'}}\n"
            )
        })
        .collect()
}

fn service(keep: &str, endpoints: &[(IpAddr, &str)]) -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop, annotations: {{headwater.dev/source-ip: {keep}}}}}\n\
         spec:\n  type: LoadBalancer\n  ipFamilyPolicy: RequireDualStack\n  ipFamilies: [IPv4, IPv6]\n  \
         clusterIP: 10.96.0.10\n  clusterIPs: [10.96.0.10, 'fd00:10:96::10']\n  selector: {{app: web}}\n  ports:\n  \
         - {{name: tcp, port: 80, targetPort: 8080, nodePort: 30080, protocol: TCP}}\n  \
         - {{name: udp, port: 80, targetPort: 8080, nodePort: 30080, protocol: UDP}}\n\
         status:\n  loadBalancer: {{ingress: [{{ip: 203.0.113.10}}, {{ip: '2001:db8:f::10'}}]}}\n"
    );
    for (family, kind) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let own = endpoints.iter().filter(|(address, _)| Family::of(*address) == family);
        let list: String = own
            .map(|(address, node)| {
                format!("- {{addresses: ['{address}'], nodeName: {node}, conditions: {{ready: true, serving: true}}}}\n")
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

fn settings(node: &str) -> Settings {
    Settings {
        node: node.into(),
        node_port_addresses: NodePortAddresses::Primary,
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/48".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:10:96::/112".parse().unwrap()],
        masquerade_all: false,
        keep: KeepClient::ViaIngress,
        tunnel_port: 8474,
        tunnel_mtu: None,
        healthz: None,
    }
}

fn start(runtime: &tokio::runtime::Runtime, topology: &Topology<'_>, dir: &Path) -> Result<Vec<ServiceLb>> {
    let mut planes = Vec::new();
    for node in topology.nodes() {
        let plane = node.host().run(|| -> Result<ServiceLb> {
            let (batch, source) = runtime.block_on(DirectorySource::start(dir))?;
            let _guard = runtime.enter();
            let source = Source::Directory(batch, Box::new(source));
            Ok(ServiceLb::start(source, settings(node.name()), &Registry::new())?)
        })?;
        planes.push(plane);
    }
    for plane in &planes {
        let state = plane.state();
        wait::until(wait::DEADLINE, || state.borrow().is_applied()).with_context(|| format!("{:?}", state.borrow()))?;
        println!("{}", serde_json::to_string(&**state.borrow())?);
        for finding in plane.findings().borrow().iter() {
            println!("{finding}");
        }
    }
    Ok(planes)
}

#[test]
fn under_cluster_the_endpoint_on_another_node_sees_the_client() -> Result<()> {
    lab::test(|lab| {
        let topology = Topology::start(lab)?;
        let web = topology.pod(2, "web-2")?;
        topology.serve(&web, 8080)?;
        let dir = tempfile::tempdir()?;
        let endpoints = [Family::V4, Family::V6].map(|family| (web.address(family), "node-2"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        for keep in ["preserve", "preserve-direct", "masquerade"] {
            std::fs::write(dir.path().join("all.yaml"), nodes(&topology) + &service(keep, &endpoints))?;
            let planes = start(&runtime, &topology, dir.path())?;
            for family in [Family::V4, Family::V6] {
                for transport in Transport::ALL {
                    for node in [1, 2] {
                        let entry = Entry::Router(node).client(family);
                        let vip: SocketAddr = match family {
                            Family::V4 => "203.0.113.10:80".parse()?,
                            Family::V6 => "[2001:db8:f::10]:80".parse()?,
                        };
                        let node_port = SocketAddr::new(topology.node(node).address(family), 30080);
                        for target in [vip, node_port] {
                            let outcome = ask(topology.client(), Some(entry), target, transport)?;
                            println!("{keep} {transport:?} by node {node} to {target}: {outcome:?}");
                            let seen = outcome.seen().with_context(|| format!("{keep} {target} by node {node} {transport:?}"))?;
                            let kept = keep != "masquerade";
                            ensure!((seen.source.ip() == entry) == kept, "{keep} {seen:?}");
                        }
                    }
                }
            }
            drop(planes);
        }
        Ok(())
    })
}
