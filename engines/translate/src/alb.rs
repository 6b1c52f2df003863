//! Rules of Alauda's ALB: what they match and which comes first.
//!
//! [`compile`] brings the terms of a rule into the common model, [`precedence`] orders the rules of a port; rules stand in
//! a route table of [`HostLaw::ByPrecedence`](headwater_model::gateway::HostLaw::ByPrecedence).

mod affinity;
mod dslx;
mod ingress;
mod order;
mod pattern;
mod port;
mod published;
mod redirect;
mod rule;
mod state;
mod table;
mod uses;
mod view;

pub use affinity::balance;
pub use dslx::{Compiled, Doubt, DslxError, MAX_ARGUMENT, MAX_ARGUMENTS, compile, cover, every_request, ingress_terms};
pub use order::{DEFAULT_PRIORITY, Weight, of_default_backend, of_redirect, precedence};
pub use pattern::{PatternError, to_regex};
pub use published::ServedByAlbs;

pub(crate) use port::{Place, Taken};
pub(crate) use state::{Albs, Tools};
pub use state::{MANAGED_BY, Shown, ShownFrontend, ShownRule};
pub(crate) use view::Census;
pub use view::SETTINGS_ANNOTATION;
