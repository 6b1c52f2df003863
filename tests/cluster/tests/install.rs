//! The chart, the manifests rendered from it and the CustomResourceDefinition, judged by helm and by a real API server.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use headwater_testkit::cluster::{Cluster, Output};
use headwater_testkit::wait;
use serde_json::Value;
use tokio::sync::OnceCell;

const NAMESPACE: &str = "headwater-system";

/// Namespaces that the sets of values below name; Roles are made in them.
const NAMESPACES: [&str; 5] = [NAMESPACE, "ingress-nginx", "shop", "edge", "team"];

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// The cluster of all tests here, with the CustomResourceDefinitions of what the chart makes.
async fn cluster() -> Result<&'static Cluster> {
    CLUSTER
        .get_or_try_init(|| async {
            let cluster = Cluster::start().await?;
            cluster.kubectl(&["apply", "--server-side", "-f", &path("deploy/crds")]).await?;
            cluster.apply(SERVICE_MONITORS).await?;
            for namespace in NAMESPACES {
                let object = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n");
                cluster.apply(&object).await?;
            }
            let labels = ["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/warn=restricted"];
            cluster.kubectl(&labels).await?;
            let names = ["customresourcedefinition.apiextensions.k8s.io", "--all"];
            cluster.kubectl(&[&["wait", "--for=condition=Established", "--timeout=30s"], &names[..]].concat()).await?;
            // Established is said a moment before every handler knows the kind.
            let known = || cluster.find("/apis/headwater.dev/v1alpha1/gatewaysettings");
            wait::eventually(std::time::Duration::from_secs(30), known).await?;
            Ok(cluster)
        })
        .await
}

/// As much of the Prometheus operator as an API server needs to take the object.
const SERVICE_MONITORS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicemonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: ServiceMonitor, plural: servicemonitors}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties: {spec: {type: object, required: [selector, endpoints], x-kubernetes-preserve-unknown-fields: true}}
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn path(file: &str) -> String {
    root().join(file).to_str().unwrap().to_owned()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Runs `helm VERB... CHART` with values.
async fn helm(cluster: &Cluster, verb: &[&str], values: &str) -> Result<Output> {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let file = cluster.dir().join(format!("values-{number}.yaml"));
    std::fs::write(&file, values)?;
    let chart = path("deploy/helm/headwater");
    let rest = [chart.as_str(), "--namespace", NAMESPACE, "--values", file.to_str().context("a path of ours")?];
    cluster.run("helm", cluster.kubeconfig(), &[verb, &rest].concat()).await
}

/// Renders the chart for the API server's version, hooks included.
async fn template(cluster: &Cluster, values: &str) -> Result<Output> {
    helm(cluster, &["template", "headwater", "--kube-version", "1.36.0"], values).await
}

/// Values, what they make that the others do not, and whether pods fit the restricted Pod Security Standard.
const VALUES: &[(&str, &str, &str, bool)] = &[
    ("the defaults", "{}", "kind: ValidatingWebhookConfiguration", true),
    ("a DaemonSet with host ports", "gateway: {kind: DaemonSet, hostPorts: true}", "hostPort: 443", false),
    ("high ports of the host", "gateway: {kind: DaemonSet, hostNetwork: true}", "--admin=127.0.0.1:9180", false),
    (
        "low ports of the host by root",
        "gateway: \
         {kind: DaemonSet, hostNetwork: true, lowPortsOnHost: root, service: {enabled: false}, listeners: [ \
         {name: http, protocol: HTTP, port: 80, servicePort: 80}, \
         {name: https, protocol: HTTPS, port: 443, servicePort: 443}]}\n\
         controller: {publishAddresses: [192.0.2.1, \"2001:db8::1\"]}",
        "add: [NET_BIND_SERVICE]",
        false,
    ),
    (
        "low ports of the pod, by sysctl",
        "gateway: {listeners: [{name: http, protocol: HTTP, port: 80, servicePort: 80}, \
         {name: https, protocol: HTTPS, port: 443, servicePort: 443}]}",
        "net.ipv4.ip_unprivileged_port_start",
        true,
    ),
    (
        "settings with more listeners than two",
        "settings: {create: true, spec: {clientAddress: {trustedProxies: [10.0.0.0/8], proxyProtocol: Required}, \
         tls: {defaultCertificate: edge/wildcard}, upstream: {tls: {verify: CertificateAuthority, ca: edge/ca}}}}\n\
         gateway: {secrets: {scope: names, names: {shop: [shop-tls]}}, listeners: [ \
         {name: http, protocol: HTTP, port: 8080, servicePort: 80}, \
         {name: https, protocol: HTTPS, port: 8443, servicePort: 443, nodePort: 30443}, \
         {name: internal, protocol: HTTP, port: 8081, servicePort: 8080}]}",
        "{name: internal, port: 8081, protocol: HTTP}",
        true,
    ),
    (
        "settings that exist already",
        "ingressClass: {parameters: {namespace: edge, name: public}, default: true, others: [internal]}",
        "ingressclass.kubernetes.io/is-default-class: \"true\"",
        true,
    ),
    (
        "two namespaces alone",
        "watchNamespaces: [shop, team]\n\
         defaultBackendService: team/fallback\n\
         defaultSslCertificate: edge/wildcard\n\
         nginxConfigMap: ingress-nginx/controller",
        "--watch-namespaces=shop,team",
        true,
    ),
    ("namespaces by label", "watchNamespaceSelector: team=shop", "--watch-namespace-selector=team=shop", true),
    (
        "a migration",
        "takeOverClass: nginx\n\
         nginxConfigMap: ingress-nginx/ingress-nginx-controller\n\
         watchIngressWithoutClass: true\n\
         gateway: {secrets: {scope: namespaces, namespaces: [shop, team]}, configMaps: {edge: [corporate-ca]}}",
        "in ['headwater','nginx']",
        true,
    ),
    (
        "everything at once",
        "commonLabels: {owner: edge-team}\n\
         fullnameOverride: edge\n\
         image: {repository: registry.example.com/headwater, digest: \"sha256:0123456789012345678901234567890123456789012345678901234567890123\"}\n\
         imagePullSecrets: [{name: registry}]\n\
         gateway: {autoscaling: {enabled: true, behavior: {scaleDown: {stabilizationWindowSeconds: 300}}}, \
         extraArgs: [--workers=4], \
         podAnnotations: {a: b}, \
         priorityClassName: system-cluster-critical, \
         tolerations: [{key: edge, operator: Exists}], \
         affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [ \
         {weight: 1, preference: {matchExpressions: [{key: edge, operator: Exists}]}}]}}, \
         topologySpreadConstraints: [{maxSkew: 2, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}], \
         service: {annotations: {example.com/lb: internal}, loadBalancerClass: example.com/lb, loadBalancerSourceRanges: [192.0.2.0/24], \
         ipFamilyPolicy: SingleStack, ipFamilies: [IPv4], allocateLoadBalancerNodePorts: false}}\n\
         webhook: {failurePolicy: Fail, certificateSecret: webhook-tls, caBundle: pem, clientCAConfigMap: api-servers, namespaceSelector: {}, \
         matchConditions: [{name: people, expression: \"!request.userInfo.username.startsWith('system:')\"}]}\n\
         metrics: {serviceMonitor: {enabled: true, labels: {release: prometheus}}}\n\
         networkPolicy: {metricsFrom: [{namespaceSelector: {matchLabels: {name: monitoring}}}], clientsFrom: [{ipBlock: {cidr: 192.0.2.0/24}}], \
         egress: {enabled: true, apiServerCIDRs: [192.0.2.1/32], gatewayRules: [{to: [{ipBlock: {cidr: 198.51.100.0/24}}]}]}}",
        "kind: HorizontalPodAutoscaler",
        true,
    ),
    (
        "agents on nodes",
        "node: {enabled: true, apiServer: {host: 192.0.2.1}, clusterCIDRs: [10.0.0.0/8, \"fd10::/16\"], \
         serviceCIDRs: [172.16.0.0/16], nodePortAddresses: [192.0.2.0/24], sourceIP: preserve-direct, tunnelMTU: 1400, \
         masqueradeAll: true, adminAddress: \"0.0.0.0:9181\", extraArgs: [--log=debug], \
         image: {repository: registry.example.com/node, tag: \"2\"}}",
        "--cluster-cidr=10.0.0.0/8,fd10::/16",
        false,
    ),
    (
        "agents that clean up",
        "node: {enabled: true, cleanup: true}\nfullnameOverride: edge",
        "command: [sleep, infinity]",
        false,
    ),
    (
        "gateways alone",
        "controller: {enabled: false}\nwebhook: {enabled: false}\nnetworkPolicy: {enabled: false}",
        "kind: Deployment",
        true,
    ),
];

#[tokio::test]
async fn every_set_of_values_passes_lint_and_is_accepted_by_the_api_server() -> Result<()> {
    let cluster = cluster().await?;
    for (name, values, telltale, restricted) in VALUES {
        let lint = helm(cluster, &["lint", "--strict", "--kube-version", "1.36.0"], values).await?;
        ensure!(lint.success, "{name}: {}{}", lint.stdout, lint.stderr);
        let rendered = template(cluster, values).await?;
        ensure!(rendered.success, "{name}: {}", rendered.stderr);
        ensure!(rendered.stdout.contains(telltale), "{name}: no {telltale} in\n{}", rendered.stdout);
        let answer = cluster.try_apply(&rendered.stdout, &["--dry-run=server", "--validate=strict"]).await?;
        ensure!(answer.success, "{name}: {}", answer.stderr);
        let warned = answer.stderr.contains("would violate PodSecurity");
        ensure!(warned != *restricted, "{name}: {}", answer.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_work_is_refused_while_rendering() -> Result<()> {
    let low = "listeners: [{name: http, protocol: HTTP, port: 80, servicePort: 80}, {name: https, protocol: HTTPS, port: 443, servicePort: 443}]";
    let cases = [
        (format!("gateway: {{hostNetwork: true, {low}}}"), "set gateway.lowPortsOnHost to root or node"),
        ("gateway: {hostNetwork: true, hostPorts: true}".to_owned(), "exclude each other"),
        (
            "gateway: {listeners: [{name: a, protocol: HTTP, port: 8080, servicePort: 80}]}".to_owned(),
            "set settings.create",
        ),
        ("controller: {enabled: false}".to_owned(), "webhook.enabled needs controller.enabled"),
        ("gateway: {kind: DaemonSet, autoscaling: {enabled: true}}".to_owned(), "needs gateway.kind Deployment"),
        (
            "gateway: {secrets: {scope: namespaces}}".to_owned(),
            "neither gateway.secrets.namespaces nor watchNamespaces",
        ),
        ("watchNamespaces: [a]\nwatchNamespaceSelector: b".to_owned(), "watchNamespaces and watchNamespaceSelector"),
        (
            "settings: {create: true}\ningressClass: {parameters: {namespace: a, name: b}}".to_owned(),
            "exclude each other",
        ),
        (
            "controller: {publishService: a/b, publishAddresses: [192.0.2.1]}".to_owned(),
            "controller.publishService and controller.publishAddresses",
        ),
        (
            "watchNamespaces: [shop]\ndefaultBackendService: edge/fallback".to_owned(),
            "defaultBackendService names namespace edge, which is neither in watchNamespaces",
        ),
        ("gateway: {replica: 3}".to_owned(), "replica"),
        ("webhook: {failurePolicy: Retry}".to_owned(), "failurePolicy"),
        ("nginxConfigMap: controller".to_owned(), "nginxConfigMap"),
        ("node: {sourceIP: keep}".to_owned(), "sourceIP"),
        ("node: {clusterCIDRs: [10.0.0.0]}".to_owned(), "clusterCIDRs"),
    ];
    let cluster = cluster().await?;
    for (values, message) in cases {
        let rendered = template(cluster, &values).await?;
        ensure!(!rendered.success && rendered.stderr.contains(message), "{values}: {}", rendered.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn rendered_files_are_those_of_the_chart_and_are_accepted() -> Result<()> {
    let cluster = cluster().await?;
    let helm = cluster.program("helm")?;
    let check = Command::new(root().join("deploy/render")).arg("--check").env("HELM", helm).output()?;
    ensure!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let own = "apiVersion: v1\nkind: Namespace\nmetadata: {name: headwater-node}\n";
    cluster.apply(own).await?;
    for file in
        ["headwater.yaml", "clear-status.yaml", "headwater-node.yaml"].map(|name| format!("deploy/manifests/{name}"))
    {
        let answer =
            cluster.try_apply(&read(&file), &["--dry-run=server", "--validate=strict", "--force-conflicts"]).await?;
        ensure!(answer.success && !answer.stderr.contains("Warning"), "{file}: {}", answer.stderr);
    }
    Ok(())
}

/// Names in the first column of the page's tables.
fn documented() -> BTreeSet<String> {
    let page = read("docs/values.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(name, _)| name.to_owned()).collect()
}

/// Every property of a schema that has no properties of its own, or is described as a whole.
fn leaves(schema: &Value, path: &str, documented: &BTreeSet<String>, found: &mut BTreeSet<String>) {
    match schema["properties"].as_object() {
        Some(properties) if !documented.contains(path) => {
            for (name, property) in properties {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(property, &path, documented, found);
            }
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

#[test]
fn every_value_has_a_description_a_default_and_a_schema() {
    let schema: Value = serde_json::from_str(&read("deploy/helm/headwater/values.schema.json")).unwrap();
    let (documented, mut found) = (documented(), BTreeSet::new());
    leaves(&schema, "", &documented, &mut found);
    // Helm's own, for charts within charts.
    found.remove("global");
    assert_eq!(documented, found);
}

/// Whether a service account of the release may do something.
async fn may(cluster: &Cluster, account: &str, verb: &str, what: &str, namespace: &str) -> Result<bool> {
    let user = format!("--as=system:serviceaccount:{NAMESPACE}:headwater-{account}");
    let mut words = vec!["auth", "can-i", verb];
    match what.strip_suffix(" status") {
        Some(resource) => words.extend([resource, "--subresource=status"]),
        None => words.push(what),
    }
    words.extend([user.as_str(), "--namespace", namespace]);
    let answer = cluster.run("kubectl", cluster.kubeconfig(), &words).await?;
    match answer.stdout.trim() {
        "yes" => Ok(true),
        "no" => Ok(false),
        other => anyhow::bail!("{other}{}", answer.stderr),
    }
}

#[tokio::test]
async fn a_release_is_installed_upgraded_and_removed_and_has_the_least_rights() -> Result<()> {
    // A cluster of its own: a release has objects without a namespace.
    let cluster = Cluster::start().await?;
    for namespace in ["shop", "team", "ingress-nginx"] {
        cluster.kubectl(&["create", "namespace", namespace]).await?;
    }
    let install = ["install", "headwater", "--create-namespace", "--timeout", "30s"];
    let answer = helm(&cluster, &install, "{}").await?;
    ensure!(answer.success, "{}", answer.stderr);

    let kind = "gatewaysettings.headwater.dev";
    let webhook = "validatingwebhookconfigurations/headwater";
    for (account, verb, what, namespace, expected) in [
        ("gateway", "watch", "ingresses", "shop", true),
        ("gateway", "watch", "services", "shop", true),
        ("gateway", "watch", "endpointslices", "shop", true),
        ("gateway", "watch", "ingressclasses", "shop", true),
        ("gateway", "watch", kind, "shop", true),
        ("gateway", "get", "secrets/any", "shop", true),
        ("gateway", "get", "configmaps/ingress-nginx-controller", "ingress-nginx", true),
        ("gateway", "get", "configmaps/other", "ingress-nginx", false),
        ("gateway", "list", "pods", "shop", false),
        ("gateway", "list", "namespaces", "shop", false),
        ("gateway", "patch", "ingresses", "shop", false),
        ("gateway", "patch", "ingresses status", "shop", false),
        ("gateway", "create", "events.events.k8s.io", "shop", false),
        ("gateway", "create", "leases", NAMESPACE, true),
        ("gateway", "patch", "leases/any-pod", NAMESPACE, true),
        ("gateway", "get", "leases/any-pod", NAMESPACE, false),
        ("gateway", "create", "leases", "shop", false),
        ("gateway", "create", "secrets", NAMESPACE, false),
        ("controller", "watch", "ingresses", "shop", true),
        ("controller", "patch", "ingresses status", "shop", true),
        ("controller", "patch", &format!("{kind} status"), "shop", true),
        ("controller", "patch", "ingresses", "shop", false),
        ("controller", "update", "ingresses status", "shop", false),
        ("controller", "create", "events.events.k8s.io", "shop", true),
        ("controller", "get", "secrets/any", "shop", false),
        ("controller", "list", "secrets", NAMESPACE, false),
        ("controller", "get", "secrets/headwater-webhook", NAMESPACE, true),
        ("controller", "get", "secrets/other", NAMESPACE, false),
        ("controller", "watch", webhook, "shop", true),
        ("controller", "patch", webhook, "shop", true),
        ("controller", "patch", "validatingwebhookconfigurations/other", "shop", false),
        ("controller", "watch", "leases", NAMESPACE, true),
        ("controller", "watch", "leases", "shop", false),
        ("controller", "patch", "leases/headwater-controller", NAMESPACE, true),
        ("controller", "patch", "leases/other", NAMESPACE, false),
    ] {
        let found = may(&cluster, account, verb, what, namespace).await?;
        ensure!(found == expected, "{account}: {verb} {what} in {namespace}: {found}");
    }

    // What the controller writes into the configuration outlives an upgrade.
    let patch = r#"[{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": "cGVt"}]"#;
    cluster.kubectl(&["patch", webhook, "--type=json", "--patch", patch]).await?;
    let values = "watchNamespaces: [shop]\nnode: {enabled: true}\ngateway: {replicas: 3, secrets: {scope: names, names: {shop: [shop-tls]}}}";
    let answer = helm(&cluster, &["upgrade", "headwater", "--timeout", "30s"], values).await?;
    ensure!(answer.success, "{}", answer.stderr);
    let object = cluster.kubectl(&["get", webhook, "-o", "json"]).await?.json()?;
    ensure!(object["webhooks"][0]["clientConfig"]["caBundle"] == "cGVt", "{object:#}");

    for (account, verb, what, namespace, expected) in [
        ("gateway", "watch", "ingresses", "shop", true),
        ("gateway", "watch", "ingresses", NAMESPACE, true),
        ("node", "watch", "services", "team", true),
        ("node", "watch", "endpointslices.discovery.k8s.io", "team", true),
        ("node", "watch", "nodes", "team", true),
        ("node", "patch", "nodes", "team", true),
        ("node", "patch", "nodes status", "team", false),
        ("node", "update", "nodes", "team", false),
        ("node", "delete", "nodes", "team", false),
        ("node", "get", "secrets/any", "team", false),
        ("node", "list", "pods", "team", false),
        ("gateway", "watch", "ingresses", "team", false),
        ("gateway", "watch", "ingressclasses", "team", true),
        ("gateway", "watch", "secrets/shop-tls", "shop", true),
        ("gateway", "list", "secrets", "shop", false),
        ("gateway", "get", "secrets/other", "shop", false),
        ("gateway", "get", "secrets/shop-tls", "team", false),
        ("controller", "patch", "ingresses status", "shop", true),
        ("controller", "patch", "ingresses status", "team", false),
        ("controller", "create", "events.events.k8s.io", "team", false),
    ] {
        let found = may(&cluster, account, verb, what, namespace).await?;
        ensure!(found == expected, "with watchNamespaces: {account}: {verb} {what} in {namespace}: {found}");
    }

    // Nobody answers here, so that with Fail exactly what would be sent to the webhook is refused.
    let answer =
        helm(&cluster, &["upgrade", "headwater", "--timeout", "30s"], "webhook: {failurePolicy: Fail}").await?;
    ensure!(answer.success, "{}", answer.stderr);
    let config_map = |namespace: &str, name: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{namespace: {namespace}, name: {name}}}\n")
    };
    let ingress = |namespace: &str| {
        let metadata = format!("metadata: {{namespace: {namespace}, name: web}}");
        let spec = "spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}";
        format!("apiVersion: networking.k8s.io/v1\nkind: Ingress\n{metadata}\n{spec}\n")
    };
    let class =
        "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: t}\nspec: {controller: a.example/b}\n";
    for (object, sent) in [
        (ingress("shop"), true),
        (settings("{}").replace("namespace: edge", "namespace: shop"), true),
        (class.to_owned(), true),
        (config_map("ingress-nginx", "ingress-nginx-controller"), true),
        (config_map("default", "ingress-nginx-controller"), true),
        (config_map("ingress-nginx", "other"), false),
        (config_map("shop", "ingress-nginx-controller"), false),
        (ingress("kube-system"), false),
    ] {
        let asked = || async {
            let answer = cluster.try_apply(&object, &["--dry-run=server"]).await?;
            let found = answer.stderr.contains("failed calling webhook");
            ensure!(answer.success != found, "{object}: {}", answer.stderr);
            Ok((found == sent).then_some(()))
        };
        // The API server hears of its own configuration a moment later.
        let limit = std::time::Duration::from_secs(30);
        wait::eventually(limit, asked).await.with_context(|| format!("{object}: sent to the webhook: {}", !sent))?;
    }

    // No kubelet here runs the Job.
    let uninstall = ["uninstall", "headwater", "--namespace", NAMESPACE, "--no-hooks"];
    let answer = cluster.run("helm", cluster.kubeconfig(), &uninstall).await?;
    ensure!(answer.success, "{}", answer.stderr);
    let kinds = "clusterroles,clusterrolebindings,roles,rolebindings,ingressclasses,validatingwebhookconfigurations,\
                 validatingadmissionpolicies,validatingadmissionpolicybindings,services,deployments,daemonsets,networkpolicies";
    let label = "app.kubernetes.io/instance=headwater";
    let left = cluster.kubectl(&["get", kinds, "--all-namespaces", "--selector", label, "-o", "name"]).await?;
    ensure!(left.stdout.is_empty(), "{}", left.stdout);
    Ok(())
}

fn settings(spec: &str) -> String {
    format!(
        "apiVersion: headwater.dev/v1alpha1\nkind: GatewaySettings\nmetadata: {{name: t, namespace: edge}}\nspec: {spec}\n"
    )
}

#[tokio::test]
async fn the_api_server_takes_the_settings_that_headwater_takes() -> Result<()> {
    let page = read("docs/settings.md");
    let (_, block) = page.split_once("```yaml\n").unwrap();
    let mut manifests = vec![block.split_once("```").unwrap().0.to_owned()];
    let quickstart = read("examples/quickstart/gateway.yaml").replace("namespace: demo", "namespace: edge");
    manifests.push(quickstart);
    manifests.extend(
        [
            "{}",
            "null",
            "{listeners: null, clientAddress: null, limits: null, upstream: {tls: null}}",
            "{listeners: [{name: a, port: 0, protocol: HTTPS, address: null, clientAddress: null}]}",
            "{listeners: [{name: a, port: 65535, protocol: HTTP, address: \"::ffff:192.0.2.1\"}]}",
            "{clientAddress: {trustedProxies: [], trustedHops: null}}",
            "{clientAddress: {trustedProxies: [10.0.0.1, \"::/0\", \"2001:db8::/32\"], forwardedHeader: CF-Connecting-IP}}",
            "{clientAddress: {trustedProxies: null, trustedHops: 2}}",
            "{limits: {headerBytes: 65536, bodyBytes: 8Mi, connections: 4294967295}}",
            "{timeouts: {header: 1m30s, request: \"0\"}, passiveHealth: {baseEjection: 250ms}}",
            "{balancing: {algorithm: Hash, hashOn: Header, hashName: X-User}, tls: {minVersion: \"1.3\"}}",
        ]
        .map(settings),
    );
    let cluster = cluster().await?;
    for manifest in manifests {
        let answer = cluster.try_apply(&manifest, &["--dry-run=server", "--validate=strict"]).await?;
        ensure!(answer.success, "{manifest}: {}", answer.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn the_api_server_refuses_settings_that_headwater_calls_an_error() -> Result<()> {
    let cluster = cluster().await?;
    for (spec, message) in [
        ("{typo: 1}", "typo"),
        ("{listeners: [{name: a, port: 70000, protocol: HTTP}]}", "less than or equal to 65535"),
        ("{listeners: [{name: a, port: 80, protocol: QUIC}]}", "supported values: \"HTTP\", \"HTTPS\""),
        ("{listeners: [{name: a, port: 80, protocol: TCP}]}", "needs backends"),
        ("{listeners: [{name: a, port: 80, protocol: UDP, backends: []}]}", "needs backends"),
        ("{listeners: [{name: a, protocol: HTTP}]}", "port: Required value"),
        ("{clientAddress: {trustedProxies: [10.0.0.0/8], trustedHops: 1}}", "exclude each other"),
        ("{clientAddress: {trustedProxies: [nonsense]}}", "should match"),
        ("{clientAddress: {forwardedHeader: \"a b\"}}", "should match"),
        ("{timeouts: {request: 5}}", "expected string"),
        ("{timeouts: {request: 5 s}}", "should match"),
        ("{limits: {bodyBytes: 8MB}}", "should match"),
        ("{limits: {headerCount: 1}}", "greater than or equal to 8"),
        ("{retries: {attempts: 0}}", "greater than or equal to 1"),
        ("{passiveHealth: {maxEjectedPercent: 101}}", "less than or equal to 100"),
        ("{balancing: {algorithm: Hash, hashOn: Cookie}}", "needs its name in hashName"),
        ("{upstream: {tls: {verify: CertificateAuthority}}}", "needs ca"),
        ("{tls: {defaultCertificate: name-alone}}", "should match"),
    ] {
        let answer = cluster.try_apply(&settings(spec), &["--dry-run=server", "--validate=strict"]).await?;
        ensure!(!answer.success && answer.stderr.contains(message), "{spec}: {}{}", answer.stdout, answer.stderr);
    }
    Ok(())
}
