//! Listening TCP sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that [`drain_backlog`] takes at most: as many as the longest queue the kernel grants by default.
const MAX_DRAINED: usize = 4096;

/// Why an address is not listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    #[error("address {address} is in use by another process (stop it, or choose another port)")]
    AddressInUse { address: SocketAddr, source: io::Error },
    #[error(
        "address {address} needs a privilege (grant CAP_NET_BIND_SERVICE, lower the sysctl \
         net.ipv4.ip_unprivileged_port_start, or choose a port from 1024)"
    )]
    PermissionDenied { address: SocketAddr, source: io::Error },
    #[error("address {address} belongs to no interface of this machine (assign it, or listen on ::)")]
    AddressNotAvailable { address: SocketAddr, source: io::Error },
    #[error("address {address} cannot be listened on")]
    Other { address: SocketAddr, source: io::Error },
}

impl ListenError {
    pub(crate) fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::AddressInUse { address, source },
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { address, source },
            io::ErrorKind::AddrNotAvailable => Self::AddressNotAvailable { address, source },
            _ => Self::Other { address, source },
        }
    }

    pub fn address(&self) -> SocketAddr {
        match self {
            Self::AddressInUse { address, .. }
            | Self::PermissionDenied { address, .. }
            | Self::AddressNotAvailable { address, .. }
            | Self::Other { address, .. } => *address,
        }
    }
}

/// Listens on `address`, nonblocking and ready for [`TcpListener::from_std`].
///
/// `::` also takes IPv4, and becomes `0.0.0.0` on a host without IPv6. Port 0 asks for a free one. With `reuse_port`
/// other sockets of the same user that set it too share the port, and the kernel spreads connections among them.
///
/// # Errors
/// [`ListenError`], which names the address and what to do.
pub fn listen(address: SocketAddr, reuse_port: bool, backlog: u32) -> Result<std::net::TcpListener, ListenError> {
    let share = if reuse_port { Share::WithAnybody } else { Share::No };
    listen_as(address, share, backlog)
}

/// One listener for each of `workers`, all on the same address and port; the kernel spreads connections among them.
///
/// Unlike [`listen`] with `reuse_port`, this refuses a port on which another process listens already, even if that one
/// shares its port. `workers` of 0 counts as 1.
///
/// # Errors
/// [`ListenError`], which names the address and what to do.
pub fn listen_shared(
    address: SocketAddr,
    workers: usize,
    backlog: u32,
) -> Result<Vec<std::net::TcpListener>, ListenError> {
    let first = listen_as(address, Share::AfterBind, backlog)?;
    let bound = first.local_addr().map_err(|e| ListenError::new(address, e))?;
    let mut listeners = vec![first];
    while listeners.len() < workers {
        listeners.push(listen_as(bound, Share::WithAnybody, backlog)?);
    }
    Ok(listeners)
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Share {
    No,
    /// The port must be free; later sockets may join.
    AfterBind,
    WithAnybody,
}

fn listen_as(address: SocketAddr, share: Share, backlog: u32) -> Result<std::net::TcpListener, ListenError> {
    match open(address, share, backlog) {
        Err(e) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && is_without_ipv6(&e) => {
            let ipv4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            open(ipv4, share, backlog).map_err(|e| ListenError::new(ipv4, e))
        }
        result => result.map_err(|e| ListenError::new(address, e)),
    }
}

pub(crate) fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn open(address: SocketAddr, share: Share, backlog: u32) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    } else if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if share == Share::WithAnybody {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    if share == Share::AfterBind {
        // Linux compares the flags of all sockets of a port when the next one binds: set now, it lets ours join.
        socket.set_reuse_port(true)?;
    }
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Accepts what already waits in the listener's queue, without waiting for more.
///
/// For a listener about to be closed: the kernel resets whatever is still in the queue then.
pub fn drain_backlog(listener: &TcpListener) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    while streams.len() < MAX_DRAINED {
        match accept_with(listener.as_fd(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(fd) => streams.extend(TcpStream::from_std(fd.into())),
            Err(Errno::CONNABORTED | Errno::INTR) => {}
            Err(_) => break,
        }
    }
    streams
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream as StdStream;

    use super::*;

    const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn workers_share_one_free_port() {
        let listeners = listen_shared(LOCAL, 4, 1024).unwrap();
        let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert_eq!(ports.len(), 4);
        assert_ne!(ports[0], 0);
        assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");

        // Every listener gets some of many connections, and none is lost.
        let clients: Vec<_> =
            (0..256).map(|_| StdStream::connect(listeners[0].local_addr().unwrap()).unwrap()).collect();
        let shares: Vec<usize> = listeners.iter().map(|l| std::iter::from_fn(|| l.accept().ok()).count()).collect();
        assert_eq!(shares.iter().sum::<usize>(), clients.len());
        assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_refused_by_name() {
        let taken = listen(LOCAL, true, 8).unwrap();
        let address = taken.local_addr().unwrap();
        for error in [listen(address, false, 8).unwrap_err(), listen_shared(address, 2, 8).unwrap_err()] {
            assert!(matches!(error, ListenError::AddressInUse { .. }), "{error:?}");
            assert_eq!(error.address(), address);
            assert!(error.to_string().contains(&address.to_string()));
        }
        assert!(listen(address, true, 8).is_ok(), "whoever asks to share may share");
    }

    #[test]
    fn an_address_of_no_interface_is_refused_by_name() {
        let error = listen("192.0.2.1:0".parse().unwrap(), false, 8).unwrap_err();
        assert!(matches!(error, ListenError::AddressNotAvailable { .. }), "{error:?}");
        assert!(error.to_string().starts_with("address 192.0.2.1:0 "), "{error}");
    }

    #[test]
    fn the_unspecified_address_takes_ipv4() {
        let listener = listen("[::]:0".parse().unwrap(), false, 8).unwrap();
        let port = listener.local_addr().unwrap().port();
        StdStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }

    #[test]
    fn only_missing_ipv6_falls_back_to_ipv4() {
        for (errno, expected) in [(Errno::AFNOSUPPORT, true), (Errno::ADDRNOTAVAIL, true), (Errno::ADDRINUSE, false)] {
            assert_eq!(is_without_ipv6(&io::Error::from(errno)), expected, "{errno:?}");
        }
    }

    #[tokio::test]
    async fn connections_in_the_queue_are_served_before_the_listener_closes() {
        let std = listen(LOCAL, true, 64).unwrap();
        let address = std.local_addr().unwrap();
        let listener = TcpListener::from_std(std).unwrap();
        let mut clients: Vec<_> = (0..10).map(|_| StdStream::connect(address).unwrap()).collect();
        let drained = drain_backlog(&listener);
        drop(listener);
        assert_eq!(drained.len(), 10);
        for stream in &drained {
            stream.writable().await.unwrap();
            assert_eq!(stream.try_write(b"x").unwrap(), 1);
        }
        for client in &mut clients {
            client.write_all(b"y").unwrap();
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"x");
        }
    }
}
