//! Which node may announce what, by objects as JSON.

use headwater_model::alb::Alb2;
use headwater_model::cluster::{Change, Object};
use headwater_model::metallb::{BgpAdvertisement, IpAddressPool, L2Advertisement};
use headwater_model::object::{EndpointSlice, Node};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn read<T: DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn node(name: &str, labels: Value) -> Object {
    Object::Node(read(json!({"metadata": {"name": name, "labels": labels}})))
}

fn pool(name: &str, addresses: &[&str]) -> Object {
    let labels = json!({"pool": name});
    Object::IpAddressPool(read::<IpAddressPool>(
        json!({"metadata": {"name": name, "namespace": "metallb-system", "labels": labels}, "spec": {"addresses": addresses}}),
    ))
}

fn l2(name: &str, spec: Value) -> Object {
    Object::L2Advertisement(read::<L2Advertisement>(
        json!({"metadata": {"name": name, "namespace": "metallb-system"}, "spec": spec}),
    ))
}

fn bgp(name: &str, spec: Value) -> Object {
    Object::BgpAdvertisement(read::<BgpAdvertisement>(
        json!({"metadata": {"name": name, "namespace": "metallb-system"}, "spec": spec}),
    ))
}

fn service(name: &str, spec: Value, addresses: &[&str]) -> Object {
    let mut whole = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let ingress: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    Object::Service(read::<Service>(json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": whole,
        "status": {"loadBalancer": {"ingress": ingress}},
    })))
}

fn slice(service: &str, endpoints: Value) -> Object {
    Object::EndpointSlice(read::<EndpointSlice>(json!({
        "metadata": {"name": format!("{service}-1"), "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": endpoints,
    })))
}

/// Ready on these nodes.
fn on(nodes: &[&str]) -> Value {
    nodes.iter().map(|node| json!({"addresses": ["10.1.0.1"], "nodeName": node})).collect()
}

struct Stage {
    cluster: Cluster,
    announcer: Announcer,
}

impl Stage {
    /// Nodes a, b and c, a pool of both families, an advertisement for everything, and the Service web on a and b.
    fn new() -> Self {
        let mut stage = Self::with(AnnounceOptions { node: "a".into(), ..AnnounceOptions::default() });
        stage.set(pool("p", &["192.0.2.0/24", "2001:db8::/120"]));
        stage.set(l2("everything", json!({})));
        stage
    }

    fn with(options: AnnounceOptions) -> Self {
        let mut stage = Self { cluster: Cluster::default(), announcer: Announcer::new(options) };
        for name in ["a", "b", "c"] {
            stage.set(node(name, json!({"zone": name})));
        }
        stage.set(service("web", json!({}), &["192.0.2.7", "2001:db8::7"]));
        stage.set(slice("web", on(&["a", "b"])));
        stage
    }

    fn set(&mut self, object: Object) -> bool {
        self.change(&Change::Set(object))
    }

    fn change(&mut self, change: &Change) -> bool {
        self.cluster.apply(change);
        let before = self.announcer.announcements();
        let changed = self.announcer.apply(&self.cluster, &[change.key()]);
        assert_eq!(changed, before != self.announcer.announcements(), "what was told of the change is not true");
        // Nothing depends on the order of changes.
        let mut fresh = Announcer::new(self.announcer.options.clone());
        let keys: Vec<ObjectKey> = [
            self.cluster.services.values().map(|o| o.key()).collect::<Vec<_>>(),
            self.cluster.endpoint_slices.values().map(|o| o.key()).collect(),
            vec![ObjectKey::new(Kind::IpAddressPool, "", "")],
        ]
        .concat();
        fresh.apply(&self.cluster, &keys);
        assert_eq!(fresh.announcements(), self.announcer.announcements());
        changed
    }

    fn vip(&self, address: &str) -> Arc<Vip> {
        let address: IpAddr = address.parse().unwrap();
        self.announcer.announcements().vips.iter().find(|vip| vip.address == address).expect("it is there").clone()
    }

    /// Candidates as `a=10 b`, or the reason why there is none.
    fn l2(&self, address: &str) -> String {
        match &self.vip(address).l2 {
            Err(silence) => silence.to_string(),
            Ok(candidates) => {
                let one = |candidate: &L2Candidate| match candidate.weight {
                    0 => candidate.node.to_string(),
                    weight => format!("{}={weight}", candidate.node),
                };
                candidates.iter().map(one).collect::<Vec<_>>().join(" ")
            }
        }
    }
}

#[test]
fn every_node_may_announce_both_addresses_of_a_service_and_the_first_decides() {
    let stage = Stage::new();
    for address in ["192.0.2.7", "2001:db8::7"] {
        assert_eq!(stage.l2(address), "a b c");
        let vip = stage.vip(address);
        assert_eq!((&*vip.first, &*vip.pool, vip.is_local), ("192.0.2.7", "p", false));
    }
}

#[test]
fn what_no_pool_has_or_no_load_balancer_needs_is_not_announced() {
    let mut stage = Stage::new();
    for (spec, addresses) in [
        (json!({"type": "NodePort"}), &["192.0.2.7"][..]),
        (json!({"loadBalancerClass": "other"}), &["192.0.2.7"]),
        (json!({}), &["198.51.100.7"]),
        (json!({}), &["no address"]),
        (json!({}), &[]),
    ] {
        stage.set(service("web", spec.clone(), addresses));
        assert!(stage.announcer.announcements().vips.is_empty(), "{spec} {addresses:?}");
    }
    let mut stage = Stage::with(AnnounceOptions { class: Some("ours".to_owned()), ..AnnounceOptions::default() });
    stage.set(pool("p", &["192.0.2.0/24"]));
    assert!(stage.announcer.announcements().vips.is_empty());
    stage.set(service("web", json!({"loadBalancerClass": "ours"}), &["192.0.2.7"]));
    assert_eq!(stage.l2("192.0.2.7"), "noMatchingAdvertisement");
}

#[test]
fn advertisements_choose_pools_nodes_services_and_interfaces() {
    let zone = |zone: &str| json!([{"matchLabels": {"zone": zone}}]);
    for (specs, expected) in [
        (vec![], "noMatchingAdvertisement"),
        (vec![json!({"ipAddressPools": ["p"]})], "a b c"),
        (vec![json!({"ipAddressPools": ["q"]})], "noMatchingAdvertisement"),
        (vec![json!({"ipAddressPoolSelectors": [{"matchLabels": {"pool": "p"}}]})], "a b c"),
        (vec![json!({"ipAddressPools": ["q"], "ipAddressPoolSelectors": [{"matchLabels": {"pool": "p"}}]})], "a b c"),
        (vec![json!({"nodeSelectors": zone("b")})], "b"),
        (vec![json!({"nodeSelectors": zone("b")}), json!({"nodeSelectors": zone("c")})], "b c"),
        (vec![json!({"serviceSelectors": [{"matchLabels": {"app": "web"}}]})], "a b c"),
        (vec![json!({"serviceSelectors": [{"matchLabels": {"app": "other"}}]})], "noMatchingAdvertisement"),
        (
            vec![
                json!({"preferredNodeSelectors": [{"weight": 10, "preference": {"matchLabels": {"zone": "c"}}}, {"weight": 5, "preference": {}}]}),
                json!({"preferredNodeSelectors": [{"weight": 30, "preference": {"matchLabels": {"zone": "a"}}}]}),
            ],
            "a=35 b=5 c=15",
        ),
        // A fault makes it count as absent.
        (vec![json!({"interfaces": ["eth0", "eth0"]})], "noMatchingAdvertisement"),
    ] {
        let mut stage = Stage::new();
        stage.change(&Change::Removed(ObjectKey::new(Kind::L2Advertisement, "metallb-system", "everything")));
        for (number, spec) in specs.iter().enumerate() {
            stage.set(l2(&format!("ad-{number}"), spec.clone()));
        }
        assert_eq!(stage.l2("192.0.2.7"), expected, "{specs:?}");
    }
}

#[test]
fn interfaces_of_several_advertisements_add_up_for_each_node() {
    let mut stage = Stage::new();
    stage.set(l2("everything", json!({"interfaces": ["eth0"], "nodeSelectors": [{"matchLabels": {"zone": "a"}}]})));
    stage.set(l2("more", json!({"interfaces": ["eth1"]})));
    let named = |stage: &Stage| -> Vec<String> {
        let vip = stage.vip("192.0.2.7");
        let all = vip.l2.as_ref().unwrap().iter();
        all.map(|candidate| match &candidate.interfaces {
            Some(names) => names.iter().map(|name| &**name).collect::<Vec<_>>().join("+"),
            None => "all".to_owned(),
        })
        .collect()
    };
    assert_eq!(named(&stage), ["eth0+eth1", "eth1", "eth1"]);
    stage.set(l2("all", json!({"nodeSelectors": [{"matchLabels": {"zone": "b"}}]})));
    assert_eq!(named(&stage), ["eth0+eth1", "all", "eth1"]);
}

#[test]
fn endpoints_decide_who_may_announce() {
    let ready = |node: &str| json!({"addresses": ["10.1.0.1"], "nodeName": node, "conditions": {"ready": true}});
    let unready = |node: &str| json!({"addresses": ["10.1.0.2"], "nodeName": node, "conditions": {"ready": false}});
    for (policy, endpoints, expected) in [
        ("Cluster", json!([]), "noEndpoints"),
        (
            "Cluster",
            json!([{"addresses": ["10.1.0.1"], "nodeName": "a", "conditions": {"ready": false}}]),
            "noEndpoints",
        ),
        (
            "Cluster",
            json!([{"addresses": ["10.1.0.1"], "nodeName": "a", "conditions": {"ready": false, "serving": true, "terminating": true}}]),
            "a b c",
        ),
        ("Cluster", json!([{"addresses": ["10.1.0.1"]}]), "a b c"),
        ("Cluster", json!([{"addresses": ["10.1.0.1"], "conditions": {"ready": false, "serving": true}}]), "a b c"),
        ("Cluster", json!([{"addresses": ["10.1.0.1"], "conditions": {"ready": true, "serving": false}}]), "a b c"),
        ("Local", on(&["b"]), "b"),
        ("Local", on(&["c", "a"]), "a c"),
        ("Local", on(&["elsewhere"]), "noLocalEndpoints"),
        ("Local", json!([]), "noEndpoints"),
        ("Local", on(&["a", "b", "b"]), "a b"),
        ("Local", json!([ready("a"), unready("b")]), "a"),
        ("Local", json!([unready("a"), ready("b")]), "b"),
        ("Local", json!([ready("a"), ready("b"), unready("b")]), "a b"),
        ("Local", json!([ready("a"), unready("b"), unready("b")]), "a"),
        ("Local", json!([unready("a"), unready("b")]), "noEndpoints"),
    ] {
        let mut stage = Stage::new();
        stage.set(service("web", json!({"externalTrafficPolicy": policy}), &["192.0.2.7"]));
        stage.set(slice("web", endpoints.clone()));
        assert_eq!(stage.l2("192.0.2.7"), expected, "{policy} {endpoints}");
    }
}

#[test]
fn a_slice_that_moves_to_another_service_is_missed_by_the_first() {
    let mut stage = Stage::new();
    stage.set(service("other", json!({}), &["192.0.2.8"]));
    assert_eq!(stage.l2("192.0.2.8"), "noEndpoints");
    let moved = slice("other", on(&["a"]));
    let Object::EndpointSlice(moved) = moved else { unreachable!() };
    let mut moved = (*moved).clone();
    moved.metadata.name = "web-1".into();
    stage.set(Object::EndpointSlice(Arc::new(moved)));
    assert_eq!((stage.l2("192.0.2.7").as_str(), stage.l2("192.0.2.8").as_str()), ("noEndpoints", "a b c"));
    stage.change(&Change::Removed(ObjectKey::new(Kind::EndpointSlice, "shop", "web-1")));
    assert_eq!(stage.l2("192.0.2.8"), "noEndpoints");
}

#[test]
fn nodes_without_a_network_or_with_the_label_announce_nothing() {
    let mut stage = Stage::new();
    let condition = |status: &str| json!({"metadata": {"name": "a"}, "status": {"conditions": [{"type": "NetworkUnavailable", "status": status}]}});
    stage.set(Object::Node(read::<Node>(condition("True"))));
    stage.set(node("b", json!({EXCLUDE_BALANCERS_LABEL: "false"})));
    assert_eq!(stage.l2("192.0.2.7"), "c");
    let silent = stage.announcer.announcements().silent_nodes;
    assert_eq!(silent["a"], Silence::NodeNetworkUnavailable);
    assert_eq!(silent["b"], Silence::NodeLabeledExcludeBalancers);
    assert!(stage.set(Object::Node(read::<Node>(condition("False")))));
    assert_eq!(stage.l2("192.0.2.7"), "a c");
    let mut stage = Stage::with(AnnounceOptions { ignore_exclude_label: true, ..AnnounceOptions::default() });
    stage.set(pool("p", &["192.0.2.0/24"]));
    stage.set(l2("everything", json!({})));
    stage.set(node("b", json!({EXCLUDE_BALANCERS_LABEL: "true"})));
    assert_eq!(stage.l2("192.0.2.7"), "a b c");
}

#[test]
fn a_shared_address_is_not_announced_by_labels_of_services() {
    let mut stage = Stage::new();
    let by_label = json!({"serviceSelectors": [{"matchLabels": {"app": "web"}}]});
    stage.set(l2("everything", by_label.clone()));
    stage.set(bgp("routes", by_label));
    assert_eq!((stage.l2("192.0.2.7").as_str(), stage.vip("192.0.2.7").bgp.len()), ("a b c", 1));
    stage.set(slice("other", on(&["a"])));
    stage.set(service("other", json!({}), &["192.0.2.7"]));
    assert_eq!((stage.l2("192.0.2.7").as_str(), stage.vip("192.0.2.7").bgp.len()), ("noMatchingAdvertisement", 0));
    let web = |stage: &Stage| {
        stage.announcer.announcements().vips.iter().find(|vip| &*vip.origin.key.id.name == "web").unwrap().clone()
    };
    assert_eq!(web(&stage).l2, Err(Silence::SharedIpWithServiceSelector));
    stage.change(&Change::Removed(ObjectKey::new(Kind::Service, "shop", "other")));
    assert_eq!(stage.l2("192.0.2.7"), "a b c");
    // Also where no pool had the address while it was shared.
    stage.change(&Change::Removed(ObjectKey::new(Kind::IpAddressPool, "metallb-system", "p")));
    stage.set(service("other", json!({}), &["192.0.2.7"]));
    stage.set(service("other", json!({}), &["192.0.2.8"]));
    stage.set(pool("p", &["192.0.2.0/24"]));
    assert_eq!(stage.l2("192.0.2.7"), "a b c");
}

#[test]
fn without_any_node_known_this_one_is_there() {
    let mut stage = Stage::new();
    for name in ["a", "b", "c"] {
        stage.change(&Change::Removed(ObjectKey::new(Kind::Node, "", name)));
    }
    assert_eq!(stage.l2("192.0.2.7"), "a");
}

#[test]
fn routes_are_the_networks_that_advertisements_make_of_addresses() {
    let mut stage = Stage::new();
    stage.set(bgp("hosts", json!({"localPref": 200, "communities": ["64512:7", "no-such-name"], "peers": ["tor"]})));
    stage.set(bgp(
        "nets",
        json!({"aggregationLength": 24, "aggregationLengthV6": 64, "nodeSelectors": [{"matchLabels": {"zone": "a"}}]}),
    ));
    let told = |address: &str, node: &str| -> Vec<String> {
        let announcements = stage.announcer.announcements();
        let vip = stage.vip(address);
        announcements.bgp_of(&vip, node).unwrap().iter().map(|offer| offer.prefix.to_string()).collect()
    };
    assert_eq!(told("192.0.2.7", "a"), ["192.0.2.7/32", "192.0.2.0/24"]);
    assert_eq!(told("2001:db8::7", "a"), ["2001:db8::7/128", "2001:db8::/64"]);
    assert_eq!(told("192.0.2.7", "b"), ["192.0.2.7/32"]);
    let vip = stage.vip("192.0.2.7");
    let offer = &vip.bgp[0];
    assert_eq!(
        (offer.local_preference, &offer.peers[..], offer.communities.len()),
        (Some(200), &["tor".to_owned()][..], 2)
    );
}

#[test]
fn why_a_node_sends_no_route_is_told() {
    let mut stage = Stage::new();
    let why =
        |stage: &Stage, node: &str| stage.announcer.announcements().bgp_of(&stage.vip("192.0.2.7"), node).unwrap_err();
    assert_eq!(why(&stage, "a"), Silence::NoMatchingAdvertisement);
    stage.set(bgp("hosts", json!({})));
    stage.set(service("web", json!({"externalTrafficPolicy": "Local"}), &["192.0.2.7"]));
    assert_eq!(why(&stage, "c"), Silence::NoLocalEndpoints);
    stage.set(slice("web", json!([])));
    assert_eq!(why(&stage, "a"), Silence::NoEndpoints);
    stage.set(node("a", json!({EXCLUDE_BALANCERS_LABEL: ""})));
    assert_eq!(why(&stage, "a"), Silence::NodeLabeledExcludeBalancers);
    let unavailable = json!({"conditions": [{"type": "NetworkUnavailable", "status": "True"}]});
    stage.set(Object::Node(read::<Node>(json!({"metadata": {"name": "a"}, "status": unavailable}))));
    assert_eq!(why(&stage, "a"), Silence::NodeNetworkUnavailable);
}

#[test]
fn who_shares_an_address_has_the_same_announcer_for_it() {
    let mut stage = Stage::new();
    let firsts = |stage: &Stage| -> Vec<String> {
        let all = stage.announcer.announcements().vips;
        all.iter().map(|vip| format!("{} {} {}", vip.origin.key.id.name, vip.address, vip.first)).collect()
    };
    stage.set(slice("alone", on(&["a"])));
    // Of the other Service the shared address is the only one: by itself it would be elected by that.
    stage.set(service("alone", json!({}), &["2001:db8::7"]));
    let shared = ["alone 2001:db8::7 2001:db8::7", "web 192.0.2.7 192.0.2.7", "web 2001:db8::7 2001:db8::7"];
    assert_eq!(firsts(&stage), shared);
    // The one that comes first by name leads, with whatever its own first address is.
    stage.set(service("alone", json!({}), &["192.0.2.9", "2001:db8::7"]));
    let led = [
        "alone 192.0.2.9 192.0.2.9",
        "alone 2001:db8::7 192.0.2.9",
        "web 192.0.2.7 192.0.2.7",
        "web 2001:db8::7 192.0.2.9",
    ];
    assert_eq!(firsts(&stage), led);
    stage.change(&Change::Removed(ObjectKey::new(Kind::Service, "shop", "alone")));
    assert_eq!(firsts(&stage), ["web 192.0.2.7 192.0.2.7", "web 2001:db8::7 192.0.2.7"]);
}

#[test]
fn networks_of_pods_are_those_of_this_node() {
    let mut stage = Stage::new();
    let with = |name: &str, spec: Value| Object::Node(read(json!({"metadata": {"name": name}, "spec": spec})));
    assert!(!stage.set(with("b", json!({"podCIDRs": ["10.244.2.0/24"]}))));
    assert!(stage.set(with(
        "a",
        json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64", "nonsense"]})
    )));
    let networks: Vec<String> = stage.announcer.announcements().pod_networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.244.1.0/24", "fd00:10:244:1::/64"]);
}

#[test]
fn a_change_that_concerns_no_address_is_none() {
    let mut stage = Stage::new();
    assert!(!stage.set(node("a", json!({"zone": "a", "other": "label"}))));
    assert!(!stage.set(slice("nobody", on(&["a"]))));
    assert!(!stage.set(Object::Alb2(read::<Alb2>(json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {}})))));
    assert!(stage.set(slice("web", on(&["c"]))));
}

#[test]
fn the_overview_names_announcers_or_says_why_there_is_none() {
    let mut stage = Stage::new();
    stage.set(service("web", json!({}), &["192.0.2.1", "2001:db8::1"]));
    stage.set(slice("web", on(&["a"])));
    stage.set(service("local", json!({"externalTrafficPolicy": "Local"}), &["192.0.2.2"]));
    stage.set(service("strange", json!({}), &["198.51.100.1"]));
    stage.set(service("waiting", json!({}), &[]));
    stage.set(service("refused", json!({}), &[]));
    stage.set(service("other", json!({"loadBalancerClass": "x/y"}), &["192.0.2.9"]));
    stage.set(service("plain", json!({"type": "ClusterIP"}), &[]));
    let said = |name: &str, status: Value| json!({"metadata": {"name": name, "namespace": "metallb-system", "creationTimestamp": "2026-01-31T12:00:00Z"}, "status": status});
    let status =
        json!({"node": "b", "serviceName": "web", "serviceNamespace": "shop", "interfaces": [{"name": "eth0"}]});
    stage.set(Object::ServiceL2Status(read(said("l2-1", status))));
    let status = json!({"node": "a", "serviceName": "web", "serviceNamespace": "shop", "peers": ["left", "right"]});
    stage.set(Object::ServiceBgpStatus(read(said("bgp-1", status))));
    let no = vec!["no available IPs".to_owned()];
    let unallocated = BTreeMap::from([(NamespacedName::new("shop", "refused"), no)]);
    let shown: Vec<String> = overview(&stage.cluster, None, &unallocated)
        .into_iter()
        .map(|row| {
            let address = row.address.map_or("-".to_owned(), |address| address.to_string());
            let by = row.announcers.iter().map(|by| {
                let more = by.interfaces.iter().chain(&by.peers).cloned().collect::<Vec<_>>().join("+");
                format!("{} {} {more} {}", by.node, by.protocol, by.since.as_deref().unwrap_or_default())
            });
            let by = by.collect::<Vec<_>>().join(", ");
            let pool = row.pool.unwrap_or_default();
            format!("{address} {} {pool} [{by}] {}", row.service, row.why.join("; ")).trim_end().to_owned()
        })
        .collect();
    let by = "[b layer2 eth0 2026-01-31T12:00:00Z, a bgp left+right 2026-01-31T12:00:00Z]";
    assert_eq!(
        shown,
        [
            "192.0.2.2 shop/local p [] layer2: noEndpoints".to_owned(),
            "- shop/refused  [] no available IPs".to_owned(),
            "198.51.100.1 shop/strange  [] no IPAddressPool has this address".to_owned(),
            "- shop/waiting  [] nobody gave it an address: is headwater controller --addresses running?".to_owned(),
            format!("192.0.2.1 shop/web p {by}"),
            format!("2001:db8::1 shop/web p {by}"),
        ]
    );
    // Nobody says that he announces, and some may.
    let why = |stage: &Stage, name: &str| {
        let mut rows = overview(&stage.cluster, None, &unallocated).into_iter();
        rows.find(|row| row.service == format!("shop/{name}")).unwrap().why.join("; ")
    };
    stage.set(slice("local", on(&["c"])));
    assert!(why(&stage, "local").starts_with("layer2: no node says that it announces it, and c may: "));
    stage.set(bgp("b", json!({})));
    assert!(why(&stage, "local").contains("; bgp: noLocalEndpoints (a, b)"), "{}", why(&stage, "local"));
}
