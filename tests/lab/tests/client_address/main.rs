//! The client's address on the wire: client, load balancer, gateway and backend are hosts of their own.
//!
//! ```text
//!  client 10.1.0.2 ── 10.1.0.1 ┐
//!         fd01::2  ── fd01::1  │
//!                           gateway 10.3.0.1 ── 10.3.0.2 backend
//!  balancer 10.2.0.2 ─ 10.2.0.1│    fd03::1  ── fd03::2
//!           fd02::2  ─ fd02::1 ┘
//! ```

mod transparent;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context, Result};
use headwater_conformance_tests::Stand;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::Dial;
use headwater_testkit::lab::{self, Host, Lab, Process};
use headwater_testkit::origin::{Kind, Origin};
use headwater_testkit::response::Response;
use headwater_testkit::{Whoami, proxy, wait};

/// Addresses of one family.
struct Family {
    client: IpAddr,
    /// The gateway, as the client and the balancer reach it.
    towards_client: IpAddr,
    balancer: IpAddr,
    towards_balancer: IpAddr,
    /// The gateway, as the backend sees it.
    towards_backend: IpAddr,
    backend: IpAddr,
    prefix: u8,
}

fn families() -> Result<[Family; 2]> {
    let family = |format: fn(u8, u8) -> String, prefix| {
        let address = |network, host| -> Result<IpAddr> { Ok(format(network, host).parse()?) };
        anyhow::Ok(Family {
            client: address(1, 2)?,
            towards_client: address(1, 1)?,
            balancer: address(2, 2)?,
            towards_balancer: address(2, 1)?,
            towards_backend: address(3, 1)?,
            backend: address(3, 2)?,
            prefix,
        })
    };
    let v4 = family(|network, host| format!("10.{network}.0.{host}"), 24)?;
    let v6 = family(|network, host| format!("fd0{network}::{host}"), 64)?;
    Ok([v4, v6])
}

struct Hosts {
    client: Host,
    balancer: Host,
    gateway: Host,
    backend: Host,
}

impl Hosts {
    fn new(lab: &Lab) -> Result<Self> {
        let hosts = Self {
            client: lab.host("client")?,
            balancer: lab.host("balancer")?,
            gateway: lab.host("gateway")?,
            backend: lab.host("backend")?,
        };
        hosts.client.wire("eth0", &hosts.gateway, "client0")?;
        hosts.balancer.wire("eth0", &hosts.gateway, "balancer0")?;
        hosts.backend.wire("eth0", &hosts.gateway, "backend0")?;
        for family in families()? {
            for (host, interface, address) in [
                (&hosts.client, "eth0", family.client),
                (&hosts.gateway, "client0", family.towards_client),
                (&hosts.balancer, "eth0", family.balancer),
                (&hosts.gateway, "balancer0", family.towards_balancer),
                (&hosts.gateway, "backend0", family.towards_backend),
                (&hosts.backend, "eth0", family.backend),
            ] {
                host.address(interface, &format!("{address}/{}", family.prefix))?;
            }
        }
        // Nobody but the gateway reaches the backend: it forwards no packets, and the others have no route.
        Ok(hosts)
    }
}

/// Packets of an interface with their content, as text.
struct Packets(Process);

impl Packets {
    fn of(host: &Host, interface: &str) -> Result<Self> {
        let mut command = Command::new("tcpdump");
        let options = ["-Z", "root", "-n", "-l", "-A", "--immediate-mode", "-s", "0", "-i", interface, "tcp"];
        let mut process = host.spawn_process(command.args(options))?;
        wait::until(wait::DEADLINE, || process.stderr().contains("listening on") || process.ended().is_some())?;
        anyhow::ensure!(process.ended().is_none(), "tcpdump on {}: {}", host.name(), process.stderr());
        Ok(Self(process))
    }

    /// Waits for a packet from one address to another with all these words in its content.
    fn wait_for(&self, from: IpAddr, to: IpAddr, words: &[&str]) -> Result<()> {
        let packet = || {
            let text = self.0.stdout();
            // A packet begins with a line that has its time; its content follows.
            let (source, target) = (format!(" {from}."), format!(" > {to}."));
            packets(&text).any(|packet| {
                let head = packet.lines().next().unwrap_or_default();
                head.contains(&source)
                    && head.contains(&target)
                    && words.iter().all(|word| packet.to_ascii_lowercase().contains(&word.to_ascii_lowercase()))
            })
        };
        wait::until(wait::DEADLINE, packet)
            .with_context(|| format!("no packet from {from} to {to} with {words:?} in:\n{}", self.0.stdout()))
    }
}

/// The packets in tcpdump's text.
fn packets(text: &str) -> impl Iterator<Item = String> {
    let is_head = |line: &str| {
        let mut words = line.split_whitespace();
        let time = words.next().is_some_and(|word| word.len() == 15 && word.as_bytes()[2] == b':');
        time && words.next().is_some_and(|word| matches!(word, "IP" | "IP6"))
    };
    let mut packets: Vec<String> = Vec::new();
    for line in text.lines() {
        match packets.last_mut() {
            Some(packet) if !is_head(line) => {
                packet.push('\n');
                packet.push_str(line);
            }
            _ => packets.push(line.to_owned()),
        }
    }
    packets.into_iter()
}

const LISTENERS: &str = "listeners:
  - {name: direct, port: 0, protocol: HTTP}
  - {name: cdn, port: 0, protocol: HTTP, clientAddress: {trustedProxies: [10.2.0.0/24, \"fd02::/64\"], forwardedHeader: X-Forwarded-For}}
  - {name: proxied, port: 0, protocol: HTTP, clientAddress: {trustedProxies: [10.2.0.0/24, \"fd02::/64\"], proxyProtocol: Required}}
";

/// One row of the truth table on the wire.
struct Row<'a> {
    name: &'a str,
    /// Who connects, and with what before and in the request.
    from: &'a Host,
    source: IpAddr,
    target: SocketAddr,
    preamble: Vec<u8>,
    headers: String,
    /// `X-Forwarded-For` at the backend; its first address is the client.
    forwarded: String,
}

impl Row<'_> {
    fn ask(&self) -> Result<Response> {
        let dial = Dial::to(self.target).preamble(&self.preamble);
        let request = format!(
            "GET /{} HTTP/1.1\r\nHost: app.test\r\n{}Connection: close\r\n\r\n",
            self.name.replace(' ', "-"),
            self.headers
        );
        self.from.run(|| RawClient::open(&dial)?.request(request))
    }
}

#[test]
fn the_backend_learns_the_client_from_the_packets_it_gets() -> Result<()> {
    lab::test(|lab| {
        let hosts = Hosts::new(lab)?;
        for family in families()? {
            let listen = SocketAddr::new(family.backend, 8080);
            let origin = hosts.backend.run(|| Origin::start(Kind::Http, Whoami::new("backend", [listen])))?;
            let app = Stand::app("app", "app.test", &[origin.address()]);
            let stand = hosts
                .gateway
                .run(|| Stand::start(&[("gateway.yaml", Stand::gateway_with(LISTENERS)), ("app.yaml", app)]))?;
            let at_client = Packets::of(&hosts.gateway, "client0")?;
            let at_balancer = Packets::of(&hosts.gateway, "balancer0")?;
            let at_backend = Packets::of(&hosts.backend, "eth0")?;
            let (client, balancer) = (family.client, family.balancer);
            let at = |address: IpAddr, listener: &str| SocketAddr::new(address, stand.port(listener));
            let proxied = at(family.towards_balancer, "proxied");
            let rows = [
                Row {
                    name: "row 1",
                    from: &hosts.client,
                    source: client,
                    target: at(family.towards_client, "direct"),
                    preamble: Vec::new(),
                    headers: String::new(),
                    forwarded: client.to_string(),
                },
                Row {
                    name: "row 5",
                    from: &hosts.balancer,
                    source: balancer,
                    target: at(family.towards_balancer, "cdn"),
                    preamble: Vec::new(),
                    headers: format!("X-Forwarded-For: {client}\r\n"),
                    forwarded: format!("{client}, {balancer}"),
                },
                Row {
                    name: "row 20",
                    from: &hosts.balancer,
                    source: balancer,
                    target: proxied,
                    preamble: proxy::v1(SocketAddr::new(client, 50_000), proxied),
                    headers: String::new(),
                    forwarded: client.to_string(),
                },
                // The same bytes from a host that nobody trusts.
                Row {
                    name: "row 7",
                    from: &hosts.client,
                    source: client,
                    target: at(family.towards_client, "cdn"),
                    preamble: Vec::new(),
                    headers: format!("X-Forwarded-For: {balancer}\r\n"),
                    forwarded: client.to_string(),
                },
            ];
            for row in &rows {
                let seen = row.ask().and_then(|answer| answer.seen()).with_context(|| row.name.to_owned())?;
                assert_eq!(seen.header("x-real-ip"), Some(client.to_string()), "{}", row.name);
                assert_eq!(seen.header("x-forwarded-for").as_ref(), Some(&row.forwarded), "{}", row.name);
                assert_eq!(seen.peer()?.ip(), family.towards_backend, "{}: the gateway connects from itself", row.name);
                let target = format!("GET /{} HTTP/1.1", row.name.replace(' ', "-"));
                let down = if row.source == client { &at_client } else { &at_balancer };
                down.wait_for(row.source, row.target.ip(), &[&target])?;
                let forwarded = format!("\nx-forwarded-for: {}", row.forwarded);
                let real = format!("\nx-real-ip: {client}");
                at_backend.wait_for(family.towards_backend, family.backend, &[&target, &forwarded, &real])?;
            }
            // Row 23: the victim's address in a PROXY header of a stranger goes nowhere.
            let stranger = Row {
                name: "row 23",
                from: &hosts.client,
                source: client,
                target: at(family.towards_client, "proxied"),
                preamble: proxy::v1(SocketAddr::new(balancer, 50_000), proxied),
                headers: String::new(),
                forwarded: String::new(),
            };
            assert!(stranger.ask().is_err(), "the connection is closed");
            let seen = at_backend.0.stdout();
            assert!(!seen.contains("row-23"), "{seen}");
            let addresses = packets(&seen).filter(|packet| {
                packet.lines().next().is_some_and(|head| {
                    head.contains(&format!(" {client}.")) || head.contains(&format!(" {balancer}."))
                })
            });
            assert_eq!(addresses.count(), 0, "only the gateway talks to the backend: {seen}");
        }
        Ok(())
    })
}
