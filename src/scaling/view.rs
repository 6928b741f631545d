//! Reading an observation: which measurements are fresh, how complete they are, and whether the queues grow.

use std::time::Duration;

use super::decision::Reason;
use super::fresh::{Fresh, excess};
use super::observation::{MissingReason, Monotonic, Observation, ReplicaSample};
use super::policy::{Policy, fresh_for};
use super::whole;

/// While no start has been measured, a replica is expected for this many times the fallback: giving it up too early
/// orders another, and waiting too long delays one.
const UNMEASURED_PATIENCE: u32 = 5;
/// Restarts after which a starting replica is no longer expected to come.
const FAILED_RESTARTS: u32 = 3;

/// An observation, sorted by what can be believed.
pub(super) struct View<'a> {
    pub(super) fresh: Vec<Fresh<'a>>,
    pub(super) ready: u32,
    /// Ready, but without a usable measurement.
    pub(super) missing: u32,
    /// Ready for so short a time that no rate can exist yet: no fault, and hardly any traffic.
    pub(super) settling: u32,
    /// Starting, and still expected to become capacity.
    pub(super) coming: u32,
    /// Starting, but restarted so often that it is not expected to come.
    pub(super) failing: u32,
    pub(super) unschedulable: u32,
    /// Measured, and far slower than the others of their class.
    pub(super) slow: u32,
    /// How long a start takes.
    pub(super) startup: Duration,
    any_stale: bool,
}

/// How the queues are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pressure {
    /// Most replicas wait far above the target, and it gets worse.
    Severe,
    /// Most replicas wait clearly above the target: growing, if it stays so for two rounds.
    Moderate,
    /// Some replicas wait above the target while others idle.
    Uneven,
    /// All replicas wait for less than half the target.
    Calm,
    /// Anything between.
    Normal,
}

impl<'a> View<'a> {
    pub(super) fn new(policy: &Policy, observation: &'a Observation, now: Monotonic) -> Self {
        let mut view = Self {
            fresh: Vec::with_capacity(observation.ready.len()),
            ready: whole(observation.ready.len()),
            missing: 0,
            settling: 0,
            coming: 0,
            failing: 0,
            unschedulable: 0,
            slow: 0,
            startup: policy.startup(observation.startup_p90),
            any_stale: false,
        };
        for replica in &observation.ready {
            match &replica.sample {
                ReplicaSample::Measured(measurement) if !measurement.is_plausible() => view.missing += 1,
                ReplicaSample::Measured(measurement)
                    if now.since(measurement.taken) > fresh_for(policy.settings().scrape_interval) =>
                {
                    view.missing += 1;
                    view.any_stale = true;
                }
                ReplicaSample::Measured(measurement) => view.fresh.push(Fresh {
                    name: &replica.name,
                    class: &replica.class,
                    measurement,
                    excess_wait: measurement.queue_time.map(|wait| excess(wait, measurement, policy.settings())),
                    is_slow: false,
                }),
                ReplicaSample::Missing { reason: MissingReason::NotYetSampled, .. } => view.settling += 1,
                ReplicaSample::Missing { reason, .. } => {
                    view.missing += 1;
                    view.any_stale |= *reason == MissingReason::Stale;
                }
            }
        }
        let patience =
            if observation.startup_p90.is_some() { view.startup } else { view.startup * UNMEASURED_PATIENCE };
        for starting in &observation.starting {
            if starting.unschedulable {
                view.unschedulable += 1;
            } else if starting.restarts >= FAILED_RESTARTS {
                view.failing += 1;
            } else if now.since(starting.since) <= patience {
                view.coming += 1;
            }
        }
        view
    }

    /// Why nothing can be concluded, if so.
    pub(super) fn blindness(&self) -> Option<Reason> {
        if self.ready == 0 {
            Some(Reason::NoReadyReplicas)
        } else if self.fresh.is_empty() {
            Some(if self.any_stale { Reason::StaleMetrics } else { Reason::NoData })
        } else {
            (self.missing * 2 > self.ready).then_some(Reason::PartialMetrics)
        }
    }

    /// When the newest measurement was taken: later calls with the same one have seen nothing new.
    pub(super) fn newest(&self) -> Option<Monotonic> {
        self.fresh.iter().map(|fresh| fresh.measurement.taken).max()
    }

    /// Images arriving per second; a missing replica is assumed to get what the measured ones get on average.
    pub(super) fn arrivals(&self) -> f64 {
        let measured = f64::from(whole(self.fresh.len())).max(1.0);
        let sum: f64 = self.fresh.iter().map(|fresh| fresh.measurement.arrivals_per_second).sum();
        sum * (measured + f64::from(self.missing)) / measured
    }

    /// The measured ones that are as quick as their class.
    pub(super) fn healthy(&self) -> impl Iterator<Item = &Fresh<'a>> {
        self.fresh.iter().filter(|fresh| !fresh.is_slow)
    }

    /// How long requests wait for each second that they are executed: the median of the replicas. Where batches form
    /// while the device is busy it is at most a half, at any load, until batches are full.
    pub(super) fn wait_to_execution(&self) -> Option<f64> {
        let mut ratios: Vec<f64> = self.healthy().filter_map(Fresh::wait_to_execution).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied()
    }

    /// Images waiting at all healthy replicas.
    pub(super) fn pending_images(&self) -> f64 {
        self.healthy().map(|fresh| fresh.measurement.pending_images).sum()
    }

    /// The mean wait over all requests that started, and the slowest replica's 95th percentile.
    pub(super) fn queue_time(&self) -> (Option<Duration>, Option<Duration>) {
        let (mut weight, mut sum) = (0.0, 0.0);
        for fresh in &self.fresh {
            if let Some(wait) = fresh.excess_wait {
                let images = fresh.measurement.completed_per_second.max(1e-3);
                weight += images;
                sum += images * wait.as_secs_f64();
            }
        }
        let mean = (weight > 0.0).then(|| Duration::from_secs_f64((sum / weight).clamp(0.0, 1e6)));
        (mean, self.fresh.iter().filter_map(|fresh| fresh.measurement.queue_time?.p95).max())
    }

    pub(super) fn pressure(&self, target: Duration, max_batch_size: u32) -> Pressure {
        let batch = f64::from(max_batch_size);
        let ready = self.ready.saturating_sub(self.slow);
        let count = |test: &dyn Fn(&Fresh<'_>) -> bool| whole(self.healthy().filter(|fresh| test(fresh)).count());
        let severe = count(&|fresh| fresh.is_severe(target, batch));
        let moderate = count(&|fresh| fresh.is_severe(target, batch) || fresh.is_moderate(target, batch));
        if severe * 2 > ready {
            Pressure::Severe
        } else if moderate * 2 > ready {
            Pressure::Moderate
        } else if moderate > 0 && self.spread() > 1.5 {
            Pressure::Uneven
        } else if count(&|fresh| fresh.is_calm(target, batch)) == ready {
            Pressure::Calm
        } else {
            Pressure::Normal
        }
    }

    /// The busiest replica's arrivals over the mean.
    fn spread(&self) -> f64 {
        let rates = || self.healthy().map(|fresh| fresh.measurement.arrivals_per_second);
        let mean = rates().sum::<f64>() / f64::from(whole(rates().count())).max(1.0);
        if mean > 0.0 { rates().fold(0.0, f64::max) / mean } else { 1.0 }
    }
}
