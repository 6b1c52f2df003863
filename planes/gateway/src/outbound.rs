//! The request as the endpoint gets it.

use bytes::Bytes;
use headwater_client_address::{Outbound, Verdict, verdict};
use headwater_http1::{HeaderId, encode};
use headwater_model::gateway::{Filters, PathRewrite};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request as HttpRequest, Uri};

use crate::fault::{Fault, Reason};
use crate::h2::append;
use crate::headers::Edited;
use crate::message::{BodySize, HeaderLines, Request};
use crate::plan::Plan;
use crate::redirect::replace_prefix;
use crate::trace::Begun;
use crate::variable::Asked;

/// The lines that may be forwarded: neither ours to write nor a claim about the client.
struct Clean<'a, R> {
    request: &'a R,
    plan: &'a Plan<'a>,
}

impl<R: Request> HeaderLines for Clean<'_, R> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        let policy = &self.plan.listener.snapshot.client_address;
        let trusted = self.plan.client.trusted_sender;
        self.request.each(|name, value| {
            if verdict(policy, name, trusted) == Verdict::Keep {
                visit(name, value);
            }
        });
    }
}

/// Lines of a rule's filters never speak about the client, the host or the length of the body.
fn is_ours(name: &[u8]) -> bool {
    let name_of_client = headwater_http1::is_forwarding_name(name) || name.eq_ignore_ascii_case(b"x-request-id");
    let id = HeaderId::of(name);
    name_of_client || id.is_hop_by_hop() || matches!(id, HeaderId::Host | HeaderId::ContentLength)
}

fn each_line<R: Request>(request: &R, plan: &Plan<'_>, backend: &Filters, mut visit: impl FnMut(&[u8], &[u8])) {
    let Some(begun) = plan.begun.get() else { return each_admitted(request, plan, backend, visit) };
    // Whatever the trace is, the endpoint hears of one.
    each_admitted(request, plan, backend, |name, value| {
        if !Begun::replaces(name) {
            visit(name, value);
        }
    });
    begun.each(|name, value| visit(name.as_bytes(), value));
}

fn each_admitted<R: Request>(request: &R, plan: &Plan<'_>, backend: &Filters, mut visit: impl FnMut(&[u8], &[u8])) {
    let Some(granted) = plan.granted.get() else { return each_edited(request, plan, backend, visit) };
    // What the auth server says of the request, nobody else does.
    each_edited(request, plan, backend, |name, value| {
        if !granted.replaces(name) {
            visit(name, value);
        }
    });
    granted.each(visit);
}

fn each_edited<R: Request>(request: &R, plan: &Plan<'_>, backend: &Filters, mut visit: impl FnMut(&[u8], &[u8])) {
    let clean = Clean { request, plan };
    let edits = [&plan.rule.filters.request_headers, &backend.request_headers];
    let variables = Asked { request, plan };
    if edits.iter().all(|edits| edits.is_empty()) {
        return clean.each(visit);
    }
    Edited { lines: &clean, edits, variables }.each(|name, value| {
        // What came through `clean` and is ours by name came from a trusted sender; only edits are filtered here.
        let edited = edits
            .iter()
            .any(|edits| edits.set.iter().chain(&edits.add).any(|(set, _)| name.eq_ignore_ascii_case(set.as_bytes())));
        if !(edited && is_ours(name)) {
            visit(name, value);
        }
    });
}

/// `Host` towards the endpoint.
fn host<'a, R: Request>(request: &'a R, plan: &'a Plan<'_>, backend: &'a Filters) -> &'a [u8] {
    let rewritten =
        [backend, &plan.rule.filters].into_iter().find_map(|filters| filters.rewrite.as_ref()?.host.as_ref());
    rewritten.map_or_else(|| request.authority(), |host| host.as_bytes())
}

/// Path and query towards the endpoint: as received, unless a filter rewrites it or it could be read in another way
/// than the rule was matched.
fn write_target<R: Request>(request: &R, plan: &Plan<'_>, backend: &Filters, out: &mut Vec<u8>) {
    let rewrites = [backend, &plan.rule.filters];
    let rewrite = rewrites.into_iter().find_map(|filters| filters.rewrite.as_ref()?.path.as_ref());
    let query = request.target().split_once('?').map(|(_, query)| query);
    match rewrite {
        None if plan.path_changed => out.extend_from_slice(plan.path.as_str().as_bytes()),
        None => return out.extend_from_slice(request.target().as_bytes()),
        Some(PathRewrite::Full(path)) => out.extend_from_slice(path.as_bytes()),
        Some(PathRewrite::Regex { .. }) => {
            let path = plan.rewritten.as_deref().unwrap_or(plan.path.as_str());
            return match path.split_once('?') {
                None => write_query(path, query, out),
                Some((path, "")) => out.extend_from_slice(path.as_bytes()),
                Some(_) => {
                    out.extend_from_slice(path.as_bytes());
                    if let Some(query) = query.filter(|query| !query.is_empty()) {
                        out.push(b'&');
                        out.extend_from_slice(query.as_bytes());
                    }
                }
            };
        }
        Some(PathRewrite::Given { prefix, replacement }) => {
            out.extend_from_slice(replace_prefix(plan.path.as_str(), prefix, replacement).as_bytes());
        }
        Some(PathRewrite::Prefix(prefix)) => {
            let rest = plan.path.as_str().get(plan.matched_prefix..).unwrap_or("");
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            out.extend_from_slice(prefix.as_bytes());
            if !rest.starts_with('/') && (!rest.is_empty() || prefix.is_empty()) {
                out.push(b'/');
            }
            out.extend_from_slice(rest.as_bytes());
        }
    }
    write_query("", query, out);
}

fn write_query(path: &str, query: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(path.as_bytes());
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
}

pub(crate) fn outbound<'a, R: Request>(request: &'a R, plan: &'a Plan<'_>) -> Outbound<'a, R> {
    Outbound {
        policy: &plan.listener.snapshot.client_address,
        client: &plan.client,
        headers: request,
        authority: request.authority(),
        fresh_request_id: plan.request_id.as_str(),
    }
}

/// Writes the head of the request in HTTP/1.1.
pub(crate) fn http1_head<R: Request>(request: &R, plan: &Plan<'_>, backend: &Filters, out: &mut Vec<u8>) {
    out.extend_from_slice(request.method().as_bytes());
    out.push(b' ');
    write_target(request, plan, backend, out);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    encode::write_field(b"Host", host(request, plan, backend), out);
    each_line(request, plan, backend, |name, value| encode::write_field(name, value, out));
    outbound(request, plan).write_http1(out);
    match request.body_size() {
        BodySize::None => {}
        BodySize::Length(length) => encode::write_content_length(length, out),
        BodySize::Unknown => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    match (request.upgrade(), request.accepts_trailers()) {
        (Some(protocol), _) => {
            out.extend_from_slice(b"connection: upgrade\r\n");
            encode::write_field(b"upgrade", protocol, out);
        }
        (None, true) => out.extend_from_slice(b"connection: te\r\nte: trailers\r\n"),
        (None, false) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// The head of the request for HTTP/2.
pub(crate) fn http2_head<R: Request>(
    request: &R,
    plan: &Plan<'_>,
    backend: &Filters,
    tls: bool,
) -> Result<HttpRequest<()>, Fault> {
    let invalid = |part: &'static str| Fault::new(Reason::BadRequest).detail(format_args!("{part} has no HTTP/2 form"));
    let mut target = Vec::with_capacity(request.target().len());
    write_target(request, plan, backend, &mut target);
    let target = PathAndQuery::from_maybe_shared(Bytes::from(target)).map_err(|_| invalid("target"))?;
    let authority = host(request, plan, backend);
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(match authority {
        // HTTP/1.0 need not name a host; HTTP/2 must.
        b"" => Authority::from_static("localhost"),
        host => Authority::try_from(host).map_err(|_| invalid("host"))?,
    });
    uri.path_and_query = Some(target);
    let mut head = HttpRequest::new(());
    *head.method_mut() = Method::from_bytes(request.method().as_bytes()).map_err(|_| invalid("method"))?;
    *head.uri_mut() = Uri::from_parts(uri).map_err(|_| invalid("target"))?;
    *head.version_mut() = http::Version::HTTP_2;
    let map = head.headers_mut();
    each_line(request, plan, backend, |name, value| {
        if !name.eq_ignore_ascii_case(b"expect") {
            append(map, name, value);
        }
    });
    write_client(request, plan, map);
    if let BodySize::Length(length) = request.body_size() {
        append(map, b"content-length", itoa::Buffer::new().format(length).as_bytes());
    }
    if request.accepts_trailers() {
        map.insert(http::header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(head)
}

fn write_client<R: Request>(request: &R, plan: &Plan<'_>, map: &mut HeaderMap) {
    let mut scratch = Vec::with_capacity(64);
    outbound(request, plan).write_pairs(&mut scratch, |name, value| {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            let _ = map.try_append(HeaderName::from_static(name), value);
        }
    });
}
