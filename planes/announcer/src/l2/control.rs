//! The task that elects: what may be announced, and who is alive -> what this node announces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_kube_io::FleetChange;
use headwater_l2::{Candidate, Interfaces, Report, Wanted, elect};
use headwater_model::announce::{Announcements, L2Candidate, Silence, Vip};
use headwater_model::origin::NamespacedName;
use headwater_process::publish::Subscriber;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::config::RENEW;
use super::interfaces::Found;
use super::membership::Circle;
use super::state::{L2State, VipState};
use super::status::{AnnouncedServices, News, status};
use super::wire::{Order, Told};
use crate::metrics::Announced;

/// A node that was elected for less than this may not have announced the address yet.
const SETTLED: Duration = Duration::from_secs(2);

/// Events that may wait; more are not told.
pub(super) const WAITING_NEWS: usize = 256;

/// Owner of elections and of what is told of them.
pub(super) struct Control {
    pub(super) node: Arc<str>,
    pub(super) announcements: Subscriber<Announcements>,
    pub(super) circle: Circle,
    pub(super) interfaces: watch::Receiver<Found>,
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) reports: mpsc::UnboundedReceiver<Told>,
    pub(super) state: watch::Sender<Arc<L2State>>,
    pub(super) announced: Announced,
    pub(super) services: watch::Sender<AnnouncedServices>,
    pub(super) news: mpsc::Sender<News>,
    pub(super) memory: Memory,
}

/// What was decided and heard before.
#[derive(Default)]
pub(super) struct Memory {
    winners: BTreeMap<(NamespacedName, IpAddr), (Arc<str>, Instant)>,
    /// By address.
    wanted: Vec<Wanted>,
    /// Whether this node may announce anything, so that others have to know whether it is alive.
    is_candidate: bool,
    services: BTreeMap<IpAddr, Vec<NamespacedName>>,
    /// Of addresses that this node is elected for: whether it answers, or why not.
    standings: BTreeMap<IpAddr, Result<(), String>>,
    macs: Vec<headwater_l2::Mac>,
    pods: Vec<ipnet::IpNet>,
    known: Option<bool>,
    vips: Vec<VipState>,
    contests: u64,
}

impl Control {
    /// Until it is told to stop: then this node is silent first, and others hear of it after that.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut beat = interval(RENEW);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.note_interfaces();
        loop {
            tokio::select! {
                biased;
                // The handle was dropped: that is a stop without a farewell.
                stopped = &mut stop => {
                    drop(self.orders);
                    if stopped.is_ok() {
                        self.circle.leave().await;
                    }
                    return;
                }
                change = self.circle.next() => self.hear(change),
                changed = self.announcements.changed() => match changed {
                    Ok(()) => self.elect(),
                    Err(_) => std::future::pending().await,
                },
                Some(told) = self.reports.recv() => {
                    self.note(told);
                    while let Ok(told) = self.reports.try_recv() {
                        self.note(told);
                    }
                    self.show();
                }
                Ok(()) = self.interfaces.changed() => self.note_interfaces(),
                _ = beat.tick() => self.look_at_the_clock(),
            }
        }
    }

    fn hear(&mut self, change: FleetChange) {
        if self.circle.take(Instant::now(), change) {
            self.elect();
        }
    }

    fn note_interfaces(&mut self) {
        let found = self.interfaces.borrow_and_update().clone();
        self.circle.card.macs = found.interfaces.iter().map(|interface| interface.mac.to_string()).collect();
        self.elect();
    }

    /// Whether the others know this node, and whether its Lease is needed still.
    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        let known = self.circle.is_known(now);
        if self.memory.known.replace(known) != Some(known) {
            let _ = self.orders.send(Order::Known(known));
        }
        self.circle.stand(now, self.memory.is_candidate);
    }

    fn elect(&mut self) {
        let macs = self.circle.macs();
        if macs != self.memory.macs {
            let _ = self.orders.send(Order::Members(macs.clone()));
            self.memory.macs = macs;
        }
        let now = Instant::now();
        let announcements = self.announcements.load();
        if announcements.pod_networks != self.memory.pods {
            // Before anything is wanted: it is not to be announced there even once.
            let _ = self.orders.send(Order::Pods(announcements.pod_networks.clone()));
            self.memory.pods = announcements.pod_networks.clone();
        }
        let is_ours = |candidate: &L2Candidate| candidate.node == self.node;
        self.memory.is_candidate = announcements.vips.iter().any(|vip| candidates(vip).iter().any(is_ours));
        self.look_at_the_clock();
        if !self.circle.is_ready() {
            return;
        }
        let mut wanted: BTreeMap<IpAddr, Wanted> = BTreeMap::new();
        let (mut winners, mut services) = (BTreeMap::new(), BTreeMap::<IpAddr, Vec<NamespacedName>>::new());
        let mut vips = Vec::new();
        for vip in &announcements.vips {
            let key = (vip.origin.key.id.clone(), vip.address);
            let (winner, silence) = self.winner(&announcements, vip);
            let before = self.memory.winners.get(&key);
            if let Some(winner) = winner {
                let since = before.filter(|(node, _)| *node == winner.node).map_or(now, |(_, since)| *since);
                if winner.node == self.node {
                    // Of one that this node was elected for before, it is known already where it stands.
                    let takeover = before.is_some_and(|(node, since)| {
                        *node != self.node
                            && now.saturating_duration_since(*since) >= SETTLED
                            && !self.circle.refuses(node, vip.address)
                    });
                    let interfaces = winner.interfaces.clone().map_or(Interfaces::All, Interfaces::Named);
                    let ours = Wanted { address: vip.address, interfaces, takeover };
                    wanted.entry(vip.address).and_modify(|other| merge(other, &ours)).or_insert(ours);
                }
                winners.insert(key, (winner.node.clone(), since));
            }
            services.entry(vip.address).or_default().push(vip.origin.key.id.clone());
            vips.push(VipState {
                address: vip.address,
                service: vip.origin.key.id.clone(),
                pool: vip.pool.clone(),
                announcer: winner.map(|winner| winner.node.clone()),
                silence,
                is_announced: false,
                problem: None,
            });
        }
        self.memory.winners = winners;
        self.memory.vips = vips;
        self.memory.services = services;
        self.memory.standings.retain(|address, _| wanted.contains_key(address));
        let wanted: Vec<Wanted> = wanted.into_values().collect();
        if wanted != self.memory.wanted {
            let _ = self.orders.send(Order::Wanted(wanted.clone()));
            self.memory.wanted = wanted;
        }
        self.show();
    }

    fn winner<'a>(&self, announcements: &Announcements, vip: &'a Vip) -> (Option<&'a L2Candidate>, Option<Silence>) {
        let all = match &vip.l2 {
            Ok(all) => all,
            Err(silence) => return (None, Some(*silence)),
        };
        let alive: Vec<Candidate> = all
            .iter()
            .filter(|candidate| self.circle.is_alive(&candidate.node))
            .map(|candidate| Candidate { node: candidate.node.clone(), weight: candidate.weight })
            .collect();
        let winner = elect(&vip.first, &alive).and_then(|winner| all.iter().find(|other| other.node == winner.node));
        let silence = match winner {
            Some(winner) if winner.node == self.node => None,
            _ => Some(self.why_not(announcements, vip, all)),
        };
        (winner, silence)
    }

    fn why_not(&self, announcements: &Announcements, vip: &Vip, all: &[L2Candidate]) -> Silence {
        if let Some(silence) = announcements.silent_nodes.get(&self.node) {
            return *silence;
        }
        if let Err(silence) = vip.can_be_served_by(&self.node) {
            return silence;
        }
        let is_candidate = all.iter().any(|candidate| candidate.node == self.node);
        if is_candidate { Silence::NotOwner } else { Silence::NoMatchingAdvertisement }
    }

    fn note(&mut self, Told { address, report }: Told) {
        let services = self.memory.services.get(&address).cloned().unwrap_or_default();
        let standing = match &report {
            Report::Announcing => {
                tracing::info!(%address, "announcing by ARP and NDP");
                Ok(())
            }
            Report::Refused { interface, by } => {
                let why = format!("{by} on {interface} answers for it: take the address from it, or from the pool");
                tracing::error!(%address, interface = &**interface, %by, "somebody else has the address: it is not announced");
                Err(why)
            }
            Report::Contested { interface, by } => {
                tracing::error!(%address, interface = &**interface, %by, "somebody else says that it has the address: it is announced on");
                self.memory.contests += 1;
                let why = format!("{by} on {interface} says that it has it, too: it is announced on");
                self.tell(services.iter().map(|service| News::Refused {
                    service: service.clone(),
                    address,
                    why: why.clone(),
                }));
                return;
            }
            Report::Yielded { to } => {
                tracing::warn!(%address, %to, "another node announces the address, and this one is not known to be alive: it is silent");
                Err(format!("the node with {to} announces it, because the API server does not hear of this one"))
            }
            Report::Withdrawn => {
                tracing::info!(%address, "not announced any more");
                self.memory.standings.remove(&address);
                return;
            }
            Report::Requested => return,
        };
        let told: Vec<News> = services
            .into_iter()
            .map(|service| match &standing {
                Ok(()) => News::Announced { service, address },
                Err(why) => News::Refused { service, address, why: why.clone() },
            })
            .collect();
        self.tell(told.into_iter());
        self.memory.standings.insert(address, standing);
    }

    fn tell(&self, news: impl Iterator<Item = News>) {
        for news in news {
            if self.news.try_send(news).is_err() {
                return;
            }
        }
    }

    /// Tells everybody how it stands.
    fn show(&mut self) {
        let (mut services, mut announced) = (AnnouncedServices::new(), Vec::new());
        let refused =
            self.memory.standings.iter().filter(|(_, standing)| standing.is_err()).map(|(address, _)| *address);
        self.circle.card.refused = refused.collect::<BTreeSet<IpAddr>>();
        for vip in &mut self.memory.vips {
            let is_ours = vip.announcer.as_ref() == Some(&self.node);
            let standing = self.memory.standings.get(&vip.address).filter(|_| is_ours);
            vip.is_announced = standing.is_some_and(Result::is_ok);
            vip.problem = standing.and_then(|standing| standing.clone().err());
            if vip.is_announced {
                let at = self.memory.wanted.binary_search_by_key(&vip.address, |wanted| wanted.address);
                let names: Vec<Arc<str>> = match at.ok().map(|at| &self.memory.wanted[at].interfaces) {
                    Some(Interfaces::Named(names)) => names.iter().cloned().collect(),
                    _ => Vec::new(),
                };
                services.insert(vip.service.clone(), status(&self.node, &vip.service, &names));
                announced.push((vip.service.to_string(), vip.address));
            }
        }
        self.announced.show(announced.iter().map(|(service, address)| (service.clone(), address)));
        self.services.send_if_modified(|known| {
            let changed = *known != services;
            if changed {
                *known = services;
            }
            changed
        });
        let state = L2State {
            is_ready: self.circle.is_ready(),
            members: self.circle.alive(),
            vips: self.memory.vips.clone(),
            contests: self.memory.contests,
        };
        self.state.send_if_modified(|known| {
            let changed = **known != state;
            if changed {
                *known = Arc::new(state);
            }
            changed
        });
    }
}

fn candidates(vip: &Vip) -> &[L2Candidate] {
    vip.l2.as_ref().map_or(&[], |candidates| candidates)
}

/// Several Services have the address: it is announced where any of them shall be.
fn merge(known: &mut Wanted, other: &Wanted) {
    known.takeover &= other.takeover;
    known.interfaces = match (&known.interfaces, &other.interfaces) {
        (Interfaces::Named(ours), Interfaces::Named(others)) => {
            Interfaces::Named(Arc::new(ours.union(others).cloned().collect()))
        }
        _ => Interfaces::All,
    };
}
