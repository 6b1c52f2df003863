//! The control task of a controller: nothing is served, but status is written and questions are answered.
//!
//! ```text
//!  ApiServerSource ──Batch──> controller task ──StatusEvent──> StatusWriter ──> API server
//!  admission ──change?──────────────┘└──Consequences──> admission
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use headwater_kube_io::{ApiServer, ApiServerSource, Batch, Selection};
use headwater_model::cluster::{Change, Cluster};
use headwater_model::finding::Finding;
use headwater_model::observed::{Observed, PublishedAddress};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use headwater_process::metrics::Registry;
use headwater_service_nat::Conflicts;
use headwater_translate::alb::Shown;
use headwater_translate::{Options, Served, Translator};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::findings::Report;
use crate::status::{ServedAs, StatusEvent, StatusWriter, published_by};
use crate::what_if::{Consequences, what_if};
use crate::{Findings, clock, metrics};

/// Kinds that change which Rules show Ingresses.
const SHOWN_BY: [Kind; 7] = [
    Kind::Ingress,
    Kind::IngressClass,
    Kind::GatewaySettings,
    Kind::Alb2,
    Kind::Frontend,
    Kind::Namespace,
    Kind::Service,
];

/// Questions that wait for an answer.
const QUESTIONS: usize = 64;

/// Where clients reach the gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publish {
    /// The addresses of this Service.
    Service(NamespacedName),
    /// These; none: addresses are not written.
    Addresses(Vec<PublishedAddress>),
}

/// A running controller; it ends when dropped.
pub struct Controller {
    findings: watch::Receiver<Arc<Findings>>,
    started: watch::Receiver<bool>,
    shown: watch::Receiver<Option<Arc<Shown>>>,
    questions: mpsc::Sender<Question>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<StatusWriter>>,
}

struct Question {
    change: Change,
    answer: oneshot::Sender<Consequences>,
}

/// Asks a [`Controller`]; cheap to clone.
#[derive(Clone)]
pub struct Oracle(mpsc::Sender<Question>);

impl Oracle {
    /// What would be wrong if the object were changed so. `None`: the controller ended.
    pub async fn ask(&self, change: Change) -> Option<Consequences> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Question { change, answer }).await.ok()?;
        answered.await.ok()
    }
}

impl Controller {
    /// Follows an API server. `selection` must observe; the translator says nothing of Secrets that it cannot read. With
    /// `services` it tells of Services that want what another one has; `selection` must keep their status then.
    pub fn follow(
        server: &ApiServer,
        selection: Selection,
        options: Options,
        publish: Publish,
        services: bool,
        writer: StatusWriter,
        registry: &Registry,
    ) -> Self {
        let source = ApiServerSource::start(server, selection);
        metrics::register(registry, source.health());
        register_writes(registry, &writer);
        let (report, findings) = Report::new();
        let (first, started) = watch::channel(false);
        let (show, shown) = watch::channel(None);
        let show = options.shows_ingress_rules.then_some(show);
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (stop, stopped) = oneshot::channel();
        let state = State {
            source,
            cluster: Cluster::default(),
            observed: BTreeMap::new(),
            translator: Translator::new(options),
            conflicts: services.then(Conflicts::default),
            found: Found::default(),
            wanted: Arc::default(),
            publish,
            published: None,
            writer,
            report,
            first,
            show,
        };
        let task = tokio::spawn(state.run(asked, stopped));
        Self { findings, started, shown, questions, stop: Some(stop), task: Some(task) }
    }

    /// The latest findings; changes with them.
    pub fn findings(&self) -> watch::Receiver<Arc<Findings>> {
        self.findings.clone()
    }

    /// Whether everything was read once.
    pub fn started(&self) -> watch::Receiver<bool> {
        self.started.clone()
    }

    /// Ingresses as Rules, from when everything was read once; only with
    /// [`shows_ingress_rules`](Options::shows_ingress_rules).
    pub fn shown(&self) -> watch::Receiver<Option<Arc<Shown>>> {
        self.shown.clone()
    }

    pub fn oracle(&self) -> Oracle {
        Oracle(self.questions.clone())
    }

    /// Ends it, and waits for the writes under way.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // The task is gone only if it panicked, which the runtime has reported.
            let _ = stop.send(());
        }
        if let Some(task) = self.task.take()
            && let Ok(writer) = task.await
        {
            writer.stop().await;
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Owner of everything that the controller knows.
struct State {
    source: ApiServerSource,
    cluster: Cluster,
    observed: BTreeMap<ObjectKey, Observed>,
    translator: Translator,
    /// Of Services, where nodes proxy them.
    conflicts: Option<Conflicts>,
    found: Found,
    wanted: Arc<BTreeSet<ObjectKey>>,
    publish: Publish,
    published: Option<Vec<PublishedAddress>>,
    writer: StatusWriter,
    report: Report,
    first: watch::Sender<bool>,
    show: Option<watch::Sender<Option<Arc<Shown>>>>,
}

/// What the engines find, together. The same pointer as before while theirs are.
#[derive(Default)]
struct Found {
    of_routes: Arc<[Finding]>,
    of_services: Arc<[Finding]>,
    all: Arc<[Finding]>,
}

impl Found {
    fn gather(&mut self, of_routes: Arc<[Finding]>, of_services: Arc<[Finding]>) -> Arc<[Finding]> {
        if !(Arc::ptr_eq(&of_routes, &self.of_routes) && Arc::ptr_eq(&of_services, &self.of_services)) {
            self.all = match of_services.is_empty() {
                true => of_routes.clone(),
                false => of_routes.iter().chain(&*of_services).cloned().collect(),
            };
            (self.of_routes, self.of_services) = (of_routes, of_services);
        }
        self.all.clone()
    }
}

impl State {
    async fn run(mut self, mut asked: mpsc::Receiver<Question>, mut stopped: oneshot::Receiver<()>) -> StatusWriter {
        loop {
            tokio::select! {
                _ = &mut stopped => return self.writer,
                batch = self.source.next() => self.apply(batch).await,
                Some(Question { change, answer }) = asked.recv() => {
                    let consequences = what_if(&mut self.cluster, &mut self.translator, &change, clock::now());
                    // Whoever asked may have given up.
                    let _ = answer.send(consequences);
                }
            }
        }
    }

    async fn apply(&mut self, batch: Batch) {
        let keys: Vec<ObjectKey> = batch.changes.iter().map(Change::key).collect();
        let mut touched: BTreeSet<ObjectKey> = keys.iter().cloned().collect();
        for change in &batch.changes {
            self.cluster.apply(change);
        }
        for (key, observed) in batch.observed {
            touched.insert(key.clone());
            match observed {
                Some(observed) => drop(self.observed.insert(key, observed)),
                None => drop(self.observed.remove(&key)),
            }
        }
        let translation = self.translator.apply(&self.cluster, &keys, clock::now());
        if !Arc::ptr_eq(&self.wanted, &translation.wanted) {
            self.wanted = translation.wanted.clone();
            self.source.want(&self.wanted);
        }
        if translation.environment_changed {
            touched.extend(self.observed.keys().filter(|key| key.kind == Kind::Ingress).cloned());
        }
        touched.extend(self.translator.moved().cloned().map(|id| ObjectKey { kind: Kind::Ingress, id }));
        self.tell_addresses(&touched).await;
        for key in touched {
            let observed = self.observed.get(&key).cloned();
            match key.kind {
                Kind::Ingress => {
                    let served = self.served(&key.id);
                    self.writer.tell(StatusEvent::Ingress { id: key.id, served, observed }).await;
                }
                Kind::GatewaySettings => self.writer.tell(StatusEvent::Settings { id: key.id, observed }).await,
                _ => {}
            }
        }
        let conflicts = self.conflicts.as_mut().map(|conflicts| conflicts.apply(&self.cluster, &keys));
        let found = self.found.gather(translation.findings, conflicts.unwrap_or_default());
        if let Some(findings) = self.report.update(found, batch.findings, None) {
            self.writer.tell(StatusEvent::Findings(findings)).await;
        }
        let is_first = self.source.pending() == 0 && !*self.first.borrow();
        if is_first {
            self.first.send_replace(true);
            self.writer.tell(StatusEvent::Synced).await;
        }
        if *self.first.borrow() && (is_first || keys.iter().any(|key| SHOWN_BY.contains(&key.kind))) {
            self.show_rules();
        }
    }

    /// Ingresses as Rules, for who writes those.
    fn show_rules(&self) {
        let Some(show) = &self.show else { return };
        let shown = self.translator.shown(&self.cluster);
        show.send_if_modified(|known| {
            let differs = known.as_deref() != Some(&shown);
            if differs {
                *known = Some(Arc::new(shown));
            }
            differs
        });
    }

    fn served(&self, id: &NamespacedName) -> Option<ServedAs> {
        if let Some(served) = self.translator.served(id) {
            return Some(ServedAs { taken_over: served == Served::TakenOver, at: None });
        }
        let served = self.translator.served_by_albs(id)?;
        // Without a class others may serve it as well.
        Some(ServedAs { taken_over: !served.names_class, at: Some(served.at) })
    }

    /// Tells where clients reach the gateways, if that changed.
    async fn tell_addresses(&mut self, touched: &BTreeSet<ObjectKey>) {
        let addresses = match &self.publish {
            Publish::Addresses(addresses) if self.published.is_none() => addresses.clone(),
            Publish::Service(id) => {
                let key = ObjectKey { kind: Kind::Service, id: id.clone() };
                if self.published.is_some() && !touched.contains(&key) {
                    return;
                }
                let status = self.observed.get(&key).map_or(&[][..], |observed| &observed.addresses);
                match self.cluster.services.get(id) {
                    Some(service) => published_by(service, status),
                    None => {
                        tracing::warn!(service = %id, "the Service that addresses are taken from does not exist");
                        Vec::new()
                    }
                }
            }
            Publish::Addresses(_) => return,
        };
        if self.published.as_ref() != Some(&addresses) {
            tracing::info!(?addresses, "clients reach the gateways here");
            self.published = Some(addresses.clone());
            self.writer.tell(StatusEvent::Published(addresses)).await;
        }
    }
}

fn register_writes(registry: &Registry, writer: &StatusWriter) {
    let totals = writer.counters();
    let counter = |name, help, value: fn(&crate::status::StatusCounters) -> &std::sync::atomic::AtomicU64| {
        let totals = totals.clone();
        registry.counter_fn(name, help, move || value(&totals).load(Ordering::Relaxed));
    };
    counter("status_writes", "Statuses written", |totals| &totals.written);
    counter("status_conflicts", "Statuses left alone because another controller keeps them", |totals| {
        &totals.conflicts
    });
    counter("status_write_failures", "Statuses that could not be written at once", |totals| &totals.failed);
    counter("events", "Events written, or counted again", |totals| &totals.events);
    counter("event_failures", "Events that could not be written", |totals| &totals.events_failed);
}
