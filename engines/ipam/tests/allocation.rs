//! Which addresses Services get, keep and lose. Cases follow MetalLB's internal/allocator/allocator_test.go,
//! controller/controller_test.go and e2etest/l2tests/assignment.go.

mod support;

use headwater_ipam::{Class, Ipam, Pools, Request, is_asking};
use serde_json::{Value, json};

use support::{id, pool, pools, request, service, settle, words};

fn ipam(all: &[(&str, Value)]) -> Ipam {
    let mut ipam = Ipam::default();
    ipam.configure(pools(all));
    ipam
}

fn annotated(name: &str, value: &str) -> Value {
    json!({"metadata": {"annotations": {name: value}}})
}

fn shared(key: &str, port: u16, protocol: &str) -> Value {
    json!({
        "metadata": {"annotations": {"metallb.io/allow-shared-ip": key}},
        "spec": {"ports": [{"port": port, "protocol": protocol}]},
    })
}

/// What it shows, pools, families of the Service and more of it, and what becomes of it.
type Case = (&'static str, Vec<(&'static str, Value)>, &'static str, Value, &'static str);

#[test]
fn a_new_service_gets_the_lowest_address_of_the_first_pool_that_fits() {
    let v4 = || json!({"addresses": ["10.0.0.0/31"]});
    let v6 = || json!({"addresses": ["fc00::/127"]});
    let dual = || json!({"addresses": ["10.0.1.5-10.0.1.6", "fc00:1::5-fc00:1::6"]});
    let dual_six_first = || json!({"addresses": ["fc00:1::5-fc00:1::6", "10.0.1.5-10.0.1.6"]});
    let prefer = || json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}});
    let require = || json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}});
    let allocation = |more: Value| json!({"addresses": ["10.9.0.0/24"], "serviceAllocation": more});
    let cases: Vec<Case> = vec![
        ("the first address is one like any other", vec![("p", v4())], "4", json!({}), "10.0.0.0"),
        (
            "unless it confuses devices",
            vec![("p", json!({"addresses": ["10.0.0.0/31"], "avoidBuggyIPs": true}))],
            "4",
            json!({}),
            "10.0.0.1",
        ),
        ("by name", vec![("b", v4()), ("a", json!({"addresses": ["10.0.5.0/24"]}))], "4", json!({}), "10.0.5.0"),
        ("of its family", vec![("a", v4()), ("b", v6())], "6", json!({}), "fc00::"),
        ("or none", vec![("a", v4())], "6", json!({}), "no available IPs"),
        (
            "pools that are to be asked for are not used",
            vec![("a", json!({"addresses": ["10.0.0.0/24"], "autoAssign": false}))],
            "4",
            json!({}),
            "no available IPs",
        ),
        ("both families of one pool", vec![("a", v4()), ("b", dual())], "46", require(), "10.0.1.5,fc00:1::5"),
        ("in the pool's order", vec![("a", dual_six_first())], "46", require(), "fc00:1::5,10.0.1.5"),
        ("both or none", vec![("a", v4()), ("b", v6())], "46", require(), "no available IPs"),
        ("both rather than the first pool", vec![("a", v4()), ("b", dual())], "46", prefer(), "10.0.1.5,fc00:1::5"),
        ("or its first family", vec![("a", v4()), ("b", v6())], "64", prefer(), "fc00::"),
        ("or the other", vec![("a", v4())], "64", prefer(), "10.0.0.0"),
        (
            "pinned before all",
            vec![("a", v4()), ("b", allocation(json!({"namespaces": ["a"]})))],
            "4",
            json!({}),
            "10.9.0.0",
        ),
        (
            "by a label of the namespace",
            vec![("a", v4()), ("b", allocation(json!({"namespaceSelectors": [{"matchLabels": {"team": "red"}}]})))],
            "4",
            json!({}),
            "10.9.0.0",
        ),
        (
            "either of them",
            vec![
                ("a", v4()),
                (
                    "b",
                    allocation(json!({"namespaces": ["z"], "namespaceSelectors": [{"matchLabels": {"team": "red"}}]})),
                ),
            ],
            "4",
            json!({}),
            "10.9.0.0",
        ),
        (
            "not by another's",
            vec![("a", v4()), ("b", allocation(json!({"namespaceSelectors": [{"matchLabels": {"team": "blue"}}]})))],
            "4",
            json!({}),
            "10.0.0.0",
        ),
        (
            "by a label of the Service",
            vec![("a", v4()), ("b", allocation(json!({"serviceSelectors": [{"matchLabels": {"x": "y"}}]})))],
            "4",
            json!({"metadata": {"labels": {"x": "y"}}}),
            "10.9.0.0",
        ),
        (
            "and of the namespace",
            vec![
                ("a", v4()),
                ("b", allocation(json!({"namespaces": ["z"], "serviceSelectors": [{"matchLabels": {"x": "y"}}]}))),
            ],
            "4",
            json!({"metadata": {"labels": {"x": "y"}}}),
            "10.0.0.0",
        ),
        (
            "a priority alone is for all",
            vec![("a", v4()), ("b", allocation(json!({"priority": 7})))],
            "4",
            json!({}),
            "10.9.0.0",
        ),
        (
            "the lower one first",
            vec![
                ("a", json!({"addresses": ["10.1.0.0/24"], "serviceAllocation": {"priority": 9}})),
                ("b", json!({"addresses": ["10.2.0.0/24"], "serviceAllocation": {"priority": 3}})),
                ("c", json!({"addresses": ["10.3.0.0/24"], "serviceAllocation": {"priority": 0}})),
            ],
            "4",
            json!({}),
            "10.2.0.0",
        ),
        (
            "a pinned pool has to be for all as well",
            vec![
                ("a", json!({"addresses": ["10.1.0.0/24"], "autoAssign": false, "serviceAllocation": {"priority": 1}})),
                ("b", v4()),
            ],
            "4",
            json!({}),
            "10.0.0.0",
        ),
        (
            "named",
            vec![("a", v4()), ("b", json!({"addresses": ["10.0.5.0/24"], "autoAssign": false}))],
            "4",
            annotated("metallb.io/address-pool", "b"),
            "10.0.5.0",
        ),
        (
            "named in words of once",
            vec![("a", v4()), ("b", json!({"addresses": ["10.0.5.0/24"]}))],
            "4",
            annotated("metallb.universe.tf/address-pool", "b"),
            "10.0.5.0",
        ),
        ("named and unknown", vec![("a", v4())], "4", annotated("metallb.io/address-pool", "b"), "unknown pool \"b\""),
        (
            "named and of another family",
            vec![("a", v4())],
            "6",
            annotated("metallb.io/address-pool", "a"),
            "no available IPs in pool \"a\"",
        ),
        (
            "named and for others",
            vec![("b", allocation(json!({"namespaces": ["z"]})))],
            "4",
            annotated("metallb.io/address-pool", "b"),
            "pool b not compatible for ip assignment",
        ),
        ("an address", vec![("a", v4())], "4", annotated("metallb.io/loadBalancerIPs", "10.0.0.1"), "10.0.0.1"),
        ("by the field", vec![("a", v4())], "4", json!({"spec": {"loadBalancerIP": "10.0.0.1"}}), "10.0.0.1"),
        (
            "two",
            vec![("a", dual())],
            "46",
            annotated("metallb.io/loadBalancerIPs", "fc00:1::6, 10.0.1.5"),
            "fc00:1::6,10.0.1.5",
        ),
        (
            "two of two pools",
            vec![("a", v4()), ("b", v6())],
            "46",
            annotated("metallb.io/loadBalancerIPs", "fc00::1,10.0.0.1"),
            "\"fc00::1\", \"10.0.0.1\" are not of one pool",
        ),
        (
            "of no pool",
            vec![("a", v4())],
            "4",
            annotated("metallb.io/loadBalancerIPs", "10.7.0.1"),
            "\"10.7.0.1\" is not allowed in config",
        ),
        (
            "of another family",
            vec![("a", dual())],
            "4",
            annotated("metallb.io/loadBalancerIPs", "fc00:1::5"),
            "requested loadBalancer IP(s) \"fc00:1::5\" does not match the ipFamily of the service",
        ),
        (
            "that confuses devices",
            vec![("p", json!({"addresses": ["10.0.0.0/31"], "avoidBuggyIPs": true}))],
            "4",
            annotated("metallb.io/loadBalancerIPs", "10.0.0.0"),
            "\"10.0.0.0\" is not allowed in config",
        ),
        (
            "and another pool",
            vec![("a", v4()), ("b", v6())],
            "4",
            json!({"metadata": {"annotations": {"metallb.io/loadBalancerIPs": "10.0.0.1", "metallb.io/address-pool": "b"}}}),
            "requested loadBalancer IP(s) \"10.0.0.1\" is not compatible with requested address pool b",
        ),
        (
            "of a pool that is to be asked for",
            vec![("a", json!({"addresses": ["10.0.0.0/24"], "autoAssign": false}))],
            "4",
            annotated("metallb.io/loadBalancerIPs", "10.0.0.9"),
            "10.0.0.9",
        ),
    ];
    for (what, all, families, more, expected) in cases {
        assert_eq!(words(&settle(&mut ipam(&all), &service("s", families, &more), &[])), expected, "{what}");
    }
}

#[test]
fn an_address_is_shared_by_key_and_ports_and_pods() {
    let local = |mut more: Value, app: &str| {
        more["spec"]["externalTrafficPolicy"] = "Local".into();
        more["spec"]["selector"] = json!({"app": app});
        more
    };
    for (what, first, second, beside) in [
        ("another port", shared("k", 80, "TCP"), shared("k", 81, "TCP"), true),
        ("another protocol", shared("k", 80, "TCP"), shared("k", 80, "UDP"), true),
        ("the same port", shared("k", 80, "TCP"), shared("k", 80, "TCP"), false),
        ("another key", shared("k", 80, "TCP"), shared("l", 81, "TCP"), false),
        ("no key", json!({}), json!({"spec": {"ports": [{"port": 81}]}}), false),
        ("the same pods", local(shared("k", 80, "TCP"), "x"), local(shared("k", 81, "TCP"), "x"), true),
        ("other pods", local(shared("k", 80, "TCP"), "x"), local(shared("k", 81, "TCP"), "y"), false),
        ("pods of one alone", local(shared("k", 80, "TCP"), "x"), shared("k", 81, "TCP"), false),
    ] {
        let mut ipam = ipam(&[("p", json!({"addresses": ["10.0.0.1-10.0.0.2"]}))]);
        settle(&mut ipam, &service("first", "4", &first), &[]);
        let outcome = settle(&mut ipam, &service("second", "4", &second), &[]);
        assert_eq!(words(&outcome), if beside { "10.0.0.1" } else { "10.0.0.2" }, "{what}");
        // The same by its number.
        let mut second = second;
        second["spec"]["loadBalancerIP"] = "10.0.0.1".into();
        ipam.release(&id("second"));
        let outcome = settle(&mut ipam, &service("second", "4", &second), &[]);
        match beside {
            true => assert_eq!(words(&outcome), "10.0.0.1", "{what}"),
            false => {
                let told = words(&outcome);
                let port = "port tcp/80 is already in use on \"10.0.0.1\" by a/first";
                let key = "can't change sharing key for \"a/second\", address 10.0.0.1 also in use by a/first";
                assert!(told == port || told == key, "{what}: {told}");
            }
        }
    }
}

#[test]
fn an_address_that_can_be_shared_counts_as_free_where_it_stands_in_its_range() {
    let mut ipam = ipam(&[("p", json!({"addresses": ["10.0.0.1-10.0.0.3", "10.0.1.0/24"]}))]);
    for (name, more) in [("a", shared("k", 80, "TCP")), ("b", json!({})), ("c", shared("l", 80, "TCP"))] {
        settle(&mut ipam, &service(name, "4", &more), &[]);
    }
    ipam.release(&id("b"));
    assert_eq!(
        words(&settle(&mut ipam, &service("d", "4", &shared("l", 81, "TCP")), &[])),
        "10.0.0.2",
        "lower than 10.0.0.3"
    );
    ipam.release(&id("d"));
    settle(&mut ipam, &service("b", "4", &json!({})), &[]);
    assert_eq!(
        words(&settle(&mut ipam, &service("d", "4", &shared("l", 81, "TCP")), &[])),
        "10.0.0.3",
        "before the next range"
    );
    assert_eq!(words(&settle(&mut ipam, &service("e", "4", &shared("l", 81, "TCP")), &[])), "10.0.1.0");
}

#[test]
fn what_a_service_has_stays_while_nothing_forbids_it_and_goes_when_something_does() {
    let two = || {
        vec![("p", json!({"addresses": ["10.0.0.0/24", "fc00::/120"]})), ("q", json!({"addresses": ["10.0.1.0/24"]}))]
    };
    for (what, families, more, held, cleared, expected) in [
        ("the lowest is free", "4", json!({}), vec!["10.0.0.7"], None, "10.0.0.7"),
        (
            "its own wish",
            "4",
            json!({"spec": {"loadBalancerIP": "10.0.0.9"}}),
            vec!["10.0.0.7"],
            Some("\"10.0.0.7\" was given, and other"),
            "10.0.0.9",
        ),
        (
            "its own pool",
            "4",
            annotated("metallb.io/address-pool", "q"),
            vec!["10.0.0.7"],
            Some("\"10.0.0.7\" was given, and pool \"q\""),
            "10.0.1.0",
        ),
        ("of no pool", "4", json!({}), vec!["10.0.7.7"], Some("\"10.0.7.7\" is not allowed in config"), "10.0.0.0"),
        ("of two pools", "46", json!({}), vec!["10.0.1.1", "fc00::1"], Some("are not of one pool"), "10.0.0.0,fc00::"),
        ("another family", "6", json!({}), vec!["10.0.0.7"], Some("does not match the ipFamily"), "fc00::"),
        ("one family is no longer wanted", "6", json!({}), vec!["10.0.0.7", "fc00::7"], None, "fc00::7"),
        (
            "the second family comes later",
            "46",
            json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}}),
            vec!["10.0.0.7"],
            None,
            "10.0.0.7,fc00::",
        ),
        (
            "and is not taken from elsewhere",
            "46",
            json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}}),
            vec!["10.0.1.7"],
            None,
            "10.0.1.7",
        ),
        (
            "where both are a must, the pool changes",
            "46",
            json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}}),
            vec!["10.0.1.7"],
            Some("no available IPs in pool \"q\""),
            "10.0.0.0,fc00::",
        ),
        ("two of one family are one", "4", json!({}), vec!["10.0.0.7", "10.0.0.8"], None, "10.0.0.7"),
    ] {
        let mut ipam = ipam(&two());
        let outcome = settle(&mut ipam, &service("s", families, &more), &held);
        assert_eq!(words(&outcome), expected, "{what}");
        let told = outcome.cleared.map(|error| error.to_string());
        match cleared {
            None => assert_eq!(told, None, "{what}"),
            Some(start) => assert!(told.as_ref().is_some_and(|told| told.contains(start)), "{what}: {told:?}"),
        }
        // Said again, it is the same.
        let again = settle(&mut ipam, &service("s", families, &more), &[]);
        assert_eq!((words(&again), again.cleared), (expected.to_owned(), None), "{what}");
    }
}

#[test]
fn a_sole_owner_changes_its_sharing_key_in_place_and_nobody_else_does() {
    let mut ipam = ipam(&[("p", json!({"addresses": ["10.0.0.0/24"]}))]);
    settle(&mut ipam, &service("a", "4", &shared("k", 80, "TCP")), &[]);
    assert_eq!(words(&settle(&mut ipam, &service("a", "4", &shared("l", 80, "TCP")), &[])), "10.0.0.0");
    assert_eq!(words(&settle(&mut ipam, &service("b", "4", &shared("l", 81, "TCP")), &[])), "10.0.0.0");
    let outcome = settle(&mut ipam, &service("a", "4", &shared("m", 80, "TCP")), &[]);
    assert_eq!(words(&outcome), "10.0.0.1");
    assert_eq!(
        outcome.cleared.unwrap().to_string(),
        "can't change sharing key for \"a/a\", address 10.0.0.0 also in use by a/b"
    );
    let outcome = settle(&mut ipam, &service("b", "4", &shared("l", 80, "TCP")), &[]);
    assert_eq!(words(&outcome), "10.0.0.0", "its port changes in place");
}

#[test]
fn edits_of_pools_move_only_what_they_take_away() {
    let mut ipam = ipam(&[("p", json!({"addresses": ["10.0.0.0/30"]})), ("q", json!({"addresses": ["10.0.1.0/30"]}))]);
    let all: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| service(name, "4", &json!({}))).into();
    for one in &all {
        settle(&mut ipam, one, &[]);
    }
    let addresses = |ipam: &mut Ipam| all.iter().map(|one| words(&settle(ipam, one, &[]))).collect::<Vec<_>>();
    let first = ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.0"];
    assert_eq!(addresses(&mut ipam), first);
    // Another order, a name, a wider range, no new ones for who does not ask.
    for edit in [
        vec![("q", json!({"addresses": ["10.0.1.0/30"]})), ("renamed", json!({"addresses": ["10.0.0.0/24"]}))],
        vec![("q", json!({"addresses": ["10.0.0.0/31", "10.0.1.0/24", "10.0.0.2-10.0.0.9"], "autoAssign": false}))],
        vec![
            ("p", json!({"addresses": ["10.0.0.0/30"], "serviceAllocation": {"namespaces": ["z"]}})),
            ("q", json!({"addresses": ["10.0.1.0/30"]})),
        ],
    ] {
        let freed = ipam.freed();
        ipam.configure(pools(&edit));
        assert!(ipam.freed() > freed);
        assert_eq!(addresses(&mut ipam), first, "{edit:?}");
    }
    ipam.configure(pools(&[
        ("p", json!({"addresses": ["10.0.0.2/31"]})),
        ("q", json!({"addresses": ["10.0.1.0/30"]})),
    ]));
    assert_eq!(addresses(&mut ipam), ["10.0.1.1", "10.0.1.2", "10.0.0.2", "10.0.0.3", "10.0.1.0"]);
    ipam.configure(Pools::default());
    assert_eq!(addresses(&mut ipam), ["no available IPs"; 5]);
    assert!(ipam.given().is_empty());
}

#[test]
fn an_address_of_a_pool_that_is_broken_stays_until_it_is_mended() {
    let mut ipam = ipam(&[("p", json!({"addresses": ["10.0.0.0/24"]}))]);
    let one = service("one", "4", &json!({}));
    settle(&mut ipam, &one, &[]);
    let broken = [
        (vec![pool("p", json!({"addresses": []}))], false),
        (
            vec![pool("a", json!({"addresses": ["10.0.0.128/25"]})), pool("p", json!({"addresses": ["10.0.0.0/24"]}))],
            false,
        ),
        (vec![], true),
    ];
    for (objects, unread) in broken {
        let (pools, findings) = Pools::new(&objects, unread);
        assert_eq!(findings.len(), usize::from(!objects.is_empty()), "{findings:?}");
        ipam.configure(pools.clone());
        let outcome = settle(&mut ipam, &one, &[]);
        assert_eq!((words(&outcome), outcome.cleared), ("10.0.0.0".to_owned(), None));
        // After a restart too.
        let mut fresh = Ipam::default();
        fresh.configure(pools);
        assert_eq!(words(&settle(&mut fresh, &one, &["10.0.0.0"])), "10.0.0.0");
    }
    ipam.configure(pools(&[("p", json!({"addresses": ["10.0.0.0/24"]}))]));
    assert_eq!(words(&settle(&mut ipam, &one, &[])), "10.0.0.0");
    assert_eq!(words(&settle(&mut ipam, &service("two", "4", &json!({})), &[])), "10.0.0.1");
}

#[test]
fn of_pools_that_overlap_the_older_counts_and_the_younger_is_told() {
    let aged = |name: &str, created: &str, addresses: &str| {
        let mut object = (*pool(name, json!({"addresses": [addresses]}))).clone();
        object.metadata.creation_timestamp = Some(created.parse().unwrap());
        std::sync::Arc::new(object)
    };
    let old = aged("z", "2026-01-01T00:00:00Z", "10.0.0.0/24");
    let young = aged("a", "2026-02-01T00:00:00Z", "10.0.0.250-10.0.1.3");
    for objects in [[old.clone(), young.clone()], [young, old]] {
        let (pools, findings) = Pools::new(&objects, false);
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!(
            finding.to_string(),
            "IPAddressPool metallb-system/a: spec.addresses[0]: CIDR \"10.0.0.250-10.0.1.3\" in pool \"a\" overlaps with \
             already defined CIDR \"10.0.0.0/24\" of pool \"z\" (mend: take it out of one of them)"
        );
        let names: Vec<&str> = pools.iter().map(|pool| &*pool.name).collect();
        assert_eq!(names, ["z"]);
    }
}

#[test]
fn a_freed_address_goes_to_whoever_waits() {
    let mut ipam = ipam(&[("p", json!({"addresses": ["10.0.0.1/32"]}))]);
    let (one, two) = (service("one", "4", &json!({})), service("two", "4", &json!({})));
    settle(&mut ipam, &one, &[]);
    assert_eq!(words(&settle(&mut ipam, &two, &[])), "no available IPs");
    let before = ipam.freed();
    settle(&mut ipam, &one, &[]);
    assert_eq!(ipam.freed(), before, "nothing became free");
    assert!(ipam.release(&id("one")) && !ipam.release(&id("one")));
    assert_eq!(ipam.freed(), before + 1);
    assert_eq!(words(&settle(&mut ipam, &two, &[])), "10.0.0.1");
}

#[test]
fn how_full_a_pool_is_counts_addresses_and_not_services() {
    let mut ipam = ipam(&[
        ("p", json!({"addresses": ["10.0.0.0/24", "fc00::/127"], "avoidBuggyIPs": true})),
        ("big", json!({"addresses": ["fc01::/64"], "autoAssign": false})),
    ]);
    settle(&mut ipam, &service("a", "46", &shared("k", 80, "TCP")), &[]);
    settle(&mut ipam, &service("b", "4", &shared("k", 81, "TCP")), &[]);
    settle(&mut ipam, &service("c", "4", &json!({})), &[]);
    let shown: Vec<String> = ipam
        .fill()
        .map(|(pool, status, services)| {
            format!(
                "{} {}/{} {}/{} {services}",
                pool.name, status.assigned_ipv4, status.available_ipv4, status.assigned_ipv6, status.available_ipv6
            )
        })
        .collect();
    assert_eq!(shown, [format!("big 0/0 0/{} 0", i64::MAX), "p 2/252 1/1 3".to_owned()]);
}

#[test]
fn only_services_of_our_class_and_type_ask() {
    let plain = service("s", "4", &json!({}));
    let classed = service("s", "4", &json!({"spec": {"loadBalancerClass": "x/y"}}));
    let other = service("s", "4", &json!({"spec": {"type": "NodePort"}}));
    let (none, ours) = (Class(None), Class(Some("x/y".to_owned())));
    assert!(is_asking(&plain, &none) && is_asking(&classed, &ours));
    assert!(!is_asking(&plain, &ours) && !is_asking(&classed, &none) && !is_asking(&other, &none));
    let headless = service("s", "4", &json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}));
    let silent = service("s", "4", &json!({"spec": {"clusterIP": null, "clusterIPs": []}}));
    let labels = Default::default();
    assert_eq!(Request::of(&headless, &labels, Some(headwater_model::nat::Family::V4)), Ok(None));
    assert_eq!(Request::of(&silent, &labels, None), Ok(None));
    assert_eq!(request(&silent).families, request(&plain).families);
}

#[test]
fn senseless_words_of_a_service_are_told() {
    for (more, words) in [
        (annotated("metallb.io/loadBalancerIPs", "10.0.0"), "invalid loadBalancerIPs \"10.0.0\""),
        (annotated("metallb.io/loadBalancerIPs", "10.0.0.1,10.0.0.2"), "at most one address of each family"),
        (annotated("metallb.io/loadBalancerIPs", "10.0.0.1,fc00::1,fc00::2"), "at most one address of each family"),
        (annotated("metallb.io/loadBalancerIPs", "10.0.0.1,"), "invalid loadBalancerIPs \"\""),
        (json!({"spec": {"loadBalancerIP": "here"}}), "invalid spec.loadBalancerIP \"here\""),
        (
            json!({"spec": {"loadBalancerIP": "10.0.0.1"}, "metadata": {"annotations": {"metallb.universe.tf/loadBalancerIPs": "10.0.0.1"}}}),
            "can not have both",
        ),
    ] {
        let error = Request::of(&service("s", "4", &more), &Default::default(), None).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
