//! What holds for every pool and every Service.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use headwater_ipam::{Assignment, Ipam, Pools};
use headwater_model::object::Service;
use headwater_model::origin::NamespacedName;
use proptest::prelude::*;
use serde_json::{Value, json};

use support::{id, pools, request, service};

/// Pools of a few addresses, so that they run out.
fn any_pools() -> impl Strategy<Value = Pools> {
    let one = (0_u8..3, 1_u8..5, any::<bool>(), any::<bool>(), 0_i64..3);
    prop::collection::vec(one, 0..4).prop_map(|all| {
        let all: Vec<(String, Value)> = all
            .into_iter()
            .enumerate()
            .map(|(at, (families, size, auto, buggy, priority))| {
                let v4 = format!("10.{at}.0.254-10.{at}.1.{}", size - 1);
                let v6 = format!("fc00:{at}::1-fc00:{at}::{size}");
                let ranges = [vec![v4.clone()], vec![v6.clone()], vec![v6, v4]][usize::from(families)].clone();
                let mut spec = json!({"addresses": ranges, "autoAssign": auto, "avoidBuggyIPs": buggy});
                if priority > 0 {
                    spec["serviceAllocation"] = json!({"priority": priority});
                }
                (format!("pool-{at}"), spec)
            })
            .collect();
        let named: Vec<(&str, Value)> = all.iter().map(|(name, spec)| (name.as_str(), spec.clone())).collect();
        pools(&named)
    })
}

fn any_service(name: String) -> impl Strategy<Value = Service> {
    let families = prop::sample::select(vec!["4", "6", "46", "64"]);
    let policy = prop::sample::select(vec!["PreferDualStack", "RequireDualStack"]);
    (families, policy, 0_u8..4, 80_u16..83, 0_u8..6, any::<bool>()).prop_map(
        move |(families, policy, key, port, wish, local)| {
            let mut more = json!({"metadata": {"annotations": {}}, "spec": {
                "ports": [{"port": port}], "ipFamilyPolicy": policy,
                "externalTrafficPolicy": if local { "Local" } else { "Cluster" },
            }});
            if key > 1 {
                more["metadata"]["annotations"]["metallb.io/allow-shared-ip"] = format!("key-{key}").into();
            }
            match wish {
                0 => more["metadata"]["annotations"]["metallb.io/address-pool"] = "pool-1".into(),
                1 => more["spec"]["loadBalancerIP"] = "10.0.1.0".into(),
                _ => {}
            }
            service(&name, families, &more)
        },
    )
}

fn any_services() -> impl Strategy<Value = Vec<Service>> {
    let all: Vec<_> = (0..10).map(|at| any_service(format!("s{at}"))).collect();
    all
}

#[derive(Debug, Clone)]
enum Step {
    Settle(usize),
    Release(usize),
    Edit(usize),
    Pools(Pools),
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_usize..10).prop_map(Step::Settle),
        2 => (0_usize..10).prop_map(Step::Release),
        2 => (0_usize..10).prop_map(Step::Edit),
        1 => any_pools().prop_map(Step::Pools),
    ];
    prop::collection::vec(step, 0..60)
}

fn snapshot(ipam: &Ipam) -> BTreeMap<NamespacedName, Assignment> {
    ipam.assignments().map(|(id, assignment)| (id.clone(), assignment.clone())).collect()
}

/// Nobody shares who may not, everybody's addresses are of one pool, and counters count.
fn check(ipam: &Ipam, asked: &BTreeMap<NamespacedName, Service>) -> Result<(), TestCaseError> {
    let mut by_address: BTreeMap<IpAddr, Vec<&Service>> = BTreeMap::new();
    for (id, assignment) in ipam.assignments() {
        let pool = assignment.pool.as_ref().expect("all pools count here");
        prop_assert!(!assignment.addresses.is_empty() && assignment.addresses.len() <= 2);
        for address in &assignment.addresses {
            let of = ipam.pools().of(*address).expect("an address is of a pool");
            prop_assert_eq!(&of.name, pool);
            by_address.entry(*address).or_default().push(&asked[id]);
        }
    }
    for (address, services) in &by_address {
        let requests: Vec<_> = services.iter().map(|service| request(service)).collect();
        for (at, one) in requests.iter().enumerate() {
            for other in &requests[..at] {
                prop_assert!(one.sharing_key.is_some() && one.sharing_key == other.sharing_key, "{}", address);
                prop_assert!(one.ports.is_disjoint(&other.ports), "{}", address);
            }
        }
    }
    let given: BTreeSet<IpAddr> = ipam.given().into_iter().collect();
    prop_assert_eq!(given, by_address.keys().copied().collect::<BTreeSet<_>>());
    for (pool, status, services) in ipam.fill() {
        let of = by_address.keys().filter(|address| ipam.pools().of(**address).is_some_and(|of| of.name == pool.name));
        let (v4, v6): (Vec<&IpAddr>, Vec<&IpAddr>) = of.partition(|address| address.is_ipv4());
        prop_assert_eq!((status.assigned_ipv4, status.assigned_ipv6), (v4.len() as i64, v6.len() as i64));
        prop_assert!(status.available_ipv4 >= 0 && status.available_ipv6 >= 0);
        let with = ipam.assignments().filter(|(_, assignment)| assignment.pool.as_ref() == Some(&pool.name)).count();
        prop_assert_eq!(services, with as i64);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_address_is_given_twice_without_sharing_whatever_happens(
        first in any_pools(), services in any_services(), others in any_services(), steps in any_steps(),
    ) {
        let mut ipam = Ipam::default();
        ipam.configure(first);
        let mut said = services;
        let mut asked: BTreeMap<NamespacedName, Service> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Settle(at) => {
                    let id = id(&format!("s{at}"));
                    let before = ipam.assignment(&id).cloned();
                    let same = asked.get(&id) == Some(&said[at]);
                    let outcome = ipam.settle(&id, &request(&said[at]), &[]);
                    prop_assert_eq!(outcome.result.ok(), ipam.assignment(&id).cloned());
                    if let (Some(before), true) = (before, same) {
                        let after = &ipam.assignment(&id).expect("what nothing forbids stays").addresses;
                        prop_assert!(before.addresses.iter().all(|address| after.contains(address)));
                    }
                    asked.insert(id, said[at].clone());
                }
                Step::Release(at) => {
                    ipam.release(&id(&format!("s{at}")));
                }
                Step::Edit(at) => std::mem::swap(&mut said[at], &mut others.clone()[at]),
                Step::Pools(pools) => {
                    ipam.configure(pools);
                    let all: Vec<NamespacedName> = snapshot(&ipam).into_keys().collect();
                    for id in all {
                        ipam.settle(&id, &request(&asked[&id]), &[]);
                    }
                }
            }
            check(&ipam, &asked)?;
        }
    }

    #[test]
    fn a_restart_moves_no_address_in_whichever_order_services_come(
        pools in any_pools(), services in any_services(), order in Just((0..10).collect::<Vec<usize>>()).prop_shuffle(),
        gone in prop::collection::vec(any::<bool>(), 10),
    ) {
        let mut ipam = Ipam::default();
        ipam.configure(pools.clone());
        for service in &services {
            ipam.settle(&id(&service.metadata.name), &request(service), &[]);
        }
        for (service, gone) in services.iter().zip(gone) {
            if gone {
                ipam.release(&id(&service.metadata.name));
            }
        }
        let before = snapshot(&ipam);
        let mut fresh = Ipam::default();
        fresh.configure(pools);
        for at in &order {
            let id = id(&services[*at].metadata.name);
            if let Some(assignment) = before.get(&id) {
                fresh.adopt(&id, &request(&services[*at]), &assignment.addresses);
            }
        }
        for at in order {
            let id = id(&services[at].metadata.name);
            if let Some(assignment) = before.get(&id) {
                let outcome = fresh.settle(&id, &request(&services[at]), &assignment.addresses);
                prop_assert_eq!(outcome.cleared, None);
            }
        }
        for (id, assignment) in &before {
            let after = &fresh.assignment(id).expect("nothing is lost").addresses;
            prop_assert!(assignment.addresses.iter().all(|address| after.contains(address)), "{} {:?}", id, after);
        }
    }
}
