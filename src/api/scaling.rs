//! `spec.scaling`, `spec.service` and `spec.rollout`: how many replicas, how they are reached, how they are replaced.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many replicas there should be.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("minReplicas must not be greater than maxReplicas: lower minReplicas or raise maxReplicas"))]
#[x_kube(validation = Rule::new("!self.paused || self.mode == 'QueueTime'")
    .message("paused keeps Flotilla from acting, and in the modes Advisory and External it does not act: leave paused out, and pause whatever writes spec.replicas (KEDA: the annotation autoscaling.keda.sh/paused)"))]
pub struct Scaling {
    /// Who decides.
    #[serde(default)]
    pub mode: ScalingMode,
    /// Keeps the number of replicas where it is, within minReplicas and maxReplicas. Flotilla goes on to decide and to show it,
    /// and acts again when this is false.
    #[serde(default)]
    pub paused: bool,
    /// Never fewer than this.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default = "default_min_replicas")]
    pub min_replicas: i32,
    /// Never more than this: the bound on what the service can cost.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default = "default_max_replicas")]
    pub max_replicas: i32,
    /// How long a request may wait for the device beyond the batching delay.
    #[schemars(range(min = 1, max = 60_000))]
    #[serde(default = "default_target")]
    pub target_queue_time_milliseconds: i32,
    /// How long fewer replicas must have been enough before there are fewer.
    #[schemars(range(min = 0, max = 3600))]
    #[serde(default = "default_stabilization")]
    pub scale_down_stabilization_seconds: i32,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            mode: ScalingMode::default(),
            paused: false,
            min_replicas: default_min_replicas(),
            max_replicas: default_max_replicas(),
            target_queue_time_milliseconds: default_target(),
            scale_down_stabilization_seconds: default_stabilization(),
        }
    }
}

/// The word for a mode that is paused.
pub const PAUSED: &str = "Paused";

impl Scaling {
    /// The mode, or that it is paused, in a word.
    pub fn word(&self) -> &'static str {
        if self.paused { PAUSED } else { self.mode.as_str() }
    }
}

fn default_min_replicas() -> i32 {
    1
}

fn default_max_replicas() -> i32 {
    8
}

fn default_target() -> i32 {
    20
}

fn default_stabilization() -> i32 {
    300
}

/// Who decides how many replicas there are.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ScalingMode {
    /// Flotilla, from the time that requests wait.
    #[default]
    QueueTime,
    /// Whoever writes spec.replicas through /scale, as in External. Flotilla decides as in QueueTime and shows it, and does
    /// not act on it.
    Advisory,
    /// Whoever writes spec.replicas through /scale: a person, a HorizontalPodAutoscaler, KEDA.
    External,
}

impl ScalingMode {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueTime => "QueueTime",
            Self::Advisory => "Advisory",
            Self::External => "External",
        }
    }
}

/// The Kubernetes Service in front of the replicas.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// How it is exposed. The metrics port is never part of it.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
}

/// A Service's type.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ServiceType {
    /// Inside the cluster only.
    #[default]
    ClusterIP,
    /// On a port of every node.
    NodePort,
    /// Through a load balancer of the cloud.
    LoadBalancer,
}

impl ServiceType {
    /// The word that Kubernetes uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// How a changed model or image replaces the old one.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Auto starts the new replica first where a GPU is free, else replaces one at a time.
    #[serde(default)]
    pub strategy: RolloutStrategy,
    /// How long a scheduled replica may take to become ready; waiting for a GPU does not count.
    #[schemars(range(min = 10, max = 86_400))]
    #[serde(default = "default_progress_deadline")]
    pub progress_deadline_seconds: i32,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { strategy: RolloutStrategy::default(), progress_deadline_seconds: default_progress_deadline() }
    }
}

fn default_progress_deadline() -> i32 {
    600
}

/// How replicas are replaced.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum RolloutStrategy {
    /// Surge where a GPU is free, else one at a time; never takes the only replica down by itself.
    #[default]
    Auto,
    /// Always start the new replica before the old one stops.
    Surge,
    /// Always stop one before its successor starts, also where it is the only one.
    Replace,
}
