//! Objects from outside, and what goes back: a directory of manifests, or a Kubernetes API server.
//!
//! - Text -> nodes with lines (`manifest`: YAML, JSON) -> typed objects, as strict as an API server -> one object for
//!   each key and its last good version (`directory`).
//! - Lists and watches of an API server -> typed objects (`api`); status, events and leases back to it.
//!
//! Both sources tell [`Batch`]es of changes. Everything is bounded: size, number, nesting, aliases.

mod api;
mod batch;
mod directory;
mod manifest;

pub use api::AnnouncedObject;
pub use api::NodeAnnotation;
pub use api::{Access, ApiError, ApiServer};
pub use api::{ApiServerSource, Counters, Health, Reader, Selection, WatchHealth, WatchState};
pub use api::{
    EventNote, EventWritten, FIELD_MANAGER, FleetChange, FleetWatch, GatewayLease, HEARTBEAT_DURATION, HEARTBEAT_RENEW,
    Heartbeat, HeartbeatSettings, Leadership, LeaseName, NOTE_LIMIT, REPORT_ANNOTATION, REPORTING_CONTROLLER, Timing,
    WriteGuard, unique_identity,
};
pub use api::{ManagedKey, ManagedKind};
pub use api::{ObjectWatch, StoredSecret, TrustedBundles};
pub use batch::Batch;
pub use directory::{AddressFile, Given, GivenAddresses};
pub use directory::{DirectoryError, DirectorySource, Reading, UnknownKind, fuzz_read, read_dir, read_str};
pub use manifest::{ObjectReading, read_object};
