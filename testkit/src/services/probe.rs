//! Connections of one question, and what became of them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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

impl Seen {
    fn parse(line: &str, local: SocketAddr) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        ensure!(words.len() == 5 && words[1] == "saw" && words[3] == "to", "a server answers {line:?}");
        Ok(Self { pod: words[0].to_owned(), source: words[2].parse()?, target: words[4].parse()?, local })
    }
}

/// Asks a server from a host, and from one of its addresses if one is given; the kernel chooses the port.
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
    from.run(|| match transport {
        Transport::Tcp => tcp(source, target, patience),
        Transport::Udp => udp(source, target, patience),
    })
    .with_context(what)
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

fn bound(kind: Type, protocol: Protocol, source: Option<SocketAddr>, target: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), kind, Some(protocol))?;
    if let Some(source) = source {
        socket.set_reuse_address(true)?;
        socket.bind(&source.into()).with_context(|| format!("bind {source}"))?;
    }
    Ok(socket)
}

fn tcp(source: Option<SocketAddr>, target: SocketAddr, patience: Duration) -> Result<Outcome> {
    let end = Instant::now() + patience;
    let mut socket = bound(Type::STREAM, Protocol::TCP, source, target)?;
    if let Err(error) = socket.connect_timeout(&target.into(), patience) {
        return outcome(error);
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
            Err(error) => return outcome(error),
        }
    }
    Ok(Outcome::Seen(Seen::parse(&String::from_utf8_lossy(&line), local)?))
}

fn udp(source: Option<SocketAddr>, target: SocketAddr, patience: Duration) -> Result<Outcome> {
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = source.unwrap_or(SocketAddr::new(any, 0));
    let mut socket = bound(Type::DGRAM, Protocol::UDP, Some(source), target)?;
    if let Err(error) = socket.connect(&target.into()) {
        return outcome(error);
    }
    let local = socket.local_addr()?.as_socket().context("address of a socket")?;
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
