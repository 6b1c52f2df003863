//! A Kubernetes control plane of real programs: etcd, kube-apiserver, and kubectl as its client.
//!
//! `tools/kube/build` makes the programs. A cluster belongs to the test that starts it, or to all tests of a binary
//! when it is `static`; in both cases its processes and files go when the test process ends. Every cluster has its own
//! certificates, its own port of 127.0.0.1 and its own data.
//!
//! ```no_run
//! use headwater_testkit::cluster::Cluster;
//! use tokio::sync::OnceCell;
//!
//! static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
//!
//! # async fn test() -> anyhow::Result<()> {
//! let cluster = CLUSTER.get_or_try_init(Cluster::start).await?;
//! let namespace = cluster.namespace("mine").await?;
//! cluster.kubectl(&["-n", &namespace, "create", "configmap", "one"]).await?;
//! let names = cluster.kubectl(&["-n", &namespace, "get", "configmaps", "-o", "name"]).await?;
//! assert!(names.stdout.contains("configmap/one"));
//! # Ok(())
//! # }
//! ```

mod api;
mod audit;
mod container;
mod egress;
mod identity;
mod network;
mod node;
mod pod;
mod probe;
mod programs;
mod scheduler;
mod scratch;
mod servers;
mod status;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use self::api::Clients;
pub use self::audit::AuditedRequest;
pub use self::container::headwater;
use self::identity::Pki;
pub use self::identity::TokenKubeconfig;
pub use self::network::{Network, Outside};
pub use self::node::Node;
pub use self::pod::RunningPod;
use self::programs::Programs;
use self::scratch::{Scratch, Starter};
use self::servers::{Etcd, Port, Settings};
use crate::lab::Process;
use crate::lab::process::Log;
use crate::wait;

/// The address of Service `default/kubernetes`.
const SERVICE_V4: &str = "10.96.0.1";

/// Until the API server is ready. On an idle machine it takes three seconds.
const START_DEADLINE: Duration = Duration::from_secs(90);

/// Until a client program ends. What waits longer by its own flags is ended by this.
const CLIENT_DEADLINE: Duration = Duration::from_secs(90);

/// A running control plane. When a test panics, the ends of the logs are printed as the cluster is dropped; that of a
/// `static` cluster can be had with [`Cluster::describe`].
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they end.
    apiserver: Mutex<Option<Process>>,
    _etcd_process: Process,
    logs: Mutex<Vec<Log>>,
    clients: Clients,
    admin: PathBuf,
    pki: Arc<Pki>,
    etcd: Etcd,
    port: Port,
    settings: Settings,
    programs: Programs,
    starter: Starter,
    counter: AtomicU32,
    scratch: Scratch,
}

/// How a [`Cluster`] is to be. [`Cluster::builder`] makes one.
#[derive(Clone, Debug, Default)]
pub struct Builder(Settings);

/// What a client program has printed.
#[derive(Clone, Debug)]
pub struct Output {
    /// Whether it ended with status 0.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error: refusals, and warnings of the API server.
    pub stderr: String,
}

impl Output {
    /// Standard output as JSON (`-o json`).
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {}{}", self.stdout, self.stderr))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Builder {
    /// Records every request, for [`Cluster::requests`].
    #[must_use]
    pub fn audit(mut self) -> Self {
        self.0.audit = true;
        self
    }

    /// Gives the API server one more flag, such as `--feature-gates=WatchList=false`.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.0.flags.push(flag.to_owned());
        self
    }

    /// Starts the cluster, and returns when the API server is ready.
    ///
    /// # Errors
    /// When a program does not start or the API server is not ready within 90 s; the text has the ends of the logs.
    ///
    /// # Panics
    /// When the programs have not been built.
    pub async fn start(self) -> Result<Cluster> {
        let programs = Programs::find();
        let (scratch, starter) = (Scratch::new()?, Starter::new()?);
        let dir = scratch.path();
        let (pki, etcd, port) = (Arc::new(Pki::new(dir)?), Etcd::new(dir), Port::reserve()?);
        let admin = pki.certificate("admin", &server(&port), "admin", Some("system:masters"))?;
        let (etcd_process, log) = starter.spawn(&etcd.command(&programs)?, dir)?;
        let cluster = Cluster {
            apiserver: Mutex::default(),
            _etcd_process: etcd_process,
            logs: Mutex::new(vec![log]),
            clients: Clients::default(),
            admin,
            pki,
            etcd,
            port,
            settings: self.0,
            programs,
            starter,
            counter: AtomicU32::new(0),
            scratch,
        };
        cluster.restart_apiserver().await?;
        Ok(cluster)
    }
}

fn server(port: &Port) -> String {
    format!("https://127.0.0.1:{}", port.number())
}

impl Cluster {
    /// A cluster with the usual settings: see [`Builder::start`].
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// Settings to be changed before the start.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where the API server listens: `https://127.0.0.1:PORT`.
    pub fn server(&self) -> String {
        server(&self.port)
    }

    /// A directory for files of tests; it is removed with the cluster.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// The certificate of the authority that all others here come from, in PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.pki.file("ca.crt")
    }

    /// The path of a program: `kubectl`, `helm`, `etcd`, `kube-apiserver`, `kube-controller-manager` or `kube-proxy`.
    ///
    /// # Errors
    /// When it is absent.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        self.programs.path(name)
    }

    /// Starts the API server again, on the same port and with the same data, and returns when it is ready. One that
    /// runs is killed first.
    ///
    /// # Errors
    /// When it is not ready within 90 s; the text has the ends of the logs.
    pub async fn restart_apiserver(&self) -> Result<()> {
        self.kill_apiserver();
        self.spawn_apiserver()?;
        self.apiserver_ready().await
    }

    /// Starts the API server without waiting for it.
    ///
    /// # Errors
    /// When the program does not start.
    pub fn spawn_apiserver(&self) -> Result<()> {
        let (dir, port) = (self.dir(), self.port.number());
        let command = servers::apiserver(&self.programs, dir, &self.pki, &self.etcd, port, &self.settings)?;
        let (process, log) = self.starter.spawn(&command, dir)?;
        locked(&self.logs).push(log);
        *locked(&self.apiserver) = Some(process);
        Ok(())
    }

    /// Waits until the API server says that it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready within 90 s; the text has the ends of the logs.
    pub async fn apiserver_ready(&self) -> Result<()> {
        let ready = wait::eventually(START_DEADLINE, || async {
            if let Some(Some(status)) = locked(&self.apiserver).as_mut().map(Process::ended) {
                bail!("kube-apiserver has ended: {status}");
            }
            Ok(self.text("/readyz").await.ok())
        });
        ready.await.map(drop).with_context(|| self.describe()).context("start of kube-apiserver")
    }

    /// Kills the API server (SIGKILL): connections break, and new ones are refused.
    pub fn kill_apiserver(&self) {
        let process = locked(&self.apiserver).take();
        drop(process);
    }

    /// Sends a signal to the API server; `SIGSTOP` and `SIGCONT` make it hang and go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_apiserver(&self, name: &str) -> Result<()> {
        locked(&self.apiserver).as_ref().context("the API server does not run")?.signal(name)
    }

    /// Makes etcd forget everything before the current revision, and returns that revision. The API server's watch
    /// cache still knows what it has seen since its own start: see [`Cluster::expire_resource_versions`].
    ///
    /// # Errors
    /// When etcd refuses.
    pub fn compact_etcd(&self) -> Result<u64> {
        self.etcd.compact()
    }

    /// Compacts etcd and restarts the API server, so that a watch from an older resourceVersion is answered with 410.
    ///
    /// # Errors
    /// As [`Cluster::compact_etcd`] and [`Cluster::restart_apiserver`].
    pub async fn expire_resource_versions(&self) -> Result<u64> {
        let revision = self.compact_etcd()?;
        self.restart_apiserver().await?;
        Ok(revision)
    }

    /// Runs these controllers of kube-controller-manager (such as `deployment-controller`) until the process is
    /// dropped.
    ///
    /// # Errors
    /// When the program does not start.
    pub fn start_controller_manager(&self, controllers: &[&str]) -> Result<Process> {
        let name = self.unique("controller-manager");
        let user = "system:kube-controller-manager";
        let config = self.pki.certificate(&name, &self.server(), user, Some("system:masters"))?;
        let dir = self.dir().join(&name);
        let command = servers::controller_manager(&self.programs, &dir, &config, &self.pki, controllers)?;
        let (process, log) = self.starter.spawn(&command, self.dir())?;
        locked(&self.logs).push(log);
        Ok(process)
    }

    /// The kubeconfig of user `admin`, who may do everything.
    pub fn kubeconfig(&self) -> &Path {
        &self.admin
    }

    /// A new kubeconfig with a certificate for a user, in a group if one is given. RBAC decides what they may do.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn kubeconfig_for_user(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        self.pki.certificate(&self.unique("user"), &self.server(), user, group)
    }

    /// A new kubeconfig with a token of a service account, which is made if it is absent.
    ///
    /// # Errors
    /// When the API refuses the token.
    pub async fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> Result<TokenKubeconfig> {
        self.service_account(namespace, name).await?;
        let token = self.token(namespace, name, Duration::from_secs(3600)).await?;
        self.kubeconfig_for_token(&token)
    }

    /// A new kubeconfig with this token.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn kubeconfig_for_token(&self, token: &str) -> Result<TokenKubeconfig> {
        self.pki.token(&self.unique("token"), &self.server(), token)
    }

    /// A token of a service account by the TokenRequest API, valid for ten minutes or longer.
    ///
    /// # Errors
    /// When the API refuses it.
    pub async fn token(&self, namespace: &str, name: &str, lifetime: Duration) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "audiences": [], "expirationSeconds": lifetime.as_secs() },
        });
        let answer = self.create(&path, &request).await?;
        Ok(answer["status"]["token"].as_str().context("the API answers without a token")?.to_owned())
    }

    /// A token of a service account for any `lifetime`, signed with the cluster's key. The API server remembers a token
    /// that it has accepted for up to 10 s, whatever its lifetime.
    ///
    /// # Errors
    /// When there is no such service account.
    pub async fn short_token(&self, namespace: &str, name: &str, lifetime: Duration) -> Result<String> {
        let account = self.get(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}")).await?;
        let uid = account["metadata"]["uid"].as_str().context("service account without a uid")?;
        self.pki.sign(namespace, name, uid, lifetime)
    }

    /// Makes a namespace with a name of its own, `PREFIX-N`, and its service account `default`.
    ///
    /// # Errors
    /// When the API refuses it.
    pub async fn namespace(&self, prefix: &str) -> Result<String> {
        let name = self.unique(prefix);
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        self.create("/api/v1/namespaces", &object).await?;
        self.service_account(&name, "default").await?;
        Ok(name)
    }

    /// Makes a service account, if it is absent.
    ///
    /// # Errors
    /// When the API refuses it.
    pub async fn service_account(&self, namespace: &str, name: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let object = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } });
        // A controller manager makes them too.
        self.create_if_absent(&path, &object).await
    }

    /// Runs kubectl as admin.
    ///
    /// # Errors
    /// When its status is not 0; the text has its output.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_as(&self.admin, arguments).await
    }

    /// Runs kubectl with a kubeconfig.
    ///
    /// # Errors
    /// When its status is not 0; the text has its output.
    pub async fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<Output> {
        let output = self.run("kubectl", kubeconfig, arguments).await?;
        if !output.success {
            bail!("kubectl {}: {}{}", arguments.join(" "), output.stdout, output.stderr);
        }
        Ok(output)
    }

    /// Runs a client program (`kubectl`, `helm`) with a kubeconfig to its end, whatever its status.
    ///
    /// # Errors
    /// When it does not start or end.
    pub async fn run(&self, program: &str, kubeconfig: &Path, arguments: &[impl AsRef<OsStr>]) -> Result<Output> {
        let mut command = Command::new(self.programs.path(program)?);
        // Both keep what they have learnt of a cluster below the home directory.
        command.args(arguments).env("KUBECONFIG", kubeconfig).env("HOME", self.dir()).env_remove("XDG_CACHE_HOME");
        let (mut process, _) = self.starter.spawn(&command, self.dir())?;
        let ended = wait::eventually(CLIENT_DEADLINE, || std::future::ready(Ok(process.ended()))).await;
        let status = ended.with_context(|| format!("{program} still runs: {}", process.stderr()))?;
        Ok(Output { success: status.success(), stdout: process.stdout(), stderr: process.stderr() })
    }

    /// Applies manifests (`kubectl apply --server-side`) as admin.
    ///
    /// # Errors
    /// When they are refused; the text has why.
    pub async fn apply(&self, manifests: &str) -> Result<Output> {
        let output = self.try_apply(manifests, &[]).await?;
        if !output.success {
            bail!("kubectl apply: {}{}", output.stdout, output.stderr);
        }
        Ok(output)
    }

    /// Applies manifests as admin with more arguments (`--dry-run=server`), whether they are refused or not.
    ///
    /// # Errors
    /// When kubectl does not run.
    pub async fn try_apply(&self, manifests: &str, arguments: &[&str]) -> Result<Output> {
        let file = self.dir().join(self.unique("manifests"));
        fs::write(&file, manifests)?;
        let name = file.to_string_lossy();
        let mut words = vec!["apply", "--server-side", "-f", name.as_ref()];
        words.extend(arguments);
        let output = self.run("kubectl", &self.admin, &words).await;
        fs::remove_file(&file)?;
        output
    }

    /// The requests that the API server has answered since the cluster was started with [`Builder::audit`], in order.
    /// Those of the API server itself have user `system:apiserver`.
    ///
    /// # Errors
    /// When there is no audit log.
    pub fn requests(&self) -> Result<Vec<AuditedRequest>> {
        let log = fs::read_to_string(self.dir().join("audit.log"));
        audit::parse(&log.context("audit log; start the cluster with Cluster::builder().audit()")?)
    }

    /// The ends of the logs of etcd, the API server and the controller managers.
    pub fn describe(&self) -> String {
        let mut text = "=== cluster ===\n".to_owned();
        for log in locked(&self.logs).iter() {
            writeln!(text, "{}", log.describe()).expect("writing to a string succeeds");
        }
        text
    }

    fn unique(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.counter.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.describe());
        }
    }
}
