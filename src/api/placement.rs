//! `spec.placement`: what hardware a replica runs on.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Where replicas may run.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// The GPU of each replica. Absent: replicas run on the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
}

/// The GPU that each replica asks for.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// The extended resource of the device plugin.
    #[schemars(
        length(max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    #[serde(default = "default_resource_name")]
    pub resource_name: String,
    /// GPUs of one replica. One is right for models that fit one: replicas then scale in steps of a single GPU.
    #[schemars(range(min = 1, max = 16))]
    #[serde(default = "default_count")]
    pub count_per_replica: i32,
    /// Products that will do, as GPU feature discovery names them, without -SHARED or -MIG suffixes. Of several an earlier one
    /// is preferred: it is filled first, and left last. Empty: any.
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 63)),
        inner(regex(pattern = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"))
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub products: Vec<String>,
}

impl Default for Gpu {
    fn default() -> Self {
        Self { resource_name: default_resource_name(), count_per_replica: default_count(), products: Vec::new() }
    }
}

fn default_resource_name() -> String {
    "nvidia.com/gpu".to_owned()
}

fn default_count() -> i32 {
    1
}
