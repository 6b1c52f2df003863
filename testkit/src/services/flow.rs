//! Flows of more than one question.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::Transport;
use super::probe::{self, Outcome, PATIENCE, Seen};
use crate::lab::Host;

/// Who asks at the same time in [`tally`].
const ASKERS: usize = 8;

/// A TCP connection to a server of [`super::Topology::serve`], which repeats what it is sent.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    seen: Seen,
    said: u64,
}

impl Connection {
    /// Connects from a host.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn open(from: &Host, source: Option<IpAddr>, target: SocketAddr) -> Result<Self> {
        let source = source.map(|address| SocketAddr::new(address, 0));
        let opened = from.run(|| probe::connect(source, target, PATIENCE))?;
        let (socket, seen) = opened.map_err(|outcome| anyhow::anyhow!("{} to {target}: {outcome:?}", from.name()))?;
        Ok(Self { socket, seen, said: 0 })
    }

    /// What the server has said in the beginning.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Says something, and waits until the server has repeated it.
    ///
    /// # Errors
    /// When the connection is broken, or nothing comes back.
    pub fn speak(&mut self) -> Result<()> {
        self.said += 1;
        let word = format!("word {}\n", self.said);
        self.socket.set_write_timeout(Some(PATIENCE))?;
        self.socket.set_read_timeout(Some(PATIENCE))?;
        self.socket.write_all(word.as_bytes()).with_context(|| format!("connection of {}", self.seen.local))?;
        let mut heard = vec![0; word.len()];
        self.socket.read_exact(&mut heard).with_context(|| format!("connection of {}", self.seen.local))?;
        ensure!(heard == word.as_bytes(), "the server repeats {:?}", String::from_utf8_lossy(&heard));
        Ok(())
    }
}

/// A UDP socket that asks one server again and again from one port.
#[derive(Debug)]
pub struct Datagrams {
    socket: Socket,
    local: SocketAddr,
    target: SocketAddr,
}

impl Datagrams {
    /// A socket of a host, which nobody has asked anything yet.
    ///
    /// # Errors
    /// When there is no route.
    pub fn open(from: &Host, source: Option<IpAddr>, target: SocketAddr) -> Result<Self> {
        let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        from.run(|| {
            let socket = Socket::new(Domain::for_address(target), Type::DGRAM, Some(Protocol::UDP))?;
            socket.bind(&SocketAddr::new(source.unwrap_or(any), 0).into())?;
            socket.connect(&target.into())?;
            let local = socket.local_addr()?.as_socket().context("address of a socket")?;
            Ok(Self { socket, local, target })
        })
    }

    /// Sends one datagram and waits for its answer.
    ///
    /// # Errors
    /// As [`super::ask`].
    pub fn ask(&mut self, patience: Duration) -> Result<Outcome> {
        probe::ask_datagram(&mut self.socket, self.local, self.target, patience)
    }
}

/// Asks so often, and counts the answers of each pod. Each question has a connection of its own.
///
/// # Errors
/// When a question is not answered.
pub fn tally(
    from: &Host,
    source: Option<IpAddr>,
    target: SocketAddr,
    transport: Transport,
    count: usize,
) -> Result<BTreeMap<String, usize>> {
    let source = source.map(|address| SocketAddr::new(address, 0));
    let next = AtomicUsize::new(0);
    let ask_some = || -> Result<BTreeMap<String, usize>> {
        let mut pods = BTreeMap::new();
        while next.fetch_add(1, Ordering::Relaxed) < count {
            let outcome = probe::ask_here(source, target, transport, PATIENCE)?;
            let seen = outcome.seen().with_context(|| format!("{} to {target}: {outcome:?}", from.name()))?;
            *pods.entry(seen.pod.clone()).or_default() += 1;
        }
        Ok(pods)
    };
    from.run(|| {
        thread::scope(|scope| {
            let askers: Vec<_> = (0..ASKERS).map(|_| scope.spawn(ask_some)).collect();
            let mut pods: BTreeMap<String, usize> = BTreeMap::new();
            for asker in askers {
                for (pod, answers) in asker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))? {
                    *pods.entry(pod).or_default() += answers;
                }
            }
            Ok(pods)
        })
    })
}
