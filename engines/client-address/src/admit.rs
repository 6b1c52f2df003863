//! Whether a connection may go on, given the first bytes it sent: step 2 of the algorithm, policy and all.
//!
//! A socket's owner reads bytes, asks [`admit`] after each read, and does what the [`Decision`] says.

use headwater_model::client::ProxyProtocolMode;

use crate::proxy::{self, Parsed, ProxyError, ProxyHeader, Signature};

/// Whether more bytes may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The connection is open and there is time.
    Open,
    /// The peer closed its side; or the bytes are one whole datagram.
    Ended,
    /// `proxyProtocolTimeout` is over.
    TimedOut,
}

/// What to do with the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Read more, then ask again with all bytes so far. Never asked for past 4112 bytes.
    Read,
    /// Serve it. The header's `consumed` bytes are not payload; without a header every byte is.
    Proceed(Option<ProxyHeader>),
    /// Close it, count it, log it.
    Refuse(Refusal),
}

/// Why a connection was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("peer is not trusted and this listener requires a PROXY header (add the peer to trustedProxies)")]
    PeerNotTrusted,
    #[error("peer is not trusted but sent a PROXY header (add the peer to trustedProxies if it is a load balancer)")]
    HeaderFromUntrustedPeer,
    #[error("peer sent no PROXY header though this listener requires one (turn it on at the load balancer)")]
    Missing,
    #[error("PROXY header was not complete in time after {received} bytes")]
    Late { received: usize },
    #[error("peer closed the connection inside the PROXY header after {received} bytes")]
    Truncated { received: usize },
    #[error("PROXY header is malformed")]
    Malformed(#[source] ProxyError),
}

impl Refusal {
    /// Stable word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PeerNotTrusted => "peer-not-trusted",
            Self::HeaderFromUntrustedPeer => "header-from-untrusted-peer",
            Self::Missing => "missing",
            Self::Late { .. } => "late",
            Self::Truncated { .. } => "truncated",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// Decides on the first `bytes` of a connection, all of them since its start.
///
/// May be asked before anything was read (`bytes` empty): `Off` and an untrusted peer under `Required` are decided then.
/// With trust by hop count the direct sender is trusted, as long as the count is not 0.
///
/// When the time is over under `Optional` and not one byte has come, the connection proceeds: protocols in which the
/// server speaks first would otherwise never start. Do not look for a header later; an HTTP or TLS listener will find
/// one to be a malformed request.
pub fn admit(mode: ProxyProtocolMode, sender_trusted: bool, bytes: &[u8], arrival: Arrival) -> Decision {
    use Decision::{Proceed, Read, Refuse};
    let received = bytes.len();
    match (mode, sender_trusted) {
        (ProxyProtocolMode::Off, _) => Proceed(None),
        (ProxyProtocolMode::Required, false) => Refuse(Refusal::PeerNotTrusted),
        (ProxyProtocolMode::Optional, false) => match proxy::signature(bytes) {
            Signature::Absent => Proceed(None),
            Signature::V1 | Signature::V2 => Refuse(Refusal::HeaderFromUntrustedPeer),
            Signature::Undecided => match arrival {
                Arrival::Open => Read,
                Arrival::Ended => Proceed(None),
                Arrival::TimedOut if bytes.is_empty() => Proceed(None),
                Arrival::TimedOut => Refuse(Refusal::Late { received }),
            },
        },
        (ProxyProtocolMode::Optional | ProxyProtocolMode::Required, true) => {
            let optional = mode == ProxyProtocolMode::Optional;
            match proxy::parse(bytes) {
                Err(error) => Refuse(Refusal::Malformed(error)),
                Ok(Parsed::Header(header)) => Proceed(Some(header)),
                Ok(Parsed::NotProxy) if optional => Proceed(None),
                Ok(Parsed::NotProxy) => Refuse(Refusal::Missing),
                Ok(Parsed::Incomplete) => match arrival {
                    Arrival::Open => Read,
                    Arrival::Ended if optional && proxy::signature(bytes) == Signature::Undecided => Proceed(None),
                    Arrival::Ended if bytes.is_empty() => Refuse(Refusal::Missing),
                    Arrival::Ended => Refuse(Refusal::Truncated { received }),
                    Arrival::TimedOut if optional && bytes.is_empty() => Proceed(None),
                    Arrival::TimedOut => Refuse(Refusal::Late { received }),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProxyProtocolMode::{Off, Optional, Required};

    const V1: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n";

    /// One letter per decision.
    fn letter(decision: &Decision) -> char {
        match decision {
            Decision::Read => 'r',
            Decision::Proceed(None) => '-',
            Decision::Proceed(Some(_)) => 'h',
            Decision::Refuse(Refusal::PeerNotTrusted) => 'U',
            Decision::Refuse(Refusal::HeaderFromUntrustedPeer) => 'F',
            Decision::Refuse(Refusal::Missing) => 'M',
            Decision::Refuse(Refusal::Late { .. }) => 'L',
            Decision::Refuse(Refusal::Truncated { .. }) => 'T',
            Decision::Refuse(Refusal::Malformed(_)) => 'E',
        }
    }

    #[test]
    fn every_mode_decides_alike_however_the_bytes_arrive() {
        // expected: Open, Ended, TimedOut
        for (mode, trusted, bytes, expected) in [
            (Off, false, V1, "---"),
            (Off, true, V1, "---"),
            (Required, false, b"".as_slice(), "UUU"),
            (Required, false, V1, "UUU"),
            (Required, true, b"", "rML"),
            (Required, true, b"P", "rTL"),
            (Required, true, b"PUT", "MMM"),
            (Required, true, &V1[..20], "rTL"),
            (Required, true, V1, "hhh"),
            (Required, true, b"PROXY TCP4 \r\n", "EEE"),
            (Optional, false, b"", "r--"),
            (Optional, false, b"P", "r-L"),
            (Optional, false, b"GET", "---"),
            (Optional, false, b"\r\n", "r-L"),
            (Optional, false, &V1[..5], "FFF"),
            (Optional, false, &proxy::V2_SIGNATURE[..11], "r-L"),
            (Optional, false, &proxy::V2_SIGNATURE, "FFF"),
            (Optional, false, b"PROXY nonsense", "FFF"),
            (Optional, true, b"", "r--"),
            (Optional, true, b"P", "r-L"),
            (Optional, true, b"GET", "---"),
            (Optional, true, &V1[..20], "rTL"),
            (Optional, true, V1, "hhh"),
            (Optional, true, b"PROXY nonsense\r\n", "EEE"),
        ] {
            let decided: String = [Arrival::Open, Arrival::Ended, Arrival::TimedOut]
                .map(|arrival| letter(&admit(mode, trusted, bytes, arrival)))
                .iter()
                .collect();
            assert_eq!(decided, expected, "{mode:?}, trusted {trusted}, {:?}", bytes.escape_ascii().to_string());
        }
    }
}
