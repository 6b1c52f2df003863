//! How to speak with a peer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::types::{Asn, Families};

/// Hold time that is offered unless told otherwise, in seconds.
pub const DEFAULT_HOLD: u16 = 180;

/// How long a peer keeps our routes while we restart, in seconds, unless told otherwise; as FRR's.
pub const RESTART_TIME: u16 = 120;

/// Which autonomous system the peer must be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAsn {
    Exactly(Asn),
    /// Ours.
    Internal,
    /// Any but ours.
    External,
}

impl PeerAsn {
    pub(crate) fn accepts(self, local: Asn, peer: Asn) -> bool {
        match self {
            Self::Exactly(asn) => peer == asn,
            Self::Internal => peer == local,
            Self::External => peer != local,
        }
    }
}

/// Key of TCP-MD5 (RFC 2385); nothing prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

/// What a connection to the peer needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    pub address: IpAddr,
    /// Interface of a link-local `address`.
    pub scope: u32,
    pub port: u16,
    /// Own end; `None`: what the routes say.
    pub source: Option<IpAddr>,
    pub password: Option<Password>,
    /// Time to live of our packets; `None`: the system's.
    pub ttl: Option<u8>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    pub local_asn: Asn,
    pub peer_asn: PeerAsn,
    /// BGP identifier; not 0.0.0.0.
    pub router_id: Ipv4Addr,
    pub families: Families,
    /// Offered hold time in seconds: 0, or at least 3.
    pub hold: u16,
    /// Seconds between KEEPALIVEs at most; `None`: a third of the hold time.
    pub keepalive: Option<u16>,
    /// Between attempts to connect; `None`: 0, 1, 2, 4, ... 120 s.
    pub connect_retry: Option<Duration>,
    /// For how many seconds the peer shall keep our routes while we restart; `None`: it shall not.
    pub graceful_restart: Option<u16>,
    pub transport: Transport,
}

impl PeerConfig {
    /// Whether a session under `self` may go on under `other`.
    pub(crate) fn keeps_session(&self, other: &Self) -> bool {
        let mut other = other.clone();
        other.keepalive = self.keepalive;
        other.connect_retry = self.connect_retry;
        *self == other
    }
}
