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
    /// Since when requests have waited and none was executed; see [`stuck_since`].
    pub(super) stuck_since: Option<Monotonic>,
}

/// Since when something has waited at a server that executed nothing. Triton's counters move only when requests end and it
/// does not say how old the oldest waiting one is: without this, a server that hangs would look idle.
pub(super) fn stuck_since(before: &Scraped, after: &Scraped) -> Option<Monotonic> {
    let (then, now) = (&before.snapshot, &after.snapshot);
    let stands_still = now.executions <= then.executions && now.requests_completed <= then.requests_completed;
    let same_server = after.container_restarts == before.container_restarts && !now.went_back_since(then);
    (same_server && stands_still && then.has_waiting() && now.has_waiting())
        .then(|| before.stuck_since.unwrap_or(before.at))
}

/// What the server did between two scrapes; none when no time passed.
///
/// `warming` marks an interval in which the server may still compile or load: its speed says nothing of later. `instances`
/// of the model take turns on the device, which is like one of them that is so many times as fast.
pub(super) fn measure(before: &Scraped, after: &Scraped, warming: bool, instances: u32) -> Option<Measurement> {
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
    let requests = now.requests_executed() - then.requests_executed();
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
    let mut batches = batches(then, now, images, requests, executions);
    for batch in &mut batches {
        batch.seconds /= f64::from(instances.max(1));
    }

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
        oldest_wait: now.oldest_wait.or_else(|| Some(after.at.since(after.stuck_since?))),
        mean_batch: (executions > 0.0).then(|| images / executions),
        device_busy: device_busy(then, now, &batches, instances).map(|busy| (busy / seconds).clamp(0.0, 1.0)),
        batches,
        tainted: restarted || warming,
    })
}

/// Images of a request: of the interval's, else of all since the start, else one.
fn images_per_request(images: f64, requests: f64, now: &Snapshot) -> f64 {
    if requests > 0.0 {
        images / requests
    } else if now.requests_executed() > 0.0 {
        now.images_completed / now.requests_executed()
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

/// Device seconds of each instance.
fn device_busy(then: &Snapshot, now: &Snapshot, batches: &[BatchDelta], instances: u32) -> Option<f64> {
    match now.device_busy_seconds {
        Some(busy) => Some((busy - then.device_busy_seconds.unwrap_or_default()) / f64::from(instances.max(1))),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse::parse;
    use super::super::snapshot::{BatchTotal, Failures};
    use super::*;

    fn scraped(seconds: f64, snapshot: Snapshot) -> Scraped {
        let at = Monotonic::from_start(Duration::from_secs_f64(seconds));
        Scraped { at, container_restarts: 0, snapshot, stuck_since: None }
    }

    fn near(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-6
    }

    #[test]
    fn two_seconds_of_a_real_triton() {
        let page = |text: &str| parse(text.as_bytes(), "clip").unwrap();
        let before = scraped(0.0, page(include_str!("testdata/triton-under-load.txt")));
        let after = scraped(2.0, page(include_str!("testdata/triton-under-load-2s-later.txt")));
        let measured = measure(&before, &after, false, 1).unwrap();
        assert!(near(measured.completed_per_second, 765.5), "{measured:?}");
        // One request less waits than before, so one less came in than was answered.
        assert!(near(measured.arrivals_per_second, 765.0), "{measured:?}");
        let queue = measured.queue_time.unwrap();
        assert!(near(queue.mean.as_secs_f64() * 1e3, 4.697_23) || (queue.mean.as_micros() == 4697), "{queue:?}");
        assert!(queue.includes_batching_delay && queue.p95.is_none());
        assert!(near(measured.mean_batch.unwrap(), 1531.0 / 266.0));
        let [batch] = measured.batches[..] else { panic!("{measured:?}") };
        assert!(near(batch.executions, 266.0) && batch.seconds > 1.9 && batch.seconds < 2.1, "{batch:?}");
        assert!(!measured.tainted);
    }

    #[test]
    fn two_seconds_of_our_server_with_the_timer_device() {
        let page = |text: &str| parse(text.as_bytes(), "clip").unwrap();
        let before = scraped(0.0, page(include_str!("testdata/flotilla-under-load.txt")));
        let after = scraped(2.0, page(include_str!("testdata/flotilla-under-load-2s-later.txt")));
        let measured = measure(&before, &after, false, 1).unwrap();
        // About 120 images a second were sent, at 5 ms each and 10 ms for each execution.
        assert!((measured.arrivals_per_second - 120.0).abs() < 15.0, "{measured:?}");
        assert!(!measured.tainted && measured.queue_time.is_some_and(|queue| queue.p95 > Some(queue.mean)));
        let executions: f64 = measured.batches.iter().map(|batch| batch.executions).sum();
        let expected: f64 = measured.batches.iter().map(|batch| batch.executions * (0.005 * batch.size + 0.010)).sum();
        let seconds: f64 = measured.batches.iter().map(|batch| batch.seconds).sum();
        assert!(seconds >= expected && seconds < expected + 0.005 * executions, "{seconds} s, {expected} s expected");
        assert!(measured.device_busy.is_some_and(|busy| near(busy, seconds / 2.0)));
    }

    /// Our server's page, some images later.
    fn ours(images: f64) -> Snapshot {
        let mut page = parse(include_str!("testdata/flotilla.txt").as_bytes(), "timer").unwrap();
        page.images_completed += images;
        page.requests_completed += images / 2.0;
        page
    }

    #[test]
    fn our_servers_signal() {
        let mut later = ours(400.0);
        later.pending_images = Some(100.0);
        later.images_rejected = Some(80.0);
        later.failures = Failures { rejected: 40.0, canceled: 7.0, backend: 0.0 };
        later.executions += 20.0;
        later.device_busy_seconds = Some(14.5);
        later.batches.insert(32, BatchTotal { executions: 60.0, seconds: 10.2 });
        later.queue = Some(Histogram {
            buckets: [
                (0.001, 100.0),
                (0.005, 200.0),
                (0.01, 300.0),
                (0.02, 800.0),
                (0.04, 1300.0),
                (f64::INFINITY, 1400.0),
            ]
            .to_vec(),
            sum: 29.0,
            count: 1400.0,
        });
        let measured = measure(&scraped(0.0, ours(0.0)), &scraped(2.0, later), false, 1).unwrap();
        // 400 answered, 20 refused, 5 requests of 2 images given up, 60 more waiting.
        assert!(near(measured.arrivals_per_second, 245.0), "{measured:?}");
        assert!(near(measured.rejected_per_second, 10.0));
        assert_eq!((measured.pending_images_before, measured.pending_images), (40.0, 100.0));
        assert_eq!(measured.device_busy, Some(0.75));
        assert_eq!(measured.batches.len(), 1);
        assert!(near(measured.batches[0].executions, 10.0) && near(measured.batches[0].seconds, 1.7));
        let queue = measured.queue_time.unwrap();
        assert_eq!(queue.mean, Duration::from_millis(25));
        // 100 of the 200 are within 20 ms, 200 within 40 ms: nine tenths of that bucket make 190.
        assert!(near(queue.p95.unwrap().as_secs_f64(), 0.038), "{queue:?}");
        assert!(!queue.includes_batching_delay);
    }

    /// Two instances that each execute for 1.7 s are like one that executes for 0.85 s, and are busy for as long.
    #[test]
    fn instances_that_take_turns_are_like_a_faster_one() {
        let mut later = ours(320.0);
        later.executions += 10.0;
        later.device_busy_seconds = later.device_busy_seconds.map(|busy| busy + 1.7);
        later.batches.insert(32, BatchTotal { executions: 60.0, seconds: 10.2 });
        let measured = measure(&scraped(0.0, ours(0.0)), &scraped(2.0, later), false, 2).unwrap();
        assert!(near(measured.batches[0].executions, 10.0) && near(measured.batches[0].seconds, 0.85), "{measured:?}");
        assert!(near(measured.device_busy.unwrap(), 0.425), "{measured:?}");
    }

    /// Triton counts a cached request as answered and waited for, but neither as an image nor as an execution.
    #[test]
    fn cached_requests_are_no_load() {
        let cached = |hits: f64, requests: f64, images: f64| Snapshot {
            requests_completed: requests,
            requests_cached: Some(hits),
            images_completed: images,
            executions: images,
            pending_requests: Some(0.0),
            ..Snapshot::default()
        };
        let before = scraped(0.0, cached(0.0, 0.0, 0.0));
        let measured = measure(&before, &scraped(2.0, cached(300.0, 400.0, 200.0)), false, 1).unwrap();
        assert!(near(measured.arrivals_per_second, 100.0), "{measured:?}");
    }

    #[test]
    fn an_idle_interval_has_no_queue_time() {
        let measured = measure(&scraped(0.0, ours(0.0)), &scraped(2.0, ours(0.0)), false, 1).unwrap();
        assert_eq!((measured.queue_time, measured.mean_batch, measured.arrivals_per_second), (None, None, 0.0));
        assert!(measured.batches.is_empty());
        assert!(measure(&scraped(2.0, ours(0.0)), &scraped(2.0, ours(0.0)), false, 1).is_none());
    }

    #[test]
    fn every_sign_of_a_restart_taints_the_interval_and_counts_from_zero() {
        let before = scraped(0.0, ours(1_000.0));
        let started = Snapshot { process_start_seconds: Some(1_795_000_100.0), ..ours(1_000.0) };
        let one_lower = Snapshot { queue_seconds: 1.0, ..ours(1_000.0) };
        let gone = Snapshot { images_rejected: None, ..ours(1_000.0) };
        let restarted = Scraped { container_restarts: 1, ..scraped(2.0, ours(1_000.0)) };
        for after in [scraped(2.0, started), scraped(2.0, one_lower), scraped(2.0, gone), restarted] {
            let measured = measure(&before, &after, false, 1).unwrap();
            assert!(measured.tainted && near(measured.completed_per_second, 1_700.0), "{measured:?}");
            assert!(near(measured.pending_images_before, 0.0));
        }
        let warming = measure(&before, &scraped(2.0, ours(1_001.0)), true, 1).unwrap();
        assert!(warming.tainted && near(warming.completed_per_second, 0.5));
    }

    proptest! {
        /// A server that answers, refuses, restarts and is scraped at odd times: no rate is negative, and none is
        /// more than what truly happened in the interval.
        #[test]
        fn rates_are_never_negative_and_never_above_what_happened(
            steps in prop::collection::vec((0..500_u32, 0..50_u32, 0..200_u32, prop::bool::weighted(0.2), 1..8_000_u64), 1..40),
        ) {
            let (mut now, mut page) = (Monotonic::default(), Snapshot { pending_images: Some(0.0), ..Snapshot::default() });
            let mut before = Scraped { at: now, container_restarts: 0, snapshot: page.clone(), stuck_since: None };
            for (answered, refused, pending, restarts, milliseconds) in steps {
                if restarts {
                    page = Snapshot::default();
                }
                let (answered, refused) = (f64::from(answered), f64::from(refused));
                page.images_completed += answered;
                page.requests_completed += answered;
                page.executions += answered / 4.0;
                page.images_rejected = Some(page.images_rejected.unwrap_or_default() + refused);
                page.pending_images = Some(f64::from(pending));
                now = now + Duration::from_millis(milliseconds);
                let after = Scraped { at: now, container_restarts: 0, snapshot: page.clone(), stuck_since: None };
                let measured = measure(&before, &after, false, 1).unwrap();
                let seconds = measured.interval.as_secs_f64();
                prop_assert!(measured.completed_per_second >= 0.0 && measured.rejected_per_second >= 0.0);
                prop_assert!(measured.arrivals_per_second >= 0.0);
                prop_assert!(measured.completed_per_second * seconds <= answered + 1e-6);
                prop_assert!(measured.rejected_per_second * seconds <= refused + 1e-6);
                prop_assert!(measured.arrivals_per_second * seconds <= answered + refused + f64::from(pending) + 1e-6);
                before = after;
            }
        }
    }
}
