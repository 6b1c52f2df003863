//! gRPC calls without generated code: messages are bytes.

use anyhow::{Context, Result, ensure};

use crate::dial::Dial;
use crate::http2::{self, Request};
use crate::response::{Fields, Response, Seen};

/// The path of whoami's unary method: any message in, [`Call::seen`] out.
pub const ASK: &str = "/headwater.whoami.v1.Whoami/Ask";
/// The path of whoami's streaming method: each message comes back.
pub const CHAT: &str = "/headwater.whoami.v1.Whoami/Chat";
/// The path of the standard health check.
pub const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// A finished call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `grpc-status`.
    pub status: u32,
    /// `grpc-message`, empty when absent.
    pub message: String,
    /// Response messages in order.
    pub messages: Vec<Vec<u8>>,
    /// Headers and trailers as they came.
    pub response: Response,
}

impl Call {
    /// What whoami saw: field 1 of the only message of [`ASK`].
    ///
    /// # Errors
    /// When the call failed or the message is another one.
    pub fn seen(&self) -> Result<Seen> {
        ensure!(self.status == 0, "call ended with status {} {:?}", self.status, self.message);
        let message = self.messages.first().context("no response message")?;
        let (mut length, mut at) = (0usize, 1);
        ensure!(message.first() == Some(&0x0a), "field 1 does not come first: {message:?}");
        for shift in (0..28).step_by(7) {
            let byte = *message.get(at).context("message ends in a length")?;
            at += 1;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Seen::parse(message.get(at..at + length).context("message ends in a string")?)
    }
}

/// Calls a method with one message on its own connection.
///
/// # Errors
/// When the connection or stream fails, or the answer is not gRPC. A status other than 0 is no error.
pub fn unary(dial: &Dial, authority: &str, path: &str, message: &[u8], metadata: &[(&str, &str)]) -> Result<Call> {
    call(dial, authority, path, &[message], metadata)
}

/// Calls a method with any number of messages on its own connection.
///
/// # Errors
/// As [`unary`].
pub fn call(dial: &Dial, authority: &str, path: &str, messages: &[&[u8]], metadata: &[(&str, &str)]) -> Result<Call> {
    let mut body = Vec::new();
    for message in messages {
        body.push(0);
        body.extend(u32::try_from(message.len())?.to_be_bytes());
        body.extend(*message);
    }
    let mut request = Request::post(authority, path, &body).header("content-type", "application/grpc");
    request = request.header("te", "trailers");
    for (name, value) in metadata {
        request = request.header(name, value);
    }
    if dial.tls.is_some() {
        request.scheme = "https".to_owned();
    }
    parse(http2::request(dial, request)?)
}

fn parse(response: Response) -> Result<Call> {
    let content_type = response.header("content-type").unwrap_or_default();
    ensure!(
        response.status == 200 && content_type.starts_with("application/grpc"),
        "answer is not gRPC: status {}, content type {content_type:?}, {:?}",
        response.status,
        response.text()
    );
    // An error without messages has its status in the head.
    let place: &Fields = if response.trailers.is_empty() { &response.headers } else { &response.trailers };
    let field = |name: &str| crate::response::values(place, name).first().map(|value| (*value).to_owned());
    let status = field("grpc-status").context("no grpc-status")?.parse().context("grpc-status is not a number")?;
    let message = field("grpc-message").unwrap_or_default();
    let mut messages = Vec::new();
    let mut rest = &response.body[..];
    while let Some((prefix, behind)) = rest.split_at_checked(5) {
        ensure!(prefix[0] == 0, "response message is compressed");
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        let (message, behind) = behind.split_at_checked(length).context("response ends inside a message")?;
        messages.push(message.to_vec());
        rest = behind;
    }
    ensure!(rest.is_empty(), "response ends inside a message prefix");
    Ok(Call { status, message, messages, response })
}
