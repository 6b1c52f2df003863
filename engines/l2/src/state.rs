//! Who answers for what, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};

use crate::effect::{Counted, Effect, Report};
use crate::event::{Event, Interface, Wanted};
use crate::frame::{Advertisement, Arp, Frame, Mac, Neighbour, Operation, Solicitation, solicited_node};

/// Probes before the first announcement. Fewer and faster than RFC 5227 wants, which counts on hosts that wake up: the
/// address would be away for seven seconds.
pub const PROBES: u32 = 3;

/// Between two probes, and after the last.
pub const PROBE_EVERY: Duration = Duration::from_millis(200);

/// How long everybody is told, after the last reason to do so.
pub const BURST: Duration = Duration::from_secs(5);

/// Between two times that everybody is told.
pub const BURST_EVERY: Duration = Duration::from_millis(1_100);

/// After this long an address that somebody else has is looked at again; a little later on some nodes than on others.
pub const REFUSED_FOR: Duration = Duration::from_secs(30);

/// A node that the others do not know to be alive asks this often whether one of them announces its addresses now; some
/// nodes a little later than others.
pub const ASK_EVERY: Duration = Duration::from_secs(3);

/// Between two times that an announced address is defended (RFC 5227 section 2.4: `DEFEND_INTERVAL`).
pub const DEFEND_EVERY: Duration = Duration::from_secs(10);

/// How this node stands to an address that it shall announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// No interface is there for it.
    Waiting,
    /// Whether somebody else has it is being looked at.
    Probing,
    /// This node answers for it.
    Announcing,
    /// Somebody outside the cluster, or this host itself, has it.
    Refused {
        /// Where that was heard.
        interface: Arc<str>,
        /// Who has it.
        by: Mac,
    },
    /// Another node announces it, and this one is not known to be alive. It asks from time to time whether that is so
    /// still.
    Yielded {
        /// Who announces it.
        to: Mac,
    },
}

#[derive(Debug)]
struct Held {
    wanted: Wanted,
    /// Numbers of the interfaces that it is announced on.
    on: BTreeSet<u32>,
    standing: Standing,
    /// When something is due.
    next: Option<Instant>,
    /// Probes that were sent.
    probes: u32,
    /// Everybody is being told.
    is_telling: bool,
    /// Until when.
    burst: Instant,
    /// Until when somebody outside the cluster may still turn out to have it.
    unsure: Instant,
    /// When it may be defended again.
    defend: Instant,
}

/// The addresses that this node announces.
///
/// Shape: interfaces by number, addresses by themselves, and a calendar of what is due. A frame costs one look-up.
#[derive(Debug)]
pub struct L2 {
    interfaces: BTreeMap<u32, Interface>,
    own_macs: AHashSet<Mac>,
    own: AHashSet<IpAddr>,
    members: AHashSet<Mac>,
    known: bool,
    held: AHashMap<IpAddr, Held>,
    /// How many addresses need a group on an interface.
    groups: AHashMap<(u32, Ipv6Addr), usize>,
    calendar: BTreeSet<(Instant, IpAddr)>,
}

impl Default for L2 {
    fn default() -> Self {
        Self::new()
    }
}

impl L2 {
    /// Without interfaces and addresses.
    pub fn new() -> Self {
        Self {
            interfaces: BTreeMap::new(),
            own_macs: AHashSet::new(),
            own: AHashSet::new(),
            members: AHashSet::new(),
            known: true,
            held: AHashMap::new(),
            groups: AHashMap::new(),
            calendar: BTreeSet::new(),
        }
    }

    /// When [`Event::Tick`] is due; `None`: nothing waits for time to pass.
    pub fn deadline(&self) -> Option<Instant> {
        self.calendar.first().map(|(at, _)| *at)
    }

    /// How this node stands to each address that it shall announce, in no order.
    pub fn standings(&self) -> impl Iterator<Item = (IpAddr, &Standing)> {
        self.held.iter().map(|(address, held)| (*address, &held.standing))
    }

    /// Takes an event. `now` never goes back.
    pub fn step(&mut self, now: Instant, event: Event<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Interfaces { heard, own } => self.set_interfaces(now, heard, own, &mut effects),
            Event::Wanted(wanted) => self.set_wanted(now, wanted, &mut effects),
            Event::Members(macs) => self.members = macs.iter().copied().collect(),
            Event::Known(known) => self.set_known(now, known, &mut effects),
            Event::Frame { interface, bytes } => self.hear(now, interface, bytes, &mut effects),
            Event::Tick => {}
        }
        self.tick(now, &mut effects);
        effects
    }

    fn set_interfaces(&mut self, now: Instant, heard: &[Interface], own: &[IpAddr], effects: &mut Vec<Effect>) {
        let before = std::mem::take(&mut self.interfaces);
        self.interfaces = heard.iter().map(|interface| (interface.index, interface.clone())).collect();
        self.own_macs = heard.iter().map(|interface| interface.mac).collect();
        self.own = own.iter().copied().collect();
        // One that speaks differently now counts as another.
        let same: BTreeSet<u32> = before
            .iter()
            .filter(|(index, interface)| self.interfaces.get(index) == Some(interface))
            .map(|(index, _)| *index)
            .collect();
        self.groups.retain(|(index, _), _| same.contains(index));
        let mut addresses: Vec<IpAddr> = self.held.keys().copied().collect();
        addresses.sort_unstable();
        for address in addresses {
            let Some(held) = self.held.get_mut(&address) else { continue };
            held.on.retain(|index| same.contains(index));
            self.place(now, address, effects);
        }
    }

    fn set_wanted(&mut self, now: Instant, wanted: &[Wanted], effects: &mut Vec<Effect>) {
        let named: AHashSet<IpAddr> = wanted.iter().map(|wanted| wanted.address).collect();
        let mut gone: Vec<IpAddr> = self.held.keys().filter(|address| !named.contains(*address)).copied().collect();
        gone.sort_unstable();
        for address in gone {
            self.forget(address, effects);
        }
        for wanted in wanted {
            let address = wanted.address;
            match self.held.get_mut(&address) {
                Some(held) if held.wanted.interfaces == wanted.interfaces => {}
                Some(held) => {
                    held.wanted = wanted.clone();
                    self.place(now, address, effects);
                }
                None => {
                    let held = Held {
                        wanted: wanted.clone(),
                        on: BTreeSet::new(),
                        standing: Standing::Waiting,
                        next: None,
                        probes: 0,
                        is_telling: false,
                        burst: now,
                        unsure: now,
                        defend: now,
                    };
                    self.held.insert(address, held);
                    self.place(now, address, effects);
                }
            }
        }
    }

    /// Who is not known may have been given up, and another node may announce by now: it asks, and is silent when somebody
    /// answers. Known again, it is elected again, and whoever listened to the other has to hear of it.
    fn set_known(&mut self, now: Instant, known: bool, effects: &mut Vec<Effect>) {
        if std::mem::replace(&mut self.known, known) == known {
            return;
        }
        let mut addresses: Vec<IpAddr> = self.held.keys().copied().collect();
        addresses.sort_unstable();
        for address in addresses {
            match (self.held.get(&address).map(|held| &held.standing), known) {
                (Some(Standing::Yielded { .. }), true) => self.announce(now, address, effects),
                (Some(Standing::Announcing), true) => self.burst(now, address),
                (Some(Standing::Announcing), false) => self.ask_later(now, address),
                (Some(Standing::Yielded { .. }), false) => self.ask_later(now, address),
                _ => {}
            }
        }
    }

    /// Asks for an address, unless something else is due before.
    fn ask_later(&mut self, now: Instant, address: IpAddr) {
        if self.held.get(&address).is_some_and(|held| held.next.is_none()) {
            self.due(address, Some(now + ASK_EVERY + self.stagger()));
        }
    }

    /// Until it was asked whether the other one still announces.
    fn stay_silent(&mut self, now: Instant, address: IpAddr) {
        if let Some(held) = self.held.get_mut(&address) {
            held.probes = 0;
        }
        self.due(address, None);
        self.ask_later(now, address);
    }

    /// Two that ask at once would both be silent: up to a second.
    fn stagger(&self) -> Duration {
        let [.., high, low] = self.interfaces.values().next().map_or([0; 6], |interface| interface.mac.0);
        Duration::from_millis(u64::from(u16::from_be_bytes([high, low]) % 1024))
    }

    fn forget(&mut self, address: IpAddr, effects: &mut Vec<Effect>) {
        let Some(held) = self.held.remove(&address) else { return };
        if let Some(next) = held.next {
            self.calendar.remove(&(next, address));
        }
        for index in &held.on {
            self.leave(*index, address, effects);
        }
        if held.standing == Standing::Announcing {
            effects.push(Effect::Report { address, report: Report::Withdrawn });
        }
    }

    /// Finds the interfaces of an address, and does what follows from having more, or none.
    fn place(&mut self, now: Instant, address: IpAddr, effects: &mut Vec<Effect>) {
        let Some(held) = self.held.get_mut(&address) else { return };
        let fits = |interface: &&Interface| {
            let speaks = if address.is_ipv4() { interface.arp } else { interface.link_local.is_some() };
            speaks && held.wanted.interfaces.contain(&interface.name)
        };
        let on: BTreeSet<u32> = self.interfaces.values().filter(fits).map(|interface| interface.index).collect();
        let before = std::mem::replace(&mut held.on, on.clone());
        let standing = held.standing.clone();
        for index in before.difference(&on) {
            self.leave(*index, address, effects);
        }
        for index in on.difference(&before) {
            self.join(*index, address, effects);
        }
        if on.is_empty() {
            self.stand(address, Standing::Waiting, effects);
            self.due(address, None);
        } else if self.own.contains(&address) {
            let first = on.first().and_then(|index| self.interfaces.get(index)).cloned();
            if let Some(interface) = first {
                self.refuse(now, address, interface.name, interface.mac, effects);
            }
        } else if !on.is_subset(&before) {
            match standing {
                Standing::Waiting if self.held.get(&address).is_some_and(|held| held.wanted.takeover) => {
                    self.announce(now, address, effects);
                }
                Standing::Waiting | Standing::Probing => self.probe(now, address, effects),
                // Something was cut off and is back, or there is one more.
                Standing::Announcing => self.burst(now, address),
                Standing::Refused { .. } | Standing::Yielded { .. } => {}
            }
        }
    }

    fn join(&mut self, interface: u32, address: IpAddr, effects: &mut Vec<Effect>) {
        let IpAddr::V6(address) = address else { return };
        let group = solicited_node(address);
        let count = self.groups.entry((interface, group)).or_insert(0);
        *count += 1;
        if *count == 1 {
            effects.push(Effect::Join { interface, group });
        }
    }

    fn leave(&mut self, interface: u32, address: IpAddr, effects: &mut Vec<Effect>) {
        let IpAddr::V6(address) = address else { return };
        let group = solicited_node(address);
        let Some(count) = self.groups.get_mut(&(interface, group)) else { return };
        *count -= 1;
        if *count == 0 {
            self.groups.remove(&(interface, group));
            effects.push(Effect::Leave { interface, group });
        }
    }

    fn due(&mut self, address: IpAddr, at: Option<Instant>) {
        let Some(held) = self.held.get_mut(&address) else { return };
        if let Some(before) = std::mem::replace(&mut held.next, at) {
            self.calendar.remove(&(before, address));
        }
        if let Some(at) = at {
            self.calendar.insert((at, address));
        }
    }

    /// Changes how this node stands to an address, and reports it.
    fn stand(&mut self, address: IpAddr, standing: Standing, effects: &mut Vec<Effect>) {
        let Some(held) = self.held.get_mut(&address) else { return };
        let before = std::mem::replace(&mut held.standing, standing);
        if before == held.standing {
            return;
        }
        let mut tell = |report| effects.push(Effect::Report { address, report });
        match &held.standing {
            Standing::Announcing => tell(Report::Announcing),
            Standing::Refused { interface, by } => tell(Report::Refused { interface: interface.clone(), by: *by }),
            Standing::Yielded { to } => tell(Report::Yielded { to: *to }),
            Standing::Waiting | Standing::Probing if before == Standing::Announcing => tell(Report::Withdrawn),
            Standing::Waiting | Standing::Probing => {}
        }
    }

    fn probe(&mut self, now: Instant, address: IpAddr, effects: &mut Vec<Effect>) {
        self.stand(address, Standing::Probing, effects);
        if let Some(held) = self.held.get_mut(&address) {
            held.probes = 0;
        }
        self.due(address, Some(now));
    }

    fn announce(&mut self, now: Instant, address: IpAddr, effects: &mut Vec<Effect>) {
        let Some(held) = self.held.get_mut(&address) else { return };
        if held.standing != Standing::Probing {
            // Nobody was asked before: it is done along the way.
            held.unsure = now + PROBE_EVERY * PROBES;
            self.send_probe(address, effects);
        }
        self.stand(address, Standing::Announcing, effects);
        self.burst(now, address);
    }

    /// Tells everybody, from now on.
    fn burst(&mut self, now: Instant, address: IpAddr) {
        if let Some(held) = self.held.get_mut(&address) {
            (held.is_telling, held.burst) = (true, now + BURST);
        }
        self.due(address, Some(now));
    }

    fn refuse(&mut self, now: Instant, address: IpAddr, interface: Arc<str>, by: Mac, effects: &mut Vec<Effect>) {
        self.stand(address, Standing::Refused { interface, by }, effects);
        // Two that probe at once would refuse each other for ever.
        let stagger = self.interfaces.values().next().map_or(0, |interface| interface.mac.0[5]);
        self.due(address, Some(now + REFUSED_FOR + Duration::from_millis(20) * stagger.into()));
    }

    fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some((_, address)) = self.calendar.first().copied().filter(|(at, _)| *at <= now) {
            self.calendar.pop_first();
            let Some(held) = self.held.get_mut(&address) else { continue };
            held.next = None;
            match held.standing {
                Standing::Probing if held.probes < PROBES => {
                    held.probes += 1;
                    self.send_probe(address, effects);
                    self.due(address, Some(now + PROBE_EVERY));
                }
                Standing::Probing => self.announce(now, address, effects),
                Standing::Announcing if held.is_telling => {
                    let next = now + BURST_EVERY;
                    held.is_telling = next <= held.burst;
                    let more = held.is_telling;
                    self.send_gratuitous(address, effects);
                    self.due(address, more.then_some(next));
                    if !self.known {
                        self.ask_later(now, address);
                    }
                }
                Standing::Announcing if !self.known => {
                    self.send_probe(address, effects);
                    self.ask_later(now, address);
                }
                Standing::Refused { .. } if self.own.contains(&address) => self.due(address, Some(now + REFUSED_FOR)),
                Standing::Refused { .. } => self.probe(now, address, effects),
                // Perhaps the other one is gone.
                Standing::Yielded { .. } if !self.known && held.probes < PROBES => {
                    held.probes += 1;
                    self.send_probe(address, effects);
                    self.due(address, Some(now + PROBE_EVERY));
                }
                Standing::Yielded { .. } if !self.known => self.announce(now, address, effects),
                Standing::Announcing | Standing::Waiting | Standing::Yielded { .. } => {}
            }
        }
    }

    fn send(
        &self,
        address: IpAddr,
        counted: Counted,
        effects: &mut Vec<Effect>,
        frames: impl Fn(&Interface) -> Vec<Vec<u8>>,
    ) {
        let Some(held) = self.held.get(&address) else { return };
        for interface in held.on.iter().filter_map(|index| self.interfaces.get(index)) {
            for frame in frames(interface) {
                effects.push(Effect::Send { interface: interface.index, frame, address, counted });
            }
        }
    }

    fn send_probe(&self, address: IpAddr, effects: &mut Vec<Effect>) {
        self.send(address, Counted::Probe, effects, |interface| match address {
            IpAddr::V4(address) => vec![Arp::probe(interface.mac, address).render()],
            IpAddr::V6(address) => vec![Solicitation::probe(interface.mac, address).render()],
        });
    }

    fn send_gratuitous(&self, address: IpAddr, effects: &mut Vec<Effect>) {
        self.send(address, Counted::Gratuitous, effects, |interface| match (address, interface.link_local) {
            (IpAddr::V4(address), _) => Arp::gratuitous(interface.mac, address).map(|frame| frame.render()).into(),
            (IpAddr::V6(address), Some(from)) => {
                vec![Advertisement::unsolicited(interface.mac, from, address).render()]
            }
            (IpAddr::V6(_), None) => Vec::new(),
        });
    }

    fn hear(&mut self, now: Instant, index: u32, bytes: &[u8], effects: &mut Vec<Effect>) {
        // What cannot be read is nobody's question.
        let Ok(frame) = Frame::parse(bytes) else { return };
        match frame {
            Frame::Arp(arp) => self.hear_arp(now, index, &arp, effects),
            Frame::Neighbour(Neighbour::Solicitation(asked)) => self.hear_solicitation(now, index, &asked, effects),
            Frame::Neighbour(Neighbour::Advertisement(said)) => {
                let owner = said.owner.unwrap_or(said.source);
                self.hear_claim(now, index, said.target.into(), owner, effects);
            }
        }
    }

    fn hear_arp(&mut self, now: Instant, index: u32, arp: &Arp, effects: &mut Vec<Effect>) {
        self.hear_claim(now, index, arp.sender_ip.into(), arp.sender, effects);
        let address = IpAddr::from(arp.target_ip);
        let Some((interface, standing)) = self.here(index, address) else { return };
        if arp.operation != Operation::Request || self.own_macs.contains(&arp.sender) {
            return;
        }
        if *standing == Standing::Probing && arp.sender_ip.is_unspecified() {
            // Somebody wants it just now, too.
            self.hear_claim(now, index, address, arp.sender, effects);
            return;
        }
        let for_us = arp.destination == Mac::BROADCAST || arp.destination == interface.mac;
        let is_claim = arp.sender_ip == arp.target_ip;
        if *standing == Standing::Announcing && for_us && !is_claim && arp.sender.is_unicast() {
            let frame = arp.answer(interface.mac).render();
            effects.push(Effect::Report { address, report: Report::Requested });
            effects.push(Effect::Send { interface: index, frame, address, counted: Counted::Answer });
        }
    }

    fn hear_solicitation(&mut self, now: Instant, index: u32, asked: &Solicitation, effects: &mut Vec<Effect>) {
        let address = IpAddr::from(asked.target);
        let Some((interface, standing)) = self.here(index, address) else { return };
        if self.own_macs.contains(&asked.source) {
            return;
        }
        if *standing == Standing::Probing && asked.from.is_unspecified() {
            self.hear_claim(now, index, address, asked.source, effects);
            return;
        }
        let for_us = !asked.destination.is_unicast() || asked.destination == interface.mac;
        let answer = interface.link_local.and_then(|from| asked.answer(interface.mac, from));
        if let (Standing::Announcing, true, Some(answer)) = (standing, for_us, answer) {
            let frame = answer.render();
            effects.push(Effect::Report { address, report: Report::Requested });
            effects.push(Effect::Send { interface: index, frame, address, counted: Counted::Answer });
        }
    }

    /// The interface and the standing of an address that is announced there.
    fn here(&self, index: u32, address: IpAddr) -> Option<(&Interface, &Standing)> {
        let held = self.held.get(&address).filter(|held| held.on.contains(&index))?;
        Some((self.interfaces.get(&index)?, &held.standing))
    }

    /// Somebody says that it has an address.
    fn hear_claim(&mut self, now: Instant, index: u32, address: IpAddr, by: Mac, effects: &mut Vec<Effect>) {
        let Some((interface, standing)) = self.here(index, address) else { return };
        if self.own_macs.contains(&by) {
            return;
        }
        let (name, is_member) = (interface.name.clone(), self.members.contains(&by));
        match standing {
            // One of us still answers, and will hear of the election.
            Standing::Probing if is_member => {}
            Standing::Probing => self.refuse(now, address, name, by, effects),
            Standing::Announcing if is_member && !self.known => {
                self.stand(address, Standing::Yielded { to: by }, effects);
                self.stay_silent(now, address);
            }
            Standing::Announcing => {
                let Some(held) = self.held.get_mut(&address) else { return };
                if !is_member && now < held.unsure {
                    self.refuse(now, address, name, by, effects);
                } else if now >= held.defend {
                    held.defend = now + DEFEND_EVERY;
                    if is_member {
                        // Most likely it was elected, and this node has not heard of it yet.
                        (held.is_telling, held.burst) = (true, now + BURST_EVERY + BURST);
                        self.due(address, Some(now + BURST_EVERY));
                    } else {
                        effects.push(Effect::Report { address, report: Report::Contested { interface: name, by } });
                        self.burst(now, address);
                    }
                }
            }
            Standing::Yielded { .. } if !self.known => self.stay_silent(now, address),
            Standing::Waiting | Standing::Refused { .. } | Standing::Yielded { .. } => {}
        }
    }
}
