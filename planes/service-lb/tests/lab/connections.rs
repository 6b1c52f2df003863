//! Connections live on, whatever changes around them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::{Stage, ready, service, terminating, vip};
use anyhow::{Context, Result, ensure};
use headwater_testkit::lab::{self, Host};
use headwater_testkit::services::{Entry, Family, Topology, Transport, ask};
use headwater_testkit::wait;
use socket2::SockRef;

const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that a pod echoes.
struct Talk {
    reader: BufReader<TcpStream>,
    greeting: String,
    target: SocketAddr,
}

impl Talk {
    fn start(client: &Host, source: IpAddr, target: SocketAddr) -> Result<Self> {
        let stream = client.run(|| -> Result<TcpStream> {
            let socket = socket2::Socket::new(socket2::Domain::for_address(target), socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
            socket.connect_timeout(&target.into(), PATIENCE)?;
            Ok(socket.into())
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(stream);
        let mut greeting = String::new();
        reader.read_line(&mut greeting)?;
        Ok(Self { reader, greeting, target })
    }

    fn say(&mut self, what: &[u8]) -> Result<()> {
        let mut stream = self.reader.get_ref().try_clone()?;
        let said = what.to_vec();
        let writer = std::thread::spawn(move || stream.write_all(&said));
        let mut heard = vec![0; what.len()];
        self.reader.read_exact(&mut heard).context("no echo")?;
        // The acknowledgement goes now, not while the test tears something down: a node without rules answers it by RST.
        SockRef::from(self.reader.get_ref()).set_tcp_quickack(true)?;
        writer.join().expect("the writer does not panic")?;
        ensure!(heard == what, "another echo");
        Ok(())
    }
}

fn talks(topology: &Topology<'_>, count: usize) -> Result<Vec<Talk>> {
    let mut all = Vec::new();
    for family in [Family::V4, Family::V6] {
        for node in [1, 2, 3] {
            let client = Entry::Router(node).client(family);
            let node_port = SocketAddr::new(topology.node(node).address(family), 30080);
            for target in [vip(family), node_port] {
                for _ in 0..count {
                    let talk = Talk::start(topology.client(), client, target);
                    all.push(talk.with_context(|| format!("by node {node} to {target}"))?);
                }
            }
        }
    }
    Ok(all)
}

fn all_speak(talks: &mut [Talk], when: &str) -> Result<()> {
    for talk in talks {
        talk.say(b"still there\n").with_context(|| format!("{when}: to {}, {}", talk.target, talk.greeting))?;
    }
    Ok(())
}

#[test]
fn connections_survive_endpoints_that_come_and_drain_on_other_nodes() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::new(lab)?;
        let pods = [1, 2, 3].map(|node| stage.topology.pod(node, &format!("web-{node}")));
        let [one, two, three] = pods;
        let (one, two, three) = (one?, two?, three?);
        for pod in [&one, &two, &three] {
            stage.topology.serve(pod, 8080)?;
        }
        for keep in ["preserve", "preserve-direct"] {
            stage.start(&service(keep, "", &[ready(&two)]))?;
            let mut talks = talks(&stage.topology, 4)?;
            all_speak(&mut talks, "at first")?;
            // Two thirds of the places move.
            stage.change(&service(keep, "", &[ready(&one), ready(&two), ready(&three)]))?;
            all_speak(&mut talks, "two endpoints more")?;
            talks.extend(self::talks(&stage.topology, 4)?);
            // All places of node 2 move on; its endpoint drains.
            stage.change(&service(keep, "", &[ready(&one), terminating(&two), ready(&three)]))?;
            all_speak(&mut talks, "the first one drains")?;
            stage.change(&service(keep, "", &[terminating(&one), terminating(&two), ready(&three)]))?;
            all_speak(&mut talks, "two drain")?;
        }
        Ok(())
    })
}

#[test]
fn connections_survive_another_way_of_keeping_the_client() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::new(lab)?;
        let web = stage.topology.pod(2, "web-2")?;
        stage.topology.serve(&web, 8080)?;
        let of = |keep| service(keep, "", &[ready(&web)]);
        stage.start(&of("masquerade"))?;
        let mut all = talks(&stage.topology, 2)?;
        for keep in ["preserve", "preserve-direct", "preserve"] {
            stage.change(&of(keep))?;
            all_speak(&mut all, keep)?;
            all.extend(talks(&stage.topology, 1)?);
        }
        Ok(())
    })
}

#[test]
fn connections_survive_the_agent_and_what_was_torn_down_comes_back() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::new(lab)?;
        let web = stage.topology.pod(2, "web-2")?;
        stage.topology.serve(&web, 8080)?;
        let objects = service("preserve", "", &[ready(&web)]);
        stage.start(&objects)?;
        let mut all = talks(&stage.topology, 2)?;
        stage.stop()?;
        all_speak(&mut all, "without agents")?;
        all.extend(talks(&stage.topology, 1)?);
        stage.start(&objects)?;
        all_speak(&mut all, "with new agents")?;
        for (what, arguments) in [
            ("nft", &["flush", "ruleset"][..]),
            ("nft", &["flush", "map", "ip", "headwater-services", "svc_keep"]),
            ("nft", &["flush", "chain", "ip6", "headwater-services", "services"]),
            ("ip", &["link", "delete", "hwvx"]),
            ("ip", &["rule", "delete", "priority", "90"]),
            ("ip", &["-6", "rule", "delete", "priority", "90"]),
        ] {
            for node in stage.topology.nodes() {
                node.host().exec(what, arguments)?;
            }
            let said = format!("after {what} {}", arguments.join(" "));
            for family in [Family::V4, Family::V6] {
                let client = Entry::Router(1).client(family);
                wait::until(wait::DEADLINE, || {
                    let outcome = ask(stage.topology.client(), Some(client), vip(family), Transport::Tcp);
                    outcome.is_ok_and(|outcome| outcome.seen().is_some_and(|seen| seen.source.ip() == client))
                })
                .context(said.clone())?;
            }
            all_speak(&mut all, &said)?;
        }
        Ok(())
    })
}

#[test]
fn large_transfers_pass_the_tunnel_whatever_the_links_carry() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::new(lab)?;
        let (web, host) = (stage.topology.pod(2, "web-2")?, stage.topology.host_pod(2, "host-2"));
        for pod in [&web, &host] {
            stage.topology.serve(pod, 8080)?;
        }
        let data = vec![7; 3 << 20];
        for keep in ["preserve", "preserve-direct"] {
            for pod in [&web, &host] {
                stage.start(&service(keep, "", &[ready(pod)]))?;
                for family in [Family::V4, Family::V6] {
                    let client = Entry::Router(1).client(family);
                    let mut talk = Talk::start(stage.topology.client(), client, vip(family))?;
                    talk.say(&data).with_context(|| format!("{keep} {}", talk.greeting))?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn a_narrow_link_before_the_client_is_told_to_the_endpoint_on_another_node() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::new(lab)?;
        let web = stage.topology.pod(2, "web-2")?;
        stage.topology.serve(&web, 8080)?;
        // The client does not know of it: only ICMP errors, to the node that took its packets, tell.
        stage.topology.router().ip("link set client0 mtu 1300")?;
        // What it sends itself is small enough: a veth drops larger packets, and tells nobody. What it asks for is not.
        for route in [
            "-4 route replace default via 198.51.100.1 dev eth0 src 198.51.100.7 mtu 1300 advmss 1460",
            "-6 route replace default via 2001:db8:c::1 dev eth0 src 2001:db8:c::7 metric 1024 mtu 1300 advmss 1440",
        ] {
            stage.topology.client().ip(route)?;
        }
        let data = vec![7; 256 << 10];
        for (keep, affinity) in [("preserve", ""), ("preserve", "  sessionAffinity: ClientIP\n")] {
            stage.start(&service(keep, affinity, &[ready(&web)]))?;
            for family in [Family::V4, Family::V6] {
                let client = Entry::Router(1).client(family);
                let node_port = SocketAddr::new(stage.topology.node(1).address(family), 30080);
                let mut talk = Talk::start(stage.topology.client(), client, node_port)?;
                talk.say(&data).with_context(|| format!("{keep} {affinity} {}", talk.greeting))?;
            }
        }
        Ok(())
    })
}
