//! Values that MetalLB's resources write as text.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A text that is there and not empty.
pub(super) fn filled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Some(String::deserialize(deserializer)?).filter(|text| !text.is_empty()))
}

/// An address; an empty text is none.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    let Some(text) = filled(deserializer)? else { return Ok(None) };
    let address = text.parse().map(Some);
    address.map_err(|_| D::Error::custom(format_args!("\"{text}\" is not an IP address")))
}

/// An address of IPv4; an empty text is none.
pub(super) fn router_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ipv4Addr>, D::Error> {
    let Some(text) = filled(deserializer)? else { return Ok(None) };
    let address = text.parse().map(Some);
    address.map_err(|_| D::Error::custom(format_args!("\"{text}\" is not an IPv4 address")))
}

/// A duration in Go's words; an empty text is none.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let Some(text) = filled(deserializer)? else { return Ok(None) };
    let read = parse_duration(&text).map(Some);
    read.ok_or_else(|| D::Error::custom(format_args!("\"{text}\" is not a duration (try \"90s\")")))
}

/// Reads `90s`, `1m30s`, `1.5s`, `250ms`, `0`, as Go's `time.ParseDuration` does; negative ones are refused.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|end| *end > 0)?;
        let (digits, after) = rest.split_at(number);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let nanoseconds: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let read = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u64>().ok() };
        total += u128::from(read(whole)?) * nanoseconds;
        // Beyond nine digits nothing is left of a fraction of an hour that a timer could tell.
        let fraction: String = fraction.chars().take(9).collect();
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        total += u128::from(read(&fraction)?) * nanoseconds / scale;
        rest = after;
    }
    // Go counts nanoseconds in 63 bits.
    let nanoseconds = i64::try_from(total).ok().filter(|_| !text.is_empty())?;
    Some(Duration::from_nanos(nanoseconds.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, milliseconds) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("90s", Some(90_000)),
            ("1m30s", Some(90_000)),
            ("1.5s", Some(1500)),
            (".5s", Some(500)),
            ("+3s", Some(3000)),
            ("1h0m0.25s", Some(3_600_250)),
            ("250ms", Some(250)),
            ("1000us", Some(1)),
            ("", None),
            ("90", None),
            ("s", None),
            (".s", None),
            ("-3s", None),
            ("3 s", None),
            ("1.2.3s", None),
            ("99999999999999999999h", None),
            ("9223372037s", None),
            ("3d", None),
        ] {
            assert_eq!(parse_duration(text), milliseconds.map(Duration::from_millis), "{text}");
        }
    }
}
