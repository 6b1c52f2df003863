//! All of it at once: the chart installed by helm, both roles in pods, and a client whose address goes all the way.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use headwater_testkit::cluster::{Cluster, Network};
use headwater_testkit::lab::Host;
use headwater_testkit::response::Seen;
use headwater_testkit::wait::eventually;
use serde_json::Value;

/// Until pods run: each is a process or two, and the machine may be busy.
const ROLLOUT: Duration = Duration::from_secs(90);

const CONTROLLERS: [&str; 7] = [
    "deployment-controller",
    "replicaset-controller",
    "daemonset-controller",
    "job-controller",
    "endpointslice-controller",
    "namespace-controller",
    "garbage-collector-controller",
];

const NAMESPACE: &str = "headwater-system";

/// Two backends, each on a node of its own, behind one Service and one Ingress.
const APP: &str = "
apiVersion: v1
kind: Service
metadata: {name: app}
spec:
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  selector: {app: whoami}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: app}
spec:
  ingressClassName: headwater
  rules: [{host: app.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: app, port: {number: 80}}}}]}}]
";

fn backend(node: &str) -> String {
    format!(
        "
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: on-{node}}}
spec:
  selector: {{matchLabels: {{app: whoami, node: {node}}}}}
  template:
    metadata: {{labels: {{app: whoami, node: {node}}}}}
    spec:
      nodeName: {node}
      terminationGracePeriodSeconds: 5
      containers:
        - name: whoami
          image: whoami
          args: [--name, on-{node}]
          readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"
    )
}

async fn helm(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    let output = cluster.run("helm", cluster.kubeconfig(), arguments).await?;
    ensure!(output.success, "helm {arguments:?}: {}{}", output.stdout, output.stderr);
    Ok(())
}

/// Waits until so many pods of a component are ready.
async fn ready(cluster: &Cluster, component: &str, count: usize) -> Result<()> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app.kubernetes.io/component%3D{component}");
    let found = || async {
        let pods = cluster.get(&path).await?;
        let is_ready = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        };
        let ready = pods["items"].as_array().map_or(0, |pods| pods.iter().filter(is_ready).count());
        Ok((ready == count).then_some(()))
    };
    let reached = eventually(ROLLOUT, found).await;
    if reached.is_err() {
        eprintln!("{:?}", cluster.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", "yaml"]).await);
    }
    reached.with_context(|| format!("{count} pods of the {component}"))
}

/// Asks a node from a client that lies about who it is.
fn ask(client: &Host, node: IpAddr) -> Result<Seen> {
    let address = if node.is_ipv6() { format!("[{node}]") } else { node.to_string() };
    let url = format!("http://{address}:8080/");
    let arguments = ["-sS", "--max-time", "10", "-H", "Host: app.test", "-H", "X-Forwarded-For: 203.0.113.66", &url];
    Seen::parse(client.exec("curl", &arguments)?.as_bytes())
}

#[tokio::test]
async fn helm_installs_it_and_a_pod_on_another_node_sees_the_real_client() -> Result<()> {
    let cluster = Cluster::start().await?;
    let _controllers = cluster.start_controller_manager(&CONTROLLERS)?;
    Network::test(&cluster, async |network| {
        let (one, _two) = (network.node("node-1").await?, network.node("node-2").await?);
        let [four, six] = one.addresses();
        let values = cluster.dir().join("values.yaml");
        std::fs::write(
            &values,
            format!(
                "gateway: {{kind: DaemonSet, hostNetwork: true, service: {{enabled: false}}, preStopDelaySeconds: 0}}\n\
                 controller: {{publishAddresses: ['{four}', '{six}']}}\n\
                 webhook: {{failurePolicy: Fail}}\n"
            ),
        )?;
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/headwater");
        let (chart, values) = (chart.to_str().context("path")?, values.to_str().context("path")?);
        let install =
            ["install", "headwater", chart, "--namespace", NAMESPACE, "--create-namespace", "--values", values];
        helm(&cluster, &install).await?;
        ready(&cluster, "gateway", 2).await?;
        ready(&cluster, "controller", 2).await?;

        let namespace = cluster.namespace("shop").await?;
        let manifests = format!("{APP}{}{}", backend("node-1"), backend("node-2"));
        // The webhook must answer, by its Service's name and with a certificate of its own making.
        let last = std::cell::RefCell::new(String::new());
        let applied = || async {
            let output = cluster.try_apply(&manifests, &["-n", &namespace]).await?;
            last.replace(output.stdout + &output.stderr);
            Ok(output.success.then_some(()))
        };
        eventually(ROLLOUT, applied).await.with_context(|| last.take())?;

        // Through the first node to the pods of both.
        let client = network.outside("client")?;
        for (source, node) in client.addresses().into_iter().zip([four, six]) {
            for name in ["on-node-1", "on-node-2"] {
                let found = || async {
                    let seen = ask(client.host(), node);
                    Ok(seen.ok().filter(|seen| seen.name() == name))
                };
                let seen = eventually(ROLLOUT, found).await.with_context(|| format!("{name} by {node}"))?;
                assert_eq!(seen.header("x-forwarded-for"), Some(source.to_string()), "{seen:?}");
                assert_eq!(seen.header("x-real-ip"), Some(source.to_string()), "{seen:?}");
            }
        }

        let path = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/app");
        let addresses = || async {
            let ingress = cluster.get(&path).await?;
            let entries = ingress["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
            Ok::<_, anyhow::Error>(entries.len())
        };
        eventually(ROLLOUT, || async { Ok((addresses().await? == 2).then_some(())) }).await?;

        // What the gateway would answer with 503 is refused while its author still looks at it.
        let guarded = APP.split("---").nth(1).context("an Ingress")?.replace(
            "metadata: {name: app}",
            "metadata: {name: guarded, annotations: {nginx.ingress.kubernetes.io/auth-tls-secret: 'a/b'}}",
        );
        let refused = cluster.try_apply(&guarded.replace("app.test", "guarded.test"), &["-n", &namespace]).await?;
        assert!(!refused.success && refused.stderr.contains("auth-tls-secret"), "{}", refused.stderr);

        // What is removed leaves nothing behind that it wrote.
        helm(&cluster, &["uninstall", "headwater", "--namespace", NAMESPACE, "--wait", "--timeout", "80s"]).await?;
        assert_eq!(addresses().await?, 0);
        Ok(())
    })
    .await
}
