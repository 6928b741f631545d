//! Ray Serve's default policy: python/ray/serve/autoscaling_policy.py with the defaults of AutoscalingConfig.
//!
//! Every 0.1 s: ongoing requests (waiting and executed), averaged over 30 s of samples that arrive every 10 s, over the
//! target; an increase must be asked for 30 s without a break, a decrease 600 s.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::super::arrivals::count;
use super::super::fleet::Fleet;
use super::super::scaler::{Autoscaler, Rhythm, Seen};
use super::super::scenario::Scenario;
use crate::scaling::whole;

const LOOP_SECONDS: f64 = 0.1;
const LOOK_BACK_SECONDS: f64 = 30.0;
/// How often replicas and handles note their requests; they report the notes every 10 s.
const NOTE_SECONDS: f64 = 0.5;
const REPORT_NOTES: usize = 20;
/// Consecutive loops: `int(upscale_delay_s / CONTROL_LOOP_INTERVAL_S)`.
const UP_LOOPS: i32 = 300;
const DOWN_LOOPS: i32 = 6000;

/// The deployment's autoscaling state.
pub(in super::super) struct RayServe {
    target: f64,
    bounds: (u32, u32),
    /// Notes that were reported.
    reported: VecDeque<(f64, f64)>,
    /// Notes since the last report.
    unreported: Vec<(f64, f64)>,
    counter: i32,
}

impl RayServe {
    pub(in super::super) fn new(target: f64, scenario: &Scenario) -> Self {
        Self {
            target,
            bounds: (scenario.min_replicas, scenario.max_replicas),
            reported: VecDeque::new(),
            unreported: Vec::new(),
            counter: 0,
        }
    }

    /// `replica_queue_length_autoscaling_policy` with factors of 1, then bounds and `_apply_delay_logic`.
    fn step(&mut self, ongoing: f64, running: u32, ordered: u32) -> u32 {
        let running = f64::from(running.max(1));
        let ratio = ongoing / (self.target * running);
        let desired = whole((running * ratio - 1e-9).ceil()).clamp(self.bounds.0, self.bounds.1);
        match desired.cmp(&ordered) {
            Ordering::Greater => {
                self.counter = self.counter.max(0) + 1;
                if self.counter > UP_LOOPS {
                    self.counter = 0;
                    return desired;
                }
            }
            Ordering::Less => {
                self.counter = self.counter.min(0) - 1;
                if self.counter < -DOWN_LOOPS {
                    self.counter = 0;
                    return desired.max(1);
                }
            }
            Ordering::Equal => self.counter = 0,
        }
        ordered
    }
}

impl Autoscaler for RayServe {
    fn rhythm(&self) -> Rhythm {
        Rhythm { sample_every: NOTE_SECONDS, decide_every: LOOP_SECONDS, decide_after_sample: None }
    }

    fn sample(&mut self, now: f64, fleet: &Fleet<'_>, seen: &Seen) {
        if !seen.0.is_empty() {
            let ongoing: usize = seen.0.iter().map(|id| fleet.servers[*id].in_flight()).sum();
            self.unreported.push((now, count(ongoing)));
        }
        if self.unreported.len() >= REPORT_NOTES {
            self.reported.extend(self.unreported.drain(..));
            while self.reported.front().is_some_and(|(at, _)| now - at > LOOK_BACK_SECONDS) {
                self.reported.pop_front();
            }
        }
    }

    fn decide(&mut self, _now: f64, fleet: &Fleet<'_>) -> u32 {
        if self.reported.is_empty() {
            return fleet.ordered;
        }
        let ongoing = self.reported.iter().map(|(_, value)| value).sum::<f64>() / count(self.reported.len());
        self.step(ongoing, whole(fleet.ready.len()), fleet.ordered)
    }

    fn restart(&mut self) {
        self.reported.clear();
        self.unreported.clear();
        self.counter = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::scenario;
    use super::*;

    fn steps(ray: &mut RayServe, ongoing: f64, ordered: u32, loops: i32) -> u32 {
        (0..loops).fold(ordered, |ordered, _| ray.step(ongoing, ordered, ordered))
    }

    #[test]
    fn an_increase_takes_thirty_seconds_and_a_decrease_ten_minutes() {
        let mut ray = RayServe::new(2.0, &scenario());
        assert_eq!(steps(&mut ray, 9.0, 1, UP_LOOPS), 1);
        assert_eq!(steps(&mut ray, 9.0, 1, 1), 5);
        assert_eq!(steps(&mut ray, 3.0, 5, DOWN_LOOPS), 5);
        assert_eq!(steps(&mut ray, 3.0, 5, 1), 2);
    }

    #[test]
    fn another_direction_starts_the_count_anew() {
        let mut ray = RayServe::new(2.0, &scenario());
        steps(&mut ray, 9.0, 2, UP_LOOPS);
        steps(&mut ray, 1.0, 2, 1);
        assert_eq!(steps(&mut ray, 9.0, 2, UP_LOOPS), 2);
        assert_eq!(steps(&mut ray, 9.0, 2, 1), 5);
    }
}
