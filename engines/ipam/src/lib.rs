//! Pools and Services -> which addresses each Service of type LoadBalancer has.
//!
//! ```text
//!  IPAddressPools ──Pools::new──> Pools ──configure──> Ipam <──settle── Request::of <── Service, Namespace's labels
//!     (findings)                                        └──> Outcome: addresses and their pool, or why there are none
//! ```
//!
//! What a Service's status says is the truth: an address that it has stays, as long as its pools and its own words allow
//! it, whatever starts in whichever order. New ones are the lowest that are free, of the first pool that fits; ties are
//! decided by name, so that the same objects in the same order give the same addresses everywhere.
//!
//! Source: <https://metallb.io/usage/>.

mod error;
mod occupied;
mod pools;
mod request;
mod state;

pub use error::AllocationError;
pub use pools::{Pool, Pools};
pub use request::{Class, Families, Port, Request, RequestError, is_asking};
pub use state::{Assignment, Ipam, Outcome};
