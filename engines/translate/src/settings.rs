//! What one gateway is told: GatewaySettings over the ingress-nginx ConfigMap over the defaults.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use headwater_model::client::{ClientAddressPolicy, EmitProxyProtocol};
use headwater_model::cluster::Cluster;
use headwater_model::finding::Finding;
use headwater_model::gateway::{
    AccessList, Balance, Certificate, ConnectionSettings, ErrorStyle, HashKey, PassiveHealth, Protocol, Retry,
    RouteTimeouts, UpstreamKeepAlive, UpstreamTls, UpstreamVerify,
};
use headwater_model::nat::Transport;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey, Origin};
use headwater_model::quantity::DurationText;
use headwater_model::settings::{
    BalancingAlgorithm, BalancingSpec, FaultStyle, GatewaySettingsSpec, HashOn, Limits, LimitsSpec, ListenerProtocol,
    ListenerSpec, TlsVersion, UpstreamVerifySpec,
};

use crate::certificate;
use crate::client_address::{self, Written};
use crate::compression::compression;
use crate::environment::GatewayId;
use crate::nginx_config_map::NginxConfig;
use crate::options::Options;
use crate::streams::{StreamDefaults, StreamPlan, stream_defaults};
use crate::tracing::{NginxOtel, TraceDefaults};

/// Everything about a gateway that does not depend on Ingresses.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gateway {
    pub(crate) origin: Origin,
    pub(crate) listeners: Vec<ListenerPlan>,
    pub(crate) tls: TlsPlan,
    pub(crate) routes: RouteDefaults,
    pub(crate) pools: PoolDefaults,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ListenerPlan {
    pub(crate) name: Arc<str>,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    pub(crate) client_address: Arc<ClientAddressPolicy>,
    pub(crate) connection: Arc<ConnectionSettings>,
    /// Present exactly for TCP and UDP.
    pub(crate) stream: Option<StreamPlan>,
    /// Place in `spec.listeners`.
    pub(crate) index: usize,
}

impl ListenerPlan {
    pub(crate) fn place(&self) -> (IpAddr, u16, Transport) {
        (self.address, self.port, self.protocol.transport())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TlsPlan {
    pub(crate) default: Option<Arc<Certificate>>,
    pub(crate) min_version: TlsVersion,
    pub(crate) http2: bool,
    pub(crate) session_tickets: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RouteDefaults {
    pub(crate) balance: Balance,
    pub(crate) timeouts: RouteTimeouts,
    pub(crate) retry: Retry,
    pub(crate) redirect: RedirectDefaults,
    pub(crate) tracing: TraceDefaults,
    /// Of TLS that is carried as it is.
    pub(crate) stream: StreamDefaults,
    pub(crate) access: AccessList,
}

/// ingress-nginx's ssl-redirect.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RedirectDefaults {
    pub(crate) ssl_redirect: bool,
    pub(crate) force: bool,
    pub(crate) status: u16,
    /// Path prefixes, by bytes, that are served on plain HTTP.
    pub(crate) exempt: Vec<Box<str>>,
    /// The port that clients reach HTTPS at; `None`: no HTTPS listener, or its port is not known yet.
    pub(crate) port: Option<u16>,
    pub(crate) has_https: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PoolDefaults {
    pub(crate) emit_proxy_protocol: EmitProxyProtocol,
    pub(crate) health: PassiveHealth,
    pub(crate) keep_alive: UpstreamKeepAlive,
    /// For pools that speak TLS.
    pub(crate) tls: Arc<UpstreamTls>,
}

/// The ConfigMap in use, with its key.
pub(crate) type Nginx<'a> = Option<(&'a ObjectKey, &'a NginxConfig)>;

/// Reads one gateway. `settings` is `None` for the gateway that only has defaults.
pub(crate) struct Reader<'a> {
    pub(crate) options: &'a Options,
    pub(crate) cluster: &'a Cluster,
    pub(crate) nginx: Nginx<'a>,
    pub(crate) findings: &'a mut Vec<Finding>,
    /// Secrets and ConfigMaps that were looked for.
    pub(crate) reads: &'a mut Vec<ObjectKey>,
}

/// Most listeners of one gateway.
const MAX_LISTENERS: usize = 128;

/// Where certificate authorities look for the answer to a challenge (RFC 8555 section 8.3).
const DEFAULT_EXEMPT: &str = "/.well-known/acme-challenge";

impl Reader<'_> {
    pub(crate) fn gateway(&mut self, id: &GatewayId) -> Gateway {
        let id = id.settings();
        let settings = self.cluster.gateway_settings.get(&id);
        let silent = GatewaySettingsSpec::default();
        let (origin, spec) = match settings {
            Some(settings) => (settings.origin(), &settings.spec),
            None => (Origin { key: ObjectKey { kind: Kind::GatewaySettings, id }, generation: 0 }, &silent),
        };
        let listeners = self.listeners(&origin.key, spec);
        self.gateway_of(origin, spec, listeners)
    }

    /// What an ALB2 has of the GatewaySettings that it names, whose listeners are not its own: the client-address policy
    /// and connections of its ports.
    pub(crate) fn of_alb(
        &mut self,
        origin: Origin,
        spec: &GatewaySettingsSpec,
    ) -> (Gateway, Arc<ClientAddressPolicy>, ConnectionSettings) {
        let written = Written {
            object: &origin.key,
            field: "spec.clientAddress",
            spec: &spec.client_address,
            of_requests: false,
        };
        let policy = Arc::new(client_address::policy(&written, self.nginx, self.findings));
        let connection = self.connection(&origin.key, spec);
        (self.gateway_of(origin, spec, Vec::new()), policy, connection)
    }

    fn gateway_of(&mut self, origin: Origin, spec: &GatewaySettingsSpec, listeners: Vec<ListenerPlan>) -> Gateway {
        let https = listeners.iter().find(|listener| listener.protocol == Protocol::Https);
        let config = self.config();
        let redirect = RedirectDefaults {
            ssl_redirect: config.ssl_redirect.unwrap_or(true),
            force: config.force_ssl_redirect.unwrap_or(false),
            status: config.http_redirect_code.unwrap_or(308),
            exempt: config.no_tls_redirect_locations.unwrap_or_else(|| vec![DEFAULT_EXEMPT.into()]),
            port: self.options.published_https_port.or(https.map(|listener| listener.port)).filter(|port| *port != 0),
            has_https: https.is_some(),
        };
        let config = self.config();
        let routes = RouteDefaults {
            balance: self.balance(&origin.key, &spec.balancing),
            timeouts: self.timeouts(&origin.key, spec),
            retry: self.retry(&origin.key, spec),
            redirect,
            tracing: self.tracing(&config.otel),
            stream: stream_defaults(spec, &self.config()),
            access: AccessList { deny: config.deny.unwrap_or_default(), allow: config.allow.unwrap_or_default() },
        };
        let pools = self.pools(&origin.key, spec);
        let tls = self.tls(&origin.key, spec);
        Gateway { origin, listeners, tls, routes, pools }
    }

    /// Complaints about the ConfigMap are the same for every gateway, and told once.
    fn tracing(&mut self, nginx: &NginxOtel) -> TraceDefaults {
        let object = self.nginx.map(|(key, _)| key.clone());
        TraceDefaults::new(nginx, |key, reason, message| {
            if let Some(object) = &object {
                self.findings.push(Finding::warning(reason, object.clone(), message).at(format!("data.{key}")));
            }
        })
    }

    pub(crate) fn config(&self) -> NginxConfig {
        self.nginx.map(|(_, config)| config.clone()).unwrap_or_default()
    }

    pub(crate) fn error(&mut self, object: &ObjectKey, reason: &'static str, field: &str, message: impl Into<String>) {
        self.findings.push(Finding::error(reason, object.clone(), message).at(field));
    }

    /// A duration that must not be zero.
    pub(crate) fn positive(
        &mut self,
        object: &ObjectKey,
        field: &str,
        written: Option<DurationText>,
        nginx: Option<Duration>,
        default: Duration,
    ) -> Duration {
        match written.map(|text| text.0) {
            Some(Duration::ZERO) => {
                let message = format!("0 is not possible; {} s is used", default.as_secs());
                self.error(object, "InvalidValue", field, message);
                default
            }
            Some(duration) => duration,
            None => nginx.filter(|duration| !duration.is_zero()).unwrap_or(default),
        }
    }

    fn listeners(&mut self, object: &ObjectKey, spec: &GatewaySettingsSpec) -> Vec<ListenerPlan> {
        let written = Written { object, field: "spec.clientAddress", spec: &spec.client_address, of_requests: false };
        let shared = Arc::new(client_address::policy(&written, self.nginx, self.findings));
        let connection = Arc::new(self.connection(object, spec));
        let defaults;
        let specs = match &spec.listeners {
            Some(listeners) => listeners,
            None => {
                defaults = default_listeners(self.options);
                &defaults
            }
        };
        if specs.len() > MAX_LISTENERS {
            let message = format!("{} listeners are more than {MAX_LISTENERS}; the others are not opened", specs.len());
            self.error(object, "InvalidValue", "spec.listeners", message);
        }
        let mut plans: Vec<ListenerPlan> = Vec::new();
        for (index, listener) in specs.iter().enumerate().take(MAX_LISTENERS) {
            let field = format!("spec.listeners[{index}]");
            if listener.name.is_empty() || plans.iter().any(|plan| *plan.name == *listener.name) {
                let message = format!("name {:?} is empty or used before; this listener is not opened", listener.name);
                self.error(object, "InvalidValue", &format!("{field}.name"), message);
                continue;
            }
            let address = listener.address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            let protocol = match listener.protocol {
                ListenerProtocol::HTTP => Protocol::Http,
                ListenerProtocol::HTTPS => Protocol::Https,
                ListenerProtocol::TCP => Protocol::Tcp,
                ListenerProtocol::UDP => Protocol::Udp,
            };
            let transport = protocol.transport();
            if let Some(other) = plans.iter().find(|plan| overlap(plan.place(), (address, listener.port, transport))) {
                let message =
                    format!("port {} is taken by listener {}; this listener is not opened", listener.port, other.name);
                self.error(object, "Conflict", &format!("{field}.port"), message);
                continue;
            }
            let client_address = match &listener.client_address {
                None => shared.clone(),
                Some(own) => {
                    let field = format!("{field}.clientAddress");
                    if own.emit_proxy_protocol.is_some()
                        && matches!(protocol, Protocol::Http | Protocol::Https)
                        && client_address::emit_proxy_protocol(own)
                            != client_address::emit_proxy_protocol(&spec.client_address)
                    {
                        let message =
                            "cannot differ between listeners yet; spec.clientAddress.emitProxyProtocol counts";
                        self.error(object, "NotAvailable", &format!("{field}.emitProxyProtocol"), message);
                    }
                    let of_requests = matches!(protocol, Protocol::Http | Protocol::Https);
                    let written = Written { object, field: &field, spec: own, of_requests };
                    Arc::new(client_address::policy(&written, self.nginx, self.findings))
                }
            };
            let stream = self.stream(object, spec, listener, protocol, &field);
            plans.push(ListenerPlan {
                name: listener.name.as_str().into(),
                address,
                port: listener.port,
                protocol,
                client_address,
                connection: connection.clone(),
                stream,
                index,
            });
        }
        if plans.is_empty() {
            self.error(object, "NoListener", "spec.listeners", "no listener is left: nothing is served");
        }
        plans
    }

    fn connection(&mut self, object: &ObjectKey, spec: &GatewaySettingsSpec) -> ConnectionSettings {
        let config = self.config();
        let timeouts = &spec.timeouts;
        let seconds = Duration::from_secs;
        ConnectionSettings {
            limits: self.limits(object, &spec.limits),
            header_timeout: self.positive(
                object,
                "spec.timeouts.header",
                timeouts.header,
                config.client_header_timeout,
                seconds(15),
            ),
            idle_timeout: self.positive(
                object,
                "spec.timeouts.keepAlive",
                timeouts.keep_alive,
                config.keep_alive,
                seconds(60),
            ),
            body_timeout: self.positive(
                object,
                "spec.timeouts.body",
                timeouts.body,
                config.client_body_timeout,
                seconds(60),
            ),
            http2: spec.tls.http2.or(config.use_http2).unwrap_or(true),
            access_log: spec.access_log.format.unwrap_or_default(),
            tcp_keep_alive: None,
            error_style: match spec.faults.style {
                None | Some(FaultStyle::Headwater) => ErrorStyle::Headwater,
                Some(FaultStyle::ALB) => ErrorStyle::Alb,
            },
            trace_clients: spec.faults.trace_clients.iter().flatten().map(|cidr| cidr.0).collect(),
            compression: compression(object, &spec.compression, &config.gzip, self.findings),
        }
    }

    fn limits(&mut self, object: &ObjectKey, spec: &LimitsSpec) -> Limits {
        let config = self.config();
        let default = Limits::default();
        let buffers = config.large_client_header_buffers;
        let mut bounded = |field: &str, written: Option<u64>, nginx: Option<u32>, default: u32, range: (u32, u32)| {
            let (least, most) = range;
            match written {
                Some(value) => match u32::try_from(value).ok().filter(|value| (least..=most).contains(value)) {
                    Some(value) => value,
                    None => {
                        let message = format!("{value} is not between {least} and {most}; {default} is used");
                        self.error(object, "InvalidValue", &format!("spec.limits.{field}"), message);
                        default
                    }
                },
                None => nginx.map_or(default, |value| value.clamp(least, most)),
            }
        };
        let header_bytes = spec.header_bytes.map(|size| size.0);
        let line_bytes = spec.request_line_bytes.map(|size| size.0);
        Limits {
            header_bytes: bounded(
                "headerBytes",
                header_bytes,
                buffers.map(|(whole, _)| whole),
                default.header_bytes,
                (1 << 10, 16 << 20),
            ),
            header_count: bounded(
                "headerCount",
                spec.header_count.map(u64::from),
                None,
                default.header_count,
                (8, 10_000),
            ),
            request_line_bytes: bounded(
                "requestLineBytes",
                line_bytes,
                buffers.map(|(_, line)| line),
                default.request_line_bytes,
                (256, 1 << 20),
            ),
            http2_streams: bounded(
                "http2Streams",
                spec.http2_streams.map(u64::from),
                config.http2_max_concurrent_streams,
                default.http2_streams,
                (1, 1 << 20),
            ),
            body_bytes: spec.body_bytes.map(|size| size.0).or(config.proxy_body_size).unwrap_or(default.body_bytes),
            connections: spec.connections.unwrap_or(default.connections),
            connections_per_client: spec.connections_per_client.unwrap_or(default.connections_per_client),
            requests_per_connection: spec
                .requests_per_connection
                .or(config.keep_alive_requests)
                .unwrap_or(default.requests_per_connection),
            udp_flows: spec.udp_flows.unwrap_or(default.udp_flows),
        }
    }

    pub(crate) fn balance(&mut self, object: &ObjectKey, spec: &BalancingSpec) -> Balance {
        let Some(algorithm) = spec.algorithm else {
            if spec.hash_on.is_some() || spec.hash_name.is_some() {
                let message = "has no effect while algorithm is not Hash";
                self.findings.push(
                    Finding::warning("NoEffect", object.clone(), message)
                        .at("spec.balancing.hashOn")
                        .mend("set algorithm to Hash"),
                );
            }
            return self.config().load_balance.unwrap_or(Balance::LeastRequest);
        };
        match algorithm {
            BalancingAlgorithm::RoundRobin => Balance::RoundRobin,
            BalancingAlgorithm::LeastRequest => Balance::LeastRequest,
            BalancingAlgorithm::PeakEWMA => Balance::PeakEwma,
            BalancingAlgorithm::Hash => {
                let name = spec.hash_name.as_deref().filter(|name| is_token(name));
                match (spec.hash_on.unwrap_or(HashOn::Client), name) {
                    (HashOn::Client, _) => Balance::Hash(HashKey::Client),
                    (HashOn::Header, Some(name)) => Balance::Hash(HashKey::Header(name.to_ascii_lowercase().into())),
                    (HashOn::Cookie, Some(name)) => Balance::Hash(HashKey::Cookie(name.into())),
                    (HashOn::Header | HashOn::Cookie, None) => {
                        let message = "hashing a header or a cookie needs its name; LeastRequest is used";
                        self.error(object, "InvalidValue", "spec.balancing.hashName", message);
                        Balance::LeastRequest
                    }
                }
            }
        }
    }

    fn timeouts(&mut self, object: &ObjectKey, spec: &GatewaySettingsSpec) -> RouteTimeouts {
        let config = self.config();
        let timeouts = &spec.timeouts;
        let seconds = Duration::from_secs;
        let idle = self.positive(object, "spec.timeouts.idle", timeouts.idle, config.proxy_read_timeout, seconds(60));
        RouteTimeouts {
            connect: self.positive(
                object,
                "spec.timeouts.connect",
                timeouts.connect,
                config.proxy_connect_timeout,
                seconds(5),
            ),
            send: idle,
            idle,
            request: timeouts.request.map(|text| text.0).filter(|request| !request.is_zero()),
        }
    }

    fn percent(&mut self, object: &ObjectKey, field: &str, written: Option<u32>, default: u32) -> u32 {
        match written {
            Some(percent) if percent > 100 => {
                self.error(object, "InvalidValue", field, format!("{percent} is more than 100; {default} is used"));
                default
            }
            other => other.unwrap_or(default),
        }
    }

    fn retry(&mut self, object: &ObjectKey, spec: &GatewaySettingsSpec) -> Retry {
        let attempts = match spec.retries.attempts {
            Some(attempts @ 1..=100) => attempts,
            Some(attempts) => {
                let message = format!("{attempts} is not between 1 (no retry) and 100; 3 is used");
                self.error(object, "InvalidValue", "spec.retries.attempts", message);
                3
            }
            None => 3,
        };
        let budget_percent = self.percent(object, "spec.retries.budgetPercent", spec.retries.budget_percent, 20);
        Retry { attempts, budget_percent }
    }

    fn pools(&mut self, object: &ObjectKey, spec: &GatewaySettingsSpec) -> PoolDefaults {
        let config = self.config();
        let seconds = Duration::from_secs;
        let health = &spec.passive_health;
        let base = self.positive(object, "spec.passiveHealth.baseEjection", health.base_ejection, None, seconds(10));
        let max = self.positive(object, "spec.passiveHealth.maxEjection", health.max_ejection, None, seconds(300));
        if max < base {
            let message = "is shorter than baseEjection, which counts for both";
            self.error(object, "InvalidValue", "spec.passiveHealth.maxEjection", message);
        }
        let upstream = &spec.upstream;
        PoolDefaults {
            emit_proxy_protocol: client_address::emit_proxy_protocol(&spec.client_address),
            health: PassiveHealth {
                consecutive_failures: health.consecutive_failures.unwrap_or(5),
                base_ejection: base,
                max_ejection: max.max(base),
                max_ejected_percent: self.percent(
                    object,
                    "spec.passiveHealth.maxEjectedPercent",
                    health.max_ejected_percent,
                    50,
                ),
            },
            keep_alive: UpstreamKeepAlive {
                max_idle: upstream.max_idle_connections.or(config.upstream_keepalive_connections).unwrap_or(64),
                idle_timeout: self.positive(
                    object,
                    "spec.upstream.idleTimeout",
                    upstream.idle_timeout,
                    config.upstream_keepalive_timeout,
                    seconds(60),
                ),
            },
            tls: Arc::new(UpstreamTls {
                verify: self.verify(object, spec),
                server_name: upstream.tls.server_name.as_deref().map(Box::from),
            }),
        }
    }

    /// What cannot be loaded verifies against nothing, so that every connection fails.
    fn verify(&mut self, object: &ObjectKey, spec: &GatewaySettingsSpec) -> UpstreamVerify {
        let tls = &spec.upstream.tls;
        match tls.verify {
            None | Some(UpstreamVerifySpec::Off) => {
                if tls.ca.is_some() {
                    let message = "has no effect while verify is not CertificateAuthority: endpoints are NOT verified";
                    let finding = Finding::warning("NoEffect", object.clone(), message).at("spec.upstream.tls.ca");
                    self.findings.push(finding);
                }
                UpstreamVerify::Off
            }
            Some(UpstreamVerifySpec::SystemRoots) => UpstreamVerify::SystemRoots,
            Some(UpstreamVerifySpec::CertificateAuthority) => {
                let roots = self.authorities(tls.ca.as_deref()).unwrap_or_else(|message| {
                    let message = format!("{message}; no endpoint will be believed");
                    self.error(object, "MissingReference", "spec.upstream.tls.ca", message);
                    Vec::new()
                });
                UpstreamVerify::Roots(Arc::new(roots))
            }
        }
    }

    fn authorities(&mut self, reference: Option<&str>) -> Result<Vec<Vec<u8>>, String> {
        let text = reference.ok_or("CertificateAuthority needs a \"namespace/name\"")?;
        let id = NamespacedName::parse(text).ok_or_else(|| format!("{text:?} is not \"namespace/name\""))?;
        for kind in [Kind::Secret, Kind::ConfigMap] {
            self.reads.push(ObjectKey { kind, id: id.clone() });
        }
        let secret = self.cluster.secrets.get(&id);
        let map = self.cluster.config_maps.get(&id);
        let pem = secret
            .and_then(|secret| secret.bytes("ca.crt"))
            .or_else(|| map.and_then(|map| map.data.get("ca.crt")).map(String::as_bytes))
            .map(Ok)
            // It may be in a Secret.
            .or_else(|| (!self.options.reads_secrets).then_some(Err(Vec::new())))
            .ok_or_else(|| format!("no Secret or ConfigMap {id} with a key ca.crt exists"))?;
        match pem {
            Ok(pem) => certificate::authorities(pem).map_err(|wrong| format!("{id}: {wrong}")),
            Err(unknown) => Ok(unknown),
        }
    }

    fn tls(&mut self, object: &ObjectKey, spec: &GatewaySettingsSpec) -> TlsPlan {
        let config = self.config();
        let default = match (spec.tls.default_certificate.as_deref(), &self.options.default_certificate) {
            (Some(text), _) => match NamespacedName::parse(text) {
                Some(id) => self.default_certificate(object, id),
                None => {
                    let message = format!("{text:?} is not \"namespace/name\"; a self-signed certificate is used");
                    self.error(object, "MissingReference", "spec.tls.defaultCertificate", message);
                    None
                }
            },
            (None, Some(id)) => self.default_certificate(object, id.clone()),
            (None, None) => None,
        };
        TlsPlan {
            default,
            min_version: spec.tls.min_version.or(config.min_tls_version).unwrap_or_default(),
            http2: spec.tls.http2.or(config.use_http2).unwrap_or(true),
            session_tickets: spec.tls.session_tickets.or(config.ssl_session_tickets).unwrap_or(true),
        }
    }
}

impl Reader<'_> {
    fn default_certificate(&mut self, object: &ObjectKey, id: NamespacedName) -> Option<Arc<Certificate>> {
        let key = ObjectKey { kind: Kind::Secret, id };
        self.reads.push(key.clone());
        if !self.options.reads_secrets {
            return None;
        }
        match certificate::load(self.cluster.secrets.get(&key.id).map(|secret| &**secret)) {
            Ok(loaded) => Some(loaded.certificate),
            Err(wrong) => {
                let message = format!("{key} {wrong}; a self-signed certificate is used");
                self.error(object, "MissingReference", "spec.tls.defaultCertificate", message);
                None
            }
        }
    }
}

fn default_listeners(options: &Options) -> Vec<ListenerSpec> {
    let listener = |name: &str, port: u16, protocol| ListenerSpec {
        name: name.to_owned(),
        address: None,
        port,
        protocol,
        client_address: None,
        backends: None,
        idle_timeout: None,
    };
    vec![
        listener("http", options.http_port.unwrap_or(80), ListenerProtocol::HTTP),
        listener("https", options.https_port.unwrap_or(443), ListenerProtocol::HTTPS),
    ]
}

/// Whether two listeners cannot both be opened. Port 0 is a port of its own each time.
pub(crate) fn overlap(a: (IpAddr, u16, Transport), b: (IpAddr, u16, Transport)) -> bool {
    let same_address = a.0 == b.0 || (a.0.is_unspecified() && b.0.is_unspecified());
    a.1 == b.1 && a.1 != 0 && a.2 == b.2 && same_address
}

fn is_token(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.len() <= 128 && name.bytes().all(token)
}
