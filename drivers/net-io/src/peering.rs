//! Connections between routers: signed, from a chosen address, over as many hops as is right.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::sockopt::SetStruct;
use nix::sys::socket::{SetSockOpt, SockaddrLike, SockaddrStorage};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// Longest key of TCP-MD5 that Linux takes.
pub const MAX_KEY: usize = 80;

/// Internetwork control: as routers mark their own words. RFC 4594 section 3.1.
const CONTROL: u32 = 0xc0;

/// `TCP_MD5SIG` of linux/tcp.h.
const TCP_MD5SIG: libc::c_int = 14;

/// `struct tcp_md5sig` of linux/tcp.h; an address is a `struct sockaddr_storage`.
#[derive(Clone, Copy)]
#[repr(C)]
struct SignedPeer {
    address: SockaddrStorage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: u32,
    key: [u8; MAX_KEY],
}

#[derive(Clone)]
struct TcpMd5;

nix::setsockopt_impl!(TcpMd5, libc::IPPROTO_TCP, TCP_MD5SIG, SignedPeer, SetStruct<'_, SignedPeer>);

/// What a connection to another router is like.
#[derive(Clone)]
pub struct Peering {
    pub remote: SocketAddr,
    /// Own end; `None`: what the routes say.
    pub source: Option<IpAddr>,
    /// Both sides sign with it (TCP-MD5, RFC 2385).
    pub key: Option<String>,
    /// Time to live of packets; `None`: the system's.
    pub ttl: Option<u8>,
}

/// Signs what goes to `peer` with the key, and takes nothing of it unsigned; without key nothing of it is signed.
///
/// # Errors
/// A key of more than [`MAX_KEY`] bytes, a kernel without TCP-MD5.
pub fn sign(socket: impl AsFd, peer: IpAddr, key: Option<&str>) -> io::Result<()> {
    let bytes = key.unwrap_or_default().as_bytes();
    let mut padded = [0; MAX_KEY];
    let room = padded.get_mut(..bytes.len()).ok_or_else(|| {
        let text = format!("a key of {} bytes; TCP-MD5 takes {MAX_KEY}", bytes.len());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    room.copy_from_slice(bytes);
    let signed = SignedPeer {
        address: SockaddrStorage::from(SocketAddr::new(peer, 0)),
        flags: 0,
        prefix_length: 0,
        key_length: u16::try_from(bytes.len()).expect("at most 80"),
        interface: 0,
        key: padded,
    };
    debug_assert!(signed.address.len() > 0, "an address of a family");
    match TcpMd5.set(&socket.as_fd(), &signed) {
        // Without key there was none to take away.
        Err(nix::errno::Errno::ENOENT) if key.is_none() => Ok(()),
        result => Ok(result?),
    }
}

/// Marks the socket's packets, and limits how far they go.
fn mark(socket: &Socket, address: IpAddr, ttl: Option<u8>) -> io::Result<()> {
    let ttl = ttl.map(u32::from);
    if address.is_ipv4() {
        socket.set_tos_v4(CONTROL)?;
        ttl.map_or(Ok(()), |ttl| socket.set_ttl_v4(ttl))
    } else {
        socket.set_tclass_v6(CONTROL)?;
        ttl.map_or(Ok(()), |ttl| socket.set_unicast_hops_v6(ttl))
    }
}

fn open(remote: IpAddr) -> io::Result<Socket> {
    let domain = if remote.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))
}

/// Connects, within `patience`.
///
/// # Errors
/// What the system says; of a peer that has another key, or none, nothing is heard until patience ends.
pub async fn connect(peering: &Peering, patience: Duration) -> io::Result<TcpStream> {
    let remote = peering.remote;
    let socket = open(remote.ip())?;
    mark(&socket, remote.ip(), peering.ttl)?;
    if let Some(key) = &peering.key {
        sign(&socket, remote.ip(), Some(key))?;
    }
    if let Some(source) = peering.source {
        let scope = match (source, remote) {
            (IpAddr::V6(own), SocketAddr::V6(remote)) if own.is_unicast_link_local() => remote.scope_id(),
            _ => 0,
        };
        let source = match source {
            IpAddr::V4(_) => SocketAddr::new(source, 0),
            IpAddr::V6(own) => SocketAddrV6::new(own, 0, 0, scope).into(),
        };
        socket.bind(&source.into())?;
    }
    socket.set_tcp_nodelay(true)?;
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(remote);
    match tokio::time::timeout(patience, connecting).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection after {patience:?}"))),
    }
}

/// Marks a connection that a peer opened.
///
/// # Errors
/// What the system says.
pub fn adopt(stream: &TcpStream, ttl: Option<u8>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let remote = stream.peer_addr()?.ip().to_canonical();
    let socket = socket2::SockRef::from(stream);
    mark(&socket, remote, ttl)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn peering(remote: SocketAddr, key: Option<&str>) -> Peering {
        Peering { remote, source: None, key: key.map(str::to_owned), ttl: Some(1) }
    }

    async fn listener(address: &str, key: &str) -> TcpListener {
        let listener = TcpListener::bind(address).await.unwrap();
        let peer = listener.local_addr().unwrap().ip();
        sign(&listener, peer, Some(key)).unwrap();
        listener
    }

    #[tokio::test]
    async fn only_who_has_the_key_is_connected() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = listener(address, "secret").await;
            let remote = listener.local_addr().unwrap();
            for key in [None, Some("wrong")] {
                let error = connect(&peering(remote, key), Duration::from_millis(300)).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{address} {key:?}: {error}");
            }
            let peering = peering(remote, Some("secret"));
            let (ours, theirs) = tokio::join!(connect(&peering, Duration::from_secs(20)), listener.accept());
            let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap().0);
            adopt(&theirs, Some(5)).unwrap();
            theirs.write_all(b"x").await.unwrap();
            assert_eq!(ours.read_u8().await.unwrap(), b'x');
        }
    }

    #[tokio::test]
    async fn a_key_can_be_taken_away_and_may_have_80_bytes() {
        let listener = listener("127.0.0.1:0", &"k".repeat(80)).await;
        let remote = listener.local_addr().unwrap();
        connect(&peering(remote, Some(&"k".repeat(80))), Duration::from_secs(20)).await.unwrap();
        sign(&listener, remote.ip(), None).unwrap();
        sign(&listener, remote.ip(), None).unwrap();
        connect(&peering(remote, None), Duration::from_secs(20)).await.unwrap();
        let error = sign(&listener, remote.ip(), Some(&"k".repeat(81))).unwrap_err();
        assert_eq!(error.to_string(), "a key of 81 bytes; TCP-MD5 takes 80");
    }

    #[tokio::test]
    async fn the_own_end_and_the_time_to_live_are_as_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = Some("127.0.0.9".parse().unwrap());
        let peering = Peering { source, ttl: Some(5), ..peering(listener.local_addr().unwrap(), None) };
        let stream = connect(&peering, Duration::from_secs(20)).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().1.ip(), peering.source.unwrap());
        assert_eq!(socket2::SockRef::from(&stream).ttl_v4().unwrap(), 5);

        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
        let peering = Peering { remote: listener.local_addr().unwrap(), source: None, key: None, ttl: Some(7) };
        let stream = connect(&peering, Duration::from_secs(20)).await.unwrap();
        assert_eq!(socket2::SockRef::from(&stream).unicast_hops_v6().unwrap(), 7);
    }
}
