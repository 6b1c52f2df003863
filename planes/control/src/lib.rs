//! From objects to published snapshots: reads a source, translates, publishes, and tells what is wrong.
//!
//! ```text
//!  DirectorySource ──Batch──> control task ──GatewaySnapshot──> planes
//!                                  └──────────Findings────────> log, status
//! ```

mod findings;
mod run;
pub mod status;

pub use findings::Findings;
pub use run::{Adapt, Control, check};
