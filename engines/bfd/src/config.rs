//! How to watch a peer.

use std::time::Duration;

/// Times and limits of a session; [`Profile::default`] notices within 900 ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// How often packets shall come at most.
    pub receive_interval: Duration,
    /// How often packets shall be sent.
    pub transmit_interval: Duration,
    /// How many packets may be lost but one; at least 1.
    pub detect_multiplier: u8,
    /// Between echo packets; `None`: none are sent, and the peer is told that none are taken.
    pub echo_interval: Option<Duration>,
    /// Speak when spoken to.
    pub passive: bool,
    /// Packets with a smaller time to live come from too far away: 255 for one hop.
    pub minimum_ttl: u8,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            receive_interval: Duration::from_millis(300),
            transmit_interval: Duration::from_millis(300),
            detect_multiplier: 3,
            echo_interval: None,
            passive: false,
            minimum_ttl: 255,
        }
    }
}
