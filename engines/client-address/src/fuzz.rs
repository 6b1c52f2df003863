//! Entries for fuzz targets: each takes any bytes and panics when a promise is broken.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use headwater_model::client::{ClientAddressPolicy, ForwardedHeader, Trust};

use crate::outbound::Outbound;
use crate::proxy::{self, Parsed};
use crate::resolve::{Client, resolve};
use crate::sender::Sender;

/// PROXY headers: a header parses alike whatever follows it, and is `Incomplete` at every shorter length.
pub fn proxy_header(bytes: &[u8]) {
    let whole = proxy::parse(bytes);
    match &whole {
        Ok(Parsed::Header(header)) => {
            assert!(header.consumed <= bytes.len());
            assert_eq!(header.source.is_some(), header.destination.is_some());
            assert_eq!(proxy::parse(&bytes[..header.consumed]), whole);
            for end in 0..header.consumed {
                assert_eq!(proxy::parse(&bytes[..end]), Ok(Parsed::Incomplete));
            }
        }
        Ok(Parsed::Incomplete) => {
            assert!(bytes.len() < 16 + usize::from(proxy::MAX_V2_LENGTH));
            for end in 0..bytes.len() {
                assert_eq!(proxy::parse(&bytes[..end]), Ok(Parsed::Incomplete));
            }
        }
        // Before the byte that told, it could still have become something else.
        Ok(Parsed::NotProxy) | Err(_) => {
            let told = (0..bytes.len()).find(|end| proxy::parse(&bytes[..*end]) != Ok(Parsed::Incomplete));
            for end in told.into_iter().flat_map(|told| told..bytes.len()) {
                assert_eq!(proxy::parse(&bytes[..end]), whole);
            }
        }
    }
}

/// Forwarding headers: an untrusted sender is the client whatever it says, and no outbound header is ever split.
///
/// Each line of `bytes` is a header `name: value`; a line without a colon is an `X-Forwarded-For`.
pub fn request(bytes: &[u8]) {
    let headers: Vec<(&[u8], &[u8])> = bytes
        .split(|byte| *byte == b'\n')
        .map(|line| match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (b"x-forwarded-for".as_slice(), line),
        })
        .collect();
    let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 80)), 80);
    let sender = Sender::of_socket(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 1000), local);
    for forwarded_header in [
        ForwardedHeader::None,
        ForwardedHeader::XForwardedFor,
        ForwardedHeader::Forwarded,
        ForwardedHeader::XRealIp,
        ForwardedHeader::Other("true-client-ip".into()),
    ] {
        for hops in [0, 1, 2, 1000] {
            let policy = ClientAddressPolicy {
                trust: Trust::Hops(hops),
                forwarded_header: forwarded_header.clone(),
                keep_unverified: hops == 2,
                emit_forwarded: true,
                ..Default::default()
            };
            let client = resolve(&policy, &sender, headers.as_slice());
            assert_eq!(client.chain.first(), Some(&client.addr));
            assert_eq!(client.chain.last(), Some(&sender.addr));
            assert!(client.chain.len() <= 1 + usize::try_from(hops).unwrap_or(0).min(crate::resolve::MAX_ENTRIES));
            if hops == 0 || forwarded_header == ForwardedHeader::None {
                let unheard = Client::of_sender(&policy, &sender);
                assert_eq!(client, unheard);
            }
            let outbound = Outbound {
                policy: &policy,
                client: &client,
                headers: headers.as_slice(),
                authority: bytes,
                fresh_request_id: "fresh",
            };
            let mut lines = Vec::new();
            outbound.write_pairs(&mut Vec::new(), |name, value| {
                assert!(memchr::memchr3(b'\r', b'\n', 0, value).is_none());
                lines.extend_from_slice(name.as_bytes());
                lines.extend_from_slice(b": ");
                lines.extend_from_slice(value);
                lines.extend_from_slice(b"\r\n");
            });
            let mut wire = Vec::new();
            outbound.write_http1(&mut wire);
            assert!(wire.eq_ignore_ascii_case(&lines));
        }
    }
}

/// One forwarding entry and one `Forwarded` element; addresses are canonical.
pub fn entry(bytes: &[u8]) {
    let found = [
        crate::forwarded::parse_address(bytes),
        crate::forwarded::Element::parse(bytes).and_then(|element| element.address()),
    ];
    for (addr, _) in found.into_iter().flatten() {
        assert_eq!(addr, addr.to_canonical());
    }
}
