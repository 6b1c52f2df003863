//! `headwater`: parse, build, run, drain.

mod announce;
mod check;
mod cluster;
mod controller;
mod demo;
mod explain;
mod flags;
mod gateway;
mod node;
mod running;
mod status;
mod up;
mod vips;
mod whoami;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use headwater_process::telemetry::{self, LogFormat, LogLevel};

/// Kubernetes networking that keeps the client's address.
#[derive(Parser)]
#[command(name = "headwater", version, propagate_version = true)]
struct Cli {
    /// Log level, or a filter such as `info,headwater_gateway=debug` [default: $HEADWATER_LOG, else info]
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
    /// Log as JSON lines
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a gateway, example manifests and backends, and print what to try
    Demo(demo::Args),
    /// Serve everything that the manifests in a directory ask for; edits are live
    Up(up::Args),
    /// Serve what a Kubernetes API server asks for
    Gateway(gateway::Args),
    /// Write status, and judge objects before they are stored: the gateways' companion
    Controller(controller::Args),
    /// Make Services work in the kernel of this node, and keep the client where kube-proxy cannot
    Node(node::Args),
    /// Read manifests, and say what would not work, and why
    Check(check::Args),
    /// What every hop of a request sees of its client, and why
    Explain(explain::Args),
    /// What a running gateway serves and refuses
    Status(status::Args),
    /// Echo server: prints what it sees of its client
    Whoami(whoami::Args),
    /// Print every command and flag as a page of documentation
    #[command(hide = true)]
    Flags,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Check(args) => check::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Demo(args) => serve(cli.log.as_deref(), cli.log_json, |log| demo::run(args, log)),
        Command::Up(args) => serve(cli.log.as_deref(), cli.log_json, |log| up::run(args, log)),
        Command::Flags => flags::run(&Cli::command()),
        Command::Gateway(args) => serve(cli.log.as_deref(), cli.log_json, |log| gateway::run(args, log)),
        Command::Controller(args) => serve(cli.log.as_deref(), cli.log_json, |log| controller::run(args, log)),
        Command::Node(args) => serve(cli.log.as_deref(), cli.log_json, |log| node::run(args, log)),
        Command::Explain(args) => serve(cli.log.as_deref(), cli.log_json, |_| explain::run(args)),
        Command::Whoami(args) => serve(cli.log.as_deref(), cli.log_json, |_| whoami::run(args)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("headwater: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs a command that stays: with logs, and a runtime for everything but requests.
fn serve<F: Future<Output = anyhow::Result<ExitCode>>>(
    filter: Option<&str>,
    json: bool,
    command: impl FnOnce(LogLevel) -> F,
) -> anyhow::Result<ExitCode> {
    let format = if json { LogFormat::Json } else { LogFormat::Text };
    let level = telemetry::init(format, filter)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let code = runtime.block_on(command(level));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}
