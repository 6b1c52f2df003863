//! Annotations about rewrites, redirects, CORS, headers and timeouts, of ingress-nginx and of ALB.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use headwater_model::gateway::{Action, AllowedOrigin, EditValue, PathRewrite, Redirect, Rule, Variable};
use headwater_translate::{Options, Translation};
use serde_json::{Value, json};
use support::*;

const ALB: &str = "alb.ingress.cpaas.io";

/// One Ingress with the annotations and paths, and its Service.
fn shop(annotations: Value, paths: Vec<Value>) -> Translation {
    embedded([service("shop/web", 80), annotated(ingress("shop/web", vec![rule("a.example", paths)]), annotations)])
}

fn root(annotations: Value) -> Translation {
    shop(annotations, vec![path("/", "Prefix", "web")])
}

fn first(translation: &Translation) -> &Rule {
    &rules(&translation.snapshot, "a.example")[0]
}

fn redirect(translation: &Translation) -> &Redirect {
    match &first(translation).action {
        Action::Redirect(redirect) => redirect,
        other => panic!("{other:?} does not redirect"),
    }
}

fn refusal(translation: &Translation) -> Option<&str> {
    match &first(translation).action {
        Action::Refuse(refuse) => Some(&refuse.reason),
        _ => None,
    }
}

#[test]
fn a_rewrite_replaces_the_whole_path_by_groups_of_the_rules_path() {
    let annotations = json!({(nginx("rewrite-target")): "/$2"});
    let translation = shop(annotations, vec![path("/something(/|$)(.*)", "ImplementationSpecific", "web")]);
    assert_eq!(brief(&translation.findings), [""; 0]);
    assert_eq!(shown(&translation.snapshot, "a.example"), ["regex (?i)^/something(/|$)(.*) -> shop/web:80"]);
    let rewrite = first(&translation).filters.rewrite.as_ref().unwrap();
    let expected =
        PathRewrite::Regex { pattern: "(?is)^.*?(?:/something(/|$)(.*)).*$".into(), replacement: "/$2".into() };
    assert_eq!((&rewrite.path, &rewrite.host), (&Some(expected), &None));
}

#[test]
fn one_ingress_with_regular_expressions_makes_all_paths_of_the_host_such() {
    let plain = ingress(
        "shop/plain",
        vec![rule(
            "a.example",
            vec![path("/api/v1", "Exact", "web"), path("/", "Prefix", "web"), path("/a(", "Prefix", "web")],
        )],
    );
    let regex = |value: &str| {
        annotated(
            ingress("shop/regex", vec![rule("a.example", vec![path("/api/.*", "Prefix", "web")])]),
            json!({(nginx("use-regex")): value}),
        )
    };
    let (mut world, translation) = World::new(Options::embedded(), [service("shop/web", 80), plain, regex("true")]);
    let expected = [
        "regex (?i)^/api/.* -> shop/web:80",
        "regex (?i)^/api/v1 -> shop/web:80",
        "regex (?i)^/a\\( -> shop/web:80",
        "regex (?i)^/ -> shop/web:80",
    ];
    assert_eq!(shown(&translation.snapshot, "a.example"), expected);
    let before = rules(&translation.snapshot, "a.example").to_vec();

    let other = world.set(ingress("shop/other", vec![rule("a.example", vec![path("/z", "Prefix", "web")])]));
    let after = rules(&other.snapshot, "a.example");
    let kept = before.iter().filter(|rule| after.iter().any(|other| Arc::ptr_eq(rule, other))).count();
    assert_eq!((kept, after.len()), (before.len(), before.len() + 1), "an edit elsewhere leaves the rules as they are");

    let plain_again = world.set(regex("false"));
    let expected = ["exact /api/v1", "prefix /api/.*", "prefix /a(", "prefix /z", "prefix /"];
    let expected = expected.map(|path| format!("{path} -> shop/web:80"));
    assert_eq!(shown(&plain_again.snapshot, "a.example"), expected);
    assert_eq!(shown(&world.fresh().snapshot, "a.example"), expected);
}

#[test]
fn challenges_stay_on_plain_http_where_paths_are_regular_expressions() {
    let challenge = path("/.well-known/acme-challenge/token", "Exact", "web");
    let web = annotated(
        ingress("shop/web", vec![rule("a.example", vec![path("/(.*)", "ImplementationSpecific", "web")])]),
        json!({(nginx("rewrite-target")): "/$1"}),
    );
    let translation = embedded([
        service("shop/web", 80),
        tls_secret("shop/cert", &["a.example"]),
        with_tls(web, &["a.example"], "cert"),
        ingress("shop/solver", vec![rule("a.example", vec![challenge])]),
    ]);
    let exempt: Vec<_> = rules(&translation.snapshot, "a.example")
        .iter()
        .map(|rule| forward(rule).https_redirect.as_ref().map(|redirect| &redirect.exempt[..]))
        .collect();
    assert_eq!(exempt, [None, Some(&["/.well-known/acme-challenge".into()][..])]);
}

#[test]
fn a_path_that_needs_more_than_linear_time_is_told_with_its_construct() {
    let translation =
        shop(json!({(nginx("use-regex")): "true"}), vec![path("/(?!admin)", "ImplementationSpecific", "web")]);
    assert_eq!(brief(&translation.findings), ["Error InvalidPath Ingress shop/web spec.rules[0].http.paths[0].path"]);
    assert!(translation.findings.iter().any(|finding| finding.message.contains("look-around")));
    let plain = shop(json!({}), vec![path("/x.*", "ImplementationSpecific", "web")]);
    assert_eq!(brief(&plain.findings), ["Warning NotRegex Ingress shop/web spec.rules[0].http.paths[0].path"]);
}

#[test]
fn a_url_redirects_every_request_even_without_a_service() {
    for (annotations, status, location) in [
        (json!({(nginx("permanent-redirect")): "https://b.example/x"}), 301, "https://b.example/x"),
        (
            json!({(nginx("permanent-redirect")): "https://b.example", (nginx("permanent-redirect-code")): "308"}),
            308,
            "https://b.example",
        ),
        (json!({(nginx("temporal-redirect")): "/t1-1"}), 302, "/t1-1"),
        (
            json!({(nginx("permanent-redirect")): "https://b.example", (nginx("temporal-redirect")): "https://c.example"}),
            302,
            "https://c.example",
        ),
        (
            json!({(nginx("temporal-redirect")): "https://c.example", (nginx("temporal-redirect-code")): "307"}),
            307,
            "https://c.example",
        ),
        // An absolute URL always wins.
        (
            json!({(nginx("permanent-redirect")): "https://b.example", (nginx("force-ssl-redirect")): "true"}),
            301,
            "https://b.example",
        ),
    ] {
        let shown = annotations.to_string();
        let ingress =
            annotated(ingress("shop/web", vec![rule("a.example", vec![path("/", "Prefix", "nobody")])]), annotations);
        let translation = embedded([ingress]);
        let redirect = redirect(&translation);
        assert_eq!((redirect.status, redirect.location.as_deref()), (status, Some(location)), "{shown}");
        assert_eq!(brief(&translation.findings), [""; 0], "{shown}");
    }
}

#[test]
fn albs_redirects_name_their_parts_and_https_alone_is_for_plain_http() {
    let alb = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| (format!("{ALB}/{name}"), json!(value)));
        root(Value::Object(pairs.collect()))
    };
    let host = alb(&[("redirect-host", "b.example"), ("redirect-port", "8443"), ("force-ssl-redirect", "true")]);
    let found = redirect(&host);
    let parts = (found.status, found.scheme.as_deref(), found.host.as_deref(), found.port);
    assert_eq!(parts, (308, Some("https"), Some("b.example"), Some(8443)));
    let prefix = alb(&[("redirect-prefix-match", "/t6/"), ("redirect-replace-prefix", "/")]);
    let expected = PathRewrite::Given { prefix: "/t6/".into(), replacement: "/".into() };
    assert_eq!((redirect(&prefix).status, redirect(&prefix).path.as_ref()), (302, Some(&expected)));
    let https = alb(&[("force-ssl-redirect", "true"), ("redirect-port", "8443")]);
    let found = forward(rules(&https.snapshot, "a.example").last().unwrap()).https_redirect.as_ref().unwrap();
    assert_eq!((found.status, found.port), (308, Some(8443)));
}

#[test]
fn what_cannot_be_obeyed_and_must_not_be_forgotten_refuses() {
    for (name, value) in [
        ("rewrite-target", "https://b.example/$1"),
        ("rewrite-target", "/$request_uri"),
        ("upstream-vhost", "$service_name"),
        ("upstream-vhost", "a b"),
        ("permanent-redirect", "javascript:alert(1)"),
        ("temporal-redirect", "https://b.example$request_uri"),
        ("redirect-host", "b.example/x"),
        ("redirect-port", "http"),
        ("rewrite-request", "{"),
        ("rewrite-request", "{\"headers_var\": {\"a\": \"upstream_addr\"}}"),
    ] {
        let translation = root(json!({(format!("{ALB}/{name}")): value}));
        assert_eq!(refusal(&translation), Some("invalid_rule"), "{name}: {value}");
        let expected = format!("Error InvalidValue Ingress shop/web metadata.annotations[{ALB}/{name}]");
        assert_eq!(brief(&translation.findings), [expected], "{name}: {value}");
    }
}

#[test]
fn cors_lets_in_whom_the_list_names_and_nobody_by_mistake() {
    let translation = root(json!({
        (nginx("enable-cors")): "true",
        (nginx("cors-allow-origin")): "https://*.a.example, http://b.example:8080, b.example",
        (nginx("cors-allow-methods")): "GET",
        (nginx("cors-max-age")): "60",
        (nginx("cors-expose-headers")): "X-One, X-Two",
        (nginx("cors-allow-headers")): "X-In",
    }));
    let cors = first(&translation).filters.cors.as_ref().unwrap();
    let expected = [
        AllowedOrigin::OneLabel { before: "https://".into(), after: ".a.example".into() },
        AllowedOrigin::Exact("http://b.example:8080".into()),
    ];
    assert_eq!(cors.origins, expected);
    assert_eq!((&*cors.methods, &*cors.headers, cors.expose.as_deref()), ("GET", "X-In", Some("X-One, X-Two")));
    assert_eq!((cors.max_age, cors.credentials), (60, true));
    assert_eq!(
        brief(&translation.findings),
        [format!("Error InvalidValue Ingress shop/web metadata.annotations[{}]", nginx("cors-allow-origin"))]
    );

    let all = root(json!({(nginx("enable-cors")): "true", (nginx("cors-allow-credentials")): "true"}));
    assert!(first(&all).filters.cors.as_ref().unwrap().allows_all());
    assert_eq!(
        brief(&all.findings),
        [format!("Warning NoEffect Ingress shop/web metadata.annotations[{}]", nginx("cors-allow-credentials"))]
    );
    let wrong = root(json!({(nginx("enable-cors")): "true", (nginx("cors-allow-origin")): "b.example"}));
    assert_eq!(first(&wrong).filters.cors.as_ref().unwrap().origins, []);
    assert!(first(&root(json!({(nginx("cors-allow-origin")): "*"}))).filters.cors.is_none());
}

#[test]
fn timeouts_and_the_host_are_those_of_the_closest_prefix() {
    let annotations = json!({
        (nginx("proxy-read-timeout")): "5",
        (nginx("proxy-send-timeout")): "6s",
        (nginx("upstream-vhost")): "inner.example:8080",
        (format!("{ALB}/proxy-read-timeout")): "700ms",
        (format!("index.0-1.{ALB}/proxy-read-timeout")): "1.5",
        (format!("index.0-1.{ALB}/proxy-connect-timeout")): "0",
    });
    let paths = vec![path("/a", "Exact", "web"), path("/b", "Exact", "web")];
    let translation = shop(annotations, paths);
    assert_eq!(brief(&translation.findings), [""; 0]);
    let timeouts = |index: usize| forward(&rules(&translation.snapshot, "a.example")[index]).timeouts;
    let (seconds, milliseconds) = (Duration::from_secs, Duration::from_millis);
    let own = |at: usize| (timeouts(at).connect, timeouts(at).send, timeouts(at).idle);
    assert_eq!(own(0), (seconds(5), seconds(6), milliseconds(700)));
    assert_eq!(own(1), (seconds(5), seconds(6), milliseconds(1500)));
    let rewrite = first(&translation).filters.rewrite.as_ref().unwrap();
    assert_eq!((rewrite.host.as_deref(), &rewrite.path), (Some("inner.example:8080"), &None));
}

#[test]
fn annotations_of_a_path_that_is_not_there_are_told() {
    let translation = root(json!({(format!("index.0-1.{ALB}/proxy-read-timeout")): "1"}));
    assert_eq!(brief(&translation.findings), ["Warning NoEffect Ingress shop/web metadata.annotations"]);
}

#[test]
fn another_label_domain_has_other_annotations() {
    let ingress = annotated(
        ingress("shop/web", vec![rule("a.example", vec![path("/", "Prefix", "web")])]),
        json!({"alb.ingress.example.org/proxy-read-timeout": "7", (format!("{ALB}/proxy-read-timeout")): "8"}),
    );
    let options = Options { label_domain: "example.org".to_owned(), ..Options::embedded() };
    let (_, translation) = World::new(options, [service("shop/web", 80), ingress]);
    assert_eq!(forward(first(&translation)).timeouts.idle, Duration::from_secs(7));
}

#[test]
fn headers_are_edited_by_text_and_by_variables() {
    let request = r#"{"headers": {"X-A": "1"}, "headers_var": {"x-my-host": "http_host"}, "headers_remove": ["x-c"]}"#;
    let response = r#"{"headers_add": {"X-R": ["1", "2"]}}"#;
    let translation = root(json!({
        (format!("{ALB}/rewrite-request")): request, (format!("{ALB}/rewrite-response")): response,
    }));
    let filters = &first(&translation).filters;
    let set: Vec<(Box<str>, EditValue)> =
        vec![("x-a".into(), "1".into()), ("x-my-host".into(), EditValue::Variable(Variable::Authority))];
    assert_eq!((&filters.request_headers.set, &filters.request_headers.remove), (&set, &vec!["x-c".into()]));
    assert_eq!(filters.response_headers.add.len(), 2);
    let ours = root(json!({(format!("{ALB}/rewrite-request")): r#"{"headers": {"X-Real-IP": "192.0.2.1"}}"#}));
    assert!(first(&ours).filters.request_headers.is_empty());
    assert_eq!(
        brief(&ours.findings),
        [format!("Warning NoEffect Ingress shop/web metadata.annotations[{ALB}/rewrite-request]")]
    );
}

#[test]
fn an_edit_of_one_annotation_changes_the_rule_and_nothing_else_does() {
    let with = |value: &str| {
        annotated(
            ingress("shop/web", vec![rule("a.example", vec![path("/", "Prefix", "web")])]),
            json!({(nginx("upstream-vhost")): value}),
        )
    };
    let (mut world, one) = World::new(Options::embedded(), [service("shop/web", 80), with("one.example")]);
    let two = world.set(with("two.example"));
    assert_ne!(first(&one).filters, first(&two).filters);
    let same = world.set(with("two.example"));
    assert!(Arc::ptr_eq(&rules(&two.snapshot, "a.example")[0], &rules(&same.snapshot, "a.example")[0]));
}
