//! Certificates of one gateway, by server name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap as HashMap;
use headwater_model::finding::Finding;
use headwater_model::gateway::{Certificate, HostPattern, StreamRoute, TlsTermination};
use headwater_model::object::Ingress;
use headwater_model::origin::NamespacedName;

use crate::certificate::{CertificateError, Loaded};
use crate::conflict::{self, Age, place};
use crate::host::{covers, parse_host};
use crate::hosts::HostTable;
use crate::settings::TlsPlan;

/// Secrets that Ingresses name, as loaded.
pub(crate) type Certificates = BTreeMap<NamespacedName, Result<Loaded, CertificateError>>;

/// A name that an Ingress wants to answer with a certificate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claim {
    /// `Exact` or `OneLabel`.
    pub(crate) name: HostPattern,
    pub(crate) secret: NamespacedName,
    pub(crate) age: Age,
    pub(crate) field: String,
}

/// The claims of one Ingress: the hosts of its TLS entries, and hosts of its rules that a certificate covers.
///
/// Names without a loaded certificate are claimed as well: they count when the Secret comes.
pub(crate) fn claims(
    ingress: &Ingress,
    age: &Age,
    hosts: &[Option<HostPattern>],
    certificates: &Certificates,
    findings: &mut Vec<Finding>,
) -> Vec<Claim> {
    let mut claims: Vec<Claim> = Vec::new();
    let namespace = &ingress.metadata.namespace;
    let mut listed = BTreeSet::new();
    let mut loaded = Vec::new();
    for (index, entry) in ingress.spec.tls.iter().enumerate() {
        let field = format!("spec.tls[{index}]");
        let Some(secret) = entry.secret_name.as_deref().filter(|name| !name.is_empty()) else {
            for host in entry.hosts.iter().filter_map(|host| parse_host(host).ok()) {
                listed.insert(host);
            }
            continue;
        };
        let id = NamespacedName::new(namespace.clone(), secret);
        let certificate = certificates.get(&id).and_then(|loaded| loaded.as_ref().ok());
        if let Some(Err(wrong)) = certificates.get(&id)
            && *wrong != CertificateError::NotRead
        {
            let reason = if *wrong == CertificateError::Missing { "MissingReference" } else { "InvalidCertificate" };
            let message = format!("Secret {id} {wrong}; the default certificate is served");
            findings.push(Finding::error(reason, ingress.key(), message).at(format!("{field}.secretName")));
        }
        for (nth, host) in entry.hosts.iter().enumerate() {
            let field = format!("{field}.hosts[{nth}]");
            let name = match parse_host(host) {
                Ok(name) if name != HostPattern::Any => name,
                Ok(_) => {
                    let message = "an empty host has no certificate; list names, or leave hosts out";
                    findings.push(Finding::error("InvalidHost", ingress.key(), message).at(field));
                    continue;
                }
                Err(wrong) => {
                    findings.push(Finding::error("InvalidHost", ingress.key(), wrong.to_string()).at(field));
                    continue;
                }
            };
            if let Some(certificate) = certificate
                && !certificate.certificate.names.iter().any(|known| covers(known, &name))
            {
                let message = format!(
                    "the certificate of Secret {id} does not cover {name} (it is for {}); clients will refuse it",
                    names_text(&certificate.certificate.names)
                );
                findings.push(Finding::warning("HostNotCovered", ingress.key(), message).at(field.clone()));
            }
            listed.insert(name.clone());
            claims.push(Claim { name, secret: id.clone(), age: age.at(place(0, claims.len())), field });
        }
        if let Some(certificate) = certificate {
            loaded.push((id, field, certificate, entry.hosts.is_empty()));
        }
    }
    // As ingress-nginx does: a host of a rule that is not listed takes the first certificate that covers it.
    let catches_all =
        hosts.iter().flatten().any(|host| *host == HostPattern::Any) || ingress.spec.default_backend.is_some();
    let mut claim = |name: HostPattern, id: &NamespacedName, field: &str, listed: &mut BTreeSet<HostPattern>| {
        if listed.insert(name.clone()) {
            let age = age.at(place(0, claims.len()));
            claims.push(Claim { name, secret: id.clone(), age, field: field.to_owned() });
        }
    };
    if !loaded.is_empty() {
        for host in hosts.iter().flatten().filter(|host| **host != HostPattern::Any) {
            let covering = loaded
                .iter()
                .find(|(_, _, certificate, _)| certificate.certificate.names.iter().any(|name| covers(name, host)));
            if let Some((id, field, ..)) = covering {
                claim(host.clone(), id, field, &mut listed);
            }
        }
    }
    for (id, field, certificate, _) in loaded.iter().filter(|(.., without_hosts)| *without_hosts && catches_all) {
        for name in certificate.certificate.names.iter().filter_map(|name| parse_host(name).ok()) {
            claim(name, id, field, &mut listed);
        }
    }
    claims
}

/// Hosts of TLS entries without a Secret, which the default certificate of the gateway covers.
pub(crate) fn by_default(ingress: &Ingress, default: Option<&Certificate>) -> BTreeSet<HostPattern> {
    let Some(default) = default else { return BTreeSet::new() };
    let entries = ingress.spec.tls.iter().filter(|entry| entry.secret_name.as_deref().unwrap_or("").is_empty());
    let hosts = entries.flat_map(|entry| &entry.hosts).filter_map(|host| parse_host(host).ok());
    hosts.filter(|host| default.names.iter().any(|name| covers(name, host))).collect()
}

fn names_text(names: &[String]) -> String {
    match names {
        [] => "no DNS name".to_owned(),
        names => names.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", "),
    }
}

/// Names of a gateway, and the table published from them.
#[derive(Debug, Default)]
pub(crate) struct TlsTable {
    /// Oldest claim first, never empty.
    claims: HashMap<HostPattern, Vec<Claim>>,
    /// What is served, oldest owner first; only names with a certificate.
    chosen: HashMap<HostPattern, Vec<Arc<Certificate>>>,
    dirty: BTreeSet<HostPattern>,
    published: Option<Arc<TlsTermination>>,
    stale: BTreeSet<HostPattern>,
    /// Hosts that Ingresses want to be carried as they are.
    passed: HashMap<HostPattern, BTreeMap<Age, Arc<StreamRoute>>>,
    passed_dirty: BTreeSet<HostPattern>,
}

impl TlsTable {
    pub(crate) fn insert(&mut self, claim: Claim) {
        self.dirty.insert(claim.name.clone());
        let claims = self.claims.entry(claim.name.clone()).or_default();
        let at = claims.partition_point(|other| other.age < claim.age);
        claims.insert(at, claim);
    }

    pub(crate) fn remove(&mut self, claim: &Claim) {
        self.dirty.insert(claim.name.clone());
        if let Some(claims) = self.claims.get_mut(&claim.name) {
            claims.retain(|other| other.age != claim.age);
            if claims.is_empty() {
                self.claims.remove(&claim.name);
            }
        }
    }

    pub(crate) fn pass(&mut self, host: &HostPattern, age: Age, route: Arc<StreamRoute>) {
        self.passed_dirty.insert(host.clone());
        self.passed.entry(host.clone()).or_default().insert(age, route);
    }

    pub(crate) fn pass_no_more(&mut self, host: &HostPattern, age: &Age) {
        self.passed_dirty.insert(host.clone());
        if let Some(routes) = self.passed.get_mut(host) {
            routes.remove(age);
            if routes.is_empty() {
                self.passed.remove(host);
            }
        }
    }

    /// Decides which hosts are carried as they are: those whose oldest Ingress wants it. To be asked before `hosts` is
    /// published, and [`Self::publish`] after it. Without a plan, for a gateway that is gone: then none is left.
    pub(crate) fn settle_passed(
        &mut self,
        hosts: &HostTable,
        plan: Option<&TlsPlan>,
        mut found: impl FnMut(&HostPattern, Vec<Finding>),
    ) {
        if self.passed.is_empty() && self.passed_dirty.is_empty() {
            return;
        }
        let mut dirty = std::mem::take(&mut self.passed_dirty);
        dirty.extend(hosts.changed().filter(|host| self.passed.contains_key(host)).cloned());
        for host in dirty {
            let none = BTreeMap::new();
            let routes = self.passed.get(&host).unwrap_or(&none);
            // Who was at the host first decides whether anybody here reads what is sent to it.
            let first = routes.first_key_value();
            let owner = hosts.oldest(&host).filter(|owner| first.is_some_and(|(age, _)| owner.id != age.id));
            let older = owner.filter(|owner| first.is_some_and(|(age, _)| *owner < age));
            let winner = if older.is_some() { None } else { first.map(|(_, route)| route.clone()) };
            let by = older.or(first.map(|(age, _)| age));
            let skipped = usize::from(winner.is_some());
            let lost = routes.iter().skip(skipped).filter_map(|(age, route)| {
                let what = format!("TLS of host {host}");
                Some(conflict::lost(age, &route.field, &what, by?))
            });
            found(&host, lost.collect());
            let Some(plan) = plan else { continue };
            let published = self.termination(plan);
            let before = published.passthrough.get(&host);
            let unchanged = match (before, &winner) {
                (Some(before), Some(winner)) => Arc::ptr_eq(before, winner),
                (None, None) => true,
                _ => false,
            };
            if !unchanged {
                let table = Arc::make_mut(published);
                match winner {
                    Some(winner) => drop(table.passthrough.insert(host, winner)),
                    None => drop(table.passthrough.remove(&host)),
                }
            }
        }
    }

    /// A Secret of this claim was read again.
    pub(crate) fn mark(&mut self, name: &HostPattern) {
        self.dirty.insert(name.clone());
    }

    /// Whether a client that asks for the host gets a certificate made for it.
    pub(crate) fn is_covered(&self, host: &HostPattern) -> bool {
        if self.chosen.is_empty() {
            return false;
        }
        self.chosen.contains_key(host)
            || matches!(host, HostPattern::Exact(name) if name.split_once('.').is_some_and(|(_, parent)| {
                self.chosen.contains_key(&HostPattern::OneLabel(parent.into()))
            }))
    }

    /// Chooses certificates for the dirty names. Returns the names that got their first certificate or lost their last.
    pub(crate) fn settle(
        &mut self,
        certificates: &Certificates,
        mut found: impl FnMut(&HostPattern, Vec<Finding>),
    ) -> Vec<HostPattern> {
        let mut flipped = Vec::new();
        for name in std::mem::take(&mut self.dirty) {
            let claims = self.claims.get(&name).map_or(&[][..], Vec::as_slice);
            let (chosen, findings) = choose(claims, certificates);
            found(&name, findings);
            let old = self.chosen.get(&name);
            let unchanged = match old {
                Some(old) => old.len() == chosen.len() && old.iter().zip(&chosen).all(|(a, b)| Arc::ptr_eq(a, b)),
                None => chosen.is_empty(),
            };
            if unchanged {
                continue;
            }
            if old.is_none() || chosen.is_empty() {
                flipped.push(name.clone());
            }
            self.stale.insert(name.clone());
            if chosen.is_empty() {
                self.chosen.remove(&name);
            } else {
                self.chosen.insert(name, chosen);
            }
        }
        flipped
    }

    fn termination(&mut self, plan: &TlsPlan) -> &mut Arc<TlsTermination> {
        self.published.get_or_insert_with(|| {
            Arc::new(TlsTermination {
                exact: std::collections::HashMap::new(),
                wildcard: std::collections::HashMap::new(),
                default: None,
                min_version: plan.min_version,
                http2: plan.http2,
                session_tickets: plan.session_tickets,
                passthrough: Default::default(),
            })
        })
    }

    /// The table of now; the same pointer as before when nothing changed.
    pub(crate) fn publish(&mut self, plan: &TlsPlan) -> Arc<TlsTermination> {
        self.termination(plan);
        let published = self.published.as_mut().expect("made above");
        let same_plan = published.default == plan.default
            && published.min_version == plan.min_version
            && published.http2 == plan.http2
            && published.session_tickets == plan.session_tickets;
        if !self.stale.is_empty() || !same_plan {
            let table = Arc::make_mut(published);
            table.default = plan.default.clone();
            table.min_version = plan.min_version;
            table.http2 = plan.http2;
            table.session_tickets = plan.session_tickets;
            for name in std::mem::take(&mut self.stale) {
                let chosen = self.chosen.get(&name).cloned();
                let (map, text) = match name {
                    HostPattern::Exact(text) => (&mut table.exact, text),
                    HostPattern::OneLabel(text) | HostPattern::Suffix(text) => (&mut table.wildcard, text),
                    HostPattern::Any => continue,
                };
                match chosen {
                    Some(chosen) => drop(map.insert(text, chosen)),
                    None => drop(map.remove(&text)),
                }
            }
        }
        published.clone()
    }
}

/// One certificate of each kind of key, from the oldest claim that has one.
fn choose(claims: &[Claim], certificates: &Certificates) -> (Vec<Arc<Certificate>>, Vec<Finding>) {
    let mut chosen: Vec<(&Claim, &Loaded)> = Vec::new();
    let mut findings = Vec::new();
    for claim in claims {
        if chosen.iter().any(|(winner, _)| winner.secret == claim.secret) {
            continue;
        }
        let Some(Ok(loaded)) = certificates.get(&claim.secret) else { continue };
        match chosen.iter().find(|(_, other)| other.kind == loaded.kind) {
            None => chosen.push((claim, loaded)),
            Some((winner, other)) => {
                let (a, b) = (&other.certificate, &loaded.certificate);
                if a.chain != b.chain {
                    let what = format!("the certificate of {}", claim.name);
                    findings.push(conflict::lost(&claim.age, &claim.field, &what, &winner.age));
                }
            }
        }
    }
    (chosen.into_iter().map(|(_, loaded)| loaded.certificate.clone()).collect(), findings)
}
