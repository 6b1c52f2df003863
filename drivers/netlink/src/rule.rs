//! Rules that choose a routing table.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::{RouteHeader, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use crate::Family;
use crate::error::{NetlinkError, deleted};
use crate::netlink::Netlink;
use crate::route::address_family;
use crate::wire;

/// A rule: packets that it fits are looked up in its table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// The version of IP.
    pub family: Family,
    /// Its place; lower ones go first.
    pub priority: u32,
    /// The mark that packets have, and the bits of it that count.
    pub mark: Option<(u32, u32)>,
    /// The link that packets came by.
    pub iif: Option<String>,
    /// The link that the sender's socket is bound to.
    pub oif: Option<String>,
    /// Where packets are from.
    pub source: Option<IpNet>,
    /// Where packets go to.
    pub destination: Option<IpNet>,
    /// The number of the table; 255 is `local`, 254 `main`, 253 `default`. 0 if it does something else.
    pub table: u32,
    /// Whether there is more to it than is told here: another action, or a condition that has no field. Such a rule
    /// can be read, and not be written.
    pub special: bool,
}

impl Rule {
    /// A rule for all packets.
    pub fn lookup(family: Family, priority: u32, table: u32) -> Self {
        let (mark, iif, oif, source, destination) = (None, None, None, None, None);
        Self { family, priority, mark, iif, oif, source, destination, table, special: false }
    }

    /// A rule for packets with a mark, of which the bits of `mask` count.
    pub fn marked(family: Family, priority: u32, mark: u32, mask: u32, table: u32) -> Self {
        Self { mark: Some((mark, mask)), ..Self::lookup(family, priority, table) }
    }

    /// Whether the kernel takes a request to delete this rule to mean the other: what is not said, fits.
    fn covers(&self, other: &Self) -> bool {
        fn fits<T: PartialEq>(said: &Option<T>, there: &Option<T>) -> bool {
            said.is_none() || said == there
        }
        // Neither part of a mark is said if it is 0.
        let (value, mask) = self.mark.unwrap_or_default();
        let (other_value, other_mask) = other.mark.unwrap_or_default();
        self.family == other.family
            && self.priority == other.priority
            && (value == 0 || value == other_value)
            && (mask == 0 || mask == other_mask)
            && fits(&self.iif, &other.iif)
            && fits(&self.oif, &other.oif)
            && fits(&self.source, &other.source)
            && fits(&self.destination, &other.destination)
            && (self.table == 0 || self.table == other.table)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "priority {}", self.priority)?;
        if let Some(source) = self.source {
            write!(f, " from {source}")?;
        }
        if let Some(destination) = self.destination {
            write!(f, " to {destination}")?;
        }
        if let Some((value, mask)) = self.mark {
            write!(f, " fwmark {value:#x}/{mask:#x}")?;
        }
        for (word, link) in [("iif", &self.iif), ("oif", &self.oif)] {
            if let Some(link) = link {
                write!(f, " {word} {link}")?;
            }
        }
        if self.special {
            f.write_str(" and more")?;
        }
        write!(f, " lookup {} ({})", self.table, self.family)
    }
}

impl Netlink {
    /// The rules of a family, in the order in which the kernel looks at them.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn rules(&mut self, family: Family) -> Result<Vec<Rule>, NetlinkError> {
        let mut request = RuleMessage::default();
        request.header.family = address_family(family);
        let request = RouteNetlinkMessage::GetRule(request);
        self.dump(&request, format_args!("list {family} rules"), rule)
    }

    /// Adds a rule. Returns whether it is new, rather than there already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<bool, NetlinkError> {
        let mut message = message(rule);
        message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Static));
        let flags = wire::NLM_F_CREATE | wire::NLM_F_EXCL;
        match self.change(&RouteNetlinkMessage::NewRule(message), flags, format_args!("add rule {rule}")) {
            Err(error) if error.is(Errno::EXIST) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Deletes a rule: exactly this one. Returns whether it was there.
    ///
    /// # Errors
    /// [`NetlinkError::Ambiguous`] if the kernel would take another one; when the kernel refuses.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<bool, NetlinkError> {
        let rules = self.rules(rule.family)?;
        if !rules.contains(rule) {
            return Ok(false);
        }
        if let Some(other) = rules.iter().find(|other| rule.covers(other)).filter(|other| *other != rule) {
            return Err(NetlinkError::Ambiguous { rule: rule.to_string(), other: other.to_string() });
        }
        let message = RouteNetlinkMessage::DelRule(message(rule));
        deleted(self.change(&message, 0, format_args!("delete rule {rule}")), &[Errno::NOENT])
    }
}

fn message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    let header = &mut message.header;
    header.family = address_family(rule.family);
    header.action = RuleAction::ToTable;
    header.table = u8::try_from(rule.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    header.src_len = rule.source.map_or(0, |net| net.prefix_len());
    header.dst_len = rule.destination.map_or(0, |net| net.prefix_len());
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Table(rule.table));
    if let Some((value, mask)) = rule.mark {
        attributes.extend([RuleAttribute::FwMark(value), RuleAttribute::FwMask(mask)]);
    }
    attributes.extend(rule.iif.clone().map(RuleAttribute::Iifname));
    attributes.extend(rule.oif.clone().map(RuleAttribute::Oifname));
    attributes.extend(rule.source.map(|net| RuleAttribute::Source(net.network())));
    attributes.extend(rule.destination.map(|net| RuleAttribute::Destination(net.network())));
    message
}

/// The rule that a message tells of.
pub(crate) fn rule(message: RouteNetlinkMessage) -> Option<Rule> {
    let RouteNetlinkMessage::NewRule(message) = message else { return None };
    let header = &message.header;
    let family = match header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    let net = |address: &IpAddr, length| IpNet::new(*address, length).ok();
    let mut rule = Rule::lookup(family, 0, u32::from(header.table));
    let flags = RuleFlags::Permanent | RuleFlags::IifDetached | RuleFlags::OifDetached;
    rule.special = header.action != RuleAction::ToTable || header.tos != 0 || !(header.flags - flags).is_empty();
    let (mut mark, mut mask) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.oif = Some(name.clone()),
            RuleAttribute::Source(address) => rule.source = net(address, header.src_len),
            RuleAttribute::Destination(address) => rule.destination = net(address, header.dst_len),
            // Who made it; -1 is what those without the condition say.
            RuleAttribute::Protocol(_) | RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            RuleAttribute::SuppressIfGroup(u32::MAX) => {}
            _ => rule.special = true,
        }
    }
    if mark.is_some() || mask.is_some() {
        rule.mark = Some((mark.unwrap_or(0), mask.unwrap_or(u32::MAX)));
    }
    Some(rule)
}
