//! Commits that go wrong, in network namespaces, as root: nothing is half applied, the kernel is read again and put right,
//! and connections live on.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use headwater_kube_io::read_str;
use headwater_model::cluster::{Change, Cluster};
use headwater_nft::NftError;
use headwater_service_nat::{Options, ServiceNat, facts};
use headwater_testkit::lab::{self, Host};
use headwater_testkit::wait;
use tokio::sync::watch;

use crate::agent::{Agent, Order, Work};
use crate::state::State;
use crate::tables::Tables;

/// What a commit meets.
pub(crate) enum Fault {
    /// The kernel is not asked.
    Unsent(NftError),
    /// It applies the batch, and its answer is lost.
    Unheard(NftError),
    /// Somebody else is faster.
    Before(Box<dyn FnOnce() + Send>),
}

impl Fault {
    pub(crate) fn happen(self, apply: impl FnOnce() -> Result<(), NftError>) -> Result<(), NftError> {
        match self {
            Self::Unsent(error) => Err(error),
            Self::Unheard(error) => apply().and(Err(error)),
            Self::Before(act) => {
                act();
                apply()
            }
        }
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsent(error) | Self::Unheard(error) => write!(f, "{error}"),
            Self::Before(_) => f.write_str("somebody else"),
        }
    }
}

/// Those of the next commits, one each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<VecDeque<Fault>>>);

impl Faults {
    fn come(&self, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
    }

    pub(crate) fn next(&self) -> Option<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn all_came(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

const NODE: &str = "192.0.2.1";
const CLUSTER_IP: &str = "10.96.0.1";
/// The port of the first endpoint, which every connection of the tests has.
const FIRST: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(5);

/// Endpoints are ports of the node itself.
fn objects(ports: &[u16]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: node-1}}\nstatus: {{addresses: [{{type: InternalIP, address: {NODE}}}]}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\n\
         spec: {{clusterIP: {CLUSTER_IP}, clusterIPs: [{CLUSTER_IP}], ports: [{{port: 80}}]}}\n"
    );
    for port in ports {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: web-{port}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\n\
             ports: [{{port: {port}}}]\nendpoints: [{{addresses: [{NODE}], nodeName: node-1}}]\n"
        );
    }
    text
}

/// The plane of node-1 from objects on, with a client beside it.
struct Stage {
    node: Host,
    client: Host,
    nat: ServiceNat,
    agent: Agent,
    faults: Faults,
}

impl Stage {
    fn start(lab: &lab::Lab) -> Result<Self> {
        let (client, node) = (lab.host("client")?, lab.host("node")?);
        client.wire("eth0", &node, "eth0")?;
        client.address("eth0", "192.0.2.100/24")?;
        client.ip(&format!("route add {CLUSTER_IP}/32 via {NODE}"))?;
        node.address("eth0", &format!("{NODE}/24"))?;
        node.run(serve)?;
        let options = Options {
            node: facts(&cluster(&[FIRST])?, "node-1", vec![NODE.parse()?]).context("a Node")?,
            ..Options::default()
        };
        let (addresses, _) = watch::channel(Vec::new());
        let (agent, faults) = node.run(|| -> Result<_> {
            let tables = Tables::open()?;
            let faults = tables.faults.clone();
            Ok((Agent::over(tables, "node-1".into(), None, false, addresses)?, faults))
        })?;
        let mut stage = Self { node, client, nat: ServiceNat::new(options), agent, faults };
        stage.set(&[FIRST])?;
        Ok(stage)
    }

    /// Wants these endpoints, and waits until the kernel has them. Returns what the state said on the way.
    fn set(&mut self, ports: &[u16]) -> Result<Vec<String>> {
        let cluster = cluster(ports)?;
        let keys: Vec<_> = cluster.endpoint_slices.values().map(|slice| slice.key()).collect();
        let gone = [FIRST, FIRST + 1, FIRST + 2].map(|port| {
            headwater_model::origin::ObjectKey::new(
                headwater_model::origin::Kind::EndpointSlice,
                "shop",
                format!("web-{port}").as_str(),
            )
        });
        let update = self.nat.apply(&cluster, &[keys, gone.into()].concat());
        let wanted = update.snapshot.generation;
        let mut state = self.agent.state.clone();
        let work = Work {
            snapshot: update.snapshot.clone(),
            changed: update.changed,
            peers: Arc::default(),
            own: Err("there is none".to_owned()),
        };
        self.agent.orders.send(Order::Work(work)).ok().context("the agent has ended")?;
        let mut said = Vec::new();
        wait::until(wait::DEADLINE, || {
            let now: Arc<State> = state.borrow_and_update().clone();
            if let Some(error) = &now.error
                && said.last() != Some(error)
            {
                said.push(error.clone());
            }
            now.generation == Some(wanted) && now.error.is_none() && self.faults.all_came()
        })
        .with_context(|| format!("{:?}, faults {:?}", state.borrow(), self.faults))?;
        // Which endpoint has which position depends on what was before.
        let there = elements(&self.node)?;
        let has = |end: &str| there.iter().filter(|element| element.ends_with(end)).count();
        let each = ports.iter().all(|port| has(&format!(" : {NODE} . {port}")) == 1);
        let pick = has(&format!(" : goto svc_any_{}", ports.len()));
        ensure!(each && pick == 1 && there.len() == ports.len() + 2, "{ports:?} are wanted, and there is {there:#?}");
        Ok(said)
    }

    fn talk(&self) -> Result<BufReader<TcpStream>> {
        let stream = self.client.run(|| {
            TcpStream::connect_timeout(&format!("{CLUSTER_IP}:80").parse()?, PATIENCE).map_err(anyhow::Error::from)
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut stream = BufReader::new(stream);
        let mut greeting = String::new();
        stream.read_line(&mut greeting)?;
        Ok(stream)
    }
}

/// What endpoints have, as `nft` prints it.
fn elements(node: &Host) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for map in ["svc", "svc_any", "svc_to"] {
        let text = node.exec("nft", &["list", "map", "ip", "headwater-services", map])?;
        let list = text.split_once("elements = {").map(|(_, list)| list.replace('}', " ")).unwrap_or_default();
        all.extend(list.split(',').map(|element| element.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    Ok(all)
}

fn cluster(ports: &[u16]) -> Result<Cluster> {
    let reading = read_str("objects.yaml", &objects(ports));
    ensure!(reading.findings.is_empty(), "{:?}", reading.findings);
    let mut cluster = Cluster::default();
    for (object, _) in reading.objects {
        cluster.apply(&Change::Set(object));
    }
    Ok(cluster)
}

/// Greets on the ports of all endpoints, and echoes.
fn serve() -> Result<()> {
    for port in FIRST..FIRST + 3 {
        let listener = TcpListener::bind((NODE, port))?;
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                thread::spawn(move || -> io::Result<u64> {
                    stream.write_all(format!("{port}\n").as_bytes())?;
                    let mut from = stream.try_clone()?;
                    io::copy(&mut from, &mut stream)
                });
            }
        });
    }
    Ok(())
}

fn speak(stream: &mut BufReader<TcpStream>) -> Result<()> {
    stream.get_mut().write_all(b"still there\n")?;
    let mut heard = [0; 12];
    stream.read_exact(&mut heard).context("no echo")?;
    ensure!(&heard == b"still there\n", "another echo");
    Ok(())
}

fn socket(errno: i32) -> NftError {
    NftError::Socket { doing: "send to the kernel", source: io::Error::from_raw_os_error(errno) }
}

const EBUSY: i32 = 16;
const ENOBUFS: i32 = 105;

/// What goes wrong when a second endpoint comes, and what is said of it; of what is put right at once nothing is.
type Case = (&'static str, fn(&Host) -> Vec<Fault>, &'static [&'static str]);

/// Runs `nft` on the node; what it says is not of interest.
fn nft(node: &Host, script: &'static str) -> Fault {
    let node = node.clone();
    Fault::Before(Box::new(move || node.nft(script).map(drop).expect("another program may do that")))
}

/// What the second endpoint is to have.
const CLASH: &str = "add element ip headwater-services svc_to { 10.96.0.1 . tcp . 80 . 0:1 : 192.0.2.1 . 9 }";

const CASES: [Case; 8] = [
    ("busy", |_| vec![Fault::Unsent(socket(EBUSY))], &[]),
    ("no buffers", |_| vec![Fault::Unsent(socket(ENOBUFS))], &[]),
    ("an answer that was lost with its batch", |_| vec![Fault::Unsent(NftError::Lost)], &[]),
    ("an answer that was lost", |_| vec![Fault::Unheard(NftError::Lost)], &[]),
    ("an element that is there with other data", |node| vec![nft(node, CLASH)], &[]),
    (
        "an element that somebody deleted",
        |node| vec![nft(node, "delete element ip headwater-services svc_any { 10.96.0.1 . tcp . 80 }")],
        &[],
    ),
    (
        "busy, while it is put right, too",
        |_| vec![Fault::Unsent(socket(EBUSY)), Fault::Unsent(socket(EBUSY)), Fault::Unheard(NftError::Lost)],
        &[
            "netlink socket: send to the kernel: Device or resource busy (os error 16)",
            "netlink answers were lost: read the sets again",
        ],
    ),
    (
        "a table that somebody deletes while it is put right",
        |node| vec![Fault::Unsent(socket(ENOBUFS)), nft(node, "delete table ip headwater-services")],
        &["refused by the kernel: there is no such table or set; load it first"],
    ),
];

#[test]
fn whatever_a_commit_meets_the_kernel_is_put_right_and_connections_live_on() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::start(lab)?;
        let mut talks = vec![stage.talk()?];
        for (name, faults, told) in CASES {
            stage.faults.come(faults(&stage.node));
            let said = stage.set(&[FIRST, FIRST + 1]).with_context(|| name.to_owned())?;
            ensure!(
                said.len() == told.len() && said.iter().zip(told).all(|(said, told)| said.contains(told)),
                "{name}: {said:?}"
            );
            talks.push(stage.talk().with_context(|| format!("after {name}"))?);
            for talk in &mut talks {
                speak(talk).with_context(|| format!("after {name}"))?;
            }
            stage.set(&[FIRST])?;
        }
        Ok(())
    })
}

#[test]
fn nothing_of_a_batch_that_is_refused_in_its_middle_is_applied() -> Result<()> {
    lab::test(|lab| {
        let mut stage = Stage::start(lab)?;
        let before = elements(&stage.node)?;
        let (seen, node) = (Arc::new(Mutex::new(BTreeSet::new())), stage.node.clone());
        let tell = seen.clone();
        // The next commit after the one that is refused is the one that puts it right.
        let look = Fault::Before(Box::new(move || {
            *tell.lock().unwrap_or_else(PoisonError::into_inner) = elements(&node).expect("nft lists");
        }));
        stage.faults.come([nft(&stage.node, CLASH), look]);
        stage.set(&[FIRST, FIRST + 1, FIRST + 2])?;
        let between = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let more: Vec<&String> = between.difference(&before).collect();
        ensure!(before.is_subset(&between), "before {before:#?}, between {between:#?}");
        ensure!(more.len() == 1 && more[0].ends_with("192.0.2.1 . 9"), "before {before:#?}, between {between:#?}");
        ensure!(elements(&stage.node)? != before, "nothing has changed");
        Ok(())
    })
}
