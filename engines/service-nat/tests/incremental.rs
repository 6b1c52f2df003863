//! Edits one by one end where deriving everything ends, and touch only what they are about.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_model::cluster::{Change, Cluster};
use headwater_model::nat::{Family, FrontendAddress, KeepClient, ServiceSnapshot, Slot, Transport, Verdict};
use headwater_model::origin::NamespacedName;
use headwater_service_nat::{Options, PortKey, ServiceNat};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::*;

/// Without the generation, which only a history has. Slots are in it: in these tests no suggestions collide.
fn comparable(snapshot: &ServiceSnapshot) -> Value {
    let mut value = serde_json::to_value(snapshot).unwrap();
    value.as_object_mut().unwrap().remove("generation");
    value
}

fn pick<const N: usize>(values: [&'static str; N]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(values.to_vec())
}

fn a_service() -> impl Strategy<Value = Value> {
    let port = (pick(["a", "b"]), prop_oneof![Just(80_u16), Just(81)], pick(["TCP", "UDP"]), 30_000_u16..30_003);
    let port = port.prop_map(|(name, port, protocol, node_port)| {
        json!({"name": name, "port": port, "protocol": protocol, "nodePort": node_port})
    });
    let ips = proptest::sample::subsequence(vec!["172.16.0.1", "172.16.0.2", "fd16::1", "fd16::2"], 0..3);
    let outside = || {
        let all = vec!["203.0.113.1", "203.0.113.2", "2001:db8::9", "172.16.0.1", "127.0.0.1"];
        proptest::sample::subsequence(all, 0..3)
    };
    (
        pick(["one", "two", "three"]),
        pick(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
        (pick(["Cluster", "Local"]), pick(["Cluster", "Local"]), pick(["None", "ClientIP"])),
        (ips, outside(), outside()),
        proptest::collection::vec(port, 0..4),
        proptest::option::of(2020..2023_u32),
        proptest::sample::subsequence(vec!["10.0.0.0/8", "203.0.113.0/24", "bad"], 0..2),
        proptest::option::of(prop_oneof![Just(30_000_u16), Just(30_009)]),
    )
        .prop_map(|(name, kind, policies, (ips, external, balanced), ports, year, ranges, health)| {
            let ingress: Vec<Value> = balanced.into_iter().map(|ip| json!({"ip": ip})).collect();
            let mut value = json!({
                "kind": "Service", "metadata": {"namespace": "n", "name": name},
                "spec": {
                    "type": kind, "clusterIPs": ips, "ports": ports, "externalIPs": external,
                    "externalTrafficPolicy": policies.0, "internalTrafficPolicy": policies.1,
                    "sessionAffinity": policies.2, "loadBalancerSourceRanges": ranges, "healthCheckNodePort": health,
                },
                "status": {"loadBalancer": {"ingress": ingress}}
            });
            if let Some(year) = year {
                value["metadata"]["creationTimestamp"] = json!(format!("{year}-01-01T00:00:00Z"));
            }
            value
        })
}

fn a_slice() -> impl Strategy<Value = Value> {
    let four = (
        pick(["10.0.0.1", "10.0.0.2", "10.0.0.3", "127.0.0.1"]),
        pick(["@node-1", "@node-2", "@"]),
        pick(["ready", "notready", "draining", "gone"]),
        pick(["", " zone=a", " zone=b", " node=node-1", " zone=a node=node-2"]),
    );
    let text = four.prop_map(|(ip, node, state, hint)| format!("{ip}{node} {state}{hint}"));
    let endpoints = proptest::collection::vec(text, 0..4);
    let port = pick(["a", "b", "c"]);
    (pick(["one", "two", "three"]), pick(["s1", "s2", "s3"]), endpoints, any::<bool>(), port).prop_map(
        |(service, name, endpoints, is_v6, port)| {
            let endpoints: Vec<String> = endpoints
                .into_iter()
                .map(|text| if is_v6 { text.replace("10.0.0.", "fd10::") } else { text })
                .collect();
            let texts: Vec<&str> = endpoints.iter().map(String::as_str).collect();
            let mut value = slice(service, name, &texts);
            value["addressType"] = json!(if is_v6 { "IPv6" } else { "IPv4" });
            value["ports"] = json!([{"name": port, "port": 8080}, {"name": port, "port": 5353, "protocol": "UDP"}]);
            value
        },
    )
}

/// An object that is set, or removed.
fn edits() -> impl Strategy<Value = Vec<(bool, Value)>> {
    let object = prop_oneof![a_service(), a_slice()];
    proptest::collection::vec((proptest::bool::weighted(0.8), object), 1..25)
}

fn change((set, value): &(bool, Value)) -> Change {
    let object = object(value.clone());
    if *set { Change::Set(object) } else { Change::Removed(object.key()) }
}

/// What holds for every snapshot.
fn check(snapshot: &ServiceSnapshot) {
    let mut owned = BTreeSet::new();
    for (id, service) in snapshot.services() {
        for rules in service.ports.iter() {
            let slots: BTreeSet<Slot> = rules.endpoints.iter().map(|endpoint| endpoint.slot).collect();
            assert_eq!(slots.len(), rules.endpoints.len(), "{id}: slots are distinct");
            assert!(rules.cluster.iter().chain(rules.local.iter()).all(|slot| slots.contains(slot)), "{id}");
            for frontend in rules.frontends.iter() {
                let family = match frontend.address {
                    FrontendAddress::NodePort(_) => rules.family,
                    FrontendAddress::ClusterIp(at)
                    | FrontendAddress::LoadBalancer(at)
                    | FrontendAddress::ExternalIp(at) => Family::of(at.ip()),
                };
                assert_eq!(family, rules.family, "{id}");
                let place = match frontend.address {
                    FrontendAddress::NodePort(port) => (None, port),
                    FrontendAddress::ClusterIp(at)
                    | FrontendAddress::LoadBalancer(at)
                    | FrontendAddress::ExternalIp(at) => (Some(at.ip()), at.port()),
                };
                assert!(owned.insert((place, rules.protocol, family)), "{id}: {:?} twice", frontend.address);
                for verdict in [frontend.remote, frontend.pods, frontend.node] {
                    match verdict {
                        Verdict::Forward { set, .. } => assert!(!rules.set(set).is_empty(), "{id}"),
                        Verdict::Drop => assert!(!rules.cluster.is_empty() && rules.local.is_empty(), "{id}"),
                        Verdict::Reject => assert!(rules.cluster.is_empty() && rules.local.is_empty(), "{id}"),
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn edits_one_by_one_end_where_deriving_everything_ends(edits in edits(), batch in 1..5_usize) {
        let mut cluster = Cluster::default();
        let mut nat = ServiceNat::new(options());
        let mut last = nat.apply(&cluster, &[]);
        for edits in edits.chunks(batch) {
            let keys: Vec<_> = edits.iter().map(change).map(|change| { cluster.apply(&change); change.key() }).collect();
            let before = last;
            last = nat.apply(&cluster, &keys);
            check(&last.snapshot);
            // Exactly what is another pointer is told as changed.
            let ids: BTreeSet<_> = before.snapshot.services().chain(last.snapshot.services()).map(|(id, _)| id).collect();
            let differs = |id: &&NamespacedName| match (before.snapshot.get(id), last.snapshot.get(id)) {
                (Some(old), Some(new)) => { prop_assert_eq_ptr(old, new); !Arc::ptr_eq(old, new) }
                (old, new) => old.is_some() || new.is_some(),
            };
            let changed: Vec<_> = ids.into_iter().filter(differs).cloned().collect();
            prop_assert_eq!(&changed, &last.changed);
            if changed.is_empty() {
                prop_assert!(Arc::ptr_eq(&before.snapshot, &last.snapshot));
            }
        }
        let fresh = ServiceNat::new(options()).apply(&cluster, &[]);
        prop_assert_eq!(comparable(&last.snapshot), comparable(&fresh.snapshot));
        prop_assert_eq!(last.findings, fresh.findings);
    }

    #[test]
    fn the_order_of_changes_does_not_matter(edits in edits(), seed in any::<u64>()) {
        // Of several words about one object only the last counts.
        let last: BTreeMap<String, (bool, Value)> =
            edits.into_iter().map(|edit| (change(&edit).key().to_string(), edit)).collect();
        let mut shuffled: Vec<_> = last.values().cloned().collect();
        let count = shuffled.len();
        (0..count).for_each(|at| shuffled.swap(at, (seed >> (at % 50)) as usize % count));
        let derive = |edits: &mut dyn Iterator<Item = &(bool, Value)>| {
            let mut world = World::new(options(), []);
            edits.for_each(|edit| { world.change(change(edit)); });
            world.last
        };
        let (one, other) = (derive(&mut last.values()), derive(&mut shuffled.iter()));
        prop_assert_eq!(comparable(&one.snapshot), comparable(&other.snapshot));
        prop_assert_eq!(one.findings, other.findings);
    }
}

/// Equal rules are the same rules.
fn prop_assert_eq_ptr<T: PartialEq + std::fmt::Debug>(old: &Arc<T>, new: &Arc<T>) {
    assert!(Arc::ptr_eq(old, new) || old != new, "an equal copy: {old:?}");
}

fn two_services() -> World {
    World::new(
        options(),
        [
            service(
                "one",
                json!({"spec": {"clusterIPs": ["172.16.0.1", "fd16::1"], "ports": [
                {"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81}], "type": "NodePort"}}),
            ),
            service("two", json!({"spec": {"clusterIP": "172.16.0.2"}})),
            slice("two", "two-1", &["10.0.1.1@node-1"]),
        ],
    )
}

#[test]
fn a_change_to_one_slice_leaves_every_other_part_the_same_pointer() {
    let mut world = two_services();
    let named = |endpoints: &[&str]| {
        let mut value = slice("one", "one-1", endpoints);
        value["ports"] = json!([{"name": "a", "port": 8080}]);
        value
    };
    world.set(named(&["10.0.0.1@node-1", "10.0.0.2@node-2"]));
    let before = world.last.snapshot.clone();
    let ports = world.service("one").unwrap().ports.clone();
    let table = ports[0].nodes.clone().unwrap();
    world.set(named(&["10.0.0.1@node-1", "10.0.0.3@node-2"]));
    assert_eq!(world.last.changed, [NamespacedName::new("n", "one")]);
    let after = &world.service("one").unwrap().ports;
    let same: Vec<bool> = ports.iter().zip(after.iter()).map(|(old, new)| Arc::ptr_eq(old, new)).collect();
    assert_eq!(same, [false, true, true, true], "port a in IPv4 is another, b and IPv6 are not");
    assert!(Arc::ptr_eq(&table, after[0].nodes.as_ref().unwrap()), "the weights of nodes are as before");
    let two = NamespacedName::new("n", "two");
    assert!(Arc::ptr_eq(before.get(&two).unwrap(), world.last.snapshot.get(&two).unwrap()));

    let before = world.last.snapshot.clone();
    world.set(named(&["10.0.0.3@node-2", "10.0.0.1@node-1"]));
    assert!(Arc::ptr_eq(&before, &world.last.snapshot), "another order is no change");
    world.set(slice("nobody", "x", &["10.0.0.1@node-1"]));
    assert!(Arc::ptr_eq(&before, &world.last.snapshot), "nor is a slice of no Service");
}

#[test]
fn endpoints_keep_their_slots_while_they_live_and_after_a_restart() {
    let mut world = World::new(options(), [service("web", json!({}))]);
    let texts: Vec<String> = (1..=200).map(|at| format!("10.0.0.{at}@node-1")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let slots = |world: &World| -> BTreeMap<_, _> {
        world.port("web").endpoints.iter().map(|endpoint| (endpoint.address, endpoint.slot)).collect()
    };
    world.set(slice("web", "s", &texts[..100]));
    let first = slots(&world);
    world.set(slice("web", "s", &texts));
    let grown = slots(&world);
    assert!(first.iter().all(|(address, slot)| grown[address] == *slot));
    world.set(slice("web", "s", &texts[50..]));
    let shrunk = slots(&world);
    assert_eq!(shrunk.len(), 150);
    assert!(shrunk.iter().all(|(address, slot)| grown[address] == *slot));

    let mut nat = ServiceNat::new(options());
    let turned: Vec<_> = shrunk.keys().copied().zip((1..).map(Slot)).collect();
    let key = PortKey { port: 80, protocol: Transport::Tcp, family: Family::V4 };
    nat.adopt(NamespacedName::new("n", "web"), key, turned.clone());
    let update = nat.apply(&world.cluster, &[]);
    let web = update.snapshot.get(&NamespacedName::new("n", "web")).unwrap();
    let adopted: BTreeMap<_, _> = web.ports[0].endpoints.iter().map(|e| (e.address, e.slot)).collect();
    assert_eq!(adopted, turned.into_iter().collect());
}

#[test]
fn another_zone_or_default_changes_what_depends_on_it() {
    let mut world = World::new(
        options(),
        [
            service("one", json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}})),
            slice("one", "one-1", &["10.0.0.1@node-1 zone=a", "10.0.0.2@node-2 zone=b"]),
            service("two", json!({"spec": {"clusterIP": "172.16.0.2"}})),
            slice("two", "two-1", &["10.0.1.1@node-1"]),
        ],
    );
    let two = world.service("two").unwrap().clone();
    let mut moved = options();
    moved.node.zone = Some("b".into());
    world.nat.set_options(moved.clone());
    world.last = world.nat.apply(&world.cluster, &[]);
    assert_eq!(addresses(world.port("one"), &world.port("one").cluster), "10.0.0.2");
    assert_eq!(world.last.changed, [NamespacedName::new("n", "one")]);
    world.nat.set_options(Options { keep: KeepClient::Direct, ..moved });
    world.last = world.nat.apply(&world.cluster, &[]);
    assert_eq!(world.port("one").keep, KeepClient::Direct);
    assert_ne!(**world.service("two").unwrap(), *two);
}
