//! Strict reader of PROXY protocol headers, versions 1 and 2.
//!
//! Deliberately independent of the gateway's own reader, so that one checks the other.
//! Source: the PROXY protocol specification, sections 2.1 and 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

/// The twelve bytes that open a version 2 header.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The bytes that open a version 1 header.
const WORD: &[u8; 6] = b"PROXY ";
/// Longest version 1 line, CR and LF included (section 2.1).
const V1_LONGEST: usize = 107;
/// Longest accepted version 2 payload: addresses and TLVs.
const V2_LONGEST: usize = 4096;
const TLV_CRC32C: u8 = 0x03;
const TLV_SSL: u8 = 0x20;

/// A header as it was received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProxyHeader {
    /// 1 or 2.
    pub version: u8,
    /// `PROXY` or `LOCAL`.
    pub command: &'static str,
    /// `TCP4`, `TCP6`, `UDP4`, `UDP6`, `UNIX`, `UNSPEC` or (version 1 only) `UNKNOWN`.
    pub family: &'static str,
    /// The client it names; `None` for families without an IP address and for `LOCAL`.
    pub source: Option<SocketAddr>,
    /// The address the client had asked for.
    pub destination: Option<SocketAddr>,
    /// Version 2 extensions in order.
    pub tlvs: Vec<Tlv>,
}

/// One version 2 extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tlv {
    /// Registered type, for example 2 for the authority.
    #[serde(rename = "type")]
    pub kind: u8,
    /// The value, two lower-case hexadecimal digits a byte.
    pub hex: String,
    /// The value as text, when it is printable ASCII.
    pub text: Option<String>,
    /// The extensions inside a `PP2_TYPE_SSL` value, behind its five fixed bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inner: Vec<Tlv>,
}

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// No header: these bytes are payload.
    Absent,
    /// A header or the beginning of one; more bytes decide.
    Incomplete,
    /// A header, and its length in bytes.
    Header(ProxyHeader, usize),
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// Longer than 107 bytes, or no CR LF within them.
    #[error("PROXY v1 line is longer than 107 bytes")]
    LineTooLong,
    /// Not one of the forms of section 2.1.
    #[error("PROXY v1 line is malformed")]
    Line,
    /// The version nibble is not 2, or the command is neither LOCAL nor PROXY.
    #[error("PROXY v2 version and command byte {0:#04x} is not 0x20 or 0x21")]
    Command(u8),
    /// Unassigned family and transport.
    #[error("PROXY v2 family byte {0:#04x} is not assigned")]
    Family(u8),
    /// More than 4096 bytes of payload.
    #[error("PROXY v2 length {0} is over 4096")]
    TooLong(usize),
    /// Too few bytes for the addresses of the family.
    #[error("PROXY v2 length {0} is too short for its family")]
    TooShort(usize),
    /// An extension runs over the end of the header.
    #[error("PROXY v2 extension {0:#04x} does not fit")]
    Tlv(u8),
    /// The checksum extension is not 4 bytes long or does not match.
    #[error("PROXY v2 checksum does not match")]
    Checksum,
}

/// Decodes the header at the start of `bytes`, if there is one.
///
/// # Errors
/// [`ProxyError`] when the bytes are a header, but not a correct one: the connection is to be closed.
pub fn decode(bytes: &[u8]) -> Result<Decoded, ProxyError> {
    if starts_or_may_start(bytes, SIGNATURE) {
        if bytes.len() < 16 { Ok(Decoded::Incomplete) } else { decode_v2(bytes) }
    } else if starts_or_may_start(bytes, WORD) {
        if bytes.len() < WORD.len() { Ok(Decoded::Incomplete) } else { decode_v1(bytes) }
    } else {
        Ok(Decoded::Absent)
    }
}

fn starts_or_may_start(bytes: &[u8], opening: &[u8]) -> bool {
    let n = bytes.len().min(opening.len());
    bytes[..n] == opening[..n]
}

fn decode_v1(bytes: &[u8]) -> Result<Decoded, ProxyError> {
    let window = &bytes[..bytes.len().min(V1_LONGEST)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() == V1_LONGEST { Err(ProxyError::LineTooLong) } else { Ok(Decoded::Incomplete) };
    };
    let line = std::str::from_utf8(&window[WORD.len()..end]).map_err(|_| ProxyError::Line)?;
    let mut header = ProxyHeader {
        version: 1,
        command: "PROXY",
        family: "UNKNOWN",
        source: None,
        destination: None,
        tlvs: Vec::new(),
    };
    if line != "UNKNOWN" && !line.starts_with("UNKNOWN ") {
        let parts: Vec<&str> = line.split(' ').collect();
        let [family, source, destination, source_port, destination_port] = parts[..] else {
            return Err(ProxyError::Line);
        };
        header.family = match family {
            "TCP4" => "TCP4",
            "TCP6" => "TCP6",
            _ => return Err(ProxyError::Line),
        };
        header.source = Some(SocketAddr::new(v1_address(family, source)?, v1_port(source_port)?));
        header.destination = Some(SocketAddr::new(v1_address(family, destination)?, v1_port(destination_port)?));
    }
    Ok(Decoded::Header(header, end + 2))
}

fn v1_address(family: &str, text: &str) -> Result<IpAddr, ProxyError> {
    let address = match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4),
        _ => text.parse::<Ipv6Addr>().map(IpAddr::V6),
    };
    address.map_err(|_| ProxyError::Line)
}

fn v1_port(text: &str) -> Result<u16, ProxyError> {
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    if canonical { text.parse().map_err(|_| ProxyError::Line) } else { Err(ProxyError::Line) }
}

fn decode_v2(bytes: &[u8]) -> Result<Decoded, ProxyError> {
    let command = match bytes[12] {
        0x20 => "LOCAL",
        0x21 => "PROXY",
        other => return Err(ProxyError::Command(other)),
    };
    // Length of the two addresses and ports; section 2.2, table of families.
    let (family, addresses) = match bytes[13] {
        0x00 => ("UNSPEC", 0),
        0x11 => ("TCP4", 12),
        0x12 => ("UDP4", 12),
        0x21 => ("TCP6", 36),
        0x22 => ("UDP6", 36),
        0x31 | 0x32 => ("UNIX", 216),
        other => return Err(ProxyError::Family(other)),
    };
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > V2_LONGEST {
        return Err(ProxyError::TooLong(length));
    }
    let Some(payload) = bytes.get(16..16 + length) else {
        return Ok(Decoded::Incomplete);
    };
    let mut header = ProxyHeader { version: 2, command, family, source: None, destination: None, tlvs: Vec::new() };
    // LOCAL and UNSPEC: the receiver skips the payload, whatever it is.
    if command == "PROXY" && family != "UNSPEC" {
        if length < addresses {
            return Err(ProxyError::TooShort(length));
        }
        match addresses {
            12 => {
                header.source = Some(v2_address(array::<4>(payload, 0), payload, 8));
                header.destination = Some(v2_address(array::<4>(payload, 4), payload, 10));
            }
            36 => {
                header.source = Some(v2_address(array::<16>(payload, 0), payload, 32));
                header.destination = Some(v2_address(array::<16>(payload, 16), payload, 34));
            }
            _ => {}
        }
        header.tlvs = tlvs(&payload[addresses..], true)?;
        verify_checksum(&bytes[..16 + length], 16 + addresses)?;
    }
    Ok(Decoded::Header(header, 16 + length))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the range is N bytes long")
}

fn v2_address(ip: impl Into<IpAddr>, payload: &[u8], port_at: usize) -> SocketAddr {
    SocketAddr::new(ip.into(), u16::from_be_bytes(array(payload, port_at)))
}

/// Type, value and offset of the value of one extension.
type Split<'a> = (u8, &'a [u8], usize);

fn split_tlvs(bytes: &[u8]) -> Result<Vec<Split<'_>>, ProxyError> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let kind = bytes[at];
        let length = bytes.get(at + 1..at + 3).ok_or(ProxyError::Tlv(kind))?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let value = bytes.get(at + 3..at + 3 + length).ok_or(ProxyError::Tlv(kind))?;
        found.push((kind, value, at + 3));
        at += 3 + length;
    }
    Ok(found)
}

fn tlvs(bytes: &[u8], outer: bool) -> Result<Vec<Tlv>, ProxyError> {
    let split = split_tlvs(bytes)?;
    split
        .into_iter()
        .map(|(kind, value, _)| {
            let inner = if outer && kind == TLV_SSL {
                tlvs(value.get(5..).ok_or(ProxyError::Tlv(kind))?, false)?
            } else {
                Vec::new()
            };
            let printable = value.iter().all(|byte| (b' '..=b'~').contains(byte));
            let text = printable.then(|| String::from_utf8_lossy(value).into_owned());
            Ok(Tlv { kind, hex: hex(value), text, inner })
        })
        .collect()
}

/// `bytes` as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn verify_checksum(header: &[u8], tlvs_at: usize) -> Result<(), ProxyError> {
    let mut zeroed = header.to_vec();
    let mut expected = Vec::new();
    for (kind, value, at) in split_tlvs(&header[tlvs_at..])? {
        if kind == TLV_CRC32C {
            let value: [u8; 4] = value.try_into().map_err(|_| ProxyError::Checksum)?;
            expected.push(u32::from_be_bytes(value));
            zeroed[tlvs_at + at..tlvs_at + at + 4].fill(0);
        }
    }
    match expected[..] {
        [] => Ok(()),
        [one] if one == crc32c(&zeroed) => Ok(()),
        _ => Err(ProxyError::Checksum),
    }
}

/// CRC-32C (Castagnoli), bit by bit: headers are short. RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(bytes: &[u8]) -> (ProxyHeader, usize) {
        match decode(bytes) {
            Ok(Decoded::Header(header, n)) => (header, n),
            other => panic!("{other:?}"),
        }
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    const TCP4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];

    #[test]
    fn version_1_names_both_ends() {
        let (header, n) = header(b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\nGET");
        assert_eq!(n, 46);
        assert_eq!(header.source, Some("[2001:db8::1]:56324".parse().unwrap()));
        assert_eq!(header.destination, Some("[2001:db8::2]:443".parse().unwrap()));
    }

    #[test]
    fn malformed_version_1_lines_are_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            "PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 2001:db8::1 1 2\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(decode(line.as_bytes()), Err(ProxyError::Line), "{line:?}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        assert_eq!(decode(long.as_bytes()), Err(ProxyError::LineTooLong));
    }

    #[test]
    fn unknown_and_local_name_nobody() {
        for bytes in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, 0x11, &TCP4), v2(0x20, 0, b""), v2(0x21, 0, b"abc")] {
            let (header, n) = header(&bytes);
            assert_eq!((header.source, n), (None, bytes.len()));
        }
    }

    #[test]
    fn version_2_extensions_are_reported_in_order() {
        let mut payload = TCP4.to_vec();
        payload.extend(b"\x02\x00\x01a\x20\x00\x0c\x01\0\0\0\0\x21\x00\x04TLSx\x05\x00\x02\x00\xff");
        let (header, _) = header(&v2(0x21, 0x11, &payload));
        assert_eq!(header.source, Some("192.0.2.7:56324".parse().unwrap()));
        assert_eq!(header.tlvs[0].text.as_deref(), Some("a"));
        assert_eq!(header.tlvs[1].inner[0].text.as_deref(), Some("TLSx"));
        assert_eq!((header.tlvs[2].hex.as_str(), header.tlvs[2].text.as_deref()), ("00ff", None));
    }

    #[test]
    fn a_wrong_checksum_is_refused_and_a_right_one_accepted() {
        let mut payload = TCP4.to_vec();
        payload.extend([TLV_CRC32C, 0, 4, 0, 0, 0, 0]);
        let mut bytes = v2(0x21, 0x11, &payload);
        let sum = crc32c(&bytes);
        assert_eq!(decode(&bytes), Err(ProxyError::Checksum));
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&sum.to_be_bytes());
        header(&bytes);
    }

    #[test]
    fn crc32c_of_the_check_string_is_the_published_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn malformed_version_2_headers_are_refused() {
        for (bytes, error) in [
            (v2(0x31, 0x11, &TCP4), ProxyError::Command(0x31)),
            (v2(0x22, 0x11, &TCP4), ProxyError::Command(0x22)),
            (v2(0x21, 0x13, &TCP4), ProxyError::Family(0x13)),
            (v2(0x21, 0x11, &TCP4[..11]), ProxyError::TooShort(11)),
            (v2(0x21, 0x21, &TCP4), ProxyError::TooShort(12)),
            (v2(0x21, 0x11, &[TCP4.as_slice(), b"\x04\0\x02x"].concat()), ProxyError::Tlv(4)),
            (v2(0x21, 0x11, &[0; 4097]), ProxyError::TooLong(4097)),
        ] {
            assert_eq!(decode(&bytes), Err(error));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_behind_a_signature_are_decoded_within_their_length(
            tail in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
            right in proptest::bool::ANY,
        ) {
            let mut bytes = SIGNATURE.to_vec();
            if right {
                bytes.extend([0x21, 0x11, 0, tail.len().min(200) as u8]);
            }
            bytes.extend(tail);
            if let Ok(Decoded::Header(header, n)) = decode(&bytes) {
                proptest::prop_assert!(n <= bytes.len());
                proptest::prop_assert_eq!(decode(&bytes[..n]), Ok(Decoded::Header(header, n)));
            }
        }
    }

    #[test]
    fn every_cut_of_a_header_is_incomplete_and_other_bytes_are_absent() {
        for whole in [b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), v2(0x21, 0x11, &TCP4)] {
            for n in 0..whole.len() {
                assert_eq!(decode(&whole[..n]), Ok(Decoded::Incomplete), "{n}");
            }
        }
        for other in ["PRI * HTTP/2.0\r\n", "POST / HTTP/1.1\r\n", "\r\n\r\nG", "\x16\x03"] {
            assert_eq!(decode(other.as_bytes()), Ok(Decoded::Absent));
        }
    }
}
