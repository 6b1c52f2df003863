//! What can go wrong, and where.

use std::fmt;
use std::io;

use crate::types::{Element, Set, Table};

/// A name that the kernel would not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("name {name:?}: a name has 1 to {most} visible ASCII characters")]
pub struct NameError {
    pub(crate) name: String,
    pub(crate) most: usize,
}

/// A set that the kernel would not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("set {table} {set}: key and data each have at least one field, and at most {most} bytes")]
pub struct ShapeError {
    pub(crate) table: Table,
    pub(crate) set: crate::types::Name,
    pub(crate) most: usize,
}

/// An element that cannot be put into a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Key or data have other kinds of fields than the set.
    #[error("set {set}: element {element} does not have the fields that the set declares")]
    Misfit {
        /// The set.
        set: Set,
        /// The element, as text.
        element: String,
    },
    /// The batch has as many bytes as the kernel shall be asked to take at once.
    #[error("batch of {bytes} bytes: at most {most} are applied at once; send what is there, then the rest")]
    Full {
        /// What the batch has.
        bytes: usize,
        /// What it may have.
        most: usize,
    },
}

/// Bytes that are no netlink message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("netlink message: {what} at byte {at} does not fit into what is there")]
pub struct Malformed {
    pub(crate) what: &'static str,
    pub(crate) at: usize,
}

/// What a refusal is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The batch as a whole.
    Batch,
    /// A table that was to be made or deleted.
    Table(Table),
    /// A set, or elements in it that the kernel did not tell apart.
    Set(Set),
    /// One element; of one that was to be deleted, the key.
    Element(Set, Box<Element>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch => f.write_str("batch"),
            Self::Table(table) => write!(f, "table {table}"),
            Self::Set(set) => write!(f, "set {set}"),
            Self::Element(set, element) => write!(f, "set {set}: element {element}"),
        }
    }
}

/// The first thing in a batch that the kernel refused; nothing of the batch was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// What was refused.
    pub place: Place,
    /// The kernel's number, an `errno`.
    pub errno: i32,
    /// What the number means here.
    pub why: String,
    /// Messages of the batch that were refused beside this one, often in consequence.
    pub others: usize,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: refused by the kernel: {}", self.place, self.why)?;
        match self.others {
            0 => Ok(()),
            others => write!(f, " (and {others} more)"),
        }
    }
}

/// Why something could not be written to the kernel or read from it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NftError {
    /// The kernel refused part of a batch, and so all of it.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// Somebody committed a change after the generation that the batch was made for; nothing was applied.
    #[error("ruleset is no longer generation {expected}: read the sets again")]
    Stale {
        /// The generation that the batch was made for.
        expected: u32,
    },
    /// The process may not change this network namespace.
    #[error("netfilter in this network namespace may not be {doing}: CAP_NET_ADMIN is missing")]
    NotPermitted {
        /// What was tried.
        doing: &'static str,
    },
    /// There is no such set.
    #[error("set {set}: there is none; load its table first")]
    Absent {
        /// The set.
        set: Set,
    },
    /// Answers were lost because the socket's buffer was full: the state of the kernel must be read again.
    #[error("netlink answers were lost: read the sets again")]
    Lost,
    /// The kernel did not answer in time.
    #[error("netlink: no answer to {request} in {seconds} s")]
    Silent {
        /// What was asked.
        request: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// Others changed the ruleset each time it was read.
    #[error("set {set}: changed {attempts} times while it was read")]
    Changing {
        /// The set.
        set: Set,
        /// How often it was tried.
        attempts: u32,
    },
    /// The kernel refused a request that is no batch.
    #[error("netlink: {request} refused")]
    Request {
        /// What was asked.
        request: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A socket call went wrong.
    #[error("netlink socket: {doing}")]
    Socket {
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The answer cannot be read.
    #[error("netlink answer cannot be read")]
    Malformed(#[from] Malformed),
    /// The program nft could not be run.
    #[error("program nft cannot be run; it is in the package nftables")]
    Program(#[source] io::Error),
    /// The program nft refused the ruleset.
    #[error("ruleset refused by nft: {text}")]
    Ruleset {
        /// What it said, 4 KiB at most.
        text: String,
    },
}
