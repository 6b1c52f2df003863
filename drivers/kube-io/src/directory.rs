//! A directory of manifests as a source of objects.

mod given;
mod reading;
mod scan;
mod source;
mod store;
mod walk;
mod watch;

pub use given::{AddressFile, Given, GivenAddresses};
pub use reading::{Reading, fuzz_read, read_dir, read_str};
pub use source::{DirectoryError, DirectorySource};
pub use store::UnknownKind;
