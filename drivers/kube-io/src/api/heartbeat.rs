//! Signs of life of gateways: a Lease of its own for each, with a report for whoever leads the controllers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use headwater_model::report::REPORT_BYTES;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep_until, timeout};

use super::backoff::fraction;
use super::connect::{ApiError, ApiServer};
use super::lease::LeaseName;
use super::write::{FIELD_MANAGER, REQUEST_LIMIT, within};

/// The annotation of a gateway's Lease that holds its report.
pub const REPORT_ANNOTATION: &str = "headwater.dev/report";

/// Default of [`HeartbeatSettings::duration`].
pub const HEARTBEAT_DURATION: Duration = Duration::from_secs(40);

/// Default of [`HeartbeatSettings::renew`].
pub const HEARTBEAT_RENEW: Duration = Duration::from_secs(10);

/// Reports that change more often than this, or than signs of life, wait.
const BETWEEN_REPORTS: Duration = Duration::from_secs(1);

/// Pause after a request that did not succeed, where signs of life are not more frequent; up to twice as long.
const RETRY: Duration = Duration::from_secs(2);

/// How long the removal at the end may take before the Lease is left to run out.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// What a gateway's Lease says besides its report.
#[derive(Debug, Clone)]
pub struct HeartbeatSettings {
    pub lease: LeaseName,
    /// Who is alive: the pod's name.
    pub holder: String,
    /// By which controllers find it.
    pub labels: BTreeMap<String, String>,
    /// `metadata.uid` of the pod named [`holder`](Self::holder), which then owns the Lease: they go together.
    pub pod_uid: Option<String>,
    /// After how long of silence it counts as dead. Default 40 s.
    pub duration: Duration,
    /// Between two signs of life. Default 10 s.
    pub renew: Duration,
}

/// Renews a Lease until it is stopped; ends when dropped, and the Lease runs out.
pub struct Heartbeat {
    report: watch::Sender<Arc<str>>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Heartbeat {
    pub fn start(server: &ApiServer, settings: HeartbeatSettings) -> Self {
        let (report, reports) = watch::channel(Arc::from(""));
        let (stop, stopped) = oneshot::channel();
        let api = Api::namespaced(server.client.clone(), &settings.lease.namespace);
        let pulse = Pulse { api, settings, since: Timestamp::now(), reports, uid: None, complained: false };
        Self { report, stop: Some(stop), task: tokio::spawn(pulse.run(stopped)) }
    }

    /// What the annotation shall say; it is written when it changed. Texts over [`REPORT_BYTES`] are not taken.
    pub fn report(&self, text: &str) {
        if text.len() > REPORT_BYTES {
            tracing::warn!(
                bytes = text.len(),
                limit = REPORT_BYTES,
                "report is too long for a Lease; the last one stays"
            );
            return;
        }
        self.report.send_if_modified(|report| {
            let changed = **report != *text;
            if changed {
                *report = Arc::from(text);
            }
            changed
        });
    }

    /// Removes the Lease.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // The task may have ended with the runtime: the Lease runs out then.
            let _ = stop.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The owner of one Lease.
struct Pulse {
    api: Api<Lease>,
    settings: HeartbeatSettings,
    since: Timestamp,
    reports: watch::Receiver<Arc<str>>,
    uid: Option<String>,
    complained: bool,
}

impl Pulse {
    async fn run(mut self, stopped: oneshot::Receiver<()>) {
        tokio::select! {
            biased;
            _ = stopped => {}
            () = self.beat() => {}
        }
        if timeout(STOP_LIMIT, self.remove()).await.is_err() {
            tracing::warn!(lease = self.settings.lease.name, "lease not removed in time; it runs out by itself");
        }
    }

    async fn beat(&mut self) {
        // Whether the whole Lease is to be written, rather than its time only.
        let mut whole = true;
        loop {
            let started = Instant::now();
            let result = if whole { self.apply().await } else { self.renew().await };
            let failed = result.is_err();
            whole = match result {
                Ok(()) => false,
                // Somebody deleted it.
                Err(ApiError::NotFound { .. }) if !whole => true,
                Err(_) => whole,
            };
            self.say(result);
            let retry = RETRY.min(self.settings.renew);
            let pause = if failed { retry.mul_f64(1.0 + fraction()) } else { self.settings.renew };
            tokio::select! {
                () = sleep_until(started + pause) => {}
                // Its sender lives as long as this task is wanted.
                Ok(()) = self.reports.changed(), if !failed => {
                    sleep_until(started + BETWEEN_REPORTS.min(self.settings.renew)).await;
                    whole = true;
                }
            }
        }
    }

    fn say(&mut self, result: Result<(), ApiError>) {
        match result {
            Ok(()) if std::mem::take(&mut self.complained) => tracing::info!("heartbeat: the API server answers again"),
            Ok(()) => {}
            Err(error) if !std::mem::replace(&mut self.complained, true) => tracing::warn!("heartbeat: {error}"),
            Err(_) => {}
        }
    }

    fn what(&self) -> String {
        format!("Lease {}/{}", self.settings.lease.namespace, self.settings.lease.name)
    }

    async fn apply(&mut self) -> Result<(), ApiError> {
        let report = self.reports.borrow_and_update().clone();
        let body = Patch::Apply(whole_lease(&self.settings, &report, self.since, Timestamp::now()));
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let request = self.api.patch(&self.settings.lease.name, &parameters, &body);
        let lease = within(|| self.what(), self.patience(), request).await;
        if lease.is_err() {
            // Not told yet.
            self.reports.mark_changed();
        }
        self.uid = lease?.metadata.uid;
        Ok(())
    }

    async fn renew(&self) -> Result<(), ApiError> {
        let patch = Patch::Merge(json!({ "spec": { "renewTime": MicroTime(Timestamp::now()) } }));
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let request = self.api.patch_metadata(&self.settings.lease.name, &parameters, &patch);
        within(|| self.what(), self.patience(), request).await.map(drop)
    }

    /// A sign of life that takes longer is none.
    fn patience(&self) -> Duration {
        REQUEST_LIMIT.min(self.settings.duration)
    }

    async fn remove(&mut self) {
        // Not another's that took the name meanwhile.
        let Some(uid) = self.uid.take() else { return };
        let preconditions = Some(Preconditions { uid: Some(uid), ..Preconditions::default() });
        let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
        let request = self.api.delete(&self.settings.lease.name, &parameters);
        match within(|| self.what(), REQUEST_LIMIT, request).await {
            Ok(_) | Err(ApiError::NotFound { .. } | ApiError::Conflict { .. }) => {}
            Err(error) => tracing::warn!("heartbeat: {error}"),
        }
    }
}

fn whole_lease(settings: &HeartbeatSettings, report: &str, since: Timestamp, now: Timestamp) -> Value {
    let mut metadata = json!({ "name": settings.lease.name, "labels": settings.labels });
    if !report.is_empty() {
        metadata["annotations"] = json!({ REPORT_ANNOTATION: report });
    }
    if let Some(uid) = &settings.pod_uid {
        metadata["ownerReferences"] =
            json!([{ "apiVersion": "v1", "kind": "Pod", "name": settings.holder, "uid": uid }]);
    }
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            "holderIdentity": settings.holder,
            "leaseDurationSeconds": settings.duration.as_secs(),
            "acquireTime": MicroTime(since),
            "renewTime": MicroTime(now),
        },
    })
}

/// A gateway's Lease, as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayLease {
    pub name: Arc<str>,
    /// Changes with every sign of life.
    pub version: String,
    /// After how long of silence the gateway counts as dead.
    pub duration: Duration,
    /// `None`: none yet, or longer than [`REPORT_BYTES`].
    pub report: Option<Arc<str>>,
}

/// What became of the gateways' Leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FleetChange {
    /// These, and no others.
    All(Vec<GatewayLease>),
    Set(GatewayLease),
    Removed(Arc<str>),
}

/// Follows the gateways' Leases.
pub struct FleetWatch {
    events: BoxStream<'static, Result<Event<Lease>, watcher::Error>>,
    listed: HashMap<Arc<str>, GatewayLease>,
    complained: bool,
}

impl ApiServer {
    /// Follows the Leases of a namespace that a label selector chooses.
    pub fn watch_gateways(&self, namespace: &str, selector: &str) -> FleetWatch {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), namespace);
        let events = watcher(api, watcher::Config::default().labels(selector)).default_backoff().into_stream().boxed();
        FleetWatch { events, listed: HashMap::new(), complained: false }
    }
}

impl FleetWatch {
    /// The next change. Errors are logged and tried again, with growing pauses; this never ends.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> FleetChange {
        loop {
            let Some(event) = self.events.next().await else { return std::future::pending().await };
            match event {
                Ok(event) => {
                    if std::mem::take(&mut self.complained) {
                        tracing::info!("leases of gateways: the API server answers again");
                    }
                    if let Some(change) = self.take(event) {
                        return change;
                    }
                }
                Err(error) if !std::mem::replace(&mut self.complained, true) => {
                    tracing::warn!("leases of gateways: {error}");
                }
                Err(_) => {}
            }
        }
    }

    fn take(&mut self, event: Event<Lease>) -> Option<FleetChange> {
        match event {
            Event::Init => {
                self.listed.clear();
                None
            }
            Event::InitApply(lease) => {
                let lease = seen(lease);
                self.listed.insert(lease.name.clone(), lease);
                None
            }
            Event::InitDone => Some(FleetChange::All(self.listed.drain().map(|(_, lease)| lease).collect())),
            Event::Apply(lease) => Some(FleetChange::Set(seen(lease))),
            Event::Delete(lease) => Some(FleetChange::Removed(seen(lease).name)),
        }
    }
}

fn seen(lease: Lease) -> GatewayLease {
    let mut annotations = lease.metadata.annotations.unwrap_or_default();
    let seconds =
        lease.spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    GatewayLease {
        name: lease.metadata.name.unwrap_or_default().into(),
        version: lease.metadata.resource_version.unwrap_or_default(),
        duration: seconds.map_or(HEARTBEAT_DURATION, Duration::from_secs),
        report: annotations.remove(REPORT_ANNOTATION).filter(|report| report.len() <= REPORT_BYTES).map(Arc::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(annotation: &str) -> Lease {
        serde_json::from_value(json!({
            "metadata": { "name": "gateway-1", "resourceVersion": "7", "annotations": { REPORT_ANNOTATION: annotation } },
            "spec": { "leaseDurationSeconds": 20 },
        }))
        .unwrap()
    }

    #[test]
    fn a_lease_is_read_as_a_sign_of_life_with_its_report() {
        let read = seen(lease("{}"));
        assert_eq!((&*read.name, &*read.version, read.duration), ("gateway-1", "7", Duration::from_secs(20)));
        assert_eq!(read.report.as_deref(), Some("{}"));
        assert_eq!(seen(lease(&"x".repeat(REPORT_BYTES + 1))).report, None);
        assert_eq!(seen(Lease::default()).duration, HEARTBEAT_DURATION);
    }

    #[test]
    fn times_that_a_lease_tells_change_nothing_whatever_clock_they_are_of() {
        let plain = seen(lease("{}"));
        for time in ["1970-01-01T00:00:00.000000Z", "2001-09-09T01:46:40.000000Z", "2999-01-01T00:00:00.000000Z"] {
            let mut other = lease("{}");
            let time: Timestamp = time.parse().unwrap();
            let spec = other.spec.get_or_insert_default();
            (spec.renew_time, spec.acquire_time) = (Some(MicroTime(time)), Some(MicroTime(time)));
            assert_eq!(seen(other), plain);
        }
    }

    #[test]
    fn a_lease_belongs_to_its_pod_when_that_is_known() {
        let mut settings = HeartbeatSettings {
            lease: LeaseName { namespace: "ns".to_owned(), name: "gateway-1".to_owned() },
            holder: "pod-1".to_owned(),
            labels: BTreeMap::new(),
            pod_uid: None,
            duration: HEARTBEAT_DURATION,
            renew: HEARTBEAT_RENEW,
        };
        let now = Timestamp::UNIX_EPOCH;
        let metadata = |settings: &HeartbeatSettings| whole_lease(settings, "", now, now)["metadata"].clone();
        assert_eq!(metadata(&settings), json!({ "name": "gateway-1", "labels": {} }));
        settings.pod_uid = Some("u".to_owned());
        assert_eq!(metadata(&settings)["ownerReferences"][0]["name"], "pod-1");
    }
}
