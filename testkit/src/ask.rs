//! One question in every HTTP protocol: what did the origin see of me?

use std::fmt::Write;

use anyhow::{Result, ensure};

use crate::client::RawClient;
use crate::dial::Dial;
use crate::grpc;
use crate::http2::{self, Request};
use crate::response::Seen;
use crate::websocket::WebSocket;

/// A protocol that carries request headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge or ALPN.
    Http2,
    /// A unary gRPC call.
    Grpc,
    /// A WebSocket handshake over HTTP/1.1.
    WebSocket,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Http1, Self::Http2, Self::Grpc, Self::WebSocket];

    /// The ALPN name.
    pub fn alpn(self) -> &'static str {
        match self {
            Self::Http1 | Self::WebSocket => "http/1.1",
            Self::Http2 | Self::Grpc => "h2",
        }
    }
}

/// Asks a whoami origin, usually through a gateway, on a fresh connection. With TLS and no ALPN named, the protocol's
/// own is offered. The path is `/`, for gRPC [`grpc::ASK`].
///
/// # Errors
/// When the connection is closed or refused, or the answer is not 200 (WebSocket: 101) with a whoami report; the text
/// names the status if there is one.
pub fn ask(protocol: Protocol, dial: &Dial, host: &str, headers: &[(&str, &str)]) -> Result<Seen> {
    let mut dial = dial.clone();
    if let Some(tls) = dial.tls.as_mut().filter(|tls| tls.alpn.is_empty()) {
        tls.alpn = vec![protocol.alpn().to_owned()];
    }
    match protocol {
        Protocol::Http1 => {
            let mut request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n");
            for (name, value) in headers {
                write!(request, "{name}: {value}\r\n")?;
            }
            let response = RawClient::open(&dial)?.request(request + "\r\n")?;
            ensure!(response.status == 200, "answer has status {}: {}", response.status, response.text());
            response.seen()
        }
        Protocol::Http2 => {
            let mut request = Request::get(host, "/");
            if dial.tls.is_some() {
                request.scheme = "https".to_owned();
            }
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let response = http2::request(&dial, request)?;
            ensure!(response.status == 200, "answer has status {}: {}", response.status, response.text());
            response.seen()
        }
        Protocol::Grpc => grpc::unary(&dial, host, grpc::ASK, b"", headers)?.seen(),
        Protocol::WebSocket => WebSocket::open(&dial, host, "/", headers)?.seen(),
    }
}
