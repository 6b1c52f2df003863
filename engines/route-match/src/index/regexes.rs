//! Rules whose paths are regular expressions.

use std::collections::BTreeMap;

use regex::bytes::{Regex, RegexSet, RegexSetBuilder};
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::Best;
use crate::fault::FaultReason;
use crate::trie::Trie;
use crate::value::compile_regex;

/// Shortest literal text that is worth a place in the trie: every path begins with `/`.
const MIN_LITERAL: usize = 2;

/// Most expressions that share one literal text and are still tried one by one.
const MAX_SHARED: usize = 16;

/// Most expressions searched for at once.
const SET_SIZE: usize = 64;

/// Largest compiled set, in bytes.
const SET_BYTES: usize = 16 << 20;

/// The expressions of a host.
///
/// Those that are anchored and begin with literal text (`^/shop/...`, `(?i)^/shop/...`), as nearly all do, are found by
/// that text in a trie, then tried alone. The others are searched for in sets of 64, which allocates and is linear in
/// the path for each set.
#[derive(Debug, Default)]
pub(super) struct Regexes {
    /// Literal beginnings, letters in lower case.
    literals: Trie,
    /// By literal: rank and expression, ranks ascending.
    by_literal: Box<[Vec<(u32, Regex)>]>,
    sets: Box<[Set]>,
}

#[derive(Debug)]
struct Set {
    set: RegexSet,
    /// By index in the set, ascending.
    ranks: Vec<u32>,
}

#[derive(Default)]
pub(super) struct Builder {
    by_literal: BTreeMap<Vec<u8>, Vec<(u32, Regex)>>,
    unanchored: Vec<(u32, Regex)>,
}

impl Builder {
    /// Ranks ascend from call to call.
    pub(super) fn add(&mut self, rank: u32, pattern: &str) -> Result<(), FaultReason> {
        // normal paths are ASCII, so Unicode classes are needed for syntax only
        let regex = compile_regex(pattern, false).or_else(|_| compile_regex(pattern, true))?;
        let literal = literal_prefix(pattern);
        if literal.len() < MIN_LITERAL {
            self.unanchored.push((rank, regex));
        } else {
            self.by_literal.entry(literal).or_default().push((rank, regex));
        }
        Ok(())
    }
}

impl Regexes {
    pub(super) fn build(builder: Builder) -> Self {
        let mut together = builder.unanchored;
        let (mut literals, mut by_literal) = (Vec::new(), Vec::new());
        for (literal, regexes) in builder.by_literal {
            if regexes.len() > MAX_SHARED {
                together.extend(regexes);
            } else {
                literals.push(literal);
                by_literal.push(regexes);
            }
        }
        together.sort_by_key(|(rank, _)| *rank);
        let mut sets = Vec::new();
        for chunk in together.chunks(SET_SIZE) {
            Set::build(chunk, &mut sets);
        }
        Self { literals: Trie::build(&literals), by_literal: by_literal.into(), sets: sets.into() }
    }

    pub(super) fn find(&self, path: &[u8], best: &mut Best, holds: impl Fn(u32) -> bool) {
        let mut hit = self.literals.descend::<true>(path);
        while let Some(at) = hit {
            let better = self.by_literal[self.literals.pattern(at)].iter().take_while(|(rank, _)| *rank < best.rank);
            if let Some((rank, _)) = better.into_iter().find(|(rank, regex)| regex.is_match(path) && holds(*rank)) {
                *best = Best { rank: *rank, matched_prefix_len: 0 };
            }
            hit = self.literals.up(at);
        }
        for Set { set, ranks } in &self.sets {
            if ranks.first().is_none_or(|rank| *rank >= best.rank) {
                break;
            }
            let matches = set.matches(path);
            let found =
                matches.iter().map(|index| ranks[index]).take_while(|rank| *rank < best.rank).find(|rank| holds(*rank));
            if let Some(rank) = found {
                *best = Best { rank, matched_prefix_len: 0 };
            }
        }
    }
}

impl Set {
    /// In one piece, or halved until each piece is small enough; one expression alone always is.
    fn build(regexes: &[(u32, Regex)], sets: &mut Vec<Self>) {
        let patterns = regexes.iter().map(|(_, regex)| regex.as_str());
        // the set speaks the dialect that each expression compiled in: Unicode where one needs it
        let built = [false, true].into_iter().find_map(|unicode| {
            let mut builder = RegexSetBuilder::new(patterns.clone());
            builder.unicode(unicode).size_limit(SET_BYTES).build().ok()
        });
        match (built, regexes) {
            (Some(set), _) => sets.push(Self { set, ranks: regexes.iter().map(|(rank, _)| *rank).collect() }),
            (None, [] | [_]) => unreachable!("a pattern that compiled alone compiles as a set of one"),
            (None, _) => {
                let (left, right) = regexes.split_at(regexes.len() / 2);
                Self::build(left, sets);
                Self::build(right, sets);
            }
        }
    }
}

/// Text that every path the expression matches begins with, letters in lower case; empty when it is not anchored.
fn literal_prefix(pattern: &str) -> Vec<u8> {
    let mut prefix = Prefix::default();
    let parse = |unicode| regex_syntax::ParserBuilder::new().unicode(unicode).utf8(false).build().parse(pattern).ok();
    if let Some(hir) = parse(false).or_else(|| parse(true)) {
        prefix.extend(&hir);
    }
    prefix.text
}

#[derive(Default)]
struct Prefix {
    anchored: bool,
    text: Vec<u8>,
}

impl Prefix {
    /// Whether the text may go on after this part.
    fn extend(&mut self, hir: &Hir) -> bool {
        match hir.kind() {
            HirKind::Empty => true,
            HirKind::Look(Look::Start) if self.text.is_empty() => {
                self.anchored = true;
                true
            }
            HirKind::Literal(literal) if self.anchored => {
                self.text.extend(literal.0.to_ascii_lowercase());
                true
            }
            HirKind::Class(class) if self.anchored => match single_letter(class) {
                Some(letter) => {
                    self.text.push(letter);
                    true
                }
                None => false,
            },
            HirKind::Capture(capture) => self.extend(&capture.sub),
            HirKind::Concat(parts) => parts.iter().all(|part| self.extend(part)),
            _ => false,
        }
    }
}

/// The letter that the class is, in lower case, when it holds one ASCII letter in both cases at most.
fn single_letter(class: &Class) -> Option<u8> {
    let mut letter = None;
    let mut add = |start: u32, end: u32| {
        (start..=end.min(0x7f)).take(3).all(|code| {
            let lower = u8::try_from(code).ok().map(|byte| byte.to_ascii_lowercase());
            let same = letter.is_none() || letter == lower;
            letter = lower;
            same
        })
    };
    let single = match class {
        Class::Bytes(class) => class.ranges().iter().all(|range| add(range.start().into(), range.end().into())),
        Class::Unicode(class) => class.ranges().iter().all(|range| add(range.start().into(), range.end().into())),
    };
    letter.filter(|_| single)
}

/// The same for an expression that does not parse: what stands between `^` and the first character with a meaning.
pub(super) fn literal_text(pattern: &str) -> &str {
    let Some(rest) = pattern.strip_prefix('^') else { return "" };
    let end = rest.find(|c: char| r"\.+*?()|[]{}^$".contains(c)).unwrap_or(rest.len());
    // a repetition or an alternative takes back what stands before it
    match rest.get(end..).and_then(|tail| tail.chars().next()) {
        Some('*' | '?' | '{') => rest.get(..end.saturating_sub(1)).unwrap_or(""),
        _ if rest.contains('|') => "",
        _ => &rest[..end],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_beginnings_are_found() {
        for (pattern, literal) in [
            ("^/shop/.*", "/shop/"),
            ("^/Shop$", "/shop"),
            ("(?i)^/Shop/k", "/shop/k"),
            ("^(/api)(/v1)?", "/api"),
            ("^/a|^/b", ""),
            ("^(/a|/b)", ""),
            ("/shop", ""),
            ("^/[ab]x", "/"),
            ("(?m)^/shop", ""),
            ("^/sho+p", "/sh"),
            ("^/a\\.b", "/a.b"),
            ("[", ""),
        ] {
            assert_eq!(String::from_utf8(literal_prefix(pattern)).unwrap(), literal, "{pattern}");
        }
    }

    #[test]
    fn faulty_expressions_keep_their_literal_text() {
        for (pattern, text) in [
            ("^/admin(", "/admin"),
            ("^/admin/[", "/admin/"),
            ("^/admin*(", "/admi"),
            ("/admin(", ""),
            ("^/a|(", ""),
            ("(", ""),
        ] {
            assert_eq!(literal_text(pattern), text, "{pattern}");
        }
    }
}
