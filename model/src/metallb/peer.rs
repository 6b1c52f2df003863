//! BGPPeer (`metallb.io/v1beta2`, and `v1beta1`) and BFDProfile (`metallb.io/v1beta1`): routers, and how to watch them.
//!
//! What `v1beta1` of a BGPPeer has, `v1beta2` has under the same names, so that one type reads both.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::text::{address, duration, filled, router_id};
use super::{Fault, selector_faults};
use crate::object::{Ignored, Metadata, SecretText};
use crate::selector::LabelSelector;

/// Number of an autonomous system, in four octets (RFC 6793).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Asn(pub u32);

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A BGPPeer as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeer {
    #[serde(default)]
    pub api_version: Ignored,
    #[serde(default)]
    pub kind: Ignored,
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: BgpPeerSpec,
    #[serde(default)]
    pub status: Ignored,
}

/// A router that hears of addresses. Fields below `spec`; see [`Self::faults`] for those that exclude each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerSpec {
    /// Our AS.
    #[serde(default, rename = "myASN")]
    pub my_asn: Asn,
    /// The peer's AS; 0 is silence.
    #[serde(rename = "peerASN")]
    pub peer_asn: Option<Asn>,
    /// Takes the peer's AS from the peer, instead of peerASN: internal (ours) or external (another).
    #[serde(rename = "dynamicASN")]
    pub dynamic_asn: Option<DynamicAsn>,
    /// The AS that this peer sees instead of ours.
    #[serde(rename = "localASN")]
    pub local_asn: Option<Asn>,
    /// The peer's address.
    #[serde(default, deserialize_with = "address")]
    pub peer_address: Option<IpAddr>,
    /// The interface behind which the peer is, instead of peerAddress: it is found by its link-local address.
    #[serde(default, deserialize_with = "filled")]
    pub interface: Option<String>,
    /// The address that we speak from; default: as routed.
    #[serde(default, deserialize_with = "address")]
    pub source_address: Option<IpAddr>,
    /// The peer's TCP port, 1 to 16384; default 179.
    pub peer_port: Option<u16>,
    /// How long a silent peer counts as there: 0 (for ever) or at least 3 s; default 90 s.
    #[serde(default, deserialize_with = "duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub hold_time: Option<Duration>,
    /// How often to tell the peer that we are there, at most the hold time; default a third of it.
    #[serde(default, deserialize_with = "duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub keepalive_time: Option<Duration>,
    /// How long to wait between attempts to connect, 1 to 65535 whole seconds.
    #[serde(default, deserialize_with = "duration")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub connect_time: Option<Duration>,
    /// Our BGP identifier, as an address of IPv4.
    #[serde(default, rename = "routerID", deserialize_with = "router_id")]
    pub router_id: Option<Ipv4Addr>,
    /// Labels of the nodes that speak to the peer; one of the selectors has to match. Empty: all nodes.
    #[serde(default)]
    pub node_selectors: Vec<LabelSelector>,
    /// Password of the TCP connection (RFC 2385).
    #[serde(default, deserialize_with = "password")]
    pub password: Option<SecretText>,
    /// A Secret of type kubernetes.io/basic-auth whose key password has it, instead of password.
    pub password_secret: Option<SecretReference>,
    /// Name of the BFDProfile by which the peer is watched.
    #[serde(default, deserialize_with = "filled")]
    pub bfd_profile: Option<String>,
    /// Whether the peer keeps our routes while we restart (RFC 4724).
    #[serde(default)]
    pub enable_graceful_restart: bool,
    /// Whether a peer of another AS may be some hops away.
    #[serde(default)]
    pub ebgp_multi_hop: bool,
    /// Name of the VRF that the peer is in.
    #[serde(default, deserialize_with = "filled")]
    pub vrf: Option<String>,
    /// Without effect: whether IPv4 and IPv6 are told in sessions of their own.
    #[serde(default, rename = "disableMP")]
    pub disable_mp: bool,
    /// Whether a session tells of both families.
    #[serde(default)]
    pub dual_stack_address_family: bool,
}

/// Which AS a peer may be of that tells by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DynamicAsn {
    Internal,
    External,
}

/// Where a Secret is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SecretReference {
    /// Its name.
    #[serde(default, deserialize_with = "filled")]
    pub name: Option<String>,
    /// Default: the namespace of the BGPPeer.
    #[serde(default, deserialize_with = "filled")]
    pub namespace: Option<String>,
}

fn password<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretText>, D::Error> {
    Ok(Some(SecretText::deserialize(deserializer)?).filter(|password| !password.0.is_empty()))
}

/// Hold time where neither timer is said.
pub const DEFAULT_HOLD_TIME: Duration = Duration::from_secs(90);

/// The port of BGP.
pub const BGP_PORT: u16 = 179;

impl BgpPeerSpec {
    pub fn port(&self) -> u16 {
        self.peer_port.filter(|port| *port != 0).unwrap_or(BGP_PORT)
    }

    /// The peer's AS, where it is said.
    pub fn said_asn(&self) -> Option<Asn> {
        self.peer_asn.filter(|asn| asn.0 != 0)
    }

    /// Whether the peer is of our own AS.
    pub fn is_internal(&self) -> bool {
        match self.dynamic_asn {
            Some(dynamic) => dynamic == DynamicAsn::Internal,
            None => self.said_asn() == Some(self.my_asn),
        }
    }

    /// Hold time and keepalive time that we offer; zero is neither timer.
    ///
    /// Where one is said, the other is three times as long, or a third.
    pub fn timers(&self) -> (Duration, Duration) {
        match (self.hold_time, self.keepalive_time) {
            (Some(hold), Some(keepalive)) => (hold, keepalive),
            (Some(hold), None) => (hold, hold / 3),
            (None, Some(keepalive)) => (keepalive.saturating_mul(3), keepalive),
            (None, None) => (DEFAULT_HOLD_TIME, DEFAULT_HOLD_TIME / 3),
        }
    }

    /// What no BGPPeer may say.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |field: &str, message: String| faults.push(Fault::new(format!("spec.{field}"), message));
        if self.my_asn.0 == 0 {
            fault("myASN", "missing local ASN".to_owned());
        }
        match (self.said_asn(), self.dynamic_asn) {
            (None, None) => fault("peerASN", "missing peer ASN or dynamicASN".to_owned()),
            (Some(_), Some(_)) => fault("dynamicASN", "peerASN and dynamicASN exclude each other".to_owned()),
            _ => {}
        }
        match (self.peer_address, &self.interface) {
            (None, None) => fault("peerAddress", "missing peer address or interface".to_owned()),
            (Some(_), Some(_)) => fault("interface", "peerAddress and interface exclude each other".to_owned()),
            _ => {}
        }
        if let (Some(peer), Some(source)) = (self.peer_address, self.source_address)
            && peer.is_ipv4() != source.is_ipv4()
        {
            fault("sourceAddress", format!("{source} is of another family than the peer's address {peer}"));
        }
        if let Some(port) = self.peer_port.filter(|port| *port > 16_384) {
            fault("peerPort", format!("{port} is not a port from 1 to 16384"));
        }
        let (hold, keepalive) = self.timers();
        if !hold.is_zero() && hold < Duration::from_secs(3) {
            fault("holdTime", format!("invalid hold time {hold:?}: must be 0 or >= 3 s"));
        }
        if hold > Duration::from_secs(u64::from(u16::MAX)) {
            fault("holdTime", format!("invalid hold time {hold:?}: must be at most 65535 s"));
        }
        if keepalive > hold {
            fault("keepaliveTime", format!("invalid keepaliveTime {keepalive:?}: longer than the hold time {hold:?}"));
        }
        if let Some(time) = self.connect_time {
            if !(1..=65_535).contains(&time.as_secs()) {
                fault("connectTime", "connect time should be between 1 seconds to 65535".to_owned());
            } else if time.subsec_nanos() != 0 {
                fault("connectTime", "connect time should contain a whole number of seconds".to_owned());
            }
        }
        if self.ebgp_multi_hop && self.is_internal() {
            fault("ebgpMultiHop", "invalid ebgp-multihop parameter set for an ibgp peer".to_owned());
        }
        if self.password.is_some() && self.secret().is_some() {
            fault("passwordSecret", "password and passwordSecret exclude each other".to_owned());
        }
        if let Some(SecretReference { name: None, namespace: Some(_) }) = &self.password_secret {
            fault("passwordSecret.name", "required field is missing".to_owned());
        }
        selector_faults("spec.nodeSelectors", &self.node_selectors, &mut faults);
        faults
    }

    /// Name of the Secret that has the password, and its namespace where it is said.
    pub fn secret(&self) -> Option<(&str, Option<&str>)> {
        let reference = self.password_secret.as_ref()?;
        Some((reference.name.as_deref()?, reference.namespace.as_deref()))
    }
}

/// A BFDProfile as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdProfile {
    #[serde(default)]
    pub api_version: Ignored,
    #[serde(default)]
    pub kind: Ignored,
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: BfdProfileSpec,
    #[serde(default)]
    pub status: Ignored,
}

/// Bidirectional forwarding detection (RFC 5880) of a peer. Silence is the default of the function beside the field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct BfdProfileSpec {
    /// The shortest time between packets that we take, 10 to 60000 ms; default 300.
    pub receive_interval: Option<u32>,
    /// The shortest time between packets that we want to send, 10 to 60000 ms; default 300.
    pub transmit_interval: Option<u32>,
    /// How many packets may be lost before the peer counts as gone, 2 to 255; default 3.
    pub detect_multiplier: Option<u32>,
    /// The shortest time between echo packets, 10 to 60000 ms; default 50.
    pub echo_interval: Option<u32>,
    /// Whether to send echo packets; never over several hops.
    #[serde(default)]
    pub echo_mode: bool,
    /// Whether to wait for the peer to begin.
    #[serde(default)]
    pub passive_mode: bool,
    /// The smallest TTL of packets over several hops that are taken, 1 to 254; default 254.
    pub minimum_ttl: Option<u32>,
}

impl BfdProfileSpec {
    pub fn receive(&self) -> Duration {
        Duration::from_millis(u64::from(self.receive_interval.unwrap_or(300)))
    }

    pub fn transmit(&self) -> Duration {
        Duration::from_millis(u64::from(self.transmit_interval.unwrap_or(300)))
    }

    pub fn multiplier(&self) -> u8 {
        self.detect_multiplier.and_then(|multiplier| u8::try_from(multiplier).ok()).unwrap_or(3)
    }

    pub fn echo(&self) -> Duration {
        Duration::from_millis(u64::from(self.echo_interval.unwrap_or(50)))
    }

    pub fn smallest_ttl(&self) -> u8 {
        self.minimum_ttl.and_then(|ttl| u8::try_from(ttl).ok()).unwrap_or(254)
    }

    /// What no BFDProfile may say.
    pub fn faults(&self) -> Vec<Fault> {
        let ranges = [
            ("receiveInterval", self.receive_interval, 10, 60_000),
            ("transmitInterval", self.transmit_interval, 10, 60_000),
            ("detectMultiplier", self.detect_multiplier, 2, 255),
            ("echoInterval", self.echo_interval, 10, 60_000),
            ("minimumTtl", self.minimum_ttl, 1, 254),
        ];
        let outside = ranges.into_iter().filter_map(|(field, value, least, most)| {
            let value = value.filter(|value| !(least..=most).contains(value))?;
            Some(Fault::new(format!("spec.{field}"), format!("{value} is not a number from {least} to {most}")))
        });
        outside.collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn peer(more: Value) -> BgpPeerSpec {
        let mut spec = json!({"myASN": 64512, "peerASN": 64512, "peerAddress": "172.30.0.3"});
        for (field, value) in more.as_object().unwrap() {
            match value {
                Value::Null => drop(spec.as_object_mut().unwrap().remove(field)),
                value => spec[field] = value.clone(),
            }
        }
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_peer_of_the_documentation_is_read_and_the_rest_is_default() {
        let spec = peer(json!({"peerPort": 180, "nodeSelectors": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["172.30.0.3"]},
        ]}]}));
        assert_eq!(spec.faults(), []);
        assert_eq!((spec.port(), spec.is_internal()), (180, true));
        assert_eq!(spec.timers(), (Duration::from_secs(90), Duration::from_secs(30)));
        assert_eq!((peer(json!({})).port(), peer(json!({"peerPort": 0})).port()), (179, 179));
        let empty =
            json!({"password": "", "bfdProfile": "", "sourceAddress": "", "routerID": "", "interface": "", "vrf": ""});
        assert_eq!(peer(empty), peer(json!({})));
    }

    #[test]
    fn a_timer_that_is_silent_follows_the_other() {
        let seconds = |spec: Value| {
            let (hold, keepalive) = peer(spec).timers();
            (hold.as_secs(), keepalive.as_secs())
        };
        assert_eq!(seconds(json!({"holdTime": "180s"})), (180, 60));
        assert_eq!(seconds(json!({"keepaliveTime": "5s"})), (15, 5));
        assert_eq!(seconds(json!({"holdTime": "1m", "keepaliveTime": "10s"})), (60, 10));
        assert_eq!(seconds(json!({"holdTime": "0s"})), (0, 0));
    }

    #[test]
    fn what_no_peer_may_say_is_told_with_its_field() {
        for (more, start) in [
            (json!({"myASN": 0}), "spec.myASN: missing local ASN"),
            (json!({"peerASN": 0}), "spec.peerASN: missing peer ASN"),
            (json!({"peerASN": null}), "spec.peerASN: missing peer ASN"),
            (json!({"dynamicASN": "external"}), "spec.dynamicASN: "),
            (json!({"peerAddress": null}), "spec.peerAddress: missing"),
            (json!({"interface": "eth0"}), "spec.interface: "),
            (json!({"sourceAddress": "fc00::1"}), "spec.sourceAddress: fc00::1 is of another family"),
            (json!({"peerPort": 16385}), "spec.peerPort: 16385"),
            (json!({"holdTime": "1s"}), "spec.holdTime: invalid hold time 1s"),
            (json!({"holdTime": "70000s"}), "spec.holdTime: invalid hold time 70000s"),
            (json!({"holdTime": "30s", "keepaliveTime": "60s"}), "spec.keepaliveTime: invalid keepaliveTime 60s"),
            (json!({"connectTime": "0s"}), "spec.connectTime: connect time should be between"),
            (json!({"connectTime": "1.5s"}), "spec.connectTime: connect time should contain a whole"),
            (json!({"ebgpMultiHop": true}), "spec.ebgpMultiHop: invalid ebgp-multihop"),
            (json!({"ebgpMultiHop": true, "peerASN": null, "dynamicASN": "internal"}), "spec.ebgpMultiHop: "),
            (json!({"password": "a", "passwordSecret": {"name": "b"}}), "spec.passwordSecret: "),
            (json!({"passwordSecret": {"namespace": "b"}}), "spec.passwordSecret.name: "),
            (json!({"nodeSelectors": [{"matchLabels": {"": "b"}}]}), "spec.nodeSelectors[0].matchLabels: "),
        ] {
            let faults = peer(more).faults();
            let [fault] = &faults[..] else { panic!("{start}: {faults:?}") };
            assert!(fault.to_string().starts_with(start), "{fault}");
        }
        let allowed = json!({"peerASN": 64513, "ebgpMultiHop": true, "passwordSecret": {}, "connectTime": "65535s"});
        assert_eq!(peer(allowed).faults(), []);
        assert_eq!(format!("{:?}", peer(json!({"password": "hush"})).password), "Some(redacted)");
    }

    #[test]
    fn a_bfd_profile_out_of_range_is_told_and_silence_is_the_default() {
        let spec: BfdProfileSpec = serde_json::from_value(json!({})).unwrap();
        assert_eq!(spec.faults(), []);
        assert_eq!((spec.receive(), spec.transmit()), (Duration::from_millis(300), Duration::from_millis(300)));
        assert_eq!((spec.multiplier(), spec.echo(), spec.smallest_ttl()), (3, Duration::from_millis(50), 254));
        let spec: BfdProfileSpec = serde_json::from_value(json!({
            "receiveInterval": 9, "transmitInterval": 60_001, "detectMultiplier": 1, "echoInterval": 0, "minimumTtl": 255,
        }))
        .unwrap();
        assert_eq!(spec.faults().len(), 5);
    }
}
