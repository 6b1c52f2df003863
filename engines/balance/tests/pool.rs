//! A pool under traffic: shares, smoothness, stability, ejection.

use std::collections::HashMap;
use std::time::Duration;

use headwater_balance::{Availability, EndpointId, HealthEvent, InFlight, Outcome, PoolState, Token, hash_key};
use headwater_model::gateway::{Balance, Endpoint, EndpointAddress, HashKey, PassiveHealth};
use headwater_model::origin::NamespacedName;
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const S: u64 = 1000 * MS;

const POLICIES: [Balance; 4] =
    [Balance::RoundRobin, Balance::LeastRequest, Balance::PeakEwma, Balance::Hash(HashKey::Client)];

fn health(consecutive_failures: u32, max_ejected_percent: u32) -> PassiveHealth {
    PassiveHealth {
        consecutive_failures,
        base_ejection: Duration::from_secs(10),
        max_ejection: Duration::from_secs(300),
        max_ejected_percent,
    }
}

fn endpoint(number: u8, weight: u32) -> Endpoint {
    Endpoint { address: EndpointAddress::Ip(([10, 0, 0, number], 8080).into()), weight }
}

fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
    (0..).zip(weights).map(|(number, weight)| endpoint(number, *weight)).collect()
}

fn pool(weights: &[u32]) -> PoolState {
    PoolState::new(&endpoints(weights), health(2, 50))
}

/// SplitMix64, so that every run is the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }
}

/// Number of the endpoint: the last octet of its address.
fn number(pool: &PoolState, id: EndpointId) -> usize {
    match pool.address(id) {
        Some(EndpointAddress::Ip(address)) => match address.ip() {
            std::net::IpAddr::V4(ip) => usize::from(ip.octets()[3]),
            ip => panic!("{ip}"),
        },
        other => panic!("{other:?}"),
    }
}

fn id_of(pool: &PoolState, number: u8) -> EndpointId {
    let address = endpoint(number, 0).address;
    pool.endpoints(0).find(|status| *status.address == address).expect("the endpoint is in the pool").id
}

fn finish(pool: &mut PoolState, id: EndpointId, outcome: Outcome, now: u64) -> Option<HealthEvent> {
    let request = pool.begin(id, now).expect("the endpoint is in the pool");
    pool.end(request, outcome, now)
}

const OK: Outcome = Outcome::Success { latency: 5 * MS };
const BAD: Outcome = Outcome::Failure { latency: MS };

#[test]
fn weights_are_shares_of_requests_under_every_policy() {
    for weights in [vec![1, 1, 1, 1], vec![3, 1], vec![5, 1, 1], vec![0, 2, 0, 6], vec![100, 1]] {
        for policy in &POLICIES {
            let mut pool = pool(&weights);
            let mut random = Random(1);
            let mut counts = vec![0u32; weights.len()];
            for step in 0..20_000u64 {
                let key = hash_key(&step.to_be_bytes());
                // latencies that differ a little do not count
                let latency = 5 * MS + random.next() % MS;
                let pick = pool.pick(policy, Some(key), step * MS, random.next(), &[]).unwrap();
                assert!(!pick.panic);
                counts[number(&pool, pick.id)] += 1;
                finish(&mut pool, pick.id, Outcome::Success { latency }, step * MS);
            }
            let total: u32 = weights.iter().sum();
            for (weight, count) in weights.iter().zip(&counts) {
                assert!(*weight > 0 || *count == 0, "{policy:?} {weights:?} {counts:?}");
                let expected = 20_000.0 * f64::from(*weight) / f64::from(total);
                let off = (f64::from(*count) - expected).abs();
                let tolerance = 60.0 + expected * 0.06;
                assert!(off <= tolerance, "{policy:?} {weights:?} {counts:?}");
            }
        }
    }
}

#[test]
fn round_robin_is_smooth() {
    for (weights, seed) in [(vec![5, 1, 1], 1), (vec![1, 1, 1], 2), (vec![7, 3, 2, 1], 3), (vec![2, 1], 4)] {
        let mut pool = pool(&weights);
        let total: u32 = weights.iter().sum();
        let mut counts = vec![0.0; weights.len()];
        for step in 1..=10 * total {
            let pick = pool.pick(&Balance::RoundRobin, None, 0, seed, &[]).unwrap();
            counts[number(&pool, pick.id)] += 1.0;
            for (weight, count) in weights.iter().zip(&counts) {
                let share = f64::from(step) * f64::from(*weight) / f64::from(total);
                assert!((count - share).abs() < 1.0 + weights.len() as f64 / 2.0, "{weights:?} {step} {counts:?}");
            }
        }
        let exact: Vec<f64> = weights.iter().map(|weight| f64::from(weight * 10)).collect();
        assert!(exact.iter().zip(&counts).all(|(exact, count)| (exact - count).abs() <= 1.0), "{weights:?} {counts:?}");
    }
}

#[test]
fn round_robin_goes_on_for_ever() {
    // turns of weight 1 are long: virtual time is set back every four million
    let mut pool = pool(&[1, 2]);
    let mut counts = [0u32; 2];
    for _ in 0..15_000_000 {
        let pick = pool.pick(&Balance::RoundRobin, None, 0, 9, &[]).unwrap();
        counts[pick.id.slot()] += 1;
    }
    assert!(counts[0].abs_diff(5_000_000) < 3, "{counts:?}");
}

#[test]
fn least_request_avoids_the_busy() {
    let mut pool = pool(&[1; 10]);
    let busy: Vec<InFlight> = (0..50).map(|_| pool.begin(id_of(&pool, 3), 0).unwrap()).collect();
    let mut random = Random(7);
    let mut held = Vec::new();
    for _ in 0..200 {
        let pick = pool.pick(&Balance::LeastRequest, None, 0, random.next(), &[]).unwrap();
        assert_ne!(number(&pool, pick.id), 3);
        held.push(pool.begin(pick.id, 0).unwrap());
    }
    let loads: Vec<u32> = pool.endpoints(0).map(|status| status.in_flight).collect();
    assert!(loads.iter().enumerate().all(|(at, load)| at == 3 || (15..=30).contains(load)), "{loads:?}");
    for request in busy.into_iter().chain(held) {
        pool.end(request, OK, 0);
    }
    assert!(pool.endpoints(0).all(|status| status.in_flight == 0));
}

#[test]
fn peak_ewma_avoids_the_slow_until_the_peak_has_faded() {
    let mut pool = pool(&[1; 4]);
    for at in 0..4 {
        let latency = if at == 2 { 500 * MS } else { 5 * MS };
        let id = id_of(&pool, at);
        finish(&mut pool, id, Outcome::Success { latency }, 0);
    }
    let mut random = Random(3);
    let mut picks_of_slow = |pool: &mut PoolState, now| {
        let picks = (0..1000).map(|_| pool.pick(&Balance::PeakEwma, None, now, random.next(), &[]).unwrap());
        picks.filter(|pick| pick.id.slot() == 2).count()
    };
    assert_eq!(picks_of_slow(&mut pool, S), 0);
    for at in [0, 1, 3] {
        let id = id_of(&pool, at);
        finish(&mut pool, id, OK, 100 * S);
    }
    assert!(picks_of_slow(&mut pool, 100 * S) > 200);
}

#[test]
fn a_key_stays_with_its_endpoint() {
    let policy = Balance::Hash(HashKey::Client);
    let owner = |pool: &mut PoolState, key: u64, tried: &[EndpointId]| {
        let pick = pool.pick(&policy, Some(hash_key(&key.to_be_bytes())), 0, key, tried).unwrap();
        (pick.id, number(pool, pick.id))
    };
    let (mut one, mut other) = (pool(&[1; 8]), PoolState::new(&[], health(2, 50)));
    // the other came to the same endpoints by another way
    other.update(&endpoints(&[1; 9]), health(2, 50), 0, 5);
    other.update(&endpoints(&[1; 8]), health(2, 50), 0, 6);
    for key in 0..1000 {
        let (id, first) = owner(&mut one, key, &[]);
        assert_eq!(first, owner(&mut other, key, &[]).1, "{key}");
        let (second_id, second) = owner(&mut one, key, &[id]);
        let other_first = owner(&mut other, key, &[]).0;
        assert_eq!(second, owner(&mut other, key, &[other_first]).1, "{key}");
        assert_ne!(first, second);
        assert_ne!(owner(&mut one, key, &[id, second_id]).1, first);
    }
    let before: Vec<usize> = (0..1000).map(|key| owner(&mut one, key, &[]).1).collect();
    let ejected = id_of(&one, 4);
    finish(&mut one, ejected, BAD, 0);
    assert!(matches!(finish(&mut one, ejected, BAD, 0), Some(HealthEvent::Ejected { .. })));
    for (key, before) in (0..1000).zip(before) {
        let now = owner(&mut one, key, &[]).1;
        assert!(if before == 4 { now != 4 } else { now == before }, "{key}: {before} {now}");
    }
}

#[test]
fn an_update_keeps_what_is_known_of_those_that_stay() {
    let mut pool = pool(&[1, 1, 1]);
    let (gone, stays) = (id_of(&pool, 0), id_of(&pool, 2));
    let (lost, held) = (pool.begin(gone, 0).unwrap(), pool.begin(stays, 0).unwrap());
    assert!(pool.update(&[endpoint(2, 1), endpoint(7, 1)], health(2, 50), 0, 0).is_empty());
    let newcomer = id_of(&pool, 7);
    assert_eq!(newcomer.slot(), id_of(&pool, 7).slot());
    assert!(pool.address(gone).is_none() && pool.begin(gone, 0).is_none());
    assert_ne!(newcomer, gone);
    assert_eq!(id_of(&pool, 2), stays);
    assert_eq!(pool.end(lost, BAD, 0), None);
    let load = |pool: &PoolState, id| pool.endpoints(0).find(|status| status.id == id).unwrap().in_flight;
    assert_eq!((load(&pool, stays), load(&pool, newcomer)), (1, 0));
    pool.end(held, OK, 0);
    assert_eq!(load(&pool, stays), 0);
    let twice = [endpoint(2, 1), endpoint(2, 5)];
    pool.update(&twice, health(2, 50), 0, 0);
    assert_eq!(pool.endpoints(0).map(|status| status.weight).collect::<Vec<_>>(), [1]);
}

#[test]
fn ejected_endpoints_rest_and_return_by_a_trial() {
    for policy in &POLICIES {
        let mut pool = pool(&[1, 1, 1, 1]);
        let bad = id_of(&pool, 1);
        assert_eq!(finish(&mut pool, bad, BAD, 0), None);
        assert_eq!(finish(&mut pool, bad, BAD, 0), Some(HealthEvent::Ejected { id: bad, until: 10 * S, ejections: 1 }));
        assert_eq!(pool.ejected(), 1);
        let mut random = Random(11);
        let mut picked = |pool: &mut PoolState, now: u64| {
            (0..200).any(|_| {
                let random = random.next();
                pool.pick(policy, Some(random), now, random, &[]).unwrap().id == bad
            })
        };
        assert!(!picked(&mut pool, 9 * S), "{policy:?}");
        assert!(picked(&mut pool, 10 * S), "{policy:?}");
        let trial = pool.begin(bad, 10 * S).unwrap();
        assert!(!picked(&mut pool, 10 * S), "{policy:?}: one trial at a time");
        let again = Some(HealthEvent::Ejected { id: bad, until: 30 * S, ejections: 2 });
        assert_eq!(pool.end(trial, BAD, 10 * S), again);
        assert!(!picked(&mut pool, 29 * S), "{policy:?}");
        assert_eq!(finish(&mut pool, bad, OK, 30 * S), Some(HealthEvent::Restored { id: bad }));
        assert_eq!(pool.ejected(), 0);
        let status = pool.endpoints(30 * S).find(|status| status.id == bad);
        assert_eq!(status.map(|status| status.availability), Some(Availability::Healthy));
        // latency remembers failures
        assert!(*policy == Balance::PeakEwma || picked(&mut pool, 30 * S), "{policy:?}");
    }
}

#[test]
fn when_nobody_good_is_left_somebody_is_picked() {
    for policy in &POLICIES {
        let mut pool = PoolState::new(&endpoints(&[1, 1, 1, 0]), health(1, 100));
        let ids = [0, 1, 2].map(|number| id_of(&pool, number));
        let pick = |pool: &mut PoolState, tried: &[EndpointId]| pool.pick(policy, Some(1), 1, 1, tried).unwrap();
        finish(&mut pool, ids[0], BAD, 0);
        finish(&mut pool, ids[1], BAD, 0);
        let healthy = pick(&mut pool, &[]);
        assert_eq!((healthy.id, healthy.panic), (ids[2], false), "{policy:?}");
        let tried = pick(&mut pool, &[ids[2]]);
        assert_eq!((tried.id, tried.panic), (ids[2], true), "{policy:?}: better tried than ejected");
        finish(&mut pool, ids[2], BAD, 0);
        assert_eq!(pool.ejected(), 3);
        let ejected = pick(&mut pool, &[ids[0], ids[1]]);
        assert_eq!((ejected.id, ejected.panic), (ids[2], true), "{policy:?}: better untried than tried");
        assert!(ids.contains(&pick(&mut pool, &ids).id), "{policy:?}");
        // a request that succeeds meanwhile brings the endpoint back at once
        assert_eq!(finish(&mut pool, ids[0], OK, 2), Some(HealthEvent::Restored { id: ids[0] }));
    }
}

#[test]
fn pools_without_endpoints_pick_nobody() {
    for list in [vec![], endpoints(&[0, 0])] {
        for policy in &POLICIES {
            let mut pool = PoolState::new(&list, health(2, 50));
            assert_eq!(pool.pick(policy, Some(1), 0, u64::MAX, &[]), None);
            pool.update(&endpoints(&[1]), health(2, 50), 0, 0);
            assert!(pool.pick(policy, Some(1), 0, u64::MAX, &[]).is_some());
            pool.update(&list, health(2, 50), 0, 0);
            assert_eq!(pool.pick(policy, Some(1), 0, u64::MAX, &[]), None);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Request { policy: usize, ends: bool, good: bool, retry: bool },
    Finish { good: bool },
    Update { weights: Vec<u32>, first: u8 },
    Wait { seconds: u64 },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4usize, any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(policy, ends, good, retry)| Step::Request { policy, ends, good, retry }),
        2 => any::<bool>().prop_map(|good| Step::Finish { good }),
        1 => (proptest::collection::vec(0..4u32, 0..8), 0..4u8)
            .prop_map(|(weights, first)| Step::Update { weights, first }),
        1 => (0..40u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

proptest! {
    #[test]
    fn the_pool_keeps_its_word(steps in proptest::collection::vec(any_step(), 1..200), percent in 0..120u32, seed: u64) {
        let policy = health(2, percent);
        let mut list = endpoints(&[1, 1, 2]);
        let mut pool = PoolState::new(&list, policy);
        let mut random = Random(seed);
        let mut now = 0;
        let mut held = Vec::new();
        let mut last = None;
        let mut ejected_until: HashMap<EndpointId, u64> = HashMap::new();
        let mut events = Vec::new();
        for step in steps {
            now += MS;
            match step {
                Step::Request { policy, ends, good, retry } => {
                    let tried: Vec<EndpointId> = last.filter(|_| retry).into_iter().collect();
                    let key = random.next();
                    let pick = pool.pick(&POLICIES[policy], Some(key), now, random.next(), &tried);
                    prop_assert_eq!(pick.is_some(), list.iter().any(|endpoint| endpoint.weight > 0));
                    if let Some(pick) = pick {
                        let status = pool.endpoints(now).find(|status| status.id == pick.id).unwrap();
                        prop_assert!(status.weight > 0);
                        prop_assert!(pick.panic || status.availability != Availability::Ejected);
                        prop_assert!(pick.panic || !tried.contains(&pick.id));
                        let early = ejected_until.get(&pick.id).is_some_and(|until| now < *until);
                        prop_assert!(pick.panic || !early);
                        last = Some(pick.id);
                        let request = pool.begin(pick.id, now).unwrap();
                        if ends {
                            events.extend(pool.end(request, if good { OK } else { BAD }, now));
                        } else {
                            held.push(request);
                        }
                    }
                }
                Step::Finish { good } => {
                    if let Some(request) = held.pop() {
                        events.extend(pool.end(request, if good { OK } else { BAD }, now));
                    }
                }
                Step::Update { weights, first } => {
                    list = (first..).zip(weights).map(|(number, weight)| endpoint(number, weight)).collect();
                    events.extend(pool.update(&list, policy, now, random.next()));
                }
                Step::Wait { seconds } => now += seconds * S,
            }
            for event in events.drain(..) {
                match event {
                    HealthEvent::Ejected { id, until, .. } => _ = ejected_until.insert(id, until),
                    HealthEvent::Restored { id } => _ = ejected_until.remove(&id),
                }
            }
            let live: Vec<_> = pool.endpoints(now).filter(|status| status.weight > 0).collect();
            let ejected = live.iter().filter(|status| ejected_until.contains_key(&status.id)).count();
            prop_assert_eq!(ejected, pool.ejected());
            let most = live.len() * percent.min(100) as usize / 100;
            prop_assert!(ejected <= most || (ejected == 1 && live.len() > 1 && percent > 0), "{} of {}", ejected, live.len());
            let load: u32 = pool.endpoints(now).map(|status| status.in_flight).sum();
            prop_assert!(load as usize <= held.len());
        }
    }
}

#[test]
fn an_endpoint_is_found_by_its_name_while_it_is_there() {
    let service = NamespacedName::new("shop", "cart");
    let named = |pool: &mut PoolState, number: u8| {
        pool.named(&service, 80, Token::of(&service, 80, &endpoint(number, 1).address))
    };
    let mut pool = pool(&[1, 1, 0]);
    let second = named(&mut pool, 1).unwrap();
    assert_eq!(pool.address(second), Some(&endpoint(1, 1).address));
    assert_eq!((named(&mut pool, 2), named(&mut pool, 3)), (None, None), "without weight, and without an endpoint");
    assert!(pool.is_open(second, 0, &[]));
    assert!(!pool.is_open(second, 0, &[second]), "it failed this request");
    for _ in 0..2 {
        let request = pool.begin(second, 0).unwrap();
        pool.end(request, Outcome::Failure { latency: MS }, 0);
    }
    assert!(!pool.is_open(second, S, &[]), "ejected");
    assert!(pool.is_open(second, 11 * S, &[]), "on trial");
    pool.update(&[endpoint(2, 1), endpoint(0, 1)], health(2, 50), 0, 0);
    assert_eq!(named(&mut pool, 1), None, "gone");
    assert!(!pool.is_open(second, 11 * S, &[]));
    let third = named(&mut pool, 2).unwrap();
    assert_eq!(pool.address(third), Some(&endpoint(2, 1).address));
}
