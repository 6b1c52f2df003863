//! How a client connects: address, source address, PROXY header, TLS. All clients here take the same [`Dial`].

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use socket2::{Domain, Protocol, Socket, Type};

use crate::certs::Leaf;
use crate::wait::DEADLINE;

/// A connection to be made.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Where to.
    pub address: SocketAddr,
    /// The address to connect from; the kernel chooses when unset. All of 127.0.0.0/8 works.
    pub source: Option<IpAddr>,
    /// Bytes sent first, in clear: a PROXY header.
    pub preamble: Vec<u8>,
    /// TLS parameters; plain when unset.
    pub tls: Option<Tls>,
    /// The deadline of each operation on the connection.
    pub deadline: Duration,
}

impl Dial {
    /// A plain connection with the usual deadline.
    pub fn to(address: SocketAddr) -> Self {
        Self { address, source: None, preamble: Vec::new(), tls: None, deadline: DEADLINE }
    }

    /// Connects from `source`.
    #[must_use]
    pub fn source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// Sends `bytes` first.
    #[must_use]
    pub fn preamble(mut self, bytes: &[u8]) -> Self {
        self.preamble = bytes.to_vec();
        self
    }

    /// Speaks TLS.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Opens the socket and sends the preamble, without TLS.
    ///
    /// # Errors
    /// What the kernel says, with the addresses.
    pub fn tcp(&self) -> Result<TcpStream> {
        let open = || -> io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, Some(Protocol::TCP))?;
            if let Some(source) = self.source {
                socket.bind(&SocketAddr::new(source, 0).into())?;
            }
            socket.connect_timeout(&self.address.into(), self.deadline)?;
            let mut stream = TcpStream::from(socket);
            stream.set_nodelay(true)?;
            stream.write_all(&self.preamble)?;
            Ok(stream)
        };
        open().with_context(|| match self.source {
            Some(source) => format!("connect from {source} to {}", self.address),
            None => format!("connect to {}", self.address),
        })
    }

    /// Opens the socket, sends the preamble and completes the TLS handshake, if there is to be one.
    ///
    /// # Errors
    /// What the kernel or rustls says.
    pub fn open(&self) -> Result<Stream> {
        let mut socket = Timed { stream: self.tcp()?, end: Instant::now() + self.deadline };
        let Some(tls) = &self.tls else {
            return Ok(Stream::Plain(socket));
        };
        let mut session = ClientConnection::new(tls.config()?, tls.server_name()?)?;
        while session.is_handshaking() {
            session.complete_io(&mut socket).context("TLS handshake")?;
        }
        Ok(Stream::Tls(Box::new(StreamOwned::new(session, socket))))
    }
}

/// TLS as a client speaks it. Whatever certificate comes is taken and can be looked at: [`Stream::leaf`].
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The name sent as SNI; none is sent when unset.
    pub sni: Option<String>,
    /// ALPN protocols offered, best first.
    pub alpn: Vec<String>,
    /// Certificate shown to servers that ask, chain and key in DER.
    client: Option<Arc<Leaf>>,
}

impl Tls {
    /// SNI `name` and no ALPN.
    pub fn new(name: &str) -> Self {
        Self { sni: Some(name.to_owned()), ..Self::default() }
    }

    /// Neither SNI nor ALPN.
    pub fn without_sni() -> Self {
        Self::default()
    }

    /// Offers these protocols, for example `["h2", "http/1.1"]`.
    #[must_use]
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Shows this certificate to servers that ask for one.
    #[must_use]
    pub fn certificate(mut self, leaf: Arc<Leaf>) -> Self {
        self.client = Some(leaf);
        self
    }

    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TakeAny(provider)));
        let mut config = match &self.client {
            Some(leaf) => builder.with_client_auth_cert(leaf.chain(), leaf.key())?,
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = self.sni.is_some();
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }

    pub(crate) fn server_name(&self) -> Result<ServerName<'static>> {
        let name = self.sni.clone().unwrap_or_else(|| "no-name.test".to_owned());
        ServerName::try_from(name.clone()).with_context(|| format!("SNI {name:?} is not a name"))
    }
}

/// Takes every certificate: what it says is for the test to judge. Signatures are still verified.
#[derive(Debug)]
struct TakeAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A socket whose reads and writes end at one instant.
#[derive(Debug)]
pub struct Timed {
    stream: TcpStream,
    end: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "deadline has passed"));
        }
        Ok(left)
    }
}

/// The kernel reports a socket's timeout as if the socket were non-blocking.
fn say_timeout(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "deadline has passed"),
        _ => error,
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer).map_err(say_timeout)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes).map_err(say_timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// An open connection, plain or TLS. Reads and writes end at the deadline set by [`Stream::arm`].
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Plain(Timed),
    /// TLS over TCP.
    Tls(Box<StreamOwned<ClientConnection, Timed>>),
}

impl Stream {
    fn timed(&mut self) -> &mut Timed {
        match self {
            Self::Plain(timed) => timed,
            Self::Tls(tls) => &mut tls.sock,
        }
    }

    /// Gives the coming reads and writes together `deadline` from now.
    pub fn arm(&mut self, deadline: Duration) {
        self.timed().end = Instant::now() + deadline;
    }

    /// The socket underneath.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(timed) => &timed.stream,
            Self::Tls(tls) => &tls.sock.stream,
        }
    }

    /// The server's certificate in DER; `None` on a plain connection.
    pub fn leaf(&self) -> Option<Vec<u8>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(tls.conn.peer_certificates()?.first()?.to_vec()),
        }
    }

    /// The protocol agreed on by ALPN.
    pub fn alpn(&self) -> Option<String> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        }
    }

    /// Tells the server that nothing more will be sent.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn finish(&mut self) -> io::Result<()> {
        if let Self::Tls(tls) = self {
            tls.conn.send_close_notify();
            tls.flush()?;
        }
        self.socket().shutdown(std::net::Shutdown::Write)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(timed) => timed.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(timed) => timed.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(timed) => timed.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}
