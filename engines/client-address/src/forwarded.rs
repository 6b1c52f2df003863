//! Forwarding headers, read from the right: `X-Forwarded-For` lists and RFC 7239 `Forwarded`.
//!
//! From the right, because what stands there was written last, by the hop next to us. What stands further left, quotes
//! and all, cannot change how it is read.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use crate::text::{parse_u16, trim};

/// Longer text is no address, zone and port included.
const MAX_ENTRY: usize = 128;

/// An address as forwarding headers write it, with its port if there is one.
///
/// `a.b.c.d`, `a.b.c.d:port`, IPv6 with or without brackets, `[v6]:port`; white space around it is dropped, and so are
/// zone ids; `::ffff:a.b.c.d` is `a.b.c.d`. `None` for anything else (`unknown`, `_obfuscated`, host names, garbage).
pub fn parse_address(entry: &[u8]) -> Option<(IpAddr, Option<u16>)> {
    let entry = trim(entry);
    if entry.len() > MAX_ENTRY {
        return None;
    }
    if let Some(rest) = entry.strip_prefix(b"[") {
        let end = memchr::memchr(b']', rest)?;
        let addr = parse_v6(&rest[..end])?;
        return match &rest[end + 1..] {
            [] => Some((addr, None)),
            [b':', port @ ..] => Some((addr, Some(parse_u16(port)?))),
            _ => None,
        };
    }
    match memchr::memchr(b':', entry) {
        None => Some((parse_v4(entry)?, None)),
        Some(colon) if memchr::memchr(b':', &entry[colon + 1..]).is_none() => {
            Some((parse_v4(&entry[..colon])?, Some(parse_u16(&entry[colon + 1..])?)))
        }
        Some(_) => Some((parse_v6(entry)?, None)),
    }
}

fn parse_v4(text: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(text).ok()?.parse().ok().map(IpAddr::V4)
}

fn parse_v6(text: &[u8]) -> Option<IpAddr> {
    let text = match memchr::memchr(b'%', text) {
        None => text,
        Some(at) => {
            let zone = &text[at + 1..];
            if zone.is_empty() || !zone.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(byte)) {
                return None;
            }
            &text[..at]
        }
    };
    let addr: Ipv6Addr = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(IpAddr::V6(addr).to_canonical())
}

/// Entries of a comma-separated list, last first: trimmed, empty ones skipped.
pub fn entries_from_the_right<'a>(lines: impl DoubleEndedIterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    lines.rev().flat_map(|line| line.rsplit(|byte| *byte == b',')).map(trim).filter(|entry| !entry.is_empty())
}

/// Elements of `Forwarded` lines, last first: trimmed, empty ones skipped. Commas in quoted strings do not divide.
pub fn elements_from_the_right<'a>(lines: impl DoubleEndedIterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    lines.rev().flat_map(|line| ElementsFromTheRight(Some(line))).map(trim).filter(|element| !element.is_empty())
}

/// One line. Linear: no byte is looked at more than twice.
struct ElementsFromTheRight<'a>(Option<&'a [u8]>);

impl<'a> Iterator for ElementsFromTheRight<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.0.take()?;
        let mut quoted = false;
        let mut end = line.len();
        while let Some(at) = memchr::memrchr2(b',', b'"', &line[..end]) {
            end = at;
            if line[at] == b',' {
                if !quoted {
                    self.0 = Some(&line[..at]);
                    return Some(&line[at + 1..]);
                }
                continue;
            }
            // A quote behind an odd number of backslashes is text inside a quoted string.
            let backslashes = line[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
            if !(quoted && backslashes % 2 == 1) {
                quoted = !quoted;
            }
            end -= backslashes;
        }
        Some(line)
    }
}

/// One element of `Forwarded` (RFC 7239 section 4); unquoted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element<'a> {
    pub node: Option<Cow<'a, [u8]>>,
    pub proto: Option<Cow<'a, [u8]>>,
    pub host: Option<Cow<'a, [u8]>>,
}

impl<'a> Element<'a> {
    /// `None` when it does not follow the grammar, or names a parameter twice. Colons and brackets, which belong in
    /// quotes, are let pass without.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let mut element = Self::default();
        let mut rest = trim(text);
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix(b";") {
                rest = trim(after);
                continue;
            }
            let equals = memchr::memchr(b'=', rest)?;
            let name = &rest[..equals];
            if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
                return None;
            }
            let (value, after) = parse_value(&rest[equals + 1..])?;
            rest = trim(after);
            if !rest.is_empty() && rest[0] != b';' {
                return None;
            }
            let field = match name.len() {
                3 if name.eq_ignore_ascii_case(b"for") => &mut element.node,
                4 if name.eq_ignore_ascii_case(b"host") => &mut element.host,
                5 if name.eq_ignore_ascii_case(b"proto") => &mut element.proto,
                _ => continue,
            };
            if field.replace(value).is_some() {
                return None;
            }
        }
        Some(element)
    }

    /// The address that `for` names. A port in the obfuscated form (`:_x`, RFC 7239 section 6) is dropped.
    pub fn address(&self) -> Option<(IpAddr, Option<u16>)> {
        let node = self.node.as_deref()?;
        parse_address(node).or_else(|| {
            let colon = memchr::memmem::find(node, b":_")?;
            let hidden = &node[colon + 2..];
            let obfuscated = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
            // Without brackets only IPv4 can have a port.
            let bare_v6 = node[0] != b'[' && memchr::memchr(b':', &node[..colon]).is_some();
            if hidden.is_empty() || !hidden.iter().all(obfuscated) || bare_v6 {
                return None;
            }
            match parse_address(&node[..colon])? {
                (addr, None) => Some((addr, None)),
                (_, Some(_)) => None,
            }
        })
    }
}

/// A token or quoted string, and what follows it.
fn parse_value(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let Some(body) = text.strip_prefix(b"\"") else {
        let loose = |byte: &u8| is_token(*byte) || b":[]".contains(byte);
        let end = text.iter().position(|byte| !loose(byte)).unwrap_or(text.len());
        return (end > 0).then(|| (Cow::Borrowed(&text[..end]), &text[end..]));
    };
    let mut unescaped: Option<Vec<u8>> = None;
    let mut start = 0;
    loop {
        let at = start + memchr::memchr2(b'"', b'\\', &body[start..])?;
        let piece = &body[start..at];
        if piece.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return None;
        }
        if body[at] == b'"' {
            let value = match unescaped {
                None => Cow::Borrowed(piece),
                Some(mut value) => {
                    value.extend_from_slice(piece);
                    Cow::Owned(value)
                }
            };
            return Some((value, &body[at + 1..]));
        }
        let escaped = *body.get(at + 1).filter(|byte| !byte.is_ascii_control())?;
        let value = unescaped.get_or_insert_default();
        value.extend_from_slice(piece);
        value.push(escaped);
        start = at + 2;
    }
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
