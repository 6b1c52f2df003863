//! Which source and destination a flow has on each host that it passes.

use std::cmp::Reverse;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::net::if_::if_indextoname;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout, ReceiveTimestampns, RxqOvfl};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt,
    socket,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike as _};
use socket2::{SockFilter, SockRef};

use super::Transport;
use crate::lab::Host;

/// The end of a capture is noticed within this time.
const TICK: Duration = Duration::from_millis(50);
/// Packets that wait to be read.
const BUFFER: usize = 32 << 20;
/// Of a datagram with its UDP header.
const LONGEST_QUESTION: u32 = 160;
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
    /// How many packets no thread came to read in time.
    lost: Arc<AtomicU32>,
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
        let mut capture =
            Self { packets: Arc::default(), stop: Arc::default(), lost: Arc::default(), threads: Vec::new() };
        for host in hosts {
            let (packets, stop, lost) = (capture.packets.clone(), capture.stop.clone(), capture.lost.clone());
            let owned = host.clone();
            let socket = host.run(open).with_context(|| format!("capture on host {}", host.name()))?;
            let body = move || owned.run(|| record(&socket, owned.name(), &packets, &stop, &lost));
            capture.threads.push(thread::Builder::new().name(format!("capture-{}", host.name())).spawn(body)?);
        }
        Ok(capture)
    }

    /// Ends it, and returns everything that has passed until now.
    ///
    /// # Errors
    /// When packets went by that could not be recorded.
    pub fn finish(self) -> Result<Flows> {
        let (shared, lost) = (self.packets.clone(), self.lost.clone());
        // All threads read what is left, and end.
        drop(self);
        let lost = lost.load(Ordering::Relaxed);
        ensure!(lost == 0, "{lost} packets came faster than they could be recorded");
        let mut packets = std::mem::take(&mut *locked(&shared));
        // Times of different interfaces do not tell what came first (a TCP segment has the time at which it was due),
        // but every router takes one from the time to live.
        packets.sort_by_key(|packet| (Reverse(packet.left), !packet.hop.out, packet.time));
        Ok(Flows { packets })
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
    SockRef::from(&socket).attach_filter(&first_packets()).context("filter of a capture")?;
    setsockopt(&socket, RxqOvfl, &1)?;
    setsockopt(&socket, RcvBufForce, &BUFFER)?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    let tick = i64::try_from(TICK.as_micros()).context("a short time")?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::microseconds(tick))?;
    Ok(socket)
}

/// The part of [`parse`] that the kernel does, in classic BPF, so that a busy host does not fill the buffer: it passes
/// TCP segments with SYN and without ACK, and short datagrams.
fn first_packets() -> [SockFilter; 17] {
    const V6: u8 = 6;
    const PROTOCOL: u8 = 8;
    const UDP: u8 = 12;
    const PASS: u8 = 15;
    const DROP: u8 = 16;
    let load_byte = |at| SockFilter::new(0x30, 0, 0, at);
    let load_byte_of_payload = |at| SockFilter::new(0x50, 0, 0, at);
    let load_half_of_payload = |at| SockFilter::new(0x48, 0, 0, at);
    let mask = |mask| SockFilter::new(0x54, 0, 0, mask);
    // The program has a jump target by its place; the kernel counts from the next instruction.
    let jump = |code, here: u8, value, yes: u8, no: u8| SockFilter::new(code, yes - here - 1, no - here - 1, value);
    let if_equal = |here, value, yes, no| jump(0x15, here, value, yes, no);
    let if_greater = |here, value, yes, no| jump(0x25, here, value, yes, no);
    [
        load_byte(0),
        mask(0xf0),
        if_equal(2, 0x60, V6, 3),
        // IPv4: the payload begins after the length of the header.
        SockFilter::new(0xb1, 0, 0, 0),
        load_byte(9),
        if_equal(5, 0, PROTOCOL, PROTOCOL),
        // IPv6, without extension headers: after 40 bytes.
        SockFilter::new(0x01, 0, 0, 40),
        load_byte(6),
        if_equal(PROTOCOL, 6, 9, UDP),
        load_byte_of_payload(13),
        mask(0x12),
        if_equal(11, 0x02, PASS, DROP),
        if_equal(UDP, 17, 13, DROP),
        load_half_of_payload(4),
        if_greater(14, LONGEST_QUESTION, DROP, PASS),
        SockFilter::new(0x06, 0, 0, u32::MAX),
        SockFilter::new(0x06, 0, 0, 0),
    ]
}

fn record(socket: &OwnedFd, host: &str, packets: &Mutex<Vec<Packet>>, stop: &AtomicBool, lost: &AtomicU32) {
    let mut buffer = [0; 2048];
    loop {
        let last = stop.load(Ordering::Relaxed);
        match receive(socket, &mut buffer) {
            Ok(Received { length, link, time, missed }) => {
                if missed > 0 {
                    // The kernel counts from the beginning.
                    lost.fetch_max(missed, Ordering::Relaxed);
                }
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

/// What stands beside a packet in the buffer.
struct Received {
    length: usize,
    link: LinkAddr,
    time: Duration,
    /// How many were dropped since the socket was opened.
    missed: u32,
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> nix::Result<Received> {
    let mut space = nix::cmsg_space!(TimeSpec, u32);
    let mut pieces = [io::IoSliceMut::new(buffer)];
    let message = recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut pieces, Some(&mut space), MsgFlags::empty())?;
    let (mut time, mut missed) = (Duration::ZERO, 0);
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::ScmTimestampns(at) => time = at.into(),
            ControlMessageOwned::RxqOvfl(count) => missed = count,
            _ => {}
        }
    }
    let link = message.address.ok_or(Errno::EINVAL)?;
    Ok(Received { length: message.bytes, link, time, missed })
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
