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
#[x_kube(validation = Rule::new("[has(self.image), has(self.persistentVolumeClaim), has(self.uri)].exists_one(given, given)")
    .message("set exactly one of image, persistentVolumeClaim and uri"))]
pub struct ModelSource {
    /// An OCI image, mounted as an image volume: nothing is copied per pod (Kubernetes 1.35 or later, or 1.33 with the ImageVolume feature).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,
    /// A claim in the same namespace, mounted read-only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<ClaimSource>,
    /// A folder, archive or file of an object store or web server, fetched by an init container of every pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<UriSource>,
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

/// A model that is fetched.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UriSource {
    /// s3://BUCKET/KEY, gs://BUCKET/KEY, https://HOST/FILE or hf://ORGANISATION/REPOSITORY[@REVISION]/PATH. A name that ends in
    /// .onnx, .tar, .tar.gz or .tgz is one file, any other a folder; https knows no folders.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs|https|hf)://[^/ ]+')")
        .message("uri must start with s3://, gs://, https:// or hf://; for example: s3://models/clip"))]
    #[x_kube(validation = Rule::new("!self.matches('^[a-z0-9]+://[^/]*@') && !self.matches('[[:space:]]')")
        .message("uri may hold neither spaces nor credentials: put those into a Secret and name it in secretRef"))]
    pub uri: String,
    /// SHA-256 of the file or archive; of a folder, as docs/inference-service.md says. Anything else is not served.
    #[schemars(length(max = 64), regex(pattern = r"^[0-9a-f]{64}$"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// A Secret in the same namespace with what opens the source, for example AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
    /// Room for the model on the node, in MiB: an archive takes it together with its content.
    #[schemars(range(min = 1, max = 1_048_576))]
    #[serde(default = "default_max_mebibytes")]
    pub max_mebibytes: i32,
}

fn default_max_mebibytes() -> i32 {
    16 * 1024
}

/// A Secret of the same namespace.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct SecretReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
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
