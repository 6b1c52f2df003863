//! Pools and Services from JSON.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use headwater_ipam::{Ipam, Outcome, Pools, Request};
use headwater_model::metallb::IpAddressPool;
use headwater_model::nat::Family;
use headwater_model::object::Service;
use headwater_model::origin::NamespacedName;
use serde_json::{Value, json};

pub(crate) fn pool(name: &str, spec: Value) -> Arc<IpAddressPool> {
    let object = json!({"metadata": {"name": name, "namespace": "metallb-system"}, "spec": spec});
    Arc::new(serde_json::from_value(object).unwrap())
}

pub(crate) fn pools(all: &[(&str, Value)]) -> Pools {
    let objects: Vec<Arc<IpAddressPool>> = all.iter().map(|(name, spec)| pool(name, spec.clone())).collect();
    let (pools, findings) = Pools::new(&objects, false);
    assert!(findings.is_empty(), "{findings:?}");
    pools
}

/// A Service `a/name`. `families` is `4`, `6`, `46` or `64`; what is said replaces what stands there.
pub(crate) fn service(name: &str, families: &str, more: &Value) -> Service {
    let ips: Vec<&str> = families.chars().map(|family| if family == '4' { "10.96.0.1" } else { "fd00::1" }).collect();
    let mut object = json!({
        "metadata": {"name": name, "namespace": "a", "annotations": {}},
        "spec": {"type": "LoadBalancer", "clusterIP": ips[0], "clusterIPs": ips, "ports": [{"port": 80}]},
    });
    for (part, fields) in more.as_object().unwrap() {
        for (field, value) in fields.as_object().unwrap() {
            object[part][field] = value.clone();
        }
    }
    serde_json::from_value(object).unwrap()
}

pub(crate) fn id(name: &str) -> NamespacedName {
    NamespacedName::new("a", name)
}

pub(crate) fn request(service: &Service) -> Request {
    let labels = BTreeMap::from([("team".to_owned(), "red".to_owned())]);
    Request::of(service, &labels, Some(Family::V4)).unwrap().unwrap()
}

pub(crate) fn settle(ipam: &mut Ipam, service: &Service, held: &[&str]) -> Outcome {
    let held: Vec<IpAddr> = held.iter().map(|address| address.parse().unwrap()).collect();
    ipam.settle(
        &NamespacedName::new(service.metadata.namespace.clone(), service.metadata.name.clone()),
        &request(service),
        &held,
    )
}

/// The addresses, or why there are none.
pub(crate) fn words(outcome: &Outcome) -> String {
    match &outcome.result {
        Ok(assignment) => assignment.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        Err(error) => error.to_string(),
    }
}
