//! Which source and destination a flow has on each host that it passes.

use std::cmp::Reverse;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::net::if_::if_indextoname;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout, ReceiveTimestampns};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt,
    socket,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike as _};

use super::Transport;
use crate::lab::Host;

/// The end of a capture is noticed within this time.
const TICK: Duration = Duration::from_millis(50);
/// Packets that wait to be read.
const BUFFER: usize = 32 << 20;
/// `PACKET_OUTGOING` of packet(7).
const OUTGOING: u8 = 4;
/// What the names of the router's bridge ports begin with.
const BRIDGE_PORT: &str = "port";

/// Records the first packets of flows on some hosts: TCP segments with SYN and without ACK, and all UDP datagrams of
/// [`ask`](super::ask). It ends with [`Capture::finish`], or when it is dropped.
#[derive(Debug)]
pub struct Capture {
    packets: Arc<Mutex<Vec<Packet>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What a [`Capture`] has recorded.
#[derive(Debug)]
pub struct Flows {
    /// Those of one flow in their order.
    packets: Vec<Packet>,
}

/// One packet of a flow at an interface of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Name of the host.
    pub host: String,
    /// Name of the interface.
    pub interface: String,
    /// Whether it leaves the host.
    pub out: bool,
    /// Its source.
    pub source: SocketAddr,
    /// Its destination.
    pub target: SocketAddr,
}

/// What stays the same in all packets of one flow, however they are translated.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mark {
    /// The initial sequence number.
    Tcp(u32),
    /// The content.
    Udp(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Packet {
    time: Duration,
    /// Time to live, or hop limit.
    left: u8,
    hop: Hop,
    mark: Mark,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Capture {
    /// Records from now on.
    ///
    /// # Errors
    /// Without root.
    pub fn start<'host>(hosts: impl IntoIterator<Item = &'host Host>) -> Result<Self> {
        let mut capture = Self { packets: Arc::default(), stop: Arc::default(), threads: Vec::new() };
        for host in hosts {
            let (packets, stop, owned) = (capture.packets.clone(), capture.stop.clone(), host.clone());
            let socket = host.run(open).with_context(|| format!("capture on host {}", host.name()))?;
            let body = move || owned.run(|| record(&socket, owned.name(), &packets, &stop));
            capture.threads.push(thread::Builder::new().name(format!("capture-{}", host.name())).spawn(body)?);
        }
        Ok(capture)
    }

    /// Ends it, and returns everything that has passed until now.
    pub fn finish(self) -> Flows {
        let shared = self.packets.clone();
        // All threads read what is left, and end.
        drop(self);
        let mut packets = std::mem::take(&mut *locked(&shared));
        // Times of different interfaces do not tell what came first (a TCP segment has the time at which it was due),
        // but every router takes one from the time to live.
        packets.sort_by_key(|packet| (Reverse(packet.left), !packet.hop.out, packet.time));
        Flows { packets }
    }
}

impl Flows {
    /// The hops of the flow that a host has begun from this port of its own, in order; a packet that was sent again
    /// counts once. Ports of the router's bridge do not count. Empty when the packet has not left the host.
    pub fn hops(&self, transport: Transport, host: &str, port: u16, target: SocketAddr) -> Vec<Hop> {
        let begins = |packet: &&Packet| {
            let Packet { hop, mark, .. } = packet;
            hop.out
                && hop.host == host
                && hop.source.port() == port
                && hop.target == target
                && mark.transport() == transport
        };
        self.with_mark_of(self.packets.iter().find(begins))
    }

    /// The hops of the flow that has reached a server with this source. It begins where it left its host, with the
    /// source that it had there: a node translates what it sends itself before that.
    pub fn hops_to(&self, transport: Transport, source: SocketAddr, target: SocketAddr) -> Vec<Hop> {
        let ends = |packet: &&Packet| {
            let Packet { hop, mark, .. } = packet;
            hop.source == source && hop.target == target && mark.transport() == transport
        };
        self.with_mark_of(self.packets.iter().rfind(ends))
    }

    fn with_mark_of(&self, packet: Option<&Packet>) -> Vec<Hop> {
        let Some(mark) = packet.map(|packet| &packet.mark) else { return Vec::new() };
        let mut hops: Vec<Hop> = Vec::new();
        for packet in self.packets.iter().filter(|packet| packet.mark == *mark) {
            if !hops.contains(&packet.hop) {
                hops.push(packet.hop.clone());
            }
        }
        hops
    }
}

impl Mark {
    fn transport(&self) -> Transport {
        match self {
            Self::Tcp(_) => Transport::Tcp,
            Self::Udp(_) => Transport::Udp,
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // What panicked there has printed so.
            let _ = thread.join();
        }
    }
}

fn open() -> Result<OwnedFd> {
    let kind = SockType::Datagram;
    let socket = socket(AddressFamily::Packet, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    setsockopt(&socket, RcvBufForce, &BUFFER)?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    let tick = i64::try_from(TICK.as_micros()).context("a short time")?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::microseconds(tick))?;
    Ok(socket)
}

fn record(socket: &OwnedFd, host: &str, packets: &Mutex<Vec<Packet>>, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    loop {
        let last = stop.load(Ordering::Relaxed);
        match receive(socket, &mut buffer) {
            Ok((length, link, time)) => {
                let Some(first) = parse(&buffer[..length]) else { continue };
                let index = u32::try_from(link.ifindex()).unwrap_or_default();
                // An interface may be gone already.
                let interface = if_indextoname(index).map(|name| name.to_string_lossy().into_owned());
                let (interface, out) = (interface.unwrap_or_default(), link.pkttype() == OUTGOING);
                if interface.starts_with(BRIDGE_PORT) {
                    continue;
                }
                let First { left, source, target, mark } = first;
                let hop = Hop { host: host.to_owned(), interface, out, source, target };
                locked(packets).push(Packet { time, left, hop, mark });
            }
            Err(Errno::EAGAIN) if last => break,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => panic!("capture on host {host}: {errno}"),
        }
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> nix::Result<(usize, LinkAddr, Duration)> {
    let mut space = nix::cmsg_space!(TimeSpec);
    let mut pieces = [io::IoSliceMut::new(buffer)];
    let message = recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut pieces, Some(&mut space), MsgFlags::empty())?;
    let time = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(time) => Some(time),
        _ => None,
    });
    let link = message.address.ok_or(Errno::EINVAL)?;
    Ok((message.bytes, link, time.map(Duration::from).unwrap_or_default()))
}

/// The first packet of a flow.
struct First {
    left: u8,
    source: SocketAddr,
    target: SocketAddr,
    mark: Mark,
}

/// `None` for packets that are not the first.
fn parse(packet: &[u8]) -> Option<First> {
    let (source, target, left, protocol, payload): (IpAddr, IpAddr, u8, u8, &[u8]) = match packet.first()? >> 4 {
        4 => {
            let address = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            let header = usize::from(packet[0] & 0xf) * 4;
            (address(12)?, address(16)?, *packet.get(8)?, *packet.get(9)?, packet.get(header..)?)
        }
        6 => {
            let address = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            (address(8)?, address(24)?, *packet.get(7)?, *packet.get(6)?, packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(payload.get(at..at + 2)?.try_into().ok()?));
    let mark = match protocol {
        6 if payload.get(13)? & 0x12 == 0x02 => Mark::Tcp(u32::from_be_bytes(payload.get(4..8)?.try_into().ok()?)),
        17 => {
            let content = payload.get(8..)?;
            content.windows(6).any(|word| word == b" asks ").then(|| Mark::Udp(content.to_owned()))?
        }
        _ => return None,
    };
    Some(First { left, source: SocketAddr::new(source, port(0)?), target: SocketAddr::new(target, port(2)?), mark })
}
