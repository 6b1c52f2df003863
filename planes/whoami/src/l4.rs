//! Raw TCP and UDP: a report, then an echo.

use std::io;
use std::net::SocketAddr;

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::Whoami;
use crate::answer::{Connection, Tls};
use crate::proxy::{self, Decoded, ProxyHeader};
use crate::stream::{Peeked, Transport};

/// Datagram content is repeated in the report up to this many bytes.
const SHOWN: usize = 1024;

#[derive(Debug, Serialize)]
struct TcpReport<'a> {
    name: &'a str,
    proto: &'static str,
    peer: SocketAddr,
    local: SocketAddr,
    connection: u64,
    proxy: Option<&'a ProxyHeader>,
    tls: Option<&'a Tls>,
}

#[derive(Debug, Serialize)]
struct UdpReport<'a> {
    name: &'a str,
    proto: &'static str,
    peer: SocketAddr,
    local: SocketAddr,
    proxy: Option<&'a ProxyHeader>,
    /// What is wrong with a PROXY header that could not be read.
    proxy_error: Option<String>,
    /// Length of the payload, without the PROXY header.
    body_bytes: usize,
    /// The payload when it is text, else absent.
    body: Option<&'a str>,
    /// The payload in hexadecimal when it is not text.
    body_hex: Option<String>,
}

/// One line of JSON, then every byte comes back.
pub(crate) async fn serve_tcp<T: Transport>(
    stream: Peeked<T>,
    connection: &Connection,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let report = TcpReport {
        name: &connection.name,
        proto: "TCP",
        peer: connection.peer,
        local: connection.local,
        connection: connection.id,
        proxy: connection.proxy.as_ref(),
        tls: connection.tls.as_ref(),
    };
    let mut line = serde_json::to_string(&report).expect("a report has only string keys");
    line.push('\n');
    let source = connection.proxy.as_ref().and_then(|proxy| proxy.source).map(tracing::field::display);
    tracing::info!(peer = %connection.peer, proxy_source = source, "connection");
    let (mut reader, mut writer) = tokio::io::split(stream);
    writer.write_all(line.as_bytes()).await?;
    writer.flush().await?;
    tokio::select! {
        copied = tokio::io::copy(&mut reader, &mut writer) => copied.map(drop)?,
        () = crate::server::stopped(&mut stop) => {}
    }
    writer.shutdown().await
}

/// Answers each datagram until `stop`.
pub(crate) async fn serve_udp(socket: UdpSocket, whoami: &Whoami, mut stop: watch::Receiver<bool>) {
    let mut buffer = vec![0; 65_536];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = crate::server::stopped(&mut stop) => return,
        };
        // An ICMP error for an earlier answer surfaces here; the next datagram is unaffected.
        let Ok((length, from)) = received else { continue };
        let Ok(local) = socket.local_addr() else { return };
        let answer = datagram(whoami, local, from, &buffer[..length]);
        tracing::info!(peer = %from, bytes = length, "datagram");
        if let Err(error) = socket.send_to(answer.as_bytes(), from).await {
            tracing::debug!(peer = %from, %error, "answer not sent");
        }
    }
}

fn datagram(whoami: &Whoami, local: SocketAddr, from: SocketAddr, bytes: &[u8]) -> String {
    let (mut proxy, mut proxy_error, mut payload) = (None, None, bytes);
    if whoami.proxy_protocol {
        match proxy::decode(bytes) {
            Ok(Decoded::Header(header, length)) => {
                proxy = Some(header);
                payload = &bytes[length..];
            }
            // A datagram is all there is: half a signature is payload.
            Ok(Decoded::Incomplete | Decoded::Absent) => {}
            Err(error) => proxy_error = Some(error.to_string()),
        }
    }
    let shown = &payload[..payload.len().min(SHOWN)];
    let body = std::str::from_utf8(shown).ok();
    let report = UdpReport {
        name: &whoami.name,
        proto: "UDP",
        peer: crate::server::canonical(from),
        local: crate::server::canonical(local),
        proxy: proxy.as_ref(),
        proxy_error,
        body_bytes: payload.len(),
        body,
        body_hex: body.is_none().then(|| proxy::hex(shown)),
    };
    serde_json::to_string(&report).expect("a report has only string keys")
}
