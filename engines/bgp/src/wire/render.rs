//! UPDATEs of ours. RFC 4271 section 4.3, RFC 4760.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::types::{Asn, Family, Route};
use crate::wire::frame::{HEADER, Kind, MAX, message};
use crate::wire::update::code;

/// How prefixes of one family are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextHop {
    /// In the old form: NEXT_HOP, and prefixes at the end.
    Ipv4(Ipv4Addr),
    /// In MP_REACH_NLRI, with a link-local address beside it where the peer is on the same link.
    Ipv6(Ipv6Addr, Option<Ipv6Addr>),
}

/// What is the same in all UPDATEs of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    pub(crate) local_asn: Asn,
    pub(crate) internal: bool,
    pub(crate) four_octet: bool,
    pub(crate) ipv4: Option<NextHop>,
    pub(crate) ipv6: Option<NextHop>,
}

impl Manner {
    pub(crate) fn next_hop(&self, family: Family) -> Option<NextHop> {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }
}

/// LOCAL_PREF where a route says nothing: it must be there between peers of one autonomous system.
const LOCAL_PREF: u32 = 100;
const ORIGIN_IGP: u8 = 0;
const AS_SEQUENCE: u8 = 2;

/// Longest prefix on the wire: length and 16 octets.
const LONGEST: usize = 17;

fn put_attribute(into: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    match u8::try_from(value.len()) {
        Ok(length) => into.extend_from_slice(&[flags, code, length]),
        Err(_) => {
            into.extend_from_slice(&[flags | 0x10, code]);
            let length = u16::try_from(value.len()).expect("attributes fit a message");
            into.extend_from_slice(&length.to_be_bytes());
        }
    }
    into.extend_from_slice(value);
}

fn put_prefix(into: &mut Vec<u8>, prefix: &IpNet) {
    let length = prefix.prefix_len();
    into.push(length);
    let octets = usize::from(length.div_ceil(8));
    match prefix {
        IpNet::V4(net) => into.extend_from_slice(&net.network().octets()[..octets]),
        IpNet::V6(net) => into.extend_from_slice(&net.network().octets()[..octets]),
    }
}

/// As many of `prefixes` as fit in `room` bytes.
fn put_prefixes<'a>(into: &mut Vec<u8>, prefixes: impl Iterator<Item = &'a IpNet>, room: usize) -> usize {
    let start = into.len();
    let mut count = 0;
    for prefix in prefixes {
        if into.len() - start + LONGEST > room {
            break;
        }
        put_prefix(into, prefix);
        count += 1;
    }
    count
}

fn body(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(4 + withdrawn.len() + attributes.len() + nlri.len());
    for block in [withdrawn, attributes] {
        body.extend_from_slice(&u16::try_from(block.len()).expect("blocks fit a message").to_be_bytes());
        body.extend_from_slice(block);
    }
    body.extend_from_slice(nlri);
    message(Kind::Update, &body)
}

/// Attributes but next hop and prefixes.
fn attributes(route: &Route, manner: &Manner, next_hop: Option<Ipv4Addr>) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_attribute(&mut bytes, 0x40, code::ORIGIN, &[ORIGIN_IGP]);
    let mut four = vec![];
    if manner.internal {
        put_attribute(&mut bytes, 0x40, code::AS_PATH, &[]);
    } else {
        four.extend_from_slice(&[AS_SEQUENCE, 1]);
        four.extend_from_slice(&manner.local_asn.0.to_be_bytes());
        if manner.four_octet {
            put_attribute(&mut bytes, 0x40, code::AS_PATH, &four);
            four.clear();
        } else {
            let mut two = vec![AS_SEQUENCE, 1];
            two.extend_from_slice(&manner.local_asn.two_octets().to_be_bytes());
            put_attribute(&mut bytes, 0x40, code::AS_PATH, &two);
        }
    }
    if let Some(next_hop) = next_hop {
        put_attribute(&mut bytes, 0x40, code::NEXT_HOP, &next_hop.octets());
    }
    if manner.internal {
        let value = route.local_pref().unwrap_or(LOCAL_PREF);
        put_attribute(&mut bytes, 0x40, code::LOCAL_PREF, &value.to_be_bytes());
    }
    let communities: Vec<u8> = route.communities().iter().flat_map(|community| community.0.to_be_bytes()).collect();
    if !communities.is_empty() {
        put_attribute(&mut bytes, 0xc0, code::COMMUNITIES, &communities);
    }
    // RFC 6793 section 4.2.2: for a peer that knows two octets alone, where they are not enough.
    if !four.is_empty() && u16::try_from(manner.local_asn.0).is_err() {
        put_attribute(&mut bytes, 0xc0, code::AS4_PATH, &four);
    }
    let large: Vec<u8> = route.large().iter().flat_map(|community| community.0).flat_map(u32::to_be_bytes).collect();
    if !large.is_empty() {
        put_attribute(&mut bytes, 0xc0, code::LARGE_COMMUNITY, &large);
    }
    bytes
}

/// An UPDATE that announces as many of `prefixes`, all of `family`, as fit, and how many these are: at least one.
pub(crate) fn announce<'a>(
    prefixes: impl Iterator<Item = &'a IpNet>,
    family: Family,
    next_hop: NextHop,
    route: &Route,
    manner: &Manner,
) -> (Vec<u8>, usize) {
    match next_hop {
        NextHop::Ipv4(address) => {
            let attributes = attributes(route, manner, Some(address));
            let mut nlri = Vec::new();
            let count = put_prefixes(&mut nlri, prefixes, MAX - HEADER - 4 - attributes.len());
            (body(&[], &attributes, &nlri), count)
        }
        NextHop::Ipv6(address, link_local) => {
            let rest = attributes(route, manner, None);
            let mut value = family.afi().to_be_bytes().to_vec();
            value.push(1);
            value.push(if link_local.is_some() { 32 } else { 16 });
            value.extend_from_slice(&address.octets());
            value.extend(link_local.iter().flat_map(|address| address.octets()));
            value.push(0);
            let room = MAX - HEADER - 4 - 4 - value.len() - rest.len();
            let count = put_prefixes(&mut value, prefixes, room);
            // RFC 7606 section 5.1: it comes first.
            let mut attributes = Vec::new();
            put_attribute(&mut attributes, 0x80, code::MP_REACH_NLRI, &value);
            attributes.extend_from_slice(&rest);
            (body(&[], &attributes, &[]), count)
        }
    }
}

/// An UPDATE that withdraws as many of `prefixes`, all of `family`, as fit, and how many these are: at least one.
pub(crate) fn withdraw<'a>(
    prefixes: impl Iterator<Item = &'a IpNet>,
    family: Family,
    next_hop: NextHop,
) -> (Vec<u8>, usize) {
    match next_hop {
        NextHop::Ipv4(_) => {
            let mut withdrawn = Vec::new();
            let count = put_prefixes(&mut withdrawn, prefixes, MAX - HEADER - 4);
            (body(&withdrawn, &[], &[]), count)
        }
        NextHop::Ipv6(..) => {
            let mut value = family.afi().to_be_bytes().to_vec();
            value.push(1);
            let count = put_prefixes(&mut value, prefixes, MAX - HEADER - 4 - 4 - 3);
            let mut attributes = Vec::new();
            put_attribute(&mut attributes, 0x80, code::MP_UNREACH_NLRI, &value);
            (body(&[], &attributes, &[]), count)
        }
    }
}

/// End-of-RIB: everything of the family was told. RFC 4724 section 2.
pub(crate) fn end_of_rib(family: Family) -> Vec<u8> {
    match family {
        Family::Ipv4 => body(&[], &[], &[]),
        Family::Ipv6 => {
            let mut attributes = Vec::new();
            put_attribute(&mut attributes, 0x80, code::MP_UNREACH_NLRI, &[0, 2, 1]);
            body(&[], &attributes, &[])
        }
    }
}
