//! Services in the kernel of a node: what kube-proxy does, and the client kept where it cannot.

mod agent;
mod conntrack;
mod elements;
mod fabric;
#[cfg(test)]
mod faults;
mod health;
mod mark;
mod metrics;
mod plan;
mod ruleset;
mod run;
mod sets;
mod state;
mod tables;
mod transparent;
mod tunnel;

pub use agent::{KernelError, cleanup};
pub use run::{ANNOTATION, ServiceLb, Settings, Source, StartError};
pub use state::{PeerState, State, TunnelState};
