//! What becomes of packets, by address, policy and where they come from.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use headwater_model::nat::{KeepClient, Transport};
use headwater_service_nat::{NodePortAddresses, Options, Place};
use serde_json::{Value, json};
use support::*;

const BOTH: &[&str] = &["10.0.0.1@node-1", "10.0.0.2@node-2"];
const ELSEWHERE: &[&str] = &["10.0.0.2@node-2"];
const NONE: &[&str] = &["10.0.0.2@node-2 notready"];

/// Cluster IP 172.16.0.1, load balancer 203.0.113.80, external address 198.51.100.80, NodePort 30080.
fn balanced(policies: &[(&str, &str)], more: Value) -> Value {
    let mut value = service(
        "web",
        json!({
            "spec": {
                "type": "LoadBalancer", "externalIPs": ["198.51.100.80"], "ports": [{"port": 80, "nodePort": 30080}]
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.80"}]}}
        }),
    );
    policies.iter().for_each(|(field, policy)| value["spec"][*field] = json!(policy));
    merge(&mut value, more);
    value
}

const CLUSTER_IP: &[&str] = &["172.16.0.1:80"];
const EXTERNAL: &[&str] = &["203.0.113.80:80", "198.51.100.80:80", "192.0.2.1:30080"];

struct Row {
    policies: &'static [(&'static str, &'static str)],
    endpoints: &'static [&'static str],
    to: &'static [&'static str],
    /// From a client outside, a pod of this node, this node.
    becomes: [&'static str; 3],
}

const fn row(
    policies: &'static [(&'static str, &'static str)],
    endpoints: &'static [&'static str],
    to: &'static [&'static str],
    becomes: [&'static str; 3],
) -> Row {
    Row { policies, endpoints, to, becomes }
}

const EXTERNAL_LOCAL: &[(&str, &str)] = &[("externalTrafficPolicy", "Local")];
const INTERNAL_LOCAL: &[(&str, &str)] = &[("internalTrafficPolicy", "Local")];
const CLUSTER: &[(&str, &str)] = &[("externalTrafficPolicy", "Cluster"), ("internalTrafficPolicy", "Cluster")];

const ALL: &str = "10.0.0.1 10.0.0.2";
const ALL_MASQUERADED: &str = "masquerade 10.0.0.1 10.0.0.2";

/// As kube-proxy does.
const MATRIX: &[Row] = &[
    row(CLUSTER, BOTH, CLUSTER_IP, [ALL_MASQUERADED, ALL, ALL_MASQUERADED]),
    row(CLUSTER, BOTH, EXTERNAL, [ALL_MASQUERADED, ALL_MASQUERADED, ALL_MASQUERADED]),
    row(&[], BOTH, EXTERNAL, [ALL_MASQUERADED, ALL_MASQUERADED, ALL_MASQUERADED]),
    row(CLUSTER, ELSEWHERE, CLUSTER_IP, ["masquerade 10.0.0.2", "10.0.0.2", "masquerade 10.0.0.2"]),
    row(CLUSTER, NONE, CLUSTER_IP, ["reject"; 3]),
    row(CLUSTER, NONE, EXTERNAL, ["reject"; 3]),
    row(INTERNAL_LOCAL, BOTH, CLUSTER_IP, ["masquerade 10.0.0.1", "10.0.0.1", "masquerade 10.0.0.1"]),
    row(INTERNAL_LOCAL, BOTH, EXTERNAL, [ALL_MASQUERADED, ALL_MASQUERADED, ALL_MASQUERADED]),
    row(INTERNAL_LOCAL, ELSEWHERE, CLUSTER_IP, ["drop"; 3]),
    row(INTERNAL_LOCAL, NONE, CLUSTER_IP, ["reject"; 3]),
    row(EXTERNAL_LOCAL, BOTH, CLUSTER_IP, [ALL_MASQUERADED, ALL, ALL_MASQUERADED]),
    row(EXTERNAL_LOCAL, BOTH, EXTERNAL, ["10.0.0.1", ALL, ALL_MASQUERADED]),
    row(EXTERNAL_LOCAL, ELSEWHERE, EXTERNAL, ["drop", "10.0.0.2", "masquerade 10.0.0.2"]),
    row(EXTERNAL_LOCAL, NONE, EXTERNAL, ["reject"; 3]),
    row(
        EXTERNAL_LOCAL,
        &["10.0.0.1@node-1 draining", "10.0.0.2@node-2"],
        EXTERNAL,
        ["10.0.0.1", "10.0.0.2", "masquerade 10.0.0.2"],
    ),
];

#[test]
fn policies_decide_as_kube_proxy_does() {
    for Row { policies, endpoints, to, becomes } in MATRIX {
        let world = World::new(kube_proxy(), [balanced(policies, json!({})), slice("web", "web-1", endpoints)]);
        for address in *to {
            let got = [
                world.send(Place::Remote, "198.51.100.200", address),
                world.send(Place::Pod, "10.0.0.99", address),
                world.send(Place::Node, "192.0.2.1", address),
            ];
            assert_eq!(got, *becomes, "{policies:?} {endpoints:?} {address}");
        }
    }
}

#[test]
fn under_cluster_the_client_is_kept_unless_the_service_says_otherwise() {
    let cases = [
        (None, KeepClient::ViaIngress, "kept 10.0.0.1 10.0.0.2", ALL),
        (Some("preserve"), KeepClient::ViaIngress, "kept 10.0.0.1 10.0.0.2", ALL),
        (Some("preserve-direct"), KeepClient::Direct, "kept 10.0.0.1 10.0.0.2", ALL),
        (Some("masquerade"), KeepClient::Masquerade, ALL_MASQUERADED, ALL_MASQUERADED),
        (Some("nonsense"), KeepClient::ViaIngress, "kept 10.0.0.1 10.0.0.2", ALL),
    ];
    for (annotation, keep, remote, pod) in cases {
        let more = match annotation {
            Some(text) => json!({"metadata": {"annotations": {"headwater.dev/source-ip": text}}}),
            None => json!({}),
        };
        let world = World::new(options(), [balanced(&[], more), slice("web", "web-1", BOTH)]);
        let rules = world.port("web");
        assert_eq!(rules.keep, keep, "{annotation:?}");
        for address in EXTERNAL {
            assert_eq!(world.send(Place::Remote, "198.51.100.200", address), remote, "{annotation:?} {address}");
            assert_eq!(world.send(Place::Pod, "10.0.0.99", address), pod, "{annotation:?} {address}");
            assert_eq!(world.send(Place::Node, "192.0.2.1", address), ALL_MASQUERADED, "{annotation:?} {address}");
        }
        assert_eq!(rules.nodes.is_some(), keep != KeepClient::Masquerade, "{annotation:?}");
        assert_eq!(world.reasons().contains(&"InvalidValue"), annotation == Some("nonsense"));
    }
    let local = World::new(options(), [balanced(EXTERNAL_LOCAL, json!({})), slice("web", "web-1", BOTH)]);
    assert!(local.port("web").nodes.is_none(), "under Local no other node is chosen");
    let inside = World::new(options(), [service("web", json!({})), slice("web", "web-1", BOTH)]);
    assert!(inside.port("web").nodes.is_none(), "nobody comes from outside to a cluster IP");
}

#[test]
fn nodes_are_weighed_by_their_usable_endpoints() {
    let endpoints = ["10.0.0.1@node-2", "10.0.0.2@node-2", "10.0.0.3@node-1", "10.0.0.4@node-3 notready", "10.0.0.5@"];
    let world = World::new(options(), [balanced(&[], json!({})), slice("web", "web-1", &endpoints)]);
    let nodes = world.port("web").nodes.clone().unwrap();
    let weights: Vec<_> = nodes.nodes.iter().map(|share| (share.node.as_deref(), share.weight)).collect();
    assert_eq!(weights, [(None, 1), (Some("node-1"), 1), (Some("node-2"), 2)]);
}

#[test]
fn off_cluster_sources_of_a_cluster_ip_are_masqueraded_as_the_options_say() {
    let cases = [
        (Options { cluster_cidrs: Vec::new(), ..options() }, ALL, ALL),
        (options(), ALL, ALL_MASQUERADED),
        (Options { masquerade_all: true, ..options() }, ALL_MASQUERADED, ALL_MASQUERADED),
    ];
    for (options, pod, outside) in cases {
        let world = World::new(options, [service("web", json!({})), slice("web", "web-1", BOTH)]);
        assert_eq!(world.send(Place::Pod, "10.0.0.99", "172.16.0.1:80"), pod);
        assert_eq!(world.send(Place::Remote, "203.0.113.1", "172.16.0.1:80"), outside);
    }
}

#[test]
fn what_no_service_has_is_refused_only_where_services_are() {
    let objects = [balanced(&[], json!({})), slice("web", "web-1", BOTH)];
    let world = World::new(options(), objects);
    for (to, becomes) in [
        ("172.16.0.1:81", "reject port"),
        ("172.16.0.1:30080", "reject port"),
        ("172.16.0.2:80", "drop address"),
        ("[fd16::2]:80", "drop address"),
        ("203.0.113.80:81", "pass"),
        ("192.0.2.1:80", "pass"),
        ("127.0.0.1:30080", "pass"),
        ("198.51.100.1:30080", "pass"),
        ("[2001:db8::1]:30080", "pass"),
    ] {
        assert_eq!(world.send(Place::Node, "192.0.2.1", to), becomes, "{to}");
    }
    assert_eq!(world.send_by(Transport::Udp, Place::Pod, "10.0.0.9", "172.16.0.1:80"), "reject port");
}

#[test]
fn node_ports_are_at_the_addresses_that_are_asked_for() {
    let within = |ranges: &[&str]| NodePortAddresses::Within(ranges.iter().map(|text| text.parse().unwrap()).collect());
    let cases = [
        (NodePortAddresses::Primary, vec!["192.0.2.1", "2001:db8::1"]),
        (within(&["198.51.100.0/24"]), vec!["198.51.100.1"]),
        (within(&["0.0.0.0/0"]), vec!["192.0.2.1", "198.51.100.1"]),
        (within(&["127.0.0.0/8", "::/0"]), vec!["2001:db8::1"]),
    ];
    for (node_port_addresses, expected) in cases {
        let world = World::new(Options { node_port_addresses, ..options() }, []);
        let got: Vec<String> = world.last.snapshot.node.node_port_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(got, expected);
    }
}

#[test]
fn a_load_balancer_address_counts_as_its_mode_and_type_say() {
    let with = |ingress: Value| balanced(&[], json!({"status": {"loadBalancer": {"ingress": [ingress]}}}));
    let mut of_node_port = with(json!({"ip": "203.0.113.80"}));
    of_node_port["spec"]["type"] = json!("NodePort");
    let cases = [
        (with(json!({"ip": "203.0.113.80", "ipMode": "VIP"})), true),
        (with(json!({"ip": "203.0.113.80"})), true),
        (with(json!({"ip": "203.0.113.80", "ipMode": "Proxy"})), false),
        (with(json!({"hostname": "lb.example.com"})), false),
        (of_node_port, false),
    ];
    for (service, counts) in cases {
        let world = World::new(options(), [service.clone(), slice("web", "web-1", BOTH)]);
        let got = world.send(Place::Remote, "198.51.100.200", "203.0.113.80:80");
        assert_eq!(got, if counts { "kept 10.0.0.1 10.0.0.2" } else { "pass" }, "{service}");
        assert_eq!(world.reasons(), [""; 0]);
    }
}

#[test]
fn source_ranges_hold_for_the_load_balancer_alone() {
    let ranges = |ranges: Value| {
        let more = json!({"spec": {"loadBalancerSourceRanges": ranges}});
        World::new(options(), [balanced(&[], more), slice("web", "web-1", BOTH)])
    };
    let world = ranges(json!(["203.0.113.0/28", " 10.0.0.0/8 "]));
    for (place, source, to, becomes) in [
        (Place::Remote, "203.0.113.7", "203.0.113.80:80", "kept 10.0.0.1 10.0.0.2"),
        (Place::Remote, "203.0.113.17", "203.0.113.80:80", "drop source"),
        (Place::Pod, "10.0.0.99", "203.0.113.80:80", ALL),
        (Place::Node, "192.0.2.1", "203.0.113.80:80", "drop source"),
        (Place::Node, "203.0.113.80", "203.0.113.80:80", "drop source"),
        (Place::Remote, "203.0.113.17", "198.51.100.80:80", "kept 10.0.0.1 10.0.0.2"),
        (Place::Remote, "203.0.113.17", "192.0.2.1:30080", "kept 10.0.0.1 10.0.0.2"),
        (Place::Pod, "11.0.0.1", "172.16.0.1:80", ALL_MASQUERADED),
    ] {
        assert_eq!(world.send(place, source, to), becomes, "{source} {to}");
    }
    let with_node = ranges(json!(["192.0.2.0/24"]));
    assert_eq!(with_node.send(Place::Node, "203.0.113.80", "203.0.113.80:80"), ALL_MASQUERADED);
    let nonsense = ranges(json!(["203.0.113.0/99"]));
    assert_eq!(nonsense.send(Place::Remote, "203.0.113.7", "203.0.113.80:80"), "drop source");
    assert_eq!(nonsense.reasons(), ["InvalidValue", "NoSourceRange"]);
    let other_family = ranges(json!(["2001:db8::/32"]));
    assert_eq!(other_family.send(Place::Remote, "203.0.113.7", "203.0.113.80:80"), "drop source");
    assert_eq!(other_family.reasons(), ["NoSourceRange"]);
}

#[test]
fn affinity_has_the_timeout_that_is_written_or_three_hours() {
    let of = |affinity: Value| {
        let world = World::new(options(), [service("web", json!({"spec": affinity}))]);
        (world.port("web").affinity, world.reasons())
    };
    let timeout = |seconds: i32| json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}});
    assert_eq!(of(json!({})), (None, vec![]));
    assert_eq!(of(json!({"sessionAffinity": "None"})), (None, vec![]));
    assert_eq!(of(json!({"sessionAffinity": "ClientIP"})), (Some(10_800), vec![]));
    assert_eq!(of(timeout(60)), (Some(60), vec![]));
    assert_eq!(of(timeout(86_401)), (Some(86_400), vec!["InvalidValue"]));
    assert_eq!(of(timeout(-1)), (Some(1), vec!["InvalidValue"]));
    assert_eq!(of(json!({"sessionAffinity": "Cookie"})), (None, vec!["InvalidValue"]));
}

#[test]
fn health_checks_count_ready_addresses_here_under_local_only() {
    let endpoints = ["10.0.0.1@node-1", "10.0.0.2@node-1 draining", "10.0.0.3@node-2", "10.0.0.4@node-1"];
    let of = |policies: &[(&str, &str)], more: Value| {
        let mut service = balanced(policies, json!({"spec": {"healthCheckNodePort": 32000}}));
        merge(&mut service, more);
        let again = slice("web", "web-2", &["10.0.0.1@node-1"]);
        let world = World::new(options(), [service, slice("web", "web-1", &endpoints), again]);
        world.service("web").unwrap().health.map(|health| (health.port, health.local_v4, health.local_v6))
    };
    assert_eq!(of(EXTERNAL_LOCAL, json!({})), Some((32000, 2, 0)));
    assert_eq!(of(CLUSTER, json!({})), None);
    assert_eq!(of(EXTERNAL_LOCAL, json!({"spec": {"type": "NodePort"}})), None);
    assert_eq!(of(EXTERNAL_LOCAL, json!({"spec": {"healthCheckNodePort": 0}})), None);
}
