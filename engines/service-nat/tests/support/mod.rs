//! Builders: Services, slices and a node, and short ways to ask a snapshot.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "test code, of which each file uses its part")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use headwater_model::cluster::{Change, Cluster, Object};
use headwater_model::nat::{FrontendAddress, Masquerade, PortRules, ServiceRules, Slot, Transport};
use headwater_model::origin::{NamespacedName, ObjectKey};
use headwater_service_nat::{
    Conflicts, Decision, Dropped, NodeFacts, Options, Packet, Place, Refused, ServiceNat, Update, decide,
};
use serde_json::{Value, json};

/// `node-1` in zone `a`; pods are in 10.0.0.0/8 and fd10::/16, Services in 172.16.0.0/16 and fd16::/16.
pub fn options() -> Options {
    Options {
        node: NodeFacts {
            name: "node-1".into(),
            zone: Some("a".into()),
            primary: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            addresses: ["127.0.0.1", "192.0.2.1", "198.51.100.1", "2001:db8::1", "::1"]
                .iter()
                .map(|address| address.parse().unwrap())
                .collect(),
            pod_cidrs: vec!["10.1.1.0/24".parse().unwrap()],
        },
        cluster_cidrs: vec!["10.0.0.0/8".parse().unwrap(), "fd10::/16".parse().unwrap()],
        service_cidrs: vec!["172.16.0.0/16".parse().unwrap(), "fd16::/16".parse().unwrap()],
        ..Options::default()
    }
}

/// Like kube-proxy: nobody's client is kept.
pub fn kube_proxy() -> Options {
    Options { keep: headwater_model::nat::KeepClient::Masquerade, ..options() }
}

pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

/// `n/NAME` with port 80 at 172.16.0.1; `more` is merged over it.
pub fn service(name: &str, more: Value) -> Value {
    let mut value = json!({
        "kind": "Service",
        "metadata": {"namespace": "n", "name": name},
        "spec": {"clusterIP": "172.16.0.1", "ports": [{"port": 80}]}
    });
    merge(&mut value, more);
    value
}

/// `ADDRESS@NODE` and then, each after a blank: `notready`, `draining` (serves while it terminates), `gone` (does not),
/// `zone=a`, `node=node-1`.
pub fn endpoint(text: &str) -> Value {
    let mut words = text.split(' ');
    let (address, node) = words.next().unwrap().split_once('@').unwrap();
    let mut value = json!({"addresses": [address]});
    if !node.is_empty() {
        value["nodeName"] = json!(node);
    }
    for word in words {
        match word.split_once('=') {
            Some(("zone", zone)) => value["hints"]["forZones"] = json!([{"name": zone}]),
            Some(("node", node)) => value["hints"]["forNodes"] = json!([{"name": node}]),
            _ => {
                value["conditions"] = match word {
                    "ready" => json!({"ready": true}),
                    "notready" => json!({"ready": false, "serving": false, "terminating": false}),
                    "draining" => json!({"ready": false, "serving": true, "terminating": true}),
                    "gone" => json!({"ready": false, "serving": false, "terminating": true}),
                    other => panic!("{other} is no condition"),
                }
            }
        }
    }
    value
}

/// A slice of `n/SERVICE` with endpoints at port 8080.
pub fn slice(service: &str, name: &str, endpoints: &[&str]) -> Value {
    let is_v6 = endpoints.first().is_some_and(|text| text.starts_with("fd") || text.starts_with("::"));
    json!({
        "kind": "EndpointSlice",
        "metadata": {"namespace": "n", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": if is_v6 { "IPv6" } else { "IPv4" },
        "ports": [{"port": 8080}],
        "endpoints": endpoints.iter().map(|text| endpoint(text)).collect::<Vec<_>>(),
    })
}

pub fn object(value: Value) -> Object {
    match value["kind"].as_str().unwrap() {
        "Service" => Object::Service(Arc::new(serde_json::from_value(value).unwrap())),
        "EndpointSlice" => Object::EndpointSlice(Arc::new(serde_json::from_value(value).unwrap())),
        other => panic!("{other} is no kind"),
    }
}

/// A cluster and its rules, edited together.
pub struct World {
    pub cluster: Cluster,
    pub nat: ServiceNat,
    pub last: Update,
    conflicts: Conflicts,
}

impl World {
    pub fn new(options: Options, objects: impl IntoIterator<Item = Value>) -> Self {
        let mut cluster = Cluster::default();
        for value in objects {
            cluster.apply(&Change::Set(object(value)));
        }
        let mut nat = ServiceNat::new(options);
        let last = nat.apply(&cluster, &[]);
        let mut world = Self { cluster, nat, last, conflicts: Conflicts::default() };
        world.look_for_conflicts(&[]);
        world
    }

    pub fn set(&mut self, value: Value) -> &Update {
        self.change(Change::Set(object(value)))
    }

    pub fn remove(&mut self, value: Value) -> &Update {
        self.change(Change::Removed(object(value).key()))
    }

    pub fn change(&mut self, change: Change) -> &Update {
        self.cluster.apply(&change);
        let changes = [change.key()];
        self.last = self.nat.apply(&self.cluster, &changes);
        self.look_for_conflicts(&changes);
        &self.last
    }

    /// They are those that the node finds.
    fn look_for_conflicts(&mut self, changes: &[ObjectKey]) {
        let known = self.last.findings.iter().filter(|finding| finding.reason == "Conflict");
        let found = self.conflicts.apply(&self.cluster, changes);
        assert!(known.eq(found.iter()), "{found:#?}");
    }

    pub fn service(&self, name: &str) -> Option<&Arc<ServiceRules>> {
        self.last.snapshot.get(&NamespacedName::new("n", name))
    }

    pub fn port(&self, name: &str) -> &Arc<PortRules> {
        &self.service(name).unwrap().ports[0]
    }

    pub fn reasons(&self) -> Vec<&'static str> {
        self.last.findings.iter().map(|finding| finding.reason).collect()
    }

    /// What becomes of a TCP packet, in short: `10.0.0.1 10.0.0.2`, `masquerade 10.0.0.1`, `kept 10.0.0.1`, `reject`,
    /// `reject port`, `drop`, `drop source`, `drop address`, `pass`.
    pub fn send(&self, place: Place, source: &str, destination: &str) -> String {
        self.send_by(Transport::Tcp, place, source, destination)
    }

    pub fn send_by(&self, protocol: Transport, place: Place, source: &str, destination: &str) -> String {
        let destination: SocketAddr = destination.parse().unwrap();
        let packet = Packet { place, source: source.parse().unwrap(), destination, protocol };
        match decide(&self.last.snapshot, &packet) {
            Decision::Pass => "pass".to_owned(),
            Decision::Reject(Refused::NoEndpoints) => "reject".to_owned(),
            Decision::Reject(Refused::UnknownPort) => "reject port".to_owned(),
            Decision::Drop(Dropped::NoLocalEndpoints) => "drop".to_owned(),
            Decision::Drop(Dropped::Source) => "drop source".to_owned(),
            Decision::Drop(Dropped::UnknownAddress) => "drop address".to_owned(),
            Decision::Forward { rules, slots, masquerade, .. } => {
                let prefix = match masquerade {
                    Masquerade::HairpinOnly => "",
                    Masquerade::UnlessKept => "kept ",
                    Masquerade::Always => "masquerade ",
                    Masquerade::OffCluster => panic!("it is resolved"),
                };
                format!("{prefix}{}", addresses(rules, slots))
            }
        }
    }
}

/// Sorted, with blanks between.
pub fn addresses(rules: &PortRules, slots: &[Slot]) -> String {
    let of = |slot: &Slot| rules.endpoint(*slot).expect("sets name endpoints").address.ip();
    let sorted: BTreeSet<_> = slots.iter().map(of).collect();
    assert_eq!(sorted.len(), slots.len(), "each endpoint once");
    sorted.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

pub fn frontends(rules: &PortRules) -> Vec<FrontendAddress> {
    rules.frontends.iter().map(|frontend| frontend.address).collect()
}
