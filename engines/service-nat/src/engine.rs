//! The one who keeps what was derived, so that a change costs what it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use headwater_model::cluster::Cluster;
use headwater_model::finding::Finding;
use headwater_model::nat::{ServiceRules, ServiceSnapshot, Slot};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};

use crate::claims::Claims;
use crate::endpoints::{Members, Names, service_of};
use crate::intent::{self, Intent};
use crate::options::Options;
use crate::rules::{Build, PortKey, Seeds};

/// What objects became.
#[derive(Debug, Clone)]
pub struct Update {
    /// The same pointer as before when nothing changed.
    pub snapshot: Arc<ServiceSnapshot>,
    /// Services whose rules came, went or changed since the last update, in order of names.
    pub changed: Vec<NamespacedName>,
    /// Everything that is wrong now, in an order that only depends on the objects.
    pub findings: Arc<[Finding]>,
}

/// Derives what a node does with packets to Services, and then what changes.
///
/// The result never depends on the order of changes, but for two things that only a history has: slots of endpoints
/// whose suggested slots collide, and the generation of the snapshot.
#[derive(Debug)]
pub struct ServiceNat {
    options: Options,
    /// Whether everything is to be read: at first, and when the options changed.
    all: bool,
    intents: BTreeMap<NamespacedName, Intent>,
    claims: Claims,
    service_of: BTreeMap<NamespacedName, NamespacedName>,
    slices_of: BTreeMap<NamespacedName, BTreeSet<NamespacedName>>,
    seeds: BTreeMap<NamespacedName, Seeds>,
    names: Names,
    findings: BTreeMap<NamespacedName, Vec<Finding>>,
    all_findings: Arc<[Finding]>,
    snapshot: Arc<ServiceSnapshot>,
}

impl ServiceNat {
    /// Nothing is derived yet; the first [`Self::apply`] reads the whole cluster.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            all: true,
            intents: BTreeMap::new(),
            claims: Claims::default(),
            service_of: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            seeds: BTreeMap::new(),
            names: Names::default(),
            findings: BTreeMap::new(),
            all_findings: Arc::default(),
            snapshot: Arc::default(),
        }
    }

    /// Another node's name, zone, addresses, or another default. The next [`Self::apply`] reads the whole cluster, and
    /// keeps what comes out the same.
    pub fn set_options(&mut self, options: Options) {
        if self.options != options {
            self.options = options;
            self.all = true;
        }
    }

    /// Slots that endpoints of a port had before this process started, so that affinity survives. Without effect after
    /// the first [`Self::apply`].
    pub fn adopt(&mut self, service: NamespacedName, port: PortKey, slots: Vec<(SocketAddr, Slot)>) {
        if self.snapshot.generation == 0 {
            self.seeds.entry(service).or_default().insert(port, slots);
        }
    }

    /// Derives from `cluster`, in which exactly the objects named by `changes` were set or removed since the last call.
    /// The first call, and the one after [`Self::set_options`], ignore `changes`.
    pub fn apply(&mut self, cluster: &Cluster, changes: &[ObjectKey]) -> Update {
        let mut read: BTreeSet<NamespacedName> = BTreeSet::new();
        let mut build: BTreeSet<NamespacedName> = BTreeSet::new();
        if std::mem::take(&mut self.all) {
            let slices = self.service_of.keys().chain(cluster.endpoint_slices.keys());
            for slice in slices.cloned().collect::<BTreeSet<_>>() {
                self.update_slice(cluster, &slice, &mut build);
            }
            read.extend(self.intents.keys().chain(cluster.services.keys()).cloned());
        } else {
            for key in changes {
                match key.kind {
                    Kind::Service => {
                        read.insert(key.id.clone());
                    }
                    Kind::EndpointSlice => self.update_slice(cluster, &key.id, &mut build),
                    _ => {}
                }
            }
        }
        for id in &read {
            self.read_intent(cluster, id, &mut build);
        }
        build.extend(read);
        let mut findings_changed = false;
        let mut changed = Vec::new();
        for id in build {
            let mut findings = Vec::new();
            let rules = self.rules(cluster, &id, &mut findings);
            let kept = match (self.snapshot.get(&id), &rules) {
                (None, None) => true,
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                _ => false,
            };
            if !kept {
                changed.push((id.clone(), rules));
            }
            cap(&mut findings, &id);
            let known = self.findings.get(&id).map(Vec::as_slice).unwrap_or_default();
            if known != findings {
                findings_changed = true;
                if findings.is_empty() {
                    self.findings.remove(&id);
                } else {
                    self.findings.insert(id, findings);
                }
            }
        }
        self.seeds.clear();
        let changed = self.publish(changed);
        if findings_changed {
            self.all_findings = self.findings.values().flatten().cloned().collect();
        }
        Update { snapshot: self.snapshot.clone(), changed, findings: self.all_findings.clone() }
    }

    /// Marks the Services that the slice belongs to, and belonged to.
    fn update_slice(&mut self, cluster: &Cluster, slice: &NamespacedName, build: &mut BTreeSet<NamespacedName>) {
        let now = cluster.endpoint_slices.get(slice).and_then(|slice| service_of(slice));
        let before = self.service_of.get(slice).cloned();
        if before != now {
            if let Some(service) = &before {
                self.service_of.remove(slice);
                if let Some(slices) = self.slices_of.get_mut(service) {
                    slices.remove(slice);
                    if slices.is_empty() {
                        self.slices_of.remove(service);
                    }
                }
            }
            if let Some(service) = &now {
                self.service_of.insert(slice.clone(), service.clone());
                self.slices_of.entry(service.clone()).or_default().insert(slice.clone());
            }
        }
        build.extend(before);
        build.extend(now);
    }

    /// Reads a Service, and marks those that win or lose something by its change.
    fn read_intent(&mut self, cluster: &Cluster, id: &NamespacedName, build: &mut BTreeSet<NamespacedName>) {
        let intent = cluster.services.get(id).and_then(|service| intent::read(service, &self.options));
        self.claims.replace_intent(id, intent, &mut self.intents, |other| {
            build.insert(other.clone());
        });
    }

    /// `None`: the Service is not proxied.
    fn rules(
        &mut self,
        cluster: &Cluster,
        id: &NamespacedName,
        findings: &mut Vec<Finding>,
    ) -> Option<Arc<ServiceRules>> {
        let intent = self.intents.get(id)?;
        findings.extend(intent.findings.iter().cloned());
        if intent.cluster_ips.is_empty() {
            return None;
        }
        let slices = self.slices_of.get(id).into_iter().flatten();
        let slices = slices.filter_map(|slice| cluster.endpoint_slices.get(slice)).map(|slice| &**slice);
        let mut members = Members::read(slices, &self.options, &mut self.names);
        findings.append(&mut members.findings);
        let build = Build {
            intent,
            members: &members,
            claims: &self.claims,
            options: &self.options,
            old: self.snapshot.get(id),
            seeds: self.seeds.remove(id).unwrap_or_default(),
        };
        Some(build.rules(findings))
    }

    fn publish(&mut self, changed: Vec<(NamespacedName, Option<Arc<ServiceRules>>)>) -> Vec<NamespacedName> {
        let node = self.options.node_rules();
        if changed.is_empty() && *self.snapshot.node == node && self.snapshot.generation > 0 {
            return Vec::new();
        }
        let mut next = ServiceSnapshot::clone(&self.snapshot);
        next.generation += 1;
        if *next.node != node {
            next.node = Arc::new(node);
        }
        for (id, rules) in &changed {
            next.set(id, rules.clone());
        }
        self.snapshot = Arc::new(next);
        changed.into_iter().map(|(id, _)| id).collect()
    }
}

/// Findings about one Service; more are counted.
const MAX_FINDINGS: usize = 50;

fn cap(findings: &mut Vec<Finding>, service: &NamespacedName) {
    if let Some(more) = findings.len().checked_sub(MAX_FINDINGS).filter(|more| *more > 0) {
        findings.truncate(MAX_FINDINGS);
        let key = ObjectKey { kind: Kind::Service, id: service.clone() };
        let message = format!("{more} more things are wrong with the Service or its slices");
        findings.push(Finding::warning("MoreFindings", key, message).mend("mend those that are told first"));
    }
}
