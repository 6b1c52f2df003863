//! What a peer shall be told, what it was told, and the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use crate::types::{Families, Family, Route};
use crate::wire::render::{self, Manner};

/// Prefixes that one UPDATE can carry. Withdrawals come first, so that a table never grows past what it shall be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Batch {
    Withdraw(Family),
    Announce(Family, Arc<Route>),
}

#[derive(Debug, Default)]
struct Entry {
    wanted: Option<Arc<Route>>,
    told: Option<Arc<Route>>,
    /// The peer asked to be told once more.
    again: bool,
    /// Where it waits.
    batch: Option<Batch>,
}

/// Each change costs logarithmic time, whatever else waits.
#[derive(Debug, Default)]
pub(crate) struct Rib {
    entries: BTreeMap<IpNet, Entry>,
    waiting: BTreeMap<Batch, BTreeSet<IpNet>>,
    /// Families of the session; none while there is none.
    open: Families,
    told: usize,
    pending: usize,
}

impl Rib {
    pub(crate) fn told(&self) -> usize {
        self.told
    }

    /// Changes that wait; while there is no session, all that it will begin with.
    pub(crate) fn pending(&self) -> usize {
        if self.open.is_empty() { self.entries.len() } else { self.pending }
    }

    pub(crate) fn set(&mut self, prefix: IpNet, wanted: Option<Arc<Route>>) {
        let prefix = prefix.trunc();
        if wanted.is_none() && !self.entries.contains_key(&prefix) {
            return;
        }
        self.entries.entry(prefix).or_default().wanted = wanted;
        self.settle(prefix);
    }

    /// Puts a prefix where it has to wait, or nowhere.
    fn settle(&mut self, prefix: IpNet) {
        let Some(entry) = self.entries.get_mut(&prefix) else { return };
        let family = Family::of(&prefix);
        let batch = match (&entry.wanted, &entry.told) {
            _ if !self.open.has(family) => None,
            (Some(wanted), Some(told)) if wanted == told && !entry.again => None,
            (Some(wanted), _) => Some(Batch::Announce(family, wanted.clone())),
            (None, Some(_)) => Some(Batch::Withdraw(family)),
            (None, None) => None,
        };
        if let Some(old) = std::mem::replace(&mut entry.batch, batch.clone()) {
            self.pending -= 1;
            if let Some(others) = self.waiting.get_mut(&old) {
                others.remove(&prefix);
                if others.is_empty() {
                    self.waiting.remove(&old);
                }
            }
        }
        if entry.wanted.is_none() && entry.told.is_none() {
            self.entries.remove(&prefix);
        }
        if let Some(batch) = batch {
            self.pending += 1;
            self.waiting.entry(batch).or_default().insert(prefix);
        }
    }

    /// A session begins with these families, and nothing was told in it; with none, a session ended.
    pub(crate) fn restart(&mut self, families: Families) {
        self.waiting.clear();
        (self.told, self.pending, self.open) = (0, 0, families);
        self.entries.retain(|_, entry| {
            (entry.told, entry.batch, entry.again) = (None, None, false);
            entry.wanted.is_some()
        });
        self.settle_all(families);
    }

    /// Everything of the family is told once more.
    pub(crate) fn refresh(&mut self, family: Family) {
        for (_, entry) in self.entries.iter_mut().filter(|(prefix, _)| Family::of(prefix) == family) {
            entry.again = true;
        }
        self.settle_all(Families::only(family));
    }

    fn settle_all(&mut self, families: Families) {
        let prefixes: Vec<IpNet> =
            self.entries.keys().filter(|prefix| families.has(Family::of(prefix))).copied().collect();
        for prefix in prefixes {
            self.settle(prefix);
        }
    }

    /// Everything that was told is to be withdrawn, and nothing is to be told any more.
    pub(crate) fn clear(&mut self) {
        let prefixes: Vec<IpNet> = self.entries.keys().copied().collect();
        for prefix in prefixes {
            self.set(prefix, None);
        }
    }

    /// The next UPDATE; what it tells counts as told.
    pub(crate) fn next_update(&mut self, manner: &Manner) -> Option<Vec<u8>> {
        let mut first = self.waiting.first_entry()?;
        let batch = first.key().clone();
        let prefixes = first.get_mut();
        let (family, route) = match &batch {
            Batch::Withdraw(family) => (*family, None),
            Batch::Announce(family, route) => (*family, Some(route)),
        };
        // A family without next hop is not open.
        let next_hop = manner.next_hop(family)?;
        let (message, count) = match route {
            None => render::withdraw(prefixes.iter(), family, next_hop),
            Some(route) => render::announce(prefixes.iter(), family, next_hop, route, manner),
        };
        let rest = prefixes.iter().nth(count).copied();
        let rest = rest.map(|first| prefixes.split_off(&first)).unwrap_or_default();
        let sent = std::mem::replace(prefixes, rest);
        if prefixes.is_empty() {
            first.remove();
        }
        self.pending -= sent.len();
        for prefix in sent {
            let Some(entry) = self.entries.get_mut(&prefix) else { continue };
            (entry.batch, entry.again) = (None, false);
            match (std::mem::replace(&mut entry.told, route.cloned()).is_some(), route.is_some()) {
                (false, true) => self.told += 1,
                (true, false) => self.told -= 1,
                _ => {}
            }
            if entry.wanted.is_none() && entry.told.is_none() {
                self.entries.remove(&prefix);
            }
        }
        Some(message)
    }
}
