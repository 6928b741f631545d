//! How the operator is seen: logs, metrics, health.

pub mod logs;
pub mod metrics;
pub mod server;
