//! What holds across the objects: their names, what a change reaches, and that scaling reaches no pod.

use serde_json::{Value, json};

use super::*;
use crate::fixtures::validated;

pub(super) fn environment() -> Environment {
    Environment { operator_namespace: "flotilla-system".to_owned(), metrics_namespaces: vec!["monitoring".to_owned()] }
}

/// The metadata of an owned object of `default/photos`.
pub(super) fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "namespace": "default",
        "labels": {
            "app.kubernetes.io/name": "inference-server",
            "app.kubernetes.io/instance": "photos",
            "app.kubernetes.io/part-of": "flotilla",
            "app.kubernetes.io/managed-by": "flotilla",
        },
        "ownerReferences": [{
            "apiVersion": "flotilla.dev/v1alpha1", "kind": "InferenceService", "name": "photos", "uid": "uid-1",
            "controller": true, "blockOwnerDeletion": true,
        }],
    })
}

pub(super) fn built(spec: Value) -> Resources {
    build(&validated(spec), RolloutShape::REPLACE, &environment()).unwrap()
}
