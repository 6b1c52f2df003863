//! What others' definitions of the same kinds hold, held against ours.
//!
//! Their facts are a text: `# Kind version...`, then a line for each field with its path, its type and its bounds as JSON.
//! `[]` are the items of a list, `{}` the values of a map.

use serde_json::{Map, Value};

struct Fact {
    path: &'static str,
    kind: &'static str,
    bounds: Map<String, Value>,
}

/// Kind, versions, fields.
fn facts(text: &'static str) -> Vec<(&'static str, Vec<&'static str>, Vec<Fact>)> {
    let mut found: Vec<(&str, Vec<&str>, Vec<Fact>)> = Vec::new();
    for line in text.lines() {
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

/// Schema of one of our definitions.
fn schema(definitions: &[Value], kind: &str, version: &str) -> Value {
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

/// Fails where ours would refuse what theirs take, or drop it; returns how many fields were compared.
pub(crate) fn assert_takes(text: &'static str, definitions: &[Value]) -> usize {
    let mut fields = 0;
    for (kind, versions, facts) in facts(text) {
        for version in versions {
            let root = schema(definitions, kind, version);
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
    fields
}

/// Fields that ours have and theirs have not, as `Kind version path`.
pub(crate) fn ours_alone(text: &'static str, definitions: &[Value]) -> Vec<String> {
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
    for (kind, versions, facts) in facts(text) {
        for version in versions {
            let root = schema(definitions, kind, version);
            let mut found = Vec::new();
            for part in ["spec", "status"] {
                root["properties"].get(part).into_iter().for_each(|schema| walk(schema, part, &mut found));
            }
            found.retain(|path| facts.iter().all(|fact| fact.path != path));
            ours_alone.extend(found.into_iter().map(|path| format!("{kind} {version} {path}")));
        }
    }
    ours_alone
}
