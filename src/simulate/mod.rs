//! The simulator: a fleet of batching servers under a load, and the policies that scale it, request by request.
//!
//! [`run`] plays a load against one [`PolicyKind`]. Flotilla is the very code of the operator: servers write the pages
//! that real ones write, [`crate::scrape`] makes measurements of them, and [`crate::scaling::decide`] decides. Its peers
//! ([`peers`]) are the published rules of other autoscalers with their own defaults, sampling times and windows.
//!
//! Nothing here reads a clock or a file: a run is a function of scenario, load, policy and seed.

mod arrivals;
mod engine;
mod fleet;
mod flotilla;
mod generate;
mod meter;
mod peers;
mod policy;
mod random;
mod report;
mod scaler;
mod scenario;
mod server;
mod trace;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use arrivals::{Arrivals, Bursty, Load, MOST_REQUESTS, Rate};
pub use generate::Shape;
pub use policy::{PolicyKind, run};
pub use report::{Estimate, Order, RunReport, Step, TimelinePoint};
pub use scenario::{Faults, Routing, Scenario, ServerMetrics, ServerSpec, Sickness};
pub use trace::{Trace, TraceError};
