//! What every role of Headwater needs: snapshots published, logs, metrics, an admin server, HTTP for webhooks and collectors.

pub mod access_log;
pub mod admin;
pub mod client;
pub mod http;
pub mod metrics;
pub mod publish;
pub mod telemetry;
