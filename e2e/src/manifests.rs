//! The manifests that tests start from.

use serde_json::{Value, json};

/// The model of the timer device: a batch of `b` takes 5 ms * b + 10 ms.
pub const TIMER_IMAGE: &str = "flotilla/model-timer:1";
/// A model file that is no ONNX.
pub const BROKEN_IMAGE: &str = "flotilla/model-broken:1";

/// An `InferenceService` with the timer device on a Cpu pool, reachable from the host, with `spec` merged over it.
pub fn timer(name: &str, spec: &Value) -> Value {
    let base = json!({
        "apiVersion": "flotilla.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": {"image": {"reference": TIMER_IMAGE, "path": "model"}}},
            "runtime": {
                "executionProvider": "Cpu",
                "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
            },
            "service": {"type": "NodePort"},
        },
    });
    patched(&base, &json!({"spec": spec}))
}

/// `base` with the JSON merge patch `patch`: null removes.
pub fn patched(base: &Value, patch: &Value) -> Value {
    let (Value::Object(base), Value::Object(patch)) = (base, patch) else { return patch.clone() };
    let mut merged = base.clone();
    for (key, value) in patch {
        if value.is_null() {
            merged.remove(key);
        } else {
            let old = merged.get(key).cloned().unwrap_or_else(|| json!({}));
            merged.insert(key.clone(), patched(&old, value));
        }
    }
    Value::Object(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_sets_changes_and_removes() {
        let base = json!({"a": 1, "b": {"c": 2, "d": 3}});
        let patch = json!({"a": 5, "b": {"c": null, "e": [1]}});
        assert_eq!(patched(&base, &patch), json!({"a": 5, "b": {"d": 3, "e": [1]}}));
    }
}
