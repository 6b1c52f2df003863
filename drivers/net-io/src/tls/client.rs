//! The side towards endpoints.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use headwater_model::gateway::{UpstreamTls, UpstreamVerify};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{TlsError, provider};

/// Bytes that may wait inside one connection, before encryption and after it; then writes block.
const BUFFER_LIMIT: usize = 64 << 10;
/// Server names whose sessions are kept for resumption.
const SESSIONS: usize = 256;

/// The TLS side of a pool; cheap to clone.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
    /// SNI and the name that is verified, if the settings name one.
    server_name: Option<ServerName<'static>>,
}

impl ClientTls {
    /// What `tls` asks for, offering the protocols `alpn` in this order (none: no ALPN).
    ///
    /// # Errors
    /// [`TlsError`] when there are no authorities to believe, one is unusable, or the server's name is none.
    pub fn new(tls: &UpstreamTls, alpn: &[&[u8]]) -> Result<Self, TlsError> {
        let versions = &[&rustls::version::TLS13, &rustls::version::TLS12];
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(|source| TlsError::Versions { versions: "1.2 and 1.3", source })?;
        let builder = match &tls.verify {
            UpstreamVerify::Off => builder.dangerous().with_custom_certificate_verifier(Arc::new(BelieveAnybody {
                algorithms: provider().signature_verification_algorithms,
            })),
            UpstreamVerify::SystemRoots => builder.with_root_certificates(system_roots()?),
            UpstreamVerify::Roots(authorities) => builder.with_root_certificates(roots(authorities)?),
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS)));
        let server_name = match tls.server_name.as_deref() {
            Some(name) => Some(parse_name(name).ok_or_else(|| TlsError::ServerName { name: name.to_owned() })?),
            None => None,
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), server_name })
    }

    /// The handshake with the endpoint `address`, without a timeout of its own.
    ///
    /// The server's name is the one of the settings, else `host` (the request's, without port), else the address.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] with a [`rustls::Error`] inside when the server is not believed or speaks no TLS
    /// that we do; what the socket says.
    pub async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        host: Option<&str>,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = self.server_name(address, host);
        self.connector.connect_with(name, stream, |connection| connection.set_buffer_limit(Some(BUFFER_LIMIT))).await
    }

    fn server_name(&self, address: SocketAddr, host: Option<&str>) -> ServerName<'static> {
        self.server_name
            .clone()
            .or_else(|| host.and_then(parse_name))
            .unwrap_or_else(|| ServerName::IpAddress(address.ip().into()))
    }
}

/// A DNS name or an address, in brackets or not.
fn parse_name(name: &str) -> Option<ServerName<'static>> {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    ServerName::try_from(bare.to_owned()).ok()
}

pub(super) fn roots(authorities: &[Vec<u8>]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for (index, der) in authorities.iter().enumerate() {
        store.add(CertificateDer::from(der.as_slice())).map_err(|source| TlsError::Authority { index, source })?;
    }
    if store.is_empty() {
        return Err(TlsError::NoAuthority);
    }
    Ok(Arc::new(store))
}

/// Read from disk once; a process that found none looks again.
fn system_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static FOUND: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let loaded = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (_, ignored) = store.add_parsable_certificates(loaded.certs);
    if store.is_empty() {
        let reason = match loaded.errors.first() {
            Some(error) => error.to_string(),
            None if ignored > 0 => format!("none of {ignored} certificates is usable"),
            None => "none was found".to_owned(),
        };
        return Err(TlsError::NoSystemRoots { reason });
    }
    Ok(FOUND.get_or_init(|| Arc::new(store)).clone())
}

/// Accepts any certificate, but only from who holds its key.
#[derive(Debug)]
struct BelieveAnybody {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for BelieveAnybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
