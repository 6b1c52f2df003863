//! Certificates and keys in PEM (RFC 7468), as files and Secrets have them.

use headwater_model::gateway::PrivateKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Most certificates of one text.
const MAX_CERTIFICATES: usize = 32;

/// Why a text is not what it should be. Nothing of it is quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    #[error("not PEM with at least one certificate")]
    NoCertificate,
    #[error("more than {MAX_CERTIFICATES} certificates")]
    TooMany,
    #[error("not PEM with a private key (encrypted keys cannot be read)")]
    NoKey,
}

/// DER of each certificate of the text, in its order.
///
/// # Errors
/// [`PemError`].
pub fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, PemError> {
    let found: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(pem)
        .take(MAX_CERTIFICATES + 1)
        .map(|der| der.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|_| PemError::NoCertificate)?;
    match found.len() {
        0 => Err(PemError::NoCertificate),
        1..=MAX_CERTIFICATES => Ok(found),
        _ => Err(PemError::TooMany),
    }
}

/// The first private key of the text.
///
/// # Errors
/// [`PemError::NoKey`].
pub fn private_key(pem: &[u8]) -> Result<PrivateKey, PemError> {
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(PrivateKeyDer::Pkcs1(der)) => Ok(PrivateKey::Pkcs1(der.secret_pkcs1_der().to_vec())),
        Ok(PrivateKeyDer::Sec1(der)) => Ok(PrivateKey::Sec1(der.secret_sec1_der().to_vec())),
        Ok(PrivateKeyDer::Pkcs8(der)) => Ok(PrivateKey::Pkcs8(der.secret_pkcs8_der().to_vec())),
        _ => Err(PemError::NoKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_is_refused() {
        for text in ["", "x", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"] {
            assert_eq!(certificates(text.as_bytes()), Err(PemError::NoCertificate), "{text:?}");
            assert_eq!(private_key(text.as_bytes()).err(), Some(PemError::NoKey), "{text:?}");
        }
        let many = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".repeat(MAX_CERTIFICATES + 1);
        assert_eq!(certificates(many.as_bytes()), Err(PemError::TooMany));
    }

    #[test]
    fn a_generated_key_is_read_as_it_was_written() {
        let key = rcgen::KeyPair::generate().unwrap();
        assert!(private_key(key.serialize_pem().as_bytes()) == Ok(PrivateKey::Pkcs8(key.serialize_der())));
    }
}
