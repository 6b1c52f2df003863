//! A netlink socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{RecvFlags, SendFlags, recvfrom, send};

use crate::error::NetlinkError;

/// A datagram of the kernel has at most 32 KiB in dumps, and a page or the refused message's header else.
const DATAGRAM_BYTES: usize = 64 << 10;

/// How long the kernel may take for an answer; it answers within the call that asks.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    buffer: Vec<u8>,
}

/// What came.
pub(crate) enum Received<'a> {
    Datagram(&'a [u8]),
    /// Some datagrams were dropped before this moment.
    Lost,
    /// Nothing, in time.
    Nothing,
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> NetlinkError {
    move |why| NetlinkError::Socket { doing, why }
}

impl Socket {
    /// A socket in the network namespace of this thread, with room for `receive` bytes of answers.
    pub(crate) fn open(protocol: isize, receive: usize) -> Result<Self, NetlinkError> {
        let mut inner = netlink_sys::Socket::new(protocol).map_err(failed("open"))?;
        inner.bind_auto().map_err(failed("bind"))?;
        // Errors with a text, and without a copy of the whole message.
        inner.set_ext_ack(true).map_err(failed("ask for extended errors"))?;
        inner.set_cap_ack(true).map_err(failed("ask for short errors"))?;
        // Filters of dumps count, and what they cannot mean is an error. Kernels before 4.20 tell everything.
        let _ = inner.set_netlink_get_strict_chk(true);
        // Beyond the system's limit if this process may; else as far as it goes, and what does not fit is noticed.
        let forced = sockopt::set_socket_recv_buffer_size_force(&inner, receive);
        forced
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&inner, receive))
            .map_err(|errno| failed("make room for answers")(errno.into()))?;
        sockopt::set_socket_timeout(&inner, Timeout::Recv, Some(PATIENCE))
            .map_err(|errno| failed("set a deadline for answers")(errno.into()))?;
        Ok(Self { inner, buffer: vec![0; DATAGRAM_BYTES] })
    }

    pub(crate) fn subscribe(&self, group: u32) -> Result<(), NetlinkError> {
        self.inner.add_membership(group).map_err(failed("subscribe to changes"))
    }

    /// Sends a message to the kernel, which deals with it before this returns.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        loop {
            match send(&self.inner, bytes, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("send to the kernel")(errno.into())),
            }
        }
    }

    /// The next datagram of the kernel. Waits for [`PATIENCE`] at most, or not at all.
    pub(crate) fn receive(&mut self, wait: bool) -> Result<Received<'_>, NetlinkError> {
        let flags = if wait { RecvFlags::TRUNC } else { RecvFlags::TRUNC | RecvFlags::DONTWAIT };
        let length = loop {
            match recvfrom(&self.inner, &mut self.buffer[..], flags) {
                Ok((_, length, from)) => {
                    // Other processes may send to the port as well.
                    let from = from.and_then(|address| SocketAddrNetlink::try_from(address).ok());
                    if from.is_some_and(|address| address.pid() == 0) {
                        break length;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => return Ok(Received::Lost),
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(errno) => return Err(failed("receive from the kernel")(errno.into())),
            }
        };
        // Longer than the buffer: cut off, which is a loss.
        Ok(self.buffer.get(..length).map_or(Received::Lost, Received::Datagram))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}
