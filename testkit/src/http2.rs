//! An HTTP/2 client: prior knowledge, or TLS with ALPN `h2`.

use std::future::poll_fn;
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::dial::Dial;
use crate::response::{Fields, Response};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `:method`.
    pub method: String,
    /// `:scheme`; `http` unless changed.
    pub scheme: String,
    /// `:authority`.
    pub authority: String,
    /// `:path`.
    pub path: String,
    /// Other headers, lower case.
    pub headers: Fields,
    /// Content, possibly empty.
    pub body: Vec<u8>,
    /// Fields behind the content.
    pub trailers: Fields,
}

impl Request {
    /// Any method, without content.
    pub fn new(method: &str, authority: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            scheme: "http".to_owned(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            headers: Fields::new(),
            body: Vec::new(),
            trailers: Fields::new(),
        }
    }

    /// A GET.
    pub fn get(authority: &str, path: &str) -> Self {
        Self::new("GET", authority, path)
    }

    /// A POST.
    pub fn post(authority: &str, path: &str, body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..Self::new("POST", authority, path) }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Sends one request on its own connection.
///
/// # Errors
/// When the connection or the stream fails, or at the deadline.
pub fn request(dial: &Dial, request: Request) -> Result<Response> {
    exchange(dial, vec![request])?.pop().context("one request has one response")?
}

/// Sends all requests at once on one connection; the responses are in the same order.
///
/// # Errors
/// When the connection cannot be made. A stream that fails, or is not answered before the deadline, is an error inside.
pub fn exchange(dial: &Dial, requests: Vec<Request>) -> Result<Vec<Result<Response>>> {
    run(dial, async move |send| {
        let mut streams = JoinSet::new();
        let count = requests.len();
        for (index, request) in requests.into_iter().enumerate() {
            let send = send.clone();
            streams.spawn(async move { (index, one(send, request).await) });
        }
        let mut responses: Vec<Option<Result<Response>>> = (0..count).map(|_| None).collect();
        while let Some(done) = streams.join_next().await {
            let (index, response) = done?;
            responses[index] = Some(response);
        }
        responses.into_iter().map(|response| response.context("every stream ends")).collect()
    })
}

/// Runs `work` on a fresh connection, within the deadline.
pub(crate) fn run<T>(dial: &Dial, work: impl AsyncFnOnce(SendRequest<Bytes>) -> Result<T>) -> Result<T> {
    let tcp = dial.tcp()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let all = async { work(connect(dial, tcp).await?).await };
        tokio::time::timeout(dial.deadline, all)
            .await
            .with_context(|| format!("HTTP/2 exchange with {} takes over {:?}", dial.address, dial.deadline))?
    })
}

async fn connect(dial: &Dial, tcp: TcpStream) -> Result<SendRequest<Bytes>> {
    tcp.set_nonblocking(true)?;
    let tcp = tokio::net::TcpStream::from_std(tcp)?;
    match &dial.tls {
        None => handshake(tcp).await,
        Some(tls) => {
            let connector = TlsConnector::from(tls.config()?);
            let stream = connector.connect(tls.server_name()?, tcp).await.context("TLS handshake")?;
            let agreed = stream.get_ref().1.alpn_protocol();
            ensure!(agreed == Some(b"h2"), "ALPN agreed on {agreed:?}, not on h2");
            handshake(stream).await
        }
    }
}

async fn handshake<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: T) -> Result<SendRequest<Bytes>> {
    let (send, connection) = h2::client::handshake(io).await.context("HTTP/2 handshake")?;
    // A fault of the connection shows in each of its streams.
    tokio::spawn(async move { drop(connection.await) });
    Ok(send)
}

fn map(fields: &Fields) -> Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_bytes(value.as_bytes())?);
    }
    Ok(map)
}

fn fields(map: &HeaderMap) -> Fields {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    map.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

/// Sends a whole request; the response is still to come.
pub(crate) async fn begin(send: SendRequest<Bytes>, request: Request) -> Result<ResponseFuture> {
    let mut send = send.ready().await.context("connection takes no request")?;
    let authority = request.authority.as_str();
    let uri = Uri::builder().scheme(request.scheme.as_str()).authority(authority).path_and_query(request.path.as_str());
    let mut head = http::Request::builder().method(request.method.as_str()).uri(uri.build()?).body(())?;
    *head.headers_mut() = map(&request.headers)?;
    let (has_body, has_trailers) = (!request.body.is_empty(), !request.trailers.is_empty());
    let (response, mut out) = send.send_request(head, !has_body && !has_trailers)?;
    let mut body = Bytes::from(request.body);
    while !body.is_empty() {
        out.reserve_capacity(body.len());
        let Some(room) = poll_fn(|cx| out.poll_capacity(cx)).await else {
            // The server has answered, or reset the stream, without waiting for the rest.
            return Ok(response);
        };
        let piece = body.split_to(room?.min(body.len()));
        out.send_data(piece, body.is_empty() && !has_trailers)?;
    }
    if has_trailers {
        out.send_trailers(map(&request.trailers)?)?;
    }
    Ok(response)
}

/// Reads a response to its end.
pub(crate) async fn finish(response: ResponseFuture) -> Result<Response> {
    let (head, mut body) = response.await.context("response head")?.into_parts();
    let mut response = Response { status: head.status.as_u16(), headers: fields(&head.headers), ..Response::default() };
    while let Some(piece) = body.data().await {
        let piece = piece.context("response body")?;
        body.flow_control().release_capacity(piece.len())?;
        response.body.extend_from_slice(&piece);
    }
    response.trailers = body.trailers().await.context("response trailers")?.map(|map| fields(&map)).unwrap_or_default();
    Ok(response)
}

async fn one(send: SendRequest<Bytes>, request: Request) -> Result<Response> {
    finish(begin(send, request).await?).await
}
