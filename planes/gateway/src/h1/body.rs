//! A body as it arrives on an HTTP/1 connection, from either end.

use std::io;
use std::ops::Range;

use headwater_http1::{ChunkError, ChunkedDecoder, Limits, Step};

use crate::buffer::{Buffer, LARGE};
use crate::io::Conn;
use crate::message::Trailers;

/// How the end is found.
pub(crate) enum Framing {
    Length(u64),
    Chunked(Box<ChunkedDecoder>),
    UntilClose,
}

/// Why a body ended early.
#[derive(Debug)]
pub(crate) enum BodyError {
    Io(io::Error),
    /// The peer closed before the end.
    Truncated,
    Chunk(ChunkError),
}

/// Reads a body through a buffer whose first bytes may belong to it already.
pub(crate) struct BodyReader {
    framing: Framing,
    /// Start of what is unread in the buffer.
    pos: usize,
    done: bool,
}

impl BodyReader {
    /// A body that begins at `pos` of the buffer.
    pub(crate) fn new(framing: Framing, pos: usize) -> Self {
        let done = matches!(framing, Framing::Length(0));
        Self { framing, pos, done }
    }

    pub(crate) fn chunked() -> Framing {
        Framing::Chunked(Box::new(ChunkedDecoder::new(&Limits::DEFAULT)))
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Where the bytes behind the body begin in the buffer, once it is done.
    pub(crate) fn end(&self) -> usize {
        self.pos
    }

    /// Bytes still to come, where that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(remaining) => Some(remaining),
            _ => None,
        }
    }

    /// Tells that `bytes` of a body of known length went another way.
    pub(crate) fn skip(&mut self, bytes: u64) {
        if let Framing::Length(remaining) = &mut self.framing {
            *remaining = remaining.saturating_sub(bytes);
            self.done = *remaining == 0;
        }
    }

    /// The next part that the buffer holds; `None` when more must be read, or at the end.
    pub(crate) fn buffered(&mut self, buf: &[u8]) -> Result<Option<Range<usize>>, BodyError> {
        let start = self.pos;
        if self.done || start == buf.len() {
            return Ok(None);
        }
        match &mut self.framing {
            Framing::Length(remaining) => {
                let length = usize::try_from(*remaining).unwrap_or(usize::MAX).min(buf.len() - start);
                *remaining -= length as u64;
                self.done = *remaining == 0;
                self.pos += length;
                Ok(Some(start..self.pos))
            }
            Framing::UntilClose => {
                self.pos = buf.len();
                Ok(Some(start..buf.len()))
            }
            Framing::Chunked(decoder) => match decoder.decode(&buf[start..]).map_err(BodyError::Chunk)? {
                Step::NeedMore { consumed } => {
                    self.pos += consumed;
                    Ok(None)
                }
                Step::Data { data, consumed } => {
                    self.pos += consumed;
                    Ok(Some(start + data.start..start + data.end))
                }
                Step::Done { consumed } => {
                    self.pos += consumed;
                    self.done = true;
                    Ok(None)
                }
            },
        }
    }

    /// The next part, read if need be; `None` at the end. What was returned before is gone from the buffer then.
    pub(crate) async fn next(&mut self, conn: &Conn, buf: &mut Buffer) -> Result<Option<Range<usize>>, BodyError> {
        loop {
            if let Some(part) = self.buffered(buf)? {
                return Ok(Some(part));
            }
            if self.done {
                return Ok(None);
            }
            self.fill(conn, buf).await?;
        }
    }

    /// Reads more, once [`BodyReader::buffered`] has nothing left and the body is not done.
    pub(crate) async fn fill(&mut self, conn: &Conn, buf: &mut Buffer) -> Result<(), BodyError> {
        self.make_room(buf);
        match conn.read_buf(buf).await {
            Ok(0) if matches!(self.framing, Framing::UntilClose) => {
                self.done = true;
                Ok(())
            }
            Ok(0) => Err(BodyError::Truncated),
            Ok(_) => Ok(()),
            Err(error) => Err(BodyError::Io(error)),
        }
    }

    /// Everything in the buffer is used: begins it anew, larger when the last read filled it.
    fn make_room(&mut self, buf: &mut Buffer) {
        let was_full = buf.len() == buf.capacity();
        if was_full && buf.capacity() < LARGE {
            *buf = Buffer::large();
        }
        buf.clear();
        self.pos = 0;
    }

    pub(crate) fn take_trailers(&mut self) -> Trailers {
        match &self.framing {
            Framing::Chunked(decoder) => {
                decoder.trailers().map(|(name, value)| (name.to_ascii_lowercase().into(), value.into())).collect()
            }
            _ => Trailers::new(),
        }
    }
}
