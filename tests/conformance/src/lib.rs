//! A gateway on free ports, configured by manifests, inside the test's own process.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use headwater_conformance_tests::Stand;
//! use headwater_testkit::{client::RawClient, origin::Origin};
//!
//! let origin = Origin::http("one")?;
//! let stand = Stand::start(&[
//!     ("gateway.yaml", Stand::gateway("")),
//!     ("app.yaml", Stand::app("app", "app.test", &[origin.address()])),
//! ])?;
//! let answer = RawClient::connect(stand.address("http"))?.request("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")?;
//! assert_eq!(answer.status, 200);
//! # Ok(()) }
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use headwater_control::{Control, Findings};
use headwater_gateway::{AlbMetrics, AlbMetricsServer, Applied, Config, Gateway, GatewayMetrics, Token};
use headwater_process::access_log::AccessLogSink;
use headwater_process::metrics::Registry;
use headwater_testkit::dir::ManifestDir;
use headwater_testkit::wait;
use headwater_translate::Options;

/// A running gateway; it stops when dropped.
pub struct Stand {
    pub dir: ManifestDir,
    runtime: Option<tokio::runtime::Runtime>,
    control: Option<Control>,
    gateway: Option<Gateway>,
    registry: Registry,
    metrics: GatewayMetrics,
    alb: AlbMetrics,
    applied: tokio::sync::watch::Receiver<Applied>,
    log: SharedLog,
}

#[derive(Clone, Default)]
struct SharedLog(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for SharedLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().map_err(|_| std::io::ErrorKind::Other)?.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Stand {
    /// Serves the manifests with two workers, and waits until every listener is open.
    pub fn start(files: &[(&str, String)]) -> Result<Self> {
        let dir = ManifestDir::new()?;
        for (name, text) in files {
            dir.write(name, text)?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let log = SharedLog::default();
        let sink = AccessLogSink::new(log.clone())?;
        let registry = Registry::new();
        let alb = AlbMetrics::new();
        let metrics = GatewayMetrics::register(&registry).with_alb(alb.clone());
        let (control, gateway) = runtime.block_on(async {
            let control = Control::start(dir.path(), Options::embedded(), Box::new(|object| object)).await?;
            let gateway = Gateway::start(
                &Config { workers: 2, instance: "stand".to_owned() },
                control.snapshots(),
                &metrics,
                &sink,
            )?;
            let mut applied = gateway.applied();
            tokio::time::timeout(wait::DEADLINE, applied.wait_for(|applied| applied.generation != 0))
                .await
                .context("the first snapshot was not applied in time")??;
            anyhow::Ok((control, gateway))
        })?;
        // The sink's writer lives as long as its buffers, which the workers hold.
        std::mem::forget(sink);
        let applied = gateway.applied();
        let stand = Self {
            dir,
            runtime: Some(runtime),
            control: Some(control),
            gateway: Some(gateway),
            registry,
            metrics,
            alb,
            applied,
            log,
        };
        for listener in &stand.applied().listeners {
            anyhow::ensure!(listener.error.is_none(), "{listener:?}");
        }
        Ok(stand)
    }

    /// Manifest of a class and its GatewaySettings `test/gateway`: listeners `http` and `https` on free ports of every
    /// address. `spec` is more of its spec, in YAML without indentation.
    pub fn gateway(spec: &str) -> String {
        let listeners =
            "listeners:\n  - {name: http, port: 0, protocol: HTTP}\n  - {name: https, port: 0, protocol: HTTPS}\n";
        Self::gateway_with(&format!("{listeners}{spec}"))
    }

    /// The same with the whole spec given.
    pub fn gateway_with(spec: &str) -> String {
        let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata:\n  name: headwater\n  annotations:\n    \
             ingressclass.kubernetes.io/is-default-class: \"true\"\nspec:\n  controller: headwater.dev/ingress\n  parameters:\n    \
             apiGroup: headwater.dev\n    kind: GatewaySettings\n    scope: Namespace\n    namespace: test\n    name: gateway\n---\n\
             apiVersion: headwater.dev/v1alpha1\nkind: GatewaySettings\nmetadata:\n  name: gateway\n  namespace: test\nspec:\n{spec}"
        )
    }

    /// Manifests of an Ingress `test/NAME` for one host (empty: any host), its Service and its endpoints.
    pub fn app(name: &str, host: &str, endpoints: &[SocketAddr]) -> String {
        format!("{}---\n{}", Self::ingress(name, host, "/", name), Self::service(name, "", endpoints))
    }

    /// Manifest of an Ingress `test/NAME` with one Prefix path.
    pub fn ingress(name: &str, host: &str, path: &str, service: &str) -> String {
        let host = if host.is_empty() { String::new() } else { format!("host: \"{host}\"\n      ") };
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  namespace: test\nspec:\n  rules:\n    - \
             {host}http:\n        paths:\n          - path: {path}\n            pathType: Prefix\n            backend:\n              \
             service:\n                name: {service}\n                port:\n                  number: 80\n"
        )
    }

    /// Manifests of a Service `test/NAME` on port 80 and one EndpointSlice for each endpoint. `app_protocol` may be
    /// empty.
    pub fn service(name: &str, app_protocol: &str, endpoints: &[SocketAddr]) -> String {
        let app_protocol =
            if app_protocol.is_empty() { String::new() } else { format!("      appProtocol: {app_protocol}\n") };
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: test\nspec:\n  ports:\n    - port: 80\n{app_protocol}"
        );
        for (index, endpoint) in endpoints.iter().enumerate() {
            let family = if endpoint.is_ipv4() { "IPv4" } else { "IPv6" };
            text.push_str(&format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-{index}\n  namespace: test\n  \
                 labels:\n    kubernetes.io/service-name: {name}\naddressType: {family}\nports:\n  - port: {}\nendpoints:\n  - \
                 addresses: [\"{}\"]\n",
                endpoint.port(),
                endpoint.ip()
            ));
        }
        text
    }

    /// Manifests of [`Stand::service`] for UDP.
    pub fn datagrams(service: &str) -> String {
        let line = |line: &str| match line.split_once("- port: ") {
            Some((indent, port)) => format!("{indent}- {{protocol: UDP, port: {port}}}\n"),
            None => format!("{line}\n"),
        };
        service.lines().map(line).collect()
    }

    /// Manifest of a `kubernetes.io/tls` Secret `test/NAME`.
    pub fn tls_secret(name: &str, cert_pem: &str, key_pem: &str) -> String {
        let indent = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  namespace: test\ntype: kubernetes.io/tls\nstringData:\n  \
             tls.crt: |\n{}  tls.key: |\n{}",
            indent(cert_pem),
            indent(key_pem)
        )
    }

    /// 127.0.0.1 and the port of a listener.
    ///
    /// # Panics
    /// When there is no such listener, or it is not open.
    pub fn address(&self, listener: &str) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.port(listener))
    }

    /// Port of a listener.
    ///
    /// # Panics
    /// As [`Stand::address`].
    pub fn port(&self, listener: &str) -> u16 {
        let applied = self.applied();
        let found = applied.listeners.iter().find(|status| &*status.name == listener);
        found.and_then(|status| status.address).unwrap_or_else(|| panic!("no listener {listener}: {applied:?}")).port()
    }

    /// What became of the latest snapshot.
    pub fn applied(&self) -> Applied {
        self.applied.borrow().clone()
    }

    /// Findings about the manifests, right now.
    ///
    /// # Panics
    /// After [`Stand::drain`].
    pub fn findings(&self) -> std::sync::Arc<Findings> {
        self.control.as_ref().expect("running").findings().borrow().clone()
    }

    /// Makes a change, and waits until it has been applied.
    pub fn change(&self, change: impl FnOnce(&ManifestDir) -> Result<()>) -> Result<Applied> {
        let before = self.applied().generation;
        change(&self.dir)?;
        wait::until(wait::DEADLINE, || self.applied().generation > before)?;
        Ok(self.applied())
    }

    /// The metrics as Prometheus reads them.
    pub fn metrics(&self) -> String {
        self.registry.encode()
    }

    /// Value of one series, by its whole name with labels; 0 when it is not there.
    pub fn metric(&self, series: &str) -> f64 {
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        self.metrics().lines().find_map(value).unwrap_or(0.0)
    }

    /// Serves the metrics that have the ALB's names, on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// After [`Stand::drain`].
    pub fn serve_alb_metrics(&self, token: Option<&str>) -> Result<SocketAddr> {
        let runtime = self.runtime.as_ref().expect("running");
        let snapshots = self.control.as_ref().expect("running").snapshots();
        let (alb, connections) = (self.alb.clone(), self.metrics.connections());
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let bind = AlbMetricsServer::bind(any, alb, snapshots, connections, token.and_then(Token::new));
        let server = runtime.block_on(bind)?;
        let address = server.local_address();
        runtime.spawn(server.serve());
        Ok(address)
    }

    /// The access log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)).into_owned()
    }

    /// Waits until an access log line satisfies the condition, and returns it.
    pub fn log_line(&self, condition: impl Fn(&serde_json::Value) -> bool) -> Result<serde_json::Value> {
        wait::value(wait::DEADLINE, || {
            let log = self.log.0.lock().ok()?;
            let lines = log.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
            lines.into_iter().find(|line| condition(line))
        })
    }

    /// Stops accepting and waits for requests, as SIGTERM does. True when all of them finished.
    ///
    /// # Panics
    /// When called twice.
    pub fn drain(&mut self, patience: Duration) -> bool {
        drop(self.control.take());
        let gateway = self.gateway.take().expect("drained once");
        self.runtime.as_ref().expect("running").block_on(gateway.drain(patience))
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if self.gateway.is_some() {
            self.drain(Duration::ZERO);
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
