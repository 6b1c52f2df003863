//! Community (`metallb.io/v1beta1`): names for communities of BGP routes (RFC 1997, RFC 8092).

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Fault;
use crate::object::{Ignored, Metadata};

/// A Community as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Community {
    #[serde(default)]
    pub api_version: Ignored,
    #[serde(default)]
    pub kind: Ignored,
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: CommunitySpec,
    #[serde(default)]
    pub status: Ignored,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CommunitySpec {
    /// Names that BGPAdvertisements may use.
    #[serde(default)]
    pub communities: Vec<CommunityAlias>,
}

/// One name for a community.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CommunityAlias {
    /// The name.
    #[serde(default)]
    pub name: String,
    /// What it stands for: 64512:7 or large:64512:7:9.
    pub value: Option<CommunityValue>,
}

impl CommunitySpec {
    /// What no Community may say.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (index, alias) in self.communities.iter().enumerate() {
            let field = |name: &str| format!("spec.communities[{index}].{name}");
            if alias.value.is_none() {
                faults.push(Fault::new(field("value"), "required field is missing"));
            }
            if self.communities[..index].iter().any(|other| other.name == alias.name) {
                faults.push(Fault::new(field("name"), format!("duplicate definition of community \"{}\"", alias.name)));
            }
        }
        faults
    }
}

/// A community of routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommunityValue {
    /// RFC 1997: the number of an AS, and what it means there.
    Standard(u16, u16),
    /// RFC 8092: the number of an AS, and what it means there.
    Large(u32, u32, u32),
}

impl CommunityValue {
    /// Reads `64512:7` or `large:64512:7:9`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        fn number<T: std::str::FromStr>(digits: &str) -> Option<T> {
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
        }
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            ["large", a, b, c] => Some(Self::Large(number(a)?, number(b)?, number(c)?)),
            [a, b] => Some(Self::Standard(number(a)?, number(b)?)),
            _ => None,
        }
    }
}

impl fmt::Display for CommunityValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(a, b) => write!(f, "{a}:{b}"),
            Self::Large(a, b, c) => write!(f, "large:{a}:{b}:{c}"),
        }
    }
}

impl Serialize for CommunityValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CommunityValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            let why = "is not a community (try \"64512:7\" or \"large:64512:7:9\")";
            D::Error::custom(format_args!("\"{text}\" {why}"))
        })
    }
}

/// A community as a BGPAdvertisement names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommunityRef {
    Value(CommunityValue),
    /// The name of a [`CommunityAlias`].
    Alias(String),
}

impl fmt::Display for CommunityRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => value.fmt(f),
            Self::Alias(name) => f.write_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for CommunityRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match CommunityValue::parse(&text) {
            Some(value) => Self::Value(value),
            // A word with a colon may be a name, for MetalLB too: whether it is one is known where all names are.
            None => Self::Alias(text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_two_numbers_of_16_bits_or_three_of_32() {
        for (text, value) in [
            ("64512:7", Some(CommunityValue::Standard(64512, 7))),
            ("0:65535", Some(CommunityValue::Standard(0, 65535))),
            ("large:4294967295:0:1", Some(CommunityValue::Large(u32::MAX, 0, 1))),
            ("65536:1", None),
            ("1:2:3", None),
            ("1", None),
            ("+1:2", None),
            (":2", None),
            ("large:1:2", None),
            ("large:1:2:4294967296", None),
            ("large:1:2:3:4", None),
            ("", None),
        ] {
            assert_eq!(CommunityValue::parse(text), value, "{text}");
            assert_eq!(value.map(|value| value.to_string()), value.map(|_| text.to_owned()));
        }
    }

    #[test]
    fn a_name_twice_in_one_object_is_told() {
        let spec: CommunitySpec = serde_json::from_str(
            r#"{"communities": [{"name": "a", "value": "1:2"}, {"name": "b"}, {"name": "a", "value": "1:3"}]}"#,
        )
        .unwrap();
        let fields: Vec<String> = spec.faults().into_iter().map(|fault| fault.field).collect();
        assert_eq!(fields, ["spec.communities[1].value", "spec.communities[2].name"]);
    }
}
