//! What is told of a request: the attributes of Alauda's ALB, and beside them those of today's conventions.

use std::borrow::Cow;
use std::io::Write as _;

use headwater_auth::{Facts, render};
use headwater_model::gateway::{RuleNames, Trace, Variable};
use headwater_trace::SpanWriter;

use super::Begun;
use crate::accept::Accepted;
use crate::headers::Variables as _;
use crate::message::Request;
use crate::plan::Plan;
use crate::record::Record;
use crate::redirect::split_port;
use crate::variable::Asked;

/// Most headers of a request, and of a response, that become attributes.
pub(super) const MAX_HEADERS: usize = 64;
/// Headers whose values open doors; that they were there is told, what they said is not.
const SECRET: [&[u8]; 6] =
    [b"authorization", b"cookie", b"proxy-authorization", b"set-cookie", b"x-api-key", b"x-auth-token"];
const REDACTED: &[u8] = b"redacted";

/// Name of the span: as the rule has it, else method and target.
pub(super) fn name<R: Request>(trace: &Trace, request: &R, plan: &Plan<'_>) -> Vec<u8> {
    let mut name = Vec::with_capacity(64);
    if let Some(template) = &trace.span_name {
        match render(template, &Asking { request, plan }, &mut name) {
            Ok(()) if !name.is_empty() => return name,
            _ => name.clear(),
        }
    }
    name.extend_from_slice(request.method().as_bytes());
    name.push(b' ');
    name.extend_from_slice(request.target().as_bytes());
    name
}

/// What the name of a span may be made of.
struct Asking<'a, R> {
    request: &'a R,
    plan: &'a Plan<'a>,
}

impl<R: Request> Facts for Asking<'_, R> {
    fn variable(&self, variable: &Variable, out: &mut Vec<u8>) -> bool {
        match (Asked { request: self.request, plan: self.plan }).value(variable) {
            Some(value) => out.extend_from_slice(&value),
            None => return false,
        }
        true
    }

    fn target(&self) -> &str {
        self.request.target()
    }

    fn now(&self) -> std::time::Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    }
}

#[expect(clippy::too_many_arguments, reason = "everything that is known of a request")]
pub(super) fn write<R: Request>(
    span: &mut SpanWriter<'_>,
    trace: &Trace,
    names: &RuleNames,
    begun: &Begun,
    accepted: &Accepted,
    request: &R,
    plan: &Plan<'_>,
    record: &Record<'_>,
) {
    let method = request.method().as_bytes();
    let scheme = plan.client.scheme.as_str().as_bytes();
    let target = request.target();
    let authority = String::from_utf8_lossy(request.authority());
    let (host, port) = split_port(&authority);
    span.text("net.host.name", host.as_bytes());
    span.text("http.request.method", method);
    span.text("http.scheme", scheme);
    span.text("http.target", target.as_bytes());
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    span.text("url.scheme", scheme);
    span.text("url.path", path.as_bytes());
    if let Some(query) = query {
        span.text("url.query", query.as_bytes());
    }
    span.text("server.address", host.as_bytes());
    if let Some(port) = port {
        span.number("server.port", port.into());
    }
    let mut text = Vec::with_capacity(48);
    let mut written = |value: &dyn std::fmt::Display| -> Vec<u8> {
        text.clear();
        // Writing to a vector does not fail.
        let _ = write!(text, "{value}");
        std::mem::take(&mut text)
    };
    span.text("client.address", &written(&plan.client.addr));
    span.text("network.peer.address", accepted.peer_text.as_bytes());
    let version = request.version().trim_start_matches("HTTP/");
    span.text("network.protocol.version", if version == "2.0" { b"2" } else { version.as_bytes() });
    let mut user_agent: Option<&[u8]> = None;
    request.each_value("user-agent", |value| user_agent = Some(value));
    if let Some(user_agent) = user_agent {
        span.text("http.user_agent", user_agent);
        span.text("user_agent.original", user_agent);
    }

    span.text("alb.rule.rule_name", names.rule.as_bytes());
    span.text("alb.rule.source_type", names.source_type.as_bytes());
    span.text("alb.rule.source_name", names.source_name.as_bytes());
    span.text("alb.rule.source_ns", names.source_namespace.as_bytes());

    span.number("http.status_code", record.status.into());
    span.number("http.response.status_code", record.status.into());
    span.number("http.request.resend_count", record.attempts.saturating_sub(1).into());
    if !trace.hide_upstream
        && let Some(pool) = &record.pool
    {
        let service = pool.service();
        span.text("alb.upstream.svc_name", service.name.as_bytes());
        span.text("alb.upstream.svc_ns", service.namespace.as_bytes());
        if let Some(endpoint) = &record.endpoint {
            span.text("alb.upstream.peer", endpoint.text.as_bytes());
        }
    }
    if trace.request_headers {
        let mut left = MAX_HEADERS;
        request.each(|name, value| header(span, "http.request.header.", name, value, &mut left));
    }
    if trace.response_headers {
        let mut left = MAX_HEADERS;
        for (name, value) in begun.response.borrow().iter() {
            header(span, "http.response.header.", name, value, &mut left);
        }
    }
    if let Some(fault) = &record.fault {
        span.text("error.type", fault.reason.word().as_bytes());
    } else if record.status >= 500 {
        span.text("error.type", &written(&record.status));
    }
    if record.status >= 500 {
        let message: Cow<'_, str> = match &record.fault {
            Some(fault) => fault.to_string().into(),
            None => "".into(),
        };
        span.error(&message);
    }
}

fn header(span: &mut SpanWriter<'_>, prefix: &str, name: &[u8], value: &[u8], left: &mut usize) {
    if *left == 0 {
        return;
    }
    *left -= 1;
    let secret = SECRET.iter().any(|secret| name.eq_ignore_ascii_case(secret));
    span.text_below(prefix, name, if secret { REDACTED } else { value });
}
