//! From what the user wrote to what the rest can rely on. Pure; defaults are resolved here, once.

pub mod names;
pub mod validate;

use std::time::Duration;

use k8s_openapi::api::core::v1::{PodTemplateSpec, ResourceRequirements};

use crate::api::model::{PreprocessingPreset, PullPolicy};
use crate::api::runtime::{Engine, ExecutionProvider};
use crate::api::scaling::{RolloutStrategy, ScalingMode, ServiceType};

pub use validate::{Defaults, Error, validate};

/// An InferenceService whose every field is set and consistent. Later steps never look back at the custom resource.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedService {
    /// metadata.name: at most 40 characters, a DNS label.
    pub name: String,
    /// metadata.namespace.
    pub namespace: String,
    /// metadata.uid: the owner of everything that is built.
    pub uid: String,
    /// metadata.generation.
    pub generation: i64,
    /// What is loaded.
    pub model: ValidatedModel,
    /// What loads it.
    pub runtime: ValidatedRuntime,
    /// The GPU of a replica; none on a Cpu pool.
    pub gpu: Option<GpuRequest>,
    /// How many replicas.
    pub scaling: ValidatedScaling,
    /// The Kubernetes Service's type.
    pub service_type: ServiceType,
    /// How a changed template replaces the old one.
    pub rollout: ValidatedRollout,
}

/// The model, with the path that it has inside the server's container.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedModel {
    /// The name in URLs.
    pub name: String,
    /// The volume that holds it.
    pub source: ModelVolume,
    /// Folder of the Triton model entry inside the container.
    pub path: String,
    /// What a picture becomes.
    pub preprocessing: PreprocessingPreset,
}

/// The volume that holds the model.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelVolume {
    /// An OCI image volume.
    Image {
        /// The image.
        reference: String,
        /// When it is pulled.
        pull_policy: PullPolicy,
    },
    /// A PersistentVolumeClaim of the same namespace.
    Claim {
        /// Its name.
        claim_name: String,
    },
    /// An empty volume that an init container fetches the model into.
    Fetched(FetchedModel),
}

/// A model that every pod fetches before its server starts.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchedModel {
    /// Where it is.
    pub uri: String,
    /// The digest that it has to have.
    pub sha256: Option<String>,
    /// The Secret with what opens it.
    pub secret_name: Option<String>,
    /// Room on the node.
    pub max_mebibytes: u32,
    /// The image with the fetcher: the operator's own default, whatever runs the model.
    pub image: String,
}

/// The server.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedRuntime {
    /// Which one.
    pub engine: Engine,
    /// Its image.
    pub image: String,
    /// What ONNX Runtime is asked to execute on.
    pub execution_provider: ExecutionProvider,
    /// Images per execution, at most; 1 to 1024.
    pub max_batch_size: u32,
    /// The deliberate wait of a batch on an idle device.
    pub max_queue_delay: Duration,
    /// Copies of the model that execute at the same time; at least one.
    pub instances: u32,
    /// Where engines are kept.
    pub cache: Option<EngineCache>,
    /// CPU and memory.
    pub resources: ResourceRequirements,
    /// The user's patch over the generated pod template.
    pub pod_template: Option<PodTemplateSpec>,
}

/// Where the server keeps engines and decisions.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineCache {
    /// A folder of the pod.
    EmptyDir {
        /// The node's limit.
        max_mebibytes: u32,
    },
    /// A PersistentVolumeClaim of the same namespace.
    Claim {
        /// Its name.
        claim_name: String,
    },
}

impl EngineCache {
    /// Whether it outlives a pod.
    pub fn is_persistent(&self) -> bool {
        matches!(self, Self::Claim { .. })
    }
}

/// The GPUs of one replica.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuRequest {
    /// The extended resource, for example nvidia.com/gpu.
    pub resource_name: String,
    /// How many of it.
    pub count: u32,
    /// Products that will do, without sharing suffixes, the preferred ones first; empty: any.
    pub products: Vec<String>,
}

impl GpuRequest {
    /// The place of a product among the preferred ones: 0 is the first choice, and what is not listed comes last. 0 for all where
    /// any will do.
    pub fn preference(&self, product: Option<&str>) -> usize {
        let listed = |product: &str| self.products.iter().position(|name| name == product);
        product.and_then(listed).unwrap_or(self.products.len())
    }
}

/// Bounds and target of scaling.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedScaling {
    /// Who decides.
    pub mode: ScalingMode,
    /// Whether the number stays where it is.
    pub paused: bool,
    /// At least one.
    pub min_replicas: u32,
    /// At least `min_replicas`.
    pub max_replicas: u32,
    /// Time that a request may wait beyond the batching delay.
    pub target_queue_time: Duration,
    /// How long fewer must have been enough.
    pub scale_down_stabilization: Duration,
    /// What /scale wrote last, within the bounds; acted on in the modes Advisory and External.
    pub external_replicas: u32,
}

impl ValidatedScaling {
    /// Whether Flotilla's own decisions are carried out.
    pub fn acts(&self) -> bool {
        self.mode == ScalingMode::QueueTime && !self.paused
    }
}

/// How a changed template replaces the old one.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedRollout {
    /// Surge, replace, or decide from the free GPUs.
    pub strategy: RolloutStrategy,
    /// From scheduled to ready.
    pub progress_deadline: Duration,
}

impl ValidatedService {
    /// The pool that the replicas belong to.
    pub fn pool(&self) -> &'static str {
        if self.gpu.is_some() { "gpu" } else { "cpu" }
    }
}
