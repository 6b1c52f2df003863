//! Hosts on one segment, and planes on some of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use headwater_announcer::l2::{DEFAULT_EXCLUDED, L2Announcer, L2State, Membership, Settings, VipState, excluded};
use headwater_announcer::metrics::SpeakerAnnounced;
use headwater_l2::{Candidate, elect};
use headwater_model::announce::{Announcements, L2Candidate, Vip};
use headwater_model::origin::{Kind, ObjectKey, Origin};
use headwater_process::metrics::Registry;
use headwater_process::publish::{Publisher, publish};
use headwater_testkit::lab::{Host, Lab, Process};
use headwater_testkit::wait::{self, DEADLINE};
use tokio::runtime::Runtime;

/// The address of the Service `shop/web` in each family.
pub(crate) const VIPS: [&str; 2] = ["192.0.2.100", "2001:db8:2::100"];

/// Its announcer, among the three nodes.
pub(crate) fn elected(names: &[&str]) -> String {
    let candidates: Vec<Candidate> = names.iter().map(|name| Candidate { node: (*name).into(), weight: 0 }).collect();
    elect(VIPS[0], &candidates).expect("there are nodes").node.to_string()
}

pub(crate) const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// What objects say: both addresses, announced by these nodes, on these interfaces.
pub(crate) fn announcements(nodes: &[&str], interfaces: Option<&[&str]>) -> Announcements {
    let interfaces =
        interfaces.map(|names| Arc::new(names.iter().map(|name| Arc::from(*name)).collect::<BTreeSet<_>>()));
    let candidates: Arc<[L2Candidate]> = nodes
        .iter()
        .map(|node| L2Candidate { node: (*node).into(), weight: 0, interfaces: interfaces.clone() })
        .collect();
    let vip = |address: &str| {
        Arc::new(Vip {
            address: address.parse().expect("it is an address"),
            origin: Origin { key: ObjectKey::new(Kind::Service, "shop", "web"), generation: 1 },
            first: VIPS[0].into(),
            pool: "pool".into(),
            is_local: false,
            is_served: true,
            serving: Arc::default(),
            l2: Ok(candidates.clone()),
            bgp: Vec::new(),
        })
    };
    Announcements { vips: VIPS.map(vip).into(), ..Announcements::default() }
}

/// Everything on one segment.
pub(crate) struct Segment<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) client: Host,
    pub(crate) stranger: Host,
    switch: Host,
    pub(crate) runtime: Runtime,
    pub(crate) nodes: Vec<Node>,
}

pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) plane: Option<L2Announcer>,
    publisher: Publisher<Announcements>,
    pub(crate) registry: Registry,
}

impl<'lab> Segment<'lab> {
    /// A client at .50, a stranger at .66, and three nodes, on which no plane runs yet.
    pub(crate) fn new(lab: &'lab Lab) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let switch = lab.host("switch")?;
        switch.ip("link add br0 type bridge mcast_snooping 0")?;
        switch.ip("link set br0 up")?;
        let host = |name: &str, last: u32| -> Result<Host> {
            let host = lab.host(name)?;
            plug(&switch, &host, name)?;
            host.address("eth0", &format!("192.0.2.{last}/24"))?;
            host.address("eth0", &format!("2001:db8:2::{last}/64"))?;
            Ok(host)
        };
        let (client, stranger) = (host("client", 50)?, host("stranger", 66)?);
        let nodes = NODES.iter().zip(11..).map(|(name, last)| {
            let (publisher, _) = publish(Announcements::default());
            Ok(Node { host: host(name, last)?, plane: None, publisher, registry: Registry::bare() })
        });
        let nodes = nodes.collect::<Result<_>>()?;
        Ok(Self { lab, client, stranger, switch, runtime, nodes })
    }

    /// Wires a host whose interface went away again.
    pub(crate) fn plug(&self, host: &Host) -> Result<()> {
        plug(&self.switch, host, &format!("{}b", host.name()))
    }

    /// Starts the plane of a node.
    pub(crate) fn start(&mut self, name: &str, said: &Announcements, membership: Option<Membership>) -> Result<()> {
        let excluded = excluded(&DEFAULT_EXCLUDED).map_err(anyhow::Error::msg)?;
        let settings = Settings { node: name.into(), excluded };
        let runtime = self.runtime.handle().clone();
        let node = self.nodes.iter_mut().find(|node| node.host.name() == name).context("there is such a node")?;
        node.publisher.publish(said.clone());
        node.registry = Registry::bare();
        let (subscriber, registry) = (node.publisher.subscribe(), node.registry.clone());
        let announced = SpeakerAnnounced::new(&registry, name.into());
        let statuses = membership.as_ref().map(|_| "metallb-system".to_owned());
        node.plane = Some(node.host.run(move || {
            let _guard = runtime.enter();
            L2Announcer::start(subscriber, membership, statuses, settings, &registry, &announced)
        })?);
        // The publication came before the plane.
        node.publisher.publish(said.clone());
        Ok(())
    }

    pub(crate) fn say(&self, said: &Announcements) {
        for node in &self.nodes {
            node.publisher.publish(said.clone());
        }
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.host.name() == name).expect("there is such a node")
    }

    pub(crate) fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.host.name() == name).expect("there is such a node")
    }

    /// Waits until a node answers for both addresses.
    pub(crate) fn announced_by(&self, name: &str) -> Result<()> {
        let node = self.node(name);
        wait::until(DEADLINE, || node.state().vips.iter().filter(|vip| vip.is_announced).count() == VIPS.len())
            .with_context(|| format!("{name}: {:?}", node.state()))
    }

    /// Hardware addresses that answer the client for an address.
    pub(crate) fn answering(&self, vip: &str) -> Result<BTreeSet<String>> {
        answering(&self.client, vip)
    }

    /// Frames that a host hears from now on.
    pub(crate) fn capture(&self, host: &Host) -> Result<Process> {
        self.lab.capture(host, "eth0")
    }
}

fn plug(switch: &Host, host: &Host, port: &str) -> Result<()> {
    host.wire("eth0", switch, port)?;
    switch.ip(&format!("link set {port} master br0"))?;
    // The link-local address is there at once, since nobody looks for duplicates of it.
    wait::until(DEADLINE, || {
        host.ip("-6 -brief address show dev eth0 scope link").is_ok_and(|text| text.contains("fe80"))
    })
}

/// Hardware addresses that answer a host for an address, in lower case. Nobody may do so: then there are none.
pub(crate) fn answering(host: &Host, vip: &str) -> Result<BTreeSet<String>> {
    let text = if vip.contains(':') {
        host.exec("sh", &["-c", &format!("ndisc6 -m -r 1 -w 700 {vip} eth0 || true")])?
    } else {
        host.exec("sh", &["-c", &format!("arping -c 2 -w 1 -W 0.3 -i eth0 {vip} || true")])?
    };
    let words = text.split(|c: char| !(c.is_ascii_hexdigit() || c == ':'));
    let macs = words.filter_map(|word| {
        let parts: Vec<&str> = word.split(':').collect();
        let bytes: Vec<String> = parts.iter().map(|part| format!("{part:0>2}").to_ascii_lowercase()).collect();
        (parts.len() == 6 && parts.iter().all(|part| (1..=2).contains(&part.len()))).then(|| bytes.join(":"))
    });
    Ok(macs.collect())
}

impl Node {
    pub(crate) fn state(&self) -> Arc<L2State> {
        self.plane.as_ref().map(|plane| plane.state().borrow().clone()).unwrap_or_default()
    }

    pub(crate) fn vip(&self, address: &str) -> Option<VipState> {
        let address: IpAddr = address.parse().expect("it is an address");
        self.state().vips.iter().find(|vip| vip.address == address).cloned()
    }

    /// Of its eth0.
    pub(crate) fn mac(&self) -> Result<String> {
        mac(&self.host)
    }
}

/// Hardware address of a host's eth0.
pub(crate) fn mac(host: &Host) -> Result<String> {
    let text = host.ip("-brief link show dev eth0")?;
    text.split_whitespace().nth(2).map(str::to_owned).with_context(|| text.clone())
}

/// Seconds since 1970 and text of the frames by which a host tells everybody that it has an address.
pub(crate) fn gratuitous(captured: &str, mac: &str, vip: &str) -> Vec<(f64, String)> {
    let from = format!(" {mac} > ");
    let said = |line: &str| {
        let v4 = line.contains(&format!("who-has {vip} (ff:ff:ff:ff:ff:ff) tell {vip},"))
            || (line.contains(&format!("Reply {vip} is-at {mac}")) && line.contains("> ff:ff:ff:ff:ff:ff,"));
        let v6 = line.contains(&format!("neighbor advertisement, tgt is {vip},")) && line.contains("> ff02::1:");
        v4 || v6
    };
    let lines = captured.lines().filter(|line| line.contains(&from) && said(line));
    lines.filter_map(|line| Some((line.split(' ').next()?.parse().ok()?, line.to_owned()))).collect()
}
