//! One TCP connection: bytes in, bytes out, and its end.

use std::time::Duration;

use headwater_bgp::ConnectionId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

/// Messages that wait to be written. The engine's window bounds UPDATEs; KEEPALIVEs to a peer that does not read come
/// once a second at most, for eight minutes.
const OUTGOING: usize = 1024;
/// Taken from the kernel at once.
const CHUNK: usize = 16 << 10;
/// How long the last words may take, and how long the peer is listened to after them, so that they are not lost by a
/// reset that answers its bytes.
const LAST_WORDS: Duration = Duration::from_secs(2);
const LINGER: Duration = Duration::from_millis(500);

/// What a connection tells its peer's task.
#[derive(Debug)]
pub(super) enum Io {
    Received(ConnectionId, Vec<u8>),
    Sent(ConnectionId, usize),
    Closed(ConnectionId, String),
}

/// The task's end of a connection.
pub(super) struct Connection {
    outgoing: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Connection {
    pub(super) fn start(id: ConnectionId, stream: TcpStream, io: mpsc::Sender<Io>) -> Self {
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let task = tokio::spawn(serve(id, stream, queue, io));
        Self { outgoing, task }
    }

    /// False: the queue is full. What a connection gets that has ended is lost; it says itself why it did.
    pub(super) fn send(&self, bytes: Vec<u8>) -> bool {
        !matches!(self.outgoing.try_send(bytes), Err(mpsc::error::TrySendError::Full(_)))
    }

    /// Ends it after its last words; `closing` waits for that.
    pub(super) fn close(self, closing: &mut JoinSet<()>) {
        let Self { outgoing, mut task } = self;
        drop(outgoing);
        closing.spawn(async move {
            if tokio::time::timeout(LAST_WORDS, &mut task).await.is_err() {
                task.abort();
            }
        });
    }
}

async fn serve(id: ConnectionId, stream: TcpStream, mut queue: mpsc::Receiver<Vec<u8>>, io: mpsc::Sender<Io>) {
    let (mut reader, mut writer) = stream.into_split();
    let cause = tokio::select! {
        cause = read(id, &mut reader, &io) => cause,
        result = write(id, &mut writer, &mut queue, &io) => match result {
            // The session closes it.
            Ok(()) => return linger(&mut reader, &mut writer).await,
            Err(error) => error.to_string(),
        },
    };
    // A session that has gone needs no telling.
    let _ = io.send(Io::Closed(id, cause)).await;
}

async fn read(id: ConnectionId, reader: &mut OwnedReadHalf, io: &mpsc::Sender<Io>) -> String {
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return "the peer closed it".to_owned(),
            Ok(count) => {
                // Waits while the session has enough to do; then the kernel's buffer fills, and the peer waits.
                if io.send(Io::Received(id, buffer[..count].to_vec())).await.is_err() {
                    return "the session has ended".to_owned();
                }
            }
            Err(error) => return error.to_string(),
        }
    }
}

async fn write(
    id: ConnectionId,
    writer: &mut OwnedWriteHalf,
    queue: &mut mpsc::Receiver<Vec<u8>>,
    io: &mpsc::Sender<Io>,
) -> std::io::Result<()> {
    while let Some(bytes) = queue.recv().await {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let count = writer.write(rest).await?;
            rest = &rest[count..];
            // A session that has gone needs no telling.
            let _ = io.send(Io::Sent(id, count)).await;
        }
    }
    Ok(())
}

async fn linger(reader: &mut OwnedReadHalf, writer: &mut OwnedWriteHalf) {
    let rest = async {
        writer.shutdown().await?;
        let mut buffer = vec![0; CHUNK];
        while reader.read(&mut buffer).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // Whether the peer listened to the end changes nothing.
    let _ = tokio::time::timeout(LINGER, rest).await;
}
