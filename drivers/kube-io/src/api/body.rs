//! The bodies of an API server's answers, within limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::timeout;

use super::failure::{Cause, Failure};

/// Longest line of a stream, which is one object. An object of 1.5 MiB in etcd is the largest there is; in JSON it may
/// be several times that.
const MAX_LINE: usize = 16 << 20;

/// A buffer that grew beyond this is given back once it is empty.
const KEPT_BUFFER: usize = 64 << 10;

/// The lines of a stream.
pub(crate) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer has no end of line.
    looked_at: usize,
}

impl Lines {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), looked_at: 0 }
    }

    /// Waits for more. False at the end of the stream; a line without an end is lost then. Cancel safe.
    pub(crate) async fn fill(&mut self) -> Result<bool, Failure> {
        match self.body.frame().await {
            None => Ok(false),
            Some(Err(error)) => Err(Failure::unreachable(&error)),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.buffer.extend_from_slice(data);
                }
                if self.looked_at > MAX_LINE {
                    return Err(Failure::new(Cause::Garbled, "a line of the stream is longer than 16 MiB"));
                }
                Ok(true)
            }
        }
    }

    /// The next line that is there as a whole.
    pub(crate) fn next_line(&mut self) -> Option<Bytes> {
        let Some(end) = memchr::memchr(b'\n', &self.buffer[self.looked_at..]) else {
            self.looked_at = self.buffer.len();
            if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BUFFER {
                self.buffer = BytesMut::new();
            }
            return None;
        };
        let line = self.buffer.split_to(self.looked_at + end + 1);
        self.looked_at = 0;
        Some(line.freeze())
    }
}

/// A whole body; `None` where it is longer than the limit.
///
/// # Errors
/// It breaks off, or nothing comes for as long as `stall`.
pub(crate) async fn read_whole(mut body: Body, limit: usize, stall: Duration) -> Result<Option<Bytes>, Failure> {
    let mut whole = BytesMut::new();
    loop {
        match timeout(stall, body.frame()).await {
            Err(_) => return Err(Failure::new(Cause::Unreachable, format!("nothing came for {stall:?}"))),
            Ok(None) => return Ok(Some(whole.freeze())),
            Ok(Some(Err(error))) => return Err(Failure::unreachable(&error)),
            Ok(Some(Ok(frame))) => {
                let Some(data) = frame.data_ref() else { continue };
                if whole.len() + data.len() > limit {
                    return Ok(None);
                }
                whole.extend_from_slice(data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_whole_and_what_has_no_end_is_lost() {
        let mut lines = Lines::new(Body::from(b"one\ntwo\n\nthr".to_vec()));
        assert!(lines.fill().await.unwrap());
        let mut told = Vec::new();
        while let Some(line) = lines.next_line() {
            told.push(line);
        }
        assert_eq!(told, ["one\n", "two\n", "\n"]);
        assert!(!lines.fill().await.unwrap());
        assert_eq!(lines.next_line(), None);
    }

    #[tokio::test]
    async fn a_body_beyond_its_limit_is_not_read() {
        for (limit, fits) in [(4, true), (3, false)] {
            let read = read_whole(Body::from(b"1234".to_vec()), limit, Duration::from_secs(1)).await.unwrap();
            assert_eq!(read.is_some(), fits);
        }
    }
}
