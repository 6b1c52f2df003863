//! The cluster that the other tests here stand on: whether its API server is a real one, and is gone afterwards.

use std::time::Duration;

use anyhow::{Context, Result};
use headwater_testkit::cluster::Cluster;
use headwater_testkit::wait::{DEADLINE, eventually};
use serde_json::json;
use tokio::sync::OnceCell;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

async fn cluster() -> Result<&'static Cluster> {
    CLUSTER.get_or_try_init(Cluster::start).await
}

#[tokio::test]
async fn what_kubectl_applies_is_what_kubectl_gets() -> Result<()> {
    let cluster = cluster().await?;
    let namespace = cluster.namespace("apply").await?;
    let manifest = |value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: one, namespace: {namespace}}}\ndata: {{key: {value}}}\n"
        )
    };
    cluster.apply(&manifest("first")).await?;
    cluster.apply(&manifest("second")).await?;
    let got = cluster.kubectl(&["-n", &namespace, "get", "configmap", "one", "-o", "json"]).await?.json()?;
    assert_eq!(got["data"], json!({ "key": "second" }));

    let refused = cluster.apply(&manifest("[]")).await.unwrap_err();
    assert!(format!("{refused:#}").contains("expected string, got"), "{refused:#}");
    assert!(!cluster.try_apply(&manifest("[]"), &[]).await?.success);
    let dry = cluster.try_apply(&manifest("third"), &["--dry-run=server"]).await?;
    assert!(dry.success, "{dry:?}");
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/one");
    assert_eq!(cluster.get(&path).await?["data"]["key"], "second");
    assert!(cluster.find(&path.replace("one", "two")).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn users_may_do_what_their_roles_say_and_no_more() -> Result<()> {
    let cluster = cluster().await?;
    let namespace = cluster.namespace("rbac").await?;
    for command in ["create role reader --verb=get,list --resource=configmaps", "create serviceaccount robot"] {
        let mut words = vec!["-n", &namespace];
        words.extend(command.split(' '));
        cluster.kubectl(&words).await?;
    }
    let robot = cluster.kubeconfig_for_service_account(&namespace, "robot").await?;
    let alice = cluster.kubeconfig_for_user("alice", None)?;
    let bob = cluster.kubeconfig_for_user("bob", Some("readers"))?;
    let account = format!("{namespace}:robot");
    let bindings = [
        ("robot", robot.path(), ["--serviceaccount", &account]),
        ("alice", &alice, ["--user", "alice"]),
        ("bob", &bob, ["--group", "readers"]),
    ];
    for (name, kubeconfig, subject) in bindings {
        let get = ["-n", &namespace, "get", "configmaps"];
        let refused = cluster.kubectl_as(kubeconfig, &get).await.unwrap_err().to_string();
        assert!(refused.contains("forbidden") && refused.contains(name), "{refused}");
        let mut bind = vec!["-n", &namespace, "create", "rolebinding", name, "--role=reader"];
        bind.extend(subject);
        cluster.kubectl(&bind).await?;
        eventually(DEADLINE, || async { Ok(cluster.run("kubectl", kubeconfig, &get).await?.success.then_some(())) })
            .await?;
        let more = ["-n", &namespace, "create", "configmap", name];
        let refused = cluster.kubectl_as(kubeconfig, &more).await.unwrap_err().to_string();
        assert!(refused.contains("forbidden"), "{refused}");
    }
    Ok(())
}

#[tokio::test]
async fn a_token_ends_with_its_time_and_a_new_one_takes_its_place() -> Result<()> {
    let cluster = cluster().await?;
    let namespace = cluster.namespace("token").await?;
    let short = cluster.short_token(&namespace, "default", Duration::from_secs(2)).await?;
    let kubeconfig = cluster.kubeconfig_for_token(&short)?;
    let who = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];
    let name = format!("system:serviceaccount:{namespace}:default");
    assert_eq!(cluster.kubectl_as(kubeconfig.path(), &who).await?.stdout, name);
    // The API server remembers for up to 10 s that it was valid.
    let refused = eventually(Duration::from_secs(30), || async {
        let output = cluster.run("kubectl", kubeconfig.path(), &who).await?;
        Ok((!output.success).then_some(output.stderr))
    });
    let refused = refused.await?;
    assert!(refused.contains("Unauthorized") || refused.contains("must be logged in"), "{refused}");
    kubeconfig.rotate(&cluster.token(&namespace, "default", Duration::from_secs(600)).await?)?;
    assert_eq!(cluster.kubectl_as(kubeconfig.path(), &who).await?.stdout, name);
    Ok(())
}

#[tokio::test]
async fn an_api_server_comes_back_with_its_data_and_forgets_old_versions() -> Result<()> {
    let cluster = Cluster::builder().audit().start().await?;
    let namespace = cluster.namespace("restart").await?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "one" } });
    let old = cluster.create(&path, &object).await?;
    let server = cluster.server();

    cluster.kill_apiserver();
    let refused = cluster.kubectl(&["get", "namespaces"]).await.unwrap_err().to_string();
    assert!(refused.contains("refused"), "{refused}");
    cluster.restart_apiserver().await?;
    assert_eq!(cluster.server(), server);
    assert_eq!(cluster.get(&format!("{path}/one")).await?["metadata"]["uid"], old["metadata"]["uid"]);

    let version = old["metadata"]["resourceVersion"].as_str().context("resourceVersion")?;
    let watch = format!("{path}?watch=1&timeoutSeconds=1&resourceVersion={version}");
    cluster.merge(&format!("{path}/one"), &json!({ "data": { "a": "b" } })).await?;
    assert!(cluster.expire_resource_versions().await? > version.parse()?);
    let answer = cluster.text(&watch).await?;
    assert!(answer.contains("\"code\":410"), "{answer}");

    let requests = cluster.requests()?;
    let made: Vec<_> = requests.iter().filter(|request| request.namespace == namespace).collect();
    let create = made.iter().find(|request| request.resource == "configmaps" && request.verb == "create");
    let create = create.context("no create in the audit log")?;
    assert_eq!((create.user.as_str(), create.code), ("admin", 201));
    assert!(made.iter().any(|request| request.verb == "watch"), "{made:?}");
    Ok(())
}
