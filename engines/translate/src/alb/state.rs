//! Everything that is kept of ALB2s, Frontends and Rules, so that a change costs what it changes.
//!
//! ```text
//!  changes -> ALB2s (View) -> which Frontends are open (Port) -> their Rules -> tables, certificates -> listeners
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_model::alb::inherit::Levels;
use headwater_model::alb::{Domain, Frontend, Rule as Written};
use headwater_model::cluster::Cluster;
use headwater_model::finding::{Finding, Severity};
use headwater_model::gateway::{Certificate, Listener};
use headwater_model::observed::PublishedAddress;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};

use super::port::{OpenPort, Taken as TakenPlaces};
use super::rule::{Entry, Made, Port, trace_of};
use super::uses::Uses;
use super::view::{Census, View};
use crate::auth::Sources;
use crate::certificate::{self, CertificateError};
use crate::class::Classes;
use crate::conflict::Age;
use crate::environment::GatewayId;
use crate::findings::{Findings, Source};
use crate::options::{AlbScope, Options};
use crate::pools::PoolRegistry;
use crate::settings::Gateway;
use crate::tls::Certificates;

use told::{absent, no_project, read_policies, standing};

mod ingresses;
mod rules;
mod shown;
mod told;

pub use shown::{MANAGED_BY, Shown, ShownFrontend, ShownRule};

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
    /// Where clients reach each ALB2.
    published: BTreeMap<NamespacedName, BTreeSet<PublishedAddress>>,
    /// Ingresses that are reached elsewhere than before, by the last [`Self::apply`].
    moved: BTreeSet<NamespacedName>,
    uses: Uses,
    /// Which Secrets are named for their certificate: others may name the same for their users.
    certified: Uses,
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
    names_class: bool,
    /// Those at which it is served, by ALB2.
    ports: BTreeMap<NamespacedName, BTreeSet<u16>>,
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
            published: BTreeMap::new(),
            moved: BTreeSet::new(),
            uses: Uses::default(),
            certified: Uses::default(),
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
        self.moved.clear();
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
        let Self { certificates, certified, .. } = self;
        certificates.retain(|id, _| certified.is_used(&secret_key(id)));
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
            self.publish_addresses(id, view.as_ref().and(object));
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
                Err(told) => tools.findings.set(Source::Frontend(id.clone()), vec![*told]),
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
        if let Some(view) = self.views.get(alb) {
            above.extend(no_project(view, self.census.served.get(alb)));
        }
        tools.findings.set(Source::Inherited(alb.clone()), above.into_iter().collect());
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
            uses.insert(secret_key(secret));
            told.extend(self.load_certificate(tools, secret).map(|wrong| {
                let message = format!("{wrong}; a self-signed certificate is served");
                Finding::error(wrong_reason(&wrong), key.clone(), message).at("spec.certificate_name")
            }));
        }
        self.uses.set(&key, uses);
        self.certified.set(&key, default.map(secret_key).into_iter().collect());
        tools.findings.set(Source::Frontend(id.clone()), told);
        let port = self.ports.entry(id).or_insert_with(|| OpenPort::new(object.clone(), view.clone(), age.clone()));
        port.default_secret = default.cloned();
        port.above = above;
        port.replace(object.clone(), view.clone(), age.clone(), entries, stream, tools.pools);
    }

    fn close(&mut self, tools: &mut Tools<'_>, id: &NamespacedName, dirty: &mut Dirty) {
        let Some(port) = self.ports.remove(id) else { return };
        port.release(tools.pools);
        let key = ObjectKey { kind: Kind::Frontend, id: id.clone() };
        self.uses.set(&key, BTreeSet::new());
        self.certified.set(&key, BTreeSet::new());
        tools.findings.set(Source::Port(id.clone()), Vec::new());
        dirty.rules.extend(self.rules_of.get(id).into_iter().flatten().cloned());
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

fn secret_key(id: &NamespacedName) -> ObjectKey {
    ObjectKey { kind: Kind::Secret, id: id.clone() }
}

/// The Secrets of names that certificates are wanted for.
fn claimed<'a>(claims: impl IntoIterator<Item = &'a super::port::Claim>) -> BTreeSet<ObjectKey> {
    claims.into_iter().map(|(_, secret)| secret_key(secret)).collect()
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
