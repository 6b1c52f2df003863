//! Redirects of a Frontend or a Rule.

use headwater_model::alb::config;
use headwater_model::gateway::{PathRewrite, Redirect};

use crate::filters::{is_target, is_url};
use crate::host::is_name;

/// What of a redirect cannot be used: the field, and what is wrong with it.
pub(super) type Wrong = (&'static str, String);

/// An absolute URL is where clients are sent, whatever stands beside it. Parts that are not given are the request's own,
/// its query among them, unless another path is.
///
/// # Errors
/// The first field that no `Location` can be made of.
pub(super) fn redirect(written: &config::Redirect) -> Result<Redirect, Wrong> {
    let status = written.status();
    if !(300..=308).contains(&status) || status == 304 {
        return Err(("code", format!("{status} is not the status of a redirect (301, 302, 303, 307 or 308)")));
    }
    let shown = |text: &str| text.chars().take(100).collect::<String>();
    let url = written.url.as_deref();
    if let Some(url) = url.filter(|url| !is_url(url)) {
        return Err(("url", format!("{:?} is neither a URL of http or https nor a path", shown(url))));
    }
    let scheme = match written.scheme.as_deref().map(str::to_ascii_lowercase) {
        Some(scheme) if scheme != "http" && scheme != "https" => {
            return Err(("scheme", format!("{:?} is neither http nor https", shown(&scheme))));
        }
        scheme => scheme,
    };
    let host = written.host.as_deref();
    if let Some(host) = host.filter(|host| !is_name(&host.to_ascii_lowercase())) {
        return Err(("host", format!("{:?} is not the name of a host", shown(host))));
    }
    let prefix = written.prefix_match.as_deref();
    let replacement = written.replace_prefix.as_deref().unwrap_or_default();
    for (field, text) in [("prefix_match", prefix.unwrap_or("/")), ("replace_prefix", replacement)] {
        if !text.is_empty() && !is_target(text) {
            return Err((field, format!("{:?} is not a path", shown(text))));
        }
    }
    let port = written.port.filter(|port| *port != 0);
    let mut redirect = Redirect {
        status,
        location: None,
        scheme: scheme.as_deref().map(Box::from),
        host: host.map(Box::from),
        port,
        path: None,
        strip_trailing_slash: false,
        drop_query: false,
        exempt: Vec::new(),
    };
    let leads = scheme.is_some() || host.is_some() || port.is_some();
    match (url, prefix) {
        (Some(url), _) if !url.starts_with('/') || url.starts_with("//") || !leads => {
            redirect.location = Some(url.into());
        }
        (_, Some(prefix)) => {
            redirect.path = Some(PathRewrite::Given { prefix: prefix.into(), replacement: replacement.into() });
        }
        (Some(url), None) => {
            redirect.path = Some(PathRewrite::Full(url.into()));
            redirect.drop_query = true;
        }
        (None, None) => {}
    }
    Ok(redirect)
}

#[cfg(test)]
mod tests {
    use headwater_model::alb::config::Redirect as Written;

    use super::*;

    #[test]
    fn each_combination_of_fields_leads_where_the_manual_says() {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let written = |code, url, scheme, host, port, prefix, replacement| Written {
            code,
            url: text(url),
            scheme: text(scheme),
            host: text(host),
            port,
            prefix_match: text(prefix),
            replace_prefix: text(replacement),
        };
        let shown = |written: &Written| match redirect(written) {
            Ok(Redirect { location: Some(location), status, .. }) => format!("{status} {location}"),
            Ok(redirect) => {
                let Redirect { status, scheme, host, port, path, drop_query, .. } = redirect;
                let path = match path {
                    None => String::new(),
                    Some(PathRewrite::Full(path)) => path.into(),
                    Some(PathRewrite::Given { prefix, replacement }) => format!("{prefix}>{replacement}"),
                    Some(other) => format!("{other:?}"),
                };
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                let query = if drop_query { "" } else { "?" };
                format!("{status} {}|{}{port}|{path}{query}", scheme.unwrap_or_default(), host.unwrap_or_default())
            }
            Err((field, _)) => field.to_owned(),
        };
        #[rustfmt::skip]
        let cases = [
            (written(None, "/t1-1", "", "", None, "", ""), "302 /t1-1"),
            (written(Some(301), "/t1-2", "", "", None, "", ""), "301 /t1-2"),
            (written(Some(308), "/t3-1", "https", "a.com", Some(9090), "", ""), "308 https|a.com:9090|/t3-1"),
            (written(None, "", "", "a.com", None, "", ""), "302 |a.com|?"),
            (written(None, "", "https", "", None, "", ""), "302 https||?"),
            (written(None, "", "https", "", None, "/t6/", "/"), "302 https||/t6/>/?"),
            (written(None, "", "", "", None, "/abc/", ""), "302 ||/abc/>?"),
            (written(Some(0), "https://b.example/x", "https", "a.com", None, "", ""), "302 https://b.example/x"),
            (written(None, "//b.example/x", "https", "", None, "", ""), "302 //b.example/x"),
            (written(Some(200), "/a", "", "", None, "", ""), "code"),
            (written(None, "javascript:1", "", "", None, "", ""), "url"),
            (written(None, "/a\r\nx: y", "", "", None, "", ""), "url"),
            (written(None, "", "ftp", "", None, "", ""), "scheme"),
            (written(None, "", "", "a b", None, "", ""), "host"),
            (written(None, "", "", "a.com", None, "/a b", ""), "prefix_match"),
            (written(None, "", "", "a.com", None, "/a", "\n"), "replace_prefix"),
        ];
        for (written, expected) in cases {
            assert_eq!(shown(&written), expected, "{written:?}");
        }
    }
}
