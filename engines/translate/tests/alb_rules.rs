//! Frontends and Rules of ALB2s: what becomes of them, one table for each field.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::sync::Arc;

use headwater_model::alb::dslx::Term;
use headwater_model::gateway::{
    Action, Balance, Forward, GatewaySnapshot, HostLaw, Listener, PathRewrite, Protocol, Rule,
};
use headwater_translate::{AlbScope, Options, Translation};
use serde_json::{Value, json};
use support::*;

const LABEL: &str = "alb2.cpaas.io/name";

fn alb(name: &str, config: Value) -> Value {
    json!({"kind": "ALB2", "metadata": {"namespace": "cpaas-system", "name": name}, "spec": {"config": config}})
}

fn frontend(alb: &str, port: u16, protocol: &str, more: Value) -> Value {
    let mut spec = json!({"port": port, "protocol": protocol});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let metadata = json!({"namespace": "cpaas-system", "name": format!("{alb}-{port:05}"), "labels": {LABEL: alb}});
    json!({"kind": "Frontend", "metadata": metadata, "spec": spec})
}

fn group(services: &[(&str, u16, i64)]) -> Value {
    let services: Vec<Value> = services
        .iter()
        .map(|(name, port, weight)| json!({"name": name, "namespace": "shop", "port": port, "weight": weight}))
        .collect();
    json!({"services": services})
}

fn rule_of(name: &str, port: u16, dslx: Value, more: Value) -> Value {
    let mut spec = json!({"dslx": dslx, "serviceGroup": group(&[("web", 80, 100)])});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let labels = json!({LABEL: "demo", "alb2.cpaas.io/frontend": format!("demo-{port:05}")});
    json!({
        "kind": "Rule", "metadata": {"namespace": "cpaas-system", "name": name, "labels": labels}, "spec": spec,
    })
}

fn starts(path: &str) -> Value {
    json!([{"type": "URL", "values": [["STARTS_WITH", path]]}])
}

fn root() -> Value {
    starts("/")
}

/// A Service with a pod, beside these objects.
fn shop(objects: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let base = [service("shop/web", 80), slice("shop/web", "web-1", &["10.0.0.1"], 8080)];
    base.into_iter().chain(objects).collect()
}

/// Every rule at a port, in the order in which they are looked at.
fn rules(snapshot: &GatewaySnapshot, port: u16) -> Vec<Arc<Rule>> {
    let routes = &listener_at(snapshot, port).routes;
    assert_eq!(routes.law, HostLaw::ByPrecedence);
    let mut rules: Vec<_> = routes.hosts.values().flat_map(|host| host.rules.clone()).collect();
    rules.sort_by(|a, b| a.precedence.cmp(&b.precedence));
    rules.dedup_by(|a, b| Arc::ptr_eq(a, b));
    rules
}

fn listener_at(snapshot: &GatewaySnapshot, port: u16) -> &Arc<Listener> {
    snapshot.listeners.iter().find(|listener| listener.port == port).unwrap()
}

/// The rule of the one Rule at port 80, which the objects have.
fn only(translation: &Translation) -> Rule {
    let rules = rules(&translation.snapshot, 80);
    assert_eq!(rules.len(), 1, "{rules:?}");
    (*rules[0]).clone()
}

fn forward(rule: &Rule) -> &Forward {
    let Action::Forward(forward) = &rule.action else { panic!("{rule:?}") };
    forward
}

/// One Rule at port 80 of an ALB2, each with these fields.
fn single(alb_config: Value, port: Value, rule: Value) -> Translation {
    let objects = [alb("demo", alb_config), frontend("demo", 80, "http", port), rule_of("r", 80, root(), rule)];
    embedded(shop(objects))
}

fn told(translation: &Translation) -> Vec<String> {
    let worth =
        translation.findings.iter().filter(|finding| finding.severity != headwater_model::finding::Severity::Info);
    worth.map(ToString::to_string).collect()
}

fn refusal(rule: &Rule) -> (u16, &str) {
    let Action::Refuse(refuse) = &rule.action else { panic!("{rule:?}") };
    (refuse.status, &refuse.reason)
}

#[test]
fn a_port_of_an_alb_is_a_listener_with_its_rules() {
    let translation = single(json!({}), json!({}), json!({}));
    assert_eq!(told(&translation), Vec::<String>::new());
    let [listener] = &translation.snapshot.listeners[..] else { panic!("{:?}", translation.snapshot.listeners) };
    assert_eq!((&*listener.name, listener.port, listener.protocol), ("demo-00080", 80, Protocol::Http));
    assert!(listener.client_address.trust.is_nobody(), "nobody is believed unless somebody says so");
    let rule = only(&translation);
    assert_eq!(rule.origin.to_string(), "Rule cpaas-system/r");
    let pool = translation.snapshot.pools.find(forward(&rule).backends[0].pool).unwrap();
    assert_eq!((pool.service.to_string(), pool.endpoints.len()), ("shop/web".to_owned(), 1));
}

#[test]
fn rules_stand_in_the_order_of_the_alb() {
    let url = |operator: &str, text: &str| json!({"type": "URL", "values": [[operator, text]]});
    let host = json!({"type": "HOST", "values": [["EQ", "a.com"]]});
    let wild = json!({"type": "HOST", "values": [["ENDS_WITH", "*.a.com"]]});
    // Of equal priority, as the ALB's own tests have them; best first.
    let expected = [
        json!([url("EQ", "/a"), host]),
        json!([url("STARTS_WITH", "/abc"), host]),
        json!([url("REGEX", "/a.*"), host]),
        json!([url("STARTS_WITH", "/"), host]),
        json!([url("REGEX", "/abcd.*"), wild]),
        json!([url("STARTS_WITH", "/abc"), wild]),
        json!([url("STARTS_WITH", "/ab"), wild]),
        json!([url("REGEX", "/a.*"), wild]),
        json!([url("STARTS_WITH", "/"), wild]),
        json!([wild]),
        json!([{"type": "URL", "values": [["STARTS_WITH", "/abc"], ["REGEX", "^/v1/*"]]}]),
        json!([url("STARTS_WITH", "/abcde")]),
        json!([url("REGEX", "/abcd.*")]),
        json!([url("STARTS_WITH", "/abc")]),
        json!([url("REGEX", "/a.*")]),
        json!([url("STARTS_WITH", "/")]),
    ];
    let names: Vec<String> = (0..expected.len()).map(|index| format!("r{index:02}")).collect();
    let mut objects =
        vec![alb("demo", json!({})), frontend("demo", 80, "http", json!({"serviceGroup": group(&[("web", 80, 1)])}))];
    objects
        .extend(expected.iter().enumerate().map(|(index, dslx)| rule_of(&names[index], 80, dslx.clone(), json!({}))));
    objects.push(rule_of("first", 80, root(), json!({"priority": -2})));
    objects.push(rule_of("late", 80, json!([host, url("EQ", "/a")]), json!({"priority": 5})));
    let translation = embedded(shop(objects));
    let found: Vec<String> =
        rules(&translation.snapshot, 80).iter().map(|rule| rule.origin.key.id.name.to_string()).collect();
    let mut expected = vec!["first".to_owned()];
    expected.extend(names);
    expected.extend(["late".to_owned(), "demo-00080".to_owned()]);
    assert_eq!(found, expected);
    let _: Term = Term::default();
}

#[test]
fn a_redirect_of_a_port_comes_first_and_its_default_backend_last() {
    let port =
        json!({"serviceGroup": group(&[("web", 80, 100)]), "config": {"redirect": {"code": 308, "scheme": "https"}}});
    let found = rules(&single(json!({}), port, json!({})).snapshot, 80);
    let shown: Vec<&str> = found.iter().map(|rule| &*rule.field).collect();
    assert_eq!(shown, ["spec.config.redirect", "spec", "spec.serviceGroup"]);
    let [Action::Redirect(redirect), _, Action::Forward(_)] =
        [&found[0], &found[1], &found[2]].map(|rule| &rule.action)
    else {
        panic!("{found:?}")
    };
    assert_eq!((redirect.status, redirect.scheme.as_deref()), (308, Some("https")));
    #[rustfmt::skip]
    let cases = [
        (json!({"ingressSSLRedirect": true}), 1),
        (json!({"ingressSSLRedirect": true, "ingressHTTPPort": 80}), 1),
        (json!({"ingressSSLRedirect": true, "ingressHTTPPort": 81}), 0),
        (json!({"ingressSSLRedirect": true, "ingressHTTPPort": 0}), 0),
        (json!({}), 0),
    ];
    for (config, redirects) in cases {
        let found = rules(&single(config.clone(), json!({}), json!({})).snapshot, 80);
        let count = found.iter().filter(|rule| matches!(rule.action, Action::Redirect(_))).count();
        assert_eq!(count, redirects, "{config}");
    }
}

#[test]
fn timeouts_come_from_the_nearest_object_as_a_whole() {
    let timeout = |connect: u32, read: u32| json!({"timeout": {"proxy_connect_timeout_ms": connect, "proxy_read_timeout_ms": read}});
    #[rustfmt::skip]
    let cases = [
        (json!({}), json!({}), json!({}), [5_000, 120_000, 120_000]),
        (timeout(1, 2), json!({}), json!({}), [1, 120_000, 2]),
        (timeout(1, 2), json!({"config": timeout(3, 4)}), json!({}), [3, 120_000, 4]),
        (timeout(1, 2), json!({"config": timeout(3, 4)}), json!({"config": timeout(5, 6)}), [5, 120_000, 6]),
        (timeout(1, 2), json!({"config": timeout(3, 4)}), json!({"config": {"timeout": {"proxy_send_timeout_ms": 7}}}), [5_000, 7, 120_000]),
        (timeout(0, 2), json!({}), json!({}), [5_000, 120_000, 2]),
    ];
    for (config, port, rule, expected) in cases {
        let rule = only(&single(config, port, rule.clone()));
        let timeouts = forward(&rule).timeouts;
        let found = [timeouts.connect, timeouts.send, timeouts.idle].map(|time| time.as_millis());
        assert_eq!(found, expected, "{rule:?}");
    }
}

#[test]
fn services_share_by_weight_and_the_missing_leave_theirs_to_others() {
    #[rustfmt::skip]
    let cases = [
        (group(&[("web", 80, 100)]), Ok(vec![100])),
        (group(&[("web", 80, 30), ("api", 80, 200)]), Ok(vec![30, 100])),
        (group(&[("web", 80, 0)]), Ok(vec![0])),
        (group(&[("gone", 80, 50), ("web", 80, 50)]), Ok(vec![50])),
        (group(&[("gone", 80, 50)]), Err("no_service")),
        (group(&[("web", 81, 50)]), Err("no_service_port")),
        (group(&[]), Err("invalid_rule")),
        (Value::Null, Err("invalid_rule")),
    ];
    for (group, expected) in cases {
        let objects = [
            service("shop/api", 80),
            alb("demo", json!({})),
            frontend("demo", 80, "http", json!({})),
            rule_of("r", 80, root(), json!({"serviceGroup": group})),
        ];
        let rule = only(&embedded(shop(objects)));
        let found = match &rule.action {
            Action::Forward(forward) => Ok(forward.backends.iter().map(|backend| backend.weight).collect()),
            _ => Err(refusal(&rule).1),
        };
        assert_eq!(found, expected, "{group}");
    }
}

#[test]
fn what_backends_speak_is_written_or_follows_the_port() {
    use headwater_model::gateway::UpstreamProtocol::{Http1, Http2};
    for (port, rule, expected) in [
        ("http", json!({}), (Http1, false)),
        ("http", json!({"backendProtocol": "HTTPS"}), (Http1, true)),
        ("http", json!({"backendProtocol": "grpc"}), (Http2, false)),
        ("grpc", json!({}), (Http2, false)),
        ("grpc", json!({"backendProtocol": "http"}), (Http1, false)),
        ("http", json!({"backendProtocol": "$http_backend_protocol"}), (Http1, false)),
    ] {
        let objects =
            [alb("demo", json!({})), frontend("demo", 80, port, json!({})), rule_of("r", 80, root(), rule.clone())];
        let translation = embedded(shop(objects));
        let rule = only(&translation);
        let pool = translation.snapshot.pools.find(forward(&rule).backends[0].pool).unwrap();
        assert_eq!((pool.protocol, pool.tls.is_some()), expected, "{port} {rule:?}");
        assert_eq!(listener_at(&translation.snapshot, 80).protocol, Protocol::Http);
    }
}

#[test]
fn affinity_of_a_group_is_how_it_balances() {
    for (policy, attribute, expected) in [
        ("", "", "RoundRobin"),
        ("rr", "", "RoundRobin"),
        ("unheard-of", "x", "RoundRobin"),
        ("ewma", "", "PeakEwma"),
        ("sip-hash", "", "Hash(Client)"),
        ("header", "X-User", "Hash(Header(\"x-user\"))"),
        ("header", "X User", "RoundRobin"),
    ] {
        let mut group = group(&[("web", 80, 1)]);
        group["session_affinity_policy"] = json!(policy);
        group["session_affinity_attribute"] = json!(attribute);
        let rule = only(&single(json!({}), json!({}), json!({"serviceGroup": group})));
        let balance: &Balance = &forward(&rule).balance;
        assert_eq!(format!("{balance:?}"), expected, "{policy} {attribute}");
    }
}

#[test]
fn rewrites_replace_what_the_base_matches() {
    let path = |rule: Value| {
        let translation = single(json!({}), json!({}), rule);
        let found = only(&translation);
        match &found.action {
            Action::Refuse(refuse) => Err(format!("{} {}", refuse.reason, told(&translation).join(" "))),
            _ => Ok(found.filters.rewrite.clone().map(|rewrite| (rewrite.host, rewrite.path))),
        }
    };
    let regex = |pattern: &str, replacement: &str| {
        let path = PathRewrite::Regex { pattern: pattern.into(), replacement: replacement.into() };
        Ok(Some((None, Some(path))))
    };
    assert_eq!(path(json!({})), Ok(None));
    assert_eq!(path(json!({"vhost": "b.example:8080"})), Ok(Some((Some("b.example:8080".into()), None))));
    assert_eq!(
        path(json!({"url": "/es", "rewrite_base": "/es_proxy(/|$)(.*)", "rewrite_target": "/$2"})),
        regex("/es_proxy(/|$)(.*)", "/$2")
    );
    assert_eq!(path(json!({"url": "/es", "rewrite_target": "/x"})), regex("/es", "/x"));
    assert_eq!(
        path(json!({"rewrite_base": ".*", "rewrite_target": "/x"})),
        Ok(Some((None, Some(PathRewrite::Full("/x".into())))))
    );
    for (rule, named) in [
        (json!({"rewrite_base": "/(?=a)", "rewrite_target": "/x"}), "spec.rewrite_base"),
        (json!({"rewrite_base": "/a", "rewrite_target": "x"}), "spec.rewrite_target"),
        (json!({"vhost": "a b"}), "spec.vhost"),
    ] {
        let error = path(rule.clone()).unwrap_err();
        assert!(error.starts_with("invalid_rule") && error.contains(named), "{rule}: {error}");
    }
}

#[test]
fn headers_are_edited_as_the_annotations_of_the_rule_say() {
    let annotate = |name: &str, text: &str| {
        let rule = rule_of("r", 80, root(), json!({}));
        with(rule, "metadata.annotations", json!({name: text}))
    };
    for (name, text, refused, shown) in [
        (
            "alb.rule.cpaas.io/rewrite-request",
            r#"{"headers_var": {"a": "cookie_b"}, "headers_remove": ["x"]}"#,
            false,
            "remove: [\"x\"]",
        ),
        (
            "alb.rule.cpaas.io/rewrite-response",
            r#"{"headers": {"strict-transport-security": "max-age=1"}}"#,
            false,
            "max-age=1",
        ),
        ("alb.rule.cpaas.io/rewrite-response", r#"{"headers": 1}"#, true, ""),
        ("alb.rule.other.io/rewrite-response", r#"{"headers": 1}"#, false, ""),
    ] {
        let objects = [alb("demo", json!({})), frontend("demo", 80, "http", json!({})), annotate(name, text)];
        let rule = only(&embedded(shop(objects)));
        assert_eq!(matches!(rule.action, Action::Refuse(_)), refused, "{text}");
        assert!(format!("{:?}", rule.filters).contains(shown), "{:?}", rule.filters);
    }
}

#[test]
fn cors_lets_in_listed_origins_only() {
    let cors = |rule: Value| only(&single(json!({}), json!({}), rule)).filters.cors.clone();
    assert_eq!(cors(json!({"corsAllowOrigin": "*"})), None, "unless it is enabled");
    assert!(cors(json!({"enableCORS": true})).unwrap().allows_all());
    let listed =
        cors(json!({"enableCORS": true, "corsAllowOrigin": "http://a.com:80,http://b.com", "corsAllowHeaders": "X-A"}));
    let listed = listed.unwrap();
    for (origin, allowed) in [
        ("http://a.com:80", true),
        ("http://b.com", true),
        ("http://a.com", false),
        ("http://b.com.cn", false),
        ("com", false),
    ] {
        assert_eq!(listed.allows(origin.as_bytes()), allowed, "{origin}");
    }
    assert_eq!((&*listed.headers, listed.max_age), ("X-A", 1_728_000));
}

/// apr1 of `foo:bar`.
const FOO: &str = "foo:$apr1$qICNZ61Q$2iooiJVUAMmprq258/ChP1";

fn users(id: &str) -> Value {
    json!({"kind": "Secret", "metadata": meta(id), "stringData": {"auth": FOO}})
}

#[test]
fn auth_comes_from_the_nearest_object_and_is_undone_by_one_that_asks_for_none() {
    let basic = |secret: &str| json!({"auth": {"basic": {"realm": secret.replace('/', " "), "secret": secret, "secret_type": "auth-file", "auth_type": "basic"}}});
    let off = || json!({"auth": {"enable": false}});
    let realm = |config: Value, port: Value, rule: Value| {
        let objects = [
            users("a/alb"),
            users("b/ft"),
            users("c/rule"),
            alb("demo", config),
            frontend("demo", 80, "http", json!({"config": port})),
            rule_of("r", 80, root(), json!({"config": rule})),
        ];
        let rule = only(&embedded(shop(objects)));
        match &rule.action {
            Action::Refuse(refuse) => refuse.reason.to_string(),
            _ => rule.auth.map_or("-".to_owned(), |auth| auth.basic.as_ref().unwrap().realm.to_string()),
        }
    };
    let none = || json!({});
    #[rustfmt::skip]
    let cases = [
        (none(), none(), none(), "-"),
        (basic("a/alb"), none(), none(), "a alb"),
        (basic("a/alb"), basic("b/ft"), none(), "b ft"),
        (basic("a/alb"), basic("b/ft"), basic("c/rule"), "c rule"),
        (basic("a/alb"), none(), off(), "-"),
        (basic("a/alb"), off(), none(), "-"),
        (none(), off(), basic("c/rule"), "c rule"),
        (basic("a/alb"), none(), json!({"auth": {}}), "-"),
        (basic("a/gone"), none(), none(), "invalid_auth"),
        (none(), none(), basic("c/gone"), "invalid_auth"),
        (none(), none(), json!({"auth": {"enable": true}}), "invalid_auth"),
        (none(), none(), json!({"auth": {"forward": {}}}), "invalid_auth"),
        (none(), none(), json!({"auth": {"basic": {"secret": "c/rule"}}}), "invalid_auth"),
    ];
    for (config, port, rule, expected) in cases {
        assert_eq!(realm(config.clone(), port.clone(), rule.clone()), expected, "{config} {port} {rule}");
    }
}

#[test]
fn what_is_wrong_with_inherited_auth_is_told_once_where_it_stands() {
    let config = json!({"auth": {"basic": {"realm": "r", "secret": "a/gone", "secret_type": "auth-file", "auth_type": "basic"}}});
    let mut objects =
        vec![alb("demo", config), frontend("demo", 80, "http", json!({})), frontend("demo", 81, "http", json!({}))];
    objects.extend((0..20).map(|index| rule_of(&format!("r{index}"), 80 + index % 2, root(), json!({}))));
    let translation = embedded(shop(objects));
    let told = told(&translation);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(
        told[0].starts_with("ALB2 cpaas-system/demo: spec.config.auth.basic.secret: Secret a/gone does not exist"),
        "{told:?}"
    );
}

#[test]
fn forward_auth_asks_the_server_that_is_named() {
    let forward = json!({"config": {"auth": {"forward": {
        "url": "http://auth.test/check", "auth_headers_cm_ref": "conf/headers", "signin": "http://$host/start?x=1",
        "auth_request_redirect": "$http_x", "upstream_headers": ["X-User", "x-forwarded-for"], "signin_redirect_param": "back",
    }}}});
    let headers = json!({"kind": "ConfigMap", "metadata": meta("conf/headers"), "data": {"x-time": "$msec"}});
    let objects =
        [headers, alb("demo", json!({})), frontend("demo", 80, "http", json!({})), rule_of("r", 80, root(), forward)];
    let translation = embedded(shop(objects));
    let auth = only(&translation).auth.unwrap();
    let forward = auth.forward.as_ref().unwrap();
    assert_eq!((&*forward.method, &*forward.authority, forward.headers.len()), ("GET", "auth.test", 1));
    assert_eq!(forward.response_headers, ["x-user".into()]);
    assert!(forward.signin.as_ref().unwrap().to_string().contains("&back="), "{:?}", forward.signin);
    assert!(translation.snapshot.pools.find(forward.pool).is_some());
}

#[test]
fn a_firewall_that_is_not_there_closes_what_it_was_to_guard() {
    let on = || json!({"modsecurity": {"enable": true}});
    let off = || json!({"modsecurity": {"enable": false}});
    for (config, port, rule, closed, object) in [
        (json!({}), json!({}), on(), true, "Rule cpaas-system/r"),
        (json!({}), on(), json!({}), true, "Frontend cpaas-system/demo-00080"),
        (on(), json!({}), json!({}), true, "ALB2 cpaas-system/demo"),
        (on(), off(), json!({}), false, ""),
        (on(), json!({}), off(), false, "ALB2 cpaas-system/demo"),
    ] {
        let translation = single(config, json!({"config": port}), json!({"config": rule}));
        let rule = only(&translation);
        if closed {
            assert_eq!(refusal(&rule), (503, "unavailable_guard"));
        } else {
            assert!(matches!(rule.action, Action::Forward(_)));
        }
        let told = told(&translation);
        assert!(told.iter().all(|told| told.starts_with(object)) && (told.is_empty() == object.is_empty()), "{told:?}");
    }
}

#[test]
fn a_rule_that_cannot_be_matched_answers_503_where_it_may_be_meant() {
    let broken = json!([
        {"type": "HOST", "values": [["EQ", "a.example"]]}, {"type": "URL", "values": [["REGEX", "/x(?=y)"]]},
    ]);
    let objects = [
        alb("demo", json!({})),
        frontend("demo", 80, "http", json!({})),
        rule_of("broken", 80, broken, json!({})),
        rule_of("good", 80, root(), json!({})),
        rule_of("silent", 80, Value::Null, json!({})),
    ];
    let translation = embedded(shop(objects));
    let found = rules(&translation.snapshot, 80);
    assert_eq!(found.len(), 2, "without a matcher there is no rule: {found:?}");
    assert_eq!(refusal(&found[0]), (503, "invalid_rule"));
    assert_eq!(found[0].precedence.ranks[0], 0);
    assert!(matches!(found[1].action, Action::Forward(_)));
    let told = told(&translation);
    assert!(
        told.iter().any(|told| told.contains("Rule cpaas-system/broken: spec.dslx") && told.contains("(?=")),
        "{told:?}"
    );
    assert!(
        told.iter().any(|told| told.contains("Rule cpaas-system/silent") && told.contains("without matcher")),
        "{told:?}"
    );
}

#[test]
fn keepalive_of_a_port_is_that_of_its_frontend_with_nginxs_numbers_where_it_is_silent() {
    let read = |protocol: &str, keepalive: Value| {
        let mut config = json!({});
        if !keepalive.is_null() {
            config["keepalive"] = keepalive;
        }
        let more = json!({"config": config, "serviceGroup": group(&[("web", 80, 100)])});
        let objects = shop([alb("demo", json!({})), frontend("demo", 80, protocol, more)]);
        let connection = listener_at(&embedded(objects).snapshot, 80).connection.clone();
        let tcp = connection.tcp_keep_alive.map(|tcp| {
            [tcp.idle, tcp.interval]
                .map(|time| time.map(|time| time.as_secs()).unwrap_or_default())
                .map(|s| s.to_string())
                .join(":")
                + &tcp.count.map(|count| format!(":{count}")).unwrap_or_default()
        });
        (
            tcp.unwrap_or_else(|| "off".to_owned()),
            connection.idle_timeout.as_secs(),
            connection.limits.requests_per_connection,
        )
    };
    let http = |fields: Value| json!({"http": fields});
    let tcp = |fields: Value| json!({"tcp": fields});
    for (keepalive, probes, idle, requests) in [
        (Value::Null, "off", 65, 1000),
        (tcp(json!({})), "0:0", 65, 1000),
        (tcp(json!({"idle": "60m"})), "3600:0:10", 65, 1000),
        (tcp(json!({"idle": "30s", "interval": "10s", "count": 3})), "30:10:3", 65, 1000),
        (tcp(json!({"count": 3})), "1800:0:3", 65, 1000),
        (http(json!({})), "off", 75, 1000),
        (http(json!({"timeout": "6m", "header_timeout": "5m", "requests": 2})), "off", 360, 2),
    ] {
        assert_eq!(read("http", keepalive.clone()), (probes.to_owned(), idle, requests), "{keepalive}");
        assert_eq!(read("tcp", keepalive.clone()).0, probes, "carried: {keepalive}");
    }
}

#[test]
fn names_and_ports_get_the_certificates_of_upstreams_table_and_none_of_another_port() {
    let secret = |name: &str| {
        secret_of(&format!("c/{name}"), certificate(&["a.com", "b.com", "*.e.com", "*.f.com"], Algorithm::Ecdsa, 2060))
    };
    let tls_rule = |port: u16, domain: &str, secret: &str| {
        let name = format!("r{port}-{}", domain.trim_start_matches("*."));
        rule_of(&name, port, root(), json!({"domain": domain, "certificate_name": format!("c/{secret}")}))
    };
    let names = ["full-host", "full-host-443", "full-host-8443", "10443-default", "wildcard-host", "wildcard-host-443"];
    let mut objects: Vec<Value> = names.iter().map(|name| secret(name)).collect();
    objects.extend([
        alb("demo", json!({})),
        frontend("demo", 443, "https", json!({})),
        frontend("demo", 8443, "https", json!({})),
        frontend("demo", 9443, "https", json!({})),
        frontend("demo", 10443, "https", json!({"certificate_name": "c/10443-default"})),
        tls_rule(443, "a.com", "full-host"),
        tls_rule(443, "b.com", "full-host-443"),
        tls_rule(8443, "b.com", "full-host-8443"),
        tls_rule(443, "*.e.com", "wildcard-host"),
        tls_rule(443, "*.f.com", "wildcard-host-443"),
    ]);
    let translation = embedded(shop(objects));
    assert_eq!(told(&translation), Vec::<String>::new());
    // A name without a certificate gets the one that a gateway makes up, where upstream ends the handshake.
    for (name, port, upstream, ours) in [
        (Some("a.com"), 443, Some("full-host"), Some("full-host")),
        (None, 10443, Some("10443-default"), Some("10443-default")),
        (None, 443, None, None),
        (Some("a.com"), 8443, Some("full-host"), None),
        (Some("b.com"), 443, Some("full-host-443"), Some("full-host-443")),
        (Some("b.com"), 8443, Some("full-host-8443"), Some("full-host-8443")),
        (Some("b.com"), 9443, None, None),
        // Upstream with FallbackDefaultPortCert.
        (Some("b.com"), 10443, Some("10443-default"), Some("10443-default")),
        (Some("c.com"), 443, None, None),
        (Some("a.e.com"), 443, Some("wildcard-host"), Some("wildcard-host")),
        (Some("c.e.com"), 443, Some("wildcard-host"), Some("wildcard-host")),
        (Some("b.c.e.com"), 443, None, None),
        (Some("c.e.com"), 8443, Some("wildcard-host"), None),
        (Some("a.f.com"), 8443, None, None),
        (Some("a.f.com"), 443, Some("wildcard-host-443"), Some("wildcard-host-443")),
    ] {
        let tls = listener_at(&translation.snapshot, port).tls.clone().unwrap();
        let exact = name.and_then(|name| tls.exact.get(name));
        let wild = || name.and_then(|name| tls.wildcard.get(name.split_once('.')?.1));
        let found = exact.or_else(wild).map(|found| &found[0]).or(tls.default.as_ref());
        let found = found.map(|found| found.origin.key.id.name.to_string());
        assert_eq!(found.as_deref(), ours, "{name:?} {port}");
        // Certificates of other ports do not count: docs/alb.md says so among the differences.
        assert!(ours == upstream || (ours.is_none() && port == 8443), "{name:?} {port}");
    }
}

#[test]
fn certificates_are_chosen_by_name_and_port() {
    let secret = |id: &str, names: &[&str]| secret_of(id, certificate(names, Algorithm::Ecdsa, 2060));
    let tls_rule = |name: &str, port: u16, domain: &str, secret: &str| {
        rule_of(name, port, root(), json!({"domain": domain, "certificate_name": secret}))
    };
    let objects = [
        secret("c/a1", &["a.com"]),
        secret("c/a2", &["a.com"]),
        secret("c/b1", &["b.com"]),
        secret("c/b2", &["b.com"]),
        secret("c/wild", &["*.w.com"]),
        secret("c/port", &["port.com"]),
        secret("c/alb", &["alb.com"]),
        alb("demo", json!({"defaultSSLCert": "c/alb", "enableHTTP2": "false"})),
        frontend("demo", 90, "https", json!({"certificate_name": "c_port"})),
        frontend("demo", 91, "https", json!({})),
        frontend("demo", 92, "grpc", json!({"certificate_name": "c/port"})),
        frontend("demo", 93, "grpcs", json!({})),
        tls_rule("a2", 90, "a.com", "c/a2"),
        tls_rule("a1", 90, "a.com", "c/a1"),
        tls_rule("b90", 90, "b.com", "c/b1"),
        tls_rule("b91", 91, "B.com", "c_b2"),
        tls_rule("w", 91, "*.w.com", "c/wild"),
        tls_rule("gone", 91, "a.com", "c/gone"),
    ];
    let translation = embedded(shop(objects));
    let served = |port: u16, name: &str| {
        let tls = listener_at(&translation.snapshot, port).tls.clone().unwrap();
        let found = match name {
            "" => tls.default.clone(),
            name => tls.exact.get(name).or_else(|| tls.wildcard.get(name)).map(|found| found[0].clone()),
        };
        found.map(|found| found.origin.key.id.to_string())
    };
    for (port, name, expected) in [
        (90, "a.com", Some("c/a1")),
        (90, "b.com", Some("c/b1")),
        (91, "b.com", Some("c/b2")),
        (91, "w.com", Some("c/wild")),
        (91, "a.com", None),
        (90, "", Some("c/port")),
        (91, "", Some("c/alb")),
        (92, "", Some("c/port")),
        (93, "", Some("c/alb")),
    ] {
        assert_eq!(served(port, name).as_deref(), expected, "{port} {name}");
    }
    let told = told(&translation);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("Rule cpaas-system/gone: spec.certificate_name: Secret c/gone does not exist"),
        "{told:?}"
    );
    let http2 = |port| listener_at(&translation.snapshot, port).connection.http2;
    assert_eq!([90, 92].map(http2), [false, true], "gRPC has nothing else");
}

#[test]
fn of_frontends_of_one_port_the_oldest_is_opened_and_udp_has_ports_of_its_own() {
    let aged = |frontend: Value, name: &str, year: u16| {
        let frontend = with(frontend, "metadata.name", json!(name));
        with(frontend, "metadata.creationTimestamp", json!(format!("{year}-01-01T00:00:00Z")))
    };
    let stream = json!({"serviceGroup": {"services": [{"name": "dns", "namespace": "shop", "port": 53}]}});
    let mut dns = service("shop/dns", 53);
    dns["spec"]["ports"] = json!([{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}]);
    let objects = [
        dns,
        alb("demo", json!({})),
        aged(frontend("demo", 80, "http", json!({})), "young", 2026),
        aged(frontend("demo", 80, "https", json!({})), "old", 2020),
        frontend("demo", 53, "tcp", stream.clone()),
        aged(frontend("demo", 53, "udp", stream), "udp", 2026),
    ];
    let translation = embedded(shop(objects));
    let shown: Vec<String> = translation
        .snapshot
        .listeners
        .iter()
        .map(|listener| format!("{} {:?}", listener.name, listener.protocol))
        .collect();
    assert_eq!(shown, ["demo-00053 Tcp", "udp Udp", "old Https"]);
    let told = told(&translation);
    assert!(
        told.iter()
            .any(|told| told.contains("Frontend cpaas-system/young: spec.port: port 80 belongs to Frontend old")),
        "{told:?}"
    );
    let stream = translation.snapshot.listeners[1].stream.as_ref().unwrap();
    let pool = translation.snapshot.pools.find(stream.backends[0].pool).unwrap();
    assert_eq!((stream.attempts, pool.port, format!("{:?}", pool.protocol)), (5, 53, "Udp".to_owned()));
}

#[test]
fn only_the_albs_that_are_asked_for_are_served() {
    let objects = || {
        shop([
            alb("demo", json!({})),
            frontend("demo", 80, "http", json!({})),
            rule_of("r", 80, root(), json!({})),
            alb("other", json!({})),
            frontend("other", 81, "http", json!({})),
        ])
    };
    let ports = |albs: AlbScope| {
        let options = Options { albs, ..Options::default() };
        let (_, translation) = World::new(options, objects());
        translation.snapshot.listeners.iter().map(|listener| listener.port).collect::<Vec<_>>()
    };
    let id = |name: &str| headwater_model::origin::NamespacedName::new("cpaas-system", name);
    assert_eq!(ports(AlbScope::None), Vec::<u16>::new());
    assert_eq!(ports(AlbScope::All), [80, 81]);
    assert_eq!(ports(AlbScope::Only(vec![id("other")])), [81]);
    let other_domain = Options { label_domain: "example.org".to_owned(), ..Options::embedded() };
    let (_, translation) = World::new(other_domain, objects());
    assert_eq!(translation.snapshot.listeners.len(), 0);
}

#[test]
fn carried_ports_connect_from_the_client_where_the_settings_that_the_alb_names_say_so() {
    for transparent in [false, true] {
        let demo = annotated(alb("demo", json!({})), json!({"headwater.dev/settings": "edge"}));
        let edge = settings("cpaas-system/edge", json!({"clientAddress": {"transparent": transparent}}));
        let group = json!({"serviceGroup": {"services": [{"name": "web", "namespace": "shop", "port": 80}]}});
        let objects = shop([edge, demo, frontend("demo", 81, "tcp", group)]);
        let (_, translation) = World::new(Options::embedded(), objects);
        let route = listener_at(&translation.snapshot, 81).stream.clone().unwrap();
        assert_eq!(route.transparent, transparent);
    }
}

#[test]
fn whom_a_port_believes_is_up_to_the_settings_that_the_alb_names() {
    let demo = || annotated(alb("demo", json!({})), json!({"headwater.dev/settings": "edge"}));
    let edge = settings(
        "cpaas-system/edge",
        json!({"clientAddress": {"trustedProxies": ["10.0.0.0/8"], "forwardedHeader": "X-Forwarded-For"}}),
    );
    let objects =
        |demo: Value| shop([demo, frontend("demo", 80, "http", json!({})), rule_of("r", 80, root(), json!({}))]);
    let (mut world, without) = World::new(Options::embedded(), objects(demo()));
    assert_eq!(without.snapshot.listeners.len(), 0, "a policy that is missing could have been stricter");
    assert!(
        told(&without).iter().any(|told| told.contains("GatewaySettings cpaas-system/edge does not exist")),
        "{:?}",
        told(&without)
    );
    let with = world.set(edge);
    assert!(!listener_at(&with.snapshot, 80).client_address.trust.is_nobody());
    assert_eq!(told(&with), Vec::<String>::new());
}

#[test]
fn ports_that_settings_write_down_come_before_those_of_albs_and_implied_ones_after() {
    let plain = ingress("shop/web", vec![rule("shop.example", vec![path("/", "Prefix", "web")])]);
    let plain = with(plain, "spec.ingressClassName", json!("hw"));
    let base = || shop([plain.clone(), alb("demo", json!({})), frontend("demo", 80, "http", json!({}))]);
    let names = |more: Vec<Value>| {
        let translation = embedded(base().into_iter().chain(more));
        let names = translation.snapshot.listeners.iter().map(|listener| listener.name.to_string());
        (names.collect::<Vec<_>>(), told(&translation))
    };
    assert_eq!(names(vec![class("hw", None)]).0, ["demo-00080", "https"]);
    let listeners = json!({"listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]});
    let (opened, told) = names(vec![class("hw", Some("infra/edge")), settings("infra/edge", listeners)]);
    assert_eq!(opened, ["web"]);
    assert!(told.iter().any(|told| told.contains("port 80 belongs to GatewaySettings infra/edge")), "{told:?}");
}

#[test]
fn objects_that_belong_nowhere_say_so() {
    let strip = |mut value: Value, label: &str| {
        value["metadata"]["labels"].as_object_mut().unwrap().remove(label);
        value
    };
    let frontend_label = "alb2.cpaas.io/frontend";
    let v1 = json!({"kind": "ALB2", "metadata": {"namespace": "cpaas-system", "name": "old"}, "spec": {"address": "192.0.2.1"}});
    let objects = [
        v1,
        alb("demo", json!({})),
        frontend("demo", 80, "http", json!({})),
        frontend("gone", 81, "http", json!({})),
        strip(frontend("demo", 82, "http", json!({})), LABEL),
        rule_of("lost", 99, root(), json!({})),
        strip(rule_of("nowhere", 80, root(), json!({})), frontend_label),
        strip(rule_of("nobodys", 80, root(), json!({})), LABEL),
    ];
    let translation = embedded(shop(objects));
    let all: Vec<String> = translation.findings.iter().map(ToString::to_string).collect();
    for expected in [
        "ALB2 cpaas-system/old: it has no spec.config",
        "Frontend cpaas-system/gone-00081: metadata.labels[alb2.cpaas.io/name]: ALB2 cpaas-system/gone does not exist",
        "Frontend cpaas-system/demo-00082: metadata.labels: the label alb2.cpaas.io/name is missing",
        "Rule cpaas-system/lost: metadata.labels[alb2.cpaas.io/frontend]: Frontend cpaas-system/demo-00099 does not exist",
        "Rule cpaas-system/nowhere: metadata.labels[alb2.cpaas.io/frontend]: the label",
        "Rule cpaas-system/nobodys: metadata.labels[alb2.cpaas.io/name]: Frontend demo-00080 belongs to ALB2 demo",
    ] {
        assert!(all.iter().any(|told| told.starts_with(expected)), "{expected}: {all:#?}");
    }
    assert_eq!(rules(&translation.snapshot, 80).len(), 0);
}
