//! Links.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage,
};
use rustix::io::Errno;

use crate::error::{NetlinkError, deleted};
use crate::netlink::Netlink;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, if that has six bytes.
    pub mac: Option<[u8; 6]>,
    /// The longest IP packet it sends, in bytes.
    pub mtu: u32,
    /// Whether it is switched on; a cable may be missing still.
    pub up: bool,
    /// Whether frames for everybody can be sent on it.
    pub broadcast: bool,
    /// Whether its neighbours' hardware addresses are found by ARP and NDP.
    pub resolves: bool,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// Whether what it is on, such as the other end of a `veth`, is in another network namespace.
    pub leads_elsewhere: bool,
    /// What it is, such as `veth` or `vxlan`; none for hardware and loopback.
    pub kind: Option<String>,
    /// What is particular to a VXLAN device.
    pub vxlan: Option<VxlanFacts>,
    /// Whether the kernel makes IPv6 addresses for it by itself; `false` also where there is no IPv6.
    pub makes_addresses: bool,
}

/// What is particular to a VXLAN device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VxlanFacts {
    /// The number of its network, of 24 bits.
    pub vni: u32,
    /// Its UDP port.
    pub port: u16,
    /// The address that it sends from; none if the route decides.
    pub local: Option<IpAddr>,
    /// Where frames to unknown hardware addresses go, if anywhere.
    pub group: Option<IpAddr>,
    /// The link that it is bound to, if it is.
    pub lower: Option<u32>,
    /// Whether it makes FDB entries of what it receives.
    pub learning: bool,
    /// Whether destinations come with packets rather than from the FDB.
    pub external: bool,
}

impl Netlink {
    /// All links.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let request = RouteNetlinkMessage::GetLink(request());
        self.dump(&request, format_args!("list links"), link)
    }

    /// The link of a name; `None` if there is none.
    ///
    /// # Errors
    /// When the kernel does not answer, or the name is longer than 15 bytes.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut request = request();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one(request, format_args!("read link {name}"))
    }

    /// The link of an index; `None` if there is none.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn link_at(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let mut request = request();
        request.header.index = index;
        self.one(request, format_args!("read link number {index}"))
    }

    fn one(&mut self, request: LinkMessage, what: std::fmt::Arguments<'_>) -> Result<Option<Link>, NetlinkError> {
        match self.get(&RouteNetlinkMessage::GetLink(request), what, link) {
            Err(error) if error.is(Errno::NODEV) => Ok(None),
            found => found,
        }
    }

    /// Deletes a link. Returns whether there was one of that name.
    ///
    /// # Errors
    /// When the kernel refuses, as it does for hardware.
    pub fn delete_link(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let result = self.change(&RouteNetlinkMessage::DelLink(message), 0, format_args!("delete link {name}"));
        deleted(result, &[Errno::NODEV])
    }
}

/// A request without what names the link; counters are not wanted.
fn request() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

/// The link that a message tells of.
pub(crate) fn link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        broadcast: message.header.flags.contains(LinkFlags::Broadcast),
        resolves: !message.header.flags.contains(LinkFlags::Noarp),
        master: None,
        leads_elsewhere: false,
        kind: None,
        vxlan: None,
        makes_addresses: false,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkNetNsId(_) => link.leads_elsewhere = true,
            LinkAttribute::Controller(index) => link.master = Some(index).filter(|index| *index != 0),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vxlan(infos)) => link.vxlan = Some(facts(&infos)),
                        _ => {}
                    }
                }
            }
            LinkAttribute::AfSpecUnspec(families) => {
                for family in families {
                    if let AfSpecUnspec::Inet6(facts) = family {
                        let silent = facts.contains(&AfSpecInet6::AddrGenMode(In6AddrGenMode::None));
                        link.makes_addresses = !silent;
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}

fn facts(infos: &[InfoVxlan]) -> VxlanFacts {
    let mut facts = VxlanFacts::default();
    for info in infos {
        match *info {
            InfoVxlan::Id(vni) => facts.vni = vni,
            InfoVxlan::Port(port) => facts.port = port,
            InfoVxlan::Local(local) => facts.local = Some(local.into()),
            InfoVxlan::Local6(local) => facts.local = Some(local.into()),
            InfoVxlan::Group(group) => facts.group = Some(group.into()),
            InfoVxlan::Group6(group) => facts.group = Some(group.into()),
            InfoVxlan::Link(index) => facts.lower = Some(index).filter(|index| *index != 0),
            InfoVxlan::Learning(learning) => facts.learning = learning,
            InfoVxlan::CollectMetadata(external) => facts.external = external,
            _ => {}
        }
    }
    facts
}
