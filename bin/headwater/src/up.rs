//! `headwater up DIR`: everything that a directory of manifests asks for, in one process.

use std::path::PathBuf;
use std::process::ExitCode;

use headwater_control::Control;
use headwater_process::metrics::Registry;
use headwater_process::telemetry::LogLevel;
use headwater_translate::Options;

use crate::cluster::{LabelArgs, interfaces};
use crate::running::{Running, ServeArgs, stop_signal};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of manifests
    directory: PathBuf,
    #[command(flatten)]
    labels: LabelArgs,
    #[command(flatten)]
    serve: ServeArgs,
}

pub(crate) async fn run(args: Args, level: LogLevel) -> anyhow::Result<ExitCode> {
    let options = Options { interfaces: interfaces(), ..args.labels.embedded() };
    let control = Control::start(&args.directory, options, Box::new(|object| object)).await?;
    let running = Running::start(control, &args.serve, Registry::new(), level).await?;
    running.configured().await?;
    tracing::info!(directory = %args.directory.display(), admin = %running.admin_address(), "headwater is up");
    stop_signal().await?;
    running.stop(&args.serve).await
}
