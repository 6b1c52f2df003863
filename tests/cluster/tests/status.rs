//! What goes back to the API server: statuses beside those of other controllers, leadership, signs of life, Events.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use headwater_control::status::{ServedAs, StatusEvent, StatusWriter, clear_all, parse_address};
use headwater_control::{Controller, Publish};
use headwater_kube_io::{
    Access, ApiError, ApiServer, EventNote, EventWritten, FleetChange, Heartbeat, HeartbeatSettings, Leadership,
    LeaseName, Reader, Selection, Timing,
};
use headwater_model::observed::Observed;
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};
use headwater_model::report::GatewayReport;
use headwater_process::metrics::Registry;
use headwater_testkit::cluster::{AuditedRequest, Cluster};
use headwater_testkit::wait::{DEADLINE, eventually};
use headwater_translate::Options;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// Short enough for a test, long enough for a busy machine.
const TIMING: Timing =
    Timing { duration: Duration::from_secs(4), renew: Duration::from_secs(3), retry: Duration::from_millis(300) };

async fn cluster() -> Result<&'static Cluster> {
    CLUSTER
        .get_or_try_init(|| async {
            let cluster = Cluster::builder().audit().start().await?;
            let definition = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds");
            cluster.kubectl(&["apply", "--server-side", "-f", definition]).await?;
            let known = || async { cluster.find("/apis/headwater.dev/v1alpha1/gatewaysettings").await };
            eventually(Duration::from_secs(30), known).await?;
            Ok(cluster)
        })
        .await
}

/// The API server as a user of that name, who may do everything.
async fn server_as(cluster: &Cluster, user: &str) -> Result<ApiServer> {
    let kubeconfig = cluster.kubeconfig_for_user(user, Some("system:masters"))?;
    Ok(ApiServer::connect(&Access { kubeconfig: Some(kubeconfig), context: None }).await?)
}

async fn ingress(cluster: &Cluster, namespace: &str, name: &str) -> Result<ObjectKey> {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": name },
        "spec": { "defaultBackend": { "service": { "name": "web", "port": { "number": 80 } } } },
    });
    cluster.create(&format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses"), &object).await?;
    Ok(ObjectKey::new(Kind::Ingress, namespace, name))
}

fn path(key: &ObjectKey) -> String {
    let resource = if key.kind == Kind::Ingress { "ingresses" } else { "gatewaysettings" };
    format!("/apis/{}/namespaces/{}/{resource}/{}", key.kind.api_version(), key.id.namespace, key.id.name)
}

async fn status(cluster: &Cluster, key: &ObjectKey) -> Result<Value> {
    Ok(cluster.get(&path(key)).await?["status"].clone())
}

fn shows(address: &str) -> Value {
    json!({ "loadBalancer": { "ingress": [{ "ip": address }] } })
}

/// What a manager of that name writes by a merge patch, as ingress-nginx's updates are.
async fn written_by(cluster: &Cluster, manager: &str, key: &ObjectKey, status: Value) -> Result<()> {
    let path = format!("{}/status?fieldManager={manager}", path(key));
    cluster.merge(&path, &json!({ "status": status })).await.map(drop)
}

/// Requests that changed a status, by who sent them.
fn status_writes(cluster: &Cluster, namespace: &str) -> Result<Vec<AuditedRequest>> {
    let mut requests = cluster.requests()?;
    requests.retain(|request| request.namespace == namespace && request.resource.ends_with("/status"));
    Ok(requests)
}

#[tokio::test]
async fn an_address_that_another_controller_keeps_is_taken_by_force_only() -> Result<()> {
    let cluster = cluster().await?;
    let server = server_as(cluster, "controller").await?;
    let namespace = cluster.namespace("force").await?;
    let key = ingress(cluster, &namespace, "web").await?;
    written_by(cluster, "nginx-ingress-controller", &key, shows("192.0.2.99")).await?;

    let refused = server.apply_status(&key, shows("192.0.2.1"), false).await.unwrap_err();
    let ApiError::Conflict { held_by, .. } = &refused else { panic!("{refused}") };
    assert_eq!(held_by, "nginx-ingress-controller");
    assert_eq!(status(cluster, &key).await?, shows("192.0.2.99"));
    // The same value is no conflict, and belongs to both.
    server.apply_status(&key, shows("192.0.2.99"), false).await?;
    server.apply_status(&key, Value::Null, true).await?;
    assert_eq!(status(cluster, &key).await?, shows("192.0.2.99"));

    server.apply_status(&key, shows("192.0.2.1"), true).await?;
    assert_eq!(status(cluster, &key).await?, shows("192.0.2.1"));
    assert_eq!(
        server.with_our_status(Kind::Ingress, std::slice::from_ref(&namespace)).await?,
        std::slice::from_ref(&key)
    );
    server.apply_status(&key, Value::Null, true).await?;
    assert_eq!(status(cluster, &key).await?, json!({ "loadBalancer": {} }));
    assert!(server.with_our_status(Kind::Ingress, std::slice::from_ref(&namespace)).await?.is_empty());

    let gone = ObjectKey::new(Kind::Ingress, namespace, "gone");
    let refused = server.apply_status(&gone, shows("192.0.2.1"), true).await.unwrap_err();
    assert!(matches!(refused, ApiError::NotFound { .. }), "{refused}");
    let wrong = server.apply_status(&key, json!({ "loadBalancer": 7 }), true).await.unwrap_err();
    assert!(matches!(wrong, ApiError::Refused { .. } | ApiError::Unavailable { .. }), "{wrong}");
    Ok(())
}

#[tokio::test]
async fn conditions_of_another_controller_survive_ours_and_their_removal() -> Result<()> {
    let cluster = cluster().await?;
    let server = server_as(cluster, "controller").await?;
    let namespace = cluster.namespace("conditions").await?;
    let key = ObjectKey::new(Kind::GatewaySettings, &*namespace, "edge");
    let object =
        json!({ "apiVersion": "headwater.dev/v1alpha1", "kind": "GatewaySettings", "metadata": { "name": "edge" } });
    let collection = path(&key);
    cluster.create(collection.trim_end_matches("/edge"), &object).await?;
    let condition = |name: &str, status: &str| {
        json!({ "type": name, "status": status, "reason": "Because", "message": "", "observedGeneration": 1,
                "lastTransitionTime": "2026-05-01T12:00:00Z" })
    };
    written_by(cluster, "auditor", &key, json!({ "conditions": [condition("Audited", "True")] })).await?;
    let ours = json!({ "conditions": [condition("Accepted", "True"), condition("Programmed", "Unknown")] });
    server.apply_status(&key, ours, true).await?;
    let types = |status: Value| {
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let mut types: Vec<String> = conditions.iter().map(|it| it["type"].as_str().unwrap().to_owned()).collect();
        types.sort();
        types
    };
    assert_eq!(types(status(cluster, &key).await?), ["Accepted", "Audited", "Programmed"]);
    assert_eq!(clear_all(&server, std::slice::from_ref(&namespace)).await?, 1);
    assert_eq!(types(status(cluster, &key).await?), ["Audited"]);
    assert_eq!(clear_all(&server, &[namespace]).await?, 0);
    Ok(())
}

#[tokio::test]
async fn who_may_not_write_is_told_so() -> Result<()> {
    let cluster = cluster().await?;
    let namespace = cluster.namespace("forbidden").await?;
    let key = ingress(cluster, &namespace, "web").await?;
    let kubeconfig = Some(cluster.kubeconfig_for_user("nobody", None)?);
    let server = ApiServer::connect(&Access { kubeconfig, context: None }).await?;
    let refused = server.apply_status(&key, shows("192.0.2.1"), true).await.unwrap_err();
    assert!(matches!(refused, ApiError::Forbidden { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains(&format!("Ingress {namespace}/web")) && text.contains("ingresses/status"), "{text}");
    assert_eq!(server.uid(&key).await?, None);
    Ok(())
}

/// The Lease as the server has it.
async fn lease(cluster: &Cluster, namespace: &str, name: &str) -> Result<Option<Value>> {
    cluster.find(&format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}")).await
}

fn candidate(server: &ApiServer, namespace: &str, identity: &str) -> Leadership {
    let lease = LeaseName { namespace: namespace.to_owned(), name: "controller".to_owned() };
    Leadership::start(server, lease, identity.to_owned(), TIMING)
}

async fn leads(candidate: &Leadership) -> Result<()> {
    let mut leading = candidate.leading();
    tokio::time::timeout(DEADLINE, leading.wait_for(|leads| *leads)).await.context("nobody leads")??;
    Ok(())
}

#[tokio::test]
async fn a_lease_handed_over_is_taken_at_once_and_one_that_is_lost_after_its_duration() -> Result<()> {
    let cluster = cluster().await?;
    let server = server_as(cluster, "controller").await?;
    let namespace = cluster.namespace("election").await?;
    let first = candidate(&server, &namespace, "first");
    leads(&first).await?;
    let (second, third) = (candidate(&server, &namespace, "second"), candidate(&server, &namespace, "third"));
    let spec = lease(cluster, &namespace, "controller").await?.unwrap()["spec"].clone();
    assert_eq!((&spec["holderIdentity"], &spec["leaseDurationSeconds"]), (&json!("first"), &json!(4)));

    // A label of somebody else stays.
    let label = ["-n", &namespace, "label", "lease", "controller", "team=edge"];
    cluster.kubectl(&label).await?;
    first.release().await;
    let handed_over = Instant::now();
    let (leader, other) = tokio::select! {
        led = leads(&second) => { led?; (second, third) }
        led = leads(&third) => { led?; (third, second) }
    };
    assert!(handed_over.elapsed() < TIMING.duration, "{:?}", handed_over.elapsed());
    assert!(!*other.leading().borrow());
    assert_eq!(other.guard().deadline(), None);

    // Killed: nothing is handed over.
    let guard = leader.guard();
    drop(leader);
    let last_sure = guard.deadline().context("the leader led")?.into_std();
    leads(&other).await?;
    assert!(Instant::now() > last_sure, "two led at the same time");
    let lease = lease(cluster, &namespace, "controller").await?.unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 2);
    assert_eq!(lease["metadata"]["labels"]["team"], "edge");
    other.release().await;
    Ok(())
}

#[tokio::test]
async fn a_leader_that_cannot_renew_stops_in_time() -> Result<()> {
    // Its own API server, since it is stopped.
    let cluster = Cluster::start().await?;
    let server = server_as(&cluster, "controller").await?;
    let namespace = cluster.namespace("stalled").await?;
    let leader = candidate(&server, &namespace, "only");
    leads(&leader).await?;
    cluster.signal_apiserver("SIGSTOP")?;
    let mut leading = leader.leading();
    let stopped = Instant::now();
    let lost = tokio::time::timeout(DEADLINE, leading.wait_for(|leads| !*leads)).await;
    let after = stopped.elapsed();
    assert_eq!(leader.guard().deadline(), None);
    cluster.signal_apiserver("SIGCONT")?;
    lost.context("it still leads")??;
    assert!(after <= TIMING.renew + Duration::from_millis(500), "{after:?}");
    // Its own name still stands there: it renews as soon as it is answered.
    leads(&leader).await
}

#[tokio::test]
async fn a_gateway_shows_that_it_lives_and_what_it_reports_until_it_stops() -> Result<()> {
    let cluster = cluster().await?;
    let server = server_as(cluster, "gateway").await?;
    let namespace = cluster.namespace("heartbeat").await?;
    let mut fleet = server.watch_gateways(&namespace, "headwater.dev/role=gateway");
    assert_eq!(fleet.next().await, FleetChange::All(Vec::new()));

    let settings = HeartbeatSettings {
        lease: LeaseName { namespace: namespace.clone(), name: "gateway-1".to_owned() },
        holder: "gateway-1".to_owned(),
        labels: BTreeMap::from([("headwater.dev/role".to_owned(), "gateway".to_owned())]),
        pod_uid: None,
        duration: Duration::from_secs(40),
        renew: Duration::from_millis(200),
    };
    let heartbeat = Heartbeat::start(&server, settings);
    let report = GatewayReport::new("1.0", [], []).encode();
    heartbeat.report(&report);
    let mut versions = Vec::new();
    while versions.len() < 3 {
        let change = tokio::time::timeout(DEADLINE, fleet.next()).await?;
        let FleetChange::Set(lease) = change else { panic!("{change:?}") };
        assert_eq!((&*lease.name, lease.duration), ("gateway-1", Duration::from_secs(40)));
        if lease.report.as_deref() == Some(&*report) {
            versions.push(lease.version);
        }
    }
    // Deleted by mistake, it comes back with all that it said.
    cluster.kubectl(&["-n", &namespace, "delete", "lease", "gateway-1"]).await?;
    let back = || async { lease(cluster, &namespace, "gateway-1").await };
    let back = eventually(DEADLINE, back).await?;
    assert_eq!(back["metadata"]["annotations"]["headwater.dev/report"], report);
    assert_eq!(back["spec"]["holderIdentity"], "gateway-1");

    heartbeat.stop().await;
    assert_eq!(lease(cluster, &namespace, "gateway-1").await?, None);
    Ok(())
}

#[tokio::test]
async fn an_event_stands_below_its_object_once_and_counts_when_it_happens_again() -> Result<()> {
    let cluster = cluster().await?;
    let server = server_as(cluster, "controller").await?;
    let namespace = cluster.namespace("events").await?;
    let about = ingress(cluster, &namespace, "web").await?;
    let uid = server.uid(&about).await?.map(Arc::from);
    let note = |note: &str| EventNote {
        about: about.clone(),
        uid: uid.clone(),
        warning: true,
        reason: "MissingReference".to_owned(),
        action: "Translate",
        note: note.to_owned(),
    };
    for (text, again, expected) in [
        ("there is no Service web", false, EventWritten::New),
        // Another process, after a restart.
        ("there is no Service web", false, EventWritten::Known),
        ("there is no Secret web-tls", false, EventWritten::New),
        ("there is no Service web", true, EventWritten::Again),
        ("there is no Service web", true, EventWritten::Again),
    ] {
        assert_eq!(server.record_event(&note(text), "pod-1", again).await?, expected, "{text}");
    }
    let shown = cluster.kubectl(&["-n", &namespace, "describe", "ingress", "web"]).await?.stdout;
    for text in ["there is no Service web", "there is no Secret web-tls", "headwater.dev/ingress", "Warning"] {
        assert!(shown.contains(text), "{shown}");
    }
    let events = cluster.get(&format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events")).await?;
    let counts: Vec<i64> =
        events["items"].as_array().unwrap().iter().filter_map(|it| it["series"]["count"].as_i64()).collect();
    assert_eq!(counts, [3]);

    let class =
        EventNote { about: ObjectKey::new(Kind::IngressClass, "", "headwater"), uid: None, ..note("of a class") };
    assert_eq!(server.record_event(&class, "pod-1", false).await?, EventWritten::New);
    Ok(())
}

/// A controller: leadership and writer, told of `count` Ingresses that it serves.
async fn controller(
    server: &ApiServer,
    namespace: &str,
    name: &str,
    count: usize,
) -> Result<(Leadership, StatusWriter)> {
    let leadership = candidate(server, namespace, name);
    let writer = StatusWriter::start(server.clone(), &leadership, name, None);
    for n in 0..count {
        let id = NamespacedName::new(namespace, format!("web-{n}"));
        let served = Some(ServedAs::default());
        writer.tell(StatusEvent::Ingress { id, served, observed: Some(Observed::default()) }).await;
    }
    writer.tell(StatusEvent::Published(vec![parse_address("192.0.2.1").unwrap()])).await;
    writer.tell(StatusEvent::Synced).await;
    Ok((leadership, writer))
}

#[tokio::test]
async fn of_two_controllers_one_writes_and_the_other_follows_when_it_is_killed() -> Result<()> {
    const COUNT: usize = 40;
    let cluster = cluster().await?;
    let namespace = cluster.namespace("takeover").await?;
    for n in 0..COUNT {
        ingress(cluster, &namespace, &format!("web-{n}")).await?;
    }
    let (one, two) = (server_as(cluster, "one").await?, server_as(cluster, "two").await?);
    let first = controller(&one, &namespace, "one", COUNT).await?;
    leads(&first.0).await?;
    let second = controller(&two, &namespace, "two", COUNT).await?;
    let written = || async { Ok((status_writes(cluster, &namespace)?.len() >= COUNT).then_some(())) };
    eventually(DEADLINE, written).await?;
    let writes = status_writes(cluster, &namespace)?;
    assert_eq!(writes.len(), COUNT, "each once: {writes:?}");
    assert!(writes.iter().all(|write| write.user == "one" && write.code == 200), "{writes:?}");
    for n in 0..COUNT {
        let key = ObjectKey::new(Kind::Ingress, &*namespace, format!("web-{n}"));
        assert_eq!(status(cluster, &key).await?, shows("192.0.2.1"));
    }

    // What the second has seen meanwhile: all but one say what they shall.
    for n in 1..COUNT {
        let observed = Observed {
            addresses: vec![parse_address("192.0.2.1").unwrap()],
            status_is_ours: true,
            ..Observed::default()
        };
        let id = NamespacedName::new(&*namespace, format!("web-{n}"));
        let served = Some(ServedAs::default());
        second.1.tell(StatusEvent::Ingress { id, served, observed: Some(observed) }).await;
    }
    drop(first);
    leads(&second.0).await?;
    let followed = || async { Ok((status_writes(cluster, &namespace)?.len() > COUNT).then_some(())) };
    eventually(DEADLINE, followed).await?;
    second.1.stop().await;
    second.0.release().await;
    let writes = status_writes(cluster, &namespace)?;
    assert_eq!(writes[COUNT..].iter().map(|it| (&*it.user, &*it.name)).collect::<Vec<_>>(), [("two", "web-0")]);
    Ok(())
}

#[tokio::test]
async fn a_service_that_wants_what_an_older_one_has_gets_an_event_and_only_it() -> Result<()> {
    let cluster = cluster().await?;
    let namespace = cluster.namespace("conflicts").await?;
    let path = format!("/api/v1/namespaces/{namespace}/services");
    let service = |name: &str, address: &str| {
        json!({
            "metadata": { "name": name },
            "spec": { "externalIPs": [address], "ports": [{ "port": 80 }] }
        })
    };
    cluster.create(&path, &service("older", "203.0.113.9")).await?;
    // Ages are whole seconds, and names decide between equals.
    cluster.create(&path, &service("younger", "203.0.113.9")).await?;
    cluster.create(&path, &service("stranger", "203.0.113.10")).await?;
    let server = server_as(cluster, "conflicts").await?;
    let leadership = candidate(&server, &namespace, "one");
    let writer = StatusWriter::start(server.clone(), &leadership, "one", None);
    let selection = Selection {
        kinds: vec![Kind::Service],
        namespaces: vec![namespace.clone()],
        observe: true,
        reader: Reader::Controller,
        ..Selection::default()
    };
    let (options, publish) = (Options::default(), Publish::Addresses(Vec::new()));
    let controller = Controller::follow(&server, selection, options, publish, true, writer, &Registry::new());
    leads(&leadership).await?;
    let events = || async {
        let events = cluster.get(&format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events")).await?;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        let of_services = events.into_iter().filter(|event| event["regarding"]["kind"] == "Service");
        let told = of_services.map(|event| (event["regarding"]["name"].clone(), event["note"].clone()));
        let told: Vec<(Value, Value)> = told.collect();
        Ok((!told.is_empty()).then_some(told))
    };
    let told = eventually(DEADLINE, events).await?;
    let note = format!(
        "spec.externalIPs: 203.0.113.9:80/TCP belongs to Service {namespace}/older, which is older; it is not served for \
         this one (mend: give one of the two another)"
    );
    assert_eq!(told, [(json!("younger"), json!(note))]);
    controller.stop().await;
    leadership.release().await;
    Ok(())
}
