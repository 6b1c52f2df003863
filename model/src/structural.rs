//! Schemas of types -> what CustomResourceDefinitions take, and the files they stand in.

use std::fmt::Write as _;
use std::path::Path;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// What the types do not say, by field; null takes away what they do.
pub(crate) type Details = Vec<(&'static str, Value)>;

/// How much of what the types say becomes a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// All of it: ranges of numbers, and that null is absent.
    Bounded,
    /// Types and words alone: objects were there before our definition.
    Loose,
}

/// Schema of a type whose field is called `name`.
pub(crate) fn schema_of<T: JsonSchema>(name: &str, style: Style, mut details: Details) -> Value {
    let mut generator =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator();
    let schema = structural(&generator.root_schema_for::<T>().to_value(), name, style, &mut details);
    assert!(details.is_empty(), "details of fields that do not exist: {details:#?}");
    schema
}

/// A schema of serde's types -> one that is structural in the sense of apiextensions.k8s.io/v1.
fn structural(schema: &Value, path: &str, style: Style, details: &mut Details) -> Value {
    let mut nullable = false;
    let mut from = schema.as_object().unwrap_or_else(|| panic!("{path}: {schema} is not an object")).clone();
    if let Some(Value::Array(choices)) = from.remove("anyOf") {
        let (null, some): (Vec<Value>, Vec<Value>) = choices.into_iter().partition(|choice| choice["type"] == "null");
        let (1, [Value::Object(some)]) = (null.len(), &*some) else { panic!("{path}: anyOf is more than Option") };
        nullable = true;
        // What stands at the field describes it better than what stands at its type.
        some.iter().for_each(|(key, value)| {
            from.entry(key.clone()).or_insert_with(|| value.clone());
        });
    }
    let required = from.get("required").cloned().unwrap_or_default();
    let is_required = |name: &str| required.as_array().is_some_and(|names| names.contains(&json!(name)));
    let mut into = Map::new();
    for (key, value) in from {
        let value = match (key.as_str(), value) {
            ("$schema" | "title" | "default", _) => continue,
            ("format", Value::String(format)) => {
                match (style, format.as_str()) {
                    (Style::Bounded, "uint16") => bound(&mut into, "int32", u64::from(u16::MAX)),
                    (Style::Bounded, "uint32") => bound(&mut into, "int64", u64::from(u32::MAX)),
                    (Style::Bounded, "ip") | (Style::Loose, _) => {}
                    (Style::Bounded, other) => panic!("{path}: format {other} is not known"),
                }
                continue;
            }
            ("minimum" | "maximum", _) if style == Style::Loose => continue,
            ("type", Value::Array(types)) => {
                nullable |= types.contains(&json!("null"));
                types.into_iter().find(|kind| kind != "null").expect("one is not null")
            }
            ("enum", Value::Array(words)) => words.into_iter().filter(|word| !word.is_null()).collect(),
            ("description", Value::String(text)) => text.replace('\n', " ").into(),
            ("properties", Value::Object(fields)) => fields
                .into_iter()
                .map(|(name, field)| {
                    let mut field = structural(&field, &format!("{path}.{name}"), style, details);
                    // A field that is null is a field that is absent, for our reader as for Go's.
                    if style == Style::Bounded && !is_required(&name) {
                        make_nullable(&mut field);
                    }
                    (name, field)
                })
                .collect(),
            ("items", items) => {
                if style == Style::Bounded {
                    into.entry("x-kubernetes-list-type").or_insert("atomic".into());
                }
                structural(&items, &format!("{path}[]"), style, details)
            }
            ("additionalProperties", values) => structural(&values, &format!("{path}{{}}"), style, details),
            (
                "type"
                | "pattern"
                | "minimum"
                | "maximum"
                | "minLength"
                | "maxLength"
                | "required"
                | "x-kubernetes-int-or-string"
                | "x-kubernetes-preserve-unknown-fields",
                value,
            ) => value,
            (other, value) => panic!("{path}: {other}: {value} has no place in a structural schema"),
        };
        into.insert(key, value);
    }
    while let Some(at) = details.iter().position(|(field, _)| *field == path) {
        let (_, Value::Object(more)) = details.swap_remove(at) else { panic!("{path}: details are objects") };
        for (key, value) in more {
            if value.is_null() {
                assert!(into.remove(&key).is_some(), "{path}: there is no {key} to take away");
            } else {
                into.insert(key, value);
            }
        }
    }
    let mut into = Value::Object(into);
    if nullable && style == Style::Bounded {
        make_nullable(&mut into);
    }
    into
}

/// An API server refuses null for an enumeration, whatever the schema says.
pub(crate) fn make_nullable(field: &mut Value) {
    let field = field.as_object_mut().expect("schemas are objects");
    if !field.contains_key("enum") {
        field.insert("nullable".to_owned(), true.into());
    }
}

fn bound(into: &mut Map<String, Value>, format: &str, most: u64) {
    into.insert("format".to_owned(), format.into());
    into.entry("minimum").or_insert(0.into());
    into.entry("maximum").or_insert(most.into());
}

/// Fails unless the file below deploy/crds is the definition; `UPDATE=1` writes it anew. `source`: where its types are.
pub(crate) fn assert_is_written(definition: &Value, file: &str, source: &str) {
    const COMMAND: &str = "UPDATE=1 cargo test -p headwater-model custom_resource";
    let mut expected = format!("# Made from {source} by `{COMMAND}`.\n");
    yaml(definition, 0, &mut expected);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds").join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().expect("it lies in a directory")).unwrap();
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "deploy/crds/{file} is behind; run: {COMMAND}");
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
