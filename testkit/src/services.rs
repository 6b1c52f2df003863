//! The machines around a cluster's Services: a client, a router, a load balancer, three nodes, and pods.
//!
//! ```text
//!  client 198.51.100.7 ── router ─┬─ node-1    192.0.2.11    ─┬─ pod 10.244.1.2  fd00:10:244:1::2
//!         2001:db8:c::7           │            2001:db8:2::11 └─ pod 10.244.1.3
//!                                 ├─ node-2    192.0.2.12    ─── pods 10.244.2.x
//!                                 ├─ node-3    192.0.2.13    ─── pods 10.244.3.x
//!                                 └─ balancer  192.0.2.100   (passes packets to a node, unchanged)
//! ```
//!
//! Everything is routed, and nothing is translated but by what a test starts on the nodes. Each pod has a cable to its
//! node, whose end has the gateway's address ([as kind has it]), so that all its packets pass the node's netfilter.
//! Packets to VIPs (203.0.113.0/24, 2001:db8:f::/64), external and cluster IPs reach the node that the client
//! names by its own address: see [`Entry`]. Those of nobody else are forwarded by the router.
//!
//! ```no_run
//! use headwater_testkit::lab;
//! use headwater_testkit::services::{Entry, Family, Topology, Transport, ask};
//!
//! # fn main() -> anyhow::Result<()> {
//! lab::test(|lab| {
//!     let topology = Topology::start(lab)?;
//!     let web = topology.pod(1, "web-1")?;
//!     topology.serve(&web, 8080)?;
//!     topology.node(2).host().nft("table ip t { chain c { type nat hook prerouting priority dstnat;
//!         ip daddr 203.0.113.1 tcp dport 80 dnat to 10.244.1.2:8080; } }")?;
//!     let client = Entry::Router(2).client(Family::V4);
//!     let outcome = ask(topology.client(), Some(client), "203.0.113.1:80".parse()?, Transport::Tcp)?;
//!     // Node 1 has no state of the connection and its reply goes to the router: nobody answers.
//!     assert!(outcome.seen().is_none());
//!     Ok(())
//! })
//! # }
//! ```
//!
//! [as kind has it]: https://www.cni.dev/plugins/current/main/ptp/

mod capture;
mod flow;
mod kube_proxy;
mod probe;
mod server;
mod topology;

pub use self::capture::{Capture, Flows, Hop, Trace};
pub use self::flow::{Connection, Datagrams, tally};
pub use self::kube_proxy::{CLUSTER_CIDR, SERVICE_CIDR, kube_proxy_configuration};
pub use self::probe::{Outcome, PATIENCE, Seen, ask, ask_with, next_port};
pub use self::topology::{Entry, Family, Node, Pod, Topology};

/// Protocol of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// As in a Service.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}
