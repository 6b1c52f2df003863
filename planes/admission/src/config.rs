//! Settings of the webhook.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Where it listens unless told otherwise: every address, since API servers are elsewhere.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 9443);

/// Settings of the webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionConfig {
    pub address: SocketAddr,
    /// What becomes of an object that could not be judged in time.
    pub failure: Failure,
    /// For judging one object. The API server's own limit, `timeoutSeconds` of the webhook, must be longer.
    pub judge_time: Duration,
    /// PEM with the authorities of those who may connect; read once. `None`: everybody may.
    pub client_authorities: Option<PathBuf>,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            address: DEFAULT_ADDRESS,
            failure: Failure::Allow,
            judge_time: Duration::from_secs(2),
            client_authorities: None,
        }
    }
}

/// What becomes of an object that could not be judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Failure {
    /// It is stored, with a warning to its user.
    #[default]
    Allow,
    /// It is refused; trying again may help.
    Deny,
}

/// Bytes of one review: two objects as large as etcd stores them (1.5 MiB each), and what is around them.
pub(crate) const MAX_BODY: usize = 3_584 << 10;
/// Bytes of all reviews at once: memory is this and a small multiple of it, whatever is sent.
pub(crate) const MAX_BODIES: usize = 8 << 20;
/// Reviews at once.
pub(crate) const MAX_REVIEWS: usize = 32;
/// How long a further one waits for its turn, before 429.
pub(crate) const TURN_TIME: Duration = Duration::from_millis(500);
/// Connections at once; an API server needs one or two.
pub(crate) const MAX_CONNECTIONS: usize = 64;
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
pub(crate) const HTTP_LIMITS: headwater_process::http::Limits = headwater_process::http::Limits {
    head_bytes: 16 << 10,
    head_time: Duration::from_secs(30),
    body_bytes: MAX_BODY,
    body_time: Duration::from_secs(5),
    streams: 32,
    age: Duration::from_secs(300),
};
