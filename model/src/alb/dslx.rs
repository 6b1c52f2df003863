//! Matching criteria of a Rule as written.

use serde::{Deserialize, Deserializer, Serialize};

/// A term of `spec.dslx`: what one value of a request must be. All terms of a rule must hold.
///
/// Nothing is checked here; a field that is missing or null is empty, as in the upstream schema.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Term {
    /// `METHOD`, `URL`, `HOST`, `PARAM`, `HEADER`, `COOKIE` or `SRC_IP`.
    #[serde(rename = "type", default, deserialize_with = "or_empty")]
    pub kind: String,
    /// Name of the parameter, header or cookie; empty for the others.
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Rows of an operator and its arguments; one row must hold. Operators are `EQ`, `IN`, `EXIST`, `STARTS_WITH`,
    /// `ENDS_WITH`, `REGEX` and `RANGE`.
    #[serde(default, deserialize_with = "or_empty")]
    pub values: Vec<Vec<String>>,
}

fn or_empty<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_null_is_empty() {
        let url = Term {
            kind: "URL".into(),
            key: String::new(),
            values: vec![vec!["STARTS_WITH".into(), "/app-a".into()], vec!["EXIST".into()]],
        };
        for (text, expected) in [
            (r#"{"type": "URL", "values": [["STARTS_WITH", "/app-a"], ["EXIST"]]}"#, url),
            ("{}", Term::default()),
            (r#"{"type": null, "key": null, "values": null}"#, Term::default()),
        ] {
            assert_eq!(serde_json::from_str::<Term>(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_term_is_written_as_it_was_read() {
        let text = r#"{"type":"HEADER","key":"LOCATION","values":[["IN","east-1","east-2"]]}"#;
        let term: Term = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&term).unwrap(), text);
    }
}
