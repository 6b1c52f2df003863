//! Load that notices every request that fails: HTTP/1.1 and HTTP/2, plain and TLS, kept and fresh connections.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Streams that an HTTP/2 connection carries at a time.
const STREAMS: usize = 4;
/// Content of every third request; it makes the request one that must not be sent twice.
const CONTENT: &[u8] = &[b'x'; 3000];

/// How connections are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    KeepAlive,
    Fresh,
    Http2,
}

/// Where one client sends its requests.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) host: &'static str,
    /// The authority that must have signed the server's certificate; plain when unset.
    pub(crate) authority: Option<CertificateDer<'static>>,
    pub(crate) style: Style,
}

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    requests: AtomicU64,
    connections: AtomicU64,
    failed: AtomicU64,
    /// The first of them.
    failures: Mutex<Vec<String>>,
    certificates: Mutex<Vec<Vec<u8>>>,
}

impl Tally {
    fn fail(&self, target: &Target, error: impl Display) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < 10 {
            let tls = if target.authority.is_some() { "TLS" } else { "plain" };
            failures.push(format!("{:?} over {tls}: {error:#}", target.style));
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Clients at work.
pub(crate) struct Load {
    runtime: tokio::runtime::Runtime,
    tally: Arc<Tally>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

/// What became of all requests.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) connections: u64,
    pub(crate) failed: u64,
    pub(crate) failures: Vec<String>,
    /// Different certificates that were shown.
    pub(crate) certificates: usize,
}

impl Load {
    /// Starts one client for each target.
    pub(crate) fn start(targets: Vec<Target>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let tally = Arc::new(Tally::default());
        let mut clients = Vec::new();
        for (index, target) in targets.into_iter().enumerate() {
            // An address of its own, so that fresh connections do not run out of ports.
            let source = Ipv4Addr::new(127, 0, 9, u8::try_from(index + 1)?);
            let client = Client { target, source, tally: tally.clone() };
            clients.push(runtime.spawn(async move {
                while !client.tally.stopped() {
                    if let Err(error) = client.connection().await {
                        client.tally.fail(&client.target, format_args!("{error:#}"));
                    }
                }
            }));
        }
        Ok(Self { runtime, tally, clients })
    }

    /// Requests answered so far.
    pub(crate) fn requests(&self) -> u64 {
        self.tally.requests.load(Ordering::Relaxed)
    }

    /// Lets the clients finish what they have begun.
    pub(crate) fn finish(self) -> Result<Outcome> {
        self.tally.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            self.runtime.block_on(client).context("a client panicked")?;
        }
        let tally = &self.tally;
        Ok(Outcome {
            requests: tally.requests.load(Ordering::Relaxed),
            connections: tally.connections.load(Ordering::Relaxed),
            failed: tally.failed.load(Ordering::Relaxed),
            failures: std::mem::take(&mut *tally.failures.lock().unwrap_or_else(PoisonError::into_inner)),
            certificates: tally.certificates.lock().unwrap_or_else(PoisonError::into_inner).len(),
        })
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

struct Client {
    target: Target,
    source: Ipv4Addr,
    tally: Arc<Tally>,
}

impl Client {
    /// One connection, to its end.
    async fn connection(&self) -> Result<()> {
        let io = in_time(self.connect()).await.context("connect")?;
        self.tally.connections.fetch_add(1, Ordering::Relaxed);
        match self.target.style {
            Style::Http2 => self.http2(io).await,
            style => self.http1(io, style == Style::KeepAlive).await,
        }
    }

    async fn connect(&self) -> Result<Box<dyn Io>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(IpAddr::V4(self.source), 0))?;
        let tcp: TcpStream = socket.connect(self.target.address).await?;
        tcp.set_nodelay(true)?;
        let Some(authority) = &self.target.authority else { return Ok(Box::new(tcp)) };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Every handshake shows a certificate.
        config.resumption = Resumption::disabled();
        let alpn: &[u8] = if self.target.style == Style::Http2 { b"h2" } else { b"http/1.1" };
        config.alpn_protocols = vec![alpn.to_vec()];
        let name = ServerName::try_from(self.target.host)?;
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("TLS handshake")?;
        let session = tls.get_ref().1;
        ensure!(session.alpn_protocol() == Some(alpn), "ALPN is {:?}", session.alpn_protocol());
        let leaf = session.peer_certificates().and_then(|chain| chain.first()).context("no certificate")?.to_vec();
        let mut certificates = self.tally.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if !certificates.contains(&leaf) {
            certificates.push(leaf);
        }
        drop(certificates);
        Ok(Box::new(tls))
    }

    async fn http1(&self, mut io: Box<dyn Io>, keep: bool) -> Result<()> {
        let mut count = 0_u64;
        loop {
            let closes = in_time(self.http1_request(&mut *io, keep, count)).await;
            let closes = closes.with_context(|| format!("request {count} of a connection"))?;
            self.tally.requests.fetch_add(1, Ordering::Relaxed);
            count += 1;
            if !keep || closes || self.tally.stopped() {
                return Ok(());
            }
        }
    }

    /// Sends a request and checks its answer; true when the connection ends with it.
    async fn http1_request(&self, io: &mut dyn Io, keep: bool, count: u64) -> Result<bool> {
        let (method, content) = if count % 3 == 2 { ("POST", CONTENT) } else { ("GET", &b""[..]) };
        let connection = if keep { "keep-alive" } else { "close" };
        let mut request = format!(
            "{method} /load/{count} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\nContent-Length: {}\r\n\r\n",
            self.target.host,
            content.len()
        )
        .into_bytes();
        request.extend_from_slice(content);
        io.write_all(&request).await.context("send")?;
        let mut answer = Vec::with_capacity(4096);
        let head = loop {
            if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            ensure!(io.read_buf(&mut answer).await? > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        };
        let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
        let value =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned));
        let length: usize = value("content-length").context("no content-length")?.parse()?;
        while answer.len() < head + length {
            ensure!(io.read_buf(&mut answer).await? > 0, "closed within the body");
        }
        ensure!(text.starts_with("http/1.1 200 "), "{text}{}", String::from_utf8_lossy(&answer[head..]));
        check(&answer[head..], content)?;
        Ok(value("connection").is_some_and(|value| value == "close"))
    }

    async fn http2(&self, io: Box<dyn Io>) -> Result<()> {
        let (send, connection) = in_time(async { Ok(h2::client::handshake(io).await?) }).await?;
        let connection = tokio::spawn(connection);
        let streams = (0..STREAMS).map(|_| self.http2_stream(send.clone()));
        let results = futures_util::future::join_all(streams).await;
        drop(send);
        connection.abort();
        results.into_iter().collect()
    }

    async fn http2_stream(&self, mut send: SendRequest<Bytes>) -> Result<()> {
        let mut count = 0_u64;
        while !self.tally.stopped() {
            send = in_time(self.http2_request(send, count)).await.with_context(|| format!("stream {count}"))?;
            self.tally.requests.fetch_add(1, Ordering::Relaxed);
            count += 1;
        }
        Ok(())
    }

    async fn http2_request(&self, send: SendRequest<Bytes>, count: u64) -> Result<SendRequest<Bytes>> {
        let (method, content) = if count % 3 == 2 { ("POST", CONTENT) } else { ("GET", &b""[..]) };
        let scheme = if self.target.authority.is_some() { "https" } else { "http" };
        let uri = format!("{scheme}://{}/load/{count}", self.target.host);
        let request = http::Request::builder().method(method).uri(uri).body(())?;
        let mut send = send.ready().await?;
        let (response, mut out) = send.send_request(request, content.is_empty())?;
        if !content.is_empty() {
            out.send_data(Bytes::from_static(CONTENT), true)?;
        }
        let (head, mut body) = response.await?.into_parts();
        let mut answer = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            answer.extend_from_slice(&piece);
        }
        ensure!(head.status == 200, "status {}: {}", head.status, String::from_utf8_lossy(&answer));
        check(&answer, content)?;
        Ok(send)
    }
}

/// The whole content arrived, at an origin of this test, and its whole answer here.
fn check(answer: &[u8], content: &[u8]) -> Result<()> {
    let report: serde_json::Value = serde_json::from_slice(answer)?;
    ensure!(report["body_bytes"] == content.len(), "{report}");
    ensure!(report["name"].as_str().is_some_and(|name| name.starts_with("load-")), "{report}");
    Ok(())
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => bail!("not done after {PATIENCE:?}"),
    }
}
