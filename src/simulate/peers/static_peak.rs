//! As many replicas as the peak needs, all the time: what a fleet without an autoscaler is sized for. A bound for what
//! may be paid.

use super::super::arrivals::Arrivals;
use super::super::fleet::Fleet;
use super::super::scaler::{Autoscaler, Rhythm, Seen};
use super::super::scenario::Scenario;

/// One number.
pub(in super::super) struct StaticPeak(u32);

impl StaticPeak {
    pub(in super::super) fn new(scenario: &Scenario, arrivals: &Arrivals) -> Self {
        Self(scenario.needed(arrivals.rate.per_second.iter().copied().fold(0.0, f64::max)))
    }
}

impl Autoscaler for StaticPeak {
    fn initial(&self, _scenario: &Scenario) -> u32 {
        self.0
    }

    fn rhythm(&self) -> Rhythm {
        Rhythm { sample_every: f64::INFINITY, decide_every: f64::INFINITY, decide_after_sample: None }
    }

    fn sample(&mut self, _now: f64, _fleet: &Fleet<'_>, _seen: &Seen) {}

    fn decide(&mut self, _now: f64, _fleet: &Fleet<'_>) -> u32 {
        self.0
    }

    fn restart(&mut self) {}
}
