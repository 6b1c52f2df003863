//! One side of a BGP session that announces routes and learns none: RFC 4271, as an engine without I/O.
//!
//! A [`Session`] speaks with one peer. It is told what happens ([`Event`]) and what time it is, and says what to do
//! ([`Effect`]) and when to call again ([`Session::deadline`]). Time is a [`std::time::Duration`] since any fixed moment,
//! by a clock that never goes back.
//!
//! Spoken: capabilities (RFC 5492), IPv4 and IPv6 unicast (RFC 4760), 4-octet AS numbers (RFC 6793), graceful restart
//! (RFC 4724), IPv4 prefixes over IPv6 next hops (RFC 8950), route refresh (RFC 2918), communities (RFC 1997, RFC 8092),
//! extended optional parameters (RFC 9072), send hold timer (RFC 9687). UPDATEs of the peer are checked by RFC 4271
//! section 6.3 and dropped.

mod backoff;
mod config;
mod connection;
mod effect;
mod error;
mod event;
mod fuzz;
mod rib;
mod session;
mod state;
mod types;
mod wire;

pub use config::{DEFAULT_HOLD, Password, PeerAsn, PeerConfig, RESTART_TIME, Transport};
pub use effect::Effect;
pub use error::{Down, Notification, RouteError};
pub use event::{ConnectionId, Ends, Event, Stop};
pub use fuzz::fuzz;
pub use session::Session;
pub use state::{Counters, Negotiated, State, Status};
pub use types::{Asn, Community, CommunityError, Families, Family, LargeCommunity, MAX_COMMUNITIES, MAX_LARGE, Route};
