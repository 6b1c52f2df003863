//! Resources of Alauda's ALB, as users wrote them: ALB2, Frontend, Rule, TimeoutPolicy.
//!
//! An ALB2 is a gateway, a Frontend one of its ports, a Rule what becomes of requests that match. What a Frontend or an
//! ALB2 hands down to Rules is in [`inherit`]; labels and annotations that tie them together are in [`names`].
//!
//! Fields are read as the API of `crd.alauda.io` spells them, and an object with one that cannot be is refused as a
//! whole, with the name of the field. The exception is what a request has to be answered for: a reference within
//! [`config::Auth`] that leads nowhere stays as text, so that the rule answers with an error instead of being absent.

pub mod alb2;
pub mod config;
#[cfg(test)]
mod crd;
pub mod dslx;
pub mod effective;
pub mod frontend;
pub mod inherit;
pub mod names;
pub mod rule;
pub mod text;
pub mod timeout_policy;

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

pub use alb2::Alb2;
pub use config::Affinity;
pub use frontend::Frontend;
pub use names::Domain;
pub use rule::Rule;
pub use timeout_policy::TimeoutPolicy;

use crate::object::keyed;

keyed! { Alb2 Frontend Rule TimeoutPolicy }

/// API group of ALB2, Frontend and Rule.
pub const GROUP: &str = "crd.alauda.io";

/// API group of TimeoutPolicy.
pub const GATEWAY_GROUP: &str = "gateway.crd.alauda.io";

/// Why a JSON value is not an object of its type: the first field that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}{message}", Prefix(.field))]
#[non_exhaustive]
pub struct FieldError {
    /// Path of the field, as `spec.config.resources.limits.cpu` or `spec.dslx[0].type`; empty for the value itself.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

struct Prefix<'a>(&'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

/// Reads a typed value from JSON; a field that is null counts as absent, as for Go, and one that is unknown as none.
///
/// # Errors
/// The first field that does not fit, or is missing, with its path.
pub fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(without_nulls(value)).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        let mut field = if path == "." { String::new() } else { path };
        let missing = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
        let Some(name) = missing else { return FieldError { field, message } };
        if !field.is_empty() {
            field.push('.');
        }
        field.push_str(name);
        FieldError { field, message: "required field is missing".to_owned() }
    })
}

/// The value without fields that are null.
pub fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_names_the_field_it_is_in() {
        #[rustfmt::skip]
        let cases = [
            (json!({"metadata": {"name": "a"}, "spec": {"config": {"replicas": "three"}}}), "spec.config.replicas"),
            (json!({"metadata": {"name": "a"}, "spec": {"config": {"otel": {"enable": true, "sampler": {}}}}}), "spec.config.otel.sampler.name"),
            (json!({"metadata": {"name": "a"}, "spec": {"config": {"projects": ["a", 1]}}}), "spec.config.projects[1]"),
            (json!({"metadata": {}, "spec": {}}), "metadata.name"),
            (json!({"spec": {}}), "metadata"),
            (json!(["a"]), ""),
            (json!("a"), ""),
        ];
        for (value, field) in cases {
            let error = Alb2::parse(&value).unwrap_err();
            assert_eq!(error.field, field, "{error}");
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }

    #[test]
    fn null_is_absent_at_every_depth() {
        let value = json!({
            "metadata": {"name": "a", "labels": null},
            "spec": {"address": null, "config": {"replicas": null, "resources": {"limits": null}, "enableIPV6": null}},
        });
        let alb = Alb2::parse(&value).unwrap();
        assert_eq!(alb.spec.address, None);
        assert_eq!(alb.effective().replicas, 3);
    }

    /// A value with every kind of field, of any of the types.
    fn full() -> Value {
        let shared = json!({
            "otel": {
                "enable": true,
                "exporter": {
                    "collector": {"address": "a", "request_timeout": 1},
                    "batch_span_processor": {"max_queue_size": 1, "inactive_timeout": 1},
                },
                "sampler": {"name": "parent_base", "options": {"parent_name": "always_on", "fraction": "0.5"}},
                "resource": {"a": "b"},
            },
            "modsecurity": {"enable": true, "cmRef": "a/b#c"},
            "auth": {"forward": {"url": "u", "upstream_headers": ["h"]}, "basic": {"secret": "a/b"}},
            "timeout": {"proxy_read_timeout_ms": 1},
            "redirect": {"code": 301, "url": "/", "port": 1},
            "keepalive": {"tcp": {"idle": "1m", "count": 1}, "http": {"timeout": "1s", "requests": 1}},
        });
        let mut config = json!({
            "networkMode": "host", "replicas": 1, "enableALb": true, "enableIPV6": "true", "ingressHTTPPort": 80,
            "defaultSSLCert": "a/b", "defaultSSLStrategy": "Both", "portProjects": "[{\"port\": \"1-2\"}]",
            "bindNIC": "{\"nic\": [\"eth0\"]}", "projects": ["p"], "gateway": {"mode": "standalone", "name": "a/b"},
            "resources": {"limits": {"cpu": 1, "memory": "1Gi"}, "alb": {"requests": {"cpu": "1m"}}},
            "overwrite": {"image": [{"alb": "i"}]}, "vip": {"lbSvcAnnotations": {"a": "b"}},
        });
        config.as_object_mut().unwrap().extend(shared.as_object().unwrap().clone());
        json!({
            "metadata": {"name": "a", "namespace": "n", "labels": {"l": "v"}},
            "spec": {
                "address": "a,b", "type": "nginx", "config": config, "port": 80, "protocol": "https",
                "certificate_name": "a_b", "backendProtocol": "grpc", "priority": 1, "redirectCode": 301,
                "dslx": [{"type": "URL", "key": "", "values": [["EQ", "/"]]}],
                "serviceGroup": {"session_affinity_policy": "rr", "services": [{"name": "s", "port": 1, "weight": 1}]},
                "source": {"type": "ingress"},
            },
            "status": {"detail": {"address": {"ipv4": ["192.0.2.1"]}}, "instances": {"a/b": {"conflict": true}}},
        })
    }

    /// Every place in a value, as a JSON pointer and as the path of a field.
    fn places(value: &Value, pointer: &str, path: &str, found: &mut Vec<(String, String)>) {
        found.push((pointer.to_owned(), path.to_owned()));
        for (name, field) in value.as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            places(field, &format!("{pointer}/{}", name.replace('/', "~1")), &path, found);
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            places(item, &format!("{pointer}/{index}"), &format!("{path}[{index}]"), found);
        }
    }

    #[test]
    fn whatever_stands_in_a_field_the_object_is_read_or_the_field_is_named() {
        let whole = full();
        assert!(Alb2::parse(&whole).is_ok() && Frontend::parse(&whole).is_ok());
        // A Rule knows no type "nginx", and does not mind.
        assert!(Rule::parse(&whole).is_ok());
        let mut found = Vec::new();
        places(&whole, "", "", &mut found);
        let others = [
            json!({}),
            json!([]),
            json!([[]]),
            json!({"x": 1}),
            json!(""),
            json!("x"),
            json!("0"),
            json!("-"),
            json!("/"),
            json!("[{}]"),
            json!("{"),
            json!(true),
            json!(0),
            json!(-1),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(1.5),
            Value::Null,
        ];
        let mut refused = 0;
        for (pointer, path) in &found {
            for other in &others {
                let mut value = whole.clone();
                *value.pointer_mut(pointer).unwrap() = other.clone();
                let results = [
                    Alb2::parse(&value).map(|alb| {
                        let _ = (alb.effective().workers(), alb.addresses(), alb.is_operated(&Domain::default()));
                    }),
                    Frontend::parse(&value).map(|frontend| {
                        let _ =
                            (frontend.spec.terminates_tls(), frontend.spec.service_group.map(|group| group.affinity()));
                    }),
                    Rule::parse(&value).map(|rule| {
                        let _ = (rule.spec.redirect(), rule.spec.rewrite_base().len());
                    }),
                ];
                for error in results.into_iter().filter_map(Result::err) {
                    assert!(error.field.starts_with(path.as_str()), "{path} is {other}: {error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 1000, "{refused}");
    }
}
