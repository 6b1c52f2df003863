//! The gateway's own responses: faults and redirects, in one place.

use std::borrow::Cow;

use headwater_http1::encode;
use headwater_model::gateway::ErrorStyle;

use crate::alb_error;
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

/// How faults are told on a listener.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner<'a> {
    pub(crate) style: ErrorStyle,
    /// Name of the rule that the request is for, where one was found.
    pub(crate) rule: &'a str,
}

impl Manner<'_> {
    pub(crate) fn status(&self, reason: Reason) -> u16 {
        match self.style {
            ErrorStyle::Headwater => reason.status(),
            ErrorStyle::Alb => alb_error::status(reason),
        }
    }

    /// `no_route: no rule matches this host and path`
    fn body(&self, reason: Reason) -> String {
        match self.style {
            ErrorStyle::Headwater => format!("{}: {}\n", reason.word(), reason.text()),
            ErrorStyle::Alb => alb_error::body(reason),
        }
    }

    /// Name and value of the line that says why.
    fn why(&self, fault: &Fault) -> (&'static [u8], Cow<'static, str>) {
        match self.style {
            ErrorStyle::Headwater => (FAULT_HEADER, fault.reason.word().into()),
            ErrorStyle::Alb => (alb_error::HEADER, alb_error::words(fault, self.rule).into()),
        }
    }
}

fn lines<'w>(why: &'w (&'static [u8], Cow<'static, str>)) -> [(&'w [u8], &'w [u8]); 3] {
    [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"), (why.0, why.1.as_bytes())]
}

/// The lines of the one, then those of the other.
struct Both<'a, A, B>(&'a A, &'a B);

impl<A: HeaderLines, B: HeaderLines> HeaderLines for Both<'_, A, B> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        self.0.each(&mut visit);
        self.1.each(&mut visit);
    }
}

/// Answers with a fault and more lines; returns bytes of the body.
pub(crate) async fn send_fault<S: ResponseSink, L: HeaderLines>(
    sink: &mut S,
    fault: &Fault,
    manner: Manner<'_>,
    more: &L,
) -> Result<u64, Fault> {
    let body = manner.body(fault.reason);
    let why = manner.why(fault);
    let lines = lines(&why);
    let lines = Both(&Lines(&lines), more);
    let size = BodySize::Length(body.len() as u64);
    sink.head(ResponseHead {
        status: manner.status(fault.reason),
        size,
        lines: &lines,
        ends_with_body: true,
        declared_length: None,
    })
    .await?;
    if !body.is_empty() {
        sink.piece(Piece::Slice(body.as_bytes())).await?;
    }
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
pub(crate) fn render(fault: &Fault, style: ErrorStyle) -> Vec<u8> {
    let manner = Manner { style, rule: "" };
    let body = manner.body(fault.reason);
    let why = manner.why(fault);
    let mut out = Vec::with_capacity(256);
    encode::write_status_line(manner.status(fault.reason), &mut out);
    for (name, value) in lines(&why) {
        encode::write_field(name, value, &mut out);
    }
    encode::write_content_length(body.len() as u64, &mut out);
    out.extend_from_slice(b"connection: close\r\n\r\n");
    out.extend_from_slice(body.as_bytes());
    out
}
