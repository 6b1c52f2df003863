//! `headwater explain` of today's cluster.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::support::start;

/// The manifests of the examples, as an API server takes them: what a status says is said apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_explained_as_its_manifests_are() -> Result<()> {
    let cluster = start().await?;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/explain");
    cluster.kubectl(&["create", "namespace", "shop"]).await?;
    for file in ["cluster.yaml", "gateway.yaml"] {
        let manifests = std::fs::read_to_string(examples.join(file))?;
        // The rendered installation has this class already.
        let wanted = |text: &&str| !text.contains("kind: IngressClass");
        cluster.apply(&manifests.split("\n---\n").filter(wanted).collect::<Vec<_>>().join("\n---\n")).await?;
    }
    let class = "spec:\n  controller: headwater.dev/ingress\n  parameters: {apiGroup: headwater.dev, kind: GatewaySettings, \
                 name: headwater, namespace: headwater-system, scope: Namespace}";
    let class = format!("apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: explain}}\n{class}\n");
    cluster.apply(&class).await?;
    cluster
        .kubectl(&["-n", "shop", "patch", "ingress", "whoami", "-p", r#"{"spec":{"ingressClassName":"explain"}}"#])
        .await?;
    for (namespace, service, ip) in [
        ("shop", "web", "203.0.113.10"),
        ("shop", "web-local", "203.0.113.11"),
        ("headwater-system", "headwater-gateway", "203.0.113.20"),
    ] {
        let status = format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{ip}"}}]}}}}}}"#);
        cluster.kubectl(&["-n", namespace, "patch", "service", service, "--subresource=status", "-p", &status]).await?;
    }
    for last in 1..=3 {
        let (node, ip) = (format!("node-{last}"), format!("192.0.2.1{last}"));
        let status = format!(r#"{{"status":{{"addresses":[{{"type":"InternalIP","address":"{ip}"}}]}}}}"#);
        cluster.kubectl(&["patch", "node", &node, "--subresource=status", "-p", &status]).await?;
    }
    for question in [
        &["tcp://203.0.113.10:80", "--node", "node-1"][..],
        &["http://203.0.113.11/"],
        &["tcp://192.0.2.12:30080"],
        &["http://whoami.example.com/", "--node", "node-1"],
    ] {
        let ask = |more: &[&str]| -> Result<String> {
            let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
            command.env_remove("HEADWATER_LOG").args(["explain", "--from", "198.51.100.7"]).args(question).args(more);
            let output = command.output()?;
            ensure!(output.status.success(), "{output:?}");
            Ok(String::from_utf8(output.stdout)?)
        };
        let kubeconfig = cluster.kubeconfig().to_str().context("a path of text")?;
        let of_cluster = ask(&["--kubeconfig", kubeconfig, "--ingress-class", "explain"])?;
        let of_manifests = ask(&["-f", examples.to_str().context("a path of text")?])?;
        ensure!(of_cluster == of_manifests, "{question:?}: the cluster\n{of_cluster}\nthe manifests\n{of_manifests}");
        ensure!(of_cluster.contains("kept"), "{of_cluster}");
    }
    Ok(())
}
