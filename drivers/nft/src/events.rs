//! Who changes tables of ours: the kernel tells each commit, and this crate what it touched.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::decode::{self, Message};
use crate::error::{Malformed, NftError};
use crate::socket::{Received, Socket};
use crate::types::Table;
use crate::wire;

/// Room for events that were not fetched yet, in bytes.
const RECEIVE_BYTES: usize = 16 << 20;

/// Objects that one commit may touch until it counts as having touched anything.
const MAX_TOUCHED: usize = 1024;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Object {
    /// The table itself.
    Table,
    /// A chain.
    Chain,
    /// A rule; the name is that of its chain.
    Rule,
    /// A set or map.
    Set,
    /// Elements; the name is that of their set or map.
    Elements,
    /// A counter, quota or other named object, or a flow table.
    Other,
}

/// Something in a table that a commit has changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Touched {
    /// The table.
    pub table: Table,
    /// What it was.
    pub object: Object,
    /// Its name in the table; empty for the table itself.
    pub name: String,
    /// Whether something was taken away, rather than added or changed.
    pub removed: bool,
}

/// A change of the ruleset, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Commit {
    /// The generation that it made.
    pub generation: u32,
    /// The netlink port of its author; compare it with [`Kernel::port`](crate::Kernel::port) to know your own.
    pub port: u32,
    /// The process of its author, 0 if unknown.
    pub pid: u32,
    /// The name of that process.
    pub program: String,
    /// What it touched in the watched tables, each thing once.
    pub touched: BTreeSet<Touched>,
}

/// What [`Events`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A commit touched a watched table.
    Commit(Commit),
    /// There was more than could be kept: anything may have changed, and the sets must be read again.
    Lost,
}

/// A subscription to changes of tables. Commits that touch none of them are not told.
///
/// The descriptor is readable when there may be something to fetch. A commit of 100,000 elements, also one of our own,
/// may be too large to be told: then it is [`Notice::Lost`].
#[derive(Debug)]
pub struct Events {
    socket: Socket,
    feed: Feed,
}

impl Events {
    /// Subscribes to changes of these tables, in the network namespace of this thread, from now on.
    ///
    /// # Errors
    /// When the process lacks `CAP_NET_ADMIN`, or the kernel has no netfilter.
    pub fn subscribe(tables: &[Table]) -> Result<Self, NftError> {
        let socket = Socket::open(RECEIVE_BYTES)?;
        socket.subscribe(wire::NFNLGRP_NFTABLES)?;
        Ok(Self { socket, feed: Feed::new(tables) })
    }

    /// Subscribes to changes of these tables by others than this [port](crate::Kernel::port): its commits are not told,
    /// and however large they are they displace no others.
    ///
    /// # Errors
    /// As [`Events::subscribe`].
    pub fn of_others(tables: &[Table], port: u32) -> Result<Self, NftError> {
        let socket = Socket::open(RECEIVE_BYTES)?;
        socket.leave_out(port)?;
        socket.subscribe(wire::NFNLGRP_NFTABLES)?;
        Ok(Self { socket, feed: Feed::new(tables) })
    }

    /// The next notice that is there; does not wait.
    ///
    /// # Errors
    /// When the kernel's events cannot be read.
    pub fn fetch(&mut self) -> Result<Option<Notice>, NftError> {
        loop {
            if let Some(notice) = self.feed.told.pop_front() {
                return Ok(Some(notice));
            }
            match self.socket.receive(false)? {
                Received::Datagram(bytes) => self.feed.take(bytes)?,
                Received::Lost => self.feed.lose(),
                Received::Nothing => return Ok(None),
            }
        }
    }

    /// The next notice; waits for it as long as this at most.
    ///
    /// # Errors
    /// When the kernel's events cannot be read.
    pub fn wait(&mut self, at_most: Duration) -> Result<Option<Notice>, NftError> {
        if let Some(notice) = self.fetch()? {
            return Ok(Some(notice));
        }
        let at_most = Timespec::try_from(at_most).ok();
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], at_most.as_ref()) {
            Ok(_) | Err(Errno::INTR) => self.fetch(),
            Err(errno) => Err(NftError::Socket { doing: "wait for changes", source: errno.into() }),
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Messages -> notices.
#[derive(Debug)]
pub(crate) struct Feed {
    tables: Vec<Table>,
    /// What the commit has touched so far.
    touched: BTreeSet<Touched>,
    pub(crate) told: VecDeque<Notice>,
}

impl Feed {
    pub(crate) fn new(tables: &[Table]) -> Self {
        Self { tables: tables.to_vec(), touched: BTreeSet::new(), told: VecDeque::new() }
    }

    fn lose(&mut self) {
        self.touched.clear();
        if self.told.back() != Some(&Notice::Lost) {
            self.told.push_back(Notice::Lost);
        }
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        for message in decode::messages(bytes) {
            let message = message?;
            if let Some(generation) = decode::generation(&message)? {
                let touched = std::mem::take(&mut self.touched);
                if !touched.is_empty() {
                    self.told.push_back(Notice::Commit(Commit {
                        generation: generation.id,
                        port: message.port,
                        pid: generation.pid.unwrap_or(0),
                        program: generation.program,
                        touched,
                    }));
                }
            } else if let Some(touched) = self.touched(&message)? {
                if self.touched.len() < MAX_TOUCHED {
                    self.touched.insert(touched);
                } else if !self.touched.contains(&touched) {
                    self.lose();
                }
            }
        }
        Ok(())
    }

    /// What a message says has changed in a watched table.
    fn touched(&self, message: &Message<'_>) -> Result<Option<Touched>, Malformed> {
        let Some(number) = message.kind.checked_sub(wire::message(0)) else { return Ok(None) };
        // NFT_MSG_NEW* and NFT_MSG_DEL*; the attribute with the name, where there is one.
        let (object, removed, name) = match number {
            0 | 2 => (Object::Table, number == 2, None),
            3 | 5 => (Object::Chain, number == 5, Some(3)),
            6 | 8 => (Object::Rule, number == 8, Some(2)),
            9 | 11 => (Object::Set, number == 11, Some(2)),
            12 | 14 => (Object::Elements, number == 14, Some(2)),
            18 | 20 => (Object::Other, number == 20, Some(2)),
            22 | 24 => (Object::Other, number == 24, Some(2)),
            _ => return Ok(None),
        };
        let body = decode::body(message)?;
        let family = message.payload.first().copied();
        // Attribute 1 names the table in all of them.
        let Some(table) = decode::find(body, wire::NFTA_TABLE_NAME)?.map(decode::text) else { return Ok(None) };
        let watched = |watched: &&Table| Some(watched.family.number()) == family && watched.name.as_str() == table;
        let Some(table) = self.tables.iter().find(watched) else { return Ok(None) };
        let name = match name {
            Some(kind) => decode::find(body, kind)?.map(decode::text).unwrap_or_default(),
            None => String::new(),
        };
        Ok(Some(Touched { table: table.clone(), object, name, removed }))
    }
}
