//! Objects -> what may be announced, for all ways of announcing.

use headwater_kube_io::Batch;
use headwater_model::announce::Announcements;
use headwater_model::cluster::{Change, Cluster};
use headwater_model::origin::{Kind, ObjectKey};
use headwater_process::publish::{Subscriber, publish};
use headwater_translate::announce::{AnnounceOptions, Announcer};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::bgp::Routers;

/// Batches that may wait. When there are more, the one who reads the source waits: they are taken within milliseconds.
pub const WAITING_BATCHES: usize = 16;

/// Kinds that say which routers there are, and how to speak with them.
const OF_ROUTERS: [Kind; 5] = [Kind::BgpPeer, Kind::BfdProfile, Kind::Community, Kind::Secret, Kind::Node];

/// What may be announced, kept by a task.
pub struct Objects {
    announcements: Subscriber<Announcements>,
    routers: Subscriber<Routers>,
    task: JoinHandle<()>,
}

impl Objects {
    /// Follows batches, which whoever has the source passes on. Nothing may be announced before the first.
    /// `namespace`: that of MetalLB's resources.
    pub fn follow(mut batches: mpsc::Receiver<Batch>, options: AnnounceOptions, namespace: String) -> Self {
        let (publisher, announcements) = publish(Announcements::default());
        let (tell_routers, routers) = publish(Routers::default());
        let node = options.node.clone();
        let task = tokio::spawn(async move {
            let (mut cluster, mut announcer) = (Cluster::default(), Announcer::new(options));
            while let Some(batch) = batches.recv().await {
                for change in &batch.changes {
                    cluster.apply(change);
                }
                let keys: Vec<ObjectKey> = batch.changes.iter().map(Change::key).collect();
                if announcer.apply(&cluster, &keys) {
                    publisher.publish(announcer.announcements());
                }
                if keys.iter().any(|key| OF_ROUTERS.contains(&key.kind)) {
                    let routers = Routers::of(&cluster, &namespace, &node);
                    if *tell_routers.load() != routers {
                        tell_routers.publish(routers);
                    }
                }
            }
        });
        Self { announcements, routers, task }
    }

    /// The routers that concern the node.
    pub fn routers(&self) -> Subscriber<Routers> {
        self.routers.clone()
    }

    /// What may be announced.
    pub fn announcements(&self) -> Subscriber<Announcements> {
        self.announcements.clone()
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        self.task.abort();
    }
}
