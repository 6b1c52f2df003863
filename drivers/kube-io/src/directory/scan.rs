//! Looks what changed in a directory, reads it, and keeps the kernel's watches where they are needed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use headwater_model::finding::{Finding, Location, Severity};

use super::store::FileUpdate;
use super::walk::{Listed, Listing, MAX_FILE_BYTES, Stamp, note, reason, walk};
use super::watch::DirectoryWatch;
use crate::manifest::{self, say};

/// Directories that appear while the watches are set are looked at again, this often.
const MAX_ROUNDS: usize = 4;

/// What to look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// Paths that events named.
    pub(crate) paths: HashSet<PathBuf>,
    /// Everything: events were lost, or it is time.
    pub(crate) all: bool,
}

/// What a look brought.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    pub(crate) updates: Vec<(Arc<str>, FileUpdate)>,
    /// `None` if only single files were looked at.
    pub(crate) notes: Option<Vec<Finding>>,
}

pub(crate) struct Scanner {
    root: PathBuf,
    known: BTreeMap<Arc<str>, Known>,
    /// Where the known files really lie.
    by_real: HashMap<PathBuf, Arc<str>>,
    watch: Option<DirectoryWatch>,
}

struct Known {
    file: Listed,
    /// Hash of the text that was read; `None` where it could not be.
    content: Option<u64>,
    /// The stamp was too young to prove anything.
    fresh: bool,
}

impl Scanner {
    pub(crate) fn new(root: PathBuf, watch: Option<DirectoryWatch>) -> Self {
        Self { root, known: BTreeMap::new(), by_real: HashMap::new(), watch }
    }

    pub(crate) fn look(&mut self, look: &Look) -> Sight {
        if !look.all
            && let Some(names) = self.only_known_files(&look.paths)
        {
            let updates = names.into_iter().filter_map(|(name, file)| self.read_if_changed(name, file, true)).collect();
            return Sight { updates, notes: None };
        }
        self.look_at_all(&look.paths)
    }

    /// The files that the events named, if they named nothing else and all of them are still there.
    fn only_known_files(&self, paths: &HashSet<PathBuf>) -> Option<Vec<(Arc<str>, Listed)>> {
        paths
            .iter()
            .map(|path| {
                let name = self.by_real.get(path)?;
                let metadata = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
                let known = self.known.get(name)?;
                Some((name.clone(), Listed { stamp: Stamp::of(&metadata), ..known.file.clone() }))
            })
            .collect()
    }

    fn look_at_all(&mut self, named: &HashSet<PathBuf>) -> Sight {
        let mut listing = walk(&self.root);
        let mut notes = Vec::new();
        if let Some(watch) = &mut self.watch {
            watch.forget(named);
            let mut rounds = 0;
            // A file may appear after its directory was listed and before it is watched: list once more.
            while watch.follow(&listing.directories, &mut notes) && rounds < MAX_ROUNDS {
                listing = walk(&self.root);
                rounds += 1;
            }
        }
        let Listing { files, unseen, notes: listing_notes, .. } = listing;
        notes.extend(listing_notes);

        let mut updates = Vec::new();
        let is_unseen = |name: &str| unseen.iter().any(|prefix| name.starts_with(prefix.as_str()));
        let gone: Vec<Arc<str>> =
            self.known.keys().filter(|name| !files.contains_key(*name) && !is_unseen(name)).cloned().collect();
        for name in gone {
            self.drop_file(&name);
            updates.push((name, FileUpdate::Gone));
        }
        for (name, file) in files {
            let is_named = named.contains(&file.real);
            updates.extend(self.read_if_changed(name, file, is_named));
        }
        Sight { updates, notes: Some(notes) }
    }

    fn drop_file(&mut self, name: &Arc<str>) {
        if let Some(known) = self.known.remove(name) {
            self.by_real.remove(&known.file.real);
        }
    }

    fn read_if_changed(&mut self, name: Arc<str>, file: Listed, is_named: bool) -> Option<(Arc<str>, FileUpdate)> {
        let known = self.known.get(&name);
        if let Some(known) = known
            && known.file.stamp == file.stamp
            && known.file.real == file.real
            && known.content.is_some()
            && !known.fresh
            && !is_named
        {
            return None;
        }
        let before = known.and_then(|known| known.content);
        let fresh = file.stamp.is_fresh_at(SystemTime::now());
        let (update, content) = match read_text(&file.real) {
            Ok(text) => {
                let content = content_hash(&text);
                let update = (before != Some(content)).then(|| match manifest::read(&name, file.syntax, &text) {
                    Ok(reading) => FileUpdate::Read(reading),
                    Err(finding) => FileUpdate::Broken(*finding),
                });
                (update, Some(content))
            }
            Err(Unreadable::Gone) => {
                self.drop_file(&name);
                return Some((name, FileUpdate::Gone));
            }
            Err(Unreadable::Because(why)) => {
                let location = Location { file: name.clone(), line: 1 };
                (Some(FileUpdate::Broken(say::error("Unreadable", location, why))), None)
            }
        };
        if let Some(known) = self.known.get(&name) {
            self.by_real.remove(&known.file.real);
        }
        self.by_real.insert(file.real.clone(), name.clone());
        self.known.insert(name.clone(), Known { file, content, fresh });
        update.map(|update| (name, update))
    }
}

enum Unreadable {
    Gone,
    Because(String),
}

fn read_text(path: &Path) -> Result<String, Unreadable> {
    let because = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Unreadable::Gone,
        _ => Unreadable::Because(format!("the file cannot be read ({})", reason(&error))),
    };
    let file = File::open(path).map_err(because)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(because)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Unreadable::Because(format!("the file is larger than {MAX_FILE_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        Unreadable::Because(format!("the file is not UTF-8 (line {line})"))
    })
}

fn content_hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// The finding that tells of a directory without watch.
pub(crate) fn unwatched(directory: &Path, why: &str) -> Finding {
    let message =
        format!("changes in {} are not told by the kernel ({why}); they are noticed within 30 s", directory.display());
    note(Severity::Warning, "Unwatched", message)
}
