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

#[tokio::test(flavor = "multi_thread")]
async fn an_alb_whose_definitions_come_later_is_served_and_its_ingresses_show_where() -> Result<()> {
    let cluster = start().await?;
    let namespace = cluster.namespace("albs").await?;
    let port = std::net::TcpListener::bind("[::]:0")?.local_addr()?.port();
    let alb = format!("{namespace}/demo");
    let (gateway, controller) = {
        let arguments = ["--alb", &alb];
        let start = |role: &str| Role::start(cluster.kubeconfig(), role, role, &arguments);
        (start("gateway")?, start("controller")?)
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
    ensure!(cluster.delete(&path).await.is_ok(), "the ALB2 cannot be deleted");
    shown(&cluster, &namespace, &Value::Null).await
}
