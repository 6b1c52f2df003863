//! The plane: follows what may be announced, and makes the speaker do it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use headwater_bgp::{State, Stop};
use headwater_kube_io::ApiServer;
use headwater_model::announce::Announcements;
use headwater_model::origin::NamespacedName;
use headwater_net_io::listen::ListenError;
use headwater_process::publish::Subscriber;
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Duration, MissedTickBehavior, interval};

use super::plan::{Memory, Planned, Routers, plan};
use super::speaker::{PeerStatus, Speaker};
use super::status::{statuses, tell_events};
use super::unnumbered::{Discovery, Heard};
use crate::metrics::{Announced, SpeakerAnnounced};
use crate::status::{Desk, Written};

/// How often operators see another state of peers.
const LOOK: Duration = Duration::from_secs(1);

/// How it stands with peers and Services.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BgpState {
    pub peers: BTreeMap<Arc<str>, PeerStatus>,
    /// The address of each, by which MetalLB's metrics call it.
    pub addresses: BTreeMap<Arc<str>, String>,
    /// What is not as objects say, and why.
    pub refused: BTreeSet<String>,
    /// Peers with a session that hear of a Service.
    pub services: BTreeMap<NamespacedName, BTreeSet<Arc<str>>>,
}

/// A running plane. Dropped, it ends without a word.
pub struct BgpAnnouncer {
    state: watch::Receiver<Arc<BgpState>>,
    stop: Option<oneshot::Sender<Stop>>,
    task: JoinHandle<()>,
    desk: Option<JoinHandle<()>>,
}

impl BgpAnnouncer {
    /// Speaks with the routers that concern the node, in the network namespace of this thread. `listen`: where routers
    /// may connect; `None`: nowhere, as with MetalLB. `seed`: different for each process. `told`: where statuses and Events are written, and the
    /// namespace of MetalLB's resources; `announced`: the metric that all ways of announcing share.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn start(
        announcements: Subscriber<Announcements>,
        routers: Subscriber<Routers>,
        node: Arc<str>,
        listen: Option<SocketAddr>,
        seed: u64,
        told: Option<(ApiServer, String)>,
        announced: &SpeakerAnnounced,
    ) -> Result<Self, ListenError> {
        let (tell, state) = watch::channel(Arc::default());
        let (services, written) = watch::channel(BTreeMap::new());
        let (stop, stopped) = oneshot::channel();
        let speaker = Speaker::new(listen, seed)?;
        let desk = told.map(|(server, namespace)| {
            tokio::spawn(tell_events(server.clone(), node.clone(), state.clone()));
            let desk = Desk { server, namespace, node: node.clone(), written: Written::Bgp };
            tokio::spawn(desk.keep(written))
        });
        let (discovery, heard) = Discovery::new();
        let plane = Plane {
            speaker,
            discovery,
            heard,
            vips: Vec::new(),
            other_vips: false,
            services,
            announced: announced.of("bgp"),
            memory: Memory::default(),
            planned: Planned::default(),
            refused: BTreeSet::new(),
            node,
            state: tell,
        };
        Ok(Self { state, stop: Some(stop), task: tokio::spawn(plane.run(announcements, routers, stopped)), desk })
    }

    /// How it stands with every peer.
    pub fn state(&self) -> watch::Receiver<Arc<BgpState>> {
        self.state.clone()
    }

    /// Ends all sessions; see [`Stop`].
    pub async fn stop(mut self, stop: Stop) {
        if let Some(tell) = self.stop.take() {
            // The task may have ended with the runtime.
            let _ = tell.send(stop);
        }
        let _ = (&mut self.task).await;
        if let Some(desk) = &mut self.desk {
            let _ = desk.await;
        }
    }
}

impl Drop for BgpAnnouncer {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(desk) = &self.desk {
            desk.abort();
        }
    }
}

struct Plane {
    speaker: Speaker,
    discovery: Discovery,
    heard: watch::Receiver<Heard>,
    memory: Memory,
    planned: Planned,
    /// What the log has said.
    refused: BTreeSet<String>,
    node: Arc<str>,
    /// Addresses of Services that are known.
    vips: Vec<(NamespacedName, IpAddr)>,
    /// Whether they are others than were shown.
    other_vips: bool,
    state: watch::Sender<Arc<BgpState>>,
    services: watch::Sender<BTreeMap<NamespacedName, Value>>,
    announced: Announced,
}

impl Plane {
    async fn run(
        mut self,
        mut announcements: Subscriber<Announcements>,
        mut routers: Subscriber<Routers>,
        mut stopped: oneshot::Receiver<Stop>,
    ) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.follow(&announcements.load(), &routers.load());
        loop {
            let changed = tokio::select! {
                stop = &mut stopped => {
                    // Dropped without a word: so it ends.
                    if let Ok(stop) = stop {
                        self.speaker.stop(stop).await;
                    }
                    return;
                }
                changed = announcements.changed() => changed.is_ok(),
                changed = routers.changed() => changed.is_ok(),
                changed = self.heard.changed() => changed.is_ok(),
                _ = look.tick() => {
                    self.tell();
                    continue;
                }
            };
            if !changed {
                return;
            }
            self.follow(&announcements.load(), &routers.load());
            self.tell();
        }
    }

    fn follow(&mut self, announcements: &Announcements, routers: &Routers) {
        let heard = self.heard.borrow_and_update().clone();
        let mut planned = plan(announcements, routers, &heard, &self.node, &mut self.memory);
        self.discovery.look_on(&planned.interfaces);
        self.speaker.apply(std::mem::take(&mut planned.plan));
        let peers = planned.refused.iter().map(|(name, why)| format!("BGPPeer {name}: {why}"));
        let prefixes = planned.silent.iter().map(ToString::to_string);
        let names = planned.unknown.iter().map(|name| format!("no Community defines \"{name}\""));
        let refused: BTreeSet<String> = peers.chain(prefixes).chain(names).collect();
        for why in refused.difference(&self.refused) {
            tracing::warn!("{why}");
        }
        self.refused = refused;
        self.vips = announcements.vips.iter().map(|vip| (vip.origin.key.id.clone(), vip.address)).collect();
        self.other_vips = true;
        self.planned = planned;
    }

    fn tell(&mut self) {
        let peers = self.speaker.status();
        let up = |name: &Arc<str>| peers.get(name).is_some_and(|peer| peer.session.state == State::Established);
        let services = self.planned.services.iter().filter_map(|(service, names)| {
            let names: BTreeSet<Arc<str>> = names.iter().filter(|name| up(name)).cloned().collect();
            (!names.is_empty()).then(|| (service.clone(), names))
        });
        let state = BgpState {
            services: services.collect(),
            addresses: self.memory.addresses(),
            refused: self.refused.clone(),
            peers,
        };
        // Counters of peers differ at every look; what Services are announced seldom does.
        let other_services = self.state.borrow().services != state.services;
        if std::mem::take(&mut self.other_vips) || other_services {
            let heard = self.vips.iter().filter(|(service, _)| state.services.contains_key(service));
            self.announced.show(heard.map(|(service, address)| (service.to_string(), address)));
        }
        if other_services {
            self.services.send_replace(statuses(&self.node, &state));
        }
        self.state.send_if_modified(|known| {
            let differs = **known != state;
            if differs {
                *known = Arc::new(state);
            }
            differs
        });
    }
}
