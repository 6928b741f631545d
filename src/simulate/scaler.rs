//! What every autoscaler is to the engine: something that looks at the fleet now and then, and orders replicas.

use super::fleet::Fleet;
use super::scenario::Scenario;

/// A policy at work. It sees the fleet only when it samples it.
pub(super) trait Autoscaler {
    /// How many replicas there are when the load begins.
    fn initial(&self, scenario: &Scenario) -> u32 {
        scenario.min_replicas
    }

    /// How often it looks and decides.
    fn rhythm(&self) -> Rhythm;

    /// Looks at the replicas that can be seen.
    fn sample(&mut self, now: f64, fleet: &Fleet<'_>, seen: &Seen);

    /// How many replicas there should be.
    fn decide(&mut self, now: f64, fleet: &Fleet<'_>) -> u32;

    /// Why the last number is what it is, where the policy says so.
    fn why(&self) -> &'static str {
        ""
    }

    /// Loses everything that it remembers.
    fn restart(&mut self);
}

/// How often an autoscaler looks and decides, in seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rhythm {
    pub(super) sample_every: f64,
    pub(super) decide_every: f64,
    /// Decides this long after each look, and not at times of its own.
    pub(super) decide_after_sample: Option<f64>,
}

/// The ready replicas that could be seen, in their order.
#[derive(Debug)]
pub(super) struct Seen(pub(super) Vec<usize>);
