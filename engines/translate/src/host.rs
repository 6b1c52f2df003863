//! Host names of rules and of TLS entries.

use std::borrow::Cow;
use std::net::IpAddr;

use headwater_model::gateway::HostPattern;
use thiserror::Error;

/// Why a text is not a host that rules can be written for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum HostError {
    #[error("{0:?} is an address, and rules are written for names; leave the host out to match every host")]
    Address(String),
    #[error("{0:?}: a wildcard is \"*.\" followed by a name, and stands for exactly one label")]
    Wildcard(String),
    #[error("{0:?} is not a host name (letters, digits and \"-\" in labels of at most 63, 253 in all; no port)")]
    Name(String),
}

/// Reads a host as Ingress has it: nothing, a name, or `*.` and a name.
///
/// # Errors
/// [`HostError`] for addresses, stars elsewhere, and what RFC 1123 section 2.1 does not allow.
pub(crate) fn parse_host(text: &str) -> Result<HostPattern, HostError> {
    if text.is_empty() {
        return Ok(HostPattern::Any);
    }
    let shown = || text.chars().take(256).collect::<String>();
    let lower: Cow<'_, str> = if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    };
    let (name, wildcard) = match lower.strip_prefix("*.") {
        Some(suffix) => (suffix, true),
        None => (&*lower, false),
    };
    if name.contains('*') {
        return Err(HostError::Wildcard(shown()));
    }
    if name.ends_with(|last: char| last.is_ascii_digit() || last == ']') && is_address(name) {
        return Err(HostError::Address(shown()));
    }
    if !is_name(name) {
        return Err(HostError::Name(shown()));
    }
    Ok(if wildcard { HostPattern::OneLabel(name.into()) } else { HostPattern::Exact(name.into()) })
}

fn is_address(name: &str) -> bool {
    name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

/// Whether it is a lower-case DNS name (RFC 1123) without trailing dot.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            let bytes = label.as_bytes();
            bytes.len() <= 63
                && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
                && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
                && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
        })
}

/// Whether a certificate's DNS name, in lower case, covers the host. RFC 6125 section 6.4.3: a star is one whole label.
pub(crate) fn covers(name: &str, host: &HostPattern) -> bool {
    match host {
        HostPattern::Exact(host) => {
            name == &**host
                || name
                    .strip_prefix("*.")
                    .is_some_and(|suffix| host.split_once('.').is_some_and(|(_, parent)| parent == suffix))
        }
        HostPattern::OneLabel(parent) => name.strip_prefix("*.").is_some_and(|suffix| suffix == &**parent),
        HostPattern::Suffix(_) | HostPattern::Any => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_wildcards_of_one_label() {
        for (text, expected) in [
            ("", HostPattern::Any),
            ("Shop.Example.COM", HostPattern::Exact("shop.example.com".into())),
            ("localhost", HostPattern::Exact("localhost".into())),
            ("*.Example.com", HostPattern::OneLabel("example.com".into())),
            ("xn--bcher-kva.example", HostPattern::Exact("xn--bcher-kva.example".into())),
        ] {
            assert_eq!(parse_host(text), Ok(expected), "{text}");
        }
        let long = "a".repeat(64);
        for text in [
            "*",
            "a.*.com",
            "*a.com",
            "**.com",
            "a b",
            "a..b",
            ".a",
            "a.",
            "-a.com",
            "a_b.com",
            "bücher.de",
            "a:80",
            "10.0.0.1",
            "[::1]",
            "::1",
            &long,
            "a\n.com",
        ] {
            assert!(parse_host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_certificate_name_covers_one_label() {
        let exact = |name: &str| HostPattern::Exact(name.into());
        assert!(covers("a.example.com", &exact("a.example.com")));
        assert!(covers("*.example.com", &exact("a.example.com")));
        assert!(!covers("*.example.com", &exact("a.b.example.com")));
        assert!(!covers("*.example.com", &exact("example.com")));
        assert!(covers("*.example.com", &HostPattern::OneLabel("example.com".into())));
        assert!(!covers("example.com", &HostPattern::OneLabel("example.com".into())));
        assert!(!covers("*.example.com", &HostPattern::Any));
    }
}
