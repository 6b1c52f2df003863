//! The thread that has the engine and the sockets.
//!
//! ```text
//!  one task for each socket ──frame──┐
//!  interfaces (another thread) ──────┼──> L2 ──Effect──> sockets, groups
//!  control task ──Order──────────────┘     └──Told──> control task
//! ```
//!
//! It has a runtime of its own: an answer waits for nothing else that the process does.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::Instant;

use headwater_l2::{Counted, Effect, Event, Interface, L2, Mac, Report, Wanted};
use headwater_net_io::frame::{FrameKind, FrameSocket, Groups, MAX_FRAME};
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Duration, sleep, sleep_until};

use super::interfaces::Found;
use super::metrics::Counts;

/// What the control task wants.
#[derive(Debug)]
pub(super) enum Order {
    Wanted(Vec<Wanted>),
    Members(Vec<Mac>),
    Known(bool),
    /// Networks of pods: interfaces with an address of them are left alone.
    Pods(Vec<IpNet>),
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) address: IpAddr,
    pub(super) report: Report,
}

/// Frames that may wait; when there are more, they wait in the kernel, and then are lost.
const WAITING_FRAMES: usize = 256;

/// An interface that could not be opened is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Starts the thread, in the network namespace of this one. It ends when the orders' sender is dropped.
pub(super) fn start(
    orders: mpsc::UnboundedReceiver<Order>,
    interfaces: watch::Receiver<Found>,
    counts: Counts,
) -> io::Result<mpsc::UnboundedReceiver<Told>> {
    let (told, reports) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("l2".to_owned()).spawn(move || {
        let (frames, heard) = mpsc::channel(WAITING_FRAMES);
        let wire = Wire { engine: L2::new(), pods: Vec::new(), open: BTreeMap::new(), frames, told, counts };
        runtime.block_on(wire.run(orders, interfaces, heard));
    })?;
    Ok(reports)
}

struct Wire {
    engine: L2,
    pods: Vec<IpNet>,
    open: BTreeMap<u32, Open>,
    frames: mpsc::Sender<(u32, Vec<u8>)>,
    told: mpsc::UnboundedSender<Told>,
    counts: Counts,
}

/// An interface with its sockets.
struct Open {
    interface: Interface,
    arp: Option<Ear>,
    neighbour: Option<Ear>,
    groups: Groups,
}

/// A socket, and the task that reads it.
struct Ear {
    socket: std::sync::Arc<FrameSocket>,
    task: JoinHandle<()>,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Wire {
    async fn run(
        mut self,
        mut orders: mpsc::UnboundedReceiver<Order>,
        mut interfaces: watch::Receiver<Found>,
        mut heard: mpsc::Receiver<(u32, Vec<u8>)>,
    ) {
        let mut whole = self.place(&interfaces.borrow_and_update().clone());
        loop {
            let deadline = self.engine.deadline().map(tokio::time::Instant::from_std);
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Wanted(wanted)) => self.step(Event::Wanted(&wanted)),
                    Some(Order::Members(macs)) => self.step(Event::Members(&macs)),
                    Some(Order::Known(known)) => self.step(Event::Known(known)),
                    Some(Order::Pods(networks)) => {
                        self.pods = networks;
                        whole = self.place(&interfaces.borrow_and_update().clone());
                    }
                    None => return,
                },
                Ok(()) = interfaces.changed() => whole = self.place(&interfaces.borrow_and_update().clone()),
                () = sleep(RETRY), if !whole => whole = self.place(&interfaces.borrow().clone()),
                () = async { sleep_until(deadline.expect("it is there")).await }, if deadline.is_some() => {
                    self.step(Event::Tick);
                }
                frame = heard.recv() => {
                    let (interface, bytes) = frame.expect("the thread holds a sender itself");
                    self.step(Event::Frame { interface, bytes: &bytes });
                }
            }
        }
    }

    /// Opens what is new and closes what is gone; whether every interface could be opened.
    fn place(&mut self, found: &Found) -> bool {
        let wanted: Vec<&Interface> = found.outside(&self.pods).collect();
        self.open.retain(|_, open| wanted.contains(&&open.interface));
        let mut whole = true;
        for interface in wanted {
            if self.open.contains_key(&interface.index) {
                continue;
            }
            match self.listen(interface) {
                Ok(open) => {
                    tracing::info!(interface = &*interface.name, mac = %interface.mac, "answering ARP and NDP here");
                    self.open.insert(interface.index, open);
                }
                Err(error) => {
                    whole = false;
                    tracing::warn!(interface = &*interface.name, %error, "interface cannot be listened on; it is tried again");
                }
            }
        }
        let heard: Vec<Interface> = self.open.values().map(|open| open.interface.clone()).collect();
        self.step(Event::Interfaces { heard: &heard, own: &found.own });
        whole
    }

    fn listen(&self, interface: &Interface) -> io::Result<Open> {
        let ear = |kind| -> io::Result<Ear> {
            let socket = std::sync::Arc::new(FrameSocket::open(interface.index, kind)?);
            let (reader, frames, index) = (socket.clone(), self.frames.clone(), interface.index);
            let task = tokio::spawn(async move {
                let mut bytes = [0; MAX_FRAME];
                loop {
                    match reader.receive(&mut bytes).await {
                        Ok(length) => {
                            if frames.send((index, bytes[..length].to_vec())).await.is_err() {
                                return;
                            }
                        }
                        // It went down, which is told elsewhere; the socket goes on when it is up again.
                        Err(_) => sleep(RETRY).await,
                    }
                }
            });
            Ok(Ear { socket, task })
        };
        Ok(Open {
            interface: interface.clone(),
            arp: interface.arp.then(|| ear(FrameKind::Arp)).transpose()?,
            neighbour: interface.link_local.is_some().then(|| ear(FrameKind::Neighbour)).transpose()?,
            groups: Groups::new(interface.index),
        })
    }

    fn step(&mut self, event: Event<'_>) {
        for effect in self.engine.step(Instant::now(), event) {
            match effect {
                Effect::Send { interface, frame, address, counted } => self.send(interface, &frame, address, counted),
                Effect::Join { interface, group } => {
                    if let Some(open) = self.open.get_mut(&interface)
                        && let Err(error) = open.groups.join(group)
                    {
                        let interface = &*open.interface.name;
                        tracing::warn!(interface, %group, %error, "group cannot be joined: solicitations may not come here");
                    }
                }
                Effect::Leave { interface, group } => {
                    if let Some(open) = self.open.get_mut(&interface) {
                        open.groups.leave(group);
                    }
                }
                Effect::Report { address, report: Report::Requested } => self.counts.requested(address),
                Effect::Report { address, report } => {
                    // The control task is gone only when everything ends.
                    let _ = self.told.send(Told { address, report });
                }
            }
        }
    }

    fn send(&mut self, interface: u32, frame: &[u8], address: IpAddr, counted: Counted) {
        let Some(open) = self.open.get(&interface) else { return };
        let ear = if address.is_ipv4() { &open.arp } else { &open.neighbour };
        let Some(ear) = ear else { return };
        match ear.socket.send(frame) {
            Ok(()) => self.counts.sent(address, counted),
            Err(error) => tracing::debug!(interface = &*open.interface.name, %address, %error, "frame not sent"),
        }
    }
}
