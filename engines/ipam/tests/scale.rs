//! 100,000 addresses and 10,000 Services.
#![expect(clippy::disallowed_methods, reason = "what it takes is measured")]

mod support;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use headwater_ipam::{Ipam, Request};
use headwater_model::origin::NamespacedName;
use serde_json::json;

use support::{id, pools, request, service};

const SERVICES: usize = 10_000;

/// `cargo test -p headwater-ipam --test scale --release -- --nocapture` prints the figures of a release.
#[test]
fn ten_thousand_services_get_and_keep_addresses_of_a_hundred_thousand_in_under_two_seconds() {
    // 100 pools of 1,000 addresses, with every address that confuses devices left out.
    let names: Vec<String> = (0..100).map(|at| format!("pool-{at:03}")).collect();
    let specs: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            (name.as_str(), json!({"addresses": [format!("10.{at}.0.0-10.{at}.3.231")], "avoidBuggyIPs": true}))
        })
        .collect();
    let pools = pools(&specs);
    let all: Vec<(NamespacedName, Request)> = (0..SERVICES)
        .map(|at| {
            let more = match at % 10 {
                0 => json!({"metadata": {"annotations": {"metallb.io/allow-shared-ip": format!("key-{}", at / 50)}},
                            "spec": {"ports": [{"port": 1 + at % 60_000}]}}),
                _ => json!({}),
            };
            (id(&format!("service-{at}")), request(&service("s", "4", &more)))
        })
        .collect();
    let mut ipam = Ipam::default();
    ipam.configure(pools.clone());
    let began = Instant::now();
    for (id, request) in &all {
        assert!(ipam.settle(id, request, &[]).result.is_ok());
    }
    let each = began.elapsed() / SERVICES as u32;

    // The worst place for the next one: everything below is taken.
    for (id, _) in &all[..SERVICES / 2] {
        ipam.release(id);
    }
    let began = Instant::now();
    for (id, request) in &all[..SERVICES / 2] {
        assert!(ipam.settle(id, request, &[]).result.is_ok());
    }
    let again = began.elapsed() * 2 / SERVICES as u32;

    let held: Vec<Vec<IpAddr>> = all.iter().map(|(id, _)| ipam.assignment(id).unwrap().addresses.clone()).collect();
    let began = Instant::now();
    let mut fresh = Ipam::default();
    fresh.configure(pools);
    for ((id, request), held) in all.iter().zip(&held) {
        fresh.adopt(id, request, held);
    }
    for ((id, request), held) in all.iter().zip(&held) {
        let outcome = fresh.settle(id, request, held);
        assert!(outcome.cleared.is_none() && outcome.result.unwrap().addresses == *held);
    }
    let restart = began.elapsed();
    println!("one allocation {each:?}, after frees {again:?}; restart with {SERVICES} Services {restart:?}");
    assert!(restart < Duration::from_secs(2), "{restart:?}");
    assert!(each < Duration::from_millis(1) && again < Duration::from_millis(1), "{each:?} {again:?}");
}
