//! What a session is told.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::PeerConfig;
use crate::types::Route;

/// A TCP connection with the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// Opened by the peer.
    pub incoming: bool,
    /// Never used twice: chosen by the session for those it asks for, by its caller for others.
    pub serial: u64,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", if self.incoming { "in" } else { "out" }, self.serial)
    }
}

/// The ends of a connection, and what else is on our interface of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Next hop of IPv4 prefixes over a connection of IPv6.
    pub ipv4: Option<Ipv4Addr>,
    /// Next hop of IPv6 prefixes over a connection of IPv4, or of link-local addresses.
    pub ipv6: Option<Ipv6Addr>,
    /// Told beside a global next hop to a peer on the same link. RFC 2545 section 3.
    pub link_local: Option<Ipv6Addr>,
}

/// Why a session shall end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The speaker ends, and somebody else may take over: withdraw everything.
    Shutdown,
    /// The peer is no longer wanted.
    Deconfigured,
    /// The speaker will be back soon: a peer that agreed to keeps the routes, others as with [`Stop::Shutdown`].
    Restart,
}

#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The session shall be like this from now on. Only what both sides agreed upon, and the connection, make a new one.
    Configure(Box<PeerConfig>),
    /// Prefixes to announce, and with `None` to withdraw.
    Routes(Vec<(IpNet, Option<Arc<Route>>)>),
    /// A connection that [`crate::Effect::Connect`] asked for.
    Connected {
        connection: ConnectionId,
        ends: Ends,
    },
    /// It did not come about.
    Unreached {
        connection: ConnectionId,
        cause: String,
    },
    /// The peer opened a connection.
    Accepted {
        connection: ConnectionId,
        ends: Ends,
    },
    Received {
        connection: ConnectionId,
        bytes: &'a [u8],
    },
    /// That many bytes were taken by the kernel.
    Sent {
        connection: ConnectionId,
        bytes: usize,
    },
    /// By the peer, or by an error.
    Closed {
        connection: ConnectionId,
        cause: String,
    },
    /// BFD says that the peer is not reached any more.
    BfdDown,
    /// [`crate::Session::deadline`] is over.
    Timer,
    Stop(Stop),
}
