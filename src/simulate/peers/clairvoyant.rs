//! Knows the load before it comes: has the replicas that each moment needs ready by then, and no others. A bound that
//! nobody can reach.

use super::super::arrivals::{Arrivals, count, index};
use super::super::fleet::Fleet;
use super::super::scaler::{Autoscaler, Rhythm, Seen};
use super::super::scenario::Scenario;

/// The need of every second, known in advance.
pub(in super::super) struct Clairvoyant {
    need: Vec<u32>,
    lead: usize,
}

impl Clairvoyant {
    pub(in super::super) fn new(scenario: &Scenario, arrivals: &Arrivals) -> Self {
        let need = |second| scenario.needed(arrivals.rate.at(count(second)));
        // 99 of a hundred start-ups are quicker.
        let lead = index(scenario.startup_quantile(2.326).ceil()) + 2;
        Self { need: (0..=index(arrivals.end)).map(need).collect(), lead }
    }

    fn needed_from(&self, second: usize) -> u32 {
        self.need.iter().skip(second).take(self.lead).copied().max().unwrap_or_default()
    }
}

impl Autoscaler for Clairvoyant {
    fn initial(&self, _scenario: &Scenario) -> u32 {
        self.needed_from(0)
    }

    fn rhythm(&self) -> Rhythm {
        Rhythm { sample_every: f64::INFINITY, decide_every: 1.0, decide_after_sample: None }
    }

    fn sample(&mut self, _now: f64, _fleet: &Fleet<'_>, _seen: &Seen) {}

    fn decide(&mut self, now: f64, _fleet: &Fleet<'_>) -> u32 {
        self.needed_from(index(now))
    }

    fn restart(&mut self) {}
}
