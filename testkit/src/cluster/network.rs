//! Machines of a cluster: nodes whose pods are processes in network namespaces, and clients outside.
//!
//! ```text
//!  client c 198.51.100.x/30  ─┐          ┌─ node 1  172.18.1.2 ── cni0 10.244.1.1/24 ─┬─ pod 10.244.1.2
//!           2001:db8:c::2/64  ├─ fabric ─┤          fd00:172:18:1::2   fd00:10:244:1::1  └─ pod 10.244.1.3
//!  ...                        │          └─ node 2  ...
//!               10.96.0.1:443 ┘ (the API server)
//! ```
//!
//! Everything is routed and nothing is translated: whoever is connected to sees the address of who connects. There is
//! no kube-proxy: of all Services only `default/kubernetes` can be reached by its own address, and only the API server
//! reaches the others, for webhooks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::Client;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::identity::Pki;
use super::node::{Kubelet, Node};
use super::pod::RunningPod;
use super::{Cluster, api, container, egress, locked, scheduler};
use crate::lab::{Host, Lab};

/// Until tasks of a network that is dropped are left alone.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// The machines of a cluster. When dropped, all processes and namespaces end; the objects in the API stay. When a test
/// panics, the state of each host is printed. Needs root.
#[derive(Debug)]
pub struct Network {
    // In the order in which they end.
    background: Background,
    nodes: Mutex<Vec<Node>>,
    fabric: Host,
    clients: AtomicU8,
    pki: Arc<Pki>,
    server: String,
    dir: PathBuf,
    headwater: PathBuf,
    lab: Arc<Lab>,
}

/// A client outside of the cluster.
#[derive(Clone, Debug)]
pub struct Outside {
    host: Host,
    addresses: [IpAddr; 2],
}

impl Outside {
    /// Its network namespace.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its IPv4 and its IPv6 address.
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.addresses
    }
}

/// Where tasks run that live as long as the network, whatever runtimes the tests have.
#[derive(Debug)]
struct Background {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("kubelet").enable_all().build()?;
        let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel::<()>());
        let thread = thread::Builder::new().name("kubelets".to_owned()).spawn(move || {
            // A message and a lost sender mean the same.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(END_DEADLINE);
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// A client whose connections live on this runtime.
    async fn connect(&self, kubeconfig: PathBuf) -> Result<Client> {
        self.handle.spawn(async move { api::connect(&kubeconfig).await }).await?
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // What panicked there has printed so.
            let _ = thread.join();
        }
    }
}

/// Passes connections on to the API server, from a socket of another namespace.
async fn forward(listener: TcpListener, server: SocketAddr) {
    while let Ok((mut inside, _)) = listener.accept().await {
        tokio::spawn(async move {
            match TcpStream::connect(server).await {
                Ok(mut outside) => {
                    // Either end may break; the other is closed with it.
                    let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                }
                // The API server is away, and the client sees a reset instead of a refusal.
                Err(_) => drop(inside.set_zero_linger()),
            }
        });
    }
}

impl Network {
    /// A network without nodes, and a scheduler: a pod that names no node is put on the one with the fewest pods. A
    /// cluster has one network at most.
    ///
    /// # Errors
    /// Without root, or when headwater does not build.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let headwater = tokio::task::spawn_blocking(container::headwater).await??;
        let lab = Arc::new(Lab::new());
        let fabric = lab.host("fabric")?;
        fabric.forward()?;
        fabric.address("lo", &format!("{}/32", super::SERVICE_V4))?;
        let background = Background::start()?;
        let inside = SocketAddr::new(super::SERVICE_V4.parse()?, 443);
        let listener = fabric.run(|| std::net::TcpListener::bind(inside))?;
        listener.set_nonblocking(true)?;
        let outside = SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.port.number()));
        background.handle.spawn(async move {
            // The listener belongs to this runtime.
            forward(TcpListener::from_std(listener).expect("a socket that does not block"), outside).await;
        });
        let network = Self {
            background,
            nodes: Mutex::default(),
            fabric,
            clients: AtomicU8::new(0),
            pki: cluster.pki.clone(),
            server: cluster.server(),
            dir: cluster.dir().join(cluster.unique("network")),
            headwater,
            lab,
        };
        std::fs::create_dir(&network.dir)?;
        let client = network.connect("system:kube-scheduler").await?;
        network.background.handle.spawn(scheduler::run(client.clone()));
        let egress = egress::listen(cluster.dir())?;
        let fabric = network.fabric.clone();
        network.background.handle.spawn(async move {
            let egress = UnixListener::from_std(egress).expect("a socket that does not block");
            egress::run(egress, client, fabric).await;
        });
        Ok(network)
    }

    /// Runs a test with a network of its own, and prints the state of all hosts when it fails by an error, too.
    ///
    /// # Errors
    /// Those of [`Network::start`] and of `body`.
    pub async fn test(cluster: &Cluster, body: impl AsyncFnOnce(&Self) -> Result<()>) -> Result<()> {
        let network = Self::start(cluster).await?;
        let result = body(&network).await;
        if result.is_err() {
            eprintln!("{}", network.describe());
        }
        result
    }

    async fn connect(&self, user: &str) -> Result<Client> {
        let file = user.replace(':', "-");
        let name = format!("{}-{file}", self.dir.file_name().unwrap_or_default().to_string_lossy());
        let kubeconfig = self.pki.certificate(&name, &self.server, user, Some("system:masters"))?;
        self.background.connect(kubeconfig).await
    }

    /// Adds a node, and returns when its object is ready. Nodes have two cores and 110 pods at most.
    ///
    /// # Errors
    /// When the namespaces cannot be made or the API refuses the node.
    pub async fn node(&self, name: &str) -> Result<Node> {
        let client = self.connect(&format!("system:node:{name}")).await?;
        let number = {
            let nodes = locked(&self.nodes).len();
            u8::try_from(nodes + 1).ok().filter(|number| *number < 250).context("room for another node")?
        };
        let host = self.lab.host(name)?;
        let (four, six) = (format!("172.18.{number}"), format!("fd00:172:18:{number}:"));
        let port = format!("node{number}");
        self.connect_host(
            &host,
            &port,
            [(&format!("{four}.1/24"), &format!("{four}.2/24")), (&format!("{six}:1/64"), &format!("{six}:2/64"))],
        )?;
        let (pods4, pods6) = (format!("10.244.{number}"), format!("fd00:10:244:{number}:"));
        host.ip("link add name cni0 type bridge")?;
        host.ip("link set dev cni0 up")?;
        host.address("cni0", &format!("{pods4}.1/24"))?;
        host.address("cni0", &format!("{pods6}:1/64"))?;
        self.fabric.route(&format!("{pods4}.0/24"), &format!("{four}.2"))?;
        self.fabric.route(&format!("{pods6}:/64"), &format!("{six}:2"))?;
        host.forward()?;
        let kubelet = Kubelet {
            name: name.to_owned(),
            number,
            host,
            addresses: [format!("{four}.2").parse()?, format!("{six}:2").parse()?],
            client,
            dir: self.dir.clone(),
            authority: std::fs::read_to_string(self.pki.file("ca.crt"))?,
            headwater: self.headwater.clone(),
            lab: self.lab.clone(),
            pods: Mutex::default(),
            numbers: Mutex::default(),
        };
        let node = Node::start(Arc::new(kubelet), &self.background.handle).await?;
        locked(&self.nodes).push(node.clone());
        Ok(node)
    }

    /// Adds a client outside of the cluster, in a network of its own.
    ///
    /// # Errors
    /// When the namespace cannot be made.
    pub fn outside(&self, name: &str) -> Result<Outside> {
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        ensure!(number < 63, "no room for another client than the 63 that are there");
        let host = self.lab.host(name)?;
        let four = |last: u8| format!("198.51.100.{}", number * 4 + last);
        let six = |last: u8| format!("2001:db8:{}::{last}", number + 1);
        let prefixes = [
            (format!("{}/30", four(1)), format!("{}/30", four(2))),
            (format!("{}/64", six(1)), format!("{}/64", six(2))),
        ];
        self.connect_host(
            &host,
            &format!("client{number}"),
            [(&prefixes[0].0, &prefixes[0].1), (&prefixes[1].0, &prefixes[1].1)],
        )?;
        Ok(Outside { host, addresses: [four(2).parse()?, six(2).parse()?] })
    }

    /// A cable from a host's `eth0` to a port of the fabric, with the addresses of both ends, and routes by it.
    fn connect_host(&self, host: &Host, port: &str, prefixes: [(&str, &str); 2]) -> Result<()> {
        host.wire("eth0", &self.fabric, port)?;
        for ((here, there), all) in prefixes.into_iter().zip(["0.0.0.0/0", "::/0"]) {
            self.fabric.address(port, here)?;
            host.address("eth0", there)?;
            host.route(all, here.split('/').next().unwrap_or(here))?;
        }
        Ok(())
    }

    /// The router between all machines.
    pub fn fabric(&self) -> &Host {
        &self.fabric
    }

    /// A pod that runs on one of the nodes.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<RunningPod> {
        let nodes = locked(&self.nodes).clone();
        nodes.iter().find_map(|node| node.pod(namespace, name))
    }

    /// The headwater program of pods.
    pub fn headwater(&self) -> &Path {
        &self.headwater
    }

    /// Addresses, routes and process output of every host, pods too.
    pub fn describe(&self) -> String {
        self.lab.describe()
    }
}
