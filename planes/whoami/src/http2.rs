//! HTTP/2 connections, by prior knowledge or ALPN.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response, StatusCode};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::answer::{Body, Connection, Fail, Fields, Framing, Request, Wanted, as_text, trailers};
use crate::grpc;
use crate::stream::{Peeked, Transport};

const MAX_STREAMS: u32 = 1024;
const MAX_HEADER_LIST: u32 = 64 * 1024;

/// Serves streams until the client ends the connection, or those under way once `stop` is set.
pub(crate) async fn serve<T: Transport>(
    io: Peeked<T>,
    connection: Arc<Connection>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), h2::Error> {
    let mut h2 = h2::server::Builder::new()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_window_size(1 << 18)
        .initial_connection_window_size(1 << 20)
        .handshake::<_, Bytes>(io)
        .await?;
    // A stream that asks for `fail=close` ends the whole connection; one message is enough.
    let (end, mut ended) = mpsc::channel(1);
    let mut streams = JoinSet::new();
    let mut stopping = false;
    loop {
        tokio::select! {
            accepted = h2.accept() => match accepted {
                Some(accepted) => {
                    let (request, respond) = accepted?;
                    streams.spawn(stream(request, respond, connection.clone(), end.clone()));
                }
                None => return Ok(()),
            },
            () = crate::server::stopped(&mut stop), if !stopping => {
                stopping = true;
                h2.graceful_shutdown();
            }
            Some(()) = ended.recv() => return Ok(()),
            Some(_) = streams.join_next() => {}
        }
    }
}

fn fields(headers: &HeaderMap) -> Fields {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), as_text(value.as_bytes()))).collect()
}

fn describe(head: &http::request::Parts) -> Request {
    let target = match head.uri.path_and_query() {
        Some(path) => path.as_str(),
        None => "",
    };
    let authority = head.uri.authority().map(|authority| authority.as_str().to_owned());
    let host = authority.or_else(|| head.headers.get("host").map(|value| as_text(value.as_bytes())));
    Request {
        method: head.method.as_str().to_owned(),
        target: target.to_owned(),
        proto: "HTTP/2",
        host,
        headers: fields(&head.headers),
    }
}

async fn stream(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: Arc<Connection>,
    end: mpsc::Sender<()>,
) {
    let (head, body) = request.into_parts();
    let request = describe(&head);
    tracing::info!(peer = %connection.peer, method = request.method, target = request.target, "request");
    let content_type = head.headers.get("content-type").map_or(&b""[..], |value| value.as_bytes());
    let outcome = if content_type.starts_with(b"application/grpc") {
        grpc::serve(request, body, &mut respond, &connection).await
    } else {
        exchange(request, body, &mut respond, &connection, &end).await
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "stream ended early");
        respond.send_reset(Reason::INTERNAL_ERROR);
    }
}

async fn exchange(
    request: Request,
    mut body: RecvStream,
    respond: &mut SendResponse<Bytes>,
    connection: &Arc<Connection>,
    end: &mpsc::Sender<()>,
) -> Result<(), h2::Error> {
    let (mut wanted, error) = match Wanted::parse(&request.target) {
        Ok(wanted) => (wanted, None),
        Err(error) => (Wanted::parse("/").expect("a bare path fits"), Some(error)),
    };
    match wanted.fail {
        Some(Fail::Reset) => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        }
        Some(Fail::Close) => {
            // A full channel means that another stream has asked already.
            let _ = end.try_send(());
            return Ok(());
        }
        _ => {}
    }
    if wanted.echo {
        tokio::time::sleep(wanted.delay).await;
        return echo(&request, body, respond).await;
    }
    let mut received = 0;
    while let Some(piece) = next(&mut body).await? {
        received += piece.len() as u64;
    }
    let request_trailers = body.trailers().await?.map(|map| fields(&map)).unwrap_or_default();
    tokio::time::sleep(wanted.delay).await;
    let report = request.report(connection, received, &request_trailers);
    let (content_type, content) = match error {
        Some(error) => {
            wanted.status = 400;
            ("text/plain; charset=utf-8", Body::Text(format!("{error}\n").into()))
        }
        None => wanted.body(&report),
    };
    let bodiless = matches!(wanted.status, 204 | 304) || request.method == "HEAD";
    let partial = wanted.fail == Some(Fail::Partial);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(wanted.status).expect("statuses are 200 to 599");
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static(content_type));
    if wanted.framing == Framing::Length && !matches!(wanted.status, 204 | 304) {
        headers.insert("content-length", (content.len() + if partial { 1000 } else { 0 }).into());
    }
    for (name, value) in wanted.headers.drain(..) {
        headers.append(name, value);
    }
    let mut out = respond.send_response(response, bodiless)?;
    if bodiless {
        return Ok(());
    }
    match wanted.framing {
        Framing::Pieces(pieces) => send_all(&mut out, content.split(pieces)).await?,
        _ => send_all(&mut out, content.slices()).await?,
    }
    if partial {
        out.send_reset(Reason::INTERNAL_ERROR);
        return Ok(());
    }
    if wanted.trailers {
        let mut map = HeaderMap::new();
        for (name, value) in trailers(connection, received) {
            map.insert(name, value.try_into().expect("trailer values are printable ASCII"));
        }
        out.send_trailers(map)
    } else {
        out.send_data(Bytes::new(), true)
    }
}

/// The next bytes of a body; their room in the window is given back.
pub(crate) async fn next(body: &mut RecvStream) -> Result<Option<Bytes>, h2::Error> {
    match body.data().await {
        Some(piece) => {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            Ok(Some(piece))
        }
        None => Ok(None),
    }
}

async fn send_all(out: &mut SendStream<Bytes>, pieces: impl Iterator<Item = Bytes>) -> Result<(), h2::Error> {
    for piece in pieces {
        send(out, piece).await?;
    }
    Ok(())
}

/// Sends `piece` as the window allows.
pub(crate) async fn send(out: &mut SendStream<Bytes>, mut piece: Bytes) -> Result<(), h2::Error> {
    while !piece.is_empty() {
        out.reserve_capacity(piece.len());
        let room = match poll_fn(|cx| out.poll_capacity(cx)).await {
            Some(room) => room?,
            // The stream is no longer open for sending: the client has reset it.
            None => return Err(Reason::CANCEL.into()),
        };
        out.send_data(piece.split_to(room.min(piece.len())), false)?;
    }
    Ok(())
}

async fn echo(request: &Request, mut body: RecvStream, respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    let content_type = request.headers.iter().find(|(name, _)| name == "content-type");
    if let Some(value) = content_type.and_then(|(_, value)| value.try_into().ok()) {
        response.headers_mut().insert("content-type", value);
    }
    let mut out = respond.send_response(response, false)?;
    while let Some(piece) = next(&mut body).await? {
        send(&mut out, piece).await?;
    }
    match body.trailers().await? {
        Some(trailers) => out.send_trailers(trailers),
        None => out.send_data(Bytes::new(), true),
    }
}
