//! Label selectors (`metav1.LabelSelector`), as many kinds write them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Which objects are meant, by their labels: all of its terms hold. An empty one means all objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels with these very values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Further terms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelRequirement>,
}

/// A term about one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LabelRequirement {
    /// Name of the label.
    pub key: String,
    /// In, NotIn, Exists or DoesNotExist.
    pub operator: LabelOperator,
    /// For In and NotIn alone, which need at least one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// What a label has to do with the values of a [`LabelRequirement`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
pub enum LabelOperator {
    In,
    /// Also where the label is missing.
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object with these labels is meant.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|term| term.matches(labels))
    }

    /// What API servers refuse of a selector: the path below it and the words, for the first such term.
    ///
    /// # Errors
    /// A term without a label's name, values that In or NotIn lacks, values that Exists or DoesNotExist has.
    pub fn check(&self) -> Result<(), (String, String)> {
        if self.match_labels.contains_key("") {
            return Err(("matchLabels".to_owned(), "a label has no name".to_owned()));
        }
        for (index, LabelRequirement { key, operator, values }) in self.match_expressions.iter().enumerate() {
            let wants_values = matches!(operator, LabelOperator::In | LabelOperator::NotIn);
            let path = |field: &str| format!("matchExpressions[{index}].{field}");
            if key.is_empty() {
                return Err((path("key"), "a label has no name".to_owned()));
            }
            if wants_values && values.is_empty() {
                return Err((path("values"), format!("operator {operator:?} needs at least one value")));
            }
            if !wants_values && !values.is_empty() {
                return Err((path("values"), format!("operator {operator:?} takes no values")));
            }
        }
        Ok(())
    }
}

impl LabelRequirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let is_listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            LabelOperator::In => is_listed,
            LabelOperator::NotIn => !is_listed,
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_term_of_a_selector_has_to_hold() {
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned()), ("rack".to_owned(), "1".to_owned())]);
        let term = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (selector, is_meant) in [
            (json!({}), true),
            (json!({"matchLabels": {"zone": "a"}}), true),
            (json!({"matchLabels": {"zone": "a", "rack": "2"}}), false),
            (json!({"matchLabels": {"row": ""}}), false),
            (term("zone", "In", &["b", "a"]), true),
            (term("zone", "In", &["b"]), false),
            (term("row", "In", &["b"]), false),
            (term("zone", "NotIn", &["b"]), true),
            (term("zone", "NotIn", &["a"]), false),
            (term("row", "NotIn", &["a"]), true),
            (term("zone", "Exists", &[]), true),
            (term("row", "Exists", &[]), false),
            (term("zone", "DoesNotExist", &[]), false),
            (term("row", "DoesNotExist", &[]), true),
            (
                json!({"matchLabels": {"zone": "a"}, "matchExpressions": [{"key": "rack", "operator": "Exists"}, {"key": "rack", "operator": "In", "values": ["2"]}]}),
                false,
            ),
        ] {
            let read: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(read.matches(&labels), is_meant, "{selector}");
            assert_eq!(read.check(), Ok(()), "{selector}");
        }
    }

    #[test]
    fn a_term_with_too_many_or_too_few_values_is_refused_by_its_path() {
        for (operator, values, field) in [
            ("In", json!([]), "matchExpressions[1].values"),
            ("NotIn", json!([]), "matchExpressions[1].values"),
            ("Exists", json!(["a"]), "matchExpressions[1].values"),
            ("DoesNotExist", json!(["a"]), "matchExpressions[1].values"),
        ] {
            let selector = json!({"matchExpressions": [
                {"key": "a", "operator": "Exists"}, {"key": "b", "operator": operator, "values": values},
            ]});
            let read: LabelSelector = serde_json::from_value(selector).unwrap();
            let (path, message) = read.check().unwrap_err();
            assert_eq!(path, field, "{message}");
            assert!(message.contains(operator), "{message}");
        }
        let unknown = json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
        assert!(serde_json::from_value::<LabelSelector>(unknown).is_err());
    }
}
