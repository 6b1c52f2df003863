//! Hosts, cables, addresses and routes.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use super::probe::EPHEMERAL_PORTS;
use super::server::Servers;
use crate::lab::{Host, Lab};

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn client(self, last: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(198, 51, 100, last).into(),
            // The last group reads as the decimal number does.
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, decimal(last)).into(),
        }
    }

    fn segment(self, last: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(192, 0, 2, last).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, decimal(last)).into(),
        }
    }

    fn pod(self, node: u8, last: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 244, node, last).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x244, node.into(), 0, 0, 0, decimal(last)).into(),
        }
    }

    /// An external address, that the router sends to a node: 198.18.0.x,
    /// 2001:db8:e::x.
    pub fn external_ip(self, last: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(198, 18, 0, last).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, decimal(last)).into(),
        }
    }

    /// An address of a load balancer that the router sends to a node: 203.0.113.x, 2001:db8:f::x.
    pub fn vip(self, last: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(203, 0, 113, last).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, decimal(last)).into(),
        }
    }

    /// A cluster IP of Services: 10.96.x.y, fd00:10:96::xyy.
    pub fn cluster_ip(self, high: u8, low: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 96, high, low).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, u16::from_be_bytes([high, low])).into(),
        }
    }
}

/// The number whose hexadecimal digits are the decimal digits of `number`.
fn decimal(number: u8) -> u16 {
    let number = u16::from(number);
    ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10)
}

/// How packets to external addresses and cluster IPs come to a node. The client's address decides, and both families
/// of the client have the same last number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// The router sends them to node N: client 198.51.100.1N.
    Router(usize),
    /// The router sends them to the balancer, and that to node N without change: client 198.51.100.2N.
    Balancer(usize),
}

impl Entry {
    /// The client's address for it.
    pub fn client(self, family: Family) -> IpAddr {
        family.client(self.last())
    }

    fn last(self) -> u8 {
        match self {
            Self::Router(node) => 10 + number(node),
            Self::Balancer(node) => 20 + number(node),
        }
    }
}

/// Lets a host send every ICMP error, however many there are, and leaves the ports of [`next_port`](super::next_port) to questions.
fn prepare(host: &Host) -> Result<()> {
    host.sysctl("net.ipv4.ip_local_port_range", EPHEMERAL_PORTS)?;
    host.sysctl("net.ipv4.icmp_ratelimit", "0")?;
    host.sysctl("net.ipv6.icmp.ratelimit", "0")?;
    for limit in ["icmp_msgs_per_sec", "icmp_msgs_burst"] {
        // Kernels before 6.13 have it once for the whole machine, and not in here.
        let _ = host.sysctl(&format!("net.ipv4.{limit}"), "1000000");
    }
    Ok(())
}

fn number(node: usize) -> u8 {
    u8::try_from(node).expect("there are three nodes")
}

const NODES: usize = 3;
/// What clients reach by way of a node, of each family: VIPs, other external addresses, cluster IPs.
const SERVICES: [[&str; 3]; 2] =
    [["203.0.113.0/24", "198.18.0.0/24", "10.96.0.0/16"], ["2001:db8:f::/64", "2001:db8:e::/64", "fd00:10:96::/112"]];
const LENGTHS: [u8; 2] = [24, 64];
const HOST_LENGTHS: [u8; 2] = [32, 128];

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    host: Host,
    number: usize,
}

impl Node {
    /// Its network namespace.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// 1, 2 or 3.
    pub fn number(&self) -> usize {
        self.number
    }

    /// `node-N`.
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// Its InternalIP.
    pub fn address(&self, family: Family) -> IpAddr {
        family.segment(10 + number(self.number))
    }

    /// The address of its end of the pods' cables.
    pub fn gateway(&self, family: Family) -> IpAddr {
        family.pod(number(self.number), 1)
    }

    /// Its pods' addresses, such as `10.244.1.0/24`.
    pub fn pod_cidr(&self, family: Family) -> String {
        let length = if family == Family::V4 { 24 } else { 64 };
        format!("{}/{length}", family.pod(number(self.number), 0))
    }
}

/// A pod, or a program in the network of a node.
#[derive(Clone, Debug)]
pub struct Pod {
    host: Host,
    name: String,
    node: usize,
    addresses: [IpAddr; 2],
}

impl Pod {
    /// Its network namespace.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The name given to it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of its node.
    pub fn node(&self) -> usize {
        self.node
    }

    /// Its address.
    pub fn address(&self, family: Family) -> IpAddr {
        self.addresses[usize::from(family == Family::V6)]
    }
}

/// All hosts, wired. They end with the [`Lab`] that they are in, servers with this.
#[derive(Debug)]
pub struct Topology<'lab> {
    client: Host,
    router: Host,
    balancer: Host,
    nodes: Vec<Node>,
    pods: Mutex<Vec<Pod>>,
    servers: Servers,
    lab: &'lab Lab,
}

impl<'lab> Topology<'lab> {
    /// Makes the hosts and three nodes without pods.
    ///
    /// # Errors
    /// Without root.
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        let (client, router, balancer) = (lab.host("client")?, lab.host("router")?, lab.host("balancer")?);
        let nodes = (1..=NODES).map(|node| Ok(Node { host: lab.host(&format!("node-{node}"))?, number: node }));
        let nodes: Vec<Node> = nodes.collect::<Result<_>>()?;
        let topology =
            Self { client, router, balancer, nodes, pods: Mutex::default(), servers: Servers::start()?, lab };
        for host in
            topology.nodes.iter().map(Node::host).chain([&topology.client, &topology.router, &topology.balancer])
        {
            prepare(host)?;
        }
        topology.wire()?;
        topology.address()?;
        topology.route()?;
        Ok(topology)
    }

    fn wire(&self) -> Result<()> {
        self.client.wire("eth0", &self.router, "client0")?;
        self.router.ip_batch("link add name lan0 type bridge\nlink set dev lan0 up\n")?;
        let ports = self.nodes.iter().map(|node| (node.host(), format!("port{}", node.number)));
        for (host, port) in ports.chain([(&self.balancer, "port0".to_owned())]) {
            host.wire("eth0", &self.router, &port)?;
            self.router.ip(&format!("link set dev {port} master lan0"))?;
        }
        for host in self.nodes.iter().map(Node::host).chain([&self.router, &self.balancer]) {
            host.forward()?;
            // As distributions have it: loose, or none. With several interfaces the greater of both counts.
            host.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
            host.sysctl("net.ipv4.conf.eth0.rp_filter", "2")
                .or_else(|_| host.sysctl("net.ipv4.conf.lan0.rp_filter", "2"))?;
        }
        // Who passes packets on by another way than the router would is not to tell it so.
        for scope in ["all", "eth0"] {
            self.balancer.sysctl(&format!("net.ipv4.conf.{scope}.send_redirects"), "0")?;
        }
        Ok(())
    }

    fn address(&self) -> Result<()> {
        let entries = (1..=NODES).flat_map(|node| [Entry::Router(node), Entry::Balancer(node)]);
        let lasts: Vec<u8> = [7].into_iter().chain(entries.map(Entry::last)).collect();
        for (family, length) in Family::ALL.into_iter().zip(LENGTHS) {
            let add = |host: &Host, interface: &str, addresses: &[IpAddr]| {
                let mut text = String::new();
                for address in addresses {
                    let nodad = if family == Family::V6 { " nodad" } else { "" };
                    writeln!(text, "address add {address}/{length} dev {interface}{nodad}")?;
                }
                host.ip_batch(&text)
            };
            let clients: Vec<IpAddr> = lasts.iter().map(|last| family.client(*last)).collect();
            add(&self.client, "eth0", &clients)?;
            add(&self.router, "client0", &[family.client(1)])?;
            add(&self.router, "lan0", &[family.segment(1)])?;
            add(&self.balancer, "eth0", &[family.segment(100)])?;
            for node in &self.nodes {
                add(node.host(), "eth0", &[node.address(family)])?;
            }
        }
        Ok(())
    }

    fn route(&self) -> Result<()> {
        for (index, family) in Family::ALL.into_iter().enumerate() {
            let default = format!("route add default via {}\n", family.segment(1));
            let src = family.client(7);
            let routes = format!("route add default via {} src {src}\n", family.client(1));
            self.client.ip_batch(&routes)?;
            // Whatever a node should have taken for itself ends there.
            for prefix in SERVICES[index] {
                self.router.ip(&format!("route add blackhole {prefix}"))?;
            }
            self.router.ip_batch(&self.entries(family, SERVICES[index], false)?)?;
            let balancer = self.entries(family, SERVICES[index], true)?;
            self.balancer.ip_batch(&format!("{default}{balancer}"))?;
            for node in &self.nodes {
                let mut text = default.clone();
                for peer in self.nodes.iter().filter(|peer| peer.number != node.number) {
                    writeln!(text, "route add {} via {}", peer.pod_cidr(family), peer.address(family))?;
                }
                node.host().ip_batch(&text)?;
            }
        }
        Ok(())
    }

    /// Rules and routes by which the router, or the balancer, obeys the client's address.
    fn entries(&self, family: Family, prefixes: [&str; 3], balancer: bool) -> Result<String> {
        let mut text = String::new();
        for node in &self.nodes {
            let ways = [
                (Entry::Router(node.number), node.address(family)),
                (Entry::Balancer(node.number), family.segment(100)),
            ];
            for (entry, router_sends) in ways {
                let via = if balancer { node.address(family) } else { router_sends };
                let table = 100 + u16::from(entry.last());
                // What a node does not take comes back by another cable, and is not sent to it again.
                let (from, cable) = (entry.client(family), if balancer { "eth0" } else { "client0" });
                writeln!(text, "rule add from {from} iif {cable} lookup {table} priority {table}")?;
                for prefix in prefixes {
                    writeln!(text, "route add {prefix} via {via} table {table}")?;
                }
            }
        }
        Ok(text)
    }

    /// The client outside of the cluster. Beside 198.51.100.7 (2001:db8:c::7) it has an address for each [`Entry`].
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// The client's own address.
    pub fn client_address(&self, family: Family) -> IpAddr {
        family.client(7)
    }

    /// The router between the client and the nodes.
    pub fn router(&self) -> &Host {
        &self.router
    }

    /// The load balancer that passes packets: 192.0.2.100.
    pub fn balancer(&self) -> &Host {
        &self.balancer
    }

    /// The balancer's address.
    pub fn balancer_address(&self, family: Family) -> IpAddr {
        family.segment(100)
    }

    /// Node 1, 2 or 3.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Adds a pod to a node.
    ///
    /// # Errors
    /// When the namespace cannot be made.
    pub fn pod(&self, node: usize, name: &str) -> Result<Pod> {
        let node = self.node(node);
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let others = pods.iter().filter(|pod| pod.node == node.number && pod.host.name() != node.name()).count();
        let last = u8::try_from(others + 2).ok().filter(|last| *last < 250).context("room for another pod")?;
        let host = self.lab.host(name)?;
        prepare(&host)?;
        let veth = format!("pod{last}");
        host.wire("eth0", node.host(), &veth)?;
        for (family, length) in Family::ALL.into_iter().zip(HOST_LENGTHS) {
            let (mut inside, mut outside) = (String::new(), String::new());
            let (gateway, address) = (node.gateway(family), family.pod(number(node.number), last));
            let nodad = if family == Family::V6 { " nodad" } else { "" };
            writeln!(inside, "address add {address}/{length} dev eth0{nodad}")?;
            writeln!(inside, "route add {gateway}/{length} dev eth0")?;
            writeln!(inside, "route add default via {gateway} dev eth0 src {address}")?;
            writeln!(outside, "address add {gateway}/{length} dev {veth}{nodad}")?;
            writeln!(outside, "route add {address}/{length} dev {veth}")?;
            host.ip_batch(&inside)?;
            node.host().ip_batch(&outside)?;
        }
        let addresses = Family::ALL.map(|family| family.pod(number(node.number), last));
        let pod = Pod { host, name: name.to_owned(), node: node.number, addresses };
        pods.push(pod.clone());
        Ok(pod)
    }

    /// A program in the network of a node, as a pod with `hostNetwork`.
    pub fn host_pod(&self, node: usize, name: &str) -> Pod {
        let node = self.node(node);
        let addresses = Family::ALL.map(|family| node.address(family));
        let pod = Pod { host: node.host().clone(), name: name.to_owned(), node: node.number, addresses };
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).push(pod.clone());
        pod
    }

    /// All pods so far.
    pub fn pods(&self) -> Vec<Pod> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers TCP and UDP on a port of a pod, in both families, as [`ask`](super::ask) wants it.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn serve(&self, pod: &Pod, port: u16) -> Result<()> {
        for address in pod.addresses {
            let at = SocketAddr::new(address, port);
            self.servers.open(pod.host(), pod.name(), at).with_context(|| format!("pod {} at {at}", pod.name()))?;
        }
        Ok(())
    }

    /// Makes what listens at an address of this process's own network, such as an API server, reachable from every
    /// node at the same address.
    ///
    /// # Errors
    /// When the address is no loopback address, or is taken on a node.
    pub fn admit(&self, server: SocketAddr) -> Result<()> {
        ensure!(server.ip().is_loopback(), "{server} is not on the loopback interface");
        self.nodes.iter().try_for_each(|node| self.servers.forward(node.host(), server))
    }
}
