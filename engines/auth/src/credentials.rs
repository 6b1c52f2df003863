//! What a client says of itself: `Authorization: Basic` (RFC 7617).

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Longest password that is looked at, in bytes: hashing costs as much as a password is long.
const MAX_PASSWORD: usize = 512;

/// With padding or without: some clients leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A name and a password as a client sent them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("redacted")
    }
}

/// Why credentials are none; for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    Absent,
    /// More than one line: proxies and servers do not agree on which counts.
    Repeated,
    Scheme,
    Base64,
    Form,
}

impl Rejected {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "no Authorization header",
            Self::Repeated => "more than one Authorization header",
            Self::Scheme => "the scheme of Authorization is not Basic",
            Self::Base64 => "Authorization is not base64",
            Self::Form => "Authorization has no user and password that can be looked at",
        }
    }
}

impl Credentials {
    /// Reads the lines of `Authorization`.
    ///
    /// # Errors
    /// [`Rejected`], when there is not exactly one user and one password.
    pub fn parse<'a>(mut lines: impl Iterator<Item = &'a [u8]>) -> Result<Self, Rejected> {
        let line = lines.next().ok_or(Rejected::Absent)?;
        if lines.next().is_some() {
            return Err(Rejected::Repeated);
        }
        let line = line.trim_ascii();
        let scheme_end = line.iter().position(|byte| *byte == b' ').ok_or(Rejected::Scheme)?;
        let (scheme, rest) = line.split_at(scheme_end);
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return Err(Rejected::Scheme);
        }
        let decoded = BASE64.decode(rest.trim_ascii()).map_err(|_| Rejected::Base64)?;
        // A password may have colons, a user may not.
        let colon = decoded.iter().position(|byte| *byte == b':').ok_or(Rejected::Form)?;
        let user = std::str::from_utf8(&decoded[..colon]).map_err(|_| Rejected::Form)?;
        let password = &decoded[colon + 1..];
        if user.is_empty() || password.len() > MAX_PASSWORD || password.contains(&0) {
            return Err(Rejected::Form);
        }
        Ok(Self { user: user.to_owned(), password: password.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    fn parse(lines: &[&str]) -> Result<(String, Vec<u8>), Rejected> {
        Credentials::parse(lines.iter().map(|line| line.as_bytes()))
            .map(|credentials| (credentials.user, credentials.password))
    }

    #[test]
    fn credentials_are_one_user_and_one_password() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let long = basic(&format!("foo:{}", "x".repeat(MAX_PASSWORD + 1)));
        let ok = |user: &str, password: &str| Ok((user.to_owned(), password.as_bytes().to_vec()));
        for (line, expected) in [
            (basic("foo:bar"), ok("foo", "bar")),
            (basic("foo:bar").replace("Basic ", "bAsIc   "), ok("foo", "bar")),
            (basic("foo:b:a:r"), ok("foo", "b:a:r")),
            (basic("foo:"), ok("foo", "")),
            ("Basic Zm9vOmJhcg".to_owned(), ok("foo", "bar")),
            ("Basic Zm9vOmJhcmI".to_owned(), ok("foo", "barb")),
            (basic(":bar"), Err(Rejected::Form)),
            (basic("foobar"), Err(Rejected::Form)),
            (basic("foo:b\0r"), Err(Rejected::Form)),
            (long, Err(Rejected::Form)),
            ("Basic !!!".to_owned(), Err(Rejected::Base64)),
            ("Basic".to_owned(), Err(Rejected::Scheme)),
            ("Bearer Zm9vOmJhcg==".to_owned(), Err(Rejected::Scheme)),
            (String::new(), Err(Rejected::Scheme)),
        ] {
            assert_eq!(parse(&[&line]), expected, "{line}");
        }
        assert_eq!(parse(&[]), Err(Rejected::Absent));
        assert_eq!(parse(&["Basic Zm9vOmJhcg==", "Basic Zm9vOmJhcg=="]), Err(Rejected::Repeated));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_rejected(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Credentials::parse(std::iter::once(&line[..]));
        }
    }
}
