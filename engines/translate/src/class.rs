//! IngressClasses: which Ingress is served, and by which gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_model::cluster::Cluster;
use headwater_model::finding::{Finding, Severity};
use headwater_model::object::{DEFAULT_CLASS_ANNOTATION, Ingress, IngressClass, IngressClassParameters};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};

use crate::alb::Census;
use crate::environment::GatewayId;
use crate::options::Options;

/// How an Ingress named its class before `spec.ingressClassName`.
pub(crate) const LEGACY_ANNOTATION: &str = "kubernetes.io/ingress.class";

#[derive(Debug, Clone, PartialEq, Eq)]
enum Served {
    By(GatewayId),
    /// Another controller's, or not among the names to serve.
    Foreign,
    /// Its parameters cannot be read. Its listeners stay closed: a missing policy could mean trusting wrongly.
    Refused,
}

/// Whom an Ingress belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Assignment {
    Gateway(GatewayId),
    /// Not served, with a finding where that may surprise.
    None(Option<Finding>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Classes {
    by_name: BTreeMap<Arc<str>, Served>,
    /// Names served without an IngressClass object.
    legacy: Vec<String>,
    legacy_gateway: Option<Served>,
    /// Where an Ingress without a class goes; `None` is nowhere.
    classless: Option<Served>,
    /// The one class that is marked as default.
    default: Option<Arc<str>>,
    /// Whether no IngressClass exists and everything is served.
    everything: Option<Served>,
}

impl Classes {
    pub(crate) fn read(cluster: &Cluster, options: &Options, albs: &Census, findings: &mut Vec<Finding>) -> Self {
        if cluster.ingress_classes.is_empty() && options.serve_all_without_classes {
            // Where there are ALB2s, Ingresses are theirs.
            if !albs.served.is_empty() {
                return Self::default();
            }
            return Self::without_classes(cluster, options, findings);
        }
        let mut by_name = BTreeMap::new();
        let mut taken_over = Vec::new();
        let mut defaults = Vec::new();
        for class in cluster.ingress_classes.values() {
            let name = &class.metadata.name;
            let ours = class.spec.controller.as_deref() == Some(&*options.controller);
            let wanted = options.classes.is_empty() || options.classes.iter().any(|known| **known == **name);
            let served = match (ours && wanted) || is_among(&options.take_over, name) {
                true => gateway_of(class, cluster, findings),
                false => Served::Foreign,
            };
            if !ours && served != Served::Foreign && class.spec.parameters.is_none() {
                taken_over.push(name.clone());
            }
            by_name.insert(name.clone(), served);
            let annotation = class.metadata.annotations.get(DEFAULT_CLASS_ANNOTATION);
            if annotation.is_some_and(|value| value == "true") {
                defaults.push(class);
            }
        }
        let own = only_gateway(&by_name, &taken_over);
        for name in taken_over {
            by_name.insert(name, own.clone());
        }
        let classless = match &defaults[..] {
            [] if options.serve_classless => Some(own.clone()),
            [] => None,
            [class] => by_name.get(&class.metadata.name).cloned(),
            several => {
                for class in several {
                    let message =
                        "several IngressClasses are marked as default; Ingresses without a class are not served";
                    findings.push(
                        Finding::error("Conflict", class.key(), message)
                            .at(format!("metadata.annotations[{DEFAULT_CLASS_ANNOTATION}]"))
                            .mend("keep the mark on one of them"),
                    );
                }
                None
            }
        };
        if by_name.values().all(|served| *served == Served::Foreign)
            && albs.served.is_empty()
            && options.classes.is_empty()
            && options.take_over.is_empty()
            && classless.is_none()
        {
            findings.push(about_nothing(
                Severity::Warning,
                format!("no IngressClass has spec.controller {}, so that nothing is served", options.controller),
                "add one".to_owned(),
            ));
        }
        let legacy = options.classes.iter().chain(&options.take_over);
        let legacy: Vec<String> = legacy.filter(|name| !by_name.contains_key(name.as_str())).cloned().collect();
        let legacy_gateway = (!legacy.is_empty()).then_some(own);
        let default = if let [class] = &defaults[..] { Some(class.metadata.name.clone()) } else { None };
        Self { by_name, legacy, legacy_gateway, classless, default, everything: None }
    }

    /// Manifests without any IngressClass: everything is meant for this gateway.
    fn without_classes(cluster: &Cluster, options: &Options, findings: &mut Vec<Finding>) -> Self {
        let everything = match cluster.gateway_settings.len() {
            0 => Served::By(GatewayId::Default),
            1 => cluster
                .gateway_settings
                .keys()
                .next()
                .map_or(Served::Refused, |id| Served::By(GatewayId::Settings(id.clone()))),
            _ => {
                for settings in cluster.gateway_settings.values() {
                    let message =
                        "there are several GatewaySettings and no IngressClass that names one; nothing is served";
                    findings.push(
                        Finding::error("Conflict", settings.key(), message)
                            .mend("keep one, or name each in spec.parameters of an IngressClass"),
                    );
                }
                Served::Refused
            }
        };
        if matches!(everything, Served::By(_)) {
            findings.push(about_nothing(
                Severity::Info,
                "no IngressClass exists, so that every Ingress is served".to_owned(),
                format!("add an IngressClass with spec.controller {} to choose", options.controller),
            ));
        }
        Self { everything: Some(everything), ..Self::default() }
    }

    /// Whether the Ingress is of a class that another controller served before.
    pub(crate) fn is_taken_over(&self, ingress: &Ingress, options: &Options) -> bool {
        let annotation = ingress.metadata.annotations.get(LEGACY_ANNOTATION);
        let written = ingress.spec.ingress_class_name.as_ref().or(annotation).map(String::as_str);
        written.or(self.default.as_deref()).is_some_and(|name| is_among(&options.take_over, name))
    }

    /// Every gateway that something is served by.
    pub(crate) fn gateways(&self) -> BTreeSet<GatewayId> {
        let all = self.by_name.values().chain(&self.legacy_gateway).chain(&self.classless).chain(&self.everything);
        all.filter_map(|served| match served {
            Served::By(id) => Some(id.clone()),
            Served::Foreign | Served::Refused => None,
        })
        .collect()
    }

    pub(crate) fn assign(&self, ingress: &Ingress) -> Assignment {
        if let Some(served) = &self.everything {
            return served.assignment();
        }
        let annotation = ingress.metadata.annotations.get(LEGACY_ANNOTATION).map(String::as_str);
        match (ingress.spec.ingress_class_name.as_deref(), annotation) {
            (Some(name), _) => match self.by_name.get(name) {
                Some(served) => served.assignment(),
                None => {
                    let message = format!("IngressClass {name} does not exist; the Ingress is not served");
                    Assignment::None(Some(
                        Finding::warning("MissingReference", ingress.key(), message).at("spec.ingressClassName"),
                    ))
                }
            },
            (None, Some(name)) => match self.by_name.get(name) {
                Some(served) => served.assignment(),
                None if is_among(&self.legacy, name) => {
                    self.legacy_gateway.as_ref().map_or(Assignment::None(None), Served::assignment)
                }
                None => Assignment::None(None),
            },
            (None, None) => match &self.classless {
                Some(served) => served.assignment(),
                None => {
                    let message = "names no class and there is no default IngressClass; the Ingress is not served";
                    Assignment::None(Some(
                        Finding::new(Severity::Info, "NotServed", ingress.key(), message).at("spec.ingressClassName"),
                    ))
                }
            },
        }
    }
}

impl Served {
    fn assignment(&self) -> Assignment {
        match self {
            Self::By(id) => Assignment::Gateway(id.clone()),
            Self::Foreign | Self::Refused => Assignment::None(None),
        }
    }
}

/// A finding about what is not there.
fn about_nothing(severity: Severity, message: String, mend: String) -> Finding {
    Finding { severity, reason: "NoIngressClass", object: None, location: None, field: String::new(), message, mend }
}

/// The gateway of the only class that is served, the default one if there is none or several.
fn only_gateway(by_name: &BTreeMap<Arc<str>, Served>, except: &[Arc<str>]) -> Served {
    let own = by_name.iter().filter(|(name, served)| **served != Served::Foreign && !except.contains(name));
    let mut own = own.map(|(_, served)| served);
    match (own.next(), own.next()) {
        (Some(only), None) => only.clone(),
        _ => Served::By(GatewayId::Default),
    }
}

fn is_among(names: &[String], name: &str) -> bool {
    names.iter().any(|known| known == name)
}

fn gateway_of(class: &IngressClass, cluster: &Cluster, findings: &mut Vec<Finding>) -> Served {
    let Some(parameters) = &class.spec.parameters else { return Served::By(GatewayId::Default) };
    let refused = match settings_id(parameters) {
        Ok(id) if cluster.gateway_settings.contains_key(&id) => return Served::By(GatewayId::Settings(id)),
        Ok(id) => Finding::error(
            "MissingReference",
            class.key(),
            format!(
                "{} does not exist; nothing of this class is served",
                ObjectKey { kind: Kind::GatewaySettings, id }
            ),
        ),
        Err(message) => {
            Finding::error("InvalidParameters", class.key(), format!("{message}; nothing of this class is served"))
        }
    };
    findings
        .push(refused.at("spec.parameters").mend("create the object, or remove spec.parameters to use the defaults"));
    Served::Refused
}

/// GatewaySettings live in a namespace; scope `Cluster` is read as namespace `default` unless one is named.
fn settings_id(parameters: &IngressClassParameters) -> Result<NamespacedName, String> {
    let IngressClassParameters { api_group, kind, name, namespace, scope } = parameters;
    if api_group.as_deref() != Some("headwater.dev") || kind != "GatewaySettings" {
        let group = api_group.as_deref().unwrap_or("core");
        return Err(format!("{kind} of API group {group} is not GatewaySettings of headwater.dev"));
    }
    match (scope.as_deref(), namespace.as_deref()) {
        (Some("Namespace"), None) => Err("scope Namespace needs a namespace".to_owned()),
        (None | Some("Namespace" | "Cluster"), namespace) => {
            Ok(NamespacedName::new(namespace.unwrap_or("default"), name.as_str()))
        }
        (Some(other), _) => Err(format!("scope {other:?} is not Cluster or Namespace")),
    }
}
