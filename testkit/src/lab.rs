//! Hosts in one machine: each has a network namespace, and cables are veth pairs. Needs root.
//!
//! A namespace is held by a descriptor of this process, and child processes are killed by the kernel when it ends, so
//! that a crash leaves nothing behind.
//!
//! ```no_run
//! use headwater_testkit::lab;
//!
//! # fn main() -> anyhow::Result<()> {
//! lab::test(|lab| {
//!     let (client, node) = (lab.host("client")?, lab.host("node")?);
//!     client.wire("eth0", &node, "up0")?;
//!     client.address("eth0", "10.0.0.2/24")?;
//!     node.address("up0", "10.0.0.1/24")?;
//!     lab.capture(&node, "up0")?;
//!     let listener = node.run(|| std::net::TcpListener::bind("10.0.0.1:80"))?;
//!     client.run(|| std::net::TcpStream::connect("10.0.0.1:80"))?;
//!     assert_eq!(listener.accept()?.1.ip().to_string(), "10.0.0.2");
//!     Ok(())
//! })
//! # }
//! ```

pub(crate) mod process;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

pub use self::process::Process;
use self::process::{Log, Spawn};
use crate::wait::{self, DEADLINE};

/// The hosts of one test. When the test panics, the state of each host is printed as the lab is dropped; declare the
/// lab before its hosts' processes, or use [`test`], which prints for errors too.
#[derive(Debug, Default)]
pub struct Lab {
    hosts: Mutex<Vec<Arc<Inner>>>,
}

/// A host. Clones are the same host; it ends with its [`Lab`].
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    namespace: File,
    /// The thread that owns the host's child processes takes its orders here.
    orders: mpsc::Sender<Spawn>,
    logs: Mutex<Vec<Log>>,
}

/// Runs a test in a lab of its own and prints the state of all hosts when it fails by error or panic.
///
/// # Errors
/// Those of `body`.
pub fn test(body: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let lab = Lab::new();
    let result = body(&lab);
    if result.is_err() {
        eprintln!("{}", lab.describe());
    }
    result
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lab {
    /// A lab without hosts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a host: loopback is up, IPv6 addresses are usable at once.
    ///
    /// # Errors
    /// Without root.
    pub fn host(&self, name: &str) -> Result<Host> {
        let host = Host::start(name)?;
        locked(&self.hosts).push(host.0.clone());
        Ok(host)
    }

    /// Takes a host out of the lab: it ends with the last clone of it and its last socket.
    pub fn remove(&self, host: &Host) {
        locked(&self.hosts).retain(|other| !Arc::ptr_eq(other, &host.0));
    }

    /// Records the packets of an interface, or of all with `any`, from now on. They are printed when the test fails.
    ///
    /// # Errors
    /// When tcpdump is absent or does not start.
    pub fn capture(&self, host: &Host, interface: &str) -> Result<Process> {
        host.capture(interface)
    }

    /// Addresses, routes, rules, nft ruleset, tracked connections, captured packets and process output of every host.
    pub fn describe(&self) -> String {
        let hosts = locked(&self.hosts).clone();
        hosts.into_iter().map(|host| Host(host).describe()).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.describe());
        }
    }
}

impl Host {
    fn start(name: &str) -> Result<Self> {
        let (tell, told) = mpsc::channel();
        let (orders, taken) = mpsc::channel();
        thread::Builder::new().name(format!("host-{name}")).spawn(move || {
            let entered = unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
                Errno::EPERM => anyhow!(
                    "a lab needs root: the kernel refused a new network namespace; run the tests as root with \
                     CAP_SYS_ADMIN and CAP_NET_ADMIN"
                ),
                other => anyhow!(other).context("new network namespace"),
            });
            let namespace =
                entered.and_then(|()| File::open("/proc/thread-self/ns/net").context("open network namespace"));
            let failed = namespace.is_err();
            if tell.send(namespace).is_err() || failed {
                return;
            }
            process::serve(&taken);
        })?;
        let namespace = told.recv().map_err(|_| anyhow!("thread of host {name} has ended"))?;
        let namespace = namespace.map_err(|error| anyhow!("host {name}: {error:#}"))?;
        let inner = Inner { name: name.to_owned(), namespace, orders, logs: Mutex::default() };
        let host = Self(Arc::new(inner));
        host.ip("link set lo up")?;
        // Addresses of IPv6 would be unusable for a second while nobody could possibly own them already.
        for scope in ["all", "default"] {
            host.sysctl(&format!("net.ipv6.conf.{scope}.accept_dad"), "0")?;
        }
        Ok(host)
    }

    /// The name given to it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs a closure inside the host, on a thread of its own, and returns what it returns. Sockets and threads made
    /// there stay in the host; a panic goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inner = &self.0;
        let done = thread::scope(|scope| {
            let inside = move || {
                setns(&inner.namespace, CloneFlags::CLONE_NEWNET).expect("a host's namespace can be entered by root");
                work()
            };
            thread::Builder::new()
                .name(format!("in-{}", inner.name))
                .spawn_scoped(scope, inside)
                .expect("the system has room for a thread")
                .join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// How long threads of this process that run inside the host have been at work, those that ended not counted.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn busy(&self) -> Result<Duration> {
        /// The system counts in hundredths of a second (`USER_HZ`).
        const TICK: Duration = Duration::from_millis(10);
        let place = self.run(|| std::fs::read_link("/proc/thread-self/ns/net"))?;
        let mut ticks = 0;
        for task in std::fs::read_dir("/proc/self/task")? {
            let task = task?.path();
            // One that has just ended is none.
            let Ok(there) = std::fs::read_link(task.join("ns/net")) else { continue };
            let Ok(stat) = std::fs::read_to_string(task.join("stat")) else { continue };
            if there == place {
                // After the name, which may have blanks, the fields begin with the third.
                let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
                let times: Vec<u32> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
                ticks += times.iter().sum::<u32>();
            }
        }
        Ok(TICK * ticks)
    }

    /// Connects two hosts by a cable: `interface` here, `peer_interface` there, both up. Names have at most 15 bytes.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn wire(&self, interface: &str, peer: &Self, peer_interface: &str) -> Result<()> {
        let there = format!("/proc/{}/fd/{}", std::process::id(), peer.0.namespace.as_raw_fd());
        self.ip(&format!("link add name {interface} type veth peer name {peer_interface} netns {there}"))?;
        self.ip(&format!("link set dev {interface} up"))?;
        peer.ip(&format!("link set dev {peer_interface} up"))?;
        Ok(())
    }

    /// Adds an address with its prefix length, such as `10.0.0.1/24` or `fd00::1/64`.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn address(&self, interface: &str, prefix: &str) -> Result<()> {
        let nodad = if prefix.contains(':') { "nodad" } else { "" };
        self.ip(&format!("address add {prefix} dev {interface} {nodad}")).map(drop)
    }

    /// Adds a route to a prefix (`0.0.0.0/0` and `::/0` are the default routes) by way of a neighbour.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn route(&self, prefix: &str, via: &str) -> Result<()> {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        self.ip(&format!("{family} route add {prefix} via {via}")).map(drop)
    }

    /// Forwards packets between its interfaces, IPv4 and IPv6.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("net.ipv4.ip_forward", "1")?;
        self.sysctl("net.ipv6.conf.all.forwarding", "1")
    }

    /// Sets a kernel parameter of the host, such as `net.ipv4.ip_forward`.
    ///
    /// # Errors
    /// What the kernel says, with the name.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        ensure!(name.starts_with("net."), "sysctl {name} does not belong to a network namespace");
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.run(|| std::fs::write(&path, value))
            .with_context(|| format!("host {}: sysctl {name}={value}", self.name()))
    }

    /// Runs `ip` with these arguments, separated by blanks, and returns its output.
    ///
    /// # Errors
    /// When it fails; the text has its message.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        self.exec("ip", &words)
    }

    /// Runs several `ip` commands of one family, one a line, in one process. It ends at the first that fails.
    ///
    /// # Errors
    /// When one fails; the text has its message.
    pub fn ip_batch(&self, commands: &str) -> Result<()> {
        let family = if commands.contains(':') { "-6" } else { "-4" };
        self.pipe("ip", &[family, "-batch", "-"], commands).map(drop)
    }

    /// Loads an nft script.
    ///
    /// # Errors
    /// When nft refuses it; the text has its message.
    pub fn nft(&self, script: &str) -> Result<()> {
        self.pipe("nft", &["-f", "-"], script).map(drop)
    }

    /// Runs a program to its end and returns its output.
    ///
    /// # Errors
    /// When it is absent or fails; the text has its message.
    pub fn exec(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.pipe(program, arguments, "")
    }

    fn pipe(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let what = || format!("host {}: {program} {}", self.name(), arguments.join(" "));
        let output = self.run(|| -> std::io::Result<_> {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // A program that does not read its input says so in its status.
                let _ = stdin.write_all(input.as_bytes());
            }
            child.wait_with_output()
        });
        let output = output.with_context(what)?;
        if !output.status.success() {
            bail!("{}: {}: {}", what(), output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a program inside the host. Program, arguments, environment and directory of `command` count; its output
    /// goes to files that [`Process`] reads, and that are printed when the test fails. It is killed with its `Process`,
    /// and by the kernel when this process ends.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn_process(&self, command: &Command) -> Result<Process> {
        self.spawn_process_in(command, None)
    }

    /// As [`Host::spawn_process`]; the files with its output are in a directory below `output`, if one is given.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub(crate) fn spawn_process_in(&self, command: &Command, output: Option<&Path>) -> Result<Process> {
        let (process, log) =
            process::spawn(&self.0.orders, command, output).with_context(|| format!("host {}", self.name()))?;
        locked(&self.0.logs).push(log);
        Ok(process)
    }

    fn capture(&self, interface: &str) -> Result<Process> {
        let mut command = Command::new("tcpdump");
        // As root to the end: a change of user would undo the order to die with this process.
        command.args(["-Z", "root", "-n", "-l", "-tt", "-e", "-i", interface]);
        let mut process = self.spawn_process(&command)?;
        wait::until(DEADLINE, || process.stderr().contains("listening on") || process.ended().is_some())?;
        if let Some(status) = process.ended() {
            bail!("host {}: tcpdump on {interface}: {status}: {}", self.name(), process.stderr());
        }
        Ok(process)
    }

    /// Addresses, routes, rules, nft ruleset, tracked connections, captured packets and process output.
    pub fn describe(&self) -> String {
        let mut text = format!("=== host {} ===\n", self.name());
        for (program, arguments) in [
            ("ip", &["-brief", "address"][..]),
            ("ip", &["-4", "route"]),
            ("ip", &["-6", "route"]),
            ("ip", &["rule"]),
            ("nft", &["list", "ruleset"]),
            ("conntrack", &["-L", "-f", "ipv4"]),
            ("conntrack", &["-L", "-f", "ipv6"]),
        ] {
            let output = self.exec(program, arguments).unwrap_or_else(|error| format!("{error:#}\n"));
            writeln!(text, "--- {program} {}\n{output}", arguments.join(" ")).expect("writing to a string succeeds");
        }
        for log in locked(&self.0.logs).iter() {
            text.push_str(&log.describe());
        }
        text
    }
}
