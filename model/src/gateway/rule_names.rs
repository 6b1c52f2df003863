//! What metrics and spans call a rule.

use super::Rule;

/// A rule and the object it was made for, as metrics and spans name them. None of it comes from requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleNames {
    /// Name of a Rule or Frontend of an ALB. For an Ingress `namespace/name:R-P`, with the indices of rule and path, or
    /// `namespace/name:default`.
    pub rule: String,
    /// `ingress`, `httpRoute`, `tcpRoute`, `udpRoute`, `ft_default_router`, or empty.
    pub source_type: String,
    pub source_namespace: String,
    pub source_name: String,
}

impl Rule {
    /// What metrics and spans call it. Costs a few allocations.
    pub fn names(&self) -> RuleNames {
        let (kind, id) = (self.origin.key.kind.as_str(), &self.origin.key.id);
        let source_type = match kind {
            "Ingress" => "ingress",
            "HTTPRoute" => "httpRoute",
            "TCPRoute" => "tcpRoute",
            "UDPRoute" => "udpRoute",
            "Frontend" => "ft_default_router",
            _ => "",
        };
        let rule = match kind {
            "Rule" | "Frontend" => id.name.to_string(),
            _ => format!("{id}:{}", place(&self.field)),
        };
        let (source_type, source) = match &self.source {
            Some(source) => (&*source.kind, Some(&source.id)),
            None => (source_type, Some(id).filter(|_| !matches!(kind, "Rule" | "Frontend"))),
        };
        let part = |part: fn(&crate::origin::NamespacedName) -> &str| source.map_or("", part).to_owned();
        RuleNames {
            rule,
            source_type: source_type.to_owned(),
            source_namespace: part(|id| &id.namespace),
            source_name: part(|id| &id.name),
        }
    }
}

/// The indices of a field such as `spec.rules[0].http.paths[1]`, as in `0-1`; `default` where there are none.
fn place(field: &str) -> String {
    let indices = field.split('[').skip(1).filter_map(|rest| rest.split_once(']')).map(|(index, _)| index);
    let indices: Vec<&str> = indices.collect();
    if indices.is_empty() { "default".to_owned() } else { indices.join("-") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Action, Filters, Match, PathMatch, Precedence, Refuse, RuleSource};
    use super::*;
    use crate::origin::{Kind, NamespacedName, ObjectKey, Origin};

    fn names(field: &str, source: Option<RuleSource>) -> [String; 4] {
        let rule = Rule {
            origin: Arc::new(Origin { key: ObjectKey::new(Kind::Ingress, "shop", "web"), generation: 3 }),
            field: field.into(),
            precedence: Precedence { ranks: [0; 4], tie: "".into() },
            matches: Match { path: PathMatch::Any, conditions: vec![] },
            filters: Filters::default(),
            auth: None,
            trace: None,
            source: source.map(Arc::new),
            action: Action::Refuse(Refuse { status: 503, reason: "no_service".into() }),
        };
        let RuleNames { rule, source_type, source_namespace, source_name } = rule.names();
        [rule, source_type, source_namespace, source_name]
    }

    #[test]
    fn a_rule_is_named_by_its_object_and_its_place() {
        assert_eq!(names("spec.rules[2].http.paths[10]", None), ["shop/web:2-10", "ingress", "shop", "web"]);
        assert_eq!(names("spec.defaultBackend", None), ["shop/web:default", "ingress", "shop", "web"]);
        let source = RuleSource { kind: "httpRoute".into(), id: NamespacedName::new("a", "b") };
        assert_eq!(names("spec.rules[0]", Some(source)), ["shop/web:0", "httpRoute", "a", "b"]);
    }
}
