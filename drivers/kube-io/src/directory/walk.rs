//! The manifest files below a directory, as they lie there now.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_model::finding::{Finding, Location, Severity};

use super::given;
use crate::manifest::{Syntax, say};

/// Largest file that is read, in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 16 << 20;

/// Most bytes of all files together.
pub(crate) const MAX_TOTAL_BYTES: u64 = 1 << 30;

/// Most files and directories that are looked at.
pub(crate) const MAX_ENTRIES: usize = 200_000;

/// Deepest nesting of directories.
pub(crate) const MAX_DEPTH: usize = 32;

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Modification and change of status, in nanoseconds since the epoch.
    modified: i128,
    changed: i128,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: nanos(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanos(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file changed so shortly before `now` that a further change might not show in the stamp: kernels
    /// advance file times by ticks of up to 10 ms.
    pub(crate) fn is_fresh_at(self, now: std::time::SystemTime) -> bool {
        let now = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        i128::try_from(now).map_or(true, |now| now - self.changed < 50_000_000)
    }
}

/// A manifest file.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// Where the file really lies, symbolic links resolved.
    pub(crate) real: PathBuf,
    /// The path by which it was found, if that is a symbolic link.
    pub(crate) link: Option<PathBuf>,
    pub(crate) stamp: Stamp,
    pub(crate) syntax: Syntax,
}

#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// By path below the root, `/` between the parts.
    pub(crate) files: BTreeMap<Arc<str>, Listed>,
    /// Directories (links resolved) in which a change matters, with device and inode.
    pub(crate) directories: BTreeMap<PathBuf, (u64, u64)>,
    /// Prefixes below which nothing could be seen; what was known there stays.
    pub(crate) unseen: Vec<String>,
    pub(crate) notes: Vec<Finding>,
}

/// How manifests are written, by the file's extension; `None` for other files.
pub(crate) fn syntax_of(name: &str) -> Option<Syntax> {
    match name.rsplit_once('.')?.1 {
        "yaml" | "yml" => Some(Syntax::Yaml),
        "json" => Some(Syntax::Json),
        _ => None,
    }
}

/// Whether a file of this name is a manifest.
pub(crate) fn is_listed(name: &str) -> bool {
    !name.starts_with('.') && syntax_of(name).is_some()
}

/// Lists the manifest files below `root`, or `root` itself if it is a file.
///
/// Hidden names are left out, but for the addresses that Services were given. Symbolic links are followed, and each file and directory is listed once, under the
/// first of its names; so a mounted ConfigMap shows every file once, and loops end.
pub(crate) fn walk(root: &Path) -> Listing {
    let mut walk = Walk { listing: Listing::default(), seen: HashSet::new(), entries: 0, bytes: 0, full: false };
    match fs::metadata(root) {
        Ok(metadata) if metadata.is_file() => {
            let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let syntax = syntax_of(&name).unwrap_or(Syntax::Yaml);
            let is_link = fs::symlink_metadata(root).is_ok_and(|own| own.file_type().is_symlink());
            let real = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
            if let Some(parent) = root.parent() {
                walk.watch(if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
            }
            walk.file(name, real, is_link.then(|| root.to_owned()), &metadata, syntax);
        }
        Ok(_) => {
            walk.directory(root, "", 0);
            walk.given(root);
        }
        Err(error) => walk.unseen("", &error),
    }
    walk.listing
}

struct Walk {
    listing: Listing,
    /// Device and inode of everything listed.
    seen: HashSet<(u64, u64)>,
    entries: usize,
    bytes: u64,
    /// The limit of entries was reached and told.
    full: bool,
}

impl Walk {
    fn directory(&mut self, path: &Path, prefix: &str, depth: usize) {
        if depth > MAX_DEPTH {
            self.note(
                "TooDeep",
                format!("directory {prefix} is nested deeper than {MAX_DEPTH} levels; it is not read"),
            );
            return;
        }
        let listed = fs::metadata(path).and_then(|metadata| {
            if !self.seen.insert((metadata.dev(), metadata.ino())) {
                return Ok(None);
            }
            let mut names = BTreeSet::new();
            for entry in fs::read_dir(path)? {
                if names.len() >= MAX_ENTRIES {
                    break;
                }
                names.insert(entry?.file_name());
            }
            Ok(Some(names))
        });
        let names = match listed {
            Ok(Some(names)) => names,
            Ok(None) => return,
            // Removed between two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => return,
            Err(error) => return self.unseen(prefix, &error),
        };
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        self.watch(&real);
        for name in names {
            let path = path.join(&name);
            let real = real.join(&name);
            let name = name.to_string_lossy();
            if name.starts_with('.') {
                continue;
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                if !std::mem::replace(&mut self.full, true) {
                    self.note(
                        "TooManyFiles",
                        format!("more than {MAX_ENTRIES} files; from {prefix}{name} on they are not read"),
                    );
                }
                return;
            }
            self.entry(&path, real, format!("{prefix}{name}"), depth);
        }
    }

    fn entry(&mut self, path: &Path, real: PathBuf, name: String, depth: usize) {
        let syntax = syntax_of(&name);
        let own = match fs::symlink_metadata(path) {
            Ok(own) => own,
            Err(_) => return,
        };
        let is_link = own.file_type().is_symlink();
        let metadata = if is_link { fs::metadata(path) } else { Ok(own) };
        match metadata {
            Ok(metadata) if metadata.is_dir() => self.directory(path, &format!("{name}/"), depth + 1),
            Ok(metadata) if metadata.is_file() => {
                let Some(syntax) = syntax else { return };
                if is_link {
                    let real = fs::canonicalize(path).unwrap_or(real);
                    self.file(name, real, Some(path.to_owned()), &metadata, syntax);
                } else {
                    self.file(name, real, None, &metadata, syntax);
                }
            }
            Ok(_) => {}
            // A link to nothing is a file that is not there; one that cannot be followed keeps what it held.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if syntax.is_some() => self.unseen(&name, &error),
            Err(_) => {}
        }
    }

    fn file(&mut self, name: String, real: PathBuf, link: Option<PathBuf>, metadata: &Metadata, syntax: Syntax) {
        if !self.seen.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        if link.is_some()
            && let Some(parent) = real.parent()
        {
            self.watch(parent);
        }
        self.bytes = self.bytes.saturating_add(metadata.len().min(MAX_FILE_BYTES));
        if self.bytes > MAX_TOTAL_BYTES {
            self.bytes -= metadata.len().min(MAX_FILE_BYTES);
            self.listing.unseen.push(name.clone());
            self.note("TooManyFiles", format!("with {name} the files exceed {MAX_TOTAL_BYTES} bytes; it is not read"));
            return;
        }
        self.listing.files.insert(name.into(), Listed { real, link, stamp: Stamp::of(metadata), syntax });
    }

    /// The addresses that Services were given, though their name is hidden.
    fn given(&mut self, root: &Path) {
        let folder = root.join(given::FOLDER);
        match fs::metadata(&folder) {
            Ok(metadata) if metadata.is_dir() => self.watch(&folder),
            _ => return,
        }
        let path = root.join(given::FILE);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                let real = fs::canonicalize(&path).unwrap_or(path);
                self.file(given::FILE.to_owned(), real, None, &metadata, Syntax::Json);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.unseen(given::FILE, &error),
        }
    }

    fn watch(&mut self, directory: &Path) {
        if let Ok(real) = fs::canonicalize(directory)
            && !self.listing.directories.contains_key(&real)
            && let Ok(metadata) = fs::metadata(&real)
        {
            self.listing.directories.insert(real, (metadata.dev(), metadata.ino()));
        }
    }

    fn unseen(&mut self, prefix: &str, error: &io::Error) {
        let what = if prefix.is_empty() { "the directory".to_owned() } else { prefix.to_owned() };
        self.note(
            "Unreadable",
            format!("{what} cannot be read ({}); what was read from it before stays", reason(error)),
        );
        self.listing.unseen.push(prefix.to_owned());
    }

    fn note(&mut self, reason: &'static str, message: String) {
        self.listing.notes.push(note(Severity::Error, reason, message));
    }
}

/// A finding about the directory itself.
pub(crate) fn note(severity: Severity, reason: &'static str, message: String) -> Finding {
    let nowhere = Location { file: "".into(), line: 0 };
    Finding { severity, location: None, ..say::error(reason, nowhere, message) }
}

/// The kernel's word for an error, without its number.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_ascii_lowercase()
}
