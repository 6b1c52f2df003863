//! One UDP flow: what goes to and fro between one end of a client and one endpoint.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use headwater_client_address::proxy;
use headwater_net_io::connect::ConnectErrorKind;
use headwater_net_io::datagram::{MAX_DATAGRAM, connect_datagram};
use headwater_net_io::transparent::connect_datagram_from;
use rustix::net::{SendFlags, send};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

use super::record::{Ended, Record};
use super::relay::End;
use super::route::{Choices, proxy_header};
use super::udp::UdpListener;
use crate::fault::{Fault, Reason};
use crate::upstream::{Lease, connect_fault};

/// Answers taken from one endpoint before others get their turn.
const TURN: usize = 32;
/// Longest first datagram that is kept until its answer, to be sent to another endpoint where the first refuses it.
const KEPT: usize = 1500;

thread_local! {
    /// For a datagram behind a PROXY header.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// For an answer.
    static ANSWER: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_DATAGRAM]);
}

/// What tells flows apart: the client's end, and the address of ours that it speaks to.
pub(super) type Key = (SocketAddr, IpAddr);

/// Counts one flow of all workers.
pub(super) struct Counted(pub(super) Arc<AtomicU32>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) struct Flow {
    pub(super) key: Key,
    pub(super) record: Record,
    listener: Weak<UdpListener>,
    choices: RefCell<Choices>,
    link: RefCell<Option<Link>>,
    /// Endpoints in a row that refused.
    refusals: Cell<u32>,
    /// Until the first answer.
    first: RefCell<Option<Box<[u8]>>>,
    last_ms: Cell<u64>,
    finished: Cell<bool>,
    _counted: Counted,
    _place: Option<crate::clients::Slot>,
}

/// The way to one endpoint; ends with it.
struct Link {
    socket: Rc<UdpSocket>,
    lease: Lease,
    began: Instant,
    /// Whether the endpoint was told who the client is.
    told: Cell<bool>,
    answered: Cell<bool>,
    reader: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Flow {
    pub(super) fn new(
        listener: &Rc<UdpListener>,
        key: Key,
        record: Record,
        counted: Counted,
        place: Option<crate::clients::Slot>,
    ) -> Rc<Self> {
        Rc::new(Self {
            key,
            record,
            listener: Rc::downgrade(listener),
            choices: RefCell::default(),
            link: RefCell::default(),
            refusals: Cell::default(),
            first: RefCell::default(),
            last_ms: Cell::new(listener.worker.timers.now_ms()),
            finished: Cell::default(),
            _counted: counted,
            _place: place,
        })
    }

    /// When the last datagram passed, either way, on the worker's clock.
    pub(super) fn last_ms(&self) -> u64 {
        self.last_ms.get()
    }

    /// Connects to an endpoint.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn open(self: &Rc<Self>) -> Result<(), Reason> {
        let Some(listener) = self.listener.upgrade() else { return Err(Reason::Internal) };
        let worker = &listener.worker;
        let mut failed = Reason::ConnectFailed;
        for _ in 0..self.record.route.attempts.max(1) {
            let client = self.record.client.addr;
            let lease = self.choices.borrow_mut().pick(worker, &self.record.route, client)?;
            self.record.attempts.set(self.record.attempts.get() + 1);
            let began = Instant::now();
            let address = lease.endpoint.address;
            let connected = match self.record.route.transparent {
                true => match connect_datagram_from(self.record.client.socket_addr(), address) {
                    // The client's address cannot be used: neither is that the endpoint's doing.
                    Err(error) if error.kind == ConnectErrorKind::Source && !is_ours(&error.cause) => {
                        let fault = connect_fault(&error);
                        failed = fault.reason;
                        lease.failed(&fault, began.elapsed(), Instant::now());
                        tracing::debug!(endpoint = %address, %fault, "no way for a UDP flow");
                        continue;
                    }
                    connected => connected.map_err(|error| error.cause),
                },
                false => connect_datagram(address),
            };
            match connected {
                Ok(socket) => {
                    let socket = Rc::new(socket);
                    let reader = tokio::task::spawn_local(read(self.clone(), socket.clone())).abort_handle();
                    let (told, answered) = (Cell::new(false), Cell::new(false));
                    *self.link.borrow_mut() = Some(Link { socket, lease, began, told, answered, reader });
                    return Ok(());
                }
                // No descriptor, memory or port of ours: not the endpoint's doing.
                Err(error) if is_ours(&error) => {
                    tracing::debug!(%error, "no socket for a UDP flow");
                    return Err(Reason::Overload);
                }
                Err(error) => {
                    let fault = Fault::new(Reason::ConnectFailed).detail(&error);
                    lease.failed(&fault, began.elapsed(), Instant::now());
                    tracing::debug!(endpoint = %lease.endpoint.address, %error, "no way for a UDP flow");
                }
            }
        }
        Err(failed)
    }

    /// Sends what the client sent.
    pub(super) fn forward(self: &Rc<Self>, bytes: &[u8]) {
        let Some(listener) = self.listener.upgrade() else { return };
        let worker = &listener.worker;
        let metrics = &worker.metrics.streams;
        self.last_ms.set(worker.timers.now_ms());
        let is_first = self.record.received.get() == 0 && self.refusals.get() == 0;
        if is_first && bytes.len() <= KEPT {
            *self.first.borrow_mut() = Some(bytes.into());
        } else if !is_first {
            // What came behind it cannot be told from what it brought about.
            *self.first.borrow_mut() = None;
        }
        // An endpoint that has left its pool serves no more, or soon.
        let is_lost = self.link.borrow().as_ref().is_some_and(|link| link.lease.endpoint.is_gone());
        if is_lost {
            drop(self.link.borrow_mut().take());
            metrics.moved.add(1);
        }
        for _ in 0..self.record.route.attempts.max(1) {
            if self.link.borrow().is_none()
                && let Err(reason) = self.open()
            {
                return metrics.dropped(reason.word());
            }
            match self.send(bytes) {
                Ok(()) => {
                    metrics.datagrams_received.add(1);
                    self.record.received.set(self.record.received.get() + bytes.len() as u64);
                    self.record.metrics.received.add(bytes.len() as u64);
                    return;
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return metrics.dropped("buffer_full"),
                    // Too long for a datagram, with the PROXY header perhaps.
                    _ if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                        return metrics.dropped("too_long");
                    }
                    // Of a datagram before this one: ICMP said that nobody is there.
                    _ => {
                        if !self.refused(&error) {
                            return metrics.dropped(Reason::ConnectFailed.word());
                        }
                    }
                },
            }
        }
        metrics.dropped(Reason::ConnectFailed.word());
    }

    fn send(&self, bytes: &[u8]) -> std::io::Result<()> {
        let link = self.link.borrow();
        let Some(link) = &*link else { return Err(ErrorKind::NotConnected.into()) };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if link.told.get() {
            send(&*link.socket, bytes, flags)?;
            return Ok(());
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            let emit = link.lease.pool.emit_proxy_protocol();
            let told = (&self.record.client, &self.record.sender);
            proxy_header(emit, proxy::Transport::Datagram, told, None, None, scratch);
            scratch.extend_from_slice(bytes);
            send(&*link.socket, &scratch[..], flags)?;
            link.told.set(true);
            Ok(())
        })
    }

    /// The endpoint takes no datagrams: goes on with another, unless too many refused. Whether the flow goes on.
    fn refused(self: &Rc<Self>, error: &std::io::Error) -> bool {
        let Some(link) = self.link.borrow_mut().take() else { return true };
        let now = Instant::now();
        let fault = Fault::new(Reason::ConnectFailed).detail(error);
        link.lease.failed(&fault, now.saturating_duration_since(link.began), now);
        drop(link);
        self.refusals.set(self.refusals.get() + 1);
        let Some(listener) = self.listener.upgrade() else { return false };
        if self.refusals.get() >= self.record.route.attempts {
            listener.forget(&self.key);
            self.finish(&listener, End::Refused, Some(&fault));
            return false;
        }
        listener.worker.metrics.streams.moved.add(1);
        true
    }

    /// Hands an answer to the client.
    fn answer(&self, listener: &UdpListener, bytes: &[u8]) {
        self.last_ms.set(listener.worker.timers.now_ms());
        self.refusals.set(0);
        if let Some(link) = &*self.link.borrow()
            && !link.answered.replace(true)
        {
            let now = Instant::now();
            link.lease.proved(now.saturating_duration_since(link.began), now);
            *self.first.borrow_mut() = None;
        }
        let metrics = &listener.worker.metrics.streams;
        let (client, local) = self.key;
        match listener.socket.send(bytes, client, local) {
            Ok(()) => {
                metrics.datagrams_sent.add(1);
                self.record.sent.set(self.record.sent.get() + bytes.len() as u64);
                self.record.metrics.sent.add(bytes.len() as u64);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => metrics.dropped("buffer_full"),
            Err(error) => {
                metrics.dropped("not_sent");
                tracing::debug!(client = %client, %error, "answer not sent");
            }
        }
    }

    /// Counts and logs its end, once.
    pub(super) fn finish(&self, listener: &UdpListener, end: End, fault: Option<&Fault>) {
        if self.finished.replace(true) {
            return;
        }
        let link = self.link.borrow_mut().take();
        let endpoint = link.as_ref().map(|link| &*link.lease.endpoint);
        self.record.finish(&listener.worker, &Ended { end, endpoint, connect: None, fault });
    }
}

fn is_ours(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let ours = [Errno::AGAIN, Errno::ADDRINUSE, Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| ours.contains(&errno))
}

/// Takes answers of one endpoint until the flow or its way to the endpoint ends.
async fn read(flow: Rc<Flow>, socket: Rc<UdpSocket>) {
    loop {
        // What ICMP says is an error without a datagram: epoll tells of it by itself.
        let Ok(ready) = socket.ready(Interest::READABLE | Interest::ERROR).await else { return };
        let Some(listener) = flow.listener.upgrade() else { return };
        let mut left = TURN;
        let error = ANSWER.with_borrow_mut(|bytes| {
            loop {
                match socket.try_recv(bytes) {
                    Ok(n) => flow.answer(&listener, &bytes[..n]),
                    Err(error) => return Some(error),
                }
                left -= 1;
                if left == 0 {
                    return None;
                }
            }
        });
        let error = match error {
            Some(error) if error.kind() == ErrorKind::WouldBlock && ready.is_error() => {
                let nothing = || Err::<(), _>(ErrorKind::WouldBlock.into());
                let _ = socket.try_io(Interest::ERROR, nothing);
                socket.take_error().ok().flatten().or(Some(error))
            }
            error => error,
        };
        match error {
            None => tokio::task::yield_now().await,
            Some(error) if error.kind() == ErrorKind::WouldBlock => {}
            Some(error) => {
                let first = flow.first.borrow().clone();
                // From here on this task is not the flow's reader any more.
                if flow.refused(&error)
                    && let Some(first) = first
                {
                    flow.resend(&listener, &first);
                }
                return;
            }
        }
    }
}

impl Flow {
    /// The first datagram again, for another endpoint.
    fn resend(self: &Rc<Self>, listener: &UdpListener, bytes: &[u8]) {
        let sent = self.open().is_ok() && self.send(bytes).is_ok();
        if !sent {
            listener.worker.metrics.streams.dropped(Reason::ConnectFailed.word());
        }
    }
}
