//! The gateway's part: who it takes the client for, which rule is met, and what the backend is told.

use std::net::{IpAddr, SocketAddr};

use headwater_client_address::{Arrival, Client, Decision, Outbound, Sender, proxy, resolve as resolve_client};
use headwater_model::client::{EmitProxyProtocol, Provenance, ProxyProtocolMode};
use headwater_model::gateway::{Action as RuleAction, Listener, Pool, PoolId, Protocol};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use headwater_route_match::{CompiledTable, RequestView, normalise_host, normalise_path};

use crate::answer::{Action, Cause, Flow, Hop, Path, Place, Sees, Verdict, VerdictKind};
use crate::end::End;
use crate::mend;
use crate::question::{Host, Question, Scheme};
use crate::walk::{Trail, Walk};

mod stream;

/// A PROXY header needs a port for the client, and nobody asks which.
const CLIENT_PORT: u16 = 40_000;

/// A connection at a gateway, before anything is decided.
struct Arrived<'a> {
    question: &'a Question,
    client: IpAddr,
    peer: IpAddr,
    /// The gateway's end.
    local: SocketAddr,
    source: End,
    destination: End,
    /// The gateway is chosen among no others.
    alone: bool,
    causes: Vec<Cause>,
}

/// A gateway is the endpoint.
pub(crate) fn through(
    walk: &mut Walk<'_>,
    trail: Trail,
    source: End,
    local: SocketAddr,
    service: &NamespacedName,
) -> Path {
    let destination = if trail.endpoints.is_empty() { End::Socket(local) } else { End::Endpoint };
    let object = Some(ObjectKey { kind: Kind::Service, id: service.clone() });
    let cause = Cause { object, field: String::new(), value: String::new() };
    let Some(peer) = source.ip() else {
        let why = "the gateway's peer is a node whose address is not known".to_owned();
        let mut trail = trail;
        trail.mends.extend(mend::node_objects());
        let hop = trail.changed();
        return trail.path(Verdict { kind: VerdictKind::Lost, hop, why }, None);
    };
    accept(walk, trail, peer, local, (source, destination), vec![cause])
}

/// The gateway of this machine takes it.
pub(crate) fn here(walk: &mut Walk<'_>, trail: Trail, source: IpAddr, local: SocketAddr, destination: End) -> Path {
    accept(walk, trail, source, local, (End::Address(source), destination), Vec::new())
}

fn accept(
    walk: &mut Walk<'_>,
    trail: Trail,
    peer: IpAddr,
    local: SocketAddr,
    (source, destination): (End, End),
    causes: Vec<Cause>,
) -> Path {
    let alone = trail.endpoints.len() == 1;
    let (question, client) = (walk.question, walk.client);
    let arrived = Arrived { question, client, peer, local, source, destination, alone, causes };
    let snapshot = walk.world.gateway().clone();
    let takes = |listener: &&std::sync::Arc<Listener>| {
        let any = listener.address.is_unspecified() || local.ip().is_unspecified();
        listener.port == local.port() && (any || listener.address == local.ip())
    };
    let transport = walk.protocol();
    let speaks = |listener: &&std::sync::Arc<Listener>| listener.protocol.transport() == transport;
    match snapshot.listeners.iter().filter(speaks).find(takes) {
        Some(listener) => {
            let pools = |targets: &[(PoolId, u32)]| -> Vec<std::sync::Arc<Pool>> {
                let taking = targets.iter().filter(|(_, weight)| *weight > 0);
                taking.filter_map(|(pool, _)| snapshot.pools.find(*pool).cloned()).collect()
            };
            arrived.at(listener, trail, pools)
        }
        None => {
            let ports: Vec<String> =
                snapshot.listeners.iter().filter(speaks).map(|listener| listener.port.to_string()).collect();
            let why = match ports.is_empty() {
                true => "the gateway has no listener".to_owned(),
                false => format!("the gateway has no listener at port {}; it has: {}", local.port(), ports.join(", ")),
            };
            arrived.refuse(trail, Vec::new(), why)
        }
    }
}

impl Arrived<'_> {
    fn hop(&self, action: Action, after: Option<Flow>, causes: Vec<Cause>, why: String) -> Hop {
        Hop {
            at: Place::Gateway,
            action,
            before: Flow { source: self.source.clone(), destination: self.destination.clone() },
            after,
            outer: None,
            causes: self.causes.iter().cloned().chain(causes).collect(),
            why,
        }
    }

    fn refuse(&self, mut trail: Trail, causes: Vec<Cause>, why: String) -> Path {
        trail.hops.push(self.hop(Action::Refuse, None, causes, why));
        trail.end(VerdictKind::Refused)
    }

    /// What comes first on the connection.
    fn first_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(named) = self.question.proxy_protocol {
            let like = |ip: IpAddr| match named {
                IpAddr::V4(_) if ip.is_ipv4() => ip,
                IpAddr::V6(_) if ip.is_ipv6() => ip,
                IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            };
            let to = SocketAddr::new(like(self.local.ip()), self.local.port());
            proxy::write_v1(Some(SocketAddr::new(named, CLIENT_PORT)), Some(to), &mut bytes);
        }
        bytes.extend_from_slice(match self.question.target.scheme {
            Scheme::Https => b"\x16\x03\x01\x02\x00\x01".as_slice(),
            _ => b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        });
        bytes
    }

    fn at(
        &self,
        listener: &Listener,
        mut trail: Trail,
        pools: impl Fn(&[(PoolId, u32)]) -> Vec<std::sync::Arc<Pool>>,
    ) -> Path {
        let policy = &listener.client_address;
        let cause = Cause {
            object: Some(listener.origin.key.clone()),
            field: "spec.listeners".to_owned(),
            value: listener.name.to_string(),
        };
        let mut sender = Sender::of_socket(SocketAddr::new(self.peer, CLIENT_PORT), self.local);
        if policy.proxy_protocol == ProxyProtocolMode::Off && self.question.proxy_protocol.is_some() {
            trail.mends.extend(mend::trust(
                listener.origin.key.clone(),
                self.peer,
                "spec.clientAddress.proxyProtocol",
                "Required",
            ));
            let why = "a PROXY header comes where none is expected: answers 400 (proxy_header), or breaks off TLS";
            return self.refuse(trail, vec![cause], why.to_owned());
        }
        match sender.admit(policy, &self.first_bytes(), Arrival::Open) {
            Decision::Proceed(None) => {}
            Decision::Proceed(Some(header)) => sender = sender.with_proxy(&header),
            Decision::Refuse(refusal) => {
                if !sender.trusted(&policy.trust) {
                    trail.mends.extend(mend::trust(
                        listener.origin.key.clone(),
                        self.peer,
                        "spec.clientAddress.proxyProtocol",
                        "Optional lets others in without a header",
                    ));
                }
                let why = format!("closes the connection: PROXY header {}", refusal.reason());
                return self.refuse(trail, vec![cause], why);
            }
            Decision::Read => return self.refuse(trail, vec![cause], "waits for a PROXY header".to_owned()),
        }
        let scheme = self.question.target.scheme;
        let asked = match (&self.question.target.host, scheme) {
            (Host::Name(name), Scheme::Https) => Some(name),
            _ => None,
        };
        let passed = asked.and_then(|name| listener.tls.as_ref()?.passed_through(name));
        if let Some(route) = listener.stream.as_ref().or(passed) {
            let client = Client::of_sender(policy, &sender);
            let why = format!("takes {} for the client ({})", client.addr, client.provenance);
            let flow = Flow { source: self.source.clone(), destination: self.destination.clone() };
            trail.hops.push(self.hop(Action::Accept, Some(flow), vec![cause], why));
            let accepted = u32::try_from(trail.hops.len()).ok();
            let backends = route.backends.iter().map(|backend| (backend.pool, backend.weight));
            return self.carry(trail, &client, accepted, route, &pools(&backends.collect::<Vec<_>>()));
        }
        match (scheme, listener.protocol) {
            (Scheme::Https, Protocol::Http) => {
                return self.refuse(trail, vec![cause], "TLS comes to a listener that speaks plain HTTP".to_owned());
            }
            (Scheme::Http, Protocol::Https) => {
                return self.refuse(trail, vec![cause], "plain HTTP comes to a listener that speaks TLS".to_owned());
            }
            _ => {}
        }
        sender.tls = listener.protocol == Protocol::Https;
        let headers = &self.question.headers[..];
        let client = resolve_client(policy, &sender, headers);
        let why = format!("takes {} for the client ({})", client.addr, client.provenance);
        let flow = Flow { source: self.source.clone(), destination: self.destination.clone() };
        trail.hops.push(self.hop(Action::Accept, Some(flow), vec![cause], why));
        let accepted = u32::try_from(trail.hops.len()).ok();
        if client.addr == self.client {
            trail.mends.clear();
        } else if client.provenance == Provenance::Socket && self.question.sender == Some(self.peer) {
            let key = listener.origin.key.clone();
            let (field, value) = match self.question.proxy_protocol {
                Some(_) => ("spec.clientAddress.proxyProtocol", "Required"),
                None => ("spec.clientAddress.forwardedHeader", "X-Forwarded-For (or proxyProtocol: Required)"),
            };
            trail.mends.extend(mend::trust(key, self.peer, field, value));
        }
        if !scheme.is_http() {
            let sees = Sees { peer: self.source.clone(), ..self.sees(&client, Vec::new(), None) };
            return self.close(trail, &client, accepted, sees, "the gateway");
        }
        self.route(listener, trail, &client, accepted, pools)
    }

    fn sees(&self, client: &Client, headers: Vec<(String, String)>, proxy_header: Option<String>) -> Sees {
        Sees {
            peer: self.destination.clone(),
            client: Some(client.addr),
            provenance: Some(client.provenance.to_string()),
            headers,
            proxy_header,
        }
    }

    /// The verdict, when somebody was reached.
    fn close(&self, trail: Trail, client: &Client, accepted: Option<u32>, sees: Sees, who: &str) -> Path {
        let verdict = if client.addr == self.client {
            let by = client.provenance.to_string();
            let (kind, why) = match sees.headers.is_empty() && sees.proxy_header.is_none() {
                true => (VerdictKind::Kept, format!("{who} takes {} for the client ({by})", client.addr)),
                false => (VerdictKind::KeptInHeader, format!("{who} is told of {} by the gateway ({by})", client.addr)),
            };
            Verdict { kind, hop: None, why }
        } else {
            let why = format!("{who} takes {} for the client, in place of {}", client.addr, self.client);
            let by_name = client.provenance != Provenance::Socket;
            Verdict { kind: VerdictKind::Lost, hop: trail.changed().filter(|_| !by_name).or(accepted), why }
        };
        trail.path(verdict, Some(sees))
    }

    fn route(
        &self,
        listener: &Listener,
        mut trail: Trail,
        client: &Client,
        accepted: Option<u32>,
        pools: impl Fn(&[(PoolId, u32)]) -> Vec<std::sync::Arc<Pool>>,
    ) -> Path {
        let target = &self.question.target;
        let named = self.question.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let authority = named.map_or_else(|| authority(target), |(_, value)| value.clone());
        let (raw, query) = match target.path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&*target.path, None),
        };
        let path = match normalise_path(raw.as_bytes()) {
            Ok(path) => path,
            Err(error) => return self.refuse(trail, Vec::new(), format!("answers 400 (unsafe_path): {error}")),
        };
        let mut scratch = String::new();
        let host = match normalise_host(authority.as_bytes(), &mut scratch) {
            Ok(host) => host,
            Err(error) => return self.refuse(trail, Vec::new(), format!("answers 400 (bad_request): {error}")),
        };
        let table = CompiledTable::compile(&listener.routes, None);
        let view = View { question: self.question, path: path.as_str(), query, client: client.addr };
        let Some(matched) = table.find(&view, host) else {
            trail.mends.extend(mend::no_route(host));
            return self.refuse(
                trail,
                Vec::new(),
                "answers 404 (no_route): no rule is for this host and path".to_owned(),
            );
        };
        let rule = matched.rule;
        let cause =
            Cause { object: Some(rule.origin.key.clone()), field: rule.field.to_string(), value: String::new() };
        match &rule.action {
            RuleAction::Forward(forward) => {
                let over_http = client.scheme == headwater_client_address::Scheme::Http;
                if let Some(redirect) = forward.https_redirect.as_ref().filter(|_| over_http) {
                    return self.answer(trail, client, cause, format!("answers {}: go to HTTPS", redirect.status));
                }
                let backends = forward.backends.iter().map(|backend| (backend.pool, backend.weight));
                self.forward(trail, client, accepted, cause, &pools(&backends.collect::<Vec<_>>()))
            }
            RuleAction::Redirect(redirect) => {
                self.answer(trail, client, cause, format!("answers {}: go elsewhere", redirect.status))
            }
            RuleAction::Refuse(refuse) => {
                self.refuse(trail, vec![cause], format!("answers {} ({})", refuse.status, refuse.reason))
            }
            _ => self.refuse(trail, vec![cause], "the rule does what is not known here".to_owned()),
        }
    }

    /// The gateway's own answer; it knows the client.
    fn answer(&self, mut trail: Trail, client: &Client, cause: Cause, why: String) -> Path {
        trail.hops.push(self.hop(Action::Answer, None, vec![cause], why.clone()));
        let hop = u32::try_from(trail.hops.len()).ok();
        let sees = Sees { peer: self.source.clone(), ..self.sees(client, Vec::new(), None) };
        trail.path(Verdict { kind: VerdictKind::Answered, hop, why }, Some(sees))
    }

    fn forward(
        &self,
        mut trail: Trail,
        client: &Client,
        accepted: Option<u32>,
        cause: Cause,
        pools: &[std::sync::Arc<Pool>],
    ) -> Path {
        let mut backends: Vec<String> = pools
            .iter()
            .flat_map(|pool| pool.endpoints.iter().filter(|endpoint| endpoint.weight > 0))
            .map(|endpoint| endpoint.address.to_string())
            .collect();
        backends.sort();
        backends.dedup();
        let mut causes = vec![cause];
        for pool in pools {
            let object = Some(ObjectKey { kind: Kind::Service, id: pool.service.clone() });
            let cause = Cause { object, field: "spec.ports".to_owned(), value: pool.port.to_string() };
            if !causes.contains(&cause) {
                causes.push(cause);
            }
        }
        if backends.is_empty() {
            if let Some(pool) = pools.first() {
                trail.mends.push(mend::no_endpoints(&pool.service));
            }
            return self.refuse(trail, causes, "answers 503 (no_endpoints): the backend has no endpoint".to_owned());
        }
        let (headers, mut proxy_header) = (self.written(client), None);
        if pools.iter().any(|pool| pool.emit_proxy_protocol != EmitProxyProtocol::Off) {
            proxy_header = Some(client.addr.to_string());
        }
        trail.backends = backends;
        let after = Flow { source: self.own_end(), destination: End::Backend };
        let why = "opens a connection of its own, and tells the client's address in headers".to_owned();
        trail.hops.push(self.hop(Action::Proxy, Some(after), causes, why));
        let sees = Sees { peer: self.own_end(), ..self.sees(client, headers, proxy_header) };
        self.close(trail, client, accepted, sees, "the backend")
    }

    /// From where the gateway connects.
    fn own_end(&self) -> End {
        match &self.destination {
            End::Socket(socket) if !socket.ip().is_unspecified() => End::Address(socket.ip()),
            End::Endpoint if self.alone => End::Address(self.local.ip()),
            End::Endpoint => End::Gateway,
            _ => End::Machine,
        }
    }

    /// What it writes about the client.
    fn written(&self, client: &Client) -> Vec<(String, String)> {
        let mut written = Vec::new();
        let policy = headwater_model::client::ClientAddressPolicy::default();
        let headers = &self.question.headers[..];
        let outbound = Outbound { policy: &policy, client, headers, authority: b"", fresh_request_id: "" };
        let mut scratch = Vec::new();
        outbound.write_pairs(&mut scratch, |name, value| {
            let shown = match name {
                "x-real-ip" => "X-Real-IP",
                "x-forwarded-for" => "X-Forwarded-For",
                _ => return,
            };
            written.push((shown.to_owned(), String::from_utf8_lossy(value).into_owned()));
        });
        written
    }
}

/// `Host` as a client writes it.
fn authority(target: &crate::question::Target) -> String {
    match &target.host {
        Host::Address(IpAddr::V6(ip)) => format!("[{ip}]"),
        Host::Address(ip) => ip.to_string(),
        Host::Name(name) => name.clone(),
    }
}

/// What rules see of the request.
struct View<'a> {
    question: &'a Question,
    path: &'a str,
    query: Option<&'a str>,
    client: IpAddr,
}

impl RequestView for View<'_> {
    fn path(&self) -> &str {
        self.path
    }

    fn query(&self) -> Option<&str> {
        self.query
    }

    fn method(&self) -> &str {
        &self.question.method
    }

    fn header<'a, F: FnMut(&'a [u8])>(&'a self, name: &str, mut line: F) {
        for (_, value) in self.question.headers.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name)) {
            line(value.trim().as_bytes());
        }
    }

    fn client(&self) -> IpAddr {
        self.client
    }
}
