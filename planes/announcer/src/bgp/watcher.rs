//! BFD: a task for each peer, and ports that all of them share.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use headwater_bfd::{Control, Diagnostic, Effect, Event, Profile, Session, Status};
use headwater_bgp::Transport;
use headwater_net_io::liveness::{Arrived, LivenessListener, sender};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::speaker::Watch;

const ONE_HOP: u16 = 3784;
const ECHO: u16 = 3785;
const MULTIHOP: u16 = 4784;

/// Packets that wait for a task; more are dropped, as on a wire.
const QUEUE: usize = 64;
/// A socket that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// By whom a packet was sent, by which interface if it is of a link-local address, and whether to the port of several hops.
type Key = (IpAddr, u32, bool);
/// The lock is held for a lookup.
type Doors = Arc<Mutex<AHashMap<Key, mpsc::Sender<Packet>>>>;

/// The port of echo packets of one family, once it is open.
type EchoPort = Option<Arc<LivenessListener>>;

enum Packet {
    Control(Arrived),
    Echo(Vec<u8>),
    /// None, but how to go on.
    Configure(Profile),
}

/// Starts watchers; clones share the ports, which are opened for the first of them.
#[derive(Clone)]
pub(super) struct Watchers(Arc<Shared>);

struct Shared {
    doors: Doors,
    /// Discriminators are counted up from anywhere.
    next: Mutex<u32>,
    listening: Mutex<Vec<JoinHandle<()>>>,
    echo: [watch::Receiver<EchoPort>; 2],
    /// Taken when the ports are opened.
    echo_senders: Mutex<Option<[watch::Sender<EchoPort>; 2]>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        for task in self.listening.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

/// A peer that is watched.
pub(super) struct Watcher {
    key: Key,
    doors: Doors,
    packets: mpsc::Sender<Packet>,
    down: mpsc::Receiver<Diagnostic>,
    status: watch::Receiver<Status>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Watchers {
    pub(super) fn new(seed: u64) -> Self {
        let (four, six) = (watch::channel(None), watch::channel(None));
        Self(Arc::new(Shared {
            doors: Doors::default(),
            next: Mutex::new(u32::try_from(seed >> 33).unwrap_or(1).max(1)),
            listening: Mutex::default(),
            echo: [four.1, six.1],
            echo_senders: Mutex::new(Some([four.0, six.0])),
        }))
    }

    fn listen(&self) {
        let Some(echo) = self.0.echo_senders.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let mut tasks = self.0.listening.lock().unwrap_or_else(PoisonError::into_inner);
        for (ipv6, echo) in [false, true].into_iter().zip(echo) {
            for port in [ONE_HOP, MULTIHOP] {
                tasks.push(tokio::spawn(hear(ipv6, port, self.0.doors.clone(), None)));
            }
            tasks.push(tokio::spawn(hear(ipv6, ECHO, self.0.doors.clone(), Some(echo))));
        }
    }

    pub(super) fn start(&self, name: Arc<str>, transport: &Transport, watch: Watch) -> Watcher {
        self.listen();
        let discriminator = {
            let mut next = self.0.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next = next.wrapping_add(1).max(1);
            *next
        };
        let key = (transport.address, transport.scope, watch.multihop);
        let (packets, queue) = mpsc::channel(QUEUE);
        self.0.doors.lock().unwrap_or_else(PoisonError::into_inner).insert(key, packets.clone());
        let origin = Instant::now();
        let session = Session::new(Duration::ZERO, watch.profile, discriminator, u64::from(discriminator));
        let (tell_status, status) = watch::channel(session.status());
        let (tell_down, down) = mpsc::channel(1);
        let (stop, stopped) = oneshot::channel();
        let port = if watch.multihop { MULTIHOP } else { ONE_HOP };
        let mut remote = SocketAddr::new(transport.address, port);
        if let SocketAddr::V6(address) = &mut remote {
            address.set_scope_id(transport.scope);
        }
        let task = Task {
            name,
            origin,
            session,
            source: transport.source,
            remote,
            socket: None,
            open_at: origin,
            echo: self.0.echo[usize::from(remote.is_ipv6())].clone(),
            down: tell_down,
            status: tell_status,
        };
        let task = tokio::spawn(task.run(queue, stopped));
        Watcher { key, doors: self.0.doors.clone(), packets, down, status, stop: Some(stop), task }
    }
}

impl Watcher {
    /// Waits until the peer, which was there, is not reached any more.
    pub(super) async fn down(&mut self) -> Diagnostic {
        match self.down.recv().await {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }

    pub(super) fn status(&self) -> Status {
        *self.status.borrow()
    }

    /// Goes on with other times; false: it cannot be told now.
    pub(super) fn configure(&self, profile: Profile) -> bool {
        self.packets.try_send(Packet::Configure(profile)).is_ok()
    }

    /// Tells the peer that it is no longer watched.
    pub(super) async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // A task that has ended needs no telling.
            let _ = stop.send(());
        }
        // It ends at once.
        let _ = tokio::time::timeout(RETRY, &mut self.task).await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        // Another watcher of the same peer may have the door already.
        if doors.get(&self.key).is_some_and(|door| door.same_channel(&self.packets)) {
            doors.remove(&self.key);
        }
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

/// Takes packets of a port to those whom they concern.
async fn hear(ipv6: bool, port: u16, doors: Doors, echo: Option<watch::Sender<EchoPort>>) {
    let mut told = false;
    let listener = loop {
        match LivenessListener::bind(ipv6, port) {
            Ok(listener) => break Arc::new(listener),
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(port, ipv6, %error, "BFD packets are not heard; is another BFD daemon on this host?");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    if let Some(echo) = &echo {
        echo.send_replace(Some(listener.clone()));
    }
    loop {
        let arrived = match listener.receive().await {
            Ok(arrived) => arrived,
            Err(error) => {
                tracing::debug!(port, %error, "a BFD packet was lost");
                continue;
            }
        };
        let from = arrived.from.ip().to_canonical();
        let scope = match from {
            IpAddr::V6(address) if address.is_unicast_link_local() => arrived.interface,
            _ => 0,
        };
        let door =
            |multihop| doors.lock().unwrap_or_else(PoisonError::into_inner).get(&(from, scope, multihop)).cloned();
        if echo.is_none() {
            if let Some(door) = door(port == MULTIHOP) {
                let _ = door.try_send(Packet::Control(arrived));
            }
        } else if let Some(door) = door(false) {
            if arrived.ttl == 255 {
                // One of the peer's: it goes back, and shows by its time to live that it does.
                listener.send_back(&arrived).await;
            } else {
                let _ = door.try_send(Packet::Echo(arrived.bytes));
            }
        }
    }
}

struct Task {
    name: Arc<str>,
    origin: Instant,
    session: Session,
    source: Option<IpAddr>,
    remote: SocketAddr,
    socket: Option<UdpSocket>,
    open_at: Instant,
    echo: watch::Receiver<EchoPort>,
    down: mpsc::Sender<Diagnostic>,
    status: watch::Sender<Status>,
}

impl Task {
    async fn run(mut self, mut packets: mpsc::Receiver<Packet>, mut stopped: oneshot::Receiver<()>) {
        loop {
            let deadline = self.session.deadline().map(|deadline| self.origin + deadline);
            let timer = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = &mut stopped => {
                    self.step(Event::Stop).await;
                    return;
                }
                packet = packets.recv() => match packet {
                    Some(Packet::Control(arrived)) => match Control::parse(&arrived.bytes) {
                        Ok(control) => self.step(Event::Received { control, ttl: arrived.ttl }).await,
                        Err(error) => tracing::debug!(peer = &*self.name, %error, "a BFD packet was dropped"),
                    },
                    Some(Packet::Echo(bytes)) => self.step(Event::EchoReceived(&bytes)).await,
                    Some(Packet::Configure(profile)) => self.step(Event::Configure(profile)).await,
                    // Its watcher is gone.
                    None => {
                        self.step(Event::Stop).await;
                        return;
                    }
                },
                () = timer => self.step(Event::Timer).await,
            }
            let status = self.session.status();
            self.status.send_if_modified(|known| std::mem::replace(known, status) != status);
        }
    }

    async fn step(&mut self, event: Event<'_>) {
        for effect in self.session.step(self.origin.elapsed(), event) {
            match effect {
                Effect::Send(control) => self.send(&control.render()),
                Effect::SendEcho(bytes) => {
                    let echo = self.echo.borrow().clone();
                    if let Some(echo) = echo {
                        let remote = match self.remote {
                            SocketAddr::V6(remote) => {
                                SocketAddrV6::new(*remote.ip(), ECHO, 0, remote.scope_id()).into()
                            }
                            SocketAddr::V4(remote) => SocketAddr::new((*remote.ip()).into(), ECHO),
                        };
                        echo.send(&bytes, remote).await;
                    }
                }
                Effect::Up => tracing::info!(peer = &*self.name, "BFD session is up"),
                Effect::Down(why) => {
                    tracing::warn!(peer = &*self.name, %why, "BFD session is down");
                    // One that waits to be taken says the same.
                    let _ = self.down.try_send(why);
                }
                _ => {}
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        if self.socket.is_none() && Instant::now() >= self.open_at {
            let start = u16::try_from(self.session.discriminator() & 0x3fff).unwrap_or(0);
            match sender(self.source, self.remote, start) {
                Ok(socket) => self.socket = Some(socket),
                Err(error) => {
                    self.open_at = Instant::now() + RETRY;
                    tracing::debug!(peer = &*self.name, %error, "BFD packets cannot be sent");
                }
            }
        }
        let Some(socket) = &self.socket else { return };
        match socket.try_send(bytes) {
            Ok(_) => {}
            // ICMP says that nobody listens, or a route is missing; the next packet tries again.
            Err(error) => {
                if error.raw_os_error().is_some() && error.kind() != std::io::ErrorKind::ConnectionRefused {
                    self.socket = None;
                    self.open_at = Instant::now();
                }
                tracing::debug!(peer = &*self.name, %error, "a BFD packet was not sent");
            }
        }
    }
}
