//! The chunked transfer coding, taken apart as it arrives: RFC 9112 section 7.1.

use std::ops::Range;

use crate::class::{QUOTED, TOKEN, VALUE, is};
use crate::error::{ChunkError, FieldError};
use crate::fields::parse_field;
use crate::header::{Header, is_forbidden_trailer};
use crate::limits::Limits;

/// What a call to [`ChunkedDecoder::decode`] found. `consumed` counts from the start of its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The whole input was used and held no (more) body data.
    NeedMore {
        /// Always the length of the input.
        consumed: usize,
    },
    /// Body data, and possibly framing in front of it; call again with what is behind `consumed`.
    Data {
        /// Where the data is in the input, never empty.
        data: Range<usize>,
        /// Equal to the end of `data`.
        consumed: usize,
    },
    /// The body and its trailers are complete; the next message begins behind `consumed`.
    Done {
        /// Bytes of the input that belong to this body.
        consumed: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    ExtensionName { empty: bool },
    ExtensionValue,
    ExtensionToken,
    ExtensionQuoted,
    ExtensionEscape,
    ExtensionEnd,
    SizeLineFeed,
    Data,
    DataCarriageReturn,
    DataLineFeed,
    Trailer,
    Done,
    Failed(ChunkError),
}

/// Takes a chunked body apart piece by piece. Allocates only for trailers.
#[derive(Debug, Clone)]
pub struct ChunkedDecoder {
    state: State,
    digits: u8,
    /// Size of the chunk while it is read, then what is left of it.
    remaining: u64,
    extension_bytes: usize,
    extension_bytes_total: usize,
    limits: Limits,
    /// Complete trailer lines that are kept, then the line that is arriving.
    trailer_text: Vec<u8>,
    /// Start of the arriving line in `trailer_text`.
    trailer_line: usize,
    /// Bytes and lines of the section, dropped ones included.
    trailer_bytes: usize,
    trailer_lines: usize,
    trailers: Vec<Header>,
}

/// No chunk is longer; signed arithmetic in a backend stays right.
const MAX_CHUNK: u64 = i64::MAX as u64;

impl ChunkedDecoder {
    /// A decoder at the start of a body.
    pub fn new(limits: &Limits) -> ChunkedDecoder {
        ChunkedDecoder {
            state: State::Size,
            digits: 0,
            remaining: 0,
            extension_bytes: 0,
            extension_bytes_total: 0,
            limits: *limits,
            trailer_text: Vec::new(),
            trailer_line: 0,
            trailer_bytes: 0,
            trailer_lines: 0,
            trailers: Vec::new(),
        }
    }

    /// Begins another body; the memory stays.
    pub fn reset(&mut self) {
        let (mut text, mut trailers) = (std::mem::take(&mut self.trailer_text), std::mem::take(&mut self.trailers));
        text.clear();
        trailers.clear();
        *self = ChunkedDecoder { trailer_text: text, trailers, ..ChunkedDecoder::new(&self.limits) };
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Body bytes that are still to come in the present chunk: what may be copied without looking at it.
    pub fn remaining_in_chunk(&self) -> u64 {
        if self.state == State::Data { self.remaining } else { 0 }
    }

    /// Tells the decoder that `count` body bytes of the present chunk went another way, for example by splice.
    /// More than [`ChunkedDecoder::remaining_in_chunk`] counts as all of it.
    pub fn skip(&mut self, count: u64) {
        if self.state == State::Data {
            self.remaining = self.remaining.saturating_sub(count);
            if self.remaining == 0 {
                self.state = State::DataCarriageReturn;
            }
        }
    }

    /// The trailers, without those that [`is_forbidden_trailer`] names; complete once the body is.
    pub fn trailers(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.trailers.iter().map(|t| (t.name.of(&self.trailer_text), t.value.of(&self.trailer_text)))
    }

    /// Reads on in the body; call again until [`Step::NeedMore`] or [`Step::Done`]. Extensions are checked and dropped.
    ///
    /// # Errors
    /// [`ChunkError`], again and again once it occurred: the end of the body is unknown, close the connection.
    pub fn decode(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        let outcome = self.advance(input);
        if let Err(error) = outcome {
            self.state = State::Failed(error);
        }
        outcome
    }

    fn advance(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        let mut at = 0;
        loop {
            match self.state {
                State::Done => return Ok(Step::Done { consumed: at }),
                State::Failed(error) => return Err(error),
                _ if at == input.len() => return Ok(Step::NeedMore { consumed: at }),
                State::Data => {
                    let available = (input.len() - at) as u64;
                    // Fits: it is at most the length of the input.
                    let end = at + self.remaining.min(available) as usize;
                    self.skip((end - at) as u64);
                    return Ok(Step::Data { data: at..end, consumed: end });
                }
                State::Trailer => at += self.read_trailer(&input[at..])?,
                _ => {
                    self.state = self.read_framing(input[at])?;
                    at += 1;
                }
            }
        }
    }

    /// One byte of a chunk-size line or of the line end behind chunk data.
    fn read_framing(&mut self, byte: u8) -> Result<State, ChunkError> {
        if byte == b'\n' && !matches!(self.state, State::SizeLineFeed | State::DataLineFeed | State::DataCarriageReturn)
        {
            return Err(ChunkError::BareLineFeed);
        }
        match self.state {
            State::Size => self.read_size(byte),
            State::SizeLineFeed if byte == b'\n' => {
                self.digits = 0;
                self.extension_bytes = 0;
                Ok(if self.remaining == 0 { State::Trailer } else { State::Data })
            }
            State::SizeLineFeed => Err(ChunkError::BareCarriageReturn),
            State::DataCarriageReturn if byte == b'\r' => Ok(State::DataLineFeed),
            State::DataLineFeed if byte == b'\n' => Ok(State::Size),
            State::DataCarriageReturn | State::DataLineFeed => Err(ChunkError::MissingDataEnd),
            _ => self.read_extension(byte),
        }
    }

    fn read_size(&mut self, byte: u8) -> Result<State, ChunkError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if self.digits > 0 => return Ok(State::SizeLineFeed),
            b';' if self.digits > 0 => return self.count_extension(State::ExtensionName { empty: true }),
            _ => return Err(ChunkError::InvalidSize),
        };
        // Sixteen digits fit in 64 bits, so the shift loses nothing.
        if self.digits == 16 {
            return Err(ChunkError::SizeTooLarge);
        }
        self.digits += 1;
        self.remaining = self.remaining << 4 | u64::from(digit);
        if self.remaining > MAX_CHUNK { Err(ChunkError::SizeTooLarge) } else { Ok(State::Size) }
    }

    /// RFC 9112 section 7.1.1, without the white space that it tolerates around `;` and `=`.
    fn read_extension(&mut self, byte: u8) -> Result<State, ChunkError> {
        let next = match (self.state, byte) {
            (State::ExtensionName { empty: false } | State::ExtensionToken | State::ExtensionEnd, b'\r') => {
                return Ok(State::SizeLineFeed);
            }
            (State::ExtensionName { .. }, _) if is(byte, TOKEN) => State::ExtensionName { empty: false },
            (State::ExtensionName { empty: false }, b'=') => State::ExtensionValue,
            (State::ExtensionName { empty: false } | State::ExtensionToken | State::ExtensionEnd, b';') => {
                State::ExtensionName { empty: true }
            }
            (State::ExtensionValue, b'"') => State::ExtensionQuoted,
            (State::ExtensionValue | State::ExtensionToken, _) if is(byte, TOKEN) => State::ExtensionToken,
            (State::ExtensionQuoted, b'"') => State::ExtensionEnd,
            (State::ExtensionQuoted, b'\\') => State::ExtensionEscape,
            (State::ExtensionQuoted, _) if is(byte, QUOTED) => State::ExtensionQuoted,
            (State::ExtensionEscape, _) if is(byte, VALUE) => State::ExtensionQuoted,
            _ => return Err(ChunkError::InvalidExtension),
        };
        self.count_extension(next)
    }

    fn count_extension(&mut self, next: State) -> Result<State, ChunkError> {
        self.extension_bytes += 1;
        self.extension_bytes_total += 1;
        if self.extension_bytes > self.limits.max_chunk_extension_bytes
            || self.extension_bytes_total > self.limits.max_chunk_extensions_total_bytes
        {
            return Err(ChunkError::ExtensionsTooLarge);
        }
        Ok(next)
    }

    /// Takes at most one line; returns how much of `input` it used.
    fn read_trailer(&mut self, input: &[u8]) -> Result<usize, ChunkError> {
        if self.trailer_bytes == 0 && input.starts_with(b"\r\n") {
            self.state = State::Done;
            return Ok(2);
        }
        let line_feed = memchr::memchr(b'\n', input);
        let used = line_feed.map_or(input.len(), |at| at + 1);
        self.trailer_bytes += used;
        if self.trailer_bytes > self.limits.max_trailer_bytes.min(u32::MAX as usize) {
            return Err(ChunkError::TrailersTooLarge);
        }
        self.trailer_text.extend_from_slice(&input[..used]);
        if line_feed.is_some() {
            self.finish_trailer_line()?;
        }
        Ok(used)
    }

    fn finish_trailer_line(&mut self) -> Result<(), ChunkError> {
        let start = self.trailer_line;
        let end = match &self.trailer_text[start..] {
            [line @ .., b'\r', b'\n'] => start + line.len(),
            _ => return Err(FieldError::BareLineFeed.into()),
        };
        if start == end {
            self.trailer_text.truncate(start);
            self.state = State::Done;
            return Ok(());
        }
        if self.trailer_lines == self.limits.max_trailers {
            return Err(FieldError::TooManyFields.into());
        }
        self.trailer_lines += 1;
        let trailer = parse_field(&self.trailer_text, start, end)?;
        if is_forbidden_trailer(trailer.name.of(&self.trailer_text)) {
            self.trailer_text.truncate(start);
        } else {
            self.trailers.push(trailer);
            self.trailer_line = self.trailer_text.len();
        }
        Ok(())
    }
}
