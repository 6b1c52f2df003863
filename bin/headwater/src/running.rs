//! A gateway with its source, its admin port and its access log: what every serving command runs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use headwater_control::Control;
use headwater_gateway::{AlbMetrics, AlbMetricsServer, Applied, Config, Gateway, GatewayMetrics, Token};
use headwater_model::quantity::parse_duration;
use headwater_process::access_log::AccessLogSink;
use headwater_process::admin::{self, Admin};
use headwater_process::metrics::Registry;
use headwater_process::telemetry::LogLevel;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// What every serving command takes.
#[derive(Clone, clap::Args)]
pub(crate) struct ServeArgs {
    /// Address of the admin port: metrics, health, status, snapshot
    #[arg(long, default_value_t = admin::DEFAULT_ADDRESS, value_name = "ADDRESS")]
    pub(crate) admin: SocketAddr,
    /// Threads that serve [default: one for each core]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) workers: Option<usize>,
    /// Address of metrics under the names of Alauda's ALB, such as 0.0.0.0:1936, over TLS or plain HTTP [default: none]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) alb_metrics: Option<SocketAddr>,
    /// File with the token that scrapers of those metrics have to show [default: nobody is asked for one]
    #[arg(long, value_name = "FILE", requires = "alb_metrics")]
    pub(crate) alb_metrics_token: Option<PathBuf>,
    /// How long requests may take to finish after a stop was asked for
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    pub(crate) drain: Duration,
    /// How long connections are still taken after readiness was withdrawn: until load balancers have noticed
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = duration)]
    pub(crate) pre_stop_delay: Duration,
    /// File of the access log; `-` is standard output
    #[arg(long, default_value = "-", value_name = "FILE")]
    pub(crate) access_log: PathBuf,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// Until SIGTERM or SIGINT.
pub(crate) async fn stop_signal() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Adds to what the admin port tells.
pub(crate) type More = Box<dyn Fn(&mut serde_json::Value) + Send + Sync>;

/// A gateway with its source and its admin port.
pub(crate) struct Running {
    control: Control,
    gateway: Gateway,
    admin_address: SocketAddr,
    admin: tokio::task::JoinHandle<std::convert::Infallible>,
    alb_metrics: Option<tokio::task::JoinHandle<std::convert::Infallible>>,
    access_log: AccessLogSink,
    stopping: Arc<AtomicBool>,
}

impl Running {
    /// Waits for the first configuration of `control`, and for its listeners.
    pub(crate) async fn start(
        control: Control,
        args: &ServeArgs,
        registry: Registry,
        level: LogLevel,
    ) -> anyhow::Result<Self> {
        Self::start_with(control, args, registry, level, Box::new(|_| {})).await
    }

    /// As [`Self::start`], and its status says `more`.
    pub(crate) async fn start_with(
        control: Control,
        args: &ServeArgs,
        registry: Registry,
        level: LogLevel,
        more: More,
    ) -> anyhow::Result<Self> {
        if let Err(error) = headwater_net_io::limits::raise_open_file_limit() {
            tracing::warn!(%error, "limit of open files stays as it is");
        }
        let access_log = match args.access_log.as_os_str() == "-" {
            true => AccessLogSink::stdout()?,
            false => AccessLogSink::file(&args.access_log).with_context(|| args.access_log.display().to_string())?,
        };
        let mut metrics = GatewayMetrics::register(&registry);
        let alb = args.alb_metrics.map(|address| (address, AlbMetrics::new()));
        if let Some((_, alb)) = &alb {
            metrics = metrics.with_alb(alb.clone());
        }
        registry.counter_fn(
            "access_log_dropped_lines",
            "Lines of the access log that nobody took in time",
            access_log.dropped_lines_counter(),
        );
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let config = Config { workers: args.workers.unwrap_or(cores), instance: crate::cluster::pod_name() };
        let gateway = Gateway::start(&config, control.snapshots(), &metrics, &access_log)?;
        log_listeners(gateway.applied());
        // Probes are answered while the first configuration is awaited.
        let stopping = Arc::new(AtomicBool::new(false));
        let server = admin(&control, &gateway, registry, level, stopping.clone(), more).bind(args.admin).await?;
        let admin_address = server.local_address();
        let admin = tokio::spawn(server.serve());
        let alb_metrics = match alb {
            Some((address, alb)) => Some(serve_alb_metrics(address, alb, args, &control, &metrics).await?),
            None => None,
        };
        Ok(Self { control, gateway, admin_address, admin, alb_metrics, access_log, stopping })
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// What the gateway does with the configuration; changes with it.
    pub(crate) fn watch_applied(&self) -> tokio::sync::watch::Receiver<Applied> {
        self.gateway.applied()
    }

    /// What the gateway did with the configuration, once there is one.
    pub(crate) async fn configured(&self) -> anyhow::Result<Applied> {
        Ok(self.gateway.applied().wait_for(|applied| applied.generation != 0).await?.clone())
    }

    /// Readiness goes first, and after the delay the listeners, then what is idle, then the rest.
    pub(crate) async fn stop(self, args: &ServeArgs) -> anyhow::Result<ExitCode> {
        self.stopping.store(true, Ordering::Relaxed);
        // Load balancers in front of an ALB look at this port.
        if let Some(server) = self.alb_metrics {
            server.abort();
        }
        let (delay, patience) = (args.pre_stop_delay, args.drain);
        if !delay.is_zero() {
            tracing::info!(delay_seconds = delay.as_secs_f64(), "not ready any more; connections are still taken");
            tokio::time::sleep(delay).await;
        }
        tracing::info!(patience_seconds = patience.as_secs_f64(), "draining");
        drop(self.control);
        let finished = self.gateway.drain(patience).await;
        if !finished {
            tracing::warn!("requests were cut off at the end of the drain");
        }
        self.admin.abort();
        self.access_log.close(Duration::from_secs(2));
        Ok(ExitCode::SUCCESS)
    }
}

/// Starts the server of metrics under the names of Alauda's ALB.
async fn serve_alb_metrics(
    address: SocketAddr,
    alb: AlbMetrics,
    args: &ServeArgs,
    control: &Control,
    metrics: &GatewayMetrics,
) -> anyhow::Result<tokio::task::JoinHandle<std::convert::Infallible>> {
    let token = match &args.alb_metrics_token {
        None => None,
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            Some(Token::new(&text).with_context(|| format!("{} has no token", file.display()))?)
        }
    };
    let server = AlbMetricsServer::bind(address, alb, control.snapshots(), metrics.connections(), token)
        .await
        .with_context(|| format!("--alb-metrics {address} cannot be listened on"))?;
    tracing::info!(address = %server.local_address(), "metrics under the names of the ALB");
    Ok(tokio::spawn(server.serve()))
}

/// Tells each change of a listener once.
fn log_listeners(mut applied: tokio::sync::watch::Receiver<Applied>) {
    tokio::spawn(async move {
        let mut before = Applied::default();
        loop {
            let now = applied.borrow_and_update().clone();
            for listener in now.listeners.iter().filter(|listener| !before.listeners.contains(listener)) {
                match (&listener.error, listener.address) {
                    (Some(error), _) => {
                        tracing::error!(listener = %listener.name, origin = %listener.origin, "{error}")
                    }
                    (None, Some(address)) => {
                        tracing::info!(listener = %listener.name, %address, protocol = ?listener.protocol, "listening");
                    }
                    (None, None) => {}
                }
            }
            for fault in now.faults.iter().filter(|fault| !before.faults.contains(fault)) {
                tracing::error!("{fault}");
            }
            before = now;
            if applied.changed().await.is_err() {
                return;
            }
        }
    });
}

fn admin(
    control: &Control,
    gateway: &Gateway,
    registry: Registry,
    level: LogLevel,
    stopping: Arc<AtomicBool>,
    more: More,
) -> Admin {
    let applied = gateway.applied();
    let ready = {
        let applied = applied.clone();
        move || {
            if stopping.load(Ordering::Relaxed) {
                return Err("draining".to_owned());
            }
            let applied = applied.borrow();
            if applied.generation == 0 {
                return Err("the first configuration is awaited".to_owned());
            }
            let open = applied.listeners.iter().filter(|listener| listener.error.is_none()).count();
            if open > 0 { Ok(()) } else { Err("no listener is open".to_owned()) }
        }
    };
    let snapshots = control.snapshots();
    let findings = control.findings();
    Admin::new(registry).log_level(level).ready(ready).snapshot(move || snapshots.load()).status(move || {
        let (applied, findings) = (applied.borrow().clone(), findings.borrow().clone());
        let mut status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "generation": applied.generation,
            "listeners": applied.listeners,
            "faults": applied.faults,
            "findings": *findings,
        });
        more(&mut status);
        status
    })
}
