//! Nodes that hear only some of the others, or not of their signs of life: who announces meanwhile, and afterwards.
//!
//! Nodes, the place of their signs of life and clients are simulated; what a node does by itself is the engine's, and what
//! it does with an election is what the plane does. By the seed, delays and beats are others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_l2::frame::{Frame, Mac, Neighbour};
use headwater_l2::{
    ASK_EVERY, BURST, Candidate, Counted, Effect, Event, Interface, L2, Members, PROBE_EVERY, PROBES, elect,
};

use crate::{ADDRESSES, V4, V6, request, solicitation, wanted};

const RENEW: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(1);
const SETTLED: Duration = Duration::from_secs(2);
const SEEDS: u64 = 20;

/// Time in which everything that a change leads to has come to an end.
const CALM: Duration = Duration::from_secs(12);

struct Node {
    name: Arc<str>,
    mac: Mac,
    members: Members,
    engine: L2,
    winner: Option<(Arc<str>, Instant)>,
    known: Option<bool>,
    beat_at: Instant,
    /// Until a sign of life, or news of one, is through.
    delay: Duration,
    /// Which part of the segment it is on.
    island: usize,
    /// Whether it reaches the place of the signs of life.
    reaches: bool,
    is_dead: bool,
}

/// What is under way.
enum Parcel {
    Sign { of: Arc<str>, version: u64 },
    Frame(Vec<u8>),
}

struct World {
    now: Instant,
    nodes: Vec<Node>,
    /// On each part of the segment a client, and what it believes.
    clients: [BTreeMap<IpAddr, Mac>; 2],
    signs: BTreeMap<Arc<str>, u64>,
    versions: u64,
    under_way: BTreeMap<(Instant, u64), (usize, Parcel)>,
    serial: u64,
}

fn mac(index: usize) -> Mac {
    Mac([2, 0, 0, 0, 7 * u8::try_from(index).unwrap(), 1])
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let names: Vec<Arc<str>> = (1..=3).map(|number| format!("iris{number}").into()).collect();
        let nodes = names.iter().enumerate().map(|(index, name)| {
            let number = u64::try_from(index).unwrap() + 1;
            let mut engine = L2::new();
            let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::try_from(number).unwrap());
            let heard =
                [Interface { index: 1, name: "eth0".into(), mac: mac(index), arp: true, link_local: Some(link_local) }];
            engine.step(now, Event::Interfaces { heard: &heard, own: &[] });
            let others: Vec<Mac> = (0..names.len()).filter(|other| *other != index).map(mac).collect();
            engine.step(now, Event::Members(&others));
            Node {
                name: name.clone(),
                mac: mac(index),
                members: Members::new(name.clone()),
                engine,
                winner: None,
                known: None,
                beat_at: now + Duration::from_millis(seed * 37 * number % 300),
                delay: Duration::from_millis(1 + seed * 13 * number % 60),
                island: 0,
                reaches: true,
                is_dead: false,
            }
        });
        Self {
            now,
            nodes: nodes.collect(),
            clients: Default::default(),
            signs: BTreeMap::new(),
            versions: 0,
            under_way: BTreeMap::new(),
            serial: 0,
        }
    }

    fn send(&mut self, to: usize, after: Duration, parcel: Parcel) {
        self.serial += 1;
        self.under_way.insert((self.now + after, self.serial), (to, parcel));
    }

    fn beat(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.beat_at += RENEW;
        let name = node.name.clone();
        if node.reaches {
            self.versions += 1;
            self.signs.insert(name.clone(), self.versions);
            let delays: Vec<Duration> = self.nodes.iter().map(|other| other.delay).collect();
            for (to, delay) in delays.into_iter().enumerate() {
                self.send(to, delay, Parcel::Sign { of: name.clone(), version: self.versions });
            }
        }
        self.elect(index);
    }

    /// As the plane does it.
    fn elect(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let known = node.members.is_known(now, PATIENCE);
        let mut effects = Vec::new();
        if node.known.replace(known) != Some(known) {
            effects.extend(node.engine.step(now, Event::Known(known)));
        }
        let alive: Vec<Candidate> =
            node.members.alive().into_iter().map(|node| Candidate { node, weight: 0 }).collect();
        let winner = elect(&V4.to_string(), &alive).unwrap().node.clone();
        let before = node.winner.clone();
        if before.as_ref().is_none_or(|(name, _)| *name != winner) {
            node.winner = Some((winner.clone(), now));
            let takeover = before.is_some_and(|(_, since)| now - since >= SETTLED);
            let ours = ADDRESSES.map(|address| headwater_l2::Wanted { takeover, ..wanted(address) });
            let is_ours = winner == node.name;
            effects.extend(node.engine.step(now, Event::Wanted(if is_ours { &ours } else { &[] })));
        }
        self.carry(index, effects);
    }

    /// Frames to everybody on the same part of the segment whom they are for.
    fn carry(&mut self, from: usize, effects: Vec<Effect>) {
        let island = self.nodes[from].island;
        for effect in effects {
            let Effect::Send { frame, .. } = effect else { continue };
            let destination = Mac(*frame.first_chunk().unwrap());
            for to in (0..self.nodes.len()).filter(|to| *to != from) {
                let node = &self.nodes[to];
                if node.island == island && (!destination.is_unicast() || destination == node.mac) {
                    self.send(to, Duration::from_millis(1), Parcel::Frame(frame.clone()));
                }
            }
            let believed = match Frame::parse(&frame).unwrap() {
                Frame::Arp(arp) if !arp.sender_ip.is_unspecified() => Some((arp.sender_ip.into(), arp.sender)),
                Frame::Neighbour(Neighbour::Advertisement(said)) => Some((said.target.into(), said.owner.unwrap())),
                _ => None,
            };
            self.clients[island].extend(believed);
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let living = || (0..self.nodes.len()).filter(|index| !self.nodes[*index].is_dead);
            let beat = living().min_by_key(|index| self.nodes[*index].beat_at).unwrap();
            let tick = living().filter_map(|index| Some((self.nodes[index].engine.deadline()?, index))).min();
            let parcel = self.under_way.keys().next().map(|(at, _)| *at);
            let beat_at = self.nodes[beat].beat_at;
            let next = [Some(beat_at), tick.map(|(at, _)| at), parcel].into_iter().flatten().min().unwrap();
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if parcel == Some(next) {
                let (_, (to, parcel)) = self.under_way.pop_first().unwrap();
                self.deliver(to, parcel);
            } else if let Some((_, index)) = tick.filter(|(at, _)| *at == next) {
                let effects = self.nodes[index].engine.step(self.now, Event::Tick);
                self.carry(index, effects);
            } else {
                self.beat(beat);
            }
        }
    }

    fn deliver(&mut self, to: usize, parcel: Parcel) {
        let now = self.now;
        let node = &mut self.nodes[to];
        if node.is_dead {
            return;
        }
        match parcel {
            Parcel::Sign { of, version } if node.reaches => {
                node.members.hear(now, &of, &version.to_string(), PATIENCE);
                self.elect(to);
            }
            Parcel::Sign { .. } => {}
            Parcel::Frame(bytes) => {
                let effects = node.engine.step(now, Event::Frame { interface: 1, bytes: &bytes });
                self.carry(to, effects);
            }
        }
    }

    fn cut(&mut self, index: usize, from: Cut) {
        if from.segment {
            self.nodes[index].island = 1;
        }
        if from.signs {
            self.nodes[index].reaches = false;
        }
    }

    fn heal(&mut self, index: usize, from: Cut) {
        if from.segment {
            self.nodes[index].island = 0;
        }
        if from.signs {
            self.nodes[index].reaches = true;
            // It reads what is there.
            for (of, version) in self.signs.clone() {
                self.send(index, self.nodes[index].delay, Parcel::Sign { of, version });
            }
        }
    }

    /// Who answers a client on a part of the segment, for each address.
    fn answering(&mut self, island: usize) -> [BTreeSet<Mac>; 2] {
        let questions = [request(Mac::BROADCAST, V4).render(), solicitation(V6).render()];
        questions.map(|bytes| {
            let mut who = BTreeSet::new();
            for node in self.nodes.iter_mut().filter(|node| node.island == island && !node.is_dead) {
                let effects = node.engine.step(self.now, Event::Frame { interface: 1, bytes: &bytes });
                let answers =
                    |effect: &Effect| matches!(effect, Effect::Send { counted, .. } if *counted == Counted::Answer);
                if effects.iter().any(answers) {
                    who.insert(node.mac);
                }
            }
            who
        })
    }

    /// The only one that answers, and that the client knows.
    fn alone(&mut self, island: usize, what: &str) -> Mac {
        let [v4, v6] = self.answering(island);
        assert!(v4.len() == 1 && v4 == v6, "{what}: {v4:?} and {v6:?} answer");
        *v4.first().unwrap()
    }

    fn believed(&self, island: usize) -> BTreeSet<Mac> {
        self.clients[island].values().copied().collect()
    }

    /// Who announces while all are there.
    fn announcer(&self) -> usize {
        let all: Vec<Candidate> =
            self.nodes.iter().map(|node| Candidate { node: node.name.clone(), weight: 0 }).collect();
        let winner = &elect(&V4.to_string(), &all).unwrap().node;
        self.nodes.iter().position(|node| node.name == *winner).unwrap()
    }
}

/// What a node is cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    segment: bool,
    signs: bool,
}

const SEGMENT: Cut = Cut { segment: true, signs: false };
const SIGNS: Cut = Cut { segment: false, signs: true };

#[test]
fn whichever_way_an_announcer_is_cut_off_one_node_goes_on_within_a_burst_of_its_return() {
    for seed in 0..SEEDS {
        for (first, second) in [(SIGNS, None), (SEGMENT, None), (SIGNS, Some(SEGMENT)), (SEGMENT, Some(SIGNS))] {
            let what = format!("seed {seed}, healed {first:?} then {second:?}");
            let mut world = World::new(seed);
            world.run(CALM);
            let cut_off = world.announcer();
            let old = world.nodes[cut_off].mac;
            assert_eq!(world.alone(0, &what), old);
            for cut in [Some(first), second].into_iter().flatten() {
                world.cut(cut_off, cut);
            }
            world.run(CALM);
            match (first, second) {
                // It hears the one that was elected in its place.
                (SIGNS, None) => assert_ne!(world.alone(0, &what), old),
                // Nobody else may: it is alive.
                (SEGMENT, None) => {
                    assert_eq!(world.alone(1, &what), old);
                    assert_eq!(world.answering(0), [BTreeSet::new(), BTreeSet::new()], "{what}");
                }
                // Each on its part.
                _ => {
                    assert_eq!(world.alone(1, &what), old);
                    assert_ne!(world.alone(0, &what), old);
                }
            }
            world.heal(cut_off, first);
            if let Some(second) = second {
                world.run(BURST);
                if first.segment {
                    // The others do not know of it still, and it is silent.
                    assert_ne!(world.alone(0, &what), old);
                } else {
                    // They do, and it is elsewhere.
                    assert_eq!(world.alone(1, &what), old);
                    assert_eq!(world.answering(0), [BTreeSet::new(), BTreeSet::new()], "{what}");
                }
                world.heal(cut_off, second);
            }
            world.run(BURST);
            assert_eq!(world.alone(0, &what), old);
            if second.is_none_or(|second| second.signs) && first != SEGMENT {
                assert_eq!(world.believed(0), [old].into(), "{what}: clients were not told");
            }
        }
    }
}

#[test]
fn whoever_was_cut_off_and_silent_announces_again_when_the_other_one_dies() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        world.run(CALM);
        let cut_off = world.announcer();
        world.cut(cut_off, SIGNS);
        world.run(CALM);
        let other = world.alone(0, "cut off");
        // All others die at once, and nobody is there who could be elected.
        for node in world.nodes.iter_mut().filter(|node| node.mac != mac(cut_off)) {
            node.is_dead = true;
        }
        world.run(ASK_EVERY + Duration::from_millis(1_100) + PROBE_EVERY * (PROBES + 1));
        assert_eq!(world.alone(0, "the others are dead"), mac(cut_off));
        assert_ne!(other, mac(cut_off));
    }
}

#[test]
fn while_nobody_hears_of_anybody_everything_stays_as_it_is() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        world.run(CALM);
        let before = world.alone(0, "before");
        // The place of the signs is away, or the clock of all stood still meanwhile.
        for index in 0..world.nodes.len() {
            world.cut(index, SIGNS);
        }
        for _ in 0..30 {
            world.run(Duration::from_secs(7));
            assert_eq!(world.alone(0, "away"), before, "seed {seed}");
        }
        for index in 0..world.nodes.len() {
            world.heal(index, SIGNS);
        }
        for _ in 0..30 {
            world.run(Duration::from_millis(200));
            assert_eq!(world.alone(0, "back"), before, "seed {seed}");
        }
    }
}

#[test]
fn a_node_that_dies_is_replaced_within_two_seconds() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        world.run(CALM);
        let first = world.announcer();
        world.nodes[first].is_dead = true;
        world.run(Duration::from_secs(2));
        let second = world.alone(0, "dead");
        assert_ne!(second, mac(first));
        assert_eq!(world.believed(0), [second].into());
        // It comes again, and knows nothing.
        let mut fresh = World::new(seed);
        fresh.now = world.now;
        let mut node = fresh.nodes.remove(first);
        node.beat_at = world.now;
        world.nodes[first] = node;
        for (of, version) in world.signs.clone() {
            world.send(first, Duration::from_millis(1), Parcel::Sign { of, version });
        }
        world.run(BURST);
        assert_eq!(world.alone(0, "again"), mac(first));
        assert_eq!(world.believed(0), [mac(first)].into());
    }
}
