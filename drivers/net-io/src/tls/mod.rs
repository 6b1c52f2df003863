//! TLS 1.2 and 1.3 by rustls and aws-lc.

pub mod client;
pub mod hello;
pub mod pem;
pub mod server;

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

/// Why a TLS configuration cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    #[error("no key for session tickets (the system's random numbers are unavailable)")]
    Tickets { source: rustls::Error },
    #[error("the default certificate cannot be generated")]
    DefaultCertificate { source: rcgen::Error },
    #[error("the default certificate is refused")]
    DefaultCertificateRefused { source: rustls::Error },
    #[error("this build supports none of the TLS versions {versions}")]
    Versions { versions: &'static str, source: rustls::Error },
    #[error("certificate authority {index} is not usable (give DER of an X.509 version 3 certificate)")]
    Authority { index: usize, source: rustls::Error },
    #[error(
        "clients cannot be verified by these authorities (give the certificate of the authority that issues theirs)"
    )]
    ClientVerifier { source: rustls::server::VerifierBuilderError },
    #[error("{name:?} is not the name of a server (give a DNS name or an address)")]
    ServerName { name: String },
    #[error("no certificate authority is named, so no server can be believed (name one, or turn verification off)")]
    NoAuthority,
    #[error(
        "the system has no certificate authorities: {reason} (install ca-certificates, set SSL_CERT_FILE, or name \
         the authorities)"
    )]
    NoSystemRoots { reason: String },
}

/// The one provider of cryptography.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

#[cfg(test)]
mod tests;
