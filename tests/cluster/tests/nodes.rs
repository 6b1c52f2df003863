//! The nodes that the other tests here stand on: pods are processes in network namespaces, with addresses of their own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use headwater_testkit::Whoami;
use headwater_testkit::certs::Authority;
use headwater_testkit::cluster::{Cluster, Network};
use headwater_testkit::lab::{Host, Process};
use headwater_testkit::origin::{Kind, Origin};
use headwater_testkit::response::Seen;
use headwater_testkit::wait::eventually;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// Until pods run: each is a process or two, and the machine may be busy.
const ROLLOUT: Duration = Duration::from_secs(60);

const CONTROLLERS: [&str; 6] = [
    "deployment-controller",
    "replicaset-controller",
    "daemonset-controller",
    "endpointslice-controller",
    "namespace-controller",
    "garbage-collector-controller",
];

/// A cluster of two nodes.
struct Stand {
    network: Network,
    _controllers: Process,
    cluster: Cluster,
}

impl Stand {
    async fn start() -> Result<Self> {
        let cluster = Cluster::start().await?;
        let controllers = cluster.start_controller_manager(&CONTROLLERS)?;
        let network = Network::start(&cluster).await?;
        for name in ["node-1", "node-2"] {
            network.node(name).await?;
        }
        Ok(Self { network, _controllers: controllers, cluster })
    }
}

static STAND: OnceCell<Stand> = OnceCell::const_new();

/// Runs a test on the cluster that all share, in a namespace of its own, and prints what there is when it fails.
async fn with_nodes(name: &str, body: impl AsyncFnOnce(&Stand, &str) -> Result<()>) -> Result<()> {
    let stand = STAND.get_or_try_init(Stand::start).await?;
    let namespace = stand.cluster.namespace(name).await?;
    let result = body(stand, &namespace).await;
    if result.is_err() {
        let pods = stand.cluster.kubectl(&["-n", &namespace, "get", "pods", "-o", "yaml"]).await;
        eprintln!("{}\n{pods:?}\n{}", stand.network.describe(), stand.cluster.describe());
    }
    result
}

/// What a whoami pod says of who asks from a host.
fn ask(host: &Host, address: &str) -> Result<Seen> {
    let body = host.exec("curl", &["-sS", "--max-time", "10", &format!("http://{address}:8080/")])?;
    Seen::parse(body.as_bytes())
}

fn addresses(object: &Value, list: &str) -> Vec<String> {
    let items = object["items"].as_array().into_iter().flatten();
    let endpoints = items.flat_map(|item| item[list].as_array().into_iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    let mut addresses: Vec<String> =
        ready.filter_map(|endpoint| Some(endpoint["addresses"][0].as_str()?.to_owned())).collect();
    addresses.sort();
    addresses
}

#[tokio::test]
async fn pods_of_a_deployment_are_endpoints_that_see_who_asks_and_leave_nothing_behind() -> Result<()> {
    with_nodes("deployment", async |Stand { cluster, network, .. }, namespace| {
        cluster
            .apply(&format!(
                r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: whoami, namespace: {namespace}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: whoami}}}}
  template:
    metadata: {{labels: {{app: whoami}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: whoami
          image: whoami
          ports: [{{containerPort: 8080, name: http}}]
          readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: whoami, namespace: {namespace}}}
spec:
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  selector: {{app: whoami}}
  ports: [{{port: 80, targetPort: http}}]
"#
            ))
            .await?;
        let slices = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=kubernetes.io/service-name%3Dwhoami"
        );
        let found = eventually(ROLLOUT, || async {
            let found = addresses(&cluster.get(&slices).await?, "endpoints");
            Ok((found.len() == 4).then_some(found))
        });
        let found = found.await?;
        let pods = cluster.get(&format!("/api/v1/namespaces/{namespace}/pods")).await?;
        let pods = pods["items"].as_array().context("pods")?;
        let (mut own, mut nodes, mut running) = (Vec::new(), Vec::new(), Vec::new());
        for pod in pods {
            own.extend(pod["status"]["podIPs"].as_array().into_iter().flatten().filter_map(|ip| ip["ip"].as_str()));
            nodes.push(pod["spec"]["nodeName"].as_str().context("nodeName")?);
            let name = pod["metadata"]["name"].as_str().context("name")?;
            running.push((name, network.pod(namespace, name).context("a pod that runs")?));
        }
        own.sort_unstable();
        nodes.sort_unstable();
        assert_eq!(found, own);
        assert_eq!(nodes, ["node-1", "node-2"]);

        let client = network.outside("client-of-deployment")?;
        let [four, six] = client.addresses();
        for (name, pod) in &running {
            for (address, source) in pod.addresses().iter().zip([four, six]) {
                let address = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
                let seen = ask(client.host(), &address)?;
                assert_eq!(seen.peer()?.ip(), source);
                assert_eq!(seen.name(), *name);
            }
        }
        // From pod to pod, on another node.
        let seen = ask(running[0].1.host(), &running[1].1.addresses()[0].to_string())?;
        assert_eq!(seen.peer()?.ip(), running[0].1.addresses()[0]);

        let processes: Vec<u32> = running.iter().flat_map(|(_, pod)| pod.processes()).collect();
        assert_eq!(processes.len(), 2);
        let names: Vec<String> = running.iter().map(|(name, _)| (*name).to_owned()).collect();
        drop(running);
        cluster.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?;
        eventually(ROLLOUT, || async {
            Ok(cluster.find(&format!("/api/v1/namespaces/{namespace}")).await?.is_none().then_some(()))
        })
        .await?;
        for process in processes {
            assert!(!Path::new(&format!("/proc/{process}")).exists(), "process {process} still runs");
        }
        let hosts = network.describe();
        for name in names {
            assert!(network.pod(namespace, &name).is_none());
            assert!(!hosts.contains(&name), "{name} has left something behind");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pod_reaches_the_api_as_its_service_account_and_has_no_other_rights() -> Result<()> {
    with_nodes("account", async |Stand { cluster, network, .. }, namespace| {
        let script = "cd /var/run/secrets/kubernetes.io/serviceaccount; \
             curl -sS --fail --max-time 10 --cacert ca.crt -H \"Authorization: Bearer $(cat token)\" \
             https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/namespaces/$(cat namespace)/pods/$POD; \
             echo; id -u; touch /tmp/written-by-a-pod 2>&1; grep CapBnd /proc/self/status; exit 7";
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "robot" },
            "spec": {
                "serviceAccountName": "robot", "restartPolicy": "Never",
                "securityContext": { "runAsUser": 65532, "runAsGroup": 65532 },
                "containers": [{
                    "name": "one", "image": "headwater", "command": ["sh", "-c", script],
                    "env": [{ "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
                    "securityContext": {
                        "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                        "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] },
                    },
                }],
            },
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        cluster.create(&path, &pod).await?;
        // The account is absent: the pod waits for it.
        eventually(ROLLOUT, || async {
            let pod = cluster.get(&format!("{path}/robot")).await?;
            let message = pod.pointer("/status/containerStatuses/0/state/waiting/message").and_then(Value::as_str);
            Ok(message.is_some_and(|message| message.contains("service account robot")).then_some(()))
        })
        .await?;
        for command in [
            "create role reader --verb=get --resource=pods",
            &format!("create rolebinding robot --role=reader --serviceaccount={namespace}:robot"),
            "create serviceaccount robot",
        ] {
            let mut words = vec!["-n", namespace];
            words.extend(command.split(' '));
            cluster.kubectl(&words).await?;
        }
        let ended = eventually(ROLLOUT, || async {
            let pod = cluster.get(&format!("{path}/robot")).await?;
            Ok((pod["status"]["phase"] == "Failed").then_some(pod))
        });
        let ended = ended.await?;
        assert_eq!(ended.pointer("/status/containerStatuses/0/state/terminated/exitCode"), Some(&json!(7)));
        let logs = network.pod(namespace, "robot").context("pod")?.logs();
        assert!(logs.contains("\"name\": \"robot\""), "{logs}");
        assert!(logs.contains("\n65532\n"), "{logs}");
        assert!(logs.contains("Read-only file system"), "{logs}");
        assert!(logs.contains("CapBnd:\t0000000000000400"), "{logs}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_pod_that_ends_is_started_again_and_one_that_is_not_ready_is_no_endpoint() -> Result<()> {
    with_nodes("restart", async |Stand { cluster, network, .. }, namespace| {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "one", "labels": { "app": "one" } },
            "spec": { "nodeName": "node-2", "terminationGracePeriodSeconds": 0, "containers": [{
                "name": "one", "image": "example.com/team/whoami:1", "args": ["--name=$(NODE)"],
                "env": [{ "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } }],
                "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1, "failureThreshold": 1 },
            }] },
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        cluster.create(&path, &pod).await?;
        cluster.kubectl(&["-n", namespace, "wait", "--for=condition=Ready", "pod/one", "--timeout=60s"]).await?;
        let pod = network.pod(namespace, "one").context("pod")?;
        let address = pod.addresses()[0].to_string();
        assert_eq!(ask(network.fabric(), &address)?.name(), "node-2");
        let before = pod.processes();
        pod.host().exec("kill", &["-KILL", &before[0].to_string()])?;
        eventually(ROLLOUT, || async {
            let status = cluster.get(&format!("{path}/one")).await?;
            let container = &status["status"]["containerStatuses"][0];
            Ok((container["restartCount"] == 1 && container["ready"] == true).then_some(()))
        })
        .await?;
        assert_ne!(pod.processes(), before);

        // A process that hangs answers no probe.
        pod.host().exec("kill", &["-STOP", &pod.processes()[0].to_string()])?;
        pod.host()
            .nft("table inet test { chain in { type filter hook input priority 0; tcp dport 8080 reject; }; }")?;
        cluster.kubectl(&["-n", namespace, "wait", "--for=condition=Ready=false", "pod/one", "--timeout=60s"]).await?;
        cluster.kubectl(&["-n", namespace, "delete", "pod", "one", "--timeout=60s"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_daemon_on_the_hosts_network_has_the_nodes_addresses_and_time_to_end() -> Result<()> {
    with_nodes("daemon", async |Stand { cluster, network, .. }, namespace| {
        cluster
            .apply(&format!(
                r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: whoami, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: whoami}}}}
  template:
    metadata: {{labels: {{app: whoami}}}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 30
      containers:
        - name: whoami
          image: whoami
          ports: [{{containerPort: 8080, name: http}}]
          startupProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1, failureThreshold: 30}}
          lifecycle: {{preStop: {{sleep: {{seconds: 1}}}}}}
"#
            ))
            .await?;
        cluster.kubectl(&["-n", namespace, "rollout", "status", "daemonset/whoami", "--timeout=60s"]).await?;
        let client = network.outside("client-of-daemon")?;
        let mut names = Vec::new();
        for node in ["172.18.1.2", "172.18.2.2"] {
            let seen = ask(client.host(), node)?;
            assert_eq!(seen.peer()?.ip(), client.addresses()[0]);
            names.push(seen.name().to_owned());
        }
        let pods = cluster.get(&format!("/api/v1/namespaces/{namespace}/pods")).await?;
        for pod in pods["items"].as_array().context("pods")? {
            let name = pod["metadata"]["name"].as_str().context("name")?;
            ensure!(names.iter().any(|other| other == name), "{name} is none of {names:?}");
            assert_eq!(pod["status"]["hostIP"], pod["status"]["podIP"]);
        }
        let pod = network.pod(namespace, &names[0]).context("pod")?;
        cluster.kubectl(&["-n", namespace, "delete", "daemonset", "whoami", "--wait=false"]).await?;
        eventually(ROLLOUT, || async {
            let pods = cluster.get(&format!("/api/v1/namespaces/{namespace}/pods")).await?;
            Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
        })
        .await?;
        assert!(pod.processes().is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_webhook_is_reached_by_the_name_of_its_service() -> Result<()> {
    with_nodes("webhook", async |Stand { cluster, network, .. }, namespace| {
        let labels = json!({ "app": "webhook" });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "webhook", "labels": labels },
            "spec": { "terminationGracePeriodSeconds": 0, "containers": [
                { "name": "one", "image": "headwater", "command": ["sleep", "infinity"] },
            ] },
        });
        cluster.create(&format!("/api/v1/namespaces/{namespace}/pods"), &pod).await?;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "webhook" },
            "spec": { "selector": labels, "ports": [{ "port": 443, "targetPort": 9443 }] },
        });
        cluster.create(&format!("/api/v1/namespaces/{namespace}/services"), &service).await?;
        cluster.kubectl(&["-n", namespace, "wait", "--for=condition=Ready", "pod/webhook", "--timeout=60s"]).await?;
        let pod = network.pod(namespace, "webhook").context("pod")?;

        let authority = Authority::new("webhook")?;
        let name = format!("webhook.{namespace}.svc");
        let tls = Some(authority.leaf(&[&name])?.server_config(&["h2", "http/1.1"])?);
        let address = SocketAddr::new(pod.addresses()[0], 9443);
        let whoami = Whoami { tls, ..Whoami::new("webhook", [address]) };
        let _server = pod.host().run(|| Origin::start(Kind::Http, whoami))?;
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": namespace },
            "webhooks": [{
                "name": "webhook.headwater.test", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": {
                    "caBundle": authority.ca_bundle(),
                    "service": { "namespace": namespace, "name": "webhook", "path": "/validate" },
                },
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } },
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"],
                }],
            }],
        });
        let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
        cluster.create(path, &configuration).await?;
        // What answers there is no webhook, but over TLS with the Service's name it answers.
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "one" } });
        let path = format!("/api/v1/namespaces/{namespace}/configmaps?dryRun=All");
        let refused = eventually(ROLLOUT, || async {
            let refused = cluster.create(&path, &object).await.err().map(|error| format!("{error:#}"));
            // The endpoint may be known a moment after the pod is ready.
            Ok(refused.filter(|refused| !refused.contains("no ready endpoint")))
        });
        let refused = refused.await?;
        assert!(refused.contains("received invalid webhook response"), "{refused}");
        Ok(())
    })
    .await
}

/// Tells the test below that it is the process that aborts.
const VICTIM: &str = "HEADWATER_TEST_ABORTS";

#[tokio::test]
async fn a_test_process_that_aborts_leaves_no_process_and_no_file() -> Result<()> {
    if std::env::var_os(VICTIM).is_some() {
        let cluster = Cluster::start().await?;
        let network = Network::start(&cluster).await?;
        network.node("node").await?;
        let namespace = cluster.namespace("abort").await?;
        for name in ["own", "host"] {
            let container = json!({ "name": "one", "image": "headwater", "command": ["sleep", "infinity"] });
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
                "spec": { "hostNetwork": name == "host", "containers": [container] },
            });
            cluster.create(&format!("/api/v1/namespaces/{namespace}/pods"), &pod).await?;
        }
        cluster.kubectl(&["-n", &namespace, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]).await?;
        let pods = ["own", "host"].map(|name| network.pod(&namespace, name).map(|pod| pod.processes()));
        let processes: Vec<u32> = pods.into_iter().flatten().flatten().collect();
        println!("\nleft: {}", json!({ "dir": cluster.dir(), "processes": processes }));
        std::process::abort();
    }
    let name = "a_test_process_that_aborts_leaves_no_process_and_no_file";
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", name, "--nocapture"])
        .env(VICTIM, "1")
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let left = printed.lines().find_map(|line| line.strip_prefix("left: "));
    let left = left.with_context(|| format!("{printed}{}", String::from_utf8_lossy(&output.stderr)))?;
    let left: Value = serde_json::from_str(left)?;
    let dir = left["dir"].as_str().context("dir")?;
    let processes = left["processes"].as_array().context("processes")?;
    assert_eq!(processes.len(), 2);
    let still = || -> Result<Vec<String>> {
        let mut still: Vec<String> = processes.iter().map(|process| format!("/proc/{process}")).collect();
        still.push(dir.to_owned());
        still.retain(|path| Path::new(path).exists());
        for entry in std::fs::read_dir("/proc")? {
            // What is no process, or ends meanwhile, has no command line.
            let line = std::fs::read(entry?.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            still.extend(line.contains(dir).then_some(line));
        }
        Ok(still)
    };
    let gone = eventually(ROLLOUT, || async { Ok(still()?.is_empty().then_some(())) }).await;
    gone.with_context(|| format!("still there: {:?}", still()))
}
