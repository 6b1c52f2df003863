//! The control task.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use headwater_kube_io::{Batch, DirectoryError, DirectorySource, Reading, UnknownKind};
use headwater_model::cluster::{Change, Cluster, Object};
use headwater_model::finding::Finding;
use headwater_model::gateway::GatewaySnapshot;
use headwater_model::origin::ObjectKey;
use headwater_process::publish::{Publisher, Subscriber, publish};
use headwater_translate::{Options, Translator};
use tokio::sync::watch;

use crate::Findings;

/// Changes objects between source and translation; the identity but for demos.
pub type Adapt = Box<dyn Fn(Object) -> Object + Send>;

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
        let (batch, source) = DirectorySource::start(directory).await?;
        let (publisher, snapshots) = publish(GatewaySnapshot::default());
        let (report, findings) = watch::channel(Arc::default());
        let mut state =
            State { cluster: Cluster::default(), translator: Translator::new(options), adapt, publisher, report };
        state.apply(batch, &source, true);
        let task = tokio::spawn(follow(state, source));
        Ok(Self { snapshots, findings, task })
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
    cluster: Cluster,
    translator: Translator,
    adapt: Adapt,
    publisher: Publisher<GatewaySnapshot>,
    report: watch::Sender<Arc<Findings>>,
}

async fn follow(mut state: State, mut source: DirectorySource) {
    loop {
        let batch = source.next().await;
        state.apply(batch, &source, false);
    }
}

impl State {
    fn apply(&mut self, batch: Batch, source: &DirectorySource, first: bool) {
        let keys: Vec<ObjectKey> = batch.changes.iter().map(Change::key).collect();
        for change in batch.changes {
            let change = match change {
                Change::Set(object) => Change::Set((self.adapt)(object)),
                removed @ Change::Removed(_) => removed,
            };
            self.cluster.apply(&change);
        }
        let translation = self.translator.apply(&self.cluster, &keys, now());
        if translation.changed || first {
            tracing::info!(
                generation = translation.snapshot.generation,
                objects = keys.len(),
                listeners = translation.snapshot.listeners.len(),
                "configuration changed"
            );
            self.publisher.publish(translation.snapshot);
        }
        let located = translation.findings.iter().cloned().map(|finding| locate(finding, |k, f| source.locate(k, f)));
        let findings = Arc::new(Findings::new(batch.findings.into_iter().chain(located)));
        findings.log_changes(&self.report.borrow());
        self.report.send_replace(findings);
    }
}

/// Adds file and line to a finding that names object and field.
fn locate(
    mut finding: Finding,
    find: impl Fn(&ObjectKey, &str) -> Option<headwater_model::finding::Location>,
) -> Finding {
    if finding.location.is_none()
        && let Some(object) = &finding.object
    {
        finding.location = find(object, &finding.field);
    }
    finding
}

fn now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}

/// Translates what was read once, without running anything: every finding, and the kinds that nobody reads.
pub fn check(reading: Reading, options: Options) -> (Findings, Vec<UnknownKind>) {
    let mut cluster = Cluster::default();
    let mut keys = Vec::with_capacity(reading.objects.len());
    for (object, _) in &reading.objects {
        keys.push(object.key());
        cluster.apply(&Change::Set(object.clone()));
    }
    let translation = Translator::new(options).apply(&cluster, &keys, now());
    let located = translation.findings.iter().cloned().map(|finding| locate(finding, |k, f| reading.locate(k, f)));
    let findings = Findings::new(reading.findings.iter().cloned().chain(located));
    (findings, reading.unknown_kinds)
}
