//! `spec.model`: which model, from where, and what a picture becomes.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The model that every replica loads.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// The name that clients put into the URL. Default: metadata.name.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the model's files are. In every source the path is a folder that holds one Triton model entry: VERSION/model.onnx.
    pub source: ModelSource,
    /// What a JPEG, PNG or WebP in a request becomes before the model sees it.
    #[serde(default)]
    pub preprocessing: Preprocessing,
}

/// Exactly one place that holds the model's files.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.image) != has(self.persistentVolumeClaim)")
    .message("set exactly one of image and persistentVolumeClaim"))]
pub struct ModelSource {
    /// An OCI image, mounted as an image volume: nothing is copied per pod (Kubernetes 1.35 or later, or 1.33 with the ImageVolume feature).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,
    /// A claim in the same namespace, mounted read-only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimSource>,
}

/// A model in an OCI image.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// The image's reference, for example registry.example/models/clip@sha256:….
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^\S+$"))]
    pub reference: String,
    /// Folder of the model entry inside the image. Default: the image's root.
    #[schemars(length(max = 512))]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.split('/').exists(part, part == '..')")
        .message("path must be relative and may not contain '..'; for example: models/clip"))]
    pub path: Option<String>,
    /// When the node pulls the image.
    #[serde(default)]
    pub pull_policy: PullPolicy,
}

/// A model in a PersistentVolumeClaim.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSource {
    /// The claim's name.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub claim_name: String,
    /// Folder of the model entry inside the volume. Default: the volume's root.
    #[schemars(length(max = 512))]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.split('/').exists(part, part == '..')")
        .message("path must be relative and may not contain '..'; for example: models/clip"))]
    pub path: Option<String>,
}

/// When a node pulls an image.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum PullPolicy {
    /// Only when the node does not have it.
    #[default]
    IfNotPresent,
    /// At every start of a pod.
    Always,
    /// Never: it has to be there.
    Never,
}

impl PullPolicy {
    /// The word that Kubernetes uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
            Self::Never => "Never",
        }
    }
}

/// What the server does with a picture in a request.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preprocessing {
    /// Resize, crop and normalisation: Clip and ImageNet as those models were trained; None accepts tensors only.
    #[serde(default)]
    pub preset: PreprocessingPreset,
}

/// A named preprocessing.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum PreprocessingPreset {
    /// Short side to the model's size, centre crop, CLIP's mean and deviation.
    Clip,
    /// Short side to 256/224 of the model's size, centre crop, the ImageNet mean and deviation.
    ImageNet,
    /// Tensors only.
    #[default]
    None,
}
