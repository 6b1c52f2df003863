//! Classes, GatewaySettings, the ingress-nginx ConfigMap.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::time::Duration;

use headwater_model::client::{EmitProxyProtocol, ForwardedHeader, ProxyProtocolMode, Trust};
use headwater_model::gateway::{Balance, UpstreamVerify};
use headwater_model::settings::Limits;
use headwater_translate::Options;
use serde_json::{Value, json};
use support::*;

fn web(id: &str, class: Option<&str>) -> Value {
    let namespace = id.split_once('/').unwrap().0;
    let host = format!("{namespace}.example");
    with(ingress(id, vec![rule(&host, vec![path("/", "Prefix", "web")])]), "spec.ingressClassName", json!(class))
}

fn default_class(name: &str) -> Value {
    annotated(class(name, None), json!({"ingressclass.kubernetes.io/is-default-class": "true"}))
}

#[test]
fn an_ingress_is_served_by_its_class_alone() {
    let foreign = with(class("nginx", None), "spec.controller", json!("k8s.io/ingress-nginx"));
    let legacy = |name: &str| annotated(web("a/web", None), json!({"kubernetes.io/ingress.class": name}));
    let options = Options::default;
    let classless = Options { serve_classless: true, ..options() };
    let named = |name: &str| Options { classes: vec![name.to_owned()], ..options() };
    for (options, classes, ingress, served) in [
        (options(), vec![class("hw", None)], web("a/web", Some("hw")), true),
        (options(), vec![class("hw", None), foreign.clone()], web("a/web", Some("nginx")), false),
        (options(), vec![class("hw", None)], web("a/web", Some("other")), false),
        (options(), vec![class("hw", None)], web("a/web", None), false),
        (classless.clone(), vec![class("hw", None)], web("a/web", None), true),
        (options(), vec![default_class("hw")], web("a/web", None), true),
        (classless, vec![default_class("hw"), default_class("hw2")], web("a/web", None), false),
        (options(), vec![class("hw", None)], legacy("hw"), true),
        (options(), vec![class("hw", None)], legacy("nginx"), false),
        (named("nginx"), vec![], legacy("nginx"), true),
        (named("other"), vec![class("hw", None)], web("a/web", Some("hw")), false),
        (options(), vec![], web("a/web", None), false),
        (Options::embedded(), vec![], web("a/web", Some("nginx")), true),
        (Options::embedded(), vec![foreign], web("a/web", Some("nginx")), false),
    ] {
        let shown = format!("{ingress} {classes:?}");
        let objects = classes.into_iter().chain([service("a/web", 80), ingress]);
        let translation = World::new(options, objects).1;
        let hosts = translation.snapshot.listeners.first().map_or(0, |listener| listener.routes.hosts.len());
        assert_eq!(hosts == 1, served, "{shown}");
    }
}

#[test]
fn several_default_classes_are_an_error_on_each() {
    let translation = in_cluster([default_class("a"), default_class("b")]);
    let field = "metadata.annotations[ingressclass.kubernetes.io/is-default-class]";
    let expected = ["a", "b"].map(|name| format!("Error Conflict IngressClass {name} {field}"));
    assert_eq!(brief(&translation.findings), expected);
}

#[test]
fn missing_settings_keep_the_listeners_closed() {
    let (mut world, translation) =
        World::new(Options::default(), [class("hw", Some("infra/gw")), service("a/web", 80), web("a/web", Some("hw"))]);
    assert!(translation.snapshot.listeners.is_empty());
    assert_eq!(brief(&translation.findings), ["Error MissingReference IngressClass hw spec.parameters"]);
    let translation = world.set(settings("infra/gw", json!({})));
    assert_eq!(shown(&translation.snapshot, "a.example"), ["prefix / -> a/web:80"]);
    let translation = world.remove(settings("infra/gw", json!({})));
    assert!(translation.snapshot.listeners.is_empty());
    assert!(translation.snapshot.pools.0.iter().all(Option::is_none));
}

#[test]
fn each_settings_object_brings_its_listeners_and_its_ingresses() {
    let listeners = |name: &str, port: u16| json!({"listeners": [{"name": name, "port": port, "protocol": "HTTP"}]});
    let objects = [
        class("one", Some("infra/one")),
        class("two", Some("infra/two")),
        settings("infra/one", listeners("one", 8001)),
        settings("infra/two", listeners("two", 8002)),
        service("a/web", 80),
        service("b/web", 80),
        web("a/web", Some("one")),
        web("b/web", Some("two")),
    ];
    let translation = in_cluster(objects.clone());
    for (name, port, here) in [("one", 8001, "a.example"), ("two", 8002, "b.example")] {
        let listener = listener(&translation.snapshot, name);
        assert_eq!(listener.port, port);
        assert_eq!(listener.routes.hosts.keys().collect::<Vec<_>>(), [&host(here)]);
    }
    // Two that want one port: the older keeps it.
    let mut objects = objects;
    objects[2] = settings("infra/one", listeners("one", 8002));
    objects[3] = with(objects[3].clone(), "metadata.creationTimestamp", json!("2020-01-01T00:00:00Z"));
    let translation = in_cluster(objects);
    assert_eq!(translation.snapshot.listeners.len(), 1);
    assert_eq!(&*translation.snapshot.listeners[0].name, "two");
    assert_eq!(brief(&translation.findings), ["Error Conflict GatewaySettings infra/one spec.listeners[0].port"]);
}

/// The policy of the first listener.
fn policy(translation: &headwater_translate::Translation) -> &headwater_model::client::ClientAddressPolicy {
    &translation.snapshot.listeners[0].client_address
}

#[test]
fn the_config_map_is_read_as_the_client_address_contract_says() {
    let l = "10.0.0.0/8";
    let (off, required) = (ProxyProtocolMode::Off, ProxyProtocolMode::Required);
    let (none, xff) = (ForwardedHeader::None, ForwardedHeader::XForwardedFor);
    let cases = [
        (json!({}), none.clone(), true, off, false, vec![]),
        (json!({"use-forwarded-headers": "true", "proxy-real-ip-cidr": l}), xff.clone(), true, off, true, vec![]),
        (json!({"enable-real-ip": "true", "proxy-real-ip-cidr": l}), xff.clone(), false, off, true, vec![]),
        (
            json!({"use-forwarded-headers": "true"}),
            xff.clone(),
            true,
            off,
            false,
            vec!["Warning MissingKey ConfigMap ingress-nginx/ingress-nginx-controller data.proxy-real-ip-cidr"],
        ),
        (json!({"use-proxy-protocol": "true", "proxy-real-ip-cidr": l}), none.clone(), true, required, true, vec![]),
        (
            json!({"use-proxy-protocol": "true"}),
            none.clone(),
            true,
            required,
            false,
            vec!["Error MissingKey ConfigMap ingress-nginx/ingress-nginx-controller data.proxy-real-ip-cidr"],
        ),
        (
            json!({"use-forwarded-headers": "true", "proxy-real-ip-cidr": "0.0.0.0/0"}),
            xff.clone(),
            true,
            off,
            true,
            vec!["Warning TrustsEverybody ConfigMap ingress-nginx/ingress-nginx-controller data.proxy-real-ip-cidr"],
        ),
        (
            json!({"use-forwarded-headers": "true", "proxy-real-ip-cidr": "10.0.0.0/8,nonsense"}),
            xff,
            true,
            off,
            false,
            vec![
                "Warning MissingKey ConfigMap ingress-nginx/ingress-nginx-controller data.proxy-real-ip-cidr",
                "Error InvalidValue ConfigMap ingress-nginx/ingress-nginx-controller data.proxy-real-ip-cidr",
            ],
        ),
    ];
    for (data, header, trust_scheme, mode, trusted, told) in cases {
        let translation = embedded([nginx_config(data.clone())]);
        let policy = policy(&translation);
        assert_eq!((&policy.forwarded_header, policy.trust_scheme), (&header, trust_scheme), "{data}");
        assert_eq!((policy.proxy_protocol, !policy.trust.is_nobody()), (mode, trusted), "{data}");
        assert_eq!(brief(&translation.findings), told, "{data}");
    }
    let data = json!({
        "use-forwarded-headers": "true", "proxy-real-ip-cidr": l, "forwarded-for-header": "True-Client-IP",
        "compute-full-forwarded-for": "true", "proxy-protocol-header-timeout": "2s",
    });
    let translation = embedded([nginx_config(data)]);
    let policy = policy(&translation);
    assert_eq!(policy.forwarded_header, ForwardedHeader::Other("true-client-ip".into()));
    assert!(policy.keep_unverified);
    assert_eq!(policy.proxy_protocol_timeout, Duration::from_secs(2));
}

#[test]
fn settings_win_over_the_config_map_field_by_field() {
    let translation = embedded([
        nginx_config(json!({
            "use-forwarded-headers": "true", "proxy-real-ip-cidr": "0.0.0.0/0", "keep-alive": "75",
            "client-header-timeout": "30", "proxy-connect-timeout": "7", "keep-alive-requests": "1000",
        })),
        settings(
            "default/gw",
            json!({
                "clientAddress": {"trustedProxies": ["192.0.2.1"]},
                "timeouts": {"header": "3s"},
                "limits": {"headerBytes": "8Ki"},
            }),
        ),
        service("a/web", 80),
        web("a/web", None),
    ]);
    assert_eq!(brief(&translation.findings), [""; 0]);
    let policy = policy(&translation);
    assert_eq!(policy.trust, Trust::Proxies(["192.0.2.1/32".parse().unwrap()].into_iter().collect()));
    assert_eq!(policy.forwarded_header, ForwardedHeader::XForwardedFor);
    let connection = &translation.snapshot.listeners[0].connection;
    let seconds = Duration::from_secs;
    assert_eq!((connection.header_timeout, connection.idle_timeout), (seconds(3), seconds(75)));
    assert_eq!(connection.body_timeout, seconds(60));
    let expected = Limits { header_bytes: 8 << 10, requests_per_connection: 1000, ..Limits::default() };
    assert_eq!(connection.limits, expected);
    assert_eq!(forward(&rules(&translation.snapshot, "a.example")[0]).timeouts.connect, seconds(7));
}

#[test]
fn contradictions_about_trust_end_in_trusting_nobody() {
    for (spec, field, mode) in [
        (
            json!({"trustedProxies": ["10.0.0.0/8"], "trustedHops": 1, "proxyProtocol": "Required"}),
            "Error InvalidValue GatewaySettings default/gw spec.clientAddress.trustedHops",
            ProxyProtocolMode::Required,
        ),
        (
            json!({"trustedProxies": [], "proxyProtocol": "Optional"}),
            "Warning TrustsNobody GatewaySettings default/gw spec.clientAddress.proxyProtocol",
            ProxyProtocolMode::Optional,
        ),
        (
            json!({"forwardedHeader": "X-Forwarded-For"}),
            "Warning TrustsNobody GatewaySettings default/gw spec.clientAddress.forwardedHeader",
            ProxyProtocolMode::Off,
        ),
        (
            json!({"forwardedHeader": "a b"}),
            "Error InvalidValue GatewaySettings default/gw spec.clientAddress.forwardedHeader",
            ProxyProtocolMode::Off,
        ),
    ] {
        let translation = embedded([settings("default/gw", json!({"clientAddress": spec.clone()}))]);
        assert!(policy(&translation).trust.is_nobody(), "{spec}");
        assert_eq!(policy(&translation).proxy_protocol, mode);
        assert!(brief(&translation.findings).iter().any(|line| line == field), "{:?}", translation.findings);
    }
    let all = json!({"clientAddress": {"trustedProxies": ["::/0"]}});
    let translation = embedded([settings("default/gw", all)]);
    let expected = ["Warning TrustsEverybody GatewaySettings default/gw spec.clientAddress.trustedProxies"];
    assert_eq!(brief(&translation.findings), expected);
}

#[test]
fn what_is_not_available_is_refused_by_name() {
    for name in ["toa", "emitToa"] {
        let translation = embedded([settings("default/gw", json!({"clientAddress": {(name): true}}))]);
        let expected = [format!("Error NotAvailable GatewaySettings default/gw spec.clientAddress.{name}")];
        assert_eq!(brief(&translation.findings), expected);
        assert!(!policy(&translation).toa);
    }
}

#[test]
fn a_listener_may_have_a_policy_of_its_own() {
    let translation = embedded([settings(
        "default/gw",
        json!({
            "clientAddress": {"trustedHops": 1, "forwardedHeader": "X-Real-IP"},
            "listeners": [
                {"name": "a", "port": 1, "protocol": "HTTP"},
                {"name": "b", "port": 2, "protocol": "HTTP", "clientAddress": {"trustedProxies": ["10.0.0.1"]}},
            ],
        }),
    )]);
    let policy = |name| &listener(&translation.snapshot, name).client_address;
    assert_eq!(policy("a").trust, Trust::Hops(1));
    assert_eq!(policy("a").forwarded_header, ForwardedHeader::XRealIp);
    assert!(matches!(policy("b").trust, Trust::Proxies(_)));
    assert_eq!(policy("b").forwarded_header, ForwardedHeader::None);
}

#[test]
fn wrong_settings_are_told_with_their_field_and_leave_the_default() {
    let http = |name: &str, port: u16| json!({"name": name, "port": port, "protocol": "HTTP"});
    for (spec, told) in [
        (json!({"listeners": [http("a", 1), http("a", 2)]}), "InvalidValue spec.listeners[1].name"),
        (json!({"listeners": [http("a", 1), http("b", 1)]}), "Conflict spec.listeners[1].port"),
        (json!({"listeners": []}), "NoListener spec.listeners"),
        (json!({"balancing": {"algorithm": "Hash", "hashOn": "Header"}}), "InvalidValue spec.balancing.hashName"),
        (json!({"retries": {"attempts": 0}}), "InvalidValue spec.retries.attempts"),
        (json!({"retries": {"budgetPercent": 101}}), "InvalidValue spec.retries.budgetPercent"),
        (json!({"passiveHealth": {"maxEjectedPercent": 101}}), "InvalidValue spec.passiveHealth.maxEjectedPercent"),
        (
            json!({"passiveHealth": {"baseEjection": "2m", "maxEjection": "1m"}}),
            "InvalidValue spec.passiveHealth.maxEjection",
        ),
        (json!({"limits": {"headerBytes": 0}}), "InvalidValue spec.limits.headerBytes"),
        (json!({"limits": {"http2Streams": 0}}), "InvalidValue spec.limits.http2Streams"),
        (json!({"timeouts": {"header": "0"}}), "InvalidValue spec.timeouts.header"),
        (json!({"timeouts": {"connect": "0s"}}), "InvalidValue spec.timeouts.connect"),
        (json!({"upstream": {"tls": {"verify": "CertificateAuthority"}}}), "MissingReference spec.upstream.tls.ca"),
    ] {
        let translation = embedded([settings("default/gw", spec.clone())]);
        let (reason, field) = told.split_once(' ').unwrap();
        let expected = [format!("Error {reason} GatewaySettings default/gw {field}")];
        assert_eq!(brief(&translation.findings), expected, "{spec}");
    }
}

#[test]
fn pools_are_told_how_to_speak_to_endpoints() {
    let (chain, _) = certificate(&["ca.example"], Algorithm::Ecdsa, 2060);
    let spec = json!({
        "balancing": {"algorithm": "PeakEWMA"},
        "clientAddress": {"emitProxyProtocol": "V2"},
        "upstream": {"maxIdleConnections": 7, "tls": {"verify": "CertificateAuthority", "ca": "infra/ca", "serverName": "be"}},
    });
    let mut port = service("a/web", 80);
    port["spec"]["ports"][0]["appProtocol"] = json!("https");
    let objects = |ca: &str| {
        [
            json!({"kind": "ConfigMap", "metadata": meta("infra/ca"), "data": {"ca.crt": ca}}),
            settings("default/gw", spec.clone()),
            port.clone(),
            web("a/web", None),
        ]
    };
    let (mut world, translation) = World::new(Options::embedded(), objects("nonsense"));
    let rule = |translation: &headwater_translate::Translation| rules(&translation.snapshot, "a.example")[0].clone();
    let roots = |translation: &headwater_translate::Translation| match &pool(
        &translation.snapshot,
        forward(&rule(translation)),
    )
    .tls
    .as_ref()
    .unwrap()
    .verify
    {
        UpstreamVerify::Roots(roots) => roots.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(roots(&translation), 0, "what cannot be read believes nobody");
    let translation = world.set(objects(&chain)[0].clone());
    assert_eq!(roots(&translation), 1);
    let rule = rule(&translation);
    assert_eq!(forward(&rule).balance, Balance::PeakEwma);
    let pool = pool(&translation.snapshot, forward(&rule));
    assert_eq!(pool.emit_proxy_protocol, EmitProxyProtocol::V2);
    assert_eq!(pool.keep_alive.max_idle, 7);
    assert_eq!(pool.tls.as_ref().unwrap().server_name.as_deref(), Some("be"));
}
