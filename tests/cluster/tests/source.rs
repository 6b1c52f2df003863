//! A real API server as a source of objects: what it holds, and what it does to those who watch.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use headwater_kube_io::{Access, ApiServer, ApiServerSource, Batch, Health, Selection, WatchState};
use headwater_model::cluster::Cluster as Objects;
use headwater_model::origin::{Kind, ObjectKey};
use headwater_testkit::cluster::Cluster;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinSet;

const INGRESSES: &str = "/apis/networking.k8s.io/v1";

/// Until something is told that the server already knows.
const DEADLINE: Duration = Duration::from_secs(60);

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

async fn cluster() -> Result<&'static Cluster> {
    CLUSTER.get_or_try_init(|| Cluster::builder().audit().start()).await
}

/// A source and all that it told.
struct Told {
    source: ApiServerSource,
    objects: Objects,
    last: Batch,
}

impl Told {
    async fn start(kubeconfig: &Path, selection: Selection) -> Result<Self> {
        let access = Access { kubeconfig: Some(kubeconfig.to_owned()), context: None };
        let source = ApiServerSource::start(&ApiServer::connect(&access).await?, selection);
        Ok(Self { source, objects: Objects::default(), last: Batch::default() })
    }

    async fn next(&mut self) -> Result<()> {
        let batch = tokio::time::timeout(DEADLINE, self.source.next()).await;
        self.last = batch.with_context(|| format!("nothing is told: {:?}", self.source.health().borrow()))?;
        for change in &self.last.changes {
            self.objects.apply(change);
        }
        Ok(())
    }

    async fn until(&mut self, holds: impl Fn(&Self) -> bool) -> Result<()> {
        while !holds(self) {
            self.next().await?;
        }
        Ok(())
    }

    /// The classes of the ingresses of a namespace, by name.
    fn classes(&self, namespace: &str) -> Vec<(&str, &str)> {
        let ingresses = self.objects.ingresses.iter().filter(|(id, _)| *id.namespace == *namespace);
        ingresses.map(|(id, i)| (&*id.name, i.spec.ingress_class_name.as_deref().unwrap_or_default())).collect()
    }

    async fn health(&self, what: &str, is: impl Fn(&Health) -> bool) -> Result<Health> {
        let mut health = self.source.health();
        match tokio::time::timeout(DEADLINE, health.wait_for(|health| is(health))).await {
            Ok(seen) => Ok(seen?.clone()),
            Err(_) => bail!("never {what}: {:?}", self.source.health().borrow()),
        }
    }
}

fn ingresses(namespace: &str) -> Selection {
    Selection { kinds: vec![Kind::Ingress], namespaces: vec![namespace.to_owned()], ..Selection::default() }
}

fn ingress(name: &str, class: &str) -> Value {
    let path = json!({ "path": "/", "pathType": "Prefix", "backend": { "service": { "name": "web", "port": { "number": 80 } } } });
    let rule = json!({ "host": format!("{name}.example.com"), "http": { "paths": [path] } });
    let metadata = json!({ "name": name, "annotations": { "nginx.ingress.kubernetes.io/ssl-redirect": "false" } });
    json!({ "metadata": metadata, "spec": { "ingressClassName": class, "rules": [rule] } })
}

async fn create_ingress(cluster: &Cluster, namespace: &str, name: &str, class: &str) -> Result<()> {
    let path = format!("{INGRESSES}/namespaces/{namespace}/ingresses");
    cluster.create(&path, &ingress(name, class)).await.map(drop)
}

async fn change_class(cluster: &Cluster, namespace: &str, name: &str, class: &str) -> Result<()> {
    let path = format!("{INGRESSES}/namespaces/{namespace}/ingresses/{name}");
    cluster.merge(&path, &json!({ "spec": { "ingressClassName": class } })).await.map(drop)
}

/// A way to the API server on which connections can be made to hang: nothing passes, and nothing ends.
struct Relay {
    kubeconfig: PathBuf,
    connections: Arc<AtomicUsize>,
    /// Connections with a lower number hang.
    frozen: watch::Sender<usize>,
}

impl Relay {
    async fn start(cluster: &Cluster) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let here = format!("https://{}", listener.local_addr()?);
        let kubeconfig = cluster.dir().join(format!("relay-{}", listener.local_addr()?.port()));
        std::fs::write(&kubeconfig, std::fs::read_to_string(cluster.kubeconfig())?.replace(&cluster.server(), &here))?;
        let server = cluster.server().trim_start_matches("https://").to_owned();
        let (connections, frozen) = (Arc::new(AtomicUsize::new(0)), watch::Sender::new(0));
        let (count, freezes) = (connections.clone(), frozen.clone());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (server, mut freezes) = (server.clone(), freezes.subscribe());
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await?;
                    let freeze = async { freezes.wait_for(|frozen| number < *frozen).await.is_ok() };
                    tokio::select! {
                        passed = tokio::io::copy_bidirectional(&mut near, &mut far) => passed.map(drop),
                        _ = freeze => std::future::pending().await,
                    }
                });
            }
        });
        Ok(Self { kubeconfig, connections, frozen })
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn freeze(&self) {
        self.frozen.send_replace(self.connections());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_read_over_one_connection_with_one_request_a_kind() -> Result<()> {
    let cluster = cluster().await?;
    let namespace = cluster.namespace("read").await?;
    create_ingress(cluster, &namespace, "web", "headwater").await?;
    let service = json!({ "metadata": { "name": "web" }, "spec": { "ports": [{ "port": 80 }] } });
    cluster.create(&format!("/api/v1/namespaces/{namespace}/services"), &service).await?;
    // What the API server writes for no endpoints is null.
    let labels = json!({ "kubernetes.io/service-name": "web", "team": "x" });
    let slice = json!({ "metadata": { "name": "web-1", "labels": labels }, "addressType": "IPv4", "endpoints": [], "ports": [] });
    cluster.create(&format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"), &slice).await?;
    let secret = json!({ "metadata": { "name": "tls" }, "stringData": { "tls.crt": "text" } });
    for name in ["tls", "other"] {
        let secret = json!({ "metadata": { "name": name }, "stringData": secret["stringData"] });
        cluster.create(&format!("/api/v1/namespaces/{namespace}/secrets"), &secret).await?;
    }
    let relay = Relay::start(cluster).await?;
    let kinds = vec![Kind::Ingress, Kind::IngressClass, Kind::Service, Kind::EndpointSlice, Kind::GatewaySettings];
    let selection = Selection { kinds, observe: true, ..Selection::default() };
    let mut told = Told::start(&relay.kubeconfig, selection).await?;
    told.next().await?;
    assert_eq!(told.classes(&namespace), [("web", "headwater")]);
    let slices = &told.objects.endpoint_slices;
    let (_, slice) = slices.iter().find(|(id, _)| *id.namespace == *namespace).context("the slice")?;
    assert_eq!(slice.metadata.labels.len(), 1, "{slice:?}");
    assert_eq!(told.last.findings.iter().map(|finding| finding.reason).collect::<Vec<_>>(), ["NotInstalled"]);
    let (_, observed) =
        told.last.observed.iter().find(|(key, _)| *key.id.namespace == *namespace).context("observed")?;
    assert!(observed.as_ref().is_some_and(|observed| observed.uid.len() == 36), "{observed:?}");

    let wanted: BTreeSet<ObjectKey> =
        ["tls", "none"].map(|name| ObjectKey::new(Kind::Secret, &*namespace, name)).into();
    told.source.want(&wanted);
    told.until(|told| told.source.pending() == 0).await?;
    let secrets: Vec<&str> = told.objects.secrets.keys().map(|id| &*id.name).collect();
    assert_eq!(secrets, ["tls"]);
    assert_eq!(relay.connections(), 1, "HTTP/2 carries all watches");
    let requests = cluster.requests()?;
    let ours: Vec<_> = requests.iter().filter(|request| request.user_agent.starts_with("headwater/")).collect();
    let listed = ours.iter().filter(|request| request.resource == "ingresses" && !request.uri.contains("namespaces"));
    assert_eq!(listed.map(|request| &*request.verb).collect::<Vec<_>>(), ["watch"], "streamed");
    let of_secrets: Vec<_> = ours.iter().filter(|request| request.resource == "secrets").collect();
    assert_eq!(of_secrets.len(), 2, "{of_secrets:#?}");
    assert!(of_secrets.iter().all(|request| request.uri.contains("fieldSelector=metadata.name")), "{of_secrets:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_hangs_is_noticed_and_made_anew() -> Result<()> {
    let cluster = cluster().await?;
    let namespace = cluster.namespace("hang").await?;
    create_ingress(cluster, &namespace, "web", "1").await?;
    let relay = Relay::start(cluster).await?;
    let mut told = Told::start(&relay.kubeconfig, ingresses(&namespace)).await?;
    told.next().await?;
    relay.freeze();
    let frozen = Instant::now();
    change_class(cluster, &namespace, "web", "2").await?;
    told.until(|told| told.classes(&namespace) == [("web", "2")]).await?;
    ensure!(frozen.elapsed() < Duration::from_secs(20), "noticed after {:?}", frozen.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_is_found_once_installed_and_gone_once_removed() -> Result<()> {
    let cluster = Cluster::start().await?;
    let namespace = cluster.namespace("crd").await?;
    let selection = Selection { kinds: vec![Kind::GatewaySettings, Kind::Ingress], ..Selection::default() };
    let mut told = Told::start(cluster.kubeconfig(), selection).await?;
    told.next().await?;
    assert_eq!(told.last.findings.len(), 1, "{:?}", told.last.findings);
    let definition = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds/headwater.dev_gatewaysettings.yaml");
    cluster.apply(&std::fs::read_to_string(definition)?).await?;
    told.until(|told| told.last.findings.is_empty()).await?;
    let settings = json!({ "apiVersion": "headwater.dev/v1alpha1", "kind": "GatewaySettings", "metadata": { "name": "s" }, "spec": {} });
    cluster.create(&format!("/apis/headwater.dev/v1alpha1/namespaces/{namespace}/gatewaysettings"), &settings).await?;
    told.until(|told| told.objects.gateway_settings.len() == 1).await?;
    cluster.kubectl(&["delete", "customresourcedefinition", "gatewaysettings.headwater.dev"]).await?;
    told.until(|told| told.objects.gateway_settings.is_empty() && !told.last.findings.is_empty()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_and_restarted_is_caught_up_with_in_time() -> Result<()> {
    let cluster = Cluster::start().await?;
    let namespace = cluster.namespace("kill").await?;
    for name in ["a", "b", "c"] {
        create_ingress(&cluster, &namespace, name, "1").await?;
    }
    let mut told = Told::start(cluster.kubeconfig(), ingresses(&namespace)).await?;
    told.next().await?;
    cluster.kill_apiserver();
    let health = told.health("stale", Health::is_stale).await?;
    assert!(health.started);
    assert_eq!(told.classes(&namespace).len(), 3);
    cluster.restart_apiserver().await?;
    let ready = Instant::now();
    change_class(&cluster, &namespace, "a", "2").await?;
    told.until(|told| told.classes(&namespace)[0] == ("a", "2")).await?;
    ensure!(ready.elapsed() < Duration::from_secs(5), "caught up after {:?}", ready.elapsed());
    told.health("well", |health| !health.is_stale()).await?;

    // Versions that the server forgot: everything is listed anew, and tells what went meanwhile.
    cluster.kill_apiserver();
    told.health("stale again", Health::is_stale).await?;
    cluster.restart_apiserver().await?;
    cluster.delete(&format!("{INGRESSES}/namespaces/{namespace}/ingresses/b")).await?;
    create_ingress(&cluster, &namespace, "d", "1").await?;
    cluster.expire_resource_versions().await?;
    let names = ["a", "c", "d"];
    told.until(|told| told.classes(&namespace).iter().map(|(name, _)| *name).eq(names)).await?;
    told.health("well again", |health| !health.is_stale()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_streamed_lists_is_read_in_pages() -> Result<()> {
    let cluster = Arc::new(Cluster::builder().audit().flag("--feature-gates=WatchList=false").start().await?);
    let namespace = cluster.namespace("pages").await?;
    create_many(
        &cluster,
        (0..501).map(|i| {
            (
                format!("/api/v1/namespaces/{namespace}/configmaps"),
                json!({ "metadata": { "name": format!("c{i:03}") } }),
            )
        }),
    )
    .await?;
    let selection =
        Selection { kinds: vec![Kind::ConfigMap], namespaces: vec![namespace.clone()], ..Selection::default() };
    let mut told = Told::start(cluster.kubeconfig(), selection).await?;
    told.next().await?;
    assert_eq!(told.objects.config_maps.len(), 501);
    let requests = cluster.requests()?;
    let of_ours = requests.iter().filter(|r| r.user_agent.starts_with("headwater/") && r.resource == "configmaps");
    let asked: Vec<(&str, u16)> = of_ours.map(|request| (&*request.verb, request.code)).collect();
    assert_eq!(asked[..3], [("watch", 422), ("list", 200), ("list", 200)]);
    cluster.delete(&format!("/api/v1/namespaces/{namespace}/configmaps/c300")).await?;
    told.until(|told| told.objects.config_maps.len() == 500).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rbac_takes_away_is_named_and_stays_as_it_was() -> Result<()> {
    let cluster = cluster().await?;
    let namespace = cluster.namespace("rbac").await?;
    create_ingress(cluster, &namespace, "web", "1").await?;
    for name in ["mine", "other"] {
        let secret = json!({ "metadata": { "name": name }, "stringData": { "k": "v" } });
        cluster.create(&format!("/api/v1/namespaces/{namespace}/secrets"), &secret).await?;
    }
    let account = cluster.kubeconfig_for_service_account(&namespace, "gateway").await?;
    let role = format!("{namespace}:gateway");
    let grant = ["-n", &namespace, "create"];
    cluster.kubectl(&[&grant[..], &["role", "all", "--verb=list,watch", "--resource=ingresses"]].concat()).await?;
    cluster
        .kubectl(
            &[&grant[..], &["role", "one", "--verb=list,watch", "--resource=secrets", "--resource-name=mine"]].concat(),
        )
        .await?;
    for name in ["all", "one"] {
        let (role_flag, account_flag) = (format!("--role={name}"), format!("--serviceaccount={role}"));
        cluster.kubectl(&[&grant[..], &["rolebinding", name, &role_flag, &account_flag]].concat()).await?;
    }
    let mut told = Told::start(account.path(), ingresses(&namespace)).await?;
    told.next().await?;
    let secret = |name: &str| ObjectKey::new(Kind::Secret, &*namespace, name);
    told.source.want(&["mine", "other"].map(secret).into());
    told.until(|told| told.source.pending() == 0).await?;
    assert!(told.objects.secrets.contains_key(&secret("mine").id));
    let findings: Vec<_> = told.last.findings.iter().map(|finding| (finding.reason, finding.object.clone())).collect();
    assert_eq!(findings, [("Forbidden", Some(secret("other")))]);

    // A stream that runs is not ended by RBAC; the next request is refused.
    cluster.kubectl(&["-n", &namespace, "delete", "rolebinding", "all"]).await?;
    let mut refused = Told::start(account.path(), ingresses(&namespace)).await?;
    let is_refused = |health: &Health| {
        let state = &health.watches[0].state;
        matches!(state, WatchState::Stale { error, .. } if error.contains("cannot") && error.contains("ingresses"))
    };
    ensure!(!refused.health("refused", is_refused).await?.started);
    assert_eq!(told.classes(&namespace), [("web", "1")]);
    let (role_flag, account_flag) = ("--role=all", format!("--serviceaccount={role}"));
    cluster.kubectl(&[&grant[..], &["rolebinding", "all", role_flag, &account_flag]].concat()).await?;
    refused.next().await?;
    assert_eq!(refused.classes(&namespace), [("web", "1")]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_replaced_from_its_file() -> Result<()> {
    let cluster = Cluster::start().await?;
    let namespace = cluster.namespace("token").await?;
    create_ingress(&cluster, &namespace, "web", "1").await?;
    let account = cluster.kubeconfig_for_service_account(&namespace, "gateway").await?;
    let short = cluster.short_token(&namespace, "gateway", Duration::from_secs(1)).await?;
    let grant = ["-n", &namespace, "create"];
    cluster.kubectl(&[&grant[..], &["role", "read", "--verb=list,watch", "--resource=ingresses"]].concat()).await?;
    let to = format!("--serviceaccount={namespace}:gateway");
    cluster.kubectl(&[&grant[..], &["rolebinding", "read", "--role=read", &to]].concat()).await?;
    // Expired before it is used, or soon after: the restart makes the server forget that it once was good.
    account.rotate(&short)?;
    let mut told = Told::start(account.path(), ingresses(&namespace)).await?;
    cluster.restart_apiserver().await?;
    let unauthorized = |health: &Health| matches!(&health.watches[0].state, WatchState::Stale { error, .. } if error.starts_with("401"));
    told.health("unauthorized", unauthorized).await?;
    account.rotate(&cluster.token(&namespace, "gateway", Duration::from_secs(600)).await?)?;
    change_class(&cluster, &namespace, "web", "2").await?;
    told.until(|told| told.classes(&namespace) == [("web", "2")]).await
}

/// Reads what `HEADWATER_TEST_KUBECONFIG` reaches, in a process that does nothing else, and prints what that takes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test below, in a process of its own"]
async fn measured_alone() -> Result<()> {
    let kubeconfig = PathBuf::from(std::env::var_os("HEADWATER_TEST_KUBECONFIG").context("what to read")?);
    let resident = || -> Result<u64> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    let (before, began) = (resident()?, Instant::now());
    let kinds = vec![Kind::Ingress, Kind::IngressClass, Kind::Service, Kind::EndpointSlice];
    let mut told = Told::start(&kubeconfig, Selection { kinds, ..Selection::default() }).await?;
    told.next().await?;
    let endpoints: usize = told.objects.endpoint_slices.values().map(|slice| slice.endpoints.len()).sum();
    told.last = Batch::default();
    let counts = json!({
        "ingresses": told.objects.ingresses.len(), "services": told.objects.services.len(), "endpoints": endpoints,
        "milliseconds": began.elapsed().as_millis(), "kib": resident()? - before,
    });
    println!("measured {counts}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_ingresses_and_ten_thousand_endpoints_are_held_in_little() -> Result<()> {
    let cluster = Arc::new(Cluster::start().await?);
    let namespace = cluster.namespace("many").await?;
    let collection = |group: &str, plural: &str| format!("{group}/namespaces/{namespace}/{plural}");
    let services = (0..1000).flat_map(|i| {
        let name = format!("service-{i}");
        let port = json!({ "name": "http", "port": 80, "targetPort": 8080 });
        let service = json!({ "metadata": { "name": &name }, "spec": { "ports": [port], "selector": { "app": &name } } });
        let endpoint = |k: usize| {
            json!({ "addresses": [format!("10.{}.{}.{k}", i / 250, i % 250)], "nodeName": format!("node-{k}"), "zone": "a",
                    "conditions": { "ready": true, "serving": true, "terminating": false },
                    "targetRef": { "kind": "Pod", "namespace": &namespace, "name": format!("{name}-{k}") } })
        };
        let slice = json!({
            "metadata": { "name": format!("{name}-x"), "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
            "endpoints": (1..=10).map(endpoint).collect::<Vec<_>>(),
        });
        [(collection("/api/v1", "services"), service), (collection("/apis/discovery.k8s.io/v1", "endpointslices"), slice)]
    });
    create_many(&cluster, services).await?;
    let routes = (0..5000).map(|i| (collection(INGRESSES, "ingresses"), ingress(&format!("ingress-{i}"), "headwater")));
    create_many(&cluster, routes).await?;
    let test = std::process::Command::new(std::env::current_exe()?)
        .args(["measured_alone", "--exact", "--ignored", "--nocapture"])
        .env("HEADWATER_TEST_KUBECONFIG", cluster.kubeconfig())
        .output()?;
    let printed = String::from_utf8_lossy(&test.stdout);
    let line = printed.lines().find_map(|line| line.split_once("measured {")).map(|(_, rest)| format!("{{{rest}"));
    let measured: Value = serde_json::from_str(&line.with_context(|| printed.clone().into_owned())?)?;
    println!("{measured}");
    assert_eq!([&measured["ingresses"], &measured["endpoints"]], [5000, 10_000], "{measured}");
    // 27 MiB, a third of a second, unoptimised. A gateway as a whole may take 100 MiB for this.
    ensure!(measured["kib"].as_u64().is_some_and(|kib| kib < 50 << 10), "{measured}");
    Ok(())
}

/// Creates objects, many at a time.
async fn create_many(cluster: &Arc<Cluster>, objects: impl Iterator<Item = (String, Value)>) -> Result<()> {
    const AT_ONCE: usize = 16;
    let mut running = JoinSet::new();
    for (path, object) in objects {
        if running.len() >= AT_ONCE {
            running.join_next().await.context("some run")???;
        }
        let cluster = cluster.clone();
        running.spawn(async move { cluster.create(&path, &object).await.map(drop) });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}
