//! What the engine asks for.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::frame::Mac;

/// Why a frame is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counted {
    /// Somebody asked.
    Answer,
    /// Everybody is told.
    Gratuitous,
    /// Somebody else may have the address.
    Probe,
}

/// To be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send a frame.
    Send {
        /// The number of the interface.
        interface: u32,
        /// From the destination's hardware address on.
        frame: Vec<u8>,
        /// The address that it is about.
        address: IpAddr,
        /// Why.
        counted: Counted,
    },
    /// Listen to a group.
    Join {
        /// The number of the interface.
        interface: u32,
        /// The group.
        group: Ipv6Addr,
    },
    /// Listen to a group no more. Not asked for when the interface is gone.
    Leave {
        /// The number of the interface.
        interface: u32,
        /// The group.
        group: Ipv6Addr,
    },
    /// Tell somebody.
    Report {
        /// What it is about.
        address: IpAddr,
        /// What is to be told.
        report: Report,
    },
}

/// Something to be told about an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Somebody asked for it, and was answered.
    Requested,
    /// This node answers for it now.
    Announcing,
    /// Somebody outside the cluster has it: it is not announced, and looked at again after [`REFUSED_FOR`](crate::REFUSED_FOR).
    Refused {
        /// Where that was heard.
        interface: Arc<str>,
        /// Who has it.
        by: Mac,
    },
    /// Somebody outside the cluster says that it has the address that is announced here. It is announced on.
    Contested {
        /// Where that was heard.
        interface: Arc<str>,
        /// Who says so.
        by: Mac,
    },
    /// Another node of the cluster announces it, and does not know of this one, which is silent now.
    Yielded {
        /// Who announces it.
        to: Mac,
    },
    /// This node does not answer for it any more.
    Withdrawn,
}
