//! Request heads.

use crate::authority::Authority;
use crate::class::{TOKEN, is, is_target, is_token};
use crate::error::{FieldError, FramingError, RequestError};
use crate::fields::{FieldSection, Lines, Phase, Sender, Status, Version, parse_field};
use crate::header::{Header, HeaderId, Span};
use crate::limits::Limits;

macro_rules! methods {
    ($($method:ident = $text:literal),* $(,)?) => {
        /// Request method; names are case-sensitive. RFC 9110 section 9, RFC 5789.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Method {
            $(#[doc = concat!("`", $text, "`")] $method,)*
            /// Any other token; the text is in the head.
            Other,
        }

        impl Method {
            /// The method with this name.
            #[inline]
            pub fn of(text: &[u8]) -> Method {
                $(if text == $text.as_bytes() { return Method::$method; })*
                Method::Other
            }

            /// Its name; empty for [`Method::Other`].
            pub const fn name(self) -> &'static str {
                match self { $(Method::$method => $text,)* Method::Other => "" }
            }
        }
    };
}

methods!(
    Get = "GET",
    Post = "POST",
    Put = "PUT",
    Head = "HEAD",
    Delete = "DELETE",
    Patch = "PATCH",
    Options = "OPTIONS",
    Connect = "CONNECT",
    Trace = "TRACE",
);

/// Scheme of an absolute target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    const fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// Request target by its form: RFC 9112 section 3.2. Queries are without their `?`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `/path?query`
    Origin {
        /// Begins with `/`.
        path: Span,
        /// `None` without `?`.
        query: Option<Span>,
    },
    /// `http://authority/path?query`; the authority equals `Host`.
    Absolute {
        /// http or https.
        scheme: Scheme,
        /// `host[:port]`
        authority: Span,
        /// Empty or begins with `/`.
        path: Span,
        /// `None` without `?`.
        query: Option<Span>,
    },
    /// `host:port`, for CONNECT only.
    Authority {
        /// The whole target.
        authority: Span,
    },
    /// `*`, for OPTIONS only.
    Asterisk,
}

/// How the body of a request is delimited: RFC 9112 section 6.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BodyFraming {
    /// No body follows.
    None,
    /// Exactly this many bytes follow; may be 0 when `Content-Length` says so.
    Length(u64),
    /// Chunks follow: [`crate::ChunkedDecoder`].
    Chunked,
}

/// A parsed request head; positions in the buffer it was parsed from. Keep one per connection: it keeps its memory.
#[derive(Debug, Clone)]
pub struct RequestHead {
    lines: Lines,
    method: Method,
    method_span: Span,
    target: Target,
    target_span: Span,
    version: Version,
    host: Span,
    expect_continue: bool,
    framing: BodyFraming,
    keep_alive: bool,
    upgrade: Option<Span>,
    fields: FieldSection,
}

impl Default for RequestHead {
    fn default() -> Self {
        RequestHead::new()
    }
}

impl RequestHead {
    /// An empty head; memory for headers is taken when the first one arrives.
    pub fn new() -> RequestHead {
        RequestHead {
            lines: Lines::default(),
            method: Method::Other,
            method_span: Span::default(),
            target: Target::Asterisk,
            target_span: Span::default(),
            version: Version::Http11,
            host: Span::default(),
            expect_continue: false,
            framing: BodyFraming::None,
            keep_alive: false,
            upgrade: None,
            fields: FieldSection::new(),
        }
    }

    /// Forgets a head, complete or not; the memory stays. Needed only to give up a head that is still
    /// [`Status::Partial`]: after any other outcome the next parse begins anew by itself.
    pub fn reset(&mut self) {
        self.fields.clear();
        self.lines = Lines::default();
        self.method = Method::Other;
        self.method_span = Span::default();
        self.target = Target::Asterisk;
        self.target_span = Span::default();
        self.host = Span::default();
        self.expect_continue = false;
        self.framing = BodyFraming::None;
        self.keep_alive = false;
        self.upgrade = None;
    }

    /// The method; for [`Method::Other`] see [`RequestHead::method_text`].
    pub fn method(&self) -> Method {
        self.method
    }

    /// The method as sent.
    pub fn method_text<'b>(&self, buf: &'b [u8]) -> &'b [u8] {
        self.method_span.of(buf)
    }

    /// The target by its form.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The whole target as sent.
    pub fn target_text<'b>(&self, buf: &'b [u8]) -> &'b [u8] {
        self.target_span.of(buf)
    }

    /// The path as sent, `/` if an absolute target has none, `*` for the asterisk form, empty for CONNECT.
    pub fn path<'b>(&self, buf: &'b [u8]) -> &'b [u8] {
        match self.target {
            Target::Absolute { path, .. } if path.is_empty() => b"/",
            Target::Origin { path, .. } | Target::Absolute { path, .. } => path.of(buf),
            Target::Authority { .. } => b"",
            Target::Asterisk => b"*",
        }
    }

    /// The query without its `?`; `None` without one.
    pub fn query<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        match self.target {
            Target::Origin { query, .. } | Target::Absolute { query, .. } => query.map(|query| query.of(buf)),
            Target::Authority { .. } | Target::Asterisk => None,
        }
    }

    /// The version the client speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// `host[:port]` that the request is for, from `Host` or an absolute target, which are the same if both are there.
    /// `None` only in HTTP/1.0.
    pub fn host<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        (!self.host.is_empty()).then(|| self.host.of(buf))
    }

    /// [`RequestHead::host`] taken apart.
    pub fn authority<'b>(&self, buf: &'b [u8]) -> Option<Authority<'b>> {
        self.host(buf).and_then(Authority::parse)
    }

    /// How the body is delimited.
    pub fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// Whether the connection may carry another request after this one: RFC 9112 section 9.3.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// The protocols of `Upgrade`, when `Connection` lists it and the version is 1.1.
    pub fn upgrade<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        self.upgrade.map(|span| span.of(buf))
    }

    /// Whether the client waits for 100 (Continue) before it sends the body. RFC 9110 section 10.1.1.
    pub fn expect_continue(&self) -> bool {
        self.expect_continue
    }

    /// Whether `TE` lists `trailers`: the client keeps trailers of the response.
    pub fn accepts_trailers(&self) -> bool {
        self.fields.te_trailers
    }

    /// The header lines in order.
    pub fn headers(&self) -> &[Header] {
        &self.fields.headers
    }

    /// The value of the first header with this id, not for [`HeaderId::Other`].
    pub fn value_of<'b>(&self, buf: &'b [u8], id: HeaderId) -> Option<&'b [u8]> {
        self.fields.headers.iter().find(|header| header.id == id).map(|header| header.value.of(buf))
    }

    /// The values of all headers with this name, in order.
    pub fn values<'b>(&self, buf: &'b [u8], name: &[u8]) -> impl Iterator<Item = &'b [u8]> {
        let matching = self.fields.headers.iter().filter(move |h| h.name.of(buf).eq_ignore_ascii_case(name));
        matching.map(|header| header.value.of(buf))
    }

    /// Whether header line `index` must not be forwarded; see [`Header::is_hop_by_hop`].
    pub fn is_hop_by_hop(&self, index: usize) -> bool {
        self.fields.headers.get(index).is_some_and(Header::is_hop_by_hop)
    }

    /// Names that `Connection` nominates, beyond those that are hop-by-hop anyway.
    pub fn nominated(&self) -> &[Span] {
        &self.fields.nominated
    }

    fn advance(&mut self, buf: &[u8], limits: &Limits) -> Result<Status, RequestError> {
        let most = limits.max_head_bytes.min(u32::MAX as usize);
        let window = &buf[..buf.len().min(most)];
        if self.lines.phase == Phase::Idle {
            self.reset();
            self.lines.phase = Phase::Leading;
        }
        let outcome = self.advance_in(window, limits)?;
        if outcome == Status::Partial && window.len() == most {
            return Err(RequestError::HeadTooLarge);
        }
        Ok(outcome)
    }

    fn advance_in(&mut self, window: &[u8], limits: &Limits) -> Result<Status, RequestError> {
        if self.lines.phase == Phase::Leading {
            // RFC 9112 section 2.2: one empty line before the request line is ignored.
            match window {
                [] | [b'\r'] => return Ok(Status::Partial),
                [b'\r', b'\n', ..] => self.lines.line = 2,
                [b'\r', ..] => return Err(FieldError::BareCarriageReturn.into()),
                _ => {}
            }
            self.lines.phase = Phase::StartLine;
        }
        if self.lines.phase == Phase::StartLine {
            let start = self.lines.line;
            match window.get(start) {
                None => return Ok(Status::Partial),
                Some(&byte) if is(byte, TOKEN) => {}
                Some(b'\n') => return Err(FieldError::BareLineFeed.into()),
                Some(b'\r') => return Err(RequestError::EmptyRequestLine),
                // Not HTTP at all, such as a TLS handshake: do not wait for a line end that never comes.
                Some(_) => return Err(RequestError::InvalidMethod),
            }
            let most = limits.max_start_line_bytes.saturating_add(start + 2);
            let Some((start, end)) = self.lines.next(&window[..window.len().min(most)])? else {
                let too_long = window.len() >= most;
                return if too_long { Err(RequestError::RequestLineTooLong) } else { Ok(Status::Partial) };
            };
            self.read_request_line(window, start, end)?;
            self.lines.phase = Phase::Fields;
        }
        loop {
            let Some((start, end)) = self.lines.next(window)? else { return Ok(Status::Partial) };
            if start == end {
                self.conclude(window)?;
                return Ok(Status::Complete(self.lines.line));
            }
            if self.fields.headers.len() == limits.max_headers {
                return Err(FieldError::TooManyFields.into());
            }
            let header = parse_field(window, start, end)?;
            self.take(window, header, limits)?;
        }
    }

    fn read_request_line(&mut self, window: &[u8], start: usize, end: usize) -> Result<(), RequestError> {
        let line = &window[start..end];
        let first = memchr::memchr(b' ', line).ok_or(RequestError::MalformedRequestLine)?;
        let last = memchr::memrchr(b' ', line).ok_or(RequestError::MalformedRequestLine)?;
        let (method, version) = (&line[..first], &line[last + 1..]);
        if line.contains(&b'\r') {
            return Err(FieldError::BareCarriageReturn.into());
        }
        if !is_token(method) {
            return Err(RequestError::InvalidMethod);
        }
        if last <= first + 1 {
            return Err(RequestError::MalformedRequestLine);
        }
        self.version = match version {
            b"HTTP/1.1" => Version::Http11,
            b"HTTP/1.0" => Version::Http10,
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
                return Err(RequestError::UnsupportedVersion);
            }
            _ => return Err(RequestError::InvalidVersion),
        };
        let target = &line[first + 1..last];
        if !is_target(target) {
            let spaces = target.contains(&b' ');
            return Err(if spaces { RequestError::MalformedRequestLine } else { RequestError::InvalidTarget });
        }
        self.method = Method::of(method);
        self.method_span = Span::new(start, start + first);
        self.target_span = Span::new(start + first + 1, start + last);
        self.target = self.read_target(window)?;
        Ok(())
    }

    fn read_target(&self, window: &[u8]) -> Result<Target, RequestError> {
        let range = self.target_span.range();
        let text = self.target_span.of(window);
        if self.method == Method::Connect {
            let authority = Authority::parse(text).filter(|authority| authority.port.is_some());
            let authority = authority.ok_or(RequestError::ConnectNeedsAuthority)?;
            debug_assert!(!authority.host.is_empty());
            return Ok(Target::Authority { authority: self.target_span });
        }
        if text[0] == b'/' {
            let (path, query) = split_query(window, range.start, range.end);
            return Ok(Target::Origin { path, query });
        }
        if text == b"*" {
            let allowed = self.method == Method::Options;
            return if allowed { Ok(Target::Asterisk) } else { Err(RequestError::AsteriskNeedsOptions) };
        }
        let colon = memchr::memchr(b':', text).ok_or(RequestError::UnknownTargetForm)?;
        if text.get(colon..colon + 3) != Some(b"://") {
            return Err(RequestError::UnknownTargetForm);
        }
        let scheme = match &text[..colon] {
            name if name.eq_ignore_ascii_case(b"http") => Scheme::Http,
            name if name.eq_ignore_ascii_case(b"https") => Scheme::Https,
            _ => return Err(RequestError::UnsupportedScheme),
        };
        let rest = &text[colon + 3..];
        let length = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
        if Authority::parse(&rest[..length]).is_none() {
            return Err(RequestError::InvalidAuthority);
        }
        let start = range.start + colon + 3;
        let (path, query) = split_query(window, start + length, range.end);
        Ok(Target::Absolute { scheme, authority: Span::new(start, start + length), path, query })
    }

    #[inline]
    fn take(&mut self, window: &[u8], header: Header, limits: &Limits) -> Result<(), RequestError> {
        match header.id {
            HeaderId::Host => {
                if !self.host.is_empty() {
                    return Err(RequestError::RepeatedHost);
                }
                if Authority::parse(header.value.of(window)).is_none() {
                    return Err(RequestError::InvalidHost);
                }
                self.host = header.value;
            }
            // HTTP/1.0 recipients ignore the expectation: RFC 9110 section 10.1.1.
            HeaderId::Expect if self.version == Version::Http11 => {
                if !header.value.of(window).eq_ignore_ascii_case(b"100-continue") {
                    return Err(RequestError::UnsupportedExpectation);
                }
                self.expect_continue = true;
            }
            _ => {}
        }
        Ok(self.fields.push(window, header, (self.version, Sender::Downstream, limits))?)
    }

    /// What only the whole section can tell.
    fn conclude(&mut self, window: &[u8]) -> Result<(), RequestError> {
        if self.host.is_empty() && self.version == Version::Http11 {
            return Err(RequestError::MissingHost);
        }
        match self.target {
            Target::Absolute { scheme, authority, .. } => {
                self.agree_on_host(window, authority, Some(scheme.default_port()))?;
            }
            Target::Authority { authority } => {
                if self.fields.chunked || self.fields.content_length.is_some() {
                    return Err(FramingError::BodyNotAllowed.into());
                }
                self.agree_on_host(window, authority, None)?;
            }
            Target::Origin { .. } | Target::Asterisk => {}
        }
        self.framing = match self.fields.content_length {
            _ if self.fields.chunked => BodyFraming::Chunked,
            Some(length) => BodyFraming::Length(length),
            None => BodyFraming::None,
        };
        self.expect_continue &= !matches!(self.framing, BodyFraming::None | BodyFraming::Length(0));
        self.keep_alive = self.fields.is_persistent(self.version);
        // HTTP/1.0 requests cannot upgrade: RFC 9110 section 7.8.
        if self.version == Version::Http11 {
            self.upgrade = self.fields.agreed_upgrade(window)?;
        }
        if !self.fields.nominated.is_empty() {
            self.fields.mark_nominated(window);
        }
        Ok(())
    }

    /// RFC 9112 section 3.2.2 lets the target win over `Host`; a backend may not, so they must be the same.
    fn agree_on_host(&mut self, window: &[u8], authority: Span, default_port: Option<u16>) -> Result<(), RequestError> {
        if self.host.is_empty() {
            self.host = authority;
            return Ok(());
        }
        let target = Authority::parse(authority.of(window)).ok_or(RequestError::InvalidAuthority)?;
        let host = Authority::parse(self.host.of(window)).ok_or(RequestError::InvalidHost)?;
        // CONNECT always has a port, and clients leave it out of Host.
        let default_port = default_port.or(target.port);
        if target.is_same(&host, default_port) { Ok(()) } else { Err(RequestError::HostMismatch) }
    }
}

fn split_query(window: &[u8], start: usize, end: usize) -> (Span, Option<Span>) {
    match memchr::memchr(b'?', &window[start..end]) {
        Some(mark) => (Span::new(start, start + mark), Some(Span::new(start + mark + 1, end))),
        None => (Span::new(start, end), None),
    }
}

/// Parses the request head at the start of `buf`.
///
/// After [`Status::Partial`] call again with the same `head` and a buffer that begins with the same bytes and holds
/// more; lines that were complete are not read again, so a head costs linear time however slowly it arrives. The
/// outcome does not depend on how the bytes were split. After any other outcome the next call begins a new head.
///
/// Nothing is repaired: whatever two recipients could read differently is refused.
///
/// # Errors
/// [`RequestError`], whose `status()` is the answer to give; the connection must be closed after it.
pub fn parse_request(buf: &[u8], limits: &Limits, head: &mut RequestHead) -> Result<Status, RequestError> {
    let outcome = head.advance(buf, limits);
    if outcome != Ok(Status::Partial) {
        head.lines = Lines::default();
    }
    outcome
}
