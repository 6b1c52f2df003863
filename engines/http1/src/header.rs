//! Header lines as positions in the buffer they were read from, and the names a proxy must know.

/// A range of bytes in the buffer that was parsed.
///
/// It means something only together with that buffer; on another one it may be empty or wrong, but never panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Callers keep both within a window of at most `u32::MAX` bytes.
    #[inline]
    pub(crate) fn new(start: usize, end: usize) -> Span {
        debug_assert!(start <= end && end <= u32::MAX as usize);
        Span { start: start as u32, end: end as u32 }
    }

    /// The bytes in `buf`.
    #[inline]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(self.range()).unwrap_or_default()
    }

    /// The positions in the buffer.
    #[inline]
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Whether it holds no byte.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

macro_rules! header_ids {
    ($($length:literal { $($id:ident = $name:literal),* $(,)? })*) => {
        /// A header that a proxy reads, writes or removes; everything else is [`HeaderId::Other`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum HeaderId {
            $($(#[doc = concat!("`", $name, "`")] $id,)*)*
            /// Any other name.
            Other,
        }

        impl HeaderId {
            /// The known header with this name, in any case.
            #[inline]
            pub fn of(name: &[u8]) -> HeaderId {
                match name.len() {
                    $($length => {
                        $(if name.eq_ignore_ascii_case($name.as_bytes()) { return HeaderId::$id; })*
                        HeaderId::Other
                    })*
                    _ => HeaderId::Other,
                }
            }

            /// Its name in lower case; empty for [`HeaderId::Other`].
            pub const fn name(self) -> &'static str {
                match self {
                    $($(HeaderId::$id => $name,)*)*
                    HeaderId::Other => "",
                }
            }

            /// All known headers, without [`HeaderId::Other`].
            pub const KNOWN: &'static [HeaderId] = &[$($(HeaderId::$id,)*)*];
        }
    };
}

header_ids! {
    2 { Te = "te" }
    3 { Via = "via" }
    4 { Host = "host" }
    6 { Cookie = "cookie", Expect = "expect", Origin = "origin" }
    7 { Upgrade = "upgrade", Trailer = "trailer", Referer = "referer" }
    8 { Location = "location" }
    9 { Forwarded = "forwarded", XRealIp = "x-real-ip" }
    10 { Connection = "connection", UserAgent = "user-agent", KeepAlive = "keep-alive", SetCookie = "set-cookie" }
    12 { ContentType = "content-type", XRequestId = "x-request-id" }
    13 { Authorization = "authorization" }
    14 { ContentLength = "content-length", Http2Settings = "http2-settings" }
    15 { XForwardedFor = "x-forwarded-for" }
    16 {
        ProxyConnection = "proxy-connection",
        XForwardedHost = "x-forwarded-host",
        XForwardedPort = "x-forwarded-port",
    }
    17 { TransferEncoding = "transfer-encoding", XForwardedProto = "x-forwarded-proto" }
    18 { ProxyAuthenticate = "proxy-authenticate" }
    19 { ProxyAuthorization = "proxy-authorization" }
}

impl HeaderId {
    /// Whether it concerns one connection only and must not be forwarded: RFC 9110 section 7.6.1.
    ///
    /// `Trailer` is not among them since RFC 9110; the proxy credentials are, since they are meant for the next proxy.
    #[inline]
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            HeaderId::Connection
                | HeaderId::KeepAlive
                | HeaderId::ProxyConnection
                | HeaderId::ProxyAuthenticate
                | HeaderId::ProxyAuthorization
                | HeaderId::Http2Settings
                | HeaderId::Te
                | HeaderId::TransferEncoding
                | HeaderId::Upgrade
        )
    }
}

/// One header line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The name as sent.
    pub name: Span,
    /// The value without white space at its ends; may be empty.
    pub value: Span,
    /// Which known header it is.
    pub id: HeaderId,
    pub(crate) flags: u8,
}

pub(crate) const HOP_BY_HOP: u8 = 1;
pub(crate) const UNDERSCORE: u8 = 2;

impl Header {
    /// Whether it must not be forwarded: one of [`HeaderId::is_hop_by_hop`], nominated by `Connection`, or a
    /// `Content-Length` in a response that cannot have one.
    #[inline]
    pub fn is_hop_by_hop(&self) -> bool {
        self.flags & HOP_BY_HOP != 0
    }

    /// Whether the name contains `_`, which CGI-like backends cannot tell from `-`.
    #[inline]
    pub fn has_underscore(&self) -> bool {
        self.flags & UNDERSCORE != 0
    }
}

/// Compares a name with a lower-case one, taking `_` for `-`.
pub(crate) fn is_spelled_like(name: &[u8], lower: &str) -> bool {
    name.len() == lower.len()
        && name.iter().zip(lower.as_bytes()).all(|(&byte, &wanted)| {
            let byte = if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
            byte == wanted
        })
}

/// Headers that tell a backend who the client is, besides `x-forwarded-*`.
const FORWARDING: &[&str] = &[
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "forwarded-for",
    "proxy",
    "true-client-ip",
    "x-azure-clientip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-forwarded",
    "x-original-forwarded-for",
    "x-real-ip",
    "x-scheme",
];

/// Whether backends take the client's address, scheme or host from a header of this name; `_` counts as `-`.
pub fn is_forwarding_name(name: &[u8]) -> bool {
    const PREFIX: &str = "x-forwarded-";
    name.get(..PREFIX.len()).is_some_and(|start| is_spelled_like(start, PREFIX))
        || FORWARDING.iter().any(|known| is_spelled_like(name, known))
}

/// Trailers that are dropped although they are well formed; see [`is_forbidden_trailer`].
const FORBIDDEN_TRAILERS: &[&str] = &[
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "www-authenticate",
    "x-request-id",
];

/// Whether a trailer of this name must not be believed: framing, routing, credentials, conditions, content format
/// (RFC 9110 section 6.5.1) and what names the client. `_` counts as `-`.
pub fn is_forbidden_trailer(name: &[u8]) -> bool {
    FORBIDDEN_TRAILERS.iter().any(|known| is_spelled_like(name, known)) || is_forwarding_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_any_case() {
        for id in HeaderId::KNOWN {
            assert_eq!(HeaderId::of(id.name().as_bytes()), *id);
            assert_eq!(HeaderId::of(id.name().to_uppercase().as_bytes()), *id);
            assert_eq!(HeaderId::of(format!("{}s", id.name()).as_bytes()), HeaderId::Other);
        }
    }

    #[test]
    fn underscores_and_case_do_not_hide_a_forbidden_trailer() {
        for name in ["X_Forwarded_For", "x-forwarded-anything", "Content_Length", "HOST", "True_Client-IP", "Forwarded"]
        {
            assert!(is_forbidden_trailer(name.as_bytes()), "{name}");
        }
        for name in ["grpc-status", "x-forwarde", "etag", "server-timing", "digest"] {
            assert!(!is_forbidden_trailer(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_span_on_a_shorter_buffer_is_empty() {
        assert_eq!(Span::new(2, 5).of(b"abc"), b"");
    }
}
