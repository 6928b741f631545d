//! Knative's pod autoscaler: `Scale` of pkg/autoscaler/scaling/autoscaler.go (knative/serving), with the defaults of
//! config/core/configmaps/autoscaler.yaml, on concurrency.
//!
//! Scrapes every second, decides every 2 s; stable window 60 s, panic window 6 s, panic at twice the ready pods;
//! at most 1,000 times up and by half down at once; no scale-down delay. The activator is left out: it matters at zero.

use std::collections::{BTreeMap, VecDeque};

use super::super::arrivals::count;
use super::super::fleet::Fleet;
use super::super::scaler::{Autoscaler, Rhythm, Seen};
use crate::scaling::whole;

const STABLE_SECONDS: f64 = 60.0;
const PANIC_SECONDS: f64 = 6.0;
const PANIC_THRESHOLD: f64 = 2.0;
const MOST_UP: f64 = 1000.0;
const MOST_DOWN: f64 = 2.0;

/// The decider of one revision.
pub(in super::super) struct Knative {
    target: f64,
    /// The fleet's mean concurrency in each second.
    buckets: VecDeque<(f64, f64)>,
    before: BTreeMap<usize, (f64, f64)>,
    panic_since: Option<f64>,
    most_in_panic: u32,
    /// Whether it has decided before: a new autoscaler of more than one pod begins in panic.
    begun: bool,
}

impl Knative {
    pub(in super::super) fn new(target: f64) -> Self {
        Self {
            target,
            buckets: VecDeque::new(),
            before: BTreeMap::new(),
            panic_since: None,
            most_in_panic: 0,
            begun: false,
        }
    }

    fn average(&self, now: f64, window: f64) -> Option<f64> {
        let inside = || self.buckets.iter().filter(|(at, _)| *at > now - window);
        let values = inside().count();
        (values > 0).then(|| inside().map(|(_, value)| value).sum::<f64>() / count(values))
    }

    fn scale(&mut self, now: f64, ready: u32, stable: f64, panic: f64) -> u32 {
        if !self.begun && ready > 1 {
            (self.panic_since, self.most_in_panic) = (Some(now), ready);
        }
        self.begun = true;
        let pods = f64::from(ready.max(1));
        let (most, fewest) = ((MOST_UP * pods).ceil(), (pods / MOST_DOWN).floor());
        let wanted = |average: f64| (average / self.target).ceil();
        let for_stable = whole(wanted(stable).max(fewest).min(most));
        let for_panic = whole(wanted(panic).max(fewest).min(most));
        if wanted(panic) / pods >= PANIC_THRESHOLD {
            self.panic_since = Some(now);
        } else if self.panic_since.is_some_and(|since| now - since > STABLE_SECONDS) {
            (self.panic_since, self.most_in_panic) = (None, 0);
        }
        if self.panic_since.is_none() {
            return for_stable;
        }
        self.most_in_panic = self.most_in_panic.max(for_stable).max(for_panic);
        self.most_in_panic
    }
}

impl Autoscaler for Knative {
    fn rhythm(&self) -> Rhythm {
        Rhythm { sample_every: 1.0, decide_every: 2.0, decide_after_sample: None }
    }

    fn sample(&mut self, now: f64, fleet: &Fleet<'_>, seen: &Seen) {
        let mut before = std::mem::take(&mut self.before);
        let (mut sum, mut measured) = (0.0, 0);
        for id in &seen.0 {
            let total = fleet.servers[*id].in_flight_seconds(now);
            if let Some((then, last)) = before.remove(id).filter(|(then, last)| now > *then && total >= *last) {
                sum += (total - last) / (now - then);
                measured += 1;
            }
            self.before.insert(*id, (now, total));
        }
        if measured > 0 {
            // The pods that were not asked are taken to be as busy as the others.
            let factor = count(fleet.ready.len()) / count(measured);
            self.buckets.push_back((now, sum * factor));
        }
        while self.buckets.front().is_some_and(|(at, _)| now - at > STABLE_SECONDS) {
            self.buckets.pop_front();
        }
    }

    fn decide(&mut self, now: f64, fleet: &Fleet<'_>) -> u32 {
        match (self.average(now, STABLE_SECONDS), self.average(now, PANIC_SECONDS)) {
            (Some(stable), Some(panic)) => self.scale(now, whole(fleet.ready.len()), stable, panic),
            // Without data the number stays.
            _ => fleet.ordered,
        }
    }

    fn restart(&mut self) {
        *self = Self::new(self.target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stable_average_over_the_target_and_by_half_down_at_most() {
        for (ready, stable, expected) in [(1, 10.0, 1), (2, 31.0, 4), (4, 12.0, 2), (8, 1.0, 4), (3, 1.0, 1)] {
            let mut knative = Knative { begun: true, ..Knative::new(10.0) };
            assert_eq!(knative.scale(0.0, ready, stable, stable), expected, "{stable} in {ready} pods");
        }
    }

    #[test]
    fn panic_keeps_the_highest_until_a_stable_window_after_it() {
        let mut knative = Knative { begun: true, ..Knative::new(10.0) };
        assert_eq!(knative.scale(0.0, 2, 15.0, 60.0), 6);
        assert_eq!(knative.scale(2.0, 2, 16.0, 20.0), 6, "panic never goes down");
        assert_eq!(knative.scale(59.0, 6, 20.0, 20.0), 6);
        assert_eq!(knative.scale(61.0, 6, 20.0, 20.0), 3);
        let mut restarted = Knative::new(10.0);
        assert_eq!(restarted.scale(0.0, 5, 1.0, 1.0), 5, "a new autoscaler begins in panic");
    }
}
