//! The route table of one gateway, host by host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap as HashMap;
use headwater_model::finding::Finding;
use headwater_model::gateway::{Action, HostLaw, HostPattern, PathMatch, Precedence, RouteTable, Rule, VirtualHost};
use headwater_model::origin::NamespacedName;

use crate::conflict::{self, Age};
use crate::filters::regex_of_text;
use crate::precedence;

/// A rule that an Ingress wants at a host and path. Several may want the same; the oldest gets it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) age: Age,
    pub(crate) rule: Arc<Rule>,
}

#[derive(Debug, Default)]
struct Host {
    /// By host, kind and path; candidates oldest first, never empty.
    places: BTreeMap<Precedence, Vec<Candidate>>,
    /// How many places are contested.
    contested: usize,
    /// Rules made for paths that are exempt from the redirect to HTTPS, with the rule each was made from.
    exempt: Vec<(Arc<Rule>, Arc<Rule>)>,
    /// Rules made where the paths of the host are regular expressions, with the rule each was made from.
    regexes: Vec<(Arc<Rule>, Arc<Rule>)>,
}

/// Hosts of a gateway, and the table published from them.
#[derive(Debug, Default)]
pub(crate) struct HostTable {
    hosts: HashMap<HostPattern, Host>,
    /// `spec.defaultBackend` of every Ingress, oldest first.
    defaults: BTreeMap<Age, Arc<Rule>>,
    /// What counts where no Ingress has a default backend.
    fallback: Option<Arc<Rule>>,
    dirty: BTreeSet<HostPattern>,
    defaults_dirty: bool,
    pub(crate) published: Arc<RouteTable>,
}

impl HostTable {
    pub(crate) fn insert(&mut self, host: &HostPattern, candidate: Candidate) {
        let entry = self.hosts.entry(host.clone()).or_default();
        let place = entry.places.entry(candidate.rule.precedence.clone()).or_default();
        let at = place.partition_point(|other| other.age < candidate.age);
        place.insert(at, candidate);
        entry.contested += usize::from(place.len() == 2);
        self.dirty.insert(host.clone());
    }

    pub(crate) fn remove(&mut self, host: &HostPattern, precedence: &Precedence, age: &Age) {
        let Some(entry) = self.hosts.get_mut(host) else { return };
        if let Some(place) = entry.places.get_mut(precedence) {
            let before = place.len();
            place.retain(|candidate| candidate.age != *age);
            entry.contested -= usize::from(before == 2 && place.len() == 1);
            if place.is_empty() {
                entry.places.remove(precedence);
            }
        }
        self.dirty.insert(host.clone());
    }

    pub(crate) fn insert_default(&mut self, age: Age, rule: Arc<Rule>) {
        self.defaults.insert(age, rule);
        self.defaults_dirty = true;
    }

    pub(crate) fn remove_default(&mut self, age: &Age) {
        self.defaults.remove(age);
        self.defaults_dirty = true;
    }

    pub(crate) fn set_fallback(&mut self, rule: Option<Arc<Rule>>) {
        self.fallback = rule;
        self.defaults_dirty = true;
    }

    /// Every host that the wildcard `*.suffix` covers, itself included.
    pub(crate) fn under(&self, suffix: &str) -> Vec<HostPattern> {
        let covered = |host: &HostPattern| match host {
            HostPattern::Exact(name) => name.split_once('.').is_some_and(|(_, parent)| parent == suffix),
            HostPattern::OneLabel(parent) => &**parent == suffix,
            HostPattern::Suffix(_) | HostPattern::Any => false,
        };
        self.hosts.keys().filter(|host| covered(host)).cloned().collect()
    }

    /// The Ingress that had a rule at the host first.
    pub(crate) fn oldest(&self, host: &HostPattern) -> Option<&Age> {
        let places = self.hosts.get(host)?.places.values();
        places.filter_map(|place| place.first()).map(|candidate| &candidate.age).min()
    }

    /// Hosts whose rules changed since the last [`Self::publish`].
    pub(crate) fn changed(&self) -> impl Iterator<Item = &HostPattern> {
        self.dirty.iter()
    }

    /// The Ingresses that have a rule at the host.
    pub(crate) fn owners(&self, host: &HostPattern) -> BTreeSet<NamespacedName> {
        let places = self.hosts.get(host).into_iter().flat_map(|entry| entry.places.values());
        places.flatten().map(|candidate| candidate.age.id.clone()).collect()
    }

    pub(crate) fn mark_all(&mut self) {
        self.dirty.extend(self.hosts.keys().cloned());
        self.defaults_dirty = true;
    }

    /// Rebuilds what is dirty and publishes a new table if it differs. `found` gets the conflicts of each rebuilt host
    /// (`None`: of the default backends).
    pub(crate) fn publish(&mut self, exempt: &[Box<str>], mut found: impl FnMut(Option<&HostPattern>, Vec<Finding>)) {
        if self.defaults_dirty {
            self.defaults_dirty = false;
            found(None, self.default_conflicts());
            let default = self.defaults.values().next().or(self.fallback.as_ref());
            if !same(default, self.published.default.as_ref()) {
                Arc::make_mut(&mut self.published).default = default.cloned();
            }
        }
        for host in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.hosts.get_mut(&host) else { continue };
            if entry.places.is_empty() {
                self.hosts.remove(&host);
                found(Some(&host), Vec::new());
                if self.published.hosts.contains_key(&host) {
                    Arc::make_mut(&mut self.published).hosts.remove(&host);
                }
                continue;
            }
            found(Some(&host), entry.conflicts(&host));
            let rules = entry.rules(&host, exempt);
            let unchanged = self.published.hosts.get(&host).is_some_and(|old| {
                old.rules.len() == rules.len() && old.rules.iter().zip(&rules).all(|(a, b)| Arc::ptr_eq(a, b))
            });
            if !unchanged {
                let virtual_host = Arc::new(VirtualHost { host: host.clone(), rules });
                let table = Arc::make_mut(&mut self.published);
                table.law = HostLaw::MostSpecific;
                table.hosts.insert(host, virtual_host);
            }
        }
    }

    fn default_conflicts(&self) -> Vec<Finding> {
        let Some((winner, _)) = self.defaults.first_key_value() else { return Vec::new() };
        let losers = self.defaults.iter().skip(1);
        losers.map(|(age, rule)| conflict::lost(age, &rule.field, "what no other rule matches", winner)).collect()
    }
}

fn same(a: Option<&Arc<Rule>>, b: Option<&Arc<Rule>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

impl Host {
    fn conflicts(&self, host: &HostPattern) -> Vec<Finding> {
        if self.contested == 0 {
            return Vec::new();
        }
        let mut findings = Vec::new();
        for place in self.places.values() {
            let (winner, losers) = place.split_first().expect("a place has a candidate");
            for loser in losers {
                let what = match &loser.rule.matches.path {
                    PathMatch::Exact(path) => format!("exact path {path} of host {host}"),
                    PathMatch::Prefix(path) => format!("path {path} of host {host}"),
                    PathMatch::Regex(pattern) => format!("regular expression {pattern} of host {host}"),
                    _ => format!("what no other path of host {host} matches"),
                };
                findings.push(conflict::lost(&loser.age, &loser.rule.field, &what, &winner.age));
            }
        }
        findings
    }

    fn rules(&mut self, host: &HostPattern, exempt: &[Box<str>]) -> Vec<Arc<Rule>> {
        let mut rules: Vec<Arc<Rule>> = Vec::with_capacity(self.places.len() + exempt.len());
        rules.extend(self.places.values().filter_map(|place| place.first()).map(|candidate| candidate.rule.clone()));
        let old = std::mem::take(&mut self.exempt);
        if rules.iter().any(|rule| matches!(rule.matches.path, PathMatch::Regex(_))) {
            return self.as_regexes(host, rules, exempt);
        }
        self.regexes = Vec::new();
        for path in exempt {
            let Some(base) = self.covering(host, path) else { continue };
            if !redirects(&base) {
                continue;
            }
            let before = old.iter().find(|(_, made)| is_for(made, path));
            let made = match before {
                Some((from, made)) if Arc::ptr_eq(from, &base) => made.clone(),
                _ => {
                    let made = without_redirect(host, &base, path);
                    // A base that only redirects elsewhere makes the same rule.
                    let same = before.filter(|(_, before)| **before == made);
                    same.map_or_else(|| Arc::new(made), |(_, before)| before.clone())
                }
            };
            let at = rules.partition_point(|rule| rule.precedence < made.precedence);
            rules.insert(at, made.clone());
            self.exempt.push((base, made));
        }
        rules
    }

    /// Where one Ingress of a host asks for regular expressions, every path of the host is one, as in ingress-nginx: the
    /// longest that matches wins. Which rule an exempt path gets is known with the request only.
    fn as_regexes(&mut self, host: &HostPattern, mut rules: Vec<Arc<Rule>>, exempt: &[Box<str>]) -> Vec<Arc<Rule>> {
        let old = std::mem::take(&mut self.regexes);
        for rule in &mut rules {
            let Some(made) = as_regex(host, rule, exempt) else { continue };
            let before = old.iter().find(|(from, _)| Arc::ptr_eq(from, rule)).map(|(_, before)| before);
            let made = before.filter(|before| ***before == made).map_or_else(|| Arc::new(made), Arc::clone);
            self.regexes.push((rule.clone(), made.clone()));
            *rule = made;
        }
        // Of equal ones, an Exact path stays in front.
        rules.sort_by(|a, b| a.precedence.cmp(&b.precedence));
        rules
    }

    /// The rule that a request for `path` would get, were it not for rules of longer paths.
    fn covering(&self, host: &HostPattern, path: &str) -> Option<Arc<Rule>> {
        let mut end = path.trim_end_matches('/').len();
        loop {
            let prefix = if end == 0 { "/" } else { &path[..end] };
            let place = self.places.get(&precedence::of_path(host, &PathMatch::Prefix(prefix.into())));
            if let Some(candidate) = place.and_then(|place| place.first()) {
                return Some(candidate.rule.clone());
            }
            if end == 0 {
                let place = self.places.get(&precedence::of_path(host, &PathMatch::Any));
                return place.and_then(|place| place.first()).map(|candidate| candidate.rule.clone());
            }
            end = path[..end].rfind('/').unwrap_or(0);
        }
    }
}

/// The rule with a regular expression for its path; `None`: as it is.
fn as_regex(host: &HostPattern, rule: &Rule, exempt: &[Box<str>]) -> Option<Rule> {
    let path = match &rule.matches.path {
        PathMatch::Exact(text) | PathMatch::Prefix(text) | PathMatch::StartsWith(text) => Some(regex_of_text(text)),
        _ => None,
    };
    if path.is_none() && (!redirects(rule) || exempt.is_empty()) {
        return None;
    }
    let mut rule = rule.clone();
    if let Some(path) = path {
        rule.precedence = precedence::of_path(host, &path);
        rule.matches.path = path;
    }
    if let Action::Forward(forward) = &mut rule.action
        && let Some(redirect) = &mut forward.https_redirect
    {
        redirect.exempt = exempt.to_vec();
    }
    Some(rule)
}

fn redirects(rule: &Rule) -> bool {
    matches!(&rule.action, Action::Forward(forward) if forward.https_redirect.is_some())
}

fn is_for(rule: &Rule, path: &str) -> bool {
    matches!(&rule.matches.path, PathMatch::StartsWith(known) if **known == *path)
}

/// The same rule for an exempt path. Rules of longer paths still come first.
fn without_redirect(host: &HostPattern, base: &Rule, path: &str) -> Rule {
    let mut rule = base.clone();
    rule.matches.path = PathMatch::StartsWith(path.into());
    rule.precedence = precedence::of_path(host, &rule.matches.path);
    if let Action::Forward(forward) = &mut rule.action {
        forward.https_redirect = None;
    }
    rule
}
