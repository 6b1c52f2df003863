//! The loads: wrk, h2load and the handshake load, each pinned to the load's core, and what they print.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::process::pinned;
use crate::stats::percentile;
use crate::tools::Programs;

/// Request headers besides Host: what a browser's or a client library's request roughly has.
const HEADERS: [&str; 4] = [
    "User-Agent: headwater-bench",
    "Accept: */*",
    "Accept-Encoding: gzip, deflate",
    "X-Request-Id: 0123456789abcdef0123456789abcdef",
];

/// How many connections every HTTP/1 load has.
pub(crate) const CONNECTIONS: usize = 64;

/// A load, without its target.
#[derive(Debug, Clone)]
pub(crate) enum Load {
    /// wrk with [`CONNECTIONS`] keep-alive connections; `host` is Host and, over TLS, the server name.
    Wrk { tls: bool, host: &'static str, path: &'static str },
    /// wrk with requests of its own from a Lua script.
    WrkScript { script: PathBuf },
    /// h2load, prior knowledge, 16 connections with 4 streams each.
    H2load { host: &'static str, path: &'static str },
    /// A full handshake for each request.
    Handshake { name: &'static str, certificate: PathBuf },
    /// UDP: flows with one datagram each under way.
    Datagrams,
}

/// What one run of a load saw.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Requests that were answered with a 2xx status.
    pub(crate) requests: u64,
    /// Everything else: other statuses, closed connections, timeouts, handshakes that were not full.
    pub(crate) errors: u64,
    pub(crate) per_second: f64,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
}

impl Outcome {
    /// Of a load that took the time of each answered request, in milliseconds.
    pub(crate) fn of(mut latencies: Vec<f64>, errors: u64, elapsed: Duration) -> Self {
        latencies.sort_by(f64::total_cmp);
        Self {
            requests: latencies.len() as u64,
            errors,
            per_second: latencies.len() as f64 / elapsed.as_secs_f64(),
            p50_ms: percentile(&latencies, 0.50),
            p99_ms: percentile(&latencies, 0.99),
        }
    }
}

impl Load {
    /// Runs for `seconds` against `target`.
    ///
    /// # Errors
    /// When the program fails or prints what cannot be read.
    pub(crate) fn run(&self, programs: &Programs, core: usize, target: SocketAddr, seconds: u32) -> Result<Outcome> {
        let mut command = match self {
            Self::Wrk { .. } | Self::WrkScript { .. } => pinned(programs, core, &programs.wrk),
            Self::H2load { .. } => pinned(programs, core, &programs.h2load),
            Self::Handshake { .. } | Self::Datagrams => pinned(programs, core, &std::env::current_exe()?),
        };
        self.arguments(&mut command, target, seconds);
        let output = command.stdin(Stdio::null()).output().context("load")?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!(
                "load against {target} ended with {}: {text}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let outcome = match self {
            Self::Wrk { .. } | Self::WrkScript { .. } => parse_wrk(&text),
            Self::H2load { .. } => parse_h2load(&text),
            Self::Handshake { .. } | Self::Datagrams => serde_json::from_str(&text).ok(),
        };
        outcome.with_context(|| format!("load against {target} printed no figures: {text}"))
    }

    fn arguments(&self, command: &mut Command, target: SocketAddr, seconds: u32) {
        let wrk = |command: &mut Command| {
            command.args(["-t1", "--latency", "--timeout", "10s"]);
            command.arg(format!("-c{CONNECTIONS}")).arg(format!("-d{seconds}s"));
            command.args(HEADERS.iter().flat_map(|header| ["-H", header]));
        };
        match self {
            Self::Wrk { tls: false, host, path } => {
                wrk(command);
                command.args(["-H", &format!("Host: {host}"), &format!("http://{target}{path}")]);
            }
            Self::Wrk { tls: true, host, path } => {
                wrk(command);
                command.arg(format!("https://{host}:{}{path}", target.port()));
            }
            Self::WrkScript { script } => {
                wrk(command);
                command.arg("-s").arg(script).arg(format!("http://{target}/"));
            }
            Self::H2load { host, path } => {
                command.args(["-t1", "-c16", "-m4", "-D", &seconds.to_string()]);
                command.arg(format!("--connect-to={target}"));
                command.args(HEADERS.iter().flat_map(|header| ["-H", header]));
                command.arg(format!("http://{host}:{}{path}", target.port()));
            }
            Self::Handshake { name, certificate } => {
                command.args(["handshake", "--target", &target.to_string(), "--name", name, "--certificate"]);
                command.arg(certificate).args(["--seconds", &seconds.to_string()]);
            }
            Self::Datagrams => {
                command.args(["datagrams", "--target", &target.to_string(), "--seconds", &seconds.to_string()]);
            }
        }
    }
}

/// A number with a unit of time, in milliseconds.
fn milliseconds(text: &str) -> Option<f64> {
    let number = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let scale = match &text[number.len()..] {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1000.0,
        "m" => 60_000.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

fn parse_wrk(text: &str) -> Option<Outcome> {
    let mut outcome = Outcome::default();
    let mut complete = false;
    for line in text.lines().map(str::trim) {
        if let Some(p50) = line.strip_prefix("50%") {
            outcome.p50_ms = milliseconds(p50.trim());
        } else if let Some(p99) = line.strip_prefix("99%") {
            outcome.p99_ms = milliseconds(p99.trim());
        } else if let Some((requests, _)) = line.split_once(" requests in ") {
            outcome.requests = requests.parse().ok()?;
        } else if let Some(errors) = line.strip_prefix("Socket errors:") {
            outcome.errors += errors.split(&[' ', ','][..]).filter_map(|word| word.parse::<u64>().ok()).sum::<u64>();
        } else if let Some(others) = line.strip_prefix("Non-2xx or 3xx responses:") {
            let others: u64 = others.trim().parse().ok()?;
            outcome.errors += others;
            outcome.requests = outcome.requests.checked_sub(others)?;
        } else if let Some(rate) = line.strip_prefix("Requests/sec:") {
            outcome.per_second = rate.trim().parse().ok()?;
            complete = true;
        }
    }
    complete.then_some(outcome)
}

/// h2load prints no percentiles.
fn parse_h2load(text: &str) -> Option<Outcome> {
    let after = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix));
    let rate = after("finished in ")?.split(", ").find_map(|part| part.strip_suffix(" req/s"))?;
    let count = |line: &str, what: &str| -> Option<u64> {
        line.split(", ").find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
    };
    let (requests, statuses) = (after("requests: ")?, after("status codes: ")?);
    Some(Outcome {
        requests: count(statuses, " 2xx")?,
        errors: count(requests, " errored")? + count(statuses, " 4xx")? + count(statuses, " 5xx")?,
        per_second: rate.parse().ok()?,
        ..Outcome::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_wrk_is_read_with_its_units_and_errors() {
        let text = "Running 2s test @ http://127.0.0.1:1/1k\n  1 threads and 64 connections\n  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.02ms  210.00us   4.00ms   80.00%\n    Req/Sec    60.00k     2.00k   61.00k    70.00%\n  Latency Distribution\n     50%  910.00us\n     75%    1.10ms\n     90%    1.30ms\n     99%    3.60ms\n  122000 requests in 2.00s, 150.00MB read\n  Socket errors: connect 0, read 1, write 0, timeout 2\n  Non-2xx or 3xx responses: 1000\nRequests/sec:  61000.50\nTransfer/sec:     75.00MB\n";
        let outcome = parse_wrk(text).unwrap();
        assert_eq!((outcome.requests, outcome.errors), (121_000, 1003));
        assert_eq!((outcome.p50_ms, outcome.p99_ms), (Some(0.91), Some(3.6)));
        assert!((outcome.per_second - 61_000.5).abs() < 1e-6);
        assert_eq!(parse_wrk("unable to connect"), None);
    }

    #[test]
    fn the_output_of_h2load_is_read_without_requests_in_flight() {
        let text = "starting benchmark...\n\nfinished in 2.00s, 46373.50 req/s, 50.10MB/s\nrequests: 92811 total, 92811 started, 92747 done, 92747 succeeded, 3 failed, 3 errored, 0 timeout\nstatus codes: 92740 2xx, 0 3xx, 0 4xx, 7 5xx\ntraffic: 100MB\n";
        let outcome = parse_h2load(text).unwrap();
        assert_eq!((outcome.requests, outcome.errors, outcome.p99_ms), (92_740, 10, None));
        assert!((outcome.per_second - 46_373.5).abs() < 1e-6);
    }
}
