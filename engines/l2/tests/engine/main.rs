//! What a node sends, by what it is told and hears.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test says what time it is, beginning at any")]

mod partition;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use headwater_l2::frame::{Advertisement, Arp, Frame, Mac, Neighbour, Operation, Solicitation, solicited_node};
use headwater_l2::{
    ASK_EVERY, BURST, Counted, Effect, Event, Interface, Interfaces, L2, PROBE_EVERY, PROBES, REFUSED_FOR, Report,
    Standing, Wanted,
};

const US: Mac = Mac([2, 0, 0, 0, 0, 1]);
const MEMBER: Mac = Mac([2, 0, 0, 0, 0, 2]);
const CLIENT: Mac = Mac([2, 0, 0, 0, 0, 9]);
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0x66]);
const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(V4), IpAddr::V6(V6)];

fn interface(index: u32, name: &str) -> Interface {
    let mac = Mac([2, 0, 0, 0, u8::try_from(index).unwrap() - 1, 1]);
    Interface { index, name: name.into(), mac, arp: true, link_local: Some(LINK_LOCAL) }
}

fn wanted(address: IpAddr) -> Wanted {
    Wanted { address, interfaces: Interfaces::All, takeover: false }
}

struct Node {
    engine: L2,
    start: Instant,
    now: Instant,
}

impl Node {
    /// With the interface eth0, number 1.
    fn new() -> Self {
        let now = Instant::now();
        let mut node = Self { engine: L2::new(), start: now, now };
        assert!(node.interfaces(&[interface(1, "eth0")]).is_empty());
        node.engine.step(now, Event::Members(&[MEMBER]));
        node
    }

    /// Announcing both addresses, and quiet.
    fn announcing() -> Self {
        let mut node = Self::new();
        node.want(&ADDRESSES.map(wanted));
        node.pass(Duration::from_secs(20));
        assert!(ADDRESSES.iter().all(|address| node.standing(*address) == Standing::Announcing));
        node
    }

    fn interfaces(&mut self, heard: &[Interface]) -> Vec<Effect> {
        self.engine.step(self.now, Event::Interfaces { heard, own: &[] })
    }

    fn want(&mut self, wanted: &[Wanted]) -> Vec<Effect> {
        self.engine.step(self.now, Event::Wanted(wanted))
    }

    fn hear(&mut self, frame: &[u8]) -> Vec<Effect> {
        self.engine.step(self.now, Event::Frame { interface: 1, bytes: frame })
    }

    /// Lets time pass, and returns what was done at which millisecond since the beginning.
    fn pass(&mut self, time: Duration) -> Vec<(u128, Effect)> {
        let end = self.now + time;
        let mut done = Vec::new();
        while let Some(at) = self.engine.deadline().filter(|at| *at <= end) {
            assert!(at >= self.now, "a deadline in the past was not kept");
            self.now = at;
            let since = (at - self.start).as_millis();
            let effects = self.engine.step(at, Event::Tick);
            assert!(self.engine.deadline() != Some(at), "a tick did nothing about its deadline");
            done.extend(effects.into_iter().map(|effect| (since, effect)));
        }
        self.now = end;
        done
    }

    fn standing(&self, address: IpAddr) -> Standing {
        let found = self.engine.standings().find(|(other, _)| *other == address);
        found.map(|(_, standing)| standing.clone()).expect("the address is wanted")
    }
}

fn frames(effects: &[Effect], wanted: Counted) -> Vec<Frame> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send { frame, counted, .. } if *counted == wanted => Some(Frame::parse(frame).unwrap()),
            _ => None,
        })
        .collect()
}

fn reports(effects: &[Effect]) -> Vec<&Report> {
    effects
        .iter()
        .filter_map(|effect| if let Effect::Report { report, .. } = effect { Some(report) } else { None })
        .collect()
}

fn request(destination: Mac, target_ip: Ipv4Addr) -> Arp {
    Arp {
        destination,
        source: CLIENT,
        operation: Operation::Request,
        sender: CLIENT,
        sender_ip: CLIENT_V4,
        target: Mac::default(),
        target_ip,
    }
}

fn solicitation(target: Ipv6Addr) -> Solicitation {
    let to = solicited_node(target);
    let [.., a, b, c] = to.octets();
    let destination = Mac([0x33, 0x33, 0xff, a, b, c]);
    Solicitation { destination, source: CLIENT, from: "fe80::9".parse().unwrap(), to, target, sender: Some(CLIENT) }
}

/// A claim of an address by somebody, in its family.
fn claim(by: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => Arp::gratuitous(by, address)[1].render(),
        IpAddr::V6(address) => Advertisement::unsolicited(by, "fe80::66".parse().unwrap(), address).render(),
    }
}

fn probe(by: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => Arp::probe(by, address).render(),
        IpAddr::V6(address) => Solicitation::probe(by, address).render(),
    }
}

#[test]
fn only_requests_for_us_are_answered() {
    let mut node = Node::announcing();
    let answer = Arp {
        destination: CLIENT,
        source: US,
        operation: Operation::Reply,
        sender: US,
        sender_ip: V4,
        target: CLIENT,
        target_ip: CLIENT_V4,
    };
    for (destination, target, answered) in [
        (Mac::BROADCAST, V4, true),
        (US, V4, true),
        (MEMBER, V4, false),
        (Mac([0x33, 0x33, 0, 0, 0, 1]), V4, false),
        (Mac::BROADCAST, CLIENT_V4, false),
        (US, Ipv4Addr::new(192, 0, 2, 8), false),
    ] {
        let effects = node.hear(&request(destination, target).render());
        let expected = if answered { vec![Frame::Arp(answer)] } else { vec![] };
        assert_eq!(frames(&effects, Counted::Answer), expected, "{destination} {target}");
        assert_eq!(reports(&effects), vec![&Report::Requested; expected.len()]);
    }
    let reply = Arp { operation: Operation::Reply, ..request(US, V4) };
    assert_eq!(node.hear(&reply.render()), []);
    let from_all = Arp { sender: Mac::BROADCAST, ..request(US, V4) };
    assert_eq!(node.hear(&from_all.render()), []);
}

#[test]
fn a_solicitation_is_answered_to_its_sender_and_one_for_duplicates_to_everybody() {
    let mut node = Node::announcing();
    let asked = solicitation(V6);
    let answer = asked.answer(US, LINK_LOCAL).unwrap();
    let answer = Frame::Neighbour(Neighbour::Advertisement(answer));
    assert_eq!(frames(&node.hear(&asked.render()), Counted::Answer), [answer]);
    let unicast = Solicitation { destination: US, to: V6, ..asked };
    assert_eq!(frames(&node.hear(&unicast.render()), Counted::Answer).len(), 1);
    for passed_over in [
        Solicitation { destination: MEMBER, to: V6, ..asked },
        Solicitation { sender: None, ..asked },
        solicitation("2001:db8::8".parse().unwrap()),
    ] {
        assert_eq!(node.hear(&passed_over.render()), [], "{passed_over:?}");
    }
    let told = Advertisement::unsolicited(US, LINK_LOCAL, V6);
    let told = Frame::Neighbour(Neighbour::Advertisement(told));
    assert_eq!(frames(&node.hear(&probe(STRANGER, V6.into())), Counted::Answer), [told]);
}

#[test]
fn it_is_asked_three_times_before_everybody_is_told_for_five_seconds() {
    for address in ADDRESSES {
        let mut node = Node::new();
        let mut done: Vec<(u128, Effect)> =
            node.want(&[wanted(address)]).into_iter().map(|effect| (0, effect)).collect();
        // Nothing is said of it yet.
        assert_eq!(node.hear(&request(Mac::BROADCAST, V4).render()), []);
        assert_eq!(node.hear(&solicitation(V6).render()), []);
        done.extend(node.pass(Duration::from_secs(60)));
        let times = |wanted| {
            let sent =
                done.iter().filter(|(_, effect)| matches!(effect, Effect::Send { counted, .. } if *counted == wanted));
            sent.map(|(at, _)| *at).collect::<Vec<_>>()
        };
        assert_eq!(times(Counted::Probe), [0, 200, 400]);
        let each = [600, 1_700, 2_800, 3_900, 5_000];
        let expected = if address.is_ipv4() { each.iter().flat_map(|at| [*at, *at]).collect() } else { each.to_vec() };
        assert_eq!(times(Counted::Gratuitous), expected, "{address}");
        assert!(node.engine.deadline().is_none());
        let told: Vec<_> = done.iter().map(|(_, effect)| effect.clone()).collect();
        let [first, ..] = &frames(&told, Counted::Gratuitous)[..] else { panic!("{told:?}") };
        match first {
            Frame::Arp(arp) => assert_eq!([*arp], [Arp::gratuitous(US, V4)[0]]),
            Frame::Neighbour(Neighbour::Advertisement(said)) => {
                assert_eq!((said.solicited, said.overrides, said.owner), (false, true, Some(US)))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_address_that_somebody_answers_for_is_refused_and_looked_at_again() {
    for address in ADDRESSES {
        for heard in [claim(STRANGER, address), probe(STRANGER, address)] {
            let mut node = Node::new();
            node.want(&[wanted(address)]);
            node.pass(PROBE_EVERY);
            let effects = node.hear(&heard);
            let refused = Report::Refused { interface: "eth0".into(), by: STRANGER };
            assert_eq!(reports(&effects), [&refused], "{address}");
            assert_eq!(node.standing(address), Standing::Refused { interface: "eth0".into(), by: STRANGER });
            assert_eq!(node.pass(REFUSED_FOR - Duration::from_secs(1)), []);
            let done: Vec<_> = node.pass(Duration::from_secs(30)).into_iter().map(|(_, effect)| effect).collect();
            assert_eq!(frames(&done, Counted::Probe).len() as u32, PROBES);
            assert_eq!(node.standing(address), Standing::Announcing);
        }
    }
}

#[test]
fn a_member_that_still_answers_is_no_conflict() {
    for address in ADDRESSES {
        let mut node = Node::new();
        node.want(&[wanted(address)]);
        for heard in [claim(MEMBER, address), probe(MEMBER, address), claim(US, address)] {
            assert_eq!(node.hear(&heard), []);
        }
        node.pass(Duration::from_secs(1));
        assert_eq!(node.standing(address), Standing::Announcing);
    }
}

#[test]
fn what_a_member_announced_is_taken_over_at_once_unless_a_stranger_has_it() {
    for address in ADDRESSES {
        let mut node = Node::new();
        let effects = node.want(&[Wanted { takeover: true, ..wanted(address) }]);
        assert_eq!(frames(&effects, Counted::Gratuitous).len(), if address.is_ipv4() { 2 } else { 1 });
        assert_eq!(frames(&effects, Counted::Probe).len(), 1);
        assert!(reports(&effects).contains(&&Report::Announcing));
        let effects = node.hear(&claim(STRANGER, address));
        assert_eq!(reports(&effects), [&Report::Refused { interface: "eth0".into(), by: STRANGER }]);
    }
}

#[test]
fn an_announced_address_is_defended_now_and_then() {
    for address in ADDRESSES {
        let mut node = Node::announcing();
        let effects = node.hear(&claim(STRANGER, address));
        assert_eq!(reports(&effects), [&Report::Contested { interface: "eth0".into(), by: STRANGER }]);
        assert_eq!(frames(&effects, Counted::Gratuitous).len(), if address.is_ipv4() { 2 } else { 1 });
        // A flood of claims is not answered by a flood.
        assert_eq!(node.hear(&claim(STRANGER, address)), []);
        assert_eq!(node.standing(address), Standing::Announcing);
    }
}

#[test]
fn two_members_do_not_both_announce_for_longer_than_a_burst() {
    for address in ADDRESSES {
        let mut node = Node::announcing();
        // This node is known, so the other one is wrong, or faster: the word is left to it for a while.
        assert_eq!(node.hear(&claim(MEMBER, address)), []);
        let said = node.pass(Duration::from_millis(1_200));
        assert!(said.iter().all(|(_, effect)| matches!(effect, Effect::Send { counted: Counted::Gratuitous, .. })));
        assert!(!said.is_empty());
        // Nobody knows that this node is alive.
        node.engine.step(node.now, Event::Known(false));
        let effects = node.hear(&claim(MEMBER, address));
        assert_eq!(reports(&effects), [&Report::Yielded { to: MEMBER }]);
        assert_eq!(node.hear(&request(Mac::BROADCAST, V4).render()).is_empty(), address.is_ipv4());
        let effects = node.engine.step(node.now, Event::Known(true));
        assert!(reports(&effects).contains(&&Report::Announcing));
    }
}

#[test]
fn an_address_that_is_not_wanted_any_more_is_answered_for_no_more_without_a_word() {
    let mut node = Node::announcing();
    let effects = node.want(&[]);
    let group = solicited_node(V6);
    assert!(effects.contains(&Effect::Leave { interface: 1, group }));
    assert_eq!(reports(&effects), [&Report::Withdrawn, &Report::Withdrawn]);
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Send { .. })));
    assert_eq!(node.hear(&request(Mac::BROADCAST, V4).render()), []);
    assert_eq!(node.hear(&solicitation(V6).render()), []);
}

#[test]
fn an_interface_that_returns_is_told_again() {
    let mut node = Node::announcing();
    let effects = node.interfaces(&[]);
    assert_eq!(reports(&effects), [&Report::Withdrawn, &Report::Withdrawn]);
    assert_eq!(node.hear(&request(Mac::BROADCAST, V4).render()), []);
    // The same name by another number is another interface.
    let effects = node.interfaces(&[interface(5, "eth0")]);
    assert!(effects.contains(&Effect::Join { interface: 5, group: solicited_node(V6) }));
    assert_eq!(frames(&effects, Counted::Probe).len(), 2);
    let told: Vec<_> = node.pass(BURST).into_iter().map(|(_, effect)| effect).collect();
    assert!(frames(&told, Counted::Gratuitous).len() > 2);
    // One more, while others are there: everybody on it is told at once.
    let effects = node.interfaces(&[interface(5, "eth0"), interface(6, "eth1")]);
    let on_new = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Send { interface: 6, counted: Counted::Gratuitous, .. }));
    assert_eq!(on_new.count(), 3);
}

#[test]
fn an_address_is_announced_only_where_it_shall_be() {
    let mut node = Node::new();
    node.interfaces(&[interface(1, "eth0"), interface(2, "eth1")]);
    let named = Interfaces::Named(std::iter::once("eth1".into()).collect::<std::collections::BTreeSet<_>>().into());
    let effects = node.want(&ADDRESSES.map(|address| Wanted { interfaces: named.clone(), ..wanted(address) }));
    assert!(effects.contains(&Effect::Join { interface: 2, group: solicited_node(V6) }));
    let done = node.pass(Duration::from_secs(20));
    let sent = effects.iter().chain(done.iter().map(|(_, effect)| effect));
    let on: Vec<u32> = sent
        .filter_map(|effect| if let Effect::Send { interface, .. } = effect { Some(*interface) } else { None })
        .collect();
    assert!(on.iter().all(|interface| *interface == 2) && !on.is_empty());
    assert_eq!(node.hear(&request(Mac::BROADCAST, V4).render()), []);
    assert_eq!(node.hear(&solicitation(V6).render()), []);
    // An answer of our own, heard on the other interface of the same network.
    assert_eq!(
        node.engine.step(node.now, Event::Frame { interface: 1, bytes: &claim(Mac([2, 0, 0, 0, 1, 1]), V4.into()) }),
        []
    );
    // Elsewhere from now on.
    let effects = node.want(&ADDRESSES.map(wanted));
    assert!(effects.contains(&Effect::Join { interface: 1, group: solicited_node(V6) }));
    assert_eq!(frames(&node.hear(&request(Mac::BROADCAST, V4).render()), Counted::Answer).len(), 1);
}

#[test]
fn an_address_of_this_host_itself_is_refused() {
    let mut node = Node::new();
    node.engine.step(node.now, Event::Interfaces { heard: &[interface(1, "eth0")], own: &ADDRESSES });
    let effects = node.want(&ADDRESSES.map(wanted));
    let refused = Report::Refused { interface: "eth0".into(), by: US };
    assert_eq!(reports(&effects), [&refused, &refused]);
    node.pass(REFUSED_FOR * 3);
    assert_eq!(node.standing(V4.into()), Standing::Refused { interface: "eth0".into(), by: US });
}

#[test]
fn an_interface_speaks_only_what_it_can() {
    let mut node = Node::new();
    let (arp, ndp) =
        (Interface { link_local: None, ..interface(1, "eth0") }, Interface { arp: false, ..interface(2, "eth1") });
    node.interfaces(&[arp, ndp]);
    let effects = node.want(&ADDRESSES.map(wanted));
    let probed: Vec<_> = effects
        .iter()
        .filter_map(|effect| {
            if let Effect::Send { interface, address, .. } = effect {
                Some((*interface, address.is_ipv4()))
            } else {
                None
            }
        })
        .collect();
    assert_eq!(probed, [(1, true), (2, false)]);
}

#[test]
fn two_addresses_of_one_group_leave_it_together() {
    let mut node = Node::new();
    let other: IpAddr = "2001:db8:1::7".parse().unwrap();
    let joins = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Join { .. })).count();
    assert_eq!(joins(&node.want(&[wanted(V6.into()), wanted(other)])), 1);
    let left = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Leave { .. })).count();
    assert_eq!(left(&node.want(&[wanted(other)])), 0);
    assert_eq!(left(&node.want(&[])), 1);
}

#[test]
fn ten_thousand_addresses_are_taken_over_in_one_step() {
    let mut node = Node::new();
    let many: Vec<Wanted> =
        (0..10_000_u32).map(|n| Wanted { takeover: true, ..wanted(Ipv4Addr::from(0x0a00_0000 + n).into()) }).collect();
    let effects = node.want(&many);
    assert_eq!(frames(&effects, Counted::Gratuitous).len(), 20_000);
    assert_eq!(node.want(&many), []);
}

#[test]
fn who_is_not_known_asks_from_time_to_time_and_tells_everybody_when_it_is_known_again() {
    for address in ADDRESSES {
        let mut node = Node::new();
        node.want(&[wanted(address)]);
        node.pass(Duration::from_secs(20));
        assert_eq!(node.engine.step(node.now, Event::Known(false)), []);
        let asked = node.pass(2 * ASK_EVERY + Duration::from_millis(10));
        assert_eq!(asked.len(), 2, "{asked:?}");
        assert!(asked.iter().all(|(_, effect)| matches!(effect, Effect::Send { counted: Counted::Probe, .. })));
        let told = node.engine.step(node.now, Event::Known(true));
        assert_eq!(frames(&told, Counted::Gratuitous).len(), if address.is_ipv4() { 2 } else { 1 });
        // The same word again is none.
        assert_eq!(node.engine.step(node.now, Event::Known(true)), []);
        node.pass(Duration::from_secs(20));
        assert!(node.engine.deadline().is_none());
    }
}
