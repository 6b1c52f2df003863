//! Services that want the same, and objects that are wrong.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use headwater_service_nat::Place;
use serde_json::{Value, json};
use support::*;

fn of_age(name: &str, year: u32, spec: Value) -> Value {
    let created = format!("{year}-01-01T00:00:00Z");
    service(name, json!({"metadata": {"creationTimestamp": created}, "spec": spec}))
}

/// Whom a packet from outside reaches.
fn reached(world: &World, to: &str) -> String {
    world.send(Place::Remote, "203.0.113.1", to).replace("masquerade ", "").replace("kept ", "")
}

#[test]
fn the_oldest_has_what_two_services_want() {
    let lb = |ip: &str| json!({"loadBalancer": {"ingress": [{"ip": ip}]}});
    let cases = [
        (
            "node port",
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
            json!({}),
            "192.0.2.1:30080",
            "spec.ports[0].nodePort",
        ),
        ("external address", json!({"externalIPs": ["203.0.113.9"]}), json!({}), "203.0.113.9:80", "spec.externalIPs"),
        (
            "load balancer",
            json!({"type": "LoadBalancer"}),
            lb("203.0.113.9"),
            "203.0.113.9:80",
            "status.loadBalancer.ingress",
        ),
    ];
    for (what, spec, status, to, field) in cases {
        let object = |name: &str, year, ip: &str| {
            let mut value = of_age(name, year, spec.clone());
            value["spec"]["clusterIP"] = json!(ip);
            value["status"] = status.clone();
            value
        };
        let (young, old) = (object("a", 2024, "172.16.0.1"), object("b", 2020, "172.16.0.2"));
        let slices = [slice("a", "a-1", &["10.0.0.1@node-1"]), slice("b", "b-1", &["10.0.0.2@node-1"])];
        let mut world = World::new(options(), slices.into_iter().chain([young]));
        assert_eq!(reached(&world, to), "10.0.0.1", "{what}");
        world.set(old.clone());
        assert_eq!(reached(&world, to), "10.0.0.2", "{what}");
        let finding = &world.last.findings[0];
        assert_eq!((finding.reason, &*finding.field), ("Conflict", field), "{what}");
        assert_eq!(finding.object.as_ref().unwrap().to_string(), "Service n/a", "{what}");
        assert!(finding.message.contains("Service n/b, which is older"), "{what}: {finding}");
        assert_eq!(reached(&world, "172.16.0.1:80"), "10.0.0.1", "{what}: the rest of the loser is served");
        world.remove(old);
        assert_eq!(reached(&world, to), "10.0.0.1", "{what}");
        assert_eq!(world.reasons(), [""; 0], "{what}");
    }
}

#[test]
fn a_written_address_never_takes_a_cluster_ip_however_old() {
    let thief = of_age("thief", 2020, json!({"clusterIP": "172.16.0.9", "externalIPs": ["172.16.0.1"]}));
    let owner = of_age("owner", 2024, json!({}));
    let slices = [slice("thief", "t-1", &["10.0.0.1@node-1"]), slice("owner", "o-1", &["10.0.0.2@node-1"])];
    let world = World::new(options(), slices.into_iter().chain([thief, owner]));
    assert_eq!(reached(&world, "172.16.0.1:80"), "10.0.0.2");
    assert!(world.last.findings[0].message.contains("whose cluster IP it is"), "{}", world.last.findings[0]);
}

#[test]
fn a_health_check_and_a_node_port_do_not_share_a_number() {
    let health = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30080});
    let node_port = json!({"type": "NodePort", "clusterIP": "172.16.0.2", "ports": [{"port": 80, "nodePort": 30080}]});
    let both = [of_age("a", 2024, health.clone()), of_age("b", 2020, node_port.clone())];
    let world = World::new(options(), both);
    assert_eq!(world.service("a").unwrap().health, None);
    assert_eq!(world.last.findings[0].field, "spec.healthCheckNodePort");
    let world = World::new(options(), [of_age("a", 2020, health), of_age("b", 2024, node_port)]);
    assert!(world.service("a").unwrap().health.is_some());
    assert_eq!(frontends(world.port("b")).len(), 1);
}

#[test]
fn ports_of_one_protocol_do_not_collide_with_another() {
    let ports = json!([{"name": "a", "port": 53, "nodePort": 30053, "protocol": "UDP"},
                       {"name": "b", "port": 53, "nodePort": 30053}, {"name": "c", "port": 54, "nodePort": 30053}]);
    let world = World::new(options(), [service("dns", json!({"spec": {"type": "NodePort", "ports": ports}}))]);
    let counts: Vec<usize> = world.service("dns").unwrap().ports.iter().map(|port| port.frontends.len()).collect();
    assert_eq!(counts, [2, 2, 1]);
    assert_eq!(world.last.findings.len(), 1);
    assert!(world.last.findings[0].message.contains("an earlier port of the same Service"));
}

#[test]
fn what_needs_no_proxy_has_no_rules_and_no_findings() {
    let label = json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}});
    for more in [
        json!({"spec": {"clusterIP": "None"}}),
        json!({"spec": {"clusterIPs": ["None"], "clusterIP": null}}),
        json!({"spec": {"type": "ExternalName", "externalName": "example.com"}}),
        label,
    ] {
        let world = World::new(options(), [service("web", more.clone()), slice("web", "s", &["10.0.0.1@node-1"])]);
        assert!(world.service("web").is_none(), "{more}");
        assert_eq!(world.reasons(), [""; 0], "{more}");
    }
}

#[test]
fn mistakes_are_told_and_cost_only_themselves() {
    let lb =
        |ip: &str| json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": ip}]}}});
    let cases = [
        (json!({"spec": {"ports": []}}), "NoPorts", 0),
        (json!({"spec": {"clusterIP": null}}), "NoClusterIP", 0),
        (json!({"spec": {"clusterIP": "127.0.0.1"}}), "InvalidAddress", 0),
        (json!({"spec": {"clusterIPs": ["172.16.0.1", "172.16.0.2"]}}), "MixedFamilies", 1),
        (json!({"spec": {"ports": [{"port": 80}, {"port": 80, "name": "b"}]}}), "DuplicatePort", 1),
        (json!({"spec": {"ports": [{"port": 80}, {"port": 0, "name": "b"}]}}), "InvalidValue", 1),
        (json!({"spec": {"ports": [{"port": 80}, {"port": 81, "protocol": "ICMP"}]}}), "InvalidValue", 1),
        (json!({"spec": {"externalIPs": ["nonsense"]}}), "InvalidAddress", 1),
        (json!({"spec": {"externalIPs": ["127.0.0.1"]}}), "InvalidAddress", 1),
        (json!({"spec": {"externalIPs": ["169.254.1.1"]}}), "InvalidAddress", 1),
        (json!({"spec": {"externalIPs": ["fe80::1"]}}), "InvalidAddress", 1),
        (json!({"spec": {"externalIPs": ["0.0.0.0"]}}), "InvalidAddress", 1),
        (json!({"spec": {"externalIPs": ["::ffff:1.2.3.4"]}}), "InvalidAddress", 1),
        (json!({"spec": {"externalIPs": ["2001:db8::5"]}}), "MixedFamilies", 1),
        (lb("224.0.0.1"), "InvalidAddress", 1),
        (json!({"spec": {"externalTrafficPolicy": "Sometimes"}}), "InvalidValue", 1),
    ];
    for (more, reason, frontends) in cases {
        let world = World::new(options(), [service("web", more.clone()), slice("web", "s", &["10.0.0.1@node-1"])]);
        assert_eq!(world.reasons(), [reason], "{more}");
        let ports = world.service("web").map(|rules| rules.ports.to_vec()).unwrap_or_default();
        assert_eq!(ports.iter().map(|port| port.frontends.len()).sum::<usize>(), frontends, "{more}");
    }
}

#[test]
fn nothing_is_sent_to_an_endpoint_that_can_be_none() {
    let bad = ["127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "172.16.0.1", "fd10::1", "nonsense", ""];
    for address in bad {
        let mut of = slice("web", "s", &["10.0.0.1@node-1", "10.0.0.2@node-1"]);
        of["endpoints"][0]["addresses"][0] = json!(address);
        let world = World::new(options(), [service("web", json!({})), of]);
        assert_eq!(world.reasons(), ["InvalidEndpoint"], "{address}");
        assert_eq!(reached(&world, "172.16.0.1:80"), "10.0.0.2", "{address}");
    }
    let mut empty = slice("web", "s", &["10.0.0.1@node-1"]);
    empty["endpoints"][0]["addresses"] = json!([]);
    assert_eq!(World::new(options(), [service("web", json!({})), empty]).reasons(), ["InvalidEndpoint"]);
}

#[test]
fn a_service_with_thousands_of_ports_and_mistakes_is_bounded() {
    let ports: Vec<Value> = (0..5000_u16).map(|at| json!({"name": format!("p{at}"), "port": 1 + at % 4000})).collect();
    let mut of = slice("web", "s", &["10.0.0.1@node-1"]);
    of["ports"] = json!(ports);
    let world = World::new(options(), [service("web", json!({"spec": {"ports": ports}})), of]);
    assert_eq!(world.service("web").unwrap().ports.len(), 4000);
    assert!(world.service("web").unwrap().ports.iter().all(|port| port.cluster.len() == 1));
    assert_eq!(world.last.findings.len(), 51);
    assert_eq!(world.reasons().last(), Some(&"MoreFindings"));
}

#[test]
fn an_address_that_is_said_twice_is_one_frontend_and_the_stricter() {
    let world = World::new(
        options(),
        [
            service(
                "web",
                json!({
                    "spec": {
                        "type": "LoadBalancer", "externalIPs": ["203.0.113.80", "203.0.113.80", "172.16.0.1"],
                        "loadBalancerSourceRanges": ["198.51.100.0/24"]
                    },
                    "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.80"}]}}
                }),
            ),
            slice("web", "s", &["10.0.0.1@node-1"]),
        ],
    );
    assert_eq!(frontends(world.port("web")).len(), 2);
    assert_eq!(world.send(Place::Remote, "203.0.113.1", "203.0.113.80:80"), "drop source");
    assert_eq!(world.reasons(), [""; 0]);
}
