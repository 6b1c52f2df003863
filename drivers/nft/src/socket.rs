//! A netlink socket of netfilter.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{RecvFlags, SendFlags, recvfrom, send};
use socket2::{SockFilter, SockRef};

use crate::error::NftError;

/// A datagram of the kernel has at most 32 KiB in dumps, and a page or the refused message's header else.
const DATAGRAM_BYTES: usize = 64 << 10;

/// How long the kernel may take for an answer; it answers within the call that asks.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    /// Its address: what the kernel writes into answers, and into events of its changes.
    pub(crate) port: u32,
    /// The size of the largest message it may send.
    room: usize,
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

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> NftError {
    move |source| NftError::Socket { doing, source }
}

impl Socket {
    /// A socket in the network namespace of this thread, with room for `receive` bytes of answers.
    pub(crate) fn open(receive: usize) -> Result<Self, NftError> {
        let mut inner = netlink_sys::Socket::new(NETLINK_NETFILTER).map_err(failed("open for netfilter"))?;
        let port = inner.bind_auto().map_err(failed("bind"))?.port_number();
        // Errors with the offset of what is wrong, and without a copy of the whole message.
        inner.set_ext_ack(true).map_err(failed("ask for extended errors"))?;
        inner.set_cap_ack(true).map_err(failed("ask for short errors"))?;
        // Beyond the system's limit if this process may; else as far as it goes, and what does not fit is noticed.
        let forced = sockopt::set_socket_recv_buffer_size_force(&inner, receive);
        forced
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&inner, receive))
            .map_err(|errno| failed("make room for answers")(errno.into()))?;
        sockopt::set_socket_timeout(&inner, Timeout::Recv, Some(PATIENCE))
            .map_err(|errno| failed("set a deadline for answers")(errno.into()))?;
        let room = sockopt::socket_send_buffer_size(&inner).unwrap_or(0);
        Ok(Self { inner, port, room, buffer: vec![0; DATAGRAM_BYTES] })
    }

    pub(crate) fn subscribe(&self, group: u32) -> Result<(), NftError> {
        self.inner.add_membership(group).map_err(failed("subscribe to changes"))
    }

    /// From now on events of changes by this port do not come, and take no room.
    pub(crate) fn leave_out(&self, author: u32) -> Result<(), NftError> {
        SockRef::from(&self.inner).attach_filter(&not_of(author)).map_err(failed("leave out own changes"))
    }

    /// Sends a datagram to the kernel, which deals with it before this returns.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), NftError> {
        // What is sent may fill the buffer but for 32 bytes, and the kernel doubles what is asked for.
        let needed = bytes.len() + 4096;
        if needed > self.room {
            let forced = sockopt::set_socket_send_buffer_size_force(&self.inner, needed);
            if forced.or_else(|_| sockopt::set_socket_send_buffer_size(&self.inner, needed)).is_ok() {
                self.room = sockopt::socket_send_buffer_size(&self.inner).unwrap_or(0);
            }
        }
        loop {
            match send(&self.inner, bytes, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("send to the kernel")(errno.into())),
            }
        }
    }

    /// The next datagram of the kernel. Waits for [`PATIENCE`] at most, or not at all.
    pub(crate) fn receive(&mut self, wait: bool) -> Result<Received<'_>, NftError> {
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

/// Classic BPF that drops what has this port as its author. All messages of a datagram are of one commit.
fn not_of(author: u32) -> [SockFilter; 4] {
    // `nlmsg_pid`, which is in the order of the host; the program sees it as in the order of the network.
    const NLMSG_PID: u32 = 12;
    let author = u32::from_be_bytes(author.to_ne_bytes());
    [
        SockFilter::new(0x20, 0, 0, NLMSG_PID),
        SockFilter::new(0x15, 0, 1, author),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ]
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
