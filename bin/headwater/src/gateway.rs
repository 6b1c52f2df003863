//! `headwater gateway`: serves what an API server asks for, and tells the controller how it does.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use headwater_control::{Control, Findings};
use headwater_gateway::Applied;
use headwater_kube_io::{ApiServer, HEARTBEAT_DURATION, HEARTBEAT_RENEW, Heartbeat, HeartbeatSettings, LeaseName};
use headwater_model::report::{GatewayReport, ListenerReport};
use headwater_process::metrics::Registry;
use headwater_process::telemetry::LogLevel;
use headwater_translate::{Options, is_about_secrets};
use tokio::sync::watch;

use crate::cluster::{ClusterArgs, GATEWAY_LABEL, interfaces, pod_name, pod_uid};
use crate::running::{Running, ServeArgs, stop_signal};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    serve: ServeArgs,
}

pub(crate) async fn run(args: Args, level: LogLevel) -> anyhow::Result<ExitCode> {
    let server = args.cluster.connect().await?;
    let namespace = args.cluster.namespace(&server);
    let registry = Registry::new();
    let selection = args.cluster.selection(&namespace, false);
    let control =
        Control::follow(&server, selection, Options { interfaces: interfaces(), ..args.cluster.options() }, &registry);
    let findings = control.findings();
    let running = Running::start(control, &args.serve, registry, level).await?;
    tracing::info!(admin = %running.admin_address(), namespace, "gateway is up");
    let heartbeat = heartbeat(&server, namespace);
    tokio::select! {
        signal = stop_signal() => signal?,
        () = report(&heartbeat, running.watch_applied(), findings) => {}
    }
    let code = running.stop(&args.serve).await;
    heartbeat.stop().await;
    code
}

fn heartbeat(server: &ApiServer, namespace: String) -> Heartbeat {
    let name = pod_name();
    let (label, value) = GATEWAY_LABEL;
    Heartbeat::start(
        server,
        HeartbeatSettings {
            lease: LeaseName { namespace, name: name.clone() },
            holder: name,
            labels: BTreeMap::from([(label.to_owned(), value.to_owned())]),
            pod_uid: pod_uid(),
            duration: HEARTBEAT_DURATION,
            renew: HEARTBEAT_RENEW,
        },
    )
}

/// Tells what only a gateway knows, whenever it changes; never ends.
async fn report(
    heartbeat: &Heartbeat,
    mut applied: watch::Receiver<Applied>,
    mut findings: watch::Receiver<Arc<Findings>>,
) {
    loop {
        let (now, found) = (applied.borrow_and_update().clone(), findings.borrow_and_update().clone());
        if now.generation != 0 {
            let listeners = now.listeners.into_iter().map(|listener| {
                let place = listener.address.unwrap_or(listener.asked);
                let (address, port) = (place.ip(), place.port());
                let (name, origin, error) = (listener.name.to_string(), listener.origin, listener.error);
                ListenerReport { name, origin, address, port, error }
            });
            let about_secrets = found.iter().filter(|finding| is_about_secrets(finding));
            let report = GatewayReport::new(env!("CARGO_PKG_VERSION"), listeners, about_secrets);
            heartbeat.report(&report.encode());
        }
        let changed = tokio::select! {
            changed = applied.changed() => changed,
            changed = findings.changed() => changed,
        };
        if changed.is_err() {
            return std::future::pending().await;
        }
    }
}
