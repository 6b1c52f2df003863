//! The text of one file -> the objects in it, each with its faults and its lines.

mod decode;
mod json;
mod node;
mod object;
mod path;
pub(crate) mod say;
mod single;
mod yaml;

use std::sync::Arc;

use headwater_model::cluster::Object;
use headwater_model::finding::{Finding, Location};
use headwater_model::origin::ObjectKey;

pub(crate) use self::decode::decode_known;
pub(crate) use self::object::Typed;
use self::object::UnknownFields;
pub(crate) use self::path::LineTable;
pub use self::single::{ObjectReading, read_object};

/// How a file's text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    Yaml,
    Json,
}

/// One object as it stands in a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Manifest {
    /// `None` where a fault hides which object it is.
    pub(crate) key: Option<ObjectKey>,
    /// `None` where the object is refused.
    pub(crate) object: Option<Object>,
    pub(crate) line: u32,
    pub(crate) lines: Arc<LineTable>,
    pub(crate) findings: Vec<Finding>,
}

/// A manifest of a kind that Headwater does not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) kind: Box<str>,
    pub(crate) api_version: Box<str>,
    pub(crate) line: u32,
}

/// Everything in one file, in its order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FileReading {
    pub(crate) manifests: Vec<Manifest>,
    pub(crate) unread: Vec<Unread>,
}

/// The one JSON value of a text.
///
/// # Errors
/// Why it is not JSON, or not one value.
pub(crate) fn read_json(text: &str) -> Result<node::Node, node::SyntaxError> {
    let mut documents = json::parse(text)?.into_iter();
    match (documents.next(), documents.next()) {
        (Some(document), None) => Ok(document),
        _ => Err(node::SyntaxError::new(1, "not one JSON value")),
    }
}

/// Reads the text of one file.
///
/// # Errors
/// The finding that tells why the text as a whole is neither YAML nor JSON.
pub(crate) fn read(file: &Arc<str>, syntax: Syntax, text: &str) -> Result<FileReading, Box<Finding>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = match syntax {
        Syntax::Json => json::parse(text),
        // Most YAML is no JSON, and some JSON is no YAML (tabs, surrogates).
        Syntax::Yaml if text.trim_start().starts_with('{') => json::parse(text).or_else(|_| yaml::parse(text)),
        Syntax::Yaml => yaml::parse(text),
    };
    let documents = documents.map_err(|error| {
        let location = Location { file: file.clone(), line: error.line };
        let reason = if syntax == Syntax::Json { "InvalidJson" } else { "InvalidYaml" };
        Box::new(say::error(reason, location, error.message))
    })?;
    let mut reading = FileReading::default();
    for document in &documents {
        object::read(file, document, UnknownFields::Refuse, &mut reading);
    }
    Ok(reading)
}
