//! The listener's side: certificates by SNI, sessions that survive configuration changes.

use std::hash::{Hash, Hasher};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ahash::HashMap;
use headwater_model::gateway::{Certificate, PrivateKey, TlsTermination};
use headwater_model::origin::Origin;
use headwater_model::settings::TlsVersion;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureAlgorithm};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use super::{TlsError, provider};

/// Bytes that may wait inside one connection, before encryption and after it; then writes block.
const BUFFER_LIMIT: usize = 64 << 10;

/// The TLS side of a listener; shared by all workers, cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    /// Kept over configuration changes, so that sessions can be resumed after them.
    tickets: Option<Arc<dyn ProducesTickets>>,
    /// Every certificate in use, so that the next configuration need not parse it again.
    keys: Arc<HashMap<Identity, Result<Arc<CertifiedKey>, rustls::Error>>>,
    faults: Arc<[CertificateFault]>,
}

/// A certificate that is not served.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{origin}: certificate is not usable, other certificates are served instead (renew it with its own key)")]
pub struct CertificateFault {
    pub origin: Origin,
    pub source: rustls::Error,
}

impl ServerTls {
    /// What `termination` asks for; `previous` is what the same listener did until now.
    ///
    /// Only certificates that `previous` did not have are parsed, and its session tickets stay valid. Certificates that
    /// rustls refuses are listed in [`Self::faults`]; the others serve. A name left without any certificate is served
    /// like a name not found.
    ///
    /// # Errors
    /// [`TlsError`] when nothing can be served: no random numbers.
    pub fn new(termination: &TlsTermination, previous: Option<&Self>) -> Result<Self, TlsError> {
        Self::build(termination, previous, None)
    }

    /// The same for clients that show a certificate of one of `authorities` (DER); others are refused in the handshake.
    ///
    /// # Errors
    /// [`TlsError`] when nothing can be served: no random numbers, or no usable authority.
    pub fn for_clients_of(
        authorities: &[Vec<u8>],
        termination: &TlsTermination,
        previous: Option<&Self>,
    ) -> Result<Self, TlsError> {
        let roots = super::client::roots(authorities)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|source| TlsError::ClientVerifier { source })?;
        Self::build(termination, previous, Some(verifier))
    }

    fn build(
        termination: &TlsTermination,
        previous: Option<&Self>,
        clients: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Self, TlsError> {
        let tickets = match previous.and_then(|previous| previous.tickets.clone()) {
            _ if !termination.session_tickets => None,
            Some(tickets) => Some(tickets),
            None => Some(rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|source| TlsError::Tickets { source })?),
        };
        let mut loading = Loading { previous: previous.map(|previous| &*previous.keys), keys: HashMap::default() };
        let resolver = BySni {
            exact: loading.table(&termination.exact),
            wildcard: loading.table(&termination.wildcard),
            default: match termination.default.as_ref().and_then(|certificate| loading.key(certificate)) {
                Some(key) => key,
                None => default_certificate()?,
            },
        };
        let keys = loading.keys;
        let mut faults: Vec<CertificateFault> = keys
            .iter()
            .filter_map(|(identity, loaded)| {
                let source = loaded.as_ref().err()?.clone();
                Some(CertificateFault { origin: identity.0.origin.clone(), source })
            })
            .collect();
        faults.sort_by(|a, b| a.origin.key.cmp(&b.origin.key));
        let config = configure(termination, Arc::new(resolver), tickets.as_ref(), clients)?;
        Ok(Self { config: Arc::new(config), tickets, keys: Arc::new(keys), faults: faults.into() })
    }

    /// Certificates that are not served, by origin.
    pub fn faults(&self) -> &[CertificateFault] {
        &self.faults
    }

    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// The parsed form of a certificate in use.
    #[cfg(test)]
    pub(super) fn key(&self, certificate: &Arc<Certificate>) -> Option<&Arc<CertifiedKey>> {
        self.keys.get(&Identity(certificate.clone()))?.as_ref().ok()
    }

    /// The handshake with a client on any stream, without a deadline of its own.
    pub fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Accept<S> {
        let limit = |connection: &mut rustls::ServerConnection| connection.set_buffer_limit(Some(BUFFER_LIMIT));
        TlsAcceptor::from(self.config.clone()).accept_with(stream, limit)
    }

    /// The handshake with a client, within `timeout`. The client was sent an alert when it fails.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`]; [`io::ErrorKind::InvalidData`] with a [`rustls::Error`] inside when the client
    /// speaks no TLS that we do; what the socket says.
    pub async fn handshake(&self, stream: TcpStream, timeout: Duration) -> io::Result<TlsStream<TcpStream>> {
        match tokio::time::timeout(timeout, self.accept(stream)).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no TLS handshake within {timeout:?}"))),
        }
    }
}

fn configure(
    termination: &TlsTermination,
    resolver: Arc<BySni>,
    tickets: Option<&Arc<dyn ProducesTickets>>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, TlsError> {
    let (versions, names): (&[&rustls::SupportedProtocolVersion], _) = match termination.min_version {
        TlsVersion::V1_2 => (&[&rustls::version::TLS13, &rustls::version::TLS12], "1.2 and 1.3"),
        TlsVersion::V1_3 => (&[&rustls::version::TLS13], "1.3"),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|source| TlsError::Versions { versions: names, source })?
        .with_client_cert_verifier(clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth))
        .with_cert_resolver(resolver);
    // Tickets carry the session: no worker keeps any, and every worker can resume it.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match tickets {
        Some(tickets) => config.ticketer = tickets.clone(),
        None => config.send_tls13_tickets = 0,
    }
    if termination.http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    config.alpn_protocols.push(b"http/1.1".to_vec());
    // A replayed request is a request: no early data, and no answer before the client has proven who it is.
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(config)
}

/// The same `Arc` is the same certificate: compared by address, which stays taken while this holds it.
struct Identity(Arc<Certificate>);

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

type Keys = HashMap<Identity, Result<Arc<CertifiedKey>, rustls::Error>>;

/// Certificates on their way from the snapshot's form to rustls's.
struct Loading<'a> {
    previous: Option<&'a Keys>,
    keys: Keys,
}

impl Loading<'_> {
    fn table(&mut self, names: &std::collections::HashMap<Arc<str>, Vec<Arc<Certificate>>>) -> Table {
        let mut table = Table::with_capacity_and_hasher(names.len(), ahash::RandomState::new());
        for (name, certificates) in names {
            let mut keys: Vec<_> = certificates.iter().filter_map(|certificate| self.key(certificate)).collect();
            if !keys.is_empty() {
                keys.sort_by_key(|key| cost(key));
                table.insert(name.clone(), keys.into());
            }
        }
        table
    }

    /// `None` when rustls refuses it.
    fn key(&mut self, certificate: &Arc<Certificate>) -> Option<Arc<CertifiedKey>> {
        let identity = Identity(certificate.clone());
        let loaded = match self.keys.get(&identity).or_else(|| self.previous?.get(&identity)) {
            Some(loaded) => loaded.clone(),
            None => load(certificate).map(Arc::new),
        };
        let key = loaded.as_ref().ok().cloned();
        self.keys.insert(identity, loaded);
        key
    }
}

fn load(certificate: &Certificate) -> Result<CertifiedKey, rustls::Error> {
    let chain = certificate.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key = match &certificate.key {
        PrivateKey::Pkcs1(der) => PrivateKeyDer::Pkcs1(der.clone().into()),
        PrivateKey::Sec1(der) => PrivateKeyDer::Sec1(der.clone().into()),
        PrivateKey::Pkcs8(der) => PrivateKeyDer::Pkcs8(der.clone().into()),
    };
    CertifiedKey::from_der(chain, key, &provider())
}

/// Cheaper signatures first: an ECDSA handshake costs a tenth of an RSA one.
fn cost(key: &CertifiedKey) -> u8 {
    match key.key.algorithm() {
        SignatureAlgorithm::ECDSA => 0,
        SignatureAlgorithm::ED25519 => 1,
        _ => 2,
    }
}

/// Served to clients that name no host, or one without a certificate. Made once, so that it stays the same while the
/// process runs.
fn default_certificate() -> Result<Arc<CertifiedKey>, TlsError> {
    static MADE: OnceLock<Arc<CertifiedKey>> = OnceLock::new();
    if let Some(made) = MADE.get() {
        return Ok(made.clone());
    }
    let made = make_default_certificate()?;
    Ok(MADE.get_or_init(|| Arc::new(made)).clone())
}

fn make_default_certificate() -> Result<CertifiedKey, TlsError> {
    let generation = |source| TlsError::DefaultCertificate { source };
    let key = rcgen::KeyPair::generate().map_err(generation)?;
    let mut params = rcgen::CertificateParams::new(vec!["headwater.invalid".to_owned()]).map_err(generation)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "headwater default certificate");
    let certificate = params.self_signed(&key).map_err(generation)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    CertifiedKey::from_der(vec![certificate.der().clone()], key, &provider())
        .map_err(|source| TlsError::DefaultCertificateRefused { source })
}

type Table = HashMap<Arc<str>, Box<[Arc<CertifiedKey>]>>;

/// The certificates of a listener: exact name, then wildcard, then the default.
struct BySni {
    exact: Table,
    /// By what follows the first label.
    wildcard: Table,
    default: Arc<CertifiedKey>,
}

impl std::fmt::Debug for BySni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BySni")
            .field("exact", &self.exact.len())
            .field("wildcard", &self.wildcard.len())
            .finish_non_exhaustive()
    }
}

impl BySni {
    fn find(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        // rustls lower-cases the name.
        let name = name.strip_suffix('.').unwrap_or(name);
        let wildcard = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(wildcard).map(|keys| &**keys)
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Some(keys) = hello.server_name().and_then(|name| self.find(name)) else {
            return Some(self.default.clone());
        };
        // The schemes are already reduced to those that fit the client's cipher suites. A client that can verify none
        // of ours gets the last, and says so itself.
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        keys.iter().find(fits).or(keys.last()).cloned()
    }
}
