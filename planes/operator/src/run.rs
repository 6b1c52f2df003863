//! The task that makes, looks and tells.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use headwater_kube_io::{
    ApiError, ApiServer, ApiServerSource, Batch, EventNote, FleetChange, FleetWatch, GatewayLease, Leadership,
    ManagedKey, ManagedKind, Selection, WriteGuard,
};
use headwater_model::alb::{Alb2, Frontend};
use headwater_model::cluster::{Change, Object};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use headwater_model::report::GatewayReport;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use crate::labels::{self, Labels};
use crate::objects::{ALB, Installation, MANAGED_BY, balancer_name, desired};
use crate::state::{Seen, status, without_times};

/// Between two looks at what is not yet as it shall be.
const LOOK: Duration = Duration::from_secs(2);

/// Between two looks at everything.
const LOOK_AT_ALL: Duration = Duration::from_secs(30);

/// After which everything is applied again, and what nobody wants is looked for: somebody may have changed it.
const APPLY_AGAIN: Duration = Duration::from_secs(300);

/// `action` of Events.
const ACTION: &str = "Operate";

/// A running operator; it ends when dropped.
pub struct Operator {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Operator {
    /// Follows ALB2s and Frontends of these namespaces (none: of all), and acts while it leads.
    ///
    /// `fleet` follows the Leases of gateways; `instance` names this process in Events.
    pub fn start(
        server: &ApiServer,
        namespaces: Vec<String>,
        leadership: &Leadership,
        fleet: FleetWatch,
        instance: &str,
        installation: Installation,
    ) -> Self {
        let selection = Selection { kinds: vec![Kind::Alb2, Kind::Frontend], namespaces, ..Selection::default() };
        let state = State {
            server: server.clone(),
            guard: leadership.guard(),
            instance: instance.to_owned(),
            installation,
            albs: BTreeMap::new(),
            frontends: BTreeMap::new(),
            reports: HashMap::new(),
            made: BTreeMap::new(),
            dirty: BTreeSet::new(),
            sweep: false,
        };
        let source = ApiServerSource::start(server, selection);
        let (stop, stopped) = oneshot::channel();
        Self { stop: Some(stop), task: tokio::spawn(state.run(source, fleet, leadership.leading(), stopped)) }
    }

    /// Ends it, and waits for what is under way.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // The task is gone only if it panicked, which the runtime has reported.
            let _ = stop.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What became of an ALB2.
#[derive(Default)]
struct Made {
    /// What was applied last.
    objects: BTreeMap<ManagedKey, Value>,
    /// Labels that were applied last, to it and to its Frontends.
    labels: BTreeMap<ObjectKey, Labels>,
    /// The status that was written last.
    status: Value,
    /// Of its Frontends, those that were written last.
    instances: BTreeMap<NamespacedName, Value>,
    /// Whether nothing is expected to change by itself.
    settled: bool,
}

/// What a gateway says of its ports, and when it last gave a sign of life.
struct Reported {
    version: String,
    duration: Duration,
    heard: Instant,
    report: GatewayReport,
}

struct State {
    server: ApiServer,
    guard: WriteGuard,
    instance: String,
    installation: Installation,
    albs: BTreeMap<NamespacedName, Arc<Alb2>>,
    frontends: BTreeMap<NamespacedName, Arc<Frontend>>,
    /// By the name of the Lease.
    reports: HashMap<Arc<str>, Reported>,
    made: BTreeMap<NamespacedName, Made>,
    dirty: BTreeSet<NamespacedName>,
    /// Whether to look for objects whose ALB2 is gone.
    sweep: bool,
}

impl State {
    async fn run(
        mut self,
        mut source: ApiServerSource,
        mut fleet: FleetWatch,
        mut leading: watch::Receiver<bool>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let [mut look, mut look_at_all, mut apply_again] = [LOOK, LOOK_AT_ALL, APPLY_AGAIN].map(|period| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        loop {
            tokio::select! {
                _ = &mut stopped => return,
                batch = source.next() => self.take_in(batch),
                change = fleet.next() => self.hear(change),
                Ok(()) = leading.changed() => self.start_over(),
                _ = look.tick() => {
                    let unsettled = self.made.iter().filter(|(_, made)| !made.settled);
                    self.dirty.extend(unsettled.map(|(id, _)| id.clone()));
                }
                _ = look_at_all.tick() => self.dirty.extend(self.albs.keys().cloned()),
                _ = apply_again.tick() => self.start_over(),
            }
            // Before everything was read once, an object that nobody seems to want may be wanted.
            if source.pending() > 0 || self.guard.deadline().is_none() {
                continue;
            }
            if std::mem::take(&mut self.sweep)
                && let Err(error) = self.sweep().await
            {
                tracing::warn!(%error, "cannot look for what was made for ALB2s that are gone");
            }
            while let Some(id) = self.dirty.pop_first() {
                if self.guard.deadline().is_none() {
                    break;
                }
                self.reconcile(id).await;
            }
        }
    }

    /// Nothing is known to be as it shall.
    fn start_over(&mut self) {
        self.made.clear();
        self.dirty.extend(self.albs.keys().cloned());
        self.sweep = true;
    }

    fn take_in(&mut self, batch: Batch) {
        for finding in &batch.findings {
            tracing::warn!(%finding, "an object for the operator cannot be read");
        }
        for change in batch.changes {
            match change {
                Change::Set(Object::Alb2(alb)) => {
                    let id = alb.key().id;
                    self.albs.insert(id.clone(), alb);
                    self.dirty.insert(id);
                }
                Change::Set(Object::Frontend(frontend)) => {
                    let id = frontend.key().id;
                    let old = self.frontends.insert(id, frontend.clone());
                    let affected = old.iter().chain([&frontend]).filter_map(|frontend| self.alb_of(frontend));
                    self.dirty.extend(affected.collect::<Vec<_>>());
                }
                Change::Removed(ObjectKey { kind: Kind::Alb2, id }) => {
                    self.albs.remove(&id);
                    self.made.remove(&id);
                    self.sweep = true;
                }
                Change::Removed(ObjectKey { kind: Kind::Frontend, id }) => {
                    let old = self.frontends.remove(&id);
                    let affected = old.and_then(|old| self.alb_of(&old));
                    self.dirty.extend(affected);
                }
                _ => {}
            }
        }
    }

    fn alb_of(&self, frontend: &Frontend) -> Option<NamespacedName> {
        let name = frontend.alb(&self.installation.domain)?;
        Some(NamespacedName::new(frontend.metadata.namespace.clone(), name))
    }

    fn hear(&mut self, change: FleetChange) {
        let mut set = |lease: GatewayLease| {
            let report = lease.report.as_deref().and_then(|text| serde_json::from_str(text).ok());
            let heard = Reported {
                version: lease.version,
                duration: lease.duration,
                heard: Instant::now(),
                report: report.unwrap_or_default(),
            };
            let old = self.reports.get(&lease.name);
            if old.is_some_and(|old| old.version == heard.version) {
                return false;
            }
            let differs = old.is_none_or(|old| old.report.listeners != heard.report.listeners);
            self.reports.insert(lease.name, heard);
            differs
        };
        let differs = match change {
            FleetChange::All(leases) => {
                let names: BTreeSet<Arc<str>> = leases.iter().map(|lease| lease.name.clone()).collect();
                for lease in leases {
                    set(lease);
                }
                self.reports.retain(|name, _| names.contains(name));
                true
            }
            FleetChange::Set(lease) => set(lease),
            FleetChange::Removed(name) => self.reports.remove(&name).is_some(),
        };
        if differs {
            self.dirty.extend(self.albs.keys().cloned());
        }
    }

    async fn reconcile(&mut self, id: NamespacedName) {
        let Some(alb) = self.albs.get(&id).cloned() else { return };
        if !alb.is_operated(&self.installation.domain) {
            return;
        }
        let mut made = self.made.remove(&id).unwrap_or_default();
        match self.make(&alb, &mut made).await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(alb = %id, %error, "cannot do all that the ALB2 wants; it is tried again");
                made.settled = false;
            }
        }
        self.made.insert(id, made);
    }

    async fn make(&self, alb: &Alb2, made: &mut Made) -> Result<(), ApiError> {
        let key = alb.key();
        let Some(uid) = self.server.uid(&key).await? else { return Ok(()) };
        let owned = |frontend: &&Arc<Frontend>| self.alb_of(frontend).as_ref() == Some(&key.id);
        let frontends: Vec<&Arc<Frontend>> = self.frontends.values().filter(owned).collect();
        let wanted = desired(alb, &uid, frontends.iter().map(|frontend| &***frontend), &self.installation);
        let mut seen = Seen { conflicts: self.conflicts(&key.id), ..Seen::default() };
        let deployment = ManagedKey {
            kind: ManagedKind::Deployment,
            namespace: key.id.namespace.to_string(),
            name: key.id.name.to_string(),
        };
        let is_new = made.objects.is_empty();
        seen.deployment = self.server.managed_object(&deployment).await?;
        for (object, body) in &wanted {
            let is_deployment = object == &deployment;
            if made.objects.get(object) == Some(body) && !(is_deployment && seen.deployment.is_none()) {
                continue;
            }
            let there = match is_deployment {
                true => Ok(seen.deployment.clone()),
                false => self.server.managed_object(object).await,
            };
            let applied = match there {
                Ok(there) => self.apply(&key.id, object, body, there).await,
                Err(error) => Err(error),
            };
            match applied {
                Ok(now) => {
                    if is_deployment {
                        seen.deployment = Some(now);
                    }
                    made.objects.insert(object.clone(), body.clone());
                }
                Err(error @ ApiError::Unavailable { .. }) => return Err(error),
                // Worth telling whom it concerns; all else still counts.
                Err(error) => seen.problems.push(error.to_string()),
            }
        }
        let known = std::mem::take(&mut made.objects);
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            known.into_iter().partition(|(object, _)| wanted.contains_key(object));
        made.objects = kept;
        for object in gone.into_keys() {
            self.server.delete_object(&object, None).await?;
            tracing::info!(alb = %key.id, %object, "deleted: the ALB2 wants it no more");
        }
        if is_new {
            self.delete_unwanted(&key.id, &wanted).await?;
        }
        let balancer = ManagedKey { kind: ManagedKind::Service, name: balancer_name(&key.id.name), ..deployment };
        if wanted.contains_key(&balancer) {
            seen.balancer = self.server.managed_object(&balancer).await?;
        }
        self.label(alb, &uid, &frontends, made).await?;
        self.tell(alb, &uid, &seen, &frontends, made).await
    }

    /// Labels the ALB2 and its Frontends with their projects.
    async fn label(
        &self,
        alb: &Alb2,
        uid: &str,
        frontends: &[&Arc<Frontend>],
        made: &mut Made,
    ) -> Result<(), ApiError> {
        let (effective, domain) = (alb.effective(), &self.installation.domain);
        let own = (alb.key(), &alb.metadata.labels, labels::of_alb(&effective, domain));
        let theirs = frontends.iter().map(|frontend| {
            let wanted = labels::of_frontend(&effective, frontend, domain);
            (frontend.key(), &frontend.metadata.labels, wanted)
        });
        for (key, there, wanted) in std::iter::once(own).chain(theirs) {
            // Where there are none, none of ours can be left.
            let unknown = made.labels.get(&key) != Some(&wanted);
            if !unknown || (wanted.is_empty() && !labels::name_projects(there, domain)) {
                continue;
            }
            let found = if key.kind == Kind::Alb2 { Some(uid.to_owned()) } else { self.server.uid(&key).await? };
            let Some(found) = found else { continue };
            match self.server.apply_labels(&key, &found, &wanted).await {
                Ok(()) => drop(made.labels.insert(key, wanted)),
                Err(error @ ApiError::Unavailable { .. }) => return Err(error),
                // They serve whoever looks for them; nothing depends on them.
                Err(error) => tracing::warn!(%error, "projects are not told by labels"),
            }
        }
        Ok(())
    }

    /// Applies one object, unless somebody else made the one that is `there`; returns it as it is then.
    async fn apply(
        &self,
        alb: &NamespacedName,
        object: &ManagedKey,
        body: &Value,
        there: Option<Value>,
    ) -> Result<Value, ApiError> {
        let annotation = format!("/metadata/annotations/{}", ALB.replace('/', "~1"));
        if let Some(there) = there
            && there.pointer(&annotation).and_then(Value::as_str) != Some(&*alb.to_string())
        {
            let what = object.to_string();
            return Err(ApiError::Conflict {
                what,
                held_by: "somebody who made it before; delete or rename it".to_owned(),
            });
        }
        let now = self.server.apply_object(object, body.clone()).await?;
        tracing::info!(%alb, %object, "applied");
        Ok(now)
    }

    /// Deletes what was made for the ALB2 once and is not wanted any more.
    async fn delete_unwanted(
        &self,
        alb: &NamespacedName,
        wanted: &BTreeMap<ManagedKey, Value>,
    ) -> Result<(), ApiError> {
        for (object, of) in self.all_made().await? {
            if of == *alb && !wanted.contains_key(&object) {
                self.server.delete_object(&object, None).await?;
                tracing::info!(%alb, %object, "deleted: the ALB2 wants it no more");
            }
        }
        Ok(())
    }

    /// Deletes what was made for ALB2s that are gone: what they cannot own, in other namespaces or in none.
    async fn sweep(&mut self) -> Result<(), ApiError> {
        let mut gone: BTreeMap<NamespacedName, bool> = BTreeMap::new();
        for (object, alb) in self.all_made().await? {
            if self.albs.contains_key(&alb) {
                continue;
            }
            // One that cannot be read is not gone.
            let is_gone = match gone.get(&alb) {
                Some(known) => *known,
                None => {
                    let key = ObjectKey { kind: Kind::Alb2, id: alb.clone() };
                    let is_gone = !self.server.exists(&key).await?;
                    gone.insert(alb.clone(), is_gone);
                    is_gone
                }
            };
            if is_gone && self.guard.deadline().is_some() {
                self.server.delete_object(&object, None).await?;
                tracing::info!(%alb, %object, "deleted: its ALB2 is gone");
            }
        }
        Ok(())
    }

    /// All objects that were made, and for which ALB2.
    async fn all_made(&self) -> Result<Vec<(ManagedKey, NamespacedName)>, ApiError> {
        let selector = format!("app.kubernetes.io/managed-by={MANAGED_BY}");
        let mut all = Vec::new();
        for kind in ManagedKind::ALL {
            for (object, annotations) in self.server.managed_objects(kind, &selector).await? {
                all.extend(annotations.get(ALB).and_then(|alb| NamespacedName::parse(alb)).map(|alb| (object, alb)));
            }
        }
        Ok(all)
    }

    /// Ports that gateways of the ALB2 could not open, by `tcp-80` and the like, and why.
    fn conflicts(&self, alb: &NamespacedName) -> BTreeMap<String, String> {
        let mut conflicts = BTreeMap::new();
        for (pod, reported) in self.alive() {
            for listener in &reported.report.listeners {
                let Some(error) = &listener.error else { continue };
                let of = match listener.origin.key.kind {
                    Kind::Alb2 => Some(listener.origin.key.id.clone()),
                    Kind::Frontend => {
                        self.frontends.get(&listener.origin.key.id).and_then(|frontend| self.alb_of(frontend))
                    }
                    _ => None,
                };
                if of.as_ref() == Some(alb) {
                    let protocol = self.frontends.get(&listener.origin.key.id).map_or("tcp", |frontend| {
                        if frontend.spec.protocol().is_l7() { "tcp" } else { frontend.spec.protocol().as_str() }
                    });
                    conflicts.insert(format!("{protocol}-{}", listener.port), format!("{error} ({pod})"));
                }
            }
        }
        conflicts
    }

    fn alive(&self) -> impl Iterator<Item = (&Arc<str>, &Reported)> {
        self.reports.iter().filter(|(_, reported)| reported.heard.elapsed() < reported.duration)
    }

    /// Writes the statuses that differ from those written before.
    async fn tell(
        &self,
        alb: &Alb2,
        uid: &str,
        seen: &Seen,
        frontends: &[&Arc<Frontend>],
        made: &mut Made,
    ) -> Result<(), ApiError> {
        let now = Timestamp::now();
        let (text, seconds) = (now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), now.as_second());
        let status = status(alb, seen, &self.installation, (&text, seconds));
        if without_times(&status) != without_times(&made.status) {
            tracing::info!(alb = %alb.key().id, state = %status["state"], reason = %status["reason"], "the ALB2's state");
            self.server.apply_status(&alb.key(), status.clone(), true).await?;
            if let Some(note) = news(alb.key(), uid, &made.status, &status) {
                self.record(&note, !made.status.is_null()).await;
            }
            made.status = status;
        }
        made.settled = made.status["state"] == "Running";
        for frontend in frontends {
            let key = frontend.key();
            let of_it = |pod: &Arc<str>, reported: &Reported| {
                let mut listeners =
                    reported.report.listeners.iter().filter(|listener| listener.origin.key == key).peekable();
                listeners.peek().is_some().then(|| {
                    (
                        pod.to_string(),
                        json!({ "conflict": listeners.any(|listener| listener.error.is_some()), "probeTime": seconds }),
                    )
                })
            };
            let instances: BTreeMap<String, Value> =
                self.alive().filter_map(|(pod, reported)| of_it(pod, reported)).collect();
            let status = json!({ "instances": instances });
            let old = made.instances.get(&key.id);
            if old.is_none_or(|old| without_times(old) != without_times(&status)) {
                if instances.is_empty() {
                    // What is given up item by item ends as null, which the definition refuses.
                    self.server.remove_status_field(&key, "instances").await?;
                } else {
                    self.server.apply_status(&key, status.clone(), true).await?;
                }
                if let Some(words) = self.conflict_of(&key) {
                    let uid = self.server.uid(&key).await?.map(Arc::from);
                    let (reason, note) =
                        ("PortConflict".to_owned(), format!("port {} is not served: {words}", frontend.spec.port));
                    let about = key.clone();
                    self.record(&EventNote { about, uid, warning: true, reason, action: ACTION, note }, false).await;
                }
                made.instances.insert(key.id, status);
            }
        }
        Ok(())
    }

    /// Why a gateway does not have the port of a Frontend; `None`: each has.
    fn conflict_of(&self, key: &ObjectKey) -> Option<String> {
        self.alive().find_map(|(pod, reported)| {
            let mut own = reported.report.listeners.iter().filter(|listener| listener.origin.key == *key);
            let error = own.find_map(|listener| listener.error.as_ref())?;
            Some(format!("{error} ({pod})"))
        })
    }

    /// Writes an Event; one that cannot be written is not worth stopping for: the status says the same.
    async fn record(&self, note: &EventNote, again: bool) {
        if let Err(error) = self.server.record_event(note, &self.instance, again).await {
            tracing::warn!(object = %note.about, %error, "cannot write an Event");
        }
    }
}

/// What an Event says of a change of the state: that all is there, or why not. What is under way is not worth one.
fn news(about: ObjectKey, uid: &str, before: &Value, now: &Value) -> Option<EventNote> {
    let words = |status: &Value| (status["state"].clone(), status["reason"].clone());
    if words(before) == words(now) {
        return None;
    }
    let (warning, note) = match now["state"].as_str()? {
        "Running" => (false, "pods, ports and addresses are there".to_owned()),
        "Warning" => (true, now["reason"].as_str().unwrap_or_default().to_owned()),
        _ => return None,
    };
    let reason = if warning { "NotAllServed" } else { "Running" }.to_owned();
    Some(EventNote { about, uid: Some(uid.into()), warning, reason, action: ACTION, note })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_tells_what_is_there_and_what_is_wrong_and_each_once() {
        let status = |state: &str, reason: &str| json!({ "state": state, "reason": reason });
        let told = |before: Value, now: Value| {
            let key = ObjectKey::new(Kind::Alb2, "a", "b");
            news(key, "uid", &before, &now).map(|note| (note.warning, note.reason, note.note))
        };
        let running = || Some((false, "Running".to_owned(), "pods, ports and addresses are there".to_owned()));
        let wrong = |why: &str| Some((true, "NotAllServed".to_owned(), why.to_owned()));
        for (before, now, expected) in [
            (Value::Null, status("Pending", "wait workload creating"), None),
            (status("Pending", ""), status("Progressing", "wait lb svc ready"), None),
            (status("Progressing", "wait lb svc ready"), status("Running", ""), running()),
            (Value::Null, status("Running", ""), running()),
            (status("Running", ""), status("Running", ""), None),
            (
                status("Running", ""),
                status("Warning", "port tcp-80 is not served: x"),
                wrong("port tcp-80 is not served: x"),
            ),
            (status("Warning", "x"), status("Warning", "x"), None),
            (status("Warning", "x"), status("Warning", "y"), wrong("y")),
        ] {
            assert_eq!(told(before.clone(), now.clone()), expected, "{before} {now}");
        }
    }
}
