//! Flows of real sockets, in network namespaces, as root.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::Result;
use headwater_model::nat::{
    EndpointState, Frontend, KeepClient, Masquerade, NatEndpoint, Set, Slot, Transport, Verdict,
};
use headwater_model::origin::{Kind, ObjectKey, Origin};
use headwater_testkit::lab::{self, Host};
use headwater_testkit::wait::DEADLINE;

use super::*;

const NODE: [&str; 2] = ["10.0.0.254", "fd00::254"];
const PODS: [[&str; 2]; 2] = [["10.0.0.1", "10.0.0.2"], ["fd00::1", "fd00::2"]];

/// One port of a Service.
#[derive(Clone)]
struct Port {
    protocol: Transport,
    family: Family,
    /// Addresses, and whether they serve.
    endpoints: Vec<(&'static str, bool)>,
    frontends: Vec<FrontendAddress>,
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Port {
    fn udp(endpoints: &[(&'static str, bool)], frontends: &[FrontendAddress]) -> Self {
        let family = Family::of(socket(endpoints[0].0).ip());
        Self { protocol: Transport::Udp, family, endpoints: endpoints.to_vec(), frontends: frontends.to_vec() }
    }

    fn rules(&self) -> Arc<PortRules> {
        let endpoint = |(at, (address, serving)): (usize, &(&str, bool))| NatEndpoint {
            slot: Slot(at as u16 + 1),
            address: socket(address),
            node: None,
            local: true,
            state: if *serving { EndpointState::Ready } else { EndpointState::Idle },
            serving: *serving,
        };
        let verdict = Verdict::Forward { set: Set::Cluster, masquerade: Masquerade::HairpinOnly };
        let frontend = |address: &FrontendAddress| Frontend {
            address: *address,
            remote: verdict,
            pods: verdict,
            node: verdict,
            sources: None,
        };
        Arc::new(PortRules {
            name: "dns".into(),
            port: 53,
            protocol: self.protocol,
            family: self.family,
            endpoints: self.endpoints.iter().enumerate().map(endpoint).collect(),
            cluster: [].into(),
            local: [].into(),
            frontends: self.frontends.iter().map(frontend).collect(),
            affinity: None,
            keep: KeepClient::default(),
            nodes: None,
        })
    }
}

fn service(name: &str, ports: &[Port]) -> Option<Arc<ServiceRules>> {
    Some(Arc::new(ServiceRules {
        origin: Origin { key: ObjectKey::new(Kind::Service, "kube-system", name), generation: 1 },
        cluster_ips: [].into(),
        ports: ports.iter().map(Port::rules).collect(),
        health: None,
    }))
}

fn node() -> NodeRules {
    NodeRules { node_port_addresses: NODE.map(|address| address.parse().unwrap()).into(), ..NodeRules::default() }
}

#[test]
fn flows_are_looked_for_only_where_an_endpoint_went_or_the_first_one_or_a_frontend_came() {
    let dns = [FrontendAddress::ClusterIp(socket("172.16.0.1:53"))];
    let more = [dns[0], FrontendAddress::NodePort(30053)];
    let (one, two) = ("10.0.0.1:53", "10.0.0.2:53");
    let both = Port::udp(&[(one, true), (two, true)], &dns);
    let tcp = |port: &Port| Port { protocol: Transport::Tcp, ..port.clone() };
    let gone = Port::udp(&[(two, true)], &dns);
    let nobody = Port::udp(&[(one, false)], &dns);
    for (what, old, new, looked) in [
        ("new", None, Some(&both), true),
        ("an endpoint went", Some(&both), Some(&gone), true),
        ("an endpoint does not serve", Some(&both), Some(&Port::udp(&[(one, false), (two, true)], &dns)), true),
        ("an endpoint came", Some(&gone), Some(&both), false),
        ("the same", Some(&both), Some(&both), false),
        ("the first endpoint", Some(&nobody), Some(&both), true),
        ("the last endpoint went", Some(&both), Some(&nobody), false),
        ("a frontend came", Some(&both), Some(&Port::udp(&[(one, true), (two, true)], &more)), true),
        ("a frontend went", Some(&Port::udp(&[(one, true), (two, true)], &more)), Some(&both), false),
        ("no frontend", None, Some(&Port::udp(&[(one, true)], &[])), false),
        ("gone", Some(&both), None, false),
        ("TCP", Some(&tcp(&both)), Some(&tcp(&gone)), false),
    ] {
        let mut owed = Owed::default();
        let of = |port: Option<&Port>| port.and_then(|port| service("dns", std::slice::from_ref(port)));
        owed.note(&(of(old), of(new)));
        assert_eq!(!owed.0.is_empty(), looked, "{what}");
    }
    // One after the other, while the kernel refuses: what is owed stays owed, by the rules that hold then.
    let mut owed = Owed::default();
    let of = |port: &Port| service("dns", std::slice::from_ref(port));
    owed.note(&(of(&both), of(&gone)));
    owed.note(&(of(&gone), of(&both)));
    let ports: Vec<_> = owed.0.values().flatten().collect();
    assert_eq!(ports.len(), 1);
    assert_eq!(ports[0].endpoints.len(), 2);
    owed.note(&(of(&both), None));
    assert!(owed.0.is_empty());
}

/// A node, and pods on a cable. Everything goes to the pods that is not the node's.
fn inside(body: impl FnOnce(&Host, &Host) -> Result<()>) -> Result<()> {
    lab::test(|lab| {
        let (node, pods) = (lab.host("node")?, lab.host("pods")?);
        node.wire("eth0", &pods, "eth0")?;
        for (family, bits) in [(0, 24), (1, 64)] {
            node.address("eth0", &format!("{}/{bits}", NODE[family]))?;
            for pod in PODS[family] {
                pods.address("eth0", &format!("{pod}/{bits}"))?;
            }
        }
        node.route("0.0.0.0/0", PODS[0][0])?;
        node.route("::/0", PODS[1][0])?;
        node.nft("table inet lab { chain c { type filter hook output priority 0; ct state invalid drop; }; }")?;
        body(&node, &pods)
    })
}

/// Translates datagrams to ports 53 and 30053 of what is no pod.
fn translate(node: &Host, pod: usize) -> Result<()> {
    let rules = |family: &str, address: &str, pods: &str| {
        format!(
            "table {family} lab {{ chain nat {{ type nat hook output priority -100; }}; }}
             flush chain {family} lab nat
             table {family} lab {{ chain nat {{
                 {family} daddr {pods} return
                 udp dport {{ 53, 30053 }} dnat to {address}
             }}; }}\n"
        )
    };
    let [four, six] = [PODS[0], PODS[1]];
    node.nft(
        &(rules("ip", &format!("{}:53", four[pod]), &format!("{{ {}, {} }}", four[0], four[1]))
            + &rules("ip6", &format!("[{}]:53", six[pod]), &format!("{{ {}, {} }}", six[0], six[1]))),
    )
}

/// A client, and where it sends.
struct Client(UdpSocket, SocketAddr);

impl Client {
    fn new(node: &Host, destination: &str) -> Result<Self> {
        let destination = socket(destination);
        let any = if destination.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        Ok(Self(node.run(|| UdpSocket::bind(any))?, destination))
    }

    fn send(&self) -> Result<()> {
        self.0.send_to(b"?", self.1)?;
        Ok(())
    }
}

/// The pods' sockets, by family.
fn servers(pods: &Host, port: u16) -> Result<[[UdpSocket; 2]; 2]> {
    let open = |address: &str| -> Result<UdpSocket> {
        let server = pods.run(|| UdpSocket::bind((address.parse::<IpAddr>().unwrap(), port)))?;
        server.set_read_timeout(Some(DEADLINE))?;
        Ok(server)
    };
    Ok([[open(PODS[0][0])?, open(PODS[0][1])?], [open(PODS[1][0])?, open(PODS[1][1])?]])
}

/// Sends, and the pod must be the one that gets it.
fn reaches(client: &Client, server: &UdpSocket) -> Result<()> {
    client.send()?;
    let sender = client.0.local_addr()?.port();
    let (_, from) = server.recv_from(&mut [0; 8])?;
    assert_eq!(from.port(), sender, "{} is asked by another", server.local_addr()?);
    Ok(())
}

#[test]
fn flows_to_an_endpoint_that_serves_no_longer_go_to_another_by_every_frontend() -> Result<()> {
    inside(|node_host, pods| {
        translate(node_host, 0)?;
        let servers = servers(pods, 53)?;
        let frontends = [
            vec![
                FrontendAddress::ClusterIp(socket("172.16.0.1:53")),
                FrontendAddress::LoadBalancer(socket("198.51.100.1:53")),
                FrontendAddress::ExternalIp(socket("203.0.113.1:53")),
                FrontendAddress::NodePort(30053),
            ],
            vec![FrontendAddress::ClusterIp(socket("[fd16::1]:53")), FrontendAddress::NodePort(30053)],
        ];
        let of_family = |serving: [bool; 2], family: usize| {
            let [one, two] = [["10.0.0.1:53", "10.0.0.2:53"], ["[fd00::1]:53", "[fd00::2]:53"]][family];
            Port::udp(&[(one, serving[0]), (two, serving[1])], &frontends[family])
        };
        let dns = |serving| service("dns", &[of_family(serving, 0), of_family(serving, 1)]);
        let moved = [
            "172.16.0.1:53",
            "198.51.100.1:53",
            "203.0.113.1:53",
            "10.0.0.254:30053",
            "[fd16::1]:53",
            "[fd00::254]:30053",
        ];
        let clients = moved.map(|destination| Client::new(node_host, destination));
        let clients = clients.into_iter().collect::<Result<Vec<_>>>()?;
        let family = |client: &Client| usize::from(client.1.is_ipv6());
        for client in &clients {
            reaches(client, &servers[family(client)][0])?;
        }
        // Of another Service, of none, and of another port.
        let others = ["172.16.0.9:53", "10.0.0.1:53", "172.16.0.1:30053"];
        let others = others.map(|destination| Client::new(node_host, destination));
        let others = others.into_iter().collect::<Result<Vec<_>>>()?;
        for client in &others {
            reaches(client, &servers[0][0])?;
        }
        translate(node_host, 1)?;
        for client in &clients {
            reaches(client, &servers[family(client)][0])?;
        }

        let mut sweeper = node_host.run(Sweeper::open)?;
        let (both, second) = (dns([true, true]), dns([false, true]));
        let mut sweep = |old: &Option<_>, new: &Option<_>| sweeper.sweep(&[(old.clone(), new.clone())], &node());
        // While it serves, and where only an endpoint came: nothing.
        assert_eq!(sweep(&both, &both)?, 0);
        assert_eq!(sweep(&second, &both)?, 0);
        assert_eq!(sweep(&None, &both)?, 0);
        assert_eq!(sweep(&both, &dns([false, false]))?, 0);
        assert_eq!(sweep(&both, &second)?, clients.len());
        for client in &clients {
            reaches(client, &servers[family(client)][1])?;
        }
        for client in &others {
            reaches(client, &servers[0][0])?;
        }
        assert_eq!(sweep(&both, &second)?, 0);
        Ok(())
    })
}

#[test]
fn a_client_that_sent_while_there_was_no_endpoint_is_served_once_there_is_one() -> Result<()> {
    inside(|node_host, pods| {
        let servers = servers(pods, 53)?;
        let client = Client::new(node_host, "172.16.0.1:53")?;
        client.send()?;
        translate(node_host, 0)?;
        client.send()?;
        servers[0][0].set_read_timeout(Some(Duration::from_millis(1)))?;
        assert!(servers[0][0].recv_from(&mut [0; 8]).is_err(), "the kernel keeps to what it chose");
        servers[0][0].set_read_timeout(Some(DEADLINE))?;

        let frontends = [FrontendAddress::ClusterIp(socket("172.16.0.1:53"))];
        let [old, new] =
            [false, true].map(|serving| service("dns", &[Port::udp(&[("10.0.0.1:53", serving)], &frontends)]));
        assert_eq!(node_host.run(Sweeper::open)?.sweep(&[(old, new)], &node())?, 1);
        reaches(&client, &servers[0][0])
    })
}

#[test]
fn a_node_port_counts_at_the_addresses_of_this_node_and_at_any_for_flows_that_came_by_the_tunnel() -> Result<()> {
    inside(|node_host, pods| {
        translate(node_host, 0)?;
        let magic = mark::MAGIC | mark::KIND_REPLY;
        node_host.nft(&format!(
            "table ip lab {{ chain marked {{ type filter hook output priority -150;
                 ip daddr 192.0.2.9 ct mark set {magic:#x}
             }}; }}"
        ))?;
        let servers = servers(pods, 53)?;
        let [tunnel, strange] = ["192.0.2.9:30053", "192.0.2.8:30053"].map(|to| Client::new(node_host, to));
        let (tunnel, strange) = (tunnel?, strange?);
        reaches(&tunnel, &servers[0][0])?;
        reaches(&strange, &servers[0][0])?;
        translate(node_host, 1)?;
        let new = service("dns", &[Port::udp(&[("10.0.0.2:53", true)], &[FrontendAddress::NodePort(30053)])]);
        assert_eq!(node_host.run(Sweeper::open)?.sweep(&[(None, new)], &node())?, 1);
        reaches(&tunnel, &servers[0][1])?;
        reaches(&strange, &servers[0][0])
    })
}
