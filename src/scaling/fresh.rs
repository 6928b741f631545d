//! One replica's believable measurement, and what it says of its queue.

use std::time::Duration;

use super::observation::{BatchDelta, Measurement, QueueTime};
use super::policy::PolicySettings;

/// Requests that wait for longer than this part of their execution wait for more than the running batch: batches are
/// full, or something before the device holds them up.
const FULL_BATCHES: f64 = 0.5;

/// One replica's believable measurement.
pub(super) struct Fresh<'a> {
    pub(super) name: &'a str,
    pub(super) class: &'a str,
    pub(super) measurement: &'a Measurement,
    /// The wait beyond the batching delay.
    pub(super) excess_wait: Option<Duration>,
    /// Whether it is far slower than the others of its class: its queue and its speed say nothing of theirs.
    pub(super) is_slow: bool,
}

impl Fresh<'_> {
    /// The wait over the time that its requests were executed, each counting its whole batch.
    pub(super) fn wait_to_execution(&self) -> Option<f64> {
        let sum = |of: fn(&BatchDelta) -> f64| self.measurement.batches.iter().map(of).sum::<f64>();
        let images = sum(|batch| batch.size * batch.executions);
        let executed = sum(|batch| batch.size * batch.seconds) / images;
        (images > 0.0 && executed > 0.0).then_some(self.excess_wait?.as_secs_f64() / executed)
    }

    /// Whether the server tells no sizes apart: then there is one mean size, and a mean time that larger batches weigh
    /// more in.
    pub(super) fn has_means_only(&self) -> bool {
        self.measurement.queue_time.is_some_and(|queue| queue.includes_batching_delay)
    }

    /// Whether the interval had full batches and small ones, of which no mean makes sense: a queue came or went.
    pub(super) fn has_mixed_batches(&self, max_batch_size: f64) -> bool {
        let measurement = self.measurement;
        let waiting = measurement.pending_images.max(measurement.pending_images_before);
        waiting > max_batch_size && measurement.mean_batch.is_some_and(|mean| mean < 0.9 * max_batch_size)
    }

    /// Whether its queue never emptied, so that what it completed is all that it can complete.
    pub(super) fn is_saturated(&self, target: Duration) -> bool {
        let measurement = self.measurement;
        !measurement.tainted
            && measurement.pending_images_before > 0.0
            && measurement.pending_images > 0.0
            && self.wait_to_execution().is_none_or(|ratio| ratio > FULL_BATCHES)
            && self.excess_wait.is_some_and(|wait| wait > target * 2)
    }

    /// Far above the target and getting worse, or a request that waits and nothing starts.
    pub(super) fn is_severe(&self, target: Duration, batch: f64) -> bool {
        let measurement = self.measurement;
        // What waits now will have waited this long; the counters of waits move only when requests start.
        let ahead = measurement.pending_images / (target * 4).as_secs_f64();
        let will_wait = measurement.pending_images > 2.0 * batch && ahead > measurement.completed_per_second;
        let waits = will_wait || self.excess_wait.is_some_and(|wait| wait > target * 4);
        let oldest = measurement.oldest_wait.unwrap_or_default();
        let rises = measurement.pending_images > measurement.pending_images_before + batch.min(8.0);
        let stuck = oldest > (target * 10).max(measurement.interval);
        !measurement.tainted && (stuck || (waits && (rises || oldest > target * 8)))
    }

    /// Above the target by more than noise, with more waiting than one execution takes.
    pub(super) fn is_moderate(&self, target: Duration, batch: f64) -> bool {
        let measurement = self.measurement;
        !measurement.tainted
            && measurement.pending_images > batch
            && self.excess_wait.is_some_and(|wait| wait > moderate_wait(target))
    }

    pub(super) fn is_calm(&self, target: Duration, batch: f64) -> bool {
        let measurement = self.measurement;
        let waits = self.excess_wait.map_or(measurement.completed_per_second > 0.0, |wait| wait > target / 2);
        !waits && measurement.pending_images <= batch && measurement.rejected_per_second <= 0.0
    }
}

/// The wait beyond which a queue may be growing.
pub(super) fn moderate_wait(target: Duration) -> Duration {
    target * 3 / 2
}

/// The wait less the batching delay that the server imposes on purpose, where the server's figure includes it.
pub(super) fn excess(wait: QueueTime, measurement: &Measurement, settings: &PolicySettings) -> Duration {
    if wait.includes_batching_delay {
        wait.mean.saturating_sub(deliberate_wait(measurement.arrivals_per_second, settings))
    } else {
        wait.mean
    }
}

/// How long Poisson arrivals wait at an idle server that holds a batch open for the delay or until it is full.
fn deliberate_wait(arrivals_per_second: f64, settings: &PolicySettings) -> Duration {
    let delay = settings.batching_delay.as_secs_f64();
    let in_delay = arrivals_per_second * delay;
    let others = f64::from(settings.max_batch_size) - 1.0;
    let seconds = if in_delay >= others {
        if arrivals_per_second > 0.0 { others / (2.0 * arrivals_per_second) } else { 0.0 }
    } else {
        delay * (1.0 + in_delay / 2.0) / (1.0 + in_delay)
    };
    Duration::from_secs_f64(seconds.clamp(0.0, 60.0))
}

#[cfg(test)]
mod tests {
    use super::super::testing::settings;
    use super::*;

    #[test]
    fn the_studys_queue_time_is_its_batching_delay() {
        let settings = PolicySettings { batching_delay: Duration::from_millis(10), ..settings() };
        // One shared queue at 43.2/s and four at 10.8/s; 8.8 ms were measured, between the two, with no congestion.
        for (rate, expected) in [(43.2, 8.49), (10.8, 9.51)] {
            let milliseconds = deliberate_wait(rate, &settings).as_secs_f64() * 1e3;
            assert!((milliseconds - expected).abs() < 0.01, "{milliseconds}");
        }
    }
}
