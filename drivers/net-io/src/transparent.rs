//! Connections and datagrams from an address that is not this host's (`IP_TRANSPARENT`): an endpoint sees the client.
//!
//! The port is the client's, too, wherever that is free. No connection holds a port against those to other endpoints:
//! ports of the range that the kernel chooses from are asked for by `IP_LOCAL_PORT_RANGE` (Linux 6.3) at `connect`, since
//! a plain `bind` would take them from every other connection of the host; a plain `bind` is for ports outside of it.
//!
//! Source: ip(7), Documentation/networking/ip-sysctl.rst and tproxy.rst of Linux.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::connect::ConnectError;

/// How long the kernel's range of ports is taken to be what it was.
const RANGE_IS_FRESH: Duration = Duration::from_secs(10);
/// The kernel's range where it cannot be read.
const DEFAULT_RANGE: RangeInclusive<u16> = 32_768..=60_999;

/// Since Linux 6.3; libc has no name for it yet.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// The ports that the kernel may choose from, the last one in the upper half.
#[derive(Clone)]
struct LocalPortRange;

nix::setsockopt_impl!(LocalPortRange, libc::SOL_IP, IP_LOCAL_PORT_RANGE, u32, sockopt::SetStruct<'_, u32>);

thread_local! {
    static RANGE: Cell<Option<(Instant, u16, u16)>> = const { Cell::new(None) };
}

/// Whether this process may do it.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`] without `CAP_NET_ADMIN` and `CAP_NET_RAW`.
pub fn permitted() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    Ok(setsockopt(&socket, sockopt::IpTransparent, &true)?)
}

/// Connects from `source` with `TCP_NODELAY`; from another port of its address where that one is taken.
///
/// # Errors
/// [`ConnectError`] of kind [`Source`](crate::connect::ConnectErrorKind::Source) when `source` cannot be used: no capability, another
/// version of IP than `address`, an address that nobody can have. It never connects from an address of this host instead.
pub async fn connect_from(
    source: SocketAddr,
    address: SocketAddr,
    timeout: Duration,
) -> Result<TcpStream, ConnectError> {
    match tokio::time::timeout(timeout, establish(source, address)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::timed_out(address, timeout)),
    }
}

async fn establish(source: SocketAddr, address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let port = match source.port() {
        0 => Port::Any,
        port if port_range().contains(&port) => Port::Chosen(port),
        port => Port::Bound(port),
    };
    let failed = |cause| ConnectError::new(address, cause);
    let connected = match stream(source, address, port) {
        Ok(Some(socket)) => match socket.connect(address).await {
            Err(error) if is_taken(&error) && port != Port::Any => None,
            connected => Some(connected.map_err(failed)?),
        },
        Ok(None) => None,
        Err(cause) => return Err(ConnectError::of_source(address, cause)),
    };
    let stream = match connected {
        Some(stream) => stream,
        None => match stream(source, address, Port::Any) {
            Ok(Some(socket)) => socket.connect(address).await.map_err(failed)?,
            Ok(None) => return Err(ConnectError::of_source(address, Errno::ADDRINUSE.into())),
            Err(cause) => return Err(ConnectError::of_source(address, cause)),
        },
    };
    stream.set_nodelay(true).map_err(failed)?;
    let local = stream.local_addr().map_err(failed)?;
    if local.ip() != source.ip() {
        return Err(ConnectError::of_source(address, io::Error::other(format!("the kernel used {}", local.ip()))));
    }
    Ok(stream)
}

/// How a connection comes by its local port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    /// The kernel chooses.
    Any,
    /// The kernel chooses among this one.
    Chosen(u16),
    /// By `bind`.
    Bound(u16),
}

/// A socket bound to `source`; `None` where the port cannot be had.
fn stream(source: SocketAddr, address: SocketAddr, port: Port) -> io::Result<Option<TcpSocket>> {
    let socket = transparent(source, address, Type::STREAM, Protocol::TCP)?;
    let bind = |port| socket.bind(&SocketAddr::new(source.ip(), port).into());
    match port {
        Port::Bound(port) => {
            socket.set_reuse_address(true)?;
            match bind(port) {
                // Low ports also need CAP_NET_BIND_SERVICE.
                Err(error) if is_taken(&error) || error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
                bound => bound?,
            }
        }
        Port::Any => {
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            bind(0)?;
        }
        Port::Chosen(port) => {
            let range = u32::from(port) << 16 | u32::from(port);
            match setsockopt(&socket, LocalPortRange, &range) {
                Err(nix::errno::Errno::ENOPROTOOPT) => return Ok(None),
                set => set?,
            }
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            bind(0)?;
        }
    }
    Ok(Some(TcpSocket::from_std_stream(socket.into())))
}

/// As [`connect_datagram`](crate::datagram::connect_datagram), with `source` as the sender; from another port of its
/// address where that one is taken.
///
/// # Errors
/// As [`connect_from`].
pub fn connect_datagram_from(source: SocketAddr, address: SocketAddr) -> Result<UdpSocket, ConnectError> {
    let open = || {
        let socket = transparent(source, address, Type::DGRAM, Protocol::UDP)?;
        match socket.bind(&SocketAddr::new(source.ip(), source.port()).into()) {
            Err(error) if is_taken(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
                socket.bind(&SocketAddr::new(source.ip(), 0).into())?;
            }
            bound => bound?,
        }
        io::Result::Ok(socket)
    };
    let socket = open().map_err(|cause| ConnectError::of_source(address, cause))?;
    let connected = socket.connect(&address.into()).and_then(|()| UdpSocket::from_std(socket.into()));
    connected.map_err(|cause| ConnectError::new(address, cause))
}

/// A nonblocking socket that may be bound to any address.
fn transparent(source: SocketAddr, address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    if source.is_ipv4() != address.is_ipv4() {
        return Err(wrong(format!("{} is of another version of IP", source.ip())));
    }
    // The first of these would mean: any address of this host.
    let is_nobody = match source.ip() {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
    };
    if is_nobody {
        return Err(wrong(format!("{} is nobody's address", source.ip())));
    }
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    // One flag of the socket for both versions of IP. It includes what IP_FREEBIND allows.
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    Ok(socket)
}

/// Of a local address and port, towards this endpoint or towards all.
fn is_taken(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ADDRINUSE | Errno::ADDRNOTAVAIL))
}

/// The ports that the kernel chooses from, in this thread's network namespace.
fn port_range() -> RangeInclusive<u16> {
    let now = Instant::now();
    if let Some((read, first, last)) = RANGE.get()
        && now.saturating_duration_since(read) < RANGE_IS_FRESH
    {
        return first..=last;
    }
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse::<u16>);
    let range = match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        _ => DEFAULT_RANGE,
    };
    RANGE.set(Some((now, *range.start(), *range.end())));
    range
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::connect::ConnectErrorKind;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn sources_that_cannot_be_are_refused_before_anything_is_sent() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        for source in ["0.0.0.0:7", "[::]:7", "224.0.0.1:7", "255.255.255.255:7", "[2001:db8::1]:7"] {
            let source: SocketAddr = source.parse().unwrap();
            let error = connect_from(source, address, PATIENCE).await.unwrap_err();
            assert_eq!(error.kind, ConnectErrorKind::Source, "{source}: {error:?}");
            let error = connect_datagram_from(source, address).unwrap_err();
            assert_eq!(error.kind, ConnectErrorKind::Source, "{source}: {error:?}");
        }
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn a_port_is_kept_and_given_up_only_towards_the_same_endpoint() {
        permitted().expect("this test needs root");
        let listeners: Vec<TcpListener> =
            (0..2).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        let (low, high) = port_range().into_inner();
        assert!(low > 2000 && high < 65_000, "the ports of this test are inside and outside of {low}..={high}");
        // Loopback has all of 127/8, so that answers come back without any rule.
        for port in [low + 7, low - 7] {
            let source: SocketAddr = format!("127.7.7.7:{port}").parse().unwrap();
            let mut held = Vec::new();
            for (listener, keeps) in [(&listeners[0], true), (&listeners[1], true), (&listeners[0], false)] {
                let stream = connect_from(source, listener.local_addr().unwrap(), PATIENCE).await.unwrap();
                let (accepted, peer) = listener.accept().unwrap();
                assert_eq!(peer.ip(), source.ip());
                assert_eq!(peer.port() == port, keeps, "{peer} in place of {source}");
                held.push((stream, accepted));
            }
        }
    }

    #[tokio::test]
    async fn datagrams_have_the_port_of_their_client_while_it_is_free() {
        permitted().expect("this test needs root");
        let endpoint = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let source: SocketAddr = "127.8.8.8:1053".parse().unwrap();
        let mut bytes = [0; 8];
        let first = connect_datagram_from(source, endpoint.local_addr().unwrap()).unwrap();
        first.send(b"x").await.unwrap();
        assert_eq!(endpoint.recv_from(&mut bytes).unwrap(), (1, source));
        let second = connect_datagram_from(source, endpoint.local_addr().unwrap()).unwrap();
        second.send(b"y").await.unwrap();
        let (_, peer) = endpoint.recv_from(&mut bytes).unwrap();
        assert_eq!(peer.ip(), source.ip());
        assert_ne!(peer.port(), source.port(), "answers of one flow would go to the other");
    }
}
