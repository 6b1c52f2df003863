//! The life of a pod: its namespace, its processes, its status, its end.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use http::Method;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, PodSpec};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::container::Surroundings;
use super::locked;
use super::node::Kubelet;
use super::probe::{Target, Verdict};
use super::status::{ContainerReport, Report, Restart, State, now};
use crate::lab::{Host, Process};

/// How often processes are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Until what failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Until a write to the API is given up, to be tried again.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);

/// The longest time between the end of a container and its next start; it begins at a tenth of a second and doubles.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is to become of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Run,
    /// It was deleted: its processes have this time to end.
    Stop {
        grace: Duration,
    },
    /// Its object is gone.
    Kill,
}

impl Order {
    /// Takes a deletion in; whether that changes anything.
    pub(super) fn stop(&mut self, allowed: Duration) -> bool {
        let sooner = match *self {
            Self::Run => true,
            Self::Stop { grace } => allowed < grace,
            Self::Kill => false,
        };
        if sooner {
            *self = Self::Stop { grace: allowed };
        }
        sooner
    }
}

/// A pod that has its network.
#[derive(Debug)]
pub(super) struct Running {
    host: Host,
    addresses: Vec<IpAddr>,
    /// Last part of its addresses; none of its own when it shares the node's network.
    number: Option<u8>,
    containers: Mutex<Vec<Slot>>,
}

/// A container, and what has become of it.
#[derive(Debug)]
struct Slot {
    container: Container,
    process: Option<Process>,
    /// The process before, for its output.
    ended: Option<Process>,
    report: ContainerReport,
    /// Starts so far.
    starts: u32,
    due: Instant,
    probes: Option<AbortHandle>,
}

impl Running {
    pub(super) fn kill(&self) {
        for slot in locked(&self.containers).iter_mut() {
            slot.kill();
        }
    }

    fn ended(&self) -> bool {
        locked(&self.containers).iter().all(|slot| slot.process.is_none())
    }
}

impl Slot {
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
            self.ended = Some(process);
        }
        if let Some(probes) = self.probes.take() {
            probes.abort();
        }
    }
}

/// A pod as the test sees it.
#[derive(Clone, Debug)]
pub struct RunningPod(pub(super) Arc<Running>);

impl RunningPod {
    /// Its network namespace.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// Its IPv4 and its IPv6 address.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.0.addresses
    }

    /// The identifiers of its processes, one for each container that runs.
    pub fn processes(&self) -> Vec<u32> {
        locked(&self.0.containers).iter().filter_map(|slot| Some(slot.process.as_ref()?.id())).collect()
    }

    /// What its containers have printed since their last start: standard output, then standard error.
    pub fn logs(&self) -> String {
        let slots = locked(&self.0.containers);
        let last = slots.iter().filter_map(|slot| slot.process.as_ref().or(slot.ended.as_ref()));
        last.map(|process| process.stdout() + &process.stderr()).collect()
    }
}

/// Runs a pod to its end, which is that of its object.
pub(super) async fn run(kubelet: Arc<Kubelet>, pod: Pod, mut orders: watch::Receiver<Order>) {
    let (tell, verdicts) = mpsc::channel(16);
    let (namespace, name) = (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone());
    let mut life = Life {
        api: Api::namespaced(kubelet.client.clone(), &namespace),
        key: (namespace, name.unwrap_or_default()),
        since: now(),
        changed: BTreeMap::new(),
        written: None,
        running: None,
        stopping: false,
        account: None,
        tell,
        verdicts,
        kubelet,
        pod,
    };
    life.live(&mut orders).await;
    life.end(&mut orders).await;
}

struct Life {
    kubelet: Arc<Kubelet>,
    pod: Pod,
    api: Api<Pod>,
    key: (String, String),
    since: String,
    changed: BTreeMap<&'static str, (bool, String)>,
    written: Option<Value>,
    running: Option<Arc<Running>>,
    /// Nothing is started any more.
    stopping: bool,
    account: Option<PathBuf>,
    tell: mpsc::Sender<((usize, u32), Verdict)>,
    verdicts: mpsc::Receiver<((usize, u32), Verdict)>,
}

impl Life {
    fn spec(&self) -> &PodSpec {
        self.pod.spec.as_ref().expect("the API knows no pod without spec")
    }

    fn uid(&self) -> String {
        self.pod.metadata.uid.clone().unwrap_or_default()
    }

    /// Runs the containers until something else is ordered.
    async fn live(&mut self, orders: &mut watch::Receiver<Order>) {
        let running = |orders: &watch::Receiver<Order>| *orders.borrow() == Order::Run;
        while running(orders) && self.running.is_none() {
            if let Err(error) = self.prepare().await {
                let reports = self.spec().containers.iter().map(|container| {
                    report(container, State::Waiting { reason: "ContainerCreating", message: format!("{error:#}") })
                });
                let reports = reports.collect();
                self.write(reports).await;
                tokio::select! {
                    _ = orders.changed() => {}
                    () = sleep(PAUSE) => {}
                }
            }
        }
        while running(orders) {
            self.tend().await;
            tokio::select! {
                _ = orders.changed() => {}
                verdict = self.verdicts.recv() => self.judge(verdict),
                () = sleep(TICK) => {}
            }
        }
    }

    /// Makes the pod's network and its service account.
    async fn prepare(&mut self) -> Result<()> {
        self.account = self.service_account().await?;
        let running = if self.spec().host_network == Some(true) {
            (self.kubelet.host.clone(), self.kubelet.addresses.to_vec(), None)
        } else {
            let (kubelet, name) = (self.kubelet.clone(), format!("{}/{}", self.key.0, self.key.1));
            let sysctls = self.spec().security_context.as_ref().and_then(|context| context.sysctls.clone());
            let sysctls = sysctls.unwrap_or_default().into_iter().map(|sysctl| (sysctl.name, sysctl.value)).collect();
            spawn_blocking(move || sandbox(&kubelet, &name, sysctls)).await??
        };
        let (host, addresses, number) = running;
        let slots = self.spec().containers.iter().map(|container| Slot {
            container: container.clone(),
            process: None,
            ended: None,
            report: report(container, State::Waiting { reason: "ContainerCreating", message: String::new() }),
            starts: 0,
            due: Instant::now(),
            probes: None,
        });
        let running = Arc::new(Running { host, addresses, number, containers: Mutex::new(slots.collect()) });
        locked(&self.kubelet.pods).insert(self.key.clone(), running.clone());
        self.running = Some(running);
        Ok(())
    }

    /// The directory with the files of the pod's service account; `None` when it wants none. A pod that names no
    /// account gets none when `default` is absent.
    async fn service_account(&self) -> Result<Option<PathBuf>> {
        if self.spec().automount_service_account_token == Some(false) {
            return Ok(None);
        }
        let named = self.spec().service_account_name.as_deref().filter(|name| !name.is_empty());
        let (namespace, name) = &self.key;
        let account = named.unwrap_or("default");
        let mut request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "audiences": [], "expirationSeconds": 3607 },
        });
        if named.is_some() {
            let pod = json!({ "kind": "Pod", "apiVersion": "v1", "name": name, "uid": self.uid() });
            request["spec"]["boundObjectRef"] = pod;
        }
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = match self.kubelet.call(Method::POST, &path, "application/json", &request).await {
            Err(kube::Error::Api(status)) if status.code == 404 && named.is_none() => return Ok(None),
            answer => answer.with_context(|| format!("token of service account {account}"))?,
        };
        let token = answer["status"]["token"].as_str().context("the API answers without a token")?;
        let dir = self.kubelet.dir.join(self.uid());
        fs::create_dir_all(&dir)?;
        for (file, text) in [("token", token), ("ca.crt", &self.kubelet.authority), ("namespace", namespace)] {
            fs::write(dir.join(file), text)?;
        }
        Ok(Some(dir))
    }

    /// Notices what has ended, starts what is due, and tells the API of changes.
    async fn tend(&mut self) {
        let Some(running) = self.running.clone() else { return };
        let restart = if self.stopping { Restart::Never } else { Restart::of(&self.pod) };
        let mut due = Vec::new();
        for (number, slot) in locked(&running.containers).iter_mut().enumerate() {
            slot.notice(restart);
            let waiting = matches!(slot.report.state, State::Waiting { .. });
            if waiting && !self.stopping && slot.due <= Instant::now() {
                due.push((number, slot.container.clone()));
            }
        }
        for (number, container) in due {
            let started = self.start(&running, &container).await;
            let mut slots = locked(&running.containers);
            let slot = &mut slots[number];
            slot.starts += 1;
            match started {
                Ok(process) => {
                    slot.process = Some(process);
                    slot.report.state = State::Running { since: now() };
                    let target = Target {
                        node: self.kubelet.host.clone(),
                        address: running.addresses[0],
                        container: slot.container.clone(),
                    };
                    let probes = tokio::spawn(target.run((number, slot.starts), self.tell.clone()));
                    slot.probes = Some(probes.abort_handle());
                }
                Err(error) => {
                    let message = format!("{error:#}");
                    slot.report.state = State::Waiting { reason: "CreateContainerError", message };
                    slot.due = Instant::now() + LONGEST_PAUSE;
                }
            }
        }
        let reports = locked(&running.containers).iter().map(|slot| slot.report.clone()).collect();
        self.write(reports).await;
    }

    async fn start(&self, running: &Running, container: &Container) -> Result<Process> {
        let command = Surroundings {
            pod: &self.pod,
            node: &self.kubelet.name,
            host_ip: self.kubelet.addresses[0].to_string(),
            pod_ips: running.addresses.iter().map(IpAddr::to_string).collect(),
            account: self.account.as_deref(),
            headwater: &self.kubelet.headwater,
        };
        let command = command.command(container)?;
        let (host, dir) = (running.host.clone(), self.kubelet.dir.clone());
        spawn_blocking(move || host.spawn_process_in(&command, Some(&dir))).await?
    }

    fn judge(&mut self, verdict: Option<((usize, u32), Verdict)>) {
        let (Some(((number, start), verdict)), Some(running)) = (verdict, &self.running) else { return };
        let mut slots = locked(&running.containers);
        let slot = &mut slots[number];
        // A verdict on an earlier process may come late.
        if slot.starts != start || slot.process.is_none() {
            return;
        }
        match verdict {
            Verdict::Started => slot.report.started = true,
            Verdict::Ready(ready) => slot.report.ready = ready,
            Verdict::Dead => {
                if let Some(process) = &slot.process {
                    // It may be ending by itself.
                    let _ = process.signal("SIGKILL");
                }
            }
        }
    }

    /// Tells the API how the containers are, if that has changed. What fails is tried again with the next call.
    async fn write(&mut self, containers: Vec<ContainerReport>) {
        let addresses = self.running.as_ref().map_or(&[][..], |running| &running.addresses);
        let report = Report {
            host_ips: self.kubelet.addresses.iter().map(IpAddr::to_string).collect(),
            pod_ips: addresses.iter().map(IpAddr::to_string).collect(),
            since: self.since.clone(),
            containers,
            restart: Restart::of(&self.pod),
        };
        let status = report.status(&mut self.changed);
        if self.written.as_ref() != Some(&status) {
            let (parameters, patch) = (PatchParams::default(), Patch::Strategic(&status));
            let write = self.api.patch_status(&self.key.1, &parameters, &patch);
            if let Ok(Ok(_)) = timeout(WRITE_DEADLINE, write).await {
                self.written = Some(status);
            }
        }
    }

    /// Ends the containers as ordered, then the namespace, then the object.
    async fn end(&mut self, orders: &mut watch::Receiver<Order>) {
        if let Some(running) = self.running.clone() {
            self.stop(&running, orders).await;
            running.kill();
            locked(&self.kubelet.pods).remove(&self.key);
            let kubelet = self.kubelet.clone();
            // What panicked there has printed so.
            let _ = spawn_blocking(move || close(&kubelet, &running)).await;
        }
        if let Some(dir) = self.account.take() {
            // The directory goes with the cluster at the latest.
            let _ = fs::remove_dir_all(dir);
        }
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.uid()), resource_version: None }),
            ..DeleteParams::default()
        };
        while *orders.borrow() != Order::Kill {
            match timeout(WRITE_DEADLINE, self.api.delete(&self.key.1, &parameters)).await {
                Ok(Ok(_)) => return,
                Ok(Err(kube::Error::Api(status))) if [404, 409].contains(&status.code) => return,
                _ => sleep(PAUSE).await,
            }
        }
    }

    /// Asks the processes to end, and waits until they have, or must.
    async fn stop(&mut self, running: &Running, orders: &mut watch::Receiver<Order>) {
        self.stopping = true;
        let begun = Instant::now();
        let deadline = |orders: &watch::Receiver<Order>| match *orders.borrow() {
            Order::Stop { grace } => begun + grace,
            Order::Run | Order::Kill => begun,
        };
        let containers: Vec<Container> = self.spec().containers.clone();
        for container in &containers {
            let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
            if let Some(hook) = hook {
                // Whether it succeeds or not, the container ends.
                let _ = timeout_at(deadline(orders), pre_stop(running, hook)).await;
            }
        }
        for process in locked(&running.containers).iter().filter_map(|slot| slot.process.as_ref()) {
            // It may have ended by itself.
            let _ = process.signal("SIGTERM");
        }
        while !running.ended() && Instant::now() < deadline(orders) {
            self.tend().await;
            tokio::select! {
                _ = orders.changed() => {}
                verdict = self.verdicts.recv() => self.judge(verdict),
                () = sleep(TICK) => {}
            }
        }
    }
}

impl Slot {
    /// Takes in that the process has ended.
    fn notice(&mut self, restart: Restart) {
        let Some(status) = self.process.as_mut().and_then(Process::ended) else { return };
        self.kill();
        let code = status
            .code()
            .unwrap_or_else(|| 128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or_default());
        (self.report.ready, self.report.started) = (false, false);
        let since = match &self.report.state {
            State::Running { since } => since.clone(),
            _ => now(),
        };
        self.report.state = State::Terminated { code, since, until: now() };
        if restart.applies(code) {
            let pause = Duration::from_millis(100) * 2u32.saturating_pow(self.report.restarts.min(10));
            self.due = Instant::now() + pause.min(LONGEST_PAUSE);
            self.report.restarts += 1;
            let message = format!("ended with status {code}, starts again");
            self.report.state = State::Waiting { reason: "CrashLoopBackOff", message };
        }
    }
}

fn report(container: &Container, state: State) -> ContainerReport {
    ContainerReport {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state,
        started: false,
        ready: false,
        restarts: 0,
    }
}

async fn pre_stop(running: &Running, hook: &LifecycleHandler) -> Result<()> {
    if let Some(pause) = &hook.sleep {
        sleep(Duration::from_secs(u64::try_from(pause.seconds)?)).await;
    }
    if let Some(exec) = &hook.exec {
        let words = exec.command.clone().unwrap_or_default();
        let host = running.host.clone();
        let done = spawn_blocking(move || {
            let (program, arguments) = words.split_first().context("preStop without a command")?;
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            host.exec(program, &arguments)
        });
        done.await??;
    }
    Ok(())
}

/// A host for a pod, wired to the bridge of its node.
fn sandbox(kubelet: &Kubelet, name: &str, sysctls: Vec<(String, String)>) -> Result<(Host, Vec<IpAddr>, Option<u8>)> {
    let number = {
        let mut numbers = locked(&kubelet.numbers);
        // Not the lowest that is free, so that an address is not another pod's at once.
        let next = numbers.last().map_or(2, |last| last.saturating_add(1));
        let number = (next..=254).chain(2..=254).find(|number| !numbers.contains(number)).context("a free address")?;
        numbers.insert(number);
        number
    };
    let made = || -> Result<(Host, Vec<IpAddr>)> {
        let host = kubelet.lab.host(name)?;
        let addresses = kubelet.pod_addresses(number)?;
        let port = format!("veth{number}");
        let wired = || -> Result<()> {
            host.wire("eth0", &kubelet.host, &port)?;
            kubelet.host.ip(&format!("link set dev {port} master cni0"))?;
            for (address, (length, all, gateway)) in addresses.iter().zip([
                (24, "0.0.0.0/0", format!("10.244.{}.1", kubelet.number)),
                (64, "::/0", format!("fd00:10:244:{}::1", kubelet.number)),
            ]) {
                host.address("eth0", &format!("{address}/{length}"))?;
                host.route(all, &gateway)?;
            }
            for (name, value) in &sysctls {
                host.sysctl(name, value)?;
            }
            Ok(())
        };
        wired().inspect_err(|_| kubelet.lab.remove(&host))?;
        Ok((host, addresses))
    };
    let made = made().inspect_err(|_| {
        locked(&kubelet.numbers).remove(&number);
    });
    made.map(|(host, addresses)| (host, addresses, Some(number)))
}

/// Takes a pod's host away.
fn close(kubelet: &Kubelet, running: &Running) {
    if let Some(number) = running.number {
        kubelet.lab.remove(&running.host);
        // The namespace would take the cable with it, but later.
        let _ = kubelet.host.ip(&format!("link delete dev veth{number}"));
        locked(&kubelet.numbers).remove(&number);
    }
}
