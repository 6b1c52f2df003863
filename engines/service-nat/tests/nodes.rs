//! What Nodes say of the own node and of the others.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::IpAddr;
use std::sync::Arc;

use headwater_model::cluster::{Change, Cluster, Object};
use headwater_model::finding::Finding;
use headwater_model::nat::NodeRules;
use headwater_model::tunnel::{MacAddress, Peer, Peers, TUNNEL_ANNOTATION, TunnelEnd};
use headwater_service_nat::{MAX_PEERS, Options, ServiceNat, facts, is_eligible, peers};
use serde_json::{Value, json};

fn cluster(nodes: impl IntoIterator<Item = Value>) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.apply(&Change::Set(Object::Node(Arc::new(serde_json::from_value(node).unwrap()))));
    }
    cluster
}

/// `at`: second of its creation; `tunnel`: the annotation.
fn node(name: &str, at: u32, tunnel: Option<&str>) -> Value {
    let mut node = json!({ "metadata": { "name": name, "creationTimestamp": format!("2026-01-01T00:00:{at:02}Z") } });
    if let Some(tunnel) = tunnel {
        node["metadata"]["annotations"] = json!({ TUNNEL_ANNOTATION: tunnel });
    }
    node
}

fn end(name: &str, address: &str) -> String {
    TunnelEnd::of_node(name, address.parse().unwrap(), 8474).annotation()
}

fn problem<'a>(peers: &'a Peers, name: &str) -> Option<&'a str> {
    let peer: &Peer = &peers.by_name[name];
    assert!(peer.tunnel.is_none() || peer.problem.is_none(), "{peer:?}");
    peer.problem.as_deref()
}

fn said(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(Finding::to_string).collect()
}

#[test]
fn facts_are_the_zone_the_internal_addresses_and_the_pods_of_the_node() {
    let mut own = node("a", 1, None);
    own["metadata"]["labels"] = json!({ "topology.kubernetes.io/zone": "z1" });
    own["spec"] = json!({ "podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd10::/64"] });
    own["status"] = json!({ "addresses": [
        { "type": "Hostname", "address": "a" },
        { "type": "ExternalIP", "address": "203.0.113.1" },
        { "type": "InternalIP", "address": "192.0.2.1" },
        { "type": "InternalIP", "address": "2001:db8::1" },
    ] });
    let interfaces: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap()];
    let facts_of_a = facts(&cluster([own]), "a", interfaces.clone()).unwrap();
    assert_eq!((&*facts_of_a.name, facts_of_a.zone.as_deref()), ("a", Some("z1")));
    assert_eq!(facts_of_a.primary, ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    assert_eq!(facts_of_a.addresses, interfaces);
    assert_eq!(facts_of_a.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.0/24", "fd10::/64"]);
    assert_eq!(facts(&cluster([]), "a", Vec::new()), None);
}

#[test]
fn a_node_that_says_nothing_has_no_zone_and_no_range() {
    let mut own = node("a", 1, None);
    own["metadata"]["labels"] = json!({ "topology.kubernetes.io/zone": "" });
    own["spec"] = json!({ "podCIDR": "none" });
    own["status"] = json!({ "addresses": [{ "type": "InternalIP", "address": "a.example.com" }] });
    let facts = facts(&cluster([own]), "a", Vec::new()).unwrap();
    assert_eq!((facts.zone, facts.primary, facts.pod_cidrs), (None, Vec::new(), Vec::new()));
}

#[test]
fn a_node_that_is_about_to_go_is_not_eligible() {
    for (change, eligible) in [
        (json!({}), true),
        (json!({ "metadata": { "name": "a", "deletionTimestamp": null } }), true),
        (json!({ "metadata": { "name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z" } }), false),
        (
            json!({ "spec": { "taints": [{ "key": "DeletionCandidateOfClusterAutoscaler", "effect": "NoSchedule" }] } }),
            true,
        ),
        (
            json!({ "spec": { "unschedulable": true, "taints": [
                { "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" },
                { "key": "ToBeDeletedByClusterAutoscaler", "value": "1767225600", "effect": "NoSchedule" },
            ] } }),
            false,
        ),
    ] {
        let mut own = node("a", 1, None);
        own.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        assert_eq!(is_eligible(&cluster([own]), "a"), eligible, "{change}");
    }
    assert!(!is_eligible(&cluster([node("b", 1, None)]), "a"), "nobody knows it");
}

#[test]
fn one_range_is_read_where_there_is_no_list() {
    let mut own = node("a", 1, None);
    own["spec"] = json!({ "podCIDR": "10.1.0.0/24" });
    let facts = facts(&cluster([own]), "a", Vec::new()).unwrap();
    assert_eq!(facts.pod_cidrs, ["10.1.0.0/24".parse().unwrap()]);
}

#[test]
fn a_local_pod_is_told_by_the_nodes_range_and_without_one_by_the_clusters() {
    let mut own = node("a", 1, None);
    own["spec"] = json!({ "podCIDRs": ["10.1.1.0/24"] });
    let node = facts(&cluster([own]), "a", Vec::new()).unwrap();
    let cluster_cidrs = vec!["10.0.0.0/8".parse().unwrap(), "fd10::/16".parse().unwrap()];
    let mut nat = ServiceNat::new(Options { node, cluster_cidrs, ..Options::default() });
    let snapshot = nat.apply(&Cluster::default(), &[]).snapshot;
    for (source, local) in [("10.1.1.7", true), ("10.1.2.7", false), ("fd10::7", true), ("2001:db8::7", false)] {
        assert_eq!(snapshot.node.is_local_pod(source.parse().unwrap()), local, "{source}");
    }
    assert!(!NodeRules::default().is_local_pod("10.1.1.7".parse().unwrap()));
}

#[test]
fn peers_are_the_other_nodes_with_their_ends() {
    let mut b = node("b", 2, Some(&end("b", "192.0.2.2")));
    b["status"] = json!({ "addresses": [{ "type": "InternalIP", "address": "192.0.2.2" }] });
    let (peers, findings) = peers(&cluster([node("a", 1, Some(&end("a", "192.0.2.1"))), b, node("c", 3, None)]), "a");
    assert_eq!(findings, []);
    assert_eq!(peers.own, Some(TunnelEnd::of_node("a", "192.0.2.1".parse().unwrap(), 8474)));
    assert_eq!(peers.by_name.keys().map(|name| &**name).collect::<Vec<_>>(), ["b", "c"]);
    let b = &peers.by_name["b"];
    assert_eq!(b.addresses, ["192.0.2.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(b.tunnel.unwrap().mac, MacAddress::of_node("b"));
    assert_eq!((peers.by_name["c"].tunnel, problem(&peers, "c")), (None, None));
}

#[test]
fn a_bad_annotation_names_its_node_and_leaves_the_others_alone() {
    let nodes = [
        node("a", 1, Some(&end("a", "192.0.2.1"))),
        node("b", 2, Some(&end("b", "127.0.0.1"))),
        node("c", 3, Some("{")),
        node("d", 4, Some(&end("d", "192.0.2.4"))),
    ];
    let (peers, findings) = peers(&cluster(nodes), "a");
    assert_eq!(problem(&peers, "b"), Some("address \"127.0.0.1\" is a loopback address"));
    assert!(problem(&peers, "c").unwrap().contains("not the JSON"), "{peers:?}");
    assert!(peers.by_name["d"].tunnel.is_some());
    let said = said(&findings);
    assert_eq!(said.len(), 2, "{said:?}");
    let begin = "Node b: metadata.annotations[headwater.dev/tunnel]: address \"127.0.0.1\" is a loopback address";
    assert!(said[0].starts_with(begin), "{said:?}");
}

#[test]
fn a_peer_of_another_port_or_family_has_no_tunnel() {
    let other_port = TunnelEnd::of_node("b", "192.0.2.2".parse().unwrap(), 4789).annotation();
    let b_and_c = [node("b", 2, Some(&other_port)), node("c", 3, Some(&end("c", "2001:db8::3")))];
    let own = node("a", 1, Some(&end("a", "192.0.2.1")));
    let (with, findings) = peers(&cluster([own].into_iter().chain(b_and_c.clone())), "a");
    assert_eq!(problem(&with, "b"), Some("port 4789 is not this node's port 8474"));
    assert!(problem(&with, "c").unwrap().contains("another family"), "{with:?}");
    assert_eq!(findings.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["TunnelMismatch"; 2]);
    // While the own end is not known there is nothing to compare with.
    let (without, findings) = peers(&cluster([node("a", 1, None)].into_iter().chain(b_and_c)), "a");
    assert_eq!(findings, []);
    assert!(without.by_name.values().all(|peer| peer.tunnel.is_some()));
}

#[test]
fn of_two_nodes_with_one_address_or_hardware_address_the_older_keeps_it() {
    let mac = |name: &str, address: &str| {
        let mac = MacAddress::of_node("b");
        (name.to_owned(), TunnelEnd { mac, ..TunnelEnd::of_node(name, address.parse().unwrap(), 8474) }.annotation())
    };
    let (c, same_mac) = mac("c", "192.0.2.3");
    let nodes = [
        node("a", 1, None),
        node("b", 9, Some(&end("b", "192.0.2.2"))),
        node(&c, 3, Some(&same_mac)),
        node("d", 2, Some(&end("d", "192.0.2.2"))),
        node("e", 2, Some(&end("e", "192.0.2.2"))),
    ];
    let (seen, findings) = peers(&cluster(nodes.clone()), "a");
    assert!(seen.by_name["d"].tunnel.is_some() && seen.by_name["c"].tunnel.is_some());
    assert_eq!(problem(&seen, "b"), Some("192.0.2.2 belongs to Node d, which is older"));
    assert_eq!(problem(&seen, "e"), Some("192.0.2.2 belongs to Node d, which is older"));
    assert_eq!(findings.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["Conflict"; 2]);
    // The loser sees the same of itself.
    assert_eq!(peers(&cluster(nodes), "b").0.own, None);
    let twins = [node("b", 9, Some(&end("b", "192.0.2.2"))), node(&c, 3, Some(&same_mac)), node("a", 1, None)];
    let (seen, _) = peers(&cluster(twins), "a");
    let expected = format!("{} belongs to Node c, which is older", MacAddress::of_node("b"));
    assert_eq!(problem(&seen, "b"), Some(&*expected));
}

#[test]
fn what_is_wrong_with_many_nodes_is_counted_and_the_youngest_of_too_many_are_left_out() {
    let many = (0..MAX_PEERS + 3).map(|nth| node(&format!("n{nth:05}"), 2, Some("x")));
    let (peers, findings) = peers(&cluster(many.chain([node("own", 59, None)])), "own");
    assert_eq!(peers.by_name.len(), MAX_PEERS);
    assert!(!peers.by_name.contains_key(&*format!("n{MAX_PEERS}")));
    let said = said(&findings);
    assert_eq!(said.len(), 51);
    assert!(said[0].starts_with("3 more Nodes are not read"), "{}", said[0]);
    assert_eq!(said[50], format!("{} more things are wrong with Nodes", MAX_PEERS + 1 - 50));
}
