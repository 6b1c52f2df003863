//! Which connection-tracking entries no longer say the truth.

use std::net::SocketAddr;

use headwater_model::nat::{PortRules, Transport};

/// Whether an entry whose original destination is a frontend of `rules`, and whose reply comes from `endpoint`, must
/// go: a UDP client that goes on sending would be sent to an endpoint that no longer serves.
///
/// Only while some endpoint serves: else the client is better off with what it has. TCP and SCTP flows end by
/// themselves. Source: Kubernetes `pkg/proxy/conntrack/cleanup.go`.
pub fn is_stale(rules: &PortRules, endpoint: SocketAddr) -> bool {
    let mut serving = rules.endpoints.iter().filter(|known| known.serving).peekable();
    rules.protocol == Transport::Udp && serving.peek().is_some() && serving.all(|known| known.address != endpoint)
}
