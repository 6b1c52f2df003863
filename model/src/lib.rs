//! The nouns of Headwater: objects as users wrote them, and the snapshots derived from them.
//!
//! No I/O, no async, no clock. Everything a plane reads is immutable and shared behind [`std::sync::Arc`].

// Before who uses its macro.
#[cfg(test)]
#[macro_use]
mod text_schema;
#[cfg(test)]
mod structural;
#[cfg(test)]
mod upstream_schema;

pub mod alb;
pub mod announce;
pub mod client;
pub mod cluster;
pub mod finding;
pub mod fnv;
pub mod gateway;
pub mod metallb;
pub mod nat;
pub mod object;
pub mod observed;
pub mod origin;
pub mod quantity;
pub mod report;
pub mod selector;
pub mod settings;
pub mod transparent;
pub mod tunnel;
