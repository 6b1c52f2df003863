//! OPEN: who a speaker is and what it can. RFC 4271 sections 4.2 and 6.2, RFC 5492.

use std::net::Ipv4Addr;

use crate::config::PeerConfig;
use crate::error::Notification;
use crate::types::{Asn, Families, Family};
use crate::wire::frame::{Kind, message};
use crate::wire::reader::Reader;

const VERSION: u8 = 4;
const UNICAST: u8 = 1;

/// What a peer said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) asn: Asn,
    pub(crate) hold: u16,
    pub(crate) id: Ipv4Addr,
    pub(crate) four_octet: bool,
    pub(crate) families: Families,
    pub(crate) route_refresh: bool,
    /// IPv4 prefixes over IPv6 next hops. RFC 8950.
    pub(crate) extended_next_hop: bool,
    /// Seconds. RFC 4724.
    pub(crate) restart_time: Option<u16>,
}

/// Codes of capabilities.
mod capability {
    pub(super) const MULTIPROTOCOL: u8 = 1;
    pub(super) const ROUTE_REFRESH: u8 = 2;
    pub(super) const EXTENDED_NEXT_HOP: u8 = 5;
    pub(super) const GRACEFUL_RESTART: u8 = 64;
    pub(super) const FOUR_OCTET_ASN: u8 = 65;
}

fn put_capability(into: &mut Vec<u8>, code: u8, value: &[u8]) {
    into.push(code);
    into.push(u8::try_from(value.len()).expect("capabilities of ours are short"));
    into.extend_from_slice(value);
}

fn multiprotocol(family: Family) -> [u8; 4] {
    let [high, low] = family.afi().to_be_bytes();
    [high, low, 0, UNICAST]
}

/// Our OPEN. `restarting`: this speaker was started anew, so that the peer may wait for its routes.
pub(crate) fn render(config: &PeerConfig, restarting: bool) -> Vec<u8> {
    let mut capabilities = Vec::new();
    for family in config.families.iter() {
        put_capability(&mut capabilities, capability::MULTIPROTOCOL, &multiprotocol(family));
    }
    put_capability(&mut capabilities, capability::ROUTE_REFRESH, &[]);
    if config.families.ipv4 && config.transport.address.is_ipv6() {
        // IPv4 unicast with next hops of IPv6.
        put_capability(&mut capabilities, capability::EXTENDED_NEXT_HOP, &[0, 1, 0, UNICAST, 0, 2]);
    }
    if let Some(seconds) = config.graceful_restart {
        let flags: u16 = if restarting { 0x8000 } else { 0 };
        let mut value = (flags | (seconds & 0x0fff)).to_be_bytes().to_vec();
        for family in config.families.iter() {
            value.extend_from_slice(&family.afi().to_be_bytes());
            // Packets are forwarded by the kernel, which does not notice.
            value.extend_from_slice(&[UNICAST, 0x80]);
        }
        put_capability(&mut capabilities, capability::GRACEFUL_RESTART, &value);
    }
    put_capability(&mut capabilities, capability::FOUR_OCTET_ASN, &config.local_asn.0.to_be_bytes());

    let mut body = vec![VERSION];
    body.extend_from_slice(&config.local_asn.two_octets().to_be_bytes());
    body.extend_from_slice(&config.hold.to_be_bytes());
    body.extend_from_slice(&config.router_id.octets());
    let length = u8::try_from(capabilities.len()).expect("capabilities of ours are short");
    body.extend_from_slice(&[length + 2, 2, length]);
    body.extend_from_slice(&capabilities);
    message(Kind::Open, &body)
}

/// Reads an OPEN and judges it.
///
/// # Errors
/// What RFC 4271 section 6.2 refuses, and a peer without a family that we have.
pub(crate) fn parse(body: &[u8], config: &PeerConfig) -> Result<Open, Notification> {
    let malformed = || Notification::new(2, 0);
    let mut reader = Reader(body);
    let version = reader.u8().ok_or_else(malformed)?;
    if version != VERSION {
        return Err(Notification::with(2, 1, u16::from(VERSION).to_be_bytes()));
    }
    let asn = reader.u16().ok_or_else(malformed)?;
    let hold = reader.u16().ok_or_else(malformed)?;
    let id = Ipv4Addr::from(reader.u32().ok_or_else(malformed)?);
    let mut found = Found::default();
    parse_parameters(&mut reader, &mut found)?;

    let asn = found.asn.unwrap_or(Asn(u32::from(asn)));
    if asn.0 == 0 || !config.peer_asn.accepts(config.local_asn, asn) {
        return Err(Notification::new(2, 2));
    }
    // Neighbours in one autonomous system must differ. RFC 6286 section 2.2.
    if id.is_unspecified() || (asn == config.local_asn && id == config.router_id) {
        return Err(Notification::new(2, 3));
    }
    if matches!(hold, 1 | 2) {
        return Err(Notification::new(2, 6));
    }
    // Who says nothing of families has IPv4 unicast.
    let families = if found.multiprotocol { found.families } else { Families::only(Family::Ipv4) };
    if families.and(config.families).is_empty() {
        let mut wanted = Vec::new();
        for family in config.families.iter() {
            put_capability(&mut wanted, capability::MULTIPROTOCOL, &multiprotocol(family));
        }
        return Err(Notification::with(2, 7, wanted));
    }
    Ok(Open {
        asn,
        hold,
        id,
        four_octet: found.asn.is_some(),
        families,
        route_refresh: found.route_refresh,
        extended_next_hop: found.extended_next_hop,
        restart_time: found.restart_time,
    })
}

#[derive(Default)]
struct Found {
    asn: Option<Asn>,
    multiprotocol: bool,
    families: Families,
    route_refresh: bool,
    extended_next_hop: bool,
    restart_time: Option<u16>,
}

fn parse_parameters(reader: &mut Reader<'_>, found: &mut Found) -> Result<(), Notification> {
    let malformed = || Notification::new(2, 0);
    let length = reader.u8().ok_or_else(malformed)?;
    // RFC 9072: a parameter of type 255 first says that all lengths have two octets.
    let extended = length != 0 && reader.0.first() == Some(&255);
    let declared = if extended {
        reader.u8();
        usize::from(reader.u16().ok_or_else(malformed)?)
    } else {
        usize::from(length)
    };
    if reader.0.len() != declared {
        return Err(malformed());
    }
    while !reader.is_empty() {
        let kind = reader.u8().ok_or_else(malformed)?;
        let value =
            if extended { reader.block() } else { reader.u8().and_then(|length| reader.take(usize::from(length))) };
        let value = value.ok_or_else(malformed)?;
        if kind != 2 {
            return Err(Notification::new(2, 4));
        }
        parse_capabilities(Reader(value), found).ok_or_else(malformed)?;
    }
    Ok(())
}

/// `None`: lengths that do not fit.
fn parse_capabilities(mut reader: Reader<'_>, found: &mut Found) -> Option<()> {
    while !reader.is_empty() {
        let code = reader.u8()?;
        let length = reader.u8()?;
        let value = reader.take(usize::from(length))?;
        match code {
            capability::MULTIPROTOCOL => {
                let value: [u8; 4] = value.try_into().ok()?;
                found.multiprotocol = true;
                if let Some(family) = Family::ALL.into_iter().find(|family| multiprotocol(*family)[..2] == value[..2])
                    && value[3] == UNICAST
                {
                    found.families.add(family);
                }
            }
            capability::ROUTE_REFRESH => found.route_refresh = true,
            capability::EXTENDED_NEXT_HOP => {
                let (entries, rest) = value.as_chunks::<6>();
                if !rest.is_empty() {
                    return None;
                }
                found.extended_next_hop |= entries.contains(&[0, 1, 0, UNICAST, 0, 2]);
            }
            capability::GRACEFUL_RESTART => {
                let mut value = Reader(value);
                let time = value.u16()? & 0x0fff;
                if !value.0.len().is_multiple_of(4) {
                    return None;
                }
                found.restart_time = Some(time);
            }
            capability::FOUR_OCTET_ASN => {
                found.asn = Some(Asn(u32::from_be_bytes(value.try_into().ok()?)));
            }
            _ => {}
        }
    }
    Some(())
}
