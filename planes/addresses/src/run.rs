//! The task that gives addresses.

use std::collections::BTreeSet;

use headwater_ipam::Class;
use headwater_kube_io::{ApiError, ApiServer, ApiServerSource, Batch, Leadership, Reader, Selection, WriteGuard};
use headwater_model::finding::Severity;
use headwater_model::metallb::WRITTEN_KINDS;
use headwater_model::metallb::status::{ConfigurationResult, ConfigurationStateStatus};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Duration, MissedTickBehavior, interval};

use crate::desk::{Desk, PoolWrite, ServiceWrite, configuration_state};
use crate::metrics::AddressMetrics;

/// Writes under way at once.
const WRITES: usize = 16;

/// Before what could not be written is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// Most of what is wrong that a summary holds, in bytes.
const SUMMARY: usize = 4096;

/// Who gets addresses of what.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose Services get addresses.
    pub class: Class,
    /// Where pools, advertisements, peers, profiles and communities are.
    pub namespace: String,
    /// Name of this process, for Events.
    pub instance: String,
}

/// Gives addresses while it leads; it ends when dropped.
pub struct Addresses {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Addresses {
    pub fn start(server: &ApiServer, leadership: &Leadership, settings: Settings, metrics: AddressMetrics) -> Self {
        let (stop, stopped) = oneshot::channel();
        let state = State { server: server.clone(), guard: leadership.guard(), settings, metrics };
        Self { stop: Some(stop), task: tokio::spawn(state.run(leadership.leading(), stopped)) }
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

impl Drop for Addresses {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct State {
    server: ApiServer,
    guard: WriteGuard,
    settings: Settings,
    metrics: AddressMetrics,
}

/// What was written last and is not seen to have gone.
#[derive(Default)]
struct Written {
    pools: Vec<PoolWrite>,
    configuration: Option<(ConfigurationResult, String)>,
    failed: BTreeSet<NamespacedName>,
}

impl State {
    async fn run(self, mut leading: watch::Receiver<bool>, mut stopped: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                _ = &mut stopped => return,
                led = leading.wait_for(|leading| *leading) => if led.is_err() { return },
            }
            tokio::select! {
                _ = self.lead(&mut stopped) => return,
                // Whatever is under way may end; nothing more begins.
                lost = lost(leading.clone()) => if lost.is_err() { return },
            }
            self.metrics.hide();
        }
    }

    /// Gives addresses until it shall stop.
    async fn lead(&self, stopped: &mut oneshot::Receiver<()>) {
        let selection = Selection {
            kinds: vec![Kind::Service, Kind::Namespace],
            within: WRITTEN_KINDS.into_iter().map(|kind| (kind, self.settings.namespace.clone())).collect(),
            observe: true,
            reader: Reader::LoadBalancer,
            ..Selection::default()
        };
        let mut source = ApiServerSource::start(&self.server, selection);
        let mut desk = Desk::new(self.settings.class.clone(), &self.settings.namespace);
        let mut written = Written::default();
        let mut again = interval(TRY_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let writes = tokio::select! {
                _ = &mut *stopped => return,
                batch = source.next() => self.take(&mut desk, batch),
                _ = again.tick(), if !written.failed.is_empty() => desk.again(std::mem::take(&mut written.failed)),
            };
            self.write(&desk, writes, &mut written).await;
        }
    }

    fn take(&self, desk: &mut Desk, batch: Batch) -> Vec<ServiceWrite> {
        self.metrics.updated(batch.changes.len());
        desk.take(batch)
    }

    async fn write(&self, desk: &Desk, writes: Vec<ServiceWrite>, written: &mut Written) {
        let mut under_way: JoinSet<(NamespacedName, Result<(), ApiError>)> = JoinSet::new();
        let mut end = |result: Option<Result<(NamespacedName, Result<(), ApiError>), _>>| {
            let Some(Ok((id, Err(error)))) = result else { return };
            // One that is gone is told as gone.
            if !matches!(error, ApiError::NotFound { .. }) {
                tracing::warn!(service = %id, %error, "addresses cannot be written; it is tried again");
                self.metrics.failed();
                written.failed.insert(id);
            }
        };
        for write in writes {
            if under_way.len() >= WRITES {
                end(under_way.join_next().await);
            }
            if self.guard.deadline().is_none() {
                end(Some(Ok::<_, tokio::task::JoinError>((write.id, Err(no_leader())))));
                continue;
            }
            let (server, instance) = (self.server.clone(), self.settings.instance.clone());
            under_way.spawn(async move {
                let id = write.id.clone();
                (id, write_service(&server, &instance, write).await)
            });
        }
        while !under_way.is_empty() {
            end(under_way.join_next().await);
        }
        let is_valid = desk.findings().iter().all(|finding| finding.severity != Severity::Error);
        self.metrics.show(desk, is_valid);
        if self.guard.deadline().is_none() {
            return;
        }
        for pool in desk.pool_writes() {
            if written.pools.contains(&pool) {
                continue;
            }
            let key = ObjectKey { kind: Kind::IpAddressPool, id: pool.id.clone() };
            let status = serde_json::to_value(pool.status).expect("numbers are JSON");
            match self.server.apply_status(&key, status, true).await {
                Ok(()) => {
                    written.pools.retain(|known| known.id != pool.id);
                    written.pools.push(pool);
                }
                Err(error) => tracing::warn!(pool = %key, %error, "the pool's status cannot be written"),
            }
        }
        self.tell_configuration(desk, written).await;
    }

    async fn tell_configuration(&self, desk: &Desk, written: &mut Written) {
        let wrong: Vec<String> = desk
            .findings()
            .iter()
            .filter(|finding| finding.severity == Severity::Error || finding.reason == "MissingReference")
            .map(ToString::to_string)
            .collect();
        let result = if wrong.is_empty() { ConfigurationResult::Valid } else { ConfigurationResult::Invalid };
        let mut summary = wrong.join("; ");
        summary.truncate(summary.floor_char_boundary(SUMMARY));
        let state = (result, summary);
        if written.configuration.as_ref() == Some(&state) {
            return;
        }
        let key = configuration_state(&self.settings.namespace);
        let status = configuration_status(&state);
        let labels = json!({ "metadata": { "labels": { "metallb.io/component-type": "controller" } } });
        let told = match self.server.apply_read(&key, labels).await {
            Ok(()) => self.server.apply_status(&key, status, true).await,
            Err(error) => Err(error),
        };
        match told {
            Ok(()) => {}
            // Without the definition nobody asks for it.
            Err(ApiError::NotFound { .. }) => {}
            Err(error) => return tracing::warn!(%error, "the state of the configuration cannot be written"),
        }
        for finding in desk.findings() {
            tracing::warn!(%finding, "load balancer configuration");
        }
        written.configuration = Some(state);
    }
}

async fn lost(mut leading: watch::Receiver<bool>) -> Result<(), watch::error::RecvError> {
    leading.wait_for(|leading| !*leading).await.map(drop)
}

fn no_leader() -> ApiError {
    ApiError::Unavailable { what: "write".to_owned(), why: "this process does not lead".to_owned(), retry_after: None }
}

fn configuration_status((result, summary): &(ConfigurationResult, String)) -> Value {
    let is_valid = *result == ConfigurationResult::Valid;
    let status = ConfigurationStateStatus {
        result: Some(*result),
        error_summary: summary.clone(),
        conditions: vec![headwater_model::observed::Condition {
            condition_type: "Valid".to_owned(),
            status: match is_valid {
                true => headwater_model::observed::ConditionStatus::True,
                false => headwater_model::observed::ConditionStatus::False,
            },
            observed_generation: 0,
            last_transition_time: Timestamp::now().round(jiff::Unit::Second).unwrap_or_else(|_| Timestamp::now()),
            reason: if is_valid { "Valid" } else { "Invalid" }.to_owned(),
            message: summary.clone(),
        }],
    };
    serde_json::to_value(status).expect("texts are JSON")
}

/// The annotation first: whoever waits for the address finds all of it.
async fn write_service(server: &ApiServer, instance: &str, write: ServiceWrite) -> Result<(), ApiError> {
    let key = ObjectKey { kind: Kind::Service, id: write.id };
    if let Some(pool) = &write.pool {
        server.annotate(&key, headwater_model::metallb::ALLOCATED_ANNOTATION, pool.as_deref()).await?;
    }
    if let Some(addresses) = &write.addresses {
        let ingress: Vec<Value> = addresses.iter().map(|address| json!({ "ip": address.to_string() })).collect();
        server.apply_status(&key, json!({ "loadBalancer": { "ingress": ingress } }), true).await?;
        tracing::info!(service = %key.id, ?addresses, pool = ?write.pool, "addresses of the Service");
    }
    for event in &write.events {
        if let Err(error) = server.record_event(event, instance, true).await {
            tracing::warn!(service = %key.id, %error, "an Event cannot be written");
        }
    }
    Ok(())
}
