//! A node: its object, its Lease, and the pods that are assigned to it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::api::call;
use super::pod::{self, Order, Running, RunningPod};
use super::{locked, status};
use crate::lab::{Host, Lab};

/// How often a kubelet renews the Lease of its node.
const RENEWAL: Duration = Duration::from_secs(10);

/// Until what failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// What runs the pods of a node.
pub(super) struct Kubelet {
    pub(super) name: String,
    pub(super) number: u8,
    pub(super) host: Host,
    pub(super) addresses: [IpAddr; 2],
    pub(super) client: Client,
    pub(super) dir: PathBuf,
    pub(super) authority: String,
    pub(super) headwater: PathBuf,
    pub(super) lab: Arc<Lab>,
    /// By namespace and name.
    pub(super) pods: Mutex<BTreeMap<(String, String), Arc<Running>>>,
    /// Last parts of the addresses of pods that are there.
    pub(super) numbers: Mutex<BTreeSet<u8>>,
}

impl std::fmt::Debug for Kubelet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Kubelet").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A node of a cluster. Clones are the same node; it ends with its [`Network`](super::Network).
#[derive(Clone, Debug)]
pub struct Node {
    kubelet: Arc<Kubelet>,
    tasks: Arc<[AbortHandle]>,
}

impl Node {
    /// Registers the node and starts to run its pods.
    pub(super) async fn start(kubelet: Arc<Kubelet>, runtime: &Handle) -> Result<Self> {
        let registered = kubelet.clone();
        runtime.spawn(async move { registered.register().await }).await??;
        let tasks = Arc::new([
            runtime.spawn(kubelet.clone().watch()).abort_handle(),
            runtime.spawn(kubelet.clone().renew()).abort_handle(),
        ]);
        Ok(Self { kubelet, tasks })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.kubelet.name
    }

    /// Its network namespace, which pods with `hostNetwork` share.
    pub fn host(&self) -> &Host {
        &self.kubelet.host
    }

    /// Its IPv4 and its IPv6 address.
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.kubelet.addresses
    }

    /// A pod that runs on it.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<RunningPod> {
        let pods = locked(&self.kubelet.pods);
        pods.get(&(namespace.to_owned(), name.to_owned())).cloned().map(RunningPod)
    }

    /// How many pods it runs.
    pub fn pods(&self) -> usize {
        locked(&self.kubelet.pods).len()
    }

    /// Ends the node as a power failure does: the processes of its pods are killed, its Lease is renewed no more, and
    /// nobody tells the API.
    pub fn fail(&self) {
        for task in self.tasks.iter() {
            task.abort();
        }
        let pods = std::mem::take(&mut *locked(&self.kubelet.pods));
        for pod in pods.into_values() {
            pod.kill();
        }
    }
}

impl Kubelet {
    /// A request as this node.
    pub(super) async fn call(&self, method: Method, path: &str, kind: &str, body: &Value) -> kube::Result<Value> {
        call(&self.client, method, path, kind, Some(body)).await
    }

    pub(super) fn pod_addresses(&self, last: u8) -> Result<Vec<IpAddr>> {
        let number = self.number;
        Ok(vec![format!("10.244.{number}.{last}").parse()?, format!("fd00:10:244:{number}::{last:x}").parse()?])
    }

    async fn register(&self) -> Result<()> {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": self.name, "labels": {
                "kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            } },
            "spec": {
                "podCIDR": format!("10.244.{}.0/24", self.number),
                "podCIDRs": [format!("10.244.{}.0/24", self.number), format!("fd00:10:244:{}::/64", self.number)],
            },
        });
        let created = self.call(Method::POST, "/api/v1/nodes", "application/json", &node).await;
        created.with_context(|| format!("create node {}", self.name))?;
        let path = format!("/api/v1/nodes/{}", self.name);
        let now = status::now();
        let room = json!({ "cpu": "2", "memory": "4Gi", "pods": "110" });
        let mut addresses = vec![json!({ "type": "Hostname", "address": self.name })];
        addresses.extend(self.addresses.map(|address| json!({ "type": "InternalIP", "address": address })));
        let ready = json!({ "status": {
            "capacity": room, "allocatable": room, "addresses": addresses,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
                "lastHeartbeatTime": now, "lastTransitionTime": now,
            }],
        } });
        let patch = "application/merge-patch+json";
        self.call(Method::PATCH, &format!("{path}/status"), patch, &ready).await.context("status of a node")?;
        // The API server taints what is new; nobody else here would take that away.
        self.call(Method::PATCH, &path, patch, &json!({ "spec": { "taints": null } }))
            .await
            .context("taints of a node")?;
        Ok(())
    }

    async fn renew(self: Arc<Self>) {
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let mut ticks = interval(RENEWAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": self.name },
                "spec": { "holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": time },
            });
            let one = format!("{path}/{}", self.name);
            let renewed = self.call(Method::PATCH, &one, "application/merge-patch+json", &lease).await;
            if matches!(&renewed, Err(kube::Error::Api(status)) if status.code == 404) {
                // What is refused now is tried again with the next renewal.
                let _ = self.call(Method::POST, path, "application/json", &lease).await;
            }
        }
    }

    /// Runs the pods of this node, for ever.
    async fn watch(self: Arc<Self>) {
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.name));
        let mut events = pin!(watcher(Api::<Pod>::all(self.client.clone()), config));
        let mut workers = Workers { kubelet: self.clone(), orders: HashMap::new(), tasks: JoinSet::new() };
        let mut listed = HashSet::new();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                Some(ended) = workers.tasks.join_next() => {
                    if let Ok(uid) = ended {
                        workers.orders.remove(&uid);
                    }
                    continue;
                }
            };
            match event {
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(pod))) => {
                    listed.extend(pod.metadata.uid.clone());
                    workers.apply(pod);
                }
                Some(Ok(Event::InitDone)) => {
                    for (_, order) in workers.orders.iter().filter(|(uid, _)| !listed.contains(*uid)) {
                        order.send_replace(Order::Kill);
                    }
                }
                Some(Ok(Event::Apply(pod))) => workers.apply(pod),
                Some(Ok(Event::Delete(pod))) => {
                    let order = pod.metadata.uid.as_ref().and_then(|uid| workers.orders.get(uid));
                    order.map(|order| order.send_replace(Order::Kill));
                }
                // The API server is away; the watch goes on when it is asked again.
                Some(Err(_)) => sleep(PAUSE).await,
                None => return,
            }
        }
    }
}

/// One task for each pod.
struct Workers {
    kubelet: Arc<Kubelet>,
    /// By uid.
    orders: HashMap<String, watch::Sender<Order>>,
    tasks: JoinSet<String>,
}

impl Workers {
    fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let deleted = pod.metadata.deletion_timestamp.is_some();
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
        if let Some(order) = self.orders.get(&uid) {
            // A second deletion may shorten the time.
            if deleted {
                order.send_if_modified(|order| order.stop(grace));
            }
            return;
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if !deleted && matches!(phase, Some("Succeeded" | "Failed")) {
            return;
        }
        let (order, orders) = watch::channel(if deleted { Order::Stop { grace } } else { Order::Run });
        self.orders.insert(uid.clone(), order);
        let work = pod::run(self.kubelet.clone(), pod, orders);
        self.tasks.spawn(async move {
            work.await;
            uid
        });
    }
}
