//! Prints how long 10,000 Services with 10 endpoints each take to derive, and then one change of an endpoint.
//!
//! `cargo run --release -p headwater-service-nat --example change_time`

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_model::cluster::{Change, Cluster, Object};
use headwater_model::origin::ObjectKey;
use headwater_service_nat::{NodeFacts, Options, ServiceNat};
use serde_json::{Value, json};

const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 10;
const NODES: usize = 50;
const ROUNDS: usize = 1_000;

/// The clock of a measurement; the engine itself reads none.
#[expect(clippy::disallowed_methods, reason = "this program measures time, the engine does not")]
fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = what();
    (result, start.elapsed())
}

fn service(nth: usize, kind: &str) -> Object {
    let ip = format!("172.16.{}.{}", nth / 250, 1 + nth % 250);
    let port = json!({"port": 80, "nodePort": if kind == "ClusterIP" { 0 } else { 20_000 + nth }});
    let value = json!({"metadata": {"name": format!("web-{nth}"), "namespace": "shop"},
        "spec": {"type": kind, "clusterIP": ip, "ports": [port]}});
    Object::Service(Arc::new(serde_json::from_value(value).expect("a Service")))
}

fn slice(nth: usize, ready: bool) -> Object {
    let endpoints: Vec<Value> = (0..ENDPOINTS)
        .map(|at| {
            let number = nth * ENDPOINTS + at;
            let address = format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255);
            json!({"addresses": [address], "nodeName": format!("node-{}", number % NODES),
                "conditions": {"ready": ready || at > 0}})
        })
        .collect();
    let labels = json!({"kubernetes.io/service-name": format!("web-{nth}")});
    let value = json!({"metadata": {"name": format!("web-{nth}-1"), "namespace": "shop", "labels": labels},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints});
    Object::EndpointSlice(Arc::new(serde_json::from_value(value).expect("an EndpointSlice")))
}

fn main() {
    for kind in ["ClusterIP", "NodePort"] {
        let mut cluster = Cluster::default();
        for nth in 0..SERVICES {
            cluster.apply(&Change::Set(service(nth, kind)));
            cluster.apply(&Change::Set(slice(nth, true)));
        }
        let node = NodeFacts { name: "node-1".into(), ..NodeFacts::default() };
        let mut nat = ServiceNat::new(Options { node, ..Options::default() });
        let (first, whole) = timed(|| nat.apply(&cluster, &[]));
        println!("{kind}: {} Services x {ENDPOINTS} endpoints: {whole:.0?}", first.changed.len());
        let mut times: Vec<Duration> = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            let changed = slice(round * 7 % SERVICES, false);
            let key: ObjectKey = changed.key();
            cluster.apply(&Change::Set(changed));
            let (update, time) = timed(|| nat.apply(&cluster, &[key]));
            assert_eq!(update.changed.len(), 1, "each change is one Service's");
            times.push(time);
        }
        times.sort();
        println!("{kind}: one endpoint: median {:.1?}, p99 {:.1?}", times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
    }
}
