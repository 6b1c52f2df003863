//! A UDP listener of one worker: datagrams in, flows by their ends, answers out.
//!
//! The kernel chooses the socket, and so the worker, by both ends of a datagram: a flow stays with its worker as long
//! as the listener's sockets stay the same, which they do while it is open. Where two workers once saw the same flow
//! (between the bind of a listener's first socket and that of its last), each has a way of its own to an endpoint, and
//! answers go to the same client.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use headwater_client_address::{Arrival, Client, Decision, Sender, admit, proxy::ProxyHeader};
use headwater_model::client::ProxyProtocolMode;
use headwater_net_io::datagram::{Batch, Datagram, DatagramListener};
use tokio::sync::watch;

use super::flow::{Counted, Flow, Key};
use super::record::{Kind, Record};
use super::relay::End;
use crate::accept::ListenerSlot;
use crate::apply::CompiledListener;
use crate::worker::Worker;

/// Time between two looks for flows that are silent too long.
const SWEEP: Duration = Duration::from_secs(1);
/// Longest silence of a flow whose listener is to go: for answers that are on their way.
const LEAVING: Duration = Duration::from_secs(2);
/// Batches taken in a row before others get their turn.
const TURN: usize = 8;
/// When the system refuses to receive for want of memory, asking again at once would only burn CPU.
const PAUSE: Duration = Duration::from_millis(20);

thread_local! {
    static BATCH: RefCell<Batch> = RefCell::default();
}

pub(crate) struct UdpListener {
    pub(super) worker: Rc<Worker>,
    pub(super) socket: DatagramListener,
    slot: Rc<ListenerSlot>,
    flows: RefCell<ahash::HashMap<Key, Rc<Flow>>>,
    leaving: Cell<bool>,
}

/// Carries datagrams until told to stop; then those of flows that are known, until they are silent.
pub(crate) async fn run(
    worker: Rc<Worker>,
    slot: Rc<ListenerSlot>,
    socket: DatagramListener,
    mut stop: watch::Receiver<bool>,
) {
    let flows = RefCell::default();
    let listener = Rc::new(UdpListener { worker, socket, slot, flows, leaving: Cell::new(false) });
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = stop.changed(), if !listener.leaving.get() => {
                listener.leaving.set(true);
                if listener.flows.borrow().is_empty() {
                    return;
                }
            }
            _ = sweep.tick() => {
                listener.sweep();
                if listener.leaving.get() && listener.flows.borrow().is_empty() {
                    return;
                }
            }
            ready = listener.socket.readable() => {
                let received = ready.and_then(|()| listener.receive());
                match received {
                    Ok(()) => tokio::task::yield_now().await,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        tracing::warn!(%error, "receiving pauses");
                        listener.worker.metrics.accept_errors.add(1);
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }
}

impl UdpListener {
    /// Takes what is there, up to a turn's worth.
    fn receive(self: &Rc<Self>) -> std::io::Result<()> {
        let current = self.slot.current();
        BATCH.with_borrow_mut(|batch| {
            for _ in 0..TURN {
                self.socket.receive(batch, |datagram| self.take(&current, datagram))?;
            }
            Ok(())
        })
    }

    fn take(self: &Rc<Self>, current: &CompiledListener, datagram: Datagram<'_>) {
        let key = (datagram.from, datagram.to.ip());
        let known = self.flows.borrow().get(&key).cloned();
        let policy = &current.snapshot.client_address;
        let sender = Sender::of_socket(datagram.from, datagram.to);
        let mut bytes = datagram.bytes;
        let mut header = None;
        if policy.proxy_protocol != ProxyProtocolMode::Off {
            // Some senders put a header ahead of each datagram; what follows a flow's first need not have one.
            let decision = match known {
                Some(_) => admit(ProxyProtocolMode::Optional, sender.trusted(&policy.trust), bytes, Arrival::Ended),
                None => sender.admit(policy, bytes, Arrival::Ended),
            };
            match decision {
                Decision::Proceed(found) => header = found,
                Decision::Refuse(refusal) => {
                    self.worker.metrics.proxy_refused(refusal.reason());
                    return self.worker.metrics.streams.dropped("proxy_header");
                }
                // A datagram is whole: this is never said.
                Decision::Read => return self.worker.metrics.streams.dropped("proxy_header"),
            }
        }
        if let Some(header) = &header {
            bytes = &bytes[header.consumed..];
        }
        if let Some(flow) = known {
            if header.as_ref().is_none_or(|header| is_same_client(header, &flow.record)) {
                return flow.forward(bytes);
            }
            // The sender has given this end to another of its clients.
            self.forget(&key);
            flow.finish(self, End::Closed, None);
        }
        let sender = match &header {
            Some(header) => sender.with_proxy(header),
            None => sender,
        };
        self.begin(current, key, sender, bytes);
    }

    /// A flow's first datagram.
    fn begin(self: &Rc<Self>, current: &CompiledListener, key: Key, sender: Sender, bytes: &[u8]) {
        let snapshot = &current.snapshot;
        let Some(route) = &snapshot.stream else { return };
        let metrics = &self.worker.metrics;
        if self.leaving.get() {
            return metrics.streams.dropped("draining");
        }
        let limits = &snapshot.connection.limits;
        let flows = metrics.streams.flows();
        let counted = Counted(flows.clone());
        if flows.fetch_add(1, Ordering::Relaxed) >= limits.udp_flows {
            return metrics.streams.dropped("flow_limit");
        }
        let client = Client::of_sender(&snapshot.client_address, &sender);
        let mut place = None;
        if limits.connections_per_client != 0 {
            place = self.worker.shared.clients.enter(client.addr, limits.connections_per_client);
            if place.is_none() {
                return metrics.streams.dropped("client_limit");
            }
        }
        let route_metrics = metrics.streams.route(&route.origin, Kind::Udp);
        let provenance = client.provenance.clone();
        let record = Record {
            kind: Kind::Udp,
            started: Instant::now(),
            client,
            sender,
            route: route.clone(),
            listener: snapshot.name.clone(),
            settings: snapshot.connection.clone(),
            sni: None,
            received: Cell::default(),
            sent: Cell::default(),
            attempts: Cell::default(),
            metrics: route_metrics,
        };
        let flow = Flow::new(self, key, record, counted, place);
        if let Err(reason) = flow.open() {
            // Nobody would read a line for each datagram of whoever goes on asking.
            return metrics.streams.dropped(reason.word());
        }
        flow.record.metrics.began.add(1);
        metrics.client(&provenance);
        self.flows.borrow_mut().insert(key, flow.clone());
        flow.forward(bytes);
    }

    pub(super) fn forget(&self, key: &Key) {
        self.flows.borrow_mut().remove(key);
    }

    /// Ends flows that are silent too long.
    fn sweep(&self) {
        let now = self.worker.timers.now_ms();
        let leaving = self.leaving.get();
        let is_over = |flow: &Flow| {
            let idle = flow.record.route.timeouts.idle;
            let idle = if leaving { idle.min(LEAVING) } else { idle };
            flow.last_ms().saturating_add(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)) <= now
        };
        let over: Vec<Rc<Flow>> = self.flows.borrow().values().filter(|flow| is_over(flow)).cloned().collect();
        for flow in over {
            self.forget(&flow.key);
            flow.finish(self, End::Idle, None);
        }
        let mut flows = self.flows.borrow_mut();
        if flows.capacity() > 1024 && flows.len() * 8 < flows.capacity() {
            flows.shrink_to_fit();
        }
    }
}

impl Drop for UdpListener {
    fn drop(&mut self) {
        let flows: Vec<Rc<Flow>> = self.flows.borrow_mut().drain().map(|(_, flow)| flow).collect();
        for flow in flows {
            flow.finish(self, End::Closed, None);
        }
    }
}

/// Whether the header names the client that the flow is for.
fn is_same_client(header: &ProxyHeader, record: &Record) -> bool {
    header.source.is_none_or(|source| (source.ip(), source.port()) == (record.sender.addr, record.sender.port))
}
