//! Sessions begin, carry routes, and end as they should.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_bgp::{State, Stop};
use headwater_testkit::lab::{self, Host, Lab};
use headwater_testkit::wait;

use crate::node::{Node, PATIENCE, PEER, internal, peer, route, routes, stays, with_password};
use crate::router::{KINDS, Kind, Neighbour, Router};

const V4: &str = "198.51.100.7/32";
const V6: &str = "2001:db8:7::7/128";

/// A node and a router on one cable: .2 and .1.
pub(crate) fn pair(lab: &Lab) -> Result<(Host, Host)> {
    let (node, router) = (lab.host("node")?, lab.host("router")?);
    node.wire("eth0", &router, "eth0")?;
    for (host, end) in [(&node, 2), (&router, 1)] {
        host.address("eth0", &format!("10.0.0.{end}/24"))?;
        host.address("eth0", &format!("fd00::{end}/64"))?;
    }
    Ok((node, router))
}

/// A node and a router with another one between them: 10.0.0.2 and 10.1.0.1.
pub(crate) fn over_two_hops(lab: &Lab) -> Result<(Host, Host, Host)> {
    let (node, middle, host) = (lab.host("node")?, lab.host("middle")?, lab.host("router")?);
    node.wire("eth0", &middle, "eth0")?;
    middle.wire("eth1", &host, "eth0")?;
    node.address("eth0", "10.0.0.2/24")?;
    middle.address("eth0", "10.0.0.254/24")?;
    middle.address("eth1", "10.1.0.254/24")?;
    host.address("eth0", "10.1.0.1/24")?;
    node.route("10.1.0.0/24", "10.0.0.254")?;
    host.route("10.0.0.0/24", "10.1.0.254")?;
    middle.forward()?;
    Ok((node, middle, host))
}

pub(crate) fn neighbour() -> Neighbour {
    Neighbour::new("10.0.0.1", "10.0.0.2")
}

#[test]
fn routers_learn_both_families_over_either_and_forget_them() -> Result<()> {
    for kind in KINDS {
        for (local, remote) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            for inside in [false, true] {
                lab::test(|lab| {
                    let (node, host) = pair(lab)?;
                    let remote_asn = if inside { 64513 } else { 64512 };
                    let neighbour = Neighbour { remote_asn, password: Some("secret"), ..Neighbour::new(local, remote) };
                    let router = Router::start(kind, &host, &[neighbour])?;
                    let mut node = Node::start(&node, None);
                    let plain = with_password(peer(local), "secret");
                    node.peer(PEER, if inside { internal(plain) } else { plain });
                    node.announce(routes(&[V4, V6], &route()));
                    let what = format!("{kind:?} {local} internal: {inside}");
                    for prefix in [V4, V6] {
                        let seen = router.wait_for(prefix)?;
                        let over_ipv6 = prefix == V6 || local.contains(':');
                        let next_hop = if over_ipv6 { "fd00::2" } else { "10.0.0.2" };
                        ensure!(seen.next_hop.split(' ').next() == Some(next_hop), "{what}: {seen:?}");
                        ensure!(seen.path == if inside { "" } else { "64512" }, "{what}: {seen:?}");
                        ensure!(seen.communities == ["(64512,7)", "(65535,65281)"], "{what}: {seen:?}");
                        ensure!(seen.large == ["(64512,1,2)"], "{what}: {seen:?}");
                        ensure!(!inside || seen.local_pref == Some(250), "{what}: {seen:?}");
                    }
                    let status = node.status(PEER).session;
                    ensure!((status.announced, status.pending) == (2, 0), "{what}: {status:?}");

                    let start = Instant::now();
                    node.announce(routes(&[V6], &route()));
                    router.wait_for_none(V4)?;
                    ensure!(start.elapsed() < Duration::from_secs(1), "{what}: withdrawn after {:?}", start.elapsed());
                    ensure!(router.route(V6).is_some(), "{what}: the other stays");
                    Ok(())
                })?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_peer_with_another_password_is_not_spoken_to() -> Result<()> {
    for kind in KINDS {
        lab::test(|lab| {
            let (node, host) = pair(lab)?;
            let _router = Router::start(kind, &host, &[Neighbour { password: Some("secret"), ..neighbour() }])?;
            let mut node = Node::start(&node, None);
            node.peer(PEER, with_password(peer("10.0.0.1"), "wrong"));
            let failed = || node.status(PEER).session.last_down;
            wait::until(PATIENCE, || failed().is_some_and(|why| why.contains("no connection within 10 s")))?;
            ensure!(node.status(PEER).session.counters.opens_received == 0);
            // The right one, while it runs.
            node.peer(PEER, with_password(peer("10.0.0.1"), "secret"));
            node.wait_for(PEER, State::Established)
        })?;
    }
    Ok(())
}

#[test]
fn a_router_behind_another_is_reached_over_five_hops_at_most() -> Result<()> {
    for kind in KINDS {
        lab::test(|lab| {
            let (node, _middle, host) = over_two_hops(lab)?;
            let neighbour = Neighbour { multihop: true, ..Neighbour::new("10.1.0.1", "10.0.0.2") };
            let router = Router::start(kind, &host, &[neighbour])?;
            let mut node = Node::start(&node, None);
            let mut peer = peer("10.1.0.1");
            node.peer(PEER, peer.clone());
            node.announce(routes(&[V4], &route()));
            // One hop: the first router ends it.
            wait::until(PATIENCE, || node.status(PEER).session.last_down.is_some())?;
            ensure!(node.status(PEER).session.counters.opens_received == 0);
            peer.session.transport.ttl = Some(5);
            node.peer(PEER, peer);
            ensure!(router.wait_for(V4)?.next_hop == "10.0.0.2");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_stop_withdraws_and_says_why() -> Result<()> {
    for kind in KINDS {
        lab::test(|lab| {
            let (node, host) = pair(lab)?;
            let router = Router::start(kind, &host, &[neighbour()])?;
            let mut node = Node::start(&node, None);
            node.peer(PEER, peer("10.0.0.1"));
            node.announce(routes(&[V4], &route()));
            router.wait_for(V4)?;
            node.stop(Stop::Shutdown);
            router.wait_for_none(V4)?;
            if kind == Kind::Bird {
                wait::until(PATIENCE, || router.log().contains("Administrative shutdown"))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn routes_stay_at_a_router_while_the_speaker_restarts() -> Result<()> {
    // A process that is killed says as little as one that restarts.
    for (kind, is_killed) in [(Kind::Bird, false), (Kind::Bird, true), (Kind::Frr, true)] {
        lab::test(|lab| {
            let (host_of_node, host) = pair(lab)?;
            let router = Router::start(kind, &host, &[neighbour()])?;
            let mut gentle = peer("10.0.0.1");
            gentle.session.graceful_restart = Some(120);
            let mut node = Node::start(&host_of_node, None);
            node.peer(PEER, gentle.clone());
            node.announce(routes(&[V4, "198.51.100.8/32"], &route()));
            router.wait_for(V4)?;
            router.wait_for("198.51.100.8/32")?;
            if is_killed {
                drop(node);
            } else {
                node.stop(Stop::Restart);
            }
            ensure!(router.route(V4).is_some(), "{kind:?}: the route is kept");
            let mut node = Node::start(&host_of_node, None);
            node.peer(PEER, gentle);
            node.announce(routes(&[V4], &route()));
            // What is not told again is forgotten with End-of-RIB.
            router.wait_for_none("198.51.100.8/32")?;
            ensure!(router.route(V4).is_some(), "{kind:?}: the route is still there");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_router_that_crashed_learns_again() -> Result<()> {
    for kind in KINDS {
        lab::test(|lab| {
            let (node, host) = pair(lab)?;
            let mut router = Router::start(kind, &host, &[neighbour()])?;
            let mut node = Node::start(&node, None);
            node.peer(PEER, peer("10.0.0.1"));
            node.announce(routes(&[V4], &route()));
            router.wait_for(V4)?;
            router.crash();
            wait::until(PATIENCE, || node.status(PEER).session.state != State::Established)?;
            router.run()?;
            router.wait_for(V4)?;
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn both_sides_may_connect_at_once() -> Result<()> {
    for kind in KINDS {
        lab::test(|lab| {
            let (node, host) = pair(lab)?;
            let mut node = Node::start(&node, Some("[::]:179".parse()?));
            let active = Neighbour { passive: false, password: Some("secret"), ..neighbour() };
            let router = Router::start(kind, &host, &[active])?;
            node.peer(PEER, with_password(peer("10.0.0.1"), "secret"));
            node.announce(routes(&[V4], &route()));
            router.wait_for(V4)?;
            let since = node.status(PEER).since;
            ensure!(since.is_some());
            // Who lost stays away.
            stays(Duration::from_secs(3), || node.status(PEER).since == since)
                .with_context(|| format!("{kind:?}: {:?}", node.status(PEER)))
        })?;
    }
    Ok(())
}

#[test]
fn an_edit_touches_only_the_session_that_it_concerns() -> Result<()> {
    lab::test(|lab| {
        let (node, host) = pair(lab)?;
        let other = lab.host("other")?;
        node.wire("eth1", &other, "eth0")?;
        node.address("eth1", "10.9.0.2/24")?;
        other.address("eth0", "10.9.0.1/24")?;
        let first = Router::start(Kind::Bird, &host, &[neighbour()])?;
        let second = Router::start(Kind::Frr, &other, &[Neighbour::new("10.9.0.1", "10.9.0.2")])?;
        let mut node = Node::start(&node, None);
        node.peer(PEER, peer("10.0.0.1"));
        node.peer("other", peer("10.9.0.1"));
        node.announce(routes(&[V4], &route()));
        first.wait_for(V4)?;
        second.wait_for(V4)?;
        let (since, before) = (node.status(PEER).since, node.status("other").since);
        let mut changed = peer("10.9.0.1");
        changed.session.hold = 30;
        node.peer("other", changed);
        wait::until(PATIENCE, || node.status("other").since.is_some_and(|now| Some(now) != before))?;
        second.wait_for(V4)?;
        node.plan.peers.remove("other");
        node.apply();
        second.wait_for_none(V4)?;
        ensure!(node.status(PEER).since == since, "the other session went on");
        Ok(())
    })
}
