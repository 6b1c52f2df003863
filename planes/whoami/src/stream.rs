//! Byte streams whose first bytes have been looked at.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A connection that can be cut off with a TCP reset.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the coming close a reset instead of an orderly end.
    fn abort_on_close(&self);
}

impl Transport for TcpStream {
    fn abort_on_close(&self) {
        if let Err(error) = self.set_zero_linger() {
            tracing::debug!(%error, "reset not possible");
        }
    }
}

impl<T: Transport> Transport for TlsStream<T> {
    fn abort_on_close(&self) {
        self.get_ref().0.abort_on_close();
    }
}

impl<T: Transport> Transport for Peeked<T> {
    fn abort_on_close(&self) {
        self.io.abort_on_close();
    }
}

/// A stream with the bytes that were read ahead of it.
pub(crate) struct Peeked<T> {
    pub(crate) io: T,
    pub(crate) ahead: BytesMut,
}

impl<T: AsyncRead + Unpin> Peeked<T> {
    pub(crate) fn new(io: T) -> Self {
        Self { io, ahead: BytesMut::new() }
    }

    /// Reads once more; 0 means that the other side has finished sending.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        self.ahead.reserve(4096);
        self.io.read_buf(&mut self.ahead).await
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Peeked<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..n]);
        self.ahead.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Peeked<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
