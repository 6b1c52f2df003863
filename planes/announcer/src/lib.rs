//! Addresses of Services told to the network.

pub mod bgp;
pub mod l2;
pub mod metrics;
pub mod objects;
mod status;
