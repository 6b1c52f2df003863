//! Addresses answered for by ARP and NDP.

mod config;
mod control;
mod interfaces;
mod membership;
mod metrics;
mod run;
mod state;
mod status;
mod wire;

pub use config::{DEFAULT_EXCLUDED, PATIENCE, RENEW, Settings, excluded};
pub use membership::Membership;
pub use metrics::register as register_metrics;
pub use run::{L2Announcer, StartError};
pub use state::{L2State, VipState};
