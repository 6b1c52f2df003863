//! Certificates by name, and the redirect to HTTPS.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::sync::Arc;

use headwater_model::gateway::{Certificate, GatewaySnapshot, TlsTermination};
use headwater_translate::{Options, Translator};
use serde_json::{Value, json};
use support::*;

fn tls(snapshot: &GatewaySnapshot) -> &TlsTermination {
    listener(snapshot, "https").tls.as_ref().expect("an HTTPS listener has TLS")
}

/// `name: namespace/secret namespace/secret`, sorted.
fn names(snapshot: &GatewaySnapshot) -> Vec<String> {
    let line = |name: String, list: &Vec<Arc<Certificate>>| {
        let secrets: Vec<_> = list.iter().map(|certificate| certificate.origin.key.id.to_string()).collect();
        format!("{name}: {}", secrets.join(" "))
    };
    let exact = tls(snapshot).exact.iter().map(|(name, list)| line(name.to_string(), list));
    let wildcard = tls(snapshot).wildcard.iter().map(|(name, list)| line(format!("*.{name}"), list));
    let mut all: Vec<_> = exact.chain(wildcard).collect();
    all.sort();
    all
}

fn web(id: &str, hosts: &[&str]) -> Value {
    ingress(id, hosts.iter().map(|host| rule(host, vec![path("/", "Prefix", "web")])).collect())
}

#[test]
fn listed_hosts_and_hosts_that_a_certificate_covers_are_served_with_it() {
    let translation = embedded([
        service("shop/web", 80),
        tls_secret("shop/cert", &["A.example", "*.b.example", "unused.example"]),
        with_tls(web("shop/web", &["a.example", "x.b.example", "*.b.example", "c.example"]), &["a.example"], "cert"),
    ]);
    assert_eq!(brief(&translation.findings), [""; 0]);
    let expected = ["*.b.example: shop/cert", "a.example: shop/cert", "x.b.example: shop/cert"];
    assert_eq!(names(&translation.snapshot), expected);
    for (host, redirected) in [("a.example", true), ("x.b.example", true), ("*.b.example", true), ("c.example", false)]
    {
        let forward = forward(rules(&translation.snapshot, host).last().unwrap());
        assert_eq!(forward.https_redirect.is_some(), redirected, "{host}");
    }
}

#[test]
fn an_entry_without_hosts_serves_a_catch_all_under_the_names_of_its_certificate() {
    let translation = embedded([
        service("shop/web", 80),
        tls_secret("shop/cert", &["a.example"]),
        with_tls(web("shop/web", &[""]), &[], "cert"),
    ]);
    assert_eq!(names(&translation.snapshot), ["a.example: shop/cert"]);
}

#[test]
fn a_missing_or_broken_secret_is_told_and_the_host_stays_on_plain_http() {
    let good = certificate(&["a.example"], Algorithm::Ecdsa, 2060);
    let other = certificate(&["a.example"], Algorithm::Ecdsa, 2060);
    let broken = |crt: &str, key: &str| {
        json!({
            "kind": "Secret", "metadata": meta("shop/cert"), "stringData": {"tls.crt": crt, "tls.key": key},
        })
    };
    for (secret, reason, text) in [
        (None, "MissingReference", "does not exist"),
        (Some(json!({"kind": "Secret", "metadata": meta("shop/cert")})), "InvalidCertificate", "has no key tls.crt"),
        (Some(broken("x", &good.1)), "InvalidCertificate", "tls.crt is not PEM"),
        (Some(broken(&good.0, "x")), "InvalidCertificate", "tls.key is not PEM"),
        (Some(broken(&good.0, &other.1)), "InvalidCertificate", "does not belong"),
    ] {
        let ingress = with_tls(web("shop/web", &["a.example"]), &["a.example"], "cert");
        let translation = embedded([service("shop/web", 80), ingress].into_iter().chain(secret));
        let expected = format!("Error {reason} Ingress shop/web spec.tls[0].secretName");
        assert_eq!(brief(&translation.findings)[0], expected);
        assert!(translation.findings.iter().any(|finding| finding.message.contains(text)), "{text}");
        assert_eq!(names(&translation.snapshot), [""; 0]);
        assert_eq!(shown(&translation.snapshot, "a.example"), ["prefix / -> shop/web:80"]);
        // What is printed of a broken Secret never quotes it.
        assert!(!format!("{:?}", translation.findings).contains("BEGIN"));
    }
}

#[test]
fn a_certificate_for_another_name_and_an_expired_one_are_told() {
    let translation = embedded([
        service("shop/web", 80),
        secret_of("shop/cert", certificate(&["b.example"], Algorithm::Ecdsa, 2021)),
        with_tls(web("shop/web", &["a.example"]), &["a.example"], "cert"),
    ]);
    assert_eq!(names(&translation.snapshot), ["a.example: shop/cert"]);
    let expected = [
        "Warning HostNotCovered Ingress shop/web spec.tls[0].hosts[0]",
        "Warning Expired Secret shop/cert data[tls.crt]",
    ];
    let told = brief(&translation.findings);
    assert!(expected.iter().all(|line| told.iter().any(|known| known == line)), "{told:?}");
}

#[test]
fn a_name_has_one_certificate_of_each_kind_from_its_oldest_owner() {
    let claim = |id: &str, secret: &str, created: &str| {
        let ingress = with_tls(web(id, &["a.example"]), &["a.example"], secret);
        with(ingress, "metadata.creationTimestamp", json!(created))
    };
    let mut objects = vec![
        service("shop/web", 80),
        secret_of("shop/ec", certificate(&["a.example"], Algorithm::Ecdsa, 2060)),
        secret_of("shop/ed", certificate(&["a.example"], Algorithm::Ed25519, 2060)),
        secret_of("shop/other", certificate(&["a.example"], Algorithm::Ecdsa, 2060)),
        claim("shop/1", "ec", "2021-01-01T00:00:00Z"),
        claim("shop/2", "ed", "2022-01-01T00:00:00Z"),
        claim("shop/3", "other", "2023-01-01T00:00:00Z"),
    ];
    let translation = embedded(objects.clone());
    assert_eq!(names(&translation.snapshot), ["a.example: shop/ec shop/ed"]);
    let told: Vec<_> = translation.findings.iter().filter(|f| f.field.starts_with("spec.tls")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].object.as_ref().unwrap().to_string(), "Ingress shop/3");

    objects[6] = claim("shop/3", "other", "2020-01-01T00:00:00Z");
    assert_eq!(names(&embedded(objects).snapshot), ["a.example: shop/other shop/ed"]);
}

#[test]
fn the_redirect_is_ingress_nginxs() {
    let base = [service("shop/web", 80), tls_secret("shop/cert", &["a.example"])];
    let on = |name: &str, value: &str| json!({(nginx(name)): value});
    for (annotations, config, has_certificate, status) in [
        (json!({}), json!({}), true, Some(308)),
        (json!({}), json!({}), false, None),
        (on("ssl-redirect", "false"), json!({}), true, None),
        (on("force-ssl-redirect", "true"), json!({}), false, Some(308)),
        (json!({}), json!({"ssl-redirect": "false"}), true, None),
        (on("ssl-redirect", "true"), json!({"ssl-redirect": "false"}), true, Some(308)),
        (json!({}), json!({"force-ssl-redirect": "true", "http-redirect-code": "301"}), false, Some(301)),
        (on("force-ssl-redirect", "false"), json!({"force-ssl-redirect": "true"}), false, None),
    ] {
        let mut ingress = web("shop/web", &["a.example"]);
        if has_certificate {
            ingress = with_tls(ingress, &["a.example"], "cert");
        }
        let objects =
            base.iter().cloned().chain([annotated(ingress, annotations.clone()), nginx_config(config.clone())]);
        let translation = embedded(objects);
        let rule = rules(&translation.snapshot, "a.example").last().unwrap();
        let redirect = forward(rule).https_redirect.clone();
        assert_eq!(redirect.as_ref().map(|redirect| redirect.status), status, "{annotations} {config}");
        if let Some(redirect) = redirect {
            assert_eq!((redirect.scheme.as_deref(), redirect.port), (Some("https"), Some(443)));
            assert!(redirect.host.is_none() && redirect.path.is_none() && redirect.strip_trailing_slash);
        }
    }
    let kept = annotated(
        web("shop/web", &["a.example"]),
        json!({
            (nginx("force-ssl-redirect")): "true", (nginx("preserve-trailing-slash")): "true",
        }),
    );
    let translation = embedded(base.iter().cloned().chain([kept]));
    let redirect = forward(rules(&translation.snapshot, "a.example").last().unwrap()).https_redirect.clone();
    assert!(!redirect.unwrap().strip_trailing_slash);
}

#[test]
fn the_redirect_names_the_port_where_clients_find_https() {
    let objects = || {
        [
            service("shop/web", 80),
            tls_secret("shop/cert", &["a.example"]),
            with_tls(web("shop/web", &["a.example"]), &["a.example"], "cert"),
        ]
    };
    for (https_port, published, port) in [(None, None, 443), (Some(8443), None, 8443), (Some(8443), Some(443), 443)] {
        let options = Options { https_port, published_https_port: published, ..Options::embedded() };
        let (_, translation) = World::new(options, objects());
        let forward = forward(rules(&translation.snapshot, "a.example").last().unwrap());
        assert_eq!(forward.https_redirect.as_ref().unwrap().port, Some(port));
    }
    let http = json!({"listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]});
    let translation = embedded(objects().into_iter().chain([settings("default/gw", http)]));
    let forward = forward(rules(&translation.snapshot, "a.example").last().unwrap());
    assert_eq!(forward.https_redirect, None, "there is no HTTPS to redirect to");
}

#[test]
fn challenges_of_certificate_authorities_are_not_redirected() {
    let challenge = path("/.well-known/acme-challenge/token", "Exact", "web");
    let objects = [
        service("shop/web", 80),
        tls_secret("shop/cert", &["a.example"]),
        with_tls(web("shop/web", &["a.example"]), &["a.example"], "cert"),
        ingress("shop/solver", vec![rule("a.example", vec![challenge])]),
    ];
    let expected = [
        "exact /.well-known/acme-challenge/token -> shop/web:80",
        "starts with /.well-known/acme-challenge -> shop/web:80",
        "prefix / -> shop/web:80 (https)",
    ];
    assert_eq!(shown(&embedded(objects.clone()).snapshot, "a.example"), expected);
    let config = nginx_config(json!({"no-tls-redirect-locations": ""}));
    let expected =
        ["exact /.well-known/acme-challenge/token -> shop/web:80 (https)", "prefix / -> shop/web:80 (https)"];
    assert_eq!(shown(&embedded(objects.into_iter().chain([config])).snapshot, "a.example"), expected);
}

#[test]
fn a_secret_that_comes_and_goes_turns_the_redirect_on_and_off() {
    let secret = tls_secret("shop/cert", &["*.a.example"]);
    let (mut world, first) = World::new(
        Options::embedded(),
        [
            service("shop/web", 80),
            with_tls(web("shop/tls", &["*.a.example"]), &["*.a.example"], "cert"),
            web("shop/web", &["x.a.example", "b.example"]),
        ],
    );
    assert_eq!(shown(&first.snapshot, "x.a.example"), ["prefix / -> shop/web:80"]);
    let on = world.set(secret.clone());
    assert_eq!(shown(&on.snapshot, "x.a.example").last().unwrap(), "prefix / -> shop/web:80 (https)");
    assert!(Arc::ptr_eq(&rules(&on.snapshot, "b.example")[0], &rules(&first.snapshot, "b.example")[0]));
    let off = world.remove(secret);
    assert_eq!(shown(&off.snapshot, "x.a.example"), ["prefix / -> shop/web:80"]);
    assert!(tls(&off.snapshot).wildcard.is_empty());
}

#[test]
fn the_default_certificate_is_the_settings() {
    let objects = |reference: &str| {
        [
            tls_secret("infra/default", &["example.com"]),
            settings("default/gw", json!({"tls": {"defaultCertificate": reference, "minVersion": "1.3"}})),
        ]
    };
    let translation = embedded(objects("infra/default"));
    let default = tls(&translation.snapshot).default.as_ref().unwrap();
    assert_eq!(default.origin.to_string(), "Secret infra/default");
    for reference in ["infra/other", "default"] {
        let translation = embedded(objects(reference));
        assert!(tls(&translation.snapshot).default.is_none());
        let expected = ["Error MissingReference GatewaySettings default/gw spec.tls.defaultCertificate"];
        assert_eq!(brief(&translation.findings), expected);
    }
    let (mut world, _) = World::new(Options::embedded(), objects("infra/other"));
    let translation = world.set(tls_secret("infra/other", &["b.example"]));
    assert_eq!(tls(&translation.snapshot).default.as_ref().unwrap().names, ["b.example"]);
}

#[test]
fn a_tls_entry_without_secret_means_the_default_certificate() {
    let listed =
        with(web("shop/web", &["a.example", "b.example"]), "spec.tls", json!([{"hosts": ["a.example", "b.example"]}]));
    let translation = embedded([
        service("shop/web", 80),
        tls_secret("infra/default", &["*.example", "a.example"]),
        settings("default/gw", json!({"tls": {"defaultCertificate": "infra/default"}})),
        listed.clone(),
        web("shop/unlisted", &["c.example"]),
    ]);
    let redirected = |host| forward(rules(&translation.snapshot, host).last().unwrap()).https_redirect.is_some();
    assert!(redirected("a.example") && redirected("b.example") && !redirected("c.example"));
    let translation = embedded([service("shop/web", 80), listed]);
    assert_eq!(shown(&translation.snapshot, "a.example"), ["prefix / -> shop/web:80"]);
}

#[test]
fn a_certificate_is_reported_once_it_has_expired() {
    let (world, _) = World::new(
        Options::embedded(),
        [
            service("shop/web", 80),
            secret_of("shop/cert", certificate(&["a.example"], Algorithm::Ecdsa, 2027)),
            with_tls(web("shop/web", &["a.example"]), &["a.example"], "cert"),
        ],
    );
    let mut translator = Translator::new(Options::embedded());
    let end = 1_798_761_600; // 2027-01-01
    for (now, expired) in [(end - 1, false), (end + 1, true)] {
        let translation = translator.apply(&world.cluster, &[], now);
        assert_eq!(translation.findings.iter().any(|finding| finding.reason == "Expired"), expired);
    }
    assert!(!translator.apply(&world.cluster, &[], end + 2).changed, "time alone changes no snapshot");
}
