//! The CustomResourceDefinition of GatewaySettings, made from the types that read it.
//!
//! `UPDATE=1 cargo test -p headwater-model custom_resource` writes it anew. What it refuses the translator calls an
//! error, too (but for `null` in place of a word, which API servers do not take); what it takes beyond that is left to
//! the admission webhook and to findings.

use std::fmt::Write as _;
use std::path::Path;

use schemars::generate::SchemaSettings;
use schemars::json_schema;
use serde_json::{Map, Value, json};

use super::{CidrText, GatewaySettingsSpec, parse_cidr};
use crate::quantity::{DurationText, SizeText, parse_duration, parse_size};

const FILE: &str = "../deploy/crds/headwater.dev_gatewaysettings.yaml";

/// No tighter than the parsers: the API server must take what `headwater check` takes.
const ADDRESS: &str = r"^(([0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)$";
const CIDR: &str = r"^(([0-9]{1,3}\.){3}[0-9]{1,3}(/[0-9]{1,2})?|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(/[0-9]{1,3})?)$";
const DURATION: &str = "^(0|([0-9]{1,9}(h|m|s|ms))+)$";
const SIZE: &str = "^[0-9]{1,20}(k|M|G|Ki|Mi|Gi)?$";
/// A header's or a cookie's name (RFC 9110 section 5.6.2).
const TOKEN: &str = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$";
const REFERENCE: &str = "^[^/]+/[^/]+$";

text_schema! {
    CidrText: json_schema!({"type": "string", "pattern": CIDR, "maxLength": 49});
    DurationText: json_schema!({"type": "string", "pattern": DURATION});
    SizeText: json_schema!({"x-kubernetes-int-or-string": true, "pattern": SIZE});
}

/// What the types do not say, by field: the bounds that the translator holds, too.
fn details() -> Vec<(&'static str, Value)> {
    vec![
        (
            "spec.listeners",
            json!({"maxItems": 128, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
        ),
        ("spec.listeners[].name", json!({"minLength": 1, "maxLength": 253})),
        ("spec.listeners[].address", json!({"pattern": ADDRESS, "maxLength": 45})),
        ("spec.listeners[].clientAddress", client_address()),
        ("spec.listeners[].backends", json!({"maxItems": 16})),
        ("spec.listeners[].backends[].service", json!({"pattern": REFERENCE, "maxLength": 317})),
        ("spec.listeners[].backends[].port", json!({"minimum": 1})),
        ("spec.listeners[].backends[].weight", json!({"maximum": 1_000_000})),
        ("spec.listeners[].clientAddress.trustedProxies", json!({"maxItems": 4096})),
        ("spec.listeners[].clientAddress.forwardedHeader", json!({"pattern": TOKEN})),
        ("spec.clientAddress", client_address()),
        ("spec.clientAddress.trustedProxies", json!({"maxItems": 4096})),
        ("spec.clientAddress.forwardedHeader", json!({"pattern": TOKEN})),
        ("spec.limits.headerCount", json!({"minimum": 8, "maximum": 10_000})),
        ("spec.limits.http2Streams", json!({"minimum": 1, "maximum": 1 << 20})),
        (
            "spec.balancing",
            rule(
                "!has(self.hashOn) || self.hashOn == 'Client' || !has(self.algorithm) || self.algorithm != 'Hash' || has(self.hashName)",
                "hashing a header or a cookie needs its name in hashName",
            ),
        ),
        ("spec.balancing.hashName", json!({"pattern": TOKEN})),
        ("spec.retries.attempts", json!({"minimum": 1, "maximum": 100})),
        ("spec.retries.budgetPercent", json!({"maximum": 100})),
        ("spec.passiveHealth.maxEjectedPercent", json!({"maximum": 100})),
        (
            "spec.upstream.tls",
            rule(
                "!has(self.verify) || self.verify != 'CertificateAuthority' || has(self.ca)",
                "verify: CertificateAuthority needs ca, the namespace/name of a Secret or ConfigMap with ca.crt",
            ),
        ),
        ("spec.upstream.tls.ca", json!({"pattern": REFERENCE, "maxLength": 317})),
        ("spec.upstream.tls.serverName", json!({"maxLength": 253})),
        ("spec.tls.defaultCertificate", json!({"pattern": REFERENCE, "maxLength": 317})),
    ]
}

fn client_address() -> Value {
    rule(
        "!has(self.trustedProxies) || !has(self.trustedHops)",
        "trustedProxies and trustedHops exclude each other; remove one of the two",
    )
}

fn rule(rule: &str, message: &str) -> Value {
    json!({"x-kubernetes-validations": [{"rule": rule, "message": message}]})
}

/// A schema of serde's types -> one that is structural in the sense of apiextensions.k8s.io/v1.
fn structural(schema: &Value, path: &str, details: &mut Vec<(&'static str, Value)>) -> Map<String, Value> {
    let mut nullable = false;
    let mut from = schema.as_object().unwrap_or_else(|| panic!("{path}: {schema} is not an object")).clone();
    if let Some(Value::Array(choices)) = from.remove("anyOf") {
        let null = |choice: &&Value| choice["type"] == "null";
        assert!(choices.len() == 2 && choices.iter().any(|choice| null(&choice)), "{path}: anyOf is more than Option");
        nullable = true;
        let other = choices.iter().find(|choice| !null(choice)).and_then(Value::as_object).expect("one is not null");
        // What stands at the field describes it better than what stands at its type.
        other.iter().for_each(|(key, value)| {
            from.entry(key.clone()).or_insert_with(|| value.clone());
        });
    }
    let mut into = Map::new();
    for (key, value) in from {
        match (key.as_str(), value) {
            ("$schema" | "title" | "default" | "required" | "format" | "properties" | "items", _) => {}
            ("type", Value::Array(types)) => {
                nullable |= types.contains(&json!("null"));
                into.insert(key, types.into_iter().find(|kind| kind != "null").expect("one is not null"));
            }
            ("enum", Value::Array(mut words)) => {
                words.retain(|word| !word.is_null());
                into.insert(key, Value::Array(words));
            }
            ("description", Value::String(text)) => {
                into.insert(key, text.replace('\n', " ").into());
            }
            (
                "type" | "pattern" | "minimum" | "maximum" | "minLength" | "maxLength" | "x-kubernetes-int-or-string",
                value,
            ) => {
                into.insert(key, value);
            }
            (other, value) => panic!("{path}: {other}: {value} has no place in a structural schema"),
        }
    }
    match schema_format(schema) {
        Some("uint16") => bound(&mut into, "int32", u64::from(u16::MAX)),
        Some("uint32") => bound(&mut into, "int64", u64::from(u32::MAX)),
        Some("ip") | None => {}
        Some(other) => panic!("{path}: format {other} is not known"),
    }
    if let Some(Value::Object(properties)) = schema.get("properties").or_else(|| inner(schema)?.get("properties")) {
        let fields = properties
            .iter()
            .map(|(name, field)| (name.clone(), Value::Object(structural(field, &format!("{path}.{name}"), details))));
        let fields: Map<String, Value> = fields.collect();
        into.insert("properties".to_owned(), Value::Object(fields));
        let required = schema.get("required").or_else(|| inner(schema)?.get("required")).and_then(Value::as_array);
        // A field that is null is a field that is absent, for our reader as for Go's.
        for (name, field) in into["properties"].as_object_mut().expect("just made") {
            if !required.is_some_and(|required| required.contains(&json!(name))) {
                make_nullable(field.as_object_mut().expect("schemas are objects"));
            }
        }
        if let Some(required) = required {
            into.insert("required".to_owned(), required.clone().into());
        }
    }
    if let Some(items) = schema.get("items").or_else(|| inner(schema)?.get("items")) {
        into.insert("items".to_owned(), Value::Object(structural(items, &format!("{path}[]"), details)));
        into.entry("x-kubernetes-list-type").or_insert("atomic".into());
    }
    while let Some(at) = details.iter().position(|(field, _)| *field == path) {
        let (_, Value::Object(more)) = details.swap_remove(at) else { panic!("{path}: details are objects") };
        into.extend(more);
    }
    if nullable {
        make_nullable(&mut into);
    }
    into
}

/// An API server refuses null for an enumeration, whatever the schema says.
fn make_nullable(field: &mut Map<String, Value>) {
    if !field.contains_key("enum") {
        field.insert("nullable".to_owned(), true.into());
    }
}

/// The type within `Option`.
fn inner(schema: &Value) -> Option<&Value> {
    schema.get("anyOf")?.as_array()?.iter().find(|choice| choice["type"] != "null")
}

fn schema_format(schema: &Value) -> Option<&str> {
    schema.get("format").or_else(|| inner(schema)?.get("format"))?.as_str()
}

fn bound(into: &mut Map<String, Value>, format: &str, most: u64) {
    into.insert("format".to_owned(), format.into());
    into.entry("minimum").or_insert(0.into());
    into.entry("maximum").or_insert(most.into());
}

fn conditions() -> Value {
    let text = |most: u32, description: &str| json!({"type": "string", "maxLength": most, "description": description});
    json!({
        "type": "array",
        "description": "What Headwater thinks of this object.",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": text(316, "Name of the condition."),
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": text(1024, "One word for the cause."),
                "message": text(32_768, "What is wrong and how to mend it."),
                "observedGeneration": {
                    "type": "integer", "format": "int64", "minimum": 0,
                    "description": "The metadata.generation that this is about.",
                },
                "lastTransitionTime": {
                    "type": "string", "format": "date-time", "description": "When status changed last.",
                },
            },
        },
    })
}

fn definition() -> Value {
    let mut generator =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator();
    let schema = generator.root_schema_for::<GatewaySettingsSpec>().to_value();
    let mut details = details();
    let mut spec = structural(&schema, "spec", &mut details);
    assert!(details.is_empty(), "details of fields that do not exist: {details:#?}");
    make_nullable(&mut spec);
    let column = |name: &str, kind: &str, path: &str, description: &str| json!({"name": name, "type": kind, "jsonPath": path, "description": description});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "gatewaysettings.headwater.dev", "labels": {"app.kubernetes.io/name": "headwater"}},
        "spec": {
            "group": "headwater.dev",
            "scope": "Namespaced",
            "names": {
                "kind": "GatewaySettings", "listKind": "GatewaySettingsList",
                "plural": "gatewaysettings", "singular": "gatewaysettings",
                "shortNames": ["gws"], "categories": ["headwater"],
            },
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    column("Accepted", "string", ".status.conditions[?(@.type==\"Accepted\")].status",
                        "Whether the settings are free of mistakes."),
                    column("Proxy-Protocol", "string", ".spec.clientAddress.proxyProtocol",
                        "Whether load balancers name the client."),
                    column("Forwarded-Header", "string", ".spec.clientAddress.forwardedHeader",
                        "The header that names the client."),
                    column("Age", "date", ".metadata.creationTimestamp", "Time since it was made."),
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": "The settings of a gateway: listeners, whom to believe about the client, limits, timeouts.",
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": spec,
                        "status": {
                            "type": "object",
                            "description": "Written by the controller.",
                            "properties": {"conditions": conditions()},
                        },
                    },
                }},
            }],
        },
    })
}

/// Block style YAML with keys in alphabetical order.
fn yaml(value: &Value, indent: usize, out: &mut String) {
    let scalar = |value: &Value| match value {
        Value::String(text) if is_plain(text) => text.clone(),
        // JSON's strings are YAML's double-quoted ones.
        other => other.to_string(),
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    let _ = write!(out, "{:indent$}", "");
                }
                let _ = write!(out, "{key}:");
                nested(&map[key], indent, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (index, item) in list.iter().enumerate() {
                if index > 0 {
                    let _ = write!(out, "{:indent$}", "");
                }
                out.push_str("- ");
                yaml(item, indent + 2, out);
            }
        }
        other => {
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
}

/// What follows a key's colon.
fn nested(value: &Value, indent: usize, out: &mut String) {
    let deeper = match value {
        Value::Object(map) if !map.is_empty() => indent + 2,
        Value::Array(list) if !list.is_empty() => indent,
        _ => {
            out.push(' ');
            return yaml(value, 0, out);
        }
    };
    let _ = write!(out, "\n{:deeper$}", "");
    yaml(value, deeper, out);
}

/// Whether YAML reads a text without quotes as this text.
fn is_plain(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b" ./-_(),;=".contains(&byte);
    text.starts_with(|char: char| char.is_ascii_alphabetic())
        && !text.ends_with(' ')
        && text.bytes().all(word)
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str())
}

#[test]
fn the_custom_resource_definition_is_that_of_the_types() {
    let mut expected =
        "# Made from model/src/settings.rs by `UPDATE=1 cargo test -p headwater-model custom_resource`.\n".to_owned();
    yaml(&definition(), 0, &mut expected);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "deploy/crds is behind; run: UPDATE=1 cargo test -p headwater-model custom_resource");
}

#[test]
fn patterns_take_what_the_parsers_take() {
    let cidrs =
        ["10.0.0.0/8", "10.0.0.1", "::/0", "::1", "2001:db8::/32", "::ffff:192.0.2.1", "FE80::1/128", "1.2.3.4/0"];
    let durations = ["0", "0s", "5s", "250ms", "1m30s", "1h", "1h1h", "999999999ms"];
    let sizes = ["0", "1024", "64Ki", "1Mi", "2k", "1G", "18446744073709551615"];
    let longest = "9".repeat(9) + "ms";
    let check = |pattern: &str, texts: &[&str], parses: &dyn Fn(&str) -> bool| {
        let pattern = regex::Regex::new(pattern).unwrap();
        for text in texts {
            assert!(parses(text) && pattern.is_match(text), "{text}");
        }
        for text in ["", " 5s", "5 s", "-1", "x", "10.0.0.0/8/8", "1.5s", "64KB"] {
            assert!(!pattern.is_match(text) && !parses(text), "{text}");
        }
    };
    check(CIDR, &cidrs, &|text| parse_cidr(text).is_some());
    check(DURATION, &durations, &|text| parse_duration(text).is_ok());
    check(DURATION, &[&longest], &|text| parse_duration(text).is_ok());
    check(SIZE, &sizes, &|text| parse_size(text).is_ok());
    let address = regex::Regex::new(ADDRESS).unwrap();
    for text in ["0.0.0.0", "::", "::ffff:192.0.2.1", "2001:db8::1"] {
        assert!(text.parse::<std::net::IpAddr>().is_ok() && address.is_match(text), "{text}");
    }
}
