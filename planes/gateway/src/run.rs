//! Tasks of the gateway.
//!
//! ```text
//!  control runtime (the caller's)                       worker threads, one runtime each
//!  ┌──────────────────────────────┐   Update (mpsc 8)   ┌────────────────────────────────┐
//!  │ control: snapshot -> Applier ├────────────────────>│ accept loops, one a listener   │
//!  │          names, every 10 s   │<────────────────────┤ connections, one task each     │
//!  └──────────────────────────────┘   done (oneshot)    │ tick: deadlines, idle pools    │
//!                                                       └────────────────────────────────┘
//! ```
//! The channel holds 8 updates; control waits for each to be done before the next, so it never fills.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use headwater_model::gateway::GatewaySnapshot;
use headwater_net_io::datagram::DatagramListener;
use headwater_process::access_log::AccessLogSink;
use headwater_process::publish::Subscriber;
use tokio::sync::{mpsc, oneshot, watch};

use crate::accept::{self, ListenerSlot};
use crate::apply::{Applied, Applier, ListenSocket, Update};
use crate::auth::Passwords;
use crate::clients::Clients;
use crate::dns::{Names, REFRESH};
use crate::log::AccessLog;
use crate::metrics::{GatewayMetrics, WorkerMetrics};
use crate::stream;
use crate::timer::TICK;
use crate::trace::Exporters;
use crate::worker::{Shared, Worker};

/// Time between two tries to open what could not be opened.
const REOPEN: Duration = Duration::from_secs(1);
/// For the last spans to be sent once the workers are gone.
const LAST_SPANS: Duration = Duration::from_secs(5);

/// How the gateway is run; everything else stands in its snapshot.
#[derive(Debug, Clone)]
pub struct Config {
    /// Threads that serve; one for each core is right.
    pub workers: usize,
    /// Names this gateway among others: its pod.
    pub instance: String,
}

enum Command {
    Update(Update),
    /// Stop accepting, end what is idle, answer when the last connection is gone.
    Drain(oneshot::Sender<()>),
}

/// A running gateway.
pub struct Gateway {
    commands: Vec<mpsc::Sender<Command>>,
    threads: Vec<std::thread::JoinHandle<()>>,
    control: tokio::task::JoinHandle<()>,
    applied: watch::Receiver<Applied>,
    exporters: Arc<Exporters>,
}

impl Gateway {
    /// Starts the workers, and serves what `snapshots` says from now on. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn start(
        config: &Config,
        snapshots: Subscriber<GatewaySnapshot>,
        metrics: &GatewayMetrics,
        access_log: &AccessLogSink,
    ) -> std::io::Result<Self> {
        let exporters = Exporters::new(config.instance.clone(), metrics.spans());
        let (clients, passwords) = (Clients::default(), Passwords::default());
        let shared = Arc::new(Shared { clients, passwords, exporters: exporters.clone() });
        let mut commands = Vec::new();
        let mut threads = Vec::new();
        for index in 0..config.workers.max(1) {
            let (sender, receiver) = mpsc::channel(8);
            let (shared, metrics, log) = (shared.clone(), metrics.clone(), access_log.buffer());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let work = move || {
                let local = tokio::task::LocalSet::new();
                let worker = Worker::new(shared, WorkerMetrics::new(&metrics), AccessLog::new(log));
                local.block_on(&runtime, serve(worker, receiver));
            };
            threads.push(std::thread::Builder::new().name(format!("gateway-{index}")).spawn(work)?);
            commands.push(sender);
        }
        let (report, applied) = watch::channel(Applied::default());
        let applier = Applier::new(commands.len());
        metrics.watch_connections(applier.open_connections());
        let control = tokio::spawn(control(applier, snapshots, commands.clone(), report, metrics.clone()));
        Ok(Self { commands, threads, control, applied, exporters })
    }

    /// What became of the latest snapshot; changes when every worker serves it.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.clone()
    }

    /// Stops accepting, lets requests finish for at most `patience`, and ends. True when all of them finished.
    pub async fn drain(self, patience: Duration) -> bool {
        self.control.abort();
        let mut done = Vec::new();
        for commands in &self.commands {
            let (sender, receiver) = oneshot::channel();
            if commands.send(Command::Drain(sender)).await.is_ok() {
                done.push(receiver);
            }
        }
        let all = futures_util::future::join_all(done);
        let finished = tokio::time::timeout(patience, all).await.is_ok();
        drop(self.commands);
        let _ =
            tokio::task::spawn_blocking(move || self.threads.into_iter().for_each(|thread| drop(thread.join()))).await;
        self.exporters.finish(LAST_SPANS).await;
        finished
    }
}

/// Owner of sockets and compiled state: turns each snapshot into updates, one at a time.
async fn control(
    mut applier: Applier,
    mut snapshots: Subscriber<GatewaySnapshot>,
    workers: Vec<mpsc::Sender<Command>>,
    report: watch::Sender<Applied>,
    metrics: GatewayMetrics,
) {
    let mut names = Names::default();
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reopen = tokio::time::interval(REOPEN);
    reopen.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let snapshot = snapshots.load();
        if snapshot.generation != 0 {
            let mut applied = send(&mut applier, &snapshot, &names, &workers).await;
            if names.refresh(&snapshot, true).await {
                applied = send(&mut applier, &snapshot, &names, &workers).await;
            }
            metrics.generation(applied.generation);
            tracing::debug!(generation = applied.generation, faults = applied.faults.len(), "snapshot applied");
            report.send_replace(applied);
        }
        loop {
            let is_refused =
                applier.waits() || report.borrow().listeners.iter().any(|listener| listener.error.is_some());
            tokio::select! {
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
                _ = refresh.tick() => {
                    if !names.is_empty() && names.refresh(&snapshot, false).await {
                        send(&mut applier, &snapshot, &names, &workers).await;
                    }
                }
                // Who holds the port may be the gateway before this one, which drains.
                _ = reopen.tick(), if is_refused => {
                    let again = send(&mut applier, &snapshot, &names, &workers).await;
                    report.send_if_modified(|known| {
                        let differs = *known != again;
                        *known = again;
                        differs
                    });
                }
            }
        }
    }
}

async fn send(
    applier: &mut Applier,
    snapshot: &GatewaySnapshot,
    names: &Names,
    workers: &[mpsc::Sender<Command>],
) -> Applied {
    let (updates, acks, applied) = applier.apply(snapshot, names);
    for (worker, update) in workers.iter().zip(updates) {
        // A worker that is gone is draining.
        let _ = worker.send(Command::Update(update)).await;
    }
    for ack in acks {
        let _ = ack.await;
    }
    applied
}

/// A listener of this worker, and how to stop it.
struct Running {
    slot: Rc<ListenerSlot>,
    stop: watch::Sender<bool>,
}

/// The life of one worker.
async fn serve(worker: Rc<Worker>, mut commands: mpsc::Receiver<Command>) {
    let mut running: HashMap<u64, Running> = HashMap::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut draining: Option<oneshot::Sender<()>> = None;
    // Listeners that still take what waits in their queues.
    let mut closing: Vec<watch::Sender<bool>> = Vec::new();
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::Update(update)) => apply(&worker, &mut running, update),
                Some(Command::Drain(done)) => {
                    for (_, gone) in running.drain() {
                        gone.slot.remove();
                        let _ = gone.stop.send(true);
                        closing.push(gone.stop);
                    }
                    worker.timers.drain(None);
                    draining = Some(done);
                }
                None => return worker.tracer.close(),
            },
            _ = tick.tick() => {
                worker.timers.sweep();
                worker.upstreams.sweep(worker.timers.now_ms());
                worker.log.flush();
                worker.tracer.flush();
                if worker.timers.is_empty()
                    && closing.iter().all(watch::Sender::is_closed)
                    && let Some(done) = draining.take()
                {
                    worker.log.flush();
                    worker.tracer.close();
                    let _ = done.send(());
                }
            }
        }
    }
}

fn apply(worker: &Rc<Worker>, running: &mut HashMap<u64, Running>, update: Update) {
    worker.upstreams.apply(&update.pools, worker);
    worker.metrics.forget_replaced();
    let mut kept = HashMap::with_capacity(update.listeners.len());
    for listener in update.listeners {
        if let Some(known) = running.remove(&listener.group) {
            known.slot.swap(listener.compiled);
            kept.insert(listener.group, known);
            continue;
        }
        let Some(socket) = listener.socket else { continue };
        let name = listener.compiled.snapshot.name.clone();
        let slot = ListenerSlot::new(listener.compiled, listener.group, listener.open);
        let (stop, stopped) = watch::channel(false);
        let (worker, served) = (worker.clone(), slot.clone());
        let registered = match socket {
            ListenSocket::Stream(socket) => tokio::net::TcpListener::from_std(socket)
                .map(|socket| tokio::task::spawn_local(accept::run(worker, served, socket, stopped))),
            ListenSocket::Datagram(socket) => DatagramListener::from_std(socket)
                .map(|socket| tokio::task::spawn_local(stream::udp::run(worker, served, socket, stopped))),
        };
        if let Err(error) = registered {
            tracing::error!(listener = %name, %error, "listener not registered");
            continue;
        }
        kept.insert(listener.group, Running { slot, stop });
    }
    // What is left was removed: stop accepting, and let its connections end when they are idle.
    for (group, gone) in running.drain() {
        gone.slot.remove();
        let _ = gone.stop.send(true);
        worker.timers.drain(Some(group));
    }
    *running = kept;
    let _ = update.done.send(());
}
