//! Router advertisements, sent and heard on one interface (a raw socket of ICMPv6). Needs `CAP_NET_RAW`.
//!
//! A filter in the kernel passes on nothing else. RFC 4861 sections 6.1.2 and 6.2; raw(7), ipv6(7).

use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// A packet that passed a router has less.
const HOPS: u32 = 255;
/// Longer messages are cut.
const LONGEST: usize = 1_500;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// `BPF_LD | BPF_B | BPF_ABS`
const LOAD_BYTE: u16 = 0x30;
/// `BPF_JMP | BPF_JEQ | BPF_K`
const IF_EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;

/// A socket on one interface, inside a runtime.
#[derive(Debug)]
pub struct RouterSocket {
    socket: UdpSocket,
    interface: u32,
}

impl RouterSocket {
    /// Opens a socket on the interface of this name and number, in the network namespace of this thread.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, and when the interface is gone.
    pub fn open(name: &str, interface: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking(), Some(Protocol::ICMPV6))?;
        // Of the message the type is the first byte.
        let program = [(LOAD_BYTE, 0, 0, 0), (IF_EQUAL, 0, 1, 134), (RETURN, 0, 0, u32::MAX), (RETURN, 0, 0, 0)];
        let program = program.map(|(code, equal, other, value)| SockFilter::new(code, equal, other, value));
        socket.attach_filter(&program)?;
        socket.bind_device(Some(name.as_bytes()))?;
        socket.set_recv_hoplimit_v6(true)?;
        socket.set_multicast_if_v6(interface)?;
        socket.set_multicast_hops_v6(HOPS)?;
        socket.set_multicast_loop_v6(false)?;
        // Of a socket of datagrams it has all that is used here: waiting, and bytes in and out.
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, interface })
    }

    /// The next advertisement, from its type on, and who sent it: with a link-local address, on this link.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// What the system says.
    pub async fn receive(&self) -> io::Result<(Ipv6Addr, Vec<u8>)> {
        loop {
            if let Some(message) = self.socket.async_io(Interest::READABLE, || self.take()).await? {
                return Ok(message);
            }
        }
    }

    fn take(&self) -> io::Result<Option<(Ipv6Addr, Vec<u8>)>> {
        let mut buffer = [0; LONGEST];
        let mut control = nix::cmsg_space!(i32);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let from = message.address.as_ref().and_then(|address| address.as_sockaddr_in6()).map(|address| address.ip());
        let hops = message
            .cmsgs()?
            .find_map(|part| if let ControlMessageOwned::Ipv6HopLimit(value) = part { Some(value) } else { None });
        let length = message.bytes;
        let from = from.filter(|from| from.is_unicast_link_local() && hops == i32::try_from(HOPS).ok());
        Ok(from.map(|from| (from, buffer[..length].to_vec())))
    }

    /// Tells everybody on the link, from the interface's link-local address. The kernel makes the checksum.
    ///
    /// # Errors
    /// What the system says.
    pub async fn tell(&self, message: &[u8]) -> io::Result<()> {
        let everybody: SocketAddr = SocketAddrV6::new(ALL_NODES, 0, 0, self.interface).into();
        self.socket.send_to(message, everybody).await.map(drop)
    }
}
