//! What goes back to the API server: addresses of Ingresses, conditions of GatewaySettings, Events.
//!
//! ```text
//!  served, observed, addresses ──┐
//!  findings ─────────────────────┼──> Desk ──plan──> writes that are missing ──> API server
//!  reports of gateways ──────────┘     (pure)        while the Lease is held
//! ```
//!
//! Nothing is written when nothing differs: not at a restart, not when another replica begins to lead, not at rest.

mod address;
mod bucket;
mod clear;
mod condition;
mod counters;
mod desk;
mod fleet;
mod ingress;
mod notice;
mod queue;
mod settings;
mod writer;

pub use address::{parse_address, published_by};
pub use clear::clear_all;
pub use counters::StatusCounters;
pub use ingress::{IngressWrite, ServedAs, plan_ingress};
pub use writer::{StatusEvent, StatusServer, StatusWriter};
