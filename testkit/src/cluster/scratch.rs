//! What must go when the test process ends, whatever ends it: files and child processes.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::lab::Process;
use crate::lab::process::{self, Log, Spawn};

/// A directory that is removed when dropped, and also when this process ends without dropping it, as it does with what
/// is `static`: a small child process waits for the end.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    remover: Child,
}

impl Scratch {
    pub(super) fn new() -> Result<Self> {
        let dir = TempDir::with_prefix("headwater-cluster-").context("temporary directory")?;
        // Its input ends with this process. What is killed at the same moment may still be writing.
        let script =
            "trap '' INT TERM HUP; cat >/dev/null; for n in 1 2 3; do rm -rf -- \"$1\" && break; sleep 1; done";
        let remover = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(dir.path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start sh")?;
        Ok(Self { path: dir.keep(), remover })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.remover.stdin.take());
        // It ends by itself, and nobody could do anything about its failure.
        let _ = self.remover.wait();
    }
}

/// Starts child processes in this process's own network; the kernel kills them when this process ends.
#[derive(Debug)]
pub(super) struct Starter(mpsc::Sender<Spawn>);

impl Starter {
    pub(super) fn new() -> Result<Self> {
        let (orders, taken) = mpsc::channel();
        thread::Builder::new().name("cluster-children".to_owned()).spawn(move || process::serve(&taken))?;
        Ok(Self(orders))
    }

    /// Starts a program whose output goes to files below `output`.
    pub(super) fn spawn(&self, command: &Command, output: &Path) -> Result<(Process, Log)> {
        process::spawn(&self.0, command, Some(output))
    }
}
