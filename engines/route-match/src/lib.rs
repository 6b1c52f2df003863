//! Request head to matched rule.
//!
//! [`CompiledTable`] indexes the rules of a listener by host and by path; [`CompiledTable::find`] returns the rule of best
//! [`Precedence`](headwater_model::gateway::Precedence) that matches. Its cost grows with the length of the path, not
//! with the number of rules. [`normalise_host`] and [`normalise_path`] bring what a client sent into the form that rules
//! are compared with.

mod condition;
mod fault;
mod host;
mod index;
mod path;
mod plain;
mod query;
mod request;
mod rewrite;
mod table;
mod trie;
mod value;

pub use fault::{Fault, FaultReason};
pub use host::{HostError, normalise_host};
pub use index::{CompiledHost, MAX_DEPTH, MAX_REGEX_BYTES};
pub use path::{NormalPath, PathChange, PathError, Recommendation, normalise_path};
pub use query::cookie;
pub use request::RequestView;
pub use rewrite::{CompiledRewrite, MAX_GROUPS, MAX_REPLACEMENT};
pub use table::{CompiledTable, Matched};
