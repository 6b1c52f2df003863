//! Paths of Ingress rules.

use std::borrow::Cow;
use std::fmt::Write as _;

use headwater_model::gateway::PathMatch;
use headwater_model::object::PathType;
use thiserror::Error;

/// Longest path of a rule, in bytes, percent-encoded.
pub(crate) const MAX_PATH: usize = 4096;

/// Why a path cannot be matched.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum PathError {
    #[error("an empty path with pathType Exact matches nothing; write \"/\"")]
    Empty,
    #[error("path {0:?} does not start with \"/\"")]
    Relative(String),
    #[error("path {path:?} contains {sequence}, which no request has after normalisation")]
    Sequence { path: String, sequence: &'static str },
    #[error("path {0:?} has a \"%\" without two hexadecimal digits")]
    Percent(String),
    #[error("a path of {0} bytes is longer than {MAX_PATH}")]
    Long(usize),
}

/// Reads path and type: `ImplementationSpecific` and a missing type are `Prefix`, a missing path is `/`.
///
/// A trailing slash of a prefix is dropped, `/foo/` matches what `/foo` does. The result is normalised as request paths
/// are: percent-encoding only where RFC 3986 section 3.3 needs it, with digits in upper case.
///
/// # Errors
/// [`PathError`] for what the API server refuses as well.
pub(crate) fn parse_path(path: Option<&str>, kind: Option<PathType>) -> Result<PathMatch, PathError> {
    let exact = kind == Some(PathType::Exact);
    let text = match path {
        None | Some("") if exact => return Err(PathError::Empty),
        None | Some("") => "/",
        Some(text) => text,
    };
    if text.len() > MAX_PATH {
        return Err(PathError::Long(text.len()));
    }
    if !text.starts_with('/') {
        return Err(PathError::Relative(text.to_owned()));
    }
    let normal = normalise(text)?;
    let refused = |sequence| Err(PathError::Sequence { path: text.to_owned(), sequence });
    if normal.contains("//") {
        return refused("\"//\"");
    }
    if normal.split('/').any(|element| element == "." || element == "..") {
        return refused("a \".\" or \"..\" element");
    }
    if normal.contains("%2F") {
        return refused("an encoded \"/\"");
    }
    if exact {
        return Ok(PathMatch::Exact(normal.into()));
    }
    let trimmed = normal.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(&normal);
    Ok(PathMatch::Prefix(trimmed.into()))
}

fn normalise(text: &str) -> Result<Cow<'_, str>, PathError> {
    if text.bytes().all(is_path_byte) {
        return Ok(Cow::Borrowed(text));
    }
    let mut normal = String::with_capacity(text.len() + 16);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = (bytes.next().and_then(hex), bytes.next().and_then(hex));
            let (Some(high), Some(low)) = digits else {
                return Err(PathError::Percent(text.to_owned()));
            };
            let decoded = high << 4 | low;
            if decoded != b'/' && is_path_byte(decoded) {
                normal.push(char::from(decoded));
            } else {
                encode(&mut normal, decoded);
            }
        } else if byte == b'?' || byte == b'#' {
            return Err(PathError::Sequence { path: text.to_owned(), sequence: "\"?\" or \"#\"" });
        } else if byte.is_ascii_control() {
            return Err(PathError::Sequence { path: text.to_owned(), sequence: "a control character" });
        } else if is_path_byte(byte) {
            normal.push(char::from(byte));
        } else {
            encode(&mut normal, byte);
        }
    }
    if normal.contains("%00") {
        return Err(PathError::Sequence { path: text.to_owned(), sequence: "an encoded zero byte" });
    }
    Ok(Cow::Owned(normal))
}

fn encode(text: &mut String, byte: u8) {
    write!(text, "%{byte:02X}").expect("a String takes all text");
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// `pchar` and `/` of RFC 3986, but for `%`.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=:@".contains(&byte)
}

/// Whether the path was most likely meant as a regular expression (ingress-nginx's `use-regex`).
pub(crate) fn looks_like_regex(path: &str) -> bool {
    path.contains(".*") || path.contains(".+") || path.contains(['^', '|', '[', '\\', '$'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_normal_matches() {
        let exact = |path: &str| PathMatch::Exact(path.into());
        let prefix = |path: &str| PathMatch::Prefix(path.into());
        for (path, kind, expected) in [
            (None, None, prefix("/")),
            (Some(""), Some(PathType::Prefix), prefix("/")),
            (Some("/"), Some(PathType::Exact), exact("/")),
            (Some("/foo/"), Some(PathType::Exact), exact("/foo/")),
            (Some("/foo/"), Some(PathType::Prefix), prefix("/foo")),
            (Some("/foo"), Some(PathType::ImplementationSpecific), prefix("/foo")),
            (Some("/%7euser/%c3%bc"), None, prefix("/~user/%C3%BC")),
            (Some("/%40a%3ab%3d"), None, prefix("/@a:b=")),
            (Some("/ü b"), None, prefix("/%C3%BC%20b")),
        ] {
            assert_eq!(parse_path(path, kind), Ok(expected), "{path:?} {kind:?}");
        }
    }

    #[test]
    fn paths_that_no_request_can_have_are_refused() {
        for path in [
            "foo",
            "/a//b",
            "/a/../b",
            "/a/..",
            "/a/./b",
            "/.",
            "/%2e%2e/b",
            "/a%2Fb",
            "/a%2fb",
            "/a?b",
            "/a#b",
            "/a\n",
            "/a\u{7f}",
            "/%",
            "/%zz",
            "/%4",
            "/%00",
        ] {
            assert!(parse_path(Some(path), Some(PathType::Prefix)).is_err(), "{path}");
        }
        assert_eq!(parse_path(None, Some(PathType::Exact)), Err(PathError::Empty));
        assert_eq!(parse_path(Some(&"/a".repeat(2049)), None), Err(PathError::Long(4098)));
    }
}
