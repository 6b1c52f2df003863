//! VXLAN devices, as they are wanted.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use rustix::io::Errno;

use crate::Mac;
use crate::error::NetlinkError;
use crate::link::{Link, VxlanFacts};
use crate::netlink::Netlink;
use crate::wire;

/// A VXLAN device that is wanted: it knows its peers from FDB entries alone, learns nothing, and has no IPv6 addresses
/// but those that it is given. Outer UDP checksums are as the kernel has them by default; over IPv6 it also takes
/// packets without (RFC 6935).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Its name, 15 bytes at most.
    pub name: String,
    /// The number of its network, of 24 bits.
    pub vni: u32,
    /// Its UDP port, here and at the peers.
    pub port: u16,
    /// The address that it sends from and receives at; its family is that of the underlay.
    pub local: IpAddr,
    /// The longest inner IP packet, in bytes. The outer one is 50 bytes longer over IPv4, 70 over IPv6.
    pub mtu: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
}

impl fmt::Display for Vxlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, vni, port, local, mtu, mac } = self;
        write!(f, "vxlan {name} (VNI {vni}, port {port}, local {local}, mtu {mtu}, mac {})", Mac(*mac))
    }
}

/// A VXLAN device that is there as it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ensured {
    /// The number of the link.
    pub index: u32,
    /// Whether it is new: made for the first time, or made anew because the old one was not right. It has no FDB
    /// entries, neighbours, addresses and routes then; sysctls have their defaults.
    pub recreated: bool,
}

impl Netlink {
    /// Makes the device, or adopts one that is right. MTU, hardware address and state are changed in place; one with
    /// another network, port, address or manner is replaced.
    ///
    /// # Errors
    /// [`NetlinkError::NotVxlan`] when the name belongs to a link of another kind; when the kernel refuses, as it does
    /// for a second device with the same network and port.
    pub fn ensure_vxlan(&mut self, wanted: &Vxlan) -> Result<Ensured, NetlinkError> {
        let mut found = self.link(&wanted.name)?;
        if let Some(link) = &found {
            let Some(facts) = &link.vxlan else {
                let kind = link.kind.clone().unwrap_or_else(|| "hardware".to_owned());
                return Err(NetlinkError::NotVxlan { link: link.name.clone(), kind });
            };
            if !fits(facts, wanted) {
                self.delete_link(&wanted.name)?;
                found = None;
            }
        }
        let recreated = found.is_none();
        let link = match found {
            Some(link) => link,
            None => self.create(wanted)?,
        };
        self.adjust(&link, wanted)?;
        Ok(Ensured { index: link.index, recreated })
    }

    /// Makes the device, switched off.
    fn create(&mut self, wanted: &Vxlan) -> Result<Link, NetlinkError> {
        let mut data = vec![InfoVxlan::Id(wanted.vni), InfoVxlan::Port(wanted.port), InfoVxlan::Learning(false)];
        match wanted.local {
            IpAddr::V4(local) => data.push(InfoVxlan::Local(local)),
            IpAddr::V6(local) => data.extend([InfoVxlan::Local6(local), InfoVxlan::UDPZeroCsumRX(true)]),
        }
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(wanted.name.clone()),
            LinkAttribute::Mtu(wanted.mtu),
            LinkAttribute::Address(wanted.mac.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]),
        ];
        let flags = wire::NLM_F_CREATE | wire::NLM_F_EXCL;
        self.change(&RouteNetlinkMessage::NewLink(message), flags, format_args!("create {wanted}"))?;
        self.link(&wanted.name)?
            .ok_or_else(|| NetlinkError::refused(format!("read {wanted}"), Errno::NODEV.raw_os_error(), None))
    }

    /// Changes what may be changed in place, and only what differs: every change is told to everybody who watches.
    fn adjust(&mut self, link: &Link, wanted: &Vxlan) -> Result<(), NetlinkError> {
        let mut attributes = Vec::new();
        if link.mac != Some(wanted.mac) {
            attributes.push(LinkAttribute::Address(wanted.mac.to_vec()));
        }
        if link.mtu != wanted.mtu {
            attributes.push(LinkAttribute::Mtu(wanted.mtu));
        }
        if !attributes.is_empty() {
            self.set(link.index, attributes, false, wanted)?;
        }
        if link.makes_addresses {
            let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
            let attribute = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]);
            match self.set(link.index, vec![attribute], false, wanted) {
                // The link has no IPv6 any more, because its MTU is below 1280.
                Err(error) if error.is(Errno::AFNOSUPPORT) => {}
                result => result?,
            }
        }
        if !link.up {
            self.set(link.index, Vec::new(), true, wanted)?;
        }
        Ok(())
    }

    fn set(
        &mut self,
        index: u32,
        attributes: Vec<LinkAttribute>,
        up: bool,
        wanted: &Vxlan,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        if up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        self.change(&RouteNetlinkMessage::SetLink(message), 0, format_args!("change {wanted}"))
    }
}

/// Whether what cannot be changed in place is as wanted.
fn fits(facts: &VxlanFacts, wanted: &Vxlan) -> bool {
    let right = VxlanFacts {
        vni: wanted.vni,
        port: wanted.port,
        local: Some(wanted.local),
        group: None,
        lower: None,
        learning: false,
        external: false,
    };
    *facts == right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_differs_in_what_cannot_be_changed_does_not_fit() {
        let local = "192.0.2.1".parse().unwrap();
        let wanted = Vxlan { name: "vx0".to_owned(), vni: 77, port: 8474, local, mtu: 1450, mac: [2; 6] };
        let right = VxlanFacts { vni: 77, port: 8474, local: Some(local), ..VxlanFacts::default() };
        assert!(fits(&right, &wanted));
        let other: IpAddr = "192.0.2.2".parse().unwrap();
        for wrong in [
            VxlanFacts { vni: 78, ..right },
            VxlanFacts { port: 4789, ..right },
            VxlanFacts { local: Some(other), ..right },
            VxlanFacts { local: None, ..right },
            VxlanFacts { group: Some(other), ..right },
            VxlanFacts { lower: Some(2), ..right },
            VxlanFacts { learning: true, ..right },
            VxlanFacts { external: true, ..right },
        ] {
            assert!(!fits(&wrong, &wanted), "{wrong:?}");
        }
    }
}
