//! The root of the contract: kind `InferenceService`.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::model::Model;
use super::placement::Placement;
use super::runtime::Runtime;
use super::scaling::{Rollout, Scaling, Service};
use super::status::InferenceServiceStatus;

/// A model served by a fleet of replicas that follows the time that requests wait.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "flotilla.dev",
    version = "v1alpha1",
    kind = "InferenceService",
    namespaced,
    shortname = "infsvc",
    status = "InferenceServiceStatus",
    derive = "PartialEq",
    doc = "A model served by a fleet of replicas that follows the time that requests wait.",
    annotation("helm.sh/resource-policy", "keep"),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "REPLICAS", type_ = "string", json_path = ".status.summary.replicas", description = "ready/wanted"),
    printcolumn(name = "QUEUE", type_ = "string", json_path = ".status.summary.queue", description = "time waited/target"),
    printcolumn(name = "GPU", type_ = "string", json_path = ".status.summary.gpu"),
    printcolumn(name = "EP", type_ = "string", json_path = ".status.summary.executionProvider", description = "execution provider"),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url", priority = 1),
    printcolumn(name = "MESSAGE", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must have at most 40 characters, start with a letter and hold only a-z, 0-9 and '-': owned objects are named after it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(self.runtime.executionProvider in ['Cuda', 'TensorRt']) || has(self.placement.gpu)")
    .message("runtime.executionProvider Cuda and TensorRt need a GPU: add placement.gpu, or use Cpu or Auto"))]
#[x_kube(validation = Rule::new("self.runtime.engine != 'Triton' || self.model.preprocessing.preset == 'None'")
    .message("model.preprocessing.preset is done by Flotilla's own server: with runtime.engine Triton use None and send tensors, or put the decoding into an ensemble"))]
pub struct InferenceServiceSpec {
    /// The model that every replica loads.
    pub model: Model,
    /// The server that runs it.
    #[serde(default)]
    pub runtime: Runtime,
    /// The hardware that it runs on.
    #[serde(default)]
    pub placement: Placement,
    /// How many replicas there should be.
    #[serde(default)]
    pub scaling: Scaling,
    /// Replicas in the modes Advisory and External, kept within minReplicas and maxReplicas; what /scale writes.
    #[schemars(range(min = 0, max = 1000))]
    #[serde(default = "default_replicas")]
    pub replicas: i32,
    /// How the replicas are reached.
    #[serde(default)]
    pub service: Service,
    /// How a changed model or image replaces the old one.
    #[serde(default)]
    pub rollout: Rollout,
}

fn default_replicas() -> i32 {
    1
}
