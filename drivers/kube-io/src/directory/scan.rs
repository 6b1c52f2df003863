//! Looks what changed in a directory, reads it, and keeps the kernel's watches where they are needed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use headwater_model::finding::{Finding, Location, Severity};

use super::given::{self, GivenAddresses};
use super::store::FileUpdate;
use super::walk::{Listed, Listing, MAX_FILE_BYTES, Stamp, is_listed, note, reason, walk};
use super::watch::DirectoryWatch;
use crate::manifest::{self, Syntax, say};

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

/// By name, so that a later look at a file replaces an earlier one.
type Updates = BTreeMap<Arc<str>, FileUpdate>;

type Files = Vec<(Arc<str>, Listed)>;

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
        let mut updates = BTreeMap::new();
        if !look.all
            && let Some(files) = self.only_known_files(&look.paths)
            && self.read_changed(files, &look.paths, &mut updates)
        {
            return Sight { updates: updates.into_iter().collect(), notes: None };
        }
        let mut notes = Vec::new();
        for _ in 0..MAX_ROUNDS {
            notes.clear();
            let files = self.list(&look.paths, &mut notes, &mut updates);
            if self.read_changed(files, &look.paths, &mut updates) {
                break;
            }
        }
        Sight { updates: updates.into_iter().collect(), notes: Some(notes) }
    }

    /// The files that the events named, if they named nothing else that counts and all of them are still there.
    fn only_known_files(&self, paths: &HashSet<PathBuf>) -> Option<Files> {
        paths
            .iter()
            .filter(|path| !self.is_noise(path))
            .map(|path| {
                let name = self.by_real.get(path)?;
                let metadata = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
                let known = self.known.get(name)?;
                Some((name.clone(), Listed { stamp: Stamp::of(&metadata), ..known.file.clone() }))
            })
            .collect()
    }

    /// Whether a path can be no manifest, no link and no directory: an editor's temporary file that came or went.
    fn is_noise(&self, path: &Path) -> bool {
        if self.by_real.contains_key(path) || self.watch.as_ref().is_none_or(|watch| watch.is_watched(path)) {
            return false;
        }
        match fs::symlink_metadata(path) {
            Ok(metadata) => {
                metadata.is_file() && !path.file_name().is_some_and(|name| is_listed(&name.to_string_lossy()))
            }
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Lists all files, sets the watches, and notes what is gone.
    fn list(&mut self, named: &HashSet<PathBuf>, notes: &mut Vec<Finding>, updates: &mut Updates) -> Files {
        let mut listing = walk(&self.root);
        if let Some(watch) = &mut self.watch {
            watch.forget(named);
            let mut rounds = 0;
            // A file may appear after its directory was listed and before it is watched: list once more.
            while watch.follow(&listing.directories, notes) && rounds < MAX_ROUNDS {
                listing = walk(&self.root);
                rounds += 1;
            }
        }
        let Listing { files, unseen, notes: listing_notes, .. } = listing;
        notes.extend(listing_notes);
        let is_unseen = |name: &str| unseen.iter().any(|prefix| name.starts_with(prefix.as_str()));
        let gone: Vec<Arc<str>> =
            self.known.keys().filter(|name| !files.contains_key(*name) && !is_unseen(name)).cloned().collect();
        for name in gone {
            self.drop_file(&name);
            updates.insert(name, FileUpdate::Gone);
        }
        files.into_iter().collect()
    }

    /// Reads the files that changed. False if some were swapped meanwhile, so that what was read may be of two
    /// generations (a ConfigMap volume swaps all its files at once, and removes the old ones).
    fn read_changed(&mut self, files: Files, named: &HashSet<PathBuf>, updates: &mut Updates) -> bool {
        let mut settled = true;
        let mut links = Vec::new();
        for (name, file) in files {
            let is_named = named.contains(&file.real);
            let link = file.link.clone().map(|link| (link, file.real.clone()));
            if let Some((name, update)) = self.read_if_changed(name, file, is_named) {
                settled &= !matches!(update, FileUpdate::Gone);
                links.extend(link);
                updates.insert(name, update);
            }
        }
        settled && links.into_iter().all(|(link, real)| fs::canonicalize(link).is_ok_and(|now| now == real))
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
                let update = (before != Some(content)).then(|| read_as(&name, file.syntax, &text));
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

fn read_as(name: &Arc<str>, syntax: Syntax, text: &str) -> FileUpdate {
    if **name == *given::FILE {
        return match GivenAddresses::parse(text) {
            Ok(given) => FileUpdate::Given(given),
            Err(finding) => FileUpdate::Broken(*finding),
        };
    }
    match manifest::read(name, syntax, text) {
        Ok(reading) => FileUpdate::Read(reading),
        Err(finding) => FileUpdate::Broken(*finding),
    }
}

pub(crate) enum Unreadable {
    Gone,
    Because(String),
}

pub(crate) fn read_text(path: &Path) -> Result<String, Unreadable> {
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
