//! The rules of one host, indexed by path.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_model::gateway::{Action, PathMatch, Refuse, Rule, VirtualHost};

use crate::condition::{Check, Subject};
use crate::fault::{Fault, FaultReason};
use crate::path::{encode_decoded, normalise_pattern};
use crate::plain::{Plain, plain};
use crate::request::RequestView;
use crate::rewrite::CompiledRewrite;
use crate::trie::Trie;

mod candidates;
mod ranges;
mod regexes;
use candidates::Candidates;
use regexes::Regexes;

/// Largest regular expression, in bytes of its compiled program; also the limit of its lazily built automaton.
pub const MAX_REGEX_BYTES: usize = 1 << 20;

/// Deepest nesting of `Any` and `All`.
pub const MAX_DEPTH: usize = 16;

/// The rules of one host, ready to be searched.
///
/// A rule has a rank: its place by precedence, which is also its index in [`CompiledHost::rules`]. Ranks are dense and
/// can key state per rule.
///
/// Rules are found by path. Where more than 16 rules share one path, those that ask for an exact value, a beginning or a
/// regular expression of some header, query parameter, cookie, method, host or client are found by that value as well;
/// the others at that path are looked at one by one, in order of precedence, until one matches.
///
/// Regular expressions that come to a plain comparison (`^/shop/.*`) stand where that would. Others that begin with `^`
/// and literal text are found by that text, many others by some text that they need anywhere, and tried one by one where
/// it occurs; what is left is searched for in sets of 64, linear in the path for each set.
#[derive(Debug)]
pub struct CompiledHost {
    rules: Box<[Arc<Rule>]>,
    checks: Checks,
    any: Candidates,
    paths: Option<Box<Paths>>,
    regexes: Option<Box<Patterns>>,
    /// Of the rules that have one, by rank.
    rewrites: Box<[(u32, CompiledRewrite)]>,
    faults: Box<[Fault]>,
}

/// What rules ask for besides their path, by rank; empty where none of them asks for anything.
///
/// Each request has to wait for every piece of memory that is looked at for its rule alone: what most hosts do not need
/// stands behind a pointer that is not followed.
#[derive(Debug)]
pub(crate) struct Checks(Box<[Box<[Check]>]>);

impl Checks {
    fn hold<R: RequestView>(&self, rank: u32, subject: &Subject<'_, R>) -> bool {
        self.0.get(rank as usize).is_none_or(|checks| checks.iter().all(|check| check.holds(subject)))
    }
}

/// Rules by literal path.
#[derive(Debug)]
struct Paths {
    trie: Trie,
    /// By pattern of `trie`.
    at: Box<[AtPath]>,
}

/// Rules by regular expression.
#[derive(Debug)]
struct Patterns {
    regexes: Regexes,
    /// By slot of `regexes`.
    at: Box<[Candidates]>,
}

/// Rules that wait at one pattern.
#[derive(Debug, Default)]
struct AtPath {
    /// Where the path is the pattern.
    exact: Candidates,
    /// Where the path is the pattern, or goes on with `/`.
    prefix: Candidates,
    /// Where the path goes on with anything.
    starts: Candidates,
    /// Best rank here and at patterns that are a prefix of this one.
    best: u32,
}

/// The best rule seen so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Best {
    /// `u32::MAX`: none.
    pub(crate) rank: u32,
    pub(crate) matched_prefix_len: usize,
}

impl CompiledHost {
    /// Compiles the rules of a host.
    ///
    /// Total: a rule that cannot be matched as written refuses with 500 `invalid_match` what it may have been meant for,
    /// and is listed by [`CompiledHost::faults`]. A faulty condition holds always. A path with a faulty regular expression
    /// stands for the paths that start with the literal text after its `^`, or for every path when it has none. A rule
    /// whose path cannot be rewritten as written refuses with 503 `invalid_rule`, and is listed as well.
    pub fn compile(host: &VirtualHost) -> Self {
        let mut rules: Vec<Arc<Rule>> = host.rules.clone();
        if !rules.is_sorted_by(|a, b| a.precedence <= b.precedence) {
            rules.sort_by(|a, b| a.precedence.cmp(&b.precedence));
        }
        let mut checks = Vec::with_capacity(rules.len());
        let mut faults = Vec::new();
        let mut rewrites = Vec::new();
        let mut builder = Builder::default();
        for (rank, rule) in (0u32..).zip(&mut rules) {
            let mut reasons = Vec::new();
            builder.add(rank, &rule.matches.path, &mut reasons);
            let compiled: Box<[Check]> = rule
                .matches
                .conditions
                .iter()
                .filter_map(|condition| Check::compile(condition, 0).map_err(|reason| reasons.push(reason)).ok())
                .collect();
            checks.push(compiled);
            let mut refuse = Refuse { status: 500, reason: "invalid_match".into() };
            match CompiledRewrite::of(rule) {
                Some(Ok(rewrite)) => rewrites.push((rank, rewrite)),
                Some(Err(reason)) => {
                    if reasons.is_empty() {
                        refuse = Refuse { status: 503, reason: "invalid_rule".into() };
                    }
                    reasons.push(reason);
                }
                None => {}
            }
            if let Some(reason) = reasons.into_iter().next() {
                faults.push(Fault { index: rank, rule: Arc::clone(rule), reason });
                *rule = Arc::new(Rule { action: Action::Refuse(refuse), ..Rule::clone(rule) });
            }
        }
        let checks = match checks.iter().all(|checks| checks.is_empty()) {
            true => Box::default(),
            false => checks.into(),
        };
        let faulty = |rank: u32| faults.binary_search_by_key(&rank, |fault: &Fault| fault.index).is_ok();
        let wanted = |rank: u32| match faulty(rank) {
            true => &[][..],
            false => rules[rank as usize].matches.conditions.as_slice(),
        };
        let any = Candidates::build(builder.any, &wanted);
        let (regexes, at) = builder.regexes.build();
        let at = at.into_iter().map(|ranks| Candidates::build(ranks, &wanted)).collect();
        let regexes = (!regexes.is_empty()).then(|| Box::new(Patterns { regexes, at }));
        let patterns: Vec<String> = builder.patterns.keys().cloned().collect();
        let mut at_path: Vec<AtPath> = builder
            .patterns
            .into_values()
            .map(|ranks| AtPath {
                best: ranks.best(),
                exact: Candidates::build(ranks.exact, &wanted),
                prefix: Candidates::build(ranks.prefix, &wanted),
                starts: Candidates::build(ranks.starts, &wanted),
            })
            .collect();
        let paths = Trie::build(&patterns);
        // patterns are sorted, so a prefix of a pattern has its final `best` before the pattern needs it
        for index in 0..patterns.len() {
            let above = paths.descend::<false>(patterns[index].as_bytes()).and_then(|hit| paths.up(hit));
            if let Some(above) = above {
                at_path[index].best = at_path[index].best.min(at_path[paths.pattern(above)].best);
            }
        }
        Self {
            rules: rules.into(),
            checks: Checks(checks),
            any,
            paths: (!at_path.is_empty()).then(|| Box::new(Paths { trie: paths, at: at_path.into() })),
            regexes,
            rewrites: rewrites.into(),
            faults: faults.into(),
        }
    }

    /// The rules by index, best precedence first; faulty ones as the rules that refuse in their place.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The rewrite by a regular expression of the rule at `index`.
    pub fn rewrite(&self, index: u32) -> Option<&CompiledRewrite> {
        let at = self.rewrites.binary_search_by_key(&index, |(rank, _)| *rank).ok()?;
        self.rewrites.get(at).map(|(_, rewrite)| rewrite)
    }

    /// Rules that could not be compiled as written, by index.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// The rule of best precedence that matches.
    pub(crate) fn find<R: RequestView>(&self, subject: &Subject<'_, R>) -> Option<Best> {
        let path = subject.path();
        let mut best = Best { rank: u32::MAX, matched_prefix_len: 0 };
        let consider = |candidates: &Candidates, length: usize, best: &mut Best| {
            candidates.find(&self.checks, length, subject, best);
        };
        let paths = self.paths.as_deref();
        let mut hit = paths.and_then(|paths| Some((paths, paths.trie.descend::<false>(path)?)));
        while let Some((paths, at)) = hit {
            let rules = &paths.at[paths.trie.pattern(at)];
            if rules.best >= best.rank {
                break;
            }
            let depth = paths.trie.depth(at);
            match path.get(depth) {
                None => {
                    consider(&rules.exact, depth, &mut best);
                    consider(&rules.prefix, depth, &mut best);
                }
                Some(b'/') => consider(&rules.prefix, depth, &mut best),
                Some(_) => {}
            }
            consider(&rules.starts, depth, &mut best);
            hit = paths.trie.up(at).map(|at| (paths, at));
        }
        consider(&self.any, 0, &mut best);
        if let Some(patterns) = &self.regexes {
            patterns.regexes.find(subject.decoded_path(), best.rank, |slot| {
                consider(&patterns.at[slot], 0, &mut best);
                best.rank
            });
        }
        let rule = self.rules.get(best.rank as usize)?;
        if matches!(rule.matches.path, PathMatch::Regex(_)) {
            best.matched_prefix_len = 0;
        }
        Some(best)
    }
}

/// Appends unless it is there already; ranks come in ascending order.
fn push(ranks: &mut Vec<u32>, rank: u32) {
    if ranks.last() != Some(&rank) {
        ranks.push(rank);
    }
}

/// Ranks by how their paths are compared.
#[derive(Default)]
struct Builder {
    patterns: BTreeMap<String, Ranks>,
    any: Vec<u32>,
    regexes: regexes::Builder,
}

#[derive(Default)]
struct Ranks {
    exact: Vec<u32>,
    prefix: Vec<u32>,
    starts: Vec<u32>,
}

impl Ranks {
    fn best(&self) -> u32 {
        [&self.exact, &self.prefix, &self.starts]
            .into_iter()
            .filter_map(|ranks| ranks.first())
            .min()
            .copied()
            .unwrap_or(0)
    }
}

impl Builder {
    fn add(&mut self, rank: u32, path: &PathMatch, reasons: &mut Vec<FaultReason>) {
        match path {
            PathMatch::Any => push(&mut self.any, rank),
            PathMatch::Exact(path) => push(&mut self.at(path).exact, rank),
            PathMatch::Prefix(path) => {
                // without its trailing slash, so that what follows is nothing or begins with a slash; "/" becomes ""
                let path = normalise_pattern(path);
                push(&mut self.at(path.strip_suffix('/').unwrap_or(&path)).prefix, rank);
            }
            PathMatch::StartsWith(path) => push(&mut self.at(path).starts, rank),
            PathMatch::Regex(pattern) => self.add_regex(rank, pattern, reasons),
            PathMatch::AnyOf(paths) => {
                for path in paths {
                    self.add(rank, path, reasons);
                }
            }
        }
    }

    fn add_regex(&mut self, rank: u32, pattern: &str, reasons: &mut Vec<FaultReason>) {
        let (text, list): (_, fn(&mut Ranks) -> &mut Vec<u32>) = match plain(pattern) {
            Some(Plain::Exact(text)) => (Some(text), |ranks| &mut ranks.exact),
            Some(Plain::Starts(text)) => (Some(text), |ranks| &mut ranks.starts),
            Some(Plain::Element(text)) if !text.ends_with(b"/") => (Some(text), |ranks| &mut ranks.prefix),
            _ => (None, |ranks| &mut ranks.starts),
        };
        if let Some(path) = text.and_then(|text| encode_decoded(&text)) {
            push(list(self.at(&path)), rank);
        } else if let Err(reason) = self.regexes.add(rank, pattern) {
            reasons.push(reason);
            match regexes::literal_text(pattern) {
                "" => push(&mut self.any, rank),
                text => push(&mut self.at(text).starts, rank),
            }
        }
    }

    fn at(&mut self, path: &str) -> &mut Ranks {
        self.patterns.entry(normalise_pattern(path).into_owned()).or_default()
    }
}
