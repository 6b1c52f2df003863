//! Labels and annotations that tie the ALB's objects together, below a domain that an installation may choose.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// The domain below which labels and annotations lie. Default `cpaas.io`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Domain(Arc<str>);

/// Why a text is not a label domain.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is not a domain for labels: lower case letters, digits, dots and dashes, as \"cpaas.io\"")]
#[non_exhaustive]
pub struct DomainError(pub String);

/// Longest domain: with the longest word in front it still is the prefix of a label (253 bytes).
const MAX_DOMAIN: usize = 200;

/// Annotation with rules of ModSecurity, on a Rule, a Frontend or an ALB2 (and on an Ingress), whatever the domain.
pub const MODSECURITY_SNIPPET: &str = "nginx.ingress.kubernetes.io/modsecurity-snippet";

impl Default for Domain {
    fn default() -> Self {
        Self("cpaas.io".into())
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Domain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident $text:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> String {
            format!($text, self.0)
        }
    )*};
}

impl Domain {
    /// Reads a DNS subdomain (RFC 1123) of at most 200 bytes.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        let label = |label: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let holds = text.len() <= MAX_DOMAIN && text.split('.').all(label);
        if holds { Ok(Self(text.into())) } else { Err(DomainError(text.chars().take(MAX_DOMAIN).collect())) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    names! {
        /// Label of a Frontend or Rule: the ALB it belongs to.
        name_label "alb2.{}/name";
        /// Label of a Rule: the Frontend it belongs to.
        frontend_label "alb2.{}/frontend";
        /// Label of a Rule: the kind it was made for, as `ingress`.
        source_type_label "alb2.{}/source-type";
        /// Label of a Rule: the name of the object it was made for, cut to 63 bytes.
        source_name_label "alb2.{}/source-name";
        /// Label of a Rule: the namespace of the object it was made for, cut to 63 bytes.
        source_namespace_label "alb2.{}/source-ns";
        /// Label of a Rule: the place of its rule and path in an Ingress, as `0-1`.
        source_index_label "alb2.{}/source-index";
        /// Label of the pod that leads.
        leader_label "alb2.{}/leader";
        /// Annotation of a Rule: the place of its rule in an Ingress.
        source_rule_index_annotation "alb2.{}/source-ingress-rule-index";
        /// Annotation of a Rule: the place of its path in the rule of an Ingress.
        source_path_index_annotation "alb2.{}/source-ingress-path-index";
        /// Label of a namespace: the project it belongs to.
        project_label "{}/project";
        /// Label of an ALB2: [`PORT_ROLE`] where ports rather than the whole belong to projects.
        role_label "{}/role";
        /// Label of an ALB2 or Frontend: one project that it belongs to.
        project_name_label "project.{}/name";
        /// Annotation of a Service: the ALBs and ports it wants to be behind.
        bind_annotation "loadbalancer.{}/bind";
        /// Label of an ALB2: the ConfigMap that overrides its own.
        overwrite_configmap_label "alb2.operator.{}/overwrite-configmap";
        /// Annotation of an ALB2: its `spec.config` from before an upgrade.
        migrate_backup_annotation "alb.{}/migrate-backup";
        /// Annotation of an ALB2: whether its pods bear every taint of nodes.
        tolerate_all_annotation "alb.{}/tolerate-all";
        /// Annotation of a Rule: what becomes of request headers, as JSON.
        rewrite_request "alb.rule.{}/rewrite-request";
        /// Annotation of a Rule: what becomes of response headers, as JSON.
        rewrite_response "alb.rule.{}/rewrite-response";
        /// Annotation of an Ingress: what becomes of request headers, as JSON.
        ingress_rewrite_request "alb.ingress.{}/rewrite-request";
        /// Annotation of an Ingress: what becomes of response headers, as JSON.
        ingress_rewrite_response "alb.ingress.{}/rewrite-response";
        /// Annotation of an Ingress: its `otel`, as JSON.
        ingress_otel "alb.ingress.{}/otel";
        /// Prefix of annotations of an Ingress, with its slash.
        ingress_prefix "alb.ingress.{}/";
        /// Annotation of an Ingress: rules of ModSecurity, as `namespace/name#key`.
        modsecurity_cm_ref "alb.modsecurity.{}/cmref";
        /// Annotation of an Ingress: whether ModSecurity's recommended configuration is used.
        modsecurity_use_recommend "alb.modsecurity.{}/use-recommend";
        /// Annotation of an Ingress: certificates by host, as `host=namespace/secret`, with commas between.
        tls_annotation "alb.networking.{}/tls";
        /// Annotation of an Ingress: whether hosts without a certificate get HTTPS.
        enable_https_annotation "alb.networking.{}/enable-https";
        /// Controller of the IngressClasses of ALBs.
        ingress_controller "{}/alb2";
    }

    /// Prefix of annotations of an Ingress that are about one path of one rule, with its slash; both count from 0.
    pub fn indexed_ingress_prefix(&self, rule: usize, path: usize) -> String {
        format!("index.{rule}-{path}.alb.ingress.{}/", self.0)
    }

    /// Annotation of an Ingress: the priority of one path of one rule; both count from 0.
    pub fn ingress_priority_annotation(&self, rule: usize, path: usize) -> String {
        format!("alb.{}/ingress-rule-priority-{rule}-{path}", self.0)
    }

    /// Controller of the GatewayClass of an ALB.
    pub fn gateway_controller(&self, alb: &str) -> String {
        format!("alb2.gateway.{}/{alb}", self.0)
    }

    /// Projects that labels name, by `project.<domain>/<project>: "true"` and by `project.<domain>/name: <project>`.
    pub fn projects<'a>(&self, labels: &'a BTreeMap<String, String>) -> BTreeSet<&'a str> {
        let of_this_domain =
            |label: &'a str| label.strip_prefix("project.")?.strip_prefix(self.as_str())?.strip_prefix('/');
        labels
            .iter()
            .filter_map(|(label, value)| match (of_this_domain(label)?, value.as_str()) {
                ("name", "") => None,
                ("name", project) => Some(project),
                (project, "true") => Some(project),
                _ => None,
            })
            .collect()
    }
}

/// Value of [`Domain::role_label`] where ports belong to projects.
pub const PORT_ROLE: &str = "port";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lie_below_the_domain() {
        let domain = Domain::default();
        assert_eq!(domain.name_label(), "alb2.cpaas.io/name");
        assert_eq!(domain.source_namespace_label(), "alb2.cpaas.io/source-ns");
        assert_eq!(domain.project_label(), "cpaas.io/project");
        assert_eq!(domain.overwrite_configmap_label(), "alb2.operator.cpaas.io/overwrite-configmap");
        assert_eq!(domain.indexed_ingress_prefix(1, 0), "index.1-0.alb.ingress.cpaas.io/");
        let other = Domain::parse("alauda.example").unwrap();
        assert_eq!(other.frontend_label(), "alb2.alauda.example/frontend");
        assert_eq!(other.rewrite_request(), "alb.rule.alauda.example/rewrite-request");
        assert_eq!(other.ingress_priority_annotation(0, 2), "alb.alauda.example/ingress-rule-priority-0-2");
        assert_eq!(other.gateway_controller("a"), "alb2.gateway.alauda.example/a");
    }

    #[test]
    fn a_domain_is_one_of_the_domain_name_system() {
        let long = format!("{}.io", "a".repeat(64));
        let longer = vec!["a"; 101].join(".");
        for text in ["", ".", "a.", ".a", "a..b", "A.io", "a_b.io", "-a.io", "a-.io", "a/b", "a b", &long, &longer] {
            assert!(Domain::parse(text).is_err(), "{text}");
        }
        for text in ["io", "cpaas.io", "a-b.c1.d"] {
            assert_eq!(Domain::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn projects_are_named_by_two_labels_of_this_domain() {
        let labels: BTreeMap<String, String> = [
            ("project.cpaas.io/a", "true"),
            ("project.cpaas.io/b", "false"),
            ("project.cpaas.io/name", "c"),
            ("project.other.io/d", "true"),
            ("project.cpaas.iox/e", "true"),
            ("cpaas.io/project", "f"),
        ]
        .map(|(label, value)| (label.to_owned(), value.to_owned()))
        .into();
        assert_eq!(Domain::default().projects(&labels), BTreeSet::from(["a", "c"]));
        let unnamed = [("project.cpaas.io/name".to_owned(), String::new())].into();
        assert_eq!(Domain::default().projects(&unnamed), BTreeSet::new());
    }
}
