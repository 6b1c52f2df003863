//! Annotations about what is done to requests and responses of a rule: rewrites, redirects, CORS, headers, timeouts.

use std::borrow::Cow;
use std::time::Duration;

use headwater_model::finding::Finding;
use headwater_model::gateway::{
    Cors, FilterSteps, Filters, HeaderEdits, PathMatch, PathRewrite, Redirect, RouteTimeouts, UrlRewrite,
};
use headwater_model::origin::ObjectKey;

use crate::annotations::parse_bool;
use crate::cors;
use crate::header_rewrite;
use crate::host::is_name;
use crate::lookup::{Lookup, Said};

/// Names that are read here.
pub(crate) const READ: [&str; 23] = [
    "cors-allow-credentials",
    "cors-allow-headers",
    "cors-allow-methods",
    "cors-allow-origin",
    "cors-expose-headers",
    "cors-max-age",
    "enable-cors",
    "permanent-redirect",
    "permanent-redirect-code",
    "proxy-connect-timeout",
    "proxy-read-timeout",
    "proxy-send-timeout",
    "redirect-host",
    "redirect-port",
    "redirect-prefix-match",
    "redirect-replace-prefix",
    "rewrite-request",
    "rewrite-response",
    "rewrite-target",
    "temporal-redirect",
    "temporal-redirect-code",
    "upstream-vhost",
    "use-regex",
];

/// What the annotations ask for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RouteFilters {
    /// Whether paths are regular expressions.
    pub(crate) regex: bool,
    rewrite_target: Option<Box<str>>,
    vhost: Option<Box<str>>,
    cors: Option<Box<Cors>>,
    request_headers: HeaderEdits,
    response_headers: HeaderEdits,
    connect: Option<Duration>,
    send: Option<Duration>,
    read: Option<Duration>,
    url: Option<Box<str>>,
    /// Explicit, or what the kind of `url` means.
    status: Option<u16>,
    host: Option<Box<str>>,
    pub(crate) port: Option<u16>,
    prefix: Option<(Box<str>, Box<str>)>,
    /// Something cannot be obeyed that requests must not be served without.
    pub(crate) broken: bool,
}

/// Effect of a value without which requests are not served.
const REFUSED: &str = "requests get 503 invalid_rule";
const DEFAULT: &str = "the default is used";

/// Reads one set of annotations.
pub(crate) struct Reader<'a, 'f> {
    pub(crate) object: &'a ObjectKey,
    pub(crate) lookup: &'a Lookup<'a>,
    pub(crate) findings: &'f mut Vec<Finding>,
}

impl<'a> Reader<'a, '_> {
    pub(crate) fn get(&self, name: &str) -> Option<Said<'a>> {
        self.lookup.get(name)
    }

    pub(crate) fn find(&mut self, said: Said<'_>, finding: Finding) {
        self.findings.push(finding.at(format!("metadata.annotations[{}]", said.full_name)));
    }

    pub(crate) fn invalid(&mut self, said: Said<'_>, expected: &str, effect: &str) {
        let shown: String = said.value.chars().take(100).collect();
        let message = format!("{shown:?} is not {expected}; {effect}");
        self.find(said, Finding::error("InvalidValue", self.object.clone(), message));
    }

    /// The value as `parse` reads it, or a finding.
    pub(crate) fn parsed<T>(&mut self, name: &str, expected: &str, parse: impl Fn(&'a str) -> Option<T>) -> Option<T> {
        let said = self.get(name)?;
        let parsed = parse(said.value.trim());
        if parsed.is_none() {
            self.invalid(said, expected, DEFAULT);
        }
        parsed
    }

    /// The same for what requests must not be served without.
    fn needed<T>(
        &mut self,
        filters: &mut RouteFilters,
        name: &str,
        expected: &str,
        parse: impl Fn(&'a str) -> Option<T>,
    ) -> Option<T> {
        let said = self.get(name)?;
        let parsed = parse(said.value.trim());
        if parsed.is_none() {
            self.invalid(said, expected, REFUSED);
            filters.broken = true;
        }
        parsed
    }

    pub(crate) fn filters(mut self) -> RouteFilters {
        let mut filters = RouteFilters::default();
        self.rewrites(&mut filters);
        self.redirects(&mut filters);
        let timeout = "a time such as \"500ms\", \"10s\" or \"10\" (seconds)";
        filters.connect = self.parsed("proxy-connect-timeout", timeout, parse_timeout).flatten();
        filters.send = self.parsed("proxy-send-timeout", timeout, parse_timeout).flatten();
        filters.read = self.parsed("proxy-read-timeout", timeout, parse_timeout).flatten();
        filters.cors = cors::read(&mut self).map(Box::new);
        for (name, is_request) in [("rewrite-request", true), ("rewrite-response", false)] {
            let Some(said) = self.get(name) else { continue };
            match header_rewrite::parse(said.value, is_request) {
                Ok((edits, idle)) => {
                    if is_request {
                        filters.request_headers = edits;
                    } else {
                        filters.response_headers = edits;
                    }
                    for name in idle {
                        let message = format!("header {name} is written by the gateway; this edit has no effect");
                        self.find(said, Finding::warning("NoEffect", self.object.clone(), message));
                    }
                }
                Err(wrong) => {
                    filters.broken = true;
                    let message = format!("{wrong}; {REFUSED}");
                    self.find(said, Finding::error("InvalidValue", self.object.clone(), message));
                }
            }
        }
        filters
    }

    fn rewrites(&mut self, filters: &mut RouteFilters) {
        filters.regex = self.parsed("use-regex", "true or false", parse_bool).unwrap_or(false);
        if self.get("rewrite-target").is_some_and(|said| !said.value.trim().is_empty()) {
            let expected = "a path with $1 to $9 for groups of the rule's path";
            filters.rewrite_target =
                self.needed(filters, "rewrite-target", expected, |text| is_replacement(text).then(|| text.into()));
            filters.regex = true;
        }
        let is_host = |text: &'a str| is_authority(text).then(|| text.into());
        filters.vhost = self.needed(filters, "upstream-vhost", "a host", is_host);
    }

    fn redirects(&mut self, filters: &mut RouteFilters) {
        let code = |last: u16| {
            move |text: &'a str| text.parse().ok().filter(|code: &u16| (300..=last).contains(code) && *code != 304)
        };
        let permanent_code = self.parsed("permanent-redirect-code", "a status from 300 to 308", code(308));
        let temporal_code = self.parsed("temporal-redirect-code", "a status from 300 to 307", code(307));
        let url = |text: &'a str| is_url(text).then(|| text.into());
        let permanent: Option<Box<str>> = self.needed(filters, "permanent-redirect", "a URL", url);
        let temporal: Option<Box<str>> = self.needed(filters, "temporal-redirect", "a URL", url);
        (filters.url, filters.status) = match (temporal, permanent) {
            (Some(url), _) => (Some(url), Some(temporal_code.unwrap_or(302))),
            (None, Some(url)) => (Some(url), Some(permanent_code.unwrap_or(301))),
            (None, None) => (None, permanent_code),
        };
        let host = |text: &'a str| is_name(&text.to_ascii_lowercase()).then(|| text.into());
        filters.host = self.needed(filters, "redirect-host", "a host name", host);
        let port = |text: &'a str| text.parse().ok().filter(|port| *port != 0);
        filters.port = self.needed(filters, "redirect-port", "a port", port);
        let path = |text: &'a str| (text.is_empty() || is_target(text)).then(|| text.into());
        let matched: Option<Box<str>> = self.needed(filters, "redirect-prefix-match", "a path", path);
        let with = self.needed(filters, "redirect-replace-prefix", "a path", path);
        filters.prefix = matched.map(|matched| (matched, with.unwrap_or_default()));
    }
}

impl RouteFilters {
    /// The filters of the rule for a path.
    pub(crate) fn of(&self, path: &PathMatch) -> Filters {
        let path = self.rewrite_target.as_deref().map(|target| match path {
            PathMatch::Regex(pattern) => whole_path(pattern, target),
            _ => PathRewrite::Full(without_groups(target).into()),
        });
        let rewrite = UrlRewrite { host: self.vhost.clone(), path };
        let steps = FilterSteps {
            cors: self.cors.clone(),
            rewrite: Some(rewrite).filter(|rewrite| *rewrite != UrlRewrite::default()),
            request_headers: self.request_headers.clone(),
            response_headers: self.response_headers.clone(),
        };
        steps.into()
    }

    /// The filters of a path of the ALB, which says what is rewritten by itself.
    pub(crate) fn with_rewrite(&self, path: Option<PathRewrite>) -> Filters {
        let rewrite = UrlRewrite { host: self.vhost.clone(), path };
        let steps = FilterSteps {
            cors: self.cors.clone(),
            rewrite: Some(rewrite).filter(|rewrite| *rewrite != UrlRewrite::default()),
            request_headers: self.request_headers.clone(),
            response_headers: self.response_headers.clone(),
        };
        steps.into()
    }

    pub(crate) fn rewrite_target(&self) -> Option<&str> {
        self.rewrite_target.as_deref()
    }

    /// Whether any of the times is given.
    pub(crate) fn says_timeouts(&self) -> bool {
        self.connect.is_some() || self.send.is_some() || self.read.is_some()
    }

    /// The answer to plain HTTP where HTTPS is asked for and nothing else.
    pub(crate) fn to_https(&self) -> Redirect {
        Redirect {
            status: self.status.unwrap_or(308),
            location: None,
            scheme: Some("https".into()),
            host: None,
            port: self.port,
            path: None,
            strip_trailing_slash: false,
            drop_query: false,
            exempt: Vec::new(),
        }
    }

    pub(crate) fn timeouts(&self, defaults: RouteTimeouts) -> RouteTimeouts {
        RouteTimeouts {
            connect: self.connect.unwrap_or(defaults.connect),
            send: self.send.unwrap_or(defaults.send),
            idle: self.read.unwrap_or(defaults.idle),
            request: defaults.request,
        }
    }

    /// The answer to every request of the rule, whatever its scheme. `https`: whether HTTPS is asked for as well. A port
    /// alone then belongs to the redirect of plain HTTP.
    pub(crate) fn redirect(&self, https: bool) -> Option<Redirect> {
        let mut redirect = Redirect {
            status: self.status.unwrap_or(if https { 308 } else { 302 }),
            location: None,
            scheme: https.then(|| "https".into()),
            host: self.host.clone(),
            port: self.port,
            path: None,
            strip_trailing_slash: false,
            drop_query: false,
            exempt: Vec::new(),
        };
        let leads = https || self.host.is_some() || self.port.is_some();
        match (&self.url, &self.prefix) {
            // A URL that names its host needs nothing else.
            (Some(url), _) if !url.starts_with('/') || url.starts_with("//") || !leads => {
                redirect.location = Some(url.clone());
            }
            (Some(url), None) => {
                redirect.path = Some(PathRewrite::Full(url.clone()));
                redirect.drop_query = true;
            }
            (_, Some((prefix, replacement))) => {
                redirect.path = Some(PathRewrite::Given { prefix: prefix.clone(), replacement: replacement.clone() });
            }
            (None, None) if self.host.is_some() || (self.port.is_some() && !https) => {}
            (None, None) => return None,
        }
        Some(redirect)
    }
}

/// Flags in front of the path of a rule that is a regular expression: in any case, from the start, unterminated.
const PATH_FLAGS: &str = "(?i)^";

/// The path of an Ingress as ingress-nginx reads it in hosts where one asks for regular expressions. `None`: not a path.
pub(crate) fn regex_path(text: &str) -> Option<PathMatch> {
    let is_path = text.starts_with('/') && !text.chars().any(char::is_control);
    is_path.then(|| PathMatch::Regex(format!("{PATH_FLAGS}{text}").into()))
}

/// The same for a path that was written as plain text: what is no regular expression stands for itself.
pub(crate) fn regex_of_text(text: &str) -> PathMatch {
    // Expressions see paths decoded, but for what would read as another path.
    let text = &*decoded(text);
    let pattern = match syntax_error(text) {
        None => format!("{PATH_FLAGS}{text}"),
        Some(_) => format!("{PATH_FLAGS}{}", regex_syntax::escape(text)),
    };
    PathMatch::Regex(pattern.into())
}

fn decoded(text: &str) -> Cow<'_, str> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..2).filter(|_| byte == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) if !matches!(decoded, b'/' | b'%') => {
                out.push(decoded);
                rest = &tail[2..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Why it is not a regular expression of linear time.
pub(crate) fn syntax_error(pattern: &str) -> Option<String> {
    let wrong = |unicode| {
        let parsed = regex_syntax::ParserBuilder::new().unicode(unicode).utf8(false).build().parse(pattern);
        parsed.err().map(|error| match error {
            regex_syntax::Error::Parse(error) => error.kind().to_string(),
            regex_syntax::Error::Translate(error) => error.kind().to_string(),
            _ => "not a regular expression".to_owned(),
        })
    };
    wrong(false).and_then(|_| wrong(true))
}

/// nginx: the target takes the place of the whole path, wherever in it the pattern is found.
fn whole_path(pattern: &str, target: &str) -> PathRewrite {
    let pattern = pattern.strip_prefix(PATH_FLAGS).unwrap_or(pattern);
    PathRewrite::Regex { pattern: format!("(?is)^.*?(?:{pattern}).*$").into(), replacement: target.into() }
}

/// `/$2x` is `/x` where nothing is captured.
fn without_groups(target: &str) -> String {
    let mut text = String::with_capacity(target.len());
    let mut chars = target.chars().peekable();
    while let Some(char) = chars.next() {
        match (char, chars.peek()) {
            ('$', Some('0'..='9')) => drop(chars.next()),
            _ => text.push(char),
        }
    }
    if text.starts_with('/') { text } else { format!("/{text}") }
}

/// `Nms`, `Ns` or `N` (seconds, perhaps with a fraction), up to 2^32 - 1 ms. `Some(None)`: 0, the default.
fn parse_timeout(text: &str) -> Option<Option<Duration>> {
    let (number, per_second) = match text.strip_suffix("ms") {
        Some(number) => (number, 1000.0),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let plain = !number.is_empty() && number.len() <= 16 && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let seconds = number.parse::<f64>().ok().filter(|_| plain)? / per_second;
    let duration = Duration::try_from_secs_f64(seconds).ok()?;
    let most = Duration::from_millis(u32::MAX.into());
    (duration <= most).then(|| Some(duration).filter(|duration| !duration.is_zero()))
}

/// A host, perhaps with a port.
pub(crate) fn is_authority(text: &str) -> bool {
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let right_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    is_name(&name.to_ascii_lowercase()) && right_port
}

/// Visible ASCII that a request line can have.
pub(crate) fn is_target(text: &str) -> bool {
    (1..=2048).contains(&text.len()) && text.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'#')
}

/// A target that is a path, or begins with a group; more groups than the gateway takes are refused here already.
pub(crate) fn is_replacement(text: &str) -> bool {
    let groups = text.as_bytes().windows(2).filter(|pair| pair[0] == b'$' && pair[1].is_ascii_digit()).count();
    is_target(text) && (text.starts_with('/') || text.starts_with('$')) && !is_variable(text) && groups <= 16
}

/// `$host` and the like, which nginx would fill in, and nobody here.
fn is_variable(text: &str) -> bool {
    text.split('$').skip(1).any(|rest| rest.starts_with(|next: char| next.is_ascii_alphabetic() || "{_".contains(next)))
}

pub(crate) fn is_url(text: &str) -> bool {
    let visible = (1..=4096).contains(&text.len()) && text.bytes().all(|byte| (0x21..0x7f).contains(&byte));
    let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    let leads = text.starts_with('/') || lower.starts_with("http://") || lower.starts_with("https://");
    visible && leads && !text.contains(['"', '<', '>', '\\', '`']) && !is_variable(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_milliseconds_or_seconds() {
        let ms = |ms: u64| Some(Some(Duration::from_millis(ms)));
        for (text, expected) in [
            ("10s", ms(10_000)),
            ("1000", ms(1_000_000)),
            ("500ms", ms(500)),
            ("0.5", ms(500)),
            ("1.5s", ms(1_500)),
            ("0", Some(None)),
            ("4294967295ms", ms(4_294_967_295)),
            ("4294967296ms", None),
            ("", None),
            ("ms", None),
            ("-1", None),
            ("inf", None),
            ("1e3", None),
            ("1m", None),
        ] {
            assert_eq!(parse_timeout(text), expected, "{text}");
        }
    }

    #[test]
    fn urls_and_targets_have_nothing_that_a_line_or_nginx_would_read_otherwise() {
        for (text, url) in [
            ("https://a.example/x?y=1#z", true),
            ("HTTP://a.example", true),
            ("/t1-1", true),
            ("a.example", false),
            ("javascript:alert(1)", false),
            ("https://a.example/$request_uri", false),
            ("https://a.example/\r\nset-cookie: x", false),
            ("https://a b", false),
            ("", false),
        ] {
            assert_eq!(is_url(text), url, "{text}");
        }
        for (text, target) in [
            ("/$2", true),
            ("$1", true),
            ("/x?a=1", true),
            ("https://a.example/$1", false),
            ("/$host", false),
            ("/${1}", false),
            ("/a b", false),
        ] {
            assert_eq!(is_replacement(text), target, "{text}");
        }
        assert_eq!(without_groups("/$1a$2"), "/a");
        assert_eq!(without_groups("$1"), "/");
    }

    #[test]
    fn what_a_linear_time_matcher_cannot_do_is_named() {
        assert_eq!(syntax_error("/a(/|$)(.*)"), None);
        for (pattern, construct) in [("/(?!a)", "look-around"), ("/(a)\\1", "backreference"), ("/(", "group")] {
            let error = syntax_error(pattern).unwrap();
            assert!(error.contains(construct), "{error}");
        }
        assert_eq!(regex_of_text("/a(b"), PathMatch::Regex("(?i)^/a\\(b".into()));
        assert_eq!(regex_of_text("/%C3%BC%20x%2F"), PathMatch::Regex("(?i)^/\u{fc} x%2F".into()));
        assert_eq!(regex_of_text("/v1.0"), PathMatch::Regex("(?i)^/v1.0".into()));
    }

    #[test]
    fn redirects_are_made_of_what_is_said() {
        let text = |text: &str| -> Option<Box<str>> { Some(text.into()) };
        let none = RouteFilters::default;
        let shown = |filters: RouteFilters, https: bool| {
            let Some(redirect) = filters.redirect(https) else { return "-".to_owned() };
            let Redirect { status, location, scheme, host, port, path, .. } = redirect;
            match location {
                Some(location) => format!("{status} {location}"),
                None => format!("{status} {scheme:?} {host:?} {port:?} {path:?}"),
            }
        };
        let t1 = || RouteFilters { url: text("/t1-1"), ..none() };
        assert_eq!(shown(t1(), false), "302 /t1-1");
        assert_eq!(shown(RouteFilters { status: Some(301), ..t1() }, false), "301 /t1-1");
        let t3 = RouteFilters { url: text("/t3-1"), host: text("a.com"), port: Some(9090), ..none() };
        assert_eq!(shown(t3, true), "308 Some(\"https\") Some(\"a.com\") Some(9090) Some(Full(\"/t3-1\"))");
        let t4 = RouteFilters { host: text("a.com"), ..none() };
        assert_eq!(shown(t4, false), "302 None Some(\"a.com\") None None");
        assert_eq!(shown(none(), true), "-", "HTTPS alone is for plain HTTP");
        assert_eq!(shown(RouteFilters { port: Some(8443), ..none() }, true), "-");
        assert_eq!(shown(RouteFilters { port: Some(8080), ..none() }, false), "302 None None Some(8080) None");
        assert_eq!(shown(RouteFilters { status: Some(307), ..none() }, false), "-", "a code alone redirects nothing");
        let t6 = RouteFilters { prefix: Some(("/t6/".into(), "/".into())), ..none() };
        assert!(shown(t6, true).contains("Given"));
        let absolute = RouteFilters { url: text("https://b.example/x"), host: text("a.com"), ..none() };
        assert_eq!(shown(absolute, true), "308 https://b.example/x", "an absolute URL always wins");
    }
}
