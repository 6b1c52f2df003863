//! Bytes: those of Linux 6.18 and of conntrack 1.4.7, as strace shows them (x86_64; headers are in the machine's order).

#![cfg(target_endian = "little")]

use super::*;
use crate::decode::messages;

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn flow(proto: u8, original: Tuple, reply: Tuple, id: u32, zone: u16) -> Flow {
    Flow { proto, original, reply, mark: 0x4000, id, zone, original_zone: 0, timeout: Duration::from_secs(29) }
}

fn tuple(src: &str, sport: u16, dst: &str, dport: u16) -> Tuple {
    Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), sport, dport }
}

/// What the kernel tells of a connection, what that means, and the request to delete it.
fn cases() -> [(&'static str, Flow, &'static str); 5] {
    let (four, six) = ("127.0.0.1", "::1");
    [
        (
            "a4000000 0001 2200 8bac016b 852b0000 02000000
             34000180 14000180 08000100 7f000001 08000200 7f000009
                      1c000280 05000100 11000000 06000200 9c410000 06000300 00350000
             34000280 14000180 08000100 7f000001 08000200 7f000001
                      1c000280 05000100 11000000 06000200 14e90000 06000300 9c410000
             08000300 000001a8 08000800 00004000 08000c00 a67df59e 08000b00 00000001 08000700 0000001d",
            flow(17, tuple(four, 40001, "127.0.0.9", 53), tuple(four, 5353, four, 40001), 0xa67d_f59e, 0),
            "50000000 0201 0500 00000000 00000000 02000000
             34000180 14000180 08000100 7f000001 08000200 7f000009
                      1c000280 05000100 11000000 06000200 9c410000 06000300 00350000
             08000c00 a67df59e",
        ),
        (
            "ac000000 0001 2200 8bac016b 852b0000 02000000
             34000180 14000180 08000100 7f000001 08000200 7f000001
                      1c000280 05000100 11000000 06000200 9c430000 06000300 1b590000
             34000280 14000180 08000100 7f000001 08000200 7f000001
                      1c000280 05000100 11000000 06000200 1b590000 06000300 9c430000
             06001200 00050000
             08000300 00000188 08000800 00004000 08000c00 e0823ea0 08000b00 00000001 08000700 0000001d",
            flow(17, tuple(four, 40003, four, 7001), tuple(four, 7001, four, 40003), 0xe082_3ea0, 5),
            "58000000 0201 0500 00000000 00000000 02000000
             34000180 14000180 08000100 7f000001 08000200 7f000001
                      1c000280 05000100 11000000 06000200 9c430000 06000300 1b590000
             06001200 00050000 08000c00 e0823ea0",
        ),
        (
            "b4000000 0001 2200 8bac016b 852b0000 02000000
             3c000180 14000180 08000100 7f000001 08000200 7f000001
                      24000280 05000100 01000000 06000400 12340000 05000500 08000000 05000600 00000000
             3c000280 14000180 08000100 7f000001 08000200 7f000001
                      24000280 05000100 01000000 06000400 12340000 05000500 00000000 05000600 00000000
             08000300 0000018a 08000800 00004000 08000c00 4f91beca 08000b00 00000001 08000700 0000001d",
            flow(1, tuple(four, 0x1234, four, 0x0800), tuple(four, 0x1234, four, 0), 0x4f91_beca, 0),
            "58000000 0201 0500 00000000 00000000 02000000
             3c000180 14000180 08000100 7f000001 08000200 7f000001
                      24000280 05000100 01000000 06000400 12340000 05000500 08000000 05000600 00000000
             08000c00 4f91beca",
        ),
        (
            "d4000000 0001 2200 8bac016b 8c2b0000 0a000000
             4c000180 2c000180 14000300 00000000 00000000 00000000 00000001 14000400 00000000 00000000 00000000 00000001
                      1c000280 05000100 11000000 06000200 9c420000 06000300 1b580000
             4c000280 2c000180 14000300 00000000 00000000 00000000 00000001 14000400 00000000 00000000 00000000 00000001
                      1c000280 05000100 11000000 06000200 1b580000 06000300 9c420000
             08000300 00000188 08000800 00004000 08000c00 4cc092cd 08000b00 00000001 08000700 0000001d",
            flow(17, tuple(six, 40002, six, 7000), tuple(six, 7000, six, 40002), 0x4cc0_92cd, 0),
            "68000000 0201 0500 00000000 00000000 0a000000
             4c000180 2c000180 14000300 00000000 00000000 00000000 00000001 14000400 00000000 00000000 00000000 00000001
                      1c000280 05000100 11000000 06000200 9c420000 06000300 1b580000
             08000c00 4cc092cd",
        ),
        (
            "e4000000 0001 2200 8bac016b 8c2b0000 0a000000
             54000180 2c000180 14000300 00000000 00000000 00000000 00000001 14000400 00000000 00000000 00000000 00000001
                      24000280 05000100 3a000000 06000700 12340000 05000800 80000000 05000900 00000000
             54000280 2c000180 14000300 00000000 00000000 00000000 00000001 14000400 00000000 00000000 00000000 00000001
                      24000280 05000100 3a000000 06000700 12340000 05000800 81000000 05000900 00000000
             08000300 0000018a 08000800 00004000 08000c00 8f553e16 08000b00 00000001 08000700 0000001d",
            flow(58, tuple(six, 0x1234, six, 0x8000), tuple(six, 0x1234, six, 0x8100), 0x8f55_3e16, 0),
            "70000000 0201 0500 00000000 00000000 0a000000
             54000180 2c000180 14000300 00000000 00000000 00000000 00000001 14000400 00000000 00000000 00000000 00000001
                      24000280 05000100 3a000000 06000700 12340000 05000800 80000000 05000900 00000000
             08000c00 8f553e16",
        ),
    ]
}

fn read(bytes: &[u8]) -> Option<Flow> {
    decode(&messages(bytes).next()?.unwrap()).unwrap()
}

#[test]
fn connections_are_read_as_the_kernel_tells_them() {
    for (told, expected, _) in cases() {
        assert_eq!(read(&hex(told)), Some(expected));
    }
}

#[test]
fn a_request_to_delete_has_the_original_tuple_the_zone_and_the_id() {
    for (_, flow, expected) in cases() {
        assert_eq!(deletion(&flow), hex(expected), "{flow}");
    }
}

#[test]
fn a_request_for_all_is_that_of_conntrack_and_one_for_a_protocol_filters_in_the_kernel() {
    let all = "14000000 0101 0103 00000000 00000000";
    assert_eq!(request(Family::V4, None), hex(&format!("{all} 02000000")));
    assert_eq!(request(Family::V6, None), hex(&format!("{all} 0a000000")));
    let udp = "38000000 0101 0103 00000000 00000000 02000000
               10000180 0c000280 05000100 11000000 14001980 08000100 08000000 08000200 00000000";
    assert_eq!(request(Family::V4, Some(17)), hex(udp));
}

#[test]
fn what_is_no_whole_connection_of_ip_is_passed_over() {
    let (told, ..) = cases()[0];
    let whole = hex(told);
    assert!(read(&whole).is_some());
    // Tuple, its addresses, each of them, its protocol part, the protocol, the other tuple, the id; then what may be absent:
    // a port, the mark, the time.
    for (at, expected) in
        [20, 24, 28, 36, 44, 48, 72, 140].map(|at| (at, false)).into_iter().chain([56, 132, 156].map(|at| (at, true)))
    {
        let mut bytes = whole.clone();
        // The number of an attribute that nobody knows.
        bytes[at + 2] = 0x3f;
        assert_eq!(read(&bytes).is_some(), expected, "attribute at {at}");
    }
    let deletion = deletion(&cases()[0].1);
    assert_eq!(read(&deletion), None, "a request is no news of a connection");
}

#[test]
fn a_connection_is_named_with_protocol_ends_and_id() {
    let [(_, flow, _), ..] = cases();
    assert_eq!(flow.to_string(), "protocol 17 from 127.0.0.1 port 40001 to 127.0.0.9 port 53 (id 2793272734)");
}
