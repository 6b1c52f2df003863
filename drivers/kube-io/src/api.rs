//! A Kubernetes API server: objects from it, status, events and leases to it.

mod connect;

pub use connect::{Access, ApiError, ApiServer};
