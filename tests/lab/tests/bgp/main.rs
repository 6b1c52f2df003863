//! BGP and BFD against routers of others: BIRD and FRR in hosts of their own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod node;
mod plan;
mod router;

mod faults;
mod guard;
mod routes;
mod sessions;
mod whole;
