//! From a client to a pod, by an address that ARP, NDP or BGP leads to, with the service plane on every node.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_announcer::bgp::{BgpAnnouncer, Stop};
use headwater_announcer::l2::{DEFAULT_EXCLUDED, L2Announcer, Settings, excluded};
use headwater_announcer::metrics::SpeakerAnnounced;
use headwater_announcer::objects::{Objects, WAITING_BATCHES};
use headwater_kube_io::DirectorySource;
use headwater_model::nat::KeepClient;
use headwater_process::metrics::Registry;
use headwater_service_lb::{ServiceLb, Source};
use headwater_service_nat::NodePortAddresses;
use headwater_testkit::lab::{self, Process};
use headwater_testkit::services::{Family, Pod, Topology, Transport, ask};
use headwater_testkit::wait::{self, DEADLINE};
use headwater_translate::announce::AnnounceOptions;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// How addresses are announced: what a user writes for it, besides the pool.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    L2,
    Bgp,
}

impl Way {
    /// On the segment of the nodes by ARP and NDP, elsewhere by BGP.
    fn vips(self) -> [&'static str; 2] {
        match self {
            Self::L2 => ["192.0.2.200", "2001:db8:2::200"],
            Self::Bgp => ["100.64.1.7", "2001:db8:77::7"],
        }
    }

    fn objects(self) -> &'static str {
        match self {
            Self::L2 => {
                "---\napiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: office, namespace: metallb-system}\n\
                 spec: {ipAddressPools: [office]}\n"
            }
            Self::Bgp => {
                "---\napiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: office, namespace: metallb-system}\n\
                 spec: {ipAddressPools: [office]}\n\
                 ---\napiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: tor, namespace: metallb-system}\n\
                 spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, dualStackAddressFamily: true}\n"
            }
        }
    }
}

/// Everything as a user and a cluster would have written it.
fn manifests(topology: &Topology<'_>, way: Way, policy: &str, pod: &Pod) -> String {
    let mut text = way.objects().to_owned();
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
    let [v4, v6] = way.vips();
    writeln!(
        text,
        "---\napiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: office, namespace: metallb-system}}\n\
         spec: {{addresses: ['{v4}/32', '{v6}/128']}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec:\n  type: LoadBalancer\n  \
         externalTrafficPolicy: {policy}\n  ipFamilyPolicy: RequireDualStack\n  ipFamilies: [IPv4, IPv6]\n  \
         clusterIP: 10.96.0.10\n  clusterIPs: [10.96.0.10, 'fd00:10:96::10']\n  selector: {{app: web}}\n  ports:\n  \
         - {{name: tcp, port: 80, targetPort: 8080, protocol: TCP}}\n  - {{name: udp, port: 80, targetPort: 8080, protocol: UDP}}\n\
         status:\n  loadBalancer: {{ingress: [{{ip: {v4}}}, {{ip: '{v6}'}}]}}"
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

/// One way of announcing on a node.
enum Announcer {
    L2(L2Announcer),
    Bgp(BgpAnnouncer),
}

/// The planes of one node, and a runtime whose threads are in it.
struct Node {
    service: ServiceLb,
    announcer: Announcer,
    _objects: Objects,
    runtime: Runtime,
}

impl Node {
    fn stop(self) {
        match self.announcer {
            Announcer::L2(announcer) => self.runtime.block_on(announcer.stop()),
            Announcer::Bgp(announcer) => self.runtime.block_on(announcer.stop(Stop::Shutdown)),
        }
    }

    fn announces_on_layer_2(&self) -> bool {
        let Announcer::L2(announcer) = &self.announcer else { return false };
        let state = announcer.state().borrow().clone();
        state.vips.len() == 2 && state.vips.iter().all(|vip| vip.is_announced)
    }
}

fn start(topology: &Topology<'_>, way: Way, dir: &std::path::Path) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for node in topology.nodes() {
        nodes.push(node.host().run(|| -> Result<Node> {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let (batch, source) = runtime.block_on(DirectorySource::start(dir))?;
            let guard = runtime.enter();
            let (tell, batches) = mpsc::channel(WAITING_BATCHES);
            let options = AnnounceOptions { node: node.name().into(), ..AnnounceOptions::default() };
            let objects = Objects::follow(batches, options, "metallb-system".to_owned());
            let bare = Registry::bare();
            let announced = SpeakerAnnounced::new(&bare, node.name().into());
            let announcer = match way {
                Way::L2 => {
                    let excluded = excluded(&DEFAULT_EXCLUDED).map_err(anyhow::Error::msg)?;
                    let settings = Settings { node: node.name().into(), excluded };
                    let vips = objects.announcements();
                    Announcer::L2(L2Announcer::start(vips, None, None, settings, &bare, &announced)?)
                }
                Way::Bgp => {
                    let (vips, routers) = (objects.announcements(), objects.routers());
                    Announcer::Bgp(BgpAnnouncer::start(vips, routers, node.name().into(), None, 7, None, &announced)?)
                }
            };
            let settings = headwater_service_lb::Settings {
                node: node.name().into(),
                node_port_addresses: NodePortAddresses::Primary,
                cluster_cidrs: vec!["10.244.0.0/16".parse()?, "fd00:10:244::/48".parse()?],
                service_cidrs: vec!["10.96.0.0/16".parse()?, "fd00:10:96::/112".parse()?],
                masquerade_all: false,
                keep: KeepClient::ViaIngress,
                tunnel_port: 8474,
                tunnel_mtu: None,
                transparent: false,
                healthz: None,
            };
            let source = Source::Directory(batch, Box::new(source));
            let service = ServiceLb::start_telling(source, settings, &Registry::new(), vec![tell])?;
            drop(guard);
            Ok(Node { service, announcer, _objects: objects, runtime })
        })?);
    }
    for node in &nodes {
        let state = node.service.state();
        wait::until(DEADLINE, || state.borrow().is_applied()).with_context(|| format!("{:?}", state.borrow()))?;
    }
    Ok(nodes)
}

/// Two pods, on the first and the second node.
fn pods(topology: &Topology<'_>) -> Result<[Pod; 2]> {
    let pods = [topology.pod(1, "web-1")?, topology.pod(2, "web-2")?];
    for pod in &pods {
        topology.serve(pod, 8080)?;
    }
    Ok(pods)
}

/// Replaces the file in one step.
fn write(dir: &std::path::Path, text: &str) -> Result<()> {
    std::fs::write(dir.join(".new"), text)?;
    Ok(std::fs::rename(dir.join(".new"), dir.join("all.yaml"))?)
}

/// Everything that a client sends to the addresses comes to this pod, which sees the client.
fn reaches(topology: &Topology<'_>, way: Way, pod: &Pod, case: &str) -> Result<()> {
    for vip in way.vips() {
        let vip: IpAddr = vip.parse()?;
        let client = topology.client_address(Family::of(vip));
        for transport in [Transport::Tcp, Transport::Udp] {
            let case = format!("{case} at {vip} {transport:?}");
            let seen = wait::value(DEADLINE, || {
                let outcome = ask(topology.client(), Some(client), SocketAddr::new(vip, 80), transport).ok()?;
                outcome.seen().filter(|seen| seen.pod == pod.name()).map(|seen| seen.source.ip())
            });
            let seen = seen.with_context(|| case.clone())?;
            ensure!(seen == client, "{case}: the pod sees {seen}, not {client}");
        }
    }
    Ok(())
}

#[test]
fn the_pod_sees_the_client_that_came_by_an_announced_address() -> Result<()> {
    lab::test(|lab| {
        let topology = Topology::start(lab)?;
        let pods = pods(&topology)?;
        let dir = tempfile::tempdir()?;
        let mut elected = None;
        for (policy, pod) in [("Cluster", &pods[0]), ("Cluster", &pods[1]), ("Local", &pods[0]), ("Local", &pods[1])] {
            write(dir.path(), &manifests(&topology, Way::L2, policy, pod))?;
            // From nothing each time: nodes without Leases know no hardware address of each other, and one that takes over
            // would see a stranger in who announced before.
            let nodes = start(&topology, Way::L2, dir.path())?;
            let announcers = || -> Vec<usize> {
                (1..).zip(&nodes).filter(|(_, node)| node.announces_on_layer_2()).map(|(number, _)| number).collect()
            };
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
            reaches(&topology, Way::L2, pod, &format!("{policy} {} by node {announcer}", pod.name()))?;
            nodes.into_iter().for_each(Node::stop);
        }
        Ok(())
    })
}

/// BIRD in the router, with a session to each node, and its routes in the kernel.
fn bird(topology: &Topology<'_>, dir: &std::path::Path) -> Result<Process> {
    let mut text = "router id 192.0.2.1;\nprotocol device {}\n".to_owned();
    for family in ["ipv4", "ipv6"] {
        writeln!(text, "protocol kernel {{ merge paths on; {family} {{ import none; export all; }}; }}")?;
    }
    for node in topology.nodes() {
        writeln!(
            text,
            "protocol bgp {{ local 192.0.2.1 as 64513; neighbor {} as 64512; passive on; \
             ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}",
            node.address(Family::V4)
        )?;
    }
    std::fs::write(dir.join("bird.conf"), text)?;
    let mut command = Command::new("/usr/sbin/bird");
    command.arg("-f").arg("-c").arg(dir.join("bird.conf")).arg("-s").arg(dir.join("control"));
    command.arg("-P").arg(dir.join("pid"));
    topology.router().spawn_process(&command)
}

#[test]
fn routers_spread_clients_over_nodes_and_the_pod_sees_each() -> Result<()> {
    lab::test(|lab| {
        let topology = Topology::start(lab)?;
        let pods = pods(&topology)?;
        let (dir, routers) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let bird = bird(&topology, routers.path())?;
        write(dir.path(), &manifests(&topology, Way::Bgp, "Cluster", &pods[0]))?;
        let nodes = start(&topology, Way::Bgp, dir.path())?;
        // Nodes that the router sends packets for an address to.
        let ways = |vip: &str| -> Vec<usize> {
            let family = if vip.contains(':') { "-6" } else { "-4" };
            let text = topology.router().ip(&format!("{family} route show {vip}")).unwrap_or_default();
            let family = if vip.contains(':') { Family::V6 } else { Family::V4 };
            let goes = |number: &usize| {
                // Next hops of IPv6 may be link-local ones; those of IPv4 are the node's address.
                let address = topology.node(*number).address(family).to_string();
                text.split_whitespace().any(|word| word == address)
            };
            (1..=3).filter(goes).collect()
        };
        let mut moved = Vec::new();
        for (policy, pod) in [("Cluster", &pods[0]), ("Cluster", &pods[1]), ("Local", &pods[0]), ("Local", &pods[1])] {
            let start = Instant::now();
            write(dir.path(), &manifests(&topology, Way::Bgp, policy, pod))?;
            let expected = if policy == "Cluster" { vec![1, 2, 3] } else { vec![pod.node()] };
            for vip in Way::Bgp.vips() {
                wait::until(DEADLINE, || ways(vip) == expected).with_context(|| {
                    let routes = topology.router().ip("-6 route show table all proto bird").unwrap_or_default();
                    format!("{policy} {} {vip}: {:?}\n{routes}\n{}", pod.name(), ways(vip), bird.stderr())
                })?;
            }
            moved.push(start.elapsed());
            reaches(&topology, Way::Bgp, pod, &format!("{policy} {}", pod.name()))?;
        }
        println!("from the edit to the routes: {moved:?}");
        ensure!(moved[3] < Duration::from_secs(1), "the route of the node without endpoint stayed: {moved:?}");
        nodes.into_iter().for_each(Node::stop);
        for vip in Way::Bgp.vips() {
            wait::until(DEADLINE, || ways(vip).is_empty()).with_context(|| format!("{vip}: {:?}", ways(vip)))?;
        }
        Ok(())
    })
}
