//! Response heads.

use crate::class::is_field_value;
use crate::error::{FieldError, FramingError, ResponseError};
use crate::fields::{FieldSection, Lines, Phase, Sender, Status, Version, parse_field};
use crate::header::{HOP_BY_HOP, Header, HeaderId, Span};
use crate::limits::Limits;
use crate::request::Method;

/// How the body of a response is delimited: RFC 9112 section 6.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResponseFraming {
    /// No body follows, whatever `Content-Length` says.
    None,
    /// Exactly this many bytes follow.
    Length(u64),
    /// Chunks follow: [`crate::ChunkedDecoder`].
    Chunked,
    /// Everything until the upstream closes.
    UntilClose,
}

/// A parsed response head; positions in the buffer it was parsed from. Keep one per connection: it keeps its memory.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    lines: Lines,
    version: Version,
    status: u16,
    reason: Span,
    framing: ResponseFraming,
    keep_alive: bool,
    upgrade: Option<Span>,
    fields: FieldSection,
}

impl Default for ResponseHead {
    fn default() -> Self {
        ResponseHead::new()
    }
}

impl ResponseHead {
    /// An empty head; memory for headers is taken when the first one arrives.
    pub fn new() -> ResponseHead {
        ResponseHead {
            lines: Lines::default(),
            version: Version::Http11,
            status: 0,
            reason: Span::default(),
            framing: ResponseFraming::None,
            keep_alive: false,
            upgrade: None,
            fields: FieldSection::new(),
        }
    }

    /// Forgets a head, complete or not; the memory stays. Needed only to give up a head that is still
    /// [`Status::Partial`].
    pub fn reset(&mut self) {
        self.fields.clear();
        self.lines = Lines::default();
        self.status = 0;
        self.reason = Span::default();
        self.framing = ResponseFraming::None;
        self.keep_alive = false;
        self.upgrade = None;
    }

    /// The version the upstream speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The status code, 100 to 999. Below 200 another head follows, except after 101.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The reason phrase; may be empty.
    pub fn reason<'b>(&self, buf: &'b [u8]) -> &'b [u8] {
        self.reason.of(buf)
    }

    /// How the body is delimited.
    pub fn framing(&self) -> ResponseFraming {
        self.framing
    }

    /// What `Content-Length` says, also where no body follows (HEAD, 304).
    pub fn content_length(&self) -> Option<u64> {
        self.fields.content_length
    }

    /// Whether the upstream connection may be used again after this response.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// The protocol that a 101 response switches to; `None` if the status is another, or if the upstream did not name
    /// it in both `Connection` and `Upgrade`, which makes a 101 unusable.
    pub fn upgrade<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        self.upgrade.map(|span| span.of(buf))
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

    fn advance(&mut self, buf: &[u8], limits: &Limits, method: Method) -> Result<Status, ResponseError> {
        let most = limits.max_head_bytes.min(u32::MAX as usize);
        let window = &buf[..buf.len().min(most)];
        if self.lines.phase == Phase::Idle {
            self.reset();
            self.lines.phase = Phase::StartLine;
        }
        let outcome = self.advance_in(window, limits, method)?;
        if outcome == Status::Partial && window.len() == most {
            return Err(ResponseError::HeadTooLarge);
        }
        Ok(outcome)
    }

    fn advance_in(&mut self, window: &[u8], limits: &Limits, method: Method) -> Result<Status, ResponseError> {
        if self.lines.phase != Phase::Fields {
            match window.first() {
                None => return Ok(Status::Partial),
                Some(b'H') => {}
                Some(b'\n') => return Err(FieldError::BareLineFeed.into()),
                Some(_) => return Err(ResponseError::MalformedStatusLine),
            }
            let most = limits.max_start_line_bytes.saturating_add(2);
            let Some((start, end)) = self.lines.next(&window[..window.len().min(most)])? else {
                let too_long = window.len() >= most;
                return if too_long { Err(ResponseError::StatusLineTooLong) } else { Ok(Status::Partial) };
            };
            self.read_status_line(window, start, end)?;
            self.lines.phase = Phase::Fields;
        }
        loop {
            let Some((start, end)) = self.lines.next(window)? else { return Ok(Status::Partial) };
            if start == end {
                self.conclude(window, method)?;
                return Ok(Status::Complete(self.lines.line));
            }
            if self.fields.headers.len() == limits.max_headers {
                return Err(FieldError::TooManyFields.into());
            }
            let header = parse_field(window, start, end)?;
            self.fields.push(window, header, (self.version, Sender::Upstream, limits))?;
        }
    }

    fn read_status_line(&mut self, window: &[u8], start: usize, end: usize) -> Result<(), ResponseError> {
        let line = &window[start..end];
        self.version = match line.first_chunk::<8>() {
            Some(b"HTTP/1.1") => Version::Http11,
            Some(b"HTTP/1.0") => Version::Http10,
            Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']) => {
                return Err(ResponseError::UnsupportedVersion);
            }
            _ => return Err(ResponseError::MalformedStatusLine),
        };
        let Some(([b' ', hundreds, tens, ones], rest)) = line[8..].split_first_chunk::<4>() else {
            return Err(ResponseError::MalformedStatusLine);
        };
        if !matches!(hundreds, b'1'..=b'9') || !tens.is_ascii_digit() || !ones.is_ascii_digit() {
            return Err(ResponseError::InvalidStatus);
        }
        self.status = u16::from(hundreds - b'0') * 100 + u16::from(tens - b'0') * 10 + u16::from(ones - b'0');
        // A missing reason, with or without the space before it, is common and harmless.
        let reason = match rest {
            [] => rest,
            [b' ', reason @ ..] => reason,
            [b'0'..=b'9', ..] => return Err(ResponseError::InvalidStatus),
            _ => return Err(ResponseError::MalformedStatusLine),
        };
        if reason.contains(&b'\r') {
            return Err(FieldError::BareCarriageReturn.into());
        }
        if !is_field_value(reason) {
            return Err(ResponseError::InvalidReason);
        }
        self.reason = Span::new(end - reason.len(), end);
        Ok(())
    }

    /// RFC 9112 section 6.3, in its order.
    fn conclude(&mut self, window: &[u8], method: Method) -> Result<(), ResponseError> {
        let fields = &mut self.fields;
        let never_a_body = matches!(self.status, 100..=199 | 204);
        let tunnel = method == Method::Connect && matches!(self.status, 200..=299);
        // An upstream that announces a body here would send it, and it would be read as the next response.
        if never_a_body && (fields.chunked || fields.content_length.is_some_and(|length| length > 0)) {
            return Err(FramingError::BodyNotAllowed.into());
        }
        if never_a_body || tunnel {
            for header in fields.headers.iter_mut().filter(|header| header.id == HeaderId::ContentLength) {
                header.flags |= HOP_BY_HOP;
            }
        }
        self.framing = match fields.content_length {
            _ if never_a_body || tunnel || method == Method::Head || self.status == 304 => ResponseFraming::None,
            _ if fields.chunked => ResponseFraming::Chunked,
            Some(length) => ResponseFraming::Length(length),
            None => ResponseFraming::UntilClose,
        };
        self.keep_alive = fields.is_persistent(self.version) && self.framing != ResponseFraming::UntilClose;
        if self.status == 101 {
            self.upgrade = fields.agreed_upgrade(window)?;
        }
        if !fields.nominated.is_empty() {
            fields.mark_nominated(window);
        }
        Ok(())
    }
}

/// Parses the response head at the start of `buf`; `request_method` is the method of the request it answers.
///
/// Incremental like [`crate::parse_request`], and as strict about framing. An interim response (1xx) is a head like
/// any other: parse again behind it, with the same method.
///
/// # Errors
/// [`ResponseError`]; the upstream connection must be closed after it.
pub fn parse_response(
    buf: &[u8],
    limits: &Limits,
    request_method: Method,
    head: &mut ResponseHead,
) -> Result<Status, ResponseError> {
    let outcome = head.advance(buf, limits, request_method);
    if outcome != Ok(Status::Partial) {
        head.lines = Lines::default();
    }
    outcome
}
