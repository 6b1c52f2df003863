//! Routing tables that say of everything that it is for this host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rustix::io::Errno;

use crate::Family;
use crate::error::{NetlinkError, deleted};
use crate::netlink::Netlink;
use crate::route::address_family;
use crate::wire;

/// Loopback, in every network namespace.
const LOOPBACK: u32 = 1;

impl Netlink {
    /// Whether a table has `local default dev lo`: whatever is looked up there is for this host.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn is_local_table(&mut self, family: Family, table: u32) -> Result<bool, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = address_family(family);
        request.attributes.push(RouteAttribute::Table(table));
        let request = RouteNetlinkMessage::GetRoute(request);
        let read = |message| is_local(&message, table).then_some(());
        match self.dump(&request, format_args!("list {family} routes of table {table}"), read) {
            Ok(found) => Ok(!found.is_empty()),
            // No table of that number was ever made.
            Err(error) if error.is(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets `local default dev lo` in a table.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_local_table(&mut self, family: Family, table: u32) -> Result<(), NetlinkError> {
        let mut message = message(family, table);
        message.header.protocol = RouteProtocol::Static;
        let flags = wire::NLM_F_CREATE | wire::NLM_F_REPLACE;
        let what = format_args!("set {family} route local default dev lo in table {table}");
        self.change(&RouteNetlinkMessage::NewRoute(message), flags, what)
    }

    /// Deletes `local default dev lo` from a table. Returns whether it was there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_local_table(&mut self, family: Family, table: u32) -> Result<bool, NetlinkError> {
        let message = RouteNetlinkMessage::DelRoute(message(family, table));
        let what = format_args!("delete {family} route local default dev lo of table {table}");
        deleted(self.change(&message, 0, what), &[Errno::SRCH])
    }
}

fn message(family: Family, table: u32) -> RouteMessage {
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = address_family(family);
    header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    header.kind = RouteType::Local;
    // Scopes are of IPv4; IPv6 does not look at them.
    if family == Family::V4 {
        header.scope = RouteScope::Host;
    }
    message.attributes.push(RouteAttribute::Table(table));
    message.attributes.push(RouteAttribute::Destination(any.into()));
    message.attributes.push(RouteAttribute::Oif(LOOPBACK));
    message
}

fn is_local(message: &RouteNetlinkMessage, wanted: u32) -> bool {
    let RouteNetlinkMessage::NewRoute(message) = message else { return false };
    let header = &message.header;
    if header.kind != RouteType::Local || header.destination_prefix_length != 0 {
        return false;
    }
    let (mut table, mut link, mut everything) = (u32::from(header.table), None, true);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(number) => link = Some(*number),
            RouteAttribute::Destination(RouteAddress::Inet(address)) => everything = address.is_unspecified(),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => everything = address.is_unspecified(),
            _ => {}
        }
    }
    table == wanted && link == Some(LOOPBACK) && everything
}
