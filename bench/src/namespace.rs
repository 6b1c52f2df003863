//! A network namespace for the whole run: own loopback, own congestion control, nobody else's packets.

use std::env;
use std::fs::{self, File, TryLockError};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools::Programs;

/// Set in the process that runs inside.
const INSIDE: &str = "HEADWATER_BENCH_NAMESPACE";

/// Open files asked for: 10,000 idle connections and some.
const OPEN_FILES: u64 = 65_536;

/// Runs this program again inside a new network namespace; inside, brings loopback up and returns.
///
/// Root makes the namespace directly, anybody else through a user namespace.
///
/// # Errors
/// When the kernel allows neither.
pub(crate) fn enter(programs: &Programs) -> Result<()> {
    if env::var_os(INSIDE).is_some() {
        return prepare(programs);
    }
    let mut command = Command::new(&programs.unshare);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--net").arg(env::current_exe()?).args(env::args_os().skip(1));
    let by = if rustix::process::geteuid().is_root() { "root" } else { "user" };
    let error = command.env(INSIDE, by).exec();
    Err(error).with_context(|| programs.unshare.display().to_string())
}

/// Waits until no other run is under way on this machine: two would measure each other. Held until dropped.
///
/// # Errors
/// When the lock file cannot be opened.
pub(crate) fn alone() -> Result<File> {
    let path = env::temp_dir().join("headwater-bench.lock");
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = open.with_context(|| path.display().to_string())?;
    match lock.try_lock() {
        Ok(()) => return Ok(lock),
        Err(TryLockError::WouldBlock) => eprintln!("another run is under way; waiting for its end"),
        Err(TryLockError::Error(error)) => return Err(error).with_context(|| path.display().to_string()),
    }
    lock.lock().with_context(|| path.display().to_string())?;
    Ok(lock)
}

/// True when root inside is an ordinary user outside: such a root may not change users.
pub(crate) fn is_mapped() -> bool {
    env::var_os(INSIDE).is_some_and(|by| by == "user")
}

fn prepare(programs: &Programs) -> Result<()> {
    let up = Command::new(&programs.ip).args(["link", "set", "lo", "up"]).status()?;
    if !up.success() {
        bail!("loopback of the new network namespace does not come up: {up}");
    }
    let control = "/proc/sys/net/ipv4/tcp_congestion_control";
    fs::write(control, "reno").with_context(|| control.to_owned())?;
    raise_open_files();
    Ok(())
}

/// As far as allowed; the memory case says so when it is not enough.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let _best_effort = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// Files that this process may open.
pub(crate) fn open_files() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}
