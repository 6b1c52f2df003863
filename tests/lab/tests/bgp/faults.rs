//! Peers that are no routers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use headwater_bgp::State;
use headwater_testkit::lab;
use headwater_testkit::wait;

use crate::node::{Node, PATIENCE, PEER, peer, route, routes};
use crate::sessions::pair;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap();
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// OPEN of 64513 with IPv4 alone, then KEEPALIVE.
fn hello(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(&message(1, &[4, 0xfc, 1, 0, 90, 10, 0, 0, 1, 0]))?;
    stream.write_all(&message(4, &[]))
}

type Behaviour = fn(TcpStream);

/// What the peer does to each connection, and what is said of it at last.
const ROWS: &[(&str, Behaviour, &str)] = &[
    ("closes at once", |stream| drop(stream), "the peer closed it"),
    (
        "resets",
        |mut stream| {
            let _ = hello(&mut stream);
            // With bytes unread a close is a reset: those of an OPEN, which comes at once.
            let _ = stream.peek(&mut [0]);
        },
        "reset",
    ),
    (
        "sends garbage",
        |mut stream| {
            let _ = stream.write_all(&b"HTTP/1.1 400 Bad Request\r\n\r\n".repeat(1000));
            let _ = stream.read_to_end(&mut Vec::new());
        },
        "told the peer: connection not synchronized (1/1)",
    ),
    (
        "sends half a message",
        |mut stream| {
            let _ = stream.write_all(&message(1, &[0; 4000])[..3000]);
            drop(stream);
        },
        "the connection ended",
    ),
    (
        "is in another system",
        |mut stream| {
            let _ = stream.write_all(&message(1, &[4, 0xfc, 9, 0, 90, 10, 0, 0, 1, 0]));
            let _ = stream.read_to_end(&mut Vec::new());
        },
        "told the peer: bad peer AS (2/2)",
    ),
];

#[test]
fn each_misbehaviour_is_named_and_another_attempt_follows() -> Result<()> {
    for (name, behaviour, said) in ROWS {
        lab::test(|lab| {
            let (node, host) = pair(lab)?;
            let listener = host.run(|| TcpListener::bind("10.0.0.1:179"))?;
            let mut node = Node::start(&node, None);
            node.peer(PEER, peer("10.0.0.1"));
            for _ in 0..2 {
                let (stream, _) = listener.accept()?;
                behaviour(stream);
                let last = || node.status(PEER).session.last_down.unwrap_or_default();
                wait::until(PATIENCE, || last().contains(said) || last().contains("reset"))
                    .map_err(|error| error.context(format!("{name}: {}", last())))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_peer_that_says_nothing_delays_nobody_else() -> Result<()> {
    lab::test(|lab| {
        let (node, host) = pair(lab)?;
        host.address("eth0", "10.0.0.3/24")?;
        let silent = host.run(|| TcpListener::bind("10.0.0.3:179"))?;
        let good = host.run(|| TcpListener::bind("10.0.0.1:179"))?;
        let mut node = Node::start(&node, None);
        node.peer("silent", peer("10.0.0.3"));
        let held = silent.accept()?;
        node.peer(PEER, peer("10.0.0.1"));
        let start = Instant::now();
        let (mut stream, _) = good.accept()?;
        hello(&mut stream)?;
        node.wait_for(PEER, State::Established)?;
        ensure!(start.elapsed() < Duration::from_secs(5));
        ensure!(node.status("silent").session.state == State::OpenSent);
        drop(held);
        Ok(())
    })
}

#[test]
fn a_gigabyte_of_routes_is_dropped_without_memory_and_a_session_goes_on() -> Result<()> {
    /// Prefixes of 24 bits: 950 of them in one message.
    fn update() -> Vec<u8> {
        let attributes = [0x40, 1, 1, 0, 0x40, 2, 4, 2, 1, 0xfc, 1, 0x40, 3, 4, 10, 0, 0, 1];
        let nlri: Vec<u8> = (0..950u16).flat_map(|index| [24, 20, (index >> 8) as u8, index as u8]).collect();
        message(2, &[&[0, 0, 0, attributes.len() as u8][..], &attributes, &nlri].concat())
    }
    fn memory() -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
    lab::test(|lab| {
        let (node, host) = pair(lab)?;
        let listener = host.run(|| TcpListener::bind("10.0.0.1:179"))?;
        let mut node = Node::start(&node, None);
        node.peer(PEER, peer("10.0.0.1"));
        let (mut stream, _) = listener.accept()?;
        hello(&mut stream)?;
        node.wait_for(PEER, State::Established)?;
        // Its words are read, so that the connection is never full.
        let mut reader = stream.try_clone()?;
        let reading = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while reader.read(&mut buffer).is_ok_and(|count| count > 0) {}
        });
        let batch = update().repeat(256);
        let before = memory();
        let mut sent = 0;
        let mut most = before;
        while sent < 1 << 30 {
            stream.write_all(&batch)?;
            sent += batch.len();
            most = most.max(memory());
        }
        // Meanwhile something is announced.
        let start = Instant::now();
        node.announce(routes(&["198.51.100.7/32"], &route()));
        wait::until(PATIENCE, || node.status(PEER).session.announced == 1)?;
        println!("1 GiB: {before} -> {most} KiB, told after {:?}", start.elapsed());
        ensure!(most - before < 16 << 10, "{before} -> {most} KiB");
        ensure!(node.status(PEER).session.state == State::Established, "{:?}", node.status(PEER));
        drop(stream);
        drop(node);
        let _ = reading.join();
        Ok(())
    })
}
