//! The programs a run needs, and what to say when they are not there.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cases::Case;

/// Programs by path.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) nginx: PathBuf,
    pub(crate) haproxy: PathBuf,
    pub(crate) wrk: PathBuf,
    pub(crate) h2load: PathBuf,
    pub(crate) taskset: PathBuf,
    pub(crate) setpriv: PathBuf,
    pub(crate) unshare: PathBuf,
    pub(crate) ip: PathBuf,
}

impl Programs {
    /// Looks for what `cases` need.
    ///
    /// # Errors
    /// Names every missing program and the Debian packages that have them.
    pub(crate) fn find(cases: &[Case]) -> Result<Self> {
        let gateways = cases.iter().any(|case| case.is_about_gateways());
        let mut missing = Vec::new();
        let mut find = |name: &str, package: &'static str, needed: bool| {
            let path = look_up(name);
            if path.is_none() && needed {
                missing.push((name.to_owned(), package));
            }
            path.unwrap_or_default()
        };
        let programs = Self {
            nginx: find("nginx", "nginx", gateways),
            haproxy: find("haproxy", "haproxy", gateways),
            wrk: find("wrk", "wrk", gateways),
            h2load: find("h2load", "nghttp2-client", cases.contains(&Case::H2_1k)),
            taskset: find("taskset", "util-linux", true),
            setpriv: find("setpriv", "util-linux", true),
            unshare: find("unshare", "util-linux", true),
            ip: find("ip", "iproute2", true),
        };
        if missing.is_empty() {
            return Ok(programs);
        }
        let names: Vec<_> = missing.iter().map(|(name, _)| name.as_str()).collect();
        let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
        packages.dedup();
        bail!("not in PATH: {} (try: apt-get install {})", names.join(", "), packages.join(" "))
    }

    /// One line for each program whose version the figures depend on.
    pub(crate) fn versions(&self) -> Vec<String> {
        [(&self.nginx, "-v"), (&self.haproxy, "-v"), (&self.wrk, "-v"), (&self.h2load, "--version")]
            .into_iter()
            .filter_map(|(program, flag)| first_line(program, flag))
            .collect()
    }
}

/// The Headwater binaries to measure: those given, or the newest default.
///
/// # Errors
/// When one that was given does not exist, or when none was built.
pub(crate) fn headwater(given: &[PathBuf], peers_only: bool) -> Result<Vec<PathBuf>> {
    if peers_only {
        return Ok(Vec::new());
    }
    if given.is_empty() {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let defaults = [target.join("dist/headwater"), target.join("release/headwater")];
        let Some(found) = defaults.iter().find(|path| path.exists()) else {
            bail!(
                "no headwater binary at {} or {} (try: cargo build --profile dist, or --headwater PATH, or --peers-only)",
                defaults[0].display(),
                defaults[1].display()
            );
        };
        return Ok(vec![found.canonicalize()?]);
    }
    given
        .iter()
        .map(|path| path.canonicalize().with_context(|| format!("headwater binary {}", path.display())))
        .collect()
}

/// Daemons live in `/usr/sbin`, which is not in everybody's PATH.
fn look_up(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// First line that `program flag` writes to either stream.
pub(crate) fn first_line(program: &Path, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}
