//! What any bytes of a peer may do to a session: change its state, and nothing else.

use std::time::Duration;

use crate::config::Profile;
use crate::packet::Control;
use crate::session::{Effect, Event, Session};

/// The input is cut into packets by its first byte; a promise that is broken panics.
///
/// # Panics
/// When a packet is not read as it was written, or one of a peer asks for more than a few answers.
pub fn fuzz(bytes: &[u8]) {
    let Some((length, bytes)) = bytes.split_first() else { return };
    let profile = Profile { echo_interval: Some(Duration::from_millis(50)), ..Profile::default() };
    let mut now = Duration::from_secs(1);
    let mut session = Session::new(now, profile, 1, 1);
    for packet in bytes.chunks(usize::from(*length).max(1)) {
        now += Duration::from_millis(100);
        let event = match Control::parse(packet) {
            Ok(control) => {
                assert_eq!(Control::parse(&control.render()), Ok(control), "a packet is not read as it was written");
                Event::Received { control, ttl: 255 }
            }
            Err(_) => Event::EchoReceived(packet),
        };
        let effects = session.step(now, event);
        assert!(effects.len() < 8, "one packet, and {} effects", effects.len());
        for effect in effects {
            if let Effect::Send(control) = effect {
                assert_eq!(Control::parse(&control.render()), Ok(control), "a packet of ours is not good");
            }
        }
        assert!(session.deadline().is_none_or(|deadline| deadline >= now), "a deadline that is over is not taken");
    }
}
