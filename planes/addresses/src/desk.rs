//! What shall be written, from what was read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use headwater_ipam::{Class, Families, Ipam, Outcome, Pools, Request, RequestError, is_asking};
use headwater_kube_io::{Batch, EventNote};
use headwater_model::cluster::{Change, Cluster, Object};
use headwater_model::finding::{Finding, Severity};
use headwater_model::metallb::IpAddressPool;
use headwater_model::metallb::judge::{is_judged, judge};
use headwater_model::metallb::pool::IpAddressPoolStatus;
use headwater_model::metallb::{ADDRESSES_ANNOTATION, ALLOCATED_ANNOTATION, LEGACY_PREFIX, POOL_ANNOTATION, PREFIX};
use headwater_model::nat::Family;
use headwater_model::object::Service;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use serde::Serialize;

const DEPRECATED: &str = "deprecatedAnnotation";

/// What a Service shall be told, and tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceWrite {
    pub id: NamespacedName,
    /// `status.loadBalancer.ingress`, where it is another now.
    pub addresses: Option<Vec<IpAddr>>,
    /// The annotation that names the pool, where it is another now.
    pub pool: Option<Option<Arc<str>>>,
    pub events: Vec<EventNote>,
}

/// How full a pool is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolWrite {
    pub id: NamespacedName,
    pub status: IpAddressPoolStatus,
}

/// What a Service has, or why it has nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceAddresses {
    pub service: String,
    pub addresses: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<Arc<str>>,
    /// What is not as it asks for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
}

/// Who has which address, and what stands in the cluster about it. No I/O.
pub struct Desk {
    class: Class,
    /// Where pools and what is said of them have to be.
    namespace: Box<str>,
    /// Nobody gives ClusterIPs, and what cannot be read may be anything.
    is_directory: bool,
    /// What Services may have that could not be read.
    reserved: BTreeMap<NamespacedName, Vec<IpAddr>>,
    cluster: Cluster,
    uids: BTreeMap<NamespacedName, Arc<str>>,
    ipam: Ipam,
    pools_read: bool,
    /// Services to settle.
    dirty: BTreeSet<NamespacedName>,
    /// Services that have no address and want one.
    waiting: BTreeSet<NamespacedName>,
    /// What was said last of each Service that is not as it shall be.
    told: BTreeMap<NamespacedName, BTreeSet<(&'static str, String)>>,
    unread: bool,
    read_findings: Vec<Finding>,
    findings: Vec<Finding>,
}

impl Desk {
    /// `namespace`: where pools have to be.
    pub fn new(class: Class, namespace: &str) -> Self {
        Self {
            class,
            namespace: namespace.into(),
            is_directory: false,
            reserved: BTreeMap::new(),
            cluster: Cluster::default(),
            uids: BTreeMap::new(),
            ipam: Ipam::default(),
            pools_read: false,
            dirty: BTreeSet::new(),
            waiting: BTreeSet::new(),
            told: BTreeMap::new(),
            unread: false,
            read_findings: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// For a directory of manifests: Services without a ClusterIP get addresses, too, of IPv4 where they do not say.
    pub fn of_directory(class: Class, namespace: &str) -> Self {
        Self { is_directory: true, ..Self::new(class, namespace) }
    }

    /// Gives these addresses to nobody else, until it is told otherwise: they are of Services that could not be read, and
    /// may come again.
    pub fn reserve(&mut self, reserved: BTreeMap<NamespacedName, Vec<IpAddr>>) -> Vec<ServiceWrite> {
        let freed = self.ipam.freed();
        for id in std::mem::replace(&mut self.reserved, reserved).into_keys() {
            if !self.reserved.contains_key(&id) && !self.cluster.services.contains_key(&id) {
                self.ipam.release(&id);
            }
        }
        let mut writes = BTreeMap::new();
        if self.ipam.freed() != freed {
            let waiting = self.waiting.clone();
            self.settle_all(waiting, &mut writes);
        }
        writes.into_values().collect()
    }

    /// Whether there is such a Service.
    pub fn knows(&self, service: &NamespacedName) -> bool {
        self.cluster.services.contains_key(service)
    }

    /// Every Service that asks for addresses, by name.
    pub fn services(&self) -> impl Iterator<Item = ServiceAddresses> {
        let asking = self.cluster.services.iter().filter(|(_, service)| is_asking(service, &self.class));
        asking.map(|(id, _)| {
            let assignment = self.ipam.assignment(id);
            let why = self.told.get(id).into_iter().flatten().filter(|(reason, _)| *reason != DEPRECATED);
            ServiceAddresses {
                service: id.to_string(),
                addresses: assignment.map(|known| known.addresses.clone()).unwrap_or_default(),
                pool: assignment.and_then(|known| known.pool.clone()),
                why: why.map(|(_, text)| text.clone()).collect(),
            }
        })
    }

    pub fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    /// What is wrong with pools, advertisements, peers, profiles and communities.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Takes in what changed, and settles whom it concerns.
    pub fn take(&mut self, batch: Batch) -> Vec<ServiceWrite> {
        let freed = self.ipam.freed();
        for (key, observed) in batch.observed {
            if key.kind == Kind::Service {
                match observed {
                    Some(observed) => drop(self.uids.insert(key.id, observed.uid)),
                    None => drop(self.uids.remove(&key.id)),
                }
            }
        }
        let mut writes = BTreeMap::new();
        let mut judged = !self.pools_read;
        let mut pools_changed = !self.pools_read;
        for change in batch.changes {
            let key = change.key();
            match (key.kind, &change) {
                (Kind::Service, Change::Set(_)) => drop(self.dirty.insert(key.id.clone())),
                (Kind::Service, Change::Removed(_)) => self.forget(&key.id),
                (Kind::Namespace, _) => {
                    let of = self.waiting.iter().filter(|id| id.namespace == key.id.name);
                    self.dirty.extend(of.cloned().collect::<Vec<_>>());
                }
                (Kind::IpAddressPool, Change::Set(Object::IpAddressPool(pool))) => {
                    // Its status is ours, and changes nothing.
                    let old = self.cluster.ip_address_pools.get(&key.id);
                    pools_changed |=
                        old.is_none_or(|old| old.spec != pool.spec || old.metadata.labels != pool.metadata.labels);
                }
                (Kind::IpAddressPool, _) => pools_changed = true,
                _ => {}
            }
            judged |= is_judged(key.kind);
            self.cluster.apply(&change);
        }
        let unread = batch.findings.iter().any(|finding| hides_pools(finding, self.is_directory));
        pools_changed |= unread != self.unread;
        self.unread = unread;
        if judged || batch.findings != self.read_findings {
            let of_kinds =
                batch.findings.iter().filter(|found| found.object.as_ref().is_some_and(|key| is_judged(key.kind)));
            self.findings = of_kinds.cloned().chain(judge(&self.cluster, &self.namespace)).collect();
            self.read_findings = batch.findings;
        }
        if pools_changed {
            let here = |pool: &&Arc<IpAddressPool>| *pool.metadata.namespace == *self.namespace;
            let (pools, _) = Pools::new(self.cluster.ip_address_pools.values().filter(here), self.unread);
            self.ipam.configure(pools);
            self.pools_read = true;
            self.dirty.extend(self.cluster.services.keys().cloned());
        }
        let dirty = std::mem::take(&mut self.dirty);
        self.settle_all(dirty, &mut writes);
        if self.ipam.freed() != freed {
            let waiting = self.waiting.clone();
            self.settle_all(waiting, &mut writes);
        }
        writes.into_values().collect()
    }

    /// Settles Services again whose writes did not succeed.
    pub fn again(&mut self, failed: BTreeSet<NamespacedName>) -> Vec<ServiceWrite> {
        let mut writes = BTreeMap::new();
        self.settle_all(failed, &mut writes);
        writes.into_values().collect()
    }

    /// Pools whose status says something else than what is.
    pub fn pool_writes(&self) -> Vec<PoolWrite> {
        let fill = self.ipam.fill();
        let differs = fill.filter_map(|(pool, status, _)| {
            let known = self.cluster.ip_address_pools.get(&pool.id)?;
            (known.status != Some(status)).then(|| PoolWrite { id: pool.id.clone(), status })
        });
        differs.collect()
    }

    fn forget(&mut self, id: &NamespacedName) {
        self.ipam.release(id);
        self.waiting.remove(id);
        self.dirty.remove(id);
        self.told.remove(id);
    }

    /// First those that have addresses, so that nobody takes them, then the others; each from the oldest.
    fn settle_all(&mut self, ids: BTreeSet<NamespacedName>, writes: &mut BTreeMap<NamespacedName, ServiceWrite>) {
        let mut services: Vec<Arc<Service>> =
            ids.iter().filter_map(|id| self.cluster.services.get(id).cloned()).collect();
        services.sort_by_cached_key(|service| {
            let has = self.ipam.assignment(&service.id()).is_some() || !held(service).is_empty();
            let created = service.metadata.creation_timestamp;
            (!has, created.is_none(), created, service.id())
        });
        for service in &services {
            let held = held(service);
            if !held.is_empty()
                && is_asking(service, &self.class)
                && let Some(request) =
                    self.request_of(service).or_else(|_| self.request_without_wish(service)).ok().flatten()
            {
                self.ipam.adopt(&service.id(), &request, &held);
            }
        }
        for (id, addresses) in &self.reserved {
            if !self.cluster.services.contains_key(id) {
                self.ipam.adopt(id, &nothing_but(addresses), addresses);
            }
        }
        for service in services {
            let write = self.settle(&service);
            if let Some(write) = write {
                writes.insert(write.id.clone(), write);
            }
        }
    }

    fn request_of(&self, service: &Service) -> Result<Option<Request>, RequestError> {
        let namespace = NamespacedName::new("", service.metadata.namespace.clone());
        let family = self.is_directory.then_some(Family::V4);
        match self.cluster.namespaces.get(&namespace) {
            Some(namespace) => Request::of(service, &namespace.metadata.labels, family),
            None => Request::of(service, &BTreeMap::new(), family),
        }
    }

    /// As if it did not say which addresses it wants, or of which pool.
    fn request_without_wish(&self, service: &Service) -> Result<Option<Request>, RequestError> {
        let mut without = service.clone();
        without.spec.load_balancer_ip = None;
        for name in [ADDRESSES_ANNOTATION, POOL_ANNOTATION] {
            without.metadata.annotations.remove(name);
            without.metadata.annotations.remove(&name.replacen(PREFIX, LEGACY_PREFIX, 1));
        }
        self.request_of(&without)
    }

    fn settle(&mut self, service: &Service) -> Option<ServiceWrite> {
        let id = service.id();
        let held = held(service);
        if !is_asking(service, &self.class) {
            let was_ours = self.ipam.release(&id) | service.metadata.annotations.contains_key(ALLOCATED_ANNOTATION);
            self.waiting.remove(&id);
            self.told.remove(&id);
            // Whatever another class's controller wrote stays.
            return was_ours.then(|| self.write(service, Vec::new(), None, Vec::new())).flatten();
        }
        let mut said: BTreeSet<(&'static str, String)> = BTreeSet::new();
        let legacy: Vec<&str> = Request::legacy_annotations(service).collect();
        if !legacy.is_empty() {
            let text = format!("annotation prefix {LEGACY_PREFIX} is deprecated, use {PREFIX}: {}", legacy.join(", "));
            said.insert((DEPRECATED, text));
        }
        let request = match self.request_of(service) {
            Ok(Some(request)) => request,
            Ok(None) => {
                self.ipam.release(&id);
                self.waiting.remove(&id);
                self.told.remove(&id);
                return self.write(service, Vec::new(), None, Vec::new());
            }
            Err(error) => {
                said.insert(("AllocationFailed", format!("Failed to allocate IP for \"{id}\": {error}")));
                self.waiting.remove(&id);
                return self.keep_senseless(service, held, said);
            }
        };
        let outcome = self.ipam.settle(&id, &request, &held);
        self.conclude(service, &held, outcome, said)
    }

    /// A Service whose words make no sense keeps what it has, and gets nothing.
    fn keep_senseless(
        &mut self,
        service: &Service,
        held: Vec<IpAddr>,
        said: BTreeSet<(&'static str, String)>,
    ) -> Option<ServiceWrite> {
        let id = service.id();
        let has = self.ipam.assignment(&id).map(|known| known.addresses.clone()).unwrap_or(held.clone());
        match self.request_without_wish(service) {
            Ok(Some(request)) if !has.is_empty() => {
                let outcome = self.ipam.settle(&id, &request, &has);
                self.conclude(service, &held, outcome, said)
            }
            _ => {
                let events = self.tell(service, said, Vec::new());
                self.write(service, Vec::new(), None, events)
            }
        }
    }

    fn conclude(
        &mut self,
        service: &Service,
        held: &[IpAddr],
        outcome: Outcome,
        mut said: BTreeSet<(&'static str, String)>,
    ) -> Option<ServiceWrite> {
        let id = service.id();
        let mut events = Vec::new();
        if let Some(reason) = outcome.cleared {
            events.push((true, "ClearAssignment", format!("current IP {} is taken away: {reason}", quoted(held))));
        }
        if let Some(reason) = outcome.half {
            said.insert((
                "AdditionalAssignFailed",
                format!("Failed to assign an additional IP for \"{id}\": {reason}"),
            ));
        }
        let (addresses, pool) = match outcome.result {
            Ok(assignment) => {
                self.waiting.remove(&id);
                if assignment.addresses != held {
                    events.push((false, "IPAllocated", format!("Assigned IP {}", quoted(&assignment.addresses))));
                }
                // Of a pool that does not count now: what stands there stays.
                let known = || service.metadata.annotations.get(ALLOCATED_ANNOTATION).map(|name| Arc::from(&**name));
                (assignment.addresses, assignment.pool.or_else(known))
            }
            Err(error) => {
                self.waiting.insert(id.clone());
                said.insert(("AllocationFailed", format!("Failed to allocate IP for \"{id}\": {error}")));
                (Vec::new(), None)
            }
        };
        let events = self.tell(service, said, events);
        self.write(service, addresses, pool, events)
    }

    /// What is said for the first time, and what happened.
    fn tell(
        &mut self,
        service: &Service,
        said: BTreeSet<(&'static str, String)>,
        happened: Vec<(bool, &'static str, String)>,
    ) -> Vec<EventNote> {
        let id = service.id();
        let before = self.told.remove(&id).unwrap_or_default();
        let new = said.iter().filter(|what| !before.contains(what)).map(|(reason, text)| (true, *reason, text.clone()));
        let events = happened.into_iter().chain(new).map(|(warning, reason, note)| EventNote {
            about: service.key(),
            uid: self.uids.get(&id).cloned(),
            warning,
            reason: reason.to_owned(),
            action: "Allocate",
            note,
        });
        let events = events.collect();
        if !said.is_empty() {
            self.told.insert(id, said);
        }
        events
    }

    /// What of this is not yet so.
    fn write(
        &self,
        service: &Service,
        addresses: Vec<IpAddr>,
        pool: Option<Arc<str>>,
        events: Vec<EventNote>,
    ) -> Option<ServiceWrite> {
        let ingress = &service.status.load_balancer.ingress;
        let is_so = ingress.len() == addresses.len() && held(service) == addresses;
        let named = service.metadata.annotations.get(ALLOCATED_ANNOTATION).map(String::as_str);
        let write = ServiceWrite {
            id: service.id(),
            pool: (named != pool.as_deref()).then_some(pool),
            addresses: (!is_so).then_some(addresses),
            events,
        };
        (write.addresses.is_some() || write.pool.is_some() || !write.events.is_empty()).then_some(write)
    }
}

/// The addresses that a Service's status has.
fn held(service: &Service) -> Vec<IpAddr> {
    service.status.load_balancer.ingress.iter().filter_map(|entry| entry.ip.as_deref()?.parse().ok()).collect()
}

/// `["10.0.0.1" "fc00::1"]`, as MetalLB writes lists.
fn quoted(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("[{}]", texts.join(" "))
}

/// What a Service that has these addresses and was not read asks for: they are shared with nobody.
fn nothing_but(addresses: &[IpAddr]) -> Request {
    Request {
        namespace: "".into(),
        namespace_labels: BTreeMap::new(),
        labels: BTreeMap::new(),
        families: match addresses {
            [one] => Families::One(Family::of(*one)),
            _ => Families::Both,
        },
        addresses: addresses.to_vec(),
        pool: None,
        sharing_key: None,
        ports: BTreeSet::new(),
    }
}

/// Whether there may be pools that nobody has read. A file that cannot be read may hold any.
fn hides_pools(finding: &Finding, is_directory: bool) -> bool {
    let about = |kind: Kind| finding.object.as_ref().is_some_and(|key| key.kind == kind);
    (is_directory && finding.severity == Severity::Error && finding.object.is_none())
        || (finding.severity == Severity::Error && about(Kind::IpAddressPool))
        || (finding.reason == "NotInstalled" && finding.message.contains(Kind::IpAddressPool.as_str()))
}

/// The object that tells whether what is configured makes sense, as the controller sees it.
pub(crate) fn configuration_state(namespace: &str) -> ObjectKey {
    ObjectKey::new(Kind::ConfigurationState, namespace, "controller")
}
