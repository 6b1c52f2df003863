//! The one who keeps what was derived, so that a change costs what it changes.
//!
//! ```text
//!  changes -> environment (classes, settings, ConfigMap)  -> gateways
//!          -> heads of Ingresses (hosts, TLS claims)      -> certificates by name -> which hosts have HTTPS
//!          -> rules of Ingresses                          -> hosts, pools
//!          -> tables, listeners                           -> snapshot
//! ```

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_model::client::EmitProxyProtocol;
use headwater_model::cluster::Cluster;
use headwater_model::finding::Finding;
use headwater_model::gateway::{
    Certificate, Endpoint, GatewaySnapshot, HostPattern, Listener, Pool, Protocol, RouteTable, TlsTermination,
    UpstreamTls, UpstreamVerify,
};
use headwater_model::metallb::judge::{is_judged, judge};
use headwater_model::object::{Ingress, IngressBackend, IngressServiceBackend, Metadata, ServiceBackendPort};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey, Origin};

use crate::alb::{Albs, Place, ServedByAlbs, Shown, Taken, Tools};
use crate::annotations::Annotated;
use crate::auth::{self, Server, Sources};
use crate::certificate::CertificateError;
use crate::class::Assignment;
use crate::conflict::Age;
use crate::environment::{Environment, GatewayId};
use crate::findings::{Findings, Source};
use crate::hosts::{Candidate, HostTable};
use crate::ingress::{self, Context, Entry, Route, Translated};
use crate::options::{AlbScope, Options};
use crate::pools::{PoolKey, PoolRegistry};
use crate::references::References;
use crate::settings::Gateway;
use crate::streams::{Passed, Stream, listener_route};
use crate::tls::{self, Certificates, Claim, TlsTable};
use crate::{certificate, service};

/// What objects became.
#[derive(Debug, Clone)]
pub struct Translation {
    /// The same pointer as before when nothing changed.
    pub snapshot: Arc<GatewaySnapshot>,
    /// Everything that is wrong now, in an order that only depends on the objects.
    pub findings: Arc<[Finding]>,
    /// Whether the snapshot differs from the one before; always true for the first.
    pub changed: bool,
    /// Secrets and ConfigMaps that what is served depends on, whether they exist or not. The same pointer as before
    /// when nothing changed.
    pub wanted: Arc<BTreeSet<ObjectKey>>,
    /// Whether classes, settings or the ConfigMap changed, on which every Ingress depends.
    pub environment_changed: bool,
}

/// How an Ingress is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// By a class of this controller.
    Own,
    /// By a class that another controller served before, and perhaps still does.
    TakenOver,
}

/// Translates a cluster's objects, and then what changes.
///
/// The result never depends on the order of changes, but for three things that only a history has: the numbers of
/// pools, the generation of the snapshot, and `origin.generation` of a rule, which is that of the edit that last
/// changed the rule.
#[derive(Debug)]
pub struct Translator {
    options: Options,
    started: bool,
    environment: Environment,
    ingresses: BTreeMap<NamespacedName, Translated>,
    tables: BTreeMap<GatewayId, Tables>,
    certificates: Certificates,
    albs: Albs,
    pools: PoolRegistry,
    references: References,
    findings: Findings,
    wanted: Arc<BTreeSet<ObjectKey>>,
    /// Services that TCP and UDP listeners name.
    stream_services: BTreeSet<NamespacedName>,
    snapshot: Arc<GatewaySnapshot>,
}

/// What is published for one gateway.
#[derive(Debug, Default)]
struct Tables {
    hosts: HostTable,
    tls: TlsTable,
    listeners: Vec<Arc<Listener>>,
    /// To the Service of [`Options::default_backend`].
    fallback: Option<Route>,
    /// By name of the listener.
    streams: BTreeMap<Arc<str>, Stream>,
    /// The table of listeners that read no requests.
    no_routes: OnceCell<Arc<RouteTable>>,
}

/// An Ingress between its head and its rules.
struct Head {
    object: Arc<Ingress>,
    gateway: GatewayId,
    age: Age,
    annotations: Annotated,
    hosts: Vec<Option<HostPattern>>,
    claims: Vec<Claim>,
    secrets: Vec<NamespacedName>,
    findings: Vec<Finding>,
    settled: bool,
    old: Option<Translated>,
}

/// Ingresses to translate again, and whether only the Ingress itself changed.
type Dirty = BTreeMap<NamespacedName, bool>;

impl Translator {
    /// Nothing is translated yet; the first [`Self::apply`] reads the whole cluster.
    pub fn new(options: Options) -> Self {
        Self {
            albs: Albs::new(&options),
            options,
            started: false,
            environment: Environment::default(),
            ingresses: BTreeMap::new(),
            tables: BTreeMap::new(),
            certificates: Certificates::new(),
            pools: PoolRegistry::default(),
            references: References::default(),
            findings: Findings::default(),
            wanted: Arc::default(),
            stream_services: BTreeSet::new(),
            snapshot: Arc::default(),
        }
    }

    /// Translates `cluster`, in which exactly the objects named by `changes` were set or removed since the last call.
    /// The first call ignores `changes`.
    ///
    /// `now` is in seconds since the epoch, and only decides which certificates are reported as expired.
    pub fn apply(&mut self, cluster: &Cluster, changes: &[ObjectKey], now: i64) -> Translation {
        self.pools.begin();
        let mut dirty = Dirty::new();
        let first = !std::mem::replace(&mut self.started, true);
        let environment_changed = if first {
            for id in cluster.endpoint_slices.keys() {
                self.references.update_slice(id, cluster);
            }
            self.albs.take_census(cluster, &self.options);
            true
        } else {
            let by_port = self.albs.census().by_port;
            let counts = |key: &ObjectKey| key.kind == Kind::Alb2 || (by_port && key.kind == Kind::Frontend);
            let has_albs = changes.iter().any(counts);
            let others = has_albs && self.albs.take_census(cluster, &self.options);
            self.take_changes(cluster, changes, &mut dirty) || others
        };
        if environment_changed {
            self.read_environment(cluster, first, &mut dirty);
        }
        let default_backend = self.options.default_backend.as_ref();
        if environment_changed
            || changes.iter().any(|key| key.kind == Kind::Service && Some(&key.id) == default_backend)
        {
            self.read_fallback(cluster);
        }
        let is_streamed = |key: &ObjectKey| key.kind == Kind::Service && self.stream_services.contains(&key.id);
        if environment_changed || changes.iter().any(is_streamed) {
            self.read_streams(cluster);
        }
        let mut heads: Vec<Head> = Vec::with_capacity(dirty.len());
        for (id, settled) in &dirty {
            heads.extend(self.head(cluster, id, *settled));
        }
        for id in self.settle_names(&dirty) {
            heads.extend(self.head(cluster, &id, true));
        }
        for head in heads {
            self.translate_rules(cluster, head);
        }
        let Self { albs, options, environment, pools, findings, .. } = self;
        let classes = &environment.classes;
        let tools = &mut Tools { cluster, options, classes, pools, findings };
        albs.apply(tools, (!first).then_some(changes), environment_changed);
        self.sweep_pools(cluster);
        let changed = self.publish() || first;
        self.findings.set(Source::Validity, self.expired(now));
        if first || changes.iter().any(|key| is_judged(key.kind)) {
            self.findings.set(Source::Balancers, judge(cluster, &self.options.metallb_namespace));
        }
        if self.references.take_secrets_changed() | self.albs.take_sources_changed() || environment_changed {
            self.collect_wanted();
        }
        Translation {
            snapshot: self.snapshot.clone(),
            findings: self.findings.all(),
            changed,
            wanted: self.wanted.clone(),
            environment_changed,
        }
    }

    /// How the Ingress is served; `None`: it is not.
    pub fn served(&self, id: &NamespacedName) -> Option<Served> {
        let object = &self.ingresses.get(id)?.object;
        let taken_over = self.environment.classes.is_taken_over(object, &self.options);
        Some(if taken_over { Served::TakenOver } else { Served::Own })
    }

    /// How ALB2s serve the Ingress; `None`: none does. One that a class of this controller has is theirs no more.
    pub fn served_by_albs(&self, id: &NamespacedName) -> Option<ServedByAlbs> {
        self.albs.served(id)
    }

    /// Ingresses of which [`Self::served_by_albs`] says something else since the last [`Self::apply`], though they may not
    /// have changed themselves.
    pub fn moved(&self) -> impl Iterator<Item = &NamespacedName> {
        self.albs.moved()
    }

    /// The paths of Ingresses that ALB2s serve as Rules, and the Frontends that those need.
    pub fn shown(&self, cluster: &Cluster) -> Shown {
        self.albs.shown(cluster)
    }

    fn collect_wanted(&mut self) {
        let secrets = self.references.secrets().cloned().map(|id| ObjectKey { kind: Kind::Secret, id });
        let mut wanted: BTreeSet<ObjectKey> = secrets.chain(self.environment.reads.iter().cloned()).collect();
        if self.options.reads_secrets {
            wanted.extend(self.references.auth().cloned());
            wanted.extend(self.albs.sources().cloned());
        } else {
            wanted.retain(|key| key.kind != Kind::Secret);
        }
        if wanted != *self.wanted {
            self.wanted = Arc::new(wanted);
        }
    }

    /// What no Ingress wants goes to the Service of [`Options::default_backend`].
    fn read_fallback(&mut self, cluster: &Cluster) {
        let Some(id) = self.options.default_backend.clone() else { return };
        // Without the Service any number does: it is what is missing.
        let ports = cluster.services.get(&id).map(|service| &service.spec.ports);
        let number = ports.and_then(|ports| ports.first()).map_or(80, |port| port.port);
        let service = IngressServiceBackend {
            name: id.name.to_string(),
            port: Some(ServiceBackendPort { name: None, number: Some(number) }),
        };
        let backend = IngressBackend { service: Some(service), resource: None };
        // Routes are made for an Ingress; this one only lends its namespace.
        let metadata = Metadata { name: id.name.clone(), namespace: id.namespace.clone(), ..Metadata::default() };
        let ingress = Ingress { metadata, ..Ingress::default() };
        let key = ObjectKey { kind: Kind::Service, id };
        let origin = Arc::new(Origin { key: key.clone(), generation: 0 });
        let (annotated, age) = (Annotated::default(), Age::of(&ingress.metadata));
        let sources = Sources::new(cluster, &key, self.options.reads_secrets);
        let mut found = Vec::new();
        for (gateway_id, tables) in &mut self.tables {
            let old = tables.fallback.take();
            if let Some(gateway) = self.environment.gateways.get(gateway_id) {
                let context = Context {
                    cluster,
                    ingress: &ingress,
                    gateway_id,
                    gateway,
                    age: &age,
                    annotated: &annotated,
                    annotations: &annotated.whole,
                    sources: &sources,
                    key: key.clone(),
                    origin: origin.clone(),
                    settled: false,
                };
                let route = context.fallback(&backend, old.as_ref(), &mut self.pools);
                found.extend(route.findings.iter().cloned());
                tables.hosts.set_fallback(route.entry.as_ref().map(|entry| entry.rule.clone()));
                tables.fallback = Some(route);
            }
            let entry_of = |route: &Option<Route>| route.as_ref().and_then(|route| route.entry.clone());
            let (old, new) = (entry_of(&old), entry_of(&tables.fallback));
            let kept = matches!((&old, &new), (Some(old), Some(new)) if Arc::ptr_eq(old, new));
            if let Some(pool) = old.filter(|_| !kept).and_then(|old| old.pool) {
                self.pools.release(pool);
            }
        }
        found.sort();
        found.dedup();
        self.findings.set(Source::Fallback, found);
    }

    /// The routes of TCP and UDP listeners.
    fn read_streams(&mut self, cluster: &Cluster) {
        self.stream_services.clear();
        for id in self.environment.gateways.keys() {
            self.tables.entry(id.clone()).or_default();
        }
        for (id, tables) in &mut self.tables {
            let mut old = std::mem::take(&mut tables.streams);
            let mut found = Vec::new();
            let gateway = self.environment.gateways.get(id);
            for listener in gateway.iter().flat_map(|gateway| &gateway.listeners) {
                let (Some(gateway), Some(plan)) = (gateway, &listener.stream) else { continue };
                self.stream_services.extend(plan.backends.iter().map(|backend| backend.service.clone()));
                let origin = &gateway.origin;
                let stream = listener_route(cluster, id, origin, listener, plan, &mut self.pools, &mut found);
                let stream = match old.remove(&listener.name) {
                    Some(known) if *known.route == *stream.route && known.pools == stream.pools => {
                        stream.pools.into_iter().for_each(|pool| self.pools.release(pool));
                        known
                    }
                    known => {
                        known.into_iter().flat_map(|known| known.pools).for_each(|pool| self.pools.release(pool));
                        stream
                    }
                };
                tables.streams.insert(listener.name.clone(), stream);
            }
            old.into_values().flat_map(|gone| gone.pools).for_each(|pool| self.pools.release(pool));
            self.findings.set(Source::Listeners(id.clone()), found);
        }
    }

    /// Marks what depends on the changed objects. Returns whether the environment may have changed.
    fn take_changes(&mut self, cluster: &Cluster, changes: &[ObjectKey], dirty: &mut Dirty) -> bool {
        let mut environment_changed = false;
        for key in changes {
            environment_changed |= self.environment.depends_on(key);
            match key.kind {
                Kind::Ingress => {
                    dirty.entry(key.id.clone()).or_insert(true);
                }
                Kind::Service => {
                    self.pools.mark_service(&key.id);
                    for ingress in self.references.users_of_service(&key.id) {
                        dirty.insert(ingress.clone(), false);
                    }
                }
                Kind::EndpointSlice => {
                    for service in self.references.update_slice(&key.id, cluster).iter().flatten() {
                        self.pools.mark_service(service);
                    }
                }
                Kind::Secret => {
                    self.reload_certificate(cluster, &key.id, dirty);
                    dirty.extend(self.references.users_of_auth(key).map(|ingress| (ingress.clone(), false)));
                }
                Kind::Namespace if self.options.albs != AlbScope::None => {
                    // Whether an ALB2 takes its Ingresses depends on its project.
                    let own = cluster.ingresses.keys().filter(|id| *id.namespace == *key.id.name);
                    dirty.extend(own.map(|id| (id.clone(), false)));
                }
                Kind::ConfigMap => {
                    dirty.extend(self.references.users_of_auth(key).map(|ingress| (ingress.clone(), false)));
                }
                _ => {}
            }
        }
        environment_changed
    }

    fn reload_certificate(&mut self, cluster: &Cluster, secret: &NamespacedName, dirty: &mut Dirty) {
        let Some(known) = self.certificates.get_mut(secret) else { return };
        let loaded = certificate::load(cluster.secrets.get(secret).map(|secret| &**secret));
        if *known == loaded {
            return;
        }
        *known = loaded;
        for ingress in self.references.users_of_secret(secret) {
            dirty.entry(ingress.clone()).or_insert(true);
            let Some(translated) = self.ingresses.get(ingress) else { continue };
            let Some(tables) = self.tables.get_mut(&translated.gateway) else { continue };
            for claim in translated.claims.iter().filter(|claim| claim.secret == *secret) {
                tables.tls.mark(&claim.name);
            }
        }
    }

    fn read_environment(&mut self, cluster: &Cluster, first: bool, dirty: &mut Dirty) {
        let mut environment = Environment::read(cluster, &self.options, self.albs.census());
        self.findings.set(Source::Environment, std::mem::take(&mut environment.findings));
        if !first && environment.same(&self.environment) {
            // The old one keeps its pointers; what it reads may differ.
            environment.gateways = std::mem::take(&mut self.environment.gateways);
            self.environment = environment;
            return;
        }
        self.environment = environment;
        let known = self.ingresses.keys().chain(cluster.ingresses.keys());
        dirty.extend(known.map(|id| (id.clone(), false)));
        // Also those that neither are nor were served: they may have findings.
        dirty.values_mut().for_each(|settled| *settled = false);
        self.pools.mark_all();
        for id in self.environment.gateways.keys() {
            self.tables.entry(id.clone()).or_default().hosts.mark_all();
        }
    }

    /// Hosts, annotations and TLS claims of one Ingress. `None` when it is not served (any more).
    fn head(&mut self, cluster: &Cluster, id: &NamespacedName, settled: bool) -> Option<Head> {
        let old = self.ingresses.remove(id);
        let mut findings = Vec::new();
        let Some(object) = cluster.ingresses.get(id) else {
            self.retire(id, old, findings);
            return None;
        };
        let gateway = match self.environment.classes.assign(object) {
            Assignment::Gateway(gateway) => gateway,
            Assignment::None(finding) => {
                findings.extend(finding.filter(|_| !self.albs.takes(object, cluster)));
                self.retire(id, old, findings);
                return None;
            }
        };
        let annotations = ingress::read_annotations(object, &self.options.label_domain, &mut findings);
        if annotations.whole.canary {
            self.retire(id, old, findings);
            return None;
        }
        let auth = auth::references(annotations.each().map(|each| &each.auth), &id.namespace);
        self.references.set_auth(id, auth);
        let hosts = ingress::hosts(object, old.as_ref(), &mut findings);
        let secrets = self.load_secrets(cluster, object, old.as_ref());
        let age = Age::of(&object.metadata);
        let claims = tls::claims(object, &age, &hosts, &self.certificates, &mut findings);
        let same_claims = old.as_ref().is_some_and(|old| old.gateway == gateway && old.claims == claims);
        if !same_claims {
            self.remove_claims(old.as_ref());
            if let Some(tables) = self.tables.get_mut(&gateway) {
                claims.iter().for_each(|claim| tables.tls.insert(claim.clone()));
            }
        }
        let object = object.clone();
        Some(Head { object, gateway, age, annotations, hosts, claims, secrets, findings, settled, old })
    }

    /// Loads the Secrets that the Ingress names and nobody named before; forgets those that nobody names any more.
    fn load_secrets(&mut self, cluster: &Cluster, object: &Ingress, old: Option<&Translated>) -> Vec<NamespacedName> {
        let names = object.spec.tls.iter().filter_map(|entry| entry.secret_name.as_deref());
        let namespace = &object.metadata.namespace;
        let mut secrets: Vec<NamespacedName> =
            names.filter(|name| !name.is_empty()).map(|name| NamespacedName::new(namespace.clone(), name)).collect();
        secrets.sort_unstable();
        secrets.dedup();
        let ingress = object.id();
        for secret in &secrets {
            self.references.add_secret(secret, &ingress);
            if !self.certificates.contains_key(secret) {
                let loaded = match self.options.reads_secrets {
                    true => certificate::load(cluster.secrets.get(secret).map(|secret| &**secret)),
                    false => Err(CertificateError::NotRead),
                };
                self.certificates.insert(secret.clone(), loaded);
            }
        }
        for secret in old.iter().flat_map(|old| &old.secrets) {
            if secrets.binary_search(secret).is_err() {
                self.forget_secret(secret, &ingress);
            }
        }
        secrets
    }

    fn forget_secret(&mut self, secret: &NamespacedName, ingress: &NamespacedName) {
        if self.references.remove_secret(secret, ingress) {
            self.certificates.remove(secret);
        }
    }

    fn remove_claims(&mut self, old: Option<&Translated>) {
        if let Some(old) = old
            && let Some(tables) = self.tables.get_mut(&old.gateway)
        {
            old.claims.iter().for_each(|claim| tables.tls.remove(claim));
        }
    }

    /// Takes an Ingress out of everything.
    fn retire(&mut self, id: &NamespacedName, old: Option<Translated>, findings: Vec<Finding>) {
        self.findings.set(Source::Ingress(id.clone()), findings);
        self.references.set_auth(id, BTreeSet::new());
        let Some(old) = old else { return };
        self.remove_claims(Some(&old));
        for secret in &old.secrets {
            self.forget_secret(secret, id);
        }
        old.entries().for_each(|entry| self.remove_entry(id, &old.gateway, entry));
        self.pass_no_more(&old.gateway, &old.passed);
        self.replace_default(id, Some(&old), None);
    }

    /// Chooses certificates by name. Returns the Ingresses, `dirty` ones apart, with a host that is now served on HTTPS
    /// or no more.
    fn settle_names(&mut self, dirty: &Dirty) -> BTreeSet<NamespacedName> {
        let mut affected = BTreeSet::new();
        for (gateway, tables) in &mut self.tables {
            let flipped = tables.tls.settle(&self.certificates, |name, findings| {
                self.findings.set(Source::Names(gateway.clone(), name.clone()), findings);
            });
            for name in flipped {
                let hosts = match &name {
                    HostPattern::OneLabel(suffix) => tables.hosts.under(suffix),
                    _ => vec![name],
                };
                affected.extend(hosts.iter().flat_map(|host| tables.hosts.owners(host)));
            }
        }
        affected.retain(|id| !dirty.contains_key(id));
        affected
    }

    fn translate_rules(&mut self, cluster: &Cluster, head: Head) {
        let Head { object, gateway, age, annotations, hosts, claims, secrets, findings, settled, old } = head;
        let id = object.id();
        let Some(settings) = self.environment.gateways.get(&gateway).cloned() else {
            self.retire(&id, old, findings);
            return;
        };
        let settled = settled && old.as_ref().is_some_and(|old| old.surroundings() == (&gateway, &age, &annotations));
        let key = object.key();
        let context = Context {
            sources: &Sources::new(cluster, &key, self.options.reads_secrets),
            cluster,
            ingress: &object,
            gateway_id: &gateway,
            gateway: &settings,
            age: &age,
            annotated: &annotations,
            annotations: &annotations.whole,
            key: key.clone(),
            origin: Arc::new(object.origin()),
            settled,
        };
        let tables = self.tables.entry(gateway.clone()).or_default();
        let by_default = tls::by_default(&object, settings.tls.default.as_deref());
        let is_covered = |host: &HostPattern| tables.tls.is_covered(host) || by_default.contains(host);
        let rules = ingress::rules(&context, &hosts, is_covered, old.as_ref(), &mut self.pools);
        let default = ingress::default_route(&context, old.as_ref(), &mut self.pools);
        let mut passed_findings = Vec::new();
        let before = old.as_ref().map_or(&[][..], |old| &old.passed);
        let passed = context.passed(&hosts, before, &mut self.pools, &mut passed_findings);
        let new = Translated {
            object: object.clone(),
            gateway,
            age,
            annotations,
            hosts,
            claims,
            secrets,
            head_findings: findings,
            rules,
            default,
            passed,
            passed_findings,
        };
        self.replace(&id, old, &new);
        self.findings.set(Source::Ingress(id.clone()), new.findings());
        self.ingresses.insert(id, new);
    }

    /// Moves the tables from an old translation of an Ingress to a new one.
    fn replace(&mut self, id: &NamespacedName, old: Option<Translated>, new: &Translated) {
        // Old entries go first: a new one may take the same place at the same age.
        let keep = old.as_ref().is_some_and(|old| old.gateway == new.gateway);
        if let Some(old) = &old {
            for (rule, path, entry) in old.placed() {
                if !(keep && new.is_at(rule, path, entry)) {
                    self.remove_entry(id, &old.gateway, entry);
                }
            }
        }
        for (rule, path, entry) in new.placed() {
            if !(keep && old.as_ref().is_some_and(|old| old.is_at(rule, path, entry))) {
                self.insert_entry(id, &new.gateway, entry);
            }
        }
        if let Some(old) = &old {
            self.pass_no_more(&old.gateway, &old.passed);
        }
        if !new.passed.is_empty() {
            let tables = self.tables.entry(new.gateway.clone()).or_default();
            for passed in &new.passed {
                tables.tls.pass(&passed.host, passed.age.clone(), passed.route.clone());
            }
        }
        self.replace_default(id, old.as_ref(), Some(new));
    }

    fn pass_no_more(&mut self, gateway: &GatewayId, passed: &[Passed]) {
        for passed in passed {
            passed.pool.into_iter().for_each(|pool| self.pools.release(pool));
            if let Some(tables) = self.tables.get_mut(gateway) {
                tables.tls.pass_no_more(&passed.host, &passed.age);
            }
        }
    }

    fn insert_entry(&mut self, id: &NamespacedName, gateway: &GatewayId, entry: &Entry) {
        if let Some(service) = &entry.service {
            self.references.add_service(service, id);
        }
        let tables = self.tables.entry(gateway.clone()).or_default();
        tables.hosts.insert(&entry.host, Candidate { age: entry.age.clone(), rule: entry.rule.clone() });
    }

    fn remove_entry(&mut self, id: &NamespacedName, gateway: &GatewayId, entry: &Entry) {
        if let Some(service) = &entry.service {
            self.references.remove_service(service, id);
        }
        entry.pools().for_each(|pool| self.pools.release(pool));
        if let Some(tables) = self.tables.get_mut(gateway) {
            tables.hosts.remove(&entry.host, &entry.rule.precedence, &entry.age);
        }
    }

    fn replace_default(&mut self, id: &NamespacedName, old: Option<&Translated>, new: Option<&Translated>) {
        let entry_of = |of: Option<&Translated>| {
            let of = of?;
            Some((of.gateway.clone(), of.default.as_ref()?.entry.clone()?))
        };
        let (old, new) = (entry_of(old), entry_of(new));
        if let (Some((a, old)), Some((b, new))) = (&old, &new)
            && a == b
            && Arc::ptr_eq(old, new)
        {
            return;
        }
        if let Some((gateway, entry)) = old {
            if let Some(service) = &entry.service {
                self.references.remove_service(service, id);
            }
            entry.pools().for_each(|pool| self.pools.release(pool));
            if let Some(tables) = self.tables.get_mut(&gateway) {
                tables.hosts.remove_default(&entry.age);
            }
        }
        if let Some((gateway, entry)) = new {
            if let Some(service) = &entry.service {
                self.references.add_service(service, id);
            }
            let tables = self.tables.entry(gateway).or_default();
            tables.hosts.insert_default(entry.age.clone(), entry.rule.clone());
        }
    }

    fn sweep_pools(&mut self, cluster: &Cluster) {
        let Self { pools, environment, albs, references, findings, .. } = self;
        let mut found = Vec::new();
        pools.sweep(
            |key| {
                let (pool, finding) = {
                    let gateway = environment.gateways.get(&key.gateway).or_else(|| albs.gateway(&key.gateway));
                    build_pool(key, cluster, gateway, references)
                };
                found.push((key.clone(), finding));
                pool
            },
            |key| findings.set(Source::Pool(key.clone()), Vec::new()),
        );
        for (key, finding) in found {
            findings.set(Source::Pool(key), finding.into_iter().collect());
        }
    }

    /// Publishes tables, listeners and the snapshot. Returns whether anything differs from before.
    fn publish(&mut self) -> bool {
        let Self { tables, environment, albs, findings, .. } = self;
        // Listeners that GatewaySettings write down come first, then ports of ALB2s, then those that stand for silence.
        let mut taken = Taken::default();
        for gateway in environment.gateways.iter().filter(|(id, _)| **id != GatewayId::Default).map(|(_, of)| of) {
            let places = gateway.listeners.iter().map(|plan| (plan.address, plan.port, plan.protocol.transport()));
            taken.0.extend(places.map(|place| (place, gateway.origin.key.clone())));
        }
        let mut listeners_changed = albs.publish(&mut taken, findings);
        tables.retain(|id, tables| {
            let gateway = environment.gateways.get(id);
            // The hosts of a gateway that is gone are empty by now; settling and publishing them drops their findings.
            tables.tls.settle_passed(&tables.hosts, gateway.map(|gateway| &gateway.tls), |host, found| {
                findings.set(Source::Passthrough(id.clone(), host.clone()), found);
            });
            let exempt = gateway.map_or(&[][..], |gateway| &gateway.routes.redirect.exempt);
            tables.hosts.publish(exempt, |host, found| {
                let source = match host {
                    Some(host) => Source::Host(id.clone(), host.clone()),
                    None => Source::Defaults(id.clone()),
                };
                findings.set(source, found);
            });
            let Some(gateway) = gateway else {
                listeners_changed |= !tables.listeners.is_empty();
                return false;
            };
            let tls = tables.tls.publish(&gateway.tls);
            let is_taken = |place| *id == GatewayId::Default && taken.holds(place);
            let listeners = listeners(gateway, is_taken, tables, &tls);
            let unchanged = listeners.len() == tables.listeners.len()
                && listeners.iter().zip(&tables.listeners).all(|(a, b)| Arc::ptr_eq(a, b));
            listeners_changed |= !unchanged;
            tables.listeners = listeners;
            true
        });
        let first = self.snapshot.generation == 0;
        if !listeners_changed && !self.pools.changed && !first {
            return false;
        }
        let mut listeners: Vec<Arc<Listener>> =
            self.tables.values().flat_map(|tables| &tables.listeners).chain(self.albs.listeners()).cloned().collect();
        listeners.sort_by_key(|listener| listener.place());
        self.snapshot = Arc::new(GatewaySnapshot {
            generation: self.snapshot.generation + 1,
            listeners,
            pools: self.pools.published.clone(),
        });
        true
    }

    fn expired(&self, now: i64) -> Vec<Finding> {
        let named =
            self.certificates.values().filter_map(|loaded| loaded.as_ref().ok()).map(|loaded| &loaded.certificate);
        let defaults = self.environment.gateways.values().filter_map(|gateway| gateway.tls.default.as_ref());
        let expired =
            named.chain(defaults).chain(self.albs.certificates()).filter(|certificate| certificate.not_after < now);
        let mut findings: Vec<Finding> = expired.map(|certificate| expiry(certificate, now)).collect();
        findings.sort();
        findings.dedup();
        findings
    }
}

fn expiry(certificate: &Certificate, now: i64) -> Finding {
    let days = (now - certificate.not_after) / 86_400;
    let message = format!("the certificate expired {days} days ago; it is served, and clients will refuse it");
    Finding::warning("Expired", certificate.origin.key.clone(), message).at("data[tls.crt]").mend("renew it")
}

fn build_pool(
    key: &PoolKey,
    cluster: &Cluster,
    gateway: Option<&Arc<Gateway>>,
    references: &References,
) -> (Option<Pool>, Option<Finding>) {
    if let Some(host) = &key.host {
        return (gateway.map(|gateway| server_pool(key, host, gateway)), None);
    }
    let (Some(service), Some(gateway)) = (cluster.services.get(&key.service), gateway) else { return (None, None) };
    let defaults = &gateway.pools;
    let endpoints =
        service::endpoints(service, key.port, key.speech.transport(), references.slices_of(&key.service, cluster));
    let finding = endpoints.is_empty().then(|| {
        service::empty_pool(&key.service, key.port, key.speech, references.slices_of(&key.service, cluster).count())
    });
    let pool = Pool {
        service: key.service.clone(),
        port: key.port,
        protocol: key.speech.protocol(),
        tls: key.speech.tls().then(|| defaults.tls.clone()),
        emit_proxy_protocol: key.emit_proxy_protocol.unwrap_or(defaults.emit_proxy_protocol),
        health: defaults.health,
        keep_alive: defaults.keep_alive,
        endpoints,
    };
    (Some(pool), finding)
}

/// The pool of an auth server. Its word opens the door, so it must show a certificate for its name.
fn server_pool(key: &PoolKey, host: &str, gateway: &Gateway) -> Pool {
    let server = Server { tls: key.speech.tls(), host: host.into(), port: key.port };
    let tls = UpstreamTls { verify: UpstreamVerify::SystemRoots, server_name: Some(host.into()) };
    Pool {
        service: key.service.clone(),
        port: key.port,
        protocol: key.speech.protocol(),
        tls: server.tls.then(|| Arc::new(tls)),
        emit_proxy_protocol: EmitProxyProtocol::Off,
        health: gateway.pools.health,
        keep_alive: gateway.pools.keep_alive,
        endpoints: vec![Endpoint { address: server.address(), weight: 1 }],
    }
}

/// The listeners of a gateway; those that did not change are the pointers of `old`.
fn listeners(
    gateway: &Gateway,
    is_taken: impl Fn(Place) -> bool,
    tables: &Tables,
    tls: &Arc<TlsTermination>,
) -> Vec<Arc<Listener>> {
    let (routes, old) = (&tables.hosts.published, &tables.listeners);
    let none = tables.no_routes.get_or_init(Arc::default);
    let plans =
        gateway.listeners.iter().filter(|plan| !is_taken((plan.address, plan.port, plan.protocol.transport()))).map(
            |plan| {
                let tls = (plan.protocol == Protocol::Https).then(|| tls.clone());
                let old = old.iter().find(|old| old.name == plan.name);
                let mut listener = Listener {
                    name: plan.name.clone(),
                    origin: gateway.origin.clone(),
                    address: plan.address,
                    port: plan.port,
                    protocol: plan.protocol,
                    client_address: plan.client_address.clone(),
                    connection: plan.connection.clone(),
                    tls,
                    routes: if plan.stream.is_some() { none.clone() } else { routes.clone() },
                    stream: tables.streams.get(&plan.name).map(|stream| stream.route.clone()),
                };
                let Some(old) = old else { return Arc::new(listener) };
                if old.client_address == listener.client_address {
                    listener.client_address = old.client_address.clone();
                }
                if old.connection == listener.connection {
                    listener.connection = old.connection.clone();
                }
                if is_same(old, &listener) { old.clone() } else { Arc::new(listener) }
            },
        );
    plans.collect()
}

pub(crate) fn is_same(a: &Listener, b: &Listener) -> bool {
    let same_tls = match (&a.tls, &b.tls) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    let same_stream = match (&a.stream, &b.stream) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    same_tls
        && same_stream
        && Arc::ptr_eq(&a.routes, &b.routes)
        && Arc::ptr_eq(&a.client_address, &b.client_address)
        && Arc::ptr_eq(&a.connection, &b.connection)
        && (&a.name, &a.origin, a.address, a.port, a.protocol) == (&b.name, &b.origin, b.address, b.port, b.protocol)
}
