//! The CustomResourceDefinition of GatewaySettings, made from the types that read it.
//!
//! `UPDATE=1 cargo test -p headwater-model custom_resource` writes it anew. What it refuses the translator calls an
//! error, too (but for `null` in place of a word, which API servers do not take); what it takes beyond that is left to
//! the admission webhook and to findings.

use schemars::json_schema;
use serde_json::{Value, json};

use super::{CidrText, GatewaySettingsSpec, parse_cidr};
use crate::quantity::{DurationText, SizeText, parse_duration, parse_size};
use crate::structural::{Details, Style, assert_is_written, make_nullable, schema_of};

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
fn details() -> Details {
    vec![
        (
            "spec.listeners",
            json!({"maxItems": 128, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
        ),
        (
            "spec.listeners[]",
            rule(
                "!(self.protocol in ['TCP', 'UDP']) || (has(self.backends) && size(self.backends) > 0)",
                "a TCP or UDP listener needs backends",
            ),
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
        ("spec.faults.traceClients", json!({"maxItems": 4096})),
        ("spec.compression.level", json!({"minimum": 1, "maximum": 9})),
        ("spec.compression.types", json!({"maxItems": 64})),
        ("spec.compression.types[]", json!({"minLength": 3, "maxLength": 255})),
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
    let mut spec = schema_of::<GatewaySettingsSpec>("spec", Style::Bounded, details());
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

#[test]
fn the_custom_resource_definition_is_that_of_the_types() {
    assert_is_written(&definition(), "headwater.dev_gatewaysettings.yaml", "model/src/settings.rs");
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
