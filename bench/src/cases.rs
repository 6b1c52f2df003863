//! The cases, and the lab they run in.

mod alb;
mod cluster;
mod control_plane;
mod memory;
mod requests;
mod route_edit;
mod services;
mod streams;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tempfile::TempDir;

pub(crate) use self::services::Sizes;

use crate::RunArgs;
use crate::albs::Mix;
use crate::machine::{self, Shuffler};
use crate::manifests::{HOST, ORIGINS, TLS_HOST};
use crate::process::{Process, pinned};
use crate::report::Section;
use crate::tools::{Programs, first_line};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// HTTP/1.1 keep-alive, 1 KiB body
    #[value(name = "h1-1k")]
    H1_1k,
    /// HTTP/1.1 keep-alive, 1 MiB body
    #[value(name = "h1-1m")]
    H1_1m,
    /// TLS 1.3 keep-alive, 1 KiB body
    #[value(name = "tls-1k")]
    Tls1k,
    /// Full TLS 1.3 handshakes, one request on each
    #[value(name = "tls-handshake")]
    TlsHandshake,
    /// HTTP/2 with prior knowledge, 16 connections with 4 streams each, 1 KiB body
    #[value(name = "h2-1k")]
    H2_1k,
    /// 10,000 Ingress rules beside 10, Headwater against itself
    #[value(name = "rules-10k")]
    Rules10k,
    /// Every request traced, and counted for the ALB's metrics, Headwater against itself
    #[value(name = "tracing")]
    Tracing,
    /// ALB Rules by host: 10, 1,000 and 10,000, Headwater against itself
    AlbHost,
    /// ALB Rules by the beginning of the URL
    AlbPrefix,
    /// ALB Rules by regular expressions on the URL
    AlbRegex,
    /// ALB Rules by a header
    AlbHeader,
    /// An authentication server that is asked about every request, beside nginx
    ForwardAuth,
    /// TCP carried, 1 MiB at a time, beside HAProxy and nginx
    Tcp,
    /// TCP carried, 1 KiB at a time
    TcpSmall,
    /// UDP carried, beside nginx
    Udp,
    /// From the edit of one of 5,000 rules to the first request that sees it
    #[value(name = "route-edit")]
    RouteEdit,
    /// Memory after 1 MiB responses, and for each of 10,000 idle connections
    #[value(name = "memory")]
    Memory,
    /// Both roles in a cluster of 5,000 Ingresses: start, single changes, status, a minute at rest
    #[value(name = "control-plane")]
    ControlPlane,
    /// Services in the kernel of a node, beside kube-proxy: start, single changes, memory, CPU
    #[value(name = "services")]
    Services,
    /// Connections and throughput through Services, by every way, beside kube-proxy
    #[value(name = "services-path")]
    ServicesPath,
}

impl Case {
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// Whether nginx, HAProxy and a load generator are needed.
    pub(crate) fn is_about_gateways(self) -> bool {
        !matches!(self, Self::ControlPlane | Self::Services | Self::ServicesPath)
    }

    /// # Errors
    /// When a proxy does not start, or ends, or the load cannot be run.
    pub(crate) fn run(self, lab: &Lab) -> Result<Section> {
        match self {
            Self::RouteEdit => route_edit::run(lab),
            Self::Memory => memory::run(lab),
            Self::ControlPlane => control_plane::run(lab),
            Self::Services => services::run(lab),
            Self::ServicesPath => services::path(lab),
            Self::Rules10k => requests::rules(lab),
            Self::Tracing => requests::tracing(lab),
            Self::AlbHost => alb::rules(lab, self, Mix::Host),
            Self::AlbPrefix => alb::rules(lab, self, Mix::Prefix),
            Self::AlbRegex => alb::rules(lab, self, Mix::Regex),
            Self::AlbHeader => alb::rules(lab, self, Mix::Header),
            Self::ForwardAuth => alb::forward_auth(lab),
            Self::Tcp | Self::TcpSmall => streams::tcp(lab, self),
            Self::Udp => streams::udp(lab),
            other => requests::peers(lab, other),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("hidden", |value| value.get_name()))
    }
}

/// The certificate of every TLS listener: ECDSA P-256, self-signed.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one file, for HAProxy.
    pub(crate) combined: PathBuf,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

/// Everything that cases share: origins, certificate, folder of the run.
pub(crate) struct Lab {
    pub(crate) args: RunArgs,
    pub(crate) programs: Programs,
    pub(crate) headwater: Vec<PathBuf>,
    pub(crate) origins: [SocketAddr; 2],
    /// The origin of UDP.
    pub(crate) datagrams: SocketAddr,
    pub(crate) certificate: Certificate,
    pub(crate) shuffler: RefCell<Shuffler>,
    seed: u64,
    numbers: Cell<u16>,
    // Before the folder: the origins log into it.
    _origin_processes: Vec<Process>,
    folder: RefCell<TempDir>,
}

impl Lab {
    /// Starts the origins on the load's core, and moves this process there.
    ///
    /// # Errors
    /// When a core does not exist or an origin does not start.
    pub(crate) fn start(args: RunArgs, programs: Programs, headwater: Vec<PathBuf>) -> Result<Self> {
        for core in [args.proxy_core, args.load_core] {
            machine::CoreTimes::of(core)?;
        }
        if args.proxy_core == args.load_core {
            anyhow::bail!("proxy and load share core {}: give --proxy-core and --load-core two cores", args.load_core);
        }
        let mut cores = rustix::thread::CpuSet::new();
        cores.set(args.load_core);
        rustix::thread::sched_setaffinity(None, &cores).context("load core")?;
        let folder = tempfile::Builder::new().prefix("headwater-bench-").tempdir()?;
        let origins: [SocketAddr; 2] = [9000, 9001].map(|port| (Ipv4Addr::LOCALHOST, port).into());
        let mut origin_processes = Vec::new();
        for (name, address) in ORIGINS.iter().zip(origins) {
            let mut command = pinned(&programs, args.load_core, &std::env::current_exe()?);
            command.args(["origin", "--name", name, "--listen", &address.to_string()]);
            origin_processes.push(Process::start(&format!("origin-{name}"), command, folder.path())?);
        }
        let datagrams: SocketAddr = (Ipv4Addr::LOCALHOST, 9002).into();
        let mut command = pinned(&programs, args.load_core, &std::env::current_exe()?);
        command.args(["datagram-origin", "--listen", &datagrams.to_string()]);
        origin_processes.push(Process::start("datagram-origin", command, folder.path())?);
        let seed = args.seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, clock_seed));
        Ok(Self {
            certificate: Certificate::write(&folder)?,
            shuffler: RefCell::new(Shuffler::new(seed)),
            seed,
            numbers: Cell::new(0),
            _origin_processes: origin_processes,
            folder: RefCell::new(folder),
            args,
            programs,
            headwater,
            origins,
            datagrams,
        })
    }

    /// Machine, versions and arguments: what every figure needs beside it.
    pub(crate) fn preamble(&self) -> String {
        let args = &self.args;
        let mut lines = vec![
            format!("machine: {}", machine::describe()),
            format!("proxy on core {}, load and origin on core {}", args.proxy_core, args.load_core),
            format!("{} rounds of {} s, seed {}", args.rounds, args.seconds, self.seed),
        ];
        lines.extend(self.programs.versions());
        for binary in &self.headwater {
            let version = first_line(binary, "--version").unwrap_or_default();
            lines.push(format!("{version} at {}", binary.display()));
        }
        lines.iter().map(|line| format!("{line}  \n")).collect()
    }

    pub(crate) fn new_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.borrow().path().join(format!("{name}-{}", self.next_number()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Counts up; for ports and folders.
    pub(crate) fn next_number(&self) -> u16 {
        self.numbers.replace(self.numbers.get() + 1)
    }

    /// Leaves the folder behind for whoever must find out what went wrong.
    pub(crate) fn keep_folder(&self) -> String {
        let mut folder = self.folder.borrow_mut();
        folder.disable_cleanup(true);
        folder.path().display().to_string()
    }

    /// Waits until both cores are quiet, or patience ends.
    pub(crate) fn wait_for_quiet(&self) -> Result<machine::Waited> {
        let cores = [self.args.proxy_core, self.args.load_core];
        machine::wait_for_quiet(&cores, Duration::from_secs(self.args.patience))
    }
}

fn clock_seed(now: Duration) -> u64 {
    now.as_secs() ^ u64::from(now.subsec_nanos()) << 20
}

impl Certificate {
    fn write(folder: &TempDir) -> Result<Self> {
        let names = vec![TLS_HOST.to_owned(), HOST.to_owned()];
        let made = rcgen::generate_simple_self_signed(names)?;
        let (certificate_pem, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
        let file = |name: &str, text: &str| -> Result<PathBuf> {
            let path = folder.path().join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        Ok(Self {
            certificate: file("tls.crt", &certificate_pem)?,
            key: file("tls.key", &key_pem)?,
            combined: file("tls.pem", &format!("{certificate_pem}{key_pem}"))?,
            certificate_pem,
            key_pem,
        })
    }
}
