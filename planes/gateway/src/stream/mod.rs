//! What is carried without being read: TCP, TLS by the name that its client asks for, UDP.
//!
//! Connections come by way of `accept.rs`, datagrams have a loop of their own in `udp.rs`.

pub(crate) mod flow;
pub(crate) mod metrics;
pub(crate) mod peek;
pub(crate) mod record;
mod relay;
mod route;
pub(crate) mod tcp;
pub(crate) mod udp;
