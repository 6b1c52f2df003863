//! Who asks for what.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use headwater_model::nat::Transport;
use headwater_route_match::{HostError, normalise_host};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a target that are read.
const MAX_TARGET: usize = 8192;

/// A request whose way is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    pub from: Source,
    pub target: Target,
    /// The node that receives the packet. `None`: the one that has the client or the address, else every node.
    pub node: Option<Arc<str>>,
    /// What the target's name resolves to, where the objects do not say.
    pub address: Option<IpAddr>,
    /// A load balancer ends the client's connection, and connects from this address.
    pub sender: Option<IpAddr>,
    /// The connection begins with a PROXY header that names this client.
    pub proxy_protocol: Option<IpAddr>,
    pub method: String,
    /// Header lines of the request.
    pub headers: Vec<(String, String)>,
}

impl Question {
    pub fn new(from: Source, target: Target) -> Self {
        Self {
            from,
            target,
            node: None,
            address: None,
            sender: None,
            proxy_protocol: None,
            method: "GET".to_owned(),
            headers: Vec::new(),
        }
    }
}

/// Who sends: an address, or `node/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    Address(IpAddr),
    Node(Arc<str>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => ip.fmt(f),
            Self::Node(name) => write!(f, "node/{name}"),
        }
    }
}

impl FromStr for Source {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        match text.strip_prefix("node/").filter(|name| !name.is_empty()) {
            Some(name) => Ok(Self::Node(name.into())),
            None => text.parse().map(Self::Address).map_err(|_| TargetError::Source(clip(text))),
        }
    }
}

/// An URL, or `tcp://ADDRESS:PORT`, `udp://`, `sctp://`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub scheme: Scheme,
    pub host: Host,
    pub port: u16,
    /// Path and query; empty where the scheme is not one of HTTP.
    pub path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    Http,
    Https,
    Tcp,
    Udp,
    Sctp,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    Address(IpAddr),
    /// Lower case, without trailing dot.
    Name(String),
}

impl Scheme {
    const ALL: [(&'static str, Self); 5] =
        [("http", Self::Http), ("https", Self::Https), ("tcp", Self::Tcp), ("udp", Self::Udp), ("sctp", Self::Sctp)];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    pub fn transport(self) -> Transport {
        match self {
            Self::Http | Self::Https | Self::Tcp => Transport::Tcp,
            Self::Udp => Transport::Udp,
            Self::Sctp => Transport::Sctp,
        }
    }

    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

/// What is wrong with a question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    #[error("{0:?} is neither an IP address nor node/NAME (for a pod give its address)")]
    Source(String),
    #[error("target of {0} bytes is longer than {MAX_TARGET}")]
    TooLong(usize),
    #[error("{0:?} has no scheme; write http://, https://, tcp://, udp:// or sctp://")]
    NoScheme(String),
    #[error("scheme {0:?} is not known; write http://, https://, tcp://, udp:// or sctp://")]
    UnknownScheme(String),
    #[error("{0:?}: {1}")]
    Host(String, HostError),
    #[error("{0:?} names no port; write {1}://HOST:PORT")]
    NoPort(String, &'static str),
    #[error("{0:?}: the port is not a number from 1 to 65535")]
    Port(String),
    #[error("{0:?}: user names are not part of a target")]
    User(String),
    #[error("{0:?}: {1} has no path; leave out what follows the port")]
    Path(String, &'static str),
}

fn clip(text: &str) -> String {
    text.chars().take(100).collect()
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if text.len() > MAX_TARGET {
            return Err(TargetError::TooLong(text.len()));
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Err(TargetError::NoScheme(clip(text))) };
        let known = Scheme::ALL.iter().find(|(word, _)| scheme.eq_ignore_ascii_case(word));
        let Some((_, scheme)) = known else { return Err(TargetError::UnknownScheme(clip(scheme))) };
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(TargetError::User(clip(authority)));
        }
        let mut scratch = String::new();
        let host = normalise_host(authority.as_bytes(), &mut scratch)
            .map_err(|error| TargetError::Host(clip(authority), error))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = bare.parse().map_or_else(|_| Host::Name(bare.to_owned()), Host::Address);
        // An IPv6 literal has colons of its own, and always brackets.
        let after = authority.rfind(']').map_or(authority, |bracket| &authority[bracket..]);
        let port = match (after.rsplit_once(':'), scheme) {
            (Some((_, port)), _) if !port.is_empty() => {
                port.parse().ok().filter(|port| *port != 0).ok_or_else(|| TargetError::Port(clip(authority)))?
            }
            (_, Scheme::Http) => 80,
            (_, Scheme::Https) => 443,
            _ => return Err(TargetError::NoPort(clip(authority), scheme.as_str())),
        };
        let path = match (scheme.is_http(), path) {
            (true, "") => "/".to_owned(),
            (true, query) if query.starts_with('?') => format!("/{query}"),
            (true, path) => path.to_owned(),
            (false, "" | "/") => String::new(),
            (false, _) => return Err(TargetError::Path(clip(text), scheme.as_str())),
        };
        Ok(Self { scheme: *scheme, host, port, path })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.as_str())?;
        match &self.host {
            Host::Address(IpAddr::V6(ip)) => write!(f, "[{ip}]")?,
            Host::Address(ip) => ip.fmt(f)?,
            Host::Name(name) => f.write_str(name)?,
        }
        let default = match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
            _ => 0,
        };
        if self.port != default {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.path)
    }
}

macro_rules! as_text {
    ($($name:ident)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text! { Source Target }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_as_it_is_written() {
        for (text, expected) in [
            ("http://web.example.com/", "http://web.example.com/"),
            ("HTTPS://Web.Example.com.", "https://web.example.com/"),
            ("http://192.0.2.1:30080/a?b=c#d", "http://192.0.2.1:30080/a?b=c"),
            ("http://web?x", "http://web/?x"),
            ("https://[2001:db8::1]/", "https://[2001:db8::1]/"),
            ("tcp://[2001:db8::1]:80", "tcp://[2001:db8::1]:80"),
            ("udp://192.0.2.1:53/", "udp://192.0.2.1:53"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), expected, "{text}");
            assert_eq!(expected.parse(), Ok(target), "{text}");
        }
    }

    #[test]
    fn what_is_no_target_is_told() {
        for (text, expected) in [
            ("192.0.2.1:80", "no scheme"),
            ("ftp://192.0.2.1", "not known"),
            ("tcp://192.0.2.1", "names no port"),
            ("tcp://[2001:db8::1]", "names no port"),
            ("tcp://192.0.2.1:0", "from 1 to 65535"),
            ("tcp://192.0.2.1:99999", "port"),
            ("http:///x", "host is empty"),
            ("http://a b/", "host has the byte"),
            ("http://user@host/", "user names"),
            ("udp://192.0.2.1:53/x", "has no path"),
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!("pod/a/b".parse::<Source>().is_err());
    }
}
