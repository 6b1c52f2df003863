//! Cases of the ALB's own tests that need sockets: ports that clash or share a number, tries, rewrites, keep-alive.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::{RawClient, ask_udp};
use headwater_testkit::origin::{Origin, RawOrigin};
use headwater_testkit::response::Response;
use headwater_testkit::wait;

/// A port that nobody listens at.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("[::]:0")?.local_addr()?.port())
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn alb(config: &str) -> String {
    format!(
        "apiVersion: crd.alauda.io/v2beta1\nkind: ALB2\nmetadata: {{name: a, namespace: test}}\n\
         spec: {{config: {{projects: [ALL_ALL], {config}}}}}\n"
    )
}

/// A Frontend `a-NAME`; `spec` goes on its spec.
fn frontend(name: &str, port: u16, protocol: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: crd.alauda.io/v1\nkind: Frontend\n\
         metadata: {{name: a-{name}, namespace: test, labels: {{alb2.cpaas.io/name: a}}}}\n\
         spec: {{port: {port}, protocol: {protocol}, {spec}}}\n"
    )
}

fn group(service: &str) -> String {
    format!("serviceGroup: {{services: [{{name: {service}, namespace: test, port: 80, weight: 100}}]}}")
}

/// A Rule of the Frontend `a-web`.
fn rule(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: crd.alauda.io/v1\nkind: Rule\n\
         metadata: {{name: {name}, namespace: test, labels: {{alb2.cpaas.io/name: a, alb2.cpaas.io/frontend: a-web}}}}\n\
         spec: {{{spec}}}\n"
    )
}

fn get(port: u16, target: &str) -> Result<Response> {
    RawClient::connect(local(port))?.request(format!("GET {target} HTTP/1.1\r\nHost: any.test\r\n\r\n"))
}

#[test]
fn ports_of_http_tcp_and_udp_stand_side_by_side_and_two_may_share_a_number() -> Result<()> {
    let (web, stream, datagrams) = (Origin::http("web")?, Origin::tcp("stream")?, Origin::udp("datagrams")?);
    let (http, both) = (free_port()?, free_port()?);
    let ports = [
        alb(""),
        frontend("web", http, "http", &group("web")),
        frontend("tcp", both, "tcp", &group("stream")),
        frontend("udp", both, "udp", &group("datagrams")),
    ];
    let services = [
        Stand::service("web", "", &[web.address()]),
        Stand::service("stream", "", &[stream.address()]),
        Stand::datagrams(&Stand::service("datagrams", "", &[datagrams.address()])),
    ];
    let stand = Stand::start(&[("alb.yaml", ports.concat()), ("services.yaml", services.join("---\n"))])?;
    assert_eq!(stand.applied().listeners.len(), 3);
    assert_eq!(get(http, "/")?.seen()?.name(), "web");
    let mut client = RawClient::connect(local(both))?;
    client.send("ping\n")?;
    let told = String::from_utf8(client.read_until(b"\n")?)?;
    assert!(told.contains("\"name\":\"stream\""), "{told}");
    let told = String::from_utf8(ask_udp(None, local(both), b"ping")?)?;
    assert!(told.contains("\"name\":\"datagrams\""), "{told}");
    Ok(())
}

#[test]
fn a_port_that_another_process_holds_is_told_and_hurts_no_other_until_it_is_free() -> Result<()> {
    let origin = Origin::http("app")?;
    let (free, http) = (free_port()?, free_port()?);
    let service = Stand::service("app", "", &[origin.address()]);
    let one = alb("") + &frontend("web", http, "http", &group("app"));
    let stand = Stand::start(&[("alb.yaml", one.clone()), ("service.yaml", service)])?;
    let foreign = TcpListener::bind(("::", free))?;
    let two = one + &frontend("taken", free, "http", &group("app"));
    let applied = stand.change(|dir| dir.write("alb.yaml", &two))?;
    let error = |applied: &headwater_gateway::Applied, name: &str| {
        applied.listeners.iter().find(|listener| &*listener.name == name).and_then(|listener| listener.error.clone())
    };
    assert!(error(&applied, "a-taken").is_some_and(|error| error.contains("in use")), "{applied:?}");
    assert_eq!((error(&applied, "a-web"), get(http, "/")?.status), (None, 200));
    drop(foreign);
    wait::until(wait::DEADLINE, || error(&stand.applied(), "a-taken").is_none())?;
    assert_eq!(get(free, "/")?.status, 200);
    Ok(())
}

#[test]
fn a_backend_that_refuses_is_tried_five_times_and_one_that_answers_with_an_error_once() -> Result<()> {
    let refusing = RawOrigin::start(|conn| conn.reset_on_close())?;
    let failing = RawOrigin::answering("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")?;
    let port = free_port()?;
    let manifests = [
        alb(""),
        frontend("web", port, "http", &group("refusing")),
        rule("fails", &format!("dslx: [{{type: URL, values: [[EQ, /fails]]}}], {}", group("failing"))),
        "---\n".to_owned(),
        Stand::service("refusing", "", &[refusing.address()]),
        "---\n".to_owned(),
        Stand::service("failing", "", &[failing.address()]),
    ];
    let stand = Stand::start(&[("alb.yaml", manifests.concat())])?;
    let answer = get(port, "/")?;
    assert_eq!((answer.status, answer.text().as_str()), (502, "X-Error: 502\n"));
    let line = stand.log_line(|line| line["target"] == "/")?;
    assert_eq!(line["attempts"], 5, "{line}");
    assert_eq!(refusing.connections().len(), 5);
    let answer = get(port, "/fails")?;
    assert_eq!((answer.status, answer.body.len(), failing.connections().len()), (503, 0, 1));
    Ok(())
}

#[test]
fn rules_rewrite_redirect_and_fall_through_as_upstreams_tests_have_it() -> Result<()> {
    let origin = Origin::http("app")?;
    let port = free_port()?;
    let app = group("app");
    let starts = |path: &str| format!("dslx: [{{type: URL, values: [[STARTS_WITH, {path}]]}}]");
    let redirect = |path: &str, redirect: &str| format!("{}, config: {{redirect: {{{redirect}}}}}", starts(path));
    let manifests = [
        alb(""),
        frontend("web", port, "http", ""),
        rule("es", &format!("{}, rewrite_base: '/es_proxy(/|$)(.*)', rewrite_target: /$2, {app}", starts("/es_proxy"))),
        rule("t1", &redirect("/t1", "url: /t1-1")),
        rule("t2", &redirect("/t2", "url: /t2-1, code: 301")),
        rule("t3", &redirect("/t3", "code: 308, scheme: https, host: a.com, port: 9090, url: /t3-1")),
        rule("t4", &redirect("/t4", "host: a.com, url: /t4-1")),
        rule("t5", &redirect("/t5", "scheme: https")),
        rule("t6", &redirect("/t6", "scheme: https, prefix_match: /t6/, replace_prefix: /xxx/")),
        rule("param", &format!("dslx: [{{type: PARAM, key: x, values: [[REGEX, ^a]]}}], {app}")),
        "---\n".to_owned(),
        Stand::service("app", "", &[origin.address()]),
    ];
    let _stand = Stand::start(&[("alb.yaml", manifests.concat())])?;
    for (target, status, location) in [
        ("/t1", 302, "/t1-1"),
        ("/t2", 301, "/t2-1"),
        ("/t3", 308, "https://a.com:9090/t3-1"),
        ("/t4", 302, "http://a.com/t4-1"),
        ("/t5", 302, "https://any.test/t5"),
        ("/t6/y", 302, "https://any.test/xxx/y"),
    ] {
        let moved = get(port, target)?;
        assert_eq!((moved.status, moved.header("location").as_deref()), (status, Some(location)), "{target}");
    }
    for (target, seen) in [("/es_proxy/v1", "/v1"), ("/es_proxy", "/"), ("/x?x=abc", "/x?x=abc")] {
        assert_eq!(get(port, target)?.seen()?.text("target"), seen, "{target}");
    }
    // No term holds: an argument that is not there matches no expression.
    for target in ["/x", "/x?y=a"] {
        let answer = get(port, target)?;
        assert_eq!(answer.header("x-alb-err-reason").as_deref(), Some("InvalidUpstream : no rule match"), "{target}");
        assert_eq!((answer.status, answer.body.len()), (404, 0));
    }
    Ok(())
}

#[test]
fn a_connection_carries_as_many_requests_as_keepalive_allows() -> Result<()> {
    let origin = Origin::http("app")?;
    let port = free_port()?;
    let keepalive = format!("config: {{keepalive: {{http: {{requests: 2}}, tcp: {{idle: 60m}}}}}}, {}", group("app"));
    let manifests = alb("") + &frontend("web", port, "http", &keepalive);
    let app = Stand::service("app", "", &[origin.address()]);
    let _stand = Stand::start(&[("alb.yaml", manifests), ("app.yaml", app)])?;
    let mut client = RawClient::connect(local(port))?;
    let request = "GET / HTTP/1.1\r\nHost: any.test\r\n\r\n";
    assert_eq!(client.request(request)?.header("connection"), None);
    assert_eq!(client.request(request)?.header("connection").as_deref(), Some("close"));
    assert_eq!(client.closed()?, b"");
    Ok(())
}

#[test]
fn an_ingress_may_have_a_long_name_and_no_paths_and_name_its_port() -> Result<()> {
    let origin = Origin::http("app")?;
    let port = free_port()?;
    let long = "a".repeat(200);
    let ingress = format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {long}, namespace: test}}\nspec:\n  \
         ingressClassName: a\n  rules:\n    - {{host: empty.test}}\n    - host: a.test\n      http:\n        paths:\n          - \
         {{path: /, pathType: Prefix, backend: {{service: {{name: app, port: {{name: web}}}}}}}}\n"
    );
    let app = Stand::service("app", "", &[origin.address()]).replace("- port: 80\n", "- port: 80\n      name: web\n");
    let app = app.replace("ports:\n  - port: ", "ports:\n  - name: web\n    port: ");
    let manifests = alb(&format!("ingressHTTPPort: {port}")) + &ingress;
    let stand = Stand::start(&[("alb.yaml", manifests), ("app.yaml", app)])?;
    let ask = |host: &str| RawClient::connect(local(port))?.request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert_eq!(ask("a.test")?.seen().with_context(|| format!("{:?}", stand.findings()))?.name(), "app");
    assert_eq!(ask("empty.test")?.status, 404);
    Ok(())
}

#[test]
fn an_endpoint_that_falls_silent_is_asked_once_whatever_the_method_and_a_carried_port_ends() -> Result<()> {
    let silent = RawOrigin::start(|conn| conn.read_to_end().map(drop))?;
    let halting = RawOrigin::start(|conn| {
        conn.read_until(b"\r\n\r\n")?;
        conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")?;
        conn.read_to_end().map(drop)
    })?;
    let (web, carried) = (free_port()?, free_port()?);
    let timeout =
        "config: {timeout: {proxy_connect_timeout_ms: 3000, proxy_send_timeout_ms: 300, proxy_read_timeout_ms: 300}}";
    let manifests = [
        alb(""),
        frontend("web", web, "http", &group("silent")),
        frontend("carried", carried, "tcp", &format!("{}, {timeout}", group("silent"))),
        rule("all", &format!("dslx: [{{type: URL, values: [[STARTS_WITH, /]]}}], {}, {timeout}", group("silent"))),
        rule("half", &format!("dslx: [{{type: URL, values: [[EQ, /half]]}}], {}, {timeout}", group("halting"))),
        "---\n".to_owned(),
        Stand::service("silent", "", &[silent.address()]),
        "---\n".to_owned(),
        Stand::service("halting", "", &[halting.address()]),
    ];
    let stand = Stand::start(&[("alb.yaml", manifests.concat())])?;
    for (asked, method) in ["GET", "POST"].into_iter().enumerate() {
        let request = format!("{method} /{method} HTTP/1.1\r\nHost: any.test\r\nContent-Length: 0\r\n\r\n");
        let answer = RawClient::connect(local(web))?.request(request)?;
        assert_eq!((answer.status, answer.text().as_str()), (504, "X-Error: 504\n"), "{method}");
        assert_eq!(silent.connections().len(), asked + 1, "{method}");
    }
    // What began is cut, and not asked for again.
    let mut client = RawClient::connect(local(web))?;
    client.send("GET /half HTTP/1.1\r\nHost: any.test\r\n\r\n")?;
    let heard = String::from_utf8(client.read_to_end()?)?;
    assert!(heard.starts_with("HTTP/1.1 200 ") && heard.ends_with("\r\n\r\nhalf"), "{heard}");
    assert_eq!(halting.connections().len(), 1);
    // A carried connection ends after as long a silence.
    let mut client = RawClient::connect(local(carried))?;
    client.send("hello")?;
    assert_eq!(client.read_to_end()?, b"");
    assert_eq!(stand.log_line(|line| line["listener"] == "a-carried")?["end"], "idle");
    Ok(())
}
