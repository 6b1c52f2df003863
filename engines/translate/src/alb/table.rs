//! The rules of one port, host by host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap as HashMap;
use headwater_model::gateway::{HostLaw, HostPattern, Precedence, RouteTable, Rule, VirtualHost};

/// Rules in their order, and the table published from them. What did not change keeps its pointers.
#[derive(Debug)]
pub(super) struct PortTable {
    hosts: HashMap<HostPattern, BTreeMap<Precedence, Arc<Rule>>>,
    dirty: BTreeSet<HostPattern>,
    published: Arc<RouteTable>,
}

impl Default for PortTable {
    fn default() -> Self {
        let published = RouteTable { law: HostLaw::ByPrecedence, ..RouteTable::default() };
        Self { hosts: HashMap::new(), dirty: BTreeSet::new(), published: Arc::new(published) }
    }
}

impl PortTable {
    /// A rule of the same precedence gives way.
    pub(super) fn insert(&mut self, hosts: &[HostPattern], rule: &Arc<Rule>) {
        for host in hosts {
            self.hosts.entry(host.clone()).or_default().insert(rule.precedence.clone(), rule.clone());
            self.dirty.insert(host.clone());
        }
    }

    pub(super) fn remove(&mut self, hosts: &[HostPattern], precedence: &Precedence) {
        for host in hosts {
            if let Some(rules) = self.hosts.get_mut(host) {
                rules.remove(precedence);
            }
            self.dirty.insert(host.clone());
        }
    }

    /// The table of now; the same pointer as before when nothing changed.
    pub(super) fn publish(&mut self) -> &Arc<RouteTable> {
        for host in std::mem::take(&mut self.dirty) {
            let Some(rules) = self.hosts.get(&host).filter(|rules| !rules.is_empty()) else {
                self.hosts.remove(&host);
                if self.published.hosts.contains_key(&host) {
                    Arc::make_mut(&mut self.published).hosts.remove(&host);
                }
                continue;
            };
            let unchanged = self.published.hosts.get(&host).is_some_and(|old| {
                old.rules.len() == rules.len() && old.rules.iter().zip(rules.values()).all(|(a, b)| Arc::ptr_eq(a, b))
            });
            if !unchanged {
                let virtual_host = VirtualHost { host: host.clone(), rules: rules.values().cloned().collect() };
                Arc::make_mut(&mut self.published).hosts.insert(host, Arc::new(virtual_host));
            }
        }
        &self.published
    }
}
