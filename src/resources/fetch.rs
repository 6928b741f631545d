//! The init container that fetches the model of `model.source.uri`, into a volume that ends with the pod.
//!
//! Credentials go from the Secret to the container without passing the operator, under names with a prefix: no key of the
//! Secret can be another variable of the process.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EnvFromSource, ResourceRequirements, SecretEnvSource, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::server_pod::{MODEL_VOLUME, TERMINATION_LOG, restricted_security_context};
use crate::service::validate::MODEL_MOUNT;
use crate::service::{FetchedModel, ModelVolume, ValidatedService};

/// The container.
pub const CONTAINER: &str = "fetch-model";
/// Before the Secret's keys.
const SECRET_PREFIX: &str = "FLOTILLA_SOURCE_";
/// The volume beyond what the fetcher counts: folders, and its notes.
const SLACK_MEBIBYTES: u32 = 64;

/// The container, for a model that is fetched.
pub fn container(service: &ValidatedService) -> Option<Container> {
    let ModelVolume::Fetched(model) = &service.model.source else { return None };
    let mut args = vec![
        // Kubernetes would put a variable in the place of $(NAME).
        format!("--uri={}", model.uri.replace('$', "$$")),
        format!("--destination={}", service.model.path),
        format!("--max-bytes={}", u64::from(model.max_mebibytes) << 20),
    ];
    args.extend(model.sha256.iter().map(|sha256| format!("--sha256={sha256}")));
    let secret = model.secret_name.iter().map(|name| EnvFromSource {
        prefix: Some(SECRET_PREFIX.to_owned()),
        // A Secret that is not there keeps the container from starting, and the kubelet says so.
        secret_ref: Some(SecretEnvSource { name: name.clone(), optional: None }),
        config_map_ref: None,
    });
    Some(Container {
        name: CONTAINER.to_owned(),
        image: Some(model.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec!["flotilla-fetch".to_owned()]),
        args: Some(args),
        env_from: Some(secret.collect()).filter(|secrets: &Vec<_>| !secrets.is_empty()),
        // Bytes pass through: memory does not follow the model's size.
        resources: Some(ResourceRequirements {
            requests: Some(quantities([("cpu", "100m"), ("memory", "64Mi")])),
            limits: Some(quantities([("memory", "256Mi")])),
            claims: None,
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: MODEL_VOLUME.to_owned(),
            mount_path: MODEL_MOUNT.to_owned(),
            ..VolumeMount::default()
        }]),
        termination_message_path: Some(TERMINATION_LOG.to_owned()),
        termination_message_policy: Some("File".to_owned()),
        security_context: Some(restricted_security_context()),
        ..Container::default()
    })
}

/// Where the model is put: on the node's disk, and no more than what it may be.
pub fn volume(model: &FetchedModel) -> Volume {
    let size = model.max_mebibytes.saturating_add(SLACK_MEBIBYTES);
    Volume {
        empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(Quantity(format!("{size}Mi"))), medium: None }),
        ..Volume::default()
    }
}

fn quantities<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, Quantity> {
    pairs.into_iter().map(|(name, quantity)| (name.to_owned(), Quantity(quantity.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use crate::fixtures::validated;
    use crate::resources::server_pod;
    use serde_json::{Value, json};

    fn pod(uri: &Value) -> Value {
        let service = validated(json!({"model": {"source": {"image": null, "uri": uri}}}));
        serde_json::to_value(server_pod::build(&service, "s").spec).unwrap()
    }

    #[test]
    fn the_whole_container() {
        let sha256 = "ab".repeat(32);
        let pod = pod(
            &json!({"uri": "s3://models/clip", "sha256": sha256, "secretRef": {"name": "keys"}, "maxMebibytes": 100}),
        );
        assert_eq!(
            pod["initContainers"],
            json!([{
                "name": "fetch-model",
                "image": "flotilla/server:test",
                "imagePullPolicy": "IfNotPresent",
                "command": ["flotilla-fetch"],
                "args": ["--uri=s3://models/clip", "--destination=/mnt/model/entry", "--max-bytes=104857600", format!("--sha256={sha256}")],
                "envFrom": [{"prefix": "FLOTILLA_SOURCE_", "secretRef": {"name": "keys"}}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
                "volumeMounts": [{"name": "model", "mountPath": "/mnt/model"}],
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true},
            }])
        );
        assert_eq!(pod["volumes"][0], json!({"name": "model", "emptyDir": {"sizeLimit": "164Mi"}}));
        let server = &pod["containers"][0];
        assert_eq!(server["volumeMounts"][0], json!({"name": "model", "mountPath": "/mnt/model", "readOnly": true}));
    }

    #[test]
    fn a_public_model_needs_no_secret_and_other_sources_no_fetcher() {
        let public = pod(&json!({"uri": "https://example.com/clip.onnx"}));
        assert_eq!(public["initContainers"][0].get("envFrom"), None);
        assert_eq!(public["initContainers"][0]["args"][2], "--max-bytes=17179869184");
        let image = server_pod::build(&validated(json!({})), "s").spec.unwrap();
        assert_eq!(image.init_containers, None);
    }
}
