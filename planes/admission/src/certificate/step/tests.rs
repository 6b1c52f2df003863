use proptest::prelude::*;

use super::*;

const START: Timestamp = Timestamp::constant(1_800_000_000, 0);

fn lives() -> Lives {
    Lives::default()
}

fn facts(number: u64, now: Timestamp, until: Timestamp) -> Facts {
    Facts { der: number.to_be_bytes().into(), not_before: now - lives().backdated, not_after: until }
}

/// What the actions do, without keys.
#[derive(Debug, Default)]
struct Maker {
    made: u64,
}

impl Maker {
    fn authority(&mut self, now: Timestamp) -> Facts {
        self.made += 1;
        facts(self.made, now, now + lives().authority)
    }

    fn serving(&mut self, now: Timestamp, authority: &Facts) -> Facts {
        self.made += 1;
        facts(self.made, now, (now + lives().serving).min(authority.not_after))
    }

    fn perform(&mut self, action: Action, now: Timestamp, kept: Option<Kept>) -> Kept {
        let Some(kept) = kept.filter(|_| action != Action::Begin) else {
            let authority = self.authority(now);
            let serving = self.serving(now, &authority);
            return Kept { authority, next: None, old: None, serving, signed: true, named: true };
        };
        match action {
            Action::StageAuthority => Kept { next: Some(self.authority(now)), ..kept },
            Action::Promote => {
                let authority = kept.next.unwrap();
                let serving = self.serving(now, &authority);
                Kept { authority, next: None, old: Some(kept.authority), serving, signed: true, named: true }
            }
            Action::RenewServing => {
                Kept { serving: self.serving(now, &kept.authority), signed: true, named: true, ..kept }
            }
            Action::DropOld => Kept { old: None, ..kept },
            Action::Begin | Action::Trust => kept,
        }
    }
}

fn act(now: Timestamp, kept: Option<&Kept>, trusted: Option<&Trusted>) -> Option<Action> {
    match step(now, kept, trusted, &lives()) {
        Step::Act(action) => Some(action),
        Step::Wait(until) => {
            assert!(until > now);
            None
        }
    }
}

#[test]
fn a_new_authority_signs_only_after_the_configuration_named_it_for_a_while() {
    let mut maker = Maker::default();
    assert_eq!(act(START, None, None), Some(Action::Begin));
    let kept = maker.perform(Action::Begin, START, None);
    let trust = |kept: &Kept, since| Trusted { bundles: vec![Some(kept.bundle()), Some(kept.bundle())], since };
    let trusted = trust(&kept, START);
    assert_eq!(act(START, Some(&kept), Some(&trusted)), None);

    let due = kept.authority.renewal();
    let kept = Kept { serving: maker.serving(due, &kept.authority), ..kept };
    assert_eq!(act(due, Some(&kept), Some(&trusted)), Some(Action::StageAuthority));
    let kept = maker.perform(Action::StageAuthority, due, Some(kept));
    assert_eq!(act(due, Some(&kept), Some(&trusted)), Some(Action::Trust));
    let mut half = trust(&kept, due);
    half.bundles[1] = trusted.bundles[1].clone();
    assert_eq!(act(due + lives().settle * 2, Some(&kept), Some(&half)), Some(Action::Trust), "one webhook is missing");
    let trusted = trust(&kept, due);
    assert_eq!(step(due, Some(&kept), Some(&trusted), &lives()), Step::Wait(due + lives().settle));
    assert_eq!(act(due + lives().settle, Some(&kept), Some(&trusted)), Some(Action::Promote));
    let promoted = due + lives().settle;
    let kept = maker.perform(Action::Promote, promoted, Some(kept));
    assert_eq!(act(promoted, Some(&kept), Some(&trusted)), Some(Action::Trust), "the order of the bundle is ours");
    let trusted = trust(&kept, promoted);
    assert_eq!(step(promoted, Some(&kept), Some(&trusted), &lives()), Step::Wait(promoted + lives().old_kept));
    assert_eq!(act(promoted + lives().old_kept, Some(&kept), Some(&trusted)), Some(Action::DropOld));
}

#[test]
fn what_does_not_fit_is_made_new() {
    let mut maker = Maker::default();
    let kept = maker.perform(Action::Begin, START, None);
    let trusted = Trusted { bundles: vec![Some(kept.bundle())], since: START };
    let with = |change: fn(&mut Kept)| {
        let mut kept = kept.clone();
        change(&mut kept);
        kept
    };
    for (kept, trusted, action) in [
        (with(|kept| kept.named = false), &trusted, Action::RenewServing),
        (with(|kept| kept.signed = false), &trusted, Action::RenewServing),
        (kept.clone(), &Trusted { bundles: vec![None], since: START }, Action::Trust),
        (kept.clone(), &Trusted { bundles: vec![Some(vec![])], since: START }, Action::Trust),
    ] {
        assert_eq!(act(START, Some(&kept), Some(trusted)), Some(action), "{kept:?}");
    }
    let end = kept.authority.not_after;
    assert_eq!(act(end, Some(&kept), None), Some(Action::Begin));
    assert_eq!(act(end, Some(&kept), Some(&trusted)), Some(Action::StageAuthority));
}

#[test]
fn a_certificate_that_ends_with_its_authority_is_not_renewed_again_and_again() {
    let mut maker = Maker::default();
    let kept = maker.perform(Action::Begin, START, None);
    let late = kept.authority.not_after - SignedDuration::from_hours(48);
    let kept = Kept { serving: maker.serving(late, &kept.authority), next: Some(maker.authority(late)), ..kept };
    // The configuration cannot be seen, so nothing can be promoted.
    let mut now = late;
    let mut renewals = 0;
    let mut kept = kept;
    while now < kept.authority.not_after {
        match step(now, Some(&kept), None, &lives()) {
            Step::Wait(until) => now = until,
            Step::Act(action) => {
                renewals += 1;
                kept = maker.perform(action, now, Some(kept));
            }
        }
    }
    assert_eq!(renewals, 0);
}

/// One thing that happens to the leader at a time.
#[derive(Debug, Clone)]
enum Happening {
    /// The leader works for so long, minutes.
    Works(u32),
    /// Nobody leads for so long, hours; less than what is left when a renewal is due.
    Rests(u32),
    /// Another replica leads: it has seen the configuration only since now.
    Takeover,
    /// Somebody empties the bundle.
    Wiped,
    /// The next write does not arrive.
    Fails,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (1_u32..60 * 24 * 20).prop_map(Happening::Works),
        2 => (1_u32..24 * 10).prop_map(Happening::Rests),
        1 => Just(Happening::Takeover),
        1 => Just(Happening::Wiped),
        2 => Just(Happening::Fails),
    ]
}

/// The world as it is and as it was: what a replica that lags serves, what an API server that lags believes.
struct Simulation {
    maker: Maker,
    now: Timestamp,
    kept: Option<Kept>,
    trusted: Trusted,
    /// Every state of the Secret and of the bundle, with its beginning.
    served: Vec<(Timestamp, Facts, Der)>,
    believed: Vec<(Timestamp, Vec<Der>)>,
    wiped: bool,
    fails: bool,
}

impl Simulation {
    fn write(&mut self, action: Action) {
        if std::mem::take(&mut self.fails) {
            return;
        }
        if action == Action::Trust {
            let bundle = self.kept.as_ref().unwrap().bundle();
            self.believed.push((self.now, bundle.clone()));
            self.trusted = Trusted { bundles: vec![Some(bundle)], since: self.now };
            self.wiped = false;
            return;
        }
        let kept = self.maker.perform(action, self.now, self.kept.take());
        self.served.push((self.now, kept.serving.clone(), kept.authority.der.clone()));
        self.kept = Some(kept);
    }

    /// Every serving certificate that some replica may still show (12 h late) must be believed by every API server (5
    /// min late), and must not have ended.
    fn check(&self) {
        if self.wiped || self.believed.is_empty() {
            return;
        }
        let slowest_replica = self.now - SignedDuration::from_hours(12);
        let slowest_server = self.now - SignedDuration::from_mins(5);
        let in_force = |at: Timestamp, beginnings: Vec<Timestamp>| {
            beginnings.iter().rposition(|beginning| *beginning <= at).unwrap_or(0)
        };
        let first = in_force(slowest_replica, self.served.iter().map(|(at, ..)| *at).collect());
        let oldest = in_force(slowest_server, self.believed.iter().map(|(at, _)| *at).collect());
        for (_, serving, authority) in &self.served[first..] {
            assert!(serving.not_after > self.now, "{serving:?} is served after its end");
            for (at, believed) in &self.believed[oldest..] {
                assert!(believed.contains(authority), "{authority:?} is not believed by {believed:?} of {at}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_replica_ever_serves_what_an_api_server_does_not_believe(
        happenings in prop::collection::vec(happening(), 50..250),
    ) {
        let mut world = Simulation {
            maker: Maker::default(),
            now: START,
            kept: None,
            trusted: Trusted { bundles: vec![Some(Vec::new())], since: START },
            served: Vec::new(),
            believed: Vec::new(),
            wiped: false,
            fails: false,
        };
        let mut rested = 0;
        for happening in happenings {
            if matches!(happening, Happening::Works(_)) {
                rested = 0;
            }
            match happening {
                // Renewals come 30 days before the end.
                Happening::Rests(hours) if rested + hours < 20 * 24 => {
                    rested += hours;
                    world.now += SignedDuration::from_hours(hours.into());
                }
                Happening::Rests(_) => {}
                Happening::Takeover => world.trusted.since = world.now,
                Happening::Wiped => {
                    world.trusted = Trusted { bundles: vec![Some(Vec::new())], since: world.now };
                    world.wiped = true;
                }
                Happening::Fails => world.fails = true,
                Happening::Works(minutes) => {
                    let end = world.now + SignedDuration::from_mins(minutes.into());
                    let mut writes = 0;
                    while world.now < end {
                        match step(world.now, world.kept.as_ref(), Some(&world.trusted), &lives()) {
                            Step::Act(action) => {
                                world.write(action);
                                writes += 1;
                                prop_assert!(writes < 100, "writes without end");
                            }
                            Step::Wait(until) => {
                                prop_assert!(until > world.now);
                                world.now = until.min(end);
                            }
                        }
                        // A bundle that was wiped is believed again some minutes after it was mended.
                        if !world.wiped && world.believed.len() > 1 {
                            world.check();
                        }
                    }
                }
            }
        }
    }
}
