//! `spec.runtime`: the server that runs the model.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The server that runs the model.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.engine == 'OnnxRuntime' || has(self.image)")
    .message("engine Triton and Custom need runtime.image: which release runs is yours to choose, for example nvcr.io/nvidia/tritonserver:24.10-py3"))]
pub struct Runtime {
    /// Which server.
    #[serde(default)]
    pub engine: Engine,
    /// The server's image. Default with the engine OnnxRuntime: the one that the operator was installed with.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^\S+$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What ONNX Runtime executes on. Auto takes the best one that the server finds usable and says which.
    #[serde(default)]
    pub execution_provider: ExecutionProvider,
    /// Images per execution, at most.
    #[schemars(range(min = 1, max = 1024))]
    #[serde(default = "default_max_batch_size")]
    pub max_batch_size: i32,
    /// How long a batch waits for more images while the device is idle. 0: batches form only while the device is busy.
    #[schemars(range(min = 0, max = 1_000_000))]
    #[serde(default)]
    pub max_queue_delay_microseconds: i32,
    /// Copies of the model that one replica executes at the same time. More than one keeps a GPU busy while inputs and outputs
    /// are copied; each needs its own memory.
    #[schemars(range(min = 1, max = 32))]
    #[serde(default = "default_instances")]
    pub instances_per_replica: i32,
    /// Where TensorRT's engines and Auto's decisions are kept. Without a PersistentVolumeClaim, Auto leaves TensorRT out, because
    /// every new replica would build its engines for minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<EngineCache>,
    /// CPU and memory of the server's container; GPUs are asked for in placement.gpu.
    #[schemars(schema_with = "resources_schema")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// A strategic-merge patch over the generated pod template: imagePullSecrets, serviceAccountName, env, affinity, labels ….
    /// Names and ports of the generated containers, probes, selector labels and the security floor can't be changed.
    #[schemars(schema_with = "open_object_schema")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<Value>,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            engine: Engine::default(),
            image: None,
            execution_provider: ExecutionProvider::default(),
            max_batch_size: default_max_batch_size(),
            max_queue_delay_microseconds: 0,
            instances_per_replica: default_instances(),
            cache: None,
            resources: None,
            pod_template: None,
        }
    }
}

fn default_max_batch_size() -> i32 {
    32
}

fn default_instances() -> i32 {
    1
}

/// Exactly one place for engines.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.emptyDir) != has(self.persistentVolumeClaim)")
    .message("set exactly one of emptyDir and persistentVolumeClaim"))]
pub struct EngineCache {
    /// A folder of the pod: kept when the server's container starts again, gone with the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirCache>,
    /// A claim in the same namespace, mounted for writing. All replicas use it, so it must be ReadWriteMany where they run on
    /// several nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimCache>,
}

/// A cache that lives as long as its pod.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDirCache {
    /// What the node gives at most, in MiB; the server keeps less than that.
    #[schemars(range(min = 64, max = 1_048_576))]
    #[serde(default = "default_cache_mebibytes")]
    pub max_mebibytes: i32,
}

/// A cache that outlives its pods.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimCache {
    /// The claim's name.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub claim_name: String,
}

fn default_cache_mebibytes() -> i32 {
    8192
}

/// CPU and memory of a container. Quantities as Kubernetes writes them, for example 500m or 2Gi; whole numbers need no quotes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Resources {
    /// What the scheduler sets aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<BTreeMap<String, IntOrString>>,
    /// What the container can't exceed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<BTreeMap<String, IntOrString>>,
}

/// A model server.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Engine {
    /// Flotilla's server on ONNX Runtime.
    #[default]
    OnnxRuntime,
    /// NVIDIA Triton Inference Server: gets a model repository, and a config.pbtxt where the model brings none.
    Triton,
    /// Any server of the KServe v2 protocol with Triton's metrics, on the ports 8000, 8001 and 8002; podTemplate says how it starts.
    Custom,
}

/// What ONNX Runtime executes on.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ExecutionProvider {
    /// The best that the server finds usable.
    #[default]
    Auto,
    /// NVIDIA TensorRT.
    TensorRt,
    /// NVIDIA CUDA.
    Cuda,
    /// The processor; allowed beside a GPU, for trying things out.
    Cpu,
}

impl ExecutionProvider {
    /// The word in the API, the server's settings and the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "Auto",
            Self::TensorRt => "TensorRt",
            Self::Cuda => "Cuda",
            Self::Cpu => "Cpu",
        }
    }
}

/// The parts of Kubernetes' ResourceRequirements that a server container can have.
fn resources_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let quantities = serde_json::json!({
        "type": "object",
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "pattern": "^(\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))))?$",
        },
    });
    schemars::json_schema!({
        "type": "object",
        "description": "CPU and memory of the server's container; GPUs are asked for in placement.gpu.",
        "properties": {"requests": quantities, "limits": quantities},
        "nullable": true,
    })
}

fn open_object_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "nullable": true,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}
