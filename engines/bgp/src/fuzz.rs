//! What any bytes of a peer may do: end the session, and nothing else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::config::{PeerAsn, PeerConfig, Transport};
use crate::effect::Effect;
use crate::event::{ConnectionId, Ends, Event};
use crate::session::Session;
use crate::types::{Asn, Families, Route};
use crate::wire::frame;

/// The first byte says after which state the others come, and how they are cut; a promise that is broken panics.
///
/// # Panics
/// When what we send is no message, or bytes of the peer pile up.
pub fn fuzz(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let now = Duration::from_secs(1);
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let config = PeerConfig {
        local_asn: Asn(64_512),
        peer_asn: if choice & 4 == 0 { PeerAsn::External } else { PeerAsn::Internal },
        router_id: Ipv4Addr::new(192, 0, 2, 2),
        families: Families::BOTH,
        hold: 90,
        keepalive: None,
        connect_retry: None,
        graceful_restart: Some(120),
        transport: Transport { address, scope: 0, port: 179, source: None, password: None, ttl: None },
    };
    let mut session = Session::new(now, config, 1);
    let route = std::sync::Arc::new(Route::default());
    let mut sent = Vec::new();
    let mut collect = |effects: Vec<Effect>| {
        for effect in effects {
            if let Effect::Send { bytes, .. } = effect {
                sent.extend(bytes);
            }
        }
    };
    collect(session.step(now, Event::Routes(vec![("198.51.100.1/32".parse().expect("a prefix"), Some(route))])));
    let connection = ConnectionId { incoming: false, serial: 1 };
    let ends = Ends {
        local: SocketAddr::new(Ipv4Addr::new(192, 0, 2, 2).into(), 40_000),
        remote: SocketAddr::new(address, 179),
        ipv4: None,
        ipv6: None,
        link_local: None,
    };
    collect(session.step(now, Event::Connected { connection, ends }));
    let asn = if choice & 4 == 0 { [0xfb, 0xff] } else { [0xfc, 0x00] };
    let open = [&[4], &asn[..], &[0, 90, 192, 0, 2, 1, 0]].concat();
    let stages = [frame::message(frame::Kind::Open, &open), frame::message(frame::Kind::Keepalive, &[])];
    for stage in stages.iter().take(usize::from(choice & 3)) {
        collect(session.step(now, Event::Received { connection, bytes: stage }));
    }
    for piece in bytes.chunks(if choice & 8 == 0 { 4096 } else { 7 }) {
        collect(session.step(now, Event::Received { connection, bytes: piece }));
        assert!(session.waiting_input() < frame::MAX, "bytes of a peer pile up");
    }
    let mut rest = &sent[..];
    while !rest.is_empty() {
        let header = frame::header(rest).expect("what is sent has a good header");
        let (_, length) = header.expect("what is sent has a whole header");
        rest = rest.get(length..).expect("what is sent is whole");
    }
}

impl Session {
    fn waiting_input(&self) -> usize {
        self.input_lengths().max().unwrap_or(0)
    }
}
