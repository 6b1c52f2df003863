//! What an ALB2 wants to exist. Pure.

use std::collections::{BTreeMap, BTreeSet};

use headwater_kube_io::{ManagedKey, ManagedKind};
use headwater_model::alb::alb2::NetworkMode;
use headwater_model::alb::effective::{EffectiveAlb, LoadBalancer, Projects};
use headwater_model::alb::frontend::{Frontend, Protocol};
use headwater_model::alb::names::Domain;
use headwater_model::alb::{Alb2, effective};
use headwater_model::origin::NamespacedName;
use serde_json::{Value, json};

/// Value of `app.kubernetes.io/managed-by` of all that is made for ALB2s.
pub const MANAGED_BY: &str = "headwater-operator";

/// Labels that say for which ALB2 an object was made.
pub(crate) const ALB_NAMESPACE: &str = "headwater.dev/alb-namespace";
pub(crate) const ALB_NAME: &str = "headwater.dev/alb-name";

/// The user of pods that need no capability, as the image has it.
const USER: u32 = 65_532;

/// Annotation with the same as `namespace/name`: names may be longer than values of labels.
pub(crate) const ALB: &str = "headwater.dev/alb";

/// Annotation of an ALB2 on the host's network whose gateways connect from their clients' addresses: `"true"`.
const TRANSPARENT: &str = "headwater.dev/transparent";

/// Seconds for requests to end after `maxTermSeconds`, before a pod is killed.
const LAST_SECONDS: u64 = 5;

/// What gateways of ALB2s are given by whoever installed the controller.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Of the gateways.
    pub image: String,
    pub image_pull_policy: String,
    /// Names of Secrets in the namespaces of ALB2s.
    pub pull_secrets: Vec<String>,
    /// Of this program.
    pub version: String,
    /// ClusterRole that gateways are bound to.
    pub cluster_role: String,
    /// Roles that gateways are bound to besides, each in its namespace.
    pub roles: Vec<NamespacedName>,
    /// Where gateways report.
    pub lease_namespace: String,
    pub domain: Domain,
}

/// Objects to be there for an ALB2, each without name, namespace and kind, in the order of [`ManagedKind`].
///
/// `uid` is that of the ALB2, `frontends` are those that belong to it.
pub fn desired<'a>(
    alb: &Alb2,
    uid: &str,
    frontends: impl Iterator<Item = &'a Frontend>,
    installation: &Installation,
) -> BTreeMap<ManagedKey, Value> {
    let effective = alb.effective();
    let plan = Plan { alb, effective: &effective, uid, installation };
    let ports = plan.ports(frontends);
    let mut objects = BTreeMap::new();
    let mut add = |kind: ManagedKind, namespace: &str, name: String, body: Value| {
        objects.insert(ManagedKey { kind, namespace: namespace.to_owned(), name }, body);
    };
    let (name, namespace) = (&*effective.name, &*effective.namespace);
    let own = |body| plan.own(body);
    add(ManagedKind::ServiceAccount, namespace, plan.account(), own(json!({ "automountServiceAccountToken": false })));
    // Names of one namespace would meet in the whole cluster.
    let whole = format!("headwater-alb:{namespace}:{name}");
    let role = |kind: &str, name: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name });
    let subjects = json!([{ "kind": "ServiceAccount", "name": plan.account(), "namespace": namespace }]);
    for NamespacedName { namespace: there, name: which } in &installation.roles {
        let body = json!({ "roleRef": role("Role", which), "subjects": subjects });
        add(ManagedKind::RoleBinding, there, format!("{whole}:{which}"), plan.labelled(body));
    }
    let body = json!({ "roleRef": role("ClusterRole", &installation.cluster_role), "subjects": subjects });
    add(ManagedKind::ClusterRoleBinding, "", whole, plan.labelled(body));
    add(ManagedKind::Deployment, namespace, name.to_owned(), own(plan.deployment()));
    if effective.replicas > 1 {
        let body = json!({ "spec": {
            "maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow", "selector": { "matchLabels": plan.selector() },
        } });
        add(ManagedKind::PodDisruptionBudget, namespace, name.to_owned(), own(body));
    }
    add(ManagedKind::Service, namespace, name.to_owned(), own(plan.service(&ports)));
    if let Some(balancer) = &effective.load_balancer {
        add(ManagedKind::Service, namespace, balancer_name(name), own(plan.balancer(balancer, &ports)));
    }
    if effective.serves_ingresses {
        add(ManagedKind::IngressClass, "", name.to_owned(), plan.labelled(plan.class()));
    }
    objects
}

/// The Service of type LoadBalancer of an ALB2.
pub(crate) fn balancer_name(alb: &str) -> String {
    format!("{alb}-lb")
}

/// A port that clients connect to.
type Port = (u16, &'static str);

struct Plan<'a> {
    alb: &'a Alb2,
    effective: &'a EffectiveAlb,
    uid: &'a str,
    installation: &'a Installation,
}

impl Plan<'_> {
    fn account(&self) -> String {
        format!("{}-serviceaccount", self.effective.name)
    }

    /// Labels by which pods are chosen; they never change.
    fn selector(&self) -> Value {
        json!({ ALB_NAMESPACE: label(&self.effective.namespace), ALB_NAME: label(&self.effective.name) })
    }

    fn labels(&self) -> Value {
        let mut labels = self.selector();
        labels["app.kubernetes.io/managed-by"] = MANAGED_BY.into();
        labels["app.kubernetes.io/name"] = "headwater".into();
        labels["app.kubernetes.io/component"] = "gateway".into();
        labels
    }

    fn labelled(&self, mut body: Value) -> Value {
        body["metadata"]["labels"] = self.labels();
        body["metadata"]["annotations"][ALB] = format!("{}/{}", self.effective.namespace, self.effective.name).into();
        body
    }

    /// The same, for an object that goes when its ALB2 goes.
    fn own(&self, body: Value) -> Value {
        let mut body = self.labelled(body);
        body["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "crd.alauda.io/v2beta1", "kind": "ALB2", "name": &*self.effective.name, "uid": self.uid,
            "controller": true, "blockOwnerDeletion": true,
        }]);
        body
    }

    fn ports<'f>(&self, frontends: impl Iterator<Item = &'f Frontend>) -> BTreeSet<Port> {
        let of_ingresses = [self.effective.ingress_http_port, self.effective.ingress_https_port];
        let of_ingresses = of_ingresses.into_iter().flatten().filter(|_| self.effective.serves_ingresses);
        let of_frontends = frontends.filter(|_| self.effective.serves_rules).map(|frontend| {
            (frontend.spec.port.get(), if frontend.spec.protocol() == Protocol::Udp { "UDP" } else { "TCP" })
        });
        of_ingresses.map(|port| (port, "TCP")).chain(of_frontends).collect()
    }

    fn is_on_host(&self) -> bool {
        self.effective.network_mode == NetworkMode::Host
    }

    /// `goMonitorPort`, or the one behind the metrics port: another on each ALB2 that may meet this one on a node.
    fn admin_port(&self) -> u16 {
        let metrics = self.effective.metrics_port;
        let next = metrics.checked_add(1).unwrap_or(metrics - 1);
        self.effective.go_monitor_port.filter(|port| *port != 0 && *port != metrics).unwrap_or(next)
    }

    fn deployment(&self) -> Value {
        let Self { effective, installation, .. } = self;
        let grace = effective.max_term.as_secs() + LAST_SECONDS;
        let mut labels = self.labels();
        labels["app.kubernetes.io/version"] = label(&installation.version);
        labels[format!("alb2.{}/type", installation.domain)] = label(&effective.anti_affinity_key);
        let mut pod = json!({
            "serviceAccountName": self.account(),
            "automountServiceAccountToken": true,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": grace,
            "tolerations": self.tolerations(),
            "affinity": { "podAntiAffinity": self.anti_affinity() },
            "containers": [self.container()],
        });
        if !effective.node_selector.is_empty() {
            pod["nodeSelector"] = json!(effective.node_selector);
        }
        if !installation.pull_secrets.is_empty() {
            pod["imagePullSecrets"] = installation.pull_secrets.iter().map(|name| json!({ "name": name })).collect();
        }
        pod["securityContext"] = if self.is_on_host() {
            pod["hostNetwork"] = true.into();
            pod["dnsPolicy"] = "ClusterFirstWithHostNet".into();
            // Uid 0 without any capability but the one to bind low ports.
            json!({ "runAsNonRoot": false, "runAsUser": 0, "runAsGroup": USER, "seccompProfile": { "type": "RuntimeDefault" } })
        } else {
            // A safe sysctl, of the pod's own network: low ports without any capability.
            json!({
                "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                "seccompProfile": { "type": "RuntimeDefault" },
                "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" }],
            })
        };
        let (surge, unavailable) = if self.is_on_host() { (0, 1) } else { (1, 0) };
        json!({ "spec": {
            "replicas": effective.replicas,
            "selector": { "matchLabels": self.selector() },
            "strategy": {
                "type": "RollingUpdate", "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable },
            },
            "template": { "metadata": { "labels": labels }, "spec": pod },
        } })
    }

    fn container(&self) -> Value {
        let Self { effective, installation, .. } = self;
        let connects_as_clients = self.alb.metadata.annotations.get(TRANSPARENT).is_some_and(|value| value == "true");
        let capabilities = match (self.is_on_host(), connects_as_clients) {
            (true, true) => json!({ "drop": ["ALL"], "add": ["NET_BIND_SERVICE", "NET_RAW"] }),
            (true, false) => json!({ "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] }),
            (false, _) => json!({ "drop": ["ALL"] }),
        };
        // The admin port authenticates nobody: on the host's network it is for the host alone.
        let address = if self.is_on_host() { "127.0.0.1" } else { "0.0.0.0" };
        let (metrics, admin) = (effective.metrics_port, self.admin_port());
        let half_term = effective.max_term.as_millis() / 2;
        let everywhere = if effective.ipv6 { "[::]" } else { "0.0.0.0" };
        let probe = |path: &str, more: Value| {
            let mut probe = more;
            probe["httpGet"] = json!({ "path": path, "port": admin });
            if self.is_on_host() {
                probe["httpGet"]["host"] = address.into();
            }
            probe
        };
        let field = |path: &str| json!({ "fieldRef": { "fieldPath": path } });
        let amounts = |amounts: &effective::EffectiveAmounts| json!({ "cpu": amounts.cpu.as_str(), "memory": amounts.memory.as_str() });
        json!({
            "name": "gateway",
            "image": overwritten_image(effective, installation).unwrap_or(&installation.image),
            "imagePullPolicy": installation.image_pull_policy,
            "args": [
                "gateway",
                "--log-json",
                format!("--alb={}/{}", effective.namespace, effective.name),
                format!("--label-domain={}", installation.domain),
                format!("--lease-namespace={}", installation.lease_namespace),
                format!("--admin={address}:{admin}"),
                format!("--alb-metrics={everywhere}:{metrics}"),
                format!("--workers={}", effective.workers()),
                // Load balancers notice that the metrics port is closed; then requests end.
                format!("--pre-stop-delay={half_term}ms"),
                format!("--drain={half_term}ms"),
            ],
            // Not POD_UID: its Lease is in another namespace, where it cannot be owned by the pod.
            "env": [
                { "name": "POD_NAME", "valueFrom": field("metadata.name") },
                { "name": "POD_NAMESPACE", "valueFrom": field("metadata.namespace") },
            ],
            "ports": [
                { "name": "metrics", "containerPort": metrics, "protocol": "TCP" },
                { "name": "admin", "containerPort": admin, "protocol": "TCP" },
            ],
            "startupProbe": probe("/healthz", json!({ "periodSeconds": 1, "failureThreshold": 60 })),
            "livenessProbe": probe("/healthz", json!({ "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3 })),
            "readinessProbe": probe("/readyz", json!({ "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2 })),
            "resources": {
                "limits": amounts(&effective.resources.limits), "requests": amounts(&effective.resources.requests),
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": effective.readonly_root,
                "capabilities": capabilities,
            },
        })
    }

    fn tolerations(&self) -> Value {
        let all = self.alb.metadata.annotations.get(&self.installation.domain.tolerate_all_annotation());
        if all.is_some_and(|value| value == "true") {
            return json!([{ "operator": "Exists" }]);
        }
        let keys = [
            "node-role.kubernetes.io/master",
            "node-role.kubernetes.io/control-plane",
            "node-role.kubernetes.io/cpaas-system",
            "node.kubernetes.io/not-ready",
        ];
        keys.iter().map(|key| json!({ "key": key, "operator": "Exists", "effect": "NoSchedule" })).collect()
    }

    /// On the host's network pods of one key would want the same ports.
    fn anti_affinity(&self) -> Value {
        let key = format!("alb2.{}/type", self.installation.domain);
        let labels =
            if self.is_on_host() { json!({ key: label(&self.effective.anti_affinity_key) }) } else { self.selector() };
        let mut term = json!({ "labelSelector": { "matchLabels": labels }, "topologyKey": "kubernetes.io/hostname" });
        if self.is_on_host() {
            // Of whatever namespace.
            term["namespaceSelector"] = json!({});
            return json!({ "requiredDuringSchedulingIgnoredDuringExecution": [term] });
        }
        json!({ "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 100, "podAffinityTerm": term }] })
    }

    fn service(&self, ports: &BTreeSet<Port>) -> Value {
        let metrics = self.effective.metrics_port;
        let mut list = vec![json!({ "name": "metrics", "port": metrics, "targetPort": metrics, "protocol": "TCP" })];
        list.extend(ports.iter().filter(|port| **port != (metrics, "TCP")).map(service_port));
        json!({ "spec": {
            "type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack", "selector": self.selector(), "ports": list,
        } })
    }

    fn balancer(&self, balancer: &LoadBalancer, ports: &BTreeSet<Port>) -> Value {
        // An API server takes no Service without a port; the metrics port is there in any case, and answers health checks.
        let metrics = (self.effective.metrics_port, "TCP");
        let ports: Vec<Value> =
            if ports.is_empty() { vec![service_port(&metrics)] } else { ports.iter().map(service_port).collect() };
        json!({
            "metadata": { "annotations": balancer.annotations },
            "spec": {
                "type": "LoadBalancer",
                "ipFamilyPolicy": balancer.ip_family_policy.as_deref().unwrap_or("PreferDualStack"),
                "allocateLoadBalancerNodePorts": balancer.allocate_node_ports,
                "selector": self.selector(),
                "ports": ports,
            },
        })
    }

    fn class(&self) -> Value {
        let domain = &self.installation.domain;
        let projects = match &self.effective.projects {
            Projects::All => effective::ALL_PROJECTS.to_owned(),
            Projects::Only(names) => names.join(","),
            Projects::None => String::new(),
        };
        json!({
            "metadata": { "annotations": {
                "ingressclass.kubernetes.io/is-default-class": self.effective.default_ingress_class.to_string(),
                format!("alb.{domain}/project"): projects,
            } },
            "spec": { "controller": format!("{domain}/alb2") },
        })
    }
}

/// The image that the ALB2 wants in place of the installed one; that of nginx has no meaning here.
pub(crate) fn overwritten_image<'a>(effective: &'a EffectiveAlb, installation: &Installation) -> Option<&'a str> {
    let fits = |target: &Option<String>| target.as_ref().is_none_or(|target| *target == installation.version);
    effective.overwrite.image.iter().filter(|image| fits(&image.target)).find_map(|image| image.alb.as_deref())
}

fn service_port((port, protocol): &Port) -> Value {
    let name = format!("{}-{port}", protocol.to_ascii_lowercase());
    json!({ "name": name, "port": port, "targetPort": port, "protocol": protocol })
}

/// A text as value of a label: names may be longer than the 63 bytes that it may have.
fn label(text: &str) -> Value {
    let cut = text.char_indices().nth(63).map_or(text, |(end, _)| &text[..end]);
    cut.trim_end_matches(|end: char| !end.is_ascii_alphanumeric()).into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn alb(config: Value) -> Alb2 {
        let object = json!({
            "apiVersion": "crd.alauda.io/v2beta1", "kind": "ALB2",
            "metadata": { "name": "demo", "namespace": "cpaas-system" }, "spec": { "config": config },
        });
        Alb2::parse(&object).unwrap()
    }

    pub(crate) fn installation() -> Installation {
        Installation {
            image: "registry.example.com/headwater:1".to_owned(),
            image_pull_policy: "IfNotPresent".to_owned(),
            pull_secrets: Vec::new(),
            version: "1.0.0".to_owned(),
            cluster_role: "headwater-gateway".to_owned(),
            roles: vec![NamespacedName::new("headwater", "headwater-gateway-lease")],
            lease_namespace: "headwater".to_owned(),
            domain: Domain::default(),
        }
    }

    fn frontend(port: u16, protocol: &str) -> Frontend {
        Frontend::parse(&json!({
            "metadata": { "name": format!("demo-{port:05}"), "namespace": "cpaas-system" },
            "spec": { "port": port, "protocol": protocol },
        }))
        .unwrap()
    }

    fn objects(config: Value) -> BTreeMap<ManagedKey, Value> {
        let frontends = [frontend(8080, "http"), frontend(53, "udp"), frontend(53, "tcp")];
        desired(&alb(config), "uid", frontends.iter(), &installation())
    }

    fn one(objects: &BTreeMap<ManagedKey, Value>, kind: ManagedKind, name: &str) -> Value {
        let mut found = objects.iter().filter(|(key, _)| key.kind == kind && key.name == name);
        found.next().map(|(_, body)| body.clone()).unwrap_or_default()
    }

    #[test]
    fn an_alb_has_these_objects_and_no_others() {
        let names = |config| -> Vec<String> { objects(config).keys().map(ToString::to_string).collect() };
        let always = [
            "ServiceAccount cpaas-system/demo-serviceaccount",
            "RoleBinding headwater/headwater-alb:cpaas-system:demo:headwater-gateway-lease",
            "ClusterRoleBinding headwater-alb:cpaas-system:demo",
            "Deployment cpaas-system/demo",
            "PodDisruptionBudget cpaas-system/demo",
            "Service cpaas-system/demo",
        ];
        let with = |more: &[&'static str]| -> Vec<&str> { always.iter().chain(more).copied().collect() };
        assert_eq!(names(json!({})), with(&["IngressClass demo"]));
        assert_eq!(
            names(json!({ "networkMode": "container" })),
            with(&["Service cpaas-system/demo-lb", "IngressClass demo"])
        );
        assert_eq!(names(json!({ "enableIngress": "false" })), with(&[]));
        let single = names(json!({ "replicas": 1, "enableIngress": "false" }));
        assert!(!single.iter().any(|name| name.starts_with("PodDisruptionBudget")), "{single:?}");
    }

    #[test]
    fn what_lives_beside_an_alb_goes_with_it_and_all_else_is_labelled() {
        for (key, body) in objects(json!({ "networkMode": "container" })) {
            let owners = body.pointer("/metadata/ownerReferences/0/uid").and_then(Value::as_str);
            let is_beside = key.namespace == "cpaas-system";
            assert_eq!(owners, is_beside.then_some("uid"), "{key}");
            assert_eq!(body["metadata"]["labels"]["app.kubernetes.io/managed-by"], MANAGED_BY, "{key}");
            assert_eq!(body["metadata"]["annotations"][ALB], "cpaas-system/demo", "{key}");
        }
    }

    #[test]
    fn only_a_pod_on_the_hosts_network_may_bind_low_ports_by_a_capability() {
        for (mode, on_host) in [("host", true), ("container", false)] {
            let deployment = one(&objects(json!({ "networkMode": mode })), ManagedKind::Deployment, "demo");
            let pod = &deployment["spec"]["template"]["spec"];
            let container = &pod["containers"][0];
            assert_eq!(pod["hostNetwork"] == true, on_host);
            assert_eq!(container["securityContext"]["capabilities"]["add"] == json!(["NET_BIND_SERVICE"]), on_host);
            assert_eq!(pod["securityContext"]["runAsUser"] == 0, on_host);
            assert_eq!(pod["securityContext"].get("sysctls").is_some(), !on_host);
            let admin = if on_host { "--admin=127.0.0.1:1937" } else { "--admin=0.0.0.0:1937" };
            for wanted in [admin, "--alb-metrics=[::]:1936"] {
                assert!(container["args"].as_array().unwrap().contains(&wanted.into()), "{container}");
            }
            assert_eq!(container["readinessProbe"]["httpGet"]["port"], 1937, "not what load balancers look at");
            assert_eq!(container["readinessProbe"]["httpGet"].get("host").is_some(), on_host);
            let affinity = &pod["affinity"]["podAntiAffinity"];
            assert_eq!(affinity.get("requiredDuringSchedulingIgnoredDuringExecution").is_some(), on_host);
        }
    }

    #[test]
    fn an_annotation_lets_pods_on_the_hosts_network_connect_from_their_clients_addresses() {
        for (value, adds) in [("true", json!(["NET_BIND_SERVICE", "NET_RAW"])), ("yes", json!(["NET_BIND_SERVICE"]))] {
            let mut alb = alb(json!({ "networkMode": "host" }));
            alb.metadata.annotations.insert(TRANSPARENT.to_owned(), value.to_owned());
            let objects = desired(&alb, "uid", [].iter(), &installation());
            let deployment = one(&objects, ManagedKind::Deployment, "demo");
            let container = &deployment["spec"]["template"]["spec"]["containers"][0];
            assert_eq!(container["securityContext"]["capabilities"]["add"], adds, "{value}");
        }
    }

    #[test]
    fn fields_of_the_alb_reach_its_pods() {
        let config = json!({
            "replicas": 5, "nodeSelector": { "alb": "true" }, "antiAffinityKey": "edge", "metricsPort": 11_782,
            "workerLimit": 4, "maxTermSeconds": 60, "readonlyFS": false,
            "resources": { "limits": { "cpu": "8", "memory": "4Gi" }, "requests": { "cpu": "1" } },
            "overwrite": { "image": [
                { "target": "0.9.0", "alb": "registry.example.com/old" }, { "alb": "registry.example.com/patched" },
            ] },
        });
        let deployment = one(&objects(config), ManagedKind::Deployment, "demo");
        let template = &deployment["spec"]["template"];
        let container = &template["spec"]["containers"][0];
        for (value, wanted) in [
            (&deployment["spec"]["replicas"], json!(5)),
            (&template["spec"]["nodeSelector"], json!({ "alb": "true" })),
            (&template["metadata"]["labels"]["alb2.cpaas.io/type"], json!("edge")),
            (&template["spec"]["terminationGracePeriodSeconds"], json!(65)),
            (&container["image"], json!("registry.example.com/patched")),
            (&container["ports"][0]["containerPort"], json!(11_782)),
            (&container["ports"][1]["containerPort"], json!(11_783)),
            (&container["securityContext"]["readOnlyRootFilesystem"], json!(false)),
            (
                &container["resources"],
                json!({
                    "limits": { "cpu": "8", "memory": "4Gi" }, "requests": { "cpu": "1", "memory": "128Mi" },
                }),
            ),
        ] {
            assert_eq!(*value, wanted);
        }
        let args = container["args"].as_array().unwrap();
        for wanted in [
            "--alb=cpaas-system/demo",
            "--workers=4",
            "--pre-stop-delay=30000ms",
            "--drain=30000ms",
            "--lease-namespace=headwater",
        ] {
            assert!(args.contains(&wanted.into()), "{wanted} is not in {args:?}");
        }
    }

    #[test]
    fn services_list_the_ports_of_frontends_and_ingresses() {
        let names = |config, service: &str| -> Vec<String> {
            let service = one(&objects(config), ManagedKind::Service, service);
            let ports = service["spec"]["ports"].as_array().unwrap().clone();
            ports.iter().map(|port| port["name"].as_str().unwrap().to_owned()).collect()
        };
        let container = || json!({ "networkMode": "container" });
        assert_eq!(names(container(), "demo-lb"), ["tcp-53", "udp-53", "tcp-80", "tcp-443", "tcp-8080"]);
        assert_eq!(names(container(), "demo"), ["metrics", "tcp-53", "udp-53", "tcp-80", "tcp-443", "tcp-8080"]);
        let gateway = json!({ "networkMode": "container", "enableALb": false, "enableIngress": "false" });
        assert_eq!(names(gateway, "demo-lb"), ["tcp-1936"]);
        let no_https = json!({ "networkMode": "container", "ingressHTTPSPort": 0 });
        assert_eq!(names(no_https, "demo-lb"), ["tcp-53", "udp-53", "tcp-80", "tcp-8080"]);
    }

    #[test]
    fn the_class_names_the_projects() {
        for (projects, wanted) in [(json!([]), ""), (json!(["a", "b"]), "a,b"), (json!(["a", "ALL_ALL"]), "ALL_ALL")] {
            let class = one(&objects(json!({ "projects": projects })), ManagedKind::IngressClass, "demo");
            assert_eq!(class["metadata"]["annotations"]["alb.cpaas.io/project"], wanted);
            assert_eq!(class["spec"]["controller"], "cpaas.io/alb2");
        }
    }

    #[test]
    fn a_label_is_no_longer_than_it_may_be() {
        assert_eq!(label("edge"), "edge");
        assert_eq!(label(&"a".repeat(80)), "a".repeat(63));
        assert_eq!(label(&format!("{}.-b", "a".repeat(61))), "a".repeat(61));
    }
}
