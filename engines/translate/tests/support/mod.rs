//! Builders: a cluster from JSON, certificates, and short ways to ask a snapshot.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "test code, of which each file uses its part")]

use headwater_model::alb;
use headwater_model::cluster::{Change, Cluster, Object};
use headwater_model::finding::{Finding, Severity};
use headwater_model::gateway::{Action, Forward, GatewaySnapshot, HostPattern, Listener, PathMatch, Pool, Rule};
use headwater_model::origin::ObjectKey;
use headwater_translate::{Options, Translation, Translator};
use serde_json::{Value, json};
use std::sync::Arc;

pub const NOW: i64 = 1_800_000_000;

pub fn object(value: Value) -> Object {
    fn read<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }
    match value["kind"].as_str().unwrap() {
        "Namespace" => Object::Namespace(read(value)),
        "Service" => Object::Service(read(value)),
        "EndpointSlice" => Object::EndpointSlice(read(value)),
        "Secret" => Object::Secret(read(value)),
        "ConfigMap" => Object::ConfigMap(read(value)),
        "IngressClass" => Object::IngressClass(read(value)),
        "Ingress" => Object::Ingress(read(value)),
        "GatewaySettings" => Object::GatewaySettings(read(value)),
        "ALB2" => Object::Alb2(Arc::new(alb::Alb2::parse(&value).unwrap())),
        "Frontend" => Object::Frontend(Arc::new(alb::Frontend::parse(&value).unwrap())),
        "Rule" => Object::Rule(Arc::new(alb::Rule::parse(&value).unwrap())),
        "TimeoutPolicy" => Object::TimeoutPolicy(Arc::new(alb::TimeoutPolicy::parse(&value).unwrap())),
        other => panic!("{other} is no kind"),
    }
}

/// A cluster and its translator, edited together.
pub struct World {
    pub cluster: Cluster,
    pub translator: Translator,
    pub options: Options,
}

impl World {
    pub fn new(options: Options, objects: impl IntoIterator<Item = Value>) -> (Self, Translation) {
        let mut world = Self { cluster: Cluster::default(), translator: Translator::new(options.clone()), options };
        for value in objects {
            world.cluster.apply(&Change::Set(object(value)));
        }
        let translation = world.translator.apply(&world.cluster, &[], NOW);
        (world, translation)
    }

    pub fn set(&mut self, value: Value) -> Translation {
        self.change(Change::Set(object(value)))
    }

    pub fn remove(&mut self, value: Value) -> Translation {
        self.change(Change::Removed(object(value).key()))
    }

    pub fn change(&mut self, change: Change) -> Translation {
        self.cluster.apply(&change);
        self.translator.apply(&self.cluster, &[change.key()], NOW)
    }

    pub fn fresh(&self) -> Translation {
        Translator::new(self.options.clone()).apply(&self.cluster, &[], NOW)
    }
}

/// Translates with the options of one machine.
pub fn embedded(objects: impl IntoIterator<Item = Value>) -> Translation {
    World::new(Options::embedded(), objects).1
}

pub fn in_cluster(objects: impl IntoIterator<Item = Value>) -> Translation {
    World::new(Options::default(), objects).1
}

pub fn meta(id: &str) -> Value {
    match id.split_once('/') {
        Some((namespace, name)) => json!({"namespace": namespace, "name": name}),
        None => json!({"name": id}),
    }
}

pub fn service(id: &str, port: u16) -> Value {
    json!({"kind": "Service", "metadata": meta(id), "spec": {"ports": [{"name": "http", "port": port}]}})
}

/// Endpoints of port `http`, all ready.
pub fn slice(service: &str, name: &str, addresses: &[&str], port: u16) -> Value {
    let (namespace, service) = service.split_once('/').unwrap();
    let kind = if addresses.first().is_some_and(|address| address.contains(':')) { "IPv6" } else { "IPv4" };
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    json!({
        "kind": "EndpointSlice", "addressType": kind, "endpoints": endpoints,
        "metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": port}],
    })
}

pub fn backend(service: &str, port: u16) -> Value {
    json!({"service": {"name": service, "port": {"number": port}}})
}

pub fn path(path: &str, kind: &str, service: &str) -> Value {
    json!({"path": path, "pathType": kind, "backend": backend(service, 80)})
}

pub fn rule(host: &str, paths: Vec<Value>) -> Value {
    if host.is_empty() { json!({"http": {"paths": paths}}) } else { json!({"host": host, "http": {"paths": paths}}) }
}

pub fn ingress(id: &str, rules: Vec<Value>) -> Value {
    json!({"kind": "Ingress", "metadata": meta(id), "spec": {"rules": rules}})
}

/// The value with one more field, named as in `metadata.creationTimestamp`.
pub fn with(mut value: Value, field: &str, to: Value) -> Value {
    let mut place = &mut value;
    for part in field.split('.') {
        place = &mut place[part];
    }
    *place = to;
    value
}

pub fn annotated(value: Value, annotations: Value) -> Value {
    with(value, "metadata.annotations", annotations)
}

pub fn nginx(name: &str) -> String {
    format!("nginx.ingress.kubernetes.io/{name}")
}

pub fn class(name: &str, parameters: Option<&str>) -> Value {
    let mut class = json!({
        "kind": "IngressClass", "metadata": {"name": name}, "spec": {"controller": "headwater.dev/ingress"},
    });
    if let Some(settings) = parameters {
        let (namespace, name) = settings.split_once('/').unwrap();
        class["spec"]["parameters"] = json!({
            "apiGroup": "headwater.dev", "kind": "GatewaySettings", "scope": "Namespace",
            "namespace": namespace, "name": name,
        });
    }
    class
}

pub fn settings(id: &str, spec: Value) -> Value {
    json!({"kind": "GatewaySettings", "metadata": meta(id), "spec": spec})
}

pub fn nginx_config(data: Value) -> Value {
    json!({
        "kind": "ConfigMap", "metadata": {"namespace": "ingress-nginx", "name": "ingress-nginx-controller"},
        "data": data,
    })
}

pub enum Algorithm {
    Ecdsa,
    Ed25519,
}

/// PEM of a self-signed certificate and its key.
pub fn certificate(names: &[&str], algorithm: Algorithm, year_of_end: i32) -> (String, String) {
    let key = rcgen::KeyPair::generate_for(match algorithm {
        Algorithm::Ecdsa => &rcgen::PKCS_ECDSA_P256_SHA256,
        Algorithm::Ed25519 => &rcgen::PKCS_ED25519,
    })
    .unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(year_of_end, 1, 1);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

pub fn secret_of(id: &str, (chain, key): (String, String)) -> Value {
    json!({
        "kind": "Secret", "type": "kubernetes.io/tls", "metadata": meta(id),
        "stringData": {"tls.crt": chain, "tls.key": key},
    })
}

pub fn tls_secret(id: &str, names: &[&str]) -> Value {
    secret_of(id, certificate(names, Algorithm::Ecdsa, 2060))
}

pub fn with_tls(ingress: Value, hosts: &[&str], secret: &str) -> Value {
    with(ingress, "spec.tls", json!([{"hosts": hosts, "secretName": secret}]))
}

pub fn listener<'a>(snapshot: &'a GatewaySnapshot, name: &str) -> &'a Arc<Listener> {
    snapshot.listeners.iter().find(|listener| *listener.name == *name).expect("the listener exists")
}

pub fn host(name: &str) -> HostPattern {
    match name {
        "" => HostPattern::Any,
        name => match name.strip_prefix("*.") {
            Some(suffix) => HostPattern::OneLabel(suffix.into()),
            None => HostPattern::Exact(name.into()),
        },
    }
}

pub fn rules<'a>(snapshot: &'a GatewaySnapshot, name: &str) -> &'a [Arc<Rule>] {
    snapshot.listeners[0].routes.hosts.get(&host(name)).map_or(&[], |host| &host.rules)
}

/// `exact /foo -> shop/web:80`, `prefix / -> 503 no_service`, best first.
pub fn shown(snapshot: &GatewaySnapshot, name: &str) -> Vec<String> {
    rules(snapshot, name).iter().map(|rule| show(snapshot, rule)).collect()
}

pub fn show(snapshot: &GatewaySnapshot, rule: &Rule) -> String {
    let path = match &rule.matches.path {
        PathMatch::Any => "any".to_owned(),
        PathMatch::Exact(path) => format!("exact {path}"),
        PathMatch::Prefix(path) => format!("prefix {path}"),
        PathMatch::StartsWith(path) => format!("starts with {path}"),
        PathMatch::Regex(pattern) => format!("regex {pattern}"),
        PathMatch::AnyOf(paths) => format!("any of {paths:?}"),
    };
    let action = match &rule.action {
        Action::Forward(forward) => {
            let pool = pool(snapshot, forward);
            let redirect = if forward.https_redirect.is_some() { " (https)" } else { "" };
            format!("{}:{}{redirect}", pool.service, pool.port)
        }
        Action::Refuse(refuse) => format!("{} {}", refuse.status, refuse.reason),
        other => format!("{other:?}"),
    };
    format!("{path} -> {action}")
}

pub fn pool<'a>(snapshot: &'a GatewaySnapshot, forward: &Forward) -> &'a Pool {
    snapshot.pools.find(forward.backends[0].pool).expect("a rule's pool exists")
}

pub fn forward(rule: &Rule) -> &Forward {
    match &rule.action {
        Action::Forward(forward) => forward,
        other => panic!("{other:?} does not forward"),
    }
}

pub fn endpoints(snapshot: &GatewaySnapshot, name: &str) -> Vec<String> {
    let rules = rules(snapshot, name);
    pool(snapshot, forward(&rules[0])).endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

/// `Error MissingReference Ingress shop/web spec...`, without the texts; neither is told what is fine or has no
/// endpoints.
pub fn brief(findings: &[Finding]) -> Vec<String> {
    let key = |object: &Option<ObjectKey>| object.as_ref().map_or("-".to_owned(), ToString::to_string);
    let line = |f: &Finding| format!("{:?} {} {} {}", f.severity, f.reason, key(&f.object), f.field);
    findings
        .iter()
        .filter(|f| f.severity > Severity::Info && f.reason != "NoEndpoints")
        .map(|f| line(f).trim_end().to_owned())
        .collect()
}
