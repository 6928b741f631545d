//! What one replica can take: the line of execution time over batch size, inverted at the target queue time.
//!
//! A device executes a batch of `b` images in about `alpha * b + tau0` seconds. While it is busy the next batch
//! forms, so batches grow with the load, and the mean wait at a given arrival rate follows from the two numbers alone
//! (Inoue, "Queueing analysis of GPU-based inference servers with dynamic batching", arXiv 1912.06322). The wait is
//! inverted numerically: the capacity is the highest rate whose predicted wait is within the target.
//!
//! The line is fitted from what the replicas report per batch size. Each size keeps its own mean, which forgets by
//! executions and not by time: sizes that occur rarely keep the line's slope known through hours of steady load.
//!
//! For the same reason what was learnt at the very start from a slow replica would stay for as long, and no replica would
//! look slow beside it. So while a model is young, replicas are compared with each other ([`Speed`]) and it is compared with
//! them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::observation::{BatchDelta, Monotonic};
use super::speed::Speed;

/// Part of the full speed that is ever planned for: the rest takes the noise of the arrivals.
const PLANNED_LOAD: f64 = 0.85;
/// Executions of one size after which older ones are forgotten.
const REMEMBERED_EXECUTIONS: f64 = 200.0;
/// Executions needed before a line is believed.
const FEWEST_EXECUTIONS: f64 = 10.0;
/// Executions until which a model may rest on a replica that was slow: some rounds of a busy one.
const YOUNG_EXECUTIONS: f64 = 500.0;
/// Variance of the batch sizes that is needed to know a slope.
const LEAST_VARIANCE: f64 = 0.25;
/// Most sizes remembered; a server has at most its maximum batch size of them, but the page is not to be trusted.
const MOST_SIZES: usize = 256;
/// How long a throughput seen at saturation limits the capacity that the line promises.
const CEILING_LIFETIME: Duration = Duration::from_mins(30);

/// Execution time over batch size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchLine {
    /// Seconds that each image adds.
    pub alpha: f64,
    /// Seconds that each execution costs whatever its size.
    pub tau0: f64,
}

/// Where a capacity comes from, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub enum CapacitySource {
    /// The fitted line, inverted at the target.
    BatchLine,
    /// What the replicas completed while their queues never emptied.
    Saturation,
    /// The speed at the only batch size seen so far.
    SingleBatchSize,
    /// What the replicas complete while nothing waits, which is more than the model promises.
    Observed,
    /// Nothing says.
    #[default]
    Unknown,
}

/// What a replica can take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Capacity {
    /// Images per second within the target.
    pub(super) within_target: f64,
    /// Images per second with every batch full.
    pub(super) full_speed: f64,
    pub(super) source: CapacitySource,
}

/// What has been learnt of one class of replicas.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct ClassModel {
    sizes: BTreeMap<u32, SizeMean>,
    /// Executions that it has learnt from, forgotten ones too.
    learnt: f64,
    /// The newest interval of batches that make no point of a line: better than nothing, while there is nothing.
    rough: SizeMean,
    ceiling: Option<Ceiling>,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct SizeMean {
    executions: f64,
    images: f64,
    seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Ceiling {
    images_per_second: f64,
    seen: Monotonic,
}

impl CapacitySource {
    /// The name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BatchLine => "BatchLine",
            Self::Saturation => "Saturation",
            Self::SingleBatchSize => "SingleBatchSize",
            Self::Observed => "Observed",
            Self::Unknown => "Unknown",
        }
    }
}

impl BatchLine {
    /// Images per second with every batch full.
    pub fn full_speed(self, max_batch_size: u32) -> f64 {
        let batch = f64::from(max_batch_size);
        batch / (self.alpha * batch + self.tau0)
    }

    /// The target that can be met: under load a request waits for about half an execution, whatever the fleet's size.
    pub fn attainable_target(self, target: Duration) -> Duration {
        target.max(Duration::from_secs_f64(self.tau0.clamp(0.0, 3600.0) / 2.0))
    }

    /// Images per second that a replica takes while requests wait no longer than the target on average.
    pub fn rate_within(self, target: Duration, max_batch_size: u32) -> f64 {
        let target = self.attainable_target(target).as_secs_f64();
        let most = PLANNED_LOAD * self.full_speed(max_batch_size);
        let wait = |rate: f64| if max_batch_size == 1 { self.wait_unbatched(rate) } else { self.wait_batched(rate) };
        let (mut low, mut high) = (0.0, most);
        if wait(high) <= target {
            return high;
        }
        // The wait rises with the rate, so halving finds the crossing; 40 halvings are exact for any real server.
        for _ in 0..40 {
            let middle = f64::midpoint(low, high);
            if wait(middle) <= target { low = middle } else { high = middle }
        }
        low
    }

    /// Mean wait at an arrival rate while batches form as the device is busy: Inoue's upper bound of the time in the
    /// system, less the execution.
    fn wait_batched(self, rate: f64) -> f64 {
        let Self { alpha, tau0 } = self;
        let load = rate * alpha;
        if load >= 1.0 {
            return f64::INFINITY;
        }
        let first =
            (alpha + tau0) / (2.0 * (1.0 - load)) * (1.0 + 2.0 * rate * tau0 + (1.0 - rate * tau0) / (1.0 + load));
        let second = 1.5 * tau0 / (1.0 - load) + alpha / 2.0 * (load + 2.0) / (1.0 - load * load);
        let in_system = first.min(second);
        (0.85 * (in_system - alpha - tau0)).min(in_system / 3.0).max(0.0)
    }

    /// Mean wait where every image is executed alone: Pollaczek and Khinchine's for a constant service time.
    fn wait_unbatched(self, rate: f64) -> f64 {
        let service = self.alpha + self.tau0;
        let load = rate * service;
        if load >= 1.0 { f64::INFINITY } else { load * service / (2.0 * (1.0 - load)) }
    }
}

impl ClassModel {
    /// Adds what one replica executed in one interval.
    pub(super) fn learn(&mut self, batches: &[BatchDelta]) {
        for batch in batches.iter().filter(|batch| batch.size >= 0.5 && batch.executions > 0.0 && batch.seconds > 0.0) {
            let key = nearest_size(batch.size);
            if self.sizes.len() >= MOST_SIZES && !self.sizes.contains_key(&key) {
                continue;
            }
            self.learnt += batch.executions;
            let mean = self.sizes.entry(key).or_default();
            mean.executions += batch.executions;
            mean.images += batch.executions * batch.size;
            mean.seconds += batch.seconds;
            let keep = (REMEMBERED_EXECUTIONS / mean.executions).min(1.0);
            mean.executions *= keep;
            mean.images *= keep;
            mean.seconds *= keep;
        }
    }

    /// Whether so little was executed that a slow replica may have been most of it.
    pub(super) fn is_young(&self) -> bool {
        self.learnt < YOUNG_EXECUTIONS
    }

    /// Begins anew where replicas are far quicker than what was learnt so far: it was of a slow one, and neither its line nor
    /// what it completed at most is theirs.
    pub(super) fn doubt<'a>(&mut self, round: impl Iterator<Item = &'a Speed>) {
        let sum = |of: fn(&SizeMean) -> f64| self.sizes.values().map(of).sum::<f64>();
        let own = Speed {
            executions: sum(|mean| mean.executions),
            images: sum(|mean| mean.images),
            seconds: sum(|mean| mean.seconds),
        };
        if self.is_young() && own.is_slower_than_most(round) {
            *self = Self::default();
        }
    }

    /// Notes what one replica executed where sizes were mixed, so that their mean is none of them.
    pub(super) fn learn_roughly(&mut self, batches: &[BatchDelta]) {
        let sum = |of: fn(&BatchDelta) -> f64| batches.iter().map(of).sum::<f64>();
        self.rough = SizeMean {
            executions: sum(|batch| batch.executions),
            images: sum(|batch| batch.executions * batch.size),
            seconds: sum(|batch| batch.seconds),
        };
    }

    /// Notes what a replica completed while its queue never emptied: it can't do more, whatever the line says.
    pub(super) fn saturated_at(&mut self, images_per_second: f64, now: Monotonic) {
        if images_per_second > 0.0 {
            // The best of what was seen: an interval with a hiccup in it must not make replicas look slow.
            let best = self.live_ceiling(now).map_or(images_per_second, |known| known.max(images_per_second));
            self.ceiling = Some(Ceiling { images_per_second: best, seen: now });
        }
    }

    /// What a replica of this class can take.
    pub(super) fn capacity(&self, target: Duration, max_batch_size: u32, now: Monotonic) -> Option<Capacity> {
        let promised = self.line().map(|line| Capacity {
            within_target: line.rate_within(target, max_batch_size),
            full_speed: line.full_speed(max_batch_size),
            source: CapacitySource::BatchLine,
        });
        let seen = self.live_ceiling(now).map(|rate| Capacity {
            within_target: PLANNED_LOAD * rate,
            full_speed: rate,
            source: CapacitySource::Saturation,
        });
        match (promised, seen) {
            (Some(line), Some(ceiling)) if ceiling.within_target < line.within_target => Some(ceiling),
            (Some(line), _) => Some(line),
            (None, Some(ceiling)) => Some(ceiling),
            (None, None) => self.single_size(),
        }
    }

    /// The least-squares line through the means by size, each weighted by its executions.
    pub(super) fn line(&self) -> Option<BatchLine> {
        let points = || {
            self.sizes
                .values()
                .map(|mean| (mean.executions, mean.images / mean.executions, mean.seconds / mean.executions))
        };
        let total: f64 = points().map(|(weight, ..)| weight).sum();
        if total < FEWEST_EXECUTIONS {
            return None;
        }
        let mean_size = points().map(|(weight, size, _)| weight * size).sum::<f64>() / total;
        let mean_time = points().map(|(weight, _, time)| weight * time).sum::<f64>() / total;
        let variance = points().map(|(weight, size, _)| weight * (size - mean_size).powi(2)).sum::<f64>() / total;
        if variance < LEAST_VARIANCE {
            return None;
        }
        let covariance =
            points().map(|(weight, size, time)| weight * (size - mean_size) * (time - mean_time)).sum::<f64>() / total;
        let alpha = covariance / variance;
        let tau0 = mean_time - alpha * mean_size;
        Some(if alpha <= 0.0 {
            // Larger batches cost nothing extra as far as can be seen.
            BatchLine { alpha: 0.0, tau0: mean_time }
        } else if tau0 <= 0.0 {
            BatchLine { alpha: mean_time / mean_size, tau0: 0.0 }
        } else {
            BatchLine { alpha, tau0 }
        })
    }

    /// The speed at the sizes seen, where they don't make a line: a lower bound, since larger batches are faster.
    fn single_size(&self) -> Option<Capacity> {
        let rough = Some(&self.rough).filter(|_| self.sizes.is_empty());
        let images: f64 = self.sizes.values().chain(rough).map(|mean| mean.images).sum();
        let seconds: f64 = self.sizes.values().chain(rough).map(|mean| mean.seconds).sum();
        (images > 0.0 && seconds > 0.0).then(|| Capacity {
            within_target: PLANNED_LOAD * images / seconds,
            full_speed: images / seconds,
            source: CapacitySource::SingleBatchSize,
        })
    }

    fn live_ceiling(&self, now: Monotonic) -> Option<f64> {
        self.ceiling
            .filter(|ceiling| now.since(ceiling.seen) < CEILING_LIFETIME)
            .map(|ceiling| ceiling.images_per_second)
    }
}

/// The whole batch size nearest to a mean one.
fn nearest_size(size: f64) -> u32 {
    super::whole(size.round())
}
