//! Rules of Alauda's ALB: what they match and which comes first.
//!
//! [`compile`] brings the terms of a rule into the common model, [`precedence`] orders the rules of a port; rules stand in
//! a route table of [`HostLaw::ByPrecedence`](headwater_model::gateway::HostLaw::ByPrecedence).

mod dslx;
mod order;
mod pattern;

pub use dslx::{Compiled, Doubt, DslxError, MAX_ARGUMENT, MAX_ARGUMENTS, compile, cover, every_request, ingress_terms};
pub use order::{DEFAULT_PRIORITY, Weight, of_default_backend, of_redirect, precedence};
pub use pattern::{PatternError, to_regex};
