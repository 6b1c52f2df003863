//! Paths in the form that rules are compared with.

use std::borrow::Cow;

use thiserror::Error;

/// A request path, ready to be matched.
///
/// Shape: begins with `/`, is ASCII, has no empty segment but the last, no `.` or `..` segment, and is percent-encoded
/// only where a byte is not `pchar` (RFC 3986 section 3.3), with upper-case digits. `%2F` stays as it is: it is part of a
/// segment and never separates two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NormalPath<'r> {
    /// The path was received in this form.
    Unchanged(&'r str),
    /// The path was received in another form; see [`NormalPath::recommendation`] for what to forward.
    Changed {
        path: String,
        /// The gravest of all changes.
        change: PathChange,
    },
}

/// How the path as received differs from its normal form, gravest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathChange {
    /// Percent-encoding alone: `%7E` for `~`, `%c3` for `%C3`.
    Spelling,
    /// `//` was read as `/`, as nginx does.
    Slashes,
    /// `.` and `..` segments were resolved.
    DotSegments,
}

/// What to send upstream, when no rewrite says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recommendation {
    /// Every backend reads the received path as one that the matched rule is responsible for.
    AsReceived,
    /// A backend may read the received path as another resource than the one that was matched: forward the normal form,
    /// or refuse with 400.
    Normalised,
}

impl NormalPath<'_> {
    /// The normal form; give it to [`RequestView::path`](crate::RequestView::path).
    pub fn as_str(&self) -> &str {
        match self {
            Self::Unchanged(path) => path,
            Self::Changed { path, .. } => path,
        }
    }

    /// Whether the received path may be forwarded.
    ///
    /// - Spelling: a backend that decodes, and one that does not, find the same segments. As received.
    /// - Slashes: rules were chosen for the merged path. A backend that merges sees just that, one that does not sees a
    ///   path below the same prefixes that matched. As received, like ingress-nginx.
    /// - Dot segments: a backend that does not resolve them, or resolves them before merging slashes, ends up elsewhere
    ///   (`/a//../b` is `/b` here and in nginx, `/a/b` by the letter of RFC 3986). Normalised.
    pub fn recommendation(&self) -> Recommendation {
        match self {
            Self::Changed { change: PathChange::DotSegments, .. } => Recommendation::Normalised,
            _ => Recommendation::AsReceived,
        }
    }
}

/// Why a path is refused; answer 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PathError {
    /// Neither `/...` nor `*`.
    #[error("path does not begin with \"/\"")]
    NotAbsolute,
    #[error("path has a \"%\" without two hexadecimal digits")]
    Percent,
    /// `%00`.
    #[error("path has an encoded zero byte")]
    Zero,
    /// A raw control character, space, `#` or `?`.
    #[error("path has the byte {0:#04x}, which must be percent-encoded")]
    Byte(u8),
    #[error("path leads above the root")]
    AboveRoot,
    /// A dot segment that only some backends would see: next to an encoded `/`, to a backslash, or before a `;`.
    #[error("path hides a dot segment behind %2F, a backslash or \";\"")]
    HiddenDotSegment,
}

/// Brings a received path (without query) into the form that rules are compared with.
///
/// In this order: percent-encoded `pchar` are decoded, other bytes are encoded; `//` becomes `/`; dot segments are
/// resolved (RFC 3986 section 5.2.4). `*` (of `OPTIONS *`) is left alone. Linear in the length; allocates nothing when
/// the path is in normal form.
///
/// No spelling of a path escapes a rule that its plain spelling meets: `/a/%2e%2e/admin` and `/a/../admin` are `/admin`,
/// `/a//admin` is `/a/admin`. What cannot be told, because backends differ, is refused: `/a/..%2fadmin`, `/a/..\admin`,
/// `/a/..;/admin`. One thing remains: a backend that decodes `%2F` to a separator reads `/a%2Fadmin` as `/a/admin`,
/// where rules see the one segment `a%2Fadmin`. APIs rely on it, so it passes; rules that guard such a backend must be
/// written as prefixes of the level above.
///
/// # Errors
/// [`PathError`] for what no backend should see.
pub fn normalise_path(raw: &[u8]) -> Result<NormalPath<'_>, PathError> {
    if is_normal(raw)
        && let Ok(path) = std::str::from_utf8(raw)
    {
        return Ok(NormalPath::Unchanged(path));
    }
    if raw == b"*" {
        return Ok(NormalPath::Unchanged("*"));
    }
    if raw.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    let spelled = respell(raw)?;
    let mut change = (spelled != raw).then_some(PathChange::Spelling);
    let path = resolve(&spelled, &mut change)?;
    let path = String::from_utf8(path).expect("every byte was checked or encoded to ASCII");
    Ok(match (change, std::str::from_utf8(raw)) {
        (None, Ok(raw)) => NormalPath::Unchanged(raw),
        (change, _) => NormalPath::Changed { path, change: change.unwrap_or(PathChange::Spelling) },
    })
}

/// The same for the path of a rule: a stray `%` stands for itself, nothing is refused, dot segments stay (and never
/// match).
pub(crate) fn normalise_pattern(text: &str) -> Cow<'_, str> {
    if is_normal(text.as_bytes()) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len() + 8);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match (byte, decode(bytes, at)) {
            (b'%', Some(decoded)) => {
                at += 2;
                push(&mut out, decoded, is_pchar(decoded));
            }
            (b'/', _) if out.last() == Some(&b'/') => {}
            _ => push(&mut out, byte, byte == b'/' || is_pchar(byte)),
        }
    }
    Cow::Owned(String::from_utf8(out).expect("every byte was checked or encoded to ASCII"))
}

/// A normal path with its percent-encoding decoded, as nginx's `$uri` has it; but `%2F` and `%25` stay, so that no two
/// normal paths become one.
pub(crate) fn decode_normal(path: &str) -> Cow<'_, [u8]> {
    if !path.contains('%') {
        return Cow::Borrowed(path.as_bytes());
    }
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match (byte, decode(bytes, at)) {
            (b'%', Some(decoded)) if !matches!(decoded, b'/' | b'%') => {
                out.push(decoded);
                at += 2;
            }
            _ => out.push(byte),
        }
    }
    Cow::Owned(out)
}

/// The text of which [`decode_normal`] makes these bytes; `None` when no normal path has them.
pub(crate) fn encode_decoded(bytes: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        push(&mut out, byte, byte == b'/' || is_pchar(byte));
    }
    let text = String::from_utf8(out).ok()?;
    (!bytes.contains(&b'%') && normalise_pattern(&text) == text).then_some(text)
}

/// A text of a rule, in either spelling, as [`decode_normal`] spells it.
pub(crate) fn decode_pattern(text: &str) -> Vec<u8> {
    decode_normal(&normalise_pattern(text)).into_owned()
}

/// True only for what normalisation leaves alone; false also for some such paths with a segment that begins with `.`.
fn is_normal(raw: &[u8]) -> bool {
    if raw.first() != Some(&b'/') {
        return false;
    }
    let mut after_slash = false;
    let mut semicolon = false;
    for &byte in raw {
        let class = CLASS[usize::from(byte)];
        if class == REFUSED || (after_slash && class == SPECIAL_AFTER_SLASH) {
            return false;
        }
        semicolon |= byte == b';';
        after_slash = byte == b'/';
    }
    !semicolon
}

const PLAIN: u8 = 0;
const SPECIAL_AFTER_SLASH: u8 = 1;
const REFUSED: u8 = 2;

/// What the quick look of [`is_normal`] makes of a byte.
static CLASS: [u8; 256] = {
    let mut table = [REFUSED; 256];
    let mut byte = 0;
    while byte < 256 {
        if is_pchar(byte as u8) {
            table[byte] = PLAIN;
        }
        byte += 1;
    }
    table[b'/' as usize] = SPECIAL_AFTER_SLASH;
    table[b'.' as usize] = SPECIAL_AFTER_SLASH;
    table
};

/// `pchar` of RFC 3986 section 3.3 but for `%`.
const fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'@'
        )
}

fn respell(raw: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(raw.len() + 16);
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        at += 1;
        match byte {
            b'%' => {
                let decoded = decode(raw, at).ok_or(PathError::Percent)?;
                if decoded == 0 {
                    return Err(PathError::Zero);
                }
                at += 2;
                push(&mut out, decoded, is_pchar(decoded));
            }
            0..=b' ' | 0x7f | b'#' | b'?' => return Err(PathError::Byte(byte)),
            _ => push(&mut out, byte, byte == b'/' || is_pchar(byte)),
        }
    }
    Ok(out)
}

/// Merges slashes and resolves dot segments of a path that [`respell`] made.
fn resolve(spelled: &[u8], change: &mut Option<PathChange>) -> Result<Vec<u8>, PathError> {
    let mut out: Vec<u8> = Vec::with_capacity(spelled.len());
    let mut segments = spelled.get(1..).unwrap_or_default().split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"" if !last => *change = (*change).max(Some(PathChange::Slashes)),
            b"" => out.push(b'/'),
            b"." | b".." => {
                *change = Some(PathChange::DotSegments);
                if segment == b".." {
                    let parent = out.iter().rposition(|byte| *byte == b'/').ok_or(PathError::AboveRoot)?;
                    out.truncate(parent);
                }
                if last {
                    out.push(b'/');
                }
            }
            _ if hides_dot_segment(segment) => return Err(PathError::HiddenDotSegment),
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
    }
    Ok(out)
}

/// Whether some backend would find `.` or `..` in the segment: one that decodes `%2F`, takes `\` for `/`, or cuts path
/// parameters at `;`.
fn hides_dot_segment(segment: &[u8]) -> bool {
    if !segment.contains(&b'.') {
        return false;
    }
    let is_dots = |piece: &[u8]| {
        let name = piece.split(|byte| *byte == b';').next().unwrap_or_default();
        name == b"." || name == b".."
    };
    let mut rest = segment;
    while let Some(at) = rest.windows(3).position(|bytes| bytes == b"%2F" || bytes == b"%5C") {
        if is_dots(&rest[..at]) {
            return true;
        }
        rest = &rest[at + 3..];
    }
    is_dots(rest)
}

fn decode(bytes: &[u8], at: usize) -> Option<u8> {
    let digits = (hex(*bytes.get(at)?)?, hex(*bytes.get(at + 1)?)?);
    Some(digits.0 << 4 | digits.1)
}

pub(crate) fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn push(out: &mut Vec<u8>, byte: u8, plain: bool) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if plain {
        out.push(byte);
    } else {
        out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_take_their_normal_form() {
        use PathChange::{DotSegments, Slashes, Spelling};
        for (raw, path, change) in [
            ("/", "/", None),
            ("*", "*", None),
            ("/a/b;v=1/c@d:e", "/a/b;v=1/c@d:e", None),
            ("/.well-known/x", "/.well-known/x", None),
            ("/a/...", "/a/...", None),
            ("/a%2Fb", "/a%2Fb", None),
            ("/%C3%BC", "/%C3%BC", None),
            ("/%c3%bc", "/%C3%BC", Some(Spelling)),
            ("/\u{fc}", "/%C3%BC", Some(Spelling)),
            ("/%7euser%2f%41", "/~user%2FA", Some(Spelling)),
            ("/a%3Ab%40", "/a:b@", Some(Spelling)),
            ("/%252e%252e/x", "/%252e%252e/x", None),
            ("/a\"<>", "/a%22%3C%3E", Some(Spelling)),
            ("/a//admin", "/a/admin", Some(Slashes)),
            ("//", "/", Some(Slashes)),
            ("//a//", "/a/", Some(Slashes)),
            ("/a/./b", "/a/b", Some(DotSegments)),
            ("/a/.", "/a/", Some(DotSegments)),
            ("/a/..", "/", Some(DotSegments)),
            ("/a/b/../", "/a/", Some(DotSegments)),
            ("/a//../b", "/b", Some(DotSegments)),
            ("/a/%2e%2E/admin", "/admin", Some(DotSegments)),
            ("/a/%2e./admin", "/admin", Some(DotSegments)),
            ("/a/../b//c", "/b/c", Some(DotSegments)),
        ] {
            let normal = normalise_path(raw.as_bytes()).unwrap();
            assert_eq!(normal.as_str(), path, "{raw}");
            match (&normal, change) {
                (NormalPath::Unchanged(_), None) => {}
                (NormalPath::Changed { change, .. }, Some(expected)) => assert_eq!(*change, expected, "{raw}"),
                _ => panic!("{raw}: {normal:?}"),
            }
            let expected =
                if change == Some(DotSegments) { Recommendation::Normalised } else { Recommendation::AsReceived };
            assert_eq!(normal.recommendation(), expected, "{raw}");
        }
    }

    #[test]
    fn paths_that_backends_read_differently_are_refused() {
        use PathError::{AboveRoot, Byte, HiddenDotSegment, NotAbsolute, Percent, Zero};
        for (raw, error) in [
            ("", NotAbsolute),
            ("a", NotAbsolute),
            ("**", NotAbsolute),
            ("/%", Percent),
            ("/%4", Percent),
            ("/%zz", Percent),
            ("/a%00", Zero),
            ("/a b", Byte(b' ')),
            ("/a\n", Byte(b'\n')),
            ("/a#b", Byte(b'#')),
            ("/..", AboveRoot),
            ("/a/../../b", AboveRoot),
            ("/a/..%2fadmin", HiddenDotSegment),
            ("/a/%2e%2e%2fadmin", HiddenDotSegment),
            ("/a/x%2f..", HiddenDotSegment),
            ("/a/x%2F.%2Fy", HiddenDotSegment),
            ("/a/..\\admin", HiddenDotSegment),
            ("/a/..%5cadmin", HiddenDotSegment),
            ("/a/..;/admin", HiddenDotSegment),
            ("/a/..;x=1/admin", HiddenDotSegment),
            ("/a/..%3b/admin", HiddenDotSegment),
            ("/a/.;/admin", HiddenDotSegment),
        ] {
            assert_eq!(normalise_path(raw.as_bytes()), Err(error), "{raw:?}");
        }
    }

    #[test]
    fn patterns_are_spelt_like_paths() {
        for (pattern, normal) in [
            ("/a", "/a"),
            ("/caf\u{e9} x", "/caf%C3%A9%20x"),
            ("/%7e%c3", "/~%C3"),
            ("/50%", "/50%25"),
            ("/a//b", "/a/b"),
        ] {
            assert_eq!(normalise_pattern(pattern), normal);
        }
    }

    #[test]
    fn decoding_keeps_what_would_read_as_another_path() {
        for (path, decoded) in [("/a/b", "/a/b"), ("/a%20b%C3%BC", "/a b\u{fc}"), ("/a%2Fb%252F", "/a%2Fb%252F")] {
            assert_eq!(*decode_normal(path), *decoded.as_bytes(), "{path}");
            assert_eq!(decode_pattern(path), decoded.as_bytes(), "{path}");
        }
        assert_eq!(decode_pattern("/a b\u{fc}%7e"), "/a b\u{fc}~".as_bytes());
        assert_eq!(decode_pattern("/100%"), b"/100%25");
        assert_eq!(*decode_normal("/%FF"), *b"/\xff");
    }

    proptest! {
        #[test]
        fn a_normal_path_is_its_own_normal_form(raw in "/([a-c./;%]|%2[eEfF]|%5c|\\\\|\u{fc}){0,12}") {
            if let Ok(normal) = normalise_path(raw.as_bytes()) {
                let path = normal.as_str();
                prop_assert!(path.starts_with('/') && path.is_ascii() && !path.contains("//"));
                prop_assert!(!path.split('/').any(|segment| segment == "." || segment == ".."));
                prop_assert!(matches!(normalise_path(path.as_bytes()), Ok(NormalPath::Unchanged(_))), "{}", path);
                prop_assert_eq!(normalise_pattern(path), path);
            }
        }

        #[test]
        fn no_bytes_panic(raw in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = normalise_path(&raw);
        }
    }
}
