//! Label and annotation keys that Flotilla writes or reads.

/// The Kubernetes recommended label that says who manages an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`] on everything that Flotilla owns.
pub const MANAGER: &str = "flotilla";
/// The recommended name label; the value is [`COMPONENT`].
pub const NAME: &str = "app.kubernetes.io/name";
/// What the pods are.
pub const COMPONENT: &str = "inference-server";
/// The recommended instance label; the value is the service's name.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// The recommended part-of label.
pub const PART_OF: &str = "app.kubernetes.io/part-of";

/// Selector: the InferenceService that a pod serves.
pub const SERVICE: &str = "flotilla.dev/service";
/// Selector: the pool (a GPU product with its sharing mode, or `cpu`) that a pod belongs to.
pub const POOL: &str = "flotilla.dev/pool";
/// Selector: the track (`stable`; later a canary's) that a pod belongs to.
pub const TRACK: &str = "flotilla.dev/track";
/// The track of the version that serves.
pub const STABLE: &str = "stable";

/// Annotation: digest of the desired object as applied last, so that a field which is no longer wanted is noticed.
pub const APPLIED_DIGEST: &str = "flotilla.dev/applied-digest";
/// Annotation: digest of the desired pod template, so that a change of it is known before it is applied.
pub const TEMPLATE_DIGEST: &str = "flotilla.dev/template-digest";

/// Annotation of the operator's Lease: where the leader's external scaler is.
pub const SCALER_ADDRESS: &str = "flotilla.dev/scaler-address";

/// GPU feature discovery: the product's name, with `-SHARED` or `-MIG-…` suffixes where the GPU is divided.
pub const GPU_PRODUCT: &str = "nvidia.com/gpu.product";
