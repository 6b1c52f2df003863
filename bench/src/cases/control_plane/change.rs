//! Single changes: how long each takes from the API server's answer to the first response that shows it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::super::Lab;
use super::site::{GATEWAY, INGRESSES, SERVICES, Site, host, new_host};
use crate::manifests::ORIGINS;
use crate::probe::{Answer, Connection};
use crate::stats::{Spread, percentile};

/// Changes of each kind.
pub(super) const CHANGES: usize = 200;

/// Longest wait for a change to be seen.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked for: 1 KiB.
const PATH: &str = "/1k";

/// Connections of [`Traffic`].
const CONNECTIONS: usize = 4;

/// Pause of each of them between two requests.
const PAUSE: Duration = Duration::from_millis(1);

/// A kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An Ingress with a host that none had: 404, then 200.
    NewHost,
    /// The path of an Ingress forwards to another Service.
    Backend,
    /// All endpoints of an EndpointSlice are at another origin.
    Endpoints,
}

/// One change.
#[derive(Debug)]
enum Change {
    NewHost(String),
    /// Number of the Ingress, and the origin that it shall have.
    Backend(usize, usize),
    /// Number of the Service, and the origin that it shall have.
    Endpoints(usize, usize),
}

/// What a response says of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    Before,
    After,
    Wrong,
}

/// What became of changes of one kind.
#[derive(Debug, Default, Serialize)]
pub(super) struct Outcome {
    /// Milliseconds from the API server's answer to the end of the first response that shows the change, in
    /// their order. Below 0: it was seen before the answer.
    pub(super) times_ms: Vec<f64>,
    /// Requests of the probe.
    requests: u64,
    /// Responses that were neither that before nor that after the change.
    pub(super) wrong: u64,
}

/// Makes [`CHANGES`] changes, one after the other.
pub(super) fn run(lab: &Lab, site: &Site, kind: Kind) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for number in 0..CHANGES {
        let (place, pause) = {
            let mut shuffler = lab.shuffler.borrow_mut();
            let (first, end) = match kind {
                Kind::NewHost => (0, 1),
                Kind::Endpoints => (0, SERVICES),
                // The first have Services whose endpoints move, the last is asked for by the traffic.
                Kind::Backend => (SERVICES, INGRESSES - 1),
            };
            (first + shuffler.below(end - first), shuffler.below(100))
        };
        // Changes must not meet the same point of whatever period the roles have.
        thread::sleep(Duration::from_millis(50 + pause as u64));
        let mut connection = Connection::open(GATEWAY)?;
        let origin = |connection: &mut Connection| {
            let before = connection.get(&host(place), PATH)?;
            let known = before.origin.as_deref().and_then(|origin| ORIGINS.iter().position(|known| *known == origin));
            known.with_context(|| format!("before the change {} answers {before:?}", host(place)))
        };
        let change = match kind {
            Kind::NewHost => Change::NewHost(format!("new-{number}")),
            Kind::Backend => Change::Backend(place, 1 - origin(&mut connection)?),
            Kind::Endpoints => Change::Endpoints(place, 1 - origin(&mut connection)?),
        };
        let first = connection.get(&change.host(), PATH)?;
        ensure!(change.judge(&first) == Sight::Before, "before {change:?} came {first:?}");
        make(site, &change, connection, &mut outcome).with_context(|| format!("{change:?}"))?;
    }
    if kind == Kind::NewHost {
        for number in 0..CHANGES {
            site.runtime.block_on(site.delete_ingress(&format!("new-{number}")))?;
        }
    }
    Ok(outcome)
}

/// Makes one change while another thread asks without a pause.
fn make(site: &Site, change: &Change, mut connection: Connection, outcome: &mut Outcome) -> Result<()> {
    let host = change.host();
    let (answered, seen) = thread::scope(|scope| {
        let probe = scope.spawn(|| {
            let started = Instant::now();
            loop {
                let answer = connection.get(&host, PATH)?;
                let now = Instant::now();
                outcome.requests += 1;
                match change.judge(&answer) {
                    Sight::After => return anyhow::Ok(now),
                    Sight::Before => {}
                    Sight::Wrong => outcome.wrong += 1,
                }
                ensure!(now - started < PATIENCE, "still {answer:?} after {PATIENCE:?}");
            }
        });
        let answered = site.runtime.block_on(change.write(site)).map(|()| Instant::now());
        (answered, probe.join().expect("the probe does not panic"))
    });
    let (answered, seen) = (answered?, seen?);
    let late = seen.saturating_duration_since(answered).as_secs_f64();
    let early = answered.saturating_duration_since(seen).as_secs_f64();
    outcome.times_ms.push((late - early) * 1000.0);
    Ok(())
}

impl Change {
    fn host(&self) -> String {
        match self {
            Self::NewHost(name) => new_host(name),
            // A Service and the first Ingress that forwards to it have the same number.
            Self::Backend(number, _) | Self::Endpoints(number, _) => host(*number),
        }
    }

    async fn write(&self, site: &Site) -> Result<()> {
        match self {
            Self::NewHost(name) => site.add_ingress(name).await,
            Self::Backend(number, origin) => site.point_ingress(*number, *origin).await,
            Self::Endpoints(number, origin) => site.move_endpoints(*number, *origin).await,
        }
    }

    fn judge(&self, answer: &Answer) -> Sight {
        match (self, answer.status) {
            (Self::NewHost(_), 404) => Sight::Before,
            (Self::NewHost(_), 200) => Sight::After,
            (Self::Backend(_, origin) | Self::Endpoints(_, origin), 200) => match answer.origin.as_deref() {
                Some(name) if name == ORIGINS[*origin] => Sight::After,
                Some(name) if name == ORIGINS[1 - *origin] => Sight::Before,
                _ => Sight::Wrong,
            },
            _ => Sight::Wrong,
        }
    }
}

impl Outcome {
    pub(super) fn spread(&self) -> Option<Spread> {
        Spread::of(self.times_ms.iter().copied())
    }

    /// Cells of a table: p50, p99, most, mean, requests of the probe, wrong responses.
    pub(super) fn cells(&self) -> Vec<String> {
        let mut sorted = self.times_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let share = |share| percentile(&sorted, share).map_or_else(String::new, |time| format!("{time:.2}"));
        let mean = self.times_ms.iter().sum::<f64>() / self.times_ms.len() as f64;
        let count = self.times_ms.len().to_string();
        let (requests, wrong) = (self.requests.to_string(), self.wrong.to_string());
        vec![count, share(0.5), share(0.99), share(1.0), format!("{mean:.2}"), requests, wrong]
    }
}

/// Requests for a host that nobody changes.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) requests: u64,
    /// Those without an answer of status 200.
    pub(super) errors: u64,
}

impl Traffic {
    /// Runs a few connections for as long as `work` takes.
    pub(super) fn during<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Self)> {
        let over = AtomicBool::new(false);
        let untouched = host(INGRESSES - 1);
        thread::scope(|scope| {
            let send = || {
                let (mut traffic, mut connection) = (Self::default(), None);
                while !over.load(Ordering::Relaxed) {
                    let fresh = connection.take().map_or_else(|| Connection::open(GATEWAY), Ok);
                    let answer = fresh.and_then(|mut open| Ok((open.get(&untouched, PATH)?, open)));
                    traffic.requests += 1;
                    match answer {
                        Ok((Answer { status: 200, .. }, open)) => connection = Some(open),
                        _ => traffic.errors += 1,
                    }
                    thread::sleep(PAUSE);
                }
                traffic
            };
            let threads: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(send)).collect();
            let result = work();
            over.store(true, Ordering::Relaxed);
            let mut sum = Self::default();
            for thread in threads {
                let one = thread.join().expect("traffic does not panic");
                sum.requests += one.requests;
                sum.errors += one.errors;
            }
            Ok((result?, sum))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_of_before_or_of_after_the_change_or_wrong() {
        let new = Change::NewHost("new-0".to_owned());
        for (change, status, origin, sight) in [
            (&new, 404, None, Sight::Before),
            (&new, 200, Some("a"), Sight::After),
            (&new, 503, None, Sight::Wrong),
            (&Change::Backend(7, 1), 200, Some("a"), Sight::Before),
            (&Change::Backend(7, 1), 200, Some("b"), Sight::After),
            (&Change::Endpoints(7, 0), 200, Some("a"), Sight::After),
            (&Change::Endpoints(7, 0), 200, None, Sight::Wrong),
            (&Change::Endpoints(7, 0), 502, Some("a"), Sight::Wrong),
        ] {
            let answer = Answer { status, origin: origin.map(str::to_owned), length: 0 };
            assert_eq!(change.judge(&answer), sight, "{change:?} {answer:?}");
        }
    }
}
