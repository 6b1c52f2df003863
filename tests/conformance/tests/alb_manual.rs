//! The pages that users of the ALB's manual follow: each command prints, and each manifest does, what docs/alb.md says.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::collector::Collector;
use headwater_testkit::origin::Origin;
use headwater_testkit::response::Response;

fn read(path: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The fenced blocks of docs/alb.md in this language.
fn blocks(language: &str) -> Result<Vec<String>> {
    let page = read("docs/alb.md")?;
    let fence = format!("```{language}\n");
    Ok(page.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect())
}

fn block(language: &str, with: &str) -> Result<String> {
    let found = blocks(language)?.into_iter().find(|block| block.contains(with));
    found.with_context(|| format!("no block with {with}"))
}

/// A port that nobody listens at.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("[::]:0")?.local_addr()?.port())
}

fn ask(port: u16, host: &str, target: &str) -> Result<Response> {
    let mut client = RawClient::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    client.request(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
}

fn told(stand: &Stand) -> Vec<String> {
    let findings = stand.findings();
    let worth = findings.iter().filter(|finding| finding.severity > headwater_model::finding::Severity::Info);
    worth.map(ToString::to_string).collect()
}

/// Commands of a console block, each with the lines below it.
fn commands(block: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), String::new())),
            (None, Some((_, printed))) => printed.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    commands
}

#[test]
fn each_command_of_the_first_steps_prints_what_stands_below_it() -> Result<()> {
    let origin = Origin::http("hello-world")?;
    let (http, tcp) = (free_port()?, free_port()?);
    let mut files = Vec::new();
    for name in ["app.yaml", "alb.yaml", "rules.yaml"] {
        let text = read(&format!("examples/alb/{name}"))?
            .replace("port: 8080\n", &format!("port: {http}\n"))
            .replace("port: 8081\n", &format!("port: {tcp}\n"))
            .replace("port: 9000\n", &format!("port: {}\n", origin.address().port()));
        files.push((name, text));
    }
    let stand = Stand::start(&files)?;
    assert_eq!(told(&stand), Vec::<String>::new());
    let block = block("console", "curl -s http://127.0.0.1:8080/else")?;
    let commands = commands(&block);
    assert!(commands.len() >= 8, "{block}");
    for (command, expected) in commands {
        let here = |text: &str| text.replace("127.0.0.1:8080", &format!("127.0.0.1:{http}"));
        let output = Command::new("sh").args(["-c", &here(&command)]).output()?;
        let printed = String::from_utf8(output.stdout)?.replace('\r', "");
        assert_eq!(printed, here(&expected), "{command}");
    }
    Ok(())
}

#[test]
fn annotations_of_ingresses_do_what_the_page_says_of_them() -> Result<()> {
    let origin = Origin::http("app-server")?;
    let port = free_port()?;
    let manifests = block("yaml", "name: rewrite")?.replacen(
        "    projects:\n",
        &format!("    ingressHTTPPort: {port}\n    projects:\n"),
        1,
    );
    let service =
        Stand::service("app-server", "", &[origin.address()]).replace("namespace: test", "namespace: default");
    let stand = Stand::start(&[("demo.yaml", manifests), ("service.yaml", service)])?;
    assert_eq!(told(&stand), Vec::<String>::new());
    let answer = ask(port, "demo.example", "/prefix-x/abc")?;
    let seen = answer.seen()?;
    assert_eq!((seen.text("target"), seen.header("x-my-host").as_deref()), ("/abc", Some("demo.example")));
    let hsts = answer.header("strict-transport-security");
    assert_eq!(hsts.as_deref(), Some("max-age=63072000; includeSubDomains; preload"));
    for (target, status, location) in [("/a", 301, "https://new.example/"), ("/b", 302, "/elsewhere")] {
        let moved = ask(port, "old.example", target)?;
        assert_eq!((moved.status, moved.header("location").as_deref()), (status, Some(location)), "{target}");
    }
    Ok(())
}

#[test]
fn requests_of_the_tracing_example_are_spans_at_its_collector() -> Result<()> {
    let (origin, collector) = (Origin::http("hotrod")?, Collector::start(&[])?);
    let port = free_port()?;
    let manifests = block("yaml", "name: otel-alb")?;
    ensure!(manifests.contains("http://jaeger.default.svc.cluster.local:4318"), "{manifests}");
    let manifests = manifests
        .replace("jaeger.default.svc.cluster.local:4318", &collector.address().to_string())
        .replacen("    projects:\n", &format!("    ingressHTTPPort: {port}\n    projects:\n"), 1);
    let ready: String = ["frontend", "customer", "router"]
        .map(|name| format!("  - {{name: {name}, port: {}}}\n", origin.address().port()))
        .concat();
    let slice = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: hotrod-1\n  namespace: default\n  labels: \
         {{kubernetes.io/service-name: hotrod}}\naddressType: IPv4\nports:\n{ready}endpoints:\n  - addresses: [127.0.0.1]\n"
    );
    let stand = Stand::start(&[("all.yaml", manifests), ("pods.yaml", slice)])?;
    let told = told(&stand);
    assert!(matches!(&told[..], [one] if one.contains("request_timeout")), "{told:?}");
    let targets = ["/dispatch?customer=567&nonse=", "/customer?customer=567", "/route", "/frontend"];
    for target in targets {
        assert_eq!(ask(port, "any.test", target)?.seen()?.text("target"), target);
    }
    let spans = collector.wait(targets.len())?;
    let mut seen: Vec<(String, String)> = spans
        .iter()
        .map(|span| {
            let get = |name: &str| span.get(name).unwrap_or_default();
            (get("http.target"), get("alb.rule.source_name"))
        })
        .collect();
    seen.sort();
    let expected = [
        ("/customer?customer=567", "hotrod-customer"),
        ("/dispatch?customer=567&nonse=", "hotrod-frontend"),
        ("/frontend", "hotrod-frontend"),
        ("/route", "hotrod-route"),
    ];
    assert_eq!(seen, expected.map(|(target, name)| (target.to_owned(), name.to_owned())));
    let names = spans.iter().flat_map(|span| &span.resource).filter(|(name, _)| name == "service.name");
    assert!(names.clone().count() > 0 && names.clone().all(|(_, value)| value == "otel-alb"), "{spans:#?}");
    Ok(())
}
