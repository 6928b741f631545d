//! Records as the law makes them: a fleet of timer devices, 5 ms an image and 10 ms a batch, measured every two seconds.

use std::time::Duration;

use jiff::Timestamp;

use super::Record;
use crate::scaling::{
    BatchDelta, Measurement, Monotonic, Observation, Policy, PolicySettings, QueueTime, Replica, ReplicaSample, State,
    decide,
};

/// A fleet, and the law that watches it.
pub(crate) struct Told {
    pub(crate) policy: Policy,
    state: State,
    seconds: u64,
}

impl Told {
    /// Within 1 to 8 replicas, with the API's defaults.
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    pub(crate) fn with(change: impl FnOnce(&mut PolicySettings)) -> Self {
        let mut settings = PolicySettings {
            min_replicas: 1,
            max_replicas: 8,
            target_queue_time: Duration::from_millis(20),
            stabilization_window: Duration::from_mins(5),
            max_batch_size: 32,
            batching_delay: Duration::ZERO,
            scrape_interval: Duration::from_secs(2),
            startup_fallback: Duration::from_mins(1),
        };
        change(&mut settings);
        Self { policy: Policy::new(settings).unwrap(), state: State::default(), seconds: 1_000 }
    }

    /// Sees the same kind of fleet in so many rounds, and gives the record of the last one.
    pub(crate) fn see(&mut self, rounds: u32, observe: impl Fn(Monotonic) -> Observation) -> Record {
        let mut last = None;
        for _ in 0..rounds {
            self.seconds += 2;
            let now = Monotonic::from_start(Duration::from_secs(self.seconds));
            let observation = observe(now);
            let (decision, state) = decide(&self.policy, std::mem::take(&mut self.state), &observation, now);
            self.state = state;
            let decided_at: Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
            let policy = self.policy.clone();
            let observation = observation.without_batches();
            last = Some(Record { policy, decision, observation, now, decided_at, conflict: None, acts: true });
        }
        last.unwrap()
    }
}

/// This many replicas, at which this much arrives, evenly.
pub(crate) fn fleet(replicas: u32, arrivals: f64, now: Monotonic) -> Observation {
    let ready = (0..replicas).map(|index| Replica {
        name: format!(
            "photos-{}",
            ["x7k2p", "b9fqd", "m4wzt", "q8hnc", "t2vjr", "c6lds", "w3gxk", "z5ybm"][index as usize % 8]
        ),
        class: "a".to_owned(),
        sample: ReplicaSample::Measured(measured(arrivals / f64::from(replicas), now)),
    });
    Observation {
        current: replicas,
        ready: ready.collect(),
        startup_p90: Some(Duration::from_secs(12)),
        ..Observation::default()
    }
}

/// One replica that takes what arrives.
pub(crate) fn measured(arrivals: f64, now: Monotonic) -> Measurement {
    let batch = |size: f64| BatchDelta { size, executions: 20.0, seconds: 20.0 * (0.005 * size + 0.010) };
    Measurement {
        taken: now - Duration::from_millis(400),
        interval: Duration::from_secs(2),
        arrivals_per_second: arrivals,
        completed_per_second: arrivals,
        pending_images: 3.0,
        pending_images_before: 2.0,
        queue_time: Some(QueueTime {
            mean: Duration::from_micros(12_300),
            p95: Some(Duration::from_millis(31)),
            includes_batching_delay: false,
        }),
        oldest_wait: Some(Duration::from_millis(8)),
        mean_batch: Some(5.25),
        device_busy: Some(0.81),
        batches: vec![batch(4.0), batch(16.0)],
        ..Measurement::default()
    }
}
