//! What nodes do with packets to Services: each case of the proxy's semantics, as the explanation tells it.
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use headwater_explain::{End, VerdictKind, World};
use headwater_model::nat::KeepClient;
use support::{ask, back, bridged, cluster, nodes, options, service, short, shorts, slice, world};

const CLIENT: &str = "198.51.100.7";
/// One endpoint on each node.
const SPREAD: [&str; 3] = ["10.244.1.2@node-1", "10.244.2.2@node-2", "10.244.3.2@node-3"];

#[test]
fn every_kind_of_target_goes_its_own_way() {
    let spread = slice("web", &SPREAD);
    let two = slice("web", &["10.244.2.2@node-2", "10.244.2.3@node-2"]);
    let one = slice("web", &["10.244.2.2@node-2"]);
    let none = slice("web", &[]);
    let cluster_policy = service("", "");
    let local = service("", "externalTrafficPolicy: Local");
    let masquerade = service("headwater.dev/source-ip: masquerade", "");
    let kept = "kept 10.244.1.2 sees 198.51.100.7 by node-1:translate";
    let tunnel = "kept 10.244.2.2 sees 198.51.100.7 by node-1:tunnel node-2:translate";
    let far = "lost@1 10.244.3.2 sees 192.0.2.11 by node-1:masquerade node-3:route";
    let all = [kept, tunnel, far];
    let pods = [
        "kept 10.244.1.2 sees 10.244.1.9 by node-1:translate",
        "kept 10.244.2.2 sees 10.244.1.9 by node-1:translate node-2:route",
        "kept 10.244.3.2 sees 10.244.1.9 by node-1:translate node-3:route",
    ];
    let own = [
        "kept 10.244.1.2 sees 192.0.2.11 by node-1:masquerade",
        "kept 10.244.2.2 sees 192.0.2.11 by node-1:masquerade node-2:route",
        "kept 10.244.3.2 sees 192.0.2.11 by node-1:masquerade node-3:route",
    ];
    let lost = [
        "lost@1 10.244.1.2 sees 192.0.2.11 by node-1:masquerade",
        "lost@1 10.244.2.2 sees 192.0.2.11 by node-1:masquerade node-2:route",
        "lost@1 10.244.3.2 sees 192.0.2.11 by node-1:masquerade node-3:route",
    ];
    let direct = "kept 10.244.2.2,10.244.2.3 sees 10.244.1.9 by node-1:translate node-2:route";
    for (name, objects, from, target, node, expected) in [
        // Cluster: kept where there is a way to keep it.
        ("load balancer", [&cluster_policy, &spread], CLIENT, "tcp://203.0.113.1:80", "node-1", &all[..]),
        ("external IP", [&cluster_policy, &spread], CLIENT, "tcp://203.0.113.2:80", "node-1", &all),
        ("NodePort", [&cluster_policy, &spread], CLIENT, "tcp://192.0.2.11:30080", "", &all),
        (
            "no tunnel at the receiving node",
            [&cluster_policy, &spread],
            CLIENT,
            "tcp://192.0.2.13:30080",
            "",
            &[
                "lost@1 10.244.1.2 sees 192.0.2.13 by node-3:masquerade node-1:route",
                "lost@1 10.244.2.2 sees 192.0.2.13 by node-3:masquerade node-2:route",
                "lost@1 10.244.3.2 sees 192.0.2.13 by node-3:masquerade",
            ],
        ),
        (
            "nobody knows the endpoint's node",
            [&cluster_policy, &slice("web", &["10.99.0.1@"])],
            CLIENT,
            "tcp://203.0.113.1:80",
            "node-1",
            &["lost@1 10.99.0.1 sees 192.0.2.11 by node-1:masquerade"],
        ),
        ("masquerade", [&masquerade, &spread], CLIENT, "tcp://203.0.113.1:80", "node-1", &lost),
        (
            "masquerade, a pod and the node itself are endpoints",
            [&masquerade, &slice("web", &["192.0.2.11@node-1", "10.244.1.2@node-1"])],
            CLIENT,
            "tcp://203.0.113.1:80",
            "node-1",
            &["kept 192.0.2.11 sees 198.51.100.7 by node-1:translate", lost[0]],
        ),
        // Local.
        ("Local, endpoint here", [&local, &spread], CLIENT, "tcp://203.0.113.1:80", "node-1", &[kept]),
        (
            "Local, endpoint elsewhere",
            [&local, &one],
            CLIENT,
            "tcp://203.0.113.1:80",
            "node-1",
            &["dropped@1 by node-1:drop"],
        ),
        ("Local, a pod asks", [&local, &spread], "10.244.1.9", "tcp://203.0.113.1:80", "", &pods),
        ("Local, the node asks", [&local, &spread], "node/node-1", "tcp://203.0.113.1:80", "", &own),
        // From inside.
        ("a pod asks the cluster IP", [&cluster_policy, &spread], "10.244.1.9", "tcp://10.96.0.1:80", "", &pods),
        ("a pod asks the load balancer", [&cluster_policy, &two], "10.244.1.9", "tcp://203.0.113.1:80", "", &[direct]),
        ("the node asks the cluster IP", [&cluster_policy, &spread], "192.0.2.11", "tcp://10.96.0.1:80", "", &own),
        (
            "a pod asks another node's NodePort",
            [&cluster_policy, &one],
            "10.244.1.9",
            "tcp://192.0.2.12:30080",
            "",
            &["kept 10.244.2.2 sees 10.244.1.9 by node-1:route node-2:translate"],
        ),
        (
            "a node asks another node's NodePort",
            [&cluster_policy, &slice("web", &["10.244.1.2@node-1"])],
            "node/node-1",
            "tcp://192.0.2.12:30080",
            "",
            &["kept 10.244.1.2 sees 192.0.2.11 by node-1:route node-2:tunnel node-1:translate"],
        ),
        (
            "a pod asks itself by the cluster IP",
            [&cluster_policy, &slice("web", &["10.244.1.9@node-1"])],
            "10.244.1.9",
            "tcp://10.96.0.1:80",
            "",
            &["lost@1 10.244.1.9 sees 192.0.2.11 by node-1:masquerade"],
        ),
        (
            "a pod asks itself by way of another node",
            [&cluster_policy, &slice("web", &["10.244.1.9@node-1"])],
            "10.244.1.9",
            "tcp://192.0.2.12:30080",
            "",
            &["lost@3 10.244.1.9 sees 192.0.2.11 by node-1:route node-2:tunnel node-1:masquerade"],
        ),
        // From outside to a cluster IP.
        ("cluster IP from outside", [&cluster_policy, &spread], CLIENT, "tcp://10.96.0.1:80", "node-1", &lost),
        // Nobody there.
        (
            "no endpoints",
            [&cluster_policy, &none],
            CLIENT,
            "tcp://203.0.113.1:80",
            "node-1",
            &["refused@1 by node-1:refuse"],
        ),
        (
            "no endpoints, Local",
            [&local, &none],
            CLIENT,
            "tcp://203.0.113.1:80",
            "node-1",
            &["refused@1 by node-1:refuse"],
        ),
        (
            "another port",
            [&cluster_policy, &one],
            CLIENT,
            "tcp://10.96.0.1:81",
            "node-1",
            &["refused@1 by node-1:refuse"],
        ),
        (
            "another protocol",
            [&cluster_policy, &one],
            CLIENT,
            "udp://10.96.0.1:80",
            "node-1",
            &["refused@1 by node-1:refuse"],
        ),
        (
            "nobody's cluster IP",
            [&cluster_policy, &one],
            CLIENT,
            "tcp://10.96.0.9:80",
            "node-1",
            &["dropped@1 by node-1:drop"],
        ),
        (
            "nobody's port of a node",
            [&cluster_policy, &one],
            CLIENT,
            "tcp://192.0.2.11:22",
            "",
            &["not-a-service@1 by node-1:route"],
        ),
        // Straight to an endpoint.
        (
            "a pod's own address",
            [&cluster_policy, &one],
            "10.244.1.9",
            "tcp://10.244.2.2:8080",
            "",
            &["kept 10.244.2.2 sees 10.244.1.9 by node-1:route"],
        ),
    ] {
        let world = world(&objects.map(String::as_str).concat());
        assert_eq!(shorts(&ask(&world, from, target, node)), expected, "{name}");
    }
}

#[test]
fn ipv6_goes_as_ipv4_does() {
    let endpoints = ["fd00:10:244:1::2@node-1", "fd00:10:244:2::2@node-2", "fd00:10:244:3::2@node-3"];
    let world = world(&(service("", "") + &slice("web", &endpoints)));
    for target in ["tcp://[2001:db8:f::1]:80", "tcp://[2001:db8:2::11]:30080"] {
        let expected = [
            "kept fd00:10:244:1::2 sees 2001:db8:c::7 by node-1:translate",
            "kept fd00:10:244:2::2 sees 2001:db8:c::7 by node-1:tunnel node-2:translate",
            "lost@1 fd00:10:244:3::2 sees 2001:db8:2::11 by node-1:masquerade node-3:route",
        ];
        let explanation = ask(&world, "2001:db8:c::7", target, "node-1");
        assert_eq!(shorts(&explanation), expected, "{target}");
        let outer = explanation.answers[0].paths[1].hops[0].outer.clone().unwrap();
        assert_eq!(outer.source.to_string(), "192.0.2.11");
        assert_eq!(outer.destination.to_string(), "192.0.2.12:8474");
    }
    let mixed = ask(&world, CLIENT, "tcp://[2001:db8:f::1]:80", "node-1");
    assert_eq!(shorts(&mixed), ["unknown by"]);
}

#[test]
fn answers_come_back_as_the_service_says() {
    let endpoints = slice("web", &["10.244.2.2@node-2"]);
    for (annotations, target, expected) in [
        (
            "",
            "tcp://203.0.113.1:80",
            &[
                "node-2 203.0.113.1:80 -> 198.51.100.7 [192.0.2.12 -> 192.0.2.11:8474]",
                "node-1 203.0.113.1:80 -> 198.51.100.7",
            ][..],
        ),
        (
            "headwater.dev/source-ip: preserve-direct",
            "tcp://203.0.113.1:80",
            &["node-2 203.0.113.1:80 -> 198.51.100.7"],
        ),
        (
            "headwater.dev/source-ip: masquerade",
            "tcp://203.0.113.1:80",
            &["node-2 endpoint -> 192.0.2.11", "node-1 203.0.113.1:80 -> 198.51.100.7"],
        ),
    ] {
        let world = world(&(service(annotations, "") + &endpoints));
        let explanation = ask(&world, CLIENT, target, "node-1");
        assert_eq!(back(&explanation.answers[0].paths[0]), expected, "{annotations}");
    }
}

#[test]
fn nodes_that_do_the_same_are_told_once() {
    let local = service("", "externalTrafficPolicy: Local") + &slice("web", &["10.244.2.2@node-2"]);
    let explanation = ask(&world(&local), CLIENT, "tcp://203.0.113.1:80", "");
    let told: Vec<(Vec<&str>, String)> =
        explanation.answers.iter().map(|answer| (nodes(answer), short(&answer.paths[0]))).collect();
    assert_eq!(
        told,
        [
            (vec!["node-1", "node-3"], "dropped@1 by node-1:drop".to_owned()),
            (vec!["node-2"], "kept 10.244.2.2 sees 198.51.100.7 by node-2:translate".to_owned()),
        ]
    );
    let masquerade = service("headwater.dev/source-ip: masquerade", "") + &slice("web", &["10.99.0.1@"]);
    let explanation = ask(&world(&masquerade), CLIENT, "tcp://203.0.113.1:80", "");
    assert_eq!(explanation.answers.len(), 1, "they differ in their own addresses only");
}

#[test]
fn weights_are_those_of_the_endpoints() {
    let endpoints = ["10.244.1.2@node-1", "10.244.2.2@node-2", "10.244.2.3@node-2", "10.244.3.2@node-3"];
    let world = world(&(service("", "") + &slice("web", &endpoints)));
    for target in ["tcp://203.0.113.1:80", "tcp://10.96.0.1:80"] {
        let explanation = ask(&world, CLIENT, target, "node-1");
        let weights: Vec<u32> = explanation.answers[0].paths.iter().map(|path| path.weight).collect();
        assert_eq!(weights, [1, 2, 1], "{target}");
    }
}

#[test]
fn a_mend_names_the_field_that_loses_the_client() {
    let one = slice("web", &["10.244.2.2@node-2"]);
    let far = slice("web", &["10.244.3.2@node-3"]);
    let masquerade = service("headwater.dev/source-ip: masquerade", "");
    let local = service("", "externalTrafficPolicy: Local\n  healthCheckNodePort: 30000");
    let ranges = service("", "loadBalancerSourceRanges: [203.0.113.0/24]");
    for (name, objects, target, expected) in [
        ("masquerade", [&masquerade, &one], "203.0.113.1:80", "metadata.annotations[headwater.dev/source-ip] preserve"),
        ("no tunnel", [&service("", ""), &far], "203.0.113.1:80", " run headwater node on node-3"),
        ("outside", [&service("", ""), &one], "10.96.0.1:80", "spec.type use NodePort 30080"),
        ("Local", [&local, &one], "203.0.113.1:80", "spec.externalTrafficPolicy Cluster"),
        ("Local", [&local, &one], "203.0.113.1:80", "spec.healthCheckNodePort let the load balancer ask port 30000"),
        ("Local", [&local, &one], "203.0.113.1:80", " send to a node that has an endpoint: node-2"),
        ("ranges", [&ranges, &one], "203.0.113.1:80", "spec.loadBalancerSourceRanges add 198.51.100.7/32"),
        ("no endpoints", [&service("", ""), &slice("web", &[])], "203.0.113.1:80", "spec.selector make a pod ready"),
        ("port", [&service("", ""), &one], "10.96.0.1:81", "spec.ports ask one of its ports (80/TCP)"),
    ] {
        let world = world(&objects.map(String::as_str).concat());
        let explanation = ask(&world, CLIENT, &format!("tcp://{target}"), "node-1");
        let path = &explanation.answers[0].paths[0];
        let mends: Vec<String> = path.mends.iter().map(|mend| format!("{} {}", mend.field, mend.change)).collect();
        assert!(mends.iter().any(|mend| mend.starts_with(expected)), "{name}: {mends:#?}");
        assert!(path.mends.iter().all(|mend| !mend.cost.is_empty()));
    }
}

#[test]
fn what_kept_the_client_needs_no_mending() {
    let world = world(&(service("", "") + &slice("web", &SPREAD)));
    for path in &ask(&world, CLIENT, "tcp://203.0.113.1:80", "node-1").answers[0].paths {
        assert_eq!(path.mends.is_empty(), path.verdict.kind == VerdictKind::Kept, "{path:#?}");
    }
}

#[test]
fn health_checks_are_answered_by_the_node() {
    let local = service("", "externalTrafficPolicy: Local\n  healthCheckNodePort: 30000");
    let world = world(&(local + &slice("web", &["10.244.2.2@node-2"])));
    for (node, expected) in [("192.0.2.11", "answers 503, with 0"), ("192.0.2.12", "answers 200, with 1")] {
        let explanation = ask(&world, CLIENT, &format!("http://{node}:30000/"), "");
        let path = &explanation.answers[0].paths[0];
        assert_eq!(path.verdict.kind, VerdictKind::Answered);
        assert!(path.verdict.why.contains(expected), "{}", path.verdict.why);
    }
}

#[test]
fn the_settings_of_nodes_are_obeyed() {
    let objects = service("", "") + &slice("web", &["10.244.1.2@node-1"]);
    let cluster = cluster(&format!("{}{objects}", support::NODES));
    let ask_with = |options, from: &str, target: &str| {
        shorts(&ask(&World::new(cluster.clone(), options), from, target, "node-1")).join("; ")
    };
    let mut keep = options();
    keep.services.keep = KeepClient::Masquerade;
    let lost = "lost@1 10.244.1.2 sees 192.0.2.11 by node-1:masquerade";
    assert_eq!(ask_with(keep.clone(), CLIENT, "tcp://203.0.113.1:80"), lost);
    let bridge = lost.replace("192.0.2.11", "10.244.1.1");
    assert_eq!(ask_with(bridged(keep), CLIENT, "tcp://203.0.113.1:80"), bridge, "by the address that faces pods");
    let itself = "kept 10.244.1.2 sees 10.244.1.1 by node-1:masquerade";
    assert_eq!(ask_with(bridged(options()), "node/node-1", "tcp://203.0.113.1:80"), itself, "by whichever address");
    let mut nobody = options();
    nobody.services.cluster_cidrs.clear();
    let kept = "kept 10.244.1.2 sees 198.51.100.7 by node-1:translate";
    assert_eq!(ask_with(nobody, CLIENT, "tcp://10.96.0.1:80"), kept, "outside is not known");
    let mut everything = options();
    everything.services.masquerade_all = true;
    let pod = "lost@1 10.244.1.2 sees 192.0.2.11 by node-1:masquerade";
    assert_eq!(ask_with(everything, "10.244.1.9", "tcp://10.96.0.1:80"), pod);
}

#[test]
fn a_cluster_without_nodes_is_explained_with_their_names() {
    let objects = service("headwater.dev/source-ip: masquerade", "") + &slice("web", &["10.244.1.2@node-1"]);
    let world = World::new(cluster(&objects), options());
    let explanation = ask(&world, CLIENT, "tcp://203.0.113.1:80", "");
    let path = &explanation.answers[0].paths[0];
    assert_eq!(path.sees.as_ref().unwrap().peer, End::Node("node-1".into()));
    assert_eq!(path.verdict.kind, VerdictKind::Lost);
    let nothing = World::new(cluster(&service("", "")), options());
    assert_eq!(shorts(&ask(&nothing, CLIENT, "tcp://203.0.113.1:80", "")), ["unknown by"]);
    assert_eq!(shorts(&ask(&nothing, "node/node-1", "tcp://203.0.113.1:80", "")), ["unknown by"]);
    assert_eq!(shorts(&ask(&nothing, CLIENT, "tcp://203.0.113.1:80", "node-7")), ["unknown by"]);
}
