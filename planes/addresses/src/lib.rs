//! Services of type LoadBalancer get addresses of pools, and keep them.
//!
//! ```text
//!  ApiServerSource ──Batch──> Desk (desk.rs, pure): engines/ipam ──Write──> API server: status and annotation of the
//!    (a new one with           │                                            Service, Events, status of the pool,
//!     each leadership)         └──> metrics under MetalLB's names           ConfigurationState
//! ```
//!
//! Only the leader gives addresses, and it begins with a list of its own: what the leader before it wrote last is in it.
//! What a Service's status says is the truth, so that nothing else has to be remembered.
//!
//! On one machine the same desk gives addresses to the Services of a directory: see `directory.rs`.

mod desk;
mod directory;
mod metrics;
mod run;

pub use headwater_ipam::Class;

pub use desk::{Desk, PoolWrite, ServiceAddresses, ServiceWrite};
pub use directory::{AddressState, DirectoryAddresses, WAITING_BATCHES};
pub use metrics::AddressMetrics;
pub use run::{Addresses, Settings};
