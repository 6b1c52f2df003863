//! Access log lines on their way to stdout or a file, without ever making a worker wait.
//!
//! ```text
//! worker: LineBuffer --full, or tick--> bounded channel --> writer thread --> stdout
//!              ^------------- empty buffers ----------------------'
//! ```
//!
//! When the writer falls behind, whole batches are dropped and counted.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A buffer longer than this is handed over.
const FLUSH_SIZE: usize = 32 << 10;
/// Batches that may wait for the writer: about 8 MiB of lines. When full, the next batch is dropped and counted.
const WAITING_BATCHES: usize = 256;
/// Empty buffers kept for reuse.
const SPARE_BUFFERS: usize = 64;
/// A buffer that a very long line has grown past this is not kept.
const MAX_SPARE_SIZE: usize = 4 * FLUSH_SIZE;

/// Where access logs cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessLogError {
    #[error("access log {path:?} cannot be opened for appending (check the folder and its permissions)")]
    Open { path: PathBuf, source: io::Error },
    #[error("no thread for the access log")]
    Thread { source: io::Error },
}

struct Batch {
    bytes: Vec<u8>,
    lines: u64,
}

struct Shared {
    spare: Mutex<Vec<Vec<u8>>>,
    dropped: AtomicU64,
}

impl Shared {
    fn take(&self) -> Vec<u8> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Vec::with_capacity(FLUSH_SIZE + FLUSH_SIZE / 4))
    }

    fn give_back(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        if bytes.capacity() <= MAX_SPARE_SIZE {
            let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
            if spare.len() < SPARE_BUFFERS {
                spare.push(bytes);
            }
        }
    }
}

/// The one writer of access logs.
pub struct AccessLogSink {
    /// Present until closed.
    sender: Option<SyncSender<Batch>>,
    shared: Arc<Shared>,
    /// Disconnected once the writer has written everything.
    finished: Receiver<()>,
}

impl AccessLogSink {
    /// Writes to stdout.
    ///
    /// # Errors
    /// [`AccessLogError::Thread`].
    pub fn stdout() -> Result<Self, AccessLogError> {
        Self::new(io::stdout())
    }

    /// Appends to a file, which is made if it is missing.
    ///
    /// # Errors
    /// [`AccessLogError`].
    pub fn file(path: &Path) -> Result<Self, AccessLogError> {
        let open = OpenOptions::new().create(true).append(true).open(path);
        Self::new(open.map_err(|source| AccessLogError::Open { path: path.to_owned(), source })?)
    }

    /// Writes to `out`, on a thread of its own. Lines that it refuses are counted as dropped; later ones are tried again.
    ///
    /// # Errors
    /// [`AccessLogError::Thread`].
    pub fn new(out: impl Write + Send + 'static) -> Result<Self, AccessLogError> {
        let (sender, batches) = sync_channel(WAITING_BATCHES);
        let shared = Arc::new(Shared { spare: Mutex::new(Vec::new()), dropped: AtomicU64::new(0) });
        let for_writer = shared.clone();
        let (writing, finished) = sync_channel::<()>(0);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || {
                write(out, &batches, &for_writer);
                drop(writing);
            })
            .map_err(|source| AccessLogError::Thread { source })?;
        Ok(Self { sender: Some(sender), shared, finished })
    }

    /// A buffer for one worker.
    pub fn buffer(&self) -> LineBuffer {
        let sender = self.sender.clone().expect("present until closed");
        LineBuffer { bytes: self.shared.take(), lines: 0, sender, shared: self.shared.clone() }
    }

    /// Lines lost so far: the writer was too slow, or the output refused them.
    pub fn dropped_lines(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// The same count, for a metric that outlives this.
    pub fn dropped_lines_counter(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let shared = self.shared.clone();
        move || shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything handed over is written, or `patience` is over, and says whether it is. Blocks.
    ///
    /// The end comes when the last [`LineBuffer`] is dropped; a stalled output keeps its thread until the process ends.
    pub fn close(mut self, patience: Duration) -> bool {
        self.sender = None;
        // Nothing is ever sent: the writer ends by dropping its side.
        self.finished.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected)
    }
}

fn write(mut out: impl Write, batches: &Receiver<Batch>, shared: &Shared) {
    let mut refused = false;
    for batch in batches {
        match out.write_all(&batch.bytes).and_then(|()| out.flush()) {
            Ok(()) => refused = false,
            Err(error) => {
                shared.dropped.fetch_add(batch.lines, Ordering::Relaxed);
                // Once, not for every batch.
                if !refused {
                    refused = true;
                    tracing::warn!(%error, "access log is not written, lines are lost");
                }
            }
        }
        shared.give_back(batch.bytes);
    }
}

/// Lines of one worker, not yet handed over. Dropping it hands over the rest.
pub struct LineBuffer {
    bytes: Vec<u8>,
    lines: u64,
    sender: SyncSender<Batch>,
    shared: Arc<Shared>,
}

impl LineBuffer {
    /// Appends one line: `render` writes it without its end, which is added here.
    pub fn line(&mut self, render: impl FnOnce(&mut Vec<u8>)) {
        render(&mut self.bytes);
        self.bytes.push(b'\n');
        self.lines += 1;
        if self.bytes.len() > FLUSH_SIZE {
            self.flush();
        }
    }

    /// Hands over what there is, without waiting: for the worker's tick.
    pub fn flush(&mut self) {
        if self.lines == 0 {
            return;
        }
        let bytes = std::mem::replace(&mut self.bytes, self.shared.take());
        self.send(bytes);
    }

    fn send(&mut self, bytes: Vec<u8>) {
        let batch = Batch { bytes, lines: std::mem::take(&mut self.lines) };
        if let Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) = self.sender.try_send(batch) {
            self.shared.dropped.fetch_add(batch.lines, Ordering::Relaxed);
            self.shared.give_back(batch.bytes);
        }
    }
}

impl Drop for LineBuffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        match self.lines {
            0 => self.shared.give_back(bytes),
            _ => self.send(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Passes on what is written; blocks while nobody takes it.
    struct Held(SyncSender<Vec<u8>>);

    impl Write for Held {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_every_worker_arrive_whole_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        std::fs::write(&path, "before\n").unwrap();
        let sink = AccessLogSink::file(&path).unwrap();
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let mut lines = sink.buffer();
                std::thread::spawn(move || {
                    for n in 0..5000 {
                        lines.line(|out| write!(out, "{worker} {n}").unwrap());
                        if n % 777 == 0 {
                            lines.flush();
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(sink.dropped_lines(), 0);
        assert!(sink.close(PATIENCE));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().next(), Some("before"), "appended");
        for worker in 0..4 {
            let prefix = format!("{worker} ");
            let numbers: Vec<usize> =
                text.lines().filter_map(|line| line.strip_prefix(&prefix)?.parse().ok()).collect();
            assert!(numbers == (0..5000).collect::<Vec<_>>(), "worker {worker}");
        }
    }

    #[test]
    fn a_writer_that_stalls_costs_lines_and_no_time() {
        let (sender, written) = mpsc::sync_channel(0);
        let sink = AccessLogSink::new(Held(sender)).unwrap();
        let dropped = sink.dropped_lines_counter();
        let mut lines = sink.buffer();
        let sent = WAITING_BATCHES as u64 + 100;
        for n in 0..sent {
            lines.line(|out| write!(out, "{n}").unwrap());
            lines.flush();
        }
        // One batch more may be in the writer's hands.
        assert!((99..=100).contains(&dropped()), "{}", dropped());
        drop(lines);
        let reader = std::thread::spawn(move || written.iter().count() as u64);
        assert!(sink.close(PATIENCE));
        assert_eq!(reader.join().unwrap() + dropped(), sent, "every line is written or counted");
    }

    #[test]
    fn a_closed_output_costs_lines_and_nothing_else() {
        let (sender, written) = mpsc::sync_channel(0);
        drop(written);
        let sink = AccessLogSink::new(Held(sender)).unwrap();
        let dropped = sink.dropped_lines_counter();
        let mut lines = sink.buffer();
        for _ in 0..10 {
            lines.line(|out| out.extend_from_slice(b"lost"));
            lines.flush();
        }
        drop(lines);
        assert!(sink.close(PATIENCE));
        assert_eq!(dropped(), 10);
    }

    #[test]
    fn a_full_buffer_is_handed_over_and_buffers_are_reused() {
        let (sender, written) = mpsc::sync_channel(64);
        let sink = AccessLogSink::new(Held(sender)).unwrap();
        let mut lines = sink.buffer();
        lines.line(|out| out.resize(FLUSH_SIZE - 1, b'x'));
        assert!(written.try_recv().is_err(), "{FLUSH_SIZE} bytes are not too many");
        lines.line(|out| out.push(b'y'));
        assert_eq!(written.recv().unwrap().len(), FLUSH_SIZE + 2);
        lines.line(|out| out.resize(out.len() + 10 * MAX_SPARE_SIZE, b'z'));
        drop(lines);
        let shared = sink.shared.clone();
        assert!(sink.close(PATIENCE));
        let spare = shared.spare.lock().unwrap();
        assert!(!spare.is_empty() && spare.iter().all(|b| b.is_empty() && b.capacity() <= MAX_SPARE_SIZE));
    }

    #[test]
    fn a_stalled_output_does_not_keep_the_process() {
        let (sender, written) = mpsc::sync_channel(0);
        let sink = AccessLogSink::new(Held(sender)).unwrap();
        let mut lines = sink.buffer();
        lines.line(|out| out.extend_from_slice(b"stuck"));
        drop(lines);
        assert!(!sink.close(Duration::from_millis(20)));
        assert_eq!(written.recv().unwrap(), b"stuck\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = AccessLogSink::file(Path::new("/nonexistent/access.log")).err().unwrap();
        assert!(error.to_string().starts_with("access log \"/nonexistent/access.log\""), "{error}");
    }
}
