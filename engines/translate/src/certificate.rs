//! Secrets of type `kubernetes.io/tls`: chain and key, checked to belong together.

use std::sync::Arc;

use headwater_model::gateway::{Certificate, PrivateKey};
use headwater_model::object::Secret;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Most certificates of a chain.
const MAX_CHAIN: usize = 32;

/// Why a Secret cannot be served. No text of the Secret is quoted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum CertificateError {
    #[error("does not exist")]
    Missing,
    /// Nobody may read Secrets here; this is no fault of the object.
    #[error("is not read")]
    NotRead,
    #[error("has no key {0}")]
    NoKey(&'static str),
    #[error("tls.crt is not PEM with at least one certificate")]
    ChainNotPem,
    #[error("tls.crt has more than {MAX_CHAIN} certificates")]
    ChainTooLong,
    #[error("the first certificate of tls.crt is not X.509")]
    NotX509,
    #[error("tls.key is not PEM with a private key (encrypted keys cannot be read)")]
    KeyNotPem,
    #[error("tls.key is of a kind that TLS does not use (RSA, ECDSA P-256/P-384/P-521 and Ed25519 are)")]
    KeyKind,
    #[error("tls.key does not belong to the first certificate of tls.crt")]
    Mismatch,
}

/// Algorithm of a key: clients are offered one certificate of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Rsa,
    Ecdsa,
    Ed25519,
    Other,
}

/// A certificate as loaded from its Secret.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Loaded {
    pub(crate) certificate: Arc<Certificate>,
    pub(crate) kind: KeyKind,
}

/// Reads `tls.crt` and `tls.key`.
///
/// # Errors
/// [`CertificateError`]; validity in time is not looked at.
pub(crate) fn load(secret: Option<&Secret>) -> Result<Loaded, CertificateError> {
    let secret = secret.ok_or(CertificateError::Missing)?;
    let chain_pem = secret.bytes("tls.crt").ok_or(CertificateError::NoKey("tls.crt"))?;
    let key_pem = secret.bytes("tls.key").ok_or(CertificateError::NoKey("tls.key"))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem)
        .take(MAX_CHAIN + 1)
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::ChainNotPem)?;
    if chain.len() > MAX_CHAIN {
        return Err(CertificateError::ChainTooLong);
    }
    let leaf = chain.first().ok_or(CertificateError::ChainNotPem)?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::NotX509)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| CertificateError::KeyNotPem)?;
    let names = dns_names(&parsed);
    let not_after = parsed.validity().not_after.timestamp();
    let kind = key_kind(&parsed);

    let signing = any_supported_type(&key).map_err(|_| CertificateError::KeyKind)?;
    let certified = CertifiedKey::new(chain, signing);
    certified.keys_match().map_err(|_| CertificateError::Mismatch)?;
    let key = match key {
        PrivateKeyDer::Pkcs1(der) => PrivateKey::Pkcs1(der.secret_pkcs1_der().to_vec()),
        PrivateKeyDer::Sec1(der) => PrivateKey::Sec1(der.secret_sec1_der().to_vec()),
        PrivateKeyDer::Pkcs8(der) => PrivateKey::Pkcs8(der.secret_pkcs8_der().to_vec()),
        _ => return Err(CertificateError::KeyKind),
    };
    let chain = certified.cert.iter().map(|der| der.to_vec()).collect();
    let certificate = Arc::new(Certificate { origin: secret.origin(), chain, key, names, not_after });
    Ok(Loaded { certificate, kind })
}

fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    names.collect()
}

fn key_kind(certificate: &X509Certificate<'_>) -> KeyKind {
    match certificate.public_key().algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => KeyKind::Rsa,
        "1.2.840.10045.2.1" => KeyKind::Ecdsa,
        "1.3.101.112" => KeyKind::Ed25519,
        _ => KeyKind::Other,
    }
}

/// Reads `ca.crt`: DER of each certificate in it.
///
/// # Errors
/// A text that says what is wrong with it.
pub(crate) fn authorities(pem: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    let roots: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(pem)
        .map(|der| der.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|_| "ca.crt is not PEM")?;
    if roots.is_empty() {
        return Err("ca.crt has no certificate");
    }
    if roots.iter().any(|der| X509Certificate::from_der(der).is_err()) {
        return Err("ca.crt has a certificate that is not X.509");
    }
    Ok(roots)
}
