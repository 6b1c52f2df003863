//! Connections as bytes.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::Family;
use crate::decode::{Malformed, Message, attributes, malformed};
use crate::wire::{self, Writer};

/// Protocols without ports, and the numbers of their attributes: identifier, type, code.
const ICMP: [(u8, [u16; 3]); 2] = [
    (1, [wire::CTA_PROTO_ICMP_ID, wire::CTA_PROTO_ICMP_TYPE, wire::CTA_PROTO_ICMP_CODE]),
    (58, [wire::CTA_PROTO_ICMPV6_ID, wire::CTA_PROTO_ICMPV6_TYPE, wire::CTA_PROTO_ICMPV6_CODE]),
];

/// Who sends to whom. Both addresses are of the same family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// The sender.
    pub src: IpAddr,
    /// The receiver.
    pub dst: IpAddr,
    /// The sender's port. Of ICMP and ICMPv6 it is the identifier; 0 where there is neither.
    pub sport: u16,
    /// The receiver's port. Of ICMP and ICMPv6 it has the type in its upper byte, the code in its lower one.
    pub dport: u16,
}

/// A connection that the kernel tracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// IANA's number of the protocol: 6 is TCP, 17 UDP, 132 SCTP.
    pub proto: u8,
    /// As the first packet came.
    pub original: Tuple,
    /// As answers come. Where it is not the original turned round, addresses are translated.
    pub reply: Tuple,
    /// Its mark; 0 if it has none.
    pub mark: u32,
    /// The kernel's name of it. Another connection with the same addresses has another.
    pub id: u32,
    /// The zone; 0 unless rules set one.
    pub zone: u16,
    /// The zone of the original direction alone; 0 unless rules set one.
    pub original_zone: u16,
    /// How long it is kept if no packet comes.
    pub timeout: Duration,
}

impl Flow {
    /// The version of IP.
    pub fn family(&self) -> Family {
        Family::of(self.original.src)
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {} to {} port {}", self.src, self.sport, self.dst, self.dport)
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "protocol {} from {} (id {})", self.proto, self.original, self.id)
    }
}

/// The header of nfnetlink: family, version, resource.
fn header(family: Family) -> [u8; wire::NFGEN_HEADER] {
    [family.number(), 0, 0, 0]
}

/// The request for all connections, or for those of a protocol.
pub(crate) fn request(family: Family, proto: Option<u8>) -> Vec<u8> {
    let mut writer = Writer::new(wire::IPCTNL_MSG_CT_GET, wire::NLM_F_DUMP, &header(family));
    if let Some(proto) = proto {
        let tuple = writer.nest(wire::CTA_TUPLE_ORIG | wire::NLA_F_NESTED);
        let part = writer.nest(wire::CTA_TUPLE_PROTO | wire::NLA_F_NESTED);
        writer.attribute(wire::CTA_PROTO_NUM, &[proto]);
        writer.close(part);
        writer.close(tuple);
        // What of it counts: flags in the byte order of the machine.
        let filter = writer.nest(wire::CTA_FILTER | wire::NLA_F_NESTED);
        writer.attribute(wire::CTA_FILTER_ORIG_FLAGS, &wire::CTA_FILTER_F_CTA_PROTO_NUM.to_ne_bytes());
        writer.attribute(wire::CTA_FILTER_REPLY_FLAGS, &0_u32.to_ne_bytes());
        writer.close(filter);
    }
    writer.finish()
}

/// The request to forget a connection.
pub(crate) fn deletion(flow: &Flow) -> Vec<u8> {
    let mut writer = Writer::new(wire::IPCTNL_MSG_CT_DELETE, wire::NLM_F_ACK, &header(flow.family()));
    write_tuple(&mut writer, flow.proto, &flow.original, flow.original_zone);
    if flow.zone != 0 {
        writer.attribute(wire::CTA_ZONE, &flow.zone.to_be_bytes());
    }
    writer.attribute(wire::CTA_ID, &flow.id.to_be_bytes());
    writer.finish()
}

fn write_tuple(writer: &mut Writer, proto: u8, tuple: &Tuple, zone: u16) {
    let start = writer.nest(wire::CTA_TUPLE_ORIG | wire::NLA_F_NESTED);
    let part = writer.nest(wire::CTA_TUPLE_IP | wire::NLA_F_NESTED);
    for (four, six, address) in
        [(wire::CTA_IP_V4_SRC, wire::CTA_IP_V6_SRC, tuple.src), (wire::CTA_IP_V4_DST, wire::CTA_IP_V6_DST, tuple.dst)]
    {
        match address {
            IpAddr::V4(address) => writer.attribute(four, &address.octets()),
            IpAddr::V6(address) => writer.attribute(six, &address.octets()),
        }
    }
    writer.close(part);
    let part = writer.nest(wire::CTA_TUPLE_PROTO | wire::NLA_F_NESTED);
    writer.attribute(wire::CTA_PROTO_NUM, &[proto]);
    if let Some((_, [id, kind, code])) = ICMP.iter().find(|(number, _)| *number == proto) {
        let [type_value, code_value] = tuple.dport.to_be_bytes();
        writer.attribute(*id, &tuple.sport.to_be_bytes());
        writer.attribute(*kind, &[type_value]);
        writer.attribute(*code, &[code_value]);
    } else {
        writer.attribute(wire::CTA_PROTO_SRC_PORT, &tuple.sport.to_be_bytes());
        writer.attribute(wire::CTA_PROTO_DST_PORT, &tuple.dport.to_be_bytes());
    }
    writer.close(part);
    if zone != 0 {
        writer.attribute(wire::CTA_TUPLE_ZONE, &zone.to_be_bytes());
    }
    writer.close(start);
}

/// What a message of conntrack says, each part if it is there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) original: Option<(u8, Tuple)>,
    reply: Option<(u8, Tuple)>,
    mark: u32,
    pub(crate) id: Option<u32>,
    pub(crate) zone: u16,
    pub(crate) original_zone: u16,
    timeout: u32,
}

pub(crate) fn fields(message: &Message<'_>) -> Result<Fields, Malformed> {
    let body = message.payload.get(wire::NFGEN_HEADER..).ok_or_else(|| malformed("header of nfnetlink"))?;
    let mut fields = Fields::default();
    for attribute in attributes(body) {
        let (kind, value) = attribute?;
        match kind {
            wire::CTA_TUPLE_ORIG => {
                fields.original = tuple(value)?;
                fields.original_zone = zone(value)?;
            }
            wire::CTA_TUPLE_REPLY => fields.reply = tuple(value)?,
            wire::CTA_MARK => fields.mark = u32::from_be_bytes(exactly(value)?),
            wire::CTA_ID => fields.id = Some(u32::from_be_bytes(exactly(value)?)),
            wire::CTA_ZONE => fields.zone = u16::from_be_bytes(exactly(value)?),
            wire::CTA_TIMEOUT => fields.timeout = u32::from_be_bytes(exactly(value)?),
            _ => {}
        }
    }
    Ok(fields)
}

/// The connection that a message tells of, if it is whole and of IP.
pub(crate) fn decode(message: &Message<'_>) -> Result<Option<Flow>, Malformed> {
    if message.kind != wire::IPCTNL_MSG_CT_NEW {
        return Ok(None);
    }
    let Fields { original, reply, mark, id, zone, original_zone, timeout } = fields(message)?;
    let (Some((proto, original)), Some((_, reply)), Some(id)) = (original, reply, id) else { return Ok(None) };
    if original.src.is_ipv4() != reply.src.is_ipv4() {
        return Ok(None);
    }
    let timeout = Duration::from_secs(timeout.into());
    Ok(Some(Flow { proto, original, reply, mark, id, zone, original_zone, timeout }))
}

fn exactly<const N: usize>(value: &[u8]) -> Result<[u8; N], Malformed> {
    value.try_into().map_err(|_| malformed("number"))
}

/// Protocol and ends; `None` if some are missing or the families differ.
fn tuple(bytes: &[u8]) -> Result<Option<(u8, Tuple)>, Malformed> {
    let (mut src, mut dst): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let (mut proto, mut sport, mut dport) = (None, 0, 0);
    for part in attributes(bytes) {
        let (kind, value) = part?;
        match kind {
            wire::CTA_TUPLE_IP => {
                for attribute in attributes(value) {
                    let (kind, value) = attribute?;
                    match kind {
                        wire::CTA_IP_V4_SRC => src = Some(exactly::<4>(value)?.into()),
                        wire::CTA_IP_V4_DST => dst = Some(exactly::<4>(value)?.into()),
                        wire::CTA_IP_V6_SRC => src = Some(exactly::<16>(value)?.into()),
                        wire::CTA_IP_V6_DST => dst = Some(exactly::<16>(value)?.into()),
                        _ => {}
                    }
                }
            }
            wire::CTA_TUPLE_PROTO => (proto, sport, dport) = ports(value)?,
            _ => {}
        }
    }
    let (Some(proto), Some(src), Some(dst)) = (proto, src, dst) else { return Ok(None) };
    Ok((src.is_ipv4() == dst.is_ipv4()).then_some((proto, Tuple { src, dst, sport, dport })))
}

/// The zone of a tuple's direction; 0 if it has none of its own.
fn zone(bytes: &[u8]) -> Result<u16, Malformed> {
    for part in attributes(bytes) {
        if let (wire::CTA_TUPLE_ZONE, value) = part? {
            return Ok(u16::from_be_bytes(exactly(value)?));
        }
    }
    Ok(0)
}

fn ports(bytes: &[u8]) -> Result<(Option<u8>, u16, u16), Malformed> {
    let (mut proto, mut sport, mut dport) = (None, 0, [0; 2]);
    let mut icmp: Option<&[u16; 3]> = None;
    for attribute in attributes(bytes) {
        let (kind, value) = attribute?;
        match icmp {
            // The protocol goes first.
            _ if kind == wire::CTA_PROTO_NUM => {
                let [number] = exactly(value)?;
                proto = Some(number);
                icmp = ICMP.iter().find(|(other, _)| *other == number).map(|(_, kinds)| kinds);
            }
            None if kind == wire::CTA_PROTO_SRC_PORT => sport = u16::from_be_bytes(exactly(value)?),
            None if kind == wire::CTA_PROTO_DST_PORT => dport = exactly(value)?,
            Some([id, ..]) if kind == *id => sport = u16::from_be_bytes(exactly(value)?),
            Some([_, number, _]) if kind == *number => [dport[0]] = exactly(value)?,
            Some([.., code]) if kind == *code => [dport[1]] = exactly(value)?,
            _ => {}
        }
    }
    Ok((proto, sport, u16::from_be_bytes(dport)))
}

#[cfg(test)]
mod tests;
