//! What rules do to requests and responses: rewrites, redirects, CORS, edits of headers, timeouts.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::http2;
use headwater_testkit::origin::{Origin, RawOrigin};
use headwater_testkit::response::{Response, values};

const HOST: &str = "a.test";

/// An Ingress for [`HOST`] with these annotations, and paths that lead to the Service `app`.
fn ingress(annotations: &[(&str, &str)], paths: &[&str]) -> Result<String> {
    let annotations: serde_json::Map<String, serde_json::Value> = annotations
        .iter()
        .map(|(name, value)| {
            let name =
                if name.contains('/') { (*name).to_owned() } else { format!("nginx.ingress.kubernetes.io/{name}") };
            (name, (*value).into())
        })
        .collect();
    let path = |path: &&str| {
        serde_json::json!({
            "path": path, "pathType": "ImplementationSpecific",
            "backend": {"service": {"name": "app", "port": {"number": 80}}},
        })
    };
    let paths: Vec<_> = paths.iter().map(path).collect();
    Ok(serde_json::to_string(&serde_json::json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "app", "namespace": "test", "annotations": annotations},
        "spec": {"rules": [{"host": HOST, "http": {"paths": paths}}]},
    }))?)
}

fn stand_with(settings: &str, origin: SocketAddr, annotations: &[(&str, &str)], paths: &[&str]) -> Result<Stand> {
    Stand::start(&[
        ("gateway.yaml", Stand::gateway(settings)),
        ("service.yaml", Stand::service("app", "", &[origin])),
        ("ingress.yaml", ingress(annotations, paths)?),
    ])
}

fn stand(origin: &Origin, annotations: &[(&str, &str)], paths: &[&str]) -> Result<Stand> {
    stand_with("", origin.address(), annotations, paths)
}

/// Over HTTP/1.1; `headers` are whole lines.
fn ask(stand: &Stand, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut client = RawClient::connect(stand.address("http"))?;
    client.send(format!("{text}\r\n"))?;
    client.read_response_to(method)
}

/// The same over HTTP/2.
fn ask_h2(stand: &Stand, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
    let request = headers.iter().fold(http2::Request::new(method, HOST, path), |request, (name, value)| {
        request.header(&name.to_ascii_lowercase(), value)
    });
    http2::request(&Dial::to(stand.address("http")), request)
}

fn target(response: &Response) -> Result<String> {
    match response.header("x-headwater-fault") {
        Some(fault) => Ok(format!("{} {fault}", response.status)),
        None => Ok(response.seen()?.text("target").to_owned()),
    }
}

#[test]
fn paths_are_rewritten_by_what_the_rules_path_captures() -> Result<()> {
    let origin = Origin::http("app")?;
    for (annotations, paths, cases) in [
        (
            &[("rewrite-target", "/$2")][..],
            &["/es_proxy(/|$)(.*)", "/other(.*)"][..],
            &[
                ("/es_proxy/v1", "/v1"),
                ("/es_proxy", "/"),
                ("/ES_Proxy/v1?q=1", "/v1?q=1"),
                ("/es_proxy/a/./b", "/a/b"),
                ("/es_proxy/%C3%BC%20x", "/%C3%BC%20x"),
                ("/other/x", "/"),
                ("/third", "404 no_route"),
            ][..],
        ),
        (
            &[("rewrite-target", "/x$1")],
            &["/a(.*)"],
            &[("/a/b", "/x/b"), ("/a../b", "/x../b"), ("/a%2Fb", "/x%2Fb"), ("/A", "/x")],
        ),
        // A path that becomes another one by what stands around it goes nowhere.
        (&[("rewrite-target", "/$1")], &["/a(.*)"], &[("/a../secret", "400 unsafe_path"), ("/a/b", "//b")]),
        (&[("rewrite-target", "/app?own=1")], &["/"], &[("/a/b", "/app?own=1"), ("/a?q=2", "/app?own=1&q=2")]),
        (&[("use-regex", "true")], &["/a[0-9]+$", "/"], &[("/a12", "/a12"), ("/A12", "/A12")]),
    ] {
        let stand = stand(&origin, annotations, paths)?;
        for (asked, expected) in cases {
            let one = target(&ask(&stand, "GET", asked, &[])?)?;
            let two = target(&ask_h2(&stand, "GET", asked, &[])?)?;
            assert_eq!((&*one, &*two), (*expected, *expected), "{annotations:?} {asked}");
        }
    }
    Ok(())
}

#[test]
fn the_endpoint_hears_the_host_of_upstream_vhost() -> Result<()> {
    let origin = Origin::http("app")?;
    let stand = stand(&origin, &[("upstream-vhost", "inner.test")], &["/"])?;
    for response in [ask(&stand, "GET", "/x?y=1", &[])?, ask_h2(&stand, "GET", "/x?y=1", &[])?] {
        let seen = response.seen()?;
        assert_eq!((seen.text("host"), seen.text("target")), ("inner.test", "/x?y=1"));
        assert_eq!(seen.header("x-forwarded-host").as_deref(), Some(HOST));
    }
    Ok(())
}

#[test]
fn redirects_lead_where_they_are_written_to() -> Result<()> {
    let origin = Origin::http("app")?;
    let alb = |name: &str| format!("alb.ingress.cpaas.io/{name}");
    let (host, port, scheme) = (alb("redirect-host"), alb("redirect-port"), alb("force-ssl-redirect"));
    let (matched, with) = (alb("redirect-prefix-match"), alb("redirect-replace-prefix"));
    for (annotations, asked, status, location) in [
        (vec![("permanent-redirect", "https://b.test/x")], "/a?q", 301, "https://b.test/x"),
        (
            vec![("permanent-redirect", "https://b.test/x"), ("permanent-redirect-code", "308")],
            "/",
            308,
            "https://b.test/x",
        ),
        (vec![("temporal-redirect", "/t1-1")], "/t1", 302, "/t1-1"),
        (vec![("temporal-redirect", "/t1-1"), ("temporal-redirect-code", "307")], "/t1", 307, "/t1-1"),
        (
            vec![(&*host, "a.com"), (&*port, "9090"), (&*scheme, "true"), ("temporal-redirect", "/t3-1")],
            "/t3?q=1",
            302,
            "https://a.com:9090/t3-1",
        ),
        (vec![(&*host, "a.com")], "/t4-1?q=1", 302, "http://a.com/t4-1?q=1"),
        (vec![(&*matched, "/t6/"), (&*with, "/"), (&*scheme, "true")], "/t6/xxx", 308, "https://a.test/xxx"),
        (vec![(&*matched, "/t6/"), (&*with, "/")], "/t7", 302, "http://a.test/t7"),
        (vec![("permanent-redirect", "https://b.test"), (&*scheme, "true")], "/", 301, "https://b.test"),
    ] {
        let stand = stand(&origin, &annotations, &["/"])?;
        for response in [ask(&stand, "GET", asked, &[])?, ask_h2(&stand, "GET", asked, &[])?] {
            assert_eq!(response.status, status, "{annotations:?}");
            assert_eq!(response.header("location").as_deref(), Some(location), "{annotations:?} {asked}");
        }
    }
    Ok(())
}

#[test]
fn a_redirect_to_https_is_not_made_on_https() -> Result<()> {
    let origin = Origin::http("app")?;
    let stand = stand(&origin, &[("alb.ingress.cpaas.io/force-ssl-redirect", "true")], &["/"])?;
    assert_eq!(ask(&stand, "GET", "/", &[])?.status, 308);
    let tls = headwater_testkit::dial::Tls::new(HOST);
    let mut client = RawClient::open(&Dial::to(stand.address("https")).tls(tls))?;
    assert_eq!(client.request(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))?.status, 200);
    Ok(())
}

/// Every line about CORS, and `Vary`.
fn cors_lines(response: &Response) -> Vec<String> {
    let is = |name: &str| name.starts_with("access-control-") || name == "vary";
    let lines = response.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let mut lines: Vec<String> =
        lines.filter(|(name, _)| is(name)).map(|(name, value)| format!("{name}: {value}")).collect();
    lines.sort();
    lines
}

#[test]
fn only_listed_origins_are_let_in_whatever_the_endpoint_says() -> Result<()> {
    let generous = "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: https://evil.test\r\n\
                    access-control-allow-credentials: true\r\nAccess-Control-Allow-Methods: TRACE\r\nVary: accept\r\n\
                    Content-Length: 2\r\n\r\nok";
    let origin = RawOrigin::answering(generous)?;
    let annotations = [
        ("enable-cors", "true"),
        ("cors-allow-origin", "https://*.good.test, http://b.test:80, http://a.com.cn"),
        ("cors-allow-methods", "GET, PUT"),
        ("cors-allow-headers", "X-In"),
        ("cors-expose-headers", "X-Out"),
        ("cors-max-age", "60"),
    ];
    let stand = stand_with("", origin.address(), &annotations, &["/"])?;
    let allowed = |origin: &str| {
        vec![
            "access-control-allow-credentials: true".to_owned(),
            "access-control-allow-headers: X-In".to_owned(),
            "access-control-allow-methods: GET, PUT".to_owned(),
            format!("access-control-allow-origin: {origin}"),
            "access-control-expose-headers: X-Out".to_owned(),
            "access-control-max-age: 60".to_owned(),
        ]
    };
    for (origin, is_allowed) in [
        ("https://shop.good.test", true),
        ("http://b.test:80", true),
        ("http://b.test", false),
        ("http://a.com", false),
        ("https://good.test", false),
        ("https://evil.test/.good.test", false),
        ("https://evil.test", false),
        ("null", false),
    ] {
        let mut expected = if is_allowed { allowed(origin) } else { vec![] };
        expected.push("vary: origin".to_owned());
        let headers = [("Origin", origin), ("Access-Control-Request-Method", "PUT")];
        for preflight in [ask(&stand, "OPTIONS", "/", &headers)?, ask_h2(&stand, "OPTIONS", "/", &headers)?] {
            assert_eq!((preflight.status, cors_lines(&preflight)), (204, expected.clone()), "{origin}");
            assert_eq!(preflight.header("content-length"), None);
        }
        expected.insert(expected.len() - 1, "vary: accept".to_owned());
        for response in [ask(&stand, "GET", "/", &headers[..1])?, ask_h2(&stand, "GET", "/", &headers[..1])?] {
            assert_eq!((response.status, cors_lines(&response)), (200, expected.clone()), "{origin}");
        }
    }
    let twice = [("Origin", "https://shop.good.test"), ("Origin", "https://evil.test")];
    assert_eq!(cors_lines(&ask(&stand, "OPTIONS", "/", &twice)?), ["vary: origin"]);
    assert_eq!(cors_lines(&ask(&stand, "GET", "/", &[])?), ["vary: accept", "vary: origin"]);
    Ok(())
}

#[test]
fn where_every_origin_is_allowed_none_is_named_and_no_cookie_asked_for() -> Result<()> {
    let origin = Origin::http("app")?;
    let stand = stand(&origin, &[("enable-cors", "true")], &["/"])?;
    for headers in [&[][..], &[("Origin", "https://anybody.test")]] {
        let preflight = ask(&stand, "OPTIONS", "/", headers)?;
        assert_eq!((preflight.status, preflight.header("access-control-allow-origin").as_deref()), (204, Some("*")));
        assert_eq!(preflight.header("access-control-allow-credentials"), None);
        assert_eq!(preflight.header("vary"), None);
        let response = ask(&stand, "GET", "/", headers)?;
        assert_eq!(values(&response.headers, "access-control-allow-origin"), ["*"]);
        let methods = response.header("access-control-allow-methods").context("methods")?;
        assert_eq!(methods, "GET, PUT, POST, DELETE, PATCH, OPTIONS");
    }
    Ok(())
}

#[test]
fn headers_are_edited_with_what_the_request_has() -> Result<()> {
    let origin = Origin::http("app")?;
    let request = r#"{
        "headers": {"X-Set": "text", "X-Real-IP": "192.0.2.66"},
        "headers_var": {
            "X-Host": "http_host", "X-Name": "host", "X-Uri": "request_uri", "X-Scheme-Seen": "scheme", "X-Client": "remote_addr",
            "X-First": "first_forward", "X-Arg": "arg_q", "X-Cookie": "cookie_id", "X-Head": "http_x_in", "X-Kept": "cookie_none"
        },
        "headers_remove": ["X-Gone"],
        "headers_add": {"X-Add": ["1", "2"]},
        "headers_add_var": {"X-Add": ["request_method"]}
    }"#;
    let response = r#"{"headers": {"Strict-Transport-Security": "max-age=1"}, "headers_add": {"X-R": ["1", "2"]}}"#;
    let annotations =
        [("alb.ingress.cpaas.io/rewrite-request", request), ("alb.ingress.cpaas.io/rewrite-response", response)];
    let stand = stand(&origin, &annotations, &["/"])?;
    let headers = [
        ("Cookie", "id=\"secret\"; other=1"),
        ("X-In", "one"),
        ("X-In", "two"),
        ("X-Gone", "1"),
        ("X-Kept", "kept"),
        ("X-Set", "old"),
        ("X-Forwarded-For", "192.0.2.99"),
        ("X-Real-IP", "192.0.2.99"),
    ];
    for (answer, text) in [
        (ask(&stand, "GET", "/p?Q=a%20b&q=2", &headers)?, "HTTP/1.1"),
        (ask_h2(&stand, "GET", "/p?Q=a%20b&q=2", &headers)?, "HTTP/2"),
    ] {
        let seen = answer.seen()?;
        for (name, expected) in [
            ("x-set", Some("text")),
            ("x-host", Some(HOST)),
            ("x-name", Some(HOST)),
            ("x-uri", Some("/p?Q=a%20b&q=2")),
            ("x-scheme-seen", Some("http")),
            ("x-client", Some("127.0.0.1")),
            ("x-first", Some("")),
            ("x-arg", Some("a%20b")),
            ("x-cookie", Some("secret")),
            ("x-head", Some("one, two")),
            ("x-kept", Some("kept")),
            ("x-gone", None),
            ("x-add", Some("1, 2, GET")),
            ("x-real-ip", Some("127.0.0.1")),
            ("x-forwarded-for", Some("127.0.0.1")),
        ] {
            assert_eq!(seen.header(name).as_deref(), expected, "{text} {name}");
        }
        assert_eq!(answer.header("strict-transport-security").as_deref(), Some("max-age=1"));
        assert_eq!(values(&answer.headers, "x-r"), ["1", "2"]);
    }
    Ok(())
}

#[test]
fn the_first_forwarded_address_is_the_one_that_a_trusted_sender_names() -> Result<()> {
    let origin = Origin::http("app")?;
    let request = r#"{"headers_var": {"X-First": "first_forward", "X-Client": "first_forward_or_remote_addr"}}"#;
    let settings = "clientAddress: {trustedProxies: [127.0.0.1/32], forwardedHeader: X-Forwarded-For}\n";
    let annotations = [("alb.ingress.cpaas.io/rewrite-request", request)];
    let stand = stand_with(settings, origin.address(), &annotations, &["/"])?;
    let seen = ask(&stand, "GET", "/", &[("X-Forwarded-For", "198.51.100.66, 192.0.2.7")])?.seen()?;
    assert_eq!(seen.header("x-first").as_deref(), Some("192.0.2.7"), "what the sender did not verify is not believed");
    assert_eq!(seen.header("x-client").as_deref(), Some("192.0.2.7"));
    let seen = ask(&stand, "GET", "/", &[])?.seen()?;
    assert_eq!((seen.header("x-first").as_deref(), seen.header("x-client").as_deref()), (Some(""), Some("127.0.0.1")));
    Ok(())
}

#[test]
fn a_rule_waits_for_its_endpoint_as_long_as_it_says() -> Result<()> {
    let origin = RawOrigin::start(|conn| {
        conn.read_request()?;
        // Until the other end gives up.
        conn.read_to_end().map(drop)
    })?;
    let annotations = [
        ("proxy-read-timeout", "60"),
        ("alb.ingress.cpaas.io/proxy-read-timeout", "30s"),
        ("index.0-1.alb.ingress.cpaas.io/proxy-read-timeout", "150ms"),
    ];
    let stand = stand_with("retries: {attempts: 1}\n", origin.address(), &annotations, &["/slow", "/quick"])?;
    let answer = ask(&stand, "POST", "/quick", &[("Content-Length", "0")])?;
    assert_eq!((answer.status, answer.header("x-headwater-fault").as_deref()), (504, Some("upstream_timeout")));
    Ok(())
}
