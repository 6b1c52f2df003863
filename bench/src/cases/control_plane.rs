//! Case `control-plane`: both roles in a cluster of 5,000 Ingresses. Their start, what they weigh, how soon a change is
//! served, how soon status is written, and what they ask of the API server at rest.

mod change;
mod site;

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;

use self::change::{CHANGES, Kind, Outcome, Traffic};
use self::site::{INGRESSES, Role, Site, host};
use super::cluster::AllCores;
use super::{Case, Lab};
use crate::machine::Foreign;
use crate::report::{Check, Section, Table};
use crate::stats::Spread;

/// After this long a role that has nothing to do has done what it had to.
const SETTLE: Duration = Duration::from_secs(3);

/// How long the roles are left at rest.
const REST: Duration = Duration::from_secs(60);

/// Before it: whatever follows from the last change is over.
const BEFORE_REST: Duration = Duration::from_secs(15);

/// Statuses that the controller has written.
const WRITTEN: &str = "headwater_status_writes_total";

/// Statuses that could not be written at once.
const NOT_WRITTEN: &str = "headwater_status_write_failures_total";

/// Users of the roles, before the name of the role.
const ACCOUNTS: &str = "system:serviceaccount:headwater-system:headwater-";

/// A gateway and a controller at work.
struct Roles {
    gateway: Role,
    controller: Role,
}

/// The figures of both roles over some time.
#[derive(Debug, Clone, Copy)]
struct Cpu {
    gateway: Duration,
    controller: Duration,
}

impl Roles {
    fn start(lab: &Lab, site: &Site) -> Result<Self> {
        let (mut gateway, mut controller) = (site.role(lab, "gateway")?, site.role(lab, "controller")?);
        gateway.ready()?;
        controller.ready()?;
        controller.reaches("headwater_leader", 1)?;
        sleep(SETTLE);
        Ok(Self { gateway, controller })
    }

    fn alive(&mut self) -> Result<()> {
        self.gateway.alive()?;
        self.controller.alive()
    }

    fn cpu(&self) -> Cpu {
        Cpu { gateway: self.gateway.cpu(), controller: self.controller.cpu() }
    }

    fn pss_mib(&self) -> [f64; 2] {
        [self.gateway.pss_mib(), self.controller.pss_mib()]
    }
}

impl Cpu {
    /// Seconds of each since `before`, as text.
    fn since(self, before: Self) -> String {
        let seconds = |now: Duration, before: Duration| now.saturating_sub(before).as_secs_f64();
        let gateway = seconds(self.gateway, before.gateway);
        format!("CPU gateway {gateway:.2} s, controller {:.2} s", seconds(self.controller, before.controller))
    }
}

/// Starts of one role with everything there: seconds until it is ready, CPU seconds, PSS in MiB.
#[derive(Debug, Default, Serialize)]
struct Starts {
    seconds: Vec<f64>,
    cpu: Vec<f64>,
    pss: Vec<f64>,
}

impl Starts {
    fn push(&mut self, role: &mut Role, ready: Duration) -> Result<()> {
        sleep(SETTLE);
        role.alive()?;
        self.seconds.push(ready.as_secs_f64());
        self.cpu.push(role.cpu().as_secs_f64());
        self.pss.push(role.pss_mib());
        Ok(())
    }

    fn cells(&self, name: &str, idle: f64) -> Vec<String> {
        let spread = |values: &[f64]| {
            Spread::of(values.iter().copied()).map_or_else(String::new, |spread| format!("{spread:.2}"))
        };
        let above: Vec<f64> = self.pss.iter().map(|pss| pss - idle).collect();
        vec![name.to_owned(), spread(&self.seconds), spread(&self.cpu), format!("{idle:.1}"), spread(&above)]
    }
}

/// What the parts of the case share.
struct Stage<'a> {
    lab: &'a Lab,
    site: &'a Site,
    notes: Vec<String>,
}

/// Changes of every kind, and those beside traffic.
struct Changes {
    kinds: Vec<(&'static str, Outcome)>,
    beside: Outcome,
    traffic: Traffic,
}

/// PSS of both roles in MiB.
struct Memory {
    /// With nothing but a class in the cluster.
    idle: [f64; 2],
    /// Of the same processes when everything was made.
    grown: [f64; 2],
    /// Of others at the end of everything.
    changed: [f64; 2],
}

pub(super) fn run(lab: &Lab) -> Result<Section> {
    ensure!(!lab.headwater.is_empty(), "only Headwater is measured here");
    let _unpinned = AllCores::take(lab)?;
    let site = Site::start(lab).context("control plane")?;
    let mut stage = Stage { lab, site: &site, notes: vec![site.versions().join(", ")] };
    stage.measure().with_context(|| format!("files: {}", lab.keep_folder()))
}

impl Stage<'_> {
    fn measure(&mut self) -> Result<Section> {
        let mut roles = Roles::start(self.lab, self.site)?;
        let idle = roles.pss_mib();
        self.site.fill_services()?;
        self.fill_ingresses(&mut roles)?;
        let grown = roles.pss_mib();
        drop(roles);
        let (gateways, controllers) = self.starts()?;
        let mut roles = Roles::start(self.lab, self.site)?;
        roles.gateway.serves(&host(INGRESSES - 1))?;
        let changes = self.all_changes(&mut roles)?;
        let at_rest = self.rest(&mut roles)?;
        let memory = Memory { idle, grown, changed: roles.pss_mib() };

        let mut starts = Table::new(&["start at that size", "ready s", "CPU s", "PSS idle MiB", "PSS above idle MiB"]);
        starts.rows.push(gateways.cells("gateway", idle[0]));
        starts.rows.push(controllers.cells("controller", idle[1]));
        self.notes.push(format!(
            "ready: the gateway serves the last Ingress, the controller has read everything; CPU and PSS {} s later, \
             PSS above that of the same role in an empty cluster",
            SETTLE.as_secs()
        ));
        let above = |[gateway, controller]: [f64; 2]| {
            format!("gateway {:.1}, controller {:.1}", gateway - idle[0], controller - idle[1])
        };
        self.notes.push(format!(
            "MiB above idle, of the processes that were there while everything was made: {}; of those at the end: {}",
            above(grown),
            above(memory.changed)
        ));
        Ok(Section {
            case: Case::ControlPlane.to_string(),
            title: "1,000 Services with 10 endpoints each, 5,000 Ingresses with one route each".to_owned(),
            table: starts,
            more_tables: vec![changes.table()],
            checks: checks(&gateways, &memory, &changes, at_rest),
            notes: std::mem::take(&mut self.notes),
            raw: json!({
                "changes": changes.kinds, "beside_traffic": changes.beside,
                "pss_mib": { "idle": idle, "grown": grown, "changed": memory.changed },
                "gateway": gateways, "controller": controllers,
            }),
        })
    }

    /// Makes the Ingresses while both roles run.
    fn fill_ingresses(&mut self, roles: &mut Roles) -> Result<()> {
        let quiet = self.lab.wait_for_quiet()?.quiet;
        let (before, foreign, started) = (roles.cpu(), Foreign::from_now()?, Instant::now());
        self.site.fill_ingresses()?;
        let made = started.elapsed();
        roles.gateway.serves(&host(INGRESSES - 1))?;
        let served = started.elapsed();
        // The status of the GatewaySettings is counted, too.
        let mut expected = INGRESSES as u64;
        let written = loop {
            roles.controller.reaches(WRITTEN, expected)?;
            let written = started.elapsed();
            if self.site.programmed()? == INGRESSES {
                break written;
            }
            expected += 1;
        };
        let failures = roles.controller.metric(NOT_WRITTEN)?;
        let foreign = foreign.percent()?;
        sleep(SETTLE);
        roles.alive()?;
        self.notes.push(format!(
            "{INGRESSES} Ingresses made one after the other, 8 requests under way at once: the last is made after \
             {:.1} s, served after {:.1} s, has its address in status after {:.1} s; {failures} statuses at the second \
             attempt; {}; foreign CPU {foreign:.0} %{}",
            made.as_secs_f64(),
            served.as_secs_f64(),
            written.as_secs_f64(),
            roles.cpu().since(before),
            unless(quiet),
        ));
        Ok(())
    }

    fn starts(&self) -> Result<(Starts, Starts)> {
        let (mut gateways, mut controllers) = (Starts::default(), Starts::default());
        for _ in 0..self.lab.args.rounds {
            self.lab.wait_for_quiet()?;
            let mut gateway = self.site.role(self.lab, "gateway")?;
            let served = gateway.serves(&host(INGRESSES - 1))?;
            gateways.push(&mut gateway, served)?;
            drop(gateway);
            self.lab.wait_for_quiet()?;
            let mut controller = self.site.role(self.lab, "controller")?;
            let ready = controller.ready()?;
            controllers.push(&mut controller, ready)?;
        }
        Ok((gateways, controllers))
    }

    fn all_changes(&mut self, roles: &mut Roles) -> Result<Changes> {
        let mut kinds = Vec::new();
        for (kind, name) in [
            (Kind::NewHost, "new Ingress, new host"),
            (Kind::Backend, "other backend of a path"),
            (Kind::Endpoints, "endpoints moved"),
        ] {
            let quiet = self.lab.wait_for_quiet()?.quiet;
            kinds.push((name, self.changes(roles, kind, name, quiet)?));
        }
        let quiet = self.lab.wait_for_quiet()?.quiet;
        let (beside, traffic) =
            Traffic::during(|| self.changes(roles, Kind::Backend, "other backend, traffic beside", quiet))?;
        let Traffic { requests, errors } = traffic;
        self.notes.push(format!("traffic: {requests} requests to a host that nobody changed, {errors} errors"));
        Ok(Changes { kinds, beside, traffic })
    }

    fn changes(&mut self, roles: &mut Roles, kind: Kind, name: &str, quiet: bool) -> Result<Outcome> {
        let (before, foreign) = (roles.cpu(), Foreign::from_now()?);
        let outcome = change::run(self.lab, self.site, kind)?;
        let (cpu, foreign) = (roles.cpu().since(before), foreign.percent()?);
        self.notes.push(format!("{name}, {CHANGES} changes: {cpu}; foreign CPU {foreign:.0} %{}", unless(quiet)));
        roles.alive()?;
        Ok(outcome)
    }

    /// Counts the requests of both roles while nothing changes. Returns those that are neither for a Lease nor a watch.
    fn rest(&mut self, roles: &mut Roles) -> Result<u64> {
        sleep(BEFORE_REST);
        self.lab.wait_for_quiet()?;
        let cluster = &self.site.cluster;
        let (before, cpu, foreign) = (cluster.requests()?.len(), roles.cpu(), Foreign::from_now()?);
        sleep(REST);
        let (cpu, foreign) = (roles.cpu().since(cpu), foreign.percent()?);
        let requests = cluster.requests()?;
        roles.alive()?;
        let mut counts = BTreeMap::<_, u64>::new();
        let mut others = 0;
        for request in &requests[before.min(requests.len())..] {
            let Some(user) = request.user.strip_prefix(ACCOUNTS) else { continue };
            *counts.entry((user, &request.verb, &request.resource)).or_default() += 1;
            others += u64::from(request.resource != "leases" && request.verb != "watch");
        }
        let count = |((user, verb, resource), count)| format!("{user} {verb} {resource} {count}");
        let counts: Vec<String> = counts.into_iter().map(count).collect();
        self.notes.push(format!(
            "{} s at rest: {}; {cpu}; foreign CPU {foreign:.0} %",
            REST.as_secs(),
            counts.join(", ")
        ));
        Ok(others)
    }
}

impl Changes {
    fn table(&self) -> Table {
        let mut table = Table::new(&["change", "changes", "p50 ms", "p99", "max", "mean", "requests", "wrong"]);
        let beside = ("other backend, traffic beside", &self.beside);
        for (name, outcome) in self.kinds.iter().map(|(name, outcome)| (*name, outcome)).chain([beside]) {
            table.rows.push([vec![name.to_owned()], outcome.cells()].concat());
        }
        table
    }
}

fn checks(gateways: &Starts, memory: &Memory, changes: &Changes, at_rest: u64) -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, outcome) in &changes.kinds {
        let what = format!("change to live: {name}");
        checks.push(Check { what, unit: "ms", value: outcome.spread(), goal: 20.0, stretch: 10.0 });
    }
    let most = gateways.pss.iter().copied().chain([memory.grown[0], memory.changed[0]]).fold(0.0, f64::max);
    checks.push(Check {
        what: "most PSS of the gateway above idle".to_owned(),
        unit: "MiB",
        value: Spread::of([most - memory.idle[0]]),
        goal: 100.0,
        stretch: 50.0,
    });
    let wrong = changes.kinds.iter().map(|(_, outcome)| outcome.wrong).sum::<u64>() + changes.beside.wrong;
    for (what, count) in [
        ("wrong responses during changes", wrong),
        ("errors of the traffic beside them", changes.traffic.errors),
        ("at rest, neither Lease nor watch", at_rest),
    ] {
        let value = Spread::of([count as f64]);
        checks.push(Check { what: what.to_owned(), unit: "requests", value, goal: 0.0, stretch: 0.0 });
    }
    checks
}

fn unless(quiet: bool) -> &'static str {
    if quiet { "" } else { "; began without a quiet moment" }
}
