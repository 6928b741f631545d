//! A decision as JSON: version 1 of what `/debug/scaling` tells. Fields may be added; a number that is not known is absent.
//!
//! Reasons and terms are words and no enums here: a client that is older than the operator shows one it does not know.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of the schema; it changes when a field goes or gets another meaning.
pub const VERSION: u32 = 1;

/// Why a service has as many replicas as it has. Rates are images per second, times seconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// [`VERSION`].
    pub version: u32,
    /// metadata.namespace.
    pub namespace: String,
    /// metadata.name.
    pub name: String,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// The number that was decided.
    pub replicas: u32,
    /// The number that was ordered before.
    pub ordered: u32,
    /// Why, in a word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
    /// The part of the law that made the number.
    pub decided_by: String,
    /// Another autoscaler that writes the same replicas, so that this decision is not carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflict: Option<String>,
    /// What the user asked for.
    pub bounds: Bounds,
    /// What was measured.
    pub inputs: Figures,
    /// What a replica can take.
    pub model: Model,
    /// How many replicas each part of the law asked for.
    pub terms: TermCounts,
    /// What keeps the number from rising or falling now.
    pub holds: Vec<HeldBy>,
    /// What would change the number.
    pub changes: WouldChange,
    /// Every ready replica, as it was measured.
    pub pods: Vec<PodFigures>,
}

/// What the user asked for.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bounds {
    /// minReplicas.
    pub min_replicas: u32,
    /// maxReplicas.
    pub max_replicas: u32,
    /// targetQueueTimeMilliseconds, in seconds.
    pub target_queue_time: f64,
    /// scaleDownStabilizationSeconds.
    pub stabilization_window: f64,
    /// Most images of an execution.
    pub max_batch_size: u32,
    /// How long the server waits on purpose for a batch to fill.
    pub batching_delay: f64,
    /// How often replicas are measured.
    pub scrape_interval: f64,
}

/// What was measured.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// What arrives at all replicas together, smoothed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<f64>,
    /// What will arrive by the time that a replica ordered now answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<f64>,
    /// What the arrivals rise by in each second; 0 where they don't, or not beyond chance.
    pub trend: f64,
    /// The mean wait beyond the batching delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_time: Option<f64>,
    /// The 95th percentile of the wait, at the slowest replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_time_p95: Option<f64>,
    /// The target that was used: the user's, or half the fixed cost of an execution where that is more.
    pub target_queue_time: f64,
    /// Images that wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<f64>,
    /// How long requests wait for each second of execution, at the median replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_to_execution: Option<f64>,
    /// How long a start takes.
    pub startup: f64,
    /// Replicas that answer.
    pub ready: u32,
    /// Of them, with a fresh measurement.
    pub measured: u32,
    /// Of them, without a usable measurement.
    pub missing: u32,
    /// Of them, far slower than the others of their kind.
    pub slow: u32,
    /// Replicas that start and count as capacity on its way.
    pub starting: u32,
    /// Replicas that start and are not expected to come.
    pub failing: u32,
    /// Replicas that no node takes.
    pub unschedulable: u32,
}

/// What a replica can take: an execution of `b` images takes `alpha * b + tau0`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// What each image adds to an execution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// What each execution costs whatever its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tau0: Option<f64>,
    /// What a replica takes within the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_per_replica: Option<f64>,
    /// What a replica completes with every batch full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_speed_per_replica: Option<f64>,
    /// BatchLine, Saturation, SingleBatchSize, Observed or Unknown.
    pub capacity_source: String,
}

/// How many replicas each part of the law asked for; absent where it did not apply.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TermCounts {
    /// For what arrives now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub demand: Option<u32>,
    /// For what will arrive by the time that a replica answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<u32>,
    /// To work off what waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u32>,
    /// For a queue that grows against the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<u32>,
    /// In place of a slow replica.
    pub in_place_of_slow: u32,
    /// For the expected demand with the dead band above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub with_air: Option<u32>,
    /// The fewest with which requests would wait for less than nine tenths of the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<u32>,
    /// The most that any observation of the window asked for; absent until it saw a whole one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// The most that is remembered because peaks recur.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remembered_peak: Option<u32>,
    /// The most that may be ordered now.
    pub most_now: u32,
    /// The fewest that may be left now.
    pub fewest_now: u32,
}

/// Something that keeps the number from rising or from falling.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldBy {
    /// The part of the law.
    pub term: String,
    /// How many replicas it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// For how much longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// What would change the number, as long as everything else stays as it is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WouldChange {
    /// Absent at maxReplicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more: Option<MoreWhen>,
    /// Absent at minReplicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fewer: Option<FewerWhen>,
}

/// What orders another replica.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MoreWhen {
    /// How many there would be.
    pub replicas: u32,
    /// When more arrives than this; absent where no rate alone orders more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrivals_above: Option<f64>,
    /// Or when most replicas' requests wait for longer than this, ...
    pub queue_time_above: f64,
    /// ... with more images waiting at each than this, ...
    pub pending_above: u32,
    /// ... in so many rounds of measurements in a row.
    pub rounds: u32,
}

/// What removes a replica.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FewerWhen {
    /// How many there would be.
    pub replicas: u32,
    /// When no more arrives than this; absent where no rate is low enough or none is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrivals_below: Option<f64>,
    /// For so long.
    pub lasting: f64,
    /// The soonest that it may be, if they fall at once.
    pub soonest: f64,
}

/// One ready replica, as it was measured.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodFigures {
    /// The pod.
    pub name: String,
    /// Ok, Slow, Warming, Settling or Missing.
    pub state: String,
    /// Why it was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What arrives at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<f64>,
    /// What it completes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<f64>,
    /// How long its requests waited on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_time: Option<f64>,
    /// The 95th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_time_p95: Option<f64>,
    /// Images that wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<f64>,
    /// Images of an execution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_batch: Option<f64>,
    /// The part of the time in which its device executed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_busy: Option<f64>,
    /// How old the measurement was, or for how long there has been none.
    pub age: f64,
}

/// What is known of a replica's measurement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PodState {
    /// Measured.
    Ok,
    /// Measured, and far slower than the others of its kind: it does not count.
    Slow,
    /// Measured, with a restart or a warm-up in the interval: its arrivals count, its speed does not.
    Warming,
    /// Ready a moment ago: a rate needs two scrapes.
    Settling,
    /// Not measured.
    Missing,
}

/// All services, or those of a namespace.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Summaries {
    /// [`VERSION`].
    pub version: u32,
    /// By namespace and name.
    pub services: Vec<Summary>,
}

/// One service in a line.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// metadata.namespace.
    pub namespace: String,
    /// metadata.name.
    pub name: String,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// The number that was decided.
    pub replicas: u32,
    /// The number that was ordered before; absent of an operator that is older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered: Option<u32>,
    /// Replicas that answer.
    pub ready: u32,
    /// Why, in a word.
    pub reason: String,
    /// What arrives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<f64>,
    /// What a replica takes within the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_per_replica: Option<f64>,
    /// The mean wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_time: Option<f64>,
    /// The target that was used.
    pub target_queue_time: f64,
}

impl PodState {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "Ok",
            Self::Slow => "Slow",
            Self::Warming => "Warming",
            Self::Settling => "Settling",
            Self::Missing => "Missing",
        }
    }
}
