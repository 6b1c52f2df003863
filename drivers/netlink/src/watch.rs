//! Who else changes links, addresses, rules and neighbours: the kernel tells.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::decode::{self, Message};
use crate::error::NetlinkError;
use crate::socket::{Received, Socket};
use crate::wire;

/// Room for notices that were not fetched yet, in bytes.
const RECEIVE_BYTES: usize = 4 << 20;

/// Something has changed, by whomever; look at what it is now. With the number of the link that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Notice {
    /// A link appeared, changed or went away.
    Link(u32),
    /// A link got or lost an address.
    Address(u32),
    /// A rule was added or deleted.
    Rule,
    /// A neighbour or an FDB entry appeared, changed or went away. Those that the kernel finds by itself are told too.
    Neighbour(u32),
    /// There was more than could be kept: anything may have changed.
    Lost,
}

/// A subscription to changes. The descriptor is readable when there may be something to fetch. Routes are not told.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    told: VecDeque<Notice>,
}

impl Watch {
    /// Subscribes, in the network namespace of this thread, from now on. Needs no privilege.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open(NETLINK_ROUTE, RECEIVE_BYTES)?;
        for group in [
            wire::RTNLGRP_LINK,
            wire::RTNLGRP_NEIGH,
            wire::RTNLGRP_IPV4_IFADDR,
            wire::RTNLGRP_IPV6_IFADDR,
            wire::RTNLGRP_IPV4_RULE,
            wire::RTNLGRP_IPV6_RULE,
        ] {
            socket.subscribe(group)?;
        }
        Ok(Self { socket, told: VecDeque::new() })
    }

    /// The next notice that is there; does not wait.
    ///
    /// # Errors
    /// When the kernel's notices cannot be read.
    pub fn fetch(&mut self) -> Result<Option<Notice>, NetlinkError> {
        loop {
            if let Some(notice) = self.told.pop_front() {
                return Ok(Some(notice));
            }
            match self.socket.receive(false)? {
                Received::Datagram(bytes) => take(bytes, &mut self.told),
                Received::Lost => self.told.push_back(Notice::Lost),
                Received::Nothing => return Ok(None),
            }
        }
    }

    /// The next notice; waits for it as long as this at most.
    ///
    /// # Errors
    /// When the kernel's notices cannot be read.
    pub fn wait(&mut self, at_most: Duration) -> Result<Option<Notice>, NetlinkError> {
        if let Some(notice) = self.fetch()? {
            return Ok(Some(notice));
        }
        let at_most = Timespec::try_from(at_most).ok();
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], at_most.as_ref()) {
            Ok(_) | Err(Errno::INTR) => self.fetch(),
            Err(errno) => Err(NetlinkError::Socket { doing: "wait for changes", why: errno.into() }),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The notices of a datagram, one for each run of the same. What cannot be read counts as lost.
pub(crate) fn take(bytes: &[u8], told: &mut VecDeque<Notice>) {
    for message in decode::messages(bytes) {
        let notice = message.map_or(Some(Notice::Lost), |message| notice(&message));
        if let Some(notice) = notice.filter(|notice| told.back() != Some(notice)) {
            told.push_back(notice);
        }
    }
}

fn notice(message: &Message<'_>) -> Option<Notice> {
    // The number of the link has the same place in all of them.
    let about = |notice: fn(u32) -> Notice| {
        decode::array(message.payload, 4).map_or(Notice::Lost, |bytes| notice(u32::from_ne_bytes(bytes)))
    };
    match message.kind {
        wire::RTM_NEWLINK | wire::RTM_DELLINK => Some(about(Notice::Link)),
        wire::RTM_NEWADDR | wire::RTM_DELADDR => Some(about(Notice::Address)),
        wire::RTM_NEWNEIGH | wire::RTM_DELNEIGH => Some(about(Notice::Neighbour)),
        wire::RTM_NEWRULE | wire::RTM_DELRULE => Some(Notice::Rule),
        _ => None,
    }
}
