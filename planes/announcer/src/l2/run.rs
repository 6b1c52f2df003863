//! The plane of layer 2.
//!
//! ```text
//!  Announcements ──┐                          ┌──Order──> thread with engine and sockets ──> network
//!  Leases ─────────┼──> control task (elects) ┤               │
//!  interfaces ─────┘      ^                   └─> own Lease   │
//!                         └───────────────Told────────────────┘
//!                      └─> L2State, metrics, ServiceL2Status, Events
//! ```

use std::io;
use std::sync::Arc;

use headwater_model::announce::Announcements;
use headwater_netlink::NetlinkError;
use headwater_process::metrics::Registry;
use headwater_process::publish::Subscriber;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::config::Settings;
use super::control::{Control, Memory, WAITING_NEWS};
use super::membership::{Circle, Membership};
use super::metrics::Counts;
use super::state::L2State;
use super::status::{AnnouncedServices, tell};
use super::{interfaces, wire};
use crate::metrics::SpeakerAnnounced;
use crate::status::{Desk, Written};

/// Why the plane does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    #[error("interfaces of the node cannot be read")]
    Interfaces(#[source] NetlinkError),
    #[error("thread for ARP and NDP cannot be started")]
    Thread(#[source] io::Error),
}

/// A running plane. Dropped, it is silent at once, and others wait until its Lease has run out.
pub struct L2Announcer {
    state: watch::Receiver<Arc<L2State>>,
    stop: Option<oneshot::Sender<()>>,
    control: JoinHandle<()>,
    desk: Option<JoinHandle<()>>,
}

impl L2Announcer {
    /// Begins to elect and to answer, in the network namespace of this thread. Needs `CAP_NET_RAW`.
    ///
    /// `membership`: where nodes meet; without it this node elects among all that are known, and cannot see who is dead.
    /// `statuses`: namespace of the objects that tell who announces. `bare`: metrics without a prefix; `announced`: the one
    /// of them that all ways of announcing share.
    ///
    /// # Errors
    /// When the interfaces cannot be read, or the system has no room.
    pub fn start(
        announcements: Subscriber<Announcements>,
        membership: Option<Membership>,
        statuses: Option<String>,
        settings: Settings,
        bare: &Registry,
        announced: &SpeakerAnnounced,
    ) -> Result<Self, StartError> {
        let Settings { node, excluded } = settings;
        let interfaces = interfaces::follow(excluded).map_err(StartError::Interfaces)?;
        let (orders, ordered) = mpsc::unbounded_channel();
        let reports = wire::start(ordered, interfaces.clone(), Counts::new(bare)).map_err(StartError::Thread)?;
        let (tell_state, state) = watch::channel(Arc::default());
        let (services, announced_services) = watch::channel(AnnouncedServices::new());
        let (news, told) = mpsc::channel(WAITING_NEWS);
        let desk = match (&membership, statuses) {
            (Some(Membership { server, .. }), Some(namespace)) => {
                tokio::spawn(tell(server.clone(), node.clone(), told));
                let desk = Desk { server: server.clone(), namespace, node: node.clone(), written: Written::L2 };
                Some(tokio::spawn(desk.keep(announced_services)))
            }
            _ => None,
        };
        let (stop, stopped) = oneshot::channel();
        let control = Control {
            announced: announced.of("layer2"),
            circle: Circle::new(&node, membership),
            node,
            announcements,
            interfaces,
            orders,
            reports,
            state: tell_state,
            services,
            news,
            memory: Memory::default(),
        };
        Ok(Self { state, stop: Some(stop), control: tokio::spawn(control.run(stopped)), desk })
    }

    /// How it stands with every address.
    pub fn state(&self) -> watch::Receiver<Arc<L2State>> {
        self.state.clone()
    }

    /// Is silent from now on, then tells the other nodes, which take over at once.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // The task may have ended with the runtime.
            let _ = stop.send(());
        }
        let _ = (&mut self.control).await;
        if let Some(desk) = &mut self.desk {
            let _ = desk.await;
        }
    }
}

impl Drop for L2Announcer {
    fn drop(&mut self) {
        self.control.abort();
        if let Some(desk) = &self.desk {
            desk.abort();
        }
    }
}
