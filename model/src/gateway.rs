//! The gateway's snapshot: listeners, virtual hosts, rules, pools, certificates.
//!
//! One shape for every front door (Ingress, ALB rules, Gateway API routes). Entries are shared behind `Arc`, so that a
//! new snapshot costs what changed: an entry whose `Arc` is the same pointer as before has not changed.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::client::{ClientAddressPolicy, EmitProxyProtocol};
use crate::nat::Transport;
use crate::origin::{NamespacedName, Origin};
use crate::settings::{AccessLogFormat, Limits, TlsVersion};

mod auth;
mod balance;
mod filters;
mod rule_names;
mod stream;
mod trace;

pub use auth::{
    AccessList, Auth, BasicAuth, Fill, ForwardAuth, HashError, MAX_BCRYPT_COST, MAX_SHA_ROUNDS, MAX_TEMPLATE,
    MAX_USERS, Part, PasswordHash, Template, TemplateError, Users, UsersError,
};
pub use balance::{AffinityCookie, Balance, HashKey, SameSite, is_cookie_name};
pub use filters::{AllowedOrigin, Cors, EditValue, HeaderEdits, Variable};
pub use rule_names::RuleNames;
pub use stream::{StreamBackend, StreamRoute, StreamTimeouts, TcpKeepAlive};
pub use trace::{Collector, RootSampler, RuleSource, Sampler, SpanExporter, Trace};

/// Everything one gateway serves.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GatewaySnapshot {
    /// Counts up with every published change; never 0 once published.
    pub generation: u64,
    /// Sorted by address, port, transport.
    pub listeners: Vec<Arc<Listener>>,
    pub pools: Pools,
}

/// One address and port of one transport, and what is served there.
#[derive(Debug, Clone, Serialize)]
pub struct Listener {
    pub name: Arc<str>,
    pub origin: Origin,
    /// `::` means every address, IPv4 included.
    pub address: IpAddr,
    /// 0 asks the kernel for a free port.
    pub port: u16,
    pub protocol: Protocol,
    pub client_address: Arc<ClientAddressPolicy>,
    pub connection: Arc<ConnectionSettings>,
    /// Present exactly when `protocol` is [`Protocol::Https`].
    pub tls: Option<Arc<TlsTermination>>,
    /// Empty when `protocol` is [`Protocol::Tcp`] or [`Protocol::Udp`].
    pub routes: Arc<RouteTable>,
    /// Present exactly when `protocol` is [`Protocol::Tcp`] or [`Protocol::Udp`].
    pub stream: Option<Arc<StreamRoute>>,
}

impl Listener {
    /// Listeners that differ in this share nothing: TCP and UDP each have ports of their own.
    pub fn place(&self) -> (IpAddr, u16, Transport) {
        (self.address, self.port, self.protocol.transport())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.0, HTTP/1.1, HTTP/2 with prior knowledge.
    #[serde(rename = "HTTP")]
    Http,
    /// The same inside TLS, HTTP/2 by ALPN.
    #[serde(rename = "HTTPS")]
    Https,
    /// Connections, carried as they are.
    #[serde(rename = "TCP")]
    Tcp,
    /// Datagrams, carried as they are.
    #[serde(rename = "UDP")]
    Udp,
}

impl Protocol {
    pub fn transport(self) -> Transport {
        match self {
            Self::Http | Self::Https | Self::Tcp => Transport::Tcp,
            Self::Udp => Transport::Udp,
        }
    }
}

/// How downstream connections of a listener are treated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConnectionSettings {
    pub limits: Limits,
    /// From the first byte of a request to the end of its head; also for the TLS handshake.
    pub header_timeout: Duration,
    /// A keep-alive connection without a request.
    pub idle_timeout: Duration,
    /// Longest pause between two reads of a request body, or between two writes of a response.
    pub body_timeout: Duration,
    /// Offer and accept HTTP/2.
    pub http2: bool,
    pub access_log: AccessLogFormat,
    /// `None`: the connections are not probed.
    pub tcp_keep_alive: Option<TcpKeepAlive>,
    pub error_style: ErrorStyle,
    /// Clients `R` that are told which rule and endpoint served them, in a header, when they ask with
    /// `cpaas-trace: true`; the endpoint's address is among it. Empty: nobody.
    pub trace_clients: Vec<ipnet::IpNet>,
    /// `None`: responses pass as endpoints send them.
    pub compression: Option<Arc<Compression>>,
}

/// Which responses are compressed, with gzip (RFC 1952), for clients that take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compression {
    /// 1 (fast) to 9 (small).
    pub level: u8,
    /// A body that says it is shorter is left alone; in bytes.
    pub min_length: u64,
    /// Media types in lower case, without parameters.
    pub types: Vec<Box<str>>,
}

impl Compression {
    /// Types of text, as ingress-nginx compresses them.
    pub const TYPES: [&str; 18] = [
        "application/atom+xml",
        "application/javascript",
        "application/json",
        "application/rss+xml",
        "application/vnd.ms-fontobject",
        "application/x-font-ttf",
        "application/x-javascript",
        "application/x-web-app-manifest+json",
        "application/xhtml+xml",
        "application/xml",
        "font/opentype",
        "image/svg+xml",
        "image/x-icon",
        "text/css",
        "text/html",
        "text/javascript",
        "text/plain",
        "text/x-component",
    ];
}

impl Default for Compression {
    /// As Alauda's ALB compresses.
    fn default() -> Self {
        Self { level: 5, min_length: 256, types: Self::TYPES.map(Box::from).into() }
    }
}

/// What the gateway's own answers to faults look like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum ErrorStyle {
    /// The reason's word in `x-headwater-fault`, and in the body with a sentence.
    #[default]
    Headwater,
    /// As Alauda's ALB: `X-ALB-ERR-REASON`, also for answers of endpoints from 400 on, and the body `X-Error: STATUS`.
    Alb,
}

/// Certificates of a listener, found by SNI.
#[derive(Debug, Clone, Serialize)]
pub struct TlsTermination {
    /// Exact names, lower case.
    pub exact: HashMap<Arc<str>, Vec<Arc<Certificate>>>,
    /// `example.com` for `*.example.com`; one label stands for the star.
    pub wildcard: HashMap<Arc<str>, Vec<Arc<Certificate>>>,
    /// For no SNI and for names not found. `None`: the listener makes a self-signed one.
    pub default: Option<Arc<Certificate>>,
    pub min_version: TlsVersion,
    pub http2: bool,
    pub session_tickets: bool,
    /// Names whose connections are carried as they are, TLS and all; only those with a server name can be. An exact name
    /// here comes before a certificate, a wildcard after the certificates of exact names.
    pub passthrough: HashMap<HostPattern, Arc<StreamRoute>>,
}

impl TlsTermination {
    /// The route of a name (lower case, without trailing dot) whose connections are carried as they are.
    ///
    /// The most specific of passthrough hosts and certificates decides; of equals, passthrough.
    pub fn passed_through(&self, name: &str) -> Option<&Arc<StreamRoute>> {
        if self.passthrough.is_empty() {
            return None;
        }
        if let Some(route) = self.passthrough.get(&HostPattern::Exact(name.into())) {
            return Some(route);
        }
        if self.exact.contains_key(name) {
            return None;
        }
        let mut rest = name;
        while let Some((_, suffix)) = rest.split_once('.') {
            let direct = rest.len() == name.len();
            if direct && let Some(route) = self.passthrough.get(&HostPattern::OneLabel(suffix.into())) {
                return Some(route);
            }
            if let Some(route) = self.passthrough.get(&HostPattern::Suffix(suffix.into())) {
                return Some(route);
            }
            if direct && self.wildcard.contains_key(suffix) {
                return None;
            }
            rest = suffix;
        }
        self.passthrough.get(&HostPattern::Any)
    }
}

/// A certificate chain and its private key, checked to belong together.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The Secret it came from.
    pub origin: Origin,
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    pub key: PrivateKey,
    /// DNS names of the leaf, lower case.
    pub names: Vec<String>,
    /// End of validity of the leaf, seconds since the epoch.
    pub not_after: i64,
}

/// DER of a private key; never printed. Tagged as PEM tags it.
#[derive(Clone, PartialEq, Eq)]
pub enum PrivateKey {
    Pkcs1(Vec<u8>),
    Sec1(Vec<u8>),
    Pkcs8(Vec<u8>),
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("origin", &self.origin).field("names", &self.names).finish_non_exhaustive()
    }
}

impl Serialize for Certificate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Redacted<'a> {
            origin: &'a Origin,
            names: &'a [String],
            not_after: i64,
            key: &'static str,
        }
        Redacted { origin: &self.origin, names: &self.names, not_after: self.not_after, key: "redacted" }
            .serialize(serializer)
    }
}

/// The virtual hosts of a listener.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RouteTable {
    pub law: HostLaw,
    pub hosts: HashMap<HostPattern, Arc<VirtualHost>>,
    /// Answers what no rule of the chosen host matches; `None` is 404 `no_route`.
    pub default: Option<Arc<Rule>>,
}

/// Which host's rules are looked at when several patterns match a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum HostLaw {
    /// The most specific host alone: exact, then wildcard (longest first), then any (Ingress, Gateway API).
    #[default]
    MostSpecific,
    /// The rule of best precedence among all hosts that match (ALB).
    ByPrecedence,
}

/// A host that rules are written for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// Lower case, without port or trailing dot.
    Exact(Arc<str>),
    /// `example.com` for `*.example.com`, where the star is exactly one label (Ingress, ALB).
    OneLabel(Arc<str>),
    /// `example.com` for `*.example.com`, where the star is one label or more (Gateway API).
    Suffix(Arc<str>),
    Any,
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::OneLabel(suffix) => write!(f, "*.{suffix}"),
            Self::Suffix(suffix) => write!(f, "**.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The rules of one host, best precedence first.
#[derive(Debug, Clone, Serialize)]
pub struct VirtualHost {
    pub host: HostPattern,
    pub rules: Vec<Arc<Rule>>,
}

/// Place of a rule among all rules of its listener: smaller is looked at first. A total order, computed by each API's
/// own law at translation, so that matching only has to find the first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Precedence {
    pub ranks: [i64; 4],
    /// Decides between equal ranks: `namespace/name/index` or the like.
    pub tie: Arc<str>,
}

/// What requests it matches, what is done to them, where they go.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rule {
    pub origin: Arc<Origin>,
    /// Path of the rule inside its object: `spec.rules[0].http.paths[1]`.
    pub field: Arc<str>,
    pub precedence: Precedence,
    pub matches: Match,
    pub filters: Filters,
    /// Whom it lets in; `None`: everybody. Behind redirects and CORS, ahead of forwarding.
    pub auth: Option<Arc<Auth>>,
    /// How what it forwards is traced; `None`: it is not.
    pub trace: Option<Arc<Trace>>,
    /// What metrics and spans name as its source; `None`: its origin.
    pub source: Option<Arc<RuleSource>>,
    pub action: Action,
}

/// All of it must hold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Match {
    pub path: PathMatch,
    pub conditions: Vec<Condition>,
}

/// How the path (percent-encoding normalised, without query) is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum PathMatch {
    Any,
    Exact(Box<str>),
    /// By path element: `/foo` matches `/foo`, `/foo/` and `/foo/bar`, not `/foobar`. Without trailing slash but for `/`.
    Prefix(Box<str>),
    /// By bytes: `/foo` matches `/foobar` (ALB `STARTS_WITH`).
    StartsWith(Box<str>),
    /// Linear-time syntax of the `regex` crate, found anywhere unless anchored. The path is decoded, as nginx's `$uri` is,
    /// but `%2F` and `%25` stay.
    Regex(Box<str>),
    /// At least one of them; none of them is an `AnyOf`.
    AnyOf(Vec<PathMatch>),
}

/// A condition besides the path.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub enum Condition {
    Method(ValueMatch),
    /// In lower case, without port; `_` for a request without host, as nginx's `$host` has it.
    Host(ValueMatch),
    /// The path, spelt as [`PathMatch::Regex`] sees it.
    Path(ValueMatch),
    /// Name in lower case; several lines are joined with `, `.
    Header {
        name: Box<str>,
        value: ValueMatch,
    },
    /// First parameter of the name, percent-decoded.
    Query {
        name: Box<str>,
        value: ValueMatch,
    },
    /// Only parameter of the name among the first 100, percent-decoded; one that is repeated or has no `=` exists, and
    /// equals nothing (ALB `PARAM`).
    Param {
        name: Box<str>,
        value: ValueMatch,
    },
    /// First cookie of the name, whose case does not count.
    Cookie {
        name: Box<str>,
        value: ValueMatch,
    },
    /// The client `R` of the client-address contract.
    Client(ValueMatch),
    Any(Vec<Condition>),
    All(Vec<Condition>),
}

/// How a value is compared; an absent value matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum ValueMatch {
    Exists,
    Exact(Box<str>),
    In(Vec<Box<str>>),
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    /// One byte or more, of which none but the last is a `.`, and then this text (ALB `ENDS_WITH`: `.example.com` for
    /// `*.example.com`).
    EndsWithLabel(Box<str>),
    Regex(Box<str>),
    /// Inclusive; addresses by number, other values by bytes.
    Range(Box<str>, Box<str>),
    /// The value is an address inside one of the networks.
    Cidr(Vec<ipnet::IpNet>),
}

/// What is done to requests and responses; most rules do nothing, and then it takes no memory that a request has to wait for.
///
/// Reads as [`FilterSteps`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(Option<Box<FilterSteps>>);

/// Typed steps in a fixed order: CORS, URL rewrite, request headers, then on the way back CORS and response headers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FilterSteps {
    /// Only of a rule, not of a backend.
    pub cors: Option<Box<Cors>>,
    pub rewrite: Option<UrlRewrite>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
}

/// What is read where nothing is done: one, so that it is always near.
static NO_STEPS: FilterSteps =
    FilterSteps { cors: None, rewrite: None, request_headers: HeaderEdits::NONE, response_headers: HeaderEdits::NONE };

impl Filters {
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl From<FilterSteps> for Filters {
    fn from(steps: FilterSteps) -> Self {
        Self((steps != NO_STEPS).then(|| Box::new(steps)))
    }
}

impl Deref for Filters {
    type Target = FilterSteps;

    fn deref(&self) -> &FilterSteps {
        self.0.as_deref().unwrap_or(&NO_STEPS)
    }
}

impl Serialize for Filters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        FilterSteps::serialize(self, serializer)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UrlRewrite {
    /// `Host` towards the backend.
    pub host: Option<Box<str>>,
    pub path: Option<PathRewrite>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PathRewrite {
    Full(Box<str>),
    /// Replaces what the rule's [`PathMatch::Prefix`] matched.
    Prefix(Box<str>),
    /// Replaces the first match of `pattern` in the path; `$1` to `$9` in `replacement` are its groups. The rest of the
    /// path stays. Linear-time syntax of the `regex` crate. Only in the filters of a rule of a host.
    Regex {
        pattern: Box<str>,
        /// Visible ASCII. With a `?` of its own, the request's query follows behind `&`; a `?` at the end drops it.
        replacement: Box<str>,
    },
    /// Replaces `prefix` where the path, as bytes, begins with it; exactly one `/` is between the two parts.
    Given {
        prefix: Box<str>,
        replacement: Box<str>,
    },
}

/// Where a matched request goes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub enum Action {
    Forward(Forward),
    Redirect(Redirect),
    /// Part of the rule is broken or forbidden: fail closed, with a reason to look up.
    Refuse(Refuse),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forward {
    /// At least one; weights of 0 receive nothing.
    pub backends: Vec<Backend>,
    /// Answered instead of forwarding while the request's scheme is `http`.
    pub https_redirect: Option<Box<Redirect>>,
    pub balance: Balance,
    pub timeouts: RouteTimeouts,
    pub retry: Retry,
    /// Copies whose responses are dropped.
    pub mirrors: Vec<Mirror>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Backend {
    pub pool: PoolId,
    pub weight: u32,
    pub filters: Filters,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mirror {
    pub pool: PoolId,
    /// Of 1,000,000 requests.
    pub parts_per_million: u32,
}

/// `None` keeps the request's own part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Redirect {
    pub status: u16,
    /// The whole `Location`, as it is; nothing below counts then.
    pub location: Option<Box<str>>,
    pub scheme: Option<Box<str>>,
    pub host: Option<Box<str>>,
    pub port: Option<u16>,
    pub path: Option<PathRewrite>,
    /// Whether one trailing `/` of a path other than `/` is removed (ingress-nginx's ssl-redirect does).
    pub strip_trailing_slash: bool,
    /// Whether the request's query is dropped.
    pub drop_query: bool,
    /// Requests for paths that begin with one of these are not redirected ([`Forward::https_redirect`] alone).
    pub exempt: Vec<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refuse {
    pub status: u16,
    /// Word of docs/faults.md.
    pub reason: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RouteTimeouts {
    pub connect: Duration,
    /// Longest pause of the upstream while it is sent the request.
    pub send: Duration,
    /// Longest pause of the upstream while a response is awaited or read.
    pub idle: Duration,
    /// The whole request, retries included; `None` is off.
    pub request: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Retry {
    /// Tries in all, the first included; 1 is no retry.
    pub attempts: u32,
    /// Retries as a share of requests, in percent.
    pub budget_percent: u32,
}

/// Index into [`Pools`]; stable while the pool lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PoolId(pub u32);

/// Pools by id.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Pools(pub Vec<Option<Arc<Pool>>>);

impl Pools {
    pub fn find(&self, id: PoolId) -> Option<&Arc<Pool>> {
        self.0.get(id.0 as usize).and_then(Option::as_ref)
    }
}

/// The endpoints of one port of a Service, spoken to in one protocol.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pool {
    pub service: NamespacedName,
    /// Number of the Service's port.
    pub port: u16,
    pub protocol: UpstreamProtocol,
    pub tls: Option<Arc<UpstreamTls>>,
    pub emit_proxy_protocol: EmitProxyProtocol,
    pub health: PassiveHealth,
    pub keep_alive: UpstreamKeepAlive,
    /// Sorted by address; ready ones, or when none is ready those that still serve while terminating (KEP-1669).
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum UpstreamProtocol {
    Http1,
    /// Prior knowledge, or ALPN `h2` when the pool has TLS.
    Http2,
    /// Bytes as they come; only for a [`StreamRoute`].
    Tcp,
    /// Datagrams as they come; only for a [`StreamRoute`].
    Udp,
}

/// TLS towards endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct UpstreamTls {
    pub verify: UpstreamVerify,
    /// SNI and the name that is verified; `None`: the request's host.
    pub server_name: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum UpstreamVerify {
    /// Encrypts, believes anybody (what ingress-nginx does by default).
    Off,
    SystemRoots,
    /// DER of certificate authorities.
    Roots(Arc<Vec<Vec<u8>>>),
}

/// Outlier ejection by what requests see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PassiveHealth {
    /// Failures in a row that eject; 0 is off.
    pub consecutive_failures: u32,
    /// First ejection; doubles with each one that follows.
    pub base_ejection: Duration,
    pub max_ejection: Duration,
    /// Never more than this share of a pool.
    pub max_ejected_percent: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct UpstreamKeepAlive {
    /// Idle connections kept for each endpoint by each worker.
    pub max_idle: u32,
    pub idle_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    pub address: EndpointAddress,
    pub weight: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum EndpointAddress {
    Ip(SocketAddr),
    /// Resolved by the gateway (Service type ExternalName).
    Dns(Arc<str>, u16),
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Dns(name, port) => write!(f, "{name}:{port}"),
        }
    }
}
