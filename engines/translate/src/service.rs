//! Services and EndpointSlices: which pool a backend means, and which endpoints a pool has.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use headwater_model::finding::Finding;
use headwater_model::gateway::{Endpoint, EndpointAddress, UpstreamProtocol};
use headwater_model::nat::Transport;
use headwater_model::object::{
    AddressType, EndpointPort, EndpointSlice, IntOrString, Service, ServiceBackendPort, ServicePort, ServiceType,
    SliceEndpoint,
};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};

use crate::host::is_name;

/// How endpoints are spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Speech {
    Http,
    Https,
    /// HTTP/2 with prior knowledge.
    H2c,
    /// HTTP/2 inside TLS.
    H2,
    /// Bytes of somebody else.
    Tcp,
    /// Datagrams of somebody else.
    Udp,
}

impl Speech {
    pub(crate) fn protocol(self) -> UpstreamProtocol {
        match self {
            Self::Http | Self::Https => UpstreamProtocol::Http1,
            Self::H2c | Self::H2 => UpstreamProtocol::Http2,
            Self::Tcp => UpstreamProtocol::Tcp,
            Self::Udp => UpstreamProtocol::Udp,
        }
    }

    /// Protocol of the Service's port.
    pub(crate) fn transport(self) -> Transport {
        if self == Self::Udp { Transport::Udp } else { Transport::Tcp }
    }

    pub(crate) fn tls(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }

    /// KEP-3726 names, the IANA name `https`, and those of the protocols themselves; anything else is HTTP/1.1.
    fn of_app_protocol(name: Option<&str>) -> Self {
        let Some(name) = name else { return Self::Http };
        if name == "kubernetes.io/h2c" {
            Self::H2c
        } else if name == "kubernetes.io/wss" || name.eq_ignore_ascii_case("https") {
            Self::Https
        } else if ["h2c", "http2", "grpc"].iter().any(|known| name.eq_ignore_ascii_case(known)) {
            Self::H2c
        } else if ["h2", "grpcs"].iter().any(|known| name.eq_ignore_ascii_case(known)) {
            Self::H2
        } else {
            Self::Http
        }
    }
}

/// The pool that a backend means, but for the gateway it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) port: u16,
    pub(crate) speech: Speech,
}

/// Why a backend cannot be forwarded to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unresolved {
    /// Word of docs/faults.md.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) mend: &'static str,
}

impl Unresolved {
    pub(crate) fn invalid(message: impl Into<String>, mend: &'static str) -> Self {
        Self { reason: "invalid_rule", message: message.into(), mend }
    }
}

/// Finds port and protocol of a backend. `forced` is the `backend-protocol` annotation, which beats `appProtocol`.
pub(crate) fn resolve(
    id: &NamespacedName,
    service: Option<&Service>,
    port: Option<&ServiceBackendPort>,
    forced: Option<Speech>,
) -> Result<Target, Unresolved> {
    let wanted = match port {
        Some(ServiceBackendPort { name: Some(name), number: None }) => Wanted::Name(name),
        Some(ServiceBackendPort { name: None, number: Some(number) }) if *number != 0 => Wanted::Number(*number),
        _ => {
            return Err(Unresolved::invalid(
                format!("the backend of Service {id} does not name one port"),
                "set port.name or port.number, and only one of the two",
            ));
        }
    };
    let Some(service) = service else {
        return Err(Unresolved {
            reason: "no_service",
            message: format!("Service {id} does not exist"),
            mend: "create it, or correct the name",
        });
    };
    let spec = &service.spec;
    if spec.service_type == ServiceType::ExternalName && external_name(service).is_none() {
        return Err(Unresolved::invalid(
            format!("Service {id} is an ExternalName without a usable spec.externalName"),
            "set a DNS name",
        ));
    }
    let transport = forced.unwrap_or(Speech::Http).transport();
    let found =
        spec.ports.iter().filter(|port| speaks(port.protocol.as_deref(), transport)).find(|port| match wanted {
            Wanted::Name(name) => port.name.as_deref() == Some(name),
            Wanted::Number(number) => port.port == number,
        });
    match (found, wanted) {
        (Some(port), _) => Ok(Target {
            port: port.port,
            speech: forced.unwrap_or_else(|| Speech::of_app_protocol(port.app_protocol.as_deref())),
        }),
        // An ExternalName needs no ports of its own.
        (None, Wanted::Number(port)) if spec.service_type == ServiceType::ExternalName => {
            Ok(Target { port, speech: forced.unwrap_or(Speech::Http) })
        }
        (None, wanted) => Err(Unresolved {
            reason: "no_service_port",
            message: format!(
                "Service {id} has no {} port {wanted} (it has {})",
                if transport == Transport::Udp { "UDP" } else { "TCP" },
                ports_text(&spec.ports)
            ),
            mend: "name one of the Service's ports, not of its pods",
        }),
    }
}

#[derive(Clone, Copy)]
enum Wanted<'a> {
    Name(&'a str),
    Number(u16),
}

impl std::fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name:?}"),
            Self::Number(number) => number.fmt(f),
        }
    }
}

fn ports_text(ports: &[ServicePort]) -> String {
    if ports.is_empty() {
        return "none".to_owned();
    }
    let mut text = String::new();
    for port in ports.iter().take(10) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        if let Some(name) = &port.name {
            text.push_str(name);
            text.push(' ');
        }
        text.push_str(&port.port.to_string());
        if let Some(protocol) = port.protocol.as_deref().filter(|protocol| *protocol != "TCP") {
            text.push('/');
            text.push_str(protocol);
        }
    }
    text
}

fn speaks(protocol: Option<&str>, transport: Transport) -> bool {
    Transport::parse(protocol) == Some(transport)
}

fn external_name(service: &Service) -> Option<Arc<str>> {
    let name = service.spec.external_name.as_deref()?.trim_end_matches('.').to_ascii_lowercase();
    is_name(&name).then(|| name.into())
}

/// The endpoints of one port of a Service, merged over its slices: sorted, each once.
///
/// Ready ones; when none is ready, those that still serve while they terminate (KEP-1669).
pub(crate) fn endpoints<'a>(
    service: &Service,
    port: u16,
    transport: Transport,
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> Vec<Endpoint> {
    let is_meant = |known: &&ServicePort| known.port == port && speaks(known.protocol.as_deref(), transport);
    let service_port = service.spec.ports.iter().find(is_meant);
    if service.spec.service_type == ServiceType::ExternalName {
        let port = match service_port.and_then(|port| port.target_port.as_ref()) {
            Some(IntOrString::Int(target)) if *target != 0 => *target,
            _ => port,
        };
        return external_name(service).map(|name| endpoint(EndpointAddress::Dns(name, port))).into_iter().collect();
    }
    let Some(service_port) = service_port else { return Vec::new() };
    let port_name = service_port.name.as_deref().unwrap_or("");
    let (mut ready, mut draining) = (Vec::new(), Vec::new());
    for slice in slices {
        let Some(number) = slice.ports.iter().find_map(|port| number_of(port, port_name, transport)) else { continue };
        for member in &slice.endpoints {
            let Some(address) = address_of(member, slice.address_type, number) else { continue };
            let conditions = member.conditions;
            let is_ready = conditions.ready.unwrap_or(true);
            if is_ready || service.spec.publish_not_ready_addresses {
                ready.push(endpoint(address));
            } else if conditions.serving.unwrap_or(is_ready) && conditions.terminating.unwrap_or(false) {
                draining.push(endpoint(address));
            }
        }
    }
    let mut chosen = if ready.is_empty() { draining } else { ready };
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

fn endpoint(address: EndpointAddress) -> Endpoint {
    Endpoint { address, weight: 1 }
}

fn number_of(port: &EndpointPort, name: &str, transport: Transport) -> Option<u16> {
    let matches = port.name.as_deref().unwrap_or("") == name && speaks(port.protocol.as_deref(), transport);
    port.port.filter(|number| matches && *number != 0)
}

fn address_of(member: &SliceEndpoint, kind: AddressType, port: u16) -> Option<EndpointAddress> {
    let text = member.addresses.first()?;
    match kind {
        AddressType::IPv4 | AddressType::IPv6 => {
            let address: IpAddr = text.parse().ok()?;
            Some(EndpointAddress::Ip(SocketAddr::new(address.to_canonical(), port)))
        }
        AddressType::FQDN => {
            let name = text.trim_end_matches('.').to_ascii_lowercase();
            is_name(&name).then(|| EndpointAddress::Dns(name.into(), port))
        }
    }
}

/// What a person should know about a Service whose pool came out empty.
pub(crate) fn empty_pool(id: &NamespacedName, port: u16, speech: Speech, slices: usize) -> Finding {
    let key = ObjectKey { kind: Kind::Service, id: id.clone() };
    let (user, then) = match speech {
        Speech::Tcp => ("carried to", "connections are reset"),
        Speech::Udp => ("carried to", "datagrams are dropped"),
        _ => ("used by an Ingress", "requests get 503"),
    };
    let message = if slices == 0 {
        format!("port {port} is {user}, and no EndpointSlice belongs to the Service; {then}")
    } else {
        format!("port {port} is {user}, and none of its endpoints is ready; {then}")
    };
    Finding::warning("NoEndpoints", key, message)
}
