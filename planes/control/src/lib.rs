//! From objects to published snapshots, and back: reads a source, translates, publishes, tells what is wrong.
//!
//! ```text
//!  directory or API server ──Batch──> control task ──GatewaySnapshot──> planes
//!                                          └──────────Findings────────> log, status
//!
//!  API server ──Batch──> controller task ──StatusEvent──> status ──> API server
//!                               └──────────Consequences─> admission
//! ```

mod check;
mod clock;
mod controller;
mod findings;
mod metrics;
mod run;
mod shown;
mod source;
pub mod status;
mod what_if;

pub use check::{Extent, check};
pub use controller::{Controller, Oracle, Publish};
pub use findings::Findings;
pub use run::{Adapt, Control};
pub use shown::RuleWriter;
pub use what_if::Consequences;
