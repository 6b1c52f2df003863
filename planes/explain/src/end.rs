//! One end of a packet: an address that is known, or the word for one that is chosen among several.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Source or destination of a packet. As text: `203.0.113.7`, `203.0.113.7:80`, `[2001:db8::7]:80`, `endpoint`,
/// `backend`, `gateway`, `node/NAME`, `this machine`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The port is chosen anew for each connection.
    Address(IpAddr),
    Socket(SocketAddr),
    /// One of [`Path::endpoints`](crate::Path::endpoints).
    Endpoint,
    /// One of [`Path::backends`](crate::Path::backends).
    Backend,
    /// An address of the gateway, which is one of [`Path::endpoints`](crate::Path::endpoints).
    Gateway,
    /// An address of the node, of which no object says more.
    Node(Arc<str>),
    /// An address of the machine that the gateway runs on.
    Machine,
}

impl End {
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Address(ip) => Some(*ip),
            Self::Socket(socket) => Some(socket.ip()),
            _ => None,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => ip.fmt(f),
            Self::Socket(socket) => socket.fmt(f),
            Self::Endpoint => f.write_str("endpoint"),
            Self::Backend => f.write_str("backend"),
            Self::Gateway => f.write_str("gateway"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Machine => f.write_str("this machine"),
        }
    }
}

/// The text is no [`End`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor one of the words endpoint, backend, gateway, node/NAME, this machine")]
pub struct InvalidEnd(pub String);

impl FromStr for End {
    type Err = InvalidEnd;

    fn from_str(text: &str) -> Result<Self, InvalidEnd> {
        let address = || text.parse().map(Self::Address).or_else(|_| text.parse().map(Self::Socket)).ok();
        match text {
            "endpoint" => Ok(Self::Endpoint),
            "backend" => Ok(Self::Backend),
            "gateway" => Ok(Self::Gateway),
            "this machine" => Ok(Self::Machine),
            _ => match text.strip_prefix("node/") {
                Some(name) => Ok(Self::Node(name.into())),
                None => address().ok_or_else(|| InvalidEnd(text.chars().take(100).collect())),
            },
        }
    }
}

impl Serialize for End {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for End {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
