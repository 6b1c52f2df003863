//! Filling a template in.

use std::time::Duration;

use headwater_model::gateway::{Fill, Part, Template, Variable};

/// What is known of a request when a template is filled in.
pub trait Facts {
    /// Appends the value of a variable; false when the request has none.
    fn variable(&self, variable: &Variable, out: &mut Vec<u8>) -> bool;
    /// Path and query as received.
    fn target(&self) -> &str;
    /// Since the epoch.
    fn now(&self) -> Duration;
}

/// Longest filled-in text, in bytes.
const MAX_RENDERED: usize = 16 << 10;

/// Why a template was not filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RenderError {
    /// The request has no value for the variable.
    Absent(String),
    TooLong,
    /// A value has a control character.
    Control,
}

impl std::fmt::Display for RenderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent(name) => write!(f, "the request has no ${name}"),
            Self::TooLong => write!(f, "it becomes longer than {MAX_RENDERED} bytes"),
            Self::Control => f.write_str("a value has a control character"),
        }
    }
}

/// Appends the filled-in text: bytes without control characters.
///
/// # Errors
/// [`RenderError`]; then `out` has a part of it.
pub fn render(template: &Template, facts: &impl Facts, out: &mut Vec<u8>) -> Result<(), RenderError> {
    let start = out.len();
    for part in template.parts() {
        match part {
            Part::Text(text) => out.extend_from_slice(text.as_bytes()),
            Part::Variable(Fill::Request(variable)) => {
                if !facts.variable(variable, out) {
                    return Err(RenderError::Absent(variable.to_string()));
                }
            }
            Part::Variable(Fill::EscapedTarget) => escape(facts.target().as_bytes(), out),
            Part::Variable(Fill::Now) => {
                let now = facts.now();
                out.extend_from_slice(format!("{}.{:03}", now.as_secs(), now.subsec_millis()).as_bytes());
            }
        }
        if out.len() - start > MAX_RENDERED {
            return Err(RenderError::TooLong);
        }
    }
    if out[start..].iter().any(u8::is_ascii_control) {
        return Err(RenderError::Control);
    }
    Ok(())
}

/// Percent-encodes everything but unreserved characters (RFC 3986 section 2.3).
pub fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(*byte);
        } else {
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Facts for Fixed {
        fn variable(&self, variable: &Variable, out: &mut Vec<u8>) -> bool {
            let value: &[u8] = match variable {
                Variable::Scheme => b"http",
                Variable::Authority => b"a.test:8080",
                Variable::Header(name) if &**name == "x-bad" => b"a\x01b",
                Variable::Header(name) if &**name == "x-long" => {
                    return {
                        out.resize(out.len() + MAX_RENDERED, b'x');
                        true
                    };
                }
                _ => return false,
            };
            out.extend_from_slice(value);
            true
        }

        fn target(&self) -> &str {
            "/a b/ä?x=1&y=~"
        }

        fn now(&self) -> Duration {
            Duration::from_millis(1_800_000_000_007)
        }
    }

    #[test]
    fn templates_are_filled_in_or_refused() {
        let filled = |text: &str| {
            let mut out = Vec::new();
            render(&Template::parse(text).unwrap(), &Fixed, &mut out).map(|()| String::from_utf8(out).unwrap())
        };
        for (text, expected) in [
            ("", Ok("")),
            ("plain text", Ok("plain text")),
            ("t=${msec}", Ok("t=1800000000.007")),
            ("$pass_access_scheme://${http_host}/x", Ok("http://a.test:8080/x")),
            ("?rd=$escaped_request_uri", Ok("?rd=%2Fa%20b%2F%C3%A4%3Fx%3D1%26y%3D~")),
            ("$cookie_id", Err(RenderError::Absent("cookie_id".to_owned()))),
            ("$http_x_bad", Err(RenderError::Control)),
            ("$http_x_long", Ok(&*"x".repeat(MAX_RENDERED))),
            ("$http_x_long.", Err(RenderError::TooLong)),
        ] {
            assert_eq!(filled(text), expected.map(str::to_owned), "{text}");
        }
    }
}
