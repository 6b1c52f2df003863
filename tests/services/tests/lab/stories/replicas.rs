//! Three replicas on two of three nodes, and a client that asks every node.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use headwater_services_tests::object::{Endpoint, Frontend, services};
use headwater_services_tests::stand::{NAMESPACE, block_on, cluster};
use headwater_testkit::services::{Entry, Family, Outcome, Transport, ask};
use serde_json::json;

use super::{Story, answering, each, places, seen, until, ways};

/// Two on node 1, one on node 2.
fn replicas(stand: &Story) -> Result<(Vec<Endpoint>, BTreeSet<String>)> {
    let pods = [stand.pod(1)?, stand.pod(1)?, stand.pod(2)?];
    Ok((pods.iter().map(Endpoint::of).collect(), pods.iter().map(|pod| pod.name().to_owned()).collect()))
}

pub(super) fn three_replicas_on_two_nodes_answer_at_every_node(stand: &Story) -> Result<()> {
    let (endpoints, all) = replicas(stand)?;
    let service = stand.service("replicas");
    stand.create(&service, &endpoints)?;
    let client = stand.topology.client();
    each(places(&[1, 2, 3]), |&(node, family, transport)| {
        for (frontend, source) in [
            (Frontend::NodePort, None),
            (Frontend::LoadBalancer, Some(Entry::Router(node).client(family))),
            (Frontend::LoadBalancer, Some(Entry::Balancer(node).client(family))),
            (Frontend::ExternalIp, Some(Entry::Router(node).client(family))),
        ] {
            let target = service.address(&stand.topology, frontend, node, family);
            let answered = answering(client, source, target, transport)?;
            ensure!(answered == all, "{frontend} at node-{node}, {family:?} {transport:?}: {answered:?} of {all:?}");
        }
        Ok(())
    })
}

pub(super) fn with_policy_local_only_nodes_with_replicas_answer_and_they_see_the_client(stand: &Story) -> Result<()> {
    let (endpoints, _) = replicas(stand)?;
    let service = stand.service("local").local();
    stand.create(&service, &endpoints)?;
    let client = stand.topology.client();
    each(places(&[1, 2]), |&(node, family, transport)| {
        for (frontend, source) in [
            (Frontend::NodePort, None),
            (Frontend::LoadBalancer, Some(Entry::Router(node).client(family))),
            (Frontend::LoadBalancer, Some(Entry::Balancer(node).client(family))),
        ] {
            let target = service.address(&stand.topology, frontend, node, family);
            let answer = seen(client, source, target, transport)?;
            ensure!(answer.source == answer.local, "{frontend} at node-{node}: {answer:?}");
            let answered = answering(client, source, target, transport)?;
            let here = |name: &String| stand.topology.pods().iter().any(|pod| pod.name() == name && pod.node() == node);
            let count = if node == 1 { 2 } else { 1 };
            ensure!(answered.len() == count && answered.iter().all(here), "node-{node}: {answered:?}");
        }
        Ok(())
    })?;
    each(ways(), |&(family, transport)| {
        let target = service.address(&stand.topology, Frontend::NodePort, 3, family);
        let outcome = ask(client, None, target, transport)?;
        ensure!(outcome == Outcome::Silent, "{target}: {outcome:?}");
        Ok(())
    })
}

pub(super) fn a_policy_can_be_changed_while_it_serves(stand: &Story) -> Result<()> {
    let (endpoints, _) = replicas(stand)?;
    let service = stand.service("change");
    stand.create(&service, &endpoints)?;
    let path = format!("{}/{}", services(NAMESPACE), service.name);
    let set = |policy: &str| -> Result<()> {
        let ports = (policy == "Local").then(|| service.health_port());
        let patch = json!({ "spec": { "externalTrafficPolicy": policy, "healthCheckNodePort": ports } });
        block_on(cluster()?.merge(&path, &patch)).map(drop)
    };
    let client = stand.topology.client();
    let target = |node, family| service.address(&stand.topology, Frontend::NodePort, node, family);
    set("Local")?;
    each(Family::ALL, |&family| {
        until(client, None, target(3, family), Transport::Tcp, |outcome| *outcome == Outcome::Silent)?;
        until(client, None, target(1, family), Transport::Tcp, |outcome| {
            outcome.seen().is_some_and(|seen| seen.source == seen.local)
        })
    })?;
    set("Cluster")?;
    each(Family::ALL, |&family| {
        until(client, None, target(3, family), Transport::Tcp, |outcome| outcome.seen().is_some())
    })
}
