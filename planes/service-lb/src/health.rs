//! HTTP servers that load balancers ask whether to send traffic here: `healthCheckNodePort` of Services, and `/healthz`
//! of the proxy itself.
//!
//! Source: Kubernetes `pkg/proxy/healthcheck/service_health.go` and `proxy_health.go`, KEP-3836.

mod checks;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use headwater_net_io::listen::{ListenError, listen};
use headwater_process::http::{self, Limits, Request, Response, Version};
use jiff::Timestamp;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub(crate) use self::checks::serve_checks;
use crate::agent::with_causes;
use crate::state::State;

/// How long the kernel may be without something that is wanted.
const LATE: Duration = Duration::from_secs(30);

/// What one connection may use. No request needs a body.
const LIMITS: Limits = Limits {
    head_bytes: 8 << 10,
    head_time: Duration::from_secs(5),
    body_bytes: 0,
    body_time: Duration::from_secs(1),
    streams: 1,
    age: Duration::from_secs(60),
};
/// Connections of one listener at once; further ones wait in the kernel.
const MAX_CONNECTIONS: usize = 64;
/// Connections that wait in the kernel.
const BACKLOG: u32 = 128;
/// Before the next try when no connection can be accepted for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Before the next try to listen; twice as long each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What Go prints for no time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Whether the kernel has the rules that are wanted, or lacks them for a short time only. The same is said of Services.
fn is_healthy(state: &watch::Receiver<Arc<State>>, now: SystemTime) -> bool {
    // Nobody changes the state any more: nobody applies.
    if state.has_changed().is_err() {
        return false;
    }
    let state = state.borrow();
    let waited = state.waiting_since.map_or(Duration::ZERO, |since| now.duration_since(since).unwrap_or_default());
    state.applied_at.is_some() && waited < LATE
}

/// Answers `/healthz` and `/livez` at the address as kube-proxy does, until dropped. An address that cannot be listened
/// on is tried again. `eligible`: whether the node is to have new connections, of which `/healthz` alone tells.
pub(crate) async fn serve_healthz(
    address: SocketAddr,
    state: watch::Receiver<Arc<State>>,
    eligible: watch::Receiver<bool>,
) {
    let mut pause = FIRST_RETRY;
    let mut told = String::new();
    let listener = loop {
        match open(address) {
            Ok(listener) => break listener,
            Err(error) => {
                let error = with_causes(&error);
                if told != error {
                    tracing::warn!(error, "healthz is not served");
                    told = error;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_RETRY);
    };
    tracing::info!(%address, "healthz is served");
    let answer = move |request: &Request| match request.path() {
        "/healthz" => healthz(&state, Some(*eligible.borrow()), SystemTime::now()),
        "/livez" => healthz(&state, None, SystemTime::now()),
        _ => Response::text(404, "there is /healthz, /livez"),
    };
    match answer_at(listener, Arc::new(Semaphore::new(MAX_CONNECTIONS)), answer).await {}
}

/// What kube-proxy says of itself; the rules of both families are written together.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyHealth>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyHealth {
    last_updated: String,
    healthy: bool,
}

fn healthz(state: &watch::Receiver<Arc<State>>, eligible: Option<bool>, now: SystemTime) -> Response {
    let healthy = is_healthy(state, now);
    let good = healthy && eligible != Some(false);
    let text = |time| Timestamp::try_from(time).map_or_else(|_| NEVER.to_owned(), |time| time.to_string());
    let applied = state.borrow().applied_at;
    let last = applied.map_or_else(|| NEVER.to_owned(), text);
    let of_family = |family| (family, FamilyHealth { last_updated: last.clone(), healthy });
    let health = Health {
        // All that is wanted is there: it is as new as can be.
        last_updated: if good { text(now) } else { last.clone() },
        current_time: text(now),
        node_eligible: eligible,
        healthy,
        status: if applied.is_some() { ["IPv4", "IPv6"].map(of_family).into() } else { BTreeMap::new() },
    };
    let body = serde_json::to_vec(&health).expect("plain texts and numbers");
    Response {
        headers: vec![("X-Content-Type-Options", "nosniff".to_owned())],
        ..Response::json(if good { 200 } else { 503 }, body)
    }
}

/// Within a runtime.
fn open(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let listener = listen(address, false, BACKLOG)?;
    TcpListener::from_std(listener).map_err(|source| ListenError::Other { address, source })
}

/// Answers all requests over all connections of a listener, until dropped. `room` is for connections of all listeners
/// that share it; those for which there is none are closed.
async fn answer_at<A>(listener: TcpListener, room: Arc<Semaphore>, answer: A) -> Infallible
where
    A: Fn(&Request) -> Response + Clone + Send + Sync + 'static,
{
    let turns = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropping it ends the connections.
    let mut connections = JoinSet::new();
    loop {
        let turn = turns.clone().acquire_owned().await.expect("never closed");
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, address = ?listener.local_addr().ok(), "health check is not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            tracing::debug!("health check is closed: there are too many");
            continue;
        };
        let answer = answer.clone();
        connections.spawn(async move {
            let _held = (turn, place);
            let answer = move |request: Request| std::future::ready(answer(&request));
            let closing = std::future::pending();
            if let Err(error) = http::serve(stream, Version::Http1, LIMITS, closing, answer).await {
                tracing::debug!(%error, "health check ended early");
            }
        });
    }
}

#[cfg(test)]
mod tests;
