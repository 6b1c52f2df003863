//! Connections of one question, and what became of them.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::Transport;
use crate::lab::Host;

/// Until silence counts as an answer. A busy machine needs a part of it for an answer, and the kernel repeats a SYN
/// that is lost after one second.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// What a server says about a connection, and what the client knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The pod that answers.
    pub pod: String,
    /// The source that the pod has seen.
    pub source: SocketAddr,
    /// The address of the pod that it came to.
    pub target: SocketAddr,
    /// The client's own end.
    pub local: SocketAddr,
}

/// What becomes of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A server answers.
    Seen(Seen),
    /// TCP RST, or ICMP port unreachable.
    Refused,
    /// Another ICMP error, or no route.
    Unreachable(Errno),
    /// No answer within the time.
    Silent,
}

impl Outcome {
    /// The answer, if there is one.
    pub fn seen(&self) -> Option<&Seen> {
        match self {
            Self::Seen(seen) => Some(seen),
            _ => None,
        }
    }
}

/// As the server says it.
impl fmt::Display for Seen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{} saw {} to {}", self.pod, self.source, self.target)
    }
}

impl Seen {
    fn parse(line: &str, local: SocketAddr) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        ensure!(words.len() == 5 && words[1] == "saw" && words[3] == "to", "a server answers {line:?}");
        Ok(Self { pod: words[0].to_owned(), source: words[2].parse()?, target: words[4].parse()?, local })
    }
}

/// Asks a server from a host, and from one of its addresses if one is given. The port is one that was not used for long.
///
/// # Errors
/// When the socket cannot be made, or something else than a server of [`super::Topology::serve`] answers.
pub fn ask(from: &Host, source: Option<IpAddr>, target: SocketAddr, transport: Transport) -> Result<Outcome> {
    let source = source.map(|address| SocketAddr::new(address, 0));
    ask_with(from, source, target, transport, PATIENCE)
}

/// As [`ask`], with a source port, unless it is 0, and for so long.
///
/// # Errors
/// As [`ask`].
pub fn ask_with(
    from: &Host,
    source: Option<SocketAddr>,
    target: SocketAddr,
    transport: Transport,
    patience: Duration,
) -> Result<Outcome> {
    let what = || format!("{} from {} to {target}", transport.as_str(), from.name());
    from.run(|| ask_here(source, target, transport, patience)).with_context(what)
}

/// As [`ask_with`], from the network namespace of this thread.
pub(super) fn ask_here(
    source: Option<SocketAddr>,
    target: SocketAddr,
    transport: Transport,
    patience: Duration,
) -> Result<Outcome> {
    match transport {
        Transport::Tcp => {
            Ok(connect(source, target, patience)?.map_or_else(|outcome| outcome, |(_, seen)| Outcome::Seen(seen)))
        }
        Transport::Udp => udp(source, target, patience),
    }
}

fn outcome(error: std::io::Error) -> Result<Outcome> {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => return Ok(Outcome::Silent),
        ErrorKind::ConnectionRefused => return Ok(Outcome::Refused),
        _ => {}
    }
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno @ (Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EACCES | Errno::EPERM | Errno::EPROTO)) => {
            Ok(Outcome::Unreachable(errno))
        }
        _ => Err(error.into()),
    }
}

/// Source ports are taken in turn. Left to the kernel, two sockets with different targets may have the same port, and
/// translation to one endpoint has to change one of them.
static NEXT_PORT: AtomicU16 = AtomicU16::new(FIRST_PORT);
/// Above those at which the programs of a node listen.
const FIRST_PORT: u16 = 11_000;
const LAST_PORT: u16 = 65_000;
/// Of others: health checks of Services listen at NodePorts, and the kernel gives [`EPHEMERAL_PORTS`] away.
const TAKEN: RangeInclusive<u16> = 30_000..=44_999;
/// What programs on hosts of a [`super::Topology`] get that ask for any port.
pub(super) const EPHEMERAL_PORTS: &str = "32768 44999";

/// A source port that nothing here has asked from for long. On hosts of a [`super::Topology`] no program has it.
pub fn next_port() -> u16 {
    let after = |port: u16| match port + 1 {
        next if next > LAST_PORT => FIRST_PORT,
        next if TAKEN.contains(&next) => TAKEN.end() + 1,
        next => next,
    };
    let port = NEXT_PORT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |port| Some(after(port)));
    port.unwrap_or_else(|port| port)
}

/// A socket with the source that is wanted, or with a port that was not used for long.
fn bound(kind: Type, protocol: Protocol, source: Option<SocketAddr>, target: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), kind, Some(protocol))?;
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let mut source = source.unwrap_or(SocketAddr::new(any, 0));
    if source.port() != 0 {
        socket.set_reuse_address(true)?;
        socket.bind(&source.into()).with_context(|| format!("bind {source}"))?;
        return Ok(socket);
    }
    for _ in FIRST_PORT..=LAST_PORT {
        source.set_port(next_port());
        match socket.bind(&source.into()) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            bound => {
                bound.with_context(|| format!("bind {source}"))?;
                return Ok(socket);
            }
        }
    }
    anyhow::bail!("no port of {} is free", source.ip())
}

/// A connection and what the server says in its beginning, or what becomes of it instead.
pub(super) fn connect(
    source: Option<SocketAddr>,
    target: SocketAddr,
    patience: Duration,
) -> Result<Result<(Socket, Seen), Outcome>> {
    let end = Instant::now() + patience;
    let mut socket = bound(Type::STREAM, Protocol::TCP, source, target)?;
    if let Err(error) = socket.connect_timeout(&target.into(), patience) {
        return outcome(error).map(Err);
    }
    let local = socket.local_addr()?.as_socket().context("address of a socket")?;
    // No half of a connection stays behind, and the port is free again at once.
    socket.set_linger(Some(Duration::ZERO))?;
    let (mut line, mut piece) = (Vec::new(), [0; 256]);
    while !line.ends_with(b"\n") {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut piece) {
            Ok(0) => anyhow::bail!("the server closes after {:?}", String::from_utf8_lossy(&line)),
            Ok(length) => line.extend(&piece[..length]),
            Err(error) => return outcome(error).map(Err),
        }
    }
    let seen = Seen::parse(&String::from_utf8_lossy(&line), local)?;
    Ok(Ok((socket, seen)))
}

fn udp(source: Option<SocketAddr>, target: SocketAddr, patience: Duration) -> Result<Outcome> {
    let mut socket = bound(Type::DGRAM, Protocol::UDP, source, target)?;
    if let Err(error) = socket.connect(&target.into()) {
        return outcome(error);
    }
    let local = socket.local_addr()?.as_socket().context("address of a socket")?;
    ask_datagram(&mut socket, local, target, patience)
}

/// Sends a datagram by a connected socket, and waits for the answer.
pub(super) fn ask_datagram(
    socket: &mut Socket,
    local: SocketAddr,
    target: SocketAddr,
    patience: Duration,
) -> Result<Outcome> {
    socket.set_read_timeout(Some(patience))?;
    // It says which question it is, for captures.
    if let Err(error) = socket.write_all(format!("{local} asks {target}\n").as_bytes()) {
        // The host's own rules drop it; whether silently is still to be seen.
        if error.raw_os_error() != Some(Errno::EPERM as i32) {
            return outcome(error);
        }
    }
    let mut answer = [0; 512];
    match socket.read(&mut answer) {
        Ok(length) => Ok(Outcome::Seen(Seen::parse(&String::from_utf8_lossy(&answer[..length]), local)?)),
        Err(error) => outcome(error),
    }
}
