//! What the files of a directory hold together: one object for each key, the last good version of each, all findings.
//!
//! Pure: files come in as readings, changes and findings go out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_model::cluster::{Change, Object};
use headwater_model::finding::{Finding, Location, Severity};
use headwater_model::origin::ObjectKey;

use super::given::{self, GivenAddresses};
use crate::manifest::{FileReading, LineTable, Manifest, Unread, say};

/// Most objects of one directory.
pub(crate) const MAX_OBJECTS: usize = 100_000;

/// Most findings told of one file; the rest is counted.
const MAX_FINDINGS_OF_FILE: usize = 100;

/// What became of one file.
#[derive(Debug)]
pub(crate) enum FileUpdate {
    Read(FileReading),
    /// The addresses that Services were given.
    Given(GivenAddresses),
    /// Not readable as a whole: what was read from it before stays.
    Broken(Finding),
    Gone,
}

/// A kind that manifests name and Headwater does not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKind {
    pub kind: Box<str>,
    pub api_version: Box<str>,
    /// Manifests of the kind.
    pub count: usize,
    pub first: Location,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    files: BTreeMap<Arc<str>, FileState>,
    /// Files with something to tell: faults, refused objects, unknown kinds.
    telling: BTreeSet<Arc<str>>,
    /// Who names a key, by path and then order within the file.
    claims: BTreeMap<ObjectKey, BTreeSet<Claim>>,
    /// Keys with more than one claim.
    contested: BTreeSet<ObjectKey>,
    held: BTreeMap<ObjectKey, Held>,
    given: GivenAddresses,
    count: usize,
    notes: Vec<Finding>,
}

#[derive(Debug, Default)]
struct FileState {
    manifests: Vec<Manifest>,
    /// How many of the manifests stand in the file; those behind are kept from before.
    own: usize,
    unread: Vec<Unread>,
    fault: Option<Finding>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    file: Arc<str>,
    index: usize,
}

/// The version of an object that counts.
#[derive(Debug)]
struct Held {
    /// With the addresses that it was given.
    object: Object,
    /// As it stands in the file.
    written: Object,
    claim: Claim,
    line: u32,
    lines: Arc<LineTable>,
    /// The manifest has a newer version, which is refused.
    stale: bool,
}

impl Store {
    /// Takes what became of the files; `notes` are the findings about the directory itself, if they were looked for.
    pub(crate) fn apply(&mut self, updates: Vec<(Arc<str>, FileUpdate)>, notes: Option<Vec<Finding>>) -> Vec<Change> {
        if let Some(notes) = notes {
            self.notes = notes;
        }
        let mut touched = BTreeSet::new();
        // All claims first: an object that moves from one file to another is not removed in between.
        let nameless: Vec<_> =
            updates.into_iter().filter_map(|(file, update)| self.update(file, update, &mut touched)).collect();
        for (file, before) in nameless {
            self.keep_unnamed(&file, before);
        }
        touched.into_iter().filter_map(|key| self.resolve(key)).collect()
    }

    /// Takes one file; gives back what it held before, if it is not certain which objects it holds now.
    fn update(
        &mut self,
        file: Arc<str>,
        update: FileUpdate,
        touched: &mut BTreeSet<ObjectKey>,
    ) -> Option<(Arc<str>, Vec<Manifest>)> {
        match update {
            FileUpdate::Broken(finding) => {
                self.telling.insert(file.clone());
                self.files.entry(file).or_default().fault = Some(finding);
                None
            }
            FileUpdate::Given(given) => {
                self.telling.remove(&file);
                self.files.remove(&file);
                touched.extend(self.given.differing(&given));
                self.given = given;
                None
            }
            FileUpdate::Gone => {
                if *file == *given::FILE {
                    touched.extend(self.given.differing(&GivenAddresses::default()));
                    self.given = GivenAddresses::default();
                }
                self.telling.remove(&file);
                let state = self.files.remove(&file).unwrap_or_default();
                self.count -= state.manifests.len();
                self.release(&file, &state.manifests, touched);
                None
            }
            FileUpdate::Read(reading) => {
                let before = self.files.remove(&file).unwrap_or_default();
                let others = self.count - before.manifests.len();
                if others + reading.manifests.len() > MAX_OBJECTS {
                    let location = Location { file: file.clone(), line: 1 };
                    let message =
                        format!("with this file the directory has more than {MAX_OBJECTS} objects; it is not read");
                    let fault = Some(say::error("TooManyObjects", location, message));
                    self.telling.insert(file.clone());
                    self.files.insert(file, FileState { fault, ..before });
                    return None;
                }
                self.release(&file, &before.manifests, touched);
                let FileReading { manifests, unread } = reading;
                self.count = others + manifests.len();
                for (index, manifest) in manifests.iter().enumerate() {
                    if let Some(key) = &manifest.key {
                        self.claim(key, Claim { file: file.clone(), index });
                        touched.insert(key.clone());
                    }
                }
                if !unread.is_empty() || manifests.iter().any(|manifest| !manifest.findings.is_empty()) {
                    self.telling.insert(file.clone());
                } else {
                    self.telling.remove(&file);
                }
                let nameless = manifests.iter().any(|manifest| manifest.key.is_none());
                let own = manifests.len();
                self.files.insert(file.clone(), FileState { manifests, own, unread, fault: None });
                nameless.then_some((file, before.manifests))
            }
        }
    }

    /// A fault may hide which object a manifest is (no name, a misspelt kind). It may be any that the file held and
    /// nobody names any more, so none of these is dropped as long as the fault stands.
    fn keep_unnamed(&mut self, file: &Arc<str>, before: Vec<Manifest>) {
        for mut manifest in before {
            let Some(key) = manifest.key.clone().filter(|key| !self.claims.contains_key(key)) else { continue };
            let Some(held) = self.held.get(&key).filter(|held| held.claim.file == *file) else { continue };
            let Some(state) = self.files.get_mut(file) else { return };
            manifest.object = Some(held.written.clone());
            manifest.findings.clear();
            let index = state.manifests.len();
            state.manifests.push(manifest);
            self.count += 1;
            self.claim(&key, Claim { file: file.clone(), index });
        }
    }

    fn claim(&mut self, key: &ObjectKey, claim: Claim) {
        let claims = self.claims.entry(key.clone()).or_default();
        claims.insert(claim);
        if claims.len() > 1 {
            self.contested.insert(key.clone());
        }
    }

    fn release(&mut self, file: &Arc<str>, manifests: &[Manifest], touched: &mut BTreeSet<ObjectKey>) {
        for (index, manifest) in manifests.iter().enumerate() {
            let Some(key) = &manifest.key else { continue };
            if let Some(claims) = self.claims.get_mut(key) {
                claims.remove(&Claim { file: file.clone(), index });
                if claims.len() < 2 {
                    self.contested.remove(key);
                }
                if claims.is_empty() {
                    self.claims.remove(key);
                }
            }
            touched.insert(key.clone());
        }
    }

    fn manifest(&self, claim: &Claim) -> Option<&Manifest> {
        self.files.get(&claim.file)?.manifests.get(claim.index)
    }

    fn is_kept(&self, claim: &Claim) -> bool {
        self.files.get(&claim.file).is_some_and(|state| claim.index >= state.own)
    }

    /// Decides which version of an object counts: the first that is good, except that a file whose good version
    /// counted keeps it through a refused edit.
    fn resolve(&mut self, key: ObjectKey) -> Option<Change> {
        let Some(claims) = self.claims.get(&key) else {
            return self.held.remove(&key).map(|_| Change::Removed(key));
        };
        let holder = self.held.get(&key).map(|held| held.claim.file.clone());
        let mut refused = None;
        // What is kept from before gives way to what stands somewhere.
        let only_kept = claims.iter().all(|claim| self.is_kept(claim));
        for claim in claims.iter().filter(|claim| only_kept || !self.is_kept(claim)) {
            let Some(manifest) = self.manifest(claim) else { continue };
            if let Some(written) = manifest.object.clone() {
                let (line, lines) = (manifest.line, manifest.lines.clone());
                let object = self.given.onto(written.clone());
                let held = Held { object: object.clone(), written, claim: claim.clone(), line, lines, stale: false };
                let before = self.held.insert(key, held);
                return (before.is_none_or(|before| before.object != object)).then_some(Change::Set(object));
            }
            if holder.as_ref() == Some(&claim.file) {
                refused = Some(claim.clone());
                break;
            }
        }
        if let Some(held) = self.held.get_mut(&key) {
            held.stale = true;
            held.claim = refused.unwrap_or_else(|| held.claim.clone());
            let object = self.given.onto(held.written.clone());
            if held.object != object {
                held.object = object.clone();
                return Some(Change::Set(object));
            }
        }
        None
    }

    pub(crate) fn objects(&self) -> impl Iterator<Item = (&Object, Location)> {
        self.held.values().map(|held| (&held.object, Location { file: held.claim.file.clone(), line: held.line }))
    }

    pub(crate) fn locate(&self, key: &ObjectKey, field: &str) -> Option<Location> {
        let held = self.held.get(key)?;
        Some(Location { file: held.claim.file.clone(), line: held.lines.line(field) })
    }

    pub(crate) fn unknown_kinds(&self) -> Vec<UnknownKind> {
        let mut kinds: BTreeMap<(&str, &str), UnknownKind> = BTreeMap::new();
        for file in &self.telling {
            for unread in self.files.get(file).into_iter().flat_map(|state| &state.unread) {
                kinds
                    .entry((&unread.kind, &unread.api_version))
                    .or_insert_with(|| UnknownKind {
                        kind: unread.kind.clone(),
                        api_version: unread.api_version.clone(),
                        count: 0,
                        first: Location { file: file.clone(), line: unread.line },
                    })
                    .count += 1;
            }
        }
        kinds.into_values().collect()
    }

    /// Everything that is wrong now, by place.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let mut findings = self.notes.clone();
        findings.extend(self.unknown_kinds().into_iter().map(|unknown| {
            let UnknownKind { kind, api_version, count, first } = unknown;
            let objects = if count == 1 { "1 object is".to_owned() } else { format!("{count} objects are") };
            Finding {
                severity: Severity::Info,
                message: format!("kind {kind} ({api_version}) is not read by Headwater; {objects} passed over"),
                ..say::error("UnknownKind", first, "")
            }
        }));
        for (file, state) in self.telling.iter().filter_map(|file| self.files.get_key_value(file)) {
            if let Some(mut fault) = state.fault.clone() {
                if !state.manifests.is_empty() {
                    fault.message.push_str("; the objects read from this file before stay");
                }
                findings.push(fault);
            }
            let all =
                || state.manifests.iter().flat_map(|manifest| manifest.findings.iter().map(move |f| (manifest, f)));
            findings.extend(all().take(MAX_FINDINGS_OF_FILE).map(|(manifest, finding)| self.told(manifest, finding)));
            let more = all().count().saturating_sub(MAX_FINDINGS_OF_FILE);
            if more > 0 {
                let location = Location { file: file.clone(), line: 1 };
                findings.push(say::error("MoreFindings", location, format!("{more} more findings in this file")));
            }
        }
        findings.extend(self.contested.iter().flat_map(|key| self.duplicates(key)));
        findings.sort_by(|a, b| (&a.location, &a.field, &a.message).cmp(&(&b.location, &b.field, &b.message)));
        findings
    }

    /// A finding, with the word that the last good version stays where it does.
    fn told(&self, manifest: &Manifest, finding: &Finding) -> Finding {
        let mut finding = finding.clone();
        let held = manifest.key.as_ref().and_then(|key| self.held.get(key));
        if held.is_some_and(|held| held.stale) {
            finding.message.push_str("; the version read before stays");
        }
        finding
    }

    fn duplicates(&self, key: &ObjectKey) -> Vec<Finding> {
        let (Some(claims), Some(held)) = (self.claims.get(key), self.held.get(key)) else { return Vec::new() };
        let winner = Location { file: held.claim.file.clone(), line: held.line };
        claims
            .iter()
            .filter(|claim| **claim != held.claim && !self.is_kept(claim))
            .filter_map(|claim| self.manifest(claim).map(|manifest| (claim, manifest)))
            .map(|(claim, manifest)| {
                let location = Location { file: claim.file.clone(), line: manifest.line };
                let message = format!("this object stands in {winner} too, and that one counts");
                let mut finding =
                    say::error("DuplicateObject", location, message).mend("remove or rename one of the two");
                finding.object = Some(key.clone());
                finding
            })
            .collect()
    }
}
