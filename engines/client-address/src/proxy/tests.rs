use proptest::prelude::*;

use super::*;

fn header(bytes: &[u8]) -> ProxyHeader {
    match parse(bytes) {
        Ok(Parsed::Header(header)) => header,
        other => panic!("{:?} is {other:?}", bytes.escape_ascii().to_string()),
    }
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = V2_SIGNATURE.to_vec();
    bytes.extend_from_slice(&[command, family]);
    bytes.extend_from_slice(&u16::try_from(block.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(block);
    bytes
}

const V4_BLOCK: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x10, 0x00, 0x00, 0x50];

#[test]
fn not_proxy_is_told_at_the_first_byte_that_says_so() {
    for (bytes, expected) in [
        (b"".as_slice(), Parsed::Incomplete),
        (b"P", Parsed::Incomplete),
        (b"PROX", Parsed::Incomplete),
        (b"G", Parsed::NotProxy),
        (b"PO", Parsed::NotProxy),
        (b"PROT", Parsed::NotProxy),
        (b"proxy", Parsed::NotProxy),
        (b"\r", Parsed::Incomplete),
        (b"\r\n\r\n", Parsed::Incomplete),
        (b"\r\n\r\nG", Parsed::NotProxy),
        (b"\x16\x03\x01", Parsed::NotProxy),
    ] {
        assert_eq!(parse(bytes), Ok(expected), "{:?}", bytes.escape_ascii().to_string());
    }
}

#[test]
fn v1_names_its_two_ends() {
    for (line, source, destination) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443", "192.0.2.1:56324", "198.51.100.2:443"),
        ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535", "255.255.255.255:65535", "255.255.255.255:65535"),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 0 1", "192.0.2.1:0", "198.51.100.2:1"),
        ("PROXY TCP6 2001:db8::1 2001:DB8::2 1 2", "[2001:db8::1]:1", "[2001:db8::2]:2"),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2", "192.0.2.1:1", "192.0.2.2:2"),
    ] {
        let header = header(format!("{line}\r\nGET /").as_bytes());
        assert_eq!(header.consumed, line.len() + 2);
        assert_eq!((header.version, header.transport), (Version::V1, Transport::Stream));
        assert_eq!(header.source, Some(source.parse().unwrap()), "{line}");
        assert_eq!(header.destination, Some(destination.parse().unwrap()), "{line}");
    }
}

#[test]
fn v1_unknown_names_nobody() {
    let longest = format!("PROXY UNKNOWN {}", "f".repeat(MAX_V1 - 16));
    assert_eq!(longest.len() + 2, MAX_V1);
    for line in ["PROXY UNKNOWN", "PROXY UNKNOWN ", "PROXY UNKNOWN 192.0.2.1 192.0.2.2 1 2", longest.as_str()] {
        let header = header(format!("{line}\r\n").as_bytes());
        assert_eq!((header.consumed, header.source, header.destination), (line.len() + 2, None, None));
    }
}

#[test]
fn v1_grammar_is_exact() {
    use ProxyError::{Address, FieldCount, LineEnd, LineTooLong, Port, UnknownProtocol};
    let long = format!("PROXY UNKNOWN {}", "f".repeat(MAX_V1 - 15));
    for (line, expected) in [
        ("PROXY", UnknownProtocol),
        ("PROXY ", UnknownProtocol),
        ("PROXYTCP4 1.1.1.1 1.1.1.1 1 2", UnknownProtocol),
        ("PROXY  TCP4 1.1.1.1 1.1.1.1 1 2", UnknownProtocol),
        ("PROXY\tTCP4 1.1.1.1 1.1.1.1 1 2", UnknownProtocol),
        ("PROXY tcp4 1.1.1.1 1.1.1.1 1 2", UnknownProtocol),
        ("PROXY UDP4 1.1.1.1 1.1.1.1 1 2", UnknownProtocol),
        ("PROXY UNKNOWNS", UnknownProtocol),
        ("PROXY / HTTP/1.1", UnknownProtocol),
        ("PROXY TCP4", FieldCount),
        ("PROXY TCP4 1.1.1.1 1.1.1.1 1", FieldCount),
        ("PROXY TCP4 1.1.1.1 1.1.1.1 1 2 ", FieldCount),
        ("PROXY TCP4 1.1.1.1 1.1.1.1 1 2 3", FieldCount),
        ("PROXY TCP4 1.1.1.1  1.1.1.1 1 2", FieldCount),
        ("PROXY TCP4  1.1.1.1 1.1.1.1 1", Address),
        ("PROXY TCP4 01.1.1.1 1.1.1.1 1 2", Address),
        ("PROXY TCP4 1.1.1 1.1.1.1 1 2", Address),
        ("PROXY TCP4 256.1.1.1 1.1.1.1 1 2", Address),
        ("PROXY TCP4 ::1 ::1 1 2", Address),
        ("PROXY TCP4 ::ffff:1.1.1.1 1.1.1.1 1 2", Address),
        ("PROXY TCP6 1.1.1.1 1.1.1.1 1 2", Address),
        ("PROXY TCP6 fe80::1%eth0 ::1 1 2", Address),
        ("PROXY TCP6 [::1] ::1 1 2", Address),
        ("PROXY TCP4 1.1.1.1 1.1.1.1 01 2", Port),
        ("PROXY TCP4 1.1.1.1 1.1.1.1 00 2", Port),
        ("PROXY TCP4 1.1.1.1 1.1.1.1 +1 2", Port),
        ("PROXY TCP4 1.1.1.1 1.1.1.1 65536 2", Port),
        ("PROXY TCP4 1.1.1.1 1.1.1.1 1 -2", Port),
        ("PROXY TCP4 1.1.1.1 1.1.1.1 1 2\n", LineEnd),
        ("PROXY TCP4 1.1.1.1 1.1.1.1 1 2\r", LineEnd),
        ("PROXY UNKNOWN\nx", LineEnd),
        (long.as_str(), LineTooLong),
    ] {
        assert_eq!(parse(format!("{line}\r\n").as_bytes()), Err(expected), "{line:?}");
    }
}

#[test]
fn a_v1_line_may_not_grow_past_107_bytes() {
    let endless = format!("PROXY UNKNOWN {}", "f".repeat(200));
    assert_eq!(parse(&endless.as_bytes()[..MAX_V1 - 1]), Ok(Parsed::Incomplete));
    assert_eq!(parse(&endless.as_bytes()[..MAX_V1]), Err(ProxyError::LineTooLong));
}

#[test]
fn v2_names_its_two_ends() {
    let v6_block: Vec<u8> = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0; 16]]
        .concat()
        .into_iter()
        .chain([1, 0, 0, 80])
        .collect();
    for (family, block, transport, source) in [
        (0x11, V4_BLOCK.to_vec(), Transport::Stream, "192.0.2.1:4096"),
        (0x12, V4_BLOCK.to_vec(), Transport::Datagram, "192.0.2.1:4096"),
        (0x21, v6_block.clone(), Transport::Stream, "[2001:db8::1]:256"),
        (0x22, v6_block, Transport::Datagram, "[2001:db8::1]:256"),
    ] {
        let header = header(&v2(0x21, family, &block));
        assert_eq!((header.command, header.transport), (Command::Proxy, transport));
        assert_eq!(header.source, Some(source.parse().unwrap()));
        assert_eq!(header.destination.unwrap().port(), 80);
    }
}

#[test]
fn v2_headers_without_a_client_name_nobody() {
    for (command, family, block) in [
        (0x20, 0x00, vec![]),
        (0x20, 0x11, V4_BLOCK.to_vec()),
        (0x20, 0x11, vec![1, 2, 3]),
        (0x20, 0xff, vec![0xff; 40]),
        (0x20, 0x00, vec![0xff; 40]),
        (0x21, 0x00, vec![]),
        (0x21, 0x31, vec![b'/'; 216]),
        (0x21, 0x32, vec![b'/'; 216]),
    ] {
        let header = header(&v2(command, family, &block));
        assert_eq!((header.consumed, header.source, header.destination), (16 + block.len(), None, None));
    }
}

#[test]
fn faulty_v2_headers_are_refused() {
    let with = |tlvs: &[u8]| [&V4_BLOCK[..], tlvs].concat();
    for (bytes, expected) in [
        (v2(0x11, 0x11, &V4_BLOCK), ProxyError::UnsupportedVersion { version: 1 }),
        (v2(0x22, 0x11, &V4_BLOCK), ProxyError::UnknownCommand { command: 2 }),
        (v2(0x21, 0x13, &V4_BLOCK), ProxyError::UnknownFamily { family: 0x13 }),
        (v2(0x21, 0x10, &V4_BLOCK), ProxyError::UnknownFamily { family: 0x10 }),
        (v2(0x21, 0x41, &V4_BLOCK), ProxyError::UnknownFamily { family: 0x41 }),
        (v2(0x21, 0x11, &V4_BLOCK[..11]), ProxyError::AddressesCut { family: 0x11, length: 11 }),
        (v2(0x21, 0x21, &V4_BLOCK), ProxyError::AddressesCut { family: 0x21, length: 12 }),
        (v2(0x21, 0x11, &[0; 4097]), ProxyError::TooLong { length: 4097 }),
        (v2(0x21, 0x11, &with(&[1])), ProxyError::TlvCut { kind: 1 }),
        (v2(0x21, 0x11, &with(&[1, 0, 2, 0])), ProxyError::TlvCut { kind: 1 }),
        (v2(0x21, 0x11, &with(&[3, 0, 2, 0, 0])), ProxyError::ChecksumLength { length: 2 }),
        (v2(0x21, 0x11, &with(&[3, 0, 4, 0, 0, 0, 0, 3, 0, 4, 0, 0, 0, 0])), ProxyError::ChecksumTwice),
    ] {
        assert_eq!(parse(&bytes), Err(expected));
    }
    // Told as soon as it is known.
    assert_eq!(parse(&v2(0x31, 0, &[])[..13]), Err(ProxyError::UnsupportedVersion { version: 3 }));
    assert_eq!(parse(&v2(0x21, 0x11, &[0; 4097])[..16]), Err(ProxyError::TooLong { length: 4097 }));
}

#[test]
fn a_changed_address_authority_or_checksum_is_refused() {
    let ends = Some("192.0.2.1:1".parse().unwrap());
    let extras = V2Extras { authority: Some(b"shop.example"), crc32c: true, ..Default::default() };
    let mut bytes = Vec::new();
    write_v2(ends, ends, Transport::Stream, &extras, &mut bytes);
    let authority = 16 + 12..16 + 12 + 3 + 12;
    assert_eq!(bytes.len(), authority.end + 7);
    // A changed TLV type or length may hide the checksum, and is not looked at here.
    for at in (16..28).chain(authority.start + 3..authority.end).chain(authority.end + 3..bytes.len()) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x40;
        assert!(matches!(parse(&changed), Err(ProxyError::ChecksumMismatch { .. })), "byte {at}");
    }
}

#[test]
fn a_local_header_with_a_wrong_checksum_is_refused() {
    let mut bytes = Vec::new();
    write_v2(None, None, Transport::Stream, &V2Extras { crc32c: true, ..Default::default() }, &mut bytes);
    assert_eq!(header(&bytes).command, Command::Local);
    *bytes.last_mut().unwrap() ^= 1;
    assert!(matches!(parse(&bytes), Err(ProxyError::ChecksumMismatch { .. })));
}

#[test]
fn the_checksum_is_crc32c_over_the_header_with_its_field_zeroed() {
    // Computed bit by bit, apart from the library: Castagnoli, reflected.
    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
        })
    }
    let mut block = V4_BLOCK.to_vec();
    block.extend_from_slice(&[3, 0, 4, 0, 0, 0, 0, 0xe0, 0, 1, 7]);
    let mut bytes = v2(0x21, 0x11, &block);
    let sum = crc(&bytes);
    bytes[31..35].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(header(&bytes).tlvs.find(0xe0), Some(&[7u8][..]));
}

#[test]
fn v1_says_unknown_when_the_ends_do_not_match() {
    let (v4, v6, mapped) = ("192.0.2.1:1", "[2001:db8::1]:2", "[::ffff:192.0.2.9]:3");
    for (source, destination, expected) in [
        (Some(v4), Some(v4), "PROXY TCP4 192.0.2.1 192.0.2.1 1 1\r\n"),
        (Some(v6), Some(v6), "PROXY TCP6 2001:db8::1 2001:db8::1 2 2\r\n"),
        (Some(v4), Some(mapped), "PROXY TCP4 192.0.2.1 192.0.2.9 1 3\r\n"),
        (Some(v4), Some(v6), "PROXY UNKNOWN\r\n"),
        (Some(v6), Some(mapped), "PROXY UNKNOWN\r\n"),
        (None, Some(v4), "PROXY UNKNOWN\r\n"),
        (Some(v4), None, "PROXY UNKNOWN\r\n"),
    ] {
        let mut out = Vec::new();
        write_v1(source.map(|a| a.parse().unwrap()), destination.map(|a| a.parse().unwrap()), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn v2_keeps_the_client_when_families_are_mixed() {
    for (source, destination) in [("192.0.2.1:1", "[2001:db8::1]:2"), ("[2001:db8::1]:2", "192.0.2.1:1")] {
        let (source, destination) = (Some(source.parse().unwrap()), Some(destination.parse().unwrap()));
        let mut out = Vec::new();
        write_v2(source, destination, Transport::Stream, &V2Extras::default(), &mut out);
        assert_eq!(out[13], 0x21);
        assert_eq!((header(&out).source, header(&out).destination), (source, destination));
    }
}

#[test]
fn v2_writes_what_is_known_once_and_passes_the_rest_on() {
    let mut inbound_block = V4_BLOCK.to_vec();
    for (kind, value) in [(tlv::AUTHORITY, &b"theirs"[..]), (0xee, b"vendor"), (tlv::NOOP, b"xx"), (tlv::ALPN, b"h2")] {
        inbound_block.extend_from_slice(&[kind, 0, u8::try_from(value.len()).unwrap()]);
        inbound_block.extend_from_slice(value);
    }
    let inbound = header(&v2(0x21, 0x11, &inbound_block));
    let extras = V2Extras {
        tls: Some(TlsFacts { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256", ..Default::default() }),
        authority: Some(b"ours"),
        alpn: None,
        unique_id: Some(&[b'i'; 129]),
        passed_on: Some(&inbound.tlvs),
        crc32c: true,
    };
    let mut out = Vec::new();
    write_v2(inbound.source, inbound.destination, Transport::Stream, &extras, &mut out);
    let written = header(&out);
    let kinds: Vec<u8> = written.tlvs.iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [tlv::AUTHORITY, tlv::SSL, 0xee, tlv::ALPN, tlv::CRC32C]);
    assert_eq!(written.tlvs.find(tlv::AUTHORITY), Some(&b"ours"[..]));
    assert_eq!(written.tlvs.tls(), Some(PassedTls { client: 1, verify: 1 }));
    let ssl = written.tlvs.find(tlv::SSL).unwrap();
    assert_eq!(&ssl[5..15], b"\x21\x00\x07TLSv1.3");
}

#[test]
fn v2_never_writes_more_than_it_would_read() {
    let mut block = V4_BLOCK.to_vec();
    while block.len() + 103 <= usize::from(MAX_V2_LENGTH) {
        block.extend_from_slice(&[0xee, 0, 100]);
        block.extend_from_slice(&[7; 100]);
    }
    let inbound = header(&v2(0x21, 0x11, &block));
    let extras =
        V2Extras { authority: Some(&[b'a'; 255]), passed_on: Some(&inbound.tlvs), crc32c: true, ..Default::default() };
    let mut out = Vec::new();
    write_v2(inbound.source, inbound.destination, Transport::Stream, &extras, &mut out);
    assert!(out.len() > 3900);
    assert_eq!(header(&out).tlvs.find(tlv::AUTHORITY).map(<[u8]>::len), Some(255));
}

fn any_addr() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.into(), port)),
        (any::<[u8; 16]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.into(), port)),
    ]
}

/// Bytes near valid headers: a signature, then anything.
fn near_headers() -> impl Strategy<Value = Vec<u8>> {
    let tail = prop::collection::vec(any::<u8>(), 0..300);
    let text = "( ?(PROXY|TCP4|TCP6|UNKNOWN|[0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9a-f:]{2,9}|[0-9]{1,6}|\r|\n|\r\n)){1,8}";
    prop_oneof![
        tail.clone(),
        text.prop_map(|text| format!("PROXY{text}").into_bytes()),
        (
            prop::sample::select(vec![0x20u8, 0x21]),
            prop::sample::select(vec![0u8, 0x11, 0x12, 0x21, 0x31]),
            tail.clone()
        )
            .prop_map(|(command, family, block)| v2(command, family, &block)),
        tail.prop_map(|tail| [&V2_SIGNATURE[..], &tail].concat()),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        source in any_addr(), destination in any_addr(), datagram: bool, crc32c: bool,
        authority in prop::option::of(prop::collection::vec(any::<u8>(), 0..60)),
    ) {
        let (source, destination) = (crate::text::canonical(source), crate::text::canonical(destination));
        let mut out = Vec::new();
        let transport = if datagram { Transport::Datagram } else { Transport::Stream };
        let extras = V2Extras { authority: authority.as_deref(), crc32c, ..Default::default() };
        write_v2(Some(source), Some(destination), transport, &extras, &mut out);
        let read = header(&out);
        prop_assert_eq!((read.source, read.destination), (Some(source), Some(destination)));
        prop_assert_eq!((read.consumed, read.transport), (out.len(), transport));
        prop_assert_eq!(read.tlvs.find(tlv::AUTHORITY), authority.as_deref());
        crate::fuzz::proxy_header(&out);

        let mut line = Vec::new();
        write_v1(Some(source), Some(destination), &mut line);
        let read = header(&line);
        let same_family = source.is_ipv4() == destination.is_ipv4();
        prop_assert_eq!(read.source, same_family.then_some(source));
        prop_assert_eq!(read.destination, same_family.then_some(destination));
        prop_assert_eq!(read.consumed, line.len());
        crate::fuzz::proxy_header(&line);
    }

    #[test]
    fn every_split_of_any_bytes_tells_the_same(bytes in near_headers()) {
        crate::fuzz::proxy_header(&bytes);
    }
}
