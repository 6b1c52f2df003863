//! Who asks for TCP, UDP and TLS that passes through, and who gets it.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use headwater_model::client::EmitProxyProtocol;
use headwater_model::gateway::{GatewaySnapshot, Protocol, StreamRoute, UpstreamProtocol};
use headwater_model::transparent::ASKED;
use headwater_translate::Options;
use serde_json::{Value, json};
use std::sync::Arc;
use support::*;

fn web(id: &str, host: &str, service: &str) -> Value {
    ingress(id, vec![rule(host, vec![path("/", "Prefix", service)])])
}

fn passing(ingress: Value) -> Value {
    annotated(ingress, json!({nginx("ssl-passthrough"): "true"}))
}

fn since(ingress: Value, year: i32) -> Value {
    with(ingress, "metadata.creationTimestamp", json!(format!("{year}-01-01T00:00:00Z")))
}

fn passed<'a>(snapshot: &'a GatewaySnapshot, name: &str) -> Option<&'a Arc<StreamRoute>> {
    listener(snapshot, "https").tls.as_ref().unwrap().passthrough.get(&host(name))
}

/// `shop/web:80 shop/api:80`, or the word of the refusal.
fn shown_route(snapshot: &GatewaySnapshot, route: &StreamRoute) -> String {
    let pools = route.backends.iter().map(|backend| snapshot.pools.find(backend.pool).unwrap());
    let shown: Vec<_> = pools.map(|pool| format!("{}:{} {:?}", pool.service, pool.port, pool.protocol)).collect();
    route.refuse.as_ref().map_or_else(|| shown.join(" "), ToString::to_string)
}

fn shown_passed(snapshot: &GatewaySnapshot, name: &str) -> String {
    passed(snapshot, name).map_or_else(|| "ends here".to_owned(), |route| shown_route(snapshot, route))
}

#[test]
fn tls_of_a_host_goes_to_the_backend_of_its_root() {
    let two = ingress(
        "shop/two",
        vec![
            rule("two.example", vec![path("/api", "Prefix", "api"), path("/", "Prefix", "web")]),
            rule("*.wild.example", vec![json!({"pathType": "ImplementationSpecific", "backend": backend("web", 80)})]),
        ],
    );
    let rest = with(web("shop/rest", "rest.example", "web"), "spec.rules", json!([{"host": "rest.example"}]));
    let rest = with(rest, "spec.defaultBackend", backend("web", 80));
    let translation = embedded([
        service("shop/web", 80),
        passing(two),
        passing(rest),
        passing(web("shop/gone", "gone.example", "gone")),
        web("shop/plain", "plain.example", "web"),
    ]);
    let snapshot = &translation.snapshot;
    for (name, expected) in [
        ("two.example", "shop/web:80 Tcp"),
        ("*.wild.example", "shop/web:80 Tcp"),
        ("rest.example", "shop/web:80 Tcp"),
        ("gone.example", "no_service"),
        ("plain.example", "ends here"),
    ] {
        assert_eq!(shown_passed(snapshot, name), expected, "{name}");
    }
    assert_eq!(shown(snapshot, "two.example").len(), 2, "plain HTTP is served by rules as ever");
}

#[test]
fn only_whoever_had_the_host_first_may_let_it_pass() {
    let theirs = |year| since(passing(web("evil/web", "a.example", "web")), year);
    let ours = since(web("shop/web", "a.example", "web"), 2021);
    let objects = [service("shop/web", 80), service("evil/web", 80), ours.clone(), theirs(2022)];
    let (mut world, translation) = World::new(Options::embedded(), objects);
    assert_eq!(shown_passed(&translation.snapshot, "a.example"), "ends here");
    let lost = "Warning Conflict Ingress evil/web spec.rules[0].http.paths[0]";
    assert!(brief(&translation.findings).contains(&lost.to_owned()), "{:?}", translation.findings);

    let translation = world.remove(ours.clone());
    assert_eq!(shown_passed(&translation.snapshot, "a.example"), "evil/web:80 Tcp");
    let translation = world.set(ours.clone());
    assert_eq!(shown_passed(&translation.snapshot, "a.example"), "ends here");
    let translation = world.set(passing(ours));
    assert_eq!(shown_passed(&translation.snapshot, "a.example"), "shop/web:80 Tcp");
    let translation = world.set(theirs(2020));
    assert_eq!(shown_passed(&translation.snapshot, "a.example"), "evil/web:80 Tcp");
    assert_eq!(brief(&translation.findings), brief(&world.fresh().findings));
}

#[test]
fn what_keeps_people_out_is_not_passed_by() {
    for guard in ["whitelist-source-range", "auth-url"] {
        let value = if guard == "auth-url" { "http://auth.example/" } else { "10.0.0.0/8" };
        let annotations = json!({nginx("ssl-passthrough"): "true", nginx(guard): value});
        let translation =
            embedded([service("shop/web", 80), annotated(web("shop/web", "a.example", "web"), annotations)]);
        assert_eq!(shown_passed(&translation.snapshot, "a.example"), "unavailable_guard", "{guard}");
        let field = "metadata.annotations[nginx.ingress.kubernetes.io/ssl-passthrough]";
        assert!(translation.findings.iter().any(|finding| finding.field == field), "{guard}");
    }
}

#[test]
fn an_edit_elsewhere_leaves_the_route_the_same_pointer() {
    let objects =
        [service("shop/web", 80), passing(web("shop/a", "a.example", "web")), web("shop/b", "b.example", "web")];
    let (mut world, before) = World::new(Options::embedded(), objects);
    let after = world.set(web("shop/b", "c.example", "web"));
    let (old, new) = (passed(&before.snapshot, "a.example").unwrap(), passed(&after.snapshot, "a.example").unwrap());
    assert!(Arc::ptr_eq(old, new));
    let after = world.set(slice("shop/web", "web-1", &["10.0.0.1"], 8080));
    assert!(Arc::ptr_eq(old, passed(&after.snapshot, "a.example").unwrap()), "endpoints are the pool's");
    let after = world.remove(passing(web("shop/a", "a.example", "web")));
    assert!(passed(&after.snapshot, "a.example").is_none());
    assert_eq!(after.snapshot.pools.0.iter().flatten().count(), 1, "its pool is gone: {:?}", after.snapshot.pools);
}

fn listening(listeners: Value) -> [Value; 2] {
    let spec = json!({"listeners": listeners, "clientAddress": {"emitProxyProtocol": "V1"}, "balancing": {"algorithm": "RoundRobin"}});
    [class("headwater", Some("edge/public")), settings("edge/public", spec)]
}

#[test]
fn listeners_follow_their_services() {
    let two = json!({"kind": "Service", "metadata": meta("shop/dns"), "spec": {"ports": [
        {"name": "tcp", "port": 53, "protocol": "TCP"}, {"name": "udp", "port": 53, "protocol": "UDP"}]}});
    let backends = json!([{"service": "shop/dns", "port": 53}]);
    let [class, settings] = listening(json!([
        {"name": "tcp", "port": 53, "protocol": "TCP", "backends": backends, "idleTimeout": "5s"},
        {"name": "udp", "port": 53, "protocol": "UDP", "backends": backends,
         "clientAddress": {"emitProxyProtocol": "V2"}},
    ]));
    let mut slice = slice("shop/dns", "dns-1", &["10.0.0.1"], 5353);
    slice["ports"] = json!([
        {"name": "tcp", "port": 5300, "protocol": "TCP"}, {"name": "udp", "port": 5301, "protocol": "UDP"}]);
    let (mut world, translation) = World::new(Options::default(), [class, settings, slice]);
    let route = |snapshot: &GatewaySnapshot, name: &str| listener(snapshot, name).stream.clone().unwrap();
    for name in ["tcp", "udp"] {
        assert_eq!(shown_route(&translation.snapshot, &route(&translation.snapshot, name)), "no_service", "{name}");
    }
    let translation = world.set(two.clone());
    let snapshot = &translation.snapshot;
    assert_eq!(brief(&translation.findings), [""; 0]);
    for (name, protocol, upstream, endpoint, emit) in [
        ("tcp", Protocol::Tcp, UpstreamProtocol::Tcp, "10.0.0.1:5300", EmitProxyProtocol::V1),
        ("udp", Protocol::Udp, UpstreamProtocol::Udp, "10.0.0.1:5301", EmitProxyProtocol::V2),
    ] {
        let route = route(snapshot, name);
        let pool = snapshot.pools.find(route.backends[0].pool).unwrap();
        assert_eq!((listener(snapshot, name).protocol, pool.protocol), (protocol, upstream));
        assert_eq!((pool.endpoints[0].address.to_string(), pool.emit_proxy_protocol), (endpoint.to_owned(), emit));
        assert_eq!(route.attempts, 5);
    }
    assert_eq!(route(snapshot, "tcp").timeouts.idle.as_secs(), 5);
    assert_eq!(route(snapshot, "udp").timeouts.idle.as_secs(), 60);
    let translation = world.remove(two);
    assert_eq!(translation.snapshot.pools.0.iter().flatten().count(), 0, "{:?}", translation.snapshot.pools);
}

#[test]
fn what_is_carried_comes_from_the_client_where_that_is_asked_for_and_requests_never_do() {
    let backends = json!([{"service": "shop/web", "port": 80}]);
    let carried = |name: &str, port: u16, protocol: &str, own: Value| {
        let listener = json!({"name": name, "port": port, "protocol": protocol, "backends": backends});
        if own.is_null() { listener } else { with(listener, "clientAddress", own) }
    };
    let [class, _] = listening(json!([]));
    let read = |shared: bool| {
        let listeners = json!([
            {"name": "http", "port": 80, "protocol": "HTTP", "clientAddress": {"transparent": true}},
            {"name": "https", "port": 443, "protocol": "HTTPS"},
            carried("shared", 1, "TCP", Value::Null),
            carried("other", 2, "TCP", json!({"trustedProxies": ["10.0.0.1"]})),
            carried("on", 3, "UDP", json!({"transparent": true})),
            carried("off", 4, "TCP", json!({"transparent": false})),
        ]);
        let spec = json!({"listeners": listeners, "clientAddress": {"transparent": shared}});
        let both = json!({"kind": "Service", "metadata": meta("shop/web"), "spec": {"ports": [
            {"name": "tcp", "port": 80, "protocol": "TCP"}, {"name": "udp", "port": 80, "protocol": "UDP"}]}});
        let host = with(passing(web("shop/web", "a.example", "web")), "spec.ingressClassName", json!("headwater"));
        World::new(Options::default(), [class.clone(), settings("edge/public", spec), both, host]).1
    };
    for shared in [false, true] {
        let translation = read(shared);
        let snapshot = &translation.snapshot;
        for (name, expected) in [("shared", shared), ("other", shared), ("on", true), ("off", false)] {
            assert_eq!(listener(snapshot, name).stream.as_ref().unwrap().transparent, expected, "{name}, {shared}");
        }
        assert_eq!(passed(snapshot, "a.example").unwrap().transparent, shared);
        let refused = "Error NotAvailable GatewaySettings edge/public spec.listeners[0].clientAddress.transparent";
        assert_eq!(brief(&translation.findings), [refused]);
        let mut told = vec!["spec.listeners[4].clientAddress.transparent"];
        told.extend(shared.then_some("spec.clientAddress.transparent"));
        let asked = translation.findings.iter().filter(|finding| finding.reason == ASKED);
        let mut asked: Vec<&str> = asked.map(|finding| &*finding.field).collect();
        asked.sort_unstable_by_key(|field| std::cmp::Reverse(field.len()));
        assert_eq!(asked, told);
    }
}
