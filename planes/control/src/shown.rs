//! Paths of Ingresses as Rules in the API server, and the Frontends that they belong to: written by the leader.
//!
//! ```text
//!  controller task ──Shown──> this task ──> API server
//!                             while leading <── names and hashes of what was written before
//! ```
//!
//! A Rule carries the hash of what was written, so that a new leader writes only what differs. What others wrote under one
//! of these names is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_kube_io::{ApiError, ApiServer, Leadership, ManagedKey, ManagedKind, WriteGuard};
use headwater_model::fnv::fnv1a_64;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use headwater_translate::alb::{MANAGED_BY, Shown, ShownRule};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Duration, MissedTickBehavior, interval};

/// After which what is there is read again: somebody may have deleted some of it.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// Between two tries of what was refused.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Annotation of a Rule: the hash of what was written.
const WRITTEN: &str = "headwater.dev/written";

/// A running writer; it ends when dropped.
pub struct RuleWriter(JoinHandle<()>);

impl RuleWriter {
    /// Writes what is to be shown, while it leads.
    pub fn start(server: &ApiServer, leadership: &Leadership, shown: watch::Receiver<Option<Arc<Shown>>>) -> Self {
        let writer = Writer {
            server: server.clone(),
            guard: leadership.guard(),
            there: None,
            frontends: BTreeMap::new(),
            foreign: BTreeSet::new(),
        };
        Self(tokio::spawn(writer.run(shown, leadership.leading())))
    }
}

impl Drop for RuleWriter {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Writer {
    server: ApiServer,
    guard: WriteGuard,
    /// Rules of ours, and their hashes; `None`: not read yet.
    there: Option<BTreeMap<ManagedKey, String>>,
    /// `metadata.uid` of Frontends.
    frontends: BTreeMap<NamespacedName, String>,
    /// Names that others have.
    foreign: BTreeSet<ManagedKey>,
}

fn key(kind: ManagedKind, id: &NamespacedName) -> ManagedKey {
    ManagedKey { kind, namespace: id.namespace.to_string(), name: id.name.to_string() }
}

fn uid(object: &Value) -> Option<String> {
    object.pointer("/metadata/uid")?.as_str().map(str::to_owned)
}

/// The body with its owner.
fn owned(body: &Value, kind: &str, api_version: &str, name: &str, uid: &str) -> Value {
    let mut body = body.clone();
    body["metadata"]["ownerReferences"] =
        json!([{ "apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true }]);
    body
}

impl Writer {
    async fn run(mut self, mut shown: watch::Receiver<Option<Arc<Shown>>>, mut leading: watch::Receiver<bool>) {
        let [mut look_again, mut try_again] = [LOOK_AGAIN, TRY_AGAIN].map(|period| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        let mut unfinished = false;
        loop {
            tokio::select! {
                changed = shown.changed() => if changed.is_err() { return },
                changed = leading.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.start_over();
                }
                _ = look_again.tick() => self.start_over(),
                _ = try_again.tick() => if !unfinished { continue },
            }
            let wanted = shown.borrow_and_update().clone();
            let Some(wanted) = wanted.filter(|_| self.guard.deadline().is_some()) else {
                unfinished = true;
                continue;
            };
            unfinished = match self.reconcile(&wanted).await {
                Ok(complete) => !complete,
                Err(error) => {
                    tracing::warn!(%error, "cannot look for Rules that show Ingresses");
                    true
                }
            };
        }
    }

    fn start_over(&mut self) {
        self.there = None;
        self.frontends.clear();
        self.foreign.clear();
    }

    /// Whether all of it is there.
    async fn reconcile(&mut self, wanted: &Shown) -> Result<bool, ApiError> {
        let mut there = match self.there.take() {
            Some(there) => there,
            None => {
                let (label, value) = MANAGED_BY;
                let found = self.server.managed_objects(ManagedKind::Rule, &format!("{label}={value}")).await?;
                let hash = |annotations: &BTreeMap<String, String>| annotations.get(WRITTEN).cloned();
                found.into_iter().map(|(key, said)| (key, hash(&said).unwrap_or_default())).collect()
            }
        };
        let mut complete = true;
        let keys: BTreeSet<ManagedKey> = wanted.rules.keys().map(|id| key(ManagedKind::Rule, id)).collect();
        let gone: Vec<ManagedKey> = there.keys().filter(|key| !keys.contains(key)).cloned().collect();
        for key in gone {
            match self.guarded(self.server.delete_object(&key, None)).await {
                Ok(()) => drop(there.remove(&key)),
                Err(error) => complete &= told(&key, &error),
            }
        }
        for (id, rule) in &wanted.rules {
            let key = key(ManagedKind::Rule, id);
            let hash = format!("{:016x}", fnv1a_64(format!("{}{}", rule.frontend, rule.body).bytes()));
            if there.get(&key) == Some(&hash) || self.foreign.contains(&key) {
                continue;
            }
            let made = self.write(wanted, &key, rule, &hash, there.contains_key(&key)).await;
            match made {
                Ok(true) => drop(there.insert(key, hash)),
                Ok(false) => {}
                Err(error) => complete &= told(&key, &error),
            }
        }
        self.there = Some(there);
        Ok(complete)
    }

    /// Whether the Rule is there now; not where somebody else has its name.
    async fn write(
        &mut self,
        wanted: &Shown,
        key: &ManagedKey,
        rule: &ShownRule,
        hash: &str,
        is_ours: bool,
    ) -> Result<bool, ApiError> {
        let (label, ours) = MANAGED_BY;
        if !is_ours
            && let Some(there) = self.server.managed_object(key).await?
            && there["metadata"]["labels"][label] != ours
        {
            tracing::warn!(object = %key, "somebody else has the name of a Rule that would show an Ingress");
            self.foreign.insert(key.clone());
            return Ok(false);
        }
        let owner = match self.frontends.get(&rule.frontend) {
            Some(uid) => uid.clone(),
            None => {
                let uid = self.frontend(wanted, &rule.frontend).await?;
                self.frontends.insert(rule.frontend.clone(), uid.clone());
                uid
            }
        };
        let mut body = owned(&rule.body, "Frontend", "crd.alauda.io/v1", &rule.frontend.name, &owner);
        body["metadata"]["annotations"][WRITTEN] = hash.into();
        self.guarded(self.server.apply_object(key, body)).await?;
        Ok(true)
    }

    /// `metadata.uid` of a Frontend, which is made where it is missing and never changed.
    async fn frontend(&self, wanted: &Shown, id: &NamespacedName) -> Result<String, ApiError> {
        let key = key(ManagedKind::Frontend, id);
        let missing = || ApiError::NotFound { what: key.to_string() };
        if let Some(there) = self.server.managed_object(&key).await? {
            return uid(&there).ok_or_else(missing);
        }
        let made = wanted.frontends.get(id).ok_or_else(missing)?;
        let alb = ObjectKey { kind: Kind::Alb2, id: made.alb.clone() };
        let owner = self.server.uid(&alb).await?.ok_or_else(|| ApiError::NotFound { what: alb.to_string() })?;
        let body = owned(&made.body, "ALB2", "crd.alauda.io/v2beta1", &made.alb.name, &owner);
        let there = self.guarded(self.server.apply_object(&key, body)).await?;
        tracing::info!(object = %key, "made for Ingresses");
        uid(&there).ok_or_else(missing)
    }

    /// A write, unless another leads by now.
    async fn guarded<T>(&self, write: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        match self.guard.deadline() {
            Some(_) => write.await,
            None => {
                let (what, why) = ("a write".to_owned(), "another process leads by now".to_owned());
                Err(ApiError::Unavailable { what, why, retry_after: None })
            }
        }
    }
}

/// Tells of an error; false, for what is not complete.
fn told(key: &ManagedKey, error: &ApiError) -> bool {
    tracing::warn!(object = %key, error = error as &dyn std::error::Error, "cannot write what shows an Ingress");
    false
}
