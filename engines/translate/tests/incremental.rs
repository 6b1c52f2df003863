//! Edits one by one end where a translation of everything ends.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::sync::{Arc, LazyLock};

use headwater_model::cluster::Change;
use headwater_model::gateway::GatewaySnapshot;
use headwater_translate::{AlbScope, Options, Translation};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::*;

/// Listeners and pools as JSON, without what only a history has: numbers of pools and generations.
fn comparable(snapshot: &GatewaySnapshot) -> Value {
    fn walk(value: &mut Value, snapshot: &GatewaySnapshot) {
        match value {
            Value::Object(map) => {
                map.remove("generation");
                if let Some(id) = map.get("pool").and_then(Value::as_u64) {
                    let id = headwater_model::gateway::PoolId(u32::try_from(id).unwrap());
                    map["pool"] = serde_json::to_value(snapshot.pools.find(id).expect("pools in use exist")).unwrap();
                }
                map.values_mut().for_each(|value| walk(value, snapshot));
            }
            Value::Array(values) => values.iter_mut().for_each(|value| walk(value, snapshot)),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(&snapshot.listeners).unwrap();
    walk(&mut value, snapshot);
    let pools = snapshot.pools.0.iter().flatten().count();
    json!({"listeners": value, "pools": pools})
}

static CERTIFICATES: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let of = |names: &[&str], algorithm| certificate(names, algorithm, 2060);
    vec![
        of(&["a.example"], Algorithm::Ecdsa),
        of(&["a.example", "b.example"], Algorithm::Ed25519),
        of(&["*.example"], Algorithm::Ecdsa),
        of(&["x.a.example", "*.b.example"], Algorithm::Ecdsa),
        certificate(&["b.example"], Algorithm::Ed25519, 2021),
        ("nonsense".to_owned(), "nonsense".to_owned()),
    ]
});

fn choice<const N: usize>(values: [&'static str; N]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(values.to_vec())
}

fn paths() -> impl Strategy<Value = Vec<Value>> {
    let one = (
        choice(["/", "/a", "/a/b", "/.well-known/acme-challenge/x", "/x//y"]),
        choice(["Prefix", "Exact"]),
        choice(["one", "two", "gone"]),
        prop_oneof![5 => Just(80_u16), 1 => Just(81)],
    );
    let one = one.prop_map(
        |(text, kind, service, port)| json!({"path": text, "pathType": kind, "backend": backend(service, port)}),
    );
    proptest::collection::vec(one, 0..4)
}

fn an_ingress() -> impl Strategy<Value = Value> {
    let hosts = choice(["a.example", "b.example", "x.a.example", "*.example", "*.b.example", "", "bad_host"]);
    let one = (hosts, proptest::option::weighted(0.9, paths())).prop_map(|(host, paths)| match paths {
        Some(paths) => rule(host, paths),
        None => json!({"host": host}),
    });
    let tls = (
        proptest::collection::vec(choice(["a.example", "*.example", "b.example", "bad host"]), 0..3),
        choice(["s1", "s2", ""]),
    )
        .prop_map(|(hosts, secret)| json!({"hosts": hosts, "secretName": secret}));
    let annotation = proptest::option::of(choice([
        "ssl-redirect=false",
        "force-ssl-redirect=true",
        "backend-protocol=GRPC",
        "backend-protocol=FCGI",
        "canary=true",
        "load-balance=ewma",
        "auth-url=x",
        "ssl-passthrough=true",
        "ssl-passthrough=true",
    ]));
    (
        choice(["n/one", "n/two", "m/one"]),
        proptest::collection::vec(one, 0..4),
        proptest::collection::vec(tls, 0..3),
        proptest::option::weighted(0.3, choice(["one", "two"])),
        annotation,
        proptest::option::of(0..3_u8),
        proptest::option::weighted(0.6, choice(["hw", "two", "other"])),
        0..5_i64,
    )
        .prop_map(|(id, rules, tls, default, annotation, year, class, generation)| {
            let mut value = ingress(id, rules);
            value["metadata"]["generation"] = json!(generation);
            value["spec"]["tls"] = json!(tls);
            value["spec"]["ingressClassName"] = json!(class);
            value["spec"]["defaultBackend"] = default.map_or(Value::Null, |service| backend(service, 80));
            if let Some((name, text)) = annotation.and_then(|text| text.split_once('=')) {
                value["metadata"]["annotations"] = json!({(nginx(name)): text});
            }
            if let Some(year) = year {
                value["metadata"]["creationTimestamp"] = json!(format!("202{year}-01-01T00:00:00Z"));
            }
            value
        })
}

/// An ALB2, a Frontend or a Rule; mostly of each other.
fn of_an_alb() -> impl Strategy<Value = Value> {
    let shared = prop_oneof![
        6 => Just(json!({})),
        1 => Just(json!({"timeout": {"proxy_read_timeout_ms": 7}})),
        1 => Just(json!({"auth": {"basic": {"realm": "r", "secret": "n/s1", "secret_type": "auth-map", "auth_type": "basic"}}})),
        1 => Just(json!({"auth": {"enable": false}})),
        1 => Just(json!({"modsecurity": {"enable": true}})),
        1 => Just(json!({"otel": {"enable": true, "exporter": {"collector": {"address": "c:4318", "request_timeout": 1}}}})),
        1 => Just(json!({"redirect": {"scheme": "https"}})),
        1 => Just(json!({"keepalive": {"http": {"timeout": "5s"}, "tcp": {"count": 3}}})),
    ];
    let metadata = |namespace: &str, name: String, labels: Value, year: Option<u8>| {
        let mut metadata = json!({"namespace": namespace, "name": name, "labels": labels});
        if let Some(year) = year {
            metadata["creationTimestamp"] = json!(format!("202{year}-01-01T00:00:00Z"));
        }
        metadata
    };
    let years = || proptest::option::of(0..3_u8);
    let albs =
        (choice(["demo", "other"]), shared.clone(), 0..7_usize, years()).prop_map(move |(name, shared, nth, year)| {
            let mut config = shared;
            let more = [
                json!({}),
                json!({"defaultSSLCert": "n/s1", "enableHTTP2": "false"}),
                json!({"ingressSSLRedirect": true}),
                json!({"enableALb": false}),
                json!({"enableIPV6": "false"}),
            ];
            config
                .as_object_mut()
                .unwrap()
                .extend(more.get(nth).cloned().unwrap_or(json!({})).as_object().unwrap().clone());
            let mut metadata = metadata("n", name.to_owned(), json!({}), year);
            if nth == 6 {
                metadata["annotations"] = json!({"headwater.dev/settings": "one"});
            }
            let spec = if nth == 5 { json!({"address": "192.0.2.1"}) } else { json!({"config": config}) };
            json!({"kind": "ALB2", "metadata": metadata, "spec": spec})
        });
    let group = |service: &str| json!({"services": [{"name": service, "namespace": "n", "port": 80}]});
    let frontends = (
        (choice(["f1", "f2", "f3"]), choice(["demo", "demo", "other", ""])),
        (choice(["80", "81"]), choice(["http", "https", "grpc", "tcp", "udp"])),
        (shared.clone(), proptest::option::of(choice(["one", "gone"])), proptest::option::of(Just("n/s2")), years()),
    );
    let frontends = frontends.prop_map(move |((name, alb), (port, protocol), (shared, service, secret, year))| {
        let labels = if alb.is_empty() { json!({}) } else { json!({"alb2.cpaas.io/name": alb}) };
        let mut spec = json!({"port": port.parse::<u16>().unwrap(), "protocol": protocol, "config": shared});
        spec["serviceGroup"] = service.map_or(Value::Null, group);
        spec["certificate_name"] = json!(secret);
        json!({"kind": "Frontend", "metadata": metadata("n", name.to_owned(), labels, year), "spec": spec})
    });
    let terms = prop_oneof![
        4 => choice(["/", "/a", "/b"]).prop_map(|path| json!([{"type": "URL", "values": [["STARTS_WITH", path]]}])),
        3 => choice(["a.example", "b.example"]).prop_map(|host| json!([{"type": "HOST", "values": [["EQ", host]]}])),
        1 => Just(json!([{"type": "URL", "values": [["REGEX", "/a(?=b)"]]}])),
        1 => Just(Value::Null),
    ];
    let rules = (
        (0..6_u8, choice(["demo", "demo", "other", ""]), choice(["f1", "f2", "f3", "f4", ""])),
        (terms, shared, choice(["one", "two", "gone"]), 0..3_i64),
        (proptest::option::of(choice(["n/s1", "n/s2"])), 0..3_i64),
    );
    let rules =
        rules.prop_map(move |((nth, alb, frontend), (dslx, shared, service, priority), (secret, generation))| {
            let mut labels = json!({});
            for (label, value) in [("alb2.cpaas.io/name", alb), ("alb2.cpaas.io/frontend", frontend)] {
                if !value.is_empty() {
                    labels[label] = json!(value);
                }
            }
            let mut metadata = metadata("n", format!("r{nth}"), labels, None);
            metadata["generation"] = json!(generation);
            let spec = json!({
                "dslx": dslx, "config": shared, "priority": priority, "serviceGroup": group(service),
                "certificate_name": secret, "domain": "a.example",
            });
            json!({"kind": "Rule", "metadata": metadata, "spec": spec})
        });
    let projects = (choice(["n", "m"]), choice(["p", "q"])).prop_map(|(name, project)| {
        json!({"kind": "Namespace", "metadata": {"name": name, "labels": {"cpaas.io/project": project}}})
    });
    prop_oneof![1 => albs, 2 => frontends, 4 => rules, 1 => projects]
}

fn any_object() -> impl Strategy<Value = Value> {
    let services =
        (choice(["n/one", "n/two", "m/one"]), prop_oneof![4 => Just(80_u16), 1 => Just(81)], choice(["", "grpc"]));
    let services = services.prop_map(|(id, port, protocol)| {
        let mut value = service(id, port);
        value["spec"]["ports"][0]["appProtocol"] = json!(protocol);
        value
    });
    let slices = (
        choice(["n/one", "n/two", "m/one"]),
        choice(["s1", "s2"]),
        proptest::sample::subsequence(vec!["10.0.0.1", "10.0.0.2", "10.0.0.3"], 0..3),
    );
    let slices = slices.prop_map(|(service, name, addresses)| slice(service, name, &addresses, 8080));
    let secrets = (choice(["n/s1", "n/s2", "m/s1"]), 0..CERTIFICATES.len())
        .prop_map(|(id, nth)| secret_of(id, CERTIFICATES[nth].clone()));
    let classes =
        (choice(["hw", "two"]), proptest::option::of(choice(["infra/one", "infra/two"])), proptest::bool::ANY);
    let classes = classes.prop_map(|(name, settings, default)| {
        let class = class(name, settings);
        if default { annotated(class, json!({"ingressclass.kubernetes.io/is-default-class": "true"})) } else { class }
    });
    let gateways = (choice(["infra/one", "infra/two"]), 0..6_usize).prop_map(|(id, nth)| {
        let backends = |port: u16| json!([{"service": "n/one", "port": 80}, {"service": "n/two", "port": port}]);
        let listeners = |port: u16| json!([
            {"name": "http", "port": port, "protocol": "HTTP"}, {"name": "https", "port": port + 1, "protocol": "HTTPS"},
        ]);
        settings(&id.replace("infra/one", if nth == 0 { "n/one" } else { "infra/one" }), [
            json!({}),
            json!({"listeners": listeners(8000)}),
            json!({"listeners": listeners(8001), "retries": {"attempts": 0}}),
            json!({"tls": {"defaultCertificate": "n/s1"}}),
            json!({"listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}], "clientAddress": {"trustedHops": 1}}),
            json!({"listeners": [{"name": "tcp", "port": 8000, "protocol": "TCP", "backends": backends(80)},
                {"name": "udp", "port": 8000, "protocol": "UDP", "backends": backends(81)},
                {"name": "https", "port": 8003, "protocol": "HTTPS"}]}),
        ][nth].clone())
    });
    let config = (0..4_usize).prop_map(|nth| {
        nginx_config(
            [
                json!({}),
                json!({"ssl-redirect": "false"}),
                json!({"use-proxy-protocol": "true", "use-gzip": "true"}),
                json!({"no-tls-redirect-locations": "/a", "force-ssl-redirect": "true"}),
            ][nth]
                .clone(),
        )
    });
    prop_oneof![8 => an_ingress(), 8 => of_an_alb(), 3 => services, 3 => slices, 3 => secrets, 1 => classes, 1 => gateways, 1 => config]
}

fn check(before: &Translation, after: &Translation, fresh: &Translation) -> Result<(), TestCaseError> {
    prop_assert_eq!(comparable(&after.snapshot), comparable(&fresh.snapshot));
    prop_assert_eq!(&after.findings, &fresh.findings);
    prop_assert_eq!(after.changed, !Arc::ptr_eq(&before.snapshot, &after.snapshot));
    if !after.changed {
        return Ok(());
    }
    prop_assert_eq!(after.snapshot.generation, before.snapshot.generation + 1);
    for (old, new) in before.snapshot.pools.0.iter().zip(&after.snapshot.pools.0) {
        if let (Some(old), Some(new)) = (old, new) {
            let identity = |pool: &headwater_model::gateway::Pool| (pool.service.clone(), pool.port, pool.protocol);
            prop_assert_eq!(identity(old), identity(new), "a number changes hands only by way of nobody");
            prop_assert_eq!(old == new, Arc::ptr_eq(old, new));
        }
    }
    for (old, new) in before.snapshot.listeners.iter().zip(&after.snapshot.listeners) {
        for (host, new) in &new.routes.hosts {
            let Some(old) = old.routes.hosts.get(host) else { continue };
            // A default backend's rule stands at no place of its own.
            for new in new.rules.iter().filter(|rule| &*rule.field != "spec.defaultBackend") {
                let same = old.rules.iter().find(|old| ***old == **new);
                prop_assert!(same.is_none_or(|same| Arc::ptr_eq(same, new)), "{:?} was rebuilt", new);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edits_end_where_a_full_translation_ends(
        embedded in proptest::bool::ANY,
        start in proptest::collection::vec(any_object(), 0..35),
        edits in proptest::collection::vec((any_object(), proptest::bool::weighted(0.3), proptest::bool::weighted(0.3)), 1..25),
    ) {
        let options = if embedded { Options::embedded() } else { Options { albs: AlbScope::All, ..Options::default() } };
        let classes = if embedded { vec![] } else { vec![class("hw", None)] };
        let (mut world, mut before) = World::new(options, start.into_iter().chain(classes));
        let mut keys = Vec::new();
        for (value, removed, held_back) in edits {
            let object = object(value);
            let change = if removed { Change::Removed(object.key()) } else { Change::Set(object) };
            world.cluster.apply(&change);
            keys.push(change.key());
            // Several changes may come as one.
            if held_back {
                continue;
            }
            let after = world.translator.apply(&world.cluster, &std::mem::take(&mut keys), NOW);
            check(&before, &after, &world.fresh())?;
            before = after;
        }
    }
}

#[test]
fn an_edit_of_one_host_leaves_every_other_entry_the_same_pointer() {
    let web = |id: &str, host: &str, text: &str| ingress(id, vec![rule(host, vec![path(text, "Prefix", "web")])]);
    let (mut world, before) = World::new(
        Options::embedded(),
        [service("n/web", 80), web("n/a", "a.example", "/"), web("n/b", "b.example", "/")],
    );
    let after = world.set(web("n/a", "a.example", "/new"));
    let table = |translation: &Translation| translation.snapshot.listeners[0].routes.clone();
    assert!(after.changed);
    assert!(Arc::ptr_eq(&table(&before).hosts[&host("b.example")], &table(&after).hosts[&host("b.example")]));
    assert_eq!(shown(&after.snapshot, "a.example"), ["prefix /new -> n/web:80"]);
    let tls = |translation: &Translation| listener(&translation.snapshot, "https").tls.clone().unwrap();
    assert!(Arc::ptr_eq(&tls(&before), &tls(&after)));
    assert!(Arc::ptr_eq(before.snapshot.pools.0[0].as_ref().unwrap(), after.snapshot.pools.0[0].as_ref().unwrap()));
}

#[test]
fn an_edit_of_endpoints_changes_one_pool_and_no_table() {
    let (mut world, before) = World::new(
        Options::embedded(),
        [
            service("n/web", 80),
            service("n/api", 80),
            slice("n/web", "web", &["10.0.0.1"], 80),
            ingress("n/a", vec![rule("a.example", vec![path("/", "Prefix", "web"), path("/api", "Prefix", "api")])]),
        ],
    );
    let after = world.set(slice("n/web", "web", &["10.0.0.2"], 80));
    assert!(after.changed);
    assert!(Arc::ptr_eq(&before.snapshot.listeners[0], &after.snapshot.listeners[0]));
    let changed = before.snapshot.pools.0.iter().zip(&after.snapshot.pools.0);
    let changed = changed.filter(|(old, new)| !Arc::ptr_eq(old.as_ref().unwrap(), new.as_ref().unwrap()));
    assert_eq!(changed.count(), 1);
    let again = world.set(slice("n/web", "web", &["10.0.0.2"], 80));
    assert!(!again.changed);
    assert!(Arc::ptr_eq(&after.snapshot, &again.snapshot));
}

#[test]
fn a_freed_pool_number_waits_for_the_next_translation() {
    let to = |service: &str| ingress("n/a", vec![rule("a.example", vec![path("/", "Prefix", service)])]);
    let (mut world, before) = World::new(Options::embedded(), [service("n/one", 80), service("n/two", 80), to("one")]);
    let id = |translation: &Translation| forward(&rules(&translation.snapshot, "a.example")[0]).backends[0].pool.0;
    assert_eq!(id(&before), 0);
    assert_eq!(id(&world.set(to("two"))), 1);
    assert_eq!(id(&world.set(to("one"))), 0);
}

#[test]
fn a_new_generation_alone_changes_nothing() {
    let web = ingress("n/a", vec![rule("a.example", vec![path("/", "Prefix", "web")])]);
    let (mut world, before) = World::new(Options::embedded(), [service("n/web", 80), web.clone()]);
    let after = world.set(with(web, "metadata.generation", json!(7)));
    assert!(!after.changed);
    assert!(Arc::ptr_eq(&before.snapshot, &after.snapshot));
}

#[test]
fn one_changed_rule_of_many_leaves_all_the_others_and_their_pools_the_same_pointers() {
    let rule = |nth: usize, path: &str| {
        let labels = json!({"alb2.cpaas.io/name": "demo", "alb2.cpaas.io/frontend": "f"});
        json!({
            "kind": "Rule", "metadata": {"namespace": "n", "name": format!("r{nth}"), "labels": labels},
            "spec": {
                "dslx": [
                    {"type": "HOST", "values": [["EQ", format!("h{}.example", nth % 100)]]},
                    {"type": "URL", "values": [["STARTS_WITH", path]]},
                ],
                "serviceGroup": {"services": [{"name": format!("s{}", nth % 10), "port": 80}]},
            },
        })
    };
    let frontend = json!({
        "kind": "Frontend", "metadata": {"namespace": "n", "name": "f", "labels": {"alb2.cpaas.io/name": "demo"}},
        "spec": {"port": 80, "protocol": "http"},
    });
    let alb = json!({"kind": "ALB2", "metadata": {"namespace": "n", "name": "demo"}, "spec": {"config": {}}});
    let services = (0..10).map(|nth| service(&format!("n/s{nth}"), 80));
    let rules = (0..1000).map(|nth| rule(nth, &format!("/{nth}")));
    let (mut world, before) = World::new(Options::embedded(), services.chain(rules).chain([frontend, alb]));
    let after = world.set(rule(7, "/other"));
    let hosts = |translation: &Translation| translation.snapshot.listeners[0].routes.hosts.clone();
    let (old, new) = (hosts(&before), hosts(&after));
    let kept = old.iter().filter(|(host, old)| Arc::ptr_eq(old, &new[host])).count();
    assert_eq!((old.len(), kept), (100, 99));
    let edited = host("h7.example");
    let same = new[&edited].rules.iter().filter(|rule| old[&edited].rules.iter().any(|old| Arc::ptr_eq(old, rule)));
    assert_eq!((new[&edited].rules.len(), same.count()), (10, 9));
    assert!(
        before
            .snapshot
            .pools
            .0
            .iter()
            .zip(&after.snapshot.pools.0)
            .all(|(a, b)| { Arc::ptr_eq(a.as_ref().unwrap(), b.as_ref().unwrap()) })
    );
    assert!(!world.set(rule(7, "/other")).changed, "nothing new");
}
