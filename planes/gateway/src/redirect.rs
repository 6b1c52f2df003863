//! `Location` of a redirect.

use headwater_client_address::Scheme;
use headwater_model::gateway::{PathRewrite, Redirect};

use crate::message::Request;
use crate::plan::Plan;

/// `scheme://host[:port]path[?query]`; parts that the redirect leaves open are the request's own.
///
/// `None` when nobody named a host: HTTP/1.0 need not.
pub(crate) fn location<R: Request>(redirect: &Redirect, plan: &Plan<'_>, request: &R) -> Option<String> {
    if let Some(location) = &redirect.location {
        return Some(location.to_string());
    }
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
        None | Some(PathRewrite::Regex { .. }) => asked_path.to_owned(),
        Some(PathRewrite::Given { prefix, replacement }) => replace_prefix(plan.path.as_str(), prefix, replacement),
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
    if let Some(query) = query.filter(|_| !redirect.drop_query) {
        location.push('?');
        location.push_str(query);
    }
    Some(location)
}

/// The path with `replacement` for `prefix`, as bytes, and one `/` between the two parts; as it is when it does not begin
/// so. What begins with `//` could be taken for another host, so it never does.
pub(crate) fn replace_prefix(path: &str, prefix: &str, replacement: &str) -> String {
    let Some(rest) = path.strip_prefix(prefix) else { return path.to_owned() };
    let replaced = match rest {
        "" => replacement.to_owned(),
        rest => format!("{}/{}", replacement.strip_suffix('/').unwrap_or(replacement), rest.trim_start_matches('/')),
    };
    format!("/{}", replaced.trim_start_matches('/'))
}

fn default_port(scheme: &str) -> u16 {
    if scheme == Scheme::Https.as_str() { 443 } else { 80 }
}

/// Host and port of an authority; the brackets of an IPv6 literal stay.
pub(crate) fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_with_one_slash_between_the_parts() {
        for (path, prefix, replacement, expected) in [
            ("/a/b", "/a", "/x", "/x/b"),
            ("/a/b", "/a/", "/x", "/x/b"),
            ("/a/b", "/a", "/x/", "/x/b"),
            ("/a/b", "/a/", "/x/", "/x/b"),
            ("/a", "/a", "/x", "/x"),
            ("/a", "/a", "", "/"),
            ("/a/", "/a", "", "/"),
            ("/abc/2", "/abc/", "", "/2"),
            ("/ab", "/a", "/x", "/x/b"),
            ("/b/a", "/a", "/x", "/b/a"),
            ("/t6/xxx", "/t6/", "/", "/xxx"),
            ("/a", "/a", "//evil.test", "/evil.test"),
        ] {
            assert_eq!(replace_prefix(path, prefix, replacement), expected, "{path} {prefix} {replacement}");
        }
    }

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
