//! Bytes both ways between two connections: small pieces through memory, long streams by the kernel alone.

use std::cell::Cell;
use std::time::Duration;

use futures_util::FutureExt as _;
use headwater_net_io::splice::{SpliceError, SpliceSide, splice};
use rustix::net::{Shutdown, shutdown};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use crate::buffer::Buffer;
use crate::timer::{Interrupt, Timer};

/// How much the kernel carries alone before it is looked at whether the stream is still long. A piece that fits the buffer
/// costs two calls through memory, and four through a pipe, which also can tell only by a call of its own that there is no
/// more.
const BULK: u64 = 4 << 20;

/// How a connection that was carried came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides said that they are done.
    Closed,
    /// Neither said anything for too long.
    Idle,
    /// One side broke off; the other was told by the same.
    Reset,
    /// Nobody took it.
    Refused,
}

impl End {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Reset => "reset",
            Self::Refused => "refused",
        }
    }
}

/// Bytes of one direction, and who is told of them.
pub(super) struct Direction<'a, F: Fn(u64)> {
    pub(super) from: ReadHalf<'a>,
    pub(super) to: &'a TcpStream,
    pub(super) moved: &'a Cell<u64>,
    pub(super) count: F,
}

/// Carries until both directions ended, one side broke off, or both were silent for `idle`.
pub(super) async fn relay<F: Fn(u64), G: Fn(u64)>(
    up: Direction<'_, F>,
    down: Direction<'_, G>,
    timer: &Timer,
    idle: Duration,
) -> End {
    timer.set(idle);
    let ends = (down.to, up.to);
    let both = futures_util::future::try_join(one_way(up, timer, idle), one_way(down, timer, idle));
    match timer.run(both).await {
        Ok(Ok(_)) => End::Closed,
        Ok(Err(_)) => {
            // A stream that was cut must not look like one that ended.
            reset(ends.0);
            reset(ends.1);
            End::Reset
        }
        Err(Interrupt::Expired | Interrupt::Drain | Interrupt::Gone) => End::Idle,
    }
}

/// Until `from` ends; then `to` is told so, while the other direction goes on.
async fn one_way<F: Fn(u64)>(direction: Direction<'_, F>, timer: &Timer, idle: Duration) -> std::io::Result<()> {
    let Direction { mut from, to, moved, count } = direction;
    let progress = |n: u64| {
        moved.set(moved.get() + n);
        count(n);
        timer.set(idle);
    };
    let mut may_splice = true;
    loop {
        match through_memory(&mut from, to, may_splice, progress).await? {
            Piece::Last => break,
            Piece::Large => match splice(from.as_ref(), to, BULK, progress).await {
                Ok(BULK) => {}
                Ok(_) => break,
                Err(SpliceError { by: SpliceSide::Pipe, .. }) => may_splice = false,
                Err(SpliceError { cause, .. }) => return Err(cause),
            },
        }
    }
    // An end is news, too.
    timer.set(idle);
    match shutdown(to, Shutdown::Write) {
        // The other side is gone already: what it had to say is said.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Why copying through memory came to its end.
enum Piece {
    /// There is nothing after it.
    Last,
    /// It filled the buffer: there is more where it came from.
    Large,
}

/// Copies until `from` ends, or, where `until_large`, has a large piece at once, which is copied still.
async fn through_memory(
    from: &mut ReadHalf<'_>,
    to: &TcpStream,
    until_large: bool,
    progress: impl Fn(u64),
) -> std::io::Result<Piece> {
    loop {
        from.readable().await?;
        // While nothing comes, no buffer is held.
        let mut buf = Buffer::small();
        let room = buf.capacity();
        match from.read_buf(&mut *buf).now_or_never() {
            // There was nothing after all, or this task had its turn.
            None => tokio::task::yield_now().await,
            Some(Ok(0)) => return Ok(Piece::Last),
            Some(Ok(n)) => {
                write_all(to, &buf).await?;
                progress(n as u64);
                if until_large && n == room {
                    return Ok(Piece::Large);
                }
            }
            Some(Err(error)) => return Err(error),
        }
    }
}

pub(super) async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Closing it sends RST from now on.
pub(super) fn reset(tcp: &TcpStream) {
    // A socket that refuses this closes in the usual way.
    let _ = rustix::net::sockopt::set_socket_linger(tcp, Some(Duration::ZERO));
}
