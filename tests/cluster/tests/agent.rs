//! What the agent of a node reads and writes at a real API server, with the rights that the installation gives it.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use headwater_kube_io::{Access, ApiError, ApiServer, ApiServerSource, NodeAnnotation, Selection};
use headwater_model::cluster::Cluster as Objects;
use headwater_model::origin::Kind;
use headwater_model::tunnel::TUNNEL_ANNOTATION;
use headwater_testkit::cluster::{Cluster, Output, TokenKubeconfig};
use headwater_testkit::wait::eventually;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// Until something is told that the server already knows; policies take seconds.
const DEADLINE: Duration = Duration::from_secs(60);

const NAMESPACE: &str = "headwater-node";

struct Installed {
    cluster: Cluster,
    /// Of the agent on node-1.
    agent: TokenKubeconfig,
}

static INSTALLED: OnceCell<Installed> = OnceCell::const_new();

/// A cluster with the agent's manifests, nodes, and a pod of the agent on node-1.
async fn installed() -> Result<&'static Installed> {
    INSTALLED
        .get_or_try_init(|| async {
            let cluster = Cluster::start().await?;
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/manifests/headwater-node.yaml");
            cluster.kubectl(&["apply", "--server-side", "-f", path.to_str().unwrap()]).await?;
            for name in ["node-1", "node-2"] {
                make_node(&cluster, name).await?;
            }
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "agent-1" },
                "spec": { "nodeName": "node-1", "serviceAccountName": "headwater-node",
                          "containers": [{ "name": "node", "image": "none" }] },
            });
            cluster.create(&format!("/api/v1/namespaces/{NAMESPACE}/pods"), &pod).await?;
            let bound = ["--bound-object-kind", "Pod", "--bound-object-name", "agent-1", "--namespace", NAMESPACE];
            let token = cluster.kubectl(&[&["create", "token", "headwater-node"], &bound[..]].concat()).await?;
            let agent = cluster.kubeconfig_for_token(token.stdout.trim())?;
            // Of the policy the API server hears a moment later.
            eventually(DEADLINE, || async {
                let answer = annotate(&cluster, agent.path(), "node-2", "example.com/a=b").await?;
                Ok(answer.stderr.contains("headwater: ").then_some(()))
            })
            .await?;
            Ok(Installed { cluster, agent })
        })
        .await
}

async fn make_node(cluster: &Cluster, name: &str) -> Result<()> {
    let annotations = json!({ "example.com/other": "stays" });
    let metadata =
        json!({ "name": name, "labels": { "topology.kubernetes.io/zone": "z1" }, "annotations": annotations });
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata,
                       "spec": { "podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"] } });
    cluster.create("/api/v1/nodes", &node).await.map(drop)
}

async fn annotate(cluster: &Cluster, kubeconfig: &Path, node: &str, annotation: &str) -> Result<Output> {
    let words = ["annotate", "node", node, annotation, "--overwrite", "--dry-run=server"];
    cluster.run("kubectl", kubeconfig, &words).await
}

async fn connect(kubeconfig: &Path) -> Result<ApiServer> {
    Ok(ApiServer::connect(&Access { kubeconfig: Some(kubeconfig.to_owned()), context: None }).await?)
}

async fn metadata(cluster: &Cluster, node: &str) -> Result<Value> {
    Ok(cluster.get(&format!("/api/v1/nodes/{node}")).await?["metadata"].take())
}

async fn until_annotated(cluster: &Cluster, node: &str, value: Option<&str>) -> Result<()> {
    let seen = || async {
        let found = metadata(cluster, node).await?["annotations"][TUNNEL_ANNOTATION].take();
        Ok((found.as_str() == value).then_some(()))
    };
    eventually(DEADLINE, seen).await.with_context(|| format!("{node}: {value:?}"))
}

#[tokio::test]
async fn an_agent_changes_one_annotation_of_its_own_node_and_nothing_else() -> Result<()> {
    let Installed { cluster, agent } = installed().await?;
    let own = format!("{TUNNEL_ANNOTATION}=x");
    let agent = agent.path();
    for (node, annotation, refused) in [
        ("node-1", &*own, None),
        ("node-2", &own, Some("its own Node alone")),
        ("node-1", "example.com/a=b", Some("no annotation but")),
        ("node-1", "example.com/other=changed", Some("no annotation but")),
        ("node-1", "example.com/other-", Some("no annotation but")),
    ] {
        let answer = annotate(cluster, agent, node, annotation).await?;
        let said = format!("{node} {annotation}: {}", answer.stderr);
        ensure!(answer.success == refused.is_none() && answer.stderr.contains(refused.unwrap_or_default()), "{said}");
    }
    for (verb, words) in [
        ("label", &["label", "node", "node-1", "a=b"][..]),
        ("taint", &["taint", "node", "node-1", "a=b:NoSchedule"]),
        ("cordon", &["patch", "node", "node-1", "--patch", r#"{"spec": {"unschedulable": true}}"#]),
        ("delete", &["delete", "node", "node-1"]),
        (
            "status",
            &["patch", "node", "node-1", "--subresource=status", "--patch", r#"{"status": {"phase": "Running"}}"#],
        ),
    ] {
        let answer = cluster.run("kubectl", agent, &[words, &["--dry-run=server"]].concat()).await?;
        ensure!(!answer.success, "{verb}: {}", answer.stdout);
    }
    // Without a node in it a token is nobody's.
    let unbound = cluster.kubeconfig_for_service_account(NAMESPACE, "headwater-node").await?;
    let answer = annotate(cluster, unbound.path(), "node-1", &own).await?;
    ensure!(!answer.success && answer.stderr.contains("bound to its pod"), "{}", answer.stderr);
    let (server, other) = (connect(agent).await?, "example.com/annotation");
    let error = server.annotate_node("node-1", other, Some("x")).await.unwrap_err();
    ensure!(matches!(error, ApiError::Forbidden { .. } | ApiError::Refused { .. }), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn an_annotation_is_written_once_and_taken_away_whoever_wrote_it() -> Result<()> {
    let Installed { cluster, .. } = installed().await?;
    make_node(cluster, "node-3").await?;
    let server = connect(cluster.kubeconfig()).await?;
    let annotate = async |value| server.annotate_node("node-3", TUNNEL_ANNOTATION, value).await;
    ensure!(!annotate(None).await?, "there was nothing to take away");
    ensure!(annotate(Some("first")).await?);
    let version = metadata(cluster, "node-3").await?["resourceVersion"].take();
    ensure!(!annotate(Some("first")).await?);
    let after = metadata(cluster, "node-3").await?;
    ensure!(after["resourceVersion"] == version, "{after}");
    ensure!(after["annotations"] == json!({ "example.com/other": "stays", TUNNEL_ANNOTATION: "first" }), "{after}");
    let managers = after["managedFields"].as_array().context("managers")?;
    ensure!(managers.iter().any(|entry| entry["manager"] == "headwater" && entry["operation"] == "Apply"), "{after}");

    let others = format!("{TUNNEL_ANNOTATION}=forged");
    cluster.kubectl(&["annotate", "node", "node-3", &others, "--overwrite"]).await?;
    ensure!(annotate(Some("second")).await?);
    until_annotated(cluster, "node-3", Some("second")).await?;
    cluster.kubectl(&["annotate", "node", "node-3", &others, "--overwrite"]).await?;
    ensure!(annotate(None).await?);
    until_annotated(cluster, "node-3", None).await?;

    cluster.delete("/api/v1/nodes/node-3").await?;
    let error = annotate(Some("third")).await.unwrap_err();
    ensure!(matches!(error, ApiError::NotFound { .. }), "{error:?}");
    ensure!(cluster.find("/api/v1/nodes/node-3").await?.is_none(), "a deleted Node is not made anew");
    Ok(())
}

#[tokio::test]
async fn an_annotation_is_kept_through_a_node_that_comes_late_and_whoever_removes_it() -> Result<()> {
    let Installed { cluster, .. } = installed().await?;
    let keeper = NodeAnnotation::start(&connect(cluster.kubeconfig()).await?, "node-4", TUNNEL_ANNOTATION);
    keeper.want(Some("first"));
    make_node(cluster, "node-4").await?;
    // The first try met no Node; whoever sees it come tells.
    keeper.seen(None);
    until_annotated(cluster, "node-4", Some("first")).await?;
    cluster.kubectl(&["annotate", "node", "node-4", &format!("{TUNNEL_ANNOTATION}-")]).await?;
    keeper.want(Some("first"));
    keeper.seen(Some("first"));
    keeper.seen(None);
    until_annotated(cluster, "node-4", Some("first")).await?;
    keeper.want(None);
    until_annotated(cluster, "node-4", None).await
}

#[tokio::test]
async fn an_agent_reads_services_with_their_status_and_nodes_without_their_heartbeats() -> Result<()> {
    let Installed { cluster, agent } = installed().await?;
    let namespace = cluster.namespace("agent").await?;
    let services = format!("/api/v1/namespaces/{namespace}/services");
    for (name, cluster_ip, labels) in [
        ("headless", Some("None"), json!({ "service.kubernetes.io/headless": "" })),
        ("another", None, json!({ "service.kubernetes.io/service-proxy-name": "x" })),
        ("web", None, json!({})),
    ] {
        let spec = json!({ "type": if cluster_ip.is_some() { "ClusterIP" } else { "LoadBalancer" }, "clusterIP": cluster_ip,
                           "ports": [{ "port": 80 }] });
        let object = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "labels": labels }, "spec": spec });
        cluster.create(&services, &object).await?;
    }
    let mut source = ApiServerSource::start(&connect(agent.path()).await?, Selection::of_node());
    let mut objects = Objects::default();
    let mut next = async || -> Result<(usize, Objects)> {
        let batch = tokio::time::timeout(DEADLINE, source.next()).await.context("nothing is told")?;
        ensure!(batch.findings.is_empty(), "{:?}", batch.findings);
        batch.changes.iter().for_each(|change| objects.apply(change));
        Ok((batch.changes.len(), objects.clone()))
    };
    let (_, mut seen) = next().await?;
    let own = |seen: &Objects| -> Vec<String> {
        seen.services.keys().filter(|id| *id.namespace == *namespace).map(|id| id.name.to_string()).collect()
    };
    ensure!(own(&seen) == ["web"], "{:?}", own(&seen));
    let node = seen.nodes.values().find(|node| &*node.metadata.name == "node-1").context("the Node")?.clone();
    ensure!(node.spec.pod_cidrs == ["10.1.0.0/24"], "{node:?}");

    let heartbeat = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "a", "message": "b",
        "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
    cluster.merge("/api/v1/nodes/node-1/status", &heartbeat).await?;
    let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "198.51.100.1", "ipMode": "VIP" }] } } });
    cluster.merge(&format!("{services}/web/status"), &status).await?;
    loop {
        let before = seen;
        let (changes, now) = next().await?;
        ensure!(changes > 0, "a batch without a change");
        let same = |objects: &Objects| objects.nodes.values().find(|node| &*node.metadata.name == "node-1").cloned();
        ensure!(same(&before) == same(&now) && same(&now) == Some(node.clone()), "{:?}", same(&now));
        let web =
            now.services.iter().find(|(id, _)| own(&now).contains(&id.name.to_string()) && *id.namespace == *namespace);
        let ingress = web.context("the Service")?.1.status.load_balancer.ingress.clone();
        if ingress.first().is_some_and(|ingress| ingress.ip.as_deref() == Some("198.51.100.1")) {
            return Ok(());
        }
        seen = now;
    }
}

#[tokio::test]
async fn an_agent_that_announces_reads_routers_with_their_passwords_and_writes_who_hears_of_what() -> Result<()> {
    let cluster = Cluster::start().await?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    cluster.kubectl(&["apply", "--server-side", "-f", root.join("deploy/crds/metallb").to_str().unwrap()]).await?;
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).await?;
    for namespace in ["metallb-system", "announcing"] {
        cluster.kubectl(&["create", "namespace", namespace]).await?;
    }
    let chart = root.join("deploy/helm/headwater");
    let values = "node.enabled=true,node.announce={l2,bgp},webhook.enabled=false";
    let words = ["install", "announcing", chart.to_str().unwrap(), "--namespace", "announcing", "--set", values];
    let output = cluster.run("helm", cluster.kubeconfig(), &words).await?;
    ensure!(output.success, "helm: {}{}", output.stdout, output.stderr);
    let path = |plural: &str| format!("/apis/metallb.io/v1beta1/namespaces/metallb-system/{plural}");
    let peer = json!({ "apiVersion": "metallb.io/v1beta2", "kind": "BGPPeer", "metadata": { "name": "tor" },
        "spec": { "myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1", "passwordSecret": { "name": "tor" } } });
    cluster.create(&path("bgppeers").replace("v1beta1", "v1beta2"), &peer).await?;
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "tor" }, "type": "kubernetes.io/basic-auth",
        "stringData": { "password": "hidden" } });
    cluster.create("/api/v1/namespaces/metallb-system/secrets", &secret).await?;

    let agent = cluster.kubeconfig_for_service_account("announcing", "announcing-headwater-node").await?;
    let server = connect(agent.path()).await?;
    let selection = Selection::of_announcing_node("metallb-system").and_routers("metallb-system");
    let mut source = ApiServerSource::start(&server, selection);
    let mut objects = Objects::default();
    tokio::time::timeout(DEADLINE, async {
        while objects.bgp_peers.is_empty() || objects.secrets.is_empty() {
            let batch = source.next().await;
            ensure!(batch.findings.is_empty(), "{:?}", batch.findings);
            batch.changes.iter().for_each(|change| objects.apply(change));
        }
        Ok(())
    })
    .await
    .context("a peer and its password are not told")??;
    ensure!(objects.secrets.keys().all(|id| &*id.namespace == "metallb-system"), "{:?}", objects.secrets.keys());

    for (kind, plural) in [(Kind::ServiceL2Status, "servicel2statuses"), (Kind::ServiceBgpStatus, "servicebgpstatuses")]
    {
        let status = json!({ "node": "node-1", "serviceName": "web", "serviceNamespace": "shop" });
        let version = server.write_announced(kind, "metallb-system", "one", &Default::default(), &status).await?;
        let object = cluster.get(&format!("{}/one", path(plural))).await?;
        ensure!(object["status"] == status, "{object}");
        server.delete_announced(kind, "metallb-system", "one", &version).await?;
        ensure!(cluster.find(&format!("{}/one", path(plural))).await?.is_none(), "{kind} stays");
    }
    Ok(())
}
