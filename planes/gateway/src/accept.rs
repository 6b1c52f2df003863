//! From a new socket to a request: PROXY header, TLS, version of HTTP.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use headwater_client_address::proxy::Tlvs;
use headwater_client_address::{Arrival, Decision, Refusal, Sender};
use headwater_model::client::ForwardedHeader;
use headwater_model::gateway::{ConnectionSettings, Protocol, TcpKeepAlive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::apply::CompiledListener;
use crate::buffer::Buffer;
use crate::fault::{Fault, Reason};
use crate::io::{Conn, Prefixed, Rewound};
use crate::timer::{Interrupt, Timer};
use crate::worker::Worker;
use crate::{h1, h2, respond, stream};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// When the process has no descriptor or memory for another socket, asking again at once would only burn CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// How long a connection that has brought nothing yet may still bring its first request after a drain began: its peer
/// was let in, and does not know.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// A listener as this worker sees it now; swapped when the snapshot changes.
pub(crate) struct ListenerSlot {
    current: RefCell<Arc<CompiledListener>>,
    /// Names its connections, so that they can be drained together.
    pub(crate) group: u64,
    /// Connections of all listeners and workers.
    pub(crate) open: Arc<AtomicU32>,
    removed: Cell<bool>,
}

impl ListenerSlot {
    pub(crate) fn new(listener: Arc<CompiledListener>, group: u64, open: Arc<AtomicU32>) -> Rc<Self> {
        Rc::new(Self { current: RefCell::new(listener), group, open, removed: Cell::new(false) })
    }

    pub(crate) fn current(&self) -> Arc<CompiledListener> {
        self.current.borrow().clone()
    }

    pub(crate) fn swap(&self, listener: Arc<CompiledListener>) {
        *self.current.borrow_mut() = listener;
    }

    /// Connections that are still taken from its queue drain from the beginning.
    pub(crate) fn remove(&self) {
        self.removed.set(true);
    }
}

/// A connection that was let in.
pub(crate) struct Accepted {
    pub(crate) worker: Rc<Worker>,
    pub(crate) slot: Rc<ListenerSlot>,
    pub(crate) group: u64,
    pub(crate) sender: Sender,
    /// Addresses of sender and peer as text, for the log.
    pub(crate) sender_text: Box<str>,
    pub(crate) peer_text: Box<str>,
    /// Whether the connection itself stands for its client in the limit of connections; otherwise each request does.
    pub(crate) counted: bool,
    /// Name that TLS was asked for.
    pub(crate) sni: Option<Box<str>>,
    settings: Arc<ConnectionSettings>,
}

impl Accepted {
    /// Settings as they were when the connection began.
    pub(crate) fn settings(&self) -> &ConnectionSettings {
        &self.settings
    }
}

/// Accepts until told to stop; then takes what waits in the queue, and ends.
pub(crate) async fn run(
    worker: Rc<Worker>,
    slot: Rc<ListenerSlot>,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            biased;
            _ = stop.changed() => {
                for tcp in headwater_net_io::listen::drain_backlog(&listener) {
                    if let Ok(peer) = tcp.peer_addr() {
                        welcome(&worker, &slot, tcp, peer);
                    }
                }
                return;
            }
            accepted = listener.accept() => match accepted {
                Ok((tcp, peer)) => welcome(&worker, &slot, tcp, peer),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept pauses");
                    worker.metrics.accept_errors.add(1);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Errors that concern the connection that was to be accepted, not the listener (accept(2)).
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Counts one open connection.
struct Open(Arc<AtomicU32>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn welcome(worker: &Rc<Worker>, slot: &Rc<ListenerSlot>, tcp: TcpStream, peer: SocketAddr) {
    worker.metrics.connections.add(1);
    let open = slot.open.fetch_add(1, Ordering::Relaxed) + 1;
    let guard = Open(slot.open.clone());
    let listener = slot.current();
    let limit = listener.snapshot.connection.limits.connections;
    if limit != 0 && open > limit {
        worker.metrics.fault(Reason::Overload);
        if listener.snapshot.protocol == Protocol::Http {
            // The socket's buffer is empty: this either fits or does not matter.
            let _ = tcp
                .try_write(&respond::render(&Fault::new(Reason::Overload), listener.snapshot.connection.error_style));
        }
        return;
    }
    // From here on a drain waits for it.
    let timer = worker.timers.timer(slot.group);
    if slot.removed.get() {
        timer.drain();
    }
    let (worker, slot) = (worker.clone(), slot.clone());
    tokio::task::spawn_local(async move {
        connection(worker, slot, listener, timer, tcp, peer).await;
        drop(guard);
    });
}

async fn connection(
    worker: Rc<Worker>,
    slot: Rc<ListenerSlot>,
    listener: Arc<CompiledListener>,
    timer: Timer,
    tcp: TcpStream,
    peer: SocketAddr,
) {
    let _ = tcp.set_nodelay(true);
    let Ok(local) = tcp.local_addr() else { return };
    let snapshot = &listener.snapshot;
    let sender = Sender::of_socket(peer, local);
    let conn = Conn::Plain(tcp);
    if let Some(probes) = &snapshot.connection.tcp_keep_alive
        && let Conn::Plain(tcp) = &conn
        && let Err(error) = probe(tcp, probes)
    {
        tracing::debug!(%peer, %error, "keepalive is not set");
    }
    let (mut sender, tlvs, buf) = match named(&worker, &listener, &timer, &conn, sender).await {
        Ok(named) => named,
        Err(refusal) => {
            worker.metrics.proxy_refused(refusal.reason());
            tracing::info!(listener = %snapshot.name, %peer, reason = refusal.reason(), detail = %refusal, "connection refused");
            return;
        }
    };
    let policy = &snapshot.client_address;
    let carries_many = policy.forwarded_header != ForwardedHeader::None && sender.trusted(&policy.trust);
    let limit = snapshot.connection.limits.connections_per_client;
    let counted = limit != 0 && !carries_many;
    let mut place = None;
    if counted {
        place = worker.shared.clients.enter(sender.addr, limit);
        if place.is_none() {
            worker.metrics.fault(Reason::ClientLimit);
            if snapshot.protocol == Protocol::Http {
                let _ = conn
                    .write_all(&respond::render(&Fault::new(Reason::ClientLimit), snapshot.connection.error_style))
                    .await;
            }
            return;
        }
    }
    let mut sni = None;
    let mut buf = buf;
    let passed = match (&listener.tls, &snapshot.tls) {
        (Some(_), Some(termination)) => {
            timer.set(snapshot.connection.header_timeout);
            let passed = stream::peek::passed_through(termination, &conn, &mut buf, &timer).await;
            passed.map(|(route, hello)| (route, Some(hello)))
        }
        _ => snapshot.stream.clone().map(|route| (route, None)),
    };
    let conn = match (passed, conn) {
        (Some((route, hello)), Conn::Plain(down)) => {
            let incoming = stream::tcp::Incoming { worker, route, sender, tlvs, hello, early: buf };
            stream::tcp::carry(incoming, listener, &timer, down).await;
            drop(place);
            return;
        }
        (_, conn) => conn,
    };
    let (conn, is_h2) = match (&listener.tls, conn) {
        (Some(tls), Conn::Plain(tcp)) => {
            if buf.is_empty() {
                timer.set(snapshot.connection.header_timeout);
            }
            let prefixed = Prefixed::new(std::mem::replace(&mut buf, Buffer::none()), tcp);
            let stream = match timer.run(tls.accept(prefixed)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    worker.metrics.tls_failed.add(1);
                    tracing::debug!(%peer, %error, "TLS handshake");
                    return;
                }
                Err(_) => {
                    worker.metrics.tls_failed.add(1);
                    return;
                }
            };
            sender.tls = true;
            let session = stream.get_ref().1;
            sni = session.server_name().map(Into::into);
            let is_h2 = session.alpn_protocol() == Some(b"h2");
            (Conn::Server(RefCell::new(Box::new(stream))), is_h2)
        }
        (_, conn) => {
            let Some(is_h2) = has_preface(&timer, &listener, &conn, &mut buf).await else { return };
            (conn, is_h2 && snapshot.connection.http2)
        }
    };
    let accepted = Rc::new(Accepted {
        group: slot.group,
        sender_text: sender.addr.to_string().into(),
        peer_text: sender.peer.to_string().into(),
        sender,
        counted,
        sni,
        settings: snapshot.connection.clone(),
        worker,
        slot,
    });
    drop(listener);
    if is_h2 {
        h2::down::serve(accepted, Rewound::new(buf, conn), timer).await;
    } else {
        h1::down::serve(accepted, conn, buf, timer).await;
    }
    drop(place);
}

fn probe(tcp: &TcpStream, keep_alive: &TcpKeepAlive) -> rustix::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(tcp, true)?;
    if let Some(idle) = keep_alive.idle {
        sockopt::set_tcp_keepidle(tcp, idle)?;
    }
    if let Some(interval) = keep_alive.interval {
        sockopt::set_tcp_keepintvl(tcp, interval)?;
    }
    if let Some(count) = keep_alive.count {
        sockopt::set_tcp_keepcnt(tcp, count)?;
    }
    Ok(())
}

/// Who speaks to us: the peer, or whom its PROXY header names. Returns what the header says besides, and what was read
/// behind it.
async fn named(
    worker: &Worker,
    listener: &CompiledListener,
    timer: &Timer,
    conn: &Conn,
    sender: Sender,
) -> Result<(Sender, Option<Tlvs>, Buffer), Refusal> {
    let _ = worker;
    let policy = &listener.snapshot.client_address;
    let mut buf = Buffer::none();
    let mut arrival = Arrival::Open;
    timer.set(policy.proxy_protocol_timeout);
    loop {
        match sender.admit(policy, &buf, arrival) {
            Decision::Proceed(None) => return Ok((sender, None, buf)),
            Decision::Proceed(Some(header)) => {
                buf.drain(..header.consumed);
                return Ok((sender.with_proxy(&header), Some(header.tlvs), buf));
            }
            Decision::Refuse(refusal) => return Err(refusal),
            Decision::Read => {
                if buf.capacity() == 0 {
                    buf = Buffer::small();
                }
                arrival = match timer.run(conn.read_buf(&mut buf)).await {
                    Ok(Ok(n)) if n > 0 => Arrival::Open,
                    Ok(_) => Arrival::Ended,
                    Err(_) => Arrival::TimedOut,
                };
            }
        }
    }
}

/// What comes first on a connection; `None` when nothing does.
pub(crate) async fn first_bytes(conn: &Conn, timer: &Timer, patience: Duration) -> Option<Buffer> {
    timer.set(patience);
    let mut first = timer.run_idle(conn.read_when_ready()).await;
    if matches!(first, Err(Interrupt::Drain)) {
        timer.set(FIRST_REQUEST);
        first = timer.run(conn.read_when_ready()).await;
    }
    match first {
        Ok(Ok((n, lent))) if n > 0 => Some(lent),
        _ => None,
    }
}

/// Whether the connection begins with the preface of HTTP/2 (RFC 9113 section 3.4). Reads until it is certain; `None`
/// when nothing came.
async fn has_preface(timer: &Timer, listener: &CompiledListener, conn: &Conn, buf: &mut Buffer) -> Option<bool> {
    if buf.is_empty() {
        *buf = first_bytes(conn, timer, listener.snapshot.connection.idle_timeout).await?;
    }
    timer.set(listener.snapshot.connection.header_timeout);
    loop {
        if buf.len() >= PREFACE.len() {
            return Some(buf.starts_with(PREFACE));
        }
        if !PREFACE.starts_with(buf) {
            return Some(false);
        }
        match timer.run(conn.read_buf(buf)).await {
            Ok(Ok(n)) if n > 0 => {}
            _ => return None,
        }
    }
}
