//! gRPC over HTTP/2: `headwater.whoami.v1.Whoami` and `grpc.health.v1.Health/Check`.
//!
//! ```proto
//! package headwater.whoami.v1;
//! message Reply { string json = 1; }
//! service Whoami {
//!   rpc Ask(Empty) returns (Reply);                   // any request message is accepted
//!   rpc Chat(stream Any) returns (stream Any);        // each message comes back unchanged
//! }
//! ```
//! Source: gRPC over HTTP2, and the protocol buffers encoding guide.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Response};

use crate::answer::{Connection, Request};
use crate::http2;

/// Longest message, as in most gRPC libraries.
const MAX_MESSAGE: usize = 4 << 20;

/// The statuses used here, by number.
#[derive(Clone, Copy, Debug)]
enum Code {
    InvalidArgument = 3,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
}

struct Refusal {
    code: Code,
    message: &'static str,
}

impl Refusal {
    fn trailers(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert("grpc-status", HeaderValue::from(self.code as u16));
        map.insert("grpc-message", HeaderValue::from_static(self.message));
        map
    }
}

enum Fault {
    Refused(Refusal),
    Transport(h2::Error),
}

impl From<h2::Error> for Fault {
    fn from(error: h2::Error) -> Self {
        Self::Transport(error)
    }
}

fn refused(code: Code, message: &'static str) -> Fault {
    Fault::Refused(Refusal { code, message })
}

/// Length-prefixed messages out of a stream of DATA frames.
struct Messages {
    body: RecvStream,
    buffer: BytesMut,
}

impl Messages {
    /// The next message; `None` when the client has finished.
    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if let Some(message) = take_message(&mut self.buffer).map_err(Fault::Refused)? {
                return Ok(Some(message));
            }
            match http2::next(&mut self.body).await? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(refused(Code::Internal, "request ends inside a message")),
            }
        }
    }
}

fn take_message(buffer: &mut BytesMut) -> Result<Option<Bytes>, Refusal> {
    let Some(prefix) = buffer.get(..5) else { return Ok(None) };
    if prefix[0] != 0 {
        return Err(Refusal { code: Code::Unimplemented, message: "compressed messages are not supported" });
    }
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if length > MAX_MESSAGE {
        return Err(Refusal { code: Code::ResourceExhausted, message: "message is longer than 4 MiB" });
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length).freeze()))
}

fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(5 + message.len());
    out.put_u8(0);
    out.put_u32(message.len() as u32);
    out.put_slice(message);
    out.freeze()
}

/// A message whose field 1 is the string `text`.
fn string_message(text: &str) -> Vec<u8> {
    let mut out = vec![0x0a];
    let mut left = text.len();
    while left > 0x7f {
        out.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
    out.extend(text.as_bytes());
    out
}

/// Answers one call.
pub(crate) async fn serve(
    request: Request,
    body: RecvStream,
    respond: &mut SendResponse<Bytes>,
    connection: &Arc<Connection>,
) -> Result<(), h2::Error> {
    let mut messages = Messages { body, buffer: BytesMut::new() };
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let reply = match request.target.as_str() {
        _ if request.method != "POST" => Err(refused(Code::Internal, "method is not POST")),
        "/headwater.whoami.v1.Whoami/Ask" => unary(&mut messages).await.map(|length| {
            let json = request.report(connection, length, &Vec::new()).json();
            Some(string_message(&json))
        }),
        // HealthCheckResponse { status: SERVING }
        "/grpc.health.v1.Health/Check" => unary(&mut messages).await.map(|_| Some(vec![0x08, 0x01])),
        "/headwater.whoami.v1.Whoami/Chat" => Ok(None),
        _ => Err(refused(Code::Unimplemented, "no such method")),
    };
    let (mut out, outcome) = match reply {
        Ok(Some(message)) => {
            let mut out = respond.send_response(response, false)?;
            let outcome = http2::send(&mut out, frame(&message)).await.map_err(Fault::Transport);
            (out, outcome)
        }
        Ok(None) => {
            let mut out = respond.send_response(response, false)?;
            let outcome = chat(&mut messages, &mut out).await;
            (out, outcome)
        }
        Err(Fault::Refused(refusal)) => {
            response.headers_mut().extend(refusal.trailers());
            respond.send_response(response, true)?;
            return Ok(());
        }
        Err(Fault::Transport(error)) => return Err(error),
    };
    match outcome {
        Ok(()) => {
            let mut ok = HeaderMap::new();
            ok.insert("grpc-status", HeaderValue::from_static("0"));
            out.send_trailers(ok)
        }
        Err(Fault::Refused(refusal)) => out.send_trailers(refusal.trailers()),
        Err(Fault::Transport(error)) => Err(error),
    }
}

/// The length of the one request message.
async fn unary(messages: &mut Messages) -> Result<u64, Fault> {
    let first = messages.next().await?.ok_or_else(|| refused(Code::InvalidArgument, "no request message"))?;
    match messages.next().await? {
        None => Ok(first.len() as u64),
        Some(_) => Err(refused(Code::InvalidArgument, "more than one request message")),
    }
}

async fn chat(messages: &mut Messages, out: &mut SendStream<Bytes>) -> Result<(), Fault> {
    while let Some(message) = messages.next().await? {
        http2::send(out, frame(&message)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_lengths_are_varints() {
        assert_eq!(string_message("abc"), b"\x0a\x03abc");
        let long = string_message(&"x".repeat(300));
        assert_eq!(long[..3], [0x0a, 0xac, 0x02]);
        assert_eq!(long.len(), 303);
    }

    #[test]
    fn messages_are_taken_whole_and_only_uncompressed() {
        let mut buffer = BytesMut::from(&b"\0\0\0\0\x02ab\0\0\0\0\x01"[..]);
        assert_eq!(take_message(&mut buffer).ok().flatten().as_deref(), Some(&b"ab"[..]));
        assert!(matches!(take_message(&mut buffer), Ok(None)));
        for bad in [b"\x01\0\0\0\0", b"\0\x7f\0\0\0"] {
            assert!(take_message(&mut BytesMut::from(&bad[..])).is_err());
        }
    }
}
