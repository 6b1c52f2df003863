//! A peer made of bytes, and a session that is led through its states.

#![allow(dead_code, reason = "each test file takes what it needs")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use headwater_bgp::{
    Asn, ConnectionId, Effect, Ends, Event, Families, PeerAsn, PeerConfig, Route, Session, State, Transport,
};

pub(crate) const LOCAL_ID: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const OUT: ConnectionId = ConnectionId { incoming: false, serial: 1 };
pub(crate) const IN: ConnectionId = ConnectionId { incoming: true, serial: 1 };

pub(crate) fn config() -> PeerConfig {
    PeerConfig {
        local_asn: Asn(64512),
        peer_asn: PeerAsn::Exactly(Asn(64513)),
        router_id: LOCAL_ID,
        families: Families::BOTH,
        hold: 90,
        keepalive: None,
        connect_retry: None,
        graceful_restart: None,
        transport: Transport {
            address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            scope: 0,
            port: 179,
            source: None,
            password: None,
            ttl: Some(1),
        },
    }
}

pub(crate) fn internal() -> PeerConfig {
    PeerConfig { peer_asn: PeerAsn::Internal, ..config() }
}

pub(crate) fn ends() -> Ends {
    Ends {
        local: SocketAddr::new(LOCAL_ID.into(), 40_000),
        remote: "192.0.2.1:179".parse().unwrap(),
        ipv4: None,
        ipv6: Some("2001:db8::2".parse().unwrap()),
        link_local: None,
    }
}

pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap();
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

pub(crate) fn capability(code: u8, value: &[u8]) -> Vec<u8> {
    [&[code, value.len() as u8], value].concat()
}

pub(crate) const IPV4: [u8; 6] = [1, 4, 0, 1, 0, 1];
pub(crate) const IPV6: [u8; 6] = [1, 4, 0, 2, 0, 1];

pub(crate) struct Open {
    pub(crate) version: u8,
    pub(crate) asn: u32,
    pub(crate) hold: u16,
    pub(crate) id: [u8; 4],
    pub(crate) capabilities: Vec<u8>,
}

impl Default for Open {
    fn default() -> Self {
        Self { version: 4, asn: 64513, hold: 90, id: [192, 0, 2, 1], capabilities: [IPV4, IPV6].concat() }
    }
}

impl Open {
    pub(crate) fn body(&self) -> Vec<u8> {
        let asn = u16::try_from(self.asn).unwrap_or(23456);
        let capabilities = [&self.capabilities[..], &capability(65, &self.asn.to_be_bytes())].concat();
        let mut body = vec![self.version];
        body.extend(asn.to_be_bytes());
        body.extend(self.hold.to_be_bytes());
        body.extend(self.id);
        body.extend([capabilities.len() as u8 + 2, 2, capabilities.len() as u8]);
        body.extend(capabilities);
        body
    }

    pub(crate) fn message(&self) -> Vec<u8> {
        message(1, &self.body())
    }
}

pub(crate) fn keepalive() -> Vec<u8> {
    message(4, &[])
}

/// Messages that a session sent: type and body.
pub(crate) fn messages(effects: &[Effect], id: ConnectionId) -> Vec<(u8, Vec<u8>)> {
    let mut bytes = Vec::new();
    for effect in effects {
        match effect {
            Effect::Send { connection, bytes: more } if *connection == id => bytes.extend_from_slice(more),
            _ => {}
        }
    }
    let mut rest = &bytes[..];
    let mut messages = Vec::new();
    while !rest.is_empty() {
        assert_eq!(rest[..16], [0xff; 16]);
        let length = usize::from(u16::from_be_bytes([rest[16], rest[17]]));
        assert!(length <= 4096);
        messages.push((rest[18], rest[19..length].to_vec()));
        rest = &rest[length..];
    }
    messages
}

/// Code and subcode of the NOTIFICATION that was sent, and its data.
pub(crate) fn notification(effects: &[Effect], id: ConnectionId) -> Option<(u8, u8, Vec<u8>)> {
    let (_, body) = messages(effects, id).into_iter().find(|(kind, _)| *kind == 3)?;
    Some((body[0], body[1], body[2..].to_vec()))
}

pub(crate) fn closed(effects: &[Effect], id: ConnectionId) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Close { connection } if *connection == id))
}

/// A session and its clock.
pub(crate) struct Led {
    pub(crate) session: Session,
    pub(crate) now: Duration,
}

impl Led {
    pub(crate) fn new(config: PeerConfig) -> Self {
        let now = Duration::from_secs(1000);
        let mut led = Self { session: Session::new(now, config, 7), now };
        let effects = led.step(Event::Timer);
        assert!(matches!(effects[..], [Effect::Connect { connection: OUT, .. }]), "{effects:?}");
        led
    }

    pub(crate) fn step(&mut self, event: Event<'_>) -> Vec<Effect> {
        self.session.step(self.now, event)
    }

    pub(crate) fn receive(&mut self, connection: ConnectionId, bytes: &[u8]) -> Vec<Effect> {
        self.step(Event::Received { connection, bytes })
    }

    pub(crate) fn connect(&mut self) -> Vec<Effect> {
        self.step(Event::Connected { connection: OUT, ends: ends() })
    }

    pub(crate) fn state(&self) -> State {
        self.session.status().state
    }

    /// Led to the state; what came of the last step.
    pub(crate) fn to(&mut self, state: State, open: &Open) -> Vec<Effect> {
        let mut effects = self.connect();
        if state >= State::OpenConfirm {
            effects = self.receive(OUT, &open.message());
        }
        if state >= State::Established {
            effects = self.receive(OUT, &keepalive());
        }
        assert_eq!(self.state(), state);
        effects
    }

    /// Time passes until the session has something to do.
    pub(crate) fn wait(&mut self) -> Vec<Effect> {
        self.now = self.session.deadline().unwrap().max(self.now);
        self.step(Event::Timer)
    }

    pub(crate) fn announce(&mut self, prefixes: &[&str], route: &Arc<Route>) -> Vec<Effect> {
        let changes = prefixes.iter().map(|prefix| (prefix.parse().unwrap(), Some(route.clone()))).collect();
        self.step(Event::Routes(changes))
    }

    pub(crate) fn withdraw(&mut self, prefixes: &[&str]) -> Vec<Effect> {
        let changes = prefixes.iter().map(|prefix| (prefix.parse().unwrap(), None)).collect();
        self.step(Event::Routes(changes))
    }
}
