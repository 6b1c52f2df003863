//! Values inside of queries and `Cookie` headers.

use std::borrow::Cow;

use crate::path::hex;

/// How many parameters of a query are looked at where one must be the only one (OpenResty's `get_uri_args`).
const MAX_PARAMETERS: usize = 100;

/// First parameter of the name, decoded; a parameter without `=` has the empty value.
///
/// `application/x-www-form-urlencoded`, section 5.1 of the URL standard: split at `&`, `+` is a space.
pub(crate) fn parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, [u8]>> {
    values(query, name, usize::MAX).next().map(|value| decode(value.unwrap_or_default()))
}

/// The parameter of the name, decoded, where there is one among the first [`MAX_PARAMETERS`], and it has a `=`.
pub(crate) fn only_parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, [u8]>> {
    let mut values = values(query, name, MAX_PARAMETERS);
    match (values.next(), values.next()) {
        (Some(value), None) => value.map(decode),
        _ => None,
    }
}

/// Whether a parameter of the name is among the first [`MAX_PARAMETERS`].
pub(crate) fn has_parameter(query: &str, name: &str) -> bool {
    values(query, name, MAX_PARAMETERS).next().is_some()
}

/// Values, not decoded, of the parameters of a name; `None` for one without `=`.
fn values<'q>(query: &'q str, name: &str, most: usize) -> impl Iterator<Item = Option<&'q [u8]>> {
    let pairs = query.as_bytes().split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).take(most);
    pairs.filter_map(move |pair| {
        let (key, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (&pair[..at], Some(&pair[at + 1..])),
            None => (pair, None),
        };
        (*decode(key) == *name.as_bytes()).then_some(value)
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

/// First cookie of the name in one `Cookie` line (RFC 6265 section 4.2.1); the case of names does not count, as in
/// nginx's `$cookie_`.
pub fn cookie<'l>(line: &'l [u8], name: &str) -> Option<&'l [u8]> {
    line.split(|byte| *byte == b';').find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        pair[..at].trim_ascii().eq_ignore_ascii_case(name.as_bytes()).then(|| pair[at + 1..].trim_ascii())
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
    fn a_parameter_that_is_repeated_or_has_no_value_exists_and_is_nothing() {
        let many = format!("{}b=2", "a=1&".repeat(100));
        for (query, exists, only) in [
            ("a=1&b=2", true, Some("2")),
            ("b=2&b=2", true, None),
            ("b&b=2", true, None),
            ("b", true, None),
            ("b=", true, Some("")),
            ("%62=%41+&&", true, Some("A ")),
            ("a=1", false, None),
            ("", false, None),
            (&many[4..], true, Some("2")),
            (&many, false, None),
        ] {
            assert_eq!(has_parameter(query, "b"), exists, "{query}");
            assert_eq!(only_parameter(query, "b").as_deref(), only.map(str::as_bytes), "{query}");
        }
    }

    #[test]
    fn cookies_are_found_by_name() {
        for (line, expected) in [
            ("a=1; b=2; b=3", Some("2")),
            ("b=", Some("")),
            ("b", None),
            ("B=1", Some("1")),
            ("ab=1;b=x=y", Some("x=y")),
        ] {
            assert_eq!(cookie(line.as_bytes(), "b"), expected.map(str::as_bytes), "{line}");
        }
    }
}
