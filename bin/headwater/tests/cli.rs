//! The binary as its users run it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use headwater_testkit::certs::{Authority, Leaf};
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::{Dial, Tls};
use headwater_testkit::dir::ManifestDir;
use headwater_testkit::origin::{Origin, RawOrigin};
use headwater_testkit::response::Response;
use headwater_testkit::wait;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const GATEWAY: &str = r#"apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata:
  name: headwater
  annotations: {ingressclass.kubernetes.io/is-default-class: "true"}
spec:
  controller: headwater.dev/ingress
  parameters: {apiGroup: headwater.dev, kind: GatewaySettings, scope: Namespace, namespace: test, name: gateway}
---
apiVersion: headwater.dev/v1alpha1
kind: GatewaySettings
metadata: {name: gateway, namespace: test}
spec:
  listeners:
    - {name: http, port: 0, protocol: HTTP}
    - {name: https, port: 0, protocol: HTTPS}
    - {name: proxied, port: 0, protocol: HTTP, clientAddress: {trustedProxies: [192.0.2.1], proxyProtocol: Required}}
"#;

fn app(name: &str, endpoint: SocketAddr) -> String {
    format!(
        r#"apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}, namespace: test}}
spec:
  rules:
    - host: {name}.test
      http:
        paths:
          - {{path: /, pathType: Prefix, backend: {{service: {{name: {name}, port: {{number: 80}}}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: test}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: test, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: {}}}]
endpoints: [{{addresses: ["{}"]}}]
"#,
        endpoint.port(),
        endpoint.ip()
    )
}

fn tls(leaf: &Leaf) -> String {
    let indent = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert, namespace: test}}\ntype: kubernetes.io/tls\nstringData:\n  \
         tls.crt: |\n{}  tls.key: |\n{}---\n\
         apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: secure, namespace: test}}\nspec:\n  \
         tls: [{{hosts: [secure.test], secretName: cert}}]\n  rules:\n    - host: secure.test\n      http:\n        paths:\n          \
         - {{path: /, pathType: Prefix, backend: {{service: {{name: app, port: {{number: 80}}}}}}}}\n",
        indent(&leaf.cert_pem),
        indent(&leaf.key_pem)
    )
}

fn headwater() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.env_remove("HEADWATER_LOG").stdin(Stdio::null());
    command
}

/// A command that stays; killed when dropped.
struct Running {
    child: Child,
    output: TempDir,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let output = TempDir::new()?;
        let file = |name: &str| File::create(output.path().join(name));
        let child = command.stdout(file("stdout")?).stderr(file("stderr")?).spawn()?;
        Ok(Self { child, output })
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.output.path().join(name)).unwrap_or_default()
    }

    fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// Lines of the log, which is JSON.
    fn log(&self) -> Vec<Value> {
        self.read("stderr").lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(i32::try_from(self.child.id())?).context("process identifier")?;
        Ok(kill_process(id, signal)?)
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        wait::value(wait::DEADLINE, || self.child.try_wait().ok().flatten())
            .with_context(|| format!("still runs; {}", self.read("stderr")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a process that has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `headwater up` on free ports.
struct Up {
    running: Running,
    admin: SocketAddr,
    dir: ManifestDir,
}

impl Up {
    fn start(files: &[(&str, String)], arguments: &[&str]) -> Result<Self> {
        let dir = ManifestDir::new()?;
        files.iter().try_for_each(|(name, text)| dir.write(name, text))?;
        let mut command = headwater();
        command.args(["--log-json", "up"]).arg(dir.path()).args(["--admin", "127.0.0.1:0", "--workers", "2"]);
        let mut running = Running::start(command.args(arguments))?;
        let admin = wait::value(wait::DEADLINE, || {
            if running.child.try_wait().ok().flatten().is_some() {
                return Some(None);
            }
            let up = running.log().into_iter().find(|line| line["message"] == "headwater is up")?;
            Some(up["admin"].as_str()?.parse().ok())
        });
        let admin = admin.ok().flatten().with_context(|| format!("does not come up: {}", running.read("stderr")))?;
        Ok(Self { running, admin, dir })
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<Response> {
        let length = body.len();
        RawClient::connect(self.admin)?
            .request(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"))
    }

    fn get(&self, path: &str) -> Result<Response> {
        self.ask("GET", path, "")
    }

    fn address(&self, listener: &str) -> Result<SocketAddr> {
        let status: Value = serde_json::from_slice(&self.get("/status")?.body)?;
        let listeners = status["listeners"].as_array().context("listeners")?;
        let found = listeners.iter().find(|status| status["name"] == listener).context("no such listener")?;
        let port =
            found["address"].as_str().and_then(|text| text.parse::<SocketAddr>().ok()).context("address")?.port();
        Ok(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn status(&self, arguments: &[&str]) -> Result<Output> {
        Ok(headwater().args(["status", "--admin", &self.admin.to_string()]).args(arguments).output()?)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn up_serves_a_directory_and_its_admin_port_tells_of_it() -> Result<()> {
    let origin = Origin::http("one")?;
    let up = Up::start(&[("gateway.yaml", GATEWAY.to_owned()), ("app.yaml", app("app", origin.address()))], &[])?;
    let mut client = RawClient::connect(up.address("http")?)?;
    let request = "GET /seen HTTP/1.1\r\nHost: app.test\r\n\r\n";
    assert_eq!(client.request(request)?.seen()?.name(), "one");
    for (path, content) in [("/healthz", "ok\n"), ("/readyz", "ready\n"), ("/loglevel", "info\n")] {
        let answer = up.get(path)?;
        assert_eq!((answer.status, answer.text().as_str()), (200, content), "{path}");
    }
    assert_eq!(up.get("/nothing")?.status, 404);
    assert_eq!(up.ask("PUT", "/healthz", "")?.status, 405);
    // The access log goes to standard output.
    wait::until(wait::DEADLINE, || up.running.stdout().contains("\"target\":\"/seen\""))?;

    // The level changes while it runs: the next configuration is told about in detail.
    assert_eq!(up.ask("PUT", "/loglevel", "nonsense")?.status, 400);
    assert_eq!(up.get("/loglevel")?.text(), "info\n");
    assert_eq!(up.ask("PUT", "/loglevel", "info,headwater_gateway=debug")?.status, 200);
    assert_eq!(up.get("/loglevel")?.text(), "info,headwater_gateway=debug\n");
    let has_debug = || up.running.log().iter().any(|line| line["level"] == "DEBUG");
    assert!(!has_debug());
    let two = Origin::http("two")?;
    up.dir.write("app.yaml", &app("app", two.address()))?;
    wait::until(wait::DEADLINE, || client.request(request).is_ok_and(|a| a.seen().is_ok_and(|s| s.name() == "two")))?;
    wait::until(wait::DEADLINE, has_debug)?;

    let output = up.status(&[])?;
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{shown}");
    for word in ["http ", "https ", "proxied ", "listening"] {
        assert!(shown.contains(word), "{word} in {shown}");
    }
    let json: Value = serde_json::from_slice(&up.status(&["-o", "json"])?.stdout)?;
    assert_eq!(json["listeners"].as_array().map(Vec::len), Some(3), "{json}");
    assert_eq!(json["findings"], serde_json::json!([]), "{json}");

    let broken = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: b, namespace: test}\nspec: 7\n";
    up.dir.write("broken.yaml", broken)?;
    wait::until(wait::DEADLINE, || up.status(&[]).is_ok_and(|output| output.status.code() == Some(1)))?;
    let shown = text(&up.status(&[])?.stdout);
    assert!(shown.contains("broken.yaml:4") && shown.contains("error:"), "{shown}");
    assert_eq!(client.request(request)?.status, 200, "everything else keeps serving");
    Ok(())
}

#[test]
fn up_gives_addresses_of_pools_and_finds_them_again() -> Result<()> {
    let pool = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: first, namespace: metallb-system}\n\
                spec: {addresses: [192.0.2.1-192.0.2.2]}\n";
    let balancer = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}\n"
        )
    };
    let files = [("pool.yaml", pool.to_owned()), ("web.yaml", balancer("web")), ("gateway.yaml", GATEWAY.to_owned())];
    let mut up = Up::start(&files, &[])?;
    let vips = |admin: SocketAddr| -> Result<(Option<i32>, String)> {
        let output = headwater().args(["status", "vips", "--admin", &admin.to_string()]).output()?;
        Ok((output.status.code(), text(&output.stdout)))
    };
    let expected = "ADDRESS    SERVICE   POOL   ANNOUNCED BY  SINCE\n192.0.2.1  shop/web  first  -\n";
    wait::until(wait::DEADLINE, || vips(up.admin).is_ok_and(|shown| shown == (Some(0), expected.to_owned())))?;
    up.dir.write("a.yaml", &(balancer("api") + "---\n" + &balancer("late")))?;
    let why = "-          shop/late  -      -\n  why not: Failed to allocate IP for \"shop/late\": no available IPs\n";
    wait::until(wait::DEADLINE, || vips(up.admin).is_ok_and(|(code, shown)| code == Some(1) && shown.contains(why)))?;
    let file = up.dir.path().join(".headwater/addresses.json");
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    assert_eq!(
        kept["services"][1],
        serde_json::json!({"service": "shop/web", "addresses": ["192.0.2.1"], "pool": "first"})
    );
    // Whoever else reads the directory reads it as well, and takes it for no manifest.
    let checked = check(up.dir.path().to_str().context("path")?, "", &[])?;
    assert!(text(&checked.stdout).contains("0 errors"), "{}", text(&checked.stdout));

    up.running.signal(Signal::TERM)?;
    up.running.wait()?;
    std::fs::write(&file, "{")?;
    let checked = check(up.dir.path().to_str().context("path")?, "", &[])?;
    assert!(text(&checked.stdout).contains("error: .headwater/addresses.json:1: "), "{}", text(&checked.stdout));
    Ok(())
}

#[test]
fn status_without_a_gateway_says_what_to_do() -> Result<()> {
    let nobody = std::net::TcpListener::bind("127.0.0.79:0")?.local_addr()?;
    let output = headwater().args(["status", "--admin", &nobody.to_string()]).output()?;
    assert_eq!(output.status.code(), Some(1));
    let complaint = text(&output.stderr);
    assert!(complaint.contains(&nobody.to_string()) && complaint.contains("headwater up"), "{complaint}");
    Ok(())
}

#[test]
fn the_snapshot_is_complete_but_for_private_keys() -> Result<()> {
    let leaf = Authority::new("snapshot")?.leaf(&["secure.test"])?;
    let origin = Origin::http("one")?;
    let files =
        [("gateway.yaml", GATEWAY.to_owned()), ("app.yaml", app("app", origin.address())), ("tls.yaml", tls(&leaf))];
    let up = Up::start(&files, &[])?;
    let secure = RawClient::open(&Dial::to(up.address("https")?).tls(Tls::new("secure.test")))?;
    assert_eq!(secure.stream().leaf(), Some(leaf.cert_der.clone()), "the key is in use");
    let key = leaf.key();
    for path in ["/snapshot", "/status", "/metrics"] {
        let answer = up.get(path)?;
        assert_eq!(answer.status, 200, "{path}");
        let content = answer.text();
        let compact: String = content.split_whitespace().collect();
        assert!(!content.contains("PRIVATE KEY"), "{path}: {content}");
        for line in leaf.key_pem.lines().filter(|line| !line.starts_with("-----")) {
            let piece = line.get(line.len().saturating_sub(24)..).unwrap_or(line);
            assert!(!content.contains(piece), "{path} has base64 of the key");
        }
        // As numbers or hexadecimal digits; a certificate shares the beginning and the public part at the end.
        for window in key.secret_der().windows(16).skip(36).take(16) {
            let numbers: Vec<String> = window.iter().map(u8::to_string).collect();
            assert!(!compact.contains(&numbers.join(",")), "{path} has bytes of the key");
            let hex: String = window.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(!content.to_ascii_lowercase().contains(&hex), "{path} has hexadecimal digits of the key");
        }
    }
    let snapshot = up.get("/snapshot")?.text();
    serde_json::from_str::<Value>(&snapshot)?;
    for word in ["secure.test", "app.test", "cert", "test", &origin.address().port().to_string()] {
        assert!(snapshot.contains(word), "{word} in {snapshot}");
    }
    let log = up.running.read("stderr");
    assert!(!log.contains("PRIVATE KEY"), "{log}");
    Ok(())
}

/// Name, type and labels of a metric.
type Family = (String, String, BTreeSet<String>);

/// Parses OpenMetrics text strictly, and returns its families.
fn families(metrics: &str) -> Result<BTreeSet<Family>> {
    let mut families = BTreeSet::new();
    let mut current: Option<Family> = None;
    for line in metrics.strip_suffix("# EOF\n").context("no EOF")?.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').with_context(|| line.to_owned())?;
            families.extend(current.take());
            current = Some((name.to_owned(), kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with("# HELP ") && !line.starts_with("# UNIT ") {
            let (series, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            value.parse::<f64>().with_context(|| line.to_owned())?;
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').with_context(|| line.to_owned())?),
                None => (series, ""),
            };
            let (family, kind, known) = current.as_mut().with_context(|| format!("{line} has no type"))?;
            let suffix = name.strip_prefix(family.as_str()).with_context(|| format!("{line} under {family}"))?;
            let allowed: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => anyhow::bail!("type {other}"),
            };
            ensure!(allowed.contains(&suffix), "{line} under {kind}");
            for label in labels.strip_suffix('"').unwrap_or(labels).split("\",").filter(|label| !label.is_empty()) {
                let (name, _) = label.split_once("=\"").with_context(|| line.to_owned())?;
                known.insert(name.to_owned());
            }
        }
    }
    families.extend(current);
    Ok(families)
}

/// The same as docs/metrics.md says it, from its rows of a name, a type and labels.
fn documented(page: &str) -> BTreeSet<Family> {
    let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = page.lines().filter(|line| line.starts_with("| `headwater_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (words(cells[1]).swap_remove(0), cells[2].to_owned(), words(cells[3]).into_iter().collect())
    })
    .collect()
}

#[test]
fn the_page_on_metrics_names_every_metric_with_its_labels_and_no_other() -> Result<()> {
    let origin = Origin::http("one")?;
    let carried = "    - {name: tcp, port: 0, protocol: TCP, backends: [{service: test/app, port: 80}]}\n\
                   \x20   - {name: udp, port: 0, protocol: UDP, backends: [{service: test/nobody, port: 53}]}\n";
    let gateway = format!("{GATEWAY}{carried}");
    let up = Up::start(&[("gateway.yaml", gateway), ("app.yaml", app("app", origin.address()))], &[])?;
    RawClient::connect(up.address("tcp")?)?.request("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")?;
    std::net::UdpSocket::bind("127.0.0.1:0")?.send_to(b"nobody", up.address("udp")?)?;
    for host in ["app.test", "unknown.test"] {
        RawClient::connect(up.address("http")?)?.request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))?;
    }
    RawClient::connect(up.address("proxied")?)?.closed()?;
    wait::until(wait::DEADLINE, || {
        let metrics = up.get("/metrics").map(|answer| answer.text()).unwrap_or_default();
        let words =
            ["no_route", "2xx", "peer-not-trusted", "stream_duration_seconds_count", "datagrams_dropped_total{"];
        words.iter().all(|word| metrics.contains(word))
    })?;
    let answer = up.get("/metrics")?;
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("application/openmetrics-text")));
    let shown: BTreeSet<Family> = families(&answer.text())?
        .into_iter()
        .map(|(name, kind, mut labels)| {
            labels.remove("le");
            let name = if kind == "counter" { format!("{name}_total") } else { name };
            (name, kind, labels)
        })
        .collect();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let page = std::fs::read_to_string(page)?;
    let (everywhere, _in_a_cluster) = page.split_once("### In a cluster").context("docs/metrics.md has two parts")?;
    let documented = documented(everywhere);
    let missing: Vec<_> = shown.difference(&documented).collect();
    let surplus: Vec<_> = documented.difference(&shown).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "not in the page: {missing:#?}\nnot in /metrics: {surplus:#?}");
    Ok(())
}

#[test]
fn on_sigterm_readiness_goes_first_and_running_requests_finish() -> Result<()> {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let slow = RawOrigin::start(move |conn| {
        conn.read_request()?;
        let passed = gate.lock().map_err(|_| std::io::ErrorKind::Other)?.recv_timeout(wait::DEADLINE);
        passed.map_err(std::io::Error::other)?;
        conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
    })?;
    let mut up = Up::start(&[("gateway.yaml", GATEWAY.to_owned()), ("app.yaml", app("slow", slow.address()))], &[])?;
    let address = up.address("http")?;
    let mut busy = RawClient::connect(address)?;
    busy.send("GET / HTTP/1.1\r\nHost: slow.test\r\n\r\n")?;
    slow.wait_for(0, |record| record.bytes.ends_with(b"\r\n\r\n"))?;
    assert_eq!(up.get("/readyz")?.status, 200);
    up.running.signal(Signal::TERM)?;
    wait::until(wait::DEADLINE, || {
        let closed = RawClient::connect(address).is_err();
        let ready = up.get("/readyz").map(|answer| answer.status).unwrap_or(0);
        assert!(!closed || ready == 503, "the listener is closed, and /readyz says {ready}");
        closed
    })?;
    let answer = up.get("/readyz")?;
    assert_eq!((answer.status, answer.text().as_str()), (503, "draining\n"));
    assert_eq!(up.get("/healthz")?.status, 200, "it drains, and is not to be killed");
    open.send(())?;
    let answer = busy.read_response()?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
    drop(busy);
    assert_eq!(up.running.wait()?.code(), Some(0));
    assert!(up.running.stdout().contains("\"host\":\"slow.test\""), "the last line of the access log is written");
    Ok(())
}

#[test]
fn the_drain_ends_at_its_deadline() -> Result<()> {
    let silent = RawOrigin::start(|conn| conn.read_to_end().map(drop))?;
    let files = [("gateway.yaml", GATEWAY.to_owned()), ("app.yaml", app("silent", silent.address()))];
    let mut up = Up::start(&files, &["--drain", "200ms"])?;
    let mut busy = RawClient::connect(up.address("http")?)?;
    busy.send("GET / HTTP/1.1\r\nHost: silent.test\r\n\r\n")?;
    silent.wait_for(0, |record| record.bytes.ends_with(b"\r\n\r\n"))?;
    up.running.signal(Signal::INT)?;
    assert_eq!(up.running.wait()?.code(), Some(0));
    let log = up.running.log();
    let cut_off = "requests were cut off at the end of the drain";
    assert!(log.iter().any(|line| line["level"] == "WARN" && line["message"] == cut_off), "{log:?}");
    Ok(())
}

fn check(source: &str, stdin: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = headwater();
    command.args(["check", source]).args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin")?.write_all(stdin.as_bytes())?;
    Ok(child.wait_with_output()?)
}

#[test]
fn check_exits_with_what_it_found() -> Result<()> {
    let endpoint: SocketAddr = "192.0.2.10:8080".parse()?;
    let good = format!("{GATEWAY}---\n{}", app("app", endpoint));
    let plain = "metadata: {name: app, namespace: test}\nspec:\n  rules";
    let snippet = "metadata: {name: app, namespace: test, annotations: {nginx.ingress.kubernetes.io/server-snippet: \"deny all;\"}}\nspec:\n  rules";
    // What is replaced by what, exit code, errors, a word of the text.
    for (old, new, code, errors, word) in [
        ("", "", 0, 0, "0 errors"),
        ("port: {number: 80}", "port: {number: 81}", 1, 1, "81"),
        ("pathType: Prefix", "pathType: Suffix", 1, 1, "Suffix"),
        // The Service is refused, and so the rule that names it.
        ("kind: Service\n", "kind: Service\nspek: 1\n", 1, 2, "spek"),
        (plain, snippet, 0, 0, "nginx.ingress.kubernetes.io/server-snippet"),
        ("kind: IngressClass\n", "kind: [", 1, 1, "stdin"),
    ] {
        let manifests = good.replacen(old, new, 1);
        assert!(old.is_empty() || manifests != good, "{word}");
        let output = check("-", &manifests, &[])?;
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{word}: {shown}{}", text(&output.stderr));
        assert!(shown.contains(word), "{word} in {shown}");
        let output = check("-", &manifests, &["-o", "json"])?;
        assert_eq!(output.status.code(), Some(code), "{word}");
        let report: Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!(report["errors"], errors, "{word}: {report:#}");
        assert_eq!(report["warnings"], usize::from(new == snippet), "{word}: {report:#}");
        let findings = report["findings"].as_array().context("findings")?;
        for finding in findings.iter().filter(|finding| finding["severity"] != "info") {
            assert!(finding["location"]["line"].as_u64().is_some_and(|line| line > 0), "{word}: {finding}");
            assert!(finding["message"].as_str().is_some_and(|message| !message.is_empty()), "{word}: {finding}");
        }
    }
    Ok(())
}

#[test]
fn check_reads_directories_and_says_what_is_none() -> Result<()> {
    let good = format!("{GATEWAY}---\n{}", app("app", "192.0.2.10:8080".parse()?));
    let dir = ManifestDir::new()?;
    dir.write("deep/down/all.yaml", &good)?;
    let path = dir.path().to_str().context("path")?.to_owned();
    assert_eq!(check(&path, "", &[])?.status.code(), Some(0));
    dir.write("deep/wrong.json", "{\"kind\": \"Ingress\"}")?;
    let output = check(&path, "", &[])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("deep/wrong.json:1"), "{}", text(&output.stdout));
    for (source, word) in [(format!("{path}/deep/down/all.yaml"), "not a directory"), (format!("{path}/none"), "none")]
    {
        let output = headwater().args(["check", &source]).output()?;
        assert_eq!(output.status.code(), Some(1), "{source}");
        assert!(text(&output.stderr).contains(word), "{}", text(&output.stderr));
    }
    Ok(())
}

#[test]
fn check_prints_what_the_kernel_needs_where_a_gateway_is_to_connect_as_its_clients() -> Result<()> {
    let gateway = |transparent: bool| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: headwater}}\nspec:\n  \
             controller: headwater.dev/ingress\n  parameters: {{apiGroup: headwater.dev, kind: GatewaySettings, \
             scope: Namespace, namespace: edge, name: public}}\n---\n\
             apiVersion: headwater.dev/v1alpha1\nkind: GatewaySettings\nmetadata: {{name: public, namespace: edge}}\n\
             spec:\n  listeners:\n    - {{name: db, port: 5432, protocol: TCP, \
             backends: [{{service: shop/db, port: 5432}}], clientAddress: {{transparent: {transparent}}}}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: db, namespace: shop}}\nspec: {{ports: [{{port: 5432}}]}}\n"
        )
    };
    let page = include_str!("../../../docs/l4.md");
    let (_, block) = page.split_once("```sh\nnft -f - ").context("docs/l4.md has no commands")?;
    let (block, _) = block.split_once("```").context("docs/l4.md: the commands have no end")?;
    for asked in [true, false] {
        let output = check("-", &gateway(asked), &[])?;
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert_eq!(said.contains(block), asked, "docs/l4.md says otherwise: {said}");
        for line in [
            "nft -f - <<'END'",
            "ip -4 rule add priority 91 fwmark 0x1858/0xffff lookup 18520",
            "ip -6 route replace local default dev lo table 18520",
        ] {
            assert_eq!(said.lines().any(|other| other == line), asked, "{line}: {said}");
        }
        let report: Value = serde_json::from_slice(&check("-", &gateway(asked), &["-o", "json"])?.stdout)?;
        assert_eq!(report["transparent_commands"].is_string(), asked, "{report:#}");
    }
    Ok(())
}

/// Runs a line of the tour as a person would.
fn shell(line: &str) -> Result<Output> {
    let folder = Path::new(env!("CARGO_BIN_EXE_headwater")).parent().context("folder of the binary")?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
    let output = Command::new("bash").args(["-c", line]).env("PATH", path).stdin(Stdio::null()).output();
    output.context("bash is needed to run the lines of the demo")
}

/// In the order of the tour: what each answer must show, and what it must not. Compared in lower case.
const PROMISES: [(&str, &[&str], &[&str]); 11] = [
    ("plain", &["x-real-ip: 127.0.0.1\n", "x-forwarded-for: 127.0.0.1\n"], &[]),
    ("plain over IPv6", &["x-real-ip: ::1\n", "x-forwarded-for: ::1\n"], &[]),
    ("TLS", &["x-real-ip: 127.0.0.1\n", "x-forwarded-proto: https\n", "host: tls.example.com"], &[]),
    ("redirect", &["http/1.1 308", "location: https://tls.example.com"], &["x-real-ip"]),
    ("spoofed", &["x-real-ip: 127.0.0.1\n", "x-forwarded-for: 127.0.0.1\n"], &["x-forwarded-for: 198.51.100.66, "]),
    ("behind the CDN", &["x-real-ip: 203.0.113.7\n", "x-forwarded-for: 203.0.113.7, 127.0.0.1\n"], &[]),
    ("PROXY", &["http/1.1 200", "x-real-ip: 198.51.100.7\n"], &[]),
    ("WebSocket", &["http/1.1 101", "sec-websocket-accept: ", "[\"x-real-ip\",\"127.0.0.1\"]"], &[]),
    ("gRPC", &["x-real-ip", "127.0.0.1"], &[]),
    ("metrics", &["headwater_gateway_requests_total{", "# eof"], &[]),
    ("status", &["proxied", "listening"], &["error"]),
];

#[test]
fn every_line_that_the_demo_prints_keeps_its_promise() -> Result<()> {
    let mut demo = Running::start(headwater().arg("demo"))?;
    wait::until(Duration::from_secs(20), || demo.stdout().contains("Ctrl-C drains and ends."))
        .with_context(|| demo.read("stderr"))?;
    let tour = demo.stdout();
    let is_command = |line: &&str| ["curl ", "printf ", "headwater "].iter().any(|word| line.starts_with(word));
    let lines: Vec<&str> = tour.lines().filter(is_command).collect();
    assert_eq!(lines.len(), PROMISES.len(), "{tour}");
    for (line, (what, wanted, unwanted)) in lines.iter().zip(PROMISES) {
        let output = shell(line)?;
        // curl ends a WebSocket by its time limit.
        let code = if what == "WebSocket" { 28 } else { 0 };
        let shown = text(&output.stdout).to_ascii_lowercase().replace('\r', "");
        let all = format!("{what}: {line}\n{shown}{}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{all}");
        assert!(wanted.iter().all(|word| shown.contains(word)), "{wanted:?} in {all}");
        assert!(!unwanted.iter().any(|word| shown.contains(word)), "{unwanted:?} in {all}");
    }
    let log = tour.lines().find_map(|line| line.strip_prefix("tail -f ")).context("the log's place")?;
    wait::until(wait::DEADLINE, || {
        std::fs::read_to_string(log).is_ok_and(|log| log.contains("\"client\":\"198.51.100.7\""))
    })?;
    let folder = Path::new(log).parent().context("folder of the manifests")?;
    assert!(folder.join("ingress.yaml").exists());
    demo.signal(Signal::INT)?;
    assert_eq!(demo.wait()?.code(), Some(0));
    assert!(demo.stdout().ends_with("\ndraining\n"), "{}", demo.stdout());
    assert!(!folder.exists(), "the demo cleans up");
    Ok(())
}

#[test]
fn the_page_of_flags_is_what_the_program_prints() -> Result<()> {
    let output = headwater().arg("flags").output()?;
    ensure!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout)?;
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/flags.md"))?;
    let differs = printed.lines().zip(page.lines()).find(|(printed, written)| printed != written);
    ensure!(printed == page, "write it anew: cargo run -- flags > docs/flags.md (first difference: {differs:?})");
    Ok(())
}
