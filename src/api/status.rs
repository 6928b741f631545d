//! `status`: what the operator saw and decided. Measured values are rounded and published on a decision or when they moved.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator saw and decided.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InferenceServiceStatus {
    /// The metadata.generation that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods that exist and are not going away.
    #[serde(default)]
    pub replicas: i32,
    /// Pods that answer.
    #[serde(default)]
    pub ready_replicas: i32,
    /// The label selector of the pods, for /scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Where clients inside the cluster reach the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where replicas run, and why so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementStatus>,
    /// How many replicas there should be, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,
    /// The model as the replicas report it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelStatus>,
    /// Ready-made texts for the columns of `kubectl get`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// The state in Kubernetes' own terms.
    #[schemars(schema_with = "super::schema::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Where replicas run.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlacementStatus {
    /// SingleGpu, MultiGpu or Cpu.
    pub topology: String,
    /// Why, in a word.
    pub reason: String,
    /// Why, in a sentence, with the figures that it rests on.
    pub message: String,
    /// The groups of replicas on the same hardware.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolStatus>,
}

/// Replicas on one kind of hardware.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolStatus {
    /// The pool's name, as in the label flotilla.dev/pool.
    pub name: String,
    /// GPU products that its pods run on, joined by a comma.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_product: Option<String>,
    /// How those GPUs are shared: Exclusive, TimeSlicingOrMps, Mig.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharing: Option<String>,
    /// The execution provider that the servers report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_provider: Option<String>,
    /// Its pods.
    pub replicas: i32,
}

/// The last decision about replicas.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingStatus {
    /// Replicas that are wanted: by Flotilla, whether it acts on it or not; in mode External by whoever wrote spec.replicas.
    pub desired_replicas: i32,
    /// Why, in a word.
    pub reason: String,
    /// Mean time that requests waited for the device beyond the batching delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_time_milliseconds: Option<i32>,
    /// Images that arrive per second, over all replicas.
    #[schemars(schema_with = "super::schema::quantity")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals_per_second: Option<Quantity>,
    /// Images per second that one replica can take at the target queue time, as measured.
    #[schemars(schema_with = "super::schema::quantity")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_per_replica: Option<Quantity>,
    /// When replicas were changed last.
    #[schemars(schema_with = "super::schema::optional_time")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_scale_time: Option<Time>,
    /// The last ten changes, and in mode Advisory or paused those that Flotilla would have made; newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<ScalingEvent>,
}

/// One change of replicas.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingEvent {
    /// When.
    #[schemars(schema_with = "super::schema::time")]
    pub time: Time,
    /// Replicas before.
    pub from: i32,
    /// Replicas after.
    pub to: i32,
    /// Why, in a word.
    pub reason: String,
    /// It was only shown, and not made.
    #[serde(default, skip_serializing_if = "is_false")]
    pub advised: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The model as the replicas report it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// Digest of the model's files, reported by the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Replicas that have it loaded.
    #[serde(default)]
    pub loaded_replicas: i32,
    /// What went wrong last, while it is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<PodFailure>,
}

/// Why a pod does not serve.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodFailure {
    /// The pod.
    pub pod: String,
    /// Why, in a word.
    pub reason: String,
    /// What happened and what to do.
    pub message: String,
}

/// Texts for the columns of `kubectl get`; a column reads one path, so they are formatted here.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Ready over wanted, for example 3/4.
    pub replicas: String,
    /// Time waited over target, for example 12ms/20ms; "-/20ms" while it is not known.
    pub queue: String,
    /// Product and count, for example RTX-4080 x3, or cpu.
    pub gpu: String,
    /// The execution provider in use.
    pub execution_provider: String,
}
