//! Rules of Ingresses: hosts, paths, conflicts, backends.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use headwater_model::gateway::{Balance, HashKey, UpstreamProtocol};
use headwater_translate::Options;
use serde_json::{Value, json};
use support::*;

fn shop(rules: Vec<Value>) -> Vec<Value> {
    vec![service("shop/web", 80), slice("shop/web", "web-1", &["10.0.0.1"], 8080), ingress("shop/web", rules)]
}

#[test]
fn one_ingress_is_served_from_end_to_end() {
    let translation = embedded(shop(vec![rule("Shop.Example.com", vec![path("/", "Prefix", "web")])]));
    assert_eq!(brief(&translation.findings), [""; 0]);
    assert!(translation.changed);
    let snapshot = &translation.snapshot;
    assert_eq!(snapshot.generation, 1);
    let places: Vec<_> = snapshot.listeners.iter().map(|l| (&*l.name, l.address.to_string(), l.port)).collect();
    assert_eq!(places, [("http", "::".to_owned(), 80), ("https", "::".to_owned(), 443)]);
    assert_eq!(shown(snapshot, "shop.example.com"), ["prefix / -> shop/web:80"]);
    assert_eq!(endpoints(snapshot, "shop.example.com"), ["10.0.0.1:8080"]);
    let rule = &rules(snapshot, "shop.example.com")[0];
    assert_eq!(rule.origin.to_string(), "Ingress shop/web");
    assert_eq!(&*rule.field, "spec.rules[0].http.paths[0]");
}

#[test]
fn exact_paths_come_first_then_the_longest_prefix() {
    let paths = [
        ("/", "Prefix"),
        ("/a", "Exact"),
        ("/a/b/", "Prefix"),
        ("/a", "ImplementationSpecific"),
        ("/", "Exact"),
        ("/b", "Prefix"),
    ];
    let paths = paths.into_iter().map(|(text, kind)| path(text, kind, "web")).collect();
    let translation = embedded(shop(vec![rule("a.example", paths)]));
    let order = ["exact /a", "exact /", "prefix /a/b", "prefix /a", "prefix /b", "prefix /"];
    let order: Vec<String> = order.iter().map(|path| format!("{path} -> shop/web:80")).collect();
    assert_eq!(shown(&translation.snapshot, "a.example"), order);
    let rules = rules(&translation.snapshot, "a.example");
    assert!(rules.is_sorted_by(|a, b| a.precedence < b.precedence));
}

#[test]
fn a_faulty_rule_or_path_is_left_out_alone() {
    let translation = embedded(shop(vec![
        rule("bad_host", vec![path("/", "Prefix", "web")]),
        rule(
            "*.a.example",
            vec![path("/", "Prefix", "web"), path("x", "Prefix", "web"), path("/a//b", "Exact", "web")],
        ),
        json!({"host": "a.example", "http": {"paths": [{"pathType": "Exact", "backend": backend("web", 80)}]}}),
        rule("", vec![path("/", "Prefix", "web")]),
    ]));
    assert_eq!(
        brief(&translation.findings),
        [
            "Error InvalidHost Ingress shop/web spec.rules[0].host",
            "Error InvalidPath Ingress shop/web spec.rules[1].http.paths[1].path",
            "Error InvalidPath Ingress shop/web spec.rules[1].http.paths[2].path",
            "Error InvalidPath Ingress shop/web spec.rules[2].http.paths[0].path",
        ]
    );
    assert_eq!(shown(&translation.snapshot, "*.a.example"), ["prefix / -> shop/web:80"]);
    assert_eq!(shown(&translation.snapshot, ""), ["prefix / -> shop/web:80"]);
    assert_eq!(translation.snapshot.listeners[0].routes.hosts.len(), 2);
}

#[test]
fn a_faulty_backend_refuses_and_says_why() {
    let resource = json!({"resource": {"kind": "StorageBucket", "name": "icons"}});
    for (backend, reason, finding) in [
        (backend("nobody", 80), "no_service", "MissingReference"),
        (backend("web", 81), "no_service_port", "InvalidBackend"),
        (json!({"service": {"name": "web", "port": {"name": "https"}}}), "no_service_port", "InvalidBackend"),
        (json!({"service": {"name": "web"}}), "invalid_rule", "InvalidBackend"),
        (json!({"service": {"name": "web", "port": {"name": "http", "number": 80}}}), "invalid_rule", "InvalidBackend"),
        (json!({}), "invalid_rule", "InvalidBackend"),
        (resource, "unsupported_backend", "InvalidBackend"),
    ] {
        let paths = vec![json!({"path": "/x", "pathType": "Prefix", "backend": backend}), path("/", "Prefix", "web")];
        let translation = embedded(shop(vec![rule("a.example", paths)]));
        let expected = [format!("prefix /x -> 503 {reason}"), "prefix / -> shop/web:80".to_owned()];
        assert_eq!(shown(&translation.snapshot, "a.example"), expected);
        let expected = format!("Error {finding} Ingress shop/web spec.rules[0].http.paths[0].backend");
        assert_eq!(brief(&translation.findings), [expected]);
    }
}

#[test]
fn the_older_ingress_owns_a_contested_path_and_the_younger_is_told() {
    let one = |id: &str, created: Option<&str>| {
        let ingress =
            ingress(id, vec![rule("a.example", vec![path("/", "Prefix", "web"), path("/own", "Exact", "web")])]);
        created.map_or(ingress.clone(), |at| with(ingress, "metadata.creationTimestamp", json!(at)))
    };
    let services = ["a/web", "b/web"].map(|id| service(id, 80));
    let old = Some("2020-01-01T00:00:00Z");
    for (a, b, winner, loser) in [
        (None, old, "b", "a"),
        (old, None, "a", "b"),
        (Some("2021-01-01T00:00:00Z"), old, "b", "a"),
        (old, old, "a", "b"),
        (None, None, "a", "b"),
    ] {
        let objects = services.iter().cloned().chain([one("a/x", a), one("b/x", b)]);
        let translation = embedded(objects);
        let expected = [format!("exact /own -> {winner}/web:80"), format!("prefix / -> {winner}/web:80")];
        assert_eq!(shown(&translation.snapshot, "a.example"), expected);
        let conflicts: Vec<_> = translation.findings.iter().filter(|f| f.reason == "Conflict").collect();
        assert_eq!(conflicts.len(), 2);
        assert_eq!(conflicts[0].object.as_ref().unwrap().to_string(), format!("Ingress {loser}/x"));
        assert!(conflicts[0].message.contains(&format!("Ingress {winner}/x")), "{}", conflicts[0]);
    }
}

#[test]
fn hosts_of_several_ingresses_merge() {
    let mut objects = shop(vec![rule("a.example", vec![path("/", "Prefix", "web")])]);
    objects.push(ingress("shop/api", vec![rule("A.example", vec![path("/api", "Prefix", "web")])]));
    let translation = embedded(objects);
    let expected = ["prefix /api -> shop/web:80", "prefix / -> shop/web:80"];
    assert_eq!(shown(&translation.snapshot, "a.example"), expected);
    assert_eq!(brief(&translation.findings), [""; 0]);
}

#[test]
fn the_oldest_default_backend_answers_unknown_hosts_and_each_its_own() {
    let with_default = |id: &str, host: &str, created: &str| {
        let rules = if host.is_empty() { vec![] } else { vec![rule(host, vec![path("/api", "Prefix", "web")])] };
        let ingress = with(ingress(id, rules), "spec.defaultBackend", backend("web", 80));
        with(ingress, "metadata.creationTimestamp", json!(created))
    };
    let translation = embedded([
        service("a/web", 80),
        service("b/web", 80),
        with_default("a/all", "", "2021-01-01T00:00:00Z"),
        with_default("b/web", "b.example", "2022-01-01T00:00:00Z"),
        json!({"kind": "Ingress", "metadata": meta("a/bare"), "spec": {
            "rules": [{"host": "bare.example"}], "defaultBackend": backend("web", 80)}}),
    ]);
    let snapshot = &translation.snapshot;
    let default = snapshot.listeners[0].routes.default.as_ref().unwrap();
    assert_eq!(show(snapshot, default), "any -> a/web:80");
    assert_eq!(shown(snapshot, "b.example"), ["prefix /api -> b/web:80", "any -> b/web:80"]);
    assert_eq!(shown(snapshot, "bare.example"), ["any -> a/web:80"]);
    let conflicts: Vec<_> = translation.findings.iter().filter(|f| f.reason == "Conflict").collect();
    assert_eq!(conflicts.len(), 2, "{conflicts:?}");
}

#[test]
fn endpoints_merge_over_slices_of_both_families() {
    let mut objects = shop(vec![rule("a.example", vec![path("/", "Prefix", "web")])]);
    objects.push(slice("shop/web", "web-2", &["10.0.0.1", "10.0.0.2"], 8080));
    objects.push(slice("shop/web", "web-6", &["2001:db8::1"], 8080));
    objects.push(slice("shop/other", "other", &["10.9.9.9"], 8080));
    objects.push(with(slice("shop/web", "udp", &["10.9.9.9"], 8080), "ports", json!([{"name": "dns", "port": 53}])));
    let translation = embedded(objects);
    let expected = ["10.0.0.1:8080", "10.0.0.2:8080", "[2001:db8::1]:8080"];
    assert_eq!(endpoints(&translation.snapshot, "a.example"), expected);
}

#[test]
fn endpoints_that_drain_serve_only_when_none_is_ready() {
    let draining = json!({"ready": false, "serving": true, "terminating": true});
    let dead = json!({"ready": false, "serving": false, "terminating": true});
    let starting = json!({"ready": false, "serving": true, "terminating": false});
    for (conditions, expected) in [
        ([json!({}), draining.clone()], vec!["10.0.0.1:8080"]),
        ([json!({"ready": true}), draining.clone()], vec!["10.0.0.1:8080"]),
        ([dead.clone(), draining], vec!["10.0.0.2:8080"]),
        ([starting, dead], vec![]),
    ] {
        let members: Vec<Value> = conditions
            .into_iter()
            .zip(["10.0.0.1", "10.0.0.2"])
            .map(|(conditions, address)| json!({"addresses": [address], "conditions": conditions}))
            .collect();
        let mut objects = shop(vec![rule("a.example", vec![path("/", "Prefix", "web")])]);
        objects[1] = with(objects[1].clone(), "endpoints", json!(members));
        let translation = embedded(objects);
        assert_eq!(endpoints(&translation.snapshot, "a.example"), expected);
        let warned = translation.findings.iter().any(|finding| finding.reason == "NoEndpoints");
        assert_eq!(warned, expected.is_empty());
    }
}

#[test]
fn external_names_become_names_with_a_port() {
    for (ports, port, expected) in [
        (json!([]), 8443, "backend.example.org:8443"),
        (json!([{"port": 8443}]), 8443, "backend.example.org:8443"),
        (json!([{"port": 8443, "targetPort": 443}]), 8443, "backend.example.org:443"),
    ] {
        let spec = json!({"type": "ExternalName", "externalName": "Backend.example.org.", "ports": ports});
        let paths = vec![json!({"path": "/", "pathType": "Prefix", "backend": backend("web", port)})];
        let mut objects = shop(vec![rule("a.example", paths)]);
        objects[0] = with(objects[0].clone(), "spec", spec);
        let translation = embedded(objects);
        assert_eq!(endpoints(&translation.snapshot, "a.example"), [expected]);
    }
}

#[test]
fn the_protocol_is_the_annotations_then_the_ports() {
    use UpstreamProtocol::{Http1, Http2};
    for (app_protocol, annotation, protocol, tls) in [
        (None, None, Http1, false),
        (Some("kubernetes.io/h2c"), None, Http2, false),
        (Some("grpc"), None, Http2, false),
        (Some("https"), None, Http1, true),
        (Some("kubernetes.io/ws"), None, Http1, false),
        (Some("https"), Some("HTTP"), Http1, false),
        (None, Some("GRPCS"), Http2, true),
        (Some("kubernetes.io/h2c"), Some("https"), Http1, true),
    ] {
        let mut objects = shop(vec![rule("a.example", vec![path("/", "Prefix", "web")])]);
        objects[0]["spec"]["ports"][0]["appProtocol"] = json!(app_protocol);
        if let Some(value) = annotation {
            objects[2]["metadata"]["annotations"] = json!({(nginx("backend-protocol")): value});
        }
        let translation = embedded(objects);
        let pool = pool(&translation.snapshot, forward(&rules(&translation.snapshot, "a.example")[0]));
        assert_eq!((pool.protocol, pool.tls.is_some()), (protocol, tls), "{app_protocol:?} {annotation:?}");
    }
    let objects = shop(vec![rule("a.example", vec![path("/", "Prefix", "web")])]).into_iter();
    let translation = embedded(objects.map(|value| match value["kind"] == "Ingress" {
        true => annotated(value, json!({(nginx("backend-protocol")): "FCGI"})),
        false => value,
    }));
    assert_eq!(shown(&translation.snapshot, "a.example"), ["prefix / -> 503 unsupported_backend"]);
}

#[test]
fn balancing_is_the_annotations_then_the_config_maps() {
    for (annotation, key, expected) in [
        (None, None, Balance::LeastRequest),
        (None, Some("ewma"), Balance::PeakEwma),
        (Some(("load-balance", "round_robin")), Some("ewma"), Balance::RoundRobin),
        (Some(("upstream-hash-by", "$http_x_user")), None, Balance::Hash(HashKey::Header("x-user".into()))),
        (Some(("upstream-hash-by", "$upstream_addr")), None, Balance::LeastRequest),
    ] {
        let mut objects = shop(vec![rule("a.example", vec![path("/", "Prefix", "web")])]);
        if let Some((name, value)) = annotation {
            objects[2]["metadata"]["annotations"] = json!({(nginx(name)): value});
        }
        objects.extend(key.map(|value| nginx_config(json!({"load-balance": value}))));
        let translation = embedded(objects);
        assert_eq!(forward(&rules(&translation.snapshot, "a.example")[0]).balance, expected);
    }
}

#[test]
fn a_canary_does_not_serve_on_its_own() {
    let canary = annotated(
        ingress("shop/a-canary", vec![rule("a.example", vec![path("/", "Prefix", "web")])]),
        json!({(nginx("canary")): "true", (nginx("canary-weight")): "10"}),
    );
    let (_, translation) = World::new(Options::embedded(), [service("shop/web", 80), canary]);
    assert!(translation.snapshot.listeners[0].routes.hosts.is_empty());
    assert_eq!(brief(&translation.findings).len(), 2);
}
