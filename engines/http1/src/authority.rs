//! `host[:port]` as it stands in `Host`, in absolute targets and in CONNECT.

use std::net::Ipv6Addr;

use crate::class::{HOST, run_length};

/// A host and its port, borrowed from the text they were parsed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority<'a> {
    /// Name or IPv4 address as written, or an IPv6 address with its brackets.
    pub host: &'a [u8],
    /// `None` when the text has no port.
    pub port: Option<u16>,
}

/// Longest host name, as in DNS.
const MAX_HOST_BYTES: usize = 255;

impl<'a> Authority<'a> {
    /// Parses `host[:port]`; `None` if it is anything else.
    ///
    /// Narrower than RFC 3986 section 3.2 where the wider grammar only serves confusion: no user information, no
    /// percent-encoding, no sub-delimiters (`a.example,b.example`), no zone identifiers, no empty host, no empty port,
    /// ports from 1 to 65535 only.
    pub fn parse(text: &'a [u8]) -> Option<Authority<'a>> {
        let (host, rest) = if text.first() == Some(&b'[') {
            let end = memchr::memchr(b']', text)?;
            let inner = std::str::from_utf8(&text[1..end]).ok()?;
            inner.parse::<Ipv6Addr>().ok()?;
            text.split_at(end + 1)
        } else {
            text.split_at(run_length(text, HOST))
        };
        if host.is_empty() || host.len() > MAX_HOST_BYTES {
            return None;
        }
        let port = match rest {
            [] => None,
            [b':', digits @ ..] => Some(parse_port(digits)?),
            _ => return None,
        };
        Some(Authority { host, port })
    }

    /// Whether both name the same host and port: case is ignored, a missing port is `default_port`.
    pub fn is_same(&self, other: &Authority<'_>, default_port: Option<u16>) -> bool {
        self.host.eq_ignore_ascii_case(other.host) && self.port.or(default_port) == other.port.or(default_port)
    }
}

fn parse_port(digits: &[u8]) -> Option<u16> {
    if !(1..=5).contains(&digits.len()) {
        return None;
    }
    let mut port = 0u32;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        port = port * 10 + u32::from(digit - b'0');
    }
    u16::try_from(port).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_and_host_with_port_parse() {
        let long = "a".repeat(256);
        type Parsed = Option<(&'static str, Option<u16>)>;
        let cases: &[(&str, Parsed)] = &[
            ("example.com", Some(("example.com", None))),
            ("example.com:8080", Some(("example.com", Some(8080)))),
            ("example.com.", Some(("example.com.", None))),
            ("a_b.example", Some(("a_b.example", None))),
            ("192.0.2.1:1", Some(("192.0.2.1", Some(1)))),
            ("[2001:db8::1]", Some(("[2001:db8::1]", None))),
            ("[::1]:65535", Some(("[::1]", Some(65535)))),
            ("[::ffff:192.0.2.1]", Some(("[::ffff:192.0.2.1]", None))),
            ("", None),
            (":80", None),
            ("a:", None),
            ("a:0", None),
            ("a:65536", None),
            ("a:+80", None),
            ("a:080080", None),
            ("a:80:80", None),
            ("a b", None),
            ("a/b", None),
            ("a?b", None),
            ("a@b", None),
            ("a,b", None),
            ("a%2eb", None),
            ("a\\b", None),
            ("[::1", None),
            ("::1", None),
            ("[::1]80", None),
            ("[::1%25eth0]", None),
            ("[v1.a]", None),
            ("[192.0.2.1]", None),
            ("[]", None),
            ("\u{e9}.example", None),
            (&long, None),
        ];
        for (text, expected) in cases {
            let parsed = Authority::parse(text.as_bytes());
            let expected = expected.map(|(host, port)| Authority { host: host.as_bytes(), port });
            assert_eq!(parsed, expected, "{text}");
        }
    }
}
