//! Who speaks the application protocol to us: steps 1 and 2 of the algorithm.

use std::net::{IpAddr, SocketAddr};

use headwater_model::client::{ClientAddressPolicy, Provenance, Trust};

use crate::admit::{Arrival, Decision, admit};
use crate::proxy::{ProxyHeader, Version};
use crate::text::canonical;

/// What is known of a connection before its first application byte.
///
/// All addresses are canonical: `::ffff:a.b.c.d` has become `a.b.c.d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// `P`: the other end of the socket.
    pub peer: SocketAddr,
    /// `S`: the peer, or the address that TOA or the PROXY header gives in its name.
    pub addr: IpAddr,
    /// Port of `S`.
    pub port: u16,
    /// How `S` was learned: `socket`, `toa`, `proxy-v1` or `proxy-v2`.
    pub provenance: Provenance,
    /// Our end of the socket.
    pub local: SocketAddr,
    /// Where `S` connected to: `local`, or the PROXY header's destination.
    pub destination: SocketAddr,
    /// Whether `S` speaks TLS to us. Known after the handshake only; set it then.
    pub tls: bool,
    /// How many machines stand between `S` and us that spoke in `S`'s name: 0, one for TOA, one for PROXY.
    ///
    /// With [`Trust::Hops`] each of them has used up one trusted hop: behind a PROXY load balancer and one trusted hop,
    /// `S` is the client, and what it says of others is not believed.
    pub hop: u32,
}

impl Sender {
    /// The peer of a socket; `tls` false.
    pub fn of_socket(peer: SocketAddr, local: SocketAddr) -> Self {
        let (peer, local) = (canonical(peer), canonical(local));
        Self {
            peer,
            addr: peer.ip(),
            port: peer.port(),
            provenance: Provenance::Socket,
            local,
            destination: local,
            tls: false,
            hop: 0,
        }
    }

    /// Whether `S` may speak for somebody else.
    pub fn trusted(&self, trust: &Trust) -> bool {
        trust.contains(self.addr, self.hop)
    }

    /// Step 1: the address of TCP option 254 becomes `S` when the policy reads it and the peer is trusted.
    #[must_use]
    pub fn with_toa(mut self, policy: &ClientAddressPolicy, option: Option<SocketAddr>) -> Self {
        if let Some(source) = option.map(canonical)
            && policy.toa
            && self.trusted(&policy.trust)
        {
            self.addr = source.ip();
            self.port = source.port();
            self.provenance = Provenance::Toa;
            self.hop += 1;
        }
        self
    }

    /// Step 2: what to do with the first `bytes` of the connection. See [`admit()`].
    ///
    /// It is `S` after step 1 that must be trusted, which is the peer unless TOA named somebody else: behind a TOA
    /// load balancer it is the client who sends these bytes.
    pub fn admit(&self, policy: &ClientAddressPolicy, bytes: &[u8], arrival: Arrival) -> Decision {
        admit(policy.proxy_protocol, self.trusted(&policy.trust), bytes, arrival)
    }

    /// Step 2: the source of an admitted PROXY header becomes `S`. A header without one (`UNKNOWN`, `LOCAL`, `UNSPEC`,
    /// `UNIX`: health checks) leaves everything as it is.
    #[must_use]
    pub fn with_proxy(mut self, header: &ProxyHeader) -> Self {
        if let Some(source) = header.source {
            self.addr = source.ip();
            self.port = source.port();
            self.provenance = match header.version {
                Version::V1 => Provenance::ProxyV1,
                Version::V2 => Provenance::ProxyV2,
            };
            self.destination = header.destination.unwrap_or(self.destination);
            self.hop += 1;
        }
        self
    }
}
