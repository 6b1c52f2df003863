//! The ends of the tunnel between nodes: where packets are sent that keep their client, and to which hardware address.
//!
//! Each node writes its own end on its own Node, as the value of [`TUNNEL_ANNOTATION`]:
//!
//! ```json
//! {"address":"192.0.2.1","mac":"02:48:5e:1a:70:09","port":8474}
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::fnv::fnv1a_32;

/// Annotation of a Node: the [`TunnelEnd`] there, as JSON. A Node without it has no tunnel.
pub const TUNNEL_ANNOTATION: &str = "headwater.dev/tunnel";

/// UDP port of the tunnel where nothing else is said.
pub const DEFAULT_TUNNEL_PORT: u16 = 8474;

/// Bytes of the annotation that are read.
const MAX_ANNOTATION: usize = 1024;

/// Hardware address of an Ethernet device (EUI-48), in the order of transmission.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The one that a node's end has unless its annotation says otherwise: 02:48 (locally administered, unicast) and 32
    /// bits of FNV-1a over the name, of which the first is set where the address would be [reserved](Self::is_reserved).
    /// Every version derives the same.
    pub fn of_node(name: &str) -> Self {
        let hash = fnv1a_32(name.bytes());
        let [a, b, c, d] = (if hash < 0x100 { hash | 0x8000_0000 } else { hash }).to_be_bytes();
        Self([0x02, 0x48, a, b, c, d])
    }

    /// 02:48:00:00:00:00 to 02:48:00:00:00:ff: in the tunnel they say what a frame is, not whose.
    pub fn is_reserved(self) -> bool {
        self.0[..5] == [0x02, 0x48, 0, 0, 0]
    }

    /// Whether one device can have it: not a group's, and not all zeros.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddress {
    /// `02:48:5e:1a:70:09`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text is not six groups of two hexadecimal digits with colons between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a hardware address: six groups of two hexadecimal digits, as in 02:48:5e:1a:70:09")]
pub struct InvalidMacAddress;

impl FromStr for MacAddress {
    type Err = InvalidMacAddress;

    fn from_str(text: &str) -> Result<Self, InvalidMacAddress> {
        let mut bytes = [0; 6];
        let mut groups = text.split(':');
        for byte in &mut bytes {
            let group = groups.next().ok_or(InvalidMacAddress)?;
            if group.len() != 2 || !group.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(InvalidMacAddress);
            }
            *byte = u8::from_str_radix(group, 16).map_err(|_| InvalidMacAddress)?;
        }
        if groups.next().is_some() { Err(InvalidMacAddress) } else { Ok(Self(bytes)) }
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a node takes packets of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TunnelEnd {
    /// Of the underlay: other nodes send UDP to it.
    pub address: IpAddr,
    /// Of the node's tunnel device: destination of the frames inside.
    pub mac: MacAddress,
    /// UDP.
    pub port: u16,
}

impl TunnelEnd {
    /// The end of that node, with its own hardware address.
    pub fn of_node(name: &str, address: IpAddr, port: u16) -> Self {
        Self { address, mac: MacAddress::of_node(name), port }
    }

    /// Reads an annotation of that node. Without `mac` it is [`MacAddress::of_node`], without `port`
    /// [`DEFAULT_TUNNEL_PORT`]. Fields of newer versions are passed over.
    ///
    /// # Errors
    /// Whatever makes it no place to send packets to.
    pub fn parse(text: &str, node: &str) -> Result<Self, InvalidTunnelEnd> {
        #[derive(Deserialize)]
        struct Written {
            address: String,
            mac: Option<String>,
            port: Option<u32>,
        }
        if text.len() > MAX_ANNOTATION {
            return Err(InvalidTunnelEnd::TooLong { bytes: text.len() });
        }
        let Written { address, mac, port } = serde_json::from_str(text)
            .map_err(|error| InvalidTunnelEnd::Form { error: error.to_string().chars().take(200).collect() })?;
        let refused = |what| Err(InvalidTunnelEnd::Address { address: clip(&address), what });
        let Ok(parsed) = address.parse::<IpAddr>() else { return refused("not an IP address") };
        if let Some(what) = unfit(parsed) {
            return refused(what);
        }
        let mac = match &mac {
            None => MacAddress::of_node(node),
            Some(text) => text
                .parse::<MacAddress>()
                .ok()
                .filter(|mac| mac.is_unicast() && !mac.is_reserved())
                .ok_or_else(|| InvalidTunnelEnd::Mac { mac: clip(text) })?,
        };
        let number = port.unwrap_or(u32::from(DEFAULT_TUNNEL_PORT));
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        let port = port.ok_or(InvalidTunnelEnd::Port { port: number })?;
        Ok(Self { address: parsed, mac, port })
    }

    /// The value of the annotation: JSON in one line, always the same for the same end.
    pub fn annotation(&self) -> String {
        serde_json::to_string(self).expect("three plain fields are JSON")
    }
}

/// Why packets cannot be sent to an address, whoever wrote it.
fn unfit(address: IpAddr) -> Option<&'static str> {
    let (link_local, broadcast, mapped) = match address {
        IpAddr::V4(address) => (address.is_link_local(), address.is_broadcast(), false),
        IpAddr::V6(address) => (address.is_unicast_link_local(), false, address.to_ipv4_mapped().is_some()),
    };
    match () {
        () if mapped => Some("an IPv4 address written as IPv6"),
        () if address.is_unspecified() => Some("unspecified"),
        () if address.is_loopback() => Some("a loopback address"),
        () if address.is_multicast() => Some("a multicast address"),
        () if broadcast => Some("the broadcast address"),
        () if link_local => Some("a link-local address"),
        () => None,
    }
}

fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

/// What is wrong with the annotation of a Node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTunnelEnd {
    #[error("{bytes} bytes long; at most {MAX_ANNOTATION} are read")]
    TooLong { bytes: usize },
    #[error("not the JSON of a tunnel's end: {error}")]
    Form { error: String },
    #[error("address \"{address}\" is {what}")]
    Address { address: String, what: &'static str },
    #[error("mac \"{mac}\" is not the hardware address of one device, such as 02:48:5e:1a:70:09")]
    Mac { mac: String },
    #[error("port {port} is not a UDP port (1 to 65535)")]
    Port { port: u32 },
}

/// The nodes of the cluster, as one of them sees the others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Peers {
    /// This node's own end, as the others read it on its Node. `None`: they send it nothing by the tunnel.
    pub own: Option<TunnelEnd>,
    /// All others.
    pub by_name: BTreeMap<Arc<str>, Peer>,
}

/// Another node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Peer {
    pub name: Arc<str>,
    /// `status.addresses` of type InternalIP, in the order of the Node.
    pub addresses: Vec<IpAddr>,
    /// `None`: packets cannot keep their client on the way there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelEnd>,
    /// Why there is no tunnel although the Node asks for one. Silent where the Node says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_is_read_as_it_is_written() {
        let mac = MacAddress([0x02, 0x48, 0x5e, 0x1a, 0x70, 0x09]);
        assert_eq!(mac.to_string(), "02:48:5e:1a:70:09");
        for text in ["02:48:5e:1a:70:09", "02:48:5E:1A:70:09"] {
            assert_eq!(text.parse(), Ok(mac), "{text}");
        }
        for text in
            ["", "02:48:5e:1a:70", "02:48:5e:1a:70:09:00", "2:48:5e:1a:70:09", "02-48-5e-1a-70-09", "+2:48:5e:1a:70:09"]
        {
            assert_eq!(text.parse::<MacAddress>(), Err(InvalidMacAddress), "{text}");
        }
        assert_eq!(serde_json::from_str::<MacAddress>("\"02:48:5e:1a:70:09\"").unwrap(), mac);
    }

    #[test]
    fn every_version_derives_the_same_hardware_address_from_a_name() {
        assert_eq!(MacAddress::of_node("").to_string(), "02:48:81:1c:9d:c5");
        assert_eq!(MacAddress::of_node("a").to_string(), "02:48:e4:0c:29:2c");
        assert!(MacAddress::of_node("node-1").is_unicast());
    }

    #[test]
    fn an_end_is_read_from_what_it_wrote() {
        for end in [
            TunnelEnd::of_node("node-1", "192.0.2.1".parse().unwrap(), 8474),
            TunnelEnd { address: "2001:db8::1".parse().unwrap(), mac: MacAddress([2, 0, 0, 0, 0, 1]), port: 4789 },
        ] {
            assert_eq!(TunnelEnd::parse(&end.annotation(), "node-1"), Ok(end));
        }
        let short = TunnelEnd::parse(r#"{"address": "192.0.2.1", "of": "the future"}"#, "node-1");
        assert_eq!(short, Ok(TunnelEnd::of_node("node-1", "192.0.2.1".parse().unwrap(), DEFAULT_TUNNEL_PORT)));
    }

    #[test]
    fn an_end_to_which_no_packet_can_go_is_refused_with_the_value() {
        for (text, said) in [
            ("", "not the JSON"),
            ("[]", "not the JSON"),
            ("{}", "missing field `address`"),
            (r#"{"address": "node-1"}"#, "\"node-1\" is not an IP address"),
            (r#"{"address": "192.0.2.1/24"}"#, "not an IP address"),
            (r#"{"address": "127.0.0.1"}"#, "\"127.0.0.1\" is a loopback address"),
            (r#"{"address": "::1"}"#, "a loopback address"),
            (r#"{"address": "0.0.0.0"}"#, "unspecified"),
            (r#"{"address": "224.0.0.1"}"#, "a multicast address"),
            (r#"{"address": "ff02::1"}"#, "a multicast address"),
            (r#"{"address": "255.255.255.255"}"#, "the broadcast address"),
            (r#"{"address": "fe80::1"}"#, "a link-local address"),
            (r#"{"address": "::ffff:192.0.2.1"}"#, "written as IPv6"),
            (r#"{"address": "192.0.2.1", "mac": "x"}"#, "mac \"x\""),
            (r#"{"address": "192.0.2.1", "mac": "01:00:5e:00:00:01"}"#, "mac \"01:00:5e:00:00:01\""),
            (r#"{"address": "192.0.2.1", "mac": "02:48:00:00:00:02"}"#, "mac \"02:48:00:00:00:02\""),
            (r#"{"address": "192.0.2.1", "mac": "00:00:00:00:00:00"}"#, "hardware address of one device"),
            (r#"{"address": "192.0.2.1", "port": 0}"#, "port 0"),
            (r#"{"address": "192.0.2.1", "port": 65536}"#, "port 65536"),
            (r#"{"address": "192.0.2.1", "port": "8474"}"#, "not the JSON"),
        ] {
            let error = TunnelEnd::parse(text, "node-1").unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        let long = format!(r#"{{"address": "192.0.2.1", "x": "{}"}}"#, "x".repeat(MAX_ANNOTATION));
        assert!(matches!(TunnelEnd::parse(&long, "node-1"), Err(InvalidTunnelEnd::TooLong { .. })));
    }
}
