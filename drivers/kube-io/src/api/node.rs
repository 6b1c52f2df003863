//! An annotation on a Node: written by server-side apply, and kept as it is wanted.
//!
//! RBAC: `get` and `patch` of nodes.

use std::sync::Arc;
use std::time::Duration;

use headwater_model::origin::{Kind, ObjectKey};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::backoff::Backoff;
use super::connect::{ApiError, ApiServer};
use super::write::{FIELD_MANAGER, REQUEST_LIMIT, within};

/// Longest pause between tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE_REFUSED: Duration = Duration::from_secs(30);

/// Writes are at least this far apart: somebody else may want another value as eagerly.
const BETWEEN_WRITES: Duration = Duration::from_secs(1);

impl ApiServer {
    /// Gives the Node this annotation, or takes it away; whether something had to be written.
    ///
    /// It is the only annotation of Nodes that our field manager owns: another one that it owned before disappears.
    /// Whoever else wrote the value loses it. A Node that is not there is not made.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], [`ApiError::Forbidden`], [`ApiError::Refused`], [`ApiError::Unavailable`];
    /// [`ApiError::Conflict`] when another Node took the name in between.
    pub async fn annotate_node(&self, node: &str, annotation: &str, value: Option<&str>) -> Result<bool, ApiError> {
        let what = || format!("annotation {annotation} of {}", ObjectKey::new(Kind::Node, "", node));
        let api: Api<Node> = Api::all(self.client.clone());
        let metadata = within(what, REQUEST_LIMIT, api.get_metadata(node)).await?.metadata;
        let found = metadata.annotations.as_ref().and_then(|all| all.get(annotation)).map(String::as_str);
        if found == value {
            return Ok(false);
        }
        // With the uid, a Node that was deleted meanwhile is not made anew.
        let mut changed = json!({ "uid": metadata.uid, "annotations": { annotation: value } });
        if value.is_none() {
            let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            let patch = Patch::Merge(json!({ "metadata": changed }));
            return within(what, REQUEST_LIMIT, api.patch_metadata(node, &parameters, &patch)).await.map(|_| true);
        }
        changed["name"] = json!(node);
        let patch = Patch::Apply(json!({ "apiVersion": "v1", "kind": "Node", "metadata": changed }));
        let parameters = PatchParams { force: true, ..PatchParams::apply(FIELD_MANAGER) };
        within(what, REQUEST_LIMIT, api.patch_metadata(node, &parameters, &patch)).await.map(|_| true)
    }
}

/// Keeps one annotation of one Node as it is wanted, through whatever the API server does. Dropping it ends that, and
/// leaves the annotation.
#[derive(Debug)]
pub struct NodeAnnotation {
    /// The outer `None`: nothing is wanted yet.
    wanted: watch::Sender<Option<Option<Arc<str>>>>,
    task: JoinHandle<()>,
}

impl NodeAnnotation {
    /// Nothing is written before the first [`Self::want`]. Needs a tokio runtime with time and network.
    pub fn start(server: &ApiServer, node: &str, annotation: &'static str) -> Self {
        let (wanted, asked) = watch::channel(None);
        let keeper = Keeper { server: server.clone(), node: node.to_owned(), annotation, asked };
        Self { wanted, task: tokio::spawn(keeper.run()) }
    }

    /// Wants this value, or no such annotation. Nothing is asked or written when that was wanted before.
    pub fn want(&self, value: Option<&str>) {
        self.wanted.send_if_modified(|wanted| {
            let same = wanted.as_ref().is_some_and(|wanted| wanted.as_deref() == value);
            if !same {
                *wanted = Some(value.map(Arc::from));
            }
            !same
        });
    }

    /// What the Node was seen with. When something else is wanted, somebody changed it, and it is written again.
    pub fn seen(&self, value: Option<&str>) {
        self.wanted.send_if_modified(|wanted| wanted.as_ref().is_some_and(|wanted| wanted.as_deref() != value));
    }
}

impl Drop for NodeAnnotation {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeper {
    server: ApiServer,
    node: String,
    annotation: &'static str,
    asked: watch::Receiver<Option<Option<Arc<str>>>>,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut complained = false;
        while self.asked.changed().await.is_ok() {
            loop {
                let Some(value) = self.asked.borrow_and_update().clone() else { break };
                let error = match self.server.annotate_node(&self.node, self.annotation, value.as_deref()).await {
                    Ok(written) => {
                        if std::mem::take(&mut complained) || written {
                            let (node, annotation) = (&self.node, self.annotation);
                            tracing::info!(node, annotation, value = value.as_deref(), "the Node is annotated");
                        }
                        if written {
                            tokio::time::sleep(BETWEEN_WRITES).await;
                        }
                        break;
                    }
                    Err(error) => error,
                };
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!("{error}; it is tried again");
                }
                let (longest, at_least) = match error {
                    ApiError::Unavailable { retry_after, .. } => (LONGEST_PAUSE, retry_after),
                    _ => (LONGEST_PAUSE_REFUSED, None),
                };
                tokio::select! {
                    () = backoff.wait(longest, at_least) => {}
                    changed = self.asked.changed() => if changed.is_err() { return },
                }
            }
        }
    }
}
