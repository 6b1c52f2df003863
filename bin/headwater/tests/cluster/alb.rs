//! ALB2s of an API server: a gateway that is there before their definitions, and what a controller writes of them.

use anyhow::{Context, Result, ensure};
use headwater_testkit::cluster::Cluster;
use headwater_testkit::wait;
use serde_json::{Value, json};

use crate::support::{PATIENCE, Role, apply, backend, ingress, service, start};

async fn shown(cluster: &Cluster, namespace: &str, expected: &Value) -> Result<()> {
    let path = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/app");
    let last = std::cell::RefCell::new(Value::Null);
    let same = || async {
        let status = cluster.get(&path).await?["status"]["loadBalancer"]["ingress"].take();
        last.replace(status.clone());
        Ok((status == *expected).then_some(()))
    };
    wait::eventually(PATIENCE, same).await.with_context(|| format!("{}, not {expected}", last.take()))
}

/// The Rules that show an Ingress.
async fn rules_of(cluster: &Cluster, namespace: &str, ingress: &str) -> Result<Vec<Value>> {
    let selector = format!("labelSelector=alb2.cpaas.io/source-type%3Dingress,alb2.cpaas.io/source-name%3D{ingress}");
    let path = format!("/apis/crd.alauda.io/v1/namespaces/{namespace}/rules?{selector}");
    Ok(cluster.get(&path).await?["items"].as_array().cloned().unwrap_or_default())
}

/// The one that shows it with this host, once it is there.
async fn rule_of(cluster: &Cluster, namespace: &str, ingress: &str, host: &str) -> Result<Value> {
    let found = || async {
        let rules = rules_of(cluster, namespace, ingress).await?;
        Ok(rules.into_iter().find(|rule| rule["spec"]["domain"] == host))
    };
    wait::eventually(PATIENCE, found).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alb_whose_definitions_come_later_is_served_and_its_ingresses_show_where() -> Result<()> {
    let cluster = start().await?;
    let namespace = cluster.namespace("albs").await?;
    let port = std::net::TcpListener::bind("[::]:0")?.local_addr()?.port();
    let alb = format!("{namespace}/demo");
    let (gateway, controller) = {
        let start = |role: &str, arguments: &[&str]| Role::start(cluster.kubeconfig(), role, role, arguments);
        (start("gateway", &["--alb", &alb])?, start("controller", &["--alb", &alb, "--ingress-rules", "objects"])?)
    };
    controller.ready()?;

    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds/alb");
    cluster.kubectl(&["apply", "--server-side", "-f", crds]).await?;
    for kind in ["v2beta1/alaudaloadbalancer2", "v1/frontends", "v1/rules"] {
        let path = format!("/apis/crd.alauda.io/{kind}");
        wait::eventually(PATIENCE, || async { cluster.find(&path).await }).await?;
    }
    let object = |address: &str| {
        format!(
            "apiVersion: crd.alauda.io/v2beta1\nkind: ALB2\nmetadata: {{name: demo}}\n\
             spec: {{address: {address}, config: {{projects: [ALL_ALL], ingressHTTPPort: {port}, ingressHTTPSPort: 0}}}}\n"
        )
    };
    let origin = backend("one")?;
    apply(&cluster, &namespace, &object("192.0.2.7")).await?;
    let objects = service("app", origin.address()) + &ingress("app", "demo", "app.test", "app");
    apply(&cluster, &namespace, &objects).await?;
    let listener = format!("demo-{port:05}");
    wait::until(PATIENCE, || {
        let asked = gateway.address(&listener).and_then(|address| {
            let mut client = headwater_testkit::client::RawClient::connect(([127, 0, 0, 1], address.port()).into())?;
            client.request("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
        });
        asked.is_ok_and(|answer| answer.status == 200)
    })
    .with_context(|| gateway.stderr())?;

    // Where clients find it, at which port; it follows the ALB2, and ends with it.
    let ports = json!([{"port": port, "protocol": "TCP"}]);
    shown(&cluster, &namespace, &json!([{"ip": "192.0.2.7", "ports": ports}])).await?;
    apply(&cluster, &namespace, &object("lb.example")).await?;
    shown(&cluster, &namespace, &json!([{"hostname": "lb.example", "ports": ports}])).await?;

    // Who looks at Rules sees each path of an Ingress, by a name that stays; what users wrote is nobody else's.
    let mine = format!(
        "apiVersion: crd.alauda.io/v1\nkind: Rule\n\
         metadata: {{name: mine, labels: {{alb2.cpaas.io/name: demo, alb2.cpaas.io/frontend: {listener}}}}}\n\
         spec: {{dslx: [{{type: URL, values: [[EQ, /mine]]}}], serviceGroup: {{services: [{{name: app, port: 80}}]}}}}\n"
    );
    apply(&cluster, &namespace, &mine).await?;
    apply(&cluster, &namespace, &ingress("two", "demo", "two.test", "app")).await?;
    let of_two = rule_of(&cluster, &namespace, "two", "two.test").await.with_context(|| controller.stderr())?;
    let labels = &of_two["metadata"]["labels"];
    assert_eq!(
        (&labels["alb2.cpaas.io/frontend"], &labels["alb2.cpaas.io/source-index"]),
        (&json!(listener), &json!("0-0"))
    );
    let frontend = cluster.get(&format!("/apis/crd.alauda.io/v1/namespaces/{namespace}/frontends/{listener}")).await?;
    assert_eq!(of_two["metadata"]["ownerReferences"][0]["uid"], frontend["metadata"]["uid"], "{of_two}");
    assert_eq!(frontend["metadata"]["ownerReferences"][0]["name"], "demo", "{frontend}");
    let table = cluster.kubectl(&["-n", &namespace, "get", "rules.crd.alauda.io"]).await?.stdout;
    assert!(table.lines().any(|line| line.contains("two.test") && line.contains("ingress")), "{table}");
    let written_by_user = cluster.get(&format!("/apis/crd.alauda.io/v1/namespaces/{namespace}/rules/mine")).await?;

    apply(&cluster, &namespace, &ingress("two", "demo", "moved.test", "app")).await?;
    let moved = rule_of(&cluster, &namespace, "two", "moved.test").await.with_context(|| controller.stderr())?;
    assert_eq!(moved["metadata"]["uid"], of_two["metadata"]["uid"], "it is another Rule now");
    cluster.delete(&format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/two")).await?;
    let gone = || async { Ok(rules_of(&cluster, &namespace, "two").await?.is_empty().then_some(())) };
    wait::eventually(PATIENCE, gone).await.with_context(|| controller.stderr())?;
    assert_eq!(rules_of(&cluster, &namespace, "app").await?.len(), 1);
    assert_eq!(
        cluster.get(&format!("/apis/crd.alauda.io/v1/namespaces/{namespace}/rules/mine")).await?["metadata"],
        written_by_user["metadata"]
    );

    // What is wrong with an object of the ALB is told on it.
    let frontend = "apiVersion: crd.alauda.io/v1\nkind: Frontend\n\
                    metadata: {name: odd, labels: {alb2.cpaas.io/name: demo}}\nspec: {port: 9, protocol: sctp}\n";
    apply(&cluster, &namespace, frontend).await?;
    let told = || async {
        let events = cluster.kubectl(&["-n", &namespace, "describe", "frontends.crd.alauda.io", "odd"]).await?.stdout;
        Ok(events.contains("is not a protocol").then_some(()))
    };
    wait::eventually(PATIENCE, told).await.with_context(|| controller.stderr())?;
    let path = format!("/apis/crd.alauda.io/v2beta1/namespaces/{namespace}/alaudaloadbalancer2/demo");

    // Statuses of ALB2s and Frontends are given up with all others, before Headwater goes.
    let written = format!(
        "apiVersion: crd.alauda.io/v2beta1\nkind: ALB2\nmetadata: {{name: demo}}\nstatus: {{state: Running}}\n---\n\
         apiVersion: crd.alauda.io/v1\nkind: Frontend\nmetadata: {{name: {listener}}}\n\
         status: {{instances: {{host/pod: {{conflict: true}}}}}}\n"
    );
    let as_headwater = ["-n", &namespace, "--subresource=status", "--field-manager=headwater"];
    ensure!(cluster.try_apply(&written, &as_headwater).await?.success, "the statuses are refused");
    let frontend = format!("/apis/crd.alauda.io/v1/namespaces/{namespace}/frontends/{listener}");
    assert_eq!(cluster.get(&path).await?["status"]["state"], "Running");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_headwater"))
        .args(["controller", "--kubeconfig", &cluster.kubeconfig().to_string_lossy(), "--clear-status"])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_ne!(cluster.get(&path).await?["status"]["state"], "Running");
    assert_eq!(cluster.get(&frontend).await?["status"]["instances"], Value::Null);
    ensure!(cluster.delete(&path).await.is_ok(), "the ALB2 cannot be deleted");
    shown(&cluster, &namespace, &Value::Null).await
}
