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

use super::{Seen, Transport};
use crate::lab::Host;

/// The end of a capture is noticed within this time.
const TICK: Duration = Duration::from_millis(50);
/// Packets that wait to be read.
const BUFFER: usize = 32 << 20;
/// Of a datagram with its UDP header: a question, an answer, or either of them in a tunnel.
const LONGEST_QUESTION: u32 = 256;
/// Headers of VXLAN and of Ethernet before a packet in a tunnel.
const TUNNEL_HEADERS: usize = 8 + 14;
/// The first byte of a VXLAN header: there is a network identifier. RFC 7348 section 5.
const VXLAN_FLAGS: u8 = 0x08;
/// `PACKET_OUTGOING` of packet(7).
const OUTGOING: u8 = 4;
/// Flags of a TCP segment, in its byte 13.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// What the names of the router's bridge ports begin with.
const BRIDGE_PORT: &str = "port";

/// Records the first packets of flows on some hosts, and the first answers: TCP segments with SYN, all UDP datagrams of
/// [`ask`](super::ask), and the packets of VXLAN around them. It ends with [`Capture::finish`], or when it is dropped.
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

/// Where the packets of one flow were. A packet that was sent again counts once; ports of the router's bridge do not
/// count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The first packet, in order. Empty when it has not left the host.
    pub hops: Vec<Hop>,
    /// What was around it in a tunnel.
    pub outer: Vec<Hop>,
    /// The first answer, in order.
    pub reply: Vec<Hop>,
    /// What was around that.
    pub reply_outer: Vec<Hop>,
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
    /// The initial sequence number of who asks.
    Tcp(u32),
    /// The content, of the question and of the answer each.
    Udp(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Packet {
    time: Duration,
    /// Time to live, or hop limit.
    left: u8,
    hop: Hop,
    kind: Kind,
    mark: Mark,
}

/// Which packet of a flow it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    /// The answer.
    reply: bool,
    /// What is around it in a tunnel.
    outer: bool,
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
    pub fn finish(mut self) -> Result<Flows> {
        let (shared, lost) = (self.packets.clone(), self.lost.clone());
        // All threads read what is left, and end.
        let ended = self.end();
        ensure!(ended, "a thread of the capture has panicked");
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
    /// The packets of the flow that has left a host with this source and destination. The address 0.0.0.0 or :: stands
    /// for each of the host. `seen`: what the server said, if one did.
    pub fn trace(
        &self,
        transport: Transport,
        host: &str,
        source: SocketAddr,
        target: SocketAddr,
        seen: Option<&Seen>,
    ) -> Trace {
        let begins = |packet: &&Packet| {
            let Packet { hop, mark, kind, .. } = packet;
            let same = hop.source == source || source.ip().is_unspecified() && hop.source.port() == source.port();
            let first = *kind == Kind { reply: false, outer: false };
            same && first && hop.out && hop.host == host && hop.target == target && mark.transport() == transport
        };
        let Some(mark) = self.packets.iter().find(begins).map(|packet| &packet.mark) else { return Trace::default() };
        let answer = match mark {
            Mark::Tcp(_) => Some(mark.clone()),
            Mark::Udp(_) => seen.map(|seen| Mark::Udp(seen.to_string().into_bytes())),
        };
        let of = |mark: &Mark, reply, outer| {
            let mut hops: Vec<Hop> = Vec::new();
            for packet in self.packets.iter().filter(|packet| packet.kind == Kind { reply, outer }) {
                if packet.mark == *mark && !hops.contains(&packet.hop) {
                    hops.push(packet.hop.clone());
                }
            }
            hops
        };
        let answers = |outer| answer.as_ref().map(|mark| of(mark, true, outer)).unwrap_or_default();
        Trace {
            hops: of(mark, false, false),
            outer: of(mark, false, true),
            reply: answers(false),
            reply_outer: answers(true),
        }
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

impl Capture {
    /// Whether all threads have come to their end.
    fn end(&mut self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        let ends: Vec<bool> = self.threads.drain(..).map(|thread| thread.join().is_ok()).collect();
        ends.into_iter().all(|ended| ended)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // What panicked there has printed so.
        self.end();
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
/// TCP segments with SYN, and short datagrams.
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
        mask(SYN.into()),
        if_equal(11, SYN.into(), PASS, DROP),
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
                let First { left, source, target, kind, mark } = first;
                let hop = Hop { host: host.to_owned(), interface, out, source, target };
                locked(packets).push(Packet { time, left, hop, kind, mark });
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

/// The first packet of a flow, or its answer.
struct First {
    left: u8,
    source: SocketAddr,
    target: SocketAddr,
    kind: Kind,
    mark: Mark,
}

/// `None` for packets that are neither.
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
    let number = |at: usize| Some(u32::from_be_bytes(payload.get(at..at + 4)?.try_into().ok()?));
    let inner = |reply| Kind { reply, outer: false };
    let (kind, mark) = match protocol {
        6 => match payload.get(13)? & (SYN | ACK) {
            SYN => (inner(false), Mark::Tcp(number(4)?)),
            flags if flags == SYN | ACK => (inner(true), Mark::Tcp(number(8)?.wrapping_sub(1))),
            _ => return None,
        },
        17 => {
            let content = payload.get(8..)?;
            let says = |words: &[u8]| content.windows(words.len()).any(|part| part == words);
            if content.first() == Some(&VXLAN_FLAGS) {
                let First { kind, mark, .. } =
                    parse(content.get(TUNNEL_HEADERS..)?).filter(|first| !first.kind.outer)?;
                (Kind { outer: true, ..kind }, mark)
            } else if says(b" asks ") {
                (inner(false), Mark::Udp(content.to_owned()))
            } else if says(b" saw ") {
                (inner(true), Mark::Udp(content.to_owned()))
            } else {
                return None;
            }
        }
        _ => return None,
    };
    let (source, target) = (SocketAddr::new(source, port(0)?), SocketAddr::new(target, port(2)?));
    Some(First { left, source, target, kind, mark })
}
