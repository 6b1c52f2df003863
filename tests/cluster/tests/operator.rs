//! ALB2s that become running gateways: the chart installed by helm, its controller making what an ALB2 wants.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use headwater_testkit::cluster::{Cluster, Network};
use headwater_testkit::response::Seen;
use headwater_testkit::wait::eventually;
use serde_json::{Value, json};

/// Until something is told that the server already knows; pods start as processes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

const CONTROLLERS: [&str; 6] = [
    "deployment-controller",
    "replicaset-controller",
    "endpointslice-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
];

const NAMESPACE: &str = "headwater-system";

/// An ALB with one port and one rule, and a backend.
const DEMO: &str = "
apiVersion: crd.alauda.io/v2beta1
kind: ALB2
metadata: {name: demo}
spec:
  type: nginx
  config: {networkMode: host, replicas: 1, metricsPort: 11936, enableIngress: 'false', maxTermSeconds: 1}
---
apiVersion: crd.alauda.io/v1
kind: Frontend
metadata: {name: demo-08080, labels: {alb2.cpaas.io/name: demo}}
spec: {port: 8080, protocol: http}
---
apiVersion: crd.alauda.io/v1
kind: Rule
metadata: {name: demo-08080-app, labels: {alb2.cpaas.io/name: demo, alb2.cpaas.io/frontend: demo-08080}}
spec:
  dslx: [{type: URL, values: [[STARTS_WITH, /app]]}]
  priority: 5
  serviceGroup: {services: [{name: app, namespace: NAMESPACE, port: 80, weight: 100}]}
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {selector: {app: whoami}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  selector: {matchLabels: {app: whoami}}
  template:
    metadata: {labels: {app: whoami}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: whoami
          image: whoami
          args: [--name, app]
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
";

async fn install(cluster: &Cluster) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let crds = root.join("deploy/crds/alb");
    cluster.kubectl(&["apply", "--server-side", "-f", crds.to_str().context("path")?]).await?;
    let chart = root.join("deploy/helm/headwater");
    let values = cluster.dir().join("values.yaml");
    std::fs::write(
        &values,
        "operator: {enabled: true}\nwebhook: {enabled: false}\ncontroller: {replicas: 1}\n\
         gateway: {replicas: 1, service: {enabled: false}}\n",
    )?;
    let (chart, values) = (chart.to_str().context("path")?, values.to_str().context("path")?);
    let arguments = ["install", "headwater", chart, "--namespace", NAMESPACE, "--create-namespace", "--values", values];
    let output = cluster.run("helm", cluster.kubeconfig(), &arguments).await?;
    ensure!(output.success, "helm: {}{}", output.stdout, output.stderr);
    Ok(())
}

/// Waits until the ALB2 is in this state, and returns its status.
async fn in_state(cluster: &Cluster, namespace: &str, state: &str) -> Result<Value> {
    let path = format!("/apis/crd.alauda.io/v2beta1/namespaces/{namespace}/alaudaloadbalancer2/demo");
    let last = std::cell::RefCell::new(Value::Null);
    let reached = || async {
        let status = cluster.get(&path).await?["status"].take();
        last.replace(status.clone());
        Ok((status["state"] == state).then_some(status))
    };
    eventually(DEADLINE, reached).await.with_context(|| format!("{state}, not {}", last.take()))
}

async fn until_gone(cluster: &Cluster, path: &str) -> Result<()> {
    eventually(DEADLINE, || async { Ok(cluster.find(path).await?.is_none().then_some(())) })
        .await
        .with_context(|| format!("{path} is still there"))
}

async fn set(cluster: &Cluster, namespace: &str, config: Value) -> Result<()> {
    let path = format!("/apis/crd.alauda.io/v2beta1/namespaces/{namespace}/alaudaloadbalancer2/demo");
    cluster.merge(&path, &json!({ "spec": { "config": config } })).await.map(drop)
}

#[tokio::test]
async fn an_alb2_becomes_a_gateway_follows_its_object_and_goes_with_it() -> Result<()> {
    let cluster = Cluster::start().await?;
    let _controllers = cluster.start_controller_manager(&CONTROLLERS)?;
    Network::test(&cluster, async |network| {
        let node = network.node("node-1").await?;
        install(&cluster).await?;
        let namespace = cluster.namespace("albs").await?;
        let manifests = DEMO.replace("NAMESPACE", &namespace);
        ensure!(cluster.try_apply(&manifests, &["-n", &namespace]).await?.success, "the manual's objects are refused");

        // It serves, by the port of its Frontend, and the backend hears the client.
        let status = in_state(&cluster, &namespace, "Running").await?;
        assert_eq!(status["detail"]["deploy"]["state"], "Running", "{status}");
        assert_eq!(status["detail"]["version"]["imagePatch"], "not patch", "{status}");
        let client = network.outside("client")?;
        let url = format!("http://{}:8080/app", node.addresses()[0]);
        let arguments = ["-sS", "--fail", "--max-time", "5", "-H", "X-Forwarded-For: 203.0.113.66", &url];
        let asked = || async { Ok(client.host().exec("curl", &arguments).ok().and_then(|text| Seen::parse(text.as_bytes()).ok())) };
        let seen = eventually(DEADLINE, asked).await.context("the rule is not served")?;
        assert_eq!(seen.header("x-forwarded-for"), Some(client.addresses()[0].to_string()), "{seen:?}");

        // Load balancers look at its metrics port, and nobody but the node at the admin port behind it.
        let at = |port: u16, path: &str| format!("http://{}:{port}{path}", node.addresses()[0]);
        let look = |url: &str| client.host().exec("curl", &["-sS", "--fail", "--max-time", "5", url]);
        assert_eq!(look(&at(11936, "/healthz"))?.trim(), "ok");
        assert!(look(&at(11937, "/healthz")).is_err(), "the admin port is open to everybody");

        // Who looks for it by project finds it; and it says in an Event that all is there.
        set(&cluster, &namespace, json!({ "projects": ["shop"] })).await?;
        let path = format!("/apis/crd.alauda.io/v2beta1/namespaces/{namespace}/alaudaloadbalancer2/demo");
        let labelled = || async {
            let labels = cluster.get(&path).await?["metadata"]["labels"].take();
            Ok((labels["project.cpaas.io/shop"] == "true").then_some(()))
        };
        eventually(DEADLINE, labelled).await.context("the label of its project")?;
        let told = cluster.kubectl(&["-n", &namespace, "describe", "alb2", "demo"]).await?.stdout;
        assert!(told.contains("pods, ports and addresses are there"), "{told}");

        // What the object says of pods reaches them; what somebody deletes comes back.
        let deployment = format!("/apis/apps/v1/namespaces/{namespace}/deployments/demo");
        set(&cluster, &namespace, json!({ "maxTermSeconds": 2 })).await?;
        let follows = || async {
            let seconds = &cluster.get(&deployment).await?["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
            Ok((*seconds == 7).then_some(()))
        };
        eventually(DEADLINE, follows).await.context("maxTermSeconds")?;
        in_state(&cluster, &namespace, "Running").await?;
        let instances = |frontend: &Value| frontend["status"]["instances"].as_object().map_or(0, |map| map.len());
        let before = cluster.get(&deployment).await?["metadata"]["uid"].take();
        cluster.delete(&deployment).await?;
        let again = || async {
            let found = cluster.find(&deployment).await?;
            Ok(found.filter(|found| found["metadata"]["uid"] != before))
        };
        eventually(DEADLINE, again).await.context("another Deployment")?;
        in_state(&cluster, &namespace, "Running").await?;
        // Pods that are gone are nobody's instances.
        let frontend = format!("/apis/crd.alauda.io/v1/namespaces/{namespace}/frontends/demo-08080");
        let one = || async { Ok((instances(&cluster.get(&frontend).await?) == 1).then_some(())) };
        eventually(DEADLINE, one).await.context("instances of the Frontend")?;
        set(&cluster, &namespace, json!({ "replicas": 0 })).await?;
        let none = || async { Ok((instances(&cluster.get(&frontend).await?) == 0).then_some(())) };
        eventually(DEADLINE, none).await.context("instances of no pods")?;
        set(&cluster, &namespace, json!({ "replicas": 1 })).await?;
        eventually(DEADLINE, one).await.context("an instance again")?;
        in_state(&cluster, &namespace, "Running").await?;

        // A class comes and goes with the switch; one that somebody else made is left alone, and told.
        let class = "/apis/networking.k8s.io/v1/ingressclasses/demo";
        let foreign = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": { "name": "demo" },
                              "spec": { "controller": "example.com/other" } });
        cluster.create("/apis/networking.k8s.io/v1/ingressclasses", &foreign).await?;
        set(&cluster, &namespace, json!({ "enableIngress": "true" })).await?;
        let status = in_state(&cluster, &namespace, "Warning").await?;
        assert!(status["reason"].as_str().is_some_and(|reason| reason.contains("IngressClass demo")), "{status}");
        assert_eq!(cluster.get(class).await?["spec"]["controller"], "example.com/other");
        cluster.delete(class).await?;
        let own = || async {
            let found = cluster.find(class).await?;
            Ok(found.filter(|class| class["spec"]["controller"] == "cpaas.io/alb2"))
        };
        eventually(DEADLINE, own).await.context("the class of the ALB2")?;
        set(&cluster, &namespace, json!({ "enableIngress": "false" })).await?;
        until_gone(&cluster, class).await?;

        // A load balancer in front is waited for.
        let alb = format!("/apis/crd.alauda.io/v2beta1/namespaces/{namespace}/alaudaloadbalancer2/demo");
        set(&cluster, &namespace, json!({ "vip": { "enableLbSvc": true } })).await?;
        let waits = || async { Ok((cluster.get(&alb).await?["status"]["reason"] == "wait lb svc ready").then_some(())) };
        eventually(DEADLINE, waits).await.context("it does not wait for its address")?;
        let balancer = format!("/api/v1/namespaces/{namespace}/services/demo-lb");
        let service = cluster.get(&balancer).await?;
        assert_eq!(service["spec"]["ports"][0]["port"], 8080, "{service}");
        let given = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.9" }] } } });
        cluster.merge(&format!("{balancer}/status"), &given).await?;
        let status = in_state(&cluster, &namespace, "Running").await?;
        assert_eq!(status["detail"]["address"]["ipv4"], json!(["192.0.2.9"]), "{status}");
        set(&cluster, &namespace, json!({ "vip": { "enableLbSvc": false } })).await?;
        until_gone(&cluster, &balancer).await?;

        // It goes, and all that was made for it, where it cannot own it too.
        cluster.delete(&alb).await?;
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let whole = format!("headwater-alb:{namespace}:demo");
        for path in [
            deployment,
            format!("/api/v1/namespaces/{namespace}/services/demo"),
            format!("/api/v1/namespaces/{namespace}/serviceaccounts/demo-serviceaccount"),
            format!("{rbac}/clusterrolebindings/{whole}"),
            format!("{rbac}/namespaces/{NAMESPACE}/rolebindings/{whole}:headwater-alb-lease"),
        ] {
            until_gone(&cluster, &path).await?;
        }
        Ok(())
    })
    .await
}
