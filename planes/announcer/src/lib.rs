//! Addresses of Services told to the network.

pub mod bgp;
