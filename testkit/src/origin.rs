//! Origins for a gateway to forward to: whoami instances, and scripted ones that speak byte by byte.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use headwater_whoami::{Server, Whoami};
use socket2::SockRef;
use tokio::sync::oneshot;

use crate::certs::Leaf;
use crate::wait::{self, DEADLINE};

/// A free port of 127.0.0.1.
pub const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What an [`Origin`] speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP, gRPC and WebSocket.
    Http,
    /// A line of JSON, then an echo.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A whoami instance with its own thread and runtime. Stops when dropped.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    /// Starts an instance as configured. Inside `Host::run` it belongs to that host.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub fn start(kind: Kind, whoami: Whoami) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = thread::Builder::new().name(format!("origin-{}", whoami.name)).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime needs two descriptors");
            runtime.block_on(async {
                let server: Result<Server, _> = match kind {
                    Kind::Http => whoami.serve_http().await,
                    Kind::Tcp => whoami.serve_tcp().await,
                    Kind::Udp => whoami.serve_udp().await,
                };
                match server {
                    Ok(server) => {
                        // The receiver waits for this very message.
                        let _ = tell.send(Ok(server.local_addr()));
                        // Dropping the future at the end of the origin closes what is still open.
                        tokio::select! {
                            () = server.run(std::future::pending()) => {}
                            _ = stopped => {}
                        }
                    }
                    Err(error) => {
                        let _ = tell.send(Err(error));
                    }
                }
            });
        })?;
        let address = told.recv().map_err(|_| anyhow!("origin thread has ended"))??;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// HTTP on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// As [`Origin::start`].
    pub fn http(name: &str) -> Result<Self> {
        Self::start(Kind::Http, Whoami::new(name, [LOOPBACK]))
    }

    /// HTTP on a free port of 127.0.0.1 that reports PROXY headers.
    ///
    /// # Errors
    /// As [`Origin::start`].
    pub fn http_behind_proxy(name: &str) -> Result<Self> {
        Self::start(Kind::Http, Whoami { proxy_protocol: true, ..Whoami::new(name, [LOOPBACK]) })
    }

    /// HTTP, plain and with TLS (ALPN h2 and http/1.1), on a free port of 127.0.0.1; reports PROXY headers.
    ///
    /// # Errors
    /// As [`Origin::start`].
    pub fn https(name: &str, leaf: &Leaf) -> Result<Self> {
        let tls = Some(leaf.server_config(&["h2", "http/1.1"])?);
        Self::start(Kind::Http, Whoami { tls, proxy_protocol: true, ..Whoami::new(name, [LOOPBACK]) })
    }

    /// TCP on a free port of 127.0.0.1; says its line at once and knows no PROXY protocol.
    ///
    /// # Errors
    /// As [`Origin::start`].
    pub fn tcp(name: &str) -> Result<Self> {
        Self::start(Kind::Tcp, Whoami::new(name, [LOOPBACK]))
    }

    /// UDP on a free port of 127.0.0.1; reports PROXY headers.
    ///
    /// # Errors
    /// As [`Origin::start`].
    pub fn udp(name: &str) -> Result<Self> {
        Self::start(Kind::Udp, Whoami { proxy_protocol: true, ..Whoami::new(name, [LOOPBACK]) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed already.
            let _ = thread.join();
        }
    }
}

/// What a connection to a [`RawOrigin`] has brought so far.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Who connected.
    pub peer: SocketAddr,
    /// Every byte the script has read.
    pub bytes: Vec<u8>,
    /// Why the script ended, once it has: `Ok` or the error's text.
    pub ended: Option<Result<(), String>>,
}

type Records = Arc<Mutex<Vec<Recorded>>>;

fn locked(records: &Records) -> std::sync::MutexGuard<'_, Vec<Recorded>> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An origin whose every byte is decided by the test: a closure runs for each connection on its own thread.
#[derive(Debug)]
pub struct RawOrigin {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    records: Records,
    thread: Option<JoinHandle<()>>,
}

impl RawOrigin {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start(script: impl Fn(&mut RawConn) -> io::Result<()> + Send + Sync + 'static) -> Result<Self> {
        Self::start_on(LOOPBACK, script)
    }

    /// Listens on `address`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start_on(
        address: SocketAddr,
        script: impl Fn(&mut RawConn) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        let listener = Arc::new(listener);
        let address = listener.local_addr()?;
        let records: Records = Records::default();
        let (accepting, noting) = (listener.clone(), records.clone());
        let script = Arc::new(script);
        let thread = thread::spawn(move || {
            // `accept` ends with an error when the origin is dropped.
            while let Ok((stream, peer)) = accepting.accept() {
                let index = {
                    let mut records = locked(&noting);
                    records.push(Recorded { peer, bytes: Vec::new(), ended: None });
                    records.len() - 1
                };
                let (script, records) = (script.clone(), noting.clone());
                thread::spawn(move || {
                    let mut conn = RawConn { stream, index, records, ahead: Vec::new() };
                    let ended = script(&mut conn).map_err(|error| error.to_string());
                    locked(&conn.records)[index].ended = Some(ended);
                });
            }
        });
        Ok(Self { address, listener, records, thread: Some(thread) })
    }

    /// Answers every request on a connection with the same bytes.
    ///
    /// # Errors
    /// As [`RawOrigin::start`].
    pub fn answering(response: impl Into<Vec<u8>>) -> Result<Self> {
        let response = response.into();
        Self::start(move |conn| {
            while conn.read_request()?.is_some() {
                conn.write_all(&response)?;
            }
            Ok(())
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All connections so far, oldest first.
    pub fn connections(&self) -> Vec<Recorded> {
        locked(&self.records).clone()
    }

    /// Waits for the connection number `index` (from 0) to have brought what `enough` wants.
    ///
    /// # Errors
    /// When that has not happened at the deadline; the text shows what there is.
    pub fn wait_for(&self, index: usize, enough: impl Fn(&Recorded) -> bool) -> Result<Recorded> {
        wait::value(DEADLINE, || locked(&self.records).get(index).filter(|record| enough(record)).cloned())
            .with_context(|| format!("connections so far: {:?}", self.connections()))
    }
}

impl Drop for RawOrigin {
    fn drop(&mut self) {
        // On Linux this wakes a thread inside `accept`.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One connection of a [`RawOrigin`]. What is read from it is recorded; each read ends after 10 s.
#[derive(Debug)]
pub struct RawConn {
    stream: TcpStream,
    index: usize,
    records: Records,
    /// Read from the socket, and not yet asked for.
    ahead: Vec<u8>,
}

impl RawConn {
    /// The socket. Bytes read from it directly are not recorded.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Which connection of the origin this is, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    fn fill(&mut self, end: Instant) -> io::Result<usize> {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left))?;
        let mut piece = [0; 16 * 1024];
        let n = self.stream.read(&mut piece)?;
        self.ahead.extend_from_slice(&piece[..n]);
        locked(&self.records)[self.index].bytes.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    /// Reads up to and with `end`; an error when the connection ends first.
    ///
    /// # Errors
    /// `UnexpectedEof`, `WouldBlock` at the deadline, or what the kernel says.
    pub fn read_until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                return Ok(self.ahead.drain(..at + end.len()).collect());
            }
            if self.fill(deadline)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads one request, head and body, and returns its bytes unchanged; `None` when the connection ended before.
    ///
    /// # Errors
    /// As [`RawConn::read_until`].
    pub fn read_request(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.ahead.is_empty() && self.fill(Instant::now() + DEADLINE)? == 0 {
            return Ok(None);
        }
        let mut request = self.read_until(b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let value = |name: &str| {
            let line = head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        if value("transfer-encoding").is_some() {
            loop {
                let line = self.read_until(b"\r\n")?;
                let digits = String::from_utf8_lossy(&line);
                let digits = digits.split([';', '\r']).next().unwrap_or_default();
                let size = usize::from_str_radix(digits, 16).map_err(io::Error::other)?;
                request.extend(line.iter());
                if size == 0 {
                    break;
                }
                request.extend(self.take(size + 2)?);
            }
            loop {
                let line = self.read_until(b"\r\n")?;
                request.extend(&line);
                if line == b"\r\n" {
                    break;
                }
            }
        } else if let Some(length) = value("content-length") {
            let length = length.parse::<usize>().map_err(io::Error::other)?;
            request.extend(self.take(length)?);
        }
        Ok(Some(request))
    }

    /// Reads exactly `length` bytes.
    ///
    /// # Errors
    /// As [`RawConn::read_until`].
    pub fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + DEADLINE;
        while self.ahead.len() < length {
            if self.fill(deadline)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.ahead.drain(..length).collect())
    }

    /// Reads until the other side has finished sending.
    ///
    /// # Errors
    /// As [`RawConn::read_until`].
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + DEADLINE;
        while self.fill(deadline)? > 0 {}
        Ok(std::mem::take(&mut self.ahead))
    }

    /// Makes the coming close a TCP reset.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reset_on_close(&self) -> io::Result<()> {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
    }
}

impl Write for RawConn {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
