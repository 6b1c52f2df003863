//! `headwater up DIR`: everything that a directory of manifests asks for, in one process.

use std::path::PathBuf;
use std::process::ExitCode;

use headwater_addresses::{Class, DirectoryAddresses, WAITING_BATCHES};
use headwater_control::Control;
use headwater_process::metrics::Registry;
use headwater_process::telemetry::LogLevel;
use headwater_translate::Options;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::cluster::{LabelArgs, MetallbArgs, interfaces};
use crate::running::{Running, ServeArgs, stop_signal};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of manifests
    directory: PathBuf,
    #[command(flatten)]
    labels: LabelArgs,
    /// Give addresses of IPAddressPools (metallb.io) to Services of this loadBalancerClass [default: to those without a class]
    #[arg(long, value_name = "CLASS")]
    lb_class: Option<String>,
    #[command(flatten)]
    metallb: MetallbArgs,
    #[command(flatten)]
    serve: ServeArgs,
}

pub(crate) async fn run(args: Args, level: LogLevel) -> anyhow::Result<ExitCode> {
    let metallb_namespace = args.metallb.metallb_namespace.clone();
    let options = Options { interfaces: interfaces(), metallb_namespace, ..args.labels.embedded() };
    let (batches, told) = mpsc::channel(WAITING_BATCHES);
    let addresses =
        DirectoryAddresses::start(&args.directory, Class(args.lb_class), &args.metallb.metallb_namespace, told);
    let control = Control::start_telling(&args.directory, options, Box::new(|object| object), Some(batches)).await?;
    let given = addresses.state();
    let more = move |status: &mut Value| status["addresses"] = json!(**given.borrow());
    let running = Running::start_with(control, &args.serve, Registry::new(), level, Box::new(more)).await?;
    running.configured().await?;
    tracing::info!(directory = %args.directory.display(), admin = %running.admin_address(), "headwater is up");
    stop_signal().await?;
    running.stop(&args.serve).await
}
