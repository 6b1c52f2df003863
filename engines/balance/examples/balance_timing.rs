//! Nanoseconds per pick, with the begin and end of the request; run with `--release`.
#![allow(clippy::disallowed_methods, reason = "an example that measures needs a clock")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use headwater_balance::{Outcome, PoolState, RetryBudget, hash_key, pick_backend};
use headwater_model::gateway::{Balance, Endpoint, EndpointAddress, HashKey, PassiveHealth};

const ROUNDS: u64 = 1_000_000;

fn endpoints(count: u32, weight: impl Fn(u32) -> u32) -> Vec<Endpoint> {
    let address = |at: u32| EndpointAddress::Ip((std::net::Ipv4Addr::from(0x0a00_0000 + at), 8080).into());
    (0..count).map(|at| Endpoint { address: address(at), weight: weight(at) }).collect()
}

fn measure(name: &str, mut body: impl FnMut(u64)) {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        (0..ROUNDS).for_each(&mut body);
        best = best.min(start.elapsed());
    }
    println!("{name:<52} {:>7.1} ns", best.as_nanos() as f64 / ROUNDS as f64);
}

fn main() {
    let health = PassiveHealth {
        consecutive_failures: 5,
        base_ejection: Duration::from_secs(10),
        max_ejection: Duration::from_secs(300),
        max_ejected_percent: 50,
    };
    let policies = [Balance::RoundRobin, Balance::LeastRequest, Balance::PeakEwma, Balance::Hash(HashKey::Client)];
    for (count, weighted, ejected) in
        [(3, false, 0), (3, true, 0), (1000, false, 0), (1000, true, 0), (1000, false, 10), (1000, true, 400)]
    {
        let list = endpoints(count, |at| if weighted { 1 + at % 7 } else { 1 });
        for policy in &policies {
            let mut pool = PoolState::new(&list, health);
            let ids: Vec<_> = pool.endpoints(0).map(|status| status.id).take(ejected).collect();
            for id in ids {
                for _ in 0..5 {
                    if let Some(request) = pool.begin(id, 0) {
                        _ = pool.end(request, Outcome::Failure { latency: 1 }, 0);
                    }
                }
            }
            let weights = if weighted { "weights" } else { "equal" };
            measure(&format!("{policy:?}, {count} endpoints, {weights}, {ejected} ejected"), |at| {
                let random = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                if let Some(pick) = pool.pick(policy, Some(random), at * 1000, random, &[])
                    && let Some(request) = pool.begin(pick.id, at * 1000)
                {
                    _ = black_box(pool.end(request, Outcome::Success { latency: 5_000_000 }, at * 1000));
                }
            });
        }
    }
    measure("pick_backend of 2", |at| _ = black_box(pick_backend([90, 10].into_iter(), at << 32)));
    measure("hash_key of 16 bytes", |at| _ = black_box(hash_key(black_box(&u128::from(at).to_be_bytes()))));
    let mut budget = RetryBudget::new(20);
    measure("RetryBudget::deposit", |at| budget.deposit(at * 1000));

    for count in [10, 1000] {
        let mut list = endpoints(count, |_| 1);
        let mut pool = PoolState::new(&list, health);
        let hash = &policies[3];
        let start = Instant::now();
        _ = black_box(pool.pick(hash, Some(1), 0, 1, &[]));
        println!("first hashed pick of {count} endpoints: {:?}", start.elapsed());
        list.pop();
        let start = Instant::now();
        _ = black_box(pool.update(&list, health, 0, 1));
        println!("update of {count} endpoints: {:?}", start.elapsed());
    }
}
