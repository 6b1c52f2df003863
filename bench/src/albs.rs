//! The manifests of an ALB with many Rules of one kind, and the load that asks for every one of them.

use std::fmt::Write as _;

use crate::manifests::{HOST, ORIGINS};

/// What tells the Rules of a port from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    Host,
    Prefix,
    Regex,
    Header,
}

impl Mix {
    /// What one Rule asks for, as DSLX, in YAML.
    fn dslx(self, rule: usize) -> String {
        match self {
            Self::Host => format!("[{{type: HOST, values: [[EQ, h{rule}.example.com]]}}]"),
            Self::Prefix => format!("[{{type: URL, values: [[STARTS_WITH, /p{rule}/]]}}]"),
            Self::Regex => format!("[{{type: URL, values: [[REGEX, '^/r{rule}/[a-z0-9]+$']]}}]"),
            Self::Header => format!("[{{type: HEADER, key: x-tenant, values: [[EQ, t{rule}]]}}]"),
        }
    }

    /// Lua that asks for the Rule of number `rule`; see [`wrk_script`](crate::manifests::wrk_script).
    pub(crate) fn lua(self) -> &'static str {
        match self {
            Self::Host => r#"wrk.headers["Host"] = "h" .. rule .. ".example.com"; path = "/x/1k""#,
            Self::Prefix => r#"path = "/p" .. rule .. "/1k""#,
            Self::Regex => r#"path = "/r" .. rule .. "/1k""#,
            Self::Header => r#"wrk.headers["x-tenant"] = "t" .. rule; path = "/x/1k""#,
        }
    }
}

/// An ALB2 with one Frontend at `port`, a Rule for [`HOST`], and `count` Rules of one kind, all to the first origin.
///
/// Bodies are not compressed, which ALB2s do unless they are told not to. Nothing else is served there: what a Rule does not match gets 404, which the load counts as an error.
pub(crate) fn manifest(port: u16, mix: Mix, count: usize) -> String {
    let mut text = format!(
        "apiVersion: crd.alauda.io/v2beta1
kind: ALB2
metadata: {{name: bench, namespace: bench}}
spec:
  address: 127.0.0.1
  config: {{networkMode: host, projects: [ALL_ALL], enableGzip: 'false'}}
---
apiVersion: crd.alauda.io/v1
kind: Frontend
metadata:
  name: bench
  namespace: bench
  labels: {{alb2.cpaas.io/name: bench}}
spec: {{port: {port}, protocol: http, backendProtocol: http}}
"
    );
    let own = format!("[{{type: HOST, values: [[EQ, {HOST}]]}}, {{type: URL, values: [[EQ, /100]]}}]");
    text.push_str(&rule("own", &own));
    for number in 0..count {
        text.push_str(&rule(&format!("rule-{number}"), &mix.dslx(number)));
    }
    text
}

fn rule(name: &str, dslx: &str) -> String {
    let mut text = String::new();
    let _infallible = write!(
        text,
        "---
apiVersion: crd.alauda.io/v1
kind: Rule
metadata:
  name: {name}
  namespace: bench
  labels: {{alb2.cpaas.io/name: bench, alb2.cpaas.io/frontend: bench}}
spec:
  priority: 5
  dslx: {dslx}
  serviceGroup: {{services: [{{namespace: bench, name: origin-{}, port: 80, weight: 100}}]}}
",
        ORIGINS[0]
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::wrk_script;

    #[test]
    fn every_rule_has_a_name_and_a_match_of_its_own() {
        for mix in [Mix::Host, Mix::Prefix, Mix::Regex, Mix::Header] {
            let text = manifest(8080, mix, 3);
            assert_eq!(text.matches("kind: Rule").count(), 4, "{mix:?}");
            let terms: std::collections::BTreeSet<_> =
                text.lines().filter(|line| line.trim_start().starts_with("dslx:")).collect();
            assert_eq!(terms.len(), 4, "{text}");
            assert!(wrk_script(3, mix.lua()).contains("% 3"), "{mix:?}");
        }
    }
}
