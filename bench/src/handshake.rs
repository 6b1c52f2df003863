//! The load of full TLS handshakes: a connection, one request, `Connection: close`, and again.
//!
//! TLS 1.3, X25519, AES-256-GCM for every server alike. This client keeps no session, so nothing can be resumed; a
//! handshake that is not full all the same counts as an error.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::load::Outcome;

/// Longest connection; a longer one is an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the load and prints its [`Outcome`] as JSON.
///
/// # Errors
/// When the certificate cannot be read.
pub(crate) fn run(target: SocketAddr, name: &str, certificate: &Path, seconds: u32, concurrency: usize) -> Result<()> {
    let load = Arc::new(Load {
        connector: TlsConnector::from(Arc::new(client(certificate)?)),
        name: ServerName::try_from(name.to_owned())?,
        request: format!("GET /100 HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"),
        target,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let started = Instant::now();
    let deadline = started + Duration::from_secs(seconds.into());
    let (mut latencies, mut errors, mut first_error) = (Vec::new(), 0, None);
    runtime.block_on(async {
        let tasks: Vec<_> = (0..concurrency).map(|_| tokio::spawn(load.clone().repeat(deadline))).collect();
        for task in tasks {
            let (mut times, failures) = task.await?;
            latencies.append(&mut times);
            errors += failures.len() as u64;
            first_error = first_error.take().or_else(|| failures.into_iter().next());
        }
        anyhow::Ok(())
    })?;
    if let Some(error) = first_error {
        eprintln!("{errors} errors, the first: {error:#}");
    }
    let outcome = Outcome::of(latencies, errors, started.elapsed());
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn client(certificate: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(certificate).with_context(|| certificate.display().to_string())?;
    roots.add(certificate)?;
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

struct Load {
    connector: TlsConnector,
    name: ServerName<'static>,
    request: String,
    target: SocketAddr,
}

impl Load {
    /// Latencies in milliseconds, and failures.
    async fn repeat(self: Arc<Self>, deadline: Instant) -> (Vec<f64>, Vec<anyhow::Error>) {
        let (mut latencies, mut failures) = (Vec::new(), Vec::new());
        while Instant::now() < deadline {
            let started = Instant::now();
            let result = tokio::time::timeout(PATIENCE, self.once()).await;
            match result.map_err(anyhow::Error::from).and_then(|result| result) {
                Ok(()) => latencies.push(started.elapsed().as_secs_f64() * 1000.0),
                Err(error) => failures.push(error),
            }
        }
        (latencies, failures)
    }

    async fn once(&self) -> Result<()> {
        let stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        let mut stream = self.connector.connect(self.name.clone(), stream).await?;
        stream.write_all(self.request.as_bytes()).await?;
        let mut response = Vec::with_capacity(1 << 10);
        match stream.read_to_end(&mut response).await {
            // Some servers close without close_notify; the response has a length.
            Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => {}
        }
        if !response.starts_with(b"HTTP/1.1 200") {
            bail!("answer: {}", String::from_utf8_lossy(&response).lines().next().unwrap_or_default());
        }
        match stream.get_ref().1.handshake_kind() {
            Some(HandshakeKind::Full) => Ok(()),
            kind => bail!("handshake is not full: {kind:?}"),
        }
    }
}
