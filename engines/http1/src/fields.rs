//! A header section line by line, and what it says about framing and the connection.

use crate::class::{self, CLASS, TOKEN, UNDERSCORE as UNDERSCORE_CLASS, is_field_value, trim};
use crate::error::{FieldError, FramingError};
use crate::header::{HOP_BY_HOP, Header, HeaderId, Span, UNDERSCORE, is_forwarding_name, is_spelled_like};
use crate::limits::Limits;

/// HTTP version of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How far a parse got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The head is not complete: read more, then parse again with the same head and the longer buffer.
    Partial,
    /// The head is complete and this many bytes long; the body begins there.
    Complete(usize),
}

/// Where in the head the parse goes on when more bytes have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Phase {
    /// No head has begun.
    #[default]
    Idle,
    /// Before the one empty line that may precede a request line.
    Leading,
    StartLine,
    Fields,
}

/// Cuts a growing buffer into lines; every byte is searched for its line end once, however it arrives.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lines {
    pub(crate) phase: Phase,
    /// Start of the first line that is not complete.
    pub(crate) line: usize,
    /// No LF stands between `line` and here.
    searched: usize,
}

impl Lines {
    /// The next complete line as start and end, without its CRLF. An incomplete line is never judged.
    #[inline]
    pub(crate) fn next(&mut self, window: &[u8]) -> Result<Option<(usize, usize)>, FieldError> {
        let from = self.searched.max(self.line);
        let Some(found) = window.get(from..).and_then(|rest| memchr::memchr(b'\n', rest)) else {
            self.searched = window.len();
            return Ok(None);
        };
        let (start, line_feed) = (self.line, from + found);
        if line_feed == start || window[line_feed - 1] != b'\r' {
            return Err(FieldError::BareLineFeed);
        }
        self.line = line_feed + 1;
        Ok(Some((start, line_feed - 1)))
    }
}

/// Parses the header line at `start..end` of `window`. RFC 9112 section 5.
#[inline]
pub(crate) fn parse_field(window: &[u8], start: usize, end: usize) -> Result<Header, FieldError> {
    let line = &window[start..end];
    let mut seen = 0u8;
    let mut colon = 0;
    for &byte in line {
        let class = CLASS[byte as usize];
        if class & TOKEN == 0 {
            break;
        }
        seen |= class;
        colon += 1;
    }
    if colon == 0 || line.get(colon) != Some(&b':') {
        return Err(name_error(line, colon));
    }
    let text = &line[colon + 1..];
    let value = trim(text);
    if !is_field_value(value) {
        let carriage_return = value.contains(&b'\r');
        return Err(if carriage_return { FieldError::BareCarriageReturn } else { FieldError::InvalidValue });
    }
    let lead = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let value_start = start + colon + 1 + lead;
    let id = HeaderId::of(&line[..colon]);
    let mut flags = 0;
    if seen & UNDERSCORE_CLASS != 0 {
        flags |= UNDERSCORE;
    }
    if id.is_hop_by_hop() {
        flags |= HOP_BY_HOP;
    }
    Ok(Header {
        name: Span::new(start, start + colon),
        value: Span::new(value_start, value_start + value.len()),
        id,
        flags,
    })
}

#[cold]
fn name_error(line: &[u8], at: usize) -> FieldError {
    match line.get(at) {
        Some(b' ' | b'\t') if at == 0 => FieldError::ObsoleteFold,
        Some(b' ' | b'\t') => FieldError::SpaceBeforeColon,
        Some(b':') => FieldError::EmptyName,
        Some(b'\r') => FieldError::BareCarriageReturn,
        Some(_) => FieldError::InvalidName,
        None => FieldError::MissingColon,
    }
}

/// Which end of the connection sent the section; requests are held to more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Downstream,
    Upstream,
}

/// The header lines of one head and the facts derived from them on the way.
#[derive(Debug, Clone)]
pub(crate) struct FieldSection {
    pub(crate) headers: Vec<Header>,
    pub(crate) nominated: Vec<Span>,
    pub(crate) content_length: Option<u64>,
    pub(crate) chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade_listed: bool,
    upgrade: Option<Span>,
    upgrade_repeated: bool,
    pub(crate) te_trailers: bool,
}

impl FieldSection {
    pub(crate) fn new() -> FieldSection {
        FieldSection {
            headers: Vec::new(),
            nominated: Vec::new(),
            content_length: None,
            chunked: false,
            close: false,
            keep_alive: false,
            upgrade_listed: false,
            upgrade: None,
            upgrade_repeated: false,
            te_trailers: false,
        }
    }

    /// Forgets the content, keeps the memory.
    pub(crate) fn clear(&mut self) {
        let (mut headers, mut nominated) = (std::mem::take(&mut self.headers), std::mem::take(&mut self.nominated));
        headers.clear();
        nominated.clear();
        *self = FieldSection { headers, nominated, ..FieldSection::new() };
    }

    /// Takes one header in, reading those that concern framing or the connection.
    #[inline]
    pub(crate) fn push(
        &mut self,
        window: &[u8],
        header: Header,
        (version, sender, limits): (Version, Sender, &Limits),
    ) -> Result<(), FramingError> {
        let value = header.value.of(window);
        match header.id {
            HeaderId::ContentLength => {
                if self.content_length.is_some() {
                    return Err(FramingError::RepeatedContentLength);
                }
                if self.chunked {
                    return Err(FramingError::LengthAndTransferEncoding);
                }
                self.content_length = Some(parse_content_length(value).ok_or(FramingError::InvalidContentLength)?);
            }
            HeaderId::TransferEncoding => {
                if self.chunked {
                    return Err(FramingError::RepeatedTransferEncoding);
                }
                if version == Version::Http10 {
                    return Err(FramingError::TransferEncodingInHttp10);
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(coding_error(value));
                }
                if self.content_length.is_some() {
                    return Err(FramingError::LengthAndTransferEncoding);
                }
                self.chunked = true;
            }
            HeaderId::Connection => self.read_connection(window, header.value, sender, limits)?,
            HeaderId::Upgrade => {
                // Upstreams advertise protocols in any response; there it only matters in a 101.
                self.upgrade_repeated |= self.upgrade.is_some();
                self.upgrade = Some(header.value);
                if sender == Sender::Downstream {
                    self.agreed_upgrade(window)?;
                }
            }
            HeaderId::Te => {
                self.te_trailers |= value.split(|&b| b == b',').any(|e| trim(e).eq_ignore_ascii_case(b"trailers"));
            }
            HeaderId::Other if header.has_underscore() => {
                let name = header.name.of(window);
                if is_spelled_like(name, "content-length") || is_spelled_like(name, "transfer-encoding") {
                    return Err(FramingError::DisguisedFramingHeader);
                }
            }
            _ => {}
        }
        self.headers.push(header);
        Ok(())
    }

    fn read_connection(
        &mut self,
        window: &[u8],
        value: Span,
        sender: Sender,
        limits: &Limits,
    ) -> Result<(), FramingError> {
        let mut at = value.range().start;
        for element in value.of(window).split(|&byte| byte == b',') {
            let lead = element.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            let (option, start) = (trim(element), at + lead);
            at += element.len() + 1;
            if option.is_empty() {
                continue;
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
                continue;
            }
            if !class::is_token(option) {
                return Err(FramingError::InvalidConnection);
            }
            let id = HeaderId::of(option);
            match id {
                HeaderId::KeepAlive => self.keep_alive = true,
                HeaderId::Upgrade => self.upgrade_listed = true,
                HeaderId::Host
                | HeaderId::ContentLength
                | HeaderId::Authorization
                | HeaderId::Cookie
                | HeaderId::XRequestId
                    if sender == Sender::Downstream =>
                {
                    return Err(FramingError::ForbiddenConnectionOption);
                }
                HeaderId::ContentLength => {}
                _ if id.is_hop_by_hop() => {}
                _ if sender == Sender::Downstream && is_forwarding_name(option) => {
                    return Err(FramingError::ForbiddenConnectionOption);
                }
                _ if self.nominated.len() == limits.max_connection_options => {
                    return Err(FramingError::TooManyConnectionOptions);
                }
                _ => self.nominated.push(Span::new(start, start + option.len())),
            }
        }
        Ok(())
    }

    /// Marks what `Connection` nominates, wherever it stands: at most options x headers short comparisons.
    pub(crate) fn mark_nominated(&mut self, window: &[u8]) {
        for option in &self.nominated {
            let option = option.of(window);
            for header in &mut self.headers {
                if header.name.of(window).eq_ignore_ascii_case(option) {
                    header.flags |= HOP_BY_HOP;
                }
            }
        }
    }

    /// `Upgrade`, if `Connection` lists it and it names a protocol. RFC 9110 section 7.8.
    pub(crate) fn agreed_upgrade(&self, window: &[u8]) -> Result<Option<Span>, FramingError> {
        let Some(span) = self.upgrade else { return Ok(None) };
        if self.upgrade_repeated {
            return Err(FramingError::RepeatedUpgrade);
        }
        let protocols = count_protocols(span.of(window)).ok_or(FramingError::InvalidUpgrade)?;
        Ok((self.upgrade_listed && protocols > 0).then_some(span))
    }

    /// RFC 9112 section 9.3.
    pub(crate) fn is_persistent(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }
}

/// One decimal number below 2^63: no sign, no list, no leading zeros. RFC 9110 section 8.6 would allow leading zeros;
/// a backend that takes them for octal would not agree on where the body ends.
pub fn parse_content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || (value[0] == b'0' && value.len() > 1) {
        return None;
    }
    let mut length = 0u64;
    for &byte in value {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        length = length * 10 + u64::from(digit);
    }
    (length <= i64::MAX as u64).then_some(length)
}

/// Tells a coding that we do not speak from an attempt to be misread.
#[cold]
fn coding_error(value: &[u8]) -> FramingError {
    let mut codings = 0;
    let mut chunked = 0;
    for element in value.split(|&byte| byte == b',') {
        let element = trim(element);
        let name = trim(element.split(|&byte| byte == b';').next().unwrap_or_default());
        let is_chunked = element.eq_ignore_ascii_case(b"chunked");
        let hides_chunked = element.windows(7).any(|part| part.eq_ignore_ascii_case(b"chunked")) && !is_chunked;
        if chunked > 0 || hides_chunked || !class::is_token(name) {
            return FramingError::InvalidTransferEncoding;
        }
        codings += 1;
        chunked += usize::from(is_chunked);
    }
    debug_assert!(codings > chunked, "exactly chunked was accepted before");
    FramingError::UnsupportedTransferCoding
}

/// Length of a list of `token [ "/" token ]`, in which elements may be empty; `None` if it is anything else.
fn count_protocols(value: &[u8]) -> Option<usize> {
    let mut count = 0;
    for element in value.split(|&byte| byte == b',').map(trim).filter(|element| !element.is_empty()) {
        let slash = memchr::memchr(b'/', element);
        let valid = match slash {
            Some(slash) => class::is_token(&element[..slash]) && class::is_token(&element[slash + 1..]),
            None => class::is_token(element),
        };
        if !valid {
            return None;
        }
        count += 1;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line feeds put where the search has already been must not be found: those bytes are not looked at again.
    #[test]
    fn no_byte_is_searched_for_a_line_end_twice() {
        let mut lines = Lines::default();
        let mut window = Vec::new();
        for _ in 0..70_000 {
            window.push(b'a');
            assert_eq!(lines.next(&window), Ok(None));
            let last = window.len() - 1;
            window[last] = b'\n';
        }
        window.extend_from_slice(b"\r\n");
        assert_eq!(lines.next(&window), Ok(Some((0, 70_000))));
        assert_eq!(lines.next(&window), Ok(None));
    }
}
