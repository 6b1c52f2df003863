//! How a session is.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::types::{Asn, Families};

/// States of RFC 4271 section 8.2.2; of several connections that which is farthest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Not to be connected, or told to end.
    Idle,
    /// Waits before the next attempt.
    Active,
    Connect,
    OpenSent,
    OpenConfirm,
    Established,
}

/// What both sides agreed upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    pub peer_asn: Asn,
    pub peer_id: Ipv4Addr,
    /// In seconds; 0: none.
    pub hold: u16,
    /// Families that both have, and whose next hop is known.
    pub families: Families,
    /// Same autonomous system.
    pub internal: bool,
    /// Otherwise AS paths have two octets for each number.
    pub four_octet: bool,
    /// IPv4 prefixes may have next hops of IPv6.
    pub extended_next_hop: bool,
    /// For how many seconds the peer keeps our routes; `None`: it does not.
    pub restart_time: Option<u16>,
}

/// Messages since the session was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    pub opens_sent: u64,
    pub opens_received: u64,
    pub keepalives_sent: u64,
    pub keepalives_received: u64,
    pub updates_sent: u64,
    pub updates_received: u64,
    pub notifications_sent: u64,
    pub notifications_received: u64,
    pub route_refreshes_received: u64,
}

impl Counters {
    pub fn sent(&self) -> u64 {
        self.opens_sent + self.keepalives_sent + self.updates_sent + self.notifications_sent
    }

    pub fn received(&self) -> u64 {
        self.opens_received
            + self.keepalives_received
            + self.updates_received
            + self.notifications_received
            + self.route_refreshes_received
    }
}

/// A session as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub state: State,
    /// When the session was established, by the caller's clock.
    pub since: Option<Duration>,
    pub negotiated: Option<Negotiated>,
    /// Prefixes that the peer was told.
    pub announced: usize,
    /// Changes that it was not told yet.
    pub pending: usize,
    /// Why the last connection ended.
    pub last_down: Option<String>,
    pub counters: Counters,
}
