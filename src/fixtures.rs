//! Objects for tests, from the smallest manifest that a user could write.

use serde_json::{Value, json};

use crate::api::InferenceService;
use crate::service::{Defaults, ValidatedService, validate};

/// The operator's defaults in tests.
pub(crate) fn defaults() -> Defaults {
    Defaults { server_image: "flotilla/server:test".to_owned() }
}

/// The smallest service, `default/photos`, with `spec` merged over it.
pub(crate) fn service(spec: Value) -> InferenceService {
    let mut object = json!({
        "apiVersion": "flotilla.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "photos", "namespace": "default", "uid": "uid-1", "generation": 1},
        "spec": {"model": {"source": {"image": {"reference": "example/model:1", "path": "model"}}}},
    });
    merge(&mut object["spec"], spec);
    serde_json::from_value(object).unwrap()
}

/// [`service`], validated.
pub(crate) fn validated(spec: Value) -> ValidatedService {
    validate(&service(spec), &defaults()).unwrap()
}

/// Merges objects; an empty object replaces, so that a test can take something away.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) if !from.is_empty() => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, Value::Object(from))
            if from.is_empty() && into.as_object().is_some_and(|into| into.contains_key("model")) => {}
        (into, from) => *into = from,
    }
}
