//! Two sessions over a link that may lose packets, by a clock of their own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use headwater_bfd::{Control, Diagnostic, Effect, Event, PacketError, Profile, Session, State};

const MS: Duration = Duration::from_millis(1);

/// What happened to a side, and when.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Up,
    Down(Diagnostic),
}

/// A control packet, or the bytes of an echo, and when it arrives.
type OnTheWay = (Duration, Result<Control, Vec<u8>>);

struct Link {
    sides: [Session; 2],
    now: Duration,
    /// Packets on the way to each side.
    ways: [Vec<OnTheWay>; 2],
    seen: [Vec<(Duration, Seen)>; 2],
    /// Whether packets to the side are lost, control and echo.
    lost: [(bool, bool); 2],
    sent: [Vec<(Duration, Control)>; 2],
}

const DELAY: Duration = Duration::from_millis(1);

impl Link {
    fn new(a: Profile, b: Profile) -> Self {
        let now = Duration::from_secs(100);
        let sides = [Session::new(now, a, 11, 1), Session::new(now, b, 22, 2)];
        Self {
            sides,
            now,
            ways: Default::default(),
            seen: Default::default(),
            lost: [(false, false); 2],
            sent: Default::default(),
        }
    }

    fn take(&mut self, side: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(control) => {
                    self.sent[side].push((self.now, control));
                    if !self.lost[1 - side].0 {
                        self.ways[1 - side].push((self.now + DELAY, Ok(control)));
                    }
                }
                // There and back.
                Effect::SendEcho(bytes) if !self.lost[side].1 => {
                    assert_eq!(bytes.len(), 24, "FRR sends back nothing shorter");
                    self.ways[side].push((self.now + 2 * DELAY, Err(bytes)))
                }
                Effect::SendEcho(_) => {}
                Effect::Up => self.seen[side].push((self.now, Seen::Up)),
                Effect::Down(why) => self.seen[side].push((self.now, Seen::Down(why))),
                other => panic!("{other:?}"),
            }
        }
    }

    fn event(&mut self, side: usize, event: Event<'_>) {
        let effects = self.sides[side].step(self.now, event);
        self.take(side, effects);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrivals = self.ways.iter().flatten().map(|(at, _)| *at);
            let next = arrivals.chain(self.sides.iter().filter_map(Session::deadline)).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next;
            for side in 0..2 {
                let due: Vec<_> = self.ways[side].extract_if(.., |(at, _)| *at <= next).collect();
                for (_, packet) in due {
                    match packet {
                        Ok(control) => {
                            let control = Control::parse(&control.render()).unwrap();
                            self.event(side, Event::Received { control, ttl: 255 });
                        }
                        Err(bytes) => self.event(side, Event::EchoReceived(&bytes)),
                    }
                }
                self.event(side, Event::Timer);
            }
        }
        self.now = end;
    }

    fn states(&self) -> [State; 2] {
        [self.sides[0].status().state, self.sides[1].status().state]
    }

    fn downs(&self, side: usize) -> Vec<Diagnostic> {
        let downs = self.seen[side].iter().filter_map(|(_, seen)| match seen {
            Seen::Down(why) => Some(*why),
            Seen::Up => None,
        });
        downs.collect()
    }
}

fn up(a: Profile, b: Profile) -> Link {
    let mut link = Link::new(a, b);
    link.run(Duration::from_secs(5));
    assert_eq!(link.states(), [State::Up, State::Up]);
    assert_eq!(link.seen.clone().map(|seen| seen.len()), [1, 1]);
    link
}

#[test]
fn silence_is_noticed_within_a_second() {
    let mut link = up(Profile::default(), Profile::default());
    let last = link.now;
    link.lost[0].0 = true;
    link.run(Duration::from_secs(3));
    let (at, seen) = link.seen[0][1].clone();
    assert_eq!(seen, Seen::Down(Diagnostic::EXPIRED));
    let after = at - last;
    assert!((600 * MS..=900 * MS + DELAY).contains(&after), "{after:?}");
    assert_eq!(link.downs(1), [Diagnostic::NEIGHBOUR_DOWN], "the other side is told");
    link.lost[0].0 = false;
    link.run(Duration::from_secs(5));
    assert_eq!(link.states(), [State::Up, State::Up]);
}

#[test]
fn a_lost_packet_or_two_are_no_failure() {
    let mut link = up(Profile::default(), Profile::default());
    for _ in 0..20 {
        link.lost[0].0 = true;
        link.run(290 * MS);
        link.lost[0].0 = false;
        link.run(301 * MS);
    }
    assert_eq!(link.downs(0), []);
}

#[test]
fn packets_come_jittered_at_the_slower_of_what_both_want() {
    for (ours, theirs, interval) in [(300, 300, 300), (50, 300, 300), (300, 1000, 1000), (10, 10, 10)] {
        let a = Profile { transmit_interval: ours * MS, ..Profile::default() };
        let b = Profile { receive_interval: theirs * MS, ..Profile::default() };
        let mut link = up(a, b);
        link.sent[0].clear();
        link.run(Duration::from_secs(60));
        let gaps: Vec<Duration> = link.sent[0].windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        let bounds = interval * MS * 3 / 4..=interval * MS;
        assert!(gaps.iter().all(|gap| bounds.contains(gap)), "{ours} {theirs}: {gaps:?}");
        let spread = *gaps.iter().max().unwrap() - *gaps.iter().min().unwrap();
        assert!(spread > interval * MS / 8, "{spread:?}");
    }
}

#[test]
fn nobody_sends_fast_before_the_session_is_up() {
    let mut link = Link::new(Profile::default(), Profile::default());
    link.lost = [(true, true); 2];
    link.run(Duration::from_secs(30));
    assert!(link.sent[0].len() <= 41, "{} packets in 30 s", link.sent[0].len());
    assert!(link.sent[0].iter().all(|(_, control)| control.desired_min_tx >= 1_000_000));
}

#[test]
fn a_passive_side_speaks_when_spoken_to() {
    let passive = || Profile { passive: true, ..Profile::default() };
    let mut link = Link::new(passive(), passive());
    link.run(Duration::from_secs(30));
    assert_eq!((link.sent[0].len(), link.sent[1].len()), (0, 0));
    up(passive(), Profile::default());
}

#[test]
fn a_stop_is_told_as_what_it_is() {
    let mut link = up(Profile::default(), Profile::default());
    link.event(0, Event::Stop);
    link.run(Duration::from_secs(5));
    assert_eq!(link.states(), [State::AdminDown, State::Down]);
    assert_eq!(link.sides[1].status().remote, State::Down, "nothing came since, and it is forgotten");
    assert_eq!(link.downs(1), [Diagnostic::NEIGHBOUR_DOWN]);
    let last = link.sent[0].last().unwrap();
    assert_eq!((last.1.state, last.1.diagnostic), (State::AdminDown, Diagnostic::ADMINISTRATIVE));
    assert_eq!(link.sides[0].deadline(), None);
}

#[test]
fn echoes_that_do_not_return_end_the_session() {
    let echo = || Profile { echo_interval: Some(50 * MS), ..Profile::default() };
    let mut link = up(echo(), echo());
    link.run(Duration::from_secs(10));
    let counters = link.sides[0].status().counters;
    assert!(counters.echo_out > 190 && counters.echo_in + 2 > counters.echo_out, "{counters:?}");
    let start = link.now;
    link.lost[0].1 = true;
    link.run(Duration::from_secs(1));
    assert_eq!(link.downs(0)[0], Diagnostic::ECHO_FAILED);
    assert!(link.downs(0).len() <= 2, "{:?}", link.seen[0]);
    let after = link.seen[0][1].0 - start;
    assert!((100 * MS..=150 * MS + DELAY).contains(&after), "{after:?}");

    let link = up(echo(), Profile::default());
    assert_eq!(link.sides[0].status().counters.echo_out, 0, "the peer takes none");
}

#[test]
fn an_edit_is_polled_and_keeps_the_session() {
    let mut link = up(Profile::default(), Profile::default());
    link.run(Duration::from_secs(2));
    link.sent[0].clear();
    link.event(
        0,
        Event::Configure(Profile { receive_interval: 100 * MS, transmit_interval: 100 * MS, ..Profile::default() }),
    );
    link.run(Duration::from_secs(2));
    assert!(link.sent[0][0].1.poll, "{:?}", link.sent[0][0]);
    assert!(link.sent[1].iter().any(|(_, control)| control.is_final));
    assert!(!link.sent[0].last().unwrap().1.poll, "the answer ends it");
    assert_eq!((link.downs(0), link.downs(1)), (vec![], vec![]));
    assert_eq!(link.sides[0].status().detection, 900 * MS, "the peer still sends every 300 ms");
}

#[test]
fn a_peer_in_demand_mode_is_left_in_peace() {
    let mut link = up(Profile::default(), Profile::default());
    link.run(Duration::from_secs(2));
    let demanding = Control { demand: true, poll: false, ..link.sent[1].last().unwrap().1 };
    link.event(0, Event::Received { control: demanding, ttl: 255 });
    let sent = link.sent[0].len();
    // Alone: the other side does not know that it demands.
    let deadline = link.sides[0].deadline().unwrap();
    for _ in 0..3 {
        let now = link.sides[0].deadline().unwrap().min(deadline + 200 * MS);
        let effects = link.sides[0].step(now, Event::Timer);
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Send(_))), "{effects:?}");
    }
    assert_eq!(link.sent[0].len(), sent);
}

#[test]
fn who_comes_from_too_far_or_speaks_to_another_is_not_believed() {
    let good = Control {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        demand: false,
        detect_multiplier: 3,
        my_discriminator: 5,
        your_discriminator: 0,
        desired_min_tx: 300_000,
        required_min_rx: 300_000,
        required_min_echo_rx: 0,
    };
    for (control, ttl, believed) in [
        (good, 255, State::Init),
        (good, 254, State::Down),
        (Control { your_discriminator: 12, ..good }, 255, State::Down),
        (Control { your_discriminator: 11, ..good }, 255, State::Init),
    ] {
        let mut session = Session::new(Duration::ZERO, Profile::default(), 11, 1);
        session.step(Duration::ZERO, Event::Received { control, ttl });
        assert_eq!(session.status().state, believed);
    }
}

#[test]
fn bad_packets_are_named() {
    let good = [0x20, 0x40, 3, 24, 0, 0, 0, 5, 0, 0, 0, 0, 0, 4, 0x93, 0xe0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0];
    assert!(Control::parse(&good).is_ok());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        Control::parse(&bytes)
    };
    assert_eq!(with(0, 0x00), Err(PacketError::Version(0)));
    assert_eq!(with(3, 23), Err(PacketError::Length { declared: 23, found: 24 }));
    assert_eq!(with(3, 25), Err(PacketError::Length { declared: 25, found: 24 }));
    assert_eq!(with(2, 0), Err(PacketError::Multiplier));
    assert_eq!(with(1, 0x41), Err(PacketError::Multipoint));
    assert_eq!(with(1, 0x44), Err(PacketError::Authenticated));
    assert_eq!(with(7, 0), Err(PacketError::MyDiscriminator));
    assert_eq!(with(1, 0xc0), Err(PacketError::YourDiscriminator));
    assert_eq!(with(1, 0x70), Err(PacketError::PollFinal));
    assert_eq!(Control::parse(&good[..23]), Err(PacketError::Length { declared: 24, found: 23 }));
    assert_eq!(Control::parse(&[]), Err(PacketError::Length { declared: 0, found: 0 }));
}
