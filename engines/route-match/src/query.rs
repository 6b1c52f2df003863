//! Values inside of queries and `Cookie` headers.

use std::borrow::Cow;

use crate::path::hex;

/// First parameter of the name, decoded; a parameter without `=` has the empty value.
///
/// `application/x-www-form-urlencoded`, section 5.1 of the URL standard: split at `&`, `+` is a space.
pub(crate) fn parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, [u8]>> {
    query.as_bytes().split(|byte| *byte == b'&').find_map(|pair| {
        let (key, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &[][..]),
        };
        (!pair.is_empty() && *decode(key) == *name.as_bytes()).then(|| decode(value))
    })
}

/// Percent-decodes; a `%` without two digits stands for itself.
fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        let digit = |at: usize| text.get(at).copied().and_then(hex);
        match (byte, digit(at), digit(at + 1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(byte),
        }
    }
    Cow::Owned(out)
}

/// First cookie of the name in one `Cookie` line (RFC 6265 section 4.2.1); names are case-sensitive.
pub(crate) fn cookie<'l>(line: &'l [u8], name: &str) -> Option<&'l [u8]> {
    line.split(|byte| *byte == b';').find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        (pair[..at].trim_ascii() == name.as_bytes()).then(|| pair[at + 1..].trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parameter_of_a_name_counts() {
        for (query, expected) in [
            ("a=1&b=2&b=3", Some("2")),
            ("b", Some("")),
            ("b=", Some("")),
            ("b=x=y", Some("x=y")),
            ("%62=%41+%2", Some("A %2")),
            ("bb=1&ab=2", None),
            ("", None),
            ("&&b=%C3%BC", Some("\u{fc}")),
        ] {
            assert_eq!(parameter(query, "b").as_deref(), expected.map(str::as_bytes), "{query}");
        }
    }

    #[test]
    fn cookies_are_found_by_name() {
        for (line, expected) in
            [("a=1; b=2; b=3", Some("2")), ("b=", Some("")), ("b", None), ("B=1", None), ("ab=1;b=x=y", Some("x=y"))]
        {
            assert_eq!(cookie(line.as_bytes(), "b"), expected.map(str::as_bytes), "{line}");
        }
    }
}
