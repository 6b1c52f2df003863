//! One HTTP connection as a server: HTTP/1.1 or HTTP/2 over any stream, bounded in size and in time.
//!
//! For small answers to a few clients, such as webhooks; the gateway has an engine of its own.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

/// What the client speaks, as ALPN settled it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

/// What one connection may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's head.
    pub head_bytes: u32,
    /// From the first byte of an HTTP/1.1 head to its last; also ends connections that stay idle.
    pub head_time: Duration,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// From the head of a request to the end of its body.
    pub body_time: Duration,
    /// Requests at once, over HTTP/2.
    pub streams: u32,
    /// After this long the client is asked to take another connection; requests under way are answered.
    pub age: Duration,
}

/// Bytes that may arrive of one HTTP/2 body, and of all bodies of a connection, before they are asked for.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
/// An HTTP/2 client that is silent for this long is asked whether it is there, and has as long to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Answers under way when a connection closes.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// A request whose body has not been read.
#[derive(Debug)]
pub struct Request {
    head: hyper::http::request::Parts,
    body: Incoming,
    limits: Limits,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub content_type: &'static str,
    /// Further ones. What cannot be sent is left out; of those with one name the last counts.
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Seconds, for the header `Retry-After`.
    pub retry_after: Option<u16>,
}

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    #[error("the body has more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body did not arrive within {limit:?}")]
    Late { limit: Duration },
    #[error("the body ended early")]
    Broken,
}

/// Why a connection ended in another way than by closing.
#[derive(Debug, thiserror::Error)]
#[error("HTTP connection ended early")]
pub struct ServeError {
    #[from]
    source: hyper::Error,
}

impl Request {
    pub fn method(&self) -> &str {
        self.head.method.as_str()
    }

    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// The value of a header, where it is there once and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.head.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        }
    }

    /// The media type, without its parameters.
    pub fn content_type(&self) -> Option<&str> {
        let value = self.head.headers.get(CONTENT_TYPE)?.to_str().ok()?;
        Some(value.split(';').next().unwrap_or_default().trim())
    }

    /// Bytes of the body, where the client says so before it sends them.
    pub fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`BodyError`]; one that says its length is refused before it is read.
    pub async fn body(self) -> Result<Vec<u8>, BodyError> {
        let Limits { body_bytes, body_time, .. } = self.limits;
        let too_large = BodyError::TooLarge { limit: body_bytes };
        let length = usize::try_from(self.body.size_hint().lower()).map_err(|_| too_large)?;
        if length > body_bytes {
            return Err(too_large);
        }
        let mut body = self.body;
        let read = async {
            let mut bytes = Vec::with_capacity(length);
            while let Some(frame) = body.frame().await {
                let Ok(chunk) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
                if bytes.len() + chunk.len() > body_bytes {
                    return Err(too_large);
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        tokio::time::timeout(body_time, read).await.unwrap_or(Err(BodyError::Late { limit: body_time }))
    }
}

impl Response {
    /// An answer in words, with a line end.
    pub fn text(status: u16, text: impl std::fmt::Display) -> Self {
        let body = format!("{text}\n").into_bytes();
        Self { status, content_type: "text/plain; charset=utf-8", headers: Vec::new(), body, retry_after: None }
    }

    /// An answer in JSON.
    pub fn json(status: u16, body: Vec<u8>) -> Self {
        Self { status, content_type: "application/json", headers: Vec::new(), body, retry_after: None }
    }

    fn into_hyper(self) -> hyper::Response<Full<Bytes>> {
        let mut response = hyper::Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() =
            hyper::StatusCode::from_u16(self.status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        for (name, value) in self.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::try_from(value)) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// Answers every request of one connection, until it closes, grows too old, or `closing` is done. In the last two
/// cases requests under way are answered first, within 10 s.
///
/// # Errors
/// [`ServeError`] when the client broke the connection or the protocol.
pub async fn serve<S, H, A>(
    stream: S,
    version: Version,
    limits: Limits,
    closing: impl Future<Output = ()>,
    handle: H,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request) -> A + Clone + Send + 'static,
    A: Future<Output = Response> + Send,
{
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let (head, body) = request.into_parts();
        let handle = handle.clone();
        async move { Ok::<_, Infallible>(handle(Request { head, body, limits }).await.into_hyper()) }
    });
    let end = async {
        tokio::select! {
            () = closing => {}
            () = tokio::time::sleep(limits.age) => {}
        }
    };
    let stream = TokioIo::new(stream);
    // The two kinds of connection have no trait in common.
    macro_rules! drive {
        ($connection:expr) => {{
            let mut connection = pin!($connection);
            tokio::select! {
                ended = &mut connection => return Ok(ended?),
                () = end => connection.as_mut().graceful_shutdown(),
            }
            match tokio::time::timeout(LAST_ANSWERS, connection).await {
                Ok(ended) => Ok(ended?),
                Err(_) => Ok(()),
            }
        }};
    }
    match version {
        Version::Http1 => drive!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head_time)
                .max_buf_size(usize::try_from(limits.head_bytes).unwrap_or(usize::MAX).max(8 << 10))
                .serve_connection(stream, answer)
        ),
        Version::Http2 => drive!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_header_list_size(limits.head_bytes)
                .max_concurrent_streams(limits.streams)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(STREAM_WINDOW as usize)
                .keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .serve_connection(stream, answer)
        ),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIMITS: Limits = Limits {
        head_bytes: 8 << 10,
        head_time: Duration::from_secs(5),
        body_bytes: 16,
        body_time: Duration::from_secs(2),
        streams: 4,
        age: Duration::from_secs(60),
    };

    async fn echo(request: Request) -> Response {
        let what = format!("{} {} {:?}", request.method(), request.path(), request.content_type());
        match request.body().await {
            Ok(body) => Response::text(200, format_args!("{what} {}", String::from_utf8_lossy(&body))),
            Err(error @ BodyError::TooLarge { .. }) => Response::text(413, error),
            Err(error) => Response::text(408, error),
        }
    }

    /// What comes back for the bytes, until the server closes; `closing` asks it to.
    async fn exchange(sent: &str, closing: bool) -> String {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let closing = async move {
            if !closing {
                std::future::pending::<()>().await;
            }
        };
        let served = tokio::spawn(serve(server, Version::Http1, LIMITS, closing, echo));
        client.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        let _ = served.await.unwrap();
        answer
    }

    fn post(length: usize, body: &str) -> String {
        format!(
            "POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_read_up_to_their_limit() {
        let chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n9\r\n123456789\r\n0\r\n\r\n";
        for (sent, status, text) in [
            (post(16, "0123456789abcdef"), "200 OK", "POST /a Some(\"text/plain\") 0123456789abcdef"),
            (post(17, "0123456789abcdefg"), "413 ", "more than 16 bytes"),
            (post(1 << 40, ""), "413 ", "more than 16 bytes"),
            (chunked.to_owned(), "413 ", "more than 16 bytes"),
            (post(16, "late"), "408 ", "within 2s"),
        ] {
            let answer = exchange(&sent, false).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(text), "{sent}\n{answer}");
        }
    }

    #[test]
    fn further_headers_are_sent_and_what_is_no_header_is_left_out() {
        let headers =
            [("X-Content-Type-Options", "nosniff"), ("Content-Type", "text/html"), ("a b", "c"), ("X-A", "a\nb")]
                .map(|(name, value)| (name, value.to_owned()));
        let sent = Response { headers: headers.into(), ..Response::text(200, "ok") }.into_hyper();
        let sent: Vec<(&str, &[u8])> =
            sent.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(sent, [("content-type", &b"text/html"[..]), ("x-content-type-options", b"nosniff")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_and_a_connection_that_says_nothing_are_ended() {
        for sent in ["", "POST /a HTTP/1.1\r\nHost: x\r\n"] {
            let before = tokio::time::Instant::now();
            assert!(!exchange(sent, false).await.contains("200"));
            assert!(before.elapsed() < LIMITS.age, "{sent:?} {:?}", before.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_asked_to_close_answers_what_it_was_sent() {
        let sent = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok";
        let answer = exchange(sent, true).await;
        assert!(answer.is_empty() || answer.contains("ok"), "{answer}");
        assert!(exchange(sent, false).await.contains("ok"));
    }
}
