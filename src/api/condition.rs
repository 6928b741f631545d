//! Condition types and reasons as constants. All types are present from the first visit on.

/// The service answers: Available and nothing stands in the way of what was asked for.
pub const READY: &str = "Ready";
/// At least one replica is ready.
pub const AVAILABLE: &str = "Available";
/// What was asked for is being put in place.
pub const PROGRESSING: &str = "Progressing";
/// Hardware for the replicas was found.
pub const PLACED: &str = "Placed";
/// The replicas' metrics are read and fresh.
pub const METRICS_AVAILABLE: &str = "MetricsAvailable";
/// Flotilla writes the replicas.
pub const SCALING_ACTIVE: &str = "ScalingActive";
/// TensorRT engines would be built again by every new replica.
pub const ENGINE_CACHE_MISSING: &str = "EngineCacheMissing";
/// Nothing more will happen before somebody changes something (kstatus).
pub const STALLED: &str = "Stalled";

/// Every condition type, in the order of the status.
pub const ALL: [&str; 8] =
    [READY, AVAILABLE, PROGRESSING, PLACED, METRICS_AVAILABLE, SCALING_ACTIVE, ENGINE_CACHE_MISSING, STALLED];
