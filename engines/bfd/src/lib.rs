//! Whether a peer is reached, told within a second: Bidirectional Forwarding Detection, as an engine without I/O.
//!
//! A [`Session`] watches one peer, asynchronously (RFC 5880 section 6.8) and with echo packets where the profile wants
//! them and the peer takes them (section 6.4), over one hop (RFC 5881) or several (RFC 5883). It never asks for demand
//! mode, follows a peer that does, and knows no authentication. Time is a [`std::time::Duration`] since any fixed moment,
//! by a clock that never goes back.

mod config;
mod fuzz;
mod packet;
mod session;

pub use config::Profile;
pub use fuzz::fuzz;
pub use packet::{Control, Diagnostic, PacketError, State};
pub use session::{Counters, Effect, Event, Session, Status};
