//! One control plane for all tests, the roles as processes, backends with addresses that an API server takes.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_testkit::client::RawClient;
use headwater_testkit::cluster::Cluster;
use headwater_testkit::origin::RawOrigin;
use headwater_testkit::response::Response;
use headwater_testkit::wait;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// Where the rendered manifests install Headwater.
pub(crate) const NAMESPACE: &str = "headwater-system";

/// For what takes an election or a restart.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// The cluster that tests share which do it no harm.
pub(crate) async fn shared() -> Result<&'static Cluster> {
    CLUSTER.get_or_try_init(start).await
}

/// A cluster with Headwater's definitions and rights, as the rendered manifests have them, and nothing of it running.
pub(crate) async fn start() -> Result<Cluster> {
    let cluster = Cluster::builder().audit().start().await?;
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let rendered = std::fs::read_to_string(deploy.join("manifests/headwater.yaml"))?;
    // Namespaces and definitions are used by what stands below them.
    for kinds in [
        &["Namespace", "CustomResourceDefinition"][..],
        &["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "IngressClass"],
    ] {
        let wanted = |text: &&str| kinds.iter().any(|kind| text.lines().any(|line| line == format!("kind: {kind}")));
        let documents: Vec<&str> = rendered.split("\n---\n").filter(wanted).collect();
        ensure!(!documents.is_empty(), "no {kinds:?} in the rendered manifests");
        cluster.apply(&documents.join("\n---\n")).await?;
    }
    let known = || async { cluster.find("/apis/headwater.dev/v1alpha1/gatewaysettings").await };
    wait::eventually(PATIENCE, known).await?;
    Ok(cluster)
}

/// Credentials of a role's service account.
pub(crate) async fn credentials(cluster: &Cluster, role: &str) -> Result<PathBuf> {
    Ok(cluster.kubeconfig_for_service_account(NAMESPACE, &format!("headwater-{role}")).await?.path().to_owned())
}

/// An IngressClass of its own with listeners on free ports, so that tests do not see each other's Ingresses.
pub(crate) async fn class(cluster: &Cluster, namespace: &str) -> Result<()> {
    cluster
        .apply(&format!(
            "
apiVersion: headwater.dev/v1alpha1
kind: GatewaySettings
metadata: {{name: gateway, namespace: {namespace}}}
spec:
  listeners:
    - {{name: http, address: 127.0.0.1, port: 0, protocol: HTTP}}
    - {{name: https, address: 127.0.0.1, port: 0, protocol: HTTPS}}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {{name: {namespace}}}
spec:
  controller: headwater.dev/ingress
  parameters: {{apiGroup: headwater.dev, kind: GatewaySettings, name: gateway, namespace: {namespace}, scope: Namespace}}
"
        ))
        .await?;
    Ok(())
}

/// A Service with one endpoint.
pub(crate) fn service(name: &str, endpoint: SocketAddr) -> String {
    let (address, port) = (endpoint.ip(), endpoint.port());
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: '', port: {port}}}]
endpoints: [{{addresses: ['{address}'], conditions: {{ready: true}}}}]
---
"
    )
}

/// An Ingress with one rule.
pub(crate) fn ingress(name: &str, class: &str, host: &str, service: &str) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}}}
spec:
  ingressClassName: {class}
  rules:
    - host: {host}
      http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}]}}
---
"
    )
}

/// A namespace with a class of its own, and Service and Ingress `app` of host `app.test` at the first of two backends.
pub(crate) struct App {
    pub(crate) namespace: String,
    pub(crate) one: RawOrigin,
    pub(crate) two: RawOrigin,
}

impl App {
    pub(crate) async fn start(cluster: &Cluster, prefix: &str) -> Result<Self> {
        let namespace = cluster.namespace(prefix).await?;
        class(cluster, &namespace).await?;
        let (one, two) = (backend("one")?, backend("two")?);
        let objects = service("app", one.address()) + &ingress("app", &namespace, "app.test", "app");
        apply(cluster, &namespace, &objects).await?;
        Ok(Self { namespace, one, two })
    }
}

/// Applies manifests in a namespace.
pub(crate) async fn apply(cluster: &Cluster, namespace: &str, manifests: &str) -> Result<()> {
    let output = cluster.try_apply(manifests, &["-n", namespace]).await?;
    ensure!(output.success, "kubectl apply: {}{}\n{manifests}", output.stdout, output.stderr);
    Ok(())
}

/// A backend that answers every request with `name`, at an address that may stand in an EndpointSlice.
pub(crate) fn backend(name: &str) -> Result<RawOrigin> {
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
    RawOrigin::start_on(SocketAddr::new(own_address()?, 0), move |conn| {
        while conn.read_request()?.is_some() {
            conn.write_all(response.as_bytes())?;
        }
        Ok(())
    })
}

/// An address of this host that is not a loopback address; API servers refuse those as endpoints.
fn own_address() -> Result<IpAddr> {
    // Nothing is sent: connecting a datagram socket only chooses a route.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("203.0.113.1:9").context("this host has no network but loopback")?;
    Ok(socket.local_addr()?.ip())
}

/// `headwater gateway` or `headwater controller` as a process; killed when dropped.
pub(crate) struct Role {
    child: Child,
    output: TempDir,
    pub(crate) admin: SocketAddr,
}

impl Role {
    pub(crate) fn start(kubeconfig: &Path, role: &str, name: &str, arguments: &[&str]) -> Result<Self> {
        let output = TempDir::new()?;
        let file = |name: &str| File::create(output.path().join(name));
        // It dies with the thread that starts it: that of the test.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_headwater"), "--log-json", role]);
        command.arg("--kubeconfig").arg(kubeconfig).args(["--admin", "127.0.0.1:0", "--lease-namespace", NAMESPACE]);
        if role == "gateway" {
            command.args(["--workers", "2"]);
        }
        command.env_remove("HEADWATER_LOG").env("POD_NAME", name).stdin(Stdio::null());
        let child = command.args(arguments).stdout(file("stdout")?).stderr(file("stderr")?).spawn()?;
        let mut role = Self { child, output, admin: SocketAddr::from(([127, 0, 0, 1], 0)) };
        role.admin = wait::value(PATIENCE, || role.log().iter().find_map(|line| line["admin"].as_str()?.parse().ok()))
            .with_context(|| role.stderr())?;
        Ok(role)
    }

    pub(crate) async fn gateway(cluster: &Cluster, class: &str, arguments: &[&str]) -> Result<Self> {
        let kubeconfig = credentials(cluster, "gateway").await?;
        let class = ["--ingress-class", class];
        let role = Self::start(&kubeconfig, "gateway", class[1], &[&class[..], arguments].concat())?;
        role.ready()?;
        Ok(role)
    }

    /// Waits until it is ready.
    pub(crate) fn ready(&self) -> Result<()> {
        wait::until(PATIENCE, || self.get("/readyz").is_ok_and(|answer| answer.status == 200))
            .with_context(|| self.stderr())
    }

    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(self.output.path().join("stderr")).unwrap_or_default()
    }

    /// Lines of the log.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.stderr().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until a line of the log has the text.
    pub(crate) fn says(&self, text: &str) -> Result<()> {
        wait::until(PATIENCE, || self.stderr().contains(text)).with_context(|| format!("{text}\n{}", self.stderr()))
    }

    pub(crate) fn get(&self, path: &str) -> Result<Response> {
        RawClient::connect(self.admin)?.request(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    pub(crate) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.get("/status")?.body)?)
    }

    /// The value of a metric without labels.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let text = self.get("/metrics")?.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("{name} in {text}"))?.parse()?)
    }

    pub(crate) fn address(&self, listener: &str) -> Result<SocketAddr> {
        wait::value(PATIENCE, || {
            let status = self.status().ok()?;
            let mut listeners = status["listeners"].as_array()?.iter();
            listeners.find(|known| known["name"] == listener)?["address"].as_str()?.parse().ok()
        })
        .with_context(|| self.stderr())
    }

    /// Status and body for a host on plain HTTP, over a new connection.
    pub(crate) fn ask(&self, host: &str) -> Result<(u16, String)> {
        let mut client = RawClient::connect(self.address("http")?)?;
        let answer = client.request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))?;
        Ok((answer.status, answer.text()))
    }

    /// Waits until a host is answered so. Returns how long that took.
    pub(crate) fn answers(&self, host: &str, expected: (u16, &str)) -> Result<Duration> {
        let start = Instant::now();
        let address = self.address("http")?;
        let mut last = None;
        let asked = wait::until(PATIENCE, || {
            let answer = RawClient::connect(address)
                .and_then(|mut client| client.request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")));
            last = Some(answer.map(|answer| (answer.status, answer.text())));
            matches!(&last, Some(Ok((status, text))) if *status == expected.0 && text.contains(expected.1))
        });
        asked.with_context(|| format!("{host}: {last:?} is not {expected:?}\n{}", self.stderr()))?;
        Ok(start.elapsed())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(i32::try_from(self.child.id())?).context("process identifier")?;
        Ok(kill_process(id, signal)?)
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        wait::value(PATIENCE, || self.child.try_wait().ok().flatten()).with_context(|| self.stderr())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // Both fail only for a process that has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.stderr());
        }
    }
}
