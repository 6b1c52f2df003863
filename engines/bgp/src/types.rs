//! The nouns of announcements.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use crate::error::RouteError;

/// Number of an autonomous system: four octets, RFC 6793.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(pub u32);

impl Asn {
    /// What stands in two octets for a number that needs four. RFC 6793 section 9.
    pub(crate) const TRANS: u16 = 23_456;

    /// In two octets, or [`Asn::TRANS`].
    pub(crate) fn two_octets(self) -> u16 {
        u16::try_from(self.0).unwrap_or(Self::TRANS)
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address family whose unicast prefixes are announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// That of a prefix.
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipv4,
            IpNet::V6(_) => Self::Ipv6,
        }
    }

    /// Address family identifier, as IANA assigned it.
    pub(crate) fn afi(self) -> u16 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }
}

/// A set of families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Families {
    pub ipv4: bool,
    pub ipv6: bool,
}

impl Families {
    pub const BOTH: Self = Self { ipv4: true, ipv6: true };

    /// One family alone.
    pub fn only(family: Family) -> Self {
        Self { ipv4: family == Family::Ipv4, ipv6: family == Family::Ipv6 }
    }

    pub fn has(self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    pub(crate) fn add(&mut self, family: Family) {
        match family {
            Family::Ipv4 => self.ipv4 = true,
            Family::Ipv6 => self.ipv6 = true,
        }
    }

    /// Those in both sets.
    pub fn and(self, other: Self) -> Self {
        Self { ipv4: self.ipv4 && other.ipv4, ipv6: self.ipv6 && other.ipv6 }
    }

    pub fn is_empty(self) -> bool {
        !self.ipv4 && !self.ipv6
    }

    /// Its families, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.has(*family))
    }
}

/// A community of RFC 1997, written `64512:100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

/// A large community of RFC 8092, written `large:64512:1:2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub [u32; 3]);

/// Why a text is no community.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommunityError {
    #[error("community \"{0}\" takes the form A:B, each from 0 to 65535")]
    Standard(String),
    #[error("community \"{0}\" takes the form large:A:B:C, each from 0 to 4294967295")]
    Large(String),
}

/// Digits alone: no sign, no blank.
fn digits<N: FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (high, low) = text.split_once(':')?;
            Some(Self(u32::from(digits::<u16>(high)?) << 16 | u32::from(digits::<u16>(low)?)))
        };
        parse().ok_or_else(|| CommunityError::Standard(text.to_owned()))
    }
}

impl FromStr for LargeCommunity {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.strip_prefix("large:")?.split(':');
            let mut next = || digits::<u32>(parts.next()?);
            let value = Self([next()?, next()?, next()?]);
            parts.next().is_none().then_some(value)
        };
        parse().ok_or_else(|| CommunityError::Large(text.to_owned()))
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff)
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "large:{}:{}:{}", self.0[0], self.0[1], self.0[2])
    }
}

/// Most communities of a route, so that its attributes always fit one message of 4096 bytes.
pub const MAX_COMMUNITIES: usize = 255;
/// Most large communities of a route.
pub const MAX_LARGE: usize = 127;

/// What is told of a prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Route {
    local_pref: Option<u32>,
    communities: Vec<Community>,
    large: Vec<LargeCommunity>,
}

impl Route {
    /// Communities are sorted, and each is told once. `local_pref` is told to peers of the own autonomous system alone;
    /// `None` and 0 become 100.
    ///
    /// # Errors
    /// More communities than fit.
    pub fn new(
        local_pref: Option<u32>,
        communities: impl IntoIterator<Item = Community>,
        large: impl IntoIterator<Item = LargeCommunity>,
    ) -> Result<Self, RouteError> {
        let mut communities: Vec<Community> = communities.into_iter().collect();
        communities.sort_unstable();
        communities.dedup();
        let mut large: Vec<LargeCommunity> = large.into_iter().collect();
        large.sort_unstable();
        large.dedup();
        if communities.len() > MAX_COMMUNITIES {
            return Err(RouteError::Communities { found: communities.len() });
        }
        if large.len() > MAX_LARGE {
            return Err(RouteError::Large { found: large.len() });
        }
        Ok(Self { local_pref: local_pref.filter(|value| *value != 0), communities, large })
    }

    pub fn local_pref(&self) -> Option<u32> {
        self.local_pref
    }

    pub fn communities(&self) -> &[Community] {
        &self.communities
    }

    pub fn large(&self) -> &[LargeCommunity] {
        &self.large
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_read_as_they_are_written_and_nothing_else_is() {
        for text in ["0:0", "65535:65535", "64512:100"] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
        assert_eq!("65535:65281".parse::<Community>().unwrap(), Community(0xffff_ff01));
        for text in ["large:0:0:0", "large:4294967295:1:2"] {
            assert_eq!(text.parse::<LargeCommunity>().unwrap().to_string(), text);
        }
        for text in ["", ":", "1", "65536:1", "1:65536", "+1:1", "1:1:1", " 1:1", "no-export", "large:1:1:1"] {
            assert_eq!(text.parse::<Community>(), Err(CommunityError::Standard(text.to_owned())));
        }
        for text in ["large:", "large:1:1", "large:1:1:1:1", "large:4294967296:1:1", "1:1:1", "large:1:-1:1"] {
            assert_eq!(text.parse::<LargeCommunity>(), Err(CommunityError::Large(text.to_owned())));
        }
    }

    #[test]
    fn a_route_has_each_community_once_and_not_more_than_fit() {
        let route = Route::new(Some(0), [Community(2), Community(1), Community(2)], []).unwrap();
        assert_eq!((route.local_pref(), route.communities()), (None, &[Community(1), Community(2)][..]));
        let many = |count: usize| (0..count as u32).map(Community);
        assert!(Route::new(None, many(MAX_COMMUNITIES), []).is_ok());
        assert_eq!(Route::new(None, many(256), []), Err(RouteError::Communities { found: 256 }));
        let large = |count: usize| (0..count as u32).map(|value| LargeCommunity([0, 0, value]));
        assert!(Route::new(None, [], large(MAX_LARGE)).is_ok());
        assert_eq!(Route::new(None, [], large(128)), Err(RouteError::Large { found: 128 }));
    }
}
