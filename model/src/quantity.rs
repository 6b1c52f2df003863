//! Durations and sizes as Kubernetes writes them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Why a text is not a duration or a size.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuantityError {
    #[error("\"{0}\" is not a duration (try \"5s\", \"1m30s\" or \"250ms\")")]
    Duration(String),
    #[error("\"{0}\" is not a size (try 1048576, \"64Ki\" or \"1Mi\")")]
    Size(String),
}

/// Reads a duration of GEP-2257 form: one or more of `<digits><h|m|s|ms>`, as `1m30s`; `0` alone is zero.
///
/// # Errors
/// [`QuantityError::Duration`] for anything else, and for more than 10 years.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let refused = || QuantityError::Duration(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 9 {
            return Err(refused());
        }
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| refused())?;
        let (unit, tail) = if let Some(tail) = tail.strip_prefix("ms") {
            (1, tail)
        } else if let Some(tail) = tail.strip_prefix('h') {
            (3_600_000, tail)
        } else if let Some(tail) = tail.strip_prefix('m') {
            (60_000, tail)
        } else if let Some(tail) = tail.strip_prefix('s') {
            (1_000, tail)
        } else {
            return Err(refused());
        };
        total = number.checked_mul(unit).and_then(|ms| total.checked_add(ms)).ok_or_else(refused)?;
        rest = tail;
    }
    if text.is_empty() || total > 10 * 365 * 86_400_000 {
        return Err(refused());
    }
    Ok(Duration::from_millis(total))
}

/// Reads a size in bytes: digits, or digits with `k`, `M`, `G`, `Ki`, `Mi`, `Gi` (Kubernetes resource quantities).
///
/// # Errors
/// [`QuantityError::Size`] for anything else.
pub fn parse_size(text: &str) -> Result<u64, QuantityError> {
    let refused = || QuantityError::Size(text.to_owned());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(refused()),
    };
    number.checked_mul(factor).ok_or_else(refused)
}

/// A duration field of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationText(pub Duration);

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl Serialize for DurationText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", self.0.as_millis()))
    }
}

/// A size field of a manifest, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SizeText(pub u64);

impl<'de> Deserialize<'de> for SizeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum NumberOrText {
            Number(u64),
            Text(String),
        }
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(bytes) => Ok(Self(bytes)),
            NumberOrText::Text(text) => parse_size(&text).map(Self).map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_gep_2257_says() {
        for (text, milliseconds) in
            [("0", 0), ("0s", 0), ("5s", 5_000), ("250ms", 250), ("1m30s", 90_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "5", "s", "5x", "-5s", "5 s", "1.5s", "9999999999s", "999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_as_resource_quantities() {
        for (text, bytes) in [("0", 0), ("1024", 1024), ("64Ki", 65_536), ("1Mi", 1 << 20), ("2k", 2_000)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "Ki", "-1", "1.5Mi", "64KB", "99999999999999999999"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
