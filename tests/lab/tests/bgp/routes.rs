//! Many routes, and routes by way of several nodes.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use headwater_bgp::{Asn, State};
use headwater_testkit::lab;
use headwater_testkit::wait;

use crate::node::{Node, PATIENCE, PEER, peer, route, routes};
use crate::router::{KINDS, Kind, Neighbour, Router};
use crate::sessions::{neighbour, pair};

/// Resident memory of this process in KiB.
fn memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn ten_thousand_prefixes_converge_within_seconds() -> Result<()> {
    let prefixes: Vec<String> =
        (0..10_000u32).map(|index| format!("10.200.{}.{}/32", index >> 8, index & 255)).collect();
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    for kind in KINDS {
        lab::test(|lab| {
            let (node, host) = pair(lab)?;
            let router = Router::start(kind, &host, &[neighbour()])?;
            let mut node = Node::start(&node, None);
            node.peer(PEER, peer("10.0.0.1"));
            node.wait_for(PEER, State::Established)?;
            let (before, start) = (memory()?, Instant::now());
            node.announce(routes(&prefixes, &route()));
            wait::until(PATIENCE, || node.status(PEER).session.announced == 10_000)?;
            let told = start.elapsed();
            wait::until(PATIENCE, || router.count() >= 10_000)?;
            let (learnt, after) = (start.elapsed(), memory()?);
            let updates = node.status(PEER).session.counters.updates_sent;
            println!("{kind:?}: told in {told:?}, learnt in {learnt:?}, {updates} UPDATEs, {before} -> {after} KiB");
            ensure!(updates < 40, "{updates} UPDATEs");
            ensure!(after.saturating_sub(before) < 32 << 10, "{before} -> {after} KiB");
            let start = Instant::now();
            node.announce(routes(&prefixes[..1], &route()));
            wait::until(PATIENCE, || router.count() == 1)?;
            println!("{kind:?}: withdrawn in {:?}", start.elapsed());
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_router_spreads_over_all_nodes_that_announce() -> Result<()> {
    const VIP: &str = "198.51.100.7/32";
    lab::test(|lab| {
        let host = lab.host("router")?;
        let ends = [("10.1.0.1", "10.1.0.2"), ("10.2.0.1", "10.2.0.2"), ("10.3.0.1", "10.3.0.2")];
        let mut nodes = Vec::new();
        for (index, (local, remote)) in ends.iter().enumerate() {
            let node = lab.host(&format!("node{index}"))?;
            node.wire("eth0", &host, &format!("eth{index}"))?;
            node.address("eth0", &format!("{remote}/24"))?;
            host.address(&format!("eth{index}"), &format!("{local}/24"))?;
            nodes.push(Node::start(&node, None));
        }
        let neighbours: Vec<Neighbour> = ends.iter().map(|(local, remote)| Neighbour::new(local, remote)).collect();
        let _router = Router::start(Kind::Bird, &host, &neighbours)?;
        for (node, (local, _)) in nodes.iter_mut().zip(ends) {
            let mut peer = peer(local);
            peer.session.local_asn = Asn(64512);
            node.peer(PEER, peer);
            node.announce(routes(&[VIP], &route()));
        }
        let hops = || {
            let text = host.ip("route show 198.51.100.7").unwrap_or_default();
            let mut hops: Vec<String> =
                text.split("via ").skip(1).filter_map(|rest| rest.split(' ').next()).map(str::to_owned).collect();
            hops.sort();
            hops
        };
        wait::until(PATIENCE, || hops() == ["10.1.0.2", "10.2.0.2", "10.3.0.2"])
            .with_context(|| format!("{:?}", hops()))?;
        // The last endpoint of one node leaves.
        let start = Instant::now();
        nodes[1].announce(routes(&[], &route()));
        wait::until(PATIENCE, || hops() == ["10.1.0.2", "10.3.0.2"]).with_context(|| format!("{:?}", hops()))?;
        ensure!(start.elapsed().as_secs() < 1, "withdrawn after {:?}", start.elapsed());
        Ok(())
    })
}
