//! One connection, downstream or upstream, usable from both directions of an exchange at once.
//!
//! Methods take `&self`: the two halves of an exchange are two futures of one task, never two threads.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use crate::buffer::Buffer;

/// A byte stream to a peer.
pub(crate) enum Conn {
    Plain(TcpStream),
    Server(RefCell<Box<server::TlsStream<Prefixed>>>),
    Client(RefCell<Box<client::TlsStream<TcpStream>>>),
}

impl Conn {
    /// The socket itself, when bytes on it are payload as they are.
    pub(crate) fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(tcp) => Some(tcp),
            _ => None,
        }
    }

    /// Whether an idle connection cannot be used again. `careful` asks the kernel rather than what was last heard of it.
    pub(crate) fn is_stale(&self, careful: bool, peek_closed: impl Fn(&TcpStream) -> bool) -> bool {
        match self {
            Self::Plain(tcp) if careful => peek_closed(tcp),
            // Without news of readiness this asks nobody. Bytes that nobody asked for are as bad as the end.
            Self::Plain(tcp) => {
                !matches!(tcp.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Server(tls) => peek_closed(&tls.borrow().get_ref().0.tcp),
            Self::Client(tls) => peek_closed(tls.borrow().get_ref().0),
        }
    }

    /// Reads what there is, at most the spare capacity of `buf`; 0 is the end of the stream.
    pub(crate) async fn read_buf(&self, buf: &mut Vec<u8>) -> io::Result<usize> {
        debug_assert!(buf.capacity() > buf.len(), "a read needs room");
        poll_fn(|cx| self.poll_read_buf(cx, buf)).await
    }

    fn poll_read_buf(&self, cx: &mut Context<'_>, buf: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => loop {
                ready!(tcp.poll_read_ready(cx))?;
                let room = buf.capacity() - buf.len();
                match tcp.try_read_buf(buf) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Ok(n) if n > 0 && n < room => {
                        // A short read took all there was. Said to the runtime, it spares a read that finds nothing:
                        // epoll tells of the next byte, and of the end, by an edge of its own.
                        let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                        let _ = tcp.try_io(Interest::READABLE, nothing);
                        return Poll::Ready(Ok(n));
                    }
                    result => return Poll::Ready(result),
                }
            },
            Self::Server(tls) => poll_read_vec(Pin::new(&mut **tls.borrow_mut()), cx, buf),
            Self::Client(tls) => poll_read_vec(Pin::new(&mut **tls.borrow_mut()), cx, buf),
        }
    }

    /// Waits for bytes (or the end) without holding a buffer, then reads them into one.
    ///
    /// This is what keeps an idle connection small.
    pub(crate) async fn read_when_ready(&self) -> io::Result<(usize, Buffer)> {
        poll_fn(|cx| {
            if let Self::Plain(tcp) = self {
                ready!(tcp.poll_read_ready(cx))?;
            }
            let mut buf = Buffer::small();
            let n = ready!(self.poll_read_buf(cx, &mut buf))?;
            Poll::Ready(Ok((n, buf)))
        })
        .await
    }

    /// Reads what there is while nothing is expected; takes a buffer only when there is something, or the end.
    pub(crate) fn poll_read_ahead(&self, cx: &mut Context<'_>, buf: &mut Buffer) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => ready!(tcp.poll_read_ready(cx))?,
            Self::Server(tls) => ready!(tls.borrow().get_ref().0.tcp.poll_read_ready(cx))?,
            Self::Client(tls) => ready!(tls.borrow().get_ref().0.poll_read_ready(cx))?,
        }
        *buf = Buffer::small();
        let polled = self.poll_read_buf(cx, buf);
        if polled.is_pending() {
            *buf = Buffer::none();
        }
        polled
    }

    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        if let Self::Plain(tcp) = self {
            while !bytes.is_empty() {
                match tcp.try_write(bytes) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(n) => bytes = &bytes[n..],
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => poll_fn(|cx| tcp.poll_write_ready(cx)).await?,
                    Err(e) => return Err(e),
                }
            }
            return Ok(());
        }
        while !bytes.is_empty() {
            let n = poll_fn(|cx| self.poll_write_tls(cx, bytes)).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[n..];
        }
        poll_fn(|cx| match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Server(tls) => Pin::new(&mut **tls.borrow_mut()).poll_flush(cx),
            Self::Client(tls) => Pin::new(&mut **tls.borrow_mut()).poll_flush(cx),
        })
        .await
    }

    fn poll_write_tls(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(_) => unreachable!("plain sockets are written directly"),
            Self::Server(tls) => Pin::new(&mut **tls.borrow_mut()).poll_write(cx, bytes),
            Self::Client(tls) => Pin::new(&mut **tls.borrow_mut()).poll_write(cx, bytes),
        }
    }

    /// Ends our direction: FIN, and `close_notify` before it under TLS.
    pub(crate) async fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => Ok(rustix::net::shutdown(tcp, rustix::net::Shutdown::Write)?),
            Self::Server(tls) => poll_fn(|cx| Pin::new(&mut **tls.borrow_mut()).poll_shutdown(cx)).await,
            Self::Client(tls) => poll_fn(|cx| Pin::new(&mut **tls.borrow_mut()).poll_shutdown(cx)).await,
        }
    }
}

fn poll_read_vec(stream: Pin<&mut impl AsyncRead>, cx: &mut Context<'_>, buf: &mut Vec<u8>) -> Poll<io::Result<usize>> {
    tokio_util::io::poll_read_buf(stream, cx, buf)
}

/// A socket whose first bytes were read already.
pub(crate) struct Prefixed {
    prefix: Buffer,
    pos: usize,
    tcp: TcpStream,
}

impl Prefixed {
    pub(crate) fn new(prefix: Buffer, tcp: TcpStream) -> Self {
        Self { prefix, pos: 0, tcp }
    }
}

/// Moves what is left of a prefix into `buf`; false when nothing was left.
fn take_prefix(prefix: &mut Buffer, pos: &mut usize, buf: &mut ReadBuf<'_>) -> bool {
    if *pos == prefix.len() {
        return false;
    }
    let n = buf.remaining().min(prefix.len() - *pos);
    buf.put_slice(&prefix[*pos..*pos + n]);
    *pos += n;
    if *pos == prefix.len() {
        *prefix = Buffer::none();
        *pos = 0;
    }
    true
}

impl AsyncRead for Prefixed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if take_prefix(&mut this.prefix, &mut this.pos, buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// A connection whose first bytes were read already, for libraries that want to own a stream.
pub(crate) struct Rewound {
    prefix: Buffer,
    pos: usize,
    conn: Conn,
}

impl Rewound {
    pub(crate) fn new(prefix: Buffer, conn: Conn) -> Self {
        Self { prefix, pos: 0, conn }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if take_prefix(&mut this.prefix, &mut this.pos, buf) {
            return Poll::Ready(Ok(()));
        }
        match &mut self.conn {
            Conn::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Conn::Server(tls) => Pin::new(&mut **tls.get_mut()).poll_read(cx, buf),
            Conn::Client(tls) => Pin::new(&mut **tls.get_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.conn {
            Conn::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Conn::Server(tls) => Pin::new(&mut **tls.get_mut()).poll_write(cx, bytes),
            Conn::Client(tls) => Pin::new(&mut **tls.get_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.conn {
            Conn::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Conn::Server(tls) => Pin::new(&mut **tls.get_mut()).poll_write_vectored(cx, slices),
            Conn::Client(tls) => Pin::new(&mut **tls.get_mut()).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.conn {
            Conn::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Conn::Server(tls) => Pin::new(&mut **tls.get_mut()).poll_flush(cx),
            Conn::Client(tls) => Pin::new(&mut **tls.get_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.conn {
            Conn::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Conn::Server(tls) => Pin::new(&mut **tls.get_mut()).poll_shutdown(cx),
            Conn::Client(tls) => Pin::new(&mut **tls.get_mut()).poll_shutdown(cx),
        }
    }
}
