//! What was seen of the fleet at one moment: facts of the cluster, and one signal for each ready replica.
//!
//! "No data" is a value here, never zero: a replica that could not be measured is [`ReplicaSample::Missing`] with a
//! reason, and the law treats it as neither idle nor busy.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time: how long after an arbitrary start. The shell reads a clock; the law only compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Monotonic(Duration);

/// The fleet at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observation {
    /// The ordered number of replicas: `spec.replicas` of the scale subresource.
    pub current: u32,
    /// Every ready replica, measured or not.
    pub ready: Vec<Replica>,
    /// Every replica that exists and is not ready yet; terminating ones are left out.
    pub starting: Vec<Starting>,
    /// The p90 of the last measured starts, from creation to ready.
    pub startup_p90: Option<Duration>,
    /// Whether the pod template is being replaced, so that pods of two versions may exist.
    pub rolling_out: bool,
}

/// One ready replica.
#[derive(Debug, Clone, PartialEq)]
pub struct Replica {
    /// The pod's name.
    pub name: String,
    /// What its speed depends on (pod template hash, GPU product, provider …): replicas of one class share a batch line.
    pub class: String,
    /// What was measured of it.
    pub sample: ReplicaSample,
}

/// A replica that is not ready yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Starting {
    /// When its pod was created.
    pub since: Monotonic,
    /// How often its server has been restarted.
    pub restarts: u32,
    /// Whether the scheduler found no node for it.
    pub unschedulable: bool,
}

/// The signal of one ready replica.
#[derive(Debug, Clone, PartialEq)]
pub enum ReplicaSample {
    /// It was measured over an interval.
    Measured(Measurement),
    /// Nothing is known.
    Missing {
        /// Since when nothing has been known.
        since: Monotonic,
        /// Why.
        reason: MissingReason,
    },
}

/// Why a replica has no measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingReason {
    /// It became ready a moment ago; a rate needs two scrapes.
    NotYetSampled,
    /// It did not answer in time, or not at all.
    Unreachable,
    /// It answered, but the page could not be used.
    BadPage,
    /// It was measured once, but too long ago.
    Stale,
}

/// What one replica did in the interval between two scrapes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measurement {
    /// When the interval ended.
    pub taken: Monotonic,
    /// How long the interval was.
    pub interval: Duration,
    /// Images that came in per second: completed, refused, given up and newly waiting ones.
    pub arrivals_per_second: f64,
    /// Images that were answered per second.
    pub completed_per_second: f64,
    /// Images that were refused per second.
    pub rejected_per_second: f64,
    /// Images waiting when the interval began.
    pub pending_images_before: f64,
    /// Images waiting when the interval ended.
    pub pending_images: f64,
    /// How long the requests waited that started in the interval; none when none started.
    pub queue_time: Option<QueueTime>,
    /// How long the oldest waiting request has waited; none where the server does not say.
    pub oldest_wait: Option<Duration>,
    /// Images per execution.
    pub mean_batch: Option<f64>,
    /// Executions of the interval by batch size, from which the batch line is fitted.
    pub batches: Vec<BatchDelta>,
    /// The part of the interval in which the device was busy, 0 to 1.
    pub device_busy: Option<f64>,
    /// A restart or a warm-up lies in the interval: its arrivals count, its speed and its queue say nothing.
    pub tainted: bool,
}

/// How long requests waited.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct QueueTime {
    /// The mean.
    pub mean: Duration,
    /// The 95th percentile; none where the server exports no histogram.
    pub p95: Option<Duration>,
    /// Whether the deliberate batching delay is part of it (Triton) or not (Flotilla's own server).
    pub includes_batching_delay: bool,
}

/// Executions of one batch size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchDelta {
    /// Images in each execution; a mean, where the server does not tell sizes apart.
    pub size: f64,
    /// How many executions.
    pub executions: f64,
    /// How many device seconds they took together.
    pub seconds: f64,
}

impl Observation {
    /// A copy without executions by batch size, which are most of it, for whoever keeps one.
    #[must_use]
    pub fn without_batches(&self) -> Self {
        let sample = |sample: &ReplicaSample| match sample {
            ReplicaSample::Measured(measurement) => {
                ReplicaSample::Measured(Measurement { batches: Vec::new(), ..*measurement })
            }
            ReplicaSample::Missing { since, reason } => ReplicaSample::Missing { since: *since, reason: *reason },
        };
        let lean = |replica: &Replica| Replica {
            name: replica.name.clone(),
            class: replica.class.clone(),
            sample: sample(&replica.sample),
        };
        Self { ready: self.ready.iter().map(lean).collect(), starting: self.starting.clone(), ..*self }
    }

    /// When the newest of its measurements was taken.
    pub fn newest(&self) -> Option<Monotonic> {
        let taken = |replica: &Replica| match &replica.sample {
            ReplicaSample::Measured(measurement) => Some(measurement.taken),
            ReplicaSample::Missing { .. } => None,
        };
        self.ready.iter().filter_map(taken).max()
    }
}

impl Monotonic {
    /// A point this long after the arbitrary start.
    pub const fn from_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl Sub<Duration> for Monotonic {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}

impl MissingReason {
    /// A bounded name for conditions and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotYetSampled => "NotYetSampled",
            Self::Unreachable => "Unreachable",
            Self::BadPage => "BadPage",
            Self::Stale => "Stale",
        }
    }
}

impl Measurement {
    /// Whether every number is one that a server can have: finite, not negative, not absurd.
    pub(super) fn is_plausible(&self) -> bool {
        const MOST: f64 = 1e7;
        [
            self.arrivals_per_second,
            self.completed_per_second,
            self.rejected_per_second,
            self.pending_images_before,
            self.pending_images,
        ]
        .into_iter()
        .chain(self.batches.iter().flat_map(|batch| [batch.size, batch.executions, batch.seconds]))
        .all(|number| (0.0..=MOST).contains(&number))
    }
}
