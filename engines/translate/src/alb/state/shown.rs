//! Rules and Frontends as objects, for those who look at an Ingress through `kubectl get rule`.
//!
//! They show what is served; nothing is served because of such a Rule: one with the label `source-type: ingress` is never
//! translated, so that no path of an Ingress is there twice. A Frontend that is missing is made once, and from then on is
//! one that somebody wrote.

use std::collections::BTreeMap;

use headwater_model::alb::{Domain, Rule as Written};
use headwater_model::cluster::Cluster;
use headwater_model::fnv::fnv1a_64;
use headwater_model::object::{HttpIngressPath, Ingress};
use headwater_model::origin::NamespacedName;
use serde_json::{Map, Value, json};

use super::Albs;
use crate::alb::ingress::{Secure, secure_hosts};
use crate::alb::{DEFAULT_PRIORITY, ingress_terms};
use crate::annotations::parse_bool;
use headwater_model::alb::dslx::Term;
use headwater_model::finding::{Finding, Severity};

/// Value of the label `source-type`, and of `spec.source.type`.
const OF_INGRESS: &str = "ingress";
/// Longest value of a label.
const MAX_LABEL: usize = 63;
/// Longest part of a Frontend's name in that of a Rule.
const MAX_FRONTEND: usize = 200;

/// What there is to be shown of all Ingresses that ALB2s serve.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shown {
    /// Frontends that Ingresses need and that no object is there for.
    pub frontends: BTreeMap<NamespacedName, ShownFrontend>,
    pub rules: BTreeMap<NamespacedName, ShownRule>,
}

/// A Frontend that is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownFrontend {
    /// The ALB2 that owns it.
    pub alb: NamespacedName,
    /// `metadata.labels` and `spec`.
    pub body: Value,
}

/// One path of an Ingress at one port.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownRule {
    /// The Frontend that owns it.
    pub frontend: NamespacedName,
    /// `metadata.labels`, `metadata.annotations` and `spec`.
    pub body: Value,
}

/// Label of Rules that are written here, and its value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "headwater-ingress");

/// Whether a Rule is only shown.
pub(super) fn is_shown(rule: &Written, domain: &Domain) -> bool {
    rule.metadata.labels.get(&domain.source_type_label()).is_some_and(|kind| kind == OF_INGRESS)
}

/// What to know of such a Rule that somebody else wrote.
pub(super) fn not_served(rule: &Written, domain: &Domain) -> Option<Finding> {
    let (label, ours) = MANAGED_BY;
    if rule.metadata.labels.get(label).is_some_and(|value| value == ours) {
        return None;
    }
    let label = domain.source_type_label();
    let message = "it was made for an Ingress, which is served by itself; this Rule is not";
    Some(
        Finding::new(Severity::Info, "NotServed", rule.key(), message)
            .at(format!("metadata.labels[{label}]"))
            .mend("delete it, or remove the label to have it served"),
    )
}

impl Albs {
    pub(crate) fn shown(&self, cluster: &Cluster) -> Shown {
        let mut shown = Shown::default();
        for (id, taken) in &self.ingresses {
            let Some(ingress) = cluster.ingresses.get(id) else { continue };
            let secure = secure_hosts(ingress, &self.domain);
            for (alb, port) in taken.ports.iter().flat_map(|(alb, ports)| ports.iter().map(move |port| (alb, *port))) {
                let (Some(view), Some(frontend)) = (self.views.get(alb), self.ingress_ports.get(&(alb.clone(), port)))
                else {
                    continue;
                };
                let at = At { domain: &self.domain, cluster, alb, frontend, port, ingress, secure: &secure };
                if !cluster.frontends.contains_key(frontend) {
                    let tls = taken.needs.get(alb).and_then(|ports| ports.get(&port)) == Some(&true);
                    let certificate = view.effective.default_certificate.as_ref().filter(|_| tls);
                    let body = || at.frontend(tls, certificate);
                    let made = || ShownFrontend { alb: alb.clone(), body: body() };
                    shown.frontends.entry(frontend.clone()).or_insert_with(made);
                }
                for (rule, written) in ingress.spec.rules.iter().enumerate() {
                    let host = written.host.as_deref().unwrap_or_default();
                    let paths = written.http.as_ref().map_or(&[][..], |http| &http.paths);
                    for (nth, path) in paths.iter().enumerate() {
                        if let Some(body) = at.rule(host, path, (rule, nth)) {
                            shown.rules.insert(at.name((rule, nth)), ShownRule { frontend: frontend.clone(), body });
                        }
                    }
                }
            }
        }
        shown
    }
}

/// An Ingress at a port of an ALB2.
struct At<'a> {
    domain: &'a Domain,
    cluster: &'a Cluster,
    alb: &'a NamespacedName,
    frontend: &'a NamespacedName,
    port: u16,
    ingress: &'a Ingress,
    secure: &'a Secure,
}

impl At<'_> {
    /// The same for the same place, whatever stands there.
    fn name(&self, (rule, path): (usize, usize)) -> NamespacedName {
        let place = format!("{}/{rule}/{path}", self.ingress.id());
        let frontend = self.frontend.name.get(..MAX_FRONTEND).unwrap_or(&self.frontend.name);
        let name = format!("{frontend}-{:016x}", fnv1a_64(place.bytes())).to_ascii_lowercase();
        NamespacedName::new(self.alb.namespace.clone(), name)
    }

    fn source(&self) -> Value {
        let metadata = &self.ingress.metadata;
        json!({ "name": &*metadata.name, "namespace": &*metadata.namespace, "type": OF_INGRESS })
    }

    fn frontend(&self, tls: bool, certificate: Option<&NamespacedName>) -> Value {
        let protocol = if tls { "https" } else { "http" };
        let mut spec = json!({ "port": self.port, "protocol": protocol, "source": self.source() });
        if let Some(certificate) = certificate {
            spec["certificate_name"] = format!("{}_{}", certificate.namespace, certificate.name).into();
        }
        json!({ "metadata": { "labels": { self.domain.name_label(): &*self.alb.name } }, "spec": spec })
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.ingress.metadata.annotations.get(name).map(String::as_str)
    }

    fn nginx(&self, name: &str) -> Option<&str> {
        self.annotation(&format!("nginx.ingress.kubernetes.io/{name}"))
    }

    /// `None`: it has no port, or speaks what Rules have no word for.
    fn rule(&self, host: &str, path: &HttpIngressPath, (rule, nth): (usize, usize)) -> Option<Value> {
        let metadata = &self.ingress.metadata;
        let service = path.backend.service.as_ref()?;
        let port = service.port.as_ref()?;
        let port = match (port.number, port.name.as_deref()) {
            (Some(number), _) => number,
            (None, Some(name)) => {
                let id = NamespacedName::new(metadata.namespace.clone(), service.name.as_str());
                let ports = &self.cluster.services.get(&id)?.spec.ports;
                ports.iter().find(|port| port.name.as_deref() == Some(name))?.port
            }
            (None, None) => return None,
        };
        let protocol = self.nginx("backend-protocol").map(str::to_ascii_lowercase);
        let url = path.path.as_deref().unwrap_or_default();
        let terms = ingress_terms(host, url, path.path_type);
        let priority = self.annotation(&self.domain.ingress_priority_annotation(rule, nth));
        let priority = priority.and_then(|text| text.trim().parse().ok()).filter(|priority: &i64| *priority != 0);
        let mut spec = json!({
            "description": format!("{}/{}:{}:{nth}", metadata.namespace, metadata.name, self.port),
            "domain": host,
            "dsl": internal(&terms).to_string(),
            "dslx": terms,
            "enableCORS": self.nginx("enable-cors").and_then(parse_bool) == Some(true),
            "priority": priority.unwrap_or(DEFAULT_PRIORITY),
            "rewrite_base": url,
            "serviceGroup": { "services": [
                { "name": service.name, "namespace": &*metadata.namespace, "port": port, "weight": 100 },
            ] },
            "source": self.source(),
            "url": url,
        });
        let affinity = |name: &str| self.annotation(&format!("{}{name}", self.domain.ingress_prefix()));
        for (field, value) in [
            ("session_affinity_policy", affinity("session-affinity-policy")),
            ("session_affinity_attribute", affinity("session-affinity-attribute")),
        ] {
            if let Some(value) = value {
                spec["serviceGroup"][field] = value.into();
            }
        }
        let certificate = self.secure.get(&host.to_ascii_lowercase());
        let texts = [
            ("backendProtocol", protocol),
            ("certificate_name", certificate.map(|secret| format!("{}_{}", secret.namespace, secret.name))),
            ("corsAllowHeaders", self.nginx("cors-allow-headers").map(Into::into)),
            ("corsAllowOrigin", self.nginx("cors-allow-origin").map(Into::into)),
            ("rewrite_target", self.nginx("rewrite-target").map(Into::into)),
            ("vhost", self.nginx("upstream-vhost").map(Into::into)),
        ];
        for (field, value) in texts {
            if let Some(value) = value {
                spec[field] = value.into();
            }
        }
        Some(json!({ "metadata": self.metadata((rule, nth)), "spec": spec }))
    }

    fn metadata(&self, (rule, nth): (usize, usize)) -> Value {
        let (domain, metadata) = (self.domain, &self.ingress.metadata);
        let mut labels: Map<String, Value> = [
            (domain.name_label(), self.alb.name.to_string()),
            (domain.frontend_label(), self.frontend.name.to_string()),
            (domain.source_type_label(), OF_INGRESS.to_owned()),
            (domain.source_name_label(), label(&metadata.name)),
            (domain.source_namespace_label(), label(&metadata.namespace)),
            (domain.source_index_label(), format!("{rule}-{nth}")),
            (MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
        let namespace = self.cluster.namespaces.get(&NamespacedName::new("", &*metadata.namespace));
        if let Some(project) = namespace.and_then(|namespace| namespace.metadata.labels.get(&domain.project_label())) {
            labels.insert(domain.project_label(), project.as_str().into());
        }
        let mut annotations = Map::from_iter([
            (domain.source_rule_index_annotation(), rule.to_string().into()),
            (domain.source_path_index_annotation(), nth.to_string().into()),
        ]);
        for (from, to) in [
            (domain.ingress_rewrite_request(), domain.rewrite_request()),
            (domain.ingress_rewrite_response(), domain.rewrite_response()),
        ] {
            if let Some(text) = self.annotation(&from) {
                annotations.insert(to, text.into());
            }
        }
        json!({ "labels": labels, "annotations": annotations })
    }
}

/// Terms as upstream compiles them: `["AND",["STARTS_WITH","URL","/"],["EQ","HOST","a.example"]]`.
fn internal(terms: &[Term]) -> Value {
    let row = |term: &Term| {
        let (operator, arguments) = term.values.first().and_then(|row| row.split_first()).unzip();
        let arguments = arguments.map_or(&[][..], |arguments| arguments);
        let words = operator.into_iter().chain([&term.kind]).chain(arguments);
        Value::from(words.map(String::as_str).collect::<Vec<_>>())
    };
    match terms {
        [one] => row(one),
        many => Value::from([Value::from("AND")].into_iter().chain(many.iter().map(row)).collect::<Vec<_>>()),
    }
}

/// A text as the value of a label, as far as it fits.
fn label(text: &str) -> String {
    let cut: String = text.chars().take(MAX_LABEL).collect();
    cut.trim_end_matches(|last: char| !last.is_ascii_alphanumeric()).to_owned()
}
