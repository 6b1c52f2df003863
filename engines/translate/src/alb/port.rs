//! One Frontend that is open: its rules, its certificates, its listeners.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap as HashMap;
use headwater_model::alb::Frontend;
use headwater_model::alb::config::TcpKeepalive;
use headwater_model::alb::frontend::Protocol as Spoken;
use headwater_model::finding::Finding;
use headwater_model::gateway::{HostPattern, Listener, PoolId, Protocol, StreamRoute, TcpKeepAlive, TlsTermination};
use headwater_model::nat::Transport;
use headwater_model::origin::{NamespacedName, ObjectKey};

use super::rule::Entry;
use super::table::PortTable;
use super::view::View;
use crate::conflict::Age;
use crate::ingress::same_rule;
use crate::pools::PoolRegistry;
use crate::settings::{TlsPlan, overlap};
use crate::tls::{self, Certificates, TlsTable};
use crate::translator::is_same;

/// A name, and the Secret of its certificate.
pub(super) type Claim = (HostPattern, NamespacedName);

/// Addresses and ports that are given away already, and to whom.
#[derive(Debug, Default)]
pub(crate) struct Taken(pub(crate) Vec<(Place, ObjectKey)>);

/// See [`Listener::place`].
pub(crate) type Place = (IpAddr, u16, Transport);

impl Taken {
    fn owner(&self, place: Place) -> Option<&ObjectKey> {
        self.0.iter().find(|(other, _)| overlap(*other, place)).map(|(_, owner)| owner)
    }

    pub(crate) fn holds(&self, place: Place) -> bool {
        self.owner(place).is_some()
    }
}

#[derive(Debug)]
pub(super) struct OpenPort {
    pub(super) object: Arc<Frontend>,
    pub(super) alb: NamespacedName,
    pub(super) view: Arc<View>,
    pub(super) age: Age,
    /// Its redirect and its default backend.
    pub(super) entries: Vec<Entry>,
    /// Of tcp and udp, and the pools that it holds.
    stream: Option<(Arc<StreamRoute>, Vec<PoolId>)>,
    /// What is wrong with what rules inherit from the ALB2.
    pub(super) above: Vec<Finding>,
    pub(super) table: PortTable,
    /// For names that no Rule has a certificate for.
    pub(super) default_secret: Option<NamespacedName>,
    tls: TlsTable,
    claims: HashMap<Claim, usize>,
}

impl OpenPort {
    pub(super) fn new(object: Arc<Frontend>, view: Arc<View>, age: Age) -> Self {
        Self {
            alb: view.object.id(),
            object,
            view,
            age,
            entries: Vec::new(),
            stream: None,
            above: Vec::new(),
            table: PortTable::default(),
            default_secret: None,
            tls: TlsTable::default(),
            claims: HashMap::new(),
        }
    }

    /// Takes what the Frontend is now; rules that did not change keep their pointers.
    pub(super) fn replace(
        &mut self,
        object: Arc<Frontend>,
        view: Arc<View>,
        age: Age,
        mut entries: Vec<Entry>,
        stream: Option<(StreamRoute, Vec<PoolId>)>,
        pools: &mut PoolRegistry,
    ) {
        let old = self.stream.take();
        self.stream = stream.map(|(mut route, held)| match &old {
            Some((old, _)) if is_same_route(old, &mut route) => (old.clone(), held),
            _ => (Arc::new(route), held),
        });
        old.iter().flat_map(|(_, held)| held).for_each(|pool| pools.release(*pool));
        for new in &mut entries {
            if let Some(old) = self.entries.iter().find(|old| same_rule(&old.rule, &new.rule)) {
                new.rule = old.rule.clone();
            }
        }
        for old in &self.entries {
            if !entries.iter().any(|new| Arc::ptr_eq(&new.rule, &old.rule)) {
                self.table.remove(&old.hosts, &old.rule.precedence);
            }
            old.pools.iter().for_each(|pool| pools.release(*pool));
        }
        for new in &entries {
            self.table.insert(&new.hosts, &new.rule);
        }
        self.alb = view.object.id();
        (self.object, self.view, self.age, self.entries) = (object, view, age, entries);
    }

    /// Gives back everything it holds.
    pub(super) fn release(&self, pools: &mut PoolRegistry) {
        let held = self.stream.iter().flat_map(|(_, held)| held);
        self.entries.iter().flat_map(|entry| &entry.pools).chain(held).for_each(|pool| pools.release(*pool));
    }

    /// One Rule more wants the certificate for the name.
    pub(super) fn claim(&mut self, claim: &Claim) {
        let count = self.claims.entry(claim.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.tls.insert(as_claim(claim));
        }
    }

    /// One less.
    pub(super) fn unclaim(&mut self, claim: &Claim) {
        let Some(count) = self.claims.get_mut(claim) else { return };
        *count -= 1;
        if *count == 0 {
            self.claims.remove(claim);
            self.tls.remove(&as_claim(claim));
        }
    }

    /// The Secret was read again.
    pub(super) fn mark_secret(&mut self, secret: &NamespacedName) {
        for (name, _) in self.claims.keys().filter(|(_, known)| known == secret) {
            self.tls.mark(name);
        }
    }

    /// Its listeners, but for those whose address and port are taken, with what is wrong with them. Those that did not
    /// change are the pointers of `old`.
    pub(super) fn listeners(
        &mut self,
        certificates: &Certificates,
        taken: &mut Taken,
        old: &[Arc<Listener>],
    ) -> (Vec<Arc<Listener>>, Vec<Finding>) {
        let object = self.object.clone();
        let spec = &object.spec;
        let keepalive = spec.config.as_ref().and_then(|config| config.keepalive.as_ref());
        let mut connection = self.view.connection(keepalive.and_then(|keepalive| keepalive.http.as_ref()));
        // gRPC has nothing else.
        connection.http2 |= matches!(spec.protocol(), Spoken::Grpc | Spoken::Grpcs);
        connection.tcp_keep_alive = keepalive.and_then(|keepalive| keepalive.tcp).map(probes);
        let http2 = connection.http2;
        let connection = Arc::new(connection);
        let routes = self.table.publish().clone();
        let tls = spec.terminates_tls().then(|| self.termination(certificates, http2));
        let protocol = match spec.protocol() {
            Spoken::Tcp => Protocol::Tcp,
            Spoken::Udp => Protocol::Udp,
            _ if tls.is_some() => Protocol::Https,
            _ => Protocol::Http,
        };
        let stream = self.stream.as_ref().map(|(route, _)| route);
        let (mut listeners, mut findings) = (Vec::new(), Vec::new());
        for address in &self.view.addresses {
            let place = (*address, self.object.spec.port.get(), protocol.transport());
            if let Some(owner) = taken.owner(place) {
                let message = format!("{} port {} belongs to {owner}; it is not opened", place.0, place.1);
                findings.push(Finding::error("Conflict", self.object.key(), message).at("spec.port"));
                continue;
            }
            taken.0.push((place, self.object.key()));
            let old = old.iter().find(|old| old.origin.key.id == self.object.id() && old.address == *address);
            let mut listener = Listener {
                name: self.object.metadata.name.clone(),
                origin: self.object.origin(),
                address: *address,
                port: place.1,
                protocol,
                client_address: self.view.policy.clone(),
                connection: connection.clone(),
                tls: tls.clone(),
                routes: routes.clone(),
                stream: stream.cloned(),
            };
            let Some(old) = old else {
                listeners.push(Arc::new(listener));
                continue;
            };
            if old.client_address == listener.client_address {
                listener.client_address = old.client_address.clone();
            }
            if old.connection == listener.connection {
                listener.connection = old.connection.clone();
            }
            listeners.push(if is_same(old, &listener) { old.clone() } else { Arc::new(listener) });
        }
        (listeners, findings)
    }

    fn termination(&mut self, certificates: &Certificates, http2: bool) -> Arc<TlsTermination> {
        self.tls.settle(certificates, |_, _| {});
        let default = self.default_secret.as_ref().and_then(|secret| certificates.get(secret)?.as_ref().ok());
        self.tls.publish(&TlsPlan {
            default: default.map(|loaded| loaded.certificate.clone()),
            http2,
            ..self.view.gateway.tls.clone()
        })
    }
}

/// Equal but for the generation of the object.
fn is_same_route(old: &StreamRoute, new: &mut StreamRoute) -> bool {
    if old.origin.key == new.origin.key {
        new.origin = old.origin.clone();
    }
    old == new
}

/// nginx's `so_keepalive`: silent altogether, the kernel's own numbers.
fn probes(written: TcpKeepalive) -> TcpKeepAlive {
    let TcpKeepalive { idle, interval, count } = written;
    if written == TcpKeepalive::default() {
        return TcpKeepAlive::default();
    }
    TcpKeepAlive {
        idle: Some(idle.map_or(PROBE_AFTER, |time| time.0)),
        interval: interval.map(|time| time.0),
        count: Some(count.unwrap_or(PROBES)),
    }
}

/// Where another number is written.
const PROBE_AFTER: Duration = Duration::from_secs(30 * 60);
const PROBES: u32 = 10;

/// Of several certificates for a name that of the first Secret by namespace and name is served.
fn as_claim((name, secret): &Claim) -> tls::Claim {
    let age = Age::first(secret.clone());
    tls::Claim { name: name.clone(), secret: secret.clone(), age, field: "spec.certificate_name".to_owned() }
}
