//! One object as an API server sends it.

use std::sync::Arc;

use headwater_model::cluster::Object;
use headwater_model::finding::{Finding, Location};
use headwater_model::origin::ObjectKey;

use super::object::{self, UnknownFields};
use super::{FileReading, json, say};

/// Most values of one object: 20 MiB while it is read. The largest that etcd keeps, 1.5 MiB, has fewer, unless it was
/// made to have more.
const MAX_VALUES: usize = 250_000;

/// What became of one object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObjectReading {
    /// `None` where a fault hides which object it is, or nothing is known of its kind.
    pub key: Option<ObjectKey>,
    /// `None` where the object is refused.
    pub object: Option<Object>,
    /// What is wrong with its form; without locations.
    pub findings: Vec<Finding>,
    /// `kind (apiVersion)` of an object that Headwater does not read.
    pub unread: Option<String>,
}

/// Reads one object in JSON, as strictly as a manifest, but for one thing: a field that a kind of Kubernetes itself does
/// not have is a warning, and the rest of the object counts, since the server that sent it may be newer.
///
/// Nothing is rendered, loaded or run. Depth (128) and number of values (250,000) are limited; size is the caller's.
pub fn read_object(json: &[u8]) -> ObjectReading {
    let file: Arc<str> = Arc::from("");
    let refused = |line, message: String| {
        let mut finding = say::error("InvalidJson", Location { file: file.clone(), line }, message);
        finding.location = None;
        ObjectReading { findings: vec![finding], ..ObjectReading::default() }
    };
    let Ok(text) = std::str::from_utf8(json) else {
        return refused(1, "not JSON: not UTF-8".to_owned());
    };
    let documents = match json::parse_at_most(text, MAX_VALUES) {
        Ok(documents) => documents,
        Err(error) => return refused(error.line, error.message),
    };
    let [document] = &documents[..] else {
        return refused(1, format!("{} objects where one is due", documents.len()));
    };
    let mut reading = FileReading::default();
    object::read(&file, document, UnknownFields::Skip, &mut reading);
    if reading.manifests.len() + reading.unread.len() != 1 {
        return refused(1, "a list where one object is due".to_owned());
    }
    if let Some(unread) = reading.unread.pop() {
        let unread = Some(format!("{} ({})", unread.kind, unread.api_version));
        return ObjectReading { unread, ..ObjectReading::default() };
    }
    let Some(manifest) = reading.manifests.pop() else { return ObjectReading::default() };
    let mut findings = manifest.findings;
    for finding in &mut findings {
        finding.location = None;
    }
    ObjectReading { key: manifest.key, object: manifest.object, findings, unread: None }
}
