//! HTTP/1.1 connections.

mod read;

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;

use self::read::{BodyReader, Head, Length, ReadError, Reader};
use crate::answer::{Body, Connection, Fail, Framing, Request, Wanted, trailers};
use crate::stream::{Peeked, Transport};
use crate::websocket;

/// How long a connection may be idle, or a head or a piece of a body under way.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// How much and how long is still read from a client whose request was refused.
const MAX_DISCARDED: u64 = 1 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves requests until the client or `stop` ends the connection.
pub(crate) async fn serve<T: Transport>(
    stream: Peeked<T>,
    connection: Arc<Connection>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ReadError> {
    let Peeked { io, ahead } = stream;
    let mut reader = Reader { io, buffer: ahead };
    loop {
        let head = tokio::select! {
            head = timed(reader.head()) => head,
            () = crate::server::stopped(&mut stop) => return Ok(()),
        };
        let head = match head {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(()),
            Err(error) => return refuse(&mut reader, error).await,
        };
        if head.lists("upgrade", "websocket") && head.lists("connection", "upgrade") {
            return websocket(reader, head, &connection).await;
        }
        match exchange(&mut reader, head, &connection, &stop).await {
            Ok(true) => {}
            Ok(false) => {
                reader.io.shutdown().await?;
                return Ok(());
            }
            Err(error) => return refuse(&mut reader, error).await,
        }
    }
}

async fn timed<T>(read: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
    match timeout(READ_TIMEOUT, read).await {
        Ok(result) => result,
        Err(_) => Err(ReadError::Truncated),
    }
}

/// Tells the client what was wrong, if it can still be told, and ends the connection.
async fn refuse<T: Transport>(reader: &mut Reader<T>, error: ReadError) -> Result<(), ReadError> {
    let status = match &error {
        ReadError::Malformed(_) => "400 Bad Request",
        ReadError::TooLarge => "431 Request Header Fields Too Large",
        _ => return Err(error),
    };
    let text = format!("{error}\n");
    let length = text.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{text}"
    );
    reader.io.write_all(answer.as_bytes()).await?;
    reader.io.shutdown().await?;
    // Closing with input unread would reset the connection, and the answer might never be seen.
    let discard = async {
        let mut rest = (&mut reader.io).take(MAX_DISCARDED);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // The connection ends either way.
    let _ = timeout(DISCARD_TIMEOUT, discard).await;
    Err(error)
}

fn request(head: &Head) -> Request {
    Request {
        method: head.method.clone(),
        target: head.target.clone(),
        proto: if head.minor == 1 { "HTTP/1.1" } else { "HTTP/1.0" },
        host: head.header("host").map(str::to_owned),
        headers: head.headers.clone(),
    }
}

/// One request and its answer; `true` when the connection stays open.
async fn exchange<T: Transport>(
    reader: &mut Reader<T>,
    head: Head,
    connection: &Arc<Connection>,
    stop: &watch::Receiver<bool>,
) -> Result<bool, ReadError> {
    let (mut wanted, error) = match Wanted::parse(&head.target) {
        Ok(wanted) => (wanted, None),
        Err(error) => (Wanted::parse("/").expect("a bare path fits"), Some(error)),
    };
    if matches!(wanted.fail, Some(Fail::Reset | Fail::Close)) {
        if wanted.fail == Some(Fail::Reset) {
            reader.io.abort_on_close();
            return Err(ReadError::Aborted);
        }
        return Ok(false);
    }
    if head.expect_continue {
        reader.io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let mut body = BodyReader::new(head.length);
    let keep_alive = head.keep_alive && !*stop.borrow();
    if wanted.echo {
        tokio::time::sleep(wanted.delay).await;
        return echo(reader, &head, body, keep_alive).await;
    }
    let mut received = 0;
    while let Some(piece) = timed(body.next(reader)).await? {
        received += piece.len() as u64;
    }
    tokio::time::sleep(wanted.delay).await;
    let request = request(&head);
    let report = request.report(connection, received, &body.trailers);
    tracing::info!(peer = %connection.peer, method = head.method, target = head.target, "request");
    let (content_type, content) = match error {
        Some(error) => {
            wanted.status = 400;
            ("text/plain; charset=utf-8", Body::Text(format!("{error}\n").into()))
        }
        None => wanted.body(&report),
    };
    let fields = wanted.trailers.then(|| trailers(connection, received));
    let answer = Answer { head: &head, wanted: &wanted, content_type, keep_alive };
    answer.send(&mut reader.io, content, fields).await
}

struct Answer<'a> {
    head: &'a Head,
    wanted: &'a Wanted,
    content_type: &'a str,
    keep_alive: bool,
}

impl Answer<'_> {
    async fn send<T: Transport>(
        self,
        io: &mut T,
        content: Body,
        trailers: Option<[(&'static str, String); 2]>,
    ) -> Result<bool, ReadError> {
        let Self { head, wanted, content_type, keep_alive } = self;
        let bodiless = matches!(wanted.status, 204 | 304);
        // HTTP/1.0 knows no chunks: its bodies end with the connection.
        let framing = match wanted.framing {
            Framing::Pieces(_) if head.minor == 0 => Framing::UntilClose,
            framing => framing,
        };
        let partial = wanted.fail == Some(Fail::Partial);
        let keep_alive = keep_alive && framing != Framing::UntilClose && !partial;
        let mut out = String::new();
        let status = http::StatusCode::from_u16(wanted.status).expect("statuses are 200 to 599");
        let reason = status.canonical_reason().unwrap_or("Unnamed");
        line(&mut out, format_args!("HTTP/1.1 {} {reason}", status.as_str()));
        line(&mut out, format_args!("content-type: {content_type}"));
        match framing {
            _ if bodiless => {}
            Framing::Length => {
                let announced = content.len() + if partial { 1000 } else { 0 };
                line(&mut out, format_args!("content-length: {announced}"));
            }
            Framing::Pieces(_) => line(&mut out, format_args!("transfer-encoding: chunked")),
            Framing::UntilClose => {}
        }
        if trailers.is_some() && matches!(framing, Framing::Pieces(_)) {
            line(&mut out, format_args!("trailer: x-whoami-name, x-whoami-body-bytes"));
        }
        if !keep_alive {
            line(&mut out, format_args!("connection: close"));
        } else if head.minor == 0 {
            line(&mut out, format_args!("connection: keep-alive"));
        }
        let mut out = BytesMut::from(out.as_bytes());
        for (name, value) in &wanted.headers {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if bodiless || head.method == "HEAD" {
            io.write_all(&out).await?;
            io.flush().await?;
            return Ok(keep_alive);
        }
        match framing {
            Framing::Length | Framing::UntilClose => {
                for slice in content.slices() {
                    out.extend_from_slice(&slice);
                    io.write_all(&out).await?;
                    out.clear();
                }
                io.write_all(&out).await?;
            }
            Framing::Pieces(pieces) => {
                for piece in content.split(pieces) {
                    out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    out.extend_from_slice(&piece);
                    out.extend_from_slice(b"\r\n");
                    io.write_all(&out).await?;
                    io.flush().await?;
                    out.clear();
                }
                if !partial {
                    let mut end = "0\r\n".to_owned();
                    for (name, value) in trailers.iter().flatten() {
                        line(&mut end, format_args!("{name}: {value}"));
                    }
                    out.extend_from_slice(end.as_bytes());
                    out.extend_from_slice(b"\r\n");
                }
                io.write_all(&out).await?;
            }
        }
        io.flush().await?;
        Ok(keep_alive)
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    write!(out, "{text}\r\n").expect("writing to a string succeeds");
}

/// Sends the request body back while it arrives, framed as it came.
async fn echo<T: Transport>(
    reader: &mut Reader<T>,
    head: &Head,
    mut body: BodyReader,
    keep_alive: bool,
) -> Result<bool, ReadError> {
    let mut out = "HTTP/1.1 200 OK\r\n".to_owned();
    if let Some(content_type) = head.header("content-type").filter(|value| value.is_ascii()) {
        line(&mut out, format_args!("content-type: {content_type}"));
    }
    match head.length {
        Length::Known(length) => line(&mut out, format_args!("content-length: {length}")),
        Length::Chunked => line(&mut out, format_args!("transfer-encoding: chunked")),
    }
    if !keep_alive {
        line(&mut out, format_args!("connection: close"));
    }
    line(&mut out, format_args!(""));
    reader.io.write_all(out.as_bytes()).await?;
    reader.io.flush().await?;
    let silent = head.method == "HEAD";
    // Past the head a fault can no longer be told: the connection just ends.
    let cut = |error| match error {
        ReadError::Malformed(_) | ReadError::TooLarge => ReadError::Truncated,
        other => other,
    };
    while let Some(piece) = timed(body.next(reader)).await.map_err(cut)? {
        if silent {
            continue;
        }
        let mut out = BytesMut::with_capacity(piece.len() + 20);
        if head.length == Length::Chunked {
            out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        }
        out.extend_from_slice(&piece);
        if head.length == Length::Chunked {
            out.extend_from_slice(b"\r\n");
        }
        reader.io.write_all(&out).await?;
        reader.io.flush().await?;
    }
    if head.length == Length::Chunked && !silent {
        let mut end = "0\r\n".to_owned();
        for (name, value) in body.trailers.iter().filter(|(_, value)| value.is_ascii()) {
            line(&mut end, format_args!("{name}: {value}"));
        }
        line(&mut end, format_args!(""));
        reader.io.write_all(end.as_bytes()).await?;
        reader.io.flush().await?;
    }
    Ok(keep_alive)
}

async fn websocket<T: Transport>(reader: Reader<T>, head: Head, connection: &Arc<Connection>) -> Result<(), ReadError> {
    let Reader { mut io, buffer } = reader;
    let protocol = head.header("sec-websocket-protocol").and_then(|list| list.split(',').next()).map(str::trim);
    let accept = match websocket::accept(head.header("sec-websocket-version"), head.header("sec-websocket-key")) {
        Ok(accept) if head.method == "GET" && head.minor == 1 => accept,
        Ok(_) => return refuse(&mut Reader { io, buffer }, ReadError::Malformed("handshake is not GET")).await,
        Err(error) => return refuse(&mut Reader { io, buffer }, ReadError::Malformed(error)).await,
    };
    let mut out = String::new();
    line(&mut out, format_args!("HTTP/1.1 101 Switching Protocols"));
    line(&mut out, format_args!("upgrade: websocket"));
    line(&mut out, format_args!("connection: Upgrade"));
    line(&mut out, format_args!("sec-websocket-accept: {accept}"));
    if let Some(protocol) = protocol.filter(|protocol| protocol.is_ascii()) {
        line(&mut out, format_args!("sec-websocket-protocol: {protocol}"));
    }
    line(&mut out, format_args!(""));
    io.write_all(out.as_bytes()).await?;
    let json = request(&head).report(connection, 0, &Vec::new()).json();
    let stream = Peeked { io, ahead: buffer };
    let halves: (ReadHalf<_>, WriteHalf<_>) = tokio::io::split(stream);
    websocket::echo(halves, json).await.map_err(ReadError::Io)
}
