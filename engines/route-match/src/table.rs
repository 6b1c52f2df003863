//! All hosts of a listener.

use std::sync::Arc;

use ahash::AHashMap;
use headwater_model::gateway::{HostLaw, HostPattern, RouteTable, Rule, VirtualHost};

use crate::fault::Fault;
use crate::index::{Best, CompiledHost};
use crate::request::RequestView;

/// The rules of a listener, ready to be searched.
#[derive(Debug, Default)]
pub struct CompiledTable {
    law: HostLaw,
    slots: Vec<Slot>,
    /// Shared with the previous table while the set of hosts is the same.
    names: Arc<Names>,
    default: Option<Arc<Rule>>,
}

#[derive(Debug, Clone)]
struct Slot {
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

impl CompiledTable {
    /// Compiles a table; hosts whose `Arc` is the same as in `previous` are taken over.
    pub fn compile(table: &RouteTable, previous: Option<&Self>) -> Self {
        let previous = previous.filter(|previous| !previous.slots.is_empty());
        let names = previous.and_then(|previous| {
            let same = previous.slots.len() == table.hosts.len();
            (same && table.hosts.keys().all(|host| previous.names.slot(host).is_some()))
                .then(|| Arc::clone(&previous.names))
        });
        let names = names.unwrap_or_else(|| Arc::new(Names::build(table)));
        let mut slots: Vec<Option<Slot>> = vec![None; table.hosts.len()];
        for (host, source) in &table.hosts {
            let reused = previous
                .and_then(|previous| previous.slots.get(previous.names.slot(host)?))
                .filter(|slot| Arc::ptr_eq(&slot.source, source))
                .map(|slot| Arc::clone(&slot.host));
            let compiled = reused.unwrap_or_else(|| Arc::new(CompiledHost::compile(source)));
            if let Some(slot) = names.slot(host).and_then(|index| slots.get_mut(index)) {
                *slot = Some(Slot { source: Arc::clone(source), host: compiled });
            }
        }
        let slots = slots.into_iter().map(|slot| slot.expect("each host has one slot of its own")).collect();
        Self { law: table.law, slots, names, default: table.default.clone() }
    }

    /// The rule that the request meets: the best of its host, by the table's [`HostLaw`], else the default rule.
    ///
    /// `host` comes from [`normalise_host`](crate::normalise_host); empty for a request without one.
    pub fn find<'t, R: RequestView>(&'t self, request: &R, host: &str) -> Option<Matched<'t>> {
        let found = match self.law {
            HostLaw::MostSpecific => self.names.matching(host).next().and_then(|slot| self.find_in(slot, request)),
            HostLaw::ByPrecedence => self
                .names
                .matching(host)
                .filter_map(|slot| self.find_in(slot, request))
                .min_by(|a, b| a.rule.precedence.cmp(&b.rule.precedence)),
        };
        found.or_else(|| {
            let rule = self.default.as_ref()?;
            Some(Matched { rule, host: None, index: 0, matched_prefix_len: 0 })
        })
    }

    /// Rules that could not be compiled as written.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.slots.iter().flat_map(|slot| slot.host.faults())
    }

    /// The compiled rules of a host.
    pub fn host(&self, host: &HostPattern) -> Option<&Arc<CompiledHost>> {
        Some(&self.slots.get(self.names.slot(host)?)?.host)
    }

    fn find_in<R: RequestView>(&self, slot: usize, request: &R) -> Option<Matched<'_>> {
        let host = &self.slots[slot].host;
        let Best { rank, matched_prefix_len } = host.find(request)?;
        Some(Matched { rule: &host.rules()[rank as usize], host: Some(host), index: rank, matched_prefix_len })
    }
}

impl Names {
    fn build(table: &RouteTable) -> Self {
        let mut names = Self::default();
        names.exact.reserve(table.hosts.len());
        for (slot, host) in (0u32..).zip(table.hosts.keys()) {
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
