//! A cluster whose addresses MetalLB gave, and that `headwater controller` takes over: no address changes.
//!
//! `migration/metallb.json` is what MetalLB v0.15.3 left in such a cluster, as `kubectl get -o json` prints it, without
//! what differs from cluster to cluster (ClusterIPs, node ports, identities). It is made by MetalLB's own controller,
//! `go install go.universe.tf/metallb/controller@v0.15.3`, when HEADWATER_METALLB_CONTROLLER names it: then this test
//! runs that program before and after Headwater as well, and writes the file.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use headwater_testkit::cluster::Cluster;
use headwater_testkit::wait;
use serde_json::{Value, json};

use crate::addresses::{controller, install};
use crate::support::{PATIENCE, apply, start};

const METALLB: &str = "HEADWATER_METALLB_CONTROLLER";

const LEFT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/migration/metallb.json");

/// As users wrote it: pools of every kind.
const POOLS: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: first, namespace: metallb-system}
spec: {addresses: [192.0.2.0/28, '2001:db8::/124'], avoidBuggyIPs: true}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: by-name, namespace: metallb-system}
spec: {addresses: [198.51.100.10-198.51.100.20], autoAssign: false}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: pinned, namespace: metallb-system}
spec: {addresses: [203.0.113.0/28], serviceAllocation: {priority: 10, serviceSelectors: [{matchLabels: {tier: front}}]}}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: one, namespace: metallb-system}
spec: {addresses: [203.0.113.77/32], autoAssign: false}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: everything, namespace: metallb-system}
";

/// Name, metadata besides it, spec besides type and port. `gone` is deleted before Headwater comes: its address is a gap.
const SERVICES: [(&str, &str, &str); 13] = [
    ("gone", "", ""),
    ("plain", "", ""),
    ("local", "", "externalTrafficPolicy: Local"),
    ("requested", "annotations: {metallb.universe.tf/loadBalancerIPs: 192.0.2.9}", ""),
    ("field", "", "loadBalancerIP: 192.0.2.12"),
    ("pooled", "annotations: {metallb.universe.tf/address-pool: by-name}", ""),
    ("pooled-too", "annotations: {metallb.io/address-pool: by-name}", ""),
    (
        "shared-a",
        "annotations: {metallb.universe.tf/allow-shared-ip: key, metallb.universe.tf/loadBalancerIPs: 192.0.2.5}",
        "",
    ),
    ("shared-b", "annotations: {metallb.io/allow-shared-ip: key, metallb.io/loadBalancerIPs: 192.0.2.5}", ""),
    ("dual", "", "ipFamilyPolicy: RequireDualStack"),
    ("pinned", "labels: {tier: front}", ""),
    ("holds-the-one", "annotations: {metallb.io/address-pool: one}", ""),
    ("waits", "annotations: {metallb.io/address-pool: one}", ""),
];

/// Of the Services, one has none.
const WITH_ADDRESSES: usize = SERVICES.len() - 2;

fn service(index: usize) -> String {
    let (name, metadata, spec) = SERVICES[index];
    let comma = |text: &str| if text.is_empty() { String::new() } else { format!(", {text}") };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}{}}}\n\
         spec: {{type: LoadBalancer, ports: [{{port: {}}}]{}}}\n",
        comma(metadata),
        8000 + index,
        comma(spec)
    )
}

fn path(object: &Value) -> Result<String> {
    let namespace = object["metadata"]["namespace"].as_str().context("namespace")?;
    Ok(match object["kind"].as_str().context("kind")? {
        "Service" => format!("/api/v1/namespaces/{namespace}/services"),
        "IPAddressPool" => format!("/apis/metallb.io/v1beta1/namespaces/{namespace}/ipaddresspools"),
        "L2Advertisement" => format!("/apis/metallb.io/v1beta1/namespaces/{namespace}/l2advertisements"),
        "ConfigurationState" => format!("/apis/metallb.io/v1beta1/namespaces/{namespace}/configurationstates"),
        other => anyhow::bail!("{other}"),
    })
}

/// MetalLB's controller, killed when dropped.
struct MetalLb(Child);

impl MetalLb {
    fn start(program: &str, cluster: &Cluster) -> Result<Self> {
        let mut command = Command::new(program);
        command.args([
            "--webhook-mode=disabled",
            "--disable-cert-rotation",
            "--namespace=metallb-system",
            "--port=7472",
        ]);
        command.env("KUBECONFIG", cluster.kubeconfig()).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self(command.stderr(Stdio::inherit()).spawn()?))
    }
}

impl Drop for MetalLb {
    fn drop(&mut self) {
        // Both fail only for a process that has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Addresses and pool of each Service that has some.
async fn addresses(cluster: &Cluster) -> Result<BTreeMap<String, (String, String)>> {
    let list = cluster.get("/api/v1/namespaces/shop/services").await?;
    let of = |service: &Value| {
        let entries = service["status"]["loadBalancer"]["ingress"].as_array()?;
        let texts: Vec<&str> = entries.iter().filter_map(|entry| entry["ip"].as_str()).collect();
        let pool = service["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"].as_str()?;
        Some((service["metadata"]["name"].as_str()?.to_owned(), (texts.join(","), pool.to_owned())))
    };
    Ok(list["items"].as_array().context("items")?.iter().filter_map(of).collect())
}

async fn has(cluster: &Cluster, name: &str, expected: &str) -> Result<()> {
    let last = std::cell::RefCell::new(None);
    let reached = || async {
        let found = addresses(cluster).await?.remove(name);
        let is_so = found.as_ref().is_some_and(|(addresses, _)| addresses == expected);
        last.replace(found);
        Ok(is_so.then_some(()))
    };
    wait::eventually(PATIENCE, reached).await.with_context(|| format!("{name}: {:?}, not {expected}", last.take()))
}

/// Lets MetalLB give addresses, and writes down what it leaves.
async fn give(cluster: &Cluster, program: &str) -> Result<()> {
    cluster.apply(POOLS).await?;
    let metallb = MetalLb::start(program, cluster)?;
    for (index, (name, ..)) in SERVICES.into_iter().enumerate() {
        apply(cluster, "shop", &service(index)).await?;
        let given = || async { Ok((name == "waits" || addresses(cluster).await?.contains_key(name)).then_some(())) };
        wait::eventually(PATIENCE, given).await.with_context(|| format!("MetalLB gives {name} nothing"))?;
    }
    cluster.delete("/api/v1/namespaces/shop/services/gone").await?;
    let counted = || async {
        let pool = cluster.get("/apis/metallb.io/v1beta1/namespaces/metallb-system/ipaddresspools/first").await?;
        Ok((pool["status"]["assignedIPv4"] == 6).then_some(()))
    };
    wait::eventually(PATIENCE, counted).await.context("MetalLB counts something else")?;
    drop(metallb);
    let mut objects = Vec::new();
    for (namespace, kinds) in
        [("metallb-system", "ipaddresspools,l2advertisements,configurationstates"), ("shop", "services")]
    {
        let list = cluster.kubectl(&["-n", namespace, "get", kinds, "-o", "json"]).await?.json()?;
        objects.extend(list["items"].as_array().context("items")?.iter().cloned());
    }
    for object in &mut objects {
        let metadata = object["metadata"].as_object_mut().context("metadata")?;
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
            metadata.remove(field);
        }
        if object["kind"] == "Service" {
            let spec = object["spec"].as_object_mut().context("spec")?;
            for field in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
                spec.remove(field);
            }
            for port in spec["ports"].as_array_mut().context("ports")? {
                port.as_object_mut().context("port")?.remove("nodePort");
            }
        }
    }
    let text = serde_json::to_string_pretty(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))?;
    std::fs::create_dir_all(Path::new(LEFT).parent().context("folder")?)?;
    Ok(std::fs::write(LEFT, text + "\n")?)
}

/// Stores what MetalLB left.
async fn restore(cluster: &Cluster) -> Result<()> {
    let left: Value = serde_json::from_str(&std::fs::read_to_string(LEFT)?)?;
    for object in left["items"].as_array().context("items")? {
        let mut object = object.clone();
        let status = object.as_object_mut().context("object")?.remove("status");
        let collection = path(&object)?;
        cluster.create(&collection, &object).await?;
        if let Some(status) = status {
            let name = object["metadata"]["name"].as_str().context("name")?;
            cluster.merge(&format!("{collection}/{name}/status"), &json!({"status": status})).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_metallb_is_taken_over_without_moving_an_address() -> Result<()> {
    let cluster = &start().await?;
    install(cluster).await?;
    cluster
        .create("/api/v1/namespaces", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}))
        .await?;
    let metallb = std::env::var(METALLB).ok();
    match &metallb {
        Some(program) => give(cluster, program).await?,
        None => restore(cluster).await?,
    }
    let before = addresses(cluster).await?;
    ensure!(before.len() == WITH_ADDRESSES, "{before:?}");
    // By name alone another Service would have it.
    ensure!(before["plain"].0 == "192.0.2.2" && before["dual"].0.contains("2001:db8::"), "{before:?}");

    let mut role = controller(cluster, "takes-over").await?;
    // It gives addresses, so that it has looked at everything: a new Service moves into the gap.
    apply(
        cluster,
        "shop",
        "apiVersion: v1\nkind: Service\nmetadata: {name: new}\nspec: {type: LoadBalancer, ports: [{port: 80}]}\n",
    )
    .await?;
    has(cluster, "new", "192.0.2.1").await?;
    let mut after = addresses(cluster).await?;
    after.remove("new");
    ensure!(after == before, "{before:?} became {after:?}");
    let events = cluster.get("/apis/events.k8s.io/v1/namespaces/shop/events").await?;
    let events = events["items"].as_array().context("items")?;
    let is_ours = |event: &&Value| event["reportingController"].as_str().is_some_and(|name| name.contains("headwater"));
    let told: Vec<&Value> =
        events.iter().filter(is_ours).filter(|event| event["reason"] == "ClearAssignment").collect();
    ensure!(told.is_empty(), "{told:?}");

    // Annotations of both prefixes go on working, and who waited is served when the address is free.
    let service = |name: &str| format!("/api/v1/namespaces/shop/services/{name}");
    let annotate = |annotations: Value| json!({"metadata": {"annotations": annotations}});
    cluster
        .merge(&service("requested"), &annotate(json!({"metallb.universe.tf/loadBalancerIPs": "192.0.2.8"})))
        .await?;
    has(cluster, "requested", "192.0.2.8").await?;
    cluster.merge(&service("pooled-too"), &annotate(json!({"metallb.io/address-pool": "first"}))).await?;
    has(cluster, "pooled-too", "192.0.2.6").await?;
    cluster.delete(&service("holds-the-one")).await?;
    has(cluster, "waits", "203.0.113.77").await?;
    let of_headwater = addresses(cluster).await?;
    ensure!(role.stop()?.code() == Some(0), "{}", role.stderr());

    // And back: everything that MetalLB goes by is where it was.
    let program = std::env::var(METALLB).ok();
    if let Some(program) = &program {
        let metallb = MetalLb::start(program, cluster)?;
        apply(
            cluster,
            "shop",
            "apiVersion: v1\nkind: Service\nmetadata: {name: back}\nspec: {type: LoadBalancer, ports: [{port: 80}]}\n",
        )
        .await?;
        let given = || async { Ok(addresses(cluster).await?.contains_key("back").then_some(())) };
        wait::eventually(PATIENCE, given).await.context("MetalLB does not take over")?;
        drop(metallb);
    }
    let mut last = addresses(cluster).await?;
    last.remove("back");
    ensure!(last == of_headwater, "{of_headwater:?} became {last:?}");
    let list = cluster.get("/api/v1/namespaces/shop/services").await?;
    for service in list["items"].as_array().context("items")? {
        ensure!(service["metadata"]["finalizers"].is_null(), "{service}");
    }
    Ok(())
}
