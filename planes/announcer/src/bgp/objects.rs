//! From objects of MetalLB to peers and routes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use headwater_bgp::{
    Asn, Community, Families, Family, LargeCommunity, Password, PeerAsn, PeerConfig, RESTART_TIME, Route, RouteError,
    Transport,
};
use headwater_model::metallb::community::CommunityValue;
use headwater_model::metallb::peer::{BfdProfileSpec, BgpPeerSpec, DynamicAsn};
use ipnet::IpNet;

use super::speaker::{Peer, Routes, Watch};
use super::unnumbered::Heard;

/// How far packets to a peer of another autonomous system may go with `ebgpMultiHop`.
const MULTIHOP_TTL: u8 = 5;

/// Why a BGPPeer is not spoken to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRefusal {
    #[error("{0}")]
    Faulty(String),
    #[error(
        "vrf \"{0}\": peers in a VRF are not spoken to (remove spec.vrf, and let the node's main table reach the peer)"
    )]
    Vrf(String),
    #[error(
        "interface \"{0}\": no router advertised itself there (let the router send advertisements, as FRR does with \
         \"neighbor eth0 interface\")"
    )]
    Unheard(String),
    #[error("the Secret \"{0}\" with its password, of type kubernetes.io/basic-auth with the key password, is missing")]
    MissingSecret(String),
    #[error("the BFDProfile \"{0}\" is missing")]
    MissingProfile(String),
}

impl PeerRefusal {
    /// Whether it may mend itself, by an object that is still to come: what was good before stays until then.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::MissingSecret(_) | Self::MissingProfile(_) | Self::Unheard(_))
    }
}

/// A BGPPeer as a session. `password`: what its Secret says; `profile`: the BFDProfile that it names; `router_id`: that of
/// the node, for a peer that names none; `heard`: routers behind interfaces.
///
/// # Errors
/// What the peer says wrongly, what is missing, and what is not supported.
pub fn peer(
    spec: &BgpPeerSpec,
    password: Option<&str>,
    profile: Option<&BfdProfileSpec>,
    router_id: Ipv4Addr,
    heard: &Heard,
) -> Result<Peer, PeerRefusal> {
    if let Some(fault) = spec.faults().first() {
        return Err(PeerRefusal::Faulty(fault.to_string()));
    }
    if let Some(vrf) = &spec.vrf {
        return Err(PeerRefusal::Vrf(vrf.clone()));
    }
    let (address, scope) = match (spec.peer_address, spec.interface.as_deref().unwrap_or_default()) {
        (Some(address), _) => (address, 0),
        (None, interface) => match heard.get(interface) {
            Some((address, index)) => (IpAddr::V6(*address), *index),
            None => return Err(PeerRefusal::Unheard(interface.to_owned())),
        },
    };
    let password = match (&spec.password, spec.secret()) {
        (Some(password), _) => Some(password.0.to_string()),
        (None, Some((secret, _))) => {
            Some(password.ok_or_else(|| PeerRefusal::MissingSecret(secret.to_owned()))?.to_owned())
        }
        (None, None) => None,
    };
    let multihop = spec.ebgp_multi_hop;
    let watch = match (&spec.bfd_profile, profile) {
        (None, _) => None,
        (Some(name), None) => return Err(PeerRefusal::MissingProfile(name.clone())),
        (Some(_), Some(profile)) => Some(Watch { profile: bfd(profile, multihop), multihop }),
    };
    // To the peer we are this one, and no other number is in the path.
    let local_asn = Asn(spec.local_asn.filter(|asn| asn.0 != 0).unwrap_or(spec.my_asn).0);
    let peer_asn = match (spec.dynamic_asn, spec.said_asn()) {
        (Some(DynamicAsn::Internal), _) => PeerAsn::Internal,
        (Some(DynamicAsn::External), _) => PeerAsn::External,
        (None, Some(asn)) => PeerAsn::Exactly(Asn(asn.0)),
        (None, None) => return Err(PeerRefusal::Faulty("spec.peerASN: missing peer ASN or dynamicASN".to_owned())),
    };
    let internal = match peer_asn {
        PeerAsn::Exactly(asn) => asn == local_asn,
        other => other == PeerAsn::Internal,
    };
    // An unnumbered peer has no family that would be its own.
    let families = match spec.dual_stack_address_family || spec.interface.is_some() {
        true => Families::BOTH,
        false => Families::only(if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }),
    };
    let seconds = |time: Duration| u16::try_from(time.as_secs()).unwrap_or(u16::MAX);
    let (hold, keepalive) = spec.timers();
    let session = PeerConfig {
        local_asn,
        peer_asn,
        router_id: spec.router_id.unwrap_or(router_id),
        families,
        hold: seconds(hold),
        keepalive: Some(seconds(keepalive)).filter(|seconds| *seconds > 0),
        connect_retry: spec.connect_time,
        graceful_restart: spec.enable_graceful_restart.then_some(RESTART_TIME),
        transport: Transport {
            address,
            scope,
            port: spec.port(),
            source: spec.source_address,
            password: password.map(Password),
            ttl: match (internal, multihop) {
                (true, _) => None,
                (false, true) => Some(MULTIHOP_TTL),
                (false, false) => Some(1),
            },
        },
    };
    Ok(Peer { session, watch })
}

fn bfd(profile: &BfdProfileSpec, multihop: bool) -> headwater_bfd::Profile {
    headwater_bfd::Profile {
        receive_interval: profile.receive(),
        transmit_interval: profile.transmit(),
        detect_multiplier: profile.multiplier(),
        // Echo packets go over one hop alone. RFC 5883 section 4.
        echo_interval: (profile.echo_mode && !multihop).then(|| profile.echo()),
        passive: profile.passive_mode,
        minimum_ttl: if multihop { profile.smallest_ttl() } else { 255 },
    }
}

/// Why a prefix is not announced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixRefusal {
    /// MetalLB's reason conflictingAdvertisements.
    #[error("advertisements of {prefix} differ in their local preference: {first} and {second}")]
    LocalPreference { prefix: IpNet, first: u32, second: u32 },
    #[error("{prefix}: {source}")]
    Route { prefix: IpNet, source: RouteError },
}

/// One way in which a prefix is advertised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The network that aggregation makes of the address.
    pub prefix: IpNet,
    pub local_preference: Option<u32>,
    pub communities: Vec<CommunityValue>,
}

/// Routes of all offers to a peer: those of one prefix share their communities, and must agree on the local preference.
/// What stays the same is the same `Arc` as in `before`.
pub fn routes(offers: impl IntoIterator<Item = Offer>, before: &Arc<Routes>) -> (Arc<Routes>, Vec<PrefixRefusal>) {
    type Merged = Result<(Option<u32>, Vec<CommunityValue>), PrefixRefusal>;
    let mut merged: BTreeMap<IpNet, Merged> = BTreeMap::new();
    for Offer { prefix, local_preference, communities } in offers {
        let entry = merged.entry(prefix.trunc()).or_insert_with(|| Ok((local_preference, Vec::new())));
        let Ok((preference, all)) = entry else { continue };
        if *preference == local_preference {
            all.extend(communities);
        } else {
            let (first, second) = (preference.unwrap_or(0), local_preference.unwrap_or(0));
            *entry = Err(PrefixRefusal::LocalPreference { prefix, first, second });
        }
    }
    let mut routes = Routes::new();
    let mut refusals = Vec::new();
    for (prefix, offer) in merged {
        let made = offer.and_then(|(preference, communities)| {
            let standard = communities.iter().filter_map(|community| match *community {
                CommunityValue::Standard(high, low) => Some(Community(u32::from(high) << 16 | u32::from(low))),
                CommunityValue::Large(..) => None,
            });
            let large = communities.iter().filter_map(|community| match *community {
                CommunityValue::Large(a, b, c) => Some(LargeCommunity([a, b, c])),
                CommunityValue::Standard(..) => None,
            });
            Route::new(preference, standard, large).map_err(|source| PrefixRefusal::Route { prefix, source })
        });
        match made {
            Ok(route) => {
                let same = before.get(&prefix).filter(|known| ***known == route).cloned();
                routes.insert(prefix, same.unwrap_or_else(|| Arc::new(route)));
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
    let routes = if **before == routes { before.clone() } else { Arc::new(routes) };
    (routes, refusals)
}

#[cfg(test)]
mod tests {
    use headwater_model::metallb::peer::{Asn as ModelAsn, SecretReference};

    use super::*;

    const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    /// With no router heard.
    fn peer(
        spec: &BgpPeerSpec,
        password: Option<&str>,
        profile: Option<&BfdProfileSpec>,
        router_id: Ipv4Addr,
    ) -> Result<Peer, PeerRefusal> {
        super::peer(spec, password, profile, router_id, &Heard::new())
    }

    fn spec() -> BgpPeerSpec {
        BgpPeerSpec {
            my_asn: ModelAsn(64512),
            peer_asn: Some(ModelAsn(64513)),
            peer_address: Some("10.0.0.1".parse().unwrap()),
            ..BgpPeerSpec::default()
        }
    }

    #[test]
    fn a_peer_that_says_little_has_what_is_usual() {
        let peer = peer(&spec(), None, None, NODE).unwrap();
        let PeerConfig {
            local_asn, peer_asn, router_id, families, hold, keepalive, graceful_restart, transport, ..
        } = peer.session;
        assert_eq!((local_asn, peer_asn), (Asn(64512), PeerAsn::Exactly(Asn(64513))));
        assert_eq!((router_id, families), (NODE, Families::only(Family::Ipv4)));
        assert_eq!((hold, keepalive, graceful_restart), (90, Some(30), None));
        assert_eq!((transport.port, transport.ttl, transport.password), (179, Some(1), None));
        assert_eq!(peer.watch, None);
    }

    #[test]
    fn fields_become_what_they_mean() {
        let ttl = |change: fn(&mut BgpPeerSpec)| {
            let mut spec = spec();
            change(&mut spec);
            peer(&spec, None, None, NODE).unwrap().session.transport.ttl
        };
        assert_eq!(ttl(|spec| spec.ebgp_multi_hop = true), Some(5));
        assert_eq!(ttl(|spec| spec.peer_asn = Some(ModelAsn(64512))), None);
        let dynamic = |spec: &mut BgpPeerSpec, dynamic| (spec.peer_asn, spec.dynamic_asn) = (None, Some(dynamic));
        let mut internal = spec();
        dynamic(&mut internal, DynamicAsn::Internal);
        assert_eq!(peer(&internal, None, None, NODE).unwrap().session.peer_asn, PeerAsn::Internal);
        let mut external = spec();
        dynamic(&mut external, DynamicAsn::External);
        external.local_asn = Some(ModelAsn(65000));
        external.dual_stack_address_family = true;
        external.enable_graceful_restart = true;
        external.router_id = Some(Ipv4Addr::new(1, 1, 1, 1));
        let session = peer(&external, None, None, NODE).unwrap().session;
        assert_eq!((session.local_asn, session.peer_asn), (Asn(65000), PeerAsn::External));
        assert_eq!((session.families, session.graceful_restart), (Families::BOTH, Some(120)));
        assert_eq!(session.router_id, Ipv4Addr::new(1, 1, 1, 1));
    }

    #[test]
    fn an_unnumbered_peer_is_who_was_heard_on_its_interface_and_hears_of_both_families() {
        let mut spec = spec();
        (spec.peer_address, spec.interface) = (None, Some("eth0".into()));
        let router = "fe80::1".parse().unwrap();
        let heard = Heard::from([("eth0".into(), (router, 7)), ("eth1".into(), ("fe80::2".parse().unwrap(), 8))]);
        let session = super::peer(&spec, None, None, NODE, &heard).unwrap().session;
        assert_eq!((session.transport.address, session.transport.scope), (router.into(), 7));
        assert_eq!((session.families, session.transport.ttl), (Families::BOTH, Some(1)));
    }

    #[test]
    fn what_is_missing_is_transient_and_what_is_not_supported_is_not() {
        let refusal = |change: fn(&mut BgpPeerSpec)| {
            let mut spec = spec();
            change(&mut spec);
            peer(&spec, None, None, NODE).unwrap_err()
        };
        let secret = refusal(|spec| {
            spec.password_secret = Some(SecretReference { name: Some("bgp".into()), namespace: None });
        });
        assert_eq!((secret.clone(), secret.is_transient()), (PeerRefusal::MissingSecret("bgp".into()), true));
        let profile = refusal(|spec| spec.bfd_profile = Some("fast".into()));
        assert_eq!((profile.clone(), profile.is_transient()), (PeerRefusal::MissingProfile("fast".into()), true));
        let vrf = refusal(|spec| spec.vrf = Some("red".into()));
        assert!(!vrf.is_transient() && vrf.to_string().starts_with("vrf \"red\": "), "{vrf}");
        let unheard = refusal(|spec| (spec.peer_address, spec.interface) = (None, Some("eth0".into())));
        assert!(unheard.is_transient() && unheard.to_string().starts_with("interface \"eth0\": "), "{unheard}");
        let faulty = refusal(|spec| spec.my_asn = ModelAsn(0));
        assert_eq!(faulty.to_string(), "spec.myASN: missing local ASN");
    }

    #[test]
    fn a_secret_and_a_profile_are_used() {
        let mut spec = spec();
        spec.password_secret = Some(SecretReference { name: Some("bgp".into()), namespace: None });
        spec.bfd_profile = Some("fast".into());
        let profile = BfdProfileSpec { echo_mode: true, ..BfdProfileSpec::default() };
        let peer_of = |spec: &BgpPeerSpec| peer(spec, Some("secret"), Some(&profile), NODE).unwrap();
        let near = peer_of(&spec);
        assert_eq!(near.session.transport.password, Some(Password("secret".into())));
        let watch = near.watch.unwrap();
        assert_eq!((watch.profile.minimum_ttl, watch.multihop), (255, false));
        assert_eq!(watch.profile.echo_interval, Some(Duration::from_millis(50)));
        spec.ebgp_multi_hop = true;
        let watch = peer_of(&spec).watch.unwrap();
        assert_eq!((watch.profile.minimum_ttl, watch.multihop, watch.profile.echo_interval), (254, true, None));
    }

    #[test]
    fn advertisements_of_one_prefix_share_communities_and_must_agree_on_their_preference() {
        let offer = |prefix: &str, local_preference, communities: &[&str]| Offer {
            prefix: prefix.parse().unwrap(),
            local_preference,
            communities: communities.iter().map(|text| CommunityValue::parse(text).unwrap()).collect(),
        };
        let offers = || {
            vec![
                offer("198.51.100.7/32", Some(200), &["1:1"]),
                offer("198.51.100.7/32", Some(200), &["1:2", "large:1:2:3"]),
                offer("198.51.100.9/24", None, &[]),
                offer("203.0.113.1/32", Some(1), &[]),
                offer("203.0.113.1/32", Some(2), &[]),
            ]
        };
        let (first, refusals) = routes(offers(), &Arc::default());
        let refused = PrefixRefusal::LocalPreference { prefix: "203.0.113.1/32".parse().unwrap(), first: 1, second: 2 };
        assert_eq!(refusals, [refused]);
        assert_eq!(first.keys().map(ToString::to_string).collect::<Vec<_>>(), ["198.51.100.0/24", "198.51.100.7/32"]);
        let route = &first[&"198.51.100.7/32".parse().unwrap()];
        assert_eq!((route.local_pref(), route.communities().len(), route.large().len()), (Some(200), 2, 1));
        let (again, _) = routes(offers(), &first);
        assert!(Arc::ptr_eq(&first, &again));
        let (other, _) = routes(offers().into_iter().skip(2), &first);
        assert_eq!(other.len(), 1);
    }
}
