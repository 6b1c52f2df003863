//! Each error of RFC 4271 section 6 is answered by its NOTIFICATION.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod peer;

use headwater_bgp::{Event, State};
use peer::{Led, OUT, Open, capability, closed, config, internal, keepalive, message, notification};

/// An UPDATE of these attributes and this NLRI.
fn update(attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
    message(2, &[&[0, 0], &length[..], &attributes, nlri].concat())
}

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const AS_PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0x01];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
const LOCAL_PREF: &[u8] = &[0x40, 5, 4, 0, 0, 0, 100];
const NET: &[u8] = &[24, 198, 51, 100];

struct Row {
    name: &'static str,
    state: State,
    bytes: Vec<u8>,
    code: (u8, u8),
    data: Vec<u8>,
}

fn row(name: &'static str, state: State, bytes: Vec<u8>, code: (u8, u8), data: &[u8]) -> Row {
    Row { name, state, bytes, code, data: data.to_vec() }
}

fn header_rows() -> Vec<Row> {
    let mut unsynchronized = keepalive();
    unsynchronized[15] = 0;
    let with_length = |kind: u8, length: u16| {
        let mut bytes = message(kind, &[0; 10]);
        bytes[16..18].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    let mut rows = vec![
        row("a marker that is not all ones", State::OpenSent, unsynchronized, (1, 1), &[]),
        row("an unknown type", State::OpenSent, message(9, &[]), (1, 3), &[9]),
        row("type 0", State::Established, message(0, &[]), (1, 3), &[0]),
    ];
    for (kind, length) in [(4, 18), (4, 4097), (4, 0), (4, 65535), (4, 20), (1, 28), (2, 22), (3, 20), (5, 22)] {
        let name = "a length that the type does not have";
        rows.push(row(name, State::Established, with_length(kind, length), (1, 2), &length.to_be_bytes()));
    }
    rows
}

fn open_rows() -> Vec<Row> {
    let open = |open: Open| open.message();
    let good = || Open::default().body();
    let with_parameters = |parameters: &[u8]| {
        let mut body = good();
        body.truncate(9);
        body.push(parameters.len() as u8);
        body.extend_from_slice(parameters);
        message(1, &body)
    };
    let ours = [1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1];
    let state = State::OpenSent;
    vec![
        row("version 3", state, open(Open { version: 3, ..Open::default() }), (2, 1), &[0, 4]),
        row("another autonomous system", state, open(Open { asn: 64999, ..Open::default() }), (2, 2), &[]),
        row("autonomous system 0", state, open(Open { asn: 0, ..Open::default() }), (2, 2), &[]),
        row("identifier 0.0.0.0", state, open(Open { id: [0; 4], ..Open::default() }), (2, 3), &[]),
        row("an unknown parameter", state, with_parameters(&[1, 0]), (2, 4), &[]),
        row("hold time 1", state, open(Open { hold: 1, ..Open::default() }), (2, 6), &[]),
        row("hold time 2", state, open(Open { hold: 2, ..Open::default() }), (2, 6), &[]),
        row(
            "no family that we have",
            state,
            open(Open { capabilities: capability(1, &[0, 25, 0, 70]), ..Open::default() }),
            (2, 7),
            &ours,
        ),
        row("a parameter that is cut off", state, with_parameters(&[2, 9, 1]), (2, 0), &[]),
        row("a capability that is cut off", state, with_parameters(&[2, 2, 65, 4]), (2, 0), &[]),
        row("an AS number of three octets", state, with_parameters(&[2, 5, 65, 3, 0, 0, 1]), (2, 0), &[]),
        row("bytes after the parameters", state, message(1, &[&good()[..], &[0]].concat()), (2, 0), &[]),
    ]
}

fn update_rows() -> Vec<Row> {
    let whole = |attribute: &[u8], nlri: &[u8]| update(&[ORIGIN, AS_PATH, NEXT_HOP, attribute], nlri);
    let state = State::Established;
    let attribute = |name, bytes: &[u8], subcode| row(name, state, whole(bytes, NET), (3, subcode), bytes);
    let instead_of =
        |name, attributes: &[&[u8]], bad: &[u8], subcode| row(name, state, update(attributes, NET), (3, subcode), bad);
    vec![
        row("withdrawn routes past the end", state, message(2, &[0, 9, 0, 0]), (3, 1), &[]),
        row("attributes past the end", state, message(2, &[0, 0, 0, 1]), (3, 1), &[]),
        row("an attribute past the others", state, whole(&[0x40, 5, 9, 0], &[]), (3, 1), &[]),
        row("an attribute that comes twice", state, whole(ORIGIN, NET), (3, 1), &[]),
        attribute("an unknown well-known attribute", &[0x40, 99, 0], 2),
        row("no ORIGIN", state, update(&[AS_PATH, NEXT_HOP], NET), (3, 3), &[1]),
        row("no AS_PATH", state, update(&[ORIGIN, NEXT_HOP], NET), (3, 3), &[2]),
        row("no NEXT_HOP", state, update(&[ORIGIN, AS_PATH], NET), (3, 3), &[3]),
        instead_of("ORIGIN as optional", &[&[0xc0, 1, 1, 0], AS_PATH, NEXT_HOP], &[0xc0, 1, 1, 0], 4),
        attribute("MULTI_EXIT_DISC as transitive", &[0xc0, 4, 4, 0, 0, 0, 0], 4),
        attribute("COMMUNITIES as well-known", &[0x40, 8, 4, 0, 0, 0, 0], 4),
        instead_of("an ORIGIN of two octets", &[&[0x40, 1, 2, 0, 0], AS_PATH, NEXT_HOP], &[0x40, 1, 2, 0, 0], 5),
        instead_of("a NEXT_HOP of three", &[ORIGIN, AS_PATH, &[0x40, 3, 3, 1, 2, 3]], &[0x40, 3, 3, 1, 2, 3], 5),
        attribute("communities of three octets", &[0xc0, 8, 3, 0, 0, 0], 5),
        attribute("a large community of eight", &[0xc0, 32, 8, 0, 0, 0, 0, 0, 0, 0, 0], 5),
        instead_of("ORIGIN 3", &[&[0x40, 1, 1, 3], AS_PATH, NEXT_HOP], &[0x40, 1, 1, 3], 6),
        instead_of(
            "a next hop of class D",
            &[ORIGIN, AS_PATH, &[0x40, 3, 4, 224, 0, 0, 1]],
            &[0x40, 3, 4, 224, 0, 0, 1],
            8,
        ),
        instead_of("next hop 0.0.0.0", &[ORIGIN, AS_PATH, &[0x40, 3, 4, 0, 0, 0, 0]], &[0x40, 3, 4, 0, 0, 0, 0], 8),
        attribute("prefixes of 129 bits", &[0x80, 15, 4, 0, 2, 1, 129], 9),
        attribute("a next hop of five octets", &[0x80, 14, 10, 0, 2, 1, 5, 0, 0, 0, 0, 0, 0], 9),
        row("a prefix of 33 bits", state, whole(&[], &[33, 1, 2, 3, 4, 5]), (3, 10), &[]),
        row("a prefix that is cut off", state, whole(&[], &[24, 1]), (3, 10), &[]),
        row("a withdrawn prefix of 33 bits", state, message(2, &[0, 6, 33, 1, 2, 3, 4, 5, 0, 0]), (3, 10), &[]),
        row("a path that is cut off", state, update(&[ORIGIN, &[0x40, 2, 3, 2, 1, 0], NEXT_HOP], NET), (3, 11), &[]),
        row(
            "a path segment of type 7",
            state,
            update(&[ORIGIN, &[0x40, 2, 6, 7, 1, 0, 0, 0, 1], NEXT_HOP], NET),
            (3, 11),
            &[],
        ),
    ]
}

fn machine_rows() -> Vec<Row> {
    vec![
        row("KEEPALIVE before OPEN", State::OpenSent, keepalive(), (5, 1), &[4]),
        row("UPDATE before KEEPALIVE", State::OpenConfirm, update(&[], &[]), (5, 2), &[2]),
        row("OPEN twice", State::Established, Open::default().message(), (5, 3), &[1]),
    ]
}

#[test]
fn every_error_of_section_6_has_its_notification() {
    for row in [header_rows(), open_rows(), update_rows(), machine_rows()].rows() {
        let mut led = Led::new(config());
        led.to(row.state, &Open::default());
        let effects = led.receive(OUT, &row.bytes);
        let (code, subcode, data) = notification(&effects, OUT).unwrap_or_else(|| panic!("{}: nothing said", row.name));
        assert_eq!(((code, subcode), data), (row.code, row.data), "{}", row.name);
        assert!(closed(&effects, OUT), "{}: not closed", row.name);
        assert_eq!(led.session.status().counters.notifications_sent, 1, "{}", row.name);
    }
}

trait Concat {
    fn rows(self) -> Vec<Row>;
}

impl<const N: usize> Concat for [Vec<Row>; N] {
    fn rows(self) -> Vec<Row> {
        self.into_iter().flatten().collect()
    }
}

#[test]
fn good_updates_are_dropped_without_a_word() {
    let whole: &[&[u8]] = &[ORIGIN, AS_PATH, NEXT_HOP];
    let reach6 = [&[0x80, 14, 25, 0, 2, 1, 16][..], &[0x20; 16], &[0, 24, 0x20, 1, 0]].concat();
    for (name, bytes) in [
        ("prefixes", update(whole, NET)),
        ("a withdrawal", message(2, &[0, 4, 24, 198, 51, 100, 0, 0])),
        ("End-of-RIB", message(2, &[0, 0, 0, 0])),
        ("an unknown optional attribute", update(&[ORIGIN, AS_PATH, NEXT_HOP, &[0xc0, 99, 1, 7]], NET)),
        ("a partial transitive attribute", update(&[ORIGIN, AS_PATH, NEXT_HOP, &[0xe0, 8, 4, 0, 0, 0, 1]], NET)),
        ("a default route", update(whole, &[0])),
        ("a confederation", update(&[ORIGIN, &[0x40, 2, 6, 3, 1, 0, 0, 0, 1], NEXT_HOP], NET)),
        ("IPv6", update(&[&reach6, ORIGIN, AS_PATH], &[])),
        ("prefixes of an unknown family", update(&[&[0x80, 14, 7, 0, 25, 70, 0, 0, 1, 2], ORIGIN, AS_PATH], &[])),
    ] {
        let mut led = Led::new(config());
        led.to(State::Established, &Open::default());
        let effects = led.receive(OUT, &bytes);
        assert_eq!(effects, [], "{name}");
        assert_eq!((led.state(), led.session.status().counters.updates_received), (State::Established, 1), "{name}");
    }
}

#[test]
fn peers_of_the_same_system_must_tell_a_local_preference_and_differ_in_their_identifier() {
    let open = || Open { asn: 64512, ..Open::default() };
    for (attributes, expected) in
        [(&[ORIGIN, AS_PATH, NEXT_HOP][..], Some((3, 3, vec![5]))), (&[ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF], None)]
    {
        let mut led = Led::new(internal());
        led.to(State::Established, &open());
        assert_eq!(notification(&led.receive(OUT, &update(attributes, NET)), OUT), expected);
    }
    let mut led = Led::new(internal());
    led.connect();
    let effects = led.receive(OUT, &Open { id: peer::LOCAL_ID.octets(), ..open() }.message());
    assert_eq!(notification(&effects, OUT), Some((2, 3, vec![])));
}

#[test]
fn a_notification_is_never_answered() {
    for state in [State::OpenSent, State::OpenConfirm, State::Established] {
        for body in [&[6, 2][..], &[6, 2, 1, b'x'], &[200, 200]] {
            let mut led = Led::new(config());
            led.to(state, &Open::default());
            let effects = led.receive(OUT, &message(3, body));
            assert_eq!(notification(&effects, OUT), None);
            assert!(closed(&effects, OUT));
        }
    }
}

#[test]
fn silence_ends_in_hold_timer_expired() {
    for state in [State::OpenSent, State::OpenConfirm, State::Established] {
        let mut led = Led::new(config());
        led.to(state, &Open::default());
        let start = led.now;
        let effects = loop {
            let effects = led.wait();
            if closed(&effects, OUT) {
                break effects;
            }
        };
        assert_eq!(notification(&effects, OUT), Some((4, 0, vec![])), "{state:?}");
        let expected = if state == State::OpenSent { 60 } else { 90 };
        assert_eq!((led.now - start).as_secs(), expected, "{state:?}");
    }
}

#[test]
fn a_peer_that_reads_nothing_is_left_after_eight_minutes() {
    let mut led = Led::new(config());
    led.to(State::Established, &Open::default());
    let start = led.now;
    let effects = loop {
        let effects = led.wait();
        if closed(&effects, OUT) {
            break effects;
        }
        led.receive(OUT, &keepalive());
    };
    assert_eq!(notification(&effects, OUT), Some((8, 0, vec![])));
    assert_eq!((led.now - start).as_secs(), 480);
}

#[test]
fn bfd_down_says_so_and_connects_again() {
    let mut led = Led::new(config());
    led.to(State::Established, &Open::default());
    let effects = led.step(Event::BfdDown);
    assert_eq!(notification(&effects, OUT), Some((6, 10, vec![])));
    assert!(closed(&effects, OUT));
    assert!(matches!(effects.last(), Some(headwater_bgp::Effect::Connect { .. })), "{effects:?}");
}
