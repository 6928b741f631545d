//! Two snapshots of one server become what it did between them.
//!
//! A server that started anew starts all its counters anew. So a reset is found for the whole page and never for one
//! counter: any of them lower than before, another process start, another container. Then the new values themselves
//! are what happened since the start, which is not more than what happened in the interval.

use std::time::Duration;

use super::snapshot::{Histogram, Snapshot};
use crate::scaling::{BatchDelta, Measurement, Monotonic, QueueTime};

/// A snapshot with its time, and the container that it is of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scraped {
    pub(super) at: Monotonic,
    pub(super) container_restarts: u32,
    pub(super) snapshot: Snapshot,
}

/// What the server did between two scrapes; none when no time passed.
///
/// `warming` marks an interval in which the server may still compile or load: its speed says nothing of later.
pub(super) fn measure(before: &Scraped, after: &Scraped, warming: bool) -> Option<Measurement> {
    let interval = after.at.since(before.at);
    if interval.is_zero() {
        return None;
    }
    let restarted =
        after.container_restarts != before.container_restarts || after.snapshot.went_back_since(&before.snapshot);
    let zero = Snapshot::default();
    let then = if restarted { &zero } else { &before.snapshot };
    let now = &after.snapshot;

    let images = now.images_completed - then.images_completed;
    let requests = now.requests_completed - then.requests_completed;
    let executions = now.executions - then.executions;
    let images_per_request = images_per_request(images, requests, now);
    let rejected = match (now.images_rejected, then.images_rejected) {
        (Some(now), then) => now - then.unwrap_or_default(),
        (None, _) => (now.failures.rejected - then.failures.rejected) * images_per_request,
    };
    let given_up = (now.failures.canceled - then.failures.canceled + now.failures.backend - then.failures.backend)
        * images_per_request;
    let pending = |snapshot: &Snapshot| {
        snapshot.pending_images.unwrap_or_else(|| snapshot.pending_requests.unwrap_or_default() * images_per_request)
    };
    let (waited_before, waits_now) = (pending(then), pending(now));
    let arrivals = (images + rejected + given_up + waits_now - waited_before).max(0.0);
    let batches = batches(then, now, images, requests, executions);

    let seconds = interval.as_secs_f64();
    Some(Measurement {
        taken: after.at,
        interval,
        arrivals_per_second: arrivals / seconds,
        completed_per_second: images / seconds,
        rejected_per_second: rejected / seconds,
        pending_images_before: waited_before,
        pending_images: waits_now,
        queue_time: queue_time(then, now, requests),
        oldest_wait: now.oldest_wait,
        mean_batch: (executions > 0.0).then(|| images / executions),
        device_busy: device_busy(then, now, &batches).map(|busy| (busy / seconds).clamp(0.0, 1.0)),
        batches,
        tainted: restarted || warming,
    })
}

/// Images of a request: of the interval's, else of all since the start, else one.
fn images_per_request(images: f64, requests: f64, now: &Snapshot) -> f64 {
    if requests > 0.0 {
        images / requests
    } else if now.requests_completed > 0.0 {
        now.images_completed / now.requests_completed
    } else {
        1.0
    }
}

/// Executions by size where the server tells them; else one entry of the mean size, with the mean time of a request's
/// execution, which is what Triton's counters hold.
fn batches(then: &Snapshot, now: &Snapshot, images: f64, requests: f64, executions: f64) -> Vec<BatchDelta> {
    if !now.batches.is_empty() {
        let delta = |(size, total): (&u32, &super::snapshot::BatchTotal)| {
            let before = then.batches.get(size).copied().unwrap_or_default();
            let (executions, seconds) = (total.executions - before.executions, total.seconds - before.seconds);
            (executions > 0.0).then(|| BatchDelta { size: f64::from(*size), executions, seconds })
        };
        return now.batches.iter().filter_map(delta).collect();
    }
    let computed = now.compute_seconds - then.compute_seconds;
    if executions > 0.0 && requests > 0.0 && computed > 0.0 {
        vec![BatchDelta { size: images / executions, executions, seconds: computed / requests * executions }]
    } else {
        Vec::new()
    }
}

fn device_busy(then: &Snapshot, now: &Snapshot, batches: &[BatchDelta]) -> Option<f64> {
    match now.device_busy_seconds {
        Some(busy) => Some(busy - then.device_busy_seconds.unwrap_or_default()),
        None => (!batches.is_empty()).then(|| batches.iter().map(|batch| batch.seconds).sum()),
    }
}

fn queue_time(then: &Snapshot, now: &Snapshot, requests: f64) -> Option<QueueTime> {
    let Some(queue) = &now.queue else {
        let waited = now.queue_seconds - then.queue_seconds;
        return (requests > 0.0).then(|| QueueTime {
            mean: duration(waited / requests),
            p95: None,
            includes_batching_delay: true,
        });
    };
    let before = then.queue.clone().unwrap_or_default();
    let count = queue.count - before.count;
    (count > 0.0).then(|| QueueTime {
        mean: duration((queue.sum - before.sum) / count),
        p95: quantile(0.95, &before, queue).map(duration),
        includes_batching_delay: false,
    })
}

/// The quantile of what came between two histograms, linear within its bucket; the last finite bound where it is
/// beyond it.
fn quantile(quantile: f64, before: &Histogram, after: &Histogram) -> Option<f64> {
    let before_at = |bound: f64| before.buckets.iter().find(|(known, _)| known.total_cmp(&bound).is_eq());
    let mut counts =
        after.buckets.iter().map(|(bound, count)| (*bound, count - before_at(*bound).map_or(0.0, |b| b.1)));
    let rank = quantile * counts.clone().next_back()?.1;
    let (mut lower, mut below) = (0.0, 0.0);
    counts.find_map(|(bound, count)| {
        if count >= rank {
            let part = if count > below { (rank - below) / (count - below) } else { 1.0 };
            return Some(if bound.is_finite() { lower + part.clamp(0.0, 1.0) * (bound - lower) } else { lower });
        }
        (lower, below) = (bound, count);
        None
    })
}

fn duration(seconds: f64) -> Duration {
    Duration::from_secs_f64(if seconds.is_finite() { seconds.clamp(0.0, 1e6) } else { 0.0 })
}
