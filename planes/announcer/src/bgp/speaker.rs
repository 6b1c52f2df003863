//! All peers of a node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_bgp::{PeerConfig, Route, Status, Stop};
use headwater_net_io::listen::ListenError;
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::listener::Listener;
use super::peer::{Order, Task};
use super::watcher::Watchers;

/// Prefixes and what is told of them.
pub type Routes = BTreeMap<IpNet, Arc<Route>>;

/// Connections of one peer that wait to be looked at.
const ACCEPTED: usize = 4;

/// How BFD watches a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    pub profile: headwater_bfd::Profile,
    /// More than one hop away: other ports, and a time to live that may have shrunk.
    pub multihop: bool,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub session: PeerConfig,
    pub watch: Option<Watch>,
}

/// A peer and what it shall be told. What stays the same stays the same `Arc`: it costs nothing then.
#[derive(Debug, Clone)]
pub struct PeerPlan {
    pub peer: Peer,
    pub routes: Arc<Routes>,
}

/// Everything that a speaker shall do, by the peers' names.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub peers: BTreeMap<Arc<str>, PeerPlan>,
}

/// How a peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    pub session: Status,
    /// When the session was established.
    pub since: Option<Instant>,
    pub bfd: Option<headwater_bfd::Status>,
}

struct Running {
    orders: watch::Sender<Order>,
    status: watch::Receiver<PeerStatus>,
    accepted: mpsc::Sender<tokio::net::TcpStream>,
    task: JoinHandle<()>,
}

/// Speaks with all peers of a plan. When it is dropped connections end without a word.
pub struct Speaker {
    peers: BTreeMap<Arc<str>, Running>,
    /// Those that are no longer wanted, while they say their last words.
    leaving: Vec<JoinHandle<()>>,
    listener: Option<Listener>,
    watchers: Watchers,
    seed: u64,
}

impl Drop for Speaker {
    fn drop(&mut self) {
        for task in self.peers.values().map(|peer| &peer.task).chain(&self.leaving) {
            task.abort();
        }
    }
}

impl Speaker {
    /// Speaks with nobody yet. `listen`: where peers may connect; `None`: this side opens all connections.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn new(listen: Option<SocketAddr>, seed: u64) -> Result<Self, ListenError> {
        let listener = listen.map(Listener::start).transpose()?;
        Ok(Self { peers: BTreeMap::new(), leaving: Vec::new(), listener, watchers: Watchers::new(seed), seed })
    }

    /// Makes what runs what the plan says. Sessions whose part is the same go on.
    pub fn apply(&mut self, plan: Plan) {
        self.leaving.retain(|task| !task.is_finished());
        let gone: Vec<Arc<str>> = self.peers.keys().filter(|name| !plan.peers.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(running) = self.peers.remove(&name) {
                if let Some(listener) = &self.listener {
                    listener.shut(running.orders.borrow().peer.session.transport.address);
                }
                running.orders.send_modify(|order| order.stop = Some(Stop::Deconfigured));
                self.leaving.push(running.task);
            }
        }
        for (name, PeerPlan { peer, routes }) in plan.peers {
            let transport = peer.session.transport.clone();
            let open = match self.peers.get(&name) {
                Some(running) => {
                    let before = running.orders.borrow().peer.session.transport.clone();
                    if before != transport
                        && let Some(listener) = &self.listener
                    {
                        listener.shut(before.address);
                    }
                    running.orders.send_if_modified(|order| {
                        if order.peer == peer && Arc::ptr_eq(&order.routes, &routes) {
                            return false;
                        }
                        *order = Order { peer, routes, stop: None };
                        true
                    });
                    before != transport
                }
                None => {
                    let running = self.start(name.clone(), Order { peer, routes, stop: None });
                    self.peers.insert(name.clone(), running);
                    true
                }
            };
            if open
                && let Some(listener) = &self.listener
                && let Some(running) = self.peers.get(&name)
            {
                let key = transport.password.as_ref().map(|password| &*password.0);
                listener.open(transport.address, key, running.accepted.clone());
            }
        }
    }

    fn start(&mut self, name: Arc<str>, order: Order) -> Running {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let idle = headwater_bgp::Session::new(Duration::ZERO, order.peer.session.clone(), 0).status();
        let (orders, taken) = watch::channel(order);
        let (tell, status) = watch::channel(PeerStatus { session: idle, since: None, bfd: None });
        let (accepted, queue) = mpsc::channel(ACCEPTED);
        let task = Task::start(name, taken, queue, self.watchers.clone(), tell, self.seed);
        Running { orders, status, accepted, task: tokio::spawn(task) }
    }

    /// How each peer is.
    pub fn status(&self) -> BTreeMap<Arc<str>, PeerStatus> {
        self.peers.iter().map(|(name, running)| (name.clone(), running.status.borrow().clone())).collect()
    }

    /// Ends all sessions: withdraws first where routes shall not stay. Done when all last words are said, which takes
    /// 2 s at most for each peer, at the same time.
    pub async fn stop(mut self, stop: Stop) {
        for running in self.peers.values() {
            running.orders.send_modify(|order| order.stop = Some(stop));
        }
        for (_, running) in std::mem::take(&mut self.peers) {
            self.leaving.push(running.task);
        }
        for task in std::mem::take(&mut self.leaving) {
            // One that panicked said it in the log.
            let _ = task.await;
        }
    }
}
