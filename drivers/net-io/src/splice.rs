//! Bytes moved from one TCP connection to another inside the kernel.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes a pipe is asked to hold.
const PIPE_SIZE: usize = 256 << 10;
/// Pipes a thread keeps for the next one to ask: 4 MiB at most, and only while they hold bytes.
const MAX_IDLE_PIPES: usize = 16;
/// A stream that never has to wait lets others run after so many bytes.
const TURN: u64 = 1 << 20;

/// What ended a transfer early.
#[derive(Debug, thiserror::Error)]
#[error("{by} after {moved} bytes")]
pub struct SpliceError {
    pub by: SpliceSide,
    /// Bytes that reached `to` before.
    pub moved: u64,
    #[source]
    pub cause: io::Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpliceSide {
    /// Reading failed.
    From,
    /// Writing failed; bytes read already are lost with the connection.
    To,
    /// No pipe, for want of descriptors or memory. Nothing is lost: copy the rest instead.
    Pipe,
}

impl std::fmt::Display for SpliceSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::From => "the sender failed",
            Self::To => "the receiver failed",
            Self::Pipe => "no pipe is to be had",
        })
    }
}

/// Moves bytes until `limit` are moved or `from` ends, and returns how many arrived at `to`.
///
/// Fewer than `limit` means that `from` sent FIN. `on_progress` is told each number of bytes handed to `to`. Nothing is
/// buffered besides 256 KiB in a pipe, and nothing past `limit` is read. A dropped future loses what was inside the
/// pipe: `to` is not to be used for the same message then.
///
/// # Errors
/// [`SpliceError`] says which side failed.
pub async fn splice(
    from: &TcpStream,
    to: &TcpStream,
    limit: u64,
    mut on_progress: impl FnMut(u64),
) -> Result<u64, SpliceError> {
    let mut moved = 0;
    let fail = |by, moved| move |cause: io::Error| SpliceError { by, moved, cause };
    let mut pipe: Option<Lease> = None;
    let mut turn = 0;
    while moved < limit {
        // A pipe is held only while there is something to move, so that idle connections cost none.
        if pipe.is_none() {
            from.readable().await.map_err(fail(SpliceSide::From, moved))?;
            pipe = Some(take().map_err(fail(SpliceSide::Pipe, moved))?);
        }
        let lease = pipe.as_mut().expect("taken above");
        match lease.fill(from, limit - moved) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                pipe = None;
                turn = 0;
                continue;
            }
            Err(e) => return Err(fail(SpliceSide::From, moved)(e)),
        }
        while lease.held > 0 {
            match lease.empty(to) {
                Ok(n) => {
                    moved += n;
                    turn += n;
                    on_progress(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    turn = 0;
                    to.writable().await.map_err(fail(SpliceSide::To, moved))?;
                }
                Err(e) => return Err(fail(SpliceSide::To, moved)(e)),
            }
        }
        if turn >= TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
    Ok(moved)
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    size: usize,
}

impl Pipe {
    fn open() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused past /proc/sys/fs/pipe-user-pages-soft: then it stays as small as it was made.
        let size = match fcntl_setpipe_size(&write, PIPE_SIZE) {
            Ok(size) => size,
            Err(_) => fcntl_getpipe_size(&write)?,
        };
        Ok(Self { read, write, size })
    }
}

thread_local! {
    /// Empty pipes of this thread.
    static IDLE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

fn take() -> io::Result<Lease> {
    let pipe = match IDLE.with_borrow_mut(Vec::pop) {
        Some(pipe) => pipe,
        None => Pipe::open()?,
    };
    Ok(Lease { pipe: Some(pipe), held: 0 })
}

fn give_back(pipe: Pipe) {
    // The thread's pool may be gone already when its last connections are dropped.
    let _ = IDLE.try_with(|idle| {
        let mut idle = idle.borrow_mut();
        if idle.len() < MAX_IDLE_PIPES {
            idle.push(pipe);
        }
    });
}

/// A pipe on loan; it returns to the pool only when it is empty.
struct Lease {
    /// Present until dropped.
    pipe: Option<Pipe>,
    /// Bytes inside.
    held: usize,
}

impl Lease {
    fn pipe(&self) -> &Pipe {
        self.pipe.as_ref().expect("present until dropped")
    }

    /// Reads once into the empty pipe; 0 is the end of the stream. As the pipe is empty, `WouldBlock` is the socket's.
    fn fill(&mut self, from: &TcpStream, limit: u64) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "a pipe that holds bytes could block by itself");
        let pipe = self.pipe();
        let want = usize::try_from(limit).unwrap_or(usize::MAX).min(pipe.size);
        let n = from.try_io(Interest::READABLE, || {
            once(|| rustix::pipe::splice(from, None, &pipe.write, None, want, SpliceFlags::NONBLOCK))
        })?;
        self.held = n;
        Ok(n)
    }

    /// Writes once from the pipe.
    fn empty(&mut self, to: &TcpStream) -> io::Result<u64> {
        let pipe = self.pipe();
        let n = to.try_io(Interest::WRITABLE, || {
            once(|| rustix::pipe::splice(&pipe.read, None, to, None, self.held, SpliceFlags::NONBLOCK))
        })?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.held -= n;
        Ok(n as u64)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take()
            && self.held == 0
        {
            give_back(pipe);
        }
    }
}

/// Repeats a system call that a signal interrupted.
fn once(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests;
