//! Links, addresses, routes, rules, neighbours and conntrack entries of the kernel, over rtnetlink and nfnetlink.
//!
//! [`Netlink`] reads and changes them, [`Watch`] tells that somebody did, [`Conntrack`] walks over connections and
//! forgets some, [`sysctl`] reads and sets parameters.
//!
//! ```no_run
//! use headwater_netlink::{FdbEntry, Netlink, Vxlan};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut netlink = Netlink::open()?;
//! let (name, local) = ("vx0".to_owned(), "192.0.2.1".parse()?);
//! let device = Vxlan { name, vni: 77, port: 8474, local, mtu: 1450, mac: [2, 0, 0, 0, 0, 1] };
//! let vx0 = netlink.ensure_vxlan(&device)?.index;
//! netlink.set_fdb(vx0, &FdbEntry { mac: [2, 0, 0, 0, 0, 2], ip: "192.0.2.2".parse()? })?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything blocks, for as long as the kernel needs, and acts in the network namespace of the thread that opened the
//! socket. Changes and connections need `CAP_NET_ADMIN`. Links are named by their index, as the kernel does: an index is
//! not used again for another link in the same namespace until all others were.
//!
//! Source: `include/uapi/linux/rtnetlink.h`, `if_link.h`, `neighbour.h`, `fib_rules.h`, `nfnetlink_conntrack.h` of Linux.

#![warn(missing_docs)]

mod address;
pub mod conntrack;
mod decode;
mod error;
mod fuzz;
mod link;
mod local;
mod neighbour;
mod netlink;
mod route;
mod rule;
mod session;
mod socket;
pub mod sysctl;
mod vxlan;
mod watch;
mod wire;

pub use conntrack::{Conntrack, Flow, Tuple};
pub use error::NetlinkError;
pub use fuzz::fuzz;
pub use link::{Link, VxlanFacts};
pub use neighbour::{FdbEntry, Neighbour};
pub use netlink::Netlink;
pub use route::{Route, RouteAnswer};
pub use rule::Rule;
pub use vxlan::{Ensured, Vxlan};
pub use watch::{Notice, Watch};

use std::fmt;
use std::net::IpAddr;

/// The version of IP that something is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::V4 => wire::AF_INET,
            Self::V6 => wire::AF_INET6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A hardware address as text.
pub(crate) struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
