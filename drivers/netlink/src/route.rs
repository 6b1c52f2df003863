//! Routes.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use crate::Family;
use crate::error::{NetlinkError, deleted};
use crate::netlink::Netlink;
use crate::wire;

/// A route to one next hop, in a table. Its family is that of its destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// The number of its table; 254 is the main one.
    pub table: u32,
    /// Where packets go to; `0.0.0.0/0` and `::/0` are the default routes. Bits behind the prefix do not count.
    pub destination: IpNet,
    /// The neighbour that they go through; none if the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The number of the link.
    pub index: u32,
    /// Whether the gateway is taken to be on the link though no route says so. IPv6 refuses a gateway that the main table
    /// has on another link, as it has a peer's address on the underlay; a link-local one is right on every link.
    pub onlink: bool,
    /// The longest packet that takes this route, in bytes; none for that of the link.
    pub mtu: Option<u32>,
}

impl Route {
    /// The version of IP.
    pub fn family(&self) -> Family {
        Family::of(self.destination.addr())
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination.trunc())?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " on link number {}", self.index)?;
        if self.onlink {
            f.write_str(" onlink")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        write!(f, " in table {}", self.table)
    }
}

/// How packets of this host would go to an address, by the routes and rules for packets without a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteAnswer {
    /// The number of the link; that of loopback for the host's own addresses.
    pub index: u32,
    /// The neighbour that they go through; none if the address is on the link.
    pub gateway: Option<IpAddr>,
    /// The source that the kernel would choose.
    pub source: Option<IpAddr>,
    /// The longest packet, in bytes: what the route says, or what was learned of the path, or what the link takes.
    pub mtu: u32,
}

impl Netlink {
    /// Sets a route, in the place of another one to the same destination in the same table.
    ///
    /// # Errors
    /// When the kernel refuses: there is no such link, it is switched off, the gateway is not reached through it.
    pub fn set_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let mut message = message(route);
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        // Scopes are of IPv4; IPv6 does not look at them.
        if route.gateway.is_none() && route.family() == Family::V4 {
            message.header.scope = RouteScope::Link;
        }
        if let Some(mtu) = route.mtu {
            message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        let flags = wire::NLM_F_CREATE | wire::NLM_F_REPLACE;
        self.change(&RouteNetlinkMessage::NewRoute(message), flags, format_args!("set route {route}"))
    }

    /// Deletes a route: the first with this destination, link and gateway in the table. Returns whether there was one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_route(&mut self, route: &Route) -> Result<bool, NetlinkError> {
        let mut message = message(route);
        // Of any scope, kind and origin.
        message.header.scope = RouteScope::NoWhere;
        let result = self.change(&RouteNetlinkMessage::DelRoute(message), 0, format_args!("delete route {route}"));
        // IPv6 of a link that is gone.
        deleted(result, &[Errno::SRCH, Errno::NODEV])
    }

    /// The routes in a table, of both families. Those to several next hops, and those that refuse packets, are no
    /// [`Route`]s and are not told.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn routes_in(&mut self, table: u32) -> Result<Vec<Route>, NetlinkError> {
        let mut found = Vec::new();
        for family in Family::ALL {
            let mut request = RouteMessage::default();
            request.header.address_family = address_family(family);
            request.attributes.push(RouteAttribute::Table(table));
            let request = RouteNetlinkMessage::GetRoute(request);
            let read = |message| route(message).filter(|route| route.table == table);
            match self.dump(&request, format_args!("list {family} routes of table {table}"), read) {
                Ok(routes) => found.extend(routes),
                // No table of that number was ever made.
                Err(error) if error.is(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// What `ip route get` says.
    ///
    /// # Errors
    /// When there is no route: the kernel's text is "Network is unreachable" or that of the route which refuses.
    pub fn route_to(&mut self, ip: IpAddr) -> Result<RouteAnswer, NetlinkError> {
        let what = format_args!("route to {ip}");
        let mut request = RouteMessage::default();
        request.header.address_family = address_family(Family::of(ip));
        request.header.destination_prefix_length = if ip.is_ipv4() { 32 } else { 128 };
        request.attributes.push(RouteAttribute::Destination(ip.into()));
        let found = self.get(&RouteNetlinkMessage::GetRoute(request), what, route_answer)?;
        let nothing = || NetlinkError::refused(what.to_string(), Errno::NETUNREACH.raw_os_error(), None);
        let (answer, mtu) = found.ok_or_else(nothing)?;
        let mtu = match mtu {
            Some(mtu) => mtu,
            None => self.link_at(answer.index)?.ok_or_else(nothing)?.mtu,
        };
        Ok(RouteAnswer { mtu, ..answer })
    }
}

pub(crate) fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// What a route is known by.
fn message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(route.family());
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes.push(RouteAttribute::Table(route.table));
    message.attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    message.attributes.push(RouteAttribute::Oif(route.index));
    if let Some(gateway) = route.gateway {
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    }
    if route.onlink {
        message.header.flags |= RouteFlags::Onlink;
    }
    message
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn mtu(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None })
}

/// The route that a message tells of, if it is one to one next hop.
pub(crate) fn route(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = &message.header;
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => [0; 4].into(),
        AddressFamily::Inet6 => [0; 16].into(),
        _ => return None,
    };
    // What the kernel keeps of a path, such as a smaller MTU, is no route of a table.
    if header.kind != RouteType::Unicast || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let (mut destination, mut index, mut table) = (unspecified, None, u32::from(header.table));
    let (mut gateway, mut found_mtu) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => return None,
            RouteAttribute::Oif(number) => index = Some(*number),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Metrics(metrics) => found_mtu = mtu(metrics),
            _ => {}
        }
    }
    Some(Route {
        table,
        destination: IpNet::new(destination, header.destination_prefix_length).ok()?,
        gateway,
        index: index?,
        onlink: header.flags.contains(RouteFlags::Onlink),
        mtu: found_mtu,
    })
}

/// The answer without the MTU of the link, and the MTU that it has, if any.
pub(crate) fn route_answer(message: RouteNetlinkMessage) -> Option<(RouteAnswer, Option<u32>)> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let (mut index, mut gateway, mut source, mut found_mtu) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(number) => index = Some(*number),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Metrics(metrics) => found_mtu = mtu(metrics),
            _ => {}
        }
    }
    Some((RouteAnswer { index: index?, gateway, source, mtu: 0 }, found_mtu))
}
