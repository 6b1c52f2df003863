//! TimeoutPolicy (`gateway.crd.alauda.io/v1alpha1`): timeouts of a Gateway or of a route of the Gateway API.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::Timeout;
use super::text::filled;
use super::{FieldError, parse};
use crate::object::{Ignored, Metadata};

/// A TimeoutPolicy as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimeoutPolicy {
    #[serde(default)]
    pub api_version: Ignored,
    #[serde(default)]
    pub kind: Ignored,
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: TimeoutPolicySpec,
    #[serde(default)]
    pub status: Ignored,
}

impl TimeoutPolicy {
    /// Reads a TimeoutPolicy.
    ///
    /// # Errors
    /// The first field that does not fit.
    pub fn parse(value: &Value) -> Result<Self, FieldError> {
        parse(value)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TimeoutPolicySpec {
    /// The Gateway or route; without one the policy is for nobody.
    pub target_ref: Option<TargetRef>,
    /// Where nobody says otherwise.
    pub default: Option<Timeout>,
    /// Whatever others say.
    #[serde(rename = "override")]
    pub overriding: Option<Timeout>,
}

/// What a policy is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    #[serde(default)]
    pub group: String,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub name: String,
    /// Default: the policy's own.
    #[serde(default, deserialize_with = "filled")]
    pub namespace: Option<String>,
    /// A listener of a Gateway, a rule of a route.
    #[serde(default, deserialize_with = "filled")]
    pub section_name: Option<String>,
    /// The same by its place; `sectionName` wins.
    pub section_index: Option<u32>,
}

/// Timeouts of requests that come by a Gateway and a route, each field by itself.
///
/// A Gateway's `override` wins, then the route's, then the route's `default`, then the Gateway's.
pub fn merge(gateway: Option<&TimeoutPolicySpec>, route: Option<&TimeoutPolicySpec>) -> Timeout {
    let layers = [
        gateway.and_then(|policy| policy.overriding),
        route.and_then(|policy| policy.overriding),
        route.and_then(|policy| policy.default),
        gateway.and_then(|policy| policy.default),
    ];
    let first = |field: fn(&Timeout) -> Option<u32>| layers.iter().flatten().find_map(field);
    Timeout {
        proxy_connect_timeout_ms: first(|timeout| timeout.proxy_connect_timeout_ms),
        proxy_send_timeout_ms: first(|timeout| timeout.proxy_send_timeout_ms),
        proxy_read_timeout_ms: first(|timeout| timeout.proxy_read_timeout_ms),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(spec: Value) -> TimeoutPolicySpec {
        TimeoutPolicy::parse(&json!({"metadata": {"name": "t"}, "spec": spec})).unwrap().spec
    }

    #[test]
    fn each_timeout_comes_from_the_strongest_layer_that_has_it() {
        let gateway = policy(json!({
            "targetRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g", "sectionName": "http"},
            "default": {"proxy_connect_timeout_ms": 1, "proxy_send_timeout_ms": 1, "proxy_read_timeout_ms": 1},
            "override": {"proxy_read_timeout_ms": 4},
        }));
        let route = policy(json!({
            "default": {"proxy_send_timeout_ms": 2, "proxy_read_timeout_ms": 2},
            "override": {"proxy_read_timeout_ms": 3},
        }));
        assert_eq!(gateway.target_ref.as_ref().unwrap().section_name.as_deref(), Some("http"));
        let of = |gateway, route| {
            let Timeout { proxy_connect_timeout_ms: connect, proxy_send_timeout_ms: send, proxy_read_timeout_ms: read } =
                merge(gateway, route);
            [connect, send, read]
        };
        assert_eq!(of(Some(&gateway), Some(&route)), [Some(1), Some(2), Some(4)]);
        assert_eq!(of(None, Some(&route)), [None, Some(2), Some(3)]);
        assert_eq!(of(Some(&gateway), None), [Some(1), Some(1), Some(4)]);
        assert_eq!(of(None, None), [None; 3]);
    }

    #[test]
    fn a_broken_field_is_named() {
        let value = json!({"metadata": {"name": "t"}, "spec": {"override": {"proxy_read_timeout_ms": "5s"}}});
        assert_eq!(TimeoutPolicy::parse(&value).unwrap_err().field, "spec.override.proxy_read_timeout_ms");
    }
}
