//! Comparing values.

use std::net::IpAddr;

use ahash::AHashSet;
use headwater_model::gateway::ValueMatch;
use ipnet::IpNet;
use regex::bytes::{Regex, RegexBuilder};

use crate::fault::FaultReason;
use crate::index::MAX_REGEX_BYTES;
use crate::plain::{Plain, plain};

/// A compiled [`ValueMatch`].
#[derive(Debug)]
pub(crate) enum Value {
    Exists,
    Exact(Box<[u8]>),
    In(AHashSet<Box<[u8]>>),
    StartsWith(Box<[u8]>),
    EndsWith(Box<[u8]>),
    EndsWithLabel(Box<[u8]>),
    Regex(Box<Regex>),
    Range { low: Box<[u8]>, high: Box<[u8]>, addresses: Option<(IpAddr, IpAddr)> },
    Cidr(Box<[IpNet]>),
}

impl Value {
    /// `bytes` brings a text of the rule into the form of the values that are compared.
    pub(crate) fn compile(value: &ValueMatch, bytes: impl Fn(&str) -> Box<[u8]>) -> Result<Self, FaultReason> {
        Ok(match value {
            ValueMatch::Exists => Self::Exists,
            ValueMatch::Exact(text) => Self::Exact(bytes(text)),
            ValueMatch::In(texts) => Self::In(texts.iter().map(|text| bytes(text)).collect()),
            ValueMatch::StartsWith(text) => Self::StartsWith(bytes(text)),
            ValueMatch::EndsWith(text) => Self::EndsWith(bytes(text)),
            ValueMatch::EndsWithLabel(text) => Self::EndsWithLabel(bytes(text)),
            ValueMatch::Regex(pattern) => match plain(pattern) {
                Some(Plain::Exact(text)) => Self::Exact(text.into()),
                Some(Plain::Starts(text)) => Self::StartsWith(text.into()),
                Some(Plain::Ends(text)) => Self::EndsWith(text.into()),
                _ => Self::Regex(Box::new(compile_either(pattern)?)),
            },
            ValueMatch::Range(low, high) => {
                let addresses = low.parse().ok().zip(high.parse().ok());
                Self::Range { low: bytes(low), high: bytes(high), addresses }
            }
            ValueMatch::Cidr(networks) => Self::Cidr(networks.as_slice().into()),
        })
    }

    pub(crate) fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Exists => true,
            Self::Exact(text) => **text == *value,
            Self::In(texts) => texts.contains(value),
            Self::StartsWith(text) => value.starts_with(text),
            Self::EndsWith(text) => value.ends_with(text),
            Self::EndsWithLabel(text) => value
                .len()
                .checked_sub(text.len() + 1)
                .is_some_and(|before| value.ends_with(text) && !value[..before].contains(&b'.')),
            Self::Regex(regex) => regex.is_match(value),
            Self::Range { low, high, addresses } => match address(value) {
                Some(address) => addresses.is_some_and(|bounds| in_range(address, bounds)),
                None => **low <= *value && *value <= **high,
            },
            Self::Cidr(networks) => address(value).is_some_and(|address| in_networks(address, networks)),
        }
    }
}

/// A compiled [`ValueMatch`] for the client's address.
#[derive(Debug)]
pub(crate) enum ClientValue {
    Exists,
    In(Box<[IpAddr]>),
    Range(IpAddr, IpAddr),
    Cidr(Box<[IpNet]>),
    /// Compares the text of the address (RFC 5952).
    Text(Value),
    Never,
}

impl ClientValue {
    pub(crate) fn compile(value: &ValueMatch) -> Result<Self, FaultReason> {
        let parse = |text: &str| text.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        Ok(match value {
            ValueMatch::Exists => Self::Exists,
            ValueMatch::Exact(text) => Self::In(parse(text).into_iter().collect()),
            ValueMatch::In(texts) => Self::In(texts.iter().filter_map(|text| parse(text)).collect()),
            ValueMatch::Cidr(networks) => Self::Cidr(networks.as_slice().into()),
            ValueMatch::Range(low, high) => match (parse(low), parse(high)) {
                (Some(low), Some(high)) => Self::Range(low, high),
                _ => Self::Never,
            },
            ValueMatch::StartsWith(_)
            | ValueMatch::EndsWith(_)
            | ValueMatch::EndsWithLabel(_)
            | ValueMatch::Regex(_) => Self::Text(Value::compile(value, |text| text.as_bytes().into())?),
        })
    }

    pub(crate) fn holds(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        match self {
            Self::Exists => true,
            Self::In(addresses) => addresses.contains(&client),
            Self::Range(low, high) => in_range(client, (*low, *high)),
            Self::Cidr(networks) => in_networks(client, networks),
            Self::Text(value) => value.holds(client.to_string().as_bytes()),
            Self::Never => false,
        }
    }
}

fn address(value: &[u8]) -> Option<IpAddr> {
    // 45 bytes: the longest text of an IPv6 address
    if value.len() > 45 {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn in_range(address: IpAddr, (low, high): (IpAddr, IpAddr)) -> bool {
    address.is_ipv4() == low.is_ipv4() && address.is_ipv4() == high.is_ipv4() && low <= address && address <= high
}

fn in_networks(address: IpAddr, networks: &[IpNet]) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// Compiles for bytes, and for Unicode where the pattern needs it.
pub(crate) fn compile_either(pattern: &str) -> Result<Regex, FaultReason> {
    compile_regex(pattern, false).or_else(|_| compile_regex(pattern, true))
}

/// Compiles within [`MAX_REGEX_BYTES`]. Without `unicode`, classes are smaller and faster, but some patterns do not
/// compile.
pub(crate) fn compile_regex(pattern: &str, unicode: bool) -> Result<Regex, FaultReason> {
    RegexBuilder::new(pattern)
        .unicode(unicode)
        .size_limit(MAX_REGEX_BYTES)
        .dfa_size_limit(MAX_REGEX_BYTES)
        .build()
        .map_err(|error| FaultReason::Regex { pattern: pattern.into(), cause: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_compare_as_written() {
        let exact = |text: &str| ValueMatch::Exact(text.into());
        let label = |text: &str| ValueMatch::EndsWithLabel(text.into());
        let range = |low: &str, high: &str| ValueMatch::Range(low.into(), high.into());
        let cidr = |text: &str| ValueMatch::Cidr(vec![text.parse().unwrap()]);
        for (value, matching, others) in [
            (ValueMatch::Exists, vec!["", "x"], vec![]),
            (exact("A"), vec!["A"], vec!["a", "AA", ""]),
            (ValueMatch::In(vec!["a".into(), "b".into()]), vec!["a", "b"], vec!["c", ""]),
            (ValueMatch::StartsWith("ab".into()), vec!["ab", "abc"], vec!["a", "xab"]),
            (ValueMatch::EndsWith(".js".into()), vec![".js", "a.js"], vec!["a.jsx"]),
            (label(".b.c"), vec!["a.b.c", "abc.b.c", "..b.c"], vec![".b.c", "b.c", "a.a.b.c", "a.b.cd", ""]),
            (label("js"), vec!["a.js", "ajs", "xyzjs"], vec!["js", "a.b.js"]),
            (label(""), vec!["a", "abc", "a."], vec!["", "a.b"]),
            (ValueMatch::Regex("b+".into()), vec!["abb"], vec!["a", "B"]),
            (ValueMatch::Regex("^[\u{fc}]$".into()), vec!["\u{fc}"], vec!["u"]),
            (range("b", "d"), vec!["b", "c", "cz", "d"], vec!["a", "da", ""]),
            (range("9", "10"), vec![], vec!["9", "10"]),
            (range("10.0.0.9", "10.0.0.10"), vec!["10.0.0.9", "10.0.0.10"], vec!["10.0.0.11", "::1"]),
            (range("2001:db8::", "2001:db8::ff"), vec!["2001:DB8::a"], vec!["2001:db8::100", "10.0.0.1"]),
            (range("a", "z"), vec!["b"], vec!["10.0.0.1"]),
            (cidr("10.0.0.0/8"), vec!["10.1.2.3"], vec!["11.0.0.1", "x", "::ffff:10.0.0.1"]),
        ] {
            let compiled = Value::compile(&value, |text| text.as_bytes().into()).unwrap();
            for text in matching {
                assert!(compiled.holds(text.as_bytes()), "{value:?} {text}");
            }
            for text in others {
                assert!(!compiled.holds(text.as_bytes()), "{value:?} {text}");
            }
        }
    }

    #[test]
    fn clients_compare_by_address() {
        let exact = |text: &str| ValueMatch::Exact(text.into());
        for (value, matching, others) in [
            (ValueMatch::Exists, "10.0.0.1", None),
            (exact("2001:db8:0:0::1"), "2001:db8::1", Some("2001:db8::2")),
            (exact("10.0.0.1"), "::ffff:10.0.0.1", Some("10.0.0.2")),
            (ValueMatch::In(vec!["x".into(), "10.0.0.1".into()]), "10.0.0.1", Some("10.0.0.2")),
            (ValueMatch::Range("10.0.0.9".into(), "10.0.0.10".into()), "10.0.0.10", Some("10.0.0.8")),
            (ValueMatch::Cidr(vec!["10.0.0.0/8".parse().unwrap()]), "::ffff:10.9.9.9", Some("11.0.0.1")),
            (ValueMatch::StartsWith("10.1.".into()), "10.1.0.1", Some("10.11.0.1")),
            (ValueMatch::Regex("^2001:".into()), "2001:db8::1", Some("10.0.0.1")),
        ] {
            let compiled = ClientValue::compile(&value).unwrap();
            assert!(compiled.holds(matching.parse().unwrap()), "{value:?}");
            if let Some(other) = others {
                assert!(!compiled.holds(other.parse().unwrap()), "{value:?}");
            }
        }
        let never = ClientValue::compile(&ValueMatch::Range("a".into(), "b".into())).unwrap();
        assert!(!never.holds("10.0.0.1".parse().unwrap()));
    }
}
