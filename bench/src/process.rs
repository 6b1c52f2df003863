//! Processes under measurement: pinned to a core, ended with the harness, with their CPU time and memory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::tools::Programs;

/// Time between a polite and a rude end.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// A command for one core, which ends when the harness does.
pub(crate) fn pinned(programs: &Programs, core: usize, program: &Path) -> Command {
    let mut command = Command::new(&programs.setpriv);
    command.args(["--pdeathsig", "TERM"]).arg(&programs.taskset).arg("-c").arg(core.to_string()).arg(program);
    command
}

/// A running process with its children; ends when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its output goes to `NAME.log` in `folder`.
    pub(crate) fn start(name: &str, mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{}.log", name.replace(['/', ' '], "-")));
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{name}: {}", command.get_program().display()))?;
        Ok(Self { child, name: name.to_owned(), log })
    }

    /// # Errors
    /// When it has ended, with the end of its output.
    pub(crate) fn alive(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let output = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = output.lines().rev().take(8).collect();
        let tail: Vec<_> = lines.into_iter().rev().collect();
        bail!("{} ended with {status}: {}", self.name, tail.join("\n"))
    }

    /// Run time of all threads of the process and its descendants so far.
    pub(crate) fn cpu(&self) -> Duration {
        tree_cpu(self.child.id())
    }

    /// Proportional set size of the process and its descendants, in bytes.
    pub(crate) fn pss(&self) -> u64 {
        tree(self.child.id()).iter().filter_map(|pid| pss_of(pid)).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) else { return };
        let _already_gone = kill_process(pid, Signal::TERM);
        let deadline = Instant::now() + END_PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                for pid in tree(self.child.id()).into_iter().rev() {
                    let pid = pid.parse().ok().and_then(Pid::from_raw);
                    let _already_gone = pid.map(|pid| kill_process(pid, Signal::KILL));
                }
                let _status = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Run time of all threads of this process and its descendants so far.
pub(crate) fn cpu_with_descendants() -> Duration {
    tree_cpu(std::process::id())
}

/// Proportional set size of one process, in bytes.
pub(crate) fn pss_of(pid: &str) -> Option<u64> {
    parse_pss(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

/// User and system time of one process and of its children that have ended, in steps of a clock tick.
pub(crate) fn cpu_of(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    parse_cpu(&stat, rustix::param::clock_ticks_per_second()).context(path)
}

fn tree_cpu(root: u32) -> Duration {
    let threads = tree(root).into_iter().flat_map(|pid| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        tasks.into_iter().flatten().flatten().map(|task| task.path())
    });
    threads.filter_map(|task| parse_schedstat(&fs::read_to_string(task.join("schedstat")).ok()?)).sum()
}

/// A process and its descendants, parents first.
fn tree(root: u32) -> Vec<String> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid: OsString = entry.file_name();
        let Some(pid) = pid.to_str().filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        if let Some(parent) = fs::read_to_string(entry.path().join("stat")).ok().and_then(|stat| parse_parent(&stat)) {
            parents.push((pid.to_owned(), parent));
        }
    }
    let mut tree = vec![root.to_string()];
    let mut next = 0;
    while let Some(pid) = tree.get(next).cloned() {
        tree.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| child.clone()));
        next += 1;
    }
    tree
}

/// Parent in `/proc/PID/stat`; the name before it may hold anything, `)` too.
fn parse_parent(stat: &str) -> Option<String> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1).map(str::to_owned)
}

/// `utime`, `stime`, `cutime` and `cstime` of `/proc/PID/stat`.
fn parse_cpu(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11).take(4);
    let ticks = fields.map(|field| field.parse().ok()).collect::<Option<Vec<u64>>>()?;
    (ticks.len() == 4).then(|| Duration::from_secs_f64(ticks.iter().sum::<u64>() as f64 / ticks_per_second as f64))
}

/// Time on the CPU in `/proc/PID/task/TID/schedstat`, the first field, in nanoseconds.
fn parse_schedstat(text: &str) -> Option<Duration> {
    text.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// `Pss` of a `smaps_rollup`, in bytes.
fn parse_pss(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_parent("42 (a ) b) S 7 42 42 0 -1"), Some("7".to_owned()));
        assert_eq!(parse_schedstat("1500 20 3\n"), Some(Duration::from_nanos(1500)));
        let rollup =
            "5583-7ffd ---p 00000000 00:00 0   [rollup]\nRss:      4096 kB\nPss:      1234 kB\nPss_Dirty:  9 kB\n";
        assert_eq!(parse_pss(rollup), Some(1234 << 10));
        assert_eq!(parse_pss(""), None);
        let stat = "42 (a ) b) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 7 20 0 1 0 99";
        assert_eq!(parse_cpu(stat, 100), Some(Duration::from_millis(1300)));
        assert_eq!(parse_cpu("42 (a) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3", 100), None);
    }

    #[test]
    fn cpu_and_memory_include_child_processes() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sh -c 'i=0; while [ $i -lt 1000000000 ]; do i=$((i+1)); done' & wait"]);
        let process = Process::start("spin", command, folder.path()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while process.cpu() < Duration::from_millis(100) {
            assert!(Instant::now() < deadline, "the spinning child is not counted");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(tree(process.child.id()).len(), 2);
        assert!(process.pss() > 0);
        let child = tree(process.child.id())[1].parse().unwrap();
        kill_process(Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
    }
}
