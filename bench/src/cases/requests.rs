//! Cases that count CPU per request: every proxy once in each round, in shuffled order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::{Case, Lab};
use crate::load::{Load, Outcome};
use crate::machine::CoreTimes;
use crate::manifests::{HOST, Rules, TLS_HOST, traced, wrk_script};
use crate::report::{Check, Section, Table};
use crate::stats::Spread;
use crate::subject::{ROOM, Subject};

/// Tries of one run, when others take too much of the core.
const TRIES: u32 = 3;

/// Why a run does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Fate {
    Kept,
    /// Others took too much of the proxy's core.
    Foreign,
    /// Requests failed.
    Errors,
}

/// One run of one proxy.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    round: u32,
    proxy: String,
    fate: Fate,
    /// CPU of the proxy for each request, in microseconds; 0 for the origin alone.
    cpu_us: f64,
    /// Share of the proxy's core, in percent.
    proxy_percent: f64,
    foreign_percent: f64,
    steal_percent: f64,
    waited_seconds: f64,
    began_quiet: bool,
    pss_bytes: u64,
    logged_bytes: u64,
    #[serde(flatten)]
    outcome: Outcome,
}

/// A case against nginx and HAProxy.
pub(super) fn peers(lab: &Lab, case: Case) -> Result<Section> {
    let certificate = lab.certificate.certificate.clone();
    // Title, load, and goal with stretch against each peer.
    let (title, load, nginx, haproxy) = match case {
        Case::H1_1m => (
            "HTTP/1.1 keep-alive, 1 MiB body, 64 connections",
            Load::Wrk { tls: false, host: HOST, path: "/1m" },
            Some((0.80, 0.40)),
            None,
        ),
        Case::Tls1k => (
            "TLS 1.3 keep-alive, 1 KiB body, 64 connections",
            Load::Wrk { tls: true, host: TLS_HOST, path: "/1k" },
            Some((0.80, 0.62)),
            None,
        ),
        Case::TlsHandshake => (
            "full TLS 1.3 handshakes, a connection for each request, 100 B body",
            Load::Handshake { name: TLS_HOST, certificate },
            Some((0.60, 0.50)),
            None,
        ),
        Case::H2_1k => (
            "HTTP/2 with prior knowledge, 16 connections x 4 streams, 1 KiB body",
            Load::H2load { host: HOST, path: "/1k" },
            Some((1.0, 0.70)),
            Some((1.4, 1.0)),
        ),
        _ => (
            "HTTP/1.1 keep-alive, 1 KiB body, 64 connections",
            Load::Wrk { tls: false, host: HOST, path: "/1k" },
            Some((0.90, 0.75)),
            Some((0.80, 0.65)),
        ),
    };
    let mut subjects = Vec::new();
    if matches!(case, Case::H1_1k | Case::H1_1m) {
        subjects.push((Subject::direct(lab), load.clone()));
    }
    subjects.push((Subject::nginx(lab, ROOM)?, load.clone()));
    subjects.push((Subject::haproxy(lab, ROOM)?, load.clone()));
    for (number, binary) in lab.headwater.iter().enumerate() {
        let name = if number == 0 { "headwater".to_owned() } else { format!("headwater-{}", number + 1) };
        subjects.push((Subject::headwater(lab, &name, binary, None)?.0, load.clone()));
    }
    let runs = rounds(lab, &mut subjects)?;
    let mut checks = Vec::new();
    for (peer, goal) in [("nginx", nginx), ("haproxy", haproxy)] {
        let Some((goal, stretch)) = goal else { continue };
        let value = ratio(&runs, "headwater", peer);
        checks.push(Check { what: format!("CPU per request, headwater / {peer}"), unit: "x", value, goal, stretch });
    }
    let names: Vec<_> = subjects.iter().map(|(subject, _)| subject.name.clone()).collect();
    Ok(section(lab, case, title, &names, &["nginx", "haproxy"], checks, &runs))
}

/// Headwater with 10,000 rules against Headwater with 10.
pub(super) fn rules(lab: &Lab) -> Result<Section> {
    let Some(binary) = lab.headwater.first() else { anyhow::bail!("Headwater is measured against itself here") };
    let folder = lab.new_folder("rules")?;
    let mut subjects = Vec::new();
    let sizes = [("10 rules", Rules { hosts: 2, paths: 5 }), ("10000 rules", Rules { hosts: 1000, paths: 10 })];
    for (name, rules) in sizes {
        let script = folder.join(format!("{}.lua", rules.count()));
        std::fs::write(&script, wrk_script(rules.count(), &rules.lua()))?;
        let (subject, _) = Subject::headwater(lab, name, binary, Some((rules, 100)))?;
        subjects.push((subject, Load::WrkScript { script }));
    }
    let runs = rounds(lab, &mut subjects)?;
    let value = ratio(&runs, "10000 rules", "10 rules");
    let what = "CPU per request, 10,000 rules / 10 rules".to_owned();
    let checks = vec![Check { what, unit: "x", value, goal: 1.05, stretch: 1.02 }];
    let title = "10,000 Ingress rules on 1,000 hosts beside 10, every rule asked for, 1 KiB body";
    let mut section =
        section(lab, Case::Rules10k, title, &sizes.map(|(name, _)| name.to_owned()), &["10 rules"], checks, &runs);
    for (subject, _) in &subjects {
        section.notes.push(format!(
            "{}: first response {:.2} s after the start",
            subject.name,
            subject.ready_after.as_secs_f64()
        ));
    }
    Ok(section)
}

/// Headwater that traces every request, and one that counts for the ALB's metrics, against one that does neither.
pub(super) fn tracing(lab: &Lab) -> Result<Section> {
    let Some(binary) = lab.headwater.first() else { anyhow::bail!("Headwater is measured against itself here") };
    let load = Load::Wrk { tls: false, host: HOST, path: "/1k" };
    // An origin reads what it is posted, drops it and answers 200: a collector that costs its own core alone.
    let map = traced(lab.origins[1]);
    let names = ["plain", "traced", "alb metrics"].map(str::to_owned);
    let mut subjects = vec![
        (Subject::headwater(lab, &names[0], binary, None)?.0, load.clone()),
        (Subject::headwater_with(lab, &names[1], binary, None, Some(&map), &[])?.0, load.clone()),
        (Subject::headwater_with(lab, &names[2], binary, None, None, &["--alb-metrics", "127.0.0.1:0"])?.0, load),
    ];
    let runs = rounds(lab, &mut subjects)?;
    let check = |name: &str, what: &str, goal, stretch| Check {
        what: format!("CPU per request, {what} / plain"),
        unit: "x",
        value: ratio(&runs, name, "plain"),
        goal,
        stretch,
    };
    let checks = vec![
        check("traced", "every request traced", 1.10, 1.05),
        check("alb metrics", "with the ALB's metrics", 1.05, 1.02),
    ];
    let title = "every request traced to a collector, and metrics under the ALB's names, beside neither, 1 KiB body";
    Ok(section(lab, Case::Tracing, title, &names, &["plain"], checks, &runs))
}

pub(super) fn rounds(lab: &Lab, subjects: &mut [(Subject, Load)]) -> Result<Vec<Run>> {
    for (subject, load) in &*subjects {
        load.run(&lab.programs, lab.args.load_core, target(subject, load), 1)?;
        subject.empty_access_log()?;
    }
    let mut runs = Vec::new();
    for round in 1..=lab.args.rounds {
        let order = lab.shuffler.borrow_mut().order(subjects.len());
        for index in order {
            for _ in 0..TRIES {
                let (subject, load) = &mut subjects[index];
                let run = once(lab, round, subject, load)?;
                let done = run.fate == Fate::Kept;
                eprintln!(
                    "round {round}: {}: {:?}, {:.1} us, {:.0} % foreign",
                    run.proxy, run.fate, run.cpu_us, run.foreign_percent
                );
                runs.push(run);
                if done {
                    break;
                }
            }
        }
    }
    Ok(runs)
}

fn target(subject: &Subject, load: &Load) -> std::net::SocketAddr {
    match load {
        Load::H2load { .. } => subject.h2c,
        Load::Wrk { tls: true, .. } | Load::Handshake { .. } => subject.tls,
        Load::Wrk { .. } | Load::WrkScript { .. } | Load::Datagrams => subject.http,
    }
}

fn once(lab: &Lab, round: u32, subject: &mut Subject, load: &Load) -> Result<Run> {
    subject.alive()?;
    let waited = lab.wait_for_quiet()?;
    let (core, cpu, started) = (CoreTimes::of(lab.args.proxy_core)?, subject.cpu(), Instant::now());
    let outcome = load.run(&lab.programs, lab.args.load_core, target(subject, load), lab.args.seconds)?;
    let (cpu, wall) = (subject.cpu().saturating_sub(cpu), started.elapsed());
    let core = CoreTimes::of(lab.args.proxy_core)?.since(core);
    let percent = |time: Duration| 100.0 * time.as_secs_f64() / wall.as_secs_f64();
    let foreign_percent = percent(core.busy.saturating_sub(cpu));
    subject.alive()?;
    Ok(Run {
        round,
        proxy: subject.name.clone(),
        fate: match () {
            () if outcome.errors > 0 || outcome.requests == 0 => Fate::Errors,
            () if subject.process.is_some() && foreign_percent > lab.args.max_foreign => Fate::Foreign,
            () => Fate::Kept,
        },
        cpu_us: cpu.as_secs_f64() * 1e6 / outcome.requests.max(1) as f64,
        proxy_percent: percent(cpu),
        foreign_percent,
        steal_percent: percent(core.steal),
        waited_seconds: waited.time.as_secs_f64(),
        began_quiet: waited.quiet,
        pss_bytes: subject.pss(),
        logged_bytes: subject.empty_access_log()?,
        outcome,
    })
}

/// CPU of `proxy` / CPU of `base`, over the rounds in which both were kept.
pub(super) fn ratio(runs: &[Run], proxy: &str, base: &str) -> Option<Spread> {
    let of = |name: &str| -> BTreeMap<u32, f64> { kept(runs, name).map(|run| (run.round, run.cpu_us)).collect() };
    let base = of(base);
    Spread::of(of(proxy).into_iter().filter_map(|(round, cpu)| Some(cpu / base.get(&round)?)))
}

fn kept<'a>(runs: &'a [Run], name: &str) -> impl Iterator<Item = &'a Run> {
    runs.iter().filter(move |run| run.proxy == name && run.fate == Fate::Kept)
}

pub(super) fn section(
    lab: &Lab,
    case: Case,
    title: &str,
    names: &[String],
    bases: &[&str],
    checks: Vec<Check>,
    runs: &[Run],
) -> Section {
    let mut header = vec!["proxy".to_owned(), "CPU us/request".to_owned()];
    header.extend(bases.iter().map(|base| format!("x {base}")));
    header.extend(["requests/s (max)", "core %", "p50 / p99 ms", "PSS MiB", "kept"].map(str::to_owned));
    let rows = names.iter().map(|name| row(runs, name, bases)).collect();
    let notes = vec![noise(lab, runs)];
    let raw = serde_json::to_value(runs).unwrap_or_default();
    let (case, title, table) = (case.to_string(), title.to_owned(), Table { header, rows });
    Section { case, title, table, more_tables: Vec::new(), checks, notes, raw }
}

fn row(runs: &[Run], name: &str, bases: &[&str]) -> Vec<String> {
    let spread = |figure: fn(&Run) -> f64| Spread::of(kept(runs, name).map(figure));
    let text = |spread: Option<Spread>| spread.map_or_else(|| "-".to_owned(), |spread| spread.to_string());
    let median =
        |values: Option<Spread>| values.map_or_else(|| "-".to_owned(), |spread| format!("{:.2}", spread.median));
    let measured = name != "direct";
    let mut cells = vec![name.to_owned(), text(spread(|run| run.cpu_us).filter(|_| measured))];
    for base in bases {
        let ratio = ratio(runs, name, base).filter(|_| measured);
        cells.push(ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")));
    }
    let rate = spread(|run| run.outcome.per_second);
    cells.push(rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.0} ({:.0})", rate.median, rate.max)));
    let share = spread(|run| run.proxy_percent).filter(|_| measured);
    cells.push(share.map_or_else(|| "-".to_owned(), |share| format!("{:.0}", share.median)));
    let p50 = Spread::of(kept(runs, name).filter_map(|run| run.outcome.p50_ms));
    let p99 = Spread::of(kept(runs, name).filter_map(|run| run.outcome.p99_ms));
    cells.push(format!("{} / {}", median(p50), median(p99)));
    let pss = spread(|run| run.pss_bytes as f64 / f64::from(1 << 20)).filter(|_| measured);
    cells.push(pss.map_or_else(|| "-".to_owned(), |pss| format!("{:.1}", pss.max)));
    let all = runs.iter().filter(|run| run.proxy == name).count();
    cells.push(format!("{}/{all}", kept(runs, name).count()));
    cells
}

/// How far to trust the table.
fn noise(lab: &Lab, runs: &[Run]) -> String {
    let count = |fate: Fate| runs.iter().filter(|run| run.fate == fate).count();
    let worst = |figure: fn(&Run) -> f64| Spread::of(runs.iter().map(figure)).map_or(0.0, |spread| spread.max);
    let foreign = Spread::of(runs.iter().map(|run| run.foreign_percent)).map_or(0.0, |spread| spread.median);
    format!(
        "{} of {} runs kept; {} dropped for more than {:.0} % foreign CPU on the proxy's core, {} for failed requests; \
         foreign CPU {foreign:.0} % in the median, {:.0} % at worst; steal {:.0} % at worst; waited {:.0} s for quiet \
         moments, {} runs began without one",
        count(Fate::Kept),
        runs.len(),
        count(Fate::Foreign),
        lab.args.max_foreign,
        count(Fate::Errors),
        worst(|run| run.foreign_percent),
        worst(|run| run.steal_percent),
        runs.iter().map(|run| run.waited_seconds).sum::<f64>(),
        runs.iter().filter(|run| !run.began_quiet).count(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(round: u32, proxy: &str, cpu_us: f64, fate: Fate) -> Run {
        Run {
            round,
            proxy: proxy.to_owned(),
            fate,
            cpu_us,
            proxy_percent: 0.0,
            foreign_percent: 0.0,
            steal_percent: 0.0,
            waited_seconds: 0.0,
            began_quiet: true,
            pss_bytes: 0,
            logged_bytes: 0,
            outcome: Outcome::default(),
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_without_dropped_runs() {
        let runs = [
            run(1, "a", 10.0, Fate::Kept),
            run(1, "b", 20.0, Fate::Kept),
            run(2, "b", 5.0, Fate::Foreign),
            run(2, "a", 90.0, Fate::Kept),
            run(3, "a", 30.0, Fate::Kept),
            run(3, "b", 1.0, Fate::Errors),
            run(3, "b", 40.0, Fate::Kept),
        ];
        let ratio = ratio(&runs, "a", "b").unwrap();
        assert_eq!((ratio.min, ratio.max, ratio.count), (0.5, 0.75, 2));
        assert_eq!(row(&runs, "b", &["a"]).last().unwrap(), "2/4");
    }
}
