//! One directory, and processes that come and go.

use std::fs;
use std::path::Path;

use headwater_kube_io::{DirectorySource, read_dir};
use headwater_model::cluster::Object;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::*;

/// Only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(20);

const FILE: &str = ".headwater/addresses.json";

fn pool(addresses: &str) -> String {
    format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: first, namespace: metallb-system}}\n\
         spec: {{addresses: [{addresses}]}}\n"
    )
}

fn balancer(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: a, annotations: {{{more}}}}}\n\
         spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}\n"
    )
}

fn write(directory: &Path, name: &str, text: &str) {
    let new = directory.join(".new");
    fs::write(&new, text).unwrap();
    fs::rename(new, directory.join(name)).unwrap();
}

/// A process that gives addresses; it ends when dropped, as one that is killed.
struct Up {
    addresses: DirectoryAddresses,
    reader: JoinHandle<()>,
}

impl Up {
    async fn start(directory: &Path) -> Self {
        let (tell, told) = mpsc::channel(WAITING_BATCHES);
        let addresses = DirectoryAddresses::start(directory, Class(None), "metallb-system", told);
        let (first, mut source) = DirectorySource::start(directory).await.unwrap();
        let reader = tokio::spawn(async move {
            let mut batch = first;
            while tell.send(batch).await.is_ok() {
                batch = source.next().await;
            }
        });
        Self { addresses, reader }
    }

    async fn says(&self, what: impl Fn(&AddressState) -> bool) {
        let mut state = self.addresses.state();
        let said = timeout(DEADLINE, state.wait_for(|state| what(state))).await.map(drop);
        said.unwrap_or_else(|_| panic!("it says {:?}", self.addresses.state().borrow()));
    }

    async fn problem(&self, words: &str) {
        self.says(|state| state.problem.as_ref().is_some_and(|problem| problem.contains(words))).await;
    }

    /// Ends it, and waits until its lock is gone.
    async fn kill(self) {
        self.addresses.task.abort();
        self.reader.abort();
        drop(self);
    }
}

/// `name=address,address of pool` of each Service with addresses, as everybody reads it.
fn read(directory: &Path) -> Vec<String> {
    let shown = read_dir(directory).objects.into_iter().filter_map(|(object, _)| {
        let Object::Service(service) = object else { return None };
        let ingress = service.status.load_balancer.ingress.iter().filter_map(|entry| entry.ip.as_deref());
        let addresses = ingress.collect::<Vec<_>>().join(",");
        let pool = service.metadata.annotations.get("metallb.io/ip-allocated-from-pool");
        let pool = pool.map(|pool| format!(" of {pool}")).unwrap_or_default();
        (!addresses.is_empty()).then(|| format!("{}={addresses}{pool}", service.metadata.name))
    });
    shown.collect()
}

async fn has(directory: &Path, expected: &[&str]) {
    let reached = async {
        while read(directory) != expected {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let reached = timeout(DEADLINE, reached).await;
    reached.unwrap_or_else(|_| {
        panic!("{expected:?}, but {:?}; {:?}", read(directory), fs::read_to_string(directory.join(FILE)))
    });
}

fn directory(files: &[(&str, String)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        write(directory.path(), name, text);
    }
    directory
}

#[tokio::test]
async fn a_restart_keeps_addresses_and_edits_are_live() {
    let directory = directory(&[("pool.yaml", pool("192.0.2.1-192.0.2.4")), ("b.yaml", balancer("b", ""))]);
    let path = directory.path();
    let up = Up::start(path).await;
    has(path, &["b=192.0.2.1 of first"]).await;
    write(path, "a.yaml", &balancer("a", ""));
    write(path, "c.yaml", &balancer("c", "metallb.io/loadBalancerIPs: 192.0.2.4"));
    has(path, &["a=192.0.2.2 of first", "b=192.0.2.1 of first", "c=192.0.2.4 of first"]).await;
    up.kill().await;
    // By name alone `a` would have got the first.
    let up = Up::start(path).await;
    write(path, "d.yaml", &balancer("d", ""));
    has(path, &["a=192.0.2.2 of first", "b=192.0.2.1 of first", "c=192.0.2.4 of first", "d=192.0.2.3 of first"]).await;
    // A gap that came while nobody ran, and one that comes.
    up.kill().await;
    fs::remove_file(path.join("b.yaml")).unwrap();
    let up = Up::start(path).await;
    write(path, "e.yaml", &balancer("e", ""));
    has(path, &["a=192.0.2.2 of first", "c=192.0.2.4 of first", "d=192.0.2.3 of first", "e=192.0.2.1 of first"]).await;
    fs::remove_file(path.join("d.yaml")).unwrap();
    write(path, "c.yaml", &balancer("c", "metallb.io/loadBalancerIPs: 192.0.2.3"));
    has(path, &["a=192.0.2.2 of first", "c=192.0.2.3 of first", "e=192.0.2.1 of first"]).await;
    // The pool moves, and goes.
    write(path, "pool.yaml", &pool("192.0.2.2/31, \"198.51.100.0/24\""));
    has(path, &["a=192.0.2.2 of first", "c=192.0.2.3 of first", "e=198.51.100.0 of first"]).await;
    fs::remove_file(path.join("pool.yaml")).unwrap();
    has(path, &[]).await;
    let why = vec!["Failed to allocate IP for \"a/a\": no available IPs".to_owned()];
    let lost = ServiceAddresses { service: "a/a".to_owned(), addresses: Vec::new(), pool: None, why };
    up.says(|state| state.services.first() == Some(&lost)).await;
}

#[tokio::test]
async fn a_broken_file_gives_nothing_until_it_is_mended() {
    let directory = directory(&[("pool.yaml", pool("192.0.2.1-192.0.2.4")), ("a.yaml", balancer("a", ""))]);
    let path = directory.path();
    let up = Up::start(path).await;
    has(path, &["a=192.0.2.1 of first"]).await;
    up.kill().await;
    let good = fs::read_to_string(path.join(FILE)).unwrap();
    let spoilt = good.replace("192.0.2.1", "192.0.2.");
    write(path, FILE, &spoilt);
    let told = read_dir(path).findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    assert!(told.contains(FILE) && told.contains("cannot be read"), "{told}");
    let up = Up::start(path).await;
    up.problem("cannot be read").await;
    write(path, "b.yaml", &balancer("b", ""));
    write(path, FILE, &good.replace("192.0.2.1", "192.0.2.3"));
    has(path, &["a=192.0.2.3 of first", "b=192.0.2.1 of first"]).await;
    // While somebody gives addresses, the file says what he knows.
    write(path, FILE, &good.replace("192.0.2.1", "192.0.2.4"));
    has(path, &["a=192.0.2.3 of first", "b=192.0.2.1 of first"]).await;
    fs::remove_file(path.join(FILE)).unwrap();
    has(path, &["a=192.0.2.3 of first", "b=192.0.2.1 of first"]).await;
}

#[tokio::test]
async fn what_cannot_be_read_loses_nothing() {
    let directory = directory(&[
        ("pool.yaml", pool("192.0.2.1-192.0.2.4")),
        ("a.yaml", balancer("a", "")),
        ("b.yaml", balancer("b", "")),
    ]);
    let path = directory.path();
    let up = Up::start(path).await;
    has(path, &["a=192.0.2.1 of first", "b=192.0.2.2 of first"]).await;
    up.kill().await;
    write(path, "a.yaml", "kind: [");
    let up = Up::start(path).await;
    write(path, "c.yaml", &balancer("c", ""));
    has(path, &["b=192.0.2.2 of first", "c=192.0.2.3 of first"]).await;
    write(path, "a.yaml", &balancer("a", ""));
    has(path, &["a=192.0.2.1 of first", "b=192.0.2.2 of first", "c=192.0.2.3 of first"]).await;
    // The same for the pool.
    up.kill().await;
    write(path, "pool.yaml", "kind: [");
    let up = Up::start(path).await;
    up.says(|state| state.services.len() == 3).await;
    assert_eq!(read(path), ["a=192.0.2.1 of first", "b=192.0.2.2 of first", "c=192.0.2.3 of first"]);
    // Once everything is read, what is not there is gone.
    write(path, "pool.yaml", &pool("192.0.2.1-192.0.2.4"));
    write(path, "a.yaml", "");
    write(path, "d.yaml", &balancer("d", ""));
    has(path, &["b=192.0.2.2 of first", "c=192.0.2.3 of first", "d=192.0.2.1 of first"]).await;
}

#[tokio::test]
async fn of_two_processes_one_gives_and_the_other_follows_it() {
    let directory = directory(&[("pool.yaml", pool("192.0.2.1-192.0.2.4")), ("a.yaml", balancer("a", ""))]);
    let path = directory.path();
    let one = Up::start(path).await;
    has(path, &["a=192.0.2.1 of first"]).await;
    let two = Up::start(path).await;
    two.problem("another process").await;
    one.kill().await;
    write(path, "b.yaml", &balancer("b", ""));
    has(path, &["a=192.0.2.1 of first", "b=192.0.2.2 of first"]).await;
    two.says(|state| state.problem.is_none() && state.services.len() == 2).await;
}

#[tokio::test]
async fn a_status_in_a_manifest_is_where_it_begins_and_without_pools_nothing_is_kept() {
    let taken = balancer("a", "") + "status: {loadBalancer: {ingress: [{ip: 192.0.2.3}]}}\n";
    let foreign = balancer("f", "") + "status: {loadBalancer: {ingress: [{ip: 198.51.100.7}]}}\n";
    let directory = directory(&[("a.yaml", taken), ("f.yaml", foreign)]);
    let path = directory.path();
    let up = Up::start(path).await;
    assert_eq!(read(path), ["a=192.0.2.3", "f=198.51.100.7"]);
    write(path, "pool.yaml", &pool("192.0.2.3/32"));
    has(path, &["a=192.0.2.3 of first"]).await;
    up.says(|state| matches!(&state.services[..], [_, f] if f.why.iter().any(|why| why.contains("no available"))))
        .await;
    // A plain Service gives back what it had.
    write(path, "a.yaml", &balancer("a", "").replace("LoadBalancer", "ClusterIP"));
    has(path, &["f=192.0.2.3 of first"]).await;
}
