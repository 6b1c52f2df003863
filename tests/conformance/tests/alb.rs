//! ALB2s, Frontends and Rules of Alauda's ALB over sockets: the examples of docs/alb.md, and ports that clash.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::origin::Origin;
use headwater_testkit::response::Response;

/// Files of examples/alb, with ports that are free and the endpoint that is there.
struct Examples {
    files: Vec<(String, String)>,
    http: u16,
}

/// A port that nobody listens at.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("[::]:0")?.local_addr()?.port())
}

fn examples(app: SocketAddr) -> Result<Examples> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/alb");
    let (http, tcp) = (free_port()?, free_port()?);
    let mut files = Vec::new();
    for name in ["app.yaml", "alb.yaml", "rules.yaml"] {
        let text = std::fs::read_to_string(directory.join(name)).with_context(|| name.to_owned())?;
        let text = text
            .replace("port: 8080\n", &format!("port: {http}\n"))
            .replace("port: 8081\n", &format!("port: {tcp}\n"))
            .replace("port: 9000\n", &format!("port: {}\n", app.port()));
        files.push((name.to_owned(), text));
    }
    Ok(Examples { files, http })
}

impl Examples {
    fn serve(&self) -> Result<Stand> {
        let files: Vec<(&str, String)> = self.files.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
        Stand::start(&files)
    }
}

/// `headers` are whole lines.
fn ask(stand: &Stand, method: &str, host: &str, path: &str, headers: &[&str]) -> Result<Response> {
    let mut client = RawClient::connect(stand.address("alb-demo-08080"))?;
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n"))?;
    client.read_response_to(method)
}

#[test]
fn the_examples_do_what_the_manual_says() -> Result<()> {
    let origin = Origin::http("hello-world")?;
    let stand = examples(origin.address())?.serve()?;
    let worth =
        |finding: &&headwater_model::finding::Finding| finding.severity > headwater_model::finding::Severity::Info;
    assert_eq!(
        stand.findings().iter().filter(worth).map(ToString::to_string).collect::<Vec<_>>(),
        Vec::<String>::new()
    );
    let target = |response: &Response| -> Result<String> { Ok(response.seen()?.text("target").to_owned()) };

    // What no Rule takes is the default backend's.
    assert_eq!(target(&ask(&stand, "GET", "a.test", "/else?x=1", &[])?)?, "/else?x=1");

    // Rewrite: the first match of the base is replaced, and the query stays.
    for (asked, expected) in [("/prefix-x/abc?q=1", "/abc?q=1"), ("/prefix-x", "/"), ("/prefix-y/abc", "/prefix-y/abc")]
    {
        assert_eq!(target(&ask(&stand, "GET", "a.test", asked, &[])?)?, expected, "{asked}");
    }

    // Redirect.
    let moved = ask(&stand, "GET", "a.test", "/old/x", &[])?;
    assert_eq!((moved.status, moved.header("location").as_deref()), (301, Some("http://a.test/new/x")));

    // Headers, both ways; CORS for one origin.
    let headers = ["Cookie: auth_token=abc", "Origin: https://app.example.com"];
    let edited = ask(&stand, "GET", "headers.example.com", "/", &headers)?;
    let seen = edited.seen()?;
    assert_eq!(seen.header("x-my-host").as_deref(), Some("headers.example.com"));
    assert_eq!(seen.header("authorization").as_deref(), Some("abc"));
    assert_eq!(
        edited.header("strict-transport-security").as_deref(),
        Some("max-age=63072000; includeSubDomains; preload")
    );
    assert_eq!(edited.header("access-control-allow-origin").as_deref(), Some("https://app.example.com"));
    let preflight = ask(&stand, "OPTIONS", "headers.example.com", "/", &["Origin: https://app.example.com"])?;
    assert_eq!(preflight.status, 204);
    let foreign = ask(&stand, "GET", "headers.example.com", "/", &["Origin: https://app.example.com.evil.test"])?;
    assert_eq!(foreign.header("access-control-allow-origin"), None);

    // foo:bar
    for (headers, status) in
        [(&["Authorization: Basic Zm9vOmJhcg=="][..], 200), (&["Authorization: Basic XXXXOmJhcg=="], 401), (&[], 401)]
    {
        assert_eq!(ask(&stand, "GET", "a.test", "/app-file", headers)?.status, status, "{headers:?}");
    }

    // Every term has to hold.
    let all = ["LOCATION: east-2", "Cookie: uid=1", "Content-Length: 0"];
    for (method, host, path, headers, matches) in [
        ("POST", "x.app.com", "/app-a?group=vip", &all[..], true),
        ("POST", "x.app.com", "/app-b/c?group=vip", &all[..], true),
        ("GET", "x.app.com", "/app-a?group=vip", &all[..2], false),
        ("POST", "app.com", "/app-a?group=vip", &all[..], false),
        ("POST", "x.app.com", "/app-c?group=vip", &all[..], false),
        ("POST", "x.app.com", "/app-a?group=vip&group=vip", &all[..], false),
        ("POST", "x.app.com", "/app-a?group=vip", &["LOCATION: west", "Cookie: uid=1", "Content-Length: 0"], false),
        ("POST", "x.app.com", "/app-a?group=vip", &["LOCATION: east-1", "Content-Length: 0"], false),
    ] {
        let response = ask(&stand, method, host, path, headers)?;
        let expected = if matches { "vip.app.internal" } else { host };
        assert_eq!(response.seen()?.text("host"), expected, "{method} {host} {path} {headers:?}");
    }
    Ok(())
}

#[test]
fn nobody_is_believed_about_the_client_at_a_port_of_an_alb() -> Result<()> {
    let origin = Origin::http("hello-world")?;
    let stand = examples(origin.address())?.serve()?;
    let forged = ask(&stand, "GET", "a.test", "/", &["X-Forwarded-For: 203.0.113.9", "X-Real-IP: 203.0.113.9"])?;
    let seen = forged.seen()?;
    assert_eq!(seen.header("x-real-ip").as_deref(), Some("127.0.0.1"));
    assert!(!seen.header("x-forwarded-for").unwrap_or_default().contains("203.0.113.9"), "{seen:?}");
    Ok(())
}

#[test]
fn a_rule_comes_and_goes_while_the_port_stays_open() -> Result<()> {
    let origin = Origin::http("hello-world")?;
    let examples = examples(origin.address())?;
    let stand = examples.serve()?;
    let port = stand.port("alb-demo-08080");
    assert_eq!(port, examples.http);
    let status = || -> Result<u16> { Ok(ask(&stand, "GET", "a.test", "/app-file", &[])?.status) };
    assert_eq!(status()?, 401);
    let rules = &examples.files[2].1;
    let without = rules.replace("secret: default/auth-file", "secret: default/gone");
    stand.change(|dir| dir.write("rules.yaml", &without))?;
    assert!(status()? >= 500, "a Secret that is missing lets nobody in");
    stand.change(|dir| dir.write("rules.yaml", "# none\n"))?;
    assert_eq!(status()?, 200, "the default backend's");
    assert_eq!(stand.port("alb-demo-08080"), port);
    Ok(())
}

/// The manifests of a fenced block of docs/alb.md that has this text in it.
fn block(with: &str) -> Result<String> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/alb.md"))?;
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let found = blocks.into_iter().find(|block| block.contains(with)).context("no such block")?;
    Ok(found.to_owned())
}

#[test]
fn an_ingress_of_an_alb_asks_for_the_password_of_the_manual() -> Result<()> {
    let origin = Origin::http("app-server")?;
    let port = free_port()?;
    let manifests =
        block("name: auth-file")?.replace("replicas: 1\n", &format!("replicas: 1\n    ingressHTTPPort: {port}\n"));
    let service =
        Stand::service("app-server", "", &[origin.address()]).replace("namespace: test", "namespace: default");
    let stand = Stand::start(&[("auth.yaml", manifests), ("service.yaml", service)])?;
    let ask = |path: &str, headers: &str| -> Result<u16> {
        let mut client = RawClient::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: any.test\r\n{headers}\r\n"))?;
        Ok(client.read_response_to("GET")?.status)
    };
    for (path, headers, status) in [
        ("/app-file", "Authorization: Basic Zm9vOmJhcg==\r\n", 200),
        ("/app-file/x", "Authorization: Basic Zm9vOmJhcg==\r\n", 200),
        ("/app-file", "Authorization: Basic XXXXOmJhcg==\r\n", 401),
        ("/app-file", "", 401),
        ("/else", "", 404),
    ] {
        assert_eq!(ask(path, headers)?, status, "{path} {headers}");
    }
    assert_eq!(stand.applied().listeners.len(), 1, "only the port that is needed is opened");
    Ok(())
}

#[test]
fn settings_that_an_alb_names_say_whom_its_ports_believe() -> Result<()> {
    let origin = Origin::http("hello-world")?;
    let mut examples = examples(origin.address())?;
    let settings = block("kind: GatewaySettings")?;
    let settings = settings.split("---\n").next().context("two documents")?.replace("192.0.2.0/24", "127.0.0.0/8");
    examples.files.push(("settings.yaml".to_owned(), settings));
    examples.files[1].1 = examples.files[1].1.replacen(
        "  name: alb-demo\n",
        "  name: alb-demo\n  annotations: {headwater.dev/settings: edge}\n",
        1,
    );
    let stand = examples.serve()?;
    let named = ask(&stand, "GET", "a.test", "/", &["X-Forwarded-For: 203.0.113.9"])?;
    assert_eq!(named.seen()?.header("x-real-ip").as_deref(), Some("203.0.113.9"));
    Ok(())
}
