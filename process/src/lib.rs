//! What every role of Headwater needs: snapshots published, logs, metrics, an admin server.

pub mod access_log;
pub mod admin;
pub mod metrics;
pub mod publish;
pub mod telemetry;
