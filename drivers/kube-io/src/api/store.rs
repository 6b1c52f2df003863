//! What an API server holds of the kinds that are watched: the last good version of each object, and what changed
//! since it was told last.
//!
//! Pure: lists and events come in, changes and findings go out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_model::cluster::{Change, Object};
use headwater_model::finding::{Finding, Severity};
use headwater_model::observed::Observed;
use headwater_model::origin::ObjectKey;

use super::parse::Item;
use super::resource::Scope;

/// Most findings about objects that are told; the rest is counted.
const MAX_FINDINGS: usize = 1000;

/// What an event of a watch says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    Set(Item),
    Gone(ObjectKey),
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    entries: BTreeMap<ObjectKey, Entry>,
    /// Entries with a fault.
    faulty: BTreeSet<ObjectKey>,
    /// What was told last of the objects that changed since then.
    told: BTreeMap<ObjectKey, Told>,
    /// The namespaces whose objects count; `None`: all of them do.
    namespaces: Option<BTreeSet<Arc<str>>>,
    /// Namespaces that are selected in any case.
    always: BTreeSet<Arc<str>>,
}

#[derive(Debug, Default)]
struct Entry {
    /// The last good version; `None` where there was none.
    object: Option<Object>,
    observed: Option<Arc<Observed>>,
    /// Why the newest version is not the one that counts.
    fault: Option<Box<Finding>>,
    /// Asked for by name, so that it counts in any namespace.
    named: bool,
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Told {
    object: Option<Object>,
    observed: Option<Arc<Observed>>,
}

impl Store {
    /// A whole list: what it does not name is gone.
    pub(crate) fn list(&mut self, scope: &Scope, items: Vec<Item>) {
        let listed: BTreeSet<ObjectKey> = items.iter().map(|item| item.key.clone()).collect();
        let gone: Vec<ObjectKey> = self.keys_in(scope).filter(|key| !listed.contains(*key)).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
        for item in items {
            self.set(scope, item);
        }
    }

    pub(crate) fn event(&mut self, scope: &Scope, event: Event) {
        match event {
            Event::Set(item) => self.set(scope, item),
            Event::Gone(key) => self.remove(&key),
        }
    }

    /// Forgets everything that the scope covers.
    pub(crate) fn clear(&mut self, scope: &Scope) {
        self.list(scope, Vec::new());
    }

    /// Namespaces that count whatever is selected.
    pub(crate) fn keep(&mut self, namespaces: impl IntoIterator<Item = Arc<str>>) {
        self.always.extend(namespaces);
    }

    /// Lets only objects of these namespaces count, and those without a namespace or asked for by name.
    pub(crate) fn select(&mut self, mut namespaces: BTreeSet<Arc<str>>) {
        namespaces.extend(self.always.iter().cloned());
        let before = self.namespaces.clone();
        let is_selected = |set: &Option<BTreeSet<Arc<str>>>, key: &ObjectKey| {
            set.as_ref().is_none_or(|set| set.contains(&key.id.namespace))
        };
        let after = Some(namespaces);
        let differ: Vec<ObjectKey> = (self.entries.keys())
            .filter(|key| key.kind.is_namespaced() && is_selected(&before, key) != is_selected(&after, key))
            .cloned()
            .collect();
        for key in differ {
            self.touch(&key);
        }
        self.namespaces = after;
    }

    /// Namespaces that are selected now.
    pub(crate) fn selected(&self) -> BTreeSet<Arc<str>> {
        self.namespaces.clone().unwrap_or_default()
    }

    fn keys_in<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = &'a ObjectKey> {
        let first = ObjectKey::new(scope.kind, scope.namespace.clone(), scope.name.clone().unwrap_or_default());
        self.entries.range(first..).map(|(key, _)| key).take_while(|key| scope.covers(key))
    }

    fn set(&mut self, scope: &Scope, item: Item) {
        let Item { key, object, observed, .. } = item;
        let entry = self.entries.get(&key);
        let same_object = match (&object, entry.and_then(|entry| entry.object.as_ref())) {
            (Ok(new), held) => held == Some(new),
            (Err(_), _) => true,
        };
        let same = entry.is_some_and(|entry| same_object && entry.observed == observed);
        if !same {
            self.touch(&key);
        }
        let entry = self
            .entries
            .entry(key.clone())
            .or_insert_with(|| Entry { named: scope.name.is_some(), ..Entry::default() });
        if !same {
            entry.observed = observed;
        }
        match object {
            Ok(object) => {
                // An equal object leaves the held one in its place, so that who compares pointers sees no change.
                if !same_object {
                    entry.object = Some(object);
                }
                entry.fault = None;
                self.faulty.remove(&key);
            }
            Err(fault) => {
                entry.fault = Some(fault);
                self.faulty.insert(key);
            }
        }
    }

    fn remove(&mut self, key: &ObjectKey) {
        if self.entries.contains_key(key) {
            self.touch(key);
            self.entries.remove(key);
            self.faulty.remove(key);
        }
    }

    /// Notes what was told of an object that is about to change.
    fn touch(&mut self, key: &ObjectKey) {
        if !self.told.contains_key(key) {
            self.told.insert(key.clone(), self.shown(key));
        }
    }

    /// What counts of an object now.
    fn shown(&self, key: &ObjectKey) -> Told {
        self.entries
            .get(key)
            .filter(|entry| self.counts(key, entry))
            .map_or_else(Told::default, |entry| Told { object: entry.object.clone(), observed: entry.observed.clone() })
    }

    fn counts(&self, key: &ObjectKey, entry: &Entry) -> bool {
        !key.kind.is_namespaced()
            || entry.named
            || self.namespaces.as_ref().is_none_or(|selected| selected.contains(&key.id.namespace))
    }

    /// Whether there may be something to take.
    pub(crate) fn is_touched(&self) -> bool {
        !self.told.is_empty()
    }

    /// What is different from what was taken before.
    pub(crate) fn take(&mut self) -> (Vec<Change>, Vec<(ObjectKey, Option<Observed>)>) {
        let (mut changes, mut observed) = (Vec::new(), Vec::new());
        for (key, told) in std::mem::take(&mut self.told) {
            let now = self.shown(&key);
            if now.observed != told.observed {
                observed.push((key.clone(), now.observed.as_deref().cloned()));
            }
            match (told.object, now.object) {
                (before, Some(object)) if before.as_ref() != Some(&object) => changes.push(Change::Set(object)),
                (Some(_), None) => changes.push(Change::Removed(key)),
                _ => {}
            }
        }
        (changes, observed)
    }

    /// Everything that is wrong with objects that count.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let faulty = self.faulty.iter().filter_map(|key| self.entries.get_key_value(key));
        let counted = faulty.filter(|(key, entry)| self.counts(key, entry));
        let mut findings: Vec<Finding> = counted.filter_map(|(_, entry)| finding(entry)).collect();
        let more = findings.len().saturating_sub(MAX_FINDINGS);
        if more > 0 {
            let last = findings.split_off(MAX_FINDINGS);
            let message = format!("{more} more objects are not valid");
            findings.extend(last.into_iter().next().map(|finding| Finding {
                object: None,
                field: String::new(),
                message,
                ..finding
            }));
        }
        findings
    }
}

fn finding(entry: &Entry) -> Option<Finding> {
    let mut finding = entry.fault.as_deref()?.clone();
    if entry.object.is_some() {
        finding.message.push_str("; the version read before stays");
    }
    debug_assert_eq!(finding.severity, Severity::Error);
    Some(finding)
}

#[cfg(test)]
mod tests;
