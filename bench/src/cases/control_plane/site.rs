//! A control plane of real programs with 1,000 Services in it, and Headwater's two roles as processes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use headwater_testkit::cluster::Cluster;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::super::Lab;
use super::super::cluster::create_all;
use crate::manifests::ORIGINS;
use crate::probe::Connection;
use crate::process::Process;
use crate::tools::first_line;

/// Services with endpoints of their own, and as many EndpointSlices.
pub(super) const SERVICES: usize = 1_000;

/// Endpoints of each Service.
const ENDPOINTS: usize = 10;

/// Ingresses with one route each.
pub(super) const INGRESSES: usize = 5_000;

/// Where objects of the case live; also the name of their IngressClass.
const NAMESPACE: &str = "bench";

/// Where the rendered manifests install Headwater.
const OWN_NAMESPACE: &str = "headwater-system";

/// Ports of the origins, at every address of [`ENDPOINT_NETWORK`].
const ORIGIN_PORTS: [u16; 2] = [9_100, 9_101];

/// Addresses of endpoints, all of this host: API servers refuse those of loopback. For benchmarks by RFC 2544.
const ENDPOINT_NETWORK: &str = "198.18.0.0/15";

/// What the controller writes into status.
const PUBLISHED: &str = "192.0.2.10";

const INGRESS_PATH: &str = "/apis/networking.k8s.io/v1/namespaces/bench/ingresses";
const SERVICE_PATH: &str = "/api/v1/namespaces/bench/services";
const SLICE_PATH: &str = "/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices";

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(180);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// etcd, API server and origins.
pub(super) struct Site {
    // In the order in which they end.
    pub(super) cluster: Arc<Cluster>,
    pub(super) runtime: Runtime,
    _origins: Vec<Process>,
    folder: PathBuf,
}

impl Site {
    /// A cluster with Headwater's definitions and rights as the rendered manifests have them, and an IngressClass.
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let network = Command::new(&lab.programs.ip)
            .args(["route", "add", "local", ENDPOINT_NETWORK, "dev", "lo"])
            .output()
            .context("ip route")?;
        let said = String::from_utf8_lossy(&network.stderr);
        // A second case of the same run finds it there.
        ensure!(network.status.success() || said.contains("File exists"), "ip route add {ENDPOINT_NETWORK}: {said}");
        let folder = lab.new_folder("control-plane")?;
        let mut origins = Vec::new();
        for (name, port) in ORIGINS.iter().zip(ORIGIN_PORTS) {
            let mut command = Command::new(&lab.programs.setpriv);
            command.args(["--pdeathsig", "TERM"]).arg(std::env::current_exe()?);
            command.args(["origin", "--name", name, "--listen", &format!("0.0.0.0:{port}")]);
            origins.push(Process::start(&format!("origin-{name}"), command, &folder)?);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        // Without the programs the harness of clusters panics, which must not end the whole run.
        let cluster = runtime.block_on(runtime.spawn(Cluster::builder().audit().start()))??;
        runtime.block_on(install(&cluster))?;
        Ok(Self { cluster: Arc::new(cluster), runtime, _origins: origins, folder })
    }

    /// Versions of the programs.
    pub(super) fn versions(&self) -> Vec<String> {
        let version = |name: &str| first_line(&self.cluster.program(name).ok()?, "--version");
        ["kube-apiserver", "etcd"].into_iter().filter_map(version).collect()
    }

    /// Makes every Service and its EndpointSlice; the endpoints are at origin `a`.
    pub(super) fn fill_services(&self) -> Result<()> {
        self.make_many(SERVICES, |number| (SERVICE_PATH, service(&service_name(number))))?;
        self.make_many(SERVICES, |number| (SLICE_PATH, slice(&service_name(number), number, 0)))?;
        for (origin, name) in ORIGINS.iter().enumerate() {
            let (name, number) = (format!("origin-{name}"), SERVICES + origin);
            self.runtime.block_on(async {
                self.cluster.create(SERVICE_PATH, &service(&name)).await?;
                self.cluster.create(SLICE_PATH, &slice(&name, number, origin)).await
            })?;
        }
        Ok(())
    }

    /// Makes every Ingress, one after the other with a few requests under way at once.
    pub(super) fn fill_ingresses(&self) -> Result<()> {
        let object = |number| (INGRESS_PATH, ingress(&format!("route-{number}"), &host(number), &service_for(number)));
        self.make_many(INGRESSES, object)
    }

    fn make_many(&self, count: usize, object: impl Fn(usize) -> (&'static str, Value)) -> Result<()> {
        create_all(&self.runtime, &self.cluster, (0..count).map(object).collect())
    }

    /// How many Ingresses have the published address in their status.
    pub(super) fn programmed(&self) -> Result<usize> {
        let list = self.runtime.block_on(self.cluster.get(INGRESS_PATH))?;
        let items = list["items"].as_array().context("a list without items")?;
        let told = |item: &&Value| item["status"]["loadBalancer"]["ingress"][0]["ip"] == PUBLISHED;
        Ok(items.iter().filter(told).count())
    }

    /// Starts a role with the service account and the rights of the manifests.
    pub(super) fn role(&self, lab: &Lab, role: &str) -> Result<Role> {
        let Some(binary) = lab.headwater.first() else { bail!("only Headwater is measured here") };
        let account = format!("headwater-{role}");
        let credentials =
            self.runtime.block_on(self.cluster.kubeconfig_for_service_account(OWN_NAMESPACE, &account))?;
        let number = lab.next_number();
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, 13_000 + number));
        let mut command = Command::new(&lab.programs.setpriv);
        command.args(["--pdeathsig", "TERM"]).arg(binary).arg(role).arg("--kubeconfig").arg(credentials.path());
        command.args(["--admin", &admin.to_string(), "--lease-namespace", OWN_NAMESPACE, "--ingress-class", NAMESPACE]);
        match role {
            "gateway" => {
                let log = self.folder.join(format!("access-{number}.log"));
                command.args(["--drain", "1s"]).arg("--access-log").arg(log)
            }
            _ => command.args(["--publish-address", PUBLISHED]),
        };
        command.env("POD_NAME", format!("{role}-0")).env_remove("HEADWATER_LOG");
        let started = Instant::now();
        let process = Process::start(&format!("{role}-{number}"), command, &self.folder)?;
        Ok(Role { process, admin, started })
    }

    /// Makes an Ingress with a host that no other has: [`new_host`].
    pub(super) async fn add_ingress(&self, name: &str) -> Result<()> {
        let object = ingress(name, &new_host(name), &service_for(0));
        self.cluster.create(INGRESS_PATH, &object).await.map(drop)
    }

    pub(super) async fn delete_ingress(&self, name: &str) -> Result<()> {
        self.cluster.delete(&format!("{INGRESS_PATH}/{name}")).await.map(drop)
    }

    /// Lets Ingress `number` forward to the Service of an origin.
    pub(super) async fn point_ingress(&self, number: usize, origin: usize) -> Result<()> {
        let wanted = ingress("", &host(number), &format!("origin-{}", ORIGINS[origin]));
        let patch = json!({ "spec": { "rules": wanted["spec"]["rules"] } });
        self.cluster.merge(&format!("{INGRESS_PATH}/route-{number}"), &patch).await.map(drop)
    }

    /// Moves the endpoints of Service `number` to another origin.
    pub(super) async fn move_endpoints(&self, number: usize, origin: usize) -> Result<()> {
        let patch = json!({ "ports": [{ "name": "http", "port": ORIGIN_PORTS[origin], "protocol": "TCP" }] });
        self.cluster.merge(&format!("{SLICE_PATH}/{}", service_name(number)), &patch).await.map(drop)
    }
}

async fn install(cluster: &Cluster) -> Result<()> {
    let rendered = include_str!("../../../../deploy/manifests/headwater.yaml");
    // Namespaces and definitions are used by what stands below them.
    for kinds in [
        &["Namespace", "CustomResourceDefinition"][..],
        &["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"],
    ] {
        let wanted = |text: &&str| kinds.iter().any(|kind| text.lines().any(|line| line == format!("kind: {kind}")));
        let documents: Vec<&str> = rendered.split("\n---\n").filter(wanted).collect();
        cluster.apply(&documents.join("\n---\n")).await?;
    }
    let started = Instant::now();
    while cluster.find("/apis/headwater.dev/v1alpha1/gatewaysettings").await?.is_none() {
        ensure!(started.elapsed() < PATIENCE, "the API server does not serve GatewaySettings");
        tokio::time::sleep(LOOK).await;
    }
    let port = GATEWAY.port();
    let class = format!(
        "
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
---
apiVersion: headwater.dev/v1alpha1
kind: GatewaySettings
metadata: {{name: gateway, namespace: {NAMESPACE}}}
spec: {{listeners: [{{name: http, address: 127.0.0.1, port: {port}, protocol: HTTP}}]}}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {{name: {NAMESPACE}}}
spec:
  controller: headwater.dev/ingress
  parameters: {{apiGroup: headwater.dev, kind: GatewaySettings, name: gateway, namespace: {NAMESPACE}, scope: Namespace}}
"
    );
    cluster.apply(&class).await.map(drop)
}

/// Where the gateway listens.
pub(super) const GATEWAY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 12_999);

/// Host of an Ingress made by [`Site::fill_ingresses`].
pub(super) fn host(number: usize) -> String {
    format!("h{number}.example.com")
}

/// Host of an Ingress made by [`Site::add_ingress`].
pub(super) fn new_host(name: &str) -> String {
    format!("{name}.example.net")
}

fn service_name(number: usize) -> String {
    format!("service-{number}")
}

/// The Service that Ingress `number` forwards to at first: the first [`SERVICES`] have one each.
fn service_for(number: usize) -> String {
    service_name(number % SERVICES)
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "ports": [{ "name": "http", "port": 80 }] },
    })
}

fn slice(service: &str, number: usize, origin: usize) -> Value {
    let endpoint = |index: usize| {
        let place = u32::try_from(number * ENDPOINTS + index).expect("some ten thousand endpoints");
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 1, 0)) + place);
        json!({ "addresses": [address], "conditions": { "ready": true } })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": service, "labels": { "kubernetes.io/service-name": service } },
        "ports": [{ "name": "http", "port": ORIGIN_PORTS[origin], "protocol": "TCP" }],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    })
}

fn ingress(name: &str, host: &str, service: &str) -> Value {
    let backend = json!({ "service": { "name": service, "port": { "name": "http" } } });
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": name },
        "spec": { "ingressClassName": NAMESPACE, "rules": [{
            "host": host, "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] },
        }] },
    })
}

/// `headwater gateway` or `headwater controller`.
pub(super) struct Role {
    process: Process,
    admin: SocketAddr,
    started: Instant,
}

impl Role {
    /// Waits until the admin port says that it is ready. Returns how long it took from the start.
    pub(super) fn ready(&mut self) -> Result<Duration> {
        self.wait("ready", |role| role.ask("/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")))
    }

    /// Waits until it serves a host with status 200. Returns how long it took from the start.
    pub(super) fn serves(&mut self, host: &str) -> Result<Duration> {
        let served = || Ok::<_, anyhow::Error>(Connection::open(GATEWAY)?.get(host, "/")?.status == 200);
        self.wait(host, |_| served().unwrap_or_default())
    }

    /// Waits until the metric has reached a value.
    pub(super) fn reaches(&mut self, metric: &str, value: u64) -> Result<()> {
        self.wait(metric, |role| role.metric(metric).is_ok_and(|now| now >= value)).map(drop)
    }

    fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<Duration> {
        let waiting = Instant::now();
        while !done(self) {
            self.process.alive()?;
            ensure!(waiting.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            std::thread::sleep(LOOK);
        }
        Ok(self.started.elapsed())
    }

    /// The value of a metric without labels.
    pub(super) fn metric(&self, name: &str) -> Result<u64> {
        let text = self.ask("/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no metric {name}"))?.trim().parse()?)
    }

    fn ask(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// # Errors
    /// When it has ended.
    pub(super) fn alive(&mut self) -> Result<()> {
        self.process.alive()
    }

    pub(super) fn cpu(&self) -> Duration {
        self.process.cpu()
    }

    pub(super) fn pss_mib(&self) -> f64 {
        self.process.pss() as f64 / f64::from(1 << 20)
    }
}
