//! How an endpoint is chosen among those of a rule, and how clients stay with one.

use serde::Serialize;

use super::Template;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Balance {
    RoundRobin,
    /// Power of two choices by requests in flight.
    LeastRequest,
    PeakEwma,
    /// Maglev by a key; falls back to `LeastRequest` when the request has none.
    Hash(HashKey),
    /// A cookie names the endpoint, whichever of the rule's backends has it; who brings none is served by
    /// `LeastRequest`, and given one.
    Cookie(Box<AffinityCookie>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum HashKey {
    /// The client `R`.
    Client,
    /// Name in lower case.
    Header(Box<str>),
    Cookie(Box<str>),
    /// Text with variables filled in; one that the request lacks is empty. A request that fills in none has no key.
    Template(Template),
}

/// The cookie of a session that stays with its endpoint.
///
/// Its value is 32 hexadecimal digits made of the Service and the endpoint's address, the same in every worker and every
/// gateway; it does not show the address. Another value, of an application that uses the name, is not replaced: it is
/// hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AffinityCookie {
    /// See [`is_cookie_name`].
    pub name: Box<str>,
    /// Starts with `/`; neither control characters nor `;`.
    pub path: Box<str>,
    /// A host name.
    pub domain: Option<Box<str>>,
    /// Seconds.
    pub max_age: Option<u32>,
    /// Seconds from the response on.
    pub expires: Option<u32>,
    pub same_site: Option<SameSite>,
    /// Leaves `SameSite=None` out for browsers that take it for `Strict`.
    pub conditional_same_site_none: bool,
    /// `None`: where the client speaks HTTPS.
    pub secure: Option<bool>,
    /// Whether who was served by another endpoint, since the cookie's failed or is ejected, stays with that one. Else the
    /// cookie keeps its value, and counts again once its endpoint does.
    pub change_on_failure: bool,
    /// Whether a cookie also decides between backends. Otherwise weights do, for each request.
    pub across_backends: bool,
}

impl AffinityCookie {
    /// A cookie for the whole host that ends with the browser. The name must be one.
    pub fn new(name: impl Into<Box<str>>) -> Self {
        Self {
            name: name.into(),
            path: "/".into(),
            domain: None,
            max_age: None,
            expires: None,
            same_site: None,
            conditional_same_site_none: false,
            secure: None,
            change_on_failure: false,
            across_backends: true,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum SameSite {
    Strict,
    Lax,
    None,
}

impl SameSite {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }
}

/// Whether it is a token (RFC 9110 section 5.6.2) of at most 256 bytes, as names of cookies are (RFC 6265 section 4.1.1).
pub fn is_cookie_name(text: &str) -> bool {
    (1..=256).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
