//! Datagrams of BFD: one socket takes what comes to a port, with its time to live; each session sends from a port of
//! its own. RFC 5881 section 4, RFC 5883 section 5.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Source ports of control packets. RFC 5881 section 4.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;
/// Ports tried before giving up: others have most of them.
const ATTEMPTS: u16 = 64;
const CONTROL: u32 = 0xc0;
/// GTSM: packets that came over a router have less. RFC 5082.
const TTL: u32 = 255;
/// Longer packets are cut; control packets have 24 bytes, with authentication 52.
const LONGEST: usize = 128;

/// A packet that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    pub bytes: Vec<u8>,
    pub from: SocketAddr,
    /// Our address that it was sent to.
    pub to: IpAddr,
    pub ttl: u8,
    /// Index of the interface that it came by.
    pub interface: u32,
}

/// Takes packets of one family that come to a port.
pub struct LivenessListener {
    socket: UdpSocket,
}

impl LivenessListener {
    /// # Errors
    /// What the system says; port 3784, 3785 or 4784 may be another BFD daemon's.
    pub fn bind(ipv6: bool, port: u16) -> io::Result<Self> {
        let (domain, any) = if ipv6 {
            (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED))
        } else {
            (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if ipv6 {
            socket.set_only_v6(true)?;
            socket.set_recv_hoplimit_v6(true)?;
            socket.set_unicast_hops_v6(TTL)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            socket.set_ttl_v4(TTL)?;
        }
        socket.bind(&SocketAddr::new(any, port).into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())? })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Waits for the next packet; those without a time to live are passed over.
    ///
    /// # Errors
    /// What the system says.
    pub async fn receive(&self) -> io::Result<Arrived> {
        loop {
            if let Some(arrived) = self.socket.async_io(Interest::READABLE, || self.take()).await? {
                return Ok(arrived);
            }
        }
    }

    /// Sends a packet to where it came from, with a time to live that shows it: 254. What cannot be sent is lost.
    pub async fn send_back(&self, arrived: &Arrived) {
        // The socket's own is 255; only a control message changes it for one packet.
        let hops = i32::from(u8::MAX) - 1;
        let message =
            if arrived.to.is_ipv4() { ControlMessage::Ipv4Ttl(&hops) } else { ControlMessage::Ipv6HopLimit(&hops) };
        let slices = [IoSlice::new(&arrived.bytes)];
        let to = SockaddrStorage::from(arrived.from);
        let send = || {
            let sent = sendmsg(self.socket.as_raw_fd(), &slices, &[message], MsgFlags::MSG_DONTWAIT, Some(&to));
            Ok(sent.map(drop)?)
        };
        let _: io::Result<()> = self.socket.async_io(Interest::WRITABLE, send).await;
    }

    /// Sends a packet with the greatest time to live. What cannot be sent is lost.
    pub async fn send(&self, bytes: &[u8], to: SocketAddr) {
        let _ = self.socket.send_to(bytes, to).await;
    }

    fn take(&self) -> io::Result<Option<Arrived>> {
        let mut buffer = [0; LONGEST];
        let mut control = nix::cmsg_space!(i32, nix::libc::in6_pktinfo);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let from = message.address.as_ref().and_then(to_socket_address);
        let (mut ttl, mut end) = (None, None);
        for part in message.cmsgs()? {
            match part {
                ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                    ttl = u8::try_from(value).ok();
                }
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    let to = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                    end = Some((IpAddr::V4(to), u32::try_from(info.ipi_ifindex).unwrap_or(0)));
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    end = Some((IpAddr::V6(info.ipi6_addr.s6_addr.into()), info.ipi6_ifindex));
                }
                _ => {}
            }
        }
        let length = message.bytes;
        let (Some(from), Some(ttl), Some((to, interface))) = (from, ttl, end) else { return Ok(None) };
        Ok(Some(Arrived { bytes: buffer[..length].to_vec(), from, to, ttl, interface }))
    }
}

fn to_socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::new(v4.ip().into(), v4.port())),
        (_, Some(v6)) => Some(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into()),
        _ => None,
    }
}

/// A socket that sends to one peer, from a port that BFD allows, with the greatest time to live. `start`: where the
/// search for a free port begins.
///
/// # Errors
/// What the system says.
pub fn sender(source: Option<IpAddr>, remote: SocketAddr, start: u16) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(remote);
    let count = SOURCE_PORTS.end() - SOURCE_PORTS.start();
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for attempt in 0..ATTEMPTS {
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if remote.is_ipv4() {
            socket.set_ttl_v4(TTL)?;
            socket.set_tos_v4(CONTROL)?;
        } else {
            socket.set_unicast_hops_v6(TTL)?;
            socket.set_tclass_v6(CONTROL)?;
        }
        let port = SOURCE_PORTS.start() + start.wrapping_add(attempt.wrapping_mul(257)) % count;
        let own = match (source, remote) {
            (Some(IpAddr::V4(own)), _) => SocketAddr::new(own.into(), port),
            (Some(IpAddr::V6(own)), SocketAddr::V6(remote)) => {
                let scope = if own.is_unicast_link_local() { remote.scope_id() } else { 0 };
                SocketAddrV6::new(own, port, 0, scope).into()
            }
            (_, SocketAddr::V4(_)) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
            (_, SocketAddr::V6(_)) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port),
        };
        match socket.bind(&own.into()) {
            Ok(()) => {
                socket.connect(&remote.into())?;
                return UdpSocket::from_std(socket.into());
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_come_with_their_time_to_live_from_a_port_of_bfd() {
        for (ipv6, own) in [(false, "127.0.0.1"), (true, "::1")] {
            let own: IpAddr = own.parse().unwrap();
            let listener = LivenessListener::bind(ipv6, 0).unwrap();
            let remote = SocketAddr::new(own, listener.local_addr().unwrap().port());
            let first = sender(Some(own), remote, 7).unwrap();
            // The port is taken, and the next one is found.
            let second = sender(Some(own), remote, 7).unwrap();
            assert_ne!(first.local_addr().unwrap(), second.local_addr().unwrap());
            first.send(b"x").await.unwrap();
            let arrived = listener.receive().await.unwrap();
            assert_eq!((&arrived.bytes[..], arrived.to, arrived.ttl, arrived.interface), (&b"x"[..], own, 255, 1));
            assert_eq!(arrived.from, first.local_addr().unwrap());
            assert!(SOURCE_PORTS.contains(&arrived.from.port()));
        }
    }
}
