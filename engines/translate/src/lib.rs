//! Kubernetes objects -> what the gateway serves, and what is wrong with the objects.
//!
//! Pure and total: the same objects give the same snapshot, and a faulty object yields findings and entries that refuse
//! traffic, never a missing gateway. [`Translator::apply`] costs what changed.

mod access;
pub mod alb;
mod annotation_names;
mod annotations;
pub mod announce;
mod auth;
mod balance;
mod certificate;
mod class;
mod client_address;
mod compression;
mod conflict;
mod cors;
mod environment;
mod filters;
mod findings;
mod header_rewrite;
mod host;
mod hosts;
mod ingress;
mod lookup;
mod nginx_config_map;
mod nginx_keys;
mod options;
mod path;
mod pools;
mod precedence;
mod references;
mod service;
mod settings;
mod streams;
mod tls;
mod trace;
mod tracing;
mod translator;

pub use alb::ServedByAlbs;
pub use findings::is_about_secrets;
pub use options::{AlbScope, CONTROLLER, LABEL_DOMAIN, Options};
pub use trace::{TraceDoubt, TracedService, trace};
pub use translator::{Served, Translation, Translator};
