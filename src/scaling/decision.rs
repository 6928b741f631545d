//! What was decided, why, and from which numbers: data that the shell logs, counts and writes into the status.

use std::fmt;
use std::time::Duration;

use super::capacity::{BatchLine, CapacitySource};
use super::terms::Terms;

/// How many replicas the fleet should have now.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The number to order; equal to the current one when nothing is to change.
    pub replicas: u32,
    /// Why.
    pub reason: Reason,
    /// The numbers it rests on.
    pub inputs: Inputs,
}

/// Why a decision is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The demand fits the replicas that there are.
    OnTarget,
    /// The demand fits the minimum, and the fleet is at it.
    AtMinimum,
    /// More images arrive than the replicas can take within the target: more are ordered.
    DemandAboveCapacity,
    /// By the time that a replica answers, more will arrive than the replicas can take: more are ordered.
    DemandRising,
    /// One replica is far slower than the others of its kind: another is ordered in its place.
    SlowReplica,
    /// A queue has built up that the replicas would not work off in time: more are ordered.
    Backlog,
    /// The queue grows faster than any model explains: more are ordered at once.
    QueueGrowing,
    /// The demand has fitted fewer replicas for the whole window: some are removed.
    DemandBelowCapacity,
    /// Fewer were ordered than the user's minimum.
    BelowMinimum,
    /// More were ordered than the user's maximum.
    AboveMaximum,
    /// More are needed, but the user's maximum is reached.
    AtMaximum,
    /// Held: no replica is ready, so there is nothing to measure.
    NoReadyReplicas,
    /// Held: no replica has been measured.
    NoData,
    /// Held: all measurements are too old.
    StaleMetrics,
    /// Held: too many replicas could not be measured, or too many to lower.
    PartialMetrics,
    /// Held: fewer would do, but not for the whole window yet.
    ScaleDownWindow,
    /// Held: fewer would do for now, but the demand came back soon after the last decrease.
    RecurringPeaks,
    /// Held: requests wait longer than the target, and would with any number of replicas.
    TargetBelowBatchFloor,
    /// Held: fewer would do, but a rollout is under way.
    RollingOut,
    /// Held: the queue grows, and replicas that will take it are starting or have just started.
    StartingCapacity,
    /// Held: more are needed, but the scheduler finds no place for those already ordered.
    CapacityUnavailable,
    /// Held: the queue grows, but several replicas fail to start, and more would fail too.
    ReplicasFailing,
    /// Held: some replicas get far more than their share while others are idle; more replicas would not help.
    LoadImbalance,
    /// Held: what a replica can take is not known yet.
    UnknownCapacity,
}

/// The numbers that a decision rests on; absent ones are not known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Inputs {
    /// Images arriving per second at all replicas together, smoothed briefly.
    pub arrivals_per_second: Option<f64>,
    /// Images per second by the time that a replica ordered now answers.
    pub expected_per_second: Option<f64>,
    /// Images per second that the demand rises by in each second; 0 where it doesn't, or not beyond chance.
    pub trend_per_second: f64,
    /// Images per second that one replica takes within the target.
    pub capacity_per_replica: Option<f64>,
    /// Images per second that one replica completes with every batch full.
    pub full_speed_per_replica: Option<f64>,
    /// Where the capacity comes from.
    pub capacity_source: CapacitySource,
    /// Execution time by batch size, as fitted for the largest class of replicas.
    pub batch_line: Option<BatchLine>,
    /// Mean wait beyond the batching delay, over all requests that were started.
    pub queue_time: Option<Duration>,
    /// The 95th percentile of the wait at the slowest replica.
    pub queue_time_p95: Option<Duration>,
    /// The target that was used: the user's, or half the fixed cost of an execution where the user's can't be met.
    pub target_queue_time: Duration,
    /// Images waiting at all measured replicas.
    pub pending_images: Option<f64>,
    /// How many replicas are ready.
    pub ready: u32,
    /// How many of the ready ones have a fresh measurement.
    pub measured: u32,
    /// How many starting replicas count as capacity that is on its way.
    pub starting: u32,
    /// How many of the measured ones are far slower than the others of their kind.
    pub slow: u32,
    /// How long requests wait for each second of execution, at the median replica; more than a half where batches are
    /// full.
    pub wait_to_execution: Option<f64>,
    /// For how long a peak is remembered.
    pub remembered: Duration,
    /// What the measurements ask for, before bounds, windows and limits; absent when they don't say.
    pub wanted: Option<u32>,
    /// The names of the slow ones.
    pub slow_replicas: Vec<String>,
    /// How long a start takes: the p90 of the measured ones, or what is assumed until there is one.
    pub startup: Duration,
    /// What each part of the law asked for, and what held it.
    pub terms: Terms,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 24] = [
        Self::OnTarget,
        Self::AtMinimum,
        Self::DemandAboveCapacity,
        Self::DemandRising,
        Self::Backlog,
        Self::QueueGrowing,
        Self::SlowReplica,
        Self::DemandBelowCapacity,
        Self::BelowMinimum,
        Self::AboveMaximum,
        Self::AtMaximum,
        Self::ScaleDownWindow,
        Self::RecurringPeaks,
        Self::RollingOut,
        Self::StartingCapacity,
        Self::TargetBelowBatchFloor,
        Self::NoReadyReplicas,
        Self::NoData,
        Self::StaleMetrics,
        Self::PartialMetrics,
        Self::CapacityUnavailable,
        Self::ReplicasFailing,
        Self::LoadImbalance,
        Self::UnknownCapacity,
    ];

    /// The name in conditions and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnTarget => "OnTarget",
            Self::AtMinimum => "AtMinimum",
            Self::DemandAboveCapacity => "DemandAboveCapacity",
            Self::DemandRising => "DemandRising",
            Self::SlowReplica => "SlowReplica",
            Self::Backlog => "Backlog",
            Self::QueueGrowing => "QueueGrowing",
            Self::DemandBelowCapacity => "DemandBelowCapacity",
            Self::BelowMinimum => "BelowMinimum",
            Self::AboveMaximum => "AboveMaximum",
            Self::AtMaximum => "AtMaximum",
            Self::NoReadyReplicas => "NoReadyReplicas",
            Self::NoData => "NoData",
            Self::StaleMetrics => "StaleMetrics",
            Self::PartialMetrics => "PartialMetrics",
            Self::ScaleDownWindow => "ScaleDownWindow",
            Self::RecurringPeaks => "RecurringPeaks",
            Self::TargetBelowBatchFloor => "TargetBelowBatchFloor",
            Self::RollingOut => "RollingOut",
            Self::StartingCapacity => "StartingCapacity",
            Self::CapacityUnavailable => "CapacityUnavailable",
            Self::ReplicasFailing => "ReplicasFailing",
            Self::LoadImbalance => "LoadImbalance",
            Self::UnknownCapacity => "UnknownCapacity",
        }
    }

    /// One sentence for a person: what it means, and what to do where there is something to do.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::OnTarget => "the demand fits the replicas that there are",
            Self::AtMinimum => "the demand fits minReplicas",
            Self::DemandAboveCapacity => "more images arrive than the replicas take within the target",
            Self::DemandRising => {
                "the demand rises, and by the time that a replica answers it will be more than the replicas take"
            }
            Self::SlowReplica => "one replica is far slower than the others of its kind; look at its pod and its node",
            Self::Backlog => "a queue has built up that the replicas would not work off in time",
            Self::QueueGrowing => "the queue grows",
            Self::DemandBelowCapacity => "the demand fitted fewer replicas for the whole stabilization window",
            Self::BelowMinimum => "fewer replicas were ordered than minReplicas",
            Self::AboveMaximum => "more replicas were ordered than maxReplicas",
            Self::AtMaximum => "more replicas are needed than maxReplicas allows; raise it if the budget does",
            Self::NoReadyReplicas => "no replica is ready, so there is nothing to measure",
            Self::NoData => "no replica has been measured yet",
            Self::StaleMetrics => {
                "all measurements are too old; check that the operator reaches the pods' metrics port"
            }
            Self::PartialMetrics => {
                "some replicas could not be measured; check that the operator reaches the pods' metrics port"
            }
            Self::ScaleDownWindow => "fewer replicas would do, but not for the whole stabilization window yet",
            Self::RecurringPeaks => {
                "fewer replicas would do for now, but the demand came back soon after the last decrease"
            }
            Self::TargetBelowBatchFloor => {
                "requests wait longer than targetQueueTimeMilliseconds with any number of replicas: half an execution's \
                 fixed cost is more; raise it"
            }
            Self::RollingOut => "fewer replicas would do, but an update is under way",
            Self::StartingCapacity => {
                "the queue grows, and replicas that will take it are starting or have just started"
            }
            Self::CapacityUnavailable => {
                "more replicas are needed, but no node has room for those already ordered; add nodes or free GPUs"
            }
            Self::ReplicasFailing => "the queue grows, but several replicas fail to start; see their pods' messages",
            Self::LoadImbalance => {
                "some replicas get far more than their share; clients that hold few connections need a balancer"
            }
            Self::UnknownCapacity => "what a replica can take is not known yet",
        }
    }

    /// Whether the law had the measurements it needs: false makes the condition `MetricsAvailable` false.
    pub const fn has_metrics(self) -> bool {
        !matches!(self, Self::NoReadyReplicas | Self::NoData | Self::StaleMetrics | Self::PartialMetrics)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
