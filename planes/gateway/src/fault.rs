//! Why a request was refused or went wrong: the words of docs/faults.md.

use std::fmt;

/// Whose doing a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// The peer that sent the request.
    Downstream,
    /// The endpoint, or the way to it.
    Upstream,
    /// This gateway, or its configuration.
    Local,
}

impl By {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Local => "local",
        }
    }
}

macro_rules! reasons {
    ($($name:ident = $word:literal, $status:literal, $by:ident, $text:literal;)*) => {
        /// One reason, one word: in the response's `x-headwater-fault`, in the access log, as a metric's label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($name,)* }

        impl Reason {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// Status of the response, where one can still be sent.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            pub fn by(self) -> By {
                match self { $(Self::$name => By::$by,)* }
            }

            /// For the body of the response and for docs/faults.md.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    BadRequest = "bad_request", 400, Downstream, "the request is not valid HTTP";
    ProxyHeader = "proxy_header", 400, Downstream, "a PROXY protocol header came where none is allowed";
    HostMismatch = "host_mismatch", 400, Downstream, "the request names two different hosts";
    UnsafePath = "unsafe_path", 400, Downstream, "the path can be read in more than one way";
    HeaderTimeout = "header_timeout", 408, Downstream, "the request's head took too long";
    BodyTimeout = "body_timeout", 408, Downstream, "the request's body took too long";
    BodyTooLarge = "body_too_large", 413, Downstream, "the request's body is larger than this gateway allows";
    UriTooLong = "uri_too_long", 414, Downstream, "the request line is longer than this gateway allows";
    HeaderTooLarge = "header_too_large", 431, Downstream, "the request's head is larger than this gateway allows";
    AuthRequired = "auth_required", 401, Downstream, "who asks is not known here";
    AuthForbidden = "auth_forbidden", 403, Downstream, "the auth server does not let this request in";
    ClientForbidden = "client_forbidden", 403, Downstream, "this client's address is not let in";
    ClientLimit = "client_limit", 429, Downstream, "this client has too many connections";
    DownstreamClosed = "downstream_closed", 499, Downstream, "the client went away";
    NotImplemented = "not_implemented", 501, Downstream, "the request asks for something this gateway does not do";
    HttpVersion = "http_version", 505, Downstream, "this version of HTTP is not served";
    NoRoute = "no_route", 404, Local, "no rule matches this host and path";
    InvalidMatch = "invalid_match", 500, Local, "the rule's conditions cannot be used, so whom it is for is not known";
    NoService = "no_service", 503, Local, "the rule names a Service that does not exist";
    NoServicePort = "no_service_port", 503, Local, "the rule names a port that its Service does not have";
    InvalidRule = "invalid_rule", 503, Local, "the rule is not valid and refuses what it matches";
    UnsupportedBackend = "unsupported_backend", 503, Local, "the rule asks for a backend this gateway cannot reach";
    UnavailableGuard = "unavailable_guard", 503, Local, "the rule asks for a protection this gateway does not have yet";
    InvalidAuth = "invalid_auth", 503, Local, "the rule's authentication cannot be used, so nobody is let in";
    AuthRequest = "auth_request", 500, Local, "the auth server cannot be asked about this request";
    AuthOverload = "auth_overload", 503, Local, "too many passwords wait to be checked";
    NoEndpoints = "no_endpoints", 503, Local, "the Service has no ready endpoints";
    Overload = "overload", 503, Local, "this gateway has too many connections";
    ClientSource = "client_source", 503, Local, "this gateway cannot connect from the client's address";
    Internal = "internal", 500, Local, "a defect of this gateway";
    ConnectFailed = "connect_failed", 502, Upstream, "no connection to an endpoint";
    ConnectTimeout = "connect_timeout", 504, Upstream, "connecting to an endpoint took too long";
    UpstreamTls = "upstream_tls", 502, Upstream, "no TLS with an endpoint";
    UpstreamClosed = "upstream_closed", 502, Upstream, "the endpoint closed before it answered";
    UpstreamInvalid = "upstream_invalid", 502, Upstream, "the endpoint's response is not valid HTTP";
    UpstreamTimeout = "upstream_timeout", 504, Upstream, "the endpoint took too long to answer";
    UpstreamTruncated = "upstream_truncated", 502, Upstream, "the endpoint ended its response early";
    AuthAnswer = "auth_answer", 500, Upstream, "the auth server said neither yes nor no";
    AuthUnreachable = "auth_unreachable", 500, Upstream, "the auth server did not answer";
    RequestTimeout = "request_timeout", 504, Upstream, "the request took longer than its route allows";
}

impl Reason {
    /// The reason that a translator's word stands for; an unknown word is [`Reason::InvalidRule`].
    pub fn of_word(word: &str) -> Self {
        Self::ALL.iter().copied().find(|reason| reason.word() == word).unwrap_or(Self::InvalidRule)
    }
}

/// A request that cannot be served, or not to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: Reason,
    /// Whether the attempt may be made again elsewhere.
    pub(crate) retry: RetryAdvice,
    /// For the log: the address, the parser's word, the system's error.
    pub(crate) detail: String,
}

/// What a failed attempt says about another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryAdvice {
    Never,
    /// Nothing of the request was sent.
    Safe,
    /// Some of it was sent: only for idempotent methods.
    IfIdempotent,
}

impl Fault {
    pub(crate) fn new(reason: Reason) -> Self {
        Self { reason, retry: RetryAdvice::Never, detail: String::new() }
    }

    #[must_use]
    pub(crate) fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = detail.to_string();
        self
    }

    #[must_use]
    pub(crate) fn retry(mut self, retry: RetryAdvice) -> Self {
        self.retry = retry;
        self
    }
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason.word(), self.reason.by().as_str())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_names_one_reason() {
        for reason in Reason::ALL {
            assert_eq!(Reason::of_word(reason.word()), *reason);
            assert!((400..600).contains(&reason.status()));
        }
    }

    #[test]
    fn the_page_about_faults_has_a_line_for_each_reason_and_no_other() {
        let page = include_str!("../../../docs/faults.md");
        let mut lines: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
        for reason in Reason::ALL {
            let start = format!("| `{}` | {} | {} | ", reason.word(), reason.status(), reason.by().as_str());
            let found = lines.iter().position(|line| line.starts_with(&start));
            lines.remove(found.unwrap_or_else(|| panic!("docs/faults.md has no line that begins with {start:?}")));
        }
        assert_eq!(lines, Vec::<&str>::new(), "docs/faults.md has lines for no reason");
    }
}
