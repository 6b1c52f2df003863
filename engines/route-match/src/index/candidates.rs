//! Rules that wait at one path, indexed by the values that they ask for.

use std::collections::BTreeMap;

use ahash::AHashMap;
use headwater_model::gateway::Condition;
use smallvec::SmallVec;

use super::ranges::Ranges;
use super::regexes::{self, Regexes};
use super::{Best, Checks, push};
use crate::condition::{Key, Source, Subject, keys, number};
use crate::request::RequestView;
use crate::trie::Trie;

/// Rules at one place from which on they are indexed by a value, too.
const MIN_INDEXED: usize = 16;

/// Most sources of values that rules at one place are indexed by; each is read once for every request that gets there.
const MAX_SOURCES: usize = 8;

/// How deep indexes stand inside each other.
const MAX_INDEXES: usize = 4;

/// Most keys of a rule in an index that stands inside another; bounds what a rule with long lists costs.
const MAX_INNER_KEYS: usize = 8;

/// Rules that may match, by rank.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Looked at one by one; ascending.
    ranks: SmallVec<[u32; 4]>,
    /// The others, by a value that each of them asks for.
    by_value: Box<[ByValue]>,
}

/// Rules that ask for something of one value.
#[derive(Debug)]
struct ByValue {
    source: Source,
    best: u32,
    exact: AHashMap<Box<[u8]>, Candidates>,
    starts: Trie,
    /// By pattern of `starts`.
    at_start: Box<[Candidates]>,
    regexes: Regexes,
    /// By slot of `regexes`.
    at_regex: Box<[Candidates]>,
    /// Of clients.
    ranges: Ranges,
    /// By range of `ranges`.
    at_range: Box<[Candidates]>,
}

#[derive(Default)]
struct Builder {
    best: Option<u32>,
    exact: BTreeMap<Box<[u8]>, Vec<u32>>,
    starts: BTreeMap<Box<[u8]>, Vec<u32>>,
    regexes: regexes::Builder,
    ranges: BTreeMap<(u128, u128), Vec<u32>>,
}

impl Candidates {
    /// `ranks` ascend; `wanted` are the conditions of a rule, nothing for one that refuses because of a fault.
    pub(super) fn build<'c>(ranks: Vec<u32>, wanted: &dyn Fn(u32) -> &'c [Condition]) -> Self {
        Self::build_inside(&[], ranks, wanted)
    }

    /// Inside of indexes by other sources.
    fn build_inside<'c>(outer: &[Source], ranks: Vec<u32>, wanted: &dyn Fn(u32) -> &'c [Condition]) -> Self {
        if ranks.len() <= MIN_INDEXED || outer.len() >= MAX_INDEXES {
            return Self { ranks: ranks.into(), by_value: Box::default() };
        }
        let most = if outer.is_empty() { usize::MAX } else { MAX_INNER_KEYS };
        let asked = |rank: u32| {
            let keys = wanted(rank).iter().filter_map(keys);
            keys.filter(|(source, keys)| keys.len() <= most && !outer.contains(source)).collect::<Vec<_>>()
        };
        let mut counts: AHashMap<Source, usize> = AHashMap::new();
        for &rank in &ranks {
            let mut sources: Vec<Source> = asked(rank).into_iter().map(|(source, _)| source).collect();
            sources.sort();
            sources.dedup();
            for source in sources {
                *counts.entry(source).or_default() += 1;
            }
        }
        let mut sources: Vec<(Source, usize)> = counts.into_iter().filter(|(_, count)| *count > MIN_INDEXED).collect();
        sources.sort_by(|(a, few), (b, many)| many.cmp(few).then_with(|| a.cmp(b)));
        sources.truncate(MAX_SOURCES);
        let mut builders: Vec<(Source, Builder)> =
            sources.into_iter().map(|(source, _)| (source, Builder::default())).collect();
        let mut others = Vec::new();
        for rank in ranks {
            let asked = asked(rank);
            let place = builders.iter_mut().find_map(|(source, builder)| {
                let of_source = asked.iter().filter(|(at, _)| at == source).map(|(_, keys)| keys);
                // of several conditions on one value the most telling
                of_source.min_by_key(|keys| keys.iter().map(Key::vagueness).max()).map(|keys| (builder, keys))
            });
            if !place.is_some_and(|(builder, keys)| builder.add(rank, keys)) {
                others.push(rank);
            }
        }
        let by_value = builders.into_iter().map(|(source, builder)| builder.build(outer, source, wanted)).collect();
        Self { ranks: others.into(), by_value }
    }

    /// Betters `best`, where a rule of better rank matches. `length` is what of the path led here.
    pub(super) fn find<R: RequestView>(
        &self,
        checks: &Checks,
        length: usize,
        subject: &Subject<'_, R>,
        best: &mut Best,
    ) {
        for by_value in &self.by_value {
            if by_value.best < best.rank {
                by_value.find(subject, best.rank, |candidates| {
                    candidates.find(checks, length, subject, best);
                    best.rank
                });
            }
        }
        let mut better = self.ranks.iter().take_while(|rank| **rank < best.rank);
        if let Some(&rank) = better.find(|rank| checks.hold(**rank, subject)) {
            *best = Best { rank, matched_prefix_len: length };
        }
    }
}

impl ByValue {
    /// Calls `meet` with the rules that may match; it says what is the best rank from then on.
    fn find<R: RequestView>(&self, subject: &Subject<'_, R>, below: u32, mut meet: impl FnMut(&Candidates) -> u32) {
        let mut below = below;
        if self.source == Source::Client {
            let number = number(subject.request.client());
            if let Some(candidates) = self.exact.get(&number.to_be_bytes()[..]) {
                below = meet(candidates);
            }
            self.ranges.find(number, |at| below = meet(&self.at_range[at]));
            if self.at_start.is_empty() && self.at_regex.is_empty() {
                return;
            }
        }
        let Some(value) = self.source.read(subject) else { return };
        if self.source != Source::Client
            && let Some(candidates) = self.exact.get(&*value)
        {
            below = meet(candidates);
        }
        let mut hit = self.starts.descend::<false>(&value);
        while let Some(at) = hit {
            below = meet(&self.at_start[self.starts.pattern(at)]);
            hit = self.starts.up(at);
        }
        if !self.regexes.is_empty() {
            self.regexes.find(&value, below, |slot| meet(&self.at_regex[slot]));
        }
    }
}

impl Key {
    /// How many values may fit, roughly.
    fn vagueness(&self) -> u8 {
        match self {
            Self::Exact(_) => 0,
            Self::Range(..) | Self::Starts(_) => 1,
            Self::Regex(_) => 2,
        }
    }
}

impl Builder {
    /// False when an expression does not compile, and the rule must wait elsewhere.
    fn add(&mut self, rank: u32, keys: &[Key]) -> bool {
        self.best.get_or_insert(rank);
        keys.iter().all(|key| match key {
            Key::Exact(value) => {
                push(self.exact.entry(value.clone()).or_default(), rank);
                true
            }
            Key::Starts(start) => {
                push(self.starts.entry(start.clone()).or_default(), rank);
                true
            }
            Key::Range(low, high) => {
                push(self.ranges.entry((*low, *high)).or_default(), rank);
                true
            }
            Key::Regex(pattern) => self.regexes.add(rank, pattern).is_ok(),
        })
    }

    fn build<'c>(self, outer: &[Source], source: Source, wanted: &dyn Fn(u32) -> &'c [Condition]) -> ByValue {
        let outer: Vec<Source> = outer.iter().cloned().chain([source.clone()]).collect();
        let inner = |ranks: Vec<u32>| Candidates::build_inside(&outer, ranks, wanted);
        let (starts, at_start): (Vec<_>, Vec<_>) = self.starts.into_iter().unzip();
        let (regexes, at_regex) = self.regexes.build();
        let (ranges, at_range): (Vec<_>, Vec<_>) = self.ranges.into_iter().unzip();
        ByValue {
            source,
            best: self.best.unwrap_or(u32::MAX),
            exact: self.exact.into_iter().map(|(value, ranks)| (value, inner(ranks))).collect(),
            starts: Trie::build(&starts),
            at_start: at_start.into_iter().map(inner).collect(),
            regexes,
            at_regex: at_regex.into_iter().map(inner).collect(),
            ranges: Ranges::build(ranges),
            at_range: at_range.into_iter().map(inner).collect(),
        }
    }
}
