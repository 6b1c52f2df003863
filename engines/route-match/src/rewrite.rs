//! Rewriting a path by a regular expression.

use headwater_model::gateway::{PathRewrite, Rule};
use regex::bytes::Regex;

use crate::fault::FaultReason;
use crate::path::{Recommendation, decode_normal, normalise_path};
use crate::value::compile_regex;

/// Longest replacement, in bytes.
pub const MAX_REPLACEMENT: usize = 2048;

/// Most groups that a replacement may name: each can be as long as the path.
pub const MAX_GROUPS: usize = 16;

/// A compiled [`PathRewrite::Regex`].
#[derive(Debug)]
pub struct CompiledRewrite {
    regex: Regex,
    parts: Box<[Part]>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(Box<[u8]>),
    Group(usize),
}

impl CompiledRewrite {
    /// Compiles the rewrite of a rule; `None` when it has none by a regular expression.
    pub(crate) fn of(rule: &Rule) -> Option<Result<Self, FaultReason>> {
        match &rule.filters.rewrite.as_ref()?.path {
            Some(PathRewrite::Regex { pattern, replacement }) => Some(Self::compile(pattern, replacement)),
            _ => None,
        }
    }

    /// Compiles pattern and replacement.
    ///
    /// # Errors
    /// [`FaultReason::Regex`] for a pattern that is not linear-time syntax, or too large; [`FaultReason::Replacement`] for
    /// a replacement that is too long, or has a byte that no request target may have.
    pub fn compile(pattern: &str, replacement: &str) -> Result<Self, FaultReason> {
        let regex = compile_regex(pattern, false).or_else(|_| compile_regex(pattern, true))?;
        let parts = parse(replacement).ok_or_else(|| FaultReason::Replacement { text: replacement.into() })?;
        Ok(Self { regex, parts })
    }

    /// The path, in normal form, with its first match replaced; the expression sees it decoded, as it does where it is a
    /// rule's path. What the replacement brings behind a `?` comes along.
    /// `None`: the result leads out of where it was meant to, by dot segments that the pieces make together.
    ///
    /// A group that the pattern does not have, or that took no part in the match, is empty. Always begins with `/`.
    /// Linear in the path.
    pub fn apply(&self, path: &str) -> Option<String> {
        let decoded = decode_normal(path);
        let bytes = &*decoded;
        let Some(captures) = self.regex.captures(bytes) else { return Some(path.to_owned()) };
        let whole = captures.get(0)?;
        let mut out = Vec::with_capacity(bytes.len() + 64);
        encode(&bytes[..whole.start()], &mut out);
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Group(group) => {
                    encode(captures.get(*group).map_or(&[][..], |group| group.as_bytes()), &mut out);
                }
            }
        }
        // Of a replacement with a query, what is left of the path goes in front of it.
        let rest = &bytes[whole.end()..];
        let at = out.iter().position(|byte| *byte == b'?').unwrap_or(out.len());
        let query = out.split_off(at);
        encode(rest, &mut out);
        out.extend_from_slice(&query);
        if out.first() != Some(&b'/') {
            out.insert(0, b'/');
        }
        let end = out.iter().position(|byte| *byte == b'?').unwrap_or(out.len());
        let normal = normalise_path(&out[..end]).ok()?;
        if normal.recommendation() == Recommendation::Normalised {
            return None;
        }
        drop(normal);
        String::from_utf8(out).ok()
    }
}

/// Percent-encodes what was decoded.
fn encode(text: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=:@%".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

/// Text and `$n`; a `$` before anything else stands for itself.
fn parse(replacement: &str) -> Option<Box<[Part]>> {
    let visible = |byte: u8| (0x21..0x7f).contains(&byte) && byte != b'#';
    if replacement.len() > MAX_REPLACEMENT || !replacement.bytes().all(visible) {
        return None;
    }
    let (mut parts, mut text, mut groups) = (Vec::new(), Vec::new(), 0);
    let mut bytes = replacement.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'$', Some(digit @ b'0'..=b'9')) => {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text).into()));
                }
                parts.push(Part::Group(usize::from(digit - b'0')));
                groups += 1;
                bytes.next();
            }
            _ => text.push(byte),
        }
    }
    if !text.is_empty() {
        parts.push(Part::Text(text.into()));
    }
    (groups <= MAX_GROUPS).then(|| parts.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_match_is_replaced_and_the_rest_stays() {
        for (pattern, replacement, path, expected) in [
            ("/es_proxy(/|$)(.*)", "/$2", "/es_proxy/v1", Some("/v1")),
            ("/es_proxy(/|$)(.*)", "/$2", "/es_proxy", Some("/")),
            ("/(prefix-x)(/|$)(.*)", "/$3", "/prefix-x/abc", Some("/abc")),
            ("/(prefix-x)(/|$)(.*)", "/$2", "/prefix-x/abc", Some("//")),
            ("/a", "/b", "/a/a", Some("/b/a")),
            ("/", "/x", "/a/b", Some("/xa/b")),
            ("/nowhere", "/b", "/a/a", Some("/a/a")),
            ("/a(x)?", "/b$1$9", "/a/c", Some("/b/c")),
            ("/api/(.*)", "$1", "/api/v1", Some("/v1")),
            ("/a", "/$", "/a", Some("/$")),
            ("/a", "/b?x=1", "/a", Some("/b?x=1")),
            ("(?i)^/A", "/b", "/a", Some("/b")),
            ("/a", "/b?x=1", "/a/c", Some("/b/c?x=1")),
            ("/\u{fc} (.*)", "/$1", "/%C3%BC%20x%3Fy%C3%BC%2Fz%25", Some("/x%3Fy%C3%BC%2Fz%25")),
            ("(?is)^.*?(?:/a(/|$)(.*)).*$", "/$2", "/a/b/c", Some("/b/c")),
            ("(?is)^.*?(?:/foo).*$", "/", "/foo/bar", Some("/")),
            ("/x(.*)", "/$1", "/x../admin", None),
            ("/x(.*)", "$1", "/x./admin", None),
            ("/x(.*)", "/.$1", "/x./admin", None),
        ] {
            let compiled = CompiledRewrite::compile(pattern, replacement).unwrap();
            assert_eq!(compiled.apply(path).as_deref(), expected, "{pattern} {replacement} {path}");
        }
    }

    #[test]
    fn what_cannot_be_obeyed_in_linear_time_or_on_one_line_is_refused() {
        let refused = |pattern: &str, replacement: &str| CompiledRewrite::compile(pattern, replacement).unwrap_err();
        for pattern in ["/(?=a)", "/(a)\\1", "/(", "/(a{1000}){1000}"] {
            assert!(matches!(refused(pattern, "/"), FaultReason::Regex { .. }), "{pattern}");
        }
        for replacement in ["/a b", "/a\r\nx: y", "/\u{fc}", "/a#b", &"/".repeat(2049), &"$1".repeat(17)] {
            assert!(matches!(refused("/", replacement), FaultReason::Replacement { .. }), "{replacement}");
        }
    }
}
