//! Which endpoints are in the Cluster set and in the Local set.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use headwater_service_nat::{Options, Place, ServingEndpoints};
use serde_json::json;
use support::*;

/// Endpoints, Cluster set, Local set; seen from `node-1` in zone `a`.
const CASES: &[(&str, &[&str], &str, &str)] = &[
    ("nothing at all", &[], "", ""),
    ("ready ones count everywhere", &["10.0.0.1@node-1", "10.0.0.2@node-2"], "10.0.0.1 10.0.0.2", "10.0.0.1"),
    ("silent conditions are ready, said ones too", &["10.0.0.1@node-1 ready"], "10.0.0.1", "10.0.0.1"),
    ("an endpoint without a node is not local", &["10.0.0.1@"], "10.0.0.1", ""),
    ("those not ready do not count", &["10.0.0.1@node-1 notready", "10.0.0.2@node-2"], "10.0.0.2", ""),
    (
        "draining ones do not count beside a ready one",
        &["10.0.0.1@node-1", "10.0.0.2@node-2 draining"],
        "10.0.0.1",
        "10.0.0.1",
    ),
    (
        "only draining ones: they are used",
        &["10.0.0.1@node-1 draining", "10.0.0.2@node-2 draining", "10.0.0.3@node-2 gone"],
        "10.0.0.1 10.0.0.2",
        "10.0.0.1",
    ),
    ("both sets fall back for themselves", &["10.0.0.1@node-1 draining", "10.0.0.2@node-2"], "10.0.0.2", "10.0.0.1"),
    (
        "terminating ones that do not serve are never used",
        &["10.0.0.1@node-1 gone", "10.0.0.2@node-2 notready"],
        "",
        "",
    ),
    (
        "zone hints, whole: those for this zone",
        &["10.0.0.1@node-1 zone=a", "10.0.0.2@node-2 zone=b", "10.0.0.3@node-3 zone=a"],
        "10.0.0.1 10.0.0.3",
        "10.0.0.1",
    ),
    (
        "zone hints never touch the Local set",
        &["10.0.0.1@node-1 zone=b", "10.0.0.2@node-2 zone=a"],
        "10.0.0.2",
        "10.0.0.1",
    ),
    (
        "one ready endpoint without a hint: none counts",
        &["10.0.0.1@node-1 zone=b", "10.0.0.2@node-2"],
        "10.0.0.1 10.0.0.2",
        "10.0.0.1",
    ),
    (
        "a hint is missing only where nobody is ready",
        &["10.0.0.1@node-2 zone=a", "10.0.0.2@node-2 zone=b", "10.0.0.3@node-2 notready"],
        "10.0.0.1",
        "",
    ),
    (
        "no hint for this zone: none counts",
        &["10.0.0.1@node-2 zone=b", "10.0.0.2@node-2 zone=c"],
        "10.0.0.1 10.0.0.2",
        "",
    ),
    (
        "this zone's only endpoint is not ready: none counts",
        &["10.0.0.1@node-2 zone=a notready", "10.0.0.2@node-2 zone=b"],
        "10.0.0.2",
        "",
    ),
    (
        "node hints before zone hints",
        &["10.0.0.1@node-1 zone=a node=node-1", "10.0.0.2@node-2 zone=a node=node-2"],
        "10.0.0.1",
        "10.0.0.1",
    ),
    (
        "no node hint for this node: zone hints",
        &["10.0.0.1@node-2 zone=a node=node-2", "10.0.0.2@node-3 zone=b node=node-3"],
        "10.0.0.1",
        "",
    ),
    (
        "one node hint is missing: zone hints",
        &["10.0.0.1@node-1 zone=a node=node-1", "10.0.0.2@node-2 zone=a", "10.0.0.3@node-3 zone=b node=node-3"],
        "10.0.0.1 10.0.0.2",
        "10.0.0.1",
    ),
    (
        "draining ones are used whatever their hints",
        &["10.0.0.1@node-2 draining zone=a", "10.0.0.2@node-2 draining zone=b"],
        "10.0.0.1 10.0.0.2",
        "",
    ),
];

#[test]
fn the_sets_are_those_of_kube_proxy() {
    for (what, endpoints, cluster, local) in CASES {
        let world = World::new(options(), [service("web", json!({})), slice("web", "web-1", endpoints)]);
        let rules = world.port("web");
        assert_eq!(addresses(rules, &rules.cluster), *cluster, "{what}: Cluster");
        assert_eq!(addresses(rules, &rules.local), *local, "{what}: Local");
        assert_eq!(world.reasons(), [""; 0], "{what}");
    }
}

#[test]
fn a_node_without_a_zone_ignores_hints_of_zones() {
    let mut nowhere = options();
    nowhere.node.zone = None;
    let objects =
        [service("web", json!({})), slice("web", "web-1", &["10.0.0.1@node-1 zone=a", "10.0.0.2@node-2 zone=b"])];
    let world = World::new(nowhere, objects);
    let rules = world.port("web");
    assert_eq!(addresses(rules, &rules.cluster), "10.0.0.1 10.0.0.2");
}

#[test]
fn an_endpoint_in_two_slices_counts_once_and_as_the_better_one() {
    for names in [["web-1", "web-2"], ["web-2", "web-1"]] {
        let objects = [
            service("web", json!({})),
            slice("web", names[0], &["10.0.0.1@node-1 notready"]),
            slice("web", names[1], &["10.0.0.1@node-1", "10.0.0.2@node-2"]),
        ];
        let world = World::new(options(), objects);
        let rules = world.port("web");
        assert_eq!(addresses(rules, &rules.cluster), "10.0.0.1 10.0.0.2");
        assert_eq!(rules.endpoints.len(), 2);
    }
}

#[test]
fn ports_find_their_numbers_by_name_and_protocol() {
    let ports = json!([
        {"name": "web", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns", "port": 53, "protocol": "TCP"}, {"name": "gone", "port": 9}
    ]);
    let mut of_slice = slice("web", "web-1", &["10.0.0.1@node-1"]);
    of_slice["ports"] = json!([
        {"name": "dns", "port": 5300, "protocol": "UDP"}, {"name": "web", "port": 8080},
        {"name": "dns", "port": 5301}, {"name": "gone"}, {"name": "gone", "port": 9, "protocol": "X"}
    ]);
    let world = World::new(options(), [service("web", json!({"spec": {"ports": ports}})), of_slice]);
    let numbers: Vec<Option<u16>> = world
        .service("web")
        .unwrap()
        .ports
        .iter()
        .map(|rules| rules.endpoints.first().map(|endpoint| endpoint.address.port()))
        .collect();
    assert_eq!(numbers, [Some(8080), Some(5300), Some(5301), None]);
}

#[test]
fn families_are_independent() {
    let both = json!({"spec": {"clusterIPs": ["172.16.0.1", "fd16::1"]}});
    let objects = [
        service("web", both),
        slice("web", "web-4", &["10.0.0.1@node-1"]),
        slice("web", "web-6", &["fd10::1@node-1 draining", "fd10::2@node-2 draining"]),
    ];
    let world = World::new(Options { cluster_cidrs: Vec::new(), ..options() }, objects);
    assert_eq!(world.send(Place::Pod, "10.0.0.9", "172.16.0.1:80"), "10.0.0.1");
    assert_eq!(world.send(Place::Pod, "fd10::9", "[fd16::1]:80"), "fd10::1 fd10::2");
}

#[test]
fn only_udp_flows_to_endpoints_that_no_longer_serve_are_stale_and_only_while_another_serves() {
    let cases: [(&str, &[&str], &str, bool); 7] = [
        ("UDP", &["10.0.0.1@node-1"], "10.0.0.1:8080", false),
        ("UDP", &["10.0.0.1@node-1"], "10.0.0.2:8080", true),
        ("UDP", &["10.0.0.1@node-1"], "10.0.0.1:8081", true),
        ("UDP", &["10.0.0.1@node-1", "10.0.0.2@node-1 draining"], "10.0.0.2:8080", false),
        ("UDP", &["10.0.0.1@node-1", "10.0.0.2@node-1 gone"], "10.0.0.2:8080", true),
        ("UDP", &["10.0.0.2@node-1 gone"], "10.0.0.2:8080", false),
        ("TCP", &["10.0.0.1@node-1"], "10.0.0.2:8080", false),
    ];
    for (protocol, endpoints, from, stale) in cases {
        let ports = json!([{"port": 53, "protocol": protocol}]);
        let mut of_slice = slice("dns", "dns-1", endpoints);
        of_slice["ports"][0]["protocol"] = json!(protocol);
        let world = World::new(options(), [service("dns", json!({"spec": {"ports": ports}})), of_slice]);
        let serving = ServingEndpoints::of(world.port("dns"));
        let found = serving.is_some_and(|serving| serving.is_stale(from.parse().unwrap()));
        assert_eq!(found, stale, "{protocol} {endpoints:?} {from}");
    }
}
