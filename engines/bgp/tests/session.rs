//! What a session says, when, and on which connection.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod peer;

use std::sync::Arc;
use std::time::Duration;

use headwater_bgp::{
    Asn, Community, ConnectionId, Down, Effect, Event, Families, Family, LargeCommunity, PeerAsn, PeerConfig, Route,
    State, Stop,
};
use peer::{
    IN, IPV4, IPV6, Led, OUT, Open, capability, closed, config, ends, internal, keepalive, messages, notification,
};

fn route() -> Arc<Route> {
    Arc::new(Route::new(Some(300), [Community(0xfc00_0001)], [LargeCommunity([1, 2, 3])]).unwrap())
}

fn updates(effects: &[Effect]) -> Vec<Vec<u8>> {
    messages(effects, OUT).into_iter().filter(|(kind, _)| *kind == 2).map(|(_, body)| body).collect()
}

const END4: &[u8] = &[0, 0, 0, 0];
const END6: &[u8] = &[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1];

#[test]
fn an_open_has_what_this_side_can() {
    let mut led = Led::new(PeerConfig { local_asn: Asn(4_200_000_000), graceful_restart: Some(120), ..config() });
    let sent = messages(&led.connect(), OUT);
    let capabilities = [
        &IPV4[..],
        &IPV6,
        &capability(2, &[]),
        // Restarting, 120 s, both families' packets still forwarded.
        &capability(64, &[0x80, 120, 0, 1, 1, 0x80, 0, 2, 1, 0x80]),
        &capability(65, &4_200_000_000u32.to_be_bytes()),
    ]
    .concat();
    let length = capabilities.len() as u8;
    // AS_TRANS in the two octets.
    let head = [4, 0x5b, 0xa0, 0, 90, 192, 0, 2, 2, length + 2, 2, length];
    assert_eq!(sent, [(1, [&head[..], &capabilities].concat())]);
}

#[test]
fn an_external_peer_learns_prefixes_with_our_number_and_no_preference() {
    let mut led = Led::new(config());
    led.announce(&["198.51.100.7/32", "203.0.113.0/24", "2001:db8:1::7/128"], &route());
    let sent = updates(&led.to(State::Established, &Open::default()));
    let tail = [&[0xc0, 8, 4, 0xfc, 0, 0, 1, 0xc0, 32, 12][..], &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]].concat();
    let path = [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0];
    let attributes4 = [&path[..], &[0x40, 3, 4, 192, 0, 2, 2], &tail].concat();
    let nlri4 = [32, 198, 51, 100, 7, 24, 203, 0, 113];
    let v4 = [&[0, 0, 0, attributes4.len() as u8][..], &attributes4, &nlri4].concat();
    let next_hop: std::net::Ipv6Addr = "2001:db8::2".parse().unwrap();
    let vip: std::net::Ipv6Addr = "2001:db8:1::7".parse().unwrap();
    let reach = [&[0x80, 14, 38, 0, 2, 1, 16][..], &next_hop.octets(), &[0, 128], &vip.octets()].concat();
    let attributes6 = [&reach[..], &path, &tail].concat();
    let v6 = [&[0, 0, 0, attributes6.len() as u8][..], &attributes6].concat();
    assert_eq!(sent, [v4, v6, END4.to_vec(), END6.to_vec()]);
    assert_eq!((led.session.status().announced, led.session.status().pending), (3, 0));

    let sent = updates(&led.withdraw(&["198.51.100.7/32", "2001:db8:1::7/128", "192.0.2.99/32"]));
    let unreach = [&[0x80, 15, 20, 0, 2, 1, 128][..], &vip.octets()].concat();
    let expected = [vec![0, 5, 32, 198, 51, 100, 7, 0, 0], [&[0, 0, 0, unreach.len() as u8][..], &unreach].concat()];
    assert_eq!(sent, expected, "what was never told is not withdrawn");
    assert_eq!(led.session.status().announced, 1);
}

#[test]
fn an_internal_peer_learns_a_preference_and_an_empty_path() {
    for (preference, told) in [(Some(300), 300u32), (None, 100), (Some(0), 100)] {
        let mut led = Led::new(internal());
        led.announce(&["198.51.100.7/32"], &Arc::new(Route::new(preference, [], []).unwrap()));
        let sent = updates(&led.to(State::Established, &Open { asn: 64512, ..Open::default() }));
        let attributes =
            [&[0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, 192, 0, 2, 2, 0x40, 5, 4][..], &told.to_be_bytes()].concat();
        let expected = [&[0, 0, 0, attributes.len() as u8][..], &attributes, &[32, 198, 51, 100, 7]].concat();
        assert_eq!(sent[0], expected);
    }
}

#[test]
fn a_peer_that_knows_two_octets_is_told_the_whole_number_beside() {
    let mut led = Led::new(PeerConfig { local_asn: Asn(70_000), ..config() });
    led.announce(&["198.51.100.7/32"], &Arc::default());
    led.connect();
    // No optional parameters at all.
    led.receive(OUT, &peer::message(1, &[4, 0xfc, 1, 0, 90, 192, 0, 2, 1, 0]));
    let sent = updates(&led.receive(OUT, &keepalive()));
    let seventy = 70_000u32.to_be_bytes();
    let attributes =
        [&[0x40, 1, 1, 0, 0x40, 2, 4, 2, 1, 0x5b, 0xa0, 0x40, 3, 4, 192, 0, 2, 2, 0xc0, 17, 6, 2, 1][..], &seventy]
            .concat();
    let expected = [&[0, 0, 0, attributes.len() as u8][..], &attributes, &[32, 198, 51, 100, 7]].concat();
    assert_eq!(sent, [expected, END4.to_vec()], "and who names no family is told IPv4 alone");
}

#[test]
fn ipv4_goes_over_ipv6_next_hops_where_both_can() {
    let over6 = || {
        let mut config = config();
        config.transport.address = "fe80::1".parse().unwrap();
        config
    };
    let mut ends = ends();
    ends.local = "[fe80::2]:40000".parse().unwrap();
    ends.ipv6 = None;
    for (extended, expected) in [(true, Families::BOTH), (false, Families::only(Family::Ipv6))] {
        let mut led = Led::new(over6());
        led.announce(&["198.51.100.7/32"], &Arc::default());
        led.step(Event::Timer);
        let open = messages(&led.step(Event::Connected { connection: OUT, ends }), OUT);
        let ours = capability(5, &[0, 1, 0, 1, 0, 2]);
        assert!(open[0].1.windows(ours.len()).any(|window| window == ours), "the capability is told");
        let capabilities = [&IPV4[..], &IPV6, if extended { &ours } else { &[] }].concat();
        led.receive(OUT, &Open { capabilities, ..Open::default() }.message());
        let sent = updates(&led.receive(OUT, &keepalive()));
        assert_eq!(led.session.status().negotiated.unwrap().families, expected);
        let told: std::net::Ipv6Addr = "fe80::2".parse().unwrap();
        let reach = [&[0, 1, 1, 32][..], &told.octets(), &told.octets(), &[0, 32, 198, 51, 100, 7]].concat();
        assert_eq!(sent[0].windows(reach.len()).any(|window| window == reach), extended);
    }
}

#[test]
fn numbers_may_be_left_to_the_peer_but_not_which_side_it_is_on() {
    for (wanted, asn, accepted) in [
        (PeerAsn::Internal, 64512, true),
        (PeerAsn::Internal, 64513, false),
        (PeerAsn::External, 64512, false),
        (PeerAsn::External, 4_200_000_000, true),
    ] {
        let mut led = Led::new(PeerConfig { peer_asn: wanted, ..config() });
        led.connect();
        let effects = led.receive(OUT, &Open { asn, ..Open::default() }.message());
        assert_eq!(notification(&effects, OUT), (!accepted).then(|| (2, 2, vec![])), "{wanted:?} {asn}");
    }
}

#[test]
fn keepalives_follow_the_smaller_hold_time_and_cease_without_one() {
    for (ours, theirs, keepalive_at_most, between) in
        [(90, 9, None, 2.25..=3.0), (9, 90, None, 2.25..=3.0), (90, 90, Some(10), 7.5..=10.0)]
    {
        let mut led = Led::new(PeerConfig { hold: ours, keepalive: keepalive_at_most, ..config() });
        led.to(State::Established, &Open { hold: theirs, ..Open::default() });
        let start = led.now;
        let effects = led.wait();
        assert_eq!(messages(&effects, OUT), [(4, vec![])]);
        let passed = (led.now - start).as_secs_f64();
        assert!(between.contains(&passed), "{ours} {theirs}: {passed}");
    }
    let mut led = Led::new(PeerConfig { hold: 0, ..config() });
    let effects = led.to(State::Established, &Open::default());
    let bytes =
        effects.iter().map(|effect| if let Effect::Send { bytes, .. } = effect { bytes.len() } else { 0 }).sum();
    led.step(Event::Sent { connection: OUT, bytes });
    led.step(Event::Sent { connection: OUT, bytes: 1000 });
    assert_eq!(led.session.deadline(), None);
}

#[test]
fn attempts_back_off_and_a_session_that_lasted_begins_anew() {
    let mut led = Led::new(config());
    let mut waits = Vec::new();
    led.step(Event::Timer);
    for serial in 1..=9 {
        let connection = ConnectionId { incoming: false, serial };
        let start = led.now;
        let effects = led.step(Event::Unreached { connection, cause: "refused".into() });
        if !effects.iter().any(|effect| matches!(effect, Effect::Connect { .. })) {
            led.wait();
        }
        waits.push((led.now - start).as_secs_f64());
    }
    for (wait, most) in waits.iter().zip([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0]) {
        assert!((most * 0.75..=most).contains(wait), "{waits:?}");
    }
    let mut led = Led::new(PeerConfig { connect_retry: Some(Duration::from_secs(5)), ..config() });
    led.to(State::Established, &Open::default());
    led.now += Duration::from_secs(10);
    let effects = led.step(Event::Closed { connection: OUT, cause: "reset".into() });
    assert!(matches!(&effects[..], [Effect::Close { .. }, Effect::Down(_), Effect::Connect { .. }]), "{effects:?}");
    let connection = ConnectionId { incoming: false, serial: 2 };
    let start = led.now;
    led.step(Event::Unreached { connection, cause: "refused".into() });
    led.wait();
    assert!((3.75..=5.0).contains(&(led.now - start).as_secs_f64()));
}

#[test]
fn a_connection_that_does_not_come_about_is_given_up() {
    let mut led = Led::new(config());
    led.step(Event::Timer);
    let start = led.now;
    let effects = led.wait();
    assert_eq!((led.now - start).as_secs(), 10);
    assert!(effects.contains(&Effect::Failed(Down::ConnectTimeout)), "{effects:?}");
    // It comes about nevertheless.
    let effects = led.step(Event::Connected { connection: OUT, ends: ends() });
    assert_eq!(effects, [Effect::Close { connection: OUT }]);
}

/// Both connections got as far as OpenSent; then the peer's OPEN comes on `first`, and on the other.
fn collide(first: ConnectionId, second: ConnectionId, peer_id: [u8; 4]) -> ConnectionId {
    let mut led = Led::new(config());
    led.connect();
    led.step(Event::Accepted { connection: IN, ends: ends() });
    let open = Open { id: peer_id, ..Open::default() }.message();
    led.receive(first, &open);
    let effects = led.receive(second, &open);
    let lost = if closed(&effects, first) { first } else { second };
    assert_eq!(notification(&effects, lost), Some((6, 7, vec![])));
    let kept = if lost == first { second } else { first };
    let effects = led.receive(kept, &keepalive());
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Up(_))));
    kept
}

#[test]
fn of_two_connections_that_of_the_higher_identifier_stays() {
    for (first, second) in [(OUT, IN), (IN, OUT)] {
        assert_eq!(collide(first, second, [192, 0, 2, 1]), OUT, "ours is higher");
        assert_eq!(collide(first, second, [192, 0, 2, 3]), IN, "the peer's is higher");
        assert_eq!(collide(first, second, peer::LOCAL_ID.octets()), IN, "equal, and its number is higher");
    }
}

#[test]
fn an_established_session_survives_another_connection() {
    let mut led = Led::new(config());
    led.to(State::Established, &Open::default());
    led.step(Event::Accepted { connection: IN, ends: ends() });
    let effects = led.receive(IN, &Open { id: [192, 0, 2, 3], ..Open::default() }.message());
    assert_eq!(notification(&effects, IN), Some((6, 7, vec![])));
    assert_eq!(led.state(), State::Established);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Down(_))));
}

#[test]
fn a_peer_that_announced_its_restarts_replaces_the_session() {
    let mut led = Led::new(PeerConfig { graceful_restart: Some(120), ..config() });
    let gr = capability(64, &[0, 120, 0, 1, 1, 0x80]);
    let open = Open { capabilities: [&IPV4[..], &gr].concat(), ..Open::default() };
    led.announce(&["198.51.100.7/32"], &route());
    led.to(State::Established, &open);
    let effects = led.step(Event::Accepted { connection: IN, ends: ends() });
    assert!(effects.contains(&Effect::Down(Down::PeerRestarted)), "{effects:?}");
    assert_eq!(notification(&effects, OUT), None, "a word would make it forget our routes");
    led.receive(IN, &open.message());
    let told = messages(&led.receive(IN, &keepalive()), IN);
    assert_eq!(told.len(), 2, "the route and End-of-RIB: {told:?}");
    assert_eq!(led.session.status().announced, 1);
}

#[test]
fn a_stop_withdraws_first_unless_the_peer_keeps_routes_of_who_restarts() {
    let gr = capability(64, &[0, 120, 0, 1, 1, 0x80]);
    let open = |keeps: bool| {
        let capabilities = [&IPV4[..], if keeps { &gr } else { &[] }].concat();
        Open { capabilities, ..Open::default() }
    };
    for (stop, keeps, word) in [
        (Stop::Shutdown, false, Some(2)),
        (Stop::Shutdown, true, Some(2)),
        (Stop::Deconfigured, true, Some(3)),
        (Stop::Restart, false, Some(2)),
        (Stop::Restart, true, None),
    ] {
        let mut led = Led::new(PeerConfig { graceful_restart: Some(120), ..config() });
        led.announce(&["198.51.100.7/32"], &route());
        led.to(State::Established, &open(keeps));
        let effects = led.step(Event::Stop(stop));
        let sent = messages(&effects, OUT);
        let expected = match word {
            Some(subcode) => vec![(2, vec![0, 5, 32, 198, 51, 100, 7, 0, 0]), (3, vec![6, subcode])],
            None => vec![],
        };
        assert_eq!(sent, expected, "{stop:?} {keeps}");
        assert!(closed(&effects, OUT));
        assert_eq!((led.state(), led.session.deadline()), (State::Idle, None));
    }
}

#[test]
fn an_edit_ends_the_session_only_where_it_must() {
    let changed = |change: fn(&mut PeerConfig)| {
        let mut config = config();
        change(&mut config);
        config
    };
    for (name, config, ends_it) in [
        ("nothing", config(), false),
        ("keepalive", changed(|config| config.keepalive = Some(5)), false),
        ("connect time", changed(|config| config.connect_retry = Some(Duration::from_secs(9))), false),
        ("hold time", changed(|config| config.hold = 30), true),
        ("number", changed(|config| config.local_asn = Asn(65000)), true),
        ("password", changed(|config| config.transport.password = Some(headwater_bgp::Password("x".into()))), true),
        ("router id", changed(|config| config.router_id = "1.1.1.1".parse().unwrap()), true),
    ] {
        let mut led = Led::new(peer::config());
        led.to(State::Established, &Open::default());
        let effects = led.step(Event::Configure(Box::new(config)));
        assert_eq!(notification(&effects, OUT).is_some(), ends_it, "{name}");
        assert_eq!(led.state(), if ends_it { State::Connect } else { State::Established }, "{name}");
    }
}

#[test]
fn a_route_refresh_tells_one_family_again() {
    let mut led = Led::new(config());
    led.announce(&["198.51.100.7/32", "2001:db8:1::7/128"], &route());
    led.to(
        State::Established,
        &Open { capabilities: [&IPV4[..], &IPV6, &capability(2, &[])].concat(), ..Open::default() },
    );
    let sent = updates(&led.receive(OUT, &peer::message(5, &[0, 1, 0, 1])));
    assert_eq!(sent.len(), 1);
    assert!(sent[0].ends_with(&[32, 198, 51, 100, 7]));
    assert_eq!(led.session.status().announced, 2);
    let sent = updates(&led.withdraw(&["198.51.100.7/32"]));
    assert_eq!(sent, [vec![0, 5, 32, 198, 51, 100, 7, 0, 0]]);
}

#[test]
fn a_change_back_before_it_was_told_is_told_to_nobody() {
    let mut led = Led::new(config());
    led.announce(&["198.51.100.7/32"], &route());
    led.to(State::Established, &Open::default());
    let change = |route: Option<Arc<Route>>| ("198.51.100.7/32".parse().unwrap(), route);
    let effects = led.step(Event::Routes(vec![change(None), change(Some(route()))]));
    assert_eq!(effects, []);
    assert_eq!(led.session.status().pending, 0);
}

fn many(count: u32) -> Vec<(ipnet::IpNet, Option<Arc<Route>>)> {
    let route = route();
    let net = |index: u32| format!("10.{}.{}.{}/32", index >> 16, (index >> 8) & 255, index & 255).parse().unwrap();
    (0..count).map(|index| (net(index), Some(route.clone()))).collect()
}

#[test]
fn ten_thousand_prefixes_take_few_messages_and_a_peer_that_does_not_read_costs_little() {
    let mut led = Led::new(config());
    led.step(Event::Routes(many(10_000)));
    let effects = led.to(State::Established, &Open::default());
    let size = |effects: &[Effect]| -> usize {
        effects.iter().map(|effect| if let Effect::Send { bytes, .. } = effect { bytes.len() } else { 0 }).sum()
    };
    assert_eq!(led.session.status().announced, 10_000, "{}", size(&effects));
    // 5 bytes each, and 4096 a message: 13 and End-of-RIB twice.
    assert_eq!(updates(&effects).len(), 15);

    let mut led = Led::new(config());
    led.step(Event::Routes(many(100_000)));
    let mut waiting = size(&led.to(State::Established, &Open::default()));
    assert!(waiting < (64 << 10) + 4096, "{waiting} bytes wait");
    let mut total = 0;
    while waiting > 0 {
        total += waiting;
        waiting = size(&led.step(Event::Sent { connection: OUT, bytes: waiting }));
        assert!(waiting < (64 << 10) + 4096, "{waiting} bytes wait");
    }
    assert!((500_000..520_000).contains(&total), "{total}");
    assert_eq!(led.session.status().announced, 100_000);
}

/// One optional parameter for each capability, as some routers have it.
fn scattered(asn: u16, hold: u16, capabilities: &[&[u8]]) -> Vec<u8> {
    let parameters: Vec<u8> = capabilities.iter().flat_map(|one| [&[2, one.len() as u8][..], one].concat()).collect();
    let [a, b] = asn.to_be_bytes();
    let [c, d] = hold.to_be_bytes();
    peer::message(1, &[&[4, a, b, c, d, 192, 0, 2, 1, parameters.len() as u8][..], &parameters].concat())
}

#[test]
fn opens_of_many_routers_are_taken() {
    let four = capability(65, &64513u32.to_be_bytes());
    // Route refresh by both its numbers, enhanced, additional paths, FQDN, long-lived graceful restart.
    let (refresh, old_refresh, enhanced) = (capability(2, &[]), capability(128, &[]), capability(70, &[]));
    let paths = capability(69, &[0, 1, 1, 1, 0, 2, 1, 1]);
    let name = capability(73, &[&[3][..], b"tor", &[0]].concat());
    let graceful = capability(64, &[0x40, 120, 0, 1, 1, 0]);
    let lived = capability(71, &[0, 1, 1, 0, 0, 0, 60]);
    let with = |parts: &[&[u8]]| peer::Open { capabilities: parts.concat(), ..Open::default() }.message();
    for (what, open, four_octet, hold) in [
        (
            "capabilities in one parameter",
            with(&[&IPV4, &IPV6, &refresh, &enhanced, &paths, &name, &graceful]),
            true,
            90,
        ),
        ("one for each", scattered(64513, 30, &[&IPV4, &old_refresh, &refresh, &four, &lived]), true, 30),
        (
            "a short graceful restart, and two octets",
            scattered(64513, 180, &[&IPV4, &refresh, &capability(64, &[0, 180])]),
            false,
            90,
        ),
        ("nothing", scattered(64513, 90, &[]), false, 90),
        (
            "other families beside",
            with(&[&capability(1, &[0, 25, 0, 70]), &capability(1, &[0, 1, 0, 128]), &IPV4]),
            true,
            90,
        ),
        ("no hold time", scattered(64513, 0, &[&IPV4, &four]), true, 0),
    ] {
        let mut led = Led::new(config());
        led.connect();
        led.receive(OUT, &open);
        led.receive(OUT, &keepalive());
        let negotiated = led.session.status().negotiated;
        let found = negotiated.map(|found| (found.peer_asn, found.four_octet, found.hold));
        assert_eq!(found, Some((Asn(64513), four_octet, hold)), "{what}");
    }
}
