//! KEDA's external scaler: the law's number for people whose replicas KEDA sets.
//!
//! In reading order: [`request`] reads what a trigger asks for, [`answer`] takes it from the last decision, [`service`]
//! speaks KEDA's protocol, [`server`] bounds it, [`relay`] brings connections from every operator to the leader.

mod answer;
mod error;
mod limited;
mod metrics;
mod relay;
mod request;
mod server;
mod service;
#[cfg(test)]
mod tests;
mod wire;

pub use answer::{LastDecision, OLDEST};
pub use error::ScalerError;
pub use metrics::ScalerMetrics;
pub use relay::relay;
pub use request::{Metric, Question};
pub use server::serve;
pub use service::{Decisions, Scaler};
