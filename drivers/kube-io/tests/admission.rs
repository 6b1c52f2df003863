//! Objects as an API server sends them to a webhook.
#![allow(clippy::unwrap_used, reason = "test code")]

use headwater_kube_io::{ObjectReading, read_object};
use headwater_model::cluster::Object;
use headwater_model::finding::Severity;
use serde_json::{Value, json};

/// An Ingress with everything that a server adds to what a user wrote.
fn stored() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "3f1c", "resourceVersion": "12", "generation": 2,
            "creationTimestamp": "2026-01-31T12:00:00Z", "generateName": "w", "selfLink": "/x",
            "deletionTimestamp": "2026-01-31T12:00:00Z", "deletionGracePeriodSeconds": 0,
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "b"}],
            "finalizers": ["a.io/b"], "labels": {"a": "b"}, "annotations": {"c": "d"},
            "managedFields": [{"manager": "kubectl", "operation": "Update", "apiVersion": "networking.k8s.io/v1",
                "time": "2026-01-31T12:00:00Z", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {"f:rules": {}}}, "subresource": "status"}],
        },
        "spec": {"ingressClassName": "headwater", "rules": [{"host": "a.test", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ports": [{"port": 80, "protocol": "TCP"}]}]}},
    })
}

fn read(object: &Value) -> ObjectReading {
    read_object(object.to_string().as_bytes())
}

#[test]
fn what_a_server_adds_is_no_fault() {
    let reading = read(&stored());
    assert_eq!(reading.findings, []);
    assert_eq!(reading.key.unwrap().to_string(), "Ingress shop/web");
    assert!(matches!(reading.object, Some(Object::Ingress(ingress)) if ingress.metadata.generation == 2));
}

#[test]
fn a_field_of_a_newer_kubernetes_is_a_warning_and_the_rest_counts() {
    let mut object = stored();
    object["spec"]["rules"][0]["http"]["paths"][0]["timeout"] = "5s".into();
    object["metadata"]["shard"] = 3.into();
    let reading = read(&object);
    let found: Vec<_> =
        reading.findings.iter().map(|f| (f.severity, f.reason, f.field.as_str(), f.location.is_none())).collect();
    assert_eq!(
        found,
        [
            (Severity::Warning, "UnknownField", "metadata.shard", true),
            (Severity::Warning, "UnknownField", "spec.rules[0].http.paths[0].timeout", true),
        ]
    );
    assert!(reading.object.is_some());
}

#[test]
fn an_unknown_field_of_an_own_kind_is_an_error() {
    let reading = read(&json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "GatewaySettings",
        "metadata": {"name": "edge", "namespace": "headwater"}, "spec": {"listner": []},
    }));
    assert_eq!(reading.object, None);
    assert_eq!(reading.findings.len(), 1);
    assert_eq!((reading.findings[0].severity, reading.findings[0].reason), (Severity::Error, "UnknownField"));
    assert!(reading.findings[0].to_string().contains("did you mean \"listeners\"?"), "{}", reading.findings[0]);
}

#[test]
fn faults_of_form_are_told_and_nothing_is_read_of_them() {
    for (json, reason) in [
        ("", "InvalidJson"),
        ("{", "InvalidJson"),
        ("{} {}", "InvalidJson"),
        ("[]", "NotAnObject"),
        ("{}", "MissingField"),
        (r#"{"apiVersion":"v1","kind":"ConfigMapList","items":[]}"#, "InvalidJson"),
        (r#"{"apiVersion":"v1","kind":"ConfigMapList","items":[{},{}]}"#, "InvalidJson"),
        (r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","name":"b"}}"#, "DuplicateKey"),
        (r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"A b"}}"#, "InvalidName"),
        (r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"a":1}}"#, "WrongType"),
    ] {
        let reading = read_object(json.as_bytes());
        assert_eq!(reading.object, None, "{json}");
        assert_eq!(reading.findings.first().map(|finding| finding.reason), Some(reason), "{json} {reading:?}");
    }
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    assert!(read_object(deep.as_bytes()).findings[0].message.contains("nested deeper than 128 levels"));
    let many = format!("[{}0]", "0,".repeat(250_000));
    assert!(read_object(many.as_bytes()).findings[0].message.contains("more than 250000 values"));
    assert_eq!(read_object(b"\xff").findings[0].reason, "InvalidJson");
}

#[test]
fn a_kind_that_is_not_read_is_named() {
    let reading = read(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}));
    assert_eq!(reading.unread.as_deref(), Some("Deployment (apps/v1)"));
    assert_eq!((reading.findings, reading.object), (Vec::new(), None));
}
