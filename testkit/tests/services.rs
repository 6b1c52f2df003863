//! The machines around Services.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use headwater_testkit::lab;
use headwater_testkit::services::{Capture, Entry, Family, Outcome, Topology, Transport, ask};

#[test]
fn packets_to_a_vip_reach_the_node_that_the_clients_address_names() -> Result<()> {
    lab::test(|lab| {
        let topology = Topology::start(lab)?;
        let (v4, v6) = (Family::V4.vip(1), Family::V6.vip(1));
        for node in topology.nodes() {
            let pod = topology.pod(node.number(), &format!("web-{}", node.number()))?;
            topology.serve(&pod, 8080)?;
            let (to4, to6) = (pod.address(Family::V4), pod.address(Family::V6));
            node.host().nft(&format!(
                "table inet t {{ chain c {{ type nat hook prerouting priority dstnat;
                    ip daddr {v4} tcp dport 80 dnat ip to {to4}:8080; ip daddr {v4} udp dport 80 dnat ip to {to4}:8080
                    ip6 daddr {v6} tcp dport 80 dnat ip6 to [{to6}]:8080
                    ip6 daddr {v6} udp dport 80 dnat ip6 to [{to6}]:8080
                }}
                }}"
            ))?;
        }
        let hosts = topology.nodes().iter().map(|node| node.host());
        let capture = Capture::start(hosts.chain([topology.client(), topology.router(), topology.balancer()]))?;
        let mut flows = Vec::new();
        for (number, family, transport) in (1..=3).flat_map(|number| {
            Family::ALL.into_iter().flat_map(move |family| Transport::ALL.map(|transport| (number, family, transport)))
        }) {
            for (entry, passes) in [(Entry::Router(number), false), (Entry::Balancer(number), true)] {
                let vip = SocketAddr::new(family.vip(1), 80);
                let outcome = ask(topology.client(), Some(entry.client(family)), vip, transport)?;
                let seen = outcome.seen().with_context(|| format!("{entry:?} {vip} {transport:?}: {outcome:?}"))?;
                assert_eq!((seen.pod.as_str(), seen.source), (format!("web-{number}").as_str(), seen.local));
                assert_eq!(seen.local.ip(), entry.client(family));
                flows.push((transport, vip, seen.clone(), number, passes));
            }
        }
        let captured = capture.finish()?;
        for (transport, vip, seen, number, passes) in flows {
            let hops = captured.trace(transport, "client", seen.local, vip, Some(&seen)).hops;
            let names: Vec<&str> = hops.iter().map(|hop| hop.host.as_str()).collect();
            assert_eq!(names.contains(&"balancer"), passes, "{hops:#?}");
            assert_eq!(hops.first().map(|hop| (hop.host.as_str(), hop.target)), Some(("client", vip)), "{hops:#?}");
            let last = hops.last().context("a hop")?;
            assert_eq!((last.host.as_str(), last.target), (format!("node-{number}").as_str(), seen.target));
        }
        let closed = SocketAddr::new(topology.node(1).address(Family::V4), 81);
        assert_eq!(ask(topology.client(), None, closed, Transport::Tcp)?, Outcome::Refused);
        assert_eq!(ask(topology.client(), None, closed, Transport::Udp)?, Outcome::Refused);
        Ok(())
    })
}

#[test]
fn pods_and_nodes_reach_each_other_untranslated() -> Result<()> {
    lab::test(|lab| {
        let topology = Topology::start(lab)?;
        for number in 1..=3 {
            topology.serve(&topology.pod(number, &format!("web-{number}"))?, 8080)?;
            topology.serve(&topology.host_pod(number, &format!("host-{number}")), 9090)?;
        }
        let pods = topology.pods();
        for (from, to) in pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to))) {
            for family in Family::ALL {
                let port = if to.name().starts_with("host") { 9090 } else { 8080 };
                let target = SocketAddr::new(to.address(family), port);
                let outcome = ask(from.host(), Some(from.address(family)), target, Transport::Tcp)?;
                let seen = outcome.seen().with_context(|| format!("{} to {target}: {outcome:?}", from.name()))?;
                assert_eq!((seen.pod.as_str(), seen.source, seen.target), (to.name(), seen.local, target));
            }
        }
        Ok(())
    })
}
