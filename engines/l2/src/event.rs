//! What the engine is told.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::frame::Mac;

/// An interface on which frames are heard and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its number, by which frames are tagged. Another number is another interface, even of the same name.
    pub index: u32,
    /// Its name.
    pub name: Arc<str>,
    /// Its hardware address.
    pub mac: Mac,
    /// Whether it speaks ARP.
    pub arp: bool,
    /// Where advertisements come from; without it the interface does not speak NDP.
    pub link_local: Option<Ipv6Addr>,
}

/// On which interfaces an address is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interfaces {
    /// On all that are heard.
    All,
    /// On those of these names.
    Named(Arc<BTreeSet<Arc<str>>>),
}

impl Interfaces {
    /// Whether an interface is one of them.
    pub fn contain(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }
}

/// An address that this node shall announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The address.
    pub address: IpAddr,
    /// Where.
    pub interfaces: Interfaces,
    /// Another node of the cluster announced it until now: it is announced at once, and only looked at meanwhile
    /// whether somebody outside the cluster has it. Counts when the address is new here.
    pub takeover: bool,
}

/// Something happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// These interfaces are heard, and no others; `own`: addresses that this host has itself.
    Interfaces {
        /// Where frames are heard and sent.
        heard: &'a [Interface],
        /// Addresses of this host, of all its interfaces.
        own: &'a [IpAddr],
    },
    /// These addresses shall be announced, and no others. Of an address that is named twice the last counts.
    Wanted(&'a [Wanted]),
    /// Hardware addresses of the other nodes of the cluster.
    Members(&'a [Mac]),
    /// Whether the other nodes know that this one is alive. Until told it counts as true.
    Known(bool),
    /// A frame came in.
    Frame {
        /// The number of the interface.
        interface: u32,
        /// From the destination's hardware address on.
        bytes: &'a [u8],
    },
    /// Time has passed: it is due at [`deadline`](crate::L2::deadline).
    Tick,
}
