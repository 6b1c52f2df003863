//! Ingresses that ALB2s take: which ports they need, and what they are there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_model::alb::inherit::Levels;
use headwater_model::alb::{Alb2, Frontend};
use headwater_model::cluster::Cluster;
use headwater_model::finding::Finding;
use headwater_model::object::Ingress;
use headwater_model::observed::PublishedAddress;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};

use super::{Albs, Dirty, Placed, Taken, Tools, claimed};
use crate::alb::ingress::{Source as PathsOf, implied_frontend, needs, secure_hosts};
use crate::alb::published::{ServedByAlbs, published};
use crate::alb::rule::{Port, trace_of};
use crate::alb::view::{View, class_of};
use crate::auth::Sources;
use crate::class::Assignment;
use crate::conflict::Age;
use crate::findings::Source;

impl Albs {
    /// Finds the Frontends of the ports that Ingresses need; where there is none, one is implied.
    pub(super) fn settle_ingress_ports(
        &mut self,
        tools: &mut Tools<'_>,
        alb: &NamespacedName,
        view: &Arc<View>,
        owners: &BTreeMap<(u16, bool), Arc<Frontend>>,
        open: &mut BTreeSet<NamespacedName>,
        dirty: &mut Dirty,
    ) {
        self.ingress_ports.retain(|(of, _), _| of != alb);
        let needed: BTreeMap<u16, bool> = self
            .ingresses
            .values()
            .filter_map(|taken| taken.needs.get(alb))
            .flatten()
            .map(|(port, tls)| (*port, *tls))
            .collect();
        for (port, tls) in needed {
            let owner = owners.get(&(port, false));
            let id = match owner {
                Some(owner) => owner.id(),
                None => {
                    let name = Frontend::conventional_name(&alb.name, port);
                    let id = NamespacedName::new(alb.namespace.clone(), name);
                    if tools.cluster.frontends.contains_key(&id) {
                        // It is there, and is of another port or ALB2.
                        continue;
                    }
                    let object = Arc::new(implied_frontend(&id, &view.effective, port, tls, &self.domain));
                    open.insert(id.clone());
                    self.open(tools, &object, view, &Age::of(&object.metadata), Vec::new(), dirty);
                    id
                }
            };
            self.ingress_ports.insert((alb.clone(), port), id);
        }
    }

    /// Reads which ALB2s the dirty Ingresses belong to, and which ports they need.
    pub(super) fn read_needs(
        &mut self,
        tools: &mut Tools<'_>,
        dirty: &mut Dirty,
        touched: &mut BTreeSet<NamespacedName>,
    ) {
        for id in dirty.ingresses.clone() {
            let object = tools.cluster.ingresses.get(&id);
            let object = object.filter(|object| !matches!(tools.classes.assign(object), Assignment::Gateway(_)));
            let mut needed = BTreeMap::new();
            let (mut default, mut names_class) = (None, false);
            if let Some(object) = object {
                names_class = class_of(object).is_some();
                let secure = secure_hosts(object, &self.domain);
                for alb in self.census.takers(object, tools.cluster, &self.domain) {
                    let Some(view) = self.views.get(alb) else { continue };
                    needed.insert(alb.clone(), needs(object, &secure, &view.effective, &self.domain));
                }
                let takes_all = object.spec.rules.is_empty() && object.spec.default_backend.is_some();
                default = (takes_all && !needed.is_empty()).then(|| Age::of(&object.metadata));
            }
            let old = self.ingresses.get(&id);
            let old_needs = old.map(|old| old.needs.clone()).unwrap_or_default();
            let old_default = old.and_then(|old| old.default.clone());
            if old_needs != needed {
                touched.extend(old_needs.keys().chain(needed.keys()).cloned());
            }
            let albs: BTreeSet<NamespacedName> = old_needs.keys().chain(needed.keys()).cloned().collect();
            for alb in albs {
                let ages = self.defaults.entry(alb.clone()).or_default();
                let first = ages.first().cloned();
                if let Some(age) = &old_default {
                    ages.remove(age);
                }
                if let Some(age) = default.as_ref().filter(|_| needed.contains_key(&alb)) {
                    ages.insert(age.clone());
                }
                if ages.first() != first.as_ref() {
                    dirty.ingresses.extend(first.iter().chain(ages.first()).map(|age| age.id.clone()));
                }
                if ages.is_empty() {
                    self.defaults.remove(&alb);
                }
            }
            if needed.is_empty() && old.is_none() {
                continue;
            }
            let taken = self.ingresses.entry(id).or_default();
            (taken.needs, taken.default, taken.names_class) = (needed, default, names_class);
        }
    }

    pub(super) fn translate_ingresses(&mut self, tools: &mut Tools<'_>, dirty: &Dirty) {
        for id in &dirty.ingresses {
            let Some(Taken { needs, default, names_class, placed: old, ports: before }) = self.ingresses.remove(id)
            else {
                continue;
            };
            let mut ports_now: BTreeMap<NamespacedName, BTreeSet<u16>> = BTreeMap::new();
            let object = tools.cluster.ingresses.get(id).filter(|_| !needs.is_empty());
            let (mut placed, mut findings, mut uses) = (Vec::new(), Vec::new(), BTreeSet::new());
            if let Some(object) = object {
                let secure = secure_hosts(object, &self.domain);
                let domain = self.domain.clone();
                let annotated = crate::ingress::read_annotations(object, domain.as_str(), &mut findings);
                for (alb, ports) in needs.iter().filter(|_| !annotated.whole.canary) {
                    let is_default = self.defaults.get(alb).and_then(BTreeSet::first).map(|age| &age.id) == Some(id);
                    let source = PathsOf { ingress: object, annotated: &annotated, secure: &secure, is_default };
                    for port in ports.keys() {
                        let frontend = self.ingress_ports.get(&(alb.clone(), *port)).cloned();
                        let open = frontend.as_ref().and_then(|id| self.ports.get(id));
                        let open = open.filter(|open| open.object.spec.protocol().is_l7());
                        let (Some(frontend), Some(open)) = (frontend, open) else {
                            let message = format!("port {port} of ALB2 {alb} is not one that can serve it");
                            findings.push(Finding::warning("NotServed", object.key(), message));
                            continue;
                        };
                        let (written, view) = (open.object.clone(), open.view.clone());
                        let keys = [view.object.key(), written.key()];
                        let reads = tools.options.reads_secrets;
                        let made = Port {
                            cluster: tools.cluster,
                            reads_secrets: reads,
                            domain: &domain,
                            view: &view,
                            frontend: &written,
                            sources: keys.each_ref().map(|key| Sources::new(tools.cluster, key, reads)),
                            trace: trace_of(&Levels::of_port(&view.object, &written), &view),
                        }
                        .ingress(&source, tools.pools);
                        findings.extend(made.findings);
                        uses.extend(made.uses);
                        findings.extend(self.wrong_certificates(tools, &object.key(), &made.claims, "spec.tls"));
                        ports_now.entry(alb.clone()).or_default().insert(*port);
                        placed.push(Placed { frontend, entries: made.entries, claims: made.claims });
                    }
                }
            }
            let mut told = BTreeSet::new();
            findings.retain(|finding| told.insert(finding.clone()));
            tools.findings.set(Source::IngressOfAlb(id.clone()), findings);
            let key = ObjectKey { kind: Kind::Ingress, id: id.clone() };
            self.uses.set(&key, uses);
            self.certified.set(&key, claimed(placed.iter().flat_map(|placed| &placed.claims)));
            self.place(tools, old, &mut placed);
            if before != ports_now {
                self.moved.insert(id.clone());
            }
            if object.is_some() {
                let taken = Taken { needs, default, names_class, placed, ports: ports_now };
                self.ingresses.insert(id.clone(), taken);
            }
        }
    }

    /// Takes in where clients reach an ALB2; `None`: it is not served.
    pub(super) fn publish_addresses(&mut self, id: &NamespacedName, alb: Option<&Arc<Alb2>>) {
        let addresses = alb.map(|alb| published(alb)).unwrap_or_default();
        if self.published.get(id).is_some_and(|known| *known == addresses) {
            return;
        }
        let those = self.ingresses.iter().filter(|(_, taken)| taken.ports.contains_key(id));
        self.moved.extend(those.map(|(ingress, _)| ingress.clone()));
        match alb {
            Some(_) => drop(self.published.insert(id.clone(), addresses)),
            None => drop(self.published.remove(id)),
        }
    }

    pub(crate) fn served(&self, id: &NamespacedName) -> Option<ServedByAlbs> {
        let taken = self.ingresses.get(id).filter(|taken| !taken.ports.is_empty())?;
        let mut at: BTreeMap<PublishedAddress, BTreeSet<u16>> = BTreeMap::new();
        for (alb, ports) in &taken.ports {
            for address in self.published.get(alb).into_iter().flatten() {
                at.entry(address.clone()).or_default().extend(ports);
            }
        }
        Some(ServedByAlbs { names_class: taken.names_class, at })
    }

    pub(crate) fn moved(&self) -> impl Iterator<Item = &NamespacedName> {
        self.moved.iter()
    }

    /// Whether an ALB2 takes the Ingress, if no IngressClass of ours does.
    pub(crate) fn takes(&self, ingress: &Ingress, cluster: &Cluster) -> bool {
        self.census.takers(ingress, cluster, &self.domain).next().is_some()
    }
}
