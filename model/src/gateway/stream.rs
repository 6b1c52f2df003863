//! What is carried without being read: TCP connections, TLS by the name that its client asks for, UDP flows.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{Balance, PoolId};
use crate::origin::Origin;

/// Where the bytes of a connection, or the datagrams of a flow, go.
///
/// The client is the one of the listener's client-address policy; a pool's `emit_proxy_protocol` tells the endpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamRoute {
    pub origin: Arc<Origin>,
    /// Path of the route inside its object: `spec.listeners[2].backends`.
    pub field: Arc<str>,
    /// One is chosen by weight; weights of 0 receive nothing. With [`Balance::Hash`] a client keeps its backend, too.
    /// Without any, connections are reset and datagrams dropped.
    pub backends: Vec<StreamBackend>,
    /// Word of docs/faults.md for a route that cannot forward: logged and counted in the place of `no_endpoints`.
    pub refuse: Option<Box<str>>,
    /// A hash over anything but the client is a hash over the client.
    pub balance: Balance,
    pub timeouts: StreamTimeouts,
    /// Endpoints tried in all until one takes the connection; at least 1. Of a UDP flow: endpoints in a row that may
    /// refuse a datagram (ICMP port unreachable) before the flow ends.
    pub attempts: u32,
    /// Endpoints see the client's address as the source. Where the process may not do that, the listener is not served.
    pub transparent: bool,
}

/// One of the pools of a route; its protocol is [`Tcp`](super::UpstreamProtocol::Tcp) or
/// [`Udp`](super::UpstreamProtocol::Udp), as the listener's is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StreamBackend {
    pub pool: PoolId,
    pub weight: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StreamTimeouts {
    pub connect: Duration,
    /// Longest silence, in both directions at once, before a connection is closed or a flow forgotten.
    pub idle: Duration,
}

/// TCP keepalive on downstream connections; `None` leaves a number to the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
pub struct TcpKeepAlive {
    /// Silence before the first probe.
    pub idle: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
    /// Probes without answer that end the connection.
    pub count: Option<u32>,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::{Certificate, HostPattern, PrivateKey, TlsTermination};
    use super::*;
    use crate::origin::{Kind, ObjectKey};
    use crate::settings::TlsVersion;

    fn route(field: &str) -> Arc<StreamRoute> {
        let origin = Arc::new(Origin { key: ObjectKey::new(Kind::Ingress, "shop", "web"), generation: 1 });
        let timeouts = StreamTimeouts { connect: Duration::from_secs(5), idle: Duration::from_secs(60) };
        Arc::new(StreamRoute {
            origin,
            field: field.into(),
            backends: Vec::new(),
            refuse: None,
            balance: Balance::RoundRobin,
            timeouts,
            attempts: 5,
            transparent: false,
        })
    }

    #[test]
    fn the_most_specific_name_decides_between_passing_through_and_terminating() {
        let origin = Origin { key: ObjectKey::new(Kind::Secret, "shop", "tls"), generation: 1 };
        let key = PrivateKey::Pkcs8(Vec::new());
        let certificate =
            vec![Arc::new(Certificate { origin, chain: Vec::new(), key, names: Vec::new(), not_after: 0 })];
        let patterns = [
            HostPattern::Exact("a.test".into()),
            HostPattern::OneLabel("one.test".into()),
            HostPattern::Suffix("deep.test".into()),
        ];
        let mut termination = TlsTermination {
            exact: ["a.test", "web.one.test"].map(|name| (name.into(), certificate.clone())).into(),
            wildcard: ["one.test", "x.deep.test"].map(|name| (name.into(), certificate.clone())).into(),
            default: None,
            min_version: TlsVersion::V1_2,
            http2: true,
            session_tickets: true,
            passthrough: HashMap::new(),
        };
        assert!(termination.passed_through("a.test").is_none());
        termination.passthrough = patterns.iter().map(|host| (host.clone(), route(&host.to_string()))).collect();
        for (name, expected) in [
            ("a.test", Some("a.test")),
            ("b.test", None),
            ("any.one.test", Some("*.one.test")),
            ("web.one.test", None),
            ("two.labels.one.test", None),
            ("one.test", None),
            ("y.deep.test", Some("**.deep.test")),
            ("z.y.deep.test", Some("**.deep.test")),
            ("z.x.deep.test", None),
            ("z.y.x.deep.test", Some("**.deep.test")),
            ("deep.test", None),
            ("", None),
        ] {
            assert_eq!(termination.passed_through(name).map(|route| &*route.field), expected, "{name}");
        }
        termination.passthrough.insert(HostPattern::Any, route("*"));
        assert_eq!(termination.passed_through("b.test").map(|route| &*route.field), Some("*"));
        assert!(termination.passed_through("web.one.test").is_none());
    }
}
