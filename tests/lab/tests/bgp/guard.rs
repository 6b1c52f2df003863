//! BFD, and what is noticed without it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_bgp::State;
use headwater_testkit::lab::{self, Host};
use headwater_testkit::wait;

use crate::node::{Node, PATIENCE, PEER, peer, route, routes, stays, watched};
use crate::router::{KINDS, Neighbour, Router};
use crate::sessions::{neighbour, over_two_hops, pair};

const VIP: &str = "198.51.100.7/32";

/// Nothing comes in any more, and the link stays up.
fn deafen(host: &Host) -> Result<()> {
    host.nft("table inet deaf { chain in { type filter hook input priority 0; policy drop;\n}\n}\n")
}

fn cure(host: &Host) -> Result<()> {
    host.nft("delete table inet deaf")
}

fn bfd_is(node: &Node, state: headwater_bfd::State) -> bool {
    node.status(PEER).bfd.is_some_and(|bfd| bfd.state == state)
}

#[test]
fn bfd_ends_the_session_within_a_second_on_both_sides() -> Result<()> {
    for kind in KINDS {
        for (local, remote) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            lab::test(|lab| {
                let (host_of_node, host) = pair(lab)?;
                let router = Router::start(kind, &host, &[Neighbour { bfd: true, ..Neighbour::new(local, remote) }])?;
                let mut node = Node::start(&host_of_node, None);
                node.peer(PEER, watched(peer(local), None, false));
                node.announce(routes(&[VIP], &route()));
                router.wait_for(VIP)?;
                wait::until(PATIENCE, || bfd_is(&node, headwater_bfd::State::Up))
                    .with_context(|| format!("{kind:?} {local}: {:?}", node.status(PEER)))?;
                // Intervals are fast once both know that it is up.
                wait::until(PATIENCE, || {
                    node.status(PEER).bfd.is_some_and(|bfd| bfd.detection == Duration::from_millis(900))
                })
                .with_context(|| format!("{kind:?}: {:?}", node.status(PEER)))?;
                let start = Instant::now();
                deafen(&host_of_node)?;
                wait::until(PATIENCE, || node.status(PEER).session.state != State::Established)?;
                let took = start.elapsed();
                println!("{kind:?} {local}: down after {took:?}");
                ensure!(took < Duration::from_millis(1100), "{kind:?}: noticed after {took:?}");
                let why = node.status(PEER).session.last_down;
                ensure!(why.as_deref() == Some("told the peer: cease: BFD down (6/10)"), "{why:?}");
                router.wait_for_none(VIP)?;
                cure(&host_of_node)?;
                router.wait_for(VIP)?;
                wait::until(PATIENCE, || bfd_is(&node, headwater_bfd::State::Up))?;
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn a_session_whose_bfd_is_taken_away_goes_on_without() -> Result<()> {
    for kind in KINDS {
        lab::test(|lab| {
            let (node, host) = pair(lab)?;
            let router = Router::start(kind, &host, &[Neighbour { bfd: true, ..neighbour() }])?;
            let mut node = Node::start(&node, None);
            node.peer(PEER, watched(peer("10.0.0.1"), None, false));
            node.announce(routes(&[VIP], &route()));
            router.wait_for(VIP)?;
            wait::until(PATIENCE, || bfd_is(&node, headwater_bfd::State::Up))?;
            node.peer(PEER, peer("10.0.0.1"));
            // Both routers end their session once, though BFD says that nothing is wrong.
            wait::until(PATIENCE, || node.status(PEER).session.state != State::Established)?;
            node.wait_for(PEER, State::Established)?;
            router.wait_for(VIP)?;
            ensure!(node.status(PEER).bfd.is_none());
            let since = node.status(PEER).since;
            // Longer than silence would be borne.
            stays(Duration::from_secs(2), || node.status(PEER).since == since)
                .with_context(|| format!("{kind:?}: {:?}", node.status(PEER)))
        })?;
    }
    Ok(())
}

#[test]
fn another_profile_keeps_the_sessions() -> Result<()> {
    for kind in KINDS {
        lab::test(|lab| {
            let (node, host) = pair(lab)?;
            let router = Router::start(kind, &host, &[Neighbour { bfd: true, ..neighbour() }])?;
            let mut node = Node::start(&node, None);
            let mut peer = watched(peer("10.0.0.1"), None, false);
            node.peer(PEER, peer.clone());
            node.announce(routes(&[VIP], &route()));
            router.wait_for(VIP)?;
            wait::until(PATIENCE, || bfd_is(&node, headwater_bfd::State::Up))?;
            let since = node.status(PEER).since;
            let slow = Duration::from_millis(500);
            peer.watch.as_mut().context("a watch")?.profile.receive_interval = slow;
            node.peer(PEER, peer);
            wait::until(PATIENCE, || node.status(PEER).bfd.is_some_and(|bfd| bfd.detection == 3 * slow))
                .with_context(|| format!("{kind:?}: {:?}", node.status(PEER)))?;
            let status = node.status(PEER);
            ensure!(status.since == since, "{kind:?}: {status:?}");
            ensure!(status.bfd.is_some_and(|bfd| bfd.counters.down == 0), "{kind:?}: {status:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn bfd_works_over_several_hops() -> Result<()> {
    for kind in KINDS {
        lab::test(|lab| {
            let (node, middle, host) = over_two_hops(lab)?;
            let neighbour = Neighbour { multihop: true, bfd: true, ..Neighbour::new("10.1.0.1", "10.0.0.2") };
            let router = Router::start(kind, &host, &[neighbour])?;
            let mut node = Node::start(&node, None);
            let mut far = watched(peer("10.1.0.1"), None, true);
            far.session.transport.ttl = Some(5);
            node.peer(PEER, far);
            node.announce(routes(&[VIP], &route()));
            router.wait_for(VIP)?;
            wait::until(PATIENCE, || bfd_is(&node, headwater_bfd::State::Up))
                .with_context(|| format!("{kind:?}: {:?}", node.status(PEER)))?;
            let start = Instant::now();
            deafen(&middle)?;
            middle.nft("table inet cut { chain f { type filter hook forward priority 0; policy drop;\n}\n}\n")?;
            wait::until(PATIENCE, || node.status(PEER).session.state != State::Established)?;
            ensure!(start.elapsed() < Duration::from_millis(1500), "noticed after {:?}", start.elapsed());
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn without_bfd_the_hold_time_ends_the_session() -> Result<()> {
    for kind in KINDS {
        lab::test(|lab| {
            let (host_of_node, host) = pair(lab)?;
            let router = Router::start(kind, &host, &[Neighbour { hold: 3, ..neighbour() }])?;
            let mut node = Node::start(&host_of_node, None);
            node.peer(PEER, peer("10.0.0.1"));
            node.announce(routes(&[VIP], &route()));
            router.wait_for(VIP)?;
            ensure!(node.status(PEER).session.negotiated.is_some_and(|negotiated| negotiated.hold == 3));
            // KEEPALIVEs carry it over several hold times.
            stays(Duration::from_secs(7), || node.status(PEER).session.state == State::Established)?;
            ensure!(node.status(PEER).session.counters.keepalives_received >= 6);
            let start = Instant::now();
            deafen(&host_of_node)?;
            wait::until(PATIENCE, || node.status(PEER).session.state != State::Established)?;
            let why = node.status(PEER).session.last_down;
            ensure!(why.as_deref() == Some("told the peer: hold timer expired (4/0)"), "{why:?}");
            ensure!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
            router.wait_for_none(VIP)
        })?;
    }
    Ok(())
}
