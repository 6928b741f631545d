//! How long one decision takes, for fleets of different sizes: `cargo bench --bench decide`.
//!
//! Each figure is the quickest of a hundred rounds of five calls: the others had to share the processor.

use std::hint::black_box;
use std::io::Write as _;
use std::time::{Duration, Instant};

use flotilla::scaling::{
    BatchDelta, Measurement, Monotonic, Observation, Policy, PolicySettings, QueueTime, Replica, ReplicaSample, State,
    decide,
};

const ROUNDS: usize = 100;
const CALLS: u32 = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let policy = Policy::new(PolicySettings {
        min_replicas: 1,
        max_replicas: 10_000,
        target_queue_time: Duration::from_millis(20),
        stabilization_window: Duration::from_mins(5),
        max_batch_size: 32,
        batching_delay: Duration::ZERO,
        scrape_interval: Duration::from_secs(2),
        startup_fallback: Duration::from_mins(1),
    })?;
    for replicas in [1, 10, 100, 1000] {
        let (mut state, mut second) = (State::default(), 0);
        let mut rounds: Vec<Duration> = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let told: Vec<(Observation, Monotonic)> = (0..CALLS)
                .map(|_| {
                    second += 2;
                    let now = Monotonic::from_start(Duration::from_secs(second));
                    (fleet(replicas, now), now)
                })
                .collect();
            let began = Instant::now();
            for (observation, now) in &told {
                let (decision, next) = decide(&policy, state, black_box(observation), *now);
                black_box(decision);
                state = next;
            }
            rounds.push(began.elapsed() / CALLS);
        }
        let micros = rounds.iter().min().copied().unwrap_or_default().as_secs_f64() * 1e6;
        writeln!(std::io::stdout(), "{replicas} replica(s): {micros:.1} us a decision")?;
    }
    Ok(())
}

/// A busy fleet, each replica with its own rate and 32 sizes of batches.
fn fleet(replicas: u32, taken: Monotonic) -> Observation {
    let measured = |index: u32| {
        let arrivals = 80.0 + f64::from(index % 40);
        let batch = |size: u32| BatchDelta {
            size: f64::from(size),
            executions: 2.0,
            seconds: 2.0 * (0.005 * f64::from(size) + 0.010),
        };
        ReplicaSample::Measured(Measurement {
            taken,
            interval: Duration::from_secs(2),
            arrivals_per_second: arrivals,
            completed_per_second: arrivals,
            pending_images: 3.0,
            queue_time: Some(QueueTime { mean: Duration::from_millis(12), ..QueueTime::default() }),
            oldest_wait: Some(Duration::from_millis(5)),
            batches: (1..=32).map(batch).collect(),
            ..Measurement::default()
        })
    };
    let ready = (0..replicas).map(|index| Replica {
        name: format!("pod-{index}"),
        class: "template/NVIDIA-L4".to_owned(),
        sample: measured(index),
    });
    Observation {
        current: replicas,
        ready: ready.collect(),
        startup_p90: Some(Duration::from_secs(30)),
        ..Observation::default()
    }
}
