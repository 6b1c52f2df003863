//! What can go wrong, and where.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::decode::Malformed;

/// Why something could not be read from the kernel or changed in it. `what` is the operation with its object, such as
/// `add rule priority 50 fwmark 0x1/0xff lookup 100 (IPv4)`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The kernel refused.
    #[error("{what}: refused by the kernel: {why}{}", Said(.said))]
    Refused {
        /// What was asked.
        what: String,
        /// The kernel's number.
        why: io::Error,
        /// What it says beside that, if it says something.
        said: Option<String>,
    },
    /// The process may not do this in this network namespace.
    #[error("{what}: not permitted by the kernel; CAP_NET_ADMIN is needed in this network namespace")]
    NotPermitted {
        /// What was asked.
        what: String,
    },
    /// A link has the name of a VXLAN device that is wanted, and is something else.
    #[error("link {link} is of kind {kind}, not vxlan: rename or delete it, or choose another name")]
    NotVxlan {
        /// Its name.
        link: String,
        /// What it is.
        kind: String,
    },
    /// The kernel would delete another rule than the one that is meant: it takes the first that fits.
    #[error("delete rule {rule}: the kernel would take the rule before it, {other}; delete that first")]
    Ambiguous {
        /// The rule that is meant.
        rule: String,
        /// The one that would go.
        other: String,
    },
    /// What was read changed each time meanwhile.
    #[error("{what}: changed {attempts} times while it was read")]
    Changing {
        /// What was asked.
        what: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// Answers were lost because the socket's buffer was full.
    #[error("{what}: answers of the kernel were lost; read again")]
    Lost {
        /// What was asked.
        what: String,
    },
    /// The kernel did not answer in time.
    #[error("{what}: no answer of the kernel in {seconds} s")]
    Silent {
        /// What was asked.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The answer cannot be read.
    #[error("{what}: answer of the kernel cannot be read: {why}")]
    Malformed {
        /// What was asked.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A socket call went wrong.
    #[error("netlink socket: {doing}: {why}")]
    Socket {
        /// What was tried.
        doing: &'static str,
        /// Why.
        why: io::Error,
    },
}

struct Said<'a>(&'a Option<String>);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |said| write!(f, " ({said})"))
    }
}

impl NetlinkError {
    /// The kernel's number, an `errno`, if the kernel refused with one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { why, .. } => why.raw_os_error(),
            Self::NotPermitted { .. } => Some(Errno::PERM.raw_os_error()),
            _ => None,
        }
    }

    pub(crate) fn is(&self, errno: Errno) -> bool {
        self.errno() == Some(errno.raw_os_error())
    }

    pub(crate) fn refused(what: String, errno: i32, said: Option<String>) -> Self {
        if errno == Errno::PERM.raw_os_error() {
            return Self::NotPermitted { what };
        }
        Self::Refused { what, why: io::Error::from_raw_os_error(errno), said }
    }

    pub(crate) fn malformed(what: impl fmt::Display, Malformed(why): Malformed) -> Self {
        Self::Malformed { what: what.to_string(), why }
    }
}

/// The outcome of a deletion: whether there was something.
pub(crate) fn deleted(result: Result<(), NetlinkError>, absent: &[Errno]) -> Result<bool, NetlinkError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if absent.iter().any(|errno| error.is(*errno)) => Ok(false),
        Err(error) => Err(error),
    }
}
