//! Case `services`: what it takes to have 10,000 Services in the kernel of a node, and to change one of them. The peer
//! is kube-proxy, on the same machines and the same objects.

mod direct;
mod objects;
mod path;
mod site;
mod stand;
mod traffic;

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use headwater_testkit::lab::Lab as Hosts;
use serde::Serialize;
use serde_json::json;

use self::direct::{Counts, Direct};
use self::objects::{PORT, filler};
use self::site::{CHURN, Site};
use self::stand::{Agent, Objects, Running, Stand, reached};
use super::cluster::AllCores;
use super::{Case, Lab};
use crate::machine::Foreign;
use crate::report::{Check, Section, Table};
use crate::stats::{Spread, percentile};

pub(super) use self::path::run as path;

/// How large the cases about Services are.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cases services and services-path")]
pub(crate) struct Sizes {
    /// Services, with one EndpointSlice each
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    services: u32,
    /// Services in the smaller cluster, where kube-proxy is started as often as Headwater
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    few_services: u32,
    /// Endpoints of each Service
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10))]
    endpoints: u32,
    /// Single changes
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
    /// Seconds of 100 changes each
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    churn_seconds: u32,
    /// Seconds that a start may take, and all single changes together
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    start_limit: u32,
    /// minSyncPeriod of kube-proxy: its shortest pause between two changes of the kernel; its default is 1s
    #[arg(long, default_value = "1ms")]
    min_sync_period: String,
}

impl Sizes {
    fn many(&self) -> usize {
        self.services as usize
    }

    fn few(&self) -> usize {
        self.few_services.min(self.services) as usize
    }

    fn endpoints(&self) -> usize {
        self.endpoints as usize
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.start_limit.into())
    }

    fn churn(&self) -> Duration {
        Duration::from_secs(self.churn_seconds.into())
    }
}

/// After this long an agent that has nothing to do has done what it had to.
const SETTLE: Duration = Duration::from_secs(3);

/// One start with everything there.
#[derive(Debug, Clone, Serialize)]
struct Start {
    /// From the start of the process until every probed Service is reached; `None`: not within the limit.
    seconds: Option<f64>,
    /// Until then.
    cpu_seconds: f64,
    /// Some seconds after.
    settled_cpu_seconds: f64,
    settled_pss_mib: f64,
}

/// What [`CHURN`] changes a second cost.
#[derive(Debug, Clone, Serialize)]
struct Churn {
    per_second: f64,
    /// Of one core.
    cpu_percent: f64,
    pss_mib: f64,
    foreign_percent: f64,
}

/// An agent in a cluster of one size.
#[derive(Debug, Serialize)]
struct Subject {
    agent: Agent,
    services: usize,
    starts: Vec<Start>,
    /// Milliseconds of each, in their order.
    changes: Vec<f64>,
    churn: Option<Churn>,
}

impl Subject {
    fn new(agent: Agent, services: usize) -> Self {
        Self { agent, services, starts: Vec::new(), changes: Vec::new(), churn: None }
    }

    fn name(&self) -> Vec<String> {
        vec![self.agent.name().to_owned(), self.services.to_string()]
    }
}

/// What the parts of the case share.
struct Stage<'a> {
    lab: &'a Lab,
    site: Arc<Site>,
    sizes: &'a Sizes,
    notes: Vec<String>,
}

pub(super) fn run(lab: &Lab) -> Result<Section> {
    ensure!(!lab.headwater.is_empty(), "Headwater is measured here, beside kube-proxy");
    let _unpinned = AllCores::take(lab)?;
    let site = Arc::new(Site::start(lab).context("control plane")?);
    let notes = vec![site.versions().join(", ")];
    let mut stage = Stage { lab, site, sizes: &lab.args.sizes, notes };
    stage.measure().with_context(|| format!("files: {}", lab.keep_folder()))
}

impl Stage<'_> {
    fn measure(&mut self) -> Result<Section> {
        let (few, many, endpoints) = (self.sizes.few(), self.sizes.many(), self.sizes.endpoints());
        let mut subjects = Vec::new();
        if few < many {
            self.site.fill(0, few, endpoints)?;
            subjects.extend(self.size(few, &[self.lab.args.rounds; 3])?);
        }
        self.site.fill(if few < many { few } else { 0 }, many, endpoints)?;
        subjects.extend(self.size(many, &[self.lab.args.rounds, 1, 1])?);
        let direct = self.direct()?;
        Ok(self.section(&subjects, &direct))
    }

    /// Starts each agent so often; after its last start it sees changes.
    fn size(&mut self, services: usize, starts: &[u32; 3]) -> Result<Vec<Subject>> {
        let mut subjects = Agent::ALL.map(|agent| Subject::new(agent, services));
        for round in 0..self.lab.args.rounds {
            let order = self.lab.shuffler.borrow_mut().order(subjects.len());
            for index in order {
                if round < starts[index] {
                    let last = round + 1 == starts[index];
                    self.subject(&mut subjects[index], last)
                        .with_context(|| format!("{:?}", subjects[index].name()))?;
                }
            }
        }
        Ok(subjects.into())
    }

    fn subject(&mut self, subject: &mut Subject, last: bool) -> Result<()> {
        let (lab, sizes, services) = (self.lab, self.sizes, subject.services);
        let hosts = Hosts::new();
        let stand = Stand::start(&hosts, Some(&self.site.cluster))?;
        let quiet = lab.wait_for_quiet()?.quiet;
        let foreign = Foreign::from_now()?;
        let mut running = stand.run(lab, subject.agent, 1, Objects::Api(&self.site.cluster), &self.site.folder)?;
        let probed = [0, services / 2, services - 1]
            .map(|number| SocketAddr::from((filler(number, sizes.endpoints()).cluster_ip, PORT)));
        let took = reached(stand.shell.host(), &probed, &mut running, sizes.limit())?;
        let cpu = running.cpu()?;
        let foreign = foreign.percent()?;
        sleep(SETTLE);
        running.alive()?;
        let start = Start {
            seconds: took.map(|took| took.as_secs_f64()),
            cpu_seconds: cpu.as_secs_f64(),
            settled_cpu_seconds: running.cpu()?.as_secs_f64(),
            settled_pss_mib: running.pss_mib(),
        };
        self.notes.push(format!(
            "{} with {services} Services: foreign CPU at its start {foreign:.0} %{}",
            subject.agent.name(),
            if quiet { "" } else { "; began without a quiet moment" }
        ));
        subject.starts.push(start);
        if last && took.is_some() {
            self.changes(subject, &stand, &mut running)?;
        }
        Ok(())
    }

    fn changes(&self, subject: &mut Subject, stand: &Stand<'_>, running: &mut Running) -> Result<()> {
        let (lab, sizes) = (self.lab, self.sizes);
        lab.wait_for_quiet()?;
        subject.changes = self.site.move_endpoint(lab, stand, running, sizes.changes as usize, sizes.limit())?;
        lab.wait_for_quiet()?;
        let (before, foreign) = (running.cpu()?, Foreign::from_now()?);
        let per_second = self.site.churn(subject.services, sizes.endpoints(), sizes.churn())?;
        // The last change is to be in.
        sleep(Duration::from_millis(200));
        running.alive()?;
        let spent = running.cpu()?.saturating_sub(before).as_secs_f64();
        subject.churn = Some(Churn {
            per_second,
            cpu_percent: 100.0 * spent / sizes.churn().as_secs_f64(),
            pss_mib: running.pss_mib(),
            foreign_percent: foreign.percent()?,
        });
        Ok(())
    }

    fn direct(&self) -> Result<Direct> {
        let directory = self.site.folder.join("manifests");
        fs::create_dir(&directory)?;
        let hosts = Hosts::new();
        let stand = Stand::start(&hosts, None)?;
        let nodes = objects::nodes(&stand.topology, true);
        self.lab.wait_for_quiet()?;
        let sizes = self.sizes;
        let counts = Counts { services: sizes.many(), endpoints: sizes.endpoints(), changes: sizes.changes as usize };
        direct::measure(stand.node(1).host(), &directory, &nodes, counts)
    }

    fn section(&mut self, subjects: &[Subject], direct: &Direct) -> Section {
        let sizes = self.sizes;
        let notes = [
            format!(
                "reached: from the start of the process until a pod on the node reaches the first, the middle and the \
                 last Service, the reading of the API included; limit {} s; CPU is user and system time, with that of \
                 the programs that it runs; PSS and the CPU beside it {} s later",
                sizes.start_limit,
                SETTLE.as_secs()
            ),
            "a change: from the API server's answer until a pod on the node reaches the new endpoint, asked for \
             without a pause; the Service that changes has one endpoint"
                .to_owned(),
            format!(
                "{CHURN} changes a second: one endpoint of {} of another Service each, {} s",
                sizes.endpoints, sizes.churn_seconds
            ),
            format!("kube-proxy with minSyncPeriod {}", sizes.min_sync_period),
        ];
        self.notes.splice(1..1, notes);
        Section {
            case: Case::Services.to_string(),
            title: format!(
                "{} Services with {} endpoints each in the kernel of a node",
                sizes.services, sizes.endpoints
            ),
            table: starts(subjects, sizes),
            more_tables: vec![changes(subjects), churns(subjects), parts(direct)],
            checks: checks(subjects, direct, sizes),
            notes: std::mem::take(&mut self.notes),
            raw: json!({ "subjects": subjects, "direct_ms": direct }),
        }
    }
}

fn spread(values: impl IntoIterator<Item = f64>) -> String {
    Spread::of(values).map_or_else(|| "-".to_owned(), |spread| format!("{spread:.2}"))
}

fn starts(subjects: &[Subject], sizes: &Sizes) -> Table {
    let mut table = Table::new(&["start", "Services", "starts", "reached s", "CPU s", "CPU s later", "PSS MiB later"]);
    for subject in subjects {
        let of = |part: fn(&Start) -> f64| spread(subject.starts.iter().map(part));
        let seconds: Vec<f64> = subject.starts.iter().filter_map(|start| start.seconds).collect();
        let late = subject.starts.len() - seconds.len();
        let mut reached = if seconds.is_empty() { String::new() } else { spread(seconds) };
        if late > 0 {
            reached += &format!(" {late} x > {} s", sizes.start_limit);
        }
        let cells = vec![
            subject.starts.len().to_string(),
            reached.trim_start().to_owned(),
            of(|start| start.cpu_seconds),
            of(|start| start.settled_cpu_seconds),
            of(|start| start.settled_pss_mib),
        ];
        table.rows.push([subject.name(), cells].concat());
    }
    table
}

/// Count, p50, p99 and most.
fn shares(times: &[f64]) -> Vec<String> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let share = |share| percentile(&sorted, share).map_or_else(|| "-".to_owned(), |time| format!("{time:.2}"));
    vec![times.len().to_string(), share(0.5), share(0.99), share(1.0)]
}

fn changes(subjects: &[Subject]) -> Table {
    let mut table = Table::new(&["one endpoint moves", "Services", "changes", "p50 ms", "p99", "max"]);
    for subject in subjects {
        table.rows.push([subject.name(), shares(&subject.changes)].concat());
    }
    table
}

fn churns(subjects: &[Subject]) -> Table {
    let mut table =
        Table::new(&["100 changes a second", "Services", "a second", "CPU % of a core", "PSS MiB", "foreign CPU %"]);
    for subject in subjects {
        let Some(churn) = &subject.churn else { continue };
        let cells = [churn.per_second, churn.cpu_percent, churn.pss_mib, churn.foreign_percent]
            .map(|cell| format!("{cell:.1}"));
        table.rows.push([subject.name(), cells.into()].concat());
    }
    table
}

fn parts(direct: &Direct) -> Table {
    let mut table = Table::new(&["headwater, parts alone", "times", "p50 ms", "p99", "max"]);
    for (name, times) in [
        ("all manifests read", &[direct.read][..]),
        ("all objects to rules", &[direct.derive]),
        ("all rules to the kernel", &[direct.commit]),
        ("one endpoint to rules", &direct.one_derived),
        ("one endpoint's rules to the kernel", &direct.one_committed),
    ] {
        table.rows.push([vec![name.to_owned()], shares(times)].concat());
    }
    table
}

fn checks(subjects: &[Subject], direct: &Direct, sizes: &Sizes) -> Vec<Check> {
    let of = |agent: Agent, services: usize| {
        subjects.iter().find(|subject| subject.agent == agent && subject.services == services)
    };
    let mut checks = vec![
        Check {
            what: format!("{} x {} to the kernel, objects read", sizes.services, sizes.endpoints),
            unit: "ms",
            value: Spread::of([direct.derive + direct.commit]),
            goal: 1000.0,
            stretch: 500.0,
        },
        Check {
            what: "one endpoint to the kernel, object read".to_owned(),
            unit: "ms",
            value: Spread::of(
                direct.one_derived.iter().zip(&direct.one_committed).map(|(rules, kernel)| rules + kernel),
            ),
            goal: 2.0,
            stretch: 1.0,
        },
    ];
    let pss = of(Agent::Headwater, sizes.many()).map(|subject| {
        let started = subject.starts.iter().map(|start| start.settled_pss_mib);
        started.chain(subject.churn.iter().map(|churn| churn.pss_mib)).fold(0.0, f64::max)
    });
    checks.push(Check {
        what: "most PSS of the agent".to_owned(),
        unit: "MiB",
        value: Spread::of(pss),
        goal: 150.0,
        stretch: 75.0,
    });
    let mut sides = vec![sizes.few(), sizes.many()];
    sides.dedup();
    for services in sides {
        let Some(ours) = of(Agent::Headwater, services) else { continue };
        for peer in [Agent::Nftables, Agent::Iptables] {
            let Some(theirs) = of(peer, services) else { continue };
            // Both of the same round; in the larger cluster peers have one.
            let pairs = ours.starts.iter().zip(&theirs.starts);
            let ratios: Vec<f64> = pairs.filter_map(|(own, peer)| Some(own.seconds? / peer.seconds?)).collect();
            let what = |what: &str| format!("{what} / {}, {services} Services", peer.name());
            let ratio = |what, value| Check { what, unit: "x", value, goal: 1.0, stretch: 0.1 };
            checks.push(ratio(what("start to reached"), Spread::of(ratios)));
            let median = |subject: &Subject| Spread::of(subject.changes.iter().copied()).map(|spread| spread.median);
            let moved = median(ours).zip(median(theirs)).map(|(own, peer)| own / peer);
            checks.push(ratio(what("one endpoint moves"), Spread::of(moved)));
            let cpu =
                ours.churn.as_ref().zip(theirs.churn.as_ref()).map(|(own, peer)| own.cpu_percent / peer.cpu_percent);
            checks.push(ratio(what("CPU of changes"), Spread::of(cpu)));
        }
    }
    checks
}
