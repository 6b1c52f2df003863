//! Two connections that have left HTTP: bytes both ways until both ends are done.

use std::cell::Cell;
use std::time::Duration;

use crate::buffer::Buffer;
use crate::io::Conn;
use crate::message::Tunnel;
use crate::timer::Timer;

/// Longest silence of a tunnel, in both directions at once. WebSockets are quiet for long; most send a ping within
/// the minute, few wait for an hour.
const IDLE: Duration = Duration::from_secs(3600);

/// Copies until both directions ended, one failed, or both were silent too long. Returns bytes towards the client.
///
/// `greeting` goes to the client first: the head of the 101 response, and what the endpoint sent right behind it.
pub(crate) async fn run(down: &Tunnel<'_>, up: &Conn, timer: &Timer, greeting: &[u8]) -> u64 {
    let sent = Cell::new(0);
    timer.set(IDLE);
    let towards_client = async {
        down.conn.write_all(greeting).await?;
        copy(up, down.conn, timer, &sent).await
    };
    let towards_endpoint = async {
        up.write_all(down.early).await?;
        copy(down.conn, up, timer, &Cell::new(0)).await
    };
    let both = futures_util::future::try_join(towards_client, towards_endpoint);
    let _: Result<std::io::Result<_>, _> = timer.run(both).await;
    sent.get()
}

async fn copy(from: &Conn, to: &Conn, timer: &Timer, count: &Cell<u64>) -> std::io::Result<()> {
    loop {
        let (n, buf) = from.read_when_ready().await?;
        timer.set(IDLE);
        if n == 0 {
            drop(buf);
            return to.shutdown().await;
        }
        to.write_all(&buf).await?;
        count.set(count.get() + n as u64);
        drop::<Buffer>(buf);
    }
}
