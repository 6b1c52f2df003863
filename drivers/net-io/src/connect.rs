//! Connections to endpoints.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tokio_rustls::client::TlsStream;

use crate::tls::client::ClientTls;

/// Why an endpoint was not reached.
#[derive(Debug, thiserror::Error)]
#[error("endpoint {address} {kind}")]
pub struct ConnectError {
    pub address: SocketAddr,
    pub kind: ConnectErrorKind,
    #[source]
    pub cause: io::Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// Nobody listens there.
    Refused,
    /// Ours or the kernel's patience ended.
    TimedOut,
    /// No route, or a router said so.
    Unreachable,
    /// TCP was established, TLS was not.
    Tls,
    /// The address that it was to be connected from cannot be used; nothing was sent.
    Source,
    /// Also a lack of local ports or descriptors.
    Other,
}

impl std::fmt::Display for ConnectErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused the connection",
            Self::TimedOut => "did not answer in time",
            Self::Unreachable => "is unreachable",
            Self::Tls => "did not complete the TLS handshake",
            Self::Source => "cannot be connected to from the client's address",
            Self::Other => "was not connected",
        })
    }
}

impl ConnectError {
    pub(crate) fn new(address: SocketAddr, cause: io::Error) -> Self {
        let kind = match cause.kind() {
            io::ErrorKind::ConnectionRefused => ConnectErrorKind::Refused,
            io::ErrorKind::TimedOut => ConnectErrorKind::TimedOut,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
                ConnectErrorKind::Unreachable
            }
            _ => ConnectErrorKind::Other,
        };
        Self { address, kind, cause }
    }

    /// Nothing was sent, since the source cannot be had.
    pub(crate) fn of_source(address: SocketAddr, cause: io::Error) -> Self {
        Self { address, kind: ConnectErrorKind::Source, cause }
    }

    pub(crate) fn timed_out(address: SocketAddr, timeout: Duration) -> Self {
        let cause = io::Error::new(io::ErrorKind::TimedOut, format!("no connection after {timeout:?}"));
        Self { address, kind: ConnectErrorKind::TimedOut, cause }
    }
}

/// Connects with `TCP_NODELAY`.
///
/// # Errors
/// [`ConnectError`]; its kind tells what to try next.
pub async fn connect(address: SocketAddr, timeout: Duration) -> Result<TcpStream, ConnectError> {
    match tokio::time::timeout(timeout, establish(address)).await {
        Ok(result) => result.map_err(|cause| ConnectError::new(address, cause)),
        Err(_) => Err(ConnectError::timed_out(address, timeout)),
    }
}

/// Connects, writes `preface` as it is (a PROXY protocol header, or nothing), then does the TLS handshake.
///
/// `host` is the request's host without port, used when the settings name no server. `timeout` covers all of it.
///
/// # Errors
/// [`ConnectError`]; its kind tells what to try next.
pub async fn connect_tls(
    address: SocketAddr,
    tls: &ClientTls,
    host: Option<&str>,
    preface: &[u8],
    timeout: Duration,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let establish = async {
        let mut stream = establish(address).await.map_err(|cause| ConnectError::new(address, cause))?;
        let tls_error = |cause| ConnectError { address, kind: ConnectErrorKind::Tls, cause };
        stream.write_all(preface).await.map_err(tls_error)?;
        tls.handshake(stream, address, host).await.map_err(tls_error)
    };
    match timeout_at(tokio::time::Instant::now() + timeout, establish).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::timed_out(address, timeout)),
    }
}

async fn establish(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether an idle connection was closed by its peer, failed, or has bytes nobody asked for: not to be used again.
///
/// Asks the kernel, not the runtime's view of readiness, which lags behind.
pub fn peek_closed(stream: &TcpStream) -> bool {
    let mut byte = [0u8; 1];
    loop {
        match recv(stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return false,
            Ok(_) | Err(_) => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener as StdListener};

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_closed_port_is_refused() {
        let address = {
            let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.local_addr().unwrap()
        };
        let error = connect(address, PATIENCE).await.unwrap_err();
        assert_eq!(error.kind, ConnectErrorKind::Refused, "{error:?}");
        assert_eq!(error.to_string(), format!("endpoint {address} refused the connection"));
    }

    #[tokio::test]
    async fn a_full_queue_times_out() {
        // A queue of one that nobody empties: the kernel drops further SYNs.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        let error = loop {
            match connect(address, Duration::from_millis(100)).await {
                Ok(stream) if held.len() < 64 => held.push(stream),
                Ok(_) => panic!("a queue of one took 64 connections"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind, ConnectErrorKind::TimedOut, "{error:?}");
        assert_eq!(error.address, address);
    }

    #[test]
    fn causes_have_their_kind() {
        for (errno, kind) in [
            (Errno::CONNREFUSED, ConnectErrorKind::Refused),
            (Errno::TIMEDOUT, ConnectErrorKind::TimedOut),
            (Errno::HOSTUNREACH, ConnectErrorKind::Unreachable),
            (Errno::NETUNREACH, ConnectErrorKind::Unreachable),
            (Errno::NETDOWN, ConnectErrorKind::Unreachable),
            (Errno::ADDRNOTAVAIL, ConnectErrorKind::Other),
            (Errno::MFILE, ConnectErrorKind::Other),
        ] {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
            assert_eq!(ConnectError::new(address, errno.into()).kind, kind, "{errno:?}");
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let ours = connect(listener.local_addr().unwrap(), PATIENCE).await.unwrap();
        (ours, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn an_idle_connection_is_usable_until_its_peer_speaks_or_closes() {
        let (mut ours, mut theirs) = pair().await;
        assert!(ours.nodelay().unwrap());
        assert!(!peek_closed(&ours));

        theirs.write_all(b"x").await.unwrap();
        ours.readable().await.unwrap();
        assert!(peek_closed(&ours), "unexpected bytes");
        let mut byte = [0];
        ours.read_exact(&mut byte).await.unwrap();
        assert!(!peek_closed(&ours), "peeking took nothing, reading took it all");

        drop(theirs);
        while !ours.ready(tokio::io::Interest::READABLE).await.unwrap().is_read_closed() {
            tokio::task::yield_now().await;
        }
        assert!(peek_closed(&ours), "closed");
    }

    #[tokio::test]
    async fn a_reset_connection_is_closed() {
        let (ours, theirs) = pair().await;
        socket2::SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).unwrap();
        drop(theirs);
        ours.readable().await.unwrap();
        assert!(peek_closed(&ours));
    }
}
