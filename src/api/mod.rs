//! The public contract: the types of `flotilla.dev/v1alpha1` and nothing else. No I/O, no decisions.
//!
//! A field stands here only once setting, changing and unsetting it has an effect that a test shows.

pub mod condition;
pub mod labels;
pub mod model;
pub mod placement;
pub mod runtime;
pub mod scaling;
mod schema;
pub mod spec;
pub mod status;

pub use spec::{InferenceService, InferenceServiceSpec};
pub use status::InferenceServiceStatus;

/// API group of every kind here.
pub const GROUP: &str = "flotilla.dev";

/// Field manager of everything that the apply step writes.
pub const APPLY_MANAGER: &str = "flotilla";
/// Field manager of `/scale`: the only writer of replicas.
pub const SCALE_MANAGER: &str = "flotilla-scaler";
/// Field manager of `/status`.
pub const STATUS_MANAGER: &str = "flotilla-status";
