//! Case `services-path`: how fast packets go through Services by every way, and whether many Services slow the first.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_testkit::lab::{Host, Lab as Hosts};
use headwater_testkit::services::{Family, Pod};
use serde::Serialize;
use serde_json::json;

use super::super::cluster::AllCores;
use super::super::{Case, Lab};
use super::objects::{self, Endpoint, PORT, Service, filler};
use super::site::Site;
use super::stand::{Agent, Objects, Running, Stand, reached};
use super::traffic::{self, ACCEPT, ANSWER, BULK};
use crate::machine::Foreign;
use crate::report::{Check, Section, Table};
use crate::stats::Spread;

/// Services in the small clusters.
const FEW: usize = 10;

/// Until everything is programmed.
const START: Duration = Duration::from_secs(120);

/// Until an address that is programmed answers.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections in a row to one of two clusters, before those to the other.
const BLOCK: usize = 100;

/// Blocks to each in a round.
const BLOCKS: usize = 20;

/// A way to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// From a pod of node 1 to a pod of node 2, without a Service.
    PodDirect,
    /// The same by a cluster IP.
    ClusterIp,
    /// From outside to a pod of node 2, without a Service.
    OutsideDirect,
    /// From outside to a NodePort of node 1, and a pod there.
    Local,
    /// The same, and a pod of node 2, masqueraded.
    Masqueraded,
    /// The same, with the client kept; replies by way of node 1.
    Preserved,
    /// The same, with replies straight to the client.
    PreservedDirect,
    /// From outside to an address that the router sends to node 1, and a pod of node 2, masqueraded.
    VipMasqueraded,
    /// The same, with the client kept; replies by way of node 1.
    VipPreserved,
    /// The same, with replies straight to the client.
    VipPreservedDirect,
}

impl Way {
    const OF_HEADWATER: [Self; 10] = [
        Self::PodDirect,
        Self::ClusterIp,
        Self::OutsideDirect,
        Self::Local,
        Self::Masqueraded,
        Self::Preserved,
        Self::PreservedDirect,
        Self::VipMasqueraded,
        Self::VipPreserved,
        Self::VipPreservedDirect,
    ];
    /// Where nodes reach each other's pods by an overlay.
    const OVER_OVERLAY: [Self; 7] = [
        Self::OutsideDirect,
        Self::Masqueraded,
        Self::Preserved,
        Self::PreservedDirect,
        Self::VipMasqueraded,
        Self::VipPreserved,
        Self::VipPreservedDirect,
    ];
    const OF_PEERS: [Self; 4] = [Self::ClusterIp, Self::Local, Self::Masqueraded, Self::VipMasqueraded];

    /// The way to compare with where the client is kept.
    fn masqueraded(self) -> Option<Self> {
        match self {
            Self::Preserved | Self::PreservedDirect => Some(Self::Masqueraded),
            Self::VipPreserved | Self::VipPreservedDirect => Some(Self::VipMasqueraded),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::PodDirect => "pod to pod, no Service",
            Self::ClusterIp => "pod to ClusterIP, remote",
            Self::OutsideDirect => "client to pod, no Service",
            Self::Local => "NodePort, local",
            Self::Masqueraded => "NodePort, remote, masqueraded",
            Self::Preserved => "NodePort, remote, preserved",
            Self::PreservedDirect => "NodePort, remote, preserved, direct",
            Self::VipMasqueraded => "VIP, remote, masqueraded",
            Self::VipPreserved => "VIP, remote, preserved",
            Self::VipPreservedDirect => "VIP, remote, preserved, direct",
        }
    }

    fn is_by_vip(self) -> bool {
        matches!(self, Self::VipMasqueraded | Self::VipPreserved | Self::VipPreservedDirect)
    }

    fn is_from_pod(self) -> bool {
        matches!(self, Self::PodDirect | Self::ClusterIp)
    }

    /// The node of the pod that answers.
    fn node(self) -> usize {
        if self == Self::Local { 1 } else { 2 }
    }

    /// Name, number and annotation of the Service.
    fn service(self) -> Option<(&'static str, u8, &'static str)> {
        match self {
            Self::PodDirect | Self::OutsideDirect => None,
            Self::Local => Some(("path-local", 1, "preserve")),
            Self::ClusterIp | Self::Masqueraded | Self::VipMasqueraded => Some(("path-masqueraded", 2, "masquerade")),
            Self::Preserved | Self::VipPreserved => Some(("path-preserved", 3, "preserve")),
            Self::PreservedDirect | Self::VipPreservedDirect => Some(("path-preserved-direct", 4, "preserve-direct")),
        }
    }

    /// Where it leads when a port of pods is meant.
    fn target(self, stand: &Stand<'_>, port: u16) -> SocketAddr {
        let index = port - ANSWER;
        match self.service() {
            None => SocketAddr::new(address(&stand.pods[self.node() - 1]).into(), port),
            Some((_, number, _)) if self == Self::ClusterIp => SocketAddr::new(cluster_ip(number).into(), PORT + index),
            Some((_, number, _)) if self.is_by_vip() => SocketAddr::new(vip(number).into(), PORT + index),
            Some((_, number, _)) => SocketAddr::new(stand.node(1).address(Family::V4), node_port(number) + index),
        }
    }

    fn from<'a>(self, stand: &'a Stand<'_>) -> &'a Host {
        if self.is_from_pod() { stand.shell.host() } else { stand.topology.client() }
    }

    /// Whom the pod is to see; `None`: an address of the node that the client came to.
    fn source(self, agent: Agent, stand: &Stand<'_>) -> Option<IpAddr> {
        match self {
            Self::PodDirect | Self::ClusterIp => Some(stand.shell.address(Family::V4)),
            Self::Local if agent != Agent::Headwater => None,
            Self::Masqueraded | Self::VipMasqueraded => None,
            _ => Some(stand.topology.client_address(Family::V4)),
        }
    }
}

fn address(pod: &Pod) -> Ipv4Addr {
    match pod.address(Family::V4) {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => unreachable!("the address of family IPv4"),
    }
}

fn cluster_ip(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 8, 10 + number)
}

/// One that the router sends to node 1 for every client.
fn vip(number: u8) -> Ipv4Addr {
    match Family::V4.vip(100 + number) {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => unreachable!("the address of family IPv4"),
    }
}

fn node_port(number: u8) -> u16 {
    30_100 + 10 * u16::from(number)
}

/// The Services of all ways.
fn services(stand: &Stand<'_>) -> Vec<Service> {
    let of = |way: Way| {
        let (name, number, keep) = way.service()?;
        let endpoint = Endpoint { address: address(&stand.pods[way.node() - 1]), node: way.node() };
        Some(Service {
            name: name.to_owned(),
            cluster_ip: cluster_ip(number),
            node_port: Some(node_port(number)),
            external_ip: Some(vip(number)),
            keep: Some(keep),
            endpoints: vec![endpoint],
        })
    };
    [Way::Local, Way::Masqueraded, Way::Preserved, Way::PreservedDirect].into_iter().filter_map(of).collect()
}

/// How nodes reach the pods of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum PodNetwork {
    /// By routes.
    Flat,
    /// By VXLAN, as many pod networks do.
    Overlay,
}

/// A cluster with agents.
struct Subject<'hosts> {
    agent: Agent,
    network: PodNetwork,
    // They end before the machines.
    agents: Vec<Running>,
    stand: Stand<'hosts>,
}

impl Subject<'_> {
    /// Waits until everything is programmed, and checks that every way is what it is called.
    fn check(&mut self, ways: &[Way]) -> Result<()> {
        let (agent, stand) = (self.agent, &self.stand);
        for way in ways {
            let (from, target) = (way.from(stand), way.target(stand, ANSWER));
            let what = || format!("{}: {}", agent.name(), way.name());
            reached(from, &[target], &mut self.agents[0], START)
                .and_then(|took| took.context("not reached in time"))
                .with_context(what)?;
            let (pod, source) = (address(&stand.pods[way.node() - 1]), way.source(agent, stand));
            // Other nodes may need a moment more; until then they send the client by another way.
            let started = Instant::now();
            loop {
                let seen = from.run(|| traffic::ask(target, PATIENCE)).with_context(what)?;
                let kept = match source {
                    Some(source) => IpAddr::V4(seen.source) == source,
                    None => IpAddr::V4(seen.source) != stand.topology.client_address(Family::V4),
                };
                if seen.target == pod && kept {
                    break;
                }
                ensure!(started.elapsed() < START, "{}: {seen:?}, not {pod} and {source:?}", what());
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    fn ways(&self) -> &'static [Way] {
        match (self.agent, self.network) {
            (Agent::Headwater, PodNetwork::Flat) => &Way::OF_HEADWATER,
            (Agent::Headwater, PodNetwork::Overlay) => &Way::OVER_OVERLAY,
            _ => &Way::OF_PEERS,
        }
    }

    fn alive(&mut self) -> Result<()> {
        self.agents.iter_mut().try_for_each(Running::alive)
    }
}

/// What was measured of one way, a value for each round.
#[derive(Debug, Default, Serialize)]
struct Figures {
    per_second: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    gigabits: Vec<f64>,
    /// Connections that waited for a lost packet, in all rounds.
    stalled: usize,
    /// Those that nobody answered.
    failed: usize,
}

type Key = (Agent, PodNetwork, Way);
type All = BTreeMap<Key, Figures>;

/// Medians of connect() in microseconds, a value for each round.
#[derive(Debug, Default, Serialize)]
struct First {
    few_us: Vec<f64>,
    many_us: Vec<f64>,
}

pub(in super::super) fn run(lab: &Lab) -> Result<Section> {
    ensure!(!lab.headwater.is_empty(), "Headwater is measured here, beside kube-proxy");
    let _unpinned = AllCores::take(lab)?;
    measure(lab).with_context(|| format!("files: {}", lab.keep_folder()))
}

fn measure(lab: &Lab) -> Result<Section> {
    let site = Site::start(lab).context("control plane")?;
    let labs: [Hosts; 5] = std::array::from_fn(|_| Hosts::new());
    let few = directory(&site.folder, "few")?;
    let many = directory(&site.folder, "many")?;
    let ours = Stand::start(&labs[0], None)?;
    let (nodes, services) = (objects::nodes(&ours.topology, true), services(&ours));
    let fillers = |count: usize| (0..count).map(|number| filler(number, lab.args.sizes.endpoints()));
    let small: Vec<Service> = services.iter().cloned().chain(fillers(FEW - services.len())).collect();
    let large: Vec<Service> = services.iter().cloned().chain(fillers(lab.args.sizes.many())).collect();
    objects::write(&few, &nodes, &small)?;
    objects::write(&many, &nodes, &large)?;
    site.create(&small)?;

    let mut subjects = Vec::new();
    let overlay = Stand::start(&labs[4], None)?;
    overlay.tunnel_pods()?;
    for (agent, network, stand) in [
        (Agent::Headwater, PodNetwork::Flat, ours),
        (Agent::Headwater, PodNetwork::Overlay, overlay),
        (Agent::Nftables, PodNetwork::Flat, Stand::start(&labs[1], Some(&site.cluster))?),
        (Agent::Iptables, PodNetwork::Flat, Stand::start(&labs[2], Some(&site.cluster))?),
    ] {
        for service in &services {
            if let Some(address) = service.external_ip {
                stand
                    .topology
                    .router()
                    .ip(&format!("route add {address} via {}", stand.node(1).address(Family::V4)))?;
            }
        }
        let objects = if agent == Agent::Headwater { Objects::Directory(&few) } else { Objects::Api(&site.cluster) };
        let agents = (1..=objects::NODES).map(|node| stand.run(lab, agent, node, objects, &site.folder));
        let mut subject = Subject { agent, network, agents: agents.collect::<Result<_>>()?, stand };
        subject.check(subject.ways())?;
        subjects.push(subject);
    }
    let stand = Stand::start(&labs[3], None)?;
    let agents = vec![stand.run(lab, Agent::Headwater, 1, Objects::Directory(&many), &site.folder)?];
    let mut crowded = Subject { agent: Agent::Headwater, network: PodNetwork::Flat, agents, stand };
    crowded.check(&[Way::Local])?;
    let last = SocketAddr::from((filler(lab.args.sizes.many() - 1, 1).cluster_ip, PORT));
    let took = reached(crowded.stand.shell.host(), &[last], &mut crowded.agents[0], START)?;
    ensure!(took.is_some(), "the last of many Services is not reached");

    let (mut all, mut first, mut notes) = (All::new(), First::default(), vec![site.versions().join(", ")]);
    for round in 0..lab.args.rounds {
        let quiet = lab.wait_for_quiet()?.quiet;
        let foreign = Foreign::from_now()?;
        self::round(lab, &subjects, &mut all)?;
        first_packets(&subjects[0].stand, &crowded.stand, &mut first)?;
        let foreign = foreign.percent()?;
        subjects.iter_mut().chain([&mut crowded]).try_for_each(Subject::alive)?;
        let quiet = if quiet { "" } else { "; began without a quiet moment" };
        notes.push(format!("round {}: foreign CPU {foreign:.0} %{quiet}", round + 1));
    }
    Ok(section(lab, &all, &first, notes))
}

fn directory(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::create_dir(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Every way once, in shuffled order.
fn round(lab: &Lab, subjects: &[Subject<'_>], all: &mut All) -> Result<()> {
    let length = Duration::from_secs(lab.args.seconds.into());
    let ways: Vec<(&Subject<'_>, Way)> =
        subjects.iter().flat_map(|subject| subject.ways().iter().map(move |way| (subject, *way))).collect();
    let order = lab.shuffler.borrow_mut().order(ways.len());
    for (subject, way) in order.into_iter().map(|index| ways[index]) {
        let stand = &subject.stand;
        let what = || format!("{}: {}", subject.agent.name(), way.name());
        let connects = traffic::connects(way.from(stand), way.target(stand, ACCEPT), length).with_context(what)?;
        let bulk = traffic::bulk(way.from(stand), way.target(stand, BULK), length).with_context(what)?;
        let figures = all.entry((subject.agent, subject.network, way)).or_default();
        figures.per_second.push(connects.per_second);
        figures.p50_us.push(connects.p50);
        figures.p99_us.push(connects.p99);
        figures.stalled += connects.stalled;
        figures.failed += connects.failed;
        figures.gigabits.push(bulk * 8.0 / 1e9);
    }
    Ok(())
}

/// Connections one after the other to a pod of the same node by its cluster IP, in turn in both clusters.
fn first_packets(few: &Stand<'_>, many: &Stand<'_>, first: &mut First) -> Result<()> {
    let target = SocketAddr::from((cluster_ip(1), PORT + (ACCEPT - ANSWER)));
    let (mut of_few, mut of_many) = (Vec::new(), Vec::new());
    for _ in 0..BLOCKS {
        of_few.extend(traffic::connect_times(few.shell.host(), target, BLOCK)?);
        of_many.extend(traffic::connect_times(many.shell.host(), target, BLOCK)?);
    }
    for (times, medians) in [(of_few, &mut first.few_us), (of_many, &mut first.many_us)] {
        medians.extend(Spread::of(times).map(|spread| spread.median));
    }
    Ok(())
}

/// Of each round.
fn ratios(own: &[f64], other: &[f64]) -> Option<Spread> {
    Spread::of(own.iter().zip(other).map(|(own, other)| own / other))
}

fn cell(values: &[f64], decimals: usize) -> String {
    Spread::of(values.iter().copied()).map_or_else(|| "-".to_owned(), |spread| format!("{spread:.decimals$}"))
}

/// Who programmed it, and over what.
fn by((agent, network, _): Key) -> String {
    match network {
        PodNetwork::Flat => agent.name().to_owned(),
        PodNetwork::Overlay => format!("{}, pods by overlay", agent.name()),
    }
}

/// How many each way had, of those that had any.
fn counts(all: &All, of: fn(&Figures) -> usize) -> String {
    let some = all.iter().filter(|(_, figures)| of(figures) > 0);
    let each: Vec<String> =
        some.map(|(key, figures)| format!("{} by {} {}", key.2.name(), by(*key), of(figures))).collect();
    if each.is_empty() { "none".to_owned() } else { each.join(", ") }
}

fn section(lab: &Lab, all: &All, first: &First, mut notes: Vec<String>) -> Section {
    let mut table = Table::new(&[
        "way",
        "by",
        "connections/s",
        "connect p50 us",
        "p99 us",
        "Gbit/s",
        "connections/s to direct",
        "Gbit/s to direct",
    ]);
    for (key, figures) in all {
        let (_, network, way) = *key;
        let direct = if way.is_from_pod() { Way::PodDirect } else { Way::OutsideDirect };
        let to_direct = |part: fn(&Figures) -> &Vec<f64>| {
            let direct =
                all.get(&(Agent::Headwater, network, direct)).and_then(|direct| ratios(part(figures), part(direct)));
            direct.map_or_else(|| "-".to_owned(), |spread| format!("{spread:.2}"))
        };
        table.rows.push(vec![
            way.name().to_owned(),
            by(*key),
            cell(&figures.per_second, 0),
            cell(&figures.p50_us, 1),
            cell(&figures.p99_us, 1),
            cell(&figures.gigabits, 2),
            to_direct(|figures| &figures.per_second),
            to_direct(|figures| &figures.gigabits),
        ]);
    }
    let many = lab.args.sizes.many();
    let mut firsts = Table::new(&["connect() to a ClusterIP, headwater", "Services", "p50 us", "to few"]);
    for (services, values) in [(FEW, &first.few_us), (many, &first.many_us)] {
        let to_few = ratios(values, &first.few_us).map_or_else(String::new, |spread| format!("{spread:.3}"));
        firsts.rows.push(vec!["pod of the same node".to_owned(), services.to_string(), cell(values, 2), to_few]);
    }
    let notes_before = [
        format!(
            "connections: two threads, each opens one, closes it by RST and opens the next, {} s; then one stream, {} s",
            lab.args.seconds, lab.args.seconds
        ),
        format!(
            "first packets: {} connections to each cluster in a round, {BLOCK} in a row; median of each round",
            BLOCK * BLOCKS
        ),
        format!(
            "connections that waited a second for a lost packet: {}; that nobody answered: {}",
            counts(all, |figures| figures.stalled),
            counts(all, |figures| figures.failed)
        ),
        "that pods see the client, or the node, as the way says was checked before".to_owned(),
    ];
    notes.splice(1..1, notes_before);
    Section {
        case: Case::ServicesPath.to_string(),
        title: "ways through Services".to_owned(),
        table,
        more_tables: vec![firsts],
        checks: checks(all, first, many),
        notes,
        raw: json!({
            "ways": all.iter().map(|((agent, network, way), figures)| json!({ "agent": agent, "network": network, "way": way, "figures": figures })).collect::<Vec<_>>(),
            "first_packets": first,
        }),
    }
}

fn checks(all: &All, first: &First, many: usize) -> Vec<Check> {
    let mut checks = Vec::new();
    // Ratios of time, so that less is better.
    let mut slower = |what: String, own: Key, other: Key| {
        let pair = all.get(&own).zip(all.get(&other));
        for (part, values) in [
            ("time of a connection", pair.and_then(|(own, other)| ratios(&other.per_second, &own.per_second))),
            ("time of a stream", pair.and_then(|(own, other)| ratios(&other.gigabits, &own.gigabits))),
        ] {
            checks.push(Check { what: format!("{part}, {what}"), unit: "x", value: values, goal: 1.0, stretch: 0.8 });
        }
    };
    use Agent::{Headwater, Iptables, Nftables};
    for network in [PodNetwork::Flat, PodNetwork::Overlay] {
        let over = if network == PodNetwork::Overlay { ", pods by overlay" } else { "" };
        for way in Way::OF_HEADWATER {
            let Some(masqueraded) = way.masqueraded() else { continue };
            let what = format!("{} / masqueraded{over}", way.name());
            slower(what, (Headwater, network, way), (Headwater, network, masqueraded));
        }
    }
    let flat = PodNetwork::Flat;
    for peer in [Nftables, Iptables] {
        for way in Way::OF_HEADWATER {
            let peers = way.masqueraded().unwrap_or(way);
            if Way::OF_PEERS.contains(&peers) {
                let what = format!("{} / {}", way.name(), peer.name());
                slower(what, (Headwater, flat, way), (peer, flat, peers));
            }
        }
    }
    let ours = all.iter().filter(|((agent, _, _), _)| *agent == Headwater);
    checks.push(Check {
        what: "connections that nobody answered".to_owned(),
        unit: "requests",
        value: Spread::of([ours.map(|(_, figures)| figures.failed).sum::<usize>() as f64]),
        goal: 0.0,
        stretch: 0.0,
    });
    checks.push(Check {
        what: format!("connect() with {many} Services / {FEW}"),
        unit: "x",
        value: ratios(&first.many_us, &first.few_us),
        goal: 1.05,
        stretch: 1.02,
    });
    checks
}
