//! Replicas, a server and a network that loses, delays and repeats nothing in order; all from a seed.

use std::collections::BinaryHeap;

use super::*;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, in thousandths of what `end` counts.
    fn share(&mut self) -> f64 {
        (self.roll() % 1_000) as f64 / 1_000.0
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll().is_multiple_of(n)
    }

    fn millis(&mut self, end: u64) -> Duration {
        Duration::from_millis(self.roll() % end)
    }
}

/// The stored Lease; every write is judged by the version it names.
#[derive(Default)]
struct Server {
    stored: Option<(Record, u64)>,
    versions: u64,
    transitions: Vec<String>,
}

impl Server {
    fn answer(&mut self, ask: &Ask) -> Answer {
        let (record, wanted) = match ask {
            Ask::Read => {
                return self
                    .stored
                    .as_ref()
                    .map_or(Answer::NotFound, |(record, version)| Answer::Lease(record.clone(), version.to_string()));
            }
            Ask::Create(record) => (record, None),
            Ask::Replace(record, version) => (record, Some(version)),
        };
        match (&self.stored, wanted) {
            (None, Some(_)) => return Answer::NotFound,
            (Some(_), None) => return Answer::Conflict,
            (Some((_, stored)), Some(wanted)) if stored.to_string() != *wanted => return Answer::Conflict,
            _ => {}
        }
        self.versions += 1;
        self.stored = Some((record.clone(), self.versions));
        if self.transitions.last() != Some(&record.holder) {
            self.transitions.push(record.holder.clone());
        }
        Answer::Lease(record.clone(), self.versions.to_string())
    }
}

struct Replica {
    name: String,
    election: Election,
    /// Local clock: where it stood at true time 0, and how fast it runs.
    base: Instant,
    speed: f64,
    /// The process is stopped until then, in true time.
    paused_until: Duration,
    /// Question under way, and when it was sent by the local clock.
    asking: Option<(u64, Ask, Instant)>,
    asked: u64,
    alive: bool,
}

impl Replica {
    fn clock(&self, at: Duration) -> Instant {
        self.base + at.mul_f64(self.speed)
    }

    /// Whether the guard would let a write through at this true time.
    fn writes(&self, at: Duration) -> bool {
        self.alive && self.paused_until <= at && self.election.leads(self.clock(at))
    }
}

#[derive(PartialEq, Eq)]
enum Happening {
    Wake(usize),
    /// A question reaches the server.
    Arrive(usize, u64, Ask),
    /// An answer reaches the replica, or its patience ends.
    Return(usize, u64, Answer),
}

#[derive(PartialEq, Eq)]
struct At(Duration, u64, Happening);

impl Ord for At {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.0, other.1).cmp(&(self.0, self.1))
    }
}

impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

struct World {
    dice: Dice,
    server: Server,
    replicas: Vec<Replica>,
    queue: BinaryHeap<At>,
    count: u64,
    /// From then on nothing is lost and nobody stops.
    calm: Duration,
    timing: Timing,
    led: Duration,
}

impl World {
    fn new(seed: u64, replicas: usize, timing: Timing, calm: Duration) -> Self {
        let mut dice = Dice(seed);
        let origin = Instant::now();
        let all = (0..replicas).map(|n| {
            let base = origin + dice.millis(1_000_000);
            let name = format!("replica-{n}");
            Replica {
                election: Election::new(name.clone(), timing, base),
                name,
                base,
                speed: 0.97 + 0.06 * dice.share(),
                paused_until: Duration::ZERO,
                asking: None,
                asked: 0,
                alive: true,
            }
        });
        let replicas: Vec<Replica> = all.collect();
        let mut world = Self {
            dice,
            server: Server::default(),
            replicas,
            queue: BinaryHeap::new(),
            count: 0,
            calm,
            timing,
            led: Duration::ZERO,
        };
        for n in 0..world.replicas.len() {
            let at = world.dice.millis(3_000);
            world.put(at, Happening::Wake(n));
        }
        world
    }

    fn put(&mut self, at: Duration, what: Happening) {
        self.count += 1;
        self.queue.push(At(at, self.count, what));
    }

    /// Delay of a message: mostly short, sometimes longer than any patience; `None`: lost.
    fn delay(&mut self, now: Duration) -> Option<Duration> {
        if now >= self.calm {
            return Some(self.dice.millis(50));
        }
        match self.dice.roll() % 20 {
            0 | 1 => None,
            2 => Some(self.dice.millis(30_000)),
            3..6 => Some(self.dice.millis(4_000)),
            _ => Some(self.dice.millis(50)),
        }
    }

    fn run(&mut self, end: Duration) {
        let mut before = Duration::ZERO;
        while self.queue.peek().is_some_and(|next| next.0 <= end) {
            let Some(At(now, _, what)) = self.queue.pop() else { return };
            // Deadlines pass by themselves: who leads changes for the worse only with an answer.
            self.check(now);
            if self.replicas.iter().any(|replica| replica.writes(now)) {
                self.led += now - before;
            }
            before = now;
            match what {
                Happening::Wake(n) => self.wake(n, now),
                Happening::Arrive(n, id, ask) => {
                    let answer = self.server.answer(&ask);
                    if let Some(delay) = self.delay(now) {
                        self.put(now + delay, Happening::Return(n, id, answer));
                    }
                }
                Happening::Return(n, id, answer) => self.hear(n, id, answer, now),
            }
            self.check(now);
        }
    }

    fn check(&self, now: Duration) {
        let leaders: Vec<&str> =
            self.replicas.iter().filter(|replica| replica.writes(now)).map(|replica| &*replica.name).collect();
        assert!(leaders.len() <= 1, "{leaders:?} lead at {now:?}");
    }

    fn wake(&mut self, n: usize, now: Duration) {
        if self.stopped(n, now, || Happening::Wake(n)) {
            return;
        }
        let replica = &mut self.replicas[n];
        let clock = replica.clock(now);
        if replica.asking.is_some() || !replica.alive {
            return;
        }
        let wait = replica.election.next().saturating_duration_since(clock);
        if !wait.is_zero() {
            // Rounded up, as timers are.
            let at = now + wait.div_f64(replica.speed) + Duration::from_millis(1);
            return self.put(at, Happening::Wake(n));
        }
        let ask = replica.election.ask(clock, START);
        replica.asked += 1;
        let id = replica.asked;
        replica.asking = Some((id, ask.clone(), clock));
        let patience = now + Duration::from_secs(5).div_f64(replica.speed);
        // The process may be stopped between looking at the clock and sending.
        let stop = if now < self.calm && self.dice.one_in(50) { self.dice.millis(40_000) } else { Duration::ZERO };
        self.replicas[n].paused_until = now + stop;
        if let Some(delay) = self.delay(now) {
            self.put(now + stop + delay, Happening::Arrive(n, id, ask));
        }
        self.put(patience, Happening::Return(n, id, Answer::Lost));
    }

    fn hear(&mut self, n: usize, id: u64, answer: Answer, now: Duration) {
        if self.stopped(n, now, || Happening::Return(n, id, answer.clone())) {
            return;
        }
        let (jitter, timing) = (self.dice.share(), self.timing);
        let crash = now < self.calm && self.dice.one_in(100);
        let replica = &mut self.replicas[n];
        let clock = replica.clock(now);
        let Some((_, ask, sent)) = replica.asking.take_if(|(asking, _, _)| *asking == id) else { return };
        replica.election.hear(&ask, answer, sent, clock, jitter);
        if crash {
            // A new process: it knows nothing, and has another name.
            replica.name.push('\'');
            replica.election = Election::new(replica.name.clone(), timing, clock);
        }
        self.put(now, Happening::Wake(n));
    }

    /// A stopped process does later what it should do now.
    fn stopped(&mut self, n: usize, now: Duration, what: impl Fn() -> Happening) -> bool {
        let until = self.replicas[n].paused_until;
        if until > now {
            self.put(until, what());
        }
        until > now
    }
}

#[test]
fn no_two_replicas_may_write_at_the_same_time_whatever_is_lost_delayed_or_stopped() {
    let mut changes = 0;
    // The margin of the second is no more than clocks may differ in their speed.
    let tight = Timing { renew: seconds(14), ..Timing::default() };
    for seed in 0..400 {
        let timing = if seed % 8 < 4 { Timing::default() } else { tight };
        let mut world = World::new(seed, 2 + (seed % 4) as usize, timing, seconds(900));
        world.run(seconds(1_000));
        changes += world.server.transitions.len();
        assert!(world.led > seconds(100), "seed {seed}: somebody led for {:?} only", world.led);
        let end = seconds(1_000);
        assert!(world.replicas.iter().any(|replica| replica.writes(end)), "seed {seed}: nobody leads in the end");
    }
    assert!(changes > 2_000, "leadership changed {changes} times only: the simulation is too kind");
}

#[test]
fn a_killed_leader_is_followed_within_its_duration_and_a_look() {
    for seed in 0..100 {
        let mut world = World::new(seed, 3, Timing::default(), Duration::ZERO);
        world.run(seconds(60));
        let leader = world.replicas.iter().position(|replica| replica.writes(seconds(60))).unwrap();
        world.replicas[leader].alive = false;
        // The duration, and at most one pause of a candidate (2 s and up to 120 % of it).
        let end = seconds(60 + 15 + 5 + 1);
        world.run(end);
        let next = world.replicas.iter().position(|replica| replica.writes(end));
        assert!(next.is_some_and(|next| next != leader), "seed {seed}: nobody followed");
    }
}
