//! One page of one server, reduced to what the law needs: absolute counters and gauges of the service's model.

use std::collections::BTreeMap;
use std::time::Duration;

/// What a page says. Absent is absent: a server that does not export a family leaves `None`, never 0.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// Requests answered.
    pub requests_completed: f64,
    /// Of them, how many from a cache: they were neither executed nor counted as images.
    pub requests_cached: Option<f64>,
    /// Images answered.
    pub images_completed: f64,
    /// Executions on the device.
    pub executions: f64,
    /// Requests that failed, by what became of them.
    pub failures: Failures,
    /// Time that answered requests waited together, the batching delay included (Triton's meaning).
    pub queue_seconds: f64,
    /// Time that answered requests were computed together: each counts its whole batch (Triton's meaning).
    pub compute_seconds: f64,
    /// Requests waiting.
    pub pending_requests: Option<f64>,
    /// Images waiting.
    pub pending_images: Option<f64>,
    /// Images refused.
    pub images_rejected: Option<f64>,
    /// How long requests waited, the batching delay left out.
    pub queue: Option<Histogram>,
    /// How long the oldest waiting request has waited.
    pub oldest_wait: Option<Duration>,
    /// Time in which the device executed.
    pub device_busy_seconds: Option<f64>,
    /// Executions by batch size.
    pub batches: BTreeMap<u32, BatchTotal>,
    /// When the server started, by its own clock.
    pub process_start_seconds: Option<f64>,
    /// What the server says of itself; none where it is not Flotilla's own.
    pub server: Option<ServerInfo>,
}

/// Requests that were not answered.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Failures {
    /// Refused, or timed out in the queue.
    pub rejected: f64,
    /// Given up by the client while waiting.
    pub canceled: f64,
    /// Executed, and failed.
    pub backend: f64,
}

/// A cumulative histogram.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// Upper bound and how many were at or below it, by rising bound; the last bound is infinite.
    pub buckets: Vec<(f64, f64)>,
    /// The sum of all values.
    pub sum: f64,
    /// How many values.
    pub count: f64,
}

/// Executions of one batch size.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BatchTotal {
    /// How many.
    pub executions: f64,
    /// How long they took together.
    pub seconds: f64,
}

/// What Flotilla's own server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerInfo {
    /// The execution provider that is in use.
    pub provider: String,
    /// The hash of the model file that is loaded.
    pub model_sha256: String,
    /// The server's version.
    pub version: String,
}

impl Snapshot {
    /// Requests that reached the device.
    pub(super) fn requests_executed(&self) -> f64 {
        self.requests_completed - self.requests_cached.unwrap_or_default()
    }

    /// Whether anything waits.
    pub(super) fn has_waiting(&self) -> bool {
        self.pending_images.or(self.pending_requests).is_some_and(|waiting| waiting > 0.0)
    }

    /// Whether a counter is lower than it was: then the server started anew, and all its counters with it.
    pub(super) fn went_back_since(&self, before: &Self) -> bool {
        let optional = |counter: Option<f64>| counter.unwrap_or_default();
        let counters = |snapshot: &Self| {
            [
                snapshot.requests_completed,
                optional(snapshot.requests_cached),
                snapshot.images_completed,
                snapshot.executions,
                snapshot.failures.rejected,
                snapshot.failures.canceled,
                snapshot.failures.backend,
                snapshot.queue_seconds,
                snapshot.compute_seconds,
                optional(snapshot.images_rejected),
                optional(snapshot.device_busy_seconds),
                snapshot.queue.as_ref().map_or(0.0, |queue| queue.count),
                snapshot.queue.as_ref().map_or(0.0, |queue| queue.sum),
            ]
        };
        let batches_went_back = before.batches.iter().any(|(size, then)| {
            let now = self.batches.get(size).copied().unwrap_or_default();
            now.executions < then.executions || now.seconds < then.seconds
        });
        let restarted = match (before.process_start_seconds, self.process_start_seconds) {
            (Some(then), Some(now)) => (now - then).abs() > 0.5,
            _ => false,
        };
        restarted || batches_went_back || counters(self).into_iter().zip(counters(before)).any(|(now, then)| now < then)
    }
}
