//! What is done to requests and responses of a rule: edits of headers, CORS, and the variables they are written with.

use std::fmt;

use serde::{Serialize, Serializer};

/// Order: remove, set, add; a later `set` of a name replaces an earlier one. Names in lower case, texts without control
/// characters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HeaderEdits {
    pub remove: Vec<Box<str>>,
    pub set: Vec<(Box<str>, EditValue)>,
    pub add: Vec<(Box<str>, EditValue)>,
}

impl HeaderEdits {
    pub(super) const NONE: Self = Self { remove: Vec::new(), set: Vec::new(), add: Vec::new() };

    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// What a header is set to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum EditValue {
    Text(Box<str>),
    /// Of the request. A request that has none of it keeps its header. Only for headers of requests.
    Variable(Variable),
}

impl From<&str> for EditValue {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

/// Something of a request, named as nginx does. What names the client or its host is the gateway's own answer, never
/// the request's word.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Variable {
    /// `remote_addr`: the client `R`.
    Client,
    /// `first_forward`: the client `R` where a trusted sender named it, else empty text.
    ForwardedClient,
    /// `host`: lower case, without port.
    Host,
    /// `http_host`: as sent, with its port.
    Authority,
    /// `scheme`: how the client spoke.
    Scheme,
    /// `server_port`: where the client connected to.
    ServerPort,
    /// `server_protocol`: `HTTP/1.1` and so on.
    Protocol,
    /// `request_method`.
    Method,
    /// `request_uri`: path and query as received.
    Target,
    /// `uri`: the path in normal form.
    Path,
    /// `args`: the query as received.
    Query,
    /// `request_id`: the one that backends get.
    RequestId,
    /// `http_NAME`; name in lower case, with `-`. Several lines are joined with `, `.
    Header(Box<str>),
    /// `cookie_NAME`, without a pair of quotes around it.
    Cookie(Box<str>),
    /// `arg_NAME`: first parameter of the name, in any case, as received.
    Argument(Box<str>),
}

/// Headers in which requests say who their client is; asking for them as variables would be believing them.
const CLAIMS: [&str; 7] =
    ["forwarded", "x-forwarded-for", "x-real-ip", "true-client-ip", "cf-connecting-ip", "x-client-ip", "client-ip"];

impl Variable {
    /// The variable of a name without `$`; `None` where there is none of that name, or it is a claim about the client.
    pub fn parse(name: &str) -> Option<Self> {
        let word = |rest: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            (!rest.is_empty() && rest.len() <= 128 && rest.bytes().all(plain)).then(|| rest.to_owned())
        };
        Some(match name {
            "remote_addr" | "first_forward_or_remote_addr" => Self::Client,
            "first_forward" => Self::ForwardedClient,
            "host" => Self::Host,
            "http_host" => Self::Authority,
            "scheme" => Self::Scheme,
            "server_port" => Self::ServerPort,
            "server_protocol" => Self::Protocol,
            "request_method" => Self::Method,
            "request_uri" => Self::Target,
            "uri" => Self::Path,
            "args" | "query_string" => Self::Query,
            "request_id" => Self::RequestId,
            _ => {
                if let Some(header) = name.strip_prefix("http_").and_then(word) {
                    let header = header.to_ascii_lowercase().replace('_', "-");
                    return (!CLAIMS.contains(&&*header)).then(|| Self::Header(header.into()));
                }
                if let Some(cookie) = name.strip_prefix("cookie_").and_then(word) {
                    return Some(Self::Cookie(cookie.into()));
                }
                Self::Argument(name.strip_prefix("arg_").and_then(word)?.into())
            }
        })
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "remote_addr",
            Self::ForwardedClient => "first_forward",
            Self::Host => "host",
            Self::Authority => "http_host",
            Self::Scheme => "scheme",
            Self::ServerPort => "server_port",
            Self::Protocol => "server_protocol",
            Self::Method => "request_method",
            Self::Target => "request_uri",
            Self::Path => "uri",
            Self::Query => "args",
            Self::RequestId => "request_id",
            Self::Header(name) => return write!(f, "http_{}", name.replace('-', "_")),
            Self::Cookie(name) => return write!(f, "cookie_{name}"),
            Self::Argument(name) => return write!(f, "arg_{name}"),
        })
    }
}

impl Serialize for Variable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which origins browsers let read the responses (Fetch, "CORS protocol"). The gateway answers every OPTIONS by itself,
/// and what the endpoint says of it is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cors {
    /// None: nobody.
    pub origins: Vec<AllowedOrigin>,
    /// Values of headers as they are sent.
    pub methods: Box<str>,
    pub headers: Box<str>,
    pub expose: Option<Box<str>>,
    /// Whether browsers may send cookies along. Not said where every origin is allowed: browsers forbid it, and naming
    /// whoever asks would let everybody in.
    pub credentials: bool,
    /// Seconds for which browsers remember an answer.
    pub max_age: u32,
}

impl Cors {
    /// Whether every origin is allowed, so that answers do not depend on it.
    pub fn allows_all(&self) -> bool {
        self.origins.contains(&AllowedOrigin::Any)
    }

    /// Whether the value of `Origin` is allowed.
    pub fn allows(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|allowed| allowed.is(origin))
    }
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum AllowedOrigin {
    Any,
    /// `https://shop.example.com:8443`, compared as a whole, in any case.
    Exact(Box<str>),
    /// `https://*.example.com`: text, one label of letters, digits and `-`, text.
    OneLabel {
        before: Box<str>,
        after: Box<str>,
    },
}

impl AllowedOrigin {
    fn is(&self, origin: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(allowed) => origin.eq_ignore_ascii_case(allowed.as_bytes()),
            Self::OneLabel { before, after } => {
                let Some(length) = origin.len().checked_sub(before.len() + after.len()) else { return false };
                let (start, rest) = origin.split_at(before.len());
                let (label, end) = rest.split_at(length);
                start.eq_ignore_ascii_case(before.as_bytes())
                    && end.eq_ignore_ascii_case(after.as_bytes())
                    && !label.is_empty()
                    && label.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: Vec<AllowedOrigin>) -> Cors {
        let (methods, headers) = ("GET".into(), "".into());
        Cors { origins, methods, headers, expose: None, credentials: true, max_age: 1 }
    }

    #[test]
    fn origins_are_compared_as_a_whole() {
        let exact = |origin: &str| AllowedOrigin::Exact(origin.into());
        let one_label = AllowedOrigin::OneLabel { before: "https://".into(), after: ".example.com".into() };
        let port = AllowedOrigin::OneLabel { before: "https://".into(), after: ".example.com:8443".into() };
        for (origins, origin, allowed) in [
            (vec![exact("http://a.com:80"), exact("http://b.com")], "http://a.com", false),
            (vec![exact("http://a.com.cn"), exact("http://b.com")], "http://a.com", false),
            (vec![exact("http://xa.com")], "a.com", false),
            (vec![exact("http://b.com"), exact("http://a.com")], "http://a.com", true),
            (vec![exact("http://a.com")], "HTTP://A.com", true),
            (vec![exact("http://a.com")], "http://a.com/", false),
            (vec![one_label.clone()], "https://shop.example.com", true),
            (vec![one_label.clone()], "https://a.b.example.com", false),
            (vec![one_label.clone()], "https://.example.com", false),
            (vec![one_label.clone()], "https://example.com", false),
            (vec![one_label.clone()], "http://shop.example.com", false),
            (vec![one_label.clone()], "https://shop.example.com:8443", false),
            (vec![one_label.clone()], "https://evil.test/.example.com", false),
            (vec![one_label], "https://shop.example.com.evil.test", false),
            (vec![port], "https://shop.example.com:8443", true),
            (vec![AllowedOrigin::Any], "null", true),
            (vec![], "http://a.com", false),
        ] {
            assert_eq!(cors(origins.clone()).allows(origin.as_bytes()), allowed, "{origins:?} {origin}");
        }
    }

    #[test]
    fn variables_are_told_by_their_names_and_claims_are_none() {
        for name in ["remote_addr", "first_forward", "host", "http_host", "request_uri", "scheme", "arg_x", "cookie_Id"]
        {
            assert_eq!(Variable::parse(name).map(|variable| variable.to_string()).as_deref(), Some(name));
        }
        assert_eq!(Variable::parse("http_X_User"), Some(Variable::Header("x-user".into())));
        assert_eq!(Variable::parse("first_forward_or_remote_addr"), Some(Variable::Client));
        for name in ["", "http_", "arg_", "http_x-y", "upstream_addr", "http_x_forwarded_for", "http_X_Real_IP"] {
            assert_eq!(Variable::parse(name), None, "{name}");
        }
    }
}
