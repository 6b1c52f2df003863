//! One attempt of an exchange with an HTTP/2 endpoint, over a connection that others share.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason as H2Reason, SendStream};
use http::header::CONTENT_LENGTH;

use super::{Lines, map_of, next_data, poll_send, trailers_of};
use crate::auth::{Granted, WithCookies};
use crate::cors::Answered;
use crate::exchange::{Attempt, Served};
use crate::fault::{Fault, Reason, RetryAdvice};
use crate::headers::{Edited, NoVariables};
use crate::mark::Marked;
use crate::message::{BodySize, Piece, RequestBody, ResponseHead, ResponseSink};

/// Sends the request, passes the response on.
pub(crate) async fn attempt<B: RequestBody, S: ResponseSink>(
    attempt: &Attempt<'_>,
    send: SendRequest<Bytes>,
    request: http::Request<()>,
    size: BodySize,
    body: &mut B,
    sink: &mut S,
) -> Result<Served, Fault> {
    attempt.timer.set(attempt.timeouts.connect);
    let mut send = match attempt.timer.run(send.ready()).await {
        Ok(Ok(send)) => send,
        Ok(Err(error)) => return Err(closed(&error, true)),
        Err(_) => return Err(Fault::new(Reason::ConnectTimeout).detail("no free stream").retry(RetryAdvice::Safe)),
    };
    let is_head = request.method() == http::Method::HEAD;
    let no_body = matches!(size, BodySize::None | BodySize::Length(0));
    let (response, mut stream) = send.send_request(request, no_body).map_err(|error| closed(&error, true))?;
    let receive = receive(attempt, response, is_head, sink);
    if no_body {
        return receive.await;
    }
    let result = {
        let mut upload = pin!(upload(attempt, &mut stream, body));
        let mut receive = pin!(receive);
        let mut sent = false;
        poll_fn(|cx| {
            if !sent {
                match upload.as_mut().poll(cx) {
                    Poll::Ready(Ok(())) => sent = true,
                    Poll::Ready(Err(Some(fault))) => return Poll::Ready(Err(fault)),
                    // The endpoint wants no more of it; its answer is on the way.
                    Poll::Ready(Err(None)) => sent = true,
                    Poll::Pending => {}
                }
            }
            receive.as_mut().poll(cx)
        })
        .await
    };
    if result.is_err() {
        stream.send_reset(H2Reason::CANCEL);
    }
    result
}

/// Sends the body; `Err(None)` when the endpoint closed the stream for it.
async fn upload<B: RequestBody>(
    attempt: &Attempt<'_>,
    stream: &mut SendStream<Bytes>,
    body: &mut B,
) -> Result<(), Option<Fault>> {
    while let Some(piece) = body.next().await.map_err(Some)? {
        let mut bytes = piece.into_bytes();
        attempt.timer.set(attempt.timeouts.send);
        match attempt.timer.run(poll_fn(|cx| poll_send(stream, &mut bytes, false, cx))).await {
            Ok(sent) => sent.map_err(|_| None)?,
            Err(_) => return Err(Some(Reason::UpstreamTimeout.into())),
        }
    }
    let trailers = Granted::cleaned(attempt.granted, body.take_trailers());
    let ended = if trailers.is_empty() {
        stream.send_data(Bytes::new(), true)
    } else {
        stream.send_trailers(map_of(&trailers))
    };
    ended.map_err(|_| None)?;
    attempt.uploaded.set(true);
    attempt.timer.set(attempt.timeouts.idle);
    Ok(())
}

async fn receive<S: ResponseSink>(
    attempt: &Attempt<'_>,
    mut response: ResponseFuture,
    is_head: bool,
    sink: &mut S,
) -> Result<Served, Fault> {
    // While the request is being sent, the deadline is that of the client, who may be the one to wait for.
    if attempt.uploaded.get() {
        attempt.timer.set(attempt.timeouts.idle);
    }
    let response = match attempt.timer.run(&mut response).await {
        Ok(response) => response.map_err(|error| closed(&error, false))?,
        Err(_) => return Err(Reason::UpstreamTimeout.into()),
    };
    let first_byte = attempt.started.elapsed();
    let (parts, mut stream) = response.into_parts();
    let status = parts.status.as_u16();
    let declared = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let size = match declared {
        _ if is_head || stream.is_end_stream() => BodySize::None,
        Some(length) => BodySize::Length(length),
        None => BodySize::Unknown,
    };
    let lines = Lines(&parts.headers);
    let lines = Answered { lines: &lines, answer: attempt.cors };
    let lines = Edited { lines: &lines, edits: attempt.response_edits, variables: NoVariables };
    let lines = WithCookies { lines: &lines, granted: attempt.granted, status };
    if let Some(begun) = attempt.begun {
        begun.answered(&lines);
    }
    let lines = Marked { lines: &lines, marks: &attempt.marks, status, received: 0 };
    attempt.status.set(status);
    if !attempt.uploaded.get() {
        sink.close_after();
    }
    let declared_length = declared.filter(|_| is_head || status == 304);
    sink.head(ResponseHead { status, size, lines: &lines, ends_with_body: false, declared_length }).await?;
    let mut bytes = 0;
    loop {
        // What has arrived already goes out together with the head.
        let ready = poll_fn(|cx| Poll::Ready(stream.poll_data(cx))).await;
        let data = match ready {
            Poll::Ready(Some(Ok(data))) => {
                let _ = stream.flow_control().release_capacity(data.len());
                Some(Ok(data))
            }
            Poll::Ready(other) => other,
            Poll::Pending => {
                sink.flush().await?;
                attempt.timer.set(attempt.timeouts.idle);
                match attempt.timer.run(next_data(&mut stream)).await {
                    Ok(data) => data,
                    Err(_) => return Err(Reason::UpstreamTimeout.into()),
                }
            }
        };
        match data {
            Some(Ok(data)) => {
                bytes += data.len() as u64;
                sink.piece(Piece::Bytes(data)).await?;
            }
            Some(Err(error)) => return Err(Fault::new(Reason::UpstreamTruncated).detail(error)),
            None => break,
        }
    }
    sink.flush().await?;
    attempt.timer.set(attempt.timeouts.idle);
    let trailers = match attempt.timer.run(stream.trailers()).await {
        Ok(trailers) => trailers.map_err(|error| Fault::new(Reason::UpstreamTruncated).detail(error))?,
        Err(_) => return Err(Reason::UpstreamTimeout.into()),
    };
    sink.finish(trailers_of(trailers)).await?;
    Ok(Served { status, first_byte, bytes })
}

/// The endpoint ended the stream, or the connection. Streams that it never looked at may be sent again
/// (RFC 9113 section 8.7).
fn closed(error: &h2::Error, unsent: bool) -> Fault {
    let refused = error.reason() == Some(H2Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote());
    let retry = if unsent || refused { RetryAdvice::Safe } else { RetryAdvice::IfIdempotent };
    let reason = if error.is_library() { Reason::UpstreamInvalid } else { Reason::UpstreamClosed };
    Fault::new(reason).detail(error).retry(retry)
}
