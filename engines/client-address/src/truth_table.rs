//! The rows of the client-address truth table that an engine can decide.

use std::net::SocketAddr;
use std::time::Duration;

use headwater_model::client::{ClientAddressPolicy, ForwardedHeader, ProxyProtocolMode, Trust};

use crate::outbound::{Outbound, Verdict, verdict};
use crate::proxy::{Transport, V2Extras, write_v1, write_v2};
use crate::{Arrival, Client, Decision, Sender, resolve};

const C: &str = "203.0.113.7";
const C6: &str = "2001:db8::1";
const E: &str = "198.51.100.66";
const L: &str = "10.0.0.1";
const L1: &str = "10.0.0.1";
const L2: &str = "10.0.0.2";
const CDN: &str = "10.9.9.9";
const P6: &str = "2001:db8::99";

/// One row: policy, connection, inbound headers, expected answer.
struct Row {
    number: u32,
    trusted: &'static [&'static str],
    hops: Option<u32>,
    header: &'static str,
    proxy: ProxyProtocolMode,
    keep_unverified: bool,
    toa: Option<&'static str>,
    peer: &'static str,
    /// First bytes of the connection.
    bytes: Bytes,
    inbound: &'static [(&'static str, &'static str)],
    /// `R`, provenance, outbound `X-Forwarded-For`; or the reason of the refusal.
    expected: Result<(&'static str, &'static str, &'static str), &'static str>,
}

#[derive(Clone, Copy)]
enum Bytes {
    Payload,
    V1(&'static str),
    V2(&'static str),
    V2Local,
    V2BadSum,
}

const ROW: Row = Row {
    number: 0,
    trusted: &[],
    hops: None,
    header: "None",
    proxy: ProxyProtocolMode::Off,
    keep_unverified: false,
    toa: None,
    peer: C,
    bytes: Bytes::Payload,
    inbound: &[],
    expected: Ok((C, "socket", C)),
};
const XFF: Row = Row { trusted: &[L], header: "X-Forwarded-For", peer: L, ..ROW };
const REQUIRED: Row = Row { trusted: &[L], proxy: ProxyProtocolMode::Required, peer: L, ..ROW };
const OPTIONAL: Row = Row { proxy: ProxyProtocolMode::Optional, ..REQUIRED };

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { number: 1, ..ROW },
    Row { number: 2, inbound: &[("X-Forwarded-For", E)], ..ROW },
    Row { number: 3, inbound: &[("X-Forwarded-For", E), ("x-forwarded-for", L), ("X_Forwarded_For", E), ("X-Forwarded-For", E),
        ("X-Real-IP", E), ("Forwarded", "for=198.51.100.66"), ("CF-Connecting-IP", E)], ..ROW },
    // The listener's HTTP parser answers 400: the engine only says that these bytes are payload.
    Row { number: 4, bytes: Bytes::V1(E), ..ROW },
    Row { number: 5, inbound: &[("X-Forwarded-For", C)], expected: Ok((C, "x-forwarded-for", "203.0.113.7, 10.0.0.1")), ..XFF },
    Row { number: 6, expected: Ok((L, "socket", L)), ..XFF },
    Row { number: 7, peer: C, inbound: &[("X-Forwarded-For", E)], ..XFF },
    Row { number: 8, inbound: &[("X-Forwarded-For", "198.51.100.66, 203.0.113.7")],
        expected: Ok((C, "x-forwarded-for", "203.0.113.7, 10.0.0.1")), ..XFF },
    Row { number: 8, inbound: &[("X-Forwarded-For", E), ("x-forwarded-for", C)],
        expected: Ok((C, "x-forwarded-for", "203.0.113.7, 10.0.0.1")), ..XFF },
    // A client behind L cannot speak through the spelling that L does not append to.
    Row { number: 8, inbound: &[("X-Forwarded-For", C), ("X_Forwarded_For", E)],
        expected: Ok((C, "x-forwarded-for", "203.0.113.7, 10.0.0.1")), ..XFF },
    Row { number: 9, keep_unverified: true, inbound: &[("X-Forwarded-For", "198.51.100.66, 203.0.113.7")],
        expected: Ok((C, "x-forwarded-for", "198.51.100.66, 203.0.113.7, 10.0.0.1")), ..XFF },
    Row { number: 9, keep_unverified: true, inbound: &[("X-Forwarded-For", "evil, ,<x>"), ("X-Forwarded-For", "198.51.100.66:1 , 203.0.113.7")],
        expected: Ok((C, "x-forwarded-for", "evil, <x>, 198.51.100.66:1, 203.0.113.7, 10.0.0.1")), ..XFF },
    Row { number: 9, keep_unverified: true, peer: C, inbound: &[("X-Forwarded-For", E)], ..XFF },
    Row { number: 10, trusted: &[L1, L2], inbound: &[("X-Forwarded-For", "198.51.100.66, 203.0.113.7, 10.0.0.2")],
        expected: Ok((C, "x-forwarded-for", "203.0.113.7, 10.0.0.2, 10.0.0.1")), ..XFF },
    Row { number: 11, inbound: &[("X-Forwarded-For", "203.0.113.7, unknown")], expected: Ok((L, "socket", L)), ..XFF },
    Row { number: 12, trusted: &["0.0.0.0/0"], inbound: &[("X-Forwarded-For", E)],
        expected: Ok((E, "x-forwarded-for", "198.51.100.66, 10.0.0.1")), ..XFF },
    Row { number: 13, trusted: &["0.0.0.0/0"], peer: P6, inbound: &[("X-Forwarded-For", E)], expected: Ok((P6, "socket", P6)), ..XFF },
    Row { number: 14, peer: "::ffff:10.0.0.1", inbound: &[("X-Forwarded-For", C)],
        expected: Ok((C, "x-forwarded-for", "203.0.113.7, 10.0.0.1")), ..XFF },
    Row { number: 15, inbound: &[("X-Forwarded-For", "[2001:db8::1]:443")],
        expected: Ok((C6, "x-forwarded-for", "2001:db8::1, 10.0.0.1")), ..XFF },
    Row { number: 16, header: "Forwarded", inbound: &[("Forwarded", r#"for="[2001:db8::1]";proto=https"#)],
        expected: Ok((C6, "forwarded", "2001:db8::1, 10.0.0.1")), ..XFF },
    Row { number: 17, header: "Forwarded", inbound: &[("X-Forwarded-For", E)], expected: Ok((L, "socket", L)), ..XFF },
    Row { number: 18, header: "X-Real-IP", inbound: &[("X-Real-IP", C)],
        expected: Ok((C, "x-real-ip", "203.0.113.7, 10.0.0.1")), ..XFF },
    Row { number: 18, header: "True-Client-IP", inbound: &[("true-client-ip", C)],
        expected: Ok((C, "header:true-client-ip", "203.0.113.7, 10.0.0.1")), ..XFF },
    Row { number: 19, header: "X-Real-IP", inbound: &[("X-Real-IP", C), ("X-Real-IP", C)], expected: Ok((L, "socket", L)), ..XFF },
    Row { number: 19, header: "X-Real-IP", inbound: &[("X-Real-IP", "203.0.113.7, 203.0.113.7")], expected: Ok((L, "socket", L)), ..XFF },
    Row { number: 20, bytes: Bytes::V1(C), expected: Ok((C, "proxy-v1", C)), ..REQUIRED },
    Row { number: 21, bytes: Bytes::V2(C6), expected: Ok((C6, "proxy-v2", C6)), ..REQUIRED },
    Row { number: 22, expected: Err("missing"), ..REQUIRED },
    Row { number: 23, peer: E, bytes: Bytes::V1(C), expected: Err("peer-not-trusted"), ..REQUIRED },
    Row { number: 24, expected: Ok((L, "socket", L)), ..OPTIONAL },
    Row { number: 25, peer: C, ..OPTIONAL },
    Row { number: 26, peer: E, bytes: Bytes::V2(C), expected: Err("header-from-untrusted-peer"), ..OPTIONAL },
    Row { number: 27, bytes: Bytes::V2Local, expected: Ok((L, "socket", L)), ..OPTIONAL },
    Row { number: 28, trusted: &[L, CDN], header: "X-Forwarded-For", bytes: Bytes::V2(CDN), inbound: &[("X-Forwarded-For", C)],
        expected: Ok((C, "x-forwarded-for", "203.0.113.7, 10.9.9.9")), ..REQUIRED },
    Row { number: 29, header: "X-Forwarded-For", bytes: Bytes::V2(C), inbound: &[("X-Forwarded-For", E)],
        expected: Ok((C, "proxy-v2", C)), ..REQUIRED },
    Row { number: 30, trusted: &[L, CDN], header: "X-Forwarded-For", bytes: Bytes::V2(CDN),
        expected: Ok((CDN, "proxy-v2", CDN)), ..REQUIRED },
    Row { number: 31, bytes: Bytes::V2BadSum, expected: Err("malformed"), ..REQUIRED },
    Row { number: 31, bytes: Bytes::V2BadSum, expected: Err("malformed"), ..OPTIONAL },
    Row { number: 32, toa: Some(C), trusted: &[L], peer: L, expected: Ok((C, "toa", C)), ..ROW },
    Row { number: 33, toa: Some(C), trusted: &[L], peer: E, expected: Ok((E, "socket", E)), ..ROW },
    // Behind a TOA load balancer it is the client who sends the first bytes.
    Row { number: 33, toa: Some(E), bytes: Bytes::V1(C), expected: Err("peer-not-trusted"), ..REQUIRED },
    Row { number: 34, trusted: &[], hops: Some(2), inbound: &[("X-Forwarded-For", "198.51.100.66, 203.0.113.7, 10.0.0.2")],
        expected: Ok((C, "x-forwarded-for", "203.0.113.7, 10.0.0.2, 10.0.0.1")), ..XFF },
    Row { number: 35, trusted: &[], hops: Some(2), peer: C, ..XFF },
    // With hops, the PROXY load balancer is one of them.
    Row { number: 34, trusted: &[], hops: Some(1), header: "X-Forwarded-For", bytes: Bytes::V2(C), inbound: &[("X-Forwarded-For", E)],
        expected: Ok((C, "proxy-v2", C)), ..REQUIRED },
    Row { number: 34, trusted: &[], hops: Some(2), header: "X-Forwarded-For", bytes: Bytes::V2(CDN),
        inbound: &[("X-Forwarded-For", "198.51.100.66, 203.0.113.7")],
        expected: Ok((C, "x-forwarded-for", "203.0.113.7, 10.9.9.9")), ..REQUIRED },
    Row { number: 40, peer: C, inbound: &[("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil"), ("X-Forwarded-Port", "1")], ..XFF },
];

fn addr(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

impl Row {
    fn policy(&self) -> ClientAddressPolicy {
        let net = |text: &&str| {
            text.parse().unwrap_or_else(|_| ipnet::IpNet::from(text.parse::<std::net::IpAddr>().unwrap()))
        };
        ClientAddressPolicy {
            trust: match self.hops {
                Some(hops) => Trust::Hops(hops),
                None => Trust::Proxies(self.trusted.iter().map(net).collect()),
            },
            proxy_protocol: self.proxy,
            proxy_protocol_timeout: Duration::from_secs(5),
            forwarded_header: self.header.parse::<ForwardedHeader>().unwrap(),
            toa: self.toa.is_some(),
            keep_unverified: self.keep_unverified,
            ..Default::default()
        }
    }

    fn first_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let v2 = |source: Option<&str>, bytes: &mut Vec<u8>| {
            let source = source.map(|ip| addr(ip, 4711));
            let extras = V2Extras { crc32c: true, ..Default::default() };
            write_v2(source, source.map(|_| addr("192.0.2.80", 443)), Transport::Stream, &extras, bytes);
        };
        match self.bytes {
            Bytes::Payload => {}
            Bytes::V1(source) => write_v1(Some(addr(source, 4711)), Some(addr("192.0.2.80", 443)), &mut bytes),
            Bytes::V2(source) => v2(Some(source), &mut bytes),
            Bytes::V2Local => v2(None, &mut bytes),
            Bytes::V2BadSum => {
                v2(Some(C), &mut bytes);
                bytes[17] ^= 1;
            }
        }
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
        bytes
    }

    /// The connection as the socket's owner handles it, one byte at a time.
    fn connect(&self, policy: &ClientAddressPolicy) -> Result<Sender, &'static str> {
        let sender = Sender::of_socket(addr(self.peer, 1234), addr("192.0.2.80", 80))
            .with_toa(policy, self.toa.map(|toa| addr(toa, 99)));
        let bytes = self.first_bytes();
        for end in 0..=bytes.len() {
            match sender.admit(policy, &bytes[..end], Arrival::Open) {
                Decision::Read => {}
                Decision::Proceed(None) => return Ok(sender),
                Decision::Proceed(Some(header)) => return Ok(sender.with_proxy(&header)),
                Decision::Refuse(refusal) => return Err(refusal.reason()),
            }
        }
        panic!("row {}: still reading after {} bytes", self.number, bytes.len());
    }
}

fn forwarded_for(client: &Client) -> String {
    let mut out = Vec::new();
    client.write_forwarded_for(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn every_row_of_the_truth_table_holds() {
    for row in ROWS {
        let policy = row.policy();
        let found = row.connect(&policy).map(|sender| {
            let client = resolve(&policy, &sender, row.inbound);
            (client.addr.to_string(), client.provenance.to_string(), forwarded_for(&client))
        });
        let expected = row.expected.map(|(r, from, xff)| (r.to_owned(), from.to_owned(), xff.to_owned()));
        assert_eq!(found, expected, "row {}", row.number);
    }
}

#[test]
fn row_3_leaves_nothing_of_what_an_untrusted_sender_claims() {
    let row = ROWS.iter().find(|row| row.number == 3).unwrap();
    for (name, _) in row.inbound {
        assert_eq!(verdict(&row.policy(), name.as_bytes(), false), Verdict::Drop, "{name}");
    }
}

#[test]
fn row_16_takes_the_scheme_from_the_trusted_element() {
    let row = ROWS.iter().find(|row| row.number == 16).unwrap();
    let policy = row.policy();
    let client = resolve(&policy, &row.connect(&policy).unwrap(), row.inbound);
    assert_eq!(client.scheme.as_str(), "https");
}

#[test]
fn row_40_takes_scheme_host_and_port_from_the_connection() {
    let row = ROWS.iter().find(|row| row.number == 40).unwrap();
    let policy = row.policy();
    let client = resolve(&policy, &row.connect(&policy).unwrap(), row.inbound);
    let outbound = Outbound {
        policy: &policy,
        client: &client,
        headers: row.inbound,
        authority: b"shop.example",
        fresh_request_id: "fresh",
    };
    let mut out = Vec::new();
    outbound.write_http1(&mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "X-Request-ID: fresh\r\n\
         X-Real-IP: 203.0.113.7\r\n\
         X-Forwarded-For: 203.0.113.7\r\n\
         X-Forwarded-Host: shop.example\r\n\
         X-Forwarded-Port: 80\r\n\
         X-Forwarded-Proto: http\r\n\
         X-Forwarded-Scheme: http\r\n\
         X-Scheme: http\r\n"
    );
}
