//! Routes of what is carried without being read: TCP and UDP listeners, and hosts whose TLS passes through.

use std::sync::Arc;
use std::time::Duration;

use headwater_model::client::EmitProxyProtocol;
use headwater_model::cluster::Cluster;
use headwater_model::finding::Finding;
use headwater_model::gateway::{
    AccessList, Balance, HashKey, HostPattern, PathMatch, PoolId, Protocol, StreamBackend, StreamRoute, StreamTimeouts,
};
use headwater_model::object::{IngressBackend, ServiceBackendPort};
use headwater_model::origin::{NamespacedName, ObjectKey, Origin};
use headwater_model::settings::{EmitProxyProtocolSpec, GatewaySettingsSpec, ListenerSpec};

use crate::annotations::{Annotations, UNAVAILABLE_GUARD};
use crate::auth::AuthAnnotations;
use crate::client_address;
use crate::conflict::{Age, place};
use crate::environment::GatewayId;
use crate::ingress::Context;
use crate::nginx_config_map::NginxConfig;
use crate::pools::{PoolKey, PoolRegistry};
use crate::service::{self, Speech, Target};
use crate::settings::{ListenerPlan, Reader};

/// Silence after which a connection is given up: longer than what clients of databases and of message queues rest.
const TCP_IDLE: Duration = Duration::from_secs(3600);
/// Silence after which a flow is forgotten.
const UDP_IDLE: Duration = Duration::from_secs(60);
/// Endpoints tried before a connection is reset.
const ATTEMPTS: u32 = 5;
const MAX_WEIGHT: u32 = 1_000_000;
const MAX_BACKENDS: usize = 16;

/// What a gateway's settings say for connections that are carried.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StreamDefaults {
    pub(crate) idle: Duration,
    pub(crate) attempts: u32,
    /// Connect from the client's address.
    pub(crate) transparent: bool,
}

pub(crate) fn stream_defaults(spec: &GatewaySettingsSpec, config: &NginxConfig) -> StreamDefaults {
    let attempts = spec.retries.attempts.filter(|attempts| (1..=100).contains(attempts));
    StreamDefaults {
        idle: config.proxy_stream_timeout.filter(|idle| !idle.is_zero()).unwrap_or(TCP_IDLE),
        attempts: attempts.unwrap_or(ATTEMPTS),
        transparent: spec.client_address.transparent.unwrap_or(false),
    }
}

/// A TCP or UDP listener's route as written; Services are not looked at yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StreamPlan {
    pub(crate) field: Arc<str>,
    pub(crate) backends: Vec<PlannedBackend>,
    pub(crate) balance: Balance,
    pub(crate) timeouts: StreamTimeouts,
    pub(crate) attempts: u32,
    /// `None`: the gateway's.
    pub(crate) emit_proxy_protocol: Option<EmitProxyProtocol>,
    pub(crate) transparent: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlannedBackend {
    pub(crate) service: NamespacedName,
    pub(crate) port: u16,
    pub(crate) weight: u32,
    /// Place in the list, for findings.
    pub(crate) field: String,
}

impl Reader<'_> {
    /// The route of a TCP or UDP listener; of others, a finding if they ask for one.
    pub(crate) fn stream(
        &mut self,
        object: &ObjectKey,
        spec: &GatewaySettingsSpec,
        listener: &ListenerSpec,
        protocol: Protocol,
        field: &str,
    ) -> Option<StreamPlan> {
        if matches!(protocol, Protocol::Http | Protocol::Https) {
            if listener.backends.is_some() {
                let message = "has no effect: requests go where Ingresses say";
                self.findings.push(
                    Finding::warning("NoEffect", object.clone(), message)
                        .at(format!("{field}.backends"))
                        .mend("set protocol to TCP or UDP, or remove it"),
                );
            }
            return None;
        }
        let field_of_backends = format!("{field}.backends");
        let written = listener.backends.as_deref().unwrap_or_default();
        if written.is_empty() {
            let message = "a TCP or UDP listener needs backends; it resets connections and drops datagrams";
            self.error(object, "InvalidValue", &field_of_backends, message);
        }
        if written.len() > MAX_BACKENDS {
            let message = format!("{} backends are more than {MAX_BACKENDS}; the others are not used", written.len());
            self.error(object, "InvalidValue", &field_of_backends, message);
        }
        let mut backends = Vec::new();
        for (index, backend) in written.iter().enumerate().take(MAX_BACKENDS) {
            let field = format!("{field_of_backends}[{index}]");
            let Some(service) = NamespacedName::parse(&backend.service) else {
                let message = format!("{:?} is not \"namespace/name\"; this backend is not used", backend.service);
                self.error(object, "InvalidValue", &format!("{field}.service"), message);
                continue;
            };
            let weight = backend.weight.unwrap_or(1);
            if weight > MAX_WEIGHT {
                let message = format!("{weight} is more than {MAX_WEIGHT}, which is used");
                self.error(object, "InvalidValue", &format!("{field}.weight"), message);
            }
            backends.push(PlannedBackend { service, port: backend.port, weight: weight.min(MAX_WEIGHT), field });
        }
        let own = listener.client_address.as_ref();
        let emit = own.filter(|own| own.emit_proxy_protocol.is_some());
        let asked = emit.unwrap_or(&spec.client_address).emit_proxy_protocol;
        if protocol == Protocol::Udp && asked == Some(EmitProxyProtocolSpec::V1) {
            let message = "version 1 of the PROXY protocol has no datagrams; V2 is used for UDP";
            let field = match emit {
                Some(_) => format!("{field}.clientAddress.emitProxyProtocol"),
                None => "spec.clientAddress.emitProxyProtocol".to_owned(),
            };
            self.findings.push(Finding::warning("NoEffect", object.clone(), message).at(field).mend("set it to V2"));
        }
        let config = self.config();
        let defaults = stream_defaults(spec, &config);
        let default = if protocol == Protocol::Udp { UDP_IDLE } else { defaults.idle };
        let idle_field = format!("{field}.idleTimeout");
        let idle = self.positive(object, &idle_field, listener.idle_timeout, config.proxy_stream_timeout, default);
        let connect = spec.timeouts.connect.map(|text| text.0).or(config.proxy_connect_timeout);
        let connect = connect.filter(|connect| !connect.is_zero()).unwrap_or(Duration::from_secs(5));
        let mut unheard = Vec::new();
        // What is wrong with the balancing of the gateway is told there.
        let balance = Reader {
            findings: &mut unheard,
            options: self.options,
            cluster: self.cluster,
            nginx: self.nginx,
            reads: self.reads,
        }
        .balance(object, &spec.balancing);
        Some(StreamPlan {
            field: field_of_backends.into(),
            backends,
            balance: of_client(balance),
            timeouts: StreamTimeouts { connect, idle },
            attempts: defaults.attempts,
            emit_proxy_protocol: emit.map(client_address::emit_proxy_protocol),
            transparent: own.and_then(|own| own.transparent).unwrap_or(defaults.transparent),
        })
    }
}

/// There is nothing to hash but the client.
fn of_client(balance: Balance) -> Balance {
    match balance {
        Balance::Hash(_) | Balance::Cookie(_) => Balance::Hash(HashKey::Client),
        other => other,
    }
}

/// A listener's route, and the pools it holds.
#[derive(Debug, PartialEq)]
pub(crate) struct Stream {
    pub(crate) route: Arc<StreamRoute>,
    pub(crate) pools: Vec<PoolId>,
}

/// The route of a planned listener. A backend that cannot be reached has no share; where none can, the route says why.
pub(crate) fn listener_route(
    cluster: &Cluster,
    gateway: &GatewayId,
    origin: &Origin,
    listener: &ListenerPlan,
    plan: &StreamPlan,
    pools: &mut PoolRegistry,
    findings: &mut Vec<Finding>,
) -> Stream {
    let speech = if listener.protocol == Protocol::Udp { Speech::Udp } else { Speech::Tcp };
    let mut refuse = None;
    let (mut backends, mut held) = (Vec::new(), Vec::new());
    for backend in &plan.backends {
        let id = &backend.service;
        let found = cluster.services.get(id).map(|service| &**service);
        let port = ServiceBackendPort { name: None, number: Some(backend.port) };
        match service::resolve(id, found, Some(&port), Some(speech)) {
            Ok(target) => {
                let mut key = PoolKey::new(gateway, id, Target { port: target.port, speech });
                key.emit_proxy_protocol = plan.emit_proxy_protocol;
                let pool = pools.acquire(key);
                held.push(pool);
                backends.push(StreamBackend { pool, weight: backend.weight });
            }
            Err(wrong) => {
                let reason = if wrong.reason == "no_service" { "MissingReference" } else { "InvalidBackend" };
                let message = format!("{}; this backend gets nothing", wrong.message);
                findings.push(
                    Finding::error(reason, origin.key.clone(), message).at(backend.field.clone()).mend(wrong.mend),
                );
                refuse.get_or_insert(wrong.reason);
            }
        }
    }
    let route = StreamRoute {
        origin: Arc::new(origin.clone()),
        field: plan.field.clone(),
        refuse: refuse.filter(|_| backends.is_empty()).map(Into::into),
        backends,
        balance: plan.balance.clone(),
        timeouts: plan.timeouts,
        attempts: plan.attempts,
        transparent: plan.transparent,
    };
    Stream { route: Arc::new(route), pools: held }
}

/// A host of an Ingress whose TLS passes through.
#[derive(Debug, PartialEq)]
pub(crate) struct Passed {
    pub(crate) host: HostPattern,
    pub(crate) age: Age,
    pub(crate) route: Arc<StreamRoute>,
    pub(crate) pool: Option<PoolId>,
}

impl Context<'_> {
    /// The hosts that pass through, where the Ingress asks for that: to the backend of path `/`, or else to the default
    /// backend. Routes that did not change are the pointers of `old`.
    pub(crate) fn passed(
        &self,
        hosts: &[Option<HostPattern>],
        old: &[Passed],
        pools: &mut PoolRegistry,
        findings: &mut Vec<Finding>,
    ) -> Vec<Passed> {
        let field = "metadata.annotations[nginx.ingress.kubernetes.io/ssl-passthrough]";
        if !self.annotated.whole.passthrough {
            return Vec::new();
        }
        let refused = |text: &str, findings: &mut Vec<Finding>| {
            findings.push(Finding::error("InvalidValue", self.key.clone(), text).at(field));
        };
        // What keeps people out reads requests, and here nobody can.
        let listed = self.gateway.routes.access != AccessList::default();
        // A list that cannot be read makes its filters broken.
        let keeps_out = |read: &Annotations| {
            read.guarded || read.access.is_some() || read.filters.broken || read.auth != AuthAnnotations::default()
        };
        let guarded = listed || self.annotated.each().any(keeps_out);
        if guarded {
            refused(
                "authentication and access lists cannot be applied to TLS that passes through; connections are reset",
                findings,
            );
        }
        let mut passed: Vec<Passed> = Vec::new();
        for (index, rule) in self.ingress.spec.rules.iter().enumerate() {
            let Some(Some(host)) = hosts.get(index) else { continue };
            if *host == HostPattern::Any {
                refused("a rule without host does not pass through; name the host", findings);
                continue;
            }
            if passed.iter().any(|known| known.host == *host) {
                continue;
            }
            let paths = rule.http.as_ref().map_or(&[][..], |http| &http.paths);
            let is_root = |path: &Option<String>| path.as_deref().is_none_or(|path| matches!(path, "" | "/"));
            let root = paths.iter().enumerate().find(|(_, path)| is_root(&path.path));
            let (backend, at) = match (root, &self.ingress.spec.default_backend) {
                (Some((at, path)), _) => (&path.backend, format!("spec.rules[{index}].http.paths[{at}]")),
                (None, Some(backend)) => (backend, "spec.defaultBackend".to_owned()),
                (None, None) => {
                    refused(&format!("host {host} has no path /, whose backend would get its connections"), findings);
                    continue;
                }
            };
            let age = self.age.at(place(index, 0));
            let (pool, refuse) = match guarded {
                true => (None, Some(UNAVAILABLE_GUARD)),
                false => match self.passed_pool(backend) {
                    Ok(key) => (Some(pools.acquire(key)), None),
                    // What is wrong with the backend is told with its path.
                    Err(reason) => (None, Some(reason)),
                },
            };
            let defaults = &self.gateway.routes;
            let route = StreamRoute {
                origin: self.origin.clone(),
                field: at.into(),
                backends: pool.iter().map(|pool| StreamBackend { pool: *pool, weight: 1 }).collect(),
                refuse: refuse.map(Into::into),
                balance: of_client(self.annotations.balancing.of(&PathMatch::Any, &defaults.balance)),
                timeouts: StreamTimeouts { connect: defaults.timeouts.connect, idle: defaults.stream.idle },
                attempts: defaults.stream.attempts,
                transparent: defaults.stream.transparent,
            };
            // An edit that left it alone is no change.
            let same = |known: &&Passed| {
                known.host == *host
                    && StreamRoute { origin: route.origin.clone(), ..StreamRoute::clone(&known.route) } == route
            };
            let route = old.iter().find(same).map_or_else(|| Arc::new(route.clone()), |known| known.route.clone());
            passed.push(Passed { host: host.clone(), age, route, pool });
        }
        passed
    }

    fn passed_pool(&self, backend: &IngressBackend) -> Result<PoolKey, &'static str> {
        let named = backend.service.as_ref().ok_or("unsupported_backend")?;
        let id = NamespacedName::new(self.ingress.metadata.namespace.clone(), named.name.as_str());
        let found = self.cluster.services.get(&id).map(|service| &**service);
        let target =
            service::resolve(&id, found, named.port.as_ref(), Some(Speech::Tcp)).map_err(|wrong| wrong.reason)?;
        Ok(PoolKey::new(self.gateway_id, &id, target))
    }
}
