//! Which connection-tracking entries no longer say the truth.

use std::net::SocketAddr;

use ahash::AHashSet;
use headwater_model::nat::{PortRules, Transport};

/// Endpoints of a UDP port to which flows may stay.
#[derive(Debug, Clone)]
pub struct ServingEndpoints(AHashSet<SocketAddr>);

impl ServingEndpoints {
    /// `None` where every flow may stay: while no endpoint serves the client is better off with what it has, and TCP and
    /// SCTP flows end by themselves.
    pub fn of(rules: &PortRules) -> Option<Self> {
        if rules.protocol != Transport::Udp {
            return None;
        }
        let serving: AHashSet<SocketAddr> =
            rules.endpoints.iter().filter(|known| known.serving).map(|known| known.address).collect();
        (!serving.is_empty()).then_some(Self(serving))
    }

    /// Whether an entry whose original destination is a frontend of the port, and whose reply comes from `endpoint`, must
    /// go: a client that goes on sending would be sent to an endpoint that no longer serves.
    ///
    /// Source: Kubernetes `pkg/proxy/conntrack/cleanup.go`.
    pub fn is_stale(&self, endpoint: SocketAddr) -> bool {
        !self.0.contains(&endpoint)
    }
}
