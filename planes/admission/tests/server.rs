//! The webhook on real sockets.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use headwater_admission::{
    AdmissionConfig, AdmissionError, AdmissionMetrics, AdmissionServer, Candidate, Certificate, Judge,
};
use headwater_model::finding::Finding;
use headwater_process::metrics::Registry;
use headwater_testkit::certs::{Authority, Leaf};
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::{Dial, Tls};
use headwater_testkit::{http2, wait};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

const NAME: &str = "headwater.edge.svc";

/// Refuses every object, once it is told to answer.
struct Refuses {
    answers: watch::Receiver<bool>,
    asked: Arc<AtomicU32>,
}

impl Judge for Refuses {
    async fn judge(&self, candidate: Candidate) -> Vec<Finding> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.answers.clone().wait_for(|answers| *answers).await.unwrap();
        vec![Finding::error("InvalidValue", candidate.key(), "no")]
    }
}

/// A webhook on a runtime of its own.
struct Webhook {
    address: SocketAddr,
    registry: Registry,
    answers: watch::Sender<bool>,
    asked: Arc<AtomicU32>,
    directory: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    served: Option<tokio::task::JoinHandle<()>>,
    runtime: tokio::runtime::Runtime,
}

fn write(directory: &Path, leaf: &Leaf) {
    std::fs::write(directory.join("tls.crt"), &leaf.cert_pem).unwrap();
    std::fs::write(directory.join("tls.key"), &leaf.key_pem).unwrap();
}

impl Webhook {
    fn start(authority: &Authority, clients: Option<PathBuf>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &authority.leaf(&[NAME]).unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let registry = Registry::new();
        let (answers, told) = watch::channel(true);
        let asked = Arc::new(AtomicU32::new(0));
        let judge = Refuses { answers: told, asked: asked.clone() };
        let config = AdmissionConfig {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            client_authorities: clients,
            judge_time: Duration::from_secs(20),
            ..AdmissionConfig::default()
        };
        let metrics = AdmissionMetrics::register(&registry);
        let certificate = Certificate::Given(directory.path().to_owned());
        let _entered = runtime.enter();
        let server = AdmissionServer::bind(&config, certificate, judge, metrics).unwrap();
        let address = server.local_address();
        let ready = server.ready();
        let (stop, stopped) = oneshot::channel();
        let served = runtime.spawn(server.serve(async {
            let _ = stopped.await;
        }));
        wait::until(wait::DEADLINE, || ready().is_ok()).unwrap();
        let (stop, served) = (Some(stop), Some(served));
        drop(_entered);
        Self { address, registry, answers, asked, directory, stop, served, runtime }
    }

    fn dial(&self, tls: Tls) -> Dial {
        Dial::to(self.address).tls(tls)
    }

    fn metric(&self, line: &str) -> bool {
        self.registry.encode().lines().any(|found| found == line)
    }
}

fn review() -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u", "operation": "CREATE",
        "object": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "b"}}}})
}

fn post(path: &str, content_type: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn reviews_are_answered_over_both_versions_of_http_and_what_is_none_is_refused() {
    let authority = Authority::new("test").unwrap();
    let webhook = Webhook::start(&authority, None);
    let body = review().to_string();
    let request = http2::Request::post(NAME, "/validate", body.as_bytes()).header("content-type", "application/json");
    let response = http2::request(&webhook.dial(Tls::new(NAME).alpn(&["h2"])), request).unwrap();
    assert_eq!(response.status, 200);
    let answer: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(answer["response"]["status"]["message"], "headwater refuses ConfigMap b/a: no");

    let mut client = RawClient::open(&webhook.dial(Tls::new(NAME))).unwrap();
    for (request, status) in [
        (post("/validate", "application/json; charset=utf-8", &body), 200),
        (post("/validate?timeout=5s", "application/json", &body), 200),
        (post("/validate", "application/json", "{}"), 400),
        (post("/validate", "application/yaml", &body), 415),
        (post("/", "application/json", &body), 404),
        (format!("GET /validate HTTP/1.1\r\nHost: {NAME}\r\n\r\n"), 405),
    ] {
        assert_eq!(client.request(&request).unwrap().status, status, "{request}");
    }
    let large = format!(
        "POST /validate HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        4 << 20
    );
    assert_eq!(RawClient::open(&webhook.dial(Tls::new(NAME))).unwrap().request(&large).unwrap().status, 413);
    assert!(webhook.metric("headwater_admission_reviews_total{verdict=\"denied\"} 3"), "{}", webhook.registry.encode());
    assert!(
        webhook.metric("headwater_admission_reviews_total{verdict=\"refused\"} 5"),
        "{}",
        webhook.registry.encode()
    );
}

#[test]
fn only_clients_of_the_named_authority_are_answered() {
    let (servers, clients) = (Authority::new("servers").unwrap(), Authority::new("clients").unwrap());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), clients.pem()).unwrap();
    let webhook = Webhook::start(&servers, Some(file.path().to_owned()));
    let request = post("/validate", "application/json", &review().to_string());
    let ask = |tls: Tls| RawClient::open(&webhook.dial(tls)).and_then(|mut client| client.request(&request));
    let ours = Arc::new(clients.leaf(&["kube-apiserver"]).unwrap());
    let foreign = Arc::new(servers.leaf(&["kube-apiserver"]).unwrap());
    assert_eq!(ask(Tls::new(NAME).certificate(ours)).unwrap().status, 200);
    assert!(ask(Tls::new(NAME).certificate(foreign)).is_err());
    assert!(ask(Tls::new(NAME)).is_err());
}

#[test]
fn a_new_certificate_is_served_to_new_connections_and_old_ones_go_on() {
    let authority = Authority::new("test").unwrap();
    let webhook = Webhook::start(&authority, None);
    let request = post("/validate", "application/json", &review().to_string());
    let mut old = RawClient::open(&webhook.dial(Tls::new(NAME))).unwrap();
    assert_eq!(old.request(&request).unwrap().status, 200);
    let renewed = authority.leaf(&[NAME]).unwrap();
    write(webhook.directory.path(), &renewed);
    wait::until(Duration::from_secs(30), || {
        let client = RawClient::open(&webhook.dial(Tls::new(NAME))).unwrap();
        client.stream().leaf().as_deref() == Some(&renewed.cert_der)
    })
    .unwrap();
    assert_eq!(old.request(&request).unwrap().status, 200);
    assert!(!webhook.metric("headwater_admission_certificate_end_timestamp_seconds 0"));
}

#[test]
fn more_reviews_than_turns_are_asked_to_wait() {
    let authority = Authority::new("test").unwrap();
    let webhook = Webhook::start(&authority, None);
    webhook.answers.send_replace(false);
    let request = post("/validate", "application/json", &review().to_string());
    let mut waiting: Vec<RawClient> = (0..32)
        .map(|_| {
            let mut client = RawClient::open(&webhook.dial(Tls::new(NAME))).unwrap();
            client.send(&request).unwrap();
            client
        })
        .collect();
    // One of 33 at least finds no turn, in whatever order they came.
    let mut last = RawClient::open(&webhook.dial(Tls::new(NAME))).unwrap();
    last.send(&request).unwrap();
    waiting.push(last);
    let busy = "headwater_admission_reviews_total{verdict=\"busy\"} 1";
    wait::until(wait::DEADLINE, || webhook.metric(busy)).unwrap();
    webhook.answers.send_replace(true);
    let mut answers: Vec<_> = waiting.iter_mut().map(|client| client.read_response().unwrap()).collect();
    answers.sort_by_key(|answer| answer.status);
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [vec![200; 32], vec![429]].concat());
    assert_eq!(answers[32].header("retry-after"), Some("1".to_owned()));
}

#[test]
fn a_review_under_way_is_answered_when_the_webhook_stops() {
    let authority = Authority::new("test").unwrap();
    let mut webhook = Webhook::start(&authority, None);
    webhook.answers.send_replace(false);
    let mut client = RawClient::open(&webhook.dial(Tls::new(NAME))).unwrap();
    client.send(post("/validate", "application/json", &review().to_string())).unwrap();
    wait::until(wait::DEADLINE, || webhook.asked.load(Ordering::Relaxed) == 1).unwrap();
    webhook.stop.take().unwrap().send(()).unwrap();
    wait::until(wait::DEADLINE, || std::net::TcpStream::connect(webhook.address).is_err()).unwrap();
    webhook.answers.send_replace(true);
    assert_eq!(client.read_response().unwrap().status, 200);
    drop(client);
    let served = webhook.served.take().unwrap();
    let ended = async { tokio::time::timeout(wait::DEADLINE, served).await };
    webhook.runtime.block_on(ended).unwrap().unwrap();
}

#[tokio::test]
async fn what_cannot_be_served_is_told_before_anything_is() {
    let directory = tempfile::tempdir().unwrap();
    let config = AdmissionConfig { address: (Ipv4Addr::LOCALHOST, 0).into(), ..AdmissionConfig::default() };
    let bind = |config: &AdmissionConfig| {
        let certificate = Certificate::Given(directory.path().to_owned());
        let metrics = AdmissionMetrics::register(&Registry::new());
        let judge = Refuses { answers: watch::channel(true).1, asked: Arc::default() };
        AdmissionServer::bind(config, certificate, judge, metrics).err()
    };
    assert!(matches!(bind(&config), Some(AdmissionError::Certificate(_))));
    write(directory.path(), &Authority::new("test").unwrap().leaf(&[NAME]).unwrap());
    assert!(bind(&config).is_none());
    let nobody = AdmissionConfig { client_authorities: Some(directory.path().join("ca.crt")), ..config.clone() };
    assert!(matches!(bind(&nobody), Some(AdmissionError::ClientAuthorities(_))));
    let other = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = AdmissionConfig { address: other.local_addr().unwrap(), ..config };
    assert!(matches!(bind(&taken), Some(AdmissionError::Listen(_))));
}
