//! Layer 2: which node answers for an address of a load balancer, and how it answers.
//!
//! - [`elect`] says which node announces an address. Every node computes it by itself and comes to the same result.
//! - [`Members`] says which nodes are alive, from signs of life that others bring.
//! - [`L2`] answers ARP requests and neighbour solicitations for addresses that no interface has, looks first whether
//!   somebody else has them, and tells everybody when this node begins to answer.
//! - [`frame`] reads and writes the frames.
//!
//! Nothing here sends, receives, or reads a clock: time and frames are arguments.
//!
//! Source: MetalLB `speaker/layer2_controller.go` and `internal/layer2`; RFC 826, RFC 5227 (ARP), RFC 4861, RFC 4862
//! (NDP).

#![warn(missing_docs)]

mod effect;
mod election;
mod error;
mod event;
pub mod frame;
mod fuzz;
mod members;
mod state;

pub use effect::{Counted, Effect, Report};
pub use election::{Candidate, elect};
pub use error::FrameError;
pub use event::{Event, Interface, Interfaces, Wanted};
pub use frame::Mac;
pub use fuzz::fuzz;
pub use members::Members;
pub use state::{ASK_EVERY, BURST, BURST_EVERY, DEFEND_EVERY, L2, PROBE_EVERY, PROBES, REFUSED_FOR, Standing};
