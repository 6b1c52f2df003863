//! What a gateway does with what an API server says.

use std::time::Duration;

use anyhow::{Context, Result};
use headwater_testkit::certs::Authority;
use headwater_testkit::client::RawClient;
use headwater_testkit::dial::{Dial, Tls};
use headwater_testkit::wait;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    App, NAMESPACE, PATIENCE, Role, apply, backend, class, credentials, ingress, service, shared, start,
};

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_served_and_every_edit_is_live() -> Result<()> {
    let cluster = shared().await?;
    let namespace = cluster.namespace("edits").await?;
    class(cluster, &namespace).await?;
    let gateway = Role::gateway(cluster, &namespace, &[]).await?;
    let (one, two) = (backend("one")?, backend("two")?);
    apply(cluster, &namespace, &service("app", one.address())).await?;
    apply(cluster, &namespace, &ingress("app", &namespace, "app.test", "app")).await?;
    gateway.answers("app.test", (200, "one"))?;
    apply(cluster, &namespace, &service("app", two.address())).await?;
    gateway.answers("app.test", (200, "two"))?;
    apply(cluster, &namespace, &ingress("app", &namespace, "other.test", "app")).await?;
    gateway.answers("other.test", (200, "two"))?;
    gateway.answers("app.test", (404, ""))?;
    cluster.kubectl(&["-n", &namespace, "delete", "ingress", "app"]).await?;
    gateway.answers("other.test", (404, ""))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_read_once_it_is_named_and_forgotten_when_it_is_not() -> Result<()> {
    let cluster = shared().await?;
    let namespace = cluster.namespace("secrets").await?;
    class(cluster, &namespace).await?;
    let gateway = Role::gateway(cluster, &namespace, &[]).await?;
    let watches = gateway.metric("headwater_source_watches")?;
    let origin = backend("one")?;
    let authority = Authority::new("secrets")?;
    let leaf = authority.leaf(&["secure.test"])?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "cert"},
        "stringData": {"tls.crt": leaf.cert_pem, "tls.key": leaf.key_pem},
    });
    apply(cluster, &namespace, &secret.to_string()).await?;
    apply(cluster, &namespace, &service("app", origin.address())).await?;
    let entry = "  tls: [{hosts: [secure.test], secretName: cert}]\n  rules:";
    let plain = ingress("secure", &namespace, "secure.test", "app");
    apply(cluster, &namespace, &plain.replace("  rules:", entry)).await?;
    gateway.answers("secure.test", (308, ""))?;
    // From the first moment on: the change waited for the Secret.
    let served = || -> Result<Vec<u8>> {
        let dial = Dial::to(gateway.address("https")?).tls(Tls::new("secure.test"));
        RawClient::open(&dial)?.stream().leaf().context("a certificate")
    };
    assert_eq!(served()?, leaf.cert_der.to_vec());
    assert_eq!(gateway.metric("headwater_source_watches")?, watches + 1.0, "one Secret is watched, and no other");

    let renewed = authority.leaf(&["secure.test"])?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "cert"},
        "stringData": {"tls.crt": renewed.cert_pem, "tls.key": renewed.key_pem},
    });
    apply(cluster, &namespace, &secret.to_string()).await?;
    wait::until(PATIENCE, || served().is_ok_and(|served| served == renewed.cert_der.to_vec()))?;

    cluster.kubectl(&["-n", &namespace, "delete", "ingress", "secure"]).await?;
    wait::until(PATIENCE, || gateway.metric("headwater_source_watches").is_ok_and(|now| now == watches))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_namespace_takes_its_routes_with_it() -> Result<()> {
    let cluster = shared().await?;
    let _manager = cluster.start_controller_manager(&["namespace-controller"])?;
    let (namespace, doomed) = (cluster.namespace("stays").await?, cluster.namespace("doomed").await?);
    class(cluster, &namespace).await?;
    let gateway = Role::gateway(cluster, &namespace, &[]).await?;
    let origin = backend("one")?;
    for (place, host) in [(&namespace, "stays.test"), (&doomed, "doomed.test")] {
        apply(cluster, place, &(service("app", origin.address()) + &ingress("app", &namespace, host, "app"))).await?;
        gateway.answers(host, (200, "one"))?;
    }
    cluster.kubectl(&["delete", "namespace", &doomed]).await?;
    gateway.answers("doomed.test", (404, ""))?;
    gateway.answers("stays.test", (200, "one"))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_wrong_is_named_and_the_others_are_served() -> Result<()> {
    let cluster = shared().await?;
    let namespace = cluster.namespace("wrong").await?;
    class(cluster, &namespace).await?;
    let gateway = Role::gateway(cluster, &namespace, &[]).await?;
    let origin = backend("one")?;
    apply(cluster, &namespace, &service("app", origin.address())).await?;
    let wrong = ingress("wrong", &namespace, "wrong.test", "app").replace(
        "metadata: {name: wrong}",
        "metadata: {name: wrong, annotations: {nginx.ingress.kubernetes.io/auth-tls-secret: 'a/b'}}",
    );
    apply(cluster, &namespace, &(wrong + &ingress("right", &namespace, "right.test", "app"))).await?;
    gateway.answers("right.test", (200, "one"))?;
    gateway.answers("wrong.test", (503, "unavailable_guard"))?;
    let status = gateway.status()?;
    let finding = status["findings"].as_array().context("findings")?.iter().find(|finding| finding["name"] == "wrong");
    let finding =
        finding.or_else(|| status["findings"].as_array()?.iter().find(|finding| finding["object"]["name"] == "wrong"));
    assert_eq!(finding.with_context(|| status.to_string())?["object"]["namespace"], *namespace, "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_is_taken_over_by_name() -> Result<()> {
    let cluster = shared().await?;
    let namespace = cluster.namespace("taken").await?;
    class(cluster, &namespace).await?;
    let foreign = format!("nginx-{namespace}");
    cluster
        .apply(&format!(
            "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: {foreign}}}\nspec: {{controller: k8s.io/ingress-nginx}}\n"
        ))
        .await?;
    let origin = backend("one")?;
    apply(cluster, &namespace, &service("app", origin.address())).await?;
    apply(cluster, &namespace, &ingress("own", &namespace, "own.test", "app")).await?;
    apply(cluster, &namespace, &ingress("foreign", &foreign, "foreign.test", "app")).await?;
    let gateway = Role::gateway(cluster, &namespace, &[]).await?;
    gateway.answers("own.test", (200, "one"))?;
    gateway.answers("foreign.test", (404, ""))?;
    let migrating = Role::gateway(cluster, &namespace, &["--take-over-class", &foreign]).await?;
    migrating.answers("own.test", (200, "one"))?;
    migrating.answers("foreign.test", (200, "one"))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_namespaces_that_are_named_count() -> Result<()> {
    let cluster = shared().await?;
    let (namespace, other) = (cluster.namespace("watched").await?, cluster.namespace("unwatched").await?);
    class(cluster, &namespace).await?;
    let origin = backend("one")?;
    for (place, host) in [(&namespace, "in.test"), (&other, "out.test")] {
        apply(cluster, place, &(service("app", origin.address()) + &ingress("app", &namespace, host, "app"))).await?;
    }
    let gateway = Role::gateway(cluster, &namespace, &["--watch-namespaces", &namespace]).await?;
    gateway.answers("in.test", (200, "one"))?;
    gateway.answers("out.test", (404, ""))?;

    // The installation gives this right where the selector is one of its values.
    cluster
        .apply(&format!(
            "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {namespace}}}
rules: [{{apiGroups: [''], resources: [namespaces], verbs: [list, watch]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {namespace}}}
subjects: [{{kind: ServiceAccount, name: headwater-gateway, namespace: {NAMESPACE}}}]
"
        ))
        .await?;
    cluster.kubectl(&["label", "namespace", &other, "team=blue"]).await?;
    cluster.kubectl(&["label", "namespace", &namespace, "team=blue"]).await?;
    let gateway = Role::gateway(cluster, &namespace, &["--watch-namespace-selector", "team=blue"]).await?;
    gateway.answers("in.test", (200, "one"))?;
    gateway.answers("out.test", (200, "one"))?;
    cluster.kubectl(&["label", "namespace", &other, "team-"]).await?;
    gateway.answers("out.test", (404, ""))?;
    gateway.answers("in.test", (200, "one"))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_backend_and_the_config_map_of_ingress_nginx_are_obeyed() -> Result<()> {
    let cluster = shared().await?;
    let namespace = cluster.namespace("flags").await?;
    class(cluster, &namespace).await?;
    let (one, rest) = (backend("one")?, backend("rest")?);
    apply(cluster, &namespace, &(service("app", one.address()) + &service("rest", rest.address()))).await?;
    apply(cluster, &namespace, &ingress("app", &namespace, "app.test", "app")).await?;
    let (default_backend, config_map) = (format!("{namespace}/rest"), format!("{namespace}/nginx"));
    let arguments = ["--default-backend-service", &default_backend, "--configmap", &config_map];
    let gateway = Role::gateway(cluster, &namespace, &arguments).await?;
    gateway.answers("app.test", (200, "one"))?;
    gateway.answers("unknown.test", (200, "rest"))?;
    // It is no right of the gateway's to read this one: the installation gives the one that its values name.
    let finding = || gateway.status().is_ok_and(|status| status["findings"].to_string().contains("Forbidden"));
    wait::until(PATIENCE, finding).with_context(|| gateway.stderr())?;
    apply(
        cluster,
        &namespace,
        &format!(
            "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: nginx}}
rules: [{{apiGroups: [''], resources: [configmaps], resourceNames: [nginx], verbs: [get, list, watch]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: nginx}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: nginx}}
subjects: [{{kind: ServiceAccount, name: headwater-gateway, namespace: {NAMESPACE}}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: nginx}}
data: {{use-proxy-protocol: 'true', proxy-real-ip-cidr: 127.0.0.0/8}}
"
        ),
    )
    .await?;
    let asked = || {
        let mut client = RawClient::connect(gateway.address("http")?)?;
        client.request("PROXY TCP4 198.51.100.7 192.0.2.1 4000 80\r\nGET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
    };
    wait::until(PATIENCE, || asked().is_ok_and(|answer| answer.status == 200))?;
    let heard = |connection: &headwater_testkit::origin::Recorded| {
        String::from_utf8_lossy(&connection.bytes).to_ascii_lowercase().contains("x-forwarded-for: 198.51.100.7")
    };
    assert!(one.connections().iter().any(heard), "the client behind the load balancer is known");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_is_installed_later_is_found() -> Result<()> {
    let cluster = start().await?;
    let namespace = cluster.namespace("late").await?;
    let definition = "customresourcedefinition/gatewaysettings.headwater.dev";
    cluster.kubectl(&["delete", definition, "--wait=true"]).await?;
    let plain = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: plain}\n\
                 spec: {controller: headwater.dev/ingress}\n";
    cluster.apply(plain).await?;
    let origin = backend("one")?;
    let objects = service("app", origin.address()) + &ingress("app", "plain", "app.test", "app");
    apply(&cluster, &namespace, &objects).await?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let tls_port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let gateway = Role::gateway(&cluster, "plain", &["--http-port", &port, "--https-port", &tls_port]).await?;
    gateway.answers("app.test", (200, "one"))?;

    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds");
    cluster.kubectl(&["apply", "--server-side", "-f", crds]).await?;
    let known = || async { cluster.find("/apis/headwater.dev/v1alpha1/gatewaysettings").await };
    wait::eventually(PATIENCE, known).await?;
    class(&cluster, &namespace).await?;
    let parameters = json!({"spec": {"parameters": {
        "apiGroup": "headwater.dev", "kind": "GatewaySettings", "name": "gateway", "namespace": namespace, "scope": "Namespace",
    }}});
    cluster.merge("/apis/networking.k8s.io/v1/ingressclasses/plain", &parameters).await?;
    // The listeners of the settings are on ports of their own.
    wait::until(PATIENCE, || {
        gateway.address("http").is_ok_and(|address| address.port().to_string() != port && address.ip().is_loopback())
    })
    .with_context(|| gateway.stderr())?;
    gateway.answers("app.test", (200, "one"))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_goes_before_the_listener_and_the_lease_goes_last() -> Result<()> {
    let cluster = shared().await?;
    let App { namespace, one: _one, .. } = App::start(cluster, "drain").await?;
    let mut gateway = Role::gateway(cluster, &namespace, &["--pre-stop-delay", "1s"]).await?;
    gateway.answers("app.test", (200, "one"))?;
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{namespace}");
    let report = |lease: serde_json::Value| {
        let text = lease["metadata"]["annotations"]["headwater.dev/report"].as_str()?.to_owned();
        text.contains("\"http\"").then_some(())
    };
    wait::eventually(PATIENCE, || async { Ok(cluster.find(&lease).await?.and_then(report)) }).await?;

    gateway.signal(Signal::TERM)?;
    wait::until(PATIENCE, || gateway.get("/readyz").is_ok_and(|answer| answer.status == 503))?;
    assert_eq!(gateway.ask("app.test")?.0, 200, "load balancers have not noticed yet");
    assert_eq!(gateway.stop()?.code(), Some(0));
    assert!(cluster.find(&lease).await?.is_none(), "the Lease goes with the gateway");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_taken_away_are_named_and_it_keeps_serving() -> Result<()> {
    let cluster = start().await?;
    let App { namespace, one: _one, two } = App::start(&cluster, "rights").await?;
    let gateway = Role::gateway(&cluster, &namespace, &[]).await?;
    gateway.answers("app.test", (200, "one"))?;
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/headwater-gateway";
    let before = cluster.get(role).await?;
    cluster.merge(role, &json!({"rules": []})).await?;
    // A watch that runs is not looked at again: the server ends it.
    cluster.restart_apiserver().await?;
    gateway.says("by RBAC")?;
    assert_eq!(gateway.get("/readyz")?.status, 200, "stale is ready");
    assert_eq!(gateway.metric("headwater_source_stale")?, 1.0);
    gateway.answers("app.test", (200, "one"))?;
    apply(&cluster, &namespace, &service("app", two.address())).await?;
    cluster.merge(role, &json!({"rules": before["rules"]})).await?;
    gateway.answers("app.test", (200, "two"))?;
    wait::until(PATIENCE, || gateway.metric("headwater_source_stale").is_ok_and(|stale| stale == 0.0))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_rotated_is_read_again() -> Result<()> {
    let cluster = start().await?;
    let App { namespace, one: _one, two } = App::start(&cluster, "token").await?;
    let short = cluster.short_token(NAMESPACE, "headwater-gateway", Duration::from_secs(10)).await?;
    let (credentials, old) = (cluster.kubeconfig_for_token(&short)?, cluster.kubeconfig_for_token(&short)?);
    let gateway = Role::start(credentials.path(), "gateway", &namespace, &["--ingress-class", &namespace])?;
    gateway.ready()?;
    gateway.answers("app.test", (200, "one"))?;
    credentials.rotate(&cluster.token(NAMESPACE, "headwater-gateway", Duration::from_secs(3600)).await?)?;
    let refused = || async {
        let output = cluster.run("kubectl", old.path(), &["get", "--raw", "/api/v1/services"]).await?;
        Ok((!output.success).then_some(()))
    };
    wait::eventually(PATIENCE, refused).await?;
    // Every watch begins anew, and by now the first token is refused.
    cluster.restart_apiserver().await?;
    apply(&cluster, &namespace, &service("app", two.address())).await?;
    gateway.answers("app.test", (200, "two"))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_does_nothing_beyond_its_rights() -> Result<()> {
    let cluster = shared().await?;
    let namespace = cluster.namespace("audit").await?;
    class(cluster, &namespace).await?;
    let kubeconfig = credentials(cluster, "gateway").await?;
    let user = format!("system:serviceaccount:{NAMESPACE}:headwater-gateway");
    let before = cluster.requests()?.len();
    let mut gateway = Role::start(&kubeconfig, "gateway", &namespace, &["--ingress-class", &namespace])?;
    gateway.ready()?;
    gateway.stop()?;
    let requests = cluster.requests()?;
    let own = requests[before..].iter().filter(|request| request.user == user);
    for request in own {
        let reads = matches!(request.verb.as_str(), "get" | "list" | "watch");
        assert!(reads || request.resource == "leases", "{request:?}");
        let whole = request.resource == "secrets" && request.name.is_empty() && request.namespace.is_empty();
        assert!(!whole, "Secrets are read by name: {request:?}");
    }
    Ok(())
}
