//! What a controller writes back, and what two of them do.

use anyhow::{Context, Result};
use headwater_testkit::cluster::{AuditedRequest, Cluster};
use headwater_testkit::wait;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{NAMESPACE, PATIENCE, Role, apply, backend, class, credentials, ingress, service, shared, start};

async fn controller(cluster: &Cluster, name: &str, arguments: &[&str]) -> Result<Role> {
    let role = Role::start(&credentials(cluster, "controller").await?, "controller", name, arguments)?;
    role.ready()?;
    Ok(role)
}

/// The addresses in the status of an Ingress, as text.
async fn addresses(cluster: &Cluster, namespace: &str, name: &str) -> Result<String> {
    let path = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/{name}");
    let ingress = cluster.get(&path).await?;
    let entries = ingress["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value| entry["ip"].as_str().or(entry["hostname"].as_str()).unwrap_or("?").to_owned();
    Ok(entries.iter().map(text).collect::<Vec<_>>().join(","))
}

async fn published(cluster: &Cluster, namespace: &str, name: &str, expected: &str) -> Result<()> {
    let mut last = String::new();
    let reached = wait::eventually(PATIENCE, || {
        let found = addresses(cluster, namespace, name);
        async move { found.await.map(Some) }
    });
    last.push_str(&reached.await?);
    let same = || async {
        let found = addresses(cluster, namespace, name).await?;
        Ok((found == expected).then_some(()))
    };
    wait::eventually(PATIENCE, same).await.with_context(|| format!("{namespace}/{name}: {last:?}, not {expected:?}"))
}

fn status_writes(requests: &[AuditedRequest], namespace: &str) -> Vec<AuditedRequest> {
    let own = |request: &&AuditedRequest| request.resource == "ingresses/status" && request.namespace == namespace;
    requests.iter().filter(own).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_a_service_are_published_moved_and_given_up() -> Result<()> {
    let cluster = start().await?;
    let namespace = cluster.namespace("status").await?;
    class(&cluster, &namespace).await?;
    let origin = backend("one")?;
    apply(&cluster, &namespace, &service("app", origin.address())).await?;
    apply(&cluster, &namespace, &ingress("app", &namespace, "app.test", "app")).await?;
    let balancer = format!("/api/v1/namespaces/{NAMESPACE}/services/balancer");
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: balancer, namespace: {NAMESPACE}}}\n\
             spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}\n"
        ))
        .await?;
    let set = async |ingress: Value| {
        let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        cluster.merge(&format!("{balancer}/status"), &patch).await
    };
    set(json!([{"ip": "192.0.2.10"}])).await?;
    let service_name = format!("{NAMESPACE}/balancer");
    let mut role =
        controller(&cluster, "one", &["--ingress-class", &namespace, "--publish-service", &service_name]).await?;
    published(&cluster, &namespace, "app", "192.0.2.10").await?;
    set(json!([{"ip": "192.0.2.11"}, {"hostname": "lb.example"}])).await?;
    published(&cluster, &namespace, "app", "192.0.2.11,lb.example").await?;

    // Somebody else meddles: it is put right.
    let path = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/app");
    let meddling = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.66"}]}}});
    cluster.merge(&format!("{path}/status"), &meddling).await?;
    published(&cluster, &namespace, "app", "192.0.2.11,lb.example").await?;

    // At rest nothing is written: a controller that starts anew finds everything as it should be.
    let before = status_writes(&cluster.requests()?, &namespace).len();
    assert_eq!(role.stop()?.code(), Some(0));
    let mut role =
        controller(&cluster, "two", &["--ingress-class", &namespace, "--publish-service", &service_name]).await?;
    wait::until(PATIENCE, || role.metric("headwater_leader").is_ok_and(|leads| leads == 1.0))?;
    apply(&cluster, &namespace, &ingress("next", &namespace, "next.test", "app")).await?;
    published(&cluster, &namespace, "next", "192.0.2.11,lb.example").await?;
    let writes = status_writes(&cluster.requests()?, &namespace);
    assert!(writes[before..].iter().all(|write| write.name == "next"), "{:#?}", &writes[before..]);

    // The class changes: what we wrote goes, what another writes stays.
    cluster.merge(&path, &json!({"spec": {"ingressClassName": "elsewhere"}})).await?;
    published(&cluster, &namespace, "app", "").await?;
    cluster.merge(&format!("{path}/status"), &meddling).await?;

    // And before it is uninstalled, everything else goes, too.
    assert_eq!(role.stop()?.code(), Some(0));
    let kubeconfig = credentials(&cluster, "controller").await?;
    let path = kubeconfig.to_str().context("path")?;
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_headwater"))
        .args(["controller", "--kubeconfig", path, "--lease-namespace", NAMESPACE, "--clear-status"])
        .output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(addresses(&cluster, &namespace, "next").await?, "");
    assert_eq!(addresses(&cluster, &namespace, "app").await?, "203.0.113.66");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_controller_takes_over_and_nothing_is_written_twice() -> Result<()> {
    let cluster = start().await?;
    let namespace = cluster.namespace("leader").await?;
    class(&cluster, &namespace).await?;
    let origin = backend("one")?;
    apply(&cluster, &namespace, &service("app", origin.address())).await?;
    let arguments = ["--ingress-class", &namespace, "--publish-address", "192.0.2.10"];
    let roles = [controller(&cluster, "one", &arguments).await?, controller(&cluster, "two", &arguments).await?];
    let leads = |role: &Role| role.metric("headwater_leader").is_ok_and(|leads| leads == 1.0);
    let leader = wait::value(PATIENCE, || roles.iter().position(leads))?;
    for number in 0..20 {
        let (name, host) = (format!("app-{number}"), format!("app-{number}.test"));
        apply(&cluster, &namespace, &ingress(&name, &namespace, &host, "app")).await?;
    }
    for number in 0..20 {
        published(&cluster, &namespace, &format!("app-{number}"), "192.0.2.10").await?;
    }
    assert!(!leads(&roles[1 - leader]), "one leads");

    // Stopped, not ended: it does not know that time passes, and comes back when another leads.
    roles[leader].signal(Signal::STOP)?;
    wait::until(PATIENCE, || leads(&roles[1 - leader]))?;
    apply(&cluster, &namespace, &ingress("late", &namespace, "late.test", "app")).await?;
    published(&cluster, &namespace, "late", "192.0.2.10").await?;
    roles[leader].signal(Signal::CONT)?;
    wait::until(PATIENCE, || !leads(&roles[leader])).context("the old leader steps back")?;

    let writes = status_writes(&cluster.requests()?, &namespace);
    let mut names: Vec<&str> = writes.iter().map(|write| &*write.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!((count, names.len()), (21, 21), "each status is written once: {writes:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_becomes_an_event_once_also_what_only_the_gateway_can_see() -> Result<()> {
    let cluster = shared().await?;
    let namespace = cluster.namespace("events").await?;
    class(cluster, &namespace).await?;
    let gateway = Role::gateway(cluster, &namespace, &[]).await?;
    let lease = format!("lease-{namespace}");
    let arguments = ["--ingress-class", &namespace, "--publish-address", "192.0.2.10", "--lease-name", &lease];
    // The rights of the installation name the Lease that it uses.
    let admin = Role::start(cluster.kubeconfig(), "controller", &namespace, &arguments)?;
    admin.ready()?;
    let wrong = ingress("app", &namespace, "app.test", "missing")
        .replace("  rules:", "  tls: [{hosts: [app.test], secretName: absent}]\n  rules:");
    apply(cluster, &namespace, &wrong).await?;
    gateway.answers("app.test", (503, "no_service"))?;
    let events = || async {
        let list = cluster.get(&format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events")).await?;
        let notes = list["items"].as_array().cloned().unwrap_or_default();
        let notes: Vec<String> = notes.iter().filter_map(|event| Some(event["note"].as_str()?.to_owned())).collect();
        Ok::<_, anyhow::Error>(notes)
    };
    let both = || async {
        let notes = events().await?;
        let has = |word: &str| notes.iter().any(|note| note.contains(word));
        Ok((has("Service") && has("Secret")).then_some(notes))
    };
    let notes = wait::eventually(PATIENCE, both).await.with_context(|| admin.stderr())?;
    assert_eq!(notes.len(), 2, "{notes:#?}");
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_headwater"))
        .args(["status", "--admin", &admin.admin.to_string()])
        .output()?;
    let status = String::from_utf8(status.stdout)?;
    assert!(status.contains("controller, it leads") && status.contains("does not exist"), "{status}");
    let described = cluster.kubectl(&["-n", &namespace, "describe", "ingress", "app"]).await?;
    assert!(described.stdout.contains("MissingReference"), "{}", described.stdout);

    let settings = format!("/apis/headwater.dev/v1alpha1/namespaces/{namespace}/gatewaysettings/gateway");
    let programmed = || async {
        let object = cluster.get(&settings).await?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let holds = |wanted: &str| conditions.iter().any(|c| c["type"] == wanted && c["status"] == "True");
        Ok((holds("Accepted") && holds("Programmed")).then_some(()))
    };
    wait::eventually(PATIENCE, programmed).await.with_context(|| admin.stderr())?;
    Ok(())
}
