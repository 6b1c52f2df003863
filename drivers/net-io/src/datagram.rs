//! UDP sockets: those that listen, and those connected to one endpoint.
//!
//! A listener of every address learns with each datagram which address it came to, and sends answers from there: a host
//! has several, and its clients believe only the one that they asked (`IP_PKTINFO`, RFC 3542 section 6.1).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn6, SockaddrStorage, recvmmsg, sendmsg,
    setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::listen::{ListenError, Share, is_without_ipv6};

/// Longest payload of a datagram over IPv4, and over IPv6 without jumbograms.
pub const MAX_DATAGRAM: usize = 65_507;
/// Datagrams taken from the kernel by one call.
const BATCH: usize = 32;
/// Bytes that may wait in the kernel for one socket; what the sysctl net.core.rmem_max allows of it.
const RECEIVE_BUFFER: usize = 4 << 20;

/// One socket for each of `workers`, all on the same address and port. The kernel chooses one by both addresses and
/// ports of a datagram, so that a flow stays with its worker.
///
/// `::` also takes IPv4, and becomes `0.0.0.0` on a host without IPv6; port 0 asks for a free one. Refuses a port that
/// another process has, unless `share`: then other sockets of the same user that share the port may be there.
///
/// # Errors
/// [`ListenError`], which names the address and what to do.
pub fn bind_shared(address: SocketAddr, workers: usize, share: bool) -> Result<Vec<std::net::UdpSocket>, ListenError> {
    let first = bind_as(address, if share { Share::WithAnybody } else { Share::AfterBind })?;
    let bound = first.local_addr().map_err(|e| ListenError::new(address, e))?;
    let mut sockets = vec![first];
    while sockets.len() < workers {
        sockets.push(bind_as(bound, Share::WithAnybody)?);
    }
    Ok(sockets)
}

fn bind_as(address: SocketAddr, share: Share) -> Result<std::net::UdpSocket, ListenError> {
    match open(address, share) {
        Err(e) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && is_without_ipv6(&e) => {
            let ipv4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            open(ipv4, share).map_err(|e| ListenError::new(ipv4, e))
        }
        result => result.map_err(|e| ListenError::new(address, e)),
    }
}

fn open(address: SocketAddr, share: Share) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if share == Share::WithAnybody {
        socket.set_reuse_port(true)?;
    }
    if address.ip().is_unspecified() {
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            // Of IPv4 datagrams, too: their addresses come as ::ffff:a.b.c.d.
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    // The kernel holds it to its own limit; less than asked for is no error.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.bind(&address.into())?;
    if share == Share::AfterBind {
        // As for TCP: the kernel compares the flags of all sockets of a port when the next one binds.
        socket.set_reuse_port(true)?;
    }
    Ok(socket.into())
}

/// A socket that hears and answers one endpoint alone, nonblocking. ICMP errors of the endpoint come back as errors of
/// the next call.
///
/// # Errors
/// What the system says: no route, no descriptor.
pub fn connect_datagram(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.connect(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// A socket that listens, inside a runtime.
pub struct DatagramListener {
    socket: UdpSocket,
    local: SocketAddr,
}

/// One datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    pub bytes: &'a [u8],
    pub from: SocketAddr,
    /// Where it came to: our end, canonical.
    pub to: SocketAddr,
}

impl DatagramListener {
    /// # Errors
    /// When there is no runtime for it, or the socket is not bound.
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        Ok(Self { socket: UdpSocket::from_std(socket)?, local })
    }

    /// Waits until a datagram may be there.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Takes up to 32 datagrams that are there, and returns how many they were.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is none; what the system says.
    pub fn receive(&self, batch: &mut Batch, mut each: impl FnMut(Datagram<'_>)) -> io::Result<usize> {
        let fd = self.socket.as_raw_fd();
        self.socket.try_io(Interest::READABLE, || Ok(batch.fill(fd)?))?;
        for (slot, (len, from, to)) in batch.heads.iter().enumerate() {
            let start = slot * MAX_DATAGRAM;
            let to = SocketAddr::new(to.unwrap_or(self.local.ip()).to_canonical(), self.local.port());
            each(Datagram { bytes: &batch.bytes[start..start + len], from: *from, to });
        }
        Ok(batch.heads.len())
    }

    /// Sends one datagram, whose source is `from` where this socket listens on every address.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when the kernel's buffer is full; what the system says.
    pub fn send(&self, bytes: &[u8], to: SocketAddr, from: IpAddr) -> io::Result<()> {
        let sent = self.send_once(self.socket.as_raw_fd(), bytes, to, from)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn send_once(&self, fd: i32, bytes: &[u8], to: SocketAddr, from: IpAddr) -> nix::Result<usize> {
        let slices = [IoSlice::new(bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let to = of_family(to, self.local);
        if !self.local.ip().is_unspecified() {
            return sendmsg(fd, &slices, &[], flags, Some(&SockaddrStorage::from(to)));
        }
        match (self.local, from) {
            (SocketAddr::V4(_), IpAddr::V4(from)) => {
                let address = libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
                let any = libc::in_addr { s_addr: 0 };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: any };
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmsg(fd, &slices, &control, flags, Some(&SockaddrStorage::from(to)))
            }
            (_, from) => {
                let from = match from {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                let address = libc::in6_addr { s6_addr: from.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: scope(to) };
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmsg(fd, &slices, &control, flags, Some(&SockaddrStorage::from(to)))
            }
        }
    }
}

/// The address as a socket of that family takes it.
fn of_family(to: SocketAddr, local: SocketAddr) -> SocketAddr {
    match (to, local) {
        (SocketAddr::V4(v4), SocketAddr::V6(_)) => {
            SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
        }
        (to, _) => to,
    }
}

/// Link-local addresses need their interface.
fn scope(to: SocketAddr) -> u32 {
    match to {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => v6.scope_id(),
        _ => 0,
    }
}

/// Room for what one call takes; one is enough for all sockets of a thread. Its memory is touched as far as datagrams
/// are long.
pub struct Batch {
    bytes: Vec<u8>,
    headers: MultiHeaders<SockaddrStorage>,
    heads: Vec<(usize, SocketAddr, Option<IpAddr>)>,
}

impl Default for Batch {
    fn default() -> Self {
        Self { bytes: vec![0; BATCH * MAX_DATAGRAM], headers: headers(), heads: Vec::with_capacity(BATCH) }
    }
}

fn headers() -> MultiHeaders<SockaddrStorage> {
    MultiHeaders::preallocate(BATCH, Some(nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo)))
}

impl Batch {
    fn fill(&mut self, fd: i32) -> nix::Result<()> {
        self.heads.clear();
        // The kernel writes into these how much of each it used, which is all that the next call would offer: a socket
        // of another family needs them anew.
        self.headers = headers();
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.bytes.chunks_exact_mut(MAX_DATAGRAM).map(|chunk| [IoSliceMut::new(chunk)]).collect();
        let taken = recvmmsg(fd, &mut self.headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        for message in taken {
            let from = message.address.as_ref().and_then(socket_addr);
            let mut to = None;
            for control in message.cmsgs().into_iter().flatten() {
                match control {
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        to = Some(IpAddr::V4(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes())));
                    }
                    ControlMessageOwned::Ipv6PacketInfo(info) => {
                        to = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
                    }
                    _ => {}
                }
            }
            // A sender without address or port cannot be answered.
            let from = from.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
            self.heads.push((message.bytes, from, to));
        }
        Ok(())
    }
}

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6: &SockaddrIn6 = address.as_sockaddr_in6()?;
    Some(match v6.ip().to_ipv4_mapped() {
        Some(v4) => SocketAddr::new(v4.into(), v6.port()),
        None => SocketAddr::V6(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id())),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn exchange(listen: &str, ask: &str) -> (SocketAddr, SocketAddr, SocketAddr) {
        let std = bind_shared(listen.parse().unwrap(), 1, false).unwrap().remove(0);
        let port = std.local_addr().unwrap().port();
        let listener = DatagramListener::from_std(std).unwrap();
        let target = SocketAddr::new(ask.parse().unwrap(), port);
        let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let client = UdpSocket::bind(SocketAddr::new(any, 0)).await.unwrap();
        client.send_to(b"ping", target).await.unwrap();
        client.send_to(b"", target).await.unwrap();
        let mut batch = Batch::default();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            listener.readable().await.unwrap();
            let _ = listener.receive(&mut batch, |datagram| {
                seen.push((datagram.bytes.to_vec(), datagram.from, datagram.to));
            });
        }
        assert_eq!((&*seen[0].0, &*seen[1].0), (&b"ping"[..], &b""[..]), "an empty datagram is a datagram");
        let (_, from, to) = seen[0];
        listener.send(b"pong", from, to.ip()).unwrap();
        let mut answer = [0; 16];
        let waited = tokio::time::timeout(Duration::from_secs(20), client.recv_from(&mut answer)).await;
        let (n, source) = waited.unwrap().unwrap();
        assert_eq!(&answer[..n], b"pong");
        (to, source, target)
    }

    #[tokio::test]
    async fn answers_come_from_the_address_that_was_asked() {
        for (listen, ask) in [
            ("0.0.0.0:0", "127.0.0.3"),
            ("[::]:0", "127.0.0.3"),
            ("[::]:0", "::1"),
            ("127.0.0.4:0", "127.0.0.4"),
            ("[::1]:0", "::1"),
        ] {
            let (to, source, target) = exchange(listen, ask).await;
            assert_eq!((to, source), (target, target), "{listen} asked at {ask}");
        }
    }

    #[test]
    fn workers_share_one_free_port_and_strangers_do_not() {
        let sockets = bind_shared("127.0.0.1:0".parse().unwrap(), 4, false).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
        let error = bind_shared(address, 2, false).unwrap_err();
        assert!(matches!(error, ListenError::AddressInUse { .. }), "{error:?}");
        bind_shared(address, 2, true).unwrap();

        let clients: Vec<_> = (0..64)
            .map(|_| {
                let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                client.send_to(b"x", address).unwrap();
                client
            })
            .collect();
        drop(clients);
    }

    #[tokio::test]
    async fn an_endpoint_that_nobody_owns_is_an_error_of_the_next_call() {
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = connect_datagram(closed).unwrap();
        socket.send(b"x").await.unwrap();
        let error = socket.recv(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
