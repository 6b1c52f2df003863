//! HTTP/1, downstream and upstream, on our own codec: heads become positions in a read buffer, bodies pass through.

pub(crate) mod body;
pub(crate) mod down;
pub(crate) mod up;

use headwater_http1::{RequestHead, ResponseHead};

use crate::message::HeaderLines;

/// End-to-end lines of a request.
pub(crate) struct RequestLines<'a> {
    pub(crate) buf: &'a [u8],
    pub(crate) head: &'a RequestHead,
}

impl HeaderLines for RequestLines<'_> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        use headwater_http1::HeaderId::{ContentLength, Host};
        for header in self.head.headers() {
            if !header.is_hop_by_hop() && !matches!(header.id, Host | ContentLength) {
                visit(header.name.of(self.buf), header.value.of(self.buf));
            }
        }
    }
}

/// End-to-end lines of a response.
pub(crate) struct ResponseLines<'a> {
    pub(crate) buf: &'a [u8],
    pub(crate) head: &'a ResponseHead,
}

impl HeaderLines for ResponseLines<'_> {
    fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        use headwater_http1::HeaderId::ContentLength;
        for header in self.head.headers() {
            if !header.is_hop_by_hop() && header.id != ContentLength {
                visit(header.name.of(self.buf), header.value.of(self.buf));
            }
        }
    }
}
