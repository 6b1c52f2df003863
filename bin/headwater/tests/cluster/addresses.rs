//! Services that get addresses of pools from `headwater controller --addresses`, and keep them.

use std::path::Path;

use anyhow::{Context, Result};
use headwater_testkit::cluster::Cluster;
use headwater_testkit::wait;
use serde_json::{Value, json};

use crate::support::{PATIENCE, Role, apply, credentials, start};

/// The rights that the chart gives a controller that gives addresses.
const RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: addresses}
rules:
  - {apiGroups: [''], resources: [namespaces], verbs: [get, list, watch]}
  - {apiGroups: [''], resources: [services], verbs: [get, list, watch, patch]}
  - {apiGroups: [''], resources: [services/status], verbs: [patch]}
  - {apiGroups: [events.k8s.io], resources: [events], verbs: [create, get, patch]}
  - apiGroups: [metallb.io]
    resources: [ipaddresspools, l2advertisements, bgpadvertisements, bgppeers, bfdprofiles, communities]
    verbs: [get, list, watch]
  - {apiGroups: [metallb.io], resources: [configurationstates], verbs: [get, create, patch]}
  - {apiGroups: [metallb.io], resources: [ipaddresspools/status, configurationstates/status], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: addresses}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: addresses}
subjects: [{kind: ServiceAccount, name: headwater-controller, namespace: headwater-system}]
";

const POOLS: &str = "/apis/metallb.io/v1beta1/namespaces/metallb-system/ipaddresspools";

pub(crate) async fn install(cluster: &Cluster) -> Result<()> {
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds/metallb");
    cluster.kubectl(&["apply", "--server-side", "-f", crds.to_str().context("path")?]).await?;
    cluster.kubectl(&["wait", "--for=condition=Established", "crd/ipaddresspools.metallb.io", "--timeout=60s"]).await?;
    cluster.apply(RIGHTS).await?;
    cluster
        .create_if_absent(
            "/api/v1/namespaces",
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "metallb-system"}}),
        )
        .await
}

async fn pool(cluster: &Cluster, name: &str, spec: Value) -> Result<()> {
    let body = json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
                      "metadata": {"name": name, "namespace": "metallb-system"}, "spec": spec});
    cluster.create(POOLS, &body).await.map(drop)
}

pub(crate) async fn controller(cluster: &Cluster, name: &str) -> Result<Role> {
    let role = Role::start(&credentials(cluster, "controller").await?, "controller", name, &["--addresses"])?;
    role.ready()?;
    Ok(role)
}

fn balancer(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{{more}}}}}\n\
         spec: {{type: LoadBalancer, ports: [{{port: {}}}]}}\n",
        8000 + name.len()
    )
}

async fn addresses(cluster: &Cluster, namespace: &str, name: &str) -> Result<(String, String)> {
    let service = cluster.get(&format!("/api/v1/namespaces/{namespace}/services/{name}")).await?;
    let entries = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    let texts: Vec<&str> = entries.iter().filter_map(|entry| entry["ip"].as_str()).collect();
    let pool = &service["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"];
    Ok((texts.join(","), pool.as_str().unwrap_or_default().to_owned()))
}

/// Waits until the Service has these addresses, of this pool.
async fn has(cluster: &Cluster, namespace: &str, name: &str, expected: (&str, &str)) -> Result<()> {
    let last = std::cell::RefCell::new((String::new(), String::new()));
    let reached = || async {
        let found = addresses(cluster, namespace, name).await?;
        let is_so = found.0 == expected.0 && found.1 == expected.1;
        last.replace(found);
        Ok(is_so.then_some(()))
    };
    let waited = wait::eventually(PATIENCE, reached).await;
    waited.with_context(|| format!("{namespace}/{name} has {:?}, not {expected:?}", last.take()))
}

async fn notes(cluster: &Cluster, namespace: &str, name: &str) -> Result<Vec<String>> {
    let events = cluster.get(&format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events")).await?;
    let of = events["items"].as_array().cloned().unwrap_or_default().into_iter();
    let of = of.filter(|event| event["regarding"]["name"] == name);
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().replace('"', "");
    let words = |event: Value| ["type", "reason", "note"].map(|field| text(&event, field)).join(" ");
    Ok(of.map(words).collect())
}

/// What `headwater status vips` says of it, with a node that announces `a` and tells routers of `bb`.
async fn overview(cluster: &Cluster, namespace: &str) -> Result<()> {
    for (kind, plural, service, more) in [
        ("ServiceL2Status", "servicel2statuses", "a", json!({"interfaces": [{"name": "eth0"}]})),
        ("ServiceBGPStatus", "servicebgpstatuses", "bb", json!({"peers": ["left", "right"]})),
    ] {
        let collection = format!("/apis/metallb.io/v1beta1/namespaces/metallb-system/{plural}");
        let object = json!({"apiVersion": "metallb.io/v1beta1", "kind": kind,
            "metadata": {"name": format!("of-{service}"), "namespace": "metallb-system"}, "spec": {}});
        cluster.create(&collection, &object).await?;
        let mut status = json!({"node": "n", "serviceName": service, "serviceNamespace": namespace});
        status.as_object_mut().context("status")?.extend(more.as_object().context("more")?.clone());
        cluster.merge(&format!("{collection}/of-{service}/status"), &json!({ "status": status })).await?;
    }
    let vips = |form: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_headwater"));
        command.args(["status", "vips", "-o", form, "--kubeconfig"]).arg(cluster.kubeconfig()).output()
    };
    let json = vips("json")?;
    anyhow::ensure!(json.status.code() == Some(1), "{}", String::from_utf8_lossy(&json.stderr));
    let rows: Vec<Value> = serde_json::from_slice(&json.stdout)?;
    let row = |name: &str| rows.iter().find(|row| row["service"] == format!("{namespace}/{name}")).context("row");
    let a = row("a")?;
    assert_eq!((&a["address"], &a["pool"], &a["why"]), (&json!("192.0.2.0"), &json!("first"), &Value::Null));
    assert_eq!(a["announcers"][0]["interfaces"], json!(["eth0"]));
    assert!(a["announcers"][0]["since"].as_str().is_some_and(|since| since.starts_with("20")), "{a}");
    assert_eq!(row("bb")?["announcers"][0]["peers"], json!(["left", "right"]));
    assert_eq!(row("ccc")?["why"], json!(["layer2: noEndpoints"]));
    let waiting = row("eeeee")?;
    let why = format!("Failed to allocate IP for \"{namespace}/eeeee\": no available IPs");
    assert_eq!((&waiting["address"], &waiting["why"]), (&Value::Null, &json!([why])));
    let text = String::from_utf8(vips("text")?.stdout)?;
    let line = text.lines().find(|line| line.contains("198.51.100.10")).context("line")?;
    assert!(line.contains("second") && line.contains("n bgp to left, right"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses_keep_them_over_a_restart_and_follow_their_pools() -> Result<()> {
    let cluster = &start().await?;
    install(cluster).await?;
    let namespace = cluster.namespace("addresses").await?;
    pool(cluster, "first", json!({"addresses": ["192.0.2.1/31"]})).await?;
    pool(cluster, "second", json!({"addresses": ["198.51.100.10-198.51.100.20"], "autoAssign": false})).await?;
    let mut role = controller(cluster, "one").await?;

    apply(cluster, &namespace, &balancer("a", "")).await?;
    has(cluster, &namespace, "a", ("192.0.2.0", "first")).await?;
    apply(cluster, &namespace, &balancer("bb", "metallb.io/address-pool: second")).await?;
    has(cluster, &namespace, "bb", ("198.51.100.10", "second")).await?;
    // Two ports of two Services at one address, and a third Service that may not.
    for name in ["ccc", "dddd"] {
        apply(cluster, &namespace, &balancer(name, "metallb.universe.tf/allow-shared-ip: key")).await?;
        has(cluster, &namespace, name, ("192.0.2.1", "first")).await?;
    }
    apply(cluster, &namespace, &balancer("eeeee", "")).await?;
    let told = || async {
        let notes = notes(cluster, &namespace, "eeeee").await?;
        Ok(notes
            .contains(&format!(
                "Warning AllocationFailed Failed to allocate IP for {namespace}/eeeee: no available IPs"
            ))
            .then_some(()))
    };
    wait::eventually(PATIENCE, told).await.context("no Event tells that no address is left")?;
    overview(cluster, &namespace).await?;
    assert!(notes(cluster, &namespace, "a").await?.contains(&"Normal IPAllocated Assigned IP [192.0.2.0]".to_owned()));
    let counted = || async {
        let status = cluster.get(&format!("{POOLS}/first")).await?["status"].take();
        let is_so = status == json!({"assignedIPv4": 2, "availableIPv4": 0, "assignedIPv6": 0, "availableIPv6": 0});
        Ok(is_so.then_some(()))
    };
    wait::eventually(PATIENCE, counted).await.context("the pool's status")?;
    let state = "/apis/metallb.io/v1beta1/namespaces/metallb-system/configurationstates/controller";
    let valid =
        || async { Ok((cluster.find(state).await?.unwrap_or_default()["status"]["result"] == "Valid").then_some(())) };
    wait::eventually(PATIENCE, valid).await.context("ConfigurationState")?;

    // A gap below, and a restart: nobody moves into it.
    cluster.delete(&format!("/api/v1/namespaces/{namespace}/services/a")).await?;
    has(cluster, &namespace, "eeeee", ("192.0.2.0", "first")).await?;
    assert_eq!(role.stop()?.code(), Some(0));
    cluster.delete(&format!("/api/v1/namespaces/{namespace}/services/eeeee")).await?;
    let mut role = controller(cluster, "two").await?;
    apply(cluster, &namespace, &balancer("ffffff", "")).await?;
    has(cluster, &namespace, "ffffff", ("192.0.2.0", "first")).await?;
    for (name, expected) in
        [("bb", ("198.51.100.10", "second")), ("ccc", ("192.0.2.1", "first")), ("dddd", ("192.0.2.1", "first"))]
    {
        has(cluster, &namespace, name, expected).await?;
    }

    // Somebody takes an address away: it is put right. A pool moves: its Services follow. It goes: so do addresses.
    let status = format!("/api/v1/namespaces/{namespace}/services/bb/status");
    cluster.merge(&status, &json!({"status": {"loadBalancer": {"ingress": null}}})).await?;
    has(cluster, &namespace, "bb", ("198.51.100.10", "second")).await?;
    cluster.merge(&format!("{POOLS}/second"), &json!({"spec": {"addresses": ["203.0.113.0/28"]}})).await?;
    has(cluster, &namespace, "bb", ("203.0.113.0", "second")).await?;
    cluster.delete(&format!("{POOLS}/second")).await?;
    has(cluster, &namespace, "bb", ("", "")).await?;
    // A pool that overlaps is told, and takes nothing away.
    pool(cluster, "third", json!({"addresses": ["192.0.2.0/24"]})).await?;
    let invalid = || async {
        let status = cluster.find(state).await?.unwrap_or_default()["status"].take();
        let told = status["errorSummary"].as_str().unwrap_or_default().contains("overlaps with already defined CIDR");
        Ok((status["result"] == "Invalid" && told).then_some(()))
    };
    wait::eventually(PATIENCE, invalid).await.context("an overlap is not told")?;
    has(cluster, &namespace, "ccc", ("192.0.2.1", "first")).await?;
    cluster.delete(&format!("{POOLS}/third")).await?;
    cluster.delete(&format!("{POOLS}/first")).await?;
    has(cluster, &namespace, "ccc", ("", "")).await?;
    assert_eq!(role.stop()?.code(), Some(0));
    Ok(())
}
