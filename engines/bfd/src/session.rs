//! The state machine of RFC 5880 section 6.8.

use std::time::Duration;

use crate::config::Profile;
use crate::packet::{Control, Diagnostic, State};

/// No session that is not up sends faster. RFC 5880 section 6.8.3.
const SLOW: Duration = Duration::from_secs(1);

/// Length of an echo packet.
const ECHO_BYTES: usize = 24;

/// What a session is told.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A packet of the peer, with the time to live that it came with.
    Received {
        control: Control,
        ttl: u8,
    },
    /// An echo packet of ours came back.
    EchoReceived(&'a [u8]),
    Configure(Profile),
    /// The peer is no longer watched: it is told, and must not take it for a failure.
    Stop,
    /// [`Session::deadline`] is over.
    Timer,
}

/// What a session asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    Send(Control),
    /// To the peer, who sends it back.
    SendEcho(Vec<u8>),
    Up,
    /// The session was up.
    Down(Diagnostic),
}

/// Packets and changes since the session was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    pub control_in: u64,
    pub control_out: u64,
    pub echo_in: u64,
    pub echo_out: u64,
    pub up: u64,
    pub down: u64,
}

/// A session as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub state: State,
    pub diagnostic: Diagnostic,
    /// What the peer gave as its state.
    pub remote: State,
    /// Silence that is taken for a failure.
    pub detection: Duration,
    pub counters: Counters,
}

/// One peer watched.
#[derive(Debug)]
pub struct Session {
    profile: Profile,
    local: u32,
    remote: u32,
    state: State,
    remote_state: State,
    diagnostic: Diagnostic,
    /// Of the peer's last packet.
    heard: Option<Control>,
    /// A change of ours is told, and the peer did not say yet that it heard.
    polling: bool,
    /// Interval that the peer may still rely on while it has not heard of a smaller one.
    relied_on: Duration,
    transmit_at: Option<Duration>,
    detect_at: Option<Duration>,
    echo_at: Option<Duration>,
    echo_until: Option<Duration>,
    echoes: u64,
    random: u64,
    counters: Counters,
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

impl Session {
    /// Sends at the first step, unless the profile is passive. `discriminator`: not 0, and no other session's.
    pub fn new(now: Duration, profile: Profile, discriminator: u32, seed: u64) -> Self {
        let transmit_at = (!profile.passive).then_some(now);
        Self {
            relied_on: profile.receive_interval,
            profile,
            local: discriminator.max(1),
            remote: 0,
            state: State::Down,
            remote_state: State::Down,
            diagnostic: Diagnostic::NONE,
            heard: None,
            polling: false,
            transmit_at,
            detect_at: None,
            echo_at: None,
            echo_until: None,
            echoes: 0,
            random: seed,
            counters: Counters::default(),
        }
    }

    /// What the peer calls this session by.
    pub fn discriminator(&self) -> u32 {
        self.local
    }

    /// When the next step is due, whatever happens until then.
    pub fn deadline(&self) -> Option<Duration> {
        [self.transmit_at, self.detect_at, self.echo_at, self.echo_until].into_iter().flatten().min()
    }

    pub fn status(&self) -> Status {
        Status {
            state: self.state,
            diagnostic: self.diagnostic,
            remote: self.remote_state,
            detection: self.detection(),
            counters: self.counters,
        }
    }

    /// Takes an event, and whatever is due by now.
    pub fn step(&mut self, now: Duration, event: Event<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Received { control, ttl } => self.received(now, control, ttl, &mut effects),
            Event::EchoReceived(bytes) => self.echo_received(now, bytes),
            Event::Configure(profile) => self.configure(now, profile),
            Event::Stop => self.stop(&mut effects),
            Event::Timer => {}
        }
        self.expire(now, &mut effects);
        effects
    }

    fn configure(&mut self, now: Duration, profile: Profile) {
        if self.profile == profile || self.state == State::AdminDown {
            return;
        }
        self.relied_on = self.relied_on.max(profile.receive_interval);
        self.profile = profile;
        // The peer learns of it at once, and says that it did.
        self.polling = self.state == State::Up;
        if self.transmit_at.is_some() || !self.profile.passive {
            self.transmit_at = Some(now);
        }
        if self.profile.echo_interval.is_none() {
            (self.echo_at, self.echo_until) = (None, None);
        }
    }

    fn stop(&mut self, effects: &mut Vec<Effect>) {
        if self.state == State::AdminDown {
            return;
        }
        (self.state, self.diagnostic) = (State::AdminDown, Diagnostic::ADMINISTRATIVE);
        self.polling = false;
        // One may be lost; nobody is there later to send another.
        for _ in 0..3 {
            self.transmit(false, effects);
        }
        (self.transmit_at, self.detect_at, self.echo_at, self.echo_until) = (None, None, None, None);
    }

    /// Ours while the session is up; slow otherwise.
    fn desired(&self) -> Duration {
        if self.state == State::Up { self.profile.transmit_interval } else { self.profile.transmit_interval.max(SLOW) }
    }

    /// Before jitter; `None`: the peer wants none.
    fn interval(&self) -> Option<Duration> {
        let Some(heard) = self.heard.filter(|_| self.remote != 0) else { return Some(self.desired()) };
        if heard.required_min_rx == 0 {
            return None;
        }
        // In demand mode the peer asks when it wants to know. RFC 5880 section 6.6.
        if heard.demand && heard.state == State::Up && self.state == State::Up && !self.polling {
            return None;
        }
        Some(self.desired().max(Duration::from_micros(heard.required_min_rx.into())))
    }

    fn detection(&self) -> Duration {
        let Some(heard) = self.heard else {
            return self.profile.receive_interval * u32::from(self.profile.detect_multiplier);
        };
        let theirs = Duration::from_micros(heard.desired_min_tx.into());
        self.relied_on.max(theirs) * u32::from(heard.detect_multiplier)
    }

    /// 75 to 100 % of it, or 90 % where every packet counts. RFC 5880 section 6.8.7.
    fn jitter(&mut self, time: Duration) -> Duration {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let most: u64 = if self.profile.detect_multiplier == 1 { 150 } else { 250 };
        let permille = 750 + u32::try_from((self.random >> 33) % (most + 1)).expect("at most 250");
        time * permille / 1000
    }

    fn transmit(&mut self, is_final: bool, effects: &mut Vec<Effect>) {
        self.counters.control_out += 1;
        effects.push(Effect::Send(Control {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.polling && !is_final,
            is_final,
            control_plane_independent: false,
            demand: false,
            detect_multiplier: self.profile.detect_multiplier,
            my_discriminator: self.local,
            your_discriminator: self.remote,
            desired_min_tx: micros(self.desired()),
            required_min_rx: micros(self.profile.receive_interval),
            required_min_echo_rx: self.profile.echo_interval.map_or(0, micros),
        }));
    }

    fn become_state(&mut self, now: Duration, state: State, diagnostic: Diagnostic, effects: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.state, state);
        self.diagnostic = diagnostic;
        if state == State::Up {
            self.counters.up += 1;
            // The interval is another from now on.
            self.polling = true;
            self.relied_on = self.profile.receive_interval;
            effects.push(Effect::Up);
        } else if before == State::Up {
            self.counters.down += 1;
            (self.polling, self.echo_at, self.echo_until) = (false, None, None);
            effects.push(Effect::Down(diagnostic));
        }
        if state != State::Init {
            // The peer learns of it at once. A session that begins takes its time, so that one that cannot last, such as
            // one without echoes, does not flap many times a second.
            self.transmit_at = Some(now);
        }
    }

    fn received(&mut self, now: Duration, control: Control, ttl: u8, effects: &mut Vec<Effect>) {
        let not_ours = control.your_discriminator != 0 && control.your_discriminator != self.local;
        if ttl < self.profile.minimum_ttl || not_ours || self.state == State::AdminDown {
            return;
        }
        self.counters.control_in += 1;
        let first = self.remote == 0;
        let faster = self.heard.is_some_and(|heard| control.required_min_rx < heard.required_min_rx);
        self.remote = control.my_discriminator;
        self.remote_state = control.state;
        self.heard = Some(control);
        if control.is_final && self.polling {
            self.polling = false;
            self.relied_on = self.profile.receive_interval;
        }
        match (self.state, control.state) {
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => {
                self.become_state(now, State::Down, Diagnostic::NEIGHBOUR_DOWN, effects);
            }
            (State::Down, State::Down) => self.become_state(now, State::Init, self.diagnostic, effects),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.become_state(now, State::Up, Diagnostic::NONE, effects);
            }
            _ => {}
        }
        self.detect_at = Some(now + self.detection());
        if first || faster {
            self.plan_transmission(now);
        }
        self.plan_echo(now);
        if control.poll {
            self.transmit(true, effects);
        }
    }

    /// Not later than the interval allows.
    fn plan_transmission(&mut self, now: Duration) {
        let next = self.interval().map(|interval| now + self.jitter(interval));
        self.transmit_at = match (self.transmit_at, next) {
            (Some(planned), Some(next)) => Some(planned.min(next)),
            (_, next) => next,
        };
    }

    fn echo_interval(&self) -> Option<Duration> {
        let ours = self.profile.echo_interval?;
        let theirs = self.heard?.required_min_echo_rx;
        (theirs != 0 && self.state == State::Up).then(|| ours.max(Duration::from_micros(theirs.into())))
    }

    fn echo_patience(&self, interval: Duration) -> Duration {
        interval * u32::from(self.profile.detect_multiplier)
    }

    fn plan_echo(&mut self, now: Duration) {
        match self.echo_interval() {
            None => (self.echo_at, self.echo_until) = (None, None),
            Some(_) if self.echo_at.is_some() => {}
            Some(interval) => {
                self.echo_at = Some(now);
                self.echo_until = Some(now + self.echo_patience(interval));
            }
        }
    }

    fn echo_received(&mut self, now: Duration, bytes: &[u8]) {
        if !bytes.starts_with(&self.local.to_be_bytes()) {
            return;
        }
        self.counters.echo_in += 1;
        if let Some(interval) = self.echo_interval() {
            self.echo_until = Some(now + self.echo_patience(interval));
        }
    }

    /// What is due by now.
    fn expire(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let due = |time: Option<Duration>| time.is_some_and(|time| time <= now);
        if due(self.detect_at) {
            self.detect_at = None;
            (self.remote, self.remote_state, self.heard) = (0, State::Down, None);
            if matches!(self.state, State::Init | State::Up) {
                self.become_state(now, State::Down, Diagnostic::EXPIRED, effects);
            }
            if self.profile.passive {
                self.transmit_at = None;
            }
        }
        if due(self.echo_until) && self.state == State::Up {
            self.become_state(now, State::Down, Diagnostic::ECHO_FAILED, effects);
        }
        if due(self.transmit_at) {
            self.transmit_at = None;
            let interval = self.interval();
            if interval.is_some() {
                self.transmit(false, effects);
            }
            self.transmit_at = interval.map(|interval| now + self.jitter(interval));
        }
        if due(self.echo_at)
            && let Some(interval) = self.echo_interval()
        {
            self.echoes += 1;
            self.counters.echo_out += 1;
            // What is in it is a local matter, but there are peers that send back nothing shorter than a control packet.
            let mut echo = [&self.local.to_be_bytes()[..], &self.echoes.to_be_bytes()].concat();
            echo.resize(ECHO_BYTES, 0);
            effects.push(Effect::SendEcho(echo));
            self.echo_at = Some(now + self.jitter(interval));
        }
    }
}
