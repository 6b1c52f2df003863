//! The certificate that the webhook serves: given in files, or made and renewed by ourselves.

mod given;
mod issue;
mod managed;
mod step;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use headwater_kube_io::ApiServer;
use headwater_model::gateway::{Certificate as Chain, TlsTermination};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey, Origin};
use headwater_model::settings::TlsVersion;
use headwater_net_io::tls::TlsError;
use headwater_net_io::tls::pem::{self, PemError};
use headwater_net_io::tls::server::{CertificateFault, ServerTls};
use jiff::Timestamp;
use tokio::sync::watch;

pub use self::step::Lives;

/// Where the webhook's certificate comes from.
#[allow(clippy::large_enum_variant, reason = "a process has one, and moves it once")]
pub enum Certificate {
    /// A directory with `tls.crt` and `tls.key`, as a Secret is mounted.
    Given(PathBuf),
    Managed(Managed),
}

/// A certificate of an authority of our own, kept in a Secret that all replicas serve from. The leader makes and renews
/// it, and tells the API server whom to believe.
pub struct Managed {
    pub server: ApiServer,
    /// The Secret, in the namespace of the process.
    pub secret: NamespacedName,
    /// Name of the ValidatingWebhookConfiguration whose `caBundle`s are kept.
    pub configuration: String,
    /// What the API server calls the webhook: `SERVICE.NAMESPACE.svc`, or the host of a `url`.
    pub names: Vec<String>,
    pub lives: Lives,
    /// Whether this process is the one that writes.
    pub leading: watch::Receiver<bool>,
}

/// Why a certificate cannot be served. No text of it is quoted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    #[error("file {} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{what}: {source}")]
    Pem { what: String, source: PemError },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Refused(Box<CertificateFault>),
}

/// What is served now.
pub(crate) struct Serving {
    pub(crate) tls: ServerTls,
    pub(crate) not_after: Option<Timestamp>,
}

/// The present certificate; `None` before the first.
pub(crate) type Current = watch::Sender<Option<Arc<Serving>>>;

impl Certificate {
    /// What must hold before anything is served.
    ///
    /// # Errors
    /// [`CertificateError`], where the certificate is given.
    pub(crate) fn check(&self, clients: Option<&[Vec<u8>]>) -> Result<(), CertificateError> {
        match self {
            Self::Given(directory) => given::load(directory, clients).map(drop),
            Self::Managed(_) => Ok(()),
        }
    }

    /// Keeps `current` what it should be, until dropped. `clients`: the authorities of those who may connect.
    pub(crate) async fn keep(self, clients: Option<Vec<Vec<u8>>>, current: &Current) -> Infallible {
        match self {
            Self::Given(directory) => given::keep(&directory, given::INTERVAL, clients.as_deref(), current).await,
            Self::Managed(managed) => managed::keep(managed, clients.as_deref(), current).await,
        }
    }
}

impl Serving {
    /// TLS 1.2 and 1.3 with one certificate, whatever name it is asked for by.
    fn new(
        name: &NamespacedName,
        chain: &[u8],
        key: &[u8],
        clients: Option<&[Vec<u8>]>,
    ) -> Result<Self, CertificateError> {
        let wrong = |key: &str| {
            let what = format!("{key} of {name}");
            move |source| CertificateError::Pem { what, source }
        };
        let origin = Origin { key: ObjectKey { kind: Kind::Secret, id: name.clone() }, generation: 0 };
        let not_after = issue::not_after(chain);
        let certificate = Arc::new(Chain {
            origin,
            chain: pem::certificates(chain).map_err(wrong("tls.crt"))?,
            key: pem::private_key(key).map_err(wrong("tls.key"))?,
            names: Vec::new(),
            not_after: not_after.map_or(0, Timestamp::as_second),
        });
        let termination = TlsTermination {
            exact: Default::default(),
            wildcard: Default::default(),
            default: Some(certificate),
            min_version: TlsVersion::V1_2,
            http2: true,
            // A session would outlive the certificate that it began with, the client's too.
            session_tickets: false,
            passthrough: Default::default(),
        };
        let tls = match clients {
            Some(authorities) => ServerTls::for_clients_of(authorities, &termination, None)?,
            None => ServerTls::new(&termination, None)?,
        };
        match tls.faults().first() {
            Some(fault) => Err(CertificateError::Refused(Box::new(fault.clone()))),
            None => Ok(Self { tls, not_after }),
        }
    }
}

/// Reads the authorities of clients.
///
/// # Errors
/// [`CertificateError::Unreadable`], [`CertificateError::Pem`].
pub(crate) fn read_authorities(path: &std::path::Path) -> Result<Vec<Vec<u8>>, CertificateError> {
    let text = std::fs::read(path).map_err(|source| CertificateError::Unreadable { path: path.to_owned(), source })?;
    pem::certificates(&text).map_err(|source| CertificateError::Pem { what: path.display().to_string(), source })
}
