//! An API server with Services in it, and changes to them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_testkit::cluster::Cluster;
use headwater_testkit::lab::Lab as Hosts;
use headwater_testkit::services::Topology;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::super::Lab;
use super::super::cluster::{AT_ONCE, create_all};
use super::objects::{self, NAMESPACE, PORT, Service, changed, filler, mover};
use super::stand::{Running, Stand, answers};
use crate::tools::first_line;

const SERVICES: &str = "/api/v1/namespaces/bench/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices";

/// Endpoints that change a second in [`Site::churn`].
pub(super) const CHURN: u32 = 100;

/// etcd, API server and files.
pub(super) struct Site {
    pub(super) cluster: Arc<Cluster>,
    pub(super) runtime: Runtime,
    pub(super) folder: PathBuf,
    /// Changes so far, so that each is one.
    changes: AtomicUsize,
    /// Where the endpoint of [`mover`] is.
    place: AtomicUsize,
}

impl Site {
    /// A cluster with the topology's Nodes, and the Service whose endpoint moves.
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        // Without the programs the harness of clusters panics, which must not end the whole run.
        let cluster = runtime.block_on(runtime.spawn(Cluster::start()))??;
        let folder = lab.new_folder("services")?;
        let (changes, place) = (AtomicUsize::new(0), AtomicUsize::new(1));
        let site = Self { cluster: Arc::new(cluster), runtime, folder, changes, place };
        // Every topology has the same addresses; this one is there to be asked for them.
        let hosts = Hosts::new();
        let nodes = objects::nodes(&Topology::start(&hosts)?, false);
        site.runtime.block_on(site.create_nodes(&nodes))?;
        site.create(&[mover(1)])?;
        Ok(site)
    }

    async fn create_nodes(&self, nodes: &[Value]) -> Result<()> {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
        self.cluster.create("/api/v1/namespaces", &namespace).await?;
        for node in nodes {
            self.cluster.create("/api/v1/nodes", node).await?;
            let name = node["metadata"]["name"].as_str().context("a Node without a name")?;
            let status = json!({ "status": node["status"] });
            self.cluster.merge(&format!("/api/v1/nodes/{name}/status"), &status).await?;
        }
        Ok(())
    }

    /// Versions of the programs.
    pub(super) fn versions(&self) -> Vec<String> {
        let version = |name: &str| {
            let said = first_line(&self.cluster.program(name).ok()?, "--version")?;
            Some(if name == "kube-proxy" { format!("kube-proxy: {said}") } else { said })
        };
        ["kube-apiserver", "etcd", "kube-proxy"].into_iter().filter_map(version).collect()
    }

    /// Makes Services and their EndpointSlices.
    pub(super) fn create(&self, services: &[Service]) -> Result<()> {
        let of = |service: &Service| [(SLICES, service.slice()), (SERVICES, service.object())];
        create_all(&self.runtime, &self.cluster, services.iter().flat_map(of).collect())
    }

    /// Makes those of many Services that are not there yet.
    pub(super) fn fill(&self, from: usize, to: usize, endpoints: usize) -> Result<()> {
        let services: Vec<Service> = (from..to).map(|number| filler(number, endpoints)).collect();
        self.create(&services)
    }

    async fn set_endpoints(&self, service: &Service) -> Result<()> {
        let patch = json!({ "endpoints": service.endpoint_list() });
        self.cluster.merge(&format!("{SLICES}/{}", service.name), &patch).await.map(drop)
    }

    /// Moves the endpoint of one Service again and again. Returns for each the milliseconds from the API server's answer
    /// until a pod on node 1 reached the new one; below 0: it did before the answer. Ends early when `most` is over.
    pub(super) fn move_endpoint(
        &self,
        lab: &Lab,
        stand: &Stand<'_>,
        running: &mut Running,
        count: usize,
        most: Duration,
    ) -> Result<Vec<f64>> {
        let (started, mut times) = (Instant::now(), Vec::new());
        let target = (mover(0).cluster_ip, PORT).into();
        let from = stand.shell.host();
        while times.len() < count && started.elapsed() < most {
            // Changes must not meet the same point of whatever period the agent has.
            let pause = lab.shuffler.borrow_mut().below(100);
            thread::sleep(Duration::from_millis(50 + pause as u64));
            let place = 3 - self.place.load(Ordering::Relaxed);
            let service = mover(place);
            let pod = service.endpoints[0].address;
            let (answered, seen) = thread::scope(|scope| {
                let probe = scope.spawn(|| answers(from, target, pod, most));
                let written = self.runtime.block_on(self.set_endpoints(&service)).map(|()| Instant::now());
                (written, probe.join().expect("the probe does not panic"))
            });
            self.place.store(place, Ordering::Relaxed);
            let (answered, seen) = (answered?, seen?);
            let late = seen.saturating_duration_since(answered).as_secs_f64();
            times.push((late - answered.saturating_duration_since(seen).as_secs_f64()) * 1000.0);
            running.alive()?;
        }
        ensure!(!times.is_empty(), "no change was made within {most:?}");
        Ok(times)
    }

    /// Changes one endpoint of [`CHURN`] Services a second. Returns how many a second there were.
    pub(super) fn churn(self: &Arc<Self>, services: usize, endpoints: usize, length: Duration) -> Result<f64> {
        let every = Duration::from_secs(1) / CHURN;
        let count = usize::try_from(length.as_nanos() / every.as_nanos())?;
        let next = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        self.runtime.block_on(async {
            let mut writers = JoinSet::new();
            for _ in 0..AT_ONCE {
                let (site, next) = (self.clone(), next.clone());
                writers.spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(due) = u32::try_from(number).ok().filter(|_| number < count) else { break };
                        tokio::time::sleep_until((started + every * due).into()).await;
                        let change = site.changes.fetch_add(1, Ordering::Relaxed);
                        // Neighbours of a change are far from it.
                        let service = changed(change * 7919 % services, endpoints, change);
                        site.set_endpoints(&service).await?;
                    }
                    anyhow::Ok(())
                });
            }
            while let Some(ended) = writers.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        })?;
        Ok(count as f64 / started.elapsed().as_secs_f64())
    }
}
