//! The port of the metrics: `/metrics` and `/healthz`, over TLS for whoever begins a handshake, else in the clear.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headwater_model::gateway::{GatewaySnapshot, TlsTermination};
use headwater_model::settings::TlsVersion;
use headwater_net_io::tls::server::ServerTls;
use headwater_process::http::{self, Limits, Request, Response, Version};
use headwater_process::publish::Subscriber;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::AlbMetrics;

/// Connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Before the next try when no connection can be accepted for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const LIMITS: Limits = Limits {
    head_bytes: 16 << 10,
    head_time: Duration::from_secs(60),
    body_bytes: 0,
    body_time: Duration::from_secs(5),
    streams: 8,
    age: Duration::from_secs(600),
};
/// First byte of a TLS handshake.
const TLS: u8 = 0x16;

/// What scrapers have to say to be answered: `Authorization: Bearer TOKEN`.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    /// `None` for one that is empty.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// In time that does not tell how much of it was right.
    fn is(&self, said: &str) -> bool {
        let differences = self.0.bytes().zip(said.bytes()).fold(0, |seen, (a, b)| seen | (a ^ b));
        self.0.len() == said.len() && differences == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// A server that listens, and answers once it is served.
pub struct AlbMetricsServer {
    listener: TcpListener,
    address: SocketAddr,
    tls: ServerTls,
    answering: Arc<Answering>,
}

struct Answering {
    metrics: AlbMetrics,
    snapshots: Subscriber<GatewaySnapshot>,
    connections: Box<dyn Fn() -> u32 + Send + Sync>,
    token: Option<Token>,
}

impl AlbMetricsServer {
    /// Listens, with a self-signed certificate. `connections` says how many downstream connections are open; without a
    /// `token` everybody is answered.
    ///
    /// # Errors
    /// When the address cannot be listened on, or no certificate can be made.
    pub async fn bind(
        address: SocketAddr,
        metrics: AlbMetrics,
        snapshots: Subscriber<GatewaySnapshot>,
        connections: impl Fn() -> u32 + Send + Sync + 'static,
        token: Option<Token>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let termination = TlsTermination {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            passthrough: HashMap::new(),
            default: None,
            min_version: TlsVersion::V1_2,
            http2: false,
            session_tickets: true,
        };
        let tls = ServerTls::new(&termination, None).map_err(io::Error::other)?;
        let answering = Arc::new(Answering { metrics, snapshots, connections: Box::new(connections), token });
        Ok(Self { address: listener.local_addr()?, listener, tls, answering })
    }

    /// With the port that port 0 became.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the future is dropped.
    pub async fn serve(self) -> Infallible {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        // Dropping it ends the connections.
        let mut connections = JoinSet::new();
        loop {
            let permit = room.clone().acquire_owned().await.expect("never closed");
            while connections.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (tls, answering) = (self.tls.clone(), self.answering.clone());
                    connections.spawn(async move {
                        let _permit = permit;
                        if let Err(error) = connection(stream, &tls, answering).await {
                            tracing::debug!(%error, "connection for metrics ended early");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, address = %self.address, "connection for metrics is not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, tls: &ServerTls, answering: Arc<Answering>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    tokio::time::timeout(HANDSHAKE_TIME, stream.peek(&mut first)).await.map_err(late)??;
    let answer = move |request: Request| {
        let answering = answering.clone();
        async move { answering.answer(&request) }
    };
    let never = std::future::pending();
    let served = match first {
        [TLS] => {
            let stream = tls.handshake(stream, HANDSHAKE_TIME).await?;
            http::serve(stream, Version::Http1, LIMITS, never, answer).await
        }
        _ => http::serve(stream, Version::Http1, LIMITS, never, answer).await,
    };
    served.map_err(io::Error::other)
}

impl Answering {
    fn answer(&self, request: &Request) -> Response {
        match (request.path(), request.method()) {
            ("/healthz", _) => Response { body: b"ok".to_vec(), ..Response::text(200, "") },
            ("/metrics", "GET" | "HEAD") if !self.admits(request) => Response::text(401, "Unauthorized"),
            ("/metrics", "GET" | "HEAD") => {
                let text = self.metrics.text(&self.snapshots.load(), (self.connections)());
                let content_type = "text/plain; version=0.0.4; charset=utf-8";
                Response { content_type, body: text.into_bytes(), ..Response::text(200, "") }
            }
            ("/metrics", _) => Response::text(405, "use GET"),
            _ => Response::text(404, "there is /metrics and /healthz"),
        }
    }

    fn admits(&self, request: &Request) -> bool {
        let Some(token) = &self.token else { return true };
        let said = request.header("authorization").and_then(|said| said.split_once(' '));
        said.is_some_and(|(scheme, said)| scheme.eq_ignore_ascii_case("bearer") && token.is(said.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_that_token_alone() {
        let token = Token::new(" secret\n").unwrap();
        for (said, expected) in [("secret", true), ("secre", false), ("secrets", false), ("", false), ("Secret", false)]
        {
            assert_eq!(token.is(said), expected, "{said}");
        }
        assert!(Token::new("\n").is_none());
        assert_eq!(format!("{token:?}"), "Token(redacted)");
    }
}
