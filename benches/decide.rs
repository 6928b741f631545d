//! How long one decision takes, for fleets of different sizes: `cargo bench --bench decide`.

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use flotilla::scaling::{
    BatchDelta, Measurement, Monotonic, Observation, Policy, PolicySettings, QueueTime, Replica, ReplicaSample, State,
    decide,
};

fn decisions(criterion: &mut Criterion) {
    let policy = Policy::new(PolicySettings {
        min_replicas: 1,
        max_replicas: 10_000,
        target_queue_time: Duration::from_millis(20),
        stabilization_window: Duration::from_mins(5),
        max_batch_size: 32,
        batching_delay: Duration::ZERO,
        scrape_interval: Duration::from_secs(2),
        startup_fallback: Duration::from_mins(1),
    });
    let Ok(policy) = policy else { return };
    let mut group = criterion.benchmark_group("decide");
    for replicas in [1, 10, 100, 1000] {
        group.bench_with_input(BenchmarkId::from_parameter(replicas), &replicas, |bencher, replicas| {
            let (mut state, mut second) = (State::default(), 0);
            let seen = || {
                second += 2;
                let now = Monotonic::from_start(Duration::from_secs(second));
                (fleet(*replicas, now), now)
            };
            // One at a time: the law's windows hold what they hold in a fleet, five minutes of decisions.
            bencher.iter_batched_ref(
                seen,
                |(observation, now)| {
                    let (decision, next) = decide(&policy, std::mem::take(&mut state), observation, *now);
                    state = next;
                    decision
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
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

criterion_group!(benches, decisions);
criterion_main!(benches);
