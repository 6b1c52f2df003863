//! The writer against a server that remembers, refuses and stalls as told; time is paused.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use headwater_kube_io::GatewayLease;
use headwater_model::finding::Finding;
use headwater_model::report::GatewayReport;

use super::*;
use crate::status::address::parse_address;

type Answer = Result<(), ApiError>;

/// What the server is asked, and what it will answer.
#[derive(Default)]
struct Seen {
    writes: Vec<(Duration, ObjectKey, Value, bool)>,
    events: Vec<(EventNote, bool)>,
    answers: BTreeMap<ObjectKey, VecDeque<Answer>>,
    under_way: usize,
    most_under_way: usize,
    statuses: BTreeMap<ObjectKey, Value>,
}

#[derive(Clone)]
struct Server {
    seen: Arc<Mutex<Seen>>,
    start: Instant,
    takes: Duration,
}

impl Server {
    fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn writes(&self) -> Vec<(ObjectKey, Value, bool)> {
        self.seen(|seen| {
            seen.writes.iter().map(|(_, key, status, force)| (key.clone(), status.clone(), *force)).collect()
        })
    }

    fn answer(&self, key: &ObjectKey, answers: impl IntoIterator<Item = Answer>) {
        self.seen(|seen| seen.answers.insert(key.clone(), answers.into_iter().collect()));
    }
}

impl StatusServer for Server {
    async fn apply_status(&self, key: ObjectKey, status: Value, force: bool) -> Answer {
        self.seen(|seen| {
            seen.writes.push((self.start.elapsed(), key.clone(), status.clone(), force));
            seen.under_way += 1;
            seen.most_under_way = seen.most_under_way.max(seen.under_way);
        });
        tokio::time::sleep(self.takes).await;
        self.seen(|seen| {
            seen.under_way -= 1;
            let answer = seen.answers.get_mut(&key).and_then(VecDeque::pop_front).unwrap_or(Ok(()));
            if answer.is_ok() {
                seen.statuses.insert(key, status);
            }
            answer
        })
    }

    async fn record_event(&self, note: EventNote, _: Arc<str>, again: bool) -> Result<EventWritten, ApiError> {
        self.seen(|seen| seen.events.push((note, again)));
        Ok(EventWritten::New)
    }

    async fn uid(&self, key: ObjectKey) -> Result<Option<String>, ApiError> {
        Ok(Some(format!("uid of {key}")))
    }
}

struct Stand {
    server: Server,
    events: mpsc::Sender<StatusEvent>,
    leading: watch::Sender<bool>,
    deadline: watch::Sender<Option<Instant>>,
    counters: Arc<StatusCounters>,
    task: JoinHandle<()>,
}

impl Stand {
    fn start() -> Self {
        let server = Server { seen: Arc::default(), start: Instant::now(), takes: Duration::from_millis(10) };
        let (deadline, receiver) = watch::channel(None);
        let (leading, is_leading) = watch::channel(false);
        let (sender, events) = mpsc::channel(CHANGES);
        let counters = Arc::<StatusCounters>::default();
        let writer = Writer::new(server.clone(), WriteGuard::new(receiver), "pod", counters.clone());
        let task = tokio::spawn(writer.run(is_leading, events));
        Self { server, events: sender, leading, deadline, counters, task }
    }

    fn lead(&self) {
        self.deadline.send_replace(Some(Instant::now() + Duration::from_secs(100_000)));
        self.leading.send_replace(true);
    }

    fn depose(&self) {
        self.deadline.send_replace(None);
        self.leading.send_replace(false);
    }

    async fn tell(&self, event: StatusEvent) {
        self.events.send(event).await.unwrap();
    }

    async fn serve(&self, name: &str, taken_over: bool, observed: Observed) {
        let served = Some(ServedAs { taken_over, at: None });
        self.tell(StatusEvent::Ingress { id: id(name), served, observed: Some(observed) }).await;
    }

    /// Leads, everything was told, published on 192.0.2.1.
    async fn ready(&self) {
        self.tell(StatusEvent::Published(vec![address("192.0.2.1")])).await;
        self.tell(StatusEvent::Synced).await;
        self.lead();
    }

    /// Lets time pass, and all that happens in it happen.
    async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

fn id(name: &str) -> NamespacedName {
    NamespacedName::new("shop", name)
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::Ingress, id: id(name) }
}

fn address(text: &str) -> PublishedAddress {
    parse_address(text).unwrap()
}

fn shows(text: &str) -> Value {
    serde_json::json!({ "loadBalancer": { "ingress": [{ "ip": text }] } })
}

fn observed(addresses: &[&str], status_is_ours: bool) -> Observed {
    let addresses = addresses.iter().map(|text| address(text)).collect();
    Observed { uid: "1".into(), addresses, status_is_ours, ..Observed::default() }
}

fn unavailable() -> Answer {
    Err(ApiError::Unavailable { what: "w".to_owned(), why: "y".to_owned(), retry_after: None })
}

fn conflict() -> Answer {
    Err(ApiError::Conflict { what: "w".to_owned(), held_by: "nginx".to_owned() })
}

#[tokio::test(start_paused = true)]
async fn an_ingress_shows_where_the_gateways_are_reached_and_nothing_is_written_at_rest() {
    let stand = Stand::start();
    stand.serve("web", false, observed(&[], false)).await;
    stand.ready().await;
    stand.pass(1).await;
    assert_eq!(stand.server.writes(), [(key("web"), shows("192.0.2.1"), true)]);
    // The watch tells what was written, and then nothing happens for a day.
    stand.serve("web", false, observed(&["192.0.2.1"], true)).await;
    stand.pass(86_400).await;
    stand.tell(StatusEvent::Published(vec![address("192.0.2.1"), address("192.0.2.1")])).await;
    stand.pass(1).await;
    assert_eq!(stand.server.writes().len(), 1);
    stand.tell(StatusEvent::Published(vec![address("192.0.2.7")])).await;
    stand.pass(1).await;
    assert_eq!(stand.server.writes()[1..], [(key("web"), shows("192.0.2.7"), true)]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_everything_was_read() {
    let stand = Stand::start();
    // Its class is not known yet.
    stand
        .tell(StatusEvent::Ingress { id: id("web"), served: None, observed: Some(observed(&["192.0.2.1"], true)) })
        .await;
    stand.tell(StatusEvent::Published(vec![address("192.0.2.1")])).await;
    stand.lead();
    stand.pass(60).await;
    stand.serve("web", false, observed(&["192.0.2.1"], true)).await;
    stand.tell(StatusEvent::Synced).await;
    stand.pass(60).await;
    assert_eq!(stand.server.writes(), []);
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_writes_and_a_new_one_writes_what_is_missing() {
    let stand = Stand::start();
    stand.serve("done", false, observed(&["192.0.2.1"], true)).await;
    stand.serve("missing", false, observed(&[], false)).await;
    stand.ready().await;
    stand.depose();
    stand.pass(60).await;
    assert_eq!(stand.server.writes(), []);
    stand.lead();
    stand.pass(1).await;
    assert_eq!(stand.server.writes(), [(key("missing"), shows("192.0.2.1"), true)]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_unsure_holds_writes_back_before_anyone_says_so() {
    let stand = Stand::start();
    stand.ready().await;
    stand.pass(1).await;
    // The process slept through its deadline: `leading` is still true.
    stand.deadline.send_replace(Some(Instant::now()));
    stand.serve("web", false, observed(&[], false)).await;
    stand.pass(60).await;
    assert_eq!(stand.server.writes(), []);
    stand.lead();
    stand.pass(2).await;
    assert_eq!(stand.server.writes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_served_no_more_is_cleared_once_and_what_is_deleted_is_left() {
    let stand = Stand::start();
    for name in ["moved", "deleted"] {
        stand.serve(name, false, observed(&["192.0.2.1"], true)).await;
    }
    stand.ready().await;
    stand
        .tell(StatusEvent::Ingress { id: id("moved"), served: None, observed: Some(observed(&["192.0.2.1"], true)) })
        .await;
    stand.tell(StatusEvent::Ingress { id: id("deleted"), served: None, observed: None }).await;
    stand.pass(60).await;
    assert_eq!(stand.server.writes(), [(key("moved"), Value::Null, true)]);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_another_controller_defends_is_left_alone_until_it_changes() {
    let stand = Stand::start();
    stand.server.answer(&key("web"), [conflict()]);
    stand.serve("web", true, observed(&["192.0.2.99"], false)).await;
    stand.ready().await;
    stand.pass(3_600).await;
    stand.depose();
    stand.lead();
    stand.serve("web", true, observed(&["192.0.2.99"], false)).await;
    stand.pass(60).await;
    assert_eq!(stand.server.writes(), [(key("web"), shows("192.0.2.1"), false)]);
    let events = stand.server.seen(|seen| seen.events.clone());
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((&*events[0].0.reason, events[0].0.uid.as_deref()), ("StatusConflict", Some("1")));
    // It was uninstalled, and took its addresses back.
    stand.serve("web", true, observed(&[], false)).await;
    stand.pass(1).await;
    assert_eq!(stand.server.writes().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_is_too_busy_for_is_tried_again_with_growing_pauses() {
    let stand = Stand::start();
    stand.server.answer(&key("web"), [unavailable(), unavailable(), unavailable()]);
    stand.serve("web", false, observed(&[], false)).await;
    stand.ready().await;
    stand.pass(60).await;
    let times: Vec<Duration> = stand.server.seen(|seen| seen.writes.iter().map(|write| write.0).collect());
    assert_eq!(times.len(), 4);
    let pauses: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    for (pause, least) in pauses.iter().zip([0.5, 1.0, 2.0]) {
        assert!((least..least * 1.6).contains(pause), "{pauses:?}");
    }
    assert_eq!(stand.counters.failed.load(std::sync::atomic::Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_succeed_is_given_up_and_what_may_be_granted_is_not() {
    let not_found = || Err(ApiError::NotFound { what: "w".to_owned() });
    let refused = || Err(ApiError::Refused { what: "w".to_owned(), why: "y".to_owned() });
    let forbidden = || Err(ApiError::Forbidden { what: "w".to_owned(), why: "y".to_owned() });
    for (answer, writes) in [(not_found(), 1), (refused(), 1), (forbidden(), 2)] {
        let stand = Stand::start();
        let said = format!("{answer:?}");
        stand.server.answer(&key("web"), [answer]);
        stand.serve("web", false, observed(&[], false)).await;
        stand.ready().await;
        stand.pass(300).await;
        assert_eq!(stand.server.writes().len(), writes, "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_quarrel_over_a_status_does_not_become_a_flood() {
    let stand = Stand::start();
    stand.ready().await;
    for _ in 0..600 {
        stand.serve("web", false, observed(&["192.0.2.99"], false)).await;
        stand.pass(1).await;
    }
    let writes = stand.server.writes().len();
    assert!((20..=27).contains(&writes), "{writes} writes in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn five_thousand_ingresses_settle_within_their_rate_and_eight_at_a_time() {
    let stand = Stand::start();
    for n in 0..5_000 {
        stand.serve(&format!("web-{n}"), false, observed(&[], false)).await;
    }
    stand.ready().await;
    stand.pass(20).await;
    assert!(stand.server.writes().len() < 5_000);
    stand.pass(4).await;
    assert_eq!(stand.server.writes().len(), 5_000);
    assert_eq!(stand.server.seen(|seen| seen.most_under_way), WRITES);
}

#[tokio::test(start_paused = true)]
async fn changes_of_one_object_are_written_in_their_order() {
    let stand = Stand::start();
    stand.ready().await;
    stand.serve("web", false, observed(&[], false)).await;
    // While the first write is under way the addresses change twice.
    tokio::time::sleep(Duration::from_millis(5)).await;
    stand.tell(StatusEvent::Published(vec![address("192.0.2.2")])).await;
    stand.tell(StatusEvent::Published(vec![address("192.0.2.3")])).await;
    stand.pass(1).await;
    let written: Vec<Value> = stand.server.writes().into_iter().map(|write| write.1).collect();
    assert_eq!(written, [shows("192.0.2.1"), shows("192.0.2.3")]);
}

#[tokio::test(start_paused = true)]
async fn findings_become_events_and_refuse_the_settings_that_they_name() {
    let stand = Stand::start();
    let settings = ObjectKey::new(Kind::GatewaySettings, "shop", "edge");
    let findings = Findings::new([
        Finding::error("InvalidValue", settings.clone(), "port 99999 is not a port").at("spec.listeners[0].port"),
        Finding::warning("MissingReference", ObjectKey::new(Kind::Service, "shop", "api"), "has no port 80"),
    ]);
    let seen = Observed { uid: "7".into(), generation: 3, ..Observed::default() };
    stand.tell(StatusEvent::Settings { id: settings.id.clone(), observed: Some(seen) }).await;
    stand.tell(StatusEvent::Findings(Arc::new(findings.clone()))).await;
    stand.ready().await;
    stand.pass(5).await;
    let writes = stand.server.writes();
    assert_eq!(writes.len(), 1);
    let accepted = &writes[0].1["conditions"][0];
    assert_eq!((&accepted["status"], &accepted["observedGeneration"]), (&"False".into(), &3.into()));
    assert_eq!(accepted["message"], "spec.listeners[0].port: port 99999 is not a port");
    let events = stand.server.seen(|seen| seen.events.clone());
    let mut told: Vec<(String, String)> = events
        .iter()
        .map(|(note, _)| (note.about.to_string(), note.uid.as_deref().unwrap_or("none").to_owned()))
        .collect();
    told.sort();
    let expected = [("GatewaySettings shop/edge", "7"), ("Service shop/api", "uid of Service shop/api")];
    assert_eq!(told, expected.map(|(about, uid)| (about.to_owned(), uid.to_owned())));
    // The same again is not told again; mended, the settings are accepted.
    stand.tell(StatusEvent::Findings(Arc::new(findings))).await;
    stand.tell(StatusEvent::Findings(Arc::default())).await;
    stand.pass(5).await;
    assert_eq!(stand.server.writes()[1].1["conditions"][0]["status"], "True");
    assert_eq!(stand.server.seen(|seen| seen.events.len()), 2);
}

#[tokio::test(start_paused = true)]
async fn what_only_seems_wrong_while_objects_are_read_is_not_told() {
    let stand = Stand::start();
    stand.lead();
    let finding = Finding::warning("MissingReference", ObjectKey::new(Kind::Ingress, "shop", "web"), "no such Service");
    stand.tell(StatusEvent::Findings(Arc::new(Findings::new([finding])))).await;
    stand.pass(60).await;
    stand.tell(StatusEvent::Findings(Arc::default())).await;
    stand.tell(StatusEvent::Synced).await;
    stand.pass(60).await;
    assert_eq!(stand.server.seen(|seen| seen.events.len()), 0);
}

#[tokio::test(start_paused = true)]
async fn what_only_gateways_know_is_told_while_they_live() {
    let stand = Stand::start();
    stand.ready().await;
    let secret = ObjectKey::new(Kind::Secret, "shop", "web-tls");
    let finding = Finding::error("InvalidCertificate", secret.clone(), "expired");
    let lease = GatewayLease {
        name: "gateway-1".into(),
        version: "1".to_owned(),
        duration: Duration::from_secs(40),
        report: Some(GatewayReport::new("1.0", [], [&finding]).encode().into()),
    };
    let settings = Observed { uid: "7".into(), ..Observed::default() };
    stand.tell(StatusEvent::Settings { id: id("edge"), observed: Some(settings) }).await;
    stand.tell(StatusEvent::Gateways(FleetChange::All(vec![lease]))).await;
    stand.pass(5).await;
    let events = stand.server.seen(|seen| seen.events.clone());
    assert_eq!(
        events.iter().map(|(note, _)| (&note.about, note.uid.as_deref())).collect::<Vec<_>>(),
        [(&secret, None)]
    );
    let programmed = |writes: &[(ObjectKey, Value, bool)]| {
        writes.iter().map(|write| write.1["conditions"][1]["reason"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(programmed(&stand.server.writes()), ["Pending"]);
    // It falls silent.
    stand.pass(60).await;
    assert_eq!(programmed(&stand.server.writes()), ["Pending", "NoGateway"]);
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_stops_waits_for_what_is_under_way_and_begins_nothing() {
    let mut stand = Stand::start();
    for n in 0..20 {
        stand.serve(&format!("web-{n}"), false, observed(&[], false)).await;
    }
    stand.ready().await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let (closed, _) = mpsc::channel(1);
    drop(std::mem::replace(&mut stand.events, closed));
    stand.task.await.unwrap();
    assert_eq!(stand.server.writes().len(), WRITES);
    assert_eq!(stand.server.seen(|seen| (seen.under_way, seen.statuses.len())), (0, WRITES));
}
