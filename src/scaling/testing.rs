//! Small values that the tests of this folder start from.

use std::time::Duration;

use super::{Policy, PolicySettings};

/// The defaults of the API, with a short window.
pub(super) fn settings() -> PolicySettings {
    PolicySettings {
        min_replicas: 1,
        max_replicas: 8,
        target_queue_time: Duration::from_millis(20),
        stabilization_window: Duration::from_secs(60),
        max_batch_size: 32,
        batching_delay: Duration::ZERO,
        scrape_interval: Duration::from_secs(2),
        startup_fallback: Duration::from_secs(60),
    }
}

/// The settings as a policy.
pub(super) fn policy() -> Policy {
    Policy::new(settings()).unwrap()
}
