//! HTTP clients for an API server: HTTP/2 where the server speaks it, dead connections noticed within seconds.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt};
use kube::config::AuthInfo;
use kube::{Client, Config};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;
use tower::retry::RetryLayer;
use tower::{ServiceBuilder, ServiceExt as _};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// For TCP, each address in turn.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For TCP and TLS together: a server that hangs still takes connections.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// From the last byte of a request to the head of its response. A busy server queues requests for up to a minute.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// An HTTP/2 connection is asked this often whether it lives, and has [`PING_TIMEOUT`] to answer.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// The same on TCP, for HTTP/1.1: two probes without an answer end a connection.
const PROBES: u32 = 2;

/// Streams on one connection. Servers allow 100 at least (RFC 9113 section 6.5.2), kube-apiserver 250 or more; who
/// asks for more waits in silence.
const MAX_STREAMS: usize = 100;

/// How old a token that was read from a file may become; kubelet replaces the file long before the token expires.
const TOKEN_AGE: Duration = Duration::from_secs(60);

/// Makes clients, each with a connection of its own. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialer(Arc<Parts>);

struct Parts {
    config: Config,
    connector: HttpsConnector<HttpConnector>,
    token: Option<TokenFile>,
    auth: Option<kube::client::middleware::AuthLayer>,
}

impl Dialer {
    pub(crate) fn new(mut config: Config) -> Result<Self, BoxError> {
        if let Some(proxy) = &config.proxy_url {
            let host = proxy.host().unwrap_or_default();
            return Err(format!(
                "proxy {host}: API servers behind a proxy are not supported (unset proxy-url and HTTPS_PROXY)"
            )
            .into());
        }
        let agent = HeaderValue::from_static(concat!("headwater/", env!("CARGO_PKG_VERSION")));
        config.headers.push((USER_AGENT, agent));
        // Checked here once, so that it holds in `client`.
        config.extra_headers_layer()?;

        let token = token_file(&config.auth_info).map(TokenFile::read).transpose()?;
        let auth = if token.is_some() { None } else { config.auth_layer()? };

        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(PING_INTERVAL));
        tcp.set_keepalive_interval(Some(PING_TIMEOUT));
        tcp.set_keepalive_retries(Some(PROBES));
        let tls = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
        let tls = match &config.tls_server_name {
            Some(name) => tls.with_server_name_resolver(FixedServerNameResolver::new(name.clone().try_into()?)),
            None => tls,
        };
        let connector = tls.enable_http1().enable_http2().wrap_connector(tcp);
        Ok(Self(Arc::new(Parts { config, connector, token, auth })))
    }

    /// For single requests: what the server is too busy for is tried again, as it asks.
    pub(crate) fn client_for_requests(&self) -> Client {
        const LONGEST_PAUSE: Duration = Duration::from_secs(5);
        self.client(RetryPolicy::new(Duration::from_millis(100), LONGEST_PAUSE, 10, true).ok())
    }

    /// For watches, which pace themselves.
    pub(crate) fn client_for_watches(&self) -> Client {
        self.client(None)
    }

    /// Needs to be called within a runtime.
    fn client(&self, retry: Option<RetryPolicy>) -> Client {
        let https = self.0.connector.clone();
        let connector = tower::service_fn(move |server: Uri| {
            let connected = tokio::time::timeout(HANDSHAKE_TIMEOUT, https.clone().oneshot(server));
            Box::pin(async move { connected.await.map_err(|_| "the TLS handshake takes too long")? })
        });
        let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .build(connector);
        let parts = self.0.clone();
        let send = tower::service_fn(move |mut request: Request<Body>| {
            let (http, parts) = (http.clone(), parts.clone());
            async move {
                if let Some(token) = &parts.token {
                    request.headers_mut().insert(AUTHORIZATION, token.header());
                }
                let response = tokio::time::timeout(RESPONSE_TIMEOUT, http.request(request));
                let response = response.await.map_err(|_| format!("no answer within {RESPONSE_TIMEOUT:?}"))??;
                if response.status() == StatusCode::UNAUTHORIZED
                    && let Some(token) = &parts.token
                {
                    token.doubt();
                }
                Ok::<_, BoxError>(response)
            }
        });
        let config = &self.0.config;
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(retry.map(RetryLayer::new))
            .option_layer(self.0.auth.as_ref())
            .layer(config.extra_headers_layer().expect("the headers were looked at in `new`"))
            .service(send);
        Client::new(service, config.default_namespace.clone())
    }
}

/// The file whose token counts, where nothing goes before it.
fn token_file(auth: &AuthInfo) -> Option<&Path> {
    let other = auth.auth_provider.is_some() || auth.username.is_some() || auth.token.is_some();
    auth.token_file.as_deref().filter(|_| !other).map(Path::new)
}

/// A bearer token that somebody else renews.
struct TokenFile {
    path: PathBuf,
    held: Mutex<Token>,
}

struct Token {
    header: HeaderValue,
    /// `None`: the server refused it.
    read: Option<Instant>,
}

impl TokenFile {
    fn read(path: &Path) -> Result<Self, BoxError> {
        let header = read_token(path).map_err(|error| format!("token file {}: {error}", path.display()))?;
        Ok(Self { path: path.to_owned(), held: Mutex::new(Token { header, read: Some(Instant::now()) }) })
    }

    /// The header to send. A file that cannot be read now leaves the token that was.
    fn header(&self) -> HeaderValue {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.read.is_none_or(|read| read.elapsed() > TOKEN_AGE) {
            match read_token(&self.path) {
                Ok(header) => held.header = header,
                Err(error) => {
                    tracing::warn!(file = %self.path.display(), error = %error, "the token file cannot be read; its last token stays");
                }
            }
            held.read = Some(Instant::now());
        }
        held.header.clone()
    }

    /// The file is read again before the next request.
    fn doubt(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).read = None;
    }
}

fn read_token(path: &Path) -> Result<HeaderValue, BoxError> {
    let token = std::fs::read_to_string(path)?;
    let mut header = HeaderValue::try_from(format!("Bearer {}", token.trim())).map_err(|_| "not a token")?;
    header.set_sensitive(true);
    Ok(header)
}

/// Clients for any number of watches, each with few enough of them. Watches take seats one after the other, so those
/// that begin first share the first connection.
pub(crate) struct Pool {
    dialer: Dialer,
    connections: Vec<Connection>,
}

struct Connection {
    client: Client,
    gate: Arc<Gate>,
    taken: Arc<AtomicUsize>,
}

/// Lets one request at a time through while it is not known that the server answers: else each of a hundred watches
/// that lost their connection would make one of its own.
#[derive(Default)]
struct Gate {
    open: AtomicBool,
    leader: Arc<tokio::sync::Mutex<()>>,
}

/// A place on a connection, free again when dropped.
pub(crate) struct Seat {
    client: Client,
    gate: Arc<Gate>,
    /// Held by the one who tries while the others wait, through its pauses too.
    lead: Option<OwnedMutexGuard<()>>,
    taken: Arc<AtomicUsize>,
}

impl Seat {
    /// Sends a request, once the server is known to answer or it is our turn to find out.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
        if self.lead.is_none() && !self.gate.open.load(Ordering::Relaxed) {
            let lead = self.gate.leader.clone().lock_owned().await;
            self.lead = (!self.gate.open.load(Ordering::Relaxed)).then_some(lead);
        }
        let answer = self.client.send(request).await;
        self.gate.open.store(answer.is_ok(), Ordering::Relaxed);
        if answer.is_ok() {
            self.lead = None;
        }
        answer
    }

    /// A stream ended, and maybe its connection with it.
    pub(crate) fn stream_ended(&self) {
        self.gate.open.store(false, Ordering::Relaxed);
    }

    /// Whether the others wait for us.
    pub(crate) fn leads(&self) -> bool {
        self.lead.is_some()
    }
}

impl Pool {
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self { dialer, connections: Vec::new() }
    }

    pub(crate) fn seat(&mut self) -> Seat {
        let free = self.connections.iter().find(|connection| connection.taken.load(Ordering::Relaxed) < MAX_STREAMS);
        let Connection { client, gate, taken } = match free {
            Some(free) => free,
            None => {
                let client = self.dialer.client_for_watches();
                self.connections.push(Connection { client, gate: Arc::default(), taken: Arc::default() });
                self.connections.last().expect("one was pushed")
            }
        };
        taken.fetch_add(1, Ordering::Relaxed);
        Seat { client: client.clone(), gate: gate.clone(), lead: None, taken: taken.clone() }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
