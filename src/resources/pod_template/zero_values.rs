//! Values that the API server does not keep: `hostNetwork: false`, `initialDelaySeconds: 0` or `subPath: ""` mean the same as
//! nothing and are gone when the object is read back. Left in, they would look like drift on every visit.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

/// Booleans whose false is not kept. All others of a pod template, like `automountServiceAccountToken`, tell false from absent.
const FALSE: [&str; 7] = ["hostIPC", "hostNetwork", "hostPID", "readOnly", "stdin", "stdinOnce", "tty"];
/// Numbers whose 0 is not kept.
const ZERO: [&str; 6] =
    ["failureThreshold", "hostPort", "initialDelaySeconds", "periodSeconds", "successThreshold", "timeoutSeconds"];
/// Maps of the user's own keys, whose values may be empty, and texts that tell empty from absent.
const KEPT: [&str; 10] = [
    "annotations",
    "httpHeaders",
    "labels",
    "matchLabels",
    "mountPath",
    "nodeSelector",
    "overhead",
    "storageClassName",
    "values",
    "volumeAttributes",
];

/// The patch as the API server would give it back.
pub(super) fn drop_from(patch: &PodTemplateSpec) -> Result<PodTemplateSpec, serde_json::Error> {
    let mut value = serde_json::to_value(patch)?;
    drop_zero_values(&mut value);
    serde_json::from_value(value)
}

fn drop_zero_values(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| KEPT.contains(&key.as_str()) || !is_dropped(key, value));
            map.iter_mut()
                .filter(|(key, _)| !KEPT.contains(&key.as_str()))
                .for_each(|(_, value)| drop_zero_values(value));
        }
        Value::Array(list) => list.iter_mut().for_each(drop_zero_values),
        _ => {}
    }
}

fn is_dropped(key: &str, value: &Value) -> bool {
    match value {
        Value::Bool(false) => FALSE.contains(&key),
        Value::Number(number) => number.as_i64() == Some(0) && ZERO.contains(&key),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_means_nothing_goes_and_what_means_something_stays() {
        let given = json!({
            "metadata": {"labels": {"empty": ""}},
            "spec": {
                "hostNetwork": false, "automountServiceAccountToken": false, "serviceAccountName": "", "priority": 0,
                "nodeSelector": {"role": ""},
                "containers": [{
                    "name": "a", "tty": false, "env": [{"name": "E", "value": ""}],
                    "livenessProbe": {"initialDelaySeconds": 0, "httpGet": {"port": 1, "httpHeaders": [{"name": "X", "value": ""}]}},
                }],
            },
        });
        let expected = json!({
            "metadata": {"labels": {"empty": ""}},
            "spec": {
                "automountServiceAccountToken": false, "priority": 0,
                "nodeSelector": {"role": ""},
                "containers": [{
                    "name": "a", "env": [{"name": "E"}],
                    "livenessProbe": {"httpGet": {"port": 1, "httpHeaders": [{"name": "X", "value": ""}]}},
                }],
            },
        });
        let patch = drop_from(&serde_json::from_value(given).unwrap()).unwrap();
        assert_eq!(serde_json::to_value(patch).unwrap(), expected);
    }
}
