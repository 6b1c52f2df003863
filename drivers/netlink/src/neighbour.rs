//! Neighbours, and the forwarding databases of VXLAN devices.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use crate::Mac;
use crate::error::{NetlinkError, deleted};
use crate::netlink::Netlink;
use crate::wire;

/// Where a VXLAN device sends frames to a hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FdbEntry {
    /// The hardware address.
    pub mac: [u8; 6],
    /// The peer's address on the underlay.
    pub ip: IpAddr,
}

impl fmt::Display for FdbEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", Mac(self.mac), self.ip)
    }
}

/// Whom an address on a link belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour {
    /// The address.
    pub ip: IpAddr,
    /// Its hardware address; `None` while the kernel looks for it.
    pub mac: Option<[u8; 6]>,
    /// Whether it was set to stay, rather than found by the kernel.
    pub permanent: bool,
}

impl Netlink {
    /// The forwarding database of a VXLAN device: all entries with an address.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn fdb(&mut self, index: u32) -> Result<Vec<FdbEntry>, NetlinkError> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        request.header.ifindex = index;
        let request = RouteNetlinkMessage::GetNeighbour(request);
        self.dump(&request, format_args!("list FDB of link number {index}"), |message| fdb_entry(message, index))
    }

    /// Sets an entry that stays, in the place of another one for the same hardware address.
    ///
    /// # Errors
    /// When the kernel refuses: there is no such link, it is no VXLAN device, or of the other family.
    pub fn set_fdb(&mut self, index: u32, entry: &FdbEntry) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewNeighbour(fdb_message(index, entry));
        let flags = wire::NLM_F_CREATE | wire::NLM_F_REPLACE;
        self.change(&message, flags, format_args!("set FDB entry {entry} on link number {index}"))
    }

    /// Deletes an entry. Returns whether it was there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_fdb(&mut self, index: u32, entry: &FdbEntry) -> Result<bool, NetlinkError> {
        let message = RouteNetlinkMessage::DelNeighbour(fdb_message(index, entry));
        let result = self.change(&message, 0, format_args!("delete FDB entry {entry} on link number {index}"));
        deleted(result, &[Errno::NOENT])
    }

    /// The neighbours on a link, of both families.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn neighbours(&mut self, index: u32) -> Result<Vec<Neighbour>, NetlinkError> {
        let mut request = NeighbourMessage::default();
        request.attributes.push(NeighbourAttribute::IfIndex(index));
        let request = RouteNetlinkMessage::GetNeighbour(request);
        self.dump(&request, format_args!("list neighbours on link number {index}"), |message| neighbour(message, index))
    }

    /// Sets a neighbour that stays, in the place of what was known of its address.
    ///
    /// # Errors
    /// When the kernel refuses: there is no such link, or it is switched off.
    pub fn set_neighbour(&mut self, index: u32, ip: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let mut message = neighbour_message(index, ip);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.change(
            &RouteNetlinkMessage::NewNeighbour(message),
            wire::NLM_F_CREATE | wire::NLM_F_REPLACE,
            format_args!("set neighbour {ip} as {} on link number {index}", Mac(mac)),
        )
    }

    /// Deletes a neighbour. Returns whether it was there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_neighbour(&mut self, index: u32, ip: IpAddr) -> Result<bool, NetlinkError> {
        let message = RouteNetlinkMessage::DelNeighbour(neighbour_message(index, ip));
        let result = self.change(&message, 0, format_args!("delete neighbour {ip} on link number {index}"));
        deleted(result, &[Errno::NOENT])
    }
}

fn fdb_message(index: u32, entry: &FdbEntry) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(entry.mac.to_vec()),
        NeighbourAttribute::Destination(entry.ip.into()),
    ];
    message
}

fn neighbour_message(index: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(ip.into()));
    message
}

/// Destination and hardware address.
fn ends(message: NeighbourMessage) -> (Option<IpAddr>, Option<[u8; 6]>) {
    let (mut ip, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => ip = Some(address.into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => ip = Some(address.into()),
            // In an FDB the family of the message says nothing of the address.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                ip = <[u8; 4]>::try_from(&bytes[..]).map(IpAddr::from).ok();
                ip = ip.or(<[u8; 16]>::try_from(bytes).map(IpAddr::from).ok());
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
            _ => {}
        }
    }
    (ip, mac)
}

/// The FDB entry that a message tells of, if it is one of this link.
pub(crate) fn fdb_entry(message: RouteNetlinkMessage, index: u32) -> Option<FdbEntry> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    if message.header.family != AddressFamily::Bridge || message.header.ifindex != index {
        return None;
    }
    let (ip, mac) = ends(message);
    Some(FdbEntry { mac: mac?, ip: ip? })
}

/// The neighbour that a message tells of, if it is one on this link. Broadcast and multicast addresses are none.
pub(crate) fn neighbour(message: RouteNetlinkMessage, index: u32) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    let header = &message.header;
    let ip = matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6);
    if !ip || header.ifindex != index || header.state == NeighbourState::Noarp {
        return None;
    }
    let permanent = header.state == NeighbourState::Permanent;
    let (ip, mac) = ends(message);
    Some(Neighbour { ip: ip?, mac, permanent })
}
