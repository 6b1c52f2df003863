//! Faults -> findings: what is wrong, in the reader's words, and what to do about it.

use headwater_model::finding::{Finding, Location, Severity};
use headwater_model::origin::{Kind, ObjectKey};

use super::decode::{Fault, Found, What};

/// Longest piece of a value that a finding quotes, in characters.
const MAX_QUOTED: usize = 80;

/// Whether the values of an object may be quoted. Those of a Secret may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quote {
    Values,
    Nothing,
}

impl Quote {
    pub(crate) fn of(kind: Kind) -> Self {
        if kind == Kind::Secret { Self::Nothing } else { Self::Values }
    }
}

pub(crate) fn error(reason: &'static str, location: Location, message: impl Into<String>) -> Finding {
    Finding {
        severity: Severity::Error,
        reason,
        object: None,
        location: Some(location),
        field: String::new(),
        message: message.into(),
        mend: String::new(),
    }
}

pub(crate) fn finding(fault: Fault, quote: Quote, object: Option<&ObjectKey>, location: Location) -> Finding {
    let (reason, message, mend) = match fault.what {
        What::Unknown { known } => ("UnknownField", "unknown field".to_owned(), mend_unknown(&fault.path, known)),
        What::Duplicate { first } => {
            ("DuplicateKey", format!("this key stands here a second time, first in line {first}"), String::new())
        }
        What::Missing => ("MissingField", "required field is missing".to_owned(), String::new()),
        What::Type { found, expected } => type_fault(&found, &expected, quote),
        What::Variant { found, expected } => variant_fault(&found, expected, quote),
        What::Refused { found, message } => refused(&found, message, quote, &fault.path),
    };
    let mut finding = error(reason, location, message).at(fault.path).mend(mend);
    finding.object = object.cloned();
    finding
}

fn type_fault(found: &Found, expected: &str, quote: Quote) -> (&'static str, String, String) {
    let wants_text = expected.starts_with("a string") || expected.contains("string");
    let (wanted, number_range) = wanted(expected);
    let shown = show(found, quote);
    let value_fits = match found {
        Found::Text(text) => number_range && text.parse::<i64>().is_ok(),
        _ => false,
    };
    let mend = match found {
        Found::Bool(written) | Found::Number(written) if wants_text => quotes(written, quote),
        Found::Text(_) if value_fits => "remove the quotes".to_owned(),
        Found::Mapping if wanted == "a list" => "begin each entry with \"- \"".to_owned(),
        _ => String::new(),
    };
    match found {
        Found::Number(_) if number_range => ("InvalidValue", format!("{shown} is not {wanted}"), mend),
        _ => ("WrongType", format!("{shown} is {}, not {wanted}", noun(found)), mend),
    }
}

fn variant_fault(found: &Found, expected: &[&str], quote: Quote) -> (&'static str, String, String) {
    let list = expected.join(", ");
    let one_of = if expected.len() == 1 { list } else { format!("one of {list}") };
    let shown = show(found, quote);
    match found {
        Found::Text(text) => {
            let mend = nearest(text, expected).map(|near| format!("did you mean \"{near}\"?")).unwrap_or_default();
            ("InvalidValue", format!("{shown} is not {one_of}"), mend)
        }
        Found::Bool(written) | Found::Number(written) => {
            let mend = if expected.contains(&written.as_str()) { quotes(written, quote) } else { String::new() };
            ("WrongType", format!("{shown} is {}, not {one_of}", noun(found)), mend)
        }
        _ => ("WrongType", format!("{shown} is {}, not {one_of}", noun(found)), String::new()),
    }
}

fn refused(found: &Found, message: String, quote: Quote, path: &str) -> (&'static str, String, String) {
    if quote == Quote::Nothing {
        let message = if path.starts_with("data") {
            "not base64 (plain text belongs under stringData)"
        } else {
            "not valid here (values of Secrets are not shown)"
        };
        return ("InvalidValue", message.to_owned(), String::new());
    }
    let shown = show(found, quote);
    if path == "metadata.creationTimestamp" {
        let message = format!("{shown} is not a time of RFC 3339 (try \"2025-01-31T12:00:00Z\")");
        return ("InvalidValue", message, String::new());
    }
    let message = match message.rsplit_once("any variant of untagged enum ") {
        Some((_, "IntOrString")) => format!("{shown} is neither a port number (0 to 65535) nor a name"),
        Some((_, "NumberOrText")) => format!("{shown} is neither a number nor a size (try 1048576 or \"1Mi\")"),
        Some(_) => format!("{shown} does not fit here"),
        // A parser that quotes the value needs no help; others say only what is wrong with it.
        None if matches!(found, Found::Text(text) if !message.contains(text.as_str())) => {
            format!("{shown}: {}", clip(&message))
        }
        None => clip(&message),
    };
    ("InvalidValue", message, String::new())
}

/// serde's word for what a field takes -> ours, and whether that is a number.
fn wanted(expected: &str) -> (&str, bool) {
    match expected {
        "a sequence" => ("a list", false),
        "a boolean" => ("true or false", false),
        "u8" => ("a number from 0 to 255", true),
        "u16" => ("a number from 0 to 65535", true),
        "u32" => ("a number from 0 to 4294967295", true),
        "u64" | "usize" => ("a whole number from 0", true),
        "i32" | "i64" | "i128" | "u128" => ("a whole number", true),
        "a map" => ("a mapping", false),
        other if other.starts_with("struct ") => ("a mapping", false),
        other if other.contains("string") => ("a string", false),
        other => (other, false),
    }
}

fn noun(found: &Found) -> &'static str {
    match found {
        Found::Null => "nothing",
        Found::Bool(_) => "a boolean",
        Found::Number(_) => "a number",
        Found::Text(_) => "a string",
        Found::List => "a list",
        Found::Mapping => "a mapping",
    }
}

fn show(found: &Found, quote: Quote) -> String {
    match found {
        Found::Bool(written) | Found::Number(written) if quote == Quote::Values => clip(written),
        Found::Text(text) if quote == Quote::Values => format!("\"{}\"", clip(text)),
        Found::Null => "null".to_owned(),
        _ => "this".to_owned(),
    }
}

fn quotes(written: &str, quote: Quote) -> String {
    match quote {
        Quote::Values => format!("put it in quotes: \"{}\"", clip(written)),
        Quote::Nothing => "put it in quotes".to_owned(),
    }
}

/// One line, not too long, nothing that a terminal would obey.
pub(crate) fn clip(text: &str) -> String {
    let mut clipped: String =
        text.chars().take(MAX_QUOTED).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        clipped.push_str("...");
    }
    clipped
}

fn mend_unknown(path: &str, known: &[&str]) -> String {
    let name = path.rsplit(['.', '[', ']']).find(|part| !part.is_empty()).unwrap_or_default();
    match nearest(name, known) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if known.len() <= 6 => format!("known here: {}", known.join(", ")),
        None => "remove it, or move it to where it belongs".to_owned(),
    }
}

/// The known name that a typing error may have made this of: at most a third of its letters away.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > 64 {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    known
        .iter()
        .map(|candidate| (distance(&lower, &candidate.to_ascii_lowercase()), *candidate))
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two short texts (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = a[i - 1] == b[j - 1];
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + usize::from(!same));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let known = ["host", "http", "path", "pathType", "backend", "ingressClassName"];
        for (name, near) in [
            ("hsot", Some("host")),
            ("Host", Some("host")),
            ("pathtype", Some("pathType")),
            ("ingressClass", Some("ingressClassName")),
            ("backends", Some("backend")),
            ("replicas", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, &known), near, "{name}");
        }
    }

    #[test]
    fn quoted_values_are_short_and_harmless() {
        assert_eq!(clip("a\x1b[31m\nb"), "a\u{fffd}[31m\u{fffd}b");
        assert_eq!(clip(&"x".repeat(1000)).len(), 83);
    }
}
