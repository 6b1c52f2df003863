//! Objects from outside: today a directory of manifests, with file and line of everything that is wrong in it.
//!
//! Text -> nodes with lines (`manifest`: YAML, JSON) -> typed objects, as strict as an API server -> one object for
//! each key and its last good version (`directory`) -> [`Batch`]es of changes. Everything is bounded: size, number,
//! nesting, aliases.

mod directory;
mod manifest;

pub use directory::{Batch, DirectoryError, DirectorySource, Reading, UnknownKind, fuzz_read, read_dir, read_str};
