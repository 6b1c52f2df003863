//! An API server as a source, against a server that does what servers do at their worst.

#![allow(clippy::unwrap_used, reason = "test code")]

mod fake_api;

use std::collections::BTreeSet;
use std::time::Duration;

use fake_api::{FakeApi, Fault, INGRESSES, NAMESPACES, NODES, SECRETS, SERVICES, SETTINGS, SLICES};
use headwater_kube_io::{ApiServerSource, Batch, Health, Selection, WatchState};
use headwater_model::cluster::{Change, Cluster};
use headwater_model::finding::Severity;
use headwater_model::origin::{Kind, ObjectKey};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

fn class(name: &str) -> Value {
    json!({ "spec": { "ingressClassName": name } })
}

fn ingresses() -> Selection {
    Selection { kinds: vec![Kind::Ingress], ..Selection::default() }
}

/// A source and all that it told.
struct Told {
    source: ApiServerSource,
    cluster: Cluster,
    batches: Vec<Batch>,
}

impl Told {
    async fn start(fake: &FakeApi, selection: Selection) -> Self {
        let source = ApiServerSource::start(&fake.connect().await, selection);
        Self { source, cluster: Cluster::default(), batches: Vec::new() }
    }

    async fn next(&mut self) -> &Batch {
        let batch = timeout(Duration::from_secs(20), self.source.next()).await.expect("the source tells something");
        for change in &batch.changes {
            self.cluster.apply(change);
        }
        self.batches.push(batch);
        self.batches.last().unwrap()
    }

    /// Takes batches until the ingresses are these: `shop/web headwater`.
    async fn until(&mut self, expected: &[&str]) {
        while self.ingresses() != expected {
            self.next().await;
        }
    }

    fn ingresses(&self) -> Vec<String> {
        let class = |class: &Option<String>| class.clone().unwrap_or_default();
        self.cluster.ingresses.iter().map(|(id, i)| format!("{id} {}", class(&i.spec.ingress_class_name))).collect()
    }

    fn reasons(&self) -> Vec<&'static str> {
        self.batches.last().map(|batch| batch.findings.iter().map(|f| f.reason).collect()).unwrap_or_default()
    }

    /// Waits until the health is so; the source need not be asked meanwhile.
    async fn health(&mut self, is: impl Fn(&Health) -> bool) -> Health {
        let mut health = self.source.health();
        let seen = timeout(Duration::from_secs(20), health.wait_for(|health| is(health))).await;
        seen.expect("the health comes about").unwrap().clone()
    }

    /// Nothing is told, even after the watch has heard all there was: a change that is told marks the end.
    async fn tells_only(&mut self, fake: &FakeApi) {
        fake.put(INGRESSES, "zzz", "marker", class(""));
        let batch = self.next().await.clone();
        assert_eq!(
            batch.changes.iter().map(|change| change.key().to_string()).collect::<Vec<_>>(),
            ["Ingress zzz/marker"]
        );
        fake.delete(INGRESSES, "zzz", "marker");
        self.next().await;
    }
}

fn keys(batch: &Batch) -> Vec<String> {
    let sign = |change: &Change| if matches!(change, Change::Set(_)) { '+' } else { '-' };
    batch.changes.iter().map(|change| format!("{}{}", sign(change), change.key().id)).collect()
}

#[tokio::test]
async fn the_first_batch_is_everything_and_changes_follow() {
    let fake = FakeApi::start().await;
    fake.put(INGRESSES, "a", "x", class("1"));
    fake.put(INGRESSES, "b", "x", class("1"));
    fake.put(SETTINGS, "a", "s", json!({}));
    let selection = Selection { kinds: vec![Kind::Ingress, Kind::GatewaySettings], ..Selection::default() };
    let mut told = Told::start(&fake, selection).await;
    assert_eq!(keys(told.next().await), ["+a/x", "+b/x", "+a/s"]);
    assert!(told.health(|health| health.started).await.watches.iter().all(|watch| watch.state == WatchState::Watching));
    fake.put(INGRESSES, "a", "y", class("1"));
    told.until(&["a/x 1", "a/y 1", "b/x 1"]).await;
    fake.put(INGRESSES, "a", "y", class("2"));
    told.until(&["a/x 1", "a/y 2", "b/x 1"]).await;
    fake.delete(INGRESSES, "b", "x");
    told.until(&["a/x 1", "a/y 2"]).await;
    assert_eq!(fake.asked(|asked| asked.path == INGRESSES), 1, "one request lists and watches");
}

#[tokio::test]
async fn an_empty_cluster_yields_an_empty_batch() {
    let fake = FakeApi::start().await;
    let mut told = Told::start(&fake, ingresses()).await;
    assert_eq!(*told.next().await, Batch::default());
}

#[tokio::test]
async fn a_server_that_cannot_stream_lists_is_read_in_pages() {
    let fake = FakeApi::start().await;
    fake.state().streams_lists = false;
    for i in 0..1203 {
        fake.put_quietly(INGRESSES, "a", &format!("x{i:04}"), class("1"));
    }
    let mut told = Told::start(&fake, ingresses()).await;
    assert_eq!(told.next().await.changes.len(), 1203);
    assert_eq!(fake.asked(|asked| asked.query.get("limit").is_some_and(|limit| limit == "500")), 3);
    fake.delete(INGRESSES, "a", "x0777");
    assert_eq!(keys(told.next().await), ["-a/x0777"]);
    // What is known of the server holds for the next list too.
    fake.compact();
    fake.was_asked("a fourth page", |asked| asked.query.contains_key("continue")).await;
    told.tells_only(&fake).await;
    assert_eq!(fake.asked(|asked| asked.query.contains_key("sendInitialEvents")), 1);
}

#[tokio::test]
async fn a_new_list_after_410_swaps_in_whole() {
    for streams_lists in [true, false] {
        let fake = FakeApi::start().await;
        fake.state().streams_lists = streams_lists;
        fake.put(INGRESSES, "a", "stays", class("1"));
        fake.put(INGRESSES, "a", "goes", class("1"));
        fake.put(INGRESSES, "a", "changes", class("1"));
        let mut told = Told::start(&fake, ingresses()).await;
        told.next().await;
        fake.state().down = true;
        fake.cut();
        told.health(Health::is_stale).await;
        fake.delete(INGRESSES, "a", "goes");
        fake.put(INGRESSES, "a", "changes", class("2"));
        fake.put(INGRESSES, "a", "comes", class("1"));
        fake.compact();
        fake.set_down(false);
        assert_eq!(keys(told.next().await), ["+a/changes", "+a/comes", "-a/goes"]);
        let health = told.health(|health| !health.is_stale()).await;
        assert_eq!(health.totals.relists.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn what_changed_while_the_server_was_away_is_followed_without_a_new_list() {
    let fake = FakeApi::start().await;
    fake.put(INGRESSES, "a", "x", class("1"));
    let mut told = Told::start(&fake, ingresses()).await;
    told.next().await;
    fake.set_down(true);
    let health = told.health(Health::is_stale).await;
    assert!(health.started && health.watches[0].listed);
    fake.put(INGRESSES, "a", "x", class("2"));
    fake.set_down(false);
    told.until(&["a/x 2"]).await;
    let health = told.health(|health| !health.is_stale()).await;
    assert_eq!(health.watches[0].state, WatchState::Watching);
    assert_eq!(health.totals.relists.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_list_that_breaks_off_shows_nothing_of_itself() {
    let fake = FakeApi::start().await;
    for name in ["x", "y", "z"] {
        fake.put(INGRESSES, "a", name, class("1"));
    }
    fake.fault(INGRESSES, Fault::CutListAfter(2));
    let mut told = Told::start(&fake, ingresses()).await;
    assert_eq!(keys(told.next().await), ["+a/x", "+a/y", "+a/z"]);
}

#[tokio::test]
async fn whatever_the_server_answers_the_last_good_objects_stay_until_it_answers_well() {
    let faults = [
        Fault::Answer(500, "", "internal".to_owned()),
        Fault::Answer(503, "", String::new()),
        Fault::Answer(401, "", String::new()),
        Fault::Answer(403, "", String::new()),
        Fault::Answer(404, "", String::new()),
        Fault::Answer(400, "", String::new()),
        Fault::Garbage("<html>not an API server</html>\n"),
        Fault::Garbage("{\"type\":\"ADDED\",\"object\":{\"metadata\":{}}}\n"),
        Fault::Garbage("{\"type\":\"NEVER\",\"object\":{}}\n"),
        Fault::Garbage("{\"type\":\"ERROR\",\"object\":{\"code\":500}}\n"),
        Fault::Garbage("\u{0}"),
        Fault::Garbage(""),
    ];
    let outages = faults.map(async |fault| {
        let fake = FakeApi::start().await;
        fake.put(INGRESSES, "a", "x", class("1"));
        let mut told = Told::start(&fake, ingresses()).await;
        told.next().await;
        fake.fault(INGRESSES, fault.clone());
        fake.cut();
        told.health(Health::is_stale).await;
        assert_eq!(told.ingresses(), ["a/x 1"], "{fault:?}");
        fake.put(INGRESSES, "a", "x", class("2"));
        told.until(&["a/x 2"]).await;
        told.health(|health| !health.is_stale()).await;
        assert!(fake.state().faults.is_empty(), "{fault:?} came to pass");
    });
    futures_util::future::join_all(outages).await;
}

#[tokio::test]
async fn a_busy_server_is_not_asked_before_the_time_it_names() {
    let fake = FakeApi::start().await;
    fake.put(INGRESSES, "a", "x", class("1"));
    fake.fault(INGRESSES, Fault::Answer(429, "Retry-After: 1\r\n", String::new()));
    let before = Instant::now();
    let mut told = Told::start(&fake, ingresses()).await;
    told.next().await;
    assert!(before.elapsed() >= Duration::from_secs(1), "{:?}", before.elapsed());
    assert_eq!(told.ingresses(), ["a/x 1"]);
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_empty_and_found_when_it_comes() {
    let fake = FakeApi::start().await;
    fake.state().not_installed.insert(SETTINGS);
    fake.put(INGRESSES, "a", "x", class("1"));
    let selection = Selection { kinds: vec![Kind::Ingress, Kind::GatewaySettings], ..Selection::default() };
    let mut told = Told::start(&fake, selection).await;
    told.next().await;
    assert_eq!((told.ingresses(), told.reasons()), (vec!["a/x 1".to_owned()], vec!["NotInstalled"]));
    assert_eq!(told.batches[0].findings[0].severity, Severity::Info);
    let is_absent = |health: &Health| health.watches.iter().any(|watch| watch.state == WatchState::NotInstalled);
    assert!(!told.health(is_absent).await.is_stale());

    fake.put(SETTINGS, "a", "s", json!({}));
    fake.state().not_installed.clear();
    assert_eq!(keys(told.next().await), ["+a/s"]);
    assert_eq!(told.reasons(), [""; 0]);

    fake.state().not_installed.insert(SETTINGS);
    fake.cut();
    assert_eq!(keys(told.next().await), ["-a/s"]);
    assert_eq!(told.reasons(), ["NotInstalled"]);
    assert_eq!(told.ingresses(), ["a/x 1"]);
}

#[tokio::test]
async fn a_token_that_is_refused_is_read_anew_from_its_file() {
    let fake = FakeApi::start().await;
    fake.state().token = Some("first".to_owned());
    fake.put(INGRESSES, "a", "x", class("1"));
    let mut told = Told::start(&fake, ingresses()).await;
    told.next().await;
    fake.state().token = Some("second".to_owned());
    fake.cut();
    let refused = |health: &Health| match &health.watches[0].state {
        WatchState::Stale { error, .. } => error.starts_with("401"),
        _ => false,
    };
    told.health(refused).await;
    std::fs::write(fake.token_file(), "second\n").unwrap();
    fake.put(INGRESSES, "a", "x", class("2"));
    told.until(&["a/x 2"]).await;
}

#[tokio::test]
async fn objects_asked_for_by_name_are_read_alone_and_dropped_when_nobody_asks() {
    let fake = FakeApi::start().await;
    let secret = |name: &str| ObjectKey::new(Kind::Secret, "a", name);
    for name in ["mine", "other", "unreadable"] {
        fake.put(SECRETS, "a", name, json!({ "data": {} }));
    }
    fake.state().forbidden.insert(format!("{SECRETS} unreadable"));
    let mut told = Told::start(&fake, ingresses()).await;
    told.next().await;
    let wanted: BTreeSet<ObjectKey> = ["mine", "missing", "unreadable"].map(secret).into();
    told.source.want(&wanted);
    assert_eq!(told.source.pending(), 3);
    while told.source.pending() > 0 {
        told.next().await;
    }
    let held = |told: &Told| told.cluster.secrets.keys().map(|id| id.name.to_string()).collect::<Vec<_>>();
    assert_eq!(held(&told), ["mine"]);
    let finding = &told.batches.last().unwrap().findings[0];
    assert_eq!((finding.reason, finding.object.as_ref()), ("Forbidden", Some(&secret("unreadable"))));
    assert!(finding.mend.contains("secrets"), "{finding}");
    assert!(!told.health(|_| true).await.is_stale());
    let of_secrets = |asked: &fake_api::Asked| asked.path == SECRETS;
    assert_eq!(fake.asked(|asked| of_secrets(asked) && (asked.namespace != "a" || asked.name().is_none())), 0);

    fake.put(SECRETS, "a", "missing", json!({ "data": { "k": "dg==" } }));
    while held(&told) != ["mine", "missing"] {
        told.next().await;
    }
    told.source.want(&["missing"].map(secret).into());
    assert_eq!(keys(told.next().await), ["-a/mine"]);
    assert_eq!(told.reasons(), [""; 0]);
    assert_eq!(told.health(|health| health.watches.len() == 2).await.watches[1].name.as_deref(), Some("missing"));
    fake.put(SECRETS, "a", "mine", json!({ "data": { "k": "dg==" } }));
    told.tells_only(&fake).await;
}

#[tokio::test]
async fn a_wanted_object_that_is_not_there_ends_the_waiting_with_a_batch() {
    let fake = FakeApi::start().await;
    let mut told = Told::start(&fake, ingresses()).await;
    told.next().await;
    told.source.want(&[ObjectKey::new(Kind::Secret, "a", "none")].into());
    assert_eq!(*told.next().await, Batch::default());
    assert_eq!(told.source.pending(), 0);
}

#[tokio::test]
async fn hundreds_of_objects_are_read_by_name() {
    let fake = FakeApi::start().await;
    let wanted: BTreeSet<ObjectKey> = (0..300).map(|i| ObjectKey::new(Kind::Secret, "a", format!("s{i:03}"))).collect();
    for key in &wanted {
        fake.put_quietly(SECRETS, "a", &key.id.name, json!({}));
    }
    let mut told = Told::start(&fake, ingresses()).await;
    told.next().await;
    told.source.want(&wanted);
    while told.source.pending() > 0 {
        told.next().await;
    }
    assert_eq!(told.cluster.secrets.len(), 300);
    // All of them are followed at once.
    fake.put(SECRETS, "a", "s299", json!({ "data": { "k": "dg==" } }));
    assert_eq!(keys(told.next().await), ["+a/s299"]);
    told.source.want(&BTreeSet::new());
    assert_eq!(told.next().await.changes.len(), 300);
}

#[tokio::test]
async fn each_watched_namespace_has_a_watch_of_its_own() {
    let fake = FakeApi::start().await;
    for namespace in ["a", "b", "c"] {
        fake.put(INGRESSES, namespace, "x", class("1"));
    }
    let namespaces = vec!["a".to_owned(), "c".to_owned(), "a".to_owned()];
    let mut told = Told::start(&fake, Selection { namespaces, ..ingresses() }).await;
    assert_eq!(keys(told.next().await), ["+a/x", "+c/x"]);
    assert_eq!(fake.asked(|asked| asked.namespace.is_empty()), 0);
    assert_eq!(fake.asked(|_| true), 2);
}

#[tokio::test]
async fn objects_count_while_the_labels_of_their_namespace_are_selected() {
    let fake = FakeApi::start().await;
    let label = |team: &str| json!({ "labels": { "team": team } });
    fake.put(NAMESPACES, "", "a", label("web"));
    fake.put(NAMESPACES, "", "b", label("other"));
    fake.put(INGRESSES, "a", "x", class("1"));
    fake.put(INGRESSES, "b", "x", class("1"));
    fake.put(INGRESSES, "own", "x", class("1"));
    let namespace_selector = Some("team=web".to_owned());
    let selection = Selection { namespace_selector, always: vec!["own".to_owned()], ..ingresses() };
    let mut told = Told::start(&fake, selection).await;
    assert_eq!(keys(told.next().await), ["+a/x", "+own/x"]);
    fake.put(NAMESPACES, "", "c", label("web"));
    fake.put(INGRESSES, "c", "x", class("1"));
    told.until(&["a/x 1", "c/x 1", "own/x 1"]).await;
    fake.delete(NAMESPACES, "", "a");
    told.until(&["c/x 1", "own/x 1"]).await;
}

#[tokio::test]
async fn a_broken_object_is_named_and_stops_no_other() {
    let fake = FakeApi::start().await;
    fake.put(INGRESSES, "a", "x", class("1"));
    fake.put(INGRESSES, "a", "y", json!({ "spec": { "rules": [{ "host": 7 }] } }));
    let mut told = Told::start(&fake, ingresses()).await;
    told.next().await;
    assert_eq!((told.ingresses(), told.reasons()), (vec!["a/x 1".to_owned()], vec!["InvalidObject"]));
    assert_eq!(told.batches[0].findings[0].field, "spec.rules[0].host");
    fake.put(INGRESSES, "a", "x", json!({ "spec": { "rules": "none" } }));
    told.next().await;
    assert_eq!((told.ingresses(), told.reasons()), (vec!["a/x 1".to_owned()], vec!["InvalidObject"; 2]));
    fake.put(INGRESSES, "a", "y", class("1"));
    told.until(&["a/x 1", "a/y 1"]).await;
    fake.delete(INGRESSES, "a", "x");
    told.until(&["a/y 1"]).await;
    assert_eq!(told.reasons(), [""; 0]);
}

#[tokio::test]
async fn what_nobody_reads_of_an_object_makes_no_batch() {
    let fake = FakeApi::start().await;
    fake.put(INGRESSES, "a", "x", class("1"));
    let mut told = Told::start(&fake, ingresses()).await;
    told.next().await;
    let mut object = class("1");
    object["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } });
    fake.put(INGRESSES, "a", "x", object);
    told.tells_only(&fake).await;
}

#[tokio::test]
async fn a_node_reads_no_headless_service_and_none_of_another_proxy() {
    let fake = FakeApi::start().await;
    let label = |name: &str| json!({ "labels": { name: "" }, "addressType": "IPv4" });
    for (name, label) in [
        ("a", label("team")),
        ("b", label("service.kubernetes.io/headless")),
        ("c", label("service.kubernetes.io/service-proxy-name")),
    ] {
        fake.put(SERVICES, "n", name, label.clone());
        fake.put(SLICES, "n", name, label);
    }
    fake.put(NODES, "", "node-1", label("service.kubernetes.io/headless"));
    fake.put(INGRESSES, "n", "x", class("1"));
    let mut told = Told::start(&fake, Selection::of_node()).await;
    let read: Vec<String> = told.next().await.changes.iter().map(|change| change.key().to_string()).collect();
    assert_eq!(read, ["Service n/a", "EndpointSlice n/a", "Node node-1"]);
}

#[tokio::test]
async fn a_node_is_told_of_statuses_and_hints_but_not_of_heartbeats() {
    let fake = FakeApi::start().await;
    let node = |nth: u32, address: &str| {
        json!({ "status": { "addresses": [{ "type": "InternalIP", "address": address }],
                            "conditions": [{ "type": "Ready", "lastHeartbeatTime": nth }] } })
    };
    let service = |address: &str| json!({ "status": { "loadBalancer": { "ingress": [{ "ip": address }] } } });
    let slice = |zone: &str| {
        json!({ "addressType": "IPv4",
                "endpoints": [{ "addresses": ["10.0.0.1"], "hints": { "forZones": [{ "name": zone }] } }] })
    };
    fake.put(NODES, "", "node-1", node(0, "192.0.2.1"));
    fake.put(SERVICES, "n", "a", service("198.51.100.1"));
    fake.put(SLICES, "n", "a", slice("z1"));
    let mut told = Told::start(&fake, Selection::of_node()).await;
    assert_eq!(told.next().await.changes.len(), 3);
    for nth in 1..50 {
        fake.put(NODES, "", "node-1", node(nth, "192.0.2.1"));
    }
    // One watch tells in order: what comes first is the change that counts.
    for (collection, name, object, key) in [
        (NODES, "node-1", node(50, "192.0.2.2"), "Node node-1"),
        (SERVICES, "a", service("198.51.100.2"), "Service n/a"),
        (SLICES, "a", slice("z2"), "EndpointSlice n/a"),
    ] {
        fake.put(collection, if collection == NODES { "" } else { "n" }, name, object);
        let batch = told.next().await;
        assert_eq!(batch.changes.iter().map(|change| change.key().to_string()).collect::<Vec<_>>(), [key]);
    }
    let addresses = |told: &Told| told.cluster.nodes.values().next().unwrap().status.addresses[0].address.clone();
    assert_eq!(addresses(&told), "192.0.2.2");
    assert!(told.batches.iter().all(|batch| !batch.changes.is_empty()), "no batch for a heartbeat");
}

#[tokio::test]
async fn a_dropped_wait_loses_no_change() {
    let fake = FakeApi::start().await;
    fake.put(INGRESSES, "a", "x", class("0"));
    let mut told = Told::start(&fake, ingresses()).await;
    told.next().await;
    for round in 1..=50 {
        fake.put(INGRESSES, "a", "x", class(&round.to_string()));
        // Given up at every point there is.
        let _ = timeout(Duration::from_micros(round * 40), told.source.next()).await.map(|batch| {
            batch.changes.iter().for_each(|change| told.cluster.apply(change));
        });
    }
    told.until(&["a/x 50"]).await;
}
