//! What every role of Headwater needs: snapshots published, connections drained, logs, metrics, an admin server.

pub mod access_log;
pub mod admin;
pub mod drain;
pub mod metrics;
pub mod publish;
pub mod telemetry;
