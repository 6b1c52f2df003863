//! The admin server: health, metrics and dumps for operators and probes, over plain HTTP/1.1.
//!
//! Nothing here is authenticated, so it listens on localhost unless told otherwise, and a browser led there by a
//! foreign name is refused. Dumps are made on the caller's runtime: run it on the control runtime.

mod fetch;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HOST};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use fetch::{FetchError, fetch};

use crate::metrics::{self, Registry};
use crate::telemetry::LogLevel;

/// Where it listens unless told otherwise.
pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);

/// Connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// Also ends connections that stay idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A whole connection, however busy.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_BODY: usize = 4 << 10;
const MAX_HEAD: usize = 16 << 10;
/// Before the next try when no connection can be accepted for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Why there is no admin server.
#[derive(Debug, thiserror::Error)]
#[error("admin address {address} cannot be listened on (choose another, or stop who uses it)")]
pub struct AdminError {
    pub address: SocketAddr,
    pub source: io::Error,
}

type Answer = Box<dyn Fn() -> (StatusCode, &'static str, Bytes) + Send + Sync>;

/// What the admin server answers.
///
/// Always `/healthz` (200 while the process runs) and `/metrics`; the rest as it is added here.
pub struct Admin {
    routes: BTreeMap<&'static str, Answer>,
    log_level: Option<LogLevel>,
}

const LOG_LEVEL: &str = "/loglevel";

impl Admin {
    pub fn new(registry: Registry) -> Self {
        Self { routes: BTreeMap::new(), log_level: None }
            .route("/healthz", || (StatusCode::OK, TEXT, Bytes::from_static(b"ok\n")))
            .route("/metrics", move || (StatusCode::OK, metrics::CONTENT_TYPE, registry.encode().into()))
    }

    /// `GET /readyz`: 200, or 503 with the reason.
    pub fn ready(self, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.route("/readyz", move || match check() {
            Ok(()) => (StatusCode::OK, TEXT, Bytes::from_static(b"ready\n")),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n").into()),
        })
    }

    /// `GET /metrics/metallb`: metrics under MetalLB's names, in the text format that its dashboards know; `more`: those
    /// that are made when they are asked for.
    pub fn metallb(self, registry: Registry, more: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.route("/metrics/metallb", move || (StatusCode::OK, TEXT, (registry.encode_classic() + &more()).into()))
    }

    /// `GET path`: what `dump` returns, as JSON. Secrets must be redacted by its type.
    pub fn json<T: Serialize>(self, path: &'static str, dump: impl Fn() -> T + Send + Sync + 'static) -> Self {
        self.route(path, move || match serde_json::to_vec_pretty(&dump()) {
            Ok(mut json) => {
                json.push(b'\n');
                (StatusCode::OK, JSON, json.into())
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{path}: {error}\n").into()),
        })
    }

    /// `GET /snapshot`: what is published.
    pub fn snapshot<T: Serialize>(self, dump: impl Fn() -> T + Send + Sync + 'static) -> Self {
        self.json("/snapshot", dump)
    }

    /// `GET /status`: what is programmed and what is refused.
    pub fn status<T: Serialize>(self, dump: impl Fn() -> T + Send + Sync + 'static) -> Self {
        self.json("/status", dump)
    }

    /// `GET` and `PUT /loglevel`, with the level as text.
    pub fn log_level(mut self, level: LogLevel) -> Self {
        self.log_level = Some(level);
        self
    }

    fn route(
        mut self,
        path: &'static str,
        answer: impl Fn() -> (StatusCode, &'static str, Bytes) + Send + Sync + 'static,
    ) -> Self {
        self.routes.insert(path, Box::new(answer));
        self
    }

    /// Listens.
    ///
    /// # Errors
    /// [`AdminError`] names the address.
    pub async fn bind(self, address: SocketAddr) -> Result<AdminServer, AdminError> {
        let bind = async {
            let listener = TcpListener::bind(address).await?;
            let local_address = listener.local_addr()?;
            Ok(AdminServer { admin: Arc::new(self), listener, local_address })
        };
        bind.await.map_err(|source| AdminError { address, source })
    }

    async fn respond(&self, request: Request<Incoming>, only_local: bool) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let host = head.headers.get(HOST).map(|host| host.to_str().unwrap_or_default());
        if only_local && !host.is_none_or(is_local_name) {
            return text(StatusCode::FORBIDDEN, "ask localhost or an address, not another name\n");
        }
        let path = head.uri.path();
        let allowed = match (path, &self.log_level, self.routes.get(path)) {
            (LOG_LEVEL, Some(level), _) => match head.method {
                Method::GET | Method::HEAD => return text(StatusCode::OK, format!("{}\n", level.current())),
                Method::PUT => return set_log_level(level, body).await,
                _ => "GET, HEAD, PUT",
            },
            (_, _, Some(answer)) => match head.method {
                Method::GET | Method::HEAD => {
                    let (status, content_type, body) = answer();
                    return response(status, content_type, body);
                }
                _ => "GET, HEAD",
            },
            _ => {
                let mut paths: Vec<&str> = self.routes.keys().copied().collect();
                paths.extend(self.log_level.as_ref().map(|_| LOG_LEVEL));
                return text(StatusCode::NOT_FOUND, format!("there is {}\n", paths.join(", ")));
            }
        };
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {allowed}\n"));
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static(allowed));
        refused
    }
}

/// An admin server that listens, and answers once it is served.
pub struct AdminServer {
    admin: Arc<Admin>,
    listener: TcpListener,
    local_address: SocketAddr,
}

impl AdminServer {
    /// With the port that port 0 became.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Answers until the future is dropped.
    pub async fn serve(self) -> Infallible {
        let only_local = self.local_address.ip().is_loopback();
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        // Dropping it ends the connections.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let permit = room.clone().acquire_owned().await.expect("never closed");
            while connections.try_join_next().is_some() {}
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, address = %self.local_address, "admin connection is not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let admin = self.admin.clone();
            connections.spawn(async move {
                let _permit = permit;
                let answer = service_fn(|request| {
                    let admin = &admin;
                    async move { Ok::<_, Infallible>(admin.respond(request, only_local).await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .max_buf_size(MAX_HEAD)
                    .serve_connection(TokioIo::new(stream), answer);
                if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
                    tracing::debug!(%error, "admin connection ended early");
                }
            });
        }
    }
}

async fn set_log_level(level: &LogLevel, body: Incoming) -> Response<Full<Bytes>> {
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, format!("a log level has at most {MAX_BODY} bytes\n"));
    };
    let body = body.to_bytes();
    let Ok(wanted) = std::str::from_utf8(&body) else {
        return text(StatusCode::BAD_REQUEST, "a log level is text\n");
    };
    match level.set(wanted) {
        Ok(()) => {
            let level = level.current();
            tracing::info!(level, "log level changed");
            text(StatusCode::OK, format!("{level}\n"))
        }
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

/// Whether a `Host` can only mean this machine: an attacker's page can point its own name at 127.0.0.1, but not these.
fn is_local_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, TEXT, body.into())
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;
