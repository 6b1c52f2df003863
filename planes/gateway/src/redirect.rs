//! `Location` of a redirect.

use headwater_client_address::Scheme;
use headwater_model::gateway::{PathRewrite, Redirect};

use crate::message::Request;
use crate::plan::Plan;

/// `scheme://host[:port]path[?query]`; parts that the redirect leaves open are the request's own.
///
/// `None` when nobody named a host: HTTP/1.0 need not.
pub(crate) fn location<R: Request>(redirect: &Redirect, plan: &Plan<'_>, request: &R) -> Option<String> {
    // Never X-Forwarded-Host: many proxies pass on a client's own, and caches would keep where it leads.
    let authority = String::from_utf8_lossy(request.authority());
    let (asked_host, asked_port) = split_port(&authority);
    let scheme = redirect.scheme.as_deref().unwrap_or(plan.client.scheme.as_str());
    let host = redirect.host.as_deref().or(Some(asked_host)).filter(|host| !host.is_empty())?;
    // A port that was asked for belongs to the scheme that was asked for.
    let kept = (redirect.scheme.is_none() && redirect.host.is_none()).then_some(asked_port).flatten();
    let port = redirect.port.or(kept).filter(|port| *port != default_port(scheme));
    let (asked_path, query) = match request.target().split_once('?') {
        Some((path, query)) => (path, Some(query)),
        // `OPTIONS *` asks for the server as a whole.
        None if request.target() == "*" => ("/", None),
        None => (request.target(), None),
    };
    let path = match &redirect.path {
        None => asked_path.to_owned(),
        Some(PathRewrite::Full(path)) => path.to_string(),
        Some(PathRewrite::Prefix(prefix)) => {
            let rest = plan.path.as_str().get(plan.matched_prefix..).unwrap_or("").trim_start_matches('/');
            format!("{}/{rest}", prefix.trim_end_matches('/'))
        }
    };
    let path = match path.strip_suffix('/') {
        Some(shorter) if redirect.strip_trailing_slash && !shorter.is_empty() => shorter,
        _ => &path,
    };
    let mut location = format!("{scheme}://{host}");
    if let Some(port) = port {
        location.push_str(&format!(":{port}"));
    }
    location.push_str(path);
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    Some(location)
}

fn default_port(scheme: &str) -> u16 {
    if scheme == Scheme::Https.as_str() { 443 } else { 80 }
}

/// Host and port of an authority; the brackets of an IPv6 literal stay.
fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_splits_at_its_port_only() {
        for (authority, expected) in [
            ("a.example", ("a.example", None)),
            ("a.example:8080", ("a.example", Some(8080))),
            ("[2001:db8::1]", ("[2001:db8::1]", None)),
            ("[2001:db8::1]:8080", ("[2001:db8::1]", Some(8080))),
            ("", ("", None)),
        ] {
            assert_eq!(split_port(authority), expected, "{authority}");
        }
    }
}
