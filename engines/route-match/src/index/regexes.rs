//! Many regular expressions at once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ahash::AHashMap;
use aho_corasick::AhoCorasick;
use memchr::memmem;
use regex::bytes::{Regex, RegexSet, RegexSetBuilder};
use regex_syntax::hir::{Class, Hir, HirKind, Look};
use smallvec::SmallVec;

use crate::fault::FaultReason;
use crate::plain::{Plain, parse, plain};
use crate::trie::Trie;
use crate::value::compile_either;

/// Shortest literal text that is worth looking for: every path begins with `/`.
const MIN_LITERAL: usize = 2;

/// Most expressions that share one literal text and are still tried one by one.
const MAX_SHARED: usize = 16;

/// Most texts of which an expression needs one.
const MAX_ALTERNATIVES: usize = 8;

/// Most expressions that are tried because their texts occur; with more, all are searched for in sets.
const MAX_TRIED: usize = 16;

/// Expressions from which on their texts are searched for.
const MIN_SEARCHED: usize = 4;

/// Most expressions searched for at once.
const SET_SIZE: usize = 64;

/// Largest compiled set, in bytes.
const SET_BYTES: usize = 16 << 20;

/// Distinct expressions, each with a slot: dense, from 0, in order of the best rank that waits for it.
///
/// Those that are anchored and begin with literal text (`^/shop/...`, `(?i)^/shop/...`), as nearly all do, are found by
/// that text in a trie, then tried alone. Where there are several others, those that need some literal text anywhere
/// (`/v[0-9]+/orders$`) are tried when one pass over the value finds it. What is left is searched for in sets of 64,
/// which allocates and is linear in the value for each set.
#[derive(Debug, Default)]
pub(super) struct Regexes {
    patterns: Box<[Pattern]>,
    /// Literal beginnings, letters in lower case.
    literals: Trie,
    /// Slots by literal, ascending.
    by_literal: Box<[Vec<u32>]>,
    inner: Option<Box<Inner>>,
    sets: Box<[Set]>,
}

#[derive(Debug)]
struct Pattern {
    regex: Regex,
    /// What the expression comes to, where that is a text within others: quicker to compare.
    within: Option<Plain>,
    best: u32,
}

/// Expressions that match only where one of their texts occurs.
#[derive(Debug)]
struct Inner {
    texts: AhoCorasick,
    /// Slots by text.
    by_text: Box<[Vec<u32>]>,
    /// The same expressions, for values in which the texts of many occur.
    sets: Box<[Set]>,
}

#[derive(Debug)]
struct Set {
    set: RegexSet,
    /// By index in the set, ascending.
    slots: Vec<u32>,
}

#[derive(Default)]
pub(super) struct Builder {
    patterns: Vec<Pattern>,
    ranks: Vec<Vec<u32>>,
    slots: AHashMap<Box<str>, usize>,
}

impl Builder {
    /// Ranks ascend from call to call.
    pub(super) fn add(&mut self, rank: u32, pattern: &str) -> Result<(), FaultReason> {
        let slot = match self.slots.get(pattern) {
            Some(slot) => *slot,
            None => {
                let within = plain(pattern).filter(|plain| matches!(plain, Plain::Contains(_) | Plain::Ends(_)));
                self.patterns.push(Pattern { regex: compile_either(pattern)?, within, best: rank });
                self.ranks.push(Vec::new());
                self.slots.insert(pattern.into(), self.ranks.len() - 1);
                self.ranks.len() - 1
            }
        };
        super::push(&mut self.ranks[slot], rank);
        Ok(())
    }

    /// The expressions, and by slot the ranks that wait for each.
    pub(super) fn build(self) -> (Regexes, Vec<Vec<u32>>) {
        (Regexes::build(self.patterns), self.ranks)
    }
}

impl Regexes {
    fn build(patterns: Vec<Pattern>) -> Self {
        let mut together: Vec<u32> = Vec::new();
        let mut beginnings: BTreeMap<Vec<u8>, Vec<u32>> = BTreeMap::new();
        for (slot, pattern) in (0u32..).zip(&patterns) {
            let literal = literal_prefix(pattern.regex.as_str());
            if literal.len() < MIN_LITERAL {
                together.push(slot);
            } else {
                beginnings.entry(literal).or_default().push(slot);
            }
        }
        let (mut literals, mut by_literal) = (Vec::new(), Vec::new());
        for (literal, slots) in beginnings {
            if slots.len() > MAX_SHARED {
                together.extend(slots);
            } else {
                literals.push(literal);
                by_literal.push(slots);
            }
        }
        together.sort_unstable();
        let (inner, rest) = match together.len() > MIN_SEARCHED {
            true => Inner::build(&patterns, together),
            false => (None, together),
        };
        let sets = Set::build_all(&patterns, &rest);
        Self {
            patterns: patterns.into(),
            literals: Trie::build(&literals),
            by_literal: by_literal.into(),
            inner: inner.map(Box::new),
            sets,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Calls `meet` with the slots of expressions that match, and have a better rank than `below`; `meet` says what is
    /// the best rank from then on.
    pub(super) fn find(&self, text: &[u8], mut below: u32, mut meet: impl FnMut(usize) -> u32) {
        let mut hit = self.literals.descend::<true>(text);
        while let Some(at) = hit {
            self.try_each(&self.by_literal[self.literals.pattern(at)], text, &mut below, &mut meet);
            hit = self.literals.up(at);
        }
        if let Some(inner) = &self.inner {
            match inner.candidates(text) {
                Some(slots) => self.try_each(&slots, text, &mut below, &mut meet),
                None => self.try_sets(&inner.sets, text, &mut below, &mut meet),
            }
        }
        self.try_sets(&self.sets, text, &mut below, &mut meet);
    }

    fn try_each(&self, slots: &[u32], text: &[u8], below: &mut u32, meet: &mut impl FnMut(usize) -> u32) {
        for &slot in slots {
            let pattern = &self.patterns[slot as usize];
            if pattern.best >= *below {
                break;
            }
            if pattern.is_match(text) {
                *below = meet(slot as usize);
            }
        }
    }

    fn try_sets(&self, sets: &[Set], text: &[u8], below: &mut u32, meet: &mut impl FnMut(usize) -> u32) {
        let best = |slot: u32| self.patterns[slot as usize].best;
        for Set { set, slots } in sets {
            if slots.first().is_none_or(|slot| best(*slot) >= *below) {
                break;
            }
            for index in &set.matches(text) {
                if best(slots[index]) >= *below {
                    break;
                }
                *below = meet(slots[index] as usize);
            }
        }
    }
}

impl Pattern {
    fn is_match(&self, text: &[u8]) -> bool {
        match &self.within {
            Some(Plain::Contains(part)) => memmem::find(text, part).is_some(),
            Some(Plain::Ends(part)) => text.ends_with(part),
            _ => self.regex.is_match(text),
        }
    }
}

impl Inner {
    /// Of the slots those that need a text which few others may need, and what is left of them.
    fn build(patterns: &[Pattern], slots: Vec<u32>) -> (Option<Self>, Vec<u32>) {
        let needed: Vec<Vec<Texts>> =
            slots.iter().map(|slot| needed(patterns[*slot as usize].regex.as_str())).collect();
        let mut shared: AHashMap<&[u8], usize> = AHashMap::new();
        for texts in needed.iter().map(|choice| choice.iter().flatten().collect::<BTreeSet<_>>()) {
            for text in texts {
                *shared.entry(text).or_default() += 1;
            }
        }
        let most_shared = |texts: &Texts| texts.iter().map(|text| shared[text.as_slice()]).max().unwrap_or(0);
        let mut by_text: BTreeMap<&[u8], Vec<u32>> = BTreeMap::new();
        let (mut kept, mut rest) = (Vec::new(), Vec::new());
        for (slot, choice) in slots.iter().zip(&needed) {
            let rarest = choice.iter().min_by_key(|texts| (most_shared(texts), Reverse(shortest(texts))));
            match rarest.filter(|texts| most_shared(texts) <= MAX_SHARED) {
                Some(texts) => {
                    for text in texts {
                        super::push(by_text.entry(text).or_default(), *slot);
                    }
                    kept.push(*slot);
                }
                None => rest.push(*slot),
            }
        }
        match AhoCorasick::builder().ascii_case_insensitive(true).build(by_text.keys()) {
            Ok(texts) if !kept.is_empty() => {
                let sets = Set::build_all(patterns, &kept);
                (Some(Self { texts, by_text: by_text.into_values().collect(), sets }), rest)
            }
            _ => (None, slots),
        }
    }

    /// Slots whose texts occur, ascending; `None` when they are many.
    fn candidates(&self, text: &[u8]) -> Option<SmallVec<[u32; MAX_TRIED]>> {
        let mut slots: SmallVec<[u32; MAX_TRIED]> = SmallVec::new();
        for found in self.texts.find_overlapping_iter(text) {
            for slot in &self.by_text[found.pattern().as_usize()] {
                if !slots.contains(slot) {
                    if slots.len() == MAX_TRIED {
                        return None;
                    }
                    slots.push(*slot);
                }
            }
        }
        slots.sort_unstable();
        Some(slots)
    }
}

impl Set {
    fn build_all(patterns: &[Pattern], slots: &[u32]) -> Box<[Self]> {
        let mut sets = Vec::new();
        for chunk in slots.chunks(SET_SIZE) {
            Self::build(patterns, chunk, &mut sets);
        }
        sets.into()
    }

    /// In one piece, or halved until each piece is small enough; one expression alone always is.
    fn build(patterns: &[Pattern], slots: &[u32], sets: &mut Vec<Self>) {
        let texts = slots.iter().map(|slot| patterns[*slot as usize].regex.as_str());
        // the set speaks the dialect that each expression compiled in: Unicode where one needs it
        let built = [false, true].into_iter().find_map(|unicode| {
            let mut builder = RegexSetBuilder::new(texts.clone());
            builder.unicode(unicode).size_limit(SET_BYTES).build().ok()
        });
        match (built, slots) {
            (Some(set), _) => sets.push(Self { set, slots: slots.to_vec() }),
            (None, [] | [_]) => unreachable!("a pattern that compiled alone compiles as a set of one"),
            (None, _) => {
                let (left, right) = slots.split_at(slots.len() / 2);
                Self::build(patterns, left, sets);
                Self::build(patterns, right, sets);
            }
        }
    }
}

/// Texts of which one is part of whatever an expression matches, letters in lower case.
type Texts = Vec<Vec<u8>>;

fn shortest(texts: &Texts) -> usize {
    texts.iter().map(Vec::len).min().unwrap_or(0)
}

/// All texts worth looking for.
fn needed(pattern: &str) -> Vec<Texts> {
    let mut choice = parse(pattern).map(|hir| choice(&hir)).unwrap_or_default();
    choice.retain(|texts| shortest(texts) >= MIN_LITERAL);
    choice
}

/// Each of these alone is necessary.
fn choice(hir: &Hir) -> Vec<Texts> {
    if let Some(text) = exact_text(hir) {
        return vec![vec![text]];
    }
    match hir.kind() {
        HirKind::Capture(capture) => choice(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => choice(&repetition.sub),
        HirKind::Alternation(branches) => {
            let mut all = Vec::new();
            for branch in branches {
                match choice(branch).into_iter().max_by_key(shortest) {
                    Some(texts) if all.len() + texts.len() <= MAX_ALTERNATIVES => all.extend(texts),
                    _ => return Vec::new(),
                }
            }
            vec![all]
        }
        HirKind::Concat(parts) => {
            let mut all: Vec<Texts> = Vec::new();
            let mut run = Vec::new();
            for part in parts {
                match exact_text(part) {
                    Some(text) => run.extend(text),
                    None => {
                        all.push(vec![std::mem::take(&mut run)]);
                        all.extend(choice(part));
                    }
                }
            }
            all.push(vec![run]);
            all
        }
        _ => Vec::new(),
    }
}

/// The text that the part stands for, letters in lower case, when it is one.
fn exact_text(hir: &Hir) -> Option<Vec<u8>> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Some(Vec::new()),
        HirKind::Literal(literal) => Some(literal.0.to_ascii_lowercase()),
        HirKind::Class(class) => single_letter(class).map(|letter| vec![letter]),
        HirKind::Capture(capture) => exact_text(&capture.sub),
        HirKind::Concat(parts) => parts.iter().try_fold(Vec::new(), |mut text, part| {
            text.extend(exact_text(part)?);
            Some(text)
        }),
        _ => None,
    }
}

/// Text that every path the expression matches begins with, letters in lower case; empty when it is not anchored.
fn literal_prefix(pattern: &str) -> Vec<u8> {
    let mut prefix = Prefix::default();
    if let Some(hir) = parse(pattern) {
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
        end < 0x80
            && (start..=end).take(3).all(|code| {
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
    fn needed_texts_are_found() {
        for (pattern, texts) in [
            ("/abc.*", &["/abc"][..]),
            ("/API/v[0-9]+/orders$", &["/api/v", "/orders"]),
            ("(?i)/V1/x", &["/v1/x"]),
            ("(/cat|/dogs)/[0-9]", &["/cat|/dogs"]),
            ("/x(/longer)+$", &["/x", "/longer"]),
            ("(/a)?b*", &[]),
            ("/a|.*", &[]),
            ("[0-9]+$", &[]),
            ("\\b/ab\\b/c", &["/ab/c"]),
            ("[a\u{e9}]bc", &["bc"]),
            ("(?u)[k\u{212a}]", &[]),
        ] {
            let found: Vec<String> =
                needed(pattern).into_iter().map(|texts| String::from_utf8(texts.join(&b'|')).unwrap()).collect();
            assert_eq!(found, texts, "{pattern}");
        }
    }

    #[test]
    fn expressions_are_found_whatever_way_they_are_searched_for() {
        let mut builder = Builder::default();
        let patterns: Vec<String> = (0..100)
            .map(|at| format!("/tail-{at}$"))
            .chain((0..40).map(|at| format!("^/same/[0-9]+-{at}$")))
            .chain((0..100).map(|at| format!("[a-z]{{{}}}[0-9]$", at + 3)))
            .chain((0..20).map(|at| format!("^/begin-{at}/")))
            .collect();
        for (rank, pattern) in (0u32..).zip(&patterns) {
            builder.add(rank, pattern).unwrap();
        }
        let (regexes, ranks) = builder.build();
        assert!(regexes.inner.is_some() && !regexes.sets.is_empty() && !regexes.by_literal.is_empty());
        assert_eq!(ranks.concat(), (0..260).collect::<Vec<u32>>());
        let crowded = format!("/begin-3{}", patterns[..100].concat().replace('$', ""));
        for text in ["/x/tail-99", "/same/7-39", "/begin-19/abcdef1", "/begin-19/abcdef1/tail-1", "/none", "", &crowded]
        {
            let expected: Vec<usize> =
                (0..260).filter(|at| Regex::new(&patterns[*at]).unwrap().is_match(text.as_bytes())).collect();
            let mut found = Vec::new();
            regexes.find(text.as_bytes(), u32::MAX, |slot| {
                found.push(slot);
                u32::MAX
            });
            found.sort_unstable();
            assert_eq!(found, expected, "{text}");
            let mut best = u32::MAX;
            regexes.find(text.as_bytes(), u32::MAX, |slot| {
                best = best.min(slot as u32);
                best
            });
            assert_eq!((best != u32::MAX).then_some(best as usize), expected.first().copied(), "{text}");
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
