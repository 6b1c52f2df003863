//! Everything that is kept of ALB2s, Frontends and Rules, so that a change costs what it changes.
//!
//! ```text
//!  changes -> ALB2s (View) -> which Frontends are open (Port) -> their Rules -> tables, certificates -> listeners
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_model::alb::frontend::Protocol;
use headwater_model::alb::inherit::Levels;
use headwater_model::alb::{Domain, Frontend, Rule as Written};
use headwater_model::cluster::Cluster;
use headwater_model::finding::{Finding, Severity};
use headwater_model::gateway::{Certificate, Listener};
use headwater_model::object::Ingress;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};

use super::ingress::{Source as PathsOf, implied_frontend, needs, secure_hosts};
use super::port::{OpenPort, Taken as TakenPlaces};
use super::rule::{Entry, Made, Port, trace_of};
use super::uses::Uses;
use super::view::{Census, View};
use crate::auth::Sources;
use crate::certificate::{self, CertificateError};
use crate::class::{Assignment, Classes};
use crate::conflict::Age;
use crate::environment::GatewayId;
use crate::findings::{Findings, Source};
use crate::ingress::same_rule;
use crate::options::{AlbScope, Options};
use crate::pools::PoolRegistry;
use crate::settings::Gateway;
use crate::tls::Certificates;

/// What a translation works with.
pub(crate) struct Tools<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) options: &'a Options,
    pub(crate) classes: &'a Classes,
    pub(crate) pools: &'a mut PoolRegistry,
    pub(crate) findings: &'a mut Findings,
}

/// The ALB2s that are served, with all that belongs to them.
#[derive(Debug)]
pub(crate) struct Albs {
    domain: Domain,
    census: Census,
    views: BTreeMap<NamespacedName, Arc<View>>,
    /// By Frontend; those that are open.
    ports: BTreeMap<NamespacedName, OpenPort>,
    /// Each Frontend's label, as last seen, and the other way round.
    alb_of: BTreeMap<NamespacedName, NamespacedName>,
    frontends_of: BTreeMap<NamespacedName, BTreeSet<NamespacedName>>,
    rules: BTreeMap<NamespacedName, Placed>,
    /// By Frontend, whether it exists or not.
    rules_of: BTreeMap<NamespacedName, BTreeSet<NamespacedName>>,
    ingresses: BTreeMap<NamespacedName, Taken>,
    /// Which Frontend each ALB2 has at the ports that Ingresses need.
    ingress_ports: BTreeMap<(NamespacedName, u16), NamespacedName>,
    /// Ingresses with a default backend, oldest first, by ALB2.
    defaults: BTreeMap<NamespacedName, BTreeSet<Age>>,
    uses: Uses,
    certificates: Certificates,
    listeners: Vec<Arc<Listener>>,
}

/// An Ingress that ALB2s take.
#[derive(Debug, Default)]
struct Taken {
    /// Ports that it needs, and whether they speak TLS, by ALB2.
    needs: BTreeMap<NamespacedName, BTreeMap<u16, bool>>,
    /// Whether it has a default backend and nothing else.
    default: Option<Age>,
    placed: Vec<Placed>,
}

/// A Rule as translated last, or an Ingress at one port.
#[derive(Debug)]
struct Placed {
    frontend: NamespacedName,
    entries: Vec<Entry>,
    claims: Vec<super::port::Claim>,
}

#[derive(Debug, Default)]
struct Dirty {
    albs: BTreeSet<NamespacedName>,
    frontends: BTreeSet<NamespacedName>,
    rules: BTreeSet<NamespacedName>,
    ingresses: BTreeSet<NamespacedName>,
}

impl Dirty {
    fn insert(&mut self, key: &ObjectKey) {
        match key.kind {
            Kind::Alb2 => self.albs.insert(key.id.clone()),
            Kind::Frontend => self.frontends.insert(key.id.clone()),
            Kind::Rule => self.rules.insert(key.id.clone()),
            Kind::Ingress => self.ingresses.insert(key.id.clone()),
            _ => false,
        };
    }

    fn is_empty(&self) -> bool {
        self.albs.is_empty() && self.frontends.is_empty() && self.rules.is_empty() && self.ingresses.is_empty()
    }
}

impl Albs {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            domain: Domain::parse(&options.label_domain).unwrap_or_default(),
            census: Census::default(),
            views: BTreeMap::new(),
            ports: BTreeMap::new(),
            alb_of: BTreeMap::new(),
            frontends_of: BTreeMap::new(),
            rules: BTreeMap::new(),
            rules_of: BTreeMap::new(),
            ingresses: BTreeMap::new(),
            ingress_ports: BTreeMap::new(),
            defaults: BTreeMap::new(),
            uses: Uses::default(),
            certificates: Certificates::new(),
            listeners: Vec::new(),
        }
    }

    /// Counts the ALB2s anew. Returns whether others are served, or with other GatewaySettings.
    pub(crate) fn take_census(&mut self, cluster: &Cluster, options: &Options) -> bool {
        let census = Census::take(cluster, options, &self.domain);
        let changed = census != self.census;
        self.census = census;
        changed
    }

    pub(crate) fn census(&self) -> &Census {
        &self.census
    }

    /// The gateway of an ALB2.
    pub(crate) fn gateway(&self, id: &GatewayId) -> Option<&Arc<Gateway>> {
        let GatewayId::Alb(id) = id else { return None };
        self.views.get(id).map(|view| &view.gateway)
    }

    /// Secrets and ConfigMaps that are named.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &ObjectKey> {
        self.uses.sources()
    }

    /// Whether others are named than when this was last asked.
    pub(crate) fn take_sources_changed(&mut self) -> bool {
        self.uses.take_changed()
    }

    pub(crate) fn certificates(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.certificates.values().filter_map(|loaded| loaded.as_ref().ok()).map(|loaded| &loaded.certificate)
    }

    /// Translates what `changes` concern; all of it for `None`.
    ///
    /// `classes_changed`: whether other Ingresses may be of IngressClasses than before.
    pub(crate) fn apply(&mut self, tools: &mut Tools<'_>, changes: Option<&[ObjectKey]>, classes_changed: bool) {
        if tools.options.albs == AlbScope::None {
            return;
        }
        read_policies(tools, changes);
        let mut dirty = self.dirty(tools.cluster, changes);
        if classes_changed {
            dirty.ingresses.extend(tools.cluster.ingresses.keys().cloned());
        }
        if dirty.is_empty() {
            return;
        }
        let mut touched = self.read_albs(tools, &mut dirty);
        self.index_frontends(tools, &mut dirty, &mut touched);
        if !touched.is_empty() {
            dirty.ingresses.extend(tools.cluster.ingresses.keys().chain(self.ingresses.keys()).cloned());
        }
        self.read_needs(tools, &mut dirty, &mut touched);
        for alb in touched {
            self.settle_frontends(tools, &alb, &mut dirty);
        }
        for id in dirty.frontends.iter().filter(|id| !tools.cluster.frontends.contains_key(*id)) {
            tools.findings.set(Source::Frontend(id.clone()), Vec::new());
        }
        self.index_rules(tools.cluster, &dirty);
        self.translate_rules(tools, &dirty);
        self.translate_ingresses(tools, &dirty);
        let Self { certificates, uses, .. } = self;
        certificates.retain(|id, _| uses.is_used(&ObjectKey { kind: Kind::Secret, id: id.clone() }));
    }

    fn dirty(&mut self, cluster: &Cluster, changes: Option<&[ObjectKey]>) -> Dirty {
        let Some(changes) = changes else {
            return Dirty {
                albs: cluster.albs.keys().cloned().collect(),
                frontends: cluster.frontends.keys().cloned().collect(),
                rules: cluster.rules.keys().cloned().collect(),
                ingresses: cluster.ingresses.keys().cloned().collect(),
            };
        };
        let mut dirty = Dirty::default();
        for key in changes {
            match key.kind {
                Kind::Alb2 | Kind::Frontend | Kind::Rule | Kind::Ingress => dirty.insert(key),
                Kind::Namespace => {
                    let own = cluster.ingresses.keys().filter(|id| *id.namespace == *key.id.name);
                    dirty.ingresses.extend(own.cloned());
                }
                Kind::GatewaySettings => dirty.albs.extend(self.census.served.keys().cloned()),
                Kind::Service | Kind::ConfigMap => self.uses.users_of(key).for_each(|user| dirty.insert(user)),
                Kind::Secret => {
                    self.uses.users_of(key).for_each(|user| dirty.insert(user));
                    if let Some(known) = self.certificates.get_mut(&key.id) {
                        *known = certificate::load(cluster.secrets.get(&key.id).map(|secret| &**secret));
                        self.ports.values_mut().for_each(|port| port.mark_secret(&key.id));
                    }
                }
                _ => {}
            }
        }
        dirty
    }

    /// Reads the dirty ALB2s. Returns those whose Frontends have to be looked at.
    fn read_albs(&mut self, tools: &mut Tools<'_>, dirty: &mut Dirty) -> BTreeSet<NamespacedName> {
        let mut touched = BTreeSet::new();
        for id in &std::mem::take(&mut dirty.albs) {
            let mut findings = Vec::new();
            let object = tools.cluster.albs.get(id).filter(|_| tools.options.albs.holds(id));
            let view =
                object.and_then(|object| View::read(object, tools.cluster, tools.options, &self.domain, &mut findings));
            tools.findings.set(Source::Alb(id.clone()), findings);
            match (&view, self.views.get(id)) {
                (Some(new), Some(old)) if *new == **old => continue,
                (Some(_), Some(_)) => {}
                // What belongs to an ALB2 that is not served is told why, even where no Frontend brings it along.
                _ => {
                    let label = self.domain.name_label();
                    let own = |rule: &Written| rule.metadata.labels.get(&label).is_some_and(|name| **name == *id.name);
                    let rules =
                        tools.cluster.rules.iter().filter(|(of, rule)| of.namespace == id.namespace && own(rule));
                    dirty.rules.extend(rules.map(|(id, _)| id.clone()));
                }
            }
            if self.views.get(id).is_some_and(|old| view.as_ref().is_none_or(|new| new.gateway != old.gateway)) {
                // Health and keep-alive of its pools.
                tools.pools.mark_all();
            }
            match view {
                Some(view) => drop(self.views.insert(id.clone(), Arc::new(view))),
                None => drop(self.views.remove(id)),
            }
            touched.insert(id.clone());
        }
        touched
    }

    fn index_frontends(&mut self, tools: &Tools<'_>, dirty: &mut Dirty, touched: &mut BTreeSet<NamespacedName>) {
        for id in &dirty.frontends {
            if !self.ports.contains_key(id) {
                // They were told that it is not there.
                dirty.rules.extend(self.rules_of.get(id).into_iter().flatten().cloned());
            }
            if let Some(old) = self.alb_of.remove(id) {
                forget(&mut self.frontends_of, &old, id);
                touched.insert(old);
            }
            // Without the label: an ALB2 without name, which there is none of.
            let Some(frontend) = tools.cluster.frontends.get(id) else { continue };
            let alb = NamespacedName::new(id.namespace.clone(), frontend.alb(&self.domain).unwrap_or(""));
            self.frontends_of.entry(alb.clone()).or_default().insert(id.clone());
            self.alb_of.insert(id.clone(), alb.clone());
            touched.insert(alb);
        }
    }

    /// Decides which Frontends of an ALB2 are open, and translates those that changed.
    fn settle_frontends(&mut self, tools: &mut Tools<'_>, alb: &NamespacedName, dirty: &mut Dirty) {
        let view = self.views.get(alb).cloned();
        let mut frontends: Vec<(Age, Arc<Frontend>)> = Vec::new();
        for id in self.frontends_of.get(alb).into_iter().flatten() {
            if let Some(object) = tools.cluster.frontends.get(id) {
                frontends.push((Age::of(&object.metadata), object.clone()));
            }
        }
        frontends.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut open: BTreeSet<NamespacedName> = BTreeSet::new();
        let mut owners: BTreeMap<(u16, bool), Arc<Frontend>> = BTreeMap::new();
        for (age, object) in &frontends {
            let id = object.id();
            let Some(view) = &view else {
                let found = absent(object, alb, tools);
                tools.findings.set(Source::Frontend(id.clone()), found);
                continue;
            };
            match standing(object, view, &mut owners) {
                Ok(told) => {
                    open.insert(id.clone());
                    self.open(tools, object, view, age, told, dirty);
                }
                Err(told) => tools.findings.set(Source::Frontend(id.clone()), vec![told]),
            }
        }
        if let Some(view) = &view {
            self.settle_ingress_ports(tools, alb, view, &owners, &mut open, dirty);
        } else {
            self.ingress_ports.retain(|(of, _), _| of != alb);
        }
        // Those that are no more, were refused, or went to another ALB2.
        let closed: Vec<NamespacedName> = self
            .ports
            .iter()
            .filter(|(id, port)| port.alb == *alb && !open.contains(*id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in closed {
            self.close(tools, &id, dirty);
        }
        let above = open.iter().filter_map(|id| self.ports.get(id)).flat_map(|port| port.above.iter().cloned());
        let mut above: BTreeSet<Finding> = above.collect();
        if let Some(view) = view.filter(|view| frontends.is_empty() && view.effective.serves_rules) {
            let message = format!("no Frontend has the label {}: {}", self.domain.name_label(), alb.name);
            above.insert(Finding::new(Severity::Info, "NoListener", view.object.key(), message));
        }
        tools.findings.set(Source::Inherited(alb.clone()), above.into_iter().collect());
    }

    /// Finds the Frontends of the ports that Ingresses need; where there is none, one is implied.
    fn settle_ingress_ports(
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
    fn read_needs(&mut self, tools: &mut Tools<'_>, dirty: &mut Dirty, touched: &mut BTreeSet<NamespacedName>) {
        for id in dirty.ingresses.clone() {
            let object = tools.cluster.ingresses.get(&id);
            let object = object.filter(|object| !matches!(tools.classes.assign(object), Assignment::Gateway(_)));
            let mut needed = BTreeMap::new();
            let mut default = None;
            if let Some(object) = object {
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
            (taken.needs, taken.default) = (needed, default);
        }
    }

    fn translate_ingresses(&mut self, tools: &mut Tools<'_>, dirty: &Dirty) {
        for id in &dirty.ingresses {
            let Some(Taken { needs, default, placed: old }) = self.ingresses.remove(id) else { continue };
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
                        placed.push(Placed { frontend, entries: made.entries, claims: made.claims });
                    }
                }
            }
            let mut told = BTreeSet::new();
            findings.retain(|finding| told.insert(finding.clone()));
            tools.findings.set(Source::IngressOfAlb(id.clone()), findings);
            self.uses.set(&ObjectKey { kind: Kind::Ingress, id: id.clone() }, uses);
            self.place(tools, old, &mut placed);
            if object.is_some() {
                self.ingresses.insert(id.clone(), Taken { needs, default, placed });
            }
        }
    }

    /// Whether an ALB2 takes the Ingress, if no IngressClass of ours does.
    pub(crate) fn takes(&self, ingress: &Ingress, cluster: &Cluster) -> bool {
        self.census.takers(ingress, cluster, &self.domain).next().is_some()
    }

    fn open(
        &mut self,
        tools: &mut Tools<'_>,
        object: &Arc<Frontend>,
        view: &Arc<View>,
        age: &Age,
        mut told: Vec<Finding>,
        dirty: &mut Dirty,
    ) {
        let id = object.id();
        let known = self.ports.get(&id);
        let same = known.is_some_and(|port| {
            Arc::ptr_eq(&port.view, view)
                && port.object.spec == object.spec
                && port.object.metadata.labels == object.metadata.labels
                && port.age == *age
        });
        if same && !dirty.frontends.contains(&id) {
            return;
        }
        if !same {
            dirty.rules.extend(self.rules_of.get(&id).into_iter().flatten().cloned());
        }
        let key = object.key();
        let alb_key = view.object.key();
        let made = Port {
            cluster: tools.cluster,
            reads_secrets: tools.options.reads_secrets,
            domain: &self.domain,
            view,
            frontend: object,
            sources: [&alb_key, &key].map(|key| Sources::new(tools.cluster, key, tools.options.reads_secrets)),
            trace: trace_of(&Levels::of_port(&view.object, object), view),
        }
        .frontend(tools.pools);
        let Made { entries, mut uses, findings, above, stream, .. } = made;
        told.extend(findings);
        let default = object
            .spec
            .terminates_tls()
            .then(|| object.spec.certificate_name.as_ref().or(view.effective.default_certificate.as_ref()))
            .flatten();
        if let Some(secret) = default {
            uses.insert(ObjectKey { kind: Kind::Secret, id: secret.clone() });
            told.extend(self.load_certificate(tools, secret).map(|wrong| {
                let message = format!("{wrong}; a self-signed certificate is served");
                Finding::error(wrong_reason(&wrong), key.clone(), message).at("spec.certificate_name")
            }));
        }
        self.uses.set(&key, uses);
        tools.findings.set(Source::Frontend(id.clone()), told);
        let port = self.ports.entry(id).or_insert_with(|| OpenPort::new(object.clone(), view.clone(), age.clone()));
        port.default_secret = default.cloned();
        port.above = above;
        port.replace(object.clone(), view.clone(), age.clone(), entries, stream, tools.pools);
    }

    fn close(&mut self, tools: &mut Tools<'_>, id: &NamespacedName, dirty: &mut Dirty) {
        let Some(port) = self.ports.remove(id) else { return };
        port.release(tools.pools);
        self.uses.set(&ObjectKey { kind: Kind::Frontend, id: id.clone() }, BTreeSet::new());
        tools.findings.set(Source::Port(id.clone()), Vec::new());
        dirty.rules.extend(self.rules_of.get(id).into_iter().flatten().cloned());
    }

    fn index_rules(&mut self, cluster: &Cluster, dirty: &Dirty) {
        for id in &dirty.rules {
            if let Some(placed) = self.rules.get(id) {
                forget(&mut self.rules_of, &placed.frontend, id);
            }
            if let Some(frontend) = cluster.rules.get(id).and_then(|rule| self.frontend_of(rule)) {
                self.rules_of.entry(frontend).or_default().insert(id.clone());
            }
        }
    }

    fn frontend_of(&self, rule: &Written) -> Option<NamespacedName> {
        let name = rule.frontend(&self.domain)?;
        Some(NamespacedName::new(rule.metadata.namespace.clone(), name))
    }

    fn translate_rules(&mut self, tools: &mut Tools<'_>, dirty: &Dirty) {
        // By Frontend, so that what its rules read is read once.
        let mut groups: BTreeMap<Option<NamespacedName>, Vec<&NamespacedName>> = BTreeMap::new();
        for id in &dirty.rules {
            let frontend = tools.cluster.rules.get(id).and_then(|rule| self.frontend_of(rule));
            groups.entry(frontend).or_default().push(id);
        }
        for (frontend, ids) in groups {
            let place = frontend.as_ref().and_then(|id| self.ports.get(id));
            let place = place.filter(|port| port.object.spec.protocol().is_l7());
            let place = place.map(|port| (port.object.clone(), port.view.clone()));
            match place {
                Some((object, view)) => self.translate_group(tools, &object, &view, &ids),
                None => {
                    for id in ids {
                        let told = self.misplaced(tools, id, frontend.as_ref());
                        self.replace_rule(tools, id, frontend.clone(), Made { findings: told, ..Made::default() });
                    }
                }
            }
        }
    }

    fn translate_group(
        &mut self,
        tools: &mut Tools<'_>,
        frontend: &Arc<Frontend>,
        view: &Arc<View>,
        ids: &[&NamespacedName],
    ) {
        let [alb_key, key] = [view.object.key(), frontend.key()];
        let domain = self.domain.clone();
        let (cluster, reads) = (tools.cluster, tools.options.reads_secrets);
        let port = Port {
            cluster,
            reads_secrets: reads,
            domain: &domain,
            view,
            frontend,
            sources: [&alb_key, &key].map(|key| Sources::new(cluster, key, reads)),
            trace: trace_of(&Levels::of_port(&view.object, frontend), view),
        };
        for id in ids {
            let Some(rule) = cluster.rules.get(*id) else { continue };
            let made = match rule.alb(&domain) {
                Some(name) if *name == *view.effective.name => port.rule(rule, tools.pools),
                name => {
                    let label = domain.name_label();
                    let message = format!(
                        "Frontend {} belongs to ALB2 {}, and the label {label} is {:?}; it is not served",
                        frontend.metadata.name,
                        view.effective.name,
                        name.unwrap_or_default()
                    );
                    let finding = Finding::warning("NotServed", rule.key(), message);
                    Made { findings: vec![finding.at(format!("metadata.labels[{label}]"))], ..Made::default() }
                }
            };
            self.replace_rule(tools, id, Some(frontend.id()), made);
        }
    }

    /// Moves a rule from what it was to what it is. What did not change keeps its pointer, and its place.
    fn replace_rule(
        &mut self,
        tools: &mut Tools<'_>,
        id: &NamespacedName,
        frontend: Option<NamespacedName>,
        mut made: Made,
    ) {
        let key = ObjectKey { kind: Kind::Rule, id: id.clone() };
        made.findings.extend(self.wrong_certificates(tools, &key, &made.claims, "spec.certificate_name"));
        made.findings.dedup();
        let exists = tools.cluster.rules.contains_key(id);
        tools.findings.set(Source::Rule(id.clone()), if exists { made.findings } else { Vec::new() });
        self.uses.set(&key, made.uses);
        let old = self.rules.remove(id);
        let new = frontend.filter(|_| exists);
        let mut new: Vec<Placed> =
            new.map(|frontend| Placed { frontend, entries: made.entries, claims: made.claims }).into_iter().collect();
        self.place(tools, old.into_iter().collect(), &mut new);
        self.rules.extend(new.pop().map(|placed| (id.clone(), placed)));
    }

    /// Moves what an object is at its ports from what it was. What did not change keeps its pointer, and its place.
    fn place(&mut self, tools: &mut Tools<'_>, old: Vec<Placed>, new: &mut [Placed]) {
        for placed in new.iter_mut() {
            let Some(before) = old.iter().find(|before| before.frontend == placed.frontend) else { continue };
            let by_tie: BTreeMap<&str, &Entry> =
                before.entries.iter().map(|entry| (&*entry.rule.precedence.tie, entry)).collect();
            for entry in &mut placed.entries {
                let before = by_tie.get(&*entry.rule.precedence.tie);
                if let Some(before) = before.filter(|before| same_rule(&before.rule, &entry.rule)) {
                    entry.rule = before.rule.clone();
                }
            }
        }
        for before in &old {
            if let Some(port) = self.ports.get_mut(&before.frontend) {
                let after = new.iter().find(|after| after.frontend == before.frontend);
                let kept: BTreeMap<&str, &Entry> = after
                    .into_iter()
                    .flat_map(|after| &after.entries)
                    .map(|entry| (&*entry.rule.precedence.tie, entry))
                    .collect();
                for entry in &before.entries {
                    let stays = kept
                        .get(&*entry.rule.precedence.tie)
                        .is_some_and(|after| Arc::ptr_eq(&after.rule, &entry.rule) && after.hosts == entry.hosts);
                    if !stays {
                        port.table.remove(&entry.hosts, &entry.rule.precedence);
                    }
                }
                before.claims.iter().for_each(|claim| port.unclaim(claim));
            }
        }
        for placed in new.iter() {
            if let Some(port) = self.ports.get_mut(&placed.frontend) {
                placed.entries.iter().for_each(|entry| port.table.insert(&entry.hosts, &entry.rule));
                placed.claims.iter().for_each(|claim| port.claim(claim));
            }
        }
        let held = old.iter().flat_map(|before| &before.entries).flat_map(|entry| &entry.pools);
        held.for_each(|pool| tools.pools.release(*pool));
    }

    /// Loads certificates that nobody named before, and tells what is wrong with those of these names.
    fn wrong_certificates(
        &mut self,
        tools: &Tools<'_>,
        key: &ObjectKey,
        claims: &[super::port::Claim],
        field: &str,
    ) -> Vec<Finding> {
        let mut found = Vec::new();
        for (name, secret) in claims {
            let wrong = self.load_certificate(tools, secret);
            let told = match (wrong, self.certificates.get(secret)) {
                (Some(wrong), _) => {
                    let message = format!("{wrong}; the certificate of the Frontend is served");
                    Some(Finding::error(wrong_reason(&wrong), key.clone(), message))
                }
                (None, Some(Ok(loaded)))
                    if !loaded.certificate.names.iter().any(|known| crate::host::covers(known, name)) =>
                {
                    let message =
                        format!("the certificate of Secret {secret} does not cover {name}; clients will refuse it");
                    Some(Finding::warning("HostNotCovered", key.clone(), message))
                }
                _ => None,
            };
            found.extend(told.map(|finding| finding.at(field)));
        }
        found
    }

    /// Why a Rule without an open Frontend is not served, where that may surprise.
    fn misplaced(&self, tools: &Tools<'_>, id: &NamespacedName, frontend: Option<&NamespacedName>) -> Vec<Finding> {
        let Some(rule) = tools.cluster.rules.get(id) else { return Vec::new() };
        let Some(alb) = rule.alb(&self.domain) else {
            return nameless(rule.key(), &self.domain.name_label(), tools.options);
        };
        let alb = NamespacedName::new(id.namespace.clone(), alb);
        if !self.views.contains_key(&alb) {
            return missing_alb(rule.key(), &alb, &self.domain.name_label(), tools);
        }
        let label = self.domain.frontend_label();
        let message = match frontend {
            None => format!("the label {label} is missing, so that it belongs to no Frontend; it is not served"),
            Some(frontend) if tools.cluster.frontends.contains_key(frontend) => {
                format!("Frontend {} is not opened, or is of tcp or udp; the Rule is not served", frontend.name)
            }
            Some(frontend) => format!("Frontend {frontend} does not exist; the Rule is not served"),
        };
        let reason = if message.contains("does not exist") { "MissingReference" } else { "NotServed" };
        vec![Finding::warning(reason, rule.key(), message).at(format!("metadata.labels[{label}]"))]
    }

    /// Loads a certificate that nobody named before. What is wrong with it, if anything is.
    fn load_certificate(&mut self, tools: &Tools<'_>, secret: &NamespacedName) -> Option<Broken> {
        let loaded = self.certificates.entry(secret.clone()).or_insert_with(|| match tools.options.reads_secrets {
            true => certificate::load(tools.cluster.secrets.get(secret).map(|secret| &**secret)),
            false => Err(CertificateError::NotRead),
        });
        match loaded {
            Ok(_) | Err(CertificateError::NotRead) => None,
            Err(wrong) => Some(Broken { secret: secret.clone(), wrong: wrong.clone() }),
        }
    }

    /// Makes the listeners of now. Returns whether any differs from before. Ports that others hold already stay closed.
    pub(crate) fn publish(&mut self, taken: &mut TakenPlaces, findings: &mut Findings) -> bool {
        let mut order: Vec<(Age, Age, NamespacedName)> =
            self.ports.iter().map(|(id, port)| (port.view.age.clone(), port.age.clone(), id.clone())).collect();
        order.sort();
        let mut listeners = Vec::new();
        for (.., id) in order {
            let Some(port) = self.ports.get_mut(&id) else { continue };
            let old = &self.listeners;
            let (made, told) = port.listeners(&self.certificates, taken, old);
            listeners.extend(made);
            findings.set(Source::Port(id), told);
        }
        let same = listeners.len() == self.listeners.len()
            && listeners.iter().zip(&self.listeners).all(|(a, b)| Arc::ptr_eq(a, b));
        self.listeners = listeners;
        !same
    }

    pub(crate) fn listeners(&self) -> &[Arc<Listener>] {
        &self.listeners
    }
}

/// Why a certificate cannot be used.
#[derive(Debug, Clone)]
struct Broken {
    secret: NamespacedName,
    wrong: CertificateError,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret {} {}", self.secret, self.wrong)
    }
}

fn wrong_reason(broken: &Broken) -> &'static str {
    if broken.wrong == CertificateError::Missing { "MissingReference" } else { "InvalidCertificate" }
}

fn forget(
    index: &mut BTreeMap<NamespacedName, BTreeSet<NamespacedName>>,
    of: &NamespacedName,
    member: &NamespacedName,
) {
    if let Some(members) = index.get_mut(of) {
        members.remove(member);
        if members.is_empty() {
            index.remove(of);
        }
    }
}

/// Whether a Frontend may be opened, with what is worth knowing of it; else why not.
fn standing(
    frontend: &Arc<Frontend>,
    view: &View,
    // By port, and whether it is of UDP.
    owners: &mut BTreeMap<(u16, bool), Arc<Frontend>>,
) -> Result<Vec<Finding>, Finding> {
    let key = frontend.key();
    if !view.effective.serves_rules {
        let message = format!("ALB2 {} does not serve Frontends (enableAlb); it is not opened", view.effective.name);
        return Err(Finding::new(Severity::Info, "NotServed", key, message));
    }
    let (protocol, port) = (frontend.spec.protocol(), frontend.spec.port.get());
    let mut told = Vec::new();
    if let Some(word) = frontend.spec.unknown_protocol() {
        let message = format!("{word:?} is not a protocol (tcp, udp, http, https, grpc, grpcs); it is served as tcp");
        told.push(Finding::warning("InvalidValue", key.clone(), message).at("spec.protocol"));
    }
    let place = (port, protocol == Protocol::Udp);
    if let Some(owner) = owners.get(&place) {
        let message = format!(
            "port {port} belongs to Frontend {} ({}), which is older; this one is not opened",
            owner.metadata.name,
            owner.spec.protocol()
        );
        return Err(Finding::error("Conflict", key, message).at("spec.port").mend("remove one of the two"));
    }
    owners.insert(place, frontend.clone());
    Ok(told)
}

/// TimeoutPolicies are for the Gateway API; Frontends and Rules have a timeout of their own.
fn read_policies(tools: &mut Tools<'_>, changes: Option<&[ObjectKey]>) {
    let all: Vec<ObjectKey>;
    let changes = match changes {
        Some(changes) => changes,
        None => {
            all = tools.cluster.timeout_policies.values().map(|policy| policy.key()).collect();
            &all
        }
    };
    for key in changes.iter().filter(|key| key.kind == Kind::TimeoutPolicy) {
        let found = tools.cluster.timeout_policies.contains_key(&key.id).then(|| {
            let message =
                "it is for a Gateway or a route of the Gateway API, which are not served yet; it has no effect";
            let finding = Finding::new(Severity::Info, "NotImplemented", key.clone(), message).at("spec.targetRef");
            finding.mend("for Frontends and Rules set spec.config.timeout")
        });
        tools.findings.set(Source::Policy(key.id.clone()), found.into_iter().collect());
    }
}

/// About an object that names no ALB2.
fn nameless(key: ObjectKey, label: &str, options: &Options) -> Vec<Finding> {
    if options.albs != AlbScope::All {
        return Vec::new();
    }
    let message = format!("the label {label} is missing, so that it belongs to no ALB2; it is not served");
    vec![Finding::warning("NotServed", key, message).at("metadata.labels")]
}

fn missing_alb(key: ObjectKey, alb: &NamespacedName, label: &str, tools: &Tools<'_>) -> Vec<Finding> {
    if tools.options.albs != AlbScope::All || tools.cluster.albs.contains_key(alb) {
        return Vec::new();
    }
    let message = format!("ALB2 {alb} does not exist; it is not served");
    vec![Finding::warning("MissingReference", key, message).at(format!("metadata.labels[{label}]"))]
}

fn absent(frontend: &Frontend, alb: &NamespacedName, tools: &Tools<'_>) -> Vec<Finding> {
    let label = Domain::parse(&tools.options.label_domain).unwrap_or_default().name_label();
    match &*alb.name {
        "" => nameless(frontend.key(), &label, tools.options),
        _ => missing_alb(frontend.key(), alb, &label, tools),
    }
}
