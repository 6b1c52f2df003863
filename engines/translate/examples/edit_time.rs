//! Prints how long one edit takes to translate at 5,000 rules: many hosts, one host, one Ingress.
//!
//! `cargo run --release -p headwater-translate --example edit_time`

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_model::cluster::{Change, Cluster, Object};
use headwater_model::origin::ObjectKey;
use headwater_translate::{Options, Translator};
use serde_json::{Value, json};

const RULES: usize = 5_000;
const ROUNDS: u32 = 50;

/// The clock of a measurement; the translator itself reads none.
#[expect(clippy::disallowed_methods, reason = "this program measures time, the engine does not")]
fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = what();
    (result, start.elapsed())
}

fn path(text: String, service: usize) -> Value {
    json!({"path": text, "pathType": "Prefix",
        "backend": {"service": {"name": format!("web-{service}"), "port": {"number": 80}}}})
}

fn ingress(name: String, generation: u32, rules: Vec<Value>) -> Object {
    let value =
        json!({"metadata": {"name": name, "namespace": "shop", "generation": generation}, "spec": {"rules": rules}});
    Object::Ingress(Arc::new(serde_json::from_value(value).expect("an Ingress")))
}

fn rule(host: String, paths: Vec<Value>) -> Value {
    json!({"host": host, "http": {"paths": paths}})
}

fn service(nth: usize) -> [Object; 2] {
    let name = format!("web-{nth}");
    let service = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}});
    [Object::Service(Arc::new(serde_json::from_value(service).expect("a Service"))), slice(nth, 1)]
}

fn slice(nth: usize, last: u8) -> Object {
    let name = format!("web-{nth}");
    let value = json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": [{"addresses": [format!("10.0.0.{last}")]}],
    });
    Object::EndpointSlice(Arc::new(serde_json::from_value(value).expect("an EndpointSlice")))
}

fn measure(name: &str, services: usize, ingresses: Vec<Object>, edit: impl Fn(u32) -> Object) {
    let mut cluster = Cluster::default();
    for object in (0..services).flat_map(service).chain(ingresses) {
        cluster.apply(&Change::Set(object));
    }
    let mut translator = Translator::new(Options::embedded());
    let (first, full) = timed(|| translator.apply(&cluster, &[], 0));
    let mut kept = first.snapshot;
    let mut run = |make: &dyn Fn(u32) -> Object| {
        // Made before: what a parser leaves to the allocator is not the translator's time.
        let objects: Vec<Object> = (1..=ROUNDS).map(make).collect();
        let mut times: Vec<Duration> = objects
            .into_iter()
            .map(|object| {
                let key: ObjectKey = object.key();
                cluster.apply(&Change::Set(object));
                let (translation, time) = timed(|| translator.apply(&cluster, &[key], 0));
                assert!(translation.changed);
                kept = translation.snapshot;
                time
            })
            .collect();
        times.sort();
        (times[times.len() / 2], times[times.len() * 99 / 100])
    };
    let (route, route_99) = run(&edit);
    let (endpoint, _) = run(&|round| slice(0, 1 + (round % 2) as u8));
    println!(
        "{name:<34} full {full:>10.2?}   route edit {route:>10.2?} (p99 {route_99:>10.2?})   endpoint edit {endpoint:>10.2?}"
    );
}

fn main() {
    let text = |round: u32| if round.is_multiple_of(2) { "/".to_owned() } else { format!("/edit-{round}") };
    let host = |nth: usize| format!("host-{nth}.example.com");
    let many_hosts =
        (0..RULES).map(|nth| ingress(format!("web-{nth}"), 0, vec![rule(host(nth), vec![path("/".into(), nth)])]));
    measure("5000 hosts, an Ingress each", RULES, many_hosts.collect(), |round| {
        ingress("web-7".into(), round, vec![rule(host(7), vec![path(text(round), 7)])])
    });

    let one_host = |nth: usize, text: String| rule("host.example.com".into(), vec![path(text, nth)]);
    let split = (0..RULES).map(|nth| ingress(format!("web-{nth}"), 0, vec![one_host(nth, format!("/path-{nth}"))]));
    measure("1 host, 5000 Ingresses of 1 path", RULES, split.collect(), |round| {
        ingress("web-7".into(), round, vec![one_host(7, format!("/edit{}", text(round)))])
    });

    let all = |round: u32| {
        let paths = (0..RULES).map(|nth| match nth {
            7 => path(format!("/edit{}", text(round)), 7),
            nth => path(format!("/path-{nth}"), nth),
        });
        ingress("web".into(), round, vec![rule("host.example.com".into(), paths.collect())])
    };
    measure("1 host, 1 Ingress of 5000 paths", RULES, vec![all(0)], all);

    let rules = |round: u32| {
        let rules =
            (0..RULES).map(|nth| rule(host(nth), vec![path(if nth == 7 { text(round) } else { "/".into() }, nth)]));
        ingress("web".into(), round, rules.collect())
    };
    measure("5000 hosts, 1 Ingress", RULES, vec![rules(0)], rules);
}
