//! Echo server that tells each client what it looks like from here.
//!
//! One TCP port speaks, by looking at the first bytes: PROXY protocol (when enabled), TLS (when configured),
//! HTTP/1.1, HTTP/2 with prior knowledge or by ALPN, gRPC and WebSocket. Separate sockets answer raw TCP and UDP.
//! The paths and query parameters that shape an answer are listed at [`answer`].

pub mod answer;
mod grpc;
mod http1;
mod http2;
mod l4;
pub mod proxy;
mod server;
mod stream;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;

pub use server::Server;

/// What one whoami instance is and where it listens.
#[derive(Clone, Debug)]
pub struct Whoami {
    /// Name of the instance, repeated in every answer.
    pub name: String,
    /// Addresses to listen on; port 0 takes a free port.
    pub bind: Vec<SocketAddr>,
    /// Answers TLS on the same port when set; plain connections stay welcome. ALPN is what this value offers.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Accepts (and reports) a PROXY protocol header at the start of a connection. Without a header the connection
    /// is served as usual; when `false`, a header is payload and HTTP answers 400.
    pub proxy_protocol: bool,
}

impl Whoami {
    /// An instance without TLS and without PROXY protocol.
    pub fn new(name: impl Into<String>, bind: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { name: name.into(), bind: bind.into_iter().collect(), tls: None, proxy_protocol: false }
    }

    /// Opens the sockets for HTTP, gRPC and WebSocket.
    ///
    /// # Errors
    /// [`Error::NoAddress`] when `bind` is empty, [`Error::Bind`] with the first address that cannot be opened.
    pub async fn serve_http(self) -> Result<Server, Error> {
        Server::open(self, server::Protocol::Http).await
    }

    /// Opens the sockets for raw TCP: one line of JSON for the client, then everything it sends comes back.
    ///
    /// With `proxy_protocol` or `tls` the line waits for the client's first byte, since that decides what follows.
    ///
    /// # Errors
    /// As [`Whoami::serve_http`].
    pub async fn serve_tcp(self) -> Result<Server, Error> {
        Server::open(self, server::Protocol::Tcp).await
    }

    /// Opens the sockets for UDP: each datagram is answered with one datagram of JSON.
    ///
    /// # Errors
    /// As [`Whoami::serve_http`].
    pub async fn serve_udp(self) -> Result<Server, Error> {
        Server::open(self, server::Protocol::Udp).await
    }
}

/// Serves HTTP, gRPC and WebSocket on a listener that is already open, until `shutdown` completes.
///
/// `whoami.bind` is not used.
pub async fn serve(whoami: Whoami, listener: tokio::net::TcpListener, shutdown: impl Future<Output = ()>) {
    Server::on(whoami, listener).run(shutdown).await;
}

/// Why an instance could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing to listen on.
    #[error("whoami {name}: no address to listen on; name at least one address:port")]
    NoAddress {
        /// Name of the instance.
        name: String,
    },
    /// The kernel refused an address.
    #[error("whoami {name}: cannot listen on {address}; is the port taken or reserved for root?")]
    Bind {
        /// Name of the instance.
        name: String,
        /// The refused address.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
}
