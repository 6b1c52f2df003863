//! Ranges of addresses, as pools write them.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::nat::Family;

/// Addresses from one to another, both included and of one family: `192.0.2.0/24` or `192.0.2.10-192.0.2.20`.
///
/// Host bits of a network are passed over: `192.0.2.1/24` is `192.0.2.0/24`. The first and the last address of a network
/// belong to it like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text is no [`AddressRange`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RangeError {
    #[error("invalid CIDR \"{0}\" (try \"192.0.2.0/24\" or \"192.0.2.10-192.0.2.20\")")]
    Cidr(String),
    #[error("invalid IP range \"{range}\": \"{end}\" is not an IP address")]
    End { range: String, end: String },
    #[error("invalid IP range \"{0}\": its ends are of two families")]
    Families(String),
    #[error("invalid IP range \"{range}\": start IP {first} is after the end IP {last}")]
    Order { range: String, first: IpAddr, last: IpAddr },
}

impl AddressRange {
    /// Reads a network or two ends with a minus between them; spaces around each are passed over.
    ///
    /// # Errors
    /// Why it is neither.
    pub fn parse(text: &str) -> Result<Self, RangeError> {
        let Some((first, last)) = text.split_once('-') else {
            let network: IpNet = text.trim().parse().map_err(|_| RangeError::Cidr(text.to_owned()))?;
            if is_mapped(network.addr()) {
                return Err(RangeError::Cidr(text.to_owned()));
            }
            return Ok(Self { first: network.network(), last: network.broadcast() });
        };
        let end = |end: &str| {
            let end = end.trim();
            let read = end.parse::<IpAddr>().ok().filter(|address| !is_mapped(*address));
            read.ok_or_else(|| RangeError::End { range: text.to_owned(), end: end.to_owned() })
        };
        let (first, last) = (end(first)?, end(last)?);
        if first.is_ipv4() != last.is_ipv4() {
            return Err(RangeError::Families(text.to_owned()));
        }
        if first > last {
            return Err(RangeError::Order { range: text.to_owned(), first, last });
        }
        Ok(Self { first, last })
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    pub fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// Whether the address is one of these.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }

    /// Whether some address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first.is_ipv4() == other.first.is_ipv4() && self.first <= other.last && other.first <= self.last
    }

    /// How many addresses these are; the whole of IPv6 counts as one fewer than it has.
    pub fn size(&self) -> u128 {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => u128::from(u32::from(last) - u32::from(first)) + 1,
            (IpAddr::V6(first), IpAddr::V6(last)) => (u128::from(last) - u128::from(first)).saturating_add(1),
            _ => unreachable!("both ends of a range are of one family"),
        }
    }

    /// The fewest networks that have exactly these addresses, in order.
    pub fn networks(&self) -> Vec<IpNet> {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect(),
            (IpAddr::V6(first), IpAddr::V6(last)) => Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect(),
            _ => unreachable!("both ends of a range are of one family"),
        }
    }
}

/// Whether it is an IPv4 address in the clothes of IPv6 (`::ffff:192.0.2.1`), which would be two names for one address.
fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

impl fmt::Display for AddressRange {
    /// As a network where it is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.networks()[..] {
            [network] => network.fmt(f),
            _ => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl Serialize for AddressRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AddressRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_ranges_are_read_with_host_bits_and_spaces() {
        for (text, shown, size) in [
            ("192.0.2.0/24", "192.0.2.0/24", 256),
            ("13.1.1.1/24", "13.1.1.0/24", 256),
            ("4.4.4.3/23", "4.4.4.0/23", 512),
            ("192.0.2.7/32", "192.0.2.7/32", 1),
            ("192.0.2.0 - 192.0.2.255", "192.0.2.0/24", 256),
            (" 192.0.2.10-192.0.2.12 ", "192.0.2.10-192.0.2.12", 3),
            ("192.0.2.5-192.0.2.5", "192.0.2.5/32", 1),
            ("fc00::/120", "fc00::/120", 256),
            ("fc00:f853:0ccd:e799::-fc00:f853:0ccd:e799::ff", "fc00:f853:ccd:e799::/120", 256),
            ("fc00::1-fc00::2", "fc00::1-fc00::2", 2),
            ("0.0.0.0/0", "0.0.0.0/0", 1 << 32),
            ("::/0", "::/0", u128::MAX),
        ] {
            let range = AddressRange::parse(text).unwrap();
            assert_eq!((range.to_string().as_str(), range.size()), (shown, size), "{text}");
            assert_eq!(AddressRange::parse(&range.to_string()), Ok(range));
        }
    }

    #[test]
    fn what_is_no_range_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "invalid CIDR \"\""),
            ("100.200.300.400/24", "invalid CIDR"),
            ("192.0.2.0/33", "invalid CIDR"),
            ("192.0.2.1", "invalid CIDR"),
            ("::ffff:192.0.2.0/120", "invalid CIDR"),
            ("192.0.2.10-192.0.2", "\"192.0.2\" is not an IP address"),
            ("-192.0.2.1", "\"\" is not an IP address"),
            ("192.0.2.1-192.0.2.2-192.0.2.3", "is not an IP address"),
            ("192.0.2.10-192.0.2.9", "start IP 192.0.2.10 is after the end IP 192.0.2.9"),
            ("192.0.2.1-fc00::1", "two families"),
        ] {
            let error = AddressRange::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_range_is_the_fewest_networks_with_its_addresses() {
        let networks = |text: &str| -> Vec<String> {
            AddressRange::parse(text).unwrap().networks().iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            networks("192.0.2.10-192.0.2.20"),
            ["192.0.2.10/31", "192.0.2.12/30", "192.0.2.16/30", "192.0.2.20/32"]
        );
        assert_eq!(networks("10.0.0.0-10.0.1.255"), ["10.0.0.0/23"]);
        assert_eq!(networks("fc00::1-fc00::4"), ["fc00::1/128", "fc00::2/127", "fc00::4/128"]);
    }

    #[test]
    fn ranges_of_two_families_never_meet() {
        let of = |text: &str| AddressRange::parse(text).unwrap();
        assert!(of("10.0.0.0/8").overlaps(&of("10.255.255.255-11.0.0.3")));
        assert!(!of("10.0.0.0/8").overlaps(&of("11.0.0.0/8")));
        assert!(!of("0.0.0.0/0").overlaps(&of("::/0")));
        assert!(!of("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(of("10.0.0.0/8").contains("10.255.255.255".parse().unwrap()));
    }
}
