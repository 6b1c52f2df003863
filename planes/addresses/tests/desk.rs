//! What is written for which objects. Cases follow MetalLB's controller/controller_test.go.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;

use headwater_addresses::{Class, Desk, ServiceWrite};
use headwater_kube_io::Batch;
use headwater_model::cluster::{Change, Object};
use headwater_model::finding::Finding;
use headwater_model::origin::{Kind, ObjectKey};
use serde_json::{Value, json};

fn pool(name: &str, spec: Value) -> Change {
    let object = json!({"metadata": {"name": name, "namespace": "metallb-system"}, "spec": spec});
    Change::Set(Object::IpAddressPool(Arc::new(serde_json::from_value(object).unwrap())))
}

fn namespace(labels: Value) -> Change {
    let object = json!({"metadata": {"name": "a", "labels": labels}});
    Change::Set(Object::Namespace(Arc::new(serde_json::from_value(object).unwrap())))
}

/// A Service `a/name` with these addresses in its status.
fn service(name: &str, held: &[&str], more: &Value) -> Change {
    let ingress: Vec<Value> = held.iter().map(|address| json!({"ip": address})).collect();
    let mut object = json!({
        "metadata": {"name": name, "namespace": "a", "annotations": {}},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": ingress}},
    });
    for (part, fields) in more.as_object().unwrap() {
        for (field, value) in fields.as_object().unwrap() {
            object[part][field] = value.clone();
        }
    }
    Change::Set(Object::Service(Arc::new(serde_json::from_value(object).unwrap())))
}

fn take(desk: &mut Desk, changes: Vec<Change>) -> Vec<String> {
    shown(desk.take(Batch { changes, ..Batch::default() }))
}

/// `name [addresses] pool | events`, with `-` for what stays.
fn shown(writes: Vec<ServiceWrite>) -> Vec<String> {
    let one = |write: ServiceWrite| {
        let addresses = write.addresses.map_or("-".to_owned(), |addresses| format!("{addresses:?}"));
        let pool = write.pool.map_or("-".to_owned(), |pool| pool.as_deref().unwrap_or("none").to_owned());
        let events: Vec<String> =
            write.events.iter().map(|event| format!("{}: {}", event.reason, event.note)).collect();
        format!("{} {addresses} {pool} | {}", write.id.name, events.join("; "))
    };
    writes.into_iter().map(one).collect()
}

fn has(pool: &str) -> Value {
    json!({"metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": pool}}})
}

fn first() -> Change {
    pool("first", json!({"addresses": ["10.0.0.0/30"]}))
}

#[test]
fn a_service_is_told_once_and_what_is_so_already_is_not_written() {
    let mut desk = Desk::new(Class(None), "metallb-system");
    let writes =
        take(&mut desk, vec![first(), service("one", &[], &json!({})), service("two", &["10.0.0.3"], &has("first"))]);
    assert_eq!(writes, ["one [10.0.0.0] first | IPAllocated: Assigned IP [\"10.0.0.0\"]"]);
    assert_eq!(take(&mut desk, vec![service("one", &["10.0.0.0"], &has("first"))]), [""; 0]);
    // Somebody else changes it.
    assert_eq!(
        take(&mut desk, vec![service("one", &["192.0.2.1"], &has("first"))]),
        ["one [10.0.0.0] - | IPAllocated: Assigned IP [\"10.0.0.0\"]"]
    );
    assert_eq!(take(&mut desk, vec![service("one", &["10.0.0.0"], &json!({}))]), ["one - first | "]);
}

#[test]
fn a_restart_takes_nothing_from_a_service_that_is_read_later() {
    let dual = json!({"addresses": ["10.0.0.1-10.0.0.3", "fc00::1-fc00::3"]});
    let half = |name: &str, held: &[&str]| {
        service(
            name,
            held,
            &json!({
                "metadata": {"annotations": {"metallb.io/ip-allocated-from-pool": "dual"}},
                "spec": {"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilyPolicy": "PreferDualStack"},
            }),
        )
    };
    let mut desk = Desk::new(Class(None), "metallb-system");
    let changes = vec![
        half("a", &["10.0.0.1"]),
        half("b", &["10.0.9.9"]),
        half("z", &["10.0.0.2", "fc00::1"]),
        pool("dual", dual),
    ];
    assert_eq!(
        take(&mut desk, changes),
        [
            "a [10.0.0.1, fc00::2] - | IPAllocated: Assigned IP [\"10.0.0.1\" \"fc00::2\"]",
            "b [10.0.0.3, fc00::3] - | ClearAssignment: current IP [\"10.0.9.9\"] is taken away: \"10.0.9.9\" is not allowed in \
             config; IPAllocated: Assigned IP [\"10.0.0.3\" \"fc00::3\"]",
        ]
    );
}

#[test]
fn who_waits_is_told_why_once_and_served_when_an_address_or_a_pool_comes() {
    let mut desk = Desk::new(Class(None), "metallb-system");
    let one = || pool("first", json!({"addresses": ["10.0.0.1/32"]}));
    take(&mut desk, vec![one(), service("one", &[], &json!({}))]);
    let failed = "AllocationFailed: Failed to allocate IP for \"a/two\": no available IPs";
    assert_eq!(take(&mut desk, vec![service("two", &[], &json!({}))]), [format!("two - - | {failed}")]);
    let edited = json!({"spec": {"ports": [{"port": 81}]}});
    assert_eq!(take(&mut desk, vec![service("two", &[], &edited)]), [""; 0]);
    let gone = Change::Removed(ObjectKey::new(Kind::Service, "a", "one"));
    assert_eq!(take(&mut desk, vec![gone]), ["two [10.0.0.1] first | IPAllocated: Assigned IP [\"10.0.0.1\"]"]);
    // One for a label that the namespace gets later.
    let labelled = json!({"addresses": ["10.0.7.0/24"], "serviceAllocation": {"namespaceSelectors": [{"matchLabels": {"team": "red"}}]}});
    take(&mut desk, vec![pool("labelled", labelled), service("three", &[], &json!({}))]);
    assert_eq!(
        take(&mut desk, vec![namespace(json!({"team": "red"}))]),
        ["three [10.0.7.0] labelled | IPAllocated: Assigned IP [\"10.0.7.0\"]"]
    );
}

#[test]
fn a_service_that_no_longer_asks_loses_only_what_we_gave() {
    let mut desk = Desk::new(Class(None), "metallb-system");
    let plain = |more: Value, held: &[&str]| service("one", held, &more);
    take(&mut desk, vec![first(), plain(has("first"), &["10.0.0.1"])]);
    let mut other = has("first");
    other["spec"] = json!({"type": "ClusterIP"});
    assert_eq!(take(&mut desk, vec![plain(other, &["10.0.0.1"])]), ["one [] none | "]);
    // Of another class, with an address of its controller.
    let classed = json!({"spec": {"loadBalancerClass": "x/y"}});
    assert_eq!(take(&mut desk, vec![service("two", &["192.0.2.7"], &classed)]), [""; 0]);
    // Without a ClusterIP.
    let headless = json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
    assert_eq!(take(&mut desk, vec![service("three", &["10.0.0.2"], &headless)]), ["three [] - | "]);
}

#[test]
fn senseless_words_are_told_and_take_nothing_away() {
    let mut desk = Desk::new(Class(None), "metallb-system");
    let senseless = json!({"metadata": {"annotations": {"metallb.universe.tf/loadBalancerIPs": "x", "metallb.io/ip-allocated-from-pool": "first"}}});
    let writes =
        take(&mut desk, vec![first(), service("one", &["10.0.0.2"], &senseless), service("two", &[], &json!({}))]);
    let [one, two] = &writes[..] else { panic!("{writes:?}") };
    assert!(one.starts_with("one - - | AllocationFailed: ") && one.contains("deprecatedAnnotation: "), "{one}");
    assert!(two.starts_with("two [10.0.0.0] first"), "{two}");
    let wish = json!({"spec": {"loadBalancerIP": "10.0.0.2"}});
    let writes = take(&mut desk, vec![service("three", &[], &wish)]);
    assert!(writes[0].contains("address 10.0.0.2 also in use by a/one"), "{writes:?}");
}

#[test]
fn while_pools_may_be_hidden_nothing_is_taken_away() {
    let mut desk = Desk::new(Class(None), "metallb-system");
    let unread =
        Finding::error("InvalidObject", ObjectKey::new(Kind::IpAddressPool, "metallb-system", "p"), "not read");
    let hidden = Batch { findings: vec![unread], ..Batch::default() };
    let changes = vec![first(), service("one", &["10.0.9.9"], &has("p")), service("two", &[], &json!({}))];
    let writes = shown(desk.take(Batch { changes, ..hidden }));
    assert_eq!(writes, ["two [10.0.0.0] first | IPAllocated: Assigned IP [\"10.0.0.0\"]"]);
    let [finding] = desk.findings() else { panic!("{:?}", desk.findings()) };
    assert_eq!(finding.reason, "InvalidObject");
    // It is mended, and is not the one.
    let writes = take(&mut desk, vec![]);
    assert!(writes[0].starts_with("one [10.0.0.1] first | ClearAssignment: "), "{writes:?}");
    assert!(desk.findings().is_empty());
}

#[test]
fn a_pool_is_written_when_it_fills() {
    let mut desk = Desk::new(Class(None), "metallb-system");
    take(&mut desk, vec![first(), service("one", &[], &json!({}))]);
    let writes = desk.pool_writes();
    let [write] = &writes[..] else { panic!("{writes:?}") };
    assert_eq!((write.status.assigned_ipv4, write.status.available_ipv4), (1, 3));
    let mut said =
        json!({"metadata": {"name": "first", "namespace": "metallb-system"}, "spec": {"addresses": ["10.0.0.0/30"]}});
    said["status"] = serde_json::to_value(write.status).unwrap();
    let said = Change::Set(Object::IpAddressPool(Arc::new(serde_json::from_value(said).unwrap())));
    assert_eq!(take(&mut desk, vec![said]), [""; 0]);
    assert_eq!(desk.pool_writes(), []);
}
