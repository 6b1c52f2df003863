//! The gateway's own responses: faults and redirects, in one place.

use headwater_http1::encode;

use crate::cors::Answer;
use crate::fault::{Fault, Reason};
use crate::message::{BodySize, HeaderLines, Piece, ResponseHead, ResponseSink, Trailers};

/// Names the reason in every response to a fault.
const FAULT_HEADER: &[u8] = b"x-headwater-fault";

/// A few lines known when the response is made.
pub(crate) struct Lines<'a>(pub(crate) &'a [(&'a [u8], &'a [u8])]);

impl HeaderLines for Lines<'_> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        self.0.iter().for_each(|(name, value)| visit(name, value));
    }
}

/// `no_route: no rule matches this host and path`
fn text(reason: Reason) -> String {
    format!("{}: {}\n", reason.word(), reason.text())
}

fn lines(reason: Reason) -> [(&'static [u8], &'static [u8]); 3] {
    [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (FAULT_HEADER, reason.word().as_bytes()),
    ]
}

/// The lines of the one, then those of the other.
struct Both<'a, A, B>(&'a A, &'a B);

impl<A: HeaderLines, B: HeaderLines> HeaderLines for Both<'_, A, B> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        self.0.each(&mut visit);
        self.1.each(&mut visit);
    }
}

/// Answers with a fault; returns bytes of the body.
pub(crate) async fn send_fault<S: ResponseSink>(sink: &mut S, fault: &Fault) -> Result<u64, Fault> {
    send_fault_with(sink, fault, &Lines(&[])).await
}

/// Answers with a fault and more lines.
pub(crate) async fn send_fault_with<S: ResponseSink, L: HeaderLines>(
    sink: &mut S,
    fault: &Fault,
    more: &L,
) -> Result<u64, Fault> {
    let body = text(fault.reason);
    let lines = lines(fault.reason);
    let lines = Both(&Lines(&lines), more);
    let size = BodySize::Length(body.len() as u64);
    sink.head(ResponseHead {
        status: fault.reason.status(),
        size,
        lines: &lines,
        ends_with_body: true,
        declared_length: None,
    })
    .await?;
    sink.piece(Piece::Slice(body.as_bytes())).await?;
    sink.finish(Trailers::new()).await?;
    Ok(body.len() as u64)
}

/// Answers with a redirect.
pub(crate) async fn send_redirect<S: ResponseSink>(sink: &mut S, status: u16, location: &str) -> Result<(), Fault> {
    send_redirect_with(sink, status, location, &Lines(&[])).await
}

/// Answers with a redirect and more lines.
pub(crate) async fn send_redirect_with<S: ResponseSink, L: HeaderLines>(
    sink: &mut S,
    status: u16,
    location: &str,
    more: &L,
) -> Result<(), Fault> {
    let lines: [(&[u8], &[u8]); 1] = [(b"location", location.as_bytes())];
    let lines = Both(&Lines(&lines), more);
    sink.head(ResponseHead {
        status,
        size: BodySize::Length(0),
        lines: &lines,
        ends_with_body: true,
        declared_length: None,
    })
    .await?;
    sink.finish(Trailers::new()).await
}

/// Answers OPTIONS for a rule's endpoints.
pub(crate) async fn send_preflight<S: ResponseSink>(sink: &mut S, answer: &Answer<'_>) -> Result<(), Fault> {
    sink.head(ResponseHead {
        status: 204,
        size: BodySize::None,
        lines: answer,
        ends_with_body: true,
        declared_length: None,
    })
    .await?;
    sink.finish(Trailers::new()).await
}

/// The bytes of an HTTP/1.1 response to a request that could not be read; the connection ends with it.
pub(crate) fn render(fault: &Fault) -> Vec<u8> {
    let body = text(fault.reason);
    let mut out = Vec::with_capacity(256);
    encode::write_status_line(fault.reason.status(), &mut out);
    for (name, value) in lines(fault.reason) {
        encode::write_field(name, value, &mut out);
    }
    encode::write_content_length(body.len() as u64, &mut out);
    out.extend_from_slice(b"connection: close\r\n\r\n");
    out.extend_from_slice(body.as_bytes());
    out
}
