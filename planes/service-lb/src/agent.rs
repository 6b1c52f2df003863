//! The thread that owns the kernel: everything that is programmed goes through here, in order.
//!
//! ```text
//!  run ── Work (snapshot, peers) ──┐
//!  nft events ── Drift ────────────┼─> queue -> drained at once -> tunnel -> rules -> elements -> State
//!  rtnetlink ── Drift ─────────────┘
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use headwater_model::nat::{Family, ServiceSnapshot};
use headwater_model::origin::NamespacedName;
use headwater_model::tunnel::{Peers, TunnelEnd};
use headwater_netlink::{self as netlink, Netlink, NetlinkError};
use headwater_nft::{self as nft, Events, NftError};
use tokio::sync::watch;

use crate::plan::Planner;
use crate::state::{PeerState, State, TunnelState};
use crate::tables::{Base, Tables};
use crate::transparent;
use crate::tunnel::{self, Standing, TunnelProblem};

/// Nothing was applied: the next try comes after this long, then twice as long, up to the other.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// A tunnel that could not be made is tried again.
const TUNNEL_RETRY: Duration = Duration::from_secs(10);

/// Changes by others are looked at together when they follow closely.
const DRIFT_QUIET: Duration = Duration::from_millis(20);

/// Own commits by the program `nft` that are remembered until their events come.
const OWN_LOADS: usize = 256;

/// How long a watching thread waits before it looks whether it is still wanted.
const WATCH_TURN: Duration = Duration::from_secs(1);

/// What is wanted in the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) snapshot: Arc<ServiceSnapshot>,
    pub(crate) changed: Vec<NamespacedName>,
    pub(crate) peers: Arc<Peers>,
    /// The end of the tunnel that this node is to have.
    pub(crate) own: Result<TunnelEnd, String>,
}

#[derive(Debug)]
pub(crate) enum Order {
    Work(Work),
    /// A commit that is not the agent's socket's touched the tables.
    Commit {
        generation: u32,
    },
    /// Nobody knows whether somebody touched them.
    Lost,
    /// Somebody touched the tunnel device, or a routing rule.
    Links,
    /// Addresses of this node changed.
    Addresses,
    /// Leave the kernel as it is, and end.
    Stop,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    #[error(transparent)]
    Nft(#[from] NftError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("the kernel lacks {feature}: {source}")]
    Feature { feature: &'static str, source: NftError },
}

/// Features of the kernel that the rules need, each as rules that nothing else needs.
const FEATURES: [(&str, &str); 9] = [
    ("nf_tables with maps (CONFIG_NF_TABLES)", "map m { type ipv4_addr . inet_proto . inet_service : verdict; }"),
    (
        "NAT (CONFIG_NFT_NAT)",
        "chain c { type nat hook prerouting priority -100; meta l4proto tcp dnat to 192.0.2.1:1\n}",
    ),
    ("masquerading (CONFIG_NFT_MASQ)", "chain c { type nat hook postrouting priority 100; masquerade\n}"),
    ("numgen (CONFIG_NFT_NUMGEN)", "chain c { meta priority set numgen random mod 2\n}"),
    ("jhash (CONFIG_NFT_HASH)", "chain c { meta priority set jhash ip saddr mod 2\n}"),
    ("fib (CONFIG_NFT_FIB_IPV4)", "chain c { type filter hook prerouting priority 0; fib saddr type local accept\n}"),
    ("conntrack marks (CONFIG_NFT_CT)", "chain c { type filter hook prerouting priority 0; ct mark set 1\n}"),
    (
        "reject in prerouting (CONFIG_NFT_REJECT, Linux 5.9)",
        "chain c { type filter hook prerouting priority 0; reject\n}",
    ),
    (
        "sets that the packet path fills",
        "set s { type ipv4_addr; size 16; flags dynamic,timeout; }\n chain c { add @s { ip saddr timeout 1s }\n}",
    ),
];

/// What only `transparent` needs.
const SOCKET: (&str, &str) = (
    "socket matching (CONFIG_NFT_SOCKET, Linux 5.11)",
    "chain c { type filter hook prerouting priority -145; socket transparent 1 socket wildcard 0 accept\n}",
);

/// The first of these features that the kernel does not have.
fn lacking(features: &[(&'static str, &str)]) -> Option<(&'static str, NftError)> {
    const PROBE: &str = "headwater-probe";
    features.iter().find_map(|(feature, rules)| {
        let text = format!("table ip {PROBE} {{ {rules}\n}}\ndelete table ip {PROBE}\n");
        nft::load(&text).err().map(|error| (*feature, error))
    })
}

/// The thread; it ends when its queue does, and leaves the kernel as it is.
pub(crate) struct Agent {
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) state: watch::Receiver<Arc<State>>,
    /// The watching threads end soon after this, and with them the last senders of orders.
    _alive: Arc<()>,
}

impl Agent {
    /// Opens the kernel's sockets and starts the threads. `addresses`: told whenever they may have changed.
    pub(crate) fn start(
        node: Arc<str>,
        tunnel_mtu: Option<u32>,
        transparent: bool,
        addresses: watch::Sender<Vec<IpAddr>>,
    ) -> Result<Self, KernelError> {
        Self::over(Tables::open()?, node, tunnel_mtu, transparent, addresses)
    }

    pub(crate) fn over(
        tables: Tables,
        node: Arc<str>,
        tunnel_mtu: Option<u32>,
        transparent: bool,
        addresses: watch::Sender<Vec<IpAddr>>,
    ) -> Result<Self, KernelError> {
        let mut netlink = Netlink::open()?;
        addresses.send_replace(own_addresses(&mut netlink)?);
        // The thousands of elements of a start would displace what others do, and be read again.
        let events = Events::of_others(&Tables::names(), tables.port())?;
        let links = netlink::Watch::open()?;
        let (orders, queue) = mpsc::channel();
        let (state, states) = watch::channel(Arc::new(State::new(node.clone())));
        let worker = Worker {
            planner: Planner::new(node),
            tables,
            netlink,
            tunnel_mtu,
            transparent,
            base: None,
            standing: None,
            wanted: None,
            described: Arc::default(),
            unapplied: BTreeSet::new(),
            reconcile: true,
            check_tunnel: true,
            retry: None,
            addresses,
            own_loads: VecDeque::new(),
            state,
            conntrack: None,
        };
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.into()).spawn(work).expect("the system has room for a thread");
        };
        let alive = Arc::new(());
        let (tell, wanted) = (orders.clone(), Arc::downgrade(&alive));
        spawn("nft-events", Box::new(move || watch_rules(events, &tell, &wanted)));
        let (tell, wanted, device) = (orders.clone(), Arc::downgrade(&alive), states.clone());
        spawn("link-events", Box::new(move || watch_links(links, &tell, &wanted, &device)));
        spawn("kernel", Box::new(move || worker.run(&queue)));
        Ok(Self { orders, state: states, _alive: alive })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // A thread that has ended needs no telling.
        let _ = self.orders.send(Order::Stop);
    }
}

/// Takes everything out of the kernel that the agent of a node ever puts there.
///
/// # Errors
/// What the kernel says; what could be taken away is gone.
pub fn cleanup() -> Result<(), KernelError> {
    // Rules first: without the device they would send packets nowhere.
    let tables = Tables::open()?.delete();
    let mut netlink = Netlink::open()?;
    let links = tunnel::remove(&mut netlink);
    let marked = transparent::remove(&mut netlink);
    tables?;
    links?;
    Ok(marked?)
}

fn own_addresses(netlink: &mut Netlink) -> Result<Vec<IpAddr>, NetlinkError> {
    let mut all: Vec<IpAddr> = netlink.addresses()?.into_iter().map(|(_, net)| net.addr()).collect();
    all.sort();
    all.dedup();
    Ok(all)
}

fn watch_rules(mut events: Events, orders: &mpsc::Sender<Order>, wanted: &Weak<()>) {
    while wanted.strong_count() > 0 {
        let order = match events.wait(WATCH_TURN) {
            Ok(None) => continue,
            Ok(Some(nft::Notice::Commit(commit))) => Order::Commit { generation: commit.generation },
            Ok(Some(_)) => Order::Lost,
            Err(error) => {
                tracing::warn!(%error, "events about nftables cannot be read");
                thread::sleep(WATCH_TURN);
                Order::Lost
            }
        };
        if orders.send(order).is_err() {
            return;
        }
    }
}

fn watch_links(
    mut links: netlink::Watch,
    orders: &mpsc::Sender<Order>,
    wanted: &Weak<()>,
    state: &watch::Receiver<Arc<State>>,
) {
    while wanted.strong_count() > 0 {
        let device = state.borrow().tunnel.index();
        let order = match links.wait(WATCH_TURN) {
            Ok(None) => continue,
            Ok(Some(netlink::Notice::Link(index) | netlink::Notice::Neighbour(index))) => {
                if device != Some(index) {
                    continue;
                }
                Order::Links
            }
            Ok(Some(netlink::Notice::Rule)) => Order::Links,
            Ok(Some(netlink::Notice::Address(_))) => Order::Addresses,
            Ok(Some(_)) => {
                if orders.send(Order::Addresses).is_err() {
                    return;
                }
                Order::Links
            }
            Err(error) => {
                tracing::warn!(%error, "events about links cannot be read");
                thread::sleep(WATCH_TURN);
                Order::Addresses
            }
        };
        if orders.send(order).is_err() {
            return;
        }
    }
}

/// A try that failed, and when the next one is due.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    after: Duration,
}

struct Worker {
    planner: Planner,
    tables: Tables,
    netlink: Netlink,
    tunnel_mtu: Option<u32>,
    transparent: bool,
    /// The rules that are loaded.
    base: Option<Base>,
    standing: Option<Standing>,
    wanted: Option<Work>,
    /// The peers that the state tells of.
    described: Arc<Peers>,
    /// Services that changed since the last time that all was well.
    unapplied: BTreeSet<NamespacedName>,
    /// Whether the kernel must be read: at first, and when somebody touched it.
    reconcile: bool,
    /// Whether the tunnel must be looked at.
    check_tunnel: bool,
    retry: Option<Retry>,
    addresses: watch::Sender<Vec<IpAddr>>,
    /// Generations of the ruleset that the program `nft` made for this agent.
    own_loads: VecDeque<u32>,
    state: watch::Sender<Arc<State>>,
    conntrack: Option<crate::conntrack::Sweeper>,
}

impl Worker {
    fn run(mut self, queue: &mpsc::Receiver<Order>) {
        loop {
            let order = match self.retry {
                None => queue.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(retry) => queue.recv_timeout(retry.at.saturating_duration_since(Instant::now())),
            };
            match order {
                Ok(order) => {
                    if !self.take(order, queue) {
                        return;
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if self.wanted.is_some() {
                self.turn();
            }
        }
    }

    /// Takes an order, and all others that wait; false: the last was to end.
    fn take(&mut self, first: Order, queue: &mpsc::Receiver<Order>) -> bool {
        let mut next = Some(first);
        let (mut addresses, mut quiet) = (false, Duration::ZERO);
        while let Some(order) = next {
            match order {
                Order::Work(work) => {
                    self.unapplied.extend(work.changed.iter().cloned());
                    self.wanted = Some(work);
                }
                // Those that `nft` made for this agent are known by the time that they are read of.
                Order::Commit { generation } if self.own_loads.contains(&generation) => {}
                Order::Commit { generation } => {
                    tracing::warn!(generation, "somebody changed nftables of this agent; they are put right");
                    self.reconcile = true;
                    quiet = DRIFT_QUIET;
                }
                Order::Lost => {
                    self.reconcile = true;
                    quiet = DRIFT_QUIET;
                }
                Order::Links => {
                    self.check_tunnel = true;
                    quiet = DRIFT_QUIET;
                }
                Order::Addresses => addresses = true,
                Order::Stop => return false,
            }
            next = queue.recv_timeout(quiet).ok();
        }
        if addresses {
            match own_addresses(&mut self.netlink) {
                Ok(own) => drop(self.addresses.send_if_modified(|known| std::mem::replace(known, own.clone()) != own)),
                Err(error) => tracing::warn!(%error, "addresses of this node cannot be read"),
            }
            // The tunnel stands on one of them.
            self.check_tunnel = true;
        }
        true
    }

    fn turn(&mut self) {
        let started = Instant::now();
        self.state.send_modify(|state| {
            Arc::make_mut(state).waiting_since.get_or_insert_with(SystemTime::now);
        });
        let result = self.apply();
        let after = match &result {
            Ok(()) => self.standing.is_none().then_some(TUNNEL_RETRY),
            Err(_) => Some(self.retry.map_or(FIRST_RETRY, |retry| (retry.after * 2).min(LAST_RETRY))),
        };
        self.retry = after.map(|after| Retry { at: Instant::now() + after, after });
        let Some(work) = &self.wanted else { return };
        self.state.send_modify(|state| {
            let state = Arc::make_mut(state);
            match &result {
                Ok(()) => {
                    if state.error.take().is_some() {
                        tracing::info!("the kernel takes changes again");
                    }
                    state.generation = Some(work.snapshot.generation);
                    state.applied_at = Some(SystemTime::now());
                    state.waiting_since = None;
                    state.last_apply = started.elapsed();
                }
                Err(error) => {
                    let text = with_causes(error);
                    if state.error.as_ref() != Some(&text) {
                        tracing::error!(error = text, "the kernel is not as it should be");
                    }
                    state.error = Some(text);
                }
            }
        });
    }

    fn apply(&mut self) -> Result<(), KernelError> {
        let Some(work) = self.wanted.clone() else { return Ok(()) };
        let tunnel_due = std::mem::take(&mut self.check_tunnel) || self.own_end_changed(&work);
        if tunnel_due {
            self.tunnel(&work);
        }
        let node = &work.snapshot.node;
        let base = Base {
            tunnel: self.standing.as_ref().map(|standing| standing.rules.clone()),
            pods: [Family::V4, Family::V6].into_iter().flat_map(|family| node.local_pods(family)).copied().collect(),
            cluster: node.cluster_cidrs.clone(),
            services: node.service_cidrs.clone(),
            transparent: self.transparent,
        };
        let changed: Vec<NamespacedName> = self.unapplied.iter().cloned().collect();
        let before: Vec<_> = changed.iter().map(|id| self.planner.rules(id)).collect();
        let plan = self.planner.services(&work.snapshot, &changed);
        let around = self.planner.surroundings(&work.peers, self.standing.is_some(), &node.node_port_addresses);
        let others = !around.is_empty();
        // The planner says what is wanted now; whatever goes wrong from here on is put right by reading the kernel.
        self.unapplied.clear();
        self.check_tunnel = true;
        let afresh = std::mem::replace(&mut self.reconcile, true);
        if self.transparent && (tunnel_due || afresh) {
            transparent::ensure(&mut self.netlink)?;
        }
        if let Some(standing) = &self.standing
            && (tunnel_due || others)
        {
            tunnel::peers(&mut self.netlink, standing.index, self.planner.fabric())?;
        }
        if afresh || self.base.as_ref() != Some(&base) {
            self.load(&base)?;
            self.base = Some(base);
            self.compare()?;
        } else {
            let applied = self.tables.apply(&plan).and_then(|()| self.tables.apply(&around));
            if let Err(error) = applied {
                tracing::warn!(%error, "a change was refused; the kernel is read again");
                self.load(&base)?;
                self.compare()?;
            } else if !plan.is_empty() || others {
                tracing::debug!(elements = plan.elements() + around.elements(), "applied");
            }
            self.note_loads(!plan.picks.is_empty() || !around.picks.is_empty())?;
        }
        (self.reconcile, self.check_tunnel) = (false, false);
        self.sweep(&work, &changed, before);
        if tunnel_due || afresh || !Arc::ptr_eq(&self.described, &work.peers) {
            self.describe(&work);
        }
        Ok(())
    }

    fn own_end_changed(&self, work: &Work) -> bool {
        match (&self.standing, &work.own) {
            (Some(standing), Ok(end)) => standing.end != *end,
            (None, _) | (Some(_), Err(_)) => true,
        }
    }

    fn tunnel(&mut self, work: &Work) {
        let made = match &work.own {
            Ok(end) => {
                let node = &work.snapshot.node;
                let ipv6 = node.node_port_addresses.iter().any(IpAddr::is_ipv6)
                    || node.cluster_cidrs.iter().chain(&node.pod_cidrs).any(|range| range.addr().is_ipv6());
                tunnel::ensure(&mut self.netlink, end, self.tunnel_mtu, ipv6)
            }
            Err(problem) => Err(TunnelProblem::NotWanted(problem.clone())),
        };
        let problem = match made {
            Ok(standing) => {
                if standing.recreated {
                    // Its table is bound to the device that is gone.
                    self.base = None;
                }
                self.standing = Some(standing);
                None
            }
            Err(error) => {
                self.standing = None;
                Some(with_causes(&error))
            }
        };
        let state = TunnelState::of(self.standing.as_ref(), problem);
        if self.state.borrow().tunnel != state {
            if let Some(problem) = state.problem() {
                tracing::warn!(problem, "clients are masqueraded: there is no tunnel");
            }
            self.state.send_modify(|all| Arc::make_mut(all).tunnel = state);
        }
    }

    fn load(&mut self, base: &Base) -> Result<(), KernelError> {
        let planner = &self.planner;
        if self.base.as_ref().is_none_or(|known| known.tunnel != base.tunnel) {
            self.tables.drop_device()?;
        }
        if let Err(error) = self.tables.load(base, |family| planner.picks(family)) {
            let more = if base.transparent { &[SOCKET][..] } else { &[] };
            if let Some((feature, source)) = lacking(&FEATURES).or_else(|| lacking(more)) {
                return Err(KernelError::Feature { feature, source });
            }
            return Err(error.into());
        }
        self.note_loads(true)
    }

    /// Remembers the generations that `nft` made on our behalf. One that somebody else made in between would be taken
    /// for ours; the next event of theirs is not.
    fn note_loads(&mut self, loaded: bool) -> Result<(), KernelError> {
        if loaded {
            let now = self.tables.generation()?;
            self.own_loads.extend(now.saturating_sub(2)..=now);
            while self.own_loads.len() > OWN_LOADS {
                self.own_loads.pop_front();
            }
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<(), KernelError> {
        let (counted, refused) = self.tables.reconcile(self.planner.everything(), self.standing.is_some())?;
        tracing::info!(
            kept = counted.kept,
            added = counted.added,
            deleted = counted.deleted,
            "the kernel was compared with what is wanted"
        );
        for placed in &refused {
            tracing::error!(element = %placed.element, set = ?placed.set, "refused by the kernel, and left out");
        }
        self.state.send_modify(|state| {
            Arc::make_mut(state).refused = refused.iter().map(|placed| placed.element.to_string()).collect();
        });
        Ok(())
    }

    fn describe(&mut self, work: &Work) {
        self.described = work.peers.clone();
        let peers: Vec<PeerState> = work
            .peers
            .by_name
            .values()
            .map(|peer| {
                PeerState::of(peer, self.planner.fabric().index(&peer.name).is_some(), &self.state.borrow().tunnel)
            })
            .collect();
        if self.state.borrow().peers != peers {
            self.state.send_modify(|state| Arc::make_mut(state).peers = peers);
        }
    }

    /// Forgets UDP flows to endpoints that no longer serve.
    fn sweep(
        &mut self,
        work: &Work,
        changed: &[NamespacedName],
        before: Vec<Option<Arc<headwater_model::nat::ServiceRules>>>,
    ) {
        let pairs: Vec<_> = changed.iter().zip(before).map(|(id, old)| (old, work.snapshot.get(id).cloned())).collect();
        let sweeper = match &mut self.conntrack {
            Some(sweeper) => sweeper,
            None => match crate::conntrack::Sweeper::open() {
                Ok(sweeper) => self.conntrack.insert(sweeper),
                Err(error) => {
                    tracing::warn!(%error, "conntrack cannot be opened: old UDP flows stay");
                    return;
                }
            },
        };
        if let Err(error) = sweeper.sweep(&pairs, &work.snapshot.node) {
            tracing::warn!(%error, "old UDP flows could not be forgotten; they are looked at again with the next change");
        }
    }
}

/// An error and what caused it, as one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, Result};
    use headwater_testkit::lab;

    use super::*;

    #[test]
    fn a_feature_that_the_kernel_refuses_is_named() -> Result<()> {
        lab::test(|lab| {
            lab.host("node")?.run(|| {
                assert!(lacking(&FEATURES).is_none());
                // What nft can say, and no kernel does.
                let impossible = ("rerouting before routing", "chain c { type route hook prerouting priority 0; }");
                let (feature, source) = lacking(&[FEATURES[0], impossible, FEATURES[1]]).context("it is lacking")?;
                let said = KernelError::Feature { feature, source }.to_string();
                assert!(said.starts_with("the kernel lacks rerouting before routing: "), "{said}");
                Ok(())
            })
        })
    }
}
