//! Regular expressions that ask for no more than a plain comparison, as most do.

use regex_syntax::hir::{Hir, HirKind, Look};

/// A comparison of bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    Exact(Vec<u8>),
    Starts(Vec<u8>),
    /// The text alone, or the text and then `/`.
    Element(Vec<u8>),
    Ends(Vec<u8>),
    Contains(Vec<u8>),
}

/// What the expression says, in the dialect that it compiles in: for bytes, or for Unicode where it needs that.
pub(crate) fn parse(pattern: &str) -> Option<Hir> {
    let parse = |unicode| regex_syntax::ParserBuilder::new().unicode(unicode).utf8(false).build().parse(pattern).ok();
    parse(false).or_else(|| parse(true))
}

/// The comparison that finds what the expression finds; `None` where it takes more.
pub(crate) fn plain(pattern: &str) -> Option<Plain> {
    let hir = parse(pattern)?;
    let mut parts = Vec::new();
    flatten(&hir, &mut parts);
    let mut parts = parts.as_slice();
    let start = strip(&mut parts, |parts| parts.split_first(), |part| *part.kind() == HirKind::Look(Look::Start));
    let end = strip(&mut parts, |parts| parts.split_last(), |part| *part.kind() == HirKind::Look(Look::End));
    // where the text may go on anyhow, what may be empty does not matter
    if !start {
        strip(&mut parts, |parts| parts.split_first(), may_be_empty);
    }
    if !end {
        strip(&mut parts, |parts| parts.split_last(), may_be_empty);
    }
    let element = start && !end && parts.last().is_some_and(|part| is_slash_or_end(part));
    if element {
        parts = parts.split_last().map_or(parts, |(_, rest)| rest);
    }
    let mut text = Vec::new();
    for part in parts {
        match part.kind() {
            HirKind::Literal(literal) => text.extend_from_slice(&literal.0),
            _ => return None,
        }
    }
    Some(match (start, end) {
        _ if element => Plain::Element(text),
        (true, true) => Plain::Exact(text),
        (true, false) => Plain::Starts(text),
        (false, true) => Plain::Ends(text),
        (false, false) => Plain::Contains(text),
    })
}

fn flatten<'h>(hir: &'h Hir, parts: &mut Vec<&'h Hir>) {
    match hir.kind() {
        HirKind::Empty => {}
        HirKind::Capture(capture) => flatten(&capture.sub, parts),
        HirKind::Concat(inner) => inner.iter().for_each(|part| flatten(part, parts)),
        _ => parts.push(hir),
    }
}

/// Takes away parts from one end while they fit; whether there was one.
fn strip<'p, 'h>(
    parts: &mut &'p [&'h Hir],
    take: impl Fn(&'p [&'h Hir]) -> Option<(&'p &'h Hir, &'p [&'h Hir])>,
    fits: impl Fn(&Hir) -> bool,
) -> bool {
    let mut found = false;
    while let Some((part, rest)) = take(parts)
        && fits(part)
    {
        *parts = rest;
        found = true;
    }
    found
}

fn may_be_empty(part: &Hir) -> bool {
    part.properties().minimum_len() == Some(0) && part.properties().look_set().is_empty()
}

/// `(/|$)`.
fn is_slash_or_end(part: &Hir) -> bool {
    let HirKind::Alternation(branches) = part.kind() else { return false };
    let [a, b] = branches.as_slice() else { return false };
    let slash = |part: &Hir| matches!(part.kind(), HirKind::Literal(literal) if *literal.0 == *b"/");
    let end = |part: &Hir| *part.kind() == HirKind::Look(Look::End);
    (slash(a) && end(b)) || (end(a) && slash(b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::value::compile_either;

    fn holds(plain: &Plain, value: &[u8]) -> bool {
        match plain {
            Plain::Exact(text) => value == text,
            Plain::Starts(text) => value.starts_with(text),
            Plain::Element(text) => {
                value.strip_prefix(text.as_slice()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
            }
            Plain::Ends(text) => value.ends_with(text),
            Plain::Contains(text) => text.is_empty() || value.windows(text.len()).any(|window| window == text),
        }
    }

    #[test]
    fn expressions_that_say_little_are_plain() {
        let text = |text: &str| text.as_bytes().to_vec();
        for (pattern, expected) in [
            ("^/v1/*", Some(Plain::Starts(text("/v1")))),
            ("^/shop/.*$", None),
            ("^/shop$", Some(Plain::Exact(text("/shop")))),
            ("^/(prefix-x)(/|$)(.*)", Some(Plain::Element(text("/prefix-x")))),
            ("^/a($|/)", Some(Plain::Element(text("/a")))),
            ("/a.*", Some(Plain::Contains(text("/a")))),
            (".*\\.php$", Some(Plain::Ends(text(".php")))),
            ("", Some(Plain::Contains(text("")))),
            ("^", Some(Plain::Starts(text("")))),
            ("^$", Some(Plain::Exact(text("")))),
            ("(?i)^/a", None),
            ("^/a[0-9]", None),
            ("^/a|/b", None),
            ("/a\\b", None),
            ("(?m)^/a", None),
            ("a(/|$)", None),
            ("^caf\u{e9}", Some(Plain::Starts(text("caf\u{e9}")))),
            ("(", None),
        ] {
            assert_eq!(plain(pattern), expected, "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn a_plain_comparison_finds_what_the_expression_finds(
            pattern in "(\\^|\\.\\*|b\\*)?(a|b|/|ab|\\(a\\)|\\.){0,3}(\\(/\\|\\$\\)|\\(\\$\\|/\\))?(\\.\\*|a\\?|\\(b\\*\\)|/\\*)?\\$?",
            value in "[ab/\n]{0,6}",
        ) {
            if let Some(plain) = plain(&pattern) {
                let regex = compile_either(&pattern).unwrap();
                prop_assert_eq!(holds(&plain, value.as_bytes()), regex.is_match(value.as_bytes()), "{} {:?}", pattern, value);
            }
        }
    }
}
