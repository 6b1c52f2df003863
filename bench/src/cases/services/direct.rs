//! The parts of a change alone, in this process: objects to rules, and rules to the kernel.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headwater_kube_io::{Batch, DirectorySource};
use headwater_model::cluster::{Change, Cluster};
use headwater_model::nat::KeepClient;
use headwater_model::origin::ObjectKey;
use headwater_process::metrics::Registry;
use headwater_service_lb::{ServiceLb, Settings, Source};
use headwater_service_nat::{NodePortAddresses, Options, ServiceNat, facts};
use headwater_testkit::lab::Host;
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::objects::{self, changed, filler};

const NODE: &str = "node-1";

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// After this long the plane has seen what its own first commit made the kernel tell.
const SETTLE: Duration = Duration::from_secs(3);

/// How often the plane's state is looked at.
const LOOK: Duration = Duration::from_micros(100);

/// Milliseconds of each part.
#[derive(Debug, Default, Serialize)]
pub(super) struct Direct {
    /// All manifests of the directory.
    pub(super) read: f64,
    /// All objects to the rules of one node.
    pub(super) derive: f64,
    /// All rules to the kernel: rules rendered, loaded, sets read, elements written in one commit.
    pub(super) commit: f64,
    /// The same for one endpoint of ten, each time of another Service.
    pub(super) one_derived: Vec<f64>,
    pub(super) one_committed: Vec<f64>,
}

/// How many there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) services: usize,
    pub(super) endpoints: usize,
    pub(super) changes: usize,
}

impl Counts {
    /// The Service that a change is about, far from that of the one before.
    fn change(self, number: usize) -> objects::Service {
        changed(number * 7919 % self.services, self.endpoints, number)
    }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Measures on a host that is to be node 1 of `nodes`.
pub(super) fn measure(host: &Host, directory: &Path, nodes: &[Value], counts: Counts) -> Result<Direct> {
    objects::write(directory, nodes, &[])?;
    for number in 0..counts.services {
        objects::write_one(directory, &filler(number, counts.endpoints))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut direct = Direct::default();
    derive(&runtime, directory, counts, &mut direct).context("objects to rules")?;
    commit(&runtime, host, directory, counts, &mut direct).context("rules to the kernel")?;
    Ok(direct)
}

fn apply(cluster: &mut Cluster, batch: &Batch) -> Vec<ObjectKey> {
    batch.changes.iter().for_each(|change| cluster.apply(change));
    batch.changes.iter().map(Change::key).collect()
}

fn derive(runtime: &Runtime, directory: &Path, counts: Counts, direct: &mut Direct) -> Result<()> {
    let started = Instant::now();
    let (first, mut source) = runtime.block_on(DirectorySource::start(directory))?;
    direct.read = ms(started);
    let (mut cluster, started) = (Cluster::default(), Instant::now());
    let keys = apply(&mut cluster, &first);
    let node = facts(&cluster, NODE, Vec::new()).context("there is no Node")?;
    let mut nat = ServiceNat::new(Options { node, ..options() });
    let update = nat.apply(&cluster, &keys);
    direct.derive = ms(started);
    ensure!(update.changed.len() == counts.services, "{} Services were derived", update.changed.len());
    for number in 0..counts.changes {
        objects::write_one(directory, &counts.change(number))?;
        let batch = runtime.block_on(async { tokio::time::timeout(PATIENCE, source.next()).await })?;
        let started = Instant::now();
        let keys = apply(&mut cluster, &batch);
        let update = nat.apply(&cluster, &keys);
        direct.one_derived.push(ms(started));
        ensure!(update.changed.len() == 1, "change {number} changed {:?}", update.changed);
    }
    Ok(())
}

fn options() -> Options {
    let settings = settings();
    Options {
        node_port_addresses: settings.node_port_addresses,
        cluster_cidrs: settings.cluster_cidrs,
        service_cidrs: settings.service_cidrs,
        keep: settings.keep,
        ..Options::default()
    }
}

fn settings() -> Settings {
    let net = |text: &str| text.parse().expect("a network");
    Settings {
        node: NODE.into(),
        node_port_addresses: NodePortAddresses::Primary,
        cluster_cidrs: vec![net("10.244.0.0/16"), net("fd00:10:244::/56")],
        service_cidrs: vec![net("10.96.0.0/16"), net("fd00:10:96::/112")],
        masquerade_all: false,
        keep: KeepClient::ViaIngress,
        tunnel_port: 8474,
        tunnel_mtu: None,
        transparent: false,
        healthz: None,
    }
}

fn commit(runtime: &Runtime, host: &Host, directory: &Path, counts: Counts, direct: &mut Direct) -> Result<()> {
    let plane = host.run(|| -> Result<ServiceLb> {
        let (batch, source) = runtime.block_on(DirectorySource::start(directory))?;
        let _guard = runtime.enter();
        Ok(ServiceLb::start(Source::Directory(batch, Box::new(source)), settings(), &Registry::new())?)
    })?;
    direct.commit = applied(&plane, None)?.1;
    std::thread::sleep(SETTLE);
    for number in 0..counts.changes {
        // Not the same as the changes before, which the directory still has.
        let before = plane.state().borrow().generation;
        objects::write_one(directory, &counts.change(counts.changes + number))?;
        direct.one_committed.push(applied(&plane, before)?.1);
    }
    Ok(())
}

/// Waits for the kernel to have a later generation. Returns it, and how many milliseconds it took to get there.
fn applied(plane: &ServiceLb, before: Option<u64>) -> Result<(Option<u64>, f64)> {
    let (state, started) = (plane.state(), Instant::now());
    loop {
        {
            let state = state.borrow();
            ensure!(state.error.is_none(), "{state:?}");
            if state.generation > before {
                return Ok((state.generation, state.last_apply.as_secs_f64() * 1000.0));
            }
            ensure!(started.elapsed() < PATIENCE, "still {before:?} after {PATIENCE:?}: {state:?}");
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_testkit::lab;
    use headwater_testkit::services::Topology;

    #[test]
    fn every_part_of_every_change_is_measured() -> Result<()> {
        lab::test(|lab| {
            let topology = Topology::start(lab)?;
            let directory = tempfile::tempdir()?;
            let nodes = objects::nodes(&topology, true);
            let counts = Counts { services: 7, endpoints: 3, changes: 2 };
            let direct = measure(topology.node(1).host(), directory.path(), &nodes, counts)?;
            ensure!(direct.one_derived.len() == 2 && direct.one_committed.len() == 2, "{direct:?}");
            let times = [&direct.one_derived[..], &direct.one_committed[..]].concat();
            ensure!(times.iter().chain([&direct.read, &direct.derive, &direct.commit]).all(|time| *time > 0.0));
            let kernel = topology.node(1).host().exec("nft", &["list", "map", "ip", "headwater-services", "svc_to"])?;
            // The last change is of Service 3 * 7919 % 7 = 6, whose first endpoint is on node 1.
            let last = counts.change(3).endpoints[0].address;
            ensure!(kernel.contains(&last.to_string()), "{last} is not in {kernel}");
            Ok(())
        })
    }
}
