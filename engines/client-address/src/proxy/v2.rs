//! Version 2: binary, with optional fields behind the addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Command, Parsed, ProxyError, ProxyHeader, Tlvs, Transport, V2_SIGNATURE, Version, tlv};
use crate::text::canonical;

/// Longest header behind its first 16 bytes that is accepted or written.
pub const MAX_V2_LENGTH: u16 = 4096;

const FIXED: usize = 16;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// `bytes` begins with the signature.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let command = match bytes.get(12) {
        None => return Ok(Parsed::Incomplete),
        Some(&LOCAL) => Command::Local,
        Some(&PROXY) => Command::Proxy,
        Some(byte) if byte >> 4 != 2 => return Err(ProxyError::UnsupportedVersion { version: byte >> 4 }),
        Some(byte) => return Err(ProxyError::UnknownCommand { command: byte & 0x0f }),
    };
    let Some(&family) = bytes.get(13) else { return Ok(Parsed::Incomplete) };
    let layout = Layout::of(family);
    if command == Command::Proxy && layout.is_none() {
        return Err(ProxyError::UnknownFamily { family });
    }
    let Some(&[high, low]) = bytes.get(14..FIXED) else { return Ok(Parsed::Incomplete) };
    let length = u16::from_be_bytes([high, low]);
    if length > MAX_V2_LENGTH {
        return Err(ProxyError::TooLong { length });
    }
    let consumed = FIXED + usize::from(length);
    let Some(header) = bytes.get(..consumed) else { return Ok(Parsed::Incomplete) };
    let addresses_and_tlvs = layout.and_then(|layout| {
        let (addresses, tlvs) = header[FIXED..].split_at_checked(layout.size())?;
        Some((layout, addresses, tlvs))
    });
    let mut parsed = ProxyHeader {
        consumed,
        version: Version::V2,
        command,
        transport: Transport::Unspecified,
        source: None,
        destination: None,
        tlvs: Tlvs::default(),
    };
    match (command, addresses_and_tlvs) {
        (Command::Proxy, None) => return Err(ProxyError::AddressesCut { family, length }),
        (Command::Proxy, Some((layout, addresses, tlvs))) => {
            parsed.tlvs = tlv::check(header, tlvs)?;
            parsed.transport = layout.transport();
            if let Some((source, destination)) = layout.read(addresses) {
                (parsed.source, parsed.destination) = (Some(canonical(source)), Some(canonical(destination)));
            }
        }
        // The block of a LOCAL header is to be discarded, whatever it looks like; only a checksum counts.
        (Command::Local, None) => {}
        (Command::Local, Some((_, _, tlvs))) => match tlv::check(header, tlvs) {
            Ok(tlvs) => parsed.tlvs = tlvs,
            Err(ProxyError::TlvCut { .. }) => {}
            Err(error) => return Err(error),
        },
    }
    Ok(Parsed::Header(parsed))
}

/// What the address block looks like.
#[derive(Clone, Copy)]
enum Layout {
    Unspecified,
    V4(Transport),
    V6(Transport),
    Unix(Transport),
}

impl Layout {
    /// `None` for every value that the specification does not list.
    fn of(family: u8) -> Option<Self> {
        Some(match family {
            0x00 => Self::Unspecified,
            0x11 => Self::V4(Transport::Stream),
            0x12 => Self::V4(Transport::Datagram),
            0x21 => Self::V6(Transport::Stream),
            0x22 => Self::V6(Transport::Datagram),
            0x31 => Self::Unix(Transport::Stream),
            0x32 => Self::Unix(Transport::Datagram),
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Self::Unspecified => 0,
            Self::V4(_) => 12,
            Self::V6(_) => 36,
            Self::Unix(_) => 216,
        }
    }

    fn transport(self) -> Transport {
        match self {
            Self::Unspecified => Transport::Unspecified,
            Self::V4(transport) | Self::V6(transport) | Self::Unix(transport) => transport,
        }
    }

    /// Source and destination of a block of `size()` bytes.
    fn read(self, block: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
        fn split<const N: usize>(block: &[u8]) -> Option<([u8; N], [u8; N], u16, u16)> {
            let (source, rest) = block.split_first_chunk::<N>()?;
            let (destination, rest) = rest.split_first_chunk::<N>()?;
            let (source_port, rest) = rest.split_first_chunk::<2>()?;
            let destination_port = rest.first_chunk::<2>()?;
            Some((*source, *destination, u16::from_be_bytes(*source_port), u16::from_be_bytes(*destination_port)))
        }
        match self {
            Self::Unspecified | Self::Unix(_) => None,
            Self::V4(_) => split::<4>(block).map(|(source, destination, source_port, destination_port)| {
                (
                    SocketAddr::new(Ipv4Addr::from(source).into(), source_port),
                    SocketAddr::new(Ipv4Addr::from(destination).into(), destination_port),
                )
            }),
            Self::V6(_) => split::<16>(block).map(|(source, destination, source_port, destination_port)| {
                (
                    SocketAddr::new(Ipv6Addr::from(source).into(), source_port),
                    SocketAddr::new(Ipv6Addr::from(destination).into(), destination_port),
                )
            }),
        }
    }
}

/// What a version 2 header says beside the addresses. Fields that are too long for their type are left out: `authority`
/// and `alpn` above 255 bytes, `unique_id` above 128.
#[derive(Debug, Clone, Copy, Default)]
pub struct V2Extras<'a> {
    /// The downstream TLS connection, when we terminated one.
    pub tls: Option<TlsFacts<'a>>,
    /// SNI.
    pub authority: Option<&'a [u8]>,
    pub alpn: Option<&'a [u8]>,
    pub unique_id: Option<&'a [u8]>,
    /// TLVs of the inbound header, passed on unless written here for ourselves, and as far as 4096 bytes allow.
    pub passed_on: Option<&'a Tlvs>,
    /// Adds a CRC32C of the whole header.
    pub crc32c: bool,
}

/// What `PP2_TYPE_SSL` says.
#[derive(Debug, Clone, Copy, Default)]
pub struct TlsFacts<'a> {
    /// As in `TLSv1.3`.
    pub version: &'a str,
    /// As in `TLS_AES_128_GCM_SHA256`; empty when not known.
    pub cipher: &'a str,
    /// Whether the client presented a certificate on this connection.
    pub client_certificate: bool,
    /// Whether that certificate was verified.
    pub verified: bool,
    /// Common name of that certificate; empty when there is none.
    pub common_name: &'a str,
}

/// Appends the version 2 header of a connection from `source` to `destination`.
///
/// Without both of them it is `LOCAL`. With mixed families the IPv4 one is written as `::ffff:a.b.c.d`, so that the
/// client is not lost. `transport` is [`Transport::Datagram`] for UDP; anything else is written as a stream.
pub fn write_v2(
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
    transport: Transport,
    extras: &V2Extras<'_>,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(&V2_SIGNATURE);
    let protocol = if transport == Transport::Datagram { 2 } else { 1 };
    match (source.map(canonical), destination.map(canonical)) {
        (Some(source), Some(destination)) => {
            let v6 = |addr: IpAddr| match addr {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            match (source.ip(), destination.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    out.extend_from_slice(&[PROXY, 0x10 | protocol, 0, 0]);
                    out.extend_from_slice(&from.octets());
                    out.extend_from_slice(&to.octets());
                }
                (from, to) => {
                    out.extend_from_slice(&[PROXY, 0x20 | protocol, 0, 0]);
                    out.extend_from_slice(&v6(from));
                    out.extend_from_slice(&v6(to));
                }
            }
            out.extend_from_slice(&source.port().to_be_bytes());
            out.extend_from_slice(&destination.port().to_be_bytes());
        }
        _ => out.extend_from_slice(&[LOCAL, 0, 0, 0]),
    }
    write_tlvs(start, extras, out);
    let length = u16::try_from(out.len() - start - FIXED).expect("every TLV was held under 4096 bytes in sum");
    out[start + 14..start + FIXED].copy_from_slice(&length.to_be_bytes());
    if extras.crc32c {
        let at = out.len() - 4;
        let sum = crc32c::crc32c(&out[start..]);
        out[at..].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The checksum, all zero yet, comes last.
fn write_tlvs(start: usize, extras: &V2Extras<'_>, out: &mut Vec<u8>) {
    let end = start + FIXED + usize::from(MAX_V2_LENGTH) - if extras.crc32c { 7 } else { 0 };
    let mut ours = [false; 256];
    for (kind, value, longest) in [
        (tlv::ALPN, extras.alpn, 255),
        (tlv::AUTHORITY, extras.authority, 255),
        (tlv::UNIQUE_ID, extras.unique_id, 128),
    ] {
        if let Some(value) = value.filter(|value| value.len() <= longest) {
            push(kind, value, end, out);
            ours[usize::from(kind)] = true;
        }
    }
    if let Some(tls) = &extras.tls {
        let mut value = Vec::with_capacity(96);
        value.push(1 | if tls.client_certificate { 2 | 4 } else { 0 });
        value.extend_from_slice(&u32::from(!(tls.client_certificate && tls.verified)).to_be_bytes());
        for (kind, text) in
            [(tlv::SSL_VERSION, tls.version), (tlv::SSL_CN, tls.common_name), (tlv::SSL_CIPHER, tls.cipher)]
        {
            if !text.is_empty() && text.len() <= 255 {
                push(kind, text.as_bytes(), usize::MAX, &mut value);
            }
        }
        push(tlv::SSL, &value, end, out);
        ours[usize::from(tlv::SSL)] = true;
    }
    for (kind, value) in extras.passed_on.into_iter().flat_map(Tlvs::iter) {
        if !ours[usize::from(kind)] && !matches!(kind, tlv::CRC32C | tlv::NOOP) {
            push(kind, value, end, out);
        }
    }
    if extras.crc32c {
        push(tlv::CRC32C, &[0; 4], usize::MAX, out);
    }
}

/// Appends one TLV unless it would reach past `end`.
fn push(kind: u8, value: &[u8], end: usize, out: &mut Vec<u8>) {
    if let Ok(length) = u16::try_from(value.len())
        && out.len() + 3 + value.len() <= end
    {
        out.push(kind);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value);
    }
}
