//! The scenario that the tests of this folder start from.

use std::time::Duration;

use super::scenario::{Faults, Routing, Scenario, ServerMetrics, ServerSpec};
use crate::scaling::BatchLine;

/// The timer device, 20 s of starting, waits of at most 60 ms.
pub(super) fn scenario() -> Scenario {
    Scenario {
        server: ServerSpec {
            line: BatchLine { alpha: 0.005, tau0: 0.010 },
            max_batch: 32,
            batching_delay: Duration::ZERO,
            max_queue: 1024,
        },
        startup_seconds: 20.0,
        startup_sigma: 0.2,
        min_replicas: 1,
        max_replicas: 12,
        gpu_quota: 12,
        routing: Routing::Random,
        slo_wait: Duration::from_millis(60),
        target_queue_time: Duration::from_millis(20),
        stabilization_window: Duration::from_mins(5),
        scrape_interval: Duration::from_secs(2),
        metrics: ServerMetrics::Flotilla,
        faults: Faults::default(),
        price_per_gpu_hour: 1.0,
    }
}
