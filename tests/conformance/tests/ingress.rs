//! Ingress, from manifests to answers over sockets.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::certs::Authority;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::{Dial, Tls};
use headwater_testkit::http2;
use headwater_testkit::origin::Origin;
use headwater_testkit::response::Response;
use headwater_testkit::wait;

/// Path, type and Service of a rule.
type Path<'a> = (&'a str, &'a str, &'a str);

/// One entry of `spec.rules` in YAML's flow style; an empty host is left out.
fn rule(host: &str, paths: &[Path<'_>]) -> String {
    let host = if host.is_empty() { String::new() } else { format!("host: \"{host}\", ") };
    let path = |(path, kind, service): &Path<'_>| {
        format!("{{path: {path}, pathType: {kind}, backend: {}}}", backend(service, "number: 80"))
    };
    let paths: Vec<String> = paths.iter().map(path).collect();
    format!("{{{host}http: {{paths: [{}]}}}}", paths.join(", "))
}

fn backend(service: &str, port: &str) -> String {
    format!("{{service: {{name: {service}, port: {{{port}}}}}}}")
}

/// Manifest of an Ingress; `metadata` and `spec` are entries of flow mappings.
fn ingress(name: &str, metadata: &str, spec: &str) -> String {
    let metadata = if metadata.is_empty() { String::new() } else { format!(", {metadata}") };
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: test{metadata}}}\nspec: {{{spec}}}\n"
    )
}

fn rules(rules: &[String]) -> String {
    format!("rules: [{}]", rules.join(", "))
}

fn documents(documents: &[String]) -> String {
    documents.join("---\n")
}

/// One origin for each name, and the Services that lead to them.
struct Apps {
    origins: Vec<Origin>,
    manifests: String,
}

impl Apps {
    fn start(names: &[&str]) -> Result<Self> {
        let origins = names.iter().map(|name| Origin::http(name)).collect::<Result<Vec<_>>>()?;
        let services = names.iter().zip(&origins).map(|(name, origin)| Stand::service(name, "", &[origin.address()]));
        let manifests = documents(&services.collect::<Vec<_>>());
        Ok(Self { origins, manifests })
    }

    fn stand(&self, ingress: &str) -> Result<Stand> {
        Stand::start(&[
            ("gateway.yaml", Stand::gateway("")),
            ("services.yaml", self.manifests.clone()),
            ("ingress.yaml", ingress.to_owned()),
        ])
    }

    fn address(&self, index: usize) -> SocketAddr {
        self.origins[index].address()
    }
}

fn get(stand: &Stand, host: &str, path: &str) -> Result<Response> {
    RawClient::connect(stand.address("http"))?.request(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
}

/// Who answers: an origin's name, or status and fault.
fn who(response: &Response) -> Result<String> {
    match response.header("x-headwater-fault") {
        Some(fault) => Ok(format!("{} {fault}", response.status)),
        None if response.status == 200 => Ok(response.seen()?.name().to_owned()),
        None => Ok(response.status.to_string()),
    }
}

/// Who answers over HTTP/1.1, after HTTP/2 gave the same answer.
fn answers(stand: &Stand, host: &str, path: &str) -> Result<String> {
    let one = who(&get(stand, host, path)?)?;
    let two = who(&http2::request(&Dial::to(stand.address("http")), http2::Request::get(host, path))?)?;
    assert_eq!(one, two, "HTTP/1.1 and HTTP/2 agree about {host}{path}");
    Ok(one)
}

fn has_finding(stand: &Stand, reason: &str, object: &str, field: &str) -> bool {
    stand.findings().iter().any(|finding| {
        finding.reason == reason
            && finding.field.starts_with(field)
            && finding.object.as_ref().is_some_and(|key| key.to_string() == object)
    })
}

#[test]
fn paths_match_by_element_exact_first_then_the_longest() -> Result<()> {
    let apps = Apps::start(&["exact", "foo", "foobar", "deep", "impl", "slash", "root"])?;
    let stand = apps.stand(&ingress(
        "paths",
        "",
        &rules(&[rule(
            "a.test",
            &[
                ("/", "Prefix", "root"),
                ("/exact", "Exact", "exact"),
                ("/foo", "Prefix", "foo"),
                ("/foo/bar", "Prefix", "foobar"),
                ("/foo/bar", "Exact", "deep"),
                ("/impl", "ImplementationSpecific", "impl"),
                ("/slash/", "Prefix", "slash"),
            ],
        )]),
    ))?;
    for (path, expected) in [
        ("/", "root"),
        ("/exact", "exact"),
        ("/exact/", "root"),
        ("/exact/x", "root"),
        ("/exact?q=/foo", "exact"),
        ("/foo", "foo"),
        ("/foo/", "foo"),
        ("/foo?q", "foo"),
        ("/foo/baz", "foo"),
        ("/foobar", "root"),
        ("/FOO", "root"),
        ("/foo/bar", "deep"),
        ("/foo/bar/", "foobar"),
        ("/foo/bar/x", "foobar"),
        ("/foo/barx", "foo"),
        ("/impl", "impl"),
        ("/impl/x", "impl"),
        ("/implx", "root"),
        ("/slash", "slash"),
        ("/slash/", "slash"),
        ("/slash/x", "slash"),
        ("/slashes", "root"),
        // Dot segments, encoded letters and repeated slashes are resolved before a rule is chosen.
        ("/foo/../exact", "exact"),
        ("/%66oo/baz", "foo"),
        ("/foo//bar/x", "foobar"),
    ] {
        assert_eq!(answers(&stand, "a.test", path)?, expected, "{path}");
    }
    Ok(())
}

#[test]
fn exact_hosts_come_before_wildcards_of_one_label_before_rules_without_host() -> Result<()> {
    let apps = Apps::start(&["exact", "wild", "any", "default"])?;
    let stand = apps.stand(&ingress(
        "hosts",
        "",
        &format!(
            "defaultBackend: {}, {}",
            backend("default", "number: 80"),
            rules(&[
                rule("one.wild.test", &[("/exact", "Prefix", "exact")]),
                rule("*.wild.test", &[("/", "Prefix", "wild")]),
                rule("", &[("/any", "Prefix", "any")]),
            ])
        ),
    ))?;
    for (host, path, expected) in [
        ("one.wild.test", "/exact", "exact"),
        ("ONE.Wild.Test", "/exact", "exact"),
        ("one.wild.test:8080", "/exact", "exact"),
        ("one.wild.test.", "/exact", "exact"),
        // A host that has rules of its own is not served by those of a wildcard.
        ("one.wild.test", "/other", "default"),
        ("two.wild.test", "/exact", "wild"),
        ("a.b.wild.test", "/", "default"),
        ("wild.test", "/", "default"),
        ("unknown.test", "/any/x", "any"),
        ("unknown.test", "/", "default"),
        ("127.0.0.1", "/any", "any"),
        ("[::1]:80", "/any", "any"),
    ] {
        assert_eq!(answers(&stand, host, path)?, expected, "{host}{path}");
    }
    Ok(())
}

#[test]
fn what_no_rule_matches_is_answered_404_with_its_reason() -> Result<()> {
    let apps = Apps::start(&["app"])?;
    let stand = apps.stand(&ingress("app", "", &rules(&[rule("app.test", &[("/only", "Prefix", "app")])])))?;
    for (host, path) in [("app.test", "/"), ("app.test", "/onlyx"), ("other.test", "/only"), ("sub.app.test", "/only")]
    {
        assert_eq!(answers(&stand, host, path)?, "404 no_route", "{host}{path}");
    }
    let response = get(&stand, "other.test", "/")?;
    assert!(response.text().starts_with("no_route: "), "{}", response.text());
    let line = stand.log_line(|line| line["host"] == "other.test" && line["target"] == "/")?;
    assert_eq!(
        (&line["fault"], &line["fault_by"], &line["status"]),
        (&"no_route".into(), &"local".into(), &404.into())
    );
    // HTTP/1.0 need not name a host.
    let response = RawClient::connect(stand.address("http"))?.request("GET / HTTP/1.0\r\n\r\n")?;
    assert_eq!(who(&response)?, "404 no_route");
    Ok(())
}

#[test]
fn ingresses_of_one_host_merge_and_the_older_wins_a_conflict_that_the_younger_is_told() -> Result<()> {
    let apps = Apps::start(&["old", "new", "third"])?;
    let created = |year: u32| format!("creationTimestamp: \"{year}-01-01T00:00:00Z\"");
    let old = ingress("old", &created(2020), &rules(&[rule("a.test", &[("/shared", "Prefix", "old")])]));
    // Its name comes first, its time second.
    let new = ingress(
        "a-new",
        &created(2024),
        &rules(&[rule("a.test", &[("/shared", "Prefix", "new"), ("/new", "Prefix", "new")])]),
    );
    let third = ingress("third", "", &rules(&[rule("a.test", &[("/shared", "Exact", "third")])]));
    let stand = apps.stand(&documents(&[new.clone(), third.clone(), old]))?;
    for (path, expected) in [("/shared/x", "old"), ("/new", "new"), ("/shared", "third")] {
        assert_eq!(answers(&stand, "a.test", path)?, expected, "{path}");
    }
    assert!(has_finding(&stand, "Conflict", "Ingress test/a-new", "spec.rules[0]"), "{:?}", stand.findings());
    assert!(!has_finding(&stand, "Conflict", "Ingress test/old", ""), "{:?}", stand.findings());
    assert!(!has_finding(&stand, "Conflict", "Ingress test/third", ""), "{:?}", stand.findings());
    stand.change(|dir| dir.write("ingress.yaml", &documents(&[new, third])))?;
    assert_eq!(answers(&stand, "a.test", "/shared/x")?, "new");
    wait::until(wait::DEADLINE, || !has_finding(&stand, "Conflict", "Ingress test/a-new", ""))
}

/// The certificate that a client with this SNI is shown.
fn shown(stand: &Stand, tls: Tls) -> Result<Vec<u8>> {
    RawClient::open(&Dial::to(stand.address("https")).tls(tls))?.stream().leaf().context("a certificate")
}

#[test]
fn certificates_are_chosen_by_sni_exact_before_wildcard_and_replaced_without_a_break() -> Result<()> {
    let authority = Authority::new("test")?;
    let [exact, wild, other, fresh] =
        ["one.wild.test", "*.wild.test", "other.test", "other.test"].map(|name| authority.leaf(&[name]));
    let (exact, wild, other, fresh) = (exact?, wild?, other?, fresh?);
    let apps = Apps::start(&["app"])?;
    let hosts = ["one.wild.test", "*.wild.test", "other.test"];
    let tls = "tls: [{hosts: [one.wild.test], secretName: exact}, {hosts: [\"*.wild.test\"], secretName: wild}, {hosts: [other.test], secretName: other}]";
    let all = hosts.map(|host| rule(host, &[("/", "Prefix", "app")]));
    let stand = Stand::start(&[
        ("gateway.yaml", Stand::gateway("")),
        ("services.yaml", apps.manifests.clone()),
        ("ingress.yaml", ingress("app", "", &format!("{tls}, {}", rules(&all)))),
        ("exact.yaml", Stand::tls_secret("exact", &exact.cert_pem, &exact.key_pem)),
        ("wild.yaml", Stand::tls_secret("wild", &wild.cert_pem, &wild.key_pem)),
        ("other.yaml", Stand::tls_secret("other", &other.cert_pem, &other.key_pem)),
    ])?;
    let self_signed = shown(&stand, Tls::without_sni())?;
    for (name, expected) in [
        ("one.wild.test", &exact.cert_der),
        ("ONE.wild.test", &exact.cert_der),
        ("two.wild.test", &wild.cert_der),
        ("other.test", &other.cert_der),
        ("a.b.wild.test", &self_signed),
        ("unknown.test", &self_signed),
    ] {
        assert_eq!(shown(&stand, Tls::new(name))?, *expected, "{name}");
    }
    assert!(![&exact, &wild, &other].iter().any(|leaf| leaf.cert_der == self_signed));
    let request = "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n";
    let mut running = RawClient::open(&Dial::to(stand.address("https")).tls(Tls::new("other.test")))?;
    assert_eq!(running.request(request)?.status, 200);
    stand.change(|dir| dir.write("other.yaml", &Stand::tls_secret("other", &fresh.cert_pem, &fresh.key_pem)))?;
    assert_eq!(shown(&stand, Tls::new("other.test"))?, fresh.cert_der);
    assert_eq!(running.request(request)?.status, 200, "a connection made with the old certificate goes on");
    // Without its Secret a name falls back to the default certificate; the others are not touched.
    stand.change(|dir| dir.remove("other.yaml"))?;
    assert_eq!(shown(&stand, Tls::new("other.test"))?, self_signed);
    assert_eq!(shown(&stand, Tls::new("one.wild.test"))?, exact.cert_der);
    assert!(has_finding(&stand, "MissingReference", "Ingress test/app", "spec.tls[2].secretName"));
    Ok(())
}

#[test]
fn names_without_a_certificate_get_the_default_certificate_of_the_settings() -> Result<()> {
    let leaf = Authority::new("test")?.leaf(&["default.test"])?;
    let apps = Apps::start(&["app"])?;
    let stand = Stand::start(&[
        ("gateway.yaml", Stand::gateway("tls: {defaultCertificate: test/default}")),
        ("services.yaml", apps.manifests.clone()),
        ("ingress.yaml", Stand::ingress("app", "", "/", "app")),
        ("secret.yaml", Stand::tls_secret("default", &leaf.cert_pem, &leaf.key_pem)),
    ])?;
    for tls in [Tls::without_sni(), Tls::new("any.test")] {
        assert_eq!(shown(&stand, tls)?, leaf.cert_der);
    }
    Ok(())
}

#[test]
fn plain_http_is_redirected_as_ingress_nginx_does() -> Result<()> {
    let leaf = Authority::new("test")?.leaf(&["*.tls.test"])?;
    let apps = Apps::start(&["app"])?;
    let annotated = |name: &str, annotation: &str, host: &str, tls: bool| {
        let metadata = if annotation.is_empty() {
            String::new()
        } else {
            format!("annotations: {{nginx.ingress.kubernetes.io/{annotation}}}")
        };
        let tls = if tls { format!("tls: [{{hosts: [{host}], secretName: cert}}], ") } else { String::new() };
        ingress(name, &metadata, &format!("{tls}{}", rules(&[rule(host, &[("/", "Prefix", "app")])])))
    };
    let stand = Stand::start(&[
        (
            "gateway.yaml",
            Stand::gateway("clientAddress: {trustedProxies: [127.0.0.5], forwardedHeader: X-Forwarded-For}"),
        ),
        ("services.yaml", apps.manifests.clone()),
        ("secret.yaml", Stand::tls_secret("cert", &leaf.cert_pem, &leaf.key_pem)),
        (
            "ingress.yaml",
            documents(&[
                annotated("with", "", "with.tls.test", true),
                annotated("unredirected", "ssl-redirect: \"false\"", "off.tls.test", true),
                annotated("plain", "", "plain.test", false),
                annotated("force", "force-ssl-redirect: \"true\"", "force.test", false),
            ]),
        ),
    ])?;
    let plain = Dial::to(stand.address("http"));
    let balancer = plain.clone().source("127.0.0.5".parse()?);
    let ask = |dial: &Dial, host: &str, target: &str, more: &str| -> Result<(u16, Option<String>)> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
        let response = RawClient::open(dial)?.request(request)?;
        Ok((response.status, response.header("location")))
    };
    let to = |location: &str| (308, Some(location.to_owned()));
    let served = (200, None);
    let https = "X-Forwarded-Proto: https\r\n";
    for (dial, host, target, more, expected) in [
        (&plain, "with.tls.test", "/", "", to("https://with.tls.test/")),
        (&plain, "with.tls.test", "/a/b?c=d&e", "", to("https://with.tls.test/a/b?c=d&e")),
        (&plain, "with.tls.test", "/a/", "", to("https://with.tls.test/a")),
        (&plain, "with.tls.test:8080", "/a", "", to("https://with.tls.test/a")),
        (&plain, "with.tls.test", "/.well-known/acme-challenge/token", "", served.clone()),
        (&plain, "with.tls.test", "/", https, to("https://with.tls.test/")),
        (&balancer, "with.tls.test", "/", https, served.clone()),
        (&balancer, "with.tls.test", "/", "", to("https://with.tls.test/")),
        // Neither the rule nor the redirect follows a forwarded host, not even of a trusted sender.
        (&balancer, "with.tls.test", "/", "X-Forwarded-Host: evil.test\r\n", to("https://with.tls.test/")),
        (&balancer, "plain.test", "/", "X-Forwarded-Host: force.test\r\n", served.clone()),
        (&plain, "off.tls.test", "/", "", served.clone()),
        (&plain, "plain.test", "/", "", served.clone()),
        (&plain, "force.test", "/x", "", to("https://force.test/x")),
    ] {
        assert_eq!(ask(dial, host, target, more)?, expected, "{host}{target} {more}");
    }
    let tls = Dial::to(stand.address("https")).tls(Tls::new("with.tls.test"));
    assert_eq!(ask(&tls, "with.tls.test", "/", "")?, served);
    let response = http2::request(&plain, http2::Request::get("with.tls.test", "/x"))?;
    assert_eq!((response.status, response.header("location")), to("https://with.tls.test/x"));
    // Nothing of a redirected upload reaches the backend, and the client hears of it at once.
    let response = RawClient::open(&plain)?
        .request("POST /up HTTP/1.1\r\nHost: with.tls.test\r\nContent-Length: 1000000\r\n\r\nbeginning")?;
    assert_eq!((response.status, response.header("connection")), (308, Some("close".to_owned())));
    Ok(())
}

#[test]
fn a_redirect_to_no_host_is_refused() -> Result<()> {
    let annotation = "metadata:\n  annotations:\n    nginx.ingress.kubernetes.io/force-ssl-redirect: \"true\"\n";
    let ingress = Stand::ingress("any", "", "/", "app").replace("metadata:\n", annotation);
    let manifests = format!("{ingress}---\n{}", Stand::service("app", "", &[]));
    let stand = Stand::start(&[("gateway.yaml", Stand::gateway("")), ("app.yaml", manifests)])?;
    let answer = RawClient::connect(stand.address("http"))?.request("GET / HTTP/1.0\r\n\r\n")?;
    assert_eq!((answer.status, answer.header("x-headwater-fault")), (400, Some("bad_request".to_owned())));
    Ok(())
}

#[test]
fn only_ingresses_of_our_classes_are_served() -> Result<()> {
    let apps = Apps::start(&["app"])?;
    let of = |name: &str, class: &str| {
        let class = if class.is_empty() { String::new() } else { format!("ingressClassName: {class}, ") };
        ingress(name, "", &format!("{class}{}", rules(&[rule(&format!("{name}.test"), &[("/", "Prefix", "app")])])))
    };
    let legacy = ingress(
        "legacy",
        "annotations: {kubernetes.io/ingress.class: headwater}",
        &rules(&[rule("legacy.test", &[("/", "Prefix", "app")])]),
    );
    let other = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: other}\nspec: {controller: example.com/other}\n";
    let stand = apps.stand(&documents(&[
        other.to_owned(),
        of("classless", ""),
        of("ours", "headwater"),
        of("foreign", "other"),
        of("missing", "missing"),
        legacy,
    ]))?;
    for (host, expected) in [
        ("classless.test", "app"),
        ("ours.test", "app"),
        ("legacy.test", "app"),
        ("foreign.test", "404 no_route"),
        ("missing.test", "404 no_route"),
    ] {
        assert_eq!(answers(&stand, host, "/")?, expected, "{host}");
    }
    assert!(has_finding(&stand, "MissingReference", "Ingress test/missing", "spec.ingressClassName"));
    assert!(!has_finding(&stand, "MissingReference", "Ingress test/foreign", ""));
    let gateway = Stand::gateway("").replace("is-default-class: \"true\"", "is-default-class: \"false\"");
    stand.change(|dir| dir.write("other.yaml", &of("another", "")))?;
    assert_eq!(answers(&stand, "another.test", "/")?, "app");
    // Without a default class one machine still serves what names none: there is nobody else to serve it.
    stand.change(|dir| {
        dir.write("gateway.yaml", &gateway)?;
        dir.write("later.yaml", &of("later", ""))
    })?;
    assert_eq!(answers(&stand, "later.test", "/")?, "app");
    assert_eq!(answers(&stand, "ours.test", "/")?, "app");
    assert_eq!(answers(&stand, "foreign.test", "/")?, "404 no_route");
    Ok(())
}

/// Manifest of an EndpointSlice of a Service; `ports` and `endpoints` in flow style.
fn slice(name: &str, service: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: test, labels: \
         {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{ports}]\nendpoints: [{endpoints}]\n"
    )
}

/// Manifest of a Service; `spec` in flow style.
fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: test}}\nspec: {{{spec}}}\n")
}

fn path_to(name: &str, port: &str) -> String {
    let path = format!("{{path: /, pathType: Prefix, backend: {}}}", backend(name, port));
    ingress(name, "", &format!("rules: [{{host: {name}.test, http: {{paths: [{path}]}}}}]"))
}

#[test]
fn services_of_every_kind_lead_to_their_endpoints() -> Result<()> {
    let apps = Apps::start(&["web", "admin", "only", "terminating", "quiet"])?;
    let port = |index: usize| apps.address(index).port();
    let at = |conditions: &str| format!("{{addresses: [127.0.0.1], conditions: {{{conditions}}}}}");
    let going = at("ready: false, serving: true, terminating: true");
    let manifests = documents(&[
        // Named ports: the number stands in the EndpointSlice only.
        service("named", "ports: [{name: web, port: 80, targetPort: web}, {name: admin, port: 81, targetPort: admin}]"),
        slice(
            "named-1",
            "named",
            &format!("{{name: web, port: {}}}, {{name: admin, port: {}}}", port(0), port(1)),
            &at(""),
        ),
        path_to("named", "name: admin"),
        service(
            "numbered",
            "ports: [{name: web, port: 80, targetPort: web}, {name: admin, port: 81, targetPort: admin}]",
        ),
        slice(
            "numbered-1",
            "numbered",
            &format!("{{name: web, port: {}}}, {{name: admin, port: {}}}", port(0), port(1)),
            &at(""),
        ),
        path_to("numbered", "number: 80"),
        service("headless", &format!("clusterIP: None, ports: [{{port: 80, targetPort: {}}}]", port(2))),
        slice("headless-1", "headless", &format!("{{port: {}}}", port(2)), &at("ready: true")),
        path_to("headless", "number: 80"),
        service("external", "type: ExternalName, externalName: localhost"),
        path_to("external", &format!("number: {}", port(0))),
        service("fading", "ports: [{port: 80}]"),
        slice("fading-1", "fading", &format!("{{port: {}}}", port(3)), &going),
        slice(
            "fading-2",
            "fading",
            &format!("{{port: {}}}", port(4)),
            &at("ready: false, serving: false, terminating: true"),
        ),
        path_to("fading", "number: 80"),
        service("mixed", "ports: [{port: 80}]"),
        slice("mixed-1", "mixed", &format!("{{port: {}}}", port(3)), &going),
        slice("mixed-2", "mixed", &format!("{{port: {}}}", port(2)), &at("ready: true")),
        path_to("mixed", "number: 80"),
    ]);
    let stand = apps.stand(&manifests)?;
    for (host, expected) in [
        ("named.test", "admin"),
        ("numbered.test", "web"),
        ("headless.test", "only"),
        ("external.test", "web"),
        ("fading.test", "terminating"),
        ("mixed.test", "only"),
    ] {
        wait::until(wait::DEADLINE, || get(&stand, host, "/").is_ok_and(|response| response.status == 200))
            .with_context(|| format!("{host}: {:?}", get(&stand, host, "/")))?;
        for _ in 0..8 {
            assert_eq!(answers(&stand, host, "/")?, expected, "{host}");
        }
    }
    Ok(())
}

#[test]
fn a_backend_that_cannot_be_reached_says_why() -> Result<()> {
    let apps = Apps::start(&["app"])?;
    let manifests = documents(&[
        path_to("absent", "number: 80"),
        path_to("app", "number: 8080"),
        service("empty", "ports: [{port: 80}]"),
        path_to("empty", "number: 80"),
        service("unready", "ports: [{port: 80}]"),
        slice("unready-1", "unready", "{port: 9}", "{addresses: [127.0.0.1], conditions: {ready: false}}"),
        path_to("unready", "number: 80"),
        ingress(
            "resource",
            "",
            "rules: [{host: resource.test, http: {paths: [{path: /, pathType: Prefix, backend: {resource: {apiGroup: example.com, kind: Bucket, name: b}}}]}}]",
        ),
    ]);
    let stand = apps.stand(&manifests)?;
    for (name, expected) in [
        ("absent", "503 no_service"),
        ("app", "503 no_service_port"),
        ("empty", "503 no_endpoints"),
        ("unready", "503 no_endpoints"),
        ("resource", "503 unsupported_backend"),
    ] {
        let host = format!("{name}.test");
        assert_eq!(answers(&stand, &host, "/")?, expected, "{host}");
        let line = stand.log_line(|line| line["host"] == host)?;
        assert_eq!(line["route"], format!("Ingress test/{name}"));
        assert_eq!(line["fault"], expected[4..]);
    }
    // What is missing may come: no request is lost, and no restart is needed.
    stand.change(|dir| dir.write("late.yaml", &Stand::service("absent", "", &[apps.address(0)])))?;
    assert_eq!(answers(&stand, "absent.test", "/")?, "app");
    Ok(())
}
