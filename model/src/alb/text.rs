//! Values that the ALB resources write as text: switches, quantities, times, JSON, references.

use std::fmt;
use std::time::Duration;

use serde::de::{DeserializeOwned, Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::origin::NamespacedName;

/// A switch that the API writes as the text `"true"` or `"false"`, in any case; a boolean is taken as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoolText(pub bool);

impl Serialize for BoolText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0 { "true" } else { "false" })
    }
}

impl<'de> Deserialize<'de> for BoolText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Switch;
        impl Visitor<'_> for Switch {
            type Value = BoolText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"true\" or \"false\"")
            }
            fn visit_bool<E>(self, value: bool) -> Result<BoolText, E> {
                Ok(BoolText(value))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<BoolText, E> {
                match text.to_ascii_lowercase().as_str() {
                    "true" => Ok(BoolText(true)),
                    "false" => Ok(BoolText(false)),
                    _ => Err(E::custom(format_args!("\"{text}\" is neither \"true\" nor \"false\""))),
                }
            }
        }
        deserializer.deserialize_any(Switch)
    }
}

/// JSON within a string, read. An empty string stands for the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JsonText<T>(pub T);

impl<T: Serialize> Serialize for JsonText<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&serde_json::to_string(&self.0).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de, T: DeserializeOwned + Default> Deserialize<'de> for JsonText<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let value: Value =
            serde_json::from_str(&text).map_err(|error| D::Error::custom(format_args!("not JSON: {error}")))?;
        super::parse(&value).map(Self).map_err(|error| D::Error::custom(format_args!("in its JSON: {error}")))
    }
}

/// A range of ports, both ends included; written `"113-333"` or `"8080"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// At least 1.
    pub first: u16,
    /// At least `first`.
    pub last: u16,
}

impl PortRange {
    /// Whether the port lies in the range.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Reads `113-333` or `8080`; `None` for anything else, port 0 and ends in the wrong order among it.
    pub fn parse(text: &str) -> Option<Self> {
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        (first <= last).then_some(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = number_or_text(deserializer, "a port or a range of ports")?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format_args!("\"{text}\" is not a port or a range of ports (try \"8000-9000\")"))
        })
    }
}

/// An amount of CPU or memory as Kubernetes writes it: `2`, `"200m"`, `"1.5Gi"`, `"1e3"`.
///
/// Kept as written, since it is handed on; [`Quantity::parse`] has made sure that it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity(String);

/// Longest quantity that is read, in bytes.
const MAX_QUANTITY: usize = 64;

impl Quantity {
    /// Reads an amount that is not negative; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        scaled(text).map(|_| Self(text.to_owned()))
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whole units, rounded up: `200m` is 1, `1Ki` is 1024. [`u64::MAX`] for what is more.
    pub fn ceil(&self) -> u64 {
        scaled(&self.0).unwrap_or(0)
    }
}

/// Value of a quantity (`k8s.io/apimachinery` `resource.Quantity`) in whole units, rounded up.
fn scaled(text: &str) -> Option<u64> {
    if text.len() > MAX_QUANTITY {
        return None;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let binary = |power: i32| (2_u32, power * 10);
    let decimal = |power: i32| (10_u32, power);
    let (base, power) = match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            decimal(exponent.clamp(-100, 100))
        }
    };
    // value = mantissa * base^power / 10^fraction.len(); what is beyond a fraction's 18th digit only rounds up.
    let fraction = fraction.trim_end_matches('0');
    let kept = &fraction[..fraction.len().min(18)];
    let mantissa = [whole, kept].concat();
    let mantissa = match mantissa.trim_start_matches('0') {
        "" => 0,
        digits => digits.parse::<u128>().unwrap_or(u128::MAX),
    };
    let mantissa = mantissa.saturating_add(u128::from(kept.len() < fraction.len()));
    if mantissa == 0 {
        return Some(0);
    }
    let raise = |base: u32, power: u32| u128::from(base).checked_pow(power);
    let up = if power > 0 { raise(base, power.unsigned_abs()) } else { Some(1) };
    let down = if power < 0 { raise(base, power.unsigned_abs()) } else { Some(1) };
    let down = down.and_then(|down| down.checked_mul(raise(10, u32::try_from(kept.len()).ok()?)?));
    Some(match (up.and_then(|up| mantissa.checked_mul(up)), down) {
        (Some(value), Some(down)) => u64::try_from(value.div_ceil(down)).unwrap_or(u64::MAX),
        // Divided by more than fits: less than one unit, and more than none.
        (Some(_), None) => 1,
        (None, _) => u64::MAX,
    })
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Reads an amount of which `"0"`, 0 and an empty text mean that none is written.
pub(super) fn optional_quantity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Quantity>, D::Error> {
    let text = number_or_text(deserializer, "an amount such as 2, \"200m\" or \"1Gi\"")?;
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    Quantity::parse(&text).map(Some).ok_or_else(|| {
        D::Error::custom(format_args!("\"{text}\" is not an amount (try 2, \"200m\", \"128Mi\" or \"1Gi\")"))
    })
}

/// A text, or a whole number as its digits.
fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D, expecting: &'static str) -> Result<String, D::Error> {
    struct Either(&'static str);
    impl Visitor<'_> for Either {
        type Value = String;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
        fn visit_u64<E>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_i64<E>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
    }
    deserializer.deserialize_any(Either(expecting))
}

/// A text; an empty one counts as absent.
pub(super) fn filled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Some(String::deserialize(deserializer)?).filter(|text| !text.is_empty()))
}

/// A time of nginx's configuration: `75` and `75s` are seconds, then `ms`, `m`, `h`, `d`, `w`, and sums as `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NginxTime(pub Duration);

impl NginxTime {
    /// Reads a time; `None` for anything else, and for more than a year.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim();
        let mut total: u64 = 0;
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, tail) = tail.split_at(letters);
            let factor: u64 = match unit {
                "ms" => 1,
                "s" => 1_000,
                // A bare number is the last of a sum.
                "" if tail.is_empty() => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                "w" => 7 * 86_400_000,
                _ => return None,
            };
            total = number.parse::<u64>().ok()?.checked_mul(factor)?.checked_add(total)?;
            rest = tail.trim_start();
        }
        (total <= 366 * 86_400_000).then(|| Self(Duration::from_millis(total)))
    }
}

impl Serialize for NginxTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", self.0.as_millis()))
    }
}

/// Reads a time of which an empty text means that none is written.
pub(super) fn optional_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NginxTime>, D::Error> {
    let Some(text) = filled(deserializer)? else { return Ok(None) };
    NginxTime::parse(&text)
        .map(Some)
        .ok_or_else(|| D::Error::custom(format_args!("\"{text}\" is not a time (try \"30s\", \"5m\" or \"1h30m\")")))
}

/// Reads the name of a TLS Secret, `namespace/name` or `namespace_name`; empty: none.
pub(super) fn certificate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NamespacedName>, D::Error> {
    let Some(text) = filled(deserializer)? else { return Ok(None) };
    parse_certificate_name(&text)
        .map(Some)
        .ok_or_else(|| D::Error::custom(format_args!("\"{text}\" is not a certificate (write \"namespace/secret\")")))
}

/// Reads `namespace/name` or `namespace_name`; `None` for anything else.
///
/// Neither part may hold an underscore (RFC 1123), so that the first one divides them.
pub fn parse_certificate_name(text: &str) -> Option<NamespacedName> {
    if text.contains('/') {
        return NamespacedName::parse(text);
    }
    let (namespace, name) = text.split_once('_')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains('_')).then(|| NamespacedName::new(namespace, name))
}

/// Writes a certificate as `namespace/name`.
pub(super) fn write_certificate<S: Serializer>(
    name: &Option<NamespacedName>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match name {
        Some(name) => serializer.collect_str(name),
        None => serializer.serialize_none(),
    }
}

/// One key of a ConfigMap, written `namespace/name#key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigMapKey {
    pub config_map: NamespacedName,
    pub key: String,
}

impl ConfigMapKey {
    /// Reads `namespace/name#key`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (config_map, key) = text.split_once('#')?;
        let config_map = NamespacedName::parse(config_map)?;
        (!key.is_empty()).then(|| Self { config_map, key: key.to_owned() })
    }
}

impl Serialize for ConfigMapKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}#{}", self.config_map, self.key))
    }
}

/// Reads a key of a ConfigMap of which an empty text means that none is written.
pub(super) fn optional_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ConfigMapKey>, D::Error> {
    let Some(text) = filled(deserializer)? else { return Ok(None) };
    ConfigMapKey::parse(&text).map(Some).ok_or_else(|| {
        D::Error::custom(format_args!("\"{text}\" is not a key of a ConfigMap (write \"namespace/name#key\")"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_switch_is_true_or_false_as_text_or_as_boolean_and_nothing_else() {
        for (value, expected) in [
            (json!("true"), true),
            (json!("TRUE"), true),
            (json!("False"), false),
            (json!(true), true),
            (json!(false), false),
        ] {
            assert_eq!(serde_json::from_value::<BoolText>(value).unwrap(), BoolText(expected));
        }
        for value in [json!("yes"), json!(""), json!("1"), json!(1), json!([])] {
            assert!(serde_json::from_value::<BoolText>(value.clone()).is_err(), "{value}");
        }
    }

    #[test]
    fn a_quantity_is_read_as_kubernetes_reads_it() {
        let most = u64::MAX;
        #[rustfmt::skip]
        let cases = [
            ("0", 0), ("0.0", 0), ("2", 2), ("+2", 2), ("2000m", 2), ("200m", 1), ("2001m", 3), ("1u", 1), ("1n", 1),
            ("1.5", 2), (".5", 1), ("1.", 1), ("1k", 1_000), ("1Ki", 1_024), ("1.5Gi", 3 << 29), ("2Gi", 2 << 30),
            ("1e3", 1_000), ("1E3", 1_000), ("1500e-3", 2), ("1E", 1_000_000_000_000_000_000), ("15Ei", 15 << 60),
            ("16Ei", most), ("1e100", most), ("1e-100", 1), ("99999999999999999999999999999999999999999999", most),
            ("0.00000000000000000000000000000000000000000001", 1), ("1.0000000000000000000000000000000000000000", 1),
            ("1.0000000000000000000000000000000000000001", 2), ("1e999999999", most),
        ];
        for (text, units) in cases {
            assert_eq!(Quantity::parse(text).unwrap().ceil(), units, "{text}");
        }
        let long = "1".repeat(65);
        for text in
            ["", ".", "m", "-1", "1 Gi", "1gi", "1K", "1.2.3", "1e", "1e1.5", "x", "0x1", "1e99999999999", &long]
        {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_time_is_read_as_nginx_reads_it() {
        let cases =
            [("75", 75_000), ("75s", 75_000), ("30m", 1_800_000), ("1h30m", 5_400_000), ("1m 5", 65_000), ("5ms", 5)];
        for (text, millis) in cases {
            assert_eq!(NginxTime::parse(text), Some(NginxTime(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "s", "-1", "1x", "5 5", "1.5s", "99999w", "99999999999999999999", "18446744073709551615s"] {
            assert_eq!(NginxTime::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_port_range_has_its_ends_in_order() {
        for (text, first, last) in [("113-333", 113, 333), ("80", 80, 80), (" 1 - 65535 ", 1, 65_535)] {
            assert_eq!(PortRange::parse(text), Some(PortRange { first, last }), "{text}");
        }
        for text in ["", "-", "0", "0-1", "2-1", "1-65536", "1-2-3", "a"] {
            assert_eq!(PortRange::parse(text), None, "{text}");
        }
        let range = PortRange { first: 2, last: 4 };
        assert_eq!([1, 2, 4, 5].map(|port| range.contains(port)), [false, true, true, false]);
    }

    #[test]
    fn a_certificate_is_named_in_either_spelling() {
        let name = NamespacedName::new("cpaas-system", "dex.tls");
        assert_eq!(parse_certificate_name("cpaas-system/dex.tls"), Some(name.clone()));
        assert_eq!(parse_certificate_name("cpaas-system_dex.tls"), Some(name));
        for text in ["dex.tls", "/dex", "_dex", "a/", "a_", "a/b/c", "a_b_c"] {
            assert_eq!(parse_certificate_name(text), None, "{text}");
        }
    }
}
