//! Sockets, and what each connection turns out to speak.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Buf;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::answer::{Connection, Tls};
use crate::proxy::{self, Decoded, ProxyHeader};
use crate::stream::{Peeked, Transport};
use crate::{Error, Whoami, http1, http2, l4};

/// Time for the bytes that tell what a connection speaks: PROXY header, TLS handshake, first byte of a request.
const OPENING_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for requests under way once the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Further connections wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 16_384;
/// Pause after an error of `accept`, such as running out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Tcp,
    Udp,
}

#[derive(Debug)]
enum Socket {
    Stream(TcpListener),
    Datagram(UdpSocket),
}

/// Open sockets of one instance, not yet answering: [`Server::run`] does.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    sockets: Vec<Socket>,
    addresses: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Shared {
    whoami: Whoami,
    protocol: Protocol,
    connections: AtomicU64,
    room: Arc<Semaphore>,
}

/// An IPv4 client of an IPv6 socket under its IPv4 address.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Server {
    pub(crate) async fn open(whoami: Whoami, protocol: Protocol) -> Result<Self, Error> {
        if whoami.bind.is_empty() {
            return Err(Error::NoAddress { name: whoami.name });
        }
        let mut sockets = Vec::new();
        let mut addresses = Vec::new();
        for &address in &whoami.bind {
            let opened: io::Result<(Socket, SocketAddr)> = async {
                Ok(if protocol == Protocol::Udp {
                    let socket = UdpSocket::bind(address).await?;
                    let local = socket.local_addr()?;
                    (Socket::Datagram(socket), local)
                } else {
                    let listener = TcpListener::bind(address).await?;
                    let local = listener.local_addr()?;
                    (Socket::Stream(listener), local)
                })
            }
            .await;
            let (socket, local) =
                opened.map_err(|source| Error::Bind { name: whoami.name.clone(), address, source })?;
            sockets.push(socket);
            addresses.push(local);
        }
        Ok(Self { shared: Shared::new(whoami, protocol), sockets, addresses })
    }

    pub(crate) fn on(whoami: Whoami, listener: TcpListener) -> Self {
        let addresses = listener.local_addr().into_iter().collect();
        Self { shared: Shared::new(whoami, Protocol::Http), sockets: vec![Socket::Stream(listener)], addresses }
    }

    /// The addresses listened on, in the order of [`Whoami::bind`], with the ports that were given.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The first of [`Server::local_addrs`].
    pub fn local_addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Answers until `shutdown` completes; requests under way then have 10 s.
    ///
    /// Dropping the future closes every connection at once.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (stop, stopped) = watch::channel(false);
        let mut sockets = JoinSet::new();
        for socket in self.sockets {
            let (shared, stopped) = (self.shared.clone(), stopped.clone());
            sockets.spawn(async move {
                match socket {
                    Socket::Stream(listener) => accept(listener, shared, stopped).await,
                    Socket::Datagram(socket) => l4::serve_udp(socket, &shared.whoami, stopped).await,
                }
            });
        }
        shutdown.await;
        stop.send_replace(true);
        let drained = async { while sockets.join_next().await.is_some() {} };
        if timeout(DRAIN_TIMEOUT, drained).await.is_err() {
            tracing::debug!("connections cut off at the end of the drain time");
        }
    }
}

/// Completes once the server is to stop.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the server is gone altogether.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let mut own_stop = stop.clone();
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let room = shared.room.clone().acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, room)
        };
        tokio::select! {
            (accepted, room) = accepted => match accepted {
                Ok((stream, peer)) => {
                    let (shared, stop) = (shared.clone(), stop.clone());
                    connections.spawn(async move {
                        if let Err(error) = shared.connection(stream, peer, stop).await {
                            tracing::debug!(%peer, error, "connection ended early");
                        }
                        drop(room);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = stopped(&mut own_stop) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

impl Shared {
    fn new(whoami: Whoami, protocol: Protocol) -> Arc<Self> {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Arc::new(Self { whoami, protocol, connections: AtomicU64::new(0), room })
    }

    async fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), String> {
        // Answers are written whole; waiting to fill a segment only delays them.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut connection = Connection {
            name: self.whoami.name.clone(),
            id: self.connections.fetch_add(1, Ordering::Relaxed) + 1,
            peer: canonical(peer),
            local: canonical(stream.local_addr().map_err(|error| error.to_string())?),
            proxy: None,
            tls: None,
        };
        let mut stream = Peeked::new(stream);
        let opening = async {
            if self.whoami.proxy_protocol {
                connection.proxy = read_proxy(&mut stream).await?;
            }
            match &self.whoami.tls {
                Some(tls) if starts_tls(&mut stream).await? => Ok(Some(TlsAcceptor::from(tls.clone()))),
                _ => Ok(None),
            }
        };
        let opened = tokio::select! {
            opened = timeout(OPENING_TIMEOUT, opening) => opened,
            () = stopped(&mut stop) => return Ok(()),
        };
        let acceptor: Option<TlsAcceptor> =
            opened.map_err(|_| "nothing said in time".to_owned())?.map_err(|error: io::Error| error.to_string())?;
        let Some(acceptor) = acceptor else {
            return self.speak(stream, connection, stop).await;
        };
        let accepted = timeout(OPENING_TIMEOUT, acceptor.accept(stream)).await;
        let tls = accepted.map_err(|_| "TLS handshake timed out".to_owned())?.map_err(|error| error.to_string())?;
        let session = tls.get_ref().1;
        connection.tls = Some(Tls {
            sni: session.server_name().map(str::to_owned),
            alpn: session.alpn_protocol().map(|alpn| String::from_utf8_lossy(alpn).into_owned()),
            version: match session.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "unknown",
            },
        });
        self.speak(Peeked::new(tls), connection, stop).await
    }

    async fn speak<T: Transport>(
        &self,
        mut stream: Peeked<T>,
        connection: Connection,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), String> {
        if self.protocol == Protocol::Tcp {
            return l4::serve_tcp(stream, &connection, stop).await.map_err(|error| error.to_string());
        }
        let connection = Arc::new(connection);
        let http2 = tokio::select! {
            http2 = timeout(OPENING_TIMEOUT, starts_http2(&mut stream)) => http2,
            () = stopped(&mut stop) => return Ok(()),
        };
        match http2.map_err(|_| "nothing said in time".to_owned())?.map_err(|error| error.to_string())? {
            true => http2::serve(stream, connection, stop).await.map_err(|error| error.to_string()),
            false => http1::serve(stream, connection, stop).await.map_err(|error| error.to_string()),
        }
    }
}

async fn read_proxy(stream: &mut Peeked<TcpStream>) -> io::Result<Option<ProxyHeader>> {
    loop {
        if !stream.ahead.is_empty() {
            match proxy::decode(&stream.ahead) {
                Ok(Decoded::Absent) => return Ok(None),
                Ok(Decoded::Header(header, length)) => {
                    stream.ahead.advance(length);
                    return Ok(Some(header));
                }
                Ok(Decoded::Incomplete) => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        if stream.fill().await? == 0 {
            return Ok(None);
        }
    }
}

/// Whether the first byte is that of a TLS handshake record.
async fn starts_tls(stream: &mut Peeked<TcpStream>) -> io::Result<bool> {
    if stream.ahead.is_empty() && stream.fill().await? == 0 {
        return Ok(false);
    }
    Ok(stream.ahead[0] == 0x16)
}

/// Whether the HTTP/2 connection preface comes first. RFC 9113, section 3.4.
async fn starts_http2<T: Transport>(stream: &mut Peeked<T>) -> io::Result<bool> {
    loop {
        let n = stream.ahead.len().min(PREFACE.len());
        if stream.ahead[..n] != PREFACE[..n] {
            return Ok(false);
        }
        if n == PREFACE.len() {
            return Ok(true);
        }
        if stream.fill().await? == 0 {
            return Ok(false);
        }
    }
}
