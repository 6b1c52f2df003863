//! What holds for any bytes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::frame::{Frame, Mac, Neighbour};
use crate::{Effect, Event, Interface, Interfaces, L2, Wanted};

/// Any frame is read without a panic; what was read survives the way back to bytes; and a node that announces answers
/// with frames that can be read, not more than were heard or its announcements need.
///
/// # Panics
/// When one of these does not hold.
#[expect(clippy::disallowed_methods, reason = "any time is as good as another")]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(frame) = Frame::parse(bytes) {
        let written = match frame {
            Frame::Arp(arp) => arp.render(),
            Frame::Neighbour(Neighbour::Solicitation(message)) => message.render(),
            Frame::Neighbour(Neighbour::Advertisement(message)) => message.render(),
        };
        assert_eq!(Frame::parse(&written), Ok(frame));
    }
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let heard = [Interface {
        index: 1,
        name: "eth0".into(),
        mac,
        arp: true,
        link_local: Some("fe80::1".parse().expect("it is one")),
    }];
    let addresses: [IpAddr; 2] = [[192, 0, 2, 7].into(), "2001:db8::7".parse().expect("it is one")];
    let wanted = addresses.map(|address| Wanted { address, interfaces: Interfaces::All, takeover: true });
    let mut now = Instant::now();
    let mut engine = L2::new();
    engine.step(now, Event::Interfaces { heard: &heard, own: &[] });
    engine.step(now, Event::Wanted(&wanted));
    for _ in 0..3 {
        for effect in engine.step(now, Event::Frame { interface: 1, bytes }) {
            if let Effect::Send { frame, .. } = effect {
                assert!(Frame::parse(&frame).is_ok(), "{frame:02x?}");
            }
        }
        now += Duration::from_secs(40);
        engine.step(now, Event::Tick);
    }
}
