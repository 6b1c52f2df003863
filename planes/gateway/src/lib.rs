//! The gateway: accept, name the client, route, filter, balance, forward; or carry as it is.
//!
//! Start with [`Gateway`]; the tasks are drawn in `run.rs`, the life of a request is `exchange.rs`.

mod accept;
mod affinity;
mod alb_error;
mod alb_metrics;
mod apply;
mod auth;
mod buffer;
mod clients;
mod compress;
mod cork;
mod cors;
mod dns;
mod exchange;
mod fault;
mod h1;
mod h2;
mod headers;
mod io;
mod log;
mod mark;
mod message;
mod metrics;
mod outbound;
mod plan;
mod record;
mod redirect;
mod respond;
mod run;
mod stream;
mod timer;
mod trace;
mod transparent;
mod tunnel;
mod upstream;
mod variable;
mod worker;

pub use alb_metrics::{AlbMetrics, AlbMetricsServer, Token};
pub use apply::{Applied, ListenerStatus};
pub use fault::{By, Reason};
pub use metrics::GatewayMetrics;
pub use run::{Config, Gateway};
