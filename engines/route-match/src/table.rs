//! All hosts of a listener.

use std::sync::Arc;

use ahash::AHashMap;
use headwater_model::gateway::{HostLaw, HostPattern, RouteTable, Rule, VirtualHost};

use crate::condition::Subject;
use crate::fault::Fault;
use crate::index::{Best, CompiledHost};
use crate::request::RequestView;
use crate::rewrite::CompiledRewrite;

/// Hosts that are shared or copied together.
const CHUNK: usize = 64;

/// The rules of a listener, ready to be searched.
#[derive(Debug, Default)]
pub struct CompiledTable {
    law: HostLaw,
    /// Of [`CHUNK`] slots each but the last; shared with the previous table where no host changed.
    chunks: Vec<Arc<Vec<Slot>>>,
    /// Index of the slot by address of its source.
    by_source: AHashMap<usize, u32>,
    /// Shared with the previous table while the set of hosts is the same.
    names: Arc<Names>,
    default: Option<Arc<Rule>>,
}

#[derive(Debug, Clone)]
struct Slot {
    pattern: HostPattern,
    /// Kept so that an equal pointer means an equal host.
    source: Arc<VirtualHost>,
    host: Arc<CompiledHost>,
}

/// Index of the slot by host.
#[derive(Debug, Default)]
struct Names {
    exact: AHashMap<Arc<str>, u32>,
    one_label: AHashMap<Arc<str>, u32>,
    suffix: AHashMap<Arc<str>, u32>,
    any: Option<u32>,
}

/// The rule that a request meets.
#[derive(Debug, Clone, Copy)]
pub struct Matched<'t> {
    pub rule: &'t Arc<Rule>,
    /// Host of the rule; `None` for the table's default rule.
    pub host: Option<&'t Arc<CompiledHost>>,
    /// Index of the rule in its host: dense, from 0, in order of precedence. 0 for the default rule.
    pub index: u32,
    /// Bytes of the normal path that `Exact`, `Prefix` or `StartsWith` compared; 0 for others. What follows a matched
    /// `Prefix` is empty or begins with `/`: for the prefix `/` the length is 0.
    pub matched_prefix_len: usize,
}

impl<'t> Matched<'t> {
    /// The rule's rewrite by a regular expression; `None` for the default rule, too.
    pub fn rewrite(&self) -> Option<&'t CompiledRewrite> {
        self.host?.rewrite(self.index)
    }
}

impl Slot {
    fn compile(pattern: &HostPattern, source: &Arc<VirtualHost>) -> Self {
        let host = Arc::new(CompiledHost::compile(source));
        Self { pattern: pattern.clone(), source: Arc::clone(source), host }
    }
}

fn address(source: &Arc<VirtualHost>) -> usize {
    Arc::as_ptr(source).addr()
}

impl CompiledTable {
    /// Compiles a table; hosts whose `Arc` is the same as in `previous` are taken over.
    ///
    /// An edit of some of `n` hosts costs their compilation and some 10 ns for each of `n`; a host that comes or goes some
    /// 100 ns for each.
    pub fn compile(table: &RouteTable, previous: Option<&Self>) -> Self {
        previous.and_then(|previous| previous.edited(table)).unwrap_or_else(|| Self::build(table, previous))
    }

    fn build(table: &RouteTable, previous: Option<&Self>) -> Self {
        let slots: Vec<Slot> = table
            .hosts
            .iter()
            .map(|(pattern, source)| {
                let known = previous.and_then(|previous| previous.known(pattern, source));
                known.cloned().unwrap_or_else(|| Slot::compile(pattern, source))
            })
            .collect();
        Self {
            law: table.law,
            by_source: (0..).zip(&slots).map(|(index, slot)| (address(&slot.source), index)).collect(),
            names: Arc::new(Names::build(&slots)),
            chunks: slots.chunks(CHUNK).map(|slots| Arc::new(slots.to_vec())).collect(),
            default: table.default.clone(),
        }
    }

    /// The same hosts, some of them edited; `None` when hosts came or went.
    fn edited(&self, table: &RouteTable) -> Option<Self> {
        if table.hosts.len() != self.chunks.iter().map(|chunk| chunk.len()).sum::<usize>() {
            return None;
        }
        // as many hosts as before, each known by name: the same hosts
        let mut edits = Vec::new();
        for (pattern, source) in &table.hosts {
            if self.known(pattern, source).is_none() {
                edits.push((self.names.slot(pattern)?, pattern, source));
            }
        }
        let (mut chunks, mut by_source) = (self.chunks.clone(), self.by_source.clone());
        for (index, pattern, source) in edits {
            let old = Arc::make_mut(&mut chunks[index / CHUNK]).get_mut(index % CHUNK)?;
            by_source.remove(&address(&old.source));
            by_source.insert(address(source), u32::try_from(index).ok()?);
            *old = Slot::compile(pattern, source);
        }
        Some(Self { law: table.law, chunks, by_source, names: Arc::clone(&self.names), default: table.default.clone() })
    }

    /// The slot of a host that has not changed.
    fn known(&self, pattern: &HostPattern, source: &Arc<VirtualHost>) -> Option<&Slot> {
        let index = *self.by_source.get(&address(source))? as usize;
        let slot = self.chunks.get(index / CHUNK)?.get(index % CHUNK)?;
        (Arc::ptr_eq(&slot.source, source) && slot.pattern == *pattern).then_some(slot)
    }

    fn compiled(&self, slot: usize) -> &Arc<CompiledHost> {
        &self.chunks[slot / CHUNK][slot % CHUNK].host
    }

    /// The rule that the request meets: the best of its host, by the table's [`HostLaw`], else the default rule.
    ///
    /// `host` comes from [`normalise_host`](crate::normalise_host); empty for a request without one.
    pub fn find<'t, R: RequestView>(&'t self, request: &R, host: &str) -> Option<Matched<'t>> {
        let subject = Subject::new(request, host);
        let found = match self.law {
            HostLaw::MostSpecific => self.names.matching(host).next().and_then(|slot| self.find_in(slot, &subject)),
            HostLaw::ByPrecedence => self
                .names
                .matching(host)
                .filter_map(|slot| self.find_in(slot, &subject))
                .min_by(|a, b| a.rule.precedence.cmp(&b.rule.precedence)),
        };
        found.or_else(|| {
            let rule = self.default.as_ref()?;
            Some(Matched { rule, host: None, index: 0, matched_prefix_len: 0 })
        })
    }

    /// Rules that could not be compiled as written.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).flat_map(|slot| slot.host.faults())
    }

    /// The compiled rules of a host.
    pub fn host(&self, host: &HostPattern) -> Option<&Arc<CompiledHost>> {
        Some(self.compiled(self.names.slot(host)?))
    }

    fn find_in<R: RequestView>(&self, slot: usize, subject: &Subject<'_, R>) -> Option<Matched<'_>> {
        let host = self.compiled(slot);
        let Best { rank, matched_prefix_len } = host.find(subject)?;
        Some(Matched { rule: &host.rules()[rank as usize], host: Some(host), index: rank, matched_prefix_len })
    }
}

impl Names {
    fn build(slots: &[Slot]) -> Self {
        let mut names = Self::default();
        names.exact.reserve(slots.len());
        for (slot, host) in (0u32..).zip(slots.iter().map(|slot| &slot.pattern)) {
            match host {
                HostPattern::Exact(name) => _ = names.exact.insert(Arc::clone(name), slot),
                HostPattern::OneLabel(name) => _ = names.one_label.insert(Arc::clone(name), slot),
                HostPattern::Suffix(name) => _ = names.suffix.insert(Arc::clone(name), slot),
                HostPattern::Any => names.any = Some(slot),
            }
        }
        names
    }

    fn slot(&self, host: &HostPattern) -> Option<usize> {
        let slot = match host {
            HostPattern::Exact(name) => self.exact.get(name),
            HostPattern::OneLabel(name) => self.one_label.get(name),
            HostPattern::Suffix(name) => self.suffix.get(name),
            HostPattern::Any => self.any.as_ref(),
        };
        slot.map(|slot| *slot as usize)
    }

    /// Slots whose pattern matches, most specific first: exact, one label, longest suffix, any.
    fn matching<'n>(&'n self, host: &'n str) -> impl Iterator<Item = usize> + use<'n> {
        let one_label = (!self.one_label.is_empty())
            .then(|| host.split_once('.'))
            .flatten()
            .and_then(|(_, parent)| self.one_label.get(parent));
        let dots = (!self.suffix.is_empty()).then(|| host.bytes().enumerate().filter(|(_, byte)| *byte == b'.'));
        let suffixes = dots.into_iter().flatten().filter_map(|(dot, _)| self.suffix.get(&host[dot + 1..]));
        let wild = one_label.into_iter().chain(suffixes).chain(self.any.as_ref());
        self.exact.get(host).into_iter().chain(wild).map(|slot| *slot as usize)
    }
}
