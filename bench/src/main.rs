//! Headwater beside nginx, HAProxy and kube-proxy: CPU, throughput, latency and memory, on the same cores in one run.
//!
//! Everything happens in a network namespace of its own. The proxy has one core, load and origin share another; in the
//! cases `control-plane`, `services` and `services-path`, which start a cluster or its nodes, everything shares both.
//! `docs/benchmarks.md` says how it is measured and how far to trust it.

mod albs;
mod cases;
mod datagrams;
mod handshake;
mod load;
mod machine;
mod manifests;
mod namespace;
mod origin;
mod probe;
mod process;
mod report;
mod stats;
mod subject;
mod tools;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::cases::{Case, Lab, Sizes};

#[derive(Parser)]
#[command(name = "headwater-bench", about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    run: RunArgs,
}

/// What to measure, and how patiently.
#[derive(Debug, Clone, Args)]
struct RunArgs {
    /// Case to run; may be given several times [default: all]
    #[arg(long = "case", value_enum)]
    cases: Vec<Case>,
    /// Rounds; each runs every proxy once, in shuffled order; `control-plane`: starts of each role; `services`: of the agent
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of a run in seconds
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// File for every run and figure, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Headwater binary; give it twice to compare two builds, the first is judged
    /// [default: target/dist/headwater, then target/release/headwater]
    #[arg(long)]
    headwater: Vec<PathBuf>,
    /// Measure nginx and HAProxy alone
    #[arg(long, conflicts_with = "headwater")]
    peers_only: bool,
    /// Core of the proxy
    #[arg(long, default_value_t = 0)]
    proxy_core: usize,
    /// Core of the load and of the origin
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Drop runs in which others took more than this share of the proxy's core, in percent
    #[arg(long, default_value_t = 35.0)]
    max_foreign: f64,
    /// Seconds to wait for a quiet moment before a run
    #[arg(long, default_value_t = 20)]
    patience: u64,
    /// Seed of the shuffling [default: the clock]
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    sizes: Sizes,
}

/// Processes that a run starts for itself.
#[derive(Subcommand)]
enum Role {
    /// Origin server: canned responses of 100 B, 1 KiB and 1 MiB, by the last element of the path
    Origin {
        #[arg(long)]
        listen: SocketAddr,
        /// Value of the X-Origin header
        #[arg(long, default_value = "a")]
        name: String,
    },
    /// Origin of UDP: every datagram goes back where it came from
    DatagramOrigin {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Load of UDP: flows with one datagram each under way
    Datagrams {
        #[arg(long)]
        target: SocketAddr,
        #[arg(long)]
        seconds: u32,
        #[arg(long, default_value_t = 64)]
        flows: usize,
    },
    /// Load of full TLS handshakes, one request on each
    Handshake {
        #[arg(long)]
        target: SocketAddr,
        /// Server name, and Host
        #[arg(long)]
        name: String,
        /// The server's certificate, PEM
        #[arg(long)]
        certificate: PathBuf,
        #[arg(long)]
        seconds: u32,
        #[arg(long, default_value_t = 32)]
        concurrency: usize,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.role {
        None => run(cli.run),
        Some(Role::Origin { listen, name }) => origin::serve(listen, &name),
        Some(Role::DatagramOrigin { listen }) => datagrams::echo(listen),
        Some(Role::Datagrams { target, seconds, flows }) => datagrams::run(target, seconds, flows),
        Some(Role::Handshake { target, name, certificate, seconds, concurrency }) => {
            handshake::run(target, &name, &certificate, seconds, concurrency)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headwater-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut args: RunArgs) -> anyhow::Result<()> {
    if args.cases.is_empty() {
        args.cases = Case::all();
    }
    let programs = tools::Programs::find(&args.cases)?;
    let headwater = tools::headwater(&args.headwater, args.peers_only)?;
    namespace::enter(&programs)?;
    let _alone = namespace::alone()?;
    let lab = Lab::start(args, programs, headwater)?;
    println!("{}", lab.preamble());
    let mut sections = Vec::new();
    for case in lab.args.cases.clone() {
        match case.run(&lab) {
            Ok(section) => {
                println!("{section}");
                sections.push(section);
            }
            // One case that cannot run must not lose the figures of the others.
            Err(error) => println!("## {case}\n\nnot measured: {error:#}\n"),
        }
    }
    if let Some(path) = &lab.args.json {
        let json = report::json(&lab.preamble(), &sections);
        std::fs::write(path, json).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
