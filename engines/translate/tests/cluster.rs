//! What only matters in a cluster: migration from another controller, Secrets by name, the Service for the rest.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use headwater_model::finding::Severity;
use headwater_model::origin::NamespacedName;
use headwater_translate::{Options, Served, is_about_secrets};
use serde_json::{Value, json};
use support::*;

fn web(id: &str, class: Option<&str>) -> Value {
    let namespace = id.split_once('/').unwrap().0;
    let host = format!("{namespace}.example");
    with(ingress(id, vec![rule(&host, vec![path("/", "Prefix", "web")])]), "spec.ingressClassName", json!(class))
}

fn foreign(name: &str) -> Value {
    with(class(name, None), "spec.controller", json!("k8s.io/ingress-nginx"))
}

fn take_over(name: &str) -> Options {
    Options { take_over: vec![name.to_owned()], ..Options::default() }
}

#[test]
fn a_class_that_is_taken_over_is_served_with_the_settings_of_our_own() {
    let settings = settings("infra/gw", json!({"listeners": [{"name": "only", "port": 8001, "protocol": "HTTP"}]}));
    let objects = [
        class("headwater", Some("infra/gw")),
        foreign("nginx"),
        foreign("internal"),
        settings,
        service("a/web", 80),
        service("b/web", 80),
        service("c/web", 80),
        web("a/web", Some("nginx")),
        web("b/web", Some("headwater")),
        web("c/web", Some("internal")),
    ];
    let (world, translation) = World::new(take_over("nginx"), objects);
    let [listener] = &translation.snapshot.listeners[..] else { panic!("one gateway is enough for both classes") };
    assert_eq!((&*listener.name, listener.routes.hosts.len()), ("only", 2));
    let served = |namespace: &str| world.translator.served(&NamespacedName::new(namespace, "web"));
    assert_eq!([served("a"), served("b"), served("c")], [Some(Served::TakenOver), Some(Served::Own), None]);
}

#[test]
fn the_names_of_a_class_that_is_taken_over_count_with_and_without_its_object() {
    let annotated = annotated(web("a/web", None), json!({"kubernetes.io/ingress.class": "nginx"}));
    let default = support::annotated(foreign("nginx"), json!({"ingressclass.kubernetes.io/is-default-class": "true"}));
    for (classes, ingress, served) in [
        (vec![], annotated.clone(), true),
        (vec![foreign("nginx")], annotated, true),
        (vec![default], web("a/web", None), true),
        (vec![foreign("nginx")], web("a/web", None), false),
        (vec![], web("a/web", Some("nginx")), false),
    ] {
        let shown = format!("{classes:?} {ingress}");
        let (world, _) = World::new(take_over("nginx"), classes.into_iter().chain([service("a/web", 80), ingress]));
        let expected = served.then_some(Served::TakenOver);
        assert_eq!(world.translator.served(&NamespacedName::new("a", "web")), expected, "{shown}");
    }
}

#[test]
fn what_is_wanted_follows_what_is_served() {
    let tls = |id: &str, secret: &str| {
        with(web(id, Some("headwater")), "spec.tls", json!([{"hosts": ["a.example"], "secretName": secret}]))
    };
    let other = with(tls("b/web", "other"), "spec.ingressClassName", json!("nginx"));
    let options = Options { default_certificate: Some(NamespacedName::new("infra", "default")), ..Options::default() };
    let (mut world, first) = World::new(
        options,
        [class("headwater", None), foreign("nginx"), service("a/web", 80), tls("a/web", "cert"), other],
    );
    let names = |translation: &headwater_translate::Translation| -> Vec<String> {
        translation.wanted.iter().map(ToString::to_string).collect()
    };
    let maps = ["ConfigMap default/ingress-nginx-controller", "ConfigMap ingress-nginx/ingress-nginx-controller"];
    assert_eq!(names(&first), [&["Secret a/cert", "Secret infra/default"][..], &maps].concat());

    let same = world.set(service("a/web", 81));
    assert!(std::sync::Arc::ptr_eq(&first.wanted, &same.wanted));
    let renamed = world.set(tls("a/web", "new"));
    assert_eq!(names(&renamed), [&["Secret a/new", "Secret infra/default"][..], &maps].concat());
    let gone = world.remove(tls("a/web", "new"));
    assert_eq!(names(&gone), [&["Secret infra/default"][..], &maps].concat());
}

#[test]
fn a_reader_without_a_right_to_secrets_says_nothing_about_them() {
    let ingress =
        with(web("a/web", Some("headwater")), "spec.tls", json!([{"hosts": ["a.example"], "secretName": "cert"}]));
    let settings = settings(
        "infra/gw",
        json!({
            "tls": {"defaultCertificate": "infra/default"},
            "upstream": {"tls": {"verify": "CertificateAuthority", "ca": "infra/ca"}},
        }),
    );
    let objects = [class("headwater", Some("infra/gw")), settings, service("a/web", 80), ingress];
    let blind = Options { reads_secrets: false, ..Options::default() };
    let told = |options: Options| {
        let mut findings = World::new(options, objects.clone()).1.findings.to_vec();
        findings.retain(|finding| finding.severity > Severity::Info && finding.reason != "NoEndpoints");
        assert!(findings.iter().all(is_about_secrets), "{findings:#?}");
        brief(&findings)
    };
    assert_eq!(told(blind), [""; 0]);
    assert_eq!(told(Options::default()).len(), 3);
}

#[test]
fn the_default_backend_gets_what_no_ingress_wants_and_follows_its_service() {
    let options = Options { default_backend: Some(NamespacedName::new("infra", "errors")), ..Options::default() };
    let (mut world, translation) = World::new(options, [class("headwater", None), service("infra/errors", 8080)]);
    let fallback = |translation: &headwater_translate::Translation| {
        let rule = translation.snapshot.listeners[0].routes.default.clone();
        rule.map(|rule| show(&translation.snapshot, &rule))
    };
    assert_eq!(fallback(&translation).as_deref(), Some("any -> infra/errors:8080"));

    let moved = world.set(service("infra/errors", 9090));
    assert_eq!(fallback(&moved).as_deref(), Some("any -> infra/errors:9090"));
    let gone = world.remove(service("infra/errors", 9090));
    assert_eq!(fallback(&gone).as_deref(), Some("any -> 503 no_service"));
    assert_eq!(brief(&gone.findings), ["Error MissingReference Service infra/errors"]);
    world.set(service("infra/errors", 8080));

    let own = with(
        with(ingress("a/web", vec![]), "spec.ingressClassName", json!("headwater")),
        "spec.defaultBackend",
        json!({"service": {"name": "web", "port": {"number": 80}}}),
    );
    world.set(service("a/web", 80));
    let first = world.set(own.clone());
    assert_eq!(fallback(&first).as_deref(), Some("any -> a/web:80"), "an Ingress comes first");
    let last = world.remove(own);
    assert_eq!(fallback(&last).as_deref(), Some("any -> infra/errors:8080"));
}
