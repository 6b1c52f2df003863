//! Child processes of a host, or of this process's own network.
//!
//! The kernel kills them when the thread that started them ends (`PR_SET_PDEATHSIG`), so one thread of each host
//! starts them all and lives as long as the host.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::wait;

/// At most this much of a process's output is printed when a test fails.
const SHOWN: usize = 16 * 1024;

/// A program to be started, and where to say how that went.
pub(crate) struct Spawn {
    command: Command,
    done: Sender<std::io::Result<Child>>,
}

/// The output of a process, which outlives it.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    title: String,
    dir: Arc<TempDir>,
}

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: Log,
}

/// Starts what is ordered until nobody can order any more.
pub(crate) fn serve(orders: &Receiver<Spawn>) {
    for Spawn { mut command, done } in orders {
        // Whoever ordered it may have gone.
        let _ = done.send(command.spawn());
    }
}

/// Starts a program. Its output goes to a directory below `output`, or below the system's for temporary files.
pub(crate) fn spawn(orders: &Sender<Spawn>, wanted: &Command, output: Option<&Path>) -> Result<(Process, Log)> {
    let program = wanted.get_program().to_string_lossy().into_owned();
    let dir = output.map_or_else(TempDir::new, TempDir::new_in).context("directory for output")?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(wanted.get_program()).args(wanted.get_args());
    for (name, value) in wanted.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(directory) = wanted.get_current_dir() {
        command.current_dir(directory);
    }
    command.stdin(Stdio::null());
    command.stdout(File::create(dir.path().join("stdout"))?).stderr(File::create(dir.path().join("stderr"))?);
    let (done, started) = mpsc::channel();
    orders.send(Spawn { command, done }).map_err(|_| anyhow!("its thread has ended"))?;
    let child = started.recv().map_err(|_| anyhow!("its thread has ended"))?;
    let child = child.with_context(|| format!("start {program} by setpriv"))?;
    let words: Vec<_> = wanted.get_args().map(|word| word.to_string_lossy()).collect();
    let log = Log { title: format!("{program} {}", words.join(" ")), dir: Arc::new(dir) };
    let mut process = Process { child, log: log.clone() };
    // Until setpriv has become the program, the order to die with the thread may not be in place. The child starts
    // with the command line of this process; there is none at all for a moment within each exec.
    let ours = read(Path::new("/proc/self/cmdline"));
    let theirs = format!("/proc/{}/cmdline", process.id());
    wait::until(wait::DEADLINE, || {
        let line = read(Path::new(&theirs));
        let program = !line.is_empty() && line != ours && !line.starts_with("setpriv\0");
        program || process.ended().is_some()
    })?;
    if process.ended().is_some() && process.stderr().starts_with("setpriv:") {
        bail!("start {program}: {}", process.stderr().trim());
    }
    Ok((process, log))
}

fn read(path: &Path) -> String {
    // The file exists as long as the directory; what is unreadable is empty.
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

impl Log {
    fn stream(&self, name: &str) -> String {
        read(&self.dir.path().join(name))
    }

    pub(crate) fn describe(&self) -> String {
        let tail = |text: String| {
            let mut from = text.len().saturating_sub(SHOWN);
            while !text.is_char_boundary(from) {
                from += 1;
            }
            text[from..].to_owned()
        };
        format!("--- {}\n{}{}\n", self.title, tail(self.stream("stdout")), tail(self.stream("stderr")))
    }
}

impl Process {
    /// Its process identifier.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.log.stream("stdout")
    }

    /// What it has complained about so far.
    pub fn stderr(&self) -> String {
        self.log.stream("stderr")
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal by name, such as `SIGTERM` or `SIGHUP`.
    ///
    /// # Errors
    /// When there is no such signal, or no such process any more.
    pub fn signal(&self, name: &str) -> Result<()> {
        let signal: Signal = name.parse().with_context(|| format!("signal {name:?}"))?;
        let id = i32::try_from(self.id()).context("process identifier")?;
        kill(Pid::from_raw(id), signal).with_context(|| format!("send {name} to {}", self.log.title))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs at the deadline.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        wait::value(deadline, || self.ended()).with_context(|| format!("{} still runs", self.log.title))
    }

    /// Kills it and waits for that.
    pub(crate) fn kill(&mut self) {
        // Both fail only for a process that has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
