//! Who may come, and who comes again.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use headwater_services_tests::object::{Endpoint, Frontend};
use headwater_testkit::services::{Entry, Family, Outcome, Transport, ask};
use headwater_testkit::wait;
use serde_json::json;

use super::{Story, answering, each, places, seen};

pub(super) fn source_ranges_guard_the_vip_and_nothing_else(stand: &Story) -> Result<()> {
    let pod = stand.pod(1)?;
    let admitted = [Entry::Router(1), Entry::Router(2)];
    let mut ranges = vec!["10.244.0.0/16".to_owned(), "fd00:10:244::/48".to_owned()];
    for (family, length) in Family::ALL.into_iter().zip([32, 128]) {
        ranges.extend(admitted.iter().map(|entry| format!("{}/{length}", entry.client(family))));
    }
    let service = stand.service("ranges").with(json!({ "loadBalancerSourceRanges": ranges }));
    stand.create(&service, &[Endpoint::of(&pod)])?;
    let client = stand.topology.client();
    each(places(&[1, 2]), |&(node, family, transport)| {
        let at = |frontend| service.address(&stand.topology, frontend, node, family);
        seen(client, Some(Entry::Router(node).client(family)), at(Frontend::LoadBalancer), transport)?;
        let stranger = Some(Entry::Balancer(node).client(family));
        let outcome = ask(client, stranger, at(Frontend::LoadBalancer), transport)?;
        ensure!(outcome == Outcome::Silent, "{stranger:?} to {}: {outcome:?}", at(Frontend::LoadBalancer));
        for frontend in [Frontend::NodePort, Frontend::ExternalIp, Frontend::ClusterIp] {
            seen(client, stranger, at(frontend), transport)?;
        }
        Ok(())
    })
}

pub(super) fn one_client_stays_at_one_endpoint_with_session_affinity(stand: &Story) -> Result<()> {
    let pods = [stand.pod(1)?, stand.pod(2)?, stand.pod(2)?];
    let service = stand.service("affinity").with(json!({ "sessionAffinity": "ClientIP" }));
    stand.create(&service, &pods.each_ref().map(Endpoint::of))?;
    let client = stand.topology.client();
    each(places(&[1, 3]), |&(node, family, transport)| {
        let shell = &stand.pods().shells[node - 1];
        let at = |frontend| service.address(&stand.topology, frontend, node, family);
        let entry = Some(Entry::Router(node).client(family));
        for (from, source, frontend) in [
            (client, entry, Frontend::LoadBalancer),
            (client, None, Frontend::NodePort),
            (shell.host(), None, Frontend::ClusterIp),
        ] {
            // Many first questions at once may each be given another endpoint, before one of them is remembered.
            seen(from, source, at(frontend), transport)?;
            let answered = answering(from, source, at(frontend), transport)?;
            ensure!(answered.len() == 1, "{family:?} {transport:?} at node-{node}: {answered:?}");
        }
        Ok(())
    })
}

pub(super) fn affinity_ends_after_its_timeout(stand: &Story) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let pods = [stand.pod(1)?, stand.pod(2)?, stand.pod(2)?];
    let affinity = json!({
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": TIMEOUT.as_secs() } },
    });
    let service = stand.service("timeout").with(affinity);
    let endpoints = pods.each_ref().map(Endpoint::of);
    stand.create(&service, &endpoints[..1])?;
    let client = stand.topology.client();
    let ask_all = || -> Result<Vec<String>> {
        let entries = (1..=3).flat_map(|node| [(node, Entry::Router(node)), (node, Entry::Balancer(node))]);
        let answers = entries.map(|(node, entry)| {
            let target = service.address(&stand.topology, Frontend::LoadBalancer, node, Family::V4);
            Ok(seen(client, Some(entry.client(Family::V4)), target, Transport::Tcp)?.pod)
        });
        answers.collect()
    };
    let first = pods[0].name();
    ensure!(ask_all()?.iter().all(|pod| pod == first), "there is one endpoint");
    // Once they are forgotten, some of six clients go to the new ones. Each question extends the time of its client,
    // so it has to run out between two of them.
    stand.set_endpoints(&service, &endpoints)?;
    let mut asked = Instant::now();
    wait::until(Duration::from_secs(60), || {
        if asked.elapsed() < 2 * TIMEOUT {
            return false;
        }
        let moved = ask_all().is_ok_and(|pods| pods.iter().any(|pod| pod != first));
        asked = Instant::now();
        moved
    })
}

pub(super) fn a_vip_of_ip_mode_proxy_is_left_to_the_load_balancer(stand: &Story) -> Result<()> {
    let pod = stand.pod(1)?;
    let service = stand.service("proxied").proxied();
    stand.create(&service, &[Endpoint::of(&pod)])?;
    let client = stand.topology.client();
    each(places(&[1, 2]), |&(node, family, transport)| {
        let at = |frontend| service.address(&stand.topology, frontend, node, family);
        // The load balancer that has it is not there, and nobody answers in its place.
        let pods = stand.pods();
        let asked = [
            (client, Some(Entry::Router(node).client(family))),
            (pods.shells[node - 1].host(), None),
            (stand.topology.node(node).host(), None),
        ];
        each(asked, |&(host, source)| {
            let outcome = ask(host, source, at(Frontend::LoadBalancer), transport)?;
            ensure!(outcome == Outcome::Silent, "{} to {}: {outcome:?}", host.name(), at(Frontend::LoadBalancer));
            Ok(())
        })?;
        seen(client, None, at(Frontend::NodePort), transport)?;
        seen(client, Some(Entry::Router(node).client(family)), at(Frontend::ExternalIp), transport)?;
        Ok(())
    })
}
