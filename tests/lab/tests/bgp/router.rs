//! Routers of others.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use headwater_testkit::lab::{Host, Process};
use headwater_testkit::wait;
use serde_json::Value;
use tempfile::TempDir;

use crate::node::PATIENCE;

const FRR: &str = "/usr/lib/frr";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bird,
    Frr,
}

pub(crate) const KINDS: [Kind; 2] = [Kind::Bird, Kind::Frr];

/// A neighbour as the router is told of it.
#[derive(Debug, Clone)]
pub(crate) struct Neighbour {
    pub(crate) local: &'static str,
    pub(crate) port: u16,
    pub(crate) asn: u32,
    /// Address, or the interface behind which it is; then `local` is nothing.
    pub(crate) remote: &'static str,
    pub(crate) remote_asn: u32,
    pub(crate) password: Option<&'static str>,
    pub(crate) multihop: bool,
    /// Waits to be connected.
    pub(crate) passive: bool,
    pub(crate) bfd: bool,
    pub(crate) hold: u16,
}

impl Neighbour {
    pub(crate) fn new(local: &'static str, remote: &'static str) -> Self {
        Self {
            local,
            port: 179,
            asn: 64513,
            remote,
            remote_asn: 64512,
            password: None,
            multihop: false,
            passive: true,
            bfd: false,
            hold: 90,
        }
    }
}

/// What a router knows of a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    pub(crate) next_hop: String,
    pub(crate) path: String,
    pub(crate) local_pref: Option<u32>,
    /// As the router writes them, with blanks taken out.
    pub(crate) communities: Vec<String>,
    pub(crate) large: Vec<String>,
}

/// A router in a host of the lab.
pub(crate) struct Router {
    pub(crate) kind: Kind,
    host: Host,
    directory: TempDir,
    processes: Vec<Process>,
}

fn needs(program: &str, package: &str) -> Result<()> {
    ensure!(Path::new(program).exists(), "{program} is missing: apt-get install {package}");
    Ok(())
}

impl Router {
    pub(crate) fn start(kind: Kind, host: &Host, neighbours: &[Neighbour]) -> Result<Self> {
        let mut router = Self { kind, host: host.clone(), directory: TempDir::new()?, processes: Vec::new() };
        let files = match kind {
            Kind::Bird => vec![("bird", bird(neighbours))],
            Kind::Frr => {
                vec![("zebra", "log stdout\n".to_owned()), ("bfdd", BFDD.to_owned()), ("bgpd", frr(neighbours))]
            }
        };
        for (name, text) in files {
            std::fs::write(router.directory.path().join(format!("{name}.conf")), text)?;
        }
        router.run()?;
        Ok(router)
    }

    /// Starts its programs.
    pub(crate) fn run(&mut self) -> Result<()> {
        let directory = self.directory.path().to_owned();
        let file = |name: &str| directory.join(name);
        match self.kind {
            Kind::Bird => {
                needs("/usr/sbin/bird", "bird2")?;
                let mut command = Command::new("/usr/sbin/bird");
                command.arg("-f").arg("-c").arg(file("bird.conf")).arg("-s").arg(file("control"));
                command.arg("-P").arg(file("pid"));
                self.processes.push(self.host.spawn_process(&command)?);
                wait::until(PATIENCE, || self.ask("show status").is_ok())?;
            }
            Kind::Frr => {
                // The daemons give up root.
                let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
                std::fs::set_permissions(&directory, all)?;
                for daemon in ["zebra", "bfdd", "bgpd"] {
                    let program = format!("{FRR}/{daemon}");
                    needs(&program, "frr")?;
                    let mut command = Command::new(&program);
                    command.arg("-f").arg(file(&format!("{daemon}.conf"))).arg("-z").arg(file("zserv.api"));
                    command.arg("--vty_socket").arg(&directory).arg("-i").arg(file(&format!("{daemon}.pid")));
                    command.args(["-A", "127.0.0.1", "-P", "0", "--log", "stdout"]);
                    if daemon == "bfdd" {
                        command.arg("--bfdctl").arg(file("bfdd.sock"));
                    }
                    self.processes.push(self.host.spawn_process(&command)?);
                    let vty = file(&format!("{daemon}.vty"));
                    wait::until(PATIENCE, || vty.exists())?;
                }
                wait::until(PATIENCE, || self.ask("show bgp summary").is_ok())?;
            }
        }
        Ok(())
    }

    /// Ends its programs without a word, as a crash does.
    pub(crate) fn crash(&mut self) {
        self.processes.clear();
        for left in ["control", "zserv.api", "zebra.vty", "bfdd.vty", "bgpd.vty", "bfdd.sock"] {
            // Not each router has each.
            let _ = std::fs::remove_file(self.directory.path().join(left));
        }
    }

    /// The router's own words about what it does.
    pub(crate) fn log(&self) -> String {
        self.processes.iter().map(|process| process.stderr() + &process.stdout()).collect()
    }

    /// Asks the router's shell.
    pub(crate) fn ask(&self, question: &str) -> Result<String> {
        let directory = self.directory.path();
        let mut command = match self.kind {
            Kind::Bird => {
                let mut command = Command::new("/usr/sbin/birdc");
                command.arg("-s").arg(directory.join("control")).args(question.split(' '));
                command
            }
            Kind::Frr => {
                let mut command = Command::new("/usr/bin/vtysh");
                command.arg("--vty_socket").arg(directory).args(["-c", question]);
                command
            }
        };
        let output = command.output().context("the router's shell")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{question}: {text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    /// What is known of the prefix.
    pub(crate) fn route(&self, prefix: &str) -> Option<Seen> {
        match self.kind {
            Kind::Bird => bird_route(&self.ask(&format!("show route {prefix} all")).ok()?),
            Kind::Frr => {
                let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
                let text = self.ask(&format!("show bgp {family} unicast {prefix} json")).ok()?;
                frr_route(&serde_json::from_str(&text).ok()?)
            }
        }
    }

    pub(crate) fn wait_for(&self, prefix: &str) -> Result<Seen> {
        wait::value(PATIENCE, || self.route(prefix)).with_context(|| format!("{:?}: {prefix}", self.kind))
    }

    pub(crate) fn wait_for_none(&self, prefix: &str) -> Result<()> {
        wait::until(PATIENCE, || self.route(prefix).is_none()).with_context(|| format!("{:?}: {prefix}", self.kind))
    }

    /// How many routes of IPv4 it learnt.
    pub(crate) fn count(&self) -> usize {
        let count = || match self.kind {
            Kind::Bird => {
                let text = self.ask("show route table master4 count").ok()?;
                text.lines().last()?.split(' ').next()?.parse().ok()
            }
            Kind::Frr => {
                let text = self.ask("show bgp ipv4 unicast summary json").ok()?;
                let value: Value = serde_json::from_str(&text).ok()?;
                Some(usize::try_from(value["ribCount"].as_u64()?).ok()?.div_ceil(2))
            }
        };
        count().unwrap_or(0)
    }
}

fn bird(neighbours: &[Neighbour]) -> String {
    let mut text = "log stderr all;\nrouter id 10.0.0.1;\nprotocol device {}\n\
        protocol direct { ipv4; ipv6; disabled; }\n\
        protocol bfd { interface \"*\" { interval 300 ms; multiplier 3; }; multihop { interval 300 ms; multiplier 3; }; }\n\
        protocol kernel { ipv4 { export all; }; merge paths on; }\nprotocol kernel { ipv6 { export all; }; merge paths on; }\n"
        .to_owned();
    for (index, neighbour) in neighbours.iter().enumerate() {
        let Neighbour { local, port, asn, remote, remote_asn, hold, .. } = neighbour;
        writeln!(
            text,
            "protocol bgp n{index} {{\n  local {local} port {port} as {asn};\n  neighbor {remote} as {remote_asn};"
        )
        .unwrap();
        writeln!(text, "  hold time {hold};\n  graceful restart on;\n  connect delay time 1;\n  error wait time 1,2;")
            .unwrap();
        writeln!(text, "  connect retry time 1;").unwrap();
        if let Some(password) = neighbour.password {
            writeln!(text, "  password \"{password}\";").unwrap();
        }
        if neighbour.multihop {
            writeln!(text, "  multihop 5;").unwrap();
        } else {
            writeln!(text, "  direct;").unwrap();
        }
        if neighbour.passive {
            writeln!(text, "  passive on;").unwrap();
        }
        if neighbour.bfd {
            writeln!(text, "  bfd on;").unwrap();
        }
        text.push_str(
            "  ipv4 { import all; export none; extended next hop on; };\n  ipv6 { import all; export none; };\n}\n",
        );
    }
    text
}

const BFDD: &str =
    "log stdout\nbfd\n profile fast\n  receive-interval 300\n  transmit-interval 300\n  detect-multiplier 3\n";

fn frr(neighbours: &[Neighbour]) -> String {
    let mut text =
        "log stdout\nrouter bgp 64513\n bgp router-id 10.0.0.1\n no bgp ebgp-requires-policy\n bgp graceful-restart\n"
            .to_owned();
    for neighbour in neighbours {
        let Neighbour { local, remote, remote_asn, hold, .. } = neighbour;
        let address = remote.parse::<IpAddr>().ok();
        match address {
            Some(_) => {
                writeln!(text, " neighbor {remote} remote-as {remote_asn}\n neighbor {remote} update-source {local}")
            }
            None => writeln!(text, " neighbor {remote} interface remote-as {remote_asn}"),
        }
        .unwrap();
        writeln!(text, " neighbor {remote} timers {} {hold}\n neighbor {remote} timers connect 1", hold / 3).unwrap();
        if let Some(password) = neighbour.password {
            writeln!(text, " neighbor {remote} password {password}").unwrap();
        }
        if neighbour.multihop {
            writeln!(text, " neighbor {remote} ebgp-multihop 5").unwrap();
        }
        if neighbour.passive {
            writeln!(text, " neighbor {remote} passive").unwrap();
        }
        if neighbour.bfd {
            writeln!(text, " neighbor {remote} bfd\n neighbor {remote} bfd profile fast").unwrap();
        }
        if address.is_some_and(|address| address.is_ipv6()) {
            writeln!(text, " neighbor {remote} capability extended-nexthop").unwrap();
        }
    }
    for family in ["ipv4", "ipv6"] {
        writeln!(text, " address-family {family} unicast\n  maximum-paths 8\n  maximum-paths ibgp 8").unwrap();
        for neighbour in neighbours {
            writeln!(text, "  neighbor {} activate", neighbour.remote).unwrap();
        }
        text.push_str(" exit-address-family\n");
    }
    text
}

/// The best route of BIRD's words.
fn bird_route(text: &str) -> Option<Seen> {
    let mut seen = Seen::default();
    let list = |text: &str| text.replace(", ", ",").split(' ').map(str::to_owned).collect::<Vec<_>>();
    for line in text.lines() {
        let Some((name, value)) = line.trim().split_once(": ") else { continue };
        match name {
            "BGP.next_hop" => seen.next_hop = value.to_owned(),
            "BGP.as_path" => seen.path = value.to_owned(),
            "BGP.local_pref" => seen.local_pref = value.parse().ok(),
            "BGP.community" => seen.communities = list(value),
            "BGP.large_community" => seen.large = list(value),
            _ => {}
        }
    }
    (!seen.next_hop.is_empty()).then_some(seen)
}

/// The first path of FRR's, in BIRD's words.
fn frr_route(value: &Value) -> Option<Seen> {
    let path = value["paths"].as_array()?.first()?;
    if !path["valid"].as_bool().unwrap_or(false) {
        return None;
    }
    let list = |value: &Value| -> Vec<String> {
        let words = value["string"].as_str().unwrap_or_default().split(' ').filter(|word| !word.is_empty());
        let number = |word: &str| if word == "no-export" { "65535:65281".to_owned() } else { word.to_owned() };
        words.map(|word| format!("({})", number(word).replace(':', ","))).collect()
    };
    let hops: Vec<&str> = path["nexthops"].as_array()?.iter().filter_map(|hop| hop["ip"].as_str()).collect();
    Some(Seen {
        next_hop: hops.join(" "),
        path: path["aspath"]["string"].as_str().unwrap_or_default().replace("Local", ""),
        local_pref: path["locPrf"].as_u64().and_then(|value| u32::try_from(value).ok()),
        communities: list(&path["community"]),
        large: list(&path["largeCommunity"]),
    })
}
