//! Who may come in: passwords and auth servers, over sockets.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::http2;
use headwater_testkit::origin::{Origin, RawOrigin};
use headwater_testkit::response::{Response, values};

const PREFIX: &str = "nginx.ingress.kubernetes.io";
/// `bar`, by several programs.
const BAR: [&str; 5] = [
    "$apr1$saltsalt$HZb7DO9JU4769Nu3n58bv.",
    "$5$saltsalt$/CnP1OkUPI/YYxBjMGRYh.bV5VNRz1I7OKD4GRMrHm4",
    "$6$saltsalt$13ZWs86TCGWlKvPnoiZ5uGRk0I6FWQWsoBjy.0NUb9IUt/pnMWcsVBWPeXm2zbrm1/3NvnFsJFn2dIliX8SAJ/",
    "$2y$05$abcdefghijklmnopqrstuuUq7qXkDOZJ5Q8HA9wCOH0FErWp6q0b6",
    "{SHA}Ys23Ag/5IOWqZCw9QGaVDdHwH00=",
];
/// `foo:bar` in base64.
const FOO_BAR: &str = "Basic Zm9vOmJhcg==";

/// An Ingress for `app.test` with annotations, its Service, and more manifests.
fn stand(app: SocketAddr, annotations: &[(&str, &str)], more: &str) -> Result<Stand> {
    Stand::start(&[("gateway.yaml", Stand::gateway("")), ("app.yaml", manifests(app, annotations, more))])
}

fn manifests(app: SocketAddr, annotations: &[(&str, &str)], more: &str) -> String {
    let annotations: String =
        annotations.iter().map(|(name, value)| format!("    {PREFIX}/{name}: {value:?}\n")).collect();
    let plain = Stand::app("app", "app.test", &[app]);
    let annotated = plain.replacen(
        "metadata:\n  name: app\n  namespace: test\n",
        &format!("metadata:\n  name: app\n  namespace: test\n  annotations:\n{annotations}"),
        1,
    );
    format!("{annotated}{more}")
}

/// Manifest of a Secret, or of a ConfigMap, `test/NAME`.
fn object(kind: &str, name: &str, pairs: &[(&str, String)]) -> String {
    let field = if kind == "Secret" { "stringData" } else { "data" };
    let pairs: String = pairs.iter().map(|(key, value)| format!("  {key}: {value:?}\n")).collect();
    format!("---\napiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: test}}\n{field}:\n{pairs}")
}

fn get(stand: &Stand, target: &str, lines: &str) -> Result<Response> {
    let head = format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n{lines}\r\n");
    RawClient::connect(stand.address("http"))?.request(head)
}

fn fault(response: &Response) -> (u16, String) {
    (response.status, response.header("x-headwater-fault").unwrap_or_default())
}

fn refused(status: u16, word: &str) -> (u16, String) {
    (status, word.to_owned())
}

/// An auth server that says the same to everybody; `lines` end with CR LF each.
fn server(status: &str, lines: &str) -> Result<RawOrigin> {
    RawOrigin::answering(format!("HTTP/1.1 {status}\r\n{lines}content-length: 0\r\n\r\n"))
}

fn url(server: &RawOrigin) -> String {
    format!("http://{}/check", server.address())
}

/// The first question that the server was asked, as text.
fn question(server: &RawOrigin) -> Result<String> {
    let record = server.wait_for(0, |record| record.bytes.ends_with(b"\r\n\r\n"))?;
    Ok(String::from_utf8(record.bytes)?)
}

/// Values of a header of a question.
fn asked<'a>(question: &'a str, name: &str) -> Vec<&'a str> {
    let lines = question.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

#[test]
fn a_password_lets_in_whoever_knows_it() -> Result<()> {
    let app = Origin::http("app")?;
    for hash in BAR {
        let users = object("Secret", "users", &[("auth", format!("other:{}\nfoo:{hash}\n", BAR[4]))]);
        let annotations = [("auth-type", "basic"), ("auth-secret", "users"), ("auth-realm", "a realm")];
        let stand = stand(app.address(), &annotations, &users)?;
        let wrong = [
            String::new(),
            "Authorization: Basic Zm9vOmJhego=\r\n".to_owned(),
            "Authorization: Basic bm9ib2R5OmJhcg==\r\n".to_owned(),
            "Authorization: Bearer Zm9vOmJhcg==\r\n".to_owned(),
            "Authorization: Basic !\r\n".to_owned(),
            format!("Authorization: {FOO_BAR}\r\nAuthorization: {FOO_BAR}\r\n"),
        ];
        for lines in wrong {
            let response = get(&stand, "/", &lines)?;
            assert_eq!(fault(&response), refused(401, "auth_required"), "{hash} {lines}");
            assert_eq!(response.header("www-authenticate").as_deref(), Some("Basic realm=\"a realm\""));
        }
        // The second time it is remembered, if by this worker.
        for _ in 0..4 {
            let response = get(&stand, "/", &format!("Authorization: {FOO_BAR}\r\n"))?;
            assert_eq!(response.seen()?.name(), "app", "{hash}");
        }
        let request = http2::Request::get("app.test", "/");
        assert_eq!(http2::request(&Dial::to(stand.address("http")), request)?.status, 401, "{hash} over HTTP/2");
    }
    Ok(())
}

#[test]
fn a_secret_counts_as_it_is_now() -> Result<()> {
    let app = Origin::http("app")?;
    let annotations = [("auth-type", "basic"), ("auth-secret", "users"), ("auth-secret-type", "auth-map")];
    let users = |user: &str| object("Secret", "users", &[(user, BAR[0].to_owned())]);
    let stand = stand(app.address(), &annotations, &users("foo"))?;
    let status = || Ok::<_, anyhow::Error>(get(&stand, "/", &format!("Authorization: {FOO_BAR}\r\n"))?.status);
    assert_eq!(status()?, 200);
    stand.change(|dir| dir.write("app.yaml", &manifests(app.address(), &annotations, &users("other"))))?;
    assert_eq!(status()?, 401);
    stand.change(|dir| dir.write("app.yaml", &manifests(app.address(), &annotations, "")))?;
    assert_eq!(status()?, 503);
    let findings = stand.findings();
    let told = findings.iter().find(|finding| finding.reason == "MissingReference").context("a finding")?;
    assert!(told.message.contains("Secret test/users"), "{told}");
    stand.change(|dir| dir.write("app.yaml", &manifests(app.address(), &annotations, &users("foo"))))?;
    assert_eq!(status()?, 200);
    Ok(())
}

#[test]
fn an_auth_server_is_told_who_asks_and_for_what() -> Result<()> {
    let app = Origin::http("app")?;
    let auth = server("200 OK", "X-User: alice\r\nX-User: bob\r\nX-Hidden: h\r\n")?;
    let headers = object(
        "ConfigMap",
        "headers",
        &[
            ("X-Time", "t=${msec}".to_owned()),
            ("X-Host", "$http_host".to_owned()),
            ("X-Mixed", "a-$request_method-b".to_owned()),
            ("X-Absent", "$http_x_gone".to_owned()),
        ],
    );
    let url = format!("{}?u=$escaped_request_uri", url(&auth));
    let annotations = [
        ("auth-url", url.as_str()),
        ("auth-method", "POST"),
        ("auth-response-headers", "X-User, X-Role"),
        ("auth-proxy-set-headers", "headers"),
        ("auth-request-redirect", "https://$host/back"),
    ];
    let stand = stand(app.address(), &annotations, &headers)?;
    let forged = "X-User: mallory\r\nx_user: mallory\r\nX-Role: admin\r\nX-Kept: k\r\nX-Real-IP: 192.0.2.9\r\n\
                  X-Forwarded-For: 192.0.2.9\r\nX-Original-URI: /public\r\nX_Original_Method: OPTIONS\r\n\
                  X-Auth-Request-Redirect: http://evil.test/\r\nX-Time: never\r\nX-Absent: none\r\nIf-None-Match: x\r\n\
                  Cookie: a=1\r\nConnection: X-Kept\r\n";
    let body = "PUT /secret?x=1 HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\n";
    let response = RawClient::connect(stand.address("http"))?.request(format!("{body}{forged}\r\nbody"))?;
    assert_eq!(response.status, 200, "{response:?}");
    let seen = response.seen()?;
    assert_eq!(values(&seen.headers(), "x-user"), ["alice", "bob"]);
    for gone in ["x_user", "x-role", "x-hidden", "x-host"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }

    let question = question(&auth)?;
    assert!(question.starts_with("POST /check?u=%2Fsecret%3Fx%3D1 HTTP/1.1\r\n"), "{question}");
    for (name, expected) in [
        ("host", vec![auth.address().to_string()]),
        ("x-real-ip", vec!["127.0.0.1".to_owned()]),
        ("x-forwarded-for", vec!["127.0.0.1".to_owned()]),
        ("x-original-uri", vec!["/secret?x=1".to_owned()]),
        ("x-original-url", vec!["http://app.test/secret?x=1".to_owned()]),
        ("x-original-method", vec!["PUT".to_owned()]),
        ("x_original_method", vec![]),
        ("x-auth-request-redirect", vec!["https://app.test/back".to_owned()]),
        ("x-scheme", vec!["http".to_owned()]),
        ("x-host", vec!["app.test".to_owned()]),
        ("x-mixed", vec!["a-PUT-b".to_owned()]),
        ("x-absent", vec![]),
        ("x-kept", vec![]),
        ("cookie", vec!["a=1".to_owned()]),
        ("if-none-match", vec![]),
        ("content-length", vec!["0".to_owned()]),
        ("transfer-encoding", vec![]),
        ("x-user", vec!["mallory".to_owned()]),
    ] {
        assert_eq!(asked(&question, name), expected, "{name} in {question}");
    }
    assert!(asked(&question, "x-time")[0].starts_with("t=1"), "{question}");
    Ok(())
}

#[test]
fn a_trailer_is_no_way_to_speak_for_the_server() -> Result<()> {
    let app = Origin::http("app")?;
    let auth = server("200 OK", "X-User: alice\r\n")?;
    let stand = stand(app.address(), &[("auth-url", &url(&auth)), ("auth-response-headers", "X-User,X-Role")], "")?;
    let head = "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Role, X-Sum\r\n\r\n";
    let body = "2\r\nhi\r\n0\r\nX-Role: admin\r\nx_user: mallory\r\nX-Sum: 1\r\n\r\n";
    let seen = RawClient::connect(stand.address("http"))?.request(format!("{head}{body}"))?.seen()?;
    assert_eq!(seen.header("x-user").as_deref(), Some("alice"));
    let names: Vec<String> = seen.trailers().into_iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    assert_eq!(names, ["x-sum"]);
    Ok(())
}

#[test]
fn only_yes_is_yes() -> Result<()> {
    let app = Origin::http("app")?;
    for (status, lines, expected) in [
        ("200 OK", "", refused(200, "")),
        ("204 No Content", "", refused(200, "")),
        ("299 Fine", "", refused(200, "")),
        ("401 Unauthorized", "WWW-Authenticate: Bearer realm=\"x\"\r\n", refused(401, "auth_required")),
        ("403 Forbidden", "", refused(403, "auth_forbidden")),
        ("302 Found", "Location: /\r\n", refused(500, "auth_answer")),
        ("304 Not Modified", "", refused(500, "auth_answer")),
        ("404 Not Found", "", refused(500, "auth_answer")),
        ("503 Busy", "", refused(500, "auth_answer")),
    ] {
        let auth = server(status, &format!("{lines}Set-Cookie: auth=1\r\n"))?;
        let stand = stand(app.address(), &[("auth-url", &url(&auth))], "")?;
        let response = get(&stand, "/", "")?;
        assert_eq!(fault(&response), expected, "{status}");
        let challenge = (response.status == 401).then(|| "Bearer realm=\"x\"".to_owned());
        assert_eq!(response.header("www-authenticate"), challenge, "{status}");
        let cookie = (response.status == 200).then(|| "auth=1".to_owned());
        assert_eq!(response.header("set-cookie"), cookie, "{status}");
    }
    let garbage = RawOrigin::answering("garbage\r\n\r\n")?;
    let hangup = RawOrigin::start(|_| Ok(()))?;
    let closed = {
        let gone = RawOrigin::start(|_| Ok(()))?;
        url(&gone)
    };
    for url in [url(&garbage), url(&hangup), closed, "http://nobody.invalid/".to_owned()] {
        let stand = stand(app.address(), &[("auth-url", &url)], "")?;
        assert_eq!(fault(&get(&stand, "/", "")?), refused(500, "auth_unreachable"), "{url}");
    }
    Ok(())
}

#[test]
fn a_server_without_a_certificate_that_is_believed_lets_nobody_in() -> Result<()> {
    let authority = headwater_testkit::certs::Authority::new("nobody")?;
    let app = Origin::http("app")?;
    let auth = Origin::https("auth", &authority.leaf(&["localhost"])?)?;
    let url = format!("https://localhost:{}/", auth.address().port());
    let stand = stand(app.address(), &[("auth-url", &url)], "")?;
    assert_eq!(fault(&get(&stand, "/", "")?), refused(500, "auth_unreachable"));
    Ok(())
}

#[test]
fn who_is_not_known_is_sent_to_sign_in() -> Result<()> {
    let app = Origin::http("app")?;
    let auth = server("401 Unauthorized", "WWW-Authenticate: Basic\r\nSet-Cookie: auth=1\r\n")?;
    for (signin, parameter, always, expected) in [
        (
            "http://$host/auth/start?rd=$escaped_request_uri&xx=bb",
            "",
            false,
            "http://app.test/auth/start?rd=%2Fabc%3Fq&xx=bb",
        ),
        ("http://$host/auth/start?xx=bb", "", false, "http://app.test/auth/start?xx=bb&rd=http://app.test%2Fabc%3Fq"),
        ("http://sso.test/start", "next", true, "http://sso.test/start?next=http://app.test%2Fabc%3Fq"),
    ] {
        let url = url(&auth);
        let mut annotations = vec![("auth-url", url.as_str()), ("auth-signin", signin)];
        if !parameter.is_empty() {
            annotations.push(("auth-signin-redirect-param", parameter));
        }
        if always {
            annotations.push(("auth-always-set-cookie", "true"));
        }
        let stand = stand(app.address(), &annotations, "")?;
        let response = get(&stand, "/abc?q", "")?;
        assert_eq!(response.status, 302, "{signin}");
        assert_eq!(response.header("location").as_deref(), Some(expected));
        assert_eq!(response.header("x-headwater-fault"), None);
        assert_eq!(response.header("www-authenticate"), None);
        assert_eq!(response.header("set-cookie"), always.then(|| "auth=1".to_owned()));
    }
    Ok(())
}

#[test]
fn cookies_of_the_server_stand_behind_those_of_the_app() -> Result<()> {
    let yes = server("200 OK", "Set-Cookie: id=auth\r\nSet-Cookie: more=1\r\n")?;
    let no = server("403 Forbidden", "Set-Cookie: id=auth\r\n")?;
    for (status, server, always, expected) in [
        ("200 OK", &yes, false, vec!["id=app", "id=auth", "more=1"]),
        ("302 Found", &yes, false, vec!["id=app", "id=auth", "more=1"]),
        ("500 Broken", &yes, false, vec!["id=app"]),
        ("500 Broken", &yes, true, vec!["id=app", "id=auth", "more=1"]),
        ("200 OK", &no, false, vec![]),
        ("200 OK", &no, true, vec!["id=auth"]),
    ] {
        let app =
            RawOrigin::answering(format!("HTTP/1.1 {status}\r\nSet-Cookie: id=app\r\ncontent-length: 0\r\n\r\n"))?;
        let url = url(server);
        let always_text = always.to_string();
        let annotations = [("auth-url", url.as_str()), ("auth-always-set-cookie", always_text.as_str())];
        let stand = stand(app.address(), &annotations, "")?;
        let response = get(&stand, "/", "")?;
        assert_eq!(values(&response.headers, "set-cookie"), expected, "{status} {always}");
        let two = http2::request(&Dial::to(stand.address("http")), http2::Request::get("app.test", "/"))?;
        assert_eq!(values(&two.headers, "set-cookie"), expected, "{status} {always} over HTTP/2");
    }
    Ok(())
}

#[test]
fn a_connection_to_the_server_is_used_again_and_its_end_is_survived() -> Result<()> {
    let app = Origin::http("app")?;
    // Two questions on each connection, then it ends.
    let auth = RawOrigin::start(|conn| {
        for _ in 0..2 {
            if conn.read_request()?.is_none() {
                break;
            }
            conn.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
        }
        Ok(())
    })?;
    let stand = stand(app.address(), &[("auth-url", &url(&auth))], "")?;
    let mut client = RawClient::connect(stand.address("http"))?;
    for _ in 0..10 {
        assert_eq!(client.request("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")?.status, 200);
    }
    let connections = auth.connections().len();
    assert!((5..10).contains(&connections), "{connections}");
    Ok(())
}

#[test]
fn the_server_and_the_password_must_both_agree() -> Result<()> {
    let app = Origin::http("app")?;
    let users = object("Secret", "users", &[("auth", format!("foo:{}", BAR[4]))]);
    for (status, lines, expected) in [("200 OK", "", 401), ("200 OK", FOO_BAR, 200), ("403 Forbidden", FOO_BAR, 403)] {
        let auth = server(status, "")?;
        let annotations = [("auth-url", url(&auth)), ("auth-type", "basic".into()), ("auth-secret", "users".into())];
        let annotations = annotations.each_ref().map(|(name, value)| (*name, value.as_str()));
        let stand = stand(app.address(), &annotations, &users)?;
        let lines = if lines.is_empty() { String::new() } else { format!("Authorization: {lines}\r\n") };
        assert_eq!(get(&stand, "/", &lines)?.status, expected, "{status} {lines}");
    }
    Ok(())
}

#[test]
fn what_a_client_sends_cannot_bend_the_question() -> Result<()> {
    let app = Origin::http("app")?;
    let auth = server("200 OK", "")?;
    let url = format!("{}?u=$http_x_user&c=$cookie_c", url(&auth));
    let stand = stand(app.address(), &[("auth-url", &url)], "")?;
    let fine = "X-User: a%20b\r\nCookie: c=1\r\n";
    for (lines, expected) in [
        (fine, refused(200, "")),
        ("X-User: a HTTP/1.1\r\nCookie: c=1\r\n", refused(500, "auth_request")),
        ("X-User: a#b\r\nCookie: c=1\r\n", refused(500, "auth_request")),
        ("X-User: a\r\n", refused(500, "auth_request")),
    ] {
        assert_eq!(fault(&get(&stand, "/", lines)?), expected, "{lines}");
    }
    assert_eq!(auth.connections().len(), 1, "nobody was asked but for the first");
    Ok(())
}

#[test]
fn an_upload_waits_for_the_servers_answer_and_then_arrives_whole() -> Result<()> {
    let app = Origin::http("app")?;
    let (yes, no) = (server("200 OK", "")?, server("403 Forbidden", "")?);
    let body = "x".repeat(300_000);
    let head = format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n", body.len());
    let stand_of = |server: &RawOrigin| stand(app.address(), &[("auth-url", &url(server))], "");
    let allowed = stand_of(&yes)?;
    let response = RawClient::connect(allowed.address("http"))?.request(format!("{head}{body}"))?;
    assert_eq!(response.status, 200);
    let denied = stand_of(&no)?;
    let mut client = RawClient::connect(denied.address("http"))?;
    client.send(&head)?;
    assert_eq!(fault(&client.read_response()?), refused(403, "auth_forbidden"), "before anything was uploaded");
    Ok(())
}
