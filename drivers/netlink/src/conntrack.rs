//! Connections that the kernel tracks.

mod flow;

use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;

pub use self::flow::{Flow, Tuple};
pub(crate) use self::flow::{decode, deletion, fields};
use crate::Family;
use crate::error::{NetlinkError, deleted};
use crate::session::Session;

/// The conntrack table of the network namespace of the thread that opened it. Needs `CAP_NET_ADMIN`.
#[derive(Debug)]
pub struct Conntrack {
    session: Session,
}

impl Conntrack {
    /// Opens a netlink socket.
    ///
    /// # Errors
    /// When the kernel has no netfilter, or no descriptor is left.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { session: Session::open(NETLINK_NETFILTER)? })
    }

    /// Gives every connection of a family to `visit`, of one protocol (IANA's number) or of all. Nothing is kept.
    ///
    /// Connections come and go meanwhile: one that is made during the walk may be told or not, and when the kernel
    /// resizes its table some are told twice or not at all.
    ///
    /// # Errors
    /// When the process lacks `CAP_NET_ADMIN`, or the kernel has no conntrack.
    pub fn dump(
        &mut self,
        family: Family,
        proto: Option<u8>,
        mut visit: impl FnMut(&Flow),
    ) -> Result<(), NetlinkError> {
        let request = flow::request(family, proto);
        self.session.ask(request, format_args!("list {family} connections"), |message| {
            // Kernels before 5.8 do not filter.
            if let Some(flow) = decode(message)?.filter(|flow| proto.is_none_or(|proto| flow.proto == proto)) {
                visit(&flow);
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Forgets a connection: this one, and not a later one with the same addresses. Returns whether it was there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete(&mut self, flow: &Flow) -> Result<bool, NetlinkError> {
        let result = self.session.ask(deletion(flow), format_args!("delete connection {flow}"), |_| Ok(()));
        deleted(result.map(drop), &[Errno::NOENT])
    }
}
