//! A Kubernetes API server: objects from it, status, events and leases to it.

mod announced;
mod backoff;
mod balancer;
mod body;
mod client;
mod connect;
mod event;
mod failure;
mod health;
mod heartbeat;
mod lease;
mod node;
mod objects;
mod parse;
mod resource;
mod slim;
mod source;
mod store;
mod watch;
mod webhook;
mod write;

pub use announced::AnnouncedObject;
pub use connect::{Access, ApiError, ApiServer};
pub use event::{EventNote, EventWritten, NOTE_LIMIT, REPORTING_CONTROLLER};
pub use health::{Counters, Health, WatchHealth, WatchState};
pub use heartbeat::{
    FleetChange, FleetWatch, GatewayLease, HEARTBEAT_DURATION, HEARTBEAT_RENEW, Heartbeat, HeartbeatSettings,
    REPORT_ANNOTATION,
};
pub use lease::{Leadership, LeaseName, Timing, WriteGuard, unique_identity};
pub use node::NodeAnnotation;
pub use objects::{ManagedKey, ManagedKind};
pub use slim::Reader;
pub use source::{ApiServerSource, Selection};
pub use webhook::{ObjectWatch, StoredSecret, TrustedBundles};
pub use write::FIELD_MANAGER;
