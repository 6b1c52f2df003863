//! Frames of ARP and NDP, sent and heard on one interface (`AF_PACKET`), and groups of IPv6 that an interface hears.
//!
//! Needs `CAP_NET_RAW`. A filter in the kernel passes on what these protocols need and nothing else, so that the traffic
//! of a node costs nothing here: ARP; and of IPv6 neighbour solicitations and advertisements that passed no router.
//! Frames of a VLAN that has an interface of its own are heard there only.
//!
//! Source: packet(7); `Documentation/networking/filter.rst` of Linux.

use std::io::{self, Read as _};
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, bind};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::net::UdpSocket;

/// What a socket hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// ARP.
    Arp,
    /// Neighbour solicitations and advertisements.
    Neighbour,
}

impl FrameKind {
    /// EtherType.
    fn number(self) -> u16 {
        match self {
            Self::Arp => 0x0806,
            Self::Neighbour => 0x86dd,
        }
    }
}

/// No frame that is heard is longer: options of a solicitation fill a packet at most.
pub const MAX_FRAME: usize = 1_514;

/// Bytes that may wait in the kernel for one socket.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Groups that one socket joins at most, so that the kernel's limit for memory of options is far.
const GROUPS_OF_SOCKET: usize = 64;

/// A socket on one interface, inside a runtime.
#[derive(Debug)]
pub struct FrameSocket(UdpSocket);

impl FrameSocket {
    /// Opens a socket on the interface of this number, in the network namespace of this thread. Nothing that came to
    /// another interface is ever heard.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, and when the interface is gone.
    pub fn open(interface: u32, kind: FrameKind) -> io::Result<Self> {
        let place = place(interface)?;
        // The kernel takes the number in the order of the network, from a field for numbers in that of the host.
        let protocol = Protocol::from(i32::from(kind.number().to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol))?;
        socket.attach_filter(&filter(kind))?;
        // The kernel holds it to its own limit; less than asked for is no error.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        bind(socket.as_raw_fd(), &place)?;
        // Until it was bound it heard every interface.
        let mut bytes = [0; MAX_FRAME];
        loop {
            match (&socket).read(&mut bytes) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        // Of a socket of datagrams it has all that is used here: waiting, and bytes in and out.
        UdpSocket::from_std(socket.into()).map(Self)
    }

    /// The next frame, from the destination's hardware address on; returns its length.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// When the interface goes down or away.
    pub async fn receive(&self, bytes: &mut [u8; MAX_FRAME]) -> io::Result<usize> {
        self.0.recv(bytes).await
    }

    /// Sends a frame, or says that there is no room for it now.
    ///
    /// # Errors
    /// When the interface is down or gone, and when its queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // Not by the runtime, which would have to see first that there is room.
        SockRef::from(&self.0).send(frame).map(drop)
    }
}

/// The address of an interface for `bind`: the system tells those of all of them.
fn place(interface: u32) -> io::Result<LinkAddr> {
    let all = getifaddrs()?;
    all.filter_map(|found| found.address.and_then(|address| address.as_link_addr().copied()))
        .find(|address| u32::try_from(address.ifindex()) == Ok(interface))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no interface number {interface}")))
}

/// `BPF_LD | BPF_W | BPF_ABS`, of what the kernel knows beside the frame.
const LOAD_WORD: u16 = 0x20;
/// `BPF_LD | BPF_B | BPF_ABS`
const LOAD_BYTE: u16 = 0x30;
/// `BPF_JMP | BPF_JEQ | BPF_K`
const IF_EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;
/// `SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT`
const VLAN_TAG_PRESENT: u32 = 0xffff_f000 + 48;
/// How much of a frame is passed on.
const WHOLE: u32 = MAX_FRAME as u32;

/// A program of the kernel's filter: each comparison says how many lines to skip if equal, and if not.
fn filter(kind: FrameKind) -> Vec<SockFilter> {
    let program: &[(u16, u8, u8, u32)] = match kind {
        FrameKind::Arp => {
            &[(LOAD_WORD, 0, 0, VLAN_TAG_PRESENT), (IF_EQUAL, 0, 1, 0), (RETURN, 0, 0, WHOLE), (RETURN, 0, 0, 0)]
        }
        FrameKind::Neighbour => &[
            (LOAD_WORD, 0, 0, VLAN_TAG_PRESENT),
            (IF_EQUAL, 0, 8, 0),
            // next header: ICMPv6
            (LOAD_BYTE, 0, 0, 14 + 6),
            (IF_EQUAL, 0, 6, 58),
            // hop limit
            (LOAD_BYTE, 0, 0, 14 + 7),
            (IF_EQUAL, 0, 4, 255),
            // type of ICMPv6
            (LOAD_BYTE, 0, 0, 14 + 40),
            (IF_EQUAL, 1, 0, 135),
            (IF_EQUAL, 0, 1, 136),
            (RETURN, 0, 0, WHOLE),
            (RETURN, 0, 0, 0),
        ],
    };
    program.iter().map(|&(code, equal, other, value)| SockFilter::new(code, equal, other, value)).collect()
}

/// Groups of IPv6 that one interface hears. All are left when it is dropped. Needs no capability.
#[derive(Debug)]
pub struct Groups {
    interface: u32,
    /// Each with its groups, at most [`GROUPS_OF_SOCKET`].
    sockets: Vec<(Socket, Vec<Ipv6Addr>)>,
}

impl Groups {
    /// None yet, on the interface of this number.
    pub fn new(interface: u32) -> Self {
        Self { interface, sockets: Vec::new() }
    }

    /// Joins a group; one that was joined already stays so.
    ///
    /// # Errors
    /// When the interface is gone, or no descriptor is left.
    pub fn join(&mut self, group: Ipv6Addr) -> io::Result<()> {
        if self.sockets.iter().any(|(_, groups)| groups.contains(&group)) {
            return Ok(());
        }
        let at = match self.sockets.iter().position(|(_, groups)| groups.len() < GROUPS_OF_SOCKET) {
            Some(at) => at,
            None => {
                // It is never bound, and so receives nothing.
                let socket = Socket::new(Domain::IPV6, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
                self.sockets.push((socket, Vec::new()));
                self.sockets.len() - 1
            }
        };
        let (socket, groups) = &mut self.sockets[at];
        socket.join_multicast_v6(&group, self.interface)?;
        groups.push(group);
        Ok(())
    }

    /// Leaves a group, if it was joined.
    pub fn leave(&mut self, group: Ipv6Addr) {
        for (socket, groups) in &mut self.sockets {
            if let Some(at) = groups.iter().position(|joined| *joined == group) {
                groups.swap_remove(at);
                // It is left already when the interface is gone.
                let _ = socket.leave_multicast_v6(&group, self.interface);
            }
        }
        self.sockets.retain(|(_, groups)| !groups.is_empty());
    }
}
