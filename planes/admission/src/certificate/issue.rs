//! Keys and certificates: made, written into a Secret, and read from it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use headwater_net_io::tls::pem;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::step::{Action, Facts, Kept, Lives};

/// Why the content of a Secret cannot be used, or nothing could be made. No text of the Secret is quoted.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    #[error("key {0} is missing")]
    Missing(&'static str),
    #[error("key {0} is not a certificate in PEM")]
    NotCertificate(&'static str),
    #[error("key {0} is not a private key in PEM")]
    NotKey(&'static str),
    #[error("certificate cannot be made")]
    Making(#[from] rcgen::Error),
}

/// Certificate and key in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// What the Secret holds.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Material {
    authority: Pair,
    next: Option<Pair>,
    /// Its key signs nothing any more, and is thrown away.
    old: Option<String>,
    pub(super) serving: Pair,
}

const SERVING: (&str, &str) = ("tls.crt", "tls.key");
const AUTHORITY: (&str, &str) = ("ca.crt", "ca.key");
const NEXT: (&str, &str) = ("next-ca.crt", "next-ca.key");
const OLD: &str = "old-ca.crt";

impl Material {
    /// A new authority and what it signs.
    ///
    /// # Errors
    /// [`IssueError::Making`].
    pub(super) fn begin(now: Timestamp, names: &[String], lives: &Lives) -> Result<Self, IssueError> {
        let authority = make_authority(now, lives)?;
        let serving = make_serving(now, names, &authority, lives)?;
        Ok(Self { authority, next: None, old: None, serving })
    }

    /// What the Secret holds after `action`.
    ///
    /// # Errors
    /// [`IssueError::Making`].
    pub(super) fn after(
        &self,
        action: Action,
        now: Timestamp,
        names: &[String],
        lives: &Lives,
    ) -> Result<Self, IssueError> {
        let this = self.clone();
        Ok(match (action, this.next.clone()) {
            (Action::Begin, _) => Self::begin(now, names, lives)?,
            (Action::StageAuthority, _) => Self { next: Some(make_authority(now, lives)?), ..this },
            (Action::Promote, Some(authority)) => {
                let serving = make_serving(now, names, &authority, lives)?;
                Self { authority, next: None, old: Some(this.authority.certificate), serving }
            }
            (Action::RenewServing, _) => Self { serving: make_serving(now, names, &this.authority, lives)?, ..this },
            (Action::DropOld, _) => Self { old: None, ..this },
            (Action::Promote | Action::Trust, _) => this,
        })
    }

    /// Reads the data of a Secret.
    ///
    /// # Errors
    /// [`IssueError`].
    pub(super) fn read(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, IssueError> {
        let pair = |(certificate, key)| {
            Ok::<_, IssueError>(Pair { certificate: text(data, certificate)?, key: text(data, key)? })
        };
        Ok(Self {
            authority: pair(AUTHORITY)?,
            next: if data.contains_key(NEXT.0) { Some(pair(NEXT)?) } else { None },
            old: if data.contains_key(OLD) { Some(text(data, OLD)?) } else { None },
            serving: pair(SERVING)?,
        })
    }

    /// The data of a Secret.
    pub(super) fn write(&self) -> BTreeMap<String, Vec<u8>> {
        let pairs = [(SERVING, Some(&self.serving)), (AUTHORITY, Some(&self.authority)), (NEXT, self.next.as_ref())];
        let mut data = BTreeMap::new();
        for ((certificate, key), pair) in pairs {
            if let Some(pair) = pair {
                data.insert(certificate.to_owned(), pair.certificate.clone().into_bytes());
                data.insert(key.to_owned(), pair.key.clone().into_bytes());
            }
        }
        if let Some(old) = &self.old {
            data.insert(OLD.to_owned(), old.clone().into_bytes());
        }
        data
    }

    /// What [`super::step::step`] needs to know of it.
    ///
    /// # Errors
    /// [`IssueError`]: something in it is not what it should be.
    pub(super) fn kept(&self, names: &[String]) -> Result<Kept, IssueError> {
        KeyPair::from_pem(&self.authority.key).map_err(|_| IssueError::NotKey(AUTHORITY.1))?;
        KeyPair::from_pem(&self.serving.key).map_err(|_| IssueError::NotKey(SERVING.1))?;
        if let Some(next) = &self.next {
            KeyPair::from_pem(&next.key).map_err(|_| IssueError::NotKey(NEXT.1))?;
        }
        let authority = der(AUTHORITY.0, &self.authority.certificate)?;
        let serving = der(SERVING.0, &self.serving.certificate)?;
        let issuer = parse(AUTHORITY.0, &authority)?;
        let leaf = parse(SERVING.0, &serving)?;
        let optional = |name, pem: Option<&String>| {
            pem.map(|pem| der(name, pem).and_then(|der| Ok(facts(&parse(name, &der)?, &der)))).transpose()
        };
        Ok(Kept {
            authority: facts(&issuer, &authority),
            next: optional(NEXT.0, self.next.as_ref().map(|next| &next.certificate))?,
            old: optional(OLD, self.old.as_ref())?,
            serving: facts(&leaf, &serving),
            // The name of an authority has its key in it.
            signed: leaf.issuer().as_raw() == issuer.subject().as_raw(),
            named: has_names(&leaf, names),
        })
    }

    /// The certificates of the authorities, one after the other.
    pub(super) fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|next| next.certificate.as_str());
        [Some(self.authority.certificate.as_str()), next, self.old.as_deref()].into_iter().flatten().collect()
    }
}

fn text(data: &BTreeMap<String, Vec<u8>>, key: &'static str) -> Result<String, IssueError> {
    let bytes = data.get(key).ok_or(IssueError::Missing(key))?;
    String::from_utf8(bytes.clone()).map_err(|_| IssueError::NotCertificate(key))
}

fn der(key: &'static str, pem: &str) -> Result<Vec<u8>, IssueError> {
    let mut found = pem::certificates(pem.as_bytes()).map_err(|_| IssueError::NotCertificate(key))?;
    if found.len() == 1 { Ok(found.remove(0)) } else { Err(IssueError::NotCertificate(key)) }
}

fn parse<'a>(key: &'static str, der: &'a [u8]) -> Result<X509Certificate<'a>, IssueError> {
    X509Certificate::from_der(der).map(|(_, parsed)| parsed).map_err(|_| IssueError::NotCertificate(key))
}

fn facts(parsed: &X509Certificate<'_>, der: &[u8]) -> Facts {
    let validity = parsed.validity();
    let time = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    Facts {
        der: der.into(),
        not_before: time(validity.not_before.timestamp()),
        not_after: time(validity.not_after.timestamp()),
    }
}

fn has_names(leaf: &X509Certificate<'_>, names: &[String]) -> bool {
    let Ok(Some(extension)) = leaf.subject_alternative_name() else { return names.is_empty() };
    let has = |wanted: &String| {
        extension.value.general_names.iter().any(|name| match (name, wanted.parse::<IpAddr>()) {
            (GeneralName::DNSName(name), Err(_)) => name == wanted,
            (GeneralName::IPAddress(bytes), Ok(IpAddr::V4(address))) => *bytes == address.octets(),
            (GeneralName::IPAddress(bytes), Ok(IpAddr::V6(address))) => *bytes == address.octets(),
            _ => false,
        })
    };
    names.iter().all(has)
}

/// End of validity of the first certificate in the text; `None` when there is none.
pub(super) fn not_after(pem: &[u8]) -> Option<Timestamp> {
    let der = pem::certificates(pem).ok()?.into_iter().next()?;
    parse(SERVING.0, &der).ok().map(|parsed| facts(&parsed, &der).not_after)
}

fn make_authority(now: Timestamp, lives: &Lives) -> Result<Pair, IssueError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    set_validity(&mut params, now - lives.backdated, now + lives.authority);
    let digits: String = key.der_bytes().iter().rev().take(8).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("headwater webhook authority {digits}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(Pair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

fn make_serving(now: Timestamp, names: &[String], authority: &Pair, lives: &Lives) -> Result<Pair, IssueError> {
    let ends = not_after(authority.certificate.as_bytes()).ok_or(IssueError::NotCertificate(AUTHORITY.0))?;
    let signing = KeyPair::from_pem(&authority.key).map_err(|_| IssueError::NotKey(AUTHORITY.1))?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, signing)?;
    let mut params = CertificateParams::new(names.to_vec())?;
    set_validity(&mut params, now - lives.backdated, (now + lives.serving).min(ends));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "headwater webhook");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    Ok(Pair { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

/// To the second, which is what certificates know.
fn set_validity(params: &mut CertificateParams, from: Timestamp, until: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = |at: Timestamp| Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0));
    params.not_before = epoch + since_epoch(from);
    params.not_after = epoch + since_epoch(until);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives() -> Lives {
        Lives::default()
    }

    fn names() -> Vec<String> {
        vec!["headwater.edge.svc".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]
    }

    #[test]
    fn what_is_written_into_a_secret_is_read_from_it() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let begun = Material::begin(now, &names(), &lives()).unwrap();
        let staged = begun.after(Action::StageAuthority, now, &names(), &lives()).unwrap();
        let promoted = staged.after(Action::Promote, now, &names(), &lives()).unwrap();
        for material in [&begun, &staged, &promoted] {
            let read = Material::read(&material.write()).unwrap();
            assert!(read == *material);
            let kept = read.kept(&names()).unwrap();
            assert!(kept.signed && kept.named);
            assert_eq!(pem::certificates(read.bundle().as_bytes()).unwrap().len(), kept.bundle().len());
            assert_eq!(kept.serving.not_after, now + lives().serving);
            assert_eq!(kept.serving.not_before, now - lives().backdated);
            assert!(!read.kept(&["other.edge.svc".to_owned()]).unwrap().named);
        }
        let kept = [&begun, &staged, &promoted].map(|material| material.kept(&names()).unwrap());
        assert_eq!(Some(&kept[2].authority), kept[1].next.as_ref());
        assert_eq!(Some(&kept[0].authority), kept[2].old.as_ref());
        let later = now + lives().old_kept;
        let dropped = promoted.after(Action::DropOld, later, &names(), &lives()).unwrap();
        assert!(dropped.write().keys().all(|key| key != OLD));
        // Signed by an authority that is none of ours any more.
        let foreign = Material { serving: begun.serving.clone(), ..dropped };
        assert!(!foreign.kept(&names()).unwrap().signed);
    }

    #[test]
    fn a_serving_certificate_never_outlives_its_authority() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let begun = Material::begin(now, &names(), &lives()).unwrap();
        let ends = begun.kept(&names()).unwrap().authority.not_after;
        let late = ends - lives().serving / 2;
        let renewed = begun.after(Action::RenewServing, late, &names(), &lives()).unwrap().kept(&names()).unwrap();
        assert_eq!(renewed.serving.not_after, ends);
    }

    #[test]
    fn a_secret_that_is_not_ours_names_what_is_missing_and_quotes_nothing() {
        let begun = Material::begin(Timestamp::now(), &names(), &lives()).unwrap();
        for (key, with, said) in [
            ("ca.key", None, "key ca.key is missing"),
            ("tls.crt", None, "key tls.crt is missing"),
            ("tls.crt", Some("hush"), "key tls.crt is not a certificate in PEM"),
            ("tls.key", Some("hush"), "key tls.key is not a private key in PEM"),
            ("next-ca.crt", Some("hush"), "key next-ca.key is missing"),
            ("old-ca.crt", Some("hush"), "key old-ca.crt is not a certificate in PEM"),
        ] {
            let mut data = begun.write();
            match with {
                None => drop(data.remove(key)),
                Some(text) => drop(data.insert(key.to_owned(), text.into())),
            }
            let result = Material::read(&data).and_then(|material| material.kept(&names()));
            assert_eq!(result.unwrap_err().to_string(), said);
        }
    }
}
