//! The CustomResourceDefinitions of ALB2, Frontend, Rule and TimeoutPolicy, made from the types that read them.
//!
//! Objects of the ALB exist before Headwater comes to a cluster, so that these must take whatever the ALB's own take:
//! the same names and versions, `v2beta1` stored, no conversion, no tighter bound, and no field that is dropped. What
//! the ALB's would take and our types do not read is left to findings.
//!
//! `UPDATE=1 cargo test -p headwater-model custom_resource` writes them to deploy/crds/alb.

use schemars::{JsonSchema, json_schema};
use serde_json::{Value, json};

use super::alb2::{Alb2Spec, Alb2Status, Alb2V1Spec, GatewayMode, NetworkMode, ProxyType, SslStrategy};
use super::config::{BackendProtocol, Fraction, SamplerName};
use super::frontend::{FrontendSpec, FrontendStatus};
use super::rule::RuleSpec;
use super::text::{BoolText, ConfigMapKey, JsonText, NginxTime, Quantity};
use super::timeout_policy::TimeoutPolicySpec;
use super::{GATEWAY_GROUP, GROUP};
use crate::structural::{Details, Style, assert_is_written};

mod upstream;

text_schema! {
    // Text for the ALB, and a boolean for whoever forgets the quotes: a structural schema cannot say "either".
    BoolText: json_schema!({"x-kubernetes-preserve-unknown-fields": true});
    Quantity: json_schema!({"x-kubernetes-int-or-string": true});
    ProxyType: json_schema!({"type": "string", "enum": ["nginx"]});
    JsonText<T>: json_schema!({"type": "string"});
    BackendProtocol: json_schema!({"type": "string"});
    ConfigMapKey: json_schema!({"type": "string"});
    Fraction: json_schema!({"type": "string"});
    GatewayMode: json_schema!({"type": "string"});
    NetworkMode: json_schema!({"type": "string"});
    NginxTime: json_schema!({"type": "string"});
    SamplerName: json_schema!({"type": "string"});
    SslStrategy: json_schema!({"type": "string"});
}

/// Ranges of numbers are left out: the ALB's definitions have none but those in the details.
fn schema_of<T: JsonSchema>(name: &str, details: Details) -> Value {
    crate::structural::schema_of::<T>(name, Style::Loose, details)
}

fn root(description: &str, spec: Value, status: Option<Value>) -> Value {
    let mut properties = json!({
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": spec,
    });
    if let Some(status) = status {
        properties["status"] = status;
    }
    json!({"openAPIV3Schema": {"type": "object", "description": description, "properties": properties}})
}

fn column(name: &str, kind: &str, path: &str, description: &str) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path, "description": description})
}

struct Names {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static str,
}

fn definition(names: &Names, versions: Value) -> Value {
    let Names { group, kind, plural, singular, short } = names;
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}"), "labels": {"app.kubernetes.io/name": "headwater"}},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "conversion": {"strategy": "None"},
            "names": {
                "kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": singular,
                "shortNames": [short],
            },
            "versions": versions,
        },
    })
}

fn time() -> Value {
    json!({"format": "date-time"})
}

/// The defaults that API servers fill in below `spec.config`.
fn defaults() -> Details {
    vec![
        ("spec.config.auth.forward.method", json!({"default": "GET"})),
        ("spec.config.auth.forward.always_set_cookie", json!({"default": false})),
    ]
}

fn alb2() -> Value {
    let mut spec_details = defaults();
    spec_details.push(("spec.config", json!({"x-kubernetes-preserve-unknown-fields": true})));
    let spec = schema_of::<Alb2Spec>("spec", spec_details);
    let status = schema_of::<Alb2Status>(
        "status",
        vec![
            ("status.state", json!({"default": "Pending"})),
            ("status.probeTime", json!({"format": "int64"})),
            ("status.probeTimeStr", time()),
            ("status.detail.deploy.probeTimeStr", time()),
            ("status.detail.alb.portstatus{}.probeTimeStr", time()),
        ],
    );
    let mut status_v1 = schema_of::<Alb2Status>("status", vec![("status.probeTime", json!({"format": "int64"}))]);
    status_v1["properties"]
        .as_object_mut()
        .expect("just made")
        .retain(|name, _| ["probeTime", "reason", "state"].contains(&name.as_str()));
    let columns = json!([
        column("manually-address", "string", ".spec.address", "Where clients find it, as written."),
        column("allocated-address", "string", ".status.detail.address.msg", "Where clients find it, as given."),
        column("state", "string", ".status.state", "Running, Progressing, Pending or Warning."),
        column("reason", "string", ".status.reason", "Why it is in this state."),
        column("mode", "string", ".spec.config.networkMode", "The network of its pods: host or container."),
    ]);
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage, "subresources": {"status": {}},
            "additionalPrinterColumns": columns,
            "schema": root("A gateway, with the ports of its Ingresses and its pods.", spec.clone(), Some(status.clone())),
        })
    };
    let v1 = json!({
        "name": "v1", "served": true, "storage": false, "subresources": {"status": {}},
        "deprecated": true, "deprecationWarning": "crd.alauda.io/v1 ALB2 is deprecated; use crd.alauda.io/v2beta1",
        "schema": root("A gateway, as it was written once.", schema_of::<Alb2V1Spec>("spec", Vec::new()), Some(status_v1)),
    });
    let names = Names {
        group: GROUP,
        kind: "ALB2",
        plural: "alaudaloadbalancer2",
        singular: "alaudaloadbalancer2",
        short: "alb2",
    };
    definition(&names, json!([v1, version("v2beta1", true), version("v2", false)]))
}

fn frontend() -> Value {
    let mut details = defaults();
    details.extend([
        ("spec", json!({"required": null})),
        ("spec.port", json!({"format": "int32", "minimum": 1, "maximum": 65_535})),
        ("spec.serviceGroup.services[]", json!({"required": null})),
    ]);
    let status =
        schema_of::<FrontendStatus>("status", vec![("status.instances{}.probeTime", json!({"format": "int64"}))]);
    let names = Names { group: GROUP, kind: "Frontend", plural: "frontends", singular: "frontend", short: "ft" };
    let description = "A port of an ALB, and what becomes of requests that no Rule takes.";
    definition(
        &names,
        json!([{
            "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
            "additionalPrinterColumns": [column("protocol", "string", ".spec.protocol", "What the port speaks.")],
            "schema": root(description, schema_of::<FrontendSpec>("spec", details), Some(status)),
        }]),
    )
}

fn rule() -> Value {
    let mut details = defaults();
    details.push(("spec.serviceGroup.services[]", json!({"required": null})));
    let names = Names { group: GROUP, kind: "Rule", plural: "rules", singular: "rule", short: "rl" };
    definition(
        &names,
        json!([{
            "name": "v1", "served": true, "storage": true, "subresources": {},
            "additionalPrinterColumns": [
                column("priority", "integer", ".spec.priority", "Smaller ones are looked at first."),
                column("matches", "string", ".spec.dsl", "Which requests, as text."),
                column("source-type", "string", ".spec.source.type", "Kind of what it was made for."),
                column("source-ns", "string", ".spec.source.namespace", "Namespace of what it was made for."),
                column("source-name", "string", ".spec.source.name", "Name of what it was made for."),
            ],
            "schema": root(
                "Which requests at a Frontend, and what becomes of them.",
                schema_of::<RuleSpec>("spec", details),
                None,
            ),
        }]),
    )
}

fn timeout_policy() -> Value {
    let name = || json!({"minLength": 1, "maxLength": 253});
    let details = vec![
        ("spec.targetRef.group", name()),
        ("spec.targetRef.kind", name()),
        ("spec.targetRef.name", name()),
        ("spec.targetRef.namespace", name()),
        ("spec.targetRef.sectionName", name()),
    ];
    let text = |most: u32| json!({"type": "string", "maxLength": most});
    let condition = json!({
        "type": "object",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "type": text(316),
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": text(1024),
            "message": text(32_768),
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    });
    let status = json!({
        "type": "object",
        "properties": {"conditions": {
            "type": "array", "maxItems": 8, "items": condition,
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        }},
    });
    let names = Names {
        group: GATEWAY_GROUP,
        kind: "TimeoutPolicy",
        plural: "timeoutpolicies",
        singular: "timeoutpolicy",
        short: "timeout",
    };
    definition(
        &names,
        json!([{
            "name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
            "schema": root(
                "Timeouts of a Gateway or of a route of the Gateway API.",
                schema_of::<TimeoutPolicySpec>("spec", details),
                Some(status),
            ),
        }]),
    )
}

/// Every definition, in the order in which objects refer to each other.
fn definitions() -> [Value; 4] {
    [alb2(), frontend(), rule(), timeout_policy()]
}

#[test]
fn the_custom_resource_definitions_are_those_of_the_types() {
    for definition in definitions() {
        let (group, plural) = (&definition["spec"]["group"], &definition["spec"]["names"]["plural"]);
        let file = format!("alb/{}_{}.yaml", group.as_str().unwrap(), plural.as_str().unwrap());
        assert_is_written(&definition, &file, "model/src/alb");
    }
}
