//! The webhook as a real API server asks it, with kubectl as the user's client.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use headwater_admission::{
    AdmissionConfig, AdmissionMetrics, AdmissionServer, Candidate, Certificate, Judge, Lives, Managed,
};
use headwater_kube_io::{Access, ApiServer};
use headwater_model::cluster::Object;
use headwater_model::finding::Finding;
use headwater_model::origin::NamespacedName;
use headwater_process::metrics::Registry;
use headwater_testkit::cluster::Cluster;
use headwater_testkit::wait;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, oneshot, watch};

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
/// Until an API server knows of a changed configuration.
const KNOWN: Duration = Duration::from_secs(60);

async fn cluster() -> Result<&'static Cluster> {
    CLUSTER.get_or_try_init(Cluster::start).await
}

/// Refuses the path `/refused`, and misses every Service but `web`.
struct Paths {
    asked: Arc<AtomicU32>,
}

impl Judge for Paths {
    async fn judge(&self, candidate: Candidate) -> Vec<Finding> {
        if !candidate.old {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
        let key = candidate.key();
        let Object::Ingress(ingress) = candidate.object else { return Vec::new() };
        let paths = ingress.spec.rules.iter().flat_map(|rule| rule.http.iter().flat_map(|http| &http.paths));
        let mut findings = Vec::new();
        for path in paths {
            if path.path.as_deref() == Some("/refused") {
                findings.push(
                    Finding::error("InvalidPath", key.clone(), "path \"/refused\" is refused")
                        .at("spec.rules[0].http.paths[0].path")
                        .mend("choose another"),
                );
            }
            let service = path.backend.service.as_ref().map_or("", |service| &service.name);
            if service != "web" {
                let message = format!("Service {service} does not exist");
                findings.push(Finding::error("MissingReference", key.clone(), message));
            }
        }
        findings
    }
}

/// A webhook in this process, and its configuration for the Ingresses of one namespace.
struct Webhook {
    cluster: &'static Cluster,
    server: ApiServer,
    address: SocketAddr,
    namespace: String,
    configuration: String,
    asked: Arc<AtomicU32>,
    _leading: watch::Sender<bool>,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
}

impl Webhook {
    async fn start(prefix: &str, failure_policy: &str, lives: Lives) -> Result<Self> {
        let cluster = cluster().await?;
        let namespace = cluster.namespace(prefix).await?;
        let access = Access { kubeconfig: Some(cluster.kubeconfig().to_owned()), context: None };
        let (leading, is_leading) = watch::channel(true);
        let configuration = format!("headwater-{namespace}");
        let api = ApiServer::connect(&access).await?;
        let managed = Managed {
            server: api.clone(),
            secret: NamespacedName::new(namespace.as_str(), "webhook"),
            configuration: configuration.clone(),
            names: vec!["127.0.0.1".to_owned()],
            lives,
            leading: is_leading,
        };
        let config = AdmissionConfig { address: (Ipv4Addr::LOCALHOST, 0).into(), ..AdmissionConfig::default() };
        let asked = Arc::new(AtomicU32::new(0));
        let metrics = AdmissionMetrics::register(&Registry::new());
        let judge = Paths { asked: asked.clone() };
        let server = AdmissionServer::bind(&config, Certificate::Managed(managed), judge, metrics)?;
        let address = server.local_address();
        let url = format!("https://{address}/validate");
        let object = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": configuration},
            "webhooks": [{
                "name": "routes.headwater.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": failure_policy, "timeoutSeconds": 5, "clientConfig": {"url": url},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [{"operations": ["*"], "apiGroups": ["networking.k8s.io"], "apiVersions": ["v1"],
                    "resources": ["ingresses", "ingresses/status"]}],
            }],
        });
        cluster.create(CONFIGURATIONS, &object).await?;
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(server.serve(async {
            let _ = stopped.await;
        }));
        let stop = Some(stop);
        let webhook =
            Self { cluster, server: api, address, namespace, configuration, asked, _leading: leading, stop, served };
        webhook.believed().await?;
        Ok(webhook)
    }

    /// Waits until the API server asks, and believes the answer.
    async fn believed(&self) -> Result<()> {
        wait::eventually(KNOWN, || async {
            let output = self.apply(&self.ingress("probe", "/refused", "web"), &["--dry-run=server"]).await?;
            Ok((!output.success && output.stderr.contains("is refused")).then_some(()))
        })
        .await
    }

    fn ingress(&self, name: &str, path: &str, service: &str) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"rules": [{"host": "a.test", "http": {"paths": [{"path": path, "pathType": "Prefix",
                "backend": {"service": {"name": service, "port": {"number": 80}}}}]}}]},
        })
    }

    fn collection(&self) -> String {
        format!("/apis/networking.k8s.io/v1/namespaces/{}/ingresses", self.namespace)
    }

    async fn apply(&self, object: &Value, arguments: &[&str]) -> Result<headwater_testkit::cluster::Output> {
        self.cluster.try_apply(&object.to_string(), arguments).await
    }

    async fn bundle(&self) -> Result<String> {
        let path = format!("{CONFIGURATIONS}/{}", self.configuration);
        let configuration = self.cluster.get(&path).await?;
        Ok(configuration["webhooks"][0]["clientConfig"]["caBundle"].as_str().unwrap_or_default().to_owned())
    }

    /// Keeps the file what the configuration names, as an API server knows it by its watch.
    async fn follow(&self, file: &Path) -> Result<()> {
        let mut watch = self.server.watch_ca_bundles(&self.configuration);
        loop {
            let named = watch.next().await?.context("the configuration is there")?;
            let next = file.with_extension("next");
            std::fs::write(&next, &named.webhooks[0].1)?;
            std::fs::rename(&next, file)?;
        }
    }

    async fn stop(&mut self) -> Result<()> {
        self.stop.take().context("stopped once")?.send(()).ok().context("it serves")?;
        Ok((&mut self.served).await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_refusals_by_field_and_warnings() -> Result<()> {
    let webhook = Webhook::start("shown", "Fail", Lives::default()).await?;
    let refused = webhook.apply(&webhook.ingress("one", "/refused", "web"), &[]).await?;
    ensure!(!refused.success, "{}", refused.stdout);
    let said = "spec.rules[0].http.paths[0].path: path \"/refused\" is refused (mend: choose another)";
    ensure!(refused.stderr.contains(said) && refused.stderr.contains("Ingress"), "{}", refused.stderr);
    ensure!(webhook.cluster.find(&format!("{}/one", webhook.collection())).await?.is_none());

    let warned = webhook.apply(&webhook.ingress("one", "/", "later"), &["--dry-run=server"]).await?;
    let warning = format!("Warning: Ingress {}/one: Service later does not exist", webhook.namespace);
    ensure!(warned.success && warned.stderr.contains(&warning), "{}{}", warned.stdout, warned.stderr);
    ensure!(webhook.cluster.find(&format!("{}/one", webhook.collection())).await?.is_none(), "it was a dry run");
    let stored = webhook.apply(&webhook.ingress("one", "/", "later"), &[]).await?;
    ensure!(stored.success && stored.stderr.contains(&warning), "{}{}", stored.stdout, stored.stderr);

    let fine = webhook.apply(&webhook.ingress("two", "/", "web"), &[]).await?;
    ensure!(fine.success && !fine.stderr.contains("Warning"), "{}", fine.stderr);
    let mut unnamed = webhook.ingress("", "/", "web");
    unnamed["metadata"] = json!({"generateName": "made-", "namespace": webhook.namespace});
    let made = webhook.cluster.create(&webhook.collection(), &unnamed).await?;
    ensure!(made["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("made-")), "{made}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_already_can_be_labelled_given_a_status_and_deleted() -> Result<()> {
    let mut webhook = Webhook::start("broken", "Ignore", Lives::default()).await?;
    // Stored while nobody answers, which failurePolicy Ignore allows.
    webhook.stop().await?;
    let mut broken = webhook.ingress("one", "/refused", "web");
    broken["metadata"]["finalizers"] = json!(["example.com/wait"]);
    let stored = webhook.apply(&broken, &[]).await?;
    ensure!(stored.success, "{}", stored.stderr);

    let mut again = Webhook::start("broken", "Fail", Lives::default()).await?;
    // The second webhook looks at the first one's namespace.
    let path = format!("{CONFIGURATIONS}/{}", again.configuration);
    let mut configuration = again.cluster.get(&path).await?;
    configuration["webhooks"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] =
        webhook.namespace.as_str().into();
    again.cluster.replace(&path, &configuration).await?;
    again.namespace.clone_from(&webhook.namespace);
    again.believed().await?;

    let one = format!("{}/one", again.collection());
    let labelled = ["-n", &again.namespace, "label", "ingress", "one", "a=b"];
    let labelled = again.cluster.kubectl(&labelled).await?;
    ensure!(labelled.stderr.contains("Warning: ") && labelled.stderr.contains("is refused"), "{}", labelled.stderr);
    let before = again.asked.load(Ordering::Relaxed);
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    again.cluster.merge(&format!("{one}/status"), &status).await?;
    ensure!(again.asked.load(Ordering::Relaxed) == before, "a status is not judged");
    let mut worse = json!({"spec": again.ingress("one", "/refused", "web")["spec"]});
    let twice = worse["spec"]["rules"][0].clone();
    worse["spec"]["rules"].as_array_mut().context("rules")?.push(twice);
    ensure!(again.cluster.merge(&one, &worse).await.is_err(), "one fault more is refused");
    again.cluster.delete(&one).await?;
    // Being deleted, whatever it looks like.
    again.cluster.merge(&one, &json!({"metadata": {"finalizers": null}})).await?;
    ensure!(again.cluster.find(&one).await?.is_none(), "it is gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_stores_or_refuses_as_the_configuration_says() -> Result<()> {
    let mut open = Webhook::start("open", "Ignore", Lives::default()).await?;
    let mut closed = Webhook::start("closed", "Fail", Lives::default()).await?;
    open.stop().await?;
    closed.stop().await?;
    let stored = open.apply(&open.ingress("one", "/refused", "web"), &[]).await?;
    ensure!(stored.success, "{}", stored.stderr);
    let refused = closed.apply(&closed.ingress("one", "/", "web"), &[]).await?;
    ensure!(!refused.success && refused.stderr.contains("failed calling webhook"), "{}", refused.stderr);
    Ok(())
}

/// One handshake with a server that must be believed by the authorities in the file.
fn shake_hands(address: SocketAddr, authorities: &Path) -> Result<()> {
    let output = Command::new("openssl")
        .args(["s_client", "-verify_return_error", "-verify_ip", "127.0.0.1", "-connect", &address.to_string()])
        .args(["-CAfile".as_ref(), authorities.as_os_str()])
        .stdin(Stdio::null())
        .output()
        .context("openssl")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_under_load_without_a_failed_review() -> Result<()> {
    // Certificates of seconds: the authority is replaced after 24 s, the serving certificate after 16 s.
    let lives = Lives {
        authority: jiff::SignedDuration::from_secs(36),
        serving: jiff::SignedDuration::from_secs(24),
        backdated: jiff::SignedDuration::ZERO,
        settle: jiff::SignedDuration::from_secs(3),
        old_kept: jiff::SignedDuration::from_secs(3),
    };
    let webhook = Arc::new(Webhook::start("rotated", "Fail", lives).await?);
    let first = webhook.bundle().await?;
    let done = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|number| {
            let (webhook, done) = (webhook.clone(), done.clone());
            tokio::spawn(async move {
                let object = webhook.ingress(&format!("load-{number}"), "/", "web");
                let path = format!("{}?dryRun=All", webhook.collection());
                let mut reviews = 0;
                while !done.load(Ordering::Relaxed) {
                    webhook.cluster.create(&path, &object).await?;
                    reviews += 1;
                }
                anyhow::Ok(reviews)
            })
        })
        .collect();
    // An API server keeps its connections; this client believes the same authorities and makes a new one each time.
    let file = webhook.cluster.dir().join("rotated.pem");
    let follower = {
        let (webhook, file) = (webhook.clone(), file.clone());
        tokio::spawn(async move { webhook.follow(&file).await })
    };
    wait::eventually(KNOWN, || std::future::ready(Ok(file.exists().then_some(())))).await?;
    let handshakes = {
        let (address, done) = (webhook.address, done.clone());
        tokio::task::spawn_blocking(move || {
            let mut handshakes = 0;
            while !done.load(Ordering::Relaxed) {
                shake_hands(address, &file)?;
                handshakes += 1;
            }
            anyhow::Ok(handshakes)
        })
    };
    // A whole turn: one authority is named again, and it is another one. In between there were two.
    let turned = wait::eventually(Duration::from_secs(90), || async {
        let bundle = webhook.bundle().await?;
        Ok((bundle != first && bundle.len() < first.len() * 3 / 2).then_some(()))
    });
    let turned = turned.await;
    done.store(true, Ordering::Relaxed);
    let mut reviews = 0;
    for worker in load {
        reviews += worker.await?.context("a review under load")?;
    }
    let handshakes = handshakes.await?.context("a new connection")?;
    ensure!(!follower.is_finished(), "the configuration was watched");
    follower.abort();
    turned?;
    ensure!(handshakes > 100, "{handshakes} connections are no load");
    ensure!(reviews > 100, "{reviews} reviews are no load");
    ensure!(webhook.asked.load(Ordering::Relaxed) >= reviews, "every request was reviewed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoilt_secret_and_a_bundle_that_somebody_emptied_are_mended() -> Result<()> {
    let webhook = Webhook::start("mended", "Fail", Lives::default()).await?;
    let bundle = webhook.bundle().await?;
    let secret = format!("/api/v1/namespaces/{}/secrets/webhook", webhook.namespace);
    let content = webhook.cluster.get(&secret).await?["data"].clone();
    let mended = || {
        wait::eventually(KNOWN, || async {
            let secret = webhook.cluster.find(&secret).await?.map(|secret| secret["data"].clone());
            Ok((secret.as_ref() == Some(&content) && webhook.bundle().await? == bundle).then_some(()))
        })
    };
    webhook.cluster.merge(&secret, &json!({"data": {"tls.key": "aHVzaA=="}})).await?;
    mended().await.context("a key that is none")?;
    webhook.cluster.delete(&secret).await?;
    mended().await.context("a Secret that is gone")?;
    let path = format!("{CONFIGURATIONS}/{}", webhook.configuration);
    let mut configuration = webhook.cluster.get(&path).await?;
    configuration["webhooks"][0]["clientConfig"]["caBundle"] = Value::Null;
    webhook.cluster.replace(&path, &configuration).await?;
    mended().await.context("a bundle that is empty")?;
    webhook.believed().await
}
