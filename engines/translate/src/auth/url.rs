//! The URLs of auth servers and of places to sign in.

use std::net::IpAddr;

use headwater_model::gateway::{EndpointAddress, HostPattern, Template};

use crate::host::is_name;

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Server {
    pub(crate) tls: bool,
    /// A name in lower case, or an address without brackets.
    pub(crate) host: Box<str>,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn address(&self) -> EndpointAddress {
        match self.host.parse::<IpAddr>() {
            Ok(address) => EndpointAddress::Ip((address, self.port).into()),
            Err(_) => EndpointAddress::Dns((&*self.host).into(), self.port),
        }
    }
}

/// `auth-url` in its parts.
#[derive(Debug)]
pub(crate) struct Url {
    pub(crate) server: Server,
    pub(crate) authority: Box<str>,
    pub(crate) target: Template,
}

/// Reads `http(s)://host[:port][/path][?query]`. Path and query may have variables; the host only `$host`, and only in a
/// rule for one host: whom we connect to is not for clients to say.
pub(crate) fn parse(text: &str, rule: &HostPattern) -> Result<Url, String> {
    let (scheme, rest) = text.split_once("://").ok_or("it is not http:// or https:// and a host")?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return Err("it is not http:// or https:// and a host".to_owned()),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let authority = match authority.contains('$') {
        false => authority.to_ascii_lowercase(),
        true => own_host(authority, rule)?,
    };
    let (host, port) = split_port(&authority).ok_or("its host or port cannot be used")?;
    let is_address = host.parse::<IpAddr>().is_ok();
    if !is_address && (!is_name(host) || host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')) {
        return Err("its host is neither a name nor an address".to_owned());
    }
    if target.contains(['#', ' ']) {
        return Err("it has a fragment or a space".to_owned());
    }
    let slash = if target.starts_with('/') { "" } else { "/" };
    let target = Template::parse(&format!("{slash}{target}")).map_err(|error| error.to_string())?;
    let server = Server { tls, host: host.into(), port: port.unwrap_or(if tls { 443 } else { 80 }) };
    Ok(Url { server, authority: authority.into(), target })
}

fn own_host(authority: &str, rule: &HostPattern) -> Result<String, String> {
    let HostPattern::Exact(name) = rule else {
        return Err(
            "its host has a variable, and only the host of the rule could stand for it, which is not one".to_owned()
        );
    };
    let rest = authority.strip_prefix("${host}").or_else(|| authority.strip_prefix("$host"));
    match rest.filter(|rest| rest.is_empty() || (rest.starts_with(':') && !rest.contains('$'))) {
        Some(rest) => Ok(format!("{name}{rest}")),
        None => Err("its host has a variable other than $host".to_owned()),
    }
}

/// Host, without brackets, and port.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            if !host.contains(':') {
                return None;
            }
            (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some(""))?)
        }
        None => match authority.split_once(':') {
            Some((host, port)) if !port.is_empty() => (host, port),
            Some(_) => return None,
            None => (authority, ""),
        },
    };
    let port = match port {
        "" => None,
        port => Some(port.parse().ok().filter(|port| *port != 0 && !authority.contains('+'))?),
    };
    Some((host, port))
}

/// The place to sign in, with a parameter that says where to return to, unless it says so itself.
pub(super) fn with_return(signin: &str, parameter: &str) -> String {
    let back = "$pass_access_scheme://$http_host$escaped_request_uri";
    let Some((_, query)) = signin.split_once('?') else { return format!("{signin}?{parameter}={back}") };
    let says = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .any(|(name, value)| name == parameter && !value.is_empty());
    match says {
        true => signin.to_owned(),
        false => format!("{signin}&{parameter}={back}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_one_server_whatever_a_client_sends() {
        let exact = HostPattern::Exact("shop.example".into());
        let ok = |tls, host: &str, port, authority: &str, target: &str| {
            Some((tls, host.to_owned(), port, authority.to_owned(), target.to_owned()))
        };
        for (text, rule, expected) in [
            ("http://auth.test/", &exact, ok(false, "auth.test", 80, "auth.test", "/")),
            ("HTTP://Auth.Test", &exact, ok(false, "auth.test", 80, "auth.test", "/")),
            (
                "https://auth.test:8443/a?b=$arg_b",
                &exact,
                ok(true, "auth.test", 8443, "auth.test:8443", "/a?b=${arg_b}"),
            ),
            ("http://auth.test?x=$uri", &exact, ok(false, "auth.test", 80, "auth.test", "/?x=${uri}")),
            (
                "http://auth.shop.svc.cluster.local/x",
                &exact,
                ok(false, "auth.shop.svc.cluster.local", 80, "auth.shop.svc.cluster.local", "/x"),
            ),
            ("http://10.0.0.1:4180/x", &exact, ok(false, "10.0.0.1", 4180, "10.0.0.1:4180", "/x")),
            ("http://[2001:db8::1]:4180/x", &exact, ok(false, "2001:db8::1", 4180, "[2001:db8::1]:4180", "/x")),
            ("https://[2001:db8::1]/x", &exact, ok(true, "2001:db8::1", 443, "[2001:db8::1]", "/x")),
            ("https://$host/oauth2/auth", &exact, ok(true, "shop.example", 443, "shop.example", "/oauth2/auth")),
            ("https://${host}:8443/auth", &exact, ok(true, "shop.example", 8443, "shop.example:8443", "/auth")),
            ("https://$host/auth", &HostPattern::Any, None),
            ("https://$host/auth", &HostPattern::OneLabel("example".into()), None),
            ("https://$host.evil.test/auth", &exact, None),
            ("https://$http_host/auth", &exact, None),
            ("https://$host:$server_port/auth", &exact, None),
            ("https://auth.$host/auth", &exact, None),
            ("$scheme://auth.test/", &exact, None),
            ("http://user@auth.test/", &exact, None),
            ("http://auth.test:/", &exact, None),
            ("http://auth.test:0/", &exact, None),
            ("http://auth.test:+80/", &exact, None),
            ("http://auth.test:99999/", &exact, None),
            ("http://auth.test:80:80/", &exact, None),
            ("http://1.2.3/", &exact, None),
            ("http://a b/", &exact, None),
            ("http://auth.test/a b", &exact, None),
            ("http://auth.test/#a", &exact, None),
            ("http://auth.test/$nobody", &exact, None),
            ("http:///x", &exact, None),
            ("ftp://auth.test/", &exact, None),
            ("auth.test", &exact, None),
            ("", &exact, None),
        ] {
            let found = parse(text, rule).ok().map(|url| {
                let Server { tls, host, port } = url.server;
                (tls, host.to_string(), port, url.authority.to_string(), url.target.to_string())
            });
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_place_to_sign_in_says_where_to_return_to() {
        let back = "$pass_access_scheme://$http_host$escaped_request_uri";
        for (signin, parameter, expected) in [
            ("http://$host/auth/start", "rd", format!("http://$host/auth/start?rd={back}")),
            ("http://a/start?xx=bb", "rd", format!("http://a/start?xx=bb&rd={back}")),
            ("http://a/start?xx=bb", "next", format!("http://a/start?xx=bb&next={back}")),
            (
                "http://a/start?rd=$escaped_request_uri&xx=bb",
                "rd",
                "http://a/start?rd=$escaped_request_uri&xx=bb".to_owned(),
            ),
            ("http://a/start?rd=", "rd", format!("http://a/start?rd=&rd={back}")),
            ("http://a/start?xrd=1", "rd", format!("http://a/start?xrd=1&rd={back}")),
        ] {
            assert_eq!(with_return(signin, parameter), expected, "{signin}");
        }
    }
}
