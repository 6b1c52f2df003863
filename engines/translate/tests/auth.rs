//! Who may come in: annotations, Secrets and ConfigMaps become the auth of a rule, or close it.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use headwater_model::finding::{Finding, Severity};
use headwater_model::gateway::{Auth, EndpointAddress, ForwardAuth, UpstreamVerify};
use headwater_translate::{Options, Translation, is_about_secrets};
use serde_json::{Value, json};
use support::*;

const HASH: &str = "$apr1$saltsalt$HZb7DO9JU4769Nu3n58bv.";

fn alb(name: &str) -> String {
    format!("alb.ingress.cpaas.io/{name}")
}

fn web(annotations: Value) -> Value {
    annotated(ingress("shop/web", vec![rule("a.example", vec![path("/", "Prefix", "web")])]), annotations)
}

fn secret(id: &str, text: Value) -> Value {
    json!({"kind": "Secret", "type": "Opaque", "metadata": meta(id), "stringData": text})
}

fn config_map(id: &str, data: Value) -> Value {
    json!({"kind": "ConfigMap", "metadata": meta(id), "data": data})
}

fn auth(translation: &Translation) -> Option<&Auth> {
    rules(&translation.snapshot, "a.example")[0].auth.as_deref()
}

fn forwarded(translation: &Translation) -> &ForwardAuth {
    auth(translation).and_then(|auth| auth.forward.as_ref()).expect("the rule asks a server")
}

/// What is told first of what is wrong.
fn wrong(translation: &Translation) -> &Finding {
    translation.findings.iter().find(|finding| finding.severity == Severity::Error).expect("something is wrong")
}

fn wanted(translation: &Translation) -> Vec<String> {
    let named = translation.wanted.iter().map(ToString::to_string);
    named.filter(|key| key.contains("shop/")).collect()
}

#[test]
fn a_secret_of_users_is_live() {
    let annotations = json!({(nginx("auth-type")): "basic", (nginx("auth-secret")): "users"});
    let (mut world, before) = World::new(Options::embedded(), [service("shop/web", 80), web(annotations)]);
    let closed = "prefix / -> 503 invalid_auth";
    let field = "metadata.annotations[nginx.ingress.kubernetes.io/auth-secret]";
    assert_eq!(shown(&before.snapshot, "a.example"), [closed]);
    assert_eq!(brief(&before.findings), [format!("Error MissingReference Ingress shop/web {field}")]);
    assert!(wrong(&before).message.contains("Secret shop/users") && is_about_secrets(wrong(&before)));
    assert_eq!(wanted(&before), ["Secret shop/users"]);

    let two = world.set(secret("shop/users", json!({"auth": format!("foo:{HASH}\nbar:{HASH}\n")})));
    assert_eq!(
        (shown(&two.snapshot, "a.example"), brief(&two.findings)),
        (vec!["prefix / -> shop/web:80".to_owned()], vec![])
    );
    let basic = |translation: &Translation| auth(translation).and_then(|auth| auth.basic.clone()).unwrap();
    assert_eq!((&*basic(&two).realm, basic(&two).users.len()), ("Authentication Required", 2));

    let one = world.set(secret("shop/users", json!({"auth": format!("foo:{HASH}")})));
    assert_eq!((one.changed, basic(&one).users.len()), (true, 1));

    for broken in [json!({"auth": "foo:plain"}), json!({"auth": ""}), json!({"other": "x"})] {
        let after = world.set(secret("shop/users", broken.clone()));
        assert_eq!(shown(&after.snapshot, "a.example"), [closed], "{broken}");
        assert_eq!(brief(&after.findings), [format!("Error InvalidSecret Ingress shop/web {field}")], "{broken}");
        assert!(!wrong(&after).message.contains("plain") && wrong(&after).message.contains("shop/users"));
    }
    let gone = world.remove(secret("shop/users", json!({})));
    assert_eq!(shown(&gone.snapshot, "a.example"), [closed]);
    let open = world.set(web(json!({})));
    assert_eq!(
        (shown(&open.snapshot, "a.example"), wanted(&open)),
        (vec!["prefix / -> shop/web:80".to_owned()], vec![])
    );
}

#[test]
fn a_map_of_users_has_one_for_each_key() {
    let annotations = json!({
        (alb("auth-type")): "basic", (alb("auth-secret")): "shop/users", (alb("auth-secret-type")): "auth-map",
        (alb("auth-realm")): "a realm",
    });
    let users = secret("shop/users", json!({"foo": HASH, "bar": format!("{HASH}\n")}));
    let translation = embedded([service("shop/web", 80), web(annotations), users]);
    assert_eq!(brief(&translation.findings), [""; 0]);
    let basic = auth(&translation).unwrap().basic.as_ref().unwrap();
    assert_eq!((&*basic.realm, basic.users.len()), ("a realm", 2));
    assert!(basic.users.find("foo").is_some() && basic.users.find("auth").is_none());
}

#[test]
fn an_auth_server_becomes_a_pool_of_its_own() {
    let annotations = json!({
        (nginx("auth-url")): "https://auth.example:8443/check?u=$escaped_request_uri",
        (nginx("auth-method")): "POST",
        (nginx("auth-response-headers")): "X-User, X-Forwarded-Groups,X-Real-IP",
        (nginx("auth-proxy-set-headers")): "shop/headers",
        (nginx("auth-request-redirect")): "$http_host/x",
        (nginx("auth-signin")): "https://$host/start?xx=bb",
        (nginx("auth-always-set-cookie")): "true",
    });
    let headers = config_map("shop/headers", json!({"X-Time": "t=${msec}", "X-Host": "$http_host", "Host": "evil"}));
    let (mut world, translation) =
        World::new(Options::embedded(), [service("shop/web", 80), web(annotations), headers]);
    let forward = forwarded(&translation);
    assert_eq!((&*forward.method, &*forward.authority), ("POST", "auth.example:8443"));
    assert_eq!(forward.target.to_string(), "/check?u=${escaped_request_uri}");
    assert_eq!(forward.response_headers, ["x-user".into(), "x-forwarded-groups".into()]);
    let headers: Vec<String> = forward.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    assert_eq!(headers, ["x-host: ${http_host}", "x-time: t=${msec}"]);
    assert_eq!(forward.redirect.as_ref().map(ToString::to_string).as_deref(), Some("${http_host}/x"));
    let signin = "https://${host}/start?xx=bb&rd=${scheme}://${http_host}${escaped_request_uri}";
    assert_eq!(forward.signin.as_ref().map(ToString::to_string).as_deref(), Some(signin));
    assert!(forward.always_set_cookie);
    let pool = translation.snapshot.pools.find(forward.pool).unwrap();
    assert_eq!(pool.endpoints[0].address, EndpointAddress::Dns("auth.example".into(), 8443));
    let tls = pool.tls.as_ref().unwrap();
    assert_eq!((&tls.verify, tls.server_name.as_deref()), (&UpstreamVerify::SystemRoots, Some("auth.example")));
    // What is ours to write is left out, and told.
    assert_eq!(
        brief(&translation.findings),
        [
            "Warning NoEffect Ingress shop/web metadata.annotations[nginx.ingress.kubernetes.io/auth-response-headers]",
            "Warning NoEffect Ingress shop/web metadata.annotations[nginx.ingress.kubernetes.io/auth-proxy-set-headers]",
        ]
    );
    assert_eq!(wanted(&translation), ["ConfigMap shop/headers"]);

    let live = world.set(config_map("shop/headers", json!({"X-Other": "1"})));
    assert_eq!(&*forwarded(&live).headers[0].0, "x-other");
    let missing = world.remove(config_map("shop/headers", json!({})));
    assert_eq!(shown(&missing.snapshot, "a.example"), ["prefix / -> 503 invalid_auth"]);
    let open = world.set(web(json!({})));
    assert_eq!(open.snapshot.pools.0.iter().flatten().count(), 1, "the pool of the server is gone");
}

#[test]
fn every_doubt_closes_the_path_and_is_told() {
    let url = "http://auth.example/";
    for annotations in [
        json!({(nginx("auth-url")): ""}),
        json!({(nginx("auth-url")): "auth.example"}),
        json!({(nginx("auth-url")): "http://$http_host/"}),
        json!({(nginx("auth-url")): "http://auth.example/$unknown"}),
        json!({(nginx("auth-url")): "http://auth.example/\r\nX: y"}),
        json!({(nginx("auth-url")): url, (nginx("auth-method")): "GET /x"}),
        json!({(nginx("auth-url")): url, (nginx("auth-method")): "CONNECT"}),
        json!({(nginx("auth-url")): url, (nginx("auth-response-headers")): "X-User: x"}),
        json!({(nginx("auth-url")): url, (nginx("auth-proxy-set-headers")): "missing"}),
        json!({(nginx("auth-url")): url, (nginx("auth-proxy-set-headers")): "broken"}),
        json!({(nginx("auth-url")): url, (nginx("auth-proxy-set-headers")): "other/headers"}),
        json!({(nginx("auth-url")): url, (nginx("auth-request-redirect")): "$nobody"}),
        json!({(nginx("auth-url")): url, (nginx("auth-signin")): "http://a/${x"}),
        json!({(nginx("auth-url")): url, (nginx("auth-signin")): "/a", (nginx("auth-signin-redirect-param")): "a=b"}),
        json!({(nginx("auth-url")): url, (nginx("auth-always-set-cookie")): "yes"}),
        json!({(nginx("auth-url")): url, (alb("auth-enable")): "off"}),
        json!({(nginx("auth-url")): url, "index.0.alb.ingress.cpaas.io/auth-enable": "false"}),
        json!({(nginx("auth-type")): "digest", (nginx("auth-secret")): "users"}),
        json!({(nginx("auth-type")): "basic"}),
        json!({(nginx("auth-secret")): "users"}),
        json!({(nginx("auth-type")): "basic", (nginx("auth-secret")): "other/users"}),
        json!({(nginx("auth-type")): "basic", (nginx("auth-secret")): "users", (nginx("auth-realm")): "a\"b"}),
        json!({(nginx("auth-type")): "basic", (nginx("auth-secret")): "users", (nginx("auth-secret-type")): "file"}),
        json!({(nginx("auth-url")): url, (nginx("auth-type")): "basic", (nginx("auth-secret")): "missing"}),
    ] {
        let users = |id| secret(id, json!({"auth": format!("foo:{HASH}")}));
        let maps = [config_map("shop/broken", json!({"X": "$nobody"})), config_map("other/headers", json!({}))];
        let objects = [service("shop/web", 80), web(annotations.clone()), users("shop/users"), users("other/users")];
        let translation = embedded(objects.into_iter().chain(maps));
        assert_eq!(shown(&translation.snapshot, "a.example"), ["prefix / -> 503 invalid_auth"], "{annotations}");
        let told = brief(&translation.findings);
        assert_eq!(told.len(), 1, "{annotations}: {told:?}");
        assert!(told[0].starts_with("Error "), "{told:?}");
        assert!(wrong(&translation).message.contains("invalid_auth"), "{:?}", translation.findings);
        let others: Vec<String> = translation.wanted.iter().map(ToString::to_string).collect();
        assert!(!others.iter().any(|key| key.contains("other/")), "{others:?}");
    }
}

#[test]
fn a_path_has_its_own_auth_or_none() {
    let two = vec![rule(
        "a.example",
        vec![path("/", "Prefix", "web"), path("/open", "Prefix", "web"), path("/own", "Exact", "web")],
    )];
    let annotations = json!({
        (nginx("auth-url")): "http://$host/auth",
        "index.0-1.alb.ingress.cpaas.io/auth-enable": "false",
        "index.0-2.alb.ingress.cpaas.io/auth-url": "http://10.0.0.9:4180/own",
    });
    let translation = embedded([service("shop/web", 80), annotated(ingress("shop/web", two), annotations)]);
    assert_eq!(brief(&translation.findings), [""; 0]);
    let asked = |field: &str| {
        let rules = rules(&translation.snapshot, "a.example");
        let rule = rules.iter().find(|rule| &*rule.field == field).unwrap();
        let forward = rule.auth.as_ref().and_then(|auth| auth.forward.as_ref());
        forward.map(|forward| format!("{}{}", forward.authority, forward.target))
    };
    assert_eq!(asked("spec.rules[0].http.paths[0]").as_deref(), Some("a.example/auth"));
    assert_eq!(asked("spec.rules[0].http.paths[1]"), None);
    assert_eq!(asked("spec.rules[0].http.paths[2]").as_deref(), Some("10.0.0.9:4180/own"));
}

#[test]
fn what_is_wrong_with_an_annotation_is_told_once_for_all_its_paths() {
    let paths = vec![path("/a", "Prefix", "web"), path("/b", "Prefix", "web")];
    let annotations = json!({(nginx("auth-type")): "basic", (nginx("auth-secret")): "missing"});
    let web = annotated(ingress("shop/web", vec![rule("a.example", paths)]), annotations);
    assert_eq!(
        embedded([service("shop/web", 80), web]).findings.iter().filter(|f| f.reason == "MissingReference").count(),
        1
    );
}

#[test]
fn a_server_and_passwords_are_asked_for_together() {
    let annotations = json!({
        (nginx("auth-url")): "http://auth.example/", (nginx("auth-type")): "basic", (nginx("auth-secret")): "users",
    });
    let users = secret("shop/users", json!({"auth": format!("foo:{HASH}")}));
    let translation = embedded([service("shop/web", 80), web(annotations), users]);
    let auth = auth(&translation).unwrap();
    assert!(auth.forward.is_some() && auth.basic.is_some());
}

#[test]
fn who_may_not_read_secrets_says_nothing_about_them_and_lets_nobody_in() {
    let annotations = json!({
        (nginx("auth-type")): "basic", (nginx("auth-secret")): "users",
        (nginx("auth-url")): "http://auth.example/", (nginx("auth-proxy-set-headers")): "headers",
    });
    let blind = Options { reads_secrets: false, ..Options::embedded() };
    let (_, translation) = World::new(blind, [service("shop/web", 80), web(annotations)]);
    assert_eq!((brief(&translation.findings), wanted(&translation)), (vec![], vec![]));
    assert!(auth(&translation).unwrap().basic.as_ref().unwrap().users.is_empty());
}

#[test]
fn no_hash_leaves_with_a_snapshot_or_a_finding() {
    let annotations = json!({(nginx("auth-type")): "basic", (nginx("auth-secret")): "users"});
    let users = secret("shop/users", json!({"auth": format!("foo:{HASH}")}));
    let translation = embedded([service("shop/web", 80), web(annotations), users]);
    for text in [serde_json::to_string(&*translation.snapshot).unwrap(), format!("{:?}", translation.snapshot)] {
        assert!(!text.contains("apr1") && !text.contains("HZb7") && !text.contains("foo"), "{text}");
    }
}
