//! `rewrite-request` and `rewrite-response`: edits of headers, as JSON.

use std::collections::BTreeMap;

use headwater_model::gateway::{EditValue, HeaderEdits, Variable};
use serde::Deserialize;
use thiserror::Error;

/// Most lines of one annotation.
const MAX_EDITS: usize = 64;

/// Longest value of a line.
const MAX_VALUE: usize = 4096;

/// Why the edits cannot be made.
#[derive(Debug, Error)]
pub(crate) enum RewriteError {
    #[error("not the JSON of header edits: {0}")]
    Json(serde_json::Error),
    #[error("{0:?} is not a name of a header")]
    Name(String),
    #[error("the value of header {0} is longer than {MAX_VALUE} bytes, or has a control character")]
    Value(String),
    #[error("header {0} belongs to the connection, or to the framing of messages, and cannot be edited")]
    Framing(String),
    #[error("{name:?} of header {header} is not a variable that a request has")]
    Variable { header: String, name: String },
    #[error("{0} edits are more than {MAX_EDITS}")]
    Many(usize),
}

/// The keys of both; a response has no variables.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    headers_var: BTreeMap<String, String>,
    #[serde(default)]
    headers_remove: Vec<String>,
    #[serde(default)]
    headers_add: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    headers_add_var: BTreeMap<String, Vec<String>>,
}

/// Reads the JSON. Besides the edits: names that the gateway writes itself, for which none is made.
///
/// Order of ALB: set, set from variables, remove, add, add from variables. A name that is removed is therefore not set.
///
/// # Errors
/// [`RewriteError`] for the first thing that is wrong.
pub(crate) fn parse(text: &str, is_request: bool) -> Result<(HeaderEdits, Vec<String>), RewriteError> {
    // An object: a list would be read as one, too.
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).map_err(RewriteError::Json)?;
    let written: Written = serde_json::from_value(object.into()).map_err(RewriteError::Json)?;
    let added = |lines: &BTreeMap<String, Vec<String>>| lines.values().map(Vec::len).sum::<usize>();
    let many = written.headers.len()
        + written.headers_var.len()
        + written.headers_remove.len()
        + added(&written.headers_add)
        + added(&written.headers_add_var);
    if many > MAX_EDITS {
        return Err(RewriteError::Many(many));
    }
    if let Some((header, variable)) = written.headers_var.iter().next().filter(|_| !is_request) {
        return Err(RewriteError::Variable { header: header.clone(), name: variable.clone() });
    }
    if let Some(header) = written.headers_add_var.keys().next().filter(|_| !is_request) {
        return Err(RewriteError::Variable { header: header.clone(), name: "headers_add_var".to_owned() });
    }
    let mut edits = HeaderEdits::default();
    let mut idle = Vec::new();
    let mut push = |to: &mut Vec<(Box<str>, EditValue)>, name: &str, value: EditValue| {
        let lower = name_of(name)?;
        if is_request && is_ours(&lower) {
            idle.push(lower);
        } else {
            to.push((lower.into(), value));
        }
        Ok::<(), RewriteError>(())
    };
    for (name, value) in &written.headers {
        push(&mut edits.set, name, text_of(name, value)?)?;
    }
    for (name, variable) in &written.headers_var {
        push(&mut edits.set, name, variable_of(name, variable)?)?;
    }
    for (name, values) in &written.headers_add {
        for value in values {
            push(&mut edits.add, name, text_of(name, value)?)?;
        }
    }
    for (name, variables) in &written.headers_add_var {
        for variable in variables {
            push(&mut edits.add, name, variable_of(name, variable)?)?;
        }
    }
    for name in &written.headers_remove {
        let lower = name_of(name)?;
        if is_request && is_ours(&lower) {
            idle.push(lower);
            continue;
        }
        edits.set.retain(|(set, _)| **set != *lower);
        edits.remove.push(lower.into());
    }
    idle.dedup();
    Ok((edits, idle))
}

fn name_of(name: &str) -> Result<String, RewriteError> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(token) {
        return Err(RewriteError::Name(name.chars().take(128).collect()));
    }
    let lower = name.to_ascii_lowercase();
    match &*lower.replace('_', "-") {
        "connection"
        | "content-length"
        | "http2-settings"
        | "keep-alive"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "proxy-connection"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade" => Err(RewriteError::Framing(lower)),
        _ => Ok(lower),
    }
}

fn text_of(name: &str, value: &str) -> Result<EditValue, RewriteError> {
    let clean = value.len() <= MAX_VALUE && !value.chars().any(|char| char.is_control() && char != '\t');
    let fits = clean.then(|| EditValue::Text(value.trim().into()));
    fits.ok_or_else(|| RewriteError::Value(name.to_owned()))
}

fn variable_of(header: &str, name: &str) -> Result<EditValue, RewriteError> {
    let variable = Variable::parse(name).map(EditValue::Variable);
    variable.ok_or_else(|| RewriteError::Variable { header: header.to_owned(), name: name.chars().take(100).collect() })
}

/// Headers towards endpoints that say who the client is and what it asked for.
fn is_ours(lower: &str) -> bool {
    let name = lower.replace('_', "-");
    name.starts_with("x-forwarded")
        || matches!(
            &*name,
            "forwarded" | "host" | "x-original-forwarded-for" | "x-real-ip" | "x-request-id" | "x-scheme"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(edits: &HeaderEdits) -> String {
        let line = |(name, value): &(Box<str>, EditValue)| match value {
            EditValue::Text(text) => format!("{name}={text}"),
            EditValue::Variable(variable) => format!("{name}=${variable}"),
        };
        let lines = |lines: &[(Box<str>, EditValue)]| lines.iter().map(line).collect::<Vec<_>>().join(" ");
        format!("-[{}] =[{}] +[{}]", edits.remove.join(" "), lines(&edits.set), lines(&edits.add))
    }

    #[test]
    fn edits_are_read_in_the_order_of_alb() {
        for (text, expected) in [
            (r#"{}"#, "-[] =[] +[]"),
            (r#"{"headers": {"A": "1"}, "headers_var": {"a": "http_host"}}"#, "-[] =[a=1 a=$http_host] +[]"),
            (r#"{"headers": {"a": "1", "b": "2"}, "headers_remove": ["A"]}"#, "-[a] =[b=2] +[]"),
            (
                r#"{"headers_add": {"a": ["1", "2"]}, "headers_add_var": {"a": ["cookie_a"]}}"#,
                "-[] =[] +[a=1 a=2 a=$cookie_a]",
            ),
        ] {
            let (edits, idle) = parse(text, true).unwrap();
            assert_eq!((shown(&edits), idle), (expected.to_owned(), vec![]), "{text}");
        }
        let hsts = r#"{"headers": {"Strict-Transport-Security": "max-age=63072000; includeSubDomains; preload"}}"#;
        let (edits, _) = parse(hsts, false).unwrap();
        assert_eq!(shown(&edits), "-[] =[strict-transport-security=max-age=63072000; includeSubDomains; preload] +[]");
    }

    #[test]
    fn what_the_gateway_writes_itself_is_told_and_left_out() {
        let text =
            r#"{"headers": {"X-Real-IP": "1"}, "headers_remove": ["x_forwarded_for"], "headers_var": {"y": "host"}}"#;
        let (edits, idle) = parse(text, true).unwrap();
        assert_eq!(
            (shown(&edits), idle),
            ("-[] =[y=$host] +[]".to_owned(), vec!["x-real-ip".to_owned(), "x_forwarded_for".to_owned()])
        );
    }

    #[test]
    fn what_cannot_be_edited_is_refused_by_name() {
        for (text, is_request, named) in [
            ("[]", true, "JSON"),
            (r#"{"header": {}}"#, true, "header"),
            (r#"{"headers": {"a b": "1"}}"#, true, "a b"),
            (r#"{"headers": {"a": "1\r\nb: 2"}}"#, true, "header a"),
            (r#"{"headers": {"Content-Length": "1"}}"#, false, "content-length"),
            (r#"{"headers_remove": ["Transfer_Encoding"]}"#, true, "transfer_encoding"),
            (r#"{"headers_var": {"a": "upstream_addr"}}"#, true, "upstream_addr"),
            (r#"{"headers_var": {"a": "http_x_forwarded_for"}}"#, true, "http_x_forwarded_for"),
            (r#"{"headers_var": {"a": "host"}}"#, false, "host"),
        ] {
            let error = parse(text, is_request).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        let many: Vec<String> = (0..65).map(|index| format!("\"h{index}\"")).collect();
        assert!(parse(&format!("{{\"headers_remove\": [{}]}}", many.join(",")), true).is_err());
    }
}
