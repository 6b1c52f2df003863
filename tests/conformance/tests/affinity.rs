//! Clients that stay with one endpoint: cookies, hashes, over workers, gateways and backends that come and go.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::http2;
use headwater_testkit::origin::{Origin, RawOrigin};
use headwater_testkit::response::{Response, values};

const HOST: &str = "app.test";

fn origins(names: &[&str]) -> Result<Vec<Origin>> {
    names.iter().map(|name| Origin::http(name)).collect()
}

fn ingress(annotations: &[(&str, &str)]) -> String {
    let annotations: serde_json::Map<String, serde_json::Value> = annotations
        .iter()
        .map(|(name, value)| {
            let prefix = if name.contains('/') { "" } else { "nginx.ingress.kubernetes.io/" };
            (format!("{prefix}{name}"), (*value).into())
        })
        .collect();
    let backend = serde_json::json!({"service": {"name": "app", "port": {"number": 80}}});
    let path = serde_json::json!({"path": "/", "pathType": "Prefix", "backend": backend});
    serde_json::json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "app", "namespace": "test", "annotations": annotations},
        "spec": {"rules": [{"host": HOST, "http": {"paths": [path]}}]},
    })
    .to_string()
}

fn stand(settings: &str, annotations: &[(&str, &str)], endpoints: &[SocketAddr]) -> Result<Stand> {
    Stand::start(&[
        ("gateway.yaml", Stand::gateway(settings)),
        ("ingress.yaml", ingress(annotations)),
        ("service.yaml", Stand::service("app", "", endpoints)),
    ])
}

fn addresses(origins: &[Origin]) -> Vec<SocketAddr> {
    origins.iter().map(Origin::address).collect()
}

/// On a connection of its own, so that any worker may serve it; `lines` are whole header lines.
fn ask(stand: &Stand, target: &str, lines: &str) -> Result<Response> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n");
    RawClient::connect(stand.address("http"))?.request(request)
}

fn name(response: &Response) -> Result<String> {
    Ok(response.seen()?.name().to_owned())
}

/// The cookie that a response sets, as `name=value`.
fn pair(response: &Response) -> Result<String> {
    let cookie = response.header("set-cookie").context("no cookie was set")?;
    Ok(cookie.split(';').next().unwrap_or_default().to_owned())
}

#[test]
fn a_cookie_keeps_a_session_with_its_endpoint_on_every_worker_and_gateway() -> Result<()> {
    let origins = origins(&["a", "b", "c", "d"])?;
    let annotations = [("affinity", "cookie"), ("session-cookie-name", "route")];
    let stand = [
        stand("", &annotations, &addresses(&origins))?,
        stand("", &annotations, &addresses(&origins).into_iter().rev().collect::<Vec<_>>())?,
    ];
    let mut homes = BTreeSet::new();
    for _ in 0..16 {
        let first = ask(&stand[0], "/", "")?;
        let (home, cookie) = (name(&first)?, pair(&first)?);
        let (_, value) = cookie.split_once('=').context("a pair")?;
        assert_eq!(value.len(), 32, "{cookie}");
        for stand in stand.iter().cycle().take(12) {
            let next = ask(stand, "/", &format!("Cookie: x=1; {cookie}\r\n"))?;
            assert_eq!((name(&next)?, next.header("set-cookie")), (home.clone(), None));
        }
        let over_h2 = http2::Request::new("GET", HOST, "/").header("cookie", &cookie);
        let next = http2::request(&Dial::to(stand[1].address("http")), over_h2)?;
        assert_eq!((name(&next)?, next.header("set-cookie")), (home.clone(), None));
        homes.insert(home);
    }
    assert!(homes.len() > 1, "new sessions are spread: {homes:?}");
    Ok(())
}

#[test]
fn a_session_outlives_other_endpoints_and_moves_when_its_own_is_gone() -> Result<()> {
    let origins = origins(&["a", "b", "c"])?;
    let all = addresses(&origins);
    let stand = stand("", &[("affinity", "cookie")], &all[..2])?;
    let first = ask(&stand, "/", "")?;
    let (home, cookie) = (name(&first)?, pair(&first)?);
    assert!(cookie.starts_with("INGRESSCOOKIE="), "{cookie}");
    let own = usize::from(home == "b");
    // One comes, the other goes.
    stand.change(|dir| dir.write("service.yaml", &Stand::service("app", "", &[all[2], all[own]])))?;
    for _ in 0..8 {
        let next = ask(&stand, "/", &format!("Cookie: {cookie}\r\n"))?;
        assert_eq!((name(&next)?, next.header("set-cookie")), (home.clone(), None));
    }
    stand.change(|dir| dir.write("service.yaml", &Stand::service("app", "", &[all[2]])))?;
    let moved = ask(&stand, "/", &format!("Cookie: {cookie}\r\n"))?;
    assert_eq!(name(&moved)?, "c");
    assert_ne!(pair(&moved)?, cookie);
    let stays = ask(&stand, "/", &format!("Cookie: {}\r\n", pair(&moved)?))?;
    assert_eq!((name(&stays)?, stays.header("set-cookie")), ("c".to_owned(), None));
    Ok(())
}

#[test]
fn a_session_whose_endpoint_fails_is_served_by_another_and_moves_only_if_told_to() -> Result<()> {
    for (change, moves) in [("false", false), ("true", true)] {
        let steady = Origin::http("steady")?;
        let failing = RawOrigin::start(|conn| {
            conn.read_request()?;
            if conn.index() == 0 {
                use std::io::Write;
                return conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
            }
            conn.reset_on_close()
        })?;
        let annotations = [("affinity", "cookie"), ("session-cookie-change-on-failure", change)];
        // Alone at first, so that the session is its own.
        let stand = stand("passiveHealth: {consecutiveFailures: 0}", &annotations, &[failing.address()])?;
        let cookie = pair(&ask(&stand, "/", "")?)?;
        let both = [failing.address(), steady.address()];
        stand.change(|dir| dir.write("service.yaml", &Stand::service("app", "", &both)))?;
        let next = ask(&stand, "/", &format!("Cookie: {cookie}\r\n"))?;
        assert_eq!(name(&next)?, "steady", "{change}");
        assert_eq!(next.header("set-cookie").is_some(), moves, "{change}");
    }
    Ok(())
}

#[test]
fn a_cookie_is_written_as_the_annotations_say() -> Result<()> {
    let origins = origins(&["a"])?;
    let all = [
        ("affinity", "cookie"),
        ("session-cookie-name", "sid"),
        ("session-cookie-path", "/shop"),
        ("session-cookie-domain", "app.test"),
        ("session-cookie-max-age", "172800"),
        ("session-cookie-secure", "true"),
        ("session-cookie-samesite", "Strict"),
    ];
    for (annotations, expected) in [
        (&all[..], "; Path=/shop; Domain=app.test; Max-Age=172800; Secure; HttpOnly; SameSite=Strict"),
        (&all[..1], "; Path=/; HttpOnly"),
    ] {
        let stand = stand("", annotations, &addresses(&origins))?;
        let response = ask(&stand, "/", "")?;
        let line = response.header("set-cookie").context("no cookie was set")?;
        assert_eq!(&line[line.find(';').unwrap_or(line.len())..], expected);
    }
    let stand = stand("", &[("affinity", "cookie"), ("session-cookie-expires", "60")], &addresses(&origins))?;
    let line = ask(&stand, "/", "")?.header("set-cookie").context("no cookie was set")?;
    assert!(line.contains("; Expires=") && line.contains(" GMT"), "{line}");
    Ok(())
}

#[test]
fn the_cookie_of_an_application_is_hashed_and_never_replaced() -> Result<()> {
    let policy = [("alb.ingress.cpaas.io/session-affinity-policy", "cookie")];
    let origins = origins(&["a", "b", "c", "d"])?;
    let stand_of_many = stand("", &policy, &addresses(&origins))?;
    let mut homes = BTreeSet::new();
    for session in 0..24 {
        let cookie = format!("Cookie: jsessionid={session}-of-the-application\r\n");
        let first = ask(&stand_of_many, "/", &cookie)?;
        let home = name(&first)?;
        assert_eq!(first.header("set-cookie"), None);
        for _ in 0..3 {
            assert_eq!(name(&ask(&stand_of_many, "/", &cookie)?)?, home);
        }
        homes.insert(home);
    }
    assert!(homes.len() > 1, "{homes:?}");
    assert!(pair(&ask(&stand_of_many, "/", "")?)?.starts_with("JSESSIONID="));
    let own = RawOrigin::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: JSESSIONID=mine; Path=/\r\nSet-Cookie: other=1\r\n\r\n",
    )?;
    let stand = stand("", &policy, &[own.address()])?;
    let response = ask(&stand, "/", "")?;
    assert_eq!(values(&response.headers, "set-cookie"), ["JSESSIONID=mine; Path=/", "other=1"]);
    Ok(())
}

#[test]
fn equal_keys_go_to_one_endpoint_whatever_they_are_made_of() -> Result<()> {
    let origins = origins(&["a", "b", "c", "d"])?;
    let policy = "alb.ingress.cpaas.io/session-affinity-policy";
    let attribute = "alb.ingress.cpaas.io/session-affinity-attribute";
    // Requests of one row share a key, and rows differ in theirs.
    type Row = (&'static str, fn(usize) -> (String, String));
    let rows: [(&[(&str, &str)], Row); 4] = [
        (&[("upstream-hash-by", "$request_uri")], ("uri", |n| (format!("/p{n}?q=1"), String::new()))),
        (
            &[("upstream-hash-by", "$uri-$http_x_user")],
            ("text", |n| (format!("/?n={n}"), format!("X-User: {}\r\n", n % 8))),
        ),
        (&[("upstream-hash-by", "$arg_user")], ("argument", |n| (format!("/?user={n}&x=1"), String::new()))),
        (&[(policy, "header"), (attribute, "X-User")], ("header", |n| ("/".to_owned(), format!("x-user: {n}\r\n")))),
    ];
    for (annotations, (what, request)) in rows {
        let stand = stand("", annotations, &addresses(&origins))?;
        let mut homes = BTreeSet::new();
        for number in 0..16 {
            let (target, lines) = request(number);
            let home = name(&ask(&stand, &target, &lines)?)?;
            for _ in 0..3 {
                assert_eq!(name(&ask(&stand, &target, &lines)?)?, home, "{what} {number}");
            }
            homes.insert(home);
        }
        assert!(homes.len() > 1, "{what}: {homes:?}");
    }
    // Nobody chooses an endpoint by saying who he is.
    let stand = stand("", &[(policy, "sip-hash")], &addresses(&origins))?;
    let homes: BTreeSet<String> = (0..16)
        .map(|number| name(&ask(&stand, "/", &format!("X-Forwarded-For: 198.51.100.{number}\r\n"))?))
        .collect::<Result<_>>()?;
    assert_eq!(homes.len(), 1, "{homes:?}");
    Ok(())
}
