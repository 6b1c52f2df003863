//! What the cases with a cluster share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use headwater_testkit::cluster::Cluster;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::Lab;

/// Requests that the writer has under way at once when it makes many objects.
pub(super) const AT_ONCE: usize = 8;

/// All cores for this thread and what it starts, until dropped: nothing is pinned there.
#[derive(Debug)]
pub(super) struct AllCores(CpuSet);

impl AllCores {
    pub(super) fn take(lab: &Lab) -> Result<Self> {
        let before = sched_getaffinity(None)?;
        let mut all = CpuSet::new();
        all.set(lab.args.proxy_core);
        all.set(lab.args.load_core);
        sched_setaffinity(None, &all)?;
        Ok(Self(before))
    }
}

impl Drop for AllCores {
    fn drop(&mut self) {
        // It was possible before.
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// Creates objects, each at the path of its collection, one after the other with a few requests under way at once.
pub(super) fn create_all(runtime: &Runtime, cluster: &Arc<Cluster>, objects: Vec<(&'static str, Value)>) -> Result<()> {
    let (objects, next) = (Arc::new(objects), Arc::new(AtomicUsize::new(0)));
    runtime.block_on(async {
        let mut writers = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (objects, next, cluster) = (objects.clone(), next.clone(), cluster.clone());
            writers.spawn(async move {
                while let Some((path, object)) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                    cluster.create(path, object).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = writers.join_next().await {
            ended??;
        }
        Ok(())
    })
}
