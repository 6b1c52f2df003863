//! UDP: an origin that sends every datagram back, and the load of flows with one datagram each under way.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::load::Outcome;

/// Bytes of a datagram.
const LENGTH: usize = 100;

/// A datagram that is not answered for so long is lost, and counts as an error.
const LOST: Duration = Duration::from_millis(200);

/// Serves for ever.
///
/// # Errors
/// When `listen` cannot be bound.
pub(crate) fn echo(listen: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("datagram origin {listen}"))?;
    let mut buffer = [0; 2048];
    loop {
        // An ICMP error about a client that has gone is told at the next call; it concerns nobody else.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _client_has_gone = socket.send_to(&buffer[..length], from);
        }
    }
}

struct Flow {
    socket: UdpSocket,
    sent: Instant,
}

/// Runs the load and prints its [`Outcome`] as JSON. A request is a datagram with its answer.
///
/// # Errors
/// When sockets cannot be made.
pub(crate) fn run(target: SocketAddr, seconds: u32, count: usize) -> Result<()> {
    let started = Instant::now();
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut flows = Vec::with_capacity(count);
    for number in 0..count {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(target)?;
        socket.set_nonblocking(true)?;
        epoll::add(&poll, &socket, EventData::new_u64(number as u64), EventFlags::IN)?;
        socket.send(&[0; LENGTH])?;
        flows.push(Flow { socket, sent: Instant::now() });
    }
    let deadline = started + Duration::from_secs(seconds.into());
    let (mut latencies, mut errors) = (Vec::new(), 0);
    let (mut events, mut buffer) = (Vec::with_capacity(256), [0; 2048]);
    let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    let mut checked = started;
    while Instant::now() < deadline {
        match epoll::wait(&poll, spare_capacity(&mut events), Some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let flow = &mut flows[usize::try_from(event.data.u64())?];
            match flow.socket.recv(&mut buffer) {
                Ok(LENGTH) => latencies.push(flow.sent.elapsed().as_secs_f64() * 1e3),
                Ok(_) => errors += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(_) => errors += 1,
            }
            flow.sent = Instant::now();
            let _counted_when_it_stays_unanswered = flow.socket.send(&[0; LENGTH]);
        }
        if checked.elapsed() > LOST {
            checked = Instant::now();
            for flow in flows.iter_mut().filter(|flow| flow.sent.elapsed() > LOST) {
                errors += 1;
                flow.sent = Instant::now();
                let _counted_again = flow.socket.send(&[0; LENGTH]);
            }
        }
    }
    let outcome = Outcome::of(latencies, errors, started.elapsed());
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_sends_back_what_it_gets() -> Result<()> {
        let free = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        std::thread::spawn(move || echo(free));
        let client = UdpSocket::bind("127.0.0.1:0")?;
        client.connect(free)?;
        client.set_read_timeout(Some(Duration::from_millis(50)))?;
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut answer = [0; 16];
        while Instant::now() < deadline {
            // Until the origin is there.
            if client.send(b"hello").is_ok() && client.recv(&mut answer).is_ok() {
                assert_eq!(&answer[..5], b"hello");
                return Ok(());
            }
        }
        anyhow::bail!("no answer")
    }
}
