//! ALB2 objects become running gateways: a Deployment, its rights, Services, an IngressClass; and their status.
//!
//! ```text
//!  ApiServerSource ──Batch──> Operator task ──> what an ALB2 wants (objects.rs, pure) ──> API server
//!                             while leading <── what is there, how it is (state.rs, pure) ──> status of the ALB2
//! ```
//!
//! The gateways themselves read Frontends and Rules; nothing of them passes through here but their ports, which a Service
//! of type LoadBalancer has to list. An ALB2 that cannot be read keeps what it has.

mod labels;
mod objects;
mod run;
mod state;

pub use objects::{Installation, MANAGED_BY, desired};
pub use run::Operator;
pub use state::{Seen, status};
