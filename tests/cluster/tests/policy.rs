//! The ValidatingAdmissionPolicies, judged by a real API server.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use headwater_testkit::cluster::Cluster;
use headwater_testkit::wait;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// Policies become known to an API server some seconds after they are stored.
const KNOWN: Duration = Duration::from_secs(60);

async fn cluster() -> Result<&'static Cluster> {
    CLUSTER
        .get_or_try_init(|| async {
            let cluster = Cluster::start().await?;
            for directory in ["deploy/crds", "deploy/policies"] {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(directory);
                cluster.kubectl(&["apply", "--server-side", "-f", path.to_str().unwrap()]).await?;
            }
            let names = ["customresourcedefinition.apiextensions.k8s.io", "--all"];
            cluster.kubectl(&[&["wait", "--for=condition=Established", "--timeout=60s"], &names[..]].concat()).await?;
            // The last of them: the others were stored before.
            let everybody = settings(json!({"clientAddress": {"trustedProxies": ["0.0.0.0/0"]}}));
            let both = settings(json!({"listeners": [listener("a", 80, None), listener("b", 80, None)]}));
            let bad = ingress(json!({"metadata": {"annotations": {format!("{NGINX}server-snippet"): "x"}}}));
            for object in [everybody, both, bad] {
                wait::eventually(KNOWN, || async {
                    let output = dry_run(&cluster, &object).await?;
                    Ok(output.contains("headwater: ").then_some(()))
                })
                .await?;
            }
            Ok(cluster)
        })
        .await
}

const NGINX: &str = "nginx.ingress.kubernetes.io/";

/// An Ingress of our class, with `changes` merged over it.
fn ingress(changes: Value) -> Value {
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"ingressClassName": "headwater", "rules": [{"host": "a.test", "http": {"paths": [path("/")]}}]},
    });
    merge(&mut object, changes);
    object
}

fn path(path: &str) -> Value {
    json!({"path": path, "pathType": "ImplementationSpecific",
        "backend": {"service": {"name": "web", "port": {"number": 80}}}})
}

fn with_path(text: &str) -> Value {
    ingress(json!({"spec": {"rules": [{"host": "a.test", "http": {"paths": [path("/"), path(text)]}}]}}))
}

fn with_host(host: &str) -> Value {
    ingress(json!({"spec": {"rules": [{"host": host, "http": {"paths": [path("/")]}}]}}))
}

fn with_annotation(name: &str, value: &str) -> Value {
    ingress(json!({"metadata": {"annotations": {name: value}}}))
}

fn settings(spec: Value) -> Value {
    json!({"apiVersion": "headwater.dev/v1alpha1", "kind": "GatewaySettings",
        "metadata": {"name": "edge", "namespace": "default"}, "spec": spec})
}

fn listener(name: &str, port: u16, address: Option<&str>) -> Value {
    let mut listener = json!({"name": name, "port": port, "protocol": "HTTP"});
    if let Some(address) = address {
        listener["address"] = address.into();
    }
    listener
}

/// RFC 7386.
fn merge(object: &mut Value, changes: Value) {
    match (object, changes) {
        (Value::Object(object), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(object.entry(key).or_insert(Value::Null), value);
            }
        }
        (object, changes) => *object = changes,
    }
}

/// What kubectl prints: refusal, warnings, or that it would be stored.
async fn dry_run(cluster: &Cluster, object: &Value) -> Result<String> {
    let output = cluster.try_apply(&object.to_string(), &["--dry-run=server"]).await?;
    Ok(format!("{}{}", output.stderr, output.stdout))
}

#[tokio::test]
async fn what_no_gateway_could_serve_is_refused() -> Result<()> {
    let cluster = cluster().await?;
    let long = "a".repeat(64);
    for (object, said) in [
        (with_path("/a/../b"), "no \"//\""),
        (with_path("/a/%2e%2E/b"), "no \"//\""),
        (with_path("/a//b"), "no \"//\""),
        (with_path("/a%2fb"), "no \"//\""),
        (with_path("/."), "no \"//\""),
        (with_path("/a\u{1}b"), "no control characters"),
        (with_path("/a%4"), "two hexadecimal digits"),
        (with_path("/a%zz"), "two hexadecimal digits"),
        (with_path(&format!("/{}", "a".repeat(4096))), "at most 4096"),
        // Refused by the API server itself, in words of its own.
        (with_path("a"), "must be an absolute path"),
        (with_host(&format!("{long}.test")), "labels with at most 63"),
        (with_host("*.*.test"), "spec.rules[0].host"),
        (with_host("a.*.test"), "spec.rules[0].host"),
        (with_host("192.0.2.1"), "must be a DNS name"),
        (with_annotation(&format!("{NGINX}server-snippet"), "return 200;"), "are refused"),
        (with_annotation(&format!("{NGINX}configuration-snippet"), ""), "are refused"),
        (with_annotation(&format!("{NGINX}canary-weight"), &"1".repeat(16385)), "at most 16384"),
        (with_annotation(&format!("{NGINX}canary-weight"), "1\u{1b}[2J"), "no control characters"),
        (
            ingress(json!({"spec": {"defaultBackend": {"resource": {"kind": "Bucket", "name": "b"}}}})),
            "backend.resource is not supported",
        ),
        (
            settings(json!({"listeners": [listener("a", 80, None), listener("b", 80, Some("192.0.2.1"))]})),
            "the same port of one address",
        ),
        (
            settings(
                json!({"listeners": [listener("a", 80, Some("192.0.2.1")), listener("b", 80, Some("192.0.2.1"))]}),
            ),
            "the same port of one address",
        ),
        (settings(json!({"listeners": [listener("a", 80, None), listener("a", 81, None)]})), "uplicate"),
        (
            settings(json!({"clientAddress": {"trustedProxies": ["10.0.0.0/8"], "trustedHops": 1}})),
            "exclude each other",
        ),
    ] {
        let output = cluster.try_apply(&object.to_string(), &["--dry-run=server"]).await?;
        ensure!(!output.success && output.stderr.contains(said), "{object}: {}{}", output.stdout, output.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn what_can_be_served_or_is_somebody_elses_is_stored() -> Result<()> {
    let cluster = cluster().await?;
    let foreign = with_path("/a/../b");
    let foreign = {
        let mut foreign = foreign;
        foreign["spec"]["ingressClassName"] = "other".into();
        foreign
    };
    for object in [
        ingress(json!({})),
        foreign,
        with_path(""),
        with_path("/a.b/..c/d..;x=%20/%41/ä ö"),
        with_path(&format!("/{}", "a".repeat(4095))),
        with_host("*.a.test"),
        with_host(&format!("{}.test", "a".repeat(63))),
        ingress(json!({"spec": {"tls": [{"hosts": ["a.test"], "secretName": "x"}, {"secretName": "y"}]}})),
        ingress(json!({"spec": {"rules": [{"host": "a.test"}, {"http": {"paths": [path("/")]}}]}})),
        ingress(
            json!({"spec": {"rules": null, "defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}}),
        ),
        with_annotation(&format!("{NGINX}proxy-body-size"), "8m\t\n"),
        with_annotation("example.com/server-snippet", "x"),
        settings(json!({})),
        settings(json!({"listeners": [listener("a", 80, None), listener("b", 443, None)]})),
        settings(json!({"listeners": [listener("a", 0, None), listener("b", 0, None)]})),
        settings(json!({"listeners": [listener("a", 80, Some("192.0.2.1")), listener("b", 80, Some("192.0.2.2"))]})),
        settings(json!({"clientAddress": {"trustedProxies": ["10.0.0.0/8"], "proxyProtocol": "Required"}})),
    ] {
        let output = cluster.try_apply(&object.to_string(), &["--dry-run=server"]).await?;
        ensure!(output.success && !output.stderr.contains("headwater"), "{object}: {}", output.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn what_is_dangerous_is_warned_of() -> Result<()> {
    let cluster = cluster().await?;
    let mut own = listener("a", 80, None);
    own["clientAddress"] = json!({"trustedProxies": ["10.0.0.0/8", "::/0"]});
    for (object, said) in [
        (settings(json!({"clientAddress": {"trustedProxies": ["0.0.0.0/0"]}})), "names every address"),
        (settings(json!({"listeners": [own]})), "names every address"),
        (settings(json!({"clientAddress": {"proxyProtocol": "Required"}})), "nobody is trusted"),
        (settings(json!({"clientAddress": {"proxyProtocol": "Optional", "trustedProxies": []}})), "nobody is trusted"),
    ] {
        let output = cluster.try_apply(&object.to_string(), &["--dry-run=server"]).await?;
        ensure!(output.success, "{object}: {}", output.stderr);
        let warning = output.stderr.lines().find(|line| line.starts_with("Warning: ")).unwrap_or_default();
        ensure!(warning.contains(said), "{object}: {}", output.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn what_was_broken_before_the_policies_can_still_be_labelled_and_deleted() -> Result<()> {
    let cluster = cluster().await?;
    let namespace = cluster.namespace("broken").await?;
    let collection = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses");
    let one = format!("{collection}/web");
    // Of no class at first, which nobody looks at; with the class only its spec counts, which then changes.
    let mut broken = with_path("/a/../b");
    broken["metadata"] = json!({"name": "web", "finalizers": ["example.com/wait"]});
    broken["spec"]["ingressClassName"] = "other".into();
    cluster.create(&collection, &broken).await?;
    let claimed = cluster.merge(&one, &json!({"spec": {"ingressClassName": "headwater"}})).await;
    ensure!(format!("{:?}", claimed.unwrap_err()).contains("no \\\"//\\\""), "the class makes it ours");

    // Stored while the policy did not bind.
    let binding = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/headwater-ingresses";
    let nowhere = json!({"spec": {"matchResources": {"namespaceSelector": {"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [namespace]}]}}}});
    cluster.merge(binding, &nowhere).await?;
    wait::eventually(KNOWN, || async {
        Ok(cluster.merge(&one, &json!({"spec": {"ingressClassName": "headwater"}})).await.ok())
    })
    .await?;
    cluster.merge(binding, &json!({"spec": {"matchResources": null}})).await?;
    let mut worse = broken.clone();
    worse["metadata"] = json!({"name": "other"});
    worse["spec"]["ingressClassName"] = "headwater".into();
    wait::eventually(KNOWN, || async {
        let path = format!("{collection}?dryRun=All");
        Ok(cluster.create(&path, &worse).await.err())
    })
    .await?;

    cluster.merge(&one, &json!({"metadata": {"labels": {"a": "b"}}})).await?;
    cluster
        .merge(&format!("{one}/status"), &json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}))
        .await?;
    let again = cluster.merge(&one, &json!({"metadata": {"annotations": {"a": "b"}}})).await;
    ensure!(again.is_err(), "annotations are looked at");
    cluster.delete(&one).await?;
    cluster.merge(&one, &json!({"metadata": {"finalizers": null}})).await?;
    ensure!(cluster.find(&one).await?.is_none(), "it is gone");
    Ok(())
}
