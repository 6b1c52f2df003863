//! Version 1: one line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Command, Parsed, ProxyError, ProxyHeader, Tlvs, Transport, V1_SIGNATURE, Version};
use crate::text::{AddrText, canonical, parse_u16, push_u16};

/// Longest line, CR LF included (section 2.1).
pub const MAX_V1: usize = 107;

/// `bytes` begins with the signature.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let window = &bytes[..bytes.len().min(MAX_V1)];
    let line = match memchr::memchr2(b'\r', b'\n', window) {
        None if window.len() == MAX_V1 => return Err(ProxyError::LineTooLong),
        None => return Ok(Parsed::Incomplete),
        Some(end) => match (window[end], window.get(end + 1)) {
            (b'\r', Some(b'\n')) => &window[..end],
            (b'\r', None) if window.len() == MAX_V1 => return Err(ProxyError::LineTooLong),
            (b'\r', None) => return Ok(Parsed::Incomplete),
            _ => return Err(ProxyError::LineEnd),
        },
    };
    let fields = line[V1_SIGNATURE.len()..].strip_prefix(b" ").ok_or(ProxyError::UnknownProtocol)?;
    let mut fields = fields.split(|byte| *byte == b' ');
    let address: fn(&str) -> Option<IpAddr> = match fields.next() {
        Some(b"TCP4") => |text| text.parse().ok().map(|addr: Ipv4Addr| IpAddr::V4(addr)),
        Some(b"TCP6") => |text| text.parse().ok().map(|addr: Ipv6Addr| IpAddr::V6(addr)),
        // "the receiver must ignore anything presented before the CRLF"
        Some(b"UNKNOWN") => return Ok(header(line, Transport::Unspecified, None)),
        _ => return Err(ProxyError::UnknownProtocol),
    };
    let (Some(source), Some(destination), Some(source_port), Some(destination_port), None) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(ProxyError::FieldCount);
    };
    let address = |text| std::str::from_utf8(text).ok().and_then(address).ok_or(ProxyError::Address);
    let (source, destination) = (address(source)?, address(destination)?);
    let (source_port, destination_port) = (port(source_port)?, port(destination_port)?);
    let ends = (SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port));
    Ok(header(line, Transport::Stream, Some(ends)))
}

fn header(line: &[u8], transport: Transport, ends: Option<(SocketAddr, SocketAddr)>) -> Parsed {
    Parsed::Header(ProxyHeader {
        consumed: line.len() + 2,
        version: Version::V1,
        command: Command::Proxy,
        transport,
        source: ends.map(|(source, _)| canonical(source)),
        destination: ends.map(|(_, destination)| canonical(destination)),
        tlvs: Tlvs::default(),
    })
}

fn port(text: &[u8]) -> Result<u16, ProxyError> {
    match text {
        [b'0', _, ..] => Err(ProxyError::Port),
        _ => parse_u16(text).ok_or(ProxyError::Port),
    }
}

/// Appends the version 1 header of a connection from `source` to `destination`.
///
/// Says `UNKNOWN` when one of them is not known or when they are not of one address family (`::ffff:a.b.c.d` is IPv4).
pub fn write_v1(source: Option<SocketAddr>, destination: Option<SocketAddr>, out: &mut Vec<u8>) {
    let protocol: &[u8] = match (source.map(canonical), destination.map(canonical)) {
        (Some(SocketAddr::V4(_)), Some(SocketAddr::V4(_))) => b"PROXY TCP4 ",
        (Some(SocketAddr::V6(_)), Some(SocketAddr::V6(_))) => b"PROXY TCP6 ",
        _ => b"PROXY UNKNOWN\r\n",
    };
    out.extend_from_slice(protocol);
    if let (b' ', Some(source), Some(destination)) = (protocol[protocol.len() - 1], source, destination) {
        let (source, destination) = (canonical(source), canonical(destination));
        out.extend_from_slice(AddrText::new(source.ip()).as_bytes());
        out.push(b' ');
        out.extend_from_slice(AddrText::new(destination.ip()).as_bytes());
        out.push(b' ');
        push_u16(source.port(), out);
        out.push(b' ');
        push_u16(destination.port(), out);
        out.extend_from_slice(b"\r\n");
    }
}
