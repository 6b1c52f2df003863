//! Case `route-edit`: how long one edit among 5,000 rules takes to reach requests, and what the rules weigh.

use std::net::SocketAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::{Case, Lab};
use crate::manifests::{self, ORIGINS, Rules};
use crate::probe::Connection;
use crate::report::{Check, Section, Table};
use crate::stats::{Spread, percentile};
use crate::subject::Subject;

/// One Ingress and one file for each.
const RULES: Rules = Rules { hosts: 500, paths: 10 };

const EDITS: usize = 50;

/// Pause between two requests of the probe, so that it leaves the core to the edit.
const PAUSE: Duration = Duration::from_micros(200);

/// Longest wait for an edit to be seen.
const PATIENCE: Duration = Duration::from_secs(30);

const MIB: f64 = (1 << 20) as f64;

pub(super) fn run(lab: &Lab) -> Result<Section> {
    let Some(binary) = lab.headwater.first() else { anyhow::bail!("only Headwater is measured here") };
    let idle = {
        let (subject, _) = Subject::headwater(lab, "headwater idle", binary, None)?;
        sleep(Duration::from_secs(1));
        subject.pss() as f64 / MIB
    };
    let (mut subject, folder) = Subject::headwater(lab, "headwater", binary, Some((RULES, 1)))?;
    sleep(Duration::from_secs(1));
    let loaded = subject.pss() as f64 / MIB;
    let waited = lab.wait_for_quiet()?;
    let mut times = Vec::with_capacity(EDITS);
    let mut origins = vec![0; RULES.count()];
    for _ in 0..EDITS {
        let (rule, pause) = {
            let mut shuffler = lab.shuffler.borrow_mut();
            (shuffler.below(RULES.count()), shuffler.below(100))
        };
        // Edits must not meet the same point of whatever period the reader has.
        sleep(Duration::from_millis(50 + pause as u64));
        origins[rule] = 1 - origins[rule];
        let time = edit(subject.http, &folder, rule, ORIGINS[origins[rule]]);
        times.push(time.with_context(|| format!("edit {} of rule {rule}", times.len() + 1))?);
        subject.alive()?;
    }
    let after = subject.pss() as f64 / MIB;
    times.sort_by(f64::total_cmp);
    let spread = Spread::of(times.iter().copied());
    let text = |share: f64| percentile(&times, share).map_or_else(String::new, |time| format!("{time:.2}"));
    let mut table =
        Table::new(&["edits", "median ms", "p90 ms", "max ms", "PSS idle MiB", "with 5,000 rules", "after the edits"]);
    table.rows.push(vec![
        EDITS.to_string(),
        spread.map_or_else(String::new, |spread| format!("{:.2}", spread.median)),
        text(0.9),
        text(1.0),
        format!("{idle:.1}"),
        format!("{loaded:.1}"),
        format!("{after:.1}"),
    ]);
    let memory = Spread::of([after.max(loaded) - idle]);
    Ok(Section {
        case: Case::RouteEdit.to_string(),
        title: "one of 5,000 rules edited, until the first request that sees it".to_owned(),
        table,
        more_tables: Vec::new(),
        checks: vec![
            Check { what: "edit to live".to_owned(), unit: "ms", value: spread, goal: 10.0, stretch: 3.0 },
            Check {
                what: "PSS above idle, 5,000 rules".to_owned(),
                unit: "MiB",
                value: memory,
                goal: 60.0,
                stretch: 40.0,
            },
        ],
        notes: vec![
            format!("first response {:.2} s after the start with 5,000 files", subject.ready_after.as_secs_f64()),
            format!(
                "from before the write of the new file to the end of the first response of the new origin; a request \
                 every {} us and its own time; PSS is the whole process: control, manifests and gateway",
                PAUSE.as_micros()
            ),
            format!("began {} a quiet moment", if waited.quiet { "in" } else { "without" }),
        ],
        raw: json!({ "edit_ms_sorted": times, "pss_idle_mib": idle, "pss_loaded_mib": loaded, "pss_after_mib": after }),
    })
}

/// Milliseconds until `rule` is served by `origin`.
fn edit(address: SocketAddr, folder: &Path, rule: usize, origin: &str) -> Result<f64> {
    let mut connection = Connection::open(address)?;
    let (host, path) = (RULES.host(rule), RULES.path(rule, "1k"));
    let before = connection.get(&host, &path)?;
    anyhow::ensure!(
        before.status == 200 && before.origin.as_deref() != Some(origin),
        "before the edit {host}{path} answers {before:?}"
    );
    let started = Instant::now();
    manifests::edit(folder, RULES, rule, origin)?;
    loop {
        let answer = connection.get(&host, &path)?;
        anyhow::ensure!(answer.status == 200, "during the edit {host}{path} answers {answer:?}");
        if answer.origin.as_deref() == Some(origin) {
            return Ok(started.elapsed().as_secs_f64() * 1000.0);
        }
        anyhow::ensure!(started.elapsed() < PATIENCE, "{host}{path} still answers {answer:?} after {PATIENCE:?}");
        sleep(PAUSE);
    }
}
