//! Small values that the tests of this folder start from.

use std::time::Duration;

use super::{
    BatchDelta, Decision, Measurement, MissingReason, Monotonic, Observation, Policy, PolicySettings, QueueTime,
    Replica, ReplicaSample, Starting, State, decide,
};

/// The defaults of the API, with a short window.
pub(super) fn settings() -> PolicySettings {
    PolicySettings {
        min_replicas: 1,
        max_replicas: 8,
        target_queue_time: Duration::from_millis(20),
        stabilization_window: Duration::from_mins(1),
        max_batch_size: 32,
        batching_delay: Duration::ZERO,
        scrape_interval: Duration::from_secs(2),
        startup_fallback: Duration::from_mins(1),
    }
}

/// The settings as a policy.
pub(super) fn policy() -> Policy {
    Policy::new(settings()).unwrap()
}

pub(super) fn at(seconds: f64) -> Monotonic {
    Monotonic::from_start(Duration::from_secs_f64(seconds + 1000.0))
}

/// Executions of the timer device: 5 ms an image and 10 ms each, in batches of two sizes so that a line is known.
pub(super) fn timer_batches() -> Vec<BatchDelta> {
    [(4.0, 20.0), (16.0, 20.0)]
        .map(|(size, executions)| BatchDelta { size, executions, seconds: executions * (0.005 * size + 0.010) })
        .to_vec()
}

/// A replica that takes what arrives, with 8 ms of waiting.
pub(super) fn steady(arrivals: f64, taken: Monotonic) -> Measurement {
    Measurement {
        taken,
        interval: Duration::from_secs(2),
        arrivals_per_second: arrivals,
        completed_per_second: arrivals,
        queue_time: Some(QueueTime { mean: Duration::from_millis(12), ..QueueTime::default() }),
        oldest_wait: Some(Duration::from_millis(5)),
        batches: timer_batches(),
        ..Measurement::default()
    }
}

/// A replica that has nothing to do.
pub(super) fn idle(taken: Monotonic) -> Measurement {
    Measurement { taken, interval: Duration::from_secs(2), oldest_wait: Some(Duration::ZERO), ..Measurement::default() }
}

/// A replica that completes 188 images a second while more come, as the timer device does.
pub(super) fn overloaded(arrivals: f64, pending_before: f64, taken: Monotonic) -> Measurement {
    let wait = Duration::from_secs_f64((pending_before / 188.0).max(0.2));
    Measurement {
        completed_per_second: 188.0,
        pending_images_before: pending_before,
        pending_images: pending_before + (arrivals - 188.0) * 2.0,
        queue_time: Some(QueueTime { mean: wait, ..QueueTime::default() }),
        oldest_wait: Some(wait),
        ..steady(arrivals, taken)
    }
}

/// The ready replicas of one class.
pub(super) fn fleet(samples: Vec<ReplicaSample>) -> Observation {
    let replica = |(index, sample)| Replica { name: format!("pod-{index}"), class: "a".to_owned(), sample };
    let ready: Vec<Replica> = (0..).zip(samples).map(|(index, sample): (u32, _)| replica((index, sample))).collect();
    Observation { current: super::whole(ready.len()), ready, ..Observation::default() }
}

pub(super) fn measured(measurements: Vec<Measurement>) -> Vec<ReplicaSample> {
    measurements.into_iter().map(ReplicaSample::Measured).collect()
}

pub(super) fn missing(since: Monotonic) -> ReplicaSample {
    ReplicaSample::Missing { since, reason: MissingReason::Unreachable }
}

pub(super) fn starting(since: Monotonic) -> Starting {
    Starting { since, restarts: 0, unschedulable: false }
}

/// A story told in calls: each line is a time and what was seen then.
pub(super) struct Story {
    pub(super) policy: Policy,
    pub(super) state: State,
}

impl Story {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, state: State::default() }
    }

    pub(super) fn see(&mut self, seconds: f64, observation: &Observation) -> Decision {
        let (decision, state) = decide(&self.policy, self.state.clone(), observation, at(seconds));
        let (again, _) = decide(&self.policy, state.clone(), observation, at(seconds));
        assert_eq!(again.replicas, decision.replicas, "the same observation again gives the same number");
        self.state = state;
        decision
    }

    /// Sees the same kind of fleet every two seconds, the last time at `to`.
    pub(super) fn see_until(&mut self, from: u32, to: u32, fleet: impl Fn(Monotonic) -> Observation) -> Decision {
        let rounds = (from..to).step_by(2).chain([to]);
        rounds.map(|second| self.see(f64::from(second), &fleet(at(f64::from(second))))).last().unwrap()
    }
}
