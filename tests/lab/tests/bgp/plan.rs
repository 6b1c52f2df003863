//! What objects make a node tell its routers; no router is needed for it.

use std::sync::Arc;

use headwater_announcer::bgp::{Heard, Memory, PeerRefusal, Planned, Routers, plan};
use headwater_bgp::{Password, PeerAsn};
use headwater_model::announce::{Announcements, BgpOffer, Silence, Vip};
use headwater_model::cluster::{Change, Cluster, Object};
use headwater_model::metallb::community::{CommunityRef, CommunityValue};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey, Origin};
use serde_json::{Value, json};

const NAMESPACE: &str = "metallb-system";

fn set(cluster: &mut Cluster, object: Object) {
    cluster.apply(&Change::Set(object));
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "namespace": NAMESPACE})
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn peer(cluster: &mut Cluster, name: &str, more: Value) {
    let mut spec = json!({"myASN": 64512, "peerASN": 64513, "peerAddress": "10.0.0.1"});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    set(cluster, Object::BgpPeer(read(json!({"metadata": metadata(name), "spec": spec}))));
}

fn node(cluster: &mut Cluster, name: &str, rack: &str) {
    let status = json!({"addresses": [{"type": "InternalIP", "address": "10.0.0.2"}]});
    let object = json!({"metadata": {"name": name, "labels": {"rack": rack}}, "status": status});
    set(cluster, Object::Node(read(object)));
}

fn offer(name: &str, peers: &[&str], communities: Vec<CommunityRef>) -> Arc<BgpOffer> {
    Arc::new(BgpOffer {
        advertisement: NamespacedName::new(NAMESPACE, name),
        prefix: "198.51.100.7/32".parse().unwrap(),
        local_preference: None,
        communities,
        peers: peers.iter().map(|peer| (*peer).to_owned()).collect(),
        nodes: Arc::new(["n1".into(), "n2".into()].into()),
    })
}

fn service() -> NamespacedName {
    NamespacedName::new("shop", "web")
}

fn announcements(bgp: Vec<Arc<BgpOffer>>) -> Announcements {
    let key = ObjectKey { kind: Kind::Service, id: service() };
    let vip = Vip {
        address: "198.51.100.7".parse().unwrap(),
        origin: Origin { key, generation: 1 },
        first: "198.51.100.7".into(),
        pool: "pool".into(),
        is_local: true,
        is_served: true,
        serving: Arc::new(["n1".into()].into()),
        l2: Err(Silence::NoMatchingAdvertisement),
        bgp,
    };
    Announcements { vips: vec![Arc::new(vip)], ..Announcements::default() }
}

fn planned(cluster: &Cluster, bgp: Vec<Arc<BgpOffer>>, node: &str) -> Planned {
    let routers = Routers::of(cluster, NAMESPACE, node);
    plan(&announcements(bgp), &routers, &Heard::new(), node, &mut Memory::default())
}

fn prefixes(planned: &Planned, peer: &str) -> usize {
    planned.plan.peers[peer].routes.len()
}

#[test]
fn a_node_speaks_with_the_routers_that_choose_it_and_tells_each_what_it_shall_hear() {
    let mut cluster = Cluster::default();
    node(&mut cluster, "n1", "a");
    node(&mut cluster, "n2", "b");
    peer(&mut cluster, "everybody", json!({}));
    peer(&mut cluster, "rack-a", json!({"nodeSelectors": [{"matchLabels": {"rack": "a"}}]}));
    peer(&mut cluster, "rack-b", json!({"nodeSelectors": [{"matchLabels": {"rack": "b"}}]}));
    let to_rack = || vec![offer("ad", &["rack-a", "rack-b"], vec![])];
    let first = planned(&cluster, to_rack(), "n1");
    assert_eq!(first.plan.peers.keys().map(|name| &**name).collect::<Vec<_>>(), ["everybody", "rack-a"]);
    assert_eq!((prefixes(&first, "everybody"), prefixes(&first, "rack-a")), (0, 1));
    assert_eq!(first.services[&service()], ["rack-a".into()].into());
    let session = &first.plan.peers["rack-a"].peer.session;
    assert_eq!(
        (session.router_id.to_string(), session.peer_asn),
        ("10.0.0.2".into(), PeerAsn::Exactly(headwater_bgp::Asn(64513)))
    );
    // Under externalTrafficPolicy Local the other node has no endpoint.
    let second = planned(&cluster, to_rack(), "n2");
    assert_eq!((prefixes(&second, "rack-b"), second.services.len()), (0, 0));
    assert_eq!(prefixes(&planned(&cluster, vec![offer("ad", &[], vec![])], "n1"), "everybody"), 1);
}

#[test]
fn a_password_that_goes_away_stays_as_it_was_and_one_that_never_came_is_named() {
    let mut cluster = Cluster::default();
    node(&mut cluster, "n1", "a");
    peer(&mut cluster, "router", json!({"passwordSecret": {"name": "bgp"}}));
    let mut memory = Memory::default();
    let mut plan_now = |cluster: &Cluster| {
        let routers = Routers::of(cluster, NAMESPACE, "n1");
        plan(&announcements(vec![offer("ad", &[], vec![])]), &routers, &Heard::new(), "n1", &mut memory)
    };
    let none = plan_now(&cluster);
    assert_eq!((none.plan.peers.len(), &none.refused["router"]), (0, &PeerRefusal::MissingSecret("bgp".into())));
    let secret = json!({
        "metadata": metadata("bgp"), "type": "kubernetes.io/basic-auth", "stringData": {"password": "secret"},
    });
    set(&mut cluster, Object::Secret(read(secret)));
    let password = |planned: &Planned| planned.plan.peers["router"].peer.session.transport.password.clone();
    let with = plan_now(&cluster);
    assert_eq!((password(&with), with.refused.len()), (Some(Password("secret".into())), 0));
    let key = ObjectKey { kind: Kind::Secret, id: NamespacedName::new(NAMESPACE, "bgp") };
    cluster.apply(&Change::Removed(key));
    let without = plan_now(&cluster);
    assert_eq!((password(&without), without.refused.len()), (Some(Password("secret".into())), 1));
    assert!(
        Arc::ptr_eq(&with.plan.peers["router"].routes, &without.plan.peers["router"].routes),
        "nothing is told anew"
    );
}

#[test]
fn names_of_communities_are_looked_up_and_an_unknown_one_silences_its_advertisement() {
    let mut cluster = Cluster::default();
    node(&mut cluster, "n1", "a");
    peer(&mut cluster, "router", json!({}));
    let alias = |name: &str| CommunityRef::Alias(name.into());
    let both = || {
        let value = CommunityRef::Value(CommunityValue::Standard(64512, 7));
        vec![offer("known", &[], vec![value]), offer("named", &[], vec![alias("backup")])]
    };
    let before = planned(&cluster, both(), "n1");
    let communities = |planned: &Planned| {
        let routes = &planned.plan.peers["router"].routes;
        routes.values().flat_map(|route| route.communities().to_vec()).map(|one| one.to_string()).collect::<Vec<_>>()
    };
    assert_eq!((communities(&before), before.unknown), (vec!["64512:7".into()], ["backup".into()].into()));
    let named =
        json!({"metadata": metadata("names"), "spec": {"communities": [{"name": "backup", "value": "64512:666"}]}});
    set(&mut cluster, Object::Community(read(named)));
    let after = planned(&cluster, both(), "n1");
    assert_eq!((communities(&after).len(), after.unknown.len()), (2, 0));
}

/// What the Services of these names are announced by: each at an address of its own, in one network.
fn of_services(services: &[(&str, Arc<BgpOffer>)]) -> Announcements {
    let vips = services.iter().zip(7u8..).map(|((name, offer), last)| {
        let key = ObjectKey { kind: Kind::Service, id: NamespacedName::new("shop", *name) };
        let mut vip = (*announcements(vec![offer.clone()]).vips[0]).clone();
        (vip.address, vip.origin.key) = ([198, 51, 100, last].into(), key);
        Arc::new(vip)
    });
    Announcements { vips: vips.collect(), ..Announcements::default() }
}

fn network(local_preference: Option<u32>) -> Arc<BgpOffer> {
    let mut offer = (*offer("net", &[], vec![])).clone();
    (offer.prefix, offer.local_preference) = ("198.51.100.0/24".parse().unwrap(), local_preference);
    Arc::new(offer)
}

#[test]
fn a_network_of_several_services_stays_until_the_last_of_them_goes() {
    let mut cluster = Cluster::default();
    node(&mut cluster, "n1", "a");
    peer(&mut cluster, "router", json!({}));
    let mut memory = Memory::default();
    let mut plan_now = |services: &[(&str, Arc<BgpOffer>)]| {
        let routers = Routers::of(&cluster, NAMESPACE, "n1");
        plan(&of_services(services), &routers, &Heard::new(), "n1", &mut memory)
    };
    let both = plan_now(&[("web", network(None)), ("api", network(None))]);
    assert_eq!((prefixes(&both, "router"), both.services.len()), (1, 2));
    let one = plan_now(&[("api", network(None))]);
    assert!(Arc::ptr_eq(&both.plan.peers["router"].routes, &one.plan.peers["router"].routes), "it is told anew");
    assert_eq!(one.services.len(), 1);
    let none = plan_now(&[]);
    assert_eq!((prefixes(&none, "router"), none.services.len()), (0, 0));
    // Advertisements of one network that contradict each other silence both Services, and say so.
    let torn = plan_now(&[("web", network(Some(100))), ("api", network(Some(200)))]);
    assert_eq!((prefixes(&torn, "router"), torn.services.len(), torn.silent.len()), (0, 0, 1));
}

#[test]
fn peers_and_addresses_follow_what_objects_say_now() {
    let mut cluster = Cluster::default();
    node(&mut cluster, "n1", "a");
    peer(&mut cluster, "rack-a", json!({"nodeSelectors": [{"matchLabels": {"rack": "a"}}]}));
    peer(
        &mut cluster,
        "rack-b",
        json!({"nodeSelectors": [{"matchExpressions": [{"key": "rack", "operator": "In", "values": ["b", "c"]}]}]}),
    );
    let names = |cluster: &Cluster| -> Vec<String> {
        let planned = planned(cluster, vec![offer("ad", &[], vec![])], "n1");
        planned.plan.peers.keys().map(ToString::to_string).collect()
    };
    assert_eq!(names(&cluster), ["rack-a"]);
    node(&mut cluster, "n1", "b");
    assert_eq!(names(&cluster), ["rack-b"]);
    node(&mut cluster, "n1", "d");
    assert_eq!(names(&cluster), [""; 0]);
    // One that is removed and comes again under another address is another session.
    node(&mut cluster, "n1", "a");
    peer(&mut cluster, "rack-a", json!({"peerAddress": "10.0.0.9"}));
    let moved = planned(&cluster, vec![offer("ad", &[], vec![])], "n1");
    assert_eq!(moved.plan.peers["rack-a"].peer.session.transport.address.to_string(), "10.0.0.9");
    assert_eq!(prefixes(&moved, "rack-a"), 1);
}

#[test]
fn advertisements_that_contradict_each_other_silence_the_peers_that_both_are_for() {
    let mut cluster = Cluster::default();
    node(&mut cluster, "n1", "a");
    for (name, address) in [("p1", "10.0.0.1"), ("p2", "10.0.0.3"), ("p3", "10.0.0.4")] {
        peer(&mut cluster, name, json!({"peerAddress": address}));
    }
    type Said<'a> = (u32, &'a [&'a str], &'a [&'a str]);
    let hearing = |said: &[Said<'_>]| {
        let offers = said.iter().enumerate().map(|(at, (preference, nodes, peers))| {
            let mut offer = (*offer(&format!("ad{at}"), peers, vec![])).clone();
            offer.local_preference = Some(*preference);
            offer.nodes = Arc::new(nodes.iter().map(|node| (*node).into()).collect());
            Arc::new(offer)
        });
        let planned = planned(&cluster, offers.collect(), "n1");
        let hear = ["p1", "p2", "p3"].into_iter().filter(|peer| prefixes(&planned, peer) > 0);
        (hear.collect::<Vec<_>>().join(" "), !planned.silent.is_empty())
    };
    for (first, second, hear, torn) in [
        ((100, &["n1"][..], &[][..]), (100, &["n1"][..], &[][..]), "p1 p2 p3", false),
        ((100, &["n1"], &[]), (200, &["n2"], &[]), "p1 p2 p3", false),
        ((100, &["n1"], &[]), (200, &["n1", "n2"], &[]), "", true),
        ((100, &["n1", "n2"], &[]), (200, &["n1"], &[]), "", true),
        ((100, &[], &[]), (200, &["n1"], &[]), "p1 p2 p3", false),
        ((100, &["n1"], &["p1"]), (200, &["n1"], &["p2"]), "p1 p2", false),
        ((100, &["n1"], &["p1"]), (200, &["n1"], &["p1", "p2"]), "p2", true),
        ((100, &["n1"], &["p1", "p2"]), (200, &["n1"], &["p1"]), "p2", true),
        ((100, &["n1"], &["p1", "p3"]), (200, &["n1"], &["p1", "p2"]), "p2 p3", true),
        ((100, &["n1"], &[]), (200, &["n1"], &["p1"]), "p2 p3", true),
    ] {
        assert_eq!(hearing(&[first, second]), (hear.to_owned(), torn), "{first:?} {second:?}");
        assert_eq!(hearing(&[second, first]), (hear.to_owned(), torn), "{second:?} {first:?}");
    }
    assert_eq!(hearing(&[(100, &["n1"], &[])]), ("p1 p2 p3".to_owned(), false));
    assert_eq!(hearing(&[]), (String::new(), false));
}
