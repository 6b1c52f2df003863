//! The rules of one host, indexed by path.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashMap;
use headwater_model::gateway::{Action, Condition, PathMatch, Refuse, Rule, ValueMatch, VirtualHost};

use crate::condition::{Check, Source, split};
use crate::fault::{Fault, FaultReason};
use crate::path::normalise_pattern;
use crate::request::RequestView;
use crate::trie::Trie;

mod regexes;
use regexes::Regexes;

/// Largest regular expression, in bytes of its compiled program; also the limit of its lazily built automaton.
pub const MAX_REGEX_BYTES: usize = 1 << 20;

/// Deepest nesting of `Any` and `All`.
pub const MAX_DEPTH: usize = 16;

/// Rules at one path from which on they are indexed by a value, too.
const MIN_INDEXED: usize = 16;

/// The rules of one host, ready to be searched.
///
/// A rule has a rank: its place by precedence, which is also its index in [`CompiledHost::rules`]. Ranks are dense and
/// can key state per rule.
///
/// Rules are found by path. Where more than 16 rules share one path, those that ask for an exact value of the header,
/// query parameter, cookie or method that most of them ask for are found by that value as well; the others at that path
/// are looked at one by one, in order of precedence, until one matches.
///
/// Regular expressions that begin with `^` and literal text are found by that text, and tried one by one where several
/// begin alike; the others are searched for in sets of 64, linear in the path for each set.
#[derive(Debug)]
pub struct CompiledHost {
    rules: Box<[Arc<Rule>]>,
    /// By rank.
    checks: Box<[Box<[Check]>]>,
    paths: Trie,
    /// By pattern of `paths`.
    at_path: Box<[AtPath]>,
    any: Candidates,
    regexes: Regexes,
    faults: Box<[Fault]>,
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

/// Ranks in ascending order.
#[derive(Debug, Default)]
struct Candidates {
    ranks: Box<[u32]>,
    /// Rules that ask for an exact value are here, the others in `ranks`.
    by_value: Option<Box<ByValue>>,
}

#[derive(Debug)]
struct ByValue {
    source: Source,
    ranks: AHashMap<Box<[u8]>, Vec<u32>>,
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
    /// stands for the paths that start with the literal text after its `^`, or for every path when it has none.
    pub fn compile(host: &VirtualHost) -> Self {
        let mut rules: Vec<Arc<Rule>> = host.rules.clone();
        if !rules.is_sorted_by(|a, b| a.precedence <= b.precedence) {
            rules.sort_by(|a, b| a.precedence.cmp(&b.precedence));
        }
        let mut checks = Vec::with_capacity(rules.len());
        let mut faults = Vec::new();
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
            if let Some(reason) = reasons.into_iter().next() {
                faults.push(Fault { index: rank, rule: Arc::clone(rule), reason });
                let refuse = Refuse { status: 500, reason: "invalid_match".into() };
                *rule = Arc::new(Rule { action: Action::Refuse(refuse), ..Rule::clone(rule) });
            }
        }
        let faulty = |rank: u32| faults.binary_search_by_key(&rank, |fault: &Fault| fault.index).is_ok();
        let wanted = |rank: u32| match faulty(rank) {
            true => &[][..],
            false => rules[rank as usize].matches.conditions.as_slice(),
        };
        let any = Candidates::build(builder.any, &wanted);
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
            checks: checks.into(),
            paths,
            at_path: at_path.into(),
            any,
            regexes: Regexes::build(builder.regexes),
            faults: faults.into(),
        }
    }

    /// The rules by index, best precedence first; faulty ones as the rules that refuse in their place.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Rules that could not be compiled as written, by index.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// The rule of best precedence that matches.
    pub(crate) fn find<R: RequestView>(&self, request: &R) -> Option<Best> {
        let path = request.path().as_bytes();
        let mut best = Best { rank: u32::MAX, matched_prefix_len: 0 };
        let mut hit = self.paths.descend::<false>(path);
        while let Some(at) = hit {
            let rules = &self.at_path[self.paths.pattern(at)];
            if rules.best >= best.rank {
                break;
            }
            let depth = self.paths.depth(at);
            match path.get(depth) {
                None => {
                    self.consider(&rules.exact, depth, request, &mut best);
                    self.consider(&rules.prefix, depth, request, &mut best);
                }
                Some(b'/') => self.consider(&rules.prefix, depth, request, &mut best),
                Some(_) => {}
            }
            self.consider(&rules.starts, depth, request, &mut best);
            hit = self.paths.up(at);
        }
        self.consider(&self.any, 0, request, &mut best);
        self.regexes.find(path, &mut best, |rank| self.holds(rank, request));
        (best.rank != u32::MAX).then_some(best)
    }

    fn consider<R: RequestView>(&self, candidates: &Candidates, length: usize, request: &R, best: &mut Best) {
        let mut scan = |ranks: &[u32]| {
            let better = ranks.iter().take_while(|rank| **rank < best.rank);
            if let Some(&rank) = better.into_iter().find(|rank| self.holds(**rank, request)) {
                *best = Best { rank, matched_prefix_len: length };
            }
        };
        if let Some(by_value) = &candidates.by_value
            && let Some(value) = by_value.source.read(request)
            && let Some(ranks) = by_value.ranks.get(&*value)
        {
            scan(ranks);
        }
        scan(&candidates.ranks);
    }

    fn holds<R: RequestView>(&self, rank: u32, request: &R) -> bool {
        self.checks[rank as usize].iter().all(|check| check.holds(request))
    }
}

impl Candidates {
    /// `ranks` ascend; `wanted` are the conditions of a rule.
    fn build<'c>(ranks: Vec<u32>, wanted: &impl Fn(u32) -> &'c [Condition]) -> Self {
        if ranks.len() <= MIN_INDEXED {
            return Self { ranks: ranks.into(), by_value: None };
        }
        let mut counts: AHashMap<Source, usize> = AHashMap::new();
        for &rank in &ranks {
            let mut sources: Vec<Source> =
                wanted(rank).iter().filter_map(exact_values).map(|(source, _)| source).collect();
            sources.sort();
            sources.dedup();
            for source in sources {
                *counts.entry(source).or_default() += 1;
            }
        }
        let most = counts.into_iter().max_by(|(a, few), (b, many)| few.cmp(many).then_with(|| a.cmp(b)));
        let Some((source, _)) = most.filter(|(_, count)| *count > MIN_INDEXED) else {
            return Self { ranks: ranks.into(), by_value: None };
        };
        let mut others = Vec::new();
        let mut by_value: AHashMap<Box<[u8]>, Vec<u32>> = AHashMap::new();
        for rank in ranks {
            let values = wanted(rank).iter().filter_map(exact_values).find(|(at, _)| *at == source);
            match values {
                Some((_, values)) => {
                    for value in values {
                        let ranks = by_value.entry(value.as_bytes().into()).or_default();
                        if ranks.last() != Some(&rank) {
                            ranks.push(rank);
                        }
                    }
                }
                None => others.push(rank),
            }
        }
        Self { ranks: others.into(), by_value: Some(Box::new(ByValue { source, ranks: by_value })) }
    }
}

/// Source and values of a condition that holds for these values only.
fn exact_values(condition: &Condition) -> Option<(Source, &[Box<str>])> {
    let (source, value) = split(condition)?;
    match value {
        ValueMatch::Exact(value) => Some((source, std::slice::from_ref(value))),
        ValueMatch::In(values) => Some((source, values)),
        _ => None,
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
            PathMatch::Any => self.any.push(rank),
            PathMatch::Exact(path) => self.at(path).exact.push(rank),
            PathMatch::Prefix(path) => {
                // without its trailing slash, so that what follows is nothing or begins with a slash; "/" becomes ""
                let path = normalise_pattern(path);
                self.at(path.strip_suffix('/').unwrap_or(&path)).prefix.push(rank);
            }
            PathMatch::StartsWith(path) => self.at(path).starts.push(rank),
            PathMatch::Regex(pattern) => {
                if let Err(reason) = self.regexes.add(rank, pattern) {
                    reasons.push(reason);
                    match regexes::literal_text(pattern) {
                        "" => self.any.push(rank),
                        text => self.at(text).starts.push(rank),
                    }
                }
            }
        }
    }

    fn at(&mut self, path: &str) -> &mut Ranks {
        self.patterns.entry(normalise_pattern(path).into_owned()).or_default()
    }
}
