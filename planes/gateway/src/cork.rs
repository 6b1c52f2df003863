//! Writes of one turn, sent together.
//!
//! The protocol layer of HTTP/2 flushes after each frame of data: many streams that answer in one turn of the worker
//! would each cost a system call. A cork takes what is written and flushed, and sends it when the turn is over.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::buffer::Buffer;

/// A stream under a cork, as the protocol layer owns it.
pub(crate) struct Corked<S>(Rc<Cork<S>>);

/// The cork, as the owner of the connection holds it.
pub(crate) struct Cork<S> {
    io: RefCell<S>,
    /// What waits to be sent; lent only while there is something.
    out: RefCell<Buffer>,
    /// How much of it was sent.
    sent: Cell<usize>,
    failed: Cell<Option<io::ErrorKind>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Cork<S> {
    pub(crate) fn new(io: S) -> (Rc<Self>, Corked<S>) {
        let cork = Rc::new(Self {
            io: RefCell::new(io),
            out: RefCell::new(Buffer::none()),
            sent: Cell::new(0),
            failed: Cell::new(None),
        });
        (cork.clone(), Corked(cork))
    }

    /// Polls `future`; whenever it has to wait, what it wrote is sent.
    pub(crate) async fn with<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            if polled.is_pending() && !self.out.borrow().is_empty() {
                // A peer that does not read is waited for by whoever writes next; one that has left, too.
                let _ = self.poll_drain(cx);
            }
            polled
        })
        .await
    }

    /// Sends what is left.
    pub(crate) async fn drain(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_drain(cx)).await
    }

    fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(kind) = self.failed.get() {
            return Poll::Ready(Err(kind.into()));
        }
        let (mut io, mut out) = (self.io.borrow_mut(), self.out.borrow_mut());
        while self.sent.get() < out.len() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &out[self.sent.get()..])) {
                Ok(n) if n > 0 => self.sent.set(self.sent.get() + n),
                result => {
                    let kind = result.map_or_else(|error| error.kind(), |_| io::ErrorKind::WriteZero);
                    self.failed.set(Some(kind));
                    return Poll::Ready(Err(kind.into()));
                }
            }
        }
        *out = Buffer::none();
        self.sent.set(0);
        Pin::new(&mut *io).poll_flush(cx)
    }

    /// Takes as much as there is room for; at least something.
    fn poll_take<'a>(&self, cx: &mut Context<'_>, slices: impl Iterator<Item = &'a [u8]>) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.failed.get() {
            return Poll::Ready(Err(kind.into()));
        }
        let is_full = |out: &Buffer| out.capacity() > 0 && out.len() == out.capacity();
        if is_full(&self.out.borrow()) {
            ready!(self.poll_drain(cx))?;
        }
        let mut out = self.out.borrow_mut();
        if out.capacity() == 0 {
            *out = Buffer::large();
        }
        let mut taken = 0;
        for slice in slices {
            let room = out.capacity() - out.len();
            let part = &slice[..slice.len().min(room)];
            out.extend_from_slice(part);
            taken += part.len();
            if part.len() < slice.len() {
                break;
            }
        }
        Poll::Ready(Ok(taken))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.io.borrow_mut()).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_take(cx, std::iter::once(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_take(cx, slices.iter().map(|slice| &**slice))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Done when the turn is over.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.failed.get().map_or(Ok(()), |kind| Err(kind.into())))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_drain(cx))?;
        Pin::new(&mut *self.0.io.borrow_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_written_in_one_turn_arrives_when_the_turn_is_over() {
        let (here, mut there) = tokio::io::duplex(1 << 20);
        let (cork, mut corked) = Cork::new(here);
        corked.write_all(b"one ").await.unwrap();
        corked.flush().await.unwrap();
        corked.write_all(b"two").await.unwrap();
        let mut buf = [0; 16];
        assert!(futures_util::poll!(Box::pin(there.read(&mut buf))).is_pending(), "nothing is sent before");
        assert!(futures_util::poll!(Box::pin(cork.with(std::future::pending::<()>()))).is_pending());
        let n = there.read(&mut buf).await.unwrap();
        assert_eq!(&buf[..n], b"one two");
    }

    #[tokio::test]
    async fn more_than_a_cork_holds_passes_through_a_slow_reader_whole() {
        let (here, mut there) = tokio::io::duplex(1000);
        let (_cork, mut corked) = Cork::new(here);
        let sent: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let write = async move {
            corked.write_all(&sent).await.unwrap();
            corked.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (_, read) = tokio::join!(write, there.read_to_end(&mut received));
        read.unwrap();
        assert!(received == expected);
    }

    #[tokio::test]
    async fn a_peer_that_left_is_told_to_whoever_writes_next() {
        let (here, there) = tokio::io::duplex(16);
        let (cork, mut corked) = Cork::new(here);
        drop(there);
        corked.write_all(b"lost").await.unwrap();
        assert!(cork.drain().await.is_err());
        assert!(corked.write_all(b"more").await.is_err());
    }
}
