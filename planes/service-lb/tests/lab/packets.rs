//! What endpoints see of their clients, with the plane on three nodes.

use std::net::SocketAddr;

use crate::support::{Stage, ready, service, vip};
use anyhow::{Context, Result, ensure};
use headwater_model::transparent::{NFT_TABLE, commands};
use headwater_model::tunnel::DEFAULT_TUNNEL_PORT;
use headwater_netlink::{self as netlink, Conntrack};
use headwater_testkit::services::{Datagrams, Entry, Family, PATIENCE, Transport, ask, ask_with};
use headwater_testkit::{lab, wait};

#[test]
fn under_cluster_the_endpoint_on_another_node_sees_the_client() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::new(lab)?;
        let web = stage.topology.pod(2, "web-2")?;
        stage.topology.serve(&web, 8080)?;
        for keep in ["preserve", "preserve-direct", "masquerade"] {
            stage.start(&service(keep, "", &[ready(&web)]))?;
            for family in [Family::V4, Family::V6] {
                for transport in Transport::ALL {
                    for node in [1, 2] {
                        let client = Entry::Router(node).client(family);
                        let node_port = SocketAddr::new(stage.topology.node(node).address(family), 30080);
                        for target in [vip(family), node_port] {
                            let outcome = ask(stage.topology.client(), Some(client), target, transport)?;
                            let case = format!("{keep} {transport:?} by node {node} to {target}: {outcome:?}");
                            let seen = outcome.seen().with_context(|| case.clone())?;
                            ensure!((seen.source.ip() == client) == (keep != "masquerade"), "{case}");
                        }
                    }
                }
            }
        }
        // The tunnel's own packets fill no table of connections.
        for node in stage.topology.nodes() {
            let mut tunnelled = Vec::new();
            node.host().run(|| {
                Conntrack::open()?.dump(netlink::Family::V4, Some(17), |flow| {
                    if flow.original.dport == DEFAULT_TUNNEL_PORT {
                        tunnelled.push(flow.to_string());
                    }
                })
            })?;
            ensure!(tunnelled.is_empty(), "{}: {tunnelled:?}", node.name());
        }
        Ok(())
    })
}

#[test]
fn a_client_keeps_its_endpoint_on_every_way_in() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::new(lab)?;
        let pods = [(1, "web-1"), (2, "web-2"), (2, "web-2b"), (3, "web-3")];
        let pods = pods.map(|(node, name)| stage.topology.pod(node, name)).into_iter().collect::<Result<Vec<_>>>()?;
        for pod in &pods {
            stage.topology.serve(pod, 8080)?;
        }
        let endpoints: Vec<_> = pods.iter().map(ready).collect();
        for keep in ["preserve", "masquerade"] {
            stage.start(&service(keep, "  sessionAffinity: ClientIP\n", &endpoints))?;
            for family in [Family::V4, Family::V6] {
                let cluster = SocketAddr::new(stage.topology.node(1).address(family), 30080);
                let client = Entry::Router(1).client(family);
                for target in [vip(family), cluster] {
                    let mut before = None;
                    for _ in 0..12 {
                        let outcome = ask(stage.topology.client(), Some(client), target, Transport::Tcp)?;
                        let seen = outcome.seen().with_context(|| format!("{keep} {target}: {outcome:?}"))?;
                        let pod = before.get_or_insert_with(|| seen.pod.clone());
                        ensure!(*pod == seen.pod, "{keep} {target}: {pod} and then {}", seen.pod);
                    }
                }
            }
        }
        Ok(())
    })
}

#[test]
fn nodes_without_a_tunnel_are_reached_by_masquerading_and_said_so() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::new(lab)?;
        let (two, three) = (stage.topology.pod(2, "web-2")?, stage.topology.pod(3, "web-3")?);
        for pod in [&two, &three] {
            stage.topology.serve(pod, 8080)?;
        }
        stage.without_tunnel = Some(3);
        stage.start(&service("preserve", "", &[ready(&two), ready(&three)]))?;
        let state = stage.planes[0].state().borrow().clone();
        let said = state.peers.iter().find(|peer| &*peer.name == "node-3").and_then(|peer| peer.masqueraded.clone());
        ensure!(said.as_deref().is_some_and(|said| said.contains("headwater.dev/tunnel")), "{state:?}");
        for family in [Family::V4, Family::V6] {
            let client = Entry::Router(1).client(family);
            let mut asked = std::collections::BTreeSet::new();
            for _ in 0..64 {
                let outcome = ask(stage.topology.client(), Some(client), vip(family), Transport::Tcp)?;
                let seen = outcome.seen().with_context(|| format!("{outcome:?}"))?;
                let expected = if seen.pod == "web-2" { client } else { stage.topology.node(1).address(family) };
                ensure!(seen.source.ip() == expected, "{seen:?}");
                asked.insert(seen.pod.clone());
            }
            ensure!(asked.len() == 2, "{asked:?}");
        }
        Ok(())
    })
}

#[test]
fn cleaning_up_leaves_nothing_and_touches_nothing_else() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::new(lab)?;
        let node = stage.topology.node(1).host().clone();
        node.nft("table ip other { chain c { type filter hook forward priority 0; counter\n }\n}")?;
        let look = || -> Result<[String; 5]> {
            Ok([
                node.exec("nft", &["list", "ruleset"])?,
                node.ip("rule")?,
                node.ip("-6 rule")?,
                node.ip("-brief link")?,
                node.ip("route show table all")?,
            ])
        };
        // Whatever was there before is there after; counts of packets may differ.
        let plain = |text: [String; 5]| text.map(|text| text.split("packets").next().unwrap_or_default().to_owned());
        let before = plain(look()?);
        let web = stage.topology.pod(2, "web-2")?;
        stage.start(&service("preserve", "", &[ready(&web)]))?;
        ensure!(plain(look()?) != before, "nothing was programmed");
        stage.stop()?;
        node.run(headwater_service_lb::cleanup)?;
        let after = plain(look()?);
        for (before, after) in before.iter().zip(&after) {
            let sorted = |text: &str| -> std::collections::BTreeSet<String> {
                text.lines().map(|line| line.replace(" proto static", "").trim().to_owned()).collect()
            };
            ensure!(sorted(before) == sorted(after), "before:\n{before}\nafter:\n{after}");
        }
        Ok(())
    })
}

#[test]
fn the_way_back_for_gateways_that_connect_as_their_clients_is_what_one_makes_by_hand() -> Result<()> {
    lab::test(|lab| {
        let look = |host: &lab::Host| -> Result<[String; 5]> {
            let plain = |text: String| text.replace(" proto static", "").replace(" proto boot", "");
            let rule =
                |text| plain(text).lines().filter(|line| line.contains("18520")).map(str::trim).collect::<String>();
            let route = |text| plain(text).trim().to_owned();
            Ok([
                host.exec("nft", &["list", "table", "inet", NFT_TABLE])?,
                rule(host.ip("-4 rule")?),
                rule(host.ip("-6 rule")?),
                route(host.ip("-4 route show table 18520")?),
                route(host.ip("-6 route show table 18520")?).replace(" pref medium", ""),
            ])
        };
        let by_hand = lab.host("by-hand")?;
        by_hand.exec("sh", &["-ec", &commands()])?;
        let mut stage = Stage::new(lab)?;
        let web = stage.topology.pod(2, "web-2")?;
        stage.start(&service("preserve", "", &[ready(&web)]))?;
        let node = stage.topology.node(1).host().clone();
        ensure!(look(&node)? == look(&by_hand)?, "{:#?}\n{:#?}", look(&node)?, look(&by_hand)?);
        // What somebody takes away comes back.
        node.nft(&format!("delete table inet {NFT_TABLE}"))?;
        node.ip("-6 rule delete priority 91")?;
        wait::until(wait::DEADLINE, || look(&node).is_ok_and(|now| look(&by_hand).is_ok_and(|wanted| now == wanted)))
            .with_context(|| format!("{:#?}", look(&node)))?;
        Ok(())
    })
}

#[test]
fn who_is_on_the_endpoints_node_and_goes_round_by_another_is_seen_as_well() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::new(lab)?;
        let (web, asks) = (stage.topology.pod(2, "web-2")?, stage.topology.pod(2, "asks")?);
        stage.topology.serve(&web, 8080)?;
        for keep in ["preserve", "preserve-direct"] {
            stage.start(&service(keep, "", &[ready(&web)]))?;
            for family in [Family::V4, Family::V6] {
                let node = stage.topology.node(2);
                for (host, address) in [(asks.host(), asks.address(family)), (node.host(), node.address(family))] {
                    for transport in Transport::ALL {
                        let node_port = SocketAddr::new(stage.topology.node(1).address(family), 30080);
                        let outcome = ask(host, Some(address), node_port, transport)?;
                        let case = format!("{keep} {transport:?} from {address}: {outcome:?}");
                        let seen = outcome.seen().with_context(|| case.clone())?;
                        ensure!(seen.source.ip() == address, "{case}");
                    }
                }
            }
        }
        Ok(())
    })
}

#[test]
fn a_udp_client_that_came_by_tunnel_goes_on_to_the_next_endpoint() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::new(lab)?;
        let (first, next) = (stage.topology.pod(2, "first")?, stage.topology.pod(2, "next")?);
        for pod in [&first, &next] {
            stage.topology.serve(pod, 8080)?;
        }
        stage.start(&service("preserve", "", &[ready(&first)]))?;
        let mut clients = Vec::new();
        for family in [Family::V4, Family::V6] {
            let node_port = SocketAddr::new(stage.topology.node(1).address(family), 30080);
            for target in [vip(family), node_port] {
                let client = Entry::Router(1).client(family);
                clients.push(Datagrams::open(stage.topology.client(), Some(client), target)?);
            }
        }
        for client in &mut clients {
            let outcome = client.ask(PATIENCE)?;
            ensure!(outcome.seen().is_some_and(|seen| seen.pod == "first"), "{outcome:?}");
        }
        for (pod, name) in [(&next, "next"), (&first, "first")] {
            stage.change(&service("preserve", "", &[ready(pod)]))?;
            for client in &mut clients {
                let outcome = client.ask(PATIENCE)?;
                ensure!(outcome.seen().is_some_and(|seen| seen.pod == name), "{name}: {outcome:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_node_that_is_a_client_itself_may_use_the_numbers_of_node_ports() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::new(lab)?;
        let (web, other) = (stage.topology.pod(2, "web-2")?, stage.topology.host_pod(3, "other"));
        stage.topology.serve(&web, 8080)?;
        stage.topology.serve(&other, 9090)?;
        for keep in ["preserve", "preserve-direct"] {
            stage.start(&service(keep, "", &[ready(&web)]))?;
            for family in [Family::V4, Family::V6] {
                for transport in Transport::ALL {
                    let node = stage.topology.node(1);
                    let own = SocketAddr::new(node.address(family), 30080);
                    let target = SocketAddr::new(other.address(family), 9090);
                    let outcome = ask_with(node.host(), Some(own), target, transport, PATIENCE)?;
                    ensure!(outcome.seen().is_some_and(|seen| seen.pod == "other"), "{keep} {own}: {outcome:?}");
                }
            }
        }
        Ok(())
    })
}
