//! Endpoints that come, go, terminate, and prefer some clients.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use headwater_services_tests::object::{Endpoint, Frontend};
use headwater_services_tests::stand::CHANGE;
use headwater_testkit::services::{Connection, Datagrams, Entry, Family, Outcome, Pod, Transport};
use headwater_testkit::wait;
use serde_json::{Value, json};

use super::{SHORT, Story, answering, each, places, until, ways};

fn conditions(ready: bool, serving: bool, terminating: bool) -> Value {
    json!({ "conditions": { "ready": ready, "serving": serving, "terminating": terminating } })
}

fn names(pods: &[&Pod]) -> BTreeSet<String> {
    pods.iter().map(|pod| pod.name().to_owned()).collect()
}

/// Waits until exactly these pods answer a pod of a node that asks the cluster IP.
fn answered_by(
    stand: &Story,
    target: std::net::SocketAddr,
    node: usize,
    transport: Transport,
    pods: &[&Pod],
) -> Result<()> {
    let shell = &stand.pods().shells[node - 1];
    let expected = names(pods);
    let mut last = None;
    let reached = wait::until(CHANGE, || {
        let answered = answering(shell.host(), None, target, transport);
        let holds = answered.as_ref().is_ok_and(|answered| *answered == expected);
        last = Some(answered);
        holds
    });
    reached.with_context(|| format!("{} to {target}: {last:?} instead of {expected:?}", shell.name()))
}

pub(super) fn a_service_is_refused_until_it_has_an_endpoint_and_after_it(stand: &Story) -> Result<()> {
    let pod = stand.pod(2)?;
    let service = stand.service("refused");
    stand.create(&service, &[Endpoint::of(&pod)])?;
    for endpoints in [vec![], vec![Endpoint::of(&pod)], vec![]] {
        stand.set_endpoints(&service, &endpoints)?;
        let expected = |outcome: &Outcome| {
            if endpoints.is_empty() { *outcome == Outcome::Refused } else { outcome.seen().is_some() }
        };
        each(places(&[1, 2, 3]), |&(node, family, transport)| {
            let pods = stand.pods();
            let asked = [
                (pods.shells[node - 1].host(), None, Frontend::ClusterIp),
                (stand.topology.client(), None, Frontend::NodePort),
                (stand.topology.client(), Some(Entry::Router(node).client(family)), Frontend::LoadBalancer),
            ];
            each(asked, |&(host, source, frontend)| {
                let target = service.address(&stand.topology, frontend, node, family);
                until(host, source, target, transport, expected)
            })
        })?;
    }
    Ok(())
}

pub(super) fn terminating_endpoints_serve_only_while_none_is_ready(stand: &Story) -> Result<()> {
    let (ready, draining, gone) = (stand.pod(1)?, stand.pod(2)?, stand.pod(2)?);
    let others = [
        Endpoint::of(&draining).with(conditions(false, true, true)),
        Endpoint::of(&gone).with(conditions(false, false, true)),
    ];
    let service = stand.service("terminating");
    let with_ready = [&[Endpoint::of(&ready)], &others[..]].concat();
    stand.create(&service, &with_ready)?;
    for (endpoints, pod) in [(&with_ready[..], &ready), (&others, &draining), (&with_ready, &ready)] {
        stand.set_endpoints(&service, endpoints)?;
        // UDP knows no new connections: a port that has asked before stays with an endpoint that still serves.
        each((1..=3).flat_map(|node| Family::ALL.map(|family| (node, family))), |&(node, family)| {
            let target = service.address(&stand.topology, Frontend::ClusterIp, node, family);
            answered_by(stand, target, node, Transport::Tcp, &[pod])
        })?;
    }
    Ok(())
}

pub(super) fn with_policy_local_terminating_endpoints_of_a_node_serve_while_it_has_no_ready_one(
    stand: &Story,
) -> Result<()> {
    let (draining, elsewhere) = (stand.pod(1)?, stand.pod(2)?);
    let service = stand.service("drain").local();
    let endpoints = [Endpoint::of(&draining).with(conditions(false, true, true)), Endpoint::of(&elsewhere)];
    stand.create(&service, &endpoints)?;
    for (family, transport) in ways() {
        for (node, pod) in [(1, &draining), (2, &elsewhere)] {
            let target = service.address(&stand.topology, Frontend::NodePort, node, family);
            let answer = super::seen(stand.topology.client(), None, target, transport)?;
            ensure!(answer.pod == pod.name() && answer.source == answer.local, "{target}: {answer:?}");
        }
    }
    Ok(())
}

pub(super) fn not_ready_endpoints_are_used_only_when_they_are_published(stand: &Story) -> Result<()> {
    let (ready, other) = (stand.pod(1)?, stand.pod(2)?);
    let service = stand.service("published").with(json!({ "publishNotReadyAddresses": true }));
    // Who writes slices calls every endpoint of such a Service ready.
    let published = Endpoint::of(&other).with(conditions(true, false, false));
    let hidden = Endpoint::of(&other).with(conditions(false, false, false));
    stand.create(&service, &[Endpoint::of(&ready), published])?;
    let target = service.address(&stand.topology, Frontend::ClusterIp, 3, Family::V4);
    answered_by(stand, target, 3, Transport::Tcp, &[&ready, &other])?;
    stand.set_endpoints(&service, &[Endpoint::of(&ready), hidden])?;
    answered_by(stand, target, 3, Transport::Tcp, &[&ready])
}

pub(super) fn connections_live_on_while_other_endpoints_come_and_go(stand: &Story) -> Result<()> {
    let (stays, comes) = (stand.pod(2)?, stand.pod(1)?);
    let service = stand.service("steady");
    stand.create(&service, &[Endpoint::of(&stays)])?;
    let mut connections = Vec::new();
    for (node, family) in (1..=3).flat_map(|node| Family::ALL.map(|family| (node, family))) {
        let at = |frontend| service.address(&stand.topology, frontend, node, family);
        let client = Some(Entry::Router(node).client(family));
        connections.push(Connection::open(stand.topology.client(), client, at(Frontend::LoadBalancer))?);
        connections.push(Connection::open(stand.pods().shells[node - 1].host(), None, at(Frontend::ClusterIp))?);
    }
    let both = [Endpoint::of(&stays), Endpoint::of(&comes)];
    let rounds: [(&[Endpoint], &[&Pod]); 3] =
        [(&both, &[&stays, &comes]), (&both[1..], &[&comes]), (&both[..1], &[&stays])];
    for (endpoints, pods) in rounds {
        stand.set_endpoints(&service, endpoints)?;
        each((1..=3).flat_map(|node| Family::ALL.map(|family| (node, family))), |&(node, family)| {
            let target = service.address(&stand.topology, Frontend::ClusterIp, node, family);
            answered_by(stand, target, node, Transport::Tcp, pods)
        })?;
        // Also when their endpoint is no longer one: it has not ended them.
        connections.iter_mut().try_for_each(Connection::speak)?;
    }
    Ok(())
}

pub(super) fn udp_flows_leave_an_endpoint_that_is_gone(stand: &Story) -> Result<()> {
    let (before, after) = (stand.pod(1)?, stand.pod(2)?);
    let service = stand.service("datagrams");
    stand.create(&service, &[Endpoint::of(&before)])?;
    let mut flows = Vec::new();
    for (node, family) in (1..=3).flat_map(|node| Family::ALL.map(|family| (node, family))) {
        let at = |frontend| service.address(&stand.topology, frontend, node, family);
        let client = stand.topology.client();
        flows.push(Datagrams::open(stand.pods().shells[node - 1].host(), None, at(Frontend::ClusterIp))?);
        flows.push(Datagrams::open(client, None, at(Frontend::NodePort))?);
        flows.push(Datagrams::open(client, Some(Entry::Router(node).client(family)), at(Frontend::LoadBalancer))?);
    }
    for (pod, endpoints) in
        [(&before, None), (&after, Some([Endpoint::of(&after)])), (&before, Some([Endpoint::of(&before)]))]
    {
        if let Some(endpoints) = endpoints {
            stand.set_endpoints(&service, &endpoints)?;
        }
        for flow in &mut flows {
            let mut last = None;
            let moved = wait::until(CHANGE, || {
                let outcome = flow.ask(SHORT);
                let holds =
                    outcome.as_ref().is_ok_and(|outcome| outcome.seen().is_some_and(|seen| seen.pod == pod.name()));
                last = Some(outcome);
                holds
            });
            moved.with_context(|| format!("{flow:?} does not come to {}: {last:?}", pod.name()))?;
        }
    }
    Ok(())
}

pub(super) fn hints_keep_traffic_in_the_zone_unless_an_endpoint_has_none(stand: &Story) -> Result<()> {
    let pods = [stand.pod(1)?, stand.pod(2)?, stand.pod(3)?];
    let hinted = |zones: [usize; 3]| -> Vec<Endpoint> {
        let hint = |zone| json!({ "hints": { "forZones": [{ "name": format!("zone-{zone}") }] } });
        pods.iter().zip(zones).map(|(pod, zone)| Endpoint::of(pod).with(hint(zone))).collect()
    };
    let service = stand.service("zones").with(json!({ "trafficDistribution": "PreferClose" }));
    stand.create(&service, &hinted([1, 2, 3]))?;
    let target = |node, family| service.address(&stand.topology, Frontend::ClusterIp, node, family);
    for (node, family) in (1..=3).flat_map(|node| Family::ALL.map(|family| (node, family))) {
        answered_by(stand, target(node, family), node, Transport::Tcp, &[&pods[node - 1]])?;
    }
    // Nobody is for zone 3: there hints do not count.
    stand.set_endpoints(&service, &hinted([1, 2, 2]))?;
    for family in Family::ALL {
        answered_by(stand, target(1, family), 1, Transport::Tcp, &[&pods[0]])?;
        answered_by(stand, target(2, family), 2, Transport::Tcp, &[&pods[1], &pods[2]])?;
        answered_by(stand, target(3, family), 3, Transport::Tcp, &[&pods[0], &pods[1], &pods[2]])?;
    }
    let mut endpoints = hinted([1, 2, 3]);
    endpoints[2] = Endpoint::of(&pods[2]);
    stand.set_endpoints(&service, &endpoints)?;
    for (node, family) in (1..=3).flat_map(|node| Family::ALL.map(|family| (node, family))) {
        answered_by(stand, target(node, family), node, Transport::Tcp, &[&pods[0], &pods[1], &pods[2]])?;
    }
    Ok(())
}

pub(super) fn hints_for_nodes_come_before_those_for_zones(stand: &Story) -> Result<()> {
    let pods = [stand.pod(1)?, stand.pod(1)?, stand.pod(2)?];
    let hint = |node: usize, zone: usize| {
        json!({ "hints": {
            "forNodes": [{ "name": format!("node-{node}") }], "forZones": [{ "name": format!("zone-{zone}") }],
        } })
    };
    // The second is for the zone of node 1, and for a node that does not exist.
    let endpoints = [(1, 1), (9, 1), (2, 2)]
        .iter()
        .zip(&pods)
        .map(|((node, zone), pod)| Endpoint::of(pod).with(hint(*node, *zone)));
    let service = stand.service("nodes").with(json!({ "trafficDistribution": "PreferSameNode" }));
    stand.create(&service, &endpoints.collect::<Vec<_>>())?;
    for family in Family::ALL {
        let target = |node| service.address(&stand.topology, Frontend::ClusterIp, node, family);
        answered_by(stand, target(1), 1, Transport::Tcp, &[&pods[0]])?;
        answered_by(stand, target(2), 2, Transport::Tcp, &[&pods[2]])?;
        answered_by(stand, target(3), 3, Transport::Tcp, &[&pods[0], &pods[1], &pods[2]])?;
    }
    Ok(())
}
