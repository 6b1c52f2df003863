//! One HTTP/1.1 connection as a client, for small requests to servers that are told things; over any stream.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    #[error("the request cannot be written")]
    Request(#[source] hyper::http::Error),
    #[error("the connection ended without an answer")]
    Ended(#[source] hyper::Error),
    #[error("the answer has more than {limit} bytes, or ended early")]
    Answer { limit: usize },
}

/// A connection; closed when dropped.
#[derive(Debug)]
pub struct Client {
    send: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
}

/// What is posted.
#[derive(Debug, Clone, Copy)]
pub struct Post<'a> {
    /// `Host`.
    pub authority: &'a str,
    /// Path and query.
    pub target: &'a str,
    pub content_type: &'static str,
    pub user_agent: &'static str,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Of `Retry-After`, where it is a number of seconds.
    pub retry_after: Option<Duration>,
    pub body: Vec<u8>,
}

impl Client {
    /// Begins to speak. Call it inside a tokio runtime, on which the connection is driven.
    ///
    /// # Errors
    /// [`ClientError::Ended`].
    pub async fn open<S>(stream: S) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, connection) = http1::Builder::new()
            .max_buf_size(64 << 10)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::Ended)?;
        let connection = tokio::spawn(async move {
            // Whoever asked hears of it, too.
            let _ = connection.await;
        });
        Ok(Self { send, connection })
    }

    /// Whether another request may be sent.
    pub fn is_open(&self) -> bool {
        self.send.is_ready()
    }

    /// Posts `body`; the answer's may have `limit` bytes.
    ///
    /// # Errors
    /// [`ClientError`]; the connection is not to be used again.
    pub async fn post(&mut self, post: Post<'_>, body: Bytes, limit: usize) -> Result<Answer, ClientError> {
        let request = hyper::Request::post(post.target)
            .header(HOST, post.authority)
            .header(CONTENT_TYPE, post.content_type)
            .header(USER_AGENT, post.user_agent)
            .body(Full::new(body))
            .map_err(ClientError::Request)?;
        let response = self.send.send_request(request).await.map_err(ClientError::Ended)?;
        let status = response.status().as_u16();
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Limited::new(response.into_body(), limit).collect().await;
        let body = body.map_err(|_| ClientError::Answer { limit })?.to_bytes().to_vec();
        // The connection is free again a moment after the last byte.
        self.send.ready().await.ok();
        Ok(Answer { status, retry_after: after.map(Duration::from_secs), body })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const POST: Post<'_> =
        Post { authority: "collector:4318", target: "/v1/traces", content_type: "text/plain", user_agent: "test" };

    /// The answer to one request, and what was sent.
    async fn answered(answer: &'static str) -> (Result<Answer, ClientError>, String) {
        let (stream, mut server) = tokio::io::duplex(64 << 10);
        let serving = tokio::spawn(async move {
            let mut sent = String::new();
            let mut buffer = [0; 1024];
            while !sent.ends_with("body") {
                let n = server.read(&mut buffer).await.unwrap();
                sent.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
            }
            server.write_all(answer.as_bytes()).await.unwrap();
            sent
        });
        let mut client = Client::open(stream).await.unwrap();
        let answer = client.post(POST, Bytes::from_static(b"body"), 8).await;
        (answer, serving.await.unwrap())
    }

    #[tokio::test]
    async fn a_body_is_posted_and_the_answer_read_up_to_its_limit() {
        let (answer, sent) = answered("HTTP/1.1 503 x\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno").await;
        let expected = Answer { status: 503, retry_after: Some(Duration::from_secs(7)), body: b"no".to_vec() };
        assert_eq!(answer.unwrap(), expected);
        assert!(sent.starts_with("POST /v1/traces HTTP/1.1\r\n") && sent.contains("host: collector:4318"), "{sent}");
        let (answer, _) = answered("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123456789").await;
        assert!(matches!(answer, Err(ClientError::Answer { limit: 8 })), "{answer:?}");
    }

    #[tokio::test]
    async fn an_answer_that_is_none_is_an_error() {
        for answer in ["", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"] {
            assert!(answered(answer).await.0.is_err(), "{answer}");
        }
    }
}
