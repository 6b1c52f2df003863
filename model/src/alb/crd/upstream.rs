//! What the ALB's own definitions hold, in `upstream.txt`: by kind and version, each field's path, type and bounds.
//!
//! `[]` are the items of a list, `{}` the values of a map. Taken from the ALB's chart v3.19.0.

use serde_json::{Map, Value, json};

use super::definitions;

struct Fact {
    path: &'static str,
    kind: &'static str,
    bounds: Map<String, Value>,
}

/// Kind, versions, fields.
fn facts() -> Vec<(&'static str, Vec<&'static str>, Vec<Fact>)> {
    let mut found: Vec<(&str, Vec<&str>, Vec<Fact>)> = Vec::new();
    for line in include_str!("upstream.txt").lines() {
        let mut words = line.splitn(3, ' ');
        let (first, second, rest) = (words.next().unwrap(), words.next().unwrap(), words.next());
        if first == "#" {
            found.push((second, rest.unwrap().split(' ').collect(), Vec::new()));
        } else {
            let bounds = rest.map(|rest| serde_json::from_str(rest).unwrap()).unwrap_or_default();
            found.last_mut().unwrap().2.push(Fact { path: first, kind: second, bounds });
        }
    }
    found
}

/// Schemas of our definitions, by kind and version.
fn schema(kind: &str, version: &str) -> Value {
    let definitions = definitions();
    let definition = definitions.iter().find(|definition| definition["spec"]["names"]["kind"] == kind);
    let versions = definition.unwrap()["spec"]["versions"].as_array().unwrap();
    let version = versions.iter().find(|found| found["name"] == version);
    version.unwrap()["schema"]["openAPIV3Schema"].clone()
}

/// The schema of a field.
fn field<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(root, |schema, step| {
        let name = step.trim_end_matches(['[', ']', '{', '}']);
        let schema = schema.get("properties")?.get(name)?;
        match &step[name.len()..] {
            "" => Some(schema),
            "[]" => schema.get("items"),
            "{}" => schema.get("additionalProperties"),
            "[][]" => schema.get("items")?.get("items"),
            other => panic!("{path}: {other}"),
        }
    })
}

/// What narrows a schema, apart from its type.
const BOUNDS: [&str; 10] = [
    "enum",
    "format",
    "maxItems",
    "maxLength",
    "maximum",
    "minLength",
    "minimum",
    "pattern",
    "required",
    "x-kubernetes-validations",
];

#[test]
fn whatever_the_albs_own_definitions_take_ours_take() {
    let mut fields = 0;
    for (kind, versions, facts) in facts() {
        for version in versions {
            let root = schema(kind, version);
            for Fact { path, kind: theirs, bounds } in &facts {
                let at = format!("{kind} {version} {path}");
                let ours = field(&root, path).unwrap_or_else(|| panic!("{at} is missing"));
                let open = ours.get("type").is_none() && ours["x-kubernetes-preserve-unknown-fields"] == true;
                let number_or_text = ours["x-kubernetes-int-or-string"] == true && *theirs == "string";
                assert!(ours["type"] == *theirs || open || number_or_text, "{at}: {theirs}, ours {ours}");
                for bound in BOUNDS {
                    let sorted = |value: Option<&Value>| {
                        let mut value = value.cloned();
                        if let Some(Value::Array(words)) = &mut value {
                            words.sort_by_key(Value::to_string);
                        }
                        value
                    };
                    let ours = sorted(ours.get(bound));
                    assert!(ours.is_none() || ours == sorted(bounds.get(bound)), "{at}: {bound} is {ours:?} here");
                }
                for kept in ["default", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-list-map-keys"] {
                    if let Some(theirs) = bounds.get(kept) {
                        assert_eq!(ours.get(kept), Some(theirs), "{at}: {kept}");
                    }
                }
                fields += 1;
            }
        }
    }
    assert!(fields > 500, "{fields}");
}

#[test]
fn what_the_albs_own_definitions_do_not_have_is_known_by_name() {
    fn walk(schema: &Value, path: &str, found: &mut Vec<String>) {
        found.push(path.to_owned());
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            walk(field, &format!("{path}.{name}"), found);
        }
        for (step, inner) in [("[]", schema.get("items")), ("{}", schema.get("additionalProperties"))] {
            if let Some(inner) = inner {
                walk(inner, &format!("{path}{step}"), found);
            }
        }
    }
    let mut ours_alone = Vec::new();
    for (kind, versions, facts) in facts() {
        for version in versions {
            let root = schema(kind, version);
            let mut found = Vec::new();
            for part in ["spec", "status"] {
                root["properties"].get(part).into_iter().for_each(|schema| walk(schema, part, &mut found));
            }
            found.retain(|path| facts.iter().all(|fact| fact.path != path));
            ours_alone.extend(found.into_iter().map(|path| format!("{kind} {version} {path}")));
        }
    }
    let expected = [
        "ALB2 v2beta1 spec.config.auth.enable",
        "ALB2 v2 spec.config.auth.enable",
        "Frontend v1 spec.config.auth.enable",
        "Rule v1 spec.config.auth.enable",
    ];
    assert_eq!(ours_alone, expected);
}

#[test]
fn names_versions_and_columns_are_the_albs_own() {
    let shown: Vec<Value> = definitions()
        .iter()
        .map(|definition| {
            let spec = &definition["spec"];
            let versions: Vec<Value> = spec["versions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|version| {
                    let columns = version["additionalPrinterColumns"].as_array().into_iter().flatten();
                    let columns: Vec<String> = columns
                        .map(|column| format!("{} {}", column["name"], column["jsonPath"]).replace('"', ""))
                        .collect();
                    json!([version["name"], version["served"], version["storage"], version["subresources"], columns])
                })
                .collect();
            let names = &spec["names"];
            json!([
                definition["metadata"]["name"],
                names["kind"],
                names["listKind"],
                names["singular"],
                names["shortNames"],
                spec["scope"],
                spec["conversion"]["strategy"],
                versions
            ])
        })
        .collect();
    let columns = [
        "manually-address .spec.address",
        "allocated-address .status.detail.address.msg",
        "state .status.state",
        "reason .status.reason",
        "mode .spec.config.networkMode",
    ];
    let status = json!({"status": {}});
    #[rustfmt::skip]
    let expected = [
        json!(["alaudaloadbalancer2.crd.alauda.io", "ALB2", "ALB2List", "alaudaloadbalancer2", ["alb2"], "Namespaced", "None", [
            ["v1", true, false, status, []], ["v2beta1", true, true, status, columns], ["v2", true, false, status, columns],
        ]]),
        json!(["frontends.crd.alauda.io", "Frontend", "FrontendList", "frontend", ["ft"], "Namespaced", "None", [
            ["v1", true, true, status, ["protocol .spec.protocol"]],
        ]]),
        json!(["rules.crd.alauda.io", "Rule", "RuleList", "rule", ["rl"], "Namespaced", "None", [
            ["v1", true, true, {}, [
                "priority .spec.priority", "matches .spec.dsl", "source-type .spec.source.type",
                "source-ns .spec.source.namespace", "source-name .spec.source.name",
            ]],
        ]]),
        json!(["timeoutpolicies.gateway.crd.alauda.io", "TimeoutPolicy", "TimeoutPolicyList", "timeoutpolicy", ["timeout"],
            "Namespaced", "None", [["v1alpha1", true, true, status, []]]]),
    ];
    assert_eq!(shown, expected);
    assert_eq!(definitions()[0]["spec"]["versions"][0]["deprecated"], true);
}
