//! What pods and clients do: connections that are counted, streams that are measured, and answers that tell the way.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use headwater_testkit::lab::Host;

use crate::stats::percentile;

/// Here a pod tells at which address of its own it was reached, and from where.
pub(super) const ANSWER: u16 = 8080;

/// Here a pod accepts connections and closes them.
pub(super) const ACCEPT: u16 = 8081;

/// Here a pod takes what it is sent, and tells at the end how much that was.
pub(super) const BULK: u16 = 8082;

/// Threads that open connections at the same time.
const OPENERS: usize = 2;

/// A SYN that is lost is repeated after a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// From here on a connection has waited for that, in microseconds.
const STALLED: f64 = 900_000.0;

/// Connections that wait to be accepted, as many as the system allows: of more the first packets are lost.
const BACKLOG: i32 = 4096;

/// Bytes of one write and of one read of a stream.
const PIECE: usize = 256 << 10;

/// The servers of a pod. They end when dropped.
#[derive(Debug)]
pub(super) struct Servers {
    listeners: Vec<Arc<TcpListener>>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    /// At all addresses of a host.
    pub(super) fn start(host: &Host) -> Result<Self> {
        let mut servers = Self { listeners: Vec::new(), threads: Vec::new() };
        for (port, threads, serve) in [(ANSWER, 1, answer as fn(TcpStream)), (ACCEPT, OPENERS, drop), (BULK, 1, count)]
        {
            let listener = Arc::new(host.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?);
            rustix::net::listen(&*listener, BACKLOG)?;
            for _ in 0..threads {
                let own = listener.clone();
                let body = move || accept(&own, serve);
                servers.threads.push(thread::Builder::new().name(format!("port-{port}")).spawn(body)?);
            }
            servers.listeners.push(listener);
        }
        Ok(servers)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for listener in &self.listeners {
            // It listens, so that it can be shut down.
            let _ = rustix::net::shutdown(&**listener, rustix::net::Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            // What panicked there has printed so.
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, serve: fn(TcpStream)) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => serve(stream),
            // It was shut down.
            Err(error) if error.kind() == ErrorKind::InvalidInput => return,
            Err(_) => {}
        }
    }
}

fn answer(mut stream: TcpStream) {
    let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return };
    let (IpAddr::V4(local), IpAddr::V4(peer)) = (local.ip(), peer.ip()) else { return };
    let mut text = [0; 8];
    text[..4].copy_from_slice(&local.octets());
    text[4..].copy_from_slice(&peer.octets());
    // The client may have gone.
    let _ = stream.write_all(&text);
}

fn count(mut stream: TcpStream) {
    let (mut piece, mut sum) = (vec![0; PIECE], 0_u64);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => sum += length as u64,
            Err(_) => return,
        }
    }
    let _ = stream.write_all(&sum.to_be_bytes());
}

/// What a pod has said of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// The pod's address.
    pub(super) target: Ipv4Addr,
    /// Whom it sees as its client.
    pub(super) source: Ipv4Addr,
}

/// Asks who answers, from the network namespace of this thread. `target` leads to [`ANSWER`].
pub(super) fn ask(target: SocketAddr, patience: Duration) -> io::Result<Seen> {
    let mut stream = TcpStream::connect_timeout(&target, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = [0; 8];
    stream.read_exact(&mut text)?;
    reset(&stream)?;
    let address = |at: usize| Ipv4Addr::new(text[at], text[at + 1], text[at + 2], text[at + 3]);
    Ok(Seen { target: address(0), source: address(4) })
}

/// Closes with RST: neither end keeps anything, and the port is free again.
fn reset(stream: &TcpStream) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?)
}

/// Connections that were opened one after the other by each of two threads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connects {
    pub(super) per_second: f64,
    /// Of the times that connect() took, in microseconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
    /// How many took so long that a packet must have been lost and sent again.
    pub(super) stalled: usize,
    /// Nobody answered, although packets were sent again and again.
    pub(super) failed: usize,
}

/// What one thread has seen.
#[derive(Debug)]
struct Opened {
    times: Vec<f64>,
    failed: usize,
    /// Without the waits for those that failed, which would say nothing of the others.
    busy: Duration,
}

/// Opens connections for so long, and closes each at once. `target` leads to [`ACCEPT`].
pub(super) fn connects(from: &Host, target: SocketAddr, length: Duration) -> Result<Connects> {
    let opened = from.run(|| {
        thread::scope(|scope| {
            let openers: Vec<_> = (0..OPENERS).map(|_| scope.spawn(|| open_for(target, length))).collect();
            let end = |opener: thread::ScopedJoinHandle<'_, Result<Opened>>| {
                opener.join().map_err(|_| anyhow!("an opener of connections panicked"))?
            };
            openers.into_iter().map(end).collect::<Result<Vec<Opened>>>()
        })
    });
    let opened = opened.with_context(|| format!("{} to {target}", from.name()))?;
    let per_second = opened.iter().map(|one| one.times.len() as f64 / one.busy.as_secs_f64()).sum();
    let failed = opened.iter().map(|one| one.failed).sum();
    let mut times: Vec<f64> = opened.into_iter().flat_map(|one| one.times).collect();
    times.sort_by(f64::total_cmp);
    let share = |share| percentile(&times, share).unwrap_or_default();
    let stalled = times.len() - times.partition_point(|time| *time < STALLED);
    Ok(Connects { per_second, p50: share(0.5), p99: share(0.99), stalled, failed })
}

fn open_for(target: SocketAddr, length: Duration) -> Result<Opened> {
    let (started, mut opened) = (Instant::now(), Opened { times: Vec::new(), failed: 0, busy: Duration::ZERO });
    let mut lost = Duration::ZERO;
    while started.elapsed() < length {
        let begun = Instant::now();
        match connect(target) {
            Ok(time) => opened.times.push(time),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                opened.failed += 1;
                lost += begun.elapsed();
            }
            Err(error) => return Err(error.into()),
        }
    }
    opened.busy = started.elapsed().saturating_sub(lost).max(Duration::from_micros(1));
    Ok(opened)
}

/// Times of so many connects in a row, in microseconds.
pub(super) fn connect_times(from: &Host, target: SocketAddr, count: usize) -> Result<Vec<f64>> {
    from.run(|| (0..count).map(|_| connect(target)).collect::<io::Result<_>>())
        .with_context(|| format!("{} to {target}", from.name()))
}

/// Microseconds of one connect(): three packets, of which the first decides.
fn connect(target: SocketAddr) -> io::Result<f64> {
    let started = Instant::now();
    let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    let took = started.elapsed();
    reset(&stream)?;
    Ok(took.as_secs_f64() * 1e6)
}

/// Sends one stream for so long. Bytes a second, as received. `target` leads to [`BULK`].
pub(super) fn bulk(from: &Host, target: SocketAddr, length: Duration) -> Result<f64> {
    let send = || -> Result<f64> {
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (piece, started, mut sent) = (vec![0x5a; PIECE], Instant::now(), 0_u64);
        while started.elapsed() < length {
            stream.write_all(&piece)?;
            sent += piece.len() as u64;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut told = [0; 8];
        stream.read_exact(&mut told)?;
        let (took, received) = (started.elapsed().as_secs_f64(), u64::from_be_bytes(told));
        ensure!(received == sent, "{sent} bytes were sent and {received} received");
        Ok(received as f64 / took)
    };
    from.run(send).with_context(|| format!("stream from {} to {target}", from.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_testkit::lab;

    #[test]
    fn servers_tell_the_way_count_every_byte_and_end_when_dropped() -> Result<()> {
        lab::test(|lab| {
            let (client, pod) = (lab.host("client")?, lab.host("pod")?);
            client.wire("eth0", &pod, "eth0")?;
            client.address("eth0", "10.0.0.2/24")?;
            pod.address("eth0", "10.0.0.1/24")?;
            let at = |port: u16| SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), port));
            let servers = Servers::start(&pod)?;
            let seen = client.run(|| ask(at(ANSWER), PATIENCE))?;
            ensure!(seen == Seen { target: "10.0.0.1".parse()?, source: "10.0.0.2".parse()? }, "{seen:?}");
            let some = connects(&client, at(ACCEPT), Duration::from_millis(50))?;
            ensure!(some.per_second > 0.0 && some.p50 <= some.p99 && some.failed == 0, "{some:?}");
            ensure!(connect_times(&client, at(ACCEPT), 10)?.len() == 10);
            ensure!(bulk(&client, at(BULK), Duration::from_millis(50))? > 0.0);
            drop(servers);
            let after = client.run(|| ask(at(ANSWER), PATIENCE)).map_err(|error| error.kind());
            ensure!(after == Err(ErrorKind::ConnectionRefused), "{after:?}");
            Ok(())
        })
    }
}
