//! How many images arrive: smoothed for a few seconds, so that the noise of one interval orders nothing, and quick on
//! a step, so that a real one is believed at its second sight.

use std::time::Duration;

use super::observation::Monotonic;

/// The smoothing's time constant in scrape intervals.
const SMOOTHED_INTERVALS: f64 = 3.0;
/// A change by this factor, seen twice in a row, is a step and not noise.
const STEP: f64 = 1.25;
/// Images beyond the level that one interval may bring by chance.
const CHANCE_IMAGES: f64 = 4.0;

/// The smoothed arrivals; absent until the first measurement.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Demand {
    seen: Option<Seen>,
}

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    at: Monotonic,
    level: f64,
    latest: f64,
}

impl Demand {
    /// Takes in a round of measurements; true when it was a new one.
    pub(super) fn update(&mut self, arrivals: f64, at: Monotonic, interval: Duration) -> bool {
        let Some(seen) = &mut self.seen else {
            self.seen = Some(Seen { at, level: arrivals, latest: arrivals });
            return true;
        };
        // Pods are scraped at their own phases; half an interval makes one round of them.
        let elapsed = at.since(seen.at);
        if elapsed < interval / 2 {
            return false;
        }
        let (elapsed, interval) = (elapsed.as_secs_f64(), interval.as_secs_f64());
        let (lower, higher) = (arrivals.min(seen.latest), arrivals.max(seen.latest));
        let chance = CHANCE_IMAGES / interval;
        if lower > seen.level * STEP + chance {
            seen.level = lower;
        } else if higher * STEP + chance < seen.level {
            seen.level = higher;
        } else {
            let weight = 1.0 - (-elapsed / (SMOOTHED_INTERVALS * interval)).exp();
            seen.level += weight * (arrivals - seen.level);
        }
        seen.latest = arrivals;
        seen.at = at;
        true
    }

    /// Images per second.
    pub(super) fn level(&self) -> Option<f64> {
        // An exponential never reaches zero; an image every ten minutes is none.
        self.seen.as_ref().map(|seen| if seen.level < 1.0 / 600.0 { 0.0 } else { seen.level })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(2);

    fn levels(arrivals: &[f64]) -> Vec<u32> {
        let mut demand = Demand::default();
        let round = |(index, arrivals): (u32, &f64)| {
            demand.update(*arrivals, Monotonic::from_start(INTERVAL * index), INTERVAL);
            super::super::whole(demand.level().unwrap().round())
        };
        (0..).zip(arrivals).map(round).collect()
    }

    #[test]
    fn a_step_is_believed_when_seen_twice_and_a_spike_is_not() {
        // The load starts in the middle of the second interval.
        assert_eq!(levels(&[0.0, 200.0, 400.0, 400.0, 400.0]), [0, 57, 200, 400, 400]);
        assert_eq!(levels(&[100.0, 100.0, 400.0, 100.0, 100.0]), [100, 100, 185, 161, 100]);
        assert_eq!(levels(&[400.0, 400.0, 150.0, 0.0, 0.0, 0.0]), [400, 400, 329, 150, 0, 0]);
    }

    #[test]
    fn the_same_round_seen_again_changes_nothing() {
        let mut demand = Demand::default();
        let at = Monotonic::from_start(INTERVAL);
        assert!(demand.update(10.0, at, INTERVAL));
        let before = demand.clone();
        assert!(!demand.update(500.0, at, INTERVAL));
        assert_eq!(demand, before);
    }
}
