use serde_json::{Value, json};

use super::*;

fn read(kind: Kind, object: &Value) -> Item {
    Parser::new(kind, false, Reader::Gateway).item(&object.to_string()).unwrap()
}

fn ingress(spec: &Value) -> Value {
    json!({ "metadata": { "name": "web", "namespace": "shop", "resourceVersion": "7", "generation": 3 }, "spec": spec })
}

fn fault(kind: Kind, object: &Value) -> Finding {
    *read(kind, object).object.unwrap_err()
}

#[test]
fn an_object_of_a_list_needs_neither_kind_nor_api_version() {
    let item = read(Kind::Ingress, &ingress(&json!({ "ingressClassName": "headwater" })));
    assert_eq!((&*item.key.to_string(), &*item.version), ("Ingress shop/web", "7"));
    let Ok(Object::Ingress(ingress)) = item.object else { panic!("{:?}", item.object) };
    assert_eq!(ingress.spec.ingress_class_name.as_deref(), Some("headwater"));
    assert_eq!(ingress.metadata.generation, 3);
    assert_eq!(item.observed, None);
}

#[test]
fn a_null_list_is_an_empty_one_and_unknown_fields_are_passed_over() {
    let item = read(
        Kind::EndpointSlice,
        &json!({ "metadata": { "name": "a", "namespace": "b", "resourceVersion": "1", "labels": null },
                 "addressType": "IPv4", "endpoints": null, "ports": null, "fieldOfTheFuture": { "a": [1] } }),
    );
    let Ok(Object::EndpointSlice(slice)) = item.object else { panic!("{:?}", item.object) };
    assert!(slice.endpoints.is_empty() && slice.ports.is_empty());
}

#[test]
fn a_finding_about_an_invalid_object_names_the_field_and_the_value() {
    let finding =
        fault(Kind::Ingress, &ingress(&json!({ "rules": [{ "http": { "paths": [{ "pathType": "Near" }] } }] })));
    assert_eq!(finding.reason, INVALID_OBJECT);
    assert_eq!(finding.object, Some(ObjectKey::new(Kind::Ingress, "shop", "web")));
    assert_eq!(finding.field, "spec.rules[0].http.paths[0].pathType");
    assert!(finding.message.contains("\"Near\""), "{finding}");
    assert_eq!(finding.location, None);
}

#[test]
fn a_finding_about_a_secret_shows_no_value() {
    let finding = fault(
        Kind::Secret,
        &json!({ "metadata": { "name": "a", "namespace": "b", "resourceVersion": "1" }, "data": { "tls.key": "hunter2!" } }),
    );
    assert_eq!(finding.field, "data[tls.key]");
    assert!(!finding.to_string().contains("hunter2"), "{finding}");
}

#[test]
fn what_cannot_be_told_apart_from_other_objects_is_no_object() {
    for object in [
        json!({}),
        json!([]),
        json!({ "metadata": {} }),
        json!({ "metadata": { "name": "a" } }),
        json!({ "metadata": { "name": "", "resourceVersion": "1" } }),
    ] {
        assert!(Parser::new(Kind::Ingress, true, Reader::Gateway).item(&object.to_string()).is_err(), "{object}");
    }
    assert!(Parser::new(Kind::Ingress, true, Reader::Gateway).item("{\"metadata\":").is_err());
}

#[test]
fn the_servers_side_of_an_object_is_read_where_it_is_wanted() {
    let mut object = ingress(&json!({}));
    object["metadata"]["uid"] = json!("u-1");
    object["metadata"]["managedFields"] = json!([
        { "manager": "kubectl", "operation": "Update", "fieldsV1": { "f:spec": {} } },
        { "manager": FIELD_MANAGER, "operation": "Apply", "subresource": "status", "fieldsV1": { "f:status": {} } },
    ]);
    object["status"] = json!({
        "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }, { "hostname": "lb.example.com" }, { "ip": "" }, { "ip": "x" }] },
        "conditions": [
            { "type": "Accepted", "status": "True", "observedGeneration": 3, "lastTransitionTime": "2026-01-01T00:00:00Z",
              "reason": "Accepted", "message": "" },
            { "type": "Broken" },
        ],
    });
    let observed =
        Parser::new(Kind::Ingress, true, Reader::Gateway).item(&object.to_string()).unwrap().observed.unwrap();
    assert_eq!((&*observed.uid, observed.generation, observed.status_is_ours), ("u-1", 3, true));
    let names = PublishedAddress::Hostname("lb.example.com".to_owned());
    assert_eq!(observed.addresses, [PublishedAddress::Ip("192.0.2.1".parse().unwrap()), names]);
    assert_eq!(observed.conditions.iter().map(|c| &*c.condition_type).collect::<Vec<_>>(), ["Accepted"]);
}

#[test]
fn a_status_belongs_to_us_only_by_our_manager_in_the_status() {
    let owned = |manager: &str, subresource: Option<&str>| {
        let mut object = ingress(&json!({}));
        object["metadata"]["managedFields"] = json!([{ "manager": manager, "subresource": subresource }]);
        Parser::new(Kind::Ingress, true, Reader::Gateway)
            .item(&object.to_string())
            .unwrap()
            .observed
            .unwrap()
            .status_is_ours
    };
    for (manager, subresource, ours) in
        [(FIELD_MANAGER, Some("status"), true), (FIELD_MANAGER, None, false), ("nginx", Some("status"), false)]
    {
        assert_eq!(owned(manager, subresource), ours, "{manager} {subresource:?}");
    }
}

#[test]
fn the_servers_side_is_read_of_an_invalid_object_too() {
    let mut object = ingress(&json!({ "rules": 1 }));
    object["metadata"]["uid"] = json!("u-2");
    let item = Parser::new(Kind::Ingress, true, Reader::Gateway).item(&object.to_string()).unwrap();
    assert!(item.object.is_err());
    assert_eq!(&*item.observed.unwrap().uid, "u-2");
}
