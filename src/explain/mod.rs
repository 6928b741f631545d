//! Why the number of replicas is what it is: the last decision of each service, kept by the leader and told as data.
//!
//! The controller puts each decision into [`Records`]; `/debug/scaling` of the operator's HTTP server tells one as an
//! [`Explanation`], and `/metrics` tells all of them as gauges. Both are made when somebody asks: a decision costs no
//! more than keeping what it rests on.

mod explanation;
mod http;
mod metrics;
mod records;
mod schema;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use http::{NO_DECISION, NOT_LEADING, router};
pub use metrics::ScalingMetrics;
pub use records::{Record, Records};
pub use schema::{
    Bounds, Explanation, FewerWhen, Figures, HeldBy, Model, MoreWhen, PodFigures, PodState, Summaries, Summary,
    TermCounts, VERSION, WouldChange,
};
