//! Rule (`crd.alauda.io/v1`): which requests at a Frontend, and what becomes of them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{
    Auth, BackendProtocol, Modsecurity, Otel, Redirect, ServiceGroup, Source, Timeout, optional_protocol,
};
use super::dslx::Term;
use super::names::Domain;
use super::text::{certificate, filled, write_certificate};
use super::{FieldError, parse};
use crate::object::{Ignored, Metadata};
use crate::origin::NamespacedName;

/// A Rule as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    #[serde(default)]
    pub api_version: Ignored,
    #[serde(default)]
    pub kind: Ignored,
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: RuleSpec,
}

impl Rule {
    /// Reads a Rule.
    ///
    /// # Errors
    /// The first field that does not fit.
    pub fn parse(value: &Value) -> Result<Self, FieldError> {
        parse(value)
    }

    /// Name of the ALB that it belongs to, by its label; without one it belongs to none.
    pub fn alb(&self, domain: &Domain) -> Option<&str> {
        self.metadata.labels.get(&domain.name_label()).map(String::as_str)
    }

    /// Name of the Frontend that it belongs to, by its label; without one it belongs to none.
    pub fn frontend(&self, domain: &Domain) -> Option<&str> {
        self.metadata.labels.get(&domain.frontend_label()).map(String::as_str)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RuleSpec {
    /// Without effect.
    #[serde(rename = "type")]
    pub rule_type: Option<String>,
    pub description: Option<String>,
    /// The host that `certificate_name` is for; matching is up to `dslx`.
    #[serde(default, deserialize_with = "filled")]
    pub domain: Option<String>,
    /// Without effect: a text that the console searches in.
    pub dsl: Option<String>,
    /// Which requests: all terms have to hold. Absent: the rule is not there; empty: none.
    pub dslx: Option<Vec<Term>>,
    /// Smaller ones are looked at first. Default 0.
    #[serde(default)]
    pub priority: i64,
    /// The path that the rule was made for; what `rewrite_target` replaces where `rewrite_base` is silent.
    #[serde(default, deserialize_with = "filled")]
    pub url: Option<String>,
    /// Regular expression of what `rewrite_target` replaces. Default: `url`, then `/`.
    #[serde(default, rename = "rewrite_base", deserialize_with = "filled")]
    pub rewrite_base: Option<String>,
    /// What takes its place; `$1` and the like are captures.
    #[serde(default, rename = "rewrite_target", deserialize_with = "filled")]
    pub rewrite_target: Option<String>,
    /// Whether the gateway answers for other origins. Default false: backends do.
    #[serde(default, rename = "enableCORS")]
    pub enable_cors: bool,
    #[serde(default, deserialize_with = "filled")]
    pub cors_allow_headers: Option<String>,
    /// Origins with commas between. Default `*`.
    #[serde(default, deserialize_with = "filled")]
    pub cors_allow_origin: Option<String>,
    /// What the Services speak: `http` (default), `https`, `grpc`.
    #[serde(default, deserialize_with = "optional_protocol")]
    pub backend_protocol: Option<BackendProtocol>,
    /// The host that backends hear of. Default: the request's.
    #[serde(default, deserialize_with = "filled")]
    pub vhost: Option<String>,
    /// TLS Secret for `domain`: `namespace/name` or `namespace_name`.
    #[serde(
        default,
        rename = "certificate_name",
        deserialize_with = "certificate",
        serialize_with = "write_certificate"
    )]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub certificate_name: Option<NamespacedName>,
    /// Deprecated: `config.redirect.url`, which it overrides.
    #[serde(default, rename = "redirectURL", deserialize_with = "filled")]
    pub redirect_url: Option<String>,
    /// Deprecated: `config.redirect.code`, which it overrides. 0: silence.
    pub redirect_code: Option<u16>,
    pub service_group: Option<ServiceGroup>,
    pub source: Option<Source>,
    pub config: Option<RuleConfig>,
}

impl RuleSpec {
    /// Where clients are sent; `None`: nowhere. The deprecated fields override those of `config.redirect`.
    pub fn redirect(&self) -> Option<Redirect> {
        let code = self.redirect_code.filter(|code| *code > 0);
        let written = self.config.as_ref().and_then(|config| config.redirect.clone());
        if written.is_none() && code.is_none() && self.redirect_url.is_none() {
            return None;
        }
        let mut redirect = written.unwrap_or_default();
        redirect.code = code.or(redirect.code);
        redirect.url = self.redirect_url.clone().or(redirect.url);
        Some(redirect)
    }

    /// Regular expression of what `rewrite_target` replaces.
    pub fn rewrite_base(&self) -> &str {
        self.rewrite_base.as_deref().or(self.url.as_deref()).unwrap_or("/")
    }
}

/// `spec.config` of a Rule.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RuleConfig {
    pub otel: Option<Otel>,
    pub modsecurity: Option<Modsecurity>,
    pub auth: Option<Auth>,
    pub timeout: Option<Timeout>,
    pub redirect: Option<Redirect>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(spec: Value) -> Result<RuleSpec, FieldError> {
        Rule::parse(&json!({"metadata": {"name": "demo"}, "spec": spec})).map(|rule| rule.spec)
    }

    #[test]
    fn the_rule_of_the_manual_is_read() {
        let rule = Rule::parse(&json!({
            "apiVersion": "crd.alauda.io/v1",
            "kind": "Rule",
            "metadata": {
                "name": "alb-demo-00080-test", "namespace": "cpaas-system",
                "labels": {"alb2.cpaas.io/frontend": "alb-demo-00080", "alb2.cpaas.io/name": "alb-demo"},
            },
            "spec": {
                "backendProtocol": "https", "certificate_name": "a/b", "priority": 4,
                "dslx": [{"type": "URL", "values": [["STARTS_WITH", "/"]]}],
                "serviceGroup": {"services": [{"name": "hello-world", "namespace": "default", "port": 80, "weight": 100}]},
            },
        }))
        .unwrap();
        let domain = Domain::default();
        assert_eq!((rule.alb(&domain), rule.frontend(&domain)), (Some("alb-demo"), Some("alb-demo-00080")));
        assert_eq!(rule.spec.backend_protocol, Some(BackendProtocol::Https));
        assert_eq!(rule.spec.certificate_name, Some(NamespacedName::new("a", "b")));
        assert_eq!(rule.spec.priority, 4);
        let terms = rule.spec.dslx.unwrap();
        assert_eq!((terms.len(), &*terms[0].kind, &*terms[0].key), (1, "URL", ""));
        assert_eq!(terms[0].values, [["STARTS_WITH", "/"]]);
    }

    #[test]
    fn a_rule_without_matcher_is_told_from_one_that_matches_nothing() {
        assert_eq!(spec(json!({})).unwrap().dslx, None);
        assert_eq!(spec(json!({"dslx": null})).unwrap().dslx, None);
        assert_eq!(spec(json!({"dslx": []})).unwrap().dslx, Some(Vec::new()));
    }

    #[test]
    fn deprecated_redirects_override_those_of_the_config() {
        let redirect = |code, url: &str| {
            let url = Some(url.to_owned()).filter(|url| !url.is_empty());
            Some(Redirect { code, url, ..Redirect::default() })
        };
        #[rustfmt::skip]
        let cases = [
            (json!({}), None),
            (json!({"redirectURL": "", "redirectCode": 0}), None),
            (json!({"redirectURL": "/a"}), redirect(None, "/a")),
            (json!({"redirectCode": 301}), redirect(Some(301), "")),
            (json!({"config": {"redirect": {"code": 308, "url": "/b"}}}), redirect(Some(308), "/b")),
            (json!({"redirectURL": "/a", "config": {"redirect": {"code": 308, "url": "/b"}}}), redirect(Some(308), "/a")),
            (json!({"redirectCode": 301, "config": {"redirect": {"code": 308, "url": "/b"}}}), redirect(Some(301), "/b")),
        ];
        for (value, expected) in cases {
            assert_eq!(spec(value.clone()).unwrap().redirect(), expected, "{value}");
        }
    }

    #[test]
    fn what_is_rewritten_is_the_base_then_the_url_then_the_root() {
        for (value, base) in [
            (json!({"rewrite_base": "/a(/|$)(.*)", "url": "/b"}), "/a(/|$)(.*)"),
            (json!({"rewrite_base": "", "url": "/b"}), "/b"),
            (json!({}), "/"),
        ] {
            assert_eq!(spec(value).unwrap().rewrite_base(), base);
        }
    }

    #[test]
    fn a_broken_field_is_named() {
        #[rustfmt::skip]
        let cases = [
            (json!({"priority": "first"}), "spec.priority"), (json!({"priority": 1.5}), "spec.priority"),
            (json!({"dslx": [{"type": "URL"}, {"type": 7}]}), "spec.dslx[1].type"),
            (json!({"dslx": [{"type": "URL", "values": [["EQ", 1]]}]}), "spec.dslx[0].values[0][1]"),
            (json!({"enableCORS": "true"}), "spec.enableCORS"), (json!({"certificate_name": "a/b/c"}), "spec.certificate_name"),
            (json!({"redirectCode": 100_000}), "spec.redirectCode"),
            (json!({"config": {"modsecurity": {"enable": true, "cmRef": "a/b"}}}), "spec.config.modsecurity.cmRef"),
            (json!({"config": {"auth": {"forward": {"upstream_headers": "a,b"}}}}), "spec.config.auth.forward.upstream_headers"),
        ];
        for (value, field) in cases {
            assert_eq!(spec(value).unwrap_err().field, field);
        }
    }
}
