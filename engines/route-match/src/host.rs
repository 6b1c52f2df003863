//! Hosts in the form that rules are compared with.

use std::net::Ipv6Addr;

use thiserror::Error;

/// Longest host name, in bytes (RFC 1035 section 2.3.4, without the root's dot).
const MAX_HOST: usize = 253;

/// Why the authority of a request is refused; answer 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HostError {
    #[error("host is empty")]
    Empty,
    #[error("host of {0} bytes is longer than {MAX_HOST}")]
    Long(usize),
    /// Neither letter, digit, `-`, `_` nor `.`.
    #[error("host has the byte {0:#04x}")]
    Byte(u8),
    /// Nothing between two dots, or before the first.
    #[error("host has an empty label")]
    EmptyLabel,
    #[error("host has brackets without an IPv6 address")]
    Address,
    #[error("port of the host is not a number up to 65535")]
    Port,
}

/// Reads `Host` or `:authority`: lower case, without port, without one trailing dot; IPv6 literals keep their brackets.
///
/// `scratch` is overwritten and holds the result; reuse it to save allocations.
///
/// # Errors
/// [`HostError`] for what is not a name or an address, user information included.
pub fn normalise_host<'s>(authority: &[u8], scratch: &'s mut String) -> Result<&'s str, HostError> {
    scratch.clear();
    let (name, port) = if authority.first() == Some(&b'[') {
        let end = authority.iter().position(|byte| *byte == b']').ok_or(HostError::Address)?;
        (&authority[..=end], &authority[end + 1..])
    } else {
        let end = authority.iter().position(|byte| *byte == b':').unwrap_or(authority.len());
        authority.split_at(end)
    };
    check_port(port)?;
    let name = match name {
        [rest @ .., b'.'] => rest,
        name => name,
    };
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if name.len() > MAX_HOST {
        return Err(HostError::Long(name.len()));
    }
    if let [b'[', literal @ .., b']'] = name {
        std::str::from_utf8(literal).ok().and_then(|text| text.parse::<Ipv6Addr>().ok()).ok_or(HostError::Address)?;
        scratch.extend(name.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        return Ok(scratch);
    }
    let mut previous = b'.';
    for &byte in name {
        match byte {
            b'.' if previous == b'.' => return Err(HostError::EmptyLabel),
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => scratch.push(char::from(byte)),
            b'A'..=b'Z' => scratch.push(char::from(byte.to_ascii_lowercase())),
            _ => return Err(HostError::Byte(byte)),
        }
        previous = byte;
    }
    if previous == b'.' { Err(HostError::EmptyLabel) } else { Ok(scratch) }
}

/// Nothing, or `:` and at most 65535; the number may be missing (RFC 3986 section 3.2.3).
fn check_port(port: &[u8]) -> Result<(), HostError> {
    let digits = match port {
        [] => return Ok(()),
        [b':', digits @ ..] => digits,
        _ => return Err(HostError::Port),
    };
    let mut number = 0u32;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(HostError::Port);
        }
        number = number * 10 + u32::from(digit - b'0');
        if number > u32::from(u16::MAX) {
            return Err(HostError::Port);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_become_hosts() {
        for (authority, host) in [
            ("example.com", Ok("example.com")),
            ("Shop.EXAMPLE.com.:8443", Ok("shop.example.com")),
            ("a_b-c.1:", Ok("a_b-c.1")),
            ("192.0.2.1:80", Ok("192.0.2.1")),
            ("[2001:DB8::1]:443", Ok("[2001:db8::1]")),
            ("[::1]", Ok("[::1]")),
            ("", Err(HostError::Empty)),
            (".", Err(HostError::Empty)),
            (":80", Err(HostError::Empty)),
            ("a..b", Err(HostError::EmptyLabel)),
            (".a", Err(HostError::EmptyLabel)),
            ("a..", Err(HostError::EmptyLabel)),
            ("user@a", Err(HostError::Byte(b'@'))),
            ("a%2e", Err(HostError::Byte(b'%'))),
            ("a/b", Err(HostError::Byte(b'/'))),
            ("*.a", Err(HostError::Byte(b'*'))),
            ("b\u{fc}cher", Err(HostError::Byte(0xc3))),
            ("[::1", Err(HostError::Address)),
            ("[example]", Err(HostError::Address)),
            ("[::1]x", Err(HostError::Port)),
            ("::1", Err(HostError::Port)),
            ("a:65536", Err(HostError::Port)),
            ("a:99999999999999999999", Err(HostError::Port)),
            ("a:b", Err(HostError::Port)),
            ("a:1:2", Err(HostError::Port)),
        ] {
            let mut scratch = "before".to_owned();
            assert_eq!(normalise_host(authority.as_bytes(), &mut scratch), host, "{authority}");
        }
        let long = "a".repeat(254);
        assert_eq!(normalise_host(long.as_bytes(), &mut String::new()), Err(HostError::Long(254)));
    }
}
