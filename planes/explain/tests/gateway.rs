//! Requests that meet a gateway: who it takes for the client, and what the backend is told.
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use headwater_explain::{Action, Options, Path, Question, VerdictKind, World};
use support::{NODES, checked, cluster, options, question, short, slice, verdict};

const CLIENT: &str = "198.51.100.7";
const BALANCER: &str = "192.0.2.100";

/// A gateway on node-2 behind `hw/headwater-gateway`, 203.0.113.1:80 and :443, and whoami.example.com behind it.
fn objects(policy: &str, client_address: &str) -> String {
    let service = format!(
        r#"
apiVersion: v1
kind: Service
metadata:
  name: headwater-gateway
  namespace: hw
  labels: {{app.kubernetes.io/name: headwater, app.kubernetes.io/component: gateway}}
  annotations: {{headwater.dev/source-ip: {policy}}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  ports: [{{name: http, port: 80, targetPort: 8080, nodePort: 30080}}, {{name: https, port: 443, targetPort: 8443, nodePort: 30443}}]
status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.1}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: headwater-gateway-1, namespace: hw, labels: {{kubernetes.io/service-name: headwater-gateway}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}, {{name: https, port: 8443}}]
endpoints: [{{addresses: [10.244.2.80], nodeName: node-2}}]
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {{name: headwater}}
spec:
  controller: headwater.dev/ingress
  parameters: {{apiGroup: headwater.dev, kind: GatewaySettings, scope: Namespace, namespace: hw, name: edge}}
---
apiVersion: headwater.dev/v1alpha1
kind: GatewaySettings
metadata: {{name: edge, namespace: hw}}
spec:
  listeners: [{{name: http, port: 8080, protocol: HTTP}}, {{name: https, port: 8443, protocol: HTTPS}}]
  clientAddress: {client_address}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: whoami, namespace: shop}}
spec:
  ingressClassName: headwater
  rules:
    - host: whoami.example.com
      http:
        paths:
          - {{path: /, pathType: Prefix, backend: {{service: {{name: whoami, port: {{number: 80}}}}}}}}
          - {{path: /empty, pathType: Prefix, backend: {{service: {{name: empty, port: {{number: 80}}}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: whoami, namespace: shop}}
spec: {{clusterIP: 10.96.0.2, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: empty, namespace: shop}}
spec: {{clusterIP: 10.96.0.3, ports: [{{port: 80}}]}}
---
"#
    );
    service + &slice("whoami", &["10.244.1.2@node-1", "10.244.3.2@node-3"])
}

fn path(world: &World, question: &Question) -> Path {
    let explanation = checked(world, question);
    assert_eq!(explanation.answers.len(), 1, "{explanation:#?}");
    assert_eq!(explanation.answers[0].paths.len(), 1, "{explanation:#?}");
    explanation.answers[0].paths[0].clone()
}

fn forwarded_for(path: &Path) -> String {
    let headers = &path.sees.as_ref().unwrap().headers;
    headers.iter().find(|(name, _)| name == "X-Forwarded-For").map(|(_, value)| value.clone()).unwrap_or_default()
}

fn world(policy: &str, client_address: &str) -> World {
    World::new(cluster(&format!("{NODES}{}", objects(policy, client_address))), options())
}

const URL: &str = "http://whoami.example.com/";

#[test]
fn a_backend_hears_of_the_client_that_the_nodes_kept() {
    for (policy, expected, told) in [
        (
            "preserve",
            "kept-in-header 10.244.2.80 sees 10.244.2.80 by node-1:tunnel node-2:translate gateway:accept gateway:proxy",
            "198.51.100.7",
        ),
        (
            "masquerade",
            "lost@1 10.244.2.80 sees 10.244.2.80 by node-1:masquerade node-2:route gateway:accept gateway:proxy",
            "192.0.2.11",
        ),
    ] {
        let path = path(&world(policy, "{}"), &question(CLIENT, URL, "node-1"));
        assert_eq!(short(&path), expected);
        assert_eq!(forwarded_for(&path), told);
        assert_eq!(path.backends, ["10.244.1.2:8080", "10.244.3.2:8080"]);
        assert_eq!(path.mends.is_empty(), policy == "preserve");
    }
}

#[test]
fn a_client_is_believed_to_be_whom_a_trusted_sender_names() {
    let trusting = "{trustedProxies: [192.0.2.100], forwardedHeader: X-Forwarded-For}";
    let required = "{trustedProxies: [192.0.2.100], proxyProtocol: Required}";
    let other = "203.0.113.99";
    // policy, sender, PROXY, X-Forwarded-For: verdict, provenance, X-Forwarded-For of the backend
    for (policy, sender, proxy, header, expected) in [
        ("{}", None, None, None, "kept-in-header socket 198.51.100.7"),
        ("{}", None, None, Some(other), "kept-in-header socket 198.51.100.7"),
        (trusting, None, None, Some(other), "kept-in-header socket 198.51.100.7"),
        ("{}", Some(BALANCER), None, Some(CLIENT), "lost@1 socket 192.0.2.100"),
        (trusting, Some(BALANCER), None, Some(CLIENT), "kept-in-header x-forwarded-for 198.51.100.7, 192.0.2.100"),
        (trusting, Some(BALANCER), None, None, "lost@1 socket 192.0.2.100"),
        (trusting, Some(BALANCER), None, Some(other), "lost@4 x-forwarded-for 203.0.113.99, 192.0.2.100"),
        (required, Some(BALANCER), Some(CLIENT), None, "kept-in-header proxy-v1 198.51.100.7"),
        (required, Some(BALANCER), Some(other), None, "lost@4 proxy-v1 203.0.113.99"),
    ] {
        let mut asked = question(CLIENT, URL, "node-1");
        asked.sender = sender.map(|sender| sender.parse().unwrap());
        asked.proxy_protocol = proxy.map(|client| client.parse().unwrap());
        asked.headers = header.map(|value| ("x-forwarded-for".to_owned(), value.to_owned())).into_iter().collect();
        let path = path(&world("preserve", policy), &asked);
        let at = path.verdict.hop.map(|hop| format!("@{hop}")).unwrap_or_default();
        let provenance = path.sees.as_ref().unwrap().provenance.clone().unwrap();
        let told = format!("{}{at} {provenance} {}", verdict(path.verdict.kind), forwarded_for(&path));
        assert_eq!(told, expected, "{policy} {sender:?} {proxy:?} {header:?}");
        assert_eq!(
            path.mends.is_empty(),
            path.verdict.kind == VerdictKind::KeptInHeader || header == Some(other) || proxy == Some(other),
            "{:#?}",
            path.mends
        );
    }
}

#[test]
fn what_a_gateway_refuses_is_told_with_its_reason() {
    let required = "{trustedProxies: [192.0.2.100], proxyProtocol: Required}";
    for (policy, target, proxy, expected) in [
        ("{}", "http://whoami.example.com/empty", None, "answers 503 (no_endpoints)"),
        ("{}", "http://other.example.com/", None, "answers 404 (no_route)"),
        ("{}", "http://whoami.example.com/%2f..", None, "answers 400 (unsafe_path)"),
        ("{}", "http://whoami.example.com:443/", None, "plain HTTP comes to a listener that speaks TLS"),
        ("{}", "https://whoami.example.com:80/", None, "TLS comes to a listener that speaks plain HTTP"),
        ("{}", URL, Some(CLIENT), "a PROXY header comes where none is expected"),
        (required, URL, None, "closes the connection: PROXY header peer-not-trusted"),
        (required, URL, Some(CLIENT), "closes the connection: PROXY header peer-not-trusted"),
    ] {
        let mut asked = question(CLIENT, target, "node-2");
        asked.proxy_protocol = proxy.map(|client| client.parse().unwrap());
        let path = path(&world("preserve", policy), &asked);
        assert_eq!(path.verdict.kind, VerdictKind::Refused, "{target}: {path:#?}");
        assert!(path.verdict.why.starts_with(expected), "{target}: {}", path.verdict.why);
        assert!(path.sees.is_none());
    }
}

#[test]
fn a_connection_without_a_request_ends_at_the_gateway() {
    let path = path(&world("preserve", "{}"), &question(CLIENT, "tcp://203.0.113.1:80", "node-2"));
    assert_eq!(short(&path), "kept 10.244.2.80 sees 198.51.100.7 by node-2:translate gateway:accept");
    assert!(path.backends.is_empty());
}

#[test]
fn https_that_is_asked_for_by_http_is_answered_with_a_redirect() {
    let tls = objects("preserve", "{}").replace(
        "{name: whoami, namespace: shop}\nspec:\n  ingressClassName",
        "{name: whoami, namespace: shop, annotations: {nginx.ingress.kubernetes.io/force-ssl-redirect: \"true\"}}\nspec:\n  ingressClassName",
    );
    let world = World::new(cluster(&format!("{NODES}{tls}")), options());
    let path = path(&world, &question(CLIENT, URL, "node-2"));
    assert_eq!(path.verdict.kind, VerdictKind::Answered);
    assert!(path.verdict.why.starts_with("answers 308"), "{}", path.verdict.why);
}

#[test]
fn a_name_is_found_where_objects_say_its_address() {
    let world = world("preserve", "{}");
    for (target, node, expected) in [
        ("http://whoami.shop.svc/", "node-1", Some("10.96.0.2:80")),
        ("http://whoami.shop.svc.cluster.local/", "node-1", Some("10.96.0.2:80")),
        ("http://whoami.example.com/", "node-1", Some("203.0.113.1:80")),
        ("http://whoami.example.com:30080/", "node-3", Some("192.0.2.13:30080")),
        ("http://whoami.example.com:81/", "node-1", None),
        ("http://nobody.shop.svc/", "node-1", None),
    ] {
        let explanation = checked(&world, &question("10.244.1.9", target, node));
        assert_eq!(explanation.destination.map(|at| at.to_string()).as_deref(), expected, "{target}");
        let unknown = explanation.answers[0].paths[0].verdict.kind == VerdictKind::Unknown;
        assert_eq!(unknown, expected.is_none(), "{target}");
    }
    let mut asked = question(CLIENT, "http://shop.example.com/", "node-2");
    asked.address = Some("203.0.113.1".parse().unwrap());
    asked.headers = vec![("Host".to_owned(), "whoami.example.com".to_owned())];
    assert_eq!(path(&world, &asked).verdict.kind, VerdictKind::KeptInHeader);
}

#[test]
fn a_load_balancer_with_an_address_of_its_own_connects_to_nodes() {
    let proxied = objects("preserve", "{trustedProxies: [192.0.2.100], forwardedHeader: X-Forwarded-For}")
        .replace("{ip: 203.0.113.1}", "{ip: 203.0.113.1, ipMode: Proxy}");
    let world = World::new(cluster(&format!("{NODES}{proxied}")), options());
    let mut asked = question(CLIENT, URL, "node-2");
    assert_eq!(path(&world, &asked).verdict.kind, VerdictKind::Unknown, "from where it connects is not known");
    asked.sender = Some(BALANCER.parse().unwrap());
    asked.headers = vec![("X-Forwarded-For".to_owned(), CLIENT.to_owned())];
    let path = path(&world, &asked);
    assert_eq!(path.verdict.kind, VerdictKind::KeptInHeader);
    assert_eq!(path.hops[1].before.destination.to_string(), "192.0.2.12:30080");
}

#[test]
fn the_gateway_of_this_machine_takes_what_no_service_does() {
    let directory = objects("preserve", "{}");
    let alone = |options: Options| World::new(cluster(&directory), options);
    let here = Options { gateway_here: true, ..options() };
    for target in ["http://whoami.example.com:8080/", "http://127.0.0.1:8080/", "http://192.0.2.200:8080/"] {
        let mut asked = question(CLIENT, target, "");
        asked.headers = vec![("host".to_owned(), "whoami.example.com".to_owned())];
        let path = path(&alone(here.clone()), &asked);
        assert_eq!(path.verdict.kind, VerdictKind::KeptInHeader, "{target}: {path:#?}");
        assert_eq!(path.hops.last().unwrap().action, Action::Proxy);
        assert_eq!(forwarded_for(&path), CLIENT);
    }
    let refused = path(&alone(here), &question(CLIENT, "http://127.0.0.1:9999/", ""));
    assert!(refused.verdict.why.contains("no listener at port 9999; it has: 8080, 8443"), "{}", refused.verdict.why);
}
