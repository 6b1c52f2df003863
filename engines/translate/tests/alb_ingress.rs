//! Ingresses of the class of an ALB2: which are taken, at which ports they stand, and what their annotations do.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use headwater_model::finding::Severity;
use headwater_model::gateway::{Action, GatewaySnapshot, PathRewrite, Rule};
use headwater_model::observed::PublishedAddress;
use headwater_model::origin::NamespacedName;
use headwater_translate::{Options, Translation};
use serde_json::{Value, json};
use support::*;

fn alb(config: Value) -> Value {
    let mut config = config;
    if config.get("projects").is_none() {
        config["projects"] = json!(["ALL_ALL"]);
    }
    json!({"kind": "ALB2", "metadata": {"namespace": "cpaas-system", "name": "demo"}, "spec": {"config": config}})
}

fn web(rules: Vec<Value>) -> Value {
    with(ingress("shop/web", rules), "spec.ingressClassName", json!("demo"))
}

fn at(host: &str, text: &str, kind: &str) -> Value {
    rule(host, vec![path(text, kind, "web")])
}

fn shop(objects: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let base = [service("shop/web", 80), slice("shop/web", "web-1", &["10.0.0.1"], 8080)];
    base.into_iter().chain(objects).collect()
}

fn rules(snapshot: &GatewaySnapshot, port: u16) -> Vec<Rule> {
    let Some(listener) = snapshot.listeners.iter().find(|listener| listener.port == port) else { return Vec::new() };
    let mut rules: Vec<Rule> =
        listener.routes.hosts.values().flat_map(|host| &host.rules).map(|rule| (**rule).clone()).collect();
    rules.sort_by(|a, b| a.precedence.cmp(&b.precedence));
    rules
}

fn told(translation: &Translation) -> Vec<String> {
    translation.findings.iter().filter(|found| found.severity > Severity::Info).map(ToString::to_string).collect()
}

/// The one rule that an Ingress with these annotations has at the port.
fn annotated_at(port: u16, config: Value, host: &str, annotations: Value) -> Rule {
    let ingress = annotated(web(vec![at(host, "/a(.*)", "ImplementationSpecific")]), annotations);
    let translation = embedded(shop([alb(config), ingress]));
    let mut rules = rules(&translation.snapshot, port);
    assert_eq!(rules.len(), 1, "{:?} {:?}", rules, told(&translation));
    rules.remove(0)
}

#[test]
fn an_ingress_is_taken_by_its_class_and_the_project_of_its_namespace() {
    let namespace = |project: &str| json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"cpaas.io/project": project}}});
    let one = || web(vec![at("a.example", "/", "Prefix")]);
    let classed = |class: Value| with(one(), "spec.ingressClassName", class);
    #[rustfmt::skip]
    let cases = [
        (json!(["ALL_ALL"]), "p", one(), true),
        (json!(["p", "q"]), "p", one(), true),
        (json!(["q"]), "p", one(), false),
        (json!([]), "p", one(), false),
        (json!(["ALL_ALL"]), "p", classed(Value::Null), true),
        (json!(["ALL_ALL"]), "p", classed(json!("other")), false),
    ];
    for (projects, project, ingress, taken) in cases {
        let translation = embedded(shop([alb(json!({"projects": projects})), namespace(project), ingress]));
        assert_eq!(rules(&translation.snapshot, 80).len(), usize::from(taken), "{projects}");
        assert_eq!(translation.snapshot.listeners.len(), usize::from(taken), "a port is opened when it is needed");
        if taken {
            assert_eq!(told(&translation), Vec::<String>::new());
        }
    }
    let (mut world, _) =
        World::new(Options::embedded(), shop([alb(json!({"projects": ["p"]})), namespace("q"), one()]));
    assert_eq!(rules(&world.set(namespace("p")).snapshot, 80).len(), 1, "a namespace that changes its project");
}

#[test]
fn paths_stand_at_every_port_that_the_ingress_needs() {
    let tls = with(
        web(vec![at("a.example", "/", "Prefix"), at("b.example", "/", "Prefix")]),
        "spec.tls",
        json!([{"hosts": ["a.example"], "secretName": "cert"}]),
    );
    let secret = secret_of("shop/cert", certificate(&["a.example"], Algorithm::Ecdsa, 2060));
    let translation = embedded(shop([alb(json!({})), secret, tls]));
    assert_eq!([80, 443].map(|port| rules(&translation.snapshot, port).len()), [2, 2]);
    let https = translation.snapshot.listeners.iter().find(|listener| listener.port == 443).unwrap();
    assert!(https.tls.as_ref().unwrap().exact.contains_key("a.example"));
    assert_eq!((&*https.name, told(&translation)), ("demo-00443", vec![]));

    // A Frontend that is there keeps its name, and what it says counts.
    let frontend = json!({
        "kind": "Frontend", "metadata": {"namespace": "cpaas-system", "name": "own", "labels": {"alb2.cpaas.io/name": "demo"}},
        "spec": {"port": 80, "protocol": "http", "config": {"timeout": {"proxy_read_timeout_ms": 7}}},
    });
    let translation = embedded(shop([alb(json!({})), frontend, web(vec![at("a.example", "/", "Prefix")])]));
    assert_eq!(&*translation.snapshot.listeners[0].name, "own");
    let Action::Forward(forward) = &rules(&translation.snapshot, 80)[0].action else { panic!() };
    assert_eq!(forward.timeouts.idle.as_millis(), 7);
}

#[test]
fn paths_come_in_the_order_of_the_alb_and_by_the_priorities_of_annotations() {
    let order = |annotations: Value| {
        let paths = vec![
            path("/", "Prefix", "web"),
            path("/abc", "Prefix", "web"),
            path("/a", "Exact", "web"),
            path("^/v1/*", "ImplementationSpecific", "web"),
        ];
        let ingress = annotated(web(vec![rule("a.example", paths)]), annotations);
        let translation = embedded(shop([alb(json!({})), ingress]));
        rules(&translation.snapshot, 80)
            .iter()
            .map(|rule| (rule.field.chars().rev().nth(1).unwrap(), rule.precedence.ranks[0]))
            .collect::<Vec<_>>()
    };
    assert_eq!(order(json!({})), [('2', 5), ('1', 5), ('3', 5), ('0', 5)]);
    let priorities =
        json!({"alb.cpaas.io/ingress-rule-priority-0-0": "-1", "alb.cpaas.io/ingress-rule-priority-0-2": "x"});
    assert_eq!(order(priorities), [('0', -1), ('2', 5), ('1', 5), ('3', 5)]);
}

#[test]
fn annotations_do_what_the_manual_says() {
    let nginx = |name: &str, value: &str| json!({(nginx(name)): value});
    let of = |annotations: Value| annotated_at(80, json!({}), "a.example", annotations);
    let rewritten = of(nginx("rewrite-target", "/x$1")).filters.rewrite.clone().unwrap().path.unwrap();
    assert_eq!(rewritten, PathRewrite::Regex { pattern: "/a(.*)".into(), replacement: "/x$1".into() });
    assert!(of(nginx("enable-cors", "true")).filters.cors.is_some());
    let Action::Redirect(redirect) = of(nginx("force-ssl-redirect", "true")).action else { panic!() };
    assert_eq!((redirect.status, redirect.scheme.as_deref()), (308, Some("https")));
    assert!(matches!(of(nginx("ssl-redirect", "true")).action, Action::Forward(_)), "without a certificate it stays");
    let Action::Redirect(redirect) = of(nginx("permanent-redirect", "https://b.example/")).action else { panic!() };
    assert_eq!((redirect.status, redirect.location.as_deref()), (301, Some("https://b.example/")));
    for (annotations, reason) in [
        (nginx("enable-modsecurity", "true"), "unavailable_guard"),
        (nginx("auth-type", "basic"), "invalid_auth"),
        (nginx("backend-protocol", "FCGI"), "unsupported_backend"),
    ] {
        let Action::Refuse(refuse) = of(annotations.clone()).action else { panic!("{annotations}") };
        assert_eq!(&*refuse.reason, reason);
    }
    // At a port of TLS there is nothing left to send to HTTPS.
    let both = || json!({"defaultSSLStrategy": "Both"});
    let https = annotated_at(443, both(), "a.example", nginx("force-ssl-redirect", "true"));
    assert!(matches!(https.action, Action::Forward(_)));
}

#[test]
fn redirects_of_annotations_are_those_of_upstreams_cases_at_each_port() {
    let own = |name: &str, value: &str| json!({(format!("alb.ingress.cpaas.io/{name}")): value});
    let both = |a: Value, b: Value| {
        let mut both = a;
        both.as_object_mut().unwrap().extend(b.as_object().unwrap().clone());
        both
    };
    let ssl = || json!({nginx("ssl-redirect"): "true"});
    let port = || both(own("redirect-host", "b.example"), own("redirect-port", "22343"));
    let permanent = || json!({nginx("permanent-redirect"): "https://b.example/x"});
    let temporal = || json!({nginx("temporal-redirect"): "https://c.example/"});
    // At port 80 of the host that has a certificate, at port 443 of it, and at port 80 of the host that has none.
    for (annotations, expected) in [
        (json!({}), ["-", "-", "-"]),
        (ssl(), ["308 https", "-", "-"]),
        (json!({nginx("force-ssl-redirect"): "true"}), ["308 https", "-", "308 https"]),
        (both(ssl(), port()), ["308 https b.example 22343", "308 https b.example 22343", "302 b.example 22343"]),
        (permanent(), ["301 https://b.example/x"; 3]),
        (both(permanent(), json!({nginx("permanent-redirect-code"): "308"})), ["308 https://b.example/x"; 3]),
        (both(permanent(), temporal()), ["302 https://c.example/"; 3]),
    ] {
        // The Service of a path that leads elsewhere need not exist.
        let paths = |host: &str| rule(host, vec![path("/", "Prefix", "web")]);
        let ingress = web(vec![paths("a.example"), paths("plain.example")]);
        let ingress = annotated(with_tls(ingress, &["a.example"], "shop-tls"), annotations.clone());
        let translation = embedded([service("shop/web", 80), alb(json!({})), ingress]);
        let at = |port: u16, index: usize| {
            let field = format!("spec.rules[{index}].http.paths[0]");
            let rule = rules(&translation.snapshot, port).into_iter().find(|rule| *rule.field == *field).unwrap();
            let Action::Redirect(redirect) = rule.action else { return "-".to_owned() };
            let (scheme, host) =
                (redirect.scheme.as_deref().map(str::to_owned), redirect.host.as_deref().map(str::to_owned));
            let location = redirect.location.as_deref().map(str::to_owned);
            let port = redirect.port.map(|port| port.to_string());
            let words = [Some(redirect.status.to_string()), location, scheme, host, port];
            words.into_iter().flatten().collect::<Vec<_>>().join(" ")
        };
        assert_eq!([at(80, 0), at(443, 0), at(80, 1)], expected, "{annotations}");
    }
    let gone = with(
        ingress("shop/web", vec![rule("a.example", vec![path("/", "Prefix", "gone")])]),
        "spec.ingressClassName",
        json!("demo"),
    );
    let translation = embedded([alb(json!({})), annotated(gone, permanent())]);
    assert!(
        matches!(rules(&translation.snapshot, 80)[0].action, Action::Redirect(_)),
        "its Service is never asked for"
    );
}

#[test]
fn timeouts_of_annotations_are_seconds_unless_they_say_milliseconds_and_one_that_is_too_long_is_dropped_alone() {
    let read = |connect: &str| {
        let annotations = json!({
            (nginx("proxy-connect-timeout")): connect, (nginx("proxy-send-timeout")): "3", (nginx("proxy-read-timeout")): "1.5",
        });
        let Action::Forward(forward) = annotated_at(80, json!({}), "a.example", annotations).action else { panic!() };
        [forward.timeouts.connect, forward.timeouts.send, forward.timeouts.idle].map(|timeout| timeout.as_millis())
    };
    assert_eq!(read("10s"), [10_000, 3_000, 1_500]);
    assert_eq!(read("1000"), [1_000_000, 3_000, 1_500]);
    assert_eq!(read("250ms"), [250, 3_000, 1_500]);
    assert_eq!(read("5000000"), [5_000, 3_000, 1_500], "more than 2^32 - 1 ms");
}

#[test]
fn auth_of_the_alb_counts_until_an_annotation_says_otherwise() {
    let users = json!({"kind": "Secret", "metadata": meta("shop/users"), "stringData": {"auth": "foo:$apr1$qICNZ61Q$2iooiJVUAMmprq258/ChP1"}});
    let config = json!({"auth": {"basic": {"realm": "alb", "secret": "shop/users", "secret_type": "auth-file", "auth_type": "basic"}}});
    let own = json!({nginx("auth-type"): "basic", nginx("auth-secret"): "shop/users", nginx("auth-secret-type"): "auth-file", nginx("auth-realm"): "own"});
    for (config, annotations, expected) in [
        (json!({}), json!({}), None),
        (config.clone(), json!({}), Some("alb")),
        (config.clone(), own.clone(), Some("own")),
        (json!({}), own, Some("own")),
        (config.clone(), json!({"alb.ingress.cpaas.io/auth-enable": "false"}), None),
        (config, json!({"alb.ingress.cpaas.io/auth-enable": "true"}), Some("alb")),
    ] {
        let ingress = annotated(web(vec![at("", "/app-file", "Prefix")]), annotations.clone());
        let translation = embedded(shop([alb(config), users.clone(), ingress]));
        let rule = rules(&translation.snapshot, 80).remove(0);
        let realm = rule.auth.as_ref().map(|auth| &*auth.basic.as_ref().unwrap().realm);
        assert_eq!(realm, expected, "{annotations}");
    }
}

#[test]
fn the_oldest_default_backend_counts_and_another_takes_its_place() {
    let default = |id: &str, year: u16| {
        let ingress = with(ingress(id, vec![]), "spec.ingressClassName", json!("demo"));
        let ingress = with(ingress, "metadata.creationTimestamp", json!(format!("{year}-01-01T00:00:00Z")));
        with(ingress, "spec.defaultBackend", backend("web", 80))
    };
    let owner = |translation: &Translation| -> Vec<String> {
        rules(&translation.snapshot, 80).iter().map(|rule| rule.origin.key.id.name.to_string()).collect()
    };
    let (mut world, first) =
        World::new(Options::embedded(), shop([alb(json!({})), default("shop/b", 2021), default("shop/c", 2022)]));
    assert_eq!(owner(&first), ["b"]);
    assert!(
        told(&first).iter().any(|told| told.starts_with("Ingress shop/c: spec.defaultBackend: another")),
        "{:?}",
        told(&first)
    );
    assert_eq!(owner(&world.set(default("shop/a", 2020))), ["a"]);
    assert_eq!(owner(&world.remove(default("shop/a", 2020))), ["b"]);
    assert_eq!(owner(&world.remove(default("shop/b", 2021))), ["c"]);
    let last = world.remove(default("shop/c", 2022));
    assert_eq!((owner(&last), last.snapshot.listeners.len()), (vec![], 0));
}

#[test]
fn one_bad_path_hurts_no_other_and_a_class_of_our_own_comes_first() {
    let ingress = web(vec![at("a.example", "/(?=x)", "ImplementationSpecific"), at("a.example", "/good", "Prefix")]);
    let translation = embedded(shop([alb(json!({})), ingress.clone()]));
    let found = rules(&translation.snapshot, 80);
    let forwards = found.iter().filter(|rule| matches!(rule.action, Action::Forward(_))).count();
    assert_eq!((found.len(), forwards), (2, 1));
    assert!(
        told(&translation).iter().any(|told| told.contains("spec.rules[0].http.paths[0].path")),
        "{:?}",
        told(&translation)
    );
    let translation = embedded(shop([alb(json!({})), class("demo", None), ingress]));
    assert!(translation.snapshot.listeners.iter().all(|listener| &*listener.name != "demo-00080"));
}

#[test]
fn clients_find_an_ingress_where_its_albs_are_and_hear_when_they_move() {
    let alb_at = |name: &str, address: &str, given: Value| {
        json!({
            "kind": "ALB2", "metadata": {"namespace": "cpaas-system", "name": name},
            "spec": {"address": address, "config": {"projects": ["ALL_ALL"], "defaultSSLStrategy": "Both"}},
            "status": {"detail": {"address": given}},
        })
    };
    let shown = |world: &World| {
        let served = world.translator.served_by_albs(&NamespacedName::new("shop", "web"))?;
        let at = served.at.into_iter().map(|(address, ports)| {
            let address = match address {
                PublishedAddress::Ip(ip) => ip.to_string(),
                PublishedAddress::Hostname(name) => name,
            };
            format!("{address} {ports:?}")
        });
        Some((served.names_class, at.collect::<Vec<_>>()))
    };
    let moved = |world: &World| world.translator.moved().map(ToString::to_string).collect::<Vec<_>>();
    let classless = || with(web(vec![at("a.example", "/", "Prefix")]), "spec.ingressClassName", Value::Null);
    let demo = |given: Value| alb_at("demo", "192.0.2.1", given);
    let (mut world, _) =
        World::new(Options::embedded(), shop([demo(json!({})), web(vec![at("a.example", "/", "Prefix")])]));
    assert_eq!(shown(&world), Some((true, vec!["192.0.2.1 {80, 443}".to_owned()])));
    assert_eq!(moved(&world), ["shop/web"]);
    // Its load balancer is given another address; what else its status says moves nobody.
    world.set(demo(json!({"host": ["lb.example.com"]})));
    assert_eq!(moved(&world), ["shop/web"]);
    let both = vec!["192.0.2.1 {80, 443}".to_owned(), "lb.example.com {80, 443}".to_owned()];
    assert_eq!(shown(&world), Some((true, both.clone())));
    world.set(demo(json!({"host": ["lb.example.com"], "msg": "fine"})));
    assert_eq!(moved(&world), [""; 0]);
    // Without a class it is another ALB2's as well; where two share an address it stands once.
    world.set(classless());
    world.set(alb_at("other", "192.0.2.1,192.0.2.2", json!({})));
    assert_eq!(moved(&world), ["shop/web"]);
    let mut more = both;
    more.insert(1, "192.0.2.2 {80, 443}".to_owned());
    assert_eq!(shown(&world), Some((false, more)));
    // Nobody's project, nobody's address.
    for name in ["demo", "other"] {
        world.set(json!({"kind": "ALB2", "metadata": {"namespace": "cpaas-system", "name": name}, "spec": {"address": "192.0.2.1", "config": {}}}));
    }
    assert_eq!((shown(&world), moved(&world)), (None, vec!["shop/web".to_owned()]));
}

#[test]
fn a_class_of_our_own_and_a_canary_are_not_the_albs_to_publish() {
    for ingress in [
        annotated(web(vec![at("a.example", "/", "Prefix")]), json!({nginx("canary"): "true"})),
        with(web(vec![at("a.example", "/", "Prefix")]), "spec.ingressClassName", json!("other")),
    ] {
        let (world, _) = World::new(Options::embedded(), shop([alb(json!({})), ingress]));
        assert_eq!(world.translator.served_by_albs(&NamespacedName::new("shop", "web")), None);
    }
}

#[test]
fn ports_belong_to_projects_by_labels_and_by_ranges_and_an_ingress_needs_both() {
    let by_port = |ranges: Value| {
        alb(json!({"enablePortProject": true, "portProjects": ranges.to_string(), "projects": ["ALL_ALL"]}))
    };
    let frontend = |port: u16, labels: Value| {
        let protocol = if port == 80 { "http" } else { "https" };
        let mut metadata = json!({"namespace": "cpaas-system", "name": format!("demo-{port:05}"), "labels": labels});
        metadata["labels"]["alb2.cpaas.io/name"] = json!("demo");
        json!({"kind": "Frontend", "metadata": metadata, "spec": {"port": port, "protocol": protocol}})
    };
    let namespace = json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"cpaas.io/project": "p"}}});
    let named = || json!({"project.cpaas.io/name": "p"});
    let base = || vec![namespace.clone(), web(vec![at("a.example", "/", "Prefix")])];
    let none = json!([]);
    #[rustfmt::skip]
    let cases = [
        (json!([]), vec![], false),
        (json!([]), vec![(80, named()), (443, named())], true),
        (json!([]), vec![(80, json!({"project.cpaas.io/p": "true"})), (443, named())], true),
        (json!([]), vec![(80, json!({"project.cpaas.io/p": "false"})), (443, named())], false),
        (json!([]), vec![(80, named())], false),
        (json!([]), vec![(80, named()), (443, json!({"project.cpaas.io/name": "q"}))], false),
        (json!([]), vec![(80, named()), (443, json!({"project.cpaas.io/name": "ALL_ALL"}))], true),
        (json!([{"port": "1-443", "projects": ["q", "p"]}]), vec![(80, json!({})), (443, json!({}))], true),
        (json!([{"port": "80", "projects": ["p"]}]), vec![(80, json!({})), (443, json!({}))], false),
        (json!([{"port": "80", "projects": ["p"]}]), vec![(80, json!({})), (443, named())], true),
        // A range opens no port.
        (json!([{"port": "1-443", "projects": ["p"]}]), vec![], false),
    ];
    for (ranges, frontends, taken) in cases {
        let frontends = frontends.into_iter().map(|(port, labels)| frontend(port, labels));
        let objects: Vec<Value> = base().into_iter().chain(frontends).chain([by_port(ranges.clone())]).collect();
        let translation = embedded(shop(objects.clone()));
        assert_eq!(rules(&translation.snapshot, 80).len(), usize::from(taken), "{objects:?}");
        if taken {
            assert_eq!(told(&translation), Vec::<String>::new(), "{objects:?}");
        }
    }
    // A side that is switched off need not be there.
    let plain = alb(json!({"enablePortProject": true, "ingressHTTPSPort": 0}));
    let objects: Vec<Value> = base().into_iter().chain([plain, frontend(80, named())]).collect();
    assert_eq!(rules(&embedded(shop(objects)).snapshot, 80).len(), 1);
    // A Frontend that comes, and one whose label changes, counts at once; and without any it is said why.
    let (mut world, first) =
        World::new(Options::embedded(), shop(base().into_iter().chain([by_port(none), frontend(80, named())])));
    let why = |translation: &Translation| {
        translation.findings.iter().any(|found| found.message.contains("no project has every port"))
    };
    assert!(why(&first) && rules(&first.snapshot, 80).is_empty());
    let both = world.set(frontend(443, named()));
    assert!(!why(&both) && rules(&both.snapshot, 80).len() == 1, "{:?}", told(&both));
    let other = world.set(frontend(443, json!({"project.cpaas.io/name": "q"})));
    assert!(why(&other) && rules(&other.snapshot, 80).is_empty());
    assert_eq!(world.fresh().snapshot.listeners.len(), other.snapshot.listeners.len());
}

#[test]
fn tracing_of_an_ingress_is_merged_field_by_field_below_frontend_and_alb() {
    let collector = json!({"collector": {"address": "http://otel.svc:4318", "request_timeout": 1}});
    let flags = |hide: bool, notrust: bool| json!({"hide_upstream_attrs": hide, "notrust_incoming_span": notrust, "report_http_request_header": false, "report_http_response_header": false});
    let config = |enable: bool| json!({"otel": {"enable": enable, "exporter": collector.clone(), "flags": flags(true, false), "resource": {"a": "alb"}}});
    let own = |otel: Value| json!({"alb.ingress.cpaas.io/otel": otel.to_string()});
    let (enable, trust) = (nginx("enable-opentelemetry"), nginx("opentelemetry-trust-incoming-span"));
    // Config of the ALB2, annotations -> trusts, hides, attribute of the resource.
    #[rustfmt::skip]
    let cases = [
        (config(false), json!({}), None),
        (config(true), json!({}), Some((true, true, "alb"))),
        (config(true), json!({enable.clone(): "false"}), None),
        (config(false), json!({enable.clone(): "true"}), Some((true, true, "alb"))),
        (config(false), json!({trust.clone(): "false"}), Some((false, true, "alb"))),
        (config(true), json!({trust.clone(): "false", enable.clone(): "false"}), None),
        (config(true), own(json!({"enable": true, "resource": {"a": "own"}})), Some((true, true, "own"))),
        (config(true), own(json!({"enable": true, "flags": flags(false, true)})), Some((false, false, "alb"))),
        // It counts where it enables, and then alone.
        (config(true), own(json!({"enable": false, "resource": {"a": "own"}})), Some((true, true, "alb"))),
        (json!({}), json!({"alb.ingress.cpaas.io/otel": json!({"enable": true, "exporter": collector.clone(), "resource": {"a": "own"}}).to_string(), enable.clone(): "false"}), Some((true, false, "own"))),
    ];
    for (config, annotations, expected) in cases {
        let rule = annotated_at(80, config.clone(), "a.example", annotations.clone());
        let found = rule
            .trace
            .as_ref()
            .map(|trace| (trace.trust_incoming, trace.hide_upstream, trace.exporter.resource["a"].to_string()));
        let expected = expected.map(|(trusts, hides, a)| (trusts, hides, a.to_owned()));
        assert_eq!(found, expected, "{config} {annotations}");
    }
    let ingress = annotated(web(vec![at("a.example", "/", "Prefix")]), json!({enable: "true"}));
    let told = told(&embedded(shop([alb(json!({})), ingress])));
    assert!(told.iter().any(|told| told.contains("there is no collector")), "{told:?}");
}

/// What a World shows, as objects that somebody could have written.
fn shown_objects(world: &World) -> Vec<Value> {
    let shown = world.translator.shown(&world.cluster);
    let object = |kind: &str, id: &NamespacedName, body: &Value| {
        let mut object = body.clone();
        object["kind"] = kind.into();
        object["metadata"]["namespace"] = (*id.namespace).into();
        object["metadata"]["name"] = (*id.name).into();
        object
    };
    let frontends = shown.frontends.iter().map(|(id, frontend)| object("Frontend", id, &frontend.body));
    let rules = shown.rules.iter().map(|(id, rule)| {
        assert_eq!(rule.frontend.namespace, id.namespace);
        object("Rule", id, &rule.body)
    });
    frontends.chain(rules).collect()
}

#[test]
fn what_shows_an_ingress_says_what_upstream_would_have_written_and_serves_nothing_twice() {
    let namespace = json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"cpaas.io/project": "p"}}});
    let config = json!({"defaultSSLCert": "certs/default", "defaultSSLStrategy": "Both"});
    let annotations = json!({
        nginx("rewrite-target"): "/$1",
        "alb.cpaas.io/ingress-rule-priority-0-0": "3",
        "alb.ingress.cpaas.io/rewrite-request": "{\"headers\":{\"a\":\"b\"}}",
    });
    let ingress = annotated(web(vec![at("a.example", "/a(.*)", "ImplementationSpecific")]), annotations);
    let (mut world, before) = World::new(Options::embedded(), shop([namespace, alb(config), ingress.clone()]));
    let objects = shown_objects(&world);
    let of = |kind: &str, frontend: &str| {
        let label = |object: &&Value| object["metadata"]["labels"]["alb2.cpaas.io/frontend"] == frontend;
        let named = |object: &&Value| object["metadata"]["name"] == frontend;
        let found = objects.iter().filter(|object| object["kind"] == kind);
        let mut found = found.filter(|object| if kind == "Rule" { label(object) } else { named(object) });
        found.next().cloned().unwrap_or_default()
    };
    assert_eq!(objects.len(), 4, "{objects:#?}");
    let source = json!({"name": "web", "namespace": "shop", "type": "ingress"});
    assert_eq!(of("Frontend", "demo-00080")["spec"], json!({"port": 80, "protocol": "http", "source": source}));
    let https = of("Frontend", "demo-00443");
    assert_eq!(https["spec"]["certificate_name"], "certs_default");
    assert_eq!(https["metadata"]["labels"], json!({"alb2.cpaas.io/name": "demo"}));
    let rule = of("Rule", "demo-00080");
    assert_eq!(rule["metadata"]["name"].as_str().unwrap().len(), "demo-00080-".len() + 16);
    assert_eq!(
        rule["metadata"]["labels"],
        json!({
            "alb2.cpaas.io/name": "demo", "alb2.cpaas.io/frontend": "demo-00080", "alb2.cpaas.io/source-type": "ingress",
            "alb2.cpaas.io/source-name": "web", "alb2.cpaas.io/source-ns": "shop", "alb2.cpaas.io/source-index": "0-0",
            "cpaas.io/project": "p", "app.kubernetes.io/managed-by": "headwater-ingress",
        })
    );
    assert_eq!(
        rule["metadata"]["annotations"],
        json!({
            "alb2.cpaas.io/source-ingress-rule-index": "0", "alb2.cpaas.io/source-ingress-path-index": "0",
            "alb.rule.cpaas.io/rewrite-request": "{\"headers\":{\"a\":\"b\"}}",
        })
    );
    let dslx = json!([
        {"type": "URL", "values": [["REGEX", "^/a(.*)"]]}, {"type": "HOST", "values": [["EQ", "a.example"]]}]);
    assert_eq!(
        rule["spec"],
        json!({
            "description": "shop/web:80:0", "domain": "a.example", "url": "/a(.*)", "rewrite_base": "/a(.*)",
            "rewrite_target": "/$1", "priority": 3, "enableCORS": false, "source": source, "dslx": dslx,
            "dsl": "[\"AND\",[\"REGEX\",\"URL\",\"^/a(.*)\"],[\"EQ\",\"HOST\",\"a.example\"]]",
            "serviceGroup": {"services": [{"name": "web", "namespace": "shop", "port": 80, "weight": 100}]},
        })
    );

    // With all of them written it serves as before, and nothing is left to be made.
    let mut after = None;
    for object in objects.clone() {
        after = Some(world.set(object));
    }
    let after = after.unwrap();
    for port in [80, 443] {
        let names = |translation: &Translation| -> Vec<String> {
            rules(&translation.snapshot, port).iter().map(|rule| rule.precedence.tie.to_string()).collect()
        };
        assert_eq!(names(&before).len(), 1);
        assert_eq!(names(&before), names(&after), "{port}");
    }
    assert_eq!(told(&after), told(&before));
    let names = |objects: &[Value]| -> Vec<Value> {
        let rules = objects.iter().filter(|object| object["kind"] == "Rule");
        rules.map(|object| object["metadata"]["name"].clone()).collect()
    };
    let left = shown_objects(&world);
    assert_eq!((left.len(), names(&left)), (2, names(&objects)), "the Frontends are there");

    // Another path in its place has its name; without the Ingress nothing is left.
    let moved = with(ingress.clone(), "spec.rules", json!([at("b.example", "/", "Prefix")]));
    world.set(moved);
    let there = shown_objects(&world);
    assert_eq!(names(&there), names(&objects));
    assert_eq!(there[0]["spec"]["domain"], "b.example");
    world.remove(ingress);
    assert_eq!(shown_objects(&world), Vec::<Value>::new());
}
