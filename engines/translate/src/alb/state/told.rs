//! Why something of an ALB2 is not served, where that may surprise.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_model::alb::effective::Projects;
use headwater_model::alb::frontend::Protocol;
use headwater_model::alb::{Domain, Frontend};
use headwater_model::finding::{Finding, Severity};
use headwater_model::origin::{Kind, NamespacedName, ObjectKey};

use super::Tools;
use crate::alb::view::View;
use crate::findings::Source;
use crate::options::{AlbScope, Options};

/// Whether a Frontend may be opened, with what is worth knowing of it; else why not.
pub(super) fn standing(
    frontend: &Arc<Frontend>,
    view: &View,
    // By port, and whether it is of UDP.
    owners: &mut BTreeMap<(u16, bool), Arc<Frontend>>,
) -> Result<Vec<Finding>, Box<Finding>> {
    let key = frontend.key();
    if !view.effective.serves_rules {
        let message = format!("ALB2 {} does not serve Frontends (enableAlb); it is not opened", view.effective.name);
        return Err(Box::new(Finding::new(Severity::Info, "NotServed", key, message)));
    }
    let (protocol, port) = (frontend.spec.protocol(), frontend.spec.port.get());
    let mut told = Vec::new();
    if let Some(word) = frontend.spec.unknown_protocol() {
        let message = format!("{word:?} is not a protocol (tcp, udp, http, https, grpc, grpcs); it is served as tcp");
        told.push(Finding::warning("InvalidValue", key.clone(), message).at("spec.protocol"));
    }
    let place = (port, protocol == Protocol::Udp);
    if let Some(owner) = owners.get(&place) {
        let message = format!(
            "port {port} belongs to Frontend {} ({}), which is older; this one is not opened",
            owner.metadata.name,
            owner.spec.protocol()
        );
        return Err(Box::new(Finding::error("Conflict", key, message).at("spec.port").mend("remove one of the two")));
    }
    owners.insert(place, frontend.clone());
    Ok(told)
}

/// About an ALB2 whose ports belong to projects, none of them to the same one.
pub(super) fn no_project(view: &View, projects: Option<&Projects>) -> Option<Finding> {
    let none = view.effective.port_projects.is_some() && view.effective.serves_ingresses;
    (none && projects == Some(&Projects::None)).then(|| {
        let message = "no project has every port of Ingresses, so that none is served: each needs a Frontend, with a \
                       label of the project or in a range of portProjects";
        Finding::new(Severity::Info, "NotServed", view.object.key(), message).at("spec.config.enablePortProject")
    })
}

/// TimeoutPolicies are for the Gateway API; Frontends and Rules have a timeout of their own.
pub(super) fn read_policies(tools: &mut Tools<'_>, changes: Option<&[ObjectKey]>) {
    let all: Vec<ObjectKey>;
    let changes = match changes {
        Some(changes) => changes,
        None => {
            all = tools.cluster.timeout_policies.values().map(|policy| policy.key()).collect();
            &all
        }
    };
    for key in changes.iter().filter(|key| key.kind == Kind::TimeoutPolicy) {
        let found = tools.cluster.timeout_policies.contains_key(&key.id).then(|| {
            let message =
                "it is for a Gateway or a route of the Gateway API, which are not served yet; it has no effect";
            let finding = Finding::new(Severity::Info, "NotImplemented", key.clone(), message).at("spec.targetRef");
            finding.mend("for Frontends and Rules set spec.config.timeout")
        });
        tools.findings.set(Source::Policy(key.id.clone()), found.into_iter().collect());
    }
}

/// About an object that names no ALB2.
pub(super) fn nameless(key: ObjectKey, label: &str, options: &Options) -> Vec<Finding> {
    if options.albs != AlbScope::All {
        return Vec::new();
    }
    let message = format!("the label {label} is missing, so that it belongs to no ALB2; it is not served");
    vec![Finding::warning("NotServed", key, message).at("metadata.labels")]
}

pub(super) fn missing_alb(key: ObjectKey, alb: &NamespacedName, label: &str, tools: &Tools<'_>) -> Vec<Finding> {
    if tools.options.albs != AlbScope::All || tools.cluster.albs.contains_key(alb) {
        return Vec::new();
    }
    let message = format!("ALB2 {alb} does not exist; it is not served");
    vec![Finding::warning("MissingReference", key, message).at(format!("metadata.labels[{label}]"))]
}

pub(super) fn absent(frontend: &Frontend, alb: &NamespacedName, tools: &Tools<'_>) -> Vec<Finding> {
    let label = Domain::parse(&tools.options.label_domain).unwrap_or_default().name_label();
    match &*alb.name {
        "" => nameless(frontend.key(), &label, tools.options),
        _ => missing_alb(frontend.key(), alb, &label, tools),
    }
}
