//! Who may speak for a client: the client-address policy of a listener, compiled.
//!
//! One algorithm (the `client-address` engine) reads it; nothing else decides who the client is. The default trusts
//! nobody: the client is whoever owns the other end of the socket.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// The fully resolved client-address policy of one listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientAddressPolicy {
    /// Who may speak for somebody else. Default: nobody.
    pub trust: Trust,
    /// Default: [`ProxyProtocolMode::Off`].
    pub proxy_protocol: ProxyProtocolMode,
    /// Time for the whole PROXY header to arrive, from the accept. Default: 5 s.
    pub proxy_protocol_timeout: Duration,
    /// The only forwarding header that is ever read. Default: none.
    pub forwarded_header: ForwardedHeader,
    /// Whether a trusted sender's scheme, host and port headers are believed as well. Default: true. False takes them
    /// from the connection always. Without a `forwarded_header` it has no effect: they come from the connection.
    pub trust_scheme: bool,
    /// Read TCP option 254 of a trusted peer. Default: false.
    pub toa: bool,
    /// Also pass on the entries left of the client, in front of the verified ones. Default: false.
    pub keep_unverified: bool,
    /// Also write RFC 7239 `Forwarded`. Default: false.
    pub emit_forwarded: bool,
}

impl ClientAddressPolicy {
    /// Time for a PROXY header to arrive when nobody says otherwise.
    pub const DEFAULT_PROXY_PROTOCOL_TIMEOUT: Duration = Duration::from_secs(5);
}

impl Default for ClientAddressPolicy {
    fn default() -> Self {
        Self {
            trust: Trust::default(),
            proxy_protocol: ProxyProtocolMode::Off,
            proxy_protocol_timeout: Self::DEFAULT_PROXY_PROTOCOL_TIMEOUT,
            forwarded_header: ForwardedHeader::None,
            trust_scheme: true,
            toa: false,
            keep_unverified: false,
            emit_forwarded: false,
        }
    }
}

/// Who may speak for somebody else. The default trusts nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Everybody whose address lies in one of these prefixes.
    Proxies(TrustedProxies),
    /// For chains whose addresses change: exactly this many rightmost hops, the direct sender included. 0 trusts nobody.
    ///
    /// Whoever can reach the listener directly is the first of them, so that this is only safe where nobody but the
    /// proxies can.
    Hops(u32),
}

impl Default for Trust {
    fn default() -> Self {
        Self::Proxies(TrustedProxies::default())
    }
}

impl Trust {
    /// Whether nobody at all is trusted.
    pub fn is_nobody(&self) -> bool {
        match self {
            Self::Proxies(proxies) => proxies.is_empty(),
            Self::Hops(hops) => *hops == 0,
        }
    }

    /// Whether `addr`, that stands `hop` places left of the socket's peer (the peer itself: 0), is trusted.
    pub fn contains(&self, addr: IpAddr, hop: u32) -> bool {
        match self {
            Self::Proxies(proxies) => proxies.contains(addr),
            Self::Hops(hops) => hop < *hops,
        }
    }
}

impl Serialize for Trust {
    /// `{"proxies": ["10.0.0.0/8"]}` or `{"hops": 2}`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Self::Proxies(proxies) => map.serialize_entry("proxies", proxies.nets())?,
            Self::Hops(hops) => map.serialize_entry("hops", hops)?,
        }
        map.end()
    }
}

/// A set of IPv4 and IPv6 prefixes, compiled to sorted disjoint ranges: a look-up is one binary search.
///
/// `::ffff:a.b.c.d` is compared as `a.b.c.d`, on both sides: `::ffff:10.0.0.0/104` is `10.0.0.0/8`, and an IPv6 prefix
/// wider than `::ffff:0:0/96` (such as `::/0`) does not contain IPv4 addresses.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    nets: Box<[IpNet]>,
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl TrustedProxies {
    /// Compiles `nets`; their order and host bits do not matter.
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let nets: Box<[IpNet]> = nets.into_iter().collect();
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for net in &nets {
            match (net.network().to_canonical(), net.broadcast().to_canonical()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => v4.push((first.to_bits(), last.to_bits())),
                // A range with only one end inside ::ffff:0:0/96 is wider than that and stays IPv6.
                _ => {
                    if let (IpAddr::V6(first), IpAddr::V6(last)) = (net.network(), net.broadcast()) {
                        v6.push((first.to_bits(), last.to_bits()));
                    }
                }
            }
        }
        Self { nets, v4: disjoint(v4, |value| value.checked_add(1)), v6: disjoint(v6, |value| value.checked_add(1)) }
    }

    /// Whether one of the prefixes contains `addr`.
    #[inline]
    pub fn contains(&self, addr: IpAddr) -> bool {
        match addr.to_canonical() {
            IpAddr::V4(addr) => in_ranges(&self.v4, addr.to_bits()),
            IpAddr::V6(addr) => in_ranges(&self.v6, addr.to_bits()),
        }
    }

    /// The prefixes as they were given.
    pub fn nets(&self) -> &[IpNet] {
        &self.nets
    }

    /// True when nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.nets.is_empty()
    }

    /// Whether every IPv4 address, or every IPv6 address, is trusted: then anybody of that family can name any client.
    pub fn covers_a_whole_family(&self) -> bool {
        self.v4.first() == Some(&(0, u32::MAX)) || self.v6.first() == Some(&(0, u128::MAX))
    }
}

impl FromIterator<IpNet> for TrustedProxies {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        Self::new(nets)
    }
}

impl fmt::Debug for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.nets.iter().map(|net| format_args!("{net}").to_string())).finish()
    }
}

impl Serialize for TrustedProxies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.nets.serialize(serializer)
    }
}

/// Sorts, and joins ranges that overlap or touch; `next` is the value after one, `None` after the last.
fn disjoint<T: Ord + Copy>(mut ranges: Vec<(T, T)>, next: fn(T) -> Option<T>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut joined: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(previous) if next(previous.1).is_none_or(|next| first <= next) => previous.1 = previous.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined.into_boxed_slice()
}

#[inline]
fn in_ranges<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= value);
    after > 0 && value <= ranges[after - 1].1
}

/// Whether connections to a listener begin with a PROXY protocol header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
pub enum ProxyProtocolMode {
    /// Nothing is looked for: such bytes are payload.
    #[default]
    Off,
    /// A trusted peer may send one; from anybody else it is refused.
    Optional,
    /// Only trusted peers are served, and only with a header.
    Required,
}

/// Whether connections to a backend begin with a PROXY protocol header that names the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub enum EmitProxyProtocol {
    #[default]
    Off,
    V1,
    V2,
}

/// The one header in which trusted senders name the client.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum ForwardedHeader {
    /// No header is read.
    #[default]
    None,
    /// A list; the lines of one request are joined.
    XForwardedFor,
    /// RFC 7239, a list.
    Forwarded,
    /// One address, one line.
    XRealIp,
    /// One address, one line. The name in lower case, spelled exactly as it is looked for (`_` is not `-` here).
    Other(Arc<str>),
}

impl ForwardedHeader {
    /// Name in lower case; `None` when no header is read.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::XForwardedFor => Some("x-forwarded-for"),
            Self::Forwarded => Some("forwarded"),
            Self::XRealIp => Some("x-real-ip"),
            Self::Other(name) => Some(name),
        }
    }
}

/// Text that is no header name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a header name (use None, X-Forwarded-For, Forwarded, X-Real-IP or a name such as True-Client-IP)"
)]
pub struct InvalidHeaderName(pub String);

impl FromStr for ForwardedHeader {
    type Err = InvalidHeaderName;

    /// Case does not matter.
    ///
    /// # Errors
    /// [`InvalidHeaderName`] unless it is a token of at most 128 bytes (RFC 9110 section 5.6.2).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if text.is_empty() || text.len() > 128 || !text.bytes().all(token) {
            return Err(InvalidHeaderName(text.chars().take(128).collect()));
        }
        Ok(match text.to_ascii_lowercase().as_str() {
            "none" => Self::None,
            "x-forwarded-for" => Self::XForwardedFor,
            "forwarded" => Self::Forwarded,
            "x-real-ip" => Self::XRealIp,
            other => Self::Other(other.into()),
        })
    }
}

impl fmt::Display for ForwardedHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::XForwardedFor => "X-Forwarded-For",
            Self::Forwarded => "Forwarded",
            Self::XRealIp => "X-Real-IP",
            Self::Other(name) => name,
        })
    }
}

impl Serialize for ForwardedHeader {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where the client's address came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Provenance {
    /// The other end of the connection.
    Socket,
    /// TCP option 254.
    Toa,
    ProxyV1,
    ProxyV2,
    XForwardedFor,
    Forwarded,
    XRealIp,
    /// Another header; its name in lower case.
    Header(Arc<str>),
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socket => "socket",
            Self::Toa => "toa",
            Self::ProxyV1 => "proxy-v1",
            Self::ProxyV2 => "proxy-v2",
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
            Self::XRealIp => "x-real-ip",
            Self::Header(name) => return write!(f, "header:{name}"),
        })
    }
}

impl Serialize for Provenance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(nets: &[&str]) -> TrustedProxies {
        nets.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn a_set_contains_exactly_its_prefixes() {
        for (nets, addr, expected) in [
            (&[][..], "10.0.0.1", false),
            (&["10.0.0.0/8"], "10.255.255.255", true),
            (&["10.0.0.0/8"], "11.0.0.0", false),
            (&["10.0.0.0/8"], "9.255.255.255", false),
            (&["10.0.0.0/8"], "::ffff:10.1.2.3", true),
            (&["10.1.2.3/8"], "10.200.0.1", true),
            (&["::ffff:10.0.0.0/104"], "10.1.2.3", true),
            (&["::ffff:10.0.0.0/104"], "11.1.2.3", false),
            (&["::ffff:0:0/96"], "192.0.2.1", true),
            (&["::/0"], "192.0.2.1", false),
            (&["::/0"], "::ffff:192.0.2.1", false),
            (&["::/0"], "2001:db8::1", true),
            (&["0.0.0.0/0"], "2001:db8::1", false),
            (&["0.0.0.0/0"], "255.255.255.255", true),
            (&["2001:db8::/32"], "2001:db8:ffff::1", true),
            (&["2001:db8::/32"], "2001:db9::", false),
            (&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32"], "10.2.0.1", true),
            (&["192.0.2.7/32", "10.1.0.0/16", "10.0.0.0/8"], "192.0.2.7", true),
            (&["192.0.2.7/32", "10.1.0.0/16", "10.0.0.0/8"], "192.0.2.8", false),
        ] {
            assert_eq!(proxies(nets).contains(addr.parse().unwrap()), expected, "{addr} in {nets:?}");
        }
    }

    #[test]
    fn whole_families_are_noticed() {
        assert!(proxies(&["0.0.0.0/0"]).covers_a_whole_family());
        assert!(proxies(&["10.0.0.0/8", "::/0"]).covers_a_whole_family());
        assert!(proxies(&["128.0.0.0/1", "0.0.0.0/1"]).covers_a_whole_family());
        assert!(!proxies(&["10.0.0.0/8", "::/1"]).covers_a_whole_family());
    }

    #[test]
    fn the_default_trusts_nobody_and_reads_nothing() {
        let policy = ClientAddressPolicy::default();
        assert!(policy.trust.is_nobody());
        assert!(!policy.trust.contains("127.0.0.1".parse().unwrap(), 0));
        assert_eq!(policy.forwarded_header, ForwardedHeader::None);
        assert_eq!(policy.proxy_protocol, ProxyProtocolMode::Off);
        assert_eq!(policy.proxy_protocol_timeout, Duration::from_secs(5));
    }

    #[test]
    fn header_names_are_read_in_any_case() {
        for (text, expected) in [
            ("x-FORWARDED-for", ForwardedHeader::XForwardedFor),
            ("none", ForwardedHeader::None),
            ("True-Client-IP", ForwardedHeader::Other("true-client-ip".into())),
        ] {
            assert_eq!(text.parse(), Ok(expected));
        }
        for text in ["", "a b", "x:y", "x\r\ny", &"x".repeat(129)] {
            assert!(text.parse::<ForwardedHeader>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_policy_is_dumped_in_the_words_of_the_settings() {
        let policy = ClientAddressPolicy {
            trust: Trust::Proxies(proxies(&["10.0.0.0/8"])),
            forwarded_header: ForwardedHeader::XRealIp,
            ..Default::default()
        };
        let dump = serde_json::to_value(&policy).unwrap();
        assert_eq!(dump["trust"]["proxies"][0], "10.0.0.0/8");
        assert_eq!(dump["forwarded_header"], "X-Real-IP");
        assert_eq!(serde_json::to_value(Trust::Hops(2)).unwrap()["hops"], 2);
        assert_eq!(Provenance::Header("true-client-ip".into()).to_string(), "header:true-client-ip");
    }
}
