//! Endpoints and a key to one endpoint.
//!
//! [`PoolState`] is what one worker knows of one pool: requests in flight, latencies, ejections. It is single-threaded and
//! pure: the time is nanoseconds on any steady clock, random numbers are uniform over all of `u64`.
//! [`pick_backend`] splits a rule's traffic between pools, [`RetryBudget`] bounds retries.

mod backends;
mod budget;
mod endpoint;
mod ewma;
mod health;
mod maglev;
mod pick;
mod pool;
mod random;
mod round_robin;
mod sampler;
mod token;

pub use backends::pick_backend;
pub use budget::RetryBudget;
pub use endpoint::{EndpointId, EndpointStatus, InFlight, Outcome};
pub use health::{Availability, HealthEvent};
pub use maglev::hash_key;
pub use pick::Pick;
pub use pool::PoolState;
pub use token::Token;
