//! What pods run: servers that tell who asks.

use std::net::{SocketAddr, TcpListener as StdListener, UdpSocket as StdUdp};
use std::thread;

use anyhow::Result;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::lab::Host;

/// Answers that wait to be accepted: as many as the system allows.
const BACKLOG: i32 = 4096;
/// A datagram that is answered has at most so many bytes.
const DATAGRAM: usize = 2048;

/// Servers of all pods, on one thread.
#[derive(Debug)]
pub(super) struct Servers {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Servers {
    pub(super) fn start() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel::<()>());
        let thread = thread::Builder::new().name("servers".to_owned()).spawn(move || {
            // A message and a lost sender mean the same.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Answers TCP and UDP at an address of a host. Each TCP connection gets one line, and then what it sends; each
    /// datagram gets the line.
    pub(super) fn open(&self, host: &Host, name: &str, at: SocketAddr) -> Result<()> {
        let (tcp, udp) = host.run(|| anyhow::Ok((listen(at)?, StdUdp::bind(at)?)))?;
        udp.set_nonblocking(true)?;
        let (name, also) = (name.to_owned(), name.to_owned());
        self.handle.spawn(async move {
            let listener = TcpListener::from_std(tcp).expect("a socket that does not block");
            while let Ok((stream, source)) = listener.accept().await {
                tokio::spawn(answer(stream, line(&name, source, at)));
            }
        });
        self.handle.spawn(async move {
            let socket = UdpSocket::from_std(udp).expect("a socket that does not block");
            let mut datagram = [0; DATAGRAM];
            loop {
                // Errors tell of answers that nobody took.
                if let Ok((_, source)) = socket.recv_from(&mut datagram).await {
                    let _ = socket.send_to(line(&also, source, at).as_bytes(), source).await;
                }
            }
        });
        Ok(())
    }

    /// Passes connections on from an address of a host to the same address here.
    pub(super) fn forward(&self, host: &Host, at: SocketAddr) -> Result<()> {
        let listener = host.run(|| listen(at))?;
        self.handle.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket that does not block");
            while let Ok((mut inside, _)) = listener.accept().await {
                tokio::spawn(async move {
                    match TcpStream::connect(at).await {
                        Ok(mut outside) => {
                            // Either end may break; the other is closed with it.
                            let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                        }
                        // The client sees a reset instead of a refusal.
                        Err(_) => drop(inside.set_zero_linger()),
                    }
                });
            }
        });
        Ok(())
    }
}

fn listen(at: SocketAddr) -> Result<StdListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn line(name: &str, source: SocketAddr, at: SocketAddr) -> String {
    format!("{name} saw {source} to {at}\n")
}

async fn answer(mut stream: TcpStream, line: String) {
    let (mut from, mut to) = stream.split();
    // The client may go when it likes.
    if to.write_all(line.as_bytes()).await.is_ok() {
        let _ = tokio::io::copy(&mut from, &mut to).await;
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // What panicked there has printed so.
            let _ = thread.join();
        }
    }
}
