//! Asks over SCTP, and answers: `sctp serve ADDRESS:PORT NAME`, `sctp ask ADDRESS:PORT`.
//!
//! An answer is `NAME saw ADDRESS:PORT`. Each question is an association of its own. The kernel needs the module `sctp`.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

/// IANA's number.
const SCTP: i32 = 132;
/// Of an association that is made, and of its answer.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", at, name] => serve(at.parse().context("ADDRESS:PORT")?, name),
        ["ask", of] => ask(of.parse().context("ADDRESS:PORT")?),
        _ => bail!("usage: sctp serve ADDRESS:PORT NAME | sctp ask ADDRESS:PORT"),
    }
}

fn open(at: SocketAddr) -> Result<Socket> {
    Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::from(SCTP))).context("SCTP")
}

fn serve(at: SocketAddr, name: &str) -> Result<()> {
    let listener = open(at)?;
    listener.bind(&at.into()).with_context(|| format!("bind {at}"))?;
    listener.listen(16)?;
    loop {
        let (mut stream, peer) = listener.accept()?;
        let peer = peer.as_socket().context("an IP address")?;
        // Who asks may be gone.
        if let Err(error) = stream.write_all(format!("{name} saw {peer}\n").as_bytes()) {
            eprintln!("{peer}: {error}");
        }
    }
}

fn ask(of: SocketAddr) -> Result<()> {
    let mut socket = open(of)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect(&of.into()).with_context(|| format!("connect to {of}"))?;
    let local = socket.local_addr()?.as_socket().context("an IP address")?;
    let mut answer = [0; 256];
    let length = socket.read(&mut answer)?;
    println!("{} (asked from {local})", String::from_utf8_lossy(&answer[..length]).trim());
    Ok(())
}
