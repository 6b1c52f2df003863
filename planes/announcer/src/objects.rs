//! Objects -> what may be announced, for all ways of announcing.

use headwater_kube_io::Batch;
use headwater_model::announce::Announcements;
use headwater_model::cluster::{Change, Cluster};
use headwater_model::origin::ObjectKey;
use headwater_process::publish::{Subscriber, publish};
use headwater_translate::announce::{AnnounceOptions, Announcer};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Batches that may wait. When there are more, the one who reads the source waits: they are taken within milliseconds.
pub const WAITING_BATCHES: usize = 16;

/// What may be announced, kept by a task.
pub struct Objects {
    announcements: Subscriber<Announcements>,
    task: JoinHandle<()>,
}

impl Objects {
    /// Follows batches, which whoever has the source passes on. Nothing may be announced before the first.
    pub fn follow(mut batches: mpsc::Receiver<Batch>, options: AnnounceOptions) -> Self {
        let (publisher, announcements) = publish(Announcements::default());
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
            }
        });
        Self { announcements, task }
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
