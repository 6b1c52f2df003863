//! Labels that say which projects an ALB2 and its ports belong to, for whoever looks for them by project. Pure.

use std::collections::BTreeMap;

use headwater_model::alb::effective::{ALL_PROJECTS, EffectiveAlb, Projects};
use headwater_model::alb::frontend::Frontend;
use headwater_model::alb::names::{Domain, PORT_ROLE};

/// Labels, by their names.
pub(crate) type Labels = BTreeMap<String, String>;

/// Those of an ALB2: its projects, or those that have a port of it, and then that ports are what they have.
pub(crate) fn of_alb(alb: &EffectiveAlb, domain: &Domain) -> Labels {
    if let Some(ranges) = &alb.port_projects {
        let names = ranges.iter().flat_map(|range| range.projects.iter().map(String::as_str));
        let role = (domain.role_label(), PORT_ROLE.to_owned());
        return of_projects(names, domain).into_iter().chain([role]).collect();
    }
    match &alb.projects {
        Projects::All => of_projects([ALL_PROJECTS], domain),
        Projects::Only(names) => of_projects(names.iter().map(String::as_str), domain),
        Projects::None => Labels::new(),
    }
}

/// Those of a Frontend: the projects that the ALB2 gives its port to.
pub(crate) fn of_frontend(alb: &EffectiveAlb, frontend: &Frontend, domain: &Domain) -> Labels {
    of_projects(alb.projects_of_port(frontend.spec.port.get()), domain)
}

/// Whether labels say anything of projects.
pub(crate) fn name_projects(labels: &Labels, domain: &Domain) -> bool {
    labels.contains_key(&domain.role_label()) || !domain.projects(labels).is_empty()
}

fn of_projects<'a>(names: impl IntoIterator<Item = &'a str>, domain: &Domain) -> Labels {
    // What is no name of a label would have all of them refused.
    let is_name = |name: &&str| {
        let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        name.len() <= 63 && name.bytes().all(inner) && ends(name.bytes().next()) && ends(name.bytes().next_back())
    };
    names.into_iter().filter(is_name).map(|name| (format!("project.{domain}/{name}"), "true".to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::objects::tests::alb;

    fn shown(labels: &Labels) -> Vec<String> {
        labels.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn an_alb_is_labelled_with_its_projects_or_those_of_its_ports() {
        let domain = Domain::default();
        let of = |config: Value| shown(&of_alb(&alb(config).effective(), &domain));
        assert_eq!(of(json!({})), [""; 0]);
        assert_eq!(of(json!({ "projects": ["a", "-b", "c"] })), ["project.cpaas.io/a=true", "project.cpaas.io/c=true"]);
        assert_eq!(of(json!({ "projects": ["a", "ALL_ALL"] })), ["project.cpaas.io/ALL_ALL=true"]);
        let ports = json!([{ "port": "80", "projects": ["p"] }, { "port": "81-90", "projects": ["q", "p"] }]);
        let config = json!({ "enablePortProject": true, "portProjects": ports.to_string(), "projects": ["a"] });
        assert_eq!(of(config), ["cpaas.io/role=port", "project.cpaas.io/p=true", "project.cpaas.io/q=true"]);
    }

    #[test]
    fn a_frontend_is_labelled_with_the_projects_of_the_ranges_that_its_port_is_in() {
        let ports = json!([{ "port": "80-90", "projects": ["p"] }, { "port": "85", "projects": ["q"] }]).to_string();
        for (enabled, port, wanted) in [
            (true, 80, &["project.cpaas.io/p=true"][..]),
            (true, 85, &["project.cpaas.io/p=true", "project.cpaas.io/q=true"]),
            (true, 91, &[]),
            (false, 80, &[]),
        ] {
            let alb = alb(json!({ "enablePortProject": enabled, "portProjects": ports }));
            let frontend = Frontend::parse(&json!({ "metadata": { "name": "f" }, "spec": { "port": port } })).unwrap();
            assert_eq!(shown(&of_frontend(&alb.effective(), &frontend, &Domain::default())), wanted, "{port}");
        }
    }

    #[test]
    fn labels_of_projects_are_known_by_their_domain() {
        let of = |name: &str| name_projects(&[(name.to_owned(), "true".to_owned())].into(), &Domain::default());
        assert!(of("project.cpaas.io/p") && of("cpaas.io/role"));
        assert!(!of("project.example.com/p") && !of("alb2.cpaas.io/name"));
    }
}
