//! The webhook's server.
//!
//! ```text
//!  accept ──connection──> TLS (the present certificate) ──> HTTP/1.1 or HTTP/2 ──> Reviewer
//!  keep ──certificate──────┘
//! ```

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headwater_net_io::listen::{ListenError, listen};
use headwater_process::http::{self, Version};
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::certificate::{Certificate, CertificateError, Current, Serving, read_authorities};
use crate::config::{AdmissionConfig, HANDSHAKE_TIME, HTTP_LIMITS, MAX_CONNECTIONS};
use crate::judge::Judge;
use crate::metrics::AdmissionMetrics;
use crate::reviewer::Reviewer;

/// Connections that wait in the kernel.
const BACKLOG: u32 = 128;
/// Before the next try when no connection can be accepted for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no webhook.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdmissionError {
    #[error("webhook cannot listen")]
    Listen(#[from] ListenError),
    #[error("webhook address {address} cannot be served")]
    Serve { address: SocketAddr, source: io::Error },
    #[error("webhook certificate is not usable")]
    Certificate(#[source] CertificateError),
    #[error("authorities of the webhook's clients are not usable")]
    ClientAuthorities(#[source] CertificateError),
}

/// A webhook that listens, and answers once it is served.
pub struct AdmissionServer<J> {
    listener: TcpListener,
    local_address: SocketAddr,
    certificate: Certificate,
    clients: Option<Vec<Vec<u8>>>,
    current: Current,
    reviewer: Arc<Reviewer<J>>,
    metrics: AdmissionMetrics,
}

impl<J: Judge> AdmissionServer<J> {
    /// Listens; within a runtime.
    ///
    /// # Errors
    /// [`AdmissionError`]; a certificate that is given must be usable.
    pub fn bind(
        config: &AdmissionConfig,
        certificate: Certificate,
        judge: J,
        metrics: AdmissionMetrics,
    ) -> Result<Self, AdmissionError> {
        let clients = config.client_authorities.as_deref().map(read_authorities).transpose();
        let clients = clients.map_err(AdmissionError::ClientAuthorities)?;
        certificate.check(clients.as_deref()).map_err(AdmissionError::Certificate)?;
        let listener = listen(config.address, false, BACKLOG)?;
        let serve = || {
            let listener = TcpListener::from_std(listener)?;
            let local_address = listener.local_addr()?;
            Ok((listener, local_address))
        };
        let (listener, local_address) =
            serve().map_err(|source| AdmissionError::Serve { address: config.address, source })?;
        let reviewer = Reviewer::new(judge, config.failure, config.judge_time, metrics.clone());
        let (current, _) = watch::channel(None);
        Ok(Self { listener, local_address, certificate, clients, current, reviewer: Arc::new(reviewer), metrics })
    }

    /// With the port that port 0 became.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Whether there is a certificate to serve, for `/readyz`.
    pub fn ready(&self) -> impl Fn() -> Result<(), String> + Send + Sync + use<J> {
        let current = self.current.subscribe();
        move || match &*current.borrow() {
            Some(_) => Ok(()),
            None => Err("webhook: there is no certificate yet".to_owned()),
        }
    }

    /// Answers until `shutdown`, then what it was asked before, for 10 s at most.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self { listener, local_address, certificate, clients, current, reviewer, metrics } = self;
        let (closing, closed) = watch::channel(false);
        let mut connections = JoinSet::new();
        let serving = current.subscribe();
        {
            let accept = async {
                let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
                loop {
                    while connections.try_join_next().is_some() {}
                    match next(&listener, &room).await {
                        Ok((stream, permit)) => {
                            let connection =
                                connection(stream, serving.clone(), closed.clone(), reviewer.clone(), permit);
                            connections.spawn(connection);
                        }
                        Err(error) => {
                            tracing::warn!(%error, address = %local_address, "webhook connection is not accepted");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            };
            tokio::select! {
                never = certificate.keep(clients, &current) => match never {},
                never = tell_end(current.subscribe(), &metrics) => match never {},
                never = accept => never,
                () = shutdown => {}
            }
        }
        drop(listener);
        closing.send_replace(true);
        let last = async { while connections.join_next().await.is_some() {} };
        // Each connection has a limit of its own for its last answers.
        last.await;
    }
}

async fn next(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.expect("never closed");
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

async fn connection<J: Judge>(
    stream: TcpStream,
    mut serving: watch::Receiver<Option<Arc<Serving>>>,
    mut closed: watch::Receiver<bool>,
    reviewer: Arc<Reviewer<J>>,
    _permit: OwnedSemaphorePermit,
) {
    let handshake = async {
        let serving = serving.wait_for(Option::is_some).await.ok()?.clone()?;
        match serving.tls.accept(stream).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(%error, "webhook connection is refused in its handshake");
                None
            }
        }
    };
    let Ok(Some(stream)) = tokio::time::timeout(HANDSHAKE_TIME, handshake).await else { return };
    let version = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Version::Http2,
        _ => Version::Http1,
    };
    let closing = async move {
        // An error: the server is gone.
        let _ = closed.wait_for(|closed| *closed).await;
    };
    let answer = move |request| {
        let reviewer = reviewer.clone();
        async move { reviewer.answer(request).await }
    };
    if let Err(error) = http::serve(stream, version, HTTP_LIMITS, closing, answer).await {
        tracing::debug!(%error, "webhook connection ended early");
    }
}

async fn tell_end(mut serving: watch::Receiver<Option<Arc<Serving>>>, metrics: &AdmissionMetrics) -> Infallible {
    loop {
        let ends = serving.borrow_and_update().as_ref().and_then(|serving| serving.not_after);
        metrics.certificate_ends(ends.map_or(0, Timestamp::as_second));
        if serving.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
