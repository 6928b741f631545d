//! The only HTTP client of the operator: `/metrics` of the pods that it owns becomes the law's measurements.
//!
//! The controller says which pods there are ([`Collector::set_targets`]) and reads what was measured
//! ([`Collector::samples`]); in between, [`Collector::run`] scrapes each pod once an interval. A pod's page is
//! fetched with all limits on ([`client`](MetricsClient)), read into a [`Snapshot`] or a typed error ([`parse`]), and
//! set against the one before. Nothing here decides anything.

mod client;
mod clock;
mod collector;
mod metrics;
mod parse;
mod rates;
mod snapshot;
mod store;

#[cfg(test)]
mod connections;
#[cfg(test)]
mod decisions;
#[cfg(test)]
mod tests;

pub use client::{BODY_LIMIT, FetchError, Kept, MetricsClient};
pub use clock::Clock;
pub use collector::{Collector, CollectorSettings, ScrapeError};
pub use metrics::ScrapeMetrics;
pub use parse::{LINE_LIMIT, ParseError, SERIES_LIMIT, parse};
pub use snapshot::{BatchTotal, Failures, Histogram, ServerInfo, Snapshot};
pub(crate) use store::Pod;
pub use store::{METRICS_PORT, ServiceKey, Target};
