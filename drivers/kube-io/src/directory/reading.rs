//! A directory, or one text, read once.

use std::path::PathBuf;
use std::sync::Arc;

use headwater_model::cluster::Object;
use headwater_model::finding::{Finding, Location};
use headwater_model::origin::ObjectKey;

use super::scan::{Look, Scanner};
use super::store::{FileUpdate, Store, UnknownKind};
use super::walk::syntax_of;
use crate::manifest::{self, Syntax};

/// Everything that manifests say, once.
#[derive(Debug)]
pub struct Reading {
    /// With the file and line where each begins; by key.
    pub objects: Vec<(Object, Location)>,
    /// By file and line.
    pub findings: Vec<Finding>,
    pub unknown_kinds: Vec<UnknownKind>,
    store: Store,
}

impl Reading {
    fn new(store: Store) -> Self {
        Self {
            objects: store.objects().map(|(object, location)| (object.clone(), location)).collect(),
            findings: store.findings(),
            unknown_kinds: store.unknown_kinds(),
            store,
        }
    }

    /// As [`DirectorySource::locate`](super::DirectorySource::locate).
    pub fn locate(&self, key: &ObjectKey, field: &str) -> Option<Location> {
        self.store.locate(key, field)
    }
}

/// Reads the manifests below a directory, or one file. Files are named by their path below it.
///
/// Whatever cannot be read is a finding.
pub fn read_dir(path: impl Into<PathBuf>) -> Reading {
    let mut store = Store::default();
    let sight = Scanner::new(path.into(), None).look(&Look { all: true, ..Look::default() });
    store.apply(sight.updates, sight.notes);
    Reading::new(store)
}

/// Reads manifests from a text, YAML (or JSON if `name` ends so, or if the text is).
pub fn read_str(name: &str, text: &str) -> Reading {
    let file: Arc<str> = name.into();
    let update = match manifest::read(&file, syntax_of(name).unwrap_or(Syntax::Yaml), text) {
        Ok(reading) => FileUpdate::Read(reading),
        Err(finding) => FileUpdate::Broken(*finding),
    };
    let mut store = Store::default();
    store.apply(vec![(file, update)], None);
    Reading::new(store)
}

/// Reads any bytes as YAML and as JSON, and looks up what came out. For fuzzers: it must return.
pub fn fuzz_read(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for name in ["fuzz.yaml", "fuzz.json"] {
        let reading = read_str(name, &text);
        for (object, _) in &reading.objects {
            assert!(reading.locate(&object.key(), &text).is_some(), "an object that was read has a place");
        }
        for finding in &reading.findings {
            assert!(!finding.to_string().contains('\n'), "a finding is one line");
        }
    }
}
