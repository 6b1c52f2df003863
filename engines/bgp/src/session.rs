//! The session with one peer: states of RFC 4271 section 8, with connections that may collide.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::backoff::{self, Random};
use crate::config::PeerConfig;
use crate::connection::{Connection, Established, Stage};
use crate::effect::Effect;
use crate::error::{Down, Notification};
use crate::event::{ConnectionId, Ends, Event, Stop};
use crate::rib::Rib;
use crate::state::{Counters, Negotiated, State, Status};
use crate::types::{Families, Family, Route};
use crate::wire::frame::{self, Kind};
use crate::wire::open::{self, Open};
use crate::wire::render::{self, Manner, NextHop};
use crate::wire::update;

/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long the peer's OPEN may take; RFC 4271 suggests 4 minutes, in which nothing else would be tried.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);
/// How long a peer may read nothing, unless twice the hold time is longer. RFC 9687 section 5.
const SEND_PATIENCE: Duration = Duration::from_secs(480);
/// A session that lasted less than this does not end the waiting before attempts.
const STEADY: Duration = Duration::from_secs(10);
/// UPDATEs are made while fewer bytes than these wait: a peer that reads slowly costs no memory.
const WINDOW: usize = 64 << 10;

/// A session that announces and learns nothing.
#[derive(Debug)]
pub struct Session {
    config: PeerConfig,
    rib: Rib,
    random: Random,
    /// At most three: one that is established, one outgoing, one incoming.
    connections: Vec<Connection>,
    serial: u64,
    /// When to connect; `None` while a connection is under way, and at the end.
    connect_at: Option<Duration>,
    failures: u32,
    /// This speaker has not had a session with the peer yet: its routes may still be known there.
    restarting: bool,
    stopped: bool,
    last_down: Option<String>,
    counters: Counters,
    effects: Vec<Effect>,
}

impl Session {
    /// Connects at the first step. `seed`: different for each session, for jitter.
    pub fn new(now: Duration, config: PeerConfig, seed: u64) -> Self {
        Self {
            config,
            rib: Rib::default(),
            random: Random::new(seed),
            connections: Vec::new(),
            serial: 0,
            connect_at: Some(now),
            failures: 0,
            restarting: true,
            stopped: false,
            last_down: None,
            counters: Counters::default(),
            effects: Vec::new(),
        }
    }

    pub fn config(&self) -> &PeerConfig {
        &self.config
    }

    /// When the next step is due, whatever happens until then.
    pub fn deadline(&self) -> Option<Duration> {
        self.connections.iter().filter_map(Connection::deadline).chain(self.connect_at).min()
    }

    pub fn status(&self) -> Status {
        let state = self.connections.iter().map(Connection::state).max();
        let idle = if self.stopped { State::Idle } else { State::Active };
        let established = self.connections.iter().find_map(Connection::established);
        Status {
            state: state.unwrap_or(idle),
            since: established.map(|established| established.since),
            negotiated: established.map(|established| established.negotiated.clone()),
            announced: self.rib.told(),
            pending: self.rib.pending(),
            last_down: self.last_down.clone(),
            counters: self.counters,
        }
    }

    /// Takes an event, and whatever is due by now.
    pub fn step(&mut self, now: Duration, event: Event<'_>) -> Vec<Effect> {
        match event {
            Event::Configure(config) => self.configure(now, *config),
            Event::Routes(changes) => self.set_routes(changes),
            Event::Connected { connection, ends } => self.connected(now, connection, ends),
            Event::Unreached { connection, cause } => self.drop_connection(now, connection, Down::Unreached(cause)),
            Event::Accepted { connection, ends } => self.accepted(now, connection, ends),
            Event::Received { connection, bytes } => self.received(now, connection, bytes),
            Event::Sent { connection, bytes } => self.sent(now, connection, bytes),
            Event::Closed { connection, cause } => self.drop_connection(now, connection, Down::Closed(cause)),
            Event::BfdDown => self.reset(now, &Notification::new(6, 10)),
            Event::Timer => {}
            Event::Stop(stop) => self.stop(now, stop),
        }
        self.expire(now);
        self.tell_routes(now);
        std::mem::take(&mut self.effects)
    }

    fn position(&self, id: ConnectionId) -> Option<usize> {
        self.connections.iter().position(|connection| connection.id == id)
    }

    pub(crate) fn input_lengths(&self) -> impl Iterator<Item = usize> {
        self.connections.iter().map(|connection| connection.input.len())
    }

    fn established(&self) -> Option<&Connection> {
        self.connections.iter().find(|connection| connection.established().is_some())
    }

    fn configure(&mut self, now: Duration, config: PeerConfig) {
        let keeps = self.config.keeps_session(&config);
        self.config = config;
        if keeps || self.stopped {
            return;
        }
        self.reset(now, &Notification::new(6, 6));
        self.failures = 0;
        self.connect_at = Some(now);
    }

    fn set_routes(&mut self, changes: Vec<(IpNet, Option<Arc<Route>>)>) {
        if self.stopped {
            return;
        }
        for (prefix, route) in changes {
            self.rib.set(prefix, route);
        }
    }

    /// Ends all connections with this word.
    fn reset(&mut self, now: Duration, word: &Notification) {
        while let Some(connection) = self.connections.first() {
            let id = connection.id;
            self.refuse(now, id, word.clone());
        }
    }

    fn stop(&mut self, now: Duration, stop: Stop) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        let kept = self.established().and_then(Connection::established);
        let kept = kept.is_some_and(|established| established.negotiated.restart_time.is_some());
        if stop == Stop::Restart && kept {
            while let Some(connection) = self.connections.first() {
                let id = connection.id;
                self.drop_connection(now, id, Down::Restarting);
            }
        } else {
            self.withdraw_all(now);
            self.reset(now, &Notification::new(6, if stop == Stop::Deconfigured { 3 } else { 2 }));
        }
        self.connect_at = None;
    }

    /// All of it at once: nothing may be left over.
    fn withdraw_all(&mut self, now: Duration) {
        self.rib.clear();
        let Some((id, manner)) = self.open_for_routes() else { return };
        while let Some(message) = self.rib.next_update(&manner) {
            self.counters.updates_sent += 1;
            self.send(now, id, message);
        }
    }

    fn accepted(&mut self, now: Duration, id: ConnectionId, ends: Ends) {
        if self.stopped {
            self.effects.push(Effect::Close { connection: id });
            return;
        }
        // RFC 4724 section 4.2: who restarts does not close the connection before.
        let restarts = |connection: &&Connection| {
            connection.established().is_some_and(|established| established.negotiated.restart_time.is_some())
        };
        if let Some(old) = self.connections.iter().find(restarts).map(|connection| connection.id) {
            self.drop_connection(now, old, Down::PeerRestarted);
        }
        // Of several that the peer opens the last counts: it knows which are still there.
        let pending = |connection: &&Connection| connection.id.incoming && connection.established().is_none();
        if let Some(old) = self.connections.iter().find(pending).map(|connection| connection.id) {
            self.refuse(now, old, Notification::new(6, 7));
        }
        self.connections.push(Connection::new(id, Stage::OpenSent(ends), now + OPEN_PATIENCE));
        self.send_open(now, id);
    }

    fn connected(&mut self, now: Duration, id: ConnectionId, ends: Ends) {
        let Some(position) = self.position(id) else {
            self.effects.push(Effect::Close { connection: id });
            return;
        };
        let connection = &mut self.connections[position];
        if !matches!(connection.stage, Stage::Connecting) {
            return;
        }
        connection.stage = Stage::OpenSent(ends);
        connection.hold_until = Some(now + OPEN_PATIENCE);
        self.send_open(now, id);
    }

    fn send_open(&mut self, now: Duration, id: ConnectionId) {
        self.counters.opens_sent += 1;
        let open = open::render(&self.config, self.restarting);
        self.send(now, id, open);
    }

    fn send(&mut self, now: Duration, id: ConnectionId, bytes: Vec<u8>) {
        let Some(position) = self.position(id) else { return };
        let connection = &mut self.connections[position];
        let patience = SEND_PATIENCE.max(2 * Duration::from_secs(self.config.hold.into()));
        connection.send_until.get_or_insert(now + patience);
        connection.unsent += bytes.len();
        self.effects.push(Effect::Send { connection: id, bytes });
    }

    fn sent(&mut self, now: Duration, id: ConnectionId, bytes: usize) {
        let Some(position) = self.position(id) else { return };
        let connection = &mut self.connections[position];
        connection.unsent = connection.unsent.saturating_sub(bytes);
        let patience = SEND_PATIENCE.max(2 * Duration::from_secs(self.config.hold.into()));
        connection.send_until = (connection.unsent > 0).then_some(now + patience);
    }

    /// Says why, and closes.
    fn refuse(&mut self, now: Duration, id: ConnectionId, word: Notification) {
        let Some(position) = self.position(id) else { return };
        if !matches!(self.connections[position].stage, Stage::Connecting) {
            self.counters.notifications_sent += 1;
            self.send(now, id, frame::notification(&word));
        }
        self.drop_connection(now, id, Down::Sent(word));
    }

    /// Closes without a word.
    fn drop_connection(&mut self, now: Duration, id: ConnectionId, why: Down) {
        let Some(position) = self.position(id) else { return };
        let connection = self.connections.remove(position);
        self.effects.push(Effect::Close { connection: id });
        self.last_down = Some(why.to_string());
        if let Some(established) = connection.established() {
            if now.saturating_sub(established.since) >= STEADY {
                self.failures = 0;
            }
            self.rib.restart(Families::default());
            self.effects.push(Effect::Down(why));
        } else {
            self.effects.push(Effect::Failed(why));
        }
        if self.connections.is_empty() && !self.stopped {
            let wait = match self.config.connect_retry {
                Some(time) if self.failures > 0 => time,
                _ => backoff::after(self.failures),
            };
            self.failures = self.failures.saturating_add(1);
            self.connect_at = Some(now + self.random.jitter(wait));
        }
    }

    fn received(&mut self, now: Duration, id: ConnectionId, bytes: &[u8]) {
        let Some(position) = self.position(id) else { return };
        let mut input = std::mem::take(&mut self.connections[position].input);
        input.extend_from_slice(bytes);
        let mut start = 0;
        let result = loop {
            match frame::header(&input[start..]) {
                Ok(Some((kind, length))) if input.len() - start >= length => {
                    let body = &input[start + frame::HEADER..start + length];
                    start += length;
                    if let Err(word) = self.message(now, id, kind, body) {
                        break Err(word);
                    }
                    // It may have ended the connection.
                    if self.position(id).is_none() {
                        return;
                    }
                }
                Ok(_) => break Ok(()),
                Err(word) => break Err(word),
            }
        };
        match result {
            Ok(()) => {
                input.drain(..start);
                if let Some(position) = self.position(id) {
                    self.connections[position].input = input;
                }
            }
            Err(word) => self.refuse(now, id, word),
        }
    }

    fn message(&mut self, now: Duration, id: ConnectionId, kind: Kind, body: &[u8]) -> Result<(), Notification> {
        match kind {
            Kind::Open => self.counters.opens_received += 1,
            Kind::Update => self.counters.updates_received += 1,
            Kind::Notification => self.counters.notifications_received += 1,
            Kind::Keepalive => self.counters.keepalives_received += 1,
            Kind::RouteRefresh => self.counters.route_refreshes_received += 1,
        }
        if kind == Kind::Notification {
            let word = frame::parse_notification(body);
            self.drop_connection(now, id, Down::Received(word));
            return Ok(());
        }
        let Some(position) = self.position(id) else { return Ok(()) };
        let connection = &mut self.connections[position];
        let unexpected = |subcode| Err(Notification::with(5, subcode, [kind.code()]));
        match (&connection.stage, kind) {
            (Stage::OpenSent(_), Kind::Open) => {
                let open = open::parse(body, &self.config)?;
                self.opened(now, id, open)
            }
            (Stage::OpenSent(_) | Stage::Connecting, _) => unexpected(1),
            (Stage::OpenConfirm(..), Kind::Keepalive) => {
                self.establish(now, id);
                Ok(())
            }
            (Stage::OpenConfirm(..), _) => unexpected(2),
            (Stage::Established(established), Kind::Keepalive | Kind::Update | Kind::RouteRefresh) => {
                let hold = established.negotiated.hold;
                if kind == Kind::Update {
                    let Negotiated { four_octet, internal, .. } = established.negotiated;
                    update::check(body, update::Manner { four_octet, internal })?;
                }
                let refresh = established.route_refresh && kind == Kind::RouteRefresh;
                connection.hold_until = (hold != 0).then(|| now + Duration::from_secs(hold.into()));
                if refresh && let [0, afi, _, 1, ..] = body {
                    match afi {
                        1 => self.rib.refresh(Family::Ipv4),
                        2 => self.rib.refresh(Family::Ipv6),
                        _ => {}
                    }
                }
                Ok(())
            }
            (Stage::Established(_), _) => unexpected(3),
        }
    }

    /// The peer's OPEN is good: which connection stays? RFC 4271 section 6.8.
    fn opened(&mut self, now: Duration, id: ConnectionId, open: Open) -> Result<(), Notification> {
        let collision = || Notification::new(6, 7);
        let other = self.connections.iter().find(|other| other.id != id && other.state() >= State::OpenConfirm);
        if let Some(other) = other {
            // Equal identifiers are of different autonomous systems. RFC 6286 section 2.3.
            let ours = (self.config.router_id, self.config.local_asn);
            let keep_incoming = ours < (open.id, open.asn);
            if other.established().is_some() || id.incoming != keep_incoming {
                return Err(collision());
            }
            let other = other.id;
            self.refuse(now, other, collision());
        }
        let hold = open.hold.min(self.config.hold);
        let Some(position) = self.position(id) else { return Ok(()) };
        let connection = &mut self.connections[position];
        let Stage::OpenSent(ends) = connection.stage else { return Ok(()) };
        connection.stage = Stage::OpenConfirm(ends, Box::new(open));
        connection.hold_until = (hold != 0).then(|| now + Duration::from_secs(hold.into()));
        self.send_keepalive(now, id, hold);
        Ok(())
    }

    fn send_keepalive(&mut self, now: Duration, id: ConnectionId, hold: u16) {
        self.counters.keepalives_sent += 1;
        self.send(now, id, frame::message(Kind::Keepalive, &[]));
        let third = Duration::from_secs(hold.into()) / 3;
        let interval = match self.config.keepalive {
            Some(seconds) if seconds > 0 => third.min(Duration::from_secs(seconds.into())),
            _ => third,
        };
        let next = (hold != 0).then(|| now + self.random.jitter(interval));
        if let Some(position) = self.position(id) {
            self.connections[position].keepalive_at = next;
        }
    }

    fn establish(&mut self, now: Duration, id: ConnectionId) {
        // Others that are not so far lost.
        let others: Vec<ConnectionId> =
            self.connections.iter().map(|other| other.id).filter(|other| *other != id).collect();
        for other in others {
            self.refuse(now, other, Notification::new(6, 7));
        }
        let Some(position) = self.position(id) else { return };
        let Stage::OpenConfirm(ends, open) = &self.connections[position].stage else { return };
        let established = self.negotiate(now, ends, open);
        let hold = established.negotiated.hold;
        self.rib.restart(established.negotiated.families);
        self.effects.push(Effect::Up(Box::new(established.negotiated.clone())));
        let connection = &mut self.connections[position];
        connection.stage = Stage::Established(Box::new(established));
        connection.hold_until = (hold != 0).then(|| now + Duration::from_secs(hold.into()));
        (self.connect_at, self.restarting) = (None, false);
    }

    fn negotiate(&self, now: Duration, ends: &Ends, open: &Open) -> Established {
        let internal = open.asn == self.config.local_asn;
        let next_hops = next_hops(ends, open.extended_next_hop);
        let agreed = open.families.and(self.config.families);
        let families = agreed.and(Families { ipv4: next_hops.0.is_some(), ipv6: next_hops.1.is_some() });
        let manner = Manner {
            local_asn: self.config.local_asn,
            internal,
            four_octet: open.four_octet,
            ipv4: next_hops.0,
            ipv6: next_hops.1,
        };
        let negotiated = Negotiated {
            peer_asn: open.asn,
            peer_id: open.id,
            hold: open.hold.min(self.config.hold),
            families,
            internal,
            four_octet: open.four_octet,
            extended_next_hop: matches!(next_hops.0, Some(NextHop::Ipv6(..))),
            restart_time: self.config.graceful_restart.filter(|_| open.restart_time.is_some()),
        };
        Established { negotiated, manner, since: now, route_refresh: open.route_refresh, told_all: false }
    }

    /// What is due by now.
    fn expire(&mut self, now: Duration) {
        let due = |time: Option<Duration>| time.is_some_and(|time| time <= now);
        let ids: Vec<ConnectionId> = self.connections.iter().map(|connection| connection.id).collect();
        for id in ids {
            let Some(position) = self.position(id) else { continue };
            let connection = &self.connections[position];
            if due(connection.hold_until) {
                match connection.stage {
                    Stage::Connecting => self.drop_connection(now, id, Down::ConnectTimeout),
                    _ => self.refuse(now, id, Notification::new(4, 0)),
                }
            } else if due(connection.send_until) {
                // What waits is never read, but the log and the state say why.
                self.refuse(now, id, Notification::new(8, 0));
            } else if due(connection.keepalive_at) {
                let hold = match &connection.stage {
                    Stage::OpenConfirm(_, open) => open.hold.min(self.config.hold),
                    Stage::Established(established) => established.negotiated.hold,
                    _ => 0,
                };
                self.send_keepalive(now, id, hold);
            }
        }
        if due(self.connect_at) && !self.stopped {
            self.connect_at = None;
            if self.connections.iter().all(|connection| connection.id.incoming && connection.established().is_none()) {
                self.serial += 1;
                let connection = ConnectionId { incoming: false, serial: self.serial };
                self.connections.push(Connection::new(connection, Stage::Connecting, now + CONNECT_PATIENCE));
                self.effects.push(Effect::Connect { connection, transport: self.config.transport.clone() });
            }
        }
    }

    fn open_for_routes(&self) -> Option<(ConnectionId, Manner)> {
        let connection = self.established()?;
        Some((connection.id, connection.established()?.manner))
    }

    /// UPDATEs while there is room, then End-of-RIB once.
    fn tell_routes(&mut self, now: Duration) {
        let Some((id, manner)) = self.open_for_routes() else { return };
        let Some(position) = self.position(id) else { return };
        let mut bytes = Vec::new();
        while self.connections[position].unsent + bytes.len() < WINDOW {
            let Some(message) = self.rib.next_update(&manner) else { break };
            self.counters.updates_sent += 1;
            bytes.extend_from_slice(&message);
        }
        if self.rib.pending() == 0
            && let Stage::Established(established) = &mut self.connections[position].stage
            && !std::mem::replace(&mut established.told_all, true)
        {
            for family in established.negotiated.families.iter() {
                self.counters.updates_sent += 1;
                bytes.extend_from_slice(&render::end_of_rib(family));
            }
        }
        if !bytes.is_empty() {
            self.send(now, id, bytes);
        }
    }
}

/// Next hops of both families: our end, or another address of its interface.
fn next_hops(ends: &Ends, extended: bool) -> (Option<NextHop>, Option<NextHop>) {
    use std::net::IpAddr;
    match ends.local.ip().to_canonical() {
        IpAddr::V4(address) => {
            let ipv6 = ends.ipv6.map(|address| NextHop::Ipv6(address, None));
            (Some(NextHop::Ipv4(address)), ipv6)
        }
        IpAddr::V6(address) => {
            let ipv6 = if address.is_unicast_link_local() {
                match ends.ipv6 {
                    Some(global) => NextHop::Ipv6(global, Some(address)),
                    // What RFC 2545 does not foresee, and everybody takes: the link-local address in both places.
                    None => NextHop::Ipv6(address, Some(address)),
                }
            } else {
                NextHop::Ipv6(address, ends.link_local)
            };
            let ipv4 = if extended { Some(ipv6) } else { ends.ipv4.map(NextHop::Ipv4) };
            (ipv4, Some(ipv6))
        }
    }
}
