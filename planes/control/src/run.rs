//! The control task of a gateway.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headwater_kube_io::{ApiServer, ApiServerSource, Batch, DirectoryError, DirectorySource, Selection};
use headwater_model::cluster::{Change, Cluster, Object};
use headwater_model::finding::Finding;
use headwater_model::gateway::GatewaySnapshot;
use headwater_model::origin::ObjectKey;
use headwater_process::metrics::Registry;
use headwater_process::publish::{Publisher, Subscriber, publish};
use headwater_translate::{Options, Translation, Translator};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use crate::findings::Report;
use crate::source::Source;
use crate::{Findings, clock, metrics};

/// Changes objects between source and translation; the identity but for demos.
pub type Adapt = Box<dyn Fn(Object) -> Object + Send>;

/// How long a change waits for the Secrets and ConfigMaps that it needs: so that a host does not answer with the
/// wrong certificate first.
const HOLD: Duration = Duration::from_secs(1);

/// The same for the first configuration, before which nothing is served.
const FIRST_HOLD: Duration = Duration::from_secs(10);

/// A running control task; it ends when dropped.
pub struct Control {
    snapshots: Subscriber<GatewaySnapshot>,
    findings: watch::Receiver<Arc<Findings>>,
    task: tokio::task::JoinHandle<()>,
}

impl Control {
    /// Reads the directory, publishes what it says, and follows its changes.
    ///
    /// # Errors
    /// When the directory cannot be read at all.
    pub async fn start(directory: &Path, options: Options, adapt: Adapt) -> Result<Self, DirectoryError> {
        Self::start_telling(directory, options, adapt, None).await
    }

    /// As [`Self::start`]; what is read is passed on to `listener`, too, so that it is read once.
    ///
    /// # Errors
    /// As there.
    pub async fn start_telling(
        directory: &Path,
        options: Options,
        adapt: Adapt,
        listener: Option<mpsc::Sender<Batch>>,
    ) -> Result<Self, DirectoryError> {
        let (batch, source) = DirectorySource::start(directory).await?;
        let (mut state, snapshots, findings) = State::new(Source::Directory(Box::new(source)), options, adapt);
        state.listener = listener;
        state.pass_on(&batch).await;
        state.apply(batch);
        state.publish();
        Ok(Self { snapshots, findings, task: tokio::spawn(follow(state)) })
    }

    /// Follows an API server. The first snapshot is published once everything was read; until then there is an empty
    /// one of generation 0.
    pub fn follow(server: &ApiServer, selection: Selection, options: Options, registry: &Registry) -> Self {
        let source = ApiServerSource::start(server, selection);
        metrics::register(registry, source.health());
        let (state, snapshots, findings) =
            State::new(Source::ApiServer(Box::new(source)), options, Box::new(|object| object));
        Self { snapshots, findings, task: tokio::spawn(follow(state)) }
    }

    pub fn snapshots(&self) -> Subscriber<GatewaySnapshot> {
        self.snapshots.clone()
    }

    /// The latest findings; changes with them.
    pub fn findings(&self) -> watch::Receiver<Arc<Findings>> {
        self.findings.clone()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Owner of the objects and of everything translated from them.
struct State {
    source: Source,
    cluster: Cluster,
    translator: Translator,
    adapt: Adapt,
    publisher: Publisher<GatewaySnapshot>,
    report: Report,
    /// What the source was asked for last.
    wanted: Arc<BTreeSet<ObjectKey>>,
    /// Translated, and not published yet; with the findings of the source.
    unpublished: Option<(Translation, Vec<Finding>)>,
    /// Objects that changed since the last publication.
    objects: usize,
    /// Another plane, which reads the same directory.
    listener: Option<mpsc::Sender<Batch>>,
}

async fn follow(mut state: State) {
    let mut published = state.publisher.load().generation != 0;
    loop {
        let batch = state.source.next().await;
        state.pass_on(&batch).await;
        state.apply(batch);
        let until = Instant::now() + if published { HOLD } else { FIRST_HOLD };
        while state.source.pending() > 0 {
            let Ok(batch) = timeout_at(until, state.source.next()).await else { break };
            state.apply(batch);
        }
        state.publish();
        published = true;
    }
}

impl State {
    fn new(
        source: Source,
        options: Options,
        adapt: Adapt,
    ) -> (Self, Subscriber<GatewaySnapshot>, watch::Receiver<Arc<Findings>>) {
        let (publisher, snapshots) = publish(GatewaySnapshot::default());
        let (report, findings) = Report::new();
        let state = Self {
            source,
            cluster: Cluster::default(),
            translator: Translator::new(options),
            adapt,
            publisher,
            report,
            wanted: Arc::default(),
            unpublished: None,
            objects: 0,
            listener: None,
        };
        (state, snapshots, findings)
    }

    async fn pass_on(&mut self, batch: &Batch) {
        if let Some(listener) = &self.listener {
            // One that ended says so itself.
            let _ = listener.send(batch.clone()).await;
        }
    }

    fn apply(&mut self, batch: Batch) {
        let keys: Vec<ObjectKey> = batch.changes.iter().map(Change::key).collect();
        for change in batch.changes {
            let change = match change {
                Change::Set(object) => Change::Set((self.adapt)(object)),
                removed @ Change::Removed(_) => removed,
            };
            self.cluster.apply(&change);
        }
        let translation = self.translator.apply(&self.cluster, &keys, clock::now());
        if !Arc::ptr_eq(&self.wanted, &translation.wanted) {
            self.wanted = translation.wanted.clone();
            self.source.want(&self.wanted);
        }
        self.objects += keys.len();
        self.unpublished = Some((translation, batch.findings));
    }

    fn publish(&mut self) {
        let Some((Translation { snapshot, findings, .. }, read)) = self.unpublished.take() else { return };
        if !Arc::ptr_eq(&snapshot, &self.publisher.load()) {
            tracing::info!(
                generation = snapshot.generation,
                objects = std::mem::take(&mut self.objects),
                listeners = snapshot.listeners.len(),
                "configuration changed"
            );
            self.publisher.publish(snapshot);
        }
        self.report.update(findings, read, self.source.files());
    }
}
