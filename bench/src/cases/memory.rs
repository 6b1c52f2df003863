//! Case `memory`: what is held after large responses, and what an idle connection costs.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{Case, Lab};
use crate::load::CONNECTIONS;
use crate::manifests::HOST;
use crate::namespace;
use crate::probe::Connection;
use crate::report::{Check, Section, Table};
use crate::stats::Spread;
use crate::subject::Subject;

/// Responses of 1 MiB on each connection.
const RESPONSES: usize = 20;

/// Idle connections, as far as the limit of open files allows.
const IDLE: usize = 10_000;

/// Fresh starts that a figure is the median of, at most.
const STARTS: u32 = 3;

/// Time for a proxy to come to rest.
const REST: Duration = Duration::from_secs(1);

/// One fresh start of one proxy, in bytes.
#[derive(Debug, Serialize)]
struct Sample {
    proxy: String,
    started: u64,
    /// Most that was seen while 64 connections were served.
    peak: u64,
    /// 64 connections still open, at rest.
    after: u64,
    idle_connections: usize,
    per_idle: f64,
}

pub(super) fn run(lab: &Lab) -> Result<Section> {
    let idle = IDLE.min(idle_within(namespace::open_files()));
    if idle == 0 {
        bail!("{} open files are too few (try: ulimit -n 20000)", namespace::open_files());
    }
    let mut names = vec!["nginx".to_owned(), "haproxy".to_owned()];
    names.extend(lab.headwater.iter().enumerate().map(|(number, _)| match number {
        0 => "headwater".to_owned(),
        _ => format!("headwater-{}", number + 1),
    }));
    let mut samples = Vec::new();
    for _ in 0..lab.args.rounds.min(STARTS) {
        for index in lab.shuffler.borrow_mut().order(names.len()) {
            let sample = sample(lab, index, &names[index], idle).with_context(|| names[index].clone())?;
            samples.push(sample);
        }
    }
    let mut table = Table::new(&[
        "proxy",
        "PSS at start MiB",
        "peak, 1 MiB x 64 connections",
        "after, connections open",
        "KiB for each idle connection",
    ]);
    for name in &names {
        let cell = |figure: fn(&Sample) -> f64| {
            spread(&samples, name, figure).map_or_else(|| "-".to_owned(), |spread| spread.to_string())
        };
        table.rows.push(vec![
            name.clone(),
            cell(|sample| mib(sample.started)),
            cell(|sample| mib(sample.peak)),
            cell(|sample| mib(sample.after)),
            cell(|sample| sample.per_idle / 1024.0),
        ]);
    }
    let after = spread(&samples, "headwater", |sample| mib(sample.after));
    let per_idle = spread(&samples, "headwater", |sample| sample.per_idle / 1024.0);
    Ok(Section {
        case: Case::Memory.to_string(),
        title: format!(
            "after {RESPONSES} responses of 1 MiB on each of {CONNECTIONS} connections; {idle} idle connections"
        ),
        table,
        more_tables: Vec::new(),
        checks: vec![
            Check { what: "PSS after 1 MiB traffic".to_owned(), unit: "MiB", value: after, goal: 15.0, stretch: 8.0 },
            Check { what: "each idle connection".to_owned(), unit: "KiB", value: per_idle, goal: 16.0, stretch: 6.0 },
        ],
        notes: vec![
            "PSS of all processes of the proxy; socket buffers are the kernel's and not in it".to_owned(),
            "an idle connection has had one request; nginx and HAProxy reserve part of a connection's memory at the \
             start, which is not in their figure for each connection"
                .to_owned(),
        ],
        raw: serde_json::to_value(&samples)?,
    })
}

/// Connections that a proxy makes room for: nginx closes idle ones when less than a sixteenth is free.
fn room(idle: usize) -> usize {
    idle + idle / 5
}

/// Idle connections that a limit of open files allows, with some files left for everything else.
fn idle_within(files: u64) -> usize {
    usize::try_from(files.saturating_sub(1000)).unwrap_or(usize::MAX)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn spread(samples: &[Sample], name: &str, figure: fn(&Sample) -> f64) -> Option<Spread> {
    Spread::of(samples.iter().filter(|sample| sample.proxy == name).map(figure))
}

fn fresh(lab: &Lab, index: usize, name: &str, room: usize) -> Result<Subject> {
    match index {
        0 => Subject::nginx(lab, room),
        1 => Subject::haproxy(lab, room),
        _ => Ok(Subject::headwater(lab, name, &lab.headwater[index - 2], None)?.0),
    }
}

fn sample(lab: &Lab, index: usize, name: &str, idle: usize) -> Result<Sample> {
    let (started, peak, after) = large_responses(&fresh(lab, index, name, 1024)?)?;
    let per_idle = idle_connections(&fresh(lab, index, name, room(idle))?, idle)?;
    Ok(Sample { proxy: name.to_owned(), started, peak, after, idle_connections: idle, per_idle })
}

fn large_responses(subject: &Subject) -> Result<(u64, u64, u64)> {
    thread::sleep(REST);
    let started = subject.pss();
    let barrier = Barrier::new(CONNECTIONS);
    let mut peak = started;
    let connections = thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(|| fetch(subject, &barrier))).collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            peak = peak.max(subject.pss());
            thread::sleep(Duration::from_millis(50));
        }
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<_>>>()
    })?;
    thread::sleep(REST);
    let after = subject.pss();
    drop(connections);
    Ok((started, peak.max(after), after))
}

fn fetch(subject: &Subject, barrier: &Barrier) -> Result<Connection> {
    let connection = Connection::open(subject.http);
    // All open, or none goes on: an early return would leave the others waiting.
    barrier.wait();
    let mut connection = connection?;
    for _ in 0..RESPONSES {
        let answer = connection.get(HOST, "/1m")?;
        if (answer.status, answer.length) != (200, 1 << 20) {
            bail!("1 MiB asked for, answered {answer:?}");
        }
    }
    Ok(connection)
}

/// Bytes for each.
fn idle_connections(subject: &Subject, count: usize) -> Result<f64> {
    let open = || -> Result<Connection> {
        let mut connection = Connection::open(subject.http)?;
        let answer = connection.get(HOST, "/100")?;
        if answer.status != 200 {
            bail!("answered {answer:?}");
        }
        Ok(connection)
    };
    // What the first connections cost once is not for each.
    let warm = (0..CONNECTIONS).map(|_| open()).collect::<Result<Vec<_>>>()?;
    drop(warm);
    thread::sleep(REST);
    let before = subject.pss();
    let mut connections = Vec::with_capacity(count);
    for number in 0..count {
        connections.push(open().with_context(|| format!("connection {number} of {count}"))?);
    }
    thread::sleep(REST);
    let after = subject.pss();
    for (number, connection) in connections.iter_mut().enumerate().step_by(100) {
        connection.get(HOST, "/100").with_context(|| format!("idle connection {number} was not kept"))?;
    }
    Ok(after.saturating_sub(before) as f64 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_leave_open_files_and_room_to_spare() {
        for (files, idle) in [(400, 0), (1024, 24), (20_000, 19_000)] {
            assert_eq!(idle_within(files), idle, "{files}");
        }
        assert!(room(IDLE) - IDLE > room(IDLE) / 16);
    }
}
