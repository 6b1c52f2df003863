//! Who the client is: connection facts and headers in, the client's address and what backends may hear of it out.
//!
//! In the order of a connection's life:
//!
//! 1. [`Sender::of_socket`], then [`Sender::with_toa`]: the address that speaks to us, `S`;
//! 2. [`Sender::admit`] while bytes arrive, then [`Sender::with_proxy`]: PROXY protocol v1 and v2 ([`proxy`]);
//! 3. [`resolve()`] for each HTTP request, or [`Client::of_sender`] where there are no headers: the client, `R`;
//! 4. [`verdict`] for each inbound header, [`Outbound`] for the headers that replace them, and
//!    [`proxy::write_v1`] or [`proxy::write_v2`] for backends that want a PROXY header.
//!
//! Pure: no clock, no sockets, no randomness. Untrusted bytes never panic and cost linear time.

pub mod admit;
pub mod forwarded;
pub mod fuzz;
pub mod headers;
pub mod outbound;
pub mod proxy;
pub mod resolve;
pub mod sender;
mod text;

pub use admit::{Arrival, Decision, Refusal, admit};
pub use headers::HeaderSource;
pub use outbound::{Outbound, Verdict, verdict};
pub use resolve::{Client, Scheme, resolve};
pub use sender::Sender;

#[cfg(test)]
mod truth_table;
